"""Catching up by checkpoint: who is far behind ends with the same bits, and a liar gains nothing but being found out."""

import msgspec
import numpy as np
import pytest

from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import Report, Send
from gossip.frames import channel_frame, open_frame
from gossip.history import checkpoint, checkpoint_sync
from gossip.history.aggregate import (
    STATE_EVERY,
    Aggregate,
    Verified,
    members_of,
    write,
)
from gossip.history.checkpoint_sync import (
    AGAIN_S,
    BEHIND_ROUNDS,
    DOUBT_BEATS,
    MADE_MAX,
    OFFERS_MAX,
    PART_S,
    WAIT_S,
    Adopted,
    CatchUp,
    Doubt,
)
from gossip.history.messages import CheckpointOffer, CheckpointPart, CheckpointRequest
from gossip.manifest import Swarm
from gossip.wire import pack
from tests.histories import WITH_MOMENTUM, body, setting, signed, unsound

SETTING = setting(schedule=WITH_MOMENTUM)
SWARM = Swarm(SETTING.swarm, SETTING.manifest, b"")
NAMES = [Identity(bytes([200 + i] * 32)).public_key for i in range(6)]
ME, ADA, BOB, CHIDI, DUYGU, EVE = NAMES
ROUNDS = BEHIND_ROUNDS + 10
replace = msgspec.structs.replace


def checked(body_):
    return Verified.of(signed(body_), SETTING.manifest)


class Node:
    def __init__(self, row=(), swarm=SWARM, certified=lambda _: True):
        self.history, self.replica = SETTING.history(), SETTING.replica()
        for each in row:
            self.replica.apply(self.history.add(each).changes, self.history.round)
        self.machine = CatchUp(swarm, SETTING.layout, SETTING.initial, self.take, certified)

    def take(self, parents):
        return checkpoint.take(self.history, self.replica, parents, SETTING.swarm)

    def hear(self, peer, said, now=0.0):
        message = open_frame(SWARM.id, channel_frame(said), peer)
        return self.told(self.machine.handle(message, peer, self.history, now))

    def consider(self, peer, round_, now=0.0):
        said = self.machine.consider(peer, round_, self.history, now)
        return said if said is None else self.told(said)

    @staticmethod
    def told(actions):
        return [
            open_frame(SWARM.id, each.data, ME).body if isinstance(each, Send) else each for each in actions
        ]


@pytest.fixture(scope="module")
def row():
    """Aggregates in a row, truly signed, each with the state that is due."""
    node, made = Node(), []
    for round_ in range(1, ROUNDS + 1):
        due = round_ % STATE_EVERY == 0
        state = checkpoint.state_root(node.take([made[-1].id])) if due else None
        made.append(checked(body(SETTING, made[-1:], cohorts=[round_], sums=round_ % 7, state=state)))
        node.replica.apply(node.history.add(made[-1]).changes, round_)
    return made


@pytest.fixture
def one_will_do(monkeypatch):
    """As where the manifest lists the members."""
    monkeypatch.setattr(checkpoint_sync, "OFFERS_NEEDED", 1)


def fetch(taker, giver, *names, now=0.0):
    """All that follows when neighbours of these names, who know the same, have said ALIVE; what came of it."""
    for name in names:
        asked = taker.consider(name, giver.history.round, now)
        while asked and not isinstance(asked[0], Adopted | Report):
            (question,) = asked
            (answer,) = giver.hear(ME, question, now)
            under_way = taker.machine._fetch
            asked = taker.hear(under_way.giver if under_way else name, answer, now)
    return asked[0] if asked else None


