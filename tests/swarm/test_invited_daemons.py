"""A real daemon whose swarm admits by certificate, before devices that have one, had one, or never had."""

import json
import time

import pytest
import trio

from crypto.identity import Identity
from gossip.frames import Kind, channel_frame, open_frame, sign_frame
from gossip.manifest import open_manifest
from gossip.membership.messages import Alive, Credential, Presence
from gossip.membership.statements import Why, issue
from node.home import read_identity
from node.join.bootstrap import keep_credential, keep_manifest
from tests.loopback.test_libp2p_transport import Node
from tests.swarm.test_daemon_life import device, ends  # noqa: F401 - a fixture

pytestmark = pytest.mark.swarm

DAY_S = 86_400


def founded(one):
    one.configure('admit = "open"', 'admit = "invite"')
    process, address = one.listening()
    swarm = open_manifest((one.home.path / "swarm.manifest").read_bytes())
    return process, address, swarm, read_identity(one.home)


def certificate(founder, swarm, device_key, serial, *, from_days=0, days=30):
    now = int(time.time())
    return issue(founder, swarm.id, device_key, serial, now + from_days * DAY_S, now + days * DAY_S, 1)


def logged(one, name):
    lines = (json.loads(line) for line in one.home.log.read_text().splitlines())
    return [line for line in lines if line["event"] == name]


class Visitor(Node):
    """A device of our own making, which says what it likes."""

    def __init__(self, seed, swarm):
        super().__init__(seed, swarm=swarm.id)
        self.identity, self.swarm = Identity(bytes([seed]) * 32), swarm

    async def visit(self, host, addresses, chain):
        """Show a chain and say things; the kinds that are heard until the connection ends, or ALIVE."""
        self.transport.dial(host, addresses)
        await self.diary.until(lambda: host in dict(self.transport.peers))
        presence = sign_frame(self.identity, self.swarm.id, Presence(1, ("/ip4/127.0.0.1/tcp/9",)))
        for frame in (
            presence,
            channel_frame(Credential(chain, bytes(8))),
            presence,
            channel_frame(Alive(3, bytes(8))),
        ):
            self.transport.send(host, frame)

    def heard(self):
        return [open_frame(self.swarm.id, data, peer) for peer, data in self.diary.of("received")]


async def test_who_does_not_belong_is_told_why_and_changes_nothing(device):  # noqa: F811
    one = device()
    process, address, swarm, founder = await trio.to_thread.run_sync(founded, one)
    keys = {seed: Identity(bytes([seed]) * 32).public_key for seed in range(1, 7)}
    good = certificate(founder, swarm, keys[4], 0)
    chains = {
        1: (Why.UNKNOWN, ()),
        2: (Why.EXPIRED, (certificate(founder, swarm, keys[2], 1, from_days=-3, days=-1),)),
        3: (Why.UNKNOWN, (certificate(Identity(bytes([9]) * 32), swarm, keys[3], 0),)),
        4: (Why.FORGED, (good[:-1] + bytes([good[-1] ^ 1]),)),
        5: (Why.UNKNOWN, (good,)),  # somebody else's
    }
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            for seed, (why, chain) in chains.items():
                visitor = Visitor(seed, swarm)
                await nursery.start(visitor.live)
                await visitor.visit(founder.public_key, [address], chain)
                await visitor.diary.until(lambda: visitor.diary.of("down"))  # noqa: B023
                kinds = [message.kind for message in visitor.heard()]
                assert kinds == [Kind.CREDENTIAL, Kind.DENIED], (seed, kinds)
                assert visitor.heard()[-1].body.why == why
                await visitor.stop()
            nursery.cancel_scope.cancel()
    status = await trio.to_thread.run_sync(one.status)
    assert len(status["live"]) == 1
    assert status["neighbours"] == []
    refused = logged(one, "refused")
    assert len(refused) == len(chains)
    assert len({line["peer"] for line in refused}) == len(chains)
    assert logged(one, "violation") == []
    process.terminate()
    ends(process, 0)


def test_a_device_is_invited_removed_and_leaves(device):  # noqa: F811
    one, two = device("one"), device("two")
    first, address, swarm, founder = founded(one)
    refused = two.run("up", "--bootstrap", address)
    words = refused.stderr.splitlines()[-1]
    assert (refused.returncode, "admits by invitation" in words, "gossamer join CODE" in words) == (
        1,
        True,
        True,
    )
    assert not (two.home.path / "swarm.manifest").exists()

    key = read_identity(two.home).public_key
    keep_manifest(two.home, swarm)
    keep_credential(two.home, (certificate(founder, swarm, key, 0),))
    second, _ = two.listening("--bootstrap", address)
    two.until(lambda status: len(status["neighbours"]) == 1)
    [peer] = one.until(lambda status: len(status["neighbours"]) == 1)["neighbours"]

    blocked = one.run("peers", "block", peer[-8:])
    assert (blocked.returncode, f"gossamer peers allow {peer}" in blocked.stderr) == (0, True)
    one.until(lambda status: not status["neighbours"])
    assert one.run("peers", "allow", peer).returncode == 0
    one.until(lambda status: status["neighbours"])

    not_above = two.run("peers", "remove", founder.peer_id)
    assert (not_above.returncode, not_above.stderr.count("\n")) == (1, 1)
    assert "only the founder" in not_above.stderr
    assert one.run("peers", "remove", peer).returncode == 0
    one.until(lambda status: not status["neighbours"] and len(status["live"]) == 1)
    two.until(lambda status: "was revoked" in status["warning"])
    assert (
        "WARNING: this device's certificate, or one that it rests on, was revoked" in two.run("status").stdout
    )

    asked = two.run("leave")
    assert (asked.returncode, "nothing was changed" in asked.stderr) == (1, True)
    left = two.run("leave", "--yes")
    assert left.returncode == 0, left.stderr
    ends(second, 0)
    names = {path.name for path in two.home.path.iterdir()}
    assert not names & {"swarm.manifest", "swarm.credential"}
    assert two.run("leave", "--yes").returncode == 1
    assert read_identity(two.home).public_key == key
    first.terminate()
    ends(first, 0)
