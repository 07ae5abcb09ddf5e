"""The whole vocabulary between a core and the world.

A core is a pure state machine: `handle(event, now) -> list[Action]`. Events are what happened, in the past tense;
actions are what should happen, as imperatives. A driver (trio and libp2p in a daemon, a heap of virtual time in a
simulation) turns the world into events and actions into the world, and owns every clock, socket, disk and thread.

Two promises of a driver carry all of the safety arguments:
- `Persisted(tag)` comes only after every record of that `Persist` is durable, all of them or none;
- a `Send` is at most once and may be lost: no protocol here takes delivery for granted.
"""

from collections.abc import Hashable
from typing import Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Peer: TypeAlias = bytes  # a device's raw Ed25519 public key, 32 bytes
Floats: TypeAlias = npt.NDArray[np.float32]
Tag: TypeAlias = tuple[Hashable, ...]  # whose timer, record or job it is: ("sum", cohort id, "debit")


class Word(msgspec.Struct, frozen=True, gc=False):
    """Base of both. A large simulation makes millions, and a frozen dataclass takes many times as long to make.

    No cycle can go through one, so the collector need not know of it.
    """


class Job(Protocol):
    """Heavy, pure arithmetic: a driver may run it in a thread, and answers with Computed."""

    def run(self) -> object: ...


def result_of(job: Job) -> object:
    """What `Computed` brings: what the job found, or what it raised. Peers' words are in it, and may have found a bug of ours."""
    try:
        return job.run()
    except Exception as error:  # noqa: BLE001 - the core tells it as a fault
        return error


class Put(Word, frozen=True):
    """One durable fact: `value` under (`table`, `key`)."""

    table: str
    key: bytes
    value: bytes


class Drop(Word, frozen=True):
    table: str
    key: bytes


Record: TypeAlias = Put | Drop


# --- events ---------------------------------------------------------------------------------------------------


class Received(Word, frozen=True):
    """A direct message from a neighbour whose key the channel has authenticated."""

    peer: Peer
    data: bytes


class PeerUp(Word, frozen=True):
    peer: Peer


class PeerDown(Word, frozen=True):
    peer: Peer
    reason: str


class SendFailed(Word, frozen=True):
    """A direct message that was not, or perhaps not, delivered."""

    peer: Peer
    data: bytes
    reason: str


class TimerFired(Word, frozen=True):
    tag: Tag


class Persisted(Word, frozen=True):
    tag: Tag


class PersistFailed(Word, frozen=True):
    """Nothing of that Persist is durable, and nothing that waits for it may happen."""

    tag: Tag | None
    reason: str


class Computed(Word, frozen=True):
    tag: Tag
    result: object


class Looked(Word, frozen=True):
    """The answer to Look: the mean loss of a few examples under either model, in nats; not a number if it is lost."""

    tag: Tag
    before: float
    after: float


class TrainerReady(Word, frozen=True):
    """A trainer process is up and idle: the first one, or a fresh one after a crash."""

    examples: int  # on this device


class Eligible(Word, frozen=True):
    """A local phase has done its minimum of steps and goes on."""

    phase: int
    steps: int


class Frozen(Word, frozen=True):
    """A local phase has ended; `delta` is working model minus base, float32 of shape (parameters,)."""

    phase: int
    delta: Floats
    steps: int
    loss: float


class TrainerFailed(Word, frozen=True):
    reason: str


class Evaluated(Word, frozen=True):
    round: int
    accuracy: float
    loss: float


class Clock(Word, frozen=True):
    """The time of day, at the start and about once a minute: certificates expire by it, and nothing else does."""

    unix_s: int


class Admit(Word, frozen=True):
    """This device's owner invites a device, until then; it may admit `depth` further generations. Answered."""

    device: Peer
    expires_s: int  # unix time
    depth: int = 0


class Revoke(Word, frozen=True):
    """This device's owner takes back a device's admission. Answered."""

    device: Peer


