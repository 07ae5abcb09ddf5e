"""What a driver must offer to run a NodeCore, as types: the real daemon and a simulation both fit them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gossip.events import Action, Event, Record


class Core(Protocol):
    """A node without a world: see `node.core.NodeCore`."""

    def start(self, now: float) -> list[Action]: ...

    def handle(self, event: Event, now: float) -> list[Action]: ...

    def status(self, now: float) -> dict[str, object]: ...


class Store(Protocol):
    """Durable facts. `commit` is all or nothing and returns once they would survive a power cut."""

    def commit(self, records: Sequence[Record]) -> None: ...

    def read(self, table: str) -> Iterable[tuple[bytes, bytes]]: ...


class Entropy(Protocol):
    """A cryptographic source of random bytes: the operating system's, or a seeded stream in a simulation."""

    def __call__(self, size: int, /) -> bytes: ...
