"""What holds for any contribution: sums are exact at every lane width, levels stay in bounds, nothing gets lost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crypto.masking import add_vectors
from gossip.body import RANGE_MAX
from gossip.codec.blocks import Layout
from gossip.codec.codec import DENSE, Contribution, decode_sum, encode_payload
from gossip.codec.error_feedback import Books
from gossip.manifest import Compression, Model, Tensor

LAYOUT = Layout.of(
    Model("t", bytes(32), (Tensor(13, 0), Tensor(5, 1), Tensor(22, 0), Tensor(1, 2)), 0, bytes(32)), 4
)
EVERY_SIZE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR_THE_LIMITS = st.sampled_from([-4.0, -1.0, -0.99999994, -0.25, 0.0, 1e-40, 0.3, 0.99999994, 1.0, 3.0])


def vectors(values=NEAR_THE_LIMITS | EVERY_SIZE):
    return arrays(np.float32, LAYOUT.parameters, elements=values)


def contributions(values=None):
    return st.builds(
        Contribution,
        vectors() if values is None else values,
        age=st.integers(0, 50),
        trained=st.integers(0, 0b111),
    )


@st.composite
def settings_for(draw, members: int):
    bits = draw(st.sampled_from([8, 16, 32]))
    most = min(32767, ((1 << bits) - 1) // (2 * members))
    levels = draw(st.sampled_from([1, most]) | st.integers(1, most))
    return Compression("dense", 4, levels, bits, draw(st.integers(-24, 0)))


def plan_of(compression, cohort):
    return DENSE.plan(
        layout=LAYOUT,
        compression=compression,
        cohort=cohort,
        parents=(),
        travelling=0b111,
    )


def integers(lanes, vector):
    narrow = lanes.narrow_view(vector)
    return narrow.view(f"<i{narrow.itemsize}").astype(object)


@st.composite
def cohorts(draw):
    members = draw(st.integers(3, 16))
    extreme = draw(st.sampled_from([-4.0, 4.0, None]))
    together = None if extreme is None else st.just(np.full(LAYOUT.parameters, extreme, np.float32))
    given_ = draw(st.lists(contributions(together), min_size=members, max_size=members))
    return draw(settings_for(members)), given_, draw(st.binary(min_size=32, max_size=32))


@given(cohorts())
@settings(max_examples=150, deadline=None)
def test_a_sum_of_integers_is_read_exactly(cohort):
    compression, given_, seed = cohort
    plan = plan_of(compression, seed)
    total, exact = plan.lanes.zeros(), np.zeros(plan.lanes.narrow, object)
    exact_wide = np.zeros(plan.lanes.wide, object)
    for contribution in given_:
        vector = encode_payload(plan, contribution, seed, LAYOUT, compression).vector
        exact += integers(plan.lanes, vector)
        exact_wide += plan.lanes.wide_view(vector).astype(object)
        add_vectors(total, vector, plan.lanes)
    ranges, sums = decode_sum(total, plan.lanes, len(given_))
    signed = np.frombuffer(sums, f"<i{compression.lane_bits // 8}")
    assert signed.tolist() == exact.tolist()
    assert list(ranges) == exact_wide.tolist()
    bound = len(given_) * compression.levels
    assert -bound <= signed.min() <= signed.max() <= bound
    assert max(ranges) <= len(given_) * RANGE_MAX


def test_members_who_all_give_their_most_fill_the_lane_and_no_more():
    for bits in (8, 16, 32):
        for members in range(3, 17):
            levels = min(32767, ((1 << bits) - 1) // (2 * members))
            compression = Compression("dense", 4, levels, bits, 0)
            plan = plan_of(compression, bytes(32))
            for sign in (1, -1):
                values = np.full(LAYOUT.parameters, sign * 9.0, np.float32)
                vector = encode_payload(plan, Contribution(values, 0), bytes(32), LAYOUT, compression).vector
                total = plan.lanes.zeros()
                for _ in range(members):
                    add_vectors(total, vector, plan.lanes)
                sums = np.frombuffer(decode_sum(total, plan.lanes, members).sums, f"<i{bits // 8}")
                assert set(sums.tolist()) == {sign * members * levels}


@given(contributions(), settings_for(3), st.binary(min_size=32, max_size=32))
@settings(max_examples=150, deadline=None)
def test_levels_stay_in_bounds_and_sent_and_residual_are_what_was_frozen(contribution, compression, seed):
    plan = plan_of(compression, seed)
    encoded = encode_payload(plan, contribution, seed, LAYOUT, compression)
    assert np.abs(integers(plan.lanes, encoded.vector)).max() <= compression.levels
    books = Books.empty(LAYOUT).freeze(contribution.values).debit(seed, encoded.sent)
    sent = np.zeros(LAYOUT.parameters)
    sent[LAYOUT.indices(plan.support)] = encoded.sent.values
    one_rounding = 2.0**-24 * np.abs(books.residual.astype(np.float64)) + 2.0**-149
    assert (np.abs(sent + books.residual - contribution.values) <= one_rounding).all()
    back = books.refund(seed).residual.astype(np.float64)
    larger = np.maximum(np.abs(sent), np.abs(contribution.values))
    assert (np.abs(back - contribution.values) <= 2.0**-22 * larger + 2.0**-148).all()
