"""What two devices tell each other before anything else, where certificates say who belongs (`gossip.membership.admission`).

    a connection  ->  CREDENTIAL: my chain, and a digest of all statements that I know   (both sides, at once)
    its chain holds, or was known to   ->  it is *proven*: it is greeted, and what it says is acted upon
    it does not, or has not come within PROVE_S   ->  DENIED with the reason, and DENY_S later the connection ends
    the digests differ   ->  HELD: 8 bytes of each id   ->  STATEMENTS: those that the asker lacks

To a device that is not proven nothing else is told, and what else it says is dropped unread: it may be honest and early. New
statements go to all proven neighbours at once, and from them to theirs: an admission, so that the newcomer is not refused
further on; a revocation, so that each neighbour of the revoked device ends its connection. What is lost is found by the digest, which
neighbours tell each other again whenever the clock is told, about once a minute; then those whose time is over are let go as well.

Statements are exchanged before histories are: a connection delivers in order, HELD goes before ALIVE, and so the answer to
it comes before any aggregate that the same neighbour sends. An aggregate with an unknown member in it has its bringer asked again.

Of itself this device can say who it admits (the statement is durable before it is handed out, so a number is never
used for two devices, whatever crashes), whom it revokes, and with whom it alone will have nothing to do (`Block`).

A peer is WAITING (until), PROVEN or DENIED (until); one that is neither connected nor connecting is in no state.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from crypto.identity import Identity, peer_id
from gossip.errors import PeerViolation
from gossip.events import (
    Admit,
    Answered,
    Block,
    Clock,
    Disconnect,
    Drop,
    PeerDown,
    PeerUp,
    Persist,
    Persisted,
    PersistFailed,
    Put,
    Record,
    Report,
    Revoke,
    Send,
    SetTimer,
    TimerFired,
)
from gossip.frames import Message, channel_frame
from gossip.manifest import Swarm
from gossip.membership.admission import Admission
from gossip.membership.messages import STATEMENTS_TOLD_MAX, Credential, Denied, HeldStatements, Statements
from gossip.membership.statements import Refusal, Why, issue, parsed, revoke

PROVE_S = 10.0  # for a new neighbour to show a chain that holds
DENY_S = 1.0  # for DENIED to arrive before its connection ends
COMPARE_S = 5.0  # between two comparisons, and two answers, with one neighbour
DENIALS_KEPT = 256  # refused devices, of each of whom one line is logged
BLOCKED_MAX = 1024
BLOCKED_TABLE = "blocked"
ASKED_MAX = 64  # statements of this device on their way to its disk

Question: TypeAlias = Admit | Revoke | Block
Event: TypeAlias = Message | PeerUp | PeerDown | TimerFired | Clock | Question | Persisted | PersistFailed


class Stage(Enum):
    WAITING = "waiting"
    PROVEN = "proven"
    DENIED = "denied"


@dataclass(slots=True)
class Visitor:
    """A connected peer."""

    stage: Stage
    until: float = 0.0  # but for the proven
    reason: str = ""  # of the end
    compared_at: float = -COMPARE_S
    answered_at: float = -COMPARE_S


@dataclass(frozen=True, slots=True)
class Proven:
    """A peer is to be greeted, and heard from now on."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Expelled:
    """A proven peer is no neighbour any more, before its connection has ended."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Who belongs may be others than before."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An own statement, until it is durable."""

    question: Question
    statements: tuple[bytes, ...]
    serial: int | None = None


Action: TypeAlias = Send | Disconnect | SetTimer | Persist | Report | Answered | Proven | Expelled | Changed


