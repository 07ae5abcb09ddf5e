"""A simulation as a page for somebody with thirty seconds: what was found, then the curves, then everything.

A run that did not reach the target has no time, bytes or steps to it: it counts as later than any that did. So the median
over seeds is a figure where more than half of them reached the target, and else "not reached in" what they were given.
Savings are rounded down.
"""

import contextlib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, StrictUndefined

from gossip.manifest import MASKS_OFF
from scenarios.reports.charts import (
    BY_KIND,
    OVER_BYTES,
    OVER_TIME,
    Chart,
    accuracy_over_bytes,
    accuracy_over_time,
    bytes_by_kind,
    bytes_in_words,
    colour_of,
    in_words,
)
from scenarios.reports.processes import ReportError
from scenarios.reports.virtual import SIZED_MEANS, RunReport, SimulationReport, bare, by_algorithm, sized

TEMPLATE = Path(__file__).with_name("page.html")
PAGE = "index.html"
CHARTS = {OVER_TIME: accuracy_over_time, OVER_BYTES: accuracy_over_bytes, BY_KIND: bytes_by_kind}
SUBJECT, REFERENCE = "gossamer", "fedavg"
SAME = 0.005  # of a ratio, within which two figures are called the same
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    note: str = ""
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    figure: str
    words: str
    good: bool


@dataclass(frozen=True, slots=True)
class Caution:
    name: str
    words: str
    loud: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """One quantity of one algorithm's runs, to the target."""

    reached: tuple[float, ...]  # ascending
    missed: tuple[float, ...]  # what the runs that did not reach it had used at their end; ascending

    @property
    def median(self) -> float | None:
        """None where it would rest on a run that did not reach the target."""
        return _finite(median([*self.reached, *(math.inf for _ in self.missed)]))


def reach(runs: Sequence[RunReport], value: Callable[[RunReport], float]) -> Reach:
    return Reach(
        tuple(sorted(value(run) for run in runs if run.reached)),
        tuple(sorted(value(run) for run in runs if not run.reached)),
    )


def write_page(report: SimulationReport, folder: Path, *, command: str = "") -> list[Path]:
    """The page, and each chart as a PNG beside it; the folder is made. Returns what was written, the page first.

    `command` is what the page tells to repeat; "" for one that is made up from the report. Raises ReportError.
    """
    charts = {file: draw(report) for file, draw in CHARTS.items()}
    page = page_of(report, charts, command=command)
    paths = [folder / PAGE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, chart in charts.items():
            if chart is None:
                (folder / file).unlink(
                    missing_ok=True
                )  # of an earlier report: it would not belong to this page
                continue
            _replace(folder / file, chart.png)
            paths.append(folder / file)
        _replace(folder / PAGE, page.encode())
    except OSError as error:
        raise ReportError(f"{folder}: the report cannot be written: {error.strerror}") from error
    return paths


def page_of(report: SimulationReport, charts: Mapping[str, Chart | None], *, command: str = "") -> str:
    """HTML; all that comes from the report is escaped, but for the charts, which have done so themselves."""
    groups = by_algorithm(report.runs)
    sent = [run.sent_per_device for run in groups.get(SUBJECT, [])]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        goal=_goal(report),
        cautions=cautions(report),
        tiles=tiles(report),
        headline=headline(report),
        over_time=charts[OVER_TIME],
        over_bytes=charts[OVER_BYTES],
        kinds=charts[BY_KIND],
        sent=bytes_in_words(sum(sent) / len(sent)) if sent else "",
        columns=columns(report),
        colours={name: colour_of(name) for name in groups},
        rows={name: row(report, name) for name in groups},
        notes=notes(report),
        parameters={name: _parameters(runs) for name, runs in groups.items()},
        runs=[_run_cells(report, run) for run in report.runs],
        commands=[command] if command else commands(report),
        unsaid=SUBJECT in bare(report) and not command,
    )


# --- words ---------------------------------------------------------------------------------------------------------------


def cautions(report: SimulationReport) -> list[Caution]:
    """What in these runs was not as on real devices. Loud where Gossamer is measured without what it costs."""
    found = []
    if names := sized(report):
        found.append(Caution("Sized cryptography", f"{', '.join(names)}: {SIZED_MEANS}.", loud=True))
    unmasked = bare(report)
    if SUBJECT in unmasked:
        words = f"nothing hid these updates; {MASKS_OFF}. These are not the figures of a private swarm"
        found.append(Caution("Masks off", f"{SUBJECT}: {words}.", loud=True))
    if names := [name for name in unmasked if name != SUBJECT]:
        words = "each update was sent in the clear"
        found.append(Caution("Masks off", f"{', '.join(names)}: {words}.", loud=False))
    found += [
        Caution(f"{run.algorithm}, seed {run.seed}", f"{run.problem}.", loud=True)
        for run in report.runs
        if run.problem
    ]
    return found


