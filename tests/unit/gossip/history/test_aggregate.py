"""What makes an aggregate valid by itself: each rule is broken once, all else being right."""

from dataclasses import dataclass

import msgspec
import pytest

from crypto.hashing import digest
from gossip.body import PARTS_MAX, RANGE_MAX, Part, aggregate_id
from gossip.codec.entropy_coding import FLAG_BYTES, PLAIN
from gossip.errors import PeerViolation
from gossip.fields import PARENTS_MAX
from gossip.history.aggregate import (
    MEMBERSHIP_OF_MANIFEST,
    Aggregate,
    Verified,
    body_statement,
    check,
    check_body,
    parse,
    size_limit,
    write,
)
from gossip.manifest import COHORT_MAX
from gossip.quorum import pack_members, read_members, spell_members, threshold, unpack_members
from gossip.wire import pack
from tests.histories import PEOPLE, body, certificate, part, roster, setting, signed, unsigned, unsound

replace = msgspec.structs.replace
SWARM = setting()
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's base point
FIRST = unsigned(body(SWARM, []))


def verdict(aggregate: Aggregate, swarm=SWARM) -> Verified:
    return check(aggregate, swarm.manifest, swarm.layout, swarm.swarm)


def test_a_signed_aggregate_survives_the_wire_and_holds():
    original = signed(body(SWARM, [FIRST], cohorts=[1], sums=-28, exponents=-24, blocks=[0, 3, 5]))
    received = parse(write(original, SWARM.manifest), SWARM.manifest, SWARM.layout)
    assert verdict(received) == Verified.of(original, SWARM.manifest)


def test_contributors_are_the_members_in_the_sum_and_nobody_else():
    [part, *_] = GOOD.parts
    some = replace(part, contributors=pack_members([0, 2], len(part.members)))
    known = Verified.of(signed(replace(GOOD, parts=(some,))), SWARM.manifest)
    assert known.contributors == (part.members[0], part.members[2])


def test_another_coding_of_the_same_sums_is_the_same_aggregate():
    original = signed(GOOD)
    plainly = replace(original, body=replace(GOOD, sums=PLAIN + GOOD.sums))
    assert parse(pack(plainly), SWARM.manifest, SWARM.layout) == original
    for sums in (GOOD.sums, PLAIN + GOOD.sums + b"\0", PLAIN + GOOD.sums[1:], PLAIN):
        with pytest.raises(PeerViolation, match="lanes: "):
            parse(pack(replace(original, body=replace(GOOD, sums=sums))), SWARM.manifest, SWARM.layout)


def test_its_id_does_not_depend_on_who_signed():
    written = body(SWARM, [FIRST])
    one, other = verdict(signed(written)), verdict(signed(written, first=1))
    assert one.aggregate != other.aggregate
    assert one == other


def test_all_members_may_sign():
    written = body(SWARM, [FIRST])
    by_key = {who.public_key: who for who in PEOPLE}
    statement = SWARM.swarm + written.parts[0].roster + aggregate_id(written)
    everybody = [by_key[key] for key in written.parts[0].members]
    verdict(Aggregate(written, (certificate(statement, everybody, range(4)),)))


def test_a_merged_sum_is_signed_by_each_of_its_rosters():
    merged = signed(body(SWARM, [FIRST], cohorts=[1, 2], sums=56))
    verdict(merged)
    with pytest.raises(PeerViolation, match="signatures of 1 rosters, not 2"):
        verdict(replace(merged, signatures=merged.signatures[:1]))
    with pytest.raises(PeerViolation, match="not signed by 3 of 4"):
        verdict(replace(merged, signatures=merged.signatures[::-1]))


@dataclass(frozen=True)
class Broken:
    name: str
    says: str
    changes: dict

    def __str__(self) -> str:
        return self.name


