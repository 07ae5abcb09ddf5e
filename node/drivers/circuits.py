"""Circuits and holes: connections to devices that nobody can dial, for `node.drivers.libp2p`, as `node.relay` decides.

**Circuits** are streams of circuit relay v2 (/libp2p/circuit/relay/0.2.0/hop and /stop). `Circuit` makes a line of one, on which Noise
and yamux run as on a socket. One field of the protocol has a second use here: the relay's answer to RESERVE names, as
`peer.addrs`, the address at which it sees the device that has reserved, which identify would tell elsewhere. Vouchers are left out:
relays here serve whom they know.

**Holes** (/libp2p/dcutr). Every dial beyond this device's own networks leaves from one local port, so that its router gives all of
them the same outer port, which a relay then sees. The end that was called writes CONNECT, the other one answers, SYNC follows, and
both dial: the caller at once, the called after half a round trip. Who arrives first may find that the other has not dialled yet; so
meanwhile the port listens as well, for the one expected address. The caller speaks first in the handshakes, whichever SYN arrived.

**libp2p 0.8.1**'s own classes for either are not used, their messages are. `CircuitV2Protocol` lets anyone reserve for anyone, by the
peer that the message names; knows one circuit a device (`_active_relays`), so that the end of one ends another; and limits a circuit
in bytes and in time, not in bytes a second. `DCUtRProtocol` dials the addresses that identify and `host.get_addrs` tell, from
the listening port, which here is bound so that nobody shares it, and closes the circuit some seconds later, whatever is on it.
"""

