"""Striking in a whole world: poison that everybody has folded is gone from all replicas, whoever hears of it when."""

import numpy as np
import pytest
from msgspec import structs

from crypto.certificates import certify
from crypto.half_aggregation import HalfAggregate
from crypto.identity import Identity
from gossip.events import Answered, Persist, PersistFailed, Rebase, Received, Revoke, Send, Strike
from gossip.frames import Kind, channel_frame, open_frame, sign_frame
from gossip.history.aggregate import STATE_EVERY, body_statement
from gossip.history.dag import counting
from gossip.history.fold import fold_all
from gossip.history.messages import Strikes
from gossip.history.strikes import STRIKERS, retract, strike
from gossip.history.strikes import Strikes as Known
from gossip.quorum import pack_members, read_members
from tests.simulation.harness import Faults, Observer, World, certificate, tiny_initial
from tests.simulation.test_attacks import league_of, signed_sum, told
from tests.simulation.test_newcomer import (  # noqa: F401 - a fixture
    LAST,
    become_equal,
    is_by_checkpoint,
    round_of,
)
from tests.simulation.test_newcomer import told as told_in
from tests.simulation.test_newcomer import world as long_history  # noqa: F401 - a fixture

pytestmark = pytest.mark.timeout(300)


def reports(world, name, since=0.0):
    return [(i, report.fields) for at, i, report in world.reports if report.name == name and at >= since]


def trained(seed=41, n=6, rounds=6, **how) -> World:
    world = World(seed, n, **how)
    assert world.run(300, until=lambda: min(world.rounds()) >= rounds)
    return world


def by_founder(world, device, since=1):
    world.ask(world.devices[0], Strike(device.key, since))
    world.run(30, until=lambda: world.answers)
    return world.answers[-1]


def knows(device, struck, since=1) -> bool:
    return device.core._struck.since.get(struck.key) == since


def are_one(world) -> bool:
    return world.one_history() and len({each.core._replica.sha256() for each in world.alive()}) == 1


def without(world, struck, since=1):
    """The fold of what one device holds as if the struck ones' sums had never been, from the definition alone."""
    core = world.devices[0].core
    keys = {each.key for each in struck}
    rest = [
        known
        for known in core._history.held()
        if known.body.round < since or not keys & set(known.contributors)
    ]
    rounds = [counting([k for k in rest if k.body.round == r]) for r in range(1, core._history.round + 1)]
    return fold_all(tiny_initial(), rounds, core._layout, world.swarm.manifest)


def holds_nothing_of(device, struck, since=1) -> bool:
    history = device.core._history
    counted = (known for r in range(since, history.round + 1) for known in history.counting(r))
    return not any(struck.key in known.contributors for known in counted)


# --- what it does ---------------------------------------------------------------------------------------------


def test_the_founder_strikes_and_all_replicas_return_to_the_bits_without_those_sums():
    world = trained()
    bad = world.devices[3]
    answer = by_founder(world, bad, since=2)
    assert answer == Answered(Strike(bad.key, 2), "")
    assert world.run(30, until=lambda: all(knows(each, bad, 2) for each in world.devices))
    assert world.run(60, until=lambda: are_one(world))
    assert np.array_equal(world.devices[0].core._replica.x, without(world, [bad], 2).x)
    [told_of] = world.devices[5].core.struck()
    assert (told_of["peer_id"], told_of["since"], told_of["by_founder"]) == (bad.identity.peer_id, 2, True)
    assert told_of["sums"] == world.devices[5].core.status(world.now)["sums_taken_back"] >= 1
    assert not reports(world, "violation")


