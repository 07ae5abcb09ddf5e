"""How fast a history may grow: no faster than rounds can be made, by this device's own clock.

A few devices in league can sign one aggregate after the other, each the parent of the next, as fast as they can compute
(docs/threat-model.md, "leagues"). What each of them moves is bounded (`gossip.history.fold`), so what is left is how many there are, and
that READYs are for a round: where rounds fly past, honest devices never meet. Here a device takes in new rounds from two
buckets of tokens (Turner, "New directions in communications", 1986):

    bucket   of what                                                    earns a token in             holds
    -------  ---------------------------------------------------------  ---------------------------  ------
    all      every new round                                            LEAST_GATHERS gathering times  BURST
    thin     a new round of far fewer contributors than are usual       the time of a whole sum      THIN_BURST

After a gap of g seconds without a new round a bucket holds as many tokens as g earns, however many: this device was away, or the
swarm rests. Until a device has once known all that a neighbour knew there is no bound, as it has everything to catch up with. What
is not taken in is forgotten; the heartbeat's comparison brings it again. Earlier rounds cost nothing: what counts in them is
bounded by who was there (`gossip.history.dag`).

So a league that is fewer than half of what is usual makes one round in the time of a whole sum, besides one THIN_BURST, whatever it
sends; a larger one at most 60 / (LEAST_GATHERS gather_s) a minute.
"""

from gossip.manifest import Cohorts

SUM_STEPS = 4  # deadlines of a step, in which a sum ends unless several of its steps are held up
LEAST_GATHERS = (
    0.25  # the quickest rounds that were seen take half a gathering time, as a full bag closes at once
)
BURST = 8  # rounds that may come at once
THIN_BURST = 2


def whole_sum_s(cohorts: Cohorts) -> float:
    """For a cohort to gather and to make its sum: when a round has not come in that time, it has failed."""
    return (cohorts.gather_ms + SUM_STEPS * cohorts.step_ms) / 1000


class Bucket:
    def __init__(self, earns_s: float, burst: int, now: float) -> None:
        self._earns_s = earns_s
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def holds(self, now: float) -> float:
        earned = max(0.0, now - self._at) / self._earns_s
        return max(min(self._burst, self._tokens + earned), min(earned, self._tokens + earned))

    def spend(self, tokens: int, now: float) -> None:
        """Orphans that were waiting may make these more than it holds: a debt."""
        self._tokens, self._at = self.holds(now) - tokens, now


class Pace:
    def __init__(self, cohorts: Cohorts) -> None:
        self._cohorts = cohorts
        self._buckets: tuple[Bucket, Bucket] | None = None  # of all, of thin ones; None: not yet bounded

    def caught_up(self, now: float) -> None:
        """A neighbour knows nothing that this device does not."""
        if self._buckets is None:
            least_s = LEAST_GATHERS * self._cohorts.gather_ms / 1000
            self._buckets = (
                Bucket(least_s, BURST, now),
                Bucket(whole_sum_s(self._cohorts), THIN_BURST, now),
            )

    def unbind(self) -> None:
        """There is everything to catch up with again."""
        self._buckets = None

    def allows(self, rounds: int, now: float, *, thin: bool = False) -> bool:
        """Whether an aggregate may come that is so many rounds above all that are held."""
        if self._buckets is None or rounds <= 0:
            return True
        return all(rounds <= bucket.holds(now) for bucket in self._buckets[: 1 + thin])

    def grew(self, rounds: int, now: float, *, thin: bool = False) -> None:
        """The history has so many more rounds."""
        if self._buckets is not None and rounds > 0:
            for bucket in self._buckets[: 1 + thin]:
                bucket.spend(rounds, now)
