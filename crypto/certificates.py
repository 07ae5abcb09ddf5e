"""A statement of t of n: what at least t members of a roster have signed, word for word.

Any two sets of t signers have at least 2t - n members in common. An honest member signs at most one of two statements
that exclude each other, so as long as fewer than 2t - n members are dishonest, at most one of the two is ever certified.
That makes a seal, an abort and an aggregate final without a coordinator. (Malkhi and Reiter, "Byzantine quorum
systems", 1998.)

The signatures of all signers travel as one half-aggregate, at half the bytes (`crypto.half_aggregation`): t of n still have to sign.

A certificate is judged whole. One signature that does not hold spoils it, though the others would do: otherwise one
statement would have certificates that some nodes pass on and others refuse, and rubbish could be attached to a good one.
"""

from collections.abc import Mapping, Sequence

from crypto.half_aggregation import HalfAggregate, aggregate, holds


def certify(
    domain: str, message: bytes, members: Sequence[bytes], signatures: Mapping[int, bytes]
) -> HalfAggregate:
    """The certificate of these members, by index, in ascending order. ValueError for a signature that does not hold."""
    signers = sorted(signatures)
    keys = [members[index] for index in signers]
    return aggregate(keys, domain, message, [signatures[index] for index in signers])


def statement_holds(
    domain: str,
    message: bytes,
    members: Sequence[bytes],
    signers: Sequence[int],
    half: HalfAggregate,
    threshold: int,
) -> bool:
    """Whether at least `threshold` distinct members signed the message in this domain.

    `members` are raw public keys, `signers` indices of those whose commitments are in the half-aggregate, in its order. False for
    fewer, for an index outside the roster or given twice, for any signature that does not hold, and for a threshold below
    one, which would prove nothing.
    """
    if threshold < 1 or any(not 0 <= index < len(members) for index in signers):
        return False
    if len({*signers}) != len(signers):
        return False
    keys = [members[index] for index in signers]
    # A roster that names a key twice must not let its owner count twice.
    return len({*keys}) >= threshold and holds(keys, domain, message, half)
