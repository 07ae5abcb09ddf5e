"""Certificates and revocations: what an inviter signs, and when that holds (`gossip.membership.admission`)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from crypto.hashing import digest
from crypto.identity import Identity, verify
from gossip.errors import PeerViolation
from gossip.manifest import DEPTH_MAX, INVITES_MAX, Hash, PeerKey
from gossip.wire import Wire, pack, unpack

STATEMENTS_MAX = 8192
STATEMENT_BYTES = 320
EPOCH = datetime(
    1970, 1, 1, tzinfo=UTC
)  # any platform adds seconds to it; not every one has a clock that long
SECONDS_MAX = 253_402_300_799  # the last second of the year 9999: no calendar here writes a later one
Seconds = Annotated[int, Meta(ge=0, le=SECONDS_MAX)]  # unix time


class Certificate(Wire, frozen=True):
    swarm: Hash
    device: PeerKey
    inviter: PeerKey
    serial: Annotated[int, Meta(ge=0, lt=INVITES_MAX)]  # the inviter's own number of it
    issued_s: Seconds
    expires_s: Seconds
    depth: Annotated[int, Meta(ge=0, lt=DEPTH_MAX)]  # generations that this device may admit in turn


class Revocation(Wire, frozen=True):
    swarm: Hash
    device: PeerKey
    by: PeerKey  # above the device


Said: TypeAlias = Certificate | Revocation
KINDS: dict[int, tuple[str, type[Said]]] = {1: ("certificate", Certificate), 2: ("revocation", Revocation)}


class Statement(Wire, frozen=True):
    """As it travels. Its id is that of the body: who signs one body twice has said the same."""

    kind: Literal[1, 2]
    body: Annotated[bytes, Meta(max_length=STATEMENT_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


@dataclass(frozen=True)
class Held:
    """A statement whose signature holds. Nothing else outside the tests may make one."""

    said: Said
    raw: bytes

    @cached_property
    def id(self) -> bytes:
        return statement_id(self.raw)

    @property
    def signer(self) -> bytes:
        return self.said.inviter if isinstance(self.said, Certificate) else self.said.by

    @cached_property
    def slot(self) -> bytes:
        """Under which a renewal replaces what it renews: it lasts longer, and no chain over it is ever lost."""
        said = self.said
        if isinstance(said, Certificate):
            numbers = said.serial.to_bytes(2, "big") + bytes([said.depth])
            return digest("certificate", said.inviter, numbers, said.device)
        return digest("revocation", said.by, said.device)

    @property
    def worth(self) -> tuple[int, int]:
        """Of two renewals the higher is kept."""
        said = self.said
        return (said.expires_s, said.issued_s) if isinstance(said, Certificate) else (0, 0)


class Why(IntEnum):
    """Why a device does not belong."""

    UNKNOWN = 1
    EXPIRED = 2
    REVOKED = 3
    TWICE = 4
    FORGED = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    why: Why
    at_s: int = 0  # when it expired

    def of(self, whose: str) -> str:
        """In words; `whose` is "its" or "this device's"."""
        match self.why:
            case Why.EXPIRED:
                day = (EPOCH + timedelta(seconds=self.at_s)).strftime("%Y-%m-%d %H:%M")
                return f"{whose} certificate, or one that it rests on, expired on {day} UTC"
            case Why.REVOKED:
                return f"{whose} certificate, or one that it rests on, was revoked"
            case Why.TWICE:
                return f"{whose} invitation, or one that it rests on, was given to two devices"
            case Why.FORGED:
                return f"{whose} certificate is of another swarm, or a signature on it does not hold"
            case Why.UNKNOWN:
                return f"{whose} certificate does not lead to the founder of this swarm, or there is none"


def issue(
    identity: Identity, swarm: bytes, device: bytes, serial: int, issued_s: int, expires_s: int, depth: int
) -> bytes:
    """The certificate by which `identity` admits a device. Which serial is free, `Admission.serial_for` tells."""
    said = Certificate(swarm, device, identity.public_key, serial, issued_s, expires_s, depth)
    return _sign(identity, 1, said)


def revoke(identity: Identity, swarm: bytes, device: bytes) -> bytes:
    return _sign(identity, 2, Revocation(swarm, device, identity.public_key))


def _sign(identity: Identity, kind: Literal[1, 2], said: Said) -> bytes:
    body = pack(said)
    return pack(Statement(kind, body, identity.sign(KINDS[kind][0], body)))


def open_statement(swarm: bytes, raw: bytes) -> Held:
    """PeerViolation for bytes that are no statement of this swarm by the one whom it names."""
    statement, held = parsed(swarm, raw)
    domain, _ = KINDS[statement.kind]
    if not verify(held.signer, domain, statement.body, statement.signature):
        raise PeerViolation(f"{domain}: the signature does not hold")
    return held


def parsed(swarm: bytes, raw: bytes) -> tuple[Statement, Held]:
    """The same but for the signature, which nobody has looked at."""
    statement = unpack(raw, Statement, limit_bytes=STATEMENT_BYTES)
    domain, kind = KINDS[statement.kind]
    said = unpack(statement.body, kind, limit_bytes=STATEMENT_BYTES)
    if said.swarm != swarm:
        raise PeerViolation(f"{domain}: of another swarm")
    held = Held(said, raw)
    if held.signer == said.device:
        raise PeerViolation(f"{domain}: of a device for itself")
    if isinstance(said, Certificate) and said.expires_s <= said.issued_s:
        raise PeerViolation(f"{domain}: expires before it is issued")
    return statement, held


def statement_id(raw: bytes) -> bytes:
    """PeerViolation for bytes that are no statement."""
    statement = unpack(raw, Statement, limit_bytes=STATEMENT_BYTES)
    return digest("statement", bytes([statement.kind]), statement.body)
