"""`gossamer swarm` and `gossamer simulate`: a scenario from the command line to an exit code.

0: the swarm did what the scenario says. 1: it did not, and stderr says why. 2: the command line asks for something
that there is not. 4: the scenario's file cannot be used. 130: interrupted, and nothing runs any more.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from gossip.errors import GossamerError
from scenarios.progress import Display, display
from scenarios.protocol_only import TASK, UNTIL_S, ProtocolRun
from scenarios.report import print_report, problems, write_json
from scenarios.simulate_report import RunReport, SimulationReport, print_simulation
from scenarios.spec import VIRTUAL_DEVICES_MAX, OptionError, Plan, find_scenario, plan
from scenarios.swarm import run

OK, FAILED, INTERRUPTED = 0, 1, 130
SEEDS_MAX = 1000


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
        if chosen.has_hardware:
            stderr.print(
                Text("[hardware] and [[class]] are for `gossamer simulate`: these devices are real.")
            )
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


def simulate(
    scenario: str = "quickstart",
    /,
    *,
    nodes: Annotated[int | None, Parameter(alias="-n")] = None,
    rounds: int | None = None,
    seed: int | None = None,
    seeds: int = 1,
    until_accuracy: float | None = None,
    until_s: float | None = None,
    json: Path | None = None,
) -> int:
    """Run a scenario in virtual time, all devices in this process: real keys, masks and bytes, modelled links and speeds.

    Parameters
    ----------
    scenario
        A scenario that comes with Gossamer, or the path of a TOML file.
    nodes
        How many devices take part: the first of those that the scenario lists, or as many as it may count.
    rounds
        Rounds to train for, at most.
    seed
        Draws the devices' keys, the first model, the shares of the data, and the network's chance.
    seeds
        So many runs, with this seed and those after it.
    until_accuracy
        End when the mean accuracy over all devices is this, from 0 to 1.
    until_s
        End after so many virtual seconds, where nobody trains (the scenario `scale`).
    json
        Write all figures to this file.

    """
    stderr = Console(stderr=True)
    interrupted = False
    runs: list[RunReport] = []
    try:
        _refuse_json(json)
        plans = _seeded(find_scenario(scenario), nodes, rounds, seed, seeds, until_accuracy)
        first = plans[0]
        stderr.print(Text(f"{first.name}: {first.summary}"), soft_wrap=True)
        if first.faults:
            stderr.print(Text("The scenario's faults are for `gossamer swarm`: none of them happens here."))
        with display(stderr) as progress:
            for chosen in plans:
                run_, interrupted = _simulate(chosen, progress, until_s)
                runs.append(run_)
                if interrupted:
                    break
        report = SimulationReport(first.name, len(first.devices), first.target_accuracy, first.test, runs)
        print_simulation(report, Console())
        if json is not None:
            write_json(report, json)
    except GossamerError as error:
        print(f"gossamer: {error}", file=sys.stderr)  # noqa: T201 - no markup, no wrapping
        return int(getattr(error, "exit_code", FAILED))
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        print("gossamer: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    for each in runs:
        if each.problem:
            stderr.print(
                Text(f"gossamer: seed {each.seed}: {each.problem}", style="bold red"), soft_wrap=True
            )
    return FAILED if any(each.problem for each in runs) else OK


def _simulate(chosen: Plan, progress: Display, until_s: float | None) -> tuple[RunReport, bool]:
    """The run's figures, and whether it was interrupted. Raises OptionError."""
    from scenarios.simulate import Run  # noqa: PLC0415 - imports torch, which takes seconds

    simulation: Run | ProtocolRun
    if chosen.task == TASK:
        simulation = ProtocolRun(chosen, progress, UNTIL_S if until_s is None else until_s)
    elif until_s is None:
        simulation = Run(chosen, progress)
    else:
        raise OptionError(f"--until-s {until_s:g}: scenario {chosen.name} trains, and ends with its rounds")
    try:
        simulation.go()
    except KeyboardInterrupt:
        return simulation.report(), True
    return simulation.report(), False


def _seeded(
    path: Path,
    nodes: int | None,
    rounds: int | None,
    seed: int | None,
    seeds: int,
    until_accuracy: float | None,
) -> list[Plan]:
    """A plan for each seed. Raises ConfigError, OptionError."""
    if not 1 <= seeds <= SEEDS_MAX:
        raise OptionError(f"--seeds {seeds}: expected 1 to {SEEDS_MAX}")
    if until_accuracy is not None and not 0 < until_accuracy <= 1:
        raise OptionError(f"--until-accuracy {until_accuracy}: expected more than 0, and at most 1")
    first = plan(path, nodes=nodes, rounds=rounds, seed=seed, devices_max=VIRTUAL_DEVICES_MAX)
    others = [
        plan(path, nodes=nodes, rounds=rounds, seed=each, devices_max=VIRTUAL_DEVICES_MAX)
        for each in range(first.seed + 1, first.seed + seeds)
    ]
    if until_accuracy is None:
        return [first, *others]
    return [replace(each, target_accuracy=until_accuracy) for each in (first, *others)]


def _refuse_json(path: Path | None) -> None:
    """Raises OptionError now rather than after the run."""
    if path is None:
        return
    if path.is_dir():
        raise OptionError(f"--json {path}: a folder; expected the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OptionError(f"--json {path}: {path.parent} is no folder that can be written to")
