"""A whole swarm in one process: the same cores and the same bytes as in daemons, on a heap of virtual time.

    (time, number, what happens) -> a core's event -> its actions -> more of what happens

Nothing here reads a clock or draws unowned chance, so a seed and the devices make one trace, whose SHA-256 over (time,
device, event, bytes) is the same in any process. What takes time in a daemon takes modelled time here: bytes their links
(`node.virtual.links`), commits the disk, jobs `job_s`, local steps `step_s`; jobs run inline, on real keys and masks. The
cores themselves take none, which is the one thing that a slow device's daemon has and its virtual twin has not; but a handshake
does, because what two strangers tell each other depends on whom they have heard of by then.

Connections are TCP's: in order, nothing lost but with the connection, whose end both sides hear of. A **cut** between two sides
tells nobody: what crosses it waits to be sent again, after ever longer time-outs, and so arrives late if the link comes back while
both ends still hold the connection. Whoever has had nothing acknowledged for UNACKED_S, or whose core gives up, ends it at its own end alone. The
other end, which has no partner any more, lasts until it too gives up, or hears so when it sends again after the cut, or a new connection takes its place. A device that
goes off is gone as by SIGKILL: of what it was writing to its disk, nothing is there when it comes back.

**Local training** is real, and computed late: a phase's steps are a function of virtual time, at most one in `step_s`, so
they are owed rather than done until somebody asks for a result. `Phases` may collect what all devices owe, and compute it
together.
"""

import contextlib
import gc
import itertools
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from crypto.sized import sized_cryptography
from gossip.errors import GossamerError
from gossip.events import (
    Abandon,
    Action,
    Answered,
    CancelTimer,
    Clock,
    Compute,
    Computed,
    Dial,
    Disconnect,
    Eligible,
    Evaluate,
    Evaluated,
    Event,
    Freeze,
    Frozen,
    Look,
    Looked,
    Pause,
    PeerDown,
    PeerUp,
    Persist,
    Persisted,
    Put,
    Rebase,
    Received,
    Report,
    Resume,
    Send,
    SendFailed,
    SetTimer,
    Tag,
    TellGuests,
    TimerFired,
    Train,
    TrainerFailed,
    TrainerReady,
    result_of,
)
from gossip.frames import opened_again
from gossip.manifest import Swarm
from gossip.membership.view import Settings
from node.core import NodeCore
from node.daemon.mailbox import kind_of
from node.net.libp2p.terms import UNACKED_S
from node.ports import BOOT_SHIFT, CLOCK_S
from node.virtual.device import Device, Hardware, address_of
from node.virtual.event_queue import Agenda
from node.virtual.links import (
    CONNECTION_BYTES,
    Pipe,
    Port,
)
from node.virtual.randomness import Draws, Stream
from node.virtual.shared_cache import Commons
from node.virtual.trainer import CATCH_UP_S, LOOK_STEPS, TRAINER_S, Phases, VirtualTrainer

# As node.net.libp2p has them.
CONNECTIONS_MAX: Final = 64
HUB_CONNECTIONS_MAX: Final = 256
DIAL_S: Final = 10.0  # until a device that is off is given up
HANDSHAKE_S: Final = (
    0.2  # of work on both sides, from the dial to PeerUp: 0.1 to 0.3 between daemons on loopback
)
HANDSHAKE_TRIPS: Final = 8  # of one way: TCP, Noise, the multiplexer and the streams

EPOCH_S: Final = 1_800_000_000  # unix time where virtual time begins
BOOTSTRAP_ONE: Final = 24  # so many first devices join through the very first, as in a small swarm
BOOTSTRAP: Final = 3  # devices that each later one is told of

TRACE_PIECE_BYTES: Final = 1 << 16
_STAMP = struct.Struct("<dII")
_NAMES: Final = {kind: kind.__name__.encode() for kind in get_args(Event)}


Crypto = Literal["real", "sized"]
MakeCore = Callable[..., NodeCore]  # (device, **what NodeCore is given)


class CoreFaultError(GossamerError):
    """A core has told of a fault (`node.core`) among devices that keep to the protocol."""


