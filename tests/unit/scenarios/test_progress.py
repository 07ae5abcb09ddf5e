"""Progress: a bar on a terminal; where nothing can move a line at each change of stage, and every few seconds."""

import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from scenarios.processes import run as processes_run
from scenarios.reports.progress import (
    BAR_CHARACTERS,
    LINE_EVERY_S,
    PlainDisplay,
    Snapshot,
    VirtualSnapshot,
    display,
)

SNAPSHOT = Snapshot("training", 10.0, 7, 8, 3, 40, 0.5, 2_500_000)
VIRTUAL = VirtualSnapshot("gossamer", 90.0, 8, 8, 3, 40, 0.5, 80_000, virtual_s=12.0, target=0.84)


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


def test_a_line_of_virtual_time_tells_how_far_it_is_to_the_target():
    assert " ".join(str(VIRTUAL).split()) == (
        "12.0 virtual s gossamer round 3 accuracy 50.0 % of 84.0 % 10 KB sent a device 90 s"
    )
    assert str(dataclasses.replace(VIRTUAL, left_s=270.0)).endswith("90 s  about 4 min to go")
    assert "round 3/40  accuracy 50.0 %  10 KB" in str(dataclasses.replace(VIRTUAL, target=None))


def test_what_is_done_is_known_where_the_end_is():
    assert dataclasses.replace(VIRTUAL, left_s=270.0).done == pytest.approx(0.25)
    assert dataclasses.replace(VIRTUAL, left_s=0.0).done == 1.0
    assert dataclasses.replace(VIRTUAL, at_s=0.0, left_s=0.0).done == 0.0
    assert VIRTUAL.done is None


@pytest.mark.parametrize(("left_s", "full"), [(0.0, BAR_CHARACTERS), (90.0, BAR_CHARACTERS // 2)])
def test_a_terminal_shows_a_bar(left_s, full):
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=140, color_system=None, legacy_windows=False)
    with display(console) as shown:
        shown.say("run 1 of 2")
        shown.show(dataclasses.replace(VIRTUAL, left_s=left_s))
    bars = [line for line in written.getvalue().splitlines() if "virtual s" in line]
    assert "run 1 of 2" in written.getvalue()
    assert bars
    assert bars[-1].count("━") == full


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


@pytest.mark.parametrize(("round_", "left_s"), [(0, None), (10, 90.0), (40, None)])
def test_of_daemons_there_is_no_telling_before_their_first_round_nor_while_replicas_are_compared(
    round_, left_s
):
    status = SimpleNamespace(accuracy=0.5, round=round_, traffic=SimpleNamespace(sent=1000))
    daemon = SimpleNamespace(heard=status, all_heard=lambda: [status])
    shown: list[Snapshot] = []
    run = SimpleNamespace(
        _up=[daemon],
        daemons=[daemon],
        plan=SimpleNamespace(rounds=40, devices=[daemon]),
        stage="training",
        _now_s=30.0,
        display=SimpleNamespace(show=shown.append),
    )
    processes_run.Run._show(run)
    assert [snapshot.left_s for snapshot in shown] == [left_s]
