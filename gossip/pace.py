"""How fast a history may grow: no faster than rounds can be made, by this device's own clock.

A few devices in league can sign one aggregate after the other, each the parent of the next, as fast as they can compute
(docs/threat-model.md, "leagues"). What each of them moves is bounded (`gossip.fold`), so what is left is how many there are.
Here a device takes in new rounds from a bucket of tokens (Turner, "New directions in communications", 1986):

    one token a round;  one is earned in LEAST_GATHERS gathering times;  at most BURST are kept
    after a gap of g seconds without a new round as many as g earns, however many: this device was away, or the swarm rests

Until a device has once known all that a neighbour knew there is no bound, as it has everything to catch up with. What is not
taken in is forgotten; the heartbeat's comparison brings it again. Earlier rounds cost nothing: what counts in them is
bounded by who was there (`gossip.history`).

So a league makes at most 60 / (LEAST_GATHERS gather_s) rounds a minute, besides one BURST, whatever it sends.
"""

from gossip.manifest import Cohorts

LEAST_GATHERS = (
    0.25  # the quickest rounds that were seen take half a gathering time, as a full bag closes at once
)
BURST = 64  # rounds: as many as a device pulls rather than takes a checkpoint for


class Pace:
    def __init__(self, cohorts: Cohorts) -> None:
        self._least_s = LEAST_GATHERS * cohorts.gather_ms / 1000
        self._tokens: float | None = None  # None: not yet bounded
        self._at = 0.0  # of the last new round, or of the first bound

    def caught_up(self, now: float) -> None:
        """A neighbour knows nothing that this device does not."""
        if self._tokens is None:
            self._tokens, self._at = float(BURST), now

    def unbind(self) -> None:
        """There is everything to catch up with again."""
        self._tokens = None

    def allows(self, rounds: int, now: float) -> bool:
        """Whether an aggregate may come that is so many rounds above all that are held."""
        return self._tokens is None or rounds <= max(0.0, self._now(now))

    def grew(self, rounds: int, now: float) -> None:
        """The history has so many more rounds. Orphans that were waiting may make these more than were allowed: a debt."""
        if self._tokens is not None and rounds > 0:
            self._tokens, self._at = self._now(now) - rounds, now

    def _now(self, now: float) -> float:
        assert self._tokens is not None
        earned = max(0.0, now - self._at) / self._least_s
        return max(min(BURST, self._tokens + earned), min(earned, self._tokens + earned))
