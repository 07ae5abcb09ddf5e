"""How a contribution becomes integers that can be summed under masks, and how their sum is read.

A masked vector is two runs of lanes: 32-bit ones for the ranges (one a tensor), then
b-bit ones for the quantised values of the blocks that travel. What decides their number and their meaning is the
*plan*, a pure function of public data that every member of a cohort computes alike.

**Fixed point** (design, section 4). With w = (1 + age)^-1/2, a value v becomes

    q = clip(stochastic_round(clip(v w, +-C) S / C), +-S),    C = 2^e per block,

unbiased wherever nothing clips (QSGD: Alistarh et al., NIPS 2017); what clips or is rounded off stays in the residual.
n members' sums fit a lane as signed values when 2 n S + 1 <= 2^b, which the manifest's check asks for.

**Ranges.** A codec needs C before anybody encodes (docs/decisions/0002). So every member votes,
for each tensor, a *range code* 16 (log2 RMS + 32) of its scaled values, in a lane of its own. The sum tells the mean, and
the cohorts that name this one as parent take C = k RMS, rounded to a power of two, with k = min(S, 8). The mean and not the
maximum, so that the levels serve the many; of logarithms, so that one large member moves it little. The loop corrects
itself: where C is too small, values clip, and the residuals and with them the votes grow.

Who has nothing to say of a tensor (did not train it, or it is all zeros, or its segment does not travel) votes the
present code, which is public. Such a vote pulls nowhere, and a range that nobody measures is remembered; a vote of zero
would drag C towards 2^-32 for those who did train.

What the votes reveal is one sum over the cohort, in which at least n_min members measured: the mean of their log-RMS, and
nothing about one of them. It is bounded, not trusted: one dishonest member can put a range anywhere in 0..1023. So no member signs
a sum whose range is more than RANGE_SLACK from what it has measured itself of late (`strange_ranges`): as long as t need an honest one, a
range is never further off than that, and what it costs is noise or clipping by so many octaves, until honest votes bring it back.

**Every device weighs the same.** How many examples it has is nobody's business, and a lane for it could be used to take the
others' weight away (docs/decisions/0025). A sum counts as many devices as contributed, which is public.

**Factors.** Codec `lowrank` sends thin factors of matrices (`gossip.codec.lowrank`), one side in one round and the other in the next,
and all other tensors as they are. A matrix's range code is that of the energy that its factor has, over all parameters of the
matrix: sqrt(energy / size). So it means the same whichever side travels, and where m numbers carry it, their own code is
higher by 16 log2 sqrt(size / m). The first factors have the manifest's first exponent; if it is far too large, what they
say is rounded off and missing in the second round's basis (docs/decisions/0021).

**Grain.** A sum of n stochastically rounded contributions has a variance of rounding of n / 6 or so, in units of C / S, before anybody
publishes it. So its last bits are dice, and every device of the swarm would carry them. The aggregator drops them: sums are
published as multiples of g, the largest power of two with g^2 <= grain * n, which adds g^2 / 12 at most. It is not fed back to
anybody, and need not be: the dice that are there dither it, so that on average nothing is lost (Gray and Stockham, "Dithered quantizers", 1993). docs/decisions/0014 has the figures.

**Codecs** are linear, so that masks cancel. What travels is a public function of the cohort and of its parents: `dense` sends
every block, `lowrank` factors. Why none looks first: docs/decisions/0024.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crypto.masking import Lanes, Vector
from gossip.body import RANGE_MAX, Body, aggregate_id, is_lowrank
from gossip.codec.blocks import Integers, Layout
from gossip.codec.error_feedback import Floats, Sent
from gossip.codec.lowrank import (
    BASIS_BITS,
    Basis,
    Doubles,
    Piece,
    bases,
    basis_after,
    factor,
    pieces,
    product,
)
from gossip.codec.ranges import (
    exponents_of,
    grain_of,
    range_code,
    range_codes,
    ranges_after,
    sixteenths,
)
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import SEGMENTS_MAX, Compression

ROUNDING_BYTES = 32
EVERY_SEGMENT = (1 << SEGMENTS_MAX) - 1


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """What every member of a cohort encodes: the same for all."""

    support: Integers  # the blocks that travel, increasing
    exponents: NDArray[np.int8]  # e of each of them, -24..0; in factors, by tensor
    lanes: Lanes
    ranges: Integers  # the present code of each tensor
    basis: bytes = b""  # the aggregate whose factors give the basis of these; none in the first round and without factors
    factors: "Factors | None" = None  # how matrices travel

    @property
    def exponent_bytes(self) -> bytes:
        """-e of each block that travels, as an aggregate carries it."""
        return (-self.exponents).astype(np.uint8).tobytes()


@dataclass(frozen=True, eq=False, slots=True)
class Factors:
    """One side of all matrices, and the other tensors as they are."""

    pieces: tuple[Piece, ...]  # by tensor
    bases: Mapping[int, Basis]  # by tensor
    travelling: int  # bit s: of segment s something is given; all other numbers are zeros


@dataclass(frozen=True, eq=False, slots=True)
class Contribution:
    """A frozen local phase: what there is to give, and what it is worth."""

    values: Floats  # shape (parameters,), finite: the books see to it
    age: int  # rounds since the phase began, at least 0
    trained: int = EVERY_SEGMENT  # bit s: segment s was trained; the others give nothing and weigh nothing

    @property
    def weight(self) -> float:
        """W of the formula. A stale delta counts for less, as its cohort's step should be smaller."""
        return 1 / math.sqrt(1 + self.age)


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """`vector`: uint8[lanes.size_bytes], to be masked in place. `sent`: what it carries, decoded."""

    vector: Vector
    sent: Sent
    ranges: Integers  # this member's own votes, by tensor


