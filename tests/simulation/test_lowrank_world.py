"""Factors on a shared basis, in a world of faults: the same invariants, and one side after the other.

GOSSAMER_SEED=123 pytest tests/simulation/test_lowrank_world.py      # one seed again
"""

import os
import random
from dataclasses import replace

import numpy as np
import pytest

from gossip.codec.codec import LOWRANK
from gossip.history.fold import fold_all
from tests.simulation.harness import ROUND_TIME_S, World, random_faults, tiny_initial

ONE_SEED = os.environ.get("GOSSAMER_SEED")
SEEDS = [int(ONE_SEED)] if ONE_SEED else range(6)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_sums_are_exact_or_abort(seed):
    rng = random.Random(f"lowrank/{seed}")
    n = 4 + seed % 6
    world = World(seed, n, faults=random_faults(rng, n), codec="lowrank")
    world.run(world.faults.until)
    world.mend()
    before = max(world.rounds())
    lively = world.run(5 * ROUND_TIME_S, until=lambda: max(world.rounds()) > before)
    world.observer.require(lively, "I8: no round within five round-times after the faults stopped")
    agreed = world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and world.one_history())
    world.observer.require(agreed, "I8: the histories did not become one")
    assert world.observer.exact >= 1


def test_two_sides_of_a_partition_fold_each_others_factors():
    world = World(3, 8, codec="lowrank")
    world.run(20)
    world.partition({0, 1, 2, 3}, {4, 5, 6, 7})
    world.run(40)
    assert not world.one_history()
    world.heal()
    assert world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and world.one_history())


def test_a_swarm_without_faults_sends_one_side_after_the_other():
    world = World(1, 8, n_min=4, codec="lowrank")
    world.run(60)
    assert min(world.rounds()) >= 5
    history = world.alive()[0].core._history
    bodies = [each.body for r in range(1, history.round + 1) for each in history.counting(r)]
    assert {body.codec for body in bodies} == {LOWRANK.id}
    # Matrices of 3 x 3 and 2 x 3 at rank 2, and one parameter as it is: columns in odd rounds, rows in even ones.
    sizes = {1: 2 * 3 + 2 * 3 + 1, 0: 2 * 3 + 2 * 2 + 1}
    assert {(body.round % 2, len(body.sums)) for body in bodies} == set(sizes.items())
    assert all(body.basis in body.parents for body in bodies if body.round > 1)
    assert not any(body.basis for body in bodies if body.round == 1)
    rounds = [history.counting(r) for r in range(1, history.round + 1)]
    layout, manifest = world.alive()[0].core._layout, world.swarm.manifest
    assert any(layout.prior), "the second matrix says of the first where to look at first"
    knowing, blind = (
        fold_all(tiny_initial(), rounds, each, manifest)[0] for each in (layout, replace(layout, prior=b""))
    )
    assert all(np.array_equal(device.core._replica.x, knowing) for device in world.alive())
    assert not np.array_equal(knowing, blind)
    outcomes = [r.fields["outcome"] for _, _, r in world.reports if r.name == "settled"]
    assert set(outcomes) <= {"included", "untouched"}, "nothing that left is ever lost or in doubt"
