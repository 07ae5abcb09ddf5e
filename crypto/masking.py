"""Masks: keystreams added to a vector, lane by lane, modulo a power of two.

The pairwise masking of Bonawitz et al. ("Practical Secure Aggregation for Privacy-Preserving Machine Learning",
CCS 2017). Member i sends `y_i = q_i + PRG(b_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)`. In the sum over a
cohort each s_ij stands once with plus and once with minus and is gone; the b_i are taken off after the unmasking
step. To anybody who lacks one of its masks a vector is uniform in Z_2^b, lane by lane, as far as the stream cannot be
told from random bytes.

**Lanes.** A vector is bytes on the wire: first `wide` lanes of 32 bits (weights), then `narrow` lanes of 8, 16 or 32
bits (values), all little-endian. The stream is bytes too and lies over the vector byte for byte, so a mask is defined by
key and position alone. Nothing about machine, chunk or order of the masks can change a bit.

**Streams.** AES-256 in counter mode (NIST SP 800-38A, 6.5), the counter a 128-bit big-endian number, starting at zero,
so that byte k lies in block k / 16. Or ChaCha20 (RFC 8439, 2.4) for processors without AES instructions: block k / 64,
32-bit counter, nonce zero. Both can start anywhere. They start at zero without a nonce because a key is used once: it
is fresh for a pair (or a member), and a cohort, and masks one vector. *Two vectors under one key would show
their difference*; that no such pair exists is the protocol's first duty (one MASKED for each cohort and device).

A stream ends at 2^38 bytes, where ChaCha20's counter would wrap. AES-CTR repeats no block before that, which tells it
from random with an advantage of 2^-61 there (PRP/PRF switching lemma, 2^34 blocks).

**Fused and chunked.** All masks are applied to one chunk that stays in the processor's cache before the next one is
touched: the vector passes through memory once instead of once a mask, and beside it stand two chunks, not n streams.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

KEY_BYTES = 32
WIDE_BYTES = 4
NARROW_BITS = (8, 16, 32)
MAX_STREAM_BYTES = 2**38

Vector = npt.NDArray[np.uint8]


class Suite(enum.Enum):
    AES_256_CTR = "aes-256-ctr"
    CHACHA20 = "chacha20"


_BLOCK_BYTES = {Suite.AES_256_CTR: 16, Suite.CHACHA20: 64}


@dataclass(frozen=True, slots=True)
class Lanes:
    """How the bytes of a vector are numbers: `wide` lanes of 32 bits, then `narrow` lanes of `narrow_bits`.

    ValueError for negative counts, other widths than 8, 16 and 32 bits, and more than 2^38 bytes in all.
    """

    wide: int
    narrow: int
    narrow_bits: int

    def __post_init__(self) -> None:
        if self.wide < 0 or self.narrow < 0:
            raise ValueError(f"lanes are counted from zero, not {self.wide} and {self.narrow}")
        if self.narrow_bits not in NARROW_BITS:
            raise ValueError(f"a narrow lane has 8, 16 or 32 bits, not {self.narrow_bits}")
        if self.size_bytes > MAX_STREAM_BYTES:
            raise ValueError(f"{self.size_bytes} bytes are more than the {MAX_STREAM_BYTES} of one stream")

    @property
    def size_bytes(self) -> int:
        return self._wide_bytes + self.narrow * self.narrow_bits // 8

    @property
    def _wide_bytes(self) -> int:
        return self.wide * WIDE_BYTES

    def zeros(self) -> Vector:
        """A vector of these lanes, all zero: uint8, shape (size_bytes,)."""
        return np.zeros(self.size_bytes, np.uint8)

    def wide_view(self, vector: Vector) -> npt.NDArray[np.uint32]:
        """The wide lanes, shape (wide,), sharing the vector's memory. ValueError for an unfit vector."""
        self._check(vector)
        view: npt.NDArray[np.uint32] = vector[: self._wide_bytes].view("<u4")
        return view

    def narrow_view(self, vector: Vector) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The narrow lanes, shape (narrow,), sharing the vector's memory. ValueError for an unfit vector."""
        self._check(vector)
        view: npt.NDArray[np.unsignedinteger[Any]] = vector[self._wide_bytes :].view(
            f"<u{self.narrow_bits // 8}"
        )
        return view

    def _check(self, vector: Vector) -> None:
        if vector.dtype != np.uint8 or vector.ndim != 1 or not vector.flags.c_contiguous:
            raise ValueError(
                f"a vector is contiguous uint8 of one dimension, not {vector.dtype} {vector.shape}"
            )
        if vector.size != self.size_bytes:
            raise ValueError(f"these lanes take {self.size_bytes} bytes, the vector has {vector.size}")


