"""A device that restarts, and knows nobody by its settings, finds its swarm by what it remembers."""

from tests.simulation.harness import World


def test_a_restarted_device_dials_whom_it_knew():
    world = World(31, 4)
    world.run(10)
    device = world.devices[2]
    assert len(device.disk["presence"]) == 3
    world.crash(device)
    honest = world._linked
    world._linked = lambda one, other: False  # nobody dials it meanwhile
    world.boot(device)
    core = device.core
    core._membership._bootstrap = {}
    world._linked = honest
    assert not core._membership.neighbours
    assert world.run(30, until=lambda: len(core._membership.neighbours) == 3)
