"""The whole vocabulary between a core and the world.

A core is a pure state machine: `handle(event, now) -> list[Action]`. Events are what happened, in the past tense;
actions are what should happen, as imperatives. A driver (trio and libp2p in a daemon, a heap of virtual time in a
simulation) turns the world into events and actions into the world, and owns every clock, socket, disk and thread.

Two promises of a driver carry all of the safety arguments:
- `Persisted(tag)` comes only after every record of that `Persist` is durable, all of them or none;
- a `Send` is at most once and may be lost: no protocol here takes delivery for granted.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Peer: TypeAlias = bytes  # a device's raw Ed25519 public key, 32 bytes
Floats: TypeAlias = npt.NDArray[np.float32]
Tag: TypeAlias = tuple[Hashable, ...]  # whose timer, record or job it is: ("sum", cohort id, "debit")


class Job(Protocol):
    """Heavy, pure arithmetic: a driver may run it in a thread, and answers with Computed."""

    def run(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Put:
    """One durable fact: `value` under (`table`, `key`)."""

    table: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    table: str
    key: bytes


Record: TypeAlias = Put | Drop


# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A direct message from a neighbour whose key the channel has authenticated."""

    peer: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """An announcement, from the neighbour that forwarded it, who need not have written it."""

    forwarder: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerUp:
    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerDown:
    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A direct message that was not, or perhaps not, delivered."""

    peer: Peer
    data: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    tag: Tag


@dataclass(frozen=True, slots=True)
class Persisted:
    tag: Tag


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """Nothing of that Persist is durable, and nothing that waits for it may happen."""

    tag: Tag
    reason: str


@dataclass(frozen=True, slots=True)
class Computed:
    tag: Tag
    result: object


@dataclass(frozen=True, slots=True)
class TrainerReady:
    """A trainer process is up and idle: the first one, or a fresh one after a crash."""

    examples: int  # on this device


@dataclass(frozen=True, slots=True)
class Eligible:
    """A local phase has done its minimum of steps and goes on."""

    phase: int
    steps: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """A local phase has ended; `delta` is working model minus base, float32 of shape (parameters,)."""

    phase: int
    delta: Floats
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class TrainerFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    round: int
    accuracy: float
    loss: float


Event: TypeAlias = (
    Received
    | Heard
    | PeerUp
    | PeerDown
    | SendFailed
    | TimerFired
    | Persisted
    | PersistFailed
    | Computed
    | TrainerReady
    | Eligible
    | Frozen
    | TrainerFailed
    | Evaluated
)


# --- actions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    peer: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    """To everyone in the swarm, by gossip; at most 64 KiB."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Dial:
    peer: Peer
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disconnect:
    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Replaces an earlier timer of the same tag."""

    tag: Tag
    at: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    tag: Tag


@dataclass(frozen=True, slots=True)
class Persist:
    tag: Tag
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Compute:
    tag: Tag
    job: Job


@dataclass(frozen=True, slots=True)
class Train:
    """Begin a local phase from `base`, float32 of shape (parameters,)."""

    phase: int
    base: Floats
    min_steps: int
    max_steps: int


@dataclass(frozen=True, slots=True)
class Rebase:
    """Add `change` to the running phase's base and to its working model."""

    change: Floats


@dataclass(frozen=True, slots=True)
class Freeze:
    phase: int


@dataclass(frozen=True, slots=True)
class Evaluate:
    round: int
    model: Floats


@dataclass(frozen=True, slots=True)
class Report:
    """Something worth a line in the log; `fields` are plain values."""

    name: str
    fields: dict[str, object]


Action: TypeAlias = (
    Send
    | Publish
    | Dial
    | Disconnect
    | SetTimer
    | CancelTimer
    | Persist
    | Compute
    | Train
    | Rebase
    | Freeze
    | Evaluate
    | Report
)
