"""What simulations have shown: figures for a file, and a table for a person.

Bytes are those that a daemon's sockets would have counted, sent plus received where nothing else is said. Seconds are
virtual, but those of `wall`. Accuracies are shares of the scenario's test set, over all devices.
"""

from collections.abc import Sequence
from statistics import mean

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gossip.manifest import MASKS_OFF
from scenarios.adversary.effects import AdversaryReport
from scenarios.adversary.effects import told as told_of
from scenarios.reports.processes import SHOWN_BYTES_MIN, CutReport, told

SIZED = "SIZED CRYPTOGRAPHY"  # of a run, in its progress line and its table's title
SIZED_MEANS = (
    "no signature was checked, no secret agreed on, no envelope sealed and no mask made, but for their sizes"
)
WIDTH_MIN = 120  # columns of the table where no terminal says how wide it is


class Point(msgspec.Struct, frozen=True):
    """All devices at one moment of a run."""

    time_s: float
    bytes_per_device: float
    accuracy: float  # mean over the devices
    tenth: float  # of ten devices nine are at least as good
    worst: float


class RunReport(msgspec.Struct, frozen=True):
    algorithm: str
    seed: int
    masks: bool
    reached: bool  # the target
    time_s: float  # to the target, or to the end
    bytes_per_device: float
    local_steps_per_device: float
    final_accuracy: float  # mean over the devices
    worst_accuracy: float
    rounds: int
    trace_sha256: str
    wall_s: float
    training_wall_s: float
    sent_per_device: float
    sent_by_kind: dict[str, float]  # a device's messages, without what libp2p adds; announcements: each copy
    events: int
    problem: str  # why the run ended before its end; "" where it did not
    curve: list[Point] = msgspec.field(default_factory=list)  # in the order of time
    parameters: dict[str, float | int | str] = msgspec.field(default_factory=dict)
    # A server's model is a device's only when it has come down: part of time_s and of bytes_per_device.
    broadcast_s: float = 0.0
    broadcast_bytes: float = 0.0
    crypto: str = "real"  # "sized": computed sizes and times, no keys
    cuts: tuple[CutReport, ...] = ()
    adversary: AdversaryReport | None = None  # then all other figures are of the honest devices

    @property
    def name(self) -> str:
        """Its algorithm, and against whom."""
        if self.adversary is None:
            return self.algorithm
        return f"{self.algorithm}, {'+'.join(self.adversary.adversary)}"


class SimulationReport(msgspec.Struct, frozen=True):
    scenario: str
    nodes: int
    target_accuracy: float | None
    test: str
    runs: list[RunReport]


def by_algorithm(runs: Sequence[RunReport]) -> dict[str, list[RunReport]]:
    """And by adversary; in the order of the first run of each."""
    groups: dict[str, list[RunReport]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def bare(report: SimulationReport) -> list[str]:
    """The algorithms with a run whose updates nothing hid."""
    return [name for name, runs in by_algorithm(report.runs).items() if not all(run.masks for run in runs)]


def sized(report: SimulationReport) -> list[str]:
    """The algorithms with a run that computed the sizes and times of its cryptography, and made none."""
    groups = by_algorithm(report.runs).items()
    return [name for name, runs in groups if any(run.crypto != "real" for run in runs)]


def cautions(report: SimulationReport) -> list[str]:
    """What in these runs was not as on real devices: to be shown before any figure."""
    lines = []
    if names := bare(report):
        lines.append(f"MASKS OFF in {', '.join(names)}: nothing hid these updates.")
    if any(run.algorithm == "gossamer" and not run.masks for run in report.runs):
        lines.append(f"gossamer: {MASKS_OFF}.")
    if names := sized(report):
        lines.append(f"{SIZED} in {', '.join(names)}: {SIZED_MEANS}.")
    return lines


def note_of(crypto: str) -> str:
    return "" if crypto == "real" else SIZED


def outcome(run: RunReport) -> str:
    """One run in a line."""
    return (
        f"{run.name}, seed {run.seed}: {100 * run.final_accuracy:.1f} % after {run.time_s:.1f} virtual s"
        f"{', at the target' if run.reached else ''}; {run.bytes_per_device / 1e3:.0f} KB a device, "
        f"{run.rounds} rounds, {run.wall_s:.0f} s of wall time"
    )


def print_simulation(report: SimulationReport, console: Console) -> None:
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_MIN)
    for line in cautions(report):
        console.print(Text(line, style="bold red"))
    console.print(_table(report))
    for line in statements(report):
        console.print(Text(line))


