"""Notices over real multicast DNS, on loopback alone, so that nothing of it leaves this machine."""

import ipaddress
from dataclasses import replace

import pytest
import trio
import zeroconf

from crypto.identity import Identity
from node.lan.discovery import Nearby
from node.lan.mdns import NAMES_MAX, SERVICE, Mdns, NoMulticast, fresh_instance, look_around
from node.lan.notice import Interface, Notice

LOOPBACK = Interface("lo", (ipaddress.ip_interface("127.0.0.1/8"),), loopback=True)
PATIENCE_S = 20
ME, OTHER = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
SWARM_ID = b"\xab" * 32
NOTICE = Notice("ab" * 8, "home", "kitchen", OTHER.peer_id, "open", ("/ip4/127.0.0.1/tcp/4001",))


@pytest.fixture(autouse=True)
def _multicast():
    try:
        Mdns([LOOPBACK]).close()
    except NoMulticast as error:
        pytest.skip(f"this system gives no multicast: {error}")


def until(mdns, instance, expected):
    """Look until this instance says so; pytest's time limit is the end of this wait."""
    while (instance, expected) not in mdns.look():
        pass


def test_a_notice_is_heard_and_so_is_the_goodbye():
    instance = fresh_instance()
    with Mdns([LOOPBACK]) as listener:
        with Mdns([LOOPBACK], NOTICE, instance):
            until(listener, instance, NOTICE)
            assert look_around([LOOPBACK], 3.0)[instance] == NOTICE
        until(listener, instance, None)


def test_what_is_no_notice_is_counted_and_nothing_else():
    instance, hostile = fresh_instance(), fresh_instance()
    garbage = zeroconf.ServiceInfo(
        SERVICE,
        f"{hostile}.{SERVICE}",
        port=1,
        properties={"v": "1", "name": "\x1b[2J", "swarm": "no"},
        parsed_addresses=["127.0.0.1"],
        server=f"{hostile}.local.",
    )
    stranger = zeroconf.Zeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only)
    try:
        with Mdns([LOOPBACK]) as listener:
            stranger.register_service(garbage)
            with Mdns([LOOPBACK], NOTICE, instance):
                until(listener, instance, NOTICE)
            while not listener.refused:
                listener.look()
    finally:
        stranger.close()


def test_names_that_no_device_has_end_nothing():
    instance, odd = fresh_instance(), zeroconf.DNSOutgoing(0x8400)
    for name in ("\x01\x02", "x" * 63, "-", "a_b", "\u00e9" * 20):
        odd.add_answer_at_time(zeroconf.DNSPointer(SERVICE, 12, 1, 4500, f"{name}.{SERVICE}"), 0)
    stranger = zeroconf.Zeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only)
    try:
        with Mdns([LOOPBACK]) as listener, Mdns([LOOPBACK], NOTICE, instance):
            stranger.send(odd)
            while not any("\x01" in name for name in listener._names()):
                pass
            until(listener, instance, NOTICE)
    finally:
        stranger.close()


def test_names_without_a_text_hide_nobody_for_long():
    instance, empty = fresh_instance(), zeroconf.DNSOutgoing(0x8400)  # a response with authority
    for number in range(2 * NAMES_MAX):
        pointer = zeroconf.DNSPointer(SERVICE, 12, 1, 4500, f"empty-{number}.{SERVICE}")
        empty.add_answer_at_time(pointer, 0)
    stranger = zeroconf.Zeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only)
    try:
        with Mdns([LOOPBACK]) as listener, Mdns([LOOPBACK], NOTICE, instance):
            stranger.send(empty)
            while len(listener._names()) <= NAMES_MAX:
                listener.look()
            listener._texts.clear()
            seen = [sight for _ in range(4) for sight in listener.look()]
            assert (instance, NOTICE) in seen
    finally:
        stranger.close()


def test_without_an_interface_there_is_no_multicast():
    with pytest.raises(NoMulticast, match="no interface"):
        Mdns([replace(LOOPBACK, networks=())])


class Diary:
    """A log in which a test can wait for what it expects."""

    def __init__(self):
        self.entries, self._changed = [], trio.Event()

    def _note(self, event, **fields):
        self.entries.append((event, fields))
        self._changed.set()
        self._changed = trio.Event()

    info = warning = _note

    async def until(self, event, **fields):
        with trio.fail_after(PATIENCE_S):
            while not any(name == event and fields.items() <= told.items() for name, told in self.entries):
                await self._changed.wait()


class Transport:
    def __init__(self, port):
        self.bound, self.peers, self.dialled = [("127.0.0.1", port)], [], trio.Event()

    def dial(self, peer, addresses):
        self.peer, self.addresses = peer, addresses
        self.dialled.set()


class Manifest:
    name, admit = "home", "open"


class Swarm:
    id, manifest = SWARM_ID, Manifest
    may_admit = staticmethod(lambda _: True)


def device(identity, port, here):
    log = Diary()
    made = Nearby(
        name="hall",
        identity=identity,
        swarm=Swarm,
        enough=8,
        transport=Transport(port),
        log=log,
        interfaces=lambda: list(here),
    )
    return made, made._transport, log


async def test_two_devices_of_a_swarm_dial_each_other(nursery):
    (ann, ann_dials, _), (bob, bob_dials, _) = device(ME, 4001, [LOOPBACK]), device(OTHER, 4002, [LOOPBACK])
    nursery.start_soon(ann.run)
    nursery.start_soon(bob.run)
    with trio.fail_after(PATIENCE_S):
        await ann_dials.dialled.wait()
        await bob_dials.dialled.wait()
    assert ann_dials.peer == OTHER.public_key
    assert ann_dials.addresses == (f"/ip4/127.0.0.1/tcp/4002/p2p/{OTHER.peer_id}",)
    assert bob_dials.peer == ME.public_key


async def test_a_device_with_the_same_key_is_told_of_and_not_dialled(nursery):
    (ann, dials, log), (double, _, _) = device(ME, 4001, [LOOPBACK]), device(ME, 4002, [LOOPBACK])
    nursery.start_soon(ann.run)
    nursery.start_soon(double.run)
    await log.until("duplicate_identity", addresses=["/ip4/127.0.0.1/tcp/4002"])
    assert ann.status()["doubles"] == [double.instance]
    assert not dials.dialled.is_set()


async def test_interfaces_that_come_and_go_are_followed(nursery):
    here = []
    ann, _, log = device(ME, 4001, here)
    assert ann.status()["announced"] == []
    nursery.start_soon(ann.run)
    here.append(LOOPBACK)
    await log.until("announced", addresses=["/ip4/127.0.0.1/tcp/4001"])
    here.clear()
    await log.until("announced", addresses=[])
    assert ann.status()["announced"] == []


async def test_a_failure_of_zeroconf_ends_nothing(nursery, monkeypatch):
    def fail(_):
        raise RuntimeError("what no stranger should be able to cause")

    monkeypatch.setattr(Mdns, "look", fail)
    ann, _, log = device(ME, 4001, [LOOPBACK])
    nursery.start_soon(ann.run)
    await log.until("nearby_failed")
    assert ann.status()["announced"] == []


async def test_a_system_without_multicast_is_told_of_and_ends_nothing(nursery, monkeypatch):
    def refuse(*_):
        raise NoMulticast("not permitted")

    monkeypatch.setattr("node.lan.discovery.Mdns", refuse)
    ann, _, log = device(ME, 4001, [LOOPBACK])
    nursery.start_soon(ann.run)
    await log.until("not_announced", reason="not permitted")
    assert ann.status()["announced"] == []
