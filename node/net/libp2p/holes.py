"""Holes in routers: the one local port from which a device dials beyond its own networks.

Its router gives all such dials the same outer port, which a relay then sees. When two devices dial each other at the same moment
(`node.net.libp2p.circuits` arranges it), who arrives first may find that the other has not dialled yet; so meanwhile the port
listens as well, for the one expected address.
"""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable

import trio
from libp2p.io.exceptions import ConnectionClosedError

from node.config.addresses import listen_address

PUNCH_PAUSE_S = 0.1  # after a dial that was refused
PUNCHES_MAX = 16  # at a time


class Holes:
    """The one local port from which this device dials beyond its own networks. IPv4."""

    def __init__(self, far: Callable[[str], bool]) -> None:
        self._far = far
        self._port = 0
        self._binding = trio.Lock()
        self._expected: dict[tuple[str, int], trio.MemorySendChannel[trio.SocketStream]] = {}

    async def dial(self, address: str) -> trio.SocketStream | None:
        """A connection from that port; None if the address is near, or the port cannot be used for it. OSError."""
        if not address.startswith("/ip4/") or not self._far(address):
            return None
        try:
            return await self._dial(listen_address(address))
        except OSError as error:
            # Another program has the port by now, or a connection to there has just ended.
            if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}:
                return None
            raise

    async def meet(self, host: str, port: int) -> trio.SocketStream:
        """A connection with whoever dials us from there meanwhile; without end, if need be."""
        if (host, port) in self._expected:
            raise ConnectionClosedError("a hole to there is being made already")
        arrived, arrivals = trio.open_memory_channel[trio.SocketStream](1)
        self._expected[host, port] = arrived
        try:
            async with trio.open_nursery() as nursery, self._listening(nursery):
                nursery.start_soon(self._keep_dialling, (host, port), arrived)
                stream = await arrivals.receive()
                nursery.cancel_scope.cancel()
            return stream
        finally:
            del self._expected[host, port]

    @contextlib.asynccontextmanager
    async def _listening(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        with await self._socket() as listener:
            # One of several that listen: the system chooses among them, and each knows all who are expected.
            listener.listen(PUNCHES_MAX)
            nursery.start_soon(self._accept, listener)
            yield

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        while True:
            try:
                accepted, remote = await listener.accept()
            except OSError:
                return
            self._arrive(accepted, remote[:2])

    def _arrive(self, accepted: trio.socket.SocketType, remote: tuple[str, int]) -> None:
        expected = self._expected.get(remote)
        try:
            if expected is None:
                raise trio.WouldBlock
            expected.send_nowait(trio.SocketStream(accepted))
        except (trio.WouldBlock, OSError):
            accepted.close()

    async def _keep_dialling(
        self, remote: tuple[str, int], arrived: trio.MemorySendChannel[trio.SocketStream]
    ) -> None:
        while True:
            with contextlib.suppress(OSError):
                stream = await self._dial(remote)
                try:
                    arrived.send_nowait(stream)
                except trio.WouldBlock:
                    stream.socket.close()
                return
            await trio.sleep(PUNCH_PAUSE_S)

    async def _dial(self, remote: tuple[str, int]) -> trio.SocketStream:
        dialling = await self._socket()
        try:
            await dialling.connect(remote)
            return trio.SocketStream(dialling)
        except BaseException:
            dialling.close()
            raise

    async def _socket(self) -> trio.socket.SocketType:
        made = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            async with self._binding:
                # What arrives there and is not expected is closed.
                await made.bind(("0.0.0.0", self._port))  # noqa: S104
                self._port = made.getsockname()[1]
        except BaseException:
            made.close()
            raise
        return made
