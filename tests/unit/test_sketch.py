"""A look before the sum: signs, projections, and the plan that every member draws from the same look."""

import hashlib

import msgspec
import numpy as np
import pytest

from crypto.masking import add_vectors
from gossip.aggregate import Body, Part, check, pack_members
from gossip.compression import (
    SKETCH,
    Contribution,
    Phase,
    Plan,
    codec_of,
    decode_sum,
    encode_payload,
    encode_sketch,
    exponents_of,
    ranges_after,
)
from gossip.errors import MisuseError, PeerViolation
from gossip.layout import Layout
from gossip.manifest import COHORT_MAX, Compression, Model, Tensor
from gossip.residual import Books
from gossip.sketch import densities_of, energies_of, project, projection_codes, rms_codes, signs
from tests.histories import body, setting, signed

COHORT = bytes(range(32))
ROUNDING = bytes(32)
EVERY = (1 << 62) - 1


def layout_of(*tensors: tuple[int, int], block_size: int = 8) -> Layout:
    return Layout.of(
        Model("t", bytes(32), tuple(Tensor(*each) for each in tensors), 0, bytes(32)), block_size
    )


def settings(*, permille=250, levels=7, bits=8, first=-2, projections=2, block_size=8) -> Compression:
    return Compression("sketch", block_size, permille, levels, bits, first, 64, projections)


def plan_of(layout, compression, look=None, *, cohort=COHORT, parents=(), travelling=EVERY) -> Plan:
    return codec_of(compression).plan(
        Phase.SKETCH if look is None else Phase.PAYLOAD,
        layout=layout,
        compression=compression,
        cohort=cohort,
        parents=parents,
        travelling=travelling,
        look=look,
    )


def levels_of(plan: Plan, vector: np.ndarray) -> np.ndarray:
    narrow = plan.lanes.narrow_view(vector)
    return narrow.view(f"<i{narrow.itemsize}").astype(np.int64)


def look_of(plan: Plan, sums, givers) -> bytes:
    """A look with these integers in it, as an aggregator would send it."""
    vector = plan.lanes.zeros()
    plan.lanes.wide_view(vector)[:] = givers
    narrow = plan.lanes.narrow_view(vector)
    narrow[:] = np.ravel(sums).astype(f"<i{narrow.itemsize}").view(narrow.dtype)
    return vector.tobytes()


def sum_of(encode, plan, contributions, layout, compression) -> np.ndarray:
    total = plan.lanes.zeros()
    for seed, each in enumerate(contributions):
        add_vectors(total, encode(plan, each, seed.to_bytes(32), layout, compression).vector, plan.lanes)
    return total


# --- the sketch -----------------------------------------------------------------------------------------------


def test_signs_are_the_same_on_every_machine():
    drawn = signs(COHORT, 1, 1003)
    assert drawn.dtype == np.int8
    assert drawn[:12].tolist() == [1, 1, -1, 1, -1, -1, 1, 1, 1, 1, -1, 1]
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "a45ccdd397d21bf2"
    assert set(drawn.tolist()) == {1, -1}


def test_signs_differ_by_cohort_and_by_projection():
    drawn = [signs(cohort, projection, 4000) for cohort in (COHORT, bytes(32)) for projection in (0, 1)]
    for one in range(4):
        for other in range(one):
            assert abs(int(drawn[one].astype(int) @ drawn[other].astype(int))) < 5 * np.sqrt(4000)


def test_a_projection_is_the_signed_sum_of_a_block():
    layout = layout_of((20, 0), (9, 1))
    values = np.arange(29, dtype=np.float32)
    blocks = np.array([0, 2, 4])
    projected = project(values, blocks, layout, COHORT, 2)
    for projection in (0, 1):
        signed_values = values * signs(COHORT, projection, 29)
        assert projected[projection].tolist() == [
            signed_values[0:8].sum(),
            signed_values[16:20].sum(),
            signed_values[28:29].sum(),
        ]


