"""A checkpoint: the fold of some aggregates and of all before them, to begin from instead of folding it all.

Every STATE_EVERY rounds an aggregate's body carries the `state` of its parents' ancestors, and the t members
who sign it have computed it for themselves. It is a Merkle root (RFC 6962) over

    the swarm and the ids, by round; what is remembered of recent rounds
        | x in chunks of CHUNK_BYTES, little-endian int64 | v in the same way

so that it says what was folded as well as what came out: with other ids than were folded, a newcomer would
fold some aggregates twice and others never. Whoever brings the checkpoint need not be trusted, only the
cohort that signed; a careful newcomer asks for more than one. A checkpoint is a cache: it can always be made
again from the aggregates.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from crypto.hashing import digest
from crypto.merkle import root
from gossip.body import CONTRIBUTORS_MAX
from gossip.codec.blocks import Integers, Layout
from gossip.errors import PeerViolation
from gossip.history.aggregate import Verified
from gossip.history.dag import FOLDED_MAX, Added, Base, History, Waiting
from gossip.history.fold import COUNTS, RECENT, Recent, Replica, State, has_momentum
from gossip.manifest import PARAMETERS_MAX, TENSORS_MAX, Hash, Manifest
from gossip.quorum import ascend
from gossip.wire import Wire, pack, unpack

IDS_MAX = 1 << 20
CHUNK_BYTES = 1 << 16

Numbers = Annotated[bytes, Meta(max_length=8 * PARAMETERS_MAX)]
Ids = Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=IDS_MAX)]


Count = Annotated[int, Meta(ge=1, le=FOLDED_MAX * CONTRIBUTORS_MAX)]


class RecentRound(Wire, frozen=True):
    """`gossip.history.fold.Recent` as it travels."""

    contributors: Count
    sizes: Annotated[tuple[Annotated[int, Meta(ge=0, le=(1 << 63) - 1)], ...], Meta(max_length=TENSORS_MAX)]


class Checkpoint(Wire, frozen=True):
    version: Literal[1]
    swarm: Hash
    rounds: Annotated[tuple[Ids, ...], Meta(min_length=1, max_length=IDS_MAX)]  # ascending ids, from round 1
    x: Numbers  # little-endian int64 in 2^-24
    v: Numbers  # the same; empty where no step has momentum
    recent: Annotated[tuple[RecentRound, ...], Meta(max_length=RECENT)]  # the oldest first
    counts: Annotated[tuple[Count, ...], Meta(max_length=COUNTS)]  # likewise


def take(history: History, replica: Replica, parents: Sequence[bytes], swarm: bytes) -> Checkpoint | Waiting:
    """The fold of exactly these valid aggregates and their ancestors; `replica` is the fold of `history`.

    Waiting for bodies, where a history that began from a checkpoint cannot tell.
    """
    rounds = history.ancestors(parents)
    if isinstance(rounds, Waiting):
        return rounds
    changes = history.changes_to(rounds)
    if isinstance(changes, Waiting):
        return changes
    x, v, recent, counts = replica.state_after(changes, len(rounds))
    remembered = tuple(RecentRound(each.contributors, each.sizes) for each in recent)
    return Checkpoint(1, swarm, rounds, _encode(x), _encode(v), remembered, counts)


def state_root(checkpoint: Checkpoint) -> bytes:
    """What the members of the next cohort sign as `state`: 32 bytes."""
    ids = digest("checkpoint", checkpoint.swarm, *(b"".join(ids) for ids in checkpoint.rounds))
    recent = digest("recent", pack(checkpoint.recent), pack(checkpoint.counts))
    return root([ids, recent, *_chunks(checkpoint.x), *_chunks(checkpoint.v)])


def size_limit(layout: Layout) -> int:
    """No checkpoint of this model is larger, in bytes."""
    return 2 * 8 * layout.parameters + 40 * IDS_MAX + 9 * COUNTS + RECENT * (16 + 9 * len(layout.tensor_ends))


def parse(data: bytes, manifest: Manifest, layout: Layout) -> Checkpoint:
    """PeerViolation for anything but the canonical encoding of a checkpoint of this model."""
    size_bytes = 8 * layout.parameters
    checkpoint = unpack(data, Checkpoint, limit_bytes=size_limit(layout))
    if len(checkpoint.x) != size_bytes or len(checkpoint.v) != has_momentum(manifest) * size_bytes:
        raise PeerViolation(f"checkpoint: {len(checkpoint.x)} and {len(checkpoint.v)} bytes of x and v")
    if any(len(each.sizes) != len(layout.tensor_ends) for each in checkpoint.recent):
        raise PeerViolation("checkpoint: recent rounds of another model")
    if any(not ascend(ids) for ids in checkpoint.rounds):
        raise PeerViolation("checkpoint: a round's ids must ascend without repetition")
    return checkpoint


def restore(
    checkpoint: Checkpoint, signed: Verified, manifest: Manifest, layout: Layout, initial: Integers
) -> tuple[History, Replica]:
    """A history and its replica: a parsed checkpoint and, on top of it, the aggregate that signed its state.

    Where factors travel (codec lowrank), the aggregate waits in the history until what is `wanted` there has come: the
    checkpoint's last round, from which its basis is.

    PeerViolation if the checkpoint is not the one that was signed, or cannot be what it was signed as.
    """
    body = signed.body
    if checkpoint.swarm != body.swarm or state_root(checkpoint) != body.state:
        raise PeerViolation("checkpoint: not the state that the aggregate's members signed")
    ids = [identity for ids in checkpoint.rounds for identity in ids]
    if len(set(ids)) != len(ids) or not set(ids).issuperset(body.parents):
        raise PeerViolation("checkpoint: an id twice, or a parent of the signed aggregate not at all")
    if len(checkpoint.rounds) != body.round - 1:
        raise PeerViolation(
            f"checkpoint: of {len(checkpoint.rounds)} rounds, but signed in round {body.round}"
        )
    history = History(manifest, body.swarm, Base(checkpoint.rounds, body.parents))
    recent = tuple(Recent(each.contributors, each.sizes) for each in checkpoint.recent)
    state = State(_decode(checkpoint.x), _decode(checkpoint.v), recent, checkpoint.counts)
    replica = Replica(manifest, layout, initial, (len(checkpoint.rounds), state))
    outcome = history.add(signed)
    if isinstance(outcome, Added):
        replica.apply(outcome.changes, history.round)
    else:
        assert manifest.compression.codec == "lowrank", "its parents are in the base, its round is above it"
    return history, replica


def _encode(numbers: Integers) -> bytes:
    return numbers.astype("<i8", copy=False).tobytes()


def _decode(numbers: bytes) -> Integers:
    return np.frombuffer(numbers, "<i8").astype(np.int64)


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
