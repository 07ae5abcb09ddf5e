"""One core in the world: a single task feeds it events and carries out its actions, in order.

Every event goes through the mailbox, every alarm through the heap beside it, and the core is called from nowhere else. What
takes time happens elsewhere and answers with an event: records become durable in a thread, in order, several `Persist`
in one transaction when they have piled up; jobs run in threads; the trainer is a process. Where the core wants more of
these at once than is allowed, its task waits, and peers feel that in the mailbox's bounds, not in this device's memory.

Where much more time has gone by than this task meant to wait, the process or the machine stood still: the core hears of that
before any alarm that is overdue, so that it does not take its own absence for everybody else's.

What raises inside the core or in a job is a bug, which the core tells as a "fault" and goes on: no peer's words may end a
daemon. A disk that fails leaves durability unknown, and ends it, which is safe at any moment, whereas going on is not; so
does a core that raises all the same.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from gossip.events import (
    Abandon,
    Action,
    Admit,
    Answered,
    Block,
    CancelTimer,
    Compute,
    Computed,
    Dial,
    Disconnect,
    Evaluate,
    Freeze,
    Look,
    Pause,
    Persist,
    Persisted,
    PersistFailed,
    Rebase,
    Report,
    Resume,
    Revoke,
    Send,
    SetTimer,
    Strike,
    TellGuests,
    TimerFired,
    Train,
    Woke,
    result_of,
)
from node.clock import uptime
from node.daemon.faults import FLUSH_S, Faults
from node.daemon.mailbox import Mailbox
from node.daemon.metrics import StepTimes
from node.daemon.timers import Timers
from node.ports import Core, Store
from node.store import StoreFull

SLICE_S = 0.02  # of the core at a time; then whoever reads from neighbours has a turn
PERSISTS_WAITING = 256
PERSISTS_AT_ONCE = 64  # in one transaction
JOBS_WAITING = 16
JOBS_AT_ONCE = 2
FLUSH_LOOK_S = 0.01
LOOK_S = 3.0  # between two looks at the clock, at most
SLEPT_S = 8.0  # more than meant; below the core's shortest patience with a neighbour that says nothing

QUIET = {"phase", "send_failed"}  # reports that are only for debugging
ALARMING = {
    "masks_off", "violation", "sum_refused", "sum_rejected", "distrusted", "forged", "unanswered", "false_accusation", "taken_back", "checkpoint_refused", "checkpoint_false", "persist_failed", "trainer_failed", "delta_dropped", "denied", "refused", "declined",
}  # fmt: skip
BROKEN = {"fault"}  # reports of a bug


class Sent(Protocol):
    @property
    def messages_sent(self) -> int:
        """Bytes of direct messages that have left."""


class Transport(Protocol):
    """As far as the core's actions go; see `node.net.libp2p.transport.Libp2pTransport`."""

    def send(self, peer: bytes, data: bytes) -> None: ...
    def tell_guests(self, data: bytes) -> None: ...
    def dial(self, peer: bytes, addresses: Sequence[str]) -> None: ...
    def disconnect(self, peer: bytes, reason: str) -> None: ...
    def traffic(self) -> Sent: ...


class Trainer(Protocol):
    def apply(self, action: Train | Rebase | Freeze | Abandon | Evaluate | Look | Pause | Resume) -> None: ...


