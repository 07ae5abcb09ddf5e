"""Who is relayed for, how far, and when a device seeks a relay: each step of both machines."""

import pytest

from node.net import relay
from node.net.relay import (
    CIRCUITS_OF_ONE,
    CIRCUITS_OF_PAIR,
    REACHED_S,
    RELAYED_BURST_BYTES,
    RELAYED_BYTES_PER_S,
    RELAYS_MAX,
    RESERVATION_S,
    RESERVATIONS_MAX,
    Accepted,
    Announce,
    Ask,
    Connect,
    Denied,
    Dialled,
    Due,
    Ended,
    Gone,
    Granted,
    Lost,
    Meter,
    Open,
    Refused,
    Relay,
    Reserve,
    Reserved,
    Seeker,
    Status,
)

ADA, BRUNO, ROSA, SAMI, TUVA = (bytes([number]) * 32 for number in range(1, 6))
AT = {ROSA: "/ip4/10.0.0.1/tcp/1", SAMI: "/ip4/10.0.0.2/tcp/1", TUVA: "/ip4/10.0.0.3/tcp/1"}


def peer(number):
    return number.to_bytes(32, "big")


def refused(actions, status):
    return len(actions) == 1 and isinstance(actions[0], Refused) and actions[0].status == status


# --- the relay -------------------------------------------------------------------------------------------------


def test_a_member_reserves_and_is_called_until_the_reservation_is_over():
    station = Relay()
    assert refused(station.handle(Connect(ADA, True, BRUNO), 0.0), Status.NO_RESERVATION)
    assert station.handle(Reserve(BRUNO, True), 0.0) == [Granted(BRUNO, RESERVATION_S)]
    assert station.handle(Connect(ADA, True, BRUNO), 1.0) == [Open(ADA, BRUNO)]
    assert station.handle(Reserve(BRUNO, True), 100.0) == [Granted(BRUNO, 100 + RESERVATION_S)]
    assert station.handle(Connect(ADA, True, BRUNO), RESERVATION_S + 50) == [Open(ADA, BRUNO)]
    assert refused(station.handle(Connect(ROSA, True, BRUNO), RESERVATION_S + 100), Status.NO_RESERVATION)


def test_a_reservation_lasts_no_longer_than_the_connection():
    station = Relay()
    station.handle(Reserve(BRUNO, True), 0.0)
    station.handle(Gone(BRUNO), 1.0)
    assert station.reservations == 0
    assert refused(station.handle(Connect(ADA, True, BRUNO), 2.0), Status.NO_RESERVATION)


def test_strangers_are_not_served():
    station = Relay()
    assert refused(station.handle(Reserve(BRUNO, False), 0.0), Status.PERMISSION_DENIED)
    station.handle(Reserve(BRUNO, True), 0.0)
    assert refused(station.handle(Connect(ADA, False, BRUNO), 0.0), Status.PERMISSION_DENIED)
    assert station.circuits == 0


def test_nobody_calls_itself():
    station = Relay()
    station.handle(Reserve(ADA, True), 0.0)
    assert refused(station.handle(Connect(ADA, True, ADA), 0.0), Status.MALFORMED_MESSAGE)


def test_reservations_are_bounded_and_those_there_are_renewed():
    station = Relay()
    for number in range(RESERVATIONS_MAX):
        station.handle(Reserve(peer(number), True), 0.0)
    assert refused(station.handle(Reserve(ADA, True), 1.0), Status.RESERVATION_REFUSED)
    assert station.handle(Reserve(peer(3), True), 1.0) == [Granted(peer(3), 1 + RESERVATION_S)]
    assert station.handle(Reserve(ADA, True), RESERVATION_S) == [Granted(ADA, 2 * RESERVATION_S)]
    assert station.reservations == 2


def test_circuits_of_one_member_and_of_a_pair_are_bounded_at_either_end():
    station = Relay()
    for each in (ADA, BRUNO):
        station.handle(Reserve(each, True), 0.0)
    for _ in range(CIRCUITS_OF_PAIR):
        assert station.handle(Connect(ROSA, True, BRUNO), 0.0) == [Open(ROSA, BRUNO)]
    assert refused(station.handle(Connect(ROSA, True, BRUNO), 0.0), Status.RESOURCE_LIMIT_EXCEEDED)
    for number in range(CIRCUITS_OF_ONE - CIRCUITS_OF_PAIR):
        station.handle(Connect(peer(number), True, BRUNO), 0.0)
    assert refused(station.handle(Connect(ADA, True, BRUNO), 0.0), Status.RESOURCE_LIMIT_EXCEEDED)
    assert refused(station.handle(Connect(BRUNO, True, ADA), 0.0), Status.RESOURCE_LIMIT_EXCEEDED)
    station.handle(Ended(ROSA, BRUNO), 0.0)
    assert station.handle(Connect(ADA, True, BRUNO), 0.0) == [Open(ADA, BRUNO)]


def test_circuits_are_bounded_in_all(monkeypatch):
    monkeypatch.setattr(relay, "CIRCUITS_MAX", 3)
    station = Relay()
    for number in range(10, 14):
        station.handle(Reserve(peer(number), True), 0.0)
    opened = [station.handle(Connect(peer(number - 10), True, peer(number)), 0.0) for number in range(10, 14)]
    assert [isinstance(each[0], Open) for each in opened] == [True] * 3 + [False]
    for number in range(10, 13):
        station.handle(Ended(peer(number - 10), peer(number)), 0.0)
    assert station.circuits == 0


