"""What is to happen in virtual time, in the order of its time and of its number.

A heap holds the slot of time that is under way; what is further off lies unsorted until its own slot comes. Were all in one heap,
each step would compare entries that lie all over the memory of a large simulation.
"""

import heapq
from collections.abc import Callable
from typing import Final, TypeAlias

SLOTS: Final = 64  # a second

Entry: TypeAlias = tuple[
    float, int, Callable[..., None], tuple[object, ...]
]  # when, its number, what, of what


class Agenda:
    """Times are not negative, and numbers are all different."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._slot = 0  # that the heap holds, with all before it
        self._later: dict[int, list[Entry]] = {}  # by slot
        self._slots: list[int] = []  # a heap of those

    def add(self, entry: Entry) -> None:
        slot = int(entry[0] * SLOTS)
        if slot <= self._slot:
            heapq.heappush(self._heap, entry)
        elif slot in self._later:
            self._later[slot].append(entry)
        else:
            self._later[slot] = [entry]
            heapq.heappush(self._slots, slot)

    def take(self, until_s: float) -> Entry | None:
        """The next one, if its time is not after `until_s`."""
        if not self._heap:
            if not self._slots:
                return None
            self._slot = heapq.heappop(self._slots)
            self._heap = self._later.pop(self._slot)
            heapq.heapify(self._heap)
        return heapq.heappop(self._heap) if self._heap[0][0] <= until_s else None
