"""The table of a simulation: algorithms apart, and what was not real said first."""

import io

from rich.console import Console

from scenarios.reports.virtual import RunReport, SimulationReport, cautions, print_simulation, statements


def run(algorithm="gossamer", seed=0, **changes):
    fields = {
        "algorithm": algorithm,
        "seed": seed,
        "masks": True,
        "reached": True,
        "time_s": 41.0,
        "bytes_per_device": 210_000.0,
        "local_steps_per_device": 80.0,
        "final_accuracy": 0.81,
        "worst_accuracy": 0.7,
        "rounds": 10,
        "trace_sha256": f"{seed:064x}",
        "wall_s": 3.0,
        "training_wall_s": 2.0,
        "sent_per_device": 100_000.0,
        "sent_by_kind": {"MASKED": 80_000.0},
        "events": 1000,
        "problem": "",
    }
    return RunReport(**fields | changes)


def printed(*runs):
    out = io.StringIO()
    print_simulation(SimulationReport("test", 100, 0.8, "strangers", list(runs)), Console(file=out))
    return out.getvalue()


def test_each_algorithm_has_its_rows_and_its_mean():
    shown = printed(
        run(time_s=40.0),
        run("fedavg", time_s=1000.0, sent_by_kind={}),
        run(seed=1, time_s=42.0),
        run("fedavg", 1, time_s=1500.0, sent_by_kind={}),
    )
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in shown.splitlines() if "│" in line]
    assert rows == [
        ["gossamer", "0", "yes", "40.0"],
        ["gossamer", "1", "yes", "42.0"],
        ["gossamer", "mean", "yes", "41.0"],
        ["fedavg", "0", "yes", "1000.0"],
        ["fedavg", "1", "yes", "1500.0"],
        ["fedavg", "mean", "yes", "1250.0"],
    ]
    assert shown.count("KB that a device sends a round") == 1
    assert "fedavg, seed 1: the trace is" in shown


def test_what_was_not_real_is_said_before_any_figure():
    true = SimulationReport("test", 100, 0.8, "strangers", [run()])
    assert cautions(true) == []
    assert "keys, masks and bytes are real" in statements(true)[0]
    shown = printed(run(), run("fedavg", masks=False), run(seed=1, crypto="sized"))
    first, second = shown.splitlines()[:2]
    assert first.startswith("MASKS OFF in fedavg")
    assert second.startswith("SIZED CRYPTOGRAPHY in gossamer")
    assert "are real" not in shown
    assert "devices in virtual time, to 80.0 % (SIZED CRYPTOGRAPHY)" in shown
    assert "(SIZED" not in printed(run())
