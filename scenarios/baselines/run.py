"""A baseline from its start to the target, to the scenario's limit of virtual time, or to where it gains no more.

The instrument is as in `scenarios.virtual.run`: it stands outside, and costs the devices neither time nor bytes. Where a
server has the model it is judged after each update. Where each device has its own, judging all of them costs as much as
a round of training, so SAMPLED are judged first, and all only where those are near the target or enough time has passed
since the last look.
"""

import time  # noqa: TID251 - a run tells how long it took whoever waited for it
from collections.abc import Callable, Mapping
from statistics import mean
from typing import Final

import msgspec
import numpy as np

from gossip.events import Floats
from gossip.history.fold import UNIT
from models.tasks import load_task
from scenarios.baselines.algorithm import Algorithm, Stage
from scenarios.baselines.peers import DivShare, Dpsgd, Epidemic, Local
from scenarios.baselines.server import FedAvg, FedBuff, Ftte, TopK
from scenarios.baselines.world import FLOAT_BYTES, HEADER_BYTES, World
from scenarios.plan import Plan
from scenarios.reports.eta import left_s
from scenarios.reports.progress import Display, VirtualSnapshot
from scenarios.reports.virtual import Point, RunReport
from scenarios.spec.baselines import LocalPhase
from scenarios.virtual.run import Clock, TimedTraining, point_of

LIMIT_S = 100_000.0  # where the scenario says nothing
SAMPLED = 8  # devices
NEAR = 0.03  # of the target: then all are judged
LOOK_AGAIN = 1.03  # times the time of the last look, before SAMPLED are judged again
ALL_AGAIN = 1.15  # and before all are
PATIENCE = 2.0  # times the time of the last gain, after which a baseline is given up
PATIENCE_ROUNDS = 20, 3  # and rounds since then: of a server, of the least advanced device
GAIN = 0.002  # that counts as one

ALGORITHMS: Final[Mapping[str, Callable[..., Algorithm]]] = {
    "local": Local,
    "fedavg": FedAvg,
    "fedbuff": FedBuff,
    "ftte": Ftte,
    "dpsgd": Dpsgd,
    "epidemic": Epidemic,
    "divshare": DivShare,
    "topk": TopK,
}


