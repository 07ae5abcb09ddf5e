"""A device in virtual time: its hardware, its traffic, and what it is doing."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from crypto.identity import Identity
from gossip.events import Tag
from node.core import NodeCore
from node.virtual.links import Link, Pipe, Port
from node.virtual.trainer import VirtualTrainer


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device's body. Times are virtual seconds."""

    link: Link = field(default_factory=Link)
    step_s: float = 0.01  # of a local step
    job_s: float = 0.002  # of masking or unmasking
    evaluate_s: float = 0.1
    commit_s: float = 0.002  # of a durable write
    on_at_s: float = 0.0
    hub: bool = False
    away: Iterable[tuple[float, float]] = ()  # off from, on again at; ascending, and endless if need be


@dataclass(slots=True)
class Traffic:
    """Bytes as a daemon's socket counts them."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True, eq=False)
class Device:
    """One device in its world: what stays when it is off, and what it has while it is on."""

    index: int
    identity: Identity
    hardware: Hardware
    trainer: VirtualTrainer
    port: Port
    traffic: Traffic = field(default_factory=Traffic)
    disk: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    life: int = 0  # ascends whenever it goes on or off
    core: NodeCore | None = None
    timers: dict[Tag, int] = field(default_factory=dict)  # by tag, the number of the one that counts
    pipes: "dict[bytes, Pipe[Device]]" = field(default_factory=dict)  # to its neighbours
    dialling: dict[bytes, None] = field(default_factory=dict)
    disk_free_s: float = 0.0
    key: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.identity.public_key


def address_of(device: Device) -> str:
    """As long as a real one is."""
    high, low = divmod(device.index, 256)
    return f"/ip4/10.0.{high}.{low}/tcp/40000/p2p/{device.identity.peer_id}"
