"""One cohort's secure sum, as one of its members runs it.

The protocol is the double masking of Bonawitz et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning" (CCS 2017), among n members who met late and have no server.
A member's vector travels as

    y_i = q_i + PRG(b_i) + sum over j in U1 of +-PRG(s_ij)    (mod 2^b, lane by lane)

The pairwise masks s_ij cancel in the sum. b_i hides a vector whose owner was taken for lost but was
only late. Two of the members add up (`gossip.secure_sum.aggregator`). They are trusted for availability and
for nothing else: fewer than t = ceil(3n/4) colluding members, aggregators included, learn nothing
but the sum of the others (docs/threat-model.md).

    state         on                                  does                                    goes to
    ------------  ----------------------------------  --------------------------------------  ------------
    AwaitKeys     (start)                             SHARES, asks for the contribution
                  Contributed                         keeps it
                  KEYS_SET                            encodes and masks (a job)               Preparing
    Preparing     Contributed, if it came later       encodes and masks (a job)
                  Computed                            debits (durable), then MASKED           AwaitSeal
    AwaitSeal     SEAL_PROPOSAL                       votes SEAL (durable)
                  TimerFired "abort"                  votes ABORT (durable), or says its SEAL to all
                  votes of which none will have t     waits a step, and settles what is known
                  SEAL_CERTIFICATE                    UNMASK                                  AwaitSum
                  ABORT_CERTIFICATE, t ABORT_VOTEs    refunded                                Over
    AwaitSum      BODY_PROPOSAL                       looks at what the sum does to the model
                  Inspected, and it may be            signs this one body (durable)
                  Inspected, and it may not           says it all to the second
                  another body, of the other one      asks for an audit: Disputed
                  an audit disproves the signed one   looks at the other, and signs that (durable)
                  the same again, or nothing came     votes REJECT (durable)
                  RESULT                              the signed body is certified            Over
                  REJECT_CERTIFICATE, t REJECT_VOTEs  refunded                                Over
    any           TimerFired "turn", first one lost   says it all to the second
                  TimerFired "end"                    settles what is known                   Over

In a swarm without masks (`cohorts.masks` in its manifest; nobody founds one by accident) everybody
is in U1 from the roster on. A member begins at Preparing, and its vector is y_i = q_i. A certified
seal is followed by the sum at once, as there is no mask to take off. All else is the same, so the
two differ by what hiding costs and by nothing that is learned.

A member speaks to the first aggregator alone. It keeps what it says, and says the same frames
(Ed25519 is deterministic) to the second one when that one's turn has come: when the first one's
connection broke, when this member refuses the first one's sum, or SECOND_AGGREGATOR_STEPS after the
roster, the keys or the seal. So the second can take over at every step. ABORT and REJECT go to all.

**Look before you sign.** Nobody can see that a sum is honest, but everybody can see what it does.
Before a member signs a body it compares the loss of a few of its own examples with this sum and
without it, and looks for its own part in it (`gossip.secure_sum.harm`). It signs no sum that does harm or has
too little of it, and none whose ranges are far from what it has measured itself.

A first body that does harm may be the aggregator's forgery, so the member asks the second
aggregator for its own. If that one is the same, or none comes, a member has spoilt the sum, and
REJECT is the durable alternative to a signature. t REJECT votes prove that no sum of this cohort
will ever count. They refund everybody, as ABORT does before a seal. A bad sum needs t signatures:
three quarters of a cohort that are bad, or blind (their examples show no harm).

**Two sums.** Where some members see harm and others do not, a forgery and the true sum would share
the signatures, and neither would have enough. But only one of the two is what was sealed. So a
member that has signed one and is shown another has the cohort's vectors shown to it
(`gossip.secure_sum.auditor`), adds up for itself, and signs the true one as well if it had signed the forged
one. A forged sum that has t signatures all the same counts for nobody twice, as of two aggregates
with the same contributors one counts, and is taken back by those who have found it out.

Whoever has signed a body signs REJECT as well once half of the cohort has, as no body will have t
signatures then. So a sum and a refund can both come of one cohort only if a quarter of it lies, or
more.

A refusal tells the cohort one bit about the refuser's examples, and a forger chooses the question.
Each example's loss counts up to `models.training.LOSS_MAX`, a member looks at two bodies of a
cohort at most, and only devices that were drawn together ask each other.

What is never bent (design, section 4; each is an invariant of tests/simulation):
 1. Of one member only one of its two secrets is opened, and only under a seal that t members
    signed.
 2. A vote is SEAL of one content, or ABORT. Then it is one body, or REJECT, or both where half of
    the cohort has rejected; and the true body, where this member has itself added up that the first
    one is forged. It is durable before it is sent.
 3. The debit is durable before the first byte of MASKED leaves. Only a certificate that the vector
    is in no sum refunds it.
 5. A sum covers only segments that enough of its contributors trained to hide each of them.
Rule 4 was about a second phase and went with it (docs/decisions/0024). The others keep their
numbers.
"""

from collections import Counter
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from msgspec import structs

