"""Removes the network namespaces of a run, and whatever runs in them, as soon as the run is gone.

    python -m scenarios.processes.sweeper gsm-1f3a-9c02

A run starts this process before it makes anything and holds the other end of its standard input. The kernel closes that
end when the run is over, however it ended, also by SIGKILL. Everything that a run makes is in namespaces that bear its name,
and goes with them: interfaces, bridges, addresses, queues.

A run's name says whose it is: the runner's process number and, as numbers are used again, the end of its time of birth.
So what a run has left behind is known without any file that could be wrong. On its own, and with the standard library
alone: it shall be there within a moment.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time  # noqa: TID251 - a process of its own, that waits for the kernel
from pathlib import Path

COMMAND_S = 10.0  # for the kernel to do one thing
LOOK_S = 0.2
QUIET_LOOKS = 2  # that find nothing: a command of a run that was killed may just be under way
LOOKS_MAX = 50
READY = b"ready\n"

_RUN = re.compile(r"gsm-([0-9a-f]{1,8})-([0-9a-f]{4})")
_NAMESPACE = re.compile(rf"({_RUN.pattern})-\w+")


def run_of(pid: int) -> str:
    """The name of that process's run. ProcessLookupError if there is no such process."""
    born = _born(pid)
    if born is None:
        raise ProcessLookupError(pid)
    return f"gsm-{pid:x}-{born & 0xFFFF:04x}"


def is_alive(run: str) -> bool:
    found = _RUN.fullmatch(run)
    return found is not None and _born_as(int(found[1], 16), int(found[2], 16))


def _born_as(pid: int, mark: int) -> bool:
    born = _born(pid)
    return born is not None and born & 0xFFFF == mark


def _born(pid: int) -> int | None:
    """In the kernel's ticks; None for a process that is dead."""
    try:
        # The name, in brackets, may itself hold brackets and spaces: see proc(5).
        _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = rest.split()
    return None if fields[0] in "ZX" else int(fields[19])


def namespaces() -> list[str]:
    """Those of all runs, by name."""
    told = _ip("netns", "list")
    names = [line.split()[0] for line in told.splitlines() if line.strip()]
    return [name for name in names if _NAMESPACE.fullmatch(name)]


def sweep(run: str) -> list[str]:
    """End what runs in the run's namespaces and remove them; those that there were."""
    found = [name for name in namespaces() if name.startswith(f"{run}-")]
    for name in found:
        for pid in _ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", name)
    return found


def sweep_leftovers() -> list[str]:
    """Remove what is there of runs whose process is gone; the names of those runs."""
    runs = {found[1] for name in namespaces() if (found := _NAMESPACE.fullmatch(name))}
    gone = sorted(run for run in runs if not is_alive(run))
    for run in gone:
        sweep(run)
    return gone


def _ip(*arguments: str) -> str:
    """What `ip` says; that something is not there any more is no failure here, and is looked for again."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(
            ["ip", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_S,
            text=True,
            check=False,
        ).stdout
    return ""


def main(run: str) -> int:
    """0 if nothing of the run is left."""
    if not _RUN.fullmatch(run):
        return 2
    # The end of the pipe is what ends this process, and nothing before.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(sys.stdout.fileno(), READY)
    while os.read(sys.stdin.fileno(), 1024):
        pass
    quiet = 0
    for _ in range(LOOKS_MAX):
        quiet = 0 if sweep(run) else quiet + 1
        if quiet == QUIET_LOOKS:
            return 0
        time.sleep(LOOK_S)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
