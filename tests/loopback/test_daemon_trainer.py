"""The daemon's side of the trainer: with real workers, and with scripted ones that misbehave."""

import contextlib
import os
import signal
import sys

import numpy as np
import psutil
import pytest
import structlog
import trio

from gossip.events import (
    Abandon,
    Eligible,
    Evaluate,
    Evaluated,
    Freeze,
    Frozen,
    Rebase,
    Train,
    TrainerFailed,
    TrainerReady,
)
from models import messages
from node.daemon import trainer as trainer_module
from node.daemon.trainer import QUICK_FAILURES, TaskRefused, Trainer, TrainerDown

DIGITS = messages.Open("digits", "shard=1/10", None, seed=1, model_seed=7)
PARAMETERS = 2410
ZERO = np.zeros(PARAMETERS, np.float32)
PATIENCE_S = 60

# A worker without torch, of as many parameters as the vectors have that it is sent. What it does is a line of Python.
SCRIPTED = """
import os, signal, sys
from models import messages as m
reader, commands = m.FrameReader(), []
def hear():
    while not commands:
        data = os.read(0, 65536)
        if not data: sys.exit(0)
        commands.extend(m.read_command(payload) for payload in reader.feed(data))
    return commands.pop(0)
def say(*answers):
    for answer in answers: sys.stdout.buffer.write(m.frame(answer))
    sys.stdout.buffer.flush()
opened = m.Opened(b"schema", (("w", 1, 0),), bytes(8), 10, 2, (0,))
"""


class Told:
    """The events of a trainer, in order; waiting for the next one is bounded by the test's deadline."""

    def __init__(self):
        self.events = []
        self._more = trio.Event()

    def __call__(self, event):
        self.events.append(event)
        self._more.set()

    async def next(self, kind):
        while not self.events:
            self._more = trio.Event()
            await self._more.wait()
        event = self.events.pop(0)
        assert isinstance(event, kind), event
        return event


@contextlib.asynccontextmanager
async def a_trainer(script=None):
    argv = trainer_module.WORKER if script is None else (sys.executable, "-c", SCRIPTED + script)
    told, log = Told(), structlog.testing.CapturingLogger()
    trainer = Trainer(told, log, argv)
    trainer.told, trainer.log_calls = told, log.calls
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            trainer.nursery = nursery
            nursery.start_soon(trainer.run)
            yield trainer
            nursery.cancel_scope.cancel()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(trainer_module, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(trainer_module, "ANSWER_S", 0.2)


async def test_a_phase_from_its_beginning_to_its_delta():
    async with a_trainer() as trainer:
        opened = await trainer.open(DIGITS)
        assert (await trainer.told.next(TrainerReady)).examples == opened.examples
        base = (np.frombuffer(opened.initial, "<i8") / (1 << 24)).astype(np.float32)
        trainer.apply(Evaluate(0, base))
        trainer.apply(Train(1, base, 20, 40))
        before = await trainer.told.next(Evaluated)
        assert (await trainer.told.next(Eligible)) == Eligible(1, 20)
        trainer.apply(Rebase(ZERO))
        trainer.apply(Freeze(1))
        trainer.apply(Rebase(ZERO))  # what is frozen moves no more; a worker would take this for a mistake
        frozen = await trainer.told.next(Frozen)
        assert (frozen.phase, frozen.delta.dtype, frozen.delta.shape) == (1, np.float32, (PARAMETERS,))
        trainer.apply(Evaluate(1, base + frozen.delta))
        after = await trainer.told.next(Evaluated)
        assert (before.round, after.round) == (0, 1)
        assert after.accuracy > before.accuracy
        judged = await trainer.evaluate(base + frozen.delta)
        assert (judged.accuracy, judged.loss) == (after.accuracy, after.loss)
        assert await trainer.alone(base, 30) > before.accuracy
    assert trainer.pid is None
    assert not psutil.Process().children()


async def test_a_phase_that_is_given_up_makes_way_for_the_next():
    async with a_trainer() as trainer:
        await trainer.open(DIGITS)
        await trainer.told.next(TrainerReady)
        trainer.apply(Abandon(1))
        trainer.apply(Train(1, ZERO, 1, messages.STEPS_MAX))
        assert (await trainer.told.next(Eligible)) == Eligible(1, 1)
        assert not trainer._outbox
        trainer.apply(Abandon(2))
        assert not trainer._outbox, "of a phase that is not open there is nothing to say"
        trainer.apply(Abandon(1))
        trainer.apply(Rebase(ZERO))  # a worker would take these three for mistakes, and be replaced
        trainer.apply(Freeze(1))
        trainer.apply(Abandon(1))
        trainer.apply(Train(2, ZERO, 1, 1))
        assert (await trainer.told.next(Eligible)) == Eligible(2, 1)
        trainer.apply(Freeze(2))
        assert (await trainer.told.next(Frozen)).phase == 2


async def test_a_killed_trainer_is_replaced_and_its_phase_is_lost(impatient):
    async with a_trainer() as trainer:
        await trainer.open(DIGITS)
        await trainer.told.next(TrainerReady)
        trainer.apply(Train(1, ZERO, 1, messages.STEPS_MAX))
        await trainer.told.next(Eligible)
        os.kill(trainer.pid, signal.SIGKILL)
        reason = (await trainer.told.next(TrainerFailed)).reason
        assert reason.startswith("was killed by SIGKILL, as a system does that runs out of memory")
        await trainer.told.next(TrainerReady)
        trainer.apply(Freeze(1))
        trainer.apply(Rebase(ZERO))
        trainer.apply(Train(2, ZERO, 1, 1))
        assert (await trainer.told.next(Eligible)).phase == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (messages.Open("wach", "shard=1/10", None, 1, 7), "the task cannot be used: no task 'wach'"),
        (messages.Open("digits", "shard=11/10", None, 1, 7), "the task cannot be used: data part"),
        (messages.Open("digits", "shard=1/10", "/nowhere", 1, 7), "the task cannot be used: data folder"),
    ],
)
async def test_a_task_that_cannot_be_used_is_refused_in_words(command, reason):
    async with a_trainer() as trainer:
        with pytest.raises(TaskRefused) as refused:
            await trainer.open(command)
    assert str(refused.value).startswith(reason)
    assert refused.value.exit_code == 4
    assert not trainer.told.events


