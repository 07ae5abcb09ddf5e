"""One bad device, or a few in league, in a whole world: what each gained before, and no longer does (docs/threat-model.md)."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from crypto.masking import Lanes
from gossip.body import Body, Part, aggregate_id
from gossip.codec.codec import payload_plan
from gossip.codec.entropy_coding import squeeze
from gossip.cohort.messages import Ready
from gossip.cohort.roster import Secrets, open_roster, write_roster
from gossip.events import Look, Looked, Received, Report, Send
from gossip.frames import Kind, channel_frame, open_frame, sign_frame
from gossip.history.aggregate import (
    MEMBERSHIP_OF_MANIFEST,
    STATE_EVERY,
    Aggregate,
    Verified,
    body_statement,
    write,
)
from gossip.history.fold import GROWTH_MAX
from gossip.history.messages import Aggregates
from gossip.history.pace import BURST, THIN_BURST
from gossip.quorum import pack_members, read_members, spell_members
from gossip.secure_sum.harm import HARM_MAX, UNKNOWN
from gossip.secure_sum.member import Disputed, MaskJob
from gossip.secure_sum.messages import BodyProposal
from scenarios.adversary.casting import cast_of
from scenarios.adversary.leagues import LeagueCheckpoint
from scenarios.spec.adversary import AdversaryTable
from tests.histories import certificate
from tests.simulation.harness import Observer, World


class Watched(World):
    """Members see harm in what a test says is harmful, as trainers do; wrong sums are the test's to judge."""

    harmful = staticmethod(lambda device, change: False)

    def _do(self, device, action):
        match action:
            case Look(tag, before, after):
                harm = self.harmful(device, after - before)
                self._tell(device, 0.01, Looked(tag, 1.0, 1.0 + 2 * HARM_MAX * harm))
            case _:
                super()._do(device, action)


@pytest.fixture
def forgeries(monkeypatch):
    """Sums of forgers may come into histories here: counted, not forbidden."""
    seen = []
    honest = Observer._check_sum

    def count(self, body):
        try:
            honest(self, body)
        except AssertionError:
            seen.append(body)

    monkeypatch.setattr(Observer, "_check_sum", count)
    return seen


@pytest.fixture
def unseen(monkeypatch):
    """As a forgery that leaves everybody its part: zeros would be seen by all, and in a model of 16 parameters parts are chance."""
    monkeypatch.setattr("node.core.part_in", lambda *_: UNKNOWN)


def forging(world: World, forger: object, monkeypatch, sums) -> list[bytes]:
    """Whenever this device shows a sum, it is another one. The cohorts in which it did."""
    honest, cohorts = World._send, []

    def lie(self, device, peer, data):
        message = open_frame(self.swarm.id, data, device.key)
        if device is forger and isinstance(message.body, BodyProposal):
            cohorts.append(message.cohort)
            body = BodyProposal(squeeze(sums, Lanes(0, 16, 8)), message.body.ranges)
            data = sign_frame(device.identity, self.swarm.id, body, cohort=message.cohort)
        honest(self, device, peer, data)

    monkeypatch.setattr(World, "_send", lie)
    return cohorts


def reports(world: World, name: str) -> list[tuple[int, dict]]:
    return [(i, report.fields) for _, i, report in world.reports if report.name == name]


# --- item 3 ---------------------------------------------------------------------------------------------------


def test_an_aggregator_that_publishes_what_it_likes_gains_no_signature(forgeries, monkeypatch):
    """Seen: accepted 3 of 3 times."""
    world = Watched(31, 8)
    world.harmful = lambda device, change: change.min() > 0.02  # no honest sum raises all values
    cohorts = forging(world, world.devices[3], monkeypatch, bytes([21]) * 16)
    world.run(120)
    assert len(set(cohorts)) >= 2
    assert not forgeries
    assert min(world.rounds()) >= 8, "the second aggregator puts it right"
    named = {fields["peer"] for i, fields in reports(world, "distrusted") if i != 3}
    assert named == {world.devices[3].key.hex()[:16]}


