"""The trainer's behaviour, without a process: each command in each state."""

import dataclasses

import numpy as np
import pytest
import torch

from models import messages, session, tasks
from models.datasets import DataError
from models.parameters import SchemaError
from models.session import Session, open_session
from models.tasks import TaskError

OPEN = messages.Open("digits", "shard=1/10", None, seed=1, model_seed=7)
SIZE = 2410


@pytest.fixture
def opened() -> tuple[Session, messages.Opened]:
    return open_session(OPEN)


@pytest.fixture
def trainer(opened) -> Session:
    return opened[0]


def start(opened: tuple[Session, messages.Opened]) -> bytes:
    return (np.frombuffer(opened[1].initial, "<i8") / (1 << 24)).astype("<f4").tobytes()


BASE = np.zeros(SIZE, "<f4").tobytes()
BEGIN = messages.Begin(1, BASE, min_steps=2, max_steps=4)


def drain(trainer: Session) -> list[messages.Answer]:
    answers = []
    while trainer.busy:
        answers += trainer.advance()
    return answers


def test_opening_tells_what_the_daemon_needs_to_know(opened):
    answer = opened[1]
    assert [(name, size) for name, size, _ in answer.tensors][:2] == [("1.weight", 2048), ("1.bias", 32)]
    assert len(answer.schema_hash) == 32
    assert len(answer.initial) == 8 * SIZE
    assert (answer.examples, answer.classes) == (144, 10)
    assert not opened[0].busy


def test_devices_of_a_swarm_agree_on_x0_whatever_their_own_seed(opened):
    _, other = open_session(messages.Open("digits", "shard=2/10", None, seed=9, model_seed=7))
    _, stranger = open_session(messages.Open("digits", "shard=2/10", None, seed=1, model_seed=8))
    assert other.initial == opened[1].initial != stranger.initial
    assert other.schema_hash == stranger.schema_hash


def test_devices_of_a_swarm_cut_the_same_cake_whatever_their_own_seed():
    sizes = [
        open_session(messages.Open("digits", "dirichlet=2/10@0.3", None, seed, model_seed))[1].examples
        for seed, model_seed in ((1, 7), (9, 7), (1, 8))
    ]
    assert sizes[0] == sizes[1] != sizes[2]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"task": "wach"}, TaskError),
        ({"data_spec": "all"}, DataError),
        ({"data_folder": "/nowhere"}, DataError),
    ],
)
def test_an_open_that_cannot_be_obeyed_raises(changed, error):
    with pytest.raises(error):
        open_session(
            messages.Open(**(dict(zip(OPEN.__struct_fields__, OPEN.__reduce__()[1], strict=True)) | changed))
        )


def test_a_model_with_running_statistics_is_refused(monkeypatch):
    task = dataclasses.replace(tasks.PACKAGED["digits"], model=lambda: torch.nn.BatchNorm1d(3))
    monkeypatch.setattr(session, "load_task", lambda _name: task)
    with pytest.raises(SchemaError, match="BatchNorm"):
        open_session(OPEN)


def test_a_phase_becomes_eligible_goes_on_and_idles_at_its_maximum(trainer):
    assert trainer.handle(BEGIN) == []
    assert trainer.advance() == []
    assert trainer.advance() == [messages.Eligible(1, 2)]
    assert trainer.advance() == trainer.advance() == []
    assert not trainer.busy
    (frozen,) = trainer.handle(messages.Freeze(1))
    assert (frozen.phase, frozen.steps, frozen.examples) == (1, 4, 128)
    assert np.frombuffer(frozen.delta, "<f4").any()
    assert not trainer.busy


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_freeze_may_come_at_any_time(trainer, steps):
    trainer.handle(BEGIN)
    for _ in range(steps):
        trainer.advance()
    (frozen,) = trainer.handle(messages.Freeze(1))
    assert frozen.steps == steps
    assert not trainer.busy
    assert trainer.handle(messages.Begin(2, BASE, 1, 1)) == []
    assert drain(trainer) == [messages.Eligible(2, 1)]


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_an_abandoned_phase_ends_without_a_word_and_makes_way_for_the_next(trainer, steps):
    trainer.handle(BEGIN)
    for _ in range(steps):
        trainer.advance()
    assert trainer.handle(messages.Abandon(1)) == []
    assert not trainer.busy
    assert "open" in failed(trainer.handle(messages.Freeze(1))).reason
    assert trainer.handle(messages.Begin(2, BASE, 1, 1)) == []
    assert drain(trainer) == [messages.Eligible(2, 1)]


def test_a_rebase_is_taken_while_training_and_while_idle_at_the_maximum(trainer):
    change = np.full(SIZE, 64.0, "<f4").tobytes()
    trainer.handle(messages.Begin(1, BASE, 1, 1))
    assert trainer.handle(messages.Rebase(np.zeros(SIZE, "<f4").tobytes())) == []
    drain(trainer)
    assert trainer.handle(messages.Rebase(change)) == []
    assert not trainer.busy
    (frozen,) = trainer.handle(messages.Freeze(1))
    assert 0 < np.abs(np.frombuffer(frozen.delta, "<f4")).max() < 1, (
        "the shared change is not this device's delta"
    )


