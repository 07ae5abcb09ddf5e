"""Whom this device would rather not sum with, by what came of the sums that it was in.

Masks hide who spoiled a sum, so one sum finds nobody guilty. But a device is in many sums, each
time with others, and each sum is a *group test* (Dorfman, "The detection of defective members of
large populations", 1943): a refused sum counts against all of its contributors, and one that holds
clears all of them. A device that spoils every sum that it is in is never cleared; the others soon
are.

    what came of a sum                 what is noted
    ---------------------------------  -----------------------------------------------------------
    REJECT was certified               each contributor: one more refusal in a row;
                                       the first aggregator: an offence, as three rows below
    it holds                           each contributor: no refusal, no absence
    it holds, or was refused           each member that was not in it: one more absence in a row
    this member refused it             its aggregator: *distrusted* for 2^k rounds, k times in a row
    ... and signed the other's sum     the same, for DISTRUSTED_MAX rounds: one of the two lied
    it came to nothing (`Failed`)      its leader and first aggregator: the same as for a refusal
    an audit found a forgery           its aggregator: distrusted for good
    t members have taken it back       each member that did not sign that: distrusted for DISTRUSTED_MAX
                                       rounds; the aggregator is one of them, and perhaps the only one

A leader draws for each device that has r refusals and absences in a row, anew for each cohort. It
takes the device with a chance of 2^-min(r, DOUBLINGS_MAX), else leaves it for a later cohort. So
nobody is shut out for ever, and an honest device that was in bad company is back after its first
sum that holds. A distrusted device is asked last to lead. So nobody stops a swarm by leading: who
leads follows from the round, and would else lead the same round again and again, as none comes.

These are one device's own opinions. They decide whom it meets and never what it folds, so replicas
cannot differ by them. Bad devices gain this: if they are more than a quarter of a cohort, they can
refuse honest sums or leave them, and so make honest devices look bad to each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crypto.hashing import digest
from gossip.aggregate import ROUND_MAX

DOUBLINGS_MAX = 6  # one in 64 rounds is left to whoever never was in a sum that holds
ABSENCES_FREE = 1  # in a row: connections break, and phones sleep
DISTRUSTED_MAX = 64  # rounds
KNOWN_MAX = 1024  # devices of which anything is noted; the oldest note goes


@dataclass(slots=True)
class Record:
    refused: int = 0  # sums in a row
    absent: int = 0  # sums in a row
    offended: int = 0  # in a row, as aggregator
    distrusted_until: int = 0  # round
    proven: bool = False  # that it is not honest, but for a cohort that lied to this device

    @property
    def streak(self) -> int:
        return min(DOUBLINGS_MAX, self.refused + max(0, self.absent - ABSENCES_FREE))


class Suspicion:
    def __init__(self, swarm: bytes, me: bytes) -> None:
        self._swarm = swarm
        self._me = me
        self._records: dict[bytes, Record] = {}  # at most KNOWN_MAX
        self.refused = 0  # sums, since the start

    # --- what happened ----------------------------------------------------------------------------------------

    def held(self, members: Iterable[bytes], contributors: Sequence[bytes]) -> None:
        for peer in contributors:
            record = self._records.get(peer)
            if record is not None:
                record.refused = record.absent = 0
        self._missed(members, contributors)

    def rejected(self, members: Iterable[bytes], contributors: Sequence[bytes]) -> None:
        self.refused += 1
        for peer in contributors:
            if peer != self._me:
                self._of(peer).refused += 1
        self._missed(members, contributors)

    def offended(self, aggregator: bytes, round_: int, *, certain: bool) -> None:
        """It led a cohort that failed, or showed a sum that this device refused; `certain`: while another one of the same cohort was signed."""
        if aggregator == self._me:
            return
        record = self._of(aggregator)
        record.offended += 1
        rounds = DISTRUSTED_MAX if certain else min(DISTRUSTED_MAX, 1 << record.offended)
        record.proven = record.proven or certain
        record.distrusted_until = max(record.distrusted_until, round_ + rounds)

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
            record.offended = 0

    def _missed(self, members: Iterable[bytes], contributors: Sequence[bytes]) -> None:
        there = set(contributors)
        for peer in members:
            if peer not in there and peer != self._me:
                self._of(peer).absent += 1

    def _of(self, peer: bytes) -> Record:
        record = self._records.pop(peer, None) or Record()
        self._records[peer] = record
        while len(self._records) > KNOWN_MAX:
            del self._records[next(iter(self._records))]
        return record

    # --- what follows -----------------------------------------------------------------------------------------

    def takes(self, peer: bytes, round_: int, attempt: int) -> bool:
        """Whether a leader takes this device into a cohort now: drawn for each cohort that it makes."""
        record = self._records.get(peer)
        if record is None or not record.streak:
            return True
        number = round_.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        drawn = digest("suspicion", self._swarm, self._me, number, peer)[0]
        return drawn < 256 >> record.streak

    def streak(self, peer: bytes) -> int:
        record = self._records.get(peer)
        return 0 if record is None else record.streak

    def distrusts(self, peer: bytes, round_: int) -> bool:
        """Whether this device would rather not be led by it."""
        record = self._records.get(peer)
        return record is not None and round_ < record.distrusted_until

    def declines(self, peer: bytes, round_: int) -> bool:
        """Whether this device takes no roster from it: not on a suspicion, or a few refused sums would stop a swarm."""
        return self.distrusts(peer, round_) and self._records[peer].proven

    def is_forger(self, peer: bytes) -> bool:
        """Whether this device has seen that it published, or accused, falsely."""
        record = self._records.get(peer)
        return record is not None and record.proven

    def doubted(self) -> dict[bytes, int]:
        """Refusals and absences in a row, of all that have some."""
        return {peer: record.streak for peer, record in self._records.items() if record.streak}
