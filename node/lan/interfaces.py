"""This device's network interfaces as the operating system tells them now."""

import contextlib
import ipaddress
import socket

import psutil

from node.lan.notice import Interface, Network

INTERFACES_MAX = 32  # looked at


def interfaces() -> list[Interface]:
    """Those that are up and have an address, usable for finding others or not."""
    addresses = psutil.net_if_addrs()
    up = [(name, stats) for name, stats in psutil.net_if_stats().items() if stats.isup and name in addresses]
    found = []
    for name, stats in up[:INTERFACES_MAX]:
        flags = stats.flags.split(",")
        networks = [
            _network(each.address, each.netmask) for each in addresses[name] if each.family in _FAMILIES
        ]
        known = tuple(network for network in networks if network is not None)
        if known:
            # Windows tells no flags; there, as on all others, what cannot multicast fails the doctor's test.
            found.append(
                Interface(
                    name,
                    known,
                    multicast=not stats.flags or "multicast" in flags,
                    loopback=known[0].is_loopback,
                )
            )
    return found


def usable_interfaces() -> list[Interface]:
    return [interface for interface in interfaces() if interface.usable]


_FAMILIES = {socket.AF_INET, socket.AF_INET6}


def _network(address: str, netmask: str | None) -> Network | None:
    """None for what the system says and no network is: an address without a mask, say."""
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(address.partition("%")[0])
        if netmask is None:
            return ipaddress.ip_interface(ip)
        prefix = int(ipaddress.ip_address(netmask)).bit_count()
        return ipaddress.ip_interface(f"{ip}/{prefix}")
    return None
