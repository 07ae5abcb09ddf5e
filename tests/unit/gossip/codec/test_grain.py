"""Sums are published without their last bits: which ones those are, and that nothing is lost on average."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gossip.codec.codec import publish
from gossip.codec.ranges import grain_of
from gossip.errors import ManifestError, PeerViolation
from gossip.history.aggregate import check_body
from gossip.manifest import Compression, refuse_contradictions
from tests.histories import body, setting


def settings(grain: int, *, levels: int = 3, bits: int = 8) -> Compression:
    return Compression("dense", 8, levels, bits, -4, grain=grain)


def published(sums: np.ndarray, contributors: int, compression: Compression) -> np.ndarray:
    told = publish(sums.tobytes(), contributors, compression)
    assert len(told) == sums.nbytes
    return np.frombuffer(told, sums.dtype)


@given(st.integers(0, 64), st.integers(1, 256))
def test_the_grain_is_the_largest_power_of_two_whose_square_is_within(grain, contributors):
    found = grain_of(contributors, settings(grain))
    assert found & found - 1 == 0
    assert found == 1 or found**2 <= grain * contributors
    assert (2 * found) ** 2 > grain * contributors


def test_without_a_grain_sums_are_told_as_they_are():
    sums = np.arange(-96, 97, dtype=np.int8)
    assert (published(sums, 32, settings(0)) == sums).all()


@given(st.integers(1, 64), st.integers(3, 32), st.sampled_from([(3, 8), (7, 16), (2, 32)]))
def test_every_sum_is_told_as_the_nearest_multiple_that_it_may_be(grain, contributors, lanes):
    levels, bits = lanes
    bound = contributors * levels
    sums = np.arange(-bound, bound + 1).astype(f"<i{bits // 8}")
    compression = settings(grain, levels=levels, bits=bits)
    step = grain_of(contributors, compression)
    told = published(sums, contributors, compression).astype(int)
    assert not (told % step).any()
    assert np.abs(told).max() <= bound
    assert (np.abs(told - sums) <= step / 2)[np.abs(sums) <= bound - bound % step].all()
    assert (told == -told[::-1]).all()  # nothing drifts to one side


def test_the_members_own_rounding_dithers_it_so_that_the_mean_is_told_truly():
    """25 contributions of a third of a level each: their sum is told in steps of 8, and is right on average to 1 % of one."""
    generator = np.random.default_rng(4)
    contributions = generator.random((25, 40_000)) < 1 / 3
    sums = contributions.sum(axis=0).astype(np.int8)
    told = published(sums, 25, settings(4))
    assert set(np.unique(told)) == {0, 8, 16}
    assert abs(told.mean() - sums.mean()) < 0.08
    assert told.var() < sums.var() + 1.5 * 8**2 / 12


def test_a_sum_between_two_multiples_makes_a_body_invalid():
    coarse = setting(grain=4)
    contributors = 4  # the smallest cohort of these settings: steps of 4
    assert grain_of(contributors, coarse.manifest.compression) == 4
    check_body(body(coarse, [], sums=8), coarse.manifest, coarse.layout, coarse.swarm)
    for off in (1, 2, -3, 6):
        with pytest.raises(PeerViolation, match="no multiple of 4"):
            check_body(body(coarse, [], sums=off), coarse.manifest, coarse.layout, coarse.swarm)


def test_a_grain_that_leaves_nothing_is_refused():
    manifest = setting(levels=1).manifest
    for grain, holds in ((3, True), (64, False)):
        rougher = replace(manifest, compression=replace(manifest.compression, grain=grain))
        if holds:
            refuse_contradictions(rougher)
        else:
            with pytest.raises(ManifestError, match="to zero"):
                refuse_contradictions(rougher)
