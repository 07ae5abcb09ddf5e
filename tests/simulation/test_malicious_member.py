"""A member lies in every message: correctly signed, of the right type, and wrong in its meaning.

It takes what it saw on the wire, changes one thing or several, signs that as its own, and sends it to everybody; or it plays its
part and lies only now and then; or it is clever. Nothing but a counted violation may come of it: no exception leaves a core, no
invariant breaks, and the honest members go on.
"""

import os
import random

import msgpack
import pytest
from msgspec import structs

from crypto.identity import Identity
from gossip.body import Body, Part, aggregate_id
from gossip.cohort.messages import Entry, Ready, Roster
from gossip.cohort.roster import Secrets, open_roster, write_roster
from gossip.events import Frozen, Received, Send
from gossip.fields import SHORT_BYTES
from gossip.frames import (
    BODY_TYPES,
    CHANNEL_KINDS,
    COHORT_KINDS,
    Frame,
    Kind,
    channel_frame,
    open_frame,
    sign_frame,
    statement,
)
from gossip.history.aggregate import MEMBERSHIP_OF_MANIFEST, Aggregate, body_statement, write
from gossip.history.messages import Aggregates, Announce
from gossip.manifest import Manifest
from gossip.quorum import pack_members, spell_members
from gossip.secure_sum.member import MaskJob
from gossip.secure_sum.messages import Decline, KeysSet, Masked, Result
from gossip.wire import pack, unpack
from node import core as node_core
from tests.frames import spoken
from tests.histories import certificate
from tests.simulation.harness import ROUND_TIME_S, Faults, World

SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "4"))
LIES = 1500


def mutate(rng: random.Random, value: object) -> object:
    """One plausible change somewhere inside."""
    match value:
        case list() if value and rng.random() < 0.75:
            place = rng.randrange(len(value))
            return [*value[:place], mutate(rng, value[place]), *value[place + 1 :]]
        case list():
            kinds = [[], value + value[:1], value[:-1], list(reversed(value)), value * 2]
            return rng.choice(kinds)
        case bytes() if value and rng.random() < 0.7:
            place = rng.randrange(len(value))
            return value[:place] + bytes([value[place] ^ 1 << rng.randrange(8)]) + value[place + 1 :]
        case bytes():
            return rng.choice(
                [
                    b"",
                    bytes(len(value)),
                    value + b"\0",
                    value[:-1],
                    rng.randbytes(len(value)),
                    b"\xff" * len(value),
                ]
            )
        case int():
            return rng.choice([0, 1, value + 1, max(0, value - 1), 31, 255, 1 << 20, (1 << 47) + 1])
    return value


def lie(rng: random.Random, world: World, liar, frames: list[bytes]) -> bytes:
    """A frame as the liar sends it: a changed body, now and then under another cohort."""
    frame = unpack(rng.choice(frames), Frame, limit_bytes=1 << 24)
    plain = msgpack.unpackb(frame.body)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        plain = mutate(rng, plain)
    body = msgpack.packb(plain)
    if rng.random() < 0.3:  # frames inside: rosters, shares and greetings carry others' words
        body = body.replace(b"\x00" * 4, rng.randbytes(4), 1)
    kind = Kind(frame.kind)
    cohort = frame.cohort
    if kind in COHORT_KINDS:
        other = unpack(rng.choice(frames), Frame, limit_bytes=1 << 24)
        cohort = other.cohort if other.cohort and rng.random() < 0.3 else cohort
    if kind in CHANNEL_KINDS:
        return pack(Frame(1, kind, b"", b"", body, b""))
    signature = liar.identity.sign(*statement(world.swarm.id, kind, cohort, body))
    return pack(Frame(1, kind, cohort, liar.key, body, signature))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_lies_break_nothing(seed, monkeypatch):
    monkeypatch.setattr(node_core, "SHUN_S", (0.0, 0.0))  # each lie is to be looked at
    rng = random.Random(f"lies/{seed}")
    world = World(100 + seed, 6)
    world.run(8)
    liar = world.devices[5]
    honest = world.devices[:5]
    told = 0
    while told < LIES:
        world.run(rng.uniform(0.02, 0.3))
        frames = world._old_frames[-400:]
        for _ in range(25):
            frame, victim = lie(rng, world, liar, frames), rng.choice(honest)
            world._perform(victim, victim.core.handle(Received(liar.key, frame), world.now))
            told += 1
    before = [int(device.core.status(world.now)["round"]) for device in honest]
    assert world.run(
        120,
        until=lambda: all(
            int(d.core.status(world.now)["round"]) > b for d, b in zip(honest, before, strict=True)
        ),
    )
    violations = [r for _, i, r in world.reports if r.name == "violation" and i != 5]
    assert len(violations) > LIES / 20, "seen, as often as it is not shunned for the last ones"


