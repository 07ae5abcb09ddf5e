"""A member lies in every message: correctly signed, of the right type, and wrong in its meaning.

It takes what it saw on the wire, changes one thing or several, signs that as its own, and sends it to everybody. Nothing but a
counted violation may come of it: no exception leaves a core, no invariant breaks, and the honest members go on.
"""

import os
import random

import msgpack
import pytest

from gossip.events import Heard, Received
from gossip.manifest import Manifest
from gossip.messages import BODY_TYPES, COHORT_KINDS, Frame, Kind, statement
from gossip.wire import pack, unpack
from tests.simulation.harness import World

SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "6"))
LIES = 1500


def mutate(rng: random.Random, value: object) -> object:
    """One plausible change somewhere inside."""
    match value:
        case list() if value and rng.random() < 0.75:
            place = rng.randrange(len(value))
            return [*value[:place], mutate(rng, value[place]), *value[place + 1 :]]
        case list():
            kinds = [[], value + value[:1], value[:-1], list(reversed(value)), value * 2]
            return rng.choice(kinds)
        case bytes() if value and rng.random() < 0.7:
            place = rng.randrange(len(value))
            return value[:place] + bytes([value[place] ^ 1 << rng.randrange(8)]) + value[place + 1 :]
        case bytes():
            return rng.choice(
                [
                    b"",
                    bytes(len(value)),
                    value + b"\0",
                    value[:-1],
                    rng.randbytes(len(value)),
                    b"\xff" * len(value),
                ]
            )
        case int():
            return rng.choice([0, 1, value + 1, max(0, value - 1), 31, 255, 1 << 20, (1 << 47) + 1])
    return value


def lie(rng: random.Random, world: World, liar, frames: list[bytes]) -> bytes:
    """A frame that the liar signs: a changed body, now and then under another cohort, phase or kind."""
    frame = unpack(rng.choice(frames), Frame, limit_bytes=1 << 24)
    body = frame.body
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        body = msgpack.packb(mutate(rng, msgpack.unpackb(body)))
        if rng.random() < 0.3:  # frames inside: rosters, shares and greetings carry others' words
            body = body.replace(b"\x00" * 4, rng.randbytes(4), 1)
    kind = Kind(frame.kind)
    cohort, phase = frame.cohort, frame.phase
    if kind in COHORT_KINDS:
        other = unpack(rng.choice(frames), Frame, limit_bytes=1 << 24)
        cohort = other.cohort if other.cohort and rng.random() < 0.3 else cohort
        phase = rng.choice([phase, phase, 1])
    signature = liar.identity.sign(*statement(world.swarm.id, kind, cohort, phase, body))
    return pack(Frame(1, kind, cohort, phase, liar.key, body, signature))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_lies_break_nothing(seed):
    rng = random.Random(f"lies/{seed}")
    world = World(100 + seed, 6)
    world.run(8)
    liar = world.devices[5]
    honest = world.devices[:5]
    told = 0
    while told < LIES:
        world.run(rng.uniform(0.02, 0.3))
        frames = world._old_frames[-400:]
        for _ in range(25):
            frame, victim = lie(rng, world, liar, frames), rng.choice(honest)
            event = Heard(liar.key, frame) if rng.random() < 0.1 else Received(liar.key, frame)
            world._perform(victim, victim.core.handle(event, world.now))
            told += 1
    before = [int(device.core.status(world.now)["round"]) for device in honest]
    assert world.run(
        120,
        until=lambda: all(
            int(d.core.status(world.now)["round"]) > b for d, b in zip(honest, before, strict=True)
        ),
    )
    violations = [r for _, i, r in world.reports if r.name == "violation" and i != 5]
    assert len(violations) > LIES / 10


def test_every_kind_is_lied_about():
    world = World(7, 6)
    world.run(12)
    seen = {unpack(frame, Frame, limit_bytes=1 << 24).kind for frame in world._old_frames}
    assert len(seen) >= 15
    assert set(BODY_TYPES) >= seen
    assert isinstance(world.swarm.manifest, Manifest)
