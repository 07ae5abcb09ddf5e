"""Every message, as types with bounds.

One frame carries them all. Its signature covers the swarm, the cohort, the kind and the hash of the
body under a domain of its own, so that a message of one swarm, cohort or kind is never one of another, and a
message that a third party forwards is as good as one from its author.

What two neighbours tell each other and nobody else is not signed (CHANNEL_KINDS): the Noise channel has authenticated
both keys, its protocol's name holds the swarm's id, and its order cannot be changed (docs/decisions/0006). Such a frame
names no sender and bears no signature, and what comes any other way than through its author's own channel is refused.

Byte strings have exact or bounded lengths,
collections have bounds, and `gossip.wire` refuses everything that is not the one canonical encoding.

    rendezvous   READY  ROSTER
    secure sum   SHARES DECLINE KEYS_SET MASKED SEAL_PROPOSAL SEAL_VOTE ABORT_VOTE SEAL_CERTIFICATE ABORT_CERTIFICATE
                 UNMASK BODY_PROPOSAL BODY_VOTE REJECT_VOTE REJECT_CERTIFICATE RESULT AUDIT_REQUEST AUDIT_ANSWER
                 ACCUSATION  (COMMITMENT travels inside SHARES and KEYS_SET)
    history      ANNOUNCE COMPARE HAVE PULL AGGREGATES STRIKES  CHECKPOINT_REQUEST CHECKPOINT_OFFER CHECKPOINT_PART  (unsigned)
    membership   PRESENCE;  GREETING ALIVE  (unsigned)
    admission    CREDENTIAL DENIED HELD_STATEMENTS STATEMENTS  (unsigned: what they carry is)
"""

from enum import IntEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from crypto.hashing import digest
from crypto.identity import Identity, verify
from gossip.admission import STATEMENT_BYTES, STATEMENTS_MAX, Seconds, Why
from gossip.aggregate import Commitments, MemberName, Scalar
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import COHORT_MAX, DEPTH_MAX, TENSORS_MAX, Hash
from gossip.remembered import Remembered
from gossip.strikes import STRIKE_BYTES, TOLD_MAX
from gossip.wire import Wire, longest, pack, unpack

SHORT_HASH_BYTES = 16  # where only a second preimage could do harm; each place says why
SHARE_BYTES = 16
BODY_BYTES = 8 << 20  # the largest body of any message
FRAME_BYTES = BODY_BYTES + 512
PULL_MAX = 64  # aggregates asked for at once
AGGREGATES_BYTES = 1 << 20  # an answer to PULL stops before it grows beyond this
COMPARE_MAX = 1024  # rounds compared at once
HAVE_MAX = 2048  # ids told at once
HEADS_MAX = 256
ADDRESSES_MAX = 8
PRESENCES_MAX = 64
GREETED_MAX = 16  # others that a new neighbour may ask to be told of
GUIDES_MAX = 2 * PULL_MAX  # presences that come with aggregates
CENSUS_BYTES = 4  # of a hash that counts a member
STATEMENTS_TOLD_MAX = 512  # at once
CREDENTIAL_BYTES = 2048  # no frame of CREDENTIAL or DENIED is larger
PART_BYTES = 1 << 19  # of a checkpoint, as it travels
PARTS_OF_CHECKPOINT = 1 << 12
SHORT_BYTES = 8  # of an id, where whoever answers may answer with all that begin so
ENVELOPE_BYTES = 2 * 2 * SHARE_BYTES + 16  # two secrets a phase, of at most two phases, sealed
PRESENCE_FRAME_BYTES = 9000  # a PRESENCE of the longest addresses, framed

