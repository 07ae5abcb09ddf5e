"""What a driver must offer to run a NodeCore: the real daemon and a simulation both do."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gossip.events import Action, Event, Record

CLOCK_S = 60.0  # between two times that a core is told what time it is
BOOT_SHIFT = 32  # presences count from boot << 32 on, so that each boot's come after all earlier ones


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