GOOD = body(SWARM, [FIRST], cohorts=[1])
WIDE = setting(
    lane_bits=32, levels=128, n_max=4
)  # 4 contributors of 128 levels are just within the fold's bound
KEYS = [who.public_key for who in PEOPLE]
WITHIN = [
    Broken("another swarm", "another swarm", {"swarm": bytes(32)}),
    Broken("a codec that is not the swarm's", "codec lowrank, but", {"codec": 1}),
    Broken("a basis", "a basis", {"basis": bytes(32)}),
    Broken("parents that descend", "parents must ascend", {"parents": (b"b" * 32, b"a" * 32)}),
    Broken("a parent twice", "parents must ascend", {"parents": (b"a" * 32, b"a" * 32)}),
    Broken("no parents", "0 parents in round 2", {"parents": ()}),
    Broken("parents of a first round", "1 parents in round 1", {"round": 1}),
    Broken("a state that is not due", "a state of 32 bytes in round 2", {"state": bytes(32)}),
    Broken("a state that is missing", "a state of 0 bytes in round 16", {"round": 16}),
    Broken("half a state", "a state of 16 bytes in round 16", {"round": 16, "state": bytes(16)}),
    Broken("rosters that descend", "rosters must ascend", {"parts": (part(2), part(1))}),
    Broken(
        "one roster twice", "rosters must ascend", {"parts": (part(1), replace(part(2), roster=roster(1)))}
    ),
    Broken(
        "a device in two parts",
        "a member twice",
        {
            "parts": (
                part(1),
                replace(part(2), members=tuple(sorted([*part(2).members[1:], part(1).members[0]]))),
            )
        },
    ),
    Broken("a device twice in one", "a member twice", {"parts": (replace(part(1), members=(KEYS[0],) * 4),)}),
    Broken(
        "unsorted members",
        "members must ascend",
        {"parts": (replace(part(1), members=part(1).members[::-1]),)},
    ),
    Broken("too large a cohort", "a cohort of 9, not 3 to 8", {"parts": (part(1, 9),)}),
    Broken("a membership", "a membership beyond", {"parts": (replace(part(1), membership=b"m" * 32),)}),
    Broken("too few in the sum", "2 contributors of 4, at least 3", {"parts": (part(1, 4, 2),)}),
    Broken("fewer than t in the sum", "5 contributors of 8, at least 6", {"parts": (part(1, 8, 5),)}),
    Broken(
        "a bit beyond the members",
        "does not fit 4 members",
        {"parts": (replace(part(1), contributors=b"\x1f"),)},
    ),
    Broken(
        "a byte too many", "does not fit 4 members", {"parts": (replace(part(1), contributors=b"\x0f\0"),)}
    ),
    Broken("a support too long", "support: 2 bytes for 6 blocks", {"blocks": b"\x01\0"}),
    Broken("an empty support", "no block", {"blocks": b"\0"}),
    Broken("a full support, spelt out", "all blocks spelt", {"blocks": b"\x3f"}),
    Broken("a block beyond the last", "beyond the last block", {"blocks": b"\x41"}),
    Broken("an exponent too few", "5 exponents for 6", {"exponents": bytes(5)}),
    Broken("an exponent too small", "exponent of -25", {"exponents": bytes(5) + b"\x19"}),
    Broken("a sum too few", "19 bytes of sums, not 20", {"sums": bytes(19)}),
    Broken("a sum too many", "21 bytes of sums, not 20", {"sums": bytes(21)}),
    Broken("too high a sum", r"a sum outside \+-28", {"sums": bytes(19) + b"\x1d"}),
    Broken("too low a sum", r"a sum outside \+-28", {"sums": bytes(19) + b"\x80"}),
    Broken("a weight too few", "1 weights for 2", {"weights": (1,)}),
    Broken("too much weight", "a weight above its 4 contributors", {"weights": (0, 5)}),
    Broken("a segment of two", "fewer devices than hide one another", {"weights": (4, 2)}),
    Broken("a segment of one", "fewer devices than hide one another", {"weights": (1, 4)}),
    Broken("a range too few", "2 ranges for 3", {"ranges": (0, 0)}),
    Broken("too wide a range", "a range above 4092", {"ranges": (0, 0, 4093)}),
]


@pytest.mark.parametrize("broken", WITHIN, ids=str)
def test_a_body_that_breaks_one_rule_is_refused_though_signed(broken):
    verdict(signed(GOOD))
    with pytest.raises(PeerViolation, match=broken.says):
        verdict(signed(replace(GOOD, **broken.changes)))