Bitmap = Annotated[bytes, Meta(min_length=1, max_length=COHORT_MAX // 8)]
BitmapOrNone = Annotated[bytes, Meta(max_length=COHORT_MAX // 8)]
HashOrNone = Annotated[bytes, Meta(max_length=32)]
ShortHash = Annotated[bytes, Meta(min_length=SHORT_HASH_BYTES, max_length=SHORT_HASH_BYTES)]
Share = Annotated[bytes, Meta(max_length=SHARE_BYTES)]  # or nothing
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Heads = Annotated[tuple[Hash, ...], Meta(max_length=8)]
Round = Annotated[int, Meta(ge=0, lt=1 << 48)]
Short = Annotated[bytes, Meta(min_length=SHORT_BYTES, max_length=SHORT_BYTES)]
Envelope = Annotated[bytes, Meta(max_length=ENVELOPE_BYTES)]  # or nothing
PresenceFrame = Annotated[bytes, Meta(max_length=PRESENCE_FRAME_BYTES)]


class Kind(IntEnum):
    READY = 1
    ROSTER = 2
    COMMITMENT = 3
    SHARES = 4
    KEYS_SET = 5
    MASKED = 6
    SEAL_PROPOSAL = 7
    SEAL_VOTE = 8
    ABORT_VOTE = 9
    SEAL_CERTIFICATE = 10
    ABORT_CERTIFICATE = 11
    UNMASK = 12
    BODY_PROPOSAL = 13
    BODY_VOTE = 14
    RESULT = 15
    ANNOUNCE = 16
    COMPARE = 17
    HAVE = 18
    PULL = 19
    AGGREGATES = 20
    PRESENCE = 21
    GREETING = 22
    ALIVE = 23
    DECLINE = 24
    CREDENTIAL = 25
    DENIED = 26
    HELD_STATEMENTS = 27
    STATEMENTS = 28
    CHECKPOINT_REQUEST = 29
    CHECKPOINT_OFFER = 30
    CHECKPOINT_PART = 31
    REJECT_VOTE = 32
    REJECT_CERTIFICATE = 33
    AUDIT_REQUEST = 34
    AUDIT_ANSWER = 35
    ACCUSATION = 36
    STRIKES = 37

    __hash__ = int.__hash__  # it is looked up for each message, and Enum's own is written in Python


# --- rendezvous -----------------------------------------------------------------------------------------------


class Ready(Wire, frozen=True):
    """I have something to give. The keys are fresh, and serve one cohort or none; in a swarm without masks there are none."""

    round: Round  # 1 + the highest round the sender holds
    heads: Heads
    trained: Annotated[int, Meta(ge=1, lt=1 << 62)]  # bit s: segment s was trained
    channel: HashOrNone  # X25519, seals the shares
    mask: HashOrNone  # X25519, makes the pairwise masks
    hub: bool = False  # well connected: of a cohort's members, those who are add up


class Entry(Wire, frozen=True):
    """A READY without its frame, and without heads that others named too: the frame can be put together again."""

    member: MemberName
    round: Round
    heads: Annotated[int, Meta(ge=0, le=COHORT_MAX)]  # 0: the roster's parents; i: the roster's heads[i - 1]
    trained: Annotated[int, Meta(ge=1, lt=1 << 62)]
    channel: HashOrNone
    mask: HashOrNone
    hub: bool
    signature: Signature


class Roster(Wire, frozen=True):
    """Its hash, with its leader's key, is the cohort's id."""

    round: Round
    parents: Annotated[tuple[Hash, ...], Meta(max_length=8)]
    state: HashOrNone  # the model's Merkle root, where it is due
    heads: Annotated[
        tuple[Heads, ...], Meta(max_length=COHORT_MAX)
    ]  # in the order in which entries name them
    readies: Annotated[tuple[Entry, ...], Meta(min_length=3, max_length=COHORT_MAX)]  # by sender


# --- secure sum -----------------------------------------------------------------------------------------------


class Commitment(Wire, frozen=True):
    """Binds a member to its seed; as a statement in its cohort, it is also the signature under the roster.

    It travels without a frame, in SHARES and KEYS_SET: receivers know all of its statement but the hash.
    """

    seed: ShortHash  # H(b)


class Committed(Wire, frozen=True):
    """A COMMITMENT and its author's signature, as a frame's would be."""

    commitment: Commitment
    signature: Signature


class Shares(Wire, frozen=True):
    committed: Committed
    envelopes: Annotated[
        tuple[Envelope, ...], Meta(min_length=3, max_length=COHORT_MAX)
    ]  # by member; own: empty


class Decline(Wire, frozen=True):
    """My READY has gone into another roster, or has lapsed: do not wait for my shares."""


class KeysSet(Wire, frozen=True):
    """U1: whose keys take part, with this receiver's envelope from each of them. Empty: too few dealt, it is over."""

    owners: BitmapOrNone
    committed: Annotated[tuple[Committed, ...], Meta(max_length=COHORT_MAX)]
    envelopes: Annotated[tuple[Envelope, ...], Meta(max_length=COHORT_MAX)]


class Masked(Wire, frozen=True):
    context: Hash  # of U1
    vector: bytes


class SealProposal(Wire, frozen=True):
    """U2: whose masked vectors are summed, each by its hash."""

    context: Hash
    contributors: Bitmap
    vectors: Annotated[tuple[ShortHash, ...], Meta(min_length=3, max_length=COHORT_MAX)]


class SealVote(Wire, frozen=True):
    seal: Hash  # of the proposal's encoding


class AbortVote(Wire, frozen=True):
    """I will never sign a seal in this cohort."""


class SealCertificate(Wire, frozen=True):
    """t signatures under one proposal, which is in it unless the receiver has voted for it.

    Here and below they are one half-aggregate, as in an aggregate's `Signatures`.
    """

    seal: Hash
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar
    proposal: SealProposal | None


class AbortCertificate(Wire, frozen=True):
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar


class Unmask(Wire, frozen=True):
    """Of each owner exactly one secret: the self mask's seed inside U2, the key of the pairwise masks outside."""

    seal: Hash
    shares: Annotated[
        tuple[Share, ...], Meta(max_length=COHORT_MAX)
    ]  # of U1's owners in order; empty: got none


class BodyProposal(Wire, frozen=True):
    """The two sums: the rest of the aggregate's body follows from the roster, the seal and the plan."""

    sums: bytes  # coded, as all unmasked sums on the wire (gossip.coding)
    ranges: Annotated[tuple[Annotated[int, Meta(ge=0, lt=1 << 32)], ...], Meta(max_length=TENSORS_MAX)]


class BodyVote(Wire, frozen=True):
    aggregate: Hash
    signature: Signature  # over gossip.aggregate.body_statement: it outlives the cohort


class RejectVote(Wire, frozen=True):
    """I will never sign a sum of this cohort: what I was shown does harm, or there is none."""


class RejectCertificate(Wire, frozen=True):
    """No sum of this cohort will ever have t signatures."""

    signers: Bitmap
    commitments: Commitments
    scalar: Scalar


class AuditRequest(Wire, frozen=True):
    """Show me what you have added up (`gossip.audit`)."""


class AuditAnswer(Wire, frozen=True):
    """One of as many as U1 has owners."""

    owner: Annotated[int, Meta(ge=0, lt=COHORT_MAX)]
    vector: bytes  # its masked vector, as sealed; empty if it dropped out
    secret: Share  # the seed of its mask, or of its key if it dropped out; empty without masks


class Accusation(Wire, frozen=True):
    """I have added up what was sealed, and it is not what the aggregator published. See for yourself: ask me, too.

    The signature is of the domain "retract": t of them take the sum back (`gossip.strikes`).
    """

    aggregate: Hash
    signature: Signature


class Result(Wire, frozen=True):
    """The signatures under the body that the receiver has from its BODY_PROPOSAL; who has not pulls the aggregate."""

    aggregate: Hash
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar


# --- history --------------------------------------------------------------------------------------------------


class Announce(Wire, frozen=True):
    """What the sender has learned of late, and does not know its neighbour to have."""

    aggregates: Annotated[tuple[Short, ...], Meta(min_length=1, max_length=PULL_MAX)]


class Compare(Wire, frozen=True):
    """The sender's digest of each round from `first` on, 8 bytes each; empty: the round holds nothing."""

    first: Round
    digests: Annotated[tuple[Annotated[bytes, Meta(max_length=8)], ...], Meta(max_length=COMPARE_MAX)]


class Have(Wire, frozen=True):
    """The answerer's ids in the rounds that differ, and its highest round."""

    first: Round  # that differs
    last: Round  # that this answer covers
    highest: Round  # that the answerer holds
    aggregates: Annotated[tuple[Hash, ...], Meta(max_length=HAVE_MAX)]


class Pull(Wire, frozen=True):
    """Of several aggregates under one short id, all are meant."""

    aggregates: Annotated[tuple[Short, ...], Meta(min_length=1, max_length=PULL_MAX)]


class Aggregates(Wire, frozen=True):
    """`guides`, in large swarms: where to find the next round's first candidates to lead, as PRESENCE frames."""

    aggregates: Annotated[tuple[bytes, ...], Meta(max_length=PULL_MAX)]
    guides: Annotated[tuple[PresenceFrame, ...], Meta(max_length=GUIDES_MAX)] = ()


class CheckpointRequest(Wire, frozen=True):
    """This part of the checkpoint that goes with an aggregate; of none: which one do you have?"""

    aggregate: HashOrNone
    part: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT)]


class CheckpointOffer(Wire, frozen=True):
    """An aggregate whose members signed the root of a checkpoint, and that one's size; of no bytes: there is none."""

    signed: bytes
    size: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT * PART_BYTES)]


