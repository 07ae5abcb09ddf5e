"""Chains of certificates: what holds, what ends one, and that the order in which a device is told changes nothing."""

import contextlib
import random
import sys
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.manifest import Invitations
from gossip.membership import admission as admission_module
from gossip.membership.admission import CLOCK_SLACK_S, Admission, crowd
from gossip.membership.statements import (
    SECONDS_MAX,
    Certificate,
    Refusal,
    Revocation,
    Why,
    issue,
    open_statement,
    revoke,
    statement_id,
)
from tests.simulation.harness import tiny_swarm

NOW = 1_800_000_000
YEAR = 365 * 86_400
FOUNDER, ANA, BEN, CAT, DAN, EVA, STRANGER = (Identity(digest("person", bytes([i]))) for i in range(7))
SWARM = tiny_swarm(FOUNDER, [], admit="invite", invitations=Invitations(invites_max=3, depth_max=3))


def invite(
    inviter: Identity,
    device: Identity,
    serial: int = 0,
    *,
    depth: int = 0,
    days: float = 365,
    swarm: bytes = SWARM.id,
) -> bytes:
    return issue(inviter, swarm, device.public_key, serial, NOW, NOW + round(days * 86_400), depth)


def remove(by: Identity, device: Identity) -> bytes:
    return revoke(by, SWARM.id, device.public_key)


def knowing(*statements: bytes, me: Identity = FOUNDER) -> Admission:
    admission = Admission(SWARM, me.public_key)
    admission.add(statements)
    return admission


def why(admission: Admission, device: Identity, at: int = NOW) -> Why | None:
    refused = admission.judge(device.public_key, at)
    return refused and refused.why


LINE = (invite(FOUNDER, ANA, depth=2), invite(ANA, BEN, depth=1), invite(BEN, CAT, depth=0))


def test_a_chain_leads_from_the_founder_over_the_inviters_to_a_device():
    admission = knowing(*reversed(LINE))
    assert [why(admission, who) for who in (FOUNDER, ANA, BEN, CAT, STRANGER)] == [None] * 4 + [Why.UNKNOWN]
    assert admission.chain(CAT.public_key) == LINE
    assert admission.chain(FOUNDER.public_key) == admission.chain(STRANGER.public_key) == ()
    assert {admission.line(who.public_key) for who in (ANA, BEN, CAT)} == {ANA.public_key}
    assert admission.line(FOUNDER.public_key) == FOUNDER.public_key
    assert admission.all() == sorted(who.public_key for who in (FOUNDER, ANA, BEN, CAT))


def test_a_chain_without_its_beginning_is_none_and_fills_nothing():
    admission = knowing(*LINE[1:])
    assert admission.ids() == ()
    assert why(admission, CAT) is Why.UNKNOWN
    assert admission.add(LINE) == LINE


def test_nobody_gives_as_much_as_it_has():
    admission = knowing(LINE[0], invite(ANA, BEN, depth=2), invite(FOUNDER, DAN, 1, depth=3))
    assert not admission.certified(BEN.public_key)
    assert not admission.certified(DAN.public_key)
    admission.add([*LINE[1:], invite(CAT, DAN)])
    assert not admission.certified(DAN.public_key)