def failed(answers: list[messages.Answer]) -> messages.Failed:
    (answer,) = answers
    assert isinstance(answer, messages.Failed)
    assert not answer.fatal
    return answer


@pytest.mark.parametrize("command", [messages.Rebase(BASE), messages.Freeze(1), messages.Abandon(1)])
def test_outside_a_phase_there_is_nothing_to_rebase_freeze_or_abandon(trainer, command):
    assert "open" in failed(trainer.handle(command)).reason
    trainer.handle(BEGIN)
    trainer.handle(messages.Freeze(1))
    assert "open" in failed(trainer.handle(command)).reason


def test_a_refused_command_is_named_and_changes_nothing(trainer):
    trainer.handle(BEGIN)
    trainer.advance()
    short = BASE[:-4]
    refused = [
        (messages.Begin(2, BASE, 1, 1), "a phase is open", "begin", 2),
        (messages.Freeze(2), "phase 2 is not open", "freeze", 2),
        (messages.Abandon(2), "phase 2 is not open", "abandon", 2),
        (messages.Rebase(short), "expected 2410", "rebase", None),
        (messages.Rebase(BASE[:-1]), "not a vector of float32", "rebase", None),
        (messages.Evaluate(6, short), "expected 2410", "evaluate", 6),
        (messages.Alone(7, short, 5), "expected 2410", "alone", 7),
        (OPEN, "open already", "open", None),
    ]
    for command, reason, kind, number in refused:
        answer = failed(trainer.handle(command))
        assert reason in answer.reason
        assert (answer.command, answer.number) == (kind, number)
    assert drain(trainer) == [messages.Eligible(1, 2)]
    assert trainer.handle(messages.Freeze(1))[0].steps == 4


def test_a_phase_whose_bounds_cross_is_refused(trainer):
    assert "exceed" in failed(trainer.handle(messages.Begin(1, BASE, 5, 4))).reason
    assert not trainer.busy


def test_pausing_stops_steps_and_not_answers(trainer, opened):
    trainer.handle(BEGIN)
    assert trainer.handle(messages.Pause(start(opened))) == []
    assert not trainer.busy
    assert isinstance(trainer.handle(messages.Evaluate(1, start(opened)))[0], messages.Evaluated)
    assert trainer.handle(messages.Rebase(BASE)) == []
    assert trainer.handle(messages.Resume()) == []
    assert drain(trainer) == [messages.Eligible(1, 2)]


def test_questions_in_the_middle_of_a_phase_do_not_change_it(opened):
    trainer, (still, _) = opened[0], open_session(OPEN)
    begin = messages.Begin(1, start(opened), 2, 30)
    for one in (trainer, still):
        one.handle(begin)
        one.advance()
    (judged,) = trainer.handle(messages.Evaluate(4, start(opened)))
    assert (judged.id, judged.count) == (4, 360)
    assert trainer.handle(messages.Alone(5, start(opened), 40)) == []
    answers = drain(trainer)
    drain(still)
    assert [type(answer) for answer in answers] == [messages.Eligible, messages.AloneDone]
    assert trainer.handle(messages.Freeze(1)) == still.handle(messages.Freeze(1))


def test_alone_reports_what_the_devices_own_data_can_reach(opened):
    trainer = opened[0]
    trainer.handle(messages.Begin(1, start(opened), 60, 60))
    drain(trainer)
    model = np.frombuffer(start(opened), "<f4") + np.frombuffer(
        trainer.handle(messages.Freeze(1))[0].delta, "<f4"
    )
    (expected,) = trainer.handle(messages.Evaluate(1, model.astype("<f4").tobytes()))
    fresh, _ = open_session(OPEN)
    fresh.handle(messages.Alone(5, start(opened), 60))
    assert "not finished" in failed(fresh.handle(messages.Alone(6, start(opened), 60))).reason
    assert drain(fresh) == [messages.AloneDone(5, expected.accuracy)]
    assert expected.accuracy > 0.7
    assert fresh.handle(messages.Alone(6, start(opened), 1)) == []


def test_divergence_is_an_answer_and_a_new_phase_can_begin(monkeypatch):
    task = dataclasses.replace(tasks.PACKAGED["digits"], learning_rate=1e30)
    monkeypatch.setattr(session, "load_task", lambda _name: task)
    trainer, opened = open_session(OPEN)
    base = start((trainer, opened))
    trainer.handle(messages.Begin(3, base, 5, 9))
    answer = failed(drain(trainer))
    assert "not finite" in answer.reason
    assert (answer.command, answer.number) == ("begin", 3)
    assert "not open" in failed(trainer.handle(messages.Freeze(3))).reason
    trainer.handle(messages.Alone(8, base, 5))
    answer = failed(drain(trainer))
    assert (answer.command, answer.number) == ("alone", 8)
    assert trainer.handle(messages.Begin(4, base, 5, 9)) == []


def test_close_closes(trainer):
    assert trainer.handle(messages.Close()) == []
    assert trainer.closed
