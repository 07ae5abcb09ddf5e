"""A swarm that admits by certificate: who was invited trains with the others, and nobody else is heard, told or counted."""

import msgspec
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.events import (
    Admit,
    Block,
    Clock,
    Dial,
    Disconnect,
    PeerDown,
    PeerUp,
    Persist,
    Received,
    Report,
    Revoke,
    Send,
    SetTimer,
    TimerFired,
)
from gossip.frames import Kind, channel_frame, open_frame
from gossip.history.aggregate import write
from gossip.history.messages import Aggregates
from gossip.membership import handshake
from gossip.membership.admission import CLOCK_SLACK_S, Admission
from gossip.membership.handshake import DENY_S, PROVE_S
from gossip.membership.messages import Credential, Denied, Statements
from gossip.membership.statements import issue, revoke
from gossip.quorum import read_members, unpack_members
from tests.frames import spoken
from tests.simulation.harness import CLOCK_S, EPOCH_S, ROUND_TIME_S, Faults, World, certificate, tiny_swarm
from tests.simulation.test_intruders import snapshot

INTRUDER = Identity(bytes([9] * 32))
DAY_S = 86_400


@pytest.fixture
def world():
    world = World(21, 5, admit="invite")
    world.run(60, until=lambda: min(world.rounds()) >= 1)
    assert min(world.rounds()) >= 1
    return world


def status(world, device):
    return device.core.status(world.now)


def admission(device):
    return device.core._handshake.admission


def reports(world, name, since=0.0):
    return [(i, report.fields) for at, i, report in world.reports if report.name == name and at >= since]


def founders(world, device, **how):
    return certificate(world.swarm, world.devices[0].identity, device, 7, **how)


def test_devices_that_know_little_more_than_their_own_certificate_come_to_know_all_and_train(world):
    assert world.run(60, until=world.one_history)
    assert {len(admission(device).ids()) for device in world.devices} == {4}
    assert world.observer.exact >= 1
    assert not reports(world, "refused")
    assert not reports(world, "violation")


def chains(world) -> dict[str, tuple[bytes, ...]]:
    """What a device may show that does not belong, by the reason that it is refused for."""
    founder = world.devices[0].identity
    good = founders(world, INTRUDER.public_key)
    other = tiny_swarm(founder, [], admit="invite", n_max=15)
    not_above = certificate(world.swarm, world.devices[1].identity, INTRUDER.public_key, 0)
    return {
        "does not lead to the founder of this swarm, or there is none": (),
        "does not lead to the founder": (certificate(world.swarm, INTRUDER, world.devices[2].key, 0),),
        "lead to the founder of this swarm": (
            *admission(world.devices[1]).chain(world.devices[1].key),
            not_above,
        ),
        "expired on": (founders(world, INTRUDER.public_key, days=-0.5 + 1),),
        "was revoked": (good,),
        "the signature does not hold": (good[:-1] + bytes([good[-1] ^ 1]),),
        "is of another swarm": (certificate(other, founder, INTRUDER.public_key, 7),),
    }


@pytest.mark.parametrize("place", range(7))
def test_who_does_not_belong_changes_nothing_and_is_told_why_once(world, place):
    core, now = world.devices[0].core, world.now
    words, chain = list(chains(world).items())[place]
    if words == "expired on":
        for device in world.devices:
            world._perform(device, device.core.handle(Clock(EPOCH_S + DAY_S), now))
    if words == "was revoked":
        revoked = revoke(world.devices[0].identity, world.swarm.id, INTRUDER.public_key)
        brought = channel_frame(Statements((*chain, revoked)))
        core.handle(Received(world.devices[1].key, brought), now)
    recorded = {
        message.kind: message
        for message in (open_frame(world.swarm.id, frame, INTRUDER.public_key) for frame in world._old_frames)
        if message.kind not in {Kind.CREDENTIAL, Kind.DENIED}
    }
    assert len(recorded) >= 15, "a run of the protocol has shown most kinds of messages"
    frames = [
        spoken(INTRUDER, world.swarm.id, message.body, cohort=message.cohort) for message in recorded.values()
    ]
    before, known = snapshot(core), admission(world.devices[0]).digest()

    def say_everything():
        said = []
        for frame in frames:
            said += core.handle(Received(INTRUDER.public_key, frame), now)
        return said

    actions = say_everything()
    actions += core.handle(PeerUp(INTRUDER.public_key), now)
    actions += say_everything()
    credential = channel_frame(Credential(chain, bytes(8)))
    actions += core.handle(Received(INTRUDER.public_key, credential), now)
    actions += say_everything()
    actions += core.handle(Received(INTRUDER.public_key, credential), now)
    late = core.handle(TimerFired(("admission", "visitors")), now + DENY_S)

    refused = [action.fields for action in actions if isinstance(action, Report)]
    assert [fields["peer"] for fields in refused] == [INTRUDER.peer_id]
    assert words in refused[0]["reason"]
    assert [action for action in late if isinstance(action, Disconnect)] == [
        Disconnect(INTRUDER.public_key, refused[0]["reason"])
    ]
    assert snapshot(core) == before
    told = [
        open_frame(world.swarm.id, a.data, world.devices[0].key).kind for a in actions if isinstance(a, Send)
    ]
    if words == "expired on":  # it was a member once: that is a statement like others
        told = [kind for kind in told if kind is not Kind.STATEMENTS]
    else:
        assert admission(world.devices[0]).digest() == known
        assert not [action for action in actions if isinstance(action, Persist)]
    assert told == [Kind.CREDENTIAL, Kind.DENIED]

    core.handle(PeerDown(INTRUDER.public_key, "gone"), now)
    again = [*core.handle(PeerUp(INTRUDER.public_key), now)]
    again += core.handle(Received(INTRUDER.public_key, credential), now)
    assert not [action for action in again if isinstance(action, Report)]


