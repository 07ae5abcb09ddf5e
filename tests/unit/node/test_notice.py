"""What is made of devices nearby, and of whoever pretends to be some."""

import contextlib
import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.manifest import Model, Swarm, Tensor
from node.config.settings import SwarmSettings
from node.join.bootstrap import OtherSwarm, check_wanted
from node.lan.notice import (
    ADDRESSES_MAX,
    CANDIDATES_MAX,
    DIALS_A_MINUTE,
    DIALS_AT_ONCE,
    PAUSE_S,
    Candidates,
    Interface,
    Notice,
    NotOne,
    addresses_to_announce,
    notice_of,
    of_swarm,
    of_this,
    route_of,
    texts_of,
)

ANY_MODEL = Model(task="any", schema=bytes(32), tensors=(Tensor(1, 0),), seed=0, initial=bytes(32))
ME, OTHER = Identity(bytes(32)), Identity(bytes([1]) * 32)


def interface(name, *networks, **more):
    return Interface(name, tuple(ipaddress.ip_interface(each) for each in networks), **more)


WIFI = interface("wlan0", "192.168.1.7/24", "fe80::1/64", "fd00::7/64")
LOOPBACK = interface("lo", "127.0.0.1/8", "::1/128", loopback=True)
NOTICE = Notice("ab" * 8, "home", "kitchen", OTHER.peer_id, "open", ("/ip4/192.168.1.9/tcp/4001",))


def raw(notice):
    return {key.encode(): value.encode() for key, value in texts_of(notice).items()}


def candidate(number, swarm=NOTICE.swarm):
    peer = Identity(number.to_bytes(32, "big")).peer_id
    return replace(
        NOTICE, swarm=swarm, peer_id=peer, addresses=(f"/ip4/192.168.1.{number % 200 + 10}/tcp/1",)
    )


# --- notices --------------------------------------------------------------------------------------------------


def test_a_notice_is_read_as_it_was_written():
    full = replace(NOTICE, addresses=tuple(f"/ip6/fd00::{n}/tcp/65535" for n in range(1, ADDRESSES_MAX + 1)))
    assert notice_of(raw(NOTICE)) == NOTICE
    assert notice_of(raw(full)) == full
    assert notice_of(raw(NOTICE) | {b"later": b"more"}) == NOTICE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"v", b"2"),
        (b"swarm", b"abc"),
        (b"swarm", b"AB" * 8),
        (b"name", b"a\nb"),
        (b"name", b"\x1b[2J"),
        (b"device", b"x" * 65),
        (b"device", None),
        (b"peer", b"12D3KooW"),
        (b"admits", b"Everybody!"),
        (b"a0", b"/ip4/192.168.1.9/tcp/0"),
        (b"a0", b"/dns4/evil.example/tcp/1"),
        (b"a0", b"/ip4/1.2.3.4/tcp/1/p2p/x"),
        (b"padding", b"x" * 2000),
    ],
)
def test_what_is_not_exactly_a_notice_is_none(key, value):
    with pytest.raises(PeerViolation):
        notice_of(raw(NOTICE) | {key: value})


@given(
    st.dictionaries(
        st.sampled_from([b"v", b"swarm", b"name", b"device", b"peer", b"admits", b"a0"]),
        st.one_of(st.none(), st.binary(max_size=80), st.sampled_from(list(raw(NOTICE).values()))),
    )
)
def test_any_text_is_a_notice_or_a_violation(texts):
    with contextlib.suppress(PeerViolation):
        assert notice_of(texts).device.isprintable()


# --- addresses ------------------------------------------------------------------------------------------------


def test_only_interfaces_behind_which_others_can_be_are_used():
    assert WIFI.usable
    assert interface("br0", "10.0.0.1/24").usable
    assert interface("wlp2s0", "10.0.0.1/24").usable
    for name in ("docker0", "br-0a1b2c3d4e5f", "veth12ab", "virbr0", "wg0", "tailscale0", "utun3"):
        assert not interface(name, "10.0.0.1/24").usable
    assert not LOOPBACK.usable
    assert not interface("eth0", "10.0.0.1/24", multicast=False).usable


def test_a_wildcard_becomes_the_addresses_that_others_can_dial():
    assert addresses_to_announce([("0.0.0.0", 4001)], [WIFI]) == ("/ip4/192.168.1.7/tcp/4001",)
    assert addresses_to_announce([("::", 4001)], [WIFI]) == ("/ip6/fd00::7/tcp/4001",)
    assert addresses_to_announce([("192.168.1.7", 1), ("10.9.9.9", 2)], [WIFI]) == ("/ip4/192.168.1.7/tcp/1",)


def test_who_listens_on_its_own_machine_announces_nothing():
    assert addresses_to_announce([("127.0.0.1", 4001)], [WIFI]) == ()
    assert addresses_to_announce([("127.0.0.1", 4001)], [LOOPBACK]) == ("/ip4/127.0.0.1/tcp/4001",)


@pytest.mark.parametrize(
    "address",
    ["/ip4/8.8.8.8/tcp/53", "/ip4/127.0.0.1/tcp/22", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.251/tcp/1",
     "/ip6/fe80::2/tcp/1", "/ip4/192.168.2.9/tcp/1"],
)  # fmt: skip
def test_nobody_can_aim_this_device_at_another_network(address):
    assert replace(NOTICE, addresses=(address,)).reached_by([WIFI]) == ()


