"""The member's side of an audit (`gossip.secure_sum.audit`): of a sum that holds, or of one that it has signed.

    state   on                                 does                             goes to
    ------  ---------------------------------  -------------------------------  -------
    Idle    the sum holds, and it is drawn     AUDIT_REQUEST                    Asking
            two sums, one of which it signed   the same, to the other's author  Asking
            ACCUSATION of one of these         the same, to the accuser         Asking
            its aggregator has forged another  AUDIT_REQUEST                    Asking
    Asking  AUDIT_ANSWER, the last of all      adds up (a job)                  Adding
            one that does not fit, or no more  by an accuser: asks the
                                               aggregator; by it: Unanswered    Unanswered
            no more, by a known forger         Unanswered, ACCUSATION to all    Proven
    Unanswered  it has forged another          ACCUSATION to all                Proven
    Adding  the same body                      Cleared, which names accusers    Over
            another one                        ACCUSATION to all, Forged        Proven
    Proven  AUDIT_REQUEST                      shows what proves it
            ACCUSATIONs, t with its own, of    TakenBack: it does not count
            a sum that holds

Whoever has forged one sum is asked for the others of which this device knows, and has to show them: each
member that has found it out itself takes back what it does not show.

A member that is its cohort's aggregator audits nothing that it has shown itself: of two sums it
knows that the other one is forged.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from crypto.certificates import certify
from crypto.half_aggregation import HalfAggregate, summable
from crypto.identity import Identity, verify
from gossip.body import aggregate_id
from gossip.errors import PeerViolation
from gossip.events import CancelTimer, Compute, Computed, Send, SetTimer, Tag, TimerFired
from gossip.frames import Message, sign_frame
from gossip.history.aggregate import body_statement
from gossip.history.strikes import retract
from gossip.quorum import pack_members
from gossip.secure_sum.audit import ALARMED, AUDIT_STEPS, AUDITS, OUTVOTED, Audited, AuditJob
from gossip.secure_sum.member import CohortEvent, Member
from gossip.secure_sum.messages import Accusation, AuditAnswer, AuditRequest
from gossip.wire import Wire

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
    true: bytes  # the id of the body that it should have published


@dataclass(frozen=True, slots=True)
class Cleared:
    """The sum is right. Whoever accused its aggregator is wrong."""

    cohort: bytes
    accusers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TakenBack:
    """T members have taken the sum back: a statement for `gossip.history.strikes`."""

    statement: bytes


Verdict: TypeAlias = Unanswered | Forged | Cleared
Action: TypeAlias = Send | SetTimer | CancelTimer | Compute | Verdict | TakenBack


class State(Enum):
    IDLE = "idle"
    ASKING = "asking"
    ADDING = "adding"
    PROVEN = "proven"
    UNANSWERED = "unanswered"
    OVER = "over"


class Auditor:
    def __init__(self, member: Member, identity: Identity, entropy: Callable[[int], bytes]) -> None:
        self._member = member
        self._cohort = member.cohort
        self._identity = identity
        self._entropy = entropy
        self._state = State.IDLE
        self._aggregate = b""  # the sum that is judged: it holds, or this member has signed it
        self._holds = b""
        self._aggregator: bytes | None = None  # who showed it
        self._asked: bytes | None = None
        self._accusations: dict[bytes, Accusation] = {}  # by member
        self._accusers: list[bytes] = []  # of the one that is judged; an aggregator by showing another sum
        self._signed: dict[int, bytes] = {}  # by place: that the sum is to be taken back
        self._shown: dict[bytes, None] = {}  # to whom the proof was shown
        self._taken_back = False
        self._is_forger = False  # its aggregator, as this device has found in another cohort
        self._vectors: dict[int, bytes] = {}
        self._secrets: dict[int, bytes] = {}

    def held(self, aggregate: bytes, now: float, *, alarmed: bool, outvoted: bool = False) -> list[Action]:
        """The sum holds. Draws whether to audit it."""
        if self._holds:
            return []
        self._holds = aggregate
        if self._aggregate:
            return self._take_back()
        accusers = self._judges(aggregate)
        if accusers:
            return self._ask(accusers[0], now)
        share = AUDITS * (ALARMED if alarmed else 1) / self._cohort.size
        share = max(share, OUTVOTED if outvoted else 0.0)
        drawn = int.from_bytes(self._entropy(DRAW_BYTES), "big") < share * (1 << 8 * DRAW_BYTES)
        return self._ask(self._aggregator, now) if drawn else []

    def disputed(self, other: bytes, now: float) -> list[Action]:
        """This member has signed a sum, and `other`, an aggregator, shows another one: which of them is forged?"""
        signed = self._member.body
        if self._aggregate or signed is None:
            return []
        self._judges(signed.id)
        if self._me == self._aggregator:
            self._over()
            return [Cleared(self._cohort.id, (other,))]
        if self._me == other:
            return self._prove(self._member.offered[other].id)
        self._accusers.append(other)
        return self._ask(other, now)

    def suspected(self, forger: bytes, now: float) -> list[Action]:
        """This device has found that it forged another cohort's sum."""
        if not self._holds or self._is_forger or forger != self._aggregator:
            return []
        self._is_forger = True
        return self._condemn() if self._state is State.UNANSWERED else self._ask(forger, now)

    def _condemn(self) -> list[Action]:
        """Whoever has forged before, and shows nothing, is taken to have forged."""
        return [*self._accuse(), *self._take_back()]

    def _judges(self, aggregate: bytes) -> list[bytes]:
        """From now on this one. Returns who has accused its aggregator."""
        self._aggregate = aggregate
        self._aggregator = self._member.offered_by(aggregate)
        self._accusers = [peer for peer, said in self._accusations.items() if said.aggregate == aggregate]
        for peer in self._accusers:
            self._signed[self._cohort.index(peer)] = self._accusations[peer].signature
        return self._accusers

    def handle(self, event: CohortEvent, now: float) -> list[Action]:
        match event:
            case Message(body=AuditAnswer() as answer, sender=sender) if sender == self._asked:
                return self._on_answer(answer, now)
            case Message(body=AuditRequest(), sender=sender):
                return self._show(sender)
            case Message(body=Accusation() as accusation, sender=sender):
                return self._on_accusation(sender, accusation, now)
            case Computed((_, _, "audit"), Audited() as audited):
                return self._judge(audited)
            case TimerFired((_, _, "audit")) if self._state is State.ASKING:
                return self._unanswered(now)
        return []

    def _ask(self, whom: bytes | None, now: float) -> list[Action]:
        nothing = whom in {None, self._me} or self._me == self._aggregator or self._member.sealed is None
        if nothing or self._state is not State.IDLE:
            return []
        assert whom is not None
        self._state, self._asked = State.ASKING, whom
        until = now + AUDIT_STEPS * self._member.step_s
        return [Send(whom, self._frame(AuditRequest())), SetTimer(self._tag(), until)]

    def _on_answer(self, answer: AuditAnswer, now: float) -> list[Action]:
        sealed = self._member.sealed
        if self._state is not State.ASKING or sealed is None or answer.owner in self._secrets:
            return []
        try:
            sealed.refuse_unfit(answer.owner, answer.vector, answer.secret)
        except PeerViolation:
            return self._unanswered(now)
        self._vectors[answer.owner], self._secrets[answer.owner] = answer.vector, answer.secret
        if len(self._secrets) < len(sealed.commitments):
            return []
        self._state = State.ADDING
        job = AuditJob(sealed, dict(self._vectors), dict(self._secrets))
        return [CancelTimer(self._tag()), Compute(self._tag(), job)]

    def _on_accusation(self, sender: bytes, accusation: Accusation, now: float) -> list[Action]:
        """An accuser has what proves it, and is asked rather than an aggregator that will not answer a second time."""
        place = self._cohort.index(sender)
        stated = self._stated(accusation.aggregate)
        if not verify(sender, "retract", stated, accusation.signature) or not summable(
            sender, accusation.signature
        ):
            raise PeerViolation("ACCUSATION: the signature does not hold")
        self._accusations[sender] = accusation
        signed = self._member.body
        if not self._aggregate and signed is not None and signed.id == accusation.aggregate:
            self._judges(accusation.aggregate)
        if accusation.aggregate != self._aggregate:
            return []  # the sum is not known here yet, or is another one
        self._signed[place] = accusation.signature
        if sender not in self._accusers:
            self._accusers.append(sender)
        return [*self._ask(sender, now), *self._take_back()]

    def _judge(self, audited: Audited) -> list[Action]:
        if self._state is not State.ADDING:
            return []
        body = self._member.compose_body(audited.sums, audited.ranges)
        if aggregate_id(body) == self._aggregate:
            self._over()
            return [Cleared(self._cohort.id, tuple(self._accusers))]
        return self._prove(aggregate_id(body))

    def _prove(self, true: bytes) -> list[Action]:
        told = self._accuse()
        forger = self._aggregator or self._cohort.aggregators[0]
        return [*told, Forged(self._cohort.id, forger, true), *self._take_back()]

    def _accuse(self) -> list[Action]:
        self._state = State.PROVEN
        signature = self._identity.sign("retract", self._stated(self._aggregate))
        self._signed[self._member.index] = signature
        accusation = self._frame(Accusation(self._aggregate, signature))
        return [Send(peer, accusation) for peer in self._cohort.members if peer != self._me]

    def _take_back(self) -> list[Action]:
        """T members have found that the sum is not theirs: it does not count (`gossip.history.strikes`)."""
        enough = self._state is State.PROVEN and len(self._signed) >= self._cohort.threshold
        if not enough or self._holds != self._aggregate or self._taken_back:
            return []
        self._taken_back = True
        half = certify("retract", self._stated(self._aggregate), self._cohort.members, self._signed)
        signers = pack_members(sorted(self._signed), self._cohort.size)
        return [TakenBack(retract(self._cohort.swarm.id, self._aggregate, signers, HalfAggregate(*half)))]

    def _show(self, sender: bytes) -> list[Action]:
        """What proves a forgery, once to each member."""
        self._cohort.index(sender)
        if self._state is not State.PROVEN or sender in self._shown:
            return []
        self._shown[sender] = None
        return [
            Send(sender, self._frame(AuditAnswer(owner, self._vectors[owner], self._secrets[owner])))
            for owner in self._secrets
        ]

    def _unanswered(self, now: float) -> list[Action]:
        """An accuser that shows nothing may be a liar, so the aggregator is asked; one that is silent as well is blamed."""
        asked = self._asked
        assert asked is not None
        self._vectors.clear()
        self._secrets.clear()
        if asked == self._aggregator:
            self._state = State.UNANSWERED
            told = self._condemn() if self._is_forger else []
            return [CancelTimer(self._tag()), Unanswered(self._cohort.id, asked), *told]
        self._state = State.IDLE
        return [CancelTimer(self._tag()), *self._ask(self._aggregator, now)]

    @property
    def _me(self) -> bytes:
        return self._cohort.members[self._member.index]

    def _stated(self, aggregate: bytes) -> bytes:
        return body_statement(self._cohort.swarm.id, self._cohort.id, aggregate)

    def _over(self) -> None:
        self._state = State.OVER
        self._vectors.clear()
        self._secrets.clear()

    def _frame(self, body: Wire) -> bytes:
        return sign_frame(self._identity, self._cohort.swarm.id, body, cohort=self._cohort.id)

    def _tag(self) -> Tag:
        name: tuple[Hashable, ...] = ("sum", self._cohort.id, "audit")
        return name
