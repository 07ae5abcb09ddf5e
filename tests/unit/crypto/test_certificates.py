import pytest

from crypto.certificates import certify, statement_holds
from crypto.half_aggregation import HalfAggregate
from crypto.identity import Identity

DOMAIN, MESSAGE = "seal", b"cohort 7 is sealed"
DEVICES = [Identity(bytes([number]) * 32) for number in range(5)]
MEMBERS = [device.public_key for device in DEVICES]


def single(*indices):
    return {index: DEVICES[index].sign(DOMAIN, MESSAGE) for index in indices}


def signed_by(*indices):
    """Signers and what they signed."""
    return sorted(indices), certify(DOMAIN, MESSAGE, MEMBERS, single(*indices))


def test_a_statement_takes_its_threshold():
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed_by(0, 2, 4), 4)
    assert statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed_by(0, 2, 3, 4), 4)
    assert statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed_by(0, 1, 2, 3, 4), 4)


def test_it_certifies_one_message_in_one_domain():
    signed = signed_by(0, 1, 2, 3)
    assert statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed, 4)
    assert not statement_holds("abort", MESSAGE, MEMBERS, *signed, 4)
    assert not statement_holds(DOMAIN, MESSAGE + b"!", MEMBERS, *signed, 4)


def test_the_order_in_which_signatures_came_does_not_matter():
    came = dict(sorted(single(0, 1, 2, 3).items(), reverse=True))
    assert certify(DOMAIN, MESSAGE, MEMBERS, came) == signed_by(0, 1, 2, 3)[1]


def test_nothing_is_certified_with_one_bad_signature():
    good = single(0, 1, 2, 3)
    for bad in (bytes(64), good[0]):
        with pytest.raises(ValueError, match="signature 4 does not hold"):
            certify(DOMAIN, MESSAGE, MEMBERS, {**good, 4: bad})


def test_one_bad_signature_spoils_a_certificate_that_has_enough_good_ones():
    signers, good = signed_by(0, 1, 2, 3)
    foreign = signed_by(4)[1].commitments
    for more in (bytes(32), good.commitments[:32], foreign):
        spoiled = HalfAggregate(good.commitments + more, good.scalar)
        assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [*signers, 4], spoiled, 4)


def test_signers_are_places_in_the_roster_and_each_is_there_once():
    everybody = signed_by(0, 1, 2, 3, 4)[1]
    last = MEMBERS[4:]
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [0, 1, 2, 3, -1], everybody, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [0, 1, 2, 3, 5], everybody, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [0, 1, 2, 3], everybody, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [0, 1, 2, 4, 3], everybody, 4)
    mine = single(4)[4]
    twice = certify(DOMAIN, MESSAGE, last * 2, {0: mine, 1: mine})
    assert not statement_holds(DOMAIN, MESSAGE, last, [0, 0], twice, 1)


def test_a_key_that_a_roster_names_twice_counts_once():
    members = [MEMBERS[0], MEMBERS[0], MEMBERS[1]]
    mine = DEVICES[0].sign(DOMAIN, MESSAGE)
    twice = certify(DOMAIN, MESSAGE, members, {0: mine, 1: mine})
    assert statement_holds(DOMAIN, MESSAGE, members, [0, 1], twice, 1)
    assert not statement_holds(DOMAIN, MESSAGE, members, [0, 1], twice, 2)


def test_a_threshold_below_one_proves_nothing():
    nothing = HalfAggregate(b"", bytes(32))
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, [], nothing, 0)
    assert not statement_holds(DOMAIN, MESSAGE, [], [], nothing, 0)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed_by(0), -1)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, *signed_by(0), 0)
