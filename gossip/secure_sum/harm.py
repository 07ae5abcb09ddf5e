"""What a device thinks of a sum before it signs it: by its own examples, and by its own update.

**Harm.** A device compares the loss of a few of its own examples under the model without the sum
and with it. A bound on the rise alone is not enough: a forger that stays just below it each time
walks the model away by many small steps. So the loss with the sum is held against the *lowest* loss
of late:

    harm = loss with it - min(loss without it, the losses without a sum at the last LOOKS looks)

If the sum lowers the loss, it is held against the loss without it: a sum that mends is not refused
for what others have broken. A sum may raise the loss by HARM_MAX above the best of late, and no
number of sums may raise it by more than that within LOOKS looks. A device whose loss rose for an
honest reason, as others learned what it does not know, refuses for LOOKS looks at most.

**Part.** A contributor knows one of the n updates in a sum: its own, u. Its *part* in their mean s is
how far it went along it, in lengths of s:

    part = (u . s) / |s|^2

The parts of all contributors have a mean of one, whatever they gave: that is what a mean is. Nothing
bounds what one member puts into its lanes, but whoever is loud makes s long, and the parts of all others small. A
sum that was turned round, invented or blown up is small parts of nearly everybody, too. So a device
refuses a sum of which its part is less than PART_MIN.

*What that bounds.* Let v be the mean of what the honest signers gave. All their parts are PART_MIN
at least, so v . s >= PART_MIN |s|^2, which says that s lies in the ball

    |s - v / (2 PART_MIN)| <= |v| / (2 PART_MIN)

So no sum that is signed goes against the mean of those signers, and none is longer than 1 / PART_MIN times that mean,
whoever made the sum. Earlier sums do not matter, so nobody can prepare the bound.

*What it does not bound.* Parts of unrelated updates differ from one by sqrt(n / parameters), by chance. A device
forgives that much, so for PART_MIN above read PART_MIN - sqrt(n / parameters): .25 for 16 members and the 2,410 parameters
of digits. Where that is zero or less (16 members, 144 parameters) nothing is bounded. Nor does the bound
speak of signers who are no contributors, gave nothing, or have given in (below). A ball bounds a length, and no single
value: a few of them may be anything, if all others are honest (`hijack`, docs/adversary.md).

Of honest sums in digits, clothes, watches and keyboards 0, 0, 2 of 16 and 2 of 86 had more than a
quarter of members below PART_MIN; of sums with a loud member nearly all, of those with one in five at S against
their direction two thirds (docs/decisions/0031). A device that gives far less than the others finds
small parts in honest sums, too. Who has refused STUBBORN in a row for that signs such sums
until it finds itself in one again: a swarm is slowed down by devices that are unlike it, and not stopped.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from gossip.codec.blocks import Integers

LOOKS = 16
HARM_MAX = 0.5  # nats: of honest sums of eight people with a watch each none did more than .48
PART_MIN = 1 / 3
CHANCE = 1.0  # standard deviations of a part that are forgiven
STUBBORN = 16  # refusals in a row
UNKNOWN = math.inf  # part of who has nothing to go by


def part_in(change: Integers, own: Integers | None, contributors: int, size: int) -> float:
    """The part of a device in a sum, and what chance may have taken from it.

    change: int64[parameters], the sum's increment; own: what this device gave, the same in 2^-24, None if it is no contributor;
    size: E of the step.
    """
    if own is None or not own.any():
        return UNKNOWN
    mean, mine = change * (256 / size), own.astype(np.float64)
    length = float(mean @ mean)
    return float(mine @ mean) / length + CHANCE * math.sqrt(contributors / len(change)) if length else 0.0


@dataclass(frozen=True, slots=True)
class Impression:
    """Of one sum."""

    harm: float  # nats
    part: float
    gives_in: bool = False  # whatever its part is

    @property
    def reason(self) -> str:
        """Why it is not to be signed; nothing if it may be."""
        if not self.harm <= HARM_MAX:  # also where it is not a number
            return f"it raises the loss of this device's examples by {self.harm:.3f}"
        if self.is_unlike and not self.gives_in:
            return f"this device has a part of {self.part:.2f} in it, and should have one"
        return ""

    @property
    def is_unlike(self) -> bool:
        return not self.part >= PART_MIN


class Judgement:
    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=LOOKS)
        self._unlike = 0  # sums in a row

    def of(self, before: float, after: float, part: float) -> Impression:
        """`before` and `after` are mean losses in nats."""
        harm = after - (min(before, *self._losses) if after > before and self._losses else before)
        self._losses.append(before)
        made = Impression(harm, part, gives_in=self._unlike >= STUBBORN)
        self._unlike = self._unlike + 1 if made.is_unlike else 0
        return made
