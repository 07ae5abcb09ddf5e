"""Which examples one device holds, said in one line of text.

    subjects=1,2       everything of these people, where examples have owners
    shard=2/10         the second of ten equal parts, drawn at random
    dirichlet=2/10@0.3 the second of ten parts with skewed classes: each class is divided in proportions drawn
                       from a symmetric Dirichlet distribution; the smaller the number, the stronger the skew
                       (Hsu, Qi and Brown 2019, arXiv:1909.06335, with the classes divided instead of the devices)

Held-out examples are in nobody's part. Shards of one data set and one seed are disjoint and together complete,
whatever machine cuts them: every device cuts the whole cake and keeps its own piece.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.datasets import DataError, Dataset

COUNT_MAX = 10_000  # parts that a set may be cut into
ALPHA_MIN, ALPHA_MAX = 0.05, 1000.0  # below, all of a class's proportions can underflow to zero

_FORMS = "subjects=1,2 or shard=2/10 or dirichlet=2/10@0.3"
_SUBJECTS = re.compile(r"subjects=(\d{1,6}(?:,\d{1,6})*)", re.ASCII)
_PORTION = re.compile(
    r"(?:shard=(\d{1,6})/(\d{1,6})|dirichlet=(\d{1,6})/(\d{1,6})@(\d{1,4}(?:\.\d{1,6})?))", re.ASCII
)


@dataclass(frozen=True)
class Subjects:
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Portion:
    """Part `number` (from 1) of `count`, with classes skewed by `alpha`, or evenly if it is None."""

    number: int
    count: int
    alpha: float | None


def parse(spec: str) -> Subjects | Portion:
    """Raises DataError for anything but one of the three forms, in full."""
    if match := _SUBJECTS.fullmatch(spec):
        ids = tuple(int(text) for text in match[1].split(","))
        if len(dict.fromkeys(ids)) != len(ids):
            raise DataError(f"data part {spec!r} names a subject twice")
        return Subjects(ids)
    if match := _PORTION.fullmatch(spec):
        number, count = int(match[1] or match[3]), int(match[2] or match[4])
        alpha = float(match[5]) if match[5] else None
        if not 1 <= number <= count <= COUNT_MAX:
            raise DataError(
                f"data part {spec!r}: parts are numbered 1 to their count, which is at most {COUNT_MAX}"
            )
        if alpha is not None and not ALPHA_MIN <= alpha <= ALPHA_MAX:
            raise DataError(f"data part {spec!r}: the skew must lie between {ALPHA_MIN} and {ALPHA_MAX:.0f}")
        return Portion(number, count, alpha)
    raise DataError(f"data part {spec!r} is not understood: write {_FORMS}")


def part_of(dataset: Dataset, spec: str, seed: int) -> NDArray[np.int64]:
    """Ascending indices of the examples that a device with this spec holds; never empty.

    `seed`, below 2^32, must be the same on all devices that share a data set. Raises DataError.
    """
    part = parse(spec)
    mine = _of_subjects(dataset, part) if isinstance(part, Subjects) else _of_portion(dataset, part, seed)
    if not len(mine):
        raise DataError(f"data part {spec!r} is empty: cut fewer parts, or skew the classes less")
    return np.sort(mine)


def _of_subjects(dataset: Dataset, part: Subjects) -> NDArray[np.int64]:
    if dataset.owners is None:
        raise DataError("this data set does not say whose its examples are: use shard= or dirichlet=")
    known = np.unique(dataset.owners[~dataset.held_out]).tolist()
    tested = np.unique(dataset.owners[dataset.held_out]).tolist()
    for subject in part.ids:
        if subject in tested:
            raise DataError(f"subject {subject} is held out for testing: choose among {known}")
        if subject not in known:
            raise DataError(f"there is no subject {subject}: choose among {known}")
    return np.flatnonzero(np.isin(dataset.owners, part.ids))


def _of_portion(dataset: Dataset, part: Portion, seed: int) -> NDArray[np.int64]:
    # The legacy generator, because its stream is frozen for good (NumPy's NEP 19) and newer ones are not.
    rng = np.random.RandomState(seed)
    pool = rng.permutation(np.flatnonzero(~dataset.held_out))
    if part.alpha is None:
        return pool[part.number - 1 :: part.count]
    mine = []
    for label in range(dataset.classes):
        members = pool[dataset.labels[pool] == label]
        cuts = np.cumsum(rng.dirichlet([part.alpha] * part.count))[:-1] * len(members)
        mine.append(np.split(members, cuts.astype(np.int64))[part.number - 1])
    return np.concatenate(mine)
