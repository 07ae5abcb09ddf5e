"""One frame carries every message: its kind, its author and its signature.

The signature covers the swarm, the cohort, the kind and the hash of the body under a domain of its own, so that a
message of one swarm, cohort or kind is never one of another. A message that a third party forwards is as good as one
from its author.

What two neighbours tell each other and nobody else is not signed (Scope.CHANNEL): the Noise channel has authenticated
both keys, its protocol's name holds the swarm's id, and its order cannot be changed (docs/decisions/0006). Such a frame
names no sender and bears no signature, and what comes any other way than through its author's own channel is refused.

A message's body stands beside its protocol, in `messages.py` of its folder, and registers itself here:

    @message(Kind.ALIVE, Scope.CHANNEL)
    class Alive(Wire, frozen=True): ...

Byte strings have exact or bounded lengths, collections have bounds, and `gossip.wire` refuses everything that is not the
one canonical encoding.
"""

from collections.abc import Callable
from enum import Enum, IntEnum, auto
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

from crypto.hashing import digest
from crypto.identity import Identity, verify
from gossip.errors import MisuseError, PeerViolation
from gossip.fields import HashOrNone
from gossip.memo import Remembered
from gossip.wire import Wire, longest, pack, unpack

BODY_BYTES = 8 << 20  # the largest body of any message
FRAME_BYTES = BODY_BYTES + 512
B = TypeVar("B", bound=Wire)


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


class Scope(Enum):
    """To whom a message goes, and so whether it names a cohort and whether it is signed."""

    SWARM = auto()  # signed, outside cohorts
    COHORT = auto()  # signed, with the cohort's id
    CHANNEL = auto()  # between two neighbours: not signed, never handed on
    ADMISSION = auto()  # the same, before the neighbour has shown why it belongs


BODY_TYPES: dict[Kind, type[Wire]] = {}
KIND_OF: dict[type[Wire], Kind] = {}
# What a body of each kind has at most, by the bounds of its fields: most kinds need a thousandth of BODY_BYTES.
BODY_LIMITS: dict[Kind, int] = {}
COHORT_KINDS: set[Kind] = set()
CHANNEL_KINDS: set[Kind] = set()
ADMISSION_KINDS: set[Kind] = set()  # channel kinds, too


def message(kind: Kind, scope: Scope = Scope.SWARM) -> Callable[[type[B]], type[B]]:
    """Registers a body class as what a frame of this kind carries."""

    def register(body: type[B]) -> type[B]:
        BODY_TYPES[kind], KIND_OF[body] = body, kind
        BODY_LIMITS[kind] = longest(body, BODY_BYTES)
        if scope is Scope.COHORT:
            COHORT_KINDS.add(kind)
        if scope in {Scope.CHANNEL, Scope.ADMISSION}:
            CHANNEL_KINDS.add(kind)
        if scope is Scope.ADMISSION:
            ADMISSION_KINDS.add(kind)
        return body

    return register


# Frames that were opened before, and are opened again: a READY on its arrival and in its ROSTER. At most 4 MiB.
OPENED_KEPT = 1024
OPENED_BYTES = 4096  # of one
FRAMED_KEPT = 256  # frames of TOLD_MANY, below 1 KiB each
TOLD_MANY = {Kind.ANNOUNCE, Kind.PULL, Kind.ALIVE}


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
    body: Wire
    signature: bytes
    raw: bytes


def statement(swarm: bytes, kind: Kind, cohort: bytes, body: bytes) -> tuple[str, bytes]:
    """The domain and the message that a frame's signature covers."""
    return f"message/{kind.name}", pack((swarm, cohort, digest("body", body)))


def sign_frame(identity: Identity, swarm: bytes, body: Wire, *, cohort: bytes = b"") -> bytes:
    """MisuseError for a kind that is never signed."""
    kind = KIND_OF[type(body)]
    if kind in CHANNEL_KINDS:
        raise MisuseError(f"{kind.name} goes between neighbours and is not signed")
    encoded = pack(body)
    signature = identity.sign(*statement(swarm, kind, cohort, encoded))
    return pack(Frame(1, kind, cohort, identity.public_key, encoded, signature))


def channel_frame(body: Wire) -> bytes:
    """For a neighbour alone. MisuseError for a kind that has to be signed."""
    return framed_again.call(body) if KIND_OF[type(body)] in TOLD_MANY else _framed(body)


def _framed(body: Wire) -> bytes:
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
    if frame.kind not in BODY_TYPES:
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


def reframe(kind: Kind, body: Wire, sender: bytes, signature: bytes) -> bytes:
    """The frame of a message outside cohorts, from what its author said and signed: `open_frame` says whether it did."""
    return pack(Frame(1, kind, b"", sender, pack(body), signature))