def test_who_was_admitted_before_an_inviter_was_given_less_stays():
    admission = knowing(*LINE)
    admission.add([invite(FOUNDER, ANA, depth=0, days=1000)])
    assert [why(admission, who, NOW + YEAR // 2) for who in (ANA, CAT)] == [None, None]
    assert [why(admission, who, NOW + 2 * YEAR) for who in (ANA, CAT)] == [None, Why.EXPIRED]
    assert [admission.depth_left(ANA.public_key, at) for at in (NOW, NOW + 2 * YEAR, NOW + 4 * YEAR)] == [
        2,
        0,
        -1,
    ]


def test_an_inviter_has_so_many_numbers_and_the_founder_as_many_as_it_likes():
    admission = knowing(LINE[0], invite(ANA, BEN, 2), invite(ANA, CAT, 3), invite(FOUNDER, DAN, 300))
    assert [admission.certified(who.public_key) for who in (BEN, CAT, DAN)] == [True, False, True]


def test_one_number_for_two_devices_admits_neither():
    admission = knowing(LINE[0], invite(ANA, BEN, 1), invite(ANA, CAT, 2))
    admission.add([invite(ANA, DAN, 1)])
    assert [why(admission, who) for who in (ANA, BEN, DAN, CAT)] == [None, Why.TWICE, Why.TWICE, None]
    assert admission.certified(BEN.public_key)
    assert admission.add([invite(ANA, EVA, 1)]) == ()  # the proof is complete
    assert "two devices" in admission.refusal(BEN.public_key, NOW)


def test_a_device_that_an_inviter_named_twice_belongs_by_another_chain():
    admission = knowing(LINE[0], invite(ANA, BEN, 1), invite(ANA, CAT, 1), invite(FOUNDER, BEN, 9))
    assert why(admission, BEN) is None
    assert admission.line(BEN.public_key) == BEN.public_key


def test_a_certificate_ends_when_it_says_whoever_rests_on_it_too_and_a_renewal_goes_on():
    admission = knowing(invite(FOUNDER, ANA, depth=2, days=10), invite(ANA, BEN, depth=1, days=300))
    end = NOW + 10 * 86_400
    assert why(admission, BEN, end + CLOCK_SLACK_S - 1) is None
    assert admission.judge(BEN.public_key, end + CLOCK_SLACK_S) == Refusal(Why.EXPIRED, end)
    assert "expired on 20" in admission.refusal(BEN.public_key, end + CLOCK_SLACK_S)
    assert admission.certified(BEN.public_key)
    renewal = invite(FOUNDER, ANA, depth=2, days=400)
    assert admission.add([renewal]) == (renewal,)
    assert why(admission, BEN, end + CLOCK_SLACK_S) is None
    assert len(admission.ids()) == 2
    assert admission.add([invite(FOUNDER, ANA, depth=2, days=10)]) == ()


@pytest.mark.parametrize("by", [FOUNDER, ANA, BEN])
def test_whoever_is_above_a_device_may_revoke_it(by: Identity):
    admission = knowing(*LINE, remove(by, CAT))
    assert [why(admission, who) for who in (ANA, BEN, CAT)] == [None, None, Why.REVOKED]
    assert admission.certified(CAT.public_key)


@pytest.mark.parametrize("by", [CAT, DAN, STRANGER])
def test_nobody_else_may(by: Identity):
    admission = knowing(*LINE, invite(FOUNDER, DAN, 1))
    assert admission.add([remove(by, BEN)]) == ()
    assert not admission.may_revoke(by.public_key, BEN.public_key)
    assert why(admission, BEN) is None


def test_whoever_rests_on_a_revoked_device_goes_with_it():
    admission = knowing(*LINE, remove(FOUNDER, ANA))
    assert {why(admission, who) for who in (ANA, BEN, CAT)} == {Why.REVOKED}


def test_who_vouched_takes_back_its_own_word_alone():
    """Else anybody could invite an honest device unasked, and then revoke it."""
    admission = knowing(*LINE, invite(FOUNDER, DAN, 1, depth=2), invite(DAN, CAT, 0), remove(DAN, CAT))
    assert admission.may_revoke(DAN.public_key, CAT.public_key)
    assert why(admission, CAT) is None
    assert admission.chain(CAT.public_key) == LINE
    admission.add([remove(FOUNDER, CAT)])
    assert why(admission, CAT) is Why.REVOKED


def forged(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (forged(LINE[1]), "signature does not hold"),
        (forged(remove(FOUNDER, BEN)), "signature does not hold"),
        (invite(FOUNDER, BEN, swarm=bytes(32)), "another swarm"),
        (invite(BEN, BEN), "for itself"),
        (invite(FOUNDER, BEN, days=-1), "expires before"),
        (LINE[1] + b"\0", "Statement"),
        (b"", "Statement"),
    ],
)
def test_what_is_no_statement_of_this_swarm_takes_nothing_in(raw: bytes, words: str):
    admission = Admission(SWARM, FOUNDER.public_key)
    with pytest.raises(PeerViolation, match=words):
        admission.add([LINE[0], raw])
    assert admission.ids() == ()


def test_a_certificate_is_no_revocation():
    body = open_statement(SWARM.id, remove(FOUNDER, ANA)).raw
    with pytest.raises(PeerViolation):
        open_statement(SWARM.id, b"\x93\x01" + body[2:])


def test_one_line_cannot_fill_the_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission_module, "LINE_MAX", 4)
    admission = knowing(LINE[0], *(invite(ANA, who, i) for i, who in enumerate((BEN, CAT, DAN))))
    assert len(admission.ids()) == 4
    assert admission.add([remove(ANA, BEN), remove(ANA, CAT)]) == ()
    assert len(admission.add([invite(FOUNDER, EVA, 1)])) == 1


