"""A look before the sum: where the sum of a cohort is large, and nothing about whose part of it is.

For each block of parameters a member sends r projections of its scaled values u = v w / W_max on signs that the whole
cohort shares,

    p_j = sum over the block of s_jk u_k,    s_jk = +-1,    j = 1..r,

quantised and masked like a payload. Projections are linear, so their sums over the cohort are those of the sum of all
u. Over the signs the mean of (sum p_j)^2 is the energy of that sum in the block, with a relative deviation of at most
sqrt(2 / r): the tug-of-war sketch of Alon, Matias and Szegedy, "The space complexity of approximating the frequency
moments" (STOC 1996). Looking for the heavy places of a sum of gradients through a linear sketch is FetchSGD's idea
(Rothchild et al., ICML 2020). What members have in common adds up n-fold and what they differ in only sqrt(n)-fold, so
the energy of the sum finds what a cohort agrees on, which the sum of their energies does not.

**Who learns what.** The cohort, and whoever gets its messages, learns r numbers a block about the sum of its members. The payload
shows more of the same sum for the blocks that travel; both sums have the same contributors (rule 4 of the secure sum),
so that their difference isolates nobody. Blocks of segments that do not travel are not looked at either (rule 5).

**The signs** are bits of SHAKE-256 of the cohort's id, so that no library's generator can change them. A member knows them
before it gives, and may hide a change from the look or feign one. That misplaces blocks and nothing else: what does not
travel stays in the residuals, and the payload's sum is exact for whatever support.

**What every member concludes** follows from the unmasked integers P_j in integers alone, so all conclude the same:
 - the *support*: of each segment its share of blocks, with the most energy a parameter, ties by number;
 - for each of them a *range code* (`gossip.compression`) of the mean member's RMS. A sum P stands for members of RMS
   sqrt(mean P^2 / m) / n if all agree and / sqrt(n) if none do. In between lies n^(3/4), at most n^(1/4) from either:
   one octave for n = 16, which error feedback bears.

**What it cannot see.** A member's projection clips at C = k times what the tensor's mean vote foretells. Blocks that clip are among
the largest, whatever their order, and their range is underrated until they have travelled. Stochastic rounding adds up to
1/4 level^2 a member and projection to the energy, alike for all blocks under one exponent. An aggregator can lie about a
look, as about any sum; lanes out of bounds are clipped, and the worst is a support and a range that serve badly once.
Residuals that cancel in the sum are not seen: each member's grows until noise or chance lets its block travel.
"""

from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from gossip.aggregate import CODE_OF_ONE, CODES_PER_OCTAVE, SUM_MAX
from gossip.layout import Integers, Layout
from gossip.manifest import COHORT_MAX
from gossip.residual import Floats

# Energies are compared in 62 bits: 2^9 a sum squared, 8 of them, times 4096 for a short block's share leave 2 * 14.
_SHIFT = 28


def signs(cohort: bytes, projection: int, parameters: int) -> NDArray[np.int8]:
    """+1 where bit k % 8 of byte k // 8 is set, else -1: int8[parameters]."""
    stream = shake_256(digest("sketch", cohort, bytes([projection]))).digest(-(-parameters // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=parameters, bitorder="little")
    return 2 * bits.view(np.int8) - 1


def project(values: Floats, blocks: Integers, layout: Layout, cohort: bytes, projections: int) -> Floats:
    """p_j of each of these blocks, one projection after the other: float32[projections, len(blocks)].

    `values`: float32[layout.parameters]. Projections beyond float32 become infinite: they will be clipped.
    """
    projected = np.empty((projections, len(blocks)), np.float32)
    for projection in range(projections):
        signed = values * signs(cohort, projection, layout.parameters)
        sums = np.add.reduceat(signed, layout.starts, dtype=np.float64)
        with np.errstate(over="ignore"):
            projected[projection] = sums[blocks]
    return projected


def projection_codes(ranges: Integers, blocks: Integers, layout: Layout) -> Integers:
    """Range codes of the projections of these blocks, as the tensors' range codes foretell them: RMS sqrt(m)."""
    sizes, place = np.unique(layout.sizes[blocks], return_inverse=True)
    halves = np.array([sixteenths(size) // 2 for size in sizes.tolist()], np.int64)
    return ranges[layout.block_tensor[blocks]] + halves[place]


def energies_of(sums: Integers) -> Integers:
    """The energy of the sum in each block, times their number, in squared levels: int64[blocks].

    `sums`: the P_j, int64[projections, blocks], as they were unmasked.
    """
    bounded = np.clip(sums, -SUM_MAX, SUM_MAX)
    energies: Integers = (bounded * bounded).sum(axis=0)
    return energies


def densities_of(energies: Integers, exponents: NDArray[np.int8], sizes: Integers) -> Integers:
    """Energies a parameter on one scale for all blocks, whatever the exponents of their projections: int64[blocks].

    A block more than 14 octaves below the largest exponent loses bits, one more than 31 below is nothing.
    """
    shares = energies * int(sizes.max()) // sizes
    octaves_below = int(exponents.max()) - exponents.astype(np.int64)
    return (shares << _SHIFT) >> np.minimum(2 * octaves_below, 62)


def rms_codes(
    energies: Integers,
    exponents: NDArray[np.int8],
    sizes: Integers,
    givers: Integers,
    *,
    projections: int,
    levels: int,
) -> Integers:
    """The range code of the mean member's RMS in each block, to the sixteenth of an octave: int64[blocks].

        RMS = sqrt(energy / (projections size)) 2^e / (levels givers^(3/4))

    `givers`: how many members gave each block, as it was unmasked.
    """
    codes = []
    for energy, exponent, size, members in zip(
        energies.tolist(), exponents.tolist(), sizes.tolist(), givers.tolist(), strict=True
    ):
        bounded = min(max(1, members), COHORT_MAX)
        divisor = (projections * size) ** 2 * levels**4 * bounded**3
        quarter = (sixteenths(max(1, energy) ** 2) - sixteenths(divisor)) // 4
        codes.append(CODE_OF_ONE + CODES_PER_OCTAVE * exponent + quarter)
    return np.array(codes, np.int64)


def sixteenths(number: int) -> int:
    """The whole part of CODES_PER_OCTAVE log2 of a whole number above 0, without a float."""
    return int(number**CODES_PER_OCTAVE).bit_length() - 1