class Sum(NamedTuple):
    ranges: tuple[int, ...]  # sum of the votes by tensor
    sums: bytes  # little-endian signed lanes, block after block


@dataclass(frozen=True, slots=True)
class Codec:
    """`id` is its number on the wire."""

    id: int
    planned: Callable[[int, Layout, Compression, bytes, Sequence[Body]], Plan]  # the first: what travels
    encoded: Callable[[Plan, Contribution, bytes, Layout, Compression], Encoded]

    def plan(
        self,
        *,
        layout: Layout,
        compression: Compression,
        cohort: bytes,
        parents: Sequence[Body],
        travelling: int,
    ) -> Plan:
        """Pure and public. `travelling`: bit s tells that segment s travels.

        PeerViolation for a cohort in which no segment travels: its leader should not have called it.
        """
        return self.planned(travelling, layout, compression, cohort, parents)

    def encode(
        self,
        plan: Plan,
        contribution: Contribution,
        rounding: bytes,
        *,
        layout: Layout,
        compression: Compression,
    ) -> Encoded:
        """`rounding`: 32 random bytes of the member's own, used once."""
        return self.encoded(plan, contribution, rounding, layout, compression)


def travelling_blocks(travelling: int, layout: Layout) -> Integers:
    """The blocks of the segments that travel; PeerViolation if there are none."""
    blocks = np.flatnonzero(_bits(travelling, layout.segments)[layout.block_segment])
    if not blocks.size:
        raise PeerViolation("cohort: too few members trained any one segment, none can travel")
    return blocks


def all_blocks(
    travelling: int, layout: Layout, compression: Compression, _cohort: bytes, parents: Sequence[Body]
) -> Plan:
    return payload_plan(travelling_blocks(travelling, layout), layout, compression, parents)


def payload_plan(
    support: Integers, layout: Layout, compression: Compression, parents: Sequence[Body]
) -> Plan:
    """The plan of a payload that carries these blocks, given as increasing numbers."""
    ranges = ranges_after(parents, layout, compression)
    exponents = exponents_of(ranges, compression.levels)
    lanes = Lanes(len(layout.tensor_ends), layout.values_in(support), compression.lane_bits)
    return Plan(support, exponents[layout.block_tensor[support]], lanes, ranges)


