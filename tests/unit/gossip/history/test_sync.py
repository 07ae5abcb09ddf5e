"""Announce, pull and compare: two histories become one whatever was missed, and a liar gains nothing but answers."""

from collections import deque

import pytest

from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import Send, SetTimer, TimerFired
from gossip.fields import SHORT_BYTES
from gossip.frames import channel_frame, open_frame
from gossip.history import dag as history_module
from gossip.history import sync as sync_module
from gossip.history.aggregate import Aggregate, Verified, write
from gossip.history.dag import History
from gossip.history.messages import COMPARE_MAX, HAVE_MAX, PULL_MAX, Aggregates, Announce, Compare, Have, Pull
from gossip.history.sync import (
    ANNOUNCE_S,
    COMPARE_S,
    HOLDERS_KEPT,
    PULL_S,
    PULLING_MAX,
    RECENT_ROUNDS,
    Learned,
    Sync,
)
from gossip.manifest import Swarm
from gossip.membership.messages import Alive
from gossip.wire import pack
from tests.frames import spoken
from tests.histories import body, setting, signed, unsound

SETTING = setting(tensors=((2, 0),), block_size=2)
SWARM = Swarm(SETTING.swarm, SETTING.manifest, b"")
NAMES = [Identity(bytes([200 + i] * 32)) for i in range(3)]


def written(aggregate: Aggregate) -> bytes:
    """As it travels."""
    return write(aggregate, SETTING.manifest)


def chain(length: int, *, parents: tuple[Verified, ...] = (), cohort: int = 0) -> list[Verified]:
    """Aggregates in a row, truly signed."""
    row: list[Verified] = list(parents)
    for place in range(length):
        written = body(SETTING, row[-1:], cohorts=[cohort + place])
        row.append(Verified.of(signed(written), SETTING.manifest))
    return row[len(parents) :]


def long_chain(length: int, *, parents: tuple[Verified, ...] = (), cohort: int = 0) -> list[Verified]:
    """The same in any number, under signatures that only a test without checks takes."""
    rubbish = (unsound([0, 1, 2], 4),)
    row: list[Verified] = list(parents)
    for place in range(length):
        written = body(SETTING, row[-1:], cohorts=[cohort + place])
        row.append(Verified.of(Aggregate(written, rubbish), SETTING.manifest))
    return row[len(parents) :]


@pytest.fixture
def unchecked(monkeypatch):
    """Signatures are not what these tests are about, and thousands of them take their time."""
    monkeypatch.setattr(sync_module, "check", lambda each, manifest, *_: Verified.of(each, manifest))


class Node:
    def __init__(self, place: int, *held: list[Verified]) -> None:
        self.identity = NAMES[place]
        self.key = self.identity.public_key
        self.history: History = SETTING.history()
        for aggregate in (each for row in held for each in row):
            self.history.add(aggregate)
        self.links: list[bytes] = []
        self.sync = Sync(SWARM, SETTING.layout, self.history, lambda: self.links)
        self.learned: list[bytes] = []
        self.sent: list[object] = []

    def hear(self, peer: "Node", said: object, now: float = 0.0) -> list[object]:
        message = open_frame(SWARM.id, spoken(peer.identity, SWARM.id, said), peer.key)
        actions = self.sync.handle(message, peer.key, now)
        self.learned += [each.id for a in actions if isinstance(a, Learned) for each in a.aggregates]
        bodies = [body for _, body in self.told(actions)]
        self.sent += bodies
        return bodies

    def told(self, actions: list[object]) -> list[tuple[bytes, object]]:
        sends = [action for action in actions if isinstance(action, Send)]
        return [(send.peer, open_frame(SWARM.id, send.data, self.key).body) for send in sends]

    def ring(self, name: str, now: float) -> list[tuple[bytes, object]]:
        return self.told(self.sync.handle(TimerFired(("sync", name)), self.key, now))

    @property
    def beat(self) -> Alive:
        return Alive(self.history.round, self.history.digest())


