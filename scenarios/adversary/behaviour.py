"""What bad devices have in common: the league that they are in, and the places at which a behaviour may change something.

A bad device runs the honest core (`scenarios.adversary.core`). Its behaviour changes what that core hears, says, encodes and
adds up; what it leaves alone is done as by an honest device. All bad devices of a swarm share one League: they know each
other's keys and vectors, and agree without a message.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from crypto.hashing import digest
from crypto.identity import Identity
from crypto.masking import Lanes, Vector
from gossip.body import Body
from gossip.events import Action, Event, Floats, Send
from gossip.secure_sum.aggregator import UnmaskJob
from gossip.secure_sum.harm import PART_MIN
from gossip.secure_sum.member import MaskJob, Member
from scenarios.spec.adversary import AdversaryTable

if TYPE_CHECKING:
    from scenarios.adversary.core import HostileCore

COHORTS_KEPT = 64
BISECTIONS = 10  # of those who look for what is just below a tolerance
JUST_BELOW = 0.9  # of the tolerance: other members have other examples
ENOUGH = PART_MIN / JUST_BELOW  # of a device in a sum
Integers = NDArray[np.int64]
Poisoned = tuple[NDArray[np.generic], NDArray[np.int64]]  # inputs and labels


def _unknown(_member: bytes, _model: Floats) -> float:
    return 0.0


@dataclass
class League:
    """`loss` tells the loss of a model on a member's own examples: 0 for any, where nobody trains."""

    identities: Mapping[bytes, Identity] = field(default_factory=dict)  # by key
    loss: Callable[[bytes, Floats], float] = _unknown
    seed: int = 0
    plain: OrderedDict[bytes, dict[int, Integers]] = field(default_factory=OrderedDict)  # by cohort and place

    forged: OrderedDict[bytes, Integers] = field(default_factory=OrderedDict)  # by cohort

    def among(self, members: Sequence[bytes]) -> list[int]:
        """The places of its own in a cohort."""
        return [place for place, member in enumerate(members) if member in self.identities]

    def note(self, cohort: bytes, place: int, values: Integers) -> None:
        self.plain.setdefault(cohort, {})[place] = values
        while len(self.plain) > COHORTS_KEPT:
            self.plain.popitem(last=False)

    def agree(self, cohort: bytes, values: Integers) -> None:
        self.forged[cohort] = values
        while len(self.forged) > COHORTS_KEPT:
            self.forged.popitem(last=False)


@dataclass(frozen=True)
class Plain:
    """A member's vector before it is masked: what stands in it may be changed in place."""

    job: MaskJob
    vector: Vector
    full: Integers  # its honest direction at full size: S, -S or 0 a value

    @property
    def lanes(self) -> Lanes:
        return self.job.plan.lanes

    @property
    def levels(self) -> int:
        """S."""
        return self.job.cohort.swarm.manifest.compression.levels

    @property
    def members(self) -> list[int]:
        return self.job.members

    @property
    def values(self) -> Integers:
        return signed(self.vector, self.lanes)

    def give(self, values: NDArray[np.integer]) -> None:
        """Instead of the honest values, modulo 2^b like any lane."""
        put(self.vector, self.lanes, values)

    @property
    def wide(self) -> NDArray[np.uint32]:
        """The lanes before the values: the ranges."""
        return self.lanes.wide_view(self.vector)

    @property
    def ranges_from(self) -> int:
        return self.lanes.wide - len(self.job.plan.ranges)


@dataclass(frozen=True)
class Added:
    """A sum as its aggregator has it, before it tells the members. It may be changed in place."""

    job: UnmaskJob
    vector: Vector

    @property
    def levels(self) -> int:
        return self.job.cohort.swarm.manifest.compression.levels

    @property
    def most(self) -> int:
        """What a value of the sum may be at most."""
        return self.levels * len(self.job.contributors)

    @property
    def values(self) -> Integers:
        return signed(self.vector, self.job.lanes)

    def give(self, values: NDArray[np.integer]) -> None:
        put(self.vector, self.job.lanes, np.clip(values, -self.most, self.most))


def signed(vector: Vector, lanes: Lanes) -> Integers:
    narrow = lanes.narrow_view(vector)
    return narrow.view(f"<i{narrow.itemsize}").astype(np.int64)


def put(vector: Vector, lanes: Lanes, values: NDArray[np.integer]) -> None:
    narrow = lanes.narrow_view(vector)
    narrow[:] = values.astype(np.int64).astype(narrow.dtype)


def chance(*seed: object) -> np.random.Generator:
    """From a seed: the same in every process."""
    key = digest("adversary", repr(seed).encode())
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little")))


class Behaviour:
    """One bad device, from when it goes on until it goes off. The class's own summary is its line in the documentation."""

    summary: ClassVar[str] = ""
    every_s: ClassVar[float] = 0.0  # how often it is woken; 0: never
    needs_training: ClassVar[bool] = False  # nothing of it is seen where no model is trained

    def __init__(self, core: "HostileCore", table: AdversaryTable, league: League) -> None:
        self.core = core
        self.table = table
        self.league = league

    @classmethod
    def poison(
        cls, inputs: NDArray[np.generic], labels: NDArray[np.int64], classes: int, table: AdversaryTable
    ) -> Poisoned | None:
        """What it trains on instead of these examples of its own; None: on these. `inputs` are unscaled."""
        del inputs, labels, classes, table
        return None

    def hear(self, event: Event, now: float) -> Iterable[Event]:
        """What its core hears instead of an event."""
        del now
        return (event,)

    def say(self, send: Send) -> Iterable[Send]:
        """What leaves instead of a direct message."""
        return (send,)

    def bend(self, plain: Plain) -> None:
        """Its own vector."""

    def add(self, added: Added) -> None:
        """A sum that it is to tell as aggregator."""

    def spoils(self, member: Member, body: Body) -> bool:
        """Whether this sum is one that the league wants: one with its vectors in it."""
        del body
        return bool({*self.league.among(member.cohort.members)} & {*(member.contributors() or ())})

    def after(self, now: float) -> Iterable[Action]:
        """What it does besides, after any event."""
        del now
        return ()

    def wake(self, now: float) -> Iterable[Action]:
        """What it does every `every_s`."""
        del now
        return ()

    @contextmanager
    def forming(self) -> Iterator[None]:
        """Around the roster that it makes as a leader."""
        yield
