"""What holds for any look: the estimate is unbiased, what is large is found, and all members plan alike."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crypto.masking import add_vectors
from gossip.compression import SKETCH, Contribution, Phase, encode_sketch
from gossip.layout import Layout
from gossip.manifest import Compression, Model, Tensor
from gossip.sketch import energies_of, project

LAYOUT = Layout.of(
    Model("t", bytes(32), (Tensor(130, 0), Tensor(5, 1), Tensor(61, 0), Tensor(1, 2)), 0, bytes(32)), 16
)
EVERY_BLOCK = np.arange(LAYOUT.blocks)
EVERY_SIZE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def settings_for(draw, members: int):
    bits = draw(st.sampled_from([8, 16, 32]))
    levels = draw(st.integers(1, min(512 // members, ((1 << bits) - 1) // (2 * members))))
    return Compression(
        "sketch",
        16,
        draw(st.integers(1, 1000)),
        levels,
        bits,
        draw(st.integers(-24, 0)),
        64,
        draw(st.integers(1, 8)),
    )


def plan_of(compression, cohort, look=None, travelling=0b111):
    return SKETCH.plan(
        Phase.SKETCH if look is None else Phase.PAYLOAD,
        layout=LAYOUT,
        compression=compression,
        cohort=cohort,
        parents=(),
        travelling=travelling,
        look=look,
    )


def look_at(plan, contributions, compression):
    total = plan.lanes.zeros()
    for seed, each in enumerate(contributions):
        add_vectors(
            total, encode_sketch(plan, each, seed.to_bytes(32), LAYOUT, compression).vector, plan.lanes
        )
    return total


def sums_in(plan, total, compression):
    narrow = plan.lanes.narrow_view(total).view(f"<i{compression.lane_bits // 8}").astype(np.int64)
    return narrow.reshape(compression.projections, -1)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_members_hold_the_sum_fits_its_lanes_and_the_plan_is_within_bounds(data):
    members = data.draw(st.integers(3, 16))
    compression = data.draw(settings_for(members))
    values = data.draw(arrays(np.float32, (members, LAYOUT.parameters), elements=EVERY_SIZE, fill=EVERY_SIZE))
    cohort = data.draw(st.binary(min_size=32, max_size=32))
    travelling = data.draw(st.integers(1, 7))
    given_ = [Contribution(each, 64, 0) for each in values]
    plan = plan_of(compression, cohort, travelling=travelling)
    total = look_at(plan, given_, compression)
    assert np.abs(sums_in(plan, total, compression)).max() <= members * compression.levels
    segments = np.bincount(LAYOUT.block_segment[plan.support], minlength=3) > 0
    assert plan.lanes.wide_view(total).tolist() == (members * segments).tolist()
    payload = plan_of(compression, cohort, total.tobytes(), travelling)
    assert set(payload.support.tolist()) <= set(plan.support.tolist())
    assert (np.diff(payload.support) > 0).all()
    for segment in np.flatnonzero(segments):
        whole = int((LAYOUT.block_segment == segment).sum())
        share = int((LAYOUT.block_segment[payload.support] == segment).sum())
        assert share == -(-compression.support_permille * whole // 1000)
    assert -24 <= payload.exponents.min() <= payload.exponents.max() <= 0


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_every_member_the_same_plan(data):
    compression = data.draw(settings_for(3))
    cohort = data.draw(st.binary(min_size=32, max_size=32))
    size = plan_of(compression, cohort).lanes.size_bytes
    look = data.draw(st.binary(min_size=size, max_size=size))
    one, other = plan_of(compression, cohort, look), plan_of(compression, bytes(look), look)
    assert one.support.tolist() == other.support.tolist()
    assert one.exponents.tolist() == other.exponents.tolist()
    assert one.lanes == other.lanes
    assert one.exponents.min() >= -24
    assert one.exponents.max() <= 0


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_over_the_signs_the_energy_is_that_of_the_block(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1, LAYOUT.parameters).astype(np.float32)
    energy = np.add.reduceat(values.astype(np.float64) ** 2, LAYOUT.starts)
    drawn = np.array(
        [project(values, EVERY_BLOCK, LAYOUT, seed.to_bytes(8) + bytes([i]), 8) for i in range(100)],
        np.float64,
    )
    squares = (drawn**2).reshape(800, -1)
    # A square's standard deviation is at most sqrt 2 times its mean: six standard deviations of the mean of 800.
    assert (np.abs(squares.mean(axis=0) - energy) <= 6 * np.sqrt(2 / 800) * energy + 1e-6).all()
    assert (np.abs(drawn.reshape(800, -1).mean(axis=0)) <= 6 * np.sqrt(energy / 800)).all()


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_quantised_and_summed_projections_are_unbiased(seed):
    generator = np.random.default_rng(seed)
    compression = Compression("sketch", 16, 100, 31, 16, -1, 64, 2)
    plan = plan_of(compression, seed.to_bytes(32))
    values = generator.normal(0, 2.0**-6, LAYOUT.parameters).astype(np.float32)
    exact = project(values, plan.support, LAYOUT, plan.cohort, 2) * (31 / 2.0**plan.exponents)
    total = look_at(plan, [Contribution(values, 64, 0)] * 400, compression)
    # A rounding's standard deviation is at most half a level.
    assert np.abs(sums_in(plan, total, compression) / 400 - exact).max() <= 6 * 0.5 / 20


@given(st.integers(0, 2**32), st.integers(3, 16))
@settings(max_examples=25, deadline=None)
def test_what_a_cohort_agrees_on_is_found_below_each_members_own_noise(seed, members):
    """Every member's noise has as much energy in a block as what is common in the planted ones, eightfold at most."""
    generator = np.random.default_rng(seed)
    layout = Layout.of(Model("t", bytes(32), (Tensor(6400, 0),), 0, bytes(32)), 32)
    compression = Compression("sketch", 32, 50, 512 // 16 - 1, 16, -2, 64, 8)
    planted = np.sort(generator.choice(layout.blocks, 10, replace=False))
    common = np.zeros(6400)
    common[layout.indices(planted)] = generator.normal(0, 2.0**-5, 320)
    noise = 2.0**-5 * np.sqrt(members / 8)
    given_ = [
        Contribution((common + generator.normal(0, noise / 4, 6400)).astype(np.float32), 64, 0)
        for _ in range(members)
    ]
    public = {
        "layout": layout,
        "compression": compression,
        "cohort": seed.to_bytes(32),
        "parents": (),
        "travelling": 1,
    }
    plan = SKETCH.plan(Phase.SKETCH, look=None, **public)
    total = plan.lanes.zeros()
    for each in given_:
        rounding = generator.bytes(32)
        add_vectors(total, encode_sketch(plan, each, rounding, layout, compression).vector, plan.lanes)
    payload = SKETCH.plan(Phase.PAYLOAD, look=total.tobytes(), **public)
    found = len(set(payload.support.tolist()) & set(planted.tolist()))
    assert len(payload.support) == 10
    assert found >= 8


@given(arrays(np.int64, (3, 4), elements=st.integers(-(2**31), 2**31 - 1)))
def test_energies_stay_far_from_overflow(sums):
    energies = energies_of(sums)
    assert (energies >= 0).all()
    assert (energies <= 3 << 18).all()
