"""Strangers that may listen: who is a guest of this device, for how long, and what it can take meanwhile.

Without `network.public` there are no guests: whoever does not speak the swarm's protocol is cut off. With it, such a caller may
stay as a *guest*, and do three things, all of them libp2p's own, so that any libp2p node can:

    /ipfs/id/1.0.0      ask who this device is       (identify)
    /ipfs/ping/1.0.0    have its bytes sent back     (ping)
    /meshsub/1.1.0      subscribe to one topic, on which it hears what this device says in public (`gossip.history.public_announcement`)

A guest is no peer: the core never hears of it, it is not in the swarm's gossip, is never asked for anything, and what it
publishes is read and dropped. This device is not subscribed to that topic itself; it speaks to its own guests alone, as a
publisher does that is outside a topic's mesh ("fanout" in gossipsub's specification). So one device's guests cost the others nothing.

Places are few, and fewer for one host. A visit ends with its time or with its bytes, all of them counted at the socket,
handshake aside; whoever does not read what it is told is shown out. Guests take places among the callers of `Limits`.
"""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY_PROTOCOL
from libp2p.identity.identify.pb import identify_pb2
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from node.net.libp2p.host import Host, Yamux
from node.net.libp2p.link import Link
from node.net.libp2p.names import tcp_address
from node.net.libp2p.tcp import Socket
from node.net.libp2p.terms import GuestLimits, Limits, Log, Traffic
from node.net.libp2p.visits import exactly

LIBP2P_PING_PROTOCOL = TProtocol("/ipfs/ping/1.0.0")
LIBP2P_PING_BYTES = 32
IDENTIFIES_AS = "gossamer/1"


@dataclass(eq=False)
class Visit:
    """A guest's stay."""

    host: str
    limits: GuestLimits
    subscribed: bool = False
    _waiting: deque[bytes] = field(default_factory=deque)
    _wake: trio.Event = field(default_factory=trio.Event)

    def tell(self, announcement: bytes) -> bool:
        """Whether there was room for it."""
        if len(self._waiting) >= self.limits.waiting:
            return False
        self._waiting.append(announcement)
        self._wake.set()
        return True

    async def next(self) -> bytes:
        while not self._waiting:
            self._wake = trio.Event()
            await self._wake.wait()
        return self._waiting.popleft()


def has_place(host: str, limits: GuestLimits, visits: Iterable[Visit]) -> bool:
    hosts = [visit.host for visit in visits]
    return len(hosts) < limits.guests and hosts.count(host) < limits.per_host


class Guests:
    """The guests among the links of one transport. They stand in none of its other books."""

    def __init__(
        self,
        host: Host,
        links: Mapping[Yamux, Link],
        link_of: Callable[[INetStream], Link | None],
        *,
        limits: Limits,
        guest_limits: GuestLimits,
        topic: str,
        agent: str,
        traffic: Traffic,
        log: Log,
    ) -> None:
        """`links`: all of them, as they come and go. `agent`: what this device says it is."""
        self._host = host
        self._links = links
        self._link_of = link_of
        self._limits = limits
        self._guest_limits = guest_limits
        self._topic = topic
        self._agent = agent
        self._traffic = traffic
        self._log = log
        self._told = secrets.randbits(62)  # announcements, counted from where no earlier start was

    @property
    def handlers(self) -> dict[TProtocol, StreamHandlerFn]:
        return {
            IDENTIFY_PROTOCOL: self._identify,
            LIBP2P_PING_PROTOCOL: self._echo,
            PROTOCOL_ID_V11: self._subscribe,
        }

    def tell(self, data: bytes) -> None:
        """Announce it, under our signature, to those that have subscribed."""
        visits = [(link, link.visit) for link in self._links.values() if link.visit is not None]
        listening = [(link, visit) for link, visit in visits if visit.subscribed]
        if not listening:
            return
        self._told += 1
        message = rpc_pb2.Message(
            data=data,
            topicIDs=[self._topic],
            from_id=self._host.get_id().to_bytes(),
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

    def visit_of(self, link: Link) -> Visit | None:
        """A stranger's that called, and does not half speak the swarm's protocol; while there are places."""
        if link.relayed or not link.socket.inbound or link.inbound.is_set():
            return None
        visits = [other.visit for other in self._links.values() if other.visit is not None]
        limits = self._guest_limits
        return Visit(link.socket.host, limits) if has_place(link.socket.host, limits, visits) else None

    async def serve(self, link: Link, visit: Visit) -> None:
        """Tell it what is public, until its visit is over. From here on it stands in no book but `links`."""
        if self._host.links.get(link.id) is link:
            del self._host.links[link.id]
        link.visit = visit
        cast(Socket, link.socket).allowance = visit.limits.visit_bytes
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

    async def _identify(self, stream: INetStream) -> None:
        """The one address told is that under which the asker has called, as this end of the connection has it."""
        if (link := self._link_of(stream)) is None:
            return
        told = identify_pb2.Identify(
            protocol_version=IDENTIFIES_AS,
            agent_version=self._agent,
            public_key=self._host.get_public_key().serialize(),
            listen_addrs=[tcp_address(*link.socket.local).to_bytes()] if link.socket.inbound else [],
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
                    await stream.write(await exactly(stream, LIBP2P_PING_BYTES))

    async def _subscribe(self, stream: INetStream) -> None:
        link = self._link_of(stream)
        if link is None:
            return
        with trio.fail_after(self._limits.handshake_s):
            await link.settled.wait()
        if link.visit is not None:
            await self._hear(link.visit, stream)

    async def _hear(self, visit: Visit, stream: INetStream) -> None:
        """It may subscribe. Whatever else it says is dropped."""
        while True:
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(await read_varint_prefixed_bytes_limited(stream, visit.limits.frame_bytes))
            for subscription in rpc.subscriptions:
                if subscription.topicid == self._topic:
                    visit.subscribed = subscription.subscribe
