"""How far away a neighbour is, and what its clock says."""

import pytest
import trio

from crypto.identity import Identity
from node.clock import unix_time
from node.net.libp2p.terms import PINGS_MAX, Limits, Unreachable
from node.net.libp2p.transport import Libp2pTransport
from node.net.libp2p.visits import ping_address

HOUR_S = 3600.0
SWARM = b"\x11" * 32


class Inbox:
    def __init__(self):
        self.up = trio.Event()

    def peer_up(self, peer):
        self.up.set()

    def __getattr__(self, _):
        return lambda *_: None


async def device(nursery, seed, clock=unix_time):
    inbox = Inbox()
    made = Libp2pTransport(
        identity_seed=bytes([seed]) * 32,
        swarm=SWARM,
        listen=("/ip4/127.0.0.1/tcp/0",),
        limits=Limits(),
        inbox=inbox,
        manifest=lambda: b"",
        log=lambda *_: None,
        clock=clock,
    )
    await nursery.start(made.run)
    return made, inbox, Identity(bytes([seed]) * 32).public_key


async def test_a_neighbour_answers_with_its_clock(nursery):
    ann, ann_inbox, _ = await device(nursery, 1)
    bob, _, bob_key = await device(nursery, 2, clock=lambda: unix_time() + HOUR_S)
    ann.dial(bob_key, bob.addresses)
    with trio.fail_after(10):
        await ann_inbox.up.wait()
        pinged = await ann.ping(bob_key, 5)
        assert len(pinged.round_trips_s) == 5
        assert all(0 < trip < 5 for trip in pinged.round_trips_s)
        assert abs(pinged.clock_ahead_s - HOUR_S) < 5
        assert len((await ann.ping(bob_key, 99)).round_trips_s) == PINGS_MAX


async def test_who_is_no_neighbour_cannot_be_pinged(nursery):
    ann, _, _ = await device(nursery, 1)
    with pytest.raises(Unreachable, match="no neighbour"):
        await ann.ping(bytes(32), 1)


async def test_a_device_can_be_asked_before_one_belongs_to_its_swarm(nursery):
    bob, _, _ = await device(nursery, 2, clock=lambda: unix_time() - HOUR_S)
    pinged = await ping_address(bob.addresses[0], identity_seed=bytes([9]) * 32, timeout_s=10)
    assert abs(pinged.clock_ahead_s + HOUR_S) < 5


async def test_another_device_cannot_answer_in_its_name(nursery):
    bob, _, _ = await device(nursery, 2)
    claimed = bob.addresses[0].replace(Identity(bytes([2]) * 32).peer_id, Identity(bytes([3]) * 32).peer_id)
    with pytest.raises(Unreachable, match="another device answers there"):
        await ping_address(claimed, identity_seed=bytes([9]) * 32, timeout_s=10)