BEYOND_TYPES = [
    Broken("another version", "version|Invalid enum", {"version": 2}),
    Broken("round 0", ">= 1", {"round": 0}),
    Broken("a round without end", "<= 16777215", {"round": 1 << 24}),
    Broken("an unknown codec", "<= 1|< 2", {"codec": 2}),
    Broken("a ninth parent", "length <= 8", {"parents": tuple(bytes([i]) * 32 for i in range(9))}),
    Broken("no part", "length >= 1", {"parts": ()}),
    Broken("a ninth part", "length <= 8", {"parts": tuple(part(i) for i in range(9))}),
    Broken("two members", "length >= 3", {"parts": (replace(part(1), members=part(1).members[:2]),)}),
    Broken(
        "65 members",
        "length <= 64",
        {"parts": (replace(part(1), members=tuple(bytes([i]) * 32 for i in range(COHORT_MAX + 1))),)},
    ),
    Broken("a negative weight", ">= 0", {"weights": (-1, 0)}),
    Broken("a negative range", ">= 0", {"ranges": (0, 0, -1)}),
    Broken("no sums", "length >= 1", {"sums": b""}),
    Broken("a short roster", "length >= 32", {"parts": (replace(part(1), roster=b"short"),)}),
]


@pytest.mark.parametrize("broken", BEYOND_TYPES, ids=str)
def test_what_no_type_allows_does_not_parse(broken):
    parse(write(signed(GOOD), SWARM.manifest), SWARM.manifest, SWARM.layout)
    with pytest.raises(PeerViolation, match=broken.says):
        parse(
            pack(Aggregate(replace(GOOD, **broken.changes), signed(GOOD).signatures)),
            SWARM.manifest,
            SWARM.layout,
        )


def with_certificate(signers: bytes, *, count: int = 3, body_=GOOD) -> Aggregate:
    good = signed(body_).signatures[0]
    return Aggregate(body_, (replace(good, signers=signers, commitments=good.commitments[: 32 * count]),))


def signed_by(count: int) -> Aggregate:
    """By so many, from the first member on, and properly."""
    by_key = {who.public_key: who for who in PEOPLE}
    statement = body_statement(GOOD.swarm, GOOD.parts[0].roster, aggregate_id(GOOD))
    members = [by_key[key] for key in GOOD.parts[0].members]
    return Aggregate(GOOD, (certificate(statement, members, range(count)),))


@pytest.mark.parametrize(
    ("aggregate", "says"),
    [
        (with_certificate(b"\x07", count=2), "64 bytes of commitments of 3 signers"),
        (with_certificate(b"\x0f"), "96 bytes of commitments of 4 signers"),
        (with_certificate(b"\x03", count=2), "not signed by 3"),
        (signed_by(2), "not signed by 3"),
        (with_certificate(b"\x0e"), "not signed by 3"),
        (with_certificate(b"\x17"), "does not fit 4 members"),
        (Aggregate(GOOD, signed(body(SWARM, [FIRST], cohorts=[1], sums=2)).signatures), "not signed by 3"),
        (Aggregate(GOOD, signed(GOOD).signatures * 2), "signatures of 2 rosters, not 1"),
    ],
)
def test_signatures_hold_word_for_word_or_not_at_all(aggregate, says):
    with pytest.raises(PeerViolation, match=says):
        verdict(aggregate)


def test_one_bad_signature_spoils_the_good_ones():
    good = signed_by(4)
    verdict(good)
    (held,) = good.signatures
    spoiled = held.commitments[:96] + signed(GOOD).signatures[0].commitments[:32]
    with pytest.raises(PeerViolation, match="not signed by 3"):
        verdict(replace(good, signatures=(replace(held, commitments=spoiled),)))


def test_a_certificate_has_one_spelling():
    good = signed(GOOD)
    (held,) = good.signatures
    data = write(good, SWARM.manifest)
    assert parse(data, SWARM.manifest, SWARM.layout) == good
    above = (int.from_bytes(held.scalar, "little") + ORDER).to_bytes(32, "little")
    with pytest.raises(PeerViolation, match="not signed by 3"):
        verdict(replace(good, signatures=(replace(held, scalar=above),)))
    for wrong in (
        {"scalar": held.scalar + b"\0"},
        {"scalar": held.scalar[:-1]},
        {"commitments": held.commitments[:32]},
        {"commitments": bytes(32 * 33)},
    ):
        with pytest.raises(PeerViolation, match="length"):
            parse(pack(replace(good, signatures=(replace(held, **wrong),))), SWARM.manifest, SWARM.layout)