class BaselineRun:
    """`go` may be interrupted; `report` then tells what there is."""

    def __init__(
        self,
        plan: Plan,
        algorithm: str,
        display: Display,
        clock: Clock = time.monotonic,
        settings: LocalPhase | None = None,
        rival: tuple[float, float] | None = None,
    ) -> None:
        """Raises DataMissing.

        settings: instead of the scenario's.
        rival: seconds and bytes a device, beyond both of which the run cannot be the best and is given up.
        """
        self._plan, self._name, self._display, self._clock = plan, algorithm, display, clock
        self._began = clock()
        self._settings = plan.baselines.of(algorithm) if settings is None else settings
        self._training = TimedTraining(plan, clock, self._settings.learning_rate)
        initial = np.frombuffer(self._training.opened.initial, "<i8").astype(np.int64)
        self._initial: Floats = (initial * UNIT).astype(np.float32)
        self.world = World(plan)
        self._steps = [0] * self.world.devices
        stage = Stage(
            self.world,
            self._training,
            self._initial,
            np.random.RandomState(plan.seed),
            self._steps,
        )
        self.algorithm = ALGORITHMS[algorithm](stage, self._settings)
        self._rival = rival
        self._limit_s = LIMIT_S if plan.limit_s is None else plan.limit_s
        self._accuracies = [self._training.accuracy(self._initial)]
        self._curve: list[Point] = [point_of(0.0, 0.0, self._accuracies)]
        self._best, self._best_s, self._best_round = 0.0, 0.0, 0
        self._looked_s = self._judged_s = 0.0
        self._broadcast_s = self._broadcast_bytes = 0.0
        self._time_s = 0.0
        self._reached = False
        self._problem = ""

    @property
    def curve(self) -> list[Point]:
        return self._curve

    def go(self) -> None:
        """To the target, to the limit, or to where PATIENCE ends."""
        self.algorithm.start()
        while not self._over() and self.world.step():
            self._time_s = min(self.world.now, self._limit_s)
            if self.algorithm.fresh:
                self.algorithm.fresh = False
                self._look()
        if not self._over():
            self._problem = "all devices have done what they were to do"
        if not self._reached and self._judged_s < self.world.now:
            self._judge()
        if self.algorithm.central:
            self._broadcast()

    def _over(self) -> bool:
        if self._reached:
            return True
        if self.world.now > self._limit_s:
            self._problem = f"given up after {self._limit_s:.0f} virtual seconds"
        elif self._rival is not None and self._beaten(*self._rival):
            self._problem = "other settings took less time and fewer bytes"
        elif (
            self.world.now > PATIENCE * self._best_s
            and self.algorithm.rounds > self._best_round + PATIENCE_ROUNDS[not self.algorithm.central]
        ):
            self._problem = f"no gain of {100 * GAIN:.1f} points since virtual second {self._best_s:.0f}"
        return bool(self._problem)

    def _beaten(self, time_s: float, bytes_per_device: float) -> bool:
        return self.world.now > time_s and self._curve[-1].bytes_per_device > bytes_per_device

    # --- the instrument --------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._show()
        if not self.algorithm.central and self.world.devices > SAMPLED:
            if self.world.now < LOOK_AGAIN * self._looked_s:
                return
            self._looked_s = self.world.now
            target = self._plan.target_accuracy
            sample = mean(self._training.accuracy(model) for model in self.algorithm.models()[:SAMPLED])
            far = target is None or sample < target - NEAR
            if far and self.world.now < ALL_AGAIN * self._judged_s:
                return
        self._judge()
        target = self._plan.target_accuracy
        if target is not None and mean(self._accuracies) >= target:
            self._reached = True

    def _judge(self) -> None:
        world = self.world
        self._judged_s = world.now
        self._accuracies = [self._training.accuracy(model) for model in self.algorithm.models()]
        self._curve.append(point_of(world.now, world.moved_bytes / world.devices, self._accuracies))
        if mean(self._accuracies) >= self._best + GAIN:
            self._best = mean(self._accuracies)
            self._best_s, self._best_round = world.now, self.algorithm.rounds

    def _show(self) -> None:
        world, at_s, target = self.world, self._clock() - self._began, self._plan.target_accuracy
        curve = [(point.time_s, point.accuracy) for point in self._curve]
        self._display.show(
            VirtualSnapshot(
                stage=self._name,
                at_s=at_s,
                up=world.devices,
                devices=world.devices,
                round=self.algorithm.rounds,
                rounds=self._plan.rounds,
                accuracy=mean(self._accuracies),
                sent_bytes=sum(traffic.sent for traffic in world.traffic),
                left_s=left_s(at_s, world.now, self._limit_s, curve, target),
                virtual_s=world.now,
                target=target,
            )
        )

    def _broadcast(self) -> None:
        """The model goes down to every device, once; the time is that of the last one whose link is free."""
        payload = FLOAT_BYTES * len(self._initial)
        self._broadcast_bytes = float(payload + HEADER_BYTES)
        self._broadcast_s = max(
            table.latency_s + table.jitter_s / 2 + 8 * self._broadcast_bytes / (table.down_mbit * 1e6)
            for table in self.world.hardware
        )

    def report(self) -> RunReport:
        world = self.world
        given = msgspec.to_builtins(self._settings)
        rate = self._settings.learning_rate or load_task(self._plan.task).learning_rate
        return RunReport(
            algorithm=self._name,
            seed=self._plan.seed,
            masks=False,
            reached=self._reached,
            time_s=round(self._time_s + self._broadcast_s, 3),
            bytes_per_device=world.moved_bytes / world.devices + self._broadcast_bytes,
            local_steps_per_device=mean(self._steps),
            final_accuracy=mean(self._accuracies),
            worst_accuracy=min(self._accuracies),
            rounds=self.algorithm.rounds,
            trace_sha256=world.trace_sha256,
            wall_s=round(self._clock() - self._began, 2),
            training_wall_s=round(self._training.wall_s, 2),
            sent_per_device=mean(traffic.sent for traffic in world.traffic),
            sent_by_kind={},
            events=world.events,
            problem=self._problem,
            broadcast_s=round(self._broadcast_s, 3),
            broadcast_bytes=self._broadcast_bytes,
            parameters=given | {"learning_rate": rate},
            curve=self._curve,
        )
