"""A scenario's faults, carried out.

A daemon knows the faults that it may meet. When it has done the step that one names, all that it had to send is sent,
it leaves a file in its home and stops itself, so that a crash comes exactly there and not a little later. Whoever
stops first meets the fault; all others who come there are let go on at once.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scenarios.processes.daemon import Daemon
from scenarios.reports.processes import FaultReport
from scenarios.spec.scenario import Fault


@dataclass(slots=True)
class Course:
    """How far a fault has come."""

    fault: Fault
    daemon: Daemon | None = None  # whom it has met
    at_s: float = 0.0
    at_round: int = 0
    over_s: float | None = None

    @property
    def unfinished(self) -> bool:
        """Whether the device it has met will go on and has not yet."""
        return self.daemon is not None and self.fault.action != "kill" and self.over_s is None

    def due(self, now_s: float, round_: int, *, idle: bool) -> bool:
        """Whether that device goes on now; `idle`: no round will come any more."""
        if not self.unfinished:
            return False
        wait_s = self.fault.for_s or self.fault.after_s
        if wait_s is not None:
            return now_s >= self.at_s + wait_s
        return idle or round_ >= self.at_round + (self.fault.after_rounds or 0)

    def report(self) -> FaultReport:
        if self.daemon is None:
            return FaultReport(str(self.fault), None, None, None)
        return FaultReport(str(self.fault), self.daemon.device.name, self.at_s, self.over_s)


async def meet(
    courses: Sequence[Course], daemons: Sequence[Daemon], now_s: float, round_: int
) -> list[Course]:
    """Carry out the faults at which a daemon has stopped, and let all others who have stopped go on.

    Returns those that were carried out just now.
    """
    begun = []
    for daemon in daemons:
        left = [position for position in range(len(courses)) if _file(daemon, position).exists()]
        # Between the file and the stop is a moment in which to go on would be said in vain.
        if not left or not daemon.stands_still():
            continue
        for position in left:
            with contextlib.suppress(FileNotFoundError):
                _file(daemon, position).unlink()
        new = next((courses[position] for position in left if courses[position].daemon is None), None)
        if new is None:
            daemon.go_on()
            continue
        new.daemon, new.at_s, new.at_round = daemon, now_s, round_
        begun.append(new)
        if new.fault.action != "pause":
            await daemon.crash()
    return begun


def _file(daemon: Daemon, position: int) -> Path:
    return daemon.home.path / f"fault.{position}"
