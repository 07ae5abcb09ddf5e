"""The trainer as a process of its own: `python -m models.worker`, commands on stdin, answers on stdout.

One thread. While there is something to train, commands are looked for between steps; otherwise the process
sleeps in the kernel. It ends with the daemon: at the end of stdin, however the daemon died, or when nobody
reads its answers. A crash or an exhausted memory ends this process, not the daemon.
"""

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterable

from models.messages import Answer, Command, Failed, FrameReader, Open, PipeError, frame, read_command

READ_BYTES = 1 << 16  # what a pipe holds


class DaemonGone(Exception):
    """The other end of the pipe is closed."""


class Pipe:
    """Commands from one file descriptor, answers to another."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._frames = FrameReader()
        self._ready = select.poll()
        self._ready.register(commands, select.POLLIN)

    def receive(self, *, wait: bool) -> list[Command]:
        """The commands that have arrived in full; may be none. Raises DaemonGone, PipeError."""
        if not self._ready.poll(None if wait else 0):
            return []
        data = os.read(self._commands, READ_BYTES)
        if not data:
            raise DaemonGone
        return [read_command(payload) for payload in self._frames.feed(data)]

    def send(self, answers: Iterable[Answer]) -> None:
        """Waits for the reader. Raises DaemonGone, PipeError."""
        for answer in answers:
            rest = memoryview(frame(answer))
            while rest:
                try:
                    rest = rest[os.write(self._answers, rest) :]
                except BrokenPipeError as error:
                    raise DaemonGone from error


def serve(pipe: Pipe) -> None:
    """Obey until Close. Raises DaemonGone, PipeError, and what only ends the process can answer."""
    # Only here: torch takes most of a second to import, and SIGINT must be ignored by then.
    from models.session import open_session  # noqa: PLC0415

    commands: list[Command] = []
    while not commands:
        commands = pipe.receive(wait=True)
    first = commands.pop(0)
    if not isinstance(first, Open):
        raise PipeError(f"the first command is {type(first).__name__}, not Open")
    session, opened = open_session(first)
    pipe.send([opened])
    while True:
        for command in commands:
            pipe.send(session.handle(command))
        if session.closed:
            return
        if session.busy:
            pipe.send(session.advance())
        commands = pipe.receive(wait=not session.busy)


def own_pipe() -> Pipe:
    """Take stdin and stdout for the pipe alone; what libraries print goes to stderr, what they read is empty."""
    commands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return Pipe(commands, answers)


def main() -> int:
    # Ctrl-C in a terminal goes to the whole group of processes; when to stop is for the daemon to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = own_pipe()
    try:
        serve(pipe)
    except DaemonGone:
        return 0
    except Exception as error:  # noqa: BLE001 - the process's edge: the daemon shall hear the reason
        if not isinstance(
            error, ValueError
        ):  # those say by themselves what is wrong with the data or the task
            traceback.print_exc()
        return _report(pipe, error)
    return 0


def _report(pipe: Pipe, error: Exception) -> int:
    try:
        pipe.send([Failed(f"{type(error).__name__}: {error}", fatal=True, command="", number=None)])
    except DaemonGone:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
