"""Devices that nobody can dial are reached through one that can be dialled: circuit relay, without the world.

A router that translates addresses lets its devices dial out and lets nobody in. Such a device keeps a connection to a member
that it could dial from its own network, and *reserves* there; others ask that member, the *relay*, for a circuit to it. Through the
circuit both ends make a connection of their own, encrypted and proven end to end, so the relay sees who speaks with whom,
when and how much, and no more. The messages are those of libp2p's circuit relay v2 (github.com/libp2p/specs, relay/circuit-v2.md);
`node.net.libp2p.circuits` carries them.

`Relay` is the side that helps. It serves members of its own swarm alone, and is bounded in reservations, in circuits, in
circuits of one member, and in bytes a second over all circuits (`Meter`). A reservation lasts RESERVATION_S, and no longer than the
connection on which it was asked for.

    Reserve -> Granted | Refused        Connect -> Open | Refused        Ended, Gone: forget

`Seeker` is the side that needs help, and decides whether it does. A device knows that it can be dialled while somebody from
beyond its own networks has dialled it; otherwise it takes itself for one that cannot, and reserves at up to RELAYS_MAX members.
Whom does it ask? Those that it has dialled itself, beyond its own networks: it is the proof that others can. So no device
needs to be told that it is a relay, or that it needs one.

    Dialled -> Ask        Accepted -> Announce without circuits        Reserved -> Announce        Denied, Lost -> Ask another
    Due -> Ask again, for a reservation of which half is over

Against a relay: it can end circuits, or make them slow, and knows the two ends. Against those that reserve: the bounds. Against
whoever announces a circuit's address: it costs its readers one dial to an address of its choice, as any address does.

Then each pair tries to do without (`libp2p` calls it DCUtR, specs, relay/DCUtR.md): both ends tell each other, through the circuit,
at which address the relay sees them, and dial each other at the same moment, so that each router takes the other's packets for
answers. `PUNCH_PAUSES_S` says when; where it works the connection takes the circuit's place.
"""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

RESERVATION_S = 3600.0
RESERVATIONS_MAX = 64
CIRCUITS_MAX = 256
CIRCUITS_OF_ONE = 8  # whichever end it is: each is a stream on its one connection to the relay
CIRCUITS_OF_PAIR = 2  # one that is ending, and its successor
RELAYED_BYTES_PER_S = 4 * 1024 * 1024  # over all circuits
RELAYED_BURST_BYTES = 4 * 1024 * 1024
REACHED_S = 600.0  # that a device takes itself for one that can be dialled, after the last who did has gone
RELAYS_MAX = 2  # at which one device reserves
CANDIDATES_MAX = 64  # connections at which it could
PUNCH_PAUSES_S = (0.5, 5.0, 30.0)  # before each try, from when the circuit is up


class Status(IntEnum):
    """Circuit relay v2's."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


# --- the relay -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserve:
    peer: bytes
    member: bool


@dataclass(frozen=True, slots=True)
class Connect:
    source: bytes
    member: bool
    target: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A circuit that was opened, or one that could not be."""

    source: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    peer: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    peer: bytes
    until: float


@dataclass(frozen=True, slots=True)
class Open:
    source: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    status: Status
    reason: str


class Relay:
    def __init__(self) -> None:
        self._reserved: dict[bytes, float] = {}  # until when
        self._circuits: Counter[bytes] = Counter()  # by either end
        self._pairs: Counter[tuple[bytes, bytes]] = Counter()
        self._open = 0

    @property
    def reservations(self) -> int:
        return len(self._reserved)

    @property
    def circuits(self) -> int:
        return self._open

    def handle(self, event: Reserve | Connect | Ended | Gone, now: float) -> list[Granted | Open | Refused]:
        self._reserved = {peer: until for peer, until in self._reserved.items() if until > now}
        match event:
            case Reserve(peer, member):
                return [self._reserve(peer, now) if member else _stranger()]
            case Connect(source, member, target):
                return [self._connect(source, target) if member else _stranger()]
            case Ended(source, target):
                self._open -= 1
                self._circuits -= Counter((source, target))  # drops those at nought
                self._pairs -= Counter([(source, target)])
            case Gone(peer):
                self._reserved.pop(peer, None)
        return []

    def _reserve(self, peer: bytes, now: float) -> Granted | Refused:
        if peer not in self._reserved and len(self._reserved) >= RESERVATIONS_MAX:
            return Refused(Status.RESERVATION_REFUSED, f"{RESERVATIONS_MAX} members have reserved already")
        self._reserved[peer] = now + RESERVATION_S
        return Granted(peer, now + RESERVATION_S)

    def _connect(self, source: bytes, target: bytes) -> Open | Refused:
        if source == target:
            return Refused(Status.MALFORMED_MESSAGE, "a circuit from a device to itself")
        if target not in self._reserved:
            return Refused(Status.NO_RESERVATION, "that device has not reserved here")
        if self._pairs[source, target] >= CIRCUITS_OF_PAIR:
            return Refused(Status.RESOURCE_LIMIT_EXCEEDED, "as many circuits as two may have are open")
        if (
            self._open >= CIRCUITS_MAX
            or max(self._circuits[source], self._circuits[target]) >= CIRCUITS_OF_ONE
        ):
            return Refused(Status.RESOURCE_LIMIT_EXCEEDED, "as many circuits as there may be are open")
        self._open += 1
        self._circuits.update((source, target))
        self._pairs.update([(source, target)])
        return Open(source, target)


