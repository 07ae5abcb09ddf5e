"""A bad device beside random faults: no honest core is ended by it, all invariants hold, and the honest go on.

HELD are the behaviours against which that is so; one that a defence is built for belongs here from then on.
"""

import os
import random
from functools import partial

import pytest

from scenarios.adversary.casting import cast_of
from scenarios.spec.adversary import AdversaryTable
from tests.simulation.harness import ROUND_TIME_S, World, random_faults

SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "15"))
HELD = (
    *("within", "ones", "sign-flip", "free-ride", "free-ride-noise", "ranges-low", "ranges-high"),
    *("silence", "refuse-all", "equivocate", "crash-frames", "replay", "old-round", "disjoint", "bombs"),
)


def bad_world(seed, behaviour):
    """Of five to eight devices, the last of which is bad."""
    rng = random.Random(f"adversary/{seed}")
    count = 5 + seed % 4
    table = AdversaryTable(behaviour, count=1)
    clean = World(seed, count)
    identities = [device.identity for device in clean.devices]
    make = cast_of(identities, [None] * (count - 1) + [table], seed)
    return World(seed, count, faults=random_faults(rng, count), hostile={count - 1: partial(make, count - 1)})


# Seen: a leader that made no roster was handed all bags of a small swarm, for ever; so was one that was silent in its cohorts.
STOOD_STILL = [
    ("old-round", 0),
    ("old-round", 1),
    ("old-round", 3),
    ("silence", 4),
    ("silence", 16),
    ("refuse-all", 12),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("behaviour", "seed"), [*((HELD[seed % len(HELD)], seed) for seed in range(SEEDS)), *STOOD_STILL]
)
def test_one_bad_device_ends_nobody_and_the_others_go_on(behaviour, seed):
    world = bad_world(seed, behaviour)
    world.run(60)
    world.mend()
    honest = [device for device in world.devices if device.index not in world.hostile]

    def rounds():
        return [int(device.core.status(world.now)["round"]) for device in honest]

    before = max(rounds())
    assert world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and min(rounds()) > before + 1)