def test_a_leagues_poison_is_gone_from_all_replicas_and_what_it_makes_next_counts_for_nothing(monkeypatch):
    monkeypatch.setattr(Observer, "_check_sum", lambda self, body: None)  # the league's is no sum of anything
    world = World(45, 8)
    league, founder = league_of(world), world.devices[0]
    assert world.run(100, until=lambda: min(world.rounds()) >= 4)
    history = founder.core._history
    parents = [known for known in history.held() if known.body.round == 2]
    poison = signed_sum(world, league, parents)
    world._perform(founder, told(world, league[0], founder, poison))
    assert world.run(60, until=lambda: all(poison.id in each.core._history for each in world.devices))
    honest = {member.key for member in world.devices[:5]}
    assert any(honest & set(known.contributors) for known in history.counting(3)), "beside honest sums"
    for liar in league:
        world.ask(founder, Strike(liar.key, 1))
    assert world.run(20, until=lambda: len(world.answers) == len(league))
    assert world.run(60, until=lambda: all(knows(each, liar) for each in world.devices for liar in league))
    assert world.run(60, until=lambda: are_one(world))
    assert all(holds_nothing_of(each, liar) for each in world.devices for liar in league)
    assert np.array_equal(founder.core._replica.x, without(world, league).x)
    before, number = founder.core._replica.x.copy(), len(history)
    more = signed_sum(world, league, parents, number=9)
    told(world, league[0], founder, more)
    assert (more.id in history, len(history)) == (True, number + 1), "valid as ever"
    assert np.array_equal(founder.core._replica.x, before)


@pytest.mark.parametrize("admit", ["members", "invite"])
def test_nobody_sums_with_a_struck_device_again_and_the_swarm_goes_on(admit):
    world = trained(admit=admit)
    bad = world.devices[3]
    by_founder(world, bad)
    world.run(20)
    since, at = world.rounds()[0], world.now
    assert world.run(200, until=lambda: min(world.rounds()) >= since + 6)
    history = world.devices[0].core._history
    members = {
        each
        for r in range(since + 2, history.round + 1)
        for i in history.ids(r)
        for each in history.get(i).contributors
    }
    assert members
    assert bad.key not in members
    assert not reports(world, "violation", at)
    told_bad = bad.core.status(world.now)
    assert "does not count" in told_bad["warning"]
    assert "struck" in told_bad["waits_for"]


def latest(world, device, kind):
    """What this device signed last of a kind."""
    frames = [data for data in world._old_frames if data[2] == kind]
    messages = [open_frame(world.swarm.id, data, device.key) for data in frames]
    return [message for message in messages if message.sender == device.key][-1]


def struck_at(world, device, bad):
    """This device alone has heard of it, and the struck one has not."""
    frame = channel_frame(Strikes((strike(world.devices[0].identity, world.swarm.id, bad.key, 1),)))
    world._perform(device, device.core.handle(Received(world.devices[4].key, frame), world.now))
    assert knows(device, bad)


def test_a_struck_device_that_goes_on_asking_is_in_nobodys_bag_and_in_nobodys_roster():
    world = trained()
    victim, bad = world.devices[1], world.devices[3]
    round_ = victim.core._history.round + 1
    ready = latest(world, bad, Kind.READY).body
    frames = {
        each.key: sign_frame(each.identity, world.swarm.id, structs.replace(ready, round=round_))
        for each in world.devices
    }
    struck_at(world, victim, bad)
    rendezvous = victim.core._rendezvous
    rendezvous._bag.clear()
    for each in (bad, world.devices[2]):
        victim.core.handle(Received(each.key, frames[each.key]), world.now)
    assert (bad.key in rendezvous._bag, world.devices[2].key in rendezvous._bag) == (False, True)
    # Its READY may have been in the bag when the strike came.
    sent = [each for each in victim.core._form(tuple(frames.values())) if isinstance(each, Send)]
    rosters = {each.data for each in sent if each.data[2] == Kind.ROSTER}
    [roster] = [open_frame(world.swarm.id, data).body for data in rosters]
    members = read_members([entry.member for entry in roster.readies], world.swarm.manifest)
    assert set(members) == set(frames) - {bad.key}


def test_a_roster_of_who_has_not_heard_of_it_is_declined_and_says_why():
    world = trained()
    victim, bad = world.devices[1], world.devices[3]
    frame = next(
        data
        for data in reversed(world._old_frames)
        if data[2] == Kind.ROSTER and bad.key in members_of_roster(world, data)
    )
    roster = open_frame(world.swarm.id, frame)
    body = structs.replace(roster.body, round=victim.core._history.round)
    assert not victim.core._objects(body, roster.sender)
    struck_at(world, victim, bad)
    assert victim.core._objects(body, roster.sender) == "a member whose sums were taken back"


