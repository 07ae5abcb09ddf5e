"""How aggregates spread: announce and pull, and catching up after any absence.

The cohort's members get a fresh aggregate from their aggregator. Whoever learns of one announces it to its own neighbours, by
8 bytes of its id, together with what else comes within ANNOUNCE_S, and never to a neighbour that is known to have it: because
it announced it, sent it, pulled it, or is in its sum. Who has not pulls the body from the first neighbour that brought the
news, so bodies cross few links; should that one not answer in PULL_S, the others that brought it are asked. Of several ids
that begin alike, all are meant. Beside an aggregate of the last two rounds go, in a large swarm, its *guides*: presences of those of
its members who rank first to lead the round after the next (`gossip.cohort.rendezvous`).

What is lost all the same is found by the heartbeat: every ALIVE carries a digest of the sender's history, and a node whose own
differs from a neighbour's compares, round by round:

    ALIVE (digest differs)  ->  COMPARE (8 bytes a round)  ->  HAVE (ids in rounds that differ)  ->  PULL  ->  AGGREGATES

A comparison covers up to COMPARE_MAX rounds. It goes on upwards until the other's highest round, and downwards as long as
the lowest compared round differs or nothing differs yet, so a long absence, a partition that lasted long and an old branch that
one neighbour has taken in are all found whole. Each side only fetches; the other compares for itself.

Nothing here is trusted: an aggregate counts by its own signatures, whoever brings it; and new rounds are taken in no faster
than rounds can be made (`gossip.history.pace`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gossip.codec.blocks import Integers, Layout
from gossip.errors import PeerViolation
from gossip.events import Report, Send, SetTimer, TimerFired
from gossip.fields import SHORT_BYTES
from gossip.frames import Message, channel_frame
from gossip.history.aggregate import Aggregate, Verified, check, members_of, parse, write
from gossip.history.checkpoint_sync import Adopted, CatchUp
from gossip.history.dag import Added, Change, History, Waiting
from gossip.history.fold import Replica
from gossip.history.messages import (
    AGGREGATES_BYTES,
    COMPARE_MAX,
    HAVE_MAX,
    PULL_MAX,
    Aggregates,
    Announce,
    CheckpointOffer,
    CheckpointPart,
    CheckpointRequest,
    Compare,
    Have,
    Pull,
)
from gossip.history.pace import Pace
from gossip.manifest import Manifest, Swarm
from gossip.membership.messages import Alive
from gossip.wire import Wire

RECENT_ROUNDS = 64  # a first comparison reaches this far back
PULL_S = 5.0
COMPARE_S = 5.0  # one comparison a neighbour at a time
PULLING_MAX = 4096  # ids asked for and not yet answered
OFFERS_MAX = 8  # neighbours remembered for each of them
ANNOUNCE_S = 0.1  # until what is new is announced, together
HOLDERS_KEPT = 512  # aggregates, the latest, of which it is remembered who has them; their neighbours are few
GUIDES = 2  # of each aggregate


@dataclass(slots=True)
class Comparison:
    """The rounds [low, high] that were asked about; they only ever grow, so a comparison ends."""

    until: float
    low: int
    high: int


@dataclass(slots=True)
class Pulling:
    """An aggregate that was asked for: until when, and who else has it."""

    until: float
    offers: list[bytes] = field(default_factory=list)  # OFFERS_MAX


@dataclass(frozen=True, slots=True)
class Learned:
    """The history has grown by these aggregates: they are to be stored, and the changes to be folded."""

    aggregates: tuple[Verified, ...]
    changes: tuple[Change, ...]
    round: int  # the history's, with them
    again: tuple[Verified, ...] = ()  # known by a checkpoint, and now held: to be stored, too


class Opener(Protocol):
    """Bytes to verified aggregates and back. Devices of one process may share one that remembers (`node.virtual.shared_cache`)."""

    def open(self, encoded: bytes, make: Callable[[bytes], Verified]) -> Verified: ...
    def encoded(self, known: Verified, make: Callable[[Aggregate], bytes]) -> bytes: ...
    def replica(self, manifest: Manifest, layout: Layout, initial: Integers) -> Replica: ...


class Plain:
    """Remembers nothing."""

    def open(self, encoded: bytes, make: Callable[[bytes], Verified]) -> Verified:
        return make(encoded)

    def encoded(self, known: Verified, make: Callable[[Aggregate], bytes]) -> bytes:
        return make(known.aggregate)

    def replica(self, manifest: Manifest, layout: Layout, initial: Integers) -> Replica:
        return Replica(manifest, layout, initial)


@dataclass(frozen=True, slots=True)
class Uncertified:
    """This neighbour brought an aggregate with a member of whom no certificate is known here, so it was not taken."""

    peer: bytes


Action: TypeAlias = Send | SetTimer | Report | Learned | Uncertified | Adopted


class Sync:
    def __init__(
        self,
        swarm: Swarm,
        layout: Layout,
        history: History,
        links: Callable[[], list[bytes]],
        guides: Callable[[Verified], tuple[bytes, ...]] = lambda _: (),
        opener: Opener | None = None,
        certified: Callable[[bytes], bool] = lambda _: True,
        catch_up: CatchUp | None = None,
        is_thin: Callable[[Verified], bool] = lambda _: False,
    ) -> None:
        """`links` tells the neighbours to announce to, `guides` the presences that go beside an aggregate.

        `certified` says whether a device was ever admitted, `is_thin` whether a sum has far fewer contributors than are usual.
        """
        self._swarm = swarm
        self._layout = layout
        self._history = history
        self._links = links
        self._guides = guides
        self._opener: Opener = opener or Plain()
        self._certified = certified
        self._catch_up = catch_up
        self._is_thin = is_thin
        self._pace = Pace(swarm.manifest.cohorts)
        self._pulling: dict[bytes, Pulling] = {}  # by short id, in the order of asking
        self._comparing: dict[bytes, Comparison] = {}  # by neighbour
        self._fresh: dict[bytes, None] = {}  # ids to announce, for ANNOUNCE_S
        self._holders: dict[
            bytes, dict[bytes, None]
        ] = {}  # by short id, HOLDERS_KEPT of them: neighbours that have it

    # --- what is told and asked ------------------------------------------------------------------------------

    def handle(self, event: Message | TimerFired, peer: bytes, now: float) -> list[Action]:
        """`peer` is the neighbour that a message comes from."""
        match event:
            case Message(body=Announce(aggregates)):
                self.has(peer, aggregates)
                wanted = [short for short in aggregates if not self._history.matching(short)]
                return self._pull(peer, wanted, now) if wanted else []
            case Message(body=Alive(round_, digest)):
                return self._on_alive(peer, round_, digest, now)
            case Message(body=Pull(aggregates)):
                return self._on_pull(peer, aggregates)
            case Message(body=Aggregates(aggregates)):
                return self._on_aggregates(peer, aggregates, now)
            case TimerFired(("sync", "announce")):
                return self._announce()
            case TimerFired(("sync", "pull")):
                return self._ask_others(now)
            case Message(body=Compare() as compare):
                return self._on_compare(peer, compare)
            case Message(body=Have() as have):
                return self._on_have(peer, have, now)
            case Message(body=CheckpointRequest() | CheckpointOffer() | CheckpointPart()):
                if self._catch_up is not None:
                    return [*self._catch_up.handle(event, peer, self._history, now)]
        return []

    def adopt(self, history: History, giver: bytes, now: float) -> list[Action]:
        """Go on from another history; what it lacks to be whole, and what came since, is asked of whoever gave it."""
        self._history = history
        self._pulling.clear()
        self._comparing.clear()
        return [*self.pull(giver, history.wanted(), now), self._begin_comparing(giver, history.round, now)]

    def begin_anew(self, history: History) -> list[Action]:
        """Go on from another history; the neighbours' heartbeats tell what it lacks."""
        self._history = history
        self._pulling.clear()
        self._comparing.clear()
        self._pace.unbind()
        return []

    def certified(self, aggregate: Aggregate, now: float) -> list[Action]:
        """This node's own aggregator role made it: hold it, and tell the neighbours."""
        verified = self._check(aggregate)
        learned, _, timer = self._take([verified], now)
        return [] if learned is None else [learned, *timer]

    def has(self, peer: bytes, shorts: Iterable[bytes]) -> None:
        """This neighbour need not be told of them."""
        for short in shorts:
            self._holders.setdefault(short, {})[peer] = None
        while len(self._holders) > HOLDERS_KEPT:
            del self._holders[next(iter(self._holders))]

    def gone(self, peer: bytes) -> None:
        """A neighbour that went may have missed what was sent to it last; so says nothing about it any more."""
        for holders in self._holders.values():
            holders.pop(peer, None)
        if self._catch_up is not None:
            self._catch_up.gone(peer)

    def pull(self, peer: bytes, ids: Iterable[bytes], now: float) -> list[Action]:
        """Ask `peer` for those of `ids` that are neither held nor being fetched."""
        lacking = [i[:SHORT_BYTES] for i in dict.fromkeys(ids) if self._history.get(i) is None]
        return self._pull(peer, lacking, now)

    def _pull(self, peer: bytes, shorts: list[bytes], now: float) -> list[Action]:
        idle = not self._pulling
        wanted = []
        for short in dict.fromkeys(shorts):
            pulling = self._pulling.get(short)
            if pulling is None or pulling.until <= now:
                wanted.append(short)
                self._pulling.pop(short, None)
                self._pulling[short] = Pulling(now + PULL_S, [] if pulling is None else pulling.offers)
            elif peer not in pulling.offers and len(pulling.offers) < OFFERS_MAX:
                pulling.offers.append(peer)
        # The oldest go: nobody's inventions keep others' ids out, and asking twice does no harm.
        while len(self._pulling) > PULLING_MAX:
            del self._pulling[next(iter(self._pulling))]
        chunks = [tuple(wanted[at : at + PULL_MAX]) for at in range(0, len(wanted), PULL_MAX)]
        timer = [SetTimer(("sync", "pull"), now + PULL_S)] if idle and wanted else []
        return [*(self._send(peer, Pull(chunk)) for chunk in chunks), *timer]

    def _ask_others(self, now: float) -> list[Action]:
        """What was not answered in time, of whoever else offered it; what nobody else did, the heartbeat finds."""
        late = [(short, pulling.offers) for short, pulling in self._pulling.items() if pulling.until <= now]
        wanted: dict[bytes, list[bytes]] = {}
        for short, offers in late:
            del self._pulling[short]
            if offers:
                wanted.setdefault(offers[0], []).append(short)
        asked = [action for peer, shorts in wanted.items() for action in self._pull(peer, shorts, now)]
        for short, offers in late:
            if short in self._pulling:
                self._pulling[short].offers = offers[1:]
        actions: list[Action] = [action for action in asked if not isinstance(action, SetTimer)]
        if self._pulling:
            until = min(pulling.until for pulling in self._pulling.values())
            actions.append(SetTimer(("sync", "pull"), until))
        return actions

    def _announce(self) -> list[Action]:
        fresh, self._fresh = [identity[:SHORT_BYTES] for identity in self._fresh], {}
        actions: list[Action] = []
        for peer in self._links():
            news = [short for short in fresh if peer not in self._holders.get(short, {})]
            actions += [
                self._send(peer, Announce(tuple(news[at : at + PULL_MAX])))
                for at in range(0, len(news), PULL_MAX)
            ]
        return actions

    # --- finding differences ---------------------------------------------------------------------------------

    def _on_alive(self, peer: bytes, round_: int, digest: bytes, now: float) -> list[Action]:
        self._comparing = {
            p: comparison for p, comparison in self._comparing.items() if comparison.until > now
        }
        if digest == self._history.digest():
            self._pace.caught_up(now)
            if self._catch_up is not None:
                self._catch_up.agrees(peer)
            return []
        if peer in self._comparing:
            return []
        if self._catch_up is not None:
            said = self._catch_up.consider(peer, round_, self._history, now)
            if said is not None:
                return [*said]
        return [self._begin_comparing(peer, round_, now)]

    def _begin_comparing(self, peer: bytes, round_: int, now: float) -> Send:
        first = max(1, min(round_, self._history.round) - RECENT_ROUNDS + 1)
        self._comparing[peer] = Comparison(now + COMPARE_S, first, first - 1)
        return self._compare(peer, first)

    def _compare(self, peer: bytes, first: int) -> Send:
        last = min(self._history.round, first + COMPARE_MAX - 1)
        digests = tuple(self._history.round_digest(round_) for round_ in range(first, last + 1))
        return self._send(peer, Compare(first, digests))

    def _on_compare(self, peer: bytes, compare: Compare) -> list[Action]:
        """Tell our ids in the rounds that differ, the asker's missing rounds among them."""
        if compare.first < 1:
            raise PeerViolation("COMPARE: rounds start at 1")
        ids: list[bytes] = []
        first, last = 0, compare.first - 1
        for round_ in range(compare.first, min(self._history.round, compare.first + COMPARE_MAX - 1) + 1):
            place = round_ - compare.first
            theirs = compare.digests[place] if place < len(compare.digests) else b""
            if theirs != self._history.round_digest(round_):
                held = self._history.ids(round_)
                if len(ids) + len(held) > HAVE_MAX:
                    break
                ids += held
                first = first or round_
            last = round_
        return [self._send(peer, Have(first or last + 1, last, self._history.round, tuple(ids)))]

    def _on_have(self, peer: bytes, have: Have, now: float) -> list[Action]:
        comparison = self._comparing.get(peer)
        if comparison is None:
            return []  # an answer to no question of ours
        unknown = (identity for identity in have.aggregates if identity not in self._history)
        actions: list[Action] = list(self.pull(peer, unknown, now))
        # No difference here, though the digests differ and the other is not merely behind: it lies further down.
        none = not have.aggregates and have.highest >= self._history.round
        if comparison.low > 1 and (none or (have.aggregates and have.first <= comparison.low)):
            comparison.low = max(1, comparison.low - COMPARE_MAX)
            actions.append(self._compare(peer, comparison.low))
        if comparison.high < have.last < have.highest:
            actions.append(self._compare(peer, have.last + 1))
        comparison.high = max(comparison.high, have.last)
        return actions

    # --- fetching --------------------------------------------------------------------------------------------

    def _on_pull(self, peer: bytes, shorts: tuple[bytes, ...]) -> list[Action]:
        self.has(peer, shorts)
        answer: list[bytes] = []
        guides: dict[bytes, None] = {}
        size = 0
        for identity in (each for short in dict.fromkeys(shorts) for each in self._history.matching(short)):
            known = self._history.get(identity)
            if known is None:
                continue
            encoded = self._opener.encoded(known, self._write)
            size += max(len(encoded), len(known.body.sums))
            if answer and (size > AGGREGATES_BYTES or len(answer) == PULL_MAX):
                break
            answer.append(encoded)
            if known.body.round >= self._history.round - 1:
                guides |= dict.fromkeys(self._guides(known)[:GUIDES])
        return [self._send(peer, Aggregates(tuple(answer), tuple(guides)))] if answer else []

    def _on_aggregates(self, peer: bytes, encoded: tuple[bytes, ...], now: float) -> list[Action]:
        verified: list[Verified] = []
        size = 0
        for item in encoded:
            verified.append(self._opener.open(item, self._open))
            # What is coded in a few bytes may be many: whoever answers counts them as they are.
            size += len(verified[-1].body.sums)
            if size > AGGREGATES_BYTES and len(verified) > 1:
                raise PeerViolation(f"AGGREGATES: more than {AGGREGATES_BYTES} bytes of sums")
        self.has(peer, (known.id[:SHORT_BYTES] for known in verified))
        # Whose certificates may be on their way: the heartbeat's comparison brings the others again.
        trusted = [known for known in verified if self._is_of_members(known)]
        learned, missing, timer = self._take(trusted, now)
        if self._catch_up is not None and self._catch_up.under_way:
            missing = []  # or one would be asked for after the other, back to where this device was
        strange = [] if len(trusted) == len(verified) else [Uncertified(peer)]
        return [
            *([] if learned is None else [learned]),
            *timer,
            *strange,
            *self.pull(peer, missing, now),
        ]

    def _is_of_members(self, known: Verified) -> bool:
        """Whether all who were in its cohorts were admitted, if some of them to leave since."""
        manifest = self._swarm.manifest
        return not manifest.certifies or all(map(self._certified, members_of(known.body, manifest)))

    def _write(self, aggregate: Aggregate) -> bytes:
        return write(aggregate, self._swarm.manifest)

    def _open(self, encoded: bytes) -> Verified:
        return self._check(parse(encoded, self._swarm.manifest, self._layout))

    def _check(self, aggregate: Aggregate) -> Verified:
        return check(aggregate, self._swarm.manifest, self._layout, self._swarm.id)

    def _take(
        self, verified: list[Verified], now: float
    ) -> tuple[Learned | None, list[bytes], list[SetTimer]]:
        """Add those that hold. One that breaks the rules takes nothing with it that the history already grew by.

        All in one Learned: until it is folded, the replica is behind the history, and nothing may happen in between.
        """
        held: list[Verified] = []
        again: list[Verified] = []
        changed: list[Change] = []
        missing: list[bytes] = []
        for known in sorted(verified, key=lambda each: each.body.round):
            self._pulling.pop(known.id[:SHORT_BYTES], None)
            before = self._history.round
            thin = known.body.round > before and self._is_thin(known)
            if not self._pace.allows(known.body.round - before, now, thin=thin):
                continue
            try:
                outcome = self._history.add(known)
            except PeerViolation:
                continue  # of a round that does not follow its parents': t members signed nonsense, nobody here did
            self._pace.grew(self._history.round - before, now, thin=thin)
            match outcome:
                case Added(ids, changes):
                    held += (each for each in map(self._history.get, ids) if each is not None)
                    again += [] if known.id in ids else [known]
                    changed += changes
                case Waiting(parents):
                    missing += parents
        if not held and not again:
            return None, missing, []
        timer = [] if self._fresh or not held else [SetTimer(("sync", "announce"), now + ANNOUNCE_S)]
        for known in held:
            self._fresh[known.id] = None
            holders = self._holders.setdefault(known.id[:SHORT_BYTES], {})
            # They get it from their aggregator; members who dropped out need not.
            holders |= dict.fromkeys(known.contributors)
        return Learned(tuple(held), tuple(changed), self._history.round, tuple(again)), missing, timer

    def _send(self, peer: bytes, body: Wire) -> Send:
        return Send(peer, channel_frame(body))
