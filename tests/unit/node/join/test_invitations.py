"""Joining by code, link or knock: what both sides do, and what whoever plays false gets."""

import os

import pytest
import segno

from crypto.identity import Identity, peer_id
from gossip.errors import PeerViolation
from gossip.wire import pack
from node.join import frames, pake
from node.join.codes import KNOCK, LINK_CHARACTERS_MAX, CodeError, Secret, code_text, read_secret
from node.join.conversation import (
    Answered,
    Certified,
    Certify,
    Closed,
    End,
    Heard,
    Opened,
    Passed,
    Say,
    Tell,
    Watched,
    Withdrawn,
)
from node.join.frames import DECIDE_S, NotJoined, Proof, Share
from node.join.inviter import (
    ATTEMPTS_A_HOST,
    ATTEMPTS_A_MINUTE,
    INVITATIONS_MAX,
    KNOCKS_MAX,
    LEASE_S,
    STEP_S,
    TALKS_MAX,
    Inviter,
    TooManyInvitations,
)
from node.join.joiner import Admitted, Agreed, Answer, Joiner, Offered, OtherSwarmInvited
from node.join.words import WORDS

ADA, BOB, EVE = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
SWARM, MANIFEST, CHAIN = b"\x11" * 32, b"the manifest", (b"founder", b"bob")
WHERE = f"/ip4/192.168.1.5/tcp/4001/p2p/{ADA.peer_id}"


class World:
    """Ada invites; the others talk to her, each over a line of its own."""

    def __init__(self, *, knocks=False):
        self.now = 0.0
        self.inviter = Inviter(
            me=ADA.public_key, swarm=SWARM, manifest=MANIFEST, knocks=knocks, entropy=os.urandom
        )
        self.told, self.lines = [], 0
        self.said = {}  # by talk, what Ada said and nobody took yet
        self.certify = []
        self.ended = []

    def invite(self, uses=1, ttl_s=600.0):
        return self.inviter.invite(ttl_s, uses, self.now)

    def tell(self, event):
        for action in self.inviter.handle(event, self.now):
            match action:
                case Say(talk, data):
                    self.said.setdefault(talk, []).append(data)
                case End(talk):
                    self.ended.append(talk)
                case Certify():
                    self.certify.append(action)
                case Tell():
                    self.told.append(action)

    def open(self, peer=BOB, host="192.168.1.9"):
        self.lines += 1
        self.tell(Opened(self.lines, peer.public_key, host))
        return self.lines

    def wait(self, seconds):
        self.now += seconds
        self.tell(Passed())

    def what(self):
        return [each.what for each in self.told]


class Guest:
    """A joiner and its line to Ada. Raises what its machine raises."""

    def __init__(self, world, secret, *, me=BOB, name="bobs laptop", host="192.168.1.9", **more):
        self.world = world
        self.joiner = Joiner(
            me=me.public_key, inviter=ADA.public_key, secret=secret, name=name, entropy=os.urandom, **more
        )
        self.talk = world.open(me, host)
        self.got = []
        world.tell(Heard(self.talk, self.joiner.hello()))

    def read(self):
        """Take everything that Ada has said, and answer, until nothing more comes."""
        while said := self.world.said.get(self.talk):
            for action in self.joiner.heard(said.pop(0)):
                self.got.append(action)
                if isinstance(action, Answer):
                    self.world.tell(Heard(self.talk, action.data))
        return self

    def step(self):
        """Take one frame, and send the answer."""
        for action in self.joiner.heard(self.world.said[self.talk].pop(0)):
            self.got.append(action)
            if isinstance(action, Answer):
                self.world.tell(Heard(self.talk, action.data))

    def of(self, kind):
        return [each for each in self.got if isinstance(each, kind)]


def code_of(invitation):
    return read_secret(invitation.code)


def wrong_code(invitation):
    other = next(word for word in WORDS if word != invitation.words[0])
    return read_secret(code_text(invitation.number, (other, invitation.words[1])))


