"""Whose turn it is: whom the lottery draws for a round, and who may be asked to lead it.

It guarantees that all who know the same history, members and hubs come to the same answer, without a message. It does not guarantee
chance against whoever can make keys: of many it may take one that is often drawn, or leads. What that is worth, admission bounds
(docs/threat-model.md); a leader can but leave others out (`gossip.cohort.rendezvous`).

**The ranking.** Candidates to lead a round are ranked by H(swarm || round || peer), hubs first, so that everybody ranks alike and
nobody chooses: rendezvous hashing (Thaler and Ravishankar 1998). In a small swarm they are the members known to live.

**In a large swarm nobody knows all members**, so the candidates are the contributors of the round before the last, whom everybody
knows by the history and finds by the *guides* that came with it (`gossip.history.sync`); in the second round those of the first, and before
it the founder. Not those of the last round: who has heard of one of its sums may not have heard of the other, and would ask another
leader, so that one round of two sums made the next one of two.

There, a **lottery** decides who may say READY for a round at all, H(swarm || round || peer) < p, like sortition in Algorand (Gilad et
al. 2017), but open: anybody can tell who is drawn. So about three quarters of the round's P places are filled, whatever the number N
of members. P is sums * n_max, or more where three quarters of that would be too few for a cohort (`places`). p starts at P / N, and
follows from how many contributed to the rounds before:

    p' = min(1, p * clamp(sqrt(3/4 P / contributors_r), 1/2, 2)),  and twice as much for each waiting time without a round

A waiting time is that of a whole sum. The first three rounds are not counted, as a swarm only comes together in them. The last round
is only counted where it came to more than was aimed at: whoever has heard of its first aggregate may not have heard of the others
yet. That makes it a loop with a delay, hence the root. In a swarm of at most P members p is 1.

All of it follows from the history and from what a device has heard of the swarm; nothing here is remembered from event to event.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from math import isqrt

from crypto.hashing import digest
from gossip.history.dag import History
from gossip.history.pace import whole_sum_s
from gossip.history.sync import GUIDES
from gossip.manifest import Cohorts, Swarm
from gossip.membership.view import HUB_LINKS_MAX, Membership

GATHERING_ROUNDS = 3  # in which a swarm only comes together: how few contribute says nothing of those to come
LOTTERY_ROUNDS = 64  # that p follows from: as many doublings as there are can be made up for in half of them
LOTTERY_BITS = 64
# Of a round's places, that the lottery aims at: who comes too late for a full cohort has come for nothing.
FILLED = Fraction(3, 4)
# Members of a cohort, if there are so many (`gossip.cohort.rendezvous`): of four, three sign, and one bad and two blind ones are enough.
ROBUST_MIN = 8
ROOT_OF_ONE = 1 << LOTTERY_BITS // 2
ONE = 1 << LOTTERY_BITS  # p in whole numbers: every device's floats round alike, but why rely on it
RANKINGS_KEPT = 256
SHARES_KEPT = 256


def ranking(
    swarm: bytes, round_: int, peers: Iterable[bytes], is_hub: Callable[[bytes], bool] = lambda _: False
) -> list[bytes]:
    """The hubs first. Who does not know that another is one ranks it too late, and never too early."""
    seed = round_.to_bytes(8, "big")
    return sorted(peers, key=lambda peer: (not is_hub(peer), digest("leader", swarm, seed, peer)))


@lru_cache(maxsize=RANKINGS_KEPT)
def first_of(
    swarm: bytes, round_: int, peers: tuple[bytes, ...], hubs: tuple[bytes, ...], count: int
) -> tuple[bytes, ...]:
    """The first of the ranking, remembered: all who pull an aggregate are told the same."""
    return tuple(ranking(swarm, round_, peers, hubs.__contains__)[:count])


def places(cohorts: Cohorts) -> int:
    """In the sums of a round. So many at least that FILLED of them are enough for each: else small cohorts would hardly ever form."""
    least = cohorts.sums * min(ROBUST_MIN, cohorts.n_max)
    return max(cohorts.sums * cohorts.n_max, -(-least * FILLED.denominator // FILLED.numerator))


@lru_cache(maxsize=SHARES_KEPT)
def share(places: int, members: int, counts: tuple[int, ...], waited: int) -> int:
    """P of the next round in 1/ONE, where the last rounds, oldest first, had so many contributors to what counts.

    `places`: in the sums of a round. `waited`: how often the waiting time is over since the last round. The newest count may
    still grow.
    """
    start = min(ONE, ONE * places // max(members, 1))
    if start == ONE:
        return ONE
    p = start
    aimed = max(1, places * FILLED.numerator // FILLED.denominator)
    settled = [*counts[:-1], *(max(count, aimed) for count in counts[-1:])]
    for count in settled[-LOTTERY_ROUNDS:]:
        root = isqrt((aimed << LOTTERY_BITS) // max(count, 1))  # in 1/ROOT_OF_ONE
        p = min(ONE, max(1, min(2 * p, max(p // 2, p * root // ROOT_OF_ONE))))
    return min(ONE, p << min(waited, LOTTERY_BITS))


def wins(swarm: bytes, round_: int, peer: bytes, p: int) -> bool:
    drawn = digest("lottery", swarm, round_.to_bytes(8, "big"), peer)[: LOTTERY_BITS // 8]
    return int.from_bytes(drawn, "big") < p


def led_by(round_: int) -> tuple[int, ...]:
    """The rounds that a round's contributors lead. The second has none but the first's."""
    return (2, 3) if round_ == 1 else (round_ + 2,)


class Turns:
    """As one device knows them. `history` returns its history as it is; a round without a number is the next one."""

    def __init__(
        self, swarm: Swarm, me: bytes, membership: Membership, history: Callable[[], History]
    ) -> None:
        self._swarm = swarm
        self._me = me
        self._membership = membership
        self._history = history

    @property
    def next_round(self) -> int:
        """The round that READYs are for."""
        return self._history().round + 1

    # --- the lottery -----------------------------------------------------------------------------------------

    @property
    def drawn(self) -> bool:
        """Whether there is a lottery: the swarm has more members than a round has places."""
        return self._share(0) < ONE

    def is_drawn(self, waited: int) -> bool:
        """Whether this device may say READY, after so many waiting times without a round."""
        return wins(self._swarm.id, self.next_round, self._me, self._share(waited))

    def draws_near(self, waited: int) -> bool:
        """Whether the lottery, as it stands, draws this device for a round that its training may begin for."""
        p, next_ = self._share(waited), self.next_round
        rounds = range(next_, next_ + self._swarm.manifest.training.rounds_ahead)
        return any(wins(self._swarm.id, round_, self._me, p) for round_ in rounds)

    def waited(self, since: float, now: float) -> int:
        """How often the waiting time has passed."""
        return int((now - since) / whole_sum_s(self._swarm.manifest.cohorts))

    def draws_again_at(self, since: float, now: float) -> float:
        """When another waiting time has passed without a round, the lottery draws more."""
        wait_s = whole_sum_s(self._swarm.manifest.cohorts)
        # A little later than now in any case, or a time that rounds down would be waited for again and again.
        return max(since + (self.waited(since, now) + 1) * wait_s, now + wait_s / 100)

    def _share(self, waited: int) -> int:
        cohorts = self._swarm.manifest.cohorts
        counts = tuple(self._history().counts(LOTTERY_ROUNDS, since=1 + GATHERING_ROUNDS))
        return share(places(cohorts), self._membership.size(), counts, waited)

    # --- who may lead, where nobody knows all ----------------------------------------------------------------

    def candidates(self) -> list[bytes]:
        """Those that everybody can find and this device can reach; none where all know all."""
        return [] if self._membership.sees_all else self.candidates_of(self.next_round)

    def candidates_of(self, round_: int) -> list[bytes]:
        """Of a round to come."""
        history, reachable = self._history(), self._membership.reachable
        last = history.counted(max(0, round_ - 2)) or history.counted(round_ - 1)
        candidates = {peer for known in last for peer in known.contributors}
        if not last:
            candidates = {self._swarm.manifest.founder}
        return sorted(peer for peer in candidates if peer == self._me or reachable(peer))

    def round_to_approach(self) -> int | None:
        """The round after the next, if this device will need a connection to its leader that it may not have.

        In a swarm of no more than HUB_LINKS_MAX a hub is connected to all others anyway. In the first rounds most devices take the
        swarm for a fraction of what it is and themselves for drawn; so many would leave the leader no place for those who are.
        """
        round_ = self.next_round + 1
        if self._membership.sees_all or self._membership.size() <= HUB_LINKS_MAX:
            return None
        if round_ <= GATHERING_ROUNDS or not wins(self._swarm.id, round_, self._me, self._share(0)):
            return None
        return round_

    def guides(self, of_round: int, contributors: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Those of a sum's contributors whom all who hear of it now will ask first."""
        leads = led_by(of_round)
        return self._first_to_lead(leads[0] if self._history().round == 1 else leads[-1], contributors)

    def all_guides(self, of_round: int, contributors: tuple[bytes, ...]) -> Sequence[bytes]:
        """The same for whoever will hear of it, whenever that is."""
        return [*chain(*(self._first_to_lead(round_, contributors) for round_ in led_by(of_round)))]

    def _first_to_lead(self, round_: int, peers: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """As far as this device knows who is a hub."""
        hubs = tuple(peer for peer in peers if self._membership.is_hub(peer))
        return first_of(self._swarm.id, round_, peers, hubs, GUIDES)
