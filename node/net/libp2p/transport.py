"""The neighbours of a node: links that come up, succeed each other and end, and what runs on them."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import cast

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from multiaddr import Multiaddr
from multiaddr.utils import get_thin_waist_addresses

from crypto.identity import Identity, peer_id
from gossip.errors import MisuseError, PeerViolation
from gossip.history.public_announcement import topic_of
from node.clock import unix_time
from node.net.framing import SIGN_OF_LIFE, FrameDecoder, framed, pieces
from node.net.libp2p.circuits import Circuits, Relaying, split
from node.net.libp2p.guests import Guests
from node.net.libp2p.host import Host, Observer, Yamux, reset
from node.net.libp2p.link import Link
from node.net.libp2p.names import id_of, parsed, reason_of
from node.net.libp2p.tcp import READ_BYTES, bind
from node.net.libp2p.terms import (
    ANNOUNCEMENT_BYTES,
    GuestLimits,
    Inbox,
    Limits,
    Log,
    Pinged,
    Traffic,
    Unreachable,
)
from node.net.libp2p.visits import (
    JOIN_PROTOCOL,
    MANIFEST_PROTOCOL,
    NEWCOMER_BYTES,
    PING_PROTOCOL,
    Talk,
    answer_pings,
    ping_on,
    tell_manifest,
)

CIRCUITS_AFTER_S = 3.0  # that a dial gives direct addresses before it tries circuits as well
MESSAGES_AT_ONCE = 64  # of a neighbour's, until others have a turn
RELAY_LOOK_S = 0.05  # between two looks whether a relay that is being dialled is up
SIMULTANEOUS_S = 12.0  # longer than a dial, so that dials that cross are not taken for a reconnection
SUCCESSION_S = (
    4.0  # for a circuit to be written and read to its end: libp2p 0.8.1's streams bear 5 s without a reader
)
ADDRESSES_TRIED = 8  # by one dial; a peer's addresses are its own claim
FOREIGNERS_REMEMBERED = 1024  # so that each is logged once

FOREIGN = "belongs to another swarm"

Newcomers = Callable[[Talk], Awaitable[None]]


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
        self._traffic = Traffic()
        self._host = Host(identity_seed, limits, self._traffic, self._blame)
        self._nursery: trio.Nursery | None = None
        self._links: dict[Yamux, Link] = {}  # those in self._host.links, and those that are not chosen yet
        self._dials: dict[bytes, trio.CancelScope] = {}
        self._foreigners: OrderedDict[bytes, None] = OrderedDict()
        self.own_addresses: list[str] = []
        self._circuit_addresses: list[str] = []
        self.circuits: Circuits | None = None
        if relaying is not None:
            self.circuits = Circuits(
                self._host,
                replace(relaying, reachable=self._reachable),
                own_addresses=lambda: self.own_addresses,
                clock=clock,
                start_soon=self._start_soon,
                log=log,
            )
            self._told_reachable = relaying.reachable
            self._host.tcp.holes = self.circuits.holes
        self._guests: Guests | None = None
        if guests is not None:
            self._guests = Guests(
                self._host,
                self._links,
                self._link_of,
                limits=limits,
                guest_limits=guests,
                topic=topic_of(swarm),
                agent=agent,
                traffic=self._traffic,
                log=log,
            )
        for protocol, handler in self._handlers().items():
            self._host.set_stream_handler(protocol, handler)

    def _handlers(self) -> dict[TProtocol, StreamHandlerFn]:
        """Of what peers may open."""
        handlers: dict[TProtocol, StreamHandlerFn] = {
            self._messages: self._receive,
            MANIFEST_PROTOCOL: lambda stream: tell_manifest(stream, self._manifest(), self._limits),
            PING_PROTOCOL: lambda stream: answer_pings(stream, self._limits, self._clock),
        }
        if self.circuits is not None:
            handlers |= self.circuits.handlers
        if self._guests is not None:
            handlers |= self._guests.handlers
        if self._newcomers is not None:
            handlers[JOIN_PROTOCOL] = self._receive_newcomer
        return handlers

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
        host.tcp.bound = await bind(self._listen)
        host.swarm.register_notifee(Observer(self._meet, self._lose))
        listening = [Multiaddr(text) for text in host.tcp.bound]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                async with host.run(listening):
                    self.own_addresses = self.addresses_now()
                    if self.circuits is not None:
                        nursery.start_soon(self.circuits.run)
                    task_status.started(self.addresses)
                    await trio.sleep_forever()
        finally:
            self._nursery = None
            host.tcp.hang_up()

    # --- what the daemon asks for ---------------------------------------------------------------------------

    def send(self, peer: bytes, data: bytes) -> None:
        """Queue a message of at most `Limits.message_bytes`. What is not delivered comes back by
        `send_failed`, from within this call (not connected, queue full) or later.
        """
        if len(data) > self._limits.message_bytes:
            raise MisuseError(f"a message of {len(data)} bytes; {self._limits.message_bytes} are allowed")
        link = self._host.link_to(peer)
        refused = link.put(data) if link is not None else "not connected"
        if refused:
            self._inbox.send_failed(peer, data, refused)

    def tell_guests(self, data: bytes) -> None:
        """Announce at most 64 KiB, under our signature, to those guests that have subscribed."""
        if len(data) > ANNOUNCEMENT_BYTES:
            raise MisuseError(f"an announcement of {len(data)} bytes; {ANNOUNCEMENT_BYTES} are allowed")
        if self._guests is not None:
            self._guests.tell(data)

    def dial(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Try the addresses one by one; within `Limits.dial_s` comes `peer_up`, or `peer_down` with what was
        wrong with each. Does nothing if the peer is up or being dialled.
        """
        if peer == self._me.public_key:
            raise MisuseError("a node does not dial itself")
        if peer in self._dials or self._host.link_to(peer) is not None:
            return
        if self._nursery is None:
            self._inbox.peer_down(peer, "could not connect: the transport is not running")
            return
        dial = trio.CancelScope(deadline=trio.current_time() + self._limits.dial_s)
        self._dials[peer] = dial
        self._nursery.start_soon(self._dial, peer, list(addresses[:ADDRESSES_TRIED]), dial)

    def disconnect(self, peer: bytes, reason: str) -> None:
        """End the link at once: `send_failed` for what waits, `peer_down` with this reason."""
        if (link := self._host.links.get(id_of(peer))) is not None:
            link.close(reason)

    async def ping(self, peer: bytes, count: int) -> Pinged:
        """Of a neighbour, within Limits.handshake_s. Unreachable."""
        link = self._host.link_to(peer)
        if link is None:
            raise Unreachable(
                f"{peer_id(peer)} is no neighbour of this device; its neighbours: gossamer peers"
            )
        try:
            with trio.fail_after(self._limits.handshake_s):
                stream = await self._host.open(link.conn, PING_PROTOCOL)
                try:
                    return await ping_on(stream, count, self._clock)
                finally:
                    await reset(stream)
        except trio.TooSlowError as error:
            raise Unreachable(f"{link.name}: no answer within {self._limits.handshake_s:g} s") from error
        except ProtocolNotSupportedError as error:
            raise Unreachable(f"{link.name} runs a release that cannot be pinged") from error
        except BaseLibp2pError as error:
            raise Unreachable(f"{link.name}: {reason_of(error)}") from error

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

    def _meet(self, conn: SwarmConn) -> Link | None:
        """The link of a connection, made when the connection is first seen: by its notice, or by its first
        stream.
        """
        muxed = cast(Yamux, conn.muxed_conn)
        if muxed.link is not None or self._nursery is None:
            return muxed.link
        try:
            link = Link(conn, self._limits, trio.current_time())
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

    def _link_of(self, stream: INetStream) -> Link | None:
        return self._meet(cast(SwarmConn, cast(NetStream, stream).swarm_conn))

    def _succeeds(self, link: Link) -> bool:
        """Whether it will take the place of a relayed one, as soon as it is up."""
        chosen = self._host.links.get(link.id)
        return chosen is not None and chosen.up.is_set() and chosen.relayed and not link.relayed

    def _choose(self, link: Link) -> None:
        for other in [
            other for other in self._links.values() if other.peer == link.peer and other is not link
        ]:
            other.close("replaced by a newer connection")
            self._end(other)
        self._host.links[link.id] = link

    async def _live(self, link: Link) -> None:
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

    async def _talk(self, link: Link) -> None:
        try:
            with trio.fail_after(self._limits.handshake_s):
                stream = await self._host.open(link.conn, self._messages)
                await link.inbound.wait()
        except ProtocolNotSupportedError:
            guests = self._guests if link.peer not in self._dials else None
            if guests is not None and (visit := guests.visit_of(link)) is not None:
                await guests.serve(link, visit)
            else:
                await self._part_from_foreigner(link)
        else:
            self._welcome(link)
            await self._write(link, stream)

    def _welcome(self, link: Link) -> None:
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

    def _succeed(self, old: Link, link: Link) -> None:
        self._log("route_changed", {"peer": link.name, "address": link.address})
        link.predecessor, old.heir = old, link
        link.outbox = old.outbox
        old.wake.set()
        self._start_soon(self._retire, old)

    async def _retire(self, old: Link) -> None:
        with trio.move_on_after(SUCCESSION_S):
            await old.said.wait()
            await old.heard.wait()
        old.close("a direct connection took its place")

    async def _write(self, link: Link, stream: NetStream) -> None:
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
            with trio.fail_after(self._limits.allowance_s(len(data))):
                for piece in pieces(data):
                    await stream.write(piece)
            self._traffic.messages_sent += sum(len(message) for message in messages)
            link.outbox.written()

    async def _part_from_foreigner(self, link: Link) -> None:
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

    def _lose(self, conn: SwarmConn) -> None:
        # libp2p 0.8.1: a connection that dies while it is being added stays in its table for ever.
        self._host.swarm.remove_conn(conn)
        if (link := cast(Yamux, conn.muxed_conn).link) is not None:
            link.close(link.socket.end)

    def _blame(self, muxed: Yamux, reason: str) -> None:
        self._log("peer_violation", {"peer": muxed.peer_id.to_base58(), "reason": reason})
        if muxed.link is not None:
            muxed.link.close(f"broke the rules: {reason}")
        muxed.socket.abort()

    def _end(self, link: Link) -> None:
        if link.ended.is_set():
            return
        link.ended.set()
        # What its successor is writing meanwhile is not lost with it.
        lost = [] if link.heir is None or link.said.is_set() else link.outbox.lost()
        link.said.set()
        link.heard.set()
        del self._links[cast(Yamux, link.conn.muxed_conn)]
        if self._host.links.get(link.id) is link:
            del self._host.links[link.id]
        if link.heir is not None:
            for message in lost:
                self._inbox.send_failed(link.peer, message, link.reason)
        elif link.up.is_set():
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
        """The peer's messages stream, read without a pause while it keeps to its rate (`Limits.messages_per_s`).

        libp2p 0.8.1: ends a sender's stream when nothing was read from it for 5 s, and never notices a peer
        that was stopped or unplugged; hence the signs of life.
        """
        link = self._link_of(stream)
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

    async def _succeeded(self, link: Link) -> bool:
        """Whether the peer closed a stream because it goes on on another connection, which may not be up here yet."""
        for other in list(self._links.values()):
            if other.peer == link.peer and link.relayed and not other.relayed:
                with trio.move_on_after(self._limits.handshake_s):
                    await other.up.wait()
        return link.heir is not None

    async def _read(self, link: Link, stream: INetStream) -> None:
        decoder = FrameDecoder(self._limits.message_bytes)
        begun = math.inf  # when the first bytes of the unfinished message came
        while True:
            silent = trio.current_time() + self._limits.silence_s
            with trio.fail_at(min(silent, begun + self._limits.allowance_s(decoder.unfinished_bytes))):
                chunk = await stream.read(READ_BYTES)
            messages = decoder.feed(chunk)
            for at in range(0, len(messages), MESSAGES_AT_ONCE):
                some = messages[at : at + MESSAGES_AT_ONCE]
                for message in some:
                    self._traffic.messages_received += len(message)
                    self._inbox.received(link.peer, message)
                # Meanwhile its connection fills up: who sends too much waits, and nobody else does.
                await trio.sleep(link.pause_s(len(some), trio.current_time()))
            if not decoder.unfinished_bytes:
                begun = math.inf
            elif messages or begun == math.inf:
                begun = trio.current_time()

    async def _receive_newcomer(self, stream: INetStream) -> None:
        link = self._link_of(stream)
        if link is None or self._newcomers is None:
            return
        link.talks += 1
        try:
            await self._newcomers(Talk(cast(NetStream, stream), link.peer, link.socket.host, NEWCOMER_BYTES))
        finally:
            link.talks -= 1
            if not link.talks and not link.up.is_set():
                link.close("left after it had talked")

    # --- what we begin --------------------------------------------------------------------------------------

    async def _dial(self, peer: bytes, addresses: Sequence[str], dial: trio.CancelScope) -> None:
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
            address, named = parsed(text if circuit is None else circuit[0])
            if circuit is not None and (named is None or circuit[1] not in ("", f"/p2p/{peer_id(peer)}")):
                return "this address does not lead to that device through another one"
        except ValueError as error:
            return str(error)
        if circuit is None and named not in (None, peer):
            return "this address names another device"
        try:
            with trio.fail_after(patience_s):
                if circuit is None or named is None:
                    conn = await self._host.swarm.dial_addr(address, id_of(peer))
                else:
                    conn = await self._dial_through(named, circuit[0], peer)
        except trio.TooSlowError:
            return f"no answer within {patience_s:g} s"
        except Exception as error:  # noqa: BLE001 - libp2p raises every kind
            return reason_of(error)
        link = cast(Yamux, conn.muxed_conn).link
        if link is None:
            return "there is another connection"
        await link.ended.wait()
        return link.reason

    async def _dial_through(self, relay: bytes, address: str, peer: bytes) -> INetConn:
        if self.circuits is None or self._me.public_key in (relay, peer):
            raise SwarmException("there are no circuits from here")
        link = self._host.link_to(relay)
        if link is None:
            self.dial(relay, [address])
            while (link := self._host.link_to(relay)) is None:
                if relay not in self._dials:
                    raise SwarmException("the relay cannot be reached")
                await trio.sleep(RELAY_LOOK_S)
        return await self.circuits.through(link, peer)

    def _reachable(self, circuits: Sequence[str]) -> None:
        self._circuit_addresses = [f"{address}/p2p/{self._me.peer_id}" for address in circuits]
        self._told_reachable(self.addresses)

    def _start_soon(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, *arguments)