def newest_state(row):
    return row[ROUNDS // STATE_EVERY * STATE_EVERY - 1]


@pytest.mark.usefixtures("one_will_do")
@pytest.mark.parametrize("part_bytes", [1 << 19, 100], ids=["one part", "many parts"])
def test_who_is_far_behind_ends_with_the_same_bits(row, monkeypatch, part_bytes):
    monkeypatch.setattr(checkpoint_sync, "PART_BYTES", part_bytes)
    giver, taker = Node(row), Node(row[:3])
    adopted = fetch(taker, giver, ADA)
    assert (adopted.signed, adopted.giver) == (newest_state(row), ADA)
    assert adopted.history.round == adopted.signed.body.round
    for each in row[adopted.history.round :]:
        adopted.replica.apply(adopted.history.add(each).changes, adopted.history.round)
    assert adopted.history.digest() == giver.history.digest()
    assert np.array_equal(adopted.replica.x, giver.replica.x)
    assert np.array_equal(adopted.replica.v, giver.replica.v)
    assert not taker.machine.under_way


def test_who_misses_little_pulls_it(row):
    assert Node().consider(ADA, BEHIND_ROUNDS - 1) is None
    assert Node(row[:20]).consider(ADA, 19 + BEHIND_ROUNDS) is None
    assert Node(row[:20]).consider(ADA, 20 + BEHIND_ROUNDS) == [CheckpointRequest(b"", 0)]


def test_where_anybody_can_sign_two_neighbours_must_offer_the_same(row):
    giver, taker, elder = Node(row), Node(), Node(row[:-STATE_EVERY])
    for name, who in ((ADA, giver), (BOB, elder)):
        (question,) = taker.consider(name, ROUNDS)
        (offer,) = who.hear(ME, question)
        assert taker.hear(name, offer) == []
    (question,) = taker.consider(CHIDI, ROUNDS)
    (offer,) = giver.hear(ME, question)
    assert taker.hear(CHIDI, offer) == [CheckpointRequest(newest_state(row).id, 0)], "two of three"
    assert taker.machine._fetch.giver == ADA


def lie(giver, change):
    """From now on this one hands out another checkpoint than was signed."""
    signed_ = newest_state([giver.history.get(i) for r in range(1, ROUNDS + 1) for i in giver.history.ids(r)])
    true = giver.take(signed_.body.parents)
    giver.machine._made = {signed_.id: pack(change(true))}


def other_model(true):
    x = np.frombuffer(true.x, "<i8").copy()
    x[3] += 1
    return replace(true, x=x.tobytes())


@pytest.mark.parametrize(
    "stranger", [None, 0, -1], ids=["all admitted", "the first was not", "the last was not"]
)
def test_where_certificates_admit_one_offer_will_do_if_all_who_met_for_it_were_admitted(row, stranger):
    swarm = Swarm(SETTING.swarm, replace(SETTING.manifest, admit="invite"), b"")
    strangers = () if stranger is None else (members_of(newest_state(row).body, SETTING.manifest)[stranger],)
    giver, taker = Node(row), Node(row[:3], swarm, lambda peer: peer not in strangers)
    adopted = fetch(taker, giver, ADA)
    if stranger is None:
        assert adopted.giver == ADA
    else:
        assert adopted is None
        assert taker.consider(ADA, giver.history.round) is None, "everything is pulled"


@pytest.mark.usefixtures("one_will_do")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_model, "not the state"),
        (lambda true: replace(true, v=true.x), "not the state"),
        (lambda true: replace(true, rounds=(*true.rounds[:-1], (bytes(32),))), "not the state"),
        (lambda true: replace(true, x=true.x[:-8]), "bytes of x and v"),
    ],
)
def test_another_checkpoint_than_was_signed_is_found_out_and_its_giver_passed_over(row, change, says):
    liar, giver, taker = Node(row), Node(row), Node()
    lie(liar, change)
    with pytest.raises(PeerViolation, match=says):
        fetch(taker, liar, ADA)
    assert taker.history.round == 0
    assert taker.consider(ADA, ROUNDS) is None, "from the liar, everything is pulled"
    assert fetch(taker, giver, BOB) is None, "one of two that were asked is no majority"
    assert fetch(taker, giver, CHIDI).history.round == newest_state(row).body.round


