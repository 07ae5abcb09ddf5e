"""One simulated swarm fills the memory: the next is made when it is gone."""

import weakref
from types import SimpleNamespace

import pytest

from scenarios import cli


class Knot:
    """A run, which like a real one refers to itself and so does not go by itself."""

    made: list["weakref.ref[Knot]"]
    there_before: list[int]

    def __init__(self, *_: object) -> None:
        Knot.there_before.append(sum(run() is not None for run in Knot.made))
        Knot.made.append(weakref.ref(self))
        self.me = self

    def go(self) -> None:
        if len(Knot.made) == Knot.interrupted_in:
            raise KeyboardInterrupt

    def report(self) -> str:
        return f"figures {len(Knot.made)}"

    interrupted_in = 0


@pytest.fixture(autouse=True)
def knots(monkeypatch):
    monkeypatch.setattr(cli, "_simulation", Knot)
    monkeypatch.setattr(cli, "outcome", str)
    Knot.made, Knot.there_before, Knot.interrupted_in = [], [], 0


def runs_of(seeds, algorithms):
    plans = [SimpleNamespace(seed=seed) for seed in range(seeds)]
    return list(cli._runs(plans, algorithms, True, SimpleNamespace(say=print), None, "real"))


def test_each_run_is_gone_before_the_next_one_is_made():
    assert runs_of(3, ["gossamer", "fedavg"]) == [(f"figures {number}", False) for number in range(1, 7)]
    assert Knot.there_before == [0] * 6


def test_of_several_runs_each_is_told_as_it_begins_and_ends(capsys):
    runs_of(2, ["gossamer"])
    assert capsys.readouterr().out.splitlines() == [
        "run 1 of 2: gossamer, seed 0",
        "run 1 of 2: figures 1",
        "run 2 of 2: gossamer, seed 1",
        "run 2 of 2: figures 2",
    ]


def test_one_run_is_not_counted(capsys):
    runs_of(1, ["gossamer"])
    assert capsys.readouterr().out == ""


def test_an_interruption_ends_the_runs_and_keeps_what_was_measured():
    Knot.interrupted_in = 2
    assert runs_of(2, ["gossamer", "fedavg"]) == [
        ("figures 1", False),
        ("figures 2", True),
    ]