def test_a_second_carries_no_more_than_it_may():
    meter = Meter(0.0)
    assert meter.wait_s(RELAYED_BURST_BYTES, 0.0) == 0
    assert meter.wait_s(RELAYED_BYTES_PER_S, 0.0) == 1
    assert meter.wait_s(RELAYED_BYTES_PER_S, 0.0) == 2, "who comes later waits behind"
    assert meter.wait_s(RELAYED_BYTES_PER_S, 2.0) == 1
    assert meter.wait_s(RELAYED_BURST_BYTES, 1e6) == 0
    assert meter.wait_s(1, 1e6) > 0, "no more than one burst is saved up"


# --- the device behind a router --------------------------------------------------------------------------------


def seeking(*candidates):
    seeker = Seeker()
    for each in candidates:
        seeker.handle(Dialled(each, AT[each]), 0.0)
    return seeker


def test_a_device_reserves_where_it_has_dialled_and_announces_that():
    seeker = Seeker()
    assert seeker.handle(Dialled(ROSA, AT[ROSA]), 0.0) == [Ask(ROSA)]
    assert seeker.handle(Reserved(ROSA, 3600.0), 1.0) == [Announce(((ROSA, AT[ROSA]),))]
    assert seeker.is_relay(ROSA)
    assert seeker.handle(Dialled(SAMI, AT[SAMI]), 2.0) == [Ask(SAMI)]
    assert seeker.handle(Dialled(TUVA, AT[TUVA]), 2.0) == []
    assert RELAYS_MAX == 2


def test_another_is_asked_when_one_denies_or_goes():
    seeker = seeking(ROSA, SAMI, TUVA)
    assert seeker.handle(Denied(SAMI), 1.0) == [Ask(TUVA)]
    seeker.handle(Reserved(ROSA, 3600.0), 1.0)
    seeker.handle(Reserved(TUVA, 3600.0), 1.0)
    assert seeker.handle(Lost(ROSA), 2.0) == [Announce(((TUVA, AT[TUVA]),))], "who denied is not asked again"
    assert seeker.handle(Lost(TUVA), 3.0) == [Announce(())]
    assert seeker.handle(Lost(SAMI), 3.0) == []
    assert seeker.handle(Dialled(SAMI, AT[SAMI]), 4.0) == [Ask(SAMI)], "it has come back"


def test_whom_somebody_from_afar_has_dialled_needs_no_relay():
    seeker = seeking(ROSA)
    seeker.handle(Reserved(ROSA, 3600.0), 0.0)
    assert seeker.handle(Accepted(ADA), 1.0) == [Announce(())]
    assert seeker.handle(Dialled(SAMI, AT[SAMI]), 2.0) == []
    assert seeker.handle(Reserved(SAMI, 3600.0), 2.0) == []
    assert seeker.handle(Accepted(ADA), 3.0) == []


def test_who_is_dialled_no_longer_seeks_a_relay_again():
    seeker = seeking(ROSA)
    for caller in (ADA, BRUNO):
        seeker.handle(Accepted(caller), 0.0)
    seeker.handle(Lost(ADA), 1.0)
    assert seeker.due_at == float("inf")
    seeker.handle(Lost(BRUNO), 2.0)
    assert seeker.due_at == 2 + REACHED_S
    assert seeker.handle(Due(), 1 + REACHED_S) == []
    seeker.handle(Lost(ROSA), 1 + REACHED_S)
    seeker.handle(Dialled(ROSA, AT[ROSA]), 1 + REACHED_S)
    assert seeker.handle(Due(), seeker.due_at) == [Ask(ROSA)]


def test_a_reservation_is_renewed_when_half_of_it_is_over_and_counts_meanwhile():
    seeker = seeking(ROSA)
    seeker.handle(Reserved(ROSA, 100.0), 0.0)
    assert seeker.due_at == 50
    assert seeker.handle(Due(), 50.0) == [Ask(ROSA)]
    assert seeker.is_relay(ROSA)
    assert seeker.due_at == 100
    assert seeker.handle(Reserved(ROSA, 100.0), 51.0) == []
    assert seeker.due_at == 101


@pytest.mark.parametrize("answer", [Denied(ROSA), Due()])
def test_one_that_is_not_renewed_is_no_longer_announced(answer):
    seeker = seeking(ROSA)
    seeker.handle(Reserved(ROSA, 100.0), 0.0)
    seeker.handle(Due(), 50.0)
    assert seeker.handle(answer, 100.0)[0] == Announce(())
    assert not seeker.is_relay(ROSA)


def test_an_answer_of_one_that_has_gone_means_nothing():
    seeker = seeking(ROSA)
    seeker.handle(Lost(ROSA), 1.0)
    assert seeker.handle(Reserved(ROSA, 3600.0), 2.0) == []
    assert not seeker.is_relay(ROSA)


def test_candidates_are_bounded(monkeypatch):
    monkeypatch.setattr(relay, "CANDIDATES_MAX", 4)
    seeker = Seeker()
    for number in range(10):
        seeker.handle(Dialled(peer(number), "/ip4/10.0.0.9/tcp/9"), 0.0)
    assert seeker.candidates == 4
