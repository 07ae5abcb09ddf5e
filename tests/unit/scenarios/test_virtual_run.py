"""`gossamer simulate`: what a scenario says of devices, and what a run leaves behind."""

import json
import math
import re
from statistics import mean

import pytest

from gossip.errors import GossamerError
from node.config.errors import ConfigError
from node.virtual.event_queue import Agenda
from scenarios import cli
from scenarios.plan import plan
from scenarios.reports.progress import PlainDisplay
from scenarios.spec.scenario import DEVICES_MAX, OptionError, find_scenario
from scenarios.virtual import devices
from scenarios.virtual import run as virtual_run
from scenarios.virtual.run import Broken, Run

SCENARIO = """
name = "tiny"
summary = "A few devices with a part of the digits each."
task = "digits"
test = "every fifth image"
rounds = 2

[swarm.training]
min_steps = 2
max_steps = 4

[swarm.cohorts]
gather_s = 0.5
step_s = 1.0

[devices]
count = {count}
data = "shard={{index}}/{{count}}"
{more}
"""
STRAGGLERS = """
[hardware]
step_s = 0.02
up_mbit = 20.0

[[class]]
name = "straggler"
share = 0.75
step_s = 0.2
up_mbit = 1.0
"""


@pytest.fixture
def scenario(tmp_path):
    def write(count=4, more=""):
        path = tmp_path / "tiny.toml"
        path.write_text(SCENARIO.format(count=count, more=more))
        return path

    return write


def silent():
    return PlainDisplay(lambda _line: None)


def test_a_class_gets_its_share_of_devices_drawn_by_the_seed(scenario):
    path = scenario(40, STRAGGLERS)
    chosen = plan(path)
    slow = [index for index, table in enumerate(chosen.hardware) if table.step_s == 0.2]
    assert len(slow) == 30
    assert {chosen.hardware[index].up_mbit for index in slow} == {1.0}
    assert {table.down_mbit for table in chosen.hardware} == {1000.0}
    fast = [table for table in chosen.hardware if table.step_s == 0.02]
    assert len(fast) == 10
    assert plan(path).hardware == chosen.hardware
    assert plan(path, seed=1).hardware != chosen.hardware


def test_classes_of_more_than_all_devices_are_refused(scenario):
    twice = STRAGGLERS + STRAGGLERS[STRAGGLERS.index("[[class]]") :]
    with pytest.raises(ConfigError, match=r"the shares add up to 1\.5"):
        plan(scenario(8, twice))


def test_a_misspelt_class_key_is_named(scenario):
    with pytest.raises(ConfigError, match="did you mean up_mbit"):
        plan(scenario(8, STRAGGLERS.replace("up_mbit = 1.0", "up_mbits = 1.0")))


def test_many_devices_can_be_simulated_and_not_started(scenario):
    path = scenario(DEVICES_MAX + 1)
    with pytest.raises(OptionError, match="gossamer simulate"):
        plan(path)
    assert len(plan(path, devices_max=1000).devices) == DEVICES_MAX + 1
    with pytest.raises(OptionError, match="expected 1 to 256"):
        plan(path, nodes=300)


def test_a_swarm_of_real_devices_says_that_it_has_no_classes(scenario, monkeypatch, capsys):
    def stop(*_arguments, **_options):
        raise GossamerError("enough")

    monkeypatch.setattr(cli, "run", stop)
    assert cli.swarm(str(scenario(4, STRAGGLERS))) == 1
    assert "[hardware] and [[class]] are for `gossamer simulate`" in capsys.readouterr().err


def test_a_run_leaves_its_figures_in_a_file_and_a_table(scenario, tmp_path, capsys):
    told = tmp_path / "told.json"
    assert cli.simulate(str(scenario()), seeds=2, json=told) == 0
    report = json.loads(told.read_text())
    assert (report["scenario"], report["nodes"], report["target_accuracy"]) == ("tiny", 4, None)
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    for run in report["runs"]:
        assert run["algorithm"] == "gossamer"
        assert run["masks"] is True
        assert run["reached"] is False
        assert run["rounds"] == 2
        assert run["bytes_per_device"] > sum(run["sent_by_kind"].values())
        assert run["local_steps_per_device"] >= 4
        assert 0 < run["worst_accuracy"] <= run["final_accuracy"] <= 1
        assert run["wall_s"] > run["training_wall_s"] > 0
        assert len(run["trace_sha256"]) == 64
    assert report["runs"][0]["trace_sha256"] != report["runs"][1]["trace_sha256"]
    shown = capsys.readouterr()
    assert report["runs"][1]["trace_sha256"] in shown.out
    assert "virtual s  gossamer" in shown.err
    assert "run 1 of 2: gossamer, seed 0\n" in shown.err
    assert re.search(
        r"run 2 of 2: gossamer, seed 1: [\d.]+ % after [\d.]+ virtual s; \d+ KB a device, 2 rounds", shown.err
    )


