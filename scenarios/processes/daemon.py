"""The daemons of a run: real processes, each in its own home, its own session and its own group of processes.

A terminal's Ctrl-C therefore reaches the runner alone, and the runner can end a daemon with all that it has started.
Whatever happens to the runner, nothing stays behind: it ends the groups on its way out, and each daemon is told the
runner's process number and ends by itself when that is gone.

What a daemon says of itself is asked of its control socket about once a second and kept as `heard`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil
import trio  # noqa: TID251 - scenarios run real processes

from gossip.errors import GossamerError
from node import control_client
from node.control_client import PARENT_VARIABLE
from node.home import Home
from scenarios.reports.processes import Bytes, Parts
from scenarios.spec.scenario import Device, Fault

FAULTS_VARIABLE = "GOSSAMER_FAULTS"
POLL_S = 1.0
ANSWER_S = 10.0  # for a question that a daemon answers from memory
TERMINATE_S = 3.0  # from SIGTERM to SIGKILL
KILL_S = 1.0  # that the kernel may take for a SIGKILL
LOOK_S = 0.05
LAST_LINES = 8

T = TypeVar("T")


class SwarmFailed(GossamerError):
    """The run cannot go on: see the log that is named. Exit code 1."""

    exit_code = 1


class Traffic(msgspec.Struct, frozen=True):
    sent: int
    received: int
    by_kind: dict[str, Bytes]


class Relaying(msgspec.Struct, frozen=True):
    relayed_bytes: int


class Status(msgspec.Struct, frozen=True):
    """What the run needs of a daemon's status."""

    peer_id: str
    doing: str
    waits_for: str
    round: int
    neighbours: list[str]
    replica_sha256: str
    history_digest: str
    contributions: int
    cohorts_aborted: int
    accuracy: float | None
    steps: int
    settled: bool
    addresses: list[str]
    traffic: Traffic
    cpu_s: Parts
    pss_mb: Parts
    times_s: dict[str, float]
    relaying: Relaying | None


@dataclass(slots=True, eq=False)
class Daemon:
    """One device, and the process that is its daemon just now, if one is."""

    device: Device
    home: Home
    peer_id: str
    process: trio.Process | None = None
    heard: Status | None = None  # of this process
    heard_at: float = 0.0  # or when the process was started
    past: list[Status] = field(default_factory=list)  # the last that was heard of each that a fault has ended
    groups: list[int] = field(default_factory=list)  # of all processes that there ever were
    hostile: Mapping[str, str] | None = (
        None  # of a bad device (`scenarios.adversary.daemon`): more of its environment
    )
    inside: tuple[str, ...] = ()  # what its command begins with: that of its network namespace, if it has one

    @property
    def stderr(self) -> Path:
        return self.home.path / "stderr.log"

    async def start(self, faults: Sequence[Fault], words: Sequence[str] = ("up",)) -> None:
        """`words`: the command that becomes the daemon."""
        told = [
            {"round": fault.round, "phase": fault.phase, "role": fault.role or fault.node} for fault in faults
        ]
        environ = os.environ | {PARENT_VARIABLE: str(os.getpid()), FAULTS_VARIABLE: json.dumps(told)}
        environ |= self.hostile or {}
        program = "node" if self.hostile is None else "scenarios.adversary.daemon"
        # Shielded: a process that has begun must not be forgotten.
        with self.stderr.open("ab") as stderr, trio.CancelScope(shield=True):
            self.process = await trio.lowlevel.open_process(
                [*self.inside, sys.executable, "-P", "-m", program, *words, "--home", str(self.home.path)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=environ,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)
        self.heard_at = trio.current_time()

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        json: Mapping[str, object] | None = None,
        timeout_s: float = ANSWER_S,
    ) -> T:
        """Raises SwarmFailed when there is no answer, or none that fits."""
        call = partial(control_client.call, self.home, method, path, json=json, timeout_s=timeout_s)
        try:
            told = await trio.to_thread.run_sync(call, abandon_on_cancel=True)  # type: ignore[call-arg] # old stubs
            return msgspec.convert(told, answer)
        except (GossamerError, msgspec.ValidationError) as error:
            raise SwarmFailed(f"{self.device.name}: {method} {path}: {error}{self.last_words()}") from error

    async def refresh(self) -> None:
        """Ask how it is. Raises SwarmFailed."""
        asked = self.process
        heard = await self.ask("GET", "/status", Status)
        if asked is self.process:
            self.heard, self.heard_at = heard, trio.current_time()

    async def follow(self) -> None:
        """Keep `heard` fresh, without end; who reads `heard_at` decides when silence is too long."""
        while True:
            if self.process is not None:
                with contextlib.suppress(SwarmFailed):
                    await self.refresh()
            await trio.sleep(POLL_S)

    def stands_still(self) -> bool:
        """Whether the daemon is stopped, as by SIGSTOP."""
        if self.process is None:
            return False
        try:
            return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    async def crash(self) -> None:
        """SIGKILL. The trainer finds its pipe closed, as after any crash."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        self.process = None
        if self.heard is not None:
            self.past.append(self.heard)
        self.heard = None

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.heard_at = trio.current_time()

    def last_words(self) -> str:
        """The last lines of what the daemon wrote, and where the rest is."""
        try:
            lines = self.stderr.read_text(errors="replace").splitlines()[-LAST_LINES:]
        except OSError:
            lines = []
        return (
            "".join(f"\n    {self.device.name} | {line}" for line in lines) + f"\n    more in {self.home.log}"
        )

    def all_heard(self) -> list[Status]:
        """The last that each of its processes said."""
        return [*self.past, *([self.heard] if self.heard is not None else [])]


async def end_all(daemons: Sequence[Daemon]) -> list[int]:
    """End every process of the run within TERMINATE_S + KILL_S; those that are left even so."""
    groups = [group for daemon in daemons for group in daemon.groups]
    with trio.CancelScope(shield=True):
        for daemon in daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.process.terminate()
                daemon.process.send_signal(signal.SIGCONT)  # one that stands still hears nothing else
        if await _empty(groups, daemons, TERMINATE_S):
            return []
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        await _empty(groups, daemons, KILL_S)
    return members_of(groups)


async def _empty(groups: Sequence[int], daemons: Sequence[Daemon], timeout_s: float) -> bool:
    """Whether nothing runs in these groups any more, before the time is over."""
    with trio.move_on_after(timeout_s):
        while members_of(groups):
            for daemon in daemons:
                if daemon.process is not None:
                    daemon.process.poll()
            await trio.sleep(LOOK_S)
        return True
    return False


def members_of(groups: Iterable[int]) -> list[int]:
    """The processes that run in any of these groups. The dead whom nobody has collected do not run."""
    wanted = frozenset(groups)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) in wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
