"""One node without a world: the protocols composed, still sans-IO.

    TrainerReady -> Train -> Eligible -> READY -> ROSTER -> (secure sum) -> Certified -> Learned -> fold -> Rebase

A node trains from its replica, or from where that is going (`gossip.history.fold`, foresight). When a local phase has done enough
steps it says READY and goes on training; when its cohort starts, the phase is frozen, its delta and the residual become
the contribution, and the next phase begins at once, or, in a large swarm, when the lottery is about to draw this device
again: until then it rests.
Every aggregate that becomes known is folded into the replica, and the running phase is rebased on the new model, so that
training never stands on an old one. One cohort at a time: a second one beside it would share its round.

The messages of a peer are acted upon only if the swarm admits their author and the signature holds. A peer that breaks
the rules VIOLATIONS_MAX times is disconnected, and shunned for a time that doubles each time: its connections end at once,
nobody dials it, and what it had sent before is dropped unread. Nothing that it sent has changed anything.

No peer's words end this node. What raises while they are handled, and not as a PeerViolation, is a bug of ours that this peer
has found: it counts as its violation, and is told as a "fault" with the place, so that it can be mended. What had been decided
by then, and what else was still to be decided, goes on. The same holds for what a peer said earlier and a timer, the disk or a
job comes back to; there nobody is to blame, and a timer rings once more, as it may be the last of its kind.
"""

import contextlib
import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from crypto.identity import Identity, peer_id
from gossip import ledger
from gossip.body import ROUND_MAX
from gossip.codec.blocks import Integers, Layout
from gossip.codec.codec import Contribution, codec_of
from gossip.codec.error_feedback import Books
from gossip.codec.lowrank import prior
from gossip.codec.ranges import MEASURED, MEASURED_ROUNDS
from gossip.cohort.messages import Ready, Roster
from gossip.cohort.rendezvous import Close, Introduce, Rendezvous
from gossip.cohort.roster import Cohort, Secrets, open_roster, ready_frames, refuse_unfit_keys, write_roster
from gossip.cohort.sortition import Turns
from gossip.cohort.suspicion import Suspicion
from gossip.errors import PeerViolation, place_of
from gossip.events import (
    Abandon,
    Action,
    Admit,
    Answered,
    Block,
    CancelTimer,
    Clock,
    Compute,
    Computed,
    Dial,
    Disconnect,
    Drop,
    Eligible,
    Evaluate,
    Evaluated,
    Event,
    Freeze,
    Frozen,
    Kept,
    Look,
    Looked,
    Pause,
    PeerDown,
    PeerUp,
    Persist,
    Persisted,
    PersistFailed,
    Put,
    Readdressed,
    Rebase,
    Received,
    Record,
    Report,
    Resume,
    Revoke,
    Send,
    SendFailed,
    SetTimer,
    Strike,
    Tag,
    TellGuests,
    TimerFired,
    Train,
    TrainerFailed,
    TrainerReady,
    Woke,
)
from gossip.fields import SHORT_BYTES
from gossip.frames import (
    ADMISSION_KINDS,
    Kind,
    Message,
    admits,
    channel_frame,
    is_alive,
    open_frame,
    sign_frame,
)
from gossip.history import checkpoint, public_announcement
from gossip.history.aggregate import STATE_EVERY, Aggregate, Verified, check, contributors_of, write
from gossip.history.checkpoint_sync import Adopted, CatchUp, Doubt
from gossip.history.dag import Added, History, Waiting
from gossip.history.fold import UNIT, Replica, increment, step_at, usual_contributors
from gossip.history.messages import Aggregates, Announce
from gossip.history.messages import Strikes as StrikesMessage
from gossip.history.strikes import STRIKERS, TOLD_MAX, Effective, Retraction, Strikes, strike, unsigned
from gossip.history.strikes import TABLE as STRIKES_TABLE
from gossip.history.strikes import read as read_strike
from gossip.history.sync import Learned, Opener, Plain, Sync, Uncertified
from gossip.ledger import Read
from gossip.manifest import MASKS_OFF, Swarm
from gossip.membership.admission import Crowd, crowd
from gossip.membership.handshake import Changed, Expelled, Handshake, Proven
from gossip.membership.messages import CREDENTIAL_BYTES, Alive
from gossip.membership.view import Membership, Settings
from gossip.quorum import read_members, unpack_members
from gossip.secure_sum.aggregator import Aggregator
from gossip.secure_sum.audit import ALARM_ROUNDS, KEPT_MAX
from gossip.secure_sum.auditor import Auditor, Cleared, Forged, TakenBack, Unanswered, Verdict
from gossip.secure_sum.harm import UNKNOWN, Judgement, part_in
from gossip.secure_sum.member import (
    Certified,
    Closed,
    CohortEvent,
    Contribute,
    Contributed,
    Disputed,
    Failed,
    Inspect,
    Inspected,
    Member,
    Outcome,
    Refused,
    Rejected,
    Settled,
    Spend,
    State,
    Terms,
)
from gossip.secure_sum.messages import Decline, Result
from gossip.wire import pack
from node.ports import Entropy

WAITING_MAX = 32  # messages to a peer that is being dialled, and peers that are
EARLY_MAX = 128  # messages of a cohort whose roster has not come yet, EARLY_BYTES each
EARLY_OF_ONE = 8  # of them from one member, the newest
EARLY_BYTES = 1 << 16  # no vector: before its roster has come, a member is waited for with SHARES at most
COHORTS_MAX = 16  # remembered, the running one among them, to answer members who were away
VIOLATIONS_MAX = 16  # of one peer, until it is disconnected
OFFENDERS_MAX = 1024
STRIKING_MAX = 64
STRIKES_S = 5.0  # between two times that one neighbour is told all statements
OFFERS_MAX = 2  # READYs whose secrets are kept
SHUN_S = (10.0, 1280.0)  # that a disconnected offender is shunned, the first time and at most
FORGET_S = 3600.0  # after which it begins anew
EVALUATE_S = 2.0  # between two evaluations
FAULT_S = 10.0  # until a timer that raised rings again
FAULT_CHARACTERS = 500  # of what an exception says, in the log

CHECKPOINT_KINDS = {Kind.CHECKPOINT_REQUEST, Kind.CHECKPOINT_OFFER, Kind.CHECKPOINT_PART}
SYNC_KINDS = CHECKPOINT_KINDS | {
    Kind.ALIVE,
    Kind.COMPARE,
    Kind.HAVE,
    Kind.PULL,
    Kind.AGGREGATES,
    Kind.ANNOUNCE,
}
Inner: TypeAlias = (  # what one protocol wants of another, and the world never hears of
    Close
    | Introduce
    | Contribute
    | Spend
    | Settled
    | Closed
    | Inspect
    | Refused
    | Disputed
    | Failed
    | Rejected
    | Verdict
    | TakenBack
    | Certified
    | Learned
    | Proven
    | Expelled
    | Changed
    | Uncertified
    | Adopted
)
Step: TypeAlias = Action | Inner
# A short cut for those that never stay inside. By type: to ask isinstance() whether a msgspec struct is what it is not takes long.
OUTSIDE = {SetTimer, CancelTimer, Report, Persist, Rebase, Answered, Train, Evaluate, Look, Pause, Resume}
MEMBERSHIP_KINDS = {Kind.PRESENCE, Kind.GREETING}


@dataclass(slots=True)
class Shunned:
    """A peer that was disconnected for what it sent."""

    until: float
    for_s: float


def brought_by(event: Event | None) -> bytes | None:
    """The peer whose words an event carries."""
    match event:
        case Received(peer):
            return peer
    return None


@dataclass(slots=True)
class LocalPhase:
    """A stretch of local training, from one base until a cohort takes its delta."""

    number: int
    began_round: int
    eligible_at: float  # at the earliest: phases of equal time, whatever a device's speed
    steps: int = 0
    eligible: bool = False
    ready_at: float = 0.0  # when it became eligible
    freezing_for: bytes | None = None  # the cohort that waits for the delta


@dataclass(slots=True)
class Running:
    """A cohort of this node, until and after its end."""

    member: Member
    aggregator: Aggregator | None
    auditor: Auditor | None = None


@dataclass(frozen=True, slots=True)
class PendingRoster:
    """A roster whose parents are still being fetched."""

    message: Message
    until: float


