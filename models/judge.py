"""Any model, judged by examples that are given: those of one device, say, or ones that somebody has tampered with."""

import numpy as np
import torch  # noqa: TID251 - models is torch's room
from numpy.typing import NDArray

from models.tasks import Task
from models.training import LocalTrainer, Score


class Judge:
    """inputs (n, ...) float32, scaled; labels (n,) int64."""

    def __init__(self, task: Task, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self._examples = torch.from_numpy(inputs), torch.from_numpy(labels)
        self._trainer = LocalTrainer(task, *self._examples, seed=0)

    def score(self, model: NDArray[np.float32]) -> Score:
        """Of a model, float32 of shape (parameters,).

        Raises PhaseError for a vector that does not fit, Diverged if the loss is not finite.
        """
        return self._trainer.evaluate(model, *self._examples)

    def look(self, model: NDArray[np.float32]) -> float:
        """Its mean loss as a member counts it that looks at a sum (`models.training.LocalTrainer.clipped_loss`)."""
        return self._trainer.clipped_loss(model, *self._examples)