class CheckpointPart(Wire, frozen=True):
    aggregate: Hash
    number: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT)]
    data: Annotated[bytes, Meta(min_length=1, max_length=PART_BYTES)]


# --- membership -----------------------------------------------------------------------------------------------


class Presence(Wire, frozen=True):
    """Where a device can be reached; a higher sequence replaces a lower one."""

    sequence: Annotated[int, Meta(ge=0, lt=1 << 62)]
    addresses: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=ADDRESSES_MAX)
    ]
    hub: bool = False  # well connected, by its own word: others would rather be led by it


class Greeting(Wire, frozen=True):
    """Presences: the sender's own to a new neighbour, others that it asked for or should know, and what has changed."""

    presences: Annotated[tuple[PresenceFrame, ...], Meta(max_length=PRESENCES_MAX)]
    census: Annotated[bytes, Meta(max_length=16 * CENSUS_BYTES)] = b""  # hashes, see gossip.membership
    wanted: Annotated[int, Meta(ge=0, le=GREETED_MAX)] = (
        0  # others that the sender, knowing few, asks for: once a link
    )


class Alive(Wire, frozen=True):
    """A heartbeat, and the cheapest way to notice that two histories differ."""

    round: Round
    history: Annotated[bytes, Meta(min_length=8, max_length=8)]


