"""The certified sum of a cohort: what travels, what it is called, and when it holds.

The *body* says which cohorts met, who of them is in the sum, and what the sum is. Its id is the hash of the
body alone, so that an aggregate is the same aggregate under whichever t members signed it. At least t =
ceil(3n/4) of each roster's n members sign the id; an honest member signs one body per cohort, so two bodies
of one cohort need 2t - n dishonest members (see `crypto.certificates`).

Several parts make one merged sum, of cohorts that shared parents, blocks and exponents; t of each roster sign
the whole body, because each signs the id.

`check` is everything that can be judged without the history: form, bounds and signatures. It is a pure
function of the bytes and the manifest and never of the clock, the arrival or local opinion, so that all nodes
agree for ever. It is also the one maker of a `Verified`, the only thing a history takes: signatures are never
checked twice, and never forgotten. That parents are held and that the round follows theirs is
`gossip.history.dag`'s to say.

An aggregate is bounded, not trusted: members cannot see that a sum is honest. The bounds here and the fold's
cap limit what a dishonest cohort can do to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta, structs
from numpy.typing import NDArray

from crypto.certificates import statement_holds
from crypto.half_aggregation import COMMITMENT_BYTES, HalfAggregate
from crypto.masking import Lanes
from gossip.body import CODECS, EXPONENT_MAX, PARTS_MAX, RANGE_MAX, Body, Part, aggregate_id, is_lowrank
from gossip.codec.blocks import Layout
from gossip.codec.entropy_coding import FLAG_BYTES, squeeze, unsqueeze
from gossip.codec.lowrank import values_in
from gossip.codec.ranges import grain_of
from gossip.errors import PeerViolation
from gossip.fields import Bitmap, Commitments, Scalar
from gossip.manifest import Manifest, PeerKey
from gossip.quorum import ascend, read_members, threshold, unpack_members
from gossip.wire import Wire, pack, unpack

SUM_MAX = 1 << 9  # |U2| S, for the fold's integers as well
STATE_EVERY = 16  # rounds
MEMBERSHIP_OF_MANIFEST = bytes(32)  # the cohort met under the manifest's own list, and no further statements


class Signatures(Wire, frozen=True):
    """Of one part's members, over its `body_statement`: one half-aggregate (`crypto.half_aggregation`)."""

    signers: Bitmap
    commitments: Commitments  # 32 bytes of each signer, in ascending order
    scalar: Scalar


class Aggregate(Wire, frozen=True):
    body: Body
    signatures: Annotated[tuple[Signatures, ...], Meta(min_length=1, max_length=PARTS_MAX)]  # one a part


@dataclass(frozen=True, slots=True)
class Verified:
    """An aggregate that passed `check` in its swarm. Nothing else outside the tests may make one.

    Two are equal under one id, whoever signed. `contributors` are the keys of those in the sum. `origin` is the body that its
    own names as `basis`: the history, which holds it, gives it along with what counts.
    """

    id: bytes
    aggregate: Aggregate = field(compare=False)
    contributors: tuple[PeerKey, ...] = field(compare=False, repr=False)
    origin: Body | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, aggregate: Aggregate, manifest: Manifest) -> "Verified":
        """Nothing is verified here."""
        return cls(aggregate_id(aggregate.body), aggregate, contributors_of(aggregate.body, manifest))

    @property
    def body(self) -> Body:
        return self.aggregate.body


def body_statement(swarm: bytes, roster: bytes, aggregate: bytes) -> bytes:
    """What a member signs, in the domain "body", for its roster: three hashes of 32 bytes each."""
    return swarm + roster + aggregate


def size_limit(manifest: Manifest, layout: Layout) -> int:
    """No valid aggregate of this swarm is larger, in bytes."""
    payload = layout.parameters * manifest.compression.lane_bits // 8 + layout.blocks + layout.blocks // 8
    header = 1024 + 5 * (layout.segments + len(layout.tensor_ends))
    people = PARTS_MAX * (128 + manifest.cohorts.n_max * (34 + COMMITMENT_BYTES))
    return payload + FLAG_BYTES + header + people