class Handshake:
    def __init__(
        self,
        swarm: Swarm,
        identity: Identity,
        remembered: Sequence[bytes],
        blocked: Iterable[bytes],
        credential: Sequence[bytes],
    ) -> None:
        """`remembered` statements and `blocked` devices are from before, a `credential` is what a new device begins with.

        PeerViolation for a credential that is no statement of this swarm. Of what was remembered, peers' words all of them, what
        is none by the rules of today is passed over: no device fails to start for it.
        """
        self._swarm = swarm
        self._identity = identity
        self._me = identity.public_key
        self._certifies = swarm.manifest.certifies
        self.admission = Admission(swarm, self._me)
        held = self._that_hold(remembered)
        self._lapsed = len(remembered) - len(held)
        self.admission.add(held)
        self._given = self.admission.add(credential)
        self.blocked = dict.fromkeys(blocked)  # at most BLOCKED_MAX; asked, in order
        self.denied: Refusal | None = None  # by a member, as long as none has greeted this device since
        self._unix_s = 0  # until the clock is told, nobody is proven
        self._visitors: dict[bytes, Visitor] = {}  # as many as there are connections
        self._told: dict[tuple[bytes, Why], None] = {}  # DENIALS_KEPT
        self._asked: dict[int, Asked] = {}  # by number, at most ASKED_MAX
        self._asked_before = 0

    def start(self) -> list[Action]:
        given: list[Action] = [Persist(None, self.admission.records(self._given))] if self._given else []
        lapsed = [Report("statements_passed_over", {"count": self._lapsed})] if self._lapsed else []
        return [*given, *lapsed]

    def _that_hold(self, remembered: Sequence[bytes]) -> list[bytes]:
        held = []
        for raw in remembered:
            with contextlib.suppress(PeerViolation):
                parsed(self._swarm.id, raw)
                held.append(raw)
        return held

    # --- what the core asks -----------------------------------------------------------------------------------

    def hears(self, peer: bytes) -> bool:
        """Whether what this peer says is acted upon. Where no certificates admit, each message's author is judged."""
        if not self._certifies or peer == self._me:
            return True
        visitor = self._visitors.get(peer)
        return visitor is not None and visitor.stage is Stage.PROVEN

    def is_here(self, peer: bytes) -> bool:
        return peer in self._visitors

    def belongs(self, peer: bytes) -> bool:
        return self._unix_s > 0 and self.admission.belongs(peer, self._unix_s)

    def greeted(self) -> None:
        """A member has proven this device."""
        self.denied = None

    def warning(self) -> str:
        """Why this device is refused, or will be, and what to do; nothing if it is not."""
        if not self._certifies or not self._unix_s:
            return ""
        refused = self.admission.judge(self._me, self._unix_s) or self.denied
        if refused is None:
            return ""
        mine = refused.of("this device's")
        return f"{mine}; ask a member for a new invitation, then: gossamer join CODE"

    # --- what happens -----------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        match event:
            case PeerUp(peer):
                return self._on_up(peer, now)
            case PeerDown(peer):
                self._visitors.pop(peer, None)
            case TimerFired():
                return self._on_timer(now)
            case Clock(unix_s):
                self._unix_s = unix_s
                return self._on_clock(now) if self._certifies else []
            case Admit() | Revoke() | Block():
                return self._on_question(event)
            case Persisted(("admission", int(number))):
                return self._on_durable(number, now)
            case PersistFailed(("admission", int(number)), reason):
                asked = self._asked.pop(number)
                return [Answered(asked.question, f"it could not be stored: {reason}")]
            case Message(sender=peer, body=body):
                if self._certifies and peer in self._visitors:
                    return self._on_message(peer, body, now)
        return []

    def _on_message(self, peer: bytes, body: object, now: float) -> list[Action]:
        visitor = self._visitors[peer]
        match body:
            case Credential(chain, digest):
                return self._on_credential(peer, visitor, chain, digest, now)
            case Denied(why, at_s):
                return self._on_denied(peer, Refusal(Why(why), at_s))
            case HeldStatements(ids) if visitor.stage is Stage.PROVEN:
                # An answer is up to two megabytes: nobody gets it over and over.
                if now - visitor.answered_at < COMPARE_S:
                    return []
                visitor.answered_at = now
                return self._tell(peer, self.admission.without(ids))
            case Statements(statements) if visitor.stage is Stage.PROVEN:
                return self._take_in(statements, peer, now)
        return []

    def _on_up(self, peer: bytes, now: float) -> list[Action]:
        if peer in self.blocked:
            return [Disconnect(peer, "blocked on this device")]
        if not self._certifies:
            self._visitors[peer] = Visitor(Stage.PROVEN)
            return [Proven(peer)]
        mine = Credential(self.admission.chain(self._me), self.admission.digest())
        told = Send(peer, channel_frame(mine))
        if self.belongs(peer):
            self._visitors[peer] = Visitor(Stage.PROVEN)
            return [told, Proven(peer)]
        return [told, *self._set(peer, Visitor(Stage.WAITING, now + PROVE_S))]

    def _on_credential(
        self, peer: bytes, visitor: Visitor, chain: tuple[bytes, ...], digest: bytes, now: float
    ) -> list[Action]:
        if visitor.stage is Stage.DENIED:
            return []
        try:
            actions = self._take_in(chain, peer, now)
        except PeerViolation as violation:
            return self._deny(peer, Refusal(Why.FORGED), now, str(violation))
        if visitor.stage is Stage.WAITING and self._unix_s:
            refused = self.admission.judge(peer, self._unix_s)
            if refused is not None:
                return [*actions, *self._deny(peer, refused, now)]
            visitor.stage = Stage.PROVEN
            actions += [Proven(peer)]
        if visitor.stage is Stage.PROVEN and digest != self.admission.digest():
            # Before the greeting, and so before anything about histories.
            actions = [*self.compare(peer, now), *actions]
        return actions

    def compare(self, peer: bytes, now: float) -> list[Action]:
        """Ask a proven neighbour for the statements that this device lacks."""
        visitor = self._visitors.get(peer)
        if visitor is None or visitor.stage is not Stage.PROVEN or now - visitor.compared_at < COMPARE_S:
            return []
        visitor.compared_at = now
        return [Send(peer, channel_frame(HeldStatements(self.admission.ids())))]

    def _on_denied(self, peer: bytes, refused: Refusal) -> list[Action]:
        """Believed of whoever was ever a member: a stranger's word about this device's membership is worth nothing."""
        if not self.admission.certified(peer) or self.denied == refused:
            return []
        self.denied = refused
        reason = refused.of("this device's")
        by = peer_id(peer)
        return [
            Report(
                "denied",
                {"by": by, "reason": reason, "next": "ask a member for an invitation: gossamer join CODE"},
            )
        ]

    def _on_timer(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for peer, visitor in list(self._visitors.items()):
            if visitor.stage is Stage.PROVEN or visitor.until > now:
                continue
            if visitor.stage is Stage.WAITING:
                refused = self.admission.judge(peer, self._unix_s) or Refusal(Why.UNKNOWN)
                actions += self._deny(peer, refused, now, f"it showed none within {PROVE_S:.0f} s")
            else:
                del self._visitors[peer]
                actions.append(Disconnect(peer, visitor.reason))
        return [*actions, *self._timer()]

    def _on_clock(self, now: float) -> list[Action]:
        """Whose time is over goes; who connected before the time was known comes in; all compare."""
        actions: list[Action] = [Changed(), *self._review(now)]
        same = channel_frame(Credential((), self.admission.digest()))
        for peer, visitor in self._visitors.items():
            if visitor.stage is Stage.WAITING and self.belongs(peer):
                visitor.stage = Stage.PROVEN
                actions.append(Proven(peer))
            elif visitor.stage is Stage.PROVEN:
                actions.append(Send(peer, same))
        return actions

    def _review(self, now: float) -> list[Action]:
        """Let go of every proven neighbour that does not belong any more."""
        actions: list[Action] = []
        for peer, visitor in list(self._visitors.items()):
            refused = self.admission.judge(peer, self._unix_s)
            if visitor.stage is Stage.PROVEN and refused is not None:
                actions += self._deny(peer, refused, now)
        return actions

    def _deny(self, peer: bytes, refused: Refusal, now: float, more: str = "") -> list[Action]:
        visitor = self._visitors[peer]
        reason = refused.of("its") + (f": {more}" if more else "")
        actions: list[Action] = [Send(peer, channel_frame(Denied(int(refused.why), refused.at_s)))]
        if visitor.stage is Stage.PROVEN:
            actions.append(Expelled(peer, reason))
        if (peer, refused.why) not in self._told:
            self._told[peer, refused.why] = None
            if len(self._told) > DENIALS_KEPT:
                del self._told[next(iter(self._told))]
            actions.append(Report("refused", {"peer": peer_id(peer), "reason": reason}))
        return [*actions, *self._set(peer, Visitor(Stage.DENIED, now + DENY_S, reason))]

    def _set(self, peer: bytes, visitor: Visitor) -> list[Action]:
        self._visitors[peer] = visitor
        return self._timer()

    def _timer(self) -> list[Action]:
        ends = [visitor.until for visitor in self._visitors.values() if visitor.stage is not Stage.PROVEN]
        return [SetTimer(("admission", "visitors"), min(ends))] if ends else []

    # --- statements -------------------------------------------------------------------------------------------

    def _take_in(self, statements: tuple[bytes, ...], source: bytes, now: float) -> list[Action]:
        """Keep what is news, and hand it on."""
        news = self.admission.add(statements)
        if not news:
            return []
        # By the revoked, too: they are to hear of it before their connections end.
        told = [
            action
            for peer, visitor in self._visitors.items()
            if peer != source and visitor.stage is Stage.PROVEN
            for action in self._tell(peer, news)
        ]
        kept = Persist(None, self.admission.records(news))
        return [kept, *told, Changed(), *self._review(now)]

    def _tell(self, peer: bytes, statements: tuple[bytes, ...]) -> list[Action]:
        most = STATEMENTS_TOLD_MAX
        parts = [statements[at : at + most] for at in range(0, len(statements), most)]
        return [Send(peer, channel_frame(Statements(part))) for part in parts]

    # --- what its owner asks ----------------------------------------------------------------------------------

    def _on_question(self, question: Question) -> list[Action]:
        """Answered when what follows from it is durable; at once where nothing does."""
        match question:
            case Admit():
                words, asked = self._admit(question)
            case Revoke():
                words, asked = self._revoke(question)
            case Block(device, blocked):
                words, asked = self._block(device, blocked=blocked), Asked(question, ())
        if len(self._asked) >= ASKED_MAX:
            words = "too much is being stored; ask again"
        if words:
            return [Answered(question, words)]
        self._asked_before += 1
        self._asked[self._asked_before] = asked
        records: tuple[Record, ...] = self.admission.records(asked.statements)
        if isinstance(question, Block):
            key = question.device
            records = (Put(BLOCKED_TABLE, key, b"") if question.blocked else Drop(BLOCKED_TABLE, key),)
        return [Persist(("admission", self._asked_before), records)]

    def _admit(self, question: Admit) -> tuple[str, Asked]:
        none = Asked(question, ())
        device, name = question.device, self._swarm.manifest.name
        if not self._certifies:
            return f'the swarm "{name}" does not admit by invitation', none
        if device in {self._me, self._swarm.manifest.founder}:
            return "a device does not invite itself, nor the founder", none
        left = self.admission.depth_left(self._me, self._unix_s) if self._unix_s else -1
        if left < 1:
            why = self.warning() or "its certificate leaves it no further generation"
            return f"this device cannot admit others: {why}", none
        serials = [asked.serial for asked in self._asked.values() if asked.serial is not None]
        same = [
            asked.serial
            for asked in self._asked.values()
            if isinstance(asked.question, Admit) and asked.question.device == device
        ]
        serial = same[0] if same else self.admission.serial_for(device, serials)
        if serial is None:
            most = self._swarm.manifest.invitations.invites_max
            return f"this device has given all of its {most} invitations", none
        if question.expires_s <= self._unix_s:
            return "the invitation would have expired already", none
        depth = max(0, min(question.depth, left - 1))
        raw = issue(self._identity, self._swarm.id, device, serial, self._unix_s, question.expires_s, depth)
        return "", Asked(question, (raw,), serial)

    def _revoke(self, question: Revoke) -> tuple[str, Asked]:
        if not self._certifies:
            name = self._swarm.manifest.name
            words = f'the swarm "{name}" does not admit by certificate, so nothing can be revoked; see: gossamer peers block'
            return words, Asked(question, ())
        if not self.admission.certified(question.device):
            return "no device of this swarm is known by that key", Asked(question, ())
        if not self.admission.may_revoke(self._me, question.device):
            words = (
                "only the founder, and whoever is above a device in its chain of invitations, can remove it; "
                "this device alone can: gossamer peers block"
            )
            return words, Asked(question, ())
        return "", Asked(question, (revoke(self._identity, self._swarm.id, question.device),))

    def _block(self, device: bytes, *, blocked: bool) -> str:
        if device == self._me:
            return "a device does not block itself"
        if blocked and device not in self.blocked and len(self.blocked) >= BLOCKED_MAX:
            return f"{BLOCKED_MAX} devices are blocked already"
        return ""

    def _on_durable(self, number: int, now: float) -> list[Action]:
        asked = self._asked.pop(number)
        question = asked.question
        if not isinstance(question, Block):
            news = self._take_in(asked.statements, self._me, now)
            return [*news, Answered(question, "", self.admission.chain(question.device))]
        if not question.blocked:
            self.blocked.pop(question.device, None)
            return [Answered(question)]
        self.blocked[question.device] = None
        ended: list[Action] = []
        if self._visitors.pop(question.device, None) is not None:
            ended = [
                Expelled(question.device, "blocked"),
                Disconnect(question.device, "blocked on this device"),
            ]
        return [*ended, Answered(question)]
