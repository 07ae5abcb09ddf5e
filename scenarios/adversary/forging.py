"""Bad aggregators: they publish another sum than that of the members.

As first aggregator such a device tells what it likes instead of the sum; as second one it does not wait for its turn, but proposes a
sum of its own as soon as the seal is certified, and so races the first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip.body import Body
from gossip.events import Action, Send
from gossip.secure_sum.member import Member, State
from scenarios.adversary.behaviour import BISECTIONS, ENOUGH, JUST_BELOW, Added, Behaviour, Integers, chance
from scenarios.adversary.bodies import encoded, proposal

RACES_KEPT = 64


@dataclass(frozen=True)
class Sum:
    """What is to be forged: a member of the cohort, the values of its true sum or a guess at them, and the bound of each."""

    member: Member
    values: Integers
    most: int


class Forge(Behaviour):
    summary = "as aggregator publishes, instead of the sum, the largest one against it"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._raced: dict[bytes, None] = {}

    def forged(self, true: Sum) -> Integers:
        """The values instead of those."""
        return -true.most * np.sign(true.values)

    def add(self, added: Added) -> None:
        running = self.core.running
        if running is not None and running.member.cohort.id == added.job.cohort.id:
            added.give(self._agreed(Sum(running.member, added.values, added.most)))

    def spoils(self, member: Member, body: Body) -> bool:
        forged = self.league.forged.get(member.cohort.id)
        return forged is not None and body.sums == encoded(member, forged)

    def _agreed(self, true: Sum) -> Integers:
        """Where both aggregators are of the league, they forge the same."""
        agreed = self.league.forged.get(true.member.cohort.id)
        if agreed is None:
            agreed = self.forged(true)
            self.league.agree(true.member.cohort.id, agreed)
        return agreed

    def after(self, now: float) -> Iterable[Action]:
        running = self.core.running
        if running is None or running.member.state is not State.AWAIT_SUM or running.aggregator is None:
            return ()
        member = running.member
        cohort = member.cohort
        if cohort.id in self._raced or cohort.aggregators[1] != self.core.me:
            return ()
        if cohort.aggregators[0] in self.league.identities:
            return ()  # which tells them the same anyway
        self._raced[cohort.id] = None
        while len(self._raced) > RACES_KEPT:
            del self._raced[next(iter(self._raced))]
        return self._race(member, now)

    def _race(self, member: Member, now: float) -> Iterable[Action]:
        cohort, contributors = member.cohort, member.contributors() or []
        own = self.league.plain.get(cohort.id, {})
        if not own or not contributors:
            return ()
        guess = sum(own.values()) * len(contributors) // len(own)
        values = self._agreed(Sum(member, np.asarray(guess), self._most(len(contributors))))
        frame = self.core.frame(proposal(member, values, len(contributors)), cohort.id)
        return self.core.carry_out([Send(peer, frame) for peer in cohort.members], now)

    def _most(self, contributors: int) -> int:
        return contributors * self.core.swarm.manifest.compression.levels


class ForgeZero(Forge):
    summary = "as aggregator publishes zeros instead of the sum"

    def forged(self, true: Sum) -> Integers:
        return np.zeros_like(true.values)


class ForgeBelow(Forge):
    summary = "as aggregator publishes the true sum under as much noise as members should just sign (`gossip.secure_sum.harm`)"
    needs_training = True

    def forged(self, true: Sum) -> Integers:
        """The point of the ball that members allow (`gossip.secure_sum.harm`) that has the most noise; of that as much as the loss allows."""
        most = self.core.loss(self.core.model()) + JUST_BELOW * self.table.tolerance_nats
        contributors = len(true.member.contributors() or ())
        noise = chance(self.league.seed, true.member.cohort.id).choice([-1.0, 1.0], len(true.values))
        length = float(np.linalg.norm(true.values)) / math.sqrt(len(true.values) or 1)
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            values = _clipped((true.values + middle * length * noise) / (2 * ENOUGH), true.most)
            if self.core.loss_with(true.member, values, contributors) < most:
                low = middle
            else:
                high = middle
        return _clipped((true.values + low * length * noise) / (2 * ENOUGH), true.most)


def _clipped(values: NDArray[np.float64], most: int) -> Integers:
    return np.clip(np.rint(values), -most, most).astype(np.int64)
