"""The trainer of a virtual device: real phases, at the speed of its hardware."""

import math
from typing import Final, Protocol

from gossip.events import Floats, Train

TRAINER_S: Final = 1.0  # for a trainer to start, and to come back after a failure
CATCH_UP_S: Final = 1.0  # local steps that are owed for longer are asked for with the next result
LOOK_STEPS: Final = 1 / 3  # of a local step: forward alone; the loss without the sum is known by then
NEARLY: Final = 1e-6  # of a local step: times are floats


class Phases(Protocol):
    """The local training of all devices, each with one phase at a time. What is asked for may wait until a result is due."""

    def examples(self, device: int) -> int:
        """How many this device holds."""

    def begin(self, device: int, base: Floats) -> None:
        """Open a phase at `base`, (parameters,) float32; an open one of this device is dropped."""

    def advance(self, device: int, steps: int) -> None:
        """So many local steps of the open phase."""

    def rebase(self, device: int, change: Floats) -> None:
        """The shared model moves by `change`, (parameters,) float32, between two steps."""

    def freeze(self, device: int) -> tuple[Floats, int, float]:
        """End the phase: its delta, steps and mean loss. Raises ArithmeticError for one that diverged."""

    def drop(self, device: int) -> None:
        """End the phase, and compute nothing more of it."""

    def look(self, device: int, model: Floats) -> float:
        """The mean loss of a few examples of this device's own, in nats."""

    def evaluate(self, model: Floats) -> tuple[float, float]:
        """Accuracy and loss on the test set. Raises ArithmeticError where they are not finite."""


class VirtualTrainer:
    """One device's trainer: which local steps it owes at what time."""

    def __init__(self, device: int, step_s: float, phases: Phases) -> None:
        self.phase: int | None = None  # that takes steps
        self.steps = 0  # asked of `phases` in this phase
        self.steps_before = 0  # in all earlier ones, also in those that came to nothing
        self._device = device
        self._step_s = step_s
        self._phases = phases
        self._began = 0.0
        self._paused_at: float | None = None
        self._max_steps = 0

    def begin(self, train: Train, now: float) -> float:
        """Open a phase; when it will be eligible."""
        self.forget()
        self._phases.begin(self._device, train.base)
        self.phase, self._began, self._max_steps = train.phase, now, train.max_steps
        self._paused_at = None if self._paused_at is None else now
        return now + train.min_steps * self._step_s

    def drop(self, now: float) -> None:
        """Its steps until now were taken, for nothing."""
        self.catch_up(now)
        if self.phase is not None:
            self._phases.drop(self._device)
        self.forget()

    def forget(self) -> None:
        self.phase = None
        self.steps_before += self.steps
        self.steps = 0

    def pause(self, now: float) -> None:
        """No local step begins until `resume`."""
        if self._paused_at is None:
            self._paused_at = self.ends_step_at(now) if self.phase is not None else now

    def resume(self, now: float) -> None:
        if self._paused_at is not None:
            self._began += max(0.0, now - self._paused_at)
            self._paused_at = None

    def eligible_at(self, train: Train, now: float) -> float:
        """When the phase has taken its steps, as things stand; looked at again a step later while it pauses."""
        at = self._began + train.min_steps * self._step_s
        return (
            at - NEARLY * self._step_s
            if self._paused_at is None or at <= self._paused_at
            else now + self._step_s
        )

    def catch_up(self, now: float) -> None:
        if self.phase is None:
            return
        now = now if self._paused_at is None else min(now, self._paused_at)
        done = min(self._max_steps, int((now - self._began) / self._step_s + NEARLY))
        if done > self.steps:
            self._phases.advance(self._device, done - self.steps)
            self.steps = done

    def rebase(self, change: Floats, now: float) -> None:
        if self.phase is not None:
            self.catch_up(now)
            self._phases.rebase(self._device, change)

    def free_at(self, now: float) -> float:
        """When it can answer a question: after the step that is under way."""
        return now if self.phase is None else max(now, self._paused_at or self.ends_step_at(now))

    def ends_step_at(self, now: float) -> float:
        """When the step under way will be done: a trainer listens between two of them."""
        done = math.ceil((now - self._began) / self._step_s - NEARLY)
        return max(now, self._began + done * self._step_s) if done <= self._max_steps else now

    def freeze(self, now: float) -> tuple[Floats, int, float]:
        self.catch_up(now)
        try:
            return self._phases.freeze(self._device)
        finally:
            self.forget()
