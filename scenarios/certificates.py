"""Certificates for all devices of a swarm on one machine, as if its founder had invited each of them before it began."""

from collections.abc import Sequence
from functools import lru_cache

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.manifest import Swarm
from gossip.membership.statements import issue
from scenarios.spec.scenario import VIRTUAL_DEVICES_MAX

LIFE_S = 365 * 86_400


def certify(swarm: Swarm, devices: Sequence[Identity], unix_s: int) -> list[tuple[bytes, ...]]:
    """What each device begins with; the first one is the founder, and knows whom it has invited. Nothing in other swarms."""
    if not swarm.manifest.certifies:
        return [()] * len(devices)
    founder, *invited = devices
    depth = swarm.manifest.invitations.depth_max - 1
    statements = [
        issue(founder, swarm.id, device.public_key, serial, unix_s, unix_s + LIFE_S, depth)
        for serial, device in enumerate(invited)
    ]
    return [tuple(statements), *((statement,) for statement in statements)]


@lru_cache(maxsize=VIRTUAL_DEVICES_MAX)
def identity_of(seed: int, index: int) -> Identity:
    """The same devices in every run of one seed: who leads and who adds up follows from the keys."""
    return Identity(digest("scenario identity", in_bytes(seed), in_bytes(index)))


def order_of(seed: int, identity: Identity) -> int:
    """What draws the order of a device's examples, below 2^32."""
    return int.from_bytes(digest("scenario order", in_bytes(seed), identity.peer_id.encode())[:4], "big")


def in_bytes(value: int) -> bytes:
    return value.to_bytes(8, "big")
