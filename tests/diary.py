"""What a transport tells its node, written down: for tests of transports."""

from collections.abc import Callable

import trio

PATIENCE_S = 8.0


class Diary:
    """An inbox, and a log, in which a test can wait for what it expects."""

    def __init__(self) -> None:
        self.entries: list[tuple] = []
        self._changed = trio.Event()

    def note(self, *entry) -> None:
        self.entries.append(entry)
        self._changed.set()
        self._changed = trio.Event()

    def received(self, peer: bytes, data: bytes) -> None:
        self.note("received", peer, data)

    def peer_up(self, peer: bytes) -> None:
        self.note("up", peer)

    def peer_down(self, peer: bytes, reason: str) -> None:
        self.note("down", peer, reason)

    def send_failed(self, peer: bytes, data: bytes, reason: str) -> None:
        self.note("failed", peer, data, reason)

    def log(self, event: str, fields) -> None:
        self.note("log", event, dict(fields))

    def of(self, kind: str) -> list[tuple]:
        return [entry[1:] for entry in self.entries if entry[0] == kind]

    async def until(self, enough: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not enough():
                await self._changed.wait()
        assert enough(), self.entries