def test_who_shows_nothing_is_let_go_in_time(world):
    core, now = world.devices[0].core, world.now
    core.handle(PeerUp(INTRUDER.public_key), now)

    def after(seconds):
        actions = core.handle(TimerFired(("admission", "visitors")), now + seconds)
        return [action for action in actions if not isinstance(action, SetTimer)]

    assert after(PROVE_S - 0.1) == []
    denied, refused = after(PROVE_S)
    assert open_frame(world.swarm.id, denied.data, INTRUDER.public_key).body == Denied(1, 0)
    assert "showed none within 10 s" in refused.fields["reason"]
    [end] = after(PROVE_S + DENY_S)
    assert isinstance(end, Disconnect)


def test_who_was_invited_is_greeted_when_its_chain_holds_and_not_before(world):
    core = world.devices[0].core
    first = core.handle(PeerUp(INTRUDER.public_key), world.now)
    kinds = [
        open_frame(world.swarm.id, a.data, INTRUDER.public_key).kind for a in first if isinstance(a, Send)
    ]
    assert kinds == [Kind.CREDENTIAL]
    credential = channel_frame(Credential((founders(world, INTRUDER.public_key),), bytes(8)))
    then = core.handle(Received(INTRUDER.public_key, credential), world.now)
    kinds = [
        open_frame(world.swarm.id, a.data, INTRUDER.public_key).kind
        for a in then
        if isinstance(a, Send) and a.peer == INTRUDER.public_key
    ]
    assert kinds == [Kind.HELD_STATEMENTS, Kind.GREETING, Kind.ALIVE]
    told = {a.peer for a in then if isinstance(a, Send) and a.peer != INTRUDER.public_key}
    assert told == {device.key for device in world.devices[1:]}


def test_a_newcomer_trains_with_the_others(world):
    newcomer = world.join(INTRUDER, (founders(world, INTRUDER.public_key),))
    start = max(world.rounds())

    def took_part():
        bodies = [
            known.body
            for round_ in range(start, world.devices[0].core._history.round + 1)
            for known in world.devices[0].core._history.counting(round_)
        ]
        return any(
            newcomer.key in read_members(part.members, world.swarm.manifest)
            for body in bodies
            for part in body.parts
        )

    assert world.run(10 * ROUND_TIME_S, until=took_part)
    assert world.run(60, until=world.one_history)
    assert {len(admission(device).ids()) for device in world.devices} == {5}


