"""Who belongs, who lives, and whom this device dials: the machine is told what happened, and says what to do."""

import itertools

import pytest
from msgspec import structs

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import (
    Dial,
    Disconnect,
    Drop,
    Kept,
    PeerDown,
    PeerUp,
    Persist,
    Readdressed,
    Report,
    Send,
    SetTimer,
    TimerFired,
    Woke,
)
from gossip.frames import channel_frame, open_frame, sign_frame
from gossip.manifest import found
from gossip.membership import view as membership_module
from gossip.membership.census import CENSUS, SIZE_MAX, Census
from gossip.membership.messages import Alive, Greeting, Presence
from gossip.membership.view import (
    BACKOFF_S,
    BEAT_S,
    IDLE_S,
    NEWS_S,
    NEWS_TO_OF_MANY,
    PRESENCE_S,
    PRESENCE_TTL_S,
    SILENCE_S,
    SOON_S,
    Membership,
    Settings,
)
from gossip.secure_sum.messages import AbortVote
from tests.simulation.harness import tiny_swarm

PEOPLE = sorted(
    (Identity(digest("device", bytes([i, 1]))) for i in range(12)), key=lambda who: who.public_key
)
KEYS = [who.public_key for who in PEOPLE]
ME = KEYS[0]
SWARM = tiny_swarm(PEOPLE[0], KEYS)
STRANGER = Identity(bytes([77] * 32))
BEAT = TimerFired(("membership", "beat"))


def machine(*bootstrap: int, neighbours: int = 8, sequence: int = 7, hub: bool = False) -> Membership:
    known = tuple((KEYS[i], (f"at/{i}",)) for i in bootstrap)
    settings = Settings(("at/0",), known, neighbours=neighbours, sequence=sequence, hub=hub)
    return Membership(SWARM, PEOPLE[0], settings, lambda: (3, b"digest!!"))


def presence(i: int, sequence: int = 1, *addresses: str, hub: bool = False) -> bytes:
    return sign_frame(PEOPLE[i], SWARM.id, Presence(sequence, addresses or (f"at/{i}",), hub))


def told(membership: Membership, raw: bytes, now: float = 0.0) -> list[object]:
    return membership.handle(open_frame(SWARM.id, raw, KEYS[1]), now)


def dialled(actions: list[object]) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(action.peer, action.addresses) for action in actions if isinstance(action, Dial)]


def sent(actions: list[object], kind: type) -> list[tuple[bytes, object]]:
    opened = [(a.peer, open_frame(SWARM.id, a.data, ME).body) for a in actions if isinstance(a, Send)]
    return [(peer, body) for peer, body in opened if isinstance(body, kind)]


# --- who belongs ----------------------------------------------------------------------------------------------


def test_only_members_become_neighbours():
    membership = machine()
    (refused,) = membership.handle(PeerUp(STRANGER.public_key), 0.0)
    assert isinstance(refused, Disconnect)
    assert membership.neighbours == {}
    assert membership.belongs(KEYS[3])
    assert not membership.belongs(STRANGER.public_key)


def who(greeting: Greeting) -> list[bytes]:
    return [open_frame(SWARM.id, raw).sender for raw in greeting.presences]


def test_a_new_neighbour_is_greeted_with_ones_own_presence_and_a_heartbeat():
    membership = machine()
    for i in (2, 3):
        told(membership, presence(i))
    actions = membership.handle(PeerUp(KEYS[1]), 0.0)
    ((_, greeting),) = sent(actions, Greeting)
    assert who(greeting) == [ME]
    assert sent(actions, Alive) == [(KEYS[1], Alive(3, b"digest!!"))]
    again = membership.handle(PeerUp(KEYS[1]), 1.0)
    assert not [a for a in again if isinstance(a, Report)], "a second connection is no news"


def asks(membership: Membership, i: int, wanted: int) -> list[bytes]:
    """Whom a neighbour is told of that asks for so many."""
    message = open_frame(SWARM.id, channel_frame(Greeting((), wanted=wanted)), KEYS[i])
    return [key for _, greeting in sent(membership.handle(message, 0.0), Greeting) for key in who(greeting)]