def test_a_sketch_projects_what_travels_and_nothing_else():
    layout, compression = layout_of((20, 0), (9, 1)), settings(projections=3, bits=16)
    plan = plan_of(layout, compression, travelling=0b10)
    assert plan.support.tolist() == [3, 4]
    assert plan.lanes.size_bytes == 2 * 4 + 3 * 2 * 2
    values = np.ones(29, np.float32)
    vector = encode_sketch(plan, Contribution(values, 64, 0), ROUNDING, layout, compression).vector
    assert plan.lanes.wide_view(vector).tolist() == [0, 1]
    values[:20] = 7.0
    again = encode_sketch(plan, Contribution(values, 64, 0), ROUNDING, layout, compression).vector
    assert (again == vector).all(), "a segment that does not travel leaves no trace"


def test_who_did_not_train_a_segment_gives_nothing_of_it():
    layout, compression = layout_of((8, 0), (8, 1)), settings()
    plan = plan_of(layout, compression)
    encoded = encode_sketch(
        plan, Contribution(np.ones(16, np.float32), 64, 0, 0b01), ROUNDING, layout, compression
    )
    assert plan.lanes.wide_view(encoded.vector).tolist() == [1, 0]
    levels = levels_of(plan, encoded.vector).reshape(2, 2)
    assert levels[:, 0].any()
    assert not levels[:, 1].any()


def test_examples_and_age_scale_a_projection():
    layout, compression = layout_of((8, 0)), settings(levels=4, first=-2)
    plan = plan_of(layout, compression)
    assert plan.exponents.tolist() == [0]
    values = (signs(COHORT, 0, 8) / 8).astype(np.float32)
    for examples, age, level in [(64, 0, 4), (9999, 0, 4), (32, 0, 2), (64, 3, 2)]:
        vector = encode_sketch(
            plan, Contribution(values, examples, age), ROUNDING, layout, compression
        ).vector
        assert levels_of(plan, vector)[0] == level


def test_a_sketch_takes_nothing_out_of_the_books():
    layout, compression = layout_of((20, 0)), settings()
    plan = plan_of(layout, compression)
    contribution = Contribution(np.ones(20, np.float32), 64, 0)
    sent = SKETCH.encode(
        Phase.SKETCH, plan, contribution, ROUNDING, layout=layout, compression=compression
    ).sent
    assert not sent.support.size
    assert not sent.values.size


@pytest.mark.parametrize("size", [1e-30, 1.0, 3e38])
@pytest.mark.parametrize("levels", [1, 7, 15])
def test_what_is_too_large_clips_and_what_is_too_small_is_rounded(size, levels):
    layout, compression = layout_of((80, 0)), settings(levels=levels)
    plan = plan_of(layout, compression)
    contribution = Contribution(np.full(80, size, np.float32), 64, 0)
    vector = encode_sketch(plan, contribution, ROUNDING, layout, compression).vector
    drawn = levels_of(plan, vector)
    assert np.abs(drawn).max() <= levels
    if size == 3e38:
        odd = np.array([signs(COHORT, j, 80).reshape(10, 8).sum(axis=1) for j in (0, 1)]).ravel()
        assert (drawn == np.sign(odd) * levels).all()


def test_projections_are_as_large_as_the_votes_foretell():
    layout = layout_of((64, 0), (9, 1))
    codes = projection_codes(np.array([400, 320]), np.arange(layout.blocks), layout)
    assert codes.tolist() == [400 + 24] * 8 + [320 + 24, 320]
    plan = plan_of(layout, settings(first=-3))
    assert plan.exponents.tolist() == [-1] * 8 + [-1, -3], "8 values: RMS sqrt 8, so one octave and a half"


# --- the look -------------------------------------------------------------------------------------------------


