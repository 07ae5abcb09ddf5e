"""What a connection runs on."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from abc import abstractmethod

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.security.noise.io import MAX_NOISE_MESSAGE_LEN


class Line(ReadWriteCloser):
    """Bytes to one device and back, over a socket or a circuit. It can be cut off at once."""

    relayed = False

    def __init__(
        self, remote: tuple[str, int], address: str, local: tuple[str, int], *, inbound: bool
    ) -> None:
        """`address`: of the other end, as a multiaddr."""
        self.host, self.port = remote
        self.address = address
        self.local = local
        self.inbound = inbound
        self.neighbour = False
        self.hole_port = False  # dialled from the port that `Holes` dials from
        self.punched = False  # by two dials that met
        self.closed = trio.Event()
        self.end = "connection lost"
        self._arrived = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; ConnectionClosedError if they do not come."""
        # libp2p 0.8.1: believes a stranger's length prefix, gives up a read that comes in more than 101
        # parts, and believes the end of a stream when it has seen it 101 times.
        wanted = MAX_NOISE_MESSAGE_LEN if n is None else n
        if wanted > MAX_NOISE_MESSAGE_LEN:
            raise ConnectionClosedError(
                f"{wanted} bytes announced; Noise has at most {MAX_NOISE_MESSAGE_LEN}"
            )
        while len(self._arrived) < wanted:
            self._arrived += await self._receive()
        data = bytes(self._arrived[:wanted])
        del self._arrived[:wanted]
        return data

    @abstractmethod
    async def _receive(self) -> bytes:
        """What has come: at least one byte, and often many small frames. ConnectionClosedError."""

    def abort(self) -> None:
        """Whoever waits for `closed` does the rest."""
        self.closed.set()

    async def close(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        return self.host, self.port
