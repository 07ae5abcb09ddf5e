"""Daemons as a person meets them: real processes, started, asked, refused, killed and stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from crypto.identity import Identity
from node.control_client import call
from node.home import Home, NotRunning

pytestmark = pytest.mark.swarm

COMMAND = (sys.executable, "-P", "-m", "node")
PATIENCE_S = 60
STOP_S = 5


class Device:
    """One home, and the processes that the test has started on it."""

    def __init__(self, path: Path):
        self.home, self.started = Home(path), []

    def run(self, *words, environ=None):
        """A command that ends by itself."""
        told = subprocess.run(
            [*COMMAND, *words, "--home", str(self.home.path)],
            env=os.environ | (environ or {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in told.stderr
        return told

    def up(self, *words, environ=None):
        """A daemon in the foreground, in a group of its own."""
        process = subprocess.Popen(
            [*COMMAND, "up", "--home", str(self.home.path), *words],
            env=os.environ | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def listening(self, *words, environ=None):
        """A daemon that is up, and its address."""
        process = self.up(*words, environ=environ)
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        return process, address

    def status(self):
        return call(self.home, "GET", "/status")

    def until(self, reached):
        """Ask until the answer is right; pytest's time limit is the end of this wait."""
        while True:
            try:
                status = self.status()
            except NotRunning:
                continue
            if reached(status):
                return status

    def configure(self, old, new):
        text = self.home.config.read_text()
        assert old in text
        self.home.config.write_text(text.replace(old, new))

    def files(self):
        """What a refusal must not change: everything but the log and the lock."""
        return {
            path.name: path.read_bytes()
            for path in self.home.path.iterdir()
            if path.name not in {"daemon.log", "daemon.lock", "daemon.err"}
        }


@pytest.fixture
def device(tmp_path):
    made = []

    def make(name="one", *, init=("--task", "digits")):
        made.append(device := Device(tmp_path / name))
        assert device.run("init", "--name", name, *init).returncode == 0
        return device

    yield make
    for each in made:
        for process in each.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process.stderr.close()


def ends(process, code, within_s=STOP_S):
    """The process ends by itself with this code, and nothing of its group is left."""
    group = process.pid
    assert process.wait(within_s) == code, process.stderr.read()
    left = [each.pid for each in psutil.process_iter() if group == _group_of(each.pid)]
    assert left == []
    return process.stderr.read()


def _group_of(pid):
    try:
        return os.getpgid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ProcessLookupError):
        return None


def test_a_daemon_from_its_first_moment_to_ctrl_c(device):
    one = device()
    process = one.up()
    first = one.until(lambda _: True)
    assert (first["state"], first["round"], first["pid"]) == ("starting", None, process.pid)
    address = process.stdout.readline().strip()
    now = one.status()
    assert (now["state"], now["addresses"]) == ("running", [address])
    assert "2 more devices" in now["waits_for"]
    second = one.run("up")
    assert (second.returncode, second.stderr.count("\n")) == (5, 1)
    assert one.run("up", "--detach").returncode == 5
    assert "2 more devices" in one.run("status").stdout
    assert one.run("peers").returncode == 0
    process.send_signal(signal.SIGINT)
    while "stopping" not in one.home.log.read_text():  # of two signals at once, either may be seen first
        pass
    while process.poll() is None:
        process.terminate()  # somebody impatient
    said = ends(process, 130)
    assert "Traceback" not in said
    assert f"gossamer up --bootstrap {address}" in said
    assert not (one.home.path / "gossamer.sock").exists()
    assert not one.home.pid.exists()
    assert one.run("status").returncode == 3


def test_a_daemon_in_the_background(device):
    one = device()
    up = one.run("up", "--detach")
    assert up.returncode == 0
    status = one.status()
    assert up.stdout.split() == status["addresses"]
    trainer = psutil.Process(status["trainer_pid"])
    assert one.run("down").returncode == 0
    assert _group_of(status["pid"]) is None
    assert not trainer.is_running()
    assert one.run("down").returncode == 3


def test_it_can_be_told_to_stop_at_any_moment_of_its_start(device):
    one = device()
    process = one.up()
    one.until(lambda status: status["state"] == "starting")
    process.terminate()
    ends(process, 0)


def test_it_ends_with_the_process_that_it_was_told_to_live_for(device):
    one = device()
    assert one.run("up", environ={"GOSSAMER_PARENT": "init"}).returncode == 4
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as parent:
        process, _ = one.listening(environ={"GOSSAMER_PARENT": str(parent.pid)})
        parent.kill()
        assert "parent_gone" in ends(process, 0)


def test_after_a_crash_it_is_the_same_device_in_the_same_swarm(device):
    one = device()
    process, address = one.listening()
    before = one.status()
    process.kill()
    trainer = psutil.Process(before["trainer_pid"])
    process.wait()
    trainer.wait(STOP_S)
    assert one.run("status").returncode == 3
    process, _ = one.listening("--bootstrap", address)
    after = one.status()
    assert (after["swarm"], after["peer_id"]) == (before["swarm"], before["peer_id"])
    assert '"boot": 2' in one.home.log.read_text()
    process.terminate()
    ends(process, 0)


