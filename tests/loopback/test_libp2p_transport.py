"""Real libp2p hosts on 127.0.0.1, all in this process: what neighbours can rely on."""

import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from crypto.identity import Identity, peer_id
from gossip.errors import MisuseError
from gossip.manifest import MANIFEST_BYTES
from node.net.libp2p.terms import ANNOUNCEMENT_BYTES, UNACKED_S, Limits, PortInUse, Unreachable
from node.net.libp2p.transport import Libp2pTransport
from node.net.libp2p.visits import fetch_manifest
from node.virtual import swarm as virtual_swarm
from tests.diary import Diary

SWARM = b"\x11" * 32
MANIFEST = b"the manifest".ljust(MANIFEST_BYTES, b".")  # of a swarm that lists as many members as one may


class Node:
    def __init__(self, seed: int, *, listen=("/ip4/127.0.0.1/tcp/0",), swarm=SWARM, limits=None) -> None:
        identity = Identity(bytes([seed]) * 32)
        self.key = identity.public_key
        self.diary = Diary()
        self.transport = Libp2pTransport(
            identity_seed=identity.seed,
            swarm=swarm,
            listen=listen,
            limits=limits or Limits(),
            inbox=self.diary,
            manifest=lambda: MANIFEST,
            log=self.diary.log,
        )
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def live(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._scope:
                await self.transport.run(task_status=task_status)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    @property
    def addresses(self) -> list[str]:
        return self.transport.addresses

    def is_up(self, other: "Node") -> bool:
        return other.key in dict(self.transport.peers)


@pytest.fixture
def two_seeds() -> tuple[int, int]:
    """Of the device with the lower key, which chooses connections, and of the one with the higher key."""
    lower, higher = sorted((1, 2), key=lambda seed: Identity(bytes([seed]) * 32).public_key)
    return lower, higher


async def started(nursery: trio.Nursery, *nodes: Node) -> None:
    for node in nodes:
        await nursery.start(node.live)


async def connected(dialler: Node, other: Node, addresses: list[str] | None = None) -> None:
    dialler.transport.dial(other.key, addresses or other.addresses)
    await dialler.diary.until(lambda: dialler.is_up(other))
    await other.diary.until(lambda: other.is_up(dialler))


@asynccontextmanager
async def tap(node: Node, *, bytes_per_s: float = float("inf")) -> AsyncIterator[tuple[list[str], Counter]]:
    """A relay before a node's port, which counts what passes `in` and `out`, and can be slow."""
    passed: Counter[str] = Counter()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream, way: str) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in source:
                passed[way] += len(chunk)
                await trio.sleep(len(chunk) / bytes_per_s)
                await sink.send_all(chunk)
            await sink.send_eof()

    async def relay(caller: trio.SocketStream) -> None:
        port = int(node.addresses[0].split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as callee, trio.open_nursery() as nursery:
            nursery.start_soon(pump, caller, callee, "in")
            nursery.start_soon(pump, callee, caller, "out")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, relay, 0)
        yield [f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}"], passed
        nursery.cancel_scope.cancel()


async def test_messages_of_every_size_arrive_whole_and_in_order_in_both_directions(nursery):
    ann, bob = Node(1), Node(2)
    await started(nursery, ann, bob)
    await connected(ann, bob)
    sizes = [0, 1, 200, 65502, 65503, 65504, 65507, 65508, 0, 1 << 20, 3, 4 << 20, 5]
    to_bob = [bytes([number]) * size for number, size in enumerate(sizes)]
    to_ann = [message[::-1] + b"!" for message in to_bob]
    for there, back in zip(to_bob, to_ann, strict=True):
        ann.transport.send(bob.key, there)
        bob.transport.send(ann.key, back)
    await bob.diary.until(lambda: len(bob.diary.of("received")) == len(to_bob))
    await ann.diary.until(lambda: len(ann.diary.of("received")) == len(to_ann))
    assert bob.diary.of("received") == [(ann.key, message) for message in to_bob]
    assert ann.diary.of("received") == [(bob.key, message) for message in to_ann]
    assert ann.diary.of("up") == [(bob.key,)]
    assert bob.diary.of("up") == [(ann.key,)]


async def test_a_long_conversation_in_small_words_does_not_use_up_the_window(nursery):
    ann, bob = Node(1), Node(2)
    await started(nursery, ann, bob)
    await connected(ann, bob)
    for spoken in range(1, 400):
        ann.transport.send(bob.key, bytes(1000))
        await bob.diary.until(lambda spoken=spoken: len(bob.diary.of("received")) == spoken)


