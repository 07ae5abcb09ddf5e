"""Devices of one process share what they compute, and each comes to the bits that it would have found alone."""

import numpy as np
import pytest

from gossip.history import fold
from gossip.history.fold import Replica, State
from node.virtual import shared_cache
from node.virtual.shared_cache import Commons
from tests.histories import WITH_MOMENTUM, WITHOUT_MOMENTUM, Dice, body, setting, unsigned

SCHEDULES = pytest.mark.parametrize("schedule", [WITHOUT_MOMENTUM, WITH_MOMENTUM], ids=["plain", "momentum"])
ROUNDS = 14
SHARES = (0, 100, 256)


def rounds_of(swarm, seed: str):
    """Three cohorts a round, on the first of the round before."""
    dice, rounds = Dice(seed), []
    for _ in range(ROUNDS):
        parents = rounds[-1][:1] if rounds else []
        made = [
            unsigned(
                body(
                    swarm,
                    parents,
                    cohorts=[cohort],
                    sums=dice.integers(-28, 29, swarm.layout.parameters),
                    weights=dice.trained(swarm.layout.segments),
                    ranges=dice.ranges(len(swarm.layout.tensor_ends)),
                )
            )
            for cohort in (1, 2, 3)
        ]
        rounds.append(made)
    return rounds


def told(swarm, replica: Replica, aggregates) -> list[bytes]:
    """The models on the way, as bits, where a device hears of the aggregates in this order."""
    history, models = swarm.history(), []
    for each in aggregates:
        replica.apply(history.add(each).changes, history.round)
        arrays = (replica.x, replica.v, replica.model(), *map(replica.foreseen, SHARES))
        models.append(b"".join(array.tobytes() for array in arrays) + replica.sha256().encode())
    return models


def orders(rounds, count: int):
    """Within a round any, and of its last aggregates some come a round late."""
    dice = Dice("orders")
    for _ in range(count):
        order, late = [], []
        for made in rounds:
            first, *others = [made[0], *dice.shuffled(made[1:])]
            order += [first, *late, *others[:1]]
            late = others[1:] if dice.chance(50) else order.extend(others[1:]) or []
        yield [*order, *late]


@SCHEDULES
@pytest.mark.parametrize("kept", [1 << 20, 3, 1], ids=["all", "few", "next to nothing"])
def test_shared_folds_are_the_unshared_ones_bit_by_bit_also_when_they_were_forgotten(
    schedule, kept, monkeypatch
):
    monkeypatch.setattr(shared_cache, "FOLDS_KEPT", kept)
    monkeypatch.setattr(shared_cache, "FOLDS_BYTES", 0)
    swarm = setting(schedule=schedule, cap=1 << 24)
    rounds, shared = rounds_of(swarm, "shared"), Commons(4)
    for order in orders(rounds, 8):
        together = shared.replica(swarm.manifest, swarm.layout, swarm.initial)
        assert told(swarm, together, order) == told(swarm, swarm.replica(), order)
    folds = shared._folds
    every = (folds.states, folds.models, folds.foreseen, folds.hashes)
    for each in every:
        assert len(each) <= kept
    assert len(folds.models) == len(folds.foreseen) == kept or kept > 3


def test_two_devices_at_once_may_fold_different_things_from_the_same_state(monkeypatch):
    """Each step of one falls between two of the other; what one had computed may be gone when the other comes."""
    swarm = setting(schedule=WITH_MOMENTUM, cap=1 << 24)
    rounds = rounds_of(swarm, "beside")
    for kept in (1, 2, 64):
        monkeypatch.setattr(shared_cache, "FOLDS_KEPT", kept)
        monkeypatch.setattr(shared_cache, "FOLDS_BYTES", 0)
        shared = Commons(4)
        devices = [
            (swarm.history(), shared.replica(swarm.manifest, swarm.layout, swarm.initial), swarm.replica())
            for _ in range(3)
        ]
        for first, *others in rounds:
            for place, (history, together, alone) in enumerate(devices):
                for each in (first, *others[:place]):
                    changes = history.add(each).changes
                    together.apply(changes, history.round)
                    alone.apply(changes, history.round)
                    assert np.array_equal(together.x, alone.x)
                    assert np.array_equal(together.v, alone.v)
                    assert np.array_equal(together.model(), alone.model())
                    share = SHARES[place]
                    assert np.array_equal(together.foreseen(share), alone.foreseen(share))


