"""Events on their way to the core: never refused from our own machinery, bounded from every peer.

The core's task empties the mailbox many times a second, so it is nearly empty unless a peer sends faster than this
device can verify. Then the neighbours take turns, one event each: what is about one of them stays in its order, and nobody
waits behind all that another has sent. Every message may be lost anyway, so what a peer sends beyond its share is dropped and
the peer is shut out, for it breaks the protocol's pace.

What comes from this device itself (timers, the trainer, the disk, jobs) has no bound here: each such event answers an
action of the core, and the core has few of those under way. Neighbours come and go within the transport's own limits.
"""

from collections import deque
from dataclasses import dataclass

import trio  # noqa: TID251 - the drivers are trio's room

from gossip.events import Event, PeerDown, PeerUp, Received, SendFailed
from gossip.frames import Kind

PEER_MESSAGES = 2048  # of one neighbour, waiting for the core
PEER_BYTES = 32 << 20  # the same; two of the largest messages fit

_FRAME_OF_SIX = 0x96  # msgpack: gossip.frames.Frame is an array of six, the second its kind
_NAMES = {int(kind): kind.name for kind in Kind}


def kind_of(frame: bytes) -> str:
    """The name of a frame's kind, from its third byte; "UNKNOWN" for what is no frame. Nothing is verified."""
    if len(frame) > 2 and frame[0] == _FRAME_OF_SIX:
        return _NAMES.get(frame[2], "UNKNOWN")
    return "UNKNOWN"


@dataclass(slots=True)
class KindTraffic:
    """Bytes of one kind of message, without what libp2p adds."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class _Share:
    """What waits from one neighbour."""

    messages: int = 0
    bytes: int = 0


class Mailbox:
    """Where the transport (`node.net.libp2p.terms.Inbox`) and this device's own machinery report."""

    def __init__(self) -> None:
        self.by_kind: dict[str, KindTraffic] = {}  # at most one entry a kind, and UNKNOWN
        self.undelivered_bytes = 0  # of all messages that `send_failed` named
        self.overrun: dict[bytes, None] = {}  # neighbours to shut out; at most the transport's connections
        self._own: deque[Event] = deque()  # from this device itself, which comes first
        self._turns: dict[
            bytes, deque[Event]
        ] = {}  # by neighbour of whom something waits: the next one first
        self._count = 0
        self._shares: dict[bytes, _Share] = {}  # only of neighbours of whom something waits
        self._arrived = trio.Event()

    def __len__(self) -> int:
        return self._count

    def put(self, event: Event) -> None:
        self._own.append(event)
        self._count += 1
        self._arrived.set()

    def _put_for(self, peer: bytes, event: Event) -> None:
        self._turns.setdefault(peer, deque()).append(event)
        self._count += 1
        self._arrived.set()

    async def wait(self) -> None:
        """Until there is something to take; always a turn for other tasks."""
        if self._count or self.overrun:
            await trio.lowlevel.checkpoint()
        else:
            self._arrived = trio.Event()
            await self._arrived.wait()

    def take(self) -> Event:
        """IndexError where nothing waits."""
        if self._own:
            event = self._own.popleft()
        elif self._turns:
            peer = next(iter(self._turns))
            waiting = self._turns.pop(peer)
            event = waiting.popleft()
            if waiting:
                self._turns[peer] = waiting
        else:
            raise IndexError("nothing waits")
        self._count -= 1
        if isinstance(event, Received):
            self._give_back(event.peer, event.data)
        return event

    def traffic_of(self, data: bytes) -> KindTraffic:
        return self.by_kind.setdefault(kind_of(data), KindTraffic())

    # --- what the transport calls ---------------------------------------------------------------------------

    def received(self, peer: bytes, data: bytes) -> None:
        self._accept(peer, data, Received(peer, data))

    def peer_up(self, peer: bytes) -> None:
        self._put_for(peer, PeerUp(peer))

    def peer_down(self, peer: bytes, reason: str) -> None:
        self._put_for(peer, PeerDown(peer, reason))

    def send_failed(self, peer: bytes, data: bytes, reason: str) -> None:
        self.undelivered_bytes += len(data)
        self.traffic_of(data).sent -= len(data)
        self._put_for(peer, SendFailed(peer, data, reason))

    # --- a neighbour's share ----------------------------------------------------------------------------------

    def _accept(self, peer: bytes, data: bytes, event: Received) -> None:
        self.traffic_of(data).received += len(data)
        share = self._shares.setdefault(peer, _Share())
        if share.messages >= PEER_MESSAGES or share.bytes + len(data) > PEER_BYTES:
            self.overrun[peer] = None
            self._arrived.set()
            return
        share.messages += 1
        share.bytes += len(data)
        self._put_for(peer, event)

    def _give_back(self, peer: bytes, data: bytes) -> None:
        share = self._shares[peer]
        share.messages -= 1
        share.bytes -= len(data)
        if not share.messages:
            del self._shares[peer]
