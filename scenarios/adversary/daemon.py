"""A bad device as a real daemon: the same process as any other, whose core has a behaviour at its doors.

    GOSSAMER_ADVERSARY='{"seed": 0, "index": 3, "hostile": {"3": {"behaviour": "forge", "count": 1}}, "devices": 8}'
    python -m scenarios.adversary.daemon up --home HOME

Only `gossamer swarm` starts one. The league's devices are processes of their own: they know each other's keys, which follow
from the scenario's seed, and not each other's vectors.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gossip.errors import GossamerError
from node.daemon.lifecycle import run_node
from node.home import open_home
from scenarios.adversary.casting import cast_of
from scenarios.certificates import identity_of
from scenarios.spec.adversary import AdversaryTable

VARIABLE = "GOSSAMER_ADVERSARY"
FAILED, INTERRUPTED = 1, 130


class Part(msgspec.Struct, frozen=True):
    """Which device this is, and who else is bad."""

    seed: int
    index: int
    devices: int
    hostile: dict[int, AdversaryTable]  # by device


def part_of(seed: int, index: int, hostile: Sequence[AdversaryTable | None]) -> dict[str, str]:
    """What the environment of a bad device's daemon says."""
    bad = {each: table for each, table in enumerate(hostile) if table is not None}
    part = Part(seed, index, len(hostile), bad)
    return {VARIABLE: msgspec.json.encode(part).decode()}


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """`words`: up --home HOME, as of `gossamer`."""
    part = msgspec.json.decode(environ[VARIABLE], type=Part)
    home = Path(words[list(words).index("--home") + 1])
    identities = [identity_of(part.seed, index) for index in range(part.devices)]
    make = cast_of(identities, [part.hostile.get(index) for index in range(part.devices)], part.seed)
    try:
        interrupted = run_node(
            open_home(home),
            (),
            nearby=None,
            foreground=True,
            announce=lambda _addresses, _invites: None,
            environ=environ,
            make_core=lambda **given: make(part.index, **given),
        )
    except GossamerError as error:
        print(f"gossamer: {error}", file=sys.stderr)  # noqa: T201
        return int(getattr(error, "exit_code", FAILED))
    return INTERRUPTED if interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
