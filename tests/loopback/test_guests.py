"""Strangers that may listen: they hear what is public, are bounded, and are nobody to the node and to the swarm."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crypto.identity import Identity
from gossip.history.public_announcement import topic_of
from node.net.libp2p.guests import Visit, has_place
from node.net.libp2p.terms import KIB, GuestLimits, Limits
from node.net.libp2p.transport import FOREIGN, Libp2pTransport
from tests.loopback.test_libp2p_hostile import (
    GOSSIP,
    MANIFEST,
    MESSAGES,
    PATIENCE_S,
    SWARM,
    TOPIC,
    Node,
    announcement,
    frame,
    gone,
    stranger,
    victim_id,
)

IDENTIFY = TProtocol("/ipfs/id/1.0.0")
PING = TProtocol("/ipfs/ping/1.0.0")
PUBLIC = topic_of(SWARM)
AGENT = "gossamer/1.2.3"
AS_THEY_ARE = GuestLimits()


class OpenNode(Node):
    """A node that has guests, or, with None, one that says nothing in public."""

    def __init__(self, seed: int, guests: GuestLimits | None, limits: Limits) -> None:
        super().__init__(seed, limits)
        self.transport = Libp2pTransport(
            identity_seed=Identity(bytes([seed]) * 32).seed,
            swarm=SWARM,
            listen=["/ip4/127.0.0.1/tcp/0"],
            limits=limits,
            inbox=self,
            manifest=lambda: b"manifest",
            log=self.log,
            guests=guests,
            agent=AGENT,
        )

    def logged(self, event: str) -> list[dict]:
        return [entry[2] for entry in self.entries if entry[:2] == ("log", event)]

    async def until_logged(self, event: str, count: int = 1) -> dict:
        await self.until(lambda: len(self.logged(event)) >= count)
        return self.logged(event)[count - 1]

    def has_told_the_core(self) -> list[tuple]:
        return [entry for entry in self.entries if entry[0] != "log"]


@dataclass
class Guest:
    host: IHost
    node: OpenNode
    said: INetStream  # its gossip to the node
    heard: trio.MemoryReceiveChannel[INetStream]  # the node's to it, when it has something to say

    async def subscribe(self, *, on: bool = True) -> None:
        """Returns once the node has read this, and so all that was said before on this stream."""
        await self.said.write(subscription(PUBLIC, on=on))
        await self.until_subscribed(on=on)

    async def until_subscribed(self, *, on: bool) -> None:
        with trio.fail_after(PATIENCE_S):
            while self.visit.subscribed != on:  # noqa: ASYNC110 - a visit tells nobody
                await trio.sleep(0.01)

    @property
    def visit(self) -> Visit:
        links = self.node.transport._links.values()
        [visit] = [link.visit for link in links if link.id == self.host.get_id() and link.visit]
        return visit


@asynccontextmanager
async def guest(node: OpenNode, seed: bytes = b"\xee" * 32) -> AsyncIterator[Guest]:
    opened, opening = trio.open_memory_channel[INetStream](1)

    async def accept(stream: INetStream) -> None:
        await opened.send(stream)
        await trio.sleep_forever()

    before = len(node.logged("guest_up"))
    async with stranger(node, seed=seed) as host:
        host.set_stream_handler(GOSSIP, accept)
        await node.until_logged("guest_up", before + 1)
        yield Guest(host, node, await host.new_stream(ID(victim_id(node)), [GOSSIP]), opening)


def subscription(topic: str, *, on: bool = True) -> bytes:
    return frame(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=on, topicid=topic)])


async def next_announcement(stream: INetStream) -> rpc_pb2.Message:
    told = rpc_pb2.RPC()
    with trio.fail_after(PATIENCE_S):
        told.ParseFromString(await read_varint_prefixed_bytes_limited(stream, 100 * KIB))
    [message] = told.publish
    assert told == rpc_pb2.RPC(publish=[message])
    return message


Start = Callable[..., Awaitable[OpenNode]]


@pytest.fixture
async def started(nursery) -> AsyncIterator[Start]:
    """Start a node; at the end of the test an honest neighbour must be able to talk to it."""
    nodes: list[OpenNode] = []

    async def start(guests: GuestLimits | None = AS_THEY_ARE, limits: Limits | None = None) -> OpenNode:
        node = OpenNode(1, guests, limits or Limits())
        await nursery.start(node.transport.run)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        friend = OpenNode(2, GuestLimits(), Limits())
        await nursery.start(friend.transport.run)
        friend.transport.dial(node.key, node.transport.addresses)
        await friend.until_noted("up", node.key)
        friend.transport.send(node.key, b"are you well?")
        await node.until_noted("received", friend.key, b"are you well?")


@pytest.mark.parametrize("protocol", [IDENTIFY, PING])
async def test_without_the_setting_there_are_no_guests(started, protocol):
    node = await started(None, Limits(handshake_s=0.5))
    async with stranger(node) as host:
        with pytest.raises(BaseLibp2pError):
            await host.new_stream(ID(victim_id(node)), [protocol])
        assert (await node.until_logged("peer_refused"))["reason"] == FOREIGN
        with suppress(BaseLibp2pError):
            stream = await host.new_stream(ID(victim_id(node)), [GOSSIP])
            await stream.write(subscription(PUBLIC))
            node.transport.tell_guests(b"nobody shall hear this")
            await gone(stream)
    assert node.transport.traffic().announcements_sent == 0
    assert node.logged("guest_up") == node.has_told_the_core() == []


async def test_a_guest_is_told_who_this_is_and_nothing_more(started):
    node = await started()
    async with guest(node) as ann:
        stream = await ann.host.new_stream(ID(victim_id(node)), [IDENTIFY])
        told = Identify()
        with trio.fail_after(PATIENCE_S):
            told.ParseFromString(await read_varint_prefixed_bytes_limited(stream, 4 * KIB))
        caller = node.logged("guest_up")[0]["address"]
    protocols = [MESSAGES, MANIFEST, "/gossamer/1/ping", IDENTIFY, PING, GOSSIP]
    host, port = node.endpoint
    assert told == Identify(
        protocol_version="gossamer/1",
        agent_version=AGENT,
        public_key=b"\x08\x01\x12\x20" + node.key,
        listen_addrs=[Multiaddr(f"/ip4/{host}/tcp/{port}").to_bytes()],
        observed_addr=Multiaddr(caller).to_bytes(),
        protocols=sorted(protocols),
    )


async def test_a_guest_can_ping_more_than_once_on_a_stream(started):
    node = await started()
    async with guest(node) as ann:
        stream = await ann.host.new_stream(ID(victim_id(node)), [PING])
        for said in (b"a" * 32, b"b" * 32):
            await stream.write(said[:20])
            await stream.write(said[20:])
            with trio.fail_after(PATIENCE_S):
                assert await stream.read(32) == said


async def test_a_guest_hears_what_is_public_signed_and_in_order(started):
    node = await started()
    async with guest(node) as ann:
        node.transport.tell_guests(b"before anybody has subscribed")
        await ann.subscribe()
        node.transport.tell_guests(b"one")
        node.transport.tell_guests(b"two")
        with trio.fail_after(PATIENCE_S):
            stream = await ann.heard.receive()
        one, two = await next_announcement(stream), await next_announcement(stream)
        assert (one.data, two.data, [*one.topicIDs]) == (b"one", b"two", [PUBLIC])
        assert int.from_bytes(two.seqno, "big") == int.from_bytes(one.seqno, "big") + 1
        author = ID(one.from_id)
        assert author == ID(victim_id(node))
        signature, unsigned = one.signature, rpc_pb2.Message()
        unsigned.CopyFrom(one)
        unsigned.ClearField("signature")
        signed = PUBSUB_SIGNING_PREFIX.encode() + unsigned.SerializeToString()
        assert author.extract_public_key().verify(signed, signature)
        await ann.subscribe(on=False)
        node.transport.tell_guests(b"not for her")
        await ann.subscribe()
        node.transport.tell_guests(b"three")
        assert (await next_announcement(stream)).data == b"three"
        assert node.transport.peers == []
    await node.until_logged("guest_down")
    assert node.has_told_the_core() == []


async def test_of_another_topic_a_guest_hears_nothing(started):
    node = await started()
    async with guest(node) as ann:
        await ann.subscribe()
        topics = [(PUBLIC, False), (TOPIC, True), ("another", True)]
        options = [rpc_pb2.RPC.SubOpts(subscribe=on, topicid=topic) for topic, on in topics]
        await ann.said.write(frame(subscriptions=options))
        await ann.until_subscribed(on=False)
        node.transport.tell_guests(b"to nobody")
        await ann.subscribe()
        node.transport.tell_guests(b"public")
        with trio.fail_after(PATIENCE_S):
            assert (await next_announcement(await ann.heard.receive())).data == b"public"


async def test_what_a_guest_says_reaches_neither_the_core_nor_the_swarm_nor_other_guests(started, nursery):
    node = await started()
    neighbour = OpenNode(3, GuestLimits(), Limits())
    await nursery.start(neighbour.transport.run)
    neighbour.transport.dial(node.key, node.transport.addresses)
    await node.until_noted("up", neighbour.key)
    higher = b"\xcc" * 32  # its key: this node chooses the connection, and has it in its books at first
    async with guest(node, higher) as ann, guest(node, b"\xdd" * 32) as bob:
        await bob.subscribe()
        for number, topic in enumerate((TOPIC, PUBLIC, "another")):
            await ann.said.write(frame(announcement(ann.host, b"hear me", topics=[topic], number=number)))
        graft = rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)])
        await ann.said.write(frame(control=graft))
        await ann.subscribe()
        assert set(node.transport._host.links) == {ID(victim_id(neighbour))}
        node.transport.tell_guests(b"for guests")
        with trio.fail_after(PATIENCE_S):
            assert (await next_announcement(await bob.heard.receive())).data == b"for guests"
        assert [key for key, _ in node.transport.peers] == [neighbour.key]
    assert [entry for entry in node.has_told_the_core() if entry[0] == "received"] == []
    assert [entry for entry in neighbour.entries if entry[0] == "received"] == []


async def test_places_are_few_and_given_back(started):
    node = await started(GuestLimits(guests=2, per_host=2), Limits(handshake_s=0.5))
    async with guest(node) as _, guest(node, b"\xdd" * 32) as _:
        async with stranger(node, seed=b"\xcc" * 32) as third:
            with suppress(BaseLibp2pError):
                await gone(await third.new_stream(ID(victim_id(node)), [GOSSIP]))
        assert node.logged("peer_refused") == [{"peer": str(third.get_id()), "reason": FOREIGN}]
    await node.until_logged("guest_down", 2)
    async with guest(node, b"\xcc" * 32) as at_last:
        await at_last.subscribe()


def test_one_host_cannot_take_all_places():
    limits = GuestLimits(guests=3, per_host=2)
    taken = [Visit("::1", limits), Visit("::1", limits)]
    assert not has_place("::1", limits, taken)
    assert has_place("::2", limits, taken)
    assert not has_place("::3", limits, [*taken, Visit("::2", limits)])


async def test_a_visit_ends_with_its_time(started):
    node = await started(GuestLimits(visit_s=0.3))
    async with guest(node) as ann:
        await gone(ann.said)
    assert (await node.until_logged("guest_down"))["reason"] == "its time is over"


async def test_a_visit_ends_with_its_bytes_whichever_way_they_go(started):
    node = await started(GuestLimits(visit_bytes=100 * KIB))
    async with guest(node) as talker:
        junk = frame(announcement(talker.host, bytes(30 * KIB), topics=["another"]))
        with suppress(BaseLibp2pError):
            for _ in range(4):
                await talker.said.write(junk)
        await gone(talker.said)
    assert (await node.until_logged("guest_down"))["reason"] == "it has used up its bytes"
    async with guest(node) as listener:
        await listener.subscribe()
        for _ in range(4):
            node.transport.tell_guests(bytes(30 * KIB))
        await gone(listener.said)
    assert (await node.until_logged("guest_down", 2))["reason"] == "it has used up its bytes"


async def test_who_does_not_read_is_shown_out(started):
    node = await started(GuestLimits(waiting=2))
    async with guest(node) as ann:
        await ann.subscribe()
        for _ in range(3):
            node.transport.tell_guests(b"x")
        await gone(ann.said)
    assert (await node.until_logged("guest_down"))["reason"] == "does not read what it is told"


async def test_a_guest_does_not_become_a_neighbour_on_its_connection(started):
    node = await started()
    async with guest(node) as ann:
        with suppress(BaseLibp2pError):
            await ann.host.new_stream(ID(victim_id(node)), [MESSAGES])
        await gone(ann.said)
    reason = "a messages stream of a guest"
    assert (await node.until_logged("guest_down"))["reason"] == f"broke the rules: {reason}"
    assert node.blamed() == [reason]
    assert node.has_told_the_core() == []


@pytest.mark.parametrize("junk", [b"\x05\xff\xff\xff\xff\xff", b"\x80\x80\x05", b"\xff" * 11])
async def test_what_is_no_gossip_ends_the_stream_or_the_visit(started, junk):
    node = await started()
    async with guest(node) as ann:
        await ann.said.write(junk)
        await gone(ann.said)
    assert node.has_told_the_core() == []


async def test_streams_of_a_guest_are_counted(started):
    node = await started(limits=Limits(streams_per_connection=6))
    async with guest(node) as ann:
        with suppress(BaseLibp2pError):
            for _ in range(7):
                await ann.host.new_stream(ID(victim_id(node)), [PING])
        await gone(ann.said)
    assert node.blamed() == ["more than 6 streams"]
