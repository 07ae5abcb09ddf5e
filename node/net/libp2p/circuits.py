"""Circuits, and how they become direct: connections to devices that nobody can dial, as `node.net.relay` decides.

**Circuits** are streams of circuit relay v2 (/libp2p/circuit/relay/0.2.0/hop and /stop). `Circuit` makes a line of one, on which Noise
and yamux run as on a socket. One field of the protocol has a second use here: the relay's answer to RESERVE names, as
`peer.addrs`, the address at which it sees the device that has reserved, which identify would tell elsewhere. Vouchers are left out:
relays here serve whom they know.

**DCUtR** (/libp2p/dcutr). The end that was called writes CONNECT, the other one answers, SYNC follows, and both dial: the caller at
once, the called after half a round trip, each from the one port that `holes` keeps. The caller speaks first in the handshakes,
whichever SYN arrived.

**libp2p 0.8.1**'s own classes for either are not used, their messages are. `CircuitV2Protocol` lets anyone reserve for anyone, by the
peer that the message names; knows one circuit a device (`_active_relays`), so that the end of one ends another; and limits a circuit
in bytes and in time, not in bytes a second. `DCUtRProtocol` dials the addresses that identify and `host.get_addrs` tell, from
the listening port, which here is bound so that nobody shares it, and closes the circuit some seconds later, whatever is on it.
"""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, Reservation, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crypto.identity import peer_id, public_key_of
from gossip.errors import PeerViolation
from node.config.addresses import listen_address
from node.lan.interfaces import interfaces
from node.lan.notice import route_of
from node.net.framing import pieces
from node.net.libp2p.holes import PUNCHES_MAX, Holes
from node.net.libp2p.host import RESET_S, Host, Yamux, reset
from node.net.libp2p.line import Line
from node.net.libp2p.link import Link
from node.net.libp2p.names import id_of
from node.net.libp2p.tcp import Socket
from node.net.libp2p.terms import Log
from node.net.relay import (
    PUNCH_PAUSES_S,
    RESERVATION_S,
    Accepted,
    Announce,
    Ask,
    Connect,
    Denied,
    Dialled,
    Due,
    Ended,
    Gone,
    Lost,
    Meter,
    Refused,
    Relay,
    Reserve,
    Reserved,
    Seeker,
    SeekerEvent,
    Status,
)

HOP_PROTOCOL = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP_PROTOCOL = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
DCUTR_PROTOCOL = TProtocol("/libp2p/dcutr")

CIRCUIT = "/p2p-circuit"
MESSAGE_BYTES = 4096  # as the specifications have it
OBSERVED_MAX = 2  # addresses taken from one message
PUMP_BYTES = 64 * 1024  # of a circuit, at once
TALK_S = 10.0  # for a question and its answer
PUNCH_S = 6.0  # for the two dials to meet
RESERVATION_MIN_S = 120.0  # whatever a relay, and our clock, say

M = TypeVar("M", bound=Message)


def is_far(address: str) -> bool:
    """Whether an address leads beyond this device's own networks, or to a host by name."""
    try:
        return route_of(address, interfaces()) == "direct"
    except ValueError:
        return False


@dataclass(frozen=True)
class Relaying:
    """What a device does about those that nobody can dial, itself included."""

    belongs: Callable[[bytes], bool]  # to the swarm
    reachable: Callable[[Sequence[str]], None]  # told of all addresses at which this device can be reached
    kept: Callable[[bytes], None] = lambda _peer: None  # told whose link is needed, for as long as it lasts
    serves: bool = True  # as a relay
    far: Callable[[str], bool] = is_far