def _stranger() -> Refused:
    return Refused(Status.PERMISSION_DENIED, "only members of the swarm are relayed for")


class Meter:
    """How long what is relayed has to wait, so that a second carries no more than it may."""

    def __init__(self, now: float) -> None:
        self._credit = float(RELAYED_BURST_BYTES)
        self._at = now

    def wait_s(self, size: int, now: float) -> float:
        """Counts these bytes; they may pass after so long. Who comes later waits behind them."""
        earned = (now - self._at) * RELAYED_BYTES_PER_S
        self._credit = min(self._credit + earned, RELAYED_BURST_BYTES) - size
        self._at = now
        return max(0.0, -self._credit / RELAYED_BYTES_PER_S)


# --- the device behind a router ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialled:
    """A neighbour that this device has dialled, beyond its own networks, at this address."""

    peer: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A neighbour from beyond this device's own networks, that has dialled it."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Reserved:
    peer: bytes
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Denied:
    peer: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection to a neighbour is over."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Due:
    """The moment that `Seeker.due_at` named."""


@dataclass(frozen=True, slots=True)
class Ask:
    peer: bytes


@dataclass(frozen=True, slots=True)
class Announce:
    """This device can be reached through these, each with its address."""

    relays: tuple[tuple[bytes, str], ...]


SeekerEvent: TypeAlias = Dialled | Accepted | Reserved | Denied | Lost | Due


class Seeker:
    def __init__(self) -> None:
        self.reached = False  # by somebody beyond this device's own networks, now or within REACHED_S
        self._callers: set[bytes] = set()  # as many as there are connections
        self._called_at = 0.0  # when the last of them went
        self._candidates: dict[
            bytes, str
        ] = {}  # not asked, or it has denied; in the order in which they came
        self._denied: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._relays: dict[bytes, tuple[str, float, float]] = {}  # address, when to renew, until when

    def is_relay(self, peer: bytes) -> bool:
        """Whether this device has reserved there."""
        return peer in self._relays

    @property
    def relays(self) -> list[bytes]:
        return list(self._relays)

    @property
    def candidates(self) -> int:
        return len(self._candidates)

    @property
    def due_at(self) -> float:
        forget = self._called_at + REACHED_S if self.reached and not self._callers else float("inf")
        return min((renew for _, renew, _ in self._relays.values()), default=forget)

    def handle(self, event: SeekerEvent, now: float) -> list[Ask | Announce]:
        before = tuple(self._relays)
        renewed: list[Ask | Announce] = []
        match event:
            case Dialled(peer, address):
                if len(self._candidates) < CANDIDATES_MAX:
                    self._candidates[peer] = address
            case Accepted(peer):
                self.reached = True
                self._callers.add(peer)
                self._relays = {}
            case Reserved(peer, lasts_s):
                self._asked.discard(peer)
                if peer in self._candidates and not self.reached:
                    self._relays[peer] = (self._candidates[peer], now + lasts_s / 2, now + lasts_s)
            case Denied(peer):
                self._asked.discard(peer)
                self._denied.add(peer)
                self._relays.pop(peer, None)
            case Lost(peer):
                self._callers.discard(peer)
                self._called_at = now
                for each in (self._asked, self._denied):
                    each.discard(peer)
                self._candidates.pop(peer, None)
                self._relays.pop(peer, None)
            case Due():
                self.reached = bool(self._callers) or (self.reached and now < self._called_at + REACHED_S)
                renewed = self._renew(now)
        changed = before != tuple(self._relays)
        return [*([self._announced()] if changed else []), *renewed, *self._ask()]

    def _renew(self, now: float) -> list[Ask | Announce]:
        """Ask again, and count on what is left of the old one until there is an answer."""
        due = [peer for peer, (_, renew, _) in self._relays.items() if renew <= now]
        for peer in due:
            address, _, until = self._relays[peer]
            if until <= now:
                del self._relays[peer]
            else:
                self._relays[peer] = (address, until, until)
        self._asked.update(due)
        return [Ask(peer) for peer in due]

    def _ask(self) -> list[Ask | Announce]:
        if self.reached:
            return []
        missing = RELAYS_MAX - len(self._relays) - len(self._asked - set(self._relays))
        free = [
            peer
            for peer in self._candidates
            if peer not in self._asked and peer not in self._denied and peer not in self._relays
        ]
        chosen = free[: max(0, missing)]
        self._asked.update(chosen)
        return [Ask(peer) for peer in chosen]

    def _announced(self) -> Announce:
        return Announce(tuple((peer, address) for peer, (address, _, _) in self._relays.items()))
