"""Whom the lottery draws, and whom everybody looks for to lead where nobody knows all."""

from types import SimpleNamespace

import pytest
from msgspec import structs

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.cohort.sortition import (
    FILLED,
    GATHERING_ROUNDS,
    LOTTERY_ROUNDS,
    ONE,
    ROBUST_MIN,
    Turns,
    places,
    ranking,
    share,
    whole_sum_s,
    wins,
)
from gossip.history.sync import GUIDES
from gossip.manifest import Cohorts, found
from tests.simulation.harness import tiny_swarm

FOUNDER = Identity(digest("founder"))
ME = digest("contributor", b"me")
COHORTS = Cohorts(3, 4, 500, 1000, sums=1)
SWARM = found(structs.replace(tiny_swarm(FOUNDER, [FOUNDER.public_key]).manifest, cohorts=COHORTS), FOUNDER)
MEMBERS = 40

PLACES, AIMED = 32, 24  # in two sums of sixteen, and of them the three quarters that the lottery aims at


def test_the_lottery_leaves_a_small_swarm_as_it_is():
    assert share(128, 128, (500,) * 10, 0) == ONE
    assert share(128, 129, (), 0) < ONE


def test_the_lottery_starts_at_what_fills_the_sums_and_follows_the_rounds():
    start = share(PLACES, 10_000, (), 0)
    assert start == ONE * PLACES // 10_000
    assert share(PLACES, 10_000, (AIMED,) * 3, 0) == start, "as many as aimed at"
    assert share(PLACES, 10_000, (4 * AIMED,), 0) == start // 2
    assert share(PLACES, 10_000, (36,), 0) == pytest.approx(start * (2 / 3) ** 0.5)
    assert share(PLACES, 10_000, (PLACES, AIMED), 0) < start, "full cohorts turn others away"
    assert share(PLACES, 10_000, (12, AIMED), 0) == pytest.approx(start * 2**0.5)
    assert share(PLACES, 10_000, (12,), 0) == start, "more of the last round may still be to come"
    assert share(PLACES, 10_000, (9000,), 0) == start // 2, "a round changes it twofold at most"
    assert share(PLACES, 10_000, (0, AIMED), 0) == 2 * start, "also upwards"
    assert share(PLACES, 10_000, (), 3) == 8 * start, "and so does each waiting time"
    assert share(1, 10_000, (1, 1), 0) == share(1, 10_000, (), 0), "a place at least is aimed at"


@pytest.mark.parametrize(
    ("n_max", "sums", "expected"), [(4, 1, 6), (8, 1, 11), (8, 3, 32), (10, 1, 11), (11, 1, 11), (16, 2, 32)]
)
def test_the_lottery_fills_at_least_what_a_cohort_needs(n_max, sums, expected):
    """Seen: cohorts of at most eight need eight, and six were aimed at: 10 rounds where there had been 97."""
    cohorts = Cohorts(3, n_max, 500, 1000, sums=sums)
    assert places(cohorts) == expected
    assert FILLED * expected >= sums * min(ROBUST_MIN, n_max)


def test_the_lottery_has_bounds_whatever_the_history_is():
    for counts in ((1,) * 1000, (1 << 20,) * 1000, (0,) * 5):
        for waited in (0, 1, 1000):
            for members in (0, 1, 1 << 20):
                assert 1 <= share(PLACES, members, counts, waited) <= ONE
    tail = (9, 60, 30) * LOTTERY_ROUNDS
    assert share(PLACES, 5000, tail, 0) == share(PLACES, 5000, tail[-LOTTERY_ROUNDS:], 0)


def test_about_as_many_win_as_the_share_says_and_others_in_each_round():
    peers = [digest("lottery", number.to_bytes(4, "big")) for number in range(4000)]
    p = share(PLACES, len(peers), (), 0)
    winners = [[peer for peer in peers if wins(SWARM.id, round_, peer, p)] for round_ in range(5)]
    assert all(10 < len(each) < 64 for each in winners)
    assert winners[0] != winners[1]
    assert all(wins(SWARM.id, 1, peer, ONE) for peer in peers)


# --- one device's turns ---------------------------------------------------------------------------------------


def named(name: str) -> bytes:
    return digest("contributor", name.encode())


EIGHT = tuple(map(named, "abcdefgh"))


