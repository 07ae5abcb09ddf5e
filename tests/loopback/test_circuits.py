"""Circuits and holes on 127.0.0.1: whoever is told to be far away is reached through a third, and then without it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from crypto.identity import Identity
from node.drivers import circuits
from node.drivers.circuits import Relaying
from node.drivers.libp2p import Libp2pTransport, Limits

PATIENCE_S = 8.0
SWARM = b"\x11" * 32


class Device:
    """A transport whose inbox and log are lists, all of whose addresses lead beyond its own networks."""

    def __init__(self, seed: int, *, belongs=lambda _: True, serves=True, limits=None) -> None:
        identity = Identity(bytes([seed]) * 32)
        self.key, self.name = identity.public_key, identity.peer_id
        self.entries: list[tuple] = []
        self._changed = trio.Event()
        self.transport = Libp2pTransport(
            identity_seed=identity.seed,
            swarm=SWARM,
            listen=("/ip4/127.0.0.1/tcp/0",),
            limits=limits or Limits(),
            inbox=self,
            manifest=lambda: b"",
            log=lambda name, fields: self.note("log", name, dict(fields)),
            relaying=Relaying(
                belongs=belongs,
                reachable=lambda addresses: self.note("reachable", tuple(addresses)),
                serves=serves,
                far=lambda _: True,
            ),
        )

    def note(self, *entry) -> None:
        self.entries.append(entry)
        self._changed.set()
        self._changed = trio.Event()

    def received(self, peer, data):
        self.note("received", peer, data)

    def heard(self, forwarder, data):
        self.note("heard", forwarder, data)

    def peer_up(self, peer):
        self.note("up", peer)

    def peer_down(self, peer, reason):
        self.note("down", peer, reason)

    def send_failed(self, peer, data, reason):
        self.note("failed", peer, data, reason)

    def of(self, kind: str) -> list[tuple]:
        return [entry[1:] for entry in self.entries if entry[0] == kind]

    async def until(self, enough: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not enough():
                await self._changed.wait()
        assert enough(), self.entries

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
