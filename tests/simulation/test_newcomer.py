"""A newcomer to a swarm with a long history: by checkpoint, with the same bits, whoever lies about it, and after a restart."""

import msgspec
import numpy as np
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.history import checkpoint, checkpoint_sync
from gossip.wire import pack
from node.virtual.device import Hardware
from node.virtual.swarm import VirtualSwarm
from tests.simulation.harness import tiny_initial, tiny_swarm
from tests.simulation.test_cuts import Steps
from tests.simulation.test_virtual_driver import a_swarm, body

pytestmark = pytest.mark.timeout(300)

ROUNDS = 40
LAST = 6


@pytest.fixture
def world(monkeypatch):
    """Six devices with a history of so many rounds; the seventh has not come yet."""
    monkeypatch.setattr(checkpoint_sync, "BEHIND_ROUNDS", 20)
    reports = []
    made = a_swarm(
        7,
        hardware=lambda index: body(index, on_at_s=1e9 if index == LAST else 0.2 * index),
        report=lambda now, index, report: reports.append((index, report)),
    )
    made.reports = reports
    made.run(300, stop=lambda: made.events % 32 == 0 and round_of(made, 0) >= ROUNDS)
    return made


def round_of(world, index):
    return world.devices[index].core._history.round


def told(world, name):
    return [(index, report.fields) for index, report in world.reports if report.name == name]


def become_equal(world, within_s=30):
    def equal():
        return len({device.core._history.digest() for device in world.devices if device.core}) == 1

    world.run(world.now + within_s, stop=lambda: world.events % 8 == 0 and equal())
    assert equal()
    assert len({device.core._replica.sha256() for device in world.devices}) == 1


def is_by_checkpoint(world):
    history = world.devices[LAST].core._history
    return len(history.held()) < len(history)


def test_a_newcomer_ends_with_the_same_bits_and_trains_on(world):
    newcomer = world.devices[LAST]
    world.switch_on(newcomer)
    become_equal(world)
    ((index, facts),) = told(world, "caught_up")
    assert (index, facts["from"], facts["round"]) == (LAST, 0, 32)
    assert is_by_checkpoint(world)
    world.run(world.now + 60)
    assert newcomer.core.status(world.now)["contributions"] > 0
    assert round_of(world, LAST) > 64, "also in rounds whose state it had to sign"
    assert not told(world, "violation")
    assert not told(world, "cannot_lead")
    assert len(newcomer.core.aggregates()) == len(newcomer.core._history.held())
    become_equal(world)


def test_it_is_the_same_after_a_restart(world):
    newcomer = world.devices[LAST]
    world.switch_on(newcomer)
    become_equal(world)
    world.run(world.now + 0.5)
    history = newcomer.core._history
    world.switch_off(newcomer)
    world.switch_on(newcomer)
    again = newcomer.core._history
    assert (again.round, len(again), len(again.held())) == (history.round, len(history), len(history.held()))
    assert is_by_checkpoint(world)
    become_equal(world)
    assert len(told(world, "caught_up")) == 1


def test_what_it_knew_before_is_not_lost(world):
    """It was there at the beginning, alone and with others."""
    was_there = world.devices[1]
    world.switch_off(was_there)
    held = round_of(world, 0)
    world.run(world.now + 200, stop=lambda: world.events % 32 == 0 and round_of(world, 0) >= held + 40)
    world.switch_on(was_there)
    assert was_there.core._history.round >= held - 1
    before = was_there.core._history.held()
    world.run(world.now + 30, stop=lambda: any(index == 1 for index, _ in told(world, "caught_up")))
    assert len(told(world, "caught_up")) == 1
    assert {each.id for each in before} <= {each.id for each in was_there.core._history.held()}
    world.switch_on(world.devices[LAST])
    become_equal(world)


def lie(device):
    """This one hands out another model than the members signed."""
    catch_up = device.core._sync._catch_up

    def make(signed):
        true = device.core._take_checkpoint(signed.body.parents)
        x = np.frombuffer(true.x, "<i8").copy()
        x[0] += 1 << 20
        catch_up._made[signed.id] = pack(msgspec.structs.replace(true, x=x.tobytes()))
        return True

    catch_up._make = make


def test_a_wrong_model_is_found_out_and_blamed(world):
    liars = world.devices[:3]
    for device in liars:
        lie(device)
    world.switch_on(world.devices[LAST])
    become_equal(world, 60)
    violations = [facts for index, facts in told(world, "violation") if index == LAST]
    assert violations
    assert {facts["peer"] for facts in violations} <= {device.key.hex()[:16] for device in liars}
    assert all("not the state" in facts["reason"] for facts in violations)


def test_where_all_lie_everything_is_pulled(world):
    for device in world.devices[:LAST]:
        lie(device)
    world.switch_on(world.devices[LAST])
    become_equal(world, 90)
    assert told(world, "violation")
    assert not told(world, "caught_up")
    assert not is_by_checkpoint(world)


def test_without_the_check_a_wrong_model_would_be_seen(world, monkeypatch):
    """The planted bug: whoever takes what it is given."""
    for device in world.devices[:LAST]:
        lie(device)
    monkeypatch.setattr(
        checkpoint,
        "state_root",
        lambda taken, honest=checkpoint.state_root: next(
            (
                known.body.state
                for known in world.devices[0].core._history.held()
                if known.body.round == len(taken.rounds) + 1
            ),
            honest(taken),
        ),
    )
    world.switch_on(world.devices[LAST])
    with pytest.raises(AssertionError):
        become_equal(world)


def test_where_factors_travel_the_last_round_of_the_checkpoint_is_fetched_and_kept(monkeypatch):
    """Its bodies are the basis of the first round that the newcomer folds."""
    monkeypatch.setattr(checkpoint_sync, "BEHIND_ROUNDS", 20)
    identities = [Identity(digest("device", bytes([index]))) for index in range(6)]
    world = VirtualSwarm(
        seed=1,
        swarm=tiny_swarm(identities[0], [each.public_key for each in identities], codec="lowrank"),
        initial=tiny_initial(),
        devices=[
            (each, Hardware(step_s=0.5, on_at_s=0.1 * index if index < 5 else 1e9))
            for index, each in enumerate(identities)
        ],
        phases=Steps(1),
    )
    world.run(300, stop=lambda: world.events % 32 == 0 and round_of(world, 0) >= ROUNDS)
    newcomer = world.devices[5]
    world.switch_on(newcomer)
    become_equal(world)
    base = newcomer.core._history._base_round
    assert base >= 31
    assert newcomer.core._history.counted(base) == (), "the round before it would be needed"
    first = newcomer.core._layout.prior
    assert any(first)
    assert newcomer.core._replica._layout.prior == first, (
        "with which a sum of round 1 that comes late is folded"
    )
    world.run(world.now + 10)
    assert newcomer.core.status(world.now)["contributions"] > 0
    held = len(newcomer.core._history.held())
    world.switch_off(newcomer)
    world.switch_on(newcomer)
    assert len(newcomer.core._history.held()) >= held - 1
    assert newcomer.core._replica._layout.prior == first
    become_equal(world)
