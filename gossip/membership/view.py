"""Who belongs to the swarm, who of them is alive, and how to reach them.

Every device signs its own *presence*: its addresses under an ascending sequence number. Neighbours tell each other their own,
a few others' to one that knows fewer than ENOUGH and says so, and what they have learned themselves: each hands on to NEWS_TO
of its neighbours, and only what has a place in its own view. So in a small swarm a device that knows one other soon knows all; in a large one everybody
knows a sample of KNOWN_MAX, nothing floods, and what a device sends and holds does not depend on how many there are. Whom a
cohort needs beyond that, its leader's GREETING and the *guides* beside new aggregates tell of: they are guests, forgotten in
the order in which they came, and guides always are, as all are told of the same. Nobody can speak for somebody else.

A member counts as live while it is a neighbour, or while its presence was heard within PRESENCE_TTL_S. A neighbour to which
nothing was sent for BEAT_S gets ALIVE, and every neighbour does in PULSE_S, because it tells whether two histories differ; one
that is silent for SILENCE_S is disconnected, because a stopped process keeps its sockets open and would otherwise be waited
for. A device that itself stood still does not judge others by the time that it has missed; it asks its neighbours at once
whether they are still there, and dials those that are not, as it does after a change of its own addresses, which it tells in a new
presence. A member that went down is dialled again with back-off, for as long as its presence is remembered. If most of those that a
device knows went, it is likelier cut off than they are all gone: then one of them is dialled at each beat, whatever their
back-off and however many neighbours there are, because one link is enough to join the two sides of a partition again. Cohorts
leave connections behind: of more than LINKS_MAX the idle ones are let go.

A **hub** says in its presence that it is well connected and there to stay. Others dial hubs first, keep them in a view that is
full, and would rather be led by them (`gossip.cohort.rendezvous`); a hub keeps more connections, and tells all its neighbours what is
new. It is a device's own word, and gives power over availability alone: of that, who claims it in vain takes some from its swarm.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import (
    Dial,
    Disconnect,
    Drop,
    Kept,
    PeerDown,
    PeerUp,
    Persist,
    Put,
    Readdressed,
    Record,
    Report,
    Send,
    SetTimer,
    TimerFired,
    Woke,
)
from gossip.frames import Message, channel_frame, open_frame, sign_frame
from gossip.manifest import Swarm
from gossip.membership.census import Census
from gossip.membership.messages import ADDRESSES_MAX, CENSUS_BYTES, PRESENCES_MAX, Alive, Greeting, Presence

BEAT_S = 10.0
SILENCE_S = 3 * BEAT_S
PULSE_S = 3 * BEAT_S
PRESENCE_S = 600.0
PRESENCE_TTL_S = 3 * PRESENCE_S
KNOWN_MAX = 64  # members in the view
COUNTED_MAX = 2 * KNOWN_MAX  # by the census, which is off by a quarter, where all may be known
GUESTS_MAX = 128  # presences of others, for cohorts
GREETED = 8  # others that a neighbour is told of, if it knows few and asks
ENOUGH = 16  # known members, of whom nobody asks for more
NEWS_S = 0.3  # until what is new is told, together
NEWS_MAX = 256  # presences that wait for it
NEWS_TO = 3  # neighbours, each time others: nearly all in a small swarm come to know all
NEWS_TO_OF_MANY = 1  # in a large one, where a view is a sample anyway
DIAL_S = 15.0  # after which a dial of which nothing was heard no longer counts as under way
LINKS_MAX = 24  # neighbours; cohorts may make them more for IDLE_S
HUB_LINKS_MAX = 192  # of a hub: others are to find it connected
HUBS_MAX = KNOWN_MAX // 2  # that a view which is full makes room for
IDLE_S = 3 * BEAT_S
BACKOFF_S = (3.0, 60.0)  # first and longest pause between two dials of one member
SOON_S = (
    BACKOFF_S[0] + 0.5
)  # until the next beat, once this device woke or moved: lost connections have shown by then

Action: TypeAlias = Send | Dial | Disconnect | SetTimer | Persist | Report


@dataclass(slots=True)
class Known:
    """What we know of one member."""

    rank: bytes  # in which both sides would choose each other, see Membership._rank
    presence: Presence
    raw: bytes  # the frame, as its author signed it
    heard_at: float  # before it became a neighbour, while it is one
    down: bool = False  # it went, and nothing was heard of it since
    dial_at: float = 0.0
    backoff_s: float = BACKOFF_S[0]


@dataclass(frozen=True, slots=True)
class Guest:
    presence: Presence
    raw: bytes


@dataclass(frozen=True, slots=True)
class Settings:
    addresses: tuple[str, ...]  # our own, as others should dial them
    bootstrap: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    neighbours: int = 8
    remembered: tuple[bytes, ...] = ()  # presences of an earlier run, as their authors signed them
    sequence: int = 0  # of the first presence; ascends from start to start of this device
    hub: bool = False  # well connected, and there to stay
    public: bool = False  # strangers are told what this device learns (gossip.history.public_announcement)


@dataclass(slots=True)
class Neighbour:
    rank: bytes
    heard_at: float
    since: float
    told_at: float  # anything at all
    pulse_at: float  # ALIVE
    used_at: float  # for more than ALIVE, either way
    asked: bool = False  # to be told of others
    wants: int = 0  # others that it was not told of yet
    kept: bool = False  # however idle: one of the two relays for the other


class Membership:
    def __init__(
        self,
        swarm: Swarm,
        identity: Identity,
        settings: Settings,
        pulse: Callable[[], tuple[int, bytes]],
        belongs: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`pulse` tells the highest round and the 8-byte digest of the history, for ALIVE.

        `belongs` is asked where the manifest alone does not say who does.
        """
        self._swarm = swarm
        self._listed = swarm.listed
        self.belongs = belongs or swarm.may_admit
        self._identity = identity
        self._settings = settings
        self._pulse = pulse
        self.me = identity.public_key
        self.known: dict[bytes, Known] = {}
        self.neighbours: dict[bytes, Neighbour] = {}
        self._inorder: list[bytes] | None = None  # the neighbours by rank, until one comes or goes
        self._guests: dict[bytes, Guest] = {}  # by arrival
        self._dialling: dict[
            bytes, float
        ] = {}  # until when it counts; at most as many as neighbours are wanted
        self._let_go: dict[bytes, None] = {}  # by us, until PeerDown confirms it
        self._news: dict[bytes, bytes] = {}  # whose presence is to be told: who brought it
        self._bootstrap = {
            peer: addresses for peer, addresses in sorted(settings.bootstrap) if peer != self.me
        }
        self._bootstrap_at = dict.fromkeys(self._bootstrap, 0.0)  # when each may be dialled again
        self._sequence = settings.sequence
        self._addresses = settings.addresses
        for raw in settings.remembered:
            self._recall(raw)
        self._presence = self._sign_presence()
        self._census = Census()
        self._census_news = False  # it has changed since it was told last
        self._news_due = False  # the timer runs
        self._told_news = 0  # neighbours, so far
        self._some_went = True  # since the view was last searched for somebody who did
        self._census.count(swarm.id, self.me)

    @property
    def sees_all(self) -> bool:
        """Whether this device may well know every member: all have a place in its view.

        A newcomer to a large swarm knows few yet, but has heard how many were counted.
        """
        if self._listed or len(self.known) >= KNOWN_MAX:
            return len(self._listed or self.known) < KNOWN_MAX
        return self._census.estimate() < COUNTED_MAX

    def is_hub(self, peer: bytes) -> bool:
        """Whether this device is known to be well connected, by its own word."""
        if peer == self.me:
            return self._settings.hub
        known = self.known.get(peer)
        return known.presence.hub if known else peer in self._guests and self._guests[peer].presence.hub

    def size(self) -> int:
        """How many members the swarm has: exactly where they are listed, else about so many."""
        if self._listed:
            return len(self._listed)
        return 1 + len(self.known) if self.sees_all else self._census.estimate()

    def links(self) -> list[bytes]:
        """The neighbours that hear of what is new: of many, as many as are wanted, those that both sides rank alike.

        A hub tells all of its: it is what they have it for.
        """
        inorder = self._ranked()
        return inorder[:] if self._settings.hub else inorder[: self._settings.neighbours]

    def _ranked(self) -> list[bytes]:
        """All neighbours, in the order of their ranks."""
        if self._inorder is None:
            self._inorder = sorted(self.neighbours, key=lambda peer: self.neighbours[peer].rank)
        return self._inorder

    def _rank(self, peer: bytes) -> bytes:
        """By hash, the same for both ends of a link: a swarm's links spread evenly, and nobody chooses."""
        return digest("link", min(self.me, peer), max(self.me, peer))

    def live(self, now: float) -> list[bytes]:
        """This device and all members who are believed to be up, ascending."""
        heard = [
            peer
            for peer, known in self.known.items()
            if not known.down and now - known.heard_at < PRESENCE_TTL_S
        ]
        return sorted({self.me, *heard, *self.neighbours})

    def addresses_of(self, peer: bytes) -> tuple[str, ...]:
        if peer in self.known:
            return self.known[peer].presence.addresses
        if peer in self._guests:
            return self._guests[peer].presence.addresses
        return self._bootstrap.get(peer, ())

    def reachable(self, peer: bytes) -> bool:
        """Whether there is a connection, or an address and no sign that it went."""
        if peer in self.neighbours:
            return True
        known = self.known.get(peer)
        return not known.down if known else bool(self.addresses_of(peer))

    def presences_of(self, peers: Iterable[bytes]) -> tuple[bytes, ...]:
        """The presences of those of them that are known, as their authors signed them."""
        frames = []
        for peer in peers:
            if peer == self.me:
                frames.append(self._presence)
            elif peer in self.known:
                frames.append(self.known[peer].raw)
            elif peer in self._guests:
                frames.append(self._guests[peer].raw)
        return tuple(frames)

    def introduce(self, peers: Iterable[bytes], to: bytes) -> list[Action]:
        """Tell one device where to find others."""
        frames = self.presences_of(peer for peer in peers if peer != to)[:PRESENCES_MAX]
        return [Send(to, channel_frame(Greeting(frames)))] if frames else []

    def start(self, now: float) -> list[Action]:
        self._bootstrap_at = dict.fromkeys(self._bootstrap, now + BACKOFF_S[0])
        return [
            SetTimer(("membership", "beat"), now + BEAT_S),
            SetTimer(("membership", "presence"), now + PRESENCE_S),
            *(self._dial_bootstrap_at_start(now)),
        ]

    def heard_from(self, peer: bytes, now: float, *, alive: bool = False) -> None:
        """A proven message came from this peer itself; `alive`: it was ALIVE."""
        neighbour = self.neighbours.get(peer)
        if neighbour is not None:
            neighbour.heard_at = now
            if not alive:
                neighbour.used_at = now
            return
        known = self.known.get(peer)
        if known is not None:
            known.heard_at = now
            known.down = False

    def spoke_to(self, peer: bytes, now: float) -> None:
        """Something other than ALIVE goes to this neighbour."""
        neighbour = self.neighbours.get(peer)
        if neighbour is not None:
            neighbour.told_at = neighbour.used_at = now

    def handle(
        self, event: Message | PeerUp | PeerDown | TimerFired | Woke | Readdressed | Kept, now: float
    ) -> list[Action]:
        match event:
            case Message(body=Greeting(presences, census, wanted)):
                if len(census) % CENSUS_BYTES:
                    raise PeerViolation("GREETING: a census of half a hash")
                if census and self._census.merge(census):
                    self._census_news = True
                return [*self.meet(presences, event.sender, now), *self._answer(event.sender, wanted)]
            case Message(body=Presence()):
                return self._learn([event], event.sender, now)
            case PeerUp(peer):
                return self._on_up(peer, now)
            case PeerDown(peer, reason):
                return self._on_down(peer, reason, now)
            case TimerFired(("membership", "beat")):
                return self._on_beat(now)
            case TimerFired(("membership", "news")):
                return self._tell_news()
            case TimerFired(("membership", "presence")):
                return [SetTimer(("membership", "presence"), now + PRESENCE_S), *self._renew_presence()]
            case Kept(peer) if peer in self.neighbours:
                self.neighbours[peer].kept = True
            case Woke():
                for neighbour in self.neighbours.values():
                    neighbour.heard_at = now
                return self._look_again(now)
            case Readdressed(addresses, moved):
                self._addresses = addresses[:ADDRESSES_MAX]
                return [*self._renew_presence(), *(self._look_again(now) if moved else ())]
        return []

    def _renew_presence(self) -> list[Send]:
        self._sequence += 1
        self._presence = self._sign_presence()
        renewal = channel_frame(Greeting((self._presence,)))
        return [Send(peer, renewal) for peer in sorted(self.neighbours)]

    def _on_up(self, peer: bytes, now: float) -> list[Action]:
        if not self.belongs(peer):
            return [Disconnect(peer, "not a member of this swarm")]
        self._dialling.pop(peer, None)
        newcomer = peer not in self.neighbours
        if peer in self.known and self.known[peer].down:
            self._end_cut(now)
        rank = self.known[peer].rank if peer in self.known else self._rank(peer)
        self.neighbours[peer] = Neighbour(rank, now, now, now, now, now)
        self._inorder = None
        if peer in self.known:
            self.known[peer].down = False
            self.known[peer].backoff_s = BACKOFF_S[0]
        greeting = Greeting((self._presence,), self._told_census(), self._wanted())
        return [
            Send(peer, channel_frame(greeting)),
            self._alive(peer),
            *([Report("peer_up", {"peer": peer.hex()[:16]})] if newcomer else []),
        ]

    def _wanted(self) -> int:
        """How many others this device asks a new neighbour for: most of its connections come when it knows enough."""
        enough = min(ENOUGH, len(self._listed) - 1) if self._listed else ENOUGH
        return max(0, min(GREETED, enough - len(self.known)))

    def _answer(self, peer: bytes, wanted: int) -> list[Action]:
        neighbour = self.neighbours.get(peer)
        if not wanted or neighbour is None or neighbour.asked:
            return []
        others = self._sample(peer, min(wanted, GREETED))
        neighbour.asked, neighbour.wants = True, min(wanted, GREETED) - len(others)
        return self.introduce(others, peer)

    def _sample(self, peer: bytes, count: int) -> list[bytes]:
        """Another few for each pair, so that who asks two hears of many; and the founder, if no round has been yet.

        The first READYs look for it.
        """
        sought = self._swarm.manifest.founder if self._pulse()[0] == 0 else None
        others = sorted(
            (other for other in self.known if other != peer),
            key=lambda other: (
                other != sought,
                self.known[other].down,
                digest("sample", self.me, peer, other),
            ),
        )
        return others[:count]

    def _on_down(self, peer: bytes, reason: str, now: float) -> list[Action]:
        neighbour = self.neighbours.pop(peer, None)
        self._inorder = None
        self._dialling.pop(peer, None)
        known = self.known.get(peer)
        let_go = peer in self._let_go
        self._let_go.pop(peer, None)
        if known:
            if neighbour is not None:
                known.heard_at = max(known.heard_at, neighbour.heard_at)
            known.down = not let_go
            self._some_went = True
            known.dial_at = now + known.backoff_s
            known.backoff_s = min(2 * known.backoff_s, BACKOFF_S[1])
        return [Report("peer_down", {"peer": peer.hex()[:16], "reason": reason})] if neighbour else []

    def _on_beat(self, now: float) -> list[Action]:
        actions: list[Action] = [SetTimer(("membership", "beat"), now + BEAT_S)]
        silent = [p for p, neighbour in self.neighbours.items() if now - neighbour.heard_at > SILENCE_S]
        for peer in silent:
            reason = f"silent for {SILENCE_S:.0f} s"
            actions += [Disconnect(peer, reason), *self._on_down(peer, reason, now)]
        actions += self._let_idle_go(now)
        for peer, neighbour in sorted(self.neighbours.items()):
            if peer in self._let_go:
                continue
            # Half a beat of slack, or what was said just after the last beat would make the next silence almost two long.
            if now - neighbour.told_at > BEAT_S / 2 or now - neighbour.pulse_at >= PULSE_S:
                neighbour.told_at = neighbour.pulse_at = now
                actions.append(self._alive(peer))
        return [*actions, *self._seek(now, self._settings.neighbours), *self._seek_beyond_a_cut(now)]

    def _look_again(self, now: float) -> list[Action]:
        """Ask the neighbours, and take nobody's absence as long: it was this device that was away."""
        for known in self.known.values():
            known.dial_at, known.backoff_s = now, BACKOFF_S[0]
        for neighbour in self.neighbours.values():
            neighbour.told_at = neighbour.pulse_at = now
        asked = [self._alive(peer) for peer in sorted(self.neighbours)]
        soon = SetTimer(("membership", "beat"), now + SOON_S)
        return [soon, *asked, *self._seek(now, self._settings.neighbours)]

    def _let_idle_go(self, now: float) -> list[Action]:
        links_max = HUB_LINKS_MAX if self._settings.hub else LINKS_MAX
        surplus = len(self.neighbours) - len(self._let_go) - links_max
        if surplus <= 0:
            return []
        idle = [
            peer
            for peer, neighbour in self.neighbours.items()
            if now - neighbour.used_at > IDLE_S and peer not in self._let_go and not neighbour.kept
        ]
        idle.sort(key=lambda peer: (-self.neighbours[peer].since, peer))
        self._let_go |= dict.fromkeys(idle[:surplus])
        return [Disconnect(peer, "idle, and there are enough others") for peer in idle[:surplus]]

    def _seek(self, now: float, neighbours: int) -> list[Action]:
        """Dial until there are so many; the order is by hash, so that a swarm's links spread evenly."""
        self._dialling = {peer: until for peer, until in self._dialling.items() if until > now}
        wanted = neighbours - len(self.neighbours)
        if wanted <= 0:
            return []
        actions = self._dial_bootstrap(now)
        missing = max(0, wanted - len(self._dialling))
        apart = [
            peer
            for peer, known in self.known.items()
            if peer not in self.neighbours and peer not in self._dialling and known.dial_at <= now
        ]
        apart.sort(
            key=lambda peer: (
                self.known[peer].down,
                not self.known[peer].presence.hub,
                self.known[peer].rank,
            )
        )
        for peer in apart[:missing]:
            self.known[peer].dial_at = now + self.known[peer].backoff_s
            self._dialling[peer] = now + DIAL_S
        return [*actions, *(Dial(peer, self.known[peer].presence.addresses) for peer in apart[:missing])]

    def _beyond_a_cut(self) -> list[bytes]:
        """Those that went, if they are most of the known; else nobody.

        The smaller side of a partition sees most of the others gone, and of two equal sides either does.
        """
        gone = [peer for peer, known in self.known.items() if known.down and peer not in self.neighbours]
        return gone if 2 * len(gone) >= len(self.known) else []

    def _end_cut(self, now: float) -> None:
        """One from beyond it is back, so the others, too, are worth a dial."""
        for peer in self._beyond_a_cut():
            self.known[peer].dial_at = now
            self.known[peer].backoff_s = BACKOFF_S[0]

    def _seek_beyond_a_cut(self, now: float) -> list[Action]:
        """The one whose turn is next, due or not."""
        apart = [peer for peer in self._beyond_a_cut() if peer not in self._dialling]
        if not apart:
            return []
        peer = min(apart, key=lambda each: (self.known[each].dial_at, self.known[each].rank))
        self.known[peer].dial_at = now + self.known[peer].backoff_s
        self._dialling[peer] = now + DIAL_S
        return [Dial(peer, self.known[peer].presence.addresses)]

    def _dial_bootstrap_at_start(self, now: float) -> list[Action]:
        self._dialling |= dict.fromkeys(self._bootstrap, now + DIAL_S)
        return [Dial(peer, addresses) for peer, addresses in self._bootstrap.items()]

    def _dial_bootstrap(self, now: float) -> list[Action]:
        """Those that were never heard of, beside all others: one that is gone for good must not stand in the way."""
        unmet = [
            peer
            for peer, at in self._bootstrap_at.items()
            if at <= now and peer not in self.known and peer not in self.neighbours
        ]
        self._bootstrap_at |= dict.fromkeys(unmet, now + BACKOFF_S[0])
        return [Dial(peer, self._bootstrap[peer]) for peer in unmet]

    # --- presences -------------------------------------------------------------------------------------------

    def meet(self, presences: tuple[bytes, ...], teller: bytes, now: float) -> list[Action]:
        """What a neighbour says of itself and of others. PeerViolation if it is anything but presences."""
        return self._learn(self._opened(presences), teller, now)

    def host(self, presences: tuple[bytes, ...], teller: bytes, now: float) -> list[Action]:
        """Guides: where to find devices that this one may have to ask. PeerViolation as in `meet`.

        They get no place in its view: all are told of the same few, who would become everybody's neighbours, and have no place
        left for those who ask them to lead.
        """
        messages = self._opened(presences)
        for message in messages:
            peer, presence = message.sender, message.body
            if peer not in self.known and self._may_know(peer) and isinstance(presence, Presence):
                self._count(peer)
                self._host(peer, presence, message.raw)
        return self._learn([message for message in messages if message.sender in self.known], teller, now)

    def _opened(self, presences: tuple[bytes, ...]) -> list[Message]:
        messages = [open_frame(self._swarm.id, raw) for raw in presences]
        if not all(isinstance(message.body, Presence) for message in messages):
            raise PeerViolation("something else than presences tells of devices")
        return messages

    def _learn(self, messages: Sequence[Message], teller: bytes, now: float) -> list[Action]:
        records: list[Record] = []
        strangers = 0
        quiet = not self._news_due
        before = self._census.told
        for message in messages:
            peer, presence = message.sender, message.body
            if not self._may_know(peer) or not isinstance(presence, Presence):
                continue
            known = self.known.get(peer)
            if known is None:
                self._count(peer)
                if not self._room(records, hub=presence.hub):
                    self._host(peer, presence, message.raw)
                    continue
            elif presence.sequence <= known.presence.sequence:
                continue  # a replayed presence is no sign of life
            rank = self._rank(peer) if known is None else known.rank
            self.known[peer] = Known(rank, presence, message.raw, now)
            strangers += known is None or known.presence.addresses != presence.addresses
            if len(self._news) < NEWS_MAX:
                self._news[peer] = teller
            if known is None or known.presence.addresses != presence.addresses:
                records.append(Put("presence", peer, message.raw))  # a renewal is worth no write to the disk
        kept = [Persist(None, tuple(records))] if records else []
        self._census_news = self._census_news or before != self._census.told
        self._news_due = bool(self._news) or (self._census_news and bool(self._told_census()))
        timer = [SetTimer(("membership", "news"), now + NEWS_S)] if quiet and self._news_due else []
        # Half of them: as many others are about to dial this device. What is missing then, the next beat finds.
        half = -(-self._settings.neighbours // 2)
        return [*kept, *timer, *(self._seek(now, half) if strangers else [])]

    def _may_know(self, peer: bytes) -> bool:
        return peer != self.me and self.belongs(peer)

    def _count(self, peer: bytes) -> None:
        if not self._listed:
            self._census.count(self._swarm.id, peer)

    def _room(self, records: list[Record], *, hub: bool) -> bool:
        """Whether the view has a place, if need be that of somebody who went, and for a hub of somebody who is none."""
        if len(self.known) < KNOWN_MAX:
            return True
        gone = self._apart(lambda known: known.down) if self._some_went else None
        if gone is None:
            self._some_went = False
            if hub and sum(known.presence.hub for known in self.known.values()) < HUBS_MAX:
                gone = self._apart(lambda known: not known.presence.hub)
        if gone is None:
            return False
        del self.known[gone]
        records.append(Drop("presence", gone))
        return True

    def _apart(self, fits: Callable[[Known], bool]) -> bytes | None:
        """The first in the view that is no neighbour and fits."""
        return next(
            (peer for peer, known in self.known.items() if fits(known) and peer not in self.neighbours), None
        )

    def _host(self, peer: bytes, presence: Presence, raw: bytes) -> None:
        held = self._guests.get(peer)
        if held is not None and held.presence.sequence > presence.sequence:
            return
        self._guests.pop(peer, None)
        self._guests[peer] = Guest(presence, raw)
        if len(self._guests) > GUESTS_MAX:
            del self._guests[next(iter(self._guests))]

    def _tell_news(self) -> list[Action]:
        """To a few, another few each time: a rumour that reaches nearly all who have a place for it.

        And to those who asked for others when there was nobody to tell them of yet.
        """
        news, self._news = self._news, {}
        census = self._told_census() if self._census_news else b""
        self._census_news = self._news_due = False
        fresh = {peer: teller for peer, teller in news.items() if peer in self.known}
        count = min(NEWS_TO if self.sees_all else NEWS_TO_OF_MANY, len(self.neighbours))
        inorder = self._ranked()
        turn = self._told_news % max(len(inorder), 1)
        self._told_news += count
        actions: list[Action] = []
        chosen = (inorder[turn:] + inorder[:turn])[:count]
        wanting = [peer for peer in inorder if self.neighbours[peer].wants > 0 and peer not in chosen]
        for neighbour in chosen + wanting:
            frames = [
                self.known[peer].raw for peer, teller in fresh.items() if neighbour not in {peer, teller}
            ]
            self.neighbours[neighbour].wants -= len(frames)
            parts = [tuple(frames[at : at + PRESENCES_MAX]) for at in range(0, len(frames), PRESENCES_MAX)]
            if census and not parts:
                parts = [()]
            actions += [Send(neighbour, channel_frame(Greeting(part, census))) for part in parts]
        return actions

    def _told_census(self) -> bytes:
        """Nothing where everybody is known or listed, and can be counted."""
        return b"" if self._listed or self.sees_all else self._census.told

    def forget_strangers(self) -> list[Action]:
        """Those in the view who do not belong any more: nobody dials them, counts them or tells of them."""
        gone = [peer for peer in self.known if not self.belongs(peer)]
        for peer in gone:
            del self.known[peer]
        for peer in [peer for peer in self._guests if not self.belongs(peer)]:
            del self._guests[peer]
        return [Persist(None, tuple(Drop("presence", peer) for peer in gone))] if gone else []

    def _recall(self, raw: bytes) -> None:
        """A device that was known before this one restarted: worth a dial, and no sign of life."""
        try:
            message = open_frame(self._swarm.id, raw)
        except PeerViolation:
            return  # no presence by the rules of today
        if len(self.known) >= KNOWN_MAX or message.sender == self.me:
            return
        # Who is dialled proves itself then, where certificates admit: the time of day is not known yet.
        if isinstance(message.body, Presence) and self._swarm.may_admit(message.sender):
            rank = self._rank(message.sender)
            self.known[message.sender] = Known(rank, message.body, message.raw, -PRESENCE_TTL_S, down=True)

    def _sign_presence(self) -> bytes:
        presence = Presence(self._sequence, self._addresses, self._settings.hub)
        return sign_frame(self._identity, self._swarm.id, presence)

    def _alive(self, peer: bytes) -> Send:
        round_, history = self._pulse()
        return Send(peer, channel_frame(Alive(round_, history)))
