"""Sums that are taken back: what a device has given since a round, or one sum that was not what its cohort had sealed.

Masks hide who has spoiled a sum, so a poison may be found long after it was folded. Two statements take it out again:

    statement    says                                                           signed by
    -----------  -------------------------------------------------------------  -----------------------------------------------
    strike       no sum counts that this device gave to since this round        the founder; or STRIKERS of those whom the
                                                                                founder itself has invited as inviters
    retraction   this aggregate does not count                                  t of its own cohort's n members, who have audited
                                                                                it (`gossip.secure_sum.audit`)

**All replicas agree again.** Of one signer's strikes at one device the earliest round is kept. What counts in a round
(`gossip.history.dag`) is a function of the aggregates and of this set, and the fold is a function of what counts: devices that know
the same have the same bits. The history's digest tells neighbours that they do not.

**Who may.** The founder made the swarm. Its own invitees each cost it an invitation, so that no line of invitations
(`gossip.membership.admission`) has STRIKERS of them by itself; and being one is for ever, so the set of those who may only grows. A cohort's own
members have signed the sum; who takes it back are as many as it takes to make one.

**Nobody fills the set.** Of each signer's strikes the first ones by device are kept, FOUNDERS_MAX or STRIKES_OF_ONE, whatever came
first: what is left is the same in any order, and no inviter takes the founder's place. A signer that says more pushes out strikes of
its own alone. (No honest device does: its owner is told instead.) Strikes that change nothing yet are not handed on at once, so
nobody floods the swarm with them.

**What it costs to be struck.** Everything that the device gave since then, and what others gave to the same sums: their updates are
lost, as in a sum that nobody knows of. Nobody sums with a struck device again. Its sums are the basis of others still (codec
lowrank): a basis says in which directions others looked, and not how far they went. See docs/decisions/0026.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from crypto.certificates import statement_holds
from crypto.half_aggregation import COMMITMENT_BYTES, HalfAggregate
from crypto.hashing import digest
from crypto.identity import Identity, verify
from gossip.body import ROUND_MAX
from gossip.errors import PeerViolation
from gossip.events import Drop, Put, Record
from gossip.fields import Bitmap, Commitments, Scalar
from gossip.history.aggregate import Verified, body_statement
from gossip.manifest import Hash, PeerKey, Swarm
from gossip.quorum import read_members, threshold, unpack_members
from gossip.wire import Wire, pack, unpack

STRIKERS = 3
FOUNDERS_MAX = 1024  # devices that the founder strikes
STRIKES_OF_ONE = 64  # the same, of an inviter
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
        self._strikes: dict[bytes, dict[bytes, Strike]] = {}  # by signer and device
        self._retracted: dict[bytes, None] = {}  # RETRACTIONS_MAX
        self._raw: dict[bytes, bytes] = {}  # by key
        self._effective = NOTHING
        self._digest = b""

    def __len__(self) -> int:
        return len(self._raw)

    # --- taking in --------------------------------------------------------------------------------------------

    def add(self, raw: bytes, find: Callable[[bytes], Verified | None]) -> tuple[Record, ...]:
        """What makes it durable; nothing, if it was no news.

        `find` gives an aggregate that is held; of one that is not, nothing is taken back yet. Nor is anything of a signer who may
        not where certificates admit: its own may be on its way. PeerViolation for what is no statement, or forged.
        """
        said = read(raw, self._swarm.id)
        records = self._strike(said, raw) if isinstance(said, Strike) else self._retract(said, raw, find)
        if records:
            self._effective, self._digest = self._told_to_count(), self._digested()
        return records

    def _retract(
        self, said: Retraction, raw: bytes, find: Callable[[bytes], Verified | None]
    ) -> tuple[Record, ...]:
        known = find(said.aggregate)
        if known is None or said.aggregate in self._retracted or len(self._retracted) >= RETRACTIONS_MAX:
            return ()
        refuse_unsigned(said, known, self._swarm)
        self._retracted[said.aggregate] = None
        self._raw[said.key] = raw
        return (Put(TABLE, said.key, raw),)

    def _strike(self, said: Strike, raw: bytes) -> tuple[Record, ...]:
        if not self.may(said.by):
            if self._swarm.manifest.certifies:
                return ()
            raise PeerViolation("strike: by somebody who may not")
        own = self._strikes.get(said.by, {})
        before = own.get(said.device)
        if before is not None and before.since <= said.since:
            return ()
        pushed_out = max(own) if before is None and len(own) >= self._most(said.by) else None
        if pushed_out is not None and pushed_out < said.device:
            return ()
        if not verify(said.by, "strike", said.stated, said.signature):
            raise PeerViolation("strike: the signature does not hold")
        self._strikes.setdefault(said.by, own)[said.device] = said
        self._raw[said.key] = raw
        kept = Put(TABLE, said.key, raw)
        if pushed_out is None:
            return (kept,)
        gone = own.pop(pushed_out).key
        del self._raw[gone]
        return (kept, Drop(TABLE, gone))

    def _most(self, signer: bytes) -> int:
        return FOUNDERS_MAX if signer == self._swarm.manifest.founder else STRIKES_OF_ONE

    # --- what is asked ----------------------------------------------------------------------------------------

    def may(self, peer: bytes) -> bool:
        return peer == self._swarm.manifest.founder or self._may_strike(peer)

    def by(self, signer: bytes, device: bytes) -> int | None:
        """Since when this signer strikes this device; None: it does not."""
        said = self._strikes.get(signer, {}).get(device)
        return None if said is None else said.since

    def is_full(self, signer: bytes) -> bool:
        """Whether it strikes as many devices as it can."""
        return len(self._strikes.get(signer, {})) >= self._most(signer)

    def signers(self, device: bytes) -> int:
        """How many strike it, whatever that does."""
        return sum(device in own for own in self._strikes.values())

    def devices(self) -> list[bytes]:
        """All that somebody strikes."""
        return sorted({device for own in self._strikes.values() for device in own})

    def effective(self) -> Effective:
        return self._effective

    def _told_to_count(self) -> Effective:
        founder = self._swarm.manifest.founder
        since = {device: said.since for device, said in self._strikes.get(founder, {}).items()}
        others: dict[bytes, list[int]] = {}
        for by, own in self._strikes.items():
            for device, said in own.items() if by != founder else ():
                others.setdefault(device, []).append(said.since)
        for device, rounds in others.items():
            if len(rounds) >= STRIKERS:
                agreed = sorted(rounds)[STRIKERS - 1]  # the first round that so many agree on
                since[device] = min(agreed, since.get(device, agreed))
        return Effective(dict(sorted(since.items())), frozenset(self._retracted))

    def digest(self) -> bytes:
        """The same for the same statements; empty for none."""
        return self._digest

    def _digested(self) -> bytes:
        strikes = sorted(
            pack((each.device, each.by, each.since))
            for own in self._strikes.values()
            for each in own.values()
        )
        return digest("strikes", *strikes, *sorted(self._retracted))

    def all(self) -> tuple[bytes, ...]:
        return tuple(self._raw.values())


def read(raw: bytes, swarm: bytes) -> Said:
    """PeerViolation for bytes that are no statement of this swarm. Signatures are not looked at."""
    statement = unpack(raw, Statement, limit_bytes=STRIKE_BYTES)
    said = unpack(statement.body, KINDS[statement.kind], limit_bytes=STRIKE_BYTES)
    if said.swarm != swarm:
        raise PeerViolation("strike: of another swarm")
    return said


def unsigned(raw: bytes, find: Callable[[bytes], Verified | None], swarm: Swarm) -> list[bytes]:
    """Of a sum that its members have taken back those who did not sign that: whoever published it is one of them."""
    said = read(raw, swarm.id)
    known = find(said.aggregate) if isinstance(said, Retraction) else None
    if known is None or not isinstance(said, Retraction):
        return []
    members = read_members(known.body.parts[0].members, swarm.manifest)
    signers = set(unpack_members(said.signers, len(members)))
    return [peer for index, peer in enumerate(members) if index not in signers]


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
