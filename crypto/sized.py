"""Stand-ins for cryptography that have its sizes and none of its strength: for simulations that count bytes and time.

While `sized_cryptography` lasts, no signature is checked, no secret is agreed on, no envelope is sealed and no mask is made.
Everything above these primitives is as it was: the same messages with the same fields, the same counts, the same sums.

**What is still made**: the keys of devices and of READYs, and signatures. A cohort's id is a hash over them, and from that hash
follows who adds up; other bytes there, and a run would take another course. So it takes the same one, message for message. Making
them costs a small part of what checking and using them does.

Only the driver of virtual time may import this (the checks enforce it): whoever runs under it believes every sender.
"""

import contextlib
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import x25519

from crypto import agreement, half_aggregation, identity, masking, sealing

_TAG_BYTES: Final = 16


class _Believer:
    """In the place of Ed25519PublicKey: whatever is signed, is signed by this key."""

    @classmethod
    def from_public_bytes(cls, _public: bytes) -> "_Believer":
        return cls()

    def verify(self, _signature: bytes, _message: bytes) -> None:
        pass


def _believed(*_: object) -> bool:
    """In the place of a half-aggregate's equation, and of what its points have to be."""
    return True


class _Public:
    """In the place of X25519PublicKey."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    @classmethod
    def from_public_bytes(cls, public: bytes) -> "_Public":
        return cls(public)

    def public_bytes_raw(self) -> bytes:
        return self.public


class _Private:
    """In the place of X25519PrivateKey, whose secrets anybody can make of both public keys."""

    def __init__(self, private: bytes) -> None:
        self._public = x25519.X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    @classmethod
    def from_private_bytes(cls, private: bytes) -> "_Private":
        return cls(private)

    def public_key(self) -> _Public:
        return _Public(self._public)

    def exchange(self, other: _Public) -> bytes:
        return sha256(min(self._public, other.public) + max(self._public, other.public)).digest()


class _Envelope:
    """In the place of ChaCha20Poly1305."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, _nonce: bytes, plaintext: bytes, _context: bytes) -> bytes:
        return plaintext + bytes(_TAG_BYTES)

    def decrypt(self, _nonce: bytes, box: bytes, _context: bytes) -> bytes:
        return box[:-_TAG_BYTES]


class _Zeros:
    """In the place of a mask's stream."""

    def update(self, data: bytes) -> bytes:
        return bytes(len(data))

    def update_into(self, data: memoryview, buffer: memoryview) -> int:
        buffer[:] = data
        return len(buffer)


def _no_stream(_key: bytes, _first_block: bytes, _suite: masking.Suite) -> _Zeros:
    return _Zeros()


_STAND_INS: Final = (
    (identity, "Ed25519PublicKey", _Believer),
    (half_aggregation, "_equation_holds", _believed),
    (half_aggregation, "_in_main_subgroup", _believed),
    (agreement, "X25519PrivateKey", _Private),
    (agreement, "X25519PublicKey", _Public),
    (sealing, "ChaCha20Poly1305", _Envelope),
    (masking, "_stream", _no_stream),
)


@contextlib.contextmanager
def sized_cryptography() -> Iterator[None]:
    """For as long as it lasts, and for this whole process. Verdicts are forgotten where it begins and where it ends."""
    real = [(module, name, getattr(module, name)) for module, name, _ in _STAND_INS]
    identity.forget()
    half_aggregation.forget()
    agreement.is_weak.cache_clear()
    try:
        for module, name, stand_in in _STAND_INS:
            setattr(module, name, stand_in)
        yield
    finally:
        for module, name, was in real:
            setattr(module, name, was)
        identity.forget()
        half_aggregation.forget()
        agreement.is_weak.cache_clear()