@contextlib.contextmanager
def cryptography(crypto: Crypto) -> Iterator[None]:
    """What the keys, signatures and masks of a virtual swarm are, from before it is made until it has ended.

    "sized": nothing but their sizes. No other driver has a choice.
    """
    if crypto == "real":
        yield
        return
    opened_again.forget()
    try:
        with sized_cryptography():
            yield
    finally:
        opened_again.forget()


class VirtualSwarm:
    """`report` hears what every core tells, in order."""

    def __init__(
        self,
        *,
        seed: int,
        swarm: Swarm,
        initial: NDArray[np.int64],
        devices: Sequence[tuple[Identity, Hardware]],
        phases: Phases,
        report: Callable[[float, int, Report], None] = lambda _now, _device, _report: None,
        credentials: Sequence[Sequence[bytes]] = (),
        make_core: MakeCore = lambda _device, **given: NodeCore(**given),
        hostile: bool = False,
    ) -> None:
        """`credentials`: the statements with which each device begins, where certificates admit.

        `make_core`, by the device's number, makes what a device runs whenever it goes on; by default, all run the same.
        `hostile`: somebody here tries to break the cores. Where nobody does, a core that tells of a fault ends the run with
        CoreFaultError: that is a bug of ours.
        """
        self._hostile = hostile
        self.now = 0.0
        self.events = 0
        self.sent_by_kind: Counter[str] = Counter()  # bytes of messages alone
        self.devices = [
            Device(index, identity, body, VirtualTrainer(index, body.step_s, phases), Port(body.link))
            for index, (identity, body) in enumerate(devices)
        ]
        self._by_key = {device.key: device for device in self.devices}
        self._seed = seed
        self._swarm = swarm
        self._initial = initial
        self._phases = phases
        self._report = report
        self._make_core = make_core
        self._credentials = credentials or [()] * len(self.devices)
        self._commons = Commons(len(self.devices))
        self._chance = Draws("network", seed)
        self._trace = sha256()
        self._traced = bytearray()  # and not hashed yet, about TRACE_PIECE_BYTES at most
        self._agenda = Agenda()
        self._numbers = itertools.count()
        self._caught_up_at = 0.0
        self._cuts: list[frozenset[int]] = []  # the devices on one side of each; all others are on the other
        for device in self.devices:
            self._at(device.hardware.on_at_s, self.switch_on, device)
            self._leave_next(device, iter(device.hardware.away))

    # --- what a scenario asks for -----------------------------------------------------------------------------

    def run(self, until_s: float, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass until then, or until `stop()` holds after an event."""
        with collector_at_rest():
            for now, _, happen, arguments in self._agenda.take(until_s):
                self.now = now
                happen(*arguments)
                if stop is not None and stop():
                    return
        self.now = max(self.now, until_s)

    @property
    def trace_sha256(self) -> str:
        self._trace.update(self._traced)
        self._traced.clear()
        return self._trace.copy().hexdigest()

    def steps(self, device: Device) -> int:
        """Local steps of this device so far."""
        device.trainer.catch_up(self.now)
        return device.trainer.steps_before + device.trainer.steps

    def switch_on(self, device: Device) -> None:
        """A daemon starts on what the device's disk holds. Nothing where it is on already."""
        if device.core is not None:
            return
        device.life += 1
        device.core = self._make_core(
            device.index,
            identity=device.identity,
            swarm=self._swarm,
            initial=self._initial,
            settings=Settings(
                addresses=(address_of(device),),
                bootstrap=self._bootstrap(device),
                sequence=device.life << BOOT_SHIFT,
                hub=device.hardware.hub,
            ),
            entropy=Stream("device", self._seed, device.index, device.life),
            read=lambda table: sorted(device.disk[table].items()),
            opener=self._commons,
            credential=self._credentials[device.index],
        )
        self._perform(device, device.core.start(self.now))
        if self._swarm.manifest.certifies:
            self._tell_time(device, device.life)
        self._tell(device, TRAINER_S, TrainerReady(self._phases.examples(device.index)))

    def _tell_time(self, device: Device, life: int) -> None:
        if device.life == life:
            self._deliver(device, life, Clock(EPOCH_S + int(self.now)))
            self._at(self.now + CLOCK_S, self._tell_time, device, life)

    def cut(self, side: Iterable[int]) -> None:
        """From now on these devices and all others do not reach each other. Cuts may overlap, and one may come twice."""
        self._cuts.append(frozenset(side))

    def heal(self, side: Iterable[int]) -> None:
        """The cut of exactly this side is over. ValueError if there is none."""
        self._cuts.remove(frozenset(side))
        for device in self.devices:
            for peer, pipe in device.pipes.items():
                if pipe.closed or pipe.held:
                    self._at(pipe.sends_again_at(self.now), self._send_again, device, peer, pipe)

    def switch_off(self, device: Device) -> None:
        """Without a word: its neighbours see their connections end. Nothing where it is off already."""
        if device.core is None:
            return
        for peer in list(device.pipes):
            self._break(device, peer, "connection lost")
        device.life += 1
        device.core = None
        device.timers.clear()
        device.dialling.clear()
        device.trainer.forget()
        device.port.up_free_s = device.port.down_free_s = device.disk_free_s = self.now

    def _leave_next(self, device: Device, away: Iterator[tuple[float, float]]) -> None:
        off_s, on_s = next(away, (math.inf, math.inf))
        if off_s < math.inf:
            self._at(off_s, self.switch_off, device)
            self._at(on_s, self.switch_on, device)
            self._at(on_s, self._leave_next, device, away)

    # --- events ----------------------------------------------------------------------------------------------

    def _at(self, at: float, happen: Callable[..., None], *arguments: object) -> None:
        self._agenda.add((at, next(self._numbers), happen, arguments))

    def _tell(self, device: Device, delay_s: float, event: Event) -> None:
        self._at(self.now + delay_s, self._deliver, device, device.life, event)

    def _deliver(self, device: Device, life: int, event: Event, data: bytes = b"") -> None:
        """`data` are the bytes of a message, for the trace."""
        if device.core is None or device.life != life:
            return
        self.events += 1
        traced = self._traced
        traced += _STAMP.pack(self.now, device.index, len(data))
        traced += _NAMES[type(event)]
        traced += data
        if len(traced) > TRACE_PIECE_BYTES:
            self._trace.update(traced)
            traced.clear()
        actions = device.core.handle(event, self.now)
        if actions:
            self._perform(device, actions)

    def _perform(self, device: Device, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(peer, data):  # two of three
                    self._send(device, peer, data)
                case SetTimer(tag, at):
                    number = device.timers[tag] = next(self._numbers)
                    self._at(max(at, self.now), self._fire, device, tag, number)
                case Persist():
                    device.disk_free_s = max(self.now, device.disk_free_s) + device.hardware.commit_s
                    self._at(device.disk_free_s, self._commit, device, device.life, action)
                case Report():
                    if action.name == "fault" and not self._hostile:
                        raise CoreFaultError(f"device {device.index}: {action.fields}")
                    self._report(self.now, device.index, action)
                case CancelTimer(tag):
                    device.timers.pop(tag, None)
                case Compute(tag, job):
                    self._tell(device, device.hardware.job_s, Computed(tag, result_of(job)))
                case Dial(peer, _):
                    self._dial(device, self._by_key[peer])
                case Disconnect(peer, reason):
                    self._report(
                        self.now,
                        device.index,
                        Report("disconnects", {"peer": peer.hex()[:16], "reason": reason}),
                    )
                    if peer in device.pipes:
                        self._break(device, peer, reason)
                case Train():
                    eligible_at = device.trainer.begin(action, self.now)
                    self._at(eligible_at, self._make_eligible, device, device.life, action)
                case Rebase(change):
                    device.trainer.rebase(change, self.now)
                case Freeze(phase):
                    at = device.trainer.ends_step_at(self.now)
                    self._at(at, self._freeze, device, device.life, phase)
                case Abandon(phase):
                    if device.trainer.phase == phase:
                        device.trainer.drop(self.now)
                case Pause():
                    device.trainer.pause(self.now)
                case Resume():
                    device.trainer.resume(self.now)
                case Look():
                    at = device.trainer.free_at(self.now) + LOOK_STEPS * device.hardware.step_s
                    self._at(at, self._look, device, device.life, action)
                case Evaluate():
                    self._at(
                        self.now + device.hardware.evaluate_s, self._evaluate, device, device.life, action
                    )
                case TellGuests() | Answered():
                    pass  # nobody here listens in public, or asks a core on its owner's behalf
                case _:
                    assert_never(action)

    def _fire(self, device: Device, tag: Tag, number: int) -> None:
        if device.timers.get(tag) == number:
            del device.timers[tag]
            self._deliver(device, device.life, TimerFired(tag))

    def _commit(self, device: Device, life: int, persist: Persist) -> None:
        if device.life != life:
            return
        for record in persist.records:
            if isinstance(record, Put):
                device.disk[record.table][record.key] = record.value
            else:
                device.disk[record.table].pop(record.key, None)
        if persist.tag is not None:
            self._deliver(device, life, Persisted(persist.tag))

    # --- the trainer -----------------------------------------------------------------------------------------

    def _make_eligible(self, device: Device, life: int, train: Train) -> None:
        if device.trainer.phase != train.phase:
            return
        due_at = device.trainer.eligible_at(train, self.now)
        if due_at > self.now:
            self._at(due_at, self._make_eligible, device, life, train)
        else:
            self._deliver(device, life, Eligible(train.phase, train.min_steps))

    def _freeze(self, device: Device, life: int, phase: int) -> None:
        if device.life != life or device.trainer.phase != phase:
            return
        if self.now >= self._caught_up_at + CATCH_UP_S:
            self._caught_up_at = self.now
            for each in self.devices:
                each.trainer.catch_up(self.now)
        try:
            delta, steps, loss = device.trainer.freeze(self.now)
        except ArithmeticError as error:
            self._fail_trainer(device, str(error))
        else:
            self._deliver(device, life, Frozen(phase, delta, steps, loss), delta.tobytes())

    def _look(self, device: Device, life: int, look: Look) -> None:
        if device.life == life:
            losses = [self._phases.look(device.index, model) for model in (look.before, look.after)]
            self._deliver(device, life, Looked(look.tag, *losses))

    def _evaluate(self, device: Device, life: int, evaluate: Evaluate) -> None:
        if device.life != life:
            return
        try:
            accuracy, loss = self._phases.evaluate(evaluate.model)
        except ArithmeticError as error:
            self._fail_trainer(device, str(error))
        else:
            self._deliver(device, life, Evaluated(evaluate.round, accuracy, loss))

    def _fail_trainer(self, device: Device, reason: str) -> None:
        """As in a daemon, where a fresh one takes its place."""
        device.trainer.forget()
        self._deliver(device, device.life, TrainerFailed(reason))
        self._tell(device, TRAINER_S, TrainerReady(self._phases.examples(device.index)))

    # --- connections -----------------------------------------------------------------------------------------

    def _bootstrap(self, device: Device) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
        """Devices that were there before it; the first one is told of nobody."""
        chance = Stream("bootstrap", self._seed, device.index)
        earlier = device.index
        if earlier <= BOOTSTRAP_ONE:
            chosen = [0] if earlier else []
        else:
            chosen = sorted(dict.fromkeys(int(chance.uniform(0, earlier)) for _ in range(BOOTSTRAP)))
        return tuple((self.devices[index].key, (address_of(self.devices[index]),)) for index in chosen)

    def _dial(self, device: Device, other: Device) -> None:
        if other.key in device.pipes or other.key in device.dialling:
            return
        device.dialling[other.key] = None
        one_way_s = device.hardware.link.latency_s + other.hardware.link.latency_s
        is_there = other.core is not None and not self._are_apart(device, other)
        after_s = HANDSHAKE_S + HANDSHAKE_TRIPS * one_way_s if is_there else DIAL_S
        self._at(self.now + after_s, self._connect, device, device.life, other)

    def _connect(self, device: Device, life: int, other: Device) -> None:
        if device.life != life:
            return
        del device.dialling[other.key]
        for one, another in ((device, other), (other, device)):
            if another.key in one.pipes and one.pipes[another.key].closed:
                self._end(one, another.key, "replaced by a newer connection")
        if other.key in device.pipes:
            return  # the other side's dial was first
        full = any(
            len(each.pipes) >= (HUB_CONNECTIONS_MAX if each.hardware.hub else CONNECTIONS_MAX)
            for each in (device, other)
        )
        if other.core is None or full or self._are_apart(device, other):
            self._tell(device, 0.0, PeerDown(other.key, "could not connect"))
            return
        for one, another in ((device, other), (other, device)):
            one.pipes[another.key] = Pipe(one, another, (one.port.link, another.port.link))
            one.traffic.sent += CONNECTION_BYTES
            one.traffic.received += CONNECTION_BYTES
            self._tell(one, 0.0, PeerUp(another.key))

    def _break(self, device: Device, peer: bytes, reason: str) -> None:
        """Both sides lose the connection, and what was under way in it: this one now, the other a moment later.

        Over a cut the other hears nothing.
        """
        other = self._by_key[peer]
        for one, another in ((device, other), (other, device)):
            if another.key in one.pipes:
                one.pipes[another.key].close(self.now)
        self._end(device, peer, reason)
        if device.key in other.pipes and not self._are_apart(device, other):
            one_way_s = device.hardware.link.latency_s + other.hardware.link.latency_s
            self._end(other, device.key, "connection lost", one_way_s)

    def _end(self, device: Device, peer: bytes, reason: str, delay_s: float = 0.0) -> None:
        """This end of a connection that is closed."""
        del device.pipes[peer]
        self._tell(device, delay_s, PeerDown(peer, reason))

    # --- cuts ------------------------------------------------------------------------------------------------

    def _are_apart(self, one: Device, other: Device) -> bool:
        return any((one.index in side) != (other.index in side) for side in self._cuts)

    def _give_up(self, pipe: Pipe[Device], since_s: float) -> None:
        """Nothing was acknowledged for so long."""
        sender, receiver = pipe.sender, pipe.receiver
        if pipe.held and pipe.lost_at == since_s and sender.pipes.get(receiver.key) is pipe:
            self._break(sender, receiver.key, "connection lost")

    def _send_again(self, device: Device, peer: bytes, pipe: Pipe[Device]) -> None:
        """After a cut: what did not cross it, in its order; or, to a partner that has given up, a question too many."""
        if device.pipes.get(peer) is not pipe or self._are_apart(pipe.sender, pipe.receiver):
            return
        if pipe.closed:
            self._end(device, peer, "connection lost")
            return
        held, pipe.held = pipe.held, []
        for size, data in held:
            self._arrive(pipe, size, data)

    # --- bytes -----------------------------------------------------------------------------------------------

    def _send(self, device: Device, peer: bytes, data: bytes) -> None:
        pipe = device.pipes.get(peer)
        if pipe is None:
            self._tell(device, 0.0, SendFailed(peer, data, "not connected"))
            return
        self.sent_by_kind[kind_of(data)] += len(data)
        self._transmit(pipe, pipe.size_of(len(data), self.now), data)

    def _transmit(self, pipe: Pipe[Device], size: int, data: bytes) -> None:
        sender = pipe.sender
        sender.traffic.sent += size
        arrives_at = pipe.arrives(sender.port.leaves(size, self.now), size, self._chance)
        self._agenda.add((arrives_at, next(self._numbers), self._arrive, (pipe, size, data)))

    def _arrive(self, pipe: Pipe[Device], size: int, data: bytes) -> None:
        """The last byte is at the receiver's downlink."""
        if pipe.held or (self._cuts and self._are_apart(pipe.sender, pipe.receiver)):
            if pipe.hold((size, data), self.now):
                self._at(self.now + UNACKED_S, self._give_up, pipe, self.now)
        elif not pipe.closed:
            whole_at = pipe.receiver.port.takes(size, pipe.links[0], self.now)
            if whole_at <= self.now:
                self._receive(pipe, size, data)
            else:
                self._at(whole_at, self._receive, pipe, size, data)

    def _receive(self, pipe: Pipe[Device], size: int, data: bytes) -> None:
        if pipe.closed:
            return
        sender, receiver = pipe.sender, pipe.receiver
        receiver.traffic.received += size
        self._deliver(receiver, receiver.life, Received(sender.key, data), data)


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """Nothing here leaves cycles behind, and looking for them in so large a heap costs a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()  # and back: what is new counts as old, or the collector would look through it as soon as it wakes
            gc.unfreeze()
            gc.enable()
