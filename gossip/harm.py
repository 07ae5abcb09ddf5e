"""What a device thinks of a sum before it signs it: by its own examples, and by earlier sums.

**Harm.** A device compares the loss of a few of its own examples under the model without the sum
and with it. A bound on the rise alone is not enough: a forger that stays just below it each time
walks the model away by many small steps. So the loss with the sum is held against the *lowest* loss
of late:

    harm = loss with it - min(loss without it, the losses without a sum at the last LOOKS looks)

If the sum lowers the loss, it is held against the loss without it: a sum that mends is not refused
for what others have broken. A sum may raise the loss by HARM_MAX above the best of late, and no
number of sums may raise it by more than that within LOOKS looks. A device whose loss rose for an
honest reason, as others learned what it does not know, refuses for LOOKS looks at most.

**Loudness.** Nothing bounds what one member puts into its lanes, and most of what a loud one gives
does no harm to others' examples: it is noise. But honest sums are of steady size. A sum that is
more than LOUD_MAX times as large as usual has a loud member in it. All sums may grow for an honest
reason, and earlier ones may have been made small on purpose. So a device bears LENIENCE times as
much after each refusal for loudness, and comes back from that slowly: a swarm is slowed down and not
stopped.

A loud member that is in sum after sum must not be borne for that, nor must what is usual follow it.
So what a device bears has an end that nobody else can move: OWN_LOUD times its own update. Where all
have an honest reason, its own has grown, too. Should more than a quarter of the devices be so quiet
that all others are loud to them, each gives in after STUBBORN refusals in a row.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from gossip.fold import RECENT_MIN, Recent
from gossip.layout import Integers

LOOKS = 16
HARM_MAX = 0.1  # nats: of honest sums it refused none (iid) and 1.3 % (Dirichlet .3)
LOUD_MAX = 1.5
CHANCE = 3.0  # standard deviations of a size, about 1 / sqrt(parameters), that are no reason
LENIENCE = 1.5
RECOVERY = 0.9
OWN_MAX = 2.0  # times as large as what is usual is one update at most, where the sums of late are honest
OWN_LOUD = 3.0
STUBBORN = 64


class Loudness(NamedTuple):
    """Of one sum: how many times as large it is as it should be, by what is usual and by what one mean can be; and as its own."""

    usual: float
    own: float


QUIET = Loudness(0.0, 0.0)


def loudness(
    change: Integers, contributors: int, recent: Sequence[Recent], size: int, own: float
) -> Loudness:
    """How large a sum's increment is.

    change: int64[parameters]; size: E of its step; own: the sum of the magnitudes of what this device gave, in 2^-24.

    A mean of n updates that agree on little is as large as 1 / sqrt(n), so sizes are held against each other times sqrt(n). Of
    honest sums of digits the largest was 1.14 (iid) and 1.33 (Dirichlet .3) times as large as usual. Sums are not usual that
    are far smaller than one update is: whoever forged the last rounds made them small. A device's own was .83 of what is usual,
    and more than twice as much in 1 % of sums.

    A mean is never larger than the largest update, however much they agree (honest ones were .76 of a device's own at most, and
    .8 to 2.7 times as large by sqrt(n)). That holds also where nothing is usual: in the first rounds, and after loud ones.
    """
    mean = int(np.abs(change).sum()) * 256 / size
    now = mean * math.sqrt(contributors)
    by_own = mean / own if own else 0.0
    if len(recent) < RECENT_MIN:
        return Loudness(by_own, now / own if own else 0.0)
    usual = max(own / OWN_MAX, median(sum(each.sizes) * math.sqrt(each.contributors) for each in recent))
    return Loudness(max(by_own, now / usual if usual else 0.0), now / own if own else math.inf)


@dataclass(frozen=True, slots=True)
class Impression:
    """Of one sum."""

    harm: float  # nats
    loudness: Loudness
    bearable: float  # times as large as usual
    least: float  # of what is bearable
    gives_in: bool  # whatever its own update is

    @property
    def reason(self) -> str:
        """Why it is not to be signed; nothing if it may be."""
        if not self.harm <= HARM_MAX:  # also where it is not a number
            return f"it raises the loss of this device's examples by {self.harm:.3f}"
        if self.is_loud:
            return f"it is {self.loudness.usual:.1f} times as large as usual"
        return ""

    @property
    def is_loud(self) -> bool:
        usual, own = self.loudness
        return usual > self.bearable or (usual > self.least and own > OWN_LOUD and not self.gives_in)


class Judgement:
    def __init__(self, parameters: int = 1 << 20) -> None:
        """`parameters`: of the model. Sizes of small ones vary by chance."""
        self._losses: deque[float] = deque(maxlen=LOOKS)
        self._least = LOUD_MAX * (1 + CHANCE / math.sqrt(parameters))
        self._bearable = self._least
        self._refused = 0  # loud ones in a row

    def of(self, before: float, after: float, loudness: Loudness) -> Impression:
        """`before` and `after` are mean losses in nats."""
        harm = after - (min(before, *self._losses) if after > before and self._losses else before)
        self._losses.append(before)
        made = Impression(harm, loudness, self._bearable, self._least, self._refused >= STUBBORN)
        self._refused = self._refused + 1 if made.is_loud else 0
        if loudness.usual > self._bearable:
            self._bearable *= LENIENCE
        else:
            self._bearable = max(self._least, self._bearable * RECOVERY)
        return made