def test_a_route_is_lan_or_direct():
    assert route_of("/ip4/192.168.1.9/tcp/4001", [WIFI]) == "lan"
    assert route_of("/ip4/203.0.113.9/tcp/4001", [WIFI]) == "direct"
    assert route_of("/ip4/127.0.0.1/tcp/4001", [WIFI, LOOPBACK]) == "lan"
    assert route_of("/ip4/192.168.1.9/tcp/4001/p2p/12D3KooW/p2p-circuit", [WIFI]) == "relay"


# --- whom to join ---------------------------------------------------------------------------------------------


def test_a_swarm_is_found_by_name_or_id():
    elsewhere = replace(NOTICE, swarm="cd" * 8, swarm_name="office")
    assert of_swarm([NOTICE, elsewhere], "home") == [NOTICE]
    assert of_swarm([NOTICE, elsewhere], "cd" * 8) == [elsewhere]
    assert of_swarm([NOTICE, elsewhere], "cd" * 32) == [elsewhere]
    assert of_swarm([NOTICE, elsewhere], "cd") == []


def test_two_swarms_of_one_name_are_not_guessed_between():
    with pytest.raises(NotOne, match=f"{'ab' * 8} or {'cd' * 8}"):
        of_swarm([NOTICE, replace(NOTICE, swarm="cd" * 8)], "home")


def test_a_manifest_is_of_the_swarm_that_was_asked_for_or_not():
    assert of_this(b"\xab" * 32, "home", "home")
    assert of_this(b"\xab" * 32, "home", "ab" * 8)
    assert not of_this(b"\xab" * 32, "home", "ab")
    assert not of_this(b"\xab" * 32, "home", "cd" * 8)


# --- whom to dial ---------------------------------------------------------------------------------------------


def candidates():
    return Candidates(ME.peer_id, NOTICE.swarm, "mine")


def test_a_device_of_this_swarm_is_dialled_and_again_after_ever_longer_pauses():
    found = candidates()
    found.saw("x", NOTICE, 0.0)
    where = [(OTHER.public_key, (f"/ip4/192.168.1.9/tcp/4001/p2p/{OTHER.peer_id}",))]
    assert found.due(set(), 8, [WIFI], 0.0) == where
    dialled = [now for now in range(1, 1200) if found.due(set(), 8, [WIFI], float(now))]
    pauses = [after - before for before, after in zip([0, *dialled], dialled, strict=False)]
    assert pauses[:3] == [PAUSE_S[0], 2 * PAUSE_S[0], 4 * PAUSE_S[0]]
    assert max(pauses) == PAUSE_S[1]


def test_nobody_is_dialled_who_is_connected_or_not_needed_or_of_another_swarm():
    found = candidates()
    found.saw("x", NOTICE, 0.0)
    found.saw("y", candidate(5, swarm="cd" * 8), 0.0)
    found.saw("mine", candidate(6), 0.0)
    assert found.due({OTHER.public_key}, 8, [WIFI], 0.0) == []
    assert found.due({bytes([n]) * 32 for n in range(8)}, 8, [WIFI], 9.0) == []
    found.saw("x", None, 9.0)
    assert found.due(set(), 8, [WIFI], 99.0) == []


def test_a_flood_of_names_is_bounded_and_does_not_keep_others_out_for_good():
    found = candidates()
    for number in range(5000):
        found.saw(f"x{number}", candidate(number % 250 + 2), 0.0)
    assert len(found) == CANDIDATES_MAX
    dialled = found.due(set(), 8, [WIFI], 0.0)
    assert len(dialled) == DIALS_AT_ONCE
    found.saw("honest", NOTICE, 1.0)
    assert len(found) == CANDIDATES_MAX
    for now in range(1, 200):
        dialled += [peer for peer, _ in found.due(set(), 8, [WIFI], float(now))]
    assert OTHER.public_key in dialled


def test_names_without_end_make_no_dials_without_end():
    found, dials = candidates(), 0
    for now in range(600):
        for number in range(20):
            found.saw(f"x{now}-{number}", candidate(20 * now % 2000 + number + 2), float(now))
        dials += len(found.due(set(), 8, [WIFI], float(now)))
    assert DIALS_A_MINUTE < dials <= DIALS_A_MINUTE * 10


def test_a_home_belongs_to_one_swarm():
    swarm = Swarm(b"\xab" * 32, SwarmSettings(name="home").manifest(ANY_MODEL, OTHER.public_key), b"")
    check_wanted(swarm, "home")
    check_wanted(swarm, "ab" * 8)
    with pytest.raises(OtherSwarm, match='belongs to the swarm "home" and cannot join "office" as well'):
        check_wanted(swarm, "office")


def test_another_device_with_the_same_key_is_noticed_until_it_leaves():
    found = candidates()
    double = replace(NOTICE, peer_id=ME.peer_id)
    found.saw("mine", double, 0.0)
    assert found.doubles == {}
    found.saw("theirs", double, 0.0)
    assert found.doubles == {"theirs": double}
    assert found.due(set(), 8, [WIFI], 9.0) == []
    found.saw("theirs", None, 1.0)
    assert found.doubles == {}
