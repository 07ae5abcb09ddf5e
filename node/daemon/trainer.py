"""The trainer process as the daemon sees it: actions become commands on a pipe, answers become events.

    starting -> Opened -> up (TrainerReady) -> ends (TrainerFailed) -> pause -> starting ...

A trainer that ends, refuses a command of a phase, or leaves one unanswered is replaced by a fresh one; the phase that it
was in is lost, and nothing else. QUICK_FAILURES short lives in a row, and it stays down: something is wrong that another
attempt will not mend. What is meant for a process that is gone (a Freeze, a Rebase) goes nowhere: the core has been, or is
about to be, told. Commands wait here only while the trainer is within a local step, and they are few: the core has one
freeze and one evaluation under way, and changes of the model that wait are added up.
"""

import itertools
import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, assert_never

import numpy as np
import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from gossip.errors import GossamerError
from gossip.events import (
    Abandon,
    Eligible,
    Evaluate,
    Evaluated,
    Event,
    Floats,
    Freeze,
    Frozen,
    Look,
    Looked,
    Pause,
    Rebase,
    Resume,
    Tag,
    Train,
    TrainerFailed,
    TrainerReady,
)
from models import messages
from models.messages import Answer, Command, FrameReader, PipeError, frame, read_answer

# -P: a folder of the user's that happens to be called "models" is not ours.
WORKER: Final = (sys.executable, "-P", "-m", "models.worker")
OPEN_S = 60.0  # to import torch, load the data and build the model
ANSWER_S = 120.0  # to freeze or to evaluate; a local step may have to end first
CLOSE_S = 1.0  # from the end of its input to SIGKILL
LAST_WORDS_S = 1.0  # for the rest of stderr and the exit code, once its answers have ended
QUICK_S = 60.0  # a shorter life is a quick failure
QUICK_FAILURES = 3
PAUSES_S = (1.0, 5.0)  # before the second and the third attempt
LINES_KEPT = 20  # of stderr, for the reason of a crash
LINE_CHARACTERS = 500

_OWN_ERRORS = ("TaskError", "DataError", "SchemaError")  # of models: the settings ask for what is not there


class TaskRefused(GossamerError):
    """The task or its data cannot be used: change what the line names. Exit code 4."""

    exit_code: ClassVar[int] = 4


class TrainerDown(GossamerError):
    """No trainer can answer: read why in the log, or ask again when it is back."""


