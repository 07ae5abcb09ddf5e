"""What strangers and neighbours can do to a node over the wire: be cut off, and nothing else.

The attackers are plain libp2p hosts and bare sockets. Every test ends with an honest node that gets through.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from crypto.identity import Identity, public_key_of
from node.net.framing import SIGN_OF_LIFE, framed
from node.net.libp2p.host import BUFFERED_BYTES
from node.net.libp2p.terms import Limits
from node.net.libp2p.transport import Libp2pTransport
from tests.diary import PATIENCE_S, Diary

SWARM = b"\x11" * 32
TOPIC = f"gossamer/1/{SWARM.hex()}"
MESSAGES = TProtocol(f"/gossamer/1/{SWARM.hex()[:32]}/messages")
MANIFEST = TProtocol("/gossamer/1/manifest")
GOSSIP = TProtocol("/meshsub/1.1.0")


class Node(Diary):
    """An honest node, and all that it was told."""

    def __init__(self, seed: int, limits: Limits) -> None:
        super().__init__()
        identity = Identity(bytes([seed]) * 32)
        self.key = identity.public_key
        self.transport = Libp2pTransport(
            identity_seed=identity.seed,
            swarm=SWARM,
            listen=["/ip4/127.0.0.1/tcp/0"],
            limits=limits,
            inbox=self,
            manifest=lambda: b"manifest",
            log=self.log,
        )

    async def until_noted(self, *entry) -> None:
        await self.until(lambda: entry in self.entries)

    @property
    def endpoint(self) -> tuple[str, int]:
        _, _, host, _, port, *_ = self.transport.addresses[0].split("/")
        return host, int(port)

    def blamed(self) -> list[str]:
        return [entry[2]["reason"] for entry in self.entries if entry[:2] == ("log", "peer_violation")]


@pytest.fixture
async def started(nursery) -> AsyncIterator[Callable[..., Awaitable[Node]]]:
    """Start a victim; at the end of the test an honest newcomer must be able to talk to it."""
    victims: list[Node] = []

    async def start(limits: Limits | None = None) -> Node:
        node = Node(1, limits or Limits())
        await nursery.start(node.transport.run)
        victims.append(node)
        return node

    yield start
    for victim in victims:
        friend = Node(2, Limits())
        await nursery.start(friend.transport.run)
        friend.transport.dial(victim.key, victim.transport.addresses)
        await friend.until_noted("up", victim.key)
        friend.transport.send(victim.key, b"are you well?")
        await victim.until_noted("received", friend.key, b"are you well?")


@asynccontextmanager
async def stranger(
    victim: Node, *, seed: bytes = b"\xee" * 32, accept: StreamHandlerFn | None = None
) -> AsyncIterator[IHost]:
    """A libp2p host that is connected to the victim, and speaks the swarm's protocol if it can accept it."""
    keys = create_new_key_pair(seed)
    noise = Noise(keys, create_noise_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={NOISE: noise})
    if accept is not None:
        host.set_stream_handler(MESSAGES, accept)
    async with host.run([]):
        network = host.get_network()
        try:
            await host.connect(info_from_p2p_addr(Multiaddr(victim.transport.addresses[0])))
            yield host
        finally:
            for conn in network.get_connections():  # host.close() would take 0.4 s
                conn.muxed_conn.secured_conn.conn.conn.stream.stream.socket.close()
            network.connections.clear()


@dataclass
class Neighbour:
    """A libp2p host that passes for one of the swarm."""

    host: IHost
    key: bytes
    said: INetStream  # what it says to the victim
    heard: INetStream  # what the victim says to it


@asynccontextmanager
async def neighbour(victim: Node, seed: bytes = b"\xee" * 32) -> AsyncIterator[Neighbour]:
    opened, opening = trio.open_memory_channel[INetStream](1)

    async def accept(stream: INetStream) -> None:
        await opened.send(stream)
        await trio.sleep_forever()

    async with stranger(victim, seed=seed, accept=accept) as host:
        said = await host.new_stream(ID(victim_id(victim)), [MESSAGES])
        with trio.fail_after(PATIENCE_S):
            heard = await opening.receive()
        key = public_key_of(str(host.get_id()))
        await victim.until_noted("up", key)
        yield Neighbour(host, key, said, heard)


