"""The fold's arithmetic, number by number, and a replica whose shortcuts all end in the same bits."""

import hashlib
import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from gossip.body import CONTRIBUTORS_MAX, PARTS_MAX
from gossip.errors import ManifestError, MisuseError
from gossip.history.aggregate import SUM_MAX
from gossip.history.dag import FOLDED_MAX, Added, Change
from gossip.history.fold import (
    GROWTH_MAX,
    RECENT,
    RECENT_MIN,
    Replica,
    fold_all,
    has_momentum,
    increment,
    step_at,
)
from gossip.manifest import COHORT_MAX, Step
from tests.histories import WITH_MOMENTUM, WITHOUT_MOMENTUM, Dice, body, setting, unsigned

SCHEDULES = pytest.mark.parametrize("schedule", [WITHOUT_MOMENTUM, WITH_MOMENTUM], ids=["plain", "momentum"])


def inc(swarm, *bodies, round_=1):
    return increment([unsigned(each) for each in bodies], round_, swarm.layout, swarm.manifest)


# --- one round ------------------------------------------------------------------------------------------------


def test_the_increment_is_the_mean_of_the_deltas_times_the_step_size():
    # Four devices with deltas of 0.5: Q = 4 (0.5 S / C) = 14, with S = 7, C = 1.
    swarm = setting()
    assert (inc(swarm, body(swarm, [], sums=14)) == 1 << 23).all()
    half = setting(schedule=(Step(1, 128, 0),))
    assert (inc(half, body(half, [], sums=14)) == 1 << 22).all()


def test_the_increment_equals_exact_fractions():
    swarm = setting(schedule=(Step(1, 77, 0),))
    layout = swarm.layout
    dice = Dice(5)
    bodies = []
    for cohort in range(4):
        blocks = np.flatnonzero(dice.integers(0, 2, layout.blocks))
        bodies.append(
            body(
                swarm,
                [],
                cohorts=[cohort],
                blocks=blocks,
                sums=dice.integers(-28, 29, layout.values_in(blocks)),
                exponents=-dice.integers(0, 25, len(blocks)),
                weights=dice.trained(layout.segments),
            )
        )
    expected = []
    for parameter in range(layout.parameters):
        block = next(k for k in range(layout.blocks) if parameter < layout.ends[k])
        total, weight = Fraction(0), 0
        for each in bodies:
            blocks = layout.unpack_blocks(each.blocks).tolist()
            if block in blocks:
                offset = layout.indices(np.array(blocks)).tolist().index(parameter)
                lane = np.frombuffer(each.sums, np.int8)[offset]
                total += int(lane) * Fraction(2) ** (24 - each.exponents[blocks.index(block)])
                weight += each.weights[layout.block_segment[block]]
        expected.append(floor(77 * total / (256 * 7 * weight)) if weight else 0)
    assert any(expected)
    assert inc(swarm, *bodies).tolist() == expected


def test_division_rounds_down_below_zero_too():
    swarm = setting(schedule=(Step(1, 1, 0),))
    # E Q 2^0 / (256 S W) = +-1 / (256 * 7 * 4), between -1 and 1.
    assert (inc(swarm, body(swarm, [], sums=1, exponents=-24)) == 0).all()
    assert (inc(swarm, body(swarm, [], sums=-1, exponents=-24)) == -1).all()


def test_the_cap_holds_on_both_sides_and_for_the_round_not_for_one_aggregate():
    swarm = setting(cap=1000)
    up, down = body(swarm, [], cohorts=[1], sums=28), body(swarm, [], cohorts=[2], sums=-28)
    assert (inc(swarm, up) == 1000).all()
    assert (inc(swarm, down) == -1000).all()
    assert (inc(swarm, up, down) == 0).all()


def test_a_block_without_weight_stays_as_it_is():
    swarm = setting()
    changed = inc(swarm, body(swarm, [], sums=28, weights=[4, 0]))
    first_segment = swarm.layout.expand(swarm.layout.block_segment, np.arange(swarm.layout.blocks)) == 0
    assert changed[first_segment].all()
    assert not changed[~first_segment].any()


def test_only_those_who_carry_a_block_share_it():
    swarm = setting()
    alone = inc(swarm, body(swarm, [], blocks=[0, 2]))
    beside = inc(
        swarm,
        body(swarm, [], blocks=[0, 2]),
        body(swarm, [], cohorts=[1], blocks=[5], weights=3),
    )
    assert np.flatnonzero(alone).tolist() == swarm.layout.indices(np.array([0, 2])).tolist()
    assert (beside[:10] == alone[:10]).all()
    assert beside[17:].all()


