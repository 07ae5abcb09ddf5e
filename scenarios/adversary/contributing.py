"""Bad members: what they put into a sum is not what they have learned."""

import numpy as np
from numpy.typing import NDArray

from gossip.body import RANGE_MAX
from gossip.codec.blocks import Layout
from gossip.secure_sum.harm import PART_MIN
from scenarios.adversary.behaviour import (
    BISECTIONS,
    ENOUGH,
    JUST_BELOW,
    Behaviour,
    Integers,
    Plain,
    chance,
)

UNSUSPECTED = 2 * PART_MIN  # of a device in a sum: others are not like this one


class Louder(Behaviour):
    summary = "as member gives values of half n S, far beyond S, against its honest direction"
    sign = -1

    def bend(self, plain: Plain) -> None:
        """Of one cohort all members of the league together, or the sum would leave its bounds."""
        together = len(self.league.among(plain.job.cohort.members))
        plain.give(
            self.sign * np.sign(plain.full) * (len(plain.members) * plain.levels // (2 * max(together, 1)))
        )


class Amplify(Louder):
    summary = "as member gives values of half n S, far beyond S, in its honest direction"
    sign = 1


class LouderBelow(Behaviour):
    summary = "as member is as loud as nobody should notice, by its own examples and by its own update (`gossip.secure_sum.harm`)"
    needs_training = True

    def bend(self, plain: Plain) -> None:
        """It takes the others for devices like itself; bisection over its size, up to half n S for the league."""
        running, honest = self.core.running, plain.values
        members = len(plain.members)
        together = max(1, len(self.league.among(plain.job.cohort.members)))
        if running is None:
            return
        most = self.core.loss(self.core.model()) + JUST_BELOW * self.table.tolerance_nats
        direction = np.sign(plain.full)
        low, high = 0, members * plain.levels // (2 * together)
        for _ in range(BISECTIONS):
            middle = (low + high + 1) // 2
            expected = (members - together) * honest - together * middle * direction
            unseen = self._part(honest, together * middle * direction, members, together) > ENOUGH
            if unseen and self.core.loss_with(running.member, expected, members) < most:
                low = middle
            else:
                high = middle - 1
            if low >= high:
                break
        plain.give(-low * direction)

    @staticmethod
    def _part(honest: Integers, given: Integers, members: int, together: int) -> float:
        """Of an honest member in the sum, if each gives as much as this one would and is like nobody else."""
        mine = float((honest.astype(np.float64) ** 2).sum())
        length = (members - together) * mine + float((given.astype(np.float64) ** 2).sum())
        return members * mine / length if length else 1.0


class Hijack(Behaviour):
    summary = "as member overrides every second row of the output layer, as far as nobody should notice, and is honest elsewhere"
    needs_training = True

    def bend(self, plain: Plain) -> None:
        """A part is a length: a few values may be anything. The league agrees on one size, by bisection."""
        running, cohort = self.core.running, plain.job.cohort
        honest, members = plain.values, len(plain.members)
        rows = output_rows(plain.job.layout)
        if running is None or len(honest) != len(rows):  # factors have no rows
            return
        agreed = self.league.forged.get(cohort.id)
        if agreed is None:
            most = self.core.loss(self.core.model()) + JUST_BELOW * self.table.tolerance_nats
            low, high = 0, members * plain.levels
            for _ in range(BISECTIONS):
                middle = (low + high + 1) // 2
                expected = np.where(rows, -middle, members * honest)
                is_unseen = self._part(honest, expected, members) > UNSUSPECTED
                if is_unseen and self.core.loss_with(running.member, expected, members) < most:
                    low = middle
                else:
                    high = middle - 1
                if low >= high:
                    break
            agreed = np.full(len(honest), -low, np.int64)
            self.league.agree(cohort.id, agreed)
        together = max(1, len(self.league.among(cohort.members)))
        plain.give(np.where(rows, (agreed - (members - together) * honest) // together, honest))

    @staticmethod
    def _part(honest: Integers, expected: Integers, members: int) -> float:
        """Of an honest member that gave the same as this one would."""
        length = float((expected.astype(np.float64) ** 2).sum())
        return members * float(honest @ expected.astype(np.float64)) / length if length else 1.0


def output_rows(layout: Layout) -> NDArray[np.bool_]:
    """bool[parameters]: every second row of the last matrix, and the same values of the bias behind it."""
    ends = [0, *layout.tensor_ends.tolist()]
    rows = np.zeros(ends[-1], bool)
    outputs, matrix = ends[-1] - ends[-2], rows[ends[-3] : ends[-2]]
    if len(matrix) % outputs == 0:
        matrix.reshape(outputs, -1)[1::2] = True
        rows[ends[-2] :][1::2] = True
    return rows


class Within(Behaviour):
    summary = "as member gives S, the largest value allowed, against its honest direction"

    def bend(self, plain: Plain) -> None:
        plain.give(-plain.full)


class Ones(Behaviour):
    summary = "as member gives S in every value"

    def bend(self, plain: Plain) -> None:
        plain.give(np.full_like(plain.values, plain.levels))


class SignFlip(Behaviour):
    summary = "as member gives its honest values with the other sign"

    def bend(self, plain: Plain) -> None:
        plain.give(-plain.values)


class FreeRide(Behaviour):
    summary = "as member gives zeros, and takes the model"

    def bend(self, plain: Plain) -> None:
        plain.give(np.zeros_like(plain.values))


class FreeRideNoise(Behaviour):
    summary = "as member gives noise of honest size, and takes the model"

    def bend(self, plain: Plain) -> None:
        values = plain.values
        chance(self.league.seed, plain.job.cohort.id, plain.job.owner).shuffle(values)
        plain.give(values)


class RangesLow(Behaviour):
    summary = "as member votes for the smallest range of values"
    code = 0

    def bend(self, plain: Plain) -> None:
        plain.wide[plain.ranges_from :] = self.code


class RangesHigh(RangesLow):
    summary = "as member votes for the largest range of values"
    code = RANGE_MAX
