"""What Gossamer is compared with: figures that can be computed by hand, and runs that can be repeated."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from node.config.errors import ConfigError
from scenarios import cli
from scenarios.baselines import run as running
from scenarios.baselines.algorithm import Stage
from scenarios.baselines.peers import Dpsgd, mean_of, regular_graph
from scenarios.baselines.run import ALGORITHMS, BaselineRun
from scenarios.baselines.server import FedAvg, FedBuff, Ftte, TopK, staleness_weight, variance_weights
from scenarios.baselines.tuning import Trial, best, crossing, tune
from scenarios.baselines.world import HEADER_BYTES, SERVER, World
from scenarios.plan import plan
from scenarios.reports.progress import PlainDisplay
from scenarios.reports.virtual import Point
from scenarios.spec.baselines import (
    NAMES,
    BaselineTables,
    DpsgdSettings,
    FedAvgSettings,
    FedBuffSettings,
    FtteSettings,
    TopKSettings,
)
from scenarios.virtual.run import TimedTraining

SCENARIO = """
name = "tiny"
summary = "A few devices with a part of the digits each."
task = "digits"
test = "every fifth image"
rounds = 3
target_accuracy = 0.5
limit_s = 400.0

[devices]
count = {count}
data = "dirichlet={{index}}/{{count}}@0.3"