def test_a_fixed_look_leads_to_the_same_plan_on_every_machine():
    layout, compression = layout_of((64, 0), (20, 0), (24, 1)), settings(permille=250, first=-6)
    sketch = plan_of(layout, compression)
    assert sketch.exponents.tolist() == [-4] * 10 + [-5] + [-4] * 3
    first = [3, 0, -40, 5, 0, 0, 12, 1, 2, 30, -24, 0, 9, -8]
    second = [3, 0, 30, 5, 0, 0, -12, 1, 2, 0, 7, 0, -7, 8]
    plan = plan_of(layout, compression, look_of(sketch, [first, second], [10, 4]))
    # Block 10: 625 under an exponent lower by one, over half as many parameters, are as good as 312; block 6 has 288.
    assert plan.support.tolist() == [2, 9, 10, 12]
    # log2(7 RMS) = log2(sqrt(energy / (2 size)) 2^e / n^(3/4)): -2.8, -3.6, -4.3 (n = 10), -4.0 (n = 4).
    assert plan.exponents.tolist() == [-3, -4, -4, -4]
    assert plan.lanes.size_bytes == 4 * (2 + 3) + 28
    assert plan.ranges.tolist() == ranges_after([], layout, compression).tolist()


def test_ties_go_to_the_lower_number_and_every_segment_has_its_share():
    layout, compression = layout_of((80, 0), (80, 1), (8, 2)), settings(permille=250)
    sketch = plan_of(layout, compression)
    flat = plan_of(layout, compression, look_of(sketch, np.zeros((2, 21)), [5, 5, 5]))
    assert flat.support.tolist() == [0, 1, 2, 10, 11, 12, 20]
    loud = np.zeros((2, 21))
    loud[:, :10] = 9
    loud[:, 15] = -1
    plan = plan_of(layout, compression, look_of(sketch, loud, [5, 5, 5]))
    assert plan.support.tolist() == [0, 1, 2, 10, 11, 15, 20]
    alone = plan_of(layout, compression, travelling=0b010)
    plan = plan_of(layout, compression, look_of(alone, np.zeros((2, 10)), [0, 5, 0]), travelling=0b010)
    assert plan.support.tolist() == [10, 11, 12]


def test_energies_under_different_exponents_are_compared_on_one_scale():
    sizes = np.array([8, 8, 8, 4, 1])
    densities = densities_of(np.array([100, 100, 1600, 50, 100]), np.array([0, -1, -2, 0, 0], np.int8), sizes)
    assert densities.tolist() == [100 << 28, 100 << 26, 100 << 28, 100 << 28, 800 << 28]
    far = densities_of(
        np.array([1, 1 << 21, 1 << 21]), np.array([41, 0, -28], np.int8), np.array([4096, 1, 1])
    )
    assert far.tolist() == [1 << 28, 0, 0]
    most = densities_of(np.array([8 << 18, 1]), np.array([0, 0], np.int8), np.array([1, 4096]))
    assert most.tolist() == [1 << 61, 1 << 28], "no bit is lost at the top"


def test_a_look_beyond_all_bounds_is_clipped():
    top = np.iinfo(np.int32)
    assert energies_of(np.array([[top.min, top.max, 3], [512, -513, 4]])).tolist() == [2 << 18, 2 << 18, 25]
    layout, compression = layout_of((80, 0)), settings(bits=32)
    sketch = plan_of(layout, compression)
    for look in (
        b"\xff" * sketch.lanes.size_bytes,
        b"\x7f" * sketch.lanes.size_bytes,
        bytes(sketch.lanes.size_bytes),
    ):
        plan = plan_of(layout, compression, look)
        assert len(plan.support) == 3
        assert -24 <= plan.exponents.min() <= plan.exponents.max() <= 0


@pytest.mark.parametrize("givers", [1, 3, 16, 32])
def test_the_code_of_a_sum_is_that_of_its_mean_member_if_half_of_them_agree(givers):
    sizes = np.array([32, 32, 7, 1])
    energies, exponents = np.array([1, 40_000, 12_345, 7]), np.array([0, -5, 3, -20], np.int8)
    codes = rms_codes(energies, exponents, sizes, np.full(4, givers), projections=3, levels=7)
    rms = np.sqrt(energies / (3 * sizes)) * 2.0**exponents / (7 * givers**0.75)
    assert np.abs(codes - (512 + 16 * np.log2(rms))).max() <= 1


