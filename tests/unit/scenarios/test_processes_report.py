"""The report: true sums, honest words, and a verdict that a swarm cannot talk its way out of."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from scenarios.reports.processes import (
    AggregateReport,
    Bytes,
    CutReport,
    FaultReport,
    Moment,
    NodeReport,
    Parts,
    ReportError,
    SideReport,
    SwarmReport,
    print_report,
    problems,
    statements,
    write_json,
)

NAMES = ("Ada", "Bruno", "Chidi", "Dalia")


def node(index, **changes):
    fields = {
        "name": NAMES[index],
        "peer_id": f"peer {index}",
        "accuracy_alone": 0.5,
        "accuracy_swarm": 0.75,
        "replica_sha256": "ab" * 32,
        "history_digest": "cd" * 8,
        "steps": 1200,
        "bytes_sent": 400_000,
        "bytes_received": 600_000,
        "contributions": 20,
        "cohorts_aborted": 0,
        "cpu_s": Parts(2.0, 3.0),
        "pss_mb": Parts(80.0, 200.0),
    }
    return NodeReport(**fields | changes)


def aggregate(round_, contributors=4):
    peers = [f"peer {index}" for index in range(4)]
    return AggregateReport(f"{round_:064x}", round_, peers, peers[:contributors], 1000, 7000)


def report(**changes):
    fields = {
        "scenario": "test",
        "task": "watch",
        "test": "strangers",
        "seed": 1,
        "wall_s": 61.5,
        "rounds": 20,
        "n_min": 3,
        "nodes": [node(index) for index in range(4)],
        "aggregates": [aggregate(round_) for round_ in range(1, 21)],
        "bytes_by_kind": {"MASKED": Bytes(1_200_000, 1_200_000), "READY": Bytes(40_000, 40_000)},
        "phases_s": {"READY to SHARES": 0.5, "READY to SETTLED": 9.0, "SHARES to KEYS_SET": 0.25},
        "faults": [],
        "homes": None,
    }
    return SwarmReport(**fields | changes)


def printed(shown, **options):
    out = io.StringIO()
    print_report(shown, Console(file=out, **options))
    return out.getvalue()


def test_a_good_run_has_no_problems():
    assert problems(report()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": [node(0), node(1, replica_sha256="00" * 32)]}, "THE REPLICAS DIFFER: Ada abababababab; Bruno 0000"),
        ({"nodes": [node(0), node(1, history_digest="00" * 8)]}, "do not know the same aggregates"),
        ({"aggregates": []}, "no sum was made"),
        ({"aggregates": [aggregate(7, contributors=2)]}, "of round 7 has 2 contributors, fewer than 3"),
        ({"faults": [FaultReport("kill Ada", None, None, None)]}, "this fault never happened: kill Ada"),
    ],
)  # fmt: skip
def test_each_broken_promise_is_a_problem(changes, words):
    (problem,) = problems(report(**changes))
    assert words in problem


def test_what_was_hidden_is_told_by_the_smallest_sum():
    shown = report(aggregates=[aggregate(1), aggregate(2, contributors=3), aggregate(3)])
    assert any("hid each update among at least 2 others (3 sums" in line for line in statements(shown))


def test_nothing_is_said_to_be_equal_or_hidden_that_is_not():
    words = "\n".join(statements(report(aggregates=[], nodes=[node(0), node(1, replica_sha256="00" * 32)])))
    assert "hid" not in words
    assert "same to the last bit" not in words


def test_bytes_a_round_are_told_by_kind_with_libp2ps_part_as_the_rest():
    """1.6 MB crossed the sockets, 1.24 MB of them are messages; 4 devices had 20 rounds."""
    (line,) = (line for line in statements(report()) if line.startswith("KB that"))
    assert "MASKED 15.0  READY 0.5  encryption and libp2p 4.5." in line


def test_connections_are_told_by_route_where_some_leave_the_local_network():
    nodes = [
        node(0, routes={"Bruno": "direct", "Chidi": "relay"}),
        node(1, routes={"Ada": "direct", "Chidi": "lan"}, relayed_bytes=1_200_000),
        node(2, routes={"Ada": "relay", "Bruno": "lan"}),
    ]
    told = "Connections at the end: 1 direct, 1 lan, 1 relay. Relays carried 1.2 MB."
    assert told in statements(report(nodes=nodes))
    at_home = [node(0, routes={"Bruno": "lan"}), node(1, routes={"Ada": "lan"})]
    assert not [line for line in statements(report(nodes=at_home)) if "Connections" in line]


def test_a_sums_phases_are_told_without_its_detours():
    assert "Seconds of a secure sum by phase: READY to SHARES 0.50  SHARES to KEYS_SET 0.25." in statements(
        report()
    )


def test_the_table_has_a_row_a_device_and_means_and_totals():
    shown = printed(report(nodes=[node(0), node(1, accuracy_swarm=0.85, cpu_s=Parts(1.0, None))]))
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert "50.0 %" in rows["Ada"]
    assert "+25.0" in rows["Ada"]
    assert "2 + 3" in rows["Ada"]
    assert "1 + -" in rows["Bruno"]
    assert "80.0 %" in rows["mean, total"]
    assert "+30.0" in rows["mean, total"]
    assert "3 + -" in rows["mean, total"]
    assert "40.0" in rows["mean, total"]


def test_text_from_a_scenario_is_no_markup():
    assert "[red]" in printed(report(scenario="[red]", test="[/red]"))


def test_the_file_holds_every_figure_by_its_name(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("old")
    write_json(report(), path)
    told = json.loads(path.read_text())
    assert {"scenario", "seed", "wall_s", "rounds", "nodes", "aggregates"} <= told.keys()
    assert {
        *("name", "peer_id", "accuracy_alone", "accuracy_swarm", "replica_sha256", "bytes_sent"),
        *("bytes_received", "contributions", "cohorts_aborted", "cpu_s", "pss_mb"),
    } <= told["nodes"][0].keys()
    assert told["nodes"][0]["pss_mb"] == {"daemon": 80.0, "trainer": 200.0}
    assert {"id", "round", "roster", "contributors", "weight"} <= told["aggregates"][0].keys()
    assert msgspec.json.decode(path.read_bytes(), type=SwarmReport) == report()


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(tmp_path):
    occupied = tmp_path / "r.json"
    occupied.mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_json(report(), occupied)
    assert list(tmp_path.iterdir()) == [occupied]


def cut(**changes):
    fields = {
        "cut": "cut south off in round 5 for 10 rounds",
        "began": Moment(20.4, 5),
        "healed": Moment(60.2, 15),
        "sides": [
            SideReport(["north", "west"], ["Ada", "Bruno"], 14, 0.5),
            SideReport(["south"], ["Chidi"], 15, 0.625),
        ],
        "equal": Moment(66.2, 17),
        "rounds_to_equal": 2,
        "accuracy_equal": 0.75,
    }
    return CutReport(**fields | changes)


def test_a_cut_is_told_with_what_both_sides_had_and_when_all_were_equal():
    assert problems(report(cuts=(cut(),))) == []
    told = statements(report(cuts=(cut(),)))
    assert told[-4:] == [
        "Cut: cut south off in round 5 for 10 rounds: from 20 s (round 5) to 60 s (round 15).",
        "Just before, north and west (2 devices) were in round 14 at 50.0 %.",
        "Just before, south (1 devices) were in round 15 at 62.5 %.",
        "All replicas were equal 6 s and 2 rounds later, at 75.0 %.",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"began": None, "healed": None, "equal": None}, "this cut never happened: cut south"),
        ({"healed": None, "equal": None}, "this cut never ended: cut south"),
        ({"equal": None}, "after this cut the replicas were never seen equal: cut south"),
    ],
)
def test_a_cut_that_did_not_come_to_its_end_is_a_problem(changes, words):
    (found,) = problems(report(cuts=(cut(**changes),)))
    assert found.startswith(words)
