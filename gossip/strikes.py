"""Sums that are taken back: what a device has given since a round, or one sum that was not what its cohort had sealed.

Masks hide who has spoiled a sum, so a poison may be found long after it was folded. Two statements take it out again:

    statement    says                                                           signed by
    -----------  -------------------------------------------------------------  -----------------------------------------------
    strike       no sum counts that this device gave to since this round        the founder; or STRIKERS of those whom the
                                                                                founder itself has invited as inviters
    retraction   this aggregate does not count                                  t of its own cohort's n members, who have audited
                                                                                it (`gossip.audit`)

**All replicas agree again.** What is known is a grow-only set; of one signer's strikes at one device the earliest round counts, so that
nothing is ever taken back twice or given back. What counts in a round (`gossip.history`) is a function of the aggregates and of this
set, and the fold is a function of what counts: devices that know the same have the same bits. The history's digest tells neighbours
that they do not.

**Who may.** The founder made the swarm. Its own invitees each cost it an invitation, so that no line of invitations
(`gossip.admission`) has STRIKERS of them by itself; and being one is for ever, so the set of those who may only grows. A cohort's own
members have signed the sum; who takes it back are as many as it takes to make one.

**What it costs to be struck.** Everything that the device gave since then, and what others gave to the same sums. Their updates are
lost, as in a sum that nobody knows of; the round before is the earliest that anybody is asked to give up. A struck device's sums
are the basis of others still (codec lowrank): a basis says in which directions others looked, and not how far they went.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from crypto.certificates import statement_holds
from crypto.half_aggregation import COMMITMENT_BYTES, HalfAggregate
from crypto.hashing import digest
from crypto.identity import Identity, verify
from gossip.aggregate import (
    ROUND_MAX,
    Bitmap,
    Commitments,
    Scalar,
    Verified,
    body_statement,
    read_members,
    threshold,
    unpack_members,
)
from gossip.errors import PeerViolation
from gossip.events import Put
from gossip.manifest import Hash, PeerKey, Swarm
from gossip.wire import Wire, pack, unpack

STRIKERS = 3
DEVICES_MAX = 1024  # struck
SIGNERS_MAX = 64  # of strikes at one device
RETRACTIONS_MAX = 4096
STRIKE_BYTES = 5120  # of a statement
TOLD_MAX = 256  # at once
TABLE = "strike"  # of the store


class Strike(Wire, frozen=True):
    swarm: Hash
    device: PeerKey
    since: Annotated[int, Meta(ge=1, le=ROUND_MAX)]
    by: PeerKey
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]

    @property
    def key(self) -> bytes:
        return digest("strike", self.device, self.by)

    @property
    def stated(self) -> bytes:
        return pack((self.swarm, self.device, self.since))


class Retraction(Wire, frozen=True):
    swarm: Hash
    aggregate: Hash
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar

    @property
    def key(self) -> bytes:
        return digest("retraction", self.aggregate)


Said: TypeAlias = Strike | Retraction
KINDS: Mapping[int, type[Said]] = {1: Strike, 2: Retraction}


class Statement(Wire, frozen=True):
    kind: Literal[1, 2]
    body: Annotated[bytes, Meta(max_length=STRIKE_BYTES - 16)]


@dataclass(frozen=True, slots=True)
class Effective:
    """What does not count."""

    since: Mapping[bytes, int]  # by struck device: its first round that does not
    retracted: frozenset[bytes]  # aggregates; asked, and never iterated

    def takes_out(self, known: Verified) -> bool:
        if known.id in self.retracted:
            return True
        if not self.since:
            return False
        return any(self.since.get(peer, ROUND_MAX + 1) <= known.body.round for peer in known.contributors)


NOTHING = Effective({}, frozenset())


def strike(identity: Identity, swarm: bytes, device: bytes, since: int) -> bytes:
    bare = Strike(swarm, device, since, identity.public_key, bytes(64))
    signed = Strike(swarm, device, since, identity.public_key, identity.sign("strike", bare.stated))
    return pack(Statement(1, pack(signed)))


def retract(swarm: bytes, aggregate: bytes, signers: bytes, half: HalfAggregate) -> bytes:
    return pack(Statement(2, pack(Retraction(swarm, aggregate, signers, half.commitments, half.scalar))))


class Strikes:
    """The statements that one device knows. `may_strike` says whether somebody was ever a founder's own inviter: monotone."""

    def __init__(self, swarm: Swarm, may_strike: Callable[[bytes], bool]) -> None:
        self._swarm = swarm
        self._may_strike = may_strike
        self._strikes: dict[bytes, dict[bytes, Strike]] = {}  # by device and signer
        self._retracted: dict[bytes, None] = {}
        self._raw: dict[bytes, bytes] = {}  # by key

    def __len__(self) -> int:
        return len(self._raw)

    # --- taking in --------------------------------------------------------------------------------------------

    def add(self, raw: bytes, find: Callable[[bytes], Verified | None]) -> bool:
        """Whether it was news. `find` gives an aggregate that is held; of one that is not, nothing is taken back yet.

        PeerViolation for what is no statement, or signed by nobody who may.
        """
        said = read(raw, self._swarm.id)
        if isinstance(said, Strike):
            return self._strike(said, raw)
        known = find(said.aggregate)
        if known is None or said.aggregate in self._retracted or len(self._retracted) >= RETRACTIONS_MAX:
            return False
        refuse_unsigned(said, known, self._swarm)
        self._retracted[said.aggregate] = None
        self._raw[said.key] = raw
        return True

    def _strike(self, said: Strike, raw: bytes) -> bool:
        if not self.may(said.by):
            raise PeerViolation("strike: by somebody who may not")
        signers = self._strikes.get(said.device, {})
        before = signers.get(said.by)
        if before is not None and before.since <= said.since:
            return False
        if before is None and (len(signers) >= SIGNERS_MAX or self._is_full(said.device)):
            return False
        if not verify(said.by, "strike", said.stated, said.signature):
            raise PeerViolation("strike: the signature does not hold")
        self._strikes.setdefault(said.device, {})[said.by] = said
        self._raw[said.key] = raw
        return True

    def _is_full(self, device: bytes) -> bool:
        return device not in self._strikes and len(self._strikes) >= DEVICES_MAX

    # --- what is asked ----------------------------------------------------------------------------------------

    def may(self, peer: bytes) -> bool:
        return peer == self._swarm.manifest.founder or self._may_strike(peer)

    def effective(self) -> Effective:
        founder = self._swarm.manifest.founder
        since: dict[bytes, int] = {}
        for device, signers in sorted(self._strikes.items()):
            rounds = [signers[founder].since] if founder in signers else []
            others = sorted(each.since for by, each in signers.items() if by != founder)
            if len(others) >= STRIKERS:
                rounds.append(others[STRIKERS - 1])  # that so many agree on
            if rounds:
                since[device] = min(rounds)
        return Effective(since, frozenset(self._retracted))

    def digest(self) -> bytes:
        """The same for the same statements; empty for none."""
        if not self._raw:
            return b""
        strikes = sorted(
            pack((each.device, each.by, each.since)) for of in self._strikes.values() for each in of.values()
        )
        return digest("strikes", *strikes, *sorted(self._retracted))

    def all(self) -> tuple[bytes, ...]:
        return tuple(self._raw.values())

    def record(self, raw: bytes) -> Put:
        """What makes it durable; an earlier strike replaces a later one."""
        return Put(TABLE, read(raw, self._swarm.id).key, raw)


