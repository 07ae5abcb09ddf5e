"""Factors of matrices: a basis in whole numbers, what a factor means, and that the next one can be planned from it."""

import dataclasses
import hashlib
import math
import random
from itertools import chain, pairwise

import msgspec
import numpy as np
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from crypto.masking import add_vectors
from gossip.body import Body, Part, aggregate_id
from gossip.codec.blocks import Layout
from gossip.codec.codec import LOWRANK, Contribution, codec_of, decode_sum
from gossip.codec.error_feedback import Books
from gossip.codec.lowrank import (
    BASIS_BITS,
    _basis,
    bases,
    evened,
    factor,
    orthonormal,
    pieces,
    prior,
    product,
    rank_for,
    spread,
    values_in,
)
from gossip.codec.ranges import CODE_OF_ONE
from gossip.errors import ManifestError, MisuseError, PeerViolation
from gossip.history import checkpoint
from gossip.history.aggregate import STATE_EVERY, SUM_MAX, check, check_body
from gossip.history.dag import Added, Waiting
from gossip.history.fold import INITIAL_MAX, SUMS_MAX, fold_all, increment
from gossip.manifest import SIDE_MAX, STEPS_MAX, Compression, Model, Tensor, found, refuse_contradictions
from gossip.membership.view import Settings
from gossip.quorum import pack_members
from node.core import NodeCore
from tests.histories import WITH_MOMENTUM, Dice, Setting, body, setting, signed, unsigned

replace = msgspec.structs.replace
SEED = digest("basis", b"of the tests")
# A matrix of 5 x 7, one of 6 x 3 and a vector, in two segments.
SWARM = setting(tensors=[(35, 0, 5), (18, 1, 6), (4, 1)], codec="lowrank", rank=2)
SETTINGS = SWARM.manifest.compression
OWN_RANKS = setting(tensors=[(35, 0, 5, 3), (18, 1, 6), (4, 1)], codec="lowrank", rank=2)


# --- the basis ------------------------------------------------------------------------------------------------------


