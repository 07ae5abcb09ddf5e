"""A share of what `python -m tests.fuzz` does: hostile messages of each kind to a real core, from seeds and from hypothesis.

Nothing escapes the core, its status can be told after each, and no core tells of a fault.
"""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossip.events import Received
from gossip.frames import Kind, channel_frame
from gossip.membership import admission, view
from gossip.membership.messages import Denied
from tests.fuzz.arena import FaultFoundError
from tests.fuzz.choices import Spelled
from tests.fuzz.episodes import INPUTS, FailedError, arena_of, episode, one_input

EPISODES = 2
KINDS = sorted(Kind)


def hostile(kind: Kind) -> st.SearchStrategy[list[Spelled]]:
    """Choices of which `tests.fuzz.hostile.Hostile` makes signed messages of this kind; zeros make the plainest."""
    return st.lists(st.binary(max_size=200).map(Spelled), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_message_of_any_kind_ends_a_core_or_finds_a_fault(kind):
    for number in range(EPISODES):
        episode(kind, number, INPUTS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_hypothesis_makes_of_a_kind_finds_no_fault_either(kind, data):
    arena = arena_of(kind, data.draw(st.integers(0, 7)))
    for choices in data.draw(hostile(kind)):
        one_input(arena, kind, choices)


def episodes(kind: Kind) -> None:
    for number in range(20):
        episode(kind, number)


def test_the_fuzzer_finds_a_date_that_cannot_be_written(monkeypatch):
    """As it was: an `at_s` that formatting it makes an exception of."""

    def of(self, whose):
        if self.at_s > 1 << 37:
            raise ValueError("year 6326 is out of range")
        return whose

    monkeypatch.setattr(admission.Refusal, "of", of)
    with pytest.raises(
        FailedError, match=r"DENIED: .*year 6326(.|\n)*python -m tests.fuzz --kind DENIED --episode"
    ):
        episodes(Kind.DENIED)


def test_the_fuzzer_finds_what_goes_wrong_later(monkeypatch):
    def fails(_self, _now):
        raise KeyError("an address that nobody checked")

    monkeypatch.setattr(view.Membership, "_let_idle_go", fails)
    with pytest.raises(FailedError, match="KeyError"):
        episodes(Kind.GREETING)


def test_the_fuzzer_finds_a_status_that_cannot_be_told(monkeypatch):
    arena = arena_of(Kind.DENIED, 1)
    monkeypatch.setattr(admission.Refusal, "of", lambda *_: 1 // 0)
    member = next(device for device in arena.devices if device is not arena.victim)
    with pytest.raises(FaultFoundError):
        arena.feed([Received(member.key, channel_frame(Denied(3, 0)))])


def test_one_command_runs_it_and_another_replays_a_frame():
    command = [sys.executable, "-m", "tests.fuzz", "--kind", "DENIED"]
    told = subprocess.run([*command, "--inputs", "50"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("DENIED")
    assert "50 inputs    0 episodes at fault" in told.stdout
    frame = channel_frame(Denied(3, 0)).hex()
    told = subprocess.run([*command, "--replay", frame], capture_output=True, text=True, check=True)
    assert told.stdout == "no fault\n"
