"""A model's parameters as one flat vector, in one order that all devices share.

The **schema** lists the tensors in the module's order; its hash lets two devices see that they mean the same
vector. `initial` makes the model that all start from. It must come out the same, bit for bit, on any machine
and with any version of any library, so no library's generator takes part: SHAKE-256 expands the seed into
integers, and bounds are integer square roots. The unit is that of the replica, 2^-24.

Matrices and kernels are uniform in +-1 / sqrt(fan_in), a quiet start: with the sqrt(6 / fan_in) of He et al.
(2015, arXiv:1502.01852) the packaged motion task ended several points lower on some seeds. In one dimension,
`weight` is a norm layer's and starts at one, all else at zero.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
import torch  # noqa: TID251 - models is torch's room
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID251 - models is torch's room

ONE = 1 << 24  # the replica's unit is 2^-24
SEGMENTS = 64

_DRAWS = 1 << 16  # numbers of one SHAKE-256 call: bounds the memory for large tensors


class SchemaError(ValueError):
    """The model cannot be shared as one flat vector; the message says what about it to change."""


class TensorSpec(NamedTuple):
    name: str
    shape: tuple[int, ...]
    segment: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Of the matrix that a layer's weight or kernel is, outputs first; 0 in one dimension."""
        return self.shape[0] if len(self.shape) > 1 else 0


Schema = tuple[TensorSpec, ...]


def schema_of(module: nn.Module, segment: Callable[[str], int]) -> Schema:
    """The module's parameters in its own order; a tied one once. Raises SchemaError."""
    tensors = []
    for name, parameter in module.named_parameters():
        spec = TensorSpec(name, tuple(parameter.shape), segment(name))
        if parameter.dtype != torch.float32 or not spec.size:
            raise SchemaError(
                f"parameter {name} is {parameter.dtype} {spec.shape}: only filled float32 is shared"
            )
        if not 0 <= spec.segment < SEGMENTS:
            raise SchemaError(f"parameter {name} is in segment {spec.segment}, not in 0-{SEGMENTS - 1}")
        tensors.append(spec)
    if not tensors:
        raise SchemaError("the model has no parameters")
    state = module.state_dict().keys()
    for name, _ in module.named_buffers():
        if name in state:
            raise SchemaError(
                f"the model keeps state outside its parameters ({name}): use GroupNorm for BatchNorm"
            )
    return tuple(tensors)


def schema_hash(schema: Schema) -> bytes:
    """32 bytes over names, shapes and segments, in order."""
    return hashlib.sha256(b"gossamer/1/schema\0" + msgspec.msgpack.encode(schema)).digest()


def bind(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Make all parameters views of one flat float32 vector, and their gradients views of a second.

    Training, snapshots, deltas and rebases are then operations on whole vectors; backward() adds to a gradient
    that exists in place. The gradient is the caller's to set to zero. Call it once for a module.
    """
    size = sum(parameter.numel() for parameter in module.parameters())
    values, gradient = torch.empty(size), torch.zeros(size)
    start = 0
    for parameter in module.parameters():
        span = slice(start, start + parameter.numel())
        values[span] = parameter.detach().flatten()
        parameter.data = values[span].view_as(parameter)
        parameter.grad = gradient[span].view_as(parameter)
        start = span.stop
    return values, gradient


def initial(schema: Schema, seed: int) -> NDArray[np.int64]:
    """x_0, (parameters,), in units of 2^-24: a function of the schema and of a seed below 2^32, and nothing else."""
    return np.concatenate([_initial_tensor(spec, index, seed) for index, spec in enumerate(schema)])


def _initial_tensor(spec: TensorSpec, index: int, seed: int) -> NDArray[np.int64]:
    if len(spec.shape) < 2:
        return np.full(spec.size, ONE if spec.name.rpartition(".")[2] == "weight" else 0, np.int64)
    fan_in = math.prod(spec.shape[1:])
    bound = math.isqrt(ONE**2 // fan_in)
    chunks = []
    for start in range(0, spec.size, _DRAWS):
        count = min(_DRAWS, spec.size - start)
        origin = b"gossamer/1/initial\0" + msgspec.msgpack.encode((seed, index, spec.name, start))
        draws = np.frombuffer(hashlib.shake_256(origin).digest(4 * count), "<u4").astype(np.int64)
        chunks.append((draws * (2 * bound + 1) >> 32) - bound)  # at most 32 + 26 bits: inside int64
    return np.concatenate(chunks)
