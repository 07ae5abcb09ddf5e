"""A device rests until the lottery will soon draw it, and again when it missed its round; a hub whose turn it is to lead does not."""

import random
from types import SimpleNamespace

import pytest
from msgspec import structs

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.cohort.sortition import GATHERING_ROUNDS, ONE, Turns, places, ranking, whole_sum_s, wins
from gossip.events import (
    Abandon,
    Dial,
    Eligible,
    Freeze,
    Frozen,
    Rebase,
    Report,
    SetTimer,
    TimerFired,
    Train,
    TrainerReady,
)
from gossip.history.sync import GUIDES
from gossip.manifest import Cohorts, found
from gossip.membership.view import HUB_LINKS_MAX, Settings
from node.core import NodeCore
from tests.simulation.harness import tiny_initial, tiny_swarm

PEOPLE = [Identity(digest("sleeper", bytes([number]))) for number in range(40)]
COHORTS = Cohorts(3, 4, 500, 1000, sums=1)
SWARM = tiny_swarm(PEOPLE[0], [who.public_key for who in PEOPLE])
TRAINING = structs.replace(SWARM.manifest.training, phase_ms=60_000)
LARGE = found(structs.replace(SWARM.manifest, cohorts=COHORTS, training=TRAINING), PEOPLE[0])  # for its sums
SMALL = found(structs.replace(SWARM.manifest, cohorts=structs.replace(COHORTS, sums=10)), PEOPLE[0])
P = ONE * places(COHORTS) // 40
LOTTERY = TimerFired(("lottery",))
NAMES = "abcdefgh"


def named(name: str) -> bytes:
    return digest("contributor", name.encode())


def first_win(who: Identity, p: int = P) -> int:
    return next(round_ for round_ in range(1, 1000) if wins(LARGE.id, round_, who.public_key, p))


def core_of(who: Identity, swarm=LARGE, *, hub: bool = False) -> NodeCore:
    core = NodeCore(
        identity=who,
        swarm=swarm,
        initial=tiny_initial(),
        settings=Settings(("here",), hub=hub),
        entropy=random.Random(1).randbytes,
        read=lambda _: (),
    )
    core.start(0.0)
    return core


def of(actions: list[object], kind: type) -> list[object]:
    return [action for action in actions if isinstance(action, kind)]


def test_who_is_drawn_for_one_of_the_next_rounds_trains_and_others_rest():
    trained = []
    for who in PEOPLE:
        actions = core_of(who).handle(TrainerReady(20), 0.0)
        rests = SetTimer(("lottery",), whole_sum_s(COHORTS)) in actions
        assert len(of(actions, Train)) == (not rests)
        assert rests == (first_win(who) > TRAINING.rounds_ahead)
        trained.append(not rests)
    assert any(trained)
    assert not all(trained)


def test_in_a_small_swarm_nobody_rests():
    for who in PEOPLE:
        assert of(core_of(who, SMALL).handle(TrainerReady(20), 0.0), Train)


def sleeper(hub: bool = False) -> tuple[Identity, NodeCore]:
    """The one that the lottery draws last."""
    who = max(PEOPLE, key=first_win)
    assert first_win(who) > 3 * TRAINING.rounds_ahead
    return who, core_of(who, hub=hub)


def test_where_no_round_comes_all_wake_as_the_lottery_draws_more_and_more():
    who, core = sleeper()
    actions, wakes = core.handle(TrainerReady(20), 0.0), 0
    while not of(actions, Train):
        (timer,) = [timer for timer in of(actions, SetTimer) if timer.tag == ("lottery",)]
        wakes += 1
        assert wakes < 100, "the lottery draws no more of them"
        assert timer.at == pytest.approx(wakes * whole_sum_s(COHORTS)), "once a waiting time"
        assert core.status(timer.at)["doing"] == "rests"
        actions = core.handle(LOTTERY, timer.at)
    waited = min(ONE, P << wakes)
    assert min(first_win(who, p) for p in (waited, waited >> 1)) <= TRAINING.rounds_ahead
    assert first_win(who, min(ONE, P << wakes - 1)) > TRAINING.rounds_ahead, "and no sooner"


def test_a_device_that_rests_begins_when_the_rounds_come_near_the_one_that_draws_it(monkeypatch):
    who, core = sleeper()
    core.handle(TrainerReady(20), 0.0)
    drawn_for, began = first_win(who), None
    monkeypatch.setattr(core._turns, "_share", lambda waited: P)
    for round_ in range(1, drawn_for):
        monkeypatch.setattr(type(core._history), "round", property(lambda _, round_=round_: round_))
        if of(core.handle(LOTTERY, 0.1 * round_), Train):
            began = round_ + 1
            break
    assert began == drawn_for - TRAINING.rounds_ahead + 1


