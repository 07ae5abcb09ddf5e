"""The real codec that looks first, in a world of faults: the same invariants, and a support that the look chose.

GOSSAMER_SEED=123 pytest tests/simulation/test_sketch_world.py      # one seed again
"""

import os
import random

import pytest

from gossip.compression import SKETCH
from tests.simulation.harness import ROUND_TIME_S, World, random_faults

ONE_SEED = os.environ.get("GOSSAMER_SEED")
SEEDS = [int(ONE_SEED)] if ONE_SEED else range(6)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_sums_are_exact_or_abort(seed):
    rng = random.Random(f"sketch/{seed}")
    n = 4 + seed % 6
    world = World(seed, n, faults=random_faults(rng, n), codec="sketch")
    world.run(world.faults.until)
    world.mend()
    before = max(world.rounds())
    lively = world.run(5 * ROUND_TIME_S, until=lambda: max(world.rounds()) > before)
    world.observer.require(lively, "I8: no round within five round-times after the faults stopped")
    agreed = world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and world.one_history())
    world.observer.require(agreed, "I8: the histories did not become one")
    assert world.observer.exact >= 1
    assert {place for _, place, _ in world.observer.plain} == {0, 1}


def test_a_swarm_without_faults_takes_the_blocks_that_it_looked_for():
    world = World(1, 8, n_min=4, codec="sketch")
    world.run(60)
    assert min(world.rounds()) >= 5
    core = world.alive()[0].core
    history = core._history
    bodies = [each.body for r in range(1, history.round + 1) for each in history.counting(r)]
    assert {body.codec for body in bodies} == {SKETCH.id}
    supports = {body.blocks for body in bodies}
    assert len(supports) > 1
    # Of the two segments' three and two blocks of four parameters, half, rounded up.
    assert {len(body.exponents) for body in bodies} == {2 + 1}
    outcomes = [r.fields["outcome"] for _, _, r in world.reports if r.name == "settled"]
    assert set(outcomes) <= {"included", "untouched"}, "nothing that left is ever lost or in doubt"
