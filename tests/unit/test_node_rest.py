"""A device rests until the lottery will soon draw it, and a hub whose turn it is to lead does not rest."""

import random

import pytest
from msgspec import structs

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.events import Eligible, Freeze, Frozen, Rebase, Report, SetTimer, TimerFired, Train, TrainerReady
from gossip.manifest import Cohorts, found
from gossip.membership import Settings
from gossip.rendezvous import ONE, whole_sum_s, wins
from node.core import NodeCore
from tests.simulation.harness import tiny_initial, tiny_swarm

PEOPLE = [Identity(digest("sleeper", bytes([number]))) for number in range(40)]
COHORTS = Cohorts(3, 4, 500, 1000, sums=1)
SWARM = tiny_swarm(PEOPLE[0], [who.public_key for who in PEOPLE])
TRAINING = structs.replace(SWARM.manifest.training, phase_ms=60_000)
LARGE = found(structs.replace(SWARM.manifest, cohorts=COHORTS, training=TRAINING), PEOPLE[0])  # for its sums
SMALL = found(structs.replace(SWARM.manifest, cohorts=structs.replace(COHORTS, sums=10)), PEOPLE[0])
P = ONE * 4 // 40
LOTTERY = TimerFired(("lottery",))


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
    monkeypatch.setattr(core, "_share", lambda waited: P)
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
