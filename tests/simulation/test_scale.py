"""What a device sends does not depend on how many others there are; and it does not know them all."""

from gossip.membership import GUESTS_MAX, KNOWN_MAX, LINKS_MAX
from scenarios.protocol_only import ProtocolRun
from scenarios.spec import VIRTUAL_DEVICES_MAX, find_scenario, plan


class Mute:
    def show(self, snapshot):
        pass

    def say(self, line):
        pass


def ran(nodes: int, until_s: float) -> ProtocolRun:
    run = ProtocolRun(
        plan(find_scenario("scale"), nodes=nodes, devices_max=VIRTUAL_DEVICES_MAX), Mute(), until_s
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
        counts = run.world.devices[0].core._history.counts(64)
        assert max(counts) <= 3 * run._plan.swarm.cohorts.sums
    assert costs[1] < 1.25 * costs[0]


def test_the_same_seed_gives_the_same_trace():
    assert ran(70, 12).report().trace_sha256 == ran(70, 12).report().trace_sha256


def test_connections_that_cohorts_left_behind_are_let_go():
    run = ran(70, 120)
    neighbours = [len(device.core._membership.neighbours) for device in run.world.devices]
    assert sum(neighbours) / len(neighbours) <= LINKS_MAX + 8
