"""Dealing a member's secrets to its cohort, and opening them again.

Every member deals, for each phase, Shamir shares of its self mask's seed b and of its pairwise key M: any t members
can rebuild one, fewer learn nothing. Before anyone masks anything, each member has committed to H(b) and to one
Merkle root over all the shares it dealt, so that a share that is opened later can be checked alone, a liar is told
from an honest member, and a rebuilt secret is compared with H(b) or with the public key before it is used.

The leaf of receiver j is the hashes of its shares in the order (phase 0: b, M; phase 1: b, M): opening one share shows
only the hashes of the others. A leaf never tells what it hides, because a share of a random secret is random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from crypto import merkle
from crypto.agreement import KeyPair, public_of
from crypto.hashing import digest
from crypto.sealing import OVERHEAD_BYTES, envelope_info, seal, unseal
from crypto.sharing import combine, split
from gossip.cohort import Cohort, Secrets
from gossip.errors import PeerViolation
from gossip.messages import Commitment, Opening

SECRET_BYTES = 32


class Secret(IntEnum):
    SEED = 0  # b
    KEY = 1  # M


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner dealt to this member, checked against the owner's commitment."""

    shares: tuple[bytes, ...]  # phase 0: b, M; phase 1: b, M
    path: tuple[bytes, ...]

    def opening(self, owner: int, phase: int, secret: Secret) -> Opening:
        place = 2 * phase + secret
        hashes = _hashes(self.shares)
        return Opening(owner, self.shares[place], hashes[:place] + hashes[place + 1 :], self.path)


@dataclass(frozen=True, slots=True)
class Deal:
    commitment: Commitment
    envelopes: tuple[bytes, ...]  # by member; one's own is empty
    own: Holding


def deal(cohort: Cohort, owner: int, secrets: Secrets, entropy: Callable[[int], bytes]) -> Deal:
    """Split, commit and seal all of `owner`'s secrets for the members of `cohort`."""
    dealt: list[tuple[bytes, ...]] = [()] * cohort.size
    for seed, pair in zip(secrets.seeds, secrets.masks, strict=True):
        for secret in (seed, pair.private):
            shares = split(secret, cohort.size, cohort.threshold, entropy)
            dealt = [(*held, share) for held, share in zip(dealt, shares, strict=True)]
    leaves = [b"".join(_hashes(shares)) for shares in dealt]
    holdings = [Holding(shares, merkle.path(leaves, index)) for index, shares in enumerate(dealt)]
    commitment = Commitment(tuple(seed_hash(cohort, seed) for seed in secrets.seeds), merkle.root(leaves))
    envelopes = tuple(
        b"" if index == owner else _seal(cohort, owner, index, secrets.channel, holding)
        for index, holding in enumerate(holdings)
    )
    return Deal(commitment, envelopes, holdings[owner])


def receive(
    cohort: Cohort, receiver: int, channel: KeyPair, owner: int, commitment: Commitment, box: bytes
) -> Holding:
    """Open the envelope that `owner` sealed for `receiver`; PeerViolation unless it is what was committed to."""
    sender, me = cohort.members[owner], cohort.members[receiver]
    phases = len(cohort.readies[owner].masks)
    if len(box) != envelope_bytes(cohort, receiver):
        raise PeerViolation(f"SHARES: an envelope of {len(box)} bytes")
    try:
        key = channel.derive(cohort.readies[owner].channel, salt=cohort.id, info=envelope_info(sender, me))
        plain = unseal(key, box, cohort.id)
    except ValueError as error:
        raise PeerViolation(f"SHARES: {error}") from error
    pieces = [plain[at : at + SECRET_BYTES] for at in range(0, len(plain), SECRET_BYTES)]
    holding = Holding(tuple(pieces[: 2 * phases]), tuple(pieces[2 * phases :]))
    leaf = b"".join(_hashes(holding.shares))
    if merkle.root_from(leaf, receiver, cohort.size, holding.path) != commitment.root:
        raise PeerViolation("SHARES: a share that its owner did not commit to")
    return holding


def envelope_bytes(cohort: Cohort, receiver: int) -> int:
    """The size of every envelope that is for `receiver`."""
    phases, depth = len(cohort.readies[receiver].masks), _depth(cohort.size, receiver)
    return SECRET_BYTES * (2 * phases + depth) + OVERHEAD_BYTES


def check_opening(
    cohort: Cohort, holder: int, opening: Opening, commitment: Commitment, phase: int, secret: Secret
) -> None:
    """Raises PeerViolation unless `holder` opens exactly the share that the owner dealt to it."""
    place = 2 * phase + secret
    hashes = list(opening.siblings)
    hashes.insert(place, share_hash(opening.share))
    if len(hashes) != 2 * len(commitment.seeds):
        raise PeerViolation("UNMASK: an opening of the wrong shape")
    try:
        root = merkle.root_from(b"".join(hashes), holder, cohort.size, opening.path)
    except ValueError as error:
        raise PeerViolation(f"UNMASK: {error}") from error
    if root != commitment.root:
        raise PeerViolation("UNMASK: a share that was never dealt")


def rebuild_seed(cohort: Cohort, commitment: Commitment, phase: int, shares: Mapping[int, bytes]) -> bytes:
    """B from t checked shares; PeerViolation if its owner dealt something else than it committed to."""
    seed = combine(shares, cohort.threshold)
    if seed_hash(cohort, seed) != commitment.seeds[phase]:
        raise PeerViolation("SHARES: the dealt seed is not the committed one")
    return seed


def rebuild_key(cohort: Cohort, owner: int, phase: int, shares: Mapping[int, bytes]) -> KeyPair:
    """M from t checked shares; PeerViolation if it does not fit the owner's public key."""
    private = combine(shares, cohort.threshold)
    if public_of(private) != cohort.readies[owner].masks[phase]:
        raise PeerViolation("SHARES: the dealt key does not fit the public one")
    return KeyPair(private)


def seed_hash(cohort: Cohort, seed: bytes) -> bytes:
    return digest("seed", cohort.id, seed)


def share_hash(share: bytes) -> bytes:
    return digest("share", share)


def _hashes(shares: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(share_hash(share) for share in shares)


def _depth(count: int, index: int) -> int:
    """Length of the Merkle path of leaf `index` among `count`."""
    return len(merkle.path([b""] * count, index))


def _seal(cohort: Cohort, owner: int, receiver: int, channel: KeyPair, holding: Holding) -> bytes:
    sender, other = cohort.members[owner], cohort.members[receiver]
    key = channel.derive(cohort.readies[receiver].channel, salt=cohort.id, info=envelope_info(sender, other))
    return seal(key, b"".join((*holding.shares, *holding.path)), cohort.id)