async def test_a_node_that_listens_everywhere_names_addresses_that_others_can_use(nursery):
    everywhere = Node(1, listen=["/ip4/0.0.0.0/tcp/0", "/ip6/::1/tcp/0"])
    await started(nursery, everywhere)
    assert not any("0.0.0.0" in address or "/tcp/0" in address for address in everywhere.addresses)
    by_ip6 = [address for address in everywhere.addresses if address.startswith("/ip6/::1/")]
    caller = Node(2)
    await started(nursery, caller)
    await connected(caller, everywhere, by_ip6)
    assert caller.transport.peers == [(everywhere.key, by_ip6[0].partition("/p2p/")[0])]
    assert everywhere.transport.peers[0][1].startswith("/ip6/::1/tcp/")


async def test_dialling_each_other_at_once_ends_in_one_working_connection(nursery):
    for seed in range(1, 17, 2):
        ann, bob = Node(seed), Node(seed + 1)
        await started(nursery, ann, bob)
        ann.transport.dial(bob.key, bob.addresses)
        bob.transport.dial(ann.key, ann.addresses)
        await ann.diary.until(lambda ann=ann, bob=bob: ann.is_up(bob))
        await bob.diary.until(lambda ann=ann, bob=bob: bob.is_up(ann))
        ann.transport.send(bob.key, b"there")
        bob.transport.send(ann.key, b"back")
        await bob.diary.until(lambda bob=bob: len(bob.diary.of("received")) == 1)
        await ann.diary.until(lambda ann=ann: len(ann.diary.of("received")) == 1)
        assert ann.diary.of("down") == bob.diary.of("down") == []
        assert ann.diary.of("up") == [(bob.key,)]
        assert bob.diary.of("up") == [(ann.key,)]
        [(_, at_ann)], [(_, at_bob)] = ann.transport.peers, bob.transport.peers
        assert at_ann in bob.addresses[0] or at_bob in ann.addresses[0]


@pytest.mark.parametrize("chooser_dials", [True, False])
async def test_a_neighbour_that_stops_is_reported_at_once_and_met_again_at_once(
    nursery, two_seeds, chooser_dials
):
    lower, higher = two_seeds
    stays_seed, leaves_seed = (lower, higher) if chooser_dials else (higher, lower)
    stays, leaves = Node(stays_seed), Node(leaves_seed)
    await started(nursery, stays, leaves)
    await connected(stays, leaves)
    port = leaves.addresses[0].split("/")[4]
    await leaves.stop()
    with trio.fail_after(1):
        await stays.diary.until(lambda: stays.diary.of("down") == [(leaves.key, "connection lost")])
    stays.transport.dial(leaves.key, [f"/ip4/127.0.0.1/tcp/{port}"])
    await stays.diary.until(lambda: len(stays.diary.of("down")) == 2)
    assert stays.diary.of("down")[1][1].startswith("could not connect: ")

    again = Node(leaves_seed, listen=[f"/ip4/127.0.0.1/tcp/{port}"])
    await started(nursery, again)
    await connected(stays, again)
    await again.stop()
    await stays.diary.until(lambda: not stays.is_up(again))

    third = Node(leaves_seed)
    await started(nursery, third)
    await connected(third, stays)
    third.transport.send(stays.key, b"hello again")
    await stays.diary.until(lambda: stays.diary.of("received") == [(third.key, b"hello again")])


async def test_a_connection_that_only_the_other_side_lost_is_replaced(nursery, two_seeds, monkeypatch):
    monkeypatch.setattr("node.net.libp2p.transport.SIMULTANEOUS_S", 0.0)
    for stays_seed, lost_seed in (two_seeds, two_seeds[::-1]):
        stays, lost = Node(stays_seed), Node(lost_seed)
        await started(nursery, stays, lost)
        await connected(stays, lost)
        twin = Node(lost_seed)  # the same device after a power failure, of which no packet told
        await started(nursery, twin)
        await connected(twin, stays)
        twin.transport.send(stays.key, b"it is me")
        await stays.diary.until(lambda stays=stays: len(stays.diary.of("received")) == 1)
        told = [entry for entry in stays.diary.entries if entry[0] in ("up", "down")]
        assert told == [
            ("up", lost.key),
            ("down", lost.key, "replaced by a newer connection"),
            ("up", lost.key),
        ]
        await lost.stop()


