"""What a device says in public: which aggregates it has learned of, for whoever wants to watch the swarm.

Only a device whose own settings say so (`network.public`) says it, and only to strangers that are its guests
(`node.net.libp2p.guests`); nothing in the swarm depends on it. It names aggregates by their ids and tells nothing of who is
in them, of addresses, or of what is in a sum. That the device wrote it is proven by gossipsub's signature around it; that an
aggregate is valid is not: its id is the hash of a body that only members can pull.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from gossip.fields import Round
from gossip.manifest import Hash
from gossip.wire import Wire, pack

NAMED_MAX = 64  # in one announcement, which then has 2.2 kB


class PublicAnnouncement(Wire, frozen=True):
    version: Literal[1]
    round: Round  # the highest that its author holds
    aggregates: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=NAMED_MAX)]  # learned just now


def topic_of(swarm: bytes) -> str:
    return f"gossamer/1/{swarm.hex()}/public"


def announcements(round_: int, learned: Sequence[bytes]) -> list[bytes]:
    """As few as hold all ids of `learned`."""
    parts = (tuple(learned[at : at + NAMED_MAX]) for at in range(0, len(learned), NAMED_MAX))
    return [pack(PublicAnnouncement(1, round_, part)) for part in parts]
