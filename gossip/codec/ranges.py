"""Range codes: how large the values of a tensor are, and the exponents that follow from what members vote."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossip.body import EXPONENT_MAX, RANGE_MAX, Body, count_contributors
from gossip.codec.blocks import Integers, Layout
from gossip.codec.error_feedback import Floats
from gossip.manifest import Compression

CODES_PER_OCTAVE = 16
CODE_OF_ONE = 512  # of an RMS of 1; code 0 is 2^-32 and everything below


def grain_of(contributors: int, compression: Compression) -> int:
    """What published sums are whole multiples of: the largest power of two g with g^2 <= grain * contributors, or 1."""
    return 1 << max(0, (compression.grain * contributors).bit_length() - 1) // 2


MEASURED = 8  # contributions of which an honest member remembers the ranges
MEASURED_ROUNDS = 64
RANGE_SLACK = 3 * CODES_PER_OCTAVE  # by which an honest member's range may differ from its cohort's
# 16 log2 k for k = 1 to 8, where k = min(S, 8). A step C / S is then at most one RMS, or sqrt 2 of it after C is rounded to
# a power of two, so that rounding leaves behind at most half of the energy it is given ((C / S)^2 / 4 a value). Error
# feedback needs less than all of it: S = 1 with k = 4 was seen to blow up. Beyond 8 the gain is small, at S = 15 too.
_MARGINS = (0, 16, 25, 32, 37, 41, 45, 48)


def strange_ranges(ranges: Sequence[int], contributors: int, measured: Sequence[Integers]) -> bool:
    """Whether the mean vote on a tensor is further than RANGE_SLACK from all of one's own of late, each int64[tensors].

    Of the last MEASURED, of MEASURED_ROUNDS rounds: the log-RMS of a tensor of few parameters is mostly chance, and after a sum
    that did harm all updates are larger. Held against the mean of one's own, 41 sums of one run were refused, and 5 so.
    """
    means = np.array(ranges, np.int64) // contributors
    least, most = np.min(measured, axis=0) - RANGE_SLACK, np.max(measured, axis=0) + RANGE_SLACK
    return bool(((means < least) | (means > most)).any())


def sixteenths(number: int) -> int:
    """The whole part of CODES_PER_OCTAVE log2 of a whole number above 0, without a float."""
    return int(number**CODES_PER_OCTAVE).bit_length() - 1


def ranges_after(parents: Sequence[Body], layout: Layout, compression: Compression) -> Integers:
    """The present range code of each tensor: the mean vote in the newest parents, to the nearest.

    Without parents, the code whose exponent is the manifest's first one. Integers, so alike on every machine.
    """
    newest = max((body.round for body in parents), default=0)
    bodies = [body for body in parents if body.round == newest]
    if not bodies:
        first = CODE_OF_ONE + CODES_PER_OCTAVE * compression.first_exponent - _margin(compression.levels)
        return np.full(len(layout.tensor_ends), first, np.int64)
    voters = sum(map(count_contributors, bodies))
    votes: Integers = np.array([body.ranges for body in bodies], np.int64).sum(axis=0)
    return (2 * votes + voters) // (2 * voters)


def exponents_of(ranges: Integers, levels: int) -> NDArray[np.int8]:
    """E of each code: log2(k RMS) to the nearest whole number, within what an aggregate may carry."""
    above_one = ranges + _margin(levels) - CODE_OF_ONE
    nearest = (above_one + CODES_PER_OCTAVE // 2) // CODES_PER_OCTAVE
    return np.clip(nearest, -EXPONENT_MAX, 0).astype(np.int8)


def _margin(levels: int) -> int:
    return _MARGINS[min(levels, len(_MARGINS)) - 1]


def range_codes(
    values: Floats, scale: float, gives: NDArray[np.bool_], ranges: Integers, layout: Layout
) -> Integers:
    """Each tensor's range code, of the scaled values where this member gives some, else the present one."""
    votes = ranges.copy()
    start = 0
    for tensor, end in enumerate(layout.tensor_ends.tolist()):
        own = values[start:end]
        energy = float(np.einsum("i,i->", own, own, dtype=np.float64))
        if gives[layout.tensor_segment[tensor]]:
            votes[tensor] = range_code(energy, len(own), scale, votes[tensor])
        start = end
    return votes


def range_code(energy: float, size: int, scale: float, present: int) -> int:
    """The range code of an energy over so many parameters, of values yet to be scaled; the present one if there is none."""
    if not energy:
        return present
    log2_rms = math.log2(energy / size) / 2 + math.log2(scale)
    return min(max(0, round(CODES_PER_OCTAVE * log2_rms) + CODE_OF_ONE), RANGE_MAX)