def members_of_roster(world, data):
    readies = open_frame(world.swarm.id, data).body.readies
    return read_members([entry.member for entry in readies], world.swarm.manifest)


def test_nobody_asks_a_struck_device_to_lead_and_it_asks_nobody():
    world = trained()
    victim, bad = world.devices[1], world.devices[3]
    rounds = range(1, 60)
    rendezvous = victim.core._rendezvous
    assert any(bad.key in rendezvous._leaders(round_) for round_ in rounds)
    by_founder(world, bad)
    assert world.run(30, until=lambda: all(knows(each, bad) for each in world.devices))
    assert not any(bad.key in rendezvous._leaders(round_) for round_ in rounds)
    assert bad.core._rendezvous.asked is None
    at = len(world._old_frames)
    world.run(60)
    since = [
        open_frame(world.swarm.id, data, bad.key) for data in world._old_frames[at:] if data[2] == Kind.READY
    ]
    assert since
    assert bad.key not in {message.sender for message in since}


def test_the_trainer_goes_on_from_the_model_without_those_sums():
    world = trained()
    device, bad = world.devices[1], world.devices[3]
    core, before = device.core, device.core._stand
    frame = channel_frame(Strikes((strike(world.devices[0].identity, world.swarm.id, bad.key, 1),)))
    assert core._phase is not None
    actions = core.handle(Received(world.devices[4].key, frame), world.now)
    [moved] = [action.change for action in actions if isinstance(action, Rebase)]
    assert moved.any()
    assert np.array_equal(core.model(), core._replica.model())
    assert np.allclose(before + moved, core._stand)


def test_a_sum_that_was_struck_while_a_member_was_away_is_no_open_debit_after_its_restart():
    """Or it would give again what is in a sum that exists: one payload, one sum (design, rule 3)."""
    world = trained(rounds=2)
    device, bad = world.devices[1], world.devices[3]
    assert world.run(100, until=lambda: device.disk["debit"] and gives_with(world, device, bad))
    debits = dict(device.disk["debit"])
    [cohort] = [key for key in debits if key in device.core._cohorts]

    def holds_it():
        return any(
            cohort in {part.roster for part in known.body.parts} for known in device.core._history.held()
        )

    assert world.run(60, until=holds_it)
    world.run(1)
    world.crash(device)
    device.disk["debit"].update(debits)  # as if it had stopped before this was forgotten
    by_founder(world, bad)
    record = strike(world.devices[0].identity, world.swarm.id, bad.key, 1)
    [kept] = Known(world.swarm, lambda _: False).add(record, lambda _: None)
    device.disk[kept.table][kept.key] = kept.value
    at = world.now
    world.boot(device)
    assert knows(device, bad)
    settled = [fields for i, fields in reports(world, "settled", at) if i == device.index]
    assert {fields["cohort"] for fields in settled} == {cohort.hex()[:16]}
    assert settled[-1]["outcome"] == "included"


def gives_with(world, device, bad) -> bool:
    """Whether it is in a cohort with the bad one and its vector has left."""
    running = [each.member for key, each in device.core._cohorts.items() if key in device.disk["debit"]]
    return any(bad.key in member.cohort.members for member in running)


# --- who may --------------------------------------------------------------------------------------------------


def asked(world, device, question):
    before = len(world.answers)
    world.ask(device, question)
    world.run(10, until=lambda: len(world.answers) > before)
    return world.answers[-1].refusal


def test_who_may_not_is_told_who_may():
    world = trained(rounds=1)
    founder, other = world.devices[0], world.devices[2]
    refusal = asked(world, other, Strike(world.devices[3].key, 1))
    assert "only the founder" in refusal
    assert founder.identity.peer_id in refusal, "whom to ask"
    assert "does not strike itself" in asked(world, founder, Strike(founder.key, 1))
    assert "numbered from 1" in asked(world, founder, Strike(other.key, 0))
    assert not any(len(each.core._strikes) for each in world.devices)


