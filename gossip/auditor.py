"""The member's side of an audit (`gossip.audit`), after its sum holds.

    state   on                                 does                             goes to
    ------  ---------------------------------  -------------------------------  -------
    Idle    the sum holds, and it is drawn     AUDIT_REQUEST                    Asking
            ACCUSATION, once the sum holds     the same                         Asking
    Asking  AUDIT_ANSWER, the last of all      adds up (a job)                  Adding
            one that does not fit, or no more  Unanswered                       Over
    Adding  the same body                      Cleared, which names accusers    Over
            another one                        ACCUSATION to all, Forged        Over

A member that is its cohort's aggregator audits nothing that it has shown itself.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from crypto.identity import Identity
from gossip.aggregate import aggregate_id
from gossip.audit import ALARMED, AUDIT_STEPS, AUDITS, Audited, AuditJob
from gossip.errors import PeerViolation
from gossip.events import CancelTimer, Compute, Computed, Send, SetTimer, Tag, TimerFired
from gossip.messages import Accusation, AuditAnswer, AuditRequest, Message, sign_frame
from gossip.messages import Body as MessageBody
from gossip.secure_sum import CohortEvent, Member

DRAW_BYTES = 4


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An aggregator did not show what it had added up."""

    cohort: bytes
    aggregator: bytes


@dataclass(frozen=True, slots=True)
class Forged:
    """This device has added up again what was sealed: the aggregator published something else."""

    cohort: bytes
    aggregator: bytes


@dataclass(frozen=True, slots=True)
class Cleared:
    """The sum is right. Whoever accused its aggregator is wrong."""

    cohort: bytes
    accusers: tuple[bytes, ...]


Verdict: TypeAlias = Unanswered | Forged | Cleared
Action: TypeAlias = Send | SetTimer | CancelTimer | Compute | Verdict


class State(Enum):
    IDLE = "idle"
    ASKING = "asking"
    ADDING = "adding"
    OVER = "over"


class Auditor:
    def __init__(self, member: Member, identity: Identity, entropy: Callable[[int], bytes]) -> None:
        self._member = member
        self._cohort = member.cohort
        self._identity = identity
        self._entropy = entropy
        self._state = State.IDLE
        self._aggregate = b""  # the sum that holds
        self._aggregator: bytes | None = None  # who showed it
        self._accusers: dict[bytes, None] = {}  # at most as many as members
        self._vectors: dict[int, bytes] = {}
        self._secrets: dict[int, bytes] = {}

    def held(self, aggregate: bytes, now: float, *, alarmed: bool) -> list[Action]:
        """The sum holds. Draws whether to audit it."""
        if self._aggregate:
            return []
        self._aggregate = aggregate
        self._aggregator = self._member.offered_by(aggregate)
        share = AUDITS * (ALARMED if alarmed else 1) / self._cohort.size
        drawn = int.from_bytes(self._entropy(DRAW_BYTES), "big") < share * (1 << 8 * DRAW_BYTES)
        return self._ask(now) if drawn or self._accusers else []

    def handle(self, event: CohortEvent, now: float) -> list[Action]:
        match event:
            case Message(body=AuditAnswer() as answer, sender=sender) if sender == self._aggregator:
                return self._on_answer(answer)
            case Message(body=Accusation(), sender=sender):
                self._cohort.index(sender)
                self._accusers[sender] = None
                return self._ask(now) if self._aggregate else []
            case Computed((_, _, "audit"), Audited() as audited):
                return self._judge(audited)
            case TimerFired((_, _, "audit")) if self._state is State.ASKING:
                return self._unanswered()
        return []

    def _ask(self, now: float) -> list[Action]:
        me = self._cohort.members[self._member.index]
        if self._state is not State.IDLE or self._aggregator in {None, me} or self._member.sealed is None:
            return []
        assert self._aggregator is not None
        self._state = State.ASKING
        until = now + AUDIT_STEPS * self._member.step_s
        return [Send(self._aggregator, self._frame(AuditRequest())), SetTimer(self._tag(), until)]

    def _on_answer(self, answer: AuditAnswer) -> list[Action]:
        sealed = self._member.sealed
        if self._state is not State.ASKING or sealed is None or answer.owner in self._secrets:
            return []
        try:
            sealed.refuse_unfit(answer.owner, answer.vector, answer.secret)
        except PeerViolation:
            return self._unanswered()
        self._vectors[answer.owner], self._secrets[answer.owner] = answer.vector, answer.secret
        if len(self._secrets) < len(sealed.commitments):
            return []
        self._state = State.ADDING
        job = AuditJob(sealed, dict(self._vectors), dict(self._secrets))
        return [CancelTimer(self._tag()), Compute(self._tag(), job)]

    def _judge(self, audited: Audited) -> list[Action]:
        if self._state is not State.ADDING or self._aggregator is None:
            return []
        body = self._member.compose_body(audited.sums, audited.ranges)
        self._over()
        if aggregate_id(body) == self._aggregate:
            return [Cleared(self._cohort.id, tuple(self._accusers))]
        me = self._cohort.members[self._member.index]
        accusation = self._frame(Accusation())
        told = [Send(peer, accusation) for peer in self._cohort.members if peer != me]
        return [*told, Forged(self._cohort.id, self._aggregator)]

    def _unanswered(self) -> list[Action]:
        assert self._aggregator is not None
        self._over()
        return [CancelTimer(self._tag()), Unanswered(self._cohort.id, self._aggregator)]

    def _over(self) -> None:
        self._state = State.OVER
        self._vectors.clear()
        self._secrets.clear()

    def _frame(self, body: MessageBody) -> bytes:
        return sign_frame(self._identity, self._cohort.swarm.id, body, cohort=self._cohort.id)

    def _tag(self) -> Tag:
        name: tuple[Hashable, ...] = ("sum", self._cohort.id, "audit")
        return name
