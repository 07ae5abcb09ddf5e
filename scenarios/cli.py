"""`gossamer swarm` and `gossamer simulate`: a scenario from the command line to an exit code.

0: the swarm did what the scenario says. 1: it did not, and stderr says why. 2: the command line asks for something
that there is not. 4: the scenario's file cannot be used. 130: interrupted, and nothing runs any more.
"""

import ctypes
import gc
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from gossip.errors import GossamerError
from gossip.manifest import MASKS_OFF
from node.virtual.swarm import Crypto, cryptography
from scenarios.adversary import NAMES as BEHAVIOURS
from scenarios.plan import Plan, honest, plan, without_masks
from scenarios.processes.namespaces import refuse_unable
from scenarios.processes.run import run
from scenarios.reports.processes import print_report, problems, write_json
from scenarios.reports.progress import Display, display
from scenarios.reports.virtual import (
    SIZED_MEANS,
    RunReport,
    SimulationReport,
    note_of,
    outcome,
    print_simulation,
)
from scenarios.spec.adversary import AdversaryTable
from scenarios.spec.adversary import read as read_adversary
from scenarios.spec.baselines import NAMES
from scenarios.spec.scenario import VIRTUAL_DEVICES_MAX, OptionError, find_scenario
from scenarios.virtual.protocol_only import TASK, UNTIL_S, ProtocolRun

OK, FAILED, INTERRUPTED = 0, 1, 130
SEEDS_MAX = 1000
GOSSAMER = "gossamer"