def talk(one: Node, other: Node, *, beats: int = 1, now: float = 0.0, drop: type | None = None) -> int:
    """Heartbeats both ways, and all that follows; the number of messages."""
    count = 0
    for beat in range(beats):
        at = now + beat * (max(PULL_S, COMPARE_S) + 1)
        mail = deque([(one, other, other.beat), (other, one, one.beat)])
        while mail:
            receiver, sender, said = mail.popleft()
            count += 1
            answers = receiver.hear(sender, said, at)
            mail.extend(
                (sender, receiver, answer) for answer in answers if not isinstance(answer, drop or ())
            )
    return count


# --- announce and pull ----------------------------------------------------------------------------------------


def short(*aggregates: Verified) -> tuple[bytes, ...]:
    return tuple(each.id[:SHORT_BYTES] for each in aggregates)


def test_guides_go_beside_the_aggregates_of_the_last_two_rounds():
    row = chain(4)
    node = Node(0, row)
    node.sync._guides = lambda known: (
        bytes([known.body.round]),
        bytes([known.body.round, 0]),
        b"one too many",
    )
    three, four = ((bytes([round_]), bytes([round_, 0])) for round_ in (3, 4))
    for asked, guides in ((row[:2], ()), (row[2:3], three), (row[3:], four), (row, (*three, *four))):
        (answer,) = node.hear(Node(1), Pull(short(*asked)))
        assert answer.guides == guides
        assert len(answer.aggregates) == len(asked)


def test_a_certified_aggregate_is_held_and_announced_once():
    (one,) = chain(1)
    node = Node(0)
    node.links = [NAMES[1].public_key, NAMES[2].public_key]
    learned, timer = node.sync.certified(one.aggregate, 1.0)
    assert isinstance(learned, Learned)
    assert timer == SetTimer(("sync", "announce"), 1.0 + ANNOUNCE_S)
    assert node.ring("announce", timer.at) == [(peer, Announce(short(one))) for peer in node.links]
    assert node.sync.certified(one.aggregate, 2.0) == []
    assert node.ring("announce", 3.0) == []


def test_what_comes_together_is_announced_together_and_to_nobody_who_has_it():
    one, two, three = chain(3)
    node, announcer, puller = Node(0, [one]), Node(1, [one, two]), Node(2)
    fourth = bytes(32)
    node.links = [announcer.key, puller.key, fourth]
    assert node.hear(announcer, Announce(short(two))) == [Pull(short(two))]
    node.hear(announcer, Aggregates((written(two.aggregate),)))
    node.hear(puller, Pull(short(two)))
    node.sync.certified(three.aggregate, 0.2)
    assert node.ring("announce", 0.3) == [
        (announcer.key, Announce(short(three))),
        (puller.key, Announce(short(three))),
        (fourth, Announce(short(two, three))),
    ]
    node.sync.gone(puller.key)
    assert puller.key not in node.sync._holders[short(two)[0]], "what was sent to it last may be lost"


def test_an_aggregate_is_not_announced_to_those_who_made_it():
    (one,) = chain(1)
    node = Node(0)
    node.links = [one.body.parts[0].members[0], NAMES[2].public_key]
    node.sync.certified(one.aggregate, 0.0)
    assert [peer for peer, _ in node.ring("announce", ANNOUNCE_S)] == [NAMES[2].public_key]


def test_it_is_bounded_of_how_many_aggregates_it_is_known_who_has_them():
    node, liar = Node(0), Node(1)
    for batch in range(20):
        node.hear(liar, Announce(tuple(bytes([batch, i] * 4) for i in range(PULL_MAX))))
    assert len(node.sync._holders) <= HOLDERS_KEPT


def test_of_several_ids_that_begin_alike_all_are_answered(monkeypatch):
    """Eight bytes can be made to collide: who is asked gives all, and a comparison tells whole ids."""
    monkeypatch.setattr(sync_module, "SHORT_BYTES", 0)
    monkeypatch.setattr(history_module, "SHORT_BYTES", 0)
    row = chain(3)
    there = Node(1, row)
    ((_, answer),) = there.told(there.sync._on_pull(NAMES[0].public_key, (b"",)))
    assert answer == Aggregates(tuple(written(each.aggregate) for each in row))


