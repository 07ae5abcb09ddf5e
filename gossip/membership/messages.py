"""Who is there, how to reach it, and why it belongs."""

from typing import Annotated

from msgspec import Meta

from gossip.fields import PresenceFrame, Round, Short
from gossip.frames import Kind, Scope, message
from gossip.manifest import DEPTH_MAX
from gossip.membership.statements import STATEMENT_BYTES, STATEMENTS_MAX, Seconds, Why
from gossip.wire import Wire

ADDRESSES_MAX = 8
PRESENCES_MAX = 64
GREETED_MAX = 16  # others that a new neighbour may ask to be told of
CENSUS_BYTES = 4  # of a hash that counts a member
STATEMENTS_TOLD_MAX = 512  # at once
CREDENTIAL_BYTES = 2048  # no frame of CREDENTIAL or DENIED is larger

AdmissionStatement = Annotated[bytes, Meta(min_length=1, max_length=STATEMENT_BYTES)]


@message(Kind.PRESENCE)
class Presence(Wire, frozen=True):
    """Where a device can be reached; a higher sequence replaces a lower one."""

    sequence: Annotated[int, Meta(ge=0, lt=1 << 62)]
    addresses: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=ADDRESSES_MAX)
    ]
    hub: bool = False  # well connected, by its own word: others would rather be led by it


@message(Kind.GREETING, Scope.CHANNEL)
class Greeting(Wire, frozen=True):
    """Presences: the sender's own to a new neighbour, others that it asked for or should know, and what has changed."""

    presences: Annotated[tuple[PresenceFrame, ...], Meta(max_length=PRESENCES_MAX)]
    census: Annotated[bytes, Meta(max_length=16 * CENSUS_BYTES)] = b""  # hashes, see gossip.membership.view
    wanted: Annotated[int, Meta(ge=0, le=GREETED_MAX)] = (
        0  # others that the sender, knowing few, asks for: once a link
    )


@message(Kind.ALIVE, Scope.CHANNEL)
class Alive(Wire, frozen=True):
    """A heartbeat, and the cheapest way to notice that two histories differ."""

    round: Round
    history: Annotated[bytes, Meta(min_length=8, max_length=8)]


@message(Kind.CREDENTIAL, Scope.ADMISSION)
class Credential(Wire, frozen=True):
    """Why the sender belongs, once a link, and the digest of all statements that it knows."""

    chain: Annotated[tuple[AdmissionStatement, ...], Meta(max_length=DEPTH_MAX)]
    digest: Short


@message(Kind.DENIED, Scope.ADMISSION)
class Denied(Wire, frozen=True):
    """The sender acts upon nothing that the receiver says, and is about to disconnect."""

    why: Annotated[int, Meta(ge=1, le=int(max(Why)))]
    at_s: Seconds  # when it expired


@message(Kind.HELD_STATEMENTS, Scope.ADMISSION)
class HeldStatements(Wire, frozen=True):
    """How the ids of all statements begin that the sender knows: it asks for the others."""

    ids: Annotated[tuple[Short, ...], Meta(max_length=STATEMENTS_MAX)]


@message(Kind.STATEMENTS, Scope.ADMISSION)
class Statements(Wire, frozen=True):
    statements: Annotated[tuple[AdmissionStatement, ...], Meta(max_length=STATEMENTS_TOLD_MAX)]
