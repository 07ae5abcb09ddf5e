"""The daemon's small parts: the bounded mailbox, the alarms, the figures, the fault points."""

import json
import signal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import Identity
from gossip.events import PeerDown, Persisted, Received, SendFailed
from gossip.frames import channel_frame, sign_frame
from gossip.membership.messages import Alive, Presence
from node.config.errors import ConfigError
from node.daemon import mailbox as mailbox_module
from node.daemon.faults import VARIABLE, read_faults
from node.daemon.mailbox import PEER_BYTES, PEER_MESSAGES, Mailbox, kind_of
from node.daemon.metrics import COHORTS_MAX, StepTimes
from node.daemon.timers import SPARE, Timers

ADA, BOB = b"a" * 32, b"b" * 32
ME = Identity(bytes(range(32)))


# --- the mailbox ------------------------------------------------------------------------------------------------


def test_what_is_about_one_neighbour_stays_in_order_and_this_devices_own_comes_first():
    box = Mailbox()
    box.received(ADA, b"1")
    box.put(Persisted(("x",)))
    box.received(BOB, b"2")
    box.peer_down(ADA, "gone")
    box.send_failed(ADA, b"3", "gone")
    taken = [box.take() for _ in range(len(box))]
    assert taken == [
        Persisted(("x",)),
        Received(ADA, b"1"),
        Received(BOB, b"2"),
        PeerDown(ADA, "gone"),
        SendFailed(ADA, b"3", "gone"),
    ]


def test_who_sends_faster_than_the_core_can_take_is_named_and_others_are_heard():
    box = Mailbox()
    for _ in range(PEER_MESSAGES + 5):
        box.received(ADA, b"again")
    box.received(BOB, b"hello")
    box.peer_down(ADA, "gone")
    assert list(box.overrun) == [ADA]
    assert len(box) == PEER_MESSAGES + 2


def test_nobody_waits_behind_all_that_another_has_sent():
    box = Mailbox()
    for number in range(PEER_MESSAGES):
        box.received(ADA, bytes([number % 256]))
    box.received(BOB, b"1")
    box.peer_down(BOB, "gone")
    taken = [box.take() for _ in range(4)]
    assert taken == [Received(ADA, b"\0"), Received(BOB, b"1"), Received(ADA, b"\1"), PeerDown(BOB, "gone")]
    assert [box.take().data[0] for _ in range(len(box))] == [n % 256 for n in range(2, PEER_MESSAGES)]
    with pytest.raises(IndexError):
        box.take()


def test_large_messages_fill_a_share_sooner():
    box = Mailbox()
    box.received(ADA, bytes(PEER_BYTES))
    assert not box.overrun
    box.received(ADA, b"x")
    assert (list(box.overrun), len(box)) == ([ADA], 1)


def test_a_share_is_given_back_when_the_core_has_taken_it():
    box = Mailbox()
    for _ in range(3 * PEER_MESSAGES):
        box.received(ADA, b"again")
        box.take()
    assert not box.overrun
    assert box._shares == {}


async def test_it_wakes_the_core_for_an_event_and_for_an_overrun(monkeypatch, autojump_clock):
    monkeypatch.setattr(mailbox_module, "PEER_MESSAGES", 0)
    for arrive in (lambda box: box.put(Persisted(("x",))), lambda box: box.received(ADA, b"too much")):
        box = Mailbox()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.wait)
            await trio.testing.wait_all_tasks_blocked()
            arrive(box)
    with trio.move_on_after(60) as scope:
        await Mailbox().wait()
    assert scope.cancelled_caught


def test_bytes_are_counted_by_kind():
    box = Mailbox()
    alive = channel_frame(Alive(7, bytes(8)))
    presence = sign_frame(ME, bytes(32), Presence(1, ()))
    box.received(ADA, alive)
    box.received(ADA, presence)
    box.traffic_of(alive).sent += 2 * len(alive)
    box.send_failed(BOB, alive, "gone")
    assert (box.by_kind["ALIVE"].sent, box.by_kind["ALIVE"].received) == (len(alive), len(alive))
    assert box.by_kind["PRESENCE"].received == len(presence)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_kind(data):
    assert kind_of(data) == "UNKNOWN" or (data[0] == 0x96 and len(data) > 2)


# --- alarms -----------------------------------------------------------------------------------------------------