# ruff: noqa: TID251 - beside node/drivers/libp2p.py the one file that touches libp2p; the drivers are trio's room

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, PeerId, Reservation, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from libp2p.security.noise.io import MAX_NOISE_MESSAGE_LEN
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crypto.identity import peer_id, public_key_of
from gossip.errors import PeerViolation
from node.config import listen_address
from node.drivers.framing import pieces
from node.drivers.interfaces import interfaces
from node.nearby import route_of
from node.relay import (
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
PUNCH_PAUSE_S = 0.1  # after a dial that was refused
PUNCHES_MAX = 16  # at a time
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


class Line(Protocol):
    """What a connection runs on."""

    host: str
    port: int
    inbound: bool
    neighbour: bool
    closed: trio.Event

    def abort(self) -> None: ...


class Link(Protocol):
    """As far as circuits need to know; see `node.drivers.libp2p`."""

    peer: bytes
    name: str
    address: str
    relayed: bool
    punches: int  # that the other end has asked for
    ended: trio.Event

    @property
    def socket(self) -> Any: ...


class Ground(Protocol):
    """What circuits stand on: `node.drivers.libp2p.Libp2pTransport`."""

    def link_to(self, peer: bytes) -> Link | None:
        """That is up."""

    async def open(self, link: Any, protocol: TProtocol) -> NetStream: ...
    async def upgrade(self, line: Any, peer: bytes, *, initiator: bool) -> Any: ...
    def admits(self, line: Any) -> bool: ...
    def own_addresses(self) -> list[str]: ...
    def unix_time(self) -> float: ...
    def start_soon(self, work: Callable[..., Any], *arguments: Any) -> None: ...
    def tcp_line(self, stream: trio.SocketStream, *, inbound: bool) -> Any: ...
    def log(self, name: str, fields: dict[str, object]) -> None: ...


class Circuit(ReadWriteCloser):
    """One end of a circuit, as a line that can be cut off at once. Its bytes are counted on the relay's line."""

    relayed = True
    end = "connection lost"

    def __init__(self, stream: NetStream, relay: Link, *, inbound: bool) -> None:
        self.stream = stream
        self.relay = relay.peer
        self.host, self.port = relay.socket.host, relay.socket.port
        self.local: tuple[str, int] = relay.socket.local
        self.address = f"{relay.address}/p2p/{relay.name}{CIRCUIT}"
        self.inbound = inbound
        self.neighbour = False
        self.punched = False
        self.closed = trio.Event()
        self._arrived = bytearray()
        _keep_window(stream)

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; ConnectionClosedError if they do not come."""
        wanted = MAX_NOISE_MESSAGE_LEN if n is None else n
        if wanted > MAX_NOISE_MESSAGE_LEN:
            raise ConnectionClosedError(
                f"{wanted} bytes announced; Noise has at most {MAX_NOISE_MESSAGE_LEN}"
            )
        while len(self._arrived) < wanted:
            try:
                chunk = await self.stream.read(PUMP_BYTES)
            except BaseLibp2pError as error:
                raise ConnectionClosedError("the circuit ended", transport="circuit") from error
            if not chunk:
                raise ConnectionClosedError("the circuit ended", transport="circuit")
            self._arrived += chunk
        data = bytes(self._arrived[:wanted])
        del self._arrived[:wanted]
        return data

    async def write(self, data: bytes) -> None:
        try:
            for piece in pieces(data):
                await self.stream.write(piece)
        except BaseLibp2pError as error:
            raise ConnectionClosedError("the circuit ended", transport="circuit") from error

    def abort(self) -> None:
        """Whoever keeps the circuit resets its stream."""
        self.closed.set()

    async def close(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        return self.host, self.port


def split(text: str) -> tuple[str, str] | None:
    """The relay's address, and whom it leads on to ("/p2p/..." or ""); None if an address has no circuit."""
    relay, found, target = text.partition(CIRCUIT)
    return (relay, target) if found else None


class Circuits:
    """Both sides of a relay, and holes, on the links of one transport. Everything belongs to the trio thread."""

    def __init__(self, ground: Ground, relaying: Relaying) -> None:
        self._ground = ground
        self._relaying = relaying
        self._relay = Relay()
        self._relayed_bytes = 0
        self._meter = Meter(0.0)
        self._seeker = Seeker()
        self._woken = trio.Event()
        self._seen: dict[bytes, str] = {}  # by relay, at which address it sees our dials
        self._punching = trio.CapacityLimiter(PUNCHES_MAX)
        self.holes = Holes(relaying.far)

    @property
    def handlers(self) -> dict[TProtocol, Callable[[INetStream], Coroutine[Any, Any, None]]]:
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
                self._ground.start_soon(self._punch, link)
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
                    self._ground.start_soon(self._reserve, peer)
                case Announce(relays):
                    me = [f"{address}/p2p/{peer_id(peer)}{CIRCUIT}" for peer, address in relays]
                    self._ground.log("relays", {"relays": [peer_id(peer) for peer, _ in relays]})
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
                answer.peer.CopyFrom(PeerId(id=_named(link.peer), addrs=[Multiaddr(link.address).to_bytes()]))
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
            expire=max(0, math.floor(self._ground.unix_time() + lasts_s)),
            addrs=[Multiaddr(address).to_bytes() for address in self._ground.own_addresses()],
        )

    async def _connect(self, caller: NetStream, link: Link, target: bytes) -> None:
        called = None
        try:
            with trio.fail_after(TALK_S):
                onward = self._ground.link_to(target)
                if onward is None or onward.relayed:
                    raise ConnectionClosedError("it is not connected")
                called = await self._ground.open(onward, STOP_PROTOCOL)
                await _say(called, StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=_named(link.peer))))
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
            with trio.CancelScope(deadline=trio.current_time() + 1.0, shield=True):
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
        link = self._ground.link_to(peer)
        reason = "the connection is over"
        if link is not None:
            try:
                with trio.fail_after(TALK_S):
                    stream = await self._ground.open(link, HOP_PROTOCOL)
                    try:
                        await _say(stream, HopMessage(type=HopMessage.RESERVE))
                        answer = await _read(stream, HopMessage)
                    finally:
                        await _leave(stream)
                if answer.type == HopMessage.STATUS and answer.status == _proto(Status.OK):
                    if link.socket.hole_port and answer.peer.addrs:
                        self._seen[peer] = _address(answer.peer.addrs[0])
                    # It is a moment of Unix time, and devices' clocks differ.
                    lasts_s = answer.reservation.expire - self._ground.unix_time()
                    self._relaying.kept(peer)
                    self._seek(Reserved(peer, min(max(lasts_s, RESERVATION_MIN_S), RESERVATION_S)))
                    return
                reason = f"it answered {answer.status}"
            except trio.TooSlowError:
                reason = f"no answer within {TALK_S:g} s"
            except (BaseLibp2pError, PeerViolation) as error:
                reason = str(error) or type(error).__name__
        self._ground.log("not_relayed", {"peer": peer_id(peer), "reason": reason})
        self._seek(Denied(peer))

    async def _stop(self, stream: INetStream) -> None:
        relay = self._link_of(stream)
        with trio.fail_after(TALK_S):
            asked = await _read(stream, StopMessage)
            if asked.type != StopMessage.CONNECT:
                raise PeerViolation("a status that nobody asked for")
            wanted = relay is not None and self._seeker.is_relay(relay.peer)
            line = Circuit(cast(NetStream, stream), relay, inbound=True) if relay is not None else None
            if line is None or not wanted or not self._ground.admits(line):
                await _say(
                    stream, StopMessage(type=StopMessage.STATUS, status=_proto(Status.PERMISSION_DENIED))
                )
                return
            await _say(stream, StopMessage(type=StopMessage.STATUS, status=_proto(Status.OK)))
        try:
            # Whom the relay says it is from is its word; the handshake proves it.
            await self._ground.upgrade(line, _key(asked.peer.id), initiator=False)
            await line.closed.wait()
        finally:
            line.abort()
            await _leave(line.stream)

    async def through(self, relay: Link, peer: bytes) -> Any:
        """A connection to a device through a relay. BaseLibp2pError, trio.TooSlowError, PeerViolation."""
        with trio.fail_after(TALK_S):
            stream = await self._ground.open(relay, HOP_PROTOCOL)
            line = Circuit(stream, relay, inbound=False)
            self._ground.start_soon(_reset_when_closed, line)
            try:
                await _say(stream, HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=_named(peer))))
                answer = await _read(stream, HopMessage)
                if answer.type != HopMessage.STATUS or answer.status != _proto(Status.OK):
                    raise ConnectionClosedError(f"the relay refused: {_words(answer.status)}")
                return await self._ground.upgrade(line, peer, initiator=True)
            except BaseException:
                line.abort()
                raise

    def _link_of(self, stream: INetStream) -> Link | None:
        """Of a neighbour: nobody else is served."""
        muxed = cast(Any, stream.muxed_conn)
        link = cast("Link | None", muxed.link)
        return link if link is not None and self._ground.link_to(link.peer) is link else None

    # --- holes --------------------------------------------------------------------------------------------------

    async def _punch(self, link: Link) -> None:
        """From the end that was called, until there is a direct connection, or there is none to be had."""
        for pause_s in PUNCH_PAUSES_S:
            with trio.move_on_after(pause_s):
                await link.ended.wait()
                return
            seen = self._seen_by(link)
            if seen is None:
                self._ground.log(
                    "not_punched", {"peer": link.name, "reason": "no relay sees the port that holes need"}
                )
                return
            try:
                stream = await self._ground.open(link, DCUTR_PROTOCOL)
                try:
                    with trio.fail_after(TALK_S):
                        asked_at = trio.current_time()
                        await _say(stream, _hole(HolePunch.CONNECT, seen))
                        theirs = await _read(stream, HolePunch)
                        round_trip_s = trio.current_time() - asked_at
                        await _say(stream, _hole(HolePunch.SYNC))
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                        await stream.close()
                await trio.sleep(round_trip_s / 2)
                await self._meet(link, theirs, initiator=False)
            except (BaseLibp2pError, trio.TooSlowError, PeerViolation) as error:
                self._ground.log("not_punched", {"peer": link.name, "reason": str(error) or repr(error)})

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
        return self._seen.get(link.socket.relay) or next(iter(self._seen.values()), None)

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
                self._ground.log("not_punched", {"peer": link.name, "reason": f"no answer at {address}"})
                continue
            line = self._ground.tcp_line(stream, inbound=not initiator)
            line.punched = True
            if line.inbound and not self._ground.admits(line):
                line.abort()
                return
            await self._ground.upgrade(line, link.peer, initiator=initiator)
            return


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


def _named(peer: bytes) -> bytes:
    return ID.from_base58(peer_id(peer)).to_bytes()


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


async def _leave(stream: INetStream) -> None:
    with trio.CancelScope(deadline=trio.current_time() + 1.0, shield=True):
        await stream.reset()


async def _reset_when_closed(line: Circuit) -> None:
    try:
        await line.closed.wait()
    finally:
        await _leave(line.stream)
