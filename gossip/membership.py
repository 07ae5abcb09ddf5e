"""Who belongs to the swarm, who of them is alive, and how to reach them.

Every device signs its own *presence*: its addresses under an ascending sequence number. Presences spread by gossip and are
handed to each new neighbour, so a device that knows one other soon knows all, and nobody can speak for somebody else.

A member counts as live while it is a neighbour, or while its presence was heard within PRESENCE_TTL_S. A neighbour sends ALIVE
every BEAT_S; one that is silent for SILENCE_S is disconnected, because a stopped process keeps its sockets open and would
otherwise be waited for. A member that went down is dialled again with back-off, for as long as its presence is remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import (
    Dial,
    Disconnect,
    PeerDown,
    PeerUp,
    Persist,
    Publish,
    Put,
    Report,
    Send,
    SetTimer,
    TimerFired,
)
from gossip.manifest import Swarm
from gossip.messages import PRESENCES_MAX, Alive, Greeting, Message, Presence, open_frame, sign_frame

BEAT_S = 3.0
SILENCE_S = 4 * BEAT_S
PRESENCE_S = 30.0
PRESENCE_TTL_S = 3 * PRESENCE_S
KNOWN_MAX = 1024  # members remembered
BACKOFF_S = (BEAT_S, 60.0)  # first and longest pause between two dials of one member

Action: TypeAlias = Send | Publish | Dial | Disconnect | SetTimer | Persist | Report


@dataclass(slots=True)
class Known:
    """What we know of one member."""

    presence: Presence
    raw: bytes  # the frame, as its author signed it
    heard_at: float
    down: bool = False  # it went, and nothing was heard of it since
    dial_at: float = 0.0
    backoff_s: float = BACKOFF_S[0]


@dataclass(frozen=True, slots=True)
class Settings:
    addresses: tuple[str, ...]  # our own, as others should dial them
    bootstrap: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    neighbours: int = 8
    remembered: tuple[bytes, ...] = ()  # presences of an earlier run, as their authors signed them
    sequence: int = 0  # of the first presence; ascends from start to start of this device


@dataclass(slots=True)
class Neighbour:
    heard_at: float
    since: float


class Membership:
    def __init__(
        self, swarm: Swarm, identity: Identity, settings: Settings, pulse: Callable[[], tuple[int, bytes]]
    ) -> None:
        """`pulse` tells the highest round and the 8-byte digest of the history, for ALIVE."""
        self._swarm = swarm
        self._identity = identity
        self._settings = settings
        self._pulse = pulse
        self.me = identity.public_key
        self.known: dict[bytes, Known] = {}
        self.neighbours: dict[bytes, Neighbour] = {}
        self._bootstrap = {
            peer: addresses for peer, addresses in sorted(settings.bootstrap) if peer != self.me
        }
        self._bootstrap_at = dict.fromkeys(self._bootstrap, 0.0)  # when each may be dialled again
        self._sequence = settings.sequence
        for raw in settings.remembered:
            self._recall(raw)
        self._presence = self._sign_presence()

    def belongs(self, peer: bytes) -> bool:
        return self._swarm.admits(peer)

    def live(self, now: float) -> list[bytes]:
        """This device and all members who are believed to be up, ascending."""
        heard = [
            peer
            for peer, known in self.known.items()
            if not known.down and now - known.heard_at < PRESENCE_TTL_S
        ]
        return sorted({self.me, *heard, *self.neighbours})

    def addresses_of(self, peer: bytes) -> tuple[str, ...]:
        known = self.known.get(peer)
        return known.presence.addresses if known else self._bootstrap.get(peer, ())

    def start(self, now: float) -> list[Action]:
        self._bootstrap_at = dict.fromkeys(self._bootstrap, now + BEAT_S)
        return [
            SetTimer(("membership", "beat"), now + BEAT_S),
            SetTimer(("membership", "presence"), now + PRESENCE_S),
            *(Dial(peer, addresses) for peer, addresses in self._bootstrap.items()),
        ]

    def heard_from(self, peer: bytes, now: float) -> None:
        """A verified message came from this peer itself."""
        if peer in self.neighbours:
            self.neighbours[peer].heard_at = now
        if peer in self.known:
            self.known[peer].heard_at = now
            self.known[peer].down = False

    def handle(self, event: Message | PeerUp | PeerDown | TimerFired, now: float) -> list[Action]:
        match event:
            case PeerUp(peer):
                return self._on_up(peer, now)
            case PeerDown(peer, reason):
                return self._on_down(peer, reason, now)
            case TimerFired(("membership", "beat")):
                return self._on_beat(now)
            case TimerFired(("membership", "presence")):
                self._sequence += 1
                self._presence = self._sign_presence()
                return [SetTimer(("membership", "presence"), now + PRESENCE_S), Publish(self._presence)]
            case Message(body=Presence()):
                return self._learn(event, now)
            case Message(body=Greeting(presences)):
                return self._on_greeting(presences, now)
        return []

    def _on_up(self, peer: bytes, now: float) -> list[Action]:
        if not self.belongs(peer):
            return [Disconnect(peer, "not a member of this swarm")]
        newcomer = peer not in self.neighbours
        self.neighbours[peer] = Neighbour(now, now)
        if peer in self.known:
            self.known[peer].down = False
            self.known[peer].backoff_s = BACKOFF_S[0]
        others = sorted(self.known, key=lambda p: (self.known[p].down, -self.known[p].heard_at, p))
        frames = [self.known[p].raw for p in others if p != peer][: PRESENCES_MAX - 1]
        greeting = Greeting((self._presence, *frames))
        hello = Send(peer, sign_frame(self._identity, self._swarm.id, greeting))
        return [
            hello,
            self._alive(peer),
            *([Report("peer_up", {"peer": peer.hex()[:16]})] if newcomer else []),
        ]

    def _on_down(self, peer: bytes, reason: str, now: float) -> list[Action]:
        was_neighbour = self.neighbours.pop(peer, None) is not None
        known = self.known.get(peer)
        if known:
            known.down = True
            known.dial_at = now + known.backoff_s
            known.backoff_s = min(2 * known.backoff_s, BACKOFF_S[1])
        return [Report("peer_down", {"peer": peer.hex()[:16], "reason": reason})] if was_neighbour else []

    def _on_beat(self, now: float) -> list[Action]:
        actions: list[Action] = [SetTimer(("membership", "beat"), now + BEAT_S)]
        silent = [p for p, neighbour in self.neighbours.items() if now - neighbour.heard_at > SILENCE_S]
        for peer in silent:
            reason = f"silent for {SILENCE_S:.0f} s"
            actions += [Disconnect(peer, reason), *self._on_down(peer, reason, now)]
        actions += [self._alive(peer) for peer in sorted(self.neighbours)]
        return actions + self._seek(now)

    def _seek(self, now: float) -> list[Action]:
        """Dial until there are enough neighbours; the order is by hash, so that a swarm's links spread evenly."""
        missing = self._settings.neighbours - len(self.neighbours)
        if missing <= 0:
            return []
        apart = [p for p, known in self.known.items() if p not in self.neighbours and known.dial_at <= now]
        apart.sort(key=lambda peer: (self.known[peer].down, digest("link", self.me, peer)))
        for peer in apart[:missing]:
            self.known[peer].dial_at = now + self.known[peer].backoff_s
        met = [Dial(peer, self.known[peer].presence.addresses) for peer in apart[:missing]]
        return [*self._dial_bootstrap(now), *met]

    def _dial_bootstrap(self, now: float) -> list[Action]:
        """Those that were never heard of, beside all others: one that is gone for good must not stand in the way."""
        unmet = [
            peer
            for peer, at in self._bootstrap_at.items()
            if at <= now and peer not in self.known and peer not in self.neighbours
        ]
        self._bootstrap_at |= dict.fromkeys(unmet, now + BEAT_S)
        return [Dial(peer, self._bootstrap[peer]) for peer in unmet]

    def _on_greeting(self, presences: tuple[bytes, ...], now: float) -> list[Action]:
        actions: list[Action] = []
        for raw in presences:
            message = open_frame(self._swarm.id, raw)
            if not isinstance(message.body, Presence):
                raise PeerViolation("GREETING: carries something else than presences")
            actions += self._learn(message, now)
        return actions

    def _learn(self, message: Message, now: float) -> list[Action]:
        peer, presence = message.sender, message.body
        if peer == self.me or not self.belongs(peer) or not isinstance(presence, Presence):
            return []
        known = self.known.get(peer)
        if known is None and len(self.known) >= KNOWN_MAX:
            return []
        if known is not None and presence.sequence <= known.presence.sequence:
            return []  # a replayed presence is no sign of life
        self.known[peer] = Known(presence, message.raw, now)
        if known is not None and known.presence.addresses == presence.addresses:
            return []  # a renewal is worth no write to the disk
        kept = Persist(("presence", peer), (Put("presence", peer, message.raw),))
        return [kept, *(self._seek(now) if known is None else [])]

    def _recall(self, raw: bytes) -> None:
        """A device that was known before this one restarted: worth a dial, and no sign of life."""
        message = open_frame(self._swarm.id, raw)
        if isinstance(message.body, Presence) and self.belongs(message.sender) and message.sender != self.me:
            self.known[message.sender] = Known(message.body, message.raw, -PRESENCE_TTL_S, down=True)

    def _sign_presence(self) -> bytes:
        presence = Presence(self._sequence, self._settings.addresses)
        return sign_frame(self._identity, self._swarm.id, presence)

    def _alive(self, peer: bytes) -> Send:
        round_, history = self._pulse()
        return Send(peer, sign_frame(self._identity, self._swarm.id, Alive(round_, history)))
