"""The log is one JSON line an event, bounded, and says only what we said; figures are figures or None."""

import json
import logging
import os
import subprocess
import sys

from node.telemetry import TEXT_CHARACTERS_MAX, logging_to, process_figures


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_with_its_fields(tmp_path):
    with logging_to(tmp_path / "daemon.log", "info", foreground=False) as log:
        log.info(
            "folded", round=3, id=b"\x01\xff", roster=[b"\x02", None], loss=float("nan"), took_s=0.5, ok=True
        )
    (line,) = lines(tmp_path / "daemon.log")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "gossamer",
        "event": "folded",
        "round": 3,
        "id": "01ff",
        "roster": ["02", None],
        "loss": "nan",
        "took_s": 0.5,
        "ok": True,
    }


def test_events_below_the_level_and_other_libraries_chatter_are_left_out(tmp_path):
    with logging_to(tmp_path / "daemon.log", "warning", foreground=False) as log:
        log.info("quiet")
        log.warning("loud")
        logging.getLogger("some.library").info("chatter")
        logging.getLogger("some.library").error("trouble with %s", "a stream")
    assert [(line["logger"], line["event"]) for line in lines(tmp_path / "daemon.log")] == [
        ("gossamer", "loud"),
        ("some.library", "trouble with a stream"),
    ]


def test_an_exception_is_told_with_its_trace(tmp_path, capsys):
    with logging_to(tmp_path / "daemon.log", "info", foreground=True) as log:
        try:
            raise ValueError("one\ntwo")
        except ValueError:
            log.exception("broken")
            logging.getLogger("some.library").exception("broken too")
    ours, theirs = lines(tmp_path / "daemon.log")
    assert ours["exception"].endswith("ValueError: one\ntwo")
    assert theirs["exception"] == ours["exception"]
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].endswith(" error   broken")
    assert "    | two" in shown


def test_in_the_foreground_people_read_it_on_stderr(tmp_path, capsys):
    with logging_to(tmp_path / "daemon.log", "info", foreground=True) as log:
        log.info("round folded", round=3, aggregate=b"\x01")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err[8:] == " info    round folded  round=3  aggregate=01\n"
    assert len(lines(tmp_path / "daemon.log")) == 1


def test_in_the_background_stderr_stays_silent(tmp_path, capsys):
    with logging_to(tmp_path / "daemon.log", "info", foreground=False) as log:
        log.warning("loud")
    assert capsys.readouterr() == ("", "")


def test_what_a_peer_wrote_forges_no_line_and_drives_no_terminal(tmp_path, capsys):
    evil = 'x\n{"event": "forged"}\r\x1b[2J\u202e\x00'
    with logging_to(tmp_path / "daemon.log", "info", foreground=True) as log:
        log.info("refused", reason=evil, among=[evil])
        log.info(evil)
    raw = (tmp_path / "daemon.log").read_text()
    shown = capsys.readouterr().err
    for text in (raw, shown):
        assert text.count("\n") == 2
        assert all(character == "\n" or character.isprintable() for character in text)
    assert lines(tmp_path / "daemon.log")[0]["reason"] == evil


def test_a_text_without_end_is_cut(tmp_path):
    with logging_to(tmp_path / "daemon.log", "info", foreground=False) as log:
        log.info("refused", reason="x" * 100_000, data=b"x" * 100_000)
    (line,) = lines(tmp_path / "daemon.log")
    assert line["reason"] == "x" * TEXT_CHARACTERS_MAX + "..."
    assert len(line["data"]) == TEXT_CHARACTERS_MAX + 3


def test_the_log_as_a_whole_stays_within_its_bound(tmp_path):
    with logging_to(
        tmp_path / "daemon.log", "info", foreground=False, file_bytes_max=2000, files_kept=2
    ) as log:
        for number in range(200):
            log.info("tick", number=number)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["daemon.log", "daemon.log.1", "daemon.log.2"]
    assert sum(file.stat().st_size for file in files) <= 3 * 2000
    assert lines(tmp_path / "daemon.log")[-1]["number"] == 199


def test_a_log_that_ends_lets_go_of_its_file(tmp_path):
    before = logging.getLogger().handlers[:]
    with logging_to(tmp_path / "daemon.log", "info", foreground=True):
        assert len(logging.getLogger().handlers) == len(before) + 2
    assert logging.getLogger().handlers == before


def test_a_process_costs_time_and_memory():
    figures = process_figures(os.getpid())
    assert figures["cpu_s"] > 0
    assert figures["rss_mb"] > 5
    if sys.platform == "linux":
        assert 0 < figures["pss_mb"] <= figures["rss_mb"] * 1.5


def test_a_process_that_is_gone_costs_nothing_that_we_know_of():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    assert process_figures(gone.pid) == {"cpu_s": None, "pss_mb": None, "rss_mb": None}
