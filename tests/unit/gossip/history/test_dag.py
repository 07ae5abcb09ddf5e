"""The set grows by whatever comes, in whatever order, and says which of it counts."""

import itertools

import msgspec
import pytest

from gossip.body import Part
from gossip.errors import MisuseError, PeerViolation
from gossip.history import dag as history_module
from gossip.history.aggregate import MEMBERSHIP_OF_MANIFEST, Verified
from gossip.history.dag import Added, Known, Waiting, counting
from gossip.quorum import pack_members
from tests.histories import PEOPLE, Dice, body, part, setting, signed, unsigned

replace = msgspec.structs.replace
SWARM = setting()


def chain(length, *, first=0):
    written = []
    for place in range(length):
        written.append(unsigned(body(SWARM, written[-1:], cohorts=[first + place])))
    return written


def ids(aggregates):
    return tuple(each.id for each in aggregates)


def by_id(aggregates):
    return sorted(aggregates, key=lambda each: each.id)


# --- growing --------------------------------------------------------------------------------------------------


def test_parents_first_each_becomes_valid_at_once():
    one, two = chain(2)
    history = SWARM.history()
    outcome = history.add(one)
    assert isinstance(outcome, Added)
    assert (outcome.ids, outcome.refused) == ((one.id,), ())
    assert [(change.round, change.before, change.after) for change in outcome.changes] == [(1, (), (one,))]
    history.add(two)
    assert (history.round, len(history), two.id in history, history.get(two.id)) == (2, 2, True, two)
    assert [history.ids(round_) for round_ in range(4)] == [(), (one.id,), (two.id,), ()]


def test_children_first_they_wait_and_come_in_together():
    one, two, three, four = chain(4)
    history = SWARM.history()
    assert history.add(three) == Waiting((two.id,))
    assert history.add(four) == Waiting(())
    assert history.add(two) == Waiting((one.id,))
    assert history.wanted() == (one.id,)
    assert (history.round, len(history), three.id in history, history.get(three.id)) == (0, 0, False, None)
    outcome = history.add(one)
    assert outcome.ids == ids((one, two, three, four))
    assert [change.round for change in outcome.changes] == [1, 2, 3, 4]
    assert history.wanted() == ()


def test_an_aggregate_comes_once_whoever_signed_it():
    written = body(SWARM, [])
    one, other = (Verified.of(signed(written, first=first), SWARM.manifest) for first in (0, 1))
    history = SWARM.history()
    history.add(one)
    assert history.add(other) == Known()
    assert history.get(one.id).aggregate is one.aggregate
    waiting = unsigned(body(SWARM, [unsigned(body(SWARM, [one], cohorts=[1]))], cohorts=[2]))
    assert history.add(waiting) == history.add(waiting)
    assert history.wanted() == waiting.body.parents


def test_a_round_that_does_not_follow_is_refused_and_changes_nothing():
    one, two = chain(2)
    history = SWARM.history()
    history.add(one)
    history.add(two)
    for round_ in (1, 2, 4):
        with pytest.raises(PeerViolation, match=f"round {round_} does not follow"):
            history.add(unsigned(body(SWARM, [one, two], cohorts=[9], round_=round_)))
    assert (len(history), history.heads()) == (2, (two.id,))


def test_an_orphan_that_does_not_follow_is_refused_when_its_parents_come():
    one, two = chain(2)
    ahead = unsigned(body(SWARM, [two], round_=7))
    tries = (unsigned(body(SWARM, [two], round_=2, ranges=tried)) for tried in range(99))
    behind = next(each for each in tries if each.id < two.id)
    beyond = unsigned(body(SWARM, [ahead]))
    history = SWARM.history()
    for orphan in (behind, ahead, beyond, two):
        assert isinstance(history.add(orphan), Waiting)
    outcome = history.add(one)
    assert outcome.ids == ids((one, two))
    # `behind` claims to be no later than its parent, so it is looked at before it: the next time it is refused.
    assert outcome.refused == (ahead.id,)
    with pytest.raises(PeerViolation, match="does not follow"):
        history.add(behind)
    assert history.add(unsigned(body(SWARM, [], cohorts=[5]))).refused == (behind.id,)
    assert history.wanted() == (ahead.id,)
    assert len(history) == 3


