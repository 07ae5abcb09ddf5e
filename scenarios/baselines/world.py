"""What the baselines run in: virtual time, the devices' links, and an account of every byte.

Links are those of `node.virtual.links`, so that a byte takes as long as in the Gossamer run. The server, where there is
one, has a link without a limit and without latency: what is slow is always the device's own link. A message is its
payload and HEADER_BYTES, about what libp2p and a protocol's own fields would add.

In the baselines' favour: devices are there from the first moment to the last (`away` is Gossamer's alone), a server
computes in no time and never fails, and nobody joins, finds anybody, or proves anything.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from node.virtual.links import Link, Pipe, Port
from node.virtual.randomness import Draws
from scenarios.plan import Plan
from scenarios.virtual.devices import link_of

SERVER = -1
FLOAT_BYTES = 4
HEADER_BYTES = (
    134  # 34 a write and its length, as node.virtual.links has them, and 100 for the protocol's own fields
)
SERVER_LINK = Link(up_bit_s=math.inf, down_bit_s=math.inf, latency_s=0.0)

Then = Callable[[], None]


@dataclass(slots=True)
class Traffic:
    sent: int = 0
    received: int = 0


class World:
    """A heap of what happens when. Events of one moment happen in the order in which they were said."""

    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.hardware = plan.hardware
        self.traffic = [Traffic() for _ in plan.hardware]
        self._ports = [Port(link_of(table)) for table in plan.hardware] + [Port(SERVER_LINK)]
        self._pipes: dict[tuple[int, int], Pipe[int]] = {}
        self._heap: list[tuple[float, int, Then]] = []
        self._said = 0
        self._chance = Draws("baseline network", plan.seed)
        self._trace = sha256()

    @property
    def devices(self) -> int:
        return len(self.hardware)

    @property
    def trace_sha256(self) -> str:
        return self._trace.hexdigest()

    @property
    def events(self) -> int:
        return self._said - len(self._heap)

    @property
    def moved_bytes(self) -> int:
        """By all devices, sent plus received."""
        return sum(traffic.sent + traffic.received for traffic in self.traffic)

    def after(self, delay_s: float, then: Then) -> None:
        self._at(self.now + delay_s, then)

    def compute(self, device: int, steps: int, then: Then) -> None:
        """So many local steps take their time."""

        def done() -> None:
            self._note(device, "trained", 0)
            then()

        self.after(steps * self.hardware[device].step_s, done)

    def send(self, sender: int, receiver: int, payload_bytes: int, then: Then) -> float:
        """`then` when the whole message is in. When its last byte has left the sender is what is returned."""
        size = payload_bytes + HEADER_BYTES
        source, target = self._ports[sender], self._ports[receiver]
        left_at = source.leaves(size, self.now)
        pipe = self._pipes.setdefault((sender, receiver), Pipe(sender, receiver, (source.link, target.link)))
        arrives_at = pipe.arrives(left_at, size, self._chance)
        if sender != SERVER:
            self.traffic[sender].sent += size
            self._note(sender, "sent", size)

        def arrive() -> None:
            self._at(target.takes(size, source.link, self.now), taken)

        def taken() -> None:
            if receiver != SERVER:
                self.traffic[receiver].received += size
                self._note(receiver, "received", size)
            then()

        self._at(arrives_at, arrive)
        return left_at

    def step(self) -> bool:
        """The next event happens; False where there is none."""
        if not self._heap:
            return False
        self.now, _, then = heapq.heappop(self._heap)
        then()
        return True

    def _at(self, at_s: float, then: Then) -> None:
        self._said += 1
        heapq.heappush(self._heap, (at_s, self._said, then))

    def _note(self, device: int, event: str, size: int) -> None:
        self._trace.update(f"{self.now!r} {device} {event} {size}\n".encode())
