"""Devices are let in by people, through the commands as they are typed: real daemons, on one machine and on a network of their own."""

import json
import signal
import subprocess
import sys

import msgspec
import pytest

from crypto.identity import Identity
from gossip.manifest import found, open_manifest
from node.control_client import NotAnswering, Refused, call
from node.home import Home, NotRunning
from node.join.bootstrap import keep_manifest
from node.join.codes import code_text, link_text, read_secret
from node.join.words import WORDS
from tests.networks import wire as made_wire
from tests.networks import within

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

GOSSAMER = (sys.executable, "-P", "-m", "node")
PATIENCE_S = 90
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # who starts the tests in the background may ignore it


class Invite:
    """`gossamer invite` as a person leaves it open."""

    def __init__(self, device, *words):
        self._process = subprocess.Popen(
            device.words("invite", "--json", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.made = self.next()
        assert self.made["event"] == "invitation"
        self.code, self.link = self.made["code"], self.made["link"]

    def next(self):
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return json.loads(line)

    def answer(self, text):
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def end(self):
        code = self._process.wait(PATIENCE_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()
        return code

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
        self.end()


class Device:
    def __init__(self, folder, space=None):
        self.home, self.space = Home(folder), space
        self.invites = []

    def words(self, *words):
        every = (*GOSSAMER, *words, "--home", str(self.home.path))
        return within(self.space, *every) if self.space else every

    def run(self, *words):
        told = subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert "Traceback" not in told.stderr, told.stderr
        return told

    def start(self, *words):
        """A command that goes on."""
        return subprocess.Popen(self.words(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def invite(self, *words):
        self.invites.append(made := Invite(self, *words))
        return made

    def fails_to_join(self, *words):
        """The exit code, and the one line that says why; nothing is left of it."""
        before = self.files()
        told = self.run("join", *words, "--no-up")
        assert self.files() == before
        [line] = [line for line in told.stderr.splitlines() if line.startswith("gossamer: ")]
        assert "gossamer" in line.removeprefix("gossamer: ")  # the next command
        return told.returncode, line

    def files(self):
        """What a refusal must not change; None where there is no home."""
        if not self.home.path.exists():
            return None
        return {each.name for each in self.home.path.iterdir() if each.name != "daemon.lock"}

    def until(self, path, reached):
        """Ask until the answer is right; pytest's time limit is the end of this wait."""
        while True:
            try:
                told = call(self.home, "GET", path)
            except (NotRunning, NotAnswering, Refused):
                continue
            if reached(told):
                return told


@pytest.fixture
def device(tmp_path):
    made = []

    def make(name, space=None):
        made.append(each := Device(tmp_path / name, space))
        return each

    yield make
    for each in made:
        for invite in each.invites:
            invite.kill()
        each.run("down")


def founder(device, *words):
    told = device.run(
        "init", "--name", "ada", "--task", "digits", "--data", "shard=1/10", "--swarm", "home", *words
    )
    assert told.returncode == 0, told.stderr
    assert device.run("up", "--detach").returncode == 0
    return device


def neighbours(told):
    return [peer["peer_id"] for peer in told["peers"] if peer["neighbour"]]


def other_swarm(home, identity):
    """The manifest of a swarm of somebody else, like the one that this home has."""
    kept = open_manifest((home.path / "swarm.manifest").read_bytes())
    return found(
        msgspec.structs.replace(kept.manifest, name="elsewhere", founder=identity.public_key), identity
    )


def test_a_device_is_let_in_by_a_link_and_every_refusal_has_its_line(device, tmp_path):
    ada = founder(device("ada"), "--admit", "invite")
    bob, eve, owl = device("bob"), device("eve"), device("owl")

    # Bob: asked for, allowed, in.
    invite = ada.invite()
    joining = bob.start("join", invite.link, "--name", "bob", "--data", "shard=2/10", "--no-up", "--json")
    asked = invite.next()
    assert (asked["event"], asked["name"]) == ("asks", "bob")
    invite.answer("y")
    assert [invite.next()["event"] for _ in range(3)] == ["allowed", "joined", "ended"]
    assert invite.end() == 0
    out, err = joining.communicate(timeout=PATIENCE_S)
    assert joining.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["event"] for each in told] == ["looking", "agreed", "joined"]
    assert told[1]["word"] == asked["word"]
    assert f"gossamer up --home {bob.home.path}" in err
    kept, founded = (home.path / "swarm.manifest" for home in (bob.home, ada.home))
    assert kept.read_bytes() == founded.read_bytes()
    assert bob.run("up", "--detach").returncode == 0
    bob.until("/peers", neighbours)

    # The same link again, a refusal, a wrong secret, a withdrawal.
    code, line = eve.fails_to_join(invite.link)
    assert (code, "used as often" in line) == (6, True)
    invite = ada.invite()
    secret = read_secret(invite.link)
    code, line = eve.fails_to_join(link_text(secret.number, bytes(16), secret.addresses))
    assert (code, "wrong" in line) == (6, True)
    assert invite.next()["event"] == "wrong"
    joining = eve.start("join", invite.link, "--no-up")
    assert invite.next()["event"] == "asks"
    invite.answer("no")
    assert invite.next()["event"] == "refused"
    _, err = joining.communicate(timeout=PATIENCE_S)
    assert (joining.returncode, "refused this device" in err, eve.home.path.exists()) == (6, True, False)
    invite.interrupt()
    assert invite.end() in {130, -signal.SIGINT}
    code, line = eve.fails_to_join(invite.link)
    assert (code, "withdrawn" in line) == (6, True)

    # A home of another swarm, a task that this device cannot know, an inviter that is gone.
    invite = ada.invite()
    assert owl.run("init", "--task", "digits", "--data", "shard=3/10").returncode == 0
    keep_manifest(owl.home, other_swarm(ada.home, Identity(bytes(32))))
    code, line = owl.fails_to_join(invite.link)
    assert (code, "another swarm" in line) == (4, True)
    code, line = bob.fails_to_join(invite.link)
    assert (code, "runs here already" in line) == (5, True)
    stranger = device("stranger")
    assert stranger.run("init", "--task", "digits", "--data", "shard=4/10").returncode == 0
    told = stranger.run("up", "--bootstrap", secret.addresses[0])
    assert (told.returncode, "gossamer join CODE" in told.stderr) == (1, True)
    assert not (stranger.home.path / "swarm.manifest").exists()
    assert ada.run("down").returncode == 0
    code, line = eve.fails_to_join(invite.link)
    assert (code, "not reached" in line) == (7, True)
    assert list(tmp_path.glob("eve*")) == []


def test_an_open_swarm_needs_no_invitation(device):
    ada = founder(device("ada"))
    told = ada.run("invite")
    assert (told.returncode, "gossamer up --nearby" in told.stderr) == (1, True)


@pytest.fixture
def wire():
    with made_wire() as made:
        yield made


LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/0")


def wrong(code):
    secret = read_secret(code)
    one, two = secret.password.decode().split("-")
    return code_text(secret.number, (next(word for word in WORDS if word != one), two))


def test_a_code_is_enough_on_one_network_and_is_burnt_by_one_wrong_guess(wire, device):
    places = [wire.place() for _ in range(3)]
    ada = founder(device("ada", places[0][0]), "--admit", "invite", *LISTEN)
    bob, eve = device("bob", places[1][0]), device("eve", places[2][0])
    invite = ada.invite("--yes")
    code, line = eve.fails_to_join(wrong(invite.code))
    assert (code, "one wrong guess burns it" in line) == (6, True)
    assert [invite.next()["event"] for _ in range(2)] == ["wrong", "ended"]
    assert invite.end() == 1
    code, line = bob.fails_to_join(invite.code)
    assert (code, "burnt" in line) == (6, True)

    invite = ada.invite("--yes")
    told = bob.run("join", invite.code.upper().replace("-", " "), "--data", "shard=2/10", "--detach")
    assert told.returncode == 0, told.stderr
    assert [invite.next()["event"] for _ in range(3)] == ["asks", "allowed", "joined"]
    peers = bob.until("/peers", neighbours)
    assert peers["peers"][0]["address"].startswith(f"/ip4/{places[0][1]}/tcp/")

    # Nobody knows that number.
    code, line = eve.fails_to_join("1000-acorn-zebra")
    assert (code, "invitation 1000 was not found" in line) == (7, True)


def test_who_knocks_waits_for_a_person(wire, device):
    places = [wire.place() for _ in range(4)]
    ada = founder(device("ada", places[0][0]), "--admit", "ask", *LISTEN)
    bob, eve, owl = (
        device(name, place[0]) for name, place in zip(("bob", "eve", "owl"), places[1:], strict=True)
    )

    joining = bob.start("join", "--ask", "home", "--name", "bob", "--data", "shard=2/10", "--no-up", "--json")
    [knock] = ada.until("/peers", lambda told: told["knocks"])["knocks"]
    assert knock["name"] == "bob"
    assert f"check word: {knock['word']}" in ada.run("peers").stdout
    assert ada.run("peers", "allow", knock["peer_id"][-6:]).returncode == 0
    out, err = joining.communicate(timeout=PATIENCE_S)
    assert joining.returncode == 0, err
    assert json.loads(out.splitlines()[1])["word"] == knock["word"]

    joining = eve.start("join", "--ask", "home", "--no-up")
    [knock] = ada.until("/peers", lambda told: told["knocks"])["knocks"]
    assert ada.run("peers", "refuse", knock["peer_id"][-6:]).returncode == 0
    _, err = joining.communicate(timeout=PATIENCE_S)
    assert (joining.returncode, "refused this device" in err, eve.home.path.exists()) == (6, True, False)
    assert ada.run("peers", "refuse", knock["peer_id"][-6:]).returncode == 1

    # A daemon that is told a name knocks, too, and goes on once it is let in.
    assert (
        owl.run("init", "--name", "owl", "--task", "digits", "--data", "shard=3/10", *LISTEN).returncode == 0
    )
    assert owl.run("up", "--detach", "--nearby", "home").returncode == 0
    [knock] = ada.until("/peers", lambda told: told["knocks"])["knocks"]
    assert knock["word"] in owl.until("/status", lambda told: "check word" in told["waits_for"])["waits_for"]
    assert ada.run("peers", "allow", knock["peer_id"]).returncode == 0
    owl.until("/peers", neighbours)
