"""A device may train where the model is going, whatever it learns meanwhile; what it says of the model is the model itself."""

import hashlib
import random

import numpy as np
import pytest
from msgspec import structs

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import Evaluate, Evaluated, Frozen, Put, Rebase, Train, TrainerReady
from gossip.history import checkpoint, checkpoint_sync
from gossip.history.aggregate import STATE_EVERY, Verified
from gossip.history.checkpoint_sync import Adopted
from gossip.history.sync import Learned
from gossip.ledger import held
from gossip.manifest import FORESIGHT_MAX, Step, found
from gossip.membership.view import Settings
from node.core import NodeCore
from node.virtual.device import Hardware
from node.virtual.swarm import VirtualSwarm
from tests.histories import PEOPLE, WITHOUT_MOMENTUM, Dice, Setting, body, signed, unsigned
from tests.simulation.harness import tiny_initial, tiny_swarm

WITH_MOMENTUM = (Step(1, 256, 200), Step(4, 128, 100))
NEARLY = 2**-20  # a few roundings of float32; the deltas here are thousands of times as large
FORESIGHTS = pytest.mark.parametrize("foresight", [0, 256, 700])


def founded(foresight, schedule=WITH_MOMENTUM, rounds=0, founder=PEOPLE[0], **more):
    swarm = tiny_swarm(founder, [], admit="open", **more)
    training = structs.replace(swarm.manifest.training, schedule=schedule, foresight=foresight, rounds=rounds)
    return found(structs.replace(swarm.manifest, training=training), founder)


class Node:
    """A core, and what its trainer was asked for."""

    def __init__(self, foresight, *, disk=(), **more):
        self.swarm = founded(foresight, **more)
        self.setting = Setting(self.swarm.manifest, tiny_initial(), self.swarm.id)
        self.foresight, self.now = foresight, 0.0
        self.trained, self.rebased, self.evaluated = [], [], []  # the second: of the phase under way
        self.core = NodeCore(
            identity=PEOPLE[-1],
            swarm=self.swarm,
            initial=tiny_initial(),
            settings=Settings(("here",)),
            entropy=random.Random(1).randbytes,
            read=lambda table: [(each.key, each.value) for each in disk if each.table == table],
        )
        self.take(self.core.start(0.0))

    def take(self, actions):
        for action in actions:
            match action:
                case Train():
                    self.trained.append(action)
                    self.rebased = []
                case Rebase(change):
                    assert change.dtype == np.float32
                    self.rebased.append(change)
                case Evaluate():
                    self.evaluated.append(action)

    def tell(self, event):
        self.take(self.core.handle(event, self.now))

    def train(self):
        self.tell(TrainerReady(20))

    def go_on(self, delta):
        """As where the trainer gives its delta and nobody waits for it any more: the device is so far ahead."""
        self.core._phase.freezing_for = b"a cohort that is over"
        self.tell(Frozen(self.trained[-1].phase, delta, 7, 0.5))

    def learn(self, *aggregates):
        changes = [change for each in aggregates for change in self.core._history.add(each).changes]
        learned = Learned(aggregates, tuple(changes), self.core._history.round)
        self.now += 10
        self.take(self.core._carry_out([learned], self.now))

    def adopt(self, history, replica, signed_):
        self.now += 10
        adopted = Adopted(history, replica, signed_, b"the checkpoint", PEOPLE[1].public_key)
        self.take(self.core._carry_out([adopted], self.now))

    @property
    def stand(self):
        """x + F v / 256, and what the device is ahead: float64."""
        replica = self.core._replica
        v = replica.v if replica.v.size else np.zeros_like(replica.x)
        return (replica.x + v * self.foresight / 256) / 2**24 + self.core._books.ahead

    @property
    def trains_at(self):
        """The base of the phase under way, as its trainer has moved it: float64."""
        return self.trained[-1].base.astype(np.float64) + sum(
            change.astype(np.float64) for change in self.rebased
        )

    def is_where_it_should(self):
        return self.trains_at == pytest.approx(self.stand, abs=NEARLY)

    def looks_ahead(self):
        """Far enough for a test to see."""
        return np.abs(self.stand - self.core._books.ahead - self.core.model()).max() > 1000 * NEARLY


def chain_of(setting, rounds=6, seed="chain", state=None):
    """Three sums a round, on the first of the round before: [round][sum]."""
    dice, made = Dice(seed), []
    for round_ in range(1, rounds + 1):
        due = state is not None and round_ % STATE_EVERY == 0
        bodies = [
            body(
                setting,
                made[-1][:1] if made else [],
                cohorts=[3 * round_ + place],
                sums=dice.integers(-28, 29, setting.layout.parameters),
                weights=dice.integers(3, 5, setting.layout.segments),
                state=state(made) if due else None,
            )
            for place in range(3)
        ]
        made.append([unsigned(each) for each in bodies])
    return made