@dataclass(frozen=True, slots=True)
class Mask:
    """One stream and whether it is added (+1) or taken off (-1). ValueError for another key size or sign."""

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.sign not in (1, -1):
            raise ValueError(f"a mask's sign is +1 or -1, not {self.sign}")


def apply_masks(
    vector: Vector,
    lanes: Lanes,
    masks: Sequence[Mask],
    *,
    suite: Suite = Suite.AES_256_CTR,
    chunk_bytes: int = 1 << 16,
) -> None:
    """Add or take off every mask's stream, in place, each lane modulo 2^bits.

    `vector` is uint8, 1-D, contiguous, writable, lanes.size_bytes long. `chunk_bytes` (at least one wide lane) is a
    matter of speed alone. ValueError for anything unfit, with the vector unchanged.
    """
    if chunk_bytes < WIDE_BYTES:
        raise ValueError(f"a chunk is at least {WIDE_BYTES} bytes, not {chunk_bytes}")
    views = (lanes.wide_view(vector), lanes.narrow_view(vector))
    streams = [
        (np.add if mask.sign > 0 else np.subtract, _stream(mask.key, _block(0, suite), suite))
        for mask in masks
    ]
    buffer = np.empty(min(chunk_bytes, lanes.size_bytes), np.uint8)
    zeros = memoryview(bytes(buffer.size))
    for view in views:
        step = chunk_bytes // view.itemsize
        for start in range(0, view.size, step):
            chunk = view[start : start + step]
            pad = buffer[: chunk.nbytes]
            for add_or_subtract, stream in streams:
                stream.update_into(zeros[: chunk.nbytes], pad.data)
                add_or_subtract(chunk, pad.view(chunk.dtype), out=chunk)


def add_vectors(total: Vector, vector: Vector, lanes: Lanes) -> None:
    """Add a vector to a total, in place, each lane modulo 2^bits. ValueError for anything unfit, total unchanged."""
    into = (lanes.wide_view(total), lanes.narrow_view(total))
    terms = (lanes.wide_view(vector), lanes.narrow_view(vector))
    for lane, term in zip(into, terms, strict=True):
        np.add(lane, term, out=lane)


def keystream(key: bytes, offset_bytes: int, size: int, suite: Suite = Suite.AES_256_CTR) -> bytes:
    """Bytes offset_bytes .. offset_bytes + size of a key's stream, without making those before.

    ValueError for a key that is not 32 bytes and for a range that is not within 0 .. 2^38.
    """
    _check_key(key)
    if offset_bytes < 0 or size < 0 or offset_bytes + size > MAX_STREAM_BYTES:
        raise ValueError(f"a stream has bytes 0 to {MAX_STREAM_BYTES}, not {offset_bytes} + {size}")
    block, skipped = divmod(offset_bytes, _BLOCK_BYTES[suite])
    return _stream(key, _block(block, suite), suite).update(bytes(skipped + size))[skipped:]


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask's key is {KEY_BYTES} bytes, not {len(key)}")


def _block(index: int, suite: Suite) -> bytes:
    """The 16 bytes that make a cipher begin at its index-th block: a counter, and for ChaCha20 the nonce."""
    match suite:
        case Suite.AES_256_CTR:
            return index.to_bytes(16, "big")
        case Suite.CHACHA20:
            return index.to_bytes(4, "little") + bytes(12)


def _stream(key: bytes, first_block: bytes, suite: Suite) -> CipherContext:
    """A cipher that turns zeros into the stream from that block on."""
    match suite:
        case Suite.AES_256_CTR:
            return Cipher(algorithms.AES256(key), modes.CTR(first_block)).encryptor()
        case Suite.CHACHA20:
            return Cipher(algorithms.ChaCha20(key, first_block), mode=None).encryptor()
