"""Measures what `node.doctor.judge` judges: this device, its network, and the devices that are found on it. Changes nothing.

It needs no home and no running node, and uses both where they are. What takes time runs side by side, each with an end:
the whole takes some ten seconds. Devices nearby are visited under a key that is made for the purpose.
"""

import contextlib
import errno
import importlib
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trio  # noqa: TID251 - the drivers are trio's room

import node
from crypto.identity import SEED_BYTES
from gossip.errors import GossamerError, PeerViolation
from node.clock import unix_time
from node.config.addresses import bootstrap_host, listen_address
from node.config.settings import Config, NetworkSettings, load_config
from node.control_client import NotAnswering, Refused, call
from node.doctor.judge import (
    Finding,
    Multicast,
    Port,
    Use,
    Visit,
    judge_clock,
    judge_devices,
    judge_home,
    judge_identity,
    judge_interfaces,
    judge_multicast,
    judge_port,
    judge_relaying,
    judge_versions,
)
from node.doctor.multicast import try_multicast
from node.home import Home, NotRunning, open_home, read_identity
from node.lan.interfaces import interfaces as all_interfaces
from node.lan.mdns import NoMulticast, look_around
from node.lan.notice import Interface, Notice
from node.net.libp2p.terms import ANOTHER, Unreachable

AROUND_S = 4.0
REACH_S = 2.0
VISIT_S = 5.0
VISITS_MAX = 16  # devices nearby
ADDRESSES_MAX = 2  # of each
INTERFACES_MAX = 4  # on which multicast is tried
PINGED_MAX = 4  # neighbours of the running node
RELEASES = ("gossamer", "libp2p", "trio", "zeroconf")


@dataclass(slots=True)
class Device:
    """This one: what is in its home, and what its node says, if it runs."""

    path: Path
    made: bool
    problem: str = ""
    peer_id: str | None = None
    config: Config | None = None
    node: Finding = field(
        default_factory=lambda: Finding("node", True, "does not run; started by: gossamer up")
    )
    status: dict[str, Any] | None = None
    peers: list[dict[str, Any]] = field(default_factory=list)
    ahead_s: dict[str, float] = field(default_factory=dict)  # its neighbours' clocks


def examine(path: Path) -> list[Finding]:
    return trio.run(_examine, path)


async def _examine(path: Path) -> list[Finding]:
    device = await trio.to_thread.run_sync(_ask_device, path)
    here = all_interfaces()
    usable = [interface for interface in here if interface.usable]
    found: dict[str, Notice] = {}
    heard: dict[str, Multicast] = {}
    ports: list[Port] = []

    async def look() -> None:
        with contextlib.suppress(NoMulticast):  # which the test of multicast says better
            found.update(await trio.to_thread.run_sync(look_around, usable, AROUND_S))

    async def listen(interface: Interface) -> None:
        heard[interface.name] = await trio.to_thread.run_sync(try_multicast, interface, _hosts(device))

    async def reach() -> None:
        ports.extend(await trio.to_thread.run_sync(_try_ports, device, here, usable))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reach)
        if usable:
            nursery.start_soon(look)
        for interface in usable[:INTERFACES_MAX]:
            nursery.start_soon(listen, interface)
    instance = ((device.status or {}).get("nearby") or {}).get("instance")
    others = {name: notice for name, notice in found.items() if name != instance}
    visits = await _visit_all(list(others.values())[:VISITS_MAX], usable)
    claims = [visit for visit in visits if visit.notice.peer_id == device.peer_id]
    met = [visit for visit in visits if visit.notice.peer_id != device.peer_id]
    clocks = device.ahead_s | {
        visit.notice.peer_id: visit.clock_ahead_s for visit in met if visit.clock_ahead_s is not None
    }
    names = {visit.notice.peer_id: visit.notice.device for visit in met}
    # By peer id, so that a neighbour that is nearby counts once.
    ahead_s = {f"{names.get(peer, 'neighbour')} ({peer[-6:]})": ahead for peer, ahead in clocks.items()}
    settings = None if device.config is None else Home(path).config
    return [
        judge_versions(sys.version_info[:2], {name: _release(name) for name in RELEASES}),
        judge_home(path, made=device.made, problem=device.problem),
        device.node,
        *judge_relaying((device.status or {}).get("relaying")),
        judge_interfaces(here, usable),
        *(judge_port(port, settings) for port in ports),
        *(judge_multicast(heard[name]) for name in sorted(heard)),
        judge_clock(ahead_s, unix_time(), _written(path)),
        judge_identity(device.peer_id, claims),
        *judge_devices(met),
    ]


# --- this device ----------------------------------------------------------------------------------------------


