"""Addresses as a person writes them, and what is wrong with one that does not fit."""

import ipaddress
import re

from crypto.identity import public_key_of
from node.config.errors import shown

_LISTEN_FORM = "/ip4/ADDRESS/tcp/PORT"
_BOOTSTRAP_FORM = "/ip4/ADDRESS/tcp/PORT/p2p/12D3KooW..."
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_PORT = re.compile(r"[0-9]{1,5}")


def listen_address(address: str) -> tuple[str, int]:
    """The IP address and TCP port of `/ip4/ADDRESS/tcp/PORT` or its ip6 form; ValueError for anything else."""
    host, port, rest = _tcp(address, ("ip4", "ip6"), port_min=0)
    if rest:
        raise ValueError(f"{shown(address)} has more than an address and a port; expected {_LISTEN_FORM}")
    return host, port


def bootstrap_peer(address: str) -> bytes:
    """The public key of whom `/ip4/ADDRESS/tcp/PORT/p2p/PEER_ID` leads to; ValueError for anything else.

    Without the peer id, whoever answers at the address could pass for the device that was meant.
    """
    _, _, rest = _tcp(address, ("ip4", "ip6", "dns", "dns4", "dns6"), port_min=1)
    if len(rest) != 2 or rest[0] != "p2p":
        raise ValueError(f"{shown(address)} does not name the peer; expected {_BOOTSTRAP_FORM}")
    try:
        return public_key_of(rest[1])
    except ValueError as error:
        raise ValueError(f"{shown(address)}: {error}; expected {_BOOTSTRAP_FORM}") from error


def bootstrap_host(address: str) -> str | None:
    """The IP address to which a bootstrap address leads; None where it is a name."""
    parts = address.split("/")
    return parts[2] if parts[1] in {"ip4", "ip6"} else None


def _tcp(address: str, families: tuple[str, ...], *, port_min: int) -> tuple[str, int, list[str]]:
    """Host, port and what follows them in a multiaddr of TCP; ValueError in words."""
    parts = address.split("/")
    if len(parts) < 5 or parts[0] or parts[1] not in families or parts[3] != "tcp":
        raise ValueError(f"{shown(address)} is no TCP multiaddr; expected {_LISTEN_FORM} and the like")
    family, host, port = parts[1], parts[2], parts[4]
    if family in {"ip4", "ip6"}:
        try:
            (ipaddress.IPv4Address if family == "ip4" else ipaddress.IPv6Address)(host)
        except ValueError as error:
            raise ValueError(f"{shown(address)}: {host} is no {family} address") from error
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{shown(address)}: {host} is no host name")
    if not _PORT.fullmatch(port) or not port_min <= int(port) <= 65535:
        raise ValueError(f"{shown(address)}: {port} is no port from {port_min} to 65535")
    return host, int(port), parts[5:]