def test_a_forgery_whose_harm_some_members_see_and_others_sign_splits_no_cohort(
    forgeries, unseen, monkeypatch
):
    """Seen: of eleven members three refused it, eight had signed it, and nine have to. It cost all of them 15 s and their updates."""
    world = Watched(33, 8, n_min=8)
    world.harmful = lambda device, change: not change.any() and device.index in {0, 1, 2}
    forger = world.devices[5]
    cohorts = forging(world, forger, monkeypatch, bytes(16))
    world.run(120)
    assert cohorts
    assert not forgeries
    outcomes = Counter(fields["outcome"] for i, fields in reports(world, "settled") if i != forger.index)
    assert not outcomes["unknown"]
    assert {fields["peer"] for _, fields in reports(world, "forged")} == {forger.key.hex()[:16]}
    finders = {i for i, _ in reports(world, "forged")} | {i for i, _ in reports(world, "distrusted")}
    assert len(finders) == 7, "whoever was in its cohort, and in such a small swarm all were"
    assert min(world.rounds()) >= 38  # 36 before, 41 without a forger


def test_a_forger_that_nobody_sees_any_harm_in_is_found_by_audits_and_leads_no_more(
    forgeries, unseen, monkeypatch
):
    """Zeros: within all that members look for. Of ten sums one is audited, on average."""
    world = Watched(32, 8)
    forger = world.devices[3]
    cohorts = forging(world, forger, monkeypatch, bytes(16))
    for _ in range(60):  # 21 sums went by here before one did
        world.run(10)
        if reports(world, "forged"):
            break
    assert {fields["peer"] for _, fields in reports(world, "forged")} == {forger.key.hex()[:16]}
    world.run(5)  # all who were told have added up for themselves
    before = len(forgeries)
    world.run(60)
    assert cohorts
    assert reports(world, "taken_back")
    for device in world.devices:
        core = device.core
        assert device is forger or core._suspicion.distrusts(forger.key, core._history.round), "also others"
    finders = {world.devices[i].key for i, _ in reports(world, "forged")}
    assert len(finders) >= 3
    assert all(
        not {*finders} <= {*read_members(body.parts[0].members, world.swarm.manifest)}
        for body in forgeries[before:]
    )


# --- item 5 ---------------------------------------------------------------------------------------------------


def league_of(world: World, count: int = 3) -> list[object]:
    return sorted(world.devices[-count:], key=lambda device: device.key)


def signed_sum(world: World, league, parents, *, sums=b"\x15" * 16, number: int = 0, state=b"") -> Verified:
    """A body that the league signs: valid in itself, of the next round after these parents."""
    core = world.devices[0].core
    plan = payload_plan(
        np.arange(core._layout.blocks),
        core._layout,
        world.swarm.manifest.compression,
        [each.body for each in parents],
    )
    keys = [device.key for device in league]
    part = Part(
        number.to_bytes(4, "big") + bytes(28),
        spell_members(keys, world.swarm.manifest),
        MEMBERSHIP_OF_MANIFEST,
        pack_members(range(len(keys)), len(keys)),
    )
    body = Body(
        1, world.swarm.id, (part,), tuple(sorted(each.id for each in parents)),
        1 + max((each.body.round for each in parents), default=0), 0, b"", b"", plan.exponent_bytes,
        sums, (len(keys),) * 2, (512 * len(keys),) * 2, state,
    )  # fmt: skip
    stated = body_statement(world.swarm.id, part.roster, aggregate_id(body))
    signatures = certificate(stated, [device.identity for device in league], range(len(league)))
    return Verified.of(Aggregate(body, (signatures,)), world.swarm.manifest)


def told(world: World, liar, victim, *known: Verified) -> list[object]:
    frame = channel_frame(Aggregates(tuple(write(each.aggregate, world.swarm.manifest) for each in known)))
    return victim.core.handle(Received(liar.key, frame), world.now)


