"""What devices on one network tell each other before they are connected, and what may be made of it.

A device announces a *notice*: its swarm, its names, its peer id and its addresses (`node/lan/mdns.py`). Anyone on the
network can announce anything, so a notice is a hint and no more. It can make this device dial an address, and only under
these rules, after which libp2p's handshake proves who answers and the swarm's own rules decide:

- a notice that is not exactly well formed is none;
- only addresses on a network of this device's own interfaces are dialled, so nobody can aim it at the world;
- at most CANDIDATES_MAX devices are remembered, and each is dialled after ever longer pauses; all of them together at most
  DIALS_AT_ONCE a look and DIALS_A_MINUTE a minute, whoever waits longest first.

The service is `_gossamer._tcp`, as what is behind it speaks TCP (RFC 6763, section 7). Each start of a device announces
itself under a fresh *instance*: two instances with one peer id are two devices with one key.
"""

import ipaddress
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from crypto.identity import public_key_of
from gossip.errors import GossamerError, PeerViolation
from node.config.addresses import listen_address

VERSION = "1"
SWARM_DIGITS = 16  # of the id, in hex: enough to tell swarms apart, no proof
ADDRESSES_MAX = 8
TEXT_BYTES_MAX = 1300  # of a notice: one packet on any network
CANDIDATES_MAX = 64
DIALS_AT_ONCE = 4
DIALS_A_MINUTE = 30
PAUSE_S = (4.0, 300.0)  # first and longest between two dials of one device

# Of interfaces that lead to no other device: containers, virtual machines, tunnels. By name, as nothing else tells.
HOST_ONLY = re.compile(
    r"(docker|br-|veth|virbr|vnet|vmnet|vboxnet|cni|flannel|cali|cilium|podman|lxc|lxd|kube|dummy|ifb|"
    r"tun|tap|wg|tailscale|zt|utun|ppp|awdl|llw)[\w.-]*"
)
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9 ._:-]{0,63}"
)  # as gossip.manifest.Name and node.config.settings.Name
_SWARM = re.compile(rf"[0-9a-f]{{{SWARM_DIGITS}}}")
_ADMITS = re.compile(r"[a-z]{1,16}")  # a later release may admit in other ways

Network: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Route: TypeAlias = Literal["lan", "direct", "relay"]


class NotOne(GossamerError):
    """Several swarms nearby have this name: say which by its id, as `gossamer nearby` shows it."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One of this device's own that is up, with its addresses and how far their networks reach."""

    name: str
    networks: tuple[Network, ...]
    multicast: bool = True
    loopback: bool = False

    @property
    def usable(self) -> bool:
        """Whether other devices can be behind it."""
        return self.multicast and not self.loopback and HOST_ONLY.fullmatch(self.name) is None

    @property
    def ip4(self) -> ipaddress.IPv4Address | None:
        """Where multicast leaves from."""
        return next((each.ip for each in self.networks if isinstance(each, ipaddress.IPv4Interface)), None)


@dataclass(frozen=True, slots=True)
class Notice:
    """What one device says of itself. Nothing of it is proven."""

    swarm: str  # the first SWARM_DIGITS of the swarm's id
    swarm_name: str
    device: str
    peer_id: str
    admits: str  # "open", "members", "invite", "ask"
    addresses: tuple[str, ...]  # /ip4/ADDRESS/tcp/PORT

    @property
    def order(self) -> tuple[str, ...]:
        return (self.swarm_name, self.swarm, self.device, self.peer_id)

    def told(self, interfaces: Iterable[Interface]) -> dict[str, Any]:
        """For people and programs, with the addresses that can be dialled from here."""
        return {
            "swarm": self.swarm_name,
            "swarm_id": self.swarm,
            "device": self.device,
            "peer_id": self.peer_id,
            "admits": self.admits,
            "addresses": list(self.reached_by(interfaces)),
        }

    def reached_by(self, interfaces: Iterable[Interface]) -> tuple[str, ...]:
        """Its addresses on networks of our own, each with the peer id that must answer there."""
        networks = [network for interface in interfaces for network in interface.networks]
        return tuple(
            f"{address}/p2p/{self.peer_id}" for address in self.addresses if _on_link(address, networks)
        )


def texts_of(notice: Notice) -> dict[str, str]:
    """A notice as the key-value pairs of a DNS-SD TXT record."""
    addresses = {f"a{place}": address for place, address in enumerate(notice.addresses[:ADDRESSES_MAX])}
    return {
        "v": VERSION,
        "swarm": notice.swarm,
        "name": notice.swarm_name,
        "device": notice.device,
        "peer": notice.peer_id,
        "admits": notice.admits,
        **addresses,
    }


def notice_of(texts: Mapping[bytes, bytes | None]) -> Notice:
    """The notice in a TXT record that anybody may have written; PeerViolation if it is none."""
    if sum(len(key) + len(value or b"") + 2 for key, value in texts.items()) > TEXT_BYTES_MAX:
        raise PeerViolation(f"a notice of more than {TEXT_BYTES_MAX} bytes")

    def text(key: str, form: re.Pattern[str]) -> str:
        value = (texts.get(key.encode()) or b"").decode("ascii", "replace")
        if form.fullmatch(value) is None:
            raise PeerViolation(f"a notice whose {key} is not of its form")
        return value

    if texts.get(b"v") != VERSION.encode():
        raise PeerViolation("a notice of another version")
    said = [texts.get(f"a{place}".encode()) for place in range(ADDRESSES_MAX)]
    addresses = tuple(address.decode("ascii", "replace") for address in said if address)
    peer = (texts.get(b"peer") or b"").decode("ascii", "replace")
    try:
        public_key_of(peer)
        for address in addresses:
            if listen_address(address)[1] == 0:
                raise ValueError("port 0")
    except ValueError as error:
        raise PeerViolation(f"a notice without a peer id and addresses: {error}") from error
    return Notice(
        swarm=text("swarm", _SWARM),
        swarm_name=text("name", _NAME),
        device=text("device", _NAME),
        peer_id=peer,
        admits=text("admits", _ADMITS),
        addresses=addresses,
    )