def factors(
    travelling: int, layout: Layout, compression: Compression, cohort: bytes, parents: Sequence[Body]
) -> Plan:
    """Matrices as factors on the basis that these parents give this cohort (`gossip.codec.lowrank`), all else whole."""
    travelling_blocks(travelling, layout)
    by_id = {aggregate_id(body): body for body in parents}
    basis = basis_after(((body.round, identity) for identity, body in by_id.items()), cohort)
    round_ = 1 + (by_id[basis].round if basis else 0)
    made = pieces(layout, compression.rank, round_)
    ranges, exponents = _factored_ranges(made, layout, compression, parents)
    lanes = Lanes(len(made), made[-1].last, compression.lane_bits)
    shared = bases(basis or cohort, by_id.get(basis), round_, layout, compression)
    everything = np.arange(layout.blocks, dtype=np.int64)
    return Plan(everything, exponents, lanes, ranges, basis=basis, factors=Factors(made, shared, travelling))


def _factored_ranges(
    made: Sequence[Piece], layout: Layout, compression: Compression, parents: Sequence[Body]
) -> tuple[Integers, NDArray[np.int8]]:
    # By how much the code of a tensor's numbers is above its range code: of none but factors.
    above = np.array([_above(piece) for piece in made], np.int64)
    ranges = ranges_after(parents, layout, compression) - (0 if parents else above)
    return ranges, exponents_of(ranges + above, compression.levels)


def exponents_after(body: Body, parents: Sequence[Body], layout: Layout, compression: Compression) -> bytes:
    """The exponents that a body must carry, as the votes in its parents say; all of these are given."""
    if is_lowrank(body):
        made = pieces(layout, compression.rank, body.round)
        _, exponents = _factored_ranges(made, layout, compression, parents)
        return (-exponents).astype(np.uint8).tobytes()
    plan = payload_plan(layout.unpack_blocks(body.blocks), layout, compression, parents)
    return plan.exponent_bytes


def _above(piece: Piece) -> int:
    return (sixteenths(piece.size) - sixteenths(piece.carried)) // 2 if piece.length else 0


def encode_payload(
    plan: Plan, contribution: Contribution, rounding: bytes, layout: Layout, compression: Compression
) -> Encoded:
    """Quantise and lay out what `plan` carries of a contribution; unbiased but not bit-stable between numpy versions.

    MisuseError for what cannot be one: another size, values that are not finite, an age below 0.
    """
    if len(plan.ranges) != len(layout.tensor_ends):
        raise MisuseError("the plan is none of a payload: it has no range for each tensor")
    _refuse_unfit(contribution, rounding, layout)
    carried_segments = layout.block_segment[plan.support]
    gives = _bits(contribution.trained, layout.segments)
    gives &= np.bincount(carried_segments, minlength=layout.segments) > 0
    scale = np.float32(contribution.weight)
    scales = np.where(gives[carried_segments], scale, np.float32(0))
    values = contribution.values[layout.indices(plan.support)] * layout.expand(scales, plan.support)
    # C is a power of two and S has at most 15 bits, so that C S / C is exactly S in float32 and nothing steps over it.
    limits = layout.expand(np.ldexp(np.float32(1), plan.exponents), plan.support)
    steps = np.clip(values, -limits, limits) * (compression.levels / limits)
    quantised = _round_stochastically(steps, rounding)

    vector = plan.lanes.zeros()
    votes = range_codes(contribution.values, float(scale), gives, plan.ranges, layout)
    plan.lanes.wide_view(vector)[:] = votes
    narrow = plan.lanes.narrow_view(vector)
    narrow[:] = quantised.astype(f"<i{narrow.itemsize}").view(narrow.dtype)
    sent = (quantised * (limits / compression.levels) / scale).astype(np.float32, copy=False)
    return Encoded(vector, Sent(plan.support, sent), votes)


