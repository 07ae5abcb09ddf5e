"""How much each behaviour costs honest devices: a table of many runs, kept in a file so that it can go on after a stop.

    python -m scenarios.virtual.adversary_table --nodes 20 --seeds 5 --shares 0.05,0.1,0.2,0.3 --behaviours forge,louder --json FILE

Each cell is one run of `gossamer simulate` for one seed. Cells that are in the file are not run again; two processes share the others.
The first row is nobody: what the others are compared with.
"""

import sys
import time  # noqa: TID251 - a run tells whoever waits for it how long it will take
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import msgspec
from cyclopts import App

from gossip.errors import GossamerError
from scenarios.adversary import BEHAVIOURS
from scenarios.plan import plan
from scenarios.reports.progress import PlainDisplay
from scenarios.reports.virtual import RunReport
from scenarios.spec.adversary import AdversaryTable, read
from scenarios.spec.scenario import VIRTUAL_DEVICES_MAX, find_scenario
from scenarios.virtual.run import Broken, Run

PROCESSES = 2
NOBODY = "none"

app = App(help=__doc__)


class Cell(msgspec.Struct, frozen=True):
    """One run. `adversary` is as on the command line; `broken` says what ended an honest device, if anything did."""

    adversary: str
    seed: int
    accuracy: float = 0.0
    worst: float = 0.0
    rounds_a_minute: float = 0.0
    backdoor: float | None = None
    sums_refused: int = 0
    sums_unknown: int = 0
    caught: int = 0
    wronged: int = 0
    bytes_per_device: float = 0.0
    problem: str = ""
    broken: str = ""


class Kept(msgspec.Struct):
    """The file: what was run, and what came out so far."""

    scenario: str
    nodes: int | None
    rounds: int | None
    data: str | None
    cells: list[Cell] = msgspec.field(default_factory=list)


def cell(
    scenario: str, nodes: int | None, rounds: int | None, data: str | None, adversary: str, seed: int
) -> Cell:
    """Raises what `scenarios.plan.plan` does."""
    bad: tuple[AdversaryTable, ...] = () if adversary == NOBODY else (read(adversary),)
    chosen = plan(
        find_scenario(scenario),
        nodes=nodes,
        rounds=rounds,
        seed=seed,
        devices_max=VIRTUAL_DEVICES_MAX,
        data=data,
        adversaries=bad,
    )
    try:
        run = Run(chosen, PlainDisplay(lambda _line: None))
        run.go()
    except Broken as error:
        return Cell(adversary, seed, broken=str(error))
    return _measured(adversary, seed, run.report())


def _measured(adversary: str, seed: int, told: RunReport) -> Cell:
    effects = told.adversary
    return Cell(
        adversary,
        seed,
        accuracy=told.final_accuracy,
        worst=told.worst_accuracy,
        rounds_a_minute=60 * told.rounds / told.time_s if told.time_s else 0.0,
        backdoor=effects.backdoor_success if effects else None,
        sums_refused=effects.sums_refused if effects else 0,
        sums_unknown=effects.sums_unknown if effects else 0,
        caught=effects.caught if effects else 0,
        wronged=effects.wronged if effects else 0,
        bytes_per_device=told.bytes_per_device,
        problem=told.problem,
    )


def markdown(kept: Kept) -> Iterator[str]:
    """A row a behaviour, a column a share: the mean accuracy over the seeds, and what else there is to say of it."""
    groups: dict[str, list[Cell]] = {}
    for each in kept.cells:
        groups.setdefault(each.adversary, []).append(each)
    shares = list(dict.fromkeys(name.partition("=")[2] for name in groups if name != NOBODY))
    yield f"| honest accuracy, worst seed; honest pace | {' | '.join(shares)} |"
    yield "|---|" + "---|" * len(shares)
    if NOBODY in groups:
        yield f"| {NOBODY} | {_words(groups[NOBODY])} |" + " |" * (len(shares) - 1)
    for behaviour in dict.fromkeys(name.partition("=")[0] for name in groups if name != NOBODY):
        found = [groups.get(f"{behaviour}={share}", []) for share in shares]
        yield f"| {behaviour} | {' | '.join(_words(cells) if cells else '' for cells in found)} |"


