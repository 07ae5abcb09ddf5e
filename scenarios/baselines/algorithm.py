"""What an algorithm is to the run that drives it, and what all of them share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip.events import Floats
from scenarios.baselines.world import World


class Training(Protocol):
    """All devices' local training (`scenarios.virtual.run.TimedTraining`)."""

    def examples(self, device: int) -> int: ...

    def begin(self, device: int, base: Floats) -> None: ...

    def advance(self, device: int, steps: int) -> None: ...

    def freeze(self, device: int) -> tuple[Floats, int, float]: ...

    def restrict(self, trainable: NDArray[np.bool_]) -> None: ...


@dataclass(slots=True)
class Stage:
    """Where an algorithm acts: the world, the devices' training, one model that all start from, chance of its own."""

    world: World
    training: Training
    initial: Floats
    rng: np.random.RandomState  # the legacy generator, whose stream is frozen for good (NumPy's NEP 19)
    steps: list[int]  # taken by each device

    def train(self, device: int, base: Floats, steps: int, then: Callable[[Floats | None], None]) -> None:
        """`then` gets the delta, or None where training has left the finite numbers."""
        self.training.begin(device, base)
        self.training.advance(device, steps)

        def done() -> None:
            self.steps[device] += steps
            try:
                delta, _, _ = self.training.freeze(device)
            except ArithmeticError:
                then(None)
            else:
                then(delta)

        self.world.compute(device, steps, done)

    def sample(self, count: int, among: list[int]) -> list[int]:
        chosen: list[int] = self.rng.choice(among, count, replace=False).tolist()
        return chosen


class Algorithm(Protocol):
    central: bool  # the model is a server's, and devices have it by a last broadcast
    rounds: int  # updates of the server's model, or of the least advanced device's own
    fresh: bool  # models have changed since the run last looked; the run sets it back

    def start(self) -> None: ...

    def models(self) -> list[Floats]:
        """The server's alone, or one a device."""
