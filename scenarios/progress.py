"""What a person sees while a swarm runs: one line that lives, or plain lines where nothing can move. On stderr."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    stage: str
    at_s: float  # since the run began
    up: int
    devices: int
    round: int
    rounds: int
    accuracy: float | None  # mean of what the devices last measured
    sent_bytes: int  # by all devices
    note: str = field(default="", kw_only=True)  # what is not as on real devices

    def __str__(self) -> str:
        accuracy = "  -   " if self.accuracy is None else f"{100 * self.accuracy:.1f} %"
        return (
            f"{self.at_s:5.0f} s  {self.note and f'{self.note}  '}{self.stage}  devices {self.up}/{self.devices}  "
            f"round {self.round}/{self.rounds}  accuracy {accuracy}  sent {self.sent_bytes / 1e6:.1f} MB"
        )


class Display(Protocol):
    def show(self, snapshot: Snapshot) -> None:
        """How things stand; may be called often."""

    def say(self, line: str) -> None:
        """Something that happened and stays to be read."""


class LiveDisplay:
    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(Text(str(snapshot)))

    def say(self, line: str) -> None:
        self._live.console.print(Text(line))


class PlainDisplay:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last_s = -LINE_EVERY_S
        self._stage = ""

    def show(self, snapshot: Snapshot) -> None:
        """A time before the last one is another run's."""
        if snapshot.stage == self._stage and 0 <= snapshot.at_s - self._last_s < LINE_EVERY_S:
            return
        self._stage, self._last_s = snapshot.stage, snapshot.at_s
        self._write(str(snapshot))

    def say(self, line: str) -> None:
        self._write(line)


@contextlib.contextmanager
def display(console: Console) -> Iterator[Display]:
    """A live line on a terminal, else plain lines."""
    if not console.is_terminal:
        yield PlainDisplay(lambda line: console.print(Text(line), soft_wrap=True))
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)
