"""A real daemon of a certified swarm under hostile messages: how much memory they cost it, and how much time its neighbours.

    python -m tests.soak --messages 10000000

Three daemons train together. Two more members, certified like them, connect to the first one over libp2p. One says what is
well formed and good for nothing, as fast as its connection takes it; the other says garbage, and comes back whenever it is
cut off. Rounds are counted before and meanwhile, and so is the resident memory of the first daemon's process.

Before, both are there and say only that they are alive: members who take part in nothing cost a swarm time by themselves, as
some rounds are theirs to lead. What is compared is what their messages add.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from crypto.identity import Identity
from gossip.cohort.messages import Ready
from gossip.frames import Frame, Kind, channel_frame, sign_frame
from gossip.history.messages import Announce, Compare, Have, Pull
from gossip.manifest import Swarm, open_manifest
from gossip.membership.messages import Alive, Credential, Greeting, HeldStatements, Presence
from gossip.membership.statements import issue
from gossip.secure_sum.messages import SealVote
from gossip.wire import pack
from node.control_client import call
from node.home import NotRunning, read_identity
from node.join.bootstrap import keep_credential, keep_manifest
from node.net.libp2p.terms import Limits
from node.net.libp2p.transport import Libp2pTransport
from tests.swarm.test_daemon_life import Device

DAY_S = 86_400
MIB = 1 << 20
LARGE_EACH = 5000  # messages, one of which is as large as any may be
AHEAD = 256  # messages on their way before the sender waits
LOOK_S = 1.0
SETTLE_S = 5.0
PATIENCE_S = 120.0
SEEDS = (201, 202)


@dataclass
class Figures:
    sent: dict[str, int] = field(default_factory=dict)
    quiet_rounds: int = 0
    quiet_s: float = 0.0
    rounds: int = 0
    took_s: float = 0.0
    rss_before: int = 0
    rss_most: int = 0
    connections: int = 0
    faults: int = 0

    @property
    def slower(self) -> float:
        """How many times as long a round takes under attack."""
        return (self.took_s / max(1, self.rounds)) / (self.quiet_s / max(1, self.quiet_rounds))

    def __str__(self) -> str:
        sent = sum(self.sent.values())
        return (
            f"{sent} messages in {self.took_s:.0f} s ({self.sent}), {self.connections} connections; resident memory "
            f"{self.rss_before / MIB:.0f} MiB before, at most {(self.rss_most - self.rss_before) / MIB:+.0f} MiB; a round took "
            f"{self.quiet_s / max(1, self.quiet_rounds):.2f} s before and {self.slower:.2f} times as long meanwhile; "
            f"{self.faults} faults"
        )


class Liar:
    """A member of our own making. Its inbox is empty: it does not listen."""

    def __init__(self, seed: int, swarm: Swarm, founder: Identity, serial: int) -> None:
        self.identity = Identity(bytes([seed]) * 32)
        now = int(time.time())
        key = self.identity.public_key
        self.credential = issue(founder, swarm.id, key, serial, now - 60, now + 30 * DAY_S, 0)
        self.swarm = swarm
        self.connections = 0
        self.failed = 0
        self._up = trio.Event()
        self._down = trio.Event()
        self.transport = Libp2pTransport(
            identity_seed=self.identity.seed,
            swarm=swarm.id,
            listen=("/ip4/127.0.0.1/tcp/0",),
            limits=Limits(),
            inbox=self,
            manifest=lambda: b"",
            log=lambda *_: None,
        )

    def received(self, peer: bytes, data: bytes) -> None:
        pass

    heard = received

    def peer_up(self, _peer: bytes) -> None:
        self.connections += 1
        self._down = trio.Event()
        self._up.set()

    def peer_down(self, _peer: bytes, _reason: str) -> None:
        self._up = trio.Event()
        self._down.set()

    def send_failed(self, _peer: bytes, _data: bytes, _reason: str) -> None:
        self.failed += 1

    async def idle(self, host: bytes, address: str) -> None:
        """A member that says that it is there, and nothing else."""
        while True:
            if not self._up.is_set():
                self.transport.dial(host, [address])
                with trio.move_on_after(5):
                    await self._up.wait()
                self.transport.send(host, channel_frame(Credential((self.credential,), bytes(8))))
            self.transport.send(host, channel_frame(Alive(0, bytes(8))))
            await trio.sleep(5)

    async def flood(
        self, host: bytes, address: str, frames: Iterator[bytes], told: dict[str, int], name: str, most: int
    ) -> None:
        """`most` messages, or until cancelled."""
        while told[name] < most:
            if not self._up.is_set():
                self.transport.dial(host, [address])
            with trio.move_on_after(5):
                await self._up.wait()
            if not self._up.is_set():
                continue
            self.transport.send(host, channel_frame(Credential((self.credential,), bytes(8))))
            while self._up.is_set() and told[name] < most:
                before = self.failed
                for frame in itertools.islice(frames, AHEAD):
                    self.transport.send(host, frame)
                told[name] += AHEAD - min(AHEAD, self.failed - before)
                await trio.sleep(0.01 if self.failed == before else 0.2)
            if not self._up.is_set():
                await trio.sleep(0.2)


def useless(liar: Liar, rng: random.Random) -> Iterator[bytes]:
    """Well formed, and signed where that is due: nobody is blamed for it."""
    swarm, me = liar.swarm.id, liar.identity

    def ids(size: int, count: int) -> tuple[bytes, ...]:
        return tuple(sorted(rng.randbytes(size) for _ in range(count)))

    signed = [
        sign_frame(me, swarm, SealVote(rng.randbytes(32)), cohort=rng.randbytes(32)) for _ in range(300)
    ]
    presences = [sign_frame(me, swarm, Presence(at, ("/ip4/127.0.0.1/tcp/9",))) for at in range(1, 300)]
    ready = Ready(1, (), 1, bytes([9]) * 32, (bytes([9]) * 32,))
    readies = [sign_frame(me, swarm, ready)]
    for number in itertools.count(1):
        if number % 64 == 0:
            yield channel_frame(Have(1, 5, 1 << 40, ids(32, 2048)))
            yield channel_frame(Compare(1, tuple(rng.randbytes(8) for _ in range(1024))))
            yield channel_frame(Greeting(tuple(presences[:64])))
            yield channel_frame(HeldStatements(ids(8, 4096)))
        yield from (
            channel_frame(Alive(rng.randrange(1 << 40), rng.randbytes(8))),
            channel_frame(Announce(ids(8, 8))),
            channel_frame(Pull(ids(8, 8))),
            presences[number % len(presences)],
            rng.choice(signed),
            *readies,
        )


def garbage(liar: Liar, rng: random.Random) -> Iterator[bytes]:
    """Of which each is a violation."""
    swarm, me = liar.swarm.id, liar.identity
    large = pack(Frame(1, Kind.AGGREGATES, b"", b"", b"\x92\xdc\xff\xff" + b"\x90" * ((8 << 20) - 4), b""))
    greetings = pack(Frame(1, Kind.GREETING, b"", b"", b"\x93" + b"\x90" * 60_000, b""))
    forged = bytearray(sign_frame(me, swarm, SealVote(bytes(32)), cohort=bytes(32)))
    forged[-1] ^= 1
    for number in itertools.count(1):
        yield (
            large
            if number % LARGE_EACH == 1
            else rng.choice(
                [
                    rng.randbytes(200),
                    b"\x90" * 4000,
                    greetings,
                    bytes(forged),
                    b"",
                    b"\xdd\xff\xff\xff\xff",
                    b"\x97\x01",
                ]
            )
        )


@contextmanager
def daemons(place: Path, count: int) -> Iterator[tuple[list[Device], str, Swarm, Identity]]:
    """So many real daemons of one certified swarm, the first one's address, and its founder, who is the first."""
    made = [Device(place / f"device{index}") for index in range(count)]
    with ExitStack() as stack:
        for device in made:
            stack.callback(_end, device)
        for index, device in enumerate(made):
            assert device.run("init", "--name", f"device{index}", "--task", "digits").returncode == 0
        made[0].configure('admit = "open"', 'admit = "invite"')
        _, address = made[0].listening()
        swarm = open_manifest((made[0].home.path / "swarm.manifest").read_bytes())
        founder = read_identity(made[0].home)
        for serial, device in enumerate(made[1:]):
            now, key = int(time.time()), read_identity(device.home).public_key
            keep_manifest(device.home, swarm)
            keep_credential(
                device.home, (issue(founder, swarm.id, key, serial, now - 60, now + 30 * DAY_S, 0),)
            )
            device.listening("--bootstrap", address)
        yield made, address, swarm, founder


