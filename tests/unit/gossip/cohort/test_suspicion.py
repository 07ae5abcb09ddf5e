"""Group testing by one device for itself: who spoils every sum is met rarely, and who was in bad company is soon back."""

import random
from collections import Counter
from itertools import product
from math import prod
from statistics import mean

import pytest

from crypto.hashing import digest
from gossip.body import ROUND_MAX
from gossip.cohort.suspicion import (
    ABSENCES_FREE,
    CHANCE,
    CLEAN,
    DISTRUSTED_MAX,
    DISTRUSTED_MIN,
    DOUBLINGS,
    DOUBLINGS_MAX,
    DOUBT_MAX,
    FALSE_ALARM,
    KNOWN_MAX,
    MISSED,
    PATIENCE,
    PRIOR,
    Suspicion,
)

SWARM = digest("swarm", b"suspicion")
ME, *OTHERS = (digest("device", bytes([i])) for i in range(20))
ADA, BOB, CHIDI = OTHERS[:3]


@pytest.fixture
def suspicion():
    return Suspicion(SWARM, ME)


def seeds(count=3000):
    return [number.to_bytes(4, "big") for number in range(count)]


def share_taken(suspicion, peer, others=OTHERS[8:16], least=8):
    """Into cohorts that have enough without it."""
    return mean(peer in suspicion.choose([ME, peer, *others], least, 16, seed) for seed in seeds())


def test_each_refusal_doubts_all_contributors_more_and_nobody_else(suspicion):
    doubts = [suspicion.doubt(ADA)]
    for count in range(1, 6):
        suspicion.rejected([ME, ADA, BOB], [ME, ADA, BOB, CHIDI], ME)
        doubts.append(suspicion.doubt(ADA))
        assert suspicion.refused == count
    assert doubts == sorted(set(doubts))
    assert suspicion.doubt(BOB) == doubts[-1]
    assert suspicion.doubt(CHIDI) == PRIOR, "who was not in it"
    assert suspicion.doubt(ME) == 0
    assert set(suspicion.doubted()) == {ADA, BOB}


def test_doubts_follow_from_bayes_rule():
    """By counting all that can be: who of three is bad, and what then comes of the sum."""
    for came in ("held", "rejected"):
        suspicion = Suspicion(SWARM, ME)
        for peer, times in ((ADA, 2), (BOB, 1)):
            for _ in range(times):
                suspicion.rejected([peer])
        before = [suspicion.doubt(peer) for peer in (ADA, BOB, CHIDI)]
        total, spoils = 0.0, [0.0, 0.0, 0.0]
        for bad in product((False, True), repeat=3):
            chance = prod(p if is_bad else 1 - p for p, is_bad in zip(before, bad, strict=True))
            refused = 1 - MISSED if any(bad) else FALSE_ALARM
            chance *= refused if came == "rejected" else 1 - refused
            total += chance
            spoils = [sum_ + chance * is_bad for sum_, is_bad in zip(spoils, bad, strict=True)]
        getattr(suspicion, came)([ME, ADA, BOB, CHIDI], [ME, ADA, BOB, CHIDI])
        told = [suspicion.doubt(peer) for peer in (ADA, BOB, CHIDI)]
        assert told == pytest.approx([max(PRIOR, each / total) for each in spoils])


def test_whoever_is_doubted_is_taken_with_a_small_chance_and_never_shut_out(suspicion):
    for _ in range(50):
        suspicion.rejected([ADA])
    assert suspicion.doubt(ADA) <= DOUBT_MAX
    assert share_taken(suspicion, ADA) == pytest.approx(CHANCE, rel=0.4)
    assert share_taken(suspicion, BOB) == 1


def test_a_draw_is_made_anew_for_each_cohort_and_is_the_same_for_the_same(suspicion):
    for _ in range(9):
        suspicion.rejected([ADA])
    drawn = [ADA in suspicion.choose([ADA, *OTHERS[8:16]], 8, 16, seed) for seed in seeds()]
    assert set(drawn) == {True, False}
    assert drawn == [ADA in suspicion.choose([ADA, *OTHERS[8:16]], 8, 16, seed) for seed in seeds()]


def test_after_a_sum_or_two_that_hold_whoever_was_in_bad_company_is_back(suspicion):
    for _ in range(2):
        suspicion.rejected(OTHERS[:8])
    assert suspicion.doubt(ADA) > 0.05
    for _ in range(2):
        suspicion.held([ADA, BOB], OTHERS[:4], ME)
    assert suspicion.doubt(ADA) < 0.02 < suspicion.doubt(CHIDI)
    for _ in range(2):
        suspicion.held([ADA])
    assert suspicion.doubt(ADA) == PRIOR


