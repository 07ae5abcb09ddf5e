"""Where a swarm's settings meet a device's model: founding a swarm, and checking that one fits before joining in."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from crypto.identity import Identity
from gossip.codec.lowrank import rank_for
from gossip.errors import MisuseError
from gossip.manifest import MASKS_OFF, Compression, Model, Swarm, Tensor, found
from node.config.errors import ConfigError
from node.config.settings import CompressionSettings, SwarmSettings

UNIT_BYTES = 8  # x_0 is int64, little-endian


class OpenedModel(Protocol):
    """What a trainer tells of the task that it has opened; `models.messages.Opened` is one."""

    @property
    def schema_hash(self) -> bytes: ...

    @property
    def tensors(self) -> Sequence[tuple[str, int, int]]:
        """(name, parameters, segment), in order."""

    @property
    def rows(self) -> Sequence[int]:
        """Of each tensor, the first of its dimensions if it has several, else 0."""

    @property
    def initial(self) -> bytes:
        """x_0, int64 little-endian in units of 2^-24."""


def found_swarm(settings: SwarmSettings, task: str, opened: OpenedModel, founder: Identity) -> Swarm:
    """Sign a new swarm into being, whose model is the one that the trainer opened under `settings.seed`.

    `opened` comes from a trainer that was given this seed. Raises PeerViolation for a model beyond the bounds.
    """
    model = _model(task, settings.seed, opened, settings.compression)
    return found(settings.manifest(model, founder.public_key), founder)


def refuse_unmasked(swarm: Swarm, settings: SwarmSettings) -> None:
    """Nobody shows its updates without having said so itself: ConfigError for a swarm without masks, unless."""
    if not swarm.manifest.cohorts.masks and settings.cohorts.masks:
        raise ConfigError(
            f'swarm.cohorts.masks: in the swarm "{swarm.manifest.name}" {MASKS_OFF}; set it to false, in the '
            "settings of this device too, if that is what you want"
        )


def check_trainer_fits(swarm: Swarm, opened: OpenedModel) -> None:
    """Whether this device's model, opened under the manifest's seed, is the swarm's; ConfigError in words if not."""
    theirs = swarm.manifest.model
    ours = _model(theirs.task, theirs.seed, opened, swarm.manifest.compression)
    where = f'the swarm "{swarm.manifest.name}" trains {theirs.task}'
    if (ours.schema, ours.tensors) != (theirs.schema, theirs.tensors):
        raise ConfigError(
            f"task.name: {where} with {_described(theirs)}; this device's model has {_described(ours)}, or other "
            "names and shapes; use the task as its founder has it"
        )
    if ours.initial != theirs.initial:
        raise ConfigError(
            f"task.name: {where} from another first model than this device makes of the same seed; use the task, "
            "and the release of torch, that its founder has"
        )


def _model(
    task: str, seed: int, opened: OpenedModel, compression: Compression | CompressionSettings
) -> Model:
    if len(opened.rows) != len(opened.tensors):
        raise MisuseError("the trainer tells other tensors than rows of them")
    tensors = tuple(
        _tensor(size, segment, rows, compression)
        for (_, size, segment), rows in zip(opened.tensors, opened.rows, strict=True)
    )
    if len(opened.initial) != UNIT_BYTES * sum(tensor.size for tensor in tensors):
        raise MisuseError("the trainer's first model and its tensors differ in size")
    return Model(task, opened.schema_hash, tensors, seed, sha256(opened.initial).digest())


def _tensor(size: int, segment: int, rows: int, compression: Compression | CompressionSettings) -> Tensor:
    rank = rank_for(rows, size, compression.rank) if compression.codec == "lowrank" else 0
    if not rank:
        return Tensor(size, segment)
    return Tensor(size, segment, rows, 0 if rank == compression.rank else rank)


def _described(model: Model) -> str:
    return f"{sum(tensor.size for tensor in model.tensors)} parameters in {len(model.tensors)} tensors"
