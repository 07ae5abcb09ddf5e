"""A task: what is learned, by which model, from which examples, and how well it goes.

The packaged ones go by name; a user's own is any importable `Task`, named `package.module:attribute`.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn  # noqa: TID251 - models is torch's room
from torch.nn import functional  # noqa: TID251 - models is torch's room

from models import architectures, datasets

DATA_VARIABLE = (
    "GOSSAMER_DATA"  # names a folder with one folder for each data set that does not travel with us
)

_OWN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class TaskError(ValueError):
    """The task cannot be used; the message says what about it to change."""


def correct_classes(outputs: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: where the largest of the outputs (N, classes) is the label's."""
    return outputs.argmax(1) == labels


def _one_segment(_tensor: str) -> int:
    return 0


def _layers(*layers: tuple[str, ...]) -> Callable[[str], int]:
    """A segment for each layer, in this order, by how its tensors' names begin."""
    return lambda tensor: next(place for place, prefixes in enumerate(layers) if tensor.startswith(prefixes))


@dataclass(frozen=True)
class Task:
    """What is learned, and how.

    data: from a folder, or None for the packaged or installed examples, to all examples.
    model: a fresh module; its initial values are replaced by the swarm's.
    loss: (outputs, labels) to the mean loss of a minibatch, a scalar that can be differentiated.
    correct: (outputs, labels) to (N,) bool; its mean over the test set is the accuracy.
    segment: from a tensor's name to the segment, 0-63, with which it is trained or frozen.
    shelf: the name of this data set's folder where GOSSAMER_DATA points; "" for data that is not looked for there.
    """

    name: str
    data: Callable[[Path | None], datasets.Dataset]
    model: Callable[[], nn.Module]
    batch: int
    learning_rate: float
    momentum: float
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    correct: Callable[[Tensor, Tensor], Tensor] = correct_classes
    segment: Callable[[str], int] = _one_segment
    shelf: str = ""

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise TaskError(f"task {self.name!r} needs batch >= 1, learning_rate > 0 and 0 <= momentum < 1")

    def load(self, folder: Path | None, environ: Mapping[str, str]) -> datasets.Dataset:
        """All examples: from `folder`, else from GOSSAMER_DATA's, else the packaged or installed. Raises DataError."""
        if folder is None and self.shelf and environ.get(DATA_VARIABLE):
            shelf = Path(environ[DATA_VARIABLE]) / self.shelf
            folder = shelf if shelf.is_dir() else None
        return self.data(folder)


PACKAGED = {
    task.name: task
    for task in (
        Task("watch", datasets.watch, architectures.watch_net, batch=32, learning_rate=0.1, momentum=0.9),
        Task("digits", datasets.digits, architectures.digits_net, batch=32, learning_rate=0.1, momentum=0.9),
    )
}
_SHELVED = {
    task.name: task
    for task in (
        Task(
            "fashion",
            datasets.fashion,
            architectures.fashion_net,
            batch=16,
            learning_rate=0.02,
            momentum=0.9,
            segment=_layers(("1.", "3."), ("5.", "6."), ("9.",), ("11.",)),
            shelf="fashion-mnist",
        ),
        Task(
            "keyboard",
            datasets.keyboard,
            architectures.KeyboardNet,
            batch=16,
            learning_rate=0.02,
            momentum=0.9,
            segment=_layers(("embedding.",), ("hidden.",), ("proposal.",), ("frequency",)),
            shelf="fortunes",
        ),
    )
}


def load_task(name: str) -> Task:
    """The task of that name. Raises TaskError.

    Importing a user's own module runs it: only a name that this device's user wrote or accepted may come here,
    never one that merely arrived from a peer.
    """
    if name in PACKAGED:
        return PACKAGED[name]
    if name in _SHELVED:
        return _SHELVED[name]
    if not _OWN.fullmatch(name):
        raise TaskError(
            f"no task {name!r}: choose among {sorted(PACKAGED)} or write package.module:attribute; "
            f"{' and '.join(_SHELVED)} need data that is installed apart"
        )
    module_name, _, attribute = name.partition(":")
    try:
        task = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise TaskError(f"task {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(f"task {name!r} is a {type(task).__name__}, not a models.tasks.Task")
    return task