def join(world, secret, *, me=BOB, **more):
    guest = Guest(world, secret, me=me, **more).read()
    world.tell(Answered(guest.talk, allow=True))
    assert world.certify.pop() == Certify(guest.talk, me.public_key)
    world.tell(Certified(guest.talk, CHAIN))
    guest.read()
    world.tell(Heard(guest.talk, guest.joiner.stored()))
    return guest


def relay(world, talk, joiner):
    """Carry every byte between Ada and a machine that believes in another line than this."""
    while world.said[talk]:
        for action in joiner.heard(world.said[talk].pop(0)):
            assert isinstance(action, Answer)
            world.tell(Heard(talk, action.data))


def denied(world, secret, **more):
    with pytest.raises(NotJoined) as caught:
        Guest(world, secret, **more).read()
    return caught.value.why


@pytest.mark.parametrize("way", ["code", "link"])
def test_a_person_allows_who_knows_the_code(way):
    world = World()
    invitation = world.invite()
    guest = Guest(
        world, code_of(invitation) if way == "code" else read_secret(invitation.link([WHERE]))
    ).read()
    [asked] = world.told
    assert (asked.what, asked.name, asked.peer) == ("asks", "bobs laptop", BOB.public_key)
    assert guest.of(Agreed) == [Agreed(asked.word)]
    assert guest.of(Offered) == [Offered(MANIFEST)]
    assert not guest.of(Admitted)
    assert not world.certify
    world.tell(Answered(guest.talk, allow=True))
    world.tell(Certified(guest.talk, CHAIN))
    assert guest.read().of(Admitted) == [Admitted(CHAIN)]
    world.tell(Heard(guest.talk, guest.joiner.stored()))
    assert world.what() == ["asks", "allowed", "joined", "ended"]
    assert world.told[-1].why == "used"
    assert world.ended == [guest.talk]
    assert not world.inviter.busy


def test_nothing_secret_is_said_before_both_have_proven_the_key():
    world = World()
    guest = Guest(world, code_of(world.invite()))
    for _ in range(3):  # WELCOME, SHARE, PROOF
        [data] = world.said[guest.talk]
        assert MANIFEST not in data
        guest.step()
    sealed = world.said[guest.talk]
    assert len(sealed) == 1
    assert MANIFEST not in sealed[0]
    assert b"bobs laptop" not in b"".join(each.data for each in guest.of(Answer))


def test_one_wrong_guess_burns_the_code():
    world = World()
    invitation = world.invite(uses=5)
    right, wrong = code_of(invitation), wrong_code(invitation)
    assert denied(world, wrong, me=EVE) == "wrong"
    assert denied(world, right) == "burnt"
    assert world.what() == ["wrong", "ended"]
    assert not world.inviter.busy


def test_guesses_side_by_side_are_one_guess():
    """Every run begins before the first one ends: still only one proof is looked at."""
    world = World()
    invitation = world.invite()
    guests = [Guest(world, wrong_code(invitation), me=EVE), Guest(world, code_of(invitation))]
    for guest in guests:
        guest.step()
        guest.step()
    for guest, why in zip(guests, ("wrong", "burnt"), strict=True):
        with pytest.raises(NotJoined) as caught:
            guest.read()
        assert caught.value.why == why


def test_a_second_guess_is_not_looked_at_while_a_guest_waits_for_an_answer():
    """The invitation is kept for the guest that waits: burnt all the same."""
    world = World()
    invitation = world.invite(uses=3)
    waiting = Guest(world, code_of(invitation)).read()
    guesses = [
        Guest(world, wrong_code(invitation), me=EVE),
        Guest(world, code_of(invitation), me=Identity(bytes(32))),
    ]
    for guess in guesses:
        guess.step()
    for guess, why in zip(guesses, ("wrong", "burnt"), strict=True):
        with pytest.raises(NotJoined) as caught:
            guess.read()
        assert caught.value.why == why
    assert waiting.talk not in world.ended


