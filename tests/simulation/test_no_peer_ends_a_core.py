"""What a peer says ends no core and goes unseen by nobody: an exception is that peer's violation, and a "fault" in the log."""

import numpy as np
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import MisuseError
from gossip.events import Clock, Computed, Disconnect, PeerUp, Received, Report, SetTimer, TimerFired
from gossip.frames import Frame, Kind, channel_frame
from gossip.membership.admission import CLOCK_SLACK_S
from gossip.membership.messages import Alive, Greeting
from gossip.membership.statements import SECONDS_MAX, Why
from gossip.membership.view import Membership
from gossip.secure_sum.member import Member
from gossip.wire import pack
from node import core as node_core
from node.core import FAULT_S, FORGET_S, OFFENDERS_MAX, SHUN_S, VIOLATIONS_MAX
from node.virtual.swarm import CoreFaultError
from tests.simulation.harness import CLOCK_S, EPOCH_S, InvariantBroken, World, certificate
from tests.simulation.test_virtual_driver import a_swarm


def reports(actions, name):
    return [action.fields for action in actions if isinstance(action, Report) and action.name == name]


def fails(*_arguments, **_more):
    raise ZeroDivisionError("by a peer")


def denied(at_s: int) -> bytes:
    """As on the wire, whatever bounds the type has."""
    body = pack((int(Why.EXPIRED), at_s))
    return pack(Frame(1, Kind.DENIED, b"", b"", body, b""))


@pytest.fixture
def invited():
    world = World(21, 4, admit="invite")
    world.run(60, until=lambda: min(world.rounds()) >= 1)
    return world


@pytest.mark.parametrize("at_s", [SECONDS_MAX, SECONDS_MAX + 1, 1 << 39, (1 << 40) - 1, 1 << 62])
def test_no_date_of_a_refusal_ends_a_device(invited, at_s):
    """Seen: 2^39 is a date in the year 19391, which no calendar here can write."""
    core, member = invited.devices[0].core, invited.devices[1].key
    actions = core.handle(Received(member, denied(at_s)), invited.now)
    assert not reports(actions, "fault")
    assert bool(reports(actions, "denied")) == (at_s <= SECONDS_MAX)
    assert bool(reports(actions, "violation")) == (at_s > SECONDS_MAX)
    assert ("9999" in core.status(invited.now)["warning"]) == (at_s <= SECONDS_MAX)


def test_a_certificate_that_ends_with_the_calendar_is_one(invited):
    days = (SECONDS_MAX - EPOCH_S) / 86_400
    late = Identity(digest("late", b""))
    statement = certificate(invited.swarm, invited.devices[0].identity, late.public_key, 9, days=days)
    device = invited.join(late, (statement,))
    invited.run(CLOCK_S)
    assert device.core.status(invited.now)["warning"] == ""
    end = Clock(SECONDS_MAX + CLOCK_SLACK_S + 1)
    assert not reports(device.core.handle(end, invited.now), "fault")
    assert "9999" in device.core.status(invited.now)["warning"]


def test_what_an_earlier_version_stored_and_this_one_refuses_keeps_no_device_from_starting(invited):
    device = invited.devices[1]
    invited.crash(device)
    device.disk["statement"][b"old"] = certificate(
        invited.swarm, invited.devices[0].identity, bytes([7] * 32), 9, days=(1 << 39) / 86_400
    )
    device.disk["presence"][b"old"] = b"no presence"
    invited.boot(device)
    assert [r.fields for _, i, r in invited.reports if r.name == "statements_passed_over"] == [{"count": 1}]
    assert device.core.status(invited.now)["warning"] == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, AssertionError, MisuseError, RecursionError, MemoryError]
)
def test_an_exception_is_the_violation_of_whoever_brought_it(monkeypatch, error):
    def fail(*_arguments):
        raise error("so it is")

    world = World(21, 4)
    world.run(20)
    core, bad, good = world.devices[0].core, *world.devices[1:3]
    frame = channel_frame(Greeting(()))
    monkeypatch.setattr(Membership, "handle", fail)
    for count in range(1, VIOLATIONS_MAX + 1):
        actions = core.handle(Received(bad.key, frame), world.now)
        [fault] = reports(actions, "fault")
        assert fault["event"] == "Received"
        assert fault["peer"] == bad.key.hex()[:16]
        assert fault["error"] == f"{error.__name__}: so it is"
        assert "test_no_peer_ends_a_core.py:" in fault["place"]
        assert len(reports(actions, "violation")) == 1
        assert any(isinstance(action, Disconnect) for action in actions) == (count == VIOLATIONS_MAX)
    monkeypatch.undo()
    assert core.handle(Received(bad.key, frame), world.now) == []
    assert core._membership.neighbours.keys() >= {good.key}
    assert core.status(world.now)["round"] == world.rounds()[0]


