"""Whom this device would rather not sum with, by what came of the sums that it was in.

Masks hide who spoiled a sum, so one sum finds nobody guilty. But a device is in many sums, each
time with others, and each sum is a *group test* (Dorfman, "The detection of defective members of
large populations", 1943). So a leader keeps a *doubt* of each device: the probability that it spoils
the sums that it is in. Doubts of one group are taken for independent, and follow from Bayes' rule:

    c = product of 1 - p_j over the contributors        the chance that the group is clean
    refused    p_i <- p_i (1 - MISSED) / ((1 - MISSED)(1 - c) + FALSE_ALARM c)
    it holds   p_i <- p_i MISSED / (MISSED (1 - c) + (1 - FALSE_ALARM) c)
    it failed  p_i <- p_i (1 - MISSED) / ((1 - MISSED)(1 - c) + FAILS c)

    what came of a sum                 what is noted
    ---------------------------------  -----------------------------------------------------------
    REJECT was certified, or this      each contributor: more doubt; the first aggregator: an
    member refused what others signed  offence, if not both showed the same, or PATIENCE times in a row
    it holds, also of other cohorts    each contributor: less doubt, no absence
    it holds, or was refused           each member that was not in it: one more absence in a row,
                                       but one alone of each aggregator's but this device's own
    it came to nothing (`Failed`)      each member: a little more doubt;
                                       its leader and first aggregator: an offence
    the second aggregator showed it    its first aggregator: an offence
    a round's bags came to nothing     whoever was handed them: an offence (`gossip.cohort.rendezvous`)
    an offence                         *distrusted* for DISTRUSTED_MIN rounds, then twice as long each
                                       time in a row
    this member refused one sum and    the author of the first: the same, for DISTRUSTED_MAX rounds,
    signed the other aggregator's      as one of the two lied
    an audit found a forgery           its aggregator: distrusted for good
    t members have taken it back       each member that did not sign that: distrusted for DISTRUSTED_MAX
                                       rounds; the aggregator is one of them, and perhaps the only one

A leader takes those whom it does not doubt, and then the others by their doubts, the least first, as
long as the group is clean with a chance of CLEAN. So it tests a few of them at a time in good
company, and an honest device that was in bad company is back after a sum or two (informative group
testing: Hwang, "A generalized binomial group testing problem", 1975). Of those for whom that leaves
no room one is tested all the same, each with a chance of 1 - p_i, CHANCE at least: a doubt is looked
into, and nobody is shut out for ever. After k absences in a row, beyond the first, a device is taken with a chance of
8^-k, 2^-DOUBLINGS_MAX at least, as each costs a step of waiting, and is asked last to lead. An
aggregator could leave out whom it likes, and so have others think that it is never there: of the absences in a row each
member of a cohort counts one of each aggregator, and all that it has seen as aggregator itself. Where these are too few, the least
doubted are taken after all, and the hopeless after a long time.

A distrusted device is asked last to lead, and a hopeless one not at all. So nobody stops a swarm by
leading: who leads follows from the round, and would else lead the same round again and again, as
none comes.

These are one device's own opinions. They decide whom it meets and never what it folds, so replicas
cannot differ by them. Bad devices gain this: if they are more than a quarter of a cohort, they can
refuse honest sums or leave them, and so make honest devices look bad to each other.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from crypto.hashing import digest
from gossip.body import ROUND_MAX

PRIOR = 1 / 256  # the doubt of whom nothing is known, and the least
DOUBT_MAX = 63 / 64
HOPELESS = 0.9  # doubt
MISSED = 0.3  # of spoilt sums hold all the same
FALSE_ALARM = 0.02  # of clean sums are refused
FAILS = 0.3  # of clean cohorts come to nothing, as connections break
CLEAN = 0.75  # the chance that a cohort is to have
CHANCE = 1 / 64  # is left to whoever is doubted
DOUBLINGS = 3  # of the time until a device is asked again, each time that it does not stay
DOUBLINGS_MAX = 6  # one in 64 rounds is left to whoever never stays
DRAW_BYTES = 4
ABSENCES_MAX = 8  # are counted
ABSENCES_FREE = 1  # in a row: connections break, and phones sleep
DISTRUSTED_MIN = 8  # rounds
DISTRUSTED_MAX = 64
PATIENCE = 4  # sums in a row that a leader may lead in vain
KNOWN_MAX = 1024  # devices of which anything is noted; the oldest note goes


@dataclass(slots=True)
class Record:
    doubt: float = PRIOR
    absent: int = 0  # sums in a row, of different aggregators
    without: tuple[bytes, ...] = ()  # these aggregators, at most ABSENCES_MAX
    offended: int = 0  # in a row, as aggregator
    in_vain: int = 0  # sums in a row that it led, and that a member spoilt
    distrusted_until: int = 0  # round
    proven: bool = False  # that it is not honest, but for a cohort that lied to this device

    @property
    def missing(self) -> int:
        return min(DOUBLINGS_MAX, DOUBLINGS * max(0, self.absent - ABSENCES_FREE))


class Suspicion:
    def __init__(self, swarm: bytes, me: bytes) -> None:
        self._swarm = swarm
        self._me = me
        self._records: dict[bytes, Record] = {}  # at most KNOWN_MAX
        self.refused = 0  # sums, since the start

    # --- what happened ----------------------------------------------------------------------------------------

    def held(
        self, contributors: Sequence[bytes], members: Iterable[bytes] = (), aggregator: bytes | None = None
    ) -> None:
        """`members`: of a cohort that this device was in; `aggregator`: who showed it the sum."""
        self._learn(contributors, spoilt=MISSED, clean=1 - FALSE_ALARM)
        for peer in contributors:
            record = self._records.get(peer)
            if record is not None:
                record.absent, record.without = 0, ()
        self._missed(members, contributors, aggregator)

    def rejected(
        self, contributors: Sequence[bytes], members: Iterable[bytes] = (), aggregator: bytes | None = None
    ) -> None:
        self.refused += 1
        self._learn(contributors, spoilt=1 - MISSED, clean=FALSE_ALARM)
        self._missed(members, contributors, aggregator)

    def failed(self, members: Sequence[bytes]) -> None:
        """No sum came of a cohort: somebody was silent, or told others something else. Who, this device does not know."""
        self._learn(members, spoilt=1 - MISSED, clean=FAILS)

    def _learn(self, group: Sequence[bytes], *, spoilt: float, clean: float) -> None:
        """Bayes' rule. The likelihoods of what came of this group, if one of it spoils sums and if none does."""
        all_clean = self._clean(group)
        likelihood = spoilt * (1 - all_clean) + clean * all_clean
        for peer in group:
            if peer != self._me and (peer in self._records or spoilt > clean):
                record = self._of(peer)
                record.doubt = min(DOUBT_MAX, max(PRIOR, record.doubt * spoilt / likelihood))

    def is_clean(self, peers: Iterable[bytes]) -> bool:
        return self._clean(peers) >= CLEAN

    def _clean(self, peers: Iterable[bytes]) -> float:
        """The chance that none of them spoils a sum."""
        return math.prod(1 - self.doubt(peer) for peer in peers)

    def offended(self, aggregator: bytes, round_: int, *, certain: bool) -> None:
        """An offence of the table above; `certain`: of two different sums of one cohort it has shown the one that this device refused."""
        if aggregator == self._me:
            return
        record = self._of(aggregator)
        record.offended += 1
        rounds = DISTRUSTED_MAX if certain else min(DISTRUSTED_MAX, DISTRUSTED_MIN << record.offended - 1)
        record.proven = record.proven or certain
        record.distrusted_until = max(record.distrusted_until, round_ + rounds)

    def led_in_vain(self, aggregator: bytes, round_: int) -> None:
        """Its sum was refused, and is what its members gave, as far as this device can tell.

        Whoever goes on leading knows better each time whom to leave out. But a bad one does not.
        """
        if aggregator == self._me:
            return
        record = self._of(aggregator)
        record.in_vain += 1
        if record.in_vain >= PATIENCE:
            self.offended(aggregator, round_, certain=False)

    def forged(self, aggregator: bytes) -> None:
        """This device has seen it: an audit. It is never led by it again, until it starts anew."""
        record = self._of(aggregator)
        record.proven, record.distrusted_until = True, ROUND_MAX + 1

    def blamed(self, peers: Iterable[bytes], round_: int) -> None:
        """One of these has forged a sum that others have taken back, says a threshold of its cohort."""
        for peer in peers:
            if peer != self._me:
                record = self._of(peer)
                record.distrusted_until = max(record.distrusted_until, round_ + DISTRUSTED_MAX)

    def added_up(self, aggregator: bytes) -> None:
        """A sum that it led holds."""
        record = self._records.get(aggregator)
        if record is not None:
            record.offended = record.in_vain = 0

    def _missed(
        self, members: Iterable[bytes], contributors: Sequence[bytes], aggregator: bytes | None
    ) -> None:
        there = set(contributors)
        for peer in members:
            if peer in there or peer == self._me:
                continue
            record = self._of(peer)
            if record.absent < ABSENCES_MAX and (aggregator == self._me or aggregator not in record.without):
                record.absent += 1
                record.without = (*record.without, aggregator or b"")

    def _of(self, peer: bytes) -> Record:
        record = self._records.pop(peer, None) or Record()
        self._records[peer] = record
        while len(self._records) > KNOWN_MAX:
            del self._records[next(iter(self._records))]
        return record

    # --- what follows -----------------------------------------------------------------------------------------

    def choose(
        self, ranked: Sequence[bytes], least: int, most: int, seed: bytes, *, desperate: bool = False
    ) -> list[bytes]:
        """Whom a leader takes into a cohort, of those who are ready, the first first.

        `least`: so many in any case, the least doubted, but nobody hopeless if not `desperate`; `seed`: of what is left to
        chance, anew for each cohort.
        """
        there = [peer for peer in ranked if self._drawn(peer, seed, 1 / (1 << self._missing(peer)))]
        doubted = sorted((peer for peer in there if self.doubt(peer) > PRIOR), key=self.doubt)
        taken = [peer for peer in there if self.doubt(peer) <= PRIOR][:most]
        clean = self._clean(taken)
        for peer in doubted:
            clean *= 1 - self.doubt(peer)
            if clean < CLEAN or len(taken) >= most:
                break
            taken.append(peer)
        tested = (
            peer for peer in doubted if peer not in taken and self._drawn(peer, seed, self._chance(peer))
        )
        taken = [*islice(tested, 1), *taken][:most]
        left = sorted(
            (peer for peer in ranked if peer not in taken and (desperate or not self.is_hopeless(peer))),
            key=lambda peer: (self._missing(peer), self.doubt(peer)),
        )
        return [*taken, *left[: max(0, least - len(taken))]]

    def _chance(self, peer: bytes) -> float:
        """That it is tested, if nobody before it is."""
        return max(CHANCE, 1 - self.doubt(peer))

    def _drawn(self, peer: bytes, seed: bytes, chance: float) -> bool:
        if chance == 1:
            return True
        drawn = digest("suspicion", self._swarm, self._me, seed, peer)
        return int.from_bytes(drawn[:DRAW_BYTES], "big") < chance * (1 << 8 * DRAW_BYTES)

    def _missing(self, peer: bytes) -> int:
        record = self._records.get(peer)
        return 0 if record is None else record.missing

    def doubt(self, peer: bytes) -> float:
        """The probability that it spoils the sums that it is in; none for this device itself."""
        record = self._records.get(peer)
        return (0.0 if peer == self._me else PRIOR) if record is None else record.doubt

    def distrusts(self, peer: bytes, round_: int) -> bool:
        """Whether this device would rather not be led by it."""
        record = self._records.get(peer)
        return record is not None and (round_ < record.distrusted_until or record.missing > 0)

    def declines(self, peer: bytes, round_: int) -> bool:
        """Whether this device takes no roster from it: not on a suspicion, or a few refused sums would stop a swarm."""
        return self.distrusts(peer, round_) and (self._records[peer].proven or self.is_hopeless(peer))

    def is_hopeless(self, peer: bytes) -> bool:
        """Nearly all that it was in came to nothing: it is better to wait for others."""
        return self.doubt(peer) >= HOPELESS

    def is_forger(self, peer: bytes) -> bool:
        """Whether this device has seen that it published, or accused, falsely."""
        record = self._records.get(peer)
        return record is not None and record.proven

    def doubted(self) -> dict[bytes, float]:
        """All of whom more than nothing is thought."""
        return {peer: record.doubt for peer, record in self._records.items() if record.doubt > PRIOR}
