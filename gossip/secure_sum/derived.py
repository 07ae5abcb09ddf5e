"""What all members of a cohort derive alike: their masks, and the names of what was said."""

from crypto.agreement import KeyPair, pair_info
from crypto.hashing import digest
from crypto.masking import Mask
from gossip.cohort.roster import Cohort
from gossip.fields import SHORT_HASH_BYTES
from gossip.secure_sum.messages import Commitment
from gossip.wire import pack


def self_mask(cohort: Cohort, owner: int, seed: bytes) -> Mask:
    """PRG(b): Bonawitz's second mask, which keeps a late vector hidden from those who took its owner for lost."""
    return Mask(digest("self mask", cohort.id, cohort.members[owner], seed), 1)


def pair_mask(cohort: Cohort, owner: int, pair: KeyPair, other: int) -> Mask:
    """PRG(s_ij) as `owner` adds it: the two members' signs differ, so a sum over both carries none of it."""
    info = pair_info(cohort.members[owner], cohort.members[other])
    key = pair.derive(cohort.readies[other].mask, salt=cohort.id, info=info)
    return Mask(key, 1 if owner < other else -1)


def commitment_hash(commitment: Commitment) -> bytes:
    return digest("commitment", pack(commitment))


def keys_context(commitments: list[tuple[int, bytes]]) -> bytes:
    """H(U1) over (member, hash of its commitment)."""
    return digest("keys", *(bytes([index]) + commitment for index, commitment in commitments))


def vector_hash(context: bytes, owner: bytes, vector: bytes) -> bytes:
    """16 bytes of the hash of an owner's masked vector under the keys that it was masked under.

    Nobody else can find another vector for it (a second preimage: 2^128), so an owner who checks its own cannot be made to sign
    for what it never sent. An owner could make two vectors with one hash only by 2^64 tries after the context is
    known, within a step's time; it would show the two aggregators different vectors, and the members sign one body.
    """
    return digest("masked vector", context, owner, vector)[:SHORT_HASH_BYTES]


def seal_hash(proposal: bytes) -> bytes:
    return digest("seal", proposal)
