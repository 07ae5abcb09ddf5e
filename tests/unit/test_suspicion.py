"""Group testing by one device for itself: who spoils every sum is met rarely, and who was in bad company is soon back."""

import random

import pytest

from crypto.hashing import digest
from gossip.aggregate import ROUND_MAX
from gossip.suspicion import ABSENCES_FREE, DISTRUSTED_MAX, DOUBLINGS_MAX, KNOWN_MAX, Suspicion

SWARM = digest("swarm", b"suspicion")
ME, *OTHERS = (digest("device", bytes([i])) for i in range(20))
ADA, BOB, CHIDI, DUYGU = OTHERS[:4]


@pytest.fixture
def suspicion():
    return Suspicion(SWARM, ME)


def share_taken(suspicion, peer, rounds=2000):
    return sum(suspicion.takes(peer, round_, 1) for round_ in range(rounds)) / rounds


@pytest.mark.parametrize("refusals", range(DOUBLINGS_MAX + 3))
def test_each_refusal_in_a_row_halves_the_chance_down_to_a_bound(suspicion, refusals):
    for _ in range(refusals):
        suspicion.rejected([ME, ADA, BOB], [ME, ADA, BOB])
    expected = 2.0 ** -min(refusals, DOUBLINGS_MAX)
    assert share_taken(suspicion, ADA) == pytest.approx(expected, rel=0.35)
    assert share_taken(suspicion, CHIDI) == 1, "who was not there"
    assert suspicion.refused == refusals
    assert ME not in suspicion.doubted()


def test_a_draw_is_made_anew_for_each_cohort_of_a_round(suspicion):
    suspicion.rejected([ADA], [ADA])
    assert {suspicion.takes(ADA, 7, attempt) for attempt in range(30)} == {True, False}
    assert [suspicion.takes(ADA, 7, 3)] * 5 == [suspicion.takes(ADA, 7, 3) for _ in range(5)]


def test_a_sum_that_holds_clears_all_of_its_contributors_and_nobody_else(suspicion):
    for _ in range(4):
        suspicion.rejected(OTHERS[:4], OTHERS[:4])
    suspicion.held([ADA, BOB, CHIDI], [ADA, BOB])
    assert set(suspicion.doubted()) == {CHIDI, DUYGU}
    assert share_taken(suspicion, ADA) == 1


def test_absences_count_beyond_the_first_in_a_row(suspicion):
    for _ in range(ABSENCES_FREE):
        suspicion.held([ME, ADA, BOB], [BOB])
    assert ADA not in suspicion.doubted()
    suspicion.held([ME, ADA, BOB], [BOB])
    assert suspicion.doubted() == {ADA: 1}
    suspicion.rejected([ME, ADA, BOB], [BOB])
    assert suspicion.streak(ADA) == 2
    suspicion.held([ME, ADA, BOB], [ADA, BOB])
    assert suspicion.doubted() == {}


def test_who_spoils_every_sum_is_found_among_twenty_and_the_honest_are_not_shut_out(suspicion):
    """Cohorts drawn as a leader draws them: after a while the spoiler is in few, and the others in most."""
    dice, there = random.Random(1), dict.fromkeys(OTHERS, 0)
    for round_ in range(400):
        cohort = [peer for peer in dice.sample(OTHERS, 12) if suspicion.takes(peer, round_, 1)][:8]
        if round_ >= 100:
            for peer in cohort:
                there[peer] += 1
        (suspicion.rejected if ADA in cohort else suspicion.held)(cohort, cohort)
    honest = sorted(there[peer] for peer in OTHERS if peer != ADA)
    assert there[ADA] < honest[0] / 5
    assert honest[0] > 0.6 * honest[-1]


def test_an_aggregator_is_distrusted_twice_as_long_each_time_in_a_row(suspicion):
    for times, rounds in enumerate((2, 4, 8, 16, 32, 64, 64), 1):
        suspicion.offended(ADA, 100, certain=False)
        assert suspicion.distrusts(ADA, 100 + rounds - 1), times
        assert not suspicion.distrusts(ADA, 100 + rounds)
    suspicion.added_up(ADA)
    suspicion.offended(ADA, 1000, certain=False)
    assert not suspicion.distrusts(ADA, 1002), "a sum of its own that holds begins the row anew"


def test_one_of_two_that_showed_different_sums_is_distrusted_for_long_at_once(suspicion):
    suspicion.offended(ADA, 100, certain=True)
    assert suspicion.distrusts(ADA, 100 + DISTRUSTED_MAX - 1)
    suspicion.offended(ADA, 100, certain=False)
    assert suspicion.distrusts(ADA, 100 + DISTRUSTED_MAX - 1), "a lesser offence shortens nothing"


def test_a_forgery_that_was_seen_is_never_forgotten(suspicion):
    suspicion.forged(ADA)
    suspicion.added_up(ADA)
    suspicion.held([ADA], [ADA])
    assert suspicion.distrusts(ADA, ROUND_MAX)
    assert not suspicion.distrusts(BOB, 1)


def test_nobody_distrusts_itself(suspicion):
    suspicion.offended(ME, 1, certain=True)
    suspicion.rejected([ME], [ME])
    assert not suspicion.distrusts(ME, 1)
    assert suspicion.takes(ME, 1, 1)


def test_what_is_noted_is_bounded_and_the_oldest_goes(suspicion):
    suspicion.rejected([ADA], [ADA])
    for number in range(KNOWN_MAX):
        peer = digest("crowd", number.to_bytes(4, "big"))
        suspicion.rejected([peer], [peer])
    assert len(suspicion._records) == KNOWN_MAX
    assert suspicion.streak(ADA) == 0