def test_a_listed_swarm_admits_its_members_and_names_each_in_one_way():
    keys = part(1).members
    closed = setting(admit="members", members=keys)
    names = spell_members(keys, closed.manifest)
    assert names == (b"\0\0", b"\0\1", b"\0\2", b"\0\3")
    assert read_members(names, closed.manifest) == keys
    written = body(closed, [FIRST], cohorts=[1])
    listed = replace(written, parts=(replace(written.parts[0], members=names),))
    stated = body_statement(listed.swarm, listed.parts[0].roster, aggregate_id(listed))
    by_key = {who.public_key: who for who in PEOPLE}
    signatures = certificate(stated, [by_key[key] for key in keys], range(4))
    verdict(Aggregate(listed, (signatures,)), closed)
    for members, why in [
        (keys, "name in this swarm is 2 bytes"),
        ((*names[:3], keys[3]), "name in this swarm is 2 bytes"),
        ((*names[:3], b"\0\4"), "does not list"),
        ((names[0], *names[:3]), "a member twice"),
        (names[::-1], "members must ascend"),
    ]:
        wrong = replace(listed, parts=(replace(listed.parts[0], members=members),))
        with pytest.raises(PeerViolation, match=why):
            verdict(Aggregate(wrong, (signatures,)), closed)


def test_an_open_swarm_names_members_by_their_keys():
    keys = part(1).members
    assert spell_members(keys, SWARM.manifest) == keys
    with pytest.raises(PeerViolation, match="name in this swarm is 32 bytes"):
        read_members([b"\0\0", *keys[1:]], SWARM.manifest)


def test_sums_that_the_fold_could_not_bear_are_refused():
    verdict(signed(body(WIDE, [FIRST], cohorts=[1], sums=512)), WIDE)
    with pytest.raises(PeerViolation, match="8 contributors of 128 levels overflow"):
        verdict(signed(body(WIDE, [FIRST], cohorts=[1, 2])), WIDE)


def test_sums_that_their_lanes_could_not_hold_are_refused():
    with pytest.raises(PeerViolation, match="20 contributors of 7 levels overflow"):
        verdict(signed(body(SWARM, [FIRST], cohorts=[1, 2, 3, 4, 5])))


def test_nothing_larger_than_a_valid_aggregate_is_even_parsed():
    data = write(signed(GOOD), SWARM.manifest)
    limit = size_limit(SWARM.manifest, SWARM.layout)
    with pytest.raises(PeerViolation, match=f"at most {limit}"):
        parse(data + bytes(limit), SWARM.manifest, SWARM.layout)


def crowd(cohort: int, size: int) -> Part:
    """All of whose members, of whom nobody has a key to sign with, are in the sum."""
    members = tuple(sorted(digest("crowd", bytes([cohort, each])) for each in range(size)))
    return Part(bytes([255, cohort]) * 16, members, MEMBERSHIP_OF_MANIFEST, pack_members(range(size), size))


@pytest.mark.parametrize(("members", "levels"), [(5, 2), (COHORT_MAX, 1)])
def test_the_largest_valid_aggregate_is_within_the_limit_and_breaks_no_rule(members, levels):
    largest = setting(tensors=[(40, 61)] * 50, lane_bits=32, levels=levels, block_size=1, n_max=members)
    many = PARTS_MAX * members
    written = replace(
        body(largest, [FIRST], sums=many * levels, weights=many, round_=1 << 20, exponents=-24),
        state=bytes(32),
        parts=tuple(crowd(each, members) for each in range(PARTS_MAX)),
        parents=tuple(bytes([each]) * 32 for each in range(PARENTS_MAX)),
        ranges=(many * RANGE_MAX,) * 50,
    )
    check_body(written, largest.manifest, largest.layout, largest.swarm)
    everybody = unsound(range(members), members)
    aggregate = Aggregate(written, (everybody,) * PARTS_MAX)
    limit = size_limit(largest.manifest, largest.layout)
    assert len(pack(aggregate)) + FLAG_BYTES <= limit
    assert parse(write(aggregate, largest.manifest), largest.manifest, largest.layout) == aggregate


@pytest.mark.parametrize(("members", "needed"), [(3, 3), (4, 3), (5, 4), (7, 6), (8, 6), (16, 12), (64, 48)])
def test_the_threshold_is_three_quarters_rounded_up(members, needed):
    assert threshold(members) == needed
    assert 2 * needed > members


def test_a_bitmap_of_members_has_one_reading():
    assert pack_members([0, 3, 8], 9) == b"\x09\x01"
    assert unpack_members(b"\x09\x01", 9) == [0, 3, 8]
    for bad in (b"\x09", b"\x09\x01\x00", b"\x09\x02", b""):
        with pytest.raises(PeerViolation, match="does not fit 9"):
            unpack_members(bad, 9)
