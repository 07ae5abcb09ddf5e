"""Progress where nothing can move: a line at each change of stage, and every few seconds."""

import dataclasses

from scenarios.progress import LINE_EVERY_S, PlainDisplay, Snapshot

SNAPSHOT = Snapshot("training", 10.0, 7, 8, 3, 40, 0.5, 2_500_000)


def test_a_line_holds_what_a_person_waits_for():
    assert str(SNAPSHOT).split() == (
        [
            "10",
            "s",
            "training",
            "devices",
            "7/8",
            "round",
            "3/40",
            "accuracy",
            "50.0",
            "%",
            "sent",
            "2.5",
            "MB",
        ]
    )
    assert "accuracy   -" in str(dataclasses.replace(SNAPSHOT, accuracy=None))
    assert "s  SIZED  training" in str(dataclasses.replace(SNAPSHOT, note="SIZED"))


def test_lines_come_at_each_stage_and_then_now_and_again():
    lines = []
    display = PlainDisplay(lines.append)
    times = [10.0, 10.1, 10.0 + LINE_EVERY_S, 10.1 + LINE_EVERY_S]
    for at_s in times:
        display.show(dataclasses.replace(SNAPSHOT, at_s=at_s))
    assert len(lines) == 2
    display.show(dataclasses.replace(SNAPSHOT, at_s=10.2 + LINE_EVERY_S, stage="stopping"))
    display.say("Ada: goes on")
    assert [line.split()[2] for line in lines[2:3]] == ["stopping"]
    assert lines[3:] == ["Ada: goes on"]


def test_a_second_run_has_lines_before_it_lasts_as_long_as_the_first():
    lines = []
    display = PlainDisplay(lines.append)
    for at_s in (1.0, 400.0, 2.0, 2.0 + LINE_EVERY_S / 2, 2.0 + LINE_EVERY_S):
        display.show(dataclasses.replace(SNAPSHOT, at_s=at_s))
    assert [float(line.split()[0]) for line in lines] == [1.0, 400.0, 2.0, round(2.0 + LINE_EVERY_S)]
