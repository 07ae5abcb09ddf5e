"""What a device sends does not depend on how many others there are; and it does not know them all."""

import json
from collections import Counter

import pytest

from gossip.membership.view import GUESTS_MAX, KNOWN_MAX, LINKS_MAX
from node.virtual.swarm import cryptography
from scenarios.cli import simulate
from scenarios.plan import plan
from scenarios.spec.scenario import VIRTUAL_DEVICES_MAX, find_scenario
from scenarios.virtual.protocol_only import ProtocolRun


class Mute:
    def show(self, snapshot):
        pass

    def say(self, line):
        pass


def ran(nodes: int, until_s: float, crypto="real", seed: int | None = None) -> ProtocolRun:
    run = ProtocolRun(
        plan(find_scenario("scale"), nodes=nodes, seed=seed, devices_max=VIRTUAL_DEVICES_MAX),
        Mute(),
        until_s,
        crypto=crypto,
    )
    run.go()
    return run


def test_four_times_the_devices_cost_a_device_no_more_for_a_round():
    costs = []
    for nodes in (70, 280):
        run = ran(nodes, 40)
        report = run.report()
        assert report.problem == ""
        assert report.rounds >= 3
        costs.append(report.bytes_per_device / report.rounds)
        for device in run.world.devices:
            membership = device.core._membership
            assert len(membership.known) <= KNOWN_MAX
            assert len(membership._guests) <= GUESTS_MAX
        history, cohorts = run.world.devices[0].core._history, run._plan.swarm.cohorts
        sums = [len(history.counting(round_)) for round_ in range(1, history.round + 1)]
        assert max(sums) <= 3 * cohorts.sums
        assert max(history.counts(64)) <= 3 * cohorts.sums * cohorts.n_max
    assert costs[1] < 1.25 * costs[0]


def test_the_same_seed_gives_the_same_trace():
    assert ran(70, 12).report().trace_sha256 == ran(70, 12).report().trace_sha256


def test_nearly_all_look_for_the_same_leader_and_know_where_it_is():
    """Where each asked whom it happened to know, READYs of 5,000 devices went around for half a minute."""
    alike = 0
    with cryptography("sized"):
        for seed in range(3):
            cores = [device.core for device in ran(280, 40, "sized", seed).world.devices]
            asked = Counter(core._rendezvous._leaders(core._history.round + 1)[0] for core in cores)
            assert all(core._turns.candidates() for core in cores)
            alike += max(asked.values())
    assert alike > 0.9 * 3 * 280


def test_connections_that_cohorts_left_behind_are_let_go():
    run = ran(70, 120)
    neighbours = [len(device.core._membership.neighbours) for device in run.world.devices]
    assert sum(neighbours) / len(neighbours) <= LINKS_MAX + 8


@pytest.mark.parametrize("nodes", [12, 70])
def test_sized_cryptography_gives_the_rounds_and_bytes_of_the_real_one(nodes):
    real = ran(nodes, 40).report()
    with cryptography("sized"):
        sized = ran(nodes, 40, crypto="sized").report()
    assert (real.crypto, sized.crypto) == ("real", "sized")
    assert sized.rounds == real.rounds > 2
    assert sized.bytes_per_device == real.bytes_per_device
    assert sized.sent_by_kind == real.sent_by_kind
    assert sized.events == real.events
    assert sized.trace_sha256 != real.trace_sha256  # masks and envelopes


def test_a_sized_run_says_so_wherever_it_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = tmp_path / "told.json"
    options = {"nodes": 8, "until_s": 3.0, "json": told, "report": tmp_path / "page"}
    simulate("scale", crypto="sized", **options)
    shown = capsys.readouterr()
    assert "WARNING: SIZED CRYPTOGRAPHY" in shown.err.splitlines()[1]
    assert "s  SIZED CRYPTOGRAPHY  virtual second" in shown.err
    assert "SIZED CRYPTOGRAPHY in gossamer" in shown.out
    assert "devices in virtual time (SIZED CRYPTOGRAPHY)" in shown.out
    assert [run["crypto"] for run in json.loads(told.read_text())["runs"]] == ["sized"]
    assert "Sized cryptography" in (tmp_path / "page" / "index.html").read_text()
    simulate("scale", **options)
    shown = capsys.readouterr()
    assert "SIZED" not in shown.err + shown.out
    assert [run["crypto"] for run in json.loads(told.read_text())["runs"]] == ["real"]
