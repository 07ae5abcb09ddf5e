"""How a contribution becomes integers that can be summed under masks, and how their sum is read.

A masked vector is two runs of lanes: 32-bit ones for the weights (one a segment) and the ranges (one a tensor), then
b-bit ones for the quantised values of the blocks that travel. Everything that decides their number and their meaning
is the *plan*, a pure function of public data that every member of a cohort computes alike.

Fixed point (design, section 4): with w = examples * (1 + age)^-1/2, a value v becomes

    q = clip(stochastic_round(clip(v w / W_max, +-C) S / C), +-S),    C = 2^e per block,

whose expectation is exact wherever nothing clips; what clips or is rounded off stays in the residual. n members' sums
fit a lane as signed values when 2 n S + 1 <= 2^b.

Codecs that do not look first must know C before anybody encodes. So every member adds, for each tensor, a *range code*,
16 (log2 RMS + 32), to lanes of its own: the public sum tells the mean log-RMS over the cohort and nothing about one
device, and sets the exponents of the next cohort that names this one as parent. C is 2^1.5 times that mean:
wide enough that little clips, narrow enough that few levels suffice (docs/decisions/0002-ranges-without-looking.md).

A codec that looks first runs one more secure sum before the payload's, of a sketch, and plans with what that one showed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import shake_256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from crypto.masking import Lanes
from gossip.aggregate import EXPONENT_MAX, RANGE_MAX, Body
from gossip.errors import MisuseError
from gossip.layout import Integers, Layout
from gossip.manifest import Compression
from gossip.residual import Floats, Sent

RANGE_STEPS = 16  # range codes per factor of two
RANGE_ZERO = 32  # the code of an RMS of 2^-32, and of anything smaller, is 0
RANGE_MARGIN_16THS = 24  # C is 2^1.5, nearly three, times the mean RMS


class Phase(IntEnum):
    PAYLOAD = 0
    SKETCH = 1


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """What every member of a cohort encodes: the same for all."""

    support: Integers  # the blocks that travel, increasing
    exponents: NDArray[np.int8]  # e of each of them, -24..0
    lanes: Lanes

    @property
    def exponent_bytes(self) -> bytes:
        return (-self.exponents.astype(np.int16)).astype(np.uint8).tobytes()


@dataclass(frozen=True, eq=False, slots=True)
class Contribution:
    """A frozen local phase: what there is to give, and what it is worth."""

    values: Floats  # shape (parameters,)
    examples: int
    age: int  # rounds since the phase began


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """`vector`: uint8[lanes.size_bytes], to be masked in place. `sent`: what it carries, decoded."""

    vector: NDArray[np.uint8]
    sent: Sent


class Codec(Protocol):
    """Linear, so that masks cancel. `phases` ends with PAYLOAD; before it, a codec may look."""

    @property
    def id(self) -> int: ...

    @property
    def phases(self) -> tuple[Phase, ...]: ...

    def plan(
        self,
        phase: Phase,
        *,
        layout: Layout,
        compression: Compression,
        cohort: bytes,
        parents: Sequence[Body],
        travelling: int,
        look: bytes | None,
    ) -> Plan:
        """`travelling`: bit s tells that segment s travels; `look`: the unmasked sum of the phase before."""
        ...

    def encode(
        self,
        phase: Phase,
        plan: Plan,
        contribution: Contribution,
        rounding: bytes,
        *,
        layout: Layout,
        compression: Compression,
    ) -> Encoded:
        """`rounding`: 32 random bytes of the member's own."""
        ...


@dataclass(frozen=True, slots=True)
class OnePhase:
    """A codec that does not look: its support is a public function of the cohort alone."""

    id: int
    choose: Callable[[Integers, Layout, Compression, bytes], Integers]
    phases: tuple[Phase, ...] = (Phase.PAYLOAD,)

    def plan(
        self,
        phase: Phase,
        *,
        layout: Layout,
        compression: Compression,
        cohort: bytes,
        parents: Sequence[Body],
        travelling: int,
        look: bytes | None,
    ) -> Plan:
        if phase is not Phase.PAYLOAD or look is not None:
            raise MisuseError("a codec without a sketch has nothing to look at")
        travels = np.array([travelling >> int(segment) & 1 for segment in layout.block_segment], bool)
        support = self.choose(np.flatnonzero(travels).astype(np.int64), layout, compression, cohort)
        per_tensor = exponents_after(parents, len(layout.tensor_ends), compression.first_exponent)
        return Plan(
            support, per_tensor[layout.block_tensor[support]], payload_lanes(support, layout, compression)
        )

    def encode(
        self,
        phase: Phase,
        plan: Plan,
        contribution: Contribution,
        rounding: bytes,
        *,
        layout: Layout,
        compression: Compression,
    ) -> Encoded:
        if phase is not Phase.PAYLOAD:
            raise MisuseError("a codec without a sketch has no such phase")
        return encode_payload(plan, contribution, rounding, layout, compression)


