"""Chance in a virtual world: streams of bytes that follow from what they are for, in any process the same."""

from hashlib import shake_256

DRAW_BYTES = 7
DRAWS_AT_ONCE = 256
DRAW_END = 1 << (8 * DRAW_BYTES)


class Stream:
    """`node.ports.Entropy` drawn from a seed: SHAKE-256 of the origin and of a count. No secret in it is one."""

    def __init__(self, *origin: str | int) -> None:
        self._origin = repr(origin).encode()
        self._drawn = 0

    def __call__(self, size: int, /) -> bytes:
        self._drawn += 1
        return shake_256(b"%s/%d" % (self._origin, self._drawn)).digest(size)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * int.from_bytes(self(DRAW_BYTES), "big") / DRAW_END


class Draws(Stream):
    """A stream that is asked for one number after the other, often."""

    def __init__(self, *origin: str | int) -> None:
        super().__init__(*origin)
        self._left: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        if not self._left:
            block = self(DRAW_BYTES * DRAWS_AT_ONCE)
            places = range(0, len(block), DRAW_BYTES)
            self._left = [int.from_bytes(block[at : at + DRAW_BYTES], "big") / DRAW_END for at in places]
        return low + (high - low) * self._left.pop()