def write(aggregate: Aggregate, manifest: Manifest) -> bytes:
    """As it travels: its sums coded (`gossip.codec.entropy_coding`). Hashed, signed and stored are the sums as they are."""
    body = aggregate.body
    width = manifest.compression.lane_bits // 8
    coded = squeeze(body.sums, _lanes_of(len(body.sums) // width, manifest))
    return pack(structs.replace(aggregate, body=structs.replace(body, sums=coded)))


def parse(data: bytes, manifest: Manifest, layout: Layout) -> Aggregate:
    """What `write` made; PeerViolation for anything else, and for what would be of an unbearable size.

    How many sums there are follows from the rest of the body, so no coding makes more of them than that.
    """
    coded = unpack(data, Aggregate, limit_bytes=size_limit(manifest, layout))
    _, values = _carried(coded.body, manifest, layout)
    sums = unsqueeze(coded.body.sums, _lanes_of(values, manifest))
    return structs.replace(coded, body=structs.replace(coded.body, sums=sums))


def _lanes_of(values: int, manifest: Manifest) -> Lanes:
    return Lanes(0, values, manifest.compression.lane_bits)


def check(aggregate: Aggregate, manifest: Manifest, layout: Layout, swarm: bytes) -> Verified:
    """Judge all that needs no history, signatures last; PeerViolation says what does not hold."""
    body = aggregate.body
    check_body(body, manifest, layout, swarm)
    verified = Verified.of(aggregate, manifest)
    _check_signatures(aggregate, verified.id, manifest)
    return verified


def check_body(body: Body, manifest: Manifest, layout: Layout, swarm: bytes) -> None:
    """The same before anybody has signed: no honest member signs a body that raises PeerViolation here."""
    _check_place(body, manifest, swarm)
    contributors = _check_parts(body.parts, manifest)
    _check_sum(body, contributors, manifest, layout)


def lanes(body: Body, manifest: Manifest) -> NDArray[np.signedinteger]:
    """The sums as they lie in the body: int8, int16 or int32, one a carried parameter."""
    return np.frombuffer(body.sums, np.dtype(f"<i{manifest.compression.lane_bits // 8}"))


def contributors_of(body: Body, manifest: Manifest) -> tuple[PeerKey, ...]:
    """Their keys, part after part, whatever the body calls them."""
    return tuple(
        members[index]
        for part in body.parts
        for members in [read_members(part.members, manifest)]
        for index in unpack_members(part.contributors, len(members))
    )


def members_of(body: Body, manifest: Manifest) -> tuple[PeerKey, ...]:
    """The keys of all who were in its cohorts, in the sum or not."""
    return read_members([name for part in body.parts for name in part.members], manifest)


def _check_place(body: Body, manifest: Manifest, swarm: bytes) -> None:
    if body.swarm != swarm:
        raise PeerViolation("aggregate: of another swarm")
    if CODECS[body.codec] != manifest.compression.codec:
        raise PeerViolation(
            f"aggregate: codec {CODECS[body.codec]}, but this swarm's is {manifest.compression.codec}"
        )
    if not ascend(body.parents):
        raise PeerViolation("aggregate: parents must ascend without repetition")
    if not is_lowrank(body) and body.basis:
        raise PeerViolation("aggregate: a basis, which this codec does not have")
    if is_lowrank(body) and (body.basis not in body.parents if body.parents else body.basis):
        raise PeerViolation("aggregate: a basis of none of its parents")
    if bool(body.parents) != (body.round > 1):
        raise PeerViolation(
            f"aggregate: {len(body.parents)} parents in round {body.round}; only the first has none"
        )
    if len(body.state) != (0 if body.round % STATE_EVERY else 32):
        raise PeerViolation(f"aggregate: a state of {len(body.state)} bytes in round {body.round}")


def _check_parts(parts: Sequence[Part], manifest: Manifest) -> int:
    """The number of contributors over all parts, |U2|."""
    cohorts = manifest.cohorts
    if not ascend([part.roster for part in parts]):
        raise PeerViolation("aggregate: rosters must ascend without repetition")
    everybody = read_members([member for part in parts for member in part.members], manifest)
    if len(set(everybody)) != len(everybody):
        raise PeerViolation("aggregate: a device is a member twice")
    contributors = 0
    for part in parts:
        size = len(part.members)
        if not cohorts.n_min <= size <= cohorts.n_max:
            raise PeerViolation(f"aggregate: a cohort of {size}, not {cohorts.n_min} to {cohorts.n_max}")
        if not ascend(part.members):
            raise PeerViolation("aggregate: members must ascend")
        if part.membership != MEMBERSHIP_OF_MANIFEST:
            raise PeerViolation("aggregate: a membership beyond the manifest's")
        summed, least = len(unpack_members(part.contributors, size)), max(cohorts.n_min, threshold(size))
        if summed < least:
            raise PeerViolation(f"aggregate: {summed} contributors of {size}, at least {least} needed")
        contributors += summed
    return contributors


def _check_sum(body: Body, contributors: int, manifest: Manifest, layout: Layout) -> None:
    compression = manifest.compression
    bound = contributors * compression.levels
    if bound > SUM_MAX or 2 * bound + 1 > 1 << compression.lane_bits:
        raise PeerViolation(f"aggregate: {contributors} contributors of {compression.levels} levels overflow")
    exponents, values = _carried(body, manifest, layout)
    if len(body.exponents) != exponents:
        raise PeerViolation(f"aggregate: {len(body.exponents)} exponents for {exponents} carried")
    if max(body.exponents) > EXPONENT_MAX:
        raise PeerViolation(
            f"aggregate: an exponent of -{max(body.exponents)}, at least -{EXPONENT_MAX} allowed"
        )
    size_bytes = values * compression.lane_bits // 8
    if len(body.sums) != size_bytes:
        raise PeerViolation(f"aggregate: {len(body.sums)} bytes of sums, not {size_bytes}")
    sums = lanes(body, manifest)
    if int(sums.max()) > bound or int(sums.min()) < -bound:
        raise PeerViolation(f"aggregate: a sum outside +-{bound}")
    grain = grain_of(contributors, compression)
    if np.any(sums & grain - 1):
        raise PeerViolation(f"aggregate: a sum that is no multiple of {grain}")
    if len(body.weights) != layout.segments:
        raise PeerViolation(f"aggregate: {len(body.weights)} weights for {layout.segments} segments")
    if max(body.weights) > contributors:
        raise PeerViolation(f"aggregate: a weight above its {contributors} contributors")
    if any(0 < weight < manifest.cohorts.n_min for weight in body.weights):
        raise PeerViolation("aggregate: a segment of fewer devices than hide one another")
    if len(body.ranges) != len(layout.tensor_ends):
        raise PeerViolation(f"aggregate: {len(body.ranges)} ranges for {len(layout.tensor_ends)} tensors")
    if max(body.ranges) > contributors * RANGE_MAX:
        raise PeerViolation(f"aggregate: a range above {contributors * RANGE_MAX}")


def _carried(body: Body, manifest: Manifest, layout: Layout) -> tuple[int, int]:
    """How many exponents and how many sums belong to this support and, for factors, to the side of this round."""
    blocks = layout.unpack_blocks(body.blocks)
    if not is_lowrank(body):
        return len(blocks), layout.values_in(blocks)
    if body.blocks:
        raise PeerViolation("aggregate: some blocks only, but this codec carries all tensors")
    return len(layout.tensor_ends), values_in(layout, manifest.compression.rank, body.round)


def _check_signatures(aggregate: Aggregate, identity: bytes, manifest: Manifest) -> None:
    body = aggregate.body
    if len(aggregate.signatures) != len(body.parts):
        raise PeerViolation(
            f"aggregate: signatures of {len(aggregate.signatures)} rosters, not {len(body.parts)}"
        )
    for part, certificate in zip(body.parts, aggregate.signatures, strict=True):
        signers = unpack_members(certificate.signers, len(part.members))
        if len(signers) * COMMITMENT_BYTES != len(certificate.commitments):
            raise PeerViolation(
                f"aggregate: {len(certificate.commitments)} bytes of commitments of {len(signers)} signers"
            )
        statement = body_statement(body.swarm, part.roster, identity)
        members, needed = read_members(part.members, manifest), threshold(len(part.members))
        half = HalfAggregate(certificate.commitments, certificate.scalar)
        if not statement_holds("body", statement, members, signers, half, needed):
            raise PeerViolation(f"aggregate: not signed by {needed} of {len(part.members)} members")
