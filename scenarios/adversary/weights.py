"""Lies about how much a contribution weighs, while vectors carry their weights in lanes of their own."""

from scenarios.adversary.behaviour import Behaviour, Plain


class Weights(Behaviour):
    summary = "as member says a weight below zero, which takes the others' away and so amplifies everybody"

    def bend(self, plain: Plain) -> None:
        """Down to an example or so for all members together, if the others hold as much as this one."""
        own = plain.wide[: plain.ranges_from].astype("i8")
        others = len(plain.members) - len(self.league.among(plain.job.cohort.members))
        together = max(1, len(plain.members) - others)
        plain.wide[: plain.ranges_from] = (-(own * others * 9 // 10) // together).astype("u8").astype("u4")


class WeightsStop(Behaviour):
    summary = "as member says a weight of 2^31, with which no sum can be published"

    def bend(self, plain: Plain) -> None:
        plain.wide[: plain.ranges_from] = 1 << 31
