"""Who belongs, who lives, and whom this device dials: the machine is told what happened, and says what to do."""

import itertools

import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip import membership as membership_module
from gossip.errors import PeerViolation
from gossip.events import Dial, Disconnect, PeerDown, PeerUp, Publish, Report, Send, SetTimer, TimerFired
from gossip.membership import BACKOFF_S, BEAT_S, PRESENCE_S, PRESENCE_TTL_S, SILENCE_S, Membership, Settings
from gossip.messages import Alive, Greeting, Presence, open_frame, sign_frame
from tests.simulation.harness import tiny_swarm

PEOPLE = sorted(
    (Identity(digest("device", bytes([i, 1]))) for i in range(12)), key=lambda who: who.public_key
)
KEYS = [who.public_key for who in PEOPLE]
ME = KEYS[0]
SWARM = tiny_swarm(PEOPLE[0], KEYS)
STRANGER = Identity(bytes([77] * 32))
BEAT = TimerFired(("membership", "beat"))


def machine(*bootstrap: int, neighbours: int = 8, sequence: int = 7) -> Membership:
    known = tuple((KEYS[i], (f"at/{i}",)) for i in bootstrap)
    settings = Settings(("at/0",), known, neighbours=neighbours, sequence=sequence)
    return Membership(SWARM, PEOPLE[0], settings, lambda: (3, b"digest!!"))


def presence(i: int, sequence: int = 1, *addresses: str) -> bytes:
    return sign_frame(PEOPLE[i], SWARM.id, Presence(sequence, addresses or (f"at/{i}",)))


def told(membership: Membership, raw: bytes, now: float = 0.0) -> list[object]:
    return membership.handle(open_frame(SWARM.id, raw), now)


def dialled(actions: list[object]) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(action.peer, action.addresses) for action in actions if isinstance(action, Dial)]


def sent(actions: list[object], kind: type) -> list[tuple[bytes, object]]:
    opened = [(a.peer, open_frame(SWARM.id, a.data).body) for a in actions if isinstance(a, Send)]
    return [(peer, body) for peer, body in opened if isinstance(body, kind)]


# --- who belongs ----------------------------------------------------------------------------------------------


def test_only_members_become_neighbours():
    membership = machine()
    (refused,) = membership.handle(PeerUp(STRANGER.public_key), 0.0)
    assert isinstance(refused, Disconnect)
    assert membership.neighbours == {}
    assert membership.belongs(KEYS[3])
    assert not membership.belongs(STRANGER.public_key)


def test_a_new_neighbour_is_greeted_with_all_presences_and_a_heartbeat():
    membership = machine()
    for i in (2, 3):
        told(membership, presence(i))
    actions = membership.handle(PeerUp(KEYS[1]), 0.0)
    ((_, greeting),) = sent(actions, Greeting)
    senders = [open_frame(SWARM.id, raw).sender for raw in greeting.presences]
    assert senders[0] == ME
    assert sorted(senders) == sorted([ME, KEYS[2], KEYS[3]])
    assert sent(actions, Alive) == [(KEYS[1], Alive(3, b"digest!!"))]
    again = membership.handle(PeerUp(KEYS[1]), 1.0)
    assert not [a for a in again if isinstance(a, Report)], "a second connection is no news"


def test_a_greeting_tells_of_others_and_nobody_speaks_for_somebody_else():
    membership = machine()
    greeting = Greeting((presence(1), presence(2), presence(3)))
    told(membership, sign_frame(PEOPLE[1], SWARM.id, greeting))
    assert sorted(membership.known) == KEYS[1:4]
    bad = Greeting((sign_frame(PEOPLE[1], SWARM.id, Alive(1, bytes(8))),))
    with pytest.raises(PeerViolation, match="something else than presences"):
        told(membership, sign_frame(PEOPLE[1], SWARM.id, bad))


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


def test_every_neighbour_gets_every_beat():
    membership = machine()
    for i in (3, 1):
        membership.handle(PeerUp(KEYS[i]), 0.0)
    assert [peer for peer, _ in sent(membership.handle(BEAT, BEAT_S), Alive)] == [KEYS[1], KEYS[3]]


def test_ones_own_presence_is_renewed_under_ascending_sequences():
    membership = machine(sequence=7)
    sequences = []
    for place in range(3):
        timer, published = membership.handle(TimerFired(("membership", "presence")), place * PRESENCE_S)
        assert timer == SetTimer(("membership", "presence"), (place + 1) * PRESENCE_S)
        assert isinstance(published, Publish)
        sequences.append(open_frame(SWARM.id, published.data).body.sequence)
    assert sequences == [8, 9, 10]


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
    told(membership, presence(6))
    membership.handle(PeerUp(KEYS[6]), 0.0)
    membership.handle(PeerDown(KEYS[6], "gone"), 0.0)
    dials, now = [], 0.0
    while now < 400:
        now += BEAT_S
        if dialled(membership.handle(BEAT, now)):
            dials.append(now)
            membership.handle(PeerDown(KEYS[6], "could not connect"), now)
    pauses = [later - earlier for earlier, later in itertools.pairwise(dials)]
    assert pauses == sorted(pauses)
    assert pauses[-1] <= BACKOFF_S[1] + BEAT_S
    assert dials[-1] > 330
    membership.handle(PeerUp(KEYS[6]), now)
    assert membership.known[KEYS[6]].backoff_s == BACKOFF_S[0]


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
