"""READY to roster: who is asked, when a bag closes, and that nobody waits for ever."""

import random
from collections.abc import Sequence

import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.cohort.messages import Ready
from gossip.cohort.rendezvous import (
    CHOOSY_GATHERS,
    FEW_SUMS,
    PATIENCE_GATHERS,
    READY_TTL_GATHERS,
    USED_MAX,
    Close,
    Introduce,
    Rendezvous,
)
from gossip.cohort.roster import Secrets
from gossip.cohort.sortition import ranking, whole_sum_s
from gossip.cohort.suspicion import Suspicion
from gossip.events import CancelTimer, Report, Send, SetTimer, TimerFired
from gossip.frames import Message, open_frame, sign_frame
from gossip.manifest import Cohorts

SWARM = digest("swarm", b"rendezvous")
GATHER_S = 2.0
COHORTS = Cohorts(3, 4, int(GATHER_S * 1000), 1000)
PEOPLE = sorted((Identity(digest("person", bytes([i]))) for i in range(8)), key=lambda who: who.public_key)
KEYS = [who.public_key for who in PEOPLE]
ASKED, GATHER = ("rendezvous", "asked"), ("rendezvous", "gather")


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    """How many a cohort wants where the swarm has them is tested by itself, below."""
    monkeypatch.setattr("gossip.cohort.rendezvous.ROBUST_MIN", 1)


def ready(who: Identity, round_: int = 1, *, seed: int = 0) -> Message:
    secrets = Secrets.fresh(who.public_key, random.Random(f"{who.peer_id}/{seed}").randbytes)
    body = Ready(round_, (), 1, secrets.channel.public, secrets.mask.public)
    return open_frame(SWARM, sign_frame(who, SWARM, body))


def by_rank(round_: int = 1, peers: list[bytes] = KEYS, hubs: Sequence[bytes] = ()) -> list[bytes]:
    return ranking(SWARM, round_, peers, hubs.__contains__)


def person(key: bytes) -> Identity:
    return PEOPLE[KEYS.index(key)]


class Node:
    def __init__(
        self,
        me: bytes,
        live: list[bytes] = KEYS,
        cohorts: Cohorts = COHORTS,
        *,
        hubs: Sequence[bytes] = (),
        links: Sequence[bytes] = (),
    ) -> None:
        self.live = live
        self.machine = Rendezvous(
            SWARM, me, cohorts, lambda: self.live, list, hubs.__contains__, links.__contains__
        )

    def hear(self, *messages: Message, now: float = 0.0) -> list[object]:
        return [action for message in messages for action in self.machine.handle(message, now)]

    def fire(self, tag: tuple[str, str], now: float) -> list[object]:
        return self.machine.handle(TimerFired(tag), now)


def closed(actions: list[object]) -> list[list[bytes]]:
    return [[open_frame(SWARM, frame).sender for frame in a.readies] for a in actions if isinstance(a, Close)]


# --- who is asked ---------------------------------------------------------------------------------------------


def test_everybody_ranks_alike_and_each_round_differently():
    assert by_rank(1) == ranking(SWARM, 1, KEYS[::-1])
    assert len({by_rank(round_)[0] for round_ in range(40)}) == len(KEYS)


def test_a_ready_goes_to_the_lowest_and_after_a_while_to_the_next_and_round_again():
    """Each time another READY, as a roster may have taken the last one and was lost: nobody takes one twice."""
    node = Node(KEYS[0])
    now, asked = 0.0, []
    for place in range(2 * len(KEYS)):
        frame = ready(PEOPLE[0], seed=place).raw
        send, timer = node.machine.ask(frame, 1, now)
        assert send.data == frame
        asked.append(send.peer)
        assert timer == SetTimer(ASKED, now + PATIENCE_GATHERS * GATHER_S), "no question without an end"
        now = timer.at
        assert node.fire(ASKED, now) == []
        assert node.machine.asked is None, "so that the node says another one"
    assert asked == by_rank() * 2, "itself among them, and none left out"


def test_a_candidate_that_cannot_be_reached_is_passed_over_at_once_but_only_the_one_that_was_asked():
    node = Node(KEYS[0])
    node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    first, second, third, *_ = by_rank()
    assert node.machine.failed(second, 0.1) == []
    assert node.machine.failed(first, 0.1)[0].peer == second
    assert node.machine.failed(first, 0.2) == []
    assert node.machine.failed(second, 0.2)[0].peer == third


