"""Contributions become integers, their sums are read exactly, and what does not travel stays."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.masking import add_vectors
from gossip.aggregate import RANGE_MAX, Body, Part
from gossip.compression import (
    DENSE,
    RANDOM,
    Contribution,
    Phase,
    Plan,
    decode_sum,
    encode_payload,
    exponents_after,
    payload_lanes,
    range_codes,
)
from gossip.errors import MisuseError
from gossip.layout import Layout
from gossip.manifest import Compression, Model, Tensor
from gossip.residual import Books

MODEL = Model("any", bytes(32), (Tensor(100, 0), Tensor(37, 1), Tensor(5, 1)), 0, bytes(32))
LAYOUT = Layout.of(MODEL, 16)
EVERY_SEGMENT = 0b11


def compression(codec: str = "dense", bits: int = 8, levels: int = 7, permille: int = 1000) -> Compression:
    return Compression(codec, 16, permille, levels, bits, -2, 64)


def plan(
    settings_: Compression, codec=DENSE, cohort: bytes = bytes(32), parents=(), travelling=EVERY_SEGMENT
) -> Plan:
    return codec.plan(
        Phase.PAYLOAD,
        layout=LAYOUT,
        compression=settings_,
        cohort=cohort,
        parents=parents,
        travelling=travelling,
        look=None,
    )


def body(round_: int, ranges: tuple[int, ...], contributors: bytes) -> Body:
    part = Part(bytes(32), tuple(bytes([i] * 32) for i in range(8)), bytes(32), contributors)
    return Body(1, bytes(32), (part,), (), round_, 0, b"", b"", b"\2", b"\0", (1,), ranges, b"")


@pytest.mark.parametrize(
    ("bits", "levels", "n"), [(8, 7, 16), (8, 15, 8), (16, 32, 16), (32, 32, 16), (8, 42, 3)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_sums_are_exact_in_every_lane_width(bits, levels, n, sign):
    settings_ = compression(bits=bits, levels=levels)
    chosen = plan(settings_)
    total = chosen.lanes.zeros()
    huge = Contribution(np.full(LAYOUT.parameters, sign * 1e6, np.float32), 10**6, 0)
    for member in range(n):
        encoded = encode_payload(chosen, huge, bytes([member] * 32), LAYOUT, settings_)
        add_vectors(total, encoded.vector, chosen.lanes)
    weights, ranges, sums = decode_sum(total, chosen.lanes, LAYOUT)
    assert set(np.frombuffer(sums, f"<i{bits // 8}")) == {sign * n * levels}
    assert weights == (64 * n,) * 2, "weights are clipped to W_max"
    assert max(ranges) <= n * RANGE_MAX


def test_rounding_is_unbiased_and_what_does_not_travel_stays():
    settings_ = compression()
    chosen = plan(settings_)
    values = np.linspace(-0.2, 0.2, LAYOUT.parameters, dtype=np.float32)
    contribution = Contribution(values, 64, 0)
    draws = [
        encode_payload(
            chosen, contribution, hashlib.sha256(bytes([i % 256, i // 256])).digest(), LAYOUT, settings_
        )
        for i in range(2000)
    ]
    mean = np.mean([draw.sent.values for draw in draws], axis=0)
    step = 0.25 / 7
    assert np.abs(mean - values).max() < 5 * step / 2 / np.sqrt(2000), "within five standard deviations"
    books = Books.empty(LAYOUT).freeze(values).debit(b"c", draws[0].sent)
    assert np.allclose(books.residual + draws[0].sent.values, values, atol=1e-6)


def test_values_scale_with_examples_and_age_but_weights_with_examples_alone():
    settings_ = compression(bits=16, levels=32)
    chosen = plan(settings_)
    values = np.full(LAYOUT.parameters, 0.1, np.float32)
    fresh = encode_payload(chosen, Contribution(values, 64, 0), bytes(32), LAYOUT, settings_)
    stale = encode_payload(chosen, Contribution(values, 64, 3), bytes(32), LAYOUT, settings_)
    lanes = chosen.lanes
    assert lanes.wide_view(fresh.vector)[0] == lanes.wide_view(stale.vector)[0] == 64
    ratio = (
        lanes.narrow_view(stale.vector).astype(float).mean()
        / lanes.narrow_view(fresh.vector).astype(float).mean()
    )
    assert ratio == pytest.approx(0.5, abs=0.1)
    assert np.allclose(stale.sent.values.mean(), 0.1, atol=0.02), (
        "sent is in the model's unit, whatever the scale"
    )


def test_the_sizes_are_known_from_the_plan_alone():
    for bits in (8, 16, 32):
        settings_ = compression("random", bits=bits, permille=300)
        chosen = plan(settings_, RANDOM)
        values = LAYOUT.values_in(chosen.support)
        assert chosen.lanes.size_bytes == 4 * (2 + 3) + values * bits // 8
        encoded = encode_payload(
            chosen, Contribution(np.zeros(142, np.float32), 1, 0), bytes(32), LAYOUT, settings_
        )
        assert len(encoded.vector) == chosen.lanes.size_bytes


def test_the_random_support_is_the_same_on_every_machine():
    settings_ = compression("random", permille=300)
    supports = [plan(settings_, RANDOM, cohort=bytes([i] * 32)).support.tolist() for i in range(3)]
    assert supports == [[2, 5, 6, 7, 10], [0, 5, 6, 8, 10], [2, 3, 6, 7, 10]]
    assert all(
        any(LAYOUT.block_segment[block] == s for block in support) for support in supports for s in (0, 1)
    )


def test_segments_that_do_not_travel_are_in_no_support():
    chosen = plan(compression(), travelling=0b10)
    assert set(LAYOUT.block_segment[chosen.support]) == {1}


def test_exponents_follow_the_mean_range_of_the_newest_parents():
    old, new = body(3, (8 * 100,) * 3, b"\xff"), body(4, (8 * 16 * 28, 8 * 16 * 20, 0), b"\xff")
    assert exponents_after((), 3, -2).tolist() == [-2, -2, -2]
    # Mean RMS 2^-4 and margin 2^1.5: C = 2^-2.
    assert exponents_after((old, new), 3, -2).tolist() == [-2, -10, -24]
    half = body(4, (4 * 16 * 28,) * 3, b"\x0f")
    assert exponents_after((half,), 3, -2).tolist() == [-2, -2, -2], (
        "the mean is over contributors, not members"
    )


def test_range_codes():
    scaled = np.zeros(142, np.float32)
    scaled[:100] = 2.0**-4
    assert range_codes(scaled, LAYOUT).tolist() == [16 * 28, 0, 0]
    assert range_codes(np.full(142, 3e38, np.float32), LAYOUT).max() <= RANGE_MAX


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    values = np.zeros(142, np.float32)
    values[7] = bad
    with pytest.raises(MisuseError):
        encode_payload(plan(compression()), Contribution(values, 1, 0), bytes(32), LAYOUT, compression())
    with pytest.raises(ValueError):
        Books.empty(LAYOUT).freeze(values)


@given(
    st.lists(st.sampled_from(["include", "exclude", "thaw", "unknown"]), max_size=12),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_no_delta_is_lost_or_counted_twice(outcomes, seed):
    """Whatever becomes of the cohorts: given + residual + outstanding is all that training ever found."""
    generator = np.random.default_rng(seed)
    settings_ = compression("random", permille=300)
    books, found = Books.empty(LAYOUT), np.zeros(142)
    given_away = np.zeros(142)
    for number, outcome in enumerate(outcomes):
        delta = generator.normal(0, 0.1, 142).astype(np.float32)
        found += delta
        cohort = bytes([number] * 32)
        books = books.freeze(delta)
        if outcome == "thaw":
            books = books.thaw()
            continue
        chosen = plan(settings_, RANDOM, cohort=cohort)
        sent = encode_payload(chosen, Contribution(books.to_give, 30, 1), bytes(32), LAYOUT, settings_).sent
        books = books.debit(cohort, sent)
        if outcome == "exclude":
            books = books.refund(cohort)
        else:
            given_away[LAYOUT.indices(chosen.support)] += sent.values
            books = books.settle(cohort) if outcome == "include" else books
        assert books.refund(b"unknown cohort" + bytes(18)) is books
    assert np.allclose(books.residual + given_away, found, atol=1e-4)


def test_error_feedback_reaches_the_optimum_with_one_level_and_few_blocks():
    settings_ = compression("random", levels=1, permille=50)
    optimum = np.random.default_rng(1).normal(0, 1, 142).astype(np.float32)
    x = np.zeros(142, np.float32)
    books = Books.empty(LAYOUT)
    exponents = None
    for round_ in range(1500):
        cohort = round_.to_bytes(32, "big")
        books = books.freeze(0.1 * (optimum - x))
        chosen = plan(settings_, RANDOM, cohort=cohort)
        exponents = np.full(len(chosen.support), -3, np.int8)
        chosen = Plan(chosen.support, exponents, payload_lanes(chosen.support, LAYOUT, settings_))
        rounding = hashlib.sha256(cohort).digest()
        sent = encode_payload(chosen, Contribution(books.to_give, 64, 0), rounding, LAYOUT, settings_).sent
        books = books.debit(cohort, sent).settle(cohort)
        x[LAYOUT.indices(chosen.support)] += sent.values
    assert np.abs(x - optimum).max() < 0.6
    assert np.abs(books.residual).max() < 2.0