class Circuit(Line):
    """One end of a circuit. Its bytes are counted on the relay's line."""

    relayed = True

    def __init__(self, stream: NetStream, relay: Link, *, inbound: bool) -> None:
        via = relay.socket
        address = f"{relay.address}/p2p/{relay.name}{CIRCUIT}"
        super().__init__((via.host, via.port), address, via.local, inbound=inbound)
        self.stream = stream
        self.relay = relay.peer
        _keep_window(stream)

    async def _receive(self) -> bytes:
        try:
            chunk = await self.stream.read(PUMP_BYTES)
        except BaseLibp2pError as error:
            raise ConnectionClosedError("the circuit ended", transport="circuit") from error
        if not chunk:
            raise ConnectionClosedError("the circuit ended", transport="circuit")
        return chunk

    async def write(self, data: bytes) -> None:
        try:
            for piece in pieces(data):
                await self.stream.write(piece)
        except BaseLibp2pError as error:
            raise ConnectionClosedError("the circuit ended", transport="circuit") from error


def split(text: str) -> tuple[str, str] | None:
    """The relay's address, and whom it leads on to ("/p2p/..." or ""); None if an address has no circuit."""
    relay, found, target = text.partition(CIRCUIT)
    return (relay, target) if found else None


class Circuits:
    """Both sides of a relay, and holes, on the links of one transport. Everything belongs to the trio thread."""

    def __init__(
        self,
        host: Host,
        relaying: Relaying,
        *,
        own_addresses: Callable[[], Sequence[str]],
        clock: Callable[[], float],
        start_soon: Callable[..., None],
        log: Log,
    ) -> None:
        self._host = host
        self._relaying = relaying
        self._own_addresses = own_addresses
        self._clock = clock
        self._start_soon = start_soon
        self._log = log
        self._relay = Relay()
        self._relayed_bytes = 0
        self._meter = Meter(0.0)
        self._seeker = Seeker()
        self._woken = trio.Event()
        self._seen: dict[bytes, str] = {}  # by relay, at which address it sees our dials
        self._punching = trio.CapacityLimiter(PUNCHES_MAX)
        self.holes = Holes(relaying.far)

    @property
    def handlers(self) -> dict[TProtocol, StreamHandlerFn]:
        serving = {HOP_PROTOCOL: self._hop} if self._relaying.serves else {}
        return {STOP_PROTOCOL: self._stop, DCUTR_PROTOCOL: self._be_synchronised, **serving}

    def status(self) -> dict[str, object]:
        """For people."""
        return {
            "serves": self._relaying.serves,
            "reservations": self._relay.reservations,
            "circuits": self._relay.circuits,
            "relayed_bytes": self._relayed_bytes,
            "reached": self._seeker.reached,
            "asked": self._seeker.candidates,
            "relays": [peer_id(peer) for peer in self._seeker.relays],
        }

    # --- links come and go ------------------------------------------------------------------------------------

    def up(self, link: Link) -> None:
        if link.relayed:
            if link.socket.inbound:
                self._start_soon(self._punch, link)
        elif not link.socket.punched and self._relaying.far(link.address):
            arrived = link.socket.inbound
            self._seek(Accepted(link.peer) if arrived else Dialled(link.peer, link.address))

    def down(self, peer: bytes) -> None:
        """No connection is left."""
        self._seen.pop(peer, None)
        self._relay.handle(Gone(peer), trio.current_time())
        self._seek(Lost(peer))

    async def run(self) -> None:
        """Keep the reservations, until cancelled."""
        while True:
            self._woken = trio.Event()
            with trio.move_on_at(self._seeker.due_at):
                await self._woken.wait()
                continue
            self._seek(Due())

    def _seek(self, event: SeekerEvent) -> None:
        for action in self._seeker.handle(event, trio.current_time()):
            match action:
                case Ask(peer):
                    self._start_soon(self._reserve, peer)
                case Announce(relays):
                    me = [f"{address}/p2p/{peer_id(peer)}{CIRCUIT}" for peer, address in relays]
                    self._log("relays", {"relays": [peer_id(peer) for peer, _ in relays]})
                    self._relaying.reachable(me)
        self._woken.set()

    # --- the relay --------------------------------------------------------------------------------------------

    async def _hop(self, stream: INetStream) -> None:
        link = self._link_of(stream)
        with trio.fail_after(TALK_S):
            asked = await _read(stream, HopMessage)
            if link is None or link.relayed:
                await _say(stream, _hop_status(Status.PERMISSION_DENIED))
                return
        now, member = trio.current_time(), self._relaying.belongs(link.peer)
        if asked.type == HopMessage.RESERVE:
            [decided] = self._relay.handle(Reserve(link.peer, member), now)
            answer = _hop_status(Status.OK)
            if isinstance(decided, Refused):
                answer = _hop_status(decided.status)
            else:
                self._relaying.kept(link.peer)
                answer.reservation.CopyFrom(self._reservation(RESERVATION_S))
                answer.peer.CopyFrom(
                    PeerId(id=link.id.to_bytes(), addrs=[Multiaddr(link.address).to_bytes()])
                )
                answer.limit.CopyFrom(Limit())  # neither seconds nor bytes in all
            with trio.fail_after(TALK_S):
                await _say(stream, answer)
        elif asked.type == HopMessage.CONNECT:
            target = _key(asked.peer.id)
            [decided] = self._relay.handle(Connect(link.peer, member, target), now)
            if isinstance(decided, Refused):
                with trio.fail_after(TALK_S):
                    await _say(stream, _hop_status(decided.status))
                return
            try:
                await self._connect(cast(NetStream, stream), link, target)
            finally:
                self._relay.handle(Ended(link.peer, target), trio.current_time())
        else:
            raise PeerViolation("a status that nobody asked for")

    def _reservation(self, lasts_s: float) -> Reservation:
        return Reservation(
            expire=max(0, math.floor(self._clock() + lasts_s)),
            addrs=[Multiaddr(address).to_bytes() for address in self._own_addresses()],
        )

    async def _connect(self, caller: NetStream, link: Link, target: bytes) -> None:
        called = None
        try:
            with trio.fail_after(TALK_S):
                onward = self._host.link_to(target)
                if onward is None or onward.relayed:
                    raise ConnectionClosedError("it is not connected")
                called = await self._host.open(onward.conn, STOP_PROTOCOL)
                await _say(called, StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=link.id.to_bytes())))
                answer = await _read(called, StopMessage)
                if answer.type != StopMessage.STATUS or answer.status != _proto(Status.OK):
                    raise ConnectionClosedError("it does not want to be called")
        except (BaseLibp2pError, trio.TooSlowError, PeerViolation):
            if called is not None:
                await called.reset()
            with trio.fail_after(TALK_S):
                await _say(caller, _hop_status(Status.CONNECTION_FAILED))
            return
        try:
            with trio.fail_after(TALK_S):
                await _say(caller, _hop_status(Status.OK))
            for stream in (caller, called):
                _keep_window(stream)
            async with trio.open_nursery() as nursery:
                for one, other in ((caller, called), (called, caller)):
                    nursery.start_soon(self._pump, one, other, nursery.cancel_scope)
        finally:
            with trio.CancelScope(deadline=trio.current_time() + RESET_S, shield=True):
                await called.reset()
                await caller.reset()

    async def _pump(self, one: NetStream, other: NetStream, both: trio.CancelScope) -> None:
        """From one to the other until it ends; then the other way ends as well.

        libp2p 0.8.1: a stream whose far end takes nothing for 5 s ends, and the circuit with it.
        """
        with contextlib.suppress(BaseLibp2pError):
            while chunk := await one.read(PUMP_BYTES):
                await trio.sleep(self._meter.wait_s(len(chunk), trio.current_time()))
                await other.write(chunk)
                self._relayed_bytes += len(chunk)
        both.cancel()

    # --- the device behind a router ----------------------------------------------------------------------------

    async def _reserve(self, peer: bytes) -> None:
        link = self._host.link_to(peer)
        reason = "the connection is over"
        if link is not None:
            try:
                with trio.fail_after(TALK_S):
                    stream = await self._host.open(link.conn, HOP_PROTOCOL)
                    try:
                        await _say(stream, HopMessage(type=HopMessage.RESERVE))
                        answer = await _read(stream, HopMessage)
                    finally:
                        await reset(stream)
                if answer.type == HopMessage.STATUS and answer.status == _proto(Status.OK):
                    if link.socket.hole_port and answer.peer.addrs:
                        self._seen[peer] = _address(answer.peer.addrs[0])
                    # It is a moment of Unix time, and devices' clocks differ.
                    lasts_s = answer.reservation.expire - self._clock()
                    self._relaying.kept(peer)
                    self._seek(Reserved(peer, min(max(lasts_s, RESERVATION_MIN_S), RESERVATION_S)))
                    return
                reason = f"it answered {answer.status}"
            except trio.TooSlowError:
                reason = f"no answer within {TALK_S:g} s"
            except (BaseLibp2pError, PeerViolation) as error:
                reason = str(error) or type(error).__name__
        self._log("not_relayed", {"peer": peer_id(peer), "reason": reason})
        self._seek(Denied(peer))

    async def _stop(self, stream: INetStream) -> None:
        relay = self._link_of(stream)
        with trio.fail_after(TALK_S):
            asked = await _read(stream, StopMessage)
            if asked.type != StopMessage.CONNECT:
                raise PeerViolation("a status that nobody asked for")
            wanted = relay is not None and self._seeker.is_relay(relay.peer)
            line = Circuit(cast(NetStream, stream), relay, inbound=True) if relay is not None else None
            if line is None or not wanted or not self._host.tcp.admits(line):
                await _say(
                    stream, StopMessage(type=StopMessage.STATUS, status=_proto(Status.PERMISSION_DENIED))
                )
                return
            await _say(stream, StopMessage(type=StopMessage.STATUS, status=_proto(Status.OK)))
        try:
            # Whom the relay says it is from is its word; the handshake proves it.
            await self._host.upgrade(line, _key(asked.peer.id), initiator=False)
            await line.closed.wait()
        finally:
            line.abort()
            await reset(line.stream)

    async def through(self, relay: Link, peer: bytes) -> INetConn:
        """A connection to a device through a relay. BaseLibp2pError, trio.TooSlowError, PeerViolation."""
        with trio.fail_after(TALK_S):
            stream = await self._host.open(relay.conn, HOP_PROTOCOL)
            line = Circuit(stream, relay, inbound=False)
            self._start_soon(_reset_when_closed, line)
            try:
                await _say(
                    stream, HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=id_of(peer).to_bytes()))
                )
                answer = await _read(stream, HopMessage)
                if answer.type != HopMessage.STATUS or answer.status != _proto(Status.OK):
                    raise ConnectionClosedError(f"the relay refused: {_words(answer.status)}")
                return cast(INetConn, await self._host.upgrade(line, peer, initiator=True))
            except BaseException:
                line.abort()
                raise

    def _link_of(self, stream: INetStream) -> Link | None:
        """Of a neighbour: nobody else is served."""
        link = cast(Yamux, stream.muxed_conn).link
        return link if link is not None and self._host.link_to(link.peer) is link else None

    # --- holes --------------------------------------------------------------------------------------------------

    async def _punch(self, link: Link) -> None:
        """From the end that was called, until there is a direct connection, or there is none to be had."""
        for pause_s in PUNCH_PAUSES_S:
            with trio.move_on_after(pause_s):
                await link.ended.wait()
                return
            seen = self._seen_by(link)
            if seen is None:
                self._log(
                    "not_punched", {"peer": link.name, "reason": "no relay sees the port that holes need"}
                )
                return
            try:
                stream = await self._host.open(link.conn, DCUTR_PROTOCOL)
                try:
                    with trio.fail_after(TALK_S):
                        asked_at = trio.current_time()
                        await _say(stream, _hole(HolePunch.CONNECT, seen))
                        theirs = await _read(stream, HolePunch)
                        round_trip_s = trio.current_time() - asked_at
                        await _say(stream, _hole(HolePunch.SYNC))
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESET_S):
                        await stream.close()
                await trio.sleep(round_trip_s / 2)
                await self._meet(link, theirs, initiator=False)
            except (BaseLibp2pError, trio.TooSlowError, PeerViolation) as error:
                self._log("not_punched", {"peer": link.name, "reason": str(error) or repr(error)})

    async def _be_synchronised(self, stream: INetStream) -> None:
        link = self._link_of(stream)
        if link is None or not link.relayed or link.socket.inbound:
            raise PeerViolation("a hole to be made where there is no circuit of ours")
        link.punches += 1
        if link.punches > len(PUNCH_PAUSES_S):
            raise PeerViolation(f"more than {len(PUNCH_PAUSES_S)} holes to be made for one circuit")
        with trio.fail_after(TALK_S):
            theirs = await _read(stream, HolePunch)
            if theirs.type != HolePunch.CONNECT:
                raise PeerViolation("SYNC before CONNECT")
            await _say(stream, _hole(HolePunch.CONNECT, self._seen_by(link)))
            if (await _read(stream, HolePunch)).type != HolePunch.SYNC:
                raise PeerViolation("CONNECT twice")
        if self._seen_by(link) is not None:
            await self._meet(link, theirs, initiator=True)

    def _seen_by(self, link: Link) -> str | None:
        """At which address our dials are seen, if possible by the relay of this very circuit."""
        return self._seen.get(cast(Circuit, link.socket).relay) or next(iter(self._seen.values()), None)

    async def _meet(self, link: Link, theirs: HolePunch, *, initiator: bool) -> None:
        """Dial while the other one dials."""
        for raw in theirs.ObsAddrs[:OBSERVED_MAX]:
            address = _address(raw)
            if not address.startswith("/ip4/") or not self._relaying.far(address):
                continue
            stream = None
            async with self._punching:
                with trio.move_on_after(PUNCH_S):
                    stream = await self.holes.meet(*listen_address(address))
            if stream is None:
                self._log("not_punched", {"peer": link.name, "reason": f"no answer at {address}"})
                continue
            line = Socket(stream, self._host.tcp.traffic, inbound=not initiator)
            line.punched = True
            if line.inbound and not self._host.tcp.admits(line):
                line.abort()
                return
            await self._host.upgrade(line, link.peer, initiator=initiator)
            return


