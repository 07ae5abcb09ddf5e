"""Training on one device's own examples: a base in, bounded local steps, a delta out.

A phase starts from a base x, a replica of the shared model, and moves a working model y by minibatch SGD with
momentum. When the shared model changes by d meanwhile, both move (*rebase*): the delta y - x goes on measuring
this device's learning alone, and it is never stale. Momentum starts at zero in every phase; the order of the
examples goes on from one phase to the next, so that short phases see all of them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID251 - models is torch's room
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID251 - models is torch's room

from models.parameters import bind
from models.tasks import Task

EVALUATION_BATCH = 256
LOOK_EXAMPLES = 16  # of this device's own, the same each time, by which it judges what a sum does
LOSS_MAX = 3.0  # nats that one of them counts at most, so that one odd example decides nothing


class Diverged(ArithmeticError):
    """Training left the finite numbers. The phase is over and its delta lost; a lower learning rate may help."""


class PhaseError(RuntimeError):
    """Asked for out of turn, or with a vector that does not fit the model. Nothing has changed."""


@dataclass(frozen=True)
class Contribution:
    delta: NDArray[np.float32]  # (parameters,): y - x
    steps: int
    examples: int  # distinct ones that the steps can have seen: the contribution's weight
    loss: float  # mean over the steps; 0 after none


@dataclass(frozen=True)
class Score:
    accuracy: float
    loss: float
    count: int


class LocalTrainer:
    """inputs (n, ...) float32 and labels (n,) int64 are this device's part; `seed` orders its minibatches."""

    def __init__(self, task: Task, inputs: Tensor, labels: Tensor, seed: int) -> None:
        self._task, self._inputs, self._labels, self._seed = task, inputs, labels, seed
        self._model = task.model()
        self._y, self._gradient = bind(self._model)
        self._velocity = torch.zeros_like(self._y)
        self._base: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._batch = min(task.batch, len(labels))
        self.steps = 0
        self._loss_sum = 0.0

    def begin(self, base: NDArray[np.float32]) -> None:
        """Raises PhaseError while a phase is open, or for a base of the wrong length or with non-finite values."""
        if self._base is not None:
            raise PhaseError("a phase is open: freeze or drop it first")
        self._base = self._checked(base)
        self._y.copy_(self._base)
        self._velocity.zero_()
        self.steps, self._loss_sum = 0, 0.0

    def step(self) -> None:
        """One minibatch of SGD. Raises Diverged, which ends the phase."""
        if self._base is None:
            raise PhaseError("no phase is open")
        if len(self._order) < self._batch:
            self._order = torch.randperm(len(self._labels), generator=self._generator)
        picked, self._order = self._order[: self._batch], self._order[self._batch :]
        self._gradient.zero_()
        loss = self._task.loss(self._model(self._inputs[picked]), self._labels[picked])
        loss.backward()  # type: ignore[no-untyped-call]
        self._velocity.mul_(self._task.momentum).add_(self._gradient)
        self._y.add_(self._velocity, alpha=-self._task.learning_rate)
        self.steps += 1
        self._loss_sum += loss.item()
        if not math.isfinite(self._loss_sum):
            self._base = None
            raise Diverged(f"the loss is not finite after {self.steps} local steps")

    def rebase(self, change: NDArray[np.float32]) -> None:
        """The shared model moved by `change`, (parameters,) float32. Raises PhaseError outside a phase."""
        if self._base is None:
            raise PhaseError("no phase is open")
        moved = self._checked(change)
        self._base.add_(moved)
        self._y.add_(moved)

    def freeze(self) -> Contribution:
        """End the phase. Raises PhaseError outside one, Diverged if the delta is not finite."""
        if self._base is None:
            raise PhaseError("no phase is open")
        delta, self._base = self._y - self._base, None
        if not torch.isfinite(delta).all():
            raise Diverged(f"the delta is not finite after {self.steps} local steps")
        examples = min(len(self._labels), self.steps * self._batch)
        return Contribution(delta.numpy(), self.steps, examples, self._loss_sum / max(self.steps, 1))

    def drop(self) -> None:
        """End the phase, and forget what it found. Raises PhaseError outside one."""
        if self._base is None:
            raise PhaseError("no phase is open")
        self._base = None

    def evaluate(self, model: NDArray[np.float32], inputs: Tensor, labels: Tensor) -> Score:
        """Judge any model by labelled examples; an open phase does not notice.

        Raises PhaseError for a vector that does not fit, Diverged if the loss is not finite.
        """
        other, mine = self._checked(model), self._y.clone()
        correct, loss = 0, 0.0
        self._model.eval()
        try:
            self._y.copy_(other)
            with torch.no_grad():
                for start in range(0, len(labels), EVALUATION_BATCH):
                    batch = slice(start, start + EVALUATION_BATCH)
                    outputs, expected = self._model(inputs[batch]), labels[batch]
                    correct += int(self._task.correct(outputs, expected).sum())
                    loss += self._task.loss(outputs, expected).item() * len(expected)
        finally:
            self._y.copy_(mine)
            self._model.train()
        if not math.isfinite(loss):
            raise Diverged("the loss on the test set is not finite")
        return Score(correct / len(labels), loss / len(labels), len(labels))

    def look(self, model: NDArray[np.float32]) -> float:
        """The mean loss of LOOK_EXAMPLES of this device's own examples under any model, in nats.

        A loss that is not a number counts LOSS_MAX. Raises PhaseError for a vector that does not fit.
        """
        chosen = torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(self._seed))
        few = chosen[:LOOK_EXAMPLES]
        return self.clipped_loss(model, self._inputs[few], self._labels[few])

    def clipped_loss(self, model: NDArray[np.float32], inputs: Tensor, labels: Tensor) -> float:
        """Of any model on any examples, each of which counts LOSS_MAX at most."""
        if not np.isfinite(model).all():
            return LOSS_MAX
        other, mine = self._checked(model), self._y.clone()
        self._model.eval()
        try:
            self._y.copy_(other)
            with torch.no_grad():
                outputs = self._model(inputs)
                each = [
                    self._task.loss(outputs[i : i + 1], labels[i : i + 1]).item() for i in range(len(labels))
                ]
        finally:
            self._y.copy_(mine)
            self._model.train()
        return sum(min(loss, LOSS_MAX) if math.isfinite(loss) else LOSS_MAX for loss in each) / len(each)

    def _checked(self, vector: NDArray[np.float32]) -> Tensor:
        if vector.shape != (len(self._y),) or not np.isfinite(vector).all():
            raise PhaseError(f"expected {len(self._y)} finite parameters, got {vector.shape}")
        return torch.tensor(vector, dtype=torch.float32)
