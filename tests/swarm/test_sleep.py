"""A device that slept, or whose address changed, is back in training within BACK_S."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from node.control_client import NotAnswering, Refused, call
from node.home import Home, NotRunning
from tests.networks import wire as made_wire
from tests.networks import within

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

GOSSAMER = (sys.executable, "-P", "-m", "node")
BACK_S = 30.0
PATIENCE_S = 60


class Device:
    """A daemon in a process group of its own, with its trainer, perhaps in a network of its own."""

    def __init__(self, folder, number, *, space=None, listen="/ip4/127.0.0.1/tcp/0"):
        self.home, self._space = Home(folder / str(number)), space
        told = subprocess.run(
            self._within(
                "init",
                "--name",
                f"device-{number}",
                "--task",
                "digits",
                "--data",
                f"shard={number}/4",
                "--listen",
                listen,
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        text = self.home.config.read_text()
        self.home.config.write_text(text.replace("nearby = true", "nearby = false"))
        assert "nearby = false" in self.home.config.read_text()

    def up(self, *bootstrap):
        """Its address."""
        words = [word for address in bootstrap for word in ("--bootstrap", address)]
        self.process = subprocess.Popen(
            self._within("up", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return self.process.stdout.readline().strip()

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def status(self):
        return call(self.home, "GET", "/status")

    def until(self, reached):
        """Ask until the answer is right; pytest's time limit is the end of this wait. How long it took, and the answer."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(NotRunning, NotAnswering, Refused):
                if reached(told := self.status()):
                    return time.monotonic() - began, told

    def _within(self, *words):
        command = (*GOSSAMER, *words, "--home", str(self.home.path))
        return within(self._space, *command) if self._space else command


@pytest.fixture
def devices(tmp_path):
    """Four that train together, the first of whom has founded their swarm."""
    made = []

    def start(spaces=(None,) * 4):
        known = []
        for number, space in enumerate(spaces, 1):
            where = {} if space is None else {"space": space, "listen": "/ip4/0.0.0.0/tcp/0"}
            made.append(each := Device(tmp_path, number, **where))
            known.append(each.up(*known[:1]))
        for each in made:
            each.until(lambda told: told["round"] and told["contributions"] and len(told["neighbours"]) == 3)
        return made

    yield start
    for each in made:
        with contextlib.suppress(ProcessLookupError):
            each.signal(signal.SIGKILL)
        each.process.wait()
        each.process.stdout.close()


@pytest.fixture
def wire():
    with made_wire() as made:
        yield made


def back_in_training(device):
    """Seconds until it is connected again, and until it has contributed to a sum again."""
    before = device.until(lambda _: True)[1]["contributions"]
    connected_s, _ = device.until(lambda told: told["neighbours"])
    more_s, _ = device.until(lambda told: told["contributions"] > before)
    return connected_s, connected_s + more_s


def test_a_device_that_slept_is_back_soon(devices):
    *others, sleeper = devices()
    sleeper.signal(signal.SIGSTOP)
    for each in others:
        each.until(lambda told: len(told["neighbours"]) == 2)
    sleeper.signal(signal.SIGCONT)
    connected_s, back_s = back_in_training(sleeper)

    assert back_s < BACK_S, f"connected after {connected_s:.1f} s, in a sum after {back_s:.1f} s"


def test_a_device_whose_address_changes_is_back_soon(devices, wire):
    places = [wire.place() for _ in range(4)]
    mover = devices([space for space, _ in places])[-1]
    space, address = places[3]
    wire.address(space, "del", address)
    wire.address(space, "add", "10.77.0.99")
    connected_s, back_s = back_in_training(mover)

    assert back_s < BACK_S, f"connected after {connected_s:.1f} s, in a sum after {back_s:.1f} s"