DELTA = np.linspace(-0.3, 0.2, 16).astype(np.float32)


@FORESIGHTS
def test_a_phase_begins_where_the_model_is_going(foresight):
    node = Node(foresight)
    node.learn(*(first for first, *_ in chain_of(node.setting)))
    node.train()
    (train,) = node.trained
    assert train.base.dtype == np.float32
    assert np.array_equal(train.base, node.core._replica.foreseen(foresight))
    assert train.base == pytest.approx(node.stand, abs=NEARLY)
    assert np.array_equal(train.base, node.core._replica.model()) == (foresight == 0)
    assert node.looks_ahead() == (foresight > 0)


@FORESIGHTS
def test_the_next_phase_begins_as_far_ahead_of_that_as_the_device_has_learnt(foresight):
    node = Node(foresight)
    node.learn(*(first for first, *_ in chain_of(node.setting)))
    node.train()
    node.go_on(DELTA)
    first, second = node.trained
    assert node.core._books.ahead.tolist() == DELTA.tolist()
    assert np.array_equal(second.base, node.core._replica.foreseen(foresight) + node.core._books.ahead)
    assert second.base - first.base == pytest.approx(DELTA, abs=NEARLY)


@FORESIGHTS
def test_where_a_phase_stands_moves_as_the_model_and_its_course_do(foresight):
    """Round after round, with what comes late, and under two steps of the schedule."""
    node = Node(foresight)
    rounds = chain_of(node.setting, 9)
    node.train()
    node.go_on(DELTA)
    for place, (first, *_) in enumerate(rounds):
        before = len(node.rebased)
        node.learn(first, *(rounds[place - 1][1:2] if place % 2 else ()))
        assert len(node.rebased) == before + 1, "once for all that is learned in one go"
        assert node.is_where_it_should()
        assert node.looks_ahead() == (foresight > 0)
        if place == 4:
            node.go_on(DELTA / 8)
            assert not node.rebased
            assert node.is_where_it_should()
    assert node.core._replica.round == 9
    for *_, late in rounds[:3]:
        before = node.trains_at
        node.learn(late)
        assert np.abs(node.trains_at - before).max() > 100 * NEARLY
        assert node.is_where_it_should()


@FORESIGHTS
def test_who_adopts_a_checkpoint_trains_on_where_that_model_is_going(foresight):
    node = Node(foresight)
    setting = node.setting
    far = setting.history(), setting.replica()

    def state(rounds):
        for each in rounds[far[0].round :]:
            for one in each:
                far[1].apply(far[0].add(one).changes, far[0].round)
        return checkpoint.state_root(checkpoint.take(*far, [rounds[-1][0].id], setting.swarm))

    rounds = chain_of(setting, STATE_EVERY, state=state)
    taken = checkpoint.take(*far, [rounds[-2][0].id], setting.swarm)
    node.learn(rounds[0][0])
    node.learn(rounds[0][1])  # no ancestor of what was signed
    node.train()
    node.go_on(DELTA)
    manifest, layout = setting.manifest, node.core._layout
    restored = checkpoint.restore(taken, rounds[-1][0], manifest, layout, setting.initial)
    node.adopt(*restored, rounds[-1][0])
    assert node.core._replica.round == STATE_EVERY
    assert len(node.trained) == 2, "and the phase is the same one"
    assert len(node.rebased) == 1
    assert node.is_where_it_should()
    assert node.looks_ahead() == (foresight > 0)
    assert node.evaluated[-1].model.tobytes() == node.core._replica.model().tobytes()
    node.learn(rounds[-1][1])
    assert len(node.rebased) == 2
    assert node.is_where_it_should()


@FORESIGHTS
def test_who_has_nothing_in_training_is_told_nothing_and_begins_where_the_model_is_going(foresight):
    node = Node(foresight)
    rounds = chain_of(node.setting)
    node.learn(rounds[0][0])
    assert (node.trained, node.rebased) == ([], [])
    node.learn(*(first for first, *_ in rounds[1:]))
    node.train()
    assert node.rebased == []
    assert node.is_where_it_should()


@FORESIGHTS
def test_after_a_restart_a_phase_begins_where_the_model_is_going(foresight):
    swarm = founded(foresight)
    setting = Setting(swarm.manifest, tiny_initial(), swarm.id)
    known = [Verified.of(signed(first.body), swarm.manifest) for first, *_ in chain_of(setting, seed="disk")]
    disk = [record for record in held(known) if isinstance(record, Put)]
    assert len(disk) == 6
    node = Node(foresight, disk=disk)
    assert node.core._replica.round == 6
    node.train()
    assert np.array_equal(node.trained[0].base, node.core._replica.foreseen(foresight))
    assert node.is_where_it_should()
    assert node.looks_ahead() == (foresight > 0)
    assert node.core.model().tobytes() == node.core._replica.model().tobytes()