def test_a_trainer_that_failed_is_not_woken():
    _, core = sleeper()
    core.handle(TrainerReady(20), 0.0)
    core._trainer_fault = "stumbled"
    assert not of(core.handle(LOTTERY, 1e6), Train)


def test_a_device_that_gave_its_delta_rests_and_keeps_the_rest_of_it():
    _, core = sleeper()
    core._trainer_fault = ""
    core._phase = None
    (train,) = of(core.handle(TrainerReady(20), 1e6), Train)  # drawn, as no round came for so long
    core._phase.freezing_for = b"a cohort that is over"
    core._grown_at = 1e6
    delta = tiny_initial().astype("f4") * 1e-9
    actions = core.handle(Frozen(train.phase, delta, 7, 0.5), 1e6)
    assert core._phase is None
    assert not of(actions, Train)
    assert core._books.ahead.any(), "what it had learned is not lost"
    assert not of(actions, Rebase)


def test_what_a_failed_cohort_gave_back_is_offered_again_without_the_time_of_a_phase():
    who = min(PEOPLE, key=first_win)
    for gave_back in (False, True):
        core = core_of(who)
        (train,) = of(core.handle(TrainerReady(20), 0.0), Train)
        if gave_back:
            core._phase.freezing_for = b"a cohort that is over"
            delta = tiny_initial().astype("f4") * 1e-9
            (train,) = of(core.handle(Frozen(train.phase, delta, 7, 0.5), 0.5), Train)
        said = core.handle(Eligible(train.phase, 5), 1.0)
        asked = [report for report in of(said, Report) if report.fields.get("phase") == "READY"]
        assert len(asked) == gave_back


def test_a_hub_that_leads_the_next_round_takes_part_in_it_undrawn_and_before_its_time():
    for hub in (False, True):
        _, core = sleeper(hub=hub)
        train = of(core.handle(TrainerReady(20), 0.0), Train)
        assert len(train) == hub
        if hub:
            said = core.handle(Eligible(train[0].phase, 5), 0.001)
            assert [report.fields["phase"] for report in of(said, Report) if report.name == "phase"] == [
                "READY"
            ]
            assert not of(said, Freeze)


# --- a phase that missed its round ----------------------------------------------------------------------------


def drawn_once(swarm=LARGE) -> tuple[NodeCore, int, int]:
    """A device that trains, as the lottery draws it soon and then not for long; in which rounds it does."""
    for who in PEOPLE:
        first, second, *_ = (round_ for round_ in range(1, 1000) if wins(LARGE.id, round_, who.public_key, P))
        if first <= TRAINING.rounds_ahead < second - first - 1:
            core = core_of(who, swarm)
            assert of(core.handle(TrainerReady(20), 0.0), Train)
            return core, first, second
    raise AssertionError("nobody like that among so many")


def grow_to(core: NodeCore, round_: int, monkeypatch) -> list[object]:
    monkeypatch.setattr(core._turns, "_share", lambda waited: P)
    monkeypatch.setattr(type(core._history), "round", property(lambda _: round_))
    return core._grown(0.1 * round_)


def test_a_phase_that_missed_its_round_is_given_up_and_its_device_rests_until_it_is_drawn_again(monkeypatch):
    core, first, second = drawn_once()
    for round_ in range(1, first):
        assert not of(grow_to(core, round_, monkeypatch), Abandon), "its round is still to come"
    number = core._phase.number
    actions = grow_to(core, first, monkeypatch)
    assert of(actions, Abandon) == [Abandon(number)]
    assert not of(actions, Train)
    assert any(timer.tag == ("lottery",) for timer in of(actions, SetTimer))
    assert core._phase is None
    assert core._doing()[0] == "rests"
    assert not core.handle(Eligible(number, 5), 0.1 * first), "a word that crossed"
    (train,) = of(grow_to(core, second - TRAINING.rounds_ahead, monkeypatch), Train)
    assert train.phase == number + 1


@pytest.mark.parametrize("wanted", ["freezing", "asked", "pending", "busy"])
def test_what_somebody_may_still_ask_for_is_not_given_up(wanted, monkeypatch):
    core, first, _ = drawn_once()
    grow_to(core, first - 1, monkeypatch)
    monkeypatch.setattr(type(core._history), "round", property(lambda _: first))
    assert core._nobody_wants(core._phase, 1.0)
    if wanted == "freezing":
        core._phase.freezing_for = b"a cohort"
    elif wanted == "asked":
        core._rendezvous.asked = SimpleNamespace()
    elif wanted == "pending":
        core._pending = SimpleNamespace()
    else:
        monkeypatch.setattr(type(core), "_busy", property(lambda _: SimpleNamespace()))
    assert not core._nobody_wants(core._phase, 1.0)