def test_who_knows_few_asks_a_new_neighbour_for_others_and_who_knows_enough_does_not(monkeypatch):
    monkeypatch.setattr(membership_module, "ENOUGH", 5)
    membership, asked = machine(), []
    for i in range(1, 8):
        ((_, greeting),) = sent(membership.handle(PeerUp(KEYS[i]), 0.0), Greeting)
        asked.append(greeting.wanted)
        told(membership, presence(i))
    assert asked == [5, 4, 3, 2, 1, 0, 0]


def test_who_asks_is_told_of_others_once_a_link_and_of_different_ones_by_each(monkeypatch):
    monkeypatch.setattr(membership_module, "GREETED", 3)
    membership = machine()
    for i in range(1, 12):
        told(membership, presence(i))
    assert asks(membership, 1, 2) == [], "no neighbour"
    heard = []
    for i in (1, 2, 3):
        membership.handle(PeerUp(KEYS[i]), 0.0)
        heard.append(asks(membership, i, 16))
        assert len(heard[-1]) == 3
        assert KEYS[i] not in heard[-1]
        assert asks(membership, i, 16) == [], "once"
    assert len({key for each in heard for key in each}) > 4
    membership.handle(PeerUp(KEYS[4]), 0.0)
    assert asks(membership, 4, 0) == []


def test_before_the_first_round_the_founder_is_among_those_whom_one_is_told_of():
    settings = Settings(("at/1",), sequence=7)
    for round_, certain in ((0, True), (5, False)):
        told_founder = []
        for i in range(2, 12):
            membership = Membership(SWARM, PEOPLE[1], settings, lambda round_=round_: (round_, b"digest!!"))
            for each in range(12):
                told(membership, presence(each))
            membership.handle(PeerUp(KEYS[i]), 0.0)
            told_founder.append(SWARM.manifest.founder in asks(membership, i, 2))
        assert all(told_founder) == certain


def test_a_greeting_tells_of_others_and_nobody_speaks_for_somebody_else():
    membership = machine()
    greeting = Greeting((presence(1), presence(2), presence(3)))
    told(membership, channel_frame(greeting))
    assert sorted(membership.known) == KEYS[1:4]
    bad = Greeting((sign_frame(PEOPLE[1], SWARM.id, AbortVote(), cohort=bytes(32)),))
    with pytest.raises(PeerViolation, match="something else than presences tells"):
        told(membership, channel_frame(bad))


def test_strangers_and_oneself_are_not_remembered():
    membership = machine()
    told(membership, sign_frame(STRANGER, SWARM.id, Presence(1, ("x",))))
    told(membership, presence(0, 99))
    assert membership.known == {}


def test_no_more_than_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 3)
    membership = machine()
    for i in range(1, 8):
        told(membership, presence(i))
    assert sorted(membership.known) == KEYS[1:4]
    told(membership, presence(2, 5, "moved"))
    assert membership.addresses_of(KEYS[2]) == ("moved",)


# --- who lives ------------------------------------------------------------------------------------------------


def test_a_presence_keeps_somebody_alive_for_a_while():
    membership = machine()
    told(membership, presence(4), now=10.0)
    assert membership.live(10.0 + PRESENCE_TTL_S - 0.1) == [ME, KEYS[4]]
    assert membership.live(10.0 + PRESENCE_TTL_S) == [ME]


def test_an_old_presence_neither_moves_a_device_nor_shows_life():
    membership = machine()
    told(membership, presence(4, 9, "new"), now=0.0)
    for sequence in (8, 9):
        told(membership, presence(4, sequence, "old"), now=80.0)
    assert membership.addresses_of(KEYS[4]) == ("new",)
    assert membership.live(PRESENCE_TTL_S + 1) == [ME]