def _end(device: Device) -> None:
    for process in device.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def round_of(device: Device) -> int:
    try:
        return int(call(device.home, "GET", "/status")["round"] or 0)
    except NotRunning:
        return 0


async def soak(
    place: Path, *, messages: int, quiet_s: float, at_least_s: float = 0.0, count: int = 3
) -> Figures:
    """Until so many messages were taken, and for so long at least."""
    figures = Figures()
    with daemons(place, count) as (devices, address, swarm, founder):
        neighbour, process = devices[1], psutil.Process(devices[0].started[0].pid)

        async def rounds() -> int:
            return await trio.to_thread.run_sync(round_of, neighbour)

        with trio.fail_after(PATIENCE_S):
            while await rounds() < 3:  # noqa: ASYNC110 - another process counts them
                await trio.sleep(LOOK_S)
        liars = [Liar(seed, swarm, founder, 100 + place) for place, seed in enumerate(SEEDS)]
        figures.sent = {"useless": 0, "garbage": 0}
        rng = random.Random(1)
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as quiet:
                for liar in liars:
                    await nursery.start(liar.transport.run)
                    quiet.start_soon(liar.idle, founder.public_key, address)
                await trio.sleep(SETTLE_S)
                began, first = trio.current_time(), await rounds()
                await trio.sleep(quiet_s)
                figures.quiet_rounds, figures.quiet_s = await rounds() - first, trio.current_time() - began
                figures.rss_before = figures.rss_most = process.memory_info().rss
                quiet.cancel_scope.cancel()
            began, first = trio.current_time(), await rounds()
            for liar, name, frames in zip(liars, figures.sent, (useless, garbage), strict=True):
                most = messages if name == "useless" else 1 << 62
                nursery.start_soon(
                    liar.flood, founder.public_key, address, frames(liar, rng), figures.sent, name, most
                )
            while sum(figures.sent.values()) < messages or trio.current_time() - began < at_least_s:
                await trio.sleep(LOOK_S)
                figures.rss_most = max(figures.rss_most, process.memory_info().rss)
                assert devices[0].started[0].poll() is None, "the daemon has ended"
            figures.rounds, figures.took_s = await rounds() - first, trio.current_time() - began
            nursery.cancel_scope.cancel()
        figures.connections = sum(liar.connections for liar in liars)
        lines = (json.loads(line) for line in devices[0].home.log.read_text().splitlines())
        figures.faults = sum(line["event"] in {"fault", "handler_failed"} for line in lines)
        assert devices[0].status()["state"] == "running"
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--quiet-s", type=float, default=60.0, help="without an attack, to compare with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        told = trio.run(lambda: soak(Path(directory), messages=given.messages, quiet_s=given.quiet_s))
    sys.stdout.write(f"{told}\n")
