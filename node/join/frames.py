"""What an inviter and a joiner say to each other, and in which words it fails."""

from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

from msgspec import Meta

from crypto.sealing import OVERHEAD_BYTES
from gossip.errors import GossamerError, PeerViolation
from gossip.manifest import DEPTH_MAX, MANIFEST_BYTES, Hash, Name
from gossip.membership.statements import STATEMENT_BYTES
from gossip.wire import Wire, pack, unpack
from node.join.codes import NUMBERS, Way

DECIDE_S = 600.0  # for a person to decide
SHARE_BYTES = 33
MAC_BYTES = 32
BOX_BYTES = MANIFEST_BYTES + 1024
HEARD_BYTES = 512  # of a frame that an inviter takes
Why: TypeAlias = Literal[
    "unknown", "wrong", "burnt", "used", "expired", "withdrawn", "refused", "busy", "version", "closed",
    "uncertified", "unanswered",
]  # fmt: skip
# What went wrong with a request to join, in words of our own: a stranger chooses which line, and not what it says.
_ASK_AGAIN = "ask for a new code (gossamer invite, there), then: gossamer join CODE"
WORDS_OF: dict[Why, str] = {
    "unknown": f"no invitation with this number is open there: it was mistyped, or has ended; {_ASK_AGAIN}",
    "wrong": f"the code is wrong, and one wrong guess burns it; {_ASK_AGAIN}",
    "burnt": f"somebody guessed at this code before, and that burnt it; {_ASK_AGAIN}",
    "used": f"this invitation has been used as often as it allows; {_ASK_AGAIN}",
    "expired": f"this invitation has expired; {_ASK_AGAIN}",
    "withdrawn": f"this invitation was withdrawn; {_ASK_AGAIN}",
    "refused": f"a person there refused this device; talk to them, and {_ASK_AGAIN}",
    "unanswered": f"nobody there answered within {DECIDE_S / 60:.0f} minutes; ask them, and run the same command again",
    "busy": "too many attempts within a minute there; next: the same command in a minute",
    "version": "it runs a release that joins differently; install the same release on both: gossamer --version",
    "closed": "its swarm lets nobody in who only knocks; ask a member for a code (gossamer invite), then: gossamer join CODE",
    "uncertified": (
        "the device there may admit nobody more: its invitations are used up, or it was itself admitted at the last "
        "generation; ask another member for a code"
    ),
}  # fmt: skip


class NotJoined(GossamerError):
    """This device was not admitted: do what the line says. Exit code 6; `why` for programs."""

    exit_code: ClassVar[int] = 6

    def __init__(self, why: Why, who: str) -> None:
        super().__init__(f"{who}: {WORDS_OF[why]}")
        self.why = why


class Hello(Wire, frozen=True):
    version: Annotated[int, Meta(ge=0, le=255)]
    way: Way
    number: Annotated[int, Meta(ge=0, le=NUMBERS[1])]


class Welcome(Wire, frozen=True):
    swarm: Hash
    commitment: Hash


class Share(Wire, frozen=True):
    element: Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]


class Proof(Wire, frozen=True):
    mac: Annotated[bytes, Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]


class Box(Wire, frozen=True):
    sealed: Annotated[bytes, Meta(min_length=OVERHEAD_BYTES, max_length=BOX_BYTES)]


class Denied(Wire, frozen=True):
    why: Why


class Applicant(Wire, frozen=True):
    name: Name


class Constitution(Wire, frozen=True):
    signed: Annotated[bytes, Meta(max_length=MANIFEST_BYTES)]


class Chain(Wire, frozen=True):
    statements: Annotated[
        tuple[Annotated[bytes, Meta(max_length=STATEMENT_BYTES)], ...],
        Meta(min_length=1, max_length=DEPTH_MAX + 1),
    ]


class Stored(Wire, frozen=True):
    done: Literal[True] = True


KINDS: tuple[type[Wire], ...] = (Hello, Welcome, Share, Proof, Box, Denied)
AnyFrame = TypeVar("AnyFrame", bound=Wire)


def framed(message: Wire) -> bytes:
    return bytes([KINDS.index(type(message))]) + pack(message)


def read_text(data: bytes, kind: type[AnyFrame], limit_bytes: int) -> AnyFrame:
    """PeerViolation for whatever is not a frame of this kind."""
    if data[:1] != bytes([KINDS.index(kind)]):
        raise PeerViolation(f"another frame where {kind.__name__} was to come")
    return unpack(data[1:], kind, limit_bytes=limit_bytes)
