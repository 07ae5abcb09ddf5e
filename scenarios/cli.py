"""`gossamer swarm`: a scenario from the command line to an exit code.

0: the swarm did what the scenario says. 1: it did not, and stderr says why. 2: the command line asks for something
that there is not. 4: the scenario's file cannot be used. 130: interrupted, and nothing runs any more.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from gossip.errors import GossamerError
from scenarios.progress import display
from scenarios.report import print_report, problems, write_json
from scenarios.spec import OptionError, find_scenario, plan
from scenarios.swarm import run

OK, FAILED, INTERRUPTED = 0, 1, 130


def swarm(
    scenario: str = "quickstart",
    /,
    *,
    nodes: Annotated[int | None, Parameter(alias="-n")] = None,
    rounds: int | None = None,
    seed: int | None = None,
    keep: Path | None = None,
    json: Path | None = None,
) -> int:
    """Run a whole swarm on this machine, one real daemon a device, and show what it learned.

    Parameters
    ----------
    scenario
        A scenario that comes with Gossamer (quickstart, digits, faults), or the path of a TOML file.
    nodes
        How many devices take part: the first of those that the scenario lists, or as many as it may count.
    rounds
        Rounds to train for.
    seed
        Draws the devices' keys, the first model and the shares of the data.
    keep
        Keep the devices' homes, with their logs, in this new folder.
    json
        Write all figures to this file.

    """
    stderr = Console(stderr=True)
    try:
        _refuse_json(json)
        chosen = plan(find_scenario(scenario), nodes=nodes, rounds=rounds, seed=seed)
        stderr.print(Text(f"{chosen.name}: {chosen.summary}"), soft_wrap=True)
        with display(stderr) as progress:
            report = run(chosen, keep, progress)
        print_report(report, Console())
        if json is not None:
            write_json(report, json)
    except GossamerError as error:
        told = "\n".join([str(error), *getattr(error, "__notes__", [])])
        print(f"gossamer: {told}", file=sys.stderr)  # noqa: T201 - no markup, no wrapping
        return int(getattr(error, "exit_code", FAILED))
    except KeyboardInterrupt:
        print("gossamer: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    found = problems(report)
    for line in found:
        stderr.print(Text(f"gossamer: {line}", style="bold red"), soft_wrap=True)
    return FAILED if found else OK


def _refuse_json(path: Path | None) -> None:
    """Raises OptionError now rather than after the run."""
    if path is None:
        return
    if path.is_dir():
        raise OptionError(f"--json {path}: a folder; expected the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OptionError(f"--json {path}: {path.parent} is no folder that can be written to")
