"""Devices and addresses as libp2p has them, and its errors in words."""

# ruff: noqa: TID251 - touches libp2p

import functools
import os

from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from multiaddr import Multiaddr

from crypto.identity import public_key_of
from node.net.libp2p.terms import ANOTHER


def id_of(peer: bytes) -> ID:
    return ID(b"\x00\x24\x08\x01\x12\x20" + peer)  # the head is explained in crypto.identity


@functools.lru_cache(maxsize=1024)
def key_of(name: ID) -> bytes:
    return public_key_of(name.to_base58())


def parsed(text: str) -> tuple[Multiaddr, bytes | None]:
    """A TCP address, and the key of the device that it names, if it does. ValueError."""
    try:
        address = Multiaddr(text)
    except ValueError as error:
        raise ValueError("not a multiaddr") from error
    names = [protocol.name for protocol in address.protocols()]
    if names[1:] not in (["tcp"], ["tcp", "p2p"]) or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        raise ValueError("not of the form /ip4/ADDRESS/tcp/PORT, with or without /p2p/PEER")
    if names[-1] == "tcp":
        return address, None
    peer = str(address.value_for_protocol("p2p"))
    return address.decapsulate(Multiaddr(f"/p2p/{peer}")), public_key_of(peer)


def tcp_address(host: str, port: int) -> Multiaddr:
    return Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


def reason_of(error: BaseException | None) -> str:
    """What libp2p's chain of errors began with, in words."""
    reason = "unknown"
    while error is not None:
        if isinstance(error, PeerIDMismatchesPubkey):
            return ANOTHER
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error) or type(error).__name__
        error = error.__cause__ or error.__context__
    return reason
