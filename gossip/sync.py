"""How aggregates spread: announce and pull, and catching up after any absence.

The cohort's members get a fresh aggregate from their aggregator. Everybody else hears its id by gossip and pulls the body from
the neighbour that brought the news, so bodies cross each link once. What gossip loses is found by the heartbeat: every ALIVE
carries a digest of the sender's history, and a node whose own differs from a neighbour's compares, round by round:

    ALIVE (digest differs)  ->  COMPARE (8 bytes a round)  ->  HAVE (ids in rounds that differ)  ->  PULL  ->  AGGREGATES

A comparison covers up to COMPARE_MAX rounds. It goes on upwards until the other's highest round, and downwards as long as
the lowest compared round differs or nothing differs yet, so a long absence, a partition that lasted long and an old branch that
one neighbour has taken in are all found whole. Each side only fetches; the other compares for itself.

Nothing here is trusted: an aggregate counts by its own signatures, whoever brings it. A pull that is not answered within
PULL_S may be asked of somebody else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from crypto.identity import Identity
from gossip.aggregate import Aggregate, Verified, check, parse
from gossip.errors import PeerViolation
from gossip.events import Publish, Report, Send
from gossip.history import Added, Change, History, Waiting
from gossip.layout import Layout
from gossip.manifest import Swarm
from gossip.messages import (
    AGGREGATES_BYTES,
    COMPARE_MAX,
    HAVE_MAX,
    PULL_MAX,
    Aggregates,
    Alive,
    Announce,
    Compare,
    Have,
    Message,
    Pull,
    Result,
    sign_frame,
)
from gossip.messages import Body as MessageBody
from gossip.wire import pack

RECENT_ROUNDS = 64  # a first comparison reaches this far back
PULL_S = 5.0
COMPARE_S = 5.0  # one comparison a neighbour at a time
PULLING_MAX = 4096  # ids asked for and not yet answered


@dataclass(slots=True)
class Comparison:
    """The rounds [low, high] that were asked about; they only ever grow, so a comparison ends."""

    until: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Learned:
    """The history has grown by these aggregates: they are to be stored, and the changes to be folded."""

    aggregates: tuple[Verified, ...]
    changes: tuple[Change, ...]
    round: int  # the history's, with them


Action: TypeAlias = Send | Publish | Report | Learned


class Sync:
    def __init__(self, swarm: Swarm, layout: Layout, identity: Identity, history: History) -> None:
        self._swarm = swarm
        self._layout = layout
        self._identity = identity
        self._history = history
        self._pulling: dict[bytes, float] = {}  # id -> when it may be asked again
        self._comparing: dict[bytes, Comparison] = {}  # by neighbour

    def handle(self, message: Message, peer: bytes, now: float) -> list[Action]:
        """`peer` is the neighbour that brought the message, which for an ANNOUNCE need not be its author."""
        match message.body:
            case Alive(round_, digest):
                return self._on_alive(peer, round_, digest, now)
            case Compare() as compare:
                return self._on_compare(peer, compare)
            case Have() as have:
                return self._on_have(peer, have, now)
            case Announce(aggregates):
                return self.pull(peer, aggregates, now)
            case Pull(aggregates):
                return self._on_pull(peer, aggregates)
            case Aggregates(aggregates):
                return self._on_aggregates(peer, aggregates, now)
            case Result(aggregate):
                return self._on_aggregates(peer, (aggregate,), now)
        return []

    def certified(self, aggregate: Aggregate) -> list[Action]:
        """This node's own aggregator role made it: hold it, and tell the swarm."""
        learned, _ = self._take([aggregate])
        if learned is None:
            return []
        announce = Announce(tuple(known.id for known in learned.aggregates[:PULL_MAX]), aggregate.body.round)
        return [learned, Publish(self._frame(announce))]

    def pull(self, peer: bytes, ids: Iterable[bytes], now: float) -> list[Action]:
        """Ask `peer` for those of `ids` that are neither held nor being fetched."""
        self._pulling = {i: at for i, at in self._pulling.items() if at > now}
        wanted = [i for i in dict.fromkeys(ids) if i not in self._history and i not in self._pulling]
        self._pulling |= dict.fromkeys(wanted, now + PULL_S)
        # The oldest go: nobody's inventions keep others' ids out, and asking twice does no harm.
        while len(self._pulling) > PULLING_MAX:
            del self._pulling[next(iter(self._pulling))]
        chunks = [tuple(wanted[at : at + PULL_MAX]) for at in range(0, len(wanted), PULL_MAX)]
        return [self._send(peer, Pull(chunk)) for chunk in chunks]

    # --- finding differences ---------------------------------------------------------------------------------

    def _on_alive(self, peer: bytes, round_: int, digest: bytes, now: float) -> list[Action]:
        self._comparing = {
            p: comparison for p, comparison in self._comparing.items() if comparison.until > now
        }
        if digest == self._history.digest() or peer in self._comparing:
            return []
        first = max(1, min(round_, self._history.round) - RECENT_ROUNDS + 1)
        self._comparing[peer] = Comparison(now + COMPARE_S, first, first - 1)
        return [self._compare(peer, first)]

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
        actions: list[Action] = list(self.pull(peer, have.aggregates, now))
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

    def _on_pull(self, peer: bytes, ids: tuple[bytes, ...]) -> list[Action]:
        answer: list[bytes] = []
        size = 0
        for identity in ids:
            known = self._history.get(identity)
            if known is None:
                continue
            encoded = pack(known.aggregate)
            size += len(encoded)
            if answer and size > AGGREGATES_BYTES:
                break
            answer.append(encoded)
        return [self._send(peer, Aggregates(tuple(answer)))] if answer else []

    def _on_aggregates(self, peer: bytes, encoded: tuple[bytes, ...], now: float) -> list[Action]:
        aggregates = [parse(item, self._swarm.manifest, self._layout) for item in encoded]
        learned, missing = self._take(aggregates)
        return [*([] if learned is None else [learned]), *self.pull(peer, missing, now)]

    def _take(self, aggregates: list[Aggregate]) -> tuple[Learned | None, list[bytes]]:
        """Add those that hold. One that breaks the rules takes nothing with it that the history already grew by.

        All in one Learned: until it is folded, the replica is behind the history, and nothing may happen in between.
        """
        verified = [check(each, self._swarm.manifest, self._layout, self._swarm.id) for each in aggregates]
        held: list[Verified] = []
        changed: list[Change] = []
        missing: list[bytes] = []
        for known in verified:
            self._pulling.pop(known.id, None)
            try:
                outcome = self._history.add(known)
            except PeerViolation:
                continue  # of a round that does not follow its parents': t members signed nonsense, nobody here did
            match outcome:
                case Added(ids, changes):
                    held += (each for each in map(self._history.get, ids) if each is not None)
                    changed += changes
                case Waiting(parents):
                    missing += parents
        learned = Learned(tuple(held), tuple(changed), self._history.round) if held else None
        return learned, missing

    def _frame(self, body: MessageBody) -> bytes:
        return sign_frame(self._identity, self._swarm.id, body)

    def _send(self, peer: bytes, body: MessageBody) -> Send:
        return Send(peer, self._frame(body))