def test_a_run_ends_when_the_target_is_reached(scenario, tmp_path):
    told = tmp_path / "told.json"
    assert cli.simulate(str(scenario()), rounds=30, until_accuracy=0.15, json=told) == 0
    report = json.loads(told.read_text())
    [run] = report["runs"]
    assert report["target_accuracy"] == 0.15
    assert run["reached"] is True
    assert run["rounds"] < 30
    assert run["final_accuracy"] >= 0.15


def test_an_interrupted_run_keeps_what_was_measured(scenario, tmp_path, monkeypatch, capsys):
    told = tmp_path / "told.json"
    real, seconds = virtual_run.VirtualSwarm.run, []

    def run(self, until_s):
        seconds.append(until_s)
        if len(seconds) == 4:
            raise KeyboardInterrupt
        real(self, until_s)

    monkeypatch.setattr(virtual_run.VirtualSwarm, "run", run)
    assert cli.simulate(str(scenario()), rounds=500, seeds=3, json=told) == 130
    [measured] = json.loads(told.read_text())["runs"]
    assert measured["time_s"] == pytest.approx(3.0)
    assert measured["bytes_per_device"] > 0
    assert "4 devices in virtual time" in capsys.readouterr().out


def test_a_broken_invariant_names_the_command_that_replays_it(scenario, monkeypatch):
    simulation = Run(plan(scenario(), rounds=3, seed=5), silent())

    def differ(now):
        statuses.append(now)
        return {"history_digest": "same", "replica_sha256": str(len(statuses))}

    statuses = []
    simulation.world.run(2.5)
    for device in simulation.world.devices:
        monkeypatch.setattr(device.core, "status", differ)
    with pytest.raises(Broken, match=r"I3: .*replay: gossamer simulate tiny --nodes 4 --seed 5 --rounds 3"):
        simulation.go()


def test_a_bug_names_the_command_that_replays_it(scenario, monkeypatch):
    simulation = Run(plan(scenario(), rounds=3), silent())
    simulation.world.run(1.0)
    monkeypatch.setattr(simulation.world.devices[0].core, "handle", lambda _event, _now: 1 // 0)
    with pytest.raises(Broken, match=r"ZeroDivisionError: .*event \d+\); replay: gossamer simulate tiny"):
        simulation.go()


def test_a_swarm_that_stands_still_is_given_up(scenario):
    simulation = Run(plan(scenario(), rounds=3), silent())
    for device in simulation.world.devices[2:]:
        simulation.world.switch_on(device)
        simulation.world.switch_off(device)
        device.disk.clear()
        simulation.world.switch_on = lambda _device: None
    everything, simulation.world._agenda = simulation.world._agenda, Agenda()
    for entry in everything.take(math.inf):
        if entry[3] and entry[3][0] in simulation.world.devices[:2]:
            simulation.world._agenda.add(entry)
    simulation.go()
    assert "no device has come any further" in simulation.report().problem


def test_devices_are_away_for_the_share_of_time_that_is_said(scenario):
    chosen = plan(scenario(8, "[hardware]\naway = 0.2\naway_s = 10.0\n"))
    horizon_s = 20_000.0
    shares = []
    for index, table in enumerate(chosen.hardware):
        off_s = 0.0
        for gone_at, back_at in devices.absences(table, devices.Stream("away", 0, index)):
            if gone_at > horizon_s:
                break
            off_s += back_at - gone_at
        shares.append(off_s / horizon_s)
    assert mean(shares) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"until_accuracy": 80.0}, "--until-accuracy 80.0"),
        ({"nodes": 20_000}, "--nodes 20000"),
    ],
)
def test_options_that_cannot_be_are_refused(scenario, capsys, options, told):
    assert cli.simulate(str(scenario()), **options) == 2
    assert told in capsys.readouterr().err


def test_the_packaged_scenarios_can_be_simulated():
    for name in ("quickstart", "digits", "faults"):
        chosen = plan(find_scenario(name))
        assert len(chosen.hardware) == len(chosen.devices)
        assert not chosen.has_hardware


CUT_OFF = """
[[network.home]]
name = "north"
devices = 3

[[network.home]]
name = "south"
devices = 3

[[network.cut]]
home = "south"
round = 2
for_s = 70.0
"""


def test_a_scenarios_cut_happens_in_virtual_time_too(scenario, capsys):
    path = scenario(6, CUT_OFF)
    assert cli.simulate(str(path), rounds=30) == 0
    told = capsys.readouterr()
    assert "south is cut off" in told.err
    assert "All replicas were equal" in told.out
    run = Run(plan(path, rounds=30), silent())
    run.go()
    (cut,) = run.report().cuts
    assert cut.healed.at_s == pytest.approx(cut.began.at_s + 70, abs=1)
    assert [side.devices for side in cut.sides] == [
        [each.name for each in plan(path).devices[:3]],
        [each.name for each in plan(path).devices[3:]],
    ]
    assert min(side.round for side in cut.sides) > cut.began.round, "both sides went on"
    assert cut.rounds_to_equal <= 5