def test_every_kind_is_lied_about():
    world = World(7, 6)
    world.run(12)
    seen = {unpack(frame, Frame, limit_bytes=1 << 24).kind for frame in world._old_frames}
    assert len(seen) >= 15
    assert set(BODY_TYPES) >= seen
    assert isinstance(world.swarm.manifest, Manifest)


# --- lies at the right moment ---------------------------------------------------------------------------------


class LyingWorld(World):
    """One device plays its part as leader, aggregator and member, and changes some of what it says, each time anew.

    Its vectors and the sums that it proposes stay true: of those a member may lie within the bounds, which is poisoning.
    """

    LIAR = 0
    TRUE = frozenset({Kind.MASKED, Kind.BODY_PROPOSAL})

    def _tamper(self, device, data):
        if device.index != self.LIAR or self.rng.random() > 0.25:
            return data
        frame = unpack(data, Frame, limit_bytes=1 << 24)
        if frame.kind in self.TRUE:
            return data
        body = frame.body
        for _ in range(self.rng.choice([1, 1, 2])):
            body = msgpack.packb(mutate(self.rng, msgpack.unpackb(body)))
        kind = Kind(frame.kind)
        signature = device.identity.sign(*statement(self.swarm.id, kind, frame.cohort, body))
        return pack(Frame(1, kind, frame.cohort, device.key, body, signature))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("codec", ["dense", "lowrank"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_liar_in_every_role_breaks_nothing(seed, codec):
    world = LyingWorld(
        200 + seed, 5 + seed % 4, faults=Faults(until=40, duplicate=0.1, latency=(0.005, 0.3)), codec=codec
    )
    world.run(40)
    assert any(r.name == "violation" for _, i, r in world.reports if i != LyingWorld.LIAR)
    world.mend()
    before = max(world.rounds())
    assert world.run(5 * ROUND_TIME_S, until=lambda: max(world.rounds()) > before)
    assert world.run(20 * ROUND_TIME_S, until=lambda: world.events % 16 == 0 and world.one_history())


# --- what a clever one would try ------------------------------------------------------------------------------


@pytest.fixture
def world():
    world = World(21, 8)
    world.run(12)
    assert min(world.rounds()) >= 1
    return world


def until_asking(world: World, device) -> None:
    assert world.run(60, until=lambda: device.core._rendezvous.asked is not None)


def until_busy(world: World, device) -> None:
    assert world.run(60, until=lambda: device.core._busy is not None and device.core._books.outstanding)


def tell(world: World, liar, victim, body: object, **place: object) -> list[object]:
    actions = victim.core.handle(
        Received(liar.key, spoken(liar.identity, world.swarm.id, body, **place)), world.now
    )
    world._perform(victim, actions)
    return actions


def stranger_ready(world: World, seed: int, round_: int, **changed: object) -> tuple[bytes, bytes]:
    """A READY under a key that somebody has just made up."""
    invented = Identity(bytes([seed] * 32))
    secrets = Secrets.fresh(invented.public_key, random.Random(seed).randbytes)
    fields = {"channel": secrets.channel.public, "mask": secrets.mask.public, "trained": 3} | changed
    ready = Ready(round_, (), fields["trained"], fields["channel"], fields["mask"])
    return invented.public_key, sign_frame(invented, world.swarm.id, ready)


def roster_of(world: World, victim, frames: dict[bytes, bytes], **changed: object) -> Roster:
    history = victim.core._history
    fields = {"round": history.round + 1, "parents": history.parents_for_next(), "state": b""} | changed
    said = [open_frame(world.swarm.id, frames[key]) for key in sorted(frames)]
    return write_roster(world.swarm, fields["round"], fields["parents"], fields["state"], said)


def test_a_leader_cannot_surround_one_device_with_keys_of_its_own_making(world):
    """With three invented members and one real one, the sum would be the real one's update."""
    liar, victim = world.devices[0], world.devices[1]
    until_asking(world, victim)
    asked = victim.core._rendezvous.asked
    mine = open_frame(world.swarm.id, asked.frame)
    honest = write_roster(world.swarm, asked.round, mine.body.heads, b"", [mine] * 3)
    invented = [stranger_ready(world, 50 + i, asked.round) for i in range(3)]
    entries = {}
    for key, frame in invented:
        ready = open_frame(world.swarm.id, frame)
        body = ready.body
        fields = (body.trained, body.channel, body.mask, body.hub, ready.signature)
        entries[key] = Entry(key, body.round, 0, *fields)
    listed = list(spell_members(sorted(world.by_key), world.swarm.manifest))
    others = [name for name in listed if name != honest.readies[0].member][:3]
    names = {
        "2 bytes": list(entries),
        "does not list": [len(listed).to_bytes(2, "big")] * 3,
        "the signature does not hold": others,
    }
    for why, told in names.items():
        false = [
            structs.replace(entry, member=name) for entry, name in zip(entries.values(), told, strict=True)
        ]
        roster = structs.replace(
            honest, readies=tuple(sorted([*false, honest.readies[0]], key=lambda e: e.member))
        )
        (report,) = tell(world, liar, victim, roster)
        assert why in report.fields["reason"]
        assert victim.core._rendezvous.asked is asked
        assert victim.core._busy is None


@pytest.mark.parametrize(
    "changed",
    [
        {"parents": (b"\x02" * 32, b"\x01" * 32)},
        {"round": 1 << 40},
        {"state": bytes(32)},
        {"parents": ()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_roster_in_another_place_of_the_history_is_refused(world, changed):
    liar, victim = world.devices[0], world.devices[1]
    until_asking(world, victim)
    asked = victim.core._rendezvous.asked
    frames = {d.key: d.core._rendezvous.asked.frame for d in world.devices if d.core._rendezvous.asked}
    tell(world, liar, victim, roster_of(world, victim, frames, **changed))
    assert victim.core._rendezvous.asked is asked
    assert world.run(5 * ROUND_TIME_S, until=lambda: victim.core._rendezvous.asked is not asked)


@pytest.mark.parametrize(
    "changed",
    [
        {"channel": bytes(32)},
        {"mask": bytes(32)},
        {"mask": b"\x09" + bytes(30)},
        {"trained": 1 << 61},
    ],
    ids=["weak channel", "weak mask", "short mask", "no such segment"],
)
def test_a_ready_that_would_spoil_every_roster_gets_into_no_bag(world, changed):
    liar, leader = world.devices[0], world.devices[1]
    _, frame = stranger_ready(world, 60, 1, **changed)
    ready = open_frame(world.swarm.id, frame).body
    before = leader.core._rendezvous.gathered
    (report,) = tell(world, liar, leader, ready)
    assert report.name == "violation"
    assert leader.core._rendezvous.gathered == before


def test_a_body_in_a_cohorts_name_by_others_settles_nobodys_account(world):
    """Three in league sign a sum of their own, and give it the id of a cohort that is under way: nobody is refunded by that."""
    victim, league = world.devices[1], sorted(world.devices[5:8], key=lambda device: device.key)
    until_busy(world, victim)
    member = victim.core._busy.member
    part = Part(
        member.cohort.id,
        spell_members([d.key for d in league], world.swarm.manifest),
        MEMBERSHIP_OF_MANIFEST,
        pack_members([0, 1, 2], 3),
    )
    plan = member.plan()
    body = Body(
        1,
        world.swarm.id,
        (part,),
        member.cohort.roster.parents,
        member.cohort.roster.round,
        0,
        b"",
        b"",
        plan.exponent_bytes,
        bytes(16),
        (3, 3),
        (0, 0),
        member.cohort.roster.state,
    )
    stated = body_statement(world.swarm.id, member.cohort.id, aggregate_id(body))
    signatures = certificate(stated, [device.identity for device in league], range(3))
    message = Aggregates((write(Aggregate(body, (signatures,)), world.swarm.manifest),))
    frame = channel_frame(message)
    before = dict(victim.core._books.outstanding)
    victim.core.handle(Received(league[0].key, frame), world.now)
    assert aggregate_id(body) in victim.core._history, "as an aggregate of three it holds"
    assert member.outcome is None
    assert victim.core._books.outstanding.keys() == before.keys()


def test_a_lie_that_comes_before_the_roster_does_not_keep_a_device_out(world, monkeypatch):
    """It is judged when the roster has come, and blamed on its sender: this device neither hangs nor blames the leader."""
    victim = world.devices[1]
    told: list[tuple[bytes, str]] = []
    honest = World._send

    def first_a_lie(self, device, peer, data):
        message = open_frame(self.swarm.id, data, device.key)
        if peer == victim.key and isinstance(message.body, Roster) and device is not victim:
            cohort = open_roster(self.swarm, message)
            for liar in self.devices:
                if liar.key in cohort.members and liar.key not in {
                    victim.key,
                    device.key,
                    *cohort.aggregators,
                }:
                    tell(self, liar, victim, KeysSet(b"", (), ()), cohort=cohort.id)
                    told.append((cohort.id, liar.key.hex()[:16]))
                    break
        honest(self, device, peer, data)

    monkeypatch.setattr(World, "_send", first_a_lie)
    assert world.run(120, until=lambda: len(told) >= 6)
    monkeypatch.undo()
    world.run(10)
    told = [
        each for each in told if each[0] in victim.core._cohorts
    ]  # else its READY had gone elsewhere by then
    assert len(told) >= 5
    assert all(victim.key in world.observer.included[cohort] for cohort, _ in told)
    blamed = [r.fields["peer"] for _, i, r in world.reports if i == victim.index and r.name == "violation"]
    assert blamed == [liar for _, liar in told]


def test_messages_before_their_roster_take_little_room(world):
    liar, other, victim = world.devices[:3]
    for i in range(40):
        tell(world, liar, victim, Masked(bytes(32), bytes(200_000)), cohort=bytes([i] * 32))
        tell(world, liar, victim, Decline(), cohort=bytes([i] * 32))
    tell(world, other, victim, Decline(), cohort=bytes(32))
    early = [m.sender for m in victim.core._early]
    assert early.count(liar.key) == node_core.EARLY_OF_ONE
    assert early.count(other.key) == 1
    assert max(len(m.raw) for m in victim.core._early) <= node_core.EARLY_BYTES


def test_a_vector_beyond_all_bounds_costs_the_sum_and_nothing_else(monkeypatch):
    honest = MaskJob.run

    def boast(job):
        encoded = honest(job)
        if job.cohort.members[job.owner] == boaster:
            encoded.vector[:] += 100
        return encoded

    boaster = World(3, 6).devices[0].key
    monkeypatch.setattr(MaskJob, "run", boast)
    world = World(3, 6)
    world.run(40)
    rejected = [i for _, i, r in world.reports if r.name == "sum_rejected"]
    assert rejected, "its ranges are cut, and far from what the others measure"
    unknown = [r for _, _, r in world.reports if r.name == "settled" and r.fields["outcome"] == "unknown"]
    assert not unknown, "who was in such a sum has its update back"
    assert world.observer.exact >= 5, "and it is in few cohorts before long"
    blamed = [r.fields["peer"] for _, _, r in world.reports if r.name == "violation"]
    assert not blamed, "no honest aggregator is blamed for a sum that it did not propose"
    monkeypatch.undo()
    assert world.run(5 * ROUND_TIME_S, until=lambda: world.observer.exact >= 1)


# --- and what an honest straggler does ------------------------------------------------------------------------


def test_a_trainer_that_freezes_too_late_leaves_its_node_in_order(monkeypatch):
    """The cohort seals without it before its delta comes: the delta stays with it, and so does the next one."""
    honest, rng = World._tell, random.Random(0)

    def slow(self, device, delay, event):
        late = isinstance(event, Frozen) and device.index == 0 and self.now < 90
        honest(self, device, delay + (rng.uniform(3.0, 5.0) if late else 0), event)

    monkeypatch.setattr(World, "_tell", slow)
    world = World(4, 6, faults=Faults(until=90, latency=(0.1, 0.3)))
    world.run(90)
    outcomes = [r.fields["outcome"] for _, i, r in world.reports if i == 0 and r.name == "settled"]
    assert outcomes.count("untouched") >= 2, "as often as it is still taken, who is absent so often"
    assert min(world.rounds()) >= 5
    before = world.devices[0].core._contributions
    assert world.run(5 * ROUND_TIME_S, until=lambda: world.devices[0].core._contributions > before)


def test_the_first_aggregator_announces_its_sum():
    """Whoever was not in the cohort hears of it at once, and not only by the next comparison of histories."""
    world = World(5, 6)
    results: set[tuple[int, bytes]] = set()
    announced: set[tuple[int, bytes]] = set()
    honest = World._do

    def spy(device, action):
        message = open_frame(world.swarm.id, action.data, device.key) if isinstance(action, Send) else None
        match message and message.body:
            case Result(aggregate):
                members = device.core._cohorts[message.cohort].member.cohort.members
                if any(peer not in members for peer in device.core._membership.neighbours):
                    results.add((device.index, aggregate[:SHORT_BYTES]))
            case Announce(ids):
                announced.update((device.index, each) for each in ids)
        honest(world, device, action)

    world._do = spy
    world.run(30)
    assert len(results) >= 3
    assert results <= announced