def test_a_lie_about_the_number_of_givers_counts_as_the_nearest_that_can_be():
    def code(givers: int) -> int:
        one = np.ones(1, np.int64)
        codes = rms_codes(900 * one, np.zeros(1, np.int8), 8 * one, givers * one, projections=2, levels=7)
        return int(codes[0])

    assert code(0) == code(1)
    assert code(COHORT_MAX + 1) == code((1 << 32) - 1) == code(COHORT_MAX) < code(COHORT_MAX - 1)


@pytest.mark.parametrize("agree", [True, False])
def test_exponents_fit_the_members_within_an_octave_and_a_half(agree):
    layout, compression = (
        layout_of((3200, 0), block_size=32),
        settings(block_size=32, permille=1000, projections=8),
    )
    generator = np.random.default_rng(3)
    scale = np.repeat(2.0 ** generator.integers(-9, -5, 100), 32)
    same = generator.normal(0, scale)
    members = [
        Contribution((same if agree else generator.normal(0, scale)).astype(np.float32), 64, 0)
        for _ in range(16)
    ]
    parents = [parent_of(1, [exponent_code(np.sqrt(np.mean(scale**2)))], 16)]
    sketch = plan_of(layout, compression, parents=parents)
    look = sum_of(encode_sketch, sketch, members, layout, compression).tobytes()
    plan = plan_of(layout, compression, look, parents=parents)
    fit = exponents_of(np.array([exponent_code(each) for each in scale[::32]]), 7).astype(int)
    off = plan.exponents - fit
    assert np.mean(np.abs(off) <= 2) > 0.9
    assert 0 <= np.median(off) * (1 if agree else -1) <= 1


def exponent_code(rms: float) -> int:
    return 512 + round(16 * float(np.log2(rms)))


def parent_of(round_: int, codes, voters: int) -> Body:
    part = Part(
        bytes(32),
        tuple(bytes([i]) * 32 for i in range(voters)),
        bytes(32),
        pack_members(range(voters), voters),
    )
    votes = tuple(code * voters for code in codes)
    return Body(1, bytes(32), (part,), (), round_, 2, b"", b"", b"", b"", (1,), votes, b"")


# --- what is refused ------------------------------------------------------------------------------------------


def test_a_phase_without_its_look_and_a_look_without_its_phase_are_refused():
    layout, compression = layout_of((20, 0)), settings()
    public = {"layout": layout, "compression": compression, "cohort": COHORT, "parents": (), "travelling": 1}
    assert (SKETCH.id, SKETCH.phases) == (2, (Phase.SKETCH, Phase.PAYLOAD))
    with pytest.raises(MisuseError):
        SKETCH.plan(Phase.PAYLOAD, look=None, **public)
    with pytest.raises(MisuseError):
        SKETCH.plan(Phase.SKETCH, look=b"seen", **public)
    with pytest.raises(PeerViolation, match="look: 4 bytes, not 10"):
        SKETCH.plan(Phase.PAYLOAD, look=b"seen", **public)
    with pytest.raises(PeerViolation, match="too few members trained"):
        plan_of(layout, compression, travelling=0b100)


