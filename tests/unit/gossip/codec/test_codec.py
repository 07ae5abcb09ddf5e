"""From a contribution to integers and back: supports, ranges, stochastic rounding, and lanes of exact size."""

import numpy as np
import pytest

from crypto.masking import add_vectors
from gossip.body import Body, Part
from gossip.codec.blocks import Layout
from gossip.codec.codec import Contribution, Plan, codec_of, decode_sum, encode_payload, payload_plan
from gossip.codec.error_feedback import Books
from gossip.codec.ranges import MEASURED, RANGE_SLACK, exponents_of, ranges_after, strange_ranges
from gossip.errors import MisuseError, PeerViolation
from gossip.manifest import Compression, Model, Tensor
from gossip.quorum import pack_members

COHORT = bytes(range(32))
ROUNDING = bytes(32)
EVERY = (1 << 64) - 1


def layout_of(*tensors: tuple[int, int], block_size: int = 8) -> Layout:
    return Layout.of(
        Model("t", bytes(32), tuple(Tensor(*each) for each in tensors), 0, bytes(32)), block_size
    )


def settings(codec="dense", *, levels=7, bits=8, first=-4) -> Compression:
    return Compression(codec, 8, levels, bits, first)


def plan_of(layout, compression, *, cohort=COHORT, parents=(), travelling=EVERY) -> Plan:
    return codec_of(compression).plan(
        layout=layout,
        compression=compression,
        cohort=cohort,
        parents=parents,
        travelling=travelling,
    )


def parent(round_: int, ranges: tuple[int, ...], voters: int) -> Body:
    size = max(3, voters)
    part = Part(
        bytes(32), tuple(bytes([i]) * 32 for i in range(size)), bytes(32), pack_members(range(voters), size)
    )
    return Body(1, bytes(32), (part,), (), round_, 0, b"", b"", b"", b"", (1,), ranges, b"")


def signed_lanes(plan: Plan, vector: np.ndarray) -> np.ndarray:
    narrow = plan.lanes.narrow_view(vector)
    return narrow.view(f"<i{narrow.itemsize}").astype(np.int64)


def wide_lanes(plan: Plan, vector: np.ndarray) -> list[int]:
    return plan.lanes.wide_view(vector).tolist()


# --- the support ----------------------------------------------------------------------------------------------


def test_dense_carries_every_block_of_the_segments_that_travel():
    layout = layout_of((20, 0), (9, 1), (5, 0))
    assert plan_of(layout, settings()).support.tolist() == [0, 1, 2, 3, 4, 5]
    assert plan_of(layout, settings(), travelling=0b01).support.tolist() == [0, 1, 2, 5]


@pytest.mark.parametrize("codec", ["dense", "lowrank"])
def test_a_cohort_in_which_nothing_can_travel_is_refused(codec):
    with pytest.raises(PeerViolation, match="too few members trained"):
        plan_of(layout_of((20, 0), (9, 1)), settings(codec), travelling=0b100)


# --- the exponents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 7, 15, 32767])
def test_before_any_aggregate_the_manifest_says_the_exponent(levels):
    layout = layout_of((20, 0), (9, 1))
    for first in range(-24, 1):
        plan = plan_of(layout, settings(levels=levels, first=first, bits=32))
        assert set(plan.exponents.tolist()) == {first}
        assert plan.exponent_bytes == bytes([-first]) * layout.blocks


def test_exponents_are_the_mean_vote_times_k_to_the_nearest_power_of_two():
    # k = 4 for S = 4: two octaves. Code 512 is an RMS of 1, 16 codes are an octave.
    codes = np.array([512, 480, 471, 472, 487, 488, 300, 0, 1023])
    assert exponents_of(codes, 4).tolist() == [0, 0, -1, 0, 0, 0, -11, -24, 0]
    assert exponents_of(np.array([432]), 1).tolist() == [-5]
    assert exponents_of(np.array([432]), 2).tolist() == [-4]
    assert exponents_of(np.array([432]), 8).tolist() == exponents_of(np.array([432]), 170).tolist() == [-2]


def test_only_the_newest_parents_tell_the_range_and_every_voter_counts_alike():
    layout, compression = layout_of((20, 0), (9, 1)), settings()
    old = parent(6, (1000 * 5, 1000 * 5), 5)
    assert ranges_after([old, parent(7, (3 * 400, 1300), 3)], layout, compression).tolist() == [400, 433]
    both = [parent(7, (3 * 400, 1300), 3), old, parent(7, (5 * 440, 2003), 5)]
    # (1200 + 2200) / 8 = 425; (1300 + 2003) / 8 = 412.875, so 413.
    assert ranges_after(both, layout, compression).tolist() == [425, 413]
    plan = plan_of(layout, compression, parents=both)
    assert plan.exponents.tolist() == exponents_of(np.array([425, 425, 425, 413, 413]), 7).tolist()


# --- the votes ------------------------------------------------------------------------------------------------


