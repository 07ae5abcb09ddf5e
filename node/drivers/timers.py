"""The core's alarms: one task, one heap, one alarm a tag."""

import heapq
import itertools
import math
from collections.abc import Callable

import trio  # noqa: TID251 - the drivers are trio's room

from gossip.events import Tag

SPARE = 64  # replaced alarms that may stay in the heap before it is swept


class Timers:
    def __init__(self, fire: Callable[[Tag], None]) -> None:
        self._fire = fire
        self._heap: list[tuple[float, int, Tag]] = []
        self._current: dict[Tag, int] = {}  # the entry that counts, by its number
        self._numbers = itertools.count()
        self._earlier = trio.Event()

    def set(self, tag: Tag, at: float) -> None:
        """Fire at `at` on trio's clock; replaces an earlier alarm of the same tag."""
        if not self._heap or at < self._heap[0][0]:
            self._earlier.set()
        self._current[tag] = number = next(self._numbers)
        heapq.heappush(self._heap, (at, number, tag))
        if len(self._heap) > 2 * len(self._current) + SPARE:
            self._heap = [entry for entry in self._heap if self._current.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, tag: Tag) -> None:
        self._current.pop(tag, None)

    async def run(self) -> None:
        while True:
            self._earlier = trio.Event()
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                await self._earlier.wait()
            while self._heap and self._heap[0][0] <= trio.current_time():
                _, number, tag = heapq.heappop(self._heap)
                if self._current.get(tag) == number:
                    del self._current[tag]
                    self._fire(tag)
