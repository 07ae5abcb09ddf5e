"""Bad members: what they put into a sum is not what they have learned."""

import numpy as np

from gossip.body import RANGE_MAX
from scenarios.adversary.behaviour import (
    BISECTIONS,
    ENOUGH,
    JUST_BELOW,
    Behaviour,
    Integers,
    Plain,
    chance,
)


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
