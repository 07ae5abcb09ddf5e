"""Pure functions that remember their latest results. How many is a matter of one device's memory; a process of many has more."""

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Remembered(Generic[P, R]):
    """`call` is the function. What raises is not remembered."""

    def __init__(self, function: Callable[P, R], kept: int) -> None:
        self._function = function
        self.kept = kept
        self.call: Callable[P, R] = lru_cache(maxsize=kept)(function)

    def forget(self) -> None:
        self.call = lru_cache(maxsize=self.kept)(self._function)

    def widen(self, kept: int) -> None:
        """Remember so many from now on, and never fewer than before."""
        if kept > self.kept:
            self.kept = kept
            self.call = lru_cache(maxsize=kept)(self._function)