def test_a_cohort_is_clean_with_a_good_chance_or_as_small_as_may_be(suspicion):
    for _ in range(2):
        suspicion.rejected(OTHERS[:12])
    for least in (4, 8, 12):
        chosen = suspicion.choose([ME, *OTHERS], least, 16, b"")
        clean = prod(1 - suspicion.doubt(peer) for peer in chosen[1:])
        assert len(chosen) >= least
        assert clean >= CLEAN or len(chosen) == least, "but for the first, which is tested"
    assert len(suspicion.choose([ME, *OTHERS], 4, 6, b"")) == 6


def test_among_equals_who_comes_first_is_taken_first(suspicion):
    assert suspicion.choose(OTHERS, 3, 5, b"") == OTHERS[:5]
    suspicion.rejected([ADA])
    for _ in range(5):
        suspicion.held([ADA])
    assert suspicion.choose(OTHERS[::-1], 3, 5, b"") == OTHERS[:-6:-1], (
        "who was cleared is no better than the unknown"
    )


def test_absences_count_beyond_the_first_in_a_row(suspicion):
    for _ in range(ABSENCES_FREE):
        suspicion.held([BOB], [ME, ADA, BOB], ME)
    assert share_taken(suspicion, ADA) == 1
    for absences in range(1, DOUBLINGS_MAX + 3):
        (suspicion.held if absences % 2 else suspicion.rejected)([ME], [ME, ADA], ME)
        expected = 2.0 ** -min(DOUBLINGS * absences, DOUBLINGS_MAX)
        assert share_taken(suspicion, ADA) == pytest.approx(expected, rel=0.4)
    assert suspicion.distrusts(ADA, 1), "a silent leader costs a cohort twice as much"
    assert suspicion.doubt(ADA) == PRIOR, "whoever was not there spoilt nothing"
    suspicion.held([ADA, BOB], [ME, ADA, BOB], ME)
    assert share_taken(suspicion, ADA) == 1
    assert not suspicion.distrusts(ADA, 1)


def test_an_aggregator_alone_makes_nobody_look_absent(suspicion):
    """It may leave out whom it likes, again and again: one absence, until the device contributes again."""
    for _ in range(20):
        suspicion.held([ME, BOB], [ME, ADA, BOB, CHIDI], CHIDI)
    assert share_taken(suspicion, ADA) == 1
    assert not suspicion.distrusts(ADA, 1)
    suspicion.held([ME, BOB], [ME, ADA, BOB, CHIDI], BOB)
    assert share_taken(suspicion, ADA) < 0.5, "two have missed it"
    suspicion.held([ADA])
    for _ in range(20):
        suspicion.rejected([ME, BOB], [ME, ADA, BOB, CHIDI], CHIDI)
    assert not suspicion.distrusts(ADA, 1), "and again one alone"


@pytest.mark.parametrize(("bad", "refused_max", "there_max"), [(1, 8, 4), (2, 20, 8), (4, 60, 16)])
def test_who_spoils_sums_is_found_among_twenty_and_the_honest_are_not_shut_out(bad, refused_max, there_max):
    """Sums with one of them are refused nine times of ten, and clean ones once in fifty."""
    refusals, spoilt, seats = [], [], []
    for seed in range(12):
        suspicion, dice = Suspicion(SWARM, ME), random.Random(seed)
        crowd, bads = [ME, *OTHERS], set(dice.sample(OTHERS, bad))
        refused = held = bad_held = 0
        there = Counter()
        while held < 60:
            cohort = suspicion.choose(dice.sample(crowd, 20), 8, 16, (refused + held).to_bytes(4, "big"))
            is_bad = not bads.isdisjoint(cohort)
            if dice.random() < (0.9 if is_bad else 0.02):
                refused += 1
                suspicion.rejected(cohort)
            else:
                held += 1
                bad_held += is_bad
                suspicion.held(cohort)
                there.update(cohort)
        refusals.append(refused)
        spoilt.append(bad_held)
        seats.append(min(there[peer] for peer in OTHERS if peer not in bads))
    assert mean(refusals) < refused_max
    assert mean(spoilt) < there_max / 4
    assert mean(seats) > 60 / 10


def test_in_the_long_run_who_spoils_every_sum_is_in_few_and_the_honest_share_the_places(suspicion):
    dice, there = random.Random(1), dict.fromkeys(OTHERS, 0)
    for number in range(400):
        cohort = suspicion.choose(dice.sample(OTHERS, 12), 4, 8, number.to_bytes(4, "big"))
        if number >= 100:
            for peer in cohort:
                there[peer] += 1
        (suspicion.rejected if ADA in cohort else suspicion.held)(cohort)
    honest = sorted(there[peer] for peer in OTHERS if peer != ADA)
    assert there[ADA] < honest[0] / 5
    assert honest[0] > 0.6 * honest[-1]


