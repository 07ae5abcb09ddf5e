"""What honest devices told of an adversary: which sums came to nothing, and whom they blamed. Nothing is asked of bad ones.

It knows few names of reports on purpose: whatever an honest device reports with a `peer`, and is not of everyday life,
is blame.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from crypto.identity import peer_id
from gossip.events import Report
from scenarios.spec.adversary import AdversaryTable

# Reports with a peer that blame nobody.
EVERYDAY = frozenset(
    {
        *("peer_up", "peer_down", "unreachable", "send_failed", "caught_up", "handed_on"),
        *("route_changed", "relays", "not_punched"),  # in a daemon's log
    }
)
REFUSED = frozenset({"sum_rejected"})  # reports of a proposed sum that was refused
REFUSED_STEPS = frozenset({"SUM_LOST", "REJECT"})  # the same as steps of a cohort
SHORT = 16  # digits of a key, as reports name peers
COHORTS_MAX = 1 << 20


class Pin(msgspec.Struct, frozen=True):
    """All reports of one name by honest devices."""

    name: str
    reports_bad: int  # against bad devices
    reports_honest: int  # against honest ones
    bad: int  # devices that were named, at least once
    honest: int
    by: int  # honest devices that told so


class AdversaryReport(msgspec.Struct, frozen=True):
    adversary: tuple[str, ...]  # as the command line would say it
    bad: int
    honest: int
    rounds_a_minute: float
    sums_refused: int  # cohorts in which an honest device refused a sum, or could not publish one
    sums_unknown: (
        int  # cohorts whose end some honest member never learned: its contribution is lost, or counts
    )
    sums_given_back: int  # cohorts that a certificate ended, or that came to nothing before a vector left
    caught: int  # bad devices that any honest one blamed
    wronged: int  # honest devices that any honest one blamed
    pins: tuple[Pin, ...]
    backdoor_success: float | None = None


@dataclass
class _Told:
    bad: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by device, so often
    honest: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    by: set[int] = field(default_factory=set)


class Effects:
    """`keys`: of all devices, by number; `hostile`: who is bad."""

    def __init__(self, keys: Sequence[bytes], hostile: Sequence[AdversaryTable | None]) -> None:
        self._hostile = hostile
        self._named = {key.hex()[:SHORT]: index for index, key in enumerate(keys)}
        self._named |= {peer_id(key): index for index, key in enumerate(keys)}
        self._told: dict[str, _Told] = {}
        self._refused: set[str] = set()
        self._ends: dict[str, dict[int, str]] = {}  # by cohort and device, how it ended last

    def hear(self, device: int, report: Report) -> None:
        if self._hostile[device] is not None:
            return
        told = report.fields
        cohort = told.get("cohort")
        if report.name in REFUSED or (report.name == "phase" and told.get("phase") in REFUSED_STEPS):
            self._refused.add(str(cohort))
        if report.name == "settled" and len(self._ends) < COHORTS_MAX:
            self._ends.setdefault(str(cohort), {})[device] = str(told["outcome"])
        whom = self._named.get(str(told.get("peer", "")))
        if whom is None or whom == device or report.name in EVERYDAY:
            return
        pinned = self._told.setdefault(report.name, _Told())
        pinned.by.add(device)
        (pinned.honest if self._hostile[whom] is None else pinned.bad)[whom] += 1

    def report(
        self, tables: Sequence[AdversaryTable], rounds: int, time_s: float, backdoor: float | None
    ) -> AdversaryReport:
        bad = sum(table is not None for table in self._hostile)
        ended = [set(ends.values()) for ends in self._ends.values()]
        pins = [
            Pin(
                name,
                sum(told.bad.values()),
                sum(told.honest.values()),
                len(told.bad),
                len(told.honest),
                len(told.by),
            )
            for name, told in sorted(self._told.items())
        ]
        return AdversaryReport(
            adversary=tuple(map(str, tables)),
            bad=bad,
            honest=len(self._hostile) - bad,
            rounds_a_minute=round(60 * rounds / time_s, 2) if time_s else 0.0,
            sums_refused=len(self._refused),
            sums_unknown=sum("unknown" in each for each in ended),
            sums_given_back=sum(bool(each) and each <= {"refunded", "untouched"} for each in ended),
            caught=len({whom for told in self._told.values() for whom in told.bad}),
            wronged=len({whom for told in self._told.values() for whom in told.honest}),
            pins=tuple(pins),
            backdoor_success=backdoor,
        )


def logged(path: Path) -> Iterator[Report]:
    """What a daemon's core reported, as far as its log still has it."""
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                yield Report(str(fields.pop("event", "")), fields)


def told(report: AdversaryReport) -> list[str]:
    """In words."""
    lines = [
        f"{report.bad} bad devices of {report.bad + report.honest}; {report.rounds_a_minute:g} rounds a minute",
        f"sums refused {report.sums_refused}, unknown {report.sums_unknown}, given back {report.sums_given_back}",
        f"blamed: {report.caught} bad devices and {report.wronged} honest ones",
    ]
    if report.backdoor_success is not None:
        lines.append(f"the backdoor works on {100 * report.backdoor_success:.1f} % of stamped test examples")
    lines += [
        f"{pin.name}: {pin.by} honest devices told it, {pin.reports_bad} times of {pin.bad} bad devices and "
        f"{pin.reports_honest} times of {pin.honest} honest ones"
        for pin in report.pins
    ]
    return lines
