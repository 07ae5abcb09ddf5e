"""The packaged data is what its README says, a user's folder replaces it, and bad files say what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from models.datasets import PACKAGED, WINDOW, WINDOW_STEP, DataError, Dataset, digits, watch


def test_watch_windows_stay_inside_their_recordings():
    data = watch(None)
    assert data.inputs.shape == (2229, 6, WINDOW)
    assert np.flatnonzero(np.bincount(data.owners)).tolist() == list(range(1, 11))
    with np.load(PACKAGED / "watch.npz", allow_pickle=False) as raw:
        recordings = np.split(raw["signal"], np.cumsum(raw["length"])[:-1])
        expected = [
            (recording[start : start + WINDOW].T, label, subject)
            for recording, label, subject in zip(recordings, raw["label"], raw["subject"], strict=True)
            for start in range(0, len(recording) - WINDOW + 1, WINDOW_STEP)
        ]
    for got, want in zip(
        (data.inputs, data.labels, data.owners), map(np.array, zip(*expected, strict=True)), strict=True
    ):
        assert np.array_equal(got, want)


def test_watch_judges_by_two_people_whom_nobody_trains_on():
    data = watch(None)
    assert np.unique(data.owners[data.held_out]).tolist() == [9, 10]
    inputs, labels = data.test()
    assert len(inputs) == len(labels) == data.held_out.sum() == 478


def test_watch_inputs_come_out_near_one_as_float32():
    inputs, _ = watch(None).take(np.arange(500))
    assert inputs.dtype == np.float32
    assert 0.3 < inputs.std() < 1.5
    assert inputs.shape == (500, 6, WINDOW)


def test_digits_hold_out_every_fifth_image():
    data = digits(None)
    inputs, labels = data.test()
    assert inputs.shape == (360, 8, 8)
    assert 0 <= inputs.min() < inputs.max() == 1
    with np.load(PACKAGED / "digits.npz", allow_pickle=False) as raw:
        assert np.array_equal(labels, raw["label"][::5])


def test_a_recording_shorter_than_a_window_gives_none(tmp_path):
    save_watch(tmp_path, length=[WINDOW - 1, WINDOW + WINDOW_STEP, WINDOW], subject=[1, 2, 9])
    assert watch(tmp_path).owners.tolist() == [2, 2, 9]


def test_the_users_folder_replaces_the_packaged_file(tmp_path):
    save_watch(tmp_path)
    assert len(watch(tmp_path).inputs) == 2


def save_watch(folder: Path, **changed) -> None:
    arrays = {"length": [WINDOW, WINDOW], "subject": [1, 9], "scale": np.ones(6, np.float32)} | changed
    arrays |= {"label": [0] * len(arrays["length"])} | changed
    arrays |= {"signal": np.ones((sum(arrays["length"]), 6), np.int16)} | changed
    np.savez(folder / "watch.npz", **arrays)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"signal": np.ones((2 * WINDOW, 5), np.int16)}, "6 columns"),
        ({"signal": np.ones(2 * WINDOW, np.int16)}, "`signal` must be .* 2 dimensions"),
        ({"signal": np.full((2 * WINDOW, 6), np.nan)}, "finite"),
        ({"signal": np.ones((2 * WINDOW + 1, 6), np.int16)}, "add up to the 401 rows"),
        ({"scale": np.ones(5, np.float32)}, "6 values"),
        ({"subject": [1]}, "one value a recording"),
        ({"length": [0, WINDOW]}, "must be positive"),
        ({"length": [10, 10], "signal": np.ones((20, 6), np.int16)}, "as long as a window"),
        ({"label": ["a", "b"]}, "`label` must be .* numbers"),
        ({"label": [0, 7]}, "labels lie in 0-7, not below 7"),
        ({"subject": [1, 2]}, "held out for testing"),
        ({"label": np.array([{}, {}])}, "without pickles"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changed, complaint):
    save_watch(tmp_path, **changed)
    with pytest.raises(DataError, match=complaint):
        watch(tmp_path)


def test_a_missing_folder_a_missing_file_and_a_file_of_another_kind_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist: create it"):
        digits(tmp_path / "nowhere")
    with pytest.raises(DataError, match="exist: put it there"):
        digits(tmp_path)
    np.savez(tmp_path / "digits.npz", pixel=np.ones((5, 8, 8)))
    with pytest.raises(DataError, match="label"):
        digits(tmp_path)
    packaged = (PACKAGED / "digits.npz").read_bytes()
    for content in (
        b"",
        b"PK\x03\x04nonsense",
        b"plain text",
        packaged[:1000],
        packaged[:9000] + packaged[9001:],
    ):
        (tmp_path / "digits.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            digits(tmp_path)
    with (tmp_path / "digits.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataError, match="cannot be read"):
        digits(tmp_path)


def test_a_data_set_of_ones_own_must_fit_together():
    inputs, labels, held_out = np.zeros((4, 2)), np.zeros(4, np.int64), np.array([True, False, False, False])
    Dataset(inputs, labels, held_out, classes=1)
    with pytest.raises(DataError, match="columns"):
        Dataset(inputs, labels[:3], held_out, classes=1)
    with pytest.raises(DataError, match="columns"):
        Dataset(inputs, labels, held_out, classes=1, owners=labels[:3])
    with pytest.raises(DataError, match="held out"):
        Dataset(inputs, labels, ~np.zeros(4, np.bool_), classes=1)
