"""What is wrong with a device, its network or its neighbours, from what was measured: pure, each check its own function.

`node/doctor/measure.py` measures. Every finding says in one line what was seen; one that fails says what to do next. What
cannot be known from here is said to be unknown, and does not fail.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from node.config.addresses import listen_address
from node.lan.notice import Interface, Notice

PYTHON_MIN = (3, 11)
RELEASES = {"libp2p": ("0.8.1",), "zeroconf": ("0.149.", "0.150.")}  # what the drivers were written against
CLOCK_S = 300.0  # that two clocks may differ
NAMED_MAX = 5  # devices in one line

Use = Literal["in use", "not ours", "refused"]  # why an address cannot be listened at


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    text: str
    next: str = ""  # the command that comes next, where it fails

    @property
    def line(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.check:<9}  {self.text}" + (
            f"; next: {self.next}" if self.next else ""
        )


@dataclass(frozen=True, slots=True)
class Port:
    """One address to listen at: what kept this device from it, and what it could not reach of it from itself."""

    address: str
    refused: Use | None = None
    reason: str = ""
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Multicast:
    """What came of multicast on one interface."""

    interface: str
    problem: str = ""  # the system let us not send, or not hear
    own: bool = False  # our own question came back
    others: tuple[str, ...] = ()  # who was heard through multicast
    directly: tuple[
        str, ...
    ] = ()  # who answered the same question when asked alone; asked if nobody was heard


@dataclass(frozen=True, slots=True)
class Visit:
    """A device that announces itself, and what became of a connection to it."""

    notice: Notice
    addresses: tuple[str, ...]  # on networks of our own
    clock_ahead_s: float | None = None  # None: it did not answer
    problem: str = ""
    impostor: bool = False  # somebody answered who has not the key of that peer id


def judge_versions(python: tuple[int, int], releases: Mapping[str, str | None]) -> Finding:
    told = ", ".join(
        [f"Python {python[0]}.{python[1]}", *(f"{name} {has}" for name, has in releases.items())]
    )
    if python < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return Finding(
            "versions", False, f"{told}; Python {wanted} or later is needed", f"python{wanted} -m venv .venv"
        )
    for name, fit in RELEASES.items():
        has = releases.get(name)
        if has is None or not has.startswith(fit):
            found = "missing" if has is None else has
            return Finding(
                "versions",
                False,
                f"{name} is {found}, not {' or '.join(fit)}",
                "pip install --upgrade gossamer",
            )
    return Finding("versions", True, told)


def judge_home(path: Path, *, made: bool, problem: str) -> Finding:
    """`problem`: what opening it, its key or its settings said."""
    if not made:
        return Finding("home", True, f"{path}: none yet; made by: gossamer init")
    if problem:
        named = re.search(r"(chmod|gossamer) .+", problem)
        return Finding("home", False, problem, named[0] if named else f"ls -la {shlex.quote(str(path))}")
    return Finding("home", True, f"{path}: only its owner can read it")


def judge_interfaces(interfaces: Sequence[Interface], usable: Sequence[Interface]) -> Finding:
    if usable:
        told = ", ".join(f"{each.name} {each.networks[0]}" for each in usable)
        return Finding("interface", True, told)
    off = [each for each in interfaces if not each.multicast and replace(each, multicast=True).usable]
    if off:
        text = f"{off[0].name} is up, and its multicast is switched off: nobody there can be found"
        return Finding("interface", False, text, f"ip link set {off[0].name} multicast on")
    seen = ", ".join(each.name for each in interfaces) or "none"
    return Finding(
        "interface",
        False,
        f"no interface is up behind which other devices can be (up: {seen})",
        "ip -brief address",
    )


def judge_relaying(relaying: Mapping[str, Any] | None) -> list[Finding]:
    """Whether members beyond this device's own networks can reach it; nothing where its node does not tell."""
    if relaying is None:
        return []
    if relaying["relays"]:
        text = f"behind a router that lets nobody in, as far as is known; reached through {', '.join(relaying['relays'])}"
    elif relaying["reached"]:
        text = (
            f"members beyond its own networks dial it; it carries {relaying['circuits']} circuits for others"
        )
    elif relaying["asked"]:
        text = (
            "nobody beyond its own networks has dialled this device, and none of its neighbours relays for it"
        )
        return [Finding("relay", False, text, "gossamer peers")]
    else:
        text = "it has dialled no member beyond its own networks, and needs none"
    return [Finding("relay", True, text)]


