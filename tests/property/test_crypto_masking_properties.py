import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crypto.hashing import digest
from crypto.masking import Lanes, Mask, Suite, add_vectors, apply_masks, keystream

KEYS = st.binary(min_size=32, max_size=32)
SUITES = st.sampled_from(Suite)
LANES = st.builds(
    Lanes,
    wide=st.integers(0, 20),
    narrow=st.integers(0, 200),
    narrow_bits=st.sampled_from([8, 16, 32]),
)
MASKS = st.lists(st.builds(Mask, KEYS, st.sampled_from([1, -1])), max_size=5)


@dataclass
class Member:
    key: bytes
    plain: np.ndarray
    masked: np.ndarray


def some_vector(lanes, seed):
    return np.frombuffer(keystream(seed, 0, lanes.size_bytes), np.uint8).copy()


def pair_key(seed, one, other):
    return digest("pair", seed, *sorted((one.key, other.key)))


def cohort(seed, size, lanes, suite):
    """Members as the secure sum makes them: a mask of their own and one for each pair."""
    members = []
    for number in range(size):
        plain = some_vector(lanes, digest("plain", seed, bytes([number])))
        members.append(Member(digest("self", seed, bytes([number])), plain, plain.copy()))
    for i, member in enumerate(members):
        pairwise = [
            Mask(pair_key(seed, member, other), +1 if i < j else -1)
            for j, other in enumerate(members)
            if i != j
        ]
        apply_masks(member.masked, lanes, [Mask(member.key, +1), *pairwise], suite=suite)
    return members


@given(seed=KEYS, size=st.integers(2, 7), lanes=LANES, suite=SUITES)
def test_masks_cancel_over_a_cohort(seed, size, lanes, suite):
    total, expected = lanes.zeros(), lanes.zeros()
    members = cohort(seed, size, lanes, suite)
    for member in members:
        add_vectors(total, member.masked, lanes)
        add_vectors(expected, member.plain, lanes)
    apply_masks(total, lanes, [Mask(member.key, -1) for member in members], suite=suite)
    assert total.tobytes() == expected.tobytes()


@given(seed=KEYS, size=st.integers(3, 7), lanes=LANES, suite=SUITES, data=st.data())
def test_the_pairwise_masks_of_who_dropped_out_can_be_taken_off(seed, size, lanes, suite, data):
    members = cohort(seed, size, lanes, suite)
    lost = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size - 1))
    total, expected, left_over = lanes.zeros(), lanes.zeros(), []
    for i, member in enumerate(members):
        if i in lost:
            continue
        add_vectors(total, member.masked, lanes)
        add_vectors(expected, member.plain, lanes)
        left_over.append(Mask(member.key, -1))
        left_over += [Mask(pair_key(seed, member, members[j]), -1 if i < j else +1) for j in lost]
    apply_masks(total, lanes, left_over, suite=suite)
    assert total.tobytes() == expected.tobytes()


@given(lanes=LANES, masks=MASKS, suite=SUITES, chunk_bytes=st.integers(4, 400), data=st.data())
def test_neither_chunks_nor_the_order_of_masks_change_a_bit(lanes, masks, suite, chunk_bytes, data):
    whole, chunked = some_vector(lanes, bytes(32)), some_vector(lanes, bytes(32))
    apply_masks(whole, lanes, masks, suite=suite)
    shuffled = data.draw(st.permutations(masks))
    apply_masks(chunked, lanes, shuffled, suite=suite, chunk_bytes=chunk_bytes)
    assert whole.tobytes() == chunked.tobytes()


@given(key=KEYS, suite=SUITES, size=st.integers(0, 300), data=st.data())
def test_a_stream_from_an_offset_is_a_slice_of_the_whole(key, suite, size, data):
    whole = keystream(key, 0, size, suite)
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    assert keystream(key, start, end - start, suite) == whole[start:end]


@given(
    key=KEYS,
    suite=SUITES,
    far=st.integers(0, 2**38 - 600),
    start=st.integers(0, 300),
    size=st.integers(0, 300),
)
def test_far_into_a_stream_too(key, suite, far, start, size):
    assert keystream(key, far + start, size, suite) == keystream(key, far, 600, suite)[start : start + size]


@given(keys=st.lists(KEYS, min_size=2, max_size=6, unique=True), suite=SUITES)
def test_no_two_keys_share_a_block(keys, suite):
    blocks = [keystream(key, offset, 16, suite) for key, offset in itertools.product(keys, (0, 16, 64))]
    assert len(set(blocks)) == len(blocks)
