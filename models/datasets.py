"""The examples a task learns from, and those no device holds, by which it is judged.

Two sets travel with the program (origin and licence: data/README.md); a user's folder may replace either. Two larger
ones are Debian packages, looked for where those put them unless a folder is given; nothing is downloaded.
Inputs are scaled by constants alone: statistics over all devices' data would have to leave the devices first.
"""

import gzip
import hashlib
import itertools
import math
import re
import zipfile
import zlib
from collections import Counter
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

FASHION_INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = 10
FASHION_FULL_SCALE = 255
FASHION_SIDE = 28  # pixels
IDX_ITEMS_MAX = 100_000

KEYBOARD_INSTALLED = Path("/usr/share/games/fortunes")
KEYBOARD_CONTEXT = 4  # words
KEYBOARD_WORDS = 4000  # that the model knows, with the two below
BEFORE_THE_FIRST, UNKNOWN = 0, 1
KEYBOARD_PARTS = 10  # of the quotes: part 0 is held out, part 1 gives the words, the others train
TOPICS_MAX = 256
TOPIC_BYTES_MAX = 4 << 20

_TOPIC = re.compile(r"[a-z][a-z0-9-]{0,63}")  # without a dot: the indices beside the texts have suffixes
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


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
    topics: the owners' names where they are no people but texts; owner k is topics[k].
    Raises DataError where these do not fit together.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    classes: int
    owners: NDArray[np.int64] | None = None
    scale: NDArray[np.float32] | float = 1.0
    topics: tuple[str, ...] = ()

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


def fashion(folder: Path | None) -> Dataset:
    """Fashion-MNIST: images of clothes, (N, 1, 28, 28); its own 10,000 test images are held out. Raises DataError."""
    folder = _folder(
        folder, FASHION_INSTALLED, "dataset-fashion-mnist", "fashion-mnist/train-images-idx3-ubyte.gz"
    )
    images, labels = [], []
    for part in ("train", "t10k"):
        pictures = read_idx(folder / f"{part}-images-idx3-ubyte.gz", (FASHION_SIDE, FASHION_SIDE))
        classes = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", ())
        if len(pictures) != len(classes):
            raise DataError(f"{folder}: {len(pictures)} {part} images, but {len(classes)} labels")
        images.append(pictures)
        labels.append(classes)
    return Dataset(
        inputs=np.concatenate(images)[:, None],
        labels=np.concatenate(labels).astype(np.int64),
        held_out=np.repeat([False, True], [len(part) for part in labels]),
        classes=FASHION_CLASSES,
        scale=1 / FASHION_FULL_SCALE,
    )


def read_idx(path: Path, item: tuple[int, ...]) -> NDArray[np.uint8]:
    """The (n, *item) bytes of a gzipped IDX file with 1 to IDX_ITEMS_MAX items of that shape, and nothing behind them.

    The format: two zero bytes, 8 for uint8, the number of dimensions, each dimension as a big-endian uint32, the items.
    Raises DataError; reads no more than such a file may hold.
    """
    rank = 1 + len(item)
    try:
        with gzip.open(path) as file:
            head = file.read(4 + 4 * rank)
            shape = tuple(np.frombuffer(head, ">u4", offset=4).tolist()) if len(head) == 4 + 4 * rank else ()
            if head[:4] != bytes((0, 0, 8, rank)) or not shape or shape[1:] != item:
                raise DataError(f"{path} is not an IDX file of {'x'.join(map(str, ('n', *item)))} bytes")
            if not 1 <= shape[0] <= IDX_ITEMS_MAX:
                raise DataError(f"{path} claims {shape[0]} items, 1 to {IDX_ITEMS_MAX} are read")
            size = math.prod(shape)
            body = file.read(size + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: put it there, or leave the data folder out") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}") from error
    if len(body) != size:
        raise DataError(f"{path} does not hold the {size} bytes that its head promises, and no more")
    return np.frombuffer(body, np.uint8).reshape(shape)


def keyboard(folder: Path | None) -> Dataset:
    """The next word in English quotes, a topic a file: inputs (N, 4) ids of the words before it, labels its id.

    A quote's own hash says which part it is in, so a quote that stands in two files is on one side only. The words that
    the model knows must be the same on all devices and must not tell what any of them holds: they are the most frequent
    of quotes in a part that nobody trains on and nobody is tested by. A word beyond them is UNKNOWN in a context and is
    never the word to propose, in training or test. Attributions (`-- Goethe`) are left out. Raises DataError.
    """
    folder = _folder(folder, KEYBOARD_INSTALLED, "fortunes fortunes-min", "fortunes/love")
    paths = sorted(path for path in folder.iterdir() if _TOPIC.fullmatch(path.name) and path.is_file())
    if not 1 <= len(paths) <= TOPICS_MAX:
        raise DataError(f"{folder} holds {len(paths)} topic files, 1 to {TOPICS_MAX} are read")
    quotes = [(owner, words) for owner, path in enumerate(paths) for words in _quotes(path)]
    parts = [_part_of_quote(words) for _, words in quotes]
    seen = Counter(
        itertools.chain.from_iterable(
            words for (_, words), part in zip(quotes, parts, strict=True) if part == 1
        )
    )
    known = sorted(seen, key=lambda word: (-seen[word], word))[: KEYBOARD_WORDS - 2]
    number = {word: place for place, word in enumerate(known, start=2)}
    rows = [
        (*ids[place : place + KEYBOARD_CONTEXT], label, part == 0, owner)
        for (owner, words), part in zip(quotes, parts, strict=True)
        if part != 1
        for ids in [[BEFORE_THE_FIRST] * KEYBOARD_CONTEXT + [number.get(word, UNKNOWN) for word in words]]
        for place, label in enumerate(ids[KEYBOARD_CONTEXT:])
        if label != UNKNOWN
    ]
    table = np.array(rows, np.int64).reshape(-1, KEYBOARD_CONTEXT + 3)
    return Dataset(
        inputs=table[:, :KEYBOARD_CONTEXT].astype(np.int16),
        labels=table[:, KEYBOARD_CONTEXT],
        held_out=table[:, KEYBOARD_CONTEXT + 1].astype(np.bool_),
        classes=KEYBOARD_WORDS,
        owners=table[:, KEYBOARD_CONTEXT + 2],
        topics=tuple(path.name for path in paths),
    )


def _quotes(path: Path) -> list[list[str]]:
    """The words of each quote of one topic file."""
    try:
        with path.open("rb") as file:
            text = file.read(TOPIC_BYTES_MAX + 1)
        if len(text) > TOPIC_BYTES_MAX:
            raise DataError(f"{path} is longer than {TOPIC_BYTES_MAX} bytes")
        lines = text.decode().lower().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    quotes: list[list[str]] = [[]]
    for line in lines:
        if line == "%":
            quotes.append([])
        elif not line.lstrip().startswith("--"):
            quotes[-1] += _WORD.findall(line)
    return [words for words in quotes if words]


def _part_of_quote(words: list[str]) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8], "big") % KEYBOARD_PARTS


def _folder(given: Path | None, installed: Path, package: str, example: str) -> Path:
    """`given`, or where the Debian package puts its files."""
    if given is not None and not given.is_dir():
        raise DataError(f"data folder {given} does not exist: create it, or leave it out for {installed}")
    if given is None and not installed.is_dir():
        raise DataError(
            f"{installed} does not exist: apt-get install {package}, or set GOSSAMER_DATA to a folder with {example}"
        )
    return given or installed


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