def judge_port(port: Port, settings: Path | None) -> Finding:
    host, number = listen_address(port.address)
    change = "gossamer init --listen" if settings is None else f"edit network.listen in {settings}"
    if port.refused == "in use":
        text = f"{port.address}: port {number} is in use by another program"
        return Finding("port", False, text, f"ss -ltnp 'sport = :{number}'")
    if port.refused is not None:
        what = f"{host} is no address of this device" if port.refused == "not ours" else port.reason
        return Finding("port", False, f"{port.address}: cannot be listened at: {what}", change)
    if port.unreached:
        where = ", ".join(port.unreached)
        text = f"{port.address}: this device cannot reach itself at {where} ({port.reason}); a firewall?"
        return Finding("port", False, text, "nft list ruleset" if number == 0 else f"ufw allow {number}/tcp")
    if host in {"127.0.0.1", "::1"}:
        text = f"{port.address}: open to this machine alone; others can reach it with --listen /ip4/0.0.0.0/tcp/4001"
        return Finding("port", True, text)
    return Finding("port", True, f"{port.address}: can be listened at, and reached from this device")


def judge_multicast(heard: Multicast) -> Finding:
    where = heard.interface
    if heard.problem:
        return Finding("multicast", False, f"{where}: {heard.problem}", f"ip maddress show dev {where}")
    if heard.others:
        return Finding("multicast", True, f"{where}: sent, and heard {_few(heard.others)}")
    if heard.directly:
        text = (
            f"{where}: this network carries no multicast: {_few(heard.directly)} answers when asked alone, and not "
            "when all are asked (a guest Wi-Fi, or a switch or access point that filters it)"
        )
        return Finding(
            "multicast",
            False,
            text,
            "gossamer up --bootstrap ADDRESS, with the address that the other prints",
        )
    if not heard.own:
        text = f"{where}: what this device sends to all does not even come back to it: a firewall on it?"
        return Finding("multicast", False, text, "ufw allow 5353/udp")
    return Finding(
        "multicast",
        True,
        f"{where}: sent, and came back; nobody else answered, so what the network does is not known",
    )


def judge_clock(ahead_s: Mapping[str, float], now: float, not_before: float) -> Finding:
    """`ahead_s`: how far each other device's clock is ahead of ours; `not_before`: when this software, or its home, was
    written, by this device's own clock then. Both in seconds of Unix time.
    """
    if now < not_before:
        text = f"this device's clock is {_span(not_before - now)} before its own files were written"
        return Finding("clock", False, text, "timedatectl set-ntp true")
    off = {device: seconds for device, seconds in ahead_s.items() if abs(seconds) > CLOCK_S}
    if not ahead_s:
        return Finding("clock", True, "not before its own files; no other device is there to compare it to")
    if not off:
        return Finding(
            "clock", True, f"within {_span(max(map(abs, ahead_s.values())))} of {_few(sorted(ahead_s))}"
        )
    told = [
        f"{_span(abs(s))} {'ahead' if s > 0 else 'behind'} on {device}" for device, s in sorted(off.items())
    ]
    ours = len(off) == len(ahead_s) and len(off) > 1
    whose = (
        "this device's is off" if ours else "one of two is off" if len(ahead_s) == 1 else "theirs may be off"
    )
    text = f"clocks differ, and {whose}: it is {_few(told)}"
    if len(ahead_s) > 1:
        text += f"; by the median of {len(ahead_s)}, ours is off by {_span(abs(median(ahead_s.values())))}"
    return Finding("clock", False, text, "timedatectl set-ntp true")


def judge_identity(peer_id: str | None, claims: Sequence[Visit]) -> Finding:
    """`claims`: other devices that announce this peer id."""
    if peer_id is None:
        return Finding("identity", True, "none yet")
    told = [
        f"{claim.notice.device} at {' '.join(claim.addresses) or 'an unknown address'}" for claim in claims
    ]
    guilty = [name for name, claim in zip(told, claims, strict=True) if not claim.impostor]
    if any(claim.clock_ahead_s is not None for claim in claims):
        text = f"duplicate identity: another device on this network has the key of {peer_id}: {_few(guilty)}"
    elif guilty:
        text = f"duplicate identity: another device on this network announces {peer_id}: {_few(guilty)}"
    elif claims:
        return Finding("identity", True, f"{_few(told)} announces {peer_id} and has not its key: ignored")
    else:
        return Finding("identity", True, f"{peer_id}: nobody else announces it")
    return Finding(
        "identity", False, text, "gossamer init --home NEW, on one of the two: a key is for one device"
    )


def judge_devices(visits: Sequence[Visit]) -> Iterable[Finding]:
    """Each device nearby that does not answer; else one line."""
    silent = [visit for visit in visits if visit.clock_ahead_s is None]
    for visit in silent[:NAMED_MAX]:
        where = " ".join(visit.addresses) or "addresses on no network of this device"
        text = f"{visit.notice.device} announces {where} and cannot be reached there: {visit.problem}"
        yield Finding(
            "nearby", False, text, f"gossamer doctor, on {visit.notice.device}: its port may be closed"
        )
    if not silent:
        answered = (
            f"{_few([visit.notice.device for visit in visits])} answers" if visits else "no device was found"
        )
        yield Finding("nearby", True, answered)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _span(seconds: float) -> str:
    """A time in the units that a person would say it in."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes // (24 * 60)} d"
