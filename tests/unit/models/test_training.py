"""A local phase: a base in, steps, a delta out; rebases move with it and nothing non-finite leaves."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.parameters import ONE, initial, schema_of
from models.tasks import load_task
from models.training import Diverged, LocalTrainer, PhaseError

DIGITS = load_task("digits")
SIZE = 2410


def digits_part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = DIGITS.data(None)
    inputs, labels = data.take(np.flatnonzero(~data.held_out)[:count])
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def start() -> np.ndarray:
    return (initial(schema_of(DIGITS.model(), DIGITS.segment), 3) / ONE).astype(np.float32)


def trainer(task=DIGITS, count=100, seed=1) -> LocalTrainer:
    return LocalTrainer(task, *digits_part(count), seed)


def train(local: LocalTrainer, steps: int) -> None:
    for _ in range(steps):
        local.step()


def test_the_delta_is_that_of_plain_minibatch_sgd():
    inputs, labels = digits_part(20)  # a single batch, so the order of examples does not matter
    local = LocalTrainer(DIGITS, inputs, labels, seed=1)
    local.begin(start())
    train(local, 5)
    made = local.freeze()

    module = DIGITS.model()
    nn.utils.vector_to_parameters(torch.from_numpy(start()), module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=DIGITS.learning_rate, momentum=DIGITS.momentum)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = nn.utils.parameters_to_vector(module.parameters()).detach().numpy() - start()
    assert np.allclose(made.delta, expected, atol=1e-6)
    assert np.abs(made.delta).max() > 1e-2
    assert made.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_training_learns():
    local = trainer()
    local.begin(start())
    train(local, 100)
    model = start() + local.freeze().delta
    score, before = (local.evaluate(vector, *digits_part(100)) for vector in (model, start()))
    assert before.accuracy < 0.4
    assert score.accuracy > 0.95
    assert score.count == 100
    assert score.loss < before.loss


def test_a_pass_shows_every_example_once_across_phases():
    seen = []

    def record(outputs, labels):
        seen.extend(labels.tolist())
        return outputs.sum() * 0

    task = dataclasses.replace(DIGITS, loss=record)
    inputs, _ = digits_part(96)
    local = LocalTrainer(task, inputs, torch.arange(96), seed=1)
    for _ in range(2):
        for steps in (1, 2):
            local.begin(start())
            train(local, steps)
            local.freeze()
    assert sorted(seen[:96]) == sorted(seen[96:]) == list(range(96))
    assert seen[:96] != seen[96:]


def test_the_same_seed_trains_the_same():
    deltas = []
    for seed in (1, 1, 2):
        local = trainer(seed=seed)
        local.begin(start())
        train(local, 7)
        deltas.append(local.freeze().delta)
    assert np.array_equal(deltas[0], deltas[1])
    assert not np.array_equal(deltas[0], deltas[2])


def test_a_rebase_moves_the_working_model_and_not_the_delta():
    local, still = trainer(), trainer()
    change = np.full(SIZE, 0.25, np.float32)
    for one in (local, still):
        one.begin(start())
        train(one, 4)
    local.rebase(change)
    assert np.allclose(local.freeze().delta, still.freeze().delta, atol=1e-6)

    local.begin(start())
    local.rebase(change)
    moved = trainer(seed=2)
    moved.begin(start() + change)
    local._order = moved._order = torch.arange(100)
    for one in (local, moved):
        train(one, 3)
    assert np.allclose(local.freeze().delta, moved.freeze().delta, atol=1e-6), (
        "training goes on from the moved model"
    )


def test_a_new_phase_remembers_nothing_of_the_last():
    local, fresh = trainer(), trainer()
    local.begin(start() + 1)
    train(local, 5)
    local.freeze()
    local._order = fresh._order = torch.arange(100)
    for one in (local, fresh):
        one.begin(start())
        train(one, 3)
    made, expected = local.freeze(), fresh.freeze()
    assert np.array_equal(made.delta, expected.delta)
    assert (made.steps, made.loss) == (3, expected.loss)


def test_a_dropped_phase_leaves_nothing_and_its_examples_have_had_their_turn():
    local, frozen = trainer(), trainer()
    local.begin(start() + 1)
    train(local, 5)
    local.drop()
    frozen.begin(start())
    train(frozen, 5)
    frozen.freeze()
    for one in (local, frozen):
        one.begin(start())
        train(one, 3)
    made, expected = local.freeze(), frozen.freeze()
    assert np.array_equal(made.delta, expected.delta)
    assert (made.steps, made.loss) == (3, expected.loss)


def test_examples_are_those_the_steps_can_have_seen():
    local = trainer(count=100)
    for steps, examples in ((0, 0), (1, 32), (3, 96), (4, 100), (9, 100)):
        local.begin(start())
        train(local, steps)
        made = local.freeze()
        assert (made.steps, made.examples) == (steps, examples)


def test_a_frozen_untrained_phase_changes_nothing():
    local = trainer()
    local.begin(start())
    made = local.freeze()
    assert not made.delta.any()
    assert made.loss == 0


def test_evaluating_in_the_middle_of_a_phase_does_not_disturb_it():
    local, still = trainer(), trainer()
    for one in (local, still):
        one.begin(start())
        train(one, 3)
    judged = local.evaluate(start() * 2, *digits_part(300))
    for one in (local, still):
        train(one, 3)
    assert np.array_equal(local.freeze().delta, still.freeze().delta)
    assert judged == trainer().evaluate(start() * 2, *digits_part(300))


def test_evaluation_is_exact_over_uneven_batches():
    inputs, labels = digits_part(600)
    module = DIGITS.model()
    nn.utils.vector_to_parameters(torch.from_numpy(start()), module.parameters())
    with torch.no_grad():
        outputs = module(inputs)
    score = trainer().evaluate(start(), inputs, labels)
    assert score.accuracy == (outputs.argmax(1) == labels).sum().item() / 600
    assert score.loss == pytest.approx(functional.cross_entropy(outputs, labels).item(), rel=1e-5)


def test_a_dropout_layer_draws_while_training_and_not_while_judging():
    task = dataclasses.replace(
        DIGITS, model=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    )
    local = trainer(task)
    vector = np.ones(650, np.float32) * np.arange(650, dtype=np.float32) / 650
    assert local.evaluate(vector, *digits_part(50)) == local.evaluate(vector, *digits_part(50))
    assert local._model.training


def test_a_loss_that_is_not_finite_ends_the_phase():
    local = trainer(dataclasses.replace(DIGITS, learning_rate=1e30))
    local.begin(start())
    with pytest.raises(Diverged, match="loss is not finite after 2 local steps"):
        train(local, 2)
    with pytest.raises(PhaseError, match="no phase is open"):
        local.freeze()
    local.begin(start())
    assert not local.freeze().delta.any()


def test_a_delta_that_is_not_finite_never_leaves():
    local = trainer(dataclasses.replace(DIGITS, learning_rate=1e38, momentum=0.0))
    local.begin(start())
    local.step()  # the loss before the first step is fine
    local._y[7] = torch.inf
    with pytest.raises(Diverged, match="delta is not finite"):
        local.freeze()
    local.begin(start())


def test_a_loss_on_the_test_set_that_is_not_finite_is_no_score():
    with pytest.raises(Diverged, match="test set"):
        trainer().evaluate(np.full(SIZE, 1e30, np.float32), *digits_part(10))


@pytest.mark.parametrize("bad", [np.zeros(SIZE - 1, np.float32), np.full(SIZE, np.nan, np.float32)])
def test_vectors_that_do_not_fit_change_nothing(bad):
    local = trainer()
    for refused in (lambda: local.begin(bad), lambda: local.evaluate(bad, *digits_part(10))):
        with pytest.raises(PhaseError, match="expected 2410 finite parameters"):
            refused()
    local.begin(start())
    with pytest.raises(PhaseError, match="expected 2410 finite parameters"):
        local.rebase(bad)
    assert not local.freeze().delta.any()


def test_out_of_turn_is_refused():
    local = trainer()
    for refused in (local.step, local.freeze, local.drop, lambda: local.rebase(start())):
        with pytest.raises(PhaseError, match="no phase is open"):
            refused()
    local.begin(start())
    with pytest.raises(PhaseError, match="freeze or drop it first"):
        local.begin(start())
