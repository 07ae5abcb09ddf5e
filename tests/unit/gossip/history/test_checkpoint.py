"""A newcomer begins from a checkpoint that a cohort has signed, and ends with the same bits as all others."""

import msgspec
import numpy as np
import pytest

from gossip.errors import MisuseError, PeerViolation
from gossip.history import checkpoint
from gossip.history.dag import Added, Known, Waiting
from gossip.history.fold import RECENT, fold_all
from gossip.wire import pack
from tests.histories import WITH_MOMENTUM, WITHOUT_MOMENTUM, body, setting, unsigned

replace = msgspec.structs.replace
SCHEDULES = pytest.mark.parametrize("schedule", [WITHOUT_MOMENTUM, WITH_MOMENTUM], ids=["plain", "momentum"])
ROUNDS = 20


class Old:
    """A node that has it all: a chain with a second aggregate beside every round, and a state signed in round 16."""

    def __init__(self, schedule):
        self.swarm = setting(schedule=schedule)
        self.history, self.replica = self.swarm.history(), self.swarm.replica()
        self.chain, self.beside = [], []
        for round_ in range(1, ROUNDS + 1):
            state = None
            parents = self.chain[-1:]
            if round_ == 16:
                self.checkpoint = self.take(parents)
                state = checkpoint.state_root(self.checkpoint)
            made = unsigned(body(self.swarm, parents, cohorts=[round_], sums=round_, state=state))
            side = unsigned(body(self.swarm, parents, cohorts=[100 + round_], sums=-round_ // 2))
            for each in (made, side):
                self.replica.apply(self.history.add(each).changes, self.history.round)
            self.chain.append(made)
            self.beside.append(side)

    @property
    def certificate(self):
        return self.chain[15]

    def take(self, parents):
        return checkpoint.take(self.history, self.replica, [each.id for each in parents], self.swarm.swarm)

    def restore(self, taken=None, signed=None):
        return checkpoint.restore(
            taken or self.checkpoint,
            signed or self.certificate,
            self.swarm.manifest,
            self.swarm.layout,
            self.swarm.initial,
        )


@SCHEDULES
def test_a_checkpoint_is_the_fold_of_exactly_the_ancestors(schedule):
    old = Old(schedule)
    x, v, recent, _counts = fold_all(
        old.swarm.initial, [[each] for each in old.chain[:15]], old.swarm.layout, old.swarm.manifest
    )
    assert old.checkpoint.x == x.tobytes()
    assert old.checkpoint.v == v.tobytes()
    assert [(each.contributors, each.sizes) for each in old.checkpoint.recent] == list(recent)
    assert len(recent) == RECENT
    assert old.checkpoint.rounds == tuple((each.id,) for each in old.chain[:15])
    # Taken again, after all that came since: the same.
    assert old.take(old.chain[14:15]) == old.checkpoint


@SCHEDULES
def test_it_survives_the_wire(schedule):
    old = Old(schedule)
    assert checkpoint.parse(pack(old.checkpoint), old.swarm.manifest, old.swarm.layout) == old.checkpoint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": bytes(8)}, "8 and 160 bytes of x and v"),
        ({"v": b""}, "160 and 0 bytes of x and v"),
        ({"rounds": ((b"b" * 32, b"a" * 32),)}, "ids must ascend"),
        ({"rounds": ((b"a" * 32, b"a" * 32),)}, "ids must ascend"),
        ({"rounds": ((),)}, "length >= 1"),
        ({"rounds": ()}, "length >= 1"),
    ],
)
def test_one_that_breaks_a_rule_is_refused(changes, says):
    old = Old(WITH_MOMENTUM)
    with pytest.raises(PeerViolation, match=says):
        checkpoint.parse(pack(replace(old.checkpoint, **changes)), old.swarm.manifest, old.swarm.layout)


def forgeries(true):
    x = np.frombuffer(true.x, "<i8").copy()
    x[3] += 1
    yield replace(true, x=x.tobytes())
    v = np.frombuffer(true.v, "<i8").copy()
    v[-1] -= 1
    yield replace(true, v=v.tobytes())
    yield replace(true, x=true.v, v=true.x)
    yield replace(true, rounds=true.rounds[:-1])
    yield replace(true, rounds=(*true.rounds[:-1], (bytes(32), *true.rounds[-1])))
    yield replace(true, rounds=(true.rounds[1], true.rounds[0], *true.rounds[2:]))
    yield replace(true, swarm=bytes(32))


