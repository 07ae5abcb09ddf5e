"""Devices on a network of their own find each other, and the doctor names what keeps them from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.control_client import NotAnswering, Refused, call
from node.home import Home, NotRunning
from tests.networks import wire as made_wire
from tests.networks import within

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

GOSSAMER = (sys.executable, "-P", "-m", "node")
BARE = Path(__file__).parents[1] / "bare_device.py"
PATIENCE_S = 90


@pytest.fixture
def wire():
    with made_wire() as made:
        yield made


@pytest.fixture
def bare():
    """Start devices without a home; each ends when its input does."""
    started = []

    def start(space, **wishes):
        process = subprocess.Popen(
            within(space, sys.executable, str(BARE), json.dumps(wishes)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline().strip() == "ready"

    yield start
    for process in started:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()


class Device:
    def __init__(self, folder, space):
        self.home, self.space = Home(folder), space

    def run(self, *words, home=True):
        more = ["--home", str(self.home.path)] if home else []
        told = subprocess.run(
            within(self.space, *GOSSAMER, *words, *more),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in told.stderr, told.stderr
        return told

    def ask(self, path):
        return call(self.home, "GET", path)

    def until(self, path, reached):
        """Ask until the answer is right; pytest's time limit is the end of this wait."""
        while True:
            try:
                told = self.ask(path)
            except (NotRunning, NotAnswering, Refused):
                continue
            if reached(told):
                return told

    def doctor(self):
        """What it found, by check; whether all was well."""
        told = self.run("doctor", "--json")
        findings = json.loads(told.stdout)["findings"]
        assert told.returncode == (0 if all(each["ok"] for each in findings) else 1)
        assert all(each["next"] for each in findings if not each["ok"])
        return {each["check"]: each for each in findings}, told.returncode == 0


@pytest.fixture
def device(tmp_path):
    made = []

    def make(name, space, *, listen="/ip4/0.0.0.0/tcp/0", shard=1):
        made.append(each := Device(tmp_path / name, space))
        told = each.run(
            "init", "--name", name, "--task", "digits", "--data", f"shard={shard}/10", "--listen", listen
        )
        assert told.returncode == 0, told.stderr
        return each

    yield make
    for each in made:
        each.run("down")


def test_two_devices_find_each_other_with_nothing_but_a_name(wire, device):
    here, there = wire.place(), wire.place()
    ada, bob = device("ada", here[0]), device("bob", there[0], shard=2)
    assert ada.run("up", "--detach").returncode == 0
    assert bob.run("up", "--detach", "--nearby", "gossamer").returncode == 0
    [peer] = bob.until("/peers", lambda told: any(peer["neighbour"] for peer in told["peers"]))["peers"]
    assert (peer["state"], peer["route"]) == ("neighbour", "lan")
    assert peer["address"].startswith(f"/ip4/{here[1]}/tcp/")

    ping = bob.run("ping", peer["peer_id"][-6:])
    assert (ping.returncode, "lan" in ping.stdout) == (0, True), ping.stderr

    # A bystander without a home sees both.
    passer_by = Device(Path("/nowhere"), wire.place()[0])
    around = json.loads(passer_by.run("nearby", "--json", home=False).stdout)["devices"]
    assert {(each["device"], each["swarm"], each["admits"]) for each in around} == {
        ("ada", "gossamer", "open"),
        ("bob", "gossamer", "open"),
    }

    # From now on they know each other, and not at which ports they are after a restart: the network tells.
    for each in (ada, bob):
        assert each.run("down").returncode == 0
    for each in (ada, bob):
        assert each.run("up", "--detach").returncode == 0
    bob.until("/peers", lambda told: any(peer["neighbour"] for peer in told["peers"]))
    findings, well = bob.doctor()
    assert well, findings
    assert "ada" in findings["nearby"]["text"]

    # An address that goes is no longer announced, one that comes is.
    def announced(told):
        return [each.split("/")[2] for each in told["nearby"]["announced"]]

    wire.address(there[0], "del", there[1])
    bob.until("/status", lambda told: announced(told) == [])
    wire.address(there[0], "add", "10.77.0.99")
    bob.until("/status", lambda told: announced(told) == ["10.77.0.99"])
    bob.until("/peers", lambda told: any(peer["neighbour"] for peer in told["peers"]))


def test_a_network_without_multicast_is_named(wire, device, bare):
    here, there = wire.place(), wire.place()
    bare(here[0], seed=7, address=here[1])
    ada = device("ada", there[0])
    findings, well = ada.doctor()
    assert well, findings
    assert here[1] in findings["multicast"]["text"]
    assert f"bare-{here[1]} answers" in findings["nearby"]["text"]

    wire.without_multicast()
    findings, well = ada.doctor()
    assert not well
    assert [name for name, each in findings.items() if not each["ok"]] == ["multicast"]
    assert "carries no multicast" in findings["multicast"]["text"]
    assert here[1] in findings["multicast"]["text"]
    assert "--bootstrap" in findings["multicast"]["next"]
    nothing = ada.run("nearby", "--seconds", "2", home=False)
    assert (nothing.stdout, "gossamer doctor" in nothing.stderr) == ("", True)


def test_a_clock_a_double_and_a_closed_port_are_named(wire, device, bare):
    places = [wire.place() for _ in range(4)]
    ada = device("ada", places[3][0])
    bare(places[0][0], seed=7, address=places[0][1], clock_ahead_s=3600)
    bare(places[1][0], seed=ada.home.key.read_bytes().hex(), address=places[1][1])
    bare(places[2][0], seed=8, address=places[2][1], closed=True)
    findings, _ = ada.doctor()
    wrong = {name: each["text"] for name, each in findings.items() if not each["ok"]}
    assert wrong.keys() == {"clock", "identity", "nearby"}
    assert f"1 h ahead on bare-{places[0][1]} (" in wrong["clock"]
    assert "duplicate identity" in wrong["identity"]
    assert places[1][1] in wrong["identity"]
    assert f"bare-{places[2][1]}" in wrong["nearby"]


@pytest.mark.parametrize("trouble", ["in use", "unreachable"])
def test_a_port_that_does_not_open_is_named(wire, device, trouble):
    space, address = wire.place()
    ada = device("ada", space, listen=f"/ip4/{address}/tcp/4001")
    if trouble == "unreachable":
        wire.link(space, "lo", "down")  # what this device says to itself goes nowhere
        findings, _ = ada.doctor()
        assert "cannot reach itself" in findings["port"]["text"]
    else:
        script = f"import socket; s = socket.create_server(('{address}', 4001)); print('ready', flush=True); input()"
        with subprocess.Popen(
            within(space, sys.executable, "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout.readline() == "ready\n"
            findings, _ = ada.doctor()
            other.stdin.write("\n")
        assert "port 4001 is in use" in findings["port"]["text"]
    assert not findings["port"]["ok"]
    assert "4001" in findings["port"]["next"]
