"""SPAKE2 over the code, the check word, and the boxes that hold what follows."""

import hmac
from collections.abc import Callable
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError
from spake2.ed25519_basic import NotOnCurve

from crypto.hashing import PREFIX, digest
from crypto.sealing import seal, unseal
from gossip.errors import PeerViolation
from gossip.wire import Wire, pack, unpack
from node.join.codes import VERSION, Secret, Way
from node.join.frames import BOX_BYTES, AnyFrame, Box, Proof, Share
from node.join.words import WORDS
from node.ports import Entropy


class Keys:
    """What follows from the key that the two sides agreed on."""

    def __init__(self, agreed: bytes, swarm: bytes) -> None:
        self._agreed = agreed
        self._swarm = swarm
        self.word = WORDS[int.from_bytes(self._derive("check word")) % len(WORDS)]

    def proof(self, side: Literal["joiner", "inviter"]) -> Proof:
        return Proof(hmac.digest(self._derive(f"proof of the {side}"), self._swarm, "sha256"))

    def proven(self, side: Literal["joiner", "inviter"], said: Proof) -> bool:
        return hmac.compare_digest(self.proof(side).mac, said.mac)

    def sealed(self, message: Wire) -> Box:
        return Box(seal(self._derive(f"box {type(message).__name__}"), pack(message), self._swarm))

    def opened(self, box: Box, kind: type[AnyFrame]) -> AnyFrame:
        """Each kind travels once, one way: its key is used once. PeerViolation."""
        try:
            plain = unseal(self._derive(f"box {kind.__name__}"), box.sealed, self._swarm)
        except ValueError as error:
            raise PeerViolation(f"{kind.__name__}: {error}") from error
        return unpack(plain, kind, limit_bytes=BOX_BYTES)

    def _derive(self, label: str) -> bytes:
        info = PREFIX + b"join " + label.encode()
        return HKDF(algorithm=SHA256(), length=32, salt=self._swarm, info=info).derive(self._agreed)


def _identity(side: str, device: bytes, swarm: bytes, way: Way, number: int) -> bytes:
    return digest(
        "join", side.encode(), device, swarm, way.encode(), number.to_bytes(2, "big"), bytes([VERSION])
    )


def begin_pake(
    side: type[SPAKE2_A] | type[SPAKE2_B],
    *,
    joiner: bytes,
    inviter: bytes,
    swarm: bytes,
    secret: Secret,
    entropy: Entropy,
) -> tuple[bytes, Callable[[Share], Keys]]:
    """Our share, and what becomes of theirs. PeerViolation for what is no share."""
    way, number = secret.way, secret.number
    run = side(
        secret.password,
        idA=_identity("joiner", joiner, swarm, way, number),
        idB=_identity("inviter", inviter, swarm, way, number),
        entropy_f=entropy,
    )
    ours: bytes = run.start()

    def finish(theirs: Share) -> Keys:
        try:
            return Keys(run.finish(theirs.element), swarm)
        except (SPAKEError, NotOnCurve, ValueError) as error:
            raise PeerViolation(f"no share of a key: {error or type(error).__name__}") from error

    return ours, finish


def commitment_to(share: bytes) -> bytes:
    return digest("join commitment", share)
