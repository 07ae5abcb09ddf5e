"""What lies between two virtual devices: two access links and the byte stream that joins them.

Each device has one link, whose uplink sends one byte after the other, whoever it is for, and whose downlink takes them so,
too; the middle of the network is never the bottleneck. TCP makes a stream of it: bytes between two devices arrive in the
order in which they left, and a lost segment is no loss but a delay, of a retransmission time-out that doubles (RFC 6298).

What a daemon's socket carries beside the messages is added, as the transport (`node.net.libp2p`) makes it:

    a write                      30   Noise 2 + 16 (length, tag), yamux 12; once for the messages that leave together, and
                                      again for each further 65,507 B
    a message                     4   its length (node.net.framing)
    a connection                691   in either direction: Noise, yamux and its one ping, the negotiation of its streams

All were measured between two transports on loopback, and `tests/loopback/test_links_as_measured.py` measures them again.
Two things are left out: a window update of 30 bytes for every 64 KiB or more that one direction of a connection carries, and the end of the second connection where two devices dial each other
at once (among 16 daemons 0.1 KB a device). A link between two nodes is never idle for so long that the transport would give
a sign of life. TCP's and IP's own headers are not counted, as a daemon does not see them.
"""

import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from node.net.framing import LENGTH_BYTES, PIECE_BYTES
from node.virtual.randomness import Draws

WRITE_BYTES = 30
CONNECTION_BYTES = 691
SEGMENT_BYTES = 1460
RETRANSMIT_S = 0.2  # the least time-out in practice; Linux: TCP_RTO_MIN
RETRANSMIT_MAX_S = 120.0  # Linux: TCP_RTO_MAX

End = TypeVar("End")  # of a connection: what the caller takes for a device


@dataclass(frozen=True, slots=True)
class Link:
    """A device's way into the network; the latency of a pair is the sum of both, and so is the loss."""

    up_bit_s: float = 1e9
    down_bit_s: float = 1e9
    latency_s: float = 0.0005
    jitter_s: float = 0.0  # up to so much more, drawn for each write
    loss: float = 0.0  # of segments


@dataclass(slots=True)
class Port:
    """A device's link while the world runs."""

    link: Link
    up_free_s: float = 0.0  # when the last byte that waits will have left
    down_free_s: float = 0.0

    def leaves(self, size: int, now: float) -> float:
        self.up_free_s = max(now, self.up_free_s) + 8 * size / self.link.up_bit_s
        return self.up_free_s

    def takes(self, size: int, sender: Link, now: float) -> float:
        """When the whole of a message is in, whose last byte is here at `now`; its first one came as it was sent."""
        begins = max(self.down_free_s, now - 8 * size / sender.up_bit_s)
        self.down_free_s = max(now, begins + 8 * size / self.link.down_bit_s)
        return self.down_free_s


@dataclass(slots=True, eq=False)
class Pipe(Generic[End]):
    """One direction of a connection. `closed` ends what is under way in it."""

    sender: End
    receiver: End
    links: tuple[Link, Link]  # the sender's, the receiver's
    closed: bool = False
    held: list[tuple[int, bytes]] = field(default_factory=list)  # what a cut has kept back
    lost_at: float = 0.0  # since when a cut keeps back, or since the other end is gone
    wrote_at: float = -math.inf
    arrives_at: float = 0.0  # of the last byte so far
    jitter_s: float = field(init=False)
    loss: float = field(init=False)  # of segments, on both links

    def __post_init__(self) -> None:
        one, other = self.links
        self.jitter_s = one.jitter_s + other.jitter_s
        self.loss = 1 - (1 - one.loss) * (1 - other.loss)

    def close(self, now: float) -> None:
        self.closed = True
        if not self.held:
            self.lost_at = now

    def hold(self, what: tuple[int, bytes], now: float) -> bool:
        """Whether it is the first."""
        first = not self.held
        if first:
            self.lost_at = now
        self.held.append(what)
        return first

    def sends_again_at(self, now: float) -> float:
        """When the sender tries again, from now on: its time-out has doubled since the first loss."""
        timeout_s, at = RETRANSMIT_S, self.lost_at + RETRANSMIT_S
        while at < now:
            timeout_s = min(2 * timeout_s, RETRANSMIT_MAX_S)
            at += timeout_s
        return at

    def size_of(self, message_bytes: int, now: float) -> int:
        """What a message puts on the wire; messages of one moment leave in one write."""
        own = 0 if self.wrote_at == now else 1
        self.wrote_at = now
        return message_bytes + LENGTH_BYTES + WRITE_BYTES * (own + message_bytes // PIECE_BYTES)

    def arrives(self, left_at: float, size: int, chance: Draws) -> float:
        """When the last byte is at the receiver's downlink, given when it left the sender's uplink."""
        one, other = self.links
        at = left_at + one.latency_s + other.latency_s
        if self.jitter_s:
            at += chance.uniform(0.0, self.jitter_s)
        if self.loss:
            at += retransmission_s(size, self.loss, chance)
        self.arrives_at = max(self.arrives_at, at)
        return self.arrives_at


def retransmission_s(size: int, loss: float, chance: Draws) -> float:
    """The delay of a write of which segments are lost, each with the probability `loss`."""
    delay_s, timeout_s = 0.0, RETRANSMIT_S
    lost = 1 - (1 - loss) ** math.ceil(size / SEGMENT_BYTES)
    while chance.uniform(0.0, 1.0) < lost:
        delay_s += timeout_s
        timeout_s *= 2
        lost = loss  # what is sent again is one segment
    return delay_s
