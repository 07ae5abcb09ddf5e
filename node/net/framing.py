"""Messages on a byte stream: a 4-byte big-endian length, then that many bytes.

The length 2**32 - 1 stands alone: it is the sign of life of an idle sender, and no message. The decoder
refuses a length above its limit as soon as the four bytes are there, before anything is allocated for it, and
then holds no more than has arrived. A stream that ends inside a message lost it: libp2p shows a killed
process as a clean end of stream, so only the length tells a whole message from half of one.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from gossip.errors import PeerViolation

LENGTH_BYTES = 4
SIGN_OF_LIFE = b"\xff" * LENGTH_BYTES
# Noise's largest plaintext (65519) less yamux's header (12): a write of this size is one frame and one
# ciphertext.
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
        """The size, with its length, of the message of which a part has arrived; 0 between messages."""
        if self._expected is not None:
            return LENGTH_BYTES + self._expected
        return LENGTH_BYTES if self._arrived else 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that `chunk` completes. PeerViolation for a length above the limit."""
        self._arrived += chunk
        messages: list[bytes] = []
        while True:
            if self._expected is None:
                if len(self._arrived) < LENGTH_BYTES:
                    return messages
                length = bytes(self._arrived[:LENGTH_BYTES])
                del self._arrived[:LENGTH_BYTES]
                if length == SIGN_OF_LIFE:
                    continue
                self._expected = int.from_bytes(length, "big")
                if self._expected > self._limit_bytes:
                    raise PeerViolation(
                        f"a message of {self._expected} bytes; {self._limit_bytes} are allowed"
                    )
            if len(self._arrived) < self._expected:
                return messages
            messages.append(bytes(self._arrived[: self._expected]))
            del self._arrived[: self._expected]
            self._expected = None


class Outbox:
    """What waits for one neighbour, bounded in messages and in bytes."""

    def __init__(self, limit_messages: int, limit_bytes: int) -> None:
        self._limit_messages = limit_messages
        self._limit_bytes = limit_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._taken: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, message: bytes) -> str:
        """Queue a message; returns why that was refused, or nothing."""
        if len(self._waiting) >= self._limit_messages:
            return f"{len(self._waiting)} messages are already waiting"
        if self._waiting_bytes + len(message) > self._limit_bytes:
            return f"{self._waiting_bytes} bytes are already waiting"
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        return ""

    def take(self) -> list[bytes]:
        """The next message and, if it is small, those after it that fit into one piece."""
        size = 0
        while self._waiting:
            size += LENGTH_BYTES + len(self._waiting[0])
            if self._taken and size > PIECE_BYTES:
                break
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message)
            self._taken.append(message)
        return self._taken

    def written(self) -> None:
        """What was taken has left this process."""
        self._taken = []

    def lost(self) -> list[bytes]:
        """What was taken and may not have left; what waits stays."""
        taken, self._taken = self._taken, []
        return taken

    def empty(self) -> list[bytes]:
        """All that has not left this process for certain, in order."""
        left = [*self._taken, *self._waiting]
        self._taken = []
        self._waiting.clear()
        self._waiting_bytes = 0
        return left