def test_what_a_neighbour_does_not_answer_is_asked_of_the_next_that_offered_it():
    (one,) = chain(1)
    here, miser, friend = Node(0), Node(1), Node(2, [one])
    assert here.hear(miser, Announce(short(one)), 0.0) == [Pull(short(one))]
    assert here.hear(friend, Announce(short(one)), 0.1) == []
    assert here.ring("pull", PULL_S) == [(friend.key, Pull(short(one)))]
    assert here.ring("pull", 2 * PULL_S) == [], "nobody else has it"
    assert here.sync._pulling == {}


def test_who_hears_an_announcement_pulls_from_whoever_brought_it_and_only_what_is_new():
    one, two = chain(2)
    here, there = Node(0, [one]), Node(1, [one, two])
    assert here.hear(there, Announce(short(one, two))) == [Pull(short(two))]
    (answer,) = there.hear(here, Pull(short(two)))
    assert answer == Aggregates((written(two.aggregate),))
    here.hear(there, answer)
    assert here.learned == [two.id]


def test_what_comes_unasked_is_taken():
    (one,) = chain(1)
    here, there = Node(0), Node(1)
    frame = channel_frame(Aggregates((written(one.aggregate),), ()))
    learned, timer = here.sync.handle(open_frame(SWARM.id, frame, there.key), there.key, 0.0)
    assert [each.id for each in learned.aggregates] == [one.id]
    assert timer.tag == ("sync", "announce")


def test_missing_parents_are_pulled_too():
    one, two, three = chain(3)
    here, there = Node(0), Node(1, [one, two, three])
    assert here.hear(there, Aggregates((written(three.aggregate),))) == [Pull(short(two))]
    talk(here, there, now=PULL_S)
    assert here.history.digest() == there.history.digest()
    assert here.learned == [one.id, two.id, three.id]


def test_several_aggregates_of_one_message_are_learnt_in_one_go():
    """Until they are folded the replica is behind the history: nothing may come between."""
    row = chain(4)
    here, there = Node(0), Node(1)
    message = channel_frame(Aggregates(tuple(written(each.aggregate) for each in row)))
    learned, _ = here.sync.handle(open_frame(SWARM.id, message, there.key), there.key, 0.0)
    assert [each.id for each in learned.aggregates] == [each.id for each in row]
    assert (learned.round, [change.round for change in learned.changes]) == (4, [1, 2, 3, 4])
    SETTING.replica().apply(learned.changes, learned.round)


def test_an_id_is_asked_for_once_until_the_answer_is_overdue():
    (one,) = chain(1)
    here, there, third = Node(0), Node(1), Node(2, [one])
    announce = Announce(short(one))
    assert here.hear(there, announce, 0.0) == [Pull(short(one))]
    assert here.hear(third, announce, PULL_S - 0.1) == []
    assert here.hear(third, announce, PULL_S) == [Pull(short(one))], "the first one withholds it"


def test_what_one_neighbour_withholds_comes_from_another():
    row = chain(3)
    here, miser, friend = Node(0), Node(1, row), Node(2, row)
    talk(here, miser, drop=Aggregates)
    assert here.history.round == 0
    talk(here, friend, now=PULL_S + 0.1)
    assert here.history.digest() == friend.history.digest()


