"""The local training of many devices of one swarm, as fast as one machine can do it; for simulations.

To every device it is a LocalTrainer: the same minibatches in the same order, the same momentum, the same rebases between
the same two steps, and so the same numbers but for the rounding of sums. Between devices it is free to choose when to
compute: `begin`, `advance` and `rebase` only write down what is owed. When a result is due, all that is owed by all
devices is computed. Devices with minibatches of one size train as a **group**: their parameters are rows of one matrix, and
a step is one computation on it (vmap). In a group each device goes as far as it owes; a rebase moves its row.

What that gains (figures: `STACKED_VALUES`): a step of a small model costs more in calls than in arithmetic, and a group
shares the calls. A step of a CNN is arithmetic, so there it is the **lanes** that help: groups are divided among
threads, each with one core.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch  # noqa: TID251 - models is torch's room
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID251 - models is torch's room
from torch.func import functional_call, vmap  # noqa: TID251 - models is torch's room

from models import messages
from models.datasets import Dataset
from models.parameters import initial, schema_hash, schema_of
from models.tasks import Task
from models.training import LOOK_EXAMPLES, Diverged, LocalTrainer, PhaseError

# Parameters in a group: more rows do not fit a core's cache, and each step waits for memory. CPU ms of one device's step
# of 16 examples by LocalTrainer, and here in groups of 1 / 2 / 4 / 8 / 16 / 32:
#   watch       3,703 parameters  1.02  1.79 / 1.14 / .72 / .52 / .43 / .44
#   fashion   108,874             1.97  3.05 / 2.36 / 2.00 / 1.91 / 1.91 / 2.10
#   keyboard  219,184             1.26  2.30 / 1.77 / 1.50 / 1.55 / 1.78 / 2.07
# Convolutions that are grouped by hand instead of by vmap saved 7 % of fashion's: not worth a second way.
STACKED_VALUES: Final = 800_000
GROUP_MIN: Final = 4
GROUP_MAX: Final = 16
REBASES_OWED_MAX: Final = 32  # by one device: each holds a vector as long as the model

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Phase:
    base: Tensor  # (parameters,), like the two below together
    model: list[Tensor]  # by tensor of the schema, flat: as of `steps`
    velocity: list[Tensor]
    owed: deque[int | Floats] = field(default_factory=deque)  # local steps and rebases, in order
    steps: int = 0
    loss_sum: float = 0.0
    diverged: bool = False

    @property
    def steps_owed(self) -> int:
        return sum(item for item in self.owed if isinstance(item, int))

    def count(self, loss: float) -> None:
        """A step has been taken."""
        self.steps += 1
        self.loss_sum += loss
        if not math.isfinite(self.loss_sum):
            self.diverged = True
            self.owed.clear()
            return
        head = self.owed.popleft()
        assert isinstance(head, int)
        if head > 1:
            self.owed.appendleft(head - 1)
        self.move()

    def move(self) -> None:
        """The rebases that come before the next step."""
        while self.owed and not isinstance(self.owed[0], int):
            change = torch.tensor(self.owed.popleft())
            self.base.add_(change)
            for tensor, moved in zip(self.model, torch.split(change, _sizes(self.model)), strict=True):
                tensor.add_(moved)


def _sizes(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.numel() for tensor in tensors]


class _Device:
    """What lasts from phase to phase: the examples, and the order in which LocalTrainer would take them."""

    def __init__(self, part: NDArray[np.int64], batch: int, seed: int) -> None:
        self.part = part
        self.batch = min(batch, len(part))
        self.phase: _Phase | None = None
        self.seed = seed
        self.looked_at: tuple[Tensor, Tensor] | None = None  # the examples by which it judges a sum
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self) -> NDArray[np.int64]:
        """The next minibatch, as indices into the data set."""
        if len(self._order) < self.batch:
            self._order = torch.randperm(len(self.part), generator=self._generator)
        picked, self._order = self._order[: self.batch], self._order[self.batch :]
        indices: NDArray[np.int64] = self.part[picked.numpy()]
        return indices


class BatchedTrainer:
    """Devices are numbered from 0; parts[d] are indices of d's examples in `dataset`, and seeds[d] orders them.

    lanes: threads to compute in, as many as cores; torch's own, which would only get in their way, are taken down to
    one. What devices do when is the same for any number, but a model that draws (dropout) draws otherwise.
    judged: how many of the test examples to evaluate by, from the first on; None for all.
    learning_rate: instead of the task's.
    Vectors that are passed in may be kept until they are used: leave them as they are.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        parts: Sequence[NDArray[np.int64]],
        seeds: Sequence[int],
        *,
        lanes: int = 1,
        judged: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self._task, self._dataset = task, dataset
        self._learning_rate = task.learning_rate if learning_rate is None else learning_rate
        self._trainable: list[Tensor] | None = None  # by tensor of the schema, 1 or 0 a parameter
        self._devices = [_Device(part, task.batch, seed) for part, seed in zip(parts, seeds, strict=True)]
        # functional_call exchanges a module's parameters while it runs, so each lane has a module of its own.
        self._modules = [task.model() for _ in range(lanes)]
        self._schema = schema_of(self._modules[0], task.segment)
        self._size = sum(tensor.size for tensor in self._schema)
        self._group = min(max(STACKED_VALUES // self._size, GROUP_MIN), GROUP_MAX)
        inputs, labels = dataset.take(np.flatnonzero(dataset.held_out)[:judged])
        self._test = torch.from_numpy(inputs), torch.from_numpy(labels)
        self._judge = LocalTrainer(task, *self._test, seed=0)

    def opened(self, model_seed: int) -> list[messages.Opened]:
        """What each device's trainer process would say to Open: the model that all start from, and what it holds."""
        fingerprint = schema_hash(self._schema)
        tensors = tuple((tensor.name, tensor.size, tensor.segment) for tensor in self._schema)
        rows = tuple(tensor.rows for tensor in self._schema)
        start = initial(self._schema, model_seed).astype("<i8").tobytes()
        return [
            messages.Opened(fingerprint, tensors, start, len(device.part), self._dataset.classes, rows)
            for device in self._devices
        ]

    def restrict(self, trainable: NDArray[np.bool_]) -> None:
        """From the next step that is computed, parameters where `trainable`, (parameters,), is false stay as they are."""
        if trainable.shape != (self._size,):
            raise PhaseError(f"expected {self._size} parameters, got {trainable.shape}")
        sizes = [tensor.size for tensor in self._schema]
        self._trainable = list(torch.split(torch.from_numpy(trainable.astype(np.float32)), sizes))

    def examples(self, device: int) -> int:
        """How many this device holds."""
        return len(self._devices[device].part)

    def begin(self, device: int, base: Floats) -> None:
        """Open a phase at `base`, (parameters,) float32. One that is open is dropped, and what it owes never computed.

        Raises PhaseError for a base of the wrong length or with non-finite values.
        """
        self._check(base)
        mine = self._devices[device]
        if mine.phase is not None:
            self.drop(device)
        start = torch.tensor(base)
        model = torch.split(start.clone(), [tensor.size for tensor in self._schema])
        mine.phase = _Phase(start, list(model), [torch.zeros_like(tensor) for tensor in model])

    def drop(self, device: int) -> None:
        """End the phase; what it owes is never computed. Raises PhaseError outside one."""
        phase, mine = self._open(device), self._devices[device]
        for _ in range(phase.steps_owed):  # LocalTrainer would have taken these steps by now
            mine.draw()
        mine.phase = None

    def advance(self, device: int, steps: int) -> None:
        """Owe so many local steps. Raises PhaseError outside a phase or for a negative number."""
        phase = self._open(device)
        if steps < 0:
            raise PhaseError(f"{steps} local steps cannot be taken")
        if not steps or phase.diverged:
            return
        if phase.owed and isinstance(phase.owed[-1], int):
            phase.owed[-1] += steps
        else:
            phase.owed.append(steps)

    def rebase(self, device: int, change: Floats) -> None:
        """The shared model moved by `change`, (parameters,) float32, after the steps owed so far. Raises PhaseError."""
        phase = self._open(device)
        self._check(change)
        if phase.diverged:
            return
        phase.owed.append(change)
        if len(phase.owed) > 2 * REBASES_OWED_MAX:
            self.flush()

    def freeze(self, device: int) -> tuple[Floats, int, float]:
        """End the phase: delta (parameters,), steps, and their mean loss, 0 after none.

        Raises PhaseError outside a phase, Diverged if the loss or the delta has left the finite numbers.
        """
        phase = self._open(device)
        if phase.owed:
            self.flush()
        self._devices[device].phase = None
        if phase.diverged:
            raise Diverged(f"the loss is not finite after {phase.steps} local steps")
        delta = torch.cat(phase.model) - phase.base
        if not torch.isfinite(delta).all():
            raise Diverged(f"the delta is not finite after {phase.steps} local steps")
        return delta.numpy(), phase.steps, phase.loss_sum / max(phase.steps, 1)

    def evaluate(self, model: Floats) -> tuple[float, float]:
        """Accuracy and mean loss on the test set. Raises PhaseError as `begin`, Diverged for a loss that is not finite."""
        score = self._judge.evaluate(model, *self._test)
        return score.accuracy, score.loss

    def look(self, device: int, model: Floats) -> float:
        """As `LocalTrainer.look`, on this device's examples."""
        mine = self._devices[device]
        if mine.looked_at is None:
            chosen = torch.randperm(len(mine.part), generator=torch.Generator().manual_seed(mine.seed))
            taken = self._dataset.take(mine.part[chosen[:LOOK_EXAMPLES].numpy()])
            mine.looked_at = torch.from_numpy(taken[0]), torch.from_numpy(taken[1])
        return self._judge.clipped_loss(model, *mine.looked_at)

    def flush(self) -> None:
        """Compute all that is owed."""
        groups = self._groups()
        lanes = [groups[lane :: len(self._modules)] for lane in range(len(self._modules))]
        if not any(lanes[1:]):
            self._train_groups(self._modules[0], lanes[0])
            return
        with ThreadPoolExecutor(len(lanes)) as pool:
            for _ in pool.map(self._train_groups, self._modules, lanes):
                pass  # raises what a lane raised

    def _groups(self) -> list[list[_Device]]:
        """Devices that owe steps, the most first: by size of minibatch, in even groups that the lanes can share."""
        owing: dict[int, list[tuple[int, _Device]]] = {}
        for device in self._devices:
            if device.phase is None:
                continue
            device.phase.move()
            if steps := device.phase.steps_owed:
                owing.setdefault(device.batch, []).append((steps, device))
        groups = []
        for batch in sorted(owing):
            ranked = [device for _, device in sorted(owing[batch], key=lambda pair: -pair[0])]
            count = -(-len(ranked) // self._group)
            count = min(-(-count // len(self._modules)) * len(self._modules), len(ranked))
            bounds = [len(ranked) * part // count for part in range(count + 1)]
            groups += [ranked[start:end] for start, end in itertools.pairwise(bounds)]
        return groups

    def _train_groups(self, module: nn.Module, groups: Iterable[list[_Device]]) -> None:
        def loss(values: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
            return self._task.loss(functional_call(module, values, (inputs,)), labels)

        losses = vmap(loss, randomness="different")  # dropout draws for each device, as it would on its own
        for group in groups:
            rows = group
            while rows:
                rows = self._train(losses, rows)

    def _train(self, losses_of: Callable[..., Tensor], devices: list[_Device]) -> list[_Device]:
        """Train until one of these devices owes no more or diverges; return those that go on."""
        phases = [device.phase for device in devices if device.phase is not None]
        models = [torch.stack(rows) for rows in zip(*(phase.model for phase in phases), strict=True)]
        velocities = [torch.stack(rows) for rows in zip(*(phase.velocity for phase in phases), strict=True)]
        for place, phase in enumerate(phases):
            phase.model = [model[place] for model in models]  # views, so that a rebase moves these rows
        tensors = {
            spec.name: model.view(-1, *spec.shape).detach().requires_grad_()
            for spec, model in zip(self._schema, models, strict=True)
        }
        while all(phase.owed for phase in phases):
            taken = self._dataset.take(np.concatenate([device.draw() for device in devices]))
            inputs, labels = (
                torch.from_numpy(part.reshape(len(devices), -1, *part.shape[1:])) for part in taken
            )
            losses = losses_of(tensors, inputs, labels)
            gradients = torch.autograd.grad(losses.sum(), list(tensors.values()))
            flat = [gradient.flatten(1) for gradient in gradients]
            if self._trainable is not None:
                flat = [gradient * trained for gradient, trained in zip(flat, self._trainable, strict=True)]
            for model, velocity, gradient in zip(models, velocities, flat, strict=True):
                velocity.mul_(self._task.momentum).add_(gradient)
                model.add_(velocity, alpha=-self._learning_rate)
            for phase, loss in zip(phases, losses.tolist(), strict=True):
                phase.count(loss)
        for place, phase in enumerate(phases):  # copies: one phase that lasts must not hold the whole group
            phase.model = [model[place].clone() for model in models]
            phase.velocity = [velocity[place].clone() for velocity in velocities]
        return [device for device, phase in zip(devices, phases, strict=True) if phase.owed]

    def _open(self, device: int) -> _Phase:
        phase = self._devices[device].phase
        if phase is None:
            raise PhaseError("no phase is open")
        return phase

    def _check(self, vector: Floats) -> None:
        if vector.shape != (self._size,) or not np.isfinite(vector).all():
            raise PhaseError(f"expected {self._size} finite parameters, got {vector.shape}")