def test_who_has_withdrawn_asks_nobody_any_more():
    node = Node(KEYS[0])
    node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    assert node.machine.withdraw() == [CancelTimer(ASKED)]
    assert node.fire(ASKED, 9.0) == node.machine.failed(by_rank()[0], 9.0) == node.machine.advance(5) == []


def test_when_the_history_grows_a_ready_is_taken_back_as_it_is_for_one_round():
    node = Node(KEYS[0])
    node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    assert node.machine.advance(1) == []
    assert node.machine.asked is not None
    assert node.machine.advance(2) == [CancelTimer(ASKED)]
    assert node.machine.asked is None
    assert node.machine.advance(2) == [], "once for each round"


def test_only_the_live_are_asked():
    node = Node(KEYS[0], live=KEYS[:2])
    send, _ = node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    assert send.peer == by_rank(1, KEYS[:2])[0]


# --- a bag ----------------------------------------------------------------------------------------------------


def test_a_bag_closes_at_once_when_it_is_full():
    node = Node(by_rank()[0])
    first, *rest = [ready(who) for who in PEOPLE[:4]]
    assert node.hear(first) == [SetTimer(GATHER, GATHER_S)]
    actions = node.hear(*rest)
    assert closed(actions) == [KEYS[:4]]
    assert CancelTimer(GATHER) in actions
    assert node.machine.gathered == 0


def test_a_bag_closes_at_once_when_everybody_who_lives_is_in_it():
    node = Node(KEYS[0], live=KEYS[:3])
    assert closed(node.hear(*[ready(who) for who in PEOPLE[:3]])) == [KEYS[:3]]
    node = Node(KEYS[0], live=KEYS[:2])
    assert closed(node.hear(*[ready(who) for who in PEOPLE[:2]])) == [], "two hide nobody"


def test_a_straggler_is_waited_for_no_longer_than_the_gathering_time():
    node = Node(KEYS[0])
    node.hear(*[ready(who) for who in PEOPLE[:3]])
    assert closed(node.fire(GATHER, GATHER_S)) == [KEYS[:3]]


def test_those_who_came_first_go_first_and_the_rest_is_gathered_on():
    node = Node(KEYS[0])
    for place, who in enumerate((7, 1, 5)):
        node.hear(ready(PEOPLE[who]), now=place / 10)
    actions = node.hear(ready(PEOPLE[0]), now=0.3)
    assert closed(actions) == [[KEYS[i] for i in (0, 1, 5, 7)]], "ascending in the roster"
    node = Node(KEYS[0], cohorts=Cohorts(3, 3, 2000, 1000))
    for place, who in enumerate((7, 1)):
        node.hear(ready(PEOPLE[who]), now=place / 10)
    assert closed(node.hear(ready(PEOPLE[3]), now=0.3)) == [[KEYS[i] for i in (1, 3, 7)]]


def test_a_renewed_ready_replaces_the_old_one_and_an_older_one_does_not():
    node = Node(KEYS[0])
    old, new = ready(PEOPLE[1], 4, seed=1), ready(PEOPLE[1], 5, seed=2)
    node.hear(new)
    node.hear(old)
    assert node.machine.gathered == 1
    node.hear(ready(PEOPLE[2], 5), ready(PEOPLE[3], 5))
    (close,) = [a for a in node.fire(GATHER, GATHER_S) if isinstance(a, Close)]
    assert new.raw in close.readies
    assert old.raw not in close.readies


def test_what_a_roster_elsewhere_has_taken_is_no_longer_in_the_bag():
    node = Node(KEYS[0])
    messages = [ready(who) for who in PEOPLE[:3]]
    node.hear(*messages)
    node.machine.taken((messages[0].raw, messages[1].raw))
    assert node.machine.gathered == 1
    assert closed(node.fire(GATHER, GATHER_S)) == []


def test_an_empty_bag_waits_for_nothing():
    node = Node(by_rank()[0])
    message = ready(PEOPLE[1])
    node.hear(message)
    node.machine.taken((message.raw,))
    assert node.fire(GATHER, GATHER_S) == []
    assert node.hear(ready(PEOPLE[2]), now=5.0) == [SetTimer(GATHER, 5.0 + GATHER_S)], "and begins again"


