"""Two homes behind routers that let nobody in, and one device that all can dial: real daemons in network namespaces."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from scenarios.processes import sweeper
from scenarios.processes.namespaces import built
from scenarios.spec.scenario import HomeTable, NetworkTable


def able():
    """Root in a container may lack the power all the same, so one namespace is tried."""
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        return False
    if not Path("/dev/net/tun").exists():
        return False
    tried = f"{sweeper.run_of(os.getpid())}-tried"
    made = subprocess.run(["ip", "netns", "add", tried], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["ip", "netns", "delete", tried], stderr=subprocess.DEVNULL, check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.swarm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not able(),
        reason="routers in network namespaces need Linux, iproute2, /dev/net/tun, and root with the power to make them",
    ),
]

PATIENCE_S = 300
GONE_S = 30.0
STREET = HomeTable("street", 1)

# Waits for callers, and tells each as whom it sees them.
ANSWER = """
import socket, sys
server = socket.create_server((sys.argv[1], 4001))
print(flush=True)
while True:
    connection, who = server.accept()
    connection.sendall("{}:{}".format(*who).encode())
    connection.close()
"""
# Dials from one port, until it is through, and says as whom it is seen.
CALL = """
import socket, sys, time
host, port, own, patience = sys.argv[1], *map(int, sys.argv[2:])
end = time.monotonic() + patience
while time.monotonic() < end:
    dialling = socket.socket()
    dialling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    dialling.bind(("0.0.0.0", own))
    dialling.settimeout(end - time.monotonic())
    try:
        dialling.connect((host, port))
        dialling.sendall(b"hello")
        print(dialling.recv(100).decode(), end="")
        sys.exit()
    except OSError:
        dialling.close()
        time.sleep(0.05)
sys.exit(1)
"""
HOLD = """
from scenarios.processes.namespaces import built
from scenarios.spec.scenario import HomeTable, NetworkTable
with built(NetworkTable(home=(HomeTable("north", 1, nat="independent"),))):
    print(flush=True)
    input()
"""

SCENARIO = """
name = "apart"
summary = "Two homes behind routers, and one device on the street."
task = "digits"
test = "every fifth image"
rounds = 5

[swarm.training]
min_steps = 20
max_steps = 40
phase_s = 1.5

[swarm.cohorts]
n_min = 3
gather_s = 1.0
step_s = 5.0

[[device]]
name = "Rosa"
data = "shard=1/5"

[[device]]
name = "Ada"
data = "shard=2/5"

[[device]]
name = "Bruno"
data = "shard=3/5"

[[device]]
name = "Dalia"
data = "shard=4/5"

[[device]]
name = "Emre"
data = "shard=5/5"

[[network.home]]
name = "street"
devices = 1

[[network.home]]
name = "north"
devices = 2
nat = "{nat}"

[[network.home]]
name = "south"
devices = 2
nat = "{nat}"
"""
NORTH, SOUTH = {"Ada", "Bruno"}, {"Dalia", "Emre"}


def of(run):
    return [name for name in sweeper.namespaces() if name.startswith(f"{run}-")]


def calling(place, host, port, own, patience_s=5):
    command = [*place.inside, sys.executable, "-c", CALL, host, str(port), str(own), str(patience_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def told(process):
    said, _ = process.communicate(timeout=60)
    return said if process.returncode == 0 else None


@pytest.fixture
def answering():
    """Starts a server on a device."""
    servers = []

    def answer(place):
        servers.append(
            subprocess.Popen(
                [*place.inside, sys.executable, "-c", ANSWER, place.address], stdout=subprocess.PIPE
            )
        )
        assert servers[-1].stdout.readline() == b"\n"

    yield answer
    for server in servers:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_router_lets_its_devices_out_and_nobody_in(answering):
    network = NetworkTable(
        home=(STREET, HomeTable("north", 2, nat="independent"), HomeTable("far", 1, nat="dependent"))
    )
    with built(network) as stands:
        street, ada, bruno, dalia = stands.layout.places
        assert ada.address == dalia.address, "homes have the same addresses"
        for place in (street, bruno):
            answering(place)
        assert told(calling(ada, street.address, 4001, 5000)) == "10.213.2.1:5000"
        assert told(calling(ada, bruno.address, 4001, 0)).startswith(f"{ada.address}:"), "at home, not routed"
        seen, again = (told(calling(dalia, street.address, 4001, own)) for own in (5000, 5001))
        assert seen.startswith("10.213.3.1:")
        assert seen not in {"10.213.3.1:5000", again}
        assert told(calling(street, "10.213.2.1", 4001, 0, patience_s=2)) is None


@pytest.mark.parametrize(("mapping", "meet"), [("independent", True), ("dependent", False)])
def test_two_dials_meet_where_the_routers_keep_one_port_for_all(mapping, meet):
    homes = (HomeTable("north", 1, nat="independent"), HomeTable("south", 1, nat=mapping, delay_ms=20))
    with built(NetworkTable(home=homes)) as stands:
        ada, dalia = stands.layout.places
        one = calling(ada, "10.213.2.1", 5000, 5000)
        other = calling(dalia, "10.213.1.1", 5000, 5000)
        assert [told(one), told(other)] == (["hello", "hello"] if meet else [None, None])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_of_a_killed_run_no_router_is_left(number):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    run = sweeper.run_of(holder.pid)
    assert holder.stdout.readline() == b"\n"
    assert f"{run}-router0" in of(run)
    holder.send_signal(number)
    holder.wait(GONE_S)
    end = time.monotonic() + GONE_S
    while of(run):
        assert time.monotonic() < end, of(run)
        time.sleep(0.1)
    holder.stdin.close()
    holder.stdout.close()


@pytest.mark.parametrize(("nat", "between"), [("independent", "direct"), ("dependent", "relay")])
def test_two_homes_train_as_one_swarm(nat, between):
    # Not tmp_path: a unix socket's path has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        (Path(folder) / "s.toml").write_text(SCENARIO.format(nat=nat))
        done = subprocess.run(
            [sys.executable, "-m", "node", "swarm", "s.toml", "--namespaces", "--json", "r.json"],
            cwd=folder,
            env=os.environ | {"TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((Path(folder) / "r.json").read_text())
    assert len({node["replica_sha256"] for node in report["nodes"]}) == 1
    routes = {node["name"]: node["routes"] for node in report["nodes"]}
    for home, other in ((NORTH, SOUTH), (SOUTH, NORTH)):
        for name in home:
            expected = (
                {"Rosa": "direct"} | dict.fromkeys(home - {name}, "lan") | dict.fromkeys(other, between)
            )
            assert routes[name] == expected
    names = {node["peer_id"]: node["name"] for node in report["nodes"]}
    together = [{names[peer] for peer in each["contributors"]} for each in report["aggregates"]]
    assert any(each & NORTH and each & SOUTH for each in together), "a sum of both homes"
    assert report["nodes"][0]["relayed_bytes"] > 0