class Daemon:
    def __init__(
        self,
        *,
        core: Core,
        transport: Transport,
        trainer: Trainer,
        store: Store,
        mailbox: Mailbox,
        log: BoundLogger,
        faults: Faults | None = None,
        clock: Callable[[], float] = uptime,
    ) -> None:
        """`clock` goes on while the machine is suspended."""
        self.times = StepTimes()
        self._core = core
        self._transport = transport
        self._trainer = trainer
        self._store = store
        self._mailbox = mailbox
        self._log = log
        self._faults = faults
        self._clock = clock
        self._timers = Timers()
        self._said_bytes = 0  # of direct messages, to the transport
        self._questions: dict[
            Admit | Revoke | Block | Strike, list[trio.MemorySendChannel[Answered]]
        ] = {}  # of the owner of the control socket
        self._to_persist, self._persists = trio.open_memory_channel[Persist](PERSISTS_WAITING)
        self._to_compute, self._jobs = trio.open_memory_channel[Compute](JOBS_WAITING)

    async def ask(self, question: Admit | Revoke | Block | Strike) -> Answered:
        """What the core makes of a wish of this device's owner; once it is durable, or refused."""
        tell, told = trio.open_memory_channel[Answered](1)
        self._questions.setdefault(question, []).append(tell)
        self._mailbox.put(question)
        return await told.receive()

    async def run(self) -> None:
        """Until cancelled. What a failing disk raises, or the core, comes out of here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._persist)
            for _ in range(JOBS_AT_ONCE):
                nursery.start_soon(self._compute)
            await self._carry_out(self._core.start(trio.current_time()))
            while True:
                looked = self._clock()
                await self._serve()
                wait_s = max(0.0, min(self._timers.next_at() - trio.current_time(), LOOK_S))
                with trio.move_on_after(wait_s):
                    await self._mailbox.wait()
                await self._notice_sleep(self._clock() - looked - wait_s)

    async def _serve(self) -> None:
        """Whatever has happened, for at most a slice; alarms first, so that no flood of messages delays them."""
        until = trio.current_time() + SLICE_S
        while (now := trio.current_time()) < until:
            self._shut_out()
            tag = self._timers.take_due(now)
            if tag is not None:
                await self._carry_out(self._core.handle(TimerFired(tag), now))
            elif self._mailbox:
                await self._carry_out(self._core.handle(self._mailbox.take(), now))
            else:
                return

    async def _notice_sleep(self, slept_s: float) -> None:
        if slept_s > SLEPT_S:
            self._log.info("woke", slept_s=round(slept_s, 1))
            await self._carry_out(self._core.handle(Woke(slept_s), trio.current_time()))

    def _shut_out(self) -> None:
        while self._mailbox.overrun:
            peer, _ = self._mailbox.overrun.popitem()
            self._log.warning("peer_overran", peer=peer)
            self._transport.disconnect(peer, "sends more than this device can take")

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(peer, data):
                    self._said_bytes += len(data)
                    self._mailbox.traffic_of(data).sent += len(data)
                    self._transport.send(peer, data)
                case TellGuests(data):
                    self._transport.tell_guests(data)
                case Dial(peer, addresses):
                    self._transport.dial(peer, addresses)
                case Disconnect(peer, reason):
                    self._transport.disconnect(peer, reason)
                case SetTimer(tag, at):
                    self._timers.set(tag, at)
                case CancelTimer(tag):
                    self._timers.cancel(tag)
                case Persist():
                    await self._to_persist.send(action)
                case Compute():
                    await self._to_compute.send(action)
                case Train() | Rebase() | Freeze() | Abandon() | Evaluate() | Look() | Pause() | Resume():
                    self._trainer.apply(action)
                case Report():
                    await self._report(action)
                case Answered(question):
                    for tell in self._questions.pop(question, ()):
                        tell.send_nowait(action)
                case _:
                    assert_never(action)

    # --- what takes time --------------------------------------------------------------------------------------

    async def _persist(self) -> None:
        async for first in self._persists:
            batch = [first]
            while len(batch) < PERSISTS_AT_ONCE:
                try:
                    batch.append(self._persists.receive_nowait())
                except trio.WouldBlock:
                    break
            records = [record for persist in batch for record in persist.records]
            try:
                await trio.to_thread.run_sync(self._store.commit, records)
            except StoreFull as error:
                for persist in batch:
                    self._mailbox.put(PersistFailed(persist.tag, str(error)))
            else:
                for persist in batch:
                    if persist.tag is not None:
                        self._mailbox.put(Persisted(persist.tag))

    async def _compute(self) -> None:
        async for compute in self._jobs:
            # Abandoned where the daemon stops: a job is pure arithmetic.
            result = await trio.to_thread.run_sync(result_of, compute.job, abandon_on_cancel=True)  # type: ignore[call-arg] # old stubs
            self._mailbox.put(Computed(compute.tag, result))

    # --- what is told -----------------------------------------------------------------------------------------

    async def _report(self, report: Report) -> None:
        level = "warning" if report.name in ALARMING else "debug" if report.name in QUIET else "info"
        if report.name in BROKEN:
            level = "error"
        getattr(self._log, level)(report.name, **report.fields)
        step = {"phase": report.fields.get("phase"), "settled": "SETTLED"}.get(report.name)
        if step is not None:
            self.times.note(str(step), str(report.fields["cohort"]), trio.current_time())
        if self._faults is not None and report.name == "phase":
            index = self._faults.reached(report.fields)
            if index is not None:
                await self._flush()
                self._log.warning("fault", index=index, **report.fields)
                self._faults.stop(index)

    async def _flush(self) -> None:
        """Let what the core has said leave this process."""
        with trio.move_on_after(FLUSH_S):
            while self._unsent_bytes:  # noqa: ASYNC110 - a transport counts bytes, and tells nobody
                await trio.sleep(FLUSH_LOOK_S)

    @property
    def _unsent_bytes(self) -> int:
        left = self._transport.traffic().messages_sent + self._mailbox.undelivered_bytes
        return self._said_bytes - left