def test_whoever_speaks_lives_and_whoever_broke_off_does_not():
    membership = machine()
    told(membership, presence(4), now=0.0)
    membership.handle(PeerUp(KEYS[4]), 0.0)
    membership.handle(PeerDown(KEYS[4], "gone"), 5.0)
    assert membership.live(5.0) == [ME]
    membership.heard_from(KEYS[4], 6.0)
    assert membership.live(6.0) == [ME, KEYS[4]]


def test_a_silent_neighbour_is_disconnected_and_one_that_beats_is_not():
    membership = machine()
    for i in (1, 2):
        told(membership, presence(i))
        membership.handle(PeerUp(KEYS[i]), 0.0)
    now, cut = 0.0, []
    while now <= SILENCE_S + BEAT_S:
        now += BEAT_S
        membership.heard_from(KEYS[2], now)
        actions = membership.handle(BEAT, now)
        assert SetTimer(("membership", "beat"), now + BEAT_S) in actions
        cut += [(a.peer, now) for a in actions if isinstance(a, Disconnect)]
    assert cut == [(KEYS[1], SILENCE_S + BEAT_S)]
    assert sorted(membership.neighbours) == [KEYS[2]]
    assert membership.live(now) == [ME, KEYS[2]]


def test_a_beat_goes_to_neighbours_that_nothing_else_went_to_and_at_times_to_all():
    membership = machine()
    for i in (3, 1):
        membership.handle(PeerUp(KEYS[i]), 0.0)
    beats = []
    for beat in range(1, 5):
        now = beat * BEAT_S
        membership.spoke_to(KEYS[3], now - 1)
        for i in (1, 3):
            membership.heard_from(KEYS[i], now)
        beats.append([peer for peer, _ in sent(membership.handle(BEAT, now), Alive)])
    assert beats == [[KEYS[1]], [KEYS[1]], [KEYS[1], KEYS[3]], [KEYS[1]]], (
        "all in PULSE_S: it tells the history"
    )


def test_an_idle_link_that_is_kept_is_not_let_go(monkeypatch):
    monkeypatch.setattr(membership_module, "LINKS_MAX", 2)
    membership = machine()
    for i in range(1, 6):
        membership.handle(PeerUp(KEYS[i]), float(i))
    membership.handle(Kept(KEYS[5]), 6.0)
    membership.handle(Kept(KEYS[9]), 6.0)  # it has just gone
    now = IDLE_S + 20
    for i in range(1, 6):
        membership.heard_from(KEYS[i], now, alive=True)
    gone = [action.peer for action in membership.handle(BEAT, now) if isinstance(action, Disconnect)]
    assert gone == [KEYS[i] for i in (4, 3, 2)]
    membership.handle(PeerDown(KEYS[5], "gone"), now)
    membership.handle(PeerUp(KEYS[5]), now)
    assert not membership.neighbours[KEYS[5]].kept, "it lasts as long as the link"


def test_new_addresses_are_told_under_the_next_sequence_and_those_told_dial_at_once():
    membership = machine(sequence=7)
    membership.handle(PeerUp(KEYS[1]), 0.0)
    told_now = sent(membership.handle(Readdressed(("at/0", "via/1")), 1.0), Greeting)
    [(peer, greeting)] = told_now
    assert peer == KEYS[1]
    renewed = open_frame(SWARM.id, greeting.presences[0], ME).body
    assert renewed == Presence(8, ("at/0", "via/1"), hub=False)
    assert open_frame(SWARM.id, membership.presences_of([ME])[0], ME).body == renewed
    other = machine()
    other.handle(PeerUp(KEYS[1]), 0.0)
    assert dialled(told(other, presence(2))) == [(KEYS[2], ("at/2",))]
    other.handle(PeerDown(KEYS[2], "nobody answers"), 1.0)
    assert dialled(told(other, presence(2, 2, "at/2", "via/1"), 1.5)) == [(KEYS[2], ("at/2", "via/1"))]