def test_a_forged_strike_changes_nothing_and_is_blamed_on_who_brought_it():
    world = trained(rounds=2)
    victim, liar = world.devices[0], world.devices[4]
    for raw in (
        strike(liar.identity, world.swarm.id, world.devices[2].key, 1),
        strike(Identity(b"a stranger's key................"), world.swarm.id, world.devices[2].key, 1),
        b"\x92",
    ):
        before = victim.core._replica.sha256(), victim.core._history.digest()
        world._perform(
            victim, victim.core.handle(Received(liar.key, channel_frame(Strikes((raw,)))), world.now)
        )
        assert (victim.core._replica.sha256(), victim.core._history.digest()) == before
    assert len(reports(world, "violation")) == 3


def test_junk_behind_a_strike_does_not_keep_it_from_taking_effect():
    """Or a neighbour could make a victim hold it, neither applied nor stored, and nobody else's word would be news."""
    world = trained()
    victim, liar, bad = world.devices[1], world.devices[4], world.devices[3]
    good = strike(world.devices[0].identity, world.swarm.id, bad.key, 1)
    frame = channel_frame(Strikes((good, b"\x92")))
    world._perform(victim, victim.core.handle(Received(liar.key, frame), world.now))
    assert knows(victim, bad)
    assert holds_nothing_of(victim, bad)
    world.run(1)
    assert good in victim.disk["strike"].values()
    assert reports(world, "violation")


def test_an_earlier_round_is_not_replaced_by_a_later_one_on_the_disk_either():
    world = trained(rounds=4)
    founder, bad = world.devices[0], world.devices[3]
    for since in (2, 4):
        world.ask(founder, Strike(bad.key, since))  # both before either is durable
    world.run(20, until=lambda: len(world.answers) == 2)
    asked(world, founder, Strike(bad.key, 3))
    for _ in range(2):
        assert knows(founder, bad, 2)
        world.crash(founder)
        world.boot(founder)


def test_a_strike_that_could_not_be_stored_does_nothing_and_says_so():
    world = trained(rounds=2)
    core, bad = world.devices[0].core, world.devices[3]
    [kept] = core.handle(Strike(bad.key, 1), world.now)
    assert isinstance(kept, Persist)
    [answered] = core.handle(PersistFailed(kept.tag, "No space left on device"), world.now)
    assert "No space left" in answered.refusal
    assert not core.struck()


def test_inviters_strike_together_and_one_alone_does_nothing_but_show():
    world = World(46, 6, admit="invite")
    founder = world.devices[0]
    inviters = world.devices[1 : 1 + STRIKERS]
    for serial, each in enumerate(inviters):  # renewed, with a generation to admit
        renewed = certificate(world.swarm, founder.identity, each.key, serial, depth=1)
        founder.core._handshake.admission.add([renewed])
        each.core._handshake.admission.add([renewed])
    assert world.run(300, until=lambda: min(world.rounds()) >= 5)
    bad = world.devices[5]
    for number, each in enumerate(inviters, 1):
        bits = {device.core._replica.sha256() for device in world.devices}
        assert asked(world, each, Strike(bad.key, 2)) == ""
        assert each.core.struck()[0]["signed"] == number
        if number < STRIKERS:
            assert each.core.struck()[0]["since"] is None
            assert {device.core._replica.sha256() for device in world.devices} & bits
            assert world.run(60, until=lambda: all(of_all(each_, bad) == number for each_ in world.devices))  # noqa: B023
    assert world.run(60, until=lambda: all(knows(device, bad, 2) for device in world.devices))
    assert world.run(60, until=lambda: are_one(world))
    assert np.array_equal(founder.core._replica.x, without(world, [bad], 2).x)
    assert not reports(world, "violation")


def of_all(device, bad):
    return next(
        (each["signed"] for each in device.core.struck() if each["peer_id"] == bad.identity.peer_id), 0
    )


def test_striking_and_revoking_go_together():
    world = trained(admit="invite")
    bad = world.devices[3]
    by_founder(world, bad)
    world.ask(world.devices[0], Revoke(bad.key))
    rest = [each for each in world.devices if each is not bad]
    assert world.run(60, until=lambda: all(knows(each, bad) for each in rest))
    assert world.run(120, until=lambda: len({each.core._history.digest() for each in rest}) == 1)
    assert len({each.core._replica.sha256() for each in rest}) == 1