def statements(report: SimulationReport) -> list[str]:
    """What the figures mean, in words."""
    real = "" if cautions(report) else "; keys, masks and bytes are real"
    lines = [f"Tested on {report.test}. {report.nodes} virtual devices{real}."]
    for algorithm, runs in by_algorithm(report.runs).items():
        last = runs[-1]
        if not last.sent_by_kind or last.adversary is not None:  # kinds are of bad devices, too
            continue
        rounds = max(last.rounds, 1)
        kinds = [
            (kind, size / rounds)
            for kind, size in last.sent_by_kind.items()
            if size / rounds >= SHOWN_BYTES_MIN
        ]
        kinds.sort(key=lambda pair: -pair[1])
        rest = (last.sent_per_device - sum(last.sent_by_kind.values())) / rounds
        shown = "  ".join(f"{kind} {size / 1e3:.1f}" for kind, size in kinds)
        lines.append(
            f"{algorithm}: KB that a device sends a round: {shown}  encryption and libp2p {rest / 1e3:.1f}."
        )
    down = max((run.broadcast_bytes for run in report.runs), default=0.0)
    if down:
        lines.append(
            f"Where a server has the model, time and bytes include its last way down to all: {down / 1e3:.1f} KB a device."
        )
    lines += [line for run in report.runs for cut in run.cuts for line in told(cut)]
    lines += [
        f"{run.name}, seed {run.seed}: {line}."
        for run in report.runs
        if run.adversary is not None
        for line in told_of(run.adversary)
    ]
    lines += [f"{run.name}, seed {run.seed}: the trace is {run.trace_sha256}." for run in report.runs]
    return lines


def _table(report: SimulationReport) -> Table:
    target = report.target_accuracy
    title = f"{escape(report.scenario)}: {report.nodes} devices in virtual time"
    table = Table(
        title=title
        + ("" if target is None else f", to {100 * target:.1f} %")
        + (f" ({SIZED})" if sized(report) else ""),
        title_justify="left",
    )
    table.add_column("algorithm")
    table.add_column("seed")
    for name in ("reached", "virtual s", "rounds", "KB a device", "steps", "accuracy", "worst", "wall s"):
        table.add_column(name, justify="right")
    table.caption = "KB a device: sent plus received; wall s: of that in training"
    for algorithm, runs in by_algorithm(report.runs).items():
        table.add_section()
        for run in runs:
            table.add_row(escape(algorithm), str(run.seed), *_cells(report, [run]))
        if len(runs) > 1:
            table.add_row(escape(algorithm), "mean", *_cells(report, runs), style="bold")
    return table


def _cells(report: SimulationReport, runs: Sequence[RunReport]) -> list[str]:
    reached = sum(run.reached for run in runs)
    answer = (
        "-"
        if report.target_accuracy is None
        else "yes"
        if reached == len(runs)
        else f"{reached} of {len(runs)}"
    )
    return [
        "no" if not reached and report.target_accuracy is not None else answer,
        f"{mean(run.time_s for run in runs):.1f}",
        f"{mean(run.rounds for run in runs):.0f}",
        f"{mean(run.bytes_per_device for run in runs) / 1e3:.1f}",
        f"{mean(run.local_steps_per_device for run in runs):.0f}",
        f"{100 * mean(run.final_accuracy for run in runs):.1f} %",
        f"{100 * min(run.worst_accuracy for run in runs):.1f} %",
        f"{mean(run.wall_s for run in runs):.1f} ({mean(run.training_wall_s for run in runs):.1f})",
    ]