def by_hand(columns: list[list[int]], seed: bytes) -> list[list[int]]:
    """The same basis in Python's own integers, number by number: a list of columns."""

    def unit(vector, least):
        energy = sum(each * each for each in vector)
        norm = math.isqrt(energy * 2**32)
        return [(each * 2**37 + norm) // (2 * norm) for each in vector] if energy >= least else None

    def direction(column, found):
        vector = unit(column, 1)
        for _ in "12":
            for other in found:
                if vector is None:
                    return None
                along = (sum(a * b for a, b in zip(vector, other, strict=True)) + 2**19) // 2**20
                vector = [a - (along * b + 2**19) // 2**20 for a, b in zip(vector, other, strict=True)]
            vector = vector and unit(vector, 2**20)
        return vector

    found = []
    for place, column in enumerate(columns):
        vector, attempt = direction(column, found), 0
        while vector is None:
            origin = digest("direction", seed, place.to_bytes(2, "big"), attempt.to_bytes(2, "big"))
            drawn = hashlib.shake_256(origin).digest(len(column))
            vector = direction([byte - 256 * (byte > 127) for byte in drawn], found)
            attempt += 1
        found.append(vector)
    return [[(each + 128) // 256 for each in vector] for vector in found]


def matrices():
    dice = Dice("basis")
    yield "random", dice.integers(-40, 41, 60 * 5).reshape(60, 5)
    yield "nothing", np.zeros((9, 3), np.int64)
    yield "square", dice.integers(-3, 4, 49).reshape(7, 7)
    yield "as large as sums may be", (SUM_MAX * (2 * dice.integers(0, 2, 3000) - 1)).reshape(1000, 3)
    yield "all the same", np.full((30, 4), SUM_MAX)
    twice = dice.integers(-40, 41, 60).reshape(20, 3)
    yield "one column twice and one of zeros", np.column_stack([twice, twice[:, 1], 0 * twice[:, 0]])
    nearly = np.full((50, 2), SUM_MAX)
    nearly[0, 1] -= 1
    yield "nearly the same", nearly
    yield "small", np.eye(6, 4, dtype=np.int64)
    yield "one number", np.array([[-3]])


@pytest.mark.parametrize("columns", [pytest.param(each, id=name) for name, each in matrices()])
def test_a_basis_is_what_exact_integers_give_whoever_computes_it(columns):
    basis = orthonormal(columns, SEED)
    assert basis.dtype == np.int16
    assert basis.T.tolist() == by_hand(columns.T.tolist(), SEED)
    again = orthonormal(np.asfortranarray(columns), SEED)
    assert np.array_equal(basis, again), "however the columns lie in memory"


@pytest.mark.parametrize(
    "columns",
    [
        Dice("a").integers(-64, 65, 512 * 8).reshape(512, 8),
        Dice("b").integers(-2, 3, 512 * 64).reshape(512, 64),
        np.zeros((512, 8), np.int64),
        Dice("c").integers(-64, 65, 512).reshape(512, 1) * np.arange(1, 7),
        Dice("d").integers(-512, 513, 8 * SIDE_MAX).reshape(SIDE_MAX, 8),
    ],
    ids=["plain", "wide", "seeded", "dependent", "long"],
)
def test_its_columns_are_orthonormal(columns):
    basis = orthonormal(columns, SEED) * 2.0**-12
    assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < 2**-9


def test_it_spans_the_columns_that_it_comes_from():
    columns = Dice("span").integers(-64, 65, 100 * 6).reshape(100, 6)
    basis = orthonormal(columns, SEED) * 2.0**-12
    assert np.linalg.norm(columns - basis @ (basis.T @ columns)) < 0.01 * np.linalg.norm(columns)


def test_the_bounds_of_all_numbers_leave_room():
    """64 columns as long and as large as they may be, of the worst kind: the same over and over."""
    columns = np.full((SIDE_MAX, 64), SUM_MAX, np.int64)
    columns[::2] *= -1
    with np.errstate(all="raise"):
        basis = orthonormal(columns, SEED)
    assert np.abs(basis).max() <= 1 << 12
    assert np.abs(basis[:, 0]).tolist() == [16] * SIDE_MAX
    with pytest.raises(MisuseError, match="3 columns of 2"):
        orthonormal(np.zeros((2, 3), np.int64), SEED)


def test_directions_that_are_missing_differ_from_parent_to_parent_and_from_tensor_to_tensor():
    layout = SWARM.layout
    first = bases(b"c" * 32, None, 1, layout, SETTINGS)
    assert sorted(first) == [0, 1]
    assert [first[tensor].shape for tensor in (0, 1)] == [(5, 2), (6, 2)]
    silent = body(SWARM, [], sums=0)
    names = (bytes([1]) * 32, bytes([2]) * 32)
    one, other = (bases(name, silent, 2, layout, SETTINGS) for name in names)
    assert [one[tensor].shape for tensor in (0, 1)] == [(7, 2), (3, 2)]
    assert not np.array_equal(one[0], other[0])


def test_a_basis_needs_the_body_that_it_is_named_after():
    for name, origin, round_ in (
        (b"n" * 32, None, 2),
        (b"n" * 32, body(SWARM, []), 1),
        (b"n" * 32, body(SWARM, []), 3),
    ):
        with pytest.raises(MisuseError, match="of the round before"):
            bases(name, origin, round_, SWARM.layout, SETTINGS)


# --- what factors mean ----------------------------------------------------------------------------------------------


def test_a_product_is_exact_at_its_bounds():
    layout = Layout.of(Model("t", bytes(32), (Tensor(70 * 80, 0, 70),), 0, bytes(32)), 32)
    for round_ in (1, 2):
        (piece,) = pieces(layout, 64, round_)
        tall = np.full((piece.length, 64), SUM_MAX)
        wide = np.full((piece.across, 64), -(1 << 12), np.int16)
        tall[3, 5], wide[4, 5] = 1, 4095
        exact = tall @ wide.astype(np.int64).T
        assert product(tall, piece, wide).tolist() == (exact.T if round_ == 1 else exact).ravel().tolist()


def meant_by_hand(written: Body, origin: Body | None, swarm: Setting = SWARM) -> list[int]:
    """sum over the rank of Q B, times 2^(24 - exponent), rounded down at 2^-12, number by number."""
    layout, meant = swarm.layout, []
    shared = bases(written.basis or written.parts[0].roster, origin, written.round, layout, SETTINGS)
    sums = np.frombuffer(written.sums, np.int8).tolist()
    for tensor, described in enumerate(swarm.manifest.model.tensors):
        size, rows, rank = described.size, described.rows, described.rank or SETTINGS.rank
        scale = 2 ** (24 - written.exponents[tensor])
        if not rows:
            meant += [sums.pop(0) * scale for _ in range(size)]
            continue
        cols = size // rows
        right = written.round % 2 == 0
        own = [[sums.pop(0) for _ in range(rank)] for _ in range(rows if right else cols)]
        basis = shared[tensor].tolist()
        for row in range(rows):
            for col in range(cols):
                one, other = (own[row], basis[col]) if right else (own[col], basis[row])
                meant.append(sum(a * b for a, b in zip(one, other, strict=True)) * scale >> 12)
    assert not sums
    return meant


def random_body(
    dice: Dice, parents, *, cohort: int = 0, exponents: int | None = None, swarm: Setting = SWARM
) -> Body:
    round_ = 1 + max((parent.body.round for parent in parents), default=0)
    values = values_in(swarm.layout, SETTINGS.rank, round_)
    return body(
        swarm,
        parents,
        cohorts=[cohort],
        sums=dice.integers(-28, 29, values),
        weights=dice.integers(3, 5, 2),
        exponents=None if exponents is None else -dice.integers(0, exponents + 1, 3),
        ranges=dice.ranges(3),
    )


@pytest.mark.parametrize("swarm", [SWARM, OWN_RANKS], ids=["one rank", "a rank of its own"])
@pytest.mark.parametrize("seed", range(5))
def test_the_fold_of_factors_is_its_formula(seed, swarm):
    dice = Dice("formula", seed)
    first = unsigned(random_body(dice, [], swarm=swarm))
    others = [random_body(dice, [first], cohort=cohort, swarm=swarm) for cohort in (1, 2)]
    bodies, origin = [unsigned(each, first.body) for each in others], first.body
    change = increment(bodies, 2, swarm.layout, swarm.manifest)
    one, other = (meant_by_hand(each, origin, swarm) for each in others)
    weights = [sum(each.weights[segment] for each in others) for segment in (0, 1)]
    expected = [
        256 * (a + b) // (256 * 7 * weights[place >= 35])
        for place, (a, b) in enumerate(zip(one, other, strict=True))
    ]
    assert change.tolist() == expected
    meant = spread(first.body, None, swarm.layout, swarm.manifest.compression)
    assert meant_by_hand(first.body, None, swarm) == meant.tolist()


# --- evened out -----------------------------------------------------------------------------------------------------


def evened_by_floats(factor_: np.ndarray, steps: int) -> np.ndarray:
    """The docstring's recursion in float64, in the factor's own unit."""
    gram = factor_.T.astype(float) @ factor_
    energy = np.trace(gram)
    shares, weights, one = gram / energy, np.eye(len(gram)), np.eye(len(gram))
    for _ in range(steps):
        step = (3 * one - shares) / 2
        weights, shares = weights @ step, shares @ step @ step
    return factor_ @ weights / np.sqrt(np.trace(shares))


def steep(dice: Dice, length: int, rank: int) -> np.ndarray:
    """A factor whose columns are of very different sizes and not orthogonal."""
    sizes = 100 / 2.0 ** np.arange(rank)
    mixed = dice.integers(-9, 10, rank * rank).reshape(rank, rank) + 9 * np.eye(rank)
    return np.rint(
        (dice.integers(-9, 10, length * rank).reshape(length, rank) / 9 * sizes) @ mixed / 30
    ).astype(np.int16)


@pytest.mark.parametrize("steps", [1, 3, STEPS_MAX])
def test_evening_out_is_its_recursion_but_for_rounding(steps):
    factor_ = steep(Dice("evened", steps), 300, 6)
    exact = evened_by_floats(factor_, steps) * (1 << BASIS_BITS)
    found = evened(factor_, steps)
    assert found.dtype == np.int64
    assert np.abs(found - exact).max() < 2e-3 * np.abs(exact).max()


def test_each_step_brings_singular_values_nearer_and_keeps_their_energy_and_directions():
    factor_ = steep(Dice("nearer"), 200, 5)
    before = factor_.astype(float) * (1 << BASIS_BITS)
    left, _, right = np.linalg.svd(before, full_matrices=False)
    spreads = []
    for steps in range(STEPS_MAX + 1):
        after = evened(factor_, steps).astype(float)
        assert (after**2).sum() == pytest.approx((before**2).sum(), rel=5e-3)
        turned = left.T @ after @ right.T
        values = np.diag(turned)
        assert np.abs(turned - np.diag(values)).max() < 1e-2 * values.max(), "the same directions"
        spreads.append(values.max() / values.min())
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 8 * spreads[-1]
    assert all(before_ / after_ <= 1.51 for before_, after_ in pairwise(spreads)), "no step raises more"


def test_without_steps_a_factor_is_as_it_was_summed():
    factor_ = steep(Dice("as it was"), 40, 3)
    assert np.array_equal(evened(factor_, 0), factor_.astype(np.int64) << BASIS_BITS)


@pytest.mark.parametrize("steps", [0, 1, STEPS_MAX])
def test_a_factor_of_zeros_stays_one(steps):
    assert not evened(np.zeros((9, 4), np.int8), steps).any()


@pytest.mark.parametrize("rank", [1, 64])
def test_evening_out_is_exact_at_its_bounds(rank):
    """All numbers as large as they may be, and one direction beside them that is as small as can be."""
    factor_ = np.full((1 << 16, rank), SUM_MAX, np.int16)
    factor_[::2, rank // 2] = -SUM_MAX
    factor_[7, 0] += 0 if rank == 1 else -1
    exact = evened_by_floats(factor_.astype(np.int64), STEPS_MAX) * (1 << BASIS_BITS)
    found = evened(factor_, STEPS_MAX)
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert np.abs(found).max() < 1 << 29
    with np.errstate(all="raise"):
        wide = np.full((70, rank), 1 << 12, np.int16)
        whole = found[:3].astype(float) @ wide.T.astype(float)
    assert whole.tolist() == (found[:3] @ wide.T.astype(np.int64)).tolist()


def test_the_fold_evens_out_what_the_manifest_says():
    dice = Dice("told")
    first = unsigned(random_body(dice, []))
    second = unsigned(random_body(dice, [first], cohort=1), first.body)
    for steps, written in ((0, first), (4, first), (0, second), (4, second)):
        told = replace(SETTINGS, newton_schulz=steps)
        sent, origin = written.body, written.origin
        meant = spread(sent, origin, SWARM.layout, told)
        name = sent.basis or sent.parts[0].roster
        shared = bases(name, origin, sent.round, SWARM.layout, SETTINGS)
        for piece in pieces(SWARM.layout, SETTINGS.rank, sent.round):
            if not piece.length:
                continue
            own = np.frombuffer(sent.sums, np.int8)[piece.first : piece.last]
            factor_ = evened(own.reshape(piece.length, -1), steps)
            scale = 1 << 24 - sent.exponents[piece.tensor]
            exact = (factor_ @ shared[piece.tensor].T.astype(np.int64) >> BASIS_BITS) * scale >> BASIS_BITS
            assert piece.right == (sent.round == 2)
            whole = exact if piece.right else exact.T
            assert np.array_equal(meant[piece.start : piece.end], whole.ravel())


def test_a_tensor_of_its_own_rank_is_one_of_a_swarm_of_that_rank():
    """Whichever way a rank is said, the same numbers mean the same model, round after round."""
    said = [
        setting(tensors=[(35, 0, 5, *own), (54, 1, 6, *own)], codec="lowrank", rank=rank)
        for own, rank in (((), 3), ((3,), 2))
    ]
    models = []
    for swarm in said:
        dice, history, replica, last = Dice("said"), swarm.history(), swarm.replica(), []
        for round_ in range(1, 7):
            values = values_in(swarm.layout, swarm.manifest.compression.rank, round_)
            assert values == 3 * (7 + 9 if round_ % 2 else 5 + 6)
            last = [unsigned(body(swarm, last, cohorts=[round_], sums=dice.integers(-28, 29, values)))]
            check_body(last[0].body, swarm.manifest, swarm.layout, swarm.swarm)
            replica.apply(history.add(last[0]).changes, round_)
        rounds = [history.counting(round_) for round_ in range(1, 7)]
        assert np.array_equal(replica.x, fold_all(swarm.initial, rounds, swarm.layout, swarm.manifest)[0])
        models.append(replica.x)
    assert np.array_equal(*models)


def test_sums_that_a_factor_blows_up_are_cut_at_what_the_fold_bears():
    swarm = setting(tensors=[(9, 0, 3)], codec="lowrank", rank=3, lane_bits=16, levels=64, cap=1 << 30)
    largest = unsigned(body(swarm, [], sums=512, weights=1))
    once = spread(largest.body, None, swarm.layout, swarm.manifest.compression)
    change = increment([largest] * 2048, 1, swarm.layout, swarm.manifest)
    expected = [
        256 * max(-SUMS_MAX, min(2048 * each, SUMS_MAX)) // (256 * 64 * 2048) for each in once.tolist()
    ]
    assert change.tolist() == expected
    assert {each for each in expected if abs(each) == SUMS_MAX >> 17}, "some are cut"
    assert {each for each in expected if abs(each) < SUMS_MAX >> 17}, "and some are not"


def test_a_fold_without_the_basis_is_our_own_bug():
    first = unsigned(body(SWARM, []))
    with pytest.raises(MisuseError, match="of the round before"):
        increment([unsigned(body(SWARM, [first]))], 2, SWARM.layout, SWARM.manifest)


def test_the_fold_is_what_it_was():
    """Bits that no machine and no release of numpy may change; a new value here is a new protocol."""
    swarm = setting(
        tensors=[(600, 0, 20), (120, 1, 12), (9, 1)], codec="lowrank", rank=4, schedule=WITH_MOMENTUM
    )
    dice, rounds, last = Dice("golden"), [], []
    for round_ in range(1, 9):
        values = values_in(swarm.layout, 4, round_)
        parents = [each for each in last if not round_ % 3 or each is last[0]]
        made = [
            body(
                swarm,
                parents,
                cohorts=[cohort],
                sums=dice.integers(-28, 29, values) * (dice.below(3) > 0),
                weights=dice.trained(2),
                ranges=dice.ranges(3),
            )
            for cohort in (1, 2)
        ]
        origins = {each.id: each.body for each in parents}
        last = [unsigned(each, origins.get(each.basis)) for each in made]
        rounds.append(last)
    x, v, _, _ = fold_all(swarm.initial, rounds, swarm.layout, swarm.manifest)
    assert hashlib.sha256(x.tobytes() + v.tobytes()).hexdigest() == GOLDEN


GOLDEN = "1c38b8f2b79e64907a8c44ff30a6c3ee2fa032046abc3d627f77665dafd2ce0d"


# --- a cohort -------------------------------------------------------------------------------------------------------

TALL = Layout.of(
    Model("t", bytes(32), (Tensor(24 * 16, 0, 24), Tensor(5, 1), Tensor(8 * 30, 1, 8)), 0, bytes(32)), 32
)
RANK_3 = Compression("lowrank", 32, 15, 16, -4, rank=3)
SHAPES = ((0, 384, 24), (389, 629, 8))


def plan_of(parents=(), *, travelling=0b11, layout=TALL, compression=RANK_3):
    return codec_of(compression).plan(
        layout=layout,
        compression=compression,
        cohort=b"c" * 32,
        parents=parents,
        travelling=travelling,
    )


def encode(plan, contribution, seed=b"r" * 32, *, layout=TALL, compression=RANK_3):
    return LOWRANK.encode(plan, contribution, seed, layout=layout, compression=compression)


def body_of(plan, totals, parents=(), members=4, layout=TALL) -> Body:
    """A body as a cohort of these members would compose it."""
    ranges, sums = decode_sum(totals, plan.lanes, members)
    weights = (members,) * layout.segments
    part = Part(
        b"c" * 32,
        tuple(bytes([i]) * 32 for i in range(members)),
        bytes(32),
        pack_members(range(members), members),
    )
    round_ = 1 + max((each.round for each in parents), default=0)
    ids = tuple(sorted(map(aggregate_id, parents)))
    return Body(
        1,
        bytes(32),
        (part,),
        ids,
        round_,
        LOWRANK.id,
        plan.basis,
        b"",
        plan.exponent_bytes,
        sums,
        weights,
        ranges,
        b"",
    )


def values_like(generator, scale=0.01):
    return (scale * generator.standard_normal(TALL.parameters)).astype(np.float32)


def summed(plan, vectors):
    total = plan.lanes.zeros()
    for vector in vectors:
        add_vectors(total, vector, plan.lanes)
    return total


def test_the_codec_has_its_number_and_needs_a_segment_that_travels():
    assert (codec_of(RANK_3), LOWRANK.id) == (LOWRANK, 1)
    with pytest.raises(PeerViolation, match="none can travel"):
        plan_of(travelling=0)


def test_sides_take_turns_and_the_basis_is_the_parents_factor():
    first = plan_of()
    assert first.basis == b""
    assert first.lanes.narrow == 3 * 16 + 5 + 3 * 30
    generator = np.random.default_rng(1)
    made = body_of(first, summed(first, [encode(first, Contribution(values_like(generator), 0)).vector]))
    second = plan_of([made])
    assert second.basis == aggregate_id(made)
    assert second.lanes.narrow == 3 * 24 + 5 + 3 * 8
    sums = np.frombuffer(made.sums, "<i2").astype(np.int64)
    seed = digest("basis", second.basis, bytes(4))
    assert np.array_equal(second.factors.bases[0], orthonormal(sums[: 3 * 16].reshape(16, 3), seed))
    assert second.factors.bases[2].shape == (30, 3)
    third = plan_of([body_of(second, second.lanes.zeros(), [made])])
    assert third.lanes.narrow == first.lanes.narrow


def test_the_basis_comes_from_the_newest_parents_lowest_id():
    old = body_of(plan_of(), plan_of().lanes.zeros())
    plan = plan_of([old])
    news = []
    for member in range(3):
        total = plan.lanes.zeros()
        plan.lanes.wide_view(total)[0] = member
        news.append(body_of(plan, total, [old]))
    lowest = min(map(aggregate_id, news))
    for parents in ([old, *news], [*news[::-1], old]):
        assert plan_of(parents).basis == lowest


@pytest.mark.parametrize("round_", [1, 2])
def test_what_is_sent_is_what_its_sum_means(round_):
    """On both sides; and the sum of the members' factors is the factor of what they sent in all."""
    generator = np.random.default_rng(round_)
    parents = []
    if round_ == 2:
        plan = plan_of()
        vectors = [encode(plan, Contribution(values_like(generator), 0)).vector for _ in range(4)]
        parents = [body_of(plan, summed(plan, vectors))]
    plan = plan_of(parents)
    contributions = [Contribution(values_like(generator), age) for age in (0, 3)]
    encodings = [encode(plan, each, bytes([place]) * 32) for place, each in enumerate(contributions)]
    made = [body_of(plan, each.vector, parents) for each in encodings]
    origin = parents[0] if parents else None
    meant = [spread(each, origin, TALL, RANK_3) for each in made]
    for each, encoded, contribution in zip(meant, encodings, contributions, strict=True):
        scale = contribution.weight * 15 * 2.0**24
        assert encoded.sent.support.tolist() == list(range(TALL.blocks))
        assert encoded.sent.values.dtype == np.float32
        assert np.allclose(encoded.sent.values, each / scale, rtol=1e-6, atol=1.01 / scale)
    together = spread(
        body_of(plan, summed(plan, [each.vector for each in encodings]), parents), origin, TALL, RANK_3
    )
    assert np.abs(together - sum(meant)).max() <= 1, (
        "but for the last bit, which is rounded down once and not twice"
    )
    whole = np.array(plan.exponents) >= -12
    assert whole.all()
    assert np.array_equal(together, sum(meant)), "nothing is rounded where exponents are above -12"


def test_rounding_is_unbiased_and_what_a_factor_cannot_say_stays_behind():
    generator = np.random.default_rng(7)
    values, plan = values_like(generator), plan_of()
    sent = np.mean(
        [encode(plan, Contribution(values, 0), generator.bytes(32)).sent.values for _ in range(300)],
        axis=0,
    )
    for piece in plan.factors.pieces:
        own, basis = values[piece.start : piece.end], plan.factors.bases.get(piece.tensor)
        expected = own
        if basis is not None:
            expected = (basis.astype(float) / 4096 @ factor(own, piece, basis).T).ravel()
            assert np.linalg.norm(expected) < 0.8 * np.linalg.norm(own)
        assert np.abs(sent[piece.start : piece.end] - expected).max() < 0.002


def test_who_did_not_train_a_segment_or_may_not_send_it_gives_nothing_of_it():
    values = values_like(np.random.default_rng(3))
    for travelling, trained in ((0b01, 0b11), (0b11, 0b01)):
        plan = plan_of(travelling=travelling)
        encoded = encode(plan, Contribution(values, 0, trained))
        ranges, sums = decode_sum(encoded.vector, plan.lanes, 1)
        assert ranges == tuple(encoded.ranges.tolist())
        assert ranges[0] != plan.ranges[0]
        assert list(ranges[1:]) == plan.ranges[1:].tolist()
        assert not np.frombuffer(sums, "<i2")[48:].any()
        assert np.frombuffer(sums, "<i2")[:48].any()
        assert not encoded.sent.values[384:].any()


def test_values_as_large_as_they_may_be_clip():
    plan = plan_of()
    huge = np.full(TALL.parameters, np.finfo(np.float32).max, np.float32)
    huge[::2] *= -1
    encoded = encode(plan, Contribution(huge, 0))
    sums = np.frombuffer(decode_sum(encoded.vector, plan.lanes, 1).sums, "<i2")
    assert np.abs(sums).max() == 15
    assert np.isfinite(encoded.sent.values).all()


def test_a_range_means_the_same_whichever_side_travels():
    """A matrix that two bases say wholly has one energy, so one vote on both sides; the exponents differ with the numbers."""
    rng = np.random.default_rng(5)
    values = np.zeros(TALL.parameters, np.float32)
    tall, wide = rng.standard_normal((24, 2)), rng.standard_normal((2, 16))
    values[:384] = 0.01 * (tall @ wide).ravel()
    parents, votes, plans = [], [], []
    for _ in range(6):
        plan = plan_of(parents)
        encoded = encode(plan, Contribution(values, 0))
        parents = [body_of(plan, encoded.vector, parents, members=1)]
        votes.append(decode_sum(encoded.vector, plan.lanes, 1).ranges[0])
        plans.append(plan)
    energy = float(values[:384].astype(float) @ values[:384])
    expected = CODE_OF_ONE + 16 * math.log2(energy / 384) / 2
    assert max(abs(vote - expected) for vote in votes[2:]) < 3
    # RMS of the factor's own numbers, 3 octaves above; 48 of them on the left side and 72 on the right.
    for plan, count in zip(plans[-2:], (48, 72), strict=True):
        assert plan.factors.pieces[0].carried == count
        assert abs(plan.exponents[0] - (math.log2(math.sqrt(energy / count)) + 3)) <= 0.7
    assert plan_of().exponents.tolist() == [-4, -4, -4]


def recover(*, forget=False, rounds=24, frozen_side=False):
    """Four members give matrices of rank 2 in all, once; by round, the share of it that has not arrived."""
    rng = np.random.default_rng(11)
    tall, wide = rng.standard_normal((24, 2)), rng.standard_normal((2, 16))
    wanted = np.zeros(TALL.parameters)
    books, parents, left = [Books.empty(TALL)] * 4, [], []
    deltas = []
    for _ in range(4):
        delta = np.zeros(TALL.parameters, np.float32)
        delta[:384] = 0.01 * (tall @ rng.standard_normal((2, 2)) @ wide).ravel()
        deltas.append(delta)
        wanted += delta
    arrived = np.zeros(TALL.parameters)
    for round_ in range(rounds):
        plan = plan_of(() if frozen_side else parents)
        vectors = []
        for member in range(4):
            delta = deltas[member] if not round_ else np.zeros(TALL.parameters, np.float32)
            frozen = books[member].freeze(delta)
            encoded = encode(plan, Contribution(frozen.to_give, 0), rng.bytes(32))
            cohort = bytes([round_]) * 32
            books[member] = frozen.debit(cohort, encoded.sent).settle(cohort)
            if forget:
                books[member] = Books.empty(TALL)
            vectors.append(encoded.vector)
        made = body_of(plan, summed(plan, vectors), () if frozen_side else parents)
        origin = parents[0] if parents and not frozen_side else None
        arrived += spread(made, origin, TALL, RANK_3) / (15 * 2.0**24)
        parents = [made]
        left.append(float(np.linalg.norm(wanted - arrived) / np.linalg.norm(wanted)))
    return left


def test_sides_that_take_turns_find_a_matrix_of_low_rank_and_error_feedback_gives_all_of_it():
    left = recover()
    assert left[0] > 0.7, "the first basis knows nothing"
    assert left[2] < 0.4, "the second and the third do"
    assert left[-1] < 0.01
    assert recover(forget=True)[-1] > 0.5
    assert recover(frozen_side=True)[-1] > 0.7, "one basis for ever says nothing new"


# --- the first basis ------------------------------------------------------------------------------------------------

COHORTS = (b"c" * 32, b"d" * 32)


def layers(*shapes: tuple[int, int]) -> Layout:
    """Matrices of so many rows and columns, of rank 3 or as they bear it, and after each a vector, as biases are."""
    tensors = [(Tensor(rows * cols, 0, rows, min(3, rows, cols)), Tensor(rows, 0)) for rows, cols in shapes]
    return Layout.of(Model("t", bytes(32), tuple(chain(*tensors)), 0, bytes(32)), 32)


def weights_of(layout: Layout, *seed: object) -> np.ndarray:
    """An x_0 of numbers between -1/4 and 1/4."""
    return Dice("x_0", *seed).integers(-(1 << 22), (1 << 22) + 1, layout.parameters)


def matrix_in(initial: np.ndarray, layout: Layout, tensor: int) -> np.ndarray:
    start, end = (0, *layout.tensor_ends.tolist())[tensor : tensor + 2]
    return initial[start:end].reshape(layout.tensor_rows[tensor], -1)


def knowing(layout: Layout, initial: np.ndarray, compression: Compression = RANK_3) -> Layout:
    return dataclasses.replace(layout, prior=prior(initial, layout, compression))


def first_bases(layout: Layout, cohort: bytes = COHORTS[0]):
    return bases(cohort, None, 1, layout, RANK_3)


def projector(columns: np.ndarray) -> np.ndarray:
    """On what these columns span."""
    return columns @ np.linalg.pinv(columns)


def prior_by_hand(initial: np.ndarray, layout: Layout) -> list[list[list[int]]]:
    """The columns that each matrix's first basis is made of, in Python's own integers."""
    starts = [0, *layout.tensor_ends.tolist()]
    values = [max(-(2**30), min(each, 2**30)) for each in initial.tolist()]
    rows, ranks = layout.tensor_rows.tolist(), layout.tensor_ranks.tolist()
    places = [tensor for tensor, count in enumerate(rows) if count]
    said = []
    for tensor, next_ in zip(places, [*places[1:], None], strict=True):
        outputs, rank = rows[tensor], ranks[tensor]
        columns = []
        if next_ is not None:
            own = values[starts[next_] : starts[next_ + 1]]
            cols = len(own) // rows[next_]
            window = cols // outputs
            if window * outputs == cols:
                columns = [
                    [
                        sum(own[row * cols + output * window + place] for place in range(window))
                        for output in range(outputs)
                    ]
                    for row in range(min(rank, rows[next_]))
                ]
        scaled = [[127 * each // max(1, *map(abs, column)) for each in column] for column in columns]
        said.append(scaled + [[0] * outputs] * (rank - len(scaled)))
    return said


def networks():
    def of(name, *shapes, times=1, all_=None):
        layout = layers(*shapes)
        initial = times * weights_of(layout, name) if all_ is None else np.full(layout.parameters, all_)
        return pytest.param(layout, initial, id=name)

    yield of("three layers", (40, 9), (12, 40), (5, 12))
    yield of("fewer rows than columns", (40, 9), (2, 40))
    yield of("a window of four", (10, 9), (7, 40))
    yield of("some whose outputs nobody takes", (12, 9), (5, 13), (4, 5), (4, 2))
    yield of("one layer", (12, 9))
    yield of("zeros", (12, 9), (5, 12), all_=0)
    yield of("some beyond 2^30", (40, 9), (12, 40), (5, 12), times=1 << 9)
    yield of("as large as x_0 may be", (12, 9), (5, 12), all_=INITIAL_MAX)
    yield of("as small as x_0 may be", (12, 9), (5, 12), all_=-INITIAL_MAX)
    yield of("as large as a window may be", (2, 9), (3, SIDE_MAX), all_=INITIAL_MAX)
    yield of("and as small", (2, 9), (3, SIDE_MAX), all_=-INITIAL_MAX)


@pytest.mark.parametrize(("layout", "initial"), list(networks()))
def test_the_first_bases_are_what_exact_integers_make_of_x_0(layout, initial):
    expected = prior_by_hand(initial, layout)
    lanes = np.frombuffer(prior(initial, layout, RANK_3), "<i2")
    assert len(lanes) == values_in(layout, 3, 0)
    found = first_bases(knowing(layout, initial))
    for piece in pieces(layout, 3, 0):
        own = lanes[piece.first : piece.last]
        if not piece.length:
            assert not own.any(), "vectors have no basis"
            continue
        columns = expected.pop(0)
        assert own.reshape(piece.length, -1).T.tolist() == columns
        seed = digest("basis", COHORTS[0], piece.tensor.to_bytes(4, "big"))
        assert found[piece.tensor].T.tolist() == by_hand(columns, seed)
    assert not expected


def test_x_0_at_both_its_bounds_does_not_overflow():
    layout = layers((2, 9), (3, SIDE_MAX))
    initial = np.full(layout.parameters, INITIAL_MAX)
    next_ = matrix_in(initial, layout, 2)
    half = SIDE_MAX // 2
    next_[0, :half] = next_[1, half:] = next_[2, ::2] = -INITIAL_MAX
    with np.errstate(all="raise"):
        said = prior(initial, layout, RANK_3)
    # The matrix of two rows has rank 2: of the next one's three rows two are used.
    assert np.frombuffer(said, "<i2")[:4].reshape(2, 2).T.tolist() == [[-127, 127], [127, -127]]
    assert prior_by_hand(initial, layout)[0] == [[-127, 127], [127, -127]]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 30])
def test_the_first_basis_spans_the_first_rows_of_the_next_matrix(rows):
    layout = layers((40, 9), (rows, 40))
    initial = weights_of(layout, rows)
    used = matrix_in(initial, layout, 2)[:3].T.astype(float)
    for cohort in COHORTS:
        basis = first_bases(knowing(layout, initial), cohort)[0] * 2.0**-12
        assert basis.shape == (40, 3)
        assert np.abs(basis.T @ basis - np.eye(3)).max() < 2**-9
        found = basis[:, : min(3, rows)]
        assert np.abs(projector(found) - projector(used)).max() < 0.01


def test_each_matrix_has_its_own_next_one():
    layout = layers((40, 9), (12, 40), (5, 12))
    initial = weights_of(layout, "own")
    found = first_bases(knowing(layout, initial))
    for tensor, next_ in ((0, 2), (2, 4)):
        used = matrix_in(initial, layout, next_)[:3].T.astype(float)
        assert np.abs(projector(found[tensor].astype(float)) - projector(used)).max() < 0.01


def test_what_looks_at_an_output_in_several_places_is_summed_up():
    """A convolution's window, or the places that flattening made of one output: they lie side by side."""
    layout = layers((10, 9), (7, 4 * 10))
    initial = weights_of(layout, "window")
    wide = matrix_in(initial, layout, 2)[:3]
    used = np.column_stack([wide[:, 4 * output : 4 * output + 4].sum(1) for output in range(10)]).T
    found = first_bases(knowing(layout, initial))[0].astype(float)
    assert np.abs(projector(found) - projector(used.astype(float))).max() < 0.01
    assert np.abs(projector(found) - projector(wide[:, ::4].T.astype(float))).max() > 0.1


@pytest.mark.parametrize(("rows", "said"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_cohorts_differ_in_exactly_the_columns_that_x_0_says_nothing_of(rows, said):
    layout = layers((40, 9), (rows, 40))
    known = knowing(layout, weights_of(layout, "cohorts"))
    one, other = (first_bases(known, cohort)[0] for cohort in COHORTS)
    assert np.array_equal(one[:, :said], other[:, :said])
    for column in range(said, 3):
        assert abs(int(one[:, column] @ other[:, column].astype(np.int64))) < 0.7 * 2**24, "another direction"


@pytest.mark.parametrize("cohort", COHORTS)
@pytest.mark.parametrize("cols", [41, 39, 20, 60, 1], ids=lambda cols: f"{cols} columns")
def test_a_next_matrix_that_does_not_take_the_outputs_says_nothing(cols, cohort):
    layout = layers((40, 9), (7, cols))
    known = knowing(layout, weights_of(layout, "others"))
    assert np.array_equal(first_bases(known, cohort)[0], first_bases(layout, cohort)[0])
    takes = layers((40, 9), (7, 40))
    said = first_bases(knowing(takes, weights_of(takes, "others")), cohort)[0]
    assert not np.array_equal(said, first_bases(takes, cohort)[0])


@pytest.mark.parametrize("cohort", COHORTS)
def test_of_the_last_matrix_nothing_is_said(cohort):
    for shapes in (((40, 9),), ((40, 9), (7, 40))):
        layout = layers(*shapes)
        known = knowing(layout, weights_of(layout, "last"))
        last = 2 * (len(shapes) - 1)
        assert np.array_equal(first_bases(known, cohort)[last], first_bases(layout, cohort)[last])


def test_later_rounds_ask_their_parents_and_not_x_0():
    known = knowing(TALL, np.arange(TALL.parameters))
    made = body_of(plan_of(), plan_of().lanes.zeros())
    one, other = (bases(aggregate_id(made), made, 2, layout, RANK_3) for layout in (TALL, known))
    assert sorted(one) == sorted(other) == [0, 2]
    assert all(np.array_equal(one[tensor], other[tensor]) for tensor in one)


def test_a_codec_without_factors_asks_x_0_nothing():
    layout = layers((40, 9), (7, 40))
    assert prior(weights_of(layout), layout, replace(RANK_3, codec="dense")) == b""
    assert prior(weights_of(layout), layout, RANK_3) != b""


@pytest.mark.parametrize("lane_bits", [8, 16, 32])
def test_what_x_0_says_is_the_same_in_lanes_of_any_width(lane_bits):
    layout = layers((40, 9), (12, 40), (5, 12))
    compression = replace(RANK_3, lane_bits=lane_bits)
    initial = weights_of(layout, "lanes")
    known = knowing(layout, initial, compression)
    assert len(known.prior) == values_in(layout, 3, 0) * lane_bits // 8
    found, expected = bases(COHORTS[0], None, 1, known, compression), first_bases(knowing(layout, initial))
    assert all(np.array_equal(found[tensor], expected[tensor]) for tensor in expected)


@pytest.mark.parametrize(
    ("on", "least"), [(1.0, 0.9), (0.5, 0.45)], ids=["all outputs on", "half of them off"]
)
def test_what_came_back_through_the_next_layer_arrives_in_the_first_round(on, least):
    """Four members' changes (D W'^T e) x^T, through plan, sum and fold: by far the most of it, and next to nothing without x_0."""
    swarm = setting(
        tensors=[(48 * 20, 0, 48), (48, 0), (3 * 48, 0, 3), (3, 0)],
        codec="lowrank", rank=3, lane_bits=16, levels=15, block_size=32,
    )  # fmt: skip
    layout, compression = swarm.layout, swarm.manifest.compression
    initial, rng = weights_of(layout, "arrives"), np.random.default_rng(12)
    next_ = matrix_in(initial, layout, 2) * 2.0**-24
    given = []
    for _ in range(4):
        errors, inputs = rng.standard_normal((3, 64)), rng.standard_normal((20, 64))
        came_back = (next_.T @ errors) * (rng.random((48, 64)) < on)
        delta = np.zeros(layout.parameters, np.float32)
        delta[: 48 * 20] = (came_back @ inputs.T).ravel()
        given.append(delta * np.float32(1.5 / np.linalg.norm(delta)))
    wanted = np.mean(given, axis=0)[: 48 * 20]
    missing = []
    for known in (knowing(layout, initial, compression), layout):
        plan = plan_of(travelling=0b1, layout=known, compression=compression)
        vectors = [
            encode(plan, Contribution(delta, 0), rng.bytes(32), layout=known, compression=compression).vector
            for delta in given
        ]
        made = unsigned(body_of(plan, summed(plan, vectors), layout=known))
        arrived = increment([made], 1, known, swarm.manifest)[: 48 * 20] * 2.0**-24
        missing.append(float(np.sum((wanted - arrived) ** 2) / np.sum(wanted**2)))
    assert missing[0] < 1 - least
    assert missing[1] > 0.8, "3 directions of 48 find a sixteenth"


def test_a_node_plans_and_folds_with_what_x_0_says():
    who = Identity(bytes([1]) * 32)
    of_tests = setting(tensors=[(35, 0, 5), (5, 0), (15, 1, 3), (3, 1)], codec="lowrank", rank=2)
    founded = found(replace(of_tests.manifest, founder=who.public_key), who)
    swarm = Setting(founded.manifest, of_tests.initial, founded.id)
    core = NodeCore(
        identity=who,
        swarm=founded,
        initial=swarm.initial,
        settings=Settings(("here",)),
        entropy=random.Random(1).randbytes,
        read=lambda _: (),
    )
    known = knowing(swarm.layout, swarm.initial, SETTINGS)
    assert any(known.prior)
    assert core._layout.prior == known.prior
    assert swarm.layout.prior == b"", "which all who ask for this cut share"
    first = unsigned(body(swarm, [], sums=range(values_in(known, 2, 1))))
    core._replica.apply(core._history.add(first).changes, 1)
    folded, blind = (
        fold_all(swarm.initial, [[first]], layout, swarm.manifest)[0] for layout in (known, swarm.layout)
    )
    assert np.array_equal(core._replica.x, folded)
    assert not np.array_equal(folded, blind)


# --- what others may send -------------------------------------------------------------------------------------------

FIRST = unsigned(body(SWARM, []))
RIVAL = unsigned(body(SWARM, [], cohorts=[1]))
LOWER, HIGHER = sorted((FIRST, RIVAL), key=lambda each: each.id)


def refused(written: Body, words: str, swarm=SWARM) -> None:
    with pytest.raises(PeerViolation, match=words):
        check_body(written, swarm.manifest, swarm.layout, swarm.swarm)


def test_a_body_of_factors_holds():
    second = signed(body(SWARM, [FIRST, RIVAL], cohorts=[2], sums=-28))
    assert second.body.basis in {LOWER.id, HIGHER.id}, "which, its cohort has drawn"
    verdict = check(second, SWARM.manifest, SWARM.layout, SWARM.swarm)
    history = SWARM.history()
    for each in (FIRST, RIVAL, verdict):
        assert isinstance(history.add(each), Added)
    (known,) = history.counting(2)
    assert known.origin == (LOWER if second.body.basis == LOWER.id else HIGHER).body


def test_a_body_of_the_wrong_form_is_refused():
    first, second = body(SWARM, []), body(SWARM, [FIRST], cohorts=[2])
    left, right = values_in(SWARM.layout, 2, 1), values_in(SWARM.layout, 2, 2)
    assert (left, right) == (2 * 7 + 2 * 3 + 4, 2 * 5 + 2 * 6 + 4)
    refused(replace(first, sums=bytes(right)), f"{right} bytes of sums, not {left}")
    refused(replace(second, sums=bytes(left)), f"{left} bytes of sums, not {right}")
    refused(replace(second, sums=bytes(57)), f"57 bytes of sums, not {right}")
    refused(replace(second, sums=b"\x7f" * right), "outside")
    refused(replace(first, basis=FIRST.id), "basis of none")
    refused(replace(second, basis=b""), "basis of none")
    refused(replace(second, basis=RIVAL.id), "basis of none")
    refused(replace(second, basis=b"short"), "basis of none")
    refused(replace(second, exponents=bytes(SWARM.layout.blocks)), f"{SWARM.layout.blocks} exponents for 3")
    refused(replace(second, exponents=bytes(2)), "2 exponents for 3")
    some = SWARM.layout.pack_blocks(np.arange(3))
    refused(replace(second, blocks=some), "carries all tensors")
    dense = setting(tensors=[(35, 0), (4, 1)], codec="dense")
    refused(replace(body(dense, []), basis=bytes(32)), "a basis, which", dense)
    refused(replace(body(dense, []), codec=1), "codec lowrank, but", dense)
    ours, own = body(OWN_RANKS, []), values_in(OWN_RANKS.layout, 2, 1)
    assert own == 3 * 7 + 2 * 3 + 4
    check_body(ours, OWN_RANKS.manifest, OWN_RANKS.layout, OWN_RANKS.swarm)
    refused(replace(ours, sums=bytes(left)), f"{left} bytes of sums, not {own}", OWN_RANKS)


def test_a_basis_of_another_parent_is_refused_whenever_it_shows():
    wrong = unsigned(replace(body(SWARM, [FIRST, RIVAL], cohorts=[2]), basis=HIGHER.id))
    check_body(wrong.body, SWARM.manifest, SWARM.layout, SWARM.swarm)  # only the history can tell
    history = SWARM.history()
    for each in (FIRST, RIVAL):
        history.add(each)
    with pytest.raises(PeerViolation, match="another basis"):
        history.add(wrong)
    early = SWARM.history()
    assert isinstance(early.add(wrong), Waiting)
    early.add(FIRST)
    assert early.add(RIVAL).refused == (wrong.id,)
    assert len(early) == 2


def test_the_basis_of_an_older_parent_is_refused():
    second = unsigned(body(SWARM, [FIRST], cohorts=[2]))
    parents = [second, RIVAL]
    third = body(SWARM, parents, cohorts=[3])
    assert third.basis == second.id
    history = SWARM.history()
    for each in (FIRST, RIVAL, second):
        history.add(each)
    with pytest.raises(PeerViolation, match="another basis"):
        history.add(unsigned(replace(third, basis=RIVAL.id)))
    assert isinstance(history.add(unsigned(third)), Added)


def test_a_basis_may_come_from_what_does_not_count():
    """Two bodies of one cohort: the lower one counts, and an aggregate that knew the other alone is still folded."""
    one, other = (unsigned(body(SWARM, [], sums=sums, weights=3)) for sums in (3, -5))
    counts, beaten = sorted((one, other), key=lambda each: each.id)
    child = unsigned(body(SWARM, [beaten], cohorts=[2], sums=range(26)))
    bits = []
    for told in ((counts, beaten, child), (beaten, child, counts), (child, counts, beaten)):
        history, replica = SWARM.history(), SWARM.replica()
        for each in told:
            outcome = history.add(each)
            if isinstance(outcome, Added):
                replica.apply(outcome.changes, history.round)
        assert history.counting(1) == (counts,)
        assert history.counting(2)[0].origin == beaten.body
        bits.append(replica.x.tobytes())
    assert len(set(bits)) == 1


def test_a_newcomer_pulls_the_round_that_the_bases_above_its_checkpoint_come_from():
    dice, chain = Dice("newcomer"), []
    history, replica = SWARM.history(), SWARM.replica()
    for round_ in range(1, 18):
        parents = chain[-1:]
        made = random_body(dice, parents, cohort=round_)
        if round_ == STATE_EVERY:
            taken = checkpoint.take(history, replica, [parents[0].id], SWARM.swarm)
            made = replace(made, state=checkpoint.state_root(taken))
        chain.append(unsigned(made))
        replica.apply(history.add(chain[-1]).changes, round_)
    signed_one, last = chain[STATE_EVERY - 1], chain[STATE_EVERY - 2]
    new, twin = checkpoint.restore(taken, signed_one, SWARM.manifest, SWARM.layout, SWARM.initial)
    assert new.round == STATE_EVERY - 1
    assert new.wanted() == (last.id,)
    for each, valid in ((last, (signed_one.id,)), (chain[-1], (chain[-1].id,))):
        outcome = new.add(each)
        assert outcome.ids == valid
        twin.apply(outcome.changes, new.round)
    assert np.array_equal(twin.x, replica.x)
    late = unsigned(random_body(dice, [chain[8]], cohort=40))
    unheld = chain[
        : STATE_EVERY - 2
    ]  # later rounds build on earlier ones, so it takes all of the base to fold it
    assert new.add(late) == Waiting(tuple(sorted(each.id for each in unheld)))


# --- settings -------------------------------------------------------------------------------------------------------


def test_matrices_that_do_not_fit_are_refused():
    def founded(*tensors, codec="lowrank", rank=2):
        refuse_contradictions(setting(tensors=tensors, codec=codec, rank=rank).manifest)

    founded((12, 0, 3), (5, 0))
    for tensor, rank in (((12, 0, 5), 2), ((12, 0, 3), 4), ((12, 0, 1), 2), ((4 * SIDE_MAX, 0, 2), 2)):
        with pytest.raises(ManifestError, match=r"tensor 0 of .* no matrix"):
            founded(tensor, rank=rank)
    founded((12, 0, 3, 3), (12, 0, 3, 1))
    with pytest.raises(ManifestError, match=r"tensor 0 of .* a rank of 4"):
        founded((12, 0, 3, 4))
    founded((12, 0, 3, 2), rank=4)  # the swarm's is for others
    with pytest.raises(ManifestError, match="tensor 1 has a rank and no rows"):
        founded((12, 0, 3), (5, 0, 0, 1))
    with pytest.raises(ManifestError, match="only the lowrank codec"):
        founded((12, 0, 3), codec="dense")


def test_a_tensor_travels_as_factors_where_they_save_half_and_at_the_rank_that_does():
    assert rank_for(192, 192 * 512, 8) == 8
    assert rank_for(32, 32 * 32, 8) == 8
    assert rank_for(32, 32 * 32, 9) == 8, "not whole, but at less"
    assert rank_for(10, 10 * 768, 8) == 4
    assert rank_for(8, 8 * 8, 8) == 2
    assert rank_for(7, 7 * 8, 8) == 0, "one column says too little"
    assert rank_for(7, 7 * 8, 1) == 1, "unless the swarm wants no more"
    assert rank_for(3, 3 * 4, 1) == 0
    assert rank_for(0, 512, 8) == 0
    assert rank_for(1, 512, 1) == 0
    assert rank_for(32, 32 * 32 + 1, 8) == 0, "no matrix"
    assert rank_for(SIDE_MAX, SIDE_MAX * 512, 8) == rank_for(512, SIDE_MAX * 512, 8) == 8
    assert rank_for(SIDE_MAX + 1, (SIDE_MAX + 1) * 512, 8) == 0
    assert rank_for(512, (SIDE_MAX + 1) * 512, 8) == 0


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 64])
def test_whatever_the_shape_factors_are_at_most_half_of_it_and_no_rank_above_it_would_be(rank):
    for rows in range(1, 80):
        for cols in (1, 2, 9, 80):
            own = rank_for(rows, rows * cols, rank)
            assert 0 <= own <= min(rank, rows, cols)
            assert 2 * own * (rows + cols) <= rows * cols
            larger = own + 1 if own else min(rank, 2)
            assert larger > rank or 2 * larger * (rows + cols) > rows * cols


def test_kept_bases_are_bounded_and_shared():
    _basis.cache_clear()
    for name in range(300):
        bases(name.to_bytes(32, "big"), FIRST.body, 2, SWARM.layout, SETTINGS)
    assert _basis.cache_info().currsize == _basis.cache_info().maxsize == 256
    one = bases(bytes(31) + b"\x05", FIRST.body, 2, SWARM.layout, SETTINGS)
    again = bases(bytes(31) + b"\x05", FIRST.body, 2, SWARM.layout, SETTINGS)
    assert one[0] is again[0]
    with pytest.raises(ValueError, match="read-only"):
        one[0][0, 0] = 1
    assert all(a != b for a, b in pairwise([each.tobytes() for each in one.values()]))
