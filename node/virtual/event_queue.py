"""What is to happen in virtual time, in the order of its time and of its number.

What is far off lies unsorted until its slot of time comes, and is sorted then, all at once: in one heap, each step would compare
entries that lie all over the memory of a large simulation. A heap holds only what is added to the slot that is under way.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

SLOTS: Final = 64  # a second

Entry: TypeAlias = tuple[
    float, int, Callable[..., None], tuple[object, ...]
]  # when, its number, what, of what


class Agenda:
    """Times are not negative, and numbers are all different."""

    def __init__(self) -> None:
        self._sorted: list[Entry] = []  # of the slot under way, the next one last
        self._heap: list[Entry] = []  # what came since for that slot, or for one before it
        self._slot = 0  # that is under way
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

    def take(self, until_s: float) -> Iterator[Entry]:
        """One after the other, also what is added meanwhile, until none is left whose time is not after `until_s`."""
        heap = self._heap
        while True:
            ready = self._sorted
            if heap and (not ready or heap[0] < ready[-1]):
                if heap[0][0] > until_s:
                    return
                yield heapq.heappop(heap)
            elif ready:
                if ready[-1][0] > until_s:
                    return
                yield ready.pop()
            elif self._slots:
                self._slot = heapq.heappop(self._slots)
                self._sorted = self._later.pop(self._slot)
                self._sorted.sort(reverse=True)
            else:
                return
