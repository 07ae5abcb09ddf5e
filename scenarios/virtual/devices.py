"""What a plan makes of its devices in virtual time: links, speeds, absences, and the swarm that they found.

The same for whatever runs on them: Gossamer, the protocol alone, and what Gossamer is compared with.
"""

from collections.abc import Iterator
from functools import lru_cache

from gossip.manifest import MEMBERS_MAX, Swarm
from node.founding import OpenedModel, found_swarm
from node.virtual.device import Hardware
from node.virtual.links import Link
from node.virtual.randomness import Stream
from node.virtual.swarm import EPOCH_S
from scenarios.certificates import certify, identity_of
from scenarios.plan import Plan
from scenarios.spec.scenario import HardwareTable

START_S = 2.0  # within which the devices come, the first one at once
MBIT = 1e6
LINKS_KEPT = 256


def found(plan: Plan, opened: OpenedModel) -> Swarm:
    """As `gossamer swarm` founds it; a swarm too large to list or certify its members is open."""
    identities = [identity_of(plan.seed, index) for index in range(len(plan.devices))]
    listed = len(identities) <= MEMBERS_MAX
    settings = plan.swarm.settings(
        name=plan.name,
        rounds=plan.rounds,
        **plan.swarm.admitting(identities if listed else []),
        seed=plan.seed,
    )
    return found_swarm(settings, plan.task, opened, identities[0])


def credentials(plan: Plan, swarm: Swarm) -> list[tuple[bytes, ...]]:
    return certify(swarm, [identity_of(plan.seed, index) for index in range(len(plan.devices))], EPOCH_S)


def hardware_of(table: HardwareTable, seed: int, index: int) -> Hardware:
    return Hardware(
        link=link_of(table),
        step_s=table.step_s,
        away=absences(table, Stream("away", seed, index)),
        on_at_s=Stream("start", seed, index).uniform(0.0, START_S) if index else 0.0,
        hub=table.hub,
    )


@lru_cache(maxsize=LINKS_KEPT)
def link_of(table: HardwareTable) -> Link:
    """One for all devices of a class."""
    return Link(
        up_bit_s=table.up_mbit * MBIT,
        down_bit_s=table.down_mbit * MBIT,
        latency_s=table.latency_s,
        jitter_s=table.jitter_s,
        loss=table.loss,
    )


def absences(table: HardwareTable, chance: Stream) -> Iterator[tuple[float, float]]:
    """(off from, on again at), without end; at any moment, each device is off with the probability `away`."""
    if not table.away:
        return
    on_s = table.away_s * (1 - table.away) / table.away
    at = chance.uniform(0.0, 2 * on_s)
    while True:
        back_at = at + table.away_s * chance.uniform(0.5, 1.5)
        yield at, back_at
        at = back_at + on_s * chance.uniform(0.5, 1.5)
