"""What the inviter hears and does, and where each of its talks stands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from node.join.codes import Secret
from node.join.frames import Share
from node.join.pake import Keys

Ending: TypeAlias = Literal["burnt", "used", "expired", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A stranger has opened a stream. `talk` is the driver's name for it, `host` the address it calls from."""

    talk: int
    peer: bytes
    host: str


@dataclass(frozen=True, slots=True)
class Heard:
    talk: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    talk: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A person has decided."""

    talk: int
    allow: bool


@dataclass(frozen=True, slots=True)
class Certified:
    """The chain of the device that was allowed, founder first; or why this device may not admit it, for its owner."""

    talk: int
    statements: tuple[bytes, ...]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """Somebody looks at this invitation."""

    number: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    number: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Time has: at least once a second while anything is under way."""


Event: TypeAlias = Opened | Heard | Closed | Answered | Certified | Watched | Withdrawn | Passed


@dataclass(frozen=True, slots=True)
class Say:
    talk: int
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Close the stream, once what was said has left."""

    talk: int


@dataclass(frozen=True, slots=True)
class Certify:
    """Issue a certificate, make it durable, and answer with Certified."""

    talk: int
    peer: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """For whoever watches an invitation; number None: of who knocks."""

    number: int | None
    what: Literal["asks", "left", "refused", "allowed", "joined", "wrong", "ended"]
    talk: int | None = None
    peer: bytes = b""
    name: str = ""
    word: str = ""
    why: str = ""


Action: TypeAlias = Say | End | Certify | Tell


@dataclass(frozen=True, slots=True)
class Greeting:
    """Has said nothing yet."""


@dataclass(frozen=True, slots=True)
class Sharing:
    secret: Secret
    ours: bytes
    finish: Callable[[Share], Keys]


@dataclass(frozen=True, slots=True)
class Proving:
    secret: Secret
    keys: Keys


@dataclass(frozen=True, slots=True)
class Naming:
    secret: Secret
    keys: Keys


@dataclass(frozen=True, slots=True)
class Deciding:
    secret: Secret
    keys: Keys
    name: str


@dataclass(frozen=True, slots=True)
class Certifying:
    secret: Secret
    keys: Keys
    name: str


@dataclass(frozen=True, slots=True)
class Storing:
    secret: Secret
    keys: Keys
    name: str


State: TypeAlias = Greeting | Sharing | Proving | Naming | Deciding | Certifying | Storing
