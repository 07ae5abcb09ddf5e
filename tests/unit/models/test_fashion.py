"""Fashion-MNIST is read strictly from where it lies, cut for hundreds of devices, and missing says how to get it."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models import datasets, messages
from models.datasets import DataError, Dataset, fashion, read_idx
from models.parameters import ONE, initial, schema_of
from models.partition import EXAMPLES_MIN, part_of, parts_of
from models.session import open_session
from models.tasks import DATA_VARIABLE, load_task
from models.training import LocalTrainer


def save_idx(path: Path, items: np.ndarray, **changed) -> None:
    head = {
        "magic": struct.pack(">HBB", 0, 8, items.ndim),
        "shape": items.shape,
        "body": items.tobytes(),
    } | changed
    path.write_bytes(
        gzip.compress(head["magic"] + struct.pack(f">{len(head['shape'])}I", *head["shape"]) + head["body"])
    )


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder as GOSSAMER_DATA names it, with 30 + 10 images."""
    folder = tmp_path / "data" / "fashion-mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        save_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        save_idx(folder / f"{part}-labels-idx1-ubyte.gz", rng.integers(0, 10, count, np.uint8))
    return folder.parent


@pytest.fixture
def not_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets, "FASHION_INSTALLED", tmp_path / "installed")


def test_images_labels_and_the_test_set_come_out_as_they_were_written(shelf):
    data = fashion(shelf / "fashion-mnist")
    assert data.inputs.shape == (40, 1, 28, 28)
    assert np.flatnonzero(data.held_out).tolist() == list(range(30, 40))
    written = read_idx(shelf / "fashion-mnist" / "train-images-idx3-ubyte.gz", (28, 28))
    inputs, labels = data.take(np.arange(30))
    assert np.allclose(inputs[:, 0] * 255, written)
    assert 0.9 < inputs.max() <= 1
    assert np.array_equal(labels, read_idx(shelf / "fashion-mnist" / "train-labels-idx1-ubyte.gz", ()))


@pytest.mark.usefixtures("not_installed")
def test_the_folder_given_comes_first_then_the_environments_then_the_installed(shelf, tmp_path, monkeypatch):
    task, environ = load_task("fashion"), {DATA_VARIABLE: str(shelf)}
    assert len(task.load(None, environ).inputs) == 40
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist"):
        task.load(tmp_path / "nowhere", environ)
    for empty in ({}, {DATA_VARIABLE: ""}, {DATA_VARIABLE: str(tmp_path)}):
        with pytest.raises(
            DataError, match="apt-get install dataset-fashion-mnist, or set GOSSAMER_DATA"
        ) as error:
            task.load(None, empty)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(datasets, "FASHION_INSTALLED", shelf / "fashion-mnist")
    assert len(task.load(None, {}).inputs) == 40


@pytest.mark.usefixtures("not_installed")
def test_a_session_finds_what_its_environment_names(shelf, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(shelf))
    _, opened = open_session(messages.Open("fashion", "shard=1/3", None, seed=1, model_seed=1))
    assert (opened.examples, opened.classes) == (10, 10)
    assert sum(size for _, size, _ in opened.tensors) == 804_746
    assert [segment for _, _, segment in opened.tensors] == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"magic": b"\0\0\x0d\3"}, "not an IDX file of nx28x28 bytes"),
        ({"magic": b"\1\0\x08\3"}, "not an IDX file"),
        ({"shape": (3, 28, 27)}, "not an IDX file"),
        ({"shape": (3, 28)}, "not an IDX file"),
        ({"shape": (0, 28, 28)}, "claims 0 items"),
        ({"shape": (4_000_000_000, 28, 28)}, "claims 4000000000 items, 1 to 100000"),
        ({"shape": (4, 28, 28)}, "does not hold the 3136 bytes"),
        ({"shape": (2, 28, 28)}, "and no more"),
        ({"body": b""}, "does not hold"),
    ],
)
def test_idx_files_that_promise_something_else_are_refused(tmp_path, changed, complaint):
    path = tmp_path / "images.gz"
    save_idx(path, np.zeros((3, 28, 28), np.uint8))
    assert read_idx(path, (28, 28)).shape == (3, 28, 28)
    save_idx(path, np.zeros((3, 28, 28), np.uint8), **changed)
    with pytest.raises(DataError, match=complaint):
        read_idx(path, (28, 28))


def test_files_that_are_missing_cut_off_or_not_gzip_are_told_apart(shelf):
    folder = shelf / "fashion-mnist"
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (b"", b"plain text", whole[:100], whole[:40] + b"\0\0\0\0" + whole[44:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as a gzip file|not an IDX|does not hold"):
            fashion(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz does not exist: put it there"):
        fashion(folder)


def test_images_and_labels_must_be_as_many_and_of_ten_classes(shelf):
    folder = shelf / "fashion-mnist"
    save_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(29, np.uint8))
    with pytest.raises(DataError, match="30 train images, but 29 labels"):
        fashion(folder)
    save_idx(folder / "train-labels-idx1-ubyte.gz", np.full(30, 10, np.uint8))
    with pytest.raises(DataError, match="not below 10"):
        fashion(folder)


def like_fashion(count: int) -> Dataset:
    held_out = np.arange(count + 100) >= count
    return Dataset(np.zeros((count + 100, 1)), np.arange(count + 100) % 10, held_out, 10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_five_hundred_skewed_parts_are_complete_disjoint_and_never_tiny(seed):
    data = like_fashion(60_000)
    parts = parts_of(data, [f"dirichlet={number}/500@0.3" for number in range(1, 501)], seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(60_000))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= EXAMPLES_MIN
    assert max(sizes) > 3 * 120
    assert np.array_equal(parts[41], part_of(data, "dirichlet=42/500@0.3", seed))


def test_parts_that_chance_left_tiny_take_from_the_largest():
    data = like_fashion(4000)
    parts = parts_of(data, [f"dirichlet={number}/100@0.05" for number in range(1, 101)], 3)
    assert min(len(part) for part in parts) == EXAMPLES_MIN
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(4000))
    crowded = parts_of(data, [f"dirichlet={number}/1000@0.05" for number in range(1, 1001)], 3)
    assert {len(part) for part in crowded if len(part) <= 4} == {4}


@pytest.fixture(scope="module")
def real() -> Dataset:
    try:
        return load_task("fashion").load(None, os.environ)
    except DataError as missing:
        pytest.skip(str(missing))


def test_the_real_set_is_what_it_is_known_to_be(real):
    assert real.inputs.shape == (70_000, 1, 28, 28)
    assert np.bincount(real.labels[real.held_out]).tolist() == [1000] * 10
    assert np.bincount(real.labels[~real.held_out]).tolist() == [6000] * 10


def test_the_packaged_net_learns_the_real_set(real):
    task = load_task("fashion")
    train = real.take(np.flatnonzero(~real.held_out)[:4000])
    local = LocalTrainer(task, *map(torch.from_numpy, train), seed=1)
    base = (initial(schema_of(task.model(), task.segment), 1) / ONE).astype(np.float32)
    local.begin(base)
    for _ in range(300):
        local.step()
    score = local.evaluate(
        base + local.freeze().delta, *(torch.from_numpy(part[:1000]) for part in real.test())
    )
    assert score.accuracy > 0.65
