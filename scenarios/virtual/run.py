"""A scenario in virtual time: the swarm of `gossamer swarm`, with each device's link and speed as the file says.

    found -> (probe: how good is each device's model?) -> the target is reached, or all rounds are done -> settled -> figures

The instrument stands outside: it looks at the devices' models every PROBE_S, and costs them neither time nor bytes. It
holds them to the one promise that can be seen from there: devices that know the same aggregates have the same model. What
breaks it, or any other error of ours, ends the run with the command that replays it. The scenario's cuts begin and end between
two looks.
"""

import contextlib
import math
import os
import time  # noqa: TID251 - a run tells how long it took whoever waited for it
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from statistics import mean

import msgspec
import numpy as np
from numpy.typing import NDArray

from gossip.errors import GossamerError
from gossip.events import Floats, Report
from gossip.history.fold import UNIT
from gossip.manifest import MASKS_OFF
from models.batched import BatchedTrainer
from models.datasets import DataError
from models.judge import Judge
from models.partition import parts_of
from models.tasks import load_task
from models.training import PhaseError
from node.virtual.device import Device
from node.virtual.swarm import Crypto, VirtualSwarm
from node.virtual.trainer import Phases
from scenarios.adversary.casting import cast_of
from scenarios.adversary.effects import AdversaryReport, Effects
from scenarios.adversary.examples import backdoor_judge, poisoned
from scenarios.certificates import identity_of, order_of
from scenarios.partitions import Parting, devices_of, sides_of
from scenarios.plan import Plan, without_masks
from scenarios.reports.eta import left_s
from scenarios.reports.processes import Moment, SideReport
from scenarios.reports.progress import Display, VirtualSnapshot
from scenarios.reports.virtual import Point, RunReport, note_of
from scenarios.virtual.devices import credentials, found, hardware_of

PROBE_S = 1.0
COMPARE_S = 10.0  # between two comparisons of all replicas
ATTACKED_STEPS = 5  # of a sum: a swarm under attack whose rounds take longer on average is said to be stopped
SETTLE_S = 60.0  # for all to know the same history, once the last round is done
STALL_STEPS = 40  # of a sum, without any fold
STALL_S = 120.0
HASHED_KEPT = 64  # models, by which a device's is told to be another's
OWN_EXAMPLES = 32  # by which a bad device judges a model
LANES = 2  # threads that train; a number of its own, as sums round by how devices are grouped

Clock = Callable[[], float]


class Broken(GossamerError):
    """An invariant of the swarm, or our own code, failed: report it with the command that the line names. Exit code 1."""

    exit_code = 1


class DataMissing(GossamerError):
    """The task's examples cannot be had: the line says which package or folder brings them. Exit code 4."""

    exit_code = 4