async def test_a_worker_that_cannot_start_is_not_tried_again():
    async with a_trainer("raise MemoryError('no room')") as trainer:
        with pytest.raises(TrainerDown, match="it ended with exit code 1: MemoryError: no room"):
            await trainer.open(DIGITS)
    assert ("trainer_says", "MemoryError: no room") in [
        (call.args[0], call.kwargs.get("line")) for call in trainer.log_calls
    ]


async def test_a_worker_that_fails_again_and_again_stays_down(impatient):
    async with a_trainer("hear(); say(opened); hear(); sys.exit('not today')") as trainer:
        await trainer.open(DIGITS)
        for attempt in range(QUICK_FAILURES):
            await trainer.told.next(TrainerReady)
            trainer.apply(Train(attempt, ZERO, 1, 1))
            reason = (await trainer.told.next(TrainerFailed)).reason
            assert reason.startswith("ended with exit code 1: not today")
        assert "stays down" in reason
        await trio.testing.wait_all_tasks_blocked()
        assert not trainer.nursery.child_tasks
        trainer.apply(Train(9, ZERO, 1, 1))
        with pytest.raises(TrainerDown):
            await trainer.evaluate(ZERO)


@pytest.mark.parametrize(
    ("script", "action", "reason"),
    [
        ("hear()", Freeze(1), "gave no answer to freeze"),
        ("hear()", Evaluate(1, ZERO), "gave no answer to evaluate"),
        ("os.write(1, b'\\x01\\0\\0\\0\\xc1')", Freeze(1), "wrote what is no answer"),
        ("os.write(1, b'\\xff' * 4)", Freeze(1), "wrote what is no answer"),
        ("say(m.Failed('the loss is not finite', False, 'begin', 1))", None, "refused to begin: the loss"),
        ("say(m.Failed('MemoryError: none left', True, '', None)); sys.exit(1)", None, "ended with exit code 1: Mem"),
    ],
)  # fmt: skip
async def test_whatever_goes_wrong_has_a_reason_and_an_end(impatient, script, action, reason):
    async with a_trainer(f"hear(); say(opened); hear()\n{script}\nwhile True: hear()") as trainer:
        await trainer.open(DIGITS)
        await trainer.told.next(TrainerReady)
        trainer.apply(Train(1, ZERO, 1, 1))
        if action is not None:
            trainer.apply(action)
        assert (await trainer.told.next(TrainerFailed)).reason.startswith(reason)
        await trainer.told.next(TrainerReady)


async def test_a_model_beyond_all_bounds_has_no_accuracy_and_costs_no_trainer():
    script = "hear(); say(opened)\nwhile True: say(m.Failed('the loss is not finite', False, 'evaluate', hear().id))"
    async with a_trainer(script) as trainer:
        await trainer.open(DIGITS)
        await trainer.told.next(TrainerReady)
        trainer.apply(Evaluate(5, ZERO))
        assert (await trainer.told.next(Evaluated)) == Evaluated(5, 0.0, float("inf"))
        with pytest.raises(TrainerDown, match="the loss is not finite"):
            await trainer.evaluate(ZERO)


async def test_what_waits_for_a_busy_worker_is_added_up(tmp_path):
    # It takes no command until a file is there, and then tells of all changes as the delta.
    script = f"""
import numpy as np, time
hear(); say(opened)
moved, count = np.zeros(100_000, "<f4"), 0
while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
while True:
    command = hear()
    if isinstance(command, m.Rebase): moved, count = moved + np.frombuffer(command.change, "<f4"), count + 1
    if isinstance(command, m.Freeze): say(m.Frozen(command.phase, moved.tobytes(), count, 1, 0.0))
"""
    big = np.ones(100_000, np.float32)
    async with a_trainer(script) as trainer:
        await trainer.open(DIGITS)
        await trainer.told.next(TrainerReady)
        trainer.apply(Train(1, big, 1, 1))
        for _ in range(50):
            trainer.apply(Rebase(big))
            await trio.testing.wait_all_tasks_blocked()
        assert len(trainer._outbox) <= 1
        trainer.apply(Freeze(1))
        trainer.apply(Rebase(big))
        (tmp_path / "go").touch()
        frozen = await trainer.told.next(Frozen)
    assert (frozen.delta == 50).all()
    assert frozen.steps <= 3, "changes travelled one by one"


async def test_a_person_who_asks_a_dying_trainer_is_told(impatient):
    async with a_trainer("hear(); say(opened); hear(); sys.exit(3)") as trainer:
        await trainer.open(DIGITS)
        with pytest.raises(TrainerDown, match="ended before it answered"):
            await trainer.alone(ZERO, 10)


async def test_no_worker_outlives_its_daemon_not_even_one_that_stands_still():
    async with a_trainer("hear(); say(opened)\nwhile True: hear()") as trainer:
        await trainer.open(DIGITS)
        worker = psutil.Process(trainer.pid)
        worker.suspend()
        ended_at = trio.current_time()
    assert trio.current_time() - ended_at < 3
    assert not worker.is_running()