def all_blocks(blocks: Integers, *_public: object) -> Integers:
    return blocks


def seeded_blocks(blocks: Integers, layout: Layout, compression: Compression, cohort: bytes) -> Integers:
    """Of each segment its share of `blocks`, at least one, by a seed that nobody chose: the cohort's id.

    The order is by 64-bit keys from SHAKE-256, not by a library's generator, whose stream may change between versions.
    """
    stream = shake_256(digest("support", cohort)).digest(8 * layout.blocks)
    keys = np.frombuffer(stream, "<u8")
    chosen = []
    for segment in np.unique(layout.block_segment[blocks]):
        own = blocks[layout.block_segment[blocks] == segment]
        count = -(-compression.support_permille * len(own) // 1000)
        chosen.append(own[np.argsort(keys[own], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


DENSE = OnePhase(0, all_blocks)
RANDOM = OnePhase(1, seeded_blocks)


def codec_of(compression: Compression) -> Codec:
    return DENSE if compression.codec == "dense" else RANDOM


def payload_lanes(support: Integers, layout: Layout, compression: Compression) -> Lanes:
    wide = layout.segments + len(layout.tensor_ends)
    return Lanes(wide, layout.values_in(support), compression.lane_bits)


def encode_payload(
    plan: Plan, contribution: Contribution, rounding: bytes, layout: Layout, compression: Compression
) -> Encoded:
    """Quantise the carried blocks; MisuseError for values that are not finite: the books refuse them earlier."""
    values = contribution.values
    if values.shape != (layout.parameters,) or not np.isfinite(values).all():
        raise MisuseError("a contribution is finite and has one value for each parameter")
    weight_max, levels = compression.weight_max, compression.levels
    examples = min(contribution.examples, weight_max)
    scale = np.float32(examples / math.sqrt(1 + contribution.age) / weight_max)
    scaled = values * scale
    places = layout.indices(plan.support)
    # C may be as small as 2^-24, and S / C as large as 2^24 S: float32 holds both exactly.
    limit = np.exp2(layout.expand(plan.exponents, plan.support).astype(np.float32))
    steps = np.clip(scaled[places], -limit, limit) * (np.float32(levels) / limit)
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(rounding[:16], "little")))
    # Rounding may step over S in float32, hence the second clip. Its randomness hides nothing; it need only be unbiased.
    rounded = np.floor(steps + generator.random(len(steps), np.float32))
    quantised = np.clip(rounded, -levels, levels).astype(np.int32)
    vector = plan.lanes.zeros()
    wide = plan.lanes.wide_view(vector)
    wide[: layout.segments] = examples
    wide[layout.segments :] = range_codes(scaled, layout)
    narrow = plan.lanes.narrow_view(vector)
    narrow[:] = quantised.astype(narrow.dtype)
    sent = quantised.astype(np.float32) * (limit / np.float32(levels)) / scale
    return Encoded(vector, Sent(plan.support, sent))


def range_codes(scaled: Floats, layout: Layout) -> NDArray[np.uint32]:
    """16 (log2 RMS + 32) of each tensor, rounded, within 0..1023; a tensor of zeros has 0, the lowest range."""
    starts = np.concatenate(([0], layout.tensor_ends[:-1]))
    power = np.add.reduceat(scaled.astype(np.float64) ** 2, starts) / np.diff(layout.tensor_ends, prepend=0)
    with np.errstate(divide="ignore"):
        codes = np.rint(RANGE_STEPS * (np.log2(power) / 2 + RANGE_ZERO))
    return np.clip(codes, 0, RANGE_MAX).astype(np.uint32)


def exponents_after(parents: Sequence[Body], tensors: int, first: int) -> NDArray[np.int8]:
    """E of each tensor, from the mean range over the contributors of the newest parents; integers, so alike everywhere."""
    newest = max((body.round for body in parents), default=0)
    bodies = [body for body in parents if body.round == newest]
    if not bodies:
        return np.full(tensors, first, np.int8)
    contributors = sum(
        byte.bit_count() for body in bodies for part in body.parts for byte in part.contributors
    )
    exponents = []
    for tensor in range(tensors):
        total = sum(body.ranges[tensor] for body in bodies)
        wanted = total + contributors * (RANGE_MARGIN_16THS - RANGE_STEPS * RANGE_ZERO)
        exponents.append(max(-EXPONENT_MAX, min(0, -(-wanted // (contributors * RANGE_STEPS)))))
    return np.array(exponents, np.int8)


def decode_sum(
    total: NDArray[np.uint8], lanes: Lanes, layout: Layout
) -> tuple[tuple[int, ...], tuple[int, ...], bytes]:
    """Weights by segment, ranges by tensor, and the values as little-endian signed lanes, as an aggregate carries them."""
    wide = [int(lane) for lane in lanes.wide_view(total)]
    return tuple(wide[: layout.segments]), tuple(wide[layout.segments :]), lanes.narrow_view(total).tobytes()
