"""What a run has shown: figures for a file, a table for a person, and whether it kept the promises.

Accuracies are shares of the scenario's public test set, from 0 to 1, on all devices the same one. Bytes are those
that crossed the sockets, with all that encryption and libp2p add. Seconds of a sum's phases are medians over the
sums of a device, then over the devices. What a crashed process had counted is added as it was last heard.
"""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gossip.errors import GossamerError
from gossip.manifest import MASKS_OFF
from node.daemon.metrics import STEPS
from scenarios.adversary.effects import AdversaryReport
from scenarios.adversary.effects import told as told_of

SHOWN_BYTES_MIN = 50  # a round and device, below which a kind of message is left out of the words
WIDTH_MIN = 100  # columns of the table where no terminal says how wide it is


class Parts(msgspec.Struct, frozen=True):
    """A device's two processes apart; None where the system does not tell."""

    daemon: float | None
    trainer: float | None


class Bytes(msgspec.Struct, frozen=True):
    sent: int
    received: int


class NodeReport(msgspec.Struct, frozen=True):
    name: str
    peer_id: str
    accuracy_alone: float  # the same model, trained only on this device's data for `steps` local steps
    accuracy_swarm: float
    replica_sha256: str
    history_digest: str
    steps: int
    bytes_sent: int
    bytes_received: int
    contributions: int
    cohorts_aborted: int
    cpu_s: Parts
    pss_mb: Parts  # 10^6 bytes; shared pages count in shares
    routes: dict[str, str] = {}  # at the end, by neighbour: "lan", "direct" or "relay"
    relayed_bytes: int = 0  # that it carried between others
    joined_s: float | None = (
        None  # from its `gossamer join` to its first neighbour, where it came by invitation
    )
    first_contribution_s: float | None = None  # the same, to its first sum


class AggregateReport(msgspec.Struct, frozen=True):
    id: str
    round: int
    roster: list[str]  # peer ids
    contributors: list[str]
    weight: int  # examples
    size_bytes: int


class FaultReport(msgspec.Struct, frozen=True):
    fault: str
    device: str | None  # None: it never came to it
    at_s: float | None  # since the run began
    over_s: float | None  # when the device went on; None: it did not


class SideReport(msgspec.Struct, frozen=True):
    """Devices that could reach each other while others could not, just before the link came back."""

    homes: list[str]
    devices: list[str]
    round: int
    accuracy: float  # mean over the devices' replicas


class Moment(msgspec.Struct, frozen=True):
    """Since the run began, and the highest round that any device knew."""

    at_s: float
    round: int


class CutReport(msgspec.Struct, frozen=True):
    """A cut; a moment is None if it never came."""

    cut: str
    began: Moment | None
    healed: Moment | None
    sides: list[SideReport]
    equal: Moment | None  # when all devices were first seen with the same history and replica
    rounds_to_equal: int | None  # since the link came back
    accuracy_equal: float | None  # mean over the devices, then


class SwarmReport(msgspec.Struct, frozen=True):
    scenario: str
    task: str
    test: str
    seed: int
    wall_s: float
    rounds: int  # of the history, at the end
    n_min: int
    nodes: list[NodeReport]  # those that were up at the end
    aggregates: list[AggregateReport]
    bytes_by_kind: dict[str, Bytes]  # all devices together, before encryption
    phases_s: dict[str, float]  # of a secure sum: from each step to the next, detours included
    faults: list[FaultReport]
    homes: str | None  # where the devices' homes are kept
    masks: bool = True  # without: MASKS_OFF
    cuts: tuple[CutReport, ...] = ()
    adversary: AdversaryReport | None = None  # then `nodes` are the honest devices


class ReportError(GossamerError):
    """The figures could not be written: choose another file for --json. Exit code 1."""

    exit_code = 1


def problems(report: SwarmReport) -> list[str]:
    """What the run promised and did not keep, a line each; none if all is well."""
    found = []
    if len({node.replica_sha256 for node in report.nodes}) > 1:
        held = "; ".join(f"{node.name} {node.replica_sha256[:12]}" for node in report.nodes)
        found.append(f"THE REPLICAS DIFFER: {held}")
    if len({node.history_digest for node in report.nodes}) > 1:
        found.append("the devices do not know the same aggregates")
    if not report.aggregates:
        found.append("no sum was made")
    found += [
        f"aggregate {each.id[:12]} of round {each.round} has {len(each.contributors)} contributors, "
        f"fewer than {report.n_min}"
        for each in report.aggregates
        if len(each.contributors) < report.n_min
    ]
    found += [f"this fault never happened: {each.fault}" for each in report.faults if each.device is None]
    for cut in report.cuts:
        if cut.healed is None:
            found.append(f"this cut never {'happened' if cut.began is None else 'ended'}: {cut.cut}")
        elif cut.equal is None:
            found.append(f"after this cut the replicas were never seen equal: {cut.cut}")
    return found


def write_json(report: msgspec.Struct, path: Path) -> None:
    """The whole file or none. Raises ReportError."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    draft = None
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except OSError as error:
        if draft is not None:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
        raise ReportError(f"{path}: cannot be written: {error.strerror}") from error


def print_report(report: SwarmReport, console: Console) -> None:
    """The table and what follows from it."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_MIN)
    if not report.masks:
        console.print(Text(f"WARNING: {MASKS_OFF}", style="bold red"))
    console.print(_table(report))
    for line in statements(report):
        console.print(Text(line))


