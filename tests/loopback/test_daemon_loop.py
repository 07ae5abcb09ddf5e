"""A Daemon with a core of a few lines, a real store and a transport that only remembers: what the loop promises."""

import contextlib
import itertools
import threading
from dataclasses import dataclass, field

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from gossip.events import (
    CancelTimer,
    Compute,
    Computed,
    Dial,
    Disconnect,
    Evaluate,
    Freeze,
    Persist,
    Persisted,
    PersistFailed,
    Put,
    Received,
    Report,
    Send,
    SetTimer,
    TimerFired,
    Woke,
)
from node.daemon.faults import FaultPoint, Faults
from node.daemon.loop import SLEPT_S, Daemon
from node.daemon.mailbox import PEER_MESSAGES, Mailbox
from node.store import SqliteStore, StoreFailed, StoreFull

ADA, BOB = b"a" * 32, b"b" * 32


class ScriptedCore:
    """Does on each event what the test has written down for it."""

    def __init__(self, first=(), **answers):
        self.first, self.answers = list(first), answers
        self.seen, self.times = [], []
        self.saw = trio.Event()

    def start(self, now):
        return self.first

    def handle(self, event, now):
        self.seen.append(event)
        self.times.append(now)
        self.saw.set()
        answer = self.answers.get(type(event).__name__, [])
        return answer(event) if callable(answer) else answer

    def status(self, now):
        return {}


@dataclass
class Counted:
    messages_sent: int = 0


@dataclass
class Notebook:
    """A transport, and a trainer, that write down what they are told."""

    lines: list = field(default_factory=list)
    traffic_now: Counted = field(default_factory=Counted)

    def send(self, peer, data):
        self.lines.append(("send", peer, data))

    def publish(self, data):
        self.lines.append(("publish", data))

    def dial(self, peer, addresses):
        self.lines.append(("dial", peer, addresses))

    def disconnect(self, peer, reason):
        self.lines.append(("disconnect", peer, reason))

    def traffic(self):
        return self.traffic_now

    def apply(self, action):
        self.lines.append(("trainer", action))


class FailingStore:
    def __init__(self, error):
        self.error = error

    def commit(self, records):
        raise self.error

    def read(self, table):
        return []


@dataclass
class World:
    core: ScriptedCore
    mailbox: Mailbox
    notebook: Notebook
    daemon: Daemon
    log: list


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "state.db")
    yield store
    store.close()


def a_world(core, store, *, faults=None, **more):
    log, notebook, mailbox = structlog.testing.CapturingLogger(), Notebook(), Mailbox()
    daemon = Daemon(
        core=core,
        transport=notebook,
        trainer=notebook,
        store=store,
        mailbox=mailbox,
        log=log,
        faults=faults,
        **more,
    )
    return World(core, mailbox, notebook, daemon, log.calls)


@contextlib.asynccontextmanager
async def running(world):
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.daemon.run)
            yield
            nursery.cancel_scope.cancel()


async def until(core, reached):
    """The end of this wait is the deadline of `running`."""
    while not reached():
        core.saw = trio.Event()
        await core.saw.wait()


@contextlib.contextmanager
def ends_by(error):
    with pytest.raises(ExceptionGroup) as ended, trio.fail_after(20):
        yield
    assert [type(each) for each in ended.value.exceptions] == [error]


async def test_actions_are_carried_out_in_their_order(store):
    actions = [
        Send(ADA, b"1"),
        Dial(BOB, ("/ip4/192.0.2.1/tcp/1",)),
        Freeze(3),
        Disconnect(ADA, "enough"),
        Send(BOB, b"4"),
    ]
    world = a_world(ScriptedCore(actions), store)
    async with running(world):
        await wait_all_tasks_blocked()
    assert world.notebook.lines == [
        ("send", ADA, b"1"),
        ("dial", BOB, ("/ip4/192.0.2.1/tcp/1",)),
        ("trainer", Freeze(3)),
        ("disconnect", ADA, "enough"),
        ("send", BOB, b"4"),
    ]


async def test_a_message_that_fails_at_once_comes_back_as_an_event_after_the_others(store):
    world = a_world(ScriptedCore([Send(ADA, b"lost"), Send(BOB, b"kept")]), store)
    send = world.notebook.send

    def refusing(peer, data):
        send(peer, data)
        if peer == ADA:
            world.mailbox.send_failed(peer, data, "not connected")

    world.notebook.send = refusing
    async with running(world):
        await until(world.core, lambda: world.core.seen)
    assert [line[2] for line in world.notebook.lines] == [b"lost", b"kept"]
    assert world.mailbox.by_kind["UNKNOWN"].sent == len(b"kept")


