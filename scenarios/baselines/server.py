"""Learning with a server in the middle: FedAvg, FedBuff, our reading of FTTE, and top-k with error feedback.

    fedavg    McMahan et al. 2017 (arXiv:1602.05629). A round: a tenth of the devices, drawn anew, get the model, take
              their local steps and send theirs back; the server waits for all of them and takes the mean, weighted by
              examples. Dense float32 both ways.
    topk      The same, but a device sends only the largest entries of its change, and adds what it did not send to its
              next one (Stich et al. 2018, arXiv:1809.07599). The download stays dense: between two rounds of one device
              ten others have passed, each with other entries.
    fedbuff   Nguyen et al. 2022 (arXiv:2106.06639). A fixed number of devices trains at any time; the server adds the
              mean of each K changes, weighted by (1 + staleness)^-1/2, and lets another device begin for each that
              has answered.
    ftte      Our reading of Tenison et al. 2025 (arXiv:2510.03165), as far as its abstract tells: FedBuff where only a
              fixed subset of the parameters is trained and travels, chosen by the server under the smallest device's
              budget, and where a change weighs less with its age and with its variance.

What FTTE leaves open, and what stands here: the subset is of single parameters, those that the first K changes (dense,
of all parameters) moved most in the sum of squares, a stand-in for Fisher information; after that nothing else is ever
trained. It is told to each device once, as a bitmap. The weight is (1 + age)^-1/2 / (1 + v / mean v), where v is the
variance of a change's entries, over the buffer. A step costs as much time as for all parameters.
"""

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gossip.events import Floats
from scenarios.baselines.algorithm import Stage
from scenarios.baselines.world import FLOAT_BYTES, SERVER
from scenarios.spec.baselines import FedAvgSettings, FedBuffSettings, FtteSettings, TopKSettings

INDEX_BYTES = 4


def staleness_weight(age: int) -> float:
    """Nguyen et al. 2022: polynomial in the age, with their exponent of a half."""
    return 1 / math.sqrt(1 + age)


class FedAvg:
    central = True

    def __init__(self, stage: Stage, settings: FedAvgSettings) -> None:
        self.rounds, self.fresh = 0, False
        self.model = stage.initial.copy()
        self._stage, self._settings = stage, settings
        devices = stage.world.devices
        self._count = min(devices, max(settings.participants_min, round(settings.participants * devices)))
        self._answers: dict[int, Floats | None] = {}

    def start(self) -> None:
        self._answers = {}
        devices = self._stage.world.devices
        for device in self._stage.sample(self._count, list(range(devices))):
            self._stage.world.send(
                SERVER, device, FLOAT_BYTES * len(self.model), partial(self._train, device)
            )

    def models(self) -> list[Floats]:
        return [self.model]

    def _train(self, device: int) -> None:
        self._stage.train(
            device, self.model, self._settings.local_steps, lambda delta: self._upload(device, delta)
        )

    def _upload(self, device: int, delta: Floats | None) -> None:
        if delta is None:  # the device says so in a word
            self._stage.world.send(device, SERVER, 0, lambda: self._answered(device, None))
            return
        sent, payload = self.encode(device, delta)
        self._stage.world.send(device, SERVER, payload, lambda: self._answered(device, sent))

    def encode(self, device: int, delta: Floats) -> tuple[Floats, int]:  # noqa: ARG002 - topk's business
        """What arrives of a change, and its bytes."""
        return delta, FLOAT_BYTES * len(delta)

    def _answered(self, device: int, delta: Floats | None) -> None:
        self._answers[device] = delta
        if len(self._answers) < self._count:
            return
        answers = sorted((device, delta) for device, delta in self._answers.items() if delta is not None)
        if answers:
            weights = np.array([self._stage.training.examples(device) for device, _ in answers], np.float64)
            change = weighted_mean([delta for _, delta in answers], weights)
            self.model = self.model + change
        self.rounds += 1
        self.fresh = True
        self.start()


class TopK(FedAvg):
    def __init__(self, stage: Stage, settings: TopKSettings) -> None:
        super().__init__(stage, settings)
        self._kept = max(1, round(settings.kept * len(self.model)))
        self._residuals: dict[int, Floats] = {}

    def encode(self, device: int, delta: Floats) -> tuple[Floats, int]:
        owed = delta + self._residuals[device] if device in self._residuals else delta
        kept = np.argpartition(np.abs(owed), -self._kept)[-self._kept :]
        sent = np.zeros_like(owed)
        sent[kept] = owed[kept]
        self._residuals[device] = owed - sent
        places = min(INDEX_BYTES * self._kept, math.ceil(len(owed) / 8))  # a list, or a bitmap
        return sent, FLOAT_BYTES * self._kept + places


