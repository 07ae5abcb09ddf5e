"""Messages on a byte stream: a 4-byte big-endian length, then that many bytes.

The length 2**32 - 1 stands alone: it is the sign of life that an idle sender gives, and no message. The decoder
refuses a length above its limit as soon as the four bytes are there, before anything is allocated for it, and
then holds no more than has arrived. A stream that ends inside a message lost it: libp2p shows a killed process
as a clean end of stream, so only the length tells a whole message from half of one.
"""

from collections.abc import Iterable, Iterator

from gossip.errors import PeerViolation

LENGTH_BYTES = 4
SIGN_OF_LIFE = b"\xff" * LENGTH_BYTES
# Noise's largest plaintext (65519) less yamux's header (12): a write of this size is one frame and one cipher text.
PIECE_BYTES = 65507


def framed(messages: Iterable[bytes]) -> bytes:
    parts: list[bytes] = []
    for message in messages:
        parts += (len(message).to_bytes(LENGTH_BYTES, "big"), message)
    return b"".join(parts)


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


class FrameDecoder:
    """Turns chunks of a stream, however they were cut, back into whole messages of at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._arrived = bytearray()
        self._expected: int | None = None

    @property
    def unfinished_bytes(self) -> int:
        """The size of the message, with its length, of which a part has arrived; 0 between messages."""
        if self._expected is not None:
            return LENGTH_BYTES + self._expected
        return LENGTH_BYTES if self._arrived else 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that `chunk` completes. PeerViolation for a length above the limit; then stop feeding."""
        self._arrived += chunk
        messages: list[bytes] = []
        while True:
            if self._expected is None:
                if len(self._arrived) < LENGTH_BYTES:
                    return messages
                head = bytes(self._arrived[:LENGTH_BYTES])
                del self._arrived[:LENGTH_BYTES]
                if head == SIGN_OF_LIFE:
                    continue
                self._expected = int.from_bytes(head, "big")
                if self._expected > self._limit_bytes:
                    raise PeerViolation(f"a message of {self._expected} bytes; at most {self._limit_bytes} are allowed")
            if len(self._arrived) < self._expected:
                return messages
            messages.append(bytes(memoryview(self._arrived)[: self._expected]))
            del self._arrived[: self._expected]
            self._expected = None
