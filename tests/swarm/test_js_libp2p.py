"""A node of another implementation, js-libp2p, as a guest: it identifies a daemon, pings it, and reads what it says in public.

Needs Node.js and npm, which fetches the packages that tests/js/package-lock.json pins; without them the test is skipped.
"""

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from gossip.history.public_announcement import PublicAnnouncement, topic_of
from gossip.wire import unpack
from node.control_client import call
from tests.swarm.test_daemon_life import device  # noqa: F401 - a fixture

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parents[1] / "js"
NODE_MIN = 20  # the major release
INSTALL = (
    "npm",
    "ci",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--fetch-retries=1",
    "--fetch-timeout=30000",
)
INSTALL_S = 120
LISTEN_S = 90
ANNOUNCEMENTS = 5
UNREACHABLE = re.compile(
    r"npm (?:error|ERR!) code (ECONN\w+|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET\w+)"
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """The script, with what it needs; a skip says what is missing here."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")
    told = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    if int(told.removeprefix("v").partition(".")[0]) < NODE_MIN:
        pytest.skip(f"js-libp2p needs Node.js {NODE_MIN} or later, and this is {told.strip()}")
    folder = tmp_path_factory.mktemp("js")
    for name in ("package.json", "package-lock.json", "guest.js"):
        shutil.copy(SCRIPT / name, folder)
    told = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if (cause := UNREACHABLE.search(told.stderr)) is not None:
        pytest.skip(f"npm cannot reach its registry: {cause[1]}")
    assert told.returncode == 0, told.stderr
    return folder / "guest.js"


def listen(guest, address, topic, count):
    """What the guest has to say of a daemon, as a list of its lines."""
    told = subprocess.run(
        ["node", guest, address, topic, str(count)],
        cwd=guest.parent,
        capture_output=True,
        text=True,
        timeout=LISTEN_S,
        check=False,
    )
    return told.returncode, [json.loads(line) for line in told.stdout.splitlines()], told.stderr


@pytest.fixture
def swarm(device):  # noqa: F811
    """Three devices, as many as a sum needs, of which the first speaks in public."""
    devices = [device(f"{n}", init=("--task", "digits", "--data", f"shard={n}/3")) for n in (1, 2, 3)]
    first, *others = devices
    first.configure("public = false", "public = true")
    first.configure("gather_s = 2.0", "gather_s = 0.5")
    first.configure("step_s = 5.0", "step_s = 2.0")
    for each in devices:
        each.configure('level = "info"', 'level = "warning"')  # nobody reads what they write
    _, address = first.listening()
    for each in others:
        each.listening("--bootstrap", address)
    return devices, address


def test_js_libp2p_identifies_pings_and_reads_the_announcements(guest, swarm):
    [first, *others], address = swarm
    status = first.status()
    topic = topic_of(bytes.fromhex(status["swarm"]["id"]))
    code, [identified, pinged, *heard], errors = listen(guest, address, topic, ANNOUNCEMENTS)
    assert code == 0, errors

    where, peer = address.split("/p2p/")
    known = identified["identified"]
    assert known["peer"] == peer == status["peer_id"]
    assert known["agent"] == f"gossamer/{version('gossamer')}"
    assert known["protocol"] == "gossamer/1"
    assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0"} < set(known["protocols"])
    assert (known["listens"], known["record"]) == ([where], None)
    assert 0 < pinged["pinged"]["ms"] < 1000 * LISTEN_S

    assert len(heard) == ANNOUNCEMENTS
    named = set()
    for announcement in (each["heard"] for each in heard):
        assert (announcement["from"], announcement["type"]) == (peer, "signed")
        told = unpack(bytes.fromhex(announcement["raw"]), PublicAnnouncement, limit_bytes=4096)
        assert [each.hex() for each in told.aggregates] == announcement["aggregates"]
        assert (told.version, told.round) == (announcement["version"], announcement["round"])
        named |= set(announcement["aggregates"])
    rounds = [each["heard"]["round"] for each in heard]
    assert rounds == sorted(rounds)
    assert rounds[-1] > rounds[0] > 0
    for each in (first, *others):
        held = set()
        while not named <= held:  # pytest's time limit is the end of this wait
            held = {known["id"] for known in call(each.home, "GET", "/aggregates")["aggregates"]}
    neighbours = {known["peer_id"] for known in call(first.home, "GET", "/peers")["peers"]}
    assert neighbours == {each.status()["peer_id"] for each in others}


def test_js_libp2p_is_turned_away_where_nothing_is_public(guest, device):  # noqa: F811
    _, address = device().listening()
    code, said, errors = listen(guest, address, "any", 1)
    assert (code, said) == (1, [])
    assert "has hung up" in errors
