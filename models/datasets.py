"""The examples a task learns from, and those no device holds, by which it is judged.

Two sets travel with the program (origin and licence: data/README.md); a user's folder may replace either.
Inputs are scaled by constants alone: statistics over all devices' data would have to leave the devices first.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGED = Path(__file__).parent / "data"

WINDOW = 200  # samples at 50 Hz: four seconds, about one repetition of an exercise
WINDOW_STEP = 100
WATCH_TEST_SUBJECTS = (9, 10)
WATCH_CLASSES = 7
WATCH_FULL_SCALE = np.array([[1], [1], [1], [2], [2], [2]], np.float32)  # g and rad/s that count as 1

DIGITS_TEST_EVERY = 5
DIGITS_CLASSES = 10
DIGITS_FULL_SCALE = 16  # cells of ink


class DataError(ValueError):
    """The examples asked for cannot be had; the message names the file or the setting to change."""


@dataclass(frozen=True)
class Dataset:
    """Labelled examples of all devices together.

    inputs: (N, ...) of any number type; times `scale`, as float32, they are what the model sees.
    labels: (N,) int64 in [0, classes).
    held_out: (N,) bool, the test set, which is in no device's part.
    owners: (N,) int64, whose example each is, or None where examples belong to nobody in particular.
    scale: broadcasts against one example.
    Raises DataError where these do not fit together.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    classes: int
    owners: NDArray[np.int64] | None = None
    scale: NDArray[np.float32] | float = 1.0

    def __post_init__(self) -> None:
        count = len(self.inputs)
        columns = [self.labels, self.held_out] + ([] if self.owners is None else [self.owners])
        if any(column.shape != (count,) for column in columns):
            raise DataError(
                f"a data set's columns have shapes {[c.shape for c in columns]} for {count} inputs"
            )
        if self.held_out.dtype != np.bool_ or not 0 < self.held_out.sum() < count:
            raise DataError("a data set needs both examples to train on and examples held out for testing")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise DataError(
                f"labels lie in {self.labels.min()}-{self.labels.max()}, not below {self.classes}"
            )

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The inputs, (len(indices), ...) float32 and scaled, and the labels of some examples."""
        return self.inputs[indices].astype(np.float32) * np.float32(self.scale), self.labels[indices]

    def test(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.take(np.flatnonzero(self.held_out))


def watch(folder: Path | None) -> Dataset:
    """Windows of a smartwatch's motion, (N, 6, 200), by exercise; subjects 9 and 10 are held out.

    Windows overlap by half, so a split by window would put the same samples on both sides.
    Raises DataError.
    """
    path, arrays = _read(
        "watch.npz", folder, {"signal": 2, "scale": 1, "length": 1, "label": 1, "subject": 1}
    )
    signal, length, subject = arrays["signal"], arrays["length"].astype(np.int64), arrays["subject"]
    if signal.shape[1] != 6 or arrays["scale"].shape != (6,):
        raise DataError(
            f"{path}: `signal` must have 6 columns and `scale` 6 values, see models/data/README.md"
        )
    if not len(length) == len(arrays["label"]) == len(subject):
        raise DataError(f"{path}: `length`, `label` and `subject` must have one value a recording")
    if (length < 1).any() or length.sum() != len(signal):
        raise DataError(f"{path}: `length` must be positive and add up to the {len(signal)} rows of `signal`")
    windows_of = np.maximum(length - WINDOW, -WINDOW_STEP) // WINDOW_STEP + 1
    if not windows_of.any():
        raise DataError(f"{path}: no recording is as long as a window of {WINDOW} samples")
    begin = np.repeat(np.cumsum(length) - length, windows_of)
    nth = np.arange(len(begin)) - np.repeat(np.cumsum(windows_of) - windows_of, windows_of)
    owners = np.repeat(subject.astype(np.int64), windows_of)
    return Dataset(
        inputs=np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=0)[begin + nth * WINDOW_STEP],
        labels=np.repeat(arrays["label"].astype(np.int64), windows_of),
        held_out=np.isin(owners, WATCH_TEST_SUBJECTS),
        classes=WATCH_CLASSES,
        owners=owners,
        scale=arrays["scale"].astype(np.float32)[:, None] / WATCH_FULL_SCALE,
    )


def digits(folder: Path | None) -> Dataset:
    """Images of handwritten digits, (N, 8, 8); every fifth is held out. Raises DataError."""
    path, arrays = _read("digits.npz", folder, {"pixel": 3, "label": 1})
    if arrays["pixel"].shape[1:] != (8, 8) or len(arrays["pixel"]) != len(arrays["label"]):
        raise DataError(f"{path}: `pixel` must be (images, 8, 8) and `label` (images,)")
    return Dataset(
        inputs=arrays["pixel"],
        labels=arrays["label"].astype(np.int64),
        held_out=np.arange(len(arrays["label"])) % DIGITS_TEST_EVERY == 0,
        classes=DIGITS_CLASSES,
        scale=1 / DIGITS_FULL_SCALE,
    )


def _read(name: str, folder: Path | None, ranks: dict[str, int]) -> tuple[Path, dict[str, NDArray[Any]]]:
    """The arrays of FOLDER/name, or of the packaged file, each non-empty, numeric and finite, of the given rank."""
    if folder is not None and not folder.is_dir():
        raise DataError(
            f"data folder {folder} does not exist: create it, or leave it out for the packaged data"
        )
    path = (folder or PACKAGED) / name
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ranks}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: put it there, or leave the data folder out") from error
    except KeyError as error:
        raise DataError(f"{path} lacks an array, see models/data/README.md: {error}") from error
    except (OSError, ValueError, TypeError, EOFError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz archive without pickles: {error}") from error
    for key, rank in ranks.items():
        array = arrays[key]
        if (
            array.ndim != rank
            or array.dtype.kind not in "iuf"
            or not array.size
            or not np.isfinite(array).all()
        ):
            raise DataError(
                f"{path}: `{key}` must be a non-empty array of finite numbers with {rank} dimensions, "
                f"is {array.dtype} {array.shape}"
            )
    return path, arrays
