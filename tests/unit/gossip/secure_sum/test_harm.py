"""What a device bears of a sum: no creeping, no jamming, and no refusal of what mends."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.secure_sum.harm import HARM_MAX, LOOKS, PART_MIN, STUBBORN, UNKNOWN, Judgement, part_in

PARAMETERS = 4000
STEP = 256  # E, so that a sum's increment is its mean
GIVEN = 1 << 20  # of one update's values
UNLIKE = PART_MIN - 0.01


def test_creeping_by_many_small_steps_is_bounded_by_the_best_of_late():
    """Each step stays below the bound: a plain tolerance would take them all."""
    judgement, loss, taken = Judgement(), 1.0, 0
    for _ in range(LOOKS):
        after = loss + 0.9 * HARM_MAX
        if not judgement.of(loss, after, UNKNOWN).reason:
            loss, taken = after, taken + 1
    assert taken == 1
    assert loss <= 1.0 + HARM_MAX


@pytest.mark.parametrize("step", [0.2, 0.5, 0.9, 1.0])
def test_in_so_many_looks_no_series_raises_the_loss_by_more_than_the_bound(step):
    judgement, loss, course = Judgement(), 1.0, [1.0]
    for _ in range(10 * LOOKS):
        after = loss + step * HARM_MAX
        if not judgement.of(loss, after, UNKNOWN).reason:
            loss = after
        course.append(loss)
    for start in range(len(course) - LOOKS):
        window = course[start : start + LOOKS]
        assert window[-1] - min(window) <= HARM_MAX + 1e-9


def test_what_mends_is_not_refused_for_what_others_have_broken():
    judgement = Judgement()
    assert not judgement.of(0.5, 0.5, UNKNOWN).reason
    assert not judgement.of(3.0, 2.9, UNKNOWN).reason, "far above the best of late, and better than it was"
    assert judgement.of(3.0, 3.01, UNKNOWN).reason


def test_whoever_became_worse_for_honest_reasons_refuses_for_so_many_looks_at_most():
    judgement = Judgement()
    judgement.of(0.5, 0.5, UNKNOWN)
    refusals = [bool(judgement.of(2.0, 2.05, UNKNOWN).reason) for _ in range(2 * LOOKS)]
    assert refusals == [True] * (LOOKS - 1) + [True] + [False] * LOOKS


@pytest.mark.parametrize("after", [math.nan, math.inf])
def test_what_is_no_number_is_refused(after):
    assert Judgement().of(1.0, after, UNKNOWN).reason


def updates(count: int, seed: int = 1) -> np.ndarray:
    """As large as each other, and without a direction in common."""
    return np.random.default_rng(seed).choice([-GIVEN, GIVEN], (count, PARAMETERS))


def by_chance(members: int, parameters: int = PARAMETERS) -> float:
    return math.sqrt(members / parameters)


def parts(sum_: np.ndarray, gave: np.ndarray) -> list[float]:
    """Of those that gave these, in a sum of as many."""
    return [part_in(sum_ // len(gave), own, len(gave), STEP) - by_chance(len(gave)) for own in gave]


def refuses(part: float) -> bool:
    return bool(Judgement().of(1.0, 1.0, part).reason)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 16), st.integers(0, 1 << 30))
def test_the_parts_of_all_contributors_have_a_mean_of_one_whatever_they_gave(members, seed):
    dice = np.random.default_rng(seed)
    gave = (dice.normal(size=(members, PARAMETERS)) * dice.exponential(GIVEN, (members, 1))).astype(np.int64)
    assert np.mean(parts(gave.sum(0), gave)) == pytest.approx(1, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 16), st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1 << 30))
def test_what_is_signed_lies_in_a_ball_of_what_its_honest_signers_gave(honest, loud, along, seed):
    """The theorem of `gossip.secure_sum.harm`, for sums that anybody made up."""
    dice = np.random.default_rng(seed)
    gave = dice.normal(size=(honest, 16)) * GIVEN
    true = gave.mean(0)
    sum_ = (along * true + loud * np.linalg.norm(true) * dice.normal(size=16) / 4).astype(np.int64)
    signers = [
        own
        for own in gave
        if not refuses(part_in(sum_, own.astype(np.int64), 1, STEP) - by_chance(1, len(sum_)))
    ]
    if signers:
        mean = np.mean(signers, axis=0)
        radius = np.linalg.norm(mean) / (2 * PART_MIN)
        assert np.linalg.norm(sum_ - mean / (2 * PART_MIN)) <= radius * 1.001 + len(sum_)


@pytest.mark.parametrize("members", [4, 8, 16])
def test_a_loud_member_is_seen_by_all_others(members):
    """Q times as long as all others together: it leaves them parts of 1 / (1 + q^2)."""
    gave = updates(members)
    gave[-1] *= round(3 * math.sqrt(members))
    for part in parts(gave.sum(0), gave)[:-1]:
        assert part == pytest.approx(0.1, abs=0.1)
        assert refuses(part)


def test_a_sum_that_was_turned_round_invented_emptied_or_blown_up_is_seen_by_everybody():
    gave = updates(8)
    true = gave.sum(0)
    for forged in (-true, 3 * updates(1, seed=2)[0], 0 * true, 4 * true):
        assert all(map(refuses, parts(forged, gave)))
    assert not any(map(refuses, parts(true, gave)))


def test_who_gave_nothing_has_nothing_to_go_by():
    mean = updates(8).sum(0) // 8
    assert part_in(mean, None, 8, STEP) == UNKNOWN
    assert part_in(mean, np.zeros(PARAMETERS, np.int64), 8, STEP) == UNKNOWN
    assert not refuses(UNKNOWN)


def test_the_size_of_a_step_changes_nothing():
    gave = updates(8)
    mean = gave.sum(0) // 8
    assert part_in(mean // 2, gave[0], 8, STEP // 2) == pytest.approx(
        part_in(mean, gave[0], 8, STEP), rel=1e-3
    )


def test_a_device_that_is_unlike_all_others_gives_in_after_a_while_until_it_is_like_them():
    judgement, refused = Judgement(), 0
    while judgement.of(1.0, 1.0, UNLIKE).reason:
        refused += 1
    assert refused == STUBBORN
    assert not judgement.of(1.0, 1.0, UNLIKE).reason, "and again"
    assert judgement.of(1.0, 2.0, UNLIKE).reason, "but not to harm"
    assert not judgement.of(1.0, 1.0, 1.0).reason
    assert judgement.of(1.0, 1.0, UNLIKE).reason


def test_what_chance_takes_from_a_part_is_forgiven():
    """Unrelated updates of 16 parameters: of honest sums of eight nearly none is refused, by hardly anybody."""
    dice = np.random.default_rng(5)
    gave = (dice.normal(size=(500, 8, 16)) * GIVEN).astype(np.int64)
    told = [refuses(part_in(each.sum(0) // 8, own, 8, STEP)) for each in gave for own in each]
    assert np.mean(told) < 0.05