def test_in_a_small_swarm_no_phase_is_given_up(monkeypatch):
    core, first, _ = drawn_once(SMALL)
    monkeypatch.setattr(type(core._history), "round", property(lambda _: first))
    assert not of(core._grown(1.0), Abandon)
    assert core._phase is not None


# --- a swarm that nobody knows whole --------------------------------------------------------------------------


def crowded(rounds: list[str]) -> NodeCore:
    """A core that knows a part of its swarm, where each round has one sum of these contributors."""
    core = core_of(PEOPLE[1])
    core._membership = SimpleNamespace(
        sees_all=False,
        reachable=lambda _: True,
        is_hub=lambda _: False,
        presences_of=tuple,
        live=lambda _: [],
        size=lambda: 2 * HUB_LINKS_MAX,
        addresses_of=lambda peer: (peer.hex(),),
    )
    sums = [[SimpleNamespace(contributors=tuple(map(named, names)))] for names in rounds]
    core._history = SimpleNamespace(
        round=len(rounds),
        counted=lambda round_: sums[round_ - 1] if round_ else [],
        counts=lambda *_, **__: [],
    )
    core._turns = Turns(LARGE, core._me, core._membership, lambda: core._history)
    core._phase = object()
    core._handshake = SimpleNamespace(is_here=lambda _: False)
    return core


APPROACHED = 4  # the round after the next, of a history of two


@pytest.mark.parametrize(
    ("but", "dials"),
    [
        ("", True),
        ("not drawn", False),
        ("rests", False),
        ("connected", False),
        ("unknown", False),
        ("sees all", False),
        ("met by all hubs", False),
    ],
)
def test_whom_a_device_will_ask_in_the_round_after_the_next_it_dials_now(but, dials, monkeypatch):
    core = crowded(["ab", "cd"])
    [asked, *_] = ranking(LARGE.id, APPROACHED, map(named, "cd"))
    drawn = iter([APPROACHED] if but != "not drawn" else [])
    monkeypatch.setattr(
        "gossip.cohort.sortition.wins", lambda _swarm, round_, _me, _p: round_ == next(drawn, None)
    )
    if but == "rests":
        core._phase = None
    core._handshake = SimpleNamespace(is_here=lambda peer: but == "connected" and peer == asked)
    core._membership.sees_all = but == "sees all"
    core._membership.size = lambda: HUB_LINKS_MAX + (but != "met by all hubs")
    core._membership.addresses_of = lambda peer: () if but == "unknown" else (peer.hex(),)
    assert core._approach() == ([Dial(asked, (asked.hex(),))] if dials else [])


def test_while_a_swarm_comes_together_nobody_dials_a_leader_ahead(monkeypatch):
    """Most take it for a small one, and themselves for drawn."""
    core = crowded(["ab"] * 4)
    monkeypatch.setattr("gossip.cohort.sortition.wins", lambda *_: True)
    dialled = []
    for round_ in range(1, 4):
        core._history.round = round_
        dialled.append(bool(core._approach()))
    assert dialled == [round_ + 2 > GATHERING_ROUNDS for round_ in range(1, 4)] == [False, True, True]


def test_nobody_dials_itself_to_lead(monkeypatch):
    core = crowded(["ab", "cd"])
    monkeypatch.setattr("gossip.cohort.sortition.wins", lambda *_: True)
    assert core._approach()
    core._history.counted = lambda _: [SimpleNamespace(contributors=(core._me,))]
    assert core._approach() == []


@pytest.mark.parametrize("of_round", [1, 2, 5])
def test_members_are_told_where_those_are_whom_all_who_pull_their_sum_will_look_for(of_round, monkeypatch):
    core = crowded(["ab"])
    who = tuple(sorted(map(named, NAMES)))
    cohort = SimpleNamespace(members=who, hubs=who[:2], roster=SimpleNamespace(round=of_round))
    monkeypatch.setattr("node.core.open_frame", lambda *_: None)
    monkeypatch.setattr("node.core.open_roster", lambda *_: cohort)
    told = core._tell_members(b"roster", who)
    assert [introduced.to for introduced in told] == list(who)
    guides: set[bytes] = set()
    for newest in (of_round, of_round + 1):
        core._history.round = newest
        known = SimpleNamespace(body=SimpleNamespace(round=of_round), contributors=who)
        guides |= set(core._guides_of(known))
    assert len(guides) >= GUIDES
    assert {*told[0].peers} == {*guides, *cohort.hubs}
    core._membership.sees_all = True
    assert core._tell_members(b"roster", who) == []
    assert core._guides_of(known) == ()