class TimedTraining:
    """All devices' local training in batches (`node.virtual.swarm.Phases`), and how long it took."""

    def __init__(self, plan: Plan, clock: Clock, learning_rate: float | None = None) -> None:
        self.wall_s = 0.0
        self._clock = clock
        self._scores: dict[bytes, tuple[float, float]] = {}
        self._hashed: dict[
            int, tuple[Floats, bytes]
        ] = {}  # by read-only model, as an object: HASHED_KEPT of them
        task = load_task(plan.task)
        try:
            dataset = task.load(None, os.environ)
            parts = parts_of(dataset, [device.data for device in plan.devices], plan.seed)
            self._own = [dataset.take(part[:OWN_EXAMPLES]) for part in parts]
            self._backdoor = next(
                (
                    backdoor_judge(task, dataset, table, plan.judged)
                    for table in plan.adversaries
                    if table.behaviour == "backdoor"
                ),
                None,
            )
            dataset, parts = poisoned(dataset, parts, plan.hostile)
        except DataError as error:
            raise DataMissing(str(error)) from error
        self._task = task
        self._judges: dict[int, Judge] = {}  # by device
        identities = [identity_of(plan.seed, index) for index in range(len(plan.devices))]
        self._trainer = BatchedTrainer(
            task,
            dataset,
            parts,
            [order_of(plan.seed, identity) for identity in identities],
            lanes=LANES,
            judged=plan.judged,
            learning_rate=learning_rate,
        )
        self.opened = self._trainer.opened(plan.seed)[0]

    def examples(self, device: int) -> int:
        return self._trainer.examples(device)

    def begin(self, device: int, base: Floats) -> None:
        self._trainer.begin(device, base)

    def advance(self, device: int, steps: int) -> None:
        self._trainer.advance(device, steps)

    def restrict(self, trainable: NDArray[np.bool_]) -> None:
        self._trainer.restrict(trainable)

    def rebase(self, device: int, change: Floats) -> None:
        with self._timed():
            self._trainer.rebase(device, change)

    def drop(self, device: int) -> None:
        self._trainer.drop(device)

    def freeze(self, device: int) -> tuple[Floats, int, float]:
        with self._timed():
            return self._trainer.freeze(device)

    def look(self, device: int, model: Floats) -> float:
        with self._timed():
            return self._trainer.look(device, model)

    def accuracy(self, model: Floats) -> float:
        """A model that has left the finite numbers is right about nothing."""
        try:
            return self.evaluate(model)[0]
        except (ArithmeticError, PhaseError):
            return 0.0

    def own_loss(self, device: int, model: Floats) -> float:
        """On a device's true examples, as its neighbours count theirs when they look at a sum."""
        judge = self._judges.get(device)
        if judge is None:
            judge = self._judges[device] = Judge(self._task, *self._own[device])
        with self._timed():
            return judge.look(model)

    def backdoor_success(self, model: Floats) -> float | None:
        """The share of stamped test examples that a model reads as the target; None without a backdoor."""
        return None if self._backdoor is None else self._backdoor.score(model).accuracy

    def evaluate(self, model: Floats) -> tuple[float, float]:
        """All devices are judged on the same test set, so an equal model is judged once."""
        key = self._hash_of(model)
        if key not in self._scores:
            with self._timed():
                self._scores[key] = self._trainer.evaluate(model)
        return self._scores[key]

    def _hash_of(self, model: Floats) -> bytes:
        """Most devices have their model as one object."""
        known = self._hashed.get(id(model))
        if known is not None:
            return known[1]
        key = sha256(model.data).digest()
        if not model.flags.writeable:
            if len(self._hashed) >= HASHED_KEPT:
                del self._hashed[next(iter(self._hashed))]
            self._hashed[id(model)] = model, key
        return key

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = self._clock()
        yield
        self.wall_s += self._clock() - began