def test_who_slept_does_not_take_its_own_absence_for_its_neighbours():
    membership = machine()
    membership.handle(PeerUp(KEYS[1]), 0.0)
    told(membership, presence(2))
    membership.handle(PeerDown(KEYS[2], "gone"), 1.0)
    woke = membership.handle(Woke(90.0), 91.0)
    assert sent(woke, Alive) == [(KEYS[1], Alive(3, b"digest!!"))], "is it still there?"
    assert dialled(woke) == [(KEYS[2], ("at/2",))], "whatever its back-off"
    assert SetTimer(("membership", "beat"), 91.0 + SOON_S) in woke
    beat = membership.handle(BEAT, 91.0 + SOON_S)
    assert not [action for action in beat if isinstance(action, Disconnect)]
    late = membership.handle(BEAT, 91.0 + SILENCE_S + BEAT_S)
    assert [action.peer for action in late if isinstance(action, Disconnect)] == [KEYS[1]]


def test_what_breaks_when_a_device_wakes_is_dialled_at_its_next_beat():
    membership = machine()
    told(membership, presence(1))
    membership.handle(PeerUp(KEYS[1]), 0.0)
    membership.handle(Woke(90.0), 91.0)
    membership.handle(PeerDown(KEYS[1], "connection lost"), 91.1)
    assert dialled(membership.handle(BEAT, 91.0 + SOON_S)) == [(KEYS[1], ("at/1",))]


def test_a_relay_that_comes_and_goes_makes_a_device_dial_nobody():
    membership = machine()
    told(membership, presence(1))
    membership.handle(PeerUp(KEYS[1]), 0.0)
    told(membership, presence(2))
    membership.handle(PeerDown(KEYS[2], "gone"), 1.0)
    for addresses in (("at/0", "via/1"), ("at/0",), ("at/0", "via/3")):
        assert not dialled(membership.handle(Readdressed(addresses), 1.5))


def test_who_moves_tells_its_neighbours_where_it_is_now_and_looks_for_the_others():
    membership = machine(sequence=7)
    membership.handle(PeerUp(KEYS[1]), 0.0)
    told(membership, presence(2))
    membership.handle(PeerDown(KEYS[2], "gone"), 1.0)
    moved = membership.handle(Readdressed(("at/elsewhere",), moved=True), 2.0)
    ((peer, greeting),) = sent(moved, Greeting)
    said = open_frame(SWARM.id, greeting.presences[0])
    assert (peer, said.body) == (KEYS[1], Presence(8, ("at/elsewhere",)))
    assert dialled(moved) == [(KEYS[2], ("at/2",))]
    ((_, greeting),) = sent(membership.handle(PeerUp(KEYS[2]), 3.0), Greeting)
    assert open_frame(SWARM.id, greeting.presences[0]).body.addresses == ("at/elsewhere",)


def test_of_too_many_neighbours_the_idle_ones_are_let_go_and_not_taken_for_down(monkeypatch):
    monkeypatch.setattr(membership_module, "LINKS_MAX", 3)
    membership = machine(neighbours=2)
    for i in range(1, 8):
        told(membership, presence(i))
        membership.handle(PeerUp(KEYS[i]), 0.1 * i)
    now = IDLE_S + 2
    for i in range(1, 8):
        membership.heard_from(KEYS[i], now, alive=True)
    membership.heard_from(KEYS[7], now)
    gone = [a.peer for a in membership.handle(BEAT, now) if isinstance(a, Disconnect)]
    assert gone == [KEYS[i] for i in (6, 5, 4, 3)], "the youngest of the idle, as many as are too many"
    for peer in gone:
        membership.handle(PeerDown(peer, "idle"), now)
    assert not any(membership.known[peer].down for peer in gone)
    assert len(membership.neighbours) == 3


# --- a large swarm -------------------------------------------------------------------------------------------------


