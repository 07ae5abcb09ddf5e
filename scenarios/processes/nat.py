"""A home's router, as a process: many devices behind one address of the street.

    python -m scenarios.processes.nat nat0 192.168.1.0/24 10.213.1.0 independent 0

It stands in a network namespace of its own (`scenarios.processes.namespaces`), whose kernel hands it on the TUN interface whatever comes
from the home, and whatever comes from the street for the router's outer address, and forwards what it writes back. In RFC
4787's words, which RFC 5382 takes over for TCP:

- The *mapping* is endpoint-independent: one inner address and port is one outer port, whomever it speaks to, as in most homes'
  routers; the outer port is the inner one where that is free. Or it is address and port-dependent ("symmetric"): another outer
  port, drawn at random, for each device spoken to, so that nobody can say beforehand where the next will be.
- The *filtering* is always address and port-dependent: only whoever was written to from there may answer. All else is dropped,
  without a word. So two devices, each in a home of its own, reach each other only if both write first.

TCP and UDP alone pass, unfragmented. `Nat` decides, and knows no clock and no interface; both its tables are bounded. With
the standard library alone, as `scenarios.processes.sweeper`.
"""

import contextlib
import errno
import fcntl
import heapq
import os
import random  # noqa: TID251 - a router's ports, in a process of its own
import select
import struct
import sys
import time  # noqa: TID251 - the same
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, TypeAlias

READY = b"ready\n"
TCP, UDP = 6, 17
PORTS: Final = range(1024, 65536)
MAPPINGS_MAX = 4096
SESSIONS_MAX = 1024  # remote ends of one mapping
ESTABLISHED_S = 7440.0  # RFC 5382, section 5: at least 2 hours and 4 minutes
TRANSITORY_S = 240.0  # the same: for what is not answered yet, or is being closed
UDP_S = 300.0  # RFC 4787, section 4.3
LOOK_S = 10.0  # between two looks for what has run out
PACKETS_MAX = 4096  # on their way, where the line has a delay
PACKET_BYTES = 65536

_FIN_OR_RST = 0x05
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001

Endpoint: TypeAlias = tuple[int, int]  # IPv4 address, port


@dataclass(slots=True)
class Mapping:
    """One outer port, whose it is, and until when each that was written to may answer."""

    protocol: int
    inner: Endpoint
    key: tuple[object, ...]
    sessions: dict[Endpoint, float] = field(default_factory=dict)
    answered: set[Endpoint] = field(default_factory=set)
    closing: set[Endpoint] = field(default_factory=set)


class Nat:
    def __init__(
        self, inside: IPv4Network, outer: IPv4Address, *, dependent: bool, rng: random.Random
    ) -> None:
        self.outer = int(outer)
        self._network = int(inside.network_address)
        self._mask = int(inside.netmask)
        self._dependent = dependent
        self._rng = rng
        self._by_key: dict[tuple[object, ...], int] = {}
        self._by_port: dict[tuple[int, int], Mapping] = {}  # by protocol and outer port

    def __len__(self) -> int:
        return len(self._by_port)

    def translated(self, packet: bytes, now: float) -> bytes | None:
        """What the packet becomes on the other side; None if the router drops it."""
        said = _read(packet)
        if said is None:
            return None
        protocol, source, target, closes = said
        to_outer = target[0] == self.outer
        new_source, new_target = source, target
        if source[0] & self._mask == self._network:
            port = self._out(protocol, source, target, closes, now)
            if port is None:
                return None
            new_source = (self.outer, port)
        elif not to_outer:
            return None
        if to_outer:  # also from inside: RFC 4787, section 6, hairpinning
            inner = self._in(protocol, target[1], new_source, closes, now)
            if inner is None:
                return None
            new_target = inner
        return _rewritten(packet, protocol, (source, target), (new_source, new_target))

    def expire(self, now: float) -> None:
        for place, mapping in list(self._by_port.items()):
            for remote in [remote for remote, until in mapping.sessions.items() if until <= now]:
                del mapping.sessions[remote]
                mapping.answered.discard(remote)
                mapping.closing.discard(remote)
            if not mapping.sessions:
                del self._by_port[place]
                del self._by_key[mapping.key]

    def _out(self, protocol: int, inner: Endpoint, remote: Endpoint, closes: bool, now: float) -> int | None:
        """The outer port from which this goes."""
        key = (protocol, inner, remote) if self._dependent else (protocol, inner)
        port = self._by_key.get(key)
        if port is None:
            port = self._free_port(protocol, inner[1])
            if port is None:
                return None
            self._by_key[key] = port
            self._by_port[protocol, port] = Mapping(protocol, inner, key)
        mapping = self._by_port[protocol, port]
        if remote not in mapping.sessions and len(mapping.sessions) >= SESSIONS_MAX:
            return None
        self._touch(mapping, remote, closes, now)
        return port

    def _in(self, protocol: int, port: int, remote: Endpoint, closes: bool, now: float) -> Endpoint | None:
        """The device behind an outer port, if it has written to this remote end."""
        mapping = self._by_port.get((protocol, port))
        if mapping is None or mapping.sessions.get(remote, 0.0) <= now:
            return None
        mapping.answered.add(remote)
        self._touch(mapping, remote, closes, now)
        return mapping.inner

    def _touch(self, mapping: Mapping, remote: Endpoint, closes: bool, now: float) -> None:
        if closes:
            mapping.closing.add(remote)
        if mapping.protocol == UDP:
            lasts_s = UDP_S
        elif remote in mapping.answered and remote not in mapping.closing:
            lasts_s = ESTABLISHED_S
        else:
            lasts_s = TRANSITORY_S
        mapping.sessions[remote] = now + lasts_s

    def _free_port(self, protocol: int, wanted: int) -> int | None:
        if len(self._by_port) >= MAPPINGS_MAX:
            return None
        if not self._dependent and wanted in PORTS and (protocol, wanted) not in self._by_port:
            return wanted
        while True:  # at most one port in fifteen is taken
            port = self._rng.choice(PORTS)
            if (protocol, port) not in self._by_port:
                return port