def test_a_sketch_refuses_what_a_payload_refuses_and_plans_are_not_mixed_up():
    layout, compression = layout_of((20, 0)), settings()
    fit, sketch = np.zeros(20, np.float32), plan_of(layout, compression)
    payload = plan_of(layout, compression, bytes(sketch.lanes.size_bytes))
    poisoned = fit.copy()
    poisoned[13] = np.inf
    for plan, contribution, rounding in [
        (sketch, Contribution(fit[1:], 1, 0), ROUNDING),
        (sketch, Contribution(poisoned, 1, 0), ROUNDING),
        (sketch, Contribution(fit, 0, 0), ROUNDING),
        (sketch, Contribution(fit, 1, 0), ROUNDING[1:]),
        (payload, Contribution(fit, 1, 0), ROUNDING),
    ]:
        with pytest.raises(MisuseError):
            encode_sketch(plan, contribution, rounding, layout, compression)
    with pytest.raises(MisuseError):
        encode_payload(sketch, Contribution(fit, 1, 0), ROUNDING, layout, compression)


def test_its_aggregate_is_valid_where_the_manifest_says_so():
    swarm = setting(codec="sketch")
    aggregate = signed(body(swarm, [], sums=-3, exponents=-9, blocks=[0, 2]))
    assert check(aggregate, swarm.manifest, swarm.layout, swarm.swarm).body.codec == 2


# --- a long run -----------------------------------------------------------------------------------------------

PARAMETERS, MEMBERS, ROUNDS = 3200, 4, 1200
SPARSE = Compression("sketch", 16, 30, 7, 8, -2, 64, 2)
MODEL = layout_of((PARAMETERS, 0), block_size=16)


def descend(compression: Compression, *, forget: bool = False) -> tuple[list[float], list[float]]:
    """Each member pulls towards an optimum of its own: by round, the distance to their mean and the largest residual."""
    generator = np.random.default_rng(5)
    uneven = np.repeat(2.0 ** generator.integers(-4, 1, MODEL.blocks), 16)
    optima = uneven * generator.normal(generator.normal(0, 1, PARAMETERS), 0.3, (MEMBERS, PARAMETERS))
    x, books, parents = np.zeros(PARAMETERS), [Books.empty(MODEL)] * MEMBERS, []
    distances, norms = [], []
    for round_ in range(1, ROUNDS + 1):
        cohort = round_.to_bytes(32)
        frozen = [books[i].freeze((0.01 * (optima[i] - x)).astype(np.float32)) for i in range(MEMBERS)]
        given = [Contribution(each.to_give, 64, 0) for each in frozen]
        sketch = plan_of(MODEL, compression, cohort=cohort, parents=parents)
        look = sum_of(encode_sketch, sketch, given, MODEL, compression).tobytes()
        plan = plan_of(MODEL, compression, look, cohort=cohort, parents=parents)
        total = plan.lanes.zeros()
        for member in range(MEMBERS):
            encoded = encode_payload(plan, given[member], generator.bytes(32), MODEL, compression)
            add_vectors(total, encoded.vector, plan.lanes)
            books[member] = frozen[member].debit(cohort, encoded.sent).settle(cohort)
            if forget:
                books[member] = Books.empty(MODEL)
        weights, ranges, sums = decode_sum(total, plan.lanes, MODEL)
        unit = MODEL.expand(2.0 ** plan.exponents.astype(float), plan.support)
        step = (
            np.frombuffer(sums, np.int8) * unit * compression.weight_max / (compression.levels * weights[0])
        )
        x[MODEL.indices(plan.support)] += step
        parents = [replace_ranges(parent_of(round_, [0], MEMBERS), ranges)]
        distances.append(float(np.linalg.norm(x - optima.mean(axis=0))))
        norms.append(max(float(np.linalg.norm(each.residual)) for each in books))
    return distances, norms


def replace_ranges(parent: Body, ranges: tuple[int, ...]) -> Body:
    return msgspec.structs.replace(parent, ranges=ranges)


def test_three_in_a_hundred_blocks_still_find_the_optimum():
    distances, norms = descend(SPARSE)
    assert max(distances[-100:]) < 0.1 * distances[0]
    assert max(norms[-300:]) < 1.1 * max(norms[300:900]), "the residual has stopped growing"


def test_without_the_residual_the_way_is_long():
    forgetful = descend(SPARSE, forget=True)[0]
    assert min(forgetful) > 0.2 * forgetful[0]