def test_a_league_that_backdates_sums_gains_one_a_round(forgeries):
    """Seen: 36 of them in .3 s."""
    world = Watched(33, 9)
    world.run(60, until=lambda: min(world.rounds()) >= 4)
    victim, league = world.devices[0], league_of(world)
    first = victim.core._history.counting(1)
    for number in range(1, 40):
        told(world, league[0], victim, signed_sum(world, league, [], number=number))
    assert len(victim.core._history.ids(1)) >= 35, "valid, each of them"
    counted = victim.core._history.counting(1)
    assert len(counted) <= len(first) + 1
    assert set(first) <= set(counted), "no honest sum is kept out by a smaller one"


@pytest.mark.parametrize(
    ("size", "least", "most", "first"), [(3, 1, THIN_BURST, 4), (7, BURST / 2, BURST, 3)]
)
def test_a_league_that_writes_rounds_is_held_to_the_pace_of_a_swarm(forgeries, size, least, most, first):
    """Seen: 200 new rounds in 2 s. A league of half of what is usual or more has the larger bucket."""
    world = Watched(34, 9)
    world.run(60, until=lambda: min(world.rounds()) >= 4)
    victim, league = world.devices[0], league_of(world, size)
    assert world.run(30, until=lambda: victim.core._sync._pace._buckets is not None), "it has once caught up"
    before, usual = victim.core._history.round, victim.core._replica.state.recent
    row = [victim.core._history.get(victim.core._history.heads()[0])]
    for number in range(1, 300):
        due = (row[-1].body.round + 1) % STATE_EVERY == 0
        row.append(signed_sum(world, league, row[-1:], number=number, state=bytes(32) if due else b""))
        told(world, league[0], victim, row[-1])
        if number == first:
            theirs = victim.core._replica.state.recent[-first:]
    assert least <= victim.core._history.round - before <= most + 1
    for tensor in (0, 1):
        largest = max(each.sizes[tensor] for each in usual)
        assert all(each.sizes[tensor] <= GROWTH_MAX * largest for each in theirs), "twice what rounds do"


def test_who_is_known_to_have_lied_makes_nobody_add_up_by_showing_another_sum(monkeypatch):
    world = World(39, 6)
    world.run(30)
    core, asked = world.devices[0].core, []
    cohort, running = next(iter(core._cohorts.items()))
    other = next(peer for peer in running.member.cohort.aggregators if peer != world.devices[0].key)
    monkeypatch.setattr(running.auditor, "disputed", lambda peer, _now: asked.append(peer) or [])
    core._settle_dispute(Disputed(cohort, other), world.now)
    assert asked == [other]
    core._suspicion.forged(other)
    core._settle_dispute(Disputed(cohort, other), world.now)
    assert asked == [other]


def test_a_first_aggregator_that_shows_nothing_is_distrusted_when_the_second_has(monkeypatch):
    world, honest = World(37, 8), World._send
    silent = world.devices[3]

    def hush(self, device, peer, data):
        kind = open_frame(self.swarm.id, data, device.key).kind
        if device is not silent or kind is not Kind.BODY_PROPOSAL:
            honest(self, device, peer, data)

    monkeypatch.setattr(World, "_send", hush)
    distrusting = set()

    def watch():
        distrusting.update(
            device.index
            for device in world.devices
            if device.core._suspicion.distrusts(silent.key, device.core._history.round)
        )
        return len(distrusting) >= 3

    assert world.run(120, until=watch)
    assert not [
        (device.index, other.index)
        for device in world.devices
        for other in world.devices
        if other is not silent and device.core._suspicion.distrusts(other.key, device.core._history.round)
    ]


def test_a_leader_that_proposes_two_seals_leads_no_second_time_in_that_round():
    """Seen: READY went out before the end of the cohort was taken note of, and so to the same leader again."""
    identities = [device.identity for device in World(38, 12).devices]
    make = cast_of(identities, [None] * 11 + [AdversaryTable("equivocate", count=1)], 38)
    world = World(38, 12, n_min=10, hostile={11: partial(make, 11)})
    world.run(240)
    led = {}
    for _, i, report in world.reports:
        if i == 11 and report.fields.get("phase") == "SHARES" and "leader" in report.fields["roles"]:
            led.setdefault(report.fields["round"], []).append(report.fields["cohort"])
    assert led
    assert max(map(len, led.values())) == 1