from crypto.certificates import certify, statement_holds
from crypto.half_aggregation import COMMITMENT_BYTES, HalfAggregate, summable
from crypto.identity import Identity, verify
from crypto.masking import Lanes, apply_masks
from gossip.body import Body, Part, aggregate_id
from gossip.codec.blocks import Integers, Layout
from gossip.codec.codec import Codec, Contribution, Encoded, Plan
from gossip.codec.entropy_coding import unsqueeze
from gossip.codec.ranges import strange_ranges
from gossip.cohort.roster import Cohort, Secrets
from gossip.errors import PeerViolation
from gossip.events import (
    CancelTimer,
    Compute,
    Computed,
    Persist,
    Persisted,
    PersistFailed,
    Put,
    Report,
    Send,
    SetTimer,
    Tag,
    TimerFired,
)
from gossip.frames import Kind, Message, sign_frame, statement
from gossip.history.aggregate import MEMBERSHIP_OF_MANIFEST, Aggregate, Signatures, body_statement, check_body
from gossip.quorum import pack_members, unpack_members
from gossip.secure_sum.audit import Sealed
from gossip.secure_sum.derived import (
    commitment_hash,
    keys_context,
    pair_mask,
    seal_hash,
    self_mask,
    vector_hash,
)
from gossip.secure_sum.messages import (
    AbortCertificate,
    AbortVote,
    BodyProposal,
    BodyVote,
    Commitment,
    Committed,
    KeysSet,
    Masked,
    RejectCertificate,
    RejectVote,
    Result,
    SealCertificate,
    SealProposal,
    SealVote,
    Shares,
    Unmask,
)
from gossip.secure_sum.shares import Deal, Holding, Secret, deal, receive
from gossip.wire import Wire, pack

# In units of the manifest's step time, counted from the moment its keys arrived here.
# From then on only the second aggregator's proposal can be signed, and it is spoken to as well.
SECOND_AGGREGATOR_STEPS = 2.0
ABORT_STEPS = 4.0
END_STEPS = 8.0
KEYS_STEPS = 4.0  # counted from the roster
REJECT_STEPS = 1.0  # counted from a refusal: for the second aggregator to offer another sum


class Outcome(Enum):
    """How a cohort ended for one member: what the books do with its contribution."""

    INCLUDED = "included"
    REFUNDED = "refunded"  # a certificate shows that the vector is in no sum
    UNKNOWN = "unknown"  # counts as included: a delta may be lost but never counted twice
    UNTOUCHED = "untouched"  # no vector ever left


@dataclass(frozen=True, slots=True)
class Contribute:
    """Asks the node to freeze its local phase; the answer is Contributed."""

    cohort: bytes


@dataclass(frozen=True, slots=True)
class Contributed:
    contribution: Contribution


@dataclass(frozen=True, slots=True)
class Spend:
    """Asks the node to debit what is about to leave; the answer is Persisted(tag)."""

    cohort: bytes
    encoded: Encoded
    tag: Tag


@dataclass(frozen=True, slots=True)
class Inspect:
    """Asks the node what this sum would do to the model; the answer is Inspected(tag), or none where it cannot tell."""

    body: Body
    tag: Tag


@dataclass(frozen=True, slots=True)
class Inspected:
    tag: Tag
    reason: str  # why this device would not sign it (`gossip.secure_sum.harm`); "" if it would


@dataclass(frozen=True, slots=True)
class Refused:
    """This member signs no such sum. `certain`: the other aggregator's, which it did sign, was another one."""

    cohort: bytes
    aggregator: bytes  # who offered it
    reason: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class Disputed:
    """This member has signed one aggregator's sum, and the other one shows another."""

    cohort: bytes
    aggregator: bytes  # the other one


@dataclass(frozen=True, slots=True)
class Rejected:
    """T members will sign no sum of this cohort."""

    cohort: bytes
    contributors: list[int]


@dataclass(frozen=True, slots=True)
class Failed:
    """No sum came of this cohort, and its members did not refuse one: it aborted, or ran out of time."""

    cohort: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    aggregate: Aggregate