def test_the_largest_round_that_is_allowed_does_not_overflow():
    swarm = setting(levels=64, lane_bits=32, n_max=8, tensors=[(1, 0)])
    heaviest = unsigned(body(swarm, [], cohorts=[0, 1], sums=512, weights=1))
    total = increment([heaviest] * 2048, 1, swarm.layout, swarm.manifest)
    assert total.tolist() == [8 << 24]
    exact = 256 * 2048 * 512 * 2**24
    assert exact < 2**63


def test_the_heaviest_round_of_the_largest_cohorts_does_not_overflow():
    swarm = setting(levels=1, lane_bits=32, n_max=COHORT_MAX, tensors=[(1, 0)])
    heaviest = unsigned(
        body(swarm, [], cohorts=range(PARTS_MAX), sums=CONTRIBUTORS_MAX, weights=CONTRIBUTORS_MAX)
    )
    total = increment([heaviest] * FOLDED_MAX, 1, swarm.layout, swarm.manifest)
    assert total.tolist() == [1 << 24], "as if all had learned the same, which they did"
    assert CONTRIBUTORS_MAX == SUM_MAX
    divisor = 256 * FOLDED_MAX * CONTRIBUTORS_MAX
    assert divisor == 1 << 28
    for levels in (1, 2, 64, 512):
        assert levels * FOLDED_MAX * (SUM_MAX // levels) * 256 <= divisor, "more levels, fewer contributors"


def test_the_schedule_changes_in_the_round_it_says():
    manifest = setting(schedule=WITH_MOMENTUM).manifest
    assert [step_at(manifest, round_).size for round_ in (1, 4, 5, 8, 9, 11, 12, 1000)] == [
        256, 256, 128, 128, 200, 200, 31, 31,
    ]  # fmt: skip
    assert has_momentum(manifest)
    assert not has_momentum(setting().manifest)


# --- many rounds ----------------------------------------------------------------------------------------------


def test_momentum_is_nesterovs_with_floors():
    swarm = setting(tensors=[(1, 0)], schedule=(Step(1, 256, 100), Step(3, 256, 200)))
    x, v = int(swarm.initial[0]), 0
    rounds = []
    for round_, q in enumerate([20, -28, 17, -13, 0, -20, 27], 1):
        written = unsigned(body(swarm, [], sums=q, exponents=-20))
        rounds.append([written])
        change = floor(Fraction(256 * q * 16, 256 * 7 * 4))
        momentum = 100 if round_ < 3 else 200
        v = momentum * v // 256 + change
        x += change + momentum * v // 256
    folded = fold_all(swarm.initial, rounds, swarm.layout, swarm.manifest)
    assert [int(folded.x[0]), int(folded.v[0])] == [x, v]


def test_momentum_goes_on_through_a_round_in_which_nothing_counts():
    swarm = setting(tensors=[(1, 0)], schedule=(Step(1, 256, 128),))
    written = unsigned(body(swarm, []))
    one, *_ = fold_all(swarm.initial, [[written]], swarm.layout, swarm.manifest)
    two, *_ = fold_all(swarm.initial, [[written], []], swarm.layout, swarm.manifest)
    step = (1 << 24) // 28
    assert int(one[0] - swarm.initial[0]) == step + step // 2
    assert int(two[0] - one[0]) == step // 2 // 2


def long_history(swarm, rounds=40, seed=3):
    """A chain of one aggregate a round, and beside each another without children: (chain, beside)."""
    dice = Dice(seed)
    layout, chain, beside = swarm.layout, [], []
    for round_ in range(rounds):
        both = []
        for cohort in range(2):
            blocks = np.flatnonzero(dice.integers(0, 3, layout.blocks))
            blocks = blocks if len(blocks) else np.array([0])
            written = body(
                swarm,
                chain[-1:],
                cohorts=[2 * round_ + cohort],
                blocks=blocks,
                sums=dice.integers(-28, 29, layout.values_in(blocks)),
                weights=dice.integers(3, 5, layout.segments) if cohort else dice.trained(layout.segments),
                ranges=dice.ranges(len(layout.tensor_ends)),
            )
            both.append(unsigned(written))
        chain.append(both[0])
        beside.append(both[1])
    return chain, beside


def filled(swarm, aggregates):
    """A history and its replica, told one aggregate at a time."""
    history, replica = swarm.history(), swarm.replica()
    for each in aggregates:
        outcome = history.add(each)
        if isinstance(outcome, Added):
            replica.apply(outcome.changes, history.round)
    return history, replica


def reference(swarm, history):
    rounds = [history.counting(round_) for round_ in range(1, history.round + 1)]
    return fold_all(swarm.initial, rounds, swarm.layout, swarm.manifest)


def is_fold_of(replica, swarm, history):
    x, v, recent, _counts = reference(swarm, history)
    return np.array_equal(replica.x, x) and np.array_equal(replica.v, v) and replica.state.recent == recent


@pytest.mark.parametrize(
    ("schedule", "golden"),
    [
        (WITHOUT_MOMENTUM, "19d02dc6895c9b9fbf2bbce675c3161cf0ef34feb5869d4020b19e3f78fa0d4e"),
        (WITH_MOMENTUM, "b3ee97204098a5962569d9ebf649498161e8e99c09a950e0cacbb2c3f8331704"),
    ],
    ids=["plain", "momentum"],
)
def test_the_golden_fold(schedule, golden):
    """These bits may change only together with the protocol's version: every node of a swarm must agree on them."""
    swarm = setting(schedule=schedule, cap=3 << 24)
    chain, beside = long_history(swarm)
    _, replica = filled(swarm, chain + beside)
    assert hashlib.sha256(replica.x.astype("<i8").tobytes()).hexdigest() == golden


@SCHEDULES
def test_a_replica_is_the_fold_of_its_history_after_each_aggregate(schedule):
    swarm = setting(schedule=schedule, cap=1 << 24)
    history, replica = swarm.history(), swarm.replica()
    for pair in zip(*long_history(swarm, 20), strict=True):
        for each in pair:
            replica.apply(history.add(each).changes, history.round)
            assert is_fold_of(replica, swarm, history)
    assert replica.round == 20
    assert np.array_equal(replica.model(), (replica.x / 2**24).astype(np.float32))


@SCHEDULES
@pytest.mark.parametrize("round_", [1, 2, 22, 34, 39, 40])
def test_a_late_aggregate_of_any_age_is_folded_as_if_it_had_come_in_time(schedule, round_):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm)
    history, replica = filled(swarm, chain)
    before = replica.x
    replica.apply(history.add(beside[round_ - 1]).changes, history.round)
    assert not np.array_equal(before, replica.x)
    assert is_fold_of(replica, swarm, history)