def test_a_revoked_device_is_let_go_by_all_knows_it_and_the_others_go_on(world):
    founder, out = world.devices[0], world.devices[3]
    at = world.now
    world.ask(founder, Revoke(out.key))
    world.run(5)
    assert [(answer.question, answer.refusal) for answer in world.answers] == [(Revoke(out.key), "")]
    others = [device for device in world.devices if device is not out]
    for device in others:
        assert out.key not in device.core._membership.neighbours
        assert out.key not in device.core._membership.live(world.now)
    assert out.core._membership.neighbours == {} or not out.core._handshake.admission.belongs(
        out.key, EPOCH_S
    )
    assert "was revoked" in status(world, out)["warning"]
    assert "gossamer join" in status(world, out)["warning"]
    rounds = founder.core.status(world.now)["round"]
    assert world.run(6 * ROUND_TIME_S, until=lambda: status(world, founder)["round"] >= rounds + 2)
    bodies = [
        known.body
        for round_ in range(rounds + 2, founder.core._history.round + 1)
        for known in founder.core._history.counting(round_)
    ]
    members = {
        key for b in bodies for part in b.parts for key in read_members(part.members, world.swarm.manifest)
    }
    assert out.key not in members
    assert {i for i, _ in reports(world, "refused", at)} <= {0, 1, 2, 4}
    assert not reports(world, "violation")
    for device in world.devices:
        world.crash(device)
        world.boot(device)
        assert not admission(device).belongs(out.key, EPOCH_S)
        assert out.key not in device.disk["presence"]


def test_a_device_whose_time_is_over_is_let_go_and_comes_back_with_a_renewal():
    world = World(22, 4, admit="invite")
    short = world.devices[3]
    founder = world.devices[0].identity
    world.run(5)
    world.crash(short)
    for device in world.devices:  # the harness gave a year
        world.crash(device)
        device.disk["statement"].clear()
    world.devices[0].credential = world.devices[0].credential[:2]
    # Its time and the slack of clocks will have passed when the clock is told next.
    end_s = EPOCH_S - CLOCK_SLACK_S + 30
    short.credential = (issue(founder, world.swarm.id, short.key, 2, EPOCH_S - DAY_S, end_s, 0),)
    for device in world.devices:
        world.boot(device)
    world.run(15)
    assert short.key in world.devices[0].core._membership.neighbours
    world.run(CLOCK_S)
    for device in world.devices[:3]:
        assert short.key not in device.core._membership.neighbours
        assert short.key not in device.core._membership.known
    assert "expired on 2027-01-15" in status(world, short)["warning"]
    world.ask(world.devices[0], Admit(short.key, EPOCH_S + 30 * DAY_S))
    world.run(1)
    [answer] = world.answers
    assert answer.refusal == ""
    world.crash(short)
    short.credential = answer.statements
    world.boot(short)
    world.run(10)
    assert short.key in world.devices[0].core._membership.neighbours
    assert status(world, short)["warning"] == ""


def test_sides_of_a_partition_admit_and_revoke_and_then_agree(world):
    world.run(5)
    newcomer = Identity(digest("newcomer"))
    world.partition({0, 1, 2}, {3, 4})
    world.run(1)
    world.ask(world.devices[0], Admit(newcomer.public_key, EPOCH_S + DAY_S, 1))
    world.run(1)
    world.ask(world.devices[0], Revoke(world.devices[4].key))
    world.run(1)
    world.heal()
    world.run(60)
    inside = [device for device in world.devices if device is not world.devices[4]]
    assert {admission(device).digest() for device in inside} == {admission(world.devices[0]).digest()}
    assert all(admission(device).certified(newcomer.public_key) for device in world.devices)
    assert all(not admission(d).belongs(world.devices[4].key, EPOCH_S) for d in world.devices)


def test_an_aggregate_with_an_unknown_member_waits_for_its_certificate(world, monkeypatch):
    """The bringer is asked for what is not known, and the heartbeat brings the aggregate again."""
    monkeypatch.setattr(handshake, "COMPARE_S", 0.0)
    late, bringer = world.devices[4], world.devices[1]
    world.partition({0, 1, 2, 3}, {4})
    world.run(1)
    newcomer = world.join(INTRUDER, (founders(world, INTRUDER.public_key),))
    world.partition({0, 1, 2, 3, 5}, {4})
    world.run(3 * ROUND_TIME_S)
    known = next(
        known
        for round_ in range(1, bringer.core._history.round + 1)
        for known in bringer.core._history.counting(round_)
        if any(newcomer.key in part.members for part in known.body.parts)
    )
    core, held = late.core, len(late.core._history)
    world.heal()
    core.handle(PeerUp(bringer.key), world.now)
    frame = channel_frame(Aggregates((write(known.aggregate, world.swarm.manifest),)))
    actions = core.handle(Received(bringer.key, frame), world.now)
    assert len(core._history) == held
    kinds = [open_frame(world.swarm.id, a.data, late.key).kind for a in actions if isinstance(a, Send)]
    assert kinds == [Kind.HELD_STATEMENTS]
    assert not [a for a in actions if isinstance(a, Report)]
    assert world.run(120, until=lambda: known.id in core._history)


