"""How much harm a sum does, by one device's own examples.

A device that is about to sign a sum compares the loss of a few of its examples under the model without it and with it. What
counts is not the rise alone: somebody who stays just below a bound each time would walk the model away by many small steps. So
the loss with the sum is held against the *lowest* of the last losses that this device has seen:

    harm = loss with the sum - min(loss without it, the losses without the sum at the last LOOKS looks)

A sum may raise the loss by HARM_MAX above the best of late, and no number of sums may raise it by more than that in LOOKS looks.
Whoever's loss went up for honest reasons, as others learned what it does not know, refuses for LOOKS looks at most.
"""

from collections import deque

LOOKS = 16
HARM_MAX = 0.1  # nats: of honest sums it refused none (iid) and 1.3 % (Dirichlet .3)


class Harm:
    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=LOOKS)

    def of(self, before: float, after: float) -> float:
        """In nats; `before` and `after` are mean losses. Not a number if one of them is none."""
        harm = after - min(before, *self._losses, before)
        self._losses.append(before)
        return harm