def encode_factors(
    plan: Plan, contribution: Contribution, rounding: bytes, layout: Layout, compression: Compression
) -> Encoded:
    """Project, quantise and lay out a contribution; `sent` is what its whole numbers mean, in all blocks.

    MisuseError for what `encode_payload` refuses too, and for the plan of another codec.
    """
    if plan.factors is None:
        raise MisuseError("the plan is none of factors")
    _refuse_unfit(contribution, rounding, layout)
    gives = _bits(contribution.trained & plan.factors.travelling, layout.segments)
    scale = contribution.weight
    limits = np.ldexp(1.0, plan.exponents.astype(np.int64))
    steps = np.zeros(plan.lanes.narrow, np.float32)
    votes = plan.ranges.copy()
    for piece, limit in zip(plan.factors.pieces, limits.tolist(), strict=True):
        if not gives[layout.tensor_segment[piece.tensor]]:
            continue
        own = contribution.values[piece.start : piece.end]
        basis = plan.factors.bases.get(piece.tensor)
        carried = own.astype(np.float64) if basis is None else factor(own, piece, basis).ravel()
        votes[piece.tensor] = range_code(
            float(carried @ carried), piece.size, scale, plan.ranges[piece.tensor]
        )
        steps[piece.first : piece.last] = np.clip(carried * scale, -limit, limit) * (
            compression.levels / limit
        )
    quantised = _round_stochastically(steps, rounding)

    vector = plan.lanes.zeros()
    plan.lanes.wide_view(vector)[:] = votes
    narrow = plan.lanes.narrow_view(vector)
    narrow[:] = quantised.astype(f"<i{narrow.itemsize}").view(narrow.dtype)
    units = limits / (compression.levels * scale)
    return Encoded(vector, Sent(plan.support, _meant(quantised, units, plan.factors, layout)), votes)


def _meant(quantised: Floats, units: Doubles, factors: Factors, layout: Layout) -> Floats:
    """What these whole numbers say of all parameters, given the unit of each tensor: float32[parameters]."""
    meant = np.empty(layout.parameters, np.float32)
    for piece, unit in zip(factors.pieces, units.tolist(), strict=True):
        own, basis = quantised[piece.first : piece.last], factors.bases.get(piece.tensor)
        if basis is None:
            meant[piece.start : piece.end] = own * unit
        else:
            meant[piece.start : piece.end] = product(own, piece, basis) * (unit * 2.0**-BASIS_BITS)
    return meant


def decode_sum(total: Vector, lanes: Lanes, contributors: int) -> Sum:
    """Read an unmasked payload sum; exact while 2 n S + 1 <= 2^b.

    What a dishonest member has voted beyond its bounds is cut off, so that it cannot make the body invalid for all.
    """
    votes = np.minimum(lanes.wide_view(total), contributors * RANGE_MAX).tolist()
    return Sum(tuple(votes), lanes.narrow_view(total).tobytes())


def publish(sums: bytes, contributors: int, compression: Compression) -> bytes:
    """The sums as they are told to the swarm: to the nearest multiple of the grain, halves to even ones, within +-n S."""
    grain = grain_of(contributors, compression)
    signed = np.frombuffer(sums, f"<i{compression.lane_bits // 8}")
    most = contributors * compression.levels // grain
    return (np.clip(np.rint(signed / grain), -most, most) * grain).astype(signed.dtype).tobytes()


def _round_stochastically(steps: Floats, rounding: bytes) -> Floats:
    """Up with the probability of the fraction, else down: the expectation is `steps`. float32, whole numbers.

    The randomness hides nothing: it need only be independent of the values.
    """
    generator = np.random.Generator(np.random.Philox(int.from_bytes(rounding, "little")))
    below = np.floor(steps)
    return below + (generator.random(steps.shape, np.float32) < steps - below)


def _bits(bitmap: int, count: int) -> NDArray[np.bool_]:
    return np.array([bitmap >> bit & 1 for bit in range(count)], bool)


def _refuse_unfit(contribution: Contribution, rounding: bytes, layout: Layout) -> None:
    values = contribution.values
    if values.dtype != np.float32 or values.shape != (layout.parameters,):
        raise MisuseError(
            f"a contribution is float32 of shape {(layout.parameters,)}, not {values.dtype} {values.shape}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        raise MisuseError(f"a contribution is finite, but parameter {int(np.argmin(finite))} is not")
    if contribution.age < 0:
        raise MisuseError(f"a contribution of {contribution.age} rounds ago")
    if len(rounding) != ROUNDING_BYTES:
        raise MisuseError(f"rounding takes {ROUNDING_BYTES} random bytes, not {len(rounding)}")


DENSE = Codec(0, all_blocks, encode_payload)
LOWRANK = Codec(1, factors, encode_factors)
_CODECS: Mapping[str, Codec] = {"dense": DENSE, "lowrank": LOWRANK}


def codec_of(compression: Compression) -> Codec:
    return _CODECS[compression.codec]