def test_alarms_ring_in_order_and_once():
    timers = Timers()
    for at, name in [(3.0, "c"), (1.0, "a"), (2.0, "b")]:
        timers.set((name,), at)
    assert timers.next_at() == 1.0
    assert timers.take_due(0.5) is None
    assert [timers.take_due(2.5), timers.take_due(2.5), timers.take_due(2.5)] == [("a",), ("b",), None]
    assert timers.take_due(9.0) == ("c",)
    assert timers.next_at() == float("inf")


def test_a_replaced_alarm_and_a_cancelled_one_do_not_ring():
    timers = Timers()
    timers.set(("x",), 1.0)
    timers.set(("x",), 5.0)
    timers.set(("y",), 1.0)
    timers.cancel(("y",))
    timers.cancel(("never set",))
    assert timers.next_at() == 5.0
    assert timers.take_due(4.0) is None
    assert timers.take_due(5.0) == ("x",)


def test_alarms_that_are_replaced_for_ever_do_not_pile_up():
    timers = Timers()
    for at in range(100_000):
        timers.set(("beat",), float(at))
    assert len(timers._heap) <= 2 + SPARE + 1


# --- figures ----------------------------------------------------------------------------------------------------


def test_the_time_of_a_step_is_the_median_over_cohorts():
    times = StepTimes()
    for cohort, took in (("a", 1.0), ("b", 5.0), ("c", 2.0)):
        times.note("READY", "", 0.0)
        times.note("SHARES", cohort, 0.5)
        times.note("KEYS_SET", cohort, 0.5 + took)
        times.note("SETTLED", cohort, 10.0)
    assert times.medians_s() == {
        "READY to SHARES": 0.5,
        "SHARES to KEYS_SET": 2.0,
        "KEYS_SET to SETTLED": 7.5,
    }


def test_what_is_told_in_one_breath_counts_in_the_steps_own_order():
    times = StepTimes()
    for step in ("KEYS_SET", "SHARES", "SHARE_REFUSED"):
        times.note(step, "a", 1.0)
    times.note("SETTLED", "a", 2.0)
    times.note("RESULT", "a", 3.0)
    assert times.medians_s() == {"SHARES to KEYS_SET": 0.0, "KEYS_SET to SETTLED": 1.0}


def test_cohorts_that_never_end_are_forgotten():
    times = StepTimes()
    for number in range(10 * COHORTS_MAX):
        times.note("SHARES", str(number), 0.0)
    assert len(times._cohorts) == COHORTS_MAX


# --- fault points -----------------------------------------------------------------------------------------------


def faults_of(tmp_path, *points):
    return read_faults({VARIABLE: json.dumps(list(points))}, "kitchen", tmp_path)


def report(phase, round_, *roles):
    return {"phase": phase, "round": round_, "roles": list(roles), "cohort": "c0ffee"}


def test_a_node_meets_no_fault_unless_it_is_told_to(tmp_path):
    assert read_faults({}, "kitchen", tmp_path) is None
    assert read_faults({VARIABLE: "[]"}, "kitchen", tmp_path) is None


def test_a_fault_is_met_in_its_role_and_phase_from_its_round_on_and_once(tmp_path):
    faults = faults_of(
        tmp_path,
        {"round": 3, "phase": "MASKED", "role": "aggregator"},
        {"round": 3, "phase": "MASKED", "role": "kitchen"},
    )
    assert faults.reached(report("MASKED", 2, "member", "aggregator")) is None
    assert faults.reached(report("UNMASK", 3, "member", "aggregator")) is None
    assert faults.reached(report("MASKED", 4, "member", "aggregator")) == 0
    assert faults.reached(report("MASKED", 5, "member")) == 1
    assert faults.reached(report("MASKED", 6, "member", "aggregator")) is None


def test_a_fault_leaves_a_file_and_stops_the_process(tmp_path, monkeypatch):
    stopped = []
    monkeypatch.setattr("os.kill", lambda pid, number: stopped.append((number, list(tmp_path.iterdir()))))
    faults_of(tmp_path, {"round": 1, "phase": "READY", "role": "member"}).stop(0)
    assert stopped == [(signal.SIGSTOP, [tmp_path / "fault.0"])]


@pytest.mark.parametrize(
    "text",
    ["", "{}", '[{"round": 0, "phase": "READY", "role": "member"}]', '[{"round": 1, "phase": "READY"}]'],
)
def test_a_fault_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=VARIABLE):
        read_faults({VARIABLE: text}, "kitchen", tmp_path)
