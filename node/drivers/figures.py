"""How long the steps of a secure sum take on this device: medians over its last cohorts."""

import statistics
from collections import deque
from collections.abc import Mapping

KEPT = 256  # durations of one step
COHORTS_MAX = 16  # under way at once, as far as they are timed
STEPS = ("READY", "SHARES", "KEYS_SET", "MASKED", "UNMASK", "RESULT", "SETTLED", "ABORT")


class StepTimes:
    """Fed with the core's "phase" and "settled" reports. A step's time runs from the one before it in its cohort."""

    def __init__(self) -> None:
        self._ready_at: float | None = None
        self._last: dict[str, tuple[str, float]] = {}  # cohort -> its latest step, oldest cohort first
        self._durations: dict[str, deque[float]] = {}  # at most one entry a pair of STEPS

    def note(self, step: str, cohort: str, now: float) -> None:
        if step not in STEPS:
            return
        if step == "READY":
            self._ready_at = now
            return
        before = self._last.pop(cohort, None)
        if before is None and self._ready_at is not None:
            before, self._ready_at = ("READY", self._ready_at), None
        if before is not None:
            name = f"{before[0]} to {step}"
            self._durations.setdefault(name, deque(maxlen=KEPT)).append(now - before[1])
        if step not in {"SETTLED", "ABORT"}:
            self._last[cohort] = (step, now)
            if len(self._last) > COHORTS_MAX:
                del self._last[next(iter(self._last))]

    def medians_s(self) -> Mapping[str, float]:
        return {name: round(statistics.median(times), 4) for name, times in self._durations.items()}