# --- item 6 ---------------------------------------------------------------------------------------------------


def loud(monkeypatch, boaster: bytes, change) -> None:
    honest = MaskJob.run

    def boast(job):
        encoded = honest(job)
        if job.cohort.members[job.owner] == boaster:
            change(job, encoded.vector)
        return encoded

    monkeypatch.setattr(MaskJob, "run", boast)


def test_a_member_that_speaks_louder_than_s_is_in_few_sums_before_long(forgeries, monkeypatch):
    """Seen: two of 20 with values of half n S took a third of the accuracy, unseen."""
    world = Watched(35, 8)
    bad = world.devices[5]

    def shout(job, vector):
        lanes = job.plan.lanes
        lanes.narrow_view(vector)[:] += 28

    loud(monkeypatch, bad.key, shout)
    world.harmful = lambda device, change: device is not bad and change.min() > 0.02
    world.run(300)
    there = [
        known
        for round_ in range(1, min(world.rounds()) + 1)
        for known in world.devices[0].core._history.counting(round_)
    ]
    assert min(world.rounds()) >= 15
    spoilt = [known for known in there if bad.key in known.contributors]
    assert len(spoilt) <= len(there) / 4
    assert reports(world, "sum_rejected")


# --- item 8 ---------------------------------------------------------------------------------------------------


def test_a_member_that_stops_every_sum_it_is_in_stops_few_and_nobody_loses_an_update(unseen, monkeypatch):
    """Seen: 47 rounds became 3, 52 sums ended as unknown, and nobody was suspected."""
    world = World(36, 8)
    bad = world.devices[5]

    def overflow(job, vector):
        job.plan.lanes.wide_view(vector)[0] = 1 << 31

    loud(monkeypatch, bad.key, overflow)
    world.run(150)
    with_it = min(world.rounds())
    monkeypatch.undo()
    monkeypatch.setattr("node.core.part_in", lambda *_: UNKNOWN)
    without = World(36, 8)
    without.run(150)
    assert with_it >= 2 / 3 * min(without.rounds())
    outcomes = [fields["outcome"] for i, fields in reports(world, "settled") if i != 5]
    assert "unknown" not in outcomes
    assert bad.key in world.devices[0].core._suspicion.doubted()


# --- item 7 ---------------------------------------------------------------------------------------------------


def test_replayed_readies_make_no_rosters_of_absent_devices():
    """Seen: 55 rounds a minute became 8."""
    rounds = []
    for hostile in (False, True):
        world = World(37, 8)
        kept: list[bytes] = []
        honest = world._do

        def spy(device, action, world=world, kept=kept, honest=honest):
            if (
                isinstance(action, Send)
                and open_frame(world.swarm.id, action.data, device.key).kind is Kind.READY
            ):
                kept.append(action.data)
            honest(device, action)

        world._do = spy
        liar = world.devices[7]
        for _ in range(120):
            world.run(1.0)
            if hostile:
                for device in world.devices[:7]:
                    for frame in kept[-40:-8]:
                        world._perform(device, device.core.handle(Received(liar.key, frame), world.now))
        rounds.append(min(world.rounds()))
    assert rounds[1] >= 2 / 3 * rounds[0]


# --- item 10 --------------------------------------------------------------------------------------------------


def test_a_leader_puts_nobody_who_is_ready_for_a_later_round_into_an_old_one():
    """A cohort of round 1 of members who are ready for round 9 would fold into what is long past."""
    world = World(38, 6)
    world.run(90, until=lambda: min(world.rounds()) >= 6)
    victim, leader = world.devices[1], world.devices[0]
    world.run(60, until=lambda: bool(victim.core._offers) and victim.core._busy is None)
    frame = next(iter(victim.core._offers))
    said = [open_frame(world.swarm.id, frame)]
    for device in (leader, *world.devices[3:5]):
        secrets = Secrets.fresh(device.key, world.rng.randbytes)
        ready = Ready(1, (), 3, secrets.channel.public, secrets.mask.public)
        said.append(open_frame(world.swarm.id, sign_frame(device.identity, world.swarm.id, ready)))
    said.sort(key=lambda message: message.sender)
    roster = write_roster(world.swarm, 1, (), b"", said)
    data = sign_frame(leader.identity, world.swarm.id, roster)
    cohort = open_roster(world.swarm, open_frame(world.swarm.id, data))
    actions = victim.core.handle(Received(leader.key, data), world.now)
    assert cohort.id not in victim.core._cohorts
    assert any(
        isinstance(a, Report) and a.fields.get("reason") == "a round that is long over" for a in actions
    )