@pytest.mark.parametrize("wrong", ["unsigned", "stateless", "too large", "rubbish"])
def test_an_offer_that_breaks_a_rule_is_a_violation(row, wrong):
    taker = Node()
    taker.consider(ADA, ROUNDS)
    known = newest_state(row)
    forged = Aggregate(known.body, (unsound([0, 1, 2], 4),))
    offer = {
        "unsigned": CheckpointOffer(write(forged, SETTING.manifest), 1000),
        "stateless": CheckpointOffer(write(row[2].aggregate, SETTING.manifest), 1000),
        "too large": CheckpointOffer(
            write(known.aggregate, SETTING.manifest), checkpoint.size_limit(SETTING.layout) + 1
        ),
        "rubbish": CheckpointOffer(b"rubbish", 1000),
    }[wrong]
    with pytest.raises(PeerViolation):
        taker.hear(ADA, offer)
    assert not taker.machine.under_way
    assert taker.consider(ADA, ROUNDS) is None


def test_what_nobody_asked_for_changes_nothing(row):
    taker = Node()
    offer = CheckpointOffer(write(newest_state(row).aggregate, SETTING.manifest), 1000)
    assert taker.hear(ADA, offer) == []
    assert taker.hear(ADA, CheckpointPart(newest_state(row).id, 0, b"x")) == []
    assert not taker.machine.under_way


@pytest.mark.usefixtures("one_will_do")
def test_parts_come_in_order_and_in_the_size_that_was_offered(row, monkeypatch):
    monkeypatch.setattr(checkpoint_sync, "PART_BYTES", 100)
    giver, taker = Node(row), Node()
    (question,) = taker.consider(ADA, ROUNDS)
    (offer,) = giver.hear(ME, question)
    (question,) = taker.hear(ADA, offer)
    (part,) = giver.hear(ME, question)
    assert taker.hear(BOB, part) == [], "nobody else was asked"
    assert taker.hear(ADA, replace(part, number=1)) == []
    assert taker.hear(ADA, part) == [CheckpointRequest(part.aggregate, 1)]
    assert taker.hear(ADA, part) == [], "it is there already"
    with pytest.raises(PeerViolation, match="not of the size"):
        taker.hear(ADA, replace(part, number=1, data=part.data + b"x"))
    assert not taker.machine.under_way


@pytest.mark.usefixtures("one_will_do")
def test_who_has_none_or_is_too_slow_is_passed_over_and_in_the_end_everything_is_pulled(row):
    young, giver, taker = Node(row[:5]), Node(row), Node()
    (question,) = taker.consider(ADA, ROUNDS)
    assert taker.hear(ADA, young.hear(ME, question)[0]) == []
    assert taker.consider(ADA, ROUNDS) is None
    for name in (BOB, CHIDI):
        (question,) = taker.consider(name, ROUNDS)
        (offer,) = giver.hear(ME, question)
        taker.hear(name, offer)
    assert taker.machine._fetch.giver == BOB
    assert taker.consider(ADA, ROUNDS, PART_S / 2) == [], "one is on its way"
    assert taker.consider(BOB, ROUNDS, PART_S) == [], "too slow, but another one has offered"
    assert taker.machine._fetch is None
    assert taker.consider(CHIDI, ROUNDS, PART_S) is None, "offers stop nobody from pulling"
    assert taker.consider(DUYGU, ROUNDS, PART_S) == [CheckpointRequest(b"", 0)]
    assert taker.consider(ADA, ROUNDS, WAIT_S) == [], "one has not answered yet"
    assert taker.consider(CHIDI, ROUNDS, WAIT_S + 0.1) is None
    assert taker.consider(BOB, ROUNDS, AGAIN_S + 0.1) == [CheckpointRequest(b"", 0)]


@pytest.mark.usefixtures("one_will_do")
def test_when_the_giver_goes_another_is_asked(row):
    giver, taker = Node(row), Node()
    (question,) = taker.consider(ADA, ROUNDS)
    taker.hear(ADA, giver.hear(ME, question)[0])
    assert taker.machine.under_way
    taker.machine.gone(ADA)
    assert fetch(taker, giver, BOB).giver == BOB


def test_a_state_that_is_false_is_not_handed_on_whoever_signed_it(row):
    last = ROUNDS // STATE_EVERY * STATE_EVERY
    false = checked(body(SETTING, row[last - 2 : last - 1], cohorts=[last], state=bytes(32)))
    giver = Node([*row[: last - 1], false])
    (offer,) = giver.hear(ME, CheckpointRequest(b"", 0))
    assert offer.signed == write(row[last - STATE_EVERY - 1].aggregate, SETTING.manifest)


