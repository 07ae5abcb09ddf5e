"""What bad devices train on, and how well a backdoor is in."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.datasets import DataError, Dataset
from models.judge import Judge
from models.tasks import Task
from scenarios.adversary import BEHAVIOURS
from scenarios.adversary.poisoning import STAMP, Backdoor, stamp
from scenarios.spec.adversary import AdversaryTable

Parts = list[NDArray[np.int64]]


def poisoned(
    dataset: Dataset, parts: Parts, hostile: Sequence[AdversaryTable | None]
) -> tuple[Dataset, Parts]:
    """The data set with the examples that bad devices make of theirs behind its own, and whose examples are which.

    The test set stays as it is. Raises DataError for a stamp on what is no picture.
    """
    inputs, labels, mine = [dataset.inputs], [dataset.labels], list(parts)
    owners = [] if dataset.owners is None else [dataset.owners]
    count = len(dataset.labels)
    for device, table in enumerate(hostile):
        if table is None:
            continue
        own = parts[device]
        if BEHAVIOURS[table.behaviour] is Backdoor:
            _refuse_no_pictures(dataset, table)
        made = BEHAVIOURS[table.behaviour].poison(
            dataset.inputs[own], dataset.labels[own], dataset.classes, table
        )
        if made is None:
            continue
        inputs.append(made[0])
        labels.append(made[1])
        if dataset.owners is not None:
            owners.append(dataset.owners[own])
        mine[device] = np.arange(count, count + len(own))
        count += len(own)
    if len(inputs) == 1:
        return dataset, mine
    together = replace(
        dataset,
        inputs=np.concatenate(inputs),
        labels=np.concatenate(labels),
        held_out=np.concatenate([dataset.held_out, np.zeros(count - len(dataset.labels), np.bool_)]),
        owners=np.concatenate(owners) if owners else None,
    )
    return together, mine


def backdoor_judge(task: Task, dataset: Dataset, table: AdversaryTable, judged: int | None) -> Judge:
    """Its accuracy is the share of test examples of other classes that are read as the target when they are stamped."""
    _refuse_no_pictures(dataset, table)
    tested = np.flatnonzero(dataset.held_out)[:judged]
    others = tested[dataset.labels[tested] != table.target]
    raw = stamp(dataset.inputs[others], dataset.inputs.max())
    return Judge(
        task,
        raw.astype(np.float32) * np.float32(dataset.scale),
        np.full(len(others), table.target, np.int64),
    )


def _refuse_no_pictures(dataset: Dataset, table: AdversaryTable) -> None:
    if dataset.inputs.ndim < 3 or min(dataset.inputs.shape[-2:]) <= STAMP:
        raise DataError("a backdoor's stamp goes into the corner of a picture, and these examples are none")
    if table.target >= dataset.classes:
        raise DataError(
            f"a backdoor's target {table.target} is no class of these examples, 0 to {dataset.classes - 1}"
        )