@SCHEDULES
def test_many_additions_may_be_folded_in_one_go(schedule):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm)
    history, replica = filled(swarm, chain)
    changes = [change for each in reversed(beside) for change in history.add(each).changes]
    changes += [change for each in beside for change in getattr(history.add(each), "changes", ())]
    replica.apply(changes, history.round)
    assert is_fold_of(replica, swarm, history)


@SCHEDULES
def test_an_aggregate_that_a_lower_one_replaces_is_unfolded(schedule):
    swarm = setting(schedule=schedule)
    rivals = sorted((unsigned(body(swarm, [], sums=q)) for q in (3, 5, 7)), key=lambda each: each.id)
    history, replica = swarm.history(), swarm.replica()
    for each in reversed(rivals):
        replica.apply(history.add(each).changes, history.round)
        expected = fold_all(swarm.initial, [[each]], swarm.layout, swarm.manifest)
        assert np.array_equal(replica.x, expected[0])


@SCHEDULES
def test_folding_twice_is_a_bug_of_ours_and_not_a_silent_one(schedule):
    swarm = setting(schedule=schedule)
    chain, _ = long_history(swarm, 3)
    history, replica = filled(swarm, chain[:2])
    outcome = history.add(chain[2])
    replica.apply(outcome.changes, history.round)
    x = replica.x
    with pytest.raises(MisuseError, match="round 3: a change from what is not folded here"):
        replica.apply(outcome.changes, history.round)
    with pytest.raises(MisuseError, match="round 2"):
        replica.apply([Change(2, (), (chain[1],))], history.round)
    assert np.array_equal(replica.x, x)


@SCHEDULES
def test_a_round_of_which_nothing_was_said_is_a_bug_of_ours(schedule):
    swarm = setting(schedule=schedule)
    chain, _ = long_history(swarm, 2)
    with pytest.raises(MisuseError, match="round 1: nobody said"):
        swarm.replica().apply([Change(2, (), (chain[1],))], 2)


