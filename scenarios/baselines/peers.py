"""Learning without a server: each alone, D-PSGD, epidemic learning, DivShare. All send dense float32 values.

local      Nobody sends anything, and after a number of steps each stops.
dpsgd      Lian et al. 2017 (arXiv:1705.09056). A fixed regular graph. A round of a device: local steps, its model to
           each neighbour, and once their models of that round are here the mean of all of them and its own. Who has
           fast neighbours can be a round ahead of who has not.
epidemic   Epidemic learning, de Vos et al. 2023 (arXiv:2310.01972), EL-Local. A round: local steps, the model to s
           others drawn anew, and the mean of the own and all that came. Rounds are in step: who waits does not know
           from how many, so all wait for the slowest.
divshare   Biswas et al. 2024 (arXiv:2410.12918). Nobody waits. After its local steps a device cuts its model into
           fragments, and sends each to some others drawn anew, in random order, while it goes on training; what it
           did not get to send by the end of the next phase is dropped. Before each phase a device takes, for each
           parameter, the mean of its own value and of all that came meanwhile.
"""

import itertools
from functools import partial

import numpy as np

from gossip.events import Floats
from scenarios.baselines.algorithm import Stage
from scenarios.baselines.world import FLOAT_BYTES
from scenarios.spec.baselines import (
    DivShareSettings,
    DpsgdSettings,
    EpidemicSettings,
    LocalPhase,
    LocalSettings,
)


class Peers:
    """A model a device."""

    central = False

    def __init__(self, stage: Stage, settings: LocalPhase) -> None:
        self.rounds, self.fresh = 0, False
        self._stage, self._local = stage, settings
        devices = stage.world.devices
        self._models = [stage.initial.copy() for _ in range(devices)]
        self._done = [0] * devices  # rounds

    def models(self) -> list[Floats]:
        return self._models

    def start(self) -> None:
        for device in range(self._stage.world.devices):
            self._train(device)

    def _train(self, device: int) -> None:
        self._stage.train(device, self._models[device], self._local.local_steps, partial(self._moved, device))

    def _moved(self, device: int, delta: Floats | None) -> None:
        """A phase that diverged leaves the model as it was."""
        if delta is not None:
            self._models[device] = self._models[device] + delta
        self.trained(device)

    def trained(self, device: int) -> None:
        raise NotImplementedError

    def finish(self, device: int, model: Floats) -> None:
        self._models[device] = model
        self._done[device] += 1
        self.rounds = min(self._done)
        self.fresh = True


