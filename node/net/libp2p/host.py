"""libp2p's host, with a guard at each of its faults, and without its own protocols."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import libp2p.network.connection.swarm_connection
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, INetwork, INotifee, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import IOException
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError, MultiselectError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from gossip.errors import PeerViolation
from node.net.libp2p.line import Line
from node.net.libp2p.names import id_of, reason_of, tcp_address
from node.net.libp2p.tcp import Tcp
from node.net.libp2p.terms import KIB, MIB, Limits, Traffic

if TYPE_CHECKING:
    from node.net.libp2p.link import Link

YAMUX_PROTOCOL = TProtocol(yamux.PROTOCOL_ID)
YAMUX_HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)
NEGOTIATION_BYTES = KIB  # of one line of multistream-select
BUFFERED_BYTES = yamux.MAX_WINDOW_SIZE + 2 * MIB  # unread, on all streams of one connection together
WINDOW_STEP_BYTES = 64 * KIB  # a quarter of yamux's first window
RESET_S = 1.0  # for telling a peer that a stream is over, also while we are being cancelled


def _silence() -> logging.Logger:
    """libp2p 0.8.1: a peer's garbage is logged as warnings and errors, in part by the root logger, whose
    first use even installs a handler for stderr. What a reader should know is in our own log.
    """
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL + 1)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


libp2p.network.connection.swarm_connection.__dict__["logging"] = _silence()


@dataclass(slots=True)
class _Held:
    """What a stream's sender has not been told yet of the room that its reader has made."""

    owed: int = 0
    window: int = yamux.DEFAULT_WINDOW_SIZE  # as the sender knows it


class Yamux(yamux.Yamux):
    """The streams of one connection."""

    def __init__(self, secured: ISecureConn, name: ID) -> None:
        super().__init__(secured, name, is_initiator=secured.is_initiator)
        self.socket = cast(Line, cast(Any, secured).conn.conn.stream)
        self.link: Link | None = None
        self._held: WeakKeyDictionary[yamux.YamuxStream, _Held] = WeakKeyDictionary()

    async def _measure_rtt_loop(self) -> None:
        # libp2p 0.8.1: pings every 30 s, from both sides. Windows need the time of a round trip once, and the signs
        # of life are ours.
        with trio.move_on_after(yamux.RTT_MEASURE_INTERVAL):
            await super()._measure_rtt_loop()

    async def _read_data_body(self, length: int) -> bytes:
        # libp2p 0.8.1: a peer that overruns its window is logged, and its bytes are kept.
        if length + sum(len(buffer) for buffer in self.stream_buffers.values()) > BUFFERED_BYTES:
            await self._cleanup_on_error()
            return b""
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        # libp2p 0.8.1: answers every read, of a single byte, too, with a window update: 30 bytes on the wire. It also
        # doubles the window whenever one read follows another, up to six times a stream, before anything has filled it.
        _, kind, flags, number, length = YAMUX_HEADER.unpack_from(data)
        stream = self.streams.get(number)
        if kind == yamux.TYPE_WINDOW_UPDATE and flags == 0 and stream is not None:
            held = self._held.setdefault(stream, _Held())
            held.owed += length
            # A sender that has three quarters of its window left does not wait.
            if held.owed < WINDOW_STEP_BYTES or 4 * (stream.recv_window - held.owed) > 3 * held.window:
                return
            data = YAMUX_HEADER.pack(0, kind, flags, number, held.owed)
            held.owed, held.window = 0, stream.target_recv_window
        await super()._write_frame(data)


class _Upgrader(TransportUpgrader):
    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        # libp2p 0.8.1: makes its own Yamux, whatever class was registered.
        try:
            await self.muxer_multistream.select_transport(cast(IRawConnection, conn))
        except MultiselectError as error:
            raise MuxerUpgradeFailure("no common multiplexer") from error
        return Yamux(conn, peer_id)


class _Swarm(Swarm):
    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        # libp2p 0.8.1: refuses a peer that restarted for 60 s, tries one address, and waits 250 ms for a
        # second one that is not there. It also dials for anyone who asks for a stream to a peer that has just
        # left.
        raise SwarmException(f"not connected to {peer_id}")

    async def notify_disconnected(self, conn: INetConn) -> None:
        # libp2p 0.8.1: remembers every peer that ever left, for dialling of its own, which never happens
        # here.
        await self._notify("disconnected", conn)


class _Negotiation(MultiselectCommunicator):
    async def read(self) -> str:
        # libp2p 0.8.1: reads a line of any length, and what is not UTF-8 becomes an exception that ends the
        # host.
        try:
            line = await read_varint_prefixed_bytes_limited(self.read_writer, NEGOTIATION_BYTES)
            return line.decode().removesuffix("\n")
        except (ParseError, IOException, UnicodeDecodeError) as error:
            raise MultiselectCommunicatorError(str(error)) from error


