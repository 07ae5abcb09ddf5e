"""What devices of one process share: the same bytes are one object, judged once. Only a simulation has such a process.

Judging an aggregate and folding a history are pure functions, so a result that another device had is this device's own.
It is handed to each core by whoever runs them; a daemon has none, and a core without one does everything itself.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gossip.codec.blocks import Integers, Layout
from gossip.events import Floats
from gossip.frames import opened_again
from gossip.history.aggregate import Aggregate, Verified
from gossip.history.fold import Replica, State
from gossip.manifest import Manifest
from gossip.membership.census import census_hash

AGGREGATES_KEPT = 4096
FOLDS_KEPT = 64  # of each kind; each is as long as the model, so more of a small one:
FOLDS_BYTES = 1 << 26  # a round of many sums reaches devices in as many orders

FRAMES_KEPT = 8  # opened, a device: its presence, and what it says in a moment
K = TypeVar("K")
V = TypeVar("V")


class Commons:
    """Bounded: what was asked for least lately goes."""

    def __init__(self, devices: int) -> None:
        """Of so many. What they hear alike is opened once, so it is one object for all of them."""
        opened_again.widen(FRAMES_KEPT * devices)
        census_hash.widen(2 * devices)
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()  # by the encoding
        self._encoded: OrderedDict[bytes, bytes] = OrderedDict()  # by id
        self._folds = _Folds()

    def open(self, encoded: bytes, make: Callable[[bytes], Verified]) -> Verified:
        """What `make` makes of these bytes, and raises; once made, not again."""
        return _recall(self._verified, encoded, lambda: make(encoded), AGGREGATES_KEPT)

    def encoded(self, known: Verified, make: Callable[[Aggregate], bytes]) -> bytes:
        return _recall(self._encoded, known.id, lambda: make(known.aggregate), AGGREGATES_KEPT)

    def replica(self, manifest: Manifest, layout: Layout, initial: Integers) -> Replica:
        return _SharedReplica(self._folds, manifest, layout, initial)


Round = tuple[int, tuple[bytes, ...]]  # and the ids that count in it


@dataclass(slots=True)
class _Folds:
    # By the x that they come after, as an object: beside each state stands the one before it, so that it stays that object.
    states: OrderedDict[tuple[int, Round], tuple[State, State]] = field(default_factory=OrderedDict)
    models: OrderedDict[int, tuple[Integers, Floats]] = field(
        default_factory=OrderedDict
    )  # by x, as an object
    foreseen: OrderedDict[tuple[int, int], tuple[Integers, Floats]] = field(
        default_factory=OrderedDict
    )  # by x and how far
    hashes: OrderedDict[int, tuple[Integers, str]] = field(default_factory=OrderedDict)  # the same


class _SharedReplica(Replica):
    """Of one swarm's devices: what a round adds, and where it leads, is computed by the first of them."""

    def __init__(self, shared: _Folds, manifest: Manifest, layout: Layout, initial: Integers) -> None:
        super().__init__(manifest, layout, initial)
        self._shared = shared

    def model(self) -> Floats:
        x, own = self.x, super().model
        return _recall(self._shared.models, id(x), lambda: (x, own()), self._most)[1]

    def foreseen(self, share: int) -> Floats:
        x, own = self.x, super().foreseen
        return _recall(self._shared.foreseen, (id(x), share), lambda: (x, own(share)), self._most)[1]

    def sha256(self) -> str:
        x, own = self.x, super().sha256
        return _recall(self._shared.hashes, id(x), lambda: (x, own()), self._most)[1]

    def _advance(self, state: State, aggregates: Sequence[Verified], round_: int) -> State:
        key = (id(state.x), _key(round_, aggregates))
        own = super()._advance
        _, after = _recall(
            self._shared.states, key, lambda: (state, own(state, aggregates, round_)), self._most
        )
        return after

    @property
    def _most(self) -> int:
        return max(FOLDS_KEPT, FOLDS_BYTES // self.x.nbytes)


def _key(round_: int, aggregates: Sequence[Verified]) -> Round:
    return round_, tuple(each.id for each in aggregates)


def _recall(kept: OrderedDict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    value = kept.get(key)
    if value is None:
        value = kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    else:
        kept.move_to_end(key)
    return value
