"""A device is its Ed25519 key (RFC 8032): it signs everything it says, and its public key is its name.

**Domain separation.** What is signed is `"gossamer/1/" || domain || NUL || message`. A domain holds no NUL, so
the first one ends it, and a signature given in one role (a READY) is none in another (a seal). The message
itself has to name its swarm and cohort: that is the canonical encoding's duty, not this file's.

**One key, one device, one verdict.** Rosters, thresholds and histories count public keys, so a key must have one
encoding, and a signature one verdict on every node, for ever:

- Encodings with y >= p are refused. The library accepts them: a second name for the same point.
- Points of small order are refused. The library accepts them too. Under the key 01 00..00 (the neutral element)
  the signature R = 01 00..00, S = 0 holds for *every* message, so a member with such a key could later deny, or
  claim, anything (Chalkias, Garillot, Nikolaenko: "Taming the many EdDSAs", SSR 2020).
- S >= L is refused by the library (RFC 8032, 5.1.7), so nobody can turn a valid signature into a second one.
- The library checks the equation without the cofactor. Only the owner of a key with a torsion component could make
  signatures on which a cofactored implementation would differ; a second implementation of this protocol must
  therefore be cofactorless as well. Such keys can sign, but not towards a certificate (`crypto.half_aggregation`).

**The textual name** is libp2p's: the base58btc form of an identity multihash over the protobuf-encoded key. The
key can be read back from it, so no directory is needed to check a peer's signatures.

Signing is deterministic and needs no entropy. The seed is never printed; keeping it off other people's disks is
the store's work.
"""

import functools

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.hashing import PREFIX

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

# A bound, because any peer can send any key; far above the number of members that one node hears at a time.
PARSED_KEYS_KEPT = 1024
# Verifications that held: a READY is verified on its arrival and again in its ROSTER. At most 8 MiB.
HELD_KEPT = 8192
HELD_BYTES = 1024  # of one message; longer ones are verified anew

_P = 2**255 - 19
# y of the two pairs of points of order 8, RFC 8032's curve; the test multiplies them out.
_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = (0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8)

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Multihash: code 0 (identity), 36 bytes; protobuf: field 1 (type) = 1 (Ed25519), field 2 (data) = 32 bytes.
_PEER_ID_HEAD = bytes.fromhex("0024 0801 1220")
_PEER_ID_BYTES = len(_PEER_ID_HEAD) + PUBLIC_KEY_BYTES
# The head fixes the size of the number and so the count of its digits; its leading zero byte is one more "1".
_PEER_ID_CHARACTERS = 52


class Identity:
    """A device's signing key, made from a 32-byte seed. ValueError for a seed of another size."""

    __slots__ = ("_key", "peer_id", "public_key", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an identity's seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.public_key = self._key.public_key().public_bytes_raw()
        self.peer_id = peer_id(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    def sign(self, domain: str, message: bytes) -> bytes:
        """The 64-byte signature over the domain and the message. ValueError for a NUL in the domain."""
        return self._key.sign(framed(domain, message))


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    """Whether the key's owner signed this message in this domain. False for whatever is malformed."""
    try:
        signed = framed(domain, message)
        if len(signed) <= HELD_BYTES:
            _held(public_key, signature, signed)
        else:
            _parsed(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


@functools.lru_cache(maxsize=PARSED_KEYS_KEPT)
def peer_id(public_key: bytes) -> str:
    """The libp2p name of a 32-byte public key, `12D3KooW...`. ValueError for a key of another size."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a public key is {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    number = int.from_bytes(_PEER_ID_HEAD + public_key, "big")
    digits = ""
    while number:
        number, digit = divmod(number, len(_BASE58))
        digits = _BASE58[digit] + digits
    return _BASE58[0] + digits


def public_key_of(peer_id: str) -> bytes:
    """The 32-byte public key that an Ed25519 peer id spells out. ValueError for any other text."""
    if len(peer_id) != _PEER_ID_CHARACTERS or peer_id[0] != _BASE58[0]:
        raise ValueError(f"an Ed25519 peer id has {_PEER_ID_CHARACTERS} characters and begins with 12D3KooW")
    number = 0
    for character in peer_id:
        digit = _BASE58.find(character)
        if digit < 0:
            raise ValueError(f"{character!r} is not a base58 character of a peer id")
        number = number * len(_BASE58) + digit
    # 51 digits fit into 38 bytes: 58**51 < 2**304.
    decoded = number.to_bytes(_PEER_ID_BYTES, "big")
    if not decoded.startswith(_PEER_ID_HEAD):
        raise ValueError("this peer id does not hold an Ed25519 public key")
    return decoded.removeprefix(_PEER_ID_HEAD)


def forget() -> None:
    """Every key that was parsed and every verdict."""
    _parsed.cache_clear()
    _held.cache_clear()


def framed(domain: str, message: bytes) -> bytes:
    """What is signed. ValueError for a NUL in the domain."""
    if "\0" in domain:
        raise ValueError("a signature's domain holds no NUL: it would end there")
    return PREFIX + domain.encode() + b"\0" + message


def refuse_weak(point: bytes, what: str) -> None:
    """ValueError for a second encoding of a point, and for a point of small order. That it is on the curve is not looked at."""
    y = int.from_bytes(point, "little") & (2**255 - 1)
    if y >= _P:
        raise ValueError(f"{what} is encoded with y below p")
    if y in _SMALL_ORDER_Y:
        raise ValueError(f"{what} is not a point of small order")


@functools.lru_cache(maxsize=PARSED_KEYS_KEPT)
def _parsed(public_key: bytes) -> Ed25519PublicKey:
    refuse_weak(public_key, "a public key")
    return Ed25519PublicKey.from_public_bytes(public_key)


@functools.lru_cache(maxsize=HELD_KEPT)
def _held(public_key: bytes, signature: bytes, signed: bytes) -> None:
    """Raises what the library raises. Only what returns is kept: nobody can fill this with signatures that do not hold."""
    _parsed(public_key).verify(signature, signed)