def test_one_neighbours_inventions_do_not_keep_others_aggregates_out():
    (one,) = chain(1)
    here, liar, friend = Node(0), Node(1), Node(2, [one])
    for batch in range(2 * PULLING_MAX // PULL_MAX):
        ids = tuple(f"{batch}/{i}".encode().ljust(SHORT_BYTES, b"\0") for i in range(PULL_MAX))
        assert here.hear(liar, Announce(ids), 0.0) == [Pull(ids)]
        assert len(here.sync._pulling) <= PULLING_MAX
    assert here.hear(friend, Announce(short(one)), 0.1) == [Pull(short(one))]


def test_an_answer_is_bounded_in_bytes_and_names_only_what_is_held(monkeypatch):
    row = chain(5)
    here, there = Node(0), Node(1, row)
    asked = Pull(short(*row))
    assert there.hear(here, Pull((bytes(8),))) == []
    (whole,) = there.hear(here, Pull((bytes(8), *short(row[0]))))
    assert whole == Aggregates((written(row[0].aggregate),))
    of_two = sum(len(written(each.aggregate)) for each in row[:2])
    monkeypatch.setattr(sync_module, "AGGREGATES_BYTES", of_two + 10)
    assert [len(answer.aggregates) for answer in there.hear(here, asked)] == [2]
    monkeypatch.setattr(sync_module, "AGGREGATES_BYTES", 1)
    assert [len(answer.aggregates) for answer in there.hear(here, asked)] == [1], "one always goes"
    monkeypatch.undo()
    talk(here, there)
    assert here.history.digest() == there.history.digest()


def test_an_answer_of_more_sums_than_anybody_asks_for_is_a_violation_however_few_bytes_it_was(monkeypatch):
    row = chain(3)
    here, there = Node(0), Node(1, row)
    monkeypatch.setattr(sync_module, "AGGREGATES_BYTES", 2 * len(row[0].body.sums))
    with pytest.raises(PeerViolation, match="bytes of sums"):
        here.hear(there, Aggregates(tuple(written(each.aggregate) for each in row)))
    assert (here.history.round, here.learned) == (0, [])
    here.hear(there, Aggregates(tuple(written(each.aggregate) for each in row[:2])))
    assert here.history.round == 2


def test_a_false_aggregate_is_a_violation_and_takes_nothing_with_it():
    one, two = chain(2)
    here, there = Node(0), Node(1)
    unsigned = Aggregate(two.body, (unsound([0, 1, 2], 4),))
    with pytest.raises(PeerViolation, match="not signed by"):
        here.hear(there, Aggregates((written(one.aggregate), written(unsigned))))
    assert (here.history.round, here.learned) == (0, [])
    with pytest.raises(PeerViolation):
        here.hear(there, Aggregates((b"rubbish",)))


def test_a_round_that_t_members_signed_wrongly_is_left_out_and_the_rest_taken():
    (one,) = chain(1)
    nonsense = signed(body(SETTING, [one], cohorts=[5], round_=7))
    here, there = Node(0), Node(1)
    here.hear(there, Aggregates((written(one.aggregate), written(nonsense))))
    assert here.learned == [one.id]


# --- comparing ------------------------------------------------------------------------------------------------


def test_equal_histories_say_nothing():
    row = chain(3)
    assert talk(Node(0, row), Node(1, row)) == 2


@pytest.mark.usefixtures("unchecked")
def test_a_newcomer_catches_up_over_thousands_of_rounds_upwards():
    row = long_chain(2 * COMPARE_MAX + 300)
    here, there = Node(0), Node(1, row)
    talk(here, there)
    compares = [said for said in here.sent if isinstance(said, Compare)]
    assert [said.first for said in compares] == [1, COMPARE_MAX + 1, 2 * COMPARE_MAX + 1]
    talk(here, there, beats=4, now=10.0)
    assert here.history.digest() == there.history.digest()
    assert here.learned == [each.id for each in row]


@pytest.mark.usefixtures("unchecked")
def test_two_sides_of_a_long_partition_find_each_other_downwards():
    shared = long_chain(20)
    left = long_chain(1500, parents=tuple(shared), cohort=3000)
    right = long_chain(1400, parents=tuple(shared), cohort=6000)
    one, other = Node(0, shared, left), Node(1, shared, right)
    talk(one, other, beats=4)
    assert one.history.digest() == other.history.digest()
    assert len(one.history) == 20 + 1500 + 1400
    lows = [said.first for said in one.sent if isinstance(said, Compare)]
    assert min(lows) == 1


@pytest.mark.usefixtures("unchecked")
def test_an_old_branch_that_one_neighbour_has_taken_in_is_found_below_the_recent_rounds():
    """All recent rounds agree, and so would a comparison of them alone, for ever."""
    row = long_chain(RECENT_ROUNDS + COMPARE_MAX + 100)
    branch = long_chain(2, parents=tuple(row[:30]), cohort=9000)
    here, there = Node(0, row), Node(1, row, branch)
    talk(here, there, beats=2)
    assert here.learned == [each.id for each in branch]
    assert here.history.digest() == there.history.digest()


@pytest.mark.usefixtures("unchecked")
def test_who_is_merely_ahead_does_not_search_the_past():
    row = long_chain(RECENT_ROUNDS + 200)
    ahead, behind = Node(0, row), Node(1, row[:-1])
    ahead.hear(behind, behind.beat)
    (have,) = behind.hear(ahead, ahead.sent[-1])
    assert have.aggregates == ()
    assert ahead.hear(behind, have) == []


def test_one_comparison_with_a_neighbour_at_a_time():
    here, there = Node(0, chain(3)), Node(1)
    assert len(here.hear(there, there.beat, 0.0)) == 1
    assert here.hear(there, there.beat, COMPARE_S - 0.1) == []
    assert len(here.hear(there, there.beat, COMPARE_S)) == 1


@pytest.mark.usefixtures("unchecked")
def test_an_answer_to_a_comparison_is_bounded_and_says_how_far_it_goes():
    wide = [each for first in range(3) for each in long_chain(1, cohort=first)]
    row = long_chain(900, parents=(wide[0],), cohort=100)
    others = long_chain(900, parents=(wide[1],), cohort=2000)
    third = long_chain(900, parents=(wide[2],), cohort=5000)
    there, here = Node(1, wide, row, others, third), Node(0)
    (have,) = there.hear(here, Compare(1, ()))
    assert HAVE_MAX - 3 < len(have.aggregates) <= HAVE_MAX
    assert have.first == 1
    assert have.last < have.highest == 901
    talk(here, there, beats=3)
    assert here.history.digest() == there.history.digest()


def test_rounds_that_agree_are_not_told():
    shared = chain(6)
    mine = chain(1, parents=tuple(shared[:3]), cohort=40)
    here, there = Node(0, shared), Node(1, shared, mine)
    (compare,) = here.hear(there, there.beat)
    (have,) = there.hear(here, compare)
    assert have == Have(4, 6, 6, tuple(sorted((shared[3].id, mine[0].id))))


# --- lies -----------------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_asked_for_is_ignored():
    here, liar = Node(0, chain(2)), Node(1)
    assert here.hear(liar, Have(1, 1 << 40, 1 << 41, (bytes(32),))) == []
    assert here.sync._pulling == {}


@pytest.mark.parametrize("first", [1, 2, 1 << 40, (1 << 48) - 1])
@pytest.mark.parametrize("digests", [(), (b"",) * COMPARE_MAX, (b"12345678",) * COMPARE_MAX])
def test_any_comparison_is_answered_in_bounds(first, digests):
    here, liar = Node(0, chain(3)), Node(1)
    (have,) = here.hear(liar, Compare(first, digests))
    assert len(have.aggregates) <= 3
    assert have.highest == 3
    pack(have)


def test_rounds_start_at_one():
    with pytest.raises(PeerViolation, match="start at 1"):
        Node(0).hear(Node(1), Compare(0, ()))


@pytest.mark.parametrize(
    "lie",
    [
        Have(0, 0, 0, (bytes(32),) * 1),
        Have(0, (1 << 48) - 2, (1 << 48) - 1, ()),
        Have((1 << 48) - 1, 0, (1 << 48) - 1, tuple(bytes([i] * 32) for i in range(64))),
        Have(0, 1, (1 << 48) - 1, (bytes(32),)),
    ],
)
def test_a_lying_answer_costs_no_more_than_it_costs_the_liar(lie):
    here, liar = Node(0, chain(3)), Node(1)
    here.hear(liar, Alive((1 << 48) - 1, bytes(8)))
    answers = []
    for step in range(60):
        one = Have(lie.first, min(lie.last + step, (1 << 48) - 2), lie.highest, lie.aggregates)
        answers.append(here.hear(liar, one, 0.0))
    assert max(map(len, answers)) <= 3
    assert here.sync._comparing[liar.key].low == 1
    assert len(here.sync._pulling) <= 64
    for answer in answers:
        for said in answer:
            pack(said)


def test_downwards_ends_at_the_first_round(monkeypatch):
    monkeypatch.setattr(sync_module, "check", lambda each, manifest, *_: Verified.of(each, manifest))
    row = long_chain(RECENT_ROUNDS + 10)
    here, liar = Node(0, row), Node(1)
    here.hear(liar, Alive(len(row), bytes(8)))
    lows = []
    for _ in range(5):
        lows += [
            s.first for s in here.hear(liar, Have(0, 0, len(row), (bytes(32),))) if isinstance(s, Compare)
        ]
    assert lows == [1], "the lowest compared round only ever falls"
