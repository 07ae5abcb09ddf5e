"""One hash for everything: SHA-256 over an encoding that cannot be read in two ways.

Every place that hashes names its domain, so that a digest made for one purpose is never one for another. The
domain and each part are preceded by their length (64 bits, big-endian). The encoding is therefore injective:
two different lists of parts are two different inputs, and `digest` is as collision resistant as SHA-256
(FIPS 180-4) on all of them together. Plain concatenation is not: `ab | c` and `a | bc` would be one.

The length prefix does not hide a guessable part. Commit only to what has the entropy of a key.
"""

import hashlib
from functools import lru_cache

# In front of every domain, in hashes, signatures and key derivations alike; the number is the protocol's.
PREFIX = b"gossamer/1/"

DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_SHORT = tuple(size.to_bytes(_LENGTH_BYTES, "big") for size in range(257))  # nearly all parts are as short


def digest(domain: str, *parts: bytes) -> bytes:
    """The 32-byte SHA-256 of the length-prefixed domain and parts. No parts, or empty ones, are fine."""
    pieces = [_prefixed(domain)]
    for part in parts:
        size = len(part)
        pieces += (_SHORT[size] if size <= 256 else size.to_bytes(_LENGTH_BYTES, "big"), part)
    return hashlib.sha256(b"".join(pieces)).digest()


@lru_cache(maxsize=256)  # domains are few, and written in our own code
def _prefixed(domain: str) -> bytes:
    named = PREFIX + domain.encode()
    return len(named).to_bytes(_LENGTH_BYTES, "big") + named
