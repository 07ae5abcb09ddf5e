"""Certificates for all devices of a swarm on one machine, as if its founder had invited each of them before it began."""

from collections.abc import Sequence

from crypto.identity import Identity
from gossip.admission import issue
from gossip.manifest import Swarm

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