async def test_a_second_connection_at_the_same_time_is_refused_by_the_one_who_chooses(nursery, two_seeds):
    chooser, other = (Node(seed) for seed in two_seeds)
    await started(nursery, chooser, other)
    await connected(other, chooser)
    twin = Node(two_seeds[1])  # as good as a second dial of the same device
    await started(nursery, twin)
    twin.transport.dial(chooser.key, chooser.addresses)
    await twin.diary.until(lambda: len(twin.diary.of("down")) == 1)
    chooser.transport.send(other.key, b"still here")
    await other.diary.until(lambda: other.diary.of("received") == [(chooser.key, b"still here")])
    assert chooser.diary.of("down") == other.diary.of("down") == twin.diary.of("up") == []


async def test_a_node_of_another_swarm_is_refused_with_the_reason_and_logged_once(nursery):
    ours, theirs = Node(1), Node(2, swarm=b"\x22" * 32)
    await started(nursery, ours, theirs)
    for attempt in (1, 2):
        ours.transport.dial(theirs.key, theirs.addresses)
        await ours.diary.until(lambda attempt=attempt: len(ours.diary.of("down")) == attempt)
    reason = f"could not connect: {theirs.addresses[0]}: belongs to another swarm"
    assert ours.diary.of("down") == [(theirs.key, reason)] * 2
    for node in (ours, theirs):
        refusals = [fields for event, fields in node.diary.of("log") if event == "peer_refused"]
        assert [fields["reason"] for fields in refusals] == ["belongs to another swarm"]
        assert node.diary.of("up") == []
    assert theirs.diary.of("down") == []


async def test_a_dial_tries_every_address_and_says_what_was_wrong_with_each(nursery):
    ann, bob, eve = Node(1), Node(2), Node(3)
    await started(nursery, ann, bob, eve)
    port_of_eve = eve.addresses[0].split("/")[4]
    bad = [
        "nonsense",
        "/ip4/127.0.0.1/udp/4001/quic-v1",
        "/ip4/127.0.0.1/tcp/1",
        f"/ip4/127.0.0.1/tcp/{port_of_eve}",
        eve.addresses[0],
    ]
    ann.transport.dial(bob.key, bad)
    ann.transport.dial(bob.key, bad)  # one attempt at a time
    await ann.diary.until(lambda: len(ann.diary.of("down")) == 1)
    reason = ann.diary.of("down")[0][1]
    assert "udp/4001/quic-v1: not of the form" in reason
    assert "/ip4/127.0.0.1/tcp/1: Connection refused" in reason
    assert f"/tcp/{port_of_eve}: another device answers there" in reason
    assert f"{eve.addresses[0]}: this address names another device" in reason
    ann.transport.dial(bob.key, [*bad, *bob.addresses])
    await ann.diary.until(lambda: ann.is_up(bob))
    assert len(ann.diary.of("down")) == 1


async def test_a_dial_that_nobody_answers_ends_in_time(nursery):
    ann = Node(1, limits=Limits(dial_s=0.3))
    await started(nursery, ann)
    async with silent_port() as address:
        ann.transport.dial(Node(2).key, [address])
        with trio.fail_after(2):
            await ann.diary.until(lambda: len(ann.diary.of("down")) == 1)
    assert "no answer within 0.3 s" in ann.diary.of("down")[0][1]


async def test_a_message_that_cannot_be_delivered_comes_back(nursery):
    ann, bob = Node(1, limits=Limits(message_bytes=1000, queue_bytes=2500, queue_messages=5)), Node(2)
    ann.transport.send(bob.key, b"too early")
    await started(nursery, ann, bob)
    await connected(ann, bob)
    for _ in range(6):
        ann.transport.send(bob.key, b"small")
    await bob.diary.until(lambda: len(bob.diary.of("received")) == 5)
    for _ in range(3):
        ann.transport.send(bob.key, b"l" * 1000)
    ann.transport.disconnect(bob.key, "enough")
    await ann.diary.until(lambda: len(ann.diary.of("down")) == 1)
    assert ann.diary.of("failed") == [
        (bob.key, b"too early", "not connected"),
        (bob.key, b"small", "5 messages are already waiting"),
        (bob.key, b"l" * 1000, "2000 bytes are already waiting"),
        (bob.key, b"l" * 1000, "enough"),
        (bob.key, b"l" * 1000, "enough"),
    ]
    assert ann.diary.of("down") == [(bob.key, "enough")]


