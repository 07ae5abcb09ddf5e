"""The trainer's behaviour: commands in, answers out, one local step at a time; no pipe and no process.

States: a session is open from the start; a phase is open or not; a lone training is under way or not; stepping
is paused or not. `handle` and `advance` return the answers to send. An error that is one command's own is an
answer; anything else is raised, and the process that owns the session reports it and ends.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: TID251 - models is torch's room
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID251 - models is torch's room

from models import messages
from models.messages import Answer, Command
from models.parameters import initial, schema_hash, schema_of
from models.partition import part_of
from models.tasks import Task, load_task
from models.training import Diverged, LocalTrainer, PhaseError


@dataclass(frozen=True)
class Examples:
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Lone:
    """A training apart from every phase, for comparison."""

    command: messages.Alone
    trainer: LocalTrainer


def open_session(command: messages.Open) -> "tuple[Session, messages.Opened]":
    """Raises TaskError, DataError, SchemaError, or whatever the user's own task raises."""
    torch.set_num_threads(command.threads)
    torch.manual_seed(command.seed)  # for models that draw while they train (dropout)
    task = load_task(command.task)
    dataset = task.load(None if command.data_folder is None else Path(command.data_folder), os.environ)
    mine = part_of(dataset, command.data_spec, command.model_seed)
    schema = schema_of(task.model(), task.segment)
    opened = messages.Opened(
        schema_hash=schema_hash(schema),
        tensors=tuple((tensor.name, tensor.size, tensor.segment) for tensor in schema),
        initial=initial(schema, command.model_seed).astype("<i8").tobytes(),
        examples=len(mine),
        classes=dataset.classes,
        rows=tuple(tensor.rows for tensor in schema),
    )
    own, test = dataset.take(mine), dataset.test()
    session = Session(
        task=task,
        own=Examples(torch.from_numpy(own[0]), torch.from_numpy(own[1])),
        test=Examples(torch.from_numpy(test[0]), torch.from_numpy(test[1])),
        seed=command.seed,
    )
    return session, opened


class Session:
    """`seed` orders the minibatches of this device's `own` examples; accuracy is that on `test`."""

    def __init__(self, task: Task, own: Examples, test: Examples, seed: int) -> None:
        self.closed = False
        self._task, self._own, self._test, self._seed = task, own, test, seed
        self._trainer = self._new_trainer()
        self._phase: messages.Begin | None = None
        self._lone: Lone | None = None
        self._paused = False
        self._before = b"", math.inf  # a model, and its loss on the examples that a Look looks at

    @property
    def busy(self) -> bool:
        """Whether `advance` has anything to do."""
        return not self._paused and (self._phase_has_steps or self._lone is not None)

    def handle(self, command: Command) -> list[Answer]:
        try:
            return self._obey(command)
        except (PhaseError, Diverged) as error:
            return [_failed(error, command)]

    def advance(self) -> list[Answer]:
        """One local step of the open phase, and one of the lone training."""
        answers: list[Answer] = []
        if self._phase is not None and self._phase_has_steps:
            answers += self._advance_phase(self._phase)
        if self._lone is not None:
            answers += self._advance_lone(self._lone)
        return answers

    @property
    def _phase_has_steps(self) -> bool:
        return self._phase is not None and self._trainer.steps < self._phase.max_steps

    def _obey(self, command: Command) -> list[Answer]:
        match command:
            case messages.Begin():
                if command.min_steps > command.max_steps:
                    raise PhaseError(f"min_steps {command.min_steps} exceed max_steps {command.max_steps}")
                self._trainer.begin(_vector(command.base))
                self._phase = command
            case messages.Rebase():
                self._trainer.rebase(_vector(command.change))
            case messages.Freeze():
                return [self._freeze(command)]
            case messages.Abandon():
                self._end(command)
                self._trainer.drop()
            case messages.Evaluate():
                score = self._trainer.evaluate(_vector(command.model), self._test.inputs, self._test.labels)
                return [messages.Evaluated(command.id, score.accuracy, score.loss, score.count)]
            case messages.Look():
                if command.before != self._before[0]:  # the model has moved since
                    self._before = command.before, self._trainer.look(_vector(command.before))
                after = self._trainer.look(_vector(command.after))
                return [messages.Looked(command.id, self._before[1], after)]
            case messages.Alone():
                if self._lone is not None:
                    raise PhaseError(f"lone training {self._lone.command.id} is not finished")
                trainer = self._new_trainer()
                trainer.begin(_vector(command.base))
                self._lone = Lone(command, trainer)
            case messages.Pause():
                self._paused = True
                self._before = command.before, self._trainer.look(_vector(command.before))
            case messages.Resume():
                self._paused = False
            case messages.Close():
                self.closed = True
            case messages.Open():
                raise PhaseError("the session is open already")
        return []

    def _end(self, command: messages.Freeze | messages.Abandon) -> None:
        if self._phase is None or self._phase.phase != command.phase:
            raise PhaseError(f"phase {command.phase} is not open")
        self._phase = None

    def _freeze(self, command: messages.Freeze) -> Answer:
        self._end(command)
        made = self._trainer.freeze()
        delta = made.delta.astype("<f4", copy=False).tobytes()
        return messages.Frozen(command.phase, delta, made.steps, made.examples, made.loss)

    def _advance_phase(self, phase: messages.Begin) -> list[Answer]:
        try:
            self._trainer.step()
        except Diverged as error:
            self._phase = None
            return [_failed(error, phase)]
        steps = self._trainer.steps
        return [messages.Eligible(phase.phase, steps)] if steps == phase.min_steps else []

    def _advance_lone(self, lone: Lone) -> list[Answer]:
        try:
            lone.trainer.step()
            if lone.trainer.steps < lone.command.steps:
                return []
            self._lone = None
            model = np.frombuffer(lone.command.base, "<f4") + lone.trainer.freeze().delta
            score = lone.trainer.evaluate(model, self._test.inputs, self._test.labels)
        except Diverged as error:
            self._lone = None
            return [_failed(error, lone.command)]
        return [messages.AloneDone(lone.command.id, score.accuracy)]

    def _new_trainer(self) -> LocalTrainer:
        return LocalTrainer(self._task, self._own.inputs, self._own.labels, self._seed)


def _vector(data: bytes) -> NDArray[np.float32]:
    if len(data) % 4:
        raise PhaseError(f"{len(data)} bytes are not a vector of float32")
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


def _failed(error: Exception, command: Command) -> messages.Failed:
    number = getattr(command, "phase", getattr(command, "id", None))
    return messages.Failed(str(error), fatal=False, command=type(command).__name__.lower(), number=number)
