"""Neighbours over libp2p: direct messages on streams, announcements by gossipsub, on TCP + Noise + yamux.

**What it gives.** Noise proves the Ed25519 key at the other end, so a peer is its 32-byte key and nobody can
speak in its name. Messages to one neighbour arrive whole, in order, at most once. Delivery is never promised:
`send_failed` names what was waiting or being written when the connection ended, and whatever was written
shortly before a `peer_down` may be lost, too. An announcement is heard at most once, from the neighbour that
brought it first. Who wrote it, and who is a member, is the core's to check: anyone who knows the swarm's id
can connect.

**One connection per pair.** Both sides may dial at once. The peer with the lower key chooses: it keeps the
first connection, refuses another one within `SIMULTANEOUS_S`, and lets a later one replace it, since the
other side must have lost the old one. The peer with the higher key takes the connection on which the lower
one opens its messages stream. So one side decides, and two dials that cross never cut each other off. On each
connection each side opens one stream for what it says; `peer_up` comes when both are open. When any of it
ends, all of it does. The streams' protocol holds the swarm's id: with a node of another swarm the negotiation
fails, and the link ends for that reason.

**Relayed, then direct.** A link may run on a circuit (`node.drivers.circuits`). A direct connection that comes up beside it
succeeds it, and the peer stays up: what waits goes on on the new one, once what was being written is written; each side
reads the new one when it has read the old one to its end.

**What a peer can take** is bounded by `Limits` and the constants below, whatever it sends. Whoever breaks a
rule loses its connection.

**Guests** (`node.drivers.guests`) are strangers that may identify, ping and listen to one topic. There are none,
and no handlers for any of it, unless `guests` is given.

**libp2p 0.8.1** has faults, some of which let any stranger end the process. Each guard begins with "libp2p
0.8.1:" and names its fault, so that a later release can shed it. Left out, being open doors or bytes without
a use here: libp2p's own identify and ping, signed peer records, peer exchange, its dialling, its resource manager.
Gossipsub signs: its ids are (origin, number), so without signatures anyone could use up another's next ids
and silence it; that costs 100 bytes, one signature at the origin and one verification a node.
"""

# ruff: noqa: TID251 - the one file that touches libp2p; the drivers are trio's room

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import secrets
import struct
from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import libp2p.network.connection.swarm_connection
import trio
from libp2p.abc import (
    IListener,
    IMuxedConn,
    INetConn,
    INetStream,
    INetwork,
    INotifee,
    IRawConnection,
    ISecureConn,
    ITransport,
)
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, THandler, TProtocol
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY_PROTOCOL
from libp2p.identity.identify.pb import identify_pb2
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import (
    MultiselectCommunicatorError,
    MultiselectError,
    ProtocolNotSupportedError,
)
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.io import MAX_NOISE_MESSAGE_LEN
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr
from multiaddr.utils import get_thin_waist_addresses

from crypto.identity import Identity, peer_id, public_key_of
from gossip.errors import GossamerError, MisuseError, PeerViolation
from gossip.public import topic_of
from node.drivers.circuits import Circuits, Holes, Relaying, split
from node.drivers.framing import SIGN_OF_LIFE, FrameDecoder, Outbox, framed, pieces
from node.drivers.guests import GuestLimits, Visit, has_place

KIB = 1024
MIB = 1024 * KIB

ANNOUNCEMENT_BYTES = 64 * KIB
MANIFEST_BYTES = 64 * KIB
MANIFEST_PROTOCOL = TProtocol("/gossamer/1/manifest")
PING_PROTOCOL = TProtocol("/gossamer/1/ping")
JOIN_PROTOCOL = TProtocol("/gossamer/join/1")
TALK_READ_BYTES = 16 * KIB
NEWCOMER_BYTES = KIB  # of one message of a stranger
PING = struct.Struct(">8s")  # whatever the asking side says
PONG = struct.Struct(">8sQ")  # the same, and the answering side's clock in milliseconds of Unix time
PINGS_MAX = 16  # on one stream
LIBP2P_PING_PROTOCOL = TProtocol("/ipfs/ping/1.0.0")  # a guest's
LIBP2P_PING_BYTES = 32
IDENTIFIES_AS = "gossamer/1"
YAMUX_PROTOCOL = TProtocol(yamux.PROTOCOL_ID)
YAMUX_HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)

CIRCUITS_AFTER_S = 3.0  # that a dial gives direct addresses before it tries circuits as well
RELAY_LOOK_S = 0.05  # between two looks whether a relay that is being dialled is up
SIMULTANEOUS_S = 12.0  # longer than a dial, so that dials that cross are not taken for a reconnection
SUCCESSION_S = (
    4.0  # for a circuit to be written and read to its end: libp2p 0.8.1's streams bear 5 s without a reader
)
ADDRESSES_TRIED = 8  # by one dial; a peer's addresses are its own claim
NEGOTIATION_BYTES = KIB  # of one line of multistream-select
READ_BYTES = MIB  # at once
BUFFERED_BYTES = yamux.MAX_WINDOW_SIZE + 2 * MIB  # unread, on all streams of one connection together
WINDOW_STEP_BYTES = 64 * KIB  # a quarter of yamux's first window
ANNOUNCEMENTS_WAITING = 256  # for gossipsub, and in its queue for one neighbour
ANNOUNCEMENT_COST_BYTES = 4 * KIB  # what the smallest one costs of a neighbour's rate
CONTROL_IDS = 1024  # taken from one frame of gossipsub's control messages
SUBSCRIPTIONS_READ = 8  # of those in one frame, though there is only one topic
FOREIGNERS_REMEMBERED = 1024  # so that each is logged once
UNACKED_S = 10.0  # what the other end's system does not acknowledge for so long shows that it cannot be reached any more
RESET_S = 1.0  # for telling a peer that a stream is over, also while we are being cancelled

FOREIGN = "belongs to another swarm"
ANOTHER = "another device answers there"

Log = Callable[[str, Mapping[str, object]], None]
Newcomers = Callable[["Talk"], Awaitable[None]]
T = TypeVar("T")


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
    announcement_bytes_per_s: int = MIB  # from one neighbour
    announcement_burst_bytes: int = 8 * MIB
    handshake_s: float = 10.0
    dial_s: float = 10.0
    keepalive_s: float = 20.0  # an idle link gives a sign of life this often: later than the core says ALIVE
    silence_s: float = 45.0  # and is given up after so long without one
    slowest_bytes_per_s: int = 8 * KIB  # a message may take handshake_s, and its size at this rate


@dataclass
class Traffic:
    """Bytes so far. libp2p's own part (handshakes, framing, control, gossip's signatures) is a socket's
    figure less the two payloads. An announcement counts once a copy.
    """

    socket_sent: int = 0
    socket_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    announcements_sent: int = 0
    announcements_received: int = 0


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
    def heard(self, forwarder: bytes, data: bytes) -> None: ...
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


def unix_time() -> float:
    return datetime.now(UTC).timestamp()