def test_a_run_that_breaks_off_costs_nothing():
    world = World()
    invitation = world.invite()
    guest = Guest(world, wrong_code(invitation), me=EVE)
    guest.step()  # it has the inviter's share, and shows no proof
    world.tell(Closed(guest.talk))
    assert join(world, code_of(invitation)).of(Admitted)


def test_a_wrong_link_burns_nothing():
    world = World()
    invitation = world.invite()
    right = read_secret(invitation.link([WHERE]))
    assert denied(world, Secret("link", right.number, bytes(16)), me=EVE) == "wrong"
    assert join(world, right).of(Admitted)


def test_a_code_is_no_links_password():
    world = World()
    invitation = world.invite()
    right = code_of(invitation)
    assert denied(world, Secret("link", right.number, right.password)) == "wrong"


def test_an_invitation_is_used_as_often_as_it_says():
    world = World()
    invitation = world.invite(uses=2)
    join(world, code_of(invitation))
    join(world, code_of(invitation), me=EVE)
    assert denied(world, code_of(invitation), me=Identity(bytes(32))) == "used"
    assert world.told[-1].why == "used"


def test_two_who_wait_for_one_use():
    world = World()
    invitation = world.invite()
    one, two = Guest(world, code_of(invitation)).read(), Guest(world, code_of(invitation), me=EVE).read()
    world.tell(Answered(one.talk, allow=True))
    world.tell(Answered(two.talk, allow=True))
    assert [each.peer for each in world.certify] == [BOB.public_key]
    with pytest.raises(NotJoined, match="used as often"):
        two.read()


def test_who_was_allowed_and_lost_the_line_comes_again_unasked():
    world = World()
    invitation = world.invite()
    guest = Guest(world, code_of(invitation)).read()
    world.tell(Answered(guest.talk, allow=True))
    world.tell(Certified(guest.talk, CHAIN))
    world.tell(Closed(guest.talk))
    again = Guest(world, code_of(invitation)).read()
    assert world.certify[-1] == Certify(again.talk, BOB.public_key)
    assert denied(world, code_of(invitation), me=EVE) == "used"
    world.tell(Certified(again.talk, CHAIN))
    assert again.read().of(Admitted) == [Admitted(CHAIN)]
    assert world.what().count("asks") == 1


def test_an_invitation_expires_and_says_so():
    world = World()
    invitation = world.invite(ttl_s=60.0)
    world.now = 60.0
    assert denied(world, code_of(invitation)) == "expired"
    world.wait(0)
    assert (world.told[-1].what, world.told[-1].why) == ("ended", "expired")
    assert denied(world, code_of(invitation)) == "expired"


def test_who_has_proven_the_code_in_time_may_wait_for_a_person():
    world = World()
    guest = Guest(world, code_of(world.invite(ttl_s=60.0))).read()
    world.wait(61)
    world.tell(Answered(guest.talk, allow=True))
    world.tell(Certified(guest.talk, CHAIN))
    assert guest.read().of(Admitted)


def test_a_person_who_does_not_answer_is_not_waited_for_without_end():
    world = World()
    guest = Guest(world, code_of(world.invite(ttl_s=DECIDE_S))).read()
    world.wait(DECIDE_S)
    with pytest.raises(NotJoined, match="nobody there answered"):
        guest.read()
    assert not world.inviter.busy


def test_an_invitation_that_nobody_watches_is_withdrawn():
    world = World()
    invitation = world.invite()
    world.wait(LEASE_S - 1)
    world.tell(Watched(invitation.number))
    world.wait(LEASE_S - 1)
    assert world.inviter.busy
    world.wait(1)
    assert denied(world, code_of(invitation)) == "withdrawn"


def test_withdrawing_sends_away_who_waits():
    world = World()
    invitation = world.invite()
    guest = Guest(world, code_of(invitation)).read()
    world.tell(Withdrawn(invitation.number))
    with pytest.raises(NotJoined, match="withdrawn"):
        guest.read()
    world.tell(Answered(guest.talk, allow=True))
    assert not world.certify


