"""How READY devices become a cohort, without a coordinator and without waiting for stragglers.

A device says READY only when it has something to give (*late binding*) and when it is its turn.
`gossip.cohort.sortition` decides whose turn it is, and who may lead. A READY goes to the first candidate to
lead; if that one cannot be reached, the READY goes to the next, and if it stays silent another
READY does. A leader gathers READYs in a bag. It closes the bag when it is full, when everybody who
is known to live is in it, or when the gathering time is over and enough are in it
(`Rendezvous.enough`). With fewer it hands the bag to a live candidate that is strictly lower in the
ranking, so handing on ends; the lowest one keeps waiting.

In a large swarm a device first asks the candidates, and others that it knows when it can reach none
of them.

**Hubs** are devices that say of themselves that they are well connected and there to stay
(`gossip.membership.view`). They rank first, and as many of them lead side by side as a round is to have
sums. A READY goes to a hub that is connected already, so that no dial takes time. A hub that leads
takes part itself, and so is the aggregator as well. A device that does not know that another one is
a hub only ranks that one too late. So whoever is handed a bag stands lower in the true ranking than
the one that handed it on, and handing on ends as without hubs. (A device that takes another for a
hub that no longer is one may err the other way, until it connects to it: a greeting brings the
newest word.)

**A READY is for one round.** When that round has come without it, its sender takes it back and says
another one with fresh keys, so that an old READY is worth nothing to whoever kept it. A leader
takes READYs for its next round. It takes one for the round before only from its own sender, who may
not have heard yet. It takes none that it has seen in a roster, and puts none into a roster that is
above the round by more than one. A device that waits in vain says another READY to the next
candidate: a roster may have taken the first one, and was lost.

**The lottery.** Where a lottery decides who may say READY, whoever is not drawn draws again in the
next round. Devices that come all at once know too little of the swarm to draw well. So the leaders
bound the cohorts, too: together they make no more in a round than are aimed at, unless so many
members of one ask again that it must have failed. Full cohorts are more than the lottery aims at,
so it still shows when too many are ready.

When the history grows, all ranks change at once: a device that waits asks the new first candidate,
and a leader that is no longer the first forgets its bag.

**Suspicion** (`gossip.cohort.suspicion`). A leader takes devices that were in refused sums, or left sums,
more rarely. Whoever is distrusted is asked last to lead, and so is whoever is handed bags and makes
no round of them: in a small swarm all bags go to one device. Both are one device's own opinions, and a
device that one leader leaves out is taken by the next.

A leader has no power but to leave somebody out: the roster holds the members' own signed READYs,
and a member joins one roster for each READY. Two leaders who hold the same READY cost a DECLINE at
the first step, and nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from crypto.hashing import digest
from gossip.cohort.messages import Ready
from gossip.cohort.sortition import ROBUST_MIN, ranking
from gossip.cohort.suspicion import Suspicion
from gossip.events import CancelTimer, Report, Send, SetTimer, TimerFired
from gossip.frames import Message
from gossip.history.pace import whole_sum_s
from gossip.manifest import Cohorts
from gossip.quorum import threshold

BAG_MAX = 256  # READYs held while gathering
# A READY goes to the next candidate after this many gathering times without a roster. Who cannot be reached is passed over at
# once, so this is for those who are silent; asking another one costs a connection, and may split a cohort.
PATIENCE_GATHERS = 4.0
FEW_SUMS = 4.0  # waiting times of a whole sum until a cohort of n_min is better than none
CHOOSY_GATHERS = 3.0  # a leader waits for others, where it would have to take in whom it doubts
USED_MAX = 1024  # READYs that were in rosters
READY_TTL_GATHERS = 12.0  # older READYs are dropped: their sender has long renewed or gone


@dataclass(frozen=True, slots=True)
class Close:
    """The bag's READY frames, ascending by sender, that make a cohort: the node adds parents and sends ROSTER."""

    readies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Introduce:
    """Tell `to` where to find these, before it has to answer them."""

    peers: tuple[bytes, ...]
    to: bytes


@dataclass(frozen=True, slots=True)
class Made:
    """A cohort: those of its members who did not ask again since, and how many of them a sum needs."""

    members: dict[bytes, None]
    needed: int

    def goes_on_without(self, peer: bytes) -> bool:
        """Whoever is in a cohort asks again when that is over: where too many do in one round, it has failed."""
        self.members.pop(peer, None)
        return len(self.members) >= self.needed


Action: TypeAlias = Send | SetTimer | CancelTimer | Report | Close | Introduce