[hardware]
step_s = 0.1
up_mbit = 1.0
down_mbit = 8.0
latency_s = 0.05
jitter_s = 0.0
{more}
"""
MODEL_BYTES = 4 * 2410
MESSAGE_BYTES = MODEL_BYTES + HEADER_BYTES


@pytest.fixture
def scenario(tmp_path):
    def write(count=12, more=""):
        path = tmp_path / "tiny.toml"
        path.write_text(SCENARIO.format(count=count, more=more))
        return path

    return write


@pytest.fixture
def tiny(scenario):
    def chosen(count=12, more="", **choices):
        return plan(scenario(count, more), **choices)

    return chosen


def silent():
    return PlainDisplay(lambda _line: None)


def finished(chosen, algorithm, settings=None):
    run = BaselineRun(chosen, algorithm, silent(), settings=settings)
    run.go()
    return run.report()


class Hand:
    """Training that answers what is said, so that the sums can be done by hand."""

    def __init__(self, deltas, examples=None):
        self.deltas, self.held = deltas, examples
        self.trainable = None

    def examples(self, device):
        return self.held[device]

    def begin(self, device, base):
        pass

    def advance(self, device, steps):
        pass

    def freeze(self, device):
        delta = self.deltas[device]
        if delta is None:
            raise ArithmeticError
        return np.array(delta, np.float32), 1, 0.0

    def restrict(self, trainable):
        self.trainable = trainable


def staged(chosen, deltas, examples=None, size=4):
    world = World(chosen)
    return Stage(
        world,
        Hand(deltas, examples),
        np.zeros(size, np.float32),
        np.random.RandomState(0),
        [0] * world.devices,
    )


def test_the_baselines_are_the_nine_names_without_gossamer():
    assert tuple(ALGORITHMS) == NAMES == BaselineTables.__struct_fields__


# --- time and bytes ------------------------------------------------------------------------------------------


def test_a_message_takes_the_time_of_the_devices_own_link(tiny):
    world, came = World(tiny()), []
    left_at = world.send(0, SERVER, 1000 - HEADER_BYTES, lambda: came.append(world.now))
    assert left_at == pytest.approx(8000 / 1e6)
    while world.step():
        pass
    assert came == [pytest.approx(0.008 + 0.05)]
    world.send(SERVER, 0, 1000 - HEADER_BYTES, lambda: came.append(world.now))
    while world.step():
        pass
    assert came[1] - came[0] == pytest.approx(0.05 + 8000 / 8e6)
    assert (world.traffic[0].sent, world.traffic[0].received, world.moved_bytes) == (1000, 1000, 2000)


def test_between_two_devices_both_links_count(tiny):
    world, came = World(tiny()), []
    world.send(0, 1, 1000 - HEADER_BYTES, lambda: came.append(world.now))
    while world.step():
        pass
    assert came == [pytest.approx(0.008 + 0.1)]  # the downlink is faster and takes the bytes as they come
    assert (world.traffic[0].sent, world.traffic[1].received) == (1000, 1000)


def test_a_round_of_fedavg_by_hand(tiny):
    chosen = replace(tiny(4, more=""), target_accuracy=0.01)
    report = finished(chosen, "fedavg", FedAvgSettings(local_steps=5))
    down_s, up_s = 0.05 + 8 * MESSAGE_BYTES / 8e6, 0.05 + 8 * MESSAGE_BYTES / 1e6
    assert report.reached
    assert report.rounds == 1
    assert report.local_steps_per_device == 5
    assert report.bytes_per_device == 3 * MESSAGE_BYTES  # down, up, and the last broadcast
    assert report.broadcast_bytes == MESSAGE_BYTES
    assert report.time_s - report.broadcast_s == pytest.approx(down_s + 5 * 0.1 + up_s, abs=0.001)
    assert report.broadcast_s == pytest.approx(down_s, abs=0.001)
    assert report.curve[-1].bytes_per_device == 2 * MESSAGE_BYTES
    assert report.curve[-1].accuracy == report.final_accuracy == report.worst_accuracy
    assert report.masks is False
    assert report.parameters["local_steps"] == 5


def test_a_round_of_dpsgd_by_hand(tiny):
    stage = staged(tiny(6), [[1, 0, 0, 0]] * 6)
    algorithm = Dpsgd(stage, DpsgdSettings(local_steps=5, degree=2))
    run_rounds(algorithm, stage, 1)
    # Two copies out, one after the other, and two in; somebody's both come last, and one of them waits for the downlink.
    size_s = 8 * (16 + HEADER_BYTES) / 1e6
    assert stage.world.moved_bytes == 6 * 4 * (16 + HEADER_BYTES)
    assert stage.world.now == pytest.approx(5 * 0.1 + 2 * size_s + 0.1 + size_s / 8)


# --- what is added up ----------------------------------------------------------------------------------------


def run_rounds(algorithm, stage, rounds):
    algorithm.start()
    while algorithm.rounds < rounds:
        assert stage.world.step()
    return algorithm.models()[0]


def test_fedavg_weighs_by_examples(tiny):
    deltas = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]]
    stage = staged(tiny(4), deltas, [10, 20, 30, 40])
    model = run_rounds(FedAvg(stage, FedAvgSettings()), stage, 1)
    np.testing.assert_allclose(model, [0.1, 0.4, 0.9, 1.6], rtol=1e-6)


def test_fedavg_goes_on_without_a_device_that_diverged(tiny):
    stage = staged(tiny(4), [[1, 0, 0, 0], None, [1, 0, 0, 0], None], [1, 1, 1, 1])
    model = run_rounds(FedAvg(stage, FedAvgSettings()), stage, 2)
    np.testing.assert_allclose(model, [2, 0, 0, 0])


def test_fedavg_with_all_devices_and_one_step_is_a_step_on_the_mean_gradient(tiny):
    chosen = tiny(4)
    training = TimedTraining(chosen, lambda: 0.0)
    base = (np.frombuffer(training.opened.initial, "<i8") / 2**24).astype(np.float32)
    weights, steps = [], []
    for device in range(4):
        training.begin(device, base)
        training.advance(device, 1)
        steps.append(training.freeze(device)[0])
        weights.append(training.examples(device))
    mean_step = np.average(np.array(steps, np.float64), axis=0, weights=weights)
    run = BaselineRun(chosen, "fedavg", silent(), settings=FedAvgSettings(local_steps=1))
    run.algorithm.start()
    while run.algorithm.rounds < 1:
        assert run.world.step()
    [model] = run.algorithm.models()
    np.testing.assert_allclose(model, base + mean_step, atol=1e-6)


def test_staleness_halves_the_weight_after_three_versions():
    assert [staleness_weight(age) for age in (0, 3, 8)] == [1, 0.5, pytest.approx(1 / 3)]


def test_fedbuff_adds_the_mean_of_a_buffer_by_age(tiny):
    stage = staged(tiny(4), [])
    algorithm = FedBuff(stage, FedBuffSettings(buffer=2))
    change = algorithm.merged([np.float32([4, 0, 0, 0]), np.float32([0, 4, 0, 0])], [0, 3])
    np.testing.assert_allclose(change, [2, 1, 0, 0])


def test_fedbuff_keeps_as_many_devices_busy_as_it_may(tiny):
    stage = staged(tiny(8), [[1, 0, 0, 0]] * 8)
    algorithm = FedBuff(stage, FedBuffSettings(concurrency=0.5, buffer=2))
    algorithm.start()
    for _ in range(200):
        stage.world.step()
        assert len(algorithm._running) == 4
    assert algorithm.rounds > 3


def test_ftte_trains_and_sends_what_the_first_buffer_moved_most(tiny):
    stage = staged(tiny(4), [[0, 3, 1, 2]] * 4)
    algorithm = Ftte(stage, FtteSettings(trainable=0.5, buffer=2, concurrency=0.5))
    assert algorithm.download_bytes(0) == 16
    run_rounds(algorithm, stage, 1)
    np.testing.assert_array_equal(stage.training.trainable, [False, True, False, True])
    assert algorithm.upload_bytes(1) == 8
    assert algorithm.upload_bytes(0) == 16
    algorithm._told.clear()
    assert [algorithm.download_bytes(0), algorithm.download_bytes(0)] == [16 + 1, 8]
    before = algorithm.models()[0]
    after = run_rounds(algorithm, stage, 2)
    np.testing.assert_array_equal(before != after, [False, True, False, True])


def test_unsteady_changes_weigh_less():
    weights = variance_weights(np.array([1.0, 3.0]))
    assert weights.mean() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(2.5 / 1.5)
    np.testing.assert_array_equal(variance_weights(np.zeros(2)), [1, 1])


def test_topk_owes_what_it_did_not_send(tiny):
    stage = staged(tiny(4), [[4, 3, 0, 0]] * 4, [1] * 4)
    algorithm = TopK(stage, TopKSettings(kept=0.25))
    sent, payload = algorithm.encode(0, np.float32([4, 3, 0, 0]))
    np.testing.assert_array_equal(sent, [4, 0, 0, 0])
    assert payload == 4 + 1  # a value and a bitmap
    sent, _ = algorithm.encode(0, np.float32([4, 3, 0, 0]))
    np.testing.assert_array_equal(sent, [0, 6, 0, 0])


def test_a_graph_is_regular_and_connected():
    neighbours = regular_graph(30, 4, np.random.RandomState(3))
    assert {len(each) for each in neighbours} == {4}
    assert all(device in neighbours[other] for device, each in enumerate(neighbours) for other in each)
    reached, frontier = {0}, [0]
    while frontier:
        for other in neighbours[frontier.pop()]:
            if other not in reached:
                reached.add(other)
                frontier.append(other)
    assert len(reached) == 30


def test_dpsgd_takes_the_mean_of_the_neighbourhood(tiny):
    deltas = [[float(2**device), 0, 0, 0] for device in range(6)]
    stage = staged(tiny(6), deltas)
    algorithm = Dpsgd(stage, DpsgdSettings(degree=2))
    algorithm.start()
    while algorithm._done[0] < 1:
        assert stage.world.step()
    there = [np.array(deltas[device], np.float32) for device in (0, *algorithm.neighbours[0])]
    np.testing.assert_allclose(algorithm.models()[0], mean_of(there))


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_same_seed_is_the_same_run(tiny, algorithm):
    more = '[[class]]\nname = "slow"\nshare = 0.5\nstep_s = 0.3\nstep_s_spread = 0.5\njitter_s = 0.02\nloss = 0.01\n'
    chosen, other = (replace(tiny(6, more, seed=seed), limit_s=12.0) for seed in (0, 1))
    quick = msgspec.structs.replace(chosen.baselines.of(algorithm), local_steps=10)
    one, two = finished(chosen, algorithm, quick), finished(chosen, algorithm, quick)
    assert one.trace_sha256 == two.trace_sha256
    assert one.curve == two.curve
    assert one.final_accuracy > 0.15
    assert finished(other, algorithm, quick).trace_sha256 != one.trace_sha256
    assert (one.bytes_per_device == 0) == (algorithm == "local")


def test_a_run_beyond_its_limit_is_given_up(tiny):
    report = finished(replace(tiny(), target_accuracy=1.0, limit_s=10.0), "fedavg")
    assert not report.reached
    assert "given up after 10 virtual seconds" in report.problem
    assert report.time_s - report.broadcast_s == pytest.approx(10.0)


def test_a_run_that_gains_no_more_is_given_up(tiny, monkeypatch):
    monkeypatch.setattr(running, "PATIENCE_ROUNDS", (2, 2))
    monkeypatch.setattr(TimedTraining, "accuracy", lambda _self, _model: 0.3)
    report = finished(tiny(), "fedavg")
    assert not report.reached
    assert "no gain of" in report.problem


def test_alone_each_stops_after_its_steps(tiny):
    chosen = tiny(8, "[baselines.local]\nlocal_steps = 10\nsteps_max = 30\n")
    report = finished(replace(chosen, target_accuracy=1.0), "local")
    assert report.local_steps_per_device == 30
    assert report.bytes_per_device == 0


def test_settings_come_from_the_scenario(tiny):
    chosen = tiny(8, "[baselines.fedbuff]\nlocal_steps = 7\nlearning_rate = 0.05\nbuffer = 3\n")
    assert chosen.baselines.fedbuff == FedBuffSettings(local_steps=7, learning_rate=0.05, buffer=3)
    assert finished(replace(chosen, limit_s=3.0), "fedbuff").parameters["learning_rate"] == 0.05


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("[baselines.fedavg]\nlocal_step = 7\n", "did you mean local_steps"),
        ("[baselines.fedavg]\nbuffer = 7\n", "buffer"),
        ("[baselines.fedavgg]\nlocal_steps = 7\n", "did you mean fedavg"),
        ("[baselines.topk]\nkept = 0.0\n", "kept"),
    ],
)
def test_settings_that_there_are_not_are_refused(tiny, more, told):
    with pytest.raises(ConfigError, match=told):
        tiny(8, more)


def test_a_spread_gives_each_device_a_speed_of_its_own(tiny):
    more = '[[class]]\nname = "slow"\nshare = 0.9\nstep_s = 1.0\nstep_s_spread = 0.5\n'
    slow = [table.step_s for table in tiny(200, more).hardware if table.step_s != 0.1]
    assert len(set(slow)) == len(slow) == 180
    assert 0.5 <= min(slow) < 0.55
    assert 1.45 < max(slow) <= 1.5
    assert sum(slow) / len(slow) == pytest.approx(1.0, abs=0.05)


# --- the grid ------------------------------------------------------------------------------------------------


def test_the_grid_names_the_soonest_and_the_lightest(tiny, monkeypatch):
    monkeypatch.setattr("scenarios.baselines.tuning.RATES", (1.0, 0.5))
    monkeypatch.setattr("scenarios.baselines.tuning.STEPS", (4, 16))
    trials = list(tune(tiny(), "fedavg", [0.3, 0.5], silent()))
    assert [(trial.settings.learning_rate, trial.settings.local_steps) for trial in trials] == [
        (0.1, 4),
        (0.1, 16),
        (0.05, 4),
        (0.05, 16),
    ]
    soonest, fewest = best(trials, 0.5)
    there = [trial.crossed[0.5] for trial in trials if trial.crossed[0.5]]
    assert soonest.crossed[0.5].time_s == min(point.time_s for point in there)
    assert fewest.crossed[0.5].bytes_per_device == min(point.bytes_per_device for point in there)
    assert all(
        trial.crossed[0.3].time_s <= trial.crossed[0.5].time_s for trial in trials if trial.crossed[0.5]
    )


def test_a_curve_crosses_where_it_is_first_there():
    curve = [Point(1, 10, 0.2, 0, 0), Point(2, 20, 0.6, 0, 0), Point(3, 30, 0.5, 0, 0)]
    assert crossing(curve, 0.5).time_s == 2
    assert crossing(curve, 0.7) is None
    assert best([Trial(FedAvgSettings(), None, {0.7: None})], 0.7) is None


# --- the command line ----------------------------------------------------------------------------------------


def test_several_algorithms_and_seeds_are_one_report(scenario, tmp_path, capsys):
    told = tmp_path / "told.json"
    path = str(scenario(8, "[baselines.local]\nlocal_steps = 10\nsteps_max = 30\n"))
    assert cli.simulate(path, algorithm="fedavg,local", seeds=2, until_accuracy=0.9, json=told) == 0
    runs = json.loads(told.read_text())["runs"]
    assert [(run["algorithm"], run["seed"]) for run in runs] == [
        ("fedavg", 0),
        ("local", 0),
        ("fedavg", 1),
        ("local", 1),
    ]
    for run in runs:
        assert {"broadcast_bytes", "broadcast_s", "parameters", "curve"} <= run.keys()
        assert run["curve"][-1].keys() == {"time_s", "bytes_per_device", "accuracy", "tenth", "worst"}
    shown = capsys.readouterr()
    assert "mean" in shown.out
    assert "KB sent a device" in shown.err


def test_gossamers_own_run_has_a_curve_and_its_settings(scenario, tmp_path):
    told = tmp_path / "told.json"
    assert cli.simulate(str(scenario(6)), until_accuracy=0.15, json=told) == 0
    [run] = json.loads(told.read_text())["runs"]
    assert run["curve"]
    assert run["broadcast_bytes"] == 0
    assert run["parameters"]["cohorts.n_max"] == 16


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"algorithm": "fedavgg"},
            'there is no "fedavgg"; known: gossamer, local, fedavg, fedbuff, ftte, dpsgd',
        ),
        ({"algorithm": "fedavg,fedavg"}, "twice"),
        ({"algorithm": ""}, "known: gossamer"),
        ({"tune": True}, "gossamer has no grid"),
    ],
)
def test_an_algorithm_that_there_is_not_is_refused_in_a_line(scenario, capsys, options, told):
    assert cli.simulate(str(scenario()), **options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("gossamer: ")
    assert told in line


def test_ctrl_c_keeps_the_runs_so_far_and_the_one_under_way(scenario, tmp_path, monkeypatch, capsys):
    told = tmp_path / "told.json"
    real, steps = World.step, []

    def step(self):
        steps.append(self)
        if len(steps) > 40 and self is not steps[0]:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(World, "step", step)
    path = str(scenario(4))
    assert cli.simulate(path, algorithm="fedavg,fedbuff,topk", until_accuracy=0.3, json=told) == 130
    runs = json.loads(told.read_text())["runs"]
    assert [run["algorithm"] for run in runs] == ["fedavg", "fedbuff"]
    assert runs[0]["reached"] is True
    assert runs[1]["reached"] is False
    assert "interrupted" in capsys.readouterr().err


def test_missing_data_is_a_line_that_says_how_to_get_it(scenario, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("models.datasets.FASHION_INSTALLED", tmp_path / "none")
    monkeypatch.delenv("GOSSAMER_DATA", raising=False)
    assert cli.simulate("everyday-devices", algorithm="fedavg") == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert "dataset-fashion-mnist" in line
    assert "GOSSAMER_DATA" in line


def test_reports_are_frozen_structs_that_survive_json(tiny):
    report = finished(replace(tiny(8), limit_s=5.0), "ftte")
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report
