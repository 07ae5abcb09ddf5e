"""A scenario's cuts, carried out: a home's link goes down, comes back, and then all replicas become equal.

What is measured around a cut is taken from what the devices tell: rounds are the highest that any of them knows, accuracies
are those of the replicas at that moment, on the scenario's test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from scenarios.reports.processes import CutReport, Moment, SideReport
from scenarios.spec.scenario import Cut, NetworkTable


@dataclass(slots=True)
class Parting:
    """How far a cut has come."""

    cut: Cut
    cut_at: Moment | None = None
    healed_at: Moment | None = None
    equal_at: Moment | None = None
    sides: list[SideReport] = field(default_factory=list)  # just before healing
    accuracy_equal: float | None = None

    @property
    def unfinished(self) -> bool:
        """Whether the link is down and will come back."""
        return self.cut_at is not None and self.healed_at is None

    @property
    def waits_for_equality(self) -> bool:
        return self.healed_at is not None and self.equal_at is None

    def begins(self, training_s: float, round_: int, down: Sequence[str]) -> bool:
        """Whether the link goes down now; `down`: homes that are cut off already, `training_s`: since all were up."""
        if self.cut_at is not None or self.cut.home in down:
            return False
        if self.cut.at_s is not None:
            return training_s >= self.cut.at_s
        assert self.cut.round is not None
        return round_ >= self.cut.round

    def ends(self, now_s: float, round_: int, *, idle: bool) -> bool:
        """Whether the link comes back now; `idle`: no round will come any more."""
        if self.cut_at is None or self.healed_at is not None:
            return False
        if self.cut.for_s is not None:
            return now_s >= self.cut_at.at_s + self.cut.for_s
        assert self.cut.for_rounds is not None
        return idle or round_ >= self.cut_at.round + self.cut.for_rounds

    def report(self) -> CutReport:
        healed, equal = self.healed_at, self.equal_at
        return CutReport(
            cut=str(self.cut),
            began=self.cut_at,
            healed=healed,
            sides=self.sides,
            equal=equal,
            rounds_to_equal=None if healed is None or equal is None else equal.round - healed.round,
            accuracy_equal=self.accuracy_equal,
        )


def devices_of(network: NetworkTable) -> dict[str, range]:
    """The indices of the devices in each home, which hold them in order."""
    found, first = {}, 0
    for home in network.home:
        found[home.name] = range(first, first + home.devices)
        first += home.devices
    return found


def sides_of(homes: Sequence[str], down: Sequence[str]) -> list[list[str]]:
    """Who can reach each other: all that are on the street, and each home that is off it by itself."""
    joined = [home for home in homes if home not in down]
    return [side for side in (joined, *([home] for home in homes if home in down)) if side]