def test_old_readies_are_dropped():
    node = Node(by_rank()[0])
    node.hear(ready(PEOPLE[1]), ready(PEOPLE[2]))
    late = READY_TTL_GATHERS * GATHER_S + 0.1
    assert closed(node.hear(ready(PEOPLE[3]), now=late)) == []
    assert node.machine.gathered == 1


# --- handing on -----------------------------------------------------------------------------------------------


def test_with_too_few_the_bag_goes_to_a_strictly_lower_candidate():
    first, second, *_ = by_rank()
    node = Node(second)
    messages = [ready(who) for who in PEOPLE[:2]]
    node.hear(*messages)
    *sends, report = node.fire(GATHER, GATHER_S)
    assert [(a.peer, a.data) for a in sends if isinstance(a, Send)] == [(first, m.raw) for m in messages]
    assert isinstance(report, Report)
    assert node.machine.gathered == 0


def test_the_lowest_keeps_waiting_and_asks_again_and_again():
    node = Node(by_rank()[0])
    node.hear(ready(PEOPLE[1]))
    for gathers in range(1, int(READY_TTL_GATHERS)):
        assert node.fire(GATHER, gathers * GATHER_S) == [SetTimer(GATHER, (gathers + 1) * GATHER_S)]


@pytest.mark.parametrize("start", range(len(KEYS)))
def test_handing_on_ends(start):
    """From whatever leader, one READY alone reaches the lowest candidate and stays there."""
    nodes = {key: Node(key) for key in KEYS}
    at, message, hops = KEYS[start], ready(PEOPLE[0]), 0
    while True:
        nodes[at].hear(message)
        sends = [a for a in nodes[at].fire(GATHER, GATHER_S) if isinstance(a, Send)]
        if not sends:
            break
        assert by_rank().index(sends[0].peer) < by_rank().index(at)
        at, hops = sends[0].peer, hops + 1
    assert (at, hops) == (by_rank()[0], int(start != KEYS.index(by_rank()[0])))


def test_the_rank_is_that_of_the_highest_round_in_the_bag():
    round_ = next(r for r in range(2, 50) if by_rank(r)[0] != by_rank(1)[0] and by_rank(r)[0] != KEYS[2])
    node = Node(by_rank(1)[0])
    node.hear(ready(PEOPLE[1], 1), ready(PEOPLE[2], round_))
    introduced, *sends, _ = node.fire(GATHER, GATHER_S)
    assert {send.peer for send in sends} == {by_rank(round_)[0]}
    assert introduced == Introduce(tuple(KEYS[1:3]), by_rank(round_)[0]), "it is to answer them"


def test_a_leader_that_is_no_longer_the_first_forgets_its_bag():
    me = by_rank(1)[0]
    round_ = next(r for r in range(2, 50) if by_rank(r)[0] != me)
    node = Node(me)
    node.hear(ready(PEOPLE[1]), ready(PEOPLE[2]))
    assert node.machine.advance(1) == []
    assert node.machine.gathered == 2
    assert node.machine.advance(round_) == [CancelTimer(GATHER)]
    assert node.machine.gathered == 0


def test_a_swarm_of_equals_meets_without_a_coordinator():
    """All are ready; each READY goes where the ranking says, and one roster holds as many as a cohort takes."""
    nodes = {key: Node(key) for key in KEYS}
    sends = [nodes[key].machine.ask(ready(person(key)).raw, 1, 0.0)[0] for key in KEYS]
    assert {send.peer for send in sends} == {by_rank()[0]}
    actions = [a for send in sends for a in nodes[send.peer].hear(open_frame(SWARM, send.data))]
    assert [len(roster) for roster in closed(actions)] == [4, 4]


# --- hubs -----------------------------------------------------------------------------------------------------

CROWD = [digest("crowd", bytes([number])) for number in range(64)]
TWO_SUMS = Cohorts(3, 4, int(GATHER_S * 1000), 1000, sums=2)


def test_hubs_are_ranked_first_and_among_themselves_as_ever():
    hubs = KEYS[2:5]
    assert by_rank(1, KEYS, hubs) == [
        *by_rank(1, hubs),
        *by_rank(1, [key for key in KEYS if key not in hubs]),
    ]
    assert {by_rank(round_, KEYS, hubs)[0] for round_ in range(40)} == set(hubs), "they take turns"


def first_asked(me: bytes, **options: object) -> bytes:
    return Node(me, **options).machine.ask(b"READY", 1, 0.0)[0].peer


