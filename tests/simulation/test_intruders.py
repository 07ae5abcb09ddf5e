"""I6: only members' messages are acted upon, whoever brings them and however often."""

import pytest

from crypto.identity import Identity
from gossip.events import Disconnect, PeerUp, Received, Report
from gossip.frames import BODY_TYPES, Kind, open_frame, sign_frame
from gossip.membership.messages import Presence
from node.core import VIOLATIONS_MAX
from tests.frames import spoken
from tests.simulation.harness import World

STRANGER = Identity(bytes([9] * 32))


def snapshot(core) -> tuple:
    status = core.status(0.0)
    return (
        {
            name: status[name]
            for name in ("round", "replica_sha256", "history_digest", "live", "neighbours", "aggregates")
        },
        core._books.residual.tobytes(),
        sorted(core._membership.known),
        {key: running.member.state for key, running in core._cohorts.items()},
        core._rendezvous.gathered,
    )


@pytest.fixture
def world():
    world = World(21, 5)
    world.run(20)
    assert min(world.rounds()) >= 1
    return world


def test_a_stranger_changes_nothing_and_is_disconnected(world):
    core = world.devices[0].core
    recorded = {
        message.kind: message
        for message in (open_frame(world.swarm.id, frame, STRANGER.public_key) for frame in world._old_frames)
    }
    assert len(recorded) >= 14, "a run of the protocol has shown most kinds of messages"
    before = snapshot(core)
    actions = []
    for _ in range(2):
        for message in recorded.values():
            own = spoken(STRANGER, world.swarm.id, message.body, cohort=message.cohort)
            actions += core.handle(Received(STRANGER.public_key, own), world.now)
    assert snapshot(core) == before
    assert {type(action) for action in actions} == {Report, Disconnect}
    assert len(actions) >= VIOLATIONS_MAX


def test_a_stranger_does_not_become_a_neighbour(world):
    core = world.devices[0].core
    before = snapshot(core)
    actions = core.handle(PeerUp(STRANGER.public_key), world.now)
    assert [type(action) for action in actions] == [Disconnect]
    assert snapshot(core) == before


def test_a_member_cannot_speak_for_another_nor_a_stranger_by_a_member(world):
    core = world.devices[0].core
    before = snapshot(core)
    decline = next(
        frame
        for frame in world._old_frames
        if (message := open_frame(world.swarm.id, frame, STRANGER.public_key)).kind is Kind.SHARES
        and message.sender == world.devices[1].key
    )
    for bringer in (world.devices[2].key, STRANGER.public_key):
        assert [action.name for action in core.handle(Received(bringer, decline), world.now)] == ["violation"]
    assert snapshot(core) == before


def test_replayed_frames_change_nothing_lasting(world):
    """All that a run ever sent, once more, to everybody: no vote, no vector and no history comes of it."""
    histories = {device.index: device.core.status(world.now)["history_digest"] for device in world.devices}
    frames = list(world._old_frames)
    for device in world.devices:
        for frame in frames:
            message = open_frame(world.swarm.id, frame, world.devices[device.index - 1].key)
            sender = message.sender  # of what is not signed: whoever sends it
            if sender != device.key:
                world._perform(device, device.core.handle(Received(sender, frame), world.now))
    assert {d.index: d.core.status(world.now)["history_digest"] for d in world.devices} == histories
    world.run(30)
    assert world.observer.exact >= 2


def test_an_old_presence_is_no_sign_of_life(world):
    core = world.devices[0].core
    key = world.devices[1].key
    known = core._membership.known[key]
    old = sign_frame(world.devices[1].identity, world.swarm.id, Presence(0, ("sim/9",)))
    core.handle(Received(world.devices[2].key, old), world.now)
    assert core._membership.known[key].presence == known.presence


def test_every_kind_of_message_is_covered():
    assert len(BODY_TYPES) == 37
