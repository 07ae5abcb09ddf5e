"""A home's router: which packets it lets through, as what, and for how long. Packets are built and checked here anew."""

import random
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.processes import nat
from scenarios.processes.nat import ESTABLISHED_S, TCP, TRANSITORY_S, UDP, UDP_S, Nat

OUTER = "10.213.2.1"
ADA, BRUNO = ("192.168.1.2", 4001), ("192.168.1.3", 4001)
ROSA, DALIA = ("10.213.1.1", 4001), ("10.213.3.1", 5000)
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04


def checksum(data):
    """RFC 1071, from nothing."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, target, protocol=TCP, flags=ACK, payload=b"", options=b"", summed=True, fragment=0):
    pseudo = IPv4Address(source[0]).packed + IPv4Address(target[0]).packed
    if protocol == TCP:
        segment = struct.pack("!HHIIBBHHH", source[1], target[1], 1, 2, 0x50, flags, 1000, 0, 0) + payload
        at = 16
    else:
        segment = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
        at = 6
    if summed:
        sum_ = checksum(pseudo + struct.pack("!BBH", 0, protocol, len(segment)) + segment)
        segment = segment[:at] + struct.pack("!H", sum_ or 0xFFFF) + segment[at + 2 :]
    size = 20 + len(options) + len(segment)
    header = (
        struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, size, 7, fragment, 64, protocol, 0)
        + pseudo
        + options
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def ends(data):
    header = (data[0] & 15) * 4
    ports = struct.unpack_from("!HH", data, header)
    return (str(IPv4Address(data[12:16])), ports[0]), (str(IPv4Address(data[16:20])), ports[1])


def router(dependent=False):
    return Nat(IPv4Network("192.168.1.0/24"), IPv4Address(OUTER), dependent=dependent, rng=random.Random(1))


def out(home, source, target, now=0.0, **fields):
    """The outer end as which it leaves."""
    translated = home.translated(packet(source, target, **fields), now)
    return None if translated is None else ends(translated)[0]


def back(home, source, port, now=0.0, **fields):
    """The device that gets it."""
    translated = home.translated(packet(source, (OUTER, port), **fields), now)
    return None if translated is None else ends(translated)[1]


addresses = st.integers(1, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
ports = st.integers(1, 65535)


@given(
    st.sampled_from([TCP, UDP]),
    addresses.filter(lambda address: not address.startswith("192.168.1.") and address != OUTER),
    ports,
    ports,
    st.binary(max_size=40),
    st.sampled_from([b"", b"\x01" * 4]),
)
def test_what_leaves_and_what_comes_back_has_the_checksums_that_it_would_have_anew(
    protocol, address, inner, remote, payload, options
):
    home, fields = router(), {"protocol": protocol, "payload": payload, "options": options}
    left = home.translated(packet((ADA[0], inner), (address, remote), **fields), 0.0)
    (outer, port), target = ends(left)
    assert outer == OUTER
    assert target == (address, remote)
    assert left == packet((OUTER, port), (address, remote), **fields)
    came = home.translated(packet((address, remote), (OUTER, port), **fields), 1.0)
    assert came == packet((address, remote), (ADA[0], inner), **fields)


def test_a_datagram_without_a_checksum_gets_none():
    left = router().translated(packet(ADA, ROSA, UDP, payload=b"hi", summed=False), 0.0)
    assert left == packet((OUTER, 4001), ROSA, UDP, payload=b"hi", summed=False)


def test_one_inner_port_is_one_outer_port_whomever_it_speaks_to_and_no_two_share_one():
    home = router()
    assert out(home, ADA, ROSA) == (OUTER, 4001) == out(home, ADA, DALIA)
    other = out(home, BRUNO, ROSA)
    assert other == out(home, BRUNO, DALIA)
    assert other != (OUTER, 4001)
    assert out(home, BRUNO, ROSA, protocol=UDP) == (OUTER, 4001), "the protocols have ports of their own"


def test_a_dependent_mapping_has_a_port_for_each_that_is_spoken_to():
    home = router(dependent=True)
    first, second = out(home, ADA, ROSA), out(home, ADA, DALIA)
    assert len({first, second, (OUTER, 4001)}) == 3
    assert out(home, ADA, ROSA) == first
    assert back(home, ROSA, first[1]) == ADA
    assert back(home, DALIA, first[1]) is None


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_only_who_was_written_to_may_answer_and_from_that_port_alone(protocol):
    home = router()
    assert back(home, ROSA, 4001, protocol=protocol) is None
    out(home, ADA, ROSA, protocol=protocol)
    assert back(home, ROSA, 4001, protocol=protocol) == ADA
    assert back(home, (ROSA[0], 4002), 4001, protocol=protocol) is None
    assert back(home, DALIA, 4001, protocol=protocol) is None
    assert back(home, ROSA, 4002, protocol=protocol) is None


def test_two_who_write_first_meet():
    north = router()
    south = Nat(IPv4Network("192.168.1.0/24"), IPv4Address(DALIA[0]), dependent=False, rng=random.Random(2))
    inner = ("192.168.1.2", 5000)
    first = north.translated(packet(ADA, DALIA, flags=SYN), 0.0)
    assert south.translated(first, 0.0) is None
    second = south.translated(packet(inner, (OUTER, 4001), flags=SYN), 0.1)
    assert ends(second)[0] == DALIA
    assert ends(north.translated(second, 0.1))[1] == ADA
    answer = north.translated(packet(ADA, DALIA, flags=SYN | ACK), 0.2)
    assert ends(south.translated(answer, 0.2))[1] == inner


def test_inside_a_device_can_be_called_by_its_outer_address():
    home = router()
    out(home, ADA, (OUTER, 4777))  # to whom Bruno's will be mapped: he may then write
    called = home.translated(packet((BRUNO[0], 4777), (OUTER, 4001)), 0.0)
    assert ends(called) == ((OUTER, 4777), ADA)


@pytest.mark.parametrize(
    ("fields", "answered", "lasts_s"),
    [
        ({"protocol": UDP}, True, UDP_S),
        ({"flags": SYN}, False, TRANSITORY_S),
        ({"flags": SYN}, True, ESTABLISHED_S),
        ({"flags": FIN | ACK}, True, TRANSITORY_S),
        ({"flags": RST}, True, TRANSITORY_S),
    ],
)
def test_what_is_silent_is_forgotten(fields, answered, lasts_s):
    home = router()
    out(home, ADA, ROSA, **fields)
    if answered:
        back(home, ROSA, 4001, **fields | {"flags": ACK})
    home.expire(lasts_s - 1)
    assert len(home) == 1
    assert back(home, ROSA, 4001, now=lasts_s, **fields | {"flags": ACK}) is None
    home.expire(lasts_s)
    assert len(home) == 0


def test_a_flood_of_ports_keeps_within_the_table_and_those_there_go_on(monkeypatch):
    monkeypatch.setattr(nat, "MAPPINGS_MAX", 8)
    monkeypatch.setattr(nat, "SESSIONS_MAX", 4)
    home = router()
    left = [out(home, (ADA[0], port), ROSA) for port in range(2000, 2020)]
    assert [each is not None for each in left] == [True] * 8 + [False] * 12
    assert len(home) == 8
    reached = [out(home, (ADA[0], 2000), (ROSA[0], port)) for port in range(5000, 5010)]
    assert [each is not None for each in reached] == [True] * 3 + [False] * 7
    assert back(home, ROSA, 2000) == (ADA[0], 2000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(64),
        packet(ADA, ROSA)[:30],
        packet(ADA, ROSA, fragment=0x2000),
        packet(ADA, ROSA, fragment=5),
        packet(ADA, ROSA, protocol=UDP)[:9] + b"\x01" + packet(ADA, ROSA, protocol=UDP)[10:],  # ICMP
        b"\x60" + packet(ADA, ROSA)[1:],
        packet(("10.9.9.9", 5), ROSA),  # neither from the home nor to the router
    ],
)
def test_what_a_router_does_not_pass_is_dropped(data):
    home = router()
    assert home.translated(data, 0.0) is None
    assert len(home) == 0


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_nothing(data):
    router().translated(data, 0.0)