def headline(report: SimulationReport) -> list[str]:
    """A sentence for each of the two algorithms that are compared, and one for how good their models are."""
    groups = by_algorithm(report.runs)
    if not groups:
        return []
    lines = [_found(report, name, groups[name]) for name in _compared(report)]
    if report.target_accuracy is not None:
        finals = (
            f"{name} {_percent(median(run.final_accuracy for run in groups[name]))}"
            for name in _compared(report)
        )
        lines.append(f"Accuracy at the end, mean over the devices: {', '.join(finals)}.")
    return lines


def tiles(report: SimulationReport) -> list[Tile]:
    """How two algorithms compare in time and bytes; none where one of them did not reach the target."""
    names = _compared(report)
    if len(names) < 2 or report.target_accuracy is None:
        return []
    found = []
    for value, less, much in (
        (_time, "less time", "the time"),
        (_bytes, "fewer bytes a device", "the bytes"),
    ):
        subject, reference = (reach(by_algorithm(report.runs)[name], value).median for name in names)
        if subject is None or not reference:
            return []
        found.append(_tile(subject / reference, less, much, names[1]))
    return found


def columns(report: SimulationReport) -> list[str]:
    to = "to the end" if report.target_accuracy is None else "to target"
    named = [
        "seeds" if report.target_accuracy is None else "reached",
        f"time {to}",
        f"bytes a device {to}",
        f"local steps a device {to}",
        "rounds run",
        "final accuracy, mean",
        "10th-percentile device",
        "worst device",
        "wall time",
    ]
    if _has_ratios(report):
        named += [f"time / {REFERENCE}", f"bytes / {REFERENCE}"]
    return named


def row(report: SimulationReport, name: str) -> list[Cell]:
    """As in `columns`."""
    runs = by_algorithm(report.runs)[name]
    count = len(runs)
    if report.target_accuracy is None:
        cells = [Cell(str(count))]
    else:
        cells = [Cell(f"{sum(run.reached for run in runs)} of {count}")]
    cells += [
        _to_target(report, runs, _time, _seconds),
        _to_target(report, runs, _bytes, bytes_in_words),
        _to_target(report, runs, lambda run: run.local_steps_per_device, in_words, " steps"),
        Cell(in_words(median(run.rounds for run in runs))),
        _shares([run.final_accuracy for run in runs]),
        _shares([run.curve[-1].tenth for run in runs if run.curve]),
        _worst([run.worst_accuracy for run in runs]),
        Cell(
            _seconds(median(run.wall_s for run in runs)),
            f"training {_seconds(median(run.training_wall_s for run in runs))}",
        ),
    ]
    if _has_ratios(report):
        reference = by_algorithm(report.runs)[REFERENCE]
        cells += [_ratio(runs, reference, value) for value in (_time, _bytes)]
    return cells


def notes(report: SimulationReport) -> list[str]:
    """What a reader of the table has to know."""
    lines = ["Medians over seeds, and the lowest and highest; the worst device is the worst of all seeds."]
    if report.target_accuracy is not None:
        lines.append(
            "A run that did not reach the target counts as later than all that did, so a median needs more than half."
        )
    lines.append(
        "Bytes are sent plus received, with all that encryption and libp2p add. Time is virtual; wall time is not."
    )
    for name, runs in by_algorithm(report.runs).items():
        size = median(run.broadcast_bytes for run in runs)
        if size > 0:
            lines.append(
                f"The bytes of {name} include {bytes_in_words(size)} for the server's final model, sent to every device."
            )
    return lines


def commands(report: SimulationReport) -> list[str]:
    """What repeats the runs: a command for each stretch of seeds without a gap."""
    algorithms = list(by_algorithm(report.runs))
    seeds = sorted({run.seed for run in report.runs})
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    lines = []
    for start in starts:
        count = next(count for count in range(1, len(seeds) + 1) if start + count not in seeds)
        words = ["gossamer", "simulate", report.scenario, "--nodes", str(report.nodes)]
        words += ["--seed", str(start), "--seeds", str(count), "--algorithm", ",".join(algorithms)]
        if report.target_accuracy is not None:
            words += ["--until-accuracy", f"{report.target_accuracy:.6g}"]
        if any(run.crypto != "real" for run in report.runs):
            words += ["--crypto", "sized"]
        lines.append(shlex.join([*words, "--report", "report"]))
    return lines


def _compared(report: SimulationReport) -> list[str]:
    """The subject and what it is measured against; one name if there is one algorithm."""
    groups = by_algorithm(report.runs)

    def time_of(name: str) -> float:
        found = reach(groups[name], _time).median
        return math.inf if found is None else found

    fastest = sorted(groups, key=time_of)  # stable: as given where none reached it
    subject = (
        SUBJECT if SUBJECT in groups else next((name for name in fastest if name != REFERENCE), REFERENCE)
    )
    others = [name for name in fastest if name != subject]
    return [subject, REFERENCE if REFERENCE in others else others[0]] if others else [subject]


