from crypto.certificates import statement_holds
from crypto.identity import Identity

DOMAIN, MESSAGE = "seal", b"cohort 7 is sealed"
DEVICES = [Identity(bytes([number]) * 32) for number in range(5)]
MEMBERS = [device.public_key for device in DEVICES]


def signed_by(*indices):
    return {index: DEVICES[index].sign(DOMAIN, MESSAGE) for index in indices}


def test_a_statement_takes_its_threshold():
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, signed_by(0, 2, 4), 4)
    assert statement_holds(DOMAIN, MESSAGE, MEMBERS, signed_by(0, 2, 3, 4), 4)
    assert statement_holds(DOMAIN, MESSAGE, MEMBERS, signed_by(0, 1, 2, 3, 4), 4)


def test_it_certifies_one_message_in_one_domain():
    signatures = signed_by(0, 1, 2, 3)
    assert not statement_holds("abort", MESSAGE, MEMBERS, signatures, 4)
    assert not statement_holds(DOMAIN, MESSAGE + b"!", MEMBERS, signatures, 4)


def test_one_bad_signature_spoils_a_certificate_that_has_enough_good_ones():
    good = signed_by(0, 1, 2, 3)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, {**good, 4: bytes(64)}, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, {**good, 4: good[0]}, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, {**good, 5: good[0]}, 4)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, {**good, -1: signed_by(4)[4]}, 4)


def test_a_key_that_a_roster_names_twice_counts_once():
    members = [MEMBERS[0], MEMBERS[0], MEMBERS[1]]
    mine = DEVICES[0].sign(DOMAIN, MESSAGE)
    twice = {0: mine, 1: mine}
    assert statement_holds(DOMAIN, MESSAGE, members, twice, 1)
    assert not statement_holds(DOMAIN, MESSAGE, members, twice, 2)


def test_a_threshold_below_one_proves_nothing():
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, {}, 0)
    assert not statement_holds(DOMAIN, MESSAGE, [], {}, 0)
    assert not statement_holds(DOMAIN, MESSAGE, MEMBERS, signed_by(0), -1)