def votes_of(values, *, ranges, age=0, trained=EVERY, segments=(0, 1, 0)):
    """Of three tensors of 16 parameters each, one value throughout."""
    layout, compression = layout_of(*((16, segment) for segment in segments)), settings()
    parents = [parent(1, tuple(3 * code for code in ranges), 3)]
    plan = plan_of(layout, compression, parents=parents)
    contribution = Contribution(np.repeat(np.float32(values), 16), age, trained)
    encoded = encode_payload(plan, contribution, ROUNDING, layout, compression)
    assert wide_lanes(plan, encoded.vector) == encoded.ranges.tolist()
    return encoded.ranges.tolist()


def test_a_vote_is_the_logarithm_of_the_rms_of_the_scaled_values():
    assert votes_of([1.0, 2.0**-5, -(2.0**-20)], ranges=(0, 0, 0)) == [512, 432, 192]
    assert votes_of([1.0, 2.0**-5, -(2.0**-20)], ranges=(0, 0, 0), age=3) == [496, 416, 176]
    assert votes_of([1e38, 1e-40, 1.0], ranges=(7, 7, 7)) == [1023, 0, 512]


def test_who_has_nothing_to_say_votes_the_present_code():
    assert votes_of([0.0, 0.5, 0.5], ranges=(333, 222, 111)) == [333, 496, 496]
    assert votes_of([0.5, 0.5, 0.5], ranges=(333, 222, 111), trained=0b01) == [496, 222, 496]


def sum_of_cohort(plan, layout, compression, contributions):
    total = plan.lanes.zeros()
    for seed, each in enumerate(contributions):
        add_vectors(
            total, encode_payload(plan, each, seed.to_bytes(32), layout, compression).vector, plan.lanes
        )
    return decode_sum(total, plan.lanes, len(contributions))


@pytest.mark.parametrize("first", [-24, 0])
@pytest.mark.parametrize("trainers", [8, 3])
def test_a_wrong_first_range_is_put_right_and_then_remembered(first, trainers):
    layout, compression = layout_of((4000, 0), (400, 1)), settings(first=first)
    generator = np.random.default_rng(1)
    values = generator.normal(0, [[2.0**-9]] * 8, (8, 4400)).astype(np.float32)
    parents = []
    for round_ in range(1, 25):
        # From round 20 on nobody gives the second segment, and its range is nobody's to measure.
        travelling = 0b11 if round_ < 20 else 0b01
        plan = plan_of(layout, compression, parents=parents, travelling=travelling)
        members = [Contribution(values[i], 0, 0b11 if i < trainers else 0b01) for i in range(len(values))]
        parents = [parent(round_, sum_of_cohort(plan, layout, compression, members).ranges, len(values))]
        if round_ in {2, 19, 24}:
            exponents = exponents_of(plan.ranges, compression.levels).tolist()
            # log2(7 * 2^-9) is -6.2: at once where all measure, in a while where three of eight do.
            assert exponents[0] == -6
            assert exponents[1] == -6 or (round_ == 2 and trainers == 3)


# --- the integers ---------------------------------------------------------------------------------------------


def test_ranges_far_from_what_was_measured_of_late_are_strange():
    own = [np.array([500 - each, 500 + each]) for each in (-8, 0, 8)]
    assert not strange_ranges([3 * (508 + RANGE_SLACK), 3 * (492 - RANGE_SLACK)], 3, own)
    assert strange_ranges([3 * (508 + RANGE_SLACK + 1), 1500], 3, own)
    assert strange_ranges([1500, 3 * (492 - RANGE_SLACK - 1)], 3, own)


def test_what_one_parameter_votes_is_chance_and_the_mean_of_several_is_not():
    """Eight members' mean vote on a tensor of one parameter, as seen by a member that measures the same."""
    rng = np.random.default_rng(3)
    codes = (500 + 16 * np.log2(np.abs(rng.standard_normal((4000, 8 + 1 + MEASURED))))).astype(np.int64)

    def refused(remembered):
        told = [strange_ranges([sum(row[:8])], 8, row[8 : 9 + remembered, None]) for row in codes]
        return sum(told) / len(told)

    assert refused(0) > 0.04
    assert refused(MEASURED) < 0.001


def test_whole_levels_are_encoded_as_they_are():
    layout, compression = layout_of((9, 0)), settings(levels=4, first=-2)
    plan = plan_of(layout, compression)
    values = (np.arange(-4, 5) / 16).astype(np.float32)
    encoded = encode_payload(plan, Contribution(values, 0), ROUNDING, layout, compression)
    assert signed_lanes(plan, encoded.vector).tolist() == list(range(-4, 5))
    assert (encoded.sent.values == values).all()


def test_age_scales_the_values_and_nothing_else_does():
    layout, compression = layout_of((8, 0), (8, 1)), settings(levels=4, first=0)
    plan = plan_of(layout, compression)
    values = np.full(16, 0.5, np.float32)
    for age, level in [(0, 2), (3, 1)]:
        encoded = encode_payload(plan, Contribution(values, age), ROUNDING, layout, compression)
        assert set(signed_lanes(plan, encoded.vector).tolist()) == {level}
        assert plan.lanes.wide == 2, "ranges, and no weights"
        assert (encoded.sent.values == values).all(), "what is sent is in the model's unit again"


