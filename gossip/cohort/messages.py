"""READY and ROSTER: how devices that have something to give find each other."""

from typing import Annotated

from msgspec import Meta

from gossip.fields import HashOrNone, Heads, MemberName, Round, Signature
from gossip.frames import Kind, message
from gossip.manifest import COHORT_MAX, Hash
from gossip.wire import Wire


@message(Kind.READY)
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


@message(Kind.ROSTER)
class Roster(Wire, frozen=True):
    """Its hash, with its leader's key, is the cohort's id."""

    round: Round
    parents: Annotated[tuple[Hash, ...], Meta(max_length=8)]
    state: HashOrNone  # the model's Merkle root, where it is due
    heads: Annotated[
        tuple[Heads, ...], Meta(max_length=COHORT_MAX)
    ]  # in the order in which entries name them
    readies: Annotated[tuple[Entry, ...], Meta(min_length=3, max_length=COHORT_MAX)]  # by sender
