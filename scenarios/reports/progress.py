"""What a person sees while a swarm runs: a bar and a line that live, or plain lines where nothing can move. On stderr."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scenarios.reports.eta import span

LINE_EVERY_S = 5.0
BAR_CHARACTERS = 24


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
    left_s: float | None = field(default=None, kw_only=True)  # a guess; None where there is no telling

    @property
    def done(self) -> float | None:
        """The share of the run, from 0 to 1, that is over if the guess is right."""
        return None if self.left_s is None else self.at_s / max(self.at_s + self.left_s, 1e-9)

    @property
    def _to_go(self) -> str:
        return "" if self.left_s is None else f"  about {span(self.left_s)} to go"

    def __str__(self) -> str:
        accuracy = "  -   " if self.accuracy is None else f"{100 * self.accuracy:.1f} %"
        return (
            f"{self.at_s:5.0f} s  {self.note and f'{self.note}  '}{self.stage}  devices {self.up}/{self.devices}  "
            f"round {self.round}/{self.rounds}  accuracy {accuracy}  sent {self.sent_bytes / 1e6:.1f} MB{self._to_go}"
        )


@dataclass(frozen=True, slots=True)
class VirtualSnapshot(Snapshot):
    """In virtual time, where a run has a target or all its rounds to go to."""

    virtual_s: float
    target: float | None

    def __str__(self) -> str:
        accuracy = "-" if self.accuracy is None else f"{100 * self.accuracy:.1f} %"
        of_target = "" if self.target is None else f" of {100 * self.target:.1f} %"
        of_rounds = "" if self.target is not None else f"/{self.rounds}"
        return (
            f"{self.virtual_s:7.1f} virtual s  {self.note and f'{self.note}  '}{self.stage}  round {self.round}{of_rounds}  "
            f"accuracy {accuracy}{of_target}  {self.sent_bytes / max(self.devices, 1) / 1e3:.0f} KB sent a device  "
            f"{self.at_s:.0f} s{self._to_go}"
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
        line = Table.grid(padding=(0, 1))
        done = snapshot.done
        line.add_row(
            ProgressBar(None if done is None else 1.0, done or 0.0, width=BAR_CHARACTERS), Text(str(snapshot))
        )
        self._live.update(line)

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
    """A live bar on a terminal, else plain lines."""
    if not console.is_terminal:
        yield PlainDisplay(lambda line: console.print(Text(line), soft_wrap=True))
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)
