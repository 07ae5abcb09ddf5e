"""A member's books: what it has learnt and has not yet given away.

Error feedback, after Seide et al., "1-Bit Stochastic Gradient Descent" (Interspeech 2014); that it repairs any
compressor which on average shrinks what it leaves behind is Karimireddy et al., "Error Feedback Fixes SignSGD" (ICML
2019). Nothing that training found is thrown away: what a sum did not carry, clipped or rounded off stays in the
`residual` and is added to the next phase's delta.

    event                                  residual                     frozen             outstanding
    -------------------------------------  ---------------------------  -----------------  -------------------
    freeze (for a cohort's MASKED)         0                            residual + delta
    debit (before MASKED leaves)           += F (frozen - sent)         none               += sent
    thaw (over before MASKED left)         += frozen                    none
    settle (included, or never known)                                                      forgotten
    refund (excluded, or aborted)          += what was outstanding                         forgotten

The promise is that no delta is ever in two sums: what is out is in `outstanding` alone, and only a certificate that it
is in no sum brings it back. What a node cannot know counts as included. A delta may be lost, never counted twice. All
moves of the residual are additions, because a refund of one cohort can come while another's delta is frozen.

F is the swarm's `feedback`, 1 if nothing is said. Where a device is in one sum of many, what was left of the one before was found a long way
from where the model is now: less of it is more (docs/decisions/0014). Then, and only then, something that training found is dropped. The phase that is under way began with
all of it, and the next one begins with what is left.

A rebase (a fold that arrives during training) moves the phase's base and its working model alike and leaves their
difference, the delta, as it is. So it never reaches these books.

Every method returns new books and leaves the old ones as they were: the caller makes the new ones durable first. In
float32, `sent + residual` equals the frozen vector but for one rounding of each parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gossip.codec.blocks import Integers, Layout
from gossip.errors import MisuseError

OUTSTANDING_MAX = 8  # cohorts whose outcome is open; beyond it the oldest counts as included

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Sent:
    """The part of a frozen vector that a masked vector carries, as the sum's readers will decode it."""

    support: Integers  # block numbers, increasing
    values: Floats  # one a parameter of these blocks, block after block, in the model's unit


@dataclass(frozen=True, eq=False, slots=True)
class Books:
    layout: Layout
    residual: Floats  # shape (parameters,)
    frozen: Floats | None = None
    outstanding: Mapping[bytes, Sent] = field(default_factory=dict)  # by cohort, oldest first

    @classmethod
    def empty(cls, layout: Layout) -> Books:
        return cls(layout, np.zeros(layout.parameters, np.float32))

    def freeze(self, delta: Floats) -> Books:
        """Close a local phase: `frozen` is what there is to give, float32[parameters].

        ValueError if it is not finite (training diverged: drop the delta), MisuseError while another is frozen.
        """
        if self.frozen is not None:
            raise MisuseError("a local phase is frozen already; debit or thaw it first")
        if delta.dtype != np.float32 or delta.shape != self.residual.shape:
            raise MisuseError(
                f"a delta is float32 of shape {self.residual.shape}, not {delta.dtype} {delta.shape}"
            )
        with np.errstate(over="ignore"):
            frozen = self.residual + delta
        finite = np.isfinite(frozen)
        if not finite.all():
            raise ValueError(f"training diverged: parameter {int(np.argmin(finite))} is not finite")
        return replace(self, residual=np.zeros_like(self.residual), frozen=frozen)

    @property
    def to_give(self) -> Floats:
        """The frozen vector; MisuseError if there is none."""
        if self.frozen is None:
            raise MisuseError("no local phase is frozen")
        return self.frozen

    def debit(self, cohort: bytes, sent: Sent, feedback: float = 1.0) -> Books:
        """Before a payload leaves: what it carries is out, of the rest `feedback` stays. MisuseError for a second one."""
        if cohort in self.outstanding:
            raise MisuseError("this cohort's payload is debited already")
        residual = self._thawed()
        residual[self.layout.places(sent.support)] -= sent.values
        if feedback != 1.0:
            residual *= np.float32(feedback)
        outstanding = dict([*self.outstanding.items(), (cohort, sent)][-OUTSTANDING_MAX:])
        return Books(self.layout, residual, None, outstanding)

    @property
    def ahead(self) -> Floats:
        """What this member has learnt and the shared model does not show yet, float32[parameters].

        Training starts from the shared model plus this: from the shared model alone it would find the same change again in
        every phase until it is sent and folded, and overshoot (docs/decisions/0008).
        """
        ahead = self.residual.copy() if self.frozen is None else self._thawed()
        for sent in self.outstanding.values():
            ahead[self.layout.places(sent.support)] += sent.values
        return ahead

    def thaw(self) -> Books:
        """Nothing that reveals the values has left: all of it stays. MisuseError if nothing is frozen."""
        return replace(self, residual=self._thawed(), frozen=None)

    def settle(self, cohort: bytes) -> Books:
        """The payload is in a sum, or nobody will ever know. A cohort that is not outstanding changes nothing."""
        return replace(self, outstanding=self._without(cohort))

    def refund(self, cohort: bytes) -> Books:
        """A certificate says that the payload is in no sum. A cohort that is not outstanding changes nothing."""
        sent = self.outstanding.get(cohort)
        if sent is None:
            return self
        residual = self.residual.copy()
        residual[self.layout.places(sent.support)] += sent.values
        return replace(self, residual=residual, outstanding=self._without(cohort))

    def _thawed(self) -> Floats:
        return self.residual + self.to_give

    def _without(self, cohort: bytes) -> Mapping[bytes, Sent]:
        return {other: sent for other, sent in self.outstanding.items() if other != cohort}
