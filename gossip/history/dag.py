"""The history: a grow-only set of certified aggregates, linked by hashes like commits.

**One set, whatever the order.** An aggregate becomes *valid* here once all its parents are, and its round is
one more than the highest of theirs. Both follow from hashes inside its id, so the valid set is a function of
what has arrived and not of when: two nodes that exchanged everything hold the same set, and the fold, a pure
function of that set, gives the same bits. Nothing here is ever undone, so there are no losing forks (a
join-semilattice under union: Shapiro et al., "Conflict-free replicated data types", 2011; hash links as in
Sanjuan et al., "Merkle-CRDTs", 2020).

**Which of them count.** Of a round's valid aggregates, the one with the most contributors first and then by ascending id,
each counts unless one that counts already has a contributor in common with it. So a device counts in one aggregate a
round, no cohort is ever folded twice, and a few devices in league that sign many bodies gain one of them. The most
contributors first, because else the same few could sit in honest cohorts and beat each of these with a small body of their
own; a league keeps an honest sum out only if it is as many as that sum has contributors. (Of more than FOLDED_MAX in one round the
first are folded.) This is a function of the valid set alone. The price: a device whose sum was lost, who took part in
another one of the same round and whose first sum then appears all the same, costs its second sum its place.

**What is taken back** (`gossip.history.strikes`) does not count, and frees its contributors for others of the round. It stays valid: what
comes after it has it among its ancestors, and a basis may come from it. Checkpoints are of the ancestors as if nothing had been taken
back, so that a cohort agrees on its `state` whatever its members have heard of by then.

**Exponents follow from the parents** (`gossip.codec.codec`): whoever folds checks them, where it holds the parents' bodies, so
that nobody chooses how loud a sum speaks.

**Orphans**, whose parents have not come, wait in a bounded buffer. The oldest arrival leaves first, so that
nobody can fill it for good; what left is pulled again when it is wanted again.

**A base**: a history that began from a checkpoint knows that the ids in it are valid, and not what they say.
A late aggregate of such a round waits until the bodies that its fold needs are held again: all of the base, as
later rounds build on earlier ones. Where factors travel (codec lowrank), a round is folded with bases from the round
before it.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from crypto.hashing import digest
from gossip.body import count_contributors
from gossip.codec.blocks import Layout
from gossip.codec.codec import exponents_after
from gossip.codec.lowrank import basis_after
from gossip.errors import MisuseError, PeerViolation
from gossip.fields import PARENTS_MAX, SHORT_BYTES
from gossip.history.aggregate import Verified
from gossip.history.strikes import NOTHING, Effective
from gossip.manifest import Manifest

HEADS_MAX = 256  # told to a peer at once
ORPHANS_MAX = 1024
ORPHANS_BYTES_MAX = 64 << 20  # of sums; the rest of an orphan is below 64 KiB, or in proportion
FOLDED_MAX = 1 << 11  # aggregates of one round, the lowest ids; the fold's integers bear no more
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What counts in a round, before and after. Both the same: a round told again, for a rescan."""

    round: int
    before: tuple[Verified, ...]
    after: tuple[Verified, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """`ids` became valid, in this order; `refused` are orphans that do not follow from their parents."""

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


@dataclass(frozen=True, slots=True)
class Base:
    """What a checkpoint says: all ancestors of exactly these parents, ids by round from round 1."""

    rounds: tuple[tuple[bytes, ...], ...]
    parents: tuple[bytes, ...]


NO_BASE = Base((), ())


class History:
    def __init__(self, manifest: Manifest, swarm: bytes, base: Base = NO_BASE) -> None:
        """Empty, or grown from a base that `gossip.history.checkpoint` has authenticated."""
        self._swarm = swarm
        self._compression = manifest.compression
        self._layout = Layout.of(manifest.model, manifest.compression.block_size)
        self._on_bases = manifest.compression.codec == "lowrank"
        self._n_max = manifest.cohorts.n_max
        self._base = base
        self._base_round = len(base.rounds)
        self._rounds = [dict.fromkeys(ids) for ids in base.rounds]  # the valid ids
        self._round_of = {identity: place for place, ids in enumerate(base.rounds, 1) for identity in ids}
        self._unheld = {place: dict.fromkeys(ids) for place, ids in enumerate(base.rounds, 1)}
        self._held: dict[bytes, Verified] = {}
        self._heads = dict.fromkeys(base.parents)
        self._short: dict[bytes, tuple[bytes, ...]] = {}  # the valid ids by how they begin
        for identity in self._round_of:
            self._index(identity)
        self._orphans: dict[bytes, Verified] = {}  # by arrival
        self._orphans_bytes = 0
        self._digests: dict[int, bytes] = {}
        self._counted: dict[int, int] = {}  # by round, how many count in it
        self._folded: dict[int, tuple[Verified, ...]] = {}  # by round, what counts in it
        self._digest = b""
        self._out = NOTHING  # what was taken back
        self._out_digest = b""

    # --- what is held -----------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The highest valid aggregate's; 0 for an empty history."""
        return len(self._rounds)

    def __len__(self) -> int:
        return len(self._round_of)

    def __iter__(self) -> Iterator[bytes]:
        """The valid ids, in the order in which they became so."""
        return iter(self._round_of)

    def __contains__(self, identity: bytes) -> bool:
        """Whether it is valid here."""
        return identity in self._round_of

    def get(self, identity: bytes) -> Verified | None:
        """A valid aggregate whose body is held."""
        return self._held.get(identity)

    def matching(self, short: bytes) -> tuple[bytes, ...]:
        """The valid ids that begin with these SHORT_BYTES."""
        return self._short.get(short, ())

    def ids(self, round_: int) -> tuple[bytes, ...]:
        """The valid ids of a round, ascending; none for a round that has not come."""
        return tuple(sorted(self._rounds[round_ - 1])) if 1 <= round_ <= self.round else ()

    def counting(self, round_: int) -> tuple[Verified, ...]:
        """What the fold takes of a round; MisuseError where a base's bodies are not held."""
        if round_ not in self._folded:
            self._folded[round_] = self._counting(self.ids(round_), self._out)
        return self._folded[round_]

    def counted(self, round_: int) -> tuple[Verified, ...]:
        """The same; nothing of a round that a base hides in part."""
        return self.counting(round_) if self._tells(round_) else ()

    def held(self) -> tuple[Verified, ...]:
        """All whose bodies are held, by round."""
        ids = (identity for round_ in range(1, self.round + 1) for identity in self.ids(round_))
        return tuple(self._held[identity] for identity in ids if identity in self._held)

    def heads(self) -> tuple[bytes, ...]:
        """Those that no other names as parent, the highest round first; at most HEADS_MAX of them."""
        return self._newest_first()[:HEADS_MAX]

    def parents_for_next(self) -> tuple[bytes, ...]:
        """The highest head, and the oldest others, so that no branch is left hanging: ascending, for a body."""
        if not self._heads:
            return ()
        newest, *others = self._newest_first()
        oldest = sorted(others, key=lambda head: (self._round_of[head], head))[: PARENTS_MAX - 1]
        return tuple(sorted((newest, *oldest)))

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
            self._digests[round_] = digest("round", *self.ids(round_))[:DIGEST_BYTES]
        return self._digests[round_]

    def counts(self, rounds: int, since: int = 1) -> list[int]:
        """How many contributed to what counts in each of the last so many rounds, none before `since`, the oldest first.

        Of rounds whose bodies are not held, each aggregate stands for a cohort that was full.
        """
        first = max(since, self.round - rounds + 1)
        for place in range(first, self.round + 1):
            if place not in self._counted:
                if self._tells(place):
                    self._counted[place] = sum(
                        count_contributors(known.body) for known in self.counting(place)
                    )
                else:
                    self._counted[place] = len(self._rounds[place - 1]) * self._n_max
        return [self._counted[place] for place in range(first, self.round + 1)]

    def digest(self) -> bytes:
        """8 bytes that differ when two histories do."""
        if not self._digest:
            rounds = b"".join(self.round_digest(place) for place in range(1, self.round + 1))
            self._digest = digest("history", rounds, self._out_digest)[:DIGEST_BYTES]
        return self._digest

    # --- growing ----------------------------------------------------------------------------------------------

    def add(self, aggregate: Verified) -> Added | Waiting | Known:
        """Take it in, and every orphan that waited for it; PeerViolation if it does not follow its parents."""
        if aggregate.body.swarm != self._swarm:
            raise MisuseError("an aggregate that was verified for another swarm")
        if aggregate.id in self._held:
            return Known()
        added: list[bytes] = []
        refused: list[bytes] = []
        before: dict[int, tuple[Verified, ...]] = {}
        if aggregate.id in self._round_of:
            self._hold_again(aggregate)
        else:
            if not self._is_ready(aggregate):
                self._buffer(aggregate)
                return Waiting(self._not_buffered(self._lacks(aggregate)))
            if fault := self._fault_of(aggregate):
                raise PeerViolation(fault)
            self._insert(aggregate, before)
            added.append(aggregate.id)
        # Rounds rise along the links, so one pass in their order frees all that can be freed.
        for orphan in sorted(self._orphans.values(), key=lambda orphan: (orphan.body.round, orphan.id)):
            if not self._is_ready(orphan):
                continue
            self._release(orphan)
            if self._fault_of(orphan):
                refused.append(orphan.id)
            else:
                self._insert(orphan, before)
                added.append(orphan.id)
        changes = tuple(Change(place, before[place], self.counting(place)) for place in sorted(before))
        return Added(tuple(added), changes, tuple(refused))

    def take_back(self, out: Effective, known_by: bytes) -> tuple[Change, ...] | Waiting:
        """From now on this does not count; `known_by` is the digest of the statements that say so.

        Waiting for bodies, and nothing has changed, if a base hides what is to be taken out of it.
        """
        touched = [
            place
            for place in range(1, self.round + 1)
            if any(
                out.takes_out(known) != self._out.takes_out(known)
                for known in (self._held.get(identity) for identity in self.ids(place))
                if known is not None
            )
        ]
        first = min(out.since.values(), default=self._base_round + 1)
        told = sorted({place for each in touched for place in self._refolded(each)})
        unheld = [
            identity
            for place, ids in self._unheld.items()
            for identity in ids
            if place >= first or identity in out.retracted
        ]
        hidden = [
            identity
            for each in told
            for place in self._needed(each)
            for identity in self._unheld.get(place, ())
        ]
        if unheld or hidden:
            return Waiting(tuple(sorted({*unheld, *hidden})))
        before = {place: self.counting(place) for place in told}
        self._out, self._out_digest = out, known_by
        self._digest = b""
        for place in touched:
            self._folded.pop(place, None)
            self._counted.pop(place, None)
        return tuple(Change(place, before[place], self.counting(place)) for place in told)

    def taken_back(self) -> tuple[Verified, ...]:
        """Those that are held and do not count for what `take_back` was told, by round."""
        return () if self._out == NOTHING else tuple(filter(self._out.takes_out, self.held()))

    # --- ancestors --------------------------------------------------------------------------------------------

    def ancestors(self, parents: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...] | Waiting:
        """These valid aggregates and all before them: ascending ids by round, from round 1.

        Waiting for bodies, if a base hides which of its ids are among them.
        """
        if self.missing(parents):
            raise MisuseError("the ancestors of aggregates that are not valid here")
        found: dict[bytes, None] = {}
        hidden = []
        open_ends = list(parents)
        while open_ends:
            identity = open_ends.pop()
            if identity in found:
                continue
            found[identity] = None
            if identity in self._held:
                open_ends.extend(self._held[identity].body.parents)
            else:
                hidden.append(identity)
        if hidden:
            if any(parent not in found for parent in self._base.parents):
                return Waiting(tuple(sorted(hidden)))
            found.update((identity, None) for ids in self._base.rounds for identity in ids)
        rounds: list[list[bytes]] = [[] for _ in range(max((self._round_of[i] for i in found), default=0))]
        for identity in sorted(found):
            rounds[self._round_of[identity] - 1].append(identity)
        return tuple(tuple(ids) for ids in rounds)

    def changes_to(self, rounds: Sequence[Sequence[bytes]]) -> tuple[Change, ...] | Waiting:
        """What leads from the fold of all that counts to the fold of these ancestors, as if nothing had been taken back."""
        wanted = {place: tuple(ids) for place, ids in enumerate(rounds, 1)}
        differing = [
            place
            for place in range(1, self.round + 1)
            if wanted.get(place, ()) != self.ids(place) or self._has_taken_back(place)
        ]
        told = sorted({place for differs in differing for place in self._refolded(differs)})
        needed = sorted({place for differs in differing for place in self._needed(differs)})
        unheld = [identity for place in needed for identity in self._unheld.get(place, ())]
        if unheld:
            return Waiting(tuple(sorted(unheld)))
        return tuple(
            Change(place, self.counting(place), self._counting(wanted.get(place, ()), NOTHING))
            for place in told
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _has_taken_back(self, round_: int) -> bool:
        known = (self._held.get(identity) for identity in self.ids(round_))
        return any(each is not None and self._out.takes_out(each) for each in known)

    def _newest_first(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._heads, key=lambda head: (-self._round_of[head], head)))

    def _refolded(self, round_: int) -> Sequence[int]:
        """The rounds that a change in this one folds again, besides those that came after the base."""
        return range(1, self._base_round + 1) if round_ <= self._base_round else (round_,)

    def _needed(self, round_: int) -> Sequence[int]:
        """The rounds whose bodies it takes to fold these."""
        refolded = self._refolded(round_)
        return (refolded[0] - 1, *refolded) if self._on_bases else refolded

    def _is_ready(self, aggregate: Verified) -> bool:
        return not self._hides(aggregate.body.round) and not self.missing(aggregate.body.parents)

    def _tells(self, round_: int) -> bool:
        """Whether all bodies are held that say what counts in this round."""
        return not self._unheld.get(round_) and not (self._on_bases and self._unheld.get(round_ - 1))

    def _hides(self, round_: int) -> bool:
        """Whether a change in this round needs bodies of the base that are not held."""
        return bool(self._unheld) and any(place in self._unheld for place in self._needed(round_))

    def _lacks(self, aggregate: Verified) -> list[bytes]:
        unheld = (self._unheld.get(place, {}) for place in self._needed(aggregate.body.round))
        return [*self.missing(aggregate.body.parents), *itertools.chain.from_iterable(unheld)]

    def _fault_of(self, aggregate: Verified) -> str:
        """What about it does not follow from its parents, in words; nothing of one that may become valid."""
        body = aggregate.body
        parents = [(self._round_of[parent], parent) for parent in body.parents]
        if body.round != 1 + max((round_ for round_, _ in parents), default=0):
            return f"aggregate: round {body.round} does not follow its parents' rounds"
        if self._on_bases and body.basis != basis_after(parents, body.parts[0].roster):
            return "aggregate: another basis than that of the newest parent which its cohort drew"
        held = [self._held[parent].body for parent in body.parents if parent in self._held]
        if len(held) == len(body.parents) and body.exponents != exponents_after(
            body, held, self._layout, self._compression
        ):
            return "aggregate: other exponents than its parents lead to"
        return ""

    def _insert(self, aggregate: Verified, before: dict[int, tuple[Verified, ...]]) -> None:
        round_ = aggregate.body.round
        for place in self._refolded(round_):
            if place not in before:
                before[place] = self.counting(place)
        if round_ > self.round:
            self._rounds.append({})
        self._rounds[round_ - 1][aggregate.id] = None
        self._round_of[aggregate.id] = round_
        self._held[aggregate.id] = aggregate
        for parent in aggregate.body.parents:
            self._heads.pop(parent, None)
        self._heads[aggregate.id] = None
        self._index(aggregate.id)
        self._digests.pop(round_, None)
        self._counted.pop(round_, None)
        self._folded.pop(round_, None)
        self._digest = b""

    def _index(self, identity: bytes) -> None:
        short = identity[:SHORT_BYTES]
        self._short[short] = (*self._short.get(short, ()), identity)

    def _hold_again(self, aggregate: Verified) -> None:
        if self._round_of[aggregate.id] != aggregate.body.round:
            raise PeerViolation("aggregate: its round is not the one that the signed checkpoint gives")
        self._held[aggregate.id] = aggregate
        of_round = self._unheld[aggregate.body.round]
        del of_round[aggregate.id]
        if not of_round:
            del self._unheld[aggregate.body.round]

    def _buffer(self, aggregate: Verified) -> None:
        if aggregate.id in self._orphans:
            return
        self._orphans[aggregate.id] = aggregate
        self._orphans_bytes += len(aggregate.body.sums)
        while len(self._orphans) > ORPHANS_MAX or self._orphans_bytes > ORPHANS_BYTES_MAX:
            self._release(next(iter(self._orphans.values())))

    def _release(self, orphan: Verified) -> None:
        del self._orphans[orphan.id]
        self._orphans_bytes -= len(orphan.body.sums)

    def _not_buffered(self, ids: Iterable[bytes]) -> tuple[bytes, ...]:
        return tuple(sorted(identity for identity in dict.fromkeys(ids) if identity not in self._orphans))

    def _counting(self, ids: Sequence[bytes], out: Effective) -> tuple[Verified, ...]:
        if any(identity not in self._held for identity in ids):
            raise MisuseError("what counts in a round is known only when all of its bodies are held")
        held = [self._held[identity] for identity in ids]
        counted = counting([known for known in held if not out.takes_out(known)])
        return tuple(map(self._with_origin, counted)) if self._on_bases else counted

    def _with_origin(self, aggregate: Verified) -> Verified:
        basis = aggregate.body.basis
        if not basis:
            return aggregate
        if basis not in self._held:
            raise MisuseError("factors count only with the body that their basis comes from")
        return replace(aggregate, origin=self._held[basis].body)


def counting(aggregates: Sequence[Verified]) -> tuple[Verified, ...]:
    """Those of one round's valid aggregates that the fold takes, by ascending id: a function of their set."""
    if len(aggregates) <= 1:
        return tuple(aggregates)
    counted: list[Verified] = []
    heard: set[bytes] = set()  # asked, and never iterated
    for aggregate in sorted(aggregates, key=lambda each: (-len(each.contributors), each.id)):
        if heard.isdisjoint(aggregate.contributors):
            heard.update(aggregate.contributors)
            counted.append(aggregate)
    return tuple(sorted(counted[:FOLDED_MAX], key=lambda each: each.id))