def read(raw: bytes, swarm: bytes) -> Said:
    """PeerViolation for bytes that are no statement of this swarm. Signatures are not looked at."""
    statement = unpack(raw, Statement, limit_bytes=STRIKE_BYTES)
    said = unpack(statement.body, KINDS[statement.kind], limit_bytes=STRIKE_BYTES)
    if said.swarm != swarm:
        raise PeerViolation("strike: of another swarm")
    return said


def refuse_unsigned(said: Retraction, known: Verified, swarm: Swarm) -> None:
    """PeerViolation unless t of the aggregate's own members have signed."""
    [part, *others] = known.body.parts
    if others:
        raise PeerViolation("retraction: of a merged sum")
    members = read_members(part.members, swarm.manifest)
    signers = unpack_members(said.signers, len(members))
    if len(signers) * COMMITMENT_BYTES != len(said.commitments):
        raise PeerViolation("retraction: signers and commitments differ in number")
    stated = body_statement(swarm.id, part.roster, said.aggregate)
    half = HalfAggregate(said.commitments, said.scalar)
    if not statement_holds("retract", stated, members, signers, half, threshold(len(members))):
        raise PeerViolation("retraction: not signed by a threshold of the cohort")


def news(statements: Iterable[bytes], add: Callable[[bytes], bool]) -> tuple[bytes, ...]:
    return tuple(raw for raw in statements if add(raw))