def _ask_device(path: Path) -> Device:
    device = Device(path, os.path.lexists(Home(path).key))
    if not device.made:
        return device
    try:
        home = open_home(path)
        device.peer_id = read_identity(home).peer_id
        device.config = load_config(home.config)
    except GossamerError as error:
        device.problem = str(error)
        return device
    try:
        device.status = status = call(home, "GET", "/status")
        device.node = Finding("node", True, f"{status['doing']}, and waits for {status['waits_for']}")
        device.peers = [peer for peer in call(home, "GET", "/peers")["peers"] if peer["neighbour"]]
        for peer in device.peers[:PINGED_MAX]:
            with contextlib.suppress(Refused):  # it just left
                told = call(
                    home, "POST", "/ping", json={"peer": peer["peer_id"], "count": 3}, timeout_s=VISIT_S
                )
                device.ahead_s[peer["peer_id"]] = told["clock_ahead_s"]
    except (NotRunning, Refused):  # not up, or not yet
        pass
    except NotAnswering as error:
        device.node = Finding("node", False, str(error), f"tail {home.log}")
    return device


def _hosts(device: Device) -> list[str]:
    """Where devices were seen that multicast need not know of."""
    network = device.config.network if device.config is not None else NetworkSettings()
    direct = [peer["address"] for peer in device.peers if peer["address"] and peer["route"] != "relay"]
    ends = [listen_address(address)[0] for address in direct]
    return [*ends, *(host for each in network.bootstrap if (host := bootstrap_host(each)) is not None)]


def _release(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return None


def _written(path: Path) -> float:
    """When this software was put here, or this home was written to, whichever was last."""
    files = [Path(node.__file__), Home(path).key, Home(path).config, path / "swarm.manifest"]
    return max(file.stat().st_mtime for file in files if file.exists())


# --- its ports ------------------------------------------------------------------------------------------------


def _try_ports(device: Device, here: Sequence[Interface], usable: Sequence[Interface]) -> list[Port]:
    """Of a running node its own; else each that the settings name, bound for the moment of the test."""
    if device.status is not None and device.status["addresses"]:
        own = [address for address in device.status["addresses"] if "/p2p-circuit" not in address]
        addresses = [address.partition("/p2p/")[0] for address in own]
        return [_reach(address, [listen_address(address)]) for address in addresses]
    listen = device.config.network.listen if device.config is not None else NetworkSettings().listen
    return [_bind_and_reach(address, usable or here) for address in listen]


def _bind_and_reach(address: str, interfaces: Sequence[Interface]) -> Port:
    host, port = listen_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            uses: Mapping[int | None, Use] = {errno.EADDRINUSE: "in use", errno.EADDRNOTAVAIL: "not ours"}
            return Port(address, uses.get(error.errno, "refused"), error.strerror or "refused")
        at = listener.getsockname()[1]
        own = [network.ip for interface in interfaces for network in interface.networks]
        wildcard = host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        version_ = 6 if family is socket.AF_INET6 else 4
        ends = (
            [str(ip) for ip in own if ip.version == version_ and not ip.is_link_local] if wildcard else [host]
        )
        return _reach(address, [(end, at) for end in ends])


def _reach(address: str, ends: Sequence[tuple[str, int]]) -> Port:
    unreached, reason = [], ""
    for host, port in ends:
        try:
            socket.create_connection((host, port), timeout=REACH_S).close()
        except OSError as error:
            unreached.append(f"{host}:{port}")
            reason = error.strerror or "no answer"
    return Port(address, None, reason, tuple(unreached))


# --- devices nearby -------------------------------------------------------------------------------------------


async def _visit_all(notices: Sequence[Notice], usable: Sequence[Interface]) -> list[Visit]:
    """In the order of the notices."""
    visits: dict[int, Visit] = {}

    async def visit(place: int, notice: Notice) -> None:
        visits[place] = await _visit(notice, notice.reached_by(usable)[:ADDRESSES_MAX])

    if notices:  # seconds of importing, once
        await trio.to_thread.run_sync(importlib.import_module, "node.net.libp2p.visits")
    async with trio.open_nursery() as nursery:
        for place, notice in enumerate(notices):
            nursery.start_soon(visit, place, notice)
    return [visits[place] for place in sorted(visits)]


async def _visit(notice: Notice, addresses: Sequence[str]) -> Visit:
    from node.net.libp2p.visits import ping_address  # noqa: PLC0415 - see _visit_all

    shown = tuple(address.partition("/p2p/")[0] for address in addresses)
    problem = "none of its addresses is on a network of this device"
    impostor = bool(addresses)
    for address in addresses:
        try:
            pinged = await ping_address(address, identity_seed=os.urandom(SEED_BYTES), timeout_s=VISIT_S)
        except (Unreachable, PeerViolation) as error:
            problem = str(error).rpartition(": ")[2]
            impostor = impostor and problem == ANOTHER
        else:
            return Visit(notice, shown, pinged.clock_ahead_s)
    return Visit(notice, shown, None, problem, impostor)
