"""Matrices travel as thin factors on a basis that all share: the arithmetic of the codec `lowrank`.

An alternating power iteration, as PowerSGD (Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient
compression for distributed optimization", NeurIPS 2019), spread over rounds and under masks. Of a matrix M, rows x cols, a
contribution carries one thin factor, and what the factor does not say stays in the residual:

    odd rounds, the left side:    M^T B,  cols x rank,   and means  B (M^T B)^T   B: rows x rank, orthonormal columns
    even rounds, the right side:  M B,    rows x rank,   and means  (M B) B^T     B: cols x rank

Both are linear in M, so that masks cancel and the sum of the factors is the factor of the sum. It needs no look and no
second phase, because the basis is old: the factor of one round, orthonormalised, is the basis of the next one, on the other
side. Repeated, that is a power iteration on what the swarm has to give, and error feedback gives what it missed.

**Which rank.** The swarm's, or of a matrix where that saves less than half, the largest that saves it (`rank_for`): the founder
writes it into the manifest.

**Which basis.** An aggregate of round r names in `basis` the aggregate whose factors its basis comes from: of its parents of
round r - 1 the one that its cohort's id draws, so that the sums of a round look in several directions and add up to a change of
a higher rank than each of them has. So the basis is a function of the body's own hash links, the side is one of its round, and nothing
about either can be chosen.

**The first basis.** Random directions would find next to nothing: rank 16 of 768 rows, 2 % of a change's energy. But what comes back to a
layer's outputs has passed the next layer's weights W', whose rows number few where that layer decides among few: the change of M is a sum of outer products
(D W'^T e) x^T, where D switches some outputs off. So the first basis of M spans the first rows of W' as x_0 has them (`prior`), one for each
column, of which a half of the energy was seen (docs/decisions/0021). Where W' has fewer rows than the rank, the other columns come from the
cohort's id, and where no layer that follows takes M's outputs, all of them do.

**The same bits everywhere.** The fold multiplies with the basis, so it consists of integers, in units of 2^-12, made by integers
alone: modified Gram-Schmidt, each column twice ("twice is enough": Giraud, Langou and Rozloznik 2005), in int64 with floor
division and exact square roots. A column that the ones before it explain but for 2^-10, or that is zero, is replaced by one
from SHAKE-256 of the parent's id: a fresh direction for the iteration to find something in.

**Nothing overflows 63 bits.** Columns are at most SUM_MAX = 2^9 large and 2^16 long (SIDE_MAX). A unit vector, in 2^-20, has
entries of at most 2^20 + 17 and, rounding included, a norm below 2^20 + 2^8. Taking off its part along another unit vector
does not lengthen a vector but by rounding, at most 2^8 + 1 each of 63 times; so norms stay below 2^21 and energies below 2^42,
shares along another are below 2^42, products with it below 2^43, and scaling shifts entries below 2^21 by 37 bits. Norms are
taken to 2^-16 with Python's integers, which have no bounds. A product of a factor and a basis has at most 64 terms of 2^9
times 2^12, so below 2^27 even as partial sums: float64 computes it exactly, in any order. With the exponent it is at most
2^(27 + 24 - 12) = 2^39, and 2^11 aggregates of a round give 2^50 at most; `gossip.history.fold` cuts that to what it bears.

**Rare directions count for more** (`compression.newton_schulz`). A sum's largest directions are what all devices learn again and again; what
only some of them know is in the small ones. So before it is folded, a factor F takes k steps of Newton and Schulz towards its polar factor
F (F^T F)^(-1/2), all of whose singular values are equal (Bernstein and Newhouse 2024, arXiv:2409.20325; Jordan et al., "Muon", 2024; for factors: Ahn et al.,
"Dion", 2025, arXiv:2504.05295):

    S_0 = F^T F / tr(F^T F),  W_0 = I;      H = (3 I - S) / 2,  W <- W H,  S <- S H H;      then F W / sqrt(tr S)

A step multiplies small singular values by 3/2 and leaves 1 where it is, so that k is a bound on how much anything is raised, and noise stays small. All are
polynomials of S_0 and commute, so that S_k = S_0 W_k^2, and tr S_k is what the energy has become: the last division keeps it as it was. The
basis of the next round comes from the factor as it was summed.

In integers, in units of 2^-24: entries of S are at most 1, of H 3/2, of W (3/2)^k with k <= 8 (STEPS_MAX), and a product of two of these is at most the product of its
row's and its column's lengths, so below 2^24 2^24 2^6. Each shift rounds down by one unit at most, which later steps multiply by (9/4)^8 at most: 2^-24 rank 657,
some thousandths for rank 64. A row of F is at most 2^9 sqrt(64) long, so that F W is below 2^(12 + 5 + 24) and float64 has it exactly; in units of
2^-12 its product with a basis is below 2^(29 + 12 + 6).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from gossip.codec.blocks import Integers, Layout
from gossip.errors import ManifestError, MisuseError
from gossip.manifest import SIDE_MAX, Compression

RANK_MIN = 2  # that a matrix is made factors for
BASIS_BITS = 12  # a basis is in units of 2^-12
BASES_MAX = 256  # kept; each is below a quarter of its tensor in float32, as factors save half (`rank_for`)
_FINE_BITS = 20  # a basis in the making is in units of 2^-20
_LEAST_BITS = 10  # what is left of a column is a direction if it is at least 2^-10 of it
_NORM_BITS = 16
_STEP_BITS = 24  # Newton's and Schulz's matrices are in units of 2^-24

_PRIOR_MAX = 1 << 30  # of x_0, as 2^16 of these times 127 fit
Basis = NDArray[np.int16]  # length x rank
Doubles = NDArray[np.float64]


class Named(Protocol):
    """A cohort in a sum: `gossip.history.aggregate.Part` is one."""

    @property
    def roster(self) -> bytes: ...


class Factored(Protocol):
    """What a basis comes from: `gossip.history.aggregate.Body` is one."""

    @property
    def round(self) -> int: ...

    @property
    def basis(self) -> bytes: ...

    @property
    def parts(self) -> Sequence[Named]: ...

    @property
    def exponents(self) -> bytes: ...

    @property
    def sums(self) -> bytes: ...


def rank_for(rows: int, size: int, rank: int) -> int:
    """The rank of the factors of a tensor of this many rows, at most `rank`: that one side and the other save at least half.

    0 where not even RANK_MIN does: it travels whole.
    """
    cols = size // max(rows, 1)
    if not 0 < rows <= SIDE_MAX or cols > SIDE_MAX or size != rows * cols:
        return 0
    worthwhile = min(rank, size // (2 * (rows + cols)))
    return worthwhile if worthwhile >= min(rank, RANK_MIN) else 0


def is_right(round_: int) -> bool:
    """The side that travels in a round: the left one in the first, as its basis is that of the outputs (`prior`)."""
    return round_ % 2 == 0


@dataclass(frozen=True, slots=True)
class Piece:
    """How one tensor lies in the flat vector, and how it travels in a round of one side."""

    tensor: int
    start: int  # in the flat vector
    end: int
    first: int  # among the sums
    last: int
    rank: int  # of its factors
    length: int  # of its factor; 0: no matrix, it travels as it is
    across: int  # of its basis
    right: bool

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def carried(self) -> int:
        """How many numbers travel."""
        return self.last - self.first


def pieces(layout: Layout, rank: int, round_: int) -> tuple[Piece, ...]:
    """All tensors, in order."""
    right = is_right(round_)
    made = []
    start = first = 0
    ends, row_counts = layout.tensor_ends.tolist(), layout.tensor_rows.tolist()
    for tensor, (end, rows, own) in enumerate(
        zip(ends, row_counts, layout.tensor_ranks.tolist(), strict=True)
    ):
        size = end - start
        cols = size // rows if rows else 0
        length, across = (rows, cols) if right else (cols, rows)
        columns = own or rank
        last = first + (columns * length if rows else size)
        made.append(Piece(tensor, start, end, first, last, columns, length, across, right))
        start, first = end, last
    return tuple(made)


def values_in(layout: Layout, rank: int, round_: int) -> int:
    """How many numbers a payload of this round carries."""
    return pieces(layout, rank, round_)[-1].last


def factor(values: NDArray[np.floating], piece: Piece, basis: Basis) -> Doubles:
    """The side that travels of a matrix, given flat: float64[length, rank]. Exact enough to send, no part of the fold."""
    shape = (piece.length, piece.across) if piece.right else (piece.across, piece.length)
    matrix = values.reshape(shape).astype(np.float64)
    return (matrix if piece.right else matrix.T) @ (basis.astype(np.float64) * 2.0**-BASIS_BITS)


def product(factor_: NDArray[np.number], piece: Piece, basis: Basis) -> Doubles:
    """The matrix that a whole-numbered factor means, flat, in 2^-12 of the factor's unit: float64, whole numbers, exact."""
    tall, wide = factor_.reshape(piece.length, -1).astype(np.float64), basis.astype(np.float64)
    return (tall @ wide.T if piece.right else wide @ tall.T).ravel()


