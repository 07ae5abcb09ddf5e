"""One line of text says which examples a device holds; test examples are in nobody's part."""

import numpy as np
import pytest

from models.datasets import DataError, Dataset, digits, watch
from models.partition import part_of


@pytest.fixture(scope="module")
def images():
    return digits(None)


@pytest.fixture(scope="module")
def motion():
    return watch(None)


def test_a_person_holds_all_of_their_own_windows_and_no_others(motion):
    mine = part_of(motion, "subjects=3", seed=0)
    assert np.array_equal(mine, np.flatnonzero(motion.owners == 3))
    both = part_of(motion, "subjects=5,3", seed=0)
    assert np.array_equal(both, np.flatnonzero((motion.owners == 3) | (motion.owners == 5)))


@pytest.mark.parametrize("form", ["shard={}/7", "dirichlet={}/7@0.5"])
@pytest.mark.parametrize("name", ["images", "motion"])
def test_portions_are_disjoint_and_complete_and_leave_the_test_set_alone(form, name, request):
    data = request.getfixturevalue(name)
    parts = [part_of(data, form.format(number), seed=5) for number in range(1, 8)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.flatnonzero(~data.held_out))


def test_shards_are_even_and_mixed(images):
    part = part_of(images, "shard=2/10", seed=1)
    assert len(part) in (143, 144)
    assert np.bincount(images.labels[part], minlength=10).min() >= 5


def test_a_smaller_dirichlet_parameter_skews_the_classes_more(images):
    def largest_share(alpha: str) -> float:
        counts = [
            np.bincount(images.labels[part_of(images, f"dirichlet={number}/5@{alpha}", seed=1)], minlength=10)
            for number in range(1, 6)
        ]
        return float(np.mean([count.max() / count.sum() for count in counts]))

    assert largest_share("0.1") > 1.5 * largest_share("1") > 2 * largest_share("1000")


def test_the_cut_depends_on_the_seed_and_on_nothing_else(images):
    once, again = (part_of(images, "dirichlet=2/10@0.3", seed=4) for _ in range(2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, part_of(images, "dirichlet=2/10@0.3", seed=5))
    # Every device cuts for itself, so these must be the same on all machines, for good.
    assert part_of(images, "shard=1/300", seed=0).tolist() == [66, 676, 887, 1586, 1631]
    assert len(once) == 121


@pytest.mark.parametrize("start", ["subjects=", "shard=", "dirichlet=", ""])
@pytest.mark.parametrize(
    "rest",
    [
        "",
        "1,",
        "1,,2",
        "-1",
        " 1",
        "1 ",
        "\u0661",
        "1/",
        "1/10@",
        "1/10@.3",
        "1/10@1e3",
        "1/10@nan",
        "1/10\n",
        "all",
    ],
)
def test_other_text_is_refused_with_the_forms_that_are_understood(motion, start, rest):
    with pytest.raises(
        DataError, match=r"not understood: write subjects=1,2 or shard=2/10 or dirichlet=2/10@0\.3"
    ):
        part_of(motion, start + rest, seed=0)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("subjects=9", "subject 9 is held out for testing: choose among .1, 2, 3, 4, 5, 6, 7, 8."),
        ("subjects=1,10", "subject 10 is held out"),
        ("subjects=11", "there is no subject 11"),
        ("subjects=1,1", "twice"),
        ("shard=0/10", "numbered 1 to their count"),
        ("shard=11/10", "numbered 1 to their count"),
        ("shard=1/10001", "at most 10000"),
        ("shard=9999/9999", "is empty: cut fewer parts"),
        ("dirichlet=1/10@0.01", "skew must lie between 0.05 and 1000"),
        ("dirichlet=1/10@1001", "skew must lie between"),
    ],
)
def test_impossible_parts_say_why(motion, spec, complaint):
    with pytest.raises(DataError, match=complaint):
        part_of(motion, spec, seed=0)


def test_images_belong_to_nobody(images):
    with pytest.raises(DataError, match="use shard= or dirichlet="):
        part_of(images, "subjects=1", seed=0)


def test_a_subject_with_any_example_held_out_is_refused():
    owners = np.array([1, 1, 2, 2])
    data = Dataset(np.zeros((4, 1)), np.zeros(4, np.int64), np.array([False, True, False, False]), 1, owners)
    with pytest.raises(DataError, match="subject 1 is held out"):
        part_of(data, "subjects=1", seed=0)
    assert part_of(data, "subjects=2", seed=0).tolist() == [2, 3]
