"""Whether an aggregator has added up what was sealed: how members check its work.

A seal names the hash of every vector, KEYS_SET the hash of every seed, and a READY its public key.
So a member that is shown the masked vectors and the opened secrets can add up again and compare.
The sum is exact, and so is its body. The member learns what the aggregator knew, which is the sum
and nothing else (docs/threat-model.md, "What an audit shows").

    member                                                   aggregator
    a sum holds: draws, with AUDITS / n   -- AUDIT_REQUEST ->  has kept its last KEPT_MAX sums
                                          <- AUDIT_ANSWER --  one for each owner
    the same body: the aggregator is honest
    another body: it forged               -- ACCUSATION -> all members, who audit for themselves
    nothing within AUDIT_STEPS: the aggregator is distrusted for a while, as after a refused sum

Nobody believes an accusation: a member that finds the sum right distrusts the accuser. A member
that has found a forgery audits ALARMED times as often for ALARM_ROUNDS rounds, as forgers come in
company. One that has refused a sum that the others signed audits it with a chance of OUTVOTED. Each
member draws for itself, so a forger cannot know which sums are audited. Of two sums each member that
has signed one audits at once (`gossip.secure_sum.member`).

**Gain.** A forger may stay below what members look for (`gossip.secure_sum.harm`), with zeros, say. It spoils
1 / AUDITS sums on average, and then leads nobody who was in the sum that was found.
**Cost.** AUDITS of the bytes of all vectors, on average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crypto.agreement import SEED_BYTES, KeyPair
from crypto.masking import Lanes, Mask, add_vectors, apply_masks
from gossip.codec.codec import decode_sum, publish
from gossip.cohort.roster import Cohort
from gossip.errors import PeerViolation
from gossip.secure_sum.derived import pair_mask, self_mask, vector_hash
from gossip.secure_sum.messages import Commitment
from gossip.secure_sum.shares import seed_hash

AUDITS = 1 / 10  # of all sums
ALARMED = 16
OUTVOTED = 1 / 16  # one member in fifteen refuses an honest sum: 6 audits more of 100 sums
ALARM_ROUNDS = 64
AUDIT_STEPS = 2.0
KEPT_MAX = 2  # sums
KEPT_BYTES = 64 << 20  # of vectors, in one of them; a larger one cannot be audited


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a member remembers of a sum to audit it: all of it public to its cohort."""

    cohort: Cohort
    context: bytes
    commitments: Mapping[int, Commitment]  # of U1
    contributors: Sequence[int]
    hashes: Sequence[bytes]  # of their vectors
    lanes: Lanes

    def refuse_unfit(self, owner: int, vector: bytes, secret: bytes) -> None:
        """PeerViolation for anything but what was sealed and opened of this owner; so nothing larger is ever kept."""
        if owner not in self.commitments:
            raise PeerViolation("AUDITED: of somebody who dealt no keys")
        if owner in self.contributors:
            expected = self.hashes[self.contributors.index(owner)]
            if vector_hash(self.context, self.cohort.members[owner], vector) != expected:
                raise PeerViolation("AUDITED: a vector that was not sealed")
            hidden = self.cohort.masked
            if hidden and seed_hash(self.cohort, owner, secret) != self.commitments[owner].seed:
                raise PeerViolation("AUDITED: a seed that was not committed to")
        elif vector or not self._is_key_of(owner, secret):
            raise PeerViolation("AUDITED: not the key of somebody who dropped out")

    def _is_key_of(self, owner: int, secret: bytes) -> bool:
        """Without masks there is none to show."""
        if not self.cohort.masked:
            return not secret
        return len(secret) == SEED_BYTES and self._pair(owner, secret).public == self._key(owner)

    def sums(
        self, vectors: Mapping[int, bytes], secrets: Mapping[int, bytes]
    ) -> tuple[bytes, tuple[int, ...]]:
        """What an honest aggregator publishes of these: sums and ranges. All have passed `refuse_unfit`."""
        total = self.lanes.zeros()
        masks: list[Mask] = []
        for owner in self.commitments:
            if owner in self.contributors:
                add_vectors(total, np.frombuffer(vectors[owner], np.uint8), self.lanes)
            if not self.cohort.masked:
                continue
            if owner in self.contributors:
                mask = self_mask(self.cohort, owner, secrets[owner])
                masks.append(Mask(mask.key, -mask.sign))
            else:
                pair = self._pair(owner, secrets[owner])
                masks += [pair_mask(self.cohort, owner, pair, j) for j in self.contributors]
        apply_masks(total, self.lanes, masks)
        count = len(self.contributors)
        ranges, exact = decode_sum(total, self.lanes, count)
        return publish(exact, count, self.cohort.swarm.manifest.compression), ranges

    def _pair(self, owner: int, secret: bytes) -> KeyPair:
        return KeyPair.from_seed(secret, self.cohort.members[owner])

    def _key(self, owner: int) -> bytes:
        return self.cohort.readies[owner].mask


@dataclass(frozen=True, slots=True)
class AuditJob:
    """Add up again what was sealed."""

    sealed: Sealed
    vectors: Mapping[int, bytes]
    secrets: Mapping[int, bytes]

    def run(self) -> "Audited":
        return Audited(*self.sealed.sums(self.vectors, self.secrets))


@dataclass(frozen=True, slots=True)
class Audited:
    sums: bytes
    ranges: tuple[int, ...]