# --- item 2 ---------------------------------------------------------------------------------------------------


def in_order(world: World, frames: list[bytes]) -> tuple[bytes, ...]:
    """As a bag that closes gives them."""
    return tuple(sorted(frames, key=lambda frame: open_frame(world.swarm.id, frame).sender))


@pytest.mark.parametrize("liars", [1, 2, 3, 5])
def test_readies_whose_trained_bits_are_disjoint_end_no_leader_and_are_left_out(liars):
    """Seen: `open_roster` raised out of the leader's core."""
    world = World(39, 8)
    world.run(1.0)
    leader = world.devices[0]
    readies = []
    for place, device in enumerate(world.devices):
        secrets = Secrets.fresh(device.key, world.rng.randbytes)
        trained = (1 if place % 2 else 2) if place < liars else 3
        readies.append(
            sign_frame(
                device.identity,
                world.swarm.id,
                Ready(1, (), trained, secrets.channel.public, secrets.mask.public),
            )
        )
    actions = leader.core._form(in_order(world, readies))
    rosters = {action.data for action in actions if isinstance(action, Send)}
    [frame] = rosters
    cohort = open_roster(world.swarm, open_frame(world.swarm.id, frame))
    assert cohort.travelling == 0b11
    assert {device.key for device in world.devices[liars:]} <= set(cohort.members)


def test_readies_of_which_no_segment_could_travel_make_no_roster_and_raise_nothing():
    world = World(40, 5)
    world.run(1.0)
    readies = []
    for place, device in enumerate(world.devices[:4]):
        secrets = Secrets.fresh(device.key, world.rng.randbytes)
        ready = Ready(1, (), 1 + place % 2, secrets.channel.public, secrets.mask.public)
        readies.append(sign_frame(device.identity, world.swarm.id, ready))
    assert world.devices[0].core._form(in_order(world, readies)) == []


# --- item 4 ---------------------------------------------------------------------------------------------------


def league_world(seed: int, count: int, league_size: int = 3) -> World:
    """The last so many offer a checkpoint of their own, 64 rounds ahead of the true ones."""
    table = AdversaryTable("league-checkpoint", count=league_size)
    clean = World(seed, count)
    identities = [device.identity for device in clean.devices]
    make = cast_of(identities, [None] * (count - league_size) + [table] * league_size, seed)
    bad = {index: partial(make, index) for index in range(count - league_size, count)}
    return World(seed, count, hostile=bad)


def test_a_leagues_checkpoint_of_its_own_making_replaces_nobodys_history(monkeypatch):
    """Seen: 27 of 27 had the league's numbers within 40 s. The world holds each replica against the fold of its history.

    Nobody has a history in the first seconds, so the league begins when all have one: a newcomer has nothing to keep.
    """
    early, claims = LeagueCheckpoint.wake, []

    def wake(self, now):
        if now <= 25:
            return ()
        said = list(early(self, now))
        claims.extend(said)
        return said

    monkeypatch.setattr(LeagueCheckpoint, "wake", wake)
    world = league_world(41, 8)
    world.run(25)
    assert min(world.rounds()[:5]) >= 2
    world.run(90)
    assert len(claims) > 100, "each of them to all its neighbours, every two seconds"
    honest = world.devices[:5]
    assert not [i for i, _ in reports(world, "caught_up") if i < 5]
    counted = [device.core._history.counting(1) for device in honest]
    assert all(counted)
    assert counted == counted[:1] * 5, "the first sums are still there"
    assert min(int(device.core.status(world.now)["round"]) for device in honest) >= 4, "and it goes on"
