"""The trainer as a real process on a real pipe: what a daemon sees of it, and that it never outlives one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models import messages
from models.messages import FrameReader, frame, read_answer

OPEN = messages.Open("digits", "shard=1/10", None, seed=1, model_seed=7)
BASE = np.zeros(2410, "<f4").tobytes()
ENDLESS = messages.Begin(1, BASE, min_steps=1, max_steps=messages.STEPS_MAX)
PATIENCE_S = 60


class Worker:
    def __init__(self, *, folder: str | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "models.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([folder or "", *sys.path])},
            bufsize=0,
        )
        self._reader = FrameReader()
        self._answers: list[messages.Answer] = []

    def say(self, *commands: messages.Command) -> None:
        self.process.stdin.write(b"".join(frame(command) for command in commands))

    def hear(self) -> messages.Answer | None:
        """The next answer; None when the worker has closed its pipe."""
        while not self._answers:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                return None
            self._answers += [read_answer(payload) for payload in self._reader.feed(data)]
        return self._answers.pop(0)

    def hang_up(self) -> int:
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.process.kill()
        worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout, worker.process.stderr):
            stream.close()


@pytest.fixture
def worker(workers) -> Worker:
    workers.append(Worker())
    return workers[0]


def test_a_day_in_the_life_of_a_trainer(worker):
    worker.say(OPEN)
    opened = worker.hear()
    x0 = (np.frombuffer(opened.initial, "<i8") / (1 << 24)).astype("<f4")
    worker.say(messages.Rebase(BASE))
    assert worker.hear().command == "rebase"
    worker.say(messages.Begin(1, x0.tobytes(), 40, 80))
    assert worker.hear() == messages.Eligible(1, 40)
    worker.say(messages.Rebase(BASE), messages.Freeze(1))
    frozen = worker.hear()
    assert 40 <= frozen.steps <= 80
    model = x0 + np.frombuffer(frozen.delta, "<f4")
    worker.say(messages.Evaluate(1, x0.tobytes()), messages.Evaluate(2, model.tobytes()))
    before, after = worker.hear(), worker.hear()
    assert before.accuracy < 0.4
    assert after.accuracy > 0.6
    worker.say(messages.Close())
    assert worker.hear() is None
    assert worker.process.wait(PATIENCE_S) == 0


def test_it_begins_another_phase_after_one_that_was_abandoned(worker):
    worker.say(OPEN, ENDLESS)
    worker.hear()
    assert worker.hear() == messages.Eligible(1, 1)
    worker.say(messages.Abandon(1), messages.Begin(2, BASE, 1, 1))
    assert worker.hear() == messages.Eligible(2, 1)


def test_it_stops_stepping_when_paused_and_goes_on_when_resumed(worker):
    worker.say(OPEN, messages.Pause(BASE), messages.Begin(1, BASE, 1, 1), messages.Evaluate(1, BASE))
    worker.hear()
    assert isinstance(worker.hear(), messages.Evaluated), "a paused phase would have become eligible before"
    worker.say(messages.Resume())
    assert worker.hear() == messages.Eligible(1, 1)


@pytest.mark.parametrize("doing", [[], [OPEN, ENDLESS], [OPEN, messages.Pause(BASE), ENDLESS]])
def test_it_dies_with_its_daemon_whatever_it_is_doing(worker, doing):
    worker.say(*doing)
    if ENDLESS in doing and messages.Pause(BASE) not in doing:
        worker.hear()
        assert isinstance(worker.hear(), messages.Eligible)
    assert worker.hang_up() == 0
    assert worker.process.stderr.read() == b""


def test_it_ends_when_nobody_reads_its_answers(worker):
    worker.say(OPEN)
    worker.hear()
    worker.process.stdout.close()
    worker.say(messages.Evaluate(1, BASE))
    assert worker.process.wait(PATIENCE_S) == 0


def test_ctrl_c_is_for_the_daemon(workers):
    # Whoever starts these tests in the background has SIGINT ignored, and children would inherit that.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    workers.append(worker := Worker())
    signal.signal(signal.SIGINT, ours)
    worker.say(OPEN, ENDLESS)
    worker.hear()
    worker.hear()
    worker.process.send_signal(signal.SIGINT)
    worker.say(messages.Freeze(1))
    assert isinstance(worker.hear(), messages.Frozen)
    assert worker.hang_up() == 0


def test_it_sleeps_in_the_kernel_while_there_is_nothing_to_do(worker):
    worker.say(OPEN, messages.Begin(1, BASE, 1, 1))
    worker.hear()
    worker.hear()
    stat = Path(f"/proc/{worker.process.pid}/stat")
    # A loop that polls without waiting is never seen asleep ("S"), however often one looks.
    assert any(stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "S" for _ in range(100_000))


def test_what_libraries_print_and_read_stays_off_the_pipe(workers, tmp_path):
    (tmp_path / "chatty_task_of_a_user.py").write_text(
        "import os, sys\n"
        "from models.tasks import PACKAGED\n"
        "print('hello from the task', flush=True)\n"
        "os.system('echo hello from a child')\n"
        "assert sys.stdin.read() == ''\n"
        "mine = PACKAGED['digits']\n"
    )
    workers.append(worker := Worker(folder=str(tmp_path)))
    worker.say(messages.Open("chatty_task_of_a_user:mine", "shard=1/10", None, 1, 7))
    assert isinstance(worker.hear(), messages.Opened)
    assert worker.hang_up() == 0
    assert worker.process.stderr.read() == b"hello from the task\nhello from a child\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (frame(messages.Open("digits", "shard=11/10", None, 1, 7)), "DataError: data part 'shard=11/10'"),
        (frame(messages.Pause(BASE)), "PipeError: the first command is Pause, not Open"),
        (b"\xff\xff\xff\xff", "PipeError: a frame of 4294967295 bytes"),
    ],
)
def test_its_last_word_is_the_reason(worker, said, reason):
    worker.process.stdin.write(said)
    answer = worker.hear()
    assert answer.fatal
    assert answer.reason.startswith(reason)
    assert worker.process.wait(PATIENCE_S) == 1
    assert worker.hear() is None


def test_a_crash_inside_the_users_model_is_reported(workers, tmp_path):
    (tmp_path / "crashing_task_of_a_user.py").write_text(
        "import dataclasses\n"
        "from models.tasks import PACKAGED\n"
        "def loss(outputs, labels):\n"
        "    raise MemoryError('no room for the loss')\n"
        "mine = dataclasses.replace(PACKAGED['digits'], loss=loss)\n"
    )
    workers.append(worker := Worker(folder=str(tmp_path)))
    worker.say(messages.Open("crashing_task_of_a_user:mine", "shard=1/10", None, 1, 7), ENDLESS)
    worker.hear()
    assert worker.hear() == messages.Failed(
        "MemoryError: no room for the loss", fatal=True, command="", number=None
    )
    assert worker.process.wait(PATIENCE_S) == 1
    assert b"Traceback" in worker.process.stderr.read()
