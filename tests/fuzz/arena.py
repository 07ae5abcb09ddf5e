"""A small world in which one device hears hostile messages while it trains and sums with the others."""

import contextlib
from collections import defaultdict
from collections.abc import Callable

import msgpack

from gossip.events import Dial, Disconnect, Received, Report, Send
from gossip.frames import Kind
from gossip.wire import pack
from tests.simulation.harness import Device, Faults, World

DEVICES = 5
LATEST = 400  # frames of the wire, from which hostile ones are made
CODECS = ("dense", "lowrank")


class FaultFoundError(AssertionError):
    """Something escaped a core, or a core told of a fault."""


class NoObserver:
    """Hostile members break what an observer of honest ones relies on."""

    def after(self, device):
        pass

    computing = committed = on_wire = settled = crashed = lambda *_: None

    def require(self, holds, what):
        if not holds:
            raise FaultFoundError(what)


class Arena(World):
    """`number` chooses the codec, who admits, and where the world is when the first hostile message comes."""

    def __init__(self, number: int, *, invite: bool = False) -> None:
        self.faults_told: list[Report] = []
        self.alter: Callable[[Device, bytes], bytes] = lambda _speaker, data: data  # what goes to the victim
        self.last: list[Received] = []  # that somebody has made up
        self.victim_index = number % 3
        self.leaves: dict[int, list[bytes]] = defaultdict(list)  # byte strings of the wire, by length
        admit = "invite" if invite or number % 5 == 4 else "members"
        super().__init__(
            1000 + number,
            DEVICES,
            faults=Faults(until=0.0),
            codec=CODECS[number % len(CODECS)],
            admit=admit,
            attacked=True,
        )
        self.observer = NoObserver()
        self.run(2.0 + number * 1.7 % 11)
        self.victim = self.devices[self.victim_index]
        self._read_at = 0
        self._learn_leaves()

    def _do(self, device: Device, action: object) -> None:
        if isinstance(action, Report) and action.name == "fault":
            self.faults_told.append(action)
        elif isinstance(action, Dial | Send | Disconnect) and action.peer not in self.by_key:
            return  # somebody whom a hostile message has made up
        super()._do(device, action)

    def _arrive(self, sender: bytes, other: Device, data: bytes) -> None:
        if other.index == self.victim_index:
            data = self.alter(self.by_key[sender], data)
        super()._arrive(sender, other, data)

    # --- what hostile messages are made from ----------------------------------------------------------------

    def _learn_leaves(self) -> None:
        for frame in self._old_frames[self._read_at :][-LATEST:]:
            self._learn(msgpack.unpackb(frame))
        self._read_at = len(self._old_frames)
        for device in self.alive():
            self.leaves[32] += [device.key, *device.core._cohorts]
        for size, known in self.leaves.items():
            self.leaves[size] = list(dict.fromkeys(known))[-64:]

    def _learn(self, plain: object) -> None:
        if isinstance(plain, bytes):
            if len(plain) < 2000:
                self.leaves[len(plain)].append(plain)
            if plain[:1] and plain[0] & 0xF0 == 0x90:
                with contextlib.suppress(ValueError, msgpack.UnpackException):
                    self._learn(msgpack.unpackb(plain))
        elif isinstance(plain, list):
            for item in plain:
                self._learn(item)

    def said(self, kind: Kind) -> list[list[object]]:
        """The latest frames of a kind, as plain values."""
        frames = [frame for frame in self._old_frames[-LATEST:] if frame[2] == kind]
        return [msgpack.unpackb(frame) for frame in frames[-16:]]

    # --- what happens ----------------------------------------------------------------------------------------

    def feed(self, events: list[Received]) -> None:
        """Hand hostile messages to the victim. FaultFoundError if it takes them for anything but a peer's."""
        core = self.victim.core
        for event in events:
            core._offences.clear()
            core._shunned.clear()
            try:
                actions = core.handle(event, self.now)
                core.status(self.now)
                pack(core.status(self.now)["live"])
            except Exception as error:
                raise FaultFoundError(f"{type(error).__name__}: {error}") from error
            # An honest device that says hostile things would be cut off, and nothing more would come of it.
            self._perform(self.victim, [action for action in actions if not isinstance(action, Disconnect)])
            self.look()

    def go_on(self, seconds: float) -> None:
        try:
            self.run(seconds)
        except FaultFoundError:
            raise
        except Exception as error:
            raise FaultFoundError(f"later: {type(error).__name__}: {error}") from error
        self._learn_leaves()
        self.look()

    def look(self) -> None:
        if self.faults_told:
            told, self.faults_told = self.faults_told, []
            raise FaultFoundError("; ".join(str(report.fields) for report in told))