def test_nobody_admits_beyond_its_numbers_and_no_number_twice(world):
    founder, invited = world.devices[0], Identity(digest("invited"))
    world.ask(founder, Admit(invited.public_key, EPOCH_S + DAY_S, 1))
    world.run(1)
    inviter = world.join(invited, world.answers[-1].statements)
    world.run(15)
    names = [digest("sybil", bytes([i])) for i in range(40)]
    for name in names:
        world.ask(inviter, Admit(name, EPOCH_S + DAY_S))
    world.run(5)
    answers = [answer for answer in world.answers if answer.question.device in names]
    assert len(answers) == 40
    admitted = [answer for answer in answers if not answer.refusal]
    assert len(admitted) == world.swarm.manifest.invitations.invites_max
    assert {answer.refusal for answer in answers} == {"", "this device has given all of its 16 invitations"}
    assert all(admission(founder).belongs(answer.question.device, EPOCH_S) for answer in admitted)
    # A renewal goes by its own number, and what was given is no further invitation.
    world.ask(inviter, Admit(admitted[3].question.device, EPOCH_S + 2 * DAY_S))
    world.run(1)
    assert world.answers[-1].refusal == ""


def test_ten_names_for_each_honest_device_do_not_get_in(world):
    """Whoever was invited once can bring its sixteen; who gives a number twice brings nobody by it."""
    founder, core = world.devices[0].identity, world.devices[0].core
    cheat = founders(world, INTRUDER.public_key, depth=1)
    names = [Identity(digest("sybil", bytes([i]))) for i in range(10 * len(world.devices))]
    for i, name in enumerate(names):
        chain = (cheat, certificate(world.swarm, INTRUDER, name.public_key, i % 16 if i < 48 else i))
        core.handle(PeerUp(name.public_key), world.now)
        core.handle(Received(name.public_key, channel_frame(Credential(chain, bytes(8)))), world.now)
    keys = {name.public_key for name in names}
    assert keys.isdisjoint(core._membership.neighbours)
    assert keys.isdisjoint(core._membership.live(world.now))
    assert all(not core._handshake.hears(key) for key in keys)
    # A certificate and its rival under each number, and the proof is complete.
    assert len(admission(world.devices[0]).ids()) == 4 + 1 + 2 * 16
    assert founder.public_key == world.devices[0].key


def test_nobody_sums_with_a_member_whom_it_knows_to_be_revoked(world):
    """The others do not know yet: this device alone declines."""
    careful, out = world.devices[2], world.devices[3]
    before = careful.core._history.round
    admission(careful).add([revoke(world.devices[0].identity, world.swarm.id, out.key)])
    world.run(6 * ROUND_TIME_S)
    rounds = range(before + 2, world.devices[0].core._history.round + 1)
    assert len(rounds) >= 2
    for round_ in rounds:
        for known in world.devices[0].core._history.counting(round_):
            for part in known.body.parts:
                names = unpack_members(part.contributors, len(part.members))
                assert not {careful.key, out.key} <= {part.members[i] for i in names}


def test_a_leader_leaves_out_who_is_too_many(world, monkeypatch):
    """Of a bag that is nearly all one line, a roster that no member objects to; of one that cannot be, none."""
    core = world.devices[0].core
    one = open_frame(world.swarm.id, next(frame for frame in world._old_frames if frame[2] == Kind.READY))
    ready = [msgspec.structs.replace(one, sender=digest("of", bytes([i]))) for i in range(12)]
    lines = {message.sender: b"crowd" if i < 10 else bytes([i]) for i, message in enumerate(ready)}
    others = {digest("other", bytes([i])): bytes([i % 2]) for i in range(20)}
    line = (lines | others).__getitem__
    monkeypatch.setattr(core._handshake.admission, "line", line)
    monkeypatch.setattr(core._membership, "belongs", lambda _: True)
    monkeypatch.setattr(core._membership, "live", lambda _: [*lines, *others])
    fit = core._without_crowd(ready)
    assert core._crowd([message.sender for message in fit]) is None
    assert len(fit) >= 3
    monkeypatch.setattr(core._handshake.admission, "line", lambda peer: others.get(peer, b"crowd"))
    assert core._without_crowd(ready) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_at_any_moment_gives_no_number_to_two_devices(seed):
    """Judged by somebody who has seen every certificate that was ever handed out, whatever the founder has forgotten."""
    world = World(seed, 1, admit="invite")
    founder = world.devices[0]
    world.run(1)
    for i in range(30):
        world.ask(founder, Admit(digest("named", bytes([i])), EPOCH_S + DAY_S))
        world.run(world.rng.uniform(0.0, 0.03))
        if i % 3 == 2:
            world.crash(founder)
            world.boot(founder)
            world.run(0.03)
    given = [answer for answer in world.answers if not answer.refusal]
    assert 5 <= len(given) < 30
    judge = Admission(world.swarm, founder.key)
    for answer in given:
        judge.add(answer.statements)
    assert [judge.judge(answer.question.device, EPOCH_S) for answer in given] == [None] * len(given)