def test_the_view_is_bounded_and_whom_it_has_no_place_for_is_a_guest_for_a_while(monkeypatch):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 3)
    monkeypatch.setattr(membership_module, "GUESTS_MAX", 2)
    membership = machine()
    told(membership, channel_frame(Greeting(tuple(presence(i) for i in range(1, 8)))))
    assert not membership.sees_all
    assert sorted(membership.known) == KEYS[1:4]
    assert [i for i in range(1, 8) if membership.addresses_of(KEYS[i])] == [1, 2, 3, 6, 7]
    membership.handle(PeerUp(KEYS[2]), 1.0)
    membership.handle(PeerDown(KEYS[2], "gone"), 2.0)
    told(membership, presence(9), 3.0)
    assert sorted(membership.known) == [KEYS[1], KEYS[3], KEYS[9]], "who went makes room"


def test_a_guide_can_be_found_and_is_neither_dialled_nor_told_of_nor_in_the_view():
    membership = machine()
    told(membership, channel_frame(Greeting((presence(2),))))
    guides = (
        presence(0),
        presence(3, hub=True),
        presence(4),
        sign_frame(STRANGER, SWARM.id, Presence(1, ())),
    )
    assert membership.host(guides, KEYS[1], 1.0) == []
    assert sorted(membership.known) == [KEYS[2]]
    assert [i for i in range(12) if membership.reachable(KEYS[i])] == [2, 3, 4]
    assert membership.is_hub(KEYS[3])
    assert not membership.addresses_of(STRANGER.public_key)
    assert dialled(membership.handle(BEAT, 60.0)) == [(KEYS[2], ("at/2",))]


def test_a_guide_that_is_known_and_moved_is_known_where_it_is_now():
    membership = machine()
    told(membership, channel_frame(Greeting((presence(2), presence(3)))))
    actions = membership.host((presence(2, 2, "elsewhere"), presence(3, 1, "replayed")), KEYS[1], 60.0)
    assert membership.addresses_of(KEYS[2]) == ("elsewhere",)
    assert membership.addresses_of(KEYS[3]) == ("at/3",)
    assert (KEYS[2], ("elsewhere",)) in dialled(actions)


def test_guides_are_presences_and_a_newcomer_counts_them():
    membership = machine()
    with pytest.raises(PeerViolation):
        membership.host((sign_frame(PEOPLE[2], SWARM.id, AbortVote(), cohort=bytes(32)),), KEYS[1], 0.0)
    swarm = found(structs.replace(SWARM.manifest, admit="open", members=()), PEOPLE[0])
    newcomer = Membership(swarm, PEOPLE[0], Settings(("at/0",)), lambda: (3, b"digest!!"))
    raw = tuple(sign_frame(PEOPLE[i], swarm.id, Presence(1, (f"at/{i}",))) for i in range(1, 8))
    newcomer.host(raw, KEYS[1], 0.0)
    assert newcomer._census.estimate() == 8


def test_news_goes_to_a_few_neighbours_and_only_what_has_a_place_here(monkeypatch):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 3)
    membership = machine()
    for i in range(4, 12):
        membership.handle(PeerUp(KEYS[i]), 0.0)
    first, *_ = told(membership, presence(1), 1.0)[1:]
    assert first == SetTimer(("membership", "news"), 1.0 + NEWS_S)
    for i in (2, 3, 4, 5):
        told(membership, presence(i), 1.1)
    news = sent(membership.handle(TimerFired(("membership", "news")), 1.3), Greeting)
    assert len(news) == NEWS_TO_OF_MANY
    for _, greeting in news:
        assert [open_frame(SWARM.id, raw).sender for raw in greeting.presences] == KEYS[1:4]
    assert told(membership, presence(6), 2.0) == [], "nothing of a guest is handed on"


def test_a_census_tells_about_how_many_there_are_in_constant_space():
    for count in (1, 10, 300, 5000):
        here, there = Census(), Census()
        for number in range(count):
            (here if number % 3 else there).count(SWARM.id, number.to_bytes(32, "big"))
        assert here.merge(b"".join(there.least))
        assert not here.merge(b"".join(there.least)), "no news the second time"
        assert len(here.least) <= CENSUS
        assert count / 2 < here.estimate() < count * 2
    here.merge(bytes(4))
    for lie in range(100):
        here.merge(lie.to_bytes(4, "big"))
    assert here.estimate() == SIZE_MAX


