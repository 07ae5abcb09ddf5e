"""TCP with counted sockets, admission by host, and ports bound beforehand."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room
from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.custom_types import THandler
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from node.net.libp2p.holes import Holes
from node.net.libp2p.line import Line
from node.net.libp2p.names import parsed, tcp_address
from node.net.libp2p.terms import MIB, UNACKED_S, Limits, PortInUse, Traffic

READ_BYTES = MIB  # at once


class Socket(Line):
    """A TCP connection that counts its bytes."""

    def __init__(self, stream: trio.SocketStream, traffic: Traffic, *, inbound: bool) -> None:
        # libp2p 0.8.1: its own stream does not know an IPv6 peer's address.
        remote = stream.socket.getpeername()[:2]
        host, port = stream.socket.getsockname()[:2]
        super().__init__(remote, str(tcp_address(*remote)), (host.partition("%")[0], port), inbound=inbound)
        self._stream = stream
        self._traffic = traffic
        self.allowance: int | None = None  # bytes that a guest may still take, both ways together
        if hasattr(trio.socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere, the silence shows it
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT, int(1000 * UNACKED_S))

    async def _receive(self) -> bytes:
        try:
            chunk = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("connection lost", transport="tcp") from error
        if not chunk:
            raise ConnectionClosedError("closed by the other side", transport="tcp")
        self._traffic.socket_received += len(chunk)
        self._take(len(chunk))
        return chunk

    async def write(self, data: bytes) -> None:
        self._take(len(data))
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("connection lost", transport="tcp") from error
        self._traffic.socket_sent += len(data)

    def _take(self, size: int) -> None:
        if self.allowance is None:
            return
        self.allowance -= size
        if self.allowance < 0:
            self.end = "it has used up its bytes"
            self.abort()
            raise ConnectionClosedError(self.end, transport="tcp")

    def abort(self) -> None:
        """libp2p 0.8.1: a polite end waits for ever behind a peer that does not read. When its socket is
        closed, its own tasks clear up.
        """
        self._stream.socket.close()
        super().abort()


class _Listener(IListener):
    background_nursery: trio.Nursery  # set by Swarm.listen

    def __init__(self, tcp: Tcp, handler: THandler) -> None:
        self._tcp = tcp
        self._handler = handler
        self._scope = trio.CancelScope()
        self._addresses: tuple[Multiaddr, ...] = ()

    async def listen(self, maddr: Multiaddr) -> None:
        self._addresses = (maddr,)
        self.background_nursery.start_soon(self._accept, self._tcp.bound[str(maddr)])
        await trio.lowlevel.checkpoint()

    async def _accept(self, listener: trio.SocketListener) -> None:
        with self._scope:
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            socket = Socket(stream, self._tcp.traffic, inbound=True)
        except OSError:  # gone before it was accepted
            stream.socket.close()
            return
        if not self._tcp.admits(socket):
            socket.abort()
            return
        self._tcp.sockets[socket] = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._handler, socket)
                # libp2p 0.8.1: a handler keeps its slot and its task until the host ends, not the connection.
                await socket.closed.wait()
                nursery.cancel_scope.cancel()
        except Exception:  # noqa: BLE001, S110 - whatever libp2p raises, a stranger is cut off
            pass
        finally:
            socket.abort()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return self._addresses

    async def close(self) -> None:
        self._scope.cancel()
        await trio.lowlevel.checkpoint()


class Tcp(ITransport):
    """libp2p's TCP with counted sockets, our own admission, and ports bound beforehand (see `bind`)."""

    def __init__(self, limits: Limits, traffic: Traffic) -> None:
        self._limits = limits
        self._tcp = TCP()
        self.traffic = traffic
        self.holes: Holes | None = None
        self.bound: dict[str, trio.SocketListener] = {}
        self.sockets: WeakKeyDictionary[Line, None] = WeakKeyDictionary()

    def admits(self, newcomer: Line) -> bool:
        """libp2p 0.8.1: idle connections can take all of its slots."""
        inbound = [socket for socket in self.sockets if socket.inbound and not socket.closed.is_set()]
        strangers = sum(1 for socket in inbound if socket.host == newcomer.host and not socket.neighbour)
        return len(inbound) < self._limits.inbound_connections and strangers < self._limits.strangers_per_host

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        address = str(maddr).partition("/p2p/")[0]
        from_hole = await self.holes.dial(address) if self.holes is not None else None
        if from_hole is None:
            raw = cast(RawConnection, await self._tcp.dial(maddr))
            stream = cast(TrioTCPStream, raw.stream).stream
        else:
            stream = from_hole
        try:
            socket = Socket(stream, self.traffic, inbound=False)
            socket.hole_port = from_hole is not None
        except OSError:  # gone already
            stream.socket.close()
            raise
        self.sockets[socket] = None
        return RawConnection(socket, initiator=True)

    def hang_up(self) -> None:
        """libp2p 0.8.1: a host that is cancelled leaves its sockets open; one that is closed takes 0.3 s for
        each.
        """
        for socket in list(self.sockets):
            socket.abort()

    def create_listener(self, handler_function: THandler) -> IListener:
        return _Listener(self, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        return self._tcp.can_dial(maddr)

    def can_listen(self, maddr: Multiaddr) -> bool:
        return str(maddr) in self.bound

    def protocols(self) -> list[str]:
        return self._tcp.protocols()


async def bind(listen: Sequence[str]) -> dict[str, trio.SocketListener]:
    """Listening sockets by their exact multiaddr."""
    bound: dict[str, trio.SocketListener] = {}
    try:
        for text in listen:
            host, port = (str(value) for value in parsed(text)[0].values())
            try:
                # libp2p 0.8.1: listens with SO_REUSEPORT, so two nodes can have one port, and half of its
                # callers each.
                [listener] = await trio.open_tcp_listeners(int(port), host=host)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortInUse(host, int(port)) from error
                raise
            bound[str(tcp_address(*listener.socket.getsockname()[:2]))] = listener
    except BaseException:
        for listener in bound.values():
            listener.socket.close()
        raise
    return bound
