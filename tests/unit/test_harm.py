"""What a device bears of a sum: no creeping, no jamming, and no refusal of what mends."""

import math

import numpy as np
import pytest

from gossip.fold import Recent
from gossip.harm import (
    HARM_MAX,
    LENIENCE,
    LOOKS,
    LOUD_MAX,
    OWN_LOUD,
    OWN_MAX,
    QUIET,
    RECOVERY,
    STUBBORN,
    Judgement,
    Loudness,
    loudness,
)


def as_large(times: float, own: float = 1.0) -> Loudness:
    """As usual, and as its own update."""
    return Loudness(times, own)


def test_creeping_by_many_small_steps_is_bounded_by_the_best_of_late():
    """Each step stays below the bound: a plain tolerance would take them all."""
    judgement, loss, taken = Judgement(), 1.0, 0
    for _ in range(LOOKS):
        after = loss + 0.9 * HARM_MAX
        if not judgement.of(loss, after, as_large(1.0)).reason:
            loss, taken = after, taken + 1
    assert taken == 1
    assert loss <= 1.0 + HARM_MAX


@pytest.mark.parametrize("step", [0.2, 0.5, 0.9, 1.0])
def test_in_so_many_looks_no_series_raises_the_loss_by_more_than_the_bound(step):
    judgement, loss, course = Judgement(), 1.0, [1.0]
    for _ in range(10 * LOOKS):
        after = loss + step * HARM_MAX
        if not judgement.of(loss, after, as_large(1.0)).reason:
            loss = after
        course.append(loss)
    for start in range(len(course) - LOOKS):
        window = course[start : start + LOOKS]
        assert window[-1] - min(window) <= HARM_MAX + 1e-9


def test_what_mends_is_not_refused_for_what_others_have_broken():
    judgement = Judgement()
    assert not judgement.of(0.5, 0.5, as_large(1.0)).reason
    assert not judgement.of(3.0, 2.9, as_large(1.0)).reason, (
        "far above the best of late, and better than it was"
    )
    assert judgement.of(3.0, 3.01, as_large(1.0)).reason


def test_whoever_became_worse_for_honest_reasons_refuses_for_so_many_looks_at_most():
    judgement = Judgement()
    judgement.of(0.5, 0.5, as_large(1.0))
    refusals = [bool(judgement.of(2.0, 2.05, as_large(1.0)).reason) for _ in range(2 * LOOKS)]
    assert refusals == [True] * (LOOKS - 1) + [True] + [False] * LOOKS


@pytest.mark.parametrize("after", [math.nan, math.inf])
def test_what_is_no_number_is_refused(after):
    assert Judgement().of(1.0, after, as_large(1.0)).reason


def test_each_refusal_of_a_loud_sum_makes_a_device_bear_more_and_it_comes_back_slowly():
    judgement, loud, refused = Judgement(), 10.0, 0
    while judgement.of(1.0, 1.0, as_large(loud)).reason:
        refused += 1
    assert refused == math.ceil(math.log(loud / LOUD_MAX) / math.log(LENIENCE)), "a swarm is not stopped"
    bearable = judgement.of(1.0, 1.0, as_large(1.0)).bearable
    assert bearable > LOUD_MAX
    assert judgement.of(1.0, 1.0, as_large(1.0)).bearable == pytest.approx(max(LOUD_MAX, bearable * RECOVERY))
    for _ in range(50):
        judgement.of(1.0, 1.0, as_large(1.0))
    assert judgement.of(1.0, 1.0, as_large(1.01 * LOUD_MAX)).reason


def test_quiet_sums_make_nobody_less_patient_than_at_first():
    judgement = Judgement()
    for _ in range(100):
        judgement.of(1.0, 1.0, as_large(0.0))
    assert not judgement.of(1.0, 1.0, as_large(LOUD_MAX)).reason


def test_a_member_that_is_loud_in_sum_after_sum_is_not_borne_for_that():
    """Seen: after three refusals a sum 4 times as large as usual was signed, and a third of the next ones."""
    judgement = Judgement()
    loud, quiet = as_large(4.0, own=1.01 * OWN_LOUD), as_large(LOUD_MAX, own=100.0)
    assert all(judgement.of(1.0, 1.0, loud).reason for _ in range(STUBBORN))
    assert not judgement.of(1.0, 1.0, quiet).reason, "what is usual is borne whatever its own is"
    assert all(judgement.of(1.0, 1.0, loud).reason for _ in range(STUBBORN))


def test_a_device_to_which_all_others_are_loud_gives_in_after_a_while():
    judgement, refused = Judgement(), 0
    while judgement.of(1.0, 1.0, as_large(4.0, own=100.0)).reason:
        refused += 1
    assert STUBBORN <= refused <= STUBBORN + 3, "by what it bears it gives in at once, or soon"


def test_after_forged_sums_that_were_tiny_honest_ones_are_refused_three_times_at_most():
    own, contributors = 1000.0, 16
    tiny = [Recent(contributors, (1,))] * 9
    judgement, refused = Judgement(), 0
    change = np.full(10, int(OWN_MAX * own / 10 / math.sqrt(contributors)))
    while judgement.of(1.0, 1.0, loudness(change, contributors, tiny, 256, own)).reason:
        refused += 1
    assert 0 < refused <= 3


def test_loudness_is_in_sizes_of_what_is_usual_and_of_this_devices_own_update():
    change = np.array([100, -100, 200])
    recent = [Recent(4, (50, 50)), Recent(4, (100, 100)), Recent(4, (500, 0))]
    assert loudness(change, 16, recent[:2], 256, 0.0) == QUIET
    assert loudness(change, 16, recent[:2], 256, 100.0) == (4.0, 16.0), "a mean is no larger than the largest"
    assert loudness(change, 16, recent[:2], 512, 100.0) == (2.0, 8.0)
    assert loudness(change, 16, recent, 256, 400.0) == (4 * 400 / (2 * 200), 4 * 400 / 400)
    assert loudness(change, 16, recent, 512, 400.0) == (4 * 200 / (2 * 200), 4 * 200 / 400)
    assert loudness(change, 16, recent, 256, 50.0) == (400 / 50, 4 * 400 / 50), (
        "however loud the last ones were"
    )
    assert loudness(change, 16, recent, 256, 1600.0) == (2.0, 1.0), "of half its own, at least"
    assert loudness(change, 16, recent, 256, 0.0).own == math.inf, "it gave nothing, and has nothing to go by"
