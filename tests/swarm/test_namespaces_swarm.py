"""Real network namespaces: devices reach each other as the scenario says, and nothing stays, however a run ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from scenarios.processes import namespaces, sweeper
from scenarios.processes.namespaces import NamespaceError, built
from scenarios.spec.scenario import HomeTable, Line, NetworkTable, OptionError


def able():
    """Root in a container may lack the power all the same, so one namespace is tried."""
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        return False
    tried = f"{sweeper.run_of(os.getpid())}-tried"
    made = subprocess.run(["ip", "netns", "add", tried], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["ip", "netns", "delete", tried], stderr=subprocess.DEVNULL, check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.swarm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not able(), reason="network namespaces need Linux, iproute2, and root with the power to make them"
    ),
]

PATIENCE_S = 300
GONE_S = 30.0
TWO_HOMES = NetworkTable(home=(HomeTable("north", 2), HomeTable("south", 1)))

ANSWER = """
import socket, sys
server = socket.create_server((sys.argv[1], 4001))
print(flush=True)
while True:
    connection, _ = server.accept()
    while connection.recv(65536): pass
    connection.close()
"""
CALL = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 4001), timeout=2)
connection.settimeout(60)
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
"""
HOLD = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background may ignore it
from scenarios.processes.namespaces import built
from scenarios.spec.scenario import HomeTable, NetworkTable
with built(NetworkTable(home=(HomeTable("north", 1),))) as network:
    place = network.layout.places[0]
    child = subprocess.Popen([*place.inside, "sleep", "600"], start_new_session=True)
    print(child.pid, flush=True)
    input()
"""

SCENARIO = """
name = "apart"
summary = "Two homes, a few rounds."
task = "digits"
test = "every fifth image"
rounds = {rounds}

[swarm.training]
min_steps = 20
max_steps = 40
phase_s = 1.0

[swarm.cohorts]
n_min = 3
gather_s = 0.5
step_s = 2.0

[devices]
count = {count}
data = "shard={{index}}/{{count}}"

[[network.home]]
name = "north"
devices = {half}

[[network.home]]
name = "south"
devices = {half}
"""
CUT = '\n[[network.cut]]\nhome = "south"\nround = 2\nfor_rounds = 4\n'


def of(run):
    return [name for name in sweeper.namespaces() if name.startswith(f"{run}-")]


def wait_until_gone(run):
    end = time.monotonic() + GONE_S
    while of(run):
        assert time.monotonic() < end, of(run)
        time.sleep(0.1)


def interfaces():
    told = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\d+: ([^:@]+)", told, re.MULTILINE))


class Answering:
    """A device that takes whatever others send it."""

    def __init__(self, place):
        self.place = place

    def __enter__(self):
        self.process = subprocess.Popen(
            [*self.place.inside, sys.executable, "-c", ANSWER, self.place.address], stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == b"\n"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def hears(self, caller, size=1):
        """How many seconds it took, or None if there is no way."""
        began = time.monotonic()
        command = [*caller.inside, sys.executable, "-c", CALL, self.place.address, str(size)]
        done = subprocess.run(command, stderr=subprocess.PIPE, timeout=90, check=False)
        return time.monotonic() - began if done.returncode == 0 else None


def test_devices_reach_each_other_until_a_home_is_cut_off_and_after_it_is_back():
    run = sweeper.run_of(os.getpid())
    with built(TWO_HOMES) as network:
        assert len(of(run)) == 4
        ada, bruno, chidi = network.layout.places
        with Answering(ada) as answering:
            assert answering.hears(bruno) is not None
            assert answering.hears(chidi) is not None
            network.cut("south")
            assert answering.hears(bruno) is not None, "it is at home"
            assert answering.hears(chidi) is None
            network.heal("south")
            assert answering.hears(chidi) is not None
        assert not {name for name in interfaces() if re.match("port|uplink|home|street", name)}
    assert of(run) == []


def test_a_line_carries_no_more_than_it_says():
    network = NetworkTable(home=(HomeTable("north", 2, "slow"),), line=(Line("slow", up_mbit=1.0),))
    with built(network) as stands:
        ada, bruno = stands.layout.places
        with Answering(ada) as answering:
            assert answering.hears(bruno, 250_000) >= 1.7  # 2 s, but for what a burst lets through


def test_what_the_kernel_lacks_is_refused_and_nothing_is_left(monkeypatch):
    monkeypatch.setitem(namespaces.TRIALS, "tbf", ("no_such_discipline",))
    network = NetworkTable(home=(HomeTable("north", 1, "slow"),), line=(Line("slow", up_mbit=1.0),))
    with pytest.raises(OptionError, match="has up_mbit or down_mbit, for which this kernel lacks tbf"):
        built(network).__enter__()
    assert of(sweeper.run_of(os.getpid())) == []


def test_an_error_in_the_middle_leaves_nothing():
    def fail():
        with built(TWO_HOMES) as network:
            namespaces._carry_out(("ip", "-n", network.layout.switches, "link", "delete", "uplink0"))
            network.cut("north")

    with pytest.raises(NamespaceError, match="link set uplink0"):
        fail()
    assert of(sweeper.run_of(os.getpid())) == []


@pytest.fixture
def held():
    """A process that holds a network, its run, and the process that it has started inside."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    run = sweeper.run_of(holder.pid)
    inner = psutil.Process(int(holder.stdout.readline()))
    assert len(of(run)) == 2
    yield holder, run, inner
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_nothing_not_even_what_ran_inside(held, number):
    holder, run, inner = held
    holder.send_signal(number)
    holder.wait(GONE_S)
    wait_until_gone(run)
    psutil.wait_procs([inner], timeout=GONE_S)
    assert not inner.is_running() or inner.status() == psutil.STATUS_ZOMBIE


