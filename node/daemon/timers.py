"""The core's alarms: a heap, one alarm a tag. The core's own task looks here, so a cancelled alarm never fires late."""

import heapq
import itertools
import math

from gossip.events import Tag

SPARE = 64  # replaced alarms that may stay in the heap before it is swept


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Tag]] = []
        self._current: dict[Tag, int] = {}  # the entry that counts, by its number
        self._numbers = itertools.count()

    def set(self, tag: Tag, at: float) -> None:
        """Ring at `at`; replaces an earlier alarm of the same tag."""
        self._current[tag] = number = next(self._numbers)
        heapq.heappush(self._heap, (at, number, tag))
        if len(self._heap) > 2 * len(self._current) + SPARE:
            self._heap = [entry for entry in self._heap if self._current.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, tag: Tag) -> None:
        self._current.pop(tag, None)

    def next_at(self) -> float:
        """When to look again; infinity when no alarm is set."""
        while self._heap and self._current.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> Tag | None:
        """The earliest alarm that is due, which is then no longer set."""
        if self.next_at() > now:
            return None
        _, _, tag = heapq.heappop(self._heap)
        del self._current[tag]
        return tag