@dataclass(frozen=True, slots=True)
class Settled:
    cohort: bytes
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The member has forgotten its keys: it only answers questions from now on."""

    cohort: bytes


Action: TypeAlias = (
    Send
    | SetTimer
    | CancelTimer
    | Persist
    | Compute
    | Report
    | Contribute
    | Spend
    | Inspect
    | Refused
    | Disputed
    | Rejected
    | Failed
    | Certified
    | Settled
    | Closed
)
CohortEvent: TypeAlias = Message | Contributed | Computed | Inspected | Persisted | PersistFailed | TimerFired


NOTHING_DEALT = Commitment(b"")


@dataclass(frozen=True, slots=True)
class Keys:
    """U1 as a KEYS_SET showed it."""

    commitments: dict[int, Commitment]  # by owner, ascending
    holdings: dict[int, Holding]  # the shares this member holds; a liar's are missing
    context: bytes

    @property
    def members(self) -> list[int]:
        return list(self.commitments)


@dataclass(frozen=True, slots=True)
class SignedBody:
    id: bytes
    body: Body


class State(Enum):
    """Where a member stands; the value says what it waits for."""

    AWAIT_KEYS = "the cohort's keys"
    PREPARING = "its own contribution to be masked"
    AWAIT_SEAL = "the seal"
    AWAIT_SUM = "the sum"
    OVER = "nothing"


@dataclass(slots=True)
class Ballot:
    """The votes as this member knows them."""

    vote: bytes | None = None  # a seal's hash, b"" for ABORT
    durable: bool = False
    contents: dict[int, bytes] = field(default_factory=dict)  # index -> the vote that was heard; at most n
    aborts: dict[int, bytes] = field(default_factory=dict)  # index -> signature; at most n
    proposal: SealProposal | None = None  # that it votes for
    certificate: SealCertificate | None = None  # whole
    abort_certificate: AbortCertificate | None = None

    @property
    def sealed(self) -> SealProposal | None:
        return None if self.certificate is None else self.certificate.proposal


@dataclass(frozen=True, slots=True)
class MaskJob:
    """Encode a contribution and hide it: the heavy part of MASKED."""

    codec: Codec
    layout: Layout
    plan: Plan
    contribution: Contribution
    cohort: Cohort
    owner: int
    members: list[int]
    secrets: Secrets | None  # None: without masks
    rounding: bytes

    def run(self) -> Encoded:
        encoded = self.codec.encode(
            self.plan,
            self.contribution,
            self.rounding,
            layout=self.layout,
            compression=self.cohort.swarm.manifest.compression,
        )
        if self.secrets is None:
            return encoded
        pair = self.secrets.mask
        masks = [self_mask(self.cohort, self.owner, self.secrets.seed)]
        masks += [pair_mask(self.cohort, self.owner, pair, j) for j in self.members if j != self.owner]
        apply_masks(encoded.vector, self.plan.lanes, masks)
        return encoded


@dataclass(frozen=True, slots=True)
class Terms:
    """What the members of a cohort agree on besides the roster: pure functions of the history they share."""

    codec: Codec
    layout: Layout
    parents: tuple[Body, ...]

    def plan(self, cohort: Cohort) -> Plan:
        return self.codec.plan(
            layout=self.layout,
            compression=cohort.swarm.manifest.compression,
            cohort=cohort.id,
            parents=self.parents,
            travelling=cohort.travelling,
        )


class Member:
    """Pure: `handle(event, now) -> actions`. One object a cohort; messages to itself come back as messages."""

    def __init__(
        self,
        cohort: Cohort,
        identity: Identity,
        secrets: Secrets | None,
        terms: Terms,
        entropy: Callable[[int], bytes],
        measured: Sequence[Integers] = (),
    ) -> None:
        """Without secrets: a member that restarted with a debit open. It can do nothing but ask and abort.

        `measured`: its ranges of late (`gossip.codec.codec.strange_ranges`).
        """
        self.cohort = cohort
        self.terms = terms
        self.index = cohort.index(identity.public_key)
        self.state = State.AWAIT_KEYS
        self.keys: Keys | None = None
        self.context = b""
        self.ballot = Ballot()
        self.outcome: Outcome | None = None
        self.body: SignedBody | None = None  # the one body this member signs
        self.reject_certificate: RejectCertificate | None = None
        self._offered: dict[bytes, SignedBody] = {}  # by aggregator: at most two
        self._looked: dict[bytes, str] = {}  # by body: why it is refused; "" if it is not
        self.sealed: Sealed | None = None  # what an audit needs
        self._disproved = False  # it has signed a forged body, and may sign the true one
        self._rejecting = False  # REJECT was voted
        self._rejects: dict[int, bytes] = {}  # index -> signature; at most n
        self._ranges: Integers | None = None  # this member's own votes
        self._measured = tuple(measured)
        self._identity = identity
        self._secrets: Secrets | None = secrets
        self._entropy = entropy
        self._deal: Deal | None = None
        self._committed: Committed | None = None
        self._contribution: Contribution | None = None
        self._vector: bytes | None = None  # the one masked vector
        self._keys_at = 0.0  # when they arrived
        self.first_gone = False
        self._turned = False  # the second aggregator is spoken to as well
        self._said: list[Wire] = []  # SHARES, MASKED, a vote, UNMASK, a signature
        self._retold = 0  # so many of them the second aggregator has, too
        self._spent = False  # the debit was asked for
        self._left = False  # the vector left, or may have left

    # --- what the aggregator beside it and the node read -----------------------------------------------------

    @property
    def step_s(self) -> float:
        return self.cohort.swarm.manifest.cohorts.step_ms / 1000

    def plan(self) -> Plan:
        return self.terms.plan(self.cohort)

    def contributors(self) -> list[int] | None:
        """U2, once it is certified."""
        sealed = self.ballot.sealed
        return None if sealed is None else unpack_members(sealed.contributors, self.cohort.size)

    # --- events ----------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        if not self.cohort.masked:
            return self._start_bare(now)
        self._deal = deal(self.cohort, self.index, self._open_secrets, self._entropy)
        self._committed = self._commit(self._deal.commitment)
        return [
            self._timer("end", now + KEYS_STEPS * self.step_s),
            *self._await_turn(now),
            *self._to_aggregator(Shares(self._committed, self._deal.envelopes)),
            # Now: the step that a slow device is at ends while keys are exchanged.
            Contribute(self.cohort.id),
            self.report("SHARES"),
        ]

    def _start_bare(self, now: float) -> list[Action]:
        """Without masks nothing is dealt: all are in U1."""
        commitments = dict.fromkeys(range(self.cohort.size), NOTHING_DEALT)
        self.context = keys_context([])
        self.keys = Keys(commitments, {}, self.context)
        self.state = State.PREPARING
        return [*self._begin(now), Contribute(self.cohort.id), self.report("MASKS_OFF")]

    def resume(self, vote: bytes | None) -> list[Action]:
        """After a restart: if the ledger holds no seal, ABORT, which is also the question how it ended."""
        self.state = State.OVER
        self._spent = self._left = True
        if vote:
            self.ballot.vote, self.ballot.durable = vote, True
            return self._settle(Outcome.UNKNOWN, "restarted after voting for a seal")
        return [*self._settle(Outcome.UNKNOWN, "restarted with a debit open"), *self._vote(b"")]

    def lost(self, peer: bytes) -> list[Action]:
        """A connection broke. If it was the first aggregator's, the second one's turn has come (no safety rests on it)."""
        if peer != self.cohort.aggregators[0] or self.first_gone or self.state is State.OVER:
            return []
        self.first_gone = True
        return self.turn()

    def remind(self, peer: bytes) -> list[Action]:
        """A member came back into reach: it may know how a cohort ended that is open here."""
        ballot = self.ballot
        if self.outcome is not Outcome.UNKNOWN or ballot.vote != b"" or not ballot.durable:
            return []
        return [self._answer(peer, AbortVote())] if peer in self.cohort.members else []

    def handle(self, event: CohortEvent, now: float) -> list[Action]:
        match event:
            case Message():
                return self._on_message(event, now)
            case Contributed(contribution):
                return self._on_contributed(contribution)
            case Computed(_, Encoded() as encoded):
                return self._on_encoded(encoded)
            case Inspected((_, _, "look", bytes() as body), reason):
                return self._on_inspected(body, reason, now)
            case Persisted((_, _, "debit")):
                return self._on_debited()
            case Persisted((_, _, "vote")):
                return self._on_voted()
            case Persisted((_, _, "body")):
                return self._on_body_signed()
            case PersistFailed(tuple() as tag, reason):
                return self._on_persist_failed(tag, reason)
            case TimerFired((_, _, "abort")):
                return self._on_abort_due()
            case TimerFired((_, _, "turn")):
                return self.turn()
            case TimerFired((_, _, "reject")):
                return self._reject()
            case TimerFired((_, _, "end")):
                return [Failed(self.cohort.id), *self._end("the cohort ran out of time")]
        return []

    def learned(self, contributors: list[int]) -> list[Action]:
        """The cohort's aggregate came by the history: t members stand for it, as they do for a seal."""
        return self._conclude(contributors, "the aggregate arrived")

    def _on_message(self, message: Message, now: float) -> list[Action]:
        sender = self.cohort.index(message.sender)
        match message.body:
            case KeysSet() as keys:
                return self._on_keys(message.sender, keys, now)
            case SealProposal() as proposal:
                return self._on_proposal(message, proposal, now)
            case SealCertificate() as certificate:
                return self._on_seal(message, certificate, now)
            case SealVote(seal):
                return self._on_others_vote(sender, seal, now)
            case AbortVote():
                return [*self._on_abort_vote(message, sender), *self._on_others_vote(sender, b"", now)]
            case AbortCertificate() as certificate:
                return self._on_abort(certificate)
            case BodyProposal(sums, ranges):
                return self._on_body(message.sender, sums, ranges, now)
            case RejectVote():
                return self._on_reject_vote(message, sender, now)
            case RejectCertificate() as certificate:
                return self._on_reject(certificate)
        return []

    # --- keys ------------------------------------------------------------------------------------------------

    def _on_keys(self, sender: bytes, keys_set: KeysSet, now: float) -> list[Action]:
        self._from_aggregator(sender)
        if self.state is not State.AWAIT_KEYS:
            return []
        if not keys_set.committed:
            return [Failed(self.cohort.id), *self._end("too few members dealt their keys")]
        keys, faults = self._open_keys(keys_set)
        self._follow(sender)
        self.keys = keys
        self.context = keys.context
        self.state = State.PREPARING
        return [*faults, *self._begin(now), *self._encode(), self.report("KEYS_SET")]

    def _open_keys(self, keys_set: KeysSet) -> tuple[Keys, list[Action]]:
        """Raises PeerViolation if the set is not fit to mask under; a single liar only loses its share here."""
        owners = unpack_members(keys_set.owners, self.cohort.size)
        if not len(owners) == len(keys_set.committed) == len(keys_set.envelopes):
            raise PeerViolation("KEYS_SET: owners, commitments and envelopes differ in number")
        commitments: dict[int, Commitment] = {}
        holdings: dict[int, Holding] = {}
        faults: list[Action] = []
        for owner, committed, box in zip(owners, keys_set.committed, keys_set.envelopes, strict=True):
            commitments[owner] = open_commitment(self.cohort, owner, committed)
            if owner == self.index and self._deal is not None:
                if committed != self._committed:
                    raise PeerViolation("KEYS_SET: another commitment under this member's name")
                holdings[owner] = self._deal.own
                continue
            try:
                holdings[owner] = receive(self.cohort, self.index, self._open_secrets.channel, owner, box)
            except PeerViolation as violation:
                faults.append(self.report("SHARE_REFUSED", owner=owner, reason=str(violation)))
        if self.index not in commitments:
            raise PeerViolation("KEYS_SET: leaves this member out")
        if len(commitments) < self.cohort.least:
            raise PeerViolation(f"KEYS_SET: {len(commitments)} of at least {self.cohort.least} members")
        context = keys_context([(owner, commitment_hash(each)) for owner, each in commitments.items()])
        return Keys(commitments, holdings, context), faults

    @property
    def _open_secrets(self) -> Secrets:
        if self._secrets is None:
            raise PeerViolation("this cohort is over here")
        return self._secrets

    # --- the contribution ------------------------------------------------------------------------------------

    def _begin(self, now: float) -> list[Action]:
        self._keys_at = now
        return [
            *self._await_turn(now),
            self._timer("abort", now + ABORT_STEPS * self.step_s),
            self._timer("end", now + END_STEPS * self.step_s),
        ]

    def _on_contributed(self, contribution: Contribution) -> list[Action]:
        if self.state not in {State.AWAIT_KEYS, State.PREPARING}:
            return []
        self._contribution = contribution
        return self._encode()

    def _encode(self) -> list[Action]:
        if self._contribution is None or self.keys is None:
            return []
        job = MaskJob(
            self.terms.codec,
            self.terms.layout,
            self.plan(),
            self._contribution,
            self.cohort,
            self.index,
            self.keys.members,
            self._open_secrets if self.cohort.masked else None,
            self._entropy(32),
        )
        return [Compute(self._tag("mask"), job)]

    def _on_encoded(self, encoded: Encoded) -> list[Action]:
        if self.state is not State.PREPARING or self._vector is not None or self.outcome is not None:
            return []
        self._vector = encoded.vector.tobytes()
        self._ranges = encoded.ranges
        self._spent = True
        return [Spend(self.cohort.id, encoded, self._tag("debit"))]

    def _on_debited(self) -> list[Action]:
        """Design, rule 3: only now may the vector leave, and only where it can still be summed."""
        if self.state is not State.PREPARING or self.ballot.vote is not None:
            return []
        self._left = True
        return self._send_masked()

    def _send_masked(self) -> list[Action]:
        if self._vector is None:
            return []
        self.state = State.AWAIT_SEAL
        return [*self._to_aggregator(Masked(self.context, self._vector)), self.report("MASKED")]

    # --- the seal --------------------------------------------------------------------------------------------

    def _on_proposal(self, message: Message, proposal: SealProposal, now: float) -> list[Action]:
        self._from_aggregator(message.sender)
        if self.state not in {State.PREPARING, State.AWAIT_SEAL}:
            return []
        ballot = self.ballot
        content = seal_hash(pack(proposal))
        if ballot.vote is not None:
            # A vote for it may be lost; it is repeated to whom asks, and is no second one.
            return self._repeat(message.sender, SealVote) if ballot.vote == content and ballot.durable else []
        if message.sender != self.cohort.aggregators[0 if not self._first_is_late(now) else 1]:
            return [self.report("SEAL_REFUSED", reason="not this aggregator's turn")]
        self._refuse_unsignable(proposal)
        ballot.proposal = proposal
        return self._vote(content)

    def _refuse_unsignable(self, proposal: SealProposal) -> None:
        contributors = unpack_members(proposal.contributors, self.cohort.size)
        if proposal.context != self.context or self.keys is None:
            raise PeerViolation("SEAL: of other keys than this member's")
        if len(contributors) != len(proposal.vectors) or any(
            i not in self.keys.commitments for i in contributors
        ):
            raise PeerViolation("SEAL: names members who dealt no keys")
        if not self.cohort.hides(contributors):
            raise PeerViolation(f"SEAL: {len(contributors)} contributors hide nobody well enough")
        if self.index in contributors:
            mine = proposal.vectors[contributors.index(self.index)]
            if self._vector is None or mine != self.vector_hash(self.index, self._vector):
                raise PeerViolation("SEAL: a vector that this member never sent")

    def vector_hash(self, owner: int, vector: bytes) -> bytes:
        return vector_hash(self.context, self.cohort.members[owner], vector)

    def _first_is_late(self, now: float) -> bool:
        return self.first_gone or now >= self._keys_at + SECOND_AGGREGATOR_STEPS * self.step_s

    def _on_abort_due(self) -> list[Action]:
        ballot = self.ballot
        if ballot.certificate is not None or self.state is State.OVER:
            return []
        if ballot.vote is None:
            return self._vote(b"")
        return self._to_all(SealVote(ballot.vote)) if ballot.vote and ballot.durable else []

    def _on_others_vote(self, sender: int, content: bytes, now: float) -> list[Action]:
        """Said to all because no seal was certified in time. Where no content can have t votes, there is nothing to wait for."""
        ballot = self.ballot
        ballot.contents[sender] = content
        if ballot.certificate is not None or self.state is State.OVER:
            return []
        unheard = self.cohort.size - len(ballot.contents)
        if max(Counter(ballot.contents.values()).values()) + unheard >= self.cohort.threshold:
            return []
        return [self._timer("end", now + self.step_s)]

    def _vote(self, content: bytes) -> list[Action]:
        """Design, rule 2: one content, or ABORT, and durable before anybody hears of it."""
        self.ballot.vote = content
        record = Put("vote", self.cohort.id, content)
        return [Persist(self._tag("vote"), (record,))]

    def _on_voted(self) -> list[Action]:
        self.ballot.durable = True
        decided = self.state is State.OVER and self.outcome is not Outcome.UNKNOWN
        return [] if decided else self._cast()

    def _cast(self) -> list[Action]:
        vote = self.ballot.vote
        if vote is None:
            return []
        if vote:
            return [*self._to_aggregator(SealVote(vote)), self.report("SEAL")]
        return [*self._to_all(AbortVote()), self.report("ABORT")]

    def _on_seal(self, message: Message, certificate: SealCertificate, now: float) -> list[Action]:
        ballot = self.ballot
        if ballot.certificate is not None and message.sender == self.cohort.aggregators[1]:
            # It has taken over, as others refuse what the first one showed, and asks who has not spoken to it yet.
            return [] if self._turned else self.turn()
        if ballot.certificate is not None or ballot.abort_certificate is not None:
            return []
        proposal = certificate.proposal
        if proposal is None and ballot.vote == certificate.seal:
            proposal = ballot.proposal
        if proposal is None:
            return []  # after a restart, say: the aggregate will tell
        if seal_hash(pack(proposal)) != certificate.seal:
            raise PeerViolation("SEAL_CERTIFICATE: the proposal is not the one that was signed")
        self._check_quorum(Kind.SEAL_VOTE, SealVote(certificate.seal), certificate)
        contributors = unpack_members(proposal.contributors, self.cohort.size)
        ballot.certificate = structs.replace(certificate, proposal=proposal)
        actions: list[Action] = []
        if self.index not in contributors:
            actions += self._conclude(contributors, "the seal leaves this member out", over=False)
        if proposal.context != self.context or self.state is State.OVER:
            return actions
        if self.keys is not None:
            self.sealed = Sealed(
                self.cohort,
                self.context,
                self.keys.commitments,
                contributors,
                proposal.vectors,
                self.plan().lanes,
            )
        self.state = State.AWAIT_SUM
        self._follow(message.sender)
        return [
            *actions,
            *self._await_turn(now),
            *self._open_shares(certificate.seal, contributors),
            self.report("UNMASK"),
        ]

    def _open_shares(self, seal: bytes, contributors: list[int]) -> list[Action]:
        """Design, rule 1: which of an owner's two secrets is opened follows from the one certified seal alone."""
        if self.keys is None or not self.cohort.masked:
            return []
        holdings = self.keys.holdings
        shares = tuple(
            holdings[owner].opening(Secret.SEED if owner in contributors else Secret.KEY)
            if owner in holdings
            else b""
            for owner in self.keys.members
        )
        return self._to_aggregator(Unmask(seal, shares))

    # --- aborts ----------------------------------------------------------------------------------------------

    def _on_abort_vote(self, message: Message, sender: int) -> list[Action]:
        ballot = self.ballot
        if self.reject_certificate is not None:
            return [self._answer(message.sender, self.reject_certificate)]
        if ballot.certificate is not None:
            return [self._answer(message.sender, ballot.certificate)]
        if ballot.abort_certificate is not None:
            return [self._answer(message.sender, ballot.abort_certificate)]
        if not summable(message.sender, message.signature):
            raise PeerViolation("ABORT_VOTE: a signature that no certificate can hold")
        ballot.aborts[sender] = message.signature
        if len(ballot.aborts) < self.cohort.threshold:
            return []
        half = certify(*self.stated(Kind.ABORT_VOTE, AbortVote()), self.cohort.members, ballot.aborts)
        certificate = AbortCertificate(pack_members(sorted(ballot.aborts), self.cohort.size), *half)
        return [*self._hand_out(certificate, ballot.aborts), *self._on_abort(certificate)]

    def _hand_out(
        self, certificate: AbortCertificate | RejectCertificate, votes: Container[int]
    ) -> list[Action]:
        """To those whose votes are not in it. Where nobody knows all, a vote may have reached the hubs only: they tell everybody."""
        is_hub = self.cohort.members[self.index] in self.cohort.hubs
        others = [i for i in range(self.cohort.size) if i not in votes or (is_hub and i != self.index)]
        return [self._answer(self.cohort.members[i], certificate) for i in others]

    def _on_abort(self, certificate: AbortCertificate) -> list[Action]:
        ballot = self.ballot
        if ballot.certificate is not None or ballot.abort_certificate is not None:
            return []
        self._check_quorum(Kind.ABORT_VOTE, AbortVote(), certificate)
        ballot.abort_certificate = certificate
        return [Failed(self.cohort.id), *self._conclude([], "the cohort aborted")]

    # --- the sum ---------------------------------------------------------------------------------------------

    def _on_body(self, sender: bytes, coded: bytes, ranges: tuple[int, ...], now: float) -> list[Action]:
        self._from_aggregator(sender)
        if self.state is not State.AWAIT_SUM or sender in self._offered:
            return []
        lanes = self.plan().lanes
        sums = unsqueeze(coded, Lanes(0, lanes.narrow, lanes.narrow_bits))
        body = self.compose_body(sums, ranges)
        identity = aggregate_id(body)
        if self.body is not None and self.body.id == identity:
            return self._repeat(sender, BodyVote)
        self.refuse_invalid(body)
        self._offered[sender] = SignedBody(identity, body)
        if self.body is not None:
            return [self.report("TWO_SUMS", other=sender.hex()[:16]), Disputed(self.cohort.id, sender)]
        if identity in self._looked:
            return self._decide(sender, now)
        if any(other.id == identity for peer, other in self._offered.items() if peer != sender):
            return []  # is being looked at
        return [Inspect(body, self._tag("look", identity))]

    def _on_inspected(self, identity: bytes, reason: str, now: float) -> list[Action]:
        offered = {peer: body for peer, body in self._offered.items() if body.id == identity}
        if self.state is not State.AWAIT_SUM or self.body is not None or not offered:
            return []
        contributors = len(self.contributors() or ())
        [body, *_] = offered.values()
        self._looked[identity] = reason
        measured = [] if self._ranges is None else [*self._measured, self._ranges]
        if not reason and measured and strange_ranges(body.body.ranges, contributors, measured):
            self._looked[identity] = "its ranges are far from what this device has measured"
        return [action for peer in offered for action in self._decide(peer, now)]

    def _decide(self, sender: bytes, now: float) -> list[Action]:
        """What follows from the look at what this aggregator has offered."""
        offered = self._offered[sender]
        reason = self._looked[offered.id]
        if self.body is not None or self._rejecting:
            return []
        if not reason:
            self.body = offered
            told: list[Action] = [CancelTimer(self._tag("reject"))]
            told += [
                Refused(self.cohort.id, peer, self._looked[other.id], certain=True)
                for peer, other in self._offered.items()
                if other.id != offered.id and self._looked.get(other.id)
            ]
            record = Put("body", self.cohort.id, offered.id)
            return [*told, Persist(self._tag("body"), (record,))]
        refused: list[Action] = [Refused(self.cohort.id, sender, reason)]
        offers = {other.id for other in self._offered.values()}
        if len(self._offered) == len(self.cohort.aggregators) and all(map(self._looked.get, offers)):
            return [*refused, *self._reject()]
        timer = self._timer("reject", now + REJECT_STEPS * self.step_s)
        if sender == self.cohort.aggregators[0]:
            self.first_gone = True
            return [*refused, timer, *self.turn()]
        return [*refused, timer]

    def disproved(self, true: bytes, now: float) -> list[Action]:
        """This member has added up for itself: the body that it signed is forged, and this one is what was sealed."""
        offered = [peer for peer, body in self._offered.items() if body.id == true]
        if self.state is not State.AWAIT_SUM or self.body is None or self.body.id == true or not offered:
            return []
        self.body, self._disproved = None, True
        [sender, *_] = offered
        if true in self._looked:
            return [*self.turn(), *self._decide(sender, now)]
        return [*self.turn(), Inspect(self._offered[sender].body, self._tag("look", true))]

    def _reject(self) -> list[Action]:
        signed = self.body is not None or self._disproved
        if self.state is not State.AWAIT_SUM or signed or self._rejecting:
            return []
        self._rejecting = True
        return [Persist(self._tag("body"), (Put("body", self.cohort.id, b""),))]

    def _on_reject_vote(self, message: Message, sender: int, now: float) -> list[Action]:
        if self.reject_certificate is not None:
            return [self._answer(message.sender, self.reject_certificate)]
        if not summable(message.sender, message.signature):
            raise PeerViolation("REJECT_VOTE: a signature that no certificate can hold")
        self._rejects[sender] = message.signature
        if len(self._rejects) < self.cohort.threshold:
            return self._yield(now)
        half = certify(*self.stated(Kind.REJECT_VOTE, RejectVote()), self.cohort.members, self._rejects)
        certificate = RejectCertificate(pack_members(sorted(self._rejects), self.cohort.size), *half)
        return [*self._hand_out(certificate, self._rejects), *self._on_reject(certificate)]

    def _yield(self, now: float) -> list[Action]:
        """So many have signed REJECT that no body will have t signatures: whoever signed one joins them, or goes on.

        Half of the cohort is asked for, and not just more than n - t: else a single liar, who signs REJECT and the body as well,
        could have everybody refunded of a sum that counts.
        """
        if (
            len(self._rejects) <= self.cohort.size - self.cohort.threshold
            or self.state is not State.AWAIT_SUM
        ):
            return []
        ending = [self._timer("end", now + self.step_s)]
        signed = self.body is not None or self._disproved
        if not signed or self._rejecting or 2 * len(self._rejects) < self.cohort.size:
            return [*ending]
        self._rejecting = True
        return [*ending, Persist(self._tag("body"), (Put("body", self.cohort.id, b""),))]

    def _on_reject(self, certificate: RejectCertificate) -> list[Action]:
        if self.reject_certificate is not None or self.ballot.abort_certificate is not None:
            return []
        self._check_quorum(Kind.REJECT_VOTE, RejectVote(), certificate)
        self.reject_certificate = certificate
        told = Rejected(self.cohort.id, self.contributors() or [])
        return [told, *self._conclude([], "its members refused the sum")]

    @property
    def has_refused(self) -> bool:
        """Whether this member has looked at a sum of this cohort that it would not sign."""
        return any(self._looked.values())

    @property
    def saw_one_sum(self) -> bool:
        """Whether both aggregators have shown this member the same."""
        return len(self._offered) == 2 and len({body.id for body in self._offered.values()}) == 1

    def refuses(self, aggregate: bytes) -> bool:
        """Whether this member has looked at this sum, and would not sign it."""
        return bool(self._looked.get(aggregate))

    @property
    def offered(self) -> Mapping[bytes, SignedBody]:
        """What the aggregators have shown."""
        return self._offered

    def offered_by(self, aggregate: bytes) -> bytes | None:
        """The aggregator that showed this sum first, if this member saw it."""
        return next((peer for peer, body in self._offered.items() if body.id == aggregate), None)

    def refuse_invalid(self, body: Body) -> None:
        """One member's vector can lead the sum out of its bounds: nobody would take such an aggregate."""
        check_body(body, self.cohort.swarm.manifest, self.terms.layout, self.cohort.swarm.id)

    def compose_body(self, sums: bytes, ranges: tuple[int, ...]) -> Body:
        """The aggregate's body: all but the two sums follows from the roster, the certified seal and the plan."""
        plan = self.plan()
        contributors = self.contributors() or []
        part = Part(
            self.cohort.id,
            self.cohort.names,
            MEMBERSHIP_OF_MANIFEST,
            pack_members(contributors, self.cohort.size),
        )
        return Body(
            version=1,
            swarm=self.cohort.swarm.id,
            parts=(part,),
            parents=self.cohort.roster.parents,
            round=self.cohort.roster.round,
            codec=self.terms.codec.id,
            basis=plan.basis,
            blocks=self.terms.layout.pack_blocks(plan.support),
            exponents=plan.exponent_bytes,
            sums=sums,
            weights=self.cohort.weights(contributors),
            ranges=ranges,
            state=self.cohort.roster.state,
        )

    def _on_body_signed(self) -> list[Action]:
        if self._rejecting:
            return [*self._to_all(RejectVote()), self.report("REJECT")]
        if self.body is None:
            return []
        stated = body_statement(self.cohort.swarm.id, self.cohort.id, self.body.id)
        vote = BodyVote(self.body.id, self._identity.sign("body", stated))
        return [*self._to_aggregator(vote), self.report("RESULT")]

    def completed(self, result: Result) -> Aggregate | None:
        """The aggregate whose signatures these are said to be, if this member has its body; whoever takes it checks them."""
        if self.body is None or self.body.id != result.aggregate:
            return None
        return Aggregate(self.body.body, (Signatures(result.signers, result.commitments, result.scalar),))

    # --- the end ---------------------------------------------------------------------------------------------

    def _conclude(self, contributors: list[int], reason: str, *, over: bool = True) -> list[Action]:
        """A certificate tells who is in the sum. It settles this member's account once and for all."""
        if self.index in contributors:
            outcome = Outcome.INCLUDED
        else:
            outcome = Outcome.REFUNDED if self._spent else Outcome.UNTOUCHED
        actions = self._settle(outcome, reason)
        return [*actions, *self._close()] if over else actions

    def _end(self, reason: str) -> list[Action]:
        """No certificate came. What left counts as included; what never left certainly is not."""
        outcome = Outcome.UNKNOWN if self._left else Outcome.REFUNDED if self._spent else Outcome.UNTOUCHED
        return [*self._settle(outcome, reason), *self._close()]

    def _on_persist_failed(self, tag: Tag, reason: str) -> list[Action]:
        """Nothing that waits for a durable fact happens: no vector leaves, no vote is cast."""
        return self._end(f"the {tag[2]} could not be stored: {reason}")

    def _settle(self, outcome: Outcome, reason: str) -> list[Action]:
        if self.outcome is not None and self.outcome is not Outcome.UNKNOWN:
            return []
        if self.outcome is outcome:
            return []
        self.outcome = outcome
        return [Settled(self.cohort.id, outcome, reason)]

    def _close(self) -> list[Action]:
        """Forget all secrets and vectors; certificates stay, to answer members who were away."""
        if self.state is State.OVER:
            return []
        self.state = State.OVER
        self._secrets = self._deal = self._contribution = self._vector = self.keys = None
        self._said.clear()
        tags = (self._tag("end"), self._tag("turn"), self._tag("abort"), self._tag("reject"))
        return [*map(CancelTimer, tags), Closed(self.cohort.id)]

    # --- small words -----------------------------------------------------------------------------------------

    def _from_aggregator(self, sender: bytes) -> None:
        if sender not in self.cohort.aggregators:
            raise PeerViolation("speaks as an aggregator and is none")

    def _check_quorum(
        self,
        kind: Kind,
        vote: SealVote | AbortVote | RejectVote,
        proof: SealCertificate | AbortCertificate | RejectCertificate,
    ) -> None:
        signers = unpack_members(proof.signers, self.cohort.size)
        if len(signers) * COMMITMENT_BYTES != len(proof.commitments):
            raise PeerViolation(f"{kind.name}: signers and commitments differ in number")
        half = HalfAggregate(proof.commitments, proof.scalar)
        stated = self.stated(kind, vote)
        if not statement_holds(*stated, self.cohort.members, signers, half, self.cohort.threshold):
            raise PeerViolation(
                f"{kind.name}: a certificate without {self.cohort.threshold} valid signatures"
            )

    def stated(self, kind: Kind, vote: SealVote | AbortVote | RejectVote) -> tuple[str, bytes]:
        """The domain and the message that a member's vote in this cohort signs."""
        return statement(self.cohort.swarm.id, kind, self.cohort.id, pack(vote))

    def _commit(self, commitment: Commitment) -> Committed:
        domain, stated = statement(self.cohort.swarm.id, Kind.COMMITMENT, self.cohort.id, pack(commitment))
        return Committed(commitment, self._identity.sign(domain, stated))

    def _frame(self, body: Wire) -> bytes:
        return sign_frame(self._identity, self.cohort.swarm.id, body, cohort=self.cohort.id)

    # --- whose turn it is ------------------------------------------------------------------------------------

    @property
    def second_is_due(self) -> bool:
        """The second aggregator has what the members say from now on, and may speak."""
        return self._turned

    def _follow(self, sender: bytes) -> None:
        """Who has gone on with what the second aggregator said stays with it, and waits for the first no more."""
        self.first_gone = self.first_gone or sender == self.cohort.aggregators[1]

    def _await_turn(self, now: float) -> list[Action]:
        """A step has been taken: the first aggregator has its time for the next one, if it is there."""
        self._turned = self.first_gone
        timer = self._timer("turn", now + SECOND_AGGREGATOR_STEPS * self.step_s)
        return [timer, *(self._retell() if self._turned else ())]

    def turn(self) -> list[Action]:
        """The second aggregator's turn has come."""
        if self.state is State.OVER:
            return []
        self._turned = True
        return self._retell()

    def _retell(self) -> list[Action]:
        """Say everything again, to the second aggregator: the very same frames, so nothing is said twice differently."""
        untold, self._retold = self._said[self._retold :], len(self._said)
        if (
            self.outcome is not None
        ):  # sealed without this member: its debit is taken back, so its vector stays here
            untold = [body for body in untold if not isinstance(body, Masked)]
        return [Send(self.cohort.aggregators[1], self._frame(body)) for body in untold]

    def _to_aggregator(self, body: Wire) -> list[Action]:
        """To the first; in its turn to the second too, for a connection that broke here may be in order elsewhere."""
        self._said.append(body)
        first, second = self.cohort.aggregators
        told: list[Action] = [Send(first, self._frame(body))]
        if self._turned:
            return [*told, *self._retell()]
        # The first one's own are in the keys and seals that it offers, and must not be gone with it.
        is_needed = isinstance(body, Shares | Masked) and self._leads
        return [*told, Send(second, self._frame(body))] if is_needed else told

    @property
    def _leads(self) -> bool:
        return self.cohort.members[self.index] == self.cohort.aggregators[0]

    def _repeat(self, aggregator: bytes, kind: type[Wire]) -> list[Action]:
        return [Send(aggregator, self._frame(body)) for body in self._said if isinstance(body, kind)]

    # --- frames and reports ----------------------------------------------------------------------------------

    def _to_all(self, body: Wire) -> list[Action]:
        frame = self._frame(body)
        return [Send(peer, frame) for peer in self.cohort.members]

    def _answer(self, peer: bytes, body: Wire) -> Action:
        return Send(peer, self._frame(body))

    def _tag(self, *name: Hashable) -> Tag:
        return ("sum", self.cohort.id, *name)

    def _timer(self, name: str, at: float) -> Action:
        return SetTimer(self._tag(name), at)

    def report(self, name: str, **fields: object) -> Action:
        me = self.cohort.members[self.index]
        roles = [
            role
            for role, peer in zip(
                ("leader", "aggregator", "second aggregator"),
                (self.cohort.leader, *self.cohort.aggregators),
                strict=True,
            )
            if peer == me
        ] or ["member"]
        facts = {"cohort": self.cohort.id.hex()[:16], "round": self.cohort.roster.round, "roles": roles}
        return Report("phase", {"phase": name, **facts, **fields})


def open_commitment(cohort: Cohort, owner: int, committed: Committed) -> Commitment:
    """What this member committed to in this cohort; raises PeerViolation if it did not sign it."""
    commitment = committed.commitment
    stated = statement(cohort.swarm.id, Kind.COMMITMENT, cohort.id, pack(commitment))
    if not verify(cohort.members[owner], *stated, committed.signature):
        raise PeerViolation("COMMITMENT: the signature does not hold in this cohort")
    return commitment