@SCHEDULES
def test_devices_that_hold_one_object_may_look_ahead_differently_far(schedule, monkeypatch):
    """In whatever order they ask, and also when what one was told is gone before it asks again."""
    swarm = setting(schedule=schedule, cap=1 << 24)
    order = [first for first, *_ in rounds_of(swarm, "apart")]
    for kept in (1, 2, 64):
        monkeypatch.setattr(shared_cache, "FOLDS_KEPT", kept)
        monkeypatch.setattr(shared_cache, "FOLDS_BYTES", 0)
        shared, alone = Commons(4), swarm.replica()
        devices = [shared.replica(swarm.manifest, swarm.layout, swarm.initial) for _ in SHARES]
        histories = [swarm.history() for _ in range(1 + len(SHARES))]
        for each in order:
            for history, replica in zip(histories, (alone, *devices), strict=True):
                replica.apply(history.add(each).changes, history.round)
            assert all(replica.x is devices[0].x for replica in devices) or kept == 1
            for shift in range(3):
                for place, replica in enumerate(devices):
                    share = SHARES[(place + shift) % 3]
                    assert replica.foreseen(share).tobytes() == alone.foreseen(share).tobytes()
                    assert replica.model().tobytes() == alone.model().tobytes()
        apart = len({replica.foreseen(share).tobytes() for share in SHARES})
        assert apart == (len(SHARES) if alone.v.size else 1)


def test_a_state_at_the_address_of_one_that_is_gone_is_not_taken_for_it():
    swarm = setting(schedule=WITH_MOMENTUM, cap=1 << 24)
    ((first, *_), *_) = rounds_of(swarm, "gone")
    replica = Commons(4).replica(swarm.manifest, swarm.layout, swarm.initial)
    for number in range(50):
        state = State(swarm.initial + number, replica.v)
        expected = fold.advance(state, [first], 1, swarm.layout, swarm.manifest)
        x, v, _, _ = replica._advance(state, [first], 1)
        assert np.array_equal(x, expected[0])
        assert np.array_equal(v, expected[1])
        del state, expected, x, v


def test_what_is_foreseen_of_a_model_that_is_gone_is_not_taken_for_anothers():
    swarm = setting(schedule=WITH_MOMENTUM, cap=1 << 24)
    replica = Commons(4).replica(swarm.manifest, swarm.layout, swarm.initial)
    v = np.full_like(swarm.initial, 1 << 20)
    for number in range(50):
        x = np.full_like(swarm.initial, number << 20)
        replica._state = State(x, v)
        assert replica.foreseen(256).tolist() == [(number + 1) / 16] * len(x)
        replica._state = State(swarm.initial, v)
        del x


@SCHEDULES
def test_devices_that_hear_alike_hold_one_object_and_fold_once(schedule, monkeypatch):
    folded, honest = [], fold.increment

    def counted(aggregates, round_, *rest):
        folded.append(round_)
        return honest(aggregates, round_, *rest)

    monkeypatch.setattr(fold, "increment", counted)
    swarm = setting(schedule=schedule, cap=1 << 24)
    order, shared = [first for first, *_ in rounds_of(swarm, "alike")], Commons(4)
    replicas = [shared.replica(swarm.manifest, swarm.layout, swarm.initial) for _ in range(3)]
    told(swarm, replicas[0], order)
    once = len(folded)
    assert once >= ROUNDS
    for replica in replicas[1:]:
        told(swarm, replica, order)
    assert len(folded) == once
    assert all(replica.x is replicas[0].x for replica in replicas)
    assert all(replica.model() is replicas[0].model() for replica in replicas)
    for share in SHARES:
        assert all(replica.foreseen(share) is replicas[0].foreseen(share) for replica in replicas)
    assert not replicas[0].foreseen(256).flags.writeable
