"""Blocks cover every parameter once and never two tensors; a support has one spelling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.codec import blocks as layout_module
from gossip.codec.blocks import Layout
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import Model, Tensor


def cut(*tensors, block_size=4):
    model = Model("tests", bytes(32), tuple(Tensor(size, segment) for size, segment in tensors), 0, bytes(32))
    return Layout.of(model, block_size)


def test_a_small_model_cut_by_hand():
    layout = cut((10, 0), (3, 2), (4, 0))
    assert (layout.parameters, layout.segments, layout.blocks) == (17, 3, 5)
    assert layout.starts.tolist() == [0, 4, 8, 10, 13]
    assert layout.ends.tolist() == [4, 8, 10, 13, 17]
    assert layout.sizes.tolist() == [4, 4, 2, 3, 4]
    assert layout.block_tensor.tolist() == [0, 0, 0, 1, 2]
    assert layout.block_segment.tolist() == [0, 0, 0, 2, 0]
    assert layout.tensor_ends.tolist() == [10, 13, 17]
    some = np.array([0, 2, 3])
    assert layout.values_in(some) == 9
    assert layout.indices(some).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 12]
    assert layout.expand(np.array([5, 6, 7], np.int8), some).tolist() == [5] * 4 + [6] * 2 + [7] * 3
    assert layout.expand(np.array([5, 6, 7], np.int8), some).dtype == np.int8
    assert layout.pack_blocks(some) == b"\x0d"


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(1, 9),
    st.data(),
)
def test_blocks_cover_all_once_and_supports_come_back(tensors, block_size, data):
    layout = cut(*tensors, block_size=block_size)
    everything = np.arange(layout.blocks)
    assert layout.indices(everything).tolist() == list(range(layout.parameters))
    assert layout.sizes.max() <= block_size
    first = (
        layout.tensor_ends[layout.block_tensor] - np.array([size for size, _ in tensors])[layout.block_tensor]
    )
    assert (layout.starts >= first).all()
    assert (layout.ends <= layout.tensor_ends[layout.block_tensor]).all()
    chosen = sorted(data.draw(st.sets(st.integers(0, layout.blocks - 1), min_size=1)))
    assert layout.unpack_blocks(layout.pack_blocks(np.array(chosen))).tolist() == chosen


def test_all_blocks_are_the_empty_string_and_nothing_else():
    layout = cut((20, 0))
    assert layout.pack_blocks(np.arange(5)) == b""
    assert layout.unpack_blocks(b"").tolist() == [0, 1, 2, 3, 4]
    for support, says in [
        (b"\x1f", "all blocks spelt"),
        (b"\x00", "no block"),
        (b"\x21", "beyond the last"),
        (b"\x01\x00", "2 bytes for 5"),
    ]:
        with pytest.raises(PeerViolation, match=says):
            layout.unpack_blocks(support)


def test_places_are_the_indices_of_some_blocks_and_of_all():
    layout = cut((20, 0))
    vector = np.arange(20)
    for blocks in ([0, 1, 2, 3, 4], [1, 4], [0], []):
        support = np.array(blocks, np.int64)
        assert vector[layout.places(support)].tolist() == vector[layout.indices(support)].tolist()


def test_a_block_named_twice_is_our_own_mistake():
    with pytest.raises(MisuseError, match="twice"):
        cut((20, 0)).pack_blocks(np.array([1, 1]))


def test_too_large_a_model_is_refused(monkeypatch):
    monkeypatch.setattr(layout_module, "PARAMETERS_MAX", 16)
    cut((10, 0), (6, 0))
    with pytest.raises(PeerViolation, match="17 parameters, at most 16"):
        cut((10, 0), (7, 0))
