"""Many devices trained together give what each would have given on its own, whatever they owe and when it is asked for."""

import dataclasses

import numpy as np
import pytest
import torch

from models import batched, messages
from models.architectures import KeyboardNet, fashion_net
from models.batched import REBASES_OWED_MAX, BatchedTrainer
from models.datasets import Dataset
from models.parameters import ONE, initial, schema_of
from models.partition import parts_of
from models.session import open_session
from models.tasks import Task, load_task
from models.training import Diverged, LocalTrainer, PhaseError

DIGITS = load_task("digits")
DATA = DIGITS.data(None)
TRAIN = np.flatnonzero(~DATA.held_out)
SIZE = 2410


def start(task: Task = DIGITS) -> np.ndarray:
    return (initial(schema_of(task.model(), task.segment), 3) / ONE).astype(np.float32)


def alone(task: Task, data: Dataset, part: np.ndarray, seed: int) -> LocalTrainer:
    return LocalTrainer(task, *map(torch.from_numpy, data.take(part)), seed)


def together(task=DIGITS, count=3, **options) -> BatchedTrainer:
    parts = [TRAIN[40 * device : 40 * device + 40] for device in range(count)]
    return BatchedTrainer(task, DATA, parts, list(range(count)), **options)


def same(made: tuple[np.ndarray, int, float], local: LocalTrainer, atol: float = 2e-5) -> bool:
    expected = local.freeze()
    assert made[0].dtype == np.float32
    assert made[1] == expected.steps
    assert made[2] == pytest.approx(expected.loss, rel=1e-4)
    return np.allclose(made[0], expected.delta, atol=atol)


@pytest.mark.parametrize("lanes", [1, 2])
def test_uneven_devices_train_as_each_would_alone(lanes):
    """Forty devices with 5 to 100 examples; two phases of 0-12 steps cut by up to three rebases; frozen at odd times."""
    rng = np.random.default_rng(7)
    parts = [rng.choice(TRAIN, int(rng.choice([5, 20, 64, 100])), replace=False) for _ in range(40)]
    trainer = BatchedTrainer(DIGITS, DATA, parts, list(range(100, 140)), lanes=lanes)
    locals_ = [alone(DIGITS, DATA, part, 100 + device) for device, part in enumerate(parts)]
    for _ in range(2):
        for device, local in enumerate(locals_):
            base = start() + rng.normal(0, 0.02, SIZE).astype(np.float32)
            trainer.begin(device, base)
            local.begin(base)
        for _ in range(3):
            for device, local in enumerate(locals_):
                steps = int(rng.integers(0, 5))
                trainer.advance(device, steps)
                for _ in range(steps):
                    local.step()
                if rng.random() < 0.5:
                    change = rng.normal(0, 0.05, SIZE).astype(np.float32)
                    trainer.rebase(device, change)
                    local.rebase(change)
            if rng.random() < 0.5:
                trainer.flush()
        moved = 0.0
        for device in rng.permutation(40).tolist():
            made = trainer.freeze(device)
            assert same(made, locals_[device])
            moved = max(moved, float(np.abs(made[0]).max()))
        assert moved > 0.05


def random_set(inputs: np.ndarray, classes: int) -> Dataset:
    labels = np.random.default_rng(1).integers(0, classes, len(inputs))
    return Dataset(inputs, labels, np.arange(len(inputs)) < 10, classes)


@pytest.mark.parametrize("name", ["watch", "fashion", "keyboard"])
def test_convolutions_and_tied_matrices_train_as_each_would_alone(name):
    rng = np.random.default_rng(2)
    task, data = {
        "watch": lambda: (load_task("watch"), load_task("watch").data(None)),
        "fashion": lambda: (load_task("fashion"), random_set(rng.random((200, 1, 28, 28)), 10)),
        "keyboard": lambda: (load_task("keyboard"), random_set(rng.integers(0, 4000, (200, 4)), 4000)),
    }[name]()
    train = np.flatnonzero(~data.held_out)
    parts = [train[:60], train[60:120], train[120:]]
    trainer = BatchedTrainer(task, data, parts, [5, 6, 7])
    locals_ = [alone(task, data, part, 5 + device) for device, part in enumerate(parts)]
    base = start(task)
    for device, local in enumerate(locals_):
        trainer.begin(device, base)
        local.begin(base)
        trainer.advance(device, 2 + device)
        for _ in range(2 + device):
            local.step()
    for device, local in enumerate(locals_):
        assert same(trainer.freeze(device), local)