def test_what_was_decided_before_and_after_a_mistake_is_carried_out(monkeypatch):
    world = World(21, 4)
    world.run(5)
    core, peer = world.devices[0].core, world.devices[1].key
    monkeypatch.setattr(
        node_core.NodeCore,
        "_on_message",
        lambda *_: [Report("before", {}), node_core.Close(()), Report("after", {})],
    )
    monkeypatch.setattr(node_core.NodeCore, "_form", fails)
    actions = core.handle(Received(peer, channel_frame(Alive(0, bytes(8)))), world.now)
    assert [action.name for action in actions] == ["before", "fault", "violation", "after"]


def test_a_timer_that_raises_rings_again(monkeypatch):
    world = World(21, 4)
    world.run(5)
    core = world.devices[0].core
    monkeypatch.setattr(Membership, "_on_beat", fails)
    beat = ("membership", "beat")
    actions = core.handle(TimerFired(beat), world.now)
    assert [fault["event"] for fault in reports(actions, "fault")] == ["TimerFired"]
    assert SetTimer(beat, world.now + FAULT_S) in actions
    assert not core._offences


def test_a_sum_whose_timer_raises_is_left_behind_and_another_can_begin(monkeypatch):
    world = World(21, 4, attacked=True)
    core = world.devices[0].core
    assert world.run(60, until=lambda: core._busy is not None)
    handle, cohort = Member.handle, core._busy.member.cohort.id

    def fails_at_deadlines(self, event, now):
        if isinstance(event, TimerFired) and self.cohort.id == cohort:
            raise ZeroDivisionError
        return handle(self, event, now)

    monkeypatch.setattr(Member, "handle", fails_at_deadlines)
    actions = core.handle(TimerFired(("sum", cohort, "member")), world.now)
    assert len(reports(actions, "fault")) == 1
    assert cohort not in core._cohorts
    monkeypatch.undo()
    before = min(world.rounds())
    assert world.run(300, until=lambda: min(world.rounds()) >= before + 3)


def test_a_mistake_in_a_job_is_told():
    world = World(21, 4)
    world.run(5)
    core = world.devices[0].core
    [fault] = reports(
        core.handle(Computed(("sum", bytes(32), "unmask", 0), ZeroDivisionError()), world.now), "fault"
    )
    assert fault["event"] == "Computed"


def test_an_honest_world_has_no_faults(monkeypatch):
    monkeypatch.setattr(Membership, "_on_beat", fails)
    with pytest.raises(InvariantBroken, match="ZeroDivisionError"):
        World(21, 4).run(30)
    with pytest.raises(CoreFaultError, match="ZeroDivisionError"):
        a_swarm(4).run(30)
    World(21, 4, attacked=True).run(30)


# --- who was disconnected for what it sent -----------------------------------------------------------------------


def offend(core, peer, now):
    return [action for _ in range(VIOLATIONS_MAX) for action in core.handle(Received(peer, b"garbage"), now)]


def test_an_offender_is_shunned_longer_each_time():
    world = World(21, 4)
    world.run(5)
    core, bad, now = world.devices[0].core, world.devices[1].key, world.now
    shunned_s, most = SHUN_S
    for _ in range(12):
        actions = offend(core, bad, now)
        assert len(reports(actions, "violation")) == VIOLATIONS_MAX
        assert isinstance(actions[-1], Disconnect)
        for later in (now, now + shunned_s - 0.1):
            assert [type(action) for action in core.handle(PeerUp(bad), later)] == [Disconnect]
            assert core.handle(Received(bad, b"garbage"), later) == []
        now += shunned_s
        assert Disconnect not in {type(action) for action in core.handle(PeerUp(bad), now)}
        shunned_s = min(2 * shunned_s, most)
    now += most + FORGET_S
    offend(core, bad, now)
    assert Disconnect not in {type(action) for action in core.handle(PeerUp(bad), now + SHUN_S[0])}
    assert np.isclose(core._shunned[bad].for_s, SHUN_S[0])


def test_whom_a_device_shuns_it_does_not_dial_and_how_many_is_bounded():
    world = World(21, 4)
    world.run(5)
    core, bad = world.devices[0].core, world.devices[1].key
    offend(core, bad, world.now)
    assert core._dial(node_core.Dial(bad, ("sim/1",))) == []
    for number in range(OFFENDERS_MAX + 10):
        offend(core, digest("stranger", number.to_bytes(2, "big")), world.now)
    assert len(core._shunned) == len(core._offences) == OFFENDERS_MAX
