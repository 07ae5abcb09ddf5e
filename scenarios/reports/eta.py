"""How long a run will go on, for whoever waits: a guess, and never part of a result.

With a target, from how the accuracy has risen so far. The error of a model falls about as a power of the time for which it
has learned (Hestness et al. 2017, arXiv:1712.00409): on logarithmic scales the last stretch of the curve is a line, and where
that line meets the target the run will end. Without one, by the share of the rounds or of the time that is done.
"""

import math
from collections.abc import Sequence
from statistics import linear_regression

STRETCH = 3.0  # the last stretch: since a third of the time
POINTS_MIN = 6  # on it
BREADTH_MIN = 1.5  # times its first moment is its last, at least
FALL_MIN = 0.02  # of the error's logarithm over the time's: what falls slower than that is a plateau


def time_at(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """When the accuracy will be `target`, by (time, accuracy) so far, ascending in time; None while there is no telling."""
    if not curve:
        return None
    now_s, accuracy = curve[-1]
    if accuracy >= target:
        return now_s
    stretch = [(t, 1 - a) for t, a in curve if t > 0 and t >= now_s / STRETCH and a < 1]
    if len(stretch) < POINTS_MIN or now_s < BREADTH_MIN * stretch[0][0] or target >= 1:
        return None
    slope, start = linear_regression([math.log(t) for t, _ in stretch], [math.log(e) for _, e in stretch])
    if slope > -FALL_MIN:
        return None
    return max(now_s, math.exp((math.log(1 - target) - start) / slope))


def left_s(
    wall_s: float,
    done: float,
    of: float,
    curve: Sequence[tuple[float, float]] = (),
    target: float | None = None,
) -> float | None:
    """Wall seconds to go, if time passes as until now; None while there is no telling.

    `done` of `of` rounds or virtual seconds are over, after which the run ends in any case; `target` and `curve` as above.
    """
    at_most = _rest_s(wall_s, done, of)
    if target is None:
        return at_most
    end_s = time_at(curve, target)
    if end_s is None:
        return None
    sooner = _rest_s(wall_s, curve[-1][0], end_s)
    return min((guess for guess in (sooner, at_most) if guess is not None), default=None)


def _rest_s(wall_s: float, done: float, of: float) -> float | None:
    return wall_s * max(0.0, of - done) / done if done > 0 else None


def span(seconds: float) -> str:
    """As exactly as a guess deserves."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