def test_readies_spread_evenly_over_as_many_hubs_as_sums_are_to_come():
    hubs = by_rank(1, KEYS)[3:6]
    options = {"live": [*KEYS, *CROWD], "cohorts": TWO_SUMS, "hubs": hubs}
    asked = [first_asked(me, **options) for me in CROWD]
    assert set(asked) == set(by_rank(1, hubs)[:2])
    assert all(len(CROWD) / 3 < asked.count(hub) < 2 * len(CROWD) / 3 for hub in set(asked))
    assert {first_asked(me, **options | {"hubs": hubs[:1]}) for me in CROWD} == {hubs[0]}
    assert {first_asked(me, **options | {"hubs": []}) for me in CROWD} == {by_rank(1, [*KEYS, *CROWD])[0]}
    few = options | {"live": [*KEYS[:3], *hubs]}
    assert {first_asked(me, **few) for me in CROWD} == {by_rank(1, hubs)[0]}, (
        "who do not fill two sums have one leader"
    )


def test_a_leader_leads_itself_and_others_prefer_a_leader_that_is_connected():
    hubs = by_rank(1, KEYS)[:2]
    options = {"cohorts": TWO_SUMS, "hubs": hubs}
    for hub in hubs:
        assert first_asked(hub, **options, links=hubs) == hub
        assert {first_asked(me, **options, links=[hub, KEYS[7]]) for me in CROWD} == {hub}
        assert Node(hub, **options).machine.leads(1)
    assert not Node(by_rank(1, KEYS)[2], **options).machine.leads(1)


def test_a_hub_that_cannot_be_reached_is_passed_over_for_the_other_and_then_for_whoever_lives():
    hubs = by_rank(1, KEYS)[4:6]
    node = Node(CROWD[0], cohorts=TWO_SUMS, hubs=hubs)
    asked = [node.machine.ask(b"READY", 1, 0.0)[0].peer]
    while len(asked) < len(KEYS):
        asked.append(node.machine.failed(asked[-1], 0.1)[0].peer)
    assert set(asked[:2]) == set(hubs)
    assert asked[2:] == [key for key in by_rank(1) if key not in hubs]


def test_each_of_two_leaders_keeps_its_bag_and_with_too_few_the_second_hands_on_to_the_first():
    first, second, third, *_ = by_rank(1)
    hubs = [first, second, third]
    node = Node(second, cohorts=TWO_SUMS, hubs=hubs)
    node.hear(ready(PEOPLE[0]))
    assert node.machine.advance(1) == []
    assert node.machine.gathered == 1
    assert {a.peer for a in node.fire(GATHER, GATHER_S) if isinstance(a, Send)} == {first}
    outside = Node(third, cohorts=TWO_SUMS, hubs=hubs)
    outside.hear(ready(PEOPLE[0]))
    assert outside.machine.advance(1) == [CancelTimer(GATHER)]


@pytest.mark.parametrize("seed", range(20))
def test_handing_on_ends_also_where_only_some_know_who_is_a_hub(seed):
    """Everybody knows what it is itself; of the others each knows some hubs, and nobody takes for a hub who is none."""
    dice = random.Random(seed)
    hubs = dice.sample(KEYS, dice.randrange(1, 6))
    known = {key: [hub for hub in hubs if hub == key or dice.random() < 0.5] for key in KEYS}
    nodes = {key: Node(key, hubs=known[key]) for key in KEYS}
    for start in KEYS:
        at, passed = start, [start]
        while True:
            nodes[at].hear(ready(PEOPLE[0]))
            sends = [a for a in nodes[at].fire(GATHER, GATHER_S) if isinstance(a, Send)]
            nodes[at].machine._bag.clear()
            if not sends:
                break
            at = sends[0].peer
            assert at not in passed
            passed.append(at)
        assert at in hubs or not known[at]


# --- a large swarm --------------------------------------------------------------------------------------------


def test_where_nobody_knows_all_those_of_the_last_round_are_asked_first():
    node = Node(KEYS[0])
    node.machine = Rendezvous(SWARM, KEYS[0], COHORTS, lambda: KEYS, lambda: KEYS[4:6])
    send, _ = node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    asked = [send.peer]
    for _ in range(len(KEYS) - 1):
        asked.append(node.machine.failed(asked[-1], 0.1)[0].peer)
    assert asked[:2] == by_rank(1, KEYS[4:6])
    assert asked[2:] == by_rank(1, [*KEYS[:4], *KEYS[6:]]), "and then whoever this device happens to know"


