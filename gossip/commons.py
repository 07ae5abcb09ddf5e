"""What devices of one process share: the same bytes are one object, judged once. Only a simulation has such a process.

Judging an aggregate and folding a history are pure functions, so a result that another device had is this device's own.
It is handed to each core by whoever runs them; a daemon has none, and a core without one does everything itself.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from crypto.hashing import digest
from gossip.aggregate import Aggregate, Verified
from gossip.fold import Replica
from gossip.layout import Integers, Layout
from gossip.manifest import Manifest
from gossip.membership import census_hash
from gossip.messages import opened_again

AGGREGATES_KEPT = 4096
INCREMENTS_KEPT = 64  # as long as the model, each; more of a small model:
INCREMENTS_BYTES = 1 << 26  # a round of many sums reaches devices in as many orders

FRAMES_KEPT = 8  # opened, a device: its presence, and what it says in a moment
K = TypeVar("K")
V = TypeVar("V")


class Commons:
    """Bounded: what was asked for least lately goes."""

    def __init__(self, devices: int) -> None:
        """Of so many. What they hear alike is opened once, so it is one object for all of them."""
        opened_again.widen(FRAMES_KEPT * devices)
        census_hash.widen(2 * devices)
        self._verified: dict[bytes, Verified] = {}  # by the hash of the encoding
        self._encoded: dict[bytes, bytes] = {}  # by id
        self._increments: dict[
            tuple[int, tuple[bytes, ...]], Integers
        ] = {}  # by round and the ids that count

    def open(self, encoded: bytes, make: Callable[[bytes], Verified]) -> Verified:
        """What `make` makes of these bytes, and raises; once made, not again."""
        return _recall(self._verified, digest("encoded", encoded), lambda: make(encoded), AGGREGATES_KEPT)

    def encoded(self, known: Verified, make: Callable[[Aggregate], bytes]) -> bytes:
        return _recall(self._encoded, known.id, lambda: make(known.aggregate), AGGREGATES_KEPT)

    def replica(self, manifest: Manifest, layout: Layout, initial: Integers) -> Replica:
        return _SharedReplica(self._increments, manifest, layout, initial)


class _SharedReplica(Replica):
    """Of one swarm's devices: what a round adds is computed by the first of them."""

    def __init__(
        self,
        increments: dict[tuple[int, tuple[bytes, ...]], Integers],
        manifest: Manifest,
        layout: Layout,
        initial: Integers,
    ) -> None:
        super().__init__(manifest, layout, initial)
        self._shared = increments

    def _increment(self, round_: int, aggregates: Sequence[Verified]) -> Integers:
        key = (round_, tuple(each.id for each in aggregates))
        own = super()._increment
        most = max(INCREMENTS_KEPT, INCREMENTS_BYTES // self.x.nbytes)
        return _recall(self._shared, key, lambda: own(round_, aggregates), most)


def _recall(kept: dict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    value = kept.pop(key, None)
    if value is None:
        value = make()
        if len(kept) >= most:
            del kept[next(iter(kept))]
    kept[key] = value
    return value