class Libp2pTransport:
    """The neighbours of one node. `run` once; everything belongs to the trio thread."""

    def __init__(
        self,
        *,
        identity_seed: bytes,
        swarm: bytes,
        listen: Sequence[str],
        limits: Limits,
        inbox: Inbox,
        manifest: Callable[[], bytes],
        log: Log,
        clock: Callable[[], float] = unix_time,
        guests: GuestLimits | None = None,
        newcomers: Newcomers | None = None,
        agent: str = "gossamer",
        relaying: Relaying | None = None,
    ) -> None:
        """`guests`: strangers may listen in public; they are told that this is `agent`. `newcomers`: who talks to strangers that
        want to join; bounded there. Without `relaying`, there are no circuits.
        """
        if len(swarm) != 32:
            raise MisuseError(f"a swarm's id has 32 bytes, not {len(swarm)}")
        if limits.queue_bytes < limits.message_bytes:
            raise MisuseError("a queue must have room for the largest message")
        self._me = Identity(identity_seed)
        self._listen = listen
        self._limits = limits
        self._inbox = inbox
        self._manifest = manifest
        self._clock = clock
        self._newcomers = newcomers
        self._log = log
        self._messages = TProtocol(f"/gossamer/1/{swarm.hex()[:32]}/messages")
        self._topic = f"gossamer/1/{swarm.hex()}"
        self._public_topic = topic_of(swarm)
        self._guests = guests
        self._agent = agent
        self._told = secrets.randbits(62)  # announcements, counted from where no earlier start was
        self._traffic = Traffic()
        handlers = {
            self._messages: self._receive,
            MANIFEST_PROTOCOL: self._tell_manifest,
            PING_PROTOCOL: self._answer_pings,
        }
        self.circuits: Circuits | None = None
        if relaying is not None:
            self.circuits = Circuits(_Ground(self), replace(relaying, reachable=self._reachable))
            self._told_reachable = relaying.reachable
            handlers |= self.circuits.handlers
        if guests is not None:
            handlers |= {IDENTIFY_PROTOCOL: self._identify, LIBP2P_PING_PROTOCOL: self._echo}
        if newcomers is not None:
            handlers[JOIN_PROTOCOL] = self._receive_newcomer
        self._host = _Host(identity_seed, limits, self._traffic, handlers, self._blame)
        self._host.tcp.holes = self.circuits.holes if self.circuits is not None else None
        self._gossip: _Pubsub | None = None
        self._nursery: trio.Nursery | None = None
        self._links: dict[_Yamux, _Link] = {}  # those in self._host.links, and those that are not chosen yet
        self._dials: dict[bytes, trio.CancelScope] = {}
        self._foreigners: OrderedDict[bytes, None] = OrderedDict()
        self._announce, self._announced = trio.open_memory_channel[bytes](ANNOUNCEMENTS_WAITING)
        self.own_addresses: list[str] = []
        self._circuit_addresses: list[str] = []

    async def run(
        self,
        *,
        # The stubs that libp2p brings along are older than this name.
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]
    ) -> None:
        """Listen and talk until cancelled; starts with the addresses at which we can be reached. PortInUse;
        ValueError for a listening address that is not /ip4 or /ip6 with /tcp.
        """
        host = self._host
        host.tcp.bound = await _bind(self._listen)
        router = _Router(self._topic, host, self._inbox.heard, self._log)
        gossip = self._gossip = _Pubsub(host, router, self._topic, self._limits, self._traffic)
        if self._guests is not None:
            host.set_stream_handler(PROTOCOL_ID_V11, self._receive_gossip)
        # libp2p 0.8.1: pubsub hears of connections, too, and opens a stream of its own beside that of `join`.
        host.swarm.notifees.clear()
        host.swarm.register_notifee(_Observer(self._meet, self._lose))
        listening = [Multiaddr(text) for text in host.tcp.bound]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                async with (
                    background_trio_service(gossip),
                    background_trio_service(router),
                    host.run(listening),
                ):
                    await gossip.subscribe(self._topic)
                    nursery.start_soon(self._publish_announcements, gossip)
                    self.own_addresses = self.addresses_now()
                    if self.circuits is not None:
                        nursery.start_soon(self.circuits.run)
                    task_status.started(self.addresses)
                    await trio.sleep_forever()
        finally:
            self._nursery = None
            host.tcp.hang_up()
            gossip.seen_messages.stop()  # libp2p 0.8.1: leaves a thread behind for every Pubsub

    # --- what the daemon asks for ---------------------------------------------------------------------------

    def send(self, peer: bytes, data: bytes) -> None:
        """Queue a message of at most `Limits.message_bytes`. What is not delivered comes back by
        `send_failed`, from within this call (not connected, queue full) or later.
        """
        if len(data) > self._limits.message_bytes:
            raise MisuseError(f"a message of {len(data)} bytes; {self._limits.message_bytes} are allowed")
        link = self._host.links.get(_id(peer))
        refused = link.put(data) if link is not None and link.up.is_set() else "not connected"
        if refused:
            self._inbox.send_failed(peer, data, refused)

    def publish(self, data: bytes) -> None:
        """Announce at most 64 KiB to the swarm. Neighbours that come within three seconds hear it, too."""
        # libp2p 0.8.1: drops more than 1 MiB without a word.
        if len(data) > ANNOUNCEMENT_BYTES:
            raise MisuseError(f"an announcement of {len(data)} bytes; {ANNOUNCEMENT_BYTES} are allowed")
        try:
            self._announce.send_nowait(data)
        except trio.WouldBlock:
            self._log("announcement_dropped", {"waiting": ANNOUNCEMENTS_WAITING})

    def tell_guests(self, data: bytes) -> None:
        """Announce at most 64 KiB, under our signature, to those guests that have subscribed."""
        if len(data) > ANNOUNCEMENT_BYTES:
            raise MisuseError(f"an announcement of {len(data)} bytes; {ANNOUNCEMENT_BYTES} are allowed")
        visits = [(link, link.visit) for link in self._links.values() if link.visit is not None]
        listening = [(link, visit) for link, visit in visits if visit.subscribed]
        if not listening:
            return
        self._told += 1
        message = rpc_pb2.Message(
            data=data,
            topicIDs=[self._public_topic],
            from_id=_id(self._me.public_key).to_bytes(),
            seqno=self._told.to_bytes(8, "big"),
        )
        signed = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = self._host.get_private_key().sign(signed)
        frame = encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString())
        for link, visit in listening:
            if visit.tell(frame):
                self._traffic.announcements_sent += len(data)
            else:
                link.close("does not read what it is told")

    def dial(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Try the addresses one by one; within `Limits.dial_s` comes `peer_up`, or `peer_down` with what was
        wrong with each. Does nothing if the peer is up or being dialled.
        """
        if peer == self._me.public_key:
            raise MisuseError("a node does not dial itself")
        link = self._host.links.get(_id(peer))
        if peer in self._dials or (link is not None and link.up.is_set()):
            return
        if self._nursery is None:
            self._inbox.peer_down(peer, "could not connect: the transport is not running")
            return
        self._dials[peer] = trio.CancelScope(deadline=trio.current_time() + self._limits.dial_s)
        self._nursery.start_soon(self._dial, peer, list(addresses[:ADDRESSES_TRIED]))

    def disconnect(self, peer: bytes, reason: str) -> None:
        """End the link at once: `send_failed` for what waits, `peer_down` with this reason."""
        if (link := self._host.links.get(_id(peer))) is not None:
            link.close(reason)

    async def ping(self, peer: bytes, count: int) -> Pinged:
        """Of a neighbour, within Limits.handshake_s. Unreachable."""
        link = self._host.links.get(_id(peer))
        if link is None or not link.up.is_set():
            raise Unreachable(
                f"{peer_id(peer)} is no neighbour of this device; its neighbours: gossamer peers"
            )
        try:
            with trio.fail_after(self._limits.handshake_s):
                stream = await self._host.open(link.conn, PING_PROTOCOL)
                try:
                    return await _ping(stream, count, self._clock)
                finally:
                    await _reset(stream)
        except trio.TooSlowError as error:
            raise Unreachable(f"{link.name}: no answer within {self._limits.handshake_s:g} s") from error
        except ProtocolNotSupportedError as error:
            raise Unreachable(f"{link.name} runs a release that cannot be pinged") from error
        except BaseLibp2pError as error:
            raise Unreachable(f"{link.name}: {_reason(error)}") from error

    def traffic(self) -> Traffic:
        return replace(self._traffic)

    @property
    def peers(self) -> list[tuple[bytes, str]]:
        """Sorted: the neighbours that are up, and the address of each connection's other end."""
        return sorted((link.peer, link.address) for link in self._host.links.values() if link.up.is_set())

    @property
    def addresses(self) -> list[str]:
        """Where this device can be reached, through others last."""
        return self.own_addresses + self._circuit_addresses

    @property
    def bound(self) -> list[tuple[str, int]]:
        """The hosts and ports that were asked for; 0.0.0.0 and :: are every address of this device."""
        return [
            (listener.socket.getsockname()[0], listener.socket.getsockname()[1])
            for listener in self._host.tcp.bound.values()
        ]

    def addresses_now(self) -> list[str]:
        """Where this device can be reached as its interfaces are now. Asks the system: for a thread."""
        # libp2p 0.8.1: announces 0.0.0.0, under which other devices then find themselves.
        listening = [Multiaddr(text) for text in self._host.tcp.bound]
        concrete = [each for wildcard in listening for each in get_thin_waist_addresses(wildcard)]
        return [f"{address}/p2p/{self._me.peer_id}" for address in concrete]

    def leave(self, gone: Collection[str]) -> None:
        """End the links whose own end is at one of these hosts: this device is not there any more."""
        for link in list(self._links.values()):
            if link.socket.local[0] in gone:
                link.close("this device has another address now")

    # --- a link's life --------------------------------------------------------------------------------------

    def _meet(self, conn: SwarmConn) -> _Link | None:
        """The link of a connection, made when the connection is first seen: by its notice, or by its first
        stream.
        """
        muxed = cast(_Yamux, conn.muxed_conn)
        if muxed.link is not None or self._nursery is None:
            return muxed.link
        try:
            link = _Link(conn, self._limits, trio.current_time())
        except ValueError:  # its key is not Ed25519
            muxed.socket.abort()
            return None
        if self._me.public_key < link.peer:
            chosen = self._host.links.get(link.id)
            if self._succeeds(link):
                refused = any(other.peer == link.peer and not other.relayed for other in self._links.values())
            else:
                better = chosen is not None and chosen.relayed and not link.relayed
                refused = chosen is not None and link.born - chosen.born < SIMULTANEOUS_S and not better
                if not refused:
                    self._choose(link)
            if refused:
                muxed.socket.abort()
                return None
        muxed.link = self._links[muxed] = link
        self._nursery.start_soon(self._live, link)
        return link

    def _succeeds(self, link: _Link) -> bool:
        """Whether it will take the place of a relayed one, as soon as it is up."""
        chosen = self._host.links.get(link.id)
        return chosen is not None and chosen.up.is_set() and chosen.relayed and not link.relayed

    def _choose(self, link: _Link) -> None:
        for other in [
            other for other in self._links.values() if other.peer == link.peer and other is not link
        ]:
            other.close("replaced by a newer connection")
            self._end(other)
        self._host.links[link.id] = link

    async def _live(self, link: _Link) -> None:
        with link.scope:
            try:
                await self._talk(link)
            except trio.TooSlowError:
                link.close(
                    "too slow"
                    if link.settled.is_set()
                    else f"no answer within {self._limits.handshake_s:g} s"
                )
            except Exception as error:  # noqa: BLE001 - whatever libp2p raises, only a link ends
                if not isinstance(error, BaseLibp2pError):
                    self._log("link_failed", {"peer": link.name, "error": repr(error)})
        link.close(link.socket.end)
        self._end(link)

    async def _talk(self, link: _Link) -> None:
        try:
            with trio.fail_after(self._limits.handshake_s):
                stream = await self._host.open(link.conn, self._messages)
                await link.inbound.wait()
        except ProtocolNotSupportedError:
            if (visit := self._visit_of(link)) is not None:
                await self._host_guest(link, visit)
            else:
                await self._part_from_foreigner(link)
        else:
            self._welcome(link)
            await self._write(link, stream)

    def _welcome(self, link: _Link) -> None:
        old = self._host.links.get(link.id)
        self._host.links[link.id] = link
        link.socket.neighbour = True
        link.up.set()
        link.settled.set()
        if old is not None and old is not link:
            self._succeed(old, link)
        else:
            self._log("peer_up", {"peer": link.name, "address": link.address})
            self._inbox.peer_up(link.peer)
        if self.circuits is not None:
            self.circuits.up(link)
        if (dial := self._dials.pop(link.peer, None)) is not None:
            dial.cancel()
        if self._nursery is not None and self._gossip is not None:
            self._nursery.start_soon(self._join_gossip, self._gossip, link)

    def _succeed(self, old: _Link, link: _Link) -> None:
        self._log("route_changed", {"peer": link.name, "address": link.address})
        link.predecessor, old.heir = old, link
        link.outbox = old.outbox
        old.wake.set()
        if self._gossip is not None:
            self._gossip.part(old)
        if self._nursery is not None:
            self._nursery.start_soon(self._retire, old)

    async def _retire(self, old: _Link) -> None:
        with trio.move_on_after(SUCCESSION_S):
            await old.said.wait()
            await old.heard.wait()
        old.close("a direct connection took its place")

    async def _write(self, link: _Link, stream: NetStream) -> None:
        if link.predecessor is not None:
            await link.predecessor.said.wait()
        while True:
            if link.heir is not None:
                await stream.close_write()
                link.said.set()
                await trio.sleep_forever()
            link.wake = trio.Event()
            if not link.outbox:
                with trio.move_on_after(self._limits.keepalive_s):
                    await link.wake.wait()
            messages = link.outbox.take()
            data = framed(messages) if messages else SIGN_OF_LIFE
            with trio.fail_after(self._allowance_s(len(data))):
                for piece in pieces(data):
                    await stream.write(piece)
            self._traffic.messages_sent += sum(len(message) for message in messages)
            link.outbox.written()

    async def _part_from_foreigner(self, link: _Link) -> None:
        if link.peer not in self._foreigners:
            self._foreigners[link.peer] = None
            if len(self._foreigners) > FOREIGNERS_REMEMBERED:
                self._foreigners.popitem(last=False)
            self._log("peer_refused", {"peer": link.name, "reason": FOREIGN})
        if link.peer not in self._dials:  # it may have come for the manifest
            with trio.move_on_after(self._limits.handshake_s):
                await link.socket.closed.wait()
            if link.talks:
                await link.socket.closed.wait()  # a talk ends by its own rules, and the connection with it
        link.close(FOREIGN)

    def _visit_of(self, link: _Link) -> Visit | None:
        """A stranger's that called, and does not half speak the swarm's protocol; while there are places."""
        limits = self._guests
        if (
            limits is None
            or link.relayed
            or not link.socket.inbound
            or link.inbound.is_set()
            or link.peer in self._dials
        ):
            return None
        visits = [other.visit for other in self._links.values() if other.visit is not None]
        return Visit(link.socket.host, limits) if has_place(link.socket.host, limits, visits) else None

    async def _host_guest(self, link: _Link, visit: Visit) -> None:
        """Tell it what is public, until its visit is over. From here on it stands in no book but `_links`."""
        if self._host.links.get(link.id) is link:
            del self._host.links[link.id]
        link.visit = visit
        link.socket.allowance = visit.limits.visit_bytes
        link.settled.set()
        self._log("guest_up", {"peer": link.name, "address": link.address})
        with trio.move_on_after(visit.limits.visit_s):
            frame = await visit.next()
            with trio.fail_after(self._limits.handshake_s):
                stream = await self._host.open(link.conn, PROTOCOL_ID_V11)
            while True:
                with trio.fail_after(self._limits.handshake_s):
                    await stream.write(frame)
                frame = await visit.next()
        link.close("its time is over")

    def _lose(self, conn: SwarmConn) -> None:
        # libp2p 0.8.1: a connection that dies while it is being added stays in its table for ever.
        self._host.swarm.remove_conn(conn)
        if (link := cast(_Yamux, conn.muxed_conn).link) is not None:
            link.close(link.socket.end)

    def _blame(self, muxed: _Yamux, reason: str) -> None:
        self._log("peer_violation", {"peer": muxed.peer_id.to_base58(), "reason": reason})
        if muxed.link is not None:
            muxed.link.close(f"broke the rules: {reason}")
        muxed.socket.abort()

    def _end(self, link: _Link) -> None:
        if link.ended.is_set():
            return
        link.ended.set()
        # What its successor is writing meanwhile is not lost with it.
        lost = [] if link.heir is None or link.said.is_set() else link.outbox.lost()
        link.said.set()
        link.heard.set()
        del self._links[cast(_Yamux, link.conn.muxed_conn)]
        if self._host.links.get(link.id) is link:
            del self._host.links[link.id]
        if link.heir is not None:
            for message in lost:
                self._inbox.send_failed(link.peer, message, link.reason)
        elif link.up.is_set():
            if self._gossip is not None:
                self._gossip.part(link)
            if self.circuits is not None:
                self.circuits.down(link.peer)
            self._log("peer_down", {"peer": link.name, "reason": link.reason})
            for message in link.outbox.empty():
                self._inbox.send_failed(link.peer, message, link.reason)
            self._inbox.peer_down(link.peer, link.reason)
        elif link.visit is not None:
            self._log("guest_down", {"peer": link.name, "reason": link.reason})

    # --- what peers open ------------------------------------------------------------------------------------

    async def _receive(self, stream: INetStream) -> None:
        """The peer's messages stream, read without a pause.

        libp2p 0.8.1: ends a sender's stream when nothing was read from it for 5 s, and never notices a peer
        that was stopped or unplugged; hence the signs of life.
        """
        link = self._meet(cast(SwarmConn, cast(NetStream, stream).swarm_conn))
        if link is None:
            return
        if link.inbound.is_set():
            raise PeerViolation("a second messages stream")
        if link.visit is not None:
            raise PeerViolation("a messages stream of a guest")
        link.inbound.set()
        if self._me.public_key > link.peer and not self._succeeds(link):
            self._choose(link)
        try:
            with trio.fail_after(self._limits.handshake_s):
                await link.up.wait()
            if link.predecessor is not None:
                await link.predecessor.heard.wait()
            await self._read(link, stream)
        except trio.TooSlowError:
            link.close(f"silent for {self._limits.silence_s:g} s, or too slow")
        except BaseLibp2pError:
            if not await self._succeeded(link):
                link.close(link.socket.end)
        finally:
            link.heard.set()

    async def _succeeded(self, link: _Link) -> bool:
        """Whether the peer closed a stream because it goes on on another connection, which may not be up here yet."""
        for other in list(self._links.values()):
            if other.peer == link.peer and link.relayed and not other.relayed:
                with trio.move_on_after(self._limits.handshake_s):
                    await other.up.wait()
        return link.heir is not None

    async def _read(self, link: _Link, stream: INetStream) -> None:
        decoder = FrameDecoder(self._limits.message_bytes)
        begun = math.inf  # when the first bytes of the unfinished message came
        while True:
            silent = trio.current_time() + self._limits.silence_s
            with trio.fail_at(min(silent, begun + self._allowance_s(decoder.unfinished_bytes))):
                chunk = await stream.read(READ_BYTES)
            messages = decoder.feed(chunk)
            if not decoder.unfinished_bytes:
                begun = math.inf
            elif messages or begun == math.inf:
                begun = trio.current_time()
            for message in messages:
                self._traffic.messages_received += len(message)
                self._inbox.received(link.peer, message)

    async def _tell_manifest(self, stream: INetStream) -> None:
        with trio.fail_after(self._allowance_s(MANIFEST_BYTES)):
            for piece in pieces(framed([self._manifest()])):
                await stream.write(piece)
            await cast(NetStream, stream).close_write()
            await stream.read(1)  # ends when the other side has it all, and leaves

    async def _receive_newcomer(self, stream: INetStream) -> None:
        link = self._meet(cast(SwarmConn, cast(NetStream, stream).swarm_conn))
        if link is None or self._newcomers is None:
            return
        link.talks += 1
        try:
            await self._newcomers(Talk(cast(NetStream, stream), link.peer, link.socket.host, NEWCOMER_BYTES))
        finally:
            link.talks -= 1
            if not link.talks and not link.up.is_set():
                link.close("left after it had talked")

    async def _answer_pings(self, stream: INetStream) -> None:
        """Anybody who can connect may ask."""
        for _ in range(PINGS_MAX):
            with trio.fail_after(self._limits.handshake_s):
                [said] = PING.unpack(await _exactly(stream, PING.size))
                await stream.write(PONG.pack(said, max(0, round(self._clock() * 1000))))

    async def _identify(self, stream: INetStream) -> None:
        """The one address told is that under which the asker has called, as this end of the connection has it."""
        if (link := self._meet(cast(SwarmConn, cast(NetStream, stream).swarm_conn))) is None:
            return
        told = identify_pb2.Identify(
            protocol_version=IDENTIFIES_AS,
            agent_version=self._agent,
            public_key=self._host.get_public_key().serialize(),
            listen_addrs=[_multiaddr(*link.socket.local).to_bytes()] if link.socket.inbound else [],
            observed_addr=Multiaddr(link.address).to_bytes(),
            protocols=sorted(str(each) for each in self._host.get_mux().get_protocols() if each),
        )
        with trio.fail_after(self._limits.handshake_s):
            await stream.write(encode_varint_prefixed(told.SerializeToString()))

    async def _echo(self, stream: INetStream) -> None:
        """libp2p's ping, until the other side has done."""
        with suppress(StreamEOF):
            while True:
                with trio.fail_after(self._limits.handshake_s):
                    await stream.write(await _exactly(stream, LIBP2P_PING_BYTES))

    async def _receive_gossip(self, stream: INetStream) -> None:
        """A neighbour's goes to gossipsub. A guest's is never in its hands."""
        link = self._meet(cast(SwarmConn, cast(NetStream, stream).swarm_conn))
        if link is None or self._gossip is None:
            return
        with trio.fail_after(self._limits.handshake_s):
            await link.settled.wait()
        if link.visit is None:
            await self._gossip.stream_handler(stream)
        else:
            await self._hear_guest(link.visit, stream)

    async def _hear_guest(self, visit: Visit, stream: INetStream) -> None:
        """It may subscribe. Whatever else it says is dropped."""
        while True:
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(await read_varint_prefixed_bytes_limited(stream, visit.limits.frame_bytes))
            for subscription in rpc.subscriptions:
                if subscription.topicid == self._public_topic:
                    visit.subscribed = subscription.subscribe

    def _allowance_s(self, size: int) -> float:
        return self._limits.handshake_s + size / self._limits.slowest_bytes_per_s

    # --- what we begin --------------------------------------------------------------------------------------

    async def _dial(self, peer: bytes, addresses: Sequence[str]) -> None:
        failures: list[str] = []
        direct = [address for address in addresses if split(address) is None]
        relayed = [address for address in addresses if address not in direct]
        tried = trio.Event()

        async def try_each(some: Sequence[str], patience_s: float) -> None:
            # libp2p 0.8.1: tries only one of them.
            for address in some:
                reason = await self._try(peer, address, patience_s / len(some))
                failures.append(f"{address}: {reason}")

        async def try_circuits() -> None:
            with trio.move_on_after(CIRCUITS_AFTER_S):
                await tried.wait()
            await try_each(relayed, self._limits.dial_s)

        dial = self._dials[peer]
        with dial:
            async with trio.open_nursery() as nursery:
                if relayed:
                    nursery.start_soon(try_circuits)
                await try_each(direct, self._limits.dial_s)
                tried.set()
            for link in [link for link in self._links.values() if link.peer == peer]:
                await link.ended.wait()
        if self._dials.get(peer) is not dial:
            return  # it came up, and how that ends is its link's to tell
        del self._dials[peer]
        if peer not in dict(self.peers):
            nothing = f"no answer within {self._limits.dial_s:g} s" if addresses else "no address is known"
            reason = "; ".join(failures) or nothing
            self._log("dial_failed", {"peer": peer_id(peer), "reason": reason})
            self._inbox.peer_down(peer, f"could not connect: {reason}")

    async def _try(self, peer: bytes, text: str, patience_s: float) -> str:
        """Connect, and stay with the connection until it ends; returns why it did, or why there was none."""
        circuit = split(text)
        try:
            address, named = _parsed(text if circuit is None else circuit[0])
            if circuit is not None and (named is None or circuit[1] not in ("", f"/p2p/{peer_id(peer)}")):
                return "this address does not lead to that device through another one"
        except ValueError as error:
            return str(error)
        if circuit is None and named not in (None, peer):
            return "this address names another device"
        try:
            with trio.fail_after(patience_s):
                if circuit is None or named is None:
                    conn = await self._host.swarm.dial_addr(address, _id(peer))
                else:
                    conn = await self._dial_through(named, circuit[0], peer)
        except trio.TooSlowError:
            return f"no answer within {patience_s:g} s"
        except Exception as error:  # noqa: BLE001 - libp2p raises every kind
            return _reason(error)
        link = cast(_Yamux, conn.muxed_conn).link
        if link is None:
            return "there is another connection"
        await link.ended.wait()
        return link.reason

    async def _dial_through(self, relay: bytes, address: str, peer: bytes) -> INetConn:
        if self.circuits is None or self._me.public_key in (relay, peer):
            raise SwarmException("there are no circuits from here")
        link = self._link_to(relay)
        if link is None:
            self.dial(relay, [address])
            while (link := self._link_to(relay)) is None:
                if relay not in self._dials:
                    raise SwarmException("the relay cannot be reached")
                await trio.sleep(RELAY_LOOK_S)
        return cast(INetConn, await self.circuits.through(link, peer))

    def _link_to(self, peer: bytes) -> _Link | None:
        link = self._host.links.get(_id(peer))
        return link if link is not None and link.up.is_set() else None

    def _reachable(self, circuits: Sequence[str]) -> None:
        self._circuit_addresses = [f"{address}/p2p/{self._me.peer_id}" for address in circuits]
        self._told_reachable(self.addresses)

    async def upgrade(self, line: _Socket, peer: bytes, *, initiator: bool) -> INetConn | None:
        """Noise and yamux on a line that did not come by a dial or a listener. SwarmException."""
        raw, self._host.tcp.sockets[line] = RawConnection(line, initiator=initiator), None
        try:
            with trio.fail_after(self._limits.handshake_s):
                if initiator:
                    return await self._host.swarm.upgrade_outbound_raw_conn(raw, _id(peer))
                await self._host.swarm.upgrade_inbound_raw_conn(raw, _multiaddr(line.host, line.port))
                return None
        except Exception as error:
            line.abort()
            raise SwarmException(_reason(error)) from error
        except BaseException:
            line.abort()
            raise

    async def _join_gossip(self, gossip: _Pubsub, link: _Link) -> None:
        try:
            await gossip.join(link)
        except Exception as error:  # noqa: BLE001 - libp2p raises every kind
            self._log("gossip_failed", {"peer": link.name, "error": repr(error)})

    async def _publish_announcements(self, gossip: _Pubsub) -> None:
        async for data in self._announced:
            try:
                await gossip.publish(self._topic, data)
            except Exception as error:  # noqa: BLE001 - gossipsub's books about peers must not end the node
                self._log("announcement_failed", {"error": repr(error)})


async def fetch_manifest(address: str, *, identity_seed: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Ask the device at a multiaddr with /p2p/ for its swarm's manifest. Returns the device's key, and the
    bytes, which nobody has checked. Unreachable.
    """

    async def read(stream: INetStream) -> bytes:
        decoder = FrameDecoder(MANIFEST_BYTES)
        while not (messages := decoder.feed(await stream.read(READ_BYTES))):
            pass
        return messages[0]

    return await _visit(address, MANIFEST_PROTOCOL, read, identity_seed, timeout_s)


async def ping_address(
    address: str, *, identity_seed: bytes, timeout_s: float, clock: Callable[[], float] = unix_time
) -> Pinged:
    """Of the device at a multiaddr with /p2p/, whose key the handshake has then proven. Unreachable."""

    async def ping(stream: INetStream) -> Pinged:
        return await _ping(stream, 1, clock)

    _, pinged = await _visit(address, PING_PROTOCOL, ping, identity_seed, timeout_s)
    return pinged


async def join_through(
    address: str,
    talk: Callable[[Talk], Awaitable[T]],
    *,
    identity_seed: bytes,
    timeout_s: float,
    limit_bytes: int,
) -> T:
    """What comes of a talk with the device at a multiaddr with /p2p/ about joining its swarm. Unreachable, and what `talk`
    raises of ours. `timeout_s` is for the way there: a talk has times of its own.
    """
    wrong: list[GossamerError] = []

    async def converse(stream: INetStream) -> T | None:
        peer = public_key_of(cast(NetStream, stream).muxed_conn.peer_id.to_base58())
        try:
            return await talk(Talk(cast(NetStream, stream), peer, "", limit_bytes))
        except GossamerError as error:
            wrong.append(error)
            return None

    _, told = await _visit(address, JOIN_PROTOCOL, converse, identity_seed, timeout_s, talk_s=math.inf)
    if wrong:
        raise wrong[0]
    return cast(T, told)


async def _visit(
    address: str,
    protocol: TProtocol,
    talk: Callable[[INetStream], Awaitable[T]],
    identity_seed: bytes,
    timeout_s: float,
    talk_s: float = 0.0,
) -> tuple[bytes, T]:
    """Connect to a device that need not be of our swarm, for one question. Its key, and its answer. Unreachable.

    `talk_s`: how much longer the question may take than the way there.
    """
    try:
        target, peer = _parsed(address)
    except ValueError as error:
        raise Unreachable(f"{address}: {error}") from error
    if peer is None:
        raise Unreachable(f"{address}: it must end in /p2p/ and the device's peer id")
    host = _Host(identity_seed, Limits(), Traffic(), {}, lambda muxed, _: muxed.socket.abort())
    answers: list[T] = []
    failure = ""
    with trio.CancelScope() as everything:
        async with background_trio_service(host.swarm):
            try:
                with trio.fail_after(timeout_s) as limit:
                    conn = await host.swarm.dial_addr(target, _id(peer))
                    stream = await host.open(cast(SwarmConn, conn), protocol)
                    limit.deadline += talk_s
                    answers.append(await talk(stream))
            except trio.TooSlowError:
                failure = f"no answer within {timeout_s:g} s"
            except ProtocolNotSupportedError:
                failure = f"its release or its swarm does not speak {protocol}"
            except Exception as error:  # noqa: BLE001 - libp2p raises every kind
                failure = _reason(error)
            finally:
                host.tcp.hang_up()
            everything.cancel()
    if failure:
        raise Unreachable(f"{address}: {failure}")
    return peer, answers[0]


class Talk:
    """A stream between two devices that need not be of one swarm, as whole messages."""

    def __init__(self, stream: NetStream, peer: bytes, host: str, limit_bytes: int) -> None:
        """`host`: the IP address at the other end, where we were called; `limit_bytes`: of a message."""
        self.peer = peer
        self.host = host
        self._stream = stream
        self._decoder = FrameDecoder(limit_bytes)
        self._heard: deque[bytes] = deque()  # of one read, at most

    async def say(self, message: bytes) -> None:
        await self._write(framed([message]))

    async def sign(self) -> None:
        """That we are still there."""
        await self._write(SIGN_OF_LIFE)

    async def hear(self, silence_s: float) -> bytes:
        """The next message. Unreachable where the other side hangs up, or gives no sign of life for so long; PeerViolation.

        libp2p 0.8.1: a stream that is not read for 5 s is ended, so somebody always hears.
        """
        while not self._heard:
            try:
                with trio.fail_after(silence_s):
                    chunk = await self._stream.read(TALK_READ_BYTES)
            except trio.TooSlowError as error:
                raise Unreachable(f"{peer_id(self.peer)}: no sign of life for {silence_s:g} s") from error
            except BaseLibp2pError as error:
                raise Unreachable(f"{peer_id(self.peer)}: it hung up") from error
            self._heard.extend(self._decoder.feed(chunk))
        return self._heard.popleft()

    async def finish(self) -> None:
        """Nothing more is said; returns once the other side has it all and leaves, or after a while."""
        try:
            with trio.move_on_after(Limits.handshake_s):
                await self._stream.close_write()
                while True:
                    await self._stream.read(TALK_READ_BYTES)
        except BaseLibp2pError:
            pass

    async def _write(self, data: bytes) -> None:
        try:
            with trio.fail_after(Limits.handshake_s + len(data) / Limits.slowest_bytes_per_s):
                for piece in pieces(data):
                    await self._stream.write(piece)
        except (trio.TooSlowError, BaseLibp2pError) as error:
            raise Unreachable(f"{peer_id(self.peer)}: it hung up") from error


async def _ping(stream: INetStream, count: int, clock: Callable[[], float]) -> Pinged:
    """PeerViolation for an answer to something else."""
    trips, ahead = [], 0.0
    for _ in range(min(count, PINGS_MAX)):
        said, asked, told = secrets.token_bytes(PING.size), trio.current_time(), clock()
        await stream.write(PING.pack(said))
        echo, theirs = PONG.unpack(await _exactly(stream, PONG.size))
        trips.append(trio.current_time() - asked)
        if echo != said:
            raise PeerViolation("a ping was answered with something else")
        if trips[-1] == min(trips):  # the fastest tells the clock best
            ahead = theirs / 1000 - (told + trips[-1] / 2)
    return Pinged(tuple(trips), ahead)


async def _exactly(stream: INetStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def _reset(stream: INetStream) -> None:
    with trio.CancelScope(deadline=trio.current_time() + RESET_S, shield=True):
        await stream.reset()


async def _bind(listen: Sequence[str]) -> dict[str, trio.SocketListener]:
    """Listening sockets by their exact multiaddr."""
    bound: dict[str, trio.SocketListener] = {}
    try:
        for text in listen:
            host, port = (str(value) for value in _parsed(text)[0].values())
            try:
                # libp2p 0.8.1: listens with SO_REUSEPORT, so two nodes can have one port, and half of its
                # callers each.
                [listener] = await trio.open_tcp_listeners(int(port), host=host)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortInUse(host, int(port)) from error
                raise
            bound[str(_multiaddr(*listener.socket.getsockname()[:2]))] = listener
    except BaseException:
        for listener in bound.values():
            listener.socket.close()
        raise
    return bound


def _parsed(text: str) -> tuple[Multiaddr, bytes | None]:
    """A TCP address, and the key of the device that it names, if it does. ValueError."""
    try:
        address = Multiaddr(text)
    except ValueError as error:
        raise ValueError("not a multiaddr") from error
    names = [protocol.name for protocol in address.protocols()]
    if names[1:] not in (["tcp"], ["tcp", "p2p"]) or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        raise ValueError("not of the form /ip4/ADDRESS/tcp/PORT, with or without /p2p/PEER")
    if names[-1] == "tcp":
        return address, None
    peer = str(address.value_for_protocol("p2p"))
    return address.decapsulate(Multiaddr(f"/p2p/{peer}")), public_key_of(peer)


def _multiaddr(host: str, port: int) -> Multiaddr:
    return Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


def _id(peer: bytes) -> ID:
    return ID(b"\x00\x24\x08\x01\x12\x20" + peer)  # the head is explained in crypto.identity


@functools.lru_cache(maxsize=1024)
def _public_key(name: ID) -> bytes:
    return public_key_of(name.to_base58())


def _reason(error: BaseException | None) -> str:
    """What libp2p's chain of errors began with, in words."""
    reason = "unknown"
    while error is not None:
        if isinstance(error, PeerIDMismatchesPubkey):
            return ANOTHER
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error) or type(error).__name__
        error = error.__cause__ or error.__context__
    return reason


class _Ground:
    """What circuits stand on."""

    def __init__(self, transport: Libp2pTransport) -> None:
        self._transport = transport

    def link_to(self, peer: bytes) -> _Link | None:
        return self._transport._link_to(peer)  # noqa: SLF001

    async def open(self, link: _Link, protocol: TProtocol) -> NetStream:
        return await self._transport._host.open(link.conn, protocol)  # noqa: SLF001

    async def upgrade(self, line: _Socket, peer: bytes, *, initiator: bool) -> INetConn | None:
        return await self._transport.upgrade(line, peer, initiator=initiator)

    def admits(self, line: _Socket) -> bool:
        return self._transport._host.tcp.admits(line)  # noqa: SLF001

    def own_addresses(self) -> list[str]:
        return self._transport.own_addresses

    def unix_time(self) -> float:
        return self._transport._clock()  # noqa: SLF001

    def start_soon(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        if self._transport._nursery is not None:  # noqa: SLF001
            self._transport._nursery.start_soon(work, *arguments)  # noqa: SLF001

    def tcp_line(self, stream: trio.SocketStream, *, inbound: bool) -> _Socket:
        return _Socket(stream, self._transport._traffic, inbound=inbound)  # noqa: SLF001

    def log(self, name: str, fields: Mapping[str, object]) -> None:
        self._transport._log(name, fields)  # noqa: SLF001


class _Link:
    """One connection to one peer, from its handshake to its end."""

    def __init__(self, conn: SwarmConn, limits: Limits, now: float) -> None:
        muxed = cast(_Yamux, conn.muxed_conn)
        self.conn = conn
        self.id = muxed.peer_id
        self.peer = _public_key(muxed.peer_id)
        self.name = muxed.peer_id.to_base58()
        self.socket = muxed.socket
        self.address = self.socket.address
        self.relayed = self.socket.relayed
        self.punches = 0
        self.heir: _Link | None = None  # the direct one that took its place
        self.predecessor: _Link | None = None  # whose place it took
        self.said = trio.Event()  # all that this one will say
        self.heard = trio.Event()  # all that it will hear
        self.born = now
        self.inbound = trio.Event()  # the peer has opened its messages stream
        self.up = trio.Event()  # and we have opened ours
        self.visit: Visit | None = None  # a guest's
        self.settled = trio.Event()  # that it is a neighbour, or a guest
        self.ended = trio.Event()
        self.reason = ""
        self.scope = trio.CancelScope()
        self.talks = 0  # with a stranger that wants to join
        self.outbox = Outbox(limits.queue_messages, limits.queue_bytes)
        self.wake = trio.Event()
        self._limits = limits
        self._credit_bytes = float(limits.announcement_burst_bytes)
        self._credited = now

    def close(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.scope.cancel()
        self.socket.abort()

    def put(self, message: bytes) -> str:
        self.wake.set()
        return self.outbox.put(message)

    def affords(self, size: int, now: float) -> bool:
        """Whether the neighbour's rate has room for one more announcement, and takes it."""
        earned = (now - self._credited) * self._limits.announcement_bytes_per_s
        credit = min(self._credit_bytes + earned, self._limits.announcement_burst_bytes)
        cost = max(size, ANNOUNCEMENT_COST_BYTES)
        self._credit_bytes = credit - cost if cost <= credit else credit
        self._credited = now
        return cost <= credit


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


class _Socket(ReadWriteCloser):
    """A TCP connection that counts its bytes and can be cut off at once."""

    relayed = False

    def __init__(self, stream: trio.SocketStream, traffic: Traffic, *, inbound: bool) -> None:
        self._stream = stream
        self._traffic = traffic
        self._arrived = bytearray()
        self.inbound = inbound
        self.neighbour = False
        self.allowance: int | None = None  # bytes that a guest may still take, both ways together
        self.closed = trio.Event()
        self.end = "connection lost"
        # libp2p 0.8.1: its own stream does not know an IPv6 peer's address.
        self.host, self.port = stream.socket.getpeername()[:2]
        self.address = str(_multiaddr(self.host, self.port))
        self.hole_port = False  # dialled from the port that `circuits.Holes` dials from
        self.punched = False  # by two dials that met
        host, port = stream.socket.getsockname()[:2]
        self.local: tuple[str, int] = (host.partition("%")[0], port)
        if hasattr(trio.socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere, the silence shows it
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT, int(1000 * UNACKED_S))

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; ConnectionClosedError if they do not come. One system call fetches many small
        frames.
        """
        # libp2p 0.8.1: believes a stranger's length prefix, gives up a read that comes in more than 101
        # parts, and believes the end of a stream when it has seen it 101 times.
        wanted = MAX_NOISE_MESSAGE_LEN if n is None else n
        if wanted > MAX_NOISE_MESSAGE_LEN:
            raise ConnectionClosedError(
                f"{wanted} bytes announced; Noise has at most {MAX_NOISE_MESSAGE_LEN}"
            )
        while len(self._arrived) < wanted:
            try:
                chunk = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError("connection lost", transport="tcp") from error
            if not chunk:
                raise ConnectionClosedError("closed by the other side", transport="tcp")
            self._traffic.socket_received += len(chunk)
            self._take(len(chunk))
            self._arrived += chunk
        data = bytes(self._arrived[:wanted])
        del self._arrived[:wanted]
        return data

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
        self.closed.set()

    async def close(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        return self.host, self.port


class _Listener(IListener):
    background_nursery: trio.Nursery  # set by Swarm.listen

    def __init__(self, tcp: _Tcp, handler: THandler) -> None:
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
            socket = _Socket(stream, self._tcp.traffic, inbound=True)
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


class _Tcp(ITransport):
    """libp2p's TCP with counted sockets, our own admission, and ports bound beforehand (see `_bind`)."""

    def __init__(self, limits: Limits, traffic: Traffic) -> None:
        self._limits = limits
        self._tcp = TCP()
        self.traffic = traffic
        self.holes: Holes | None = None
        self.bound: dict[str, trio.SocketListener] = {}
        self.sockets: WeakKeyDictionary[_Socket, None] = WeakKeyDictionary()

    def admits(self, newcomer: _Socket) -> bool:
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
            socket = _Socket(stream, self.traffic, inbound=False)
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


@dataclass(slots=True)
class _Held:
    """What a stream's sender has not been told yet of the room that its reader has made."""

    owed: int = 0
    window: int = yamux.DEFAULT_WINDOW_SIZE  # as the sender knows it


class _Yamux(yamux.Yamux):
    """The streams of one connection."""

    def __init__(self, secured: ISecureConn, name: ID) -> None:
        super().__init__(secured, name, is_initiator=secured.is_initiator)
        self.socket = cast(_Socket, cast(Any, secured).conn.conn.stream)
        self.link: _Link | None = None
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
        return _Yamux(conn, peer_id)


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


class _Host(BasicHost):
    """libp2p's host without its own protocols. `links`: the chosen connections, one a peer."""

    def __init__(
        self,
        seed: bytes,
        limits: Limits,
        traffic: Traffic,
        handlers: Mapping[TProtocol, StreamHandlerFn],
        blame: Callable[[_Yamux, str], None],
    ) -> None:
        keys = create_new_key_pair(seed)
        me = ID.from_pubkey(keys.public_key)
        store = PeerStore()
        store.add_key_pair(me, keys)
        self._limits = limits
        self._blame = blame
        self.links: dict[ID, _Link] = {}
        self.tcp = _Tcp(limits, traffic)
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
        for protocol, handler in handlers.items():
            self.set_stream_handler(protocol, handler)
        # libp2p 0.8.1: identify stores what peers claim, and runs in tasks whose failure ends the process.
        self.swarm.notifees.clear()

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
            await _reset(stream)
            raise
        stream.set_protocol(protocol)
        return stream

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """For gossipsub, on the chosen connection. SwarmException, after which gossipsub tries again."""
        if (link := self.links.get(peer_id)) is None:
            raise SwarmException(f"not connected to {peer_id}")
        try:
            with trio.fail_after(self._limits.handshake_s):
                return await self.open(link.conn, protocol_ids[0])
        except (BaseLibp2pError, trio.TooSlowError) as error:
            raise SwarmException(f"no {protocol_ids[0]} with {peer_id}") from error

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        # libp2p 0.8.1: whatever leaves a stream's handler, one of its own, too, ends the whole host.
        muxed = cast(_Yamux, net_stream.muxed_conn)
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


class _Observer(INotifee):
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


class _Router(GossipSub):
    """Gossipsub's mesh of a single topic."""

    def __init__(self, topic: str, host: _Host, heard: Callable[[bytes, bytes], None], log: Log) -> None:
        super().__init__(
            protocols=[
                PROTOCOL_ID_V11
            ],  # 1.2 answers each message with another one, which small ones do not repay
            # As gossipsub's specification recommends. With bounds closer to each other a mesh never comes to rest: who
            # prunes leaves another with too few, who grafts, until somebody has too many.
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_initial_delay=1.0,
            heartbeat_interval=1,  # libp2p 0.8.1: 120 s by default
            adaptive_gossip_enabled=False,  # libp2p 0.8.1: it may set the heartbeat to 60 s and more
            spam_protection_enabled=False,  # libp2p 0.8.1: what is over the rate counts as seen
            eclipse_protection_enabled=False,  # libp2p 0.8.1: it looks for addresses that it never finds
        )
        self._topic = topic
        self._host = host
        self._heard = heard
        self._log = log

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Called once for every message that is new here and rightly signed; our own ones, too."""
        if msg_forwarder != self._host.get_id():
            self._heard(_public_key(msg_forwarder), pubsub_msg.data)
        await super().publish(msg_forwarder, pubsub_msg)
        # libp2p 0.8.1: grow without end, or to a thousand messages, for what is off, or is given by
        # signatures.
        self.recent_message_deliveries.clear()
        self.equivocation_detection.clear()

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        # libp2p 0.8.1: remembers any topic that a peer names, dials the strangers that a PRUNE recommends,
        # and sends a message as often as it is asked for.
        link = self._host.links.get(sender_peer_id)
        if link is None:
            return
        told, topic, now = rpc.control, self._topic, trio.current_time()
        offered = [known for entry in told.ihave if entry.topicID == topic for known in entry.messageIDs]
        wanted = [unknown for entry in told.iwant for unknown in entry.messageIDs]
        held = [(name, self.mcache.get(name)) for name in wanted[:CONTROL_IDS]]
        given = [name for name, message in held if message and link.affords(len(message.data), now)]
        prune = [entry.backoff for entry in told.prune if entry.topicID == topic]
        control = rpc_pb2.ControlMessage(
            graft=[entry for entry in told.graft if entry.topicID == topic][:1],
            prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=backoff) for backoff in prune[:1]],
            ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=offered[:CONTROL_IDS])] if offered else [],
            iwant=[rpc_pb2.ControlIWant(messageIDs=given)] if given else [],
        )
        await super().handle_rpc(rpc_pb2.RPC(control=control), sender_peer_id)

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: defaultdict[ID, list[str]]) -> int:  # noqa: ARG002
        # libp2p 0.8.1: at each beat takes in others whose scores are no better, until there are too many, and prunes
        # them: without end, though nobody announces anything.
        return 0

    async def heartbeat(self) -> None:
        # libp2p 0.8.1: a failure in here ends gossipsub, and with it the host. Each beat begins with a short
        # sleep.
        while True:
            try:
                await super().heartbeat()
            except Exception as error:  # noqa: BLE001
                self._log("gossip_heartbeat_failed", {"error": repr(error)})


class _Pubsub(Pubsub):
    """Gossipsub's streams and its seen messages. Peers come and go by `join` and `part` alone."""

    def __init__(self, host: _Host, router: _Router, topic: str, limits: Limits, traffic: Traffic) -> None:
        super().__init__(host, router, strict_signing=True, allowed_topics={topic})
        self._topic = topic
        self._links = host.links
        self._limits = limits
        self._traffic = traffic
        # libp2p 0.8.1: counts on from the second of its start, so that after a restart its ids may be known
        # already.
        self.counter = secrets.randbits(62)

    async def join(self, link: _Link) -> None:
        """Open our stream to a new neighbour, and try again while the link is up."""
        await self.ensure_peer_stream(link.id, math.inf)

    def part(self, link: _Link) -> None:
        self._handle_dead_peer(link.id)

    def _peer_is_connected(self, peer_id: ID) -> bool:
        return peer_id in self._links

    async def stream_handler(self, stream: INetStream) -> None:
        # libp2p 0.8.1: ends the host by what is no protobuf, makes a task of every message and three of every
        # subscription in a frame, and stores each sender's signed record.
        if (link := cast(_Yamux, stream.muxed_conn).link) is None:
            return
        with trio.fail_after(self._limits.handshake_s):
            await link.up.wait()
        while True:
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size))
            for message in rpc.publish:
                await self._hear(link, message)
            for subscription in rpc.subscriptions[:SUBSCRIPTIONS_READ]:
                self.handle_subscription(link.id, subscription)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, link.id)

    async def _hear(self, link: _Link, message: rpc_pb2.Message) -> None:
        if list(message.topicIDs) != [self._topic]:
            raise PeerViolation("an announcement on another topic than the swarm's")
        if len(message.data) > ANNOUNCEMENT_BYTES:
            raise PeerViolation(
                f"an announcement of {len(message.data)} bytes; {ANNOUNCEMENT_BYTES} are allowed"
            )
        self._traffic.announcements_received += len(message.data)
        # Before anything marks it as seen: another neighbour may still bring it.
        if link.affords(len(message.data), trio.current_time()):
            await self.push_msg(link.id, message)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """libp2p 0.8.1: a subscription holds 32 messages, drops the rest, and does not know who brought them.
        What is heard comes from `_Router.publish`.
        """

    async def _send_recent_messages_to_new_peer(self, peer_id: ID) -> None:
        # libp2p 0.8.1: 32 messages may wait for a peer, and the rest is dropped without a word.
        self.peer_queues[peer_id]._queue.max_size = ANNOUNCEMENTS_WAITING  # noqa: SLF001
        await super()._send_recent_messages_to_new_peer(peer_id)

    async def _replay_recent_messages(self, peer_id: ID, topic: str) -> None:
        # libp2p 0.8.1: what comes between this replay and the peer's place in the mesh never reaches it.
        await self.router.on_peer_subscribed(peer_id, topic)
        await super()._replay_recent_messages(peer_id, topic)

    def get_hello_packet(self) -> rpc_pb2.RPC:
        hello = super().get_hello_packet()
        hello.ClearField("senderRecord")
        return hello

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        # libp2p 0.8.1: sends its signed record with every frame, and a key that the sender's id spells out
        # already.
        rpc_msg.ClearField("senderRecord")
        for message in rpc_msg.publish:
            message.ClearField("key")
            self._traffic.announcements_sent += len(message.data)
        return await super().write_msg(stream, rpc_msg)