async def test_a_slow_neighbour_gets_everything_that_it_has_time_for(nursery):
    ann, bob = Node(1), Node(2)
    await started(nursery, ann, bob)
    async with tap(bob, bytes_per_s=2e6) as (addresses, _):
        await connected(ann, bob, addresses)
        message = os.urandom(2 << 20)
        ann.transport.send(bob.key, message)
        ann.transport.send(bob.key, b"and then")
        await bob.diary.until(lambda: len(bob.diary.of("received")) == 2)
        assert bob.diary.of("received") == [(ann.key, message), (ann.key, b"and then")]
        assert ann.diary.of("failed") == ann.diary.of("down") == []


async def test_a_neighbour_too_slow_for_a_message_is_given_up(nursery):
    ann, bob = Node(1, limits=Limits(handshake_s=1.0, slowest_bytes_per_s=10 << 20)), Node(2)
    await started(nursery, ann, bob)
    async with tap(bob, bytes_per_s=1e5) as (addresses, _):
        await connected(ann, bob, addresses)
        message = bytes(4 << 20)
        ann.transport.send(bob.key, message)
        await ann.diary.until(lambda: len(ann.diary.of("down")) == 1)
        assert ann.diary.of("failed") == [(bob.key, message, "too slow")]


async def test_counters_agree_with_the_wire_and_with_the_payloads(nursery):
    ann, bob = Node(1), Node(2)
    await started(nursery, ann, bob)
    async with tap(bob) as (addresses, passed):
        await connected(ann, bob, addresses)
        for size in (10, 1000, 300_000):
            ann.transport.send(bob.key, bytes(size))
            bob.transport.send(ann.key, bytes(2 * size))
        await bob.diary.until(lambda: len(bob.diary.of("received")) == 3)
        await ann.diary.until(lambda: len(ann.diary.of("received")) == 3)
        ann.transport.disconnect(bob.key, "counted")
        await bob.diary.until(lambda: len(bob.diary.of("down")) == 1)
    at_ann, at_bob = ann.transport.traffic(), bob.transport.traffic()
    assert at_ann.messages_sent == at_bob.messages_received == 301_010
    assert at_bob.messages_sent == at_ann.messages_received == 602_020
    assert at_ann.socket_sent == passed["in"] == at_bob.socket_received
    # What bob wrote while ann was leaving reached nobody.
    assert at_ann.socket_received <= passed["out"] <= at_bob.socket_sent <= at_ann.socket_received + 500
    assert 301_010 < at_ann.socket_sent < 301_010 + 3000


async def test_a_port_in_use_is_named_with_what_to_do(nursery):
    ann = Node(1)
    await started(nursery, ann)
    port = int(ann.addresses[0].split("/")[4])
    late = Node(2, listen=["/ip4/127.0.0.1/tcp/0", f"/ip4/127.0.0.1/tcp/{port}"])
    with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use; stop the program") as caught:
        await late.transport.run()
    assert caught.value.port == port


async def test_the_manifest_is_told_to_devices_without_a_swarm(nursery):
    ann = Node(1)
    await started(nursery, ann)
    newcomer = bytes([9]) * 32
    assert await fetch_manifest(ann.addresses[0], identity_seed=newcomer, timeout_s=5) == (ann.key, MANIFEST)
    bare, _, right = ann.addresses[0].rpartition("/p2p/")
    wrong = f"{bare}/p2p/{peer_id(Node(2).key)}"
    async with silent_port() as silent:
        for address, complaint in (
            (bare, "must end in /p2p/"),
            (f"/ip4/127.0.0.1/tcp/1/p2p/{right}", "Connection refused"),
            (wrong, "another device answers there"),
            (f"{silent}/p2p/{right}", r"no answer within 0\.3 s"),
            ("nonsense", "nonsense: "),
        ):
            with pytest.raises(Unreachable, match=complaint):
                await fetch_manifest(address, identity_seed=newcomer, timeout_s=0.3)
    assert ann.diary.of("up") == ann.diary.of("down") == []


async def test_misuse_is_refused_before_anything_happens():
    ann = Node(1, limits=Limits(message_bytes=1000))
    with pytest.raises(MisuseError, match="1001 bytes"):
        ann.transport.send(Node(2).key, bytes(1001))
    with pytest.raises(MisuseError, match="announcement of 65537 bytes"):
        ann.transport.tell_guests(bytes(ANNOUNCEMENT_BYTES + 1))
    with pytest.raises(MisuseError, match="does not dial itself"):
        ann.transport.dial(ann.key, [])
    ann.transport.dial(Node(2).key, [])
    assert ann.diary.of("down") == [(Node(2).key, "could not connect: the transport is not running")]