def test_none_but_the_one_that_was_signed_restores():
    old = Old(WITH_MOMENTUM)
    for forged in forgeries(old.checkpoint):
        with pytest.raises(PeerViolation, match="not the state"):
            old.restore(forged)
    with pytest.raises(PeerViolation, match="not the state"):
        old.restore(signed=old.chain[17])


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        (lambda old: old.checkpoint.rounds[:-1], "a parent of the signed aggregate not at all"),
        (lambda old: (*old.checkpoint.rounds, (bytes(32),)), "of 16 rounds, but signed in round 16"),
        (lambda old: ((old.chain[14].id,), *old.checkpoint.rounds[1:14], (bytes(32),)), "does not follow"),
        (lambda old: (old.checkpoint.rounds[14], *old.checkpoint.rounds[1:]), "an id twice"),
    ],
)
def test_even_signed_nonsense_is_refused(rounds, says):
    old = Old(WITHOUT_MOMENTUM)
    nonsense = replace(old.checkpoint, rounds=rounds(old))
    signed = unsigned(replace(old.certificate.body, state=checkpoint.state_root(nonsense)))
    with pytest.raises(PeerViolation, match=says):
        old.restore(nonsense, signed)


@SCHEDULES
def test_a_newcomer_goes_on_from_it(schedule):
    old = Old(schedule)
    history, replica = old.restore()
    assert (history.round, len(history), replica.round) == (16, 16, 16)
    assert history.heads() == history.parents_for_next() == (old.certificate.id,)
    assert history.get(old.chain[3].id) is None
    for each in (*old.chain[16:], *old.beside[15:]):
        replica.apply(history.add(each).changes, history.round)
    # All but what is beside the checkpoint's rounds.
    other, twin = old.swarm.history(), old.swarm.replica()
    for each in (*old.chain, *old.beside[15:]):
        twin.apply(other.add(each).changes, other.round)
    assert np.array_equal(replica.x, twin.x)
    assert np.array_equal(replica.v, twin.v)
    assert history.digest() == other.digest()
    # Round 17 and its `beside` are told apart from the base's; both know what to sign next.
    assert checkpoint.take(history, replica, history.parents_for_next(), old.swarm.swarm) == checkpoint.take(
        other, twin, other.parents_for_next(), old.swarm.swarm
    )


def pulled(old, history, replica):
    """Bring what the history waits for until it waits for nothing; returns how many that were."""
    by_id = {each.id: each for each in (*old.chain, *old.beside)}
    count = 0
    while wanted := history.wanted():
        for identity in wanted:
            outcome = history.add(by_id[identity])
            assert isinstance(outcome, Added)
            replica.apply(outcome.changes, history.round)
            count += 1
    return count


@SCHEDULES
def test_a_late_aggregate_of_the_base_waits_for_the_bodies_that_its_fold_needs(schedule):
    old = Old(schedule)
    history, replica = old.restore()
    late = old.beside[6]
    before = replica.x
    needed = old.chain[:15]
    assert history.add(late) == Waiting(tuple(sorted(each.id for each in needed)))
    assert late.id not in history
    assert pulled(old, history, replica) == len(needed)
    assert late.id in history
    assert not np.array_equal(replica.x, before)
    other, twin = old.swarm.history(), old.swarm.replica()
    for each in (*old.chain[:16], late):
        twin.apply(other.add(each).changes, other.round)
    assert np.array_equal(replica.x, twin.x)
    assert history.add(needed[0]) == Known()


@SCHEDULES
def test_with_all_that_came_late_the_newcomer_has_the_same_bits(schedule):
    old = Old(schedule)
    history, replica = old.restore()
    for each in (*old.beside, *old.chain[:15:-1]):
        outcome = history.add(each)
        if isinstance(outcome, Added):
            replica.apply(outcome.changes, history.round)
    pulled(old, history, replica)
    assert history.digest() == old.history.digest()
    assert np.array_equal(replica.x, old.replica.x)
    assert np.array_equal(replica.v, old.replica.v)


@SCHEDULES
def test_it_cannot_tell_the_state_of_what_its_base_hides(schedule):
    old = Old(schedule)
    history, replica = old.restore()
    hidden = old.take(old.chain[8:9])
    while isinstance(
        answer := checkpoint.take(history, replica, [old.chain[8].id], old.swarm.swarm), Waiting
    ):
        for identity in answer.missing:
            body_ = next(each for each in old.chain if each.id == identity)
            assert isinstance(history.add(body_), Added)
    assert answer == hidden


def test_what_counts_among_bodies_that_are_not_held_is_not_guessed():
    old = Old(WITHOUT_MOMENTUM)
    history, _ = old.restore()
    with pytest.raises(MisuseError, match="only when all of its bodies are held"):
        history.counting(3)


def test_a_body_of_another_round_than_the_checkpoint_gave_is_refused():
    old = Old(WITHOUT_MOMENTUM)
    swapped = (old.checkpoint.rounds[1], old.checkpoint.rounds[0], *old.checkpoint.rounds[2:])
    nonsense = replace(old.checkpoint, rounds=swapped)
    signed = unsigned(replace(old.certificate.body, state=checkpoint.state_root(nonsense)))
    history, _ = old.restore(nonsense, signed)
    with pytest.raises(PeerViolation, match="its round is not the one"):
        history.add(old.chain[0])
