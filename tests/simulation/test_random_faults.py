"""Random drops, duplicates, reorderings and crashes over all phases: exact sums or clean aborts, never a hang.

pytest tests/simulation/test_random_faults.py                        # a share of the seeds
GOSSAMER_SEEDS=2400 pytest -n auto tests/simulation                  # all of them
GOSSAMER_SEED=123 pytest tests/simulation/test_random_faults.py      # one again
"""

import os
import random

import pytest

from gossip.frames import Kind, open_frame
from tests.simulation.harness import ROUND_TIME_S, Faults, World, random_faults

SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "48"))
ONE_SEED = os.environ.get("GOSSAMER_SEED")
CHUNK = 8
CHUNKS = (
    [[int(ONE_SEED)]] if ONE_SEED else [range(at, min(at + CHUNK, SEEDS)) for at in range(0, SEEDS, CHUNK)]
)


def survive(seed: int, **more: int) -> World:
    """One pattern of faults, then peace: a round must complete in time (I8), and all histories become one."""
    rng = random.Random(f"faults/{seed}")
    n = 3 + seed % 10
    codec = "lowrank" if seed % 4 == 0 else "dense"
    world = World(
        seed, n, faults=random_faults(rng, n), n_min=3 if n < 5 else rng.choice([3, 4]), codec=codec, **more
    )
    world.run(world.faults.until)
    world.mend()
    before = max(world.rounds())
    lively = world.run(
        5 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and max(world.rounds()) > before
    )
    world.observer.require(lively, "I8: no round within five round-times after the faults stopped")
    agreed = world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and world.one_history())
    world.observer.require(agreed, "I8: the histories did not become one")
    return world


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_sums_are_exact_or_abort(seeds):
    exact = sum(survive(seed).observer.exact for seed in seeds)
    assert exact >= len(seeds)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seeds", CHUNKS[1::3] if not ONE_SEED else CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}"
)
def test_hubs_that_lead_and_fail_leave_nobody_behind(seeds):
    """Cohorts of four: several hubs lead at once, or with one sum a round the lottery decides and devices rest."""
    worlds = [survive(seed, hubs=seed % 4, n_max=4, sums=1 + seed % 2) for seed in seeds]
    assert sum(world.observer.exact for world in worlds) >= len(seeds)
    told = [report.fields for world in worlds for _, index, report in world.reports if index < world.hubs]
    assert any(fields.get("roles") == ["leader", "aggregator"] for fields in told)


def test_a_swarm_without_faults_sums_every_round():
    world = World(1, 8, n_min=4)
    world.run(60)
    assert min(world.rounds()) >= 5
    assert world.observer.exact >= 5
    outcomes = [r.fields["outcome"] for _, _, r in world.reports if r.name == "settled"]
    assert set(outcomes) <= {"included", "untouched"}, "nothing that left is ever lost or in doubt"
    assert outcomes.count("included") >= 0.8 * len(outcomes)


def test_one_liar_about_shares_cannot_stop_a_sum():
    """Nor is it always seen: only if its shares are among the t that are tried first, and another try goes well."""
    refused = 0
    for seed in range(1, 7):
        world = World(seed, 8, faults=Faults(until=1e9, flip_share=3))
        assert world.run(80, until=lambda world=world: max(world.rounds()) >= 6)
        refused += any(r.fields.get("phase") == "SHARE_REFUSED" for _, _, r in world.reports)
    assert refused


def test_same_seed_same_trace():
    traces = []
    for _ in range(2):
        world = World(5, 6, faults=random_faults(random.Random(5), 6))
        world.run(30)
        traces.append(world.trace.hexdigest())
    assert traces[0] == traces[1]


def test_who_missed_the_body_fetches_the_aggregate_when_its_signatures_come():
    world = World(6, 6, n_min=6)
    lonely, missed, pulled = world.devices[0], [], []
    honest = World._send

    def forgetful(device, peer, data):
        message = open_frame(world.swarm.id, data, device.key)
        if peer == lonely.key and message.kind is Kind.BODY_PROPOSAL and device is not lonely:
            missed.append(message.cohort)
            return
        if device is lonely and message.kind is Kind.PULL:
            pulled.append(message.body.aggregates)
        honest(world, device, peer, data)

    world._send = forgetful
    assert world.run(60, until=lambda: missed and min(world.rounds()) >= 1)
    assert pulled
    settled = [r.fields["outcome"] for _, i, r in world.reports if i == 0 and r.name == "settled"]
    assert settled[0] == "included"
