"""A code among devices that play false: each of them gets one guess, and together no more than three."""

import os
import time

import pytest
import trio

from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.membership.statements import issue
from node.join import search
from node.join.codes import read_secret
from node.join.conversation import Answered, Certified, Certify, End, Heard, Opened, Say
from node.join.inviter import CLAIMANTS_MAX, Inviter
from node.join.search import NobodyThere, Wish, join_nearby
from node.lan.interfaces import Interface
from node.lan.notice import Notice
from node.net.libp2p import visits
from node.net.libp2p.terms import Unreachable
from tests.simulation.harness import tiny_swarm

ADA, BOB = (Identity(bytes([number]) * 32) for number in (1, 2))
FALSE = [Identity(bytes([50 + number]) * 32) for number in range(8)]
SWARM = tiny_swarm(ADA, [], admit="invite")


class Eyes:
    def looks(self, _): ...
    def agreed(self, *_): ...


class Line:
    """What a joiner says goes straight to a machine; `inviter` is a true one, or one that knows other words."""

    def __init__(self, device, inviter):
        self.peer, self._inviter, self._said = device.public_key, inviter, []
        self._tell(Opened(1, BOB.public_key, "10.0.0.9"))

    def _tell(self, event):
        for action in self._inviter.handle(event, 0.0):
            match action:
                case Say(_, data):
                    self._said.append(data)
                case Certify():
                    now = int(time.time())
                    self._tell(Certified(1, (issue(ADA, SWARM.id, BOB.public_key, 0, now, now + 9000, 0),)))
                case End():
                    pass

    async def say(self, message):
        self._tell(Heard(1, message))
        self._tell(Answered(1, allow=True))

    async def hear(self, _silence_s):
        await trio.lowlevel.checkpoint()
        if not self._said:
            raise Unreachable("it hung up")
        return self._said.pop(0)

    async def finish(self):
        await trio.lowlevel.checkpoint()


def inviter_of(device):
    return Inviter(
        me=device.public_key, swarm=SWARM.id, manifest=SWARM.signed, knocks=False, entropy=os.urandom
    )


class World:
    """Ada, whose code it is, and others who claim every number."""

    def __init__(self, monkeypatch, liars, *, first=False, there=True):
        """`first`: they are announced before her. Without `there` she is not, and in what order others are asked is chance."""
        ada = inviter_of(ADA)
        self.invitation = ada.invite(600.0, 1, 0.0)
        self.guesses = []
        self._inviters = {ADA.peer_id: lambda: ada}
        for liar in liars:
            self._inviters[liar.peer_id] = lambda liar=liar: self._false(liar)
        honest = [ADA] if there else []
        order = [*liars, *honest] if first else [*honest, *liars]
        notices = [
            (
                each.peer_id,
                Notice("ab" * 8, "home", "x", each.peer_id, "invite", (f"/ip4/10.0.0.{place + 1}/tcp/1",)),
            )
            for place, each in enumerate(order)
        ]

        class Mdns:
            def __init__(self, _): ...
            def close(self): ...
            def look(self):
                return notices.copy()

        async def join_through(address, talk, **_):
            name = address.rpartition("/")[2]
            device = next(each for each in order if each.peer_id == name)
            return await talk(Line(device, self._inviters[name]()))

        import ipaddress

        wifi = Interface("wlan0", (ipaddress.ip_interface("10.0.0.9/24"),))
        monkeypatch.setattr("node.lan.mdns.Mdns", Mdns)
        monkeypatch.setattr(search, "usable_interfaces", lambda: [wifi])
        monkeypatch.setattr(visits, "join_through", join_through)

    def _false(self, liar):
        """One that claims the number, with words of its own."""
        false = inviter_of(liar)
        made = false.invite(600.0, 1, 0.0)
        made.number = self.invitation.number
        false._invitations = {made.number: made}
        self.guesses.append(liar)
        return false

    async def join(self):
        kept = []
        wish = Wish(
            identity=BOB,
            name="bob",
            secret=read_secret(self.invitation.code),
            only=None,
            check=lambda _: None,
            keep=kept.append,
            entropy=os.urandom,
            unix_s=time.time,
            eyes=Eyes(),
        )
        joined = await join_nearby(wish)
        assert kept == [joined]
        return joined


@pytest.fixture
def proofs(monkeypatch):
    """How often this device has shown what it knows."""
    shown = []
    true = search.Joiner._shared

    def shared(self, share):
        shown.append(self._inviter)
        return true(self, share)

    monkeypatch.setattr(search.Joiner, "_shared", shared)
    return shown


async def test_a_liar_that_comes_first_keeps_nobody_out(monkeypatch, autojump_clock, proofs):
    world = World(monkeypatch, FALSE[:1], first=True)
    joined = await world.join()
    assert joined.address.endswith(ADA.peer_id)
    assert len(proofs) <= 2


async def test_many_liars_get_three_guesses_together(monkeypatch, autojump_clock, proofs):
    world = World(monkeypatch, FALSE, there=False)
    with pytest.raises((NobodyThere, PeerViolation)) as caught:
        await world.join()
    assert len(proofs) == CLAIMANTS_MAX
    assert "play false" in str(caught.value)