def test_what_others_can_fill_is_bounded(row):
    giver, taker = Node(row), Node()
    for number in range(2 * OFFERS_MAX):
        name = Identity(bytes([number, *bytes(31)])).public_key
        taker.consider(name, ROUNDS)
        taker.hear(name, CheckpointOffer(b"", 0))
    assert len(taker.machine._asked) <= OFFERS_MAX
    assert len(taker.machine._passed) <= OFFERS_MAX
    for last in range(STATE_EVERY, ROUNDS, STATE_EVERY):
        young = Node(row[:last])
        young.machine._made = giver.machine._made
        young.hear(ME, CheckpointRequest(b"", 0))
    assert len(giver.machine._made) <= MADE_MAX


# --- what a league gains --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "needed"), [(2, 2), (3, 2), (4, 3), (5, 3)])
def test_more_than_half_of_those_who_were_asked_must_offer_the_same(row, asked, needed):
    giver, taker = Node(row), Node()
    names = NAMES[1 : 1 + asked]
    for name in names:
        assert taker.consider(name, ROUNDS) == [CheckpointRequest(b"", 0)]
    (offer,) = giver.hear(ME, CheckpointRequest(b"", 0))
    for count, name in enumerate(names[:needed], 1):
        assert bool(taker.hear(name, offer)) == (count == needed)


@pytest.mark.usefixtures("one_will_do")
def test_a_checkpoint_that_lacks_what_this_device_knows_is_refused_and_everything_is_pulled(row):
    """The league's own world, signed by n_min: whoever took it forgot the swarm's history, and handed the league's on."""
    own = checked(body(SETTING, row[:1], cohorts=[7], sums=3))
    taker, league = Node([*row[:3], own]), Node(row)
    refused = fetch(taker, league, ADA)
    assert refused.name == "checkpoint_refused"
    assert own.id in taker.history
    assert not taker.machine.under_way
    for name in (ADA, BOB):
        assert taker.consider(name, ROUNDS, AGAIN_S - 1) is None, "no other one for a while"
    assert taker.consider(BOB, ROUNDS, AGAIN_S) == [CheckpointRequest(b"", 0)]


def doubted(row):
    signed_ = row[STATE_EVERY - 1]
    return signed_, Doubt(signed_, SETTING.manifest)


def test_a_later_state_that_differs_refutes_a_checkpoint_whoever_signed_it(row):
    signed_, doubt = doubted(row)
    later = row[2 * STATE_EVERY - 1]
    assert doubt.judge(later, bytes(32)) is False
    of_the_same = checked(body(SETTING, row[30:31], cohorts=[STATE_EVERY], round_=32, state=b"s" * 32))
    assert set(of_the_same.contributors) == set(members_of(signed_.body, SETTING.manifest))
    assert doubt.judge(of_the_same, bytes(32)) is False


def test_a_later_state_confirms_a_checkpoint_only_if_others_have_signed_it_too(row):
    signed_, doubt = doubted(row)
    later = row[2 * STATE_EVERY - 1]
    assert doubt.judge(later, later.body.state) is True
    own = checked(body(SETTING, row[30:31], cohorts=[STATE_EVERY], round_=32, state=b"s" * 32))
    assert doubt.judge(own, own.body.state) is None, "a league does not confirm itself"
    assert doubt.judge(signed_, bytes(32)) is None
    assert doubt.judge(row[STATE_EVERY], bytes(32)) is None, "says nothing of a state"


def test_what_a_checkpoint_names_and_nobody_has_refutes_it_after_several_heartbeats_in_a_row(row):
    _, doubt = doubted(row)
    wanted = [bytes(32)]
    assert [doubt.beat(wanted) for _ in range(DOUBT_BEATS - 1)] == [False] * (DOUBT_BEATS - 1)
    assert not doubt.beat([]), "it has come, and the row begins anew"
    assert [doubt.beat(wanted) for _ in range(DOUBT_BEATS)] == [False] * (DOUBT_BEATS - 1) + [True]