# --- whoever hears of it when -----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["dense", "lowrank"])
def test_a_strike_spreads_over_a_cut_once_it_heals(codec):
    world = trained(n=8, codec=codec)
    bad = world.devices[7]
    world.partition({0, 1, 2, 3}, {4, 5, 6, 7})
    by_founder(world, bad)
    world.run(40)
    assert all(knows(each, bad) for each in world.devices[:4])
    assert not any(knows(each, bad) for each in world.devices[4:])
    world.heal()
    assert world.run(120, until=lambda: all(knows(each, bad) for each in world.devices))
    assert world.run(200, until=lambda: are_one(world))
    assert all(holds_nothing_of(each, bad) for each in world.devices)
    if codec == "dense":
        assert np.array_equal(world.devices[0].core._replica.x, without(world, [bad]).x)


def test_it_is_known_after_a_restart_of_everybody():
    world = trained()
    bad = world.devices[3]
    by_founder(world, bad)
    assert world.run(60, until=lambda: all(knows(each, bad) for each in world.devices))
    world.run(1)
    for each in world.devices:
        world.crash(each)
    for each in world.devices:
        world.boot(each)
        assert knows(each, bad)
        assert holds_nothing_of(each, bad)
    assert world.run(120, until=lambda: are_one(world))


@pytest.mark.parametrize("seed", range(4))
def test_under_faults_and_crashes_all_end_with_the_same_bits(seed):
    faults = Faults(60, drop=0.1, duplicate=0.1, latency=(0.01, 0.8), crashes={"MASKED": 0.1, "RESULT": 0.1})
    world = World(seed, 6, faults=faults)
    world.run(30, until=lambda: world.devices[0].alive and max(world.rounds(), default=0) >= 3)
    bad = world.devices[3]
    for _ in range(20):
        if any(not each.refusal for each in world.answers) or not world.devices[0].alive:
            world.run(2)
            continue
        world.ask(world.devices[0], Strike(bad.key, 1))
        world.run(2)
    world.mend()
    assert world.run(300, until=lambda: all(knows(each, bad) for each in world.devices) and are_one(world))
    assert all(holds_nothing_of(each, bad) for each in world.devices)


def test_a_round_that_signs_a_state_does_not_stop_while_a_strike_spreads():
    """Half of the swarm has heard of it when the round with a state comes."""
    world = trained(rounds=STATE_EVERY - 2)
    bad = world.devices[5]
    raw = strike(world.devices[0].identity, world.swarm.id, bad.key, 1)
    honest = world._send

    def send(device, peer, data):
        frame = open_frame(world.swarm.id, data, device.key)
        if frame.kind is Kind.STRIKES and min(world.rounds()) <= STATE_EVERY + 1:
            return  # nobody else hears of it until the state is signed
        honest(device, peer, data)

    world._send = send
    for each in world.devices[:2]:
        frame = channel_frame(Strikes((raw,)))
        world._perform(each, each.core.handle(Received(world.devices[2].key, frame), world.now))
    assert world.run(300, until=lambda: min(world.rounds()) >= STATE_EVERY + 2)
    assert not reports(world, "violation")
    assert not reports(world, "checkpoint_false")
    with_state = [
        known
        for known in world.devices[0].core._history.held()
        if known.body.round == STATE_EVERY and known.body.state
    ]
    assert with_state
    assert world.run(200, until=lambda: all(knows(each, bad) for each in world.devices) and are_one(world))


# --- checkpoints ------------------------------------------------------------------------------------------------


def on_its_way(world, bad):
    """The founder of this world strikes; its answer does not matter here."""
    founder = world.devices[0]
    world._perform(founder, founder.core.handle(Strike(bad.key, 2), world.now))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_newcomer_ends_without_the_struck_sums_too(long_history, when):  # noqa: F811
    world = long_history
    bad, newcomer = world.devices[3], world.devices[LAST]
    if when == "before":
        on_its_way(world, bad)
        world.run(world.now + 10)
    world.switch_on(newcomer)
    if when == "after":
        become_equal(world)
        assert is_by_checkpoint(world)
        on_its_way(world, bad)
    world.run(world.now + 60, stop=lambda: world.events % 32 == 0 and knows(newcomer, bad, 2))
    assert knows(newcomer, bad, 2)
    become_equal(world, 60)
    assert not is_by_checkpoint(world)
    assert holds_nothing_of(newcomer, bad, 2)
    assert newcomer.core.status(world.now)["checkpoints_refuted"] == 0, "nobody has lied"
    assert not told_in(world, "checkpoint_false")
    assert not told_in(world, "violation")