def test_a_cohort_that_came_to_nothing_is_a_small_doubt_of_each_member_and_many_are_a_large_one(suspicion):
    suspicion.failed([ME, ADA, BOB])
    assert PRIOR < suspicion.doubt(ADA) < 3 * PRIOR
    assert suspicion.refused == 0
    for _ in range(12):
        suspicion.failed([ME, ADA, BOB])
        suspicion.held([ME, BOB, CHIDI])
    assert suspicion.is_hopeless(ADA)
    assert suspicion.doubt(BOB) < 0.1


def test_the_hopeless_are_waited_for_by_nobody_and_lead_nobody(suspicion):
    for _ in range(12):
        suspicion.rejected([ADA])
    assert suspicion.is_hopeless(ADA)
    seed = next(each for each in seeds() if ADA not in suspicion.choose([ADA, *OTHERS[8:16]], 8, 16, each))
    assert suspicion.choose([ME, ADA, BOB], 3, 16, seed) == [ME, BOB], "better none than with it"
    assert set(suspicion.choose([ME, ADA, BOB], 3, 16, seed, desperate=True)) == {ME, ADA, BOB}
    assert not suspicion.declines(ADA, 100)
    suspicion.offended(ADA, 100, certain=False)
    assert suspicion.declines(ADA, 100)


def test_an_aggregator_is_distrusted_twice_as_long_each_time_in_a_row(suspicion):
    for times, rounds in enumerate((8, 16, 32, 64, 64), 1):
        suspicion.offended(ADA, 100, certain=False)
        assert suspicion.distrusts(ADA, 100 + rounds - 1), times
        assert not suspicion.distrusts(ADA, 100 + rounds)
    suspicion.added_up(ADA)
    suspicion.offended(ADA, 1000, certain=False)
    assert not suspicion.distrusts(ADA, 1008), "a sum of its own that holds begins the row anew"


def test_one_of_two_that_showed_different_sums_is_distrusted_for_long_at_once(suspicion):
    suspicion.offended(ADA, 100, certain=True)
    assert suspicion.distrusts(ADA, 100 + DISTRUSTED_MAX - 1)
    suspicion.offended(ADA, 100, certain=False)
    assert suspicion.distrusts(ADA, 100 + DISTRUSTED_MAX - 1), "a lesser offence shortens nothing"


def test_a_forgery_that_was_seen_is_never_forgotten(suspicion):
    suspicion.forged(ADA)
    suspicion.added_up(ADA)
    suspicion.held([ADA])
    assert suspicion.distrusts(ADA, ROUND_MAX)
    assert not suspicion.distrusts(BOB, 1)


def test_whoever_leads_in_vain_goes_on_for_a_while_and_a_bad_leader_for_no_longer(suspicion):
    for _ in range(PATIENCE - 1):
        suspicion.led_in_vain(ADA, 100)
    assert not suspicion.distrusts(ADA, 100)
    suspicion.led_in_vain(ADA, 100)
    assert suspicion.distrusts(ADA, 101)
    suspicion.led_in_vain(ADA, 100)
    assert suspicion.distrusts(ADA, 100 + 2 * DISTRUSTED_MIN - 1), "and then longer each time"
    suspicion.added_up(ADA)
    suspicion.led_in_vain(ADA, 200)
    assert not suspicion.distrusts(ADA, 200)


def test_one_of_those_who_did_not_take_a_forgery_back_has_made_it(suspicion):
    suspicion.blamed([ADA, BOB], 100)
    for peer in (ADA, BOB):
        assert suspicion.distrusts(peer, 100 + DISTRUSTED_MAX - 1)
        assert not suspicion.distrusts(peer, 100 + DISTRUSTED_MAX)
        assert not suspicion.declines(peer, 100), "it may be honest, and was late"
        assert not suspicion.is_forger(peer)


def test_nobody_distrusts_itself(suspicion):
    suspicion.offended(ME, 1, certain=True)
    suspicion.led_in_vain(ME, 1)
    suspicion.blamed([ME], 1)
    suspicion.rejected([ME])
    assert not suspicion.distrusts(ME, 1)
    assert suspicion.doubt(ME) == 0


def test_what_is_noted_is_bounded_and_the_oldest_goes(suspicion):
    suspicion.rejected([ADA])
    for number in range(KNOWN_MAX):
        peer = digest("crowd", number.to_bytes(4, "big"))
        suspicion.rejected([peer])
    assert len(suspicion._records) == KNOWN_MAX
    assert suspicion.doubt(ADA) == PRIOR
