"""Sums that are taken back: who may, in whatever order it is heard, and what is left is as if they had never been."""

import dataclasses

import numpy as np
import pytest
from msgspec import structs

from crypto.certificates import certify
from crypto.half_aggregation import HalfAggregate
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import Put
from gossip.history.aggregate import STATE_EVERY, Verified, body_statement
from gossip.history.checkpoint import restore, state_root, take
from gossip.history.dag import Waiting
from gossip.history.fold import fold_all
from gossip.history.strikes import (
    FOUNDERS_MAX,
    NOTHING,
    STRIKERS,
    STRIKES_OF_ONE,
    Effective,
    Retraction,
    Statement,
    Strikes,
    retract,
    strike,
)
from gossip.manifest import Swarm
from gossip.quorum import pack_members
from gossip.wire import pack
from tests.histories import PEOPLE, WITH_MOMENTUM, WITHOUT_MOMENTUM, Dice, body, setting, unsigned

FOUNDER = Identity(b"founder of the tests............")
INVITERS = PEOPLE[:STRIKERS]
DEVICE = PEOPLE[9].public_key


def swarm_of(settings) -> Swarm:
    manifest = structs.replace(settings.manifest, founder=FOUNDER.public_key)
    return Swarm(settings.swarm, manifest, b"")


SETTING = setting()
SWARM = swarm_of(SETTING)


def strikes_of(*raws: bytes, find=lambda _: None) -> Strikes:
    made = Strikes(SWARM, [each.public_key for each in INVITERS].__contains__)
    for raw in raws:
        made.add(raw, find)
    return made


def by(who: Identity, since: int, device: bytes = DEVICE) -> bytes:
    return strike(who, SWARM.id, device, since)


# --- who may --------------------------------------------------------------------------------------------------


def test_the_founder_strikes_alone():
    assert strikes_of(by(FOUNDER, 7)).effective().since == {DEVICE: 7}


def test_inviters_strike_from_the_round_on_that_enough_of_them_agree_on():
    some = [by(each, since) for each, since in zip(INVITERS, (3, 9, 5), strict=True)]
    assert strikes_of(*some[: STRIKERS - 1]).effective().since == {}
    assert strikes_of(*some).effective().since == {DEVICE: 9}
    assert strikes_of(*some, by(FOUNDER, 4)).effective().since == {DEVICE: 4}


