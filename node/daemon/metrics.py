"""How long the steps of a secure sum take on this device: medians over its last cohorts."""

import itertools
import statistics
from collections import deque
from collections.abc import Mapping

KEPT = 256  # durations of one pair of steps
COHORTS_MAX = 16  # timed at once, and remembered as over
STEPS = ("READY", "SHARES", "KEYS_SET", "MASKED", "SEAL", "UNMASK", "RESULT", "SETTLED")


class StepTimes:
    """Fed with the core's "phase" and "settled" reports.

    A core tells of all that one event led to at one moment and in no particular order, so the steps' own order counts.
    """

    def __init__(self) -> None:
        self._ready_at: float | None = None
        self._cohorts: dict[str, dict[str, float]] = {}  # cohort -> step -> when, oldest cohort first
        self._durations: dict[str, deque[float]] = {}  # at most one entry a pair of STEPS

    def note(self, step: str, cohort: str, now: float) -> None:
        if step == "READY":
            self._ready_at = now
        elif step in STEPS and cohort:
            self._note(step, cohort, now)

    def _note(self, step: str, cohort: str, now: float) -> None:
        if cohort not in self._cohorts:
            self._cohorts[cohort] = {} if self._ready_at is None else {"READY": self._ready_at}
            self._ready_at = None
            if len(self._cohorts) > COHORTS_MAX:
                del self._cohorts[next(iter(self._cohorts))]
        times = self._cohorts[cohort]
        if "SETTLED" in times:
            return
        times.setdefault(step, now)
        if step == "SETTLED":
            for before, after in itertools.pairwise(each for each in STEPS if each in times):
                name = f"{before} to {after}"
                self._durations.setdefault(name, deque(maxlen=KEPT)).append(times[after] - times[before])

    def medians_s(self) -> Mapping[str, float]:
        names = [f"{before} to {after}" for before, after in itertools.combinations(STEPS, 2)]
        known = {name: self._durations[name] for name in names if name in self._durations}
        return {name: round(statistics.median(times), 4) for name, times in known.items()}