# --- packets ---------------------------------------------------------------------------------------------------


def _read(packet: bytes) -> tuple[int, Endpoint, Endpoint, bool] | None:
    """Protocol, source, target, and whether it closes a TCP connection; None for what a router does not pass."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header = (packet[0] & 0x0F) * 4
    protocol = packet[9]
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    least = {TCP: 20, UDP: 8}.get(protocol)
    if least is None or fragment or len(packet) < header + least:
        return None
    source, target = struct.unpack_from("!II", packet, 12)
    source_port, target_port = struct.unpack_from("!HH", packet, header)
    closes = protocol == TCP and bool(packet[header + 13] & _FIN_OR_RST)
    return protocol, (source, source_port), (target, target_port), closes


def _rewritten(
    packet: bytes, protocol: int, old: tuple[Endpoint, Endpoint], new: tuple[Endpoint, Endpoint]
) -> bytes:
    changed = bytearray(packet)
    header = (packet[0] & 0x0F) * 4
    addresses, ports = _difference(old, new, 0), _difference(old, new, 1)
    struct.pack_into("!II", changed, 12, new[0][0], new[1][0])
    struct.pack_into("!HH", changed, header, new[0][1], new[1][1])
    _adjust(changed, 10, addresses)
    at = header + (16 if protocol == TCP else 6)
    if protocol == TCP or changed[at : at + 2] != b"\0\0":  # RFC 768: 0 is no checksum
        _adjust(changed, at, addresses + ports)
        if protocol == UDP and changed[at : at + 2] == b"\0\0":
            changed[at : at + 2] = b"\xff\xff"
    return bytes(changed)


def _difference(old: tuple[Endpoint, Endpoint], new: tuple[Endpoint, Endpoint], part: int) -> int:
    """RFC 1624: the sum of m' and ~m over all words of 16 bits that have changed."""
    return sum(
        (after[part] >> 16)
        + (after[part] & 0xFFFF)
        + (~before[part] >> 16 & 0xFFFF)
        + (~before[part] & 0xFFFF)
        for before, after in zip(old, new, strict=True)
    )


def _adjust(packet: bytearray, at: int, difference: int) -> None:
    """RFC 1624, equation 3: HC' = ~(~HC + ~m + m')."""
    total = (~int.from_bytes(packet[at : at + 2], "big") & 0xFFFF) + difference
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")


# --- the process -----------------------------------------------------------------------------------------------


def _opened(interface: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TUN_NO_PI))
    return tun


def _forward(interface: str) -> None:
    """Let this namespace's kernel forward, also what comes by another interface than the way back leads to."""
    ipv4 = Path("/proc/sys/net/ipv4")
    (ipv4 / "ip_forward").write_text("1")
    for name in ("all", interface, "lan", "wan"):
        with contextlib.suppress(FileNotFoundError):
            (ipv4 / "conf" / name / "rp_filter").write_text("0")


def serve(tun: int, nat: Nat, delay_s: float) -> None:
    """Until the process is ended, or the interface goes."""
    waiting: list[tuple[float, int, bytes]] = []
    number, look_at = 0, time.monotonic() + LOOK_S
    while True:
        now = time.monotonic()
        until = min(look_at, waiting[0][0]) if waiting else look_at
        ready, _, _ = select.select([tun], [], [], max(0.0, until - now))
        now = time.monotonic()
        if ready:
            packet = nat.translated(os.read(tun, PACKET_BYTES), now)
            if packet is not None and len(waiting) < PACKETS_MAX:
                number += 1
                heapq.heappush(waiting, (now + delay_s, number, packet))
        while waiting and waiting[0][0] <= now:
            _write(tun, heapq.heappop(waiting)[2])
        if now >= look_at:
            nat.expire(now)
            look_at = now + LOOK_S


def _write(tun: int, packet: bytes) -> None:
    """A packet that the kernel has no room or no way for is lost, as on any line."""
    try:
        os.write(tun, packet)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.ENOBUFS, errno.EINVAL, errno.EIO}:
            raise


def main(interface: str, inside: str, outer: str, mapping: str, delay_ms: str) -> None:
    nat = Nat(
        IPv4Network(inside),
        IPv4Address(outer),
        dependent=mapping == "dependent",
        rng=random.SystemRandom(),
    )
    tun = _opened(interface)
    _forward(interface)
    os.write(sys.stdout.fileno(), READY)
    serve(tun, nat, float(delay_ms) / 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