async def test_persisted_means_that_it_is_on_disk_and_comes_in_order(store):
    first = [Persist((number,), (Put("t", b"k", bytes([number])),)) for number in range(100)]
    on_disk = []

    def look(_event):
        on_disk.append(dict(store.read("t"))[b"k"][0])
        return []

    world = a_world(ScriptedCore(first, Persisted=look), store)
    async with running(world):
        await until(world.core, lambda: len(world.core.seen) == 100)
    assert world.core.seen == [Persisted((number,)) for number in range(100)]
    assert all(seen >= told for told, seen in enumerate(on_disk))
    assert on_disk[-1] == 99


async def test_what_nobody_waits_for_is_on_disk_and_brings_no_event(store):
    first = [Persist(None, (Put("t", b"k", b"v"),)), Persist(("x",), ())]
    world = a_world(ScriptedCore(first), store)
    async with running(world):
        await until(world.core, lambda: Persisted(("x",)) in world.core.seen)
    assert world.core.seen == [Persisted(("x",))]
    assert dict(store.read("t")) == {b"k": b"v"}


async def test_more_records_than_may_wait_make_the_core_wait_and_none_is_lost(store):
    count = 1000
    first = [Persist((number,), (Put("t", b"%d" % number, b""),)) for number in range(count)]
    world = a_world(ScriptedCore(first), store)
    async with running(world):
        await until(world.core, lambda: len(world.core.seen) == count)
    assert len(store.read("t")) == count


async def test_a_full_disk_is_an_event_and_not_the_end():
    world = a_world(ScriptedCore([Persist(("x",), ())]), FailingStore(StoreFull("no space")))
    async with running(world):
        await until(world.core, lambda: world.core.seen)
    assert world.core.seen == [PersistFailed(("x",), "no space")]


async def test_a_failing_disk_ends_the_daemon():
    world = a_world(ScriptedCore([Persist(("x",), ())]), FailingStore(StoreFailed("input/output error")))
    with ends_by(StoreFailed):
        await world.daemon.run()
    assert world.core.seen == []


async def test_a_sleep_is_told_before_the_alarms_that_it_made_late(store, autojump_clock):
    core = ScriptedCore([SetTimer(("late",), trio.current_time() + 1.0)])
    world = a_world(core, store, clock=trio.current_time)
    async with running(world):
        await wait_all_tasks_blocked()
        autojump_clock.jump(2 * SLEPT_S)
        await until(world.core, lambda: len(world.core.seen) == 2)
    assert [type(event) for event in world.core.seen] == [Woke, TimerFired]
    assert world.core.seen[0].slept_s > SLEPT_S


async def test_waiting_is_no_sleep(store, autojump_clock):
    world = a_world(
        ScriptedCore([SetTimer(("late",), trio.current_time() + 15.0)]), store, clock=trio.current_time
    )
    async with running(world):
        await until(world.core, lambda: world.core.seen)
    assert [type(event) for event in world.core.seen] == [TimerFired]


class WhereAmI:
    def run(self):
        return threading.get_ident()


class Mistake:
    def run(self):
        raise ZeroDivisionError


async def test_a_job_runs_beside_the_loop_and_answers(store):
    world = a_world(ScriptedCore([Compute(("where",), WhereAmI())]), store)
    async with running(world):
        await until(world.core, lambda: world.core.seen)
    [answer] = world.core.seen
    assert isinstance(answer, Computed)
    assert answer.result != threading.get_ident()


async def test_a_mistake_in_a_job_is_the_cores_to_tell(store):
    """What a peer sent is in the job, and it may have found our mistake: that ends no daemon."""
    world = a_world(ScriptedCore([Compute(("x",), Mistake())]), store)
    async with running(world):
        await until(world.core, lambda: world.core.seen)
    [answer] = world.core.seen
    assert answer.tag == ("x",)
    assert isinstance(answer.result, ZeroDivisionError)


async def test_a_core_that_raises_ends_the_daemon(store):
    def mistaken(_event):
        raise ZeroDivisionError

    world = a_world(ScriptedCore(Received=mistaken), store)
    world.mailbox.received(ADA, b"")
    with ends_by(ZeroDivisionError):
        await world.daemon.run()


