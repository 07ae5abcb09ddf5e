"""What a device bears of a sum: no creeping, no jamming, and no refusal of what mends."""

import math

import pytest

from gossip.harm import HARM_MAX, LENIENCE, LOOKS, LOUD_MAX, RECOVERY, Judgement


def test_creeping_by_many_small_steps_is_bounded_by_the_best_of_late():
    """Each step stays below the bound: a plain tolerance would take them all."""
    judgement, loss, taken = Judgement(), 1.0, 0
    for _ in range(LOOKS):
        after = loss + 0.9 * HARM_MAX
        if not judgement.of(loss, after, 1.0).reason:
            loss, taken = after, taken + 1
    assert taken == 1
    assert loss <= 1.0 + HARM_MAX


@pytest.mark.parametrize("step", [0.2, 0.5, 0.9, 1.0])
def test_in_so_many_looks_no_series_raises_the_loss_by_more_than_the_bound(step):
    judgement, loss, course = Judgement(), 1.0, [1.0]
    for _ in range(10 * LOOKS):
        after = loss + step * HARM_MAX
        if not judgement.of(loss, after, 1.0).reason:
            loss = after
        course.append(loss)
    for start in range(len(course) - LOOKS):
        window = course[start : start + LOOKS]
        assert window[-1] - min(window) <= HARM_MAX + 1e-9


def test_what_mends_is_not_refused_for_what_others_have_broken():
    judgement = Judgement()
    assert not judgement.of(0.5, 0.5, 1.0).reason
    assert not judgement.of(3.0, 2.9, 1.0).reason, "far above the best of late, and better than it was"
    assert judgement.of(3.0, 3.01, 1.0).reason


def test_whoever_became_worse_for_honest_reasons_refuses_for_so_many_looks_at_most():
    judgement = Judgement()
    judgement.of(0.5, 0.5, 1.0)
    refusals = [bool(judgement.of(2.0, 2.05, 1.0).reason) for _ in range(2 * LOOKS)]
    assert refusals == [True] * (LOOKS - 1) + [True] + [False] * LOOKS


@pytest.mark.parametrize("after", [math.nan, math.inf])
def test_what_is_no_number_is_refused(after):
    assert Judgement().of(1.0, after, 1.0).reason


def test_each_refusal_of_a_loud_sum_makes_a_device_bear_more_and_it_comes_back_slowly():
    judgement, loud, refused = Judgement(), 10.0, 0
    while judgement.of(1.0, 1.0, loud).reason:
        refused += 1
    assert refused == math.ceil(math.log(loud / LOUD_MAX) / math.log(LENIENCE)), "a swarm is not stopped"
    bearable = judgement.of(1.0, 1.0, 1.0).bearable
    assert bearable > LOUD_MAX
    assert judgement.of(1.0, 1.0, 1.0).bearable == pytest.approx(max(LOUD_MAX, bearable * RECOVERY))
    for _ in range(50):
        judgement.of(1.0, 1.0, 1.0)
    assert judgement.of(1.0, 1.0, 1.01 * LOUD_MAX).reason


def test_quiet_sums_make_nobody_less_patient_than_at_first():
    judgement = Judgement()
    for _ in range(100):
        judgement.of(1.0, 1.0, 0.0)
    assert not judgement.of(1.0, 1.0, LOUD_MAX).reason
