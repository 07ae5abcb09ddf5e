"""One connection to one peer: what the transport knows of it."""

# ruff: noqa: TID251 - touches libp2p; the drivers are trio's room

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from libp2p.network.connection.swarm_connection import SwarmConn

from node.net.framing import Outbox
from node.net.libp2p.host import Yamux
from node.net.libp2p.names import key_of
from node.net.libp2p.terms import Limits

if TYPE_CHECKING:
    from node.net.libp2p.guests import Visit


class Link:
    """One connection to one peer, from its handshake to its end."""

    def __init__(self, conn: SwarmConn, limits: Limits, now: float) -> None:
        muxed = cast(Yamux, conn.muxed_conn)
        self.conn = conn
        self.id = muxed.peer_id
        self.peer = key_of(muxed.peer_id)
        self.name = muxed.peer_id.to_base58()
        self.socket = muxed.socket
        self.address = self.socket.address
        self.relayed = self.socket.relayed
        self.punches = 0
        self.heir: Link | None = None  # the direct one that took its place
        self.predecessor: Link | None = None  # whose place it took
        self.said = trio.Event()  # all that this one will say
        self.heard = trio.Event()  # all that it will hear
        self.born = now
        self.inbound = trio.Event()  # the peer has opened its messages stream
        self.up = trio.Event()  # and we have opened ours
        self.visit: Visit | None = None  # a guest's
        self.settled = trio.Event()  # that it is a neighbour, or a guest
        self.ended = trio.Event()
        self.reason = ""
        self.scope = trio.CancelScope()
        self.talks = 0  # with a stranger that wants to join
        self.outbox = Outbox(limits.queue_messages, limits.queue_bytes)
        self.wake = trio.Event()
        self._limits = limits
        self._messages = float(limits.messages_burst)
        self._counted = now

    def close(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.scope.cancel()
        self.socket.abort()

    def put(self, message: bytes) -> str:
        self.wake.set()
        return self.outbox.put(message)

    def pause_s(self, messages: int, now: float) -> float:
        """How long not to read from this neighbour after so many messages: its connection holds back the rest."""
        earned = (now - self._counted) * self._limits.messages_per_s
        self._messages = min(self._messages + earned, self._limits.messages_burst) - messages
        self._counted = now
        return max(0.0, -self._messages / self._limits.messages_per_s)
