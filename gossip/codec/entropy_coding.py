"""Public sums on the wire: about five bits of news in every eight, sent as not many more.

Masked vectors are noise, and nothing makes them shorter. Sums without masks are numbers around zero, of which the small ones
are frequent: one of 9 members and 7 levels has four to six bits of entropy in a lane of eight. Deflate (RFC 1951) without its
search for repetitions is a Huffman code over bytes with its table beside it, and comes within two per cent of that entropy
where lanes are bytes. Wider lanes are cut into planes first, all lowest bytes before all next ones, with the sign in the
lowest bit, so that high bytes are zeros. docs/decisions/0010 has what else was measured.

    coded = 0 || the lanes as they are                 where nothing is gained
          | 1 || one raw deflate stream of the planes

What is hashed, signed and stored are the lanes, never their coding: so a coding need not be canonical, and two devices with
different libraries make the same aggregate. Whoever decodes knows the exact size from what it holds already (the plan, or the
support and the round in a body). No more than that and one byte is ever made of what a peer sent.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from crypto.masking import WIDE_BYTES, Lanes
from gossip.errors import PeerViolation

PLAIN, DEFLATED = b"\0", b"\1"
FLAG_BYTES = 1
RAW_DEFLATE = -15  # zlib's spelling: no header, no checksum, as a signature covers what comes out
# What is tried, as (memory level, strategy): zlib begins a new table after 2^(level + 6) bytes. Short ones follow the tensors'
# ranges, long ones save tables; runs of zeros are what wide lanes mostly consist of.
TRIED = ((6, zlib.Z_HUFFMAN_ONLY), (9, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_RLE))


def squeeze(data: bytes, lanes: Lanes) -> bytes:
    """The coding of `data`, which is of exactly these lanes, at most one byte longer than it is."""
    planes = _planes(data, lanes)
    shortest = min((_deflate(planes, *how) for how in TRIED), key=len)
    return DEFLATED + shortest if len(shortest) < len(data) else PLAIN + data


def unsqueeze(coded: bytes, lanes: Lanes) -> bytes:
    """`lanes.size_bytes` bytes, or PeerViolation; never makes more of it, whatever it is."""
    flag, rest = coded[:FLAG_BYTES], coded[FLAG_BYTES:]
    if flag == PLAIN:
        if len(rest) != lanes.size_bytes:
            raise PeerViolation(f"lanes: {len(rest)} bytes, not {lanes.size_bytes}")
        return rest
    if flag != DEFLATED:
        raise PeerViolation("lanes: in no coding that is known")
    if len(rest) >= lanes.size_bytes:
        raise PeerViolation("lanes: coded for nothing")
    return _joined(_inflate(rest, lanes.size_bytes), lanes)


def _deflate(planes: bytes, level: int, strategy: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, level, strategy)
    return stream.compress(planes) + stream.flush()


def _inflate(stream: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(RAW_DEFLATE)
    try:
        planes = inflater.decompress(stream, size + 1)  # the one byte too many would show
    except zlib.error as error:
        raise PeerViolation(f"lanes: {error}") from error
    if len(planes) != size or not inflater.eof or inflater.unused_data:
        raise PeerViolation(f"lanes: not one whole stream of {size} bytes")
    return planes


def _planes(data: bytes, lanes: Lanes) -> bytes:
    """Each number n as 2n, or -2n - 1 where it is negative: high bytes are zeros for either sign."""
    planes = []
    for part, width in _parts(data, lanes):
        signed = part.view(f"<i{width}")
        folded: NDArray[np.signedinteger] = (signed << 1) ^ (signed >> (8 * width - 1))
        planes.append(folded.view(np.uint8).reshape(-1, width).T.tobytes())
    return b"".join(planes)


def _joined(planes: bytes, lanes: Lanes) -> bytes:
    joined = []
    for part, width in _parts(planes, lanes):
        folded = np.ascontiguousarray(part.reshape(width, -1).T).view(f"<u{width}")
        joined.append(((folded >> 1) ^ (-(folded & 1).view(f"<i{width}")).view(f"<u{width}")).tobytes())
    return b"".join(joined)


def _parts(data: bytes, lanes: Lanes) -> list[tuple[NDArray[np.uint8], int]]:
    """The wide lanes' bytes and the narrow ones', each with its bytes a lane."""
    every, split = np.frombuffer(data, np.uint8), lanes.wide * WIDE_BYTES
    return [(every[:split], WIDE_BYTES), (every[split:], lanes.narrow_bits // 8)]