def victim_id(victim: Node) -> bytes:
    return b"\x00\x24\x08\x01\x12\x20" + victim.key


async def raw_stream(host: IHost, victim: Node) -> INetStream:
    """A stream before its protocol is negotiated."""
    return await host.get_network().new_stream(ID(victim_id(victim)))


def announcement(host: IHost, data: bytes, *, topics=(TOPIC,), number=1, **changes) -> rpc_pb2.Message:
    message = rpc_pb2.Message(
        data=data, topicIDs=topics, from_id=host.get_id().to_bytes(), seqno=number.to_bytes(8, "big")
    )
    signed = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = host.get_private_key().sign(signed)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def frame(*messages: rpc_pb2.Message, **parts) -> bytes:
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages, **parts).SerializeToString())


async def gone(stream: INetStream) -> None:
    """Until the victim has ended this stream."""
    with trio.fail_after(PATIENCE_S), suppress(StreamError):
        while True:
            await stream.read(65536)


async def test_a_message_that_announces_too_much_costs_the_connection_and_no_memory(started):
    victim = await started(Limits(message_bytes=1000, queue_bytes=1000))
    async with neighbour(victim) as liar:
        await liar.said.write(framed([b"fine"]))
        await victim.until_noted("received", liar.key, b"fine")
        await liar.said.write((1001).to_bytes(4, "big"))
        reason = "a message of 1001 bytes; 1000 are allowed"
        await victim.until_noted("down", liar.key, f"broke the rules: {reason}")
        assert victim.blamed() == [reason]


async def test_half_a_message_is_no_message(started):
    victim = await started()
    async with neighbour(victim) as dying:
        await dying.said.write(framed([b"whole"]) + framed([b"x" * 100])[:50])
        await victim.until_noted("received", dying.key, b"whole")
    await victim.until_noted("down", dying.key, "connection lost")
    assert [entry for entry in victim.entries if entry[0] == "received"] == [
        ("received", dying.key, b"whole")
    ]


async def test_one_messages_stream_is_enough(started):
    victim = await started()
    async with neighbour(victim) as twofaced:
        with suppress(BaseLibp2pError):
            await twofaced.host.new_stream(ID(victim_id(victim)), [MESSAGES])
        await victim.until_noted("down", twofaced.key, "broke the rules: a second messages stream")


async def test_a_silent_neighbour_is_given_up_and_an_idle_one_gives_signs_of_life(started):
    victim = await started(Limits(keepalive_s=0.05, silence_s=0.4))
    async with neighbour(victim) as frozen:
        heard = b""
        while len(heard) < 3 * len(SIGN_OF_LIFE):
            heard += await frozen.heard.read(65536)
        assert heard == SIGN_OF_LIFE * 3
        await victim.until_noted("down", frozen.key, "silent for 0.4 s, or too slow")


async def test_a_message_that_trickles_is_given_up(started):
    victim = await started(Limits(handshake_s=0.3, slowest_bytes_per_s=1 << 20))
    async with neighbour(victim) as trickling:
        for _ in range(3):
            await trickling.said.write(b"\x00")
        await victim.until_noted("down", trickling.key, "silent for 45 s, or too slow")


async def no_utf8(host: IHost, victim: Node) -> INetStream:
    stream = await raw_stream(host, victim)
    await stream.write(b"\x13/multistream/1.0.0\n" + b"\x03\xff\xfe\n")
    return stream


async def an_endless_line(host: IHost, victim: Node) -> INetStream:
    stream = await raw_stream(host, victim)
    await stream.write(b"\xff\xff\xff\xff\x0f" + bytes(100))
    return stream