def large(cohorts: Cohorts) -> Node:
    """The first to lead, in a swarm that nobody knows whole."""
    node = Node(by_rank()[0])
    node.machine = Rendezvous(SWARM, by_rank()[0], cohorts, lambda: KEYS, lambda: KEYS)
    return node


ONE_SUM = Cohorts(3, 3, int(GATHER_S * 1000), 1000, sums=1)


def test_a_leader_makes_as_many_cohorts_as_are_aimed_at_and_no_more_before_they_fail():
    node = large(ONE_SUM)
    assert len(closed(node.hear(*(ready(who) for who in PEOPLE[:6])))) == 1
    assert closed(node.hear(*(ready(who, seed=1) for who in PEOPLE[3:6]))) == [], (
        "and those of it do not ask again"
    )
    at = GATHER_S
    while not closed(node.fire(GATHER, at)):
        at += GATHER_S
        assert at < 10 * GATHER_S, "a stuck round goes on"
    assert at >= whole_sum_s(ONE_SUM)


def test_two_leaders_make_those_cohorts_between_them():
    me = by_rank()[0]
    node = Node(me)
    both = by_rank()[:2]
    node.machine = Rendezvous(
        SWARM, me, Cohorts(3, 3, 2000, 1000, sums=4), lambda: KEYS, lambda: KEYS, both.__contains__
    )
    others = [ready(who) for who in PEOPLE if who.public_key != me]
    assert closed(node.hear(*others)) == [], "a hub that leads takes part, and waits for its own"
    made = [closed(node.fire(GATHER, at)) for at in (2.0, 4.0, 6.0, 8.0)]
    assert [len(each) for each in made] == [1, 1, 0, 0]


def test_a_hub_that_leads_has_the_first_place_in_its_cohort():
    me, (mine,) = by_rank()[0], [who for who in PEOPLE if who.public_key == by_rank()[0]]
    node = Node(me)
    node.machine = Rendezvous(SWARM, me, ONE_SUM, lambda: KEYS, lambda: KEYS, {me}.__contains__)
    others = [ready(who) for who in PEOPLE if who is not mine][:3]
    assert closed(node.hear(*others)) == []
    (members,) = closed(node.hear(ready(mine)))
    assert me in members


def test_a_cohort_whose_members_ask_again_has_failed_and_makes_way():
    node = large(ONE_SUM)
    first = PEOPLE[:3]
    assert len(closed(node.hear(*(ready(who) for who in first)))) == 1
    assert closed(node.hear(*(ready(who) for who in PEOPLE[3:6]))) == []
    again = node.hear(ready(first[0], seed=1))
    assert len(closed(again)) == 1, "two of three are too few for a sum, so there is none to wait for"


def test_a_ready_for_a_round_that_is_over_makes_no_cohort_where_the_lottery_draws():
    """Its sender takes it back when it hears of that round, and would only be missing."""
    late, others = ready(PEOPLE[0], 2), [ready(PEOPLE[1], 3), ready(PEOPLE[2], 3)]
    for drawn in (True, False):
        node = large(ONE_SUM)
        node.machine.advance(3, drawn=drawn)
        assert len(closed(node.hear(late, *others))) == (not drawn)
        assert node.machine.gathered == 2 * drawn


def test_a_leader_that_saw_its_cohort_fail_makes_another_without_being_asked_again():
    node = large(ONE_SUM)
    assert len(closed(node.hear(*(ready(who) for who in PEOPLE[:3])))) == 1
    assert closed(node.hear(*(ready(who) for who in PEOPLE[3:6]))) == []
    node.machine.ended(KEYS[1:])
    assert closed(node.fire(GATHER, GATHER_S)) == [], "another cohort of this device's"
    node.machine.ended(KEYS[:3])
    assert len(closed(node.fire(GATHER, 2 * GATHER_S))) == 1


def test_in_a_small_swarm_a_leader_makes_as_many_cohorts_as_there_are():
    node = Node(by_rank()[0], cohorts=ONE_SUM)
    again = [ready(who, seed=seed) for seed in (0, 1, 2) for who in PEOPLE[:3]]
    assert len(closed(node.hear(*again))) == 3


