"""What a device thinks of a sum before it signs it, by its own examples and by what sums were like of late.

**Harm.** A device compares the loss of a few of its examples under the model without the sum and with it. What counts is not the rise
alone: somebody who stays just below a bound each time would walk the model away by many small steps. So the loss with the sum
is held against the *lowest* of the last losses that this device has seen:

    harm = loss with the sum - min(loss without it, the losses without the sum at the last LOOKS looks)

or, if the loss falls, against the loss without the sum: what mends is not refused for what others have broken. A sum may raise the loss by HARM_MAX above the best of late, and no number of sums may raise it by more than that in LOOKS looks.
Whoever's loss went up for honest reasons, as others learned what it does not know, refuses for LOOKS looks at most.

**Loudness.** What a single member puts into its lanes is bounded by nothing, and most of what a loud one says does no harm to
others' examples: it is noise. But honest sums are of steady size (`gossip.fold.loudness`), so a sum that is more than LOUD_MAX times as
large as usual has somebody in it who is not. Should all sums grow for an honest reason, or those before have been made small on
purpose, a device bears LENIENCE times as much after each such refusal, and comes back from that slowly: a swarm is slowed down and
not stopped.
"""

from collections import deque
from dataclasses import dataclass

LOOKS = 16
HARM_MAX = 0.1  # nats: of honest sums it refused none (iid) and 1.3 % (Dirichlet .3)
LOUD_MAX = 1.5
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
    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=LOOKS)
        self._bearable = LOUD_MAX

    def of(self, before: float, after: float, loudness: float) -> Impression:
        """`before` and `after` are mean losses in nats."""
        harm = after - (min(before, *self._losses) if after > before and self._losses else before)
        self._losses.append(before)
        made = Impression(harm, loudness, self._bearable)
        if loudness > self._bearable:
            self._bearable *= LENIENCE
        else:
            self._bearable = max(LOUD_MAX, self._bearable * RECOVERY)
        return made
