"""A statement of t of n: what at least t members of a roster have signed, word for word.

Any two sets of t signers have at least 2t - n members in common. An honest member signs at most one of two statements
that exclude each other, so as long as fewer than 2t - n members are dishonest, at most one of the two is ever certified.
That makes a seal, an abort and an aggregate final without a coordinator. (Malkhi and Reiter, "Byzantine quorum
systems", 1998.)

A certificate is judged whole. One signature that does not hold spoils it, though the others would do: otherwise one
statement would have certificates that some nodes pass on and others refuse, and rubbish could be attached to a good one.
"""

from collections.abc import Mapping, Sequence

from crypto.identity import verify


def statement_holds(
    domain: str, message: bytes, members: Sequence[bytes], signatures: Mapping[int, bytes], threshold: int
) -> bool:
    """Whether at least `threshold` distinct members signed the message in this domain.

    `members` are raw public keys, `signatures` go by the member's index. False for fewer, for an index outside the
    roster, for any signature that does not hold, and for a threshold below one, which would prove nothing.
    """
    if threshold < 1 or any(not 0 <= index < len(members) for index in signatures):
        return False
    # A roster that names a key twice must not let its owner count twice.
    if len({members[index] for index in signatures}) < threshold:
        return False
    return all(verify(members[index], domain, message, signature) for index, signature in signatures.items())