class Run:
    """One simulation. `go` may be interrupted; `report` then tells what there is."""

    def __init__(
        self,
        plan: Plan,
        display: Display,
        clock: Clock = time.monotonic,
        *,
        masks: bool = True,
        crypto: Crypto = "real",
    ) -> None:
        """Raises DataMissing. `crypto` is what `node.virtual.swarm.cryptography` was told."""
        self._crypto = crypto
        if not masks:
            plan = without_masks(plan)
        self._masks = plan.swarm.cohorts.masks
        if not self._masks:
            display.say(f"WARNING: {MASKS_OFF}")
        self._plan = plan
        self._display = display
        self._clock = clock
        self._began = clock()
        self._training = TimedTraining(plan, clock)
        phases: Phases = self._training
        initial = np.frombuffer(self._training.opened.initial, "<i8").astype(np.int64)
        swarm = found(plan, self._training.opened)
        identities = [identity_of(plan.seed, index) for index in range(len(plan.devices))]
        self.world = VirtualSwarm(
            seed=plan.seed,
            swarm=swarm,
            credentials=credentials(plan, swarm),
            initial=initial,
            devices=[
                (identities[index], hardware_of(table, plan.seed, index))
                for index, table in enumerate(plan.hardware)
            ],
            phases=phases,
            report=self._hear,
            make_core=cast_of(identities, plan.hostile, plan.seed, self._training.own_loss),
        )
        self._effects = Effects([each.public_key for each in identities], plan.hostile)
        # The instrument looks at these alone: what bad devices say of themselves is nothing.
        self._honest = [device for device in self.world.devices if plan.hostile[device.index] is None]
        count = len(plan.devices)
        slowest_s = max(table.step_s for table in plan.hardware)
        phase_s = slowest_s * plan.swarm.training.min_steps
        self._patience_s = (
            STALL_S + phase_s + STALL_STEPS * plan.swarm.cohorts.step_s + plan.swarm.cohorts.gather_s
        )
        cohorts = plan.swarm.cohorts
        round_s = phase_s + cohorts.gather_s + ATTACKED_STEPS * cohorts.step_s
        self._limit_s = plan.rounds * round_s if len(self._honest) < count else math.inf
        self._accuracies = [self._training.accuracy((initial * UNIT).astype(np.float32))] * count
        self._rounds = [0] * count
        self._changed = [False] * count  # since the last probe
        self._folded_at = 0.0
        self._compare_at = COMPARE_S
        self._reached_s: float | None = None
        self._problem = ""
        self._curve: list[Point] = []
        self._homes = devices_of(plan.network)
        self._partings = [Parting(cut) for cut in plan.network.cut]
        self._patience_s += max((cut.for_s or 0 for cut in plan.network.cut), default=0)

    def go(self) -> None:
        """To the target, or to the end of the rounds. Raises Broken."""
        try:
            while not self._over():
                self.world.run(self.world.now + PROBE_S)
                self._probe()
                self._part()
                self._show()
        except Broken:
            raise
        except Exception as error:
            raise self._broken(f"{type(error).__name__}: {error}") from error

    def _over(self) -> bool:
        if self._reached_s is not None:
            return True
        up = self._up
        idle = bool(up) and all(self._rounds[device.index] >= self._plan.rounds for device in up)
        if idle and not self._down:
            if self._compare_replicas() == 1 and not any(each.waits_for_equality for each in self._partings):
                return True
            healed_at = max((each.healed_at.at_s for each in self._partings if each.healed_at), default=0.0)
            if self.world.now > max(self._folded_at, healed_at) + SETTLE_S:
                self._problem = "the devices do not know the same aggregates"
                return True
        if self.world.now > self._limit_s:
            self._problem = f"stopped: in round {self._round} after {self._limit_s:.0f} virtual seconds"
            return True
        if self.world.now > self._folded_at + self._patience_s:
            self._problem = f"no device has come any further for {self._patience_s:.0f} virtual seconds"
            return True
        return False

    @property
    def _up(self) -> list[Device]:
        """Of the honest ones."""
        return [device for device in self._honest if device.core is not None]

    @property
    def _scores(self) -> list[float]:
        """The honest devices' accuracies."""
        return [self._accuracies[device.index] for device in self._honest]

    @property
    def _round(self) -> int:
        return max(self._rounds[device.index] for device in self._honest)

    def _hear(self, now: float, device: int, report: Report) -> None:
        if self._plan.hostile[device] is not None:
            return
        self._effects.hear(device, report)
        if report.name == "folded":
            round_ = report.fields["round"]
            assert isinstance(round_, int)
            self._rounds[device] = max(self._rounds[device], round_)
            self._changed[device] = True
            self._folded_at = now

    # --- the instrument --------------------------------------------------------------------------------------

    def _probe(self) -> None:
        for device in self._honest:
            if device.core is None or not self._changed[device.index]:
                continue
            self._changed[device.index] = False
            self._accuracies[device.index] = self._training.accuracy(device.core.model())
        if self.world.now >= self._compare_at:
            self._compare_at = self.world.now + COMPARE_S
            self._compare_replicas()
        self._curve.append(point_of(self.world.now, self._moved_bytes() / len(self._honest), self._scores))
        target = self._plan.target_accuracy
        if target is not None and mean(self._scores) >= target:
            self._reached_s = self.world.now

    # --- cuts ------------------------------------------------------------------------------------------------

    @property
    def _down(self) -> list[str]:
        """The homes that are cut off."""
        return [each.cut.home for each in self._partings if each.unfinished]

    def _part(self) -> None:
        """Take links down and bring them back when it is time, and note when all replicas are equal again."""
        world = self.world
        for parting in self._partings:
            home, down, round_ = parting.cut.home, self._down, self._round
            if parting.begins(world.now, round_, down):
                world.cut(self._homes[home])
                parting.cut_at = self._moment(f"{home} is cut off")
            elif parting.ends(
                world.now,
                round_,
                idle=all(self._rounds[each.index] >= self._plan.rounds for each in self._honest),
            ):
                parting.sides = [self._side(homes) for homes in sides_of(list(self._homes), down)]
                world.heal(self._homes[home])
                parting.healed_at = self._moment(f"{home} is back")
        waiting = [each for each in self._partings if each.waits_for_equality]
        if waiting and not self._down and self._compare_replicas() == 1:
            moment = self._moment("all replicas are equal")
            for parting in waiting:
                parting.equal_at, parting.accuracy_equal = moment, mean(self._scores)

    def _moment(self, what: str) -> Moment:
        """Now; `what` happened."""
        moment = Moment(round(self.world.now, 3), self._round)
        self._display.say(f"{moment.at_s:7.1f} virtual s  round {moment.round}: {what}")
        return moment

    def _side(self, homes: Sequence[str]) -> SideReport:
        there = [index for home in homes for index in self._homes[home]]
        return SideReport(
            homes=list(homes),
            devices=[self._plan.devices[index].name for index in there],
            round=max(self._rounds[index] for index in there),
            accuracy=mean(self._accuracies[index] for index in there),
        )

    def _compare_replicas(self) -> int:
        """How many histories there are among the devices that are up. Raises Broken where one has two models."""
        replicas: dict[object, object] = {}
        for device in self._honest:
            if device.core is not None:
                status = device.core.status(self.world.now)
                known = replicas.setdefault(status["history_digest"], status["replica_sha256"])
                if known != status["replica_sha256"]:
                    raise self._broken("I3: two devices know the same aggregates and have different models")
        return len(replicas)

    def _broken(self, what: str) -> Broken:
        plan = self._plan
        again = f"gossamer simulate {plan.name} --nodes {len(plan.devices)} --seed {plan.seed} --rounds {plan.rounds}"
        again += "" if self._masks else " --no-masks"
        again += "" if plan.data is None else f" --data '{plan.data}'"
        again += f" --adversary {'+'.join(map(str, plan.adversaries))}" if plan.adversaries else ""
        return Broken(
            f"{what} (virtual second {self.world.now:.6f}, event {self.world.events}); replay: {again}"
        )

    def _show(self) -> None:
        world, at_s, target = self.world, self._clock() - self._began, self._plan.target_accuracy
        curve = [(point.time_s, point.accuracy) for point in self._curve]
        self._display.show(
            VirtualSnapshot(
                stage="gossamer",
                at_s=at_s,
                up=sum(device.core is not None for device in world.devices),
                devices=len(world.devices),
                round=self._round,
                rounds=self._plan.rounds,
                accuracy=mean(self._scores),
                sent_bytes=sum(device.traffic.sent for device in world.devices),
                note=note_of(self._crypto),
                left_s=left_s(at_s, self._round, self._plan.rounds, curve, target),
                virtual_s=world.now,
                target=target,
            )
        )

    def _moved_bytes(self) -> int:
        """By all honest devices, sent plus received."""
        return sum(device.traffic.sent + device.traffic.received for device in self._honest)

    def report(self) -> RunReport:
        world = self.world
        devices = self._honest
        return RunReport(
            algorithm="gossamer",
            seed=self._plan.seed,
            masks=self._masks,
            reached=self._reached_s is not None,
            time_s=round(world.now if self._reached_s is None else self._reached_s, 3),
            bytes_per_device=self._moved_bytes() / len(devices),
            local_steps_per_device=mean(world.steps(device) for device in devices),
            final_accuracy=mean(self._scores),
            worst_accuracy=min(self._scores),
            rounds=self._round,
            trace_sha256=world.trace_sha256,
            wall_s=round(self._clock() - self._began, 2),
            training_wall_s=round(self._training.wall_s, 2),
            sent_per_device=mean(device.traffic.sent for device in devices),
            sent_by_kind={
                kind: size / len(world.devices) for kind, size in sorted(world.sent_by_kind.items())
            },
            events=world.events,
            problem=self._problem,
            crypto=self._crypto,
            parameters=_parameters(self._plan),
            curve=self._curve,
            cuts=tuple(parting.report() for parting in self._partings),
            adversary=self._adversary(),
        )

    def _adversary(self) -> AdversaryReport | None:
        if len(self._honest) == len(self.world.devices):
            return None
        seen = [self._training.backdoor_success(device.core.model()) for device in self._up if device.core]
        known = [each for each in seen if each is not None]
        return self._effects.report(
            self._plan.adversaries, self._round, self.world.now, mean(known) if known else None
        )


def point_of(time_s: float, bytes_per_device: float, accuracies: Sequence[float]) -> Point:
    """Of the accuracies of all devices, or of the server's alone."""
    ranked = sorted(accuracies)
    return Point(time_s, bytes_per_device, mean(ranked), ranked[len(ranked) // 10], ranked[0])


def _parameters(plan: Plan) -> dict[str, float | int | str]:
    """The scenario's [swarm.*] tables, flat."""
    told: dict[str, float | int | str] = {}
    for table in ("training", "compression", "cohorts"):
        for key, value in msgspec.to_builtins(getattr(plan.swarm, table)).items():
            told[f"{table}.{key}"] = value if isinstance(value, float | int | str) else str(value)
    return told