def test_leftovers_of_dead_runs_are_removed_and_those_of_the_living_stay(held):
    """The sweeper itself may have been killed, say with everything else in its container."""
    _, living, _ = held
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = sweeper.run_of(process.pid)
    process.communicate()
    for part in ("net", "0"):
        subprocess.run(["ip", "netns", "add", f"{dead}-{part}"], check=True)
    assert dead in sweeper.sweep_leftovers()
    assert of(dead) == []
    assert len(of(living)) == 2


# --- gossamer swarm --namespaces -----------------------------------------------------------------------------


@pytest.fixture
def swarm():
    """Starts `gossamer swarm --namespaces` in a folder of its own."""
    # Not tmp_path: a unix socket's path has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        runners = []

        def start(text, *arguments):
            (Path(folder) / "s.toml").write_text(text)
            runners.append(
                subprocess.Popen(
                    [sys.executable, "-m", "node", "swarm", "s.toml", "--namespaces", *arguments],
                    cwd=folder,
                    env=os.environ | {"TMPDIR": folder},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
            return runners[0], Path(folder)

        yield start
        for runner in runners:
            runner.kill()
            runner.communicate()


def daemons_of(runner):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GOSSAMER_PARENT") == str(runner.pid):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_two_homes_learn_apart_and_become_one_swarm_again(swarm):
    runner, folder = swarm(SCENARIO.format(rounds=14, count=6, half=3) + CUT, "--json", "r.json")
    run = sweeper.run_of(runner.pid)
    _, err = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 0, err
    assert of(run) == []
    report = json.loads((folder / "r.json").read_text())
    assert len({node["replica_sha256"] for node in report["nodes"]}) == 1
    (cut,) = report["cuts"]
    assert cut["began"]["round"] >= 2
    assert cut["healed"]["round"] >= cut["began"]["round"] + 4
    assert [(side["homes"], len(side["devices"])) for side in cut["sides"]] == [
        (["north"], 3),
        (["south"], 3),
    ]
    assert all(side["accuracy"] > 0.3 for side in cut["sides"])
    assert cut["equal"]["at_s"] > cut["healed"]["at_s"] > cut["began"]["at_s"]
    assert cut["accuracy_equal"] > 0.6
    peers = {node["name"]: node["peer_id"] for node in report["nodes"]}
    south = {peers[name] for name in cut["sides"][1]["devices"]}
    apart = [each for each in report["aggregates"] if set(each["contributors"]) <= south]
    assert apart, "the home that was cut off has gone on"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_swarm_that_is_killed_leaves_no_daemon_and_no_namespace(swarm, number, code):
    runner, _ = swarm(SCENARIO.format(rounds=1000, count=4, half=2))
    run = sweeper.run_of(runner.pid)
    for line in runner.stderr:
        if re.search("training  devices 4/4", line):
            break
    assert len(of(run)) == 5
    daemons = daemons_of(runner)
    assert len(daemons) >= 4
    runner.send_signal(number)
    assert runner.wait(GONE_S) == code
    wait_until_gone(run)
    psutil.wait_procs(daemons, timeout=GONE_S)
    assert not [each for each in daemons if each.is_running()]