class FedBuff:
    central = True

    def __init__(self, stage: Stage, settings: FedBuffSettings) -> None:
        self.rounds, self.fresh = 0, False
        self.model = stage.initial.copy()
        self._stage, self._settings = stage, settings
        self._running: set[int] = set()
        self._buffer: list[tuple[Floats, int]] = []  # changes, and the version that each began with

    def start(self) -> None:
        for _ in range(max(1, round(self._settings.concurrency * self._stage.world.devices))):
            self._invite()

    def models(self) -> list[Floats]:
        return [self.model]

    def _invite(self) -> None:
        idle = [device for device in range(self._stage.world.devices) if device not in self._running]
        [device] = self._stage.sample(1, idle)
        self._running.add(device)
        model, version = self.model, self.rounds
        self._stage.world.send(
            SERVER, device, self.download_bytes(device), lambda: self._train(device, model, version)
        )

    def _train(self, device: int, model: Floats, version: int) -> None:
        self._stage.train(
            device, model, self._settings.local_steps, lambda delta: self._upload(device, delta, version)
        )

    def _upload(self, device: int, delta: Floats | None, version: int) -> None:
        payload = 0 if delta is None else self.upload_bytes(version)
        self._stage.world.send(device, SERVER, payload, lambda: self._answered(device, delta, version))

    def _answered(self, device: int, delta: Floats | None, version: int) -> None:
        self._running.discard(device)
        if delta is not None:
            self._buffer.append((delta, version))
        if len(self._buffer) == self._settings.buffer:
            ages = [self.rounds - version for _, version in self._buffer]
            self.model = self.model + self.merged([delta for delta, _ in self._buffer], ages)
            self._buffer = []
            self.rounds += 1
            self.fresh = True
        self._invite()

    def merged(self, deltas: list[Floats], ages: list[int]) -> Floats:
        """Nguyen et al. 2022, algorithm 1: old changes count less, and the others not more for it."""
        total = np.zeros(len(self.model), np.float64)
        for delta, age in zip(deltas, ages, strict=True):
            total += staleness_weight(age) * delta
        return (total / len(deltas)).astype(np.float32)

    def download_bytes(self, device: int) -> int:  # noqa: ARG002 - ftte's business
        return FLOAT_BYTES * len(self.model)

    def upload_bytes(self, version: int) -> int:  # noqa: ARG002 - ftte's business
        return FLOAT_BYTES * len(self.model)


class Ftte(FedBuff):
    """Until the subset is chosen, with the first buffer, it is a FedBuff."""

    def __init__(self, stage: Stage, settings: FtteSettings) -> None:
        super().__init__(stage, settings)
        self._trainable = max(1, round(settings.trainable * len(self.model)))
        self._subset: NDArray[np.bool_] | None = None
        self._told: set[int] = set()

    def merged(self, deltas: list[Floats], ages: list[int]) -> Floats:
        if self._subset is None:
            score = np.sum([np.square(delta, dtype=np.float64) for delta in deltas], axis=0)
            self._subset = np.zeros(len(self.model), np.bool_)
            self._subset[np.argpartition(score, -self._trainable)[-self._trainable :]] = True
            self._stage.training.restrict(self._subset)
            return super().merged(deltas, ages)
        parts = [delta[self._subset].astype(np.float64) for delta in deltas]
        variances = np.array([part.var() for part in parts])
        weights = variance_weights(variances) * np.array([staleness_weight(age) for age in ages])
        change = np.zeros(len(self.model), np.float32)
        change[self._subset] = sum(weight * part for weight, part in zip(weights, parts, strict=True)) / len(
            parts
        )
        return change

    def download_bytes(self, device: int) -> int:
        """The whole model at first; who has it and the subset gets the subset's values alone."""
        if self._subset is None:
            return super().download_bytes(device)
        if device in self._told:
            return FLOAT_BYTES * self._trainable
        self._told.add(device)
        return super().download_bytes(device) + math.ceil(len(self.model) / 8)

    def upload_bytes(self, version: int) -> int:
        return FLOAT_BYTES * (len(self.model) if version == 0 else self._trainable)


def variance_weights(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + v / mean v), scaled to a mean of one: the steadier changes of a buffer count for more."""
    mean = variances.mean()
    if not mean:
        return np.ones_like(variances)
    weights = 1 / (1 + variances / mean)
    return np.asarray(weights / weights.mean())


def weighted_mean(vectors: list[Floats], weights: NDArray[np.float64]) -> Floats:
    total = np.zeros(len(vectors[0]), np.float64)
    for vector, weight in zip(vectors, weights / weights.sum(), strict=True):
        total += weight * vector
    return total.astype(np.float32)