async def an_unknown_protocol(host: IHost, victim: Node) -> INetStream:
    stream = await raw_stream(host, victim)
    await stream.write(b"\x13/multistream/1.0.0\n" + b"\x09/nothing\n")
    await stream.write(b"\x09/nothing\n")
    await stream.close()
    return stream


async def garbage_for_the_manifest(host: IHost, victim: Node) -> INetStream:
    stream = await host.new_stream(ID(victim_id(victim)), [MANIFEST])
    await stream.write(os.urandom(1000))
    return stream


@pytest.mark.parametrize("attack", [no_utf8, an_endless_line, an_unknown_protocol, garbage_for_the_manifest])
async def test_garbage_from_a_stranger_ends_a_stream_and_nothing_else(started, attack):
    victim = await started()
    async with stranger(victim) as host:
        await gone(await attack(host, victim))
        stream = await host.new_stream(ID(victim_id(victim)), [MANIFEST])
        assert await stream.read(65536) == framed([b"manifest"])
    assert victim.blamed() == []


async def test_streams_are_counted(started):
    victim = await started(Limits(streams_per_connection=8))
    async with neighbour(victim) as greedy:
        with suppress(BaseLibp2pError):
            for _ in range(7):
                await raw_stream(greedy.host, victim)
        await victim.until_noted("down", greedy.key, "broke the rules: more than 8 streams")


async def test_a_flood_beyond_the_window_is_cut_off(started):
    victim = await started()
    async with stranger(victim) as host:
        # It refuses our messages stream, so the victim does not read this one before it gives up.
        stream = await host.new_stream(ID(victim_id(victim)), [MESSAGES])
        stream.muxed_stream.send_window = 1 << 40
        written = 0
        with trio.fail_after(PATIENCE_S), suppress(StreamError):
            while written < 4 * BUFFERED_BYTES:
                await stream.write(bytes(100_000))
                written += 100_000
        assert written < 2 * BUFFERED_BYTES


async def test_bytes_that_are_no_handshake_are_cut_off(started):
    victim = await started(Limits(handshake_s=0.3))
    for opening in (
        os.urandom(70_000),
        b"\xff\xff\xff\xff\xff\xff\x7f",
        b"\x13/multistream/1.0.0\n\x03\xff\xfe\n",
        b"",
    ):
        stream = await trio.open_tcp_stream(*victim.endpoint)
        async with stream:
            await stream.send_all(opening)
            with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass


async def test_a_length_that_no_handshake_has_is_not_waited_for(started):
    victim = await started(Limits(handshake_s=100))
    async with await trio.open_tcp_stream(*victim.endpoint) as stream:
        await stream.send_all(b"\x80\x80\x40" + bytes(1000))  # a line of 1 MiB
        with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


async def test_idle_strangers_do_not_take_the_slots_of_others(started):
    victim = await started(Limits(strangers_per_host=3, inbound_connections=5))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(await caller("127.0.0.2", victim))
        turned_away = await stack.enter_async_context(await caller("127.0.0.2", victim))
        assert await closed(turned_away)
        async with neighbour(victim) as honest:
            await honest.said.write(framed([b"in spite of them"]))
            await victim.until_noted("received", honest.key, b"in spite of them")
            await stack.enter_async_context(await caller("127.0.0.3", victim))
            full = await stack.enter_async_context(await caller("127.0.0.4", victim))
            assert await closed(full)


async def test_slots_are_given_back(started):
    victim = await started(Limits(connections=2, inbound_connections=2))
    for _ in range(4):
        async with neighbour(victim) as guest:
            pass
        await victim.until_noted("down", guest.key, "connection lost")
        victim.entries.clear()
    assert victim.transport._links == {}
    # The last one may still be clearing up.
    assert len(victim.transport._host.swarm.get_connections()) <= 1


async def caller(source: str, victim: Node) -> trio.SocketStream:
    return await trio.open_tcp_stream(*victim.endpoint, local_address=source)


async def closed(stream: trio.SocketStream) -> bool:
    with trio.fail_after(PATIENCE_S):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True
