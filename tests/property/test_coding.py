"""Codings of sums: every one gives its lanes back, and nothing else gives more than was asked for."""

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.masking import Lanes
from gossip.codec.entropy_coding import DEFLATED, PLAIN, RAW_DEFLATE, squeeze, unsqueeze
from gossip.errors import PeerViolation

LANES = st.builds(Lanes, st.integers(0, 40), st.integers(0, 400), st.sampled_from([8, 16, 32]))


def numbers(lanes: Lanes, scale: float, seed: int = 1) -> bytes:
    """Sums as they are: around zero, in two's complement."""
    rng = np.random.default_rng(seed)
    wide = rng.poisson(500, lanes.wide).astype("<u4")
    narrow = np.rint(rng.laplace(0, scale, lanes.narrow)).astype(f"<i{lanes.narrow_bits // 8}")
    return wide.tobytes() + narrow.tobytes()


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE)
    return DEFLATED + stream.compress(data) + stream.flush()


@given(LANES, st.data())
def test_any_lanes_come_back_and_cost_one_byte_at_most(lanes, data):
    said = data.draw(st.binary(min_size=lanes.size_bytes, max_size=lanes.size_bytes))
    coded = squeeze(said, lanes)
    assert len(coded) <= len(said) + 1
    assert unsqueeze(coded, lanes) == said


@given(LANES, st.floats(0, 30))
def test_sums_come_back(lanes, scale):
    said = numbers(lanes, scale)
    assert unsqueeze(squeeze(said, lanes), lanes) == said


@given(LANES, st.binary(max_size=300))
def test_any_bytes_are_lanes_or_a_violation(lanes, rubbish):
    for flag in (b"", PLAIN, DEFLATED):
        with contextlib.suppress(PeerViolation):
            assert len(unsqueeze(flag + rubbish, lanes)) == lanes.size_bytes


@pytest.mark.parametrize(("bits", "most"), [(8, 0.65), (16, 0.33), (32, 0.17)])
def test_sums_of_five_bits_travel_as_little_more(bits, most):
    lanes = Lanes(0, 10_000, bits)
    said = numbers(lanes, 6.0)
    assert len(squeeze(said, lanes)) < most * len(said)


def test_a_stream_that_holds_more_or_less_or_something_behind_it_is_refused():
    lanes = Lanes(0, 4096, 8)
    good = deflated(bytes(4096))
    assert unsqueeze(good, lanes) == bytes(4096)
    bomb = deflated(bytes(1 << 24))
    for bad in (
        good + b"\0",
        good[:-1],
        deflated(bytes(4095)),
        deflated(bytes(4097)),
        bomb[:4000],
        DEFLATED,
        b"",
    ):
        with pytest.raises(PeerViolation, match="lanes: "):
            unsqueeze(bad, lanes)
    with pytest.raises(PeerViolation, match="coded for nothing"):
        unsqueeze(DEFLATED + bytes(4096), lanes)
    with pytest.raises(PeerViolation, match="no coding"):
        unsqueeze(b"\2" + bytes(10), lanes)


def test_no_more_than_what_is_asked_for_is_ever_made(monkeypatch):
    """However much a stream would give."""
    made = []
    honest = zlib.decompressobj

    class Spy:
        def __init__(self, bits):
            self.inner = honest(bits)

        def decompress(self, data, most):
            made.append(self.inner.decompress(data, most))
            return made[-1]

    monkeypatch.setattr(zlib, "decompressobj", Spy)
    with pytest.raises(PeerViolation):
        unsqueeze(deflated(bytes(1 << 22))[:4000], Lanes(0, 4096, 8))
    assert [len(each) for each in made] == [4097]
