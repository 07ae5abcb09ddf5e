"""The same small grid for every baseline: the task's learning rate and half and twice of it, by three numbers of local steps.

A run goes on to the highest target, and its curve tells when it crossed the lower ones. One that is beyond both the time
and the bytes of the best so far cannot be best in either, and is given up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import msgspec

from models.tasks import load_task
from scenarios.baselines.run import BaselineRun
from scenarios.plan import Plan
from scenarios.reports.progress import Display
from scenarios.reports.virtual import Point, RunReport
from scenarios.spec.baselines import LocalPhase

RATES = (1.0, 2.0, 0.5)  # times the task's
STEPS = (48, 16, 128)


@dataclass(frozen=True, slots=True)
class Trial:
    settings: LocalPhase
    report: RunReport
    crossed: dict[float, Point | None]  # by target: when the curve was there first

    def __str__(self) -> str:
        told = [
            f"{100 * target:.0f} % " + ("-" if point is None else _measures(point))
            for target, point in self.crossed.items()
        ]
        return (
            f"learning_rate = {self.settings.learning_rate:g}  local_steps = {self.settings.local_steps:3d}  "
            + "  ".join(told)
            + f"  [{self.report.rounds} rounds, {self.report.wall_s:.0f} s; {self.report.problem or 'reached'}]"
        )


def _measures(point: Point) -> str:
    return f"{point.time_s:.0f} s {point.bytes_per_device / 1e3:.0f} KB"


def crossing(curve: Sequence[Point], target: float) -> Point | None:
    return next((point for point in curve if point.accuracy >= target), None)


def tune(
    plan: Plan,
    algorithm: str,
    targets: Sequence[float],
    display: Display,
    rival: tuple[float, float] | None = None,
) -> Iterator[Trial]:
    """The grid, one trial after the other. Times and bytes are those before the last broadcast.

    rival: seconds and bytes a device to beat to the highest target, from trials before these.
    """
    given = plan.baselines.of(algorithm)
    rate = load_task(plan.task).learning_rate
    highest = max(targets)
    for factor, steps in product(RATES, STEPS):
        settings = msgspec.structs.replace(given, learning_rate=factor * rate, local_steps=steps)
        run = BaselineRun(
            replace(plan, target_accuracy=highest), algorithm, display, settings=settings, rival=rival
        )
        run.go()
        trial = Trial(settings, run.report(), {target: crossing(run.curve, target) for target in targets})
        last = trial.crossed[highest]
        if last is not None:
            rival = (
                (last.time_s, last.bytes_per_device)
                if rival is None
                else (min(rival[0], last.time_s), min(rival[1], last.bytes_per_device))
            )
        yield trial


def best(trials: Sequence[Trial], target: float) -> tuple[Trial, Trial] | None:
    """The soonest, and the one of the fewest bytes; None where none was there."""
    there = [(point, trial) for trial in trials if (point := trial.crossed[target]) is not None]
    if not there:
        return None
    soonest = min(there, key=lambda pair: pair[0].time_s)[1]
    fewest = min(there, key=lambda pair: pair[0].bytes_per_device)[1]
    return soonest, fewest