def test_a_ready_that_lost_its_round_is_withdrawn_where_the_lottery_decides():
    node = large(ONE_SUM)
    node.machine.ask(ready(person(node.machine._me)).raw, 1, 0.0)
    node.hear(ready(PEOPLE[0], 1), ready(PEOPLE[1], 2))
    actions = node.machine.advance(2, drawn=True)
    assert node.machine.asked is None
    assert CancelTimer(ASKED) in actions
    assert not any(isinstance(action, Send) for action in actions)
    assert node.machine.gathered <= 1, "and is forgotten by who led that round"


def test_who_asks_one_that_all_ask_is_as_patient_as_a_whole_sum():
    node = large(ONE_SUM)
    _, timer = node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    assert timer == SetTimer(ASKED, whole_sum_s(ONE_SUM))


# --- READYs that are worth nothing, and devices that are met rarely --------------------------------------------


def trusting(suspicion: Suspicion, me: bytes = KEYS[0], cohorts: Cohorts = COHORTS) -> Node:
    node = Node(me, cohorts=cohorts)
    node.machine = Rendezvous(SWARM, me, cohorts, lambda: KEYS, list, suspicion=suspicion)
    return node


def test_an_old_ready_that_somebody_kept_makes_no_cohort_of_absent_devices():
    """Seen: READYs out of old rosters, handed to leaders again, made 55 rounds a minute 8."""
    node = Node(by_rank(5)[0])
    node.machine.advance(5)
    for who in PEOPLE[:4]:
        assert node.machine.handle(ready(who, 4), 0.0, KEYS[7]) == []
        assert node.machine.handle(ready(who, 3), 0.0) == []
    assert node.machine.gathered == 0
    node.machine.handle(ready(PEOPLE[1], 4), 0.0, KEYS[1])
    assert node.machine.gathered == 1, "from its own sender, who has not heard yet of the round that came"


def test_a_ready_that_a_roster_has_taken_is_not_taken_again_by_who_saw_it():
    node = Node(KEYS[0])
    messages = [ready(who) for who in PEOPLE[:3]]
    node.machine.taken(tuple(message.raw for message in messages))
    assert node.hear(*messages) == []
    assert node.machine.gathered == 0
    node.hear(ready(PEOPLE[1], seed=1))
    assert node.machine.gathered == 1, "a fresh one of the same device is"


def test_what_is_remembered_of_rosters_is_bounded():
    node = Node(KEYS[0])
    for number in range(2 * USED_MAX):
        node.machine.taken((number.to_bytes(4, "big"),))
    assert len(node.machine._used) == USED_MAX


def test_who_was_in_refused_sums_is_left_for_a_later_cohort():
    suspicion = Suspicion(SWARM, KEYS[0])
    for _ in range(6):
        suspicion.rejected(KEYS[1:2])
    rosters = []
    node = trusting(suspicion)
    for place in range(60):
        node.machine.advance(place + 1)
        node.hear(*[ready(who, place + 1) for who in PEOPLE[:4]], now=float(place))
        rosters += closed(node.fire(GATHER, place + 0.5))
        node.machine._bag.clear()
    with_it = [KEYS[1] in roster for roster in rosters]
    full = trusting(Suspicion(SWARM, KEYS[0]))
    assert closed(full.hear(*[ready(who) for who in PEOPLE[:4]])) == [KEYS[:4]]
    assert sum(with_it) <= 6


def test_too_few_others_and_the_least_suspected_are_taken_after_all():
    suspicion = Suspicion(SWARM, KEYS[0])
    for count, key in ((9, KEYS[1]), (9, KEYS[2]), (3, KEYS[3])):
        for _ in range(count):
            suspicion.rejected([key])
    for seed in range(10):
        cohorts = Cohorts(3, 3, 2000, 1000)
        node = trusting(suspicion, cohorts=cohorts)
        node.machine._closed = seed
        assert not closed(node.hear(*[ready(who) for who in PEOPLE[:3]])), "a better one may come"
        assert not closed(node.fire(GATHER, CHOOSY_GATHERS * GATHER_S - 0.1))
        assert not closed(node.fire(GATHER, CHOOSY_GATHERS * GATHER_S)), (
            "better no cohort than a hopeless one"
        )
        late = FEW_SUMS * whole_sum_s(cohorts)
        node.hear(*[ready(who, seed=1) for who in PEOPLE[:3]], now=late - 1.0)  # they ask again
        [roster] = closed(node.fire(GATHER, late))
        assert roster == KEYS[:3], "three hide one another, two do not"