def test_a_checkpoint_that_hides_a_strike_on_the_disk_is_given_up_at_the_start(long_history):  # noqa: F811
    """As after a crash between the two writes."""
    world = long_history
    bad, newcomer = world.devices[3], world.devices[LAST]
    swarm = world.devices[0].core._swarm
    world.switch_on(newcomer)
    become_equal(world)
    assert is_by_checkpoint(world)
    world.run(world.now + 0.5)
    world.switch_off(newcomer)
    raw = strike(world.devices[0].core._identity, swarm.id, bad.key, 2)
    [record] = Known(swarm, lambda _: False).add(raw, lambda _: None)
    newcomer.disk[record.table][record.key] = record.value
    world.switch_on(newcomer)
    assert knows(newcomer, bad, 2)
    assert holds_nothing_of(newcomer, bad, 2)
    on_its_way(world, bad)
    become_equal(world, 60)
    assert not is_by_checkpoint(world)


def test_a_checkpoint_given_up_for_a_strike_rebases_the_running_phase_once(long_history):  # noqa: F811
    world = long_history
    bad, newcomer = world.devices[3], world.devices[LAST]
    swarm = world.devices[0].core._swarm
    world.switch_on(newcomer)
    become_equal(world)
    assert is_by_checkpoint(world)
    core = newcomer.core
    world.run(world.now + 60, stop=lambda: core._phase is not None)
    before = core._stand
    frame = channel_frame(Strikes((strike(world.devices[0].core._identity, swarm.id, bad.key, 2),)))
    actions = core.handle(Received(world.devices[1].key, frame), world.now)
    moved = sum((action.change for action in actions if isinstance(action, Rebase)), np.zeros_like(before))
    assert np.allclose(moved, core._stand - before)


def test_a_newcomer_whose_checkpoint_hides_a_retracted_sum_fetches_it_sees_and_folds_without_it(long_history):  # noqa: F811
    """Nobody takes a neighbour's word for it: the retraction is signed by members whom only the sum's body names."""
    world = long_history
    newcomer, founder = world.devices[LAST], world.devices[0].core
    swarm, keys = founder._swarm, {each.core._me: each.core._identity for each in world.devices if each.core}
    known = founder._history.get(founder._history.ids(5)[0])
    [part] = known.body.parts
    members = read_members(part.members, swarm.manifest)
    stated = body_statement(swarm.id, part.roster, known.id)
    votes = {place: keys[member].sign("retract", stated) for place, member in enumerate(members)}
    half = HalfAggregate(*certify("retract", stated, members, votes))
    raw = retract(swarm.id, known.id, pack_members(sorted(votes), len(members)), half)
    forged = retract(swarm.id, founder._history.ids(6)[0], pack_members(sorted(votes), len(members)), half)

    world.switch_on(newcomer)
    become_equal(world)
    assert is_by_checkpoint(world)
    liar = world.devices[1]
    for each in (forged, forged):
        frame = channel_frame(Strikes((each,)))
        world._deliver(newcomer, newcomer.life, Received(liar.core._me, frame))
        world.run(world.now + 5)
    assert is_by_checkpoint(world), "a forged one costs a body, and its bringer a violation"
    assert told_in(world, "violation")
    frame = channel_frame(Strikes((raw,)))
    world._deliver(world.devices[2], world.devices[2].life, Received(liar.core._me, frame))
    world.run(world.now + 60, stop=lambda: world.events % 32 == 0 and not is_by_checkpoint(world))
    become_equal(world, 60)
    for device in world.devices:
        assert known.id in device.core._history
        assert known not in device.core._history.counting(5)
    assert not told_in(world, "checkpoint_false")