class Block(Word, frozen=True):
    """This device's owner wants nothing to do with a device, or takes that back. Answered."""

    device: Peer
    blocked: bool


class Strike(Word, frozen=True):
    """This device's owner takes back what a device has given since a round (`gossip.history.strikes`). Answered."""

    device: Peer
    since: int


class Kept(Word, frozen=True):
    """The link to this neighbour is needed, however idle it is, for as long as it lasts."""

    peer: Peer


class Woke(Word, frozen=True):
    """This device stood still: its clock has gone on, and it has heard nothing meanwhile."""

    slept_s: float


class Readdressed(Word, frozen=True):
    """All addresses at which this device can be reached from now on.

    `moved`: it is at another place in the network, so that connections and dials of before say nothing; not where one of
    those through which it is relayed came or went.
    """

    addresses: tuple[str, ...]
    moved: bool = False


Event: TypeAlias = (
    Received
    | PeerUp
    | PeerDown
    | SendFailed
    | TimerFired
    | Persisted
    | PersistFailed
    | Computed
    | Looked
    | TrainerReady
    | Eligible
    | Frozen
    | TrainerFailed
    | Evaluated
    | Clock
    | Admit
    | Revoke
    | Block
    | Strike
    | Kept
    | Woke
    | Readdressed
)


# --- actions --------------------------------------------------------------------------------------------------


class Send(Word, frozen=True):
    peer: Peer
    data: bytes


class TellGuests(Word, frozen=True):
    """To strangers that listen in public (`gossip.history.public_announcement`), if there are any."""

    data: bytes


class Dial(Word, frozen=True):
    peer: Peer
    addresses: tuple[str, ...]


class Disconnect(Word, frozen=True):
    peer: Peer
    reason: str


class SetTimer(Word, frozen=True):
    """Replaces an earlier timer of the same tag."""

    tag: Tag
    at: float


class CancelTimer(Word, frozen=True):
    tag: Tag


class Persist(Word, frozen=True):
    """Without a tag, nobody waits for it: no Persisted comes, and a failure is told all the same."""

    tag: Tag | None
    records: tuple[Record, ...]


class Compute(Word, frozen=True):
    tag: Tag
    job: Job


class Train(Word, frozen=True):
    """Begin a local phase from `base`, float32 of shape (parameters,)."""

    phase: int
    base: Floats
    min_steps: int
    max_steps: int


class Rebase(Word, frozen=True):
    """Add `change` to the running phase's base and to its working model."""

    change: Floats


class Freeze(Word, frozen=True):
    phase: int


class Abandon(Word, frozen=True):
    """End a local phase whose delta nobody will ask for."""

    phase: int


class Evaluate(Word, frozen=True):
    round: int
    model: Floats


class Pause(Word, frozen=True):
    """Take no local step until Resume: a Look is about to come, at this model without the sum and at one with it."""

    before: Floats


class Resume(Word, frozen=True):
    """Go on with local steps, if there was a Pause."""


class Look(Word, frozen=True):
    """Compare two models, float32 of shape (parameters,), on a few examples of this device's own. Answered by Looked."""

    tag: Tag
    before: Floats
    after: Floats


class Report(Word, frozen=True):
    """Something worth a line in the log; `fields` are plain values."""

    name: str
    fields: dict[str, object]


class Answered(Word, frozen=True):
    """To Admit, Revoke, Block or Strike: done, and durable; or why not."""

    question: Admit | Revoke | Block | Strike
    refusal: str = ""
    statements: tuple[bytes, ...] = ()  # the device's chain of certificates, with which an invited one begins


Action: TypeAlias = (
    Send
    | TellGuests
    | Dial
    | Disconnect
    | SetTimer
    | CancelTimer
    | Persist
    | Compute
    | Train
    | Rebase
    | Freeze
    | Abandon
    | Evaluate
    | Pause
    | Resume
    | Look
    | Report
    | Answered
)
