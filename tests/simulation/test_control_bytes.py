"""What one secure sum costs a plain member in bytes besides the vectors: the figures of docs/decisions/0005 and 0018.

pytest -s tests/simulation/test_control_bytes.py prints them.
"""

import sys
from collections import Counter

import pytest

from gossip.cohort.messages import Ready, Roster
from gossip.cohort.roster import open_roster
from gossip.frames import open_frame
from gossip.secure_sum.messages import BodyProposal, Masked
from tests.simulation.harness import World

BOUND = {8: 6_000, 16: 9_600}


def payload_bytes(body: object) -> int:
    """The part of a message that is a vector or the sums: what a smaller protocol cannot save."""
    match body:
        case Masked(_, vector):
            return len(vector)
        case BodyProposal(sums):
            return len(sums)
    return 0


def control_bytes(n: int) -> dict[str, float]:
    """Bytes by kind, sent and received, of the first cohort's members without a role; the mean of them."""
    world = World(1, n, n_min=n)
    cohorts: list[object] = []
    frames: list[tuple[bytes, bytes, bytes]] = []
    honest = world._send

    def spy(device, peer, data):
        message = open_frame(world.swarm.id, data, device.key)
        if isinstance(message.body, Roster) and not cohorts:
            cohorts.append(open_roster(world.swarm, message))
        if device.key != peer:
            frames.append((device.key, peer, data))
        honest(device, peer, data)

    world._send = spy
    assert world.run(60, until=lambda: min(world.rounds()) >= 1)
    cohort = cohorts[0]
    plain = [m for m in cohort.members if m not in {cohort.leader, *cohort.aggregators}]
    counted: Counter[str] = Counter()
    for sender, receiver, data in frames:
        message = open_frame(world.swarm.id, data, sender)
        first = isinstance(message.body, Roster | Ready) and message.body.round == 1
        if message.cohort == cohort.id or first:
            size = len(data) - payload_bytes(message.body)
            counted[message.kind.name] += size * (sender in plain) + size * (receiver in plain)
    return {kind: total / len(plain) for kind, total in counted.most_common()}


@pytest.mark.parametrize("n", [8, 16])
def test_the_control_bytes_of_one_sum(n):
    counted = control_bytes(n)
    total = sum(counted.values())
    kinds = ", ".join(f"{kind} {size:.0f}" for kind, size in counted.items())
    sys.stdout.write(f"\nn = {n}: {total:.0f} = {kinds}\n")
    assert 0 < total < BOUND[n], kinds