@dataclass(slots=True)
class Asked:
    """This device's own READY on its way to a roster."""

    frame: bytes
    round: int
    tried: list[bytes]


@dataclass(frozen=True, slots=True)
class Bagged:
    ready: Ready
    frame: bytes
    at: float


class Rendezvous:
    """`live` returns the members known to live, this device among them, in any fixed order.

    `candidates` returns those that may lead where nobody knows all; else none.
    """

    def __init__(
        self,
        swarm: bytes,
        me: bytes,
        cohorts: Cohorts,
        live: Callable[[], list[bytes]],
        candidates: Callable[[], list[bytes]] = list,
        is_hub: Callable[[bytes], bool] = lambda _: False,
        has_link: Callable[[bytes], bool] = lambda _: False,
        suspicion: Suspicion | None = None,
    ) -> None:
        self._swarm = swarm
        self._me = me
        self._cohorts = cohorts
        self._live = live
        self._candidates = candidates
        self._is_hub = is_hub
        self._has_link = has_link
        self._suspicion = suspicion or Suspicion(swarm, me)
        self._used: dict[bytes, None] = {}  # READYs' hashes, USED_MAX
        self._closed = 0  # bags
        self._gather_s = cohorts.gather_ms / 1000
        self._round = 0  # that READYs are for
        self._drawn = False  # for each round anew, by the lottery
        # Cohorts of that round which are not known to have failed, at most as many as are aimed at.
        self._made: list[Made] = []
        self._formed_at = 0.0  # the last of them
        self.asked: Asked | None = None
        self._silent: Asked | None = None  # who was asked in vain, by the READY before
        self._bag: dict[bytes, Bagged] = {}  # by sender, at most BAG_MAX
        self._closing_at: float | None = None
        self._since: float | None = None  # that READYs for this round come
        self._handed: dict[bytes, float] = {}  # to whom, and since when: in this round

    @property
    def gathered(self) -> int:
        return len(self._bag)

    # --- a device that is ready ------------------------------------------------------------------------------

    def ask(self, frame: bytes, round_: int, now: float) -> list[Action]:
        """Offer this device's fresh READY to the first candidate."""
        tried = self._silent.tried if self._silent is not None and self._silent.round == round_ else []
        self.asked, self._silent = Asked(frame, round_, tried), None
        return self._ask_next(now)

    def withdraw(self) -> list[Action]:
        """A roster took the READY, or the device has nothing to give any more."""
        self.asked = None
        return [CancelTimer(("rendezvous", "asked"))]

    def advance(self, round_: int, *, drawn: bool = False) -> list[Action]:
        """The history has grown: READYs are for `round_` from now on.

        `drawn`: the lottery decides about them, for each round anew.
        """
        actions: list[Action] = []
        self._drawn = drawn
        if round_ > self._round:
            self._round, self._made = round_, []
            self._handed.clear()
            self._since = None
            oldest = round_ if drawn else round_ - 1
            self._bag = {peer: held for peer, held in self._bag.items() if held.ready.round >= oldest}
            if self.asked is not None and round_ > self.asked.round:
                actions += self.withdraw()
        if self._closing_at is not None and (not self._bag or not self.leads(round_)):
            self._bag.clear()
            self._closing_at = None
            actions.append(CancelTimer(("rendezvous", "gather")))
        return actions

    def failed(self, peer: bytes, now: float) -> list[Action]:
        """The candidate asked last cannot be reached."""
        if self.asked is None or not self.asked.tried or self.asked.tried[-1] != peer:
            return []
        return self._ask_next(now)

    def _ask_next(self, now: float) -> list[Action]:
        if self.asked is None:
            return []
        first = self._candidates()
        leaders = self._leaders(self.asked.round)
        ranked = list(
            dict.fromkeys(
                (
                    *self._in_turn(leaders),
                    *self._rank(self.asked.round, first),
                    *self._rank(self.asked.round, self._live()),
                )
            )
        )
        ranked = [peer for peer in ranked if not self._suspicion.is_hopeless(peer)] or ranked
        left = [peer for peer in ranked if peer not in self.asked.tried]
        if not left:
            self.asked.tried.clear()
            left = ranked
        self.asked.tried.append(left[0])
        # Where many ask one, it may have made the cohorts that the round needs, and the READY lapses with the round.
        wait_s = whole_sum_s(self._cohorts) if first else PATIENCE_GATHERS * self._gather_s
        patience = SetTimer(("rendezvous", "asked"), now + wait_s)
        return [Send(left[0], self.asked.frame), patience]

    # --- a device that leads ---------------------------------------------------------------------------------

    def handle(self, event: Message | TimerFired, now: float, peer: bytes = b"") -> list[Action]:
        """`peer` is the neighbour that a READY comes from, if it is not its sender."""
        match event:
            case Message(body=Ready() as ready):
                return self._on_ready(event, ready, now, is_own=peer in {b"", event.sender})
            case TimerFired(("rendezvous", "asked")):
                # Perhaps a roster has taken the READY and was lost, and nobody takes one twice: another goes to the next.
                self._silent, self.asked = self.asked, None
                return []
            case TimerFired(("rendezvous", "gather")):
                return self._on_gathered(now)
        return []

    def _on_ready(self, message: Message, ready: Ready, now: float, *, is_own: bool) -> list[Action]:
        held = self._bag.get(message.sender)
        if ready.round < self._round - is_own or digest("ready", message.raw) in self._used:
            return []
        if held is None and len(self._bag) >= BAG_MAX:
            return []
        if held is not None and ready.round < held.ready.round:
            return []
        if self._drawn and ready.round < self._round:
            return []  # its sender will take it back as soon as it hears of the round that came
        self._bag[message.sender] = Bagged(ready, message.raw, now)
        self._since = now if self._since is None else self._since
        self._made = [cohort for cohort in self._made if cohort.goes_on_without(message.sender)]
        self._expire(now)
        live = self._live()
        closed = self._close_if_enough(now) if self._is_full() or self._everybody(live) else []
        return closed or ([] if self._closing_at is not None else self._wait(now))

    def _is_full(self) -> bool:
        """A hub that leads waits for its own READY, at most for the waiting time: else another would have to add up."""
        takes_part = self._me in self._bag or not (self._is_hub(self._me) and self._candidates())
        return len(self._bag) >= self._cohorts.n_max and takes_part

    def _everybody(self, live: list[bytes]) -> bool:
        return len(self._bag) >= self._cohorts.n_min and all(peer in self._bag for peer in live)

    def _on_gathered(self, now: float) -> list[Action]:
        self._closing_at = None
        self._expire(now)
        if not self._bag:
            return []
        if self._made_enough(now):
            return self._wait(now)
        return self._close_if_enough(now) or self._hand_on(now)

    def _made_enough(self, now: float) -> bool:
        """Whether the round has cohorts enough, unless they fail."""
        if now - self._formed_at >= whole_sum_s(self._cohorts) or not self._candidates():
            return False
        return len(self._made) >= max(1, self._cohorts.sums // len(self._leaders(self._round)))

    def _close_if_enough(self, now: float) -> list[Action]:
        if len(self._bag) < self._enough(now) or self._made_enough(now):
            return []
        # This device first, as whoever leads adds up, too; then those who wait longest. Ties by key, so that equal bags make
        # equal rosters.
        ranked = sorted(self._bag, key=lambda peer: (peer != self._me, self._bag[peer].at, peer))
        chosen = self._drawn_of(ranked, now)
        if len(chosen) < self._enough(now):
            return []
        if self._better_may_come(now) and not self._suspicion.is_clean(chosen):
            return self._wait(now)
        if now - self._formed_at >= whole_sum_s(self._cohorts):
            self._made = []  # they had their time
        self._formed_at = now
        frames = tuple(self._bag.pop(peer).frame for peer in sorted(chosen))
        if self._candidates():
            needed = max(self._cohorts.n_min, threshold(len(chosen)))
            self._made.append(Made(dict.fromkeys(chosen), needed))
        self._closing_at = None
        again = self._wait(now) if self._bag else [CancelTimer(("rendezvous", "gather"))]
        return [Close(frames), *again]

    def _better_may_come(self, now: float) -> bool:
        """There are few to choose from, and nobody has waited for long."""
        if self._is_late(self._waited(now)):
            return False
        few = len(self._bag) < min(2 * self._enough(now), len(self._live()))
        oldest = min(bagged.at for bagged in self._bag.values())
        return few and now - oldest < CHOOSY_GATHERS * self._gather_s

    def enough(self, waited_s: float) -> int:
        """Members that a cohort has at least: in a swarm that has more, few are not enough for a long time."""
        n_min = self._cohorts.n_min
        if self._is_late(waited_s):
            return n_min
        return max(n_min, min(ROBUST_MIN, self._cohorts.n_max, len(self._live()) // 2))

    def _is_late(self, waited_s: float) -> bool:
        """Any cohort is better than none."""
        return waited_s >= FEW_SUMS * whole_sum_s(self._cohorts)

    def _enough(self, now: float) -> int:
        return self.enough(self._waited(now))

    def _waited(self, now: float) -> float:
        """For a round, since its first READY. READYs are renewed, and old ones dropped: none waits that long."""
        return 0.0 if self._since is None else now - self._since

    def _drawn_of(self, ranked: list[bytes], now: float) -> list[bytes]:
        """Without most of those who were in bad sums of late; too few, and the least suspected of them after all."""
        self._closed += 1
        seed = self._round.to_bytes(8, "big") + self._closed.to_bytes(4, "big")
        return self._suspicion.choose(
            ranked, self._enough(now), self._cohorts.n_max, seed, desperate=self._is_late(self._waited(now))
        )

    def _hand_on(self, now: float) -> list[Action]:
        """To a live candidate strictly lower under the highest round in the bag: that can only happen finitely often."""
        highest = max(bagged.ready.round for bagged in self._bag.values())
        ranked = self._ranked(highest)
        if now - self._handed.get(ranked[0], now) >= PATIENCE_GATHERS * self._gather_s:
            # It had a bag, and made no round of it.
            self._suspicion.offended(ranked[0], highest, certain=False)
            ranked = self._ranked(highest)
        if ranked[0] == self._me:
            return self._wait(now)
        self._handed.setdefault(ranked[0], now)
        frames = [self._bag[peer].frame for peer in sorted(self._bag)]
        introduced = Introduce(tuple(sorted(self._bag)), ranked[0])
        self._bag.clear()
        handed = Report("handed_on", {"readies": len(frames), "to": ranked[0].hex()[:16]})
        return [introduced, *(Send(ranked[0], frame) for frame in frames), handed]

    def leads(self, round_: int) -> bool:
        """Whether this device is one of those whom all ask."""
        return self._me in self._leaders(round_)

    def _leaders(self, round_: int) -> list[bytes]:
        """As many of the first hubs as sums are to come of the round; where there is none, the first of all."""
        live = self._live()
        return self._lead(round_, self._candidates() or live, live)

    def _lead(self, round_: int, candidates: list[bytes], live: list[bytes]) -> list[bytes]:
        ranked = self._rank(round_, candidates)
        count = max(1, min(self._cohorts.sums, len(live) // self._cohorts.n_max))
        return [peer for peer in ranked[:count] if self._is_hub(peer)] or ranked[:1]

    def first_asked(self, round_: int, candidates: list[bytes]) -> bytes | None:
        """Whom this device will ask first to lead a round to come, if these are its candidates."""
        return next(iter(self._in_turn(self._lead(round_, candidates, self._live()))), None)

    def _in_turn(self, leaders: list[bytes]) -> list[bytes]:
        """A leader its own self; others one that is connected, so that no time goes for a dial; else evenly, by hash."""
        return sorted(
            leaders,
            key=lambda peer: (
                peer != self._me,
                not self._has_link(peer),
                digest("led by", self._swarm, self._me, peer),
            ),
        )

    def _ranked(self, round_: int) -> list[bytes]:
        """This device among those whom it would hand on to."""
        return self._rank(round_, {*(self._candidates() or self._live()), self._me})

    def _rank(self, round_: int, peers: Iterable[bytes]) -> list[bytes]:
        """Who is distrusted comes last, so a bag is never handed to one; all others rank as everywhere."""
        ranked = ranking(self._swarm, round_, peers, self._is_hub)
        return sorted(ranked, key=lambda peer: self._suspicion.distrusts(peer, round_))

    def _wait(self, now: float) -> list[Action]:
        self._closing_at = now + self._gather_s
        return [SetTimer(("rendezvous", "gather"), self._closing_at)]

    def taken(self, readies: tuple[bytes, ...]) -> None:
        """A roster elsewhere has taken these READYs: in another one they would be dropouts from the start."""
        for peer in [peer for peer, bagged in self._bag.items() if bagged.frame in readies]:
            del self._bag[peer]
        self._used |= dict.fromkeys(digest("ready", frame) for frame in readies)
        while len(self._used) > USED_MAX:
            del self._used[next(iter(self._used))]

    def ended(self, members: Iterable[bytes]) -> None:
        """A cohort that this device was in has come to nothing: if it led it, it need not wait until its members ask again."""
        over = set(members)
        self._made = [cohort for cohort in self._made if not over.issuperset(cohort.members)]

    def _expire(self, now: float) -> None:
        oldest = now - READY_TTL_GATHERS * self._gather_s
        for peer in [peer for peer, bagged in self._bag.items() if bagged.at < oldest]:
            del self._bag[peer]