def test_a_refusal_is_told_and_the_invitation_stays():
    world = World()
    invitation = world.invite()
    guest = Guest(world, code_of(invitation), me=EVE).read()
    world.tell(Answered(guest.talk, allow=False))
    with pytest.raises(NotJoined, match="refused"):
        guest.read()
    assert join(world, code_of(invitation)).of(Admitted)


def test_a_device_that_may_admit_nobody_says_so_and_loses_no_use():
    world = World()
    invitation = world.invite()
    guest = Guest(world, code_of(invitation)).read()
    world.tell(Answered(guest.talk, allow=True))
    world.tell(Certified(guest.talk, ()))
    with pytest.raises(NotJoined, match="admit nobody more"):
        guest.read()
    assert join(world, code_of(invitation)).of(Admitted)


# --- whoever plays false ---------------------------------------------------------------------------------------------


def test_a_man_in_the_middle_who_relays_every_byte_gets_nothing():
    """Eve stands between: Bob has proven his key to Eve, Eve hers to Ada. The code is right on both ends."""
    world = World()
    invitation = world.invite()
    bob = Joiner(
        me=BOB.public_key, inviter=EVE.public_key, secret=code_of(invitation), name="bob", entropy=os.urandom
    )
    talk = world.open(EVE)
    world.tell(Heard(talk, bob.hello()))
    with pytest.raises(NotJoined, match="the code is wrong"):
        relay(world, talk, bob)
    assert world.what() == ["wrong", "ended"]


def test_a_man_in_the_middle_of_a_knock_shows_another_word():
    """Each of the two is Eve's own conversation; that she cannot choose the words is the commitment's work."""
    words = set()
    for _ in range(3):
        world = World(knocks=True)
        Guest(world, KNOCK, me=EVE).read()
        other = World(knocks=True)
        Guest(other, KNOCK, me=BOB).read()
        words.add(world.told[0].word == other.told[0].word)
    assert False in words


def test_a_share_that_was_chosen_late_is_refused():
    world = World(knocks=True)
    guest = Guest(world, KNOCK)
    guest.step()
    world.said[guest.talk] = [frames.framed(Share(b"B" + bytes(31) + b"\x01"))]
    with pytest.raises(PeerViolation, match="bound to"):
        guest.read()


def test_what_is_reflected_is_refused():
    world = World()
    invitation = world.invite()
    guest = Guest(world, code_of(invitation))
    guest.step()
    mine = guest.of(Answer)[0].data
    guest.joiner._commitment = pake.commitment_to(mine[2 + 1 :])  # whatever Eve says she is bound to
    with pytest.raises(PeerViolation):
        guest.joiner.heard(mine)

    guest = Guest(world, code_of(invitation))
    guest.step()
    guest.step()
    with pytest.raises(PeerViolation, match="does not know the code"):
        guest.joiner.heard(guest.of(Answer)[-1].data)  # its own proof


def test_a_conversation_cannot_be_played_again():
    world = World()
    invitation = world.invite(uses=2)
    guest = join(world, code_of(invitation))
    talk = world.open(BOB)
    world.tell(Heard(talk, guest.joiner.hello()))
    for answer in guest.of(Answer):
        world.tell(Heard(talk, answer.data))
    assert talk in world.ended
    assert world.what().count("joined") == 1
    assert not world.certify


def test_a_joiner_that_claims_another_key_proves_nothing():
    """What Noise has proven counts: Eve runs Bob's machine over her own line."""
    world = World()
    invitation = world.invite()
    eve = Joiner(
        me=BOB.public_key, inviter=ADA.public_key, secret=code_of(invitation), name="bob", entropy=os.urandom
    )
    talk = world.open(EVE)
    world.tell(Heard(talk, eve.hello()))
    with pytest.raises(NotJoined, match="the code is wrong"):
        relay(world, talk, eve)