def test_nobody_else_may_and_nobody_strikes_in_anothers_name():
    with pytest.raises(PeerViolation, match="may not"):
        strikes_of(by(PEOPLE[20], 1))
    raw = by(FOUNDER, 7)
    with pytest.raises(PeerViolation, match="signature"):
        strikes_of(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(PeerViolation, match="another swarm"):
        strikes_of(strike(FOUNDER, bytes(32), DEVICE, 7))
    with pytest.raises(PeerViolation):
        strikes_of(b"\x93\x01")


def test_of_one_signer_the_earliest_round_counts_whatever_came_first():
    early, late = by(FOUNDER, 3), by(FOUNDER, 8)
    one, other = strikes_of(early, late), strikes_of(late, early)
    assert one.effective() == other.effective() == Effective({DEVICE: 3}, frozenset())
    assert one.digest() == other.digest() != strikes_of(late).digest()
    assert strikes_of().digest() == b""


def test_who_is_not_known_to_be_an_inviter_yet_is_passed_over_where_certificates_admit():
    """Its certificate may be on its way, and whoever tells of its strike has done nothing wrong."""
    manifest = structs.replace(SWARM.manifest, admit="invite")
    made = Strikes(Swarm(SWARM.id, manifest, b""), lambda _: False)
    assert not made.add(by(INVITERS[0], 1), lambda _: None)
    assert made.digest() == b""


def kept(made: Strikes) -> set[bytes]:
    return set(made.all())


@pytest.mark.parametrize("seed", range(8))
def test_each_signer_has_its_own_bound_and_what_is_left_is_the_same_in_any_order(monkeypatch, seed):
    monkeypatch.setattr("gossip.history.strikes.FOUNDERS_MAX", 4)
    monkeypatch.setattr("gossip.history.strikes.STRIKES_OF_ONE", 3)
    dice = Dice("bounds", seed)
    said = [by(who, 1 + dice.below(5), each.public_key) for who in INVITERS for each in PEOPLE[10:17]]
    said += [by(FOUNDER, 2, each.public_key) for each in PEOPLE[20:24]]
    one, other = strikes_of(*dice.shuffled(said)), strikes_of(*dice.shuffled(said))
    assert kept(one) == kept(other)
    assert (one.digest(), one.effective()) == (other.digest(), other.effective())
    assert len(one) == 3 * len(INVITERS) + 4, "however much inviters say, the founder's have their place"
    assert {each.public_key for each in PEOPLE[20:24]} <= set(one.effective().since)
    assert (FOUNDERS_MAX, STRIKES_OF_ONE) == (1024, 64)


def test_what_is_pushed_out_leaves_the_disk(monkeypatch):
    monkeypatch.setattr("gossip.history.strikes.STRIKES_OF_ONE", 2)
    made, disk = strikes_of(), {}
    for each in reversed(PEOPLE[10:17]):
        for record in made.add(by(INVITERS[0], 1, each.public_key), lambda _: None):
            if isinstance(record, Put):
                disk[record.key] = record.value
            else:
                del disk[record.key]
    assert set(disk.values()) == kept(made) == {by(INVITERS[0], 1, PEOPLE[at].public_key) for at in (10, 11)}


# --- retractions ----------------------------------------------------------------------------------------------


def taking_back(known: Verified, places: list[int], domain: str = "retract") -> bytes:
    [part] = known.body.parts
    people = {who.public_key: who for who in PEOPLE}
    stated = body_statement(SWARM.id, part.roster, known.id)
    votes = {place: people[part.members[place]].sign(domain, stated) for place in places}
    half = HalfAggregate(*certify(domain, stated, list(part.members), votes))
    return retract(SWARM.id, known.id, pack_members(places, len(part.members)), half)


def test_a_threshold_of_its_own_cohort_takes_a_sum_back():
    known = unsigned(body(SETTING, []))
    made = strikes_of(taking_back(known, [0, 1, 3]), find={known.id: known}.get)
    assert made.effective() == Effective({}, frozenset({known.id}))
    assert made.effective().takes_out(known)
    assert not made.add(taking_back(known, [0, 1, 2]), {known.id: known}.get), "known, whoever signed"


def test_fewer_or_signatures_under_the_sum_itself_take_nothing_back():
    known = unsigned(body(SETTING, []))
    find = {known.id: known}.get
    for raw in (taking_back(known, [0, 1]), taking_back(known, [0, 1, 2], domain="body")):
        with pytest.raises(PeerViolation, match="threshold"):
            strikes_of(raw, find=find)


def test_a_sum_that_is_not_held_is_not_taken_back_yet():
    known = unsigned(body(SETTING, []))
    made = strikes_of(taking_back(known, [0, 1, 2]))
    assert made.effective() == NOTHING
    assert made.digest() == b"", "so that neighbours say it again"
    with pytest.raises(PeerViolation):
        made.add(
            pack(Statement(2, pack(Retraction(SWARM.id, known.id, b"\xff\xff", bytes(64), bytes(32))))),
            {known.id: known}.get,
        )


# --- the fold -------------------------------------------------------------------------------------------------


def written(settings, rounds: int, seed: int):
    """A chain of rounds with two sums each, of cohorts that change."""
    dice, parents, made = Dice("strikes", seed), [], []
    for round_ in range(rounds):
        cohorts = dice.shuffled(range(8))[:2]
        here = [
            unsigned(
                body(
                    settings,
                    parents,
                    cohorts=[cohort],
                    sums=dice.integers(-20, 20, values(settings, round_ + 1)),
                )
            )
            for cohort in cohorts
        ]
        made += here
        parents = here
    return made


def values(settings, round_: int) -> int:
    from gossip.codec.lowrank import values_in

    if settings.manifest.compression.codec == "lowrank":
        return values_in(settings.layout, settings.manifest.compression.rank, round_)
    return settings.layout.parameters


CASES = pytest.mark.parametrize(
    ("schedule", "codec", "tensors"),
    [
        (WITHOUT_MOMENTUM, "dense", ((10, 0), (7, 1), (3, 0))),
        (WITH_MOMENTUM, "dense", ((10, 0), (7, 1), (3, 0))),
        (WITH_MOMENTUM, "lowrank", ((40, 0, 8), (30, 0, 6), (3, 0))),
    ],
    ids=["plain", "momentum", "factors"],
)


@CASES
@pytest.mark.parametrize("seed", range(6))
def test_in_any_order_what_is_struck_is_as_if_it_did_not_count(schedule, codec, tensors, seed):
    settings = setting(schedule=schedule, codec=codec, tensors=tensors)
    aggregates, dice = written(settings, 12, seed), Dice("order", seed)
    out = Effective({aggregates[5].contributors[0]: 3}, frozenset({aggregates[2].id}))
    when = {dice.below(len(aggregates) + 1) for _ in range(2)}
    history, replica = settings.history(), settings.replica()
    for place, known in enumerate([*dice.shuffled(aggregates), None]):
        if place in when:
            replica.apply(history.take_back(out, b"by some"), history.round)
        if known is not None:
            added = history.add(known)
            if not isinstance(added, Waiting):
                replica.apply(added.changes, history.round)
    assert history.wanted() == ()
    rounds = [
        [
            dataclasses.replace(
                known, origin=history.get(known.body.basis).body if known.body.basis else None
            )
            for known in history.counting(round_)
        ]
        for round_ in range(1, 13)
    ]
    assert not any(out.takes_out(known) for counted in rounds for known in counted)
    expected = fold_all(settings.initial, rounds, settings.layout, settings.manifest)
    assert np.array_equal(replica.x, expected.x)
    assert np.array_equal(replica.v, expected.v)
    assert sum(map(len, rounds)) == len(aggregates) - sum(map(out.takes_out, aggregates))


def test_what_is_known_shows_in_the_digest():
    history, other = SETTING.history(), SETTING.history()
    for known in written(SETTING, 3, 0):
        history.add(known)
        other.add(known)
    assert history.digest() == other.digest()
    history.take_back(NOTHING, b"statements that take nothing out yet")
    assert history.digest() != other.digest()


def test_a_state_is_of_the_ancestors_as_if_nothing_had_been_taken_back():
    """Or a cohort whose members have not all heard of a strike could not agree."""
    aggregates = written(SETTING, 8, 1)
    history, replica = SETTING.history(), SETTING.replica()
    for known in aggregates:
        replica.apply(history.add(known).changes, history.round)
    parents = [known.id for known in aggregates[-2:]]
    before = take(history, replica, parents, SETTING.swarm)
    out = Effective({aggregates[0].contributors[0]: 1}, frozenset())
    replica.apply(history.take_back(out, b"."), history.round)
    assert not np.array_equal(replica.x, np.frombuffer(before.x, "<i8"))
    assert take(history, replica, parents, SETTING.swarm) == before


def test_a_checkpoint_that_hides_what_is_to_be_taken_out_is_not_enough():
    aggregates = written(SETTING, STATE_EVERY - 1, 2)
    history, replica = SETTING.history(), SETTING.replica()
    for known in aggregates:
        replica.apply(history.add(known).changes, history.round)
    taken = take(history, replica, [known.id for known in aggregates[-2:]], SETTING.swarm)
    signed = unsigned(body(SETTING, aggregates[-2:], state=state_root(taken)))
    based, _ = restore(taken, signed, SETTING.manifest, SETTING.layout, SETTING.initial)
    before = based.digest()
    assert isinstance(based.take_back(Effective({DEVICE: 3}, frozenset()), b"."), Waiting)
    hidden = aggregates[3]
    assert isinstance(based.take_back(Effective({}, frozenset({hidden.id})), b"."), Waiting)
    assert based.digest() == before
    assert based.take_back(Effective({DEVICE: STATE_EVERY}, frozenset()), b".") == (), "of what came after it"