def test_a_second_device_joins_the_first_and_both_wait_for_a_third(device):
    one, two = device("one"), device("two")
    first, address = one.listening()
    second, _ = two.listening("--bootstrap", address)
    for each in (one, two):
        status = each.until(lambda status: len(status["neighbours"]) == 1)
        assert "1 more device: 2 of at least 3 are here" in status["waits_for"]
    assert one.status()["swarm"] == two.status()["swarm"]
    assert two.status()["peer_id"] in one.run("peers").stdout
    assert "trusted on first use" in two.home.log.read_text()
    for process in (first, second):
        process.terminate()
        ends(process, 0)


def test_it_looks_for_its_swarm_for_as_long_as_it_takes(device):
    one, two = device("one"), device("two")
    first, address = one.listening()
    first.terminate()
    ends(first, 0)
    process = two.up("--bootstrap", address)
    status = two.until(lambda status: "so far:" in status["waits_for"])
    assert (status["state"], status["swarm"]) == ("joining", None)
    process.send_signal(signal.SIGINT)
    ends(process, 130)
    assert not (two.home.path / "swarm.manifest").exists()


def test_a_listed_swarm_admits_nobody_else(device):
    one, two = device("one"), device("two")
    founder = Identity(one.home.key.read_bytes()).peer_id
    one.configure('admit = "open"', 'admit = "members"')
    one.configure("members = []", f'members = ["{founder}"]')
    first, address = one.listening()
    refused = two.run("up", "--bootstrap", address)
    assert (refused.returncode, refused.stderr.splitlines()[-1].count("admits listed members only")) == (1, 1)
    assert not (two.home.path / "swarm.manifest").exists()
    first.terminate()
    ends(first, 0)


def test_a_trainer_that_dies_is_replaced(device):
    one = device()
    process, _ = one.listening()
    before = one.until(lambda status: status["trainer_pid"])
    os.kill(before["trainer_pid"], signal.SIGKILL)
    one.until(lambda status: status["trainer_pid"] not in {None, before["trainer_pid"]})
    one.until(lambda status: "2 more devices" in status["waits_for"])
    process.terminate()
    assert "trainer_failed" in ends(process, 0)


def the_last_line(told):
    """An error is the last line that a foreground daemon writes; all before it are its log."""
    return told.stderr.splitlines()[-1]


def test_a_port_in_use_is_refused(device):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one = device(init=("--task", "digits", "--listen", f"/ip4/127.0.0.1/tcp/{port}"))
        told = one.run("up")
        assert (told.returncode, the_last_line(told)[:10]) == (1, "gossamer: ")
        assert f"port {port} on 127.0.0.1 is in use" in the_last_line(told)
        background = one.run("up", "--detach")
        assert (background.returncode, background.stderr.count("\n")) == (1, 1)
        assert f"port {port} on 127.0.0.1 is in use" in background.stderr


@pytest.mark.parametrize("damage", ["random bytes", "half of it"])
def test_a_state_file_that_cannot_be_trusted_is_refused_and_kept(device, damage):
    one = device()
    process, _ = one.listening()
    process.terminate()
    ends(process, 0)
    whole = one.home.state.read_bytes()
    one.home.state.write_bytes(os.urandom(len(whole)) if damage == "random bytes" else whole[:5000])
    before = one.files()
    told = one.run("up")
    assert (told.returncode, "state.db: cannot be used" in the_last_line(told)) == (1, True), told.stderr
    assert one.files() == before


def test_a_manifest_that_cannot_be_trusted_is_refused(device):
    one = device()
    (one.home.path / "swarm.manifest").write_bytes(b"\x93\x01\x02\x03")
    told = one.run("up")
    assert (told.returncode, "swarm.manifest: cannot be used" in the_last_line(told)) == (4, True)


def test_data_that_is_not_there_is_refused_and_no_swarm_is_founded(device, tmp_path):
    one = device(init=("--task", "watch", "--data", "subjects=99"))
    told = one.run("up")
    assert (told.returncode, "the task cannot be used" in the_last_line(told)) == (4, True)
    assert not (one.home.path / "swarm.manifest").exists()
    folder = tmp_path / "my data"
    folder.mkdir()
    one.configure('# folder = "..."', f'folder = "{folder}"')
    assert one.run("up").returncode == 4
    shutil.rmtree(folder)
    told = one.run("up")
    assert (told.returncode, "task.folder" in the_last_line(told)) == (4, True)


def test_a_full_disk_does_not_leave_half_a_daemon(device):
    one = device()
    told = subprocess.run(
        ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *COMMAND, "up", "--home", str(one.home.path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert told.returncode == 1
    assert "the disk takes no more" in the_last_line(told) or "cannot be made" in the_last_line(told), (
        told.stderr
    )
    process, _ = one.listening()
    process.terminate()
    ends(process, 0)


def test_a_pause_of_the_process_is_no_end_of_it(device):
    one = device()
    process, _ = one.listening()
    process.send_signal(signal.SIGSTOP)
    told = one.run("status")
    assert (told.returncode, "gave no answer" in told.stderr) == (1, True)
    process.send_signal(signal.SIGCONT)
    assert one.status()["state"] == "running"
    process.terminate()
    ends(process, 0)
