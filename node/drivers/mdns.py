"""Notices over multicast DNS (RFC 6762, 6763), by zeroconf, which runs a thread of its own.

Everything here blocks, for a bounded time, and needs no trio: the daemon calls it from a thread (`node.drivers.nearby`), the
command line directly. libp2p's own mDNS announces addresses that lead nowhere, and is not used.

What zeroconf's thread hears waits in a queue of NAMES_MAX; its own cache is bounded by itself. What does not fit is
dropped: a flood of names may hide devices from this one, which is all that it can do.
"""

# ruff: noqa: TID251 - the one file that touches zeroconf

import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from gossip.errors import GossamerError, PeerViolation
from node.nearby import Interface, Notice, notice_of, texts_of

SERVICE = "_gossamer._tcp.local."
NAMES_MAX = 256  # that wait to be looked at
ASKED_AT_ONCE = 4  # for what did not come along with their names
ASK_S = 0.3
TRIES = 3
LOOK_S = 0.25

logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # warns of what strangers send, with tracebacks


class NoMulticast(GossamerError):
    """The system does not let this process send or hear multicast DNS: `gossamer doctor` says why."""


def fresh_instance() -> str:
    """The name of one start of one device: nobody else's, whoever has its key."""
    return f"gossamer-{secrets.token_hex(8)}"


class Mdns:
    """Hears notices on these interfaces, and announces one under `instance`, if there is one. NoMulticast."""

    def __init__(
        self, interfaces: Sequence[Interface], notice: Notice | None = None, instance: str = ""
    ) -> None:
        self.refused = 0  # notices that were none
        self._names: queue.Queue[tuple[str, bool]] = queue.Queue(NAMES_MAX)
        self._tries: dict[str, int] = {}  # of names that lack their text; at most NAMES_MAX
        leaving_from = [str(each.ip4) for each in interfaces if each.ip4 is not None]
        if not leaving_from:
            raise NoMulticast("no interface with an IPv4 address is up; next: gossamer doctor")
        try:
            self._zeroconf = Zeroconf(interfaces=leaving_from, ip_version=IPVersion.V4Only)
        except (OSError, ZeroconfError, RuntimeError) as error:
            raise NoMulticast(
                f"multicast DNS cannot be used on {', '.join(leaving_from)}: {error}; next: gossamer doctor"
            ) from error
        try:
            self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._hear])
            if notice is not None:
                self._zeroconf.register_service(_service(notice, instance, leaving_from))
        except (OSError, ZeroconfError, RuntimeError) as error:
            self.close()
            raise NoMulticast(f"this device cannot be announced: {error}; next: gossamer doctor") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def look(self) -> list[tuple[str, Notice | None]]:
        """What was heard since the last look: instances and their notices, None for one that said goodbye."""
        seen: list[tuple[str, Notice | None]] = []
        for name, here in self._heard():
            if not here:
                self._tries.pop(name, None)
                seen.append((_instance(name), None))
            elif len(self._tries) < NAMES_MAX:
                self._tries.setdefault(name, 0)
        asked = 0
        for name in list(self._tries):
            service = ServiceInfo(SERVICE, name)
            known = service.load_from_cache(self._zeroconf) and service.text
            if not known and asked < ASKED_AT_ONCE:
                asked += 1
                self._tries[name] += 1
                with contextlib.suppress(ZeroconfError, RuntimeError):
                    known = service.request(self._zeroconf, ASK_S * 1000) and service.text
            if known:
                with contextlib.suppress(PeerViolation):
                    seen.append((_instance(name), self._read(service)))
            if known or self._tries[name] >= TRIES:
                del self._tries[name]
        return seen

    def close(self) -> None:
        """Says goodbye."""
        self._zeroconf.close()

    def _heard(self) -> Iterator[tuple[str, bool]]:
        for _ in range(NAMES_MAX):
            try:
                yield self._names.get_nowait()
            except queue.Empty:
                return

    def _read(self, service: ServiceInfo) -> Notice:
        try:
            return notice_of(service.properties)
        except PeerViolation:
            self.refused += 1
            raise

    def _hear(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """In zeroconf's thread."""
        del zeroconf, service_type
        with contextlib.suppress(queue.Full):
            self._names.put_nowait((name, state_change is not ServiceStateChange.Removed))


def look_around(interfaces: Sequence[Interface], seconds: float) -> dict[str, Notice]:
    """The notices that are heard within so many seconds, by instance. NoMulticast."""
    found: dict[str, Notice] = {}
    waiting = threading.Event()
    with Mdns(interfaces) as mdns:
        for _ in range(max(1, round(seconds / LOOK_S))):
            waiting.wait(LOOK_S)
            for instance, notice in mdns.look():
                if notice is None:
                    found.pop(instance, None)
                elif len(found) < NAMES_MAX:
                    found[instance] = notice
    return found


def _instance(name: str) -> str:
    return name.removesuffix(f".{SERVICE}")


def _service(notice: Notice, instance: str, addresses: Sequence[str]) -> ServiceInfo:
    """The port of a service record is one, and a device may have several: it is the first, and the text has all."""
    port = int(notice.addresses[0].rpartition("/")[2])
    return ServiceInfo(
        SERVICE,
        f"{instance}.{SERVICE}",
        port=port,
        server=f"{instance}.local.",
        parsed_addresses=list(addresses),
        properties=texts_of(notice),
    )