async def test_alarms_ring_when_they_are_due(store, autojump_clock):
    world = a_world(ScriptedCore([SetTimer(("late",), 7.0), SetTimer(("early",), 3.0)]), store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.daemon.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert list(zip(world.core.seen, world.core.times, strict=True)) == [
        (TimerFired(("early",)), 3.0),
        (TimerFired(("late",)), 7.0),
    ]


async def test_an_alarm_that_is_cancelled_in_the_last_moment_does_not_ring(store, autojump_clock):
    def cancel_the_other(event):
        return [CancelTimer(("b",)), SetTimer(("c",), 20.0)] if event == TimerFired(("a",)) else []

    both_due = [SetTimer(("a",), 1.0), SetTimer(("b",), 1.0), SetTimer(("c",), 1.0)]
    world = a_world(ScriptedCore(both_due, TimerFired=cancel_the_other), store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.daemon.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert world.core.seen == [TimerFired(("a",))]


async def test_a_flood_is_cut_off_and_delays_neither_alarms_nor_others(store):
    world = a_world(ScriptedCore([SetTimer(("tick",), 0.0)]), store)
    for _ in range(2 * PEER_MESSAGES):
        world.mailbox.received(ADA, b"again")
    world.mailbox.received(BOB, b"hello")
    async with running(world):
        await until(world.core, lambda: Received(BOB, b"hello") in world.core.seen)
    assert world.core.seen[0] == TimerFired(("tick",))
    assert world.core.seen.count(Received(ADA, b"again")) == PEER_MESSAGES
    assert world.notebook.lines == [("disconnect", ADA, "sends more than this device can take")]


async def test_readers_have_their_turn_while_the_core_is_busy(store):
    turns = []

    async def reader():
        while True:
            turns.append(len(world.core.seen))
            await trio.lowlevel.checkpoint()

    def slow(_event):
        threading.Event().wait(0.005)
        return []

    world = a_world(ScriptedCore(Received=slow), store)
    for _ in range(40):
        world.mailbox.received(ADA, b"work")
    async with running(world), trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await until(world.core, lambda: len(world.core.seen) == 40)
        nursery.cancel_scope.cancel()
    longest = max(after - before for before, after in itertools.pairwise(turns))
    assert longest <= 10, "two slices may follow each other, and each is over after four or five events"


async def test_the_steps_of_a_sum_are_timed(store):
    def step(name, **fields):
        return Report(name, {"cohort": "c0ffee", "round": 1, "roles": ["member"], **fields})

    world = a_world(
        ScriptedCore([step("phase", phase="SHARES"), step("phase", phase="KEYS_SET"), step("settled")]), store
    )
    async with running(world):
        await wait_all_tasks_blocked()
    assert list(world.daemon.times.medians_s()) == ["SHARES to KEYS_SET", "KEYS_SET to SETTLED"]
    assert [call.method_name for call in world.log] == ["debug", "debug", "info"]


class StopInPlace(Faults):
    """Stops nothing, and says what had left the device by then."""

    def stop(self, index):
        self.stopped.set()
        self.left = (index, self.notebook.traffic_now.messages_sent, self.mailbox.undelivered_bytes)


async def test_before_a_fault_everything_that_was_said_leaves(store, tmp_path):
    here = Report("phase", {"phase": "MASKED", "cohort": "c0ffee", "round": 2, "roles": ["member"]})
    faults = StopInPlace([FaultPoint(2, "MASKED", "member")], "kitchen", tmp_path)
    world = a_world(ScriptedCore([Send(ADA, b"12345"), Send(BOB, b"678"), here, here]), store, faults=faults)
    faults.notebook, faults.mailbox, faults.left, faults.stopped = (
        world.notebook,
        world.mailbox,
        None,
        trio.Event(),
    )
    async with running(world):
        await wait_all_tasks_blocked()
        assert faults.left is None
        world.notebook.traffic_now.messages_sent = 5
        world.mailbox.send_failed(BOB, b"678", "gone")
        await faults.stopped.wait()
    assert faults.left == (0, 5, 3)


async def test_a_fault_does_not_wait_for_ever(store, tmp_path, autojump_clock):
    here = Report("phase", {"phase": "MASKED", "cohort": "c0ffee", "round": 2, "roles": ["member"]})
    faults = StopInPlace([FaultPoint(2, "MASKED", "kitchen")], "kitchen", tmp_path)
    world = a_world(ScriptedCore([Send(ADA, b"12345"), here]), store, faults=faults)
    faults.notebook, faults.mailbox, faults.left, faults.stopped = (
        world.notebook,
        world.mailbox,
        None,
        trio.Event(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.daemon.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert faults.left == (0, 0, 0)


async def test_what_the_trainer_is_asked_reaches_it(store):
    world = a_world(ScriptedCore([Evaluate(1, None)]), store)
    async with running(world):
        await wait_all_tasks_blocked()
    assert world.notebook.lines == [("trainer", Evaluate(1, None))]
