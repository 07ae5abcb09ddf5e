"""The flat vector, its schema's hash, and an x_0 that is the same on every machine."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from models.architectures import digits_net, watch_net
from models.parameters import ONE, SchemaError, TensorSpec, bind, initial, schema_hash, schema_of


def one_segment(_name: str) -> int:
    return 0


def test_the_vector_lists_tensors_in_the_modules_order():
    schema = schema_of(digits_net(), one_segment)
    assert schema == (
        TensorSpec("1.weight", (32, 64), 0),
        TensorSpec("1.bias", (32,), 0),
        TensorSpec("3.weight", (10, 32), 0),
        TensorSpec("3.bias", (10,), 0),
    )
    assert [tensor.size for tensor in schema] == [2048, 32, 320, 10]
    module = digits_net()
    expected = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    values, _ = bind(module)
    assert torch.equal(values, expected)


def test_bound_parameters_and_gradients_are_windows_on_the_two_vectors():
    module = nn.Linear(3, 2)
    values, gradient = bind(module)
    values.copy_(torch.arange(8.0))
    assert module.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert module.bias.tolist() == [6, 7]
    for _ in range(2):
        module(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert gradient.tolist() == [2, 4, 6, 2, 4, 6, 2, 2]
    gradient.zero_()
    assert module.weight.grad.abs().sum() == 0


def test_the_hash_sees_names_shapes_segments_and_order():
    base = (TensorSpec("a", (2, 3), 0), TensorSpec("b", (6,), 0))
    assert [spec.rows for spec in (*base, TensorSpec("kernel", (8, 4, 3, 3), 0))] == [2, 0, 8]
    others = [
        (TensorSpec("A", (2, 3), 0), base[1]),
        (TensorSpec("a", (3, 2), 0), base[1]),
        (TensorSpec("a", (2, 3), 1), base[1]),
        base[::-1],
        base[:1],
    ]
    assert len({schema_hash(schema) for schema in [base, *others]}) == 6
    assert len(schema_hash(base)) == 32


def test_x0_is_pinned_for_good():
    # Swarms carry this hash in their manifests: it must never change, on any machine or with any library.
    x0 = initial(schema_of(watch_net(), one_segment), seed=7)
    assert (x0.dtype, x0.shape) == (np.int64, (3703,))
    assert x0[:3].tolist() == [-737725, -1797760, -2241161]
    assert hashlib.sha256(x0.astype("<i8").tobytes()).hexdigest() == (
        "92da59c40c9bb6618d3cd13a70878453e0fb201ac22786c4ca342ac8b2ee0c88"
    )


def test_x0_follows_seed_and_tensor():
    twins = (TensorSpec("a", (4, 4), 0), TensorSpec("b", (4, 4), 0))
    x0 = initial(twins, seed=1)
    assert not np.array_equal(x0[:16], x0[16:])
    assert not np.array_equal(x0, initial(twins, seed=2))
    assert np.array_equal(x0, initial(twins, seed=1))


def test_x0_is_uniform_within_its_bound_also_beyond_one_draw():
    x0 = initial((TensorSpec("weight", (1000, 24, 4), 0),), seed=3) / ONE
    bound = (1 / 96) ** 0.5
    assert 0.999 * bound < x0.max() <= bound
    assert -bound <= x0.min() < -0.999 * bound
    assert abs(x0.mean()) < 0.01 * bound
    assert x0.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert len(np.unique(x0)) > 80_000


def test_norm_layers_start_at_one_and_biases_at_zero():
    module = nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4))
    schema = schema_of(module, one_segment)
    x0 = dict(
        zip([tensor.name for tensor in schema], np.split(initial(schema, 0), [24, 28, 32]), strict=True)
    )
    assert x0["0.bias"].tolist() == x0["1.bias"].tolist() == [0] * 4
    assert x0["1.weight"].tolist() == [1 << 24] * 4


def test_segments_come_from_names():
    schema = schema_of(digits_net(), lambda name: int(name.startswith("3")))
    assert [tensor.segment for tensor in schema] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("module", "segment", "complaint"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), one_segment, "use GroupNorm for BatchNorm"),
        (nn.Linear(2, 2).double(), one_segment, "float64"),
        (nn.ReLU(), one_segment, "no parameters"),
        (nn.Linear(2, 2), lambda _name: 64, "segment 64"),
    ],
)
def test_models_that_cannot_be_shared_are_refused(module, segment, complaint):
    with pytest.raises(SchemaError, match=complaint):
        schema_of(module, segment)


def test_a_tied_tensor_counts_once():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    assert [tensor.size for tensor in schema_of(module, one_segment)] == [9]
    values, _ = bind(module)
    values.zero_()
    assert module[1].weight.abs().sum() == 0