async def test_a_stopped_node_leaves_no_socket_and_no_thread_behind(nursery):
    def held() -> tuple[int, int]:
        sockets = [name for name in open_files() if name.startswith("socket:")]
        return len(sockets), sum("cleanup" in thread.name for thread in threading.enumerate())

    before = held()
    nodes = [Node(seed) for seed in (1, 2, 3)]
    await started(nursery, *nodes)
    await connected(nodes[0], nodes[1])
    await connected(nodes[1], nodes[2])
    await connected(nodes[2], nodes[0])
    assert held() > before
    for node in nodes:
        with trio.fail_after(1):
            await node.stop()
    assert held() == before


def open_files() -> Iterator[str]:
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            yield str(number.readlink())


@asynccontextmanager
async def silent_port() -> AsyncIterator[str]:
    """Somebody who accepts and never says a word."""

    async def accept(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, accept, 0)
        yield f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_what_comes_from_an_address_that_is_gone_is_ended(nursery):
    one, other = Node(1), Node(2)
    await started(nursery, one, other)
    await connected(one, other)
    one.transport.leave({"192.0.2.1"})
    assert one.is_up(other)
    one.transport.leave({"127.0.0.1"})
    await one.diary.until(lambda: not one.is_up(other))
    assert one.diary.of("down")[-1][1] == "this device has another address now"
    await other.diary.until(lambda: not other.is_up(one))
    assert one.transport.addresses_now() == one.transport.addresses


async def test_a_connection_that_ends_as_it_comes_up_is_told_of_once(nursery):
    one, other = Node(1), Node(2)
    await started(nursery, one, other)
    noted = one.diary.peer_up

    def peer_up(peer: bytes) -> None:
        noted(peer)
        one.transport.disconnect(peer, "enough")

    one.diary.peer_up = peer_up
    one.transport.dial(other.key, other.addresses)
    await one.diary.until(lambda: one.diary.of("down"))
    await trio.sleep(0.2)  # for a dial that would say more
    assert one.diary.of("up") == [(other.key,)]
    assert one.diary.of("down") == [(other.key, "enough")]
    one.diary.peer_up = noted
    await connected(one, other)


async def test_a_neighbour_that_comes_up_before_its_dial_has_begun_is_up(nursery, monkeypatch):
    one, other = Node(1), Node(2)
    await started(nursery, one, other)
    welcome = Libp2pTransport._welcome

    def as_both_happen(transport, link):
        transport.dial(link.peer, ["/ip4/127.0.0.1/tcp/9"])
        welcome(transport, link)

    monkeypatch.setattr(Libp2pTransport, "_welcome", as_both_happen)
    await connected(one, other)
    await trio.sleep(0.2)  # for a dial that would say more
    assert (one.diary.of("up"), one.diary.of("down")) == ([(other.key,)], [])
    assert (other.diary.of("up"), other.diary.of("down")) == ([(one.key,)], [])


async def test_a_connection_that_acknowledges_nothing_is_given_up_by_the_system(nursery):
    if not hasattr(trio.socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this system does not know TCP_USER_TIMEOUT")
    one, other = Node(1), Node(2)
    await started(nursery, one, other)
    await connected(one, other)
    for node in (one, other):
        for link in node.transport._links.values():
            socket = link.socket._stream.socket
            timeout_ms = socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT)
            assert timeout_ms == 1000 * UNACKED_S
    assert UNACKED_S == virtual_swarm.UNACKED_S, "virtual time is to be alike"


async def test_a_neighbour_that_sends_too_much_waits_and_nobody_else_does(nursery):
    ann, eve, bob = Node(1, limits=Limits(messages_per_s=100, messages_burst=50)), Node(2), Node(3)
    await started(nursery, ann, eve, bob)
    await connected(eve, ann)
    await connected(bob, ann)
    began = trio.current_time()
    for _ in range(250):
        eve.transport.send(ann.key, b"again")
    bob.transport.send(ann.key, b"hello")
    await ann.diary.until(lambda: (bob.key, b"hello") in ann.diary.of("received"))
    assert ann.diary.of("received").count((eve.key, b"again")) < 250
    await ann.diary.until(lambda: ann.diary.of("received").count((eve.key, b"again")) == 250)
    assert trio.current_time() - began > (250 - 50 - 64) / 100
    assert not ann.diary.of("down")
