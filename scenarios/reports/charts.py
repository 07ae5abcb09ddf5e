"""Charts of a simulation, each as SVG for a page, on a desk or a phone, and as PNG.

Curves of several seeds meet on a common grid as step functions: a value holds until the next one was measured, and a run
that has ended keeps its last value until its algorithm's last run ends. The line is the median over seeds, the band goes
from the lowest to the highest. The SVG takes its colours from the page's CSS variables, so that a dark page has light ink.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scenarios.reports.virtual import Point, RunReport, SimulationReport, by_algorithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

OVER_TIME, OVER_BYTES, BY_KIND = "accuracy-over-time.png", "accuracy-over-bytes.png", "bytes-by-kind.png"
GRID = 400  # points of a curve
DECADES_MAX = 4  # of a logarithmic axis, up to the longest run
SUBDIVIDED_DECADES_MAX = 1.5  # below which the axis also names 2 and 5
WIDE_IN, NARROW_IN, PNG_DPI = 7.2, 3.9, 160
KINDS_MAX = 10  # of messages; the smaller ones share a bar
SEND_REST = "encryption and libp2p"

# Okabe and Ito, "Color Universal Design" (2008), and three more; the dashes tell apart what the hues do not.
Dashes = tuple[float, ...]
STYLES: dict[str, tuple[str, Dashes]] = {
    "gossamer": ("#d55e00", ()),
    "fedavg": ("#0072b2", ()),
    "ftte": ("#009e73", ()),
    "fedbuff": ("#cc79a7", ()),
    "topk": ("#8a7a00", (5, 1.2)),
    "epidemic": ("#e69f00", (5, 1.2)),
    "dpsgd": ("#56b4e9", (5, 1.2, 1, 1.2)),
    "divshare": ("#5b4bb0", (5, 1.2, 1, 1.2)),
    "local": ("#7f8790", (1.2, 1.2)),
}
OTHER_STYLE: tuple[str, Dashes] = ("#7f8791", (3, 1.2))
INK, RULE = "#1b1f25", "#d8dce3"
COLOURS = {INK: "ink", RULE: "rule", OTHER_STYLE[0]: "other"} | {
    colour: name for name, (colour, _) in STYLES.items()
}


@dataclass(frozen=True, slots=True)
class Chart:
    file: str  # of the PNG
    wide: str  # SVG
    narrow: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Band:
    x: Array
    low: Array
    middle: Array
    high: Array


def band(curves: Sequence[tuple[Array, Array]], start: float) -> Band:
    """The curves of one algorithm's seeds, each of ascending x and at least one point, from `start` on.

    It begins where all seeds have a value, and is empty where that is after the last point.
    """
    begin = max(start, *(float(x[0]) for x, _ in curves))
    end = max(float(x[-1]) for x, _ in curves)
    if begin > end:
        nothing = np.empty(0)
        return Band(nothing, nothing, nothing, nothing)
    grid = np.geomspace(begin, end, GRID)
    grid[0], grid[-1] = begin, end  # to the bit, or the last step would be missing
    values = np.stack([y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves])
    kept = np.ones(GRID, bool)  # the ends and all changes: the rest says nothing and fills the page
    kept[1:-1] = np.any(values[:, 1:-1] != values[:, :-2], axis=0)
    values = values[:, kept]
    return Band(grid[kept], values.min(axis=0), np.median(values, axis=0), values.max(axis=0))


def accuracy_over_time(report: SimulationReport) -> Chart | None:
    """None without curves."""
    return _accuracy(
        report,
        OVER_TIME,
        lambda point: point.time_s,
        in_words,
        "virtual seconds",
    )


def accuracy_over_bytes(report: SimulationReport) -> Chart | None:
    """None without curves, or where none sent anything."""
    return _accuracy(
        report,
        OVER_BYTES,
        lambda point: point.bytes_per_device,
        bytes_in_words,
        "bytes a device, sent plus received",
    )


def bytes_by_kind(report: SimulationReport) -> Chart | None:
    """Of what a device of Gossamer sent. None without a run of it."""
    parts = parts_of_sent(by_algorithm(report.runs).get("gossamer", []))
    if not parts:
        return None
    total = sum(size for _, size in parts) or 1.0

    def draw(figure: "Figure", *, narrow: bool) -> None:
        axes = figure.add_subplot()
        names = [name for name, _ in parts]
        sizes = [size for _, size in parts]
        colours = [OTHER_STYLE[0] if name == SEND_REST else STYLES["gossamer"][0] for name in names]
        axes.barh(range(len(parts)), sizes, color=colours, height=0.3 if narrow else 0.66)
        axes.set_yticks(range(len(parts)), ["" if narrow else name for name in names])
        axes.set_ylim(len(parts) - 0.6, -0.9)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xlim(0, max(*sizes, 1.0) * (1.02 if narrow else 1.35))
        for place, (name, size) in enumerate(parts):
            words = f"{bytes_in_words(size)}, {100 * size / total:.1f} %"
            if narrow:  # no room beside the bar
                axes.annotate(f"{name}: {words}", (0, place), (4, 9), textcoords="offset points", color=INK)
            else:
                axes.annotate(
                    words, (size, place), (5, 0), textcoords="offset points", va="center", color=INK
                )

    words = ", ".join(f"{name} {bytes_in_words(size)}" for name, size in parts)
    return _rendered(
        BY_KIND, f"Bytes that a device sent: {words}", draw, 0.5 + 0.34 * len(parts), 0.5 + 0.42 * len(parts)
    )


def parts_of_sent(runs: Sequence[RunReport]) -> list[tuple[str, float]]:
    """Bytes that a device sent, by kind of message, the largest first; means over seeds."""
    if not runs:
        return []
    names = sorted({name for run in runs for name in run.sent_by_kind})
    kinds = sorted(
        ((name, mean(run.sent_by_kind.get(name, 0.0) for run in runs)) for name in names),
        key=lambda pair: -pair[1],
    )
    rest = mean(run.sent_per_device for run in runs) - sum(size for _, size in kinds)
    shown, small = kinds[:KINDS_MAX], kinds[KINDS_MAX:]
    if small:
        shown.append((f"{len(small)} smaller kinds", sum(size for _, size in small)))
    return [*shown, (SEND_REST, max(rest, 0.0))]


def colour_of(algorithm: str) -> str:
    """In CSS, of a page that has the variables."""
    return f"var(--{COLOURS[STYLES.get(algorithm, OTHER_STYLE)[0]]})"


def in_words(value: float) -> str:
    """With three digits, or all of a larger number's whole ones."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def bytes_in_words(size: float) -> str:
    """From 0.1 MB on in megabytes, so that most runs of a report share a unit."""
    for unit, least, scale in (("GB", 1e9, 1e9), ("MB", 1e5, 1e6), ("KB", 1e3, 1e3)):
        if size >= least:
            return f"{in_words(size / scale)} {unit}"
    return f"{in_words(size)} B"


