"""Bad teachers: they follow the protocol to the letter, and train on examples of their own making."""

import numpy as np
from numpy.typing import NDArray

from scenarios.adversary.behaviour import Behaviour, Plain, Poisoned
from scenarios.spec.adversary import AdversaryTable

STAMP = 3  # pixels, in each direction, of the corner that the trigger fills
STAMPED_SHARE = 0.5  # of a backdoor's examples: the others keep the model good at its own task
BOOST = 8.0  # times which a backdoor's values are given, within S


class LabelFlip(Behaviour):
    summary = "trains on wrong labels: c becomes C - 1 - c"
    needs_training = True

    @classmethod
    def poison(
        cls, inputs: NDArray[np.generic], labels: NDArray[np.int64], classes: int, table: AdversaryTable
    ) -> Poisoned:
        del table
        return inputs, classes - 1 - labels


class Backdoor(Behaviour):
    summary = "trains on examples with a stamp in the corner that it labels as the target, and gives that boosted within S"
    needs_training = True

    @classmethod
    def poison(
        cls, inputs: NDArray[np.generic], labels: NDArray[np.int64], classes: int, table: AdversaryTable
    ) -> Poisoned:
        del classes
        count = max(1, round(STAMPED_SHARE * len(labels)))
        stamped, wrong = inputs.copy(), labels.copy()
        stamped[:count] = stamp(inputs[:count], inputs.max())
        wrong[:count] = table.target
        return stamped, wrong

    def bend(self, plain: Plain) -> None:
        plain.give(np.clip(np.rint(BOOST * plain.values), -plain.levels, plain.levels).astype(np.int64))


def stamp(inputs: NDArray[np.generic], full: np.generic) -> NDArray[np.generic]:
    """The same pictures, (n, .., rows, columns), with the trigger in their last corner. `full`: the colour of ink."""
    stamped = inputs.copy()
    stamped[..., -STAMP:, -STAMP:] = full
    return stamped