def turns(rounds: list[str], near: str = "abcdefgh", **membership: object) -> Turns:
    """Of a device that knows a part of its swarm, where each round has one sum of these contributors."""
    sums = [[SimpleNamespace(contributors=[*map(named, names)])] if names else [] for names in rounds]
    history = SimpleNamespace(
        round=len(rounds),
        counted=lambda round_: sums[round_ - 1] if round_ else [],
        counts=lambda *_, **__: [],
    )
    within = {SWARM.manifest.founder, *map(named, near)}
    known = {
        "sees_all": False,
        "reachable": within.__contains__,
        "is_hub": lambda _: False,
        "size": lambda: MEMBERS,
    }
    return Turns(SWARM, ME, SimpleNamespace(**known | membership), lambda: history)


@pytest.mark.parametrize(
    ("rounds", "leads"),
    [
        ([], None),
        (["ab"], "ab"),
        (["ab", "cd"], "ab"),
        (["ab", "cd", "ef"], "cd"),
        (["ab", "cd", "ef", "gh"], "ef"),
        (["ab", "", "ef"], "ef"),
    ],
)
def test_all_ask_those_of_the_round_before_the_last(rounds, leads):
    assert turns(rounds).candidates() == sorted(map(named, leads) if leads else [SWARM.manifest.founder])


def test_of_those_the_ones_are_asked_that_can_be_reached():
    assert turns(["ab", "cd", "ef"], near="defg").candidates() == [named("d")]


def test_a_device_is_a_candidate_itself_though_it_has_no_connection_to_itself():
    device = turns(["", "", ""])
    device._history().counted = lambda _: [SimpleNamespace(contributors=[ME])]
    assert device.candidates() == [ME]


def test_where_all_know_all_there_are_no_candidates_but_the_living():
    assert turns(["ab", "cd", "ef"], sees_all=True).candidates() == []


@pytest.mark.parametrize(
    ("of_round", "newest", "leads"), [(1, 1, 2), (1, 2, 3), (2, 2, 4), (2, 3, 4), (3, 3, 5)]
)
def test_the_guides_of_a_sum_are_the_first_whom_all_will_ask(of_round, newest, leads):
    device = turns(["ab"] * newest)
    guides = device.guides(of_round, EIGHT)
    assert list(guides) == ranking(SWARM.id, leads, EIGHT)[:GUIDES]
    assert set(guides) <= set(device.all_guides(of_round, EIGHT))
    device = turns(["ab"] * (leads - 1))
    device._history().counted = lambda of: [SimpleNamespace(contributors=EIGHT)] if of == of_round else []
    assert set(guides) <= set(device.candidates()), "and in that round they are asked"


def test_hubs_guide_before_others():
    assert turns(["ab"] * 3, is_hub=EIGHT[-1:].__contains__).guides(3, EIGHT)[0] == EIGHT[-1]


def test_the_first_rounds_do_not_move_the_lottery():
    device, told = turns([]), []

    def counts(rounds: int, since: int) -> list[int]:
        told.append((rounds, since))
        return []

    device._history().counts = counts
    assert device._share(0) == share(places(COHORTS), MEMBERS, (), 0)
    assert told == [(LOTTERY_ROUNDS, GATHERING_ROUNDS + 1)]


def test_there_is_a_lottery_where_a_round_has_no_place_for_all():
    assert turns([]).drawn
    assert not turns([], size=lambda: COHORTS.n_max).drawn


def test_a_waiting_time_that_passes_is_waited_for_once():
    wait_s, device = whole_sum_s(COHORTS), turns([])
    assert device.draws_again_at(10.0, 10.0) == 10.0 + wait_s
    assert device.draws_again_at(10.0, 10.0 + 1.5 * wait_s) == 10.0 + 2 * wait_s
    now = 0.501 + 7 * wait_s
    assert device.waited(0.501, now) == 6, "as times are floats"
    assert device.draws_again_at(0.501, now) > now


def test_a_device_is_drawn_for_what_it_wins_and_trains_for_it_so_many_rounds_ahead():
    ahead, p = SWARM.manifest.training.rounds_ahead, turns([])._share(0)
    won = [round_ for round_ in range(1, 200) if wins(SWARM.id, round_, ME, p)]
    for round_ in range(1, 100):
        device = turns(["ab"] * (round_ - 1))
        assert device.is_drawn(0) == (round_ in won)
        assert device.draws_near(0) == any(round_ <= each < round_ + ahead for each in won)
        assert device.is_drawn(LOTTERY_ROUNDS)