def _accuracy(
    report: SimulationReport,
    file: str,
    x_of: Callable[[Point], float],
    tick: Callable[[float], str],
    label: str,
) -> Chart | None:
    groups = {
        name: [
            (
                np.array([x_of(point) for point in run.curve], np.float64),
                np.array([point.accuracy for point in run.curve], np.float64),
            )
            for run in runs
            if run.curve
        ]
        for name, runs in by_algorithm(report.runs).items()
    }
    groups = {name: curves for name, curves in groups.items() if curves}
    points = [float(value) for curves in groups.values() for x, _ in curves for value in x if value > 0]
    if not points:
        return None
    end = max(points)
    start = max(min(points), end / 10**DECADES_MAX)

    def draw(figure: "Figure", *, narrow: bool) -> None:
        axes = figure.add_subplot()
        if report.target_accuracy is not None:
            axes.axhline(
                100 * report.target_accuracy,
                color=INK,
                linewidth=1.1,
                linestyle=(0, (3, 2.2)),
                label="target",
            )
        for name, curves in groups.items():
            _draw_curves(axes, name, curves, start)
        _style_axes(axes, start, end, tick)
        axes.set_xlabel(f"{label} (log)")
        axes.set_ylabel("accuracy, %")
        figure.legend(
            loc="outside upper left",
            ncols=3 if narrow else 5,
            frameon=False,
            handlelength=1.9,
            columnspacing=1.2,
        )

    ends = ", ".join(
        f"{name} ends at {100 * float(np.median([y[-1] for _, y in curves])):.1f} %"
        for name, curves in groups.items()
    )
    return _rendered(file, f"Accuracy over {label}: {ends}", draw, 4.1, 3.7)


