"""What the simulator adds to messages (`node.virtual.links`) is what two transports really put on the wire."""

from itertools import combinations

import pytest
import trio

from crypto.identity import Identity
from node.net.framing import LENGTH_BYTES
from node.net.libp2p.terms import Limits
from node.net.libp2p.transport import Libp2pTransport
from node.virtual.links import CONNECTION_BYTES, WRITE_BYTES, Link, Pipe

LOOK_S = 0.1
REST_S = 1.5  # longer than until the first ping
PATIENCE_S = 30.0


class Deaf:
    """An inbox for whom what comes in does not matter."""

    def received(self, peer: bytes, data: bytes) -> None: ...
    def peer_up(self, peer: bytes) -> None: ...
    def peer_down(self, peer: bytes, reason: str) -> None: ...
    def send_failed(self, peer: bytes, data: bytes, reason: str) -> None: ...


class Node:
    def __init__(self, seed: int) -> None:
        identity = Identity(bytes([seed]) * 32)
        self.key = identity.public_key
        self.transport = Libp2pTransport(
            identity_seed=identity.seed,
            swarm=b"\x11" * 32,
            listen=("/ip4/127.0.0.1/tcp/0",),
            limits=Limits(),
            inbox=Deaf(),
            manifest=lambda: b"",
            log=lambda _event, _fields: None,
        )

    def is_up(self, other: "Node") -> bool:
        return other.key in dict(self.transport.peers)


async def connected(nursery: trio.Nursery, *nodes: Node) -> None:
    """All with all."""
    for node in nodes:
        await nursery.start(node.transport.run)
    for one, other in combinations(nodes, 2):
        one.transport.dial(other.key, other.transport.addresses)
        with trio.fail_after(PATIENCE_S):
            while not (one.is_up(other) and other.is_up(one)):  # noqa: ASYNC110 - the inbox is deaf
                await trio.sleep(LOOK_S / 10)


def sent(*nodes: Node) -> list[int]:
    return [node.transport.traffic().socket_sent for node in nodes]


async def rest(*nodes: Node) -> list[int]:
    """What they have sent, once nobody has sent anything for REST_S."""
    before, since = sent(*nodes), trio.current_time()
    with trio.fail_after(PATIENCE_S):
        while trio.current_time() < since + REST_S:
            await trio.sleep(LOOK_S)
            if sent(*nodes) != before:
                before, since = sent(*nodes), trio.current_time()
    return before


async def test_a_connection_costs_what_the_model_says(nursery):
    ann, bob = Node(1), Node(2)
    await connected(nursery, ann, bob)
    both = sum(await rest(ann, bob))
    assert both == pytest.approx(2 * CONNECTION_BYTES, abs=8)


async def test_messages_cost_what_the_model_says(nursery):
    ann, bob = Node(1), Node(2)
    await connected(nursery, ann, bob)
    pipe = Pipe(0, 1, (Link(), Link()))
    for number, sizes in enumerate([(100,), (100, 200, 300), (150_000,)]):
        [before, _] = await rest(ann, bob)
        for size in sizes:
            ann.transport.send(bob.key, bytes(size))
        [after, _] = await rest(ann, bob)
        assert after - before == sum(pipe.size_of(size, float(number)) for size in sizes), sizes


async def test_small_messages_cost_their_receiver_nothing(nursery):
    ann, bob = Node(1), Node(2)
    await connected(nursery, ann, bob)
    [before_ann, before_bob] = await rest(ann, bob)
    for _ in range(20):
        ann.transport.send(bob.key, bytes(1000))
        await trio.lowlevel.checkpoint()
    [after_ann, after_bob] = await rest(ann, bob)
    assert after_bob == before_bob
    assert after_ann - before_ann <= 20 * (1000 + LENGTH_BYTES + WRITE_BYTES)