def statements(report: SwarmReport) -> list[str]:
    """What the figures mean, in words."""
    rounds = max(report.rounds, 1)
    lines = [f"Tested on {report.test}. {report.rounds} rounds in {report.wall_s:.0f} s."]
    if not report.masks:
        lines.append(f"No sum hid anything: {MASKS_OFF}.")
    elif report.aggregates:
        others = min(len(each.contributors) for each in report.aggregates) - 1
        size = mean(each.size_bytes for each in report.aggregates)
        lines.append(
            f"Every sum hid each update among at least {others} others "
            f"({len(report.aggregates)} sums, {size / 1000:.1f} KB each)."
        )
    if len({node.replica_sha256 for node in report.nodes}) == 1:
        same = report.nodes[0].replica_sha256[:16]
        lines.append(f"All {len(report.nodes)} replicas are the same to the last bit ({same}).")
    if report.adversary is not None:
        lines += [f"{line[0].upper()}{line[1:]}." for line in told_of(report.adversary)]
    walk = [f"{before} to {after}" for before, after in pairwise(STEPS)]
    phases = [f"{step} {report.phases_s[step]:.2f}" for step in walk if step in report.phases_s]
    if phases:
        lines.append(f"Seconds of a secure sum by phase: {'  '.join(phases)}.")
    shares = rounds * max(len(report.nodes), 1)
    kinds = [
        (kind, each.sent / shares / 1000)
        for kind, each in report.bytes_by_kind.items()
        if each.sent / shares >= SHOWN_BYTES_MIN
    ]
    if kinds and report.adversary is None:  # kinds are of bad devices, too
        kinds.sort(key=lambda pair: -pair[1])
        rest = _sent(report.nodes) / shares / 1000 - sum(size for _, size in kinds)
        shown = "  ".join(f"{kind} {size:.1f}" for kind, size in kinds)
        lines.append(f"KB that a device sends a round: {shown}  encryption and libp2p {rest:.1f}.")
    routes = Counter(route for node in report.nodes for route in node.routes.values())
    if set(routes) - {"lan"}:
        shown = ", ".join(f"{count / 2:g} {route}" for route, count in sorted(routes.items()))
        relayed = sum(node.relayed_bytes for node in report.nodes)
        lines.append(f"Connections at the end: {shown}. Relays carried {relayed / 1e6:.1f} MB.")
    for each in report.faults:
        if each.device is not None:
            over = "" if each.over_s is None else f", on again at {each.over_s:.0f} s"
            lines.append(f"Fault: {each.fault}: {each.device} at {each.at_s:.0f} s{over}.")
    lines += [line for each in report.cuts for line in told(each)]
    if report.homes is not None:
        lines.append(f"The devices' homes are kept in {report.homes}")
    return lines


def told(cut: CutReport) -> list[str]:
    """A cut in words."""
    if cut.began is None or cut.healed is None:
        return []
    begin = f"{cut.began.at_s:.0f} s (round {cut.began.round})"
    end = f"{cut.healed.at_s:.0f} s (round {cut.healed.round})"
    lines = [f"Cut: {cut.cut}: from {begin} to {end}."]
    lines += [
        f"Just before, {' and '.join(side.homes)} ({len(side.devices)} devices) were in round {side.round} "
        f"at {100 * side.accuracy:.1f} %."
        for side in cut.sides
    ]
    if cut.equal is not None and cut.accuracy_equal is not None:
        lines.append(
            f"All replicas were equal {cut.equal.at_s - cut.healed.at_s:.0f} s and {cut.rounds_to_equal} rounds "
            f"later, at {100 * cut.accuracy_equal:.1f} %."
        )
    return lines


def _table(report: SwarmReport) -> Table:
    rounds = max(report.rounds, 1)
    table = Table(title=f"{escape(report.scenario)}: accuracy alone and in the swarm", title_justify="left")
    table.add_column("device")
    for name in ("alone", "swarm", "gain", "sent", "received", "sums", "CPU s", "PSS MB"):
        table.add_column(name, justify="right")
    table.caption = "sent and received: KB a round; CPU and PSS: daemon + trainer"
    for node in report.nodes:
        table.add_row(
            escape(node.name),
            *_accuracies([node]),
            f"{node.bytes_sent / rounds / 1000:.1f}",
            f"{node.bytes_received / rounds / 1000:.1f}",
            str(node.contributions),
            _parts([node.cpu_s]),
            _parts([node.pss_mb]),
        )
    if report.nodes:
        table.add_section()
        table.add_row(
            "mean, total",
            *_accuracies(report.nodes),
            f"{_sent(report.nodes) / rounds / 1000:.1f}",
            f"{sum(node.bytes_received for node in report.nodes) / rounds / 1000:.1f}",
            str(sum(node.contributions for node in report.nodes)),
            _parts([node.cpu_s for node in report.nodes]),
            _parts([node.pss_mb for node in report.nodes]),
        )
    return table


def _sent(nodes: Sequence[NodeReport]) -> int:
    return sum(node.bytes_sent for node in nodes)


def _accuracies(nodes: Sequence[NodeReport]) -> tuple[str, str, str]:
    """Alone, in the swarm, and the gain in percentage points, as means."""
    alone = 100 * mean(node.accuracy_alone for node in nodes)
    swarm = 100 * mean(node.accuracy_swarm for node in nodes)
    return f"{alone:.1f} %", f"{swarm:.1f} %", f"{swarm - alone:+.1f}"


def _parts(figures: Sequence[Parts]) -> str:
    shown = []
    for values in ([each.daemon for each in figures], [each.trainer for each in figures]):
        known = [value for value in values if value is not None]
        shown.append(f"{sum(known):.0f}" if len(known) == len(values) else "-")
    return " + ".join(shown)