def test_the_set_has_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission_module, "STATEMENTS_MAX", 2)
    assert len(knowing(*LINE).ids()) == 2


def test_a_number_is_used_again_for_a_renewal_alone():
    admission = knowing(*LINE, invite(ANA, DAN, 2), me=ANA)
    assert admission.serial_for(BEN.public_key) == 0
    assert admission.serial_for(EVA.public_key) == 1
    assert admission.serial_for(EVA.public_key, taken=[1]) is None
    who = (FOUNDER, ANA, BEN, STRANGER)
    assert [admission.depth_left(each.public_key, NOW) for each in who] == [3, 2, 1, -1]


def test_two_sets_tell_each_other_what_the_other_lacks():
    one, other = knowing(*LINE), knowing(LINE[0], invite(FOUNDER, DAN, 5), remove(FOUNDER, ANA))
    assert one.digest() != other.digest()
    ids = one.ids()
    one.add(other.without(ids))
    other.add(one.without(ids[:0]))
    assert one.digest() == other.digest()
    assert one.ids() == other.ids()
    assert one.without(other.ids()) == ()


def test_records_put_a_renewal_in_the_place_of_what_it_renews():
    admission = knowing(*LINE)
    [old] = admission.records([LINE[0]])
    [new] = admission.records([invite(FOUNDER, ANA, depth=2, days=1000)])
    assert (old.table, old.key) == (new.table, new.key)
    assert len({put.key for put in admission.records([*LINE, remove(FOUNDER, ANA)])}) == 4