@pytest.mark.parametrize("name", ["\x1b[2Jroot", "a\nb", "", "x" * 65, "ä"])
def test_a_name_that_could_drive_a_terminal_is_none(name):
    world = World()
    guest = Guest(world, code_of(world.invite()), name=name).read()
    assert world.told == []
    assert guest.talk in world.ended


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff" * 40, bytes(600), pack(["hello"]), b"\x01" + pack([SWARM, SWARM])],
)
def test_what_is_no_frame_ends_the_line_and_nothing_else(data):
    world = World()
    invitation = world.invite()
    talk = world.open(EVE)
    world.tell(Heard(talk, data))
    assert world.ended == [talk]
    assert join(world, code_of(invitation)).of(Admitted)


def test_more_than_a_frame_holds_is_refused():
    world = World()
    guest = Guest(world, code_of(world.invite()))
    guest.step()
    guest.step()
    guest.step()
    world.tell(Heard(world.open(EVE), bytes([4]) + pack([bytes(600)])))
    assert world.ended


@pytest.mark.parametrize(
    "element", [b"A" + bytes(32), b"A" + b"\x02" + bytes(31), b"B" + bytes(32), b"A" + b"\xff" * 32]
)
def test_what_is_no_point_is_no_share(element):
    world = World()
    guest = Guest(world, code_of(world.invite()))
    world.tell(Heard(guest.talk, frames.framed(Share(element))))
    assert world.ended == [guest.talk]
    assert world.told == []


def test_what_is_said_while_a_person_decides_ends_it():
    world = World()
    guest = Guest(world, code_of(world.invite())).read()
    world.tell(Heard(guest.talk, frames.framed(Proof(bytes(32)))))
    assert world.what() == ["asks", "left"]


def test_strangers_are_slowed_down_and_cut_off():
    world = World()
    invitation = world.invite()
    for _ in range(ATTEMPTS_A_HOST):
        assert denied(world, Secret("code", 1000, b"x"), me=EVE, host="10.0.0.1") == "unknown"
    assert denied(world, code_of(invitation), me=EVE, host="10.0.0.1") == "busy"
    assert world.inviter._talks == {}
    for number in range(ATTEMPTS_A_MINUTE - ATTEMPTS_A_HOST):
        world.open(EVE, f"10.0.1.{number}")
    assert denied(world, code_of(invitation)) == "busy"
    assert len(world.inviter._talks) <= TALKS_MAX
    world.wait(STEP_S)  # who says nothing is gone
    assert world.inviter._talks == {}
    world.tell(Watched(invitation.number))
    world.wait(60)
    assert join(world, code_of(world.invite())).of(Admitted)


def test_as_many_invitations_as_can_be_watched():
    world = World()
    made = [world.invite() for _ in range(INVITATIONS_MAX)]
    assert len({each.number for each in made}) == INVITATIONS_MAX
    with pytest.raises(TooManyInvitations):
        world.invite()


# --- knocking -------------------------------------------------------------------------------------------------------


def test_a_knock_waits_for_a_person_and_learns_nothing_before():
    world = World(knocks=True)
    guest = Guest(world, KNOCK).read()
    [asked] = world.inviter.waiting
    assert (asked.number, asked.name, guest.of(Agreed)) == (None, "bobs laptop", [Agreed(asked.word)])
    assert not guest.of(Offered)
    world.tell(Answered(guest.talk, allow=True))
    assert not guest.read().of(Offered)
    world.tell(Certified(guest.talk, CHAIN))
    assert guest.read().of(Offered) == [Offered(MANIFEST)]
    assert guest.of(Admitted) == [Admitted(CHAIN)]
    world.tell(Heard(guest.talk, guest.joiner.stored()))
    assert world.what() == ["asks", "allowed", "joined"]


def test_where_a_code_is_needed_a_knock_is_refused():
    assert denied(World(), KNOCK) == "closed"


def test_knocks_are_few_and_end():
    world = World(knocks=True)
    for number in range(KNOCKS_MAX):
        Guest(world, KNOCK, me=Identity(bytes([9, number] * 16)), host=f"10.0.0.{number // 2}").read()
    assert denied(world, KNOCK, host="10.0.0.99") == "busy"
    assert len(world.inviter.waiting) == KNOCKS_MAX
    invitation = world.invite()
    assert Guest(world, code_of(invitation)).read().of(Agreed)  # a code has its place all the same
    world.wait(DECIDE_S)
    assert world.inviter.waiting == []


