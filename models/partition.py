"""Which examples one device holds, said in one line of text.

    subjects=1,2       everything of these people, where examples have owners
    shard=2/10         the second of ten equal parts, drawn at random
    dirichlet=2/10@0.3 the second of ten parts with skewed classes: each class is divided in proportions drawn
                       from a symmetric Dirichlet distribution; the smaller the number, the stronger the skew
                       (Hsu, Qi and Brown 2019, arXiv:1909.06335, with the classes divided instead of the devices)
    topic=love         everything of one topic, where examples come from topics
    topic=2/10         the second of ten groups of whole topics, as even as the largest topics allow

Held-out examples are in nobody's part. Shards of one data set and one seed are disjoint and together complete,
whatever machine cuts them: every device cuts the whole cake and keeps its own piece. A skewed part is never tiny:
what a part lacks to EXAMPLES_MIN it takes from the largest.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.datasets import DataError, Dataset

COUNT_MAX = 10_000  # parts that a set may be cut into
EXAMPLES_MIN = 8  # in a skewed part, where there are enough for all
ALPHA_MIN, ALPHA_MAX = 0.05, 1000.0  # below, all of a class's proportions can underflow to zero

_FORMS = "subjects=1,2 or shard=2/10 or dirichlet=2/10@0.3 or topic=love or topic=2/10"
_SUBJECTS = re.compile(r"subjects=(\d{1,6}(?:,\d{1,6})*)", re.ASCII)
_PORTION = re.compile(
    r"(?:shard=(\d{1,6})/(\d{1,6})|dirichlet=(\d{1,6})/(\d{1,6})@(\d{1,4}(?:\.\d{1,6})?))", re.ASCII
)
_TOPIC = re.compile(r"topic=(?:([a-z][a-z0-9-]{0,63})|(\d{1,6})/(\d{1,6}))", re.ASCII)


@dataclass(frozen=True)
class Subjects:
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Portion:
    """Part `number` (from 1) of `count`, with classes skewed by `alpha`, or evenly if it is None."""

    number: int
    count: int
    alpha: float | None


@dataclass(frozen=True)
class Topic:
    name: str


@dataclass(frozen=True)
class TopicGroup:
    """Group `number` (from 1) of `count`."""

    number: int
    count: int


Part = Subjects | Portion | Topic | TopicGroup


def parse(spec: str) -> Part:
    """Raises DataError for anything but one of the forms, in full."""
    if match := _SUBJECTS.fullmatch(spec):
        ids = tuple(int(text) for text in match[1].split(","))
        if len(dict.fromkeys(ids)) != len(ids):
            raise DataError(f"data part {spec!r} names a subject twice")
        return Subjects(ids)
    if match := _PORTION.fullmatch(spec):
        alpha = float(match[5]) if match[5] else None
        if alpha is not None and not ALPHA_MIN <= alpha <= ALPHA_MAX:
            raise DataError(f"data part {spec!r}: the skew must lie between {ALPHA_MIN} and {ALPHA_MAX:.0f}")
        return Portion(*_numbered(spec, match[1] or match[3], match[2] or match[4]), alpha)
    if match := _TOPIC.fullmatch(spec):
        return Topic(match[1]) if match[1] else TopicGroup(*_numbered(spec, match[2], match[3]))
    raise DataError(f"data part {spec!r} is not understood: write {_FORMS}")


def _numbered(spec: str, number: str, count: str) -> tuple[int, int]:
    if not 1 <= int(number) <= int(count) <= COUNT_MAX:
        raise DataError(
            f"data part {spec!r}: parts are numbered 1 to their count, which is at most {COUNT_MAX}"
        )
    return int(number), int(count)


def part_of(dataset: Dataset, spec: str, seed: int) -> NDArray[np.int64]:
    """Ascending indices of the examples that a device with this spec holds; never empty.

    `seed`, below 2^32, must be the same on all devices that share a data set. Raises DataError.
    """
    return parts_of(dataset, [spec], seed)[0]


def parts_of(dataset: Dataset, specs: Sequence[str], seed: int) -> list[NDArray[np.int64]]:
    """`part_of` for many devices, and each cake is cut only once. Raises DataError."""
    cuts: dict[tuple[int, float | None], list[NDArray[np.int64]]] = {}
    parts = []
    for spec in specs:
        match parse(spec):
            case Subjects() as part:
                mine = _of_subjects(dataset, part)
            case Portion() as part:
                cut = (part.count, part.alpha)
                if cut not in cuts:
                    cuts[cut] = _cut(dataset, *cut, seed)
                mine = cuts[cut][part.number - 1]
            case Topic() | TopicGroup() as part:
                mine = _of_topics(dataset, part)
        if not len(mine):
            raise DataError(f"data part {spec!r} is empty: cut fewer parts, or skew the classes less")
        parts.append(np.sort(mine))
    return parts


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


def _of_topics(dataset: Dataset, part: Topic | TopicGroup) -> NDArray[np.int64]:
    if dataset.owners is None or not dataset.topics:
        raise DataError("this data set has no topics: use shard= or dirichlet=")
    sizes = np.bincount(dataset.owners[~dataset.held_out], minlength=len(dataset.topics))
    if isinstance(part, Topic):
        filled = [topic for topic, size in zip(dataset.topics, sizes, strict=True) if size]
        if part.name not in filled:
            raise DataError(f"there is no topic {part.name!r}: choose among {', '.join(filled)}")
        owners = [dataset.topics.index(part.name)]
    else:
        if part.count > np.count_nonzero(sizes):
            raise DataError(
                f"there are {np.count_nonzero(sizes)} topics to train on, not {part.count}: cut fewer groups"
            )
        owners = _even_groups(sizes.tolist(), part.count)[part.number - 1]
    return np.flatnonzero(~dataset.held_out & np.isin(dataset.owners, owners))


def _even_groups(sizes: list[int], count: int) -> list[list[int]]:
    """The largest first, each to the group that has least so far (Graham 1969, SIAM J. Appl. Math. 17)."""
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for owner in sorted(range(len(sizes)), key=lambda owner: (-sizes[owner], owner)):
        least = loads.index(min(loads))
        groups[least].append(owner)
        loads[least] += sizes[owner]
    return groups


def _cut(dataset: Dataset, count: int, alpha: float | None, seed: int) -> list[NDArray[np.int64]]:
    # The legacy generator, because its stream is frozen for good (NumPy's NEP 19) and newer ones are not.
    rng = np.random.RandomState(seed)
    pool = rng.permutation(np.flatnonzero(~dataset.held_out))
    if alpha is None:
        return [pool[number::count] for number in range(count)]
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    for label in range(dataset.classes):
        members = pool[dataset.labels[pool] == label]
        cuts = np.cumsum(rng.dirichlet([alpha] * count))[:-1] * len(members)
        for share, piece in zip(shares, np.split(members, cuts.astype(np.int64)), strict=True):
            share.append(piece)
    parts = [np.concatenate(share) for share in shares]
    sizes = np.array([len(part) for part in parts])
    while sizes.min() < min(EXAMPLES_MIN, len(pool) // count):
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        parts[poor] = np.append(parts[poor], parts[rich][-1])
        parts[rich] = parts[rich][:-1]
        sizes[poor] += 1
        sizes[rich] -= 1
    return parts
