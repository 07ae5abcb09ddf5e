"""Dealing a member's secrets to its cohort, and opening them again.

Every member deals Shamir shares of its self mask's seed b and of the seed of its pairwise key M: any t
members can rebuild one, fewer learn nothing. Before anyone masks anything, each member has committed to H(b), and M's public
key stands in its READY: those two decide whether a rebuilt secret is right, and nothing else is used.

A holder may lie about a share that it opens. It cannot make another secret pass (for that it would need a second preimage), and
it cannot hide the right one: with t honest shares among those that were opened, `crypto.sharing.recover` finds it (in every
cohort of up to 18, in larger ones of up to 32 against three liars at least, and in those of up to 64 against two). Shares that do not fit are used last for the next owner. So
a lie costs the aggregator a few more subsets, and nobody else anything.

An owner may deal shares that lead nowhere, and then the sum is lost if its secret is needed. No commitment to the shares could
prevent that, as an owner can commit to garbage as well; so none is made.

H(b) is 16 bytes. Somebody else than the owner would need a second preimage of a hash of 128 unknown bits, for this cohort
and owner: 2^128. The owner itself could look for two seeds with one hash, which takes 2^64 tries within the seconds between
the roster and its SHARES; what it could do with them, it can do with its own vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from crypto.agreement import SEED_BYTES, KeyPair
from crypto.hashing import digest
from crypto.sealing import envelope_info, seal, unseal
from crypto.sharing import recover, split
from gossip.cohort.roster import Cohort, Secrets
from gossip.errors import PeerViolation
from gossip.fields import SHORT_HASH_BYTES
from gossip.secure_sum.messages import ENVELOPE_BYTES, Commitment


class Secret(IntEnum):
    SEED = 0  # b
    KEY = 1  # M's seed


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner dealt to this member."""

    shares: tuple[bytes, ...]  # of b and of M

    def opening(self, secret: Secret) -> bytes:
        return self.shares[secret]


@dataclass(frozen=True, slots=True)
class Deal:
    commitment: Commitment
    envelopes: tuple[bytes, ...]  # by member; one's own is empty
    own: Holding


def deal(cohort: Cohort, owner: int, secrets: Secrets, entropy: Callable[[int], bytes]) -> Deal:
    """Split, commit and seal all of `owner`'s secrets for the members of `cohort`."""
    dealt: list[tuple[bytes, ...]] = [()] * cohort.size
    for secret in (secrets.seed, secrets.mask_seed):
        shares = split(secret, cohort.size, cohort.threshold, entropy)
        dealt = [(*held, share) for held, share in zip(dealt, shares, strict=True)]
    holdings = [Holding(shares) for shares in dealt]
    envelopes = tuple(
        b"" if index == owner else _seal(cohort, owner, index, secrets.channel, holding)
        for index, holding in enumerate(holdings)
    )
    return Deal(Commitment(seed_hash(cohort, owner, secrets.seed)), envelopes, holdings[owner])


def receive(cohort: Cohort, receiver: int, channel: KeyPair, owner: int, box: bytes) -> Holding:
    """Open the envelope that `owner` sealed for `receiver`; PeerViolation unless it is one."""
    sender, me = cohort.members[owner], cohort.members[receiver]
    if len(box) != ENVELOPE_BYTES:
        raise PeerViolation(f"SHARES: an envelope of {len(box)} bytes")
    try:
        key = channel.derive(cohort.readies[owner].channel, salt=cohort.id, info=envelope_info(sender, me))
        plain = unseal(key, box, cohort.id)
    except ValueError as error:
        raise PeerViolation(f"SHARES: {error}") from error
    return Holding(tuple(plain[at : at + SEED_BYTES] for at in range(0, len(plain), SEED_BYTES)))


def rebuild_seed(
    cohort: Cohort,
    owner: int,
    commitment: Commitment,
    shares: Mapping[int, bytes],
    doubted: Sequence[int] = (),
) -> tuple[bytes, list[int]]:
    """B, and the holders whose shares do not fit; PeerViolation if no t of the shares give what was committed to."""
    found = recover(
        shares, cohort.threshold, lambda seed: seed_hash(cohort, owner, seed) == commitment.seed, doubted
    )
    if found is None:
        raise PeerViolation(
            f"UNMASK: no {cohort.threshold} of {len(shares)} shares give member {owner}'s seed"
        )
    return found


def rebuild_key(
    cohort: Cohort, owner: int, shares: Mapping[int, bytes], doubted: Sequence[int] = ()
) -> tuple[bytes, list[int]]:
    """The seed of M, and the holders whose shares do not fit; PeerViolation if no t of the shares give the public key's."""
    expected, name = cohort.readies[owner].mask, cohort.members[owner]
    found = recover(
        shares,
        cohort.threshold,
        lambda seed: KeyPair.from_seed(seed, name).public == expected,
        doubted,
    )
    if found is None:
        raise PeerViolation(
            f"UNMASK: no {cohort.threshold} of {len(shares)} shares give member {owner}'s key"
        )
    return found


def seed_hash(cohort: Cohort, owner: int, seed: bytes) -> bytes:
    return digest("seed", cohort.id, cohort.members[owner], seed)[:SHORT_HASH_BYTES]


def _seal(cohort: Cohort, owner: int, receiver: int, channel: KeyPair, holding: Holding) -> bytes:
    sender, other = cohort.members[owner], cohort.members[receiver]
    key = channel.derive(cohort.readies[receiver].channel, salt=cohort.id, info=envelope_info(sender, other))
    return seal(key, b"".join(holding.shares), cohort.id)
