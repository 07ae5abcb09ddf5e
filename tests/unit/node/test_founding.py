"""A swarm is founded on the model that the trainer opened, and no other model joins it."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from msgspec import structs

from crypto.identity import Identity
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import SignedManifest, Step, Tensor, open_manifest
from gossip.wire import pack
from models.messages import Opened
from node.config.errors import ConfigError
from node.config.settings import (
    CohortSettings,
    CompressionSettings,
    ScheduleStep,
    SwarmSettings,
    TrainingSettings,
)
from node.founding import OpenedModel, check_trainer_fits, found_swarm

ANA, BEA, CEM = (Identity(bytes([each]) * 32) for each in (1, 2, 3))


@dataclass
class Model:
    schema_hash: bytes = b"s" * 32
    tensors: tuple[tuple[str, int, int], ...] = (("conv.weight", 6, 0), ("conv.bias", 2, 1))
    rows: tuple[int, ...] = (2, 0)
    initial: bytes = field(default_factory=lambda: np.arange(8, dtype="<i8").tobytes())


SETTINGS = SwarmSettings(
    name="evening walk",
    rounds=12,
    seed=7,
    training=TrainingSettings(5, 50, (ScheduleStep(1, 256), ScheduleStep(9, 128, 32)), 1 << 20, 1.5, 7, 300),
    compression=CompressionSettings("dense", 32, 3, 16, -6, 5, newton_schulz=2),
    cohorts=CohortSettings(4, 8, 0.25, 1.5),
)


@pytest.mark.parametrize("codec", ["sketch", "random"])
def test_a_manifest_with_a_codec_that_there_is_no_more_is_refused(codec):
    manifest = found_swarm(SETTINGS, "watch", Model(), ANA).manifest
    compression = structs.replace(manifest.compression, codec=codec)
    body = pack(structs.replace(manifest, compression=compression))
    with pytest.raises(PeerViolation, match=codec):
        open_manifest(pack(SignedManifest(body, ANA.sign("manifest", body))))


def test_a_manifest_says_what_its_founder_decided_and_which_model_it_is_about():
    swarm = found_swarm(SETTINGS, "watch", Model(), ANA)
    manifest = open_manifest(swarm.signed).manifest
    assert (manifest.name, manifest.founder, manifest.admit, manifest.members) == (
        "evening walk",
        ANA.public_key,
        "open",
        (),
    )
    assert manifest.model.task == "watch"
    assert manifest.model.seed == 7
    assert manifest.model.schema == b"s" * 32
    assert manifest.model.tensors == (Tensor(6, 0), Tensor(2, 1))
    assert manifest.model.initial == hashlib.sha256(np.arange(8, dtype="<i8").tobytes()).digest()
    training, compression, cohorts = manifest.training, manifest.compression, manifest.cohorts
    assert (training.min_steps, training.max_steps, training.rounds, training.cap) == (5, 50, 12, 1 << 20)
    assert (training.phase_ms, training.rounds_ahead, training.foresight) == (1500, 7, 300)
    assert compression.newton_schulz == 2
    assert training.schedule == (Step(1, 256, 0), Step(9, 128, 32))
    assert structs.astuple(compression) == structs.astuple(SETTINGS.compression)
    assert structs.astuple(cohorts) == (4, 8, 250, 1500, 8, True)


def test_the_defaults_found_a_swarm_whose_sums_hide_one_among_three():
    swarm = found_swarm(SwarmSettings(), "watch", Model(), ANA)
    assert swarm.manifest.cohorts.n_min == 3
    assert swarm.manifest.training.rounds_ahead == 3
    assert swarm.manifest.training.foresight == 0
    assert swarm.manifest.compression.newton_schulz == 0


def test_what_the_trainer_sends_is_a_model():
    opened: OpenedModel = Opened(
        b"s" * 32, Model().tensors, Model().initial, examples=3, classes=2, rows=(2, 0)
    )
    assert found_swarm(SETTINGS, "watch", opened, ANA) == found_swarm(SETTINGS, "watch", Model(), ANA)


def test_only_a_swarm_of_factors_says_which_tensors_are_matrices():
    """And of these the ones that factors halve, at a lower rank than the swarm's if need be; all devices find the same ones."""
    shapes = (("a.weight", 32 * 32, 0), ("a.bias", 32, 0), ("b.weight", 10 * 32, 0))
    model = Model(tensors=shapes, rows=(32, 0, 10), initial=bytes(8 * 1376))
    dense = found_swarm(SETTINGS, "watch", model, ANA)
    assert [tensor.rows for tensor in dense.manifest.model.tensors] == [0, 0, 0]
    assert [tensor.rank for tensor in dense.manifest.model.tensors] == [0, 0, 0]
    for rank, ranks in ((3, [0, 0, 0]), (8, [0, 0, 3]), (9, [8, 0, 3])):
        settings = structs.replace(SETTINGS, compression=CompressionSettings("lowrank", rank=rank))
        swarm = found_swarm(settings, "watch", model, ANA)
        assert [tensor.rows for tensor in swarm.manifest.model.tensors] == [32, 0, 10]
        assert [tensor.rank for tensor in swarm.manifest.model.tensors] == ranks
        assert swarm.manifest.compression.rank == rank
        check_trainer_fits(swarm, model)
    swarm = found_swarm(
        structs.replace(settings, compression=CompressionSettings("lowrank")), "w", model, ANA
    )
    with pytest.raises(ConfigError, match="or other names and shapes"):
        check_trainer_fits(swarm, replace(model, rows=(64, 0, 10)))
    with pytest.raises(MisuseError, match="other tensors than rows"):
        check_trainer_fits(swarm, replace(model, rows=(32, 0)))


def test_a_founder_who_lists_members_is_one_of_them():
    settings = structs.replace(SETTINGS, admit="members", members=(CEM.peer_id, BEA.peer_id, CEM.peer_id))
    members = found_swarm(settings, "watch", Model(), ANA).manifest.members
    assert members == tuple(sorted(each.public_key for each in (ANA, BEA, CEM)))


def test_settings_that_contradict_each_other_are_none():
    with pytest.raises(ConfigError, match="n_min 9 is above n_max 8"):
        structs.replace(SETTINGS, cohorts=CohortSettings(n_min=9, n_max=8))


def test_a_model_beyond_the_bounds_founds_nothing():
    with pytest.raises(PeerViolation, match="length >= 1"):
        found_swarm(SETTINGS, "watch", Model(tensors=(), rows=(), initial=b""), ANA)


def test_a_trainer_that_miscounts_is_our_own_bug():
    with pytest.raises(MisuseError):
        found_swarm(SETTINGS, "watch", Model(initial=bytes(56)), ANA)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        (
            {"schema_hash": b"t" * 32},
            "8 parameters in 2 tensors; this device's model has 8 .* or other names and shapes",
        ),
        ({"tensors": (("conv.weight", 6, 0), ("conv.bias", 2, 0))}, "or other names and shapes"),
        (
            {"tensors": (("conv.weight", 7, 0),), "rows": (7,), "initial": bytes(56)},
            "this device's model has 7 parameters in 1 ten",
        ),
        ({"initial": bytes(64)}, "another first model"),
    ],
)
def test_only_the_same_model_from_the_same_start_joins(change, words):
    swarm = found_swarm(SETTINGS, "watch", Model(), ANA)
    if words is None:
        check_trainer_fits(swarm, replace(Model(), **change))
        return
    with pytest.raises(ConfigError, match=f'"evening walk" trains watch .*{words}'):
        check_trainer_fits(swarm, replace(Model(), **change))
