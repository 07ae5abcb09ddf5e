"""Episodes: a fresh world, and so many hostile messages of one kind while it goes on. A number makes each of them again."""

from collections.abc import Callable

from gossip.events import Received
from gossip.frames import ADMISSION_KINDS, Kind
from tests.fuzz.arena import Arena, FaultFoundError
from tests.fuzz.choices import Choices, Seeded, one_in
from tests.fuzz.hostile import Hostile
from tests.simulation.harness import Device

INPUTS = 1000  # of an episode
STEP_S = 0.03


class FailedError(AssertionError):
    """With the input, and what makes it again."""


def one_input(arena: Arena, kind: Kind, choices: Choices) -> None:
    """FaultFoundError if a core is at fault."""
    hostile = Hostile(arena, choices)
    arena.last = hostile.events(kind)
    arena.feed(arena.last)
    if one_in(choices, 8):
        arena.alter = lambda speaker, data: _altered(arena, hostile, kind, speaker, data)
        arena.go_on(STEP_S * (1 + choices.below(8)))


def _altered(arena: Arena, hostile: Hostile, kind: Kind, speaker: Device, data: bytes) -> bytes:
    if data[2] != kind or not hostile.one_in(2):
        return data
    arena.victim.core._offences.clear()
    altered = hostile.altered(kind, speaker.identity, data)
    arena.last = [Received(speaker.key, altered)]
    return altered


def arena_of(kind: Kind, number: int) -> Arena:
    return Arena(number, invite=kind in ADMISSION_KINDS and number % 8 != 7)


def episode(
    kind: Kind, number: int, inputs: int = INPUTS, told: Callable[[int], None] = lambda _count: None
) -> None:
    """FailedError with the frames of the input that a core is at fault with."""
    arena, choices = arena_of(kind, number), Seeded(f"{kind.name}/{number}")
    for count in range(inputs):
        try:
            one_input(arena, kind, choices)
        except FaultFoundError as error:
            frames = " ".join(event.data.hex() for event in arena.last)
            raise FailedError(
                f"{kind.name}: {error}\ninput {count} of episode {number}: {frames}\n"
                f"replay: python -m tests.fuzz --kind {kind.name} --episode {number} --inputs {count + 1}"
            ) from error
        told(1)
    try:
        arena.go_on(3.0)
    except FaultFoundError as error:
        raise FailedError(
            f"{kind.name}: {error}\nafter all {inputs} inputs of episode {number}\n"
            f"replay: python -m tests.fuzz --kind {kind.name} --episode {number} --inputs {inputs}"
        ) from error