def addresses_to_announce(
    bound: Iterable[tuple[str, int]], interfaces: Sequence[Interface]
) -> tuple[str, ...]:
    """Concrete addresses at which others reach what is bound to (host, port), on these interfaces. At most ADDRESSES_MAX.

    libp2p's own mDNS would announce 0.0.0.0, under which others find themselves.
    """
    own = [network.ip for interface in interfaces for network in interface.networks]
    found: dict[str, None] = {}
    for host, port in bound:
        at = ipaddress.ip_address(host)
        chosen = [ip for ip in own if ip.version == at.version] if at.is_unspecified else [at] * (at in own)
        found |= {
            f"/ip{ip.version}/{ip}/tcp/{port}": None
            for ip in chosen
            if ip.version == 4 or not ip.is_link_local
        }
    return tuple(found)[:ADDRESSES_MAX]


def route_of(address: str, interfaces: Iterable[Interface]) -> Route:
    """How the other end of a connection is reached: on a network of our own, through others', or through another device."""
    if "/p2p-circuit" in address:
        return "relay"
    networks = [network for interface in interfaces for network in interface.networks]
    return "lan" if _on_link(address, networks) else "direct"


def _on_link(address: str, networks: Iterable[Network]) -> bool:
    host = ipaddress.ip_address(listen_address(address)[0])
    special = host.is_unspecified or host.is_multicast or (host.version == 6 and host.is_link_local)
    return not special and any(host in network.network for network in networks)


def of_swarm(notices: Iterable[Notice], wanted: str) -> list[Notice]:
    """Those of the swarm of this name, or of the id that begins so. NotOne if that could be several swarms."""
    meant = [
        notice
        for notice in notices
        if wanted == notice.swarm_name or (len(wanted) >= SWARM_DIGITS and wanted.startswith(notice.swarm))
    ]
    ids = sorted({notice.swarm for notice in meant})
    if len(ids) > 1:
        raise NotOne(f'several swarms nearby are called "{wanted}": say which by its id, {" or ".join(ids)}')
    return meant


def of_this(swarm: bytes, name: str, wanted: str) -> bool:
    """Whether a swarm whose manifest is known has this name, or an id that begins so."""
    return wanted == name or (len(wanted) >= SWARM_DIGITS and swarm.hex().startswith(wanted))


@dataclass(slots=True)
class _Candidate:
    notice: Notice
    dial_at: float
    pause_s: float = PAUSE_S[0]


class Candidates:
    """The devices of one swarm that were announced, and which of them to dial now."""

    def __init__(self, me: str, swarm: str, instance: str) -> None:
        self._me = me
        self._swarm = swarm
        self._instance = instance
        self._found: dict[str, _Candidate] = {}  # by instance; at most CANDIDATES_MAX
        self._dialled: deque[float] = deque(maxlen=DIALS_A_MINUTE)  # when
        self.doubles: dict[str, Notice] = {}  # instances that claim to be this device; at most CANDIDATES_MAX

    def __len__(self) -> int:
        return len(self._found)

    def saw(self, instance: str, notice: Notice | None, now: float) -> None:
        """`notice`: None if this instance is gone."""
        if instance == self._instance:
            return
        if notice is None or notice.swarm != self._swarm:
            self._found.pop(instance, None)
            self.doubles.pop(instance, None)
        elif notice.peer_id == self._me:
            if len(self.doubles) < CANDIDATES_MAX:
                self.doubles[instance] = notice
        else:
            known = self._found.get(instance)
            if known is not None and known.notice == notice:
                return
            if known is None and not self._room():
                return
            self._found[instance] = _Candidate(notice, now)

    def _room(self) -> bool:
        """A flood of names must not keep others out for good: whoever has answered least makes room."""
        if len(self._found) < CANDIDATES_MAX:
            return True
        worst = max(self._found, key=lambda instance: self._found[instance].pause_s)
        if self._found[worst].pause_s == PAUSE_S[0]:
            return False
        del self._found[worst]
        return True

    def due(
        self, connected: Collection[bytes], enough: int, interfaces: Sequence[Interface], now: float
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """Whom to dial, and where: as many as are missing to `enough` neighbours."""
        dials: dict[bytes, tuple[str, ...]] = {}
        while self._dialled and self._dialled[0] <= now - 60:
            self._dialled.popleft()
        wanted = min(DIALS_AT_ONCE, DIALS_A_MINUTE - len(self._dialled), enough - len(connected))
        for candidate in sorted(self._found.values(), key=lambda each: each.dial_at):
            peer = public_key_of(candidate.notice.peer_id)
            if peer in connected:
                candidate.pause_s, candidate.dial_at = PAUSE_S[0], now + PAUSE_S[0]
            elif candidate.dial_at <= now and len(dials) < wanted and peer not in dials:
                candidate.dial_at = now + candidate.pause_s
                candidate.pause_s = min(2 * candidate.pause_s, PAUSE_S[1])
                if addresses := candidate.notice.reached_by(interfaces):
                    dials[peer] = addresses
        self._dialled.extend([now] * len(dials))
        return list(dials.items())
