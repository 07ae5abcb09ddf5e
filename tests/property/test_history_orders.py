"""The same set gives the same bits, whatever came between: orders, duplicates, partitions, years of absence.

Each seed is one story. Three to five sides, which do not hear each other, write aggregates over parents of
their choice, some of them rivals for one cohort, alone and merged; now and then two sides meet and tell each
other all, or half, of what they have, in any order and some of it twice. In some stories one side goes on
alone for 500 rounds. In the end everybody is told everything. All must then hold the bits of the fold from
scratch, over what counts by brute force.

    GOSSAMER_SEEDS=10000 pytest tests/property/test_history_orders.py       the full run
    GOSSAMER_FIRST_SEED=1234 GOSSAMER_SEEDS=1 pytest ...                    one story again
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gossip.codec.lowrank import values_in
from gossip.errors import PeerViolation
from gossip.history import checkpoint
from gossip.history.aggregate import Aggregate, Verified
from gossip.history.dag import Added, Change
from gossip.history.fold import State, fold_all
from gossip.manifest import Step
from tests.histories import (
    WITH_MOMENTUM,
    WITHOUT_MOMENTUM,
    Dice,
    Setting,
    body,
    part,
    setting,
    unsigned,
    unsound,
)

FIRST_SEED = int(os.environ.get("GOSSAMER_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "60"))
LONG_ABSENCE = 500  # rounds

SWARMS = [
    setting(tensors=tensors, schedule=schedule, cap=cap)
    for tensors in ([(9, 0), (6, 1), (2, 0)], [(5, 0)], [(3, 2), (3, 1), (3, 0), (3, 1)])
    for schedule in (WITHOUT_MOMENTUM, WITH_MOMENTUM, (Step(1, 200, 0), Step(4, 256, 255)))
    for cap in (1 << 30, 1 << 21)
]


FACTORS = [
    setting(tensors=tensors, schedule=schedule, cap=cap, codec="lowrank", rank=rank)
    for tensors, rank in (([(12, 0, 4), (6, 1), (8, 0, 2)], 2), ([(35, 0, 5)], 3), ([(3, 1), (9, 0, 3)], 1))
    for schedule in (WITHOUT_MOMENTUM, WITH_MOMENTUM)
    for cap in (1 << 30, 1 << 21)
]


class Trace:
    """Everything that happened, in order, as one hash."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def note(self, *what: object) -> None:
        self._hash.update(repr(what).encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class Side:
    def __init__(self, swarm: Setting, trace: Trace) -> None:
        self.history, self.replica = swarm.history(), swarm.replica()
        self._trace = trace
        self._changes: list[Change] = []

    def hear(self, aggregate: Verified) -> None:
        outcome = self.history.add(aggregate)
        if isinstance(outcome, Added):
            counts = [(change.round, [each.id for each in change.after]) for change in outcome.changes]
            self._trace.note(outcome.ids, outcome.refused, counts)
            self._changes += outcome.changes
        else:
            self._trace.note(outcome)

    def fold(self) -> None:
        before = self.replica.x
        self.replica.apply(self._changes, self.history.round)
        self._changes = []
        self._trace.note((self.replica.x - before).tobytes())


class Story:
    def __init__(self, seed: int, trace: Trace, swarms: Sequence[Setting]) -> None:
        self.dice = Dice("orders", seed)
        self.trace = trace
        self.swarm = swarms[self.dice.below(len(swarms))]
        self.sides = [Side(self.swarm, trace) for _ in range(3 + self.dice.below(3))]
        self.written: dict[bytes, Verified] = {}
        self.nonsense: list[Verified] = []
        self._cohorts = 0

    # --- what happens -----------------------------------------------------------------------------------------

    def play(self) -> None:
        for _ in range(20 + self.dice.below(20)):
            if self.dice.chance(65):
                self.write(self.any_side())
            else:
                giver, taker = self.dice.shuffled(self.sides)[:2]
                self.tell(taker, self.held(giver), everything=self.dice.chance(60))
                if self.dice.chance(70):
                    self.tell(giver, self.held(taker), everything=self.dice.chance(60))

    def grow_alone(self) -> None:
        side = self.any_side()
        for _ in range(LONG_ABSENCE):
            self._publish(side, side.history.parents_for_next(), [self._new_cohort()])
            side.fold()
        for other in self.sides:
            self.tell(
                other, list(self.written.values())[-LONG_ABSENCE:], everything=True, nearly_in_order=True
            )

    def write(self, side: Side) -> None:
        known = [identity for identity in self.written if identity in side.history]
        rival = self.written[known[self.dice.below(len(known))]] if known and self.dice.chance(25) else None
        if rival is not None:
            # The same cohort again, in its round: with other sums, or merged with another cohort.
            cohorts = [int.from_bytes(part.roster[:4], "big") for part in rival.body.parts]
            if self.dice.chance(50):
                cohorts = [cohorts[0], self._new_cohort(beside=cohorts[0])]
            parents: Sequence[bytes] = rival.body.parents
        else:
            cohorts = [self._new_cohort()]
            any_parents = self.dice.shuffled(known)[: 1 + self.dice.below(3)]
            parents = side.history.parents_for_next() if self.dice.chance(70) else any_parents
        self._publish(side, parents, cohorts)
        if self.dice.chance(5) and parents:
            wrong = 1 + self.dice.below(9)
            made = self._body(
                [self.written[parent] for parent in parents], [self._new_cohort()], round_=wrong
            )
            if wrong != 1 + max(self.written[parent].body.round for parent in parents):
                self.nonsense.append(unsigned(made))
        if self.dice.chance(70):
            side.fold()

    def tell(
        self, side: Side, aggregates: list[Verified], *, everything: bool, nearly_in_order: bool = False
    ) -> None:
        if nearly_in_order:
            told = [
                each
                for start in range(0, len(aggregates), 8)
                for each in self.dice.shuffled(aggregates[start : start + 8])
            ]
        else:
            told = self.dice.shuffled(aggregates)
        for each in told if everything else told[: len(told) // 2]:
            side.hear(each)
            if self.dice.chance(10):
                side.hear(signed_by_others(each))
            if self.dice.chance(10):
                side.fold()
        side.fold()

    def refuse_nonsense(self) -> None:
        for side in self.sides:
            for each in self.nonsense:
                with pytest.raises(PeerViolation, match="does not follow"):
                    side.hear(each)

    def newcomer(self) -> Side | None:
        """One who begins from a checkpoint, hears of all, and pulls what is wanted."""
        certificates = [each for each in self.written.values() if each.body.state]
        if not certificates:
            return None
        signed = certificates[self.dice.below(len(certificates))]
        giver = self.any_side()
        taken = checkpoint.take(giver.history, giver.replica, signed.body.parents, self.swarm.swarm)
        swarm = self.swarm
        side = Side(swarm, self.trace)
        side.history, side.replica = checkpoint.restore(
            taken, signed, swarm.manifest, swarm.layout, swarm.initial
        )
        base = {identity: None for ids in taken.rounds for identity in ids}
        self.tell(side, [each for each in self.written.values() if each.id not in base], everything=True)
        while wanted := side.history.wanted():
            self.tell(side, [self.written[identity] for identity in wanted], everything=True)
        return side

    # --- what must hold ---------------------------------------------------------------------------------------

    def end(self) -> None:
        long = len(self.written) >= LONG_ABSENCE
        for side in self.sides:
            everything = (
                sorted(self.written.values(), key=lambda each: each.body.round)
                if long
                else list(self.written.values())
            )
            self.tell(side, everything, everything=True, nearly_in_order=long)
        self.refuse_nonsense()
        newcomer = self.newcomer()
        everybody = [*self.sides, newcomer] if newcomer else self.sides
        x, v, recent, _counts = self.folded(self.written)
        for side in everybody:
            assert side.history.wanted() == ()
            assert not side.history.missing(self.written)
            assert len(side.history) == len(self.written)
            assert side.history.digest() == everybody[0].history.digest()
            assert side.history.heads() == everybody[0].history.heads()
            assert np.array_equal(side.replica.x, x)
            assert np.array_equal(side.replica.v, v)
            assert side.replica.state.recent == recent
            self.trace.note(side.history.heads(), side.history.parents_for_next(), side.history.digest())
        self.check_states()

    def check_states(self) -> None:
        """The state of any ancestors is the fold of these and nothing else, on every side."""
        some = self.dice.shuffled(list(self.written))[:2]
        x, v, recent, _counts = self.folded(self.before(some))
        for side in self.sides[:2]:
            taken = checkpoint.take(side.history, side.replica, some, self.swarm.swarm)
            assert (taken.x, taken.v) == (x.tobytes(), v.tobytes())
            assert [(each.contributors, each.sizes) for each in taken.recent] == list(recent)
            self.trace.note(taken)

    # --- by brute force ---------------------------------------------------------------------------------------

    def folded(self, ids: Sequence[bytes] | dict[bytes, Verified]) -> State:
        chosen = [
            replace(each, origin=self.written[each.body.basis].body) if each.body.basis else each
            for each in map(self.written.__getitem__, ids)
        ]
        count: dict[bytes, bool] = {}

        def counts(one: Verified) -> bool:
            """Unless one that counts and goes before it in its round has a contributor in common with it."""
            if one.id not in count:
                count[one.id] = not any(
                    counts(other)
                    for other in of_round[one.body.round]
                    if (-len(other.contributors), other.id) < (-len(one.contributors), one.id)
                    and {*one.contributors} & {*other.contributors}
                )
            return count[one.id]

        of_round: dict[int, list[Verified]] = {}
        for each in chosen:
            of_round.setdefault(each.body.round, []).append(each)
        rounds: list[list[Verified]] = [[] for _ in range(max(each.body.round for each in chosen))]
        for each in self.dice.shuffled(chosen):
            if counts(each):
                rounds[each.body.round - 1].append(each)
        return fold_all(self.swarm.initial, rounds, self.swarm.layout, self.swarm.manifest)

    def before(self, ids: Sequence[bytes]) -> list[bytes]:
        found = dict.fromkeys(ids)
        for identity in sorted(self.written, key=lambda each: -self.written[each].body.round):
            if identity in found:
                found.update(dict.fromkeys(self.written[identity].body.parents))
        return list(found)

    # --- small words ------------------------------------------------------------------------------------------

    def any_side(self) -> Side:
        return self.sides[self.dice.below(len(self.sides))]

    def held(self, side: Side) -> list[Verified]:
        return [each for each in self.written.values() if each.id in side.history]

    def _new_cohort(self, beside: int | None = None) -> int:
        self._cohorts += 1
        if beside is not None and part(beside).members == part(self._cohorts).members:
            self._cohorts += 1  # nobody is in a merged sum twice
        return self._cohorts

    def _publish(self, side: Side, parents: Sequence[bytes], cohorts: list[int]) -> None:
        state = b""
        if parents and self.dice.chance(5):
            side.fold()
            state = checkpoint.state_root(
                checkpoint.take(side.history, side.replica, parents, self.swarm.swarm)
            )
        made = unsigned(self._body([self.written[parent] for parent in parents], cohorts, state=state))
        self.written[made.id] = made
        side.hear(made)

    def _body(self, parents, cohorts, **more):
        layout, dice = self.swarm.layout, self.dice
        blocks = np.flatnonzero(dice.integers(0, 3, layout.blocks))
        blocks = blocks if len(blocks) else np.zeros(1, np.int64)
        values = layout.values_in(blocks)
        compression = self.swarm.manifest.compression
        if compression.codec == "lowrank":
            place = more.get("round_") or 1 + max((parent.body.round for parent in parents), default=0)
            values = values_in(layout, compression.rank, place)
        return body(
            self.swarm,
            parents,
            cohorts=cohorts,
            blocks=blocks,
            sums=dice.integers(-28, 29, values),
            weights=dice.trained(layout.segments),
            ranges=dice.ranges(len(layout.tensor_ends)),
            **more,
        )


def signed_by_others(each: Verified) -> Verified:
    return replace(each, aggregate=Aggregate(each.body, (unsound([0, 1], 2),)))


def run(seed: int, trace: Trace, swarms: Sequence[Setting] = SWARMS) -> None:
    story = Story(seed, trace, swarms)
    story.play()
    if story.dice.chance(10) and story.written:
        story.grow_alone()
    story.write(story.sides[0])
    story.end()


@pytest.mark.timeout(60 + SEEDS)
@pytest.mark.parametrize("swarms", [SWARMS, FACTORS], ids=["blocks", "factors"])
def test_any_order_folds_to_the_same_bits(swarms):
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        try:
            run(seed, Trace(), swarms)
        except BaseException as error:
            error.add_note(f"again: GOSSAMER_FIRST_SEED={seed} GOSSAMER_SEEDS=1")
            raise


def traced(seeds: int) -> str:
    trace = Trace()
    for swarms in (SWARMS, FACTORS):
        for seed in range(seeds):
            run(seed, trace, swarms)
    return trace.hexdigest()


def test_processes_with_other_hash_seeds_live_through_the_same():
    command = "from tests.property.test_history_orders import traced; print(traced(6))"
    traces = [
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.curdir},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert len(traces[0]) == 65
    assert traces[0] == traces[1]