def test_a_segment_that_was_not_trained_or_does_not_travel_gives_nothing_and_votes_as_before():
    layout, compression = layout_of((8, 0), (8, 1), (8, 2)), settings(levels=4, first=0)
    plan = plan_of(layout, compression, travelling=0b011)
    contribution = Contribution(np.ones(24, np.float32), 0, trained=0b101)
    encoded = encode_payload(plan, contribution, ROUNDING, layout, compression)
    assert wide_lanes(plan, encoded.vector) == [512, *plan.ranges[1:].tolist()]
    assert signed_lanes(plan, encoded.vector).tolist() == [4] * 8 + [0] * 8
    assert encoded.sent.values.tolist() == [1.0] * 8 + [0.0] * 8
    books = Books.empty(layout).freeze(contribution.values).debit(COHORT, encoded.sent)
    assert books.residual.tolist() == [0.0] * 8 + [1.0] * 16


def test_rounding_is_unbiased():
    count = 100_000
    layout, compression = layout_of((count, 0)), settings(levels=7, first=0)
    plan = plan_of(layout, compression)
    for value in (-0.99, -0.3, -1e-3, 0.01, 0.5, 0.9):
        values = np.full(count, value, np.float32)
        encoded = encode_payload(plan, Contribution(values, 0), b"\1" * 32, layout, compression)
        mean = signed_lanes(plan, encoded.vector).mean() / 7
        assert abs(mean - value) < 5 * 0.5 / 7 / np.sqrt(count), "five standard deviations at the very most"


def test_rounding_follows_the_bytes_it_is_given_and_all_of_them():
    layout, compression = layout_of((1000, 0)), settings(first=0)
    plan = plan_of(layout, compression)
    contribution = Contribution(np.full(1000, 0.3, np.float32), 0)

    def encoded(rounding: bytes) -> bytes:
        return encode_payload(plan, contribution, rounding, layout, compression).vector.tobytes()

    assert encoded(b"\1" * 32) == encoded(b"\1" * 32)
    assert len({encoded(bytes([0] * i + [1] + [0] * (31 - i))) for i in range(32)}) == 32


@pytest.mark.parametrize("levels", [1, 7, 15, 170, 32767])
def test_nothing_steps_over_the_highest_level(levels):
    edges = [1.0, np.nextafter(np.float32(1), 0), np.nextafter(np.float32(1), 2), 3.0, 3e38]
    values = np.repeat(np.float32([*edges, *(-np.float32(edges))]), 20_000)
    layout, compression = layout_of((len(values), 0)), settings(levels=levels, bits=32, first=0)
    plan = plan_of(layout, compression)
    encoded = encode_payload(plan, Contribution(values, 0), ROUNDING, layout, compression)
    assert np.abs(signed_lanes(plan, encoded.vector)).max() == levels


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_sizes_are_known_before_anything_is_allocated(bits):
    layout = layout_of((8000, 0), (40, 1), (3, 2))
    compression = settings(bits=bits)
    plan = plan_of(layout, compression, travelling=0b101)
    values = int(layout.sizes[plan.support].sum())
    assert plan.lanes.size_bytes == 4 * 3 + values * bits // 8
    contribution = Contribution(np.ones(8043, np.float32), 0)
    encoded = encode_payload(plan, contribution, ROUNDING, layout, compression)
    assert encoded.vector.nbytes == plan.lanes.size_bytes
    assert len(encoded.sent.values) == values
    assert encoded.sent.values.dtype == np.float32
    assert len(plan.exponent_bytes) == len(plan.support)


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_its_place_is_named(poison):
    layout, compression = layout_of((20, 0)), settings()
    values = np.zeros(20, np.float32)
    values[13] = poison
    with pytest.raises(MisuseError, match="parameter 13 is not"):
        encode_payload(plan_of(layout, compression), Contribution(values, 0), ROUNDING, layout, compression)


def test_a_contribution_that_cannot_be_one_is_refused():
    layout, compression = layout_of((20, 0)), settings()
    plan, fit = plan_of(layout, compression), np.zeros(20, np.float32)
    factored = Plan(plan.support, plan.exponents, plan.lanes, np.zeros(0, np.int64))
    for unfit_plan, contribution, rounding in [
        (plan, Contribution(fit[1:], 0), ROUNDING),
        (plan, Contribution(fit.astype(np.float64), 0), ROUNDING),
        (plan, Contribution(fit, -1), ROUNDING),
        (plan, Contribution(fit, 0), ROUNDING[1:]),
        (factored, Contribution(fit, 0), ROUNDING),
    ]:
        with pytest.raises(MisuseError):
            encode_payload(unfit_plan, contribution, rounding, layout, compression)


def test_a_payload_is_planned_with_any_support():
    layout, compression = layout_of((20, 0), (9, 1)), settings()
    plan = payload_plan(np.array([1, 4]), layout, compression, [])
    encoded = encode_payload(plan, Contribution(np.ones(29, np.float32), 0), ROUNDING, layout, compression)
    assert len(signed_lanes(plan, encoded.vector)) == 8 + 1