def test_the_packaged_nets_have_their_size():
    assert sum(parameter.numel() for parameter in fashion_net().parameters()) == 804_746
    assert sum(parameter.numel() for parameter in KeyboardNet().parameters()) == 219_184


def test_nothing_is_computed_before_a_result_is_due_and_then_everything_at_once():
    calls = []

    def counted(outputs, labels):
        calls.append(outputs.shape)
        return DIGITS.loss(outputs, labels)

    trainer = together(dataclasses.replace(DIGITS, loss=counted))
    for device in range(3):
        trainer.begin(device, start())
        trainer.advance(device, 4)
    assert not calls
    trainer.freeze(0)
    assert len(calls) == 4, "three devices share each of four steps"
    trainer.freeze(1)
    trainer.freeze(2)
    assert len(calls) == 4


def test_a_rebase_of_one_device_does_not_move_another():
    trainer = together()
    for device in range(2):
        trainer.begin(device, start())
        trainer.advance(device, 3)
    trainer.rebase(0, np.ones(SIZE, np.float32))
    for device in range(2):
        trainer.advance(device, 3)
    still = alone(DIGITS, DATA, TRAIN[40:80], 1)
    still.begin(start())
    for _ in range(6):
        still.step()
    trainer.freeze(0)
    assert same(trainer.freeze(1), still)


def test_a_dropped_phase_costs_nothing_but_its_examples_have_had_their_turn():
    trainer, local = together(), alone(DIGITS, DATA, TRAIN[:40], 0)
    trainer.begin(0, start())
    trainer.advance(0, 1)
    trainer.begin(0, start())
    trainer.advance(0, 2)
    for steps in (1, 2):
        local.begin(start())
        for _ in range(steps):
            local.step()
        if steps == 1:
            local.freeze()
    assert same(trainer.freeze(0), local)


@pytest.mark.parametrize("computed", [0, 1])
def test_after_a_phase_that_is_given_up_a_device_goes_on_as_it_would_alone(computed):
    trainer, local = together(), alone(DIGITS, DATA, TRAIN[:40], 0)
    trainer.begin(0, start() + 1)
    local.begin(start() + 1)
    trainer.advance(0, computed)
    trainer.flush()
    trainer.rebase(0, start())
    trainer.advance(0, 3 - computed)
    for _ in range(3):
        local.step()
    trainer.drop(0)
    local.drop()
    for refused in (trainer.drop, trainer.freeze):
        with pytest.raises(PhaseError):
            refused(0)
    trainer.begin(0, start())
    local.begin(start())
    trainer.advance(0, 2)
    for _ in range(2):
        local.step()
    assert same(trainer.freeze(0), local)


def test_a_device_that_diverges_takes_nobody_with_it():
    trainer = together(dataclasses.replace(DIGITS, learning_rate=0.1))
    broken, fine = alone(DIGITS, DATA, TRAIN[:40], 0), alone(DIGITS, DATA, TRAIN[40:80], 1)
    poisoned = np.full(SIZE, 1e25, np.float32)
    for device, local, base in ((0, broken, poisoned), (1, fine, start())):
        trainer.begin(device, base)
        trainer.advance(device, 5)
        local.begin(base)
    with pytest.raises(Diverged) as alone_says:
        [broken.step() for _ in range(5)]
    for _ in range(5):
        fine.step()
    trainer.flush()
    trainer.advance(0, 3)
    trainer.rebase(0, start())
    with pytest.raises(Diverged) as together_says:
        trainer.freeze(0)
    assert str(together_says.value) == str(alone_says.value)
    assert same(trainer.freeze(1), fine)
    trainer.begin(0, start())
    delta, steps, loss = trainer.freeze(0)
    assert (delta.any(), steps, loss) == (False, 0, 0)


def test_a_delta_that_is_not_finite_never_leaves():
    trainer = together(dataclasses.replace(DIGITS, learning_rate=1e38, momentum=0.0))
    trainer.begin(0, start() * 1e3)
    trainer.advance(0, 1)  # the loss before the first step is fine
    with pytest.raises(Diverged, match="delta is not finite after 1"):
        trainer.freeze(0)