class _Question:
    """A person's question to the trainer."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Answer | None = None  # None: it died over it


class Trainer:
    """One device's trainer; `tell` receives its events. Call from the trio thread."""

    def __init__(self, tell: Callable[[Event], None], log: BoundLogger, argv: Sequence[str] = WORKER) -> None:
        self.pid: int | None = None
        self._tell = tell
        self._log = log
        self._argv = argv
        self._command: messages.Open | None = None
        self._commanded = trio.Event()
        self._opened: messages.Opened | None = None  # by the first process that was up
        self._refusal: GossamerError | None = None
        self._decided = trio.Event()  # whether the first process is up or not
        self._ids = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        # of the process that is running:
        self._process: trio.Process | None = None
        self._nursery: trio.Nursery | None = None
        self._up = False
        self._phase: int | None = None  # the one that takes a Rebase
        self._outbox: deque[Command] = deque()
        self._more = trio.Event()
        self._expected: dict[str, trio.Event] = {}
        self._rounds: dict[int, int] = {}  # of the core's evaluations under way
        self._looks: dict[int, Tag] = {}  # whose they are: the same
        self._verdict = ""  # why we ended it
        self._last_word = ""  # why it ended itself
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)

    async def run(self) -> None:
        """Keep a trainer alive until cancelled; returns when it stays down. Leaves no process behind."""
        failures = 0
        while True:
            born = trio.current_time()
            reason = await self._live()
            self._log.warning("trainer_ended", reason=reason)
            if not self._decided.is_set():
                self._refusal = _refusal(self._last_word, reason)
                self._decided.set()
                return
            failures = failures + 1 if trio.current_time() - born < QUICK_S else 1
            if failures == QUICK_FAILURES:
                reason = (
                    f"{reason}; it failed {failures} times in a row and stays down until the node restarts"
                )
                self._log.error("trainer_stays_down", reason=reason)
                self._tell(TrainerFailed(reason))
                return
            self._tell(TrainerFailed(reason))
            await trio.sleep(PAUSES_S[failures - 1])

    async def open(self, command: messages.Open) -> messages.Opened:
        """Load the task; once, while `run` is running. Raises TaskRefused, TrainerDown."""
        self._command = command
        self._commanded.set()
        await self._decided.wait()
        if self._refusal is not None:
            raise self._refusal
        assert self._opened is not None
        return self._opened

    # --- what the core wants ----------------------------------------------------------------------------------

    def apply(self, action: Train | Rebase | Freeze | Abandon | Evaluate | Look | Pause | Resume) -> None:
        if not self._up:
            return
        match action:
            case Train(phase, base, min_steps, max_steps):
                self._phase = phase
                self._say(messages.Begin(phase, _bytes(base), min_steps, max_steps))
            case Rebase(change):
                if self._phase is not None:
                    self._rebase(change)
            case Freeze(phase):
                if phase == self._phase:
                    self._phase = None
                    self._say(messages.Freeze(phase))
                    self._expect("freeze", ANSWER_S)
            case Abandon(phase):
                if phase == self._phase:
                    self._phase = None
                    self._say(messages.Abandon(phase))
            case Evaluate(round_, model):
                number = next(self._ids)
                self._rounds[number] = round_
                self._say(messages.Evaluate(number, _bytes(model)))
                self._expect(f"evaluate {number}", ANSWER_S)
            case Pause(before):
                self._say(messages.Pause(_bytes(before)))
            case Resume():
                self._say(messages.Resume())
            case Look(tag, before, after):
                number = next(self._ids)
                self._looks[number] = tag
                self._say(messages.Look(number, _bytes(before), _bytes(after)))
                self._expect(f"look {number}", ANSWER_S)
            case _:
                assert_never(action)

    def _rebase(self, change: Floats) -> None:
        if self._outbox and isinstance(waiting := self._outbox[-1], messages.Rebase):
            change = change + np.frombuffer(waiting.change, "<f4")
            self._outbox.pop()
        self._say(messages.Rebase(_bytes(change)))

    # --- what a person wants ----------------------------------------------------------------------------------

    async def evaluate(self, model: Floats) -> messages.Evaluated:
        """Judge any model on the task's test set. Raises TrainerDown."""
        answer = await self._ask(lambda number: messages.Evaluate(number, _bytes(model)))
        assert isinstance(answer, messages.Evaluated)
        return answer

    async def alone(self, base: Floats, steps: int) -> float:
        """The accuracy of `base` after local steps on this device's own data only. Raises TrainerDown."""
        answer = await self._ask(lambda number: messages.Alone(number, _bytes(base), steps))
        assert isinstance(answer, messages.AloneDone)
        return answer.accuracy

    async def _ask(self, command: Callable[[int], Command]) -> Answer:
        if not self._up:
            raise TrainerDown("the trainer is not up; see `gossamer status`")
        number, question = next(self._ids), _Question()
        self._questions[number] = question
        try:
            self._say(command(number))
            await question.answered.wait()
        finally:
            del self._questions[number]
        if question.answer is None:
            raise TrainerDown("the trainer ended before it answered")
        if isinstance(question.answer, messages.Failed):
            raise TrainerDown(f"the trainer refused: {question.answer.reason}")
        return question.answer

    # --- one process ------------------------------------------------------------------------------------------

    async def _live(self) -> str:
        """From its start to its end; returns why it ended, in words that follow "the trainer, which"."""
        self._verdict = self._last_word = ""
        self._lines.clear()
        process = self._process = await trio.lowlevel.open_process(self._argv, stdin=-1, stdout=-1, stderr=-1)
        self.pid = process.pid
        quiet = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._hear_stderr, process, quiet)
                nursery.start_soon(self._write, process)
                await self._read(process)
                with trio.move_on_after(LAST_WORDS_S):
                    await process.wait()
                    await quiet.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._forget_process()
            await _end(process)
        return self._verdict or _described(process.returncode, self._last_word, self._lines)

    def _forget_process(self) -> None:
        self._up = False
        self.pid = self._process = self._nursery = self._phase = None
        self._outbox.clear()
        self._expected.clear()
        self._rounds.clear()
        self._looks.clear()
        for question in self._questions.values():
            question.answered.set()

    async def _write(self, process: trio.Process) -> None:
        await self._commanded.wait()
        assert self._command is not None
        self._say(self._command)
        self._expect("open", OPEN_S)
        assert process.stdin is not None
        try:
            while True:
                while self._outbox:
                    await process.stdin.send_all(memoryview(frame(self._outbox.popleft())))
                self._more = trio.Event()
                await self._more.wait()
        except trio.BrokenResourceError:
            return  # its answers end as well, and `_read` sees that

    async def _read(self, process: trio.Process) -> None:
        reader = FrameReader()
        assert process.stdout is not None
        try:
            async for data in process.stdout:
                for payload in reader.feed(data):
                    self._on_answer(read_answer(payload))
        except PipeError as error:
            self._kill(f"wrote what is no answer: {error}")

    async def _hear_stderr(self, process: trio.Process, quiet: trio.Event) -> None:
        rest = ""
        assert process.stderr is not None
        async for data in process.stderr:
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            for line in lines:
                self._lines.append(line[:LINE_CHARACTERS])
                self._log.info("trainer_says", line=line[:LINE_CHARACTERS])
            rest = rest[:LINE_CHARACTERS]
        quiet.set()

    def _say(self, command: Command) -> None:
        self._outbox.append(command)
        self._more.set()

    def _expect(self, what: str, patience_s: float) -> None:
        assert self._nursery is not None
        answered = self._expected[what] = trio.Event()
        self._nursery.start_soon(self._watch, what, answered, patience_s)

    async def _watch(self, what: str, answered: trio.Event, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            await answered.wait()
            return
        self._kill(f"gave no answer to {what} within {patience_s:.0f} s")

    def _answered(self, what: str) -> None:
        if (event := self._expected.pop(what, None)) is not None:
            event.set()

    def _kill(self, verdict: str) -> None:
        if self._process is not None and not self._verdict:
            self._verdict = verdict
            self._process.kill()

    # --- its answers ------------------------------------------------------------------------------------------

    def _on_answer(self, answer: Answer) -> None:
        match answer:
            case messages.Opened():
                self._answered("open")
                self._on_opened(answer)
            case messages.Eligible(phase, steps):
                self._tell(Eligible(phase, steps))
            case messages.Frozen(phase, delta, steps, _, loss):
                self._answered("freeze")
                self._tell(Frozen(phase, np.frombuffer(delta, "<f4"), steps, loss))
            case messages.Evaluated(number, accuracy, loss, _) if number in self._rounds:
                self._answered(f"evaluate {number}")
                self._tell(Evaluated(self._rounds.pop(number), accuracy, loss))
            case messages.Looked(number, before, after) if number in self._looks:
                self._answered(f"look {number}")
                self._tell(Looked(self._looks.pop(number), before, after))
            case messages.Evaluated(number) | messages.AloneDone(number):
                self._on_reply(number, answer)
            case messages.Failed():
                self._on_failed(answer)

    def _on_opened(self, opened: messages.Opened) -> None:
        if self._opened is not None and self._opened.initial != opened.initial:
            self._kill("opened another model than before; was the task changed?")
            return
        self._opened = opened
        self._up = True
        self._tell(TrainerReady(opened.examples))
        self._decided.set()

    def _on_reply(self, number: int, answer: Answer) -> None:
        if (question := self._questions.get(number)) is not None:
            question.answer = answer
            question.answered.set()

    def _on_failed(self, failed: messages.Failed) -> None:
        if failed.fatal:
            self._last_word = failed.reason
        elif failed.command in {"evaluate", "alone"} and failed.number in self._questions:
            self._on_reply(failed.number, failed)
        elif failed.command == "evaluate" and failed.number in self._rounds:
            # The model has left the range where its loss means anything: that is a result, though a poor one.
            self._log.warning("evaluation_failed", reason=failed.reason)
            self._answered(f"evaluate {failed.number}")
            self._tell(Evaluated(self._rounds.pop(failed.number), 0.0, math.inf))
        elif failed.command == "look" and failed.number in self._looks:
            self._log.warning("look_failed", reason=failed.reason)
            self._answered(f"look {failed.number}")
            self._tell(Looked(self._looks.pop(failed.number), math.nan, math.nan))
        else:
            self._kill(f"refused to {failed.command}: {failed.reason}")


def _bytes(vector: Floats) -> bytes:
    return np.ascontiguousarray(vector, "<f4").tobytes()


async def _end(process: trio.Process) -> None:
    """Whatever cancels us, no trainer outlives us: it ends with its input, or by SIGKILL."""
    with trio.CancelScope(shield=True):
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.move_on_after(CLOSE_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            await stream.aclose()


def _described(returncode: int | None, last_word: str, lines: Sequence[str]) -> str:
    """Why a process ended, from its exit code, its last answer and what it wrote to stderr last."""
    said = last_word or next((line.strip() for line in reversed(lines) if line.strip()), "")
    if returncode is not None and returncode < 0:
        name = signal.Signals(-returncode).name
        hint = ", as a system does that runs out of memory" if -returncode == signal.SIGKILL else ""
        return f"was killed by {name}{hint}" + (f": {said}" if said else "")
    return f"ended with exit code {returncode}" + (f": {said}" if said else "")


def _refusal(last_word: str, reason: str) -> GossamerError:
    """The error of a trainer that never came up."""
    kind, _, words = last_word.partition(": ")
    if kind in _OWN_ERRORS:
        return TaskRefused(f"the task cannot be used: {words}")
    return TrainerDown(f"the trainer could not start: it {reason}")