# --- admission ------------------------------------------------------------------------------------------------

AdmissionStatement = Annotated[bytes, Meta(min_length=1, max_length=STATEMENT_BYTES)]


class Credential(Wire, frozen=True):
    """Why the sender belongs, once a link, and the digest of all statements that it knows."""

    chain: Annotated[tuple[AdmissionStatement, ...], Meta(max_length=DEPTH_MAX)]
    digest: Short


class Denied(Wire, frozen=True):
    """The sender acts upon nothing that the receiver says, and is about to disconnect."""

    why: Annotated[int, Meta(ge=1, le=int(max(Why)))]
    at_s: Seconds  # when it expired


class HeldStatements(Wire, frozen=True):
    """How the ids of all statements begin that the sender knows: it asks for the others."""

    ids: Annotated[tuple[Short, ...], Meta(max_length=STATEMENTS_MAX)]


class Strikes(Wire, frozen=True):
    """Sums that are taken back (`gossip.strikes`); each statement is signed."""

    statements: Annotated[
        tuple[Annotated[bytes, Meta(min_length=1, max_length=STRIKE_BYTES)], ...],
        Meta(min_length=1, max_length=TOLD_MAX),
    ]


class Statements(Wire, frozen=True):
    statements: Annotated[tuple[AdmissionStatement, ...], Meta(max_length=STATEMENTS_TOLD_MAX)]


Body = (
    Ready
    | Roster
    | Commitment
    | Shares
    | Decline
    | KeysSet
    | Masked
    | SealProposal
    | SealVote
    | AbortVote
    | SealCertificate
    | AbortCertificate
    | Unmask
    | BodyProposal
    | BodyVote
    | RejectVote
    | RejectCertificate
    | AuditRequest
    | AuditAnswer
    | Accusation
    | Result
    | Announce
    | Compare
    | Have
    | Pull
    | Aggregates
    | CheckpointRequest
    | CheckpointOffer
    | CheckpointPart
    | Presence
    | Greeting
    | Alive
    | Credential
    | Denied
    | HeldStatements
    | Statements
    | Strikes
)

