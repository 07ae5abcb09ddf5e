"""Whether multicast works on an interface: the question that every multicast DNS device answers, sent to all and heard.

"Which services are there?" (RFC 6763, section 9) goes to the group, and whoever is heard there shows that the network carries
it. If nobody is, the same question goes to single addresses, to which devices answer as well (RFC 6762, section 5.5 and
6.7): whoever answers that and was not heard before is there, and multicast is not. Bounded in packets, addresses and time.
"""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence

from node.doctor.judge import Multicast
from node.lan.notice import Interface

GROUP, PORT = "224.0.0.251", 5353
QUESTION = (
    struct.pack(">6H", 0, 0, 1, 0, 0, 0)
    + b"".join(bytes([len(label)]) + label for label in (b"_services", b"_dns-sd", b"_udp", b"local", b""))
    + struct.pack(">2H", 12, 1)  # PTR, IN
)
TICK_S = 0.1
TICKS = 30  # of listening to the group
QUESTION_EVERY = 12  # ticks: whoever said the same to all a moment ago stays silent for a second
TICKS_ALONE = 15  # of listening to those who were asked alone
PACKETS_A_TICK = 64
PACKET_BYTES = 9000
HEARD_MAX = 16
ASKED_MAX = 320  # addresses
NEIGHBOURHOOD = 24  # bits: no more of a network than this is asked
IP_MULTICAST_ALL = 49  # Linux; Python does not name it


def try_multicast(interface: Interface, known: Iterable[str]) -> Multicast:
    """Takes up to five seconds. `known`: addresses at which devices were seen, to be asked alone."""
    here = interface.ip4
    if here is None:
        return Multicast(interface.name, problem="it has no IPv4 address, which multicast DNS needs here")
    networks = [each.network for each in interface.networks if each.version == 4]
    own = {str(each.ip) for each in interface.networks}
    try:
        with _group_socket(str(here)) as group:
            seen = _listen(group, lambda: _ask(group, [GROUP]), TICKS)
        others = _within(seen - own, networks)
        if others:
            return Multicast(interface.name, own=bool(seen & own), others=others)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone:
            alone.bind((str(here), 0))
            alone.setblocking(False)
            asked = [each for each in _addresses(interface, known) if each not in own]
            answered = _listen(alone, lambda: _ask(alone, asked), TICKS_ALONE)
    except OSError as error:
        return Multicast(interface.name, problem=f"multicast cannot be used: {error.strerror}")
    return Multicast(interface.name, own=bool(seen & own), directly=_within(answered - own, networks))


def _group_socket(here: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # other programs speak multicast DNS as well
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.suppress(OSError):  # what other interfaces hear is not meant
            made.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        made.bind(("", PORT))
        group = socket.inet_aton(GROUP) + socket.inet_aton(here)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(here))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _ask(out: socket.socket, addresses: Sequence[str]) -> None:
    """OSError only where there is one address: of many, some are nobody's."""
    for address in addresses:
        with contextlib.suppress(*([OSError] if len(addresses) > 1 else [])):
            out.sendto(QUESTION, (address, PORT))


def _listen(sock: socket.socket, ask: Callable[[], None], ticks: int) -> set[str]:
    """Who was heard. A flood ends no sooner than silence, and is not read to its end."""
    heard: set[str] = set()
    pause = threading.Event()
    for tick in range(ticks):
        if tick % QUESTION_EVERY == 0:
            ask()
        pause.wait(TICK_S)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(PACKETS_A_TICK):
                _, (host, _port) = sock.recvfrom(PACKET_BYTES)
                if len(heard) < ASKED_MAX:
                    heard.add(host)
    return heard


def _addresses(interface: Interface, known: Iterable[str]) -> list[str]:
    """Where else on this interface's network devices may be: first those that are known, then its neighbourhood."""
    networks = [each for each in interface.networks if each.version == 4]
    close = [
        str(host)
        for each in networks[:1]
        for host in ipaddress.ip_network(
            f"{each.ip}/{max(each.network.prefixlen, NEIGHBOURHOOD)}", strict=False
        ).hosts()
    ]
    nearby = [address for address in known if _within({address}, [each.network for each in networks])]
    return list(dict.fromkeys([*nearby[:HEARD_MAX], *close]))[:ASKED_MAX]


def _within(
    hosts: Iterable[str], networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> tuple[str, ...]:
    found = [ipaddress.ip_address(host) for host in hosts]
    return tuple(str(host) for host in sorted(found, key=int) if any(host in each for each in networks))[
        :HEARD_MAX
    ]