def swarm(
    scenario: str = "quickstart",
    /,
    *,
    nodes: Annotated[int | None, Parameter(alias="-n")] = None,
    rounds: int | None = None,
    seed: int | None = None,
    keep: Path | None = None,
    adversary: str | None = None,
    json: Path | None = None,
    namespaces: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run a whole swarm on this machine, one real daemon a device, and show what it learned.

    Parameters
    ----------
    scenario
        A scenario that comes with Gossamer (quickstart, digits, faults, split), or the path of a TOML file.
    nodes
        How many devices take part: the first of those that the scenario lists, or as many as it may count.
    rounds
        Rounds to train for.
    seed
        Draws the devices' keys, the first model and the shares of the data.
    keep
        Keep the devices' homes, with their logs, in this new folder.
    adversary
        So many devices do not follow the protocol, instead of what the scenario says: BEHAVIOUR=SHARE or BEHAVIOUR=COUNT, with +
        between several, `none` for nobody. See docs/adversary.md. Figures are of the honest devices.
    json
        Write all figures to this file.
    namespaces
        Give each device a network of its own, joined and cut as the scenario's [network] says. For root on Linux; everything
        that is made is removed at the end, also when the run is killed.

    """
    stderr = Console(stderr=True)
    try:
        _refuse_json(json)
        bad = _adversary(adversary) if adversary is not None else None
        chosen = plan(find_scenario(scenario), nodes=nodes, rounds=rounds, seed=seed, adversaries=bad)
        if namespaces:
            refuse_unable(chosen.network, chosen.name)
        stderr.print(Text(f"{chosen.name}: {chosen.summary}"), soft_wrap=True)
        if chosen.network.home and not namespaces:
            stderr.print(
                Text(
                    "The scenario's [network] is for --namespaces: these devices share one network, and no link is cut."
                ),
                soft_wrap=True,
            )
        if chosen.has_hardware:
            stderr.print(
                Text("[hardware] and [[class]] are for `gossamer simulate`: these devices are real.")
            )
        with display(stderr) as progress:
            report = run(chosen, keep, progress, namespaces=namespaces)
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
    algorithm: str = GOSSAMER,
    masks: bool = True,
    crypto: Crypto = "real",
    until_accuracy: float | None = None,
    tune: bool = False,
    until_s: float | None = None,
    data: str | None = None,
    adversary: str | None = None,
    json: Path | None = None,
    report: Path | None = None,
) -> int:
    """Run a scenario in virtual time, all devices in this process: real keys, masks and bytes, modelled links and speeds.

    Parameters
    ----------
    scenario
        A scenario that comes with Gossamer, or the path of a TOML file.
    nodes
        How many devices take part: the first of those that the scenario lists, or as many as it may count.
    rounds
        Rounds to train for, at most; the algorithms that Gossamer is compared with end by the scenario's limit_s.
    seed
        Draws the devices' keys, the first model, the shares of the data, and the network's chance.
    seeds
        So many runs, with this seed and those after it.
    algorithm
        What learns, one or several with commas between them: gossamer, local, fedavg, fedbuff, ftte, dpsgd, epidemic,
        divshare, topk.
    masks
        Without them, a member's update is visible to its aggregator: for measuring what hiding it costs.
    crypto
        `sized`: no signature is checked, no secret agreed on, no envelope sealed, no mask made; bytes and times are as with
        `real`. For very large swarms; such a run shows nothing about what is hidden.
    until_accuracy
        End when the mean accuracy over all devices is this, from 0 to 1.
    tune
        Try the grid of learning rates and local steps for each algorithm, with the first seed.
    until_s
        End after so many virtual seconds, where nobody trains (the scenario `scale`).
    data
        Which part of the data each device holds, instead of what the scenario says, such as `dirichlet={index}/{count}@0.3`.
    adversary
        So many devices do not follow the protocol, instead of what the scenario says: BEHAVIOUR=SHARE or BEHAVIOUR=COUNT, with + between
        several, `none` for nobody; with commas between them, one run for each. `none,forge=0.2` shows what it costs to be
        attacked. BEHAVIOUR:hub devices say that they are well connected. Behaviours: see docs/adversary.md. All figures
        are of the honest devices.
    json
        Write all figures to this file.
    report
        Write a page with all figures and curves to this folder.

    """
    stderr = Console(stderr=True)
    failure: GossamerError | None = None
    interrupted = False
    runs: list[RunReport] = []
    try:
        _refuse_json(json)
        write_page = None if report is None else _page_writer(report)
        algorithms = _algorithms(algorithm, tune)
        adversaries = _adversaries(adversary, algorithms)
        plans = _seeded(
            find_scenario(scenario), nodes, rounds, seed, seeds, until_accuracy, data, adversaries
        )
        first = plans[0]
        stderr.print(Text(f"{first.name}: {first.summary}"), soft_wrap=True)
        if first.faults:
            stderr.print(Text("The scenario's faults are for `gossamer swarm`: none of them happens here."))
        if first.network.home:
            stderr.print(
                Text(
                    "The scenario's [[network.cut]]s happen to gossamer alone; its [[network.line]]s are for "
                    "`gossamer swarm --namespaces`."
                ),
                soft_wrap=True,
            )
        try:
            with display(stderr) as progress:
                todo = (
                    _tuned(first, algorithms, progress)
                    if tune
                    else _runs(plans, algorithms, masks, progress, until_s, crypto)
                )
                for each, interrupted in todo:  # noqa: B007 - read after the loop
                    runs.append(each)
        except KeyboardInterrupt:
            interrupted = True
        except GossamerError as error:  # what the runs before it have shown is kept
            if not runs:
                raise
            failure = error
        if runs or not interrupted:
            told = SimulationReport(first.name, len(first.devices), first.target_accuracy, first.test, runs)
            print_simulation(told, Console())
            if json is not None:
                write_json(told, json)
            if write_page is not None and report is not None:
                for path in write_page(told, report):
                    stderr.print(Text(f"wrote {path}"), soft_wrap=True)
        if failure is not None:
            raise failure
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
            # That a baseline does not come to the target is a result.
            style = "bold red" if each.algorithm == GOSSAMER else ""
            line = f"gossamer: {each.algorithm}, seed {each.seed}: {each.problem}"
            stderr.print(Text(line, style=style), soft_wrap=True)
    return FAILED if any(each.problem and each.algorithm == GOSSAMER for each in runs) else OK


class _Simulation(Protocol):
    def go(self) -> None: ...

    def report(self) -> RunReport: ...


def _runs(
    plans: Sequence[Plan],
    algorithms: Sequence[str],
    masks: bool,
    progress: Display,
    until_s: float | None,
    crypto: Crypto,
) -> Iterator[tuple[RunReport, bool]]:
    """Each run's figures, and whether it was interrupted, which ends them."""
    if crypto != "real":
        progress.say(f"WARNING: {note_of(crypto)}: {SIZED_MEANS}.")
    todo = [*itertools.product(plans, algorithms)]
    for number, (chosen, name) in enumerate(todo, 1):
        if number > 1:
            _make_room()
        if len(todo) > 1:
            progress.say(f"run {number} of {len(todo)}: {name}, seed {chosen.seed}")
        told, interrupted = _run(chosen, name, masks, progress, until_s, crypto)
        if len(todo) > 1:
            progress.say(f"run {number} of {len(todo)}: {outcome(told)}")
        yield told, interrupted
        if interrupted:
            return


def _make_room() -> None:
    """The run before was one large knot, and two of them need not fit.

    What is freed stays with glibc, 1.3 GB after a run of 100 devices, unless it is asked for it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _run(
    chosen: Plan, algorithm: str, masks: bool, progress: Display, until_s: float | None, crypto: Crypto
) -> tuple[RunReport, bool]:
    interrupted = False
    with cryptography(crypto):
        simulation = _simulation(chosen, algorithm, masks, progress, until_s, crypto)
        try:
            simulation.go()
        except KeyboardInterrupt:
            interrupted = True
    return simulation.report(), interrupted


def _simulation(
    chosen: Plan, algorithm: str, masks: bool, progress: Display, until_s: float | None, crypto: Crypto
) -> _Simulation:
    """Raises OptionError."""
    if chosen.task == TASK:
        if not masks:
            chosen = without_masks(chosen)
            progress.say(f"WARNING: {MASKS_OFF}")
        return ProtocolRun(chosen, progress, UNTIL_S if until_s is None else until_s, crypto=crypto)
    if until_s is not None:
        raise OptionError(f"--until-s {until_s:g}: scenario {chosen.name} trains, and ends with its rounds")
    # Both import torch, which takes seconds.
    if algorithm == GOSSAMER:
        from scenarios.virtual.run import Run  # noqa: PLC0415

        return Run(chosen, progress, masks=masks, crypto=crypto)
    from scenarios.baselines.run import BaselineRun  # noqa: PLC0415

    return BaselineRun(honest(chosen), algorithm, progress)


def _tuned(chosen: Plan, algorithms: Sequence[str], progress: Display) -> Iterator[tuple[RunReport, bool]]:
    """Every trial's figures; its line, and the best lines, are said. Raises OptionError."""
    from scenarios.baselines.tuning import Trial, best, tune  # noqa: PLC0415 - imports torch, which takes seconds

    target = chosen.target_accuracy
    if target is None:
        raise OptionError(
            f"--tune: scenario {chosen.name} has no target_accuracy; choose an --until-accuracy"
        )
    for name in algorithms:
        trials: list[Trial] = []
        for trial in tune(chosen, name, [target], progress):
            trials.append(trial)
            progress.say(f"{name}: {trial}")
            yield trial.report, False
        found = best(trials, target)
        if found is None:
            progress.say(f"{name}: none was at {100 * target:.1f} %")
            continue
        for word, trial in zip(("soonest", "fewest bytes"), found, strict=True):
            progress.say(f"{name}, {word}: {trial}")


def _algorithms(said: str, tune: bool) -> list[str]:
    """Raises OptionError."""
    names = said.split(",")
    known = (GOSSAMER, *NAMES)
    for name in names:
        if name not in known:
            raise OptionError(f'--algorithm: there is no "{name}"; known: {", ".join(known)}')
        if names.count(name) > 1:
            raise OptionError(f"--algorithm: {name} is there twice")
        if tune and name == GOSSAMER:
            raise OptionError("--tune: gossamer has no grid; name the baselines with --algorithm")
    return names


def _page_writer(folder: Path) -> Callable[[SimulationReport, Path], list[Path]]:
    """Raises OptionError now rather than after the run."""
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--report {folder}: not a folder")
    if not folder.exists() and not folder.parent.is_dir():
        raise OptionError(f"--report {folder}: {folder.parent} is no folder")
    # Draws with a library that takes seconds to import.
    writer: Callable[[SimulationReport, Path], list[Path]] = importlib.import_module(
        "scenarios.reports.page"
    ).write_page
    return writer


def _seeded(
    path: Path,
    nodes: int | None,
    rounds: int | None,
    seed: int | None,
    seeds: int,
    until_accuracy: float | None,
    data: str | None,
    adversaries: Sequence[Sequence[AdversaryTable] | None],
) -> list[Plan]:
    """A plan for each seed and adversary. Raises ConfigError, OptionError."""
    if not 1 <= seeds <= SEEDS_MAX:
        raise OptionError(f"--seeds {seeds}: expected 1 to {SEEDS_MAX}")
    if until_accuracy is not None and not 0 < until_accuracy <= 1:
        raise OptionError(f"--until-accuracy {until_accuracy}: expected more than 0, and at most 1")
    first = plan(path, nodes=nodes, rounds=rounds, seed=seed, devices_max=VIRTUAL_DEVICES_MAX)
    plans = [
        plan(
            path,
            nodes=nodes,
            rounds=rounds,
            seed=each,
            devices_max=VIRTUAL_DEVICES_MAX,
            data=data,
            adversaries=bad,
        )
        for each in range(first.seed, first.seed + seeds)
        for bad in adversaries
    ]
    if until_accuracy is None:
        return plans
    return [replace(each, target_accuracy=until_accuracy) for each in plans]


def _adversaries(said: str | None, algorithms: Sequence[str]) -> list[Sequence[AdversaryTable] | None]:
    """One for each run of a seed; None: as the scenario's file says. Raises OptionError."""
    if said is None:
        return [None]
    if algorithms != [GOSSAMER]:
        raise OptionError("--adversary: gossamer alone can be attacked; leave --algorithm out")
    return [_adversary(each) for each in said.split(",")]


def _adversary(said: str) -> tuple[AdversaryTable, ...]:
    """Raises OptionError."""
    try:
        return () if said == "none" else tuple(map(read_adversary, said.split("+")))
    except ValueError as error:
        raise OptionError(f"--adversary: {error}; behaviours: {', '.join(BEHAVIOURS)}") from error


def _refuse_json(path: Path | None) -> None:
    """Raises OptionError now rather than after the run."""
    if path is None:
        return
    if path.is_dir():
        raise OptionError(f"--json {path}: a folder; expected the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OptionError(f"--json {path}: {path.parent} is no folder that can be written to")