BODY_TYPES: dict[Kind, type[Body]] = {
    Kind.READY: Ready,
    Kind.ROSTER: Roster,
    Kind.COMMITMENT: Commitment,
    Kind.SHARES: Shares,
    Kind.DECLINE: Decline,
    Kind.KEYS_SET: KeysSet,
    Kind.MASKED: Masked,
    Kind.SEAL_PROPOSAL: SealProposal,
    Kind.SEAL_VOTE: SealVote,
    Kind.ABORT_VOTE: AbortVote,
    Kind.SEAL_CERTIFICATE: SealCertificate,
    Kind.ABORT_CERTIFICATE: AbortCertificate,
    Kind.UNMASK: Unmask,
    Kind.BODY_PROPOSAL: BodyProposal,
    Kind.BODY_VOTE: BodyVote,
    Kind.REJECT_VOTE: RejectVote,
    Kind.REJECT_CERTIFICATE: RejectCertificate,
    Kind.AUDIT_REQUEST: AuditRequest,
    Kind.AUDIT_ANSWER: AuditAnswer,
    Kind.ACCUSATION: Accusation,
    Kind.RESULT: Result,
    Kind.ANNOUNCE: Announce,
    Kind.COMPARE: Compare,
    Kind.HAVE: Have,
    Kind.PULL: Pull,
    Kind.AGGREGATES: Aggregates,
    Kind.CHECKPOINT_REQUEST: CheckpointRequest,
    Kind.CHECKPOINT_OFFER: CheckpointOffer,
    Kind.CHECKPOINT_PART: CheckpointPart,
    Kind.PRESENCE: Presence,
    Kind.GREETING: Greeting,
    Kind.ALIVE: Alive,
    Kind.CREDENTIAL: Credential,
    Kind.DENIED: Denied,
    Kind.HELD_STATEMENTS: HeldStatements,
    Kind.STATEMENTS: Statements,
    Kind.STRIKES: Strikes,
}
KIND_OF = {body: kind for kind, body in BODY_TYPES.items()}
NUMBERS = frozenset(int(kind) for kind in Kind)
# What a body of each kind has at most, by the bounds of its fields: most kinds need a thousandth of BODY_BYTES.
BODY_LIMITS = {kind: longest(body, BODY_BYTES) for kind, body in BODY_TYPES.items()}

COHORT_KINDS = frozenset(
    {
        *(kind for kind in Kind if Kind.COMMITMENT <= kind <= Kind.RESULT),
        *(Kind.DECLINE, Kind.REJECT_VOTE, Kind.REJECT_CERTIFICATE),
        *(Kind.AUDIT_REQUEST, Kind.AUDIT_ANSWER, Kind.ACCUSATION),
    }
)


ADMISSION_KINDS = frozenset({Kind.CREDENTIAL, Kind.DENIED, Kind.HELD_STATEMENTS, Kind.STATEMENTS})
# Between two neighbours, never handed on: what the channel proves needs no signature.
CHECKPOINT_KINDS = frozenset({Kind.CHECKPOINT_REQUEST, Kind.CHECKPOINT_OFFER, Kind.CHECKPOINT_PART})
CHANNEL_KINDS = (
    ADMISSION_KINDS
    | CHECKPOINT_KINDS
    | {
        Kind.ANNOUNCE,
        Kind.COMPARE,
        Kind.HAVE,
        Kind.PULL,
        Kind.AGGREGATES,
        Kind.GREETING,
        Kind.ALIVE,
        Kind.STRIKES,
    }
)

# Frames that were opened before, and are opened again: a READY on its arrival and in its ROSTER. At most 4 MiB.
OPENED_KEPT = 1024
OPENED_BYTES = 4096  # of one
FRAMED_KEPT = 256  # frames of TOLD_MANY, below 1 KiB each
TOLD_MANY = {Announce, Pull, Alive}


class Frame(Wire, frozen=True):
    version: Literal[1]
    kind: Annotated[int, Meta(ge=1, le=int(max(Kind)))]
    cohort: HashOrNone
    sender: HashOrNone  # a peer's key; empty in a frame of CHANNEL_KINDS
    body: Annotated[bytes, Meta(max_length=BODY_BYTES)]
    signature: Annotated[bytes, Meta(max_length=64)]  # the same


