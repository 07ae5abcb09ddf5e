"""The joiner: a device that has a code, or none, and wants to become a member."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from spake2 import SPAKE2_A

from crypto.identity import peer_id
from gossip.errors import GossamerError, PeerViolation
from node.join.codes import VERSION, Secret
from node.join.frames import (
    BOX_BYTES,
    DECIDE_S,
    HEARD_BYTES,
    KINDS,
    Applicant,
    Box,
    Chain,
    Constitution,
    Denied,
    Hello,
    NotJoined,
    Proof,
    Share,
    Stored,
    Welcome,
    framed,
    read_text,
)
from node.join.inviter import STEP_S
from node.join.pake import Keys, begin_pake, commitment_to
from node.ports import Entropy


@dataclass(frozen=True, slots=True)
class Answer:
    """For the other side."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Agreed:
    """The other side knew the code, or nothing was asked; a person there is looking at this word now."""

    word: str


@dataclass(frozen=True, slots=True)
class Offered:
    """The signed manifest of the swarm, not yet opened by anybody."""

    signed: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """The certificates; once they are on the disk, say `stored`."""

    statements: tuple[bytes, ...]


JoinAction: TypeAlias = Answer | Agreed | Offered | Admitted
_Awaited: TypeAlias = Literal["welcome", "share", "proof", "manifest", "chain", "nothing"]


class Joiner:
    """One conversation with one device. `heard` raises NotJoined when it denies, PeerViolation when it breaks the rules."""

    def __init__(
        self,
        *,
        me: bytes,
        inviter: bytes,
        secret: Secret,
        name: str,
        entropy: Entropy,
        swarm: bytes | None = None,
    ) -> None:
        """`swarm`: the only one that will do, if this device belongs to one."""
        self._me = me
        self._inviter = inviter
        self._secret = secret
        self._name = name
        self._entropy = entropy
        self._only = swarm
        self._commitment = b""
        self._finish: Callable[[Share], Keys] | None = None
        self._keys: Keys | None = None
        self.swarm = b""  # its id, once it has been told
        self.awaits: _Awaited = "welcome"

    @property
    def patience_s(self) -> float:
        """For the next frame."""
        decides = self.awaits in {"manifest", "chain"}
        return DECIDE_S + STEP_S if decides else STEP_S

    def hello(self) -> bytes:
        return framed(Hello(VERSION, self._secret.way, self._secret.number))

    def stored(self) -> bytes:
        assert self._keys is not None
        return framed(self._keys.sealed(Stored()))

    def heard(self, data: bytes) -> list[JoinAction]:
        if data[:1] == bytes([KINDS.index(Denied)]):
            raise NotJoined(read_text(data, Denied, HEARD_BYTES).why, peer_id(self._inviter))
        match self.awaits:
            case "welcome":
                return self._welcomed(read_text(data, Welcome, HEARD_BYTES))
            case "share":
                return self._shared(read_text(data, Share, HEARD_BYTES))
            case "proof":
                return self._proved(read_text(data, Proof, HEARD_BYTES))
        assert self._keys is not None
        if self.awaits == "manifest":
            self.awaits = "chain"
            return [Offered(self._keys.opened(read_text(data, Box, BOX_BYTES + 64), Constitution).signed)]
        if self.awaits == "chain":
            self.awaits = "nothing"
            return [Admitted(self._keys.opened(read_text(data, Box, BOX_BYTES + 64), Chain).statements)]
        raise PeerViolation("speaks after all was said")

    def _welcomed(self, welcome: Welcome) -> list[JoinAction]:
        self.swarm = welcome.swarm
        if self._only not in (None, welcome.swarm):
            raise OtherSwarmInvited(
                "this home belongs to another swarm than the one that invites; the code is not used up: "
                "gossamer join CODE --home FOLDER, with a folder of its own for this swarm"
            )
        ours, self._finish = begin_pake(
            SPAKE2_A,
            joiner=self._me,
            inviter=self._inviter,
            swarm=welcome.swarm,
            secret=self._secret,
            entropy=self._entropy,
        )
        self._commitment = welcome.commitment
        self.awaits = "share"
        return [Answer(framed(Share(ours)))]

    def _shared(self, share: Share) -> list[JoinAction]:
        assert self._finish is not None
        if commitment_to(share.element) != self._commitment:
            raise PeerViolation("a share other than the one that it was bound to")
        self._keys = self._finish(share)
        self.awaits = "proof"
        return [Answer(framed(self._keys.proof("joiner")))]

    def _proved(self, proof: Proof) -> list[JoinAction]:
        assert self._keys is not None
        if not self._keys.proven("inviter", proof):
            raise PeerViolation("does not know the code")
        self.awaits = "manifest"
        return [Answer(framed(self._keys.sealed(Applicant(self._name)))), Agreed(self._keys.word)]


class OtherSwarmInvited(GossamerError):
    """This home belongs to another swarm already, for good: use another home. Exit code 4."""

    exit_code: ClassVar[int] = 4