def test_a_newcomer_to_a_large_swarm_knows_few_of_it_and_does_not_take_it_for_a_small_one():
    """Where nobody is listed: it heard by the census how many were counted."""
    swarm = found(structs.replace(SWARM.manifest, admit="open", members=()), PEOPLE[0])
    for count, sees_all in ((20, True), (5000, False)):
        newcomer = Membership(swarm, PEOPLE[0], Settings(("at/0",)), lambda: (3, b"digest!!"))
        counted = Census()
        for number in range(count):
            counted.count(swarm.id, number.to_bytes(32, "big"))
        newcomer.handle(PeerUp(KEYS[1]), 0.0)
        greeting = channel_frame(Greeting((), census=b"".join(counted.least)))
        newcomer.handle(open_frame(swarm.id, greeting, KEYS[1]), 0.1)
        raw = sign_frame(PEOPLE[1], swarm.id, Presence(1, ("at/1",)))
        newcomer.handle(open_frame(swarm.id, raw, KEYS[1]), 0.2)
        assert newcomer.sees_all == sees_all
        assert (newcomer.size() == 2) == sees_all
        if not sees_all:
            assert count / 2 < newcomer.size() < count * 2


def test_ones_own_presence_is_renewed_under_ascending_sequences():
    membership = machine(sequence=7)
    membership.handle(PeerUp(KEYS[1]), 0.0)
    sequences = []
    for place in range(3):
        actions = membership.handle(TimerFired(("membership", "presence")), place * PRESENCE_S)
        assert actions[0] == SetTimer(("membership", "presence"), (place + 1) * PRESENCE_S)
        ((peer, greeting),) = sent(actions, Greeting)
        assert peer == KEYS[1]
        sequences.append(open_frame(SWARM.id, greeting.presences[0]).body.sequence)
    assert sequences == [8, 9, 10]


# --- hubs ------------------------------------------------------------------------------------------------------


def test_who_is_a_hub_says_so_itself_under_its_signature():
    membership = machine(hub=True)
    ((_, greeting),) = sent(membership.handle(PeerUp(KEYS[1]), 0.0), Greeting)
    assert open_frame(SWARM.id, greeting.presences[0]).body.hub
    assert membership.is_hub(ME)
    membership = machine()
    for i in (2, 3):
        told(membership, presence(i, hub=i == 3))
    assert [i for i in range(5) if membership.is_hub(KEYS[i])] == [3]
    told(membership, presence(3, 2))
    assert not membership.is_hub(KEYS[3]), "no longer"


def test_a_guest_may_be_a_hub(monkeypatch):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 1)
    monkeypatch.setattr(membership_module, "HUBS_MAX", 0)
    membership = machine()
    for i in (1, 2, 3):
        told(membership, presence(i, hub=i == 3))
    assert sorted(membership.known) == [KEYS[1]]
    assert [i for i in range(5) if membership.is_hub(KEYS[i])] == [3]


def test_hubs_are_dialled_first():
    membership = machine(neighbours=3)
    for i in range(1, 9):
        told(membership, presence(i, hub=i in {6, 7, 8}))
    for known in membership.known.values():
        known.dial_at = 0.0
    membership._dialling.clear()
    assert {peer for peer, _ in dialled(membership.handle(BEAT, 60.0))} == set(KEYS[6:9])


def test_a_full_view_makes_room_for_a_hub_and_never_drops_a_neighbour_nor_takes_more_hubs_than_so_many(
    monkeypatch,
):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 5)
    monkeypatch.setattr(membership_module, "HUBS_MAX", 2)
    membership = machine()
    for i in range(1, 6):
        told(membership, presence(i))
    membership.handle(PeerUp(KEYS[1]), 0.0)
    assert told(membership, presence(6)) == [], "another one that is no hub is a guest"
    records = [
        record
        for a in told(membership, presence(7, hub=True))
        if isinstance(a, Persist)
        for record in a.records
    ]
    assert Drop("presence", KEYS[2]) in records
    assert sorted(membership.known) == [KEYS[i] for i in (1, 3, 4, 5, 7)]
    told(membership, presence(8, hub=True))
    told(membership, presence(9, hub=True))
    assert sorted(membership.known) == [KEYS[i] for i in (1, 4, 5, 7, 8)]
    assert membership.addresses_of(KEYS[9]), "a guest"