def _words(cells: Sequence[Cell]) -> str:
    whole = [each for each in cells if not each.broken]
    words = []
    if whole:
        words.append(
            f"{mean(each.accuracy for each in whole):.3f} ({min(each.accuracy for each in whole):.3f})"
        )
        words.append(f"{mean(each.rounds_a_minute for each in whole):.0f}/min")
    for name, values in (
        ("backdoor", [each.backdoor for each in whole if each.backdoor is not None]),
        ("refused", [each.sums_refused for each in whole]),
        ("unknown", [each.sums_unknown for each in whole]),
        ("caught", [each.caught for each in whole]),
        ("wronged", [each.wronged for each in whole]),
        ("stalled", [bool(each.problem) for each in whole]),
        ("BROKEN", [bool(each.broken) for each in cells]),
    ):
        if values and any(values):
            words.append(f"{name} {mean(values):.3g}")
    return ", ".join(words)


@app.default
def main(
    scenario: str = "digits",
    *,
    nodes: int | None = 20,
    rounds: int | None = None,
    seeds: int = 5,
    shares: str = "0.05,0.1,0.2,0.3",
    behaviours: str = ",".join(BEHAVIOURS),
    data: str | None = None,
    processes: int = PROCESSES,
    json: Path,
) -> int:
    """Run the cells that are not in the file yet, and print the table.

    Parameters
    ----------
    scenario
        As of `gossamer simulate`; nodes, rounds and data, too.
    nodes
        How many devices, the bad ones among them.
    rounds
        Instead of the scenario's.
    seeds
        So many for each cell, from 0 on.
    shares
        Of the devices, or whole numbers of them, with commas between them.
    behaviours
        With commas between them; each may end in `:hub`.
    data
        Such as `dirichlet={index}/{count}@0.3`.
    processes
        Runs at a time.
    json
        What has come out so far. A file of other runs is refused.

    """
    kept = _kept(json, Kept(scenario, nodes, rounds, data))
    if kept is None:
        print(f"{json}: of another scenario, size, length or data; choose another file", file=sys.stderr)  # noqa: T201
        return 2
    known = {(each.adversary, each.seed) for each in kept.cells}
    wanted = [NOBODY, *(f"{name}={share}" for name in behaviours.split(",") for share in shares.split(","))]
    todo = [(name, seed) for seed in range(seeds) for name in wanted if (name, seed) not in known]
    try:
        for name, _ in todo:
            _ = None if name == NOBODY else read(name)
        _run_all(kept, todo, processes, json)
    except (GossamerError, ValueError) as error:
        print(f"adversary table: {error}", file=sys.stderr)  # noqa: T201
        return int(getattr(error, "exit_code", 2))
    order = {name: place for place, name in enumerate(wanted)}
    kept.cells.sort(key=lambda each: (order.get(each.adversary, len(order)), each.seed))
    for line in markdown(kept):
        print(line)  # noqa: T201
    return 0


def _run_all(kept: Kept, todo: Sequence[tuple[str, int]], processes: int, path: Path) -> None:
    began, clock = time.monotonic(), time.monotonic
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures: list[Future[Cell]] = [
            pool.submit(cell, kept.scenario, kept.nodes, kept.rounds, kept.data, name, seed)
            for name, seed in todo
        ]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                kept.cells.append(future.result())
                _write(kept, path)
                _tell(kept.cells[-1], done, len(todo), clock, began)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _tell(last: Cell, done: int, count: int, clock: Callable[[], float], began: float) -> None:
    left_s = (clock() - began) / done * (count - done)
    print(  # noqa: T201
        f"{done}/{count}  {last.adversary}, seed {last.seed}: {_words([last])}  about {left_s:.0f} s to go",
        file=sys.stderr,
        flush=True,
    )


def _kept(path: Path, fresh: Kept) -> Kept | None:
    if not path.exists():
        return fresh
    kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    asked = (fresh.scenario, fresh.nodes, fresh.rounds, fresh.data)
    return kept if (kept.scenario, kept.nodes, kept.rounds, kept.data) == asked else None


def _write(kept: Kept, path: Path) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1))
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(app())
