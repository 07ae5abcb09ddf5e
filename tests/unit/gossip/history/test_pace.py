"""A history grows no faster than rounds can be made; whoever was away, or has just come, is not held up."""

import pytest

from gossip.history.pace import BURST, LEAST_GATHERS, THIN_BURST, Pace, whole_sum_s
from gossip.manifest import Cohorts

GATHER_S = 2.0
EARNED_S = LEAST_GATHERS * GATHER_S  # for one round
COHORTS = Cohorts(3, 8, int(GATHER_S * 1000), 1000)


@pytest.fixture
def pace():
    made = Pace(COHORTS)
    made.caught_up(0.0)
    return made


def taken(pace, seconds, *, start=0.0, every=0.01, thin=False):
    """How many rounds come in when somebody offers one more all the time."""
    count, now = 0, start
    while now < start + seconds:
        if pace.allows(1, now, thin=thin):
            pace.grew(1, now, thin=thin)
            count += 1
        else:
            now += every
    return count


def test_a_newcomer_takes_in_whatever_there_is_until_it_has_once_caught_up():
    pace = Pace(COHORTS)
    assert pace.allows(100_000, 0.0)
    pace.grew(100_000, 0.0)
    pace.caught_up(1.0)
    assert pace.allows(BURST, 1.0)
    assert not pace.allows(BURST + 1, 1.0)


def test_a_league_makes_one_burst_and_then_as_many_rounds_as_time_earns(pace):
    """Seen: 200 rounds in 2 s."""
    minutes = 5
    most = BURST + 60 * minutes / EARNED_S
    assert most - 2 <= taken(pace, 60 * minutes) <= most + 1


def test_a_thin_league_makes_a_round_in_the_time_of_a_whole_sum(pace):
    minutes = 5
    most = THIN_BURST + 60 * minutes / whole_sum_s(COHORTS)
    assert most - 2 <= taken(pace, 60 * minutes, thin=True) <= most + 1


def test_thin_rounds_take_a_token_of_all_and_others_none_of_the_thin_ones(pace):
    pace.grew(BURST, 0.0)
    assert not pace.allows(1, 0.0, thin=True), "there is none left of all"
    assert pace.allows(THIN_BURST, BURST * EARNED_S, thin=True)
    pace.grew(THIN_BURST, BURST * EARNED_S, thin=True)
    assert not pace.allows(1, BURST * EARNED_S, thin=True)
    assert pace.allows(BURST - THIN_BURST, BURST * EARNED_S)
    assert not pace.allows(BURST - THIN_BURST + 1, BURST * EARNED_S)


def test_honest_rounds_which_take_two_gathering_times_are_never_held_up(pace):
    for round_ in range(1, 500):
        now = round_ * 2 * GATHER_S
        assert pace.allows(1, now)
        pace.grew(1, now)


def test_a_bag_that_fills_at_once_makes_rounds_twice_as_fast_as_gathering_and_they_all_come_in(pace):
    for round_ in range(1, 2000):
        assert pace.allows(1, round_ * GATHER_S / 2)
        pace.grew(1, round_ * GATHER_S / 2)


def test_who_was_away_may_take_in_as_many_rounds_as_it_was_away_for(pace):
    taken(pace, 60)
    away = 5000 * EARNED_S
    assert pace.allows(4990, 60 + away)
    assert not pace.allows(5010, 60 + away)


def test_what_waited_for_its_parents_may_come_in_all_the_same_and_is_a_debt(pace):
    pace.grew(BURST + 10, 0.0)
    assert not pace.allows(1, 10 * EARNED_S)
    assert pace.allows(1, 11.1 * EARNED_S)


def test_earlier_rounds_cost_nothing(pace):
    assert taken(pace, 0.1) == BURST
    assert pace.allows(0, 0.1)
    pace.grew(0, 0.1)
    pace.grew(-3, 0.1)
    assert not pace.allows(1, 0.1 + EARNED_S / 2)
    assert pace.allows(1, 0.2 + EARNED_S)


def test_a_clock_that_goes_back_earns_nothing(pace):
    taken(pace, 1.0)
    assert not pace.allows(1, -1000.0)


def test_who_begins_anew_is_not_bound(pace):
    taken(pace, 60)
    pace.unbind()
    assert pace.allows(10_000, 60.0)