def test_a_view_of_neighbours_alone_has_no_room_for_a_hub_either(monkeypatch):
    monkeypatch.setattr(membership_module, "KNOWN_MAX", 3)
    membership = machine()
    for i in range(1, 4):
        told(membership, presence(i))
        membership.handle(PeerUp(KEYS[i]), 0.0)
    told(membership, presence(7, hub=True))
    assert sorted(membership.known) == KEYS[1:4]


def test_a_hub_tells_what_is_new_to_all_its_neighbours_and_keeps_more_of_them(monkeypatch):
    monkeypatch.setattr(membership_module, "LINKS_MAX", 3)
    for hub, told_of_news, kept in ((False, 2, 3), (True, 7, 7)):
        membership = machine(neighbours=2, hub=hub)
        for i in range(1, 8):
            told(membership, presence(i))
            membership.handle(PeerUp(KEYS[i]), 0.0)
        assert len(membership.links()) == told_of_news
        now = IDLE_S + 2
        for i in range(1, 8):
            membership.heard_from(KEYS[i], now, alive=True)
        gone = [a for a in membership.handle(BEAT, now) if isinstance(a, Disconnect)]
        assert len(membership.neighbours) - len(gone) == kept


# --- whom to dial ---------------------------------------------------------------------------------------------


def test_at_the_start_all_of_the_bootstrap_are_dialled_but_oneself():
    actions = machine(0, 5, 2).start(0.0)
    assert dialled(actions) == [(KEYS[2], ("at/2",)), (KEYS[5], ("at/5",))]
    assert {a.tag for a in actions if isinstance(a, SetTimer)} == {
        ("membership", "beat"),
        ("membership", "presence"),
    }


def test_a_bootstrap_device_that_is_gone_for_good_does_not_stand_in_the_way():
    membership = machine(1, 2, 3)
    membership.start(0.0)
    membership.handle(PeerUp(KEYS[3]), 0.1)
    told(membership, presence(3), now=0.1)
    told(membership, presence(7), now=0.2)
    dialled_peers = {
        peer for beat in range(1, 4) for peer, _ in dialled(membership.handle(BEAT, beat * BEAT_S))
    }
    assert {KEYS[1], KEYS[2]} <= dialled_peers, "each of the bootstrap that was never met is tried again"
    assert KEYS[7] in {peer for peer in membership.known if membership.known[peer].dial_at > 0}, (
        "and so is who is known"
    )


def test_a_bootstrap_device_is_dialled_at_most_once_a_beat_however_much_is_heard():
    membership = machine(1)
    membership.start(0.0)
    news = [told(membership, presence(i), now=0.5) for i in range(2, 9)]
    assert KEYS[1] not in {peer for actions in news for peer, _ in dialled(actions)}
    assert (KEYS[1], ("at/1",)) in dialled(membership.handle(BEAT, BEAT_S))


def test_nobody_is_dialled_when_there_are_neighbours_enough():
    membership = machine(1, 2, neighbours=2)
    for i in (3, 4):
        membership.handle(PeerUp(KEYS[i]), 0.0)
    told(membership, presence(5))
    assert dialled(membership.handle(BEAT, BEAT_S)) == []


