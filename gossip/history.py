"""The history: a grow-only set of certified aggregates, linked by hashes like commits.

**One set, whatever the order.** An aggregate becomes *valid* here once all its parents are, and its round is one more
than the highest of theirs. Both follow from hashes inside its id, so the valid set is a function of what has arrived and
not of when: two nodes that exchanged everything hold the same set, and the fold, a pure function of that set, gives the
same bits. Nothing here is ever undone, so there are no losing forks (a join-semilattice under union: Shapiro et al.,
"Conflict-free replicated data types", 2011; hash links as in Sanjuan et al., "Merkle-CRDTs", 2020).

**Which of them count.** A sum must not be folded twice, once alone and once merged with others. A valid aggregate counts
iff its id is the lowest among all valid ones of every cohort that it names. This too is a function of the valid set
alone. At most one aggregate of a cohort has the lowest id, so no cohort is ever folded twice; an aggregate that stops to
count, because a lower one arrived, never counts again, because the lowest only falls. The price: an aggregate that is
beaten for one of its cohorts does not count for the others either, even if nothing counts for those.
A cohort is its roster's hash *and* its members in its round. The hash alone would let three strangers write a lower body
in the name of a roster that they never met. The round is safe to tell apart, because the roster fixes it and honest
members sign no body with another; so a round's aggregates decide among themselves.

**Orphans**, whose parents have not come, wait in a bounded buffer. The oldest arrival leaves first, so that nobody can
fill it for good; what left is pulled again when it is wanted again.

**A base**: a history that began from a checkpoint knows that the ids in it are valid, and not what they say. A late
aggregate of such a round waits until the bodies that its fold needs are held again: those of its round, or, as momentum
carries a round into all later ones, all of the base.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crypto.hashing import digest
from gossip.aggregate import PARENTS_MAX, Verified
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import Manifest

HEADS_MAX = 256  # told to a peer at once
ORPHANS_MAX = 1024
ORPHANS_BYTES_MAX = 64 << 20  # of sums; the rest of an orphan is below 64 KiB, or in proportion
FOLDED_MAX = 1 << 11  # aggregates of one round, the lowest ids; the fold's integers bear no more
ROUND_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What counts in a round, before and after. The same before and after: a round told again, for a rescan."""

    round: int
    before: tuple[Verified, ...]
    after: tuple[Verified, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """`ids` became valid, in this order, and `refused` orphans turned out to follow no valid parents' rounds."""

    ids: tuple[bytes, ...]
    changes: tuple[Change, ...]  # by round, for `fold.Replica.apply`
    refused: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing changes until these aggregates have come."""

    missing: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """Held already, perhaps under the signatures of other members."""


class History:
    def __init__(self, manifest: Manifest, swarm: bytes, base: Sequence[Sequence[bytes]] = ()) -> None:
        """`base`: the ids of a checkpoint by round, from round 1; only `gossip.checkpoint` gives one."""
        self._swarm = swarm
        self._momentum = any(step.momentum for step in manifest.training.schedule)
        self._rounds: list[dict[bytes, None]] = [dict.fromkeys(ids) for ids in base]  # valid ids
        self._round_of = {identity: place for place, ids in enumerate(base, 1) for identity in ids}
        self._held: dict[bytes, Verified] = {}
        self._heads: dict[bytes, None] = {}
        self._orphans: dict[bytes, Verified] = {}  # by arrival
        self._orphans_bytes = 0
        self._base_round = len(base)
        self._base_parents: tuple[bytes, ...] | None = None
        self._unheld = {place: dict.fromkeys(ids) for place, ids in enumerate(base, 1)}
        self._digests: dict[int, bytes] = {}
        self._digest = b""

    # --- what is held -----------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The highest valid aggregate's; 0 for an empty history."""
        return len(self._rounds)

    def __len__(self) -> int:
        return len(self._round_of)

    def __contains__(self, identity: bytes) -> bool:
        """Whether it is valid here."""
        return identity in self._round_of

    def get(self, identity: bytes) -> Verified | None:
        """A valid aggregate whose body is held."""
        return self._held.get(identity)

    def ids(self, round_: int) -> tuple[bytes, ...]:
        """The valid ids of a round, ascending; none for a round that has not come."""
        return tuple(sorted(self._rounds[round_ - 1])) if 1 <= round_ <= self.round else ()

    def heads(self) -> tuple[bytes, ...]:
        """Those that no other names as parent, the highest round first; at most HEADS_MAX of them."""
        return tuple(sorted(self._heads, key=lambda head: (-self._round_of[head], head))[:HEADS_MAX])

    def parents_for_next(self) -> tuple[bytes, ...]:
        """The highest head, and the oldest others, so that no branch is left hanging: ascending, for a body."""
        newest_first = sorted(self._heads, key=lambda head: (-self._round_of[head], head))
        oldest = sorted(newest_first[1:], key=lambda head: (self._round_of[head], head))[: PARENTS_MAX - 1]
        return tuple(sorted((*newest_first[:1], *oldest)))

    def missing(self, ids: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of them that are not valid here."""
        return tuple(identity for identity in ids if identity not in self._round_of)

    def wanted(self) -> tuple[bytes, ...]:
        """What the orphans wait for, ascending."""
        return self._not_buffered(lack for orphan in self._orphans.values() for lack in self._lacks(orphan))

    def round_digest(self, round_: int) -> bytes:
        """8 bytes that differ when a round's valid ids do; empty for a round that has not come."""
        if not 1 <= round_ <= self.round:
            return b""
        if round_ not in self._digests:
            self._digests[round_] = digest("round", *self.ids(round_))[:ROUND_DIGEST_BYTES]
        return self._digests[round_]

    def digest(self) -> bytes:
        """8 bytes that differ when two histories do."""
        if not self._digest:
            rounds = b"".join(self.round_digest(place) for place in range(1, self.round + 1))
            self._digest = digest("history", rounds)[:ROUND_DIGEST_BYTES]
        return self._digest

    def counting(self, round_: int) -> tuple[Verified, ...]:
        """What the fold takes of a round; MisuseError where a base's bodies are not held."""
        return self._counting(self.ids(round_))

    # --- growing ----------------------------------------------------------------------------------------------

    def add(self, aggregate: Verified) -> Added | Waiting | Known:
        """Take it in, and every orphan that waited for it; PeerViolation if it does not follow its parents."""
        if aggregate.body.swarm != self._swarm:
            raise MisuseError("an aggregate that was verified for another swarm")
        identity = aggregate.id
        if identity in self._held:
            return Known()
        growth = _Growth(self)
        if identity in self._round_of:
            self._hold_again(aggregate)
        else:
            lacks = self._lacks(aggregate)
            if lacks:
                self._buffer(aggregate)
                return Waiting(self._not_buffered(lacks))
            self._check_round(aggregate)
            growth.insert(aggregate)
        refused = []
        # Parents before children: honest rounds rise along the links, so one pass frees all that can be freed.
        for orphan in sorted(self._orphans.values(), key=lambda orphan: (orphan.body.round, orphan.id)):
            if self._lacks(orphan):
                continue
            self._forget_orphan(orphan)
            try:
                self._check_round(orphan)
            except PeerViolation:
                refused.append(orphan.id)
            else:
                growth.insert(orphan)
        return Added(tuple(growth.ids), growth.changes(), tuple(refused))

    # --- ancestors --------------------------------------------------------------------------------------------

    def ancestors(self, parents: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...] | Waiting:
        """These valid aggregates and all before them: ascending ids by round, from round 1.

        Waiting for bodies, if a base hides which of its ids are among them.
        """
        if self.missing(parents):
            raise MisuseError("the ancestors of aggregates that are not valid here")
        found: dict[bytes, None] = {}
        hidden: dict[bytes, None] = {}
        next_up = list(parents)
        while next_up:
            identity = next_up.pop()
            if identity in found:
                continue
            found[identity] = None
            aggregate = self._held.get(identity)
            if aggregate is None:
                hidden[identity] = None
                continue
            next_up.extend(aggregate.body.parents)
            if aggregate.body.round == self._base_round + 1 and aggregate.body.parents == self._base_parents:
                # A base is all of the ancestors of exactly these parents.
                base = [identity for ids in self._rounds[: self._base_round] for identity in ids]
        return ()
