"""What a device is asked, and tells, before it is a neighbour: its swarm's manifest, how far away it is, and how to join.

Any device that can connect may ask, of our swarm or not; `ping_on` is for neighbours as well.
"""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room
from __future__ import annotations

import math
import secrets
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from libp2p.tools.anyio_service import background_trio_service

from crypto.identity import peer_id, public_key_of
from gossip.errors import GossamerError, PeerViolation
from gossip.manifest import MANIFEST_BYTES
from node.clock import unix_time
from node.net.framing import SIGN_OF_LIFE, FrameDecoder, framed, pieces
from node.net.libp2p.host import Host
from node.net.libp2p.names import id_of, parsed, reason_of
from node.net.libp2p.tcp import READ_BYTES
from node.net.libp2p.terms import KIB, PINGS_MAX, Limits, Pinged, Traffic, Unreachable

MANIFEST_PROTOCOL = TProtocol("/gossamer/1/manifest")
PING_PROTOCOL = TProtocol("/gossamer/1/ping")
JOIN_PROTOCOL = TProtocol("/gossamer/join/1")

TALK_READ_BYTES = 16 * KIB
NEWCOMER_BYTES = KIB  # of one message of a stranger
PING = struct.Struct(">8s")  # whatever the asking side says
PONG = struct.Struct(">8sQ")  # the same, and the answering side's clock in milliseconds of Unix time

T = TypeVar("T")


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


async def tell_manifest(stream: INetStream, manifest: bytes, limits: Limits) -> None:
    with trio.fail_after(limits.allowance_s(MANIFEST_BYTES)):
        for piece in pieces(framed([manifest])):
            await stream.write(piece)
        await cast(NetStream, stream).close_write()
        await stream.read(1)  # ends when the other side has it all, and leaves


async def ping_address(
    address: str, *, identity_seed: bytes, timeout_s: float, clock: Callable[[], float] = unix_time
) -> Pinged:
    """Of the device at a multiaddr with /p2p/, whose key the handshake has then proven. Unreachable."""

    async def ping(stream: INetStream) -> Pinged:
        return await ping_on(stream, 1, clock)

    _, pinged = await _visit(address, PING_PROTOCOL, ping, identity_seed, timeout_s)
    return pinged


async def ping_on(stream: INetStream, count: int, clock: Callable[[], float]) -> Pinged:
    """PeerViolation for an answer to something else."""
    trips, ahead = [], 0.0
    for _ in range(min(count, PINGS_MAX)):
        said, asked, told = secrets.token_bytes(PING.size), trio.current_time(), clock()
        await stream.write(PING.pack(said))
        echo, theirs = PONG.unpack(await exactly(stream, PONG.size))
        trips.append(trio.current_time() - asked)
        if echo != said:
            raise PeerViolation("a ping was answered with something else")
        if trips[-1] == min(trips):  # the fastest tells the clock best
            ahead = theirs / 1000 - (told + trips[-1] / 2)
    return Pinged(tuple(trips), ahead)


async def answer_pings(stream: INetStream, limits: Limits, clock: Callable[[], float]) -> None:
    """Anybody who can connect may ask."""
    for _ in range(PINGS_MAX):
        with trio.fail_after(limits.handshake_s):
            [said] = PING.unpack(await exactly(stream, PING.size))
            await stream.write(PONG.pack(said, max(0, round(clock() * 1000))))


async def exactly(stream: INetStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


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
        target, peer = parsed(address)
    except ValueError as error:
        raise Unreachable(f"{address}: {error}") from error
    if peer is None:
        raise Unreachable(f"{address}: it must end in /p2p/ and the device's peer id")
    host = Host(identity_seed, Limits(), Traffic(), lambda muxed, _: muxed.socket.abort())
    answers: list[T] = []
    failure = ""
    with trio.CancelScope() as everything:
        async with background_trio_service(host.swarm):
            try:
                with trio.fail_after(timeout_s) as limit:
                    conn = await host.swarm.dial_addr(target, id_of(peer))
                    stream = await host.open(cast(SwarmConn, conn), protocol)
                    limit.deadline += talk_s
                    answers.append(await talk(stream))
            except trio.TooSlowError:
                failure = f"no answer within {timeout_s:g} s"
            except ProtocolNotSupportedError:
                failure = f"its release or its swarm does not speak {protocol}"
            except Exception as error:  # noqa: BLE001 - libp2p raises every kind
                failure = reason_of(error)
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
            with trio.fail_after(Limits().allowance_s(len(data))):
                for piece in pieces(data):
                    await self._stream.write(piece)
        except (trio.TooSlowError, BaseLibp2pError) as error:
            raise Unreachable(f"{peer_id(self.peer)}: it hung up") from error