def test_a_member_that_is_down_is_dialled_again_with_longer_and_longer_pauses_for_ever():
    membership = machine()
    for i in (5, 6, 7):
        told(membership, presence(i))
        membership.handle(PeerUp(KEYS[i]), 0.0)
    membership.handle(PeerDown(KEYS[6], "gone"), 0.0)
    dials, now = [], 0.0
    while now < 400:
        now += BEAT_S
        for i in (5, 7):
            membership.heard_from(KEYS[i], now)
        if dialled(membership.handle(BEAT, now)):
            dials.append(now)
            membership.handle(PeerDown(KEYS[6], "could not connect"), now)
    pauses = [later - earlier for earlier, later in itertools.pairwise(dials)]
    assert pauses == sorted(pauses)
    assert BACKOFF_S[1] <= pauses[-1] <= BACKOFF_S[1] + BEAT_S
    assert dials[-1] > 330
    membership.handle(PeerUp(KEYS[6]), now)
    assert membership.known[KEYS[6]].backoff_s == BACKOFF_S[0]


def cut_off_from(gone: list[int], *, still_there: list[int], neighbours: int) -> Membership:
    """Long enough ago for the pauses between two dials of one of those beyond the cut to be the longest."""
    membership = machine(neighbours=neighbours)
    for i in (*gone, *still_there):
        told(membership, presence(i))
        membership.handle(PeerUp(KEYS[i]), 0.0)
    for i in gone:
        membership.handle(PeerDown(KEYS[i], "cut"), 0.0)
        membership.known[KEYS[i]].backoff_s = BACKOFF_S[1]
        membership.known[KEYS[i]].dial_at = BACKOFF_S[1]
    return membership


@pytest.mark.parametrize("neighbours", [8, 2])
def test_who_is_cut_off_from_most_dials_one_of_them_at_each_beat_in_turn(neighbours):
    """Also who has neighbours enough on its own side: a large swarm's halves would never meet again."""
    membership = cut_off_from([3, 4, 5], still_there=[1, 2], neighbours=neighbours)
    dials = []
    for beat in range(1, 6):
        for i in (1, 2):
            membership.heard_from(KEYS[i], beat * BEAT_S)
        (found,) = dialled(membership.handle(BEAT, beat * BEAT_S))
        dials.append(found[0])
        membership.handle(PeerDown(found[0], "could not connect"), beat * BEAT_S + 5)
    assert set(dials[:3]) == {KEYS[3], KEYS[4], KEYS[5]}
    assert dials[3:] == dials[:2]


def test_when_one_from_beyond_a_cut_is_back_the_others_are_due():
    membership = cut_off_from([3, 4, 5], still_there=[1, 2], neighbours=8)
    membership.handle(PeerUp(KEYS[4]), 1.0)
    for i in (1, 2):
        membership.heard_from(KEYS[i], BEAT_S)
    assert {peer for peer, _ in dialled(membership.handle(BEAT, BEAT_S))} == {KEYS[3], KEYS[5]}


def test_who_misses_a_few_of_many_waits_until_they_are_due():
    membership = cut_off_from([5], still_there=[1, 2], neighbours=8)
    assert dialled(membership.handle(BEAT, BEAT_S)) == []
    for i in (1, 2):
        membership.heard_from(KEYS[i], BACKOFF_S[1])
    assert dialled(membership.handle(BEAT, BACKOFF_S[1])) == [(KEYS[5], ("at/5",))]


def test_links_spread_and_those_believed_up_come_first():
    membership = machine(neighbours=3)
    for i in range(1, 9):
        told(membership, presence(i))
    membership.handle(PeerUp(KEYS[1]), 0.0)
    membership.handle(PeerDown(KEYS[1], "gone"), 0.0)
    for known in membership.known.values():
        known.dial_at = 0.0
    chosen = [peer for peer, _ in dialled(membership.handle(BEAT, 60.0))]
    assert len(chosen) == 3
    assert KEYS[1] not in chosen


def test_a_presence_that_only_renews_is_not_stored_again():
    membership = machine()
    stored = [
        [a for a in told(membership, presence(4, sequence, address)) if type(a).__name__ == "Persist"]
        for sequence, address in ((1, "a"), (2, "a"), (3, "b"))
    ]
    assert [len(each) for each in stored] == [1, 0, 1]
