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
does no harm to others' examples: it is noise. But honest sums are of steady size
(`gossip.fold.loudness`). A sum that is more than LOUD_MAX times as large as usual has a loud member
in it. All sums may grow for an honest reason, and earlier ones may have been made small on purpose.
So a device bears LENIENCE times as much after each refusal for loudness, and comes back from that
slowly: a swarm is slowed down and not stopped.
"""

import math
from collections import deque
from dataclasses import dataclass

LOOKS = 16
HARM_MAX = 0.1  # nats: of honest sums it refused none (iid) and 1.3 % (Dirichlet .3)
LOUD_MAX = 1.5
CHANCE = 3.0  # standard deviations of a size, about 1 / sqrt(parameters), that are no reason
LENIENCE = 1.5
RECOVERY = 0.9


@dataclass(frozen=True, slots=True)
class Impression:
    """Of one sum."""

    harm: float  # nats
    loudness: float  # times as large as usual
    bearable: float  # loudness

    @property
    def reason(self) -> str:
        """Why it is not to be signed; nothing if it may be."""
        if not self.harm <= HARM_MAX:  # also where it is not a number
            return f"it raises the loss of this device's examples by {self.harm:.3f}"
        if self.loudness > self.bearable:
            return f"it is {self.loudness:.1f} times as large as usual"
        return ""


class Judgement:
    def __init__(self, parameters: int = 1 << 20) -> None:
        """`parameters`: of the model. Sizes of small ones vary by chance."""
        self._losses: deque[float] = deque(maxlen=LOOKS)
        self._least = LOUD_MAX * (1 + CHANCE / math.sqrt(parameters))
        self._bearable = self._least

    def of(self, before: float, after: float, loudness: float) -> Impression:
        """`before` and `after` are mean losses in nats."""
        harm = after - (min(before, *self._losses) if after > before and self._losses else before)
        self._losses.append(before)
        made = Impression(harm, loudness, self._bearable)
        if loudness > self._bearable:
            self._bearable *= LENIENCE
        else:
            self._bearable = max(self._least, self._bearable * RECOVERY)
        return made
