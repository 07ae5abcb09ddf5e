"""Announcements: libp2p's gossipsub on one topic, with a guard at each of its faults."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import cast

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from gossip.errors import PeerViolation
from node.net.libp2p.host import Host, Yamux
from node.net.libp2p.link import Link
from node.net.libp2p.names import key_of
from node.net.libp2p.terms import ANNOUNCEMENT_BYTES, Limits, Log, Traffic

ANNOUNCEMENTS_WAITING = 256  # for gossipsub, and in its queue for one neighbour
CONTROL_IDS = 1024  # taken from one frame of gossipsub's control messages
SUBSCRIPTIONS_READ = 8  # of those in one frame, though there is only one topic


class Router(GossipSub):
    """Gossipsub's mesh of a single topic."""

    def __init__(self, topic: str, host: Host, heard: Callable[[bytes, bytes], None], log: Log) -> None:
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
            self._heard(key_of(msg_forwarder), pubsub_msg.data)
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


class Gossip(Pubsub):
    """Gossipsub's streams and its seen messages. Peers come and go by `join` and `part` alone."""

    def __init__(self, host: Host, router: Router, topic: str, limits: Limits, traffic: Traffic) -> None:
        super().__init__(host, router, strict_signing=True, allowed_topics={topic})
        self._topic = topic
        self._links = host.links
        self._limits = limits
        self._traffic = traffic
        # libp2p 0.8.1: counts on from the second of its start, so that after a restart its ids may be known
        # already.
        self.counter = secrets.randbits(62)

    async def join(self, link: Link) -> None:
        """Open our stream to a new neighbour, and try again while the link is up."""
        await self.ensure_peer_stream(link.id, math.inf)

    def part(self, link: Link) -> None:
        self._handle_dead_peer(link.id)

    def _peer_is_connected(self, peer_id: ID) -> bool:
        return peer_id in self._links

    async def stream_handler(self, stream: INetStream) -> None:
        # libp2p 0.8.1: ends the host by what is no protobuf, makes a task of every message and three of every
        # subscription in a frame, and stores each sender's signed record.
        if (link := cast(Yamux, stream.muxed_conn).link) is None:
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

    async def _hear(self, link: Link, message: rpc_pb2.Message) -> None:
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
        What is heard comes from `Router.publish`.
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
