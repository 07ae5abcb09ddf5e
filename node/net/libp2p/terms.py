"""On what terms the transport serves the rest of a node: its limits, its figures, where it reports, and how it fails.

Nothing here loads libp2p, which takes seconds, so that every driver can import it at its top.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gossip.errors import GossamerError

KIB = 1024
MIB = 1024 * KIB

ANNOUNCEMENT_BYTES = 64 * KIB
ANOTHER = "another device answers there"

Log = Callable[[str, Mapping[str, object]], None]
PINGS_MAX = 16  # on one stream
UNACKED_S = 10.0  # what the other end's system does not acknowledge for so long shows that it cannot be reached any more


@dataclass(frozen=True)
class Limits:
    """What peers can take from this device, and how long it waits for them."""

    message_bytes: int = 16 * MIB
    queue_messages: int = 1024  # waiting for one neighbour
    queue_bytes: int = 32 * MIB  # the same; at least message_bytes
    connections: int = 64
    inbound_connections: int = 48  # so that callers never take the slots that we dial with
    strangers_per_host: int = 32  # callers from one IP address that are not neighbours, or not yet
    streams_per_connection: int = 16  # open at once in both directions; a neighbour needs four
    messages_per_s: int = 1000  # read from one neighbour; honest ones send a twentieth of it
    messages_burst: int = 2000
    handshake_s: float = 10.0
    dial_s: float = 10.0
    keepalive_s: float = 20.0  # an idle link gives a sign of life this often: later than the core says ALIVE
    silence_s: float = 45.0  # and is given up after so long without one
    slowest_bytes_per_s: int = 8 * KIB  # a message may take handshake_s, and its size at this rate

    def allowance_s(self, size: int) -> float:
        """For a message of so many bytes."""
        return self.handshake_s + size / self.slowest_bytes_per_s


@dataclass(frozen=True)
class GuestLimits:
    """What strangers can take together, and each of them in one visit."""

    guests: int = 8
    per_host: int = 4  # from one IP address
    visit_s: float = 3600.0
    visit_bytes: int = 4 * MIB  # in both directions
    frame_bytes: int = 64 * KIB  # of one frame of gossipsub's; js-libp2p's are far smaller
    waiting: int = 32  # announcements for one guest


@dataclass
class Traffic:
    """Bytes so far. libp2p's own part (handshakes, framing, control) is a socket's figure less the two payloads. What guests
    are told counts once a copy.
    """

    socket_sent: int = 0
    socket_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    announcements_sent: int = 0


@dataclass(frozen=True)
class Pinged:
    """How far away a device is, and what its clock says. The clock is the device's own word."""

    round_trips_s: tuple[float, ...]
    clock_ahead_s: float  # of ours; negative: behind


class Inbox(Protocol):
    """Where a transport reports. Called in the trio thread, at times from within `send` and `dial`; must not
    block or raise.
    """

    def received(self, peer: bytes, data: bytes) -> None: ...
    def peer_up(self, peer: bytes) -> None: ...
    def peer_down(self, peer: bytes, reason: str) -> None: ...
    def send_failed(self, peer: bytes, data: bytes, reason: str) -> None: ...


class PortInUse(GossamerError):
    """Another program listens there. Stop it, or choose another port."""

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} on {host} is in use; stop the program that has it (another node?), "
            "or listen on another port"
        )


class Unreachable(GossamerError):
    """No answer came from that address. Check that the device is on, and the address with its peer id."""
