"""The virtual driver: cores in virtual time come to the same model, whatever their links, and in any process alike."""

import hashlib
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.events import Abandon, Rebase, Train
from gossip.manifest import Cohorts, Compression, Manifest, Model, Step, Tensor, Training, found
from gossip.membership import view
from node.virtual.device import Device, Hardware
from node.virtual.links import CONNECTION_BYTES, Link
from node.virtual.swarm import VirtualSwarm
from node.virtual.trainer import VirtualTrainer

SIZE = 16
INITIAL = np.arange(SIZE, dtype=np.int64) << 18


class Drift:
    """`Phases` that go one way, as far as they have steps, and write down what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self._steps: Counter[int] = Counter()

    def examples(self, device):
        return 20 + device

    def begin(self, device, base):
        assert base.dtype == np.float32
        self._steps[device] = 0
        self.asked.append(("begin", device))

    def advance(self, device, steps):
        self._steps[device] += steps
        self.asked.append(("advance", device, steps))

    def rebase(self, device, change):
        self.asked.append(("rebase", device))

    def drop(self, device):
        self.asked.append(("drop", device))

    def look(self, device, model):
        return 1.0

    def freeze(self, device):
        self.asked.append(("freeze", device, self._steps[device]))
        return np.full(SIZE, 0.001 * self._steps[device], np.float32), self._steps[device], 0.5

    def evaluate(self, model):
        return float(np.clip(model.mean(), 0, 1)), 1.0


def body(index, **differs):
    return Hardware(**{"on_at_s": 0.2 * index, "step_s": 0.1, **differs})


def a_swarm(count, *, seed=7, hardware=body, phases=None, rounds=0, report=None, sums=8):
    identities = [Identity(digest("virtual device", bytes([index]))) for index in range(count)]
    manifest = Manifest(
        version=1,
        name="tiny",
        model=Model(
            "tiny", bytes(32), (Tensor(9, 0), Tensor(7, 1)), 0, hashlib.sha256(INITIAL.tobytes()).digest()
        ),
        training=Training(10, 40, rounds, (Step(1, 256, 64),), 1 << 24),
        compression=Compression("dense", 4, 7, 8, -2),
        cohorts=Cohorts(3, 8, 500, 1000, sums),
        admit="members",
        members=tuple(sorted(identity.public_key for identity in identities)),
        founder=identities[0].public_key,
    )
    told = {} if report is None else {"report": report}
    return VirtualSwarm(
        seed=seed,
        swarm=found(manifest, identities[0]),
        initial=INITIAL,
        devices=[(identity, hardware(index)) for index, identity in enumerate(identities)],
        phases=phases or Drift(),
        **told,
    )


def statuses(world):
    return [device.core.status(world.now) for device in world.devices if device.core]


def rounds_of(world):
    return [status["round"] for status in statuses(world)]


def test_devices_on_uneven_links_come_to_one_model():
    slow = {"link": Link(up_bit_s=1e6, latency_s=0.05, jitter_s=0.05, loss=0.05), "step_s": 0.1}
    world = a_swarm(7, hardware=lambda index: body(index, **slow if index > 1 else {}), rounds=4)
    world.run(120, stop=lambda: world.events % 100 == 0 and min(rounds_of(world), default=0) >= 4)
    world.run(world.now + 20)
    assert rounds_of(world) == [4] * 7
    assert len({status["history_digest"] for status in statuses(world)}) == 1
    assert len({status["replica_sha256"] for status in statuses(world)}) == 1


def test_every_byte_that_arrives_was_sent():
    world = a_swarm(5, rounds=2)
    world.run(61.5)  # the rounds are over, and no ALIVE is under way
    sent = sum(device.traffic.sent for device in world.devices)
    assert sent == sum(device.traffic.received for device in world.devices)
    pairs = 5 * 4 // 2
    assert sent > 2 * pairs * CONNECTION_BYTES


def test_an_aggregate_reaches_all():
    world = a_swarm(12, rounds=2)
    world.run(25)
    assert rounds_of(world) == [2] * 12
    assert len({status["history_digest"] for status in statuses(world)}) == 1


def test_an_aggregate_is_announced_in_few_bytes():
    """Before they were direct and short, a device sent 6 copies of 630 bytes for each."""
    world = a_swarm(30)
    world.run(40)
    told = world.sent_by_kind["ANNOUNCE"] / 30
    assert 0 < told / statuses(world)[0]["aggregates"] < 8 * 34


def test_views_stay_bounded_and_rounds_come_in_a_swarm_that_nobody_knows_whole(monkeypatch):
    monkeypatch.setattr(view, "KNOWN_MAX", 10)
    world = a_swarm(40, sums=1)
    world.run(40)
    for device in world.devices:
        assert len(device.core._membership.known) <= 10
        assert not device.core._membership.sees_all
    assert min(rounds_of(world)) >= 5
    everybody = {device.key for device in world.devices}
    led_by = [device.core._turns.candidates() for device in world.devices]
    assert all(everybody.issuperset(keys) for keys in led_by)
    assert sum(bool(keys) for keys in led_by) > 30, (
        "the last round's contributors can be found from nearly everywhere"
    )
    for device in world.devices:
        assert all(everybody.issuperset(holders) for holders in device.core._sync._holders.values())
    counts = world.devices[0].core._history.counts(64)
    assert sum(counts[2:]) <= 1.5 * 8 * len(counts[2:]), "the lottery keeps the sums of a round few"
    sums = [len(world.devices[0].core._history.counting(round_)) for round_ in range(1, len(counts) + 1)]
    assert sum(sums[2:]) <= 3 * len(sums[2:])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("known", [view.KNOWN_MAX, 10], ids=["known whole", "known in part"])
def test_when_a_hub_goes_off_while_it_leads_rounds_go_on(known, monkeypatch):
    monkeypatch.setattr(view, "KNOWN_MAX", known)
    hubs = range(4)
    world = a_swarm(40, sums=2, hardware=lambda index: body(index, hub=index in hubs))

    def leading() -> list[Device]:
        """Hubs whose own cohort is under way and has its keys."""
        running = [(device, device.core._busy) for device in world.devices if device.core]
        return [
            device
            for device, busy in running
            if busy and busy.member.cohort.leader == device.key and busy.member.keys and device.index in hubs
        ]

    def has_come_to(round_: int) -> bool:
        return world.events % 100 == 0 and min(rounds_of(world), default=0) >= round_

    for number in range(2):
        begun = min(rounds_of(world), default=0)
        world.run(world.now + 30, stop=lambda begun=begun: has_come_to(begun + 2))
        world.run(world.now + 30, stop=leading)
        (hub, *_) = leading()
        assert hub.key == hub.core._busy.member.cohort.aggregators[0]
        world.switch_off(hub)
        reached = max(rounds_of(world))
        world.run(world.now + 40, stop=lambda reached=reached: has_come_to(reached + 3))
        assert min(rounds_of(world)) >= reached + 3
        if number == 0:
            world.switch_on(hub)
    models = {(status["history_digest"], status["replica_sha256"]) for status in statuses(world)}
    assert len(models) == len({digest_ for digest_, _ in models})


def test_hubs_lead_and_add_up_wherever_they_are_known():
    world = a_swarm(30, sums=2, hardware=lambda index: body(index, hub=index < 3))
    world.run(40)
    hubs = {device.key for device in world.devices[:3]}
    cohorts = {
        cohort.id: cohort
        for device in world.devices
        for cohort in (running.member.cohort for running in device.core._cohorts.values())
    }
    led = [cohort for cohort in cohorts.values() if cohort.roster.round > 3]
    assert len(led) > 10
    assert sum(cohort.leader in hubs for cohort in led) > 0.9 * len(led)
    assert sum(cohort.aggregators[0] in hubs for cohort in led) > 0.5 * len(led), "one cohort at a time"
    with_hub = [cohort for cohort in led if cohort.leader in hubs and not hubs.isdisjoint(cohort.members)]
    assert all(cohort.aggregators[0] in hubs for cohort in with_hub)
    assert len({cohort.leader for cohort in led} & hubs) == 3, "in turn"


def test_in_a_swarm_larger_than_its_sums_most_devices_rest_and_all_contribute():
    world = a_swarm(40, sums=1)
    resting = []
    world.run(
        90,
        stop=lambda: resting.append(sum(d.core is not None and d.core._phase is None for d in world.devices)),
    )
    assert max(resting) > 10
    contributions = [status["contributions"] for status in statuses(world)]
    assert min(contributions) >= 1
    small = a_swarm(8, sums=1)
    small.run(
        20,
        stop=lambda: any(
            d.core and not d.core._trainer_fault and d.core._phase is None for d in small.devices
        ),
    )
    assert small.now == 20, "in a small one nobody ever rests"


def test_a_device_that_was_off_goes_on_with_what_its_disk_holds():
    away = {"away": ((6.0, 15.0),)}
    reports = []
    world = a_swarm(
        5,
        hardware=lambda index: body(index, **away if index == 4 else {}),
        report=lambda now, index, report: reports.append((now, index, report)),
    )
    world.run(10)
    gone = world.devices[4]
    assert gone.core is None
    assert not gone.pipes
    held = len(gone.disk["aggregate"])
    assert held > 0
    downs = [index for now, index, report in reports if report.name == "peer_down" and 6 <= now < 7]
    assert sorted(set(downs)) == [0, 1, 2, 3]
    world.run(30)
    status = gone.core.status(world.now)
    assert max(rounds_of(world)) - status["round"] <= 1
    assert status["contributions"] > 0


def test_a_trainer_that_fails_comes_back():
    reports = []
    phases = Drift()
    healthy = phases.freeze

    def fail_once(_device):
        phases.freeze = healthy
        raise ArithmeticError("the loss is not finite")

    phases.freeze = fail_once
    world = a_swarm(4, phases=phases, report=lambda now, index, report: reports.append((index, report)))
    world.run(20)
    failed = [index for index, report in reports if report.name == "trainer_failed"]
    assert len(failed) == 1
    assert world.devices[failed[0]].core.status(world.now)["contributions"] > 0


def test_local_steps_are_those_that_virtual_time_allowed():
    phases = Drift()
    trainer = VirtualTrainer(3, 0.1, phases)
    base = np.zeros(SIZE, np.float32)
    assert trainer.begin(Train(1, base, 10, 40), 5.0) == pytest.approx(6.0)
    trainer.rebase(base, 6.55)
    assert trainer.ends_step_at(7.21) == pytest.approx(7.3)
    _, steps, _ = trainer.freeze(7.3)
    assert steps == 23
    assert phases.asked == [
        ("begin", 3),
        ("advance", 3, 15),
        ("rebase", 3),
        ("advance", 3, 8),
        ("freeze", 3, 23),
    ]
    assert trainer.steps_before == 23


def test_the_steps_of_a_phase_that_is_given_up_were_taken_for_nothing():
    world = a_swarm(3, phases=Drift())
    world.run(1.05)
    device, asked = world.devices[0], world._phases.asked
    phase, began = device.trainer.phase, device.trainer._began
    assert phase is not None
    asked.clear()
    world._perform(device, [Abandon(phase + 1)])
    assert (device.trainer.phase, asked) == (phase, []), "another phase goes on"
    world.now = began + 1.75
    world._perform(device, [Abandon(phase)])
    assert device.trainer.phase is None
    assert asked == [("advance", 0, 17), ("drop", 0)]
    assert world.steps(device) == 17
    world._perform(device, [Abandon(phase)])
    assert len(asked) == 2, "it ends once"


def test_a_phase_pauses_at_its_most_steps():
    trainer = VirtualTrainer(0, 0.1, Drift())
    trainer.begin(Train(1, np.zeros(SIZE, np.float32), 10, 40), 0.0)
    assert trainer.ends_step_at(99.0) == 99.0
    assert trainer.freeze(99.0)[1] == 40


def test_a_frozen_phase_is_not_rebased():
    phases = Drift()
    trainer = VirtualTrainer(0, 0.1, phases)
    trainer.begin(Train(1, np.zeros(SIZE, np.float32), 10, 40), 0.0)
    trainer.freeze(2.0)
    trainer.rebase(Rebase(np.ones(SIZE, np.float32)).change, 2.0)
    assert phases.asked[-1] == ("freeze", 0, 20)


def test_a_slow_device_does_fewer_steps():
    world = a_swarm(5, hardware=lambda index: body(index, step_s=0.5 if index == 4 else 0.05))
    world.run(20)
    steps = [world.steps(device) for device in world.devices]
    assert steps[4] <= 20 / 0.5
    assert min(steps[:4]) > 2 * steps[4]


def test_a_seed_makes_one_trace_and_another_seed_another():
    def trace(seed):
        rough = Link(jitter_s=0.02, loss=0.05)
        world = a_swarm(5, seed=seed, hardware=lambda index: body(index, link=rough))
        world.run(8)
        assert world.events > 300
        return world.trace_sha256

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_the_trace_is_the_same_in_any_process():
    program = (
        "from scenarios.virtual.run import Run\n"
        "from scenarios.plan import plan; from scenarios.spec.scenario import find_scenario\n"
        "class Mute:\n"
        "    def show(self, snapshot): pass\n"
        "    def say(self, line): pass\n"
        "run = Run(plan(find_scenario('quickstart'), nodes=5, rounds=1, seed=3), Mute())\n"
        "run.go()\n"
        "report = run.report()\n"
        "print(report.trace_sha256, report.events, report.bytes_per_device, report.final_accuracy)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "4242")
    ]
    told = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert told[0] == told[1]
    trace, events, *_ = told[0].split()
    assert len(trace) == 64
    assert int(events) > 150
    assert math.isfinite(float(told[0].split()[-1]))
