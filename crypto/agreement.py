"""Two devices reach one secret: X25519 (RFC 7748), then HKDF-SHA256 (RFC 5869).

The shared point itself is never a key. HKDF turns it into as many independent keys as there are distinct
(salt, info): the pairwise mask of a cohort, the key of an envelope in one direction. An observer who
knows both public keys learns nothing of them (gap Diffie-Hellman, HKDF as a random oracle).

Three things are the caller's part, and the secure sum does them:

- X25519 authenticates nobody. The public keys stand in signed READY messages.
- RFC 7748, 6.1, wants both public keys in the derivation, because several encodings lead to one point. The salt
  is the cohort's id, the hash of a roster in which all public keys stand.
- A pair is fresh for each cohort. That gives forward secrecy, and it is what allows the streams and
  envelopes made of these keys to begin at counter and nonce zero.

A pair whose private key is to be dealt in shares is made from a *seed* of 16 bytes (`KeyPair.from_seed`): shares are half as
long, and nothing is lost. X25519 itself gives about 128 bits of security (the square root of the group's order), and who
looks for the seed has 2^128 to try, for one owner at a time, as its key is in the derivation.

A low-order public key would make the secret the same, all zero, whatever our private key is. It is refused: an
honest device never has one. (RFC 7748, section 6.1, leaves this check to the protocol.)
"""

import functools

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.hashing import PREFIX

KEY_BYTES = 32
SEED_BYTES = 16
JUDGED_KEPT = 4096  # public keys: one is judged on its READY's arrival and in its ROSTER
# A member, in every derivation: its raw Ed25519 public key. Its fixed size keeps the concatenations readable.
MEMBER_BYTES = 32


class KeyPair:
    """An X25519 pair made from 32 private bytes (clamped by the library). ValueError for another size."""

    __slots__ = ("_key", "private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_BYTES:
            raise ValueError(f"an X25519 private key is {KEY_BYTES} bytes, not {len(private)}")
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.private = private
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: bytes, owner: bytes) -> "KeyPair":
        """The pair of a 16-byte seed: HKDF-SHA256 with info `"gossamer/1/mask key" || owner's key`.

        ValueError for a seed or an owner's key of another size.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a mask key's seed is {SEED_BYTES} bytes, not {len(seed)}")
        if len(owner) != MEMBER_BYTES:
            raise ValueError(f"a member's key is {MEMBER_BYTES} bytes")
        return cls(_hkdf(seed, b"", PREFIX + b"mask key" + owner, KEY_BYTES))

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"

    def derive(self, their_public: bytes, *, salt: bytes, info: bytes, size: int = 32) -> bytes:
        """`size` bytes of HKDF-SHA256(X25519(ours, theirs)); both sides get the same for the same salt and info.

        ValueError for a public key of another size than 32 bytes or of low order, and for more than 8160 bytes.
        """
        return _hkdf(self._shared_point(their_public), salt, info, size)

    def _shared_point(self, their_public: bytes) -> bytes:
        if len(their_public) != KEY_BYTES:
            raise ValueError(f"an X25519 public key is {KEY_BYTES} bytes, not {len(their_public)}")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(their_public))
        except ValueError as error:
            raise ValueError("this X25519 public key is a point of low order") from error


def pair_info(one: bytes, other: bytes) -> bytes:
    """HKDF info of the mask that two members share; the same from both sides.

    `"gossamer/1/pair" || lower key || higher key`. ValueError for a member's key that is not 32 bytes.
    """
    if len(one) != MEMBER_BYTES or len(other) != MEMBER_BYTES:
        raise ValueError(f"a member's key is {MEMBER_BYTES} bytes")
    return PREFIX + b"pair" + min(one, other) + max(one, other)


def _hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=salt, info=info).derive(secret)


@functools.lru_cache(maxsize=JUDGED_KEPT)
def is_weak(public: bytes) -> bool:
    """Whether a public key is of the wrong size or of low order, so that no secret can be agreed with it."""
    try:
        KeyPair(_ANY_PRIVATE).derive(public, salt=b"", info=b"")
    except ValueError:
        return True
    return False


# Whether a point is of low order does not depend on the other side's key.
_ANY_PRIVATE = bytes(range(KEY_BYTES))