class Message(Struct, frozen=True, gc=False):
    """A frame whose author is proven. `raw` is what its author sent; if it is signed, it is fit to be forwarded."""

    kind: Kind
    cohort: bytes
    sender: bytes
    body: Body
    signature: bytes
    raw: bytes


def statement(swarm: bytes, kind: Kind, cohort: bytes, body: bytes) -> tuple[str, bytes]:
    """The domain and the message that a frame's signature covers."""
    return f"message/{kind.name}", pack((swarm, cohort, digest("body", body)))


def sign_frame(identity: Identity, swarm: bytes, body: Body, *, cohort: bytes = b"") -> bytes:
    """MisuseError for a kind that is never signed."""
    kind = KIND_OF[type(body)]
    if kind in CHANNEL_KINDS:
        raise MisuseError(f"{kind.name} goes between neighbours and is not signed")
    encoded = pack(body)
    signature = identity.sign(*statement(swarm, kind, cohort, encoded))
    return pack(Frame(1, kind, cohort, identity.public_key, encoded, signature))


def channel_frame(body: Body) -> bytes:
    """For a neighbour alone. MisuseError for a kind that has to be signed."""
    return framed_again.call(body) if type(body) in TOLD_MANY else _framed(body)


def _framed(body: Body) -> bytes:
    kind = KIND_OF[type(body)]
    if kind not in CHANNEL_KINDS:
        raise MisuseError(f"{kind.name} has to be signed")
    return pack(Frame(1, kind, b"", b"", pack(body), b""))


def admits(frame: bytes) -> bool:
    """Whether a frame may be of ADMISSION_KINDS, by its third byte: nothing else is looked at before a peer is proven."""
    return len(frame) > 2 and frame[2] in ADMISSION_KINDS


def is_alive(frame: bytes) -> bool:
    """Whether one of our own frames is an ALIVE, by its third byte."""
    return frame[2] == Kind.ALIVE


def open_frame(swarm: bytes, data: bytes, channel: bytes | None = None) -> Message:
    """Bytes to a message with a proven author; raises PeerViolation for any bytes that are not exactly one.

    `channel` is the peer whose authenticated channel brought them, and None for what came in any other way.
    """
    message = opened_again.call(swarm, data) if len(data) <= OPENED_BYTES else _opened(swarm, data)
    if message.kind not in CHANNEL_KINDS:
        return message
    if channel is None:
        raise PeerViolation(f"{message.kind.name}: not from its author's own channel")
    return Message(message.kind, b"", channel, message.body, b"", data)


def _opened(swarm: bytes, data: bytes) -> Message:
    frame = unpack(data, Frame, limit_bytes=FRAME_BYTES)
    if frame.kind not in NUMBERS:
        raise PeerViolation(f"a message of kind {frame.kind}, which there is not")
    kind = Kind(frame.kind)
    if len(frame.body) > BODY_LIMITS[kind]:  # before it is hashed
        raise PeerViolation(
            f"{kind.name}: a body of {len(frame.body)} bytes, at most {BODY_LIMITS[kind]} allowed"
        )
    if len(frame.cohort) != (32 if kind in COHORT_KINDS else 0):
        raise PeerViolation(f"{kind.name}: a cohort id of {len(frame.cohort)} bytes")
    if kind in CHANNEL_KINDS:
        if frame.sender or frame.signature:
            raise PeerViolation(f"{kind.name}: names a sender, or is signed")
    elif not verify(frame.sender, *statement(swarm, kind, frame.cohort, frame.body), frame.signature):
        raise PeerViolation(f"{kind.name}: the signature does not hold in this swarm")
    body = unpack(frame.body, BODY_TYPES[kind], limit_bytes=BODY_LIMITS[kind])
    return Message(kind, frame.cohort, frame.sender, body, frame.signature, data)


# Pure: a message is immutable, and what raises is not kept.
opened_again = Remembered(_opened, OPENED_KEPT)
# A device tells its neighbours the same, and many devices tell theirs that, too: one object for all.
framed_again = Remembered(_framed, FRAMED_KEPT)


def reframe(kind: Kind, body: Body, sender: bytes, signature: bytes) -> bytes:
    """The frame of a message outside cohorts, from what its author said and signed: `open_frame` says whether it did."""
    return pack(Frame(1, kind, b"", sender, pack(body), signature))
