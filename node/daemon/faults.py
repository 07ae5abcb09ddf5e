"""Stopping a node on purpose at a chosen point of the protocol, so that a scenario can kill it exactly there.

GOSSAMER_FAULTS holds a JSON list of {"round", "phase", "role"}. When the core reports that phase in that round or a later
one, in that role (or on the device of that name), what it has said is flushed, HOME/fault.<index> is written, and the
process stops itself with SIGSTOP: from outside it is then killed, or continued. Each point is reached once.
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from node.config.errors import ConfigError

VARIABLE = "GOSSAMER_FAULTS"
FLUSH_S = 1.0  # for what was said before the fault to leave this process


class FaultPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    round: Annotated[int, Meta(ge=1)]
    phase: Annotated[str, Meta(min_length=1)]
    role: Annotated[str, Meta(min_length=1)]  # "leader", "aggregator", ..., or a device's name


class Faults:
    def __init__(self, points: list[FaultPoint], device: str, home: Path) -> None:
        self._waiting = dict(enumerate(points))
        self._device = device
        self._home = home

    def __str__(self) -> str:
        return ", ".join(
            f"{point.role} at {point.phase} of round {point.round}" for point in self._waiting.values()
        )

    def reached(self, report: Mapping[str, object]) -> int | None:
        """The index of the fault point that a "phase" report has reached, which then waits no more."""
        roles, round_ = report.get("roles"), report.get("round")
        assert isinstance(roles, list)
        assert isinstance(round_, int)
        for index, point in self._waiting.items():
            if (
                round_ >= point.round
                and point.phase == report.get("phase")
                and point.role in (*roles, self._device)
            ):
                del self._waiting[index]
                return index
        return None

    def stop(self, index: int) -> None:
        """Returns when the process is continued."""
        (self._home / f"fault.{index}").touch()
        os.kill(os.getpid(), signal.SIGSTOP)


def read_faults(environ: Mapping[str, str], device: str, home: Path) -> Faults | None:
    """None unless the environment asks for faults; ConfigError for what is no list of fault points."""
    try:
        points = msgspec.json.decode(environ.get(VARIABLE, "[]"), type=list[FaultPoint])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{VARIABLE}: {error}") from error
    return Faults(points, device, home) if points else None
