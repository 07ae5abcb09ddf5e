"""Where a fuzzer's choices come from: a seed, or bytes that somebody else made (atheris, hypothesis, a replay)."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    def below(self, high: int) -> int:
        """In [0, high), which is above 0."""

    def blob(self, size: int) -> bytes:
        """So many bytes."""


class Seeded:
    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def below(self, high: int) -> int:
        return self._random.randrange(high)

    def blob(self, size: int) -> bytes:
        return self._random.randbytes(size)


class Spelled:
    """Choices that bytes spell; zeros when they have run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def blob(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece + bytes(size - len(piece))

    def below(self, high: int) -> int:
        return int.from_bytes(self.blob((high.bit_length() + 7) // 8), "big") % high


def pick(choices: Choices, items: Sequence[T]) -> T:
    return items[choices.below(len(items))]


def one_in(choices: Choices, n: int) -> bool:
    return choices.below(n) == 1 % n
