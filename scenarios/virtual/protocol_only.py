"""A swarm that sums and does not learn: what the protocol costs a device, for any number of devices.

All is as in `scenarios.virtual.run` but the training, which takes the time that the scenario says and gives updates that mean
nothing. So a run says nothing about accuracy, and all about bytes, rounds and time.
"""

import time  # noqa: TID251 - a run tells how long it took whoever waited for it
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import numpy as np

from crypto.hashing import digest
from gossip.errors import GossamerError
from gossip.events import Floats, Report
from node.virtual.device import Device
from node.virtual.swarm import Crypto, VirtualSwarm
from scenarios.adversary.casting import cast_of, refuse_untrained
from scenarios.adversary.effects import Effects
from scenarios.certificates import identity_of
from scenarios.plan import Plan
from scenarios.reports.eta import left_s
from scenarios.reports.progress import Display, Snapshot
from scenarios.reports.virtual import RunReport, note_of
from scenarios.virtual.devices import credentials, found, hardware_of

TASK = "protocol"  # what a scenario's `task` says
PARAMETERS = 1024
EXAMPLES = 32  # of each device
UPDATE = 2.0**-10
SHOW_S = 1.0
UNTIL_S = 60.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class NoModel:
    """As a trainer would have opened it (`node.founding.OpenedModel`)."""

    schema_hash: bytes = digest("schema", b"protocol only")
    tensors: tuple[tuple[str, int, int], ...] = (("weights", PARAMETERS, 0),)
    rows: tuple[int, ...] = (0,)
    initial: bytes = bytes(8 * PARAMETERS)


class NoTraining:
    """`node.virtual.swarm.Phases` whose steps take time and nothing else."""

    def __init__(self, devices: int) -> None:
        self._steps = [0] * devices
        self._update = np.full(PARAMETERS, UPDATE, np.float32)

    def examples(self, device: int) -> int:  # noqa: ARG002
        return EXAMPLES

    def begin(self, device: int, base: Floats) -> None:  # noqa: ARG002
        self._steps[device] = 0

    def advance(self, device: int, steps: int) -> None:
        self._steps[device] += steps

    def rebase(self, device: int, change: Floats) -> None:
        pass

    def drop(self, device: int) -> None:
        pass

    def freeze(self, device: int) -> tuple[Floats, int, float]:
        return self._update, self._steps[device], 0.0

    def look(self, device: int, model: Floats) -> float:  # noqa: ARG002
        return 0.0

    def evaluate(self, model: Floats) -> tuple[float, float]:  # noqa: ARG002
        return 0.0, 0.0


class ProtocolRun:
    """One run, until so many virtual seconds have passed or all rounds are done."""

    def __init__(
        self,
        plan: Plan,
        display: Display,
        until_s: float = UNTIL_S,
        clock: Clock = time.monotonic,
        *,
        crypto: Crypto = "real",
    ) -> None:
        """`crypto` is what `node.virtual.swarm.cryptography` was told."""
        self._crypto = crypto
        self._plan = plan
        self._display = display
        self._until_s = until_s
        self._clock = clock
        self._began = clock()
        self._rounds = [0] * len(plan.devices)
        refuse_untrained(plan.adversaries)
        self._honest = [index for index, table in enumerate(plan.hostile) if table is None]
        identities = [identity_of(plan.seed, index) for index in range(len(plan.devices))]
        swarm = found(plan, NoModel())
        self.world = VirtualSwarm(
            seed=plan.seed,
            swarm=swarm,
            credentials=credentials(plan, swarm),
            initial=np.zeros(PARAMETERS, np.int64),
            devices=[
                (identities[index], hardware_of(table, plan.seed, index))
                for index, table in enumerate(plan.hardware)
            ],
            phases=NoTraining(len(plan.devices)),
            report=self._hear,
            make_core=cast_of(identities, plan.hostile, plan.seed),
        )
        self._effects = Effects([each.public_key for each in identities], plan.hostile)

    def go(self) -> None:
        """Raises GossamerError with the command that replays it where our own code fails."""
        try:
            while self.world.now < self._until_s and min(self._honest_rounds) < self._plan.rounds:
                self.world.run(min(self._until_s, self.world.now + SHOW_S))
                self._show()
        except Exception as error:
            plan = self._plan
            again = f"gossamer simulate {plan.name} --nodes {len(plan.devices)} --seed {plan.seed}"
            raise GossamerError(
                f"{type(error).__name__}: {error} (virtual second {self.world.now:.6f}); replay: {again}"
            ) from error

    def _hear(self, _now: float, device: int, report: Report) -> None:
        self._effects.hear(device, report)
        if report.name == "folded":
            round_ = report.fields["round"]
            assert isinstance(round_, int)
            self._rounds[device] = max(self._rounds[device], round_)

    @property
    def _honest_rounds(self) -> list[int]:
        return [self._rounds[index] for index in self._honest]

    def _show(self) -> None:
        devices, at_s = self.world.devices, self._clock() - self._began
        self._display.show(
            Snapshot(
                stage=f"virtual second {self.world.now:.0f} of {self._until_s:.0f}",
                at_s=at_s,
                up=sum(device.core is not None for device in devices),
                devices=len(devices),
                round=max(self._honest_rounds),
                rounds=self._plan.rounds,
                accuracy=None,
                sent_bytes=sum(device.traffic.sent for device in devices),
                note=note_of(self._crypto),
                left_s=left_s(at_s, self.world.now, self._until_s),
            )
        )

    def report(self) -> RunReport:
        world = self.world
        devices = [world.devices[index] for index in self._honest]
        return RunReport(
            algorithm="gossamer",
            seed=self._plan.seed,
            masks=self._plan.swarm.cohorts.masks,
            reached=False,
            time_s=round(world.now, 3),
            bytes_per_device=mean(_total(device) for device in devices),
            local_steps_per_device=mean(world.steps(device) for device in devices),
            final_accuracy=0.0,
            worst_accuracy=0.0,
            rounds=max(self._honest_rounds),
            trace_sha256=world.trace_sha256,
            wall_s=round(self._clock() - self._began, 2),
            training_wall_s=0.0,
            sent_per_device=mean(device.traffic.sent for device in devices),
            sent_by_kind={
                kind: size / len(world.devices) for kind, size in sorted(world.sent_by_kind.items())
            },
            events=world.events,
            problem="" if max(self._honest_rounds) else "no sum came of it",
            crypto=self._crypto,
            adversary=(
                self._effects.report(self._plan.adversaries, max(self._honest_rounds), world.now, None)
                if self._plan.adversaries
                else None
            ),
        )


def _total(device: Device) -> int:
    return device.traffic.sent + device.traffic.received