@pytest.mark.parametrize(
    ("asker", "question", "words"),
    [
        (1, lambda keys: Revoke(keys[2]), "only the founder, and whoever is above"),
        (1, lambda keys: Admit(INTRUDER.public_key, EPOCH_S + DAY_S), "no further generation"),
        (0, lambda keys: Revoke(INTRUDER.public_key), "no device of this swarm"),
        (0, lambda keys: Admit(INTRUDER.public_key, EPOCH_S), "expired already"),
        (0, lambda keys: Admit(keys[0], EPOCH_S + DAY_S), "does not invite itself"),
        (1, lambda keys: Block(keys[1], True), "does not block itself"),
    ],
)
def test_what_cannot_be_done_is_refused_with_words(world, asker, question, words):
    asked = question([device.key for device in world.devices])
    world.ask(world.devices[asker], asked)
    world.run(1)
    [answer] = world.answers
    assert words in answer.refusal


@pytest.mark.parametrize("admit", ["members", "invite"])
def test_a_blocked_device_is_never_connected_to_until_it_is_allowed_again(admit):
    world = World(23, 5, admit=admit)
    world.run(15)
    one, other = world.devices[1], world.devices[2]
    assert other.key in one.core._membership.neighbours
    world.ask(one, Block(other.key, True))
    world.run(1)
    dialled, do = [], world._do

    def watched(device, action):
        if isinstance(action, Dial):
            dialled.append((device.key, action.peer))
        do(device, action)

    world._do = watched
    world.run(40)
    assert other.key not in one.core._membership.neighbours
    world.crash(one)
    world.boot(one)
    world.run(40)
    assert other.key not in one.core._membership.neighbours
    rounds = min(world.rounds())
    assert world.run(8 * ROUND_TIME_S, until=lambda: min(world.rounds()) > rounds)
    assert (one.key, other.key) not in dialled
    assert dialled
    world.ask(one, Block(other.key, False))
    world.run(120)
    assert other.key in one.core._membership.neighbours


def test_a_strangers_word_about_this_devices_membership_is_worth_nothing(world):
    core = world.devices[0].core
    core.handle(PeerUp(INTRUDER.public_key), world.now)
    denied = channel_frame(Denied(3, 0))
    assert core.handle(Received(INTRUDER.public_key, denied), world.now) == []
    assert status(world, world.devices[0])["warning"] == ""
    [told] = core.handle(Received(world.devices[1].key, denied), world.now)
    assert (told.name, told.fields["by"]) == ("denied", world.devices[1].identity.peer_id)
    assert core.handle(Received(world.devices[2].key, denied), world.now) == []
    assert "revoked" in status(world, world.devices[0])["warning"]


def test_before_the_time_is_known_nobody_is_proven():
    world = World(24, 3, admit="invite")
    device = world.devices[0]
    world.crash(device)
    world._tell_time = lambda *_: None
    world.boot(device)
    world.run(5)
    assert device.core._membership.neighbours == {}
    world._perform(device, device.core.handle(Clock(EPOCH_S), world.now))
    world.run(15)
    assert len(device.core._membership.neighbours) == 2


def test_a_swarm_by_certificate_goes_through_faults():
    """Loss, duplicates, crashes; then all agree, and go on."""
    faults = Faults(
        until=30, drop=0.1, duplicate=0.1, latency=(0.01, 0.8), crashes={"MASKED": 0.1, "SEAL": 0.1}
    )
    for seed in (1, 2):
        world = World(seed, 6, admit="invite", faults=faults)
        world.run(30)
        world.mend()
        rounds = min(world.rounds())
        assert world.run(5 * ROUND_TIME_S, until=lambda: min(world.rounds()) > rounds), seed  # noqa: B023
        assert world.run(120, until=lambda: len({admission(d).digest() for d in world.devices}) == 1)  # noqa: B023