class Host(BasicHost):
    """libp2p's host without its own protocols. `links`: the chosen connections, one a peer."""

    def __init__(
        self,
        seed: bytes,
        limits: Limits,
        traffic: Traffic,
        blame: Callable[[Yamux, str], None],
    ) -> None:
        keys = create_new_key_pair(seed)
        me = ID.from_pubkey(keys.public_key)
        store = PeerStore()
        store.add_key_pair(me, keys)
        self._limits = limits
        self._blame = blame
        self.links: dict[ID, Link] = {}
        self.tcp = Tcp(limits, traffic)
        self.swarm = _Swarm(
            me,
            store,
            # libp2p 0.8.1: offers SECIO and plain text by default.
            _Upgrader(
                {NOISE_PROTOCOL: Noise(keys, create_noise_key_pair().private_key)},
                {YAMUX_PROTOCOL: yamux.Yamux},
            ),
            transports=[self.tcp],
            retry_config=RetryConfig(max_retries=0),
            # libp2p 0.8.1: dials by itself up to the middle between its watermarks, and closes a peer's
            # second connection by rules that differ between the two sides. With these values it does neither.
            connection_config=ConnectionConfig(
                max_connections=limits.connections,
                min_connections=0,
                low_watermark=0,
                high_watermark=0,
                max_connections_per_peer=1,
                grace_period=math.inf,
                inbound_upgrade_timeout=limits.handshake_s,
                outbound_upgrade_timeout=limits.handshake_s,
            ),
        )
        super().__init__(network=self.swarm, disable_identify_address_discovery=True)
        self.multiselect = Multiselect()
        # libp2p 0.8.1: identify stores what peers claim, and runs in tasks whose failure ends the process.
        self.swarm.notifees.clear()

    def link_to(self, peer: bytes) -> Link | None:
        """That is up."""
        link = self.links.get(id_of(peer))
        return link if link is not None and link.up.is_set() else None

    def get_addrs(self) -> list[Multiaddr]:
        """None: members tell each other their addresses under their own signatures."""
        return []

    async def open(self, conn: SwarmConn, protocol: TProtocol) -> NetStream:
        """A stream on this very connection. ProtocolNotSupportedError if the peer says so."""
        stream = await conn.new_stream()
        try:
            talk = _Negotiation(stream)
            await self.multiselect_client.handshake(talk)
            await self.multiselect_client.try_select(talk, protocol)
        except BaseException:
            await reset(stream)
            raise
        stream.set_protocol(protocol)
        return stream

    async def upgrade(self, line: Line, peer: bytes, *, initiator: bool) -> INetConn | None:
        """Noise and yamux on a line that did not come by a dial or a listener. SwarmException."""
        raw, self.tcp.sockets[line] = RawConnection(line, initiator=initiator), None
        try:
            with trio.fail_after(self._limits.handshake_s):
                if initiator:
                    return await self.swarm.upgrade_outbound_raw_conn(raw, id_of(peer))
                await self.swarm.upgrade_inbound_raw_conn(raw, tcp_address(line.host, line.port))
                return None
        except Exception as error:
            line.abort()
            raise SwarmException(reason_of(error)) from error
        except BaseException:
            line.abort()
            raise

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        # libp2p 0.8.1: whatever leaves a stream's handler, one of its own, too, ends the whole host.
        muxed = cast(Yamux, net_stream.muxed_conn)
        try:
            # libp2p 0.8.1: nothing bounds the streams that a peer opens, or leaves half closed.
            if len(muxed.streams) > self._limits.streams_per_connection:
                raise PeerViolation(f"more than {self._limits.streams_per_connection} streams")
            with trio.fail_after(self._limits.handshake_s):
                protocol, handler = await self.multiselect.negotiate(_Negotiation(net_stream))
            if protocol is None or handler is None:
                raise MultiselectError("no protocol")
            net_stream.set_protocol(protocol)
            await handler(net_stream)
            await net_stream.close()
        except (BaseLibp2pError, trio.TooSlowError):  # the peer hung up, or wants what we do not speak
            await net_stream.reset()
        except Exception as error:  # noqa: BLE001
            self._blame(muxed, str(error) or repr(error))


class Observer(INotifee):
    """Hears of connections; libp2p's other notices are of no use here."""

    def __init__(
        self, connected: Callable[[SwarmConn], object], disconnected: Callable[[SwarmConn], object]
    ) -> None:
        self._connected = connected
        self._disconnected = disconnected

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002
        self._connected(cast(SwarmConn, conn))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002
        self._disconnected(cast(SwarmConn, conn))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


async def reset(stream: INetStream) -> None:
    with trio.CancelScope(deadline=trio.current_time() + RESET_S, shield=True):
        await stream.reset()