def _found(report: SimulationReport, name: str, runs: Sequence[RunReport]) -> str:
    if report.target_accuracy is None:
        accuracy = _percent(median(run.final_accuracy for run in runs))
        time, size = median(map(_time, runs)), median(map(_bytes, runs))
        return f"{name}: {accuracy} after {_seconds(time)} and {bytes_in_words(size)} a device."
    times, sizes = reach(runs, _time), reach(runs, _bytes)
    reached = (
        f" ({len(times.reached)} of {len(runs)} seeds reached it)" if times.reached and times.missed else ""
    )
    if times.median is None or sizes.median is None:
        return f"{name}: not reached in {_seconds(times.missed[0])}{reached}."
    return f"{name}: {_seconds(times.median)} and {bytes_in_words(sizes.median)} a device{reached}."


def _tile(ratio: float, less: str, much: str, reference: str) -> Tile:
    if abs(ratio - 1) <= SAME:
        return Tile("as much", f"{much.removeprefix('the ')} as {reference}", good=False)
    if ratio < 1:
        saved = math.floor(1000 * (1 - ratio) + 1e-9) / 10
        if ratio > 0:
            saved = min(saved, 99.9)
        return Tile(f"{saved:.1f} %", f"{less} than {reference}", good=True)
    return Tile(f"{in_words(ratio)} times", f"{much} of {reference}", good=False)


def _goal(report: SimulationReport) -> str:
    devices = f"{report.nodes:,} {'device' if report.nodes == 1 else 'devices'}"
    if report.target_accuracy is None:
        return f"{devices}, no target"
    return f"{devices}, until their mean accuracy is {_percent(report.target_accuracy)}"


def _to_target(
    report: SimulationReport,
    runs: Sequence[RunReport],
    value: Callable[[RunReport], float],
    words: Callable[[float], str],
    unit: str = "",
) -> Cell:
    if report.target_accuracy is None:
        values = sorted(map(value, runs))
        return Cell(words(median(values)), _range(values, words))
    found = reach(runs, value)
    if found.median is None:
        best = [f"the best seed: {words(found.reached[0])}{unit}"] if found.reached else []
        spent = f"in {words(found.missed[0])}{unit}"
        if value is _time:
            return Cell(f"not reached {spent}", "".join(best), muted=True)
        return Cell("not reached", "; ".join([spent, *best]), muted=True)
    if found.missed:
        missed = f"{len(found.missed)} not reached in {words(found.missed[0])}{unit}"
        return Cell(words(found.median), f"{_range(found.reached, words)}; {missed}".removeprefix("; "))
    return Cell(words(found.median), _range(found.reached, words))


def _ratio(
    runs: Sequence[RunReport], reference: Sequence[RunReport], value: Callable[[RunReport], float]
) -> Cell:
    mine, theirs = reach(runs, value).median, reach(reference, value).median
    if mine is None or not theirs:
        return Cell(ABSENT, muted=True)
    return Cell(f"{mine / theirs:.3f}" if mine < theirs else f"{mine / theirs:.2f}")


def _has_ratios(report: SimulationReport) -> bool:
    names = by_algorithm(report.runs)
    return report.target_accuracy is not None and REFERENCE in names and len(names) > 1


def _shares(values: Sequence[float]) -> Cell:
    if not values:
        return Cell(ABSENT, muted=True)
    return Cell(_percent(median(values)), _range(sorted(values), _percent))


def _worst(values: Sequence[float]) -> Cell:
    return Cell(_percent(min(values)), f"median {_percent(median(values))}" if len(values) > 1 else "")


def _range(ascending: Sequence[float], words: Callable[[float], str]) -> str:
    low, high = words(ascending[0]), words(ascending[-1])
    return "" if low == high else f"{low} to {high}"


def _parameters(runs: Sequence[RunReport]) -> dict[str, str]:
    """One value where all seeds have the same."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    return {
        name: ", ".join(dict.fromkeys(str(run.parameters[name]) for run in runs if name in run.parameters))
        for name in names
    }


def _run_cells(report: SimulationReport, run: RunReport) -> tuple[str, str, str, str]:
    """Algorithm, seed, what came of it, trace."""
    if report.target_accuracy is None or run.reached:
        found = f"{_seconds(run.time_s)}, {bytes_in_words(run.bytes_per_device)}"
    else:
        found = f"not reached in {_seconds(run.time_s)}"
    return run.algorithm, str(run.seed), found, run.trace_sha256


def _time(run: RunReport) -> float:
    return run.time_s


def _bytes(run: RunReport) -> float:
    return run.bytes_per_device


def _seconds(value: float) -> str:
    return f"{in_words(value)} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _replace(path: Path, content: bytes) -> None:
    """The whole file or none."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
