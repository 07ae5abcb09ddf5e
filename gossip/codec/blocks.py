"""How the flat parameter vector is cut into blocks, the unit in which a sum travels.

Block k covers the parameters [starts[k], ends[k]). A block never straddles two tensors, so that the numbers
under one exponent belong together; the last block of a tensor may be shorter. Everything follows from the
manifest, so all nodes of a swarm cut alike.

A *support* names the blocks that one sum carries: a bitmap whose bit k % 8 of byte k // 8 is block k. All
blocks have one spelling, the empty string, so that a support has exactly one encoding.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import PARAMETERS_MAX, Model

LAYOUTS_KEPT = 4  # the devices of one process share its arrays, which never change

Integers = NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    parameters: int
    segments: int
    blocks: int
    starts: Integers  # each block's first parameter
    sizes: Integers  # each block's number of parameters
    ends: Integers
    block_tensor: NDArray[np.int32]
    block_segment: NDArray[np.int32]
    tensor_ends: Integers
    tensor_segment: NDArray[np.int32]
    tensor_rows: Integers  # of a matrix that travels as factors, else 0
    tensor_ranks: Integers  # of its factors; 0: as the codec's
    prior: bytes = b""  # what x_0 says of the first factors' bases, see gossip.codec.lowrank; empty: nothing

    @classmethod
    @lru_cache(maxsize=LAYOUTS_KEPT)
    def of(cls, model: Model, block_size: int) -> Self:
        """Cut `model` into blocks of at most `block_size` parameters; PeerViolation for too large a model."""
        tensor_sizes = np.array([tensor.size for tensor in model.tensors], np.int64)
        parameters = int(tensor_sizes.sum())
        if parameters > PARAMETERS_MAX:
            raise PeerViolation(f"model: {parameters} parameters, at most {PARAMETERS_MAX} allowed")
        tensor_ends = np.cumsum(tensor_sizes)
        tensor_segment = np.array([tensor.segment for tensor in model.tensors], np.int32)
        tensor_rows = np.array([tensor.rows for tensor in model.tensors], np.int64)
        tensor_ranks = np.array([tensor.rank for tensor in model.tensors], np.int64)
        counts = -(-tensor_sizes // block_size)
        block_tensor = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        first_of_tensor = np.cumsum(counts) - counts
        place_in_tensor = np.arange(len(block_tensor), dtype=np.int64) - first_of_tensor[block_tensor]
        starts = (tensor_ends - tensor_sizes)[block_tensor] + place_in_tensor * block_size
        ends = np.minimum(starts + block_size, tensor_ends[block_tensor])
        arrays = (starts, ends - starts, ends, block_tensor, tensor_segment[block_tensor])
        tensors = (tensor_ends, tensor_segment, tensor_rows, tensor_ranks)
        for array in (*arrays, *tensors):
            array.setflags(write=False)
        segments = 1 + int(tensor_segment.max())
        return cls(parameters, segments, len(starts), *arrays, *tensors)

    def values_in(self, blocks: NDArray[np.integer]) -> int:
        """How many parameters these blocks cover."""
        return int(self.sizes[blocks].sum())

    def indices(self, blocks: NDArray[np.integer]) -> Integers:
        """The parameters that these blocks cover, block after block: int64[values_in(blocks)]."""
        sizes = self.sizes[blocks]
        before = np.cumsum(sizes) - sizes
        return np.repeat(self.starts[blocks] - before, sizes) + np.arange(int(sizes.sum()), dtype=np.int64)

    def places(self, blocks: NDArray[np.integer]) -> Integers | slice:
        """To index a vector with, as with `indices`, given increasing block numbers: of all of them a slice, which costs nothing."""
        return slice(None) if len(blocks) == self.blocks else self.indices(blocks)

    def expand(self, per_block: NDArray[Scalar], blocks: NDArray[np.integer]) -> NDArray[Scalar]:
        """Repeat one value a block, given in the order of `blocks`, for each parameter of that block."""
        return np.repeat(per_block, self.sizes[blocks])

    def pack_blocks(self, blocks: NDArray[np.integer]) -> bytes:
        """The one encoding of a support, given as strictly increasing block numbers."""
        if len(blocks) == self.blocks:
            return b""
        bits = np.zeros(self.blocks, np.uint8)
        bits[blocks] = 1
        if int(bits.sum()) != len(blocks):
            raise MisuseError("a support names a block twice")
        return np.packbits(bits, bitorder="little").tobytes()

    def unpack_blocks(self, support: bytes) -> Integers:
        """The support's block numbers, increasing; PeerViolation if they are not spelt in the one way."""
        if not support:
            return np.arange(self.blocks, dtype=np.int64)
        if len(support) != -(-self.blocks // 8):
            raise PeerViolation(f"support: {len(support)} bytes for {self.blocks} blocks")
        bits = np.unpackbits(np.frombuffer(support, np.uint8), bitorder="little")
        if bits[self.blocks :].any():
            raise PeerViolation("support: bits beyond the last block")
        blocks = np.flatnonzero(bits)
        if len(blocks) in {0, self.blocks}:
            raise PeerViolation("support: no block, or all blocks spelt as a bitmap")
        return blocks.astype(np.int64, copy=False)