def test_two_knocks_from_one_address_and_no_more():
    world = World(knocks=True)
    for number in range(2):
        Guest(world, KNOCK, me=Identity(bytes([8, number] * 16))).read()
    assert denied(world, KNOCK, me=EVE) == "busy"


# --- the joiner ------------------------------------------------------------------------------------------------------


def test_a_home_of_another_swarm_keeps_the_code_unused():
    world = World()
    invitation = world.invite()
    with pytest.raises(OtherSwarmInvited, match="--home"):
        Guest(world, code_of(invitation), swarm=b"\x22" * 32).read()
    assert join(world, code_of(invitation), swarm=SWARM).of(Admitted)


def test_a_refusal_names_who_refused_and_what_comes_next():
    for why in frames.WORDS_OF:
        told = str(NotJoined(why, peer_id(ADA.public_key)))
        assert told.count("\n") == 0
        assert ADA.peer_id in told
        assert told.isascii()


# --- codes and links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    ["4170-maple-otter", " 4170 Maple  OTTER\n", "4170-MAPLE otter", "4170.maple.otter", "4170_maple_otter"],
)
def test_a_code_is_read_however_it_is_typed(typed):
    assert read_secret(typed) == Secret("code", 4170, b"maple-otter")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("4170-mapel-otter", 'did they say "maple"'),
        ("4170-maple", "like 4170-maple-otter"),
        ("maple-otter", "like 4170-maple-otter"),
        ("", "like 4170-maple-otter"),
        ("417-maple-otter", "like 4170-maple-otter"),
        ("4170-maple-otter-otter", "like 4170-maple-otter"),
        ("x" * 5000, "no code"),
        ("4170-maple-\x1b[2J", "one of them"),
    ],
)
def test_what_is_no_code_is_refused_before_anything_is_sent(typed, hint):
    with pytest.raises(CodeError) as caught:
        read_secret(typed)
    assert hint in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_link_says_where_and_nothing_twice():
    world = World()
    invitation = world.invite()
    places = [WHERE, f"/ip6/fd00::5/tcp/4001/p2p/{ADA.peer_id}", f"/dns4/ada.example/tcp/1/p2p/{ADA.peer_id}"]
    link = invitation.link(places)
    assert link.count(ADA.peer_id) == 1
    assert not set(link) & set(" \"<>\\^`{}|'")
    read = read_secret(f" {link}\n")
    assert (read.way, read.number, read.password) == ("link", invitation.number, invitation.secret)
    assert read.addresses == tuple(places)
    many = invitation.link([WHERE] * 50)
    assert len(many) <= LINK_CHARACTERS_MAX
    assert read_secret(many).addresses


def test_a_link_fits_a_camera():
    link = World().invite().link([WHERE])
    assert segno.make(link, error="l").version <= 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda link: link[:-20],
        lambda link: link.replace("s=", "s=AAAA"),
        lambda link: link.replace("v=1", "v=2"),
        lambda link: link.replace(ADA.peer_id, "12D3KooWnobody"),
        lambda link: link.replace("n=", "n=9"),
        lambda link: link.replace("192.168.1.5", "192.168.1.500"),
        lambda link: link.replace("join?", "leave?"),
        lambda link: link + "&a=/ip4/1.1.1.1/tcp/1" * 20,
        lambda link: link + "&x=" + "y" * 2000,
        lambda link: link.replace("&a=", f"&a=/ip4/1.1.1.1/tcp/1/p2p/{EVE.peer_id}&a="),
    ],
)
def test_a_link_that_was_changed_is_refused(spoil):
    link = World().invite().link([WHERE])
    with pytest.raises(CodeError):
        read_secret(spoil(link))


def test_the_words_are_many_short_and_far_apart():
    assert len(WORDS) >= 512
    assert len({word[:4] for word in WORDS}) == len(WORDS)
    assert all(word.isascii() and word.islower() and len(word) <= 8 for word in WORDS)