PEOPLE = (FOUNDER, ANA, BEN, CAT, DAN, EVA)
EVERYTHING = sorted(
    {
        *(
            invite(inviter, device, serial, depth=depth, days=days)
            for inviter in PEOPLE[:4]
            for place, device in enumerate(PEOPLE[1:])
            for serial in (place // 2,)
            for depth in (0, 1, 2)
            for days in (1, 300)
            if inviter is not device
        ),
        *(remove(by, device) for by in PEOPLE[:4] for device in PEOPLE[1:] if by is not device),
    }
)


@given(st.lists(st.sampled_from(EVERYTHING), max_size=40), st.randoms(use_true_random=False))
def test_any_order_gives_the_same(told: list[bytes], dice: random.Random):
    """At once, and one by one over and over, as two sets do that differ."""
    at_once = knowing(*told)
    slowly = Admission(SWARM, ANA.public_key)
    seen: set[bytes] = set()
    while True:
        order = dice.sample(told, len(told))
        news = [raw for each in order for raw in slowly.add([each])]
        certified = {who.public_key for who in PEOPLE if slowly.certified(who.public_key)}
        assert seen <= certified  # once, and always
        seen = certified
        if not news:
            break
    assert at_once.ids() == slowly.ids()
    assert at_once.digest() == slowly.digest()
    for who in PEOPLE:
        for at in (NOW, NOW + 100 * 86_400):
            assert at_once.judge(who.public_key, at) == slowly.judge(who.public_key, at)
        assert at_once.chain(who.public_key) == slowly.chain(who.public_key)


class TooManyStepsError(AssertionError):
    pass


@contextlib.contextmanager
def at_most(steps: int) -> Iterator[None]:
    """Fails as soon as so many lines of gossip/membership/admission.py have run: no clock tells how slow a machine is."""
    left = steps

    def count(_frame: FrameType, event: str, _argument: object) -> object:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise TooManyStepsError(f"more than {steps} steps")
        return count

    def enter(frame: FrameType, _event: str, _argument: object) -> object:
        return count if frame.f_code.co_filename == admission_module.__file__ else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


WIDE = tiny_swarm(FOUNDER, [], admit="invite", invitations=Invitations(invites_max=200, depth_max=4))


def ask_everything(admission: Admission, device: Identity) -> tuple[object, ...]:
    key = device.public_key
    return (
        admission.judge(key, NOW),
        admission.chain(key),
        admission.line(key),
        admission.depth_left(key, NOW),
        admission.may_revoke(STRANGER.public_key, key),
        admission.may_revoke(EVA.public_key, key),
    )


def test_a_line_that_certifies_itself_over_and_over_costs_no_search_of_all_its_chains():
    """160 certificates a generation are four million chains."""
    told = [issue(FOUNDER, WIDE.id, ANA.public_key, 0, NOW, NOW + YEAR, 3)]
    for depth, (inviter, device) in enumerate([(CAT, DAN), (BEN, CAT), (ANA, BEN)]):
        told += [
            issue(inviter, WIDE.id, device.public_key, serial, NOW, NOW + YEAR + 7 * serial % 100, depth)
            for serial in range(160)
        ]
    told.append(issue(FOUNDER, WIDE.id, EVA.public_key, 1, NOW, NOW + YEAR, 3))
    admission = Admission(WIDE, FOUNDER.public_key)
    with at_most(200_000):
        admission.add(told)
    assert len(admission.ids()) == 482
    with at_most(40_000):
        judged = ask_everything(admission, DAN)
    assert judged[0] is None
    assert judged[2:] == (ANA.public_key, 0, False, False)
    assert len(judged[1]) == 4


@pytest.mark.parametrize("spread", [0, 1])
def test_revocations_within_chains_cost_no_more_than_each_pair_of_generations(spread: int):
    """So many certificates a device, and every inviter's inviter has revoked it: no chain of theirs holds, one does."""
    n = 12
    above, middle, below = (
        [Identity(digest("league", bytes([rank, i]))) for i in range(n)] for rank in range(3)
    )
    later = NOW + 3 * YEAR
    told = [issue(FOUNDER, WIDE.id, who.public_key, i, NOW, later, 3) for i, who in enumerate(above)]
    for depth, (inviters, devices) in ((2, (above, middle)), (1, (middle, below))):
        told += [
            issue(inviter, WIDE.id, device.public_key, serial, NOW, later + spread * 60 * serial, depth)
            for inviter in inviters
            for serial, device in enumerate(devices)
        ]
    told += [issue(who, WIDE.id, DAN.public_key, n, NOW, later, 0) for who in below]
    told += [revoke(who, WIDE.id, device.public_key) for who in above for device in below]
    honest = issue(FOUNDER, WIDE.id, DAN.public_key, n, NOW, NOW + YEAR, 0)
    admission = Admission(WIDE, FOUNDER.public_key)
    admission.add(told)
    with at_most(40 * n**3):
        refused = ask_everything(admission, DAN)
    assert isinstance(refused[0], Refusal)
    assert refused[0].why is Why.REVOKED
    assert refused[3] == -1
    admission.add([honest])
    with at_most(40 * n**3):
        judged = ask_everything(admission, DAN)
    assert judged[:4] == (None, (honest,), DAN.public_key, 0)
    with at_most(2_000):
        assert admission.may_revoke(above[0].public_key, DAN.public_key)


def every_path(told: list[bytes], device: bytes, depth: int = -1) -> Iterator[list[Certificate]]:
    """All chains to a device that the statements make, with no thought of time."""
    for raw in told:
        said = open_statement(SWARM.id, raw).said
        if isinstance(said, Certificate) and said.device == device and said.depth > depth:
            if said.inviter == FOUNDER.public_key:
                yield [said]
            else:
                for path in every_path(told, said.inviter, said.depth):
                    yield [*path, said]


@given(st.lists(st.sampled_from(EVERYTHING), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_best_chain_is_the_best_of_all_that_there_are(told: list[bytes]):
    admission = knowing(*told)
    held = list(admission.without(()))
    said = [open_statement(SWARM.id, raw).said for raw in held]
    revoked = {(each.by, each.device) for each in said if isinstance(each, Revocation)}
    numbers: dict[object, set[bytes]] = {}
    for each in said:
        if isinstance(each, Certificate):
            numbers.setdefault((each.inviter, each.serial), set()).add(each.device)
    for who in PEOPLE[1:]:
        lasting, depths = [], []
        for path in every_path(held, who.public_key):
            above = {FOUNDER.public_key}
            for each in path:
                if {(by, each.device) for by in above} & revoked or len(
                    numbers[each.inviter, each.serial]
                ) > 1:
                    break
                above.add(each.device)
            else:
                lasting.append(min(each.expires_s for each in path))
                depths.append(path[-1].depth)
        chain = [open_statement(SWARM.id, raw).said.expires_s for raw in admission.chain(who.public_key)]
        if lasting:
            assert min(chain) == max(lasting)
        assert admission.belongs(who.public_key, NOW) == bool(lasting)
        assert admission.depth_left(who.public_key, NOW) == max(depths, default=-1)
        for by in PEOPLE[1:]:
            is_above = any(
                by.public_key == each.inviter for path in every_path(held, who.public_key) for each in path
            )
            assert admission.may_revoke(by.public_key, who.public_key) == (is_above and by is not who)


def people(**lines: int) -> dict[bytes, bytes]:
    """So many devices of each line."""
    return {f"{line}{i}".encode(): line.encode() for line, count in lines.items() for i in range(count)}


@pytest.mark.parametrize(
    ("members", "others", "words"),
    [
        ({"a": 1, "b": 1, "c": 1}, {}, None),  # each its own line, as where the founder invited all
        ({"a": 3}, {}, None),  # there is nobody else
        ({"a": 3}, {"b": 2}, None),
        ({"a": 3}, {"b": 9}, None),  # all others are of one line: no three could be had
        ({"a": 3}, {"b": 2, "c": 1}, "lines of invitations: 1,"),
        ({"a": 2, "b": 2}, {"b": 2, "c": 2}, "lines of invitations: 2,"),
        ({"a": 3, "b": 1}, {"b": 3, "c": 1}, "lines of invitations: 2,"),
        ({"a": 4, "b": 1, "c": 1}, {"b": 4, "c": 4}, None),  # of six, five could read the sixth
        ({"a": 10, "b": 1, "c": 1}, {"b": 9, "c": 9}, "10 of 12 members come by one line"),
        ({"a": 10, "b": 1, "c": 1}, {"b": 4, "c": 5}, None),  # too few others to wait for
    ],
)
def test_one_line_does_not_surround_a_member_where_others_could_be_chosen(
    members: dict[str, int], others: dict[str, int], words: str | None
):
    chosen = people(**members)
    line = people(**{name: members.get(name, 0) + others.get(name, 0) for name in {**members, **others}})
    found = crowd(sorted(chosen), sorted(line), line.__getitem__)
    assert (found and found.reason[: len(words or "")]) == words


def test_an_id_is_of_what_is_said():
    assert statement_id(LINE[0]) == open_statement(SWARM.id, LINE[0]).id
    assert statement_id(LINE[0]) != statement_id(LINE[1])


def test_every_time_that_may_be_said_can_be_written():
    for at_s in (0, SECONDS_MAX):
        assert "expired on" in Refusal(Why.EXPIRED, at_s).of("its")
    late = issue(FOUNDER, SWARM.id, ANA.public_key, 0, NOW, SECONDS_MAX, 0)
    assert knowing(late).refusal(ANA.public_key, SECONDS_MAX + CLOCK_SLACK_S).endswith("9999-12-31 23:59 UTC")
    with pytest.raises(PeerViolation):
        knowing(issue(FOUNDER, SWARM.id, ANA.public_key, 0, NOW, SECONDS_MAX + 1, 0))
