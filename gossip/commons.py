"""What devices of one process share: the same bytes are one object, judged once. Only a simulation has such a process.

Judging an aggregate and folding a history are pure functions, so a result that another device had is this device's own.
It is handed to each core by whoever runs them; a daemon has none, and a core without one does everything itself.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from gossip.aggregate import Verified
from gossip.wire import pack

AGGREGATES_KEPT = 4096
MODELS_KEPT = 64  # replicas of different histories, as float32

K = TypeVar("K")
V = TypeVar("V")


class Commons:
    """Bounded: what was asked for least lately goes."""

    def __init__(self) -> None:
        self._verified: dict[bytes, Verified] = {}  # by the hash of the encoding
        self._encoded: dict[bytes, bytes] = {}  # by id
        self._models: dict[bytes, NDArray[np.float32]] = {}  # by the whole state's hash

    def open(self, encoded: bytes, make: Callable[[bytes], Verified]) -> Verified:
        """What `make` makes of these bytes, and raises; once made, not again."""
        return _recall(self._verified, digest("encoded", encoded), lambda: make(encoded), AGGREGATES_KEPT)

    def encoded(self, known: Verified) -> bytes:
        return _recall(self._encoded, known.id, lambda: pack(known.aggregate), AGGREGATES_KEPT)


def _recall(kept: dict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    value = kept.pop(key, None)
    if value is None:
        value = make()
        if len(kept) >= most:
            del kept[next(iter(kept))]
    kept[key] = value
    return value
