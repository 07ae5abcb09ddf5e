"""What a node must remember across a crash, as records, and how it reads them back.

    table       key                 value
    ----------  ------------------  ---------------------------------------------------------------
    aggregate   aggregate id        the certified aggregate
    residual    (one)               float32 of shape (parameters,)
    debit       cohort id           Debit: the roster, and what left or may have left for its sum
    vote        cohort id           the hash of the seal that was signed; empty: ABORT was signed
    body        cohort id           the id of the one body that was signed; empty: REJECT was signed
    presence    peer                its presence frame: whom to dial after a restart
    statement   its slot            a certificate or a revocation (`gossip.membership.admission`)
    blocked     peer                nothing: this device's owner wants none of it
    strike      its key             a statement that takes sums back (`gossip.history.strikes`)
    checkpoint  (one)               Adopted: what the history began from, where that is not its first round

A debit and the residual that it leaves are one transaction, so at every crash point a delta is either in the residual
or out, never both. Votes and signed bodies stay until the cohort is over here and its debit is settled: then its keys are
gone, and no further vote of this member can exist.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from msgspec import Meta

from gossip.codec.blocks import Layout
from gossip.codec.error_feedback import Books, Sent
from gossip.errors import PeerViolation
from gossip.events import Drop, Put, Record
from gossip.history.aggregate import Aggregate, Verified
from gossip.history.strikes import TABLE as STRIKES_TABLE
from gossip.manifest import Hash
from gossip.membership.admission import TABLE
from gossip.membership.handshake import BLOCKED_TABLE
from gossip.wire import Wire, pack, unpack

RECORD_BYTES = 1 << 31
RECORDS_KEPT = 32  # encoded aggregates

Read = Callable[[str], Iterable[tuple[bytes, bytes]]]


class Debit(Wire, frozen=True):
    """`roster` is the ROSTER frame: with it a restarted member knows whom to ask how its cohort ended."""

    roster: Annotated[bytes, Meta(min_length=1)]
    support: bytes
    values: bytes  # little-endian float32


@dataclass(frozen=True, slots=True)
class Remembered:
    books: Books
    rosters: dict[bytes, bytes]  # cohort -> ROSTER frame, of every open debit
    votes: dict[bytes, bytes]
    aggregates: tuple[Aggregate, ...]
    presences: tuple[bytes, ...]
    statements: tuple[bytes, ...]
    blocked: tuple[bytes, ...]
    strikes: tuple[bytes, ...] = ()
    adopted: "Adopted | None" = None


class Adopted(Wire, frozen=True):
    signed: Hash  # the aggregate, which is held as well
    checkpoint: bytes


def adopted(signed: Verified, checkpoint: bytes) -> tuple[Record, ...]:
    return (Put("checkpoint", b"", pack(Adopted(signed.id, checkpoint))), *held([signed]))


def debited(cohort: bytes, roster: bytes, books: Books) -> tuple[Record, ...]:
    """The records of `books.debit(cohort, ...)`."""
    sent = books.outstanding[cohort]
    values = np.ascontiguousarray(sent.values, "<f4").tobytes()
    debit = Debit(roster, books.layout.pack_blocks(sent.support), values)
    return (Put("debit", cohort, pack(debit)), *residual(books))


def residual(books: Books) -> tuple[Record, ...]:
    return (Put("residual", b"", np.ascontiguousarray(books.residual, "<f4").tobytes()),)


def settled(cohort: bytes) -> tuple[Record, ...]:
    return (Drop("debit", cohort),)


def closed(cohort: bytes) -> tuple[Record, ...]:
    """The cohort's keys are gone and its account is settled: no vote of this member can ever follow."""
    return (Drop("body", cohort), Drop("vote", cohort))


def held(aggregates: Iterable[Verified]) -> tuple[Record, ...]:
    return tuple(Put("aggregate", known.id, _encoded(known)) for known in aggregates)


@lru_cache(maxsize=RECORDS_KEPT)
def _encoded(known: Verified) -> bytes:
    """One object for all devices of a process that hold it, whosever signatures came first."""
    return pack(known.aggregate)


def remember(read: Read, layout: Layout) -> Remembered:
    """Raises PeerViolation for a record that is none: the file is not this node's, or not this version's."""
    books = Books.empty(layout)
    for _, value in read("residual"):
        stored = np.frombuffer(value, "<f4").astype(np.float32)
        if stored.shape != (layout.parameters,):
            raise PeerViolation(f"the stored residual has {len(stored)} of {layout.parameters} parameters")
        books = Books(layout, stored)
    outstanding, rosters = {}, {}
    for cohort, value in read("debit"):
        debit = unpack(value, Debit, limit_bytes=RECORD_BYTES)
        values = np.frombuffer(debit.values, "<f4").astype(np.float32)
        outstanding[cohort] = Sent(layout.unpack_blocks(debit.support), values)
        rosters[cohort] = debit.roster
    aggregates = [unpack(value, Aggregate, limit_bytes=RECORD_BYTES) for _, value in read("aggregate")]
    aggregates.sort(
        key=lambda aggregate: aggregate.body.round
    )  # parents first: of orphans a history keeps some
    bases = [unpack(value, Adopted, limit_bytes=RECORD_BYTES) for _, value in read("checkpoint")]
    books = Books(layout, books.residual, None, outstanding)
    presences = tuple(raw for _, raw in read("presence"))
    votes, base = dict(read("vote")), bases[0] if bases else None
    statements = tuple(raw for _, raw in read(TABLE))
    blocked = tuple(peer for peer, _ in read(BLOCKED_TABLE))
    strikes = tuple(raw for _, raw in read(STRIKES_TABLE))
    return Remembered(books, rosters, votes, tuple(aggregates), presences, statements, blocked, strikes, base)