def test_what_was_verified_for_another_swarm_is_our_own_mistake():
    stray = unsigned(replace(body(SWARM, []), swarm=bytes(32)))
    with pytest.raises(MisuseError, match="another swarm"):
        SWARM.history().add(stray)


@pytest.mark.parametrize("bound", ["ORPHANS_MAX", "ORPHANS_BYTES_MAX"])
def test_the_oldest_orphan_makes_room(monkeypatch, bound):
    written = chain(6)
    monkeypatch.setattr(history_module, bound, 3 if bound == "ORPHANS_MAX" else 3 * len(written[0].body.sums))
    history = SWARM.history()
    for orphan in written[:0:-1]:
        history.add(orphan)
    assert history.wanted() == (written[0].id,)
    assert history.add(written[0]).ids == ids(written[:4])
    assert history.missing(ids(written)) == ids(written[4:])
    # The room is free again.
    assert history.add(written[5]) == Waiting((written[4].id,))
    assert history.add(written[4]).ids == ids(written[4:])


# --- what it tells --------------------------------------------------------------------------------------------


def test_heads_are_what_nobody_names_as_parent():
    one, two = chain(2)
    beside = unsigned(body(SWARM, [], cohorts=[7]))
    history = SWARM.history()
    assert history.heads() == history.parents_for_next() == ()
    history.add(one)
    assert history.heads() == (one.id,)
    history.add(beside)
    history.add(two)
    assert history.heads() == (two.id, beside.id)
    history.add(unsigned(body(SWARM, [two, beside], cohorts=[8])))
    assert len(history.heads()) == 1


def test_the_next_aggregate_names_the_newest_head_and_the_seven_oldest_others():
    history = SWARM.history()
    trunk = chain(12)
    branches = [unsigned(body(SWARM, trunk[place : place + 1], cohorts=[100 + place])) for place in range(10)]
    for each in (*trunk, *branches):
        history.add(each)
    assert history.heads() == ids((trunk[11], *reversed(branches)))
    assert history.parents_for_next() == tuple(sorted(ids((trunk[11], *branches[:7]))))


def test_no_more_heads_are_told_than_the_bound(monkeypatch):
    monkeypatch.setattr(history_module, "HEADS_MAX", 3)
    history = SWARM.history()
    roots = [unsigned(body(SWARM, [], cohorts=[place])) for place in range(5)]
    for each in roots:
        history.add(each)
    assert history.heads() == ids(by_id(roots)[:3])


def test_contributors_are_counted_round_by_round_and_not_before_the_first_that_is_asked_for():
    history = SWARM.history()
    row = chain(5)
    for each in row:
        history.add(each)
    history.add(unsigned(body(SWARM, [row[0]], cohorts=[30])))
    assert history.counts(64) == [4, 8, 4, 4, 4]
    assert history.counts(2) == [4, 4]
    assert history.counts(64, since=2) == [8, 4, 4, 4]
    assert history.counts(64, since=5) == [4]
    assert history.counts(64, since=6) == []
    assert history.counts(2, since=2) == [4, 4]


def test_digests_tell_where_two_histories_differ():
    written = chain(3)
    late = unsigned(body(SWARM, written[:1], cohorts=[9]))
    ours, theirs = SWARM.history(), SWARM.history()
    assert ours.digest() == theirs.digest()
    assert ours.round_digest(1) == b""
    for each in written:
        ours.add(each)
    for each in (written[0], late, *written[1:]):
        theirs.add(each)
    assert ours.digest() != theirs.digest()
    same = [ours.round_digest(round_) == theirs.round_digest(round_) for round_ in (1, 2, 3)]
    assert same == [True, False, True]
    ours.add(late)
    assert ours.digest() == theirs.digest()
    assert ours.round_digest(2) == theirs.round_digest(2)
    assert len(ours.digest()) == len(ours.round_digest(2)) == 8