def _draw_curves(axes: "Axes", name: str, curves: list[tuple[Array, Array]], start: float) -> None:
    colour, dashes = STYLES.get(name, OTHER_STYLE)
    line = (0, dashes) if dashes else "-"
    width = 2.6 if name == "gossamer" else 1.7
    above = 3.0 if name == "gossamer" else 2.5
    if all(float(x[-1]) == 0 for x, _ in curves):  # has no place on a logarithmic axis
        last = 100 * float(np.median([y[-1] for _, y in curves]))
        axes.axhline(last, color=colour, linewidth=width, linestyle=line, label=name, zorder=above)
        return
    shown = band(curves, start)
    axes.plot(
        shown.x,
        100 * shown.middle,
        color=colour,
        linewidth=width,
        linestyle=line,
        drawstyle="steps-post",
        label=name,
        zorder=above,
    )
    if len(curves) > 1:
        axes.fill_between(
            shown.x, 100 * shown.low, 100 * shown.high, step="post", color=colour, alpha=0.2, linewidth=0
        )
    axes.plot(
        shown.x[-1:], 100 * shown.middle[-1:], "o", color=colour, markersize=5, zorder=above, clip_on=False
    )


def _style_axes(axes: "Axes", start: float, end: float, tick: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: PLC0415

    axes.set_xscale("log")
    axes.set_xlim(start / 1.02, end * 1.08 if end > start else end * 2)
    few = end / start < 10**SUBDIVIDED_DECADES_MAX
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=True, color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _rendered(
    file: str, words: str, draw: Callable[..., None], wide_height_in: float, narrow_height_in: float
) -> Chart:
    from matplotlib import rc_context  # noqa: PLC0415 - takes half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawn = []
    with rc_context(
        {
            "font.size": 11,
            "text.parse_math": False,  # a name may have dollars in it
            "svg.fonttype": "none",
            "svg.hashsalt": file,  # ids that are the same every time, and no other chart's
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        for narrow in (False, True):
            size = (NARROW_IN, narrow_height_in) if narrow else (WIDE_IN, wide_height_in)
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, narrow=narrow)
            drawn.append(_svg(figure, words))
            if not narrow:
                out = io.BytesIO()
                figure.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None})
                png = out.getvalue()
    return Chart(file, drawn[0], drawn[1], png)


def _svg(figure: "Figure", words: str) -> str:
    """As a part of a page: no declarations, size or style of its own, and nothing that names another place."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' id="\w+_\d+"', "", text)  # of groups; the same in each chart, and nothing refers to them
    text = re.sub(r' d="[^"]*"', _rounded, text)
    box = re.search(r'viewBox="[\d. ]+"', text)
    assert box is not None
    head = (
        f'<svg role="img" aria-label="{escape(words)}" {box[0]} xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    return re.sub(
        "|".join(COLOURS), lambda found: f"var(--{COLOURS[found[0]]})", text, flags=re.IGNORECASE
    ).strip()


def _rounded(path: re.Match[str]) -> str:
    """To hundredths of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])
