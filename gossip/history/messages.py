"""How neighbours compare their histories and hand on what is missing. Unsigned: what they carry is signed."""

from typing import Annotated

from msgspec import Meta

from gossip.fields import HashOrNone, PresenceFrame, Round, Short
from gossip.frames import Kind, Scope, message
from gossip.history.strikes import STRIKE_BYTES, TOLD_MAX
from gossip.manifest import Hash
from gossip.wire import Wire

PULL_MAX = 64  # aggregates asked for at once
AGGREGATES_BYTES = 1 << 20  # an answer to PULL stops before it grows beyond this
COMPARE_MAX = 1024  # rounds compared at once
HAVE_MAX = 2048  # ids told at once
GUIDES_MAX = 2 * PULL_MAX  # presences that come with aggregates
PART_BYTES = 1 << 19  # of a checkpoint, as it travels
PARTS_OF_CHECKPOINT = 1 << 12


@message(Kind.ANNOUNCE, Scope.CHANNEL)
class Announce(Wire, frozen=True):
    """What the sender has learned of late, and does not know its neighbour to have."""

    aggregates: Annotated[tuple[Short, ...], Meta(min_length=1, max_length=PULL_MAX)]


@message(Kind.COMPARE, Scope.CHANNEL)
class Compare(Wire, frozen=True):
    """The sender's digest of each round from `first` on, 8 bytes each; empty: the round holds nothing."""

    first: Round
    digests: Annotated[tuple[Annotated[bytes, Meta(max_length=8)], ...], Meta(max_length=COMPARE_MAX)]


@message(Kind.HAVE, Scope.CHANNEL)
class Have(Wire, frozen=True):
    """The answerer's ids in the rounds that differ, and its highest round."""

    first: Round  # that differs
    last: Round  # that this answer covers
    highest: Round  # that the answerer holds
    aggregates: Annotated[tuple[Hash, ...], Meta(max_length=HAVE_MAX)]


@message(Kind.PULL, Scope.CHANNEL)
class Pull(Wire, frozen=True):
    """Of several aggregates under one short id, all are meant."""

    aggregates: Annotated[tuple[Short, ...], Meta(min_length=1, max_length=PULL_MAX)]


@message(Kind.AGGREGATES, Scope.CHANNEL)
class Aggregates(Wire, frozen=True):
    """`guides`, in large swarms: where to find the next round's first candidates to lead, as PRESENCE frames."""

    aggregates: Annotated[tuple[bytes, ...], Meta(max_length=PULL_MAX)]
    guides: Annotated[tuple[PresenceFrame, ...], Meta(max_length=GUIDES_MAX)] = ()


@message(Kind.CHECKPOINT_REQUEST, Scope.CHANNEL)
class CheckpointRequest(Wire, frozen=True):
    """This part of the checkpoint that goes with an aggregate; of none: which one do you have?"""

    aggregate: HashOrNone
    part: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT)]


@message(Kind.CHECKPOINT_OFFER, Scope.CHANNEL)
class CheckpointOffer(Wire, frozen=True):
    """An aggregate whose members signed the root of a checkpoint, and that one's size; of no bytes: there is none."""

    signed: bytes
    size: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT * PART_BYTES)]


@message(Kind.CHECKPOINT_PART, Scope.CHANNEL)
class CheckpointPart(Wire, frozen=True):
    aggregate: Hash
    number: Annotated[int, Meta(ge=0, lt=PARTS_OF_CHECKPOINT)]
    data: Annotated[bytes, Meta(min_length=1, max_length=PART_BYTES)]


@message(Kind.STRIKES, Scope.CHANNEL)
class Strikes(Wire, frozen=True):
    """Sums that are taken back (`gossip.history.strikes`); each statement is signed."""

    statements: Annotated[
        tuple[Annotated[bytes, Meta(min_length=1, max_length=STRIKE_BYTES)], ...],
        Meta(min_length=1, max_length=TOLD_MAX),
    ]