def test_ancestors_are_all_before_by_round_and_nothing_beside():
    one, two, three = chain(3)
    beside = unsigned(body(SWARM, [one], cohorts=[8]))
    tip = unsigned(body(SWARM, [three, beside], cohorts=[9]))
    history = SWARM.history()
    for each in (one, two, three, beside, tip):
        history.add(each)
    assert history.ancestors([three.id]) == ((one.id,), (two.id,), (three.id,))
    assert history.ancestors(tip.body.parents) == ((one.id,), tuple(sorted(ids((two, beside)))), (three.id,))
    assert history.ancestors([]) == ()
    assert history.changes_to(history.ancestors([tip.id])) == ()
    with pytest.raises(MisuseError, match="not valid here"):
        history.ancestors([bytes(32)])


# --- which of it counts ---------------------------------------------------------------------------------------


def ascending(*named):
    """Bodies of one round for these lists of cohorts, with ids in this order: the ranges are tried until it is so."""
    made = []
    for place, cohorts in enumerate(named):
        tries = (unsigned(body(SWARM, [], cohorts=cohorts, ranges=tried)) for tried in range(400))
        made.append(next(each for each in tries if each.id[0] * len(named) // 256 == place))
    return made


@pytest.mark.parametrize("order", ["lowest first", "lowest last"])
def test_of_one_cohorts_aggregates_the_lowest_counts_in_either_order(order):
    low, high = ascending([1], [1])
    history = SWARM.history()
    if order == "lowest first":
        assert history.add(low).changes[0].after == (low,)
        assert history.add(high).changes[0].after == (low,)
    else:
        assert history.add(high).changes[0].after == (high,)
        assert history.add(low).changes[0].before == (high,)
    assert history.counting(1) == (low,)
    assert history.ids(1) == ids((low, high))


@pytest.mark.parametrize(
    ("named", "counts"),
    [
        ([[1, 2], [1], [2]], [0]),
        ([[1], [2], [1, 2]], [2]),
        ([[1], [1, 2], [2]], [1]),
        # The merged sum that comes second lost one cohort to the first, and what remains of the other counts.
        ([[1], [1, 2], [2, 3], [3], [4]], [1, 3, 4]),
        ([[2, 3], [1, 2], [3, 4], [1], [4]], [0, 3, 4]),
        ([[1], [2], [3]], [0, 1, 2]),
        # Cohort 11 is of the same people as cohort 1.
        ([[11], [1, 2], [3]], [1, 2]),
        ([[11], [1]], [0]),
    ],
)
def test_a_device_counts_once_in_a_round_and_the_most_contributors_first(named, counts):
    made = ascending(*named)
    for order in itertools.permutations(made):
        history = SWARM.history()
        for each in order:
            history.add(each)
        assert history.counting(1) == tuple(made[place] for place in counts)
    contributors = [peer for place in counts for peer in made[place].contributors]
    assert len(contributors) == len(set(contributors))


def of_size(size: int, *, first: int = 0, tried: int = 0) -> Verified:
    """A sum of so many people, from this one on."""
    keys = tuple(who.public_key for who in PEOPLE[first : first + size])
    whole = Part(bytes([size, first]) * 16, keys, MEMBERSHIP_OF_MANIFEST, pack_members(range(size), size))
    return unsigned(replace(body(SWARM, [], ranges=tried), parts=(whole,), weights=(size, size)))


def test_a_league_cannot_beat_an_honest_sum_that_it_sits_in_with_small_bodies_of_its_own():
    """Three of eight sign many bodies of one round, with any id they like: the honest sum counts, and none of theirs."""
    honest = of_size(8)
    league = [of_size(3, first=place, tried=tried) for tried in range(40) for place in (0, 5)]
    assert any(each.id < honest.id for each in league)
    assert counting([honest, *league]) == counting([*league, honest]) == (honest,)
    history = SWARM.history()
    for each in (*league[:20], honest, *league[20:]):
        history.add(each)
    assert history.counting(1) == (honest,)


def test_a_league_that_signs_many_bodies_of_a_round_gains_one():
    league = [of_size(3, tried=tried) for tried in range(40)]
    assert counting(league) == (by_id(league)[0],)


def of_many_cohorts():
    named = [[1], [2], [3], [1, 2], [2, 3], [1, 3], [11], [12, 3]] * 2
    return [unsigned(body(SWARM, [], cohorts=cohorts, ranges=tried)) for tried, cohorts in enumerate(named)]


def by_brute_force(made):
    """The one set in which each is in it just if nothing before it in it has a contributor in common with it."""

    def before(one, other):
        return (-len(one.contributors), one.id) < (-len(other.contributors), other.id)

    fitting = []
    for chosen in itertools.product((False, True), repeat=len(made)):
        taken = [each for each, is_taken in zip(made, chosen, strict=True) if is_taken]
        if all(
            is_taken
            == (
                not any(
                    before(other, each) and {*other.contributors} & {*each.contributors} for other in taken
                )
            )
            for each, is_taken in zip(made, chosen, strict=True)
        ):
            fitting.append(tuple(by_id(taken)))
    [only] = fitting
    return only


@pytest.mark.parametrize("seed", range(5))
def test_what_counts_is_a_function_of_the_set_and_not_of_the_order(seed):
    made = Dice(seed).shuffled(of_many_cohorts())[:9]
    history = SWARM.history()
    for place, each in enumerate(Dice(seed, "order").shuffled(made), 1):
        change = history.add(each).changes[0]
        assert change.after == history.counting(1)
        assert len(history.ids(1)) == place
    assert history.counting(1) == by_brute_force(made)


def test_strangers_cannot_beat_a_cohort_by_naming_its_roster():
    honest = unsigned(body(SWARM, [], cohorts=[1]))
    for tried in range(30):
        forged = body(SWARM, [], cohorts=[2], ranges=tried)
        forged = unsigned(replace(forged, parts=(replace(part(2), roster=honest.body.parts[0].roster),)))
        assert honest in counting([honest, forged])


def test_a_round_folds_no_more_than_its_integers_bear(monkeypatch):
    monkeypatch.setattr(history_module, "FOLDED_MAX", 3)
    made = [unsigned(body(SWARM, [], cohorts=[place])) for place in range(5)]
    assert counting(made) == counting(made[::-1]) == tuple(by_id(made)[:3])


# --- what must follow from the parents ------------------------------------------------------------------------


def test_exponents_that_do_not_follow_from_the_parents_are_refused():
    loud = [unsigned(body(SWARM, [], cohorts=[place], ranges=4 * 400)) for place in (1, 2)]
    history = SWARM.history()
    for each in loud:
        history.add(each)
    honest = body(SWARM, loud, cohorts=[3])
    assert set(honest.exponents) == {4}
    for wrong in (bytes(6), bytes([4, 4, 4, 4, 4, 3]), bytes([5] * 6)):
        with pytest.raises(PeerViolation, match="other exponents than its parents lead to"):
            history.add(unsigned(replace(honest, exponents=wrong)))
    assert (len(history), history.round) == (2, 1)
    assert isinstance(history.add(unsigned(honest)), Added)


def test_the_first_rounds_exponents_are_the_manifests():
    with pytest.raises(PeerViolation, match="other exponents"):
        SWARM.history().add(unsigned(body(SWARM, [], exponents=-1)))


def test_an_orphan_whose_exponents_do_not_follow_is_refused_when_its_parents_come():
    one, two = chain(2)
    wrong = unsigned(body(SWARM, [two], exponents=-3))
    history = SWARM.history()
    history.add(wrong)
    history.add(two)
    assert history.add(one).refused == (wrong.id,)


def test_a_history_iterates_over_its_ids_in_the_order_in_which_they_became_valid():
    one, two, three = chain(3)
    history = SWARM.history()
    for each in (three, two, one):
        history.add(each)
    assert list(history) == [one.id, two.id, three.id]
