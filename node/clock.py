"""The clocks of a daemon and of the command line. A core is told the time, and never asks."""

import time  # noqa: TID251 - a driver's clock
from datetime import UTC, datetime


def uptime() -> float:
    """Seconds on a clock that goes on while the machine is suspended, which trio's does not on every system."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.time() if boottime is None else time.clock_gettime(boottime)


def unix_time() -> float:
    return datetime.now(UTC).timestamp()
