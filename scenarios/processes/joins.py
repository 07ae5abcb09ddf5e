"""Devices that come to a swarm one after the other, as people bring them: `gossamer invite` on the first, `gossamer join CODE` there.

Nothing is told to a newcomer but the code; it finds the first device, and then the others, by multicast DNS. Figures are as
the devices' own status shows them, asked about once a second.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

import trio  # noqa: TID251 - scenarios run real processes

from scenarios.processes.daemon import Daemon, SwarmFailed

INVITE_S = 60.0  # for an invitation to be shown
LINE_BYTES_MAX = 1 << 16


@dataclass(slots=True)
class Newcomer:
    """A device that was let in, and when, counted from its `gossamer join` on, it had come how far."""

    daemon: Daemon
    began: float
    invite: trio.Process  # held, as what it says has nowhere to go without
    joined_s: float | None = None  # until its first neighbour
    first_contribution_s: float | None = None

    def look(self) -> None:
        heard, waited_s = self.daemon.heard, round(self.daemon.heard_at - self.began, 2)
        if heard is None:
            return
        if heard.neighbours and self.joined_s is None:
            self.joined_s = waited_s
        if heard.contributions and self.first_contribution_s is None:
            self.first_contribution_s = waited_s


async def invitation_of(inviter: Daemon) -> tuple[trio.Process, str]:
    """`gossamer invite` for one device, and its code. Raises SwarmFailed."""
    with inviter.stderr.open("ab") as stderr, trio.CancelScope(shield=True):
        process = await trio.lowlevel.open_process(
            [
                *inviter.inside, sys.executable, "-P", "-m", "node",
                "invite", "--json", "--yes", "--home", str(inviter.home.path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
    inviter.groups.append(process.pid)
    assert process.stdout is not None
    line = b""
    with trio.move_on_after(INVITE_S):
        while b"\n" not in line and len(line) < LINE_BYTES_MAX:
            more = await process.stdout.receive_some()
            if not more:
                break
            line += more
    try:
        return process, str(json.loads(line.partition(b"\n")[0])["code"])
    except (ValueError, KeyError) as error:
        raise SwarmFailed(
            f"{inviter.device.name}: gossamer invite showed no code{inviter.last_words()}"
        ) from error