# --- messages ---------------------------------------------------------------------------------------------------


async def _say(stream: INetStream, message: Message) -> None:
    await stream.write(encode_varint_prefixed(message.SerializeToString()))


async def _read(stream: INetStream, kind: type[M]) -> M:
    """BaseLibp2pError, PeerViolation."""
    message = kind()
    try:
        message.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MESSAGE_BYTES))
    except DecodeError as error:
        raise PeerViolation(f"no {kind.__name__}") from error
    return message


def _hop_status(status: Status) -> HopMessage:
    return HopMessage(type=HopMessage.STATUS, status=_proto(status))


def _proto(status: Status) -> Any:
    """Protobuf's stubs have a type of their own for it."""
    return int(status)


def _hole(kind: Any, seen: str | None = None) -> HolePunch:
    return HolePunch(type=kind, ObsAddrs=[] if seen is None else [Multiaddr(seen).to_bytes()])


def _words(status: int) -> str:
    try:
        return Status(status).name.lower().replace("_", " ")
    except ValueError:
        return f"status {status}"


def _key(raw: bytes) -> bytes:
    """PeerViolation."""
    try:
        return public_key_of(ID(raw).to_base58())
    except ValueError as error:
        raise PeerViolation(f"a device's name that is none: {error}") from error


def _address(raw: bytes) -> str:
    """/ip4/ADDRESS/tcp/PORT or its ip6 form. PeerViolation."""
    try:
        text = str(Multiaddr(raw))
        listen_address(text)
    except ValueError as error:
        raise PeerViolation(f"an address that is none: {error}") from error
    return text


def _keep_window(stream: NetStream) -> None:
    """libp2p 0.8.1: doubles a stream's window up to 16 MB, as bytes that the relay would have to hold."""
    cast(Any, stream.muxed_stream)._apply_autotune_epoch = lambda _buffered: 0  # noqa: SLF001


async def _reset_when_closed(line: Circuit) -> None:
    try:
        await line.closed.wait()
    finally:
        await reset(line.stream)