def test_who_makes_no_round_of_the_bags_that_it_is_handed_is_handed_no_more():
    """Seen: in swarms of five to eight all bags went to one device that made no roster, for ever."""
    silent, next_, third, *_ = by_rank()
    node = Node(third)
    handed = []
    for number in range(4):
        now = number * PATIENCE_GATHERS * GATHER_S
        node.hear(ready(PEOPLE[0], seed=number), now=now)
        handed.append({a.peer for a in node.fire(GATHER, now) if isinstance(a, Send)})
    assert handed == [{silent}, {next_}, set(), set()], "the third keeps it, as neither made anything of it"
    node.machine.advance(2)
    assert not node.machine._handed


def test_the_hopeless_are_not_asked_to_lead_unless_all_are():
    suspicion = Suspicion(SWARM, KEYS[0])
    first, second, *_ = by_rank()
    for _ in range(12):
        suspicion.rejected([first])
    node = trusting(suspicion)
    send, _ = node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    asked = [send.peer]
    while len(asked) < len(KEYS):
        asked.append(node.machine.failed(asked[-1], 0.1)[0].peer)
    assert first not in asked
    assert asked[-1] == second, "and round again"


def test_who_is_distrusted_is_asked_to_lead_last_and_is_handed_no_bag():
    suspicion = Suspicion(SWARM, KEYS[0])
    first, second, *_ = by_rank()
    suspicion.forged(first)
    node = trusting(suspicion)
    send, _ = node.machine.ask(ready(PEOPLE[0]).raw, 1, 0.0)
    asked = [send.peer]
    while len(asked) < len(KEYS):
        asked.append(node.machine.failed(asked[-1], 0.1)[0].peer)
    assert asked[0] == second
    assert asked[-1] == first
    third = trusting(suspicion, me=by_rank()[2])
    third.hear(ready(PEOPLE[1]))
    assert {a.peer for a in third.fire(GATHER, GATHER_S) if isinstance(a, Send)} == {second}


# --- how many are enough --------------------------------------------------------------------------------------


def test_where_a_swarm_has_more_few_are_not_enough_for_a_long_time(monkeypatch):
    """Of four, three sign: one that is bad and two that see nothing."""
    monkeypatch.setattr("gossip.cohort.rendezvous.ROBUST_MIN", 8)
    cohorts = Cohorts(3, 8, int(GATHER_S * 1000), 1000)
    node = Node(by_rank()[0], cohorts=cohorts)
    for waited_s, live, enough in (
        (0.0, KEYS, 4),
        (0.0, KEYS[:6], 3),
        (0.0, KEYS[:3], 3),
        (0.0, KEYS * 5, 8),
    ):
        node.live = live
        assert node.machine.enough(waited_s) == enough
    node.live = KEYS
    assert node.machine.enough(FEW_SUMS * whole_sum_s(cohorts)) == 3
    assert node.hear(*(ready(who) for who in PEOPLE[:3]))
    assert not closed(node.fire(GATHER, GATHER_S))
    [roster] = closed(node.hear(ready(PEOPLE[3]), now=GATHER_S) + node.fire(GATHER, 2 * GATHER_S))
    assert len(roster) == 4


def test_few_are_better_than_none_in_the_end(monkeypatch):
    monkeypatch.setattr("gossip.cohort.rendezvous.ROBUST_MIN", 8)
    node = Node(by_rank()[0])
    node.hear(*(ready(who) for who in PEOPLE[:3]))
    late = FEW_SUMS * whole_sum_s(COHORTS)
    node.hear(*(ready(who, seed=1) for who in PEOPLE[:3]), now=late - 1.0)  # again, as old READYs are dropped
    assert not closed(node.fire(GATHER, late - 0.5))
    [roster] = closed(node.fire(GATHER, late))
    assert len(roster) == 3
    round_ = next(each for each in range(2, 100) if by_rank(each)[0] == by_rank()[0])
    node.machine.advance(round_)
    node.hear(*(ready(who, round_) for who in PEOPLE[:3]), now=late + 1.0)
    assert not closed(node.fire(GATHER, late + 1.0 + GATHER_S)), "in the next round it waits anew"
