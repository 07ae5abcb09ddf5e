"""The fold: from a history to a model, in integers, the same bits on every machine for the same set.

All numbers are int64 in units of 2^-24. For each block that an aggregate of round r carries, over those that
count in r and carry the block (`gossip.history.dag` says which count):

    inc_r = bound( clip( floor( E sum_a Q_a 2^(24 + e_a) / (256 S sum_a W_a[segment of the block]) ), +-cap ) )
    v_r   = floor(B v / 256) + inc_r           x_r = x + inc_r + floor(B v_r / 256)

It is a mean of the contributors' deltas, times the step size E / 256, with Nesterov's momentum B / 256 in the form of
Sutskever et al. (ICML 2013); E and B belong to the round. W_a counts the contributors who trained a segment, so every
device weighs the same (docs/decisions/0025). A block without weight stays as it is. Without momentum anywhere in the
schedule there is no v.

**What one round may do** is bounded by what rounds have done of late (`bounded`), as no member can see who is honest:

- A tensor's increment is scaled down to GROWTH_MAX times the third largest of its last RECENT sizes (size: the sum of the
  absolute values, for the step size 256). So what outgrows its swarm is clipped, and never refused: a bound that refuses
  honest sums would stop a swarm. The third largest, because a few sums of next to nothing would make the median small, and
  with it all sums for a long time; seven of nine rounds have to be tiny for that, and three large ones to double the bound.
- A round of c contributors, fewer than half of the median m of the last COUNTS rounds, counts (2 c / m)^2. So a few
  devices that make a round by themselves move the model by little, and a swarm that has shrunk goes on slowly meanwhile.

Both need three rounds to know of. What is remembered of the last rounds (`Recent`) is a part of the state, as v is.

**Why any order will do.** A sum of integers knows no order, and floor and clip act on whole rounds. Later rounds build on
earlier ones, so a late aggregate of round r has all from r on folded again, from the last snapshot before r.

**Nothing overflows 63 bits.** A round folds FOLDED_MAX = 2^11 aggregates at most, each with |Q| <= 2^9 (SUM_MAX), so
|sum Q 2^24| <= 2^44, and times E <= 2^8 it is 2^52. The divisor is 2^8 S times at most 2^11 counts of 2^9 devices. cap <= 2^30
and B <= 255 keep |v| and a round's change of x below 2^38 + 2^9, floors included; fewer than 2^24 rounds (ROUND_MAX) and
|x_0| <= 2^62 keep |x| below 2^63. In `bounded` an increment of 2^30 meets factors of at most 2^16; sizes
are sums of 2^28 numbers of 2^30. A factor of codec lowrank can mean more than 2^9 for a parameter (`gossip.codec.lowrank`): its
sums are cut at +-2^44, which takes several aggregates of one round at the bounds of all their numbers.

**Foresight.** What a device learns now is folded a round or more from now, when the model has moved. Most of that move is
known: in a steady course every round changes x by v, as inc_r = (1 - B / 256) v then. So a phase may stand at

    x_r + F v_r / 256

instead of x_r, F being `training.foresight`, 256 for one round; its delta is then found near where it is put to use. The same is done for
the stages of a pipeline (Chen, Yang and Cheng, "SpecTrain", arXiv:1809.02839). It moves no replica, and nobody can see whether a device did it.

Floor rounds down: with momentum, a v below zero comes to rest less than 256 / (256 - B) units under it and
not at zero. That is less than 2^-16 of drift a round, and the same on all nodes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossip.body import count_contributors, is_lowrank
from gossip.codec.blocks import Integers, Layout
from gossip.codec.lowrank import spread
from gossip.errors import ManifestError, MisuseError
from gossip.history.aggregate import Verified, lanes
from gossip.history.dag import Change
from gossip.manifest import Manifest, Step

UNIT = 2.0**-24
INITIAL_MAX = 1 << 62
SUMS_MAX = 1 << 44  # |sum_a Q_a 2^(24 + e_a)|
RECENT = 9  # rounds that bound the next one
COUNTS = (
    64  # rounds by whose contributors a round counts: a league needs half of them to become what is usual
)
RECENT_MIN = 3  # fewer say nothing
GROWTH_MAX = 2  # 99 % of honest increments are below 2.05 times the median
_SCALE_BITS = 16  # of the factor that scales an increment down


class Recent(NamedTuple):
    """What one of the last rounds has done."""

    contributors: int
    sizes: tuple[int, ...]  # by tensor: sum |inc|, in 2^-24, as for the step size 256


class State(NamedTuple):
    """After a round. Arrays are never changed in place."""

    x: Integers  # int64[parameters], in 2^-24
    v: Integers  # the same; int64[0] where no step has momentum
    recent: tuple[Recent, ...] = ()  # of the last RECENT rounds that had contributors, the oldest first
    counts: tuple[int, ...] = ()  # contributors of the last COUNTS of these


def step_at(manifest: Manifest, round_: int) -> Step:
    return [step for step in manifest.training.schedule if step.from_round <= round_][-1]


def has_momentum(manifest: Manifest) -> bool:
    return any(step.momentum for step in manifest.training.schedule)


def increment(aggregates: Sequence[Verified], round_: int, layout: Layout, manifest: Manifest) -> Integers:
    """inc_r before it is bounded by recent rounds: int64[parameters], zero where nothing is carried.

    Of the aggregates that count in the round.
    """
    compression = manifest.compression
    sums = np.zeros(layout.parameters, np.int64)
    weights = np.zeros(layout.blocks, np.int64)
    for aggregate in aggregates:
        body = aggregate.body
        blocks = layout.unpack_blocks(body.blocks)
        if is_lowrank(body):
            sums += spread(body, aggregate.origin, layout, compression)
        else:
            exponents = np.frombuffer(body.exponents, np.uint8).astype(np.int64)
            scales = np.left_shift(np.int64(1), 24 - exponents)
            sums[layout.indices(blocks)] += lanes(body, manifest) * layout.expand(scales, blocks)
        weights[blocks] += np.array(body.weights, np.int64)[layout.block_segment[blocks]]
    np.clip(sums, -SUMS_MAX, SUMS_MAX, out=sums)
    weighed = np.flatnonzero(weights)
    places = layout.indices(weighed)
    scale = step_at(manifest, round_).size
    divisors = layout.expand(256 * compression.levels * weights[weighed], weighed)
    change = np.zeros(layout.parameters, np.int64)
    change[places] = np.clip(scale * sums[places] // divisors, -manifest.training.cap, manifest.training.cap)
    return change


def bounded(
    change: Integers,
    contributors: int,
    recent: Sequence[Recent],
    counts: Sequence[int],
    size: int,
    layout: Layout,
) -> tuple[Integers, Recent]:
    """An increment as far as the last rounds bear it out, and what is remembered of it.

    change: int64[parameters], |change| <= 2^30; contributors: of all that counts in the round; size: E of its step.
    """
    starts = np.concatenate(([0], layout.tensor_ends[:-1]))
    sizes = [total * 256 // size for total in np.add.reduceat(np.abs(change), starts).tolist()]
    # A round of few last: it is less than a whole one of what the last rounds bear out, and never what the next ones go by.
    usual = usual_contributors(counts)
    whole = 1 << _SCALE_BITS
    share = (4 * contributors**2 << _SCALE_BITS) // usual**2 if 2 * contributors < usual else whole
    factors = np.full(len(sizes), share, np.int64)
    for tensor, now in enumerate(sizes):
        before = [each.sizes[tensor] for each in recent if each.sizes[tensor]]
        most = GROWTH_MAX * sorted(before)[-RECENT_MIN] if len(before) >= RECENT_MIN else now
        if now > most:
            factors[tensor] = (most * share) // now
        sizes[tensor] = min(now, most) * share >> _SCALE_BITS
    if (factors < whole).any():
        change = change * np.repeat(factors, layout.tensor_ends - starts) >> _SCALE_BITS
    return change, Recent(contributors, tuple(sizes))


def usual_contributors(counts: Sequence[int]) -> int:
    """Of the last rounds; 0 where there are too few to tell."""
    return median_low(counts) if len(counts) >= RECENT_MIN else 0


def advance(
    state: State, aggregates: Sequence[Verified], round_: int, layout: Layout, manifest: Manifest
) -> State:
    """The state after one more round, in new arrays."""
    x, v, recent, counts = state
    step = step_at(manifest, round_)
    change = increment(aggregates, round_, layout, manifest)
    contributors = sum(count_contributors(known.body) for known in aggregates)
    if contributors:
        change, done = bounded(change, contributors, recent, counts, step.size, layout)
        recent = (*recent, done)[-RECENT:]
        counts = (*counts, contributors)[-COUNTS:]
    if not v.size:
        return State(x + change, v, recent, counts)
    v = step.momentum * v // 256 + change
    return State(x + change + step.momentum * v // 256, v, recent, counts)


def fold_all(
    initial: Integers, rounds: Sequence[Sequence[Verified]], layout: Layout, manifest: Manifest
) -> State:
    """The definition that every shortcut must equal: what counts in each round, from round 1, on top of x_0."""
    state = _origin(initial, manifest)
    for round_, aggregates in enumerate(rounds, 1):
        state = advance(state, aggregates, round_, layout, manifest)
    return state


class Replica:
    """A node's copy of the model, kept equal to `fold_all` of what counts in its history.

    Arrays are never changed in place: a caller may keep one. It keeps snapshots, thinned out so
    that a change of age a costs at most 8 a rounds of folding: after round R the state after s stays while R - s
    is below twice the largest power of four that divides s. So there are at most two for each power of four up
    to R, besides x_0 and the base.
    """

    def __init__(
        self, manifest: Manifest, layout: Layout, initial: Integers, base: tuple[int, State] | None = None
    ) -> None:
        """From x_0, int64[parameters], or from a base: the state after a round, from a checkpoint that holds.

        Raises ManifestError if this x_0 is not the manifest's.
        """
        encoded = initial.astype("<i8", copy=False).tobytes()
        if hashlib.sha256(encoded).digest() != manifest.model.initial or len(initial) != layout.parameters:
            raise ManifestError(
                "model: the initial model made here is not the one that `initial` is the hash of"
            )
        if int(initial.max()) > INITIAL_MAX or int(initial.min()) < -INITIAL_MAX:
            raise ManifestError("model: an initial parameter beyond 2^38")
        origin = _origin(initial, manifest)
        self._manifest = manifest
        self._layout = layout
        self._base_round, self._state = base or (0, origin)
        self._round = self._base_round
        self._counting: dict[int, tuple[Verified, ...]] = {}
        self._snapshots = {0: origin, self._base_round: self._state}

    @property
    def round(self) -> int:
        return self._round

    @property
    def x(self) -> Integers:
        """int64[parameters], in 2^-24."""
        return self._state.x

    @property
    def v(self) -> Integers:
        """int64[parameters], in 2^-24; int64[0] where no step has momentum."""
        return self._state.v

    @property
    def state(self) -> State:
        return self._state

    def model(self) -> NDArray[np.float32]:
        """What the trainer starts from: float32[parameters]."""
        model = (self.x * UNIT).astype(np.float32)
        model.setflags(write=False)
        return model

    def foreseen(self, share: int) -> NDArray[np.float32]:
        """Where the model will be `share` / 256 rounds from now if its course is steady: float32[parameters]."""
        if not share or not self.v.size:
            return self.model()
        foreseen = ((self.x + self.v * (share / 256)) * UNIT).astype(np.float32)
        foreseen.setflags(write=False)
        return foreseen

    def sha256(self) -> str:
        """Of x as little-endian int64, in hexadecimal."""
        return hashlib.sha256(self.x.astype("<i8", copy=False).data).hexdigest()

    def apply(self, changes: Sequence[Change], round_: int) -> None:
        """Take the history's changes and be the fold of its rounds up to `round_`.

        The changes of several additions may come in one go, in their order, for one fold of all of them.
        MisuseError for a change from what is not folded here, as it would fold something twice.
        """
        self._state, self._snapshots = self._after(changes, round_)
        self._counting.update((change.round, change.after) for change in changes)
        self._round = round_

    def state_after(self, changes: Sequence[Change], round_: int) -> State:
        """The state that `apply` would lead to; nothing changes here."""
        return self._after(changes, round_)[0]

    def _after(self, changes: Sequence[Change], round_: int) -> tuple[State, dict[int, State]]:
        told: dict[int, Change] = {}
        for change in changes:
            trusted = change.before if change.round <= self._base_round else ()
            first = told.get(change.round)
            if (first.after if first else self._counting.get(change.round, trusted)) != change.before:
                raise MisuseError(f"round {change.round}: a change from what is not folded here")
            told[change.round] = Change(change.round, (first or change).before, change.after)
        return self._folded_again(told, round_)

    def _folded_again(self, told: Mapping[int, Change], last: int) -> tuple[State, dict[int, State]]:
        """From the last snapshot before the first change: later rounds build on it."""
        changed = (change.round for change in told.values() if change.before != change.after)
        first = min(changed, default=last + 1)
        start = max(round_ for round_ in self._snapshots if round_ < first and round_ <= last)
        snapshots = {
            round_: state
            for round_, state in self._snapshots.items()
            if round_ <= start and self._keeps(round_, last)
        }
        state = self._snapshots[start]
        for round_ in range(start + 1, last + 1):
            aggregates = told[round_].after if round_ in told else self._counting.get(round_)
            if aggregates is None:
                raise MisuseError(f"round {round_}: nobody said what counts in it")
            state = self._advance(state, aggregates, round_)
            if self._keeps(round_, last):
                snapshots[round_] = state
        return state, snapshots

    def _keeps(self, round_: int, newest: int) -> bool:
        return round_ in {0, self._base_round} or newest - round_ < 2 * _spacing(round_)

    def _advance(self, state: State, aggregates: Sequence[Verified], round_: int) -> State:
        return advance(state, aggregates, round_, self._layout, self._manifest)


def _origin(initial: Integers, manifest: Manifest) -> State:
    return State(initial, np.zeros(len(initial) if has_momentum(manifest) else 0, np.int64))


def _spacing(round_: int) -> int:
    """The largest power of four that divides a round."""
    power_of_two = round_ & -round_
    return power_of_two >> (power_of_two.bit_length() - 1 & 1)
