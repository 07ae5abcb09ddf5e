"""Notices over multicast DNS (RFC 6762, 6763), by zeroconf, which runs a thread of its own.

Everything here blocks, for a bounded time, and needs no trio: the daemon calls it from a thread (`node.lan.discovery`), the
command line directly. libp2p's own mDNS announces addresses that lead nowhere, and is not used.

What zeroconf's thread hears is in its cache, which it bounds (10,000 records). A look reads at most NAMES_MAX names of it,
others each time, and tells what has changed. A flood of names may hide devices from this one for a while, and that is all.
"""

# ruff: noqa: TID251 - the one file that touches zeroconf

import contextlib
import logging
import secrets
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf

from gossip.errors import GossamerError, PeerViolation
from node.lan.notice import Interface, Notice, notice_of, texts_of

SERVICE = "_gossamer._tcp.local."
NAMES_MAX = 256  # read at one look
REMEMBERED_MAX = 1024  # names
ASKED_AT_ONCE = 4  # for what did not come along with their names
ASK_S = 0.3
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
        self._texts: dict[str, bytes] = {}  # as they were told last, by name; at most REMEMBERED_MAX
        self._asked: set[str] = set()  # names that came without a text; at most REMEMBERED_MAX
        self._turn = 0
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
            self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[_nothing])
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
        """What has changed since the last look: instances and their notices, None where there is none any more."""
        names = self._names()
        present = set(names)
        gone = [name for name in self._texts if name not in present]
        for name in gone:
            del self._texts[name]
        seen: list[tuple[str, Notice | None]] = [(_instance(name), None) for name in gone]
        start = self._turn % max(len(names), 1)
        self._turn = start + NAMES_MAX
        questions = ASKED_AT_ONCE
        for name in (names[start:] + names[:start])[:NAMES_MAX]:
            try:
                service = ServiceInfo(SERVICE, name)
            except ZeroconfError:  # a name that no honest device has
                continue
            service.load_from_cache(self._zeroconf)
            if not service.text and questions and name not in self._asked:
                questions -= 1
                self._ask(service)
            if service.text and service.text != self._texts.get(name):
                _remember(self._texts, name, service.text)
                seen.append((_instance(name), self._read(service)))
        return seen

    def close(self) -> None:
        """Says goodbye."""
        self._zeroconf.close()

    def _names(self) -> list[str]:
        """Of all instances that zeroconf knows now, in one order for as long as they are the same."""
        records = self._zeroconf.cache.entries_with_name(SERVICE)
        aliases = [str(getattr(record, "alias", "")) for record in records]  # only pointers have one
        return sorted(alias for alias in aliases if alias.endswith(f".{SERVICE}"))

    def _ask(self, service: ServiceInfo) -> None:
        """Once a name: a text that comes later is found in the cache."""
        if len(self._asked) >= REMEMBERED_MAX:
            self._asked.clear()
        self._asked.add(service.name)
        with contextlib.suppress(ZeroconfError, RuntimeError):
            service.request(self._zeroconf, ASK_S * 1000)

    def _read(self, service: ServiceInfo) -> Notice | None:
        try:
            return notice_of(service.properties)
        except PeerViolation:
            self.refused += 1
            return None


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


def _remember(texts: dict[str, bytes], name: str, text: bytes) -> None:
    """Whoever was remembered first is forgotten first, and told again if it is still there."""
    texts.pop(name, None)
    texts[name] = text
    if len(texts) > REMEMBERED_MAX:
        del texts[next(iter(texts))]


def _nothing(**_: object) -> None:
    """A browser asks for names for as long as somebody wants to hear of them; they are read from the cache."""


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