class Local(Peers):
    def __init__(self, stage: Stage, settings: LocalSettings) -> None:
        super().__init__(stage, settings)
        self._phases = max(1, settings.steps_max // settings.local_steps)

    def trained(self, device: int) -> None:
        self.finish(device, self._models[device])
        if self._done[device] < self._phases:
            self._train(device)


class Dpsgd(Peers):
    def __init__(self, stage: Stage, settings: DpsgdSettings) -> None:
        super().__init__(stage, settings)
        self.neighbours = regular_graph(stage.world.devices, settings.degree, stage.rng)
        # What came, by round and sender: a neighbour can be one round ahead.
        self._came: list[dict[int, dict[int, Floats]]] = [{} for _ in self._models]
        self._waits = [False] * len(self._models)

    def trained(self, device: int) -> None:
        model = self._models[device]
        for neighbour in self.neighbours[device]:
            self._stage.world.send(
                device,
                neighbour,
                FLOAT_BYTES * len(model),
                partial(self._take, neighbour, device, self._done[device], model),
            )
        self._waits[device] = True
        self._mix(device)

    def _take(self, device: int, sender: int, round_: int, model: Floats) -> None:
        self._came[device].setdefault(round_, {})[sender] = model
        self._mix(device)

    def _mix(self, device: int) -> None:
        came = self._came[device].get(self._done[device], {})
        if not self._waits[device] or len(came) < len(self.neighbours[device]):
            return
        self._waits[device] = False
        del self._came[device][self._done[device]]
        self.finish(device, mean_of([self._models[device], *(came[sender] for sender in sorted(came))]))
        self._train(device)


class Epidemic(Peers):
    def __init__(self, stage: Stage, settings: EpidemicSettings) -> None:
        super().__init__(stage, settings)
        self._receivers = min(settings.receivers, len(self._models) - 1)
        self._inbox: list[dict[int, Floats]] = [{} for _ in self._models]
        self._pending = 0

    def start(self) -> None:
        self._pending = len(self._models) * (1 + self._receivers)  # phases and messages
        super().start()

    def trained(self, device: int) -> None:
        model = self._models[device]
        for receiver in self._stage.sample(self._receivers, _others(len(self._models), device)):
            self._stage.world.send(
                device, receiver, FLOAT_BYTES * len(model), partial(self._take, receiver, device, model)
            )
        self._count()

    def _take(self, device: int, sender: int, model: Floats) -> None:
        self._inbox[device][sender] = model
        self._count()

    def _count(self) -> None:
        self._pending -= 1
        if self._pending:
            return
        for device, came in enumerate(self._inbox):
            self.finish(device, mean_of([self._models[device], *(came[sender] for sender in sorted(came))]))
            came.clear()
        self.start()


class DivShare(Peers):
    def __init__(self, stage: Stage, settings: DivShareSettings) -> None:
        super().__init__(stage, settings)
        self._receivers = min(settings.receivers, len(self._models) - 1)
        bounds = np.linspace(0, len(stage.initial), settings.fragments + 1).astype(np.int64).tolist()
        self._fragments = [slice(begin, end) for begin, end in itertools.pairwise(bounds)]
        self._inbox: list[list[tuple[int, Floats]]] = [[] for _ in self._models]
        self._outbox: list[list[tuple[int, int, Floats]]] = [[] for _ in self._models]
        self._sending = [False] * len(self._models)

    def trained(self, device: int) -> None:
        model = self._models[device]
        queue = [
            (receiver, place, model[span])
            for place, span in enumerate(self._fragments)
            for receiver in self._stage.sample(self._receivers, _others(len(self._models), device))
        ]
        self._outbox[device] = [queue[place] for place in self._stage.rng.permutation(len(queue))]
        if not self._sending[device]:
            self._send_next(device)
        total, count = model.astype(np.float64), np.ones(len(model))
        for place, values in self._inbox[device]:
            total[self._fragments[place]] += values
            count[self._fragments[place]] += 1
        self._inbox[device] = []
        self.finish(device, (total / count).astype(np.float32))
        self._train(device)

    def _send_next(self, device: int) -> None:
        """One fragment after the other, so that what waits can still be dropped."""
        self._sending[device] = bool(self._outbox[device])
        if not self._outbox[device]:
            return
        receiver, place, values = self._outbox[device].pop()
        world = self._stage.world
        left_at = world.send(
            device, receiver, FLOAT_BYTES * len(values), partial(self._take, receiver, place, values)
        )
        world.after(left_at - world.now, partial(self._send_next, device))

    def _take(self, device: int, place: int, values: Floats) -> None:
        self._inbox[device].append((place, values))


def regular_graph(devices: int, degree: int, rng: np.random.RandomState) -> list[list[int]]:
    """Each device's neighbours, ascending: rings in random order on top of each other, which mix well and are connected.

    Of an odd degree, and where there are too few devices for it, fewer.
    """
    rings = max(1, min(degree, (devices - 1) // 2) // 2)
    neighbours: list[set[int]] = [set() for _ in range(devices)]
    for _ in range(rings):
        while True:  # until no edge of the new ring is there already
            order = rng.permutation(devices).tolist()
            edges = list(zip(order, order[1:] + order[:1], strict=True))
            if all(one != other and other not in neighbours[one] for one, other in edges):
                break
        for one, other in edges:
            neighbours[one].add(other)
            neighbours[other].add(one)
    return [sorted(each) for each in neighbours]


def mean_of(models: list[Floats]) -> Floats:
    total = np.zeros(len(models[0]), np.float64)
    for model in models:
        total += model
    return (total / len(models)).astype(np.float32)


def _others(devices: int, device: int) -> list[int]:
    return [other for other in range(devices) if other != device]
