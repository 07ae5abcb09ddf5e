"""Strangers that may listen: who is a guest of this device, for how long, and what it can take meanwhile.

Without `network.public` there are no guests: whoever does not speak the swarm's protocol is cut off. With it, such a caller may
stay as a *guest*, and do three things, all of them libp2p's own, so that any libp2p node can:

    /ipfs/id/1.0.0      ask who this device is       (identify)
    /ipfs/ping/1.0.0    have its bytes sent back     (ping)
    /meshsub/1.1.0      subscribe to one topic, on which it hears what this device says in public (`gossip.public`)

A guest is no peer: the core never hears of it, it is not in the swarm's gossip, is never asked for anything, and what it
publishes is read and dropped. This device is not subscribed to that topic itself; it speaks to its own guests alone, as a
publisher does that is outside a topic's mesh ("fanout" in gossipsub's specification). So one device's guests cost the others nothing.

Places are few, and fewer for one host. A visit ends with its time or with its bytes, all of them counted at the socket,
handshake aside; whoever does not read what it is told is shown out. Guests take places among the callers of `Limits`.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio  # noqa: TID251 - the drivers are trio's room

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class GuestLimits:
    """What strangers can take together, and each of them in one visit."""

    guests: int = 8
    per_host: int = 4  # from one IP address
    visit_s: float = 3600.0
    visit_bytes: int = 4 * MIB  # in both directions
    frame_bytes: int = 64 * KIB  # of one frame of gossipsub's; js-libp2p's are far smaller
    waiting: int = 32  # announcements for one guest


@dataclass(eq=False)
class Visit:
    """A guest's stay."""

    host: str
    limits: GuestLimits
    subscribed: bool = False
    _waiting: deque[bytes] = field(default_factory=deque)
    _wake: trio.Event = field(default_factory=trio.Event)

    def tell(self, announcement: bytes) -> bool:
        """Whether there was room for it."""
        if len(self._waiting) >= self.limits.waiting:
            return False
        self._waiting.append(announcement)
        self._wake.set()
        return True

    async def next(self) -> bytes:
        while not self._waiting:
            self._wake = trio.Event()
            await self._wake.wait()
        return self._waiting.popleft()


def has_place(host: str, limits: GuestLimits, visits: Iterable[Visit]) -> bool:
    hosts = [visit.host for visit in visits]
    return len(hosts) < limits.guests and hosts.count(host) < limits.per_host