def test_what_is_owed_is_bounded_however_often_the_model_moves():
    trainer, local = together(), alone(DIGITS, DATA, TRAIN[:40], 0)
    trainer.begin(0, start())
    local.begin(start())
    change = np.full(SIZE, 1e-3, np.float32)
    longest = 0
    for _ in range(3 * REBASES_OWED_MAX):
        trainer.advance(0, 1)
        trainer.rebase(0, change)
        local.step()
        local.rebase(change)
        longest = max(longest, len(trainer._devices[0].phase.owed))
    assert longest == 2 * REBASES_OWED_MAX
    assert same(trainer.freeze(0), local, atol=1e-4)


def test_groups_are_bounded_and_shared_evenly_between_lanes(monkeypatch):
    monkeypatch.setattr(batched, "GROUP_MAX", 4)
    trainer = together(count=9, lanes=2)
    for device in range(9):
        trainer.begin(device, start())
        trainer.advance(device, 9 - device)
    assert [len(group) for group in trainer._groups()] == [2, 2, 2, 3]


def test_judging_is_that_of_the_local_trainer():
    inputs, labels = map(torch.from_numpy, DATA.test())
    expected = alone(DIGITS, DATA, TRAIN[:40], 0).evaluate(start(), inputs, labels)
    assert together().evaluate(start()) == (expected.accuracy, expected.loss)
    few = alone(DIGITS, DATA, TRAIN[:40], 0).evaluate(start(), inputs[:50], labels[:50])
    assert together(judged=50).evaluate(start()) == (few.accuracy, few.loss)
    with pytest.raises(Diverged, match="test set"):
        together().evaluate(np.full(SIZE, 1e30, np.float32))


def test_it_answers_open_as_a_trainer_process_does():
    specs = ["dirichlet=1/4@0.5", "dirichlet=4/4@0.5"]
    trainer = BatchedTrainer(DIGITS, DATA, parts_of(DATA, specs, 7), [1, 2])
    opened = [open_session(messages.Open("digits", spec, None, 1, 7))[1] for spec in specs]
    assert trainer.opened(7) == opened
    assert [trainer.examples(device) for device in range(2)] == [one.examples for one in opened]


@pytest.mark.parametrize("bad", [np.zeros(SIZE - 1, np.float32), np.full(SIZE, np.nan, np.float32)])
def test_vectors_that_do_not_fit_change_nothing(bad):
    trainer = together()
    with pytest.raises(PhaseError, match="expected 2410 finite parameters"):
        trainer.begin(0, bad)
    with pytest.raises(PhaseError, match="no phase is open"):
        trainer.freeze(0)
    trainer.begin(0, start())
    for refused in (
        lambda: trainer.rebase(0, bad),
        lambda: trainer.begin(0, bad),
        lambda: trainer.evaluate(bad),
    ):
        with pytest.raises(PhaseError, match="expected 2410 finite parameters"):
            refused()
    assert not trainer.freeze(0)[0].any()


def test_out_of_turn_is_refused():
    trainer = together()
    for refused in (
        lambda: trainer.advance(0, 1),
        lambda: trainer.freeze(0),
        lambda: trainer.rebase(0, start()),
    ):
        with pytest.raises(PhaseError, match="no phase is open"):
            refused()
    trainer.begin(0, start())
    with pytest.raises(PhaseError, match="-1 local steps"):
        trainer.advance(0, -1)


def test_a_learning_rate_may_stand_in_for_the_tasks():
    slow = dataclasses.replace(DIGITS, learning_rate=0.01)
    one, other = together(slow), together(learning_rate=0.01)
    for trainer in (one, other):
        trainer.begin(0, start())
        trainer.advance(0, 3)
    np.testing.assert_array_equal(one.freeze(0)[0], other.freeze(0)[0])


def test_parameters_that_are_not_trained_stay_and_the_others_move_as_if_they_were_constants():
    trainable = np.arange(SIZE) % 3 == 0
    trainer = together()
    trainer.restrict(trainable)
    trainer.begin(0, start())
    trainer.advance(0, 1)
    delta, _, _ = trainer.freeze(0)
    free = together()
    free.begin(0, start())
    free.advance(0, 1)
    np.testing.assert_allclose(delta, free.freeze(0)[0] * trainable, atol=1e-7)
    assert np.abs(delta).max() > 0
    with pytest.raises(PhaseError, match="expected 2410 parameters"):
        trainer.restrict(trainable[1:])
