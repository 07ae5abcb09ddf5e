"""Adding up: the part that two members of every cohort play beside their own (`gossip.secure_sum.member`).

An aggregator routes and adds; it is trusted for availability and for nothing else. All it ever holds is masked
vectors and, under a certified seal, the shares that unmask their sum. The first aggregator acts as soon as it has
everything, or when a step's time is up with enough. The second is a member like the others until its turn comes, because the
first one's connection broke or it has been silent for too long: then the members say everything to it
as well, and it goes on from where the first one was. Both arrive at the same body, because the sum is exact and the rest of
the body follows from the roster and the seal; so it does not matter whose body the members sign.

    collects                          until                           then sends to all members
    --------------------------------  ------------------------------  ---------------------------
    SHARES, or DECLINE                all, or time and max(t, n_min)  KEYS_SET, each with its envelopes
    MASKED of the same context        all of U1, or time and as many  SEAL_PROPOSAL
    SEAL_VOTE                         t                               SEAL_CERTIFICATE
    UNMASK                            t true shares of every owner    (UnmaskJob) BODY_PROPOSAL
    BODY_VOTE                         t                               RESULT, also of what this aggregator itself refuses

Without masks it begins at MASKED, and adds up as soon as a seal is certified.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import structs

from crypto.agreement import KeyPair
from crypto.certificates import certify
from crypto.half_aggregation import summable
from crypto.identity import Identity, verify
from crypto.masking import Lanes, Mask, add_vectors, apply_masks
from gossip.body import aggregate_id
from gossip.codec.codec import decode_sum, publish
from gossip.codec.entropy_coding import squeeze
from gossip.cohort.roster import Cohort
from gossip.errors import PeerViolation
from gossip.events import Compute, Computed, Send, SetTimer, Tag, TimerFired
from gossip.frames import Kind, Message, sign_frame
from gossip.history.aggregate import Aggregate, Signatures, body_statement
from gossip.quorum import pack_members
from gossip.secure_sum.audit import KEPT_BYTES
from gossip.secure_sum.derived import pair_mask, seal_hash, self_mask
from gossip.secure_sum.member import (
    SECOND_AGGREGATOR_STEPS,
    Action,
    Certified,
    CohortEvent,
    Member,
    SignedBody,
    State,
    open_commitment,
)
from gossip.secure_sum.messages import (
    ENVELOPE_BYTES,
    SHARE_BYTES,
    AuditAnswer,
    AuditRequest,
    BodyProposal,
    BodyVote,
    Commitment,
    Decline,
    KeysSet,
    Masked,
    Result,
    SealCertificate,
    SealProposal,
    SealVote,
    Shares,
    Unmask,
)
from gossip.secure_sum.shares import rebuild_key, rebuild_seed
from gossip.wire import Wire, pack

PATIENCE_STEPS = (1.0, SECOND_AGGREGATOR_STEPS + 0.5)  # by rank: how long to wait for what is missing


@dataclass(frozen=True, slots=True)
class UnmaskJob:
    """Rebuild the secrets and take every mask off the sum; a PeerViolation if the shares do not give them (yet)."""

    cohort: Cohort
    lanes: Lanes
    vectors: Sequence[bytes]  # of the contributors, in their order
    contributors: list[int]
    commitments: dict[int, Commitment]  # of U1
    shares: dict[int, dict[int, bytes]]  # owner -> holder -> share, t at least, some of them lies

    def run(self) -> "Total | PeerViolation":
        doubted: dict[int, None] = {}
        secrets: dict[int, bytes] = {}
        try:
            masks = list(self._masks(doubted, secrets))
        except PeerViolation as violation:
            return violation
        total = self.lanes.zeros()
        for vector in self.vectors:
            add_vectors(total, np.frombuffer(vector, np.uint8), self.lanes)
        apply_masks(total, self.lanes, masks)
        return Total(total, tuple(sorted(doubted)), secrets)

    def _masks(self, doubted: dict[int, None], secrets: dict[int, bytes]) -> list[Mask]:
        """What is left on the sum, with the sign that takes it off. Who lied about one owner is doubted about the next."""
        left = []
        for owner, commitment in self.commitments.items():
            last, shares = tuple(doubted), self.shares[owner]
            if owner in self.contributors:
                seed, found = rebuild_seed(self.cohort, owner, commitment, shares, last)
                secrets[owner] = seed
                left.append(self_mask(self.cohort, owner, seed))
            else:
                # What `owner` would have added towards each contributor is what they miss to cancel.
                seed, found = rebuild_key(self.cohort, owner, shares, last)
                secrets[owner] = seed
                pair = KeyPair.from_seed(seed, self.cohort.members[owner])
                gone = (pair_mask(self.cohort, owner, pair, j) for j in self.contributors)
                left += [Mask(mask.key, -mask.sign) for mask in gone]
            doubted |= dict.fromkeys(found)
        return [Mask(mask.key, -mask.sign) for mask in left]


@dataclass(frozen=True, slots=True)
class Total:
    vector: np.ndarray[tuple[int], np.dtype[np.uint8]]
    doubted: tuple[int, ...]  # holders who opened a share that does not fit: a hint, see crypto.sharing
    secrets: dict[int, bytes]  # by owner of U1: the seed of its mask, or of its key if it dropped out


@dataclass(slots=True)
class Gathered:
    """What the members have said so far; every dict has at most one entry a member."""

    masked: dict[int, Masked] = field(default_factory=dict)
    proposal: SealProposal | None = None
    votes: dict[bytes, dict[int, bytes]] = field(default_factory=dict)  # seal -> index -> signature
    voted: dict[int, bytes] = field(default_factory=dict)  # index -> the one seal it voted for
    unmasks: dict[int, Unmask] = field(default_factory=dict)
    adding: bool = False
    tried: int = 0  # so many holders' shares were not enough, or hid too many lies
    patient: bool = True  # until the time of the current step is up


class Aggregator:
    """Pure, like the member it stands beside and whose knowledge of keys, seals and plans it reads."""

    def __init__(self, member: Member, identity: Identity) -> None:
        self.member = member
        self.cohort = member.cohort
        self.rank = self.cohort.aggregators.index(identity.public_key)
        self._identity = identity
        self._shares: dict[int, Shares] = {}
        self._declined: dict[int, None] = {}
        self._lost: dict[int, None] = {}  # members whose connection broke: nobody waits for them
        self._gathered = Gathered()
        self._patient_for_keys = True
        self._keys_sent = False
        self._body_votes: dict[int, BodyVote] = {}  # at most one a member
        self._first_spoke = False  # the first aggregator has shown the sum
        self._offered: SignedBody | None = None  # what this aggregator has added up
        self._secrets: dict[int, bytes] | None = None  # with which it did
        self._shown: dict[int, None] = {}  # to whom they were shown
        self._relieved = False
        self._done = False

    def start(self, now: float) -> list[Action]:
        if not self.cohort.masked:
            return self._on_keys_known(now)
        return [SetTimer(self._tag("keys"), now + self._patience_s)]

    def handle(self, event: CohortEvent, now: float) -> list[Action]:
        """Called after the member has handled the same event."""
        if isinstance(event, Message) and isinstance(event.body, AuditRequest):
            return self._on_audit_request(self.cohort.index(event.sender))
        if self._done:
            return []
        match event:
            case Message():
                return self._on_message(event, now)
            case TimerFired((_, _, "keys")):
                self._patient_for_keys = False
                return self._offer_keys()
            case TimerFired((_, _, "turn")):
                return self._take_over()
            case TimerFired((_, _, "masked")):
                self._gathered.patient = False
                return self._propose_seal()
            case TimerFired((_, _, "unmask")):
                self._gathered.patient = False
                return self._add_up()
            case Computed(_, Total() as total):
                return self._show(total)
            case Computed((_, _, "unmask"), PeerViolation() as violation):
                return self._on_not_rebuilt(violation)
        return []

    def _on_message(self, message: Message, now: float) -> list[Action]:
        sender = self.cohort.index(message.sender)
        match message.body:
            case Shares() as shares:
                return self._on_shares(sender, shares)
            case Decline():
                return self._on_decline(sender)
            case KeysSet() if message.sender in self.cohort.aggregators:
                return self._on_keys_known(now)
            case Masked() as masked:
                return self._on_masked(sender, masked)
            case SealProposal() as proposal:
                return self._on_proposal(proposal)
            case SealVote(seal):
                return self._on_vote(sender, message, seal)
            case SealCertificate():
                return self._on_certified(now)
            case Unmask() as unmask:
                return self._on_unmask(sender, unmask)
            case BodyProposal():
                self._first_spoke = True
                return self._finish()
            case BodyVote() as vote:
                return self._on_body_vote(sender, vote)
        return []

    def lost(self, peer: bytes) -> list[Action]:
        """A connection broke: act on what there is, if nobody else is waited for."""
        if self._done or peer not in self.cohort.members:
            return []
        self._lost[self.cohort.members.index(peer)] = None
        if self.rank != 0 and peer == self.cohort.aggregators[0]:
            return self._take_over()
        return self._offer_keys() if self.member.state is State.AWAIT_KEYS else self._go_on()

    def _go_on(self) -> list[Action]:
        return [*self._propose_seal(), *self._add_up()]

    def _take_over(self) -> list[Action]:
        """The second aggregator's turn has come: the others may have said it already, and wait for an answer."""
        if self.rank == 0 or not self._speaks:
            return []
        self._lost[self.cohort.members.index(self.cohort.aggregators[0])] = None
        if self.member.state is State.AWAIT_KEYS:
            return self._offer_keys()
        return [*self._offer_keys_again(), *self._repeat(range(self.cohort.size)), *self._go_on()]

    @property
    def _speaks(self) -> bool:
        """The second aggregator is silent as long as it may still hear the first."""
        return self.rank == 0 or self.member.second_is_due

    # --- SHARES -> KEYS_SET ----------------------------------------------------------------------------------

    def _on_shares(self, sender: int, shares: Shares) -> list[Action]:
        if sender in self._shares or (self._keys_sent and self.rank == 0):
            return []
        open_commitment(self.cohort, sender, shares.committed)
        if len(shares.envelopes) != self.cohort.size:
            raise PeerViolation("SHARES: not one envelope a member")
        for receiver, box in enumerate(shares.envelopes):
            if len(box) != (0 if receiver == sender else ENVELOPE_BYTES):
                raise PeerViolation(f"SHARES: an envelope of {len(box)} bytes")
        self._shares[sender] = shares
        return self._offer_keys_again() if self.member.keys is not None else self._offer_keys()

    def _on_decline(self, sender: int) -> list[Action]:
        self._declined[sender] = None
        return self._offer_keys() if self.cohort.masked else self._propose_seal()

    def _offer_keys(self) -> list[Action]:
        answered = {**self._shares, **self._declined, **self._lost}
        complete = len(answered) == self.cohort.size and self._speaks
        if self._keys_sent or self.member.keys is not None or not (complete or not self._patient_for_keys):
            return []
        self._keys_sent = True
        owners = sorted(self._shares)
        if len(owners) < self.cohort.least:
            return [self._send(self.cohort.members[owner], KeysSet(b"", (), ())) for owner in owners]
        return self._tell_keys(owners, owners)

    def _offer_keys_again(self) -> list[Action]:
        """The first aggregator was lost while it sent its KEYS_SET: the second, which has it, sends the same to the others."""
        keys, masked = self.member.keys, self._gathered.masked
        if keys is None or not self._speaks or any(owner not in self._shares for owner in keys.commitments):
            return []
        if self.member.state not in {State.PREPARING, State.AWAIT_SEAL}:
            return []
        return self._tell_keys(
            keys.members,
            [owner for owner in keys.members if owner != self.member.index and owner not in masked],
        )

    def _tell_keys(self, owners: list[int], receivers: list[int]) -> list[Action]:
        bitmap = pack_members(owners, self.cohort.size)
        committed = tuple(self._shares[owner].committed for owner in owners)
        second = self.cohort.members.index(
            self.cohort.aggregators[1]
        )  # may have to go on from here: hears it first
        return [
            self._send(
                self.cohort.members[receiver],
                KeysSet(
                    bitmap, committed, tuple(self._shares[owner].envelopes[receiver] for owner in owners)
                ),
            )
            for receiver in sorted(receivers, key=lambda index: (index != second, index))
        ]

    def _on_keys_known(self, now: float) -> list[Action]:
        if self.member.keys is None:
            return []
        if self.rank == 0:
            self._shares.clear()
        self._keys_sent = True
        return [
            SetTimer(self._tag("masked"), now + self._patience_s),
            *self._propose_seal(),
        ]

    # --- MASKED -> SEAL_PROPOSAL -> SEAL_CERTIFICATE ---------------------------------------------------------

    def _on_masked(self, sender: int, masked: Masked) -> list[Action]:
        """The first vector counts."""
        if sender in self._gathered.masked:
            return self._repeat([sender])
        if len(masked.vector) != self.member.plan().lanes.size_bytes:
            raise PeerViolation(f"MASKED: a vector of {len(masked.vector)} bytes")
        self._gathered.masked[sender] = masked
        return self._repeat([sender]) or self._propose_seal()

    def _summable(self) -> list[int]:
        """Whose vectors are of this member's context."""
        keys = self.member.keys
        return [
            index
            for index, masked in sorted(self._gathered.masked.items())
            if keys is not None and index in keys.commitments and masked.context == self.member.context
        ]

    def _propose_seal(self) -> list[Action]:
        gathered, keys = self._gathered, self.member.keys
        if gathered.proposal is not None or keys is None or self.member.state is State.AWAIT_SUM:
            return []
        contributors = self._summable()
        answered = {*contributors, *self._lost, *self._declined}
        complete = len(answered & {*keys.commitments}) == len(keys.commitments)
        if not ((complete and self._speaks) or not gathered.patient):
            return []
        if not self.cohort.hides(contributors):
            return []
        gathered.proposal = SealProposal(
            self.member.context,
            pack_members(contributors, self.cohort.size),
            tuple(self.member.vector_hash(index, gathered.masked[index].vector) for index in contributors),
        )
        return self._to_all(gathered.proposal)

    def _repeat(self, receivers: Sequence[int]) -> list[Action]:
        """The second aggregator, in its turn, says again where the sum stands, as the first may have reached only some.

        Who says its vector (again) to it thinks that its turn has come, and may sign what it did not before.
        """
        gathered, certificate, state = self._gathered, self.member.ballot.certificate, self.member.state
        if self.rank == 0 or not self._speaks:
            return []
        if certificate is not None and state is State.AWAIT_SUM:
            silent = [index for index in receivers if index not in gathered.unmasks]
            return self._to([self.cohort.members[index] for index in silent], certificate)
        if gathered.proposal is None or state not in {State.PREPARING, State.AWAIT_SEAL}:
            return []
        return self._to([self.cohort.members[index] for index in receivers], gathered.proposal)

    def _on_proposal(self, proposal: SealProposal) -> list[Action]:
        """The member beside has checked it; it counts here if that member votes for it."""
        if self.member.ballot.vote != seal_hash(pack(proposal)):
            return []
        self._gathered.proposal = proposal
        return self._certify()

    def _on_vote(self, sender: int, message: Message, seal: bytes) -> list[Action]:
        if not summable(message.sender, message.signature):
            raise PeerViolation("SEAL_VOTE: a signature that no certificate can hold")
        gathered = self._gathered
        if gathered.voted.setdefault(sender, seal) != seal:
            raise PeerViolation("SEAL_VOTE: two contents signed")
        gathered.votes.setdefault(seal, {})[sender] = message.signature
        return self._certify()

    def _certify(self) -> list[Action]:
        proposal = self._gathered.proposal
        if proposal is None or self.member.ballot.certificate is not None:
            return []
        seal = seal_hash(pack(proposal))
        votes = self._gathered.votes.get(seal, {})
        if len(votes) < self.cohort.threshold:
            return []
        signers = sorted(votes)
        stated = self.member.stated(Kind.SEAL_VOTE, SealVote(seal))
        half = certify(*stated, self.cohort.members, votes)
        certificate = SealCertificate(seal, pack_members(signers, self.cohort.size), *half, proposal)
        # Who has voted for it has the proposal.
        voters = [self.cohort.members[index] for index in signers]
        others = [peer for peer in self.cohort.members if peer not in voters]
        brief = self._to(voters, structs.replace(certificate, proposal=None))
        return [*brief, *self._to(others, certificate)]

    # --- UNMASK -> the sum -----------------------------------------------------------------------------------

    def _on_certified(self, now: float) -> list[Action]:
        if self.member.state is not State.AWAIT_SUM:
            return []
        self._first_spoke = False
        self._shares.clear()
        self._gathered.patient = True
        timer = SetTimer(self._tag("unmask"), now + self._patience_s)
        return [timer, *self._add_up()]

    def _on_unmask(self, sender: int, unmask: Unmask) -> list[Action]:
        if sender in self._gathered.unmasks:
            return []
        self._gathered.unmasks[sender] = unmask
        if len(self._gathered.unmasks) > self.cohort.size - self.cohort.threshold:
            return [*self._relieve(), *self._add_up()]
        return self._add_up()

    def _relieve(self) -> list[Action]:
        """So many members have turned to the second that the first cannot end this sum without them: all are asked, once."""
        if self.rank == 0 or self._relieved:
            return []
        self._relieved = True
        return [*self.member.turn(), *self._take_over()]

    def _opened(self, seal: bytes, owners: list[int]) -> dict[int, dict[int, bytes]]:
        """Holder -> owner -> share, as far as they are under this seal. Which are true shows when secrets are rebuilt."""
        return {
            holder: {
                owner: share
                for owner, share in zip(owners, unmask.shares, strict=True)
                if len(share) == SHARE_BYTES
            }
            for holder, unmask in sorted(self._gathered.unmasks.items())
            if unmask.seal == seal and len(unmask.shares) == len(owners)
        }

    def _add_up(self) -> list[Action]:
        gathered, keys, certificate = self._gathered, self.member.keys, self.member.ballot.certificate
        sealed, contributors = self.member.ballot.sealed, self.member.contributors()
        if gathered.adding or keys is None or certificate is None or sealed is None or contributors is None:
            return []
        if self.member.state is not State.AWAIT_SUM or (
            not self._speaks and (gathered.patient or self._first_spoke)
        ):
            return []
        opened = self._opened(certificate.seal, keys.members)
        shares = {
            owner: {holder: held[owner] for holder, held in opened.items() if owner in held}
            for owner in keys.members
        }
        masked = self.cohort.masked
        if masked and (
            len(opened) <= gathered.tried
            or any(len(held) < self.cohort.threshold for held in shares.values())
        ):
            return []
        lanes = self.member.plan().lanes
        if any(
            index not in gathered.masked
            or self.member.vector_hash(index, gathered.masked[index].vector) != expected
            for index, expected in zip(contributors, sealed.vectors, strict=True)
        ):
            return []  # sealed by the other aggregator over vectors that never reached this one
        gathered.adding = True
        gathered.tried = len(opened)
        vectors = [gathered.masked[index].vector for index in contributors]
        dealt = keys.commitments if masked else {}
        job = UnmaskJob(self.cohort, lanes, vectors, contributors, dealt, shares if masked else {})
        return [Compute(self._tag("unmask"), job)]

    def _on_not_rebuilt(self, violation: PeerViolation) -> list[Action]:
        """Too many lies among the shares so far: each further holder may make it right."""
        gathered, keys = self._gathered, self.member.keys
        gathered.adding = False
        last = keys is None or not gathered.patient or len(gathered.unmasks) >= len(keys.commitments)
        lost = [self.member.report("SUM_LOST", reason=str(violation))] if last else []
        return [*lost, *self._add_up()]

    def _show(self, total: Total) -> list[Action]:
        certificate, vector = self.member.ballot.certificate, total.vector
        if certificate is None or self.member.state is not State.AWAIT_SUM:
            return []
        refused: list[Action] = [
            self.member.report("SHARE_REFUSED", holder=holder) for holder in total.doubted
        ]
        lanes = self.member.plan().lanes
        contributors = len(self.member.contributors() or [])
        ranges, exact = decode_sum(vector, lanes, contributors)
        # Within its bounds whatever a member has put into its lanes, so that the body is valid: what it does, all look at.
        sums = publish(exact, contributors, self.cohort.swarm.manifest.compression)
        body = self.member.compose_body(sums, ranges)
        self._offered = SignedBody(aggregate_id(body), body)
        vectors = sum(len(masked.vector) for masked in self._gathered.masked.values())
        self._secrets = total.secrets if vectors <= KEPT_BYTES else None
        coded = squeeze(sums, Lanes(0, lanes.narrow, lanes.narrow_bits))
        return [*refused, *self._to_all(BodyProposal(coded, ranges))]

    # --- BODY_VOTE -> RESULT ---------------------------------------------------------------------------------

    def _on_body_vote(self, sender: int, vote: BodyVote) -> list[Action]:
        stated = body_statement(self.cohort.swarm.id, self.cohort.id, vote.aggregate)
        if not verify(self.cohort.members[sender], "body", stated, vote.signature):
            raise PeerViolation("BODY_VOTE: the signature does not hold")
        if not summable(self.cohort.members[sender], vote.signature):
            raise PeerViolation("BODY_VOTE: a signature that no certificate can hold")
        # The last: whoever has signed a forgery first signs the true sum, too.
        self._body_votes[sender] = vote
        return self._finish()

    def _finish(self) -> list[Action]:
        body = self._offered or self.member.body
        if body is None:
            return []
        signed = {
            index: vote.signature for index, vote in self._body_votes.items() if vote.aggregate == body.id
        }
        if len(signed) < self.cohort.threshold:
            return []
        self._done = True
        stated = body_statement(self.cohort.swarm.id, self.cohort.id, body.id)
        half = certify("body", stated, self.cohort.members, signed)
        signatures = Signatures(pack_members(sorted(signed), self.cohort.size), *half)
        aggregate = Aggregate(body.body, (signatures,))
        # Not to itself: what has come as a RESULT is known, and nobody would announce it.
        others = [peer for peer in self.cohort.members if peer != self.cohort.aggregators[self.rank]]
        result = Result(body.id, signatures.signers, signatures.commitments, signatures.scalar)
        return [*self._to(others, result), Certified(aggregate)]

    # --- audits ----------------------------------------------------------------------------------------------

    def _on_audit_request(self, sender: int) -> list[Action]:
        """Show once to each member what was added up, as long as it is kept (`gossip.secure_sum.audit`)."""
        if self._secrets is None or sender in self._shown or self.member.sealed is None:
            return []
        self._shown[sender] = None
        sealed, secrets = self.member.sealed, self._secrets
        vectors = {index: self._gathered.masked[index].vector for index in sealed.contributors}
        return [
            self._send(
                self.cohort.members[sender],
                AuditAnswer(owner, vectors.get(owner, b""), secrets.get(owner, b"")),
            )
            for owner in sealed.commitments
        ]

    def forget(self) -> None:
        """Vectors and opened secrets of a sum that nobody will ask about any more."""
        self._secrets = None
        self._gathered = Gathered()
        self._done = True

    # --- small words -----------------------------------------------------------------------------------------

    @property
    def _patience_s(self) -> float:
        return PATIENCE_STEPS[self.rank] * self.member.step_s

    def _tag(self, *name: Hashable) -> Tag:
        return ("sum", self.cohort.id, *name)

    def _send(self, peer: bytes, body: Wire) -> Action:
        return Send(peer, sign_frame(self._identity, self.cohort.swarm.id, body, cohort=self.cohort.id))

    def _to_all(self, body: Wire) -> list[Action]:
        """The second aggregator hears it before the others, as it may have to go on from there."""
        second = self.cohort.aggregators[1]
        return self._to(sorted(self.cohort.members, key=lambda peer: (peer != second, peer)), body)

    def _to(self, peers: Sequence[bytes], body: Wire) -> list[Action]:
        frame = sign_frame(self._identity, self.cohort.swarm.id, body, cohort=self.cohort.id)
        return [Send(peer, frame) for peer in peers]