class NodeCore:
    def __init__(
        self,
        *,
        identity: Identity,
        swarm: Swarm,
        initial: NDArray[np.int64],
        settings: Settings,
        entropy: Entropy,
        read: Read,
        opener: Opener | None = None,
        credential: Sequence[bytes] = (),
    ) -> None:
        """`initial` is x_0, int64 of shape (parameters,), in 2^-24; `read` tells what was stored before.

        `opener` is for devices that share a process. `credential` are statements with which a new device begins, its own
        chain of certificates first of all.
        """
        manifest = swarm.manifest
        self._identity = identity
        self._me = identity.public_key
        self._swarm = swarm
        self._entropy = entropy
        self._public = settings.public
        layout = Layout.of(manifest.model, manifest.compression.block_size)
        self._layout = dataclasses.replace(layout, prior=prior(initial, layout, manifest.compression))
        self._history = History(manifest, swarm.id)
        self._opener: Opener = opener or Plain()
        self._initial = initial
        self._doubt: Doubt | None = None  # of the checkpoint that this history began from
        self._checkpoints_refuted = 0
        self._replica: Replica = self._opener.replica(manifest, self._layout, initial)
        self._codec = codec_of(manifest.compression)
        remembered = ledger.remember(read, self._layout)
        self._books: Books = remembered.books
        self._restore(remembered, initial)
        self._remembered: ledger.Remembered | None = remembered
        self._handshake = Handshake(swarm, identity, remembered.statements, remembered.blocked, credential)
        certifies = manifest.certifies
        certified = self._handshake.admission.certified if certifies else lambda _: True
        inviting = self._handshake.admission.invites_for_founder if certifies else lambda _: False
        self._strikes = Strikes(swarm, inviting)
        self._striking: dict[int, tuple[Strike, bytes]] = {}  # on their way to the disk, STRIKING_MAX
        self._strikes_asked = 0
        self._strikes_told: dict[bytes, float] = {}  # when each neighbour was; no more than these
        self._recall_strikes(remembered.strikes)
        self._membership = Membership(
            swarm,
            identity,
            dataclasses.replace(settings, remembered=remembered.presences),
            lambda: (self._history.round, self._history.digest()),
            self._handshake.belongs if certifies else None,
        )
        self._turns = Turns(swarm, self._me, self._membership, lambda: self._history)
        self._catch_up = CatchUp(swarm, self._layout, initial, self._take_checkpoint, certified)
        self._sync = Sync(
            swarm,
            self._layout,
            self._history,
            self._membership.links,
            self._guides_of,
            opener,
            certified,
            self._catch_up,
            self._is_thin,
        )
        self._suspicion = Suspicion(swarm.id, self._me)
        self._paused_for = b""  # the cohort whose sum this device is to look at; it does not train until then
        self._judgement = Judgement()
        self._part_in: tuple[Tag, float] = ((), UNKNOWN)  # the sum that is being looked at
        self._alarmed_until = 0  # round: someone has forged, so audits are many
        self._rendezvous = Rendezvous(
            swarm.id,
            self._me,
            manifest.cohorts,
            lambda: self._not_struck(self._membership.live(self._clock)),
            lambda: self._not_struck(self._turns.candidates()),
            lambda peer: self._membership.is_hub(peer) and not self._distrusts(peer),
            self._membership.neighbours.__contains__,
            self._suspicion,
        )
        self._grown_at = 0.0  # when the history's round became what it is
        self._model = self._replica.model()
        self._cohorts: dict[bytes, Running] = {}  # by id, oldest first, at most COHORTS_MAX
        self._waiting: dict[bytes, deque[bytes]] = {}  # by peer, WAITING_MAX of them, as many messages each
        self._early: deque[Message] = deque(maxlen=EARLY_MAX)
        # By READY: its secrets, none without masks. Of the last two: a roster may be on its way with the one before.
        self._offers: dict[bytes, Secrets | None] = {}
        # By round: the ranges of its last contributions.
        self._measured: deque[tuple[int, Integers]] = deque(maxlen=MEASURED)
        self._frozen_for: bytes | None = None  # whose contribution the books hold frozen
        self._examples = 0  # on this device
        self._pending: PendingRoster | None = None
        self._phase: LocalPhase | None = None
        self._phases = 0
        self._trainer_fault = "is starting"
        self._offences: dict[bytes, int] = {}  # by peer, at most OFFENDERS_MAX
        self._shunned: dict[bytes, Shunned] = {}  # by peer, at most OFFENDERS_MAX; the longest ago go first
        self._clock = 0.0
        self._evaluating = False
        self._evaluate_after = 0.0
        self._accuracy: tuple[int, float] | None = None
        self._steps = 0
        self._contributions = 0
        self._aborted = 0

    # --- the two entrances -----------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        self._clock = self._grown_at = now
        actions: list[Step] = [*self._handshake.start(), *self._membership.start(now)]
        if not self._swarm.manifest.cohorts.masks:
            actions.append(Report("masks_off", {"warning": MASKS_OFF}))
        if self._remembered is not None:
            actions += self._resume(self._remembered)
            self._remembered = None
        return self._carry_out(actions, now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Raises nothing for what a peer has said: see above."""
        self._clock = now
        try:
            actions = self._dispatch(event, now)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            actions = self._fault(event, error, now)
        return self._carry_out(actions, now, event) if actions else []

    def _fault(self, event: Event | None, error: Exception, now: float) -> list[Step]:
        """A bug of ours. Where a peer's message has found it, it is that peer's violation."""
        peer = brought_by(event)
        facts: dict[str, object] = {
            "event": type(event).__name__,
            "peer": peer.hex()[:16] if peer else "",
            "error": f"{type(error).__name__}: {error}"[:FAULT_CHARACTERS],
            "place": place_of(error),
        }
        told: list[Step] = [Report("fault", facts)]
        match event:
            case Received(peer):
                return [*told, *self._blame(peer, f"its message led to {type(error).__name__}")]
            case TimerFired(("sum", bytes(cohort), *_)):
                return [*told, *self._leave_behind(cohort, now)]
            case TimerFired(tag):
                return [*told, SetTimer(tag, now + FAULT_S)]
        return told

    def _leave_behind(self, cohort: bytes, now: float) -> list[Step]:
        """Go on as if this node had stopped in this cohort: nobody else would end it, and no other could begin.

        What left for its sum stays debited, and its vote stays on the disk: a certificate may still come.
        """
        self._cohorts.pop(cohort, None)
        if self._frozen_for == cohort:
            self._books = self._books.thaw()
            self._frozen_for = None
        return self._consider(now)

    def _carry_out(self, actions: list[Step], now: float, event: Event | None = None) -> list[Action]:
        """Turn what the protocols want into what the world is asked for, until nothing is left inside.

        `event` is what they want it for.
        """
        todo = actions[::-1]
        out: list[Action] = []
        while todo:
            action = todo.pop()
            if isinstance(action, Send) and action.peer != self._me:
                out += self._route(action)
            elif type(action) in OUTSIDE:
                out.append(cast("Action", action))
            elif isinstance(action, Dial):
                out += self._dial(action)
            elif isinstance(action, TellGuests | Disconnect | Compute | Freeze | Abandon):
                out.append(action)
            else:
                try:
                    todo += self._inside(cast("Inner | Send", action), now)[::-1]
                except Exception as error:  # noqa: BLE001 - as in `handle`
                    todo += self._fault(event, error, now)[::-1]
        return out

    def _route(self, action: Send) -> list[Action]:
        """A direct message may need a connection first, and waits for it here."""
        if action.peer in self._membership.neighbours:
            if not is_alive(action.data):
                self._membership.spoke_to(action.peer, self._clock)
            return [action]
        if admits(action.data) and self._handshake.is_here(action.peer):
            return [action]
        waiting = self._waiting.get(action.peer)
        if waiting is not None:
            waiting.append(action.data)
            return []
        addresses = self._membership.addresses_of(action.peer)
        is_here = self._handshake.is_here(action.peer)  # and is about to prove itself
        cannot = self._avoids(action.peer) or not (addresses or is_here)
        if cannot or len(self._waiting) >= WAITING_MAX:
            return [Report("unreachable", {"peer": action.peer.hex()[:16]})]
        self._waiting[action.peer] = deque([action.data], maxlen=WAITING_MAX)
        return [] if is_here else self._dial(Dial(action.peer, addresses))

    def _dial(self, dial: Dial) -> list[Action]:
        return [] if self._avoids(dial.peer) else [dial]

    def _avoids(self, peer: bytes) -> bool:
        return peer in self._handshake.blocked or self._shuns(peer)

    def _shuns(self, peer: bytes) -> bool:
        shunned = self._shunned.get(peer) if self._shunned else None
        return shunned is not None and shunned.until > self._clock

    def _inside(self, action: Inner | Send, now: float) -> list[Step]:
        """What an action that stays inside this node leads to; a message to itself is one."""
        match action:
            case Send(_, data):
                return self._on_received(self._me, data, now)
            case Close(readies):
                return self._form(readies)
            case Introduce(peers, to):
                return self._introduce(peers, to)
            case Contribute(cohort):
                return self._freeze_for(cohort)
            case Spend():
                return self._spend(action)
            case Settled(cohort, outcome, reason):
                return self._settle(cohort, outcome, reason)
            case Closed(cohort):
                # READY after what the cohort's end told of others, or it would go to the leader that has just failed.
                return [*self._resume_training(cohort), *self._close(cohort), *self._consider(now)]
            case Inspect():
                return self._inspect(action)
            case Refused():
                return self._note_refusal(action)
            case Disputed():
                return self._settle_dispute(action, now)
            case Failed(cohort):
                return self._note_failure(cohort)
            case Rejected(cohort, contributors):
                return self._note_rejection(cohort, contributors)
            case Unanswered() | Forged() | Cleared():
                return self._note_verdict(action)
            case TakenBack(statement):
                return self._take_strikes((statement,), self._me, now)
            case Certified(aggregate):
                return list(self._sync.certified(aggregate, now))
            case Learned():
                return self._learn(action, now)
            case Proven(peer):
                return self._welcome(peer, now)
            case Expelled(peer, reason):
                return self._part(PeerDown(peer, reason), now)
            case Changed():
                return [*self._membership.forget_strangers()]
            case Uncertified(peer):
                return [*self._handshake.compare(peer, now)]
            case Adopted():
                return self._adopt(action, now)
        assert_never(action)

    def _welcome(self, peer: bytes, now: float) -> list[Step]:
        """From here on a peer is a neighbour."""
        waited = [Send(peer, data) for data in self._waiting.pop(peer, ())]
        reminders = [each.member.remind(peer) for each in self._cohorts.values()]
        greeted = self._membership.handle(PeerUp(peer), now)
        return [*greeted, *waited, *itertools.chain(*reminders), *self._consider(now)]

    def _part(self, down: PeerDown, now: float) -> list[Step]:
        self._waiting.pop(down.peer, None)
        self._sync.gone(down.peer)
        self._strikes_told.pop(down.peer, None)
        lost = self._membership.handle(down, now)
        return [*lost, *self._rendezvous.failed(down.peer, now), *self._lose(down.peer)]

    # --- events ----------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event, now: float) -> list[Step]:
        """In the order of their number: each case that an event is not takes its time."""
        match event:
            case Received(peer, data):
                return self._on_received(peer, data, now)
            case TimerFired():
                return self._on_timer(event, now)
            case Persisted(("sum", cohort, *_)) | PersistFailed(("sum", cohort, *_)):
                return self._to_cohort(cohort, event, now)
            case Persisted(("admission", *_)) | PersistFailed(("admission", *_)):
                return [*self._handshake.handle(event, now)]
            case PeerUp(peer) if self._shuns(peer):
                return [Disconnect(peer, "broke the rules a short while ago")]
            case Persisted(("strike", int(number))):
                return self._on_strike_durable(number, now)
            case PersistFailed(("strike", int(number)), reason):
                asked, _ = self._striking.pop(number)
                return [Answered(asked, f"it could not be stored: {reason}")]
            case Strike():
                return self._on_strike(event)
            case PeerUp() | Clock() | Admit() | Revoke() | Block():
                return [*self._handshake.handle(event, now)]
            case PeerDown():
                return [*self._handshake.handle(event, now), *self._part(event, now)]
            case SendFailed(peer, _, reason):
                failed = self._rendezvous.failed(peer, now)
                return [Report("send_failed", {"peer": peer.hex()[:16], "reason": reason}), *failed]
            case Computed(_, Exception() as error) if not isinstance(error, PeerViolation):
                return self._fault(event, error, now)  # its cohort's next deadline ends what it was for
            case Computed(("sum", cohort, *_)):
                return self._to_cohort(cohort, event, now)
            case Looked(("sum", _, *_) as tag, before, after):
                return self._judge(tag, before, after, now)
            case Readdressed() | Kept():
                return [*self._membership.handle(event, now)]
            case Woke():
                return [*self._membership.handle(event, now), *self._consider(now)]
            case PersistFailed(_, reason):
                return [Report("persist_failed", {"reason": reason})]
            case TrainerReady(examples):
                self._trainer_fault = ""
                self._examples = examples
                return self._begin_phase(now)
            case Eligible(phase, steps):
                return self._on_eligible(phase, steps, now)
            case Frozen():
                return self._on_frozen(event, now)
            case TrainerFailed(reason):
                return self._on_trainer_failed(reason)
            case Evaluated(round_, accuracy, loss):
                self._evaluating = False
                self._accuracy = (round_, accuracy)
                told = Report("evaluated", {"round": round_, "accuracy": accuracy, "loss": loss})
                is_stale = self._finished and round_ < self._history.round
                return [told, *(self._evaluate(self._model, now) if is_stale else [])]
        return []

    def _on_timer(self, fired: TimerFired, now: float) -> list[Step]:
        match fired.tag:
            case ("membership", *_):
                if fired.tag[1:] == ("beat",) and self._doubt and self._doubt.beat(self._history.wanted()):
                    self._doubt = None
                    given_up = self._give_up_checkpoint(now)
                else:
                    given_up = []
                return [*given_up, *self._membership.handle(fired, now), *self._consider(now)]
            case ("sync", *_):
                return [*self._sync.handle(fired, self._me, now)]
            case ("lottery",):
                rested = self._phase is None and not self._trainer_fault
                return [*(self._begin_phase(now) if rested else ()), *self._consider(now)]
            case ("phase", int(number)):
                return self._on_phase_over(number, now)
            case ("sum", cohort, *_):
                return self._to_cohort(cohort, fired, now)
            case ("rendezvous", *_):
                return [*self._rendezvous.handle(fired, now), *self._consider(now)]
            case ("roster",):
                self._pending = None
                return self._consider(now)
            case ("admission", *_):
                return [*self._handshake.handle(fired, now)]
        return []

    def _on_received(self, peer: bytes, data: bytes, now: float) -> list[Step]:
        if self._shuns(peer):
            return []
        is_proven = self._handshake.hears(peer)
        if not is_proven and (not admits(data) or len(data) > CREDENTIAL_BYTES):
            return []  # it may be honest and early; nothing of it is read
        try:
            message = open_frame(self._swarm.id, data, peer)
            if message.kind in ADMISSION_KINDS:
                return [*self._handshake.handle(message, now)]
            if not is_proven:
                return []
            if not self._membership.belongs(message.sender):
                if self._swarm.manifest.certifies:
                    return []  # handed on by a neighbour who may know of more certificates, or of fewer revocations
                raise PeerViolation(f"{message.kind.name}: its author is not a member of this swarm")
            return self._on_message(peer, message, now)
        except PeerViolation as violation:
            return self._blame(peer, str(violation))

    def _blame(self, peer: bytes, reason: str) -> list[Step]:
        count = self._offences.pop(peer, 0) + 1
        if len(self._offences) >= OFFENDERS_MAX:
            del self._offences[next(iter(self._offences))]
        self._offences[peer] = count
        actions: list[Step] = [Report("violation", {"peer": peer.hex()[:16], "reason": reason})]
        if count % VIOLATIONS_MAX == 0 and peer != self._me:
            self._shun(peer)
            actions.append(Disconnect(peer, f"broke the rules {count} times, last: {reason}"))
        return actions

    def _shun(self, peer: bytes) -> None:
        """With garbage, a peer buys ever less of this device's time, however often it connects."""
        before = self._shunned.pop(peer, None)
        for_s, most = SHUN_S
        if before is not None and self._clock - before.until < FORGET_S:
            for_s = min(2 * before.for_s, most)
        if len(self._shunned) >= OFFENDERS_MAX:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[peer] = Shunned(self._clock + for_s, for_s)

    def _on_message(self, peer: bytes, message: Message, now: float) -> list[Step]:
        if peer == message.sender:
            self._membership.heard_from(peer, now, alive=message.kind is Kind.ALIVE)
        elif message.kind not in {Kind.READY, Kind.PRESENCE, Kind.ABORT_CERTIFICATE}:
            raise PeerViolation(f"{message.kind.name}: handed on by another peer")
        if message.kind in SYNC_KINDS:
            return self._on_history(message, peer, now)
        if message.kind in MEMBERSHIP_KINDS:
            if message.kind is Kind.GREETING:
                self._handshake.greeted()
            return [*self._membership.handle(message, now)]
        match message.body:
            case Ready() as ready:
                self._check_ready(ready)
                if message.sender in self._struck.since:
                    return []  # it may not have heard of it
                pulls = self._sync.pull(peer, ready.heads, now)
                return [*pulls, *self._rendezvous.handle(message, now, peer)]
            case Roster():
                return self._on_roster(message, now)
            case Result() as result:
                return self._on_result(message, result, peer, now)
            case StrikesMessage(statements):
                return self._take_strikes(statements, peer, now)
        return self._to_cohort(message.cohort, message, now)

    def _on_history(self, message: Message, peer: bytes, now: float) -> list[Step]:
        body = message.body
        if isinstance(body, Announce) and self._is_coming(body):
            self._sync.has(peer, body.aggregates)
            return []
        told: list[Step] = []
        if isinstance(body, Alive) and body.history != self._history.digest():
            told += self._tell_strikes(peer, now)  # before the histories are compared
        if isinstance(body, Aggregates) and body.guides:
            # First: with the new round, this device may want to find who leads it.
            told += self._membership.host(body.guides, peer, now)
        return [*told, *self._sync.handle(message, peer, now)]

    # --- cohorts ---------------------------------------------------------------------------------------------

    def _to_cohort(self, cohort: Hashable, event: CohortEvent, now: float) -> list[Step]:
        running = self._cohorts.get(cohort) if isinstance(cohort, bytes) else None
        if running is None:
            if isinstance(event, Message):
                self._keep_early(event)
            return []
        before = running.member.state
        actions: list[Step] = [*running.member.handle(event, now)]
        if running.aggregator is not None:
            actions += running.aggregator.handle(event, now)
        if running.auditor is not None:
            actions += running.auditor.handle(event, now)
        after = running.member.state
        if after is State.AWAIT_SUM and before is not after:
            self._paused_for = running.member.cohort.id
            actions.append(Pause(self._model))
        return actions

    def _on_result(self, message: Message, result: Result, peer: bytes, now: float) -> list[Step]:
        """Signatures to the body that this member signed are the aggregate; to another one they are news of it."""
        running = self._cohorts.get(message.cohort)
        if running is None:
            return []
        running.member.cohort.index(message.sender)
        aggregate = running.member.completed(result)
        if aggregate is None:
            return [*self._sync.pull(peer, (result.aggregate,), now)]
        known = Aggregates((write(aggregate, self._swarm.manifest),))
        return [*self._sync.handle(msgspec.structs.replace(message, body=known), peer, now)]

    def _keep_early(self, message: Message) -> None:
        """Its roster may be under way. Nobody can crowd out the others, or fill the memory."""
        if len(message.raw) > EARLY_BYTES:
            return
        own = [each for each in self._early if each.sender == message.sender]
        if len(own) >= EARLY_OF_ONE:
            self._early.remove(own[0])
        self._early.append(message)

    def _lose(self, peer: bytes) -> list[Step]:
        """The running cohort need not wait for somebody whose connection broke."""
        running = self._busy
        if running is None:
            return []
        said = running.member.lost(peer)
        return [*said, *(running.aggregator.lost(peer) if running.aggregator is not None else ())]

    @property
    def _busy(self) -> Running | None:
        """The cohort that is running, if one is."""
        return next((each for each in self._cohorts.values() if each.member.state is not State.OVER), None)

    @property
    def _finished(self) -> bool:
        rounds = self._swarm.manifest.training.rounds
        return bool(rounds) and self._history.round >= rounds

    def _consider(self, now: float) -> list[Step]:
        """Say READY if there is something to give and nothing else is under way."""
        phase = self._phase
        if phase is None or not phase.eligible or phase.freezing_for is not None:
            return []
        if self._finished or self._busy or self._rendezvous.asked or self._pending:
            return []
        if self._me in self._struck.since:
            return []  # nobody would sum with it
        waits = self._draw(now, phase)
        if waits is not None:
            return [waits]
        secrets = Secrets.fresh(self._me, self._entropy) if self._swarm.manifest.cohorts.masks else None
        ready = Ready(
            self._history.round + 1,
            self._history.parents_for_next(),
            (1 << self._layout.segments) - 1,
            secrets.channel.public if secrets else b"",
            secrets.mask.public if secrets else b"",
            self._membership.is_hub(self._me),
        )
        frame = sign_frame(self._identity, self._swarm.id, ready)
        self._offers = dict([*self._offers.items(), (frame, secrets)][-OFFERS_MAX:])
        return [*self._rendezvous.ask(frame, ready.round, now), self._report("READY", ready.round)]

    def _draw(self, now: float, phase: LocalPhase) -> SetTimer | None:
        """The lottery of the next round: None for a device that may say READY, else when it is to draw again.

        Waiting begins with the round, or when this device's own phase was done: before that, few have anything to give.
        """
        since = max(self._grown_at, phase.ready_at)
        if self._turns.is_drawn(self._turns.waited(since, now)) or self._leads:
            return None
        return self._draw_again(since, now)

    def _draw_again(self, since: float, now: float) -> SetTimer:
        return SetTimer(("lottery",), self._turns.draws_again_at(since, now))

    def _approach(self) -> list[Step]:
        """Whoever trains for the round after the next dials its leader now: then no READY has to wait for a connection."""
        round_ = self._turns.round_to_approach() if self._phase is not None else None
        if round_ is None:
            return []
        leader = self._rendezvous.first_asked(round_, self._turns.candidates_of(round_))
        if leader is None or leader == self._me or self._handshake.is_here(leader):
            return []
        addresses = self._membership.addresses_of(leader)
        return [Dial(leader, addresses)] if addresses else []

    def _guides_of(self, known: Verified) -> tuple[bytes, ...]:
        """Where to find those of an aggregate's contributors who rank first to lead the round after the next."""
        if self._membership.sees_all:
            return ()
        return self._membership.presences_of(self._turns.guides(known.body.round, known.contributors))

    def _introduce(self, peers: tuple[bytes, ...], to: bytes) -> list[Step]:
        """Where nobody knows all, whoever brings devices together tells them where the others are."""
        return [] if self._membership.sees_all else [*self._membership.introduce(peers, to)]

    def _form(self, readies: tuple[bytes, ...]) -> list[Step]:
        """As leader: bind a full bag to this node's heads. From here on the leader is a member like the others."""
        if self._finished:
            return []
        parents = self._history.parents_for_next()
        round_ = self._history.round + 1
        state = self._state_due(round_, parents)
        if state is None:
            return [
                Report(
                    "cannot_lead", {"round": round_, "reason": "its checkpoint hides what the state is of"}
                )
            ]
        said = [open_frame(self._swarm.id, ready) for ready in readies]
        # Whoever knows of later rounds does not sum in an earlier one; it will ask again.
        said = [each for each in said if isinstance(each.body, Ready) and each.body.round <= round_ + 1]
        said = [each for each in said if each.sender not in self._struck.since]
        if self._swarm.manifest.certifies:
            said = self._without_crowd(said)
        frame = b""
        while len(said) >= self._swarm.manifest.cohorts.n_min:
            roster = write_roster(self._swarm, round_, parents, state, said)
            frame = sign_frame(self._identity, self._swarm.id, roster)
            everything = (1 << self._layout.segments) - 1
            if self._travelling(frame) == everything:
                break
            # Who trained least of the model keeps the others' segments from travelling, or all of them.
            least = min(said, key=lambda each: (_trained(each).bit_count(), each.sender))
            if _trained(least) == everything:
                break
            said.remove(least)
        else:
            return []
        members = [ready.sender for ready in said]
        return [
            *self._tell_members(frame, members),
            *(Send(peer, frame) for peer in members),
            self._report("ROSTER", roster.round, ("leader",)),
        ]

    def _travelling(self, frame: bytes) -> int:
        """Bit s: segment s travels in the cohort of this roster; 0 where it would be no cohort."""
        try:
            return open_roster(self._swarm, open_frame(self._swarm.id, frame)).travelling
        except PeerViolation:
            return 0

    def _tell_members(self, frame: bytes, members: Sequence[bytes]) -> list[Step]:
        """Where nobody knows all, a cohort's members are told where those are to whom they will speak, and its sum's guides.

        They hand the sum on, and of all of them only the leader has heard from each.
        """
        if self._membership.sees_all:
            return []
        cohort = open_roster(self._swarm, open_frame(self._swarm.id, frame))
        guides = self._turns.all_guides(cohort.roster.round, cohort.members)
        others = dict.fromkeys((*cohort.hubs, *guides))
        others.pop(self._me, None)
        return [Introduce(tuple(others), peer) for peer in members]

    def _state_due(self, round_: int, parents: tuple[bytes, ...]) -> bytes | None:
        """The Merkle root of the fold of exactly these parents' ancestors, in the rounds that carry one.

        None: a history that began from a checkpoint cannot tell.
        """
        if round_ % STATE_EVERY:
            return b""
        taken = self._take_checkpoint(parents)
        return None if isinstance(taken, Waiting) else checkpoint.state_root(taken)

    def _take_checkpoint(self, parents: Sequence[bytes]) -> checkpoint.Checkpoint | Waiting:
        return checkpoint.take(self._history, self._replica, parents, self._swarm.id)

    def _on_roster(self, message: Message, now: float) -> list[Step]:
        roster = message.body
        if not isinstance(roster, Roster):
            return []
        readies = ready_frames(self._swarm, roster)
        self._rendezvous.taken(readies)
        if self._busy is not None or self._finished or not any(frame in readies for frame in self._offers):
            return self._decline(message)
        objection = self._objects(roster, message.sender)
        if objection:
            return [*self._decline(message), Report("declined", {"reason": objection})]
        missing = [parent for parent in roster.parents if self._history.get(parent) is None]
        if missing:
            # The leader must hold all ancestors of the parents it names: it is the one to ask.
            until = now + self._swarm.manifest.cohorts.step_ms / 1000
            if self._pending is None:
                self._pending = PendingRoster(message, until)
            pulls = self._sync.pull(message.sender, missing, now)
            return [SetTimer(("roster",), self._pending.until), *pulls]
        self._pending = None
        if not self._check_place(roster):
            return self._decline(message)
        return [CancelTimer(("roster",)), *self._join(open_roster(self._swarm, message), now)]

    def _objects(self, roster: Roster, leader: bytes) -> str:
        """Why this device does not sum in this cohort; nothing if it does."""
        if self._suspicion.declines(leader, roster.round):
            return "a leader that has published a false sum"
        if roster.round < self._history.round:
            return "a round that is long over"
        if len(roster.readies) < self._rendezvous.enough(self._clock - self._grown_at):
            return "so few members that one bad and a few blind ones could sign anything"
        members = read_members([entry.member for entry in roster.readies], self._swarm.manifest)
        if any(member in self._handshake.blocked for member in members):
            return "a member whom this device blocks"
        if any(member in self._struck.since for member in members):
            return "a member whose sums were taken back"
        if not self._swarm.manifest.certifies:
            return ""
        if not all(map(self._membership.belongs, members)):
            return "a member who does not belong to the swarm, as far as this device knows"
        crowd = self._crowd(members)
        return crowd.reason if crowd is not None else ""

    def _crowd(self, members: Sequence[bytes]) -> Crowd | None:
        return crowd(members, self._membership.live(self._clock), self._handshake.admission.line)

    def _without_crowd(self, readies: list[Message]) -> list[Message]:
        """As leader: a roster to which no member objects; too few, and there is none."""
        readies = [ready for ready in readies if self._membership.belongs(ready.sender)]
        n_min, line = self._swarm.manifest.cohorts.n_min, self._handshake.admission.line
        while len(readies) >= n_min and (crowd := self._crowd([ready.sender for ready in readies])):
            readies.remove([ready for ready in readies if line(ready.sender) == crowd.line][-1])
        return readies if len(readies) >= n_min else []

    def _decline(self, message: Message) -> list[Step]:
        cohort = open_roster(self._swarm, message)
        if self._me not in cohort.members or cohort.id in self._cohorts:
            return []
        frame = sign_frame(self._identity, self._swarm.id, Decline(), cohort=cohort.id)
        return [Send(peer, frame) for peer in cohort.aggregators]

    def _is_coming(self, announce: Announce) -> bool:
        """An announced aggregate whose body this member has: its aggregator is about to send the signatures.

        Should it be lost, the next heartbeat tells.
        """
        busy = (
            self._busy if self._cohorts else None
        )  # most devices were in none, and this is asked of each ANNOUNCE
        signed = busy.member.body if busy is not None else None
        return signed is not None and announce.aggregates == (signed.id[:SHORT_BYTES],)

    def _check_ready(self, ready: Ready) -> None:
        """Before it gets into a bag: with a READY that does not fit, the whole roster would fail."""
        if ready.trained >> self._layout.segments:
            raise PeerViolation("READY: trained segments that the model does not have")
        refuse_unfit_keys(ready, masks=self._swarm.manifest.cohorts.masks)

    def _check_place(self, roster: Roster) -> bool:
        """False where this device cannot tell; PeerViolation for a false one."""
        known = [self._history.get(parent) for parent in roster.parents]
        if roster.round != 1 + max((each.body.round for each in known if each), default=0):
            raise PeerViolation("ROSTER: its round does not follow its parents'")
        state = self._state_due(roster.round, roster.parents)
        if state is not None and roster.state != state:
            raise PeerViolation("ROSTER: another state than the fold of its ancestors")
        return state is not None

    def _join(self, cohort: Cohort, now: float) -> list[Step]:
        """One roster a READY: the keys go into this cohort and can go into no other."""
        ready = next(each for each in ready_frames(self._swarm, cohort.roster) if each in self._offers)
        secrets = self._offers[ready]
        self._offers.clear()
        withdrawn = self._rendezvous.withdraw()
        parents = tuple(known.body for known in map(self._history.get, cohort.roster.parents) if known)
        member = Member(
            cohort,
            self._identity,
            secrets,
            Terms(self._codec, self._layout, parents),
            self._entropy,
            [own for round_, own in self._measured if cohort.roster.round - round_ < MEASURED_ROUNDS],
        )
        aggregator = Aggregator(member, self._identity) if self._me in cohort.aggregators else None
        auditor = Auditor(member, self._identity, self._entropy)
        self._remember_cohort(Running(member, aggregator, auditor))
        actions: list[Step] = [
            *withdrawn,
            *member.start(now),
            *(aggregator.start(now) if aggregator else []),
        ]
        early = [message for message in self._early if message.cohort == cohort.id]
        self._early = deque((each for each in self._early if each not in early), maxlen=EARLY_MAX)
        for message in early:
            try:
                actions += self._to_cohort(cohort.id, message, now)
            except PeerViolation as violation:  # its own sender's, not the leader's: the cohort goes on
                actions += self._blame(message.sender, str(violation))
        return actions

    def _remember_cohort(self, running: Running) -> None:
        self._cohorts[running.member.cohort.id] = running
        while len(self._cohorts) > COHORTS_MAX:
            del self._cohorts[next(iter(self._cohorts))]
        added_up = [each.aggregator for each in self._cohorts.values() if each.aggregator is not None]
        for aggregator in added_up[:-KEPT_MAX]:
            aggregator.forget()

    def _spend(self, spend: Spend) -> list[Step]:
        """Design, rule 3: the debit and what it leaves are durable, in one transaction, before the vector goes."""
        feedback = self._swarm.manifest.compression.feedback / 256
        debited = self._books.debit(spend.cohort, spend.encoded.sent, feedback)
        forgotten = [cohort for cohort in self._books.outstanding if cohort not in debited.outstanding]
        rebased = self._forget(forgotten, debited)
        self._frozen_for = None
        spent = self._cohorts[spend.cohort].member.cohort
        self._measured.append((spent.roster.round, spend.encoded.ranges))
        records = ledger.debited(spend.cohort, spent.frame, self._books)
        for cohort in forgotten:
            records += (*ledger.settled(cohort), *ledger.closed(cohort))
        return [Persist(spend.tag, records), *rebased]

    def _forget(self, cohorts: Sequence[bytes], after: Books) -> list[Step]:
        """Go on with books in which these payloads are no longer outstanding: the model in training loses them.

        What a fold has brought back as part of a sum would else be in it twice.
        """
        gone = [sent for cohort, sent in self._books.outstanding.items() if cohort in cohorts]
        self._books = after
        if self._phase is None or not gone:
            return []
        change = np.zeros(self._layout.parameters, np.float32)
        for sent in gone:
            change[self._layout.places(sent.support)] -= sent.values
        return [Rebase(change)]

    # --- what a sum does -------------------------------------------------------------------------------------

    def _inspect(self, inspect: Inspect) -> list[Step]:
        """The model with this sum alone, before any bound that the fold has: what is bounded looks harmless."""
        if self._trainer_fault:
            return []  # nobody can look, so this member signs nothing
        body = inspect.body
        origin = self._history.get(body.basis) if body.basis else None
        manifest = self._swarm.manifest
        sum_ = Verified(
            b"", Aggregate(body, ()), contributors_of(body, manifest), origin.body if origin else None
        )
        change = increment([sum_], body.round, self._layout, manifest)
        after = ((self._replica.x + change) * UNIT).astype(np.float32)
        own = self._given(inspect.tag[1]) if self._me in sum_.contributors else None
        part = part_in(change, own, len(sum_.contributors), step_at(manifest, body.round).size)
        self._part_in = (inspect.tag, part)
        return [Look(inspect.tag, self._model, after)]

    def _given(self, cohort: Hashable) -> Integers | None:
        """What this device has given to a sum: int64[parameters], in 2^-24."""
        sent = self._books.outstanding.get(cohort) if isinstance(cohort, bytes) else None
        if sent is None:
            return None
        given = np.zeros(self._layout.parameters, np.int64)
        given[self._layout.places(sent.support)] = sent.values / UNIT
        return given

    def _judge(self, tag: Tag, before: float, after: float, now: float) -> list[Step]:
        looked_at, part = self._part_in
        impression = self._judgement.of(before, after, part if looked_at == tag else UNKNOWN)
        return [
            *self._resume_training(tag[1]),
            *self._to_cohort(tag[1], Inspected(tag, impression.reason), now),
        ]

    def _resume_training(self, cohort: Hashable) -> list[Step]:
        """This cohort's sum was looked at, or its member is at an end, however it came there."""
        if self._paused_for != cohort:
            return []
        self._paused_for = b""
        return [Resume()]

    def _is_thin(self, known: Verified) -> bool:
        """Whether a sum has far fewer contributors than this swarm's have."""
        contributors = len(known.contributors)
        usual = usual_contributors(self._replica.state.counts)
        return 2 * contributors < usual or contributors < self._rendezvous.enough(0.0)

    def _distrusts(self, peer: bytes) -> bool:
        """Whether this device would rather not be led by it."""
        return self._suspicion.distrusts(peer, self._turns.next_round)

    def _note_refusal(self, refused: Refused) -> list[Step]:
        running = self._cohorts[refused.cohort]
        round_ = running.member.cohort.roster.round
        if refused.certain:
            self._suspicion.offended(refused.aggregator, round_, certain=True)
        facts: dict[str, object] = {
            "cohort": refused.cohort.hex()[:16],
            "peer": refused.aggregator.hex()[:16],
            "reason": refused.reason,
        }
        return [Report("distrusted" if refused.certain else "sum_refused", facts)]

    def _settle_dispute(self, disputed: Disputed, now: float) -> list[Step]:
        """Not if the other one was found out before: whoever shows junk again and again would have everybody add up for nothing."""
        auditor = self._cohorts[disputed.cohort].auditor
        if auditor is None or self._suspicion.is_forger(disputed.aggregator):
            return []
        return [*auditor.disputed(disputed.aggregator, now)]

    def _note_rejection(self, cohort: bytes, contributors: list[int]) -> list[Step]:
        known = self._cohorts[cohort].member.cohort
        members = known.members
        self._suspicion.rejected([members[index] for index in contributors], members, known.aggregators[0])
        self._blame_aggregators(self._cohorts[cohort].member)
        facts: dict[str, object] = {"cohort": cohort.hex()[:16], "contributors": len(contributors)}
        return [Report("sum_rejected", facts)]

    def _credit(self, member: Member, aggregate: bytes) -> None:
        """A sum holds: who has shown it? The first aggregator's turn was over if it was the second."""
        first, round_ = member.cohort.aggregators[0], member.cohort.roster.round
        by = member.offered_by(aggregate)
        if by == first:
            self._suspicion.added_up(first)
        elif by is not None:
            self._suspicion.offended(first, round_, certain=False)

    def _blame_aggregators(self, member: Member) -> None:
        """Of a sum that came to nothing. If both have shown the same one, a member spoilt it, as a rule."""
        cohort = member.cohort
        if member.saw_one_sum:
            self._suspicion.led_in_vain(cohort.aggregators[0], cohort.roster.round)
        else:
            self._suspicion.offended(cohort.aggregators[0], cohort.roster.round, certain=False)

    def _note_failure(self, cohort: bytes) -> list[Step]:
        member = self._cohorts[cohort].member
        known = member.cohort
        if member.has_refused:  # and so have others, or the sum would hold: too few for REJECT
            self._suspicion.rejected([known.members[index] for index in member.contributors() or ()])
        else:
            self._suspicion.failed(known.members)
        for peer in dict.fromkeys((known.leader, known.aggregators[0])):
            self._suspicion.offended(peer, known.roster.round, certain=False)
        return []

    def _note_verdict(self, verdict: Verdict) -> list[Step]:
        """What an audit has shown."""
        round_ = self._cohorts[verdict.cohort].member.cohort.roster.round
        facts: dict[str, object] = {"cohort": verdict.cohort.hex()[:16]}
        match verdict:
            case Cleared(_, accusers):
                for peer in accusers:
                    self._suspicion.offended(peer, round_, certain=True)
                wrong = [Report("false_accusation", {**facts, "peer": peer.hex()[:16]}) for peer in accusers]
                return [Report("audited", facts), *wrong]
            case Forged(_, aggregator, true):
                self._alarmed_until = round_ + ALARM_ROUNDS
                self._suspicion.forged(aggregator)
                told = Report("forged", {**facts, "peer": aggregator.hex()[:16]})
                return [
                    told,
                    *self._cohorts[verdict.cohort].member.disproved(true, self._clock),
                    *self._audit_others(verdict.cohort, aggregator),
                ]
            case Unanswered(_, aggregator):
                self._suspicion.offended(aggregator, round_, certain=False)
                return [Report("unanswered", {**facts, "peer": aggregator.hex()[:16]})]
        assert_never(verdict)

    def _audit_others(self, cohort: bytes, forger: bytes) -> list[Step]:
        """Whoever has forged one sum shows this device the others, or they are taken back."""
        asked: list[Step] = []
        for id_, running in list(self._cohorts.items()):
            if running.auditor is not None and id_ != cohort:
                asked += running.auditor.suspected(forger, self._clock)
        return asked

    def _settle(self, cohort: bytes, outcome: Outcome, reason: str) -> list[Step]:
        shown: list[Step] = []
        if self._frozen_for == cohort:
            self._books = self._books.thaw()
            self._frozen_for = None
            shown += self._hurry()
        if outcome is Outcome.INCLUDED:
            self._contributions += 1
            shown += self._forget([cohort], self._books.settle(cohort))
        elif outcome is Outcome.REFUNDED:
            self._books = self._books.refund(cohort)
        self._aborted += outcome is not Outcome.INCLUDED
        facts: dict[str, object] = {"cohort": cohort.hex()[:16], "outcome": outcome.value, "reason": reason}
        actions: list[Step] = [Report("settled", facts), *shown]
        if outcome is not Outcome.UNKNOWN:  # else the debit stays: a certificate may still come
            refunded = ledger.residual(self._books) if outcome is Outcome.REFUNDED else ()
            actions.append(Persist(None, (*ledger.settled(cohort), *refunded)))
        running = self._cohorts.get(cohort)
        if running is not None and outcome in {Outcome.UNTOUCHED, Outcome.REFUNDED}:
            self._rendezvous.ended(running.member.cohort.members)
        if running is not None and running.member.state is State.OVER:
            actions += self._close(cohort)
        return actions

    def _hurry(self) -> list[Step]:
        """What a failed cohort gave back need not wait for the time of another phase: there is something to give already."""
        if self._phase is None:
            return []
        self._phase.eligible_at = self._clock
        return [SetTimer(("phase", self._phase.number), self._clock)] if self._phase.steps else []

    def _close(self, cohort: bytes) -> list[Step]:
        """Votes are forgotten when the cohort is over here and nothing about it is in doubt any more."""
        running = self._cohorts.get(cohort)
        if running is None or running.member.outcome in {None, Outcome.UNKNOWN}:
            return []
        return [Persist(None, ledger.closed(cohort))]

    # --- training --------------------------------------------------------------------------------------------

    def _begin_phase(self, now: float) -> list[Step]:
        """Train on from the shared model and what this device is ahead of it."""
        if self._finished:
            self._phase = None
            return []
        if not self._draws_near(now):
            self._phase = None
            return [self._draw_again(self._grown_at, now)]
        training = self._swarm.manifest.training
        self._phases += 1
        share = self._first_share if self._phases == 1 else 1.0
        eligible_at = now + share * training.phase_ms / 1000
        self._phase = LocalPhase(self._phases, self._history.round, eligible_at)
        base = self._stand + self._books.ahead
        return [Train(self._phases, base, training.min_steps, training.max_steps)]

    @property
    def _stand(self) -> NDArray[np.float32]:
        """What a phase stands on: the shared model, or where it is going."""
        share = self._swarm.manifest.training.foresight
        return self._replica.foreseen(share) if share else self._model

    def _draws_near(self, now: float) -> bool:
        """Whether this device is drawn soon, or leads: until then it rests.

        What it would learn meanwhile from its own data alone is worth little, and its battery is its owner's.
        """
        return self._turns.draws_near(self._turns.waited(self._grown_at, now)) or self._leads

    def _nobody_wants(self, phase: LocalPhase | None, now: float) -> bool:
        """Whether a phase missed the round that it was for: what it found is old by the time that another is drawn for it."""
        if phase is None or phase.freezing_for is not None or self._rendezvous.asked or self._pending:
            return False
        return not self._busy and not self._draws_near(now)

    def _give_up(self) -> list[Step]:
        phase, self._phase = self._phase, None
        return [Abandon(phase.number)] if phase is not None else []

    @property
    def _first_share(self) -> float:
        """Of a phase's time, for the first phase: devices that start together are not to be ready together."""
        return (1 + digest("first phase", self._swarm.id, self._me)[0]) / 256

    def _on_eligible(self, number: int, steps: int, now: float) -> list[Step]:
        phase = self._phase
        if phase is None or phase.number != number:
            return []
        phase.steps = steps
        if now < phase.eligible_at and not self._leads:
            return [SetTimer(("phase", number), phase.eligible_at)]
        phase.eligible, phase.ready_at = True, now
        return self._consider(now)

    @property
    def _leads(self) -> bool:
        """A hub whose turn it is to lead the next round takes part in it: nobody has to look for another aggregator."""
        return self._membership.is_hub(self._me) and self._rendezvous.leads(self._turns.next_round)

    def _on_phase_over(self, number: int, now: float) -> list[Step]:
        """Its time, and before that its steps."""
        if self._phase is None or self._phase.number != number:
            return []
        self._phase.eligible, self._phase.ready_at = True, now
        return self._consider(now)

    def _freeze_for(self, cohort: bytes) -> list[Step]:
        if self._phase is None:
            return []
        self._phase.freezing_for = cohort
        return [Freeze(self._phase.number)]

    def _on_frozen(self, frozen: Frozen, now: float) -> list[Step]:
        phase = self._phase
        if phase is None or phase.number != frozen.phase or phase.freezing_for is None:
            return []
        cohort = phase.freezing_for
        self._steps += frozen.steps
        try:
            self._books = self._books.freeze(frozen.delta)
        except ValueError as error:
            return [*self._begin_phase(now), Report("delta_dropped", {"reason": str(error)})]
        actions = self._begin_phase(now)
        running = self._cohorts.get(cohort)
        is_due = running is not None and running.member.state in {State.AWAIT_KEYS, State.PREPARING}
        if running is None or not is_due or running.member.outcome:
            self._books = self._books.thaw()  # over, or sealed without this member while it froze
            return [*actions, *self._hurry(), *self._consider(now)]
        self._frozen_for = cohort
        age = max(0, running.member.cohort.roster.round - 1 - phase.began_round)
        contribution = Contribution(self._books.to_give, age)
        return [*actions, *self._to_cohort(cohort, Contributed(contribution), now)]

    def _on_trainer_failed(self, reason: str) -> list[Step]:
        """The phase's work is lost, and only that: the residual is here and the trainer may come back."""
        self._trainer_fault = reason
        self._phase = None
        self._evaluating = False
        return [*self._rendezvous.withdraw(), Report("trainer_failed", {"reason": reason})]

    # --- the history -----------------------------------------------------------------------------------------

    def _learn(self, learned: Learned, now: float) -> list[Step]:
        before, round_ = self._stand, self._replica.round
        self._replica.apply(learned.changes, learned.round)
        self._model = self._replica.model()
        if learned.round > round_:
            self._grown_at = now
        actions: list[Step] = [Persist(None, ledger.held((*learned.aggregates, *learned.again)))]
        if self._phase is not None:
            actions.append(Rebase(self._stand - before))
        for known in learned.aggregates:
            actions += self._inform_members(known)
            actions.append(Report("folded", {"round": known.body.round, "aggregate": known.id.hex()[:16]}))
        if self._public:
            ids = [known.id for known in learned.aggregates]
            actions += [TellGuests(data) for data in public_announcement.announcements(learned.round, ids)]
        if self._pending is not None:
            leader = self._pending.message.sender
            try:
                actions += self._on_roster(self._pending.message, now)
            except PeerViolation as violation:
                self._pending = None
                actions += self._blame(leader, str(violation))
        judged = self._judge_checkpoint(learned.aggregates, now)
        return [*actions, *judged, *self._grown(now)]

    def _adopt(self, adopted: Adopted, now: float) -> list[Step]:
        """Go on from a checkpoint, with all that this device knew besides."""
        before, old = self._stand, self._history
        if len(self._strikes) and isinstance(
            adopted.history.take_back(self._struck, self._strikes.digest()), Waiting
        ):
            self._catch_up.refuse(now)  # what is taken back is hidden in it
            return [
                Report(
                    "checkpoint_refused",
                    {"peer": adopted.giver.hex()[:16], "reason": "it hides sums that were taken back"},
                )
            ]
        self._history, self._replica = adopted.history, adopted.replica
        self._add(old.held())
        self._model = self._replica.model()
        self._grown_at = now
        actions: list[Step] = [
            Persist(None, ledger.adopted(adopted.signed, adopted.encoded)),
            Report(
                "caught_up",
                {"from": old.round, "round": self._history.round, "peer": adopted.giver.hex()[:16]},
            ),
        ]
        if self._phase is not None:
            actions.append(Rebase(self._stand - before))
        self._doubt = Doubt(adopted.signed, self._swarm.manifest)
        return [*actions, *self._sync.adopt(self._history, adopted.giver, now), *self._grown(now)]

    # --- what is taken back ----------------------------------------------------------------------------------

    @property
    def _struck(self) -> Effective:
        return self._strikes.effective()

    def _not_struck(self, peers: list[bytes]) -> list[bytes]:
        """Those that others sum with. Nobody leaves itself out: a leader may be the last to hear of it."""
        struck = self._struck.since
        return [peer for peer in peers if peer not in struck or peer == self._me] if struck else peers

    def _on_strike(self, question: Strike) -> list[Step]:
        """Answered when it is durable; at once where it cannot be."""
        refusal = self._refuses_to_strike(question)
        if refusal:
            return [Answered(question, refusal)]
        # Of two the earlier round counts, and nothing may replace it on the disk.
        said = [each.since for each, _ in self._striking.values() if each.device == question.device]
        known = self._strikes.by(self._me, question.device)
        since = min([question.since, *said, *([] if known is None else [known])])
        self._strikes_asked += 1
        raw = strike(self._identity, self._swarm.id, question.device, since)
        self._striking[self._strikes_asked] = question, raw
        key = read_strike(raw, self._swarm.id).key
        return [Persist(("strike", self._strikes_asked), (Put(STRIKES_TABLE, key, raw),))]

    def _refuses_to_strike(self, question: Strike) -> str:
        """Why this device cannot; nothing if it can."""
        if question.device == self._me:
            return "a device does not strike itself; to take it out of the swarm: gossamer leave"
        if not self._strikes.may(self._me):
            others = f", or {STRIKERS} of the devices that it has itself invited as inviters" * self.certifies
            return (
                f"only the founder of this swarm ({peer_id(self._swarm.manifest.founder)}) can take sums back{others}; ask them, "
                "with this device's peer id; for this device alone: gossamer peers block"
            )
        if not 1 <= question.since <= ROUND_MAX:
            return f"rounds are numbered from 1; this swarm is in round {self._history.round}"
        if self._strikes.by(self._me, question.device) is None and self._strikes.is_full(self._me):
            return "this device strikes as many others as it can"
        return "too much is being stored; ask again" if len(self._striking) >= STRIKING_MAX else ""

    def _on_strike_durable(self, number: int, now: float) -> list[Step]:
        question, raw = self._striking.pop(number)
        return [*self._take_strikes((raw,), self._me, now), Answered(question)]

    def _take_strikes(self, statements: Sequence[bytes], source: bytes, now: float) -> list[Step]:
        """Keep what is news, hand it on, and fold without what it takes out."""
        records: list[Record] = []
        news: list[bytes] = []
        actions: list[Step] = []
        out, counted = self._struck, self._strikes.digest()
        for raw in statements:
            try:
                kept = self._strikes.add(raw, self._history.get)
            except PeerViolation as violation:
                # What came before it holds, and is acted upon: else a neighbour could keep a strike from taking effect.
                actions += self._blame(source, str(violation))
                break
            if kept:
                records += kept
                news.append(raw)
                self._suspicion.blamed(unsigned(raw, self._history.get, self._swarm), self._history.round)
            else:
                actions += self._fetch_retracted(raw, source, now)
        if self._strikes.digest() == counted:
            return actions
        actions.append(Persist(None, tuple(records)))
        before, sums = self._stand, len(self._history.taken_back())
        applied = self._apply_strikes()
        if not applied:
            actions += self._fold_without_checkpoint(now)
        elif self._phase is not None:
            actions.append(Rebase(self._stand - before))
        if self._struck == out:
            return actions  # of what changes nothing yet neighbours hear when their histories differ
        if self._me in self._struck.since:
            actions += self._rendezvous.withdraw()
        told = len(self._history.taken_back()) - sums
        facts: dict[str, object] = {"statements": len(news), "sums": told, "by": source.hex()[:16]}
        return [
            *actions,
            *(
                action
                for peer in self._membership.links()
                if peer != source
                for action in self._say_strikes(peer, news)
            ),
            Report("taken_back", facts),
            *self._evaluate(self._model, now),
        ]

    def _fetch_retracted(self, raw: bytes, source: bytes, now: float) -> list[Step]:
        """A checkpoint names sums whose bodies are not here; without one, nobody can tell whether its retraction holds."""
        said = read_strike(raw, self._swarm.id)
        if not isinstance(said, Retraction) or said.aggregate not in self._history or source == self._me:
            return []
        return [*self._sync.pull(source, [said.aggregate], now)]

    def _recall_strikes(self, statements: Sequence[bytes]) -> None:
        """At the start. Where a checkpoint hides what is taken back, everything is folded again."""
        for raw in statements:
            with contextlib.suppress(PeerViolation):
                self._strikes.add(raw, self._history.get)
        if not self._apply_strikes():
            self._fold_anew()

    def _apply_strikes(self) -> bool:
        """Fold without what is taken back; False where the checkpoint that this history began from hides it."""
        changes = self._history.take_back(self._struck, self._strikes.digest())
        if isinstance(changes, Waiting):
            return False
        if changes:
            self._replica.apply(changes, self._history.round)
            self._model = self._replica.model()
        return True

    def _tell_strikes(self, peer: bytes, now: float) -> list[Step]:
        """To a neighbour whose history differs: it may be by them."""
        last = self._strikes_told.get(peer)
        if not len(self._strikes) or (last is not None and now - last < STRIKES_S):
            return []
        self._strikes_told[peer] = now
        return self._say_strikes(peer, self._strikes.all())

    @staticmethod
    def _say_strikes(peer: bytes, statements: Sequence[bytes]) -> list[Step]:
        parts = [statements[at : at + TOLD_MAX] for at in range(0, len(statements), TOLD_MAX)]
        return [Send(peer, channel_frame(StrikesMessage(tuple(part)))) for part in parts]

    def _judge_checkpoint(self, learned: Sequence[Verified], now: float) -> list[Step]:
        """Compare what later cohorts signed as state with what this device folds from the checkpoint that it adopted."""
        for known in learned:
            state = self._state_due(known.body.round, known.body.parents) if self._doubt else None
            if self._doubt is None or not state:
                continue
            holds = self._doubt.judge(known, state)
            if holds is not None:
                self._doubt = None
                return [] if holds else self._give_up_checkpoint(now)
        return []

    def _give_up_checkpoint(self, now: float) -> list[Step]:
        """Somebody lied about the model: fold everything from the first round, and take nobody's word for it."""
        self._checkpoints_refuted += 1
        report = Report("checkpoint_false", {"next": "everything is folded again from the first round"})
        return [report, *self._fold_without_checkpoint(now)]

    def _fold_without_checkpoint(self, now: float) -> list[Step]:
        before = self._stand
        self._fold_anew()
        self._catch_up.refuse(now)
        actions: list[Step] = [Persist(None, (Drop("checkpoint", b""),))]
        if self._phase is not None:
            actions.append(Rebase(self._stand - before))
        return [*actions, *self._sync.begin_anew(self._history), *self._grown(now)]

    def _fold_anew(self) -> None:
        """From the first round, what is held of it."""
        held = self._history.held()
        manifest = self._swarm.manifest
        self._history = History(manifest, self._swarm.id)
        self._replica = self._opener.replica(manifest, self._layout, self._initial)
        self._doubt = None
        self._apply_strikes()
        self._add(held)
        self._model = self._replica.model()

    def _grown(self, now: float) -> list[Step]:
        """The history has reached another round, or may have."""
        actions: list[Step] = []
        if self._finished:
            self._phase = None
            actions += self._rendezvous.withdraw()
        else:
            actions += self._rendezvous.advance(self._turns.next_round, drawn=self._turns.drawn)
        if self._nobody_wants(self._phase, now):
            actions += self._give_up()
        phase = self._phase
        if phase is None and not self._trainer_fault:
            actions += self._begin_phase(now)
        elif phase is not None and phase.steps and not phase.eligible and self._leads:
            phase.eligible, phase.ready_at = True, now
        return [*actions, *self._approach(), *self._evaluate(self._model, now), *self._consider(now)]

    def _inform_members(self, known: Verified) -> list[Step]:
        actions: list[Step] = []
        for part in known.body.parts:
            running = self._cohorts.get(part.roster)
            # Others can name this cohort in a body of their own, but not with its members: those would have to sign.
            if running is not None and part.members == running.member.cohort.names:
                cohort = running.member.cohort
                outvoted = running.member.refuses(known.id)  # or the others are blind
                shown_by = running.member.offered_by(known.id) or cohort.aggregators[0]
                if outvoted:
                    self._suspicion.rejected(known.contributors, cohort.members, shown_by)
                    self._blame_aggregators(running.member)
                else:
                    self._suspicion.held(known.contributors, cohort.members, shown_by)
                    self._credit(running.member, known.id)
                if running.auditor is not None:
                    alarmed = cohort.roster.round < self._alarmed_until
                    actions += running.auditor.held(known.id, self._clock, alarmed=alarmed, outvoted=outvoted)
                actions += running.member.learned(unpack_members(part.contributors, len(part.members)))
            elif not self._is_thin(known):
                self._suspicion.held(known.contributors)
        return actions

    def _evaluate(self, model: NDArray[np.float32], now: float) -> list[Step]:
        if self._evaluating or self._trainer_fault or (now < self._evaluate_after and not self._finished):
            return []
        self._evaluating = True
        self._evaluate_after = now + EVALUATE_S
        return [Evaluate(self._history.round, model)]

    # --- after a restart -------------------------------------------------------------------------------------

    def _restore(self, remembered: ledger.Remembered, initial: NDArray[np.int64]) -> None:
        manifest = self._swarm.manifest
        held = [check(each, manifest, self._layout, self._swarm.id) for each in remembered.aggregates]
        base = remembered.adopted
        if base is not None:
            taken = checkpoint.parse(base.checkpoint, manifest, self._layout)
            [signed] = [known for known in held if known.id == base.signed]
            self._history, self._replica = checkpoint.restore(taken, signed, manifest, self._layout, initial)
            self._doubt = Doubt(signed, manifest)
        self._add(held)
        self._model = self._replica.model()

    def _add(self, aggregates: Sequence[Verified]) -> None:
        """What was held before."""
        for known in aggregates:
            with contextlib.suppress(PeerViolation):  # as in `gossip.history.sync`: t members signed nonsense
                outcome = self._history.add(known)
                if isinstance(outcome, Added):
                    self._replica.apply(outcome.changes, self._history.round)

    def _resume(self, remembered: ledger.Remembered) -> list[Step]:
        """Cohorts whose debit was open when this node stopped: ask how they ended, and abort what still can be."""
        actions: list[Step] = []
        for cohort_id, frame in remembered.rosters.items():
            cohort = open_roster(self._swarm, open_frame(self._swarm.id, frame))
            member = Member(cohort, self._identity, None, Terms(self._codec, self._layout, ()), self._entropy)
            self._remember_cohort(Running(member, None))
            vote = remembered.votes.get(cohort_id)
            actions += member.resume(vote)
        for known in self._history.held():  # whether it counts or not: a debit in it is no open one
            actions += self._inform_members(known)
        if remembered.adopted is not None and self._doubt is None:
            actions.append(Persist(None, (Drop("checkpoint", b""),)))  # it hid what was taken back
        return actions

    # --- what a person asks ----------------------------------------------------------------------------------

    @property
    def certifies(self) -> bool:
        """Whether certificates say who belongs."""
        return self._swarm.manifest.certifies

    def belongs(self, peer: bytes) -> bool:
        """Whether a device is a member of this swarm."""
        return self._membership.belongs(peer)

    def model(self) -> NDArray[np.float32]:
        """The replica as the trainer sees it, float32 of shape (parameters,), read-only."""
        return self._model

    def devices(self) -> list[bytes]:
        """All other devices that a person may mean."""
        known = {
            *self._membership.live(self._clock),
            *self._handshake.blocked,
            *self._handshake.admission.all(),
            *self._strikes.devices(),
            *(peer for known in self._history.held() for peer in known.contributors),
        }
        return sorted(known - {self._me})

    def status(self, now: float) -> dict[str, object]:
        self._clock = now
        doing, waits_for = self._doing()
        accuracy_round, accuracy = self._accuracy or (None, None)
        masks_off = "" if self._swarm.manifest.cohorts.masks else MASKS_OFF
        return {
            "doing": doing,
            "waits_for": waits_for,
            "warning": "; ".join(
                filter(None, (masks_off, self._handshake.warning(), self._struck_warning()))
            ),
            "round": self._history.round,
            "rounds": self._swarm.manifest.training.rounds,
            "replica_sha256": self._replica.sha256(),
            "history_digest": self._history.digest().hex(),
            "heads": [head.hex() for head in self._history.heads()],
            "aggregates": len(self._history),
            "live": [peer_id(peer) for peer in self._membership.live(now)],
            "neighbours": [peer_id(peer) for peer in sorted(self._membership.neighbours)],
            "contributions": self._contributions,
            "cohorts_aborted": self._aborted,
            "sums_refused": self._suspicion.refused,
            "checkpoints_refuted": self._checkpoints_refuted,
            "struck": self.struck(),
            "sums_taken_back": len(self._history.taken_back()),
            "accuracy": accuracy,
            "accuracy_round": accuracy_round,
            "examples": self._examples,
            "steps": self._steps + (self._phase.steps if self._phase else 0),
            "settled": self._finished and self._busy is None,
        }

    def _struck_warning(self) -> str:
        since = self._struck.since.get(self._me)
        if since is None:
            return ""
        return (
            f"what this device has given since round {since} does not count, and nobody sums with it any more: the founder of the "
            "swarm, or those whom it has invited, have struck it; ask them why"
        )

    def struck(self) -> list[dict[str, object]]:
        """Who is struck, by how many; `since` is null and nothing is taken out where too few have signed."""
        since, founder = self._struck.since, self._swarm.manifest.founder
        sums = Counter(
            peer
            for known in self._history.taken_back()
            for peer in known.contributors
            if since.get(peer, ROUND_MAX + 1) <= known.body.round
        )
        return [
            {
                "peer_id": peer_id(device),
                "since": since.get(device),
                "sums": sums[device],
                "by_founder": self._strikes.by(founder, device) is not None,
                "signed": self._strikes.signers(device),
                "needed": STRIKERS,
            }
            for device in self._strikes.devices()
        ]

    def _doing(self) -> tuple[str, str]:
        """In words: what this node does, and what it waits for."""
        live = len(self._membership.live(self._clock))
        n_min = self._swarm.manifest.cohorts.n_min
        busy = self._busy
        if self._finished:
            return f"has finished its {self._history.round} rounds", "nothing"
        if self._trainer_fault:
            return "does not train", f"its trainer, which {self._trainer_fault}"
        if busy is not None:
            member = busy.member
            return (
                f"sums with {member.cohort.size - 1} others in round {member.cohort.roster.round}",
                member.state.value,
            )
        alone = "rests" if self._phase is None else "trains on its own data"
        if self._me in self._struck.since:
            return alone, "nothing: it is struck, and nobody sums with it"
        if live < n_min:
            return alone, (
                f"{n_min - live} more device{'s' if n_min - live > 1 else ''}: {live} of at least {n_min} are here, and a "
                "sum of two would show each the other's update"
            )
        if self._rendezvous.asked:
            return "trains, and has something to give", "a cohort to form"
        if self._pending is not None:
            return "catches up", "the parents of its cohort's roster"
        if self._phase is None:
            ahead = self._swarm.manifest.training.rounds_ahead
            return alone, f"the lottery to draw it for one of the next {ahead} rounds"
        if self._phase.eligible:
            return "trains, and has something to give", f"the lottery of round {self._history.round + 1}"
        return alone, "enough local steps to have something to give"

    def aggregates(self) -> list[dict[str, object]]:
        """Every aggregate that counts, oldest first."""
        return [
            self._describe(known)
            for round_ in range(1, self._history.round + 1)
            for known in self._history.counted(round_)
        ]

    def _describe(self, known: Verified) -> dict[str, object]:
        manifest = self._swarm.manifest
        cohorts = [read_members(part.members, manifest) for part in known.body.parts]
        return {
            "id": known.id.hex(),
            "round": known.body.round,
            "roster": [peer_id(member) for members in cohorts for member in members],
            "contributors": [peer_id(member) for member in known.contributors],
            "weight": max(known.body.weights),
            "size_bytes": len(pack(known.aggregate)),
        }

    def _report(self, phase: str, round_: int, roles: tuple[str, ...] = ()) -> Report:
        return Report("phase", {"phase": phase, "cohort": "", "round": round_, "roles": list(roles)})


def _trained(ready: Message) -> int:
    """The segments that a READY's sender has trained, as bits."""
    return ready.body.trained if isinstance(ready.body, Ready) else 0