@FORESIGHTS
def test_what_is_evaluated_and_shown_is_the_model_itself(foresight):
    node = Node(foresight, rounds=4)
    rounds = chain_of(node.setting, 4)
    node.train()

    def model():
        return (node.core._replica.x / 2**24).astype(np.float32).tobytes()

    def hash_():
        return hashlib.sha256(node.core._replica.x.astype("<i8").tobytes()).hexdigest()

    for round_, (first, *_) in enumerate(rounds[:3], 1):
        node.learn(first)
        assert node.core.model().tobytes() == model()
        evaluate = node.evaluated[-1]
        assert (len(node.evaluated), evaluate.round) == (round_, round_)
        assert evaluate.model.tobytes() == model()
        assert node.core.status(node.now)["replica_sha256"] == hash_()
        if round_ < 3:
            node.tell(Evaluated(round_, 0.5, 1.0))
    node.learn(rounds[3][0])  # the last, while the one before it is being evaluated
    assert len(node.evaluated) == 3
    node.tell(Evaluated(3, 0.5, 1.0))
    assert (len(node.evaluated), node.evaluated[-1].round) == (4, 4)
    assert node.evaluated[-1].model.tobytes() == node.core.model().tobytes() == model()
    assert node.looks_ahead() == (foresight > 0)


def test_without_momentum_a_swarm_may_say_what_it_wants_and_nobody_stands_anywhere_else():
    node = Node(700, schedule=WITHOUT_MOMENTUM)
    rounds = chain_of(node.setting)
    node.learn(rounds[0][0])
    node.train()
    for first, *_ in rounds[1:]:
        node.learn(first)
        assert node.trains_at == pytest.approx(node.core.model().astype(np.float64), abs=NEARLY)
    assert node.core._replica.foreseen(700).tobytes() == node.core.model().tobytes()


def test_a_manifest_of_others_says_no_more_than_a_founder_may():
    assert founded(FORESIGHT_MAX).manifest.training.foresight == 1024
    assert tiny_swarm(PEOPLE[0], [], admit="open").manifest.training.foresight == 0, "unless it is said"
    for wrong in (-1, 1025):
        with pytest.raises(PeerViolation, match=r"Expected `int` [<>]= (0|1024)"):
            founded(wrong)


# --- a world of them ------------------------------------------------------------------------------------------


class Standing:
    """`Phases` that know where each device trains, and give what they draw."""

    def __init__(self):
        self.at, self.rebased = {}, 0
        self._rng = np.random.default_rng(5)

    def examples(self, device):
        return 20 + device

    def begin(self, device, base):
        self.at[device] = base.astype(np.float64)

    def rebase(self, device, change):
        self.at[device] += change
        self.rebased += 1

    def advance(self, device, steps): ...

    def drop(self, device):
        del self.at[device]

    def look(self, device, model):
        return 1.0

    def freeze(self, device):
        del self.at[device]
        return self._rng.normal(0, 0.1, 16).astype(np.float32), 1, 0.5

    def evaluate(self, model):
        return 0.5, 1.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("foresight", [0, 256])
def test_in_a_swarm_all_train_where_the_model_is_going_also_who_comes_back_by_checkpoint(
    foresight, monkeypatch
):
    """After each event, with their own contributions in what is folded, and one that was away for long."""
    monkeypatch.setattr(checkpoint_sync, "BEHIND_ROUNDS", 20)
    identities = [Identity(digest("foresight", bytes([index]))) for index in range(6)]
    told, phases = [], Standing()
    world = VirtualSwarm(
        seed=4,  # in which three offer a checkpoint before the first has told all rounds
        swarm=founded(foresight, founder=identities[0], schedule=(Step(1, 256, 150),)),
        initial=tiny_initial(),
        devices=[
            (each, Hardware(step_s=0.5, on_at_s=0.2 * index, away=[(4.0, 60.0)] if index == 5 else ()))
            for index, each in enumerate(identities)
        ],
        phases=phases,
        report=lambda now, index, report: told.append((index, report)),
    )
    farthest = 0.0

    def all_stand_there():
        nonlocal farthest
        for device in world.devices:
            core = device.core
            if core is None or core._phase is None:
                continue
            replica, ahead = core._replica, core._books.ahead
            stand = (replica.x + replica.v * foresight / 256) / 2**24
            assert np.abs(phases.at[device.index] - stand - ahead).max() < 1e-4
            assert np.abs(core.model() - replica.x / 2**24).max() < 1e-4
            farthest = max(farthest, np.abs(stand - core.model()).max())
        return False

    world.run(90, stop=all_stand_there)
    assert [index for index, report in told if report.name == "caught_up"] == [5]
    assert min(device.core.status(90)["contributions"] for device in world.devices) > 0
    assert phases.rebased > 100
    assert (farthest > 0.01) == (foresight > 0)
