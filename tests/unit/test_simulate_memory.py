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
    Knot.made, Knot.there_before, Knot.interrupted_in = [], [], 0


def runs_of(plans, algorithms):
    return list(cli._runs(plans, algorithms, True, SimpleNamespace(), None, "real"))


def test_each_run_is_gone_before_the_next_one_is_made():
    assert runs_of(["seed 0", "seed 1", "seed 2"], ["gossamer", "fedavg"]) == [
        (f"figures {number}", False) for number in range(1, 7)
    ]
    assert Knot.there_before == [0] * 6


def test_an_interruption_ends_the_runs_and_keeps_what_was_measured():
    Knot.interrupted_in = 2
    assert runs_of(["seed 0", "seed 1"], ["gossamer", "fedavg"]) == [
        ("figures 1", False),
        ("figures 2", True),
    ]
