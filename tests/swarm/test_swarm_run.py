"""`gossamer swarm` as a person runs it: real daemons that learn, crash and come back, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PATIENCE_S = 120

HEAD = """
name = "small"
summary = "A few devices, a few rounds."
task = "digits"
test = "every fifth image"
rounds = {rounds}

[swarm.training]
min_steps = 20
max_steps = 40

[swarm.cohorts]
n_min = 3
gather_s = 0.5
step_s = 2.0
"""
COUNTED = '\n[devices]\ncount = {count}\ndata = "shard={{index}}/{{count}}"\n'


class Shell:
    """A folder, and commands in it whose temporary files and whose daemons can be told from everybody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.runners: list[subprocess.Popen[str]] = []

    def swarm(self, text: str, *arguments: str) -> subprocess.Popen[str]:
        (self.folder / "s.toml").write_text(text)
        runner = subprocess.Popen(
            [sys.executable, "-m", "node", "swarm", "s.toml", *arguments],
            cwd=self.folder,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.runners.append(runner)
        return runner

    def left(self, runner: subprocess.Popen[str]) -> list[psutil.Process]:
        """Daemons and trainers of this run that run: all of them inherit the runner's number."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("GOSSAMER_PARENT") == str(runner.pid)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def shell() -> Iterator[Shell]:
    # Not tmp_path: a unix socket's path has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        opened = Shell(Path(folder))
        yield opened
        for runner in opened.runners:
            for process in [*opened.left(runner), runner]:
                process.kill()
            runner.communicate()


def until(runner: subprocess.Popen[str], pattern: str) -> None:
    """Read its progress up to a line like this."""
    assert runner.stderr is not None
    seen = []
    for line in runner.stderr:
        seen.append(line)
        if re.search(pattern, line):
            return
    raise AssertionError("".join(seen))


def test_a_small_swarm_learns_one_model_and_leaves_nothing_behind(shell):
    runner = shell.swarm(
        HEAD.format(rounds=9) + COUNTED.format(count=9), "--nodes", "4", "--rounds", "3", "--json", "r.json"
    )
    out, err = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 0, err
    report = json.loads((shell.folder / "r.json").read_text())
    assert (report["scenario"], report["rounds"]) == ("small", 3)
    nodes, aggregates = report["nodes"], report["aggregates"]
    assert [node["name"] for node in nodes] == ["Ada", "Bruno", "Chidi", "Dalia"]
    assert len({node["replica_sha256"] for node in nodes}) == 1
    assert len({node["accuracy_swarm"] for node in nodes}) == 1
    assert nodes[0]["accuracy_swarm"] > 0.6
    assert all(0.3 < node["accuracy_alone"] <= 1 for node in nodes)
    assert all(node["bytes_sent"] > 4 * 2410 and node["bytes_received"] > 0 for node in nodes)
    assert all(
        node["cpu_s"][part] > 0 and node["pss_mb"][part] > 0 for node in nodes for part in node["cpu_s"]
    )
    peers = {node["peer_id"] for node in nodes}
    for aggregate in aggregates:
        assert len(aggregate["contributors"]) >= 3
        assert set(aggregate["contributors"]) <= set(aggregate["roster"]) <= peers
        assert aggregate["weight"] > 0
    given = sum(len(aggregate["contributors"]) for aggregate in aggregates)
    assert given == sum(node["contributions"] for node in nodes)
    assert report["phases_s"]
    assert report["bytes_by_kind"]["MASKED"]["sent"] > 0
    assert "replicas are the same to the last bit" in out
    assert "at least" in out
    assert "training" in err
    assert shell.left(runner) == []
    assert list(shell.temporary.iterdir()) == []


def test_ctrl_c_ends_everything_within_five_seconds(shell):
    runner = shell.swarm(HEAD.format(rounds=100_000) + COUNTED.format(count=3))
    until(runner, "training")
    assert len(shell.left(runner)) >= 3
    os.killpg(runner.pid, signal.SIGINT)
    _, err = runner.communicate(timeout=5)
    assert runner.returncode == 130
    assert err.splitlines()[-1] == "gossamer: interrupted"
    assert shell.left(runner) == []
    assert list(shell.temporary.iterdir()) == []


def test_the_daemons_do_not_outlive_a_runner_that_is_killed(shell):
    runner = shell.swarm(HEAD.format(rounds=100_000) + COUNTED.format(count=3))
    until(runner, "training")
    daemons = shell.left(runner)
    runner.kill()
    runner.communicate()
    _, alive = psutil.wait_procs(daemons, timeout=15)
    assert alive == []


# Ada is the first to be up; who else is in a cohort of these quick rounds depends on the machine.
FAULTS = """
[[fault]]
action = "restart"
round = 2
phase = "MASKED"
node = "Ada"
after_rounds = 2

[[fault]]
action = "pause"
round = 4
phase = "SHARES"
role = "member"
for_s = 0.5

[[fault]]
action = "kill"
round = 6
phase = "MASKED"
role = "aggregator"
"""


def test_the_dead_come_back_and_all_survivors_end_with_the_same_bits(shell):
    runner = shell.swarm(
        HEAD.format(rounds=12) + COUNTED.format(count=6) + FAULTS, "--json", "r.json", "--keep", "homes"
    )
    _, err = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 0, err
    report = json.loads((shell.folder / "r.json").read_text())
    restarted, paused, killed = report["faults"]
    assert restarted["device"] == "Ada"
    assert restarted["over_s"] > restarted["at_s"]
    assert paused["over_s"] >= paused["at_s"] + 0.5
    assert killed["over_s"] is None
    everybody = {"Ada", "Bruno", "Chidi", "Dalia", "Emre", "Freya"}
    assert {node["name"] for node in report["nodes"]} == everybody - {killed["device"]}
    assert len({node["replica_sha256"] for node in report["nodes"]}) == 1
    assert report["rounds"] == 12
    assert shell.left(runner) == []
    homes = {path.name for path in (shell.folder / "homes").iterdir() if path.is_dir()}
    assert homes == everybody
    assert report["homes"].endswith("homes")


def test_a_device_that_cannot_start_is_named_with_its_last_words(shell):
    listed = "".join(
        f'\n[[device]]\nname = "{name}"\ndata = "subjects={subject}"\n'
        for name, subject in (("Ada", 1), ("Bruno", 2), ("Chidi", 9))
    )
    runner = shell.swarm(HEAD.format(rounds=3).replace('"digits"', '"watch"') + listed)
    _, err = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 1
    assert "Chidi's daemon ended with exit code 4" in err
    assert "subject 9 is held out for testing" in err
    (kept,) = shell.temporary.iterdir()
    assert f"kept in {kept}" in err
    assert shell.left(runner) == []