@SCHEDULES
def test_a_state_can_be_asked_for_without_becoming_it(schedule):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm)
    history, replica = filled(swarm, chain + beside)
    past = history.ancestors([chain[30].id])
    assert past == tuple((each.id,) for each in chain[:31])
    before = replica.x, replica.v
    x, v, recent, _counts = replica.state_after(history.changes_to(past), 31)
    expected = fold_all(swarm.initial, [[each] for each in chain[:31]], swarm.layout, swarm.manifest)
    assert np.array_equal(x, expected[0])
    assert np.array_equal(v, expected[1])
    assert recent == expected.recent
    assert len(recent) == RECENT
    assert (replica.x is before[0], replica.v is before[1], replica.round) == (True, True, 40)


# --- what one round may do ------------------------------------------------------------------------------------


def rounds_of(swarm, sums, sizes=None):
    """One aggregate a round, on the last one, of four contributors or of as many as cohorts are named."""
    row, rounds = [], []
    for place, each in enumerate(sums):
        cohorts = [place] if sizes is None else [10 * place + cohort for cohort in range(sizes[place] // 4)]
        row = [unsigned(body(swarm, row, cohorts=cohorts, sums=each))]
        rounds.append(row)
    return rounds


def changes(swarm, rounds):
    """What each round has done to the first parameter, in 2^-24."""
    x = [
        int(fold_all(swarm.initial, rounds[:count], swarm.layout, swarm.manifest).x[0])
        for count in range(len(rounds) + 1)
    ]
    return [after - before for before, after in itertools.pairwise(x)]


ONE_TENSOR = setting(tensors=[(4, 0)])


def test_a_round_moves_a_tensor_at_most_twice_as_far_as_the_median_of_the_last_ones():
    quiet, loud = 1, 28
    *before, moved = changes(ONE_TENSOR, rounds_of(ONE_TENSOR, [quiet] * 5 + [loud]))
    assert before == [(1 << 24) // 28] * 5
    assert moved == pytest.approx(GROWTH_MAX * before[0], rel=2**-14)
    *_, down = changes(ONE_TENSOR, rounds_of(ONE_TENSOR, [quiet] * 5 + [-loud]))
    assert down == pytest.approx(-GROWTH_MAX * before[0], rel=2**-14)


def test_before_three_rounds_nothing_is_known_that_could_bound():
    for count in range(RECENT_MIN + 1):
        *_, moved = changes(ONE_TENSOR, rounds_of(ONE_TENSOR, [1] * count + [28]))
        assert (moved == 1 << 24) == (count < RECENT_MIN)


def test_the_bound_doubles_after_three_rounds_that_move_all_that_it_allows():
    moved = changes(ONE_TENSOR, rounds_of(ONE_TENSOR, [1] * RECENT + [28] * 7))
    unit = (1 << 24) // 28
    times = [round(each / unit) for each in moved[RECENT:]]
    assert times == [2, 2, 2, 4, 4, 4, 8]


def test_tiny_sums_do_not_starve_those_that_follow():
    """Six rounds of next to nothing, and an honest one is as large as before: the median of nine would be tiny by then."""
    moved = changes(ONE_TENSOR, rounds_of(ONE_TENSOR, [20] * RECENT + [1] * 6 + [20]))
    assert moved[-1] == moved[0]


def test_an_increment_is_scaled_and_not_cut_so_that_its_direction_stays():
    swarm = setting(tensors=[(4, 0)])
    rounds = rounds_of(swarm, [[1, 1, 1, 1]] * 4 + [[28, 14, -7, 0]])
    x = [fold_all(swarm.initial, rounds[:count], swarm.layout, swarm.manifest).x for count in (4, 5)]
    moved = (x[1] - x[0]).tolist()
    assert moved[0] == pytest.approx(2 * moved[1], rel=2**-12)
    assert moved[0] == pytest.approx(-4 * moved[2], rel=2**-12)
    assert moved[3] == 0
    assert sum(map(abs, moved)) == pytest.approx(GROWTH_MAX * 4 * ((1 << 24) // 28), rel=2**-12)


def test_each_tensor_is_bounded_by_itself_and_one_that_rested_is_not():
    swarm = setting(tensors=[(4, 0), (4, 0)])
    quiet = [[1] * 4 + [0] * 4] * 4
    rounds = rounds_of(swarm, [*quiet, [28] * 8])
    x = [fold_all(swarm.initial, rounds[:count], swarm.layout, swarm.manifest).x for count in (4, 5)]
    moved = (x[1] - x[0]).tolist()
    assert moved[4:] == [1 << 24] * 4
    assert moved[0] == pytest.approx(GROWTH_MAX * (1 << 24) // 28, rel=2**-12)


def test_a_change_of_the_schedules_step_size_is_no_growth():
    """Sizes are remembered as for the step size 256: twice the step is twice the change, and eight times its half."""
    swarm = setting(tensors=[(4, 0)], schedule=(Step(1, 32, 0), Step(6, 256, 0)))
    *_, before, after = changes(swarm, rounds_of(swarm, [4] * 6))
    assert after == pytest.approx(8 * before, rel=2**-10)


@pytest.mark.parametrize(("few", "share"), [(8, 1), (4, (2 / 3) ** 2)])
def test_a_round_of_few_counts_little_below_half_of_what_rounds_have(few, share):
    """A league of four in a swarm whose rounds have twelve: four ninths of the mean of its four, as (2 * 4 / 12)^2."""
    swarm = setting(tensors=[(4, 0)], n_max=4)
    rounds = rounds_of(swarm, [3] * 4 + [few // 4], sizes=[12] * 4 + [few])
    *before, moved = changes(swarm, rounds)
    assert {each // (1 << 10) for each in before} == {(3 << 24) // (7 * 12) >> 10}
    full = (1 << 24) * (few // 4) // (7 * few)
    assert moved == pytest.approx(share * full, rel=2**-10)


def test_a_league_that_fills_the_history_with_rounds_of_its_own_first_moves_little():
    """Four devices after honest rounds of twelve: whatever they sign, thirty rounds do not move twice as much as honest ones."""
    swarm = setting(tensors=[(4, 0)], n_max=4)
    moved = changes(swarm, rounds_of(swarm, [3] * 32 + [28] * 31, sizes=[12] * 32 + [4] * 31))
    honest, *league = moved[31:]
    assert max(league) <= GROWTH_MAX * honest


@SCHEDULES
@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_the_same_in_whatever_order_and_however_late_aggregates_come(schedule, seed):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm, 24, seed)
    dice = Dice("late", seed)
    _, in_time = filled(swarm, [each for pair in zip(chain, beside, strict=True) for each in pair])
    _, late = filled(swarm, [*chain, *dice.shuffled(beside)])
    _, mixed = filled(swarm, dice.shuffled([*chain, *beside]))
    for replica in (late, mixed):
        assert np.array_equal(replica.x, in_time.x)
        assert np.array_equal(replica.v, in_time.v)
        assert replica.state.recent == in_time.state.recent


# --- where the model is going ---------------------------------------------------------------------------------

SHARES = pytest.mark.parametrize("share", [0, 1, 77, 128, 255, 256, 512, 1024])


@pytest.fixture(scope="module")
def underway():
    """A replica with momentum, whose parameters go different ways, and the swarm."""
    swarm = setting(schedule=WITH_MOMENTUM, cap=1 << 24)
    chain, beside = long_history(swarm, 7)
    _, replica = filled(swarm, chain + beside[:3])
    assert (replica.v > 0).any()
    assert (replica.v < 0).any()
    return swarm, replica


@SHARES
def test_where_the_model_is_going_is_v_away_for_a_round_and_in_proportion_for_any_share_of_one(
    underway, share
):
    _, replica = underway
    foreseen = replica.foreseen(share)
    assert foreseen.dtype == np.float32
    for found, x, v in zip(foreseen, replica.x.tolist(), replica.v.tolist(), strict=True):
        exact = (x + Fraction(share * v, 256)) / 2**24
        assert found == np.float32(float(exact))  # which a float64 holds exactly


def test_one_round_on_it_is_x_and_v_added_up(underway):
    _, replica = underway
    assert replica.foreseen(256).tolist() == ((replica.x + replica.v) / 2**24).astype(np.float32).tolist()
    assert not np.array_equal(replica.foreseen(256), replica.model())
    assert not np.array_equal(replica.foreseen(256), replica.foreseen(255))


@SCHEDULES
def test_who_does_not_look_ahead_stands_at_the_model_itself(schedule):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm, 7)
    history, replica = swarm.history(), swarm.replica()
    assert np.array_equal(replica.foreseen(256), replica.model()), "nothing has moved it yet"
    for each in chain + beside:
        replica.apply(history.add(each).changes, history.round)
        assert replica.foreseen(0).tobytes() == replica.model().tobytes()


@SHARES
def test_without_momentum_nothing_is_foreseen(share):
    swarm = setting(cap=1 << 24)
    chain, beside = long_history(swarm, 7)
    _, replica = filled(swarm, chain + beside)
    assert replica.foreseen(share).tobytes() == replica.model().tobytes()
    assert replica.foreseen(share).dtype == np.float32


@SCHEDULES
@SHARES
def test_looking_ahead_moves_nothing(schedule, share):
    swarm = setting(schedule=schedule, cap=1 << 24)
    chain, beside = long_history(swarm, 7)
    history, replica = filled(swarm, chain)
    x, v = replica.x, replica.v
    before = x.tobytes(), v.tobytes(), replica.model().tobytes(), replica.sha256(), replica.round
    foreseen = replica.foreseen(share)
    with pytest.raises(ValueError, match="read-only"):
        foreseen[0] = 1.0
    after = x.tobytes(), v.tobytes(), replica.model().tobytes(), replica.sha256(), replica.round
    assert before == after
    assert (replica.x is x, replica.v is v) == (True, True)
    for each in beside:
        replica.apply(history.add(each).changes, history.round)
        replica.foreseen(share)
    assert is_fold_of(replica, swarm, history)


@pytest.mark.parametrize("momentum", [0, 64, 179, 230])
def test_in_a_steady_course_the_model_comes_to_stand_where_it_was_foreseen(momentum):
    swarm = setting(schedule=(Step(1, 256, momentum),), cap=1 << 30)
    if not momentum:  # in the schedule, as there would be no v else
        swarm = setting(schedule=(Step(1, 256, 0), Step(5000, 256, 64)))
    values = swarm.layout.values_in(np.arange(swarm.layout.blocks))
    same = unsigned(body(swarm, [], sums=Dice("steady").integers(-28, 29, values), weights=[4, 3]))
    replica = swarm.replica()
    for round_ in range(1, 201):
        x = replica.x
        replica.apply([Change(round_, (), (same,))], round_)
    assert np.array_equal(replica.x - x, replica.v), "steady"
    assert (replica.v != 0).sum() > len(replica.v) // 2
    now, next_, after_next = replica.model(), replica.foreseen(256), replica.foreseen(512)
    halfway = replica.foreseen(128).astype(np.float64)
    replica.apply([Change(201, (), (same,))], 201)
    assert np.array_equal(replica.model(), next_)
    assert not np.array_equal(now, next_)
    assert halfway == pytest.approx((now.astype(np.float64) + next_) / 2, rel=2**-22)
    replica.apply([Change(202, (), (same,))], 202)
    assert np.array_equal(replica.model(), after_next)


def test_what_comes_late_is_foreseen_as_if_it_had_come_in_time(underway):
    swarm, _ = underway
    chain, beside = long_history(swarm, 7)
    history, replica = filled(swarm, chain)
    before = replica.foreseen(256)
    replica.apply(history.add(beside[1]).changes, history.round)
    x, v, _, _ = reference(swarm, history)
    assert not np.array_equal(replica.foreseen(256), before)
    assert np.array_equal(replica.foreseen(256), ((x + v) / 2**24).astype(np.float32))


# --- what a replica keeps, and refuses ------------------------------------------------------------------------


def test_snapshots_thin_out_and_no_age_costs_more_than_eight_times_itself():
    swarm = setting(tensors=[(1, 0)], schedule=(Step(1, 256, 128),))
    replica = swarm.replica()
    for newest in range(1, 700):
        replica.apply([Change(newest, (), ())], newest)
        kept = sorted(replica._snapshots)
        powers_of_four = 1 + (newest.bit_length() - 1) // 2
        assert len(kept) <= 1 + 2 * powers_of_four
        for age in range(1, newest + 1):
            start = max(round_ for round_ in kept if round_ < newest - age + 1)
            assert newest - start <= 8 * age


def test_another_initial_model_than_the_manifests_is_refused():
    swarm = setting()
    for other in (swarm.initial + 1, swarm.initial[:-1]):
        with pytest.raises(ManifestError, match="initial model"):
            Replica(swarm.manifest, swarm.layout, other)