def spread(body: Factored, origin: Factored | None, layout: Layout, compression: Compression) -> Integers:
    """What the sums of a body mean: Q_a 2^(24 + e) of all parameters, as the fold adds it up, rounded down.

    int64[parameters]. `origin`: the body that its `basis` names, None where it names none.
    """
    sums = np.frombuffer(body.sums, f"<i{compression.lane_bits // 8}")
    shared = bases(body.basis or body.parts[0].roster, origin, body.round, layout, compression)
    meant = np.empty(layout.parameters, np.int64)
    for piece in pieces(layout, compression.rank, body.round):
        own, shift = sums[piece.first : piece.last], 24 - body.exponents[piece.tensor]
        basis = shared.get(piece.tensor)
        if basis is None:
            meant[piece.start : piece.end] = own.astype(np.int64) << shift
        else:
            raised = evened(own.reshape(piece.length, -1), compression.newton_schulz)
            whole = product(raised, piece, basis).astype(np.int64) >> BASIS_BITS
            meant[piece.start : piece.end] = whole << shift >> BASIS_BITS
    return meant


def evened(factor_: NDArray[np.integer], steps: int) -> Integers:
    """A factor with its singular values nearer to one another by so many steps, in 2^-12 of its unit: int64[length, rank].

    Its energy stays as it was, but for rounding.
    """
    whole = factor_.astype(np.float64)
    gram = (whole.T @ whole).astype(np.int64)
    energy = int(gram.trace())
    if not steps or not energy:
        return factor_.astype(np.int64) << BASIS_BITS
    one = np.eye(len(gram), dtype=np.int64) << _STEP_BITS
    shares, weights = (gram << _STEP_BITS) // energy, one
    for _ in range(steps):
        step = 3 * one - shares >> 1
        weights = weights @ step >> _STEP_BITS
        shares = (shares @ step >> _STEP_BITS) @ step >> _STEP_BITS
    scale = math.isqrt((1 << 3 * _STEP_BITS) // int(shares.trace()))
    weights = weights * scale >> _STEP_BITS
    return (whole @ weights.astype(np.float64)).astype(np.int64) >> _STEP_BITS - BASIS_BITS


# --- the basis ------------------------------------------------------------------------------------------------------


def bases(
    name: bytes, origin: Factored | None, round_: int, layout: Layout, compression: Compression
) -> Mapping[int, Basis]:
    """The basis of each matrix in a round, by tensor: from the factors of `origin`, whose id is `name`.

    In the first round `name` is the cohort's id, and x_0 stands for the origin. MisuseError for any other round without one.
    """
    if (round_ == 1) != (origin is None) or (origin is not None and origin.round != round_ - 1):
        raise MisuseError("a basis comes from the body that it is named after, of the round before")
    lane_bytes = compression.lane_bits // 8
    sums = layout.prior if origin is None else origin.sums
    before = pieces(layout, compression.rank, round_ - 1)
    return {
        piece.tensor: _basis(
            digest("basis", name, piece.tensor.to_bytes(4, "big")),
            sums[piece.first * lane_bytes : piece.last * lane_bytes],
            piece.length,
            piece.rank,
            lane_bytes,
        )
        for piece in before
        if piece.length
    }


def prior(initial: Integers, layout: Layout, compression: Compression) -> bytes:
    """What x_0, int64[parameters], says of the first round's bases, as the sums of a round 0 would lie; b"" without factors.

    Rows of the next matrix whose columns are this one's outputs, each with all that it looks at (a convolution's
    window, or what flattening made of one output): they are summed up over that. Zeros where there is none. ManifestError for
    an x_0 of another model.
    """
    if len(initial) != layout.parameters:
        raise ManifestError(
            f"model: the initial model made here has {len(initial)} parameters, not {layout.parameters}"
        )
    if compression.codec != "lowrank":
        return b""
    before = pieces(layout, compression.rank, 0)
    sums = np.zeros(before[-1].last, f"<i{compression.lane_bits // 8}")
    bounded = np.clip(initial, -_PRIOR_MAX, _PRIOR_MAX)
    matrices = [piece for piece in before if piece.length]
    for piece, next_ in itertools.pairwise(matrices):
        window, rest = divmod(next_.across, piece.length)
        if rest:
            continue
        ways = bounded[next_.start : next_.end].reshape(next_.length, piece.length, window).sum(2)
        found = ways[: piece.rank].T
        most = np.abs(found).max(0)
        own = sums[piece.first : piece.last].reshape(piece.length, piece.rank)
        own[:, : found.shape[1]] = found * 127 // np.maximum(most, 1)
    return sums.tobytes()


@lru_cache(maxsize=BASES_MAX)
def _basis(seed: bytes, sums: bytes, length: int, rank: int, lane_bytes: int) -> Basis:
    """Pure, so that all nodes of one process may share what is kept."""
    columns = np.zeros((length, rank), np.int64)
    if sums:
        columns[:] = np.frombuffer(sums, f"<i{lane_bytes}").reshape(length, rank)
    basis = orthonormal(columns, seed)
    basis.setflags(write=False)
    return basis


def orthonormal(columns: Integers, seed: bytes) -> Basis:
    """Orthonormal columns that span the given ones, int64[length, rank] of at most 2^9; in units of 2^-12.

    Columns that say nothing new are replaced by others from the seed. rank <= length <= 2^16.
    """
    length, rank = columns.shape
    if rank > length:
        raise MisuseError(f"{rank} columns of {length} numbers cannot be orthonormal")
    found = np.zeros((rank, length), np.int64)
    for place in range(rank):
        given = np.ascontiguousarray(columns[:, place])
        others = (_seeded(seed, place, attempt, length) for attempt in itertools.count())
        directions = (_direction(column, found[:place]) for column in itertools.chain([given], others))
        found[place] = next(direction for direction in directions if direction is not None)
    coarser = _FINE_BITS - BASIS_BITS
    return (found + (1 << coarser - 1) >> coarser).T.astype(np.int16)


def _direction(column: Integers, found: Integers) -> Integers | None:
    """What a column says beyond the unit vectors that are found, as one of them; None if that is next to nothing."""
    vector = _unit(column, 1)
    for _ in range(2):
        for other in found:
            if vector is None:
                return None
            along = int(vector @ other) + _HALF >> _FINE_BITS
            vector = vector - (along * other + _HALF >> _FINE_BITS)
        if vector is not None:
            vector = _unit(vector, 1 << 2 * (_FINE_BITS - _LEAST_BITS))
    return vector


def _unit(vector: Integers, least: int) -> Integers | None:
    """Of length 1 in units of 2^-20, to the nearest; None for one whose energy is below `least`."""
    energy = int(vector @ vector)
    if energy < least:
        return None
    norm = math.isqrt(energy << 2 * _NORM_BITS)
    return ((vector << _FINE_BITS + _NORM_BITS + 1) + norm) // (2 * norm)


def _seeded(seed: bytes, place: int, attempt: int, length: int) -> Integers:
    """Bytes of SHAKE-256, as no library's generator may change them."""
    origin = digest("direction", seed, place.to_bytes(2, "big"), attempt.to_bytes(2, "big"))
    return np.frombuffer(shake_256(origin).digest(length), np.int8).astype(np.int64)


_HALF = 1 << _FINE_BITS - 1


def basis_after(parents: Iterable[tuple[int, bytes]], cohort: bytes) -> bytes:
    """Of parents, as (round, id), the one whose factors give a cohort's basis: of the newest by lot; none of none.

    The lot is the cohort's id, so that the cohorts of one round look in several directions.
    """
    known = list(parents)
    newest = max((round_ for round_, _ in known), default=0)
    candidates = sorted(identity for round_, identity in known if round_ == newest)
    return candidates[int.from_bytes(cohort[:8], "big") % len(candidates)] if candidates else b""
