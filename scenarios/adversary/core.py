"""A bad device's core: the honest one, with a behaviour at each of its doors.

    event -> Behaviour.hear -> NodeCore.handle -> actions -> Behaviour.say, bend (of a vector), add (of a sum) -> the world

The product's code knows nothing of it. What is changed are events and actions, and the two jobs that a core asks for, so that
a behaviour outlives most changes of the protocol.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from crypto.identity import Identity
from gossip.codec.blocks import Layout
from gossip.codec.codec import Codec, Encoded
from gossip.events import Action, Compute, Event, Floats, Send, SetTimer, TimerFired
from gossip.frames import sign_frame
from gossip.history.dag import History
from gossip.history.fold import UNIT, Replica, increment
from gossip.manifest import Swarm
from gossip.secure_sum.aggregator import Total, UnmaskJob
from gossip.secure_sum.member import Inspect, Inspected, MaskJob, Member, Terms
from gossip.wire import Wire
from node.core import NodeCore, Running, Step
from scenarios.adversary.behaviour import Added, Behaviour, Integers, League, Plain
from scenarios.adversary.bodies import body
from scenarios.spec.adversary import AdversaryTable

WAKE = ("adversary", "wake")
LOUDLY = np.float32(1 << 20)  # times which every value that is not zero is beyond any range


class HostileCore(NodeCore):
    """`given` is what any core is given (`node.core.NodeCore`)."""

    def __init__(self, kind: type[Behaviour], table: AdversaryTable, league: League, **given: Any) -> None:
        super().__init__(**given)
        self.behaviour = kind(self, table, league)

    def start(self, now: float) -> list[Action]:
        every_s = self.behaviour.every_s
        waking = [SetTimer(WAKE, now + every_s)] if every_s else []
        return [*self._bent(super().start(now)), *waking]

    def handle(self, event: Event, now: float) -> list[Action]:
        if isinstance(event, TimerFired) and event.tag == WAKE:
            self._clock = now
            return [*self.behaviour.wake(now), SetTimer(WAKE, now + self.behaviour.every_s)]
        actions: list[Action] = []
        for heard in self.behaviour.hear(event, now):
            actions += self._bent(super().handle(heard, now))
        return [*actions, *self.behaviour.after(now)]

    def _bent(self, actions: Iterable[Action]) -> list[Action]:
        out: list[Action] = []
        for action in actions:
            match action:
                case Send():
                    out += self.behaviour.say(action)
                case Compute(tag, MaskJob() as job):
                    out.append(Compute(tag, replace(job, codec=cast(Codec, BentCodec(job, self.behaviour)))))
                case Compute(tag, UnmaskJob() as job):
                    out.append(Compute(tag, BentSum(job, self.behaviour)))
                case _:
                    out.append(action)
        return out

    def _form(self, readies: tuple[bytes, ...]) -> list[Step]:
        with self.behaviour.forming():
            return super()._form(readies)

    def _inspect(self, inspect: Inspect) -> list[Step]:
        """Bad devices sign what they have spoilt, and refuse what they have not."""
        running = self._busy
        if running is None:
            return []
        spoilt = self.behaviour.spoils(running.member, inspect.body)
        return self._to_cohort(
            running.member.cohort.id, Inspected(inspect.tag, "" if spoilt else "it is honest"), self._clock
        )

    # --- what a behaviour may know and do ----------------------------------------------------------------------

    @property
    def me(self) -> bytes:
        return self._me

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def swarm(self) -> Swarm:
        return self._swarm

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def history(self) -> History:
        return self._history

    @history.setter
    def history(self, history: History) -> None:
        self._history = history

    @property
    def replica(self) -> Replica:
        return self._replica

    @property
    def terms(self) -> Terms:
        """Of a cohort that this device would found now."""
        parents = [self._history.get(each) for each in self._history.parents_for_next()]
        return Terms(self._codec, self._layout, tuple(each.body for each in parents if each is not None))

    @property
    def neighbours(self) -> list[bytes]:
        return sorted(self._membership.neighbours)

    @property
    def leaders(self) -> list[bytes]:
        """Who may lead the next round, the likeliest first."""
        return self._rendezvous._ranked(self._turns.next_round)  # noqa: SLF001 - an attacker knows the ranking

    @property
    def running(self) -> Running | None:
        return self._busy

    def state_due(self, round_: int, parents: tuple[bytes, ...]) -> bytes | None:
        return self._state_due(round_, parents)

    def frame(self, body: Wire, cohort: bytes = b"") -> bytes:
        return sign_frame(self._identity, self._swarm.id, body, cohort=cohort)

    def carry_out(self, actions: Iterable[Step], now: float) -> list[Action]:
        """As if the protocols had asked for it."""
        return self._carry_out(list(actions), now)

    def loss(self, model: Floats) -> float:
        """On examples of its own."""
        return self.behaviour.league.loss(self._me, model)

    def loss_with(self, member: Member, values: Integers, contributors: int) -> float:
        """Where its cohort's sum with these values would take the model of now, without momentum."""
        round_ = member.cohort.roster.round
        known = body(member, values, contributors)
        change = increment([known], round_, self._layout, self._swarm.manifest)
        return self.loss(((self._replica.x + change) * UNIT).astype(np.float32))


class BentCodec:
    """A member's codec: encodes honestly, and then as its behaviour wants it. All else is the codec's own."""

    def __init__(self, job: MaskJob, behaviour: Behaviour) -> None:
        self._job = job
        self._codec = job.codec
        self._behaviour = behaviour

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, plan: Any, contribution: Any, rounding: bytes, **named: Any) -> Encoded:
        honest = self._codec.encode(plan, contribution, rounding, **named)
        loud = replace(contribution, values=np.clip(contribution.values, -1e30, 1e30) * LOUDLY)
        full = Plain(
            self._job, self._codec.encode(plan, loud, rounding, **named).vector, np.zeros(0, np.int64)
        )
        plain = Plain(self._job, honest.vector, full.values)
        self._behaviour.league.note(self._job.cohort.id, self._job.owner, plain.values)
        self._behaviour.bend(plain)
        return honest


@dataclass(frozen=True, slots=True)
class BentSum:
    """An aggregator's sum, changed as its behaviour wants it. Not where nothing could be added up."""

    job: UnmaskJob
    behaviour: Behaviour

    def run(self) -> object:
        total = self.job.run()
        if isinstance(total, Total):
            self.behaviour.add(Added(self.job, total.vector))
        return total
