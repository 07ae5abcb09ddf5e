"""Circuits and holes on 127.0.0.1: whoever is told to be far away is reached through a third, and then without it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from crypto.identity import Identity
from node.net.libp2p import circuits
from node.net.libp2p.circuits import Relaying
from node.net.libp2p.names import id_of
from node.net.libp2p.terms import Limits
from node.net.libp2p.transport import Libp2pTransport
from node.net.relay import Status
from tests.diary import PATIENCE_S, Diary

SWARM = b"\x11" * 32


class Device(Diary):
    """A transport whose inbox and log are lists, all of whose addresses lead beyond its own networks."""

    def __init__(self, seed: int, *, belongs=lambda _: True, serves=True, limits=None) -> None:
        super().__init__()
        identity = Identity(bytes([seed]) * 32)
        self.key, self.name = identity.public_key, identity.peer_id
        self.transport = Libp2pTransport(
            identity_seed=identity.seed,
            swarm=SWARM,
            listen=("/ip4/127.0.0.1/tcp/0",),
            limits=limits or Limits(),
            inbox=self,
            manifest=lambda: b"",
            log=self.log,
            relaying=Relaying(
                belongs=belongs,
                reachable=lambda addresses: self.note("reachable", tuple(addresses)),
                serves=serves,
                far=lambda _: True,
            ),
        )

    def address_of(self, other) -> str:
        return dict(self.transport.peers).get(other.key, "")

    async def dials(self, other, addresses) -> None:
        self.transport.dial(other.key, addresses)
        await self.until(lambda: self.address_of(other) != "" or self.of("down"))
        assert self.address_of(other), self.of("down")

    async def carries_nothing(self) -> None:
        with trio.fail_after(PATIENCE_S):
            while self.transport.circuits.status()["circuits"]:  # noqa: ASYNC110 - nobody is told of it
                await trio.sleep(0.05)

    @property
    def circuits_to(self) -> list[str]:
        return [address for address in self.transport.addresses if "/p2p-circuit" in address]


@asynccontextmanager
async def behind(*devices: Device) -> AsyncIterator[None]:
    """The first one is what the others can dial; they have dialled it."""
    relay, *others = devices
    async with trio.open_nursery() as nursery:
        for device in devices:
            await nursery.start(device.transport.run)
        for other in others:
            await other.dials(relay, relay.transport.addresses)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def no_holes(monkeypatch):
    monkeypatch.setattr(circuits, "PUNCH_PAUSES_S", ())


async def test_whom_nobody_has_dialled_reserves_and_is_reached_through_the_relay(no_holes):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        await bruno.until(lambda: bool(bruno.circuits_to))
        [address] = bruno.circuits_to
        assert address == f"{relay.transport.addresses[0]}/p2p-circuit/p2p/{bruno.name}"
        assert bruno.of("reachable") == [(tuple(bruno.transport.addresses),)]
        await ada.dials(bruno, [address])
        await bruno.until(lambda: (ada.key,) in bruno.of("up"))
        assert ada.address_of(bruno) == address.removesuffix(f"/p2p/{bruno.name}")
        assert relay.transport.circuits.status()["circuits"] == 1
        large = bytes(3 << 20)
        for device, other in ((ada, bruno), (bruno, ada)):
            device.transport.send(other.key, large)
            await other.until(lambda other=other, device=device: (device.key, large) in other.of("received"))
        assert relay.of("received") == []
        ada.transport.disconnect(bruno.key, "enough")
        await bruno.until(lambda: bool(bruno.of("down")))
        await relay.carries_nothing()


async def test_two_dials_that_meet_take_the_circuits_place_and_nothing_is_lost():
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        await bruno.until(lambda: bool(bruno.circuits_to))
        await ada.dials(bruno, bruno.circuits_to)
        await bruno.until(lambda: (ada.key,) in bruno.of("up"))
        said = []
        with trio.fail_after(PATIENCE_S):
            while "/p2p-circuit" in ada.address_of(bruno) or "/p2p-circuit" in bruno.address_of(ada):
                said.append(len(said).to_bytes(4, "big") * 1000)
                ada.transport.send(bruno.key, said[-1])
                bruno.transport.send(ada.key, said[-1])
                await trio.sleep(0.001)
        said.append(b"last")
        ada.transport.send(bruno.key, said[-1])
        bruno.transport.send(ada.key, said[-1])
        for device, other in ((ada, bruno), (bruno, ada)):
            await device.until(lambda d=device, o=other: (o.key, b"last") in d.of("received"))
            assert [data for _, data in device.of("received")] == said
            assert not device.of("down")
            assert not device.of("failed")
            assert len([peer for (peer,) in device.of("up") if peer == other.key]) == 1
        await relay.carries_nothing()


async def test_a_stranger_is_not_relayed_for_and_is_told_so(no_holes):
    relay, bruno, intruder = Device(1, belongs=lambda key: key != intruder.key), Device(3), Device(4)
    async with behind(relay, bruno, intruder):
        await bruno.until(lambda: bool(bruno.circuits_to))
        await intruder.until(lambda: "not_relayed" in [name for name, _ in intruder.of("log")])
        assert intruder.circuits_to == []
        intruder.transport.dial(bruno.key, bruno.circuits_to)
        await intruder.until(lambda: bool(intruder.of("down")))
        [(peer, reason)] = intruder.of("down")
        assert peer == bruno.key
        assert "the relay refused: permission denied" in reason


async def test_who_has_not_reserved_is_not_called(no_holes):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        absent = Device(5)
        ada.transport.dial(absent.key, [f"{relay.transport.addresses[0]}/p2p-circuit/p2p/{absent.name}"])
        await ada.until(lambda: bool(ada.of("down")))
        assert "the relay refused: no reservation" in ada.of("down")[0][1]


async def test_one_that_does_not_relay_is_passed_over_for_one_that_does(no_holes):
    unwilling, willing, bruno = Device(1, serves=False), Device(2), Device(3)
    async with behind(unwilling, bruno), trio.open_nursery() as nursery:
        await nursery.start(willing.transport.run)
        await bruno.until(lambda: "not_relayed" in [name for name, _ in bruno.of("log")])
        await bruno.dials(willing, willing.transport.addresses)
        await bruno.until(lambda: bool(bruno.circuits_to))
        assert willing.name in bruno.circuits_to[0]
        nursery.cancel_scope.cancel()


async def test_a_relay_that_is_not_connected_yet_is_dialled_first(no_holes):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, bruno), trio.open_nursery() as nursery:
        await bruno.until(lambda: bool(bruno.circuits_to))
        await nursery.start(ada.transport.run)
        await ada.dials(bruno, bruno.circuits_to)
        assert ada.address_of(relay)
        nursery.cancel_scope.cancel()


async def test_when_a_relay_goes_its_circuits_end_and_are_no_longer_announced(no_holes):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        await bruno.until(lambda: bool(bruno.circuits_to))
        await ada.dials(bruno, bruno.circuits_to)
        await bruno.until(lambda: (ada.key,) in bruno.of("up"))
        relay.transport.disconnect(bruno.key, "enough")
        for device, other in ((ada, bruno), (bruno, ada)):
            await device.until(lambda d=device, o=other: o.key in [peer for peer, _ in d.of("down")])
        await bruno.until(lambda: bruno.circuits_to == [])
        assert bruno.of("reachable")[-1] == (tuple(bruno.transport.addresses),)
        await relay.carries_nothing()


@pytest.mark.parametrize(
    "address", ["/p2p-circuit", "{relay}/p2p-circuit/p2p/{relay_name}", "{bare}/p2p-circuit"]
)
async def test_a_circuit_that_leads_elsewhere_is_not_dialled(no_holes, address):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        at = relay.transport.addresses[0]
        spelt = address.format(relay=at, relay_name=relay.name, bare=at.partition("/p2p/")[0])
        ada.transport.dial(bruno.key, [spelt])
        await ada.until(lambda: bool(ada.of("down")))
        assert ada.address_of(bruno) == ""


# --- what breaks the rules ---------------------------------------------------------------------------------------


async def asked(device, other, protocol, message):
    """A stream of this protocol on which that was said."""
    link = device.transport._host.link_to(other.key)
    stream = await device.transport._host.open(link.conn, protocol)
    await circuits._say(stream, message)
    return stream


async def test_only_a_relay_of_ours_may_bring_callers(no_holes):
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        await bruno.until(lambda: bool(bruno.circuits_to))
        await ada.dials(bruno, bruno.transport.addresses)
        call = StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=id_of(relay.key).to_bytes()))
        stream = await asked(ada, bruno, circuits.STOP_PROTOCOL, call)
        with trio.fail_after(PATIENCE_S):
            answer = await circuits._read(stream, StopMessage)
        assert answer.status == Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (circuits.HOP_PROTOCOL, HopMessage(type=HopMessage.STATUS)),
        (circuits.HOP_PROTOCOL, HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=b"nobody"))),
        (circuits.STOP_PROTOCOL, StopMessage(type=StopMessage.STATUS)),
        (circuits.DCUTR_PROTOCOL, HolePunch(type=HolePunch.CONNECT)),
    ],
)
async def test_whoever_breaks_the_rules_loses_its_connection(no_holes, protocol, message):
    relay, bruno = Device(1), Device(3)
    async with behind(relay, bruno):
        with suppress(BaseLibp2pError):  # it may be over before all was said
            await asked(bruno, relay, protocol, message)
        await bruno.until(lambda: bool(bruno.of("down")))
        assert "peer_violation" in [name for name, _ in relay.of("log")]


async def test_holes_are_tried_a_few_times_for_one_circuit_and_no_more(monkeypatch):
    monkeypatch.setattr(circuits, "PUNCH_S", 0.05)
    relay, ada, bruno = Device(1), Device(2), Device(3)
    async with behind(relay, ada, bruno):
        monkeypatch.setattr(circuits, "PUNCH_PAUSES_S", (60.0, 60.0))
        await bruno.until(lambda: bool(bruno.circuits_to))
        await ada.dials(bruno, bruno.circuits_to)
        await bruno.until(lambda: (ada.key,) in bruno.of("up"))
        for _ in range(2):
            stream = await asked(bruno, ada, circuits.DCUTR_PROTOCOL, HolePunch(type=HolePunch.CONNECT))
            with trio.fail_after(PATIENCE_S):
                await circuits._read(stream, HolePunch)
            await circuits._say(stream, HolePunch(type=HolePunch.SYNC))
        assert not ada.of("down")
        with suppress(BaseLibp2pError):
            await asked(bruno, ada, circuits.DCUTR_PROTOCOL, HolePunch(type=HolePunch.CONNECT))
        await ada.until(lambda: bool(ada.of("down")))
        assert "more than 2 holes" in ada.of("down")[0][1]
