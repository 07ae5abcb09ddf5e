"""Next words from quotes: a topic a device, a test set of other quotes, and words that tell nothing of any device."""

import os
from pathlib import Path

import numpy as np
import pytest

from models import datasets
from models.datasets import BEFORE_THE_FIRST, KEYBOARD_WORDS, UNKNOWN, DataError, Dataset, keyboard
from models.partition import part_of, parts_of
from models.tasks import DATA_VARIABLE, load_task

SUBJECTS = ["cats", "dogs", "birds", "stars", "clouds", "rivers", "poems", "songs", "trains", "ships"]
VERBS = ["love", "see", "follow", "watch", "find", "fear", "want", "draw", "call", "leave"]


def quotes(topic: str, count: int) -> str:
    lines = [
        f"My {topic} {VERBS[number % 10]} the {SUBJECTS[number // 10 % 10]}, {VERBS[number // 100]} them!\n\t\t-- Anon"
        for number in range(count)
    ]
    return "\n%\n".join(lines) + "\n%\n"


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder as GOSSAMER_DATA names it, with three topics of 300, 200 and 100 quotes, and an index as Debian has."""
    folder = tmp_path / "data" / "fortunes"
    folder.mkdir(parents=True)
    for topic, count in (("love", 300), ("art", 200), ("songs-poems", 100)):
        (folder / topic).write_text(quotes(topic, count))
    (folder / "love.dat").write_bytes(b"\xff\x00")
    return folder.parent


def rows(data: Dataset) -> list[tuple[int, ...]]:
    return [
        (*context, label, owner)
        for context, label, owner in zip(
            data.inputs.tolist(), data.labels.tolist(), data.owners.tolist(), strict=True
        )
    ]


def test_each_known_word_is_asked_for_after_the_four_before_it(tmp_path):
    (tmp_path / "tale").write_text(quotes("tale", 1000))
    data = keyboard(tmp_path)
    begins = np.flatnonzero((data.inputs == BEFORE_THE_FIRST).all(1))
    for begin, end in zip(begins, [*begins[1:], len(data.labels)], strict=True):
        words = data.labels[begin:end].tolist()
        for place in range(len(words)):
            expected = ([BEFORE_THE_FIRST] * 4 + words)[place : place + 4]
            assert data.inputs[begin + place].tolist() == expected
    assert not (data.inputs == UNKNOWN).any()
    assert len(data.labels) == 7 * len(begins), "attributions are no words"
    assert 850 < len(begins) < 950, "a part is set aside"


def test_a_quote_is_in_one_part_only_wherever_it_stands(shelf):
    copy = shelf / "fortunes" / "wisdom"
    copy.write_text((shelf / "fortunes" / "love").read_text().upper().replace("\n%\n", "  \n%\n"))
    data = keyboard(shelf / "fortunes")
    love, wisdom = data.topics.index("love"), data.topics.index("wisdom")
    for side in (data.held_out, ~data.held_out):
        both = [
            (data.inputs[side & (data.owners == topic)], data.labels[side & (data.owners == topic)])
            for topic in (love, wisdom)
        ]
        assert len(both[0][0])
        assert all(np.array_equal(one, other) for one, other in zip(*both, strict=True))


def test_the_words_tell_nothing_of_what_a_device_holds_or_is_tested_by(shelf):
    """Quotes of the training and test parts may say what they like: the numbering of words stays."""
    before = keyboard(shelf / "fortunes")
    path = shelf / "fortunes" / "art"
    secret = "xylophone zebra quartz " * 5
    added = 0
    for number in range(40):
        quote = f"{secret} {'again ' * number}"
        if datasets._part_of_quote(quote.split()) != 1:
            path.write_text(path.read_text() + quote + "\n%\n")
            added += 1
    assert added > 20
    after = keyboard(shelf / "fortunes")
    assert rows(after) == rows(before), "a word that is not public is never asked for"


def test_a_word_beyond_the_known_is_unknown_in_contexts_and_never_the_answer(shelf):
    path = shelf / "fortunes" / "art"
    path.write_text("\n%\n".join(f"zyx{'abcdefghij'[n % 10]}{'q' * n} the cats" for n in range(60)))
    data = keyboard(shelf / "fortunes")
    art = data.owners == data.topics.index("art")
    assert (data.inputs[art] == UNKNOWN).any()
    assert data.labels.min() > UNKNOWN
    assert data.inputs.max() < KEYBOARD_WORDS == data.classes


def test_a_device_holds_a_topic_or_a_group_of_whole_topics(shelf):
    data = keyboard(shelf / "fortunes")
    assert data.topics == ("art", "love", "songs-poems")
    love = part_of(data, "topic=love", seed=0)
    assert np.array_equal(love, np.flatnonzero(~data.held_out & (data.owners == 1)))
    groups = parts_of(data, ["topic=1/2", "topic=2/2"], seed=0)
    assert np.array_equal(groups[0], love), "the largest alone"
    assert np.unique(data.owners[groups[1]]).tolist() == [0, 2]
    assert np.array_equal(np.sort(np.concatenate(groups)), np.flatnonzero(~data.held_out))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("topic=war", "no topic 'war': choose among art, love, songs-poems"),
        ("topic=1/4", "3 topics to train on, not 4"),
        ("topic=0/2", "numbered 1 to their count"),
        ("topic=", "not understood"),
        ("topic=Love", "not understood"),
        ("topic=../love", "not understood"),
        ("topic=1/2@3", "not understood"),
    ],
)
def test_impossible_topics_say_why(shelf, spec, complaint):
    with pytest.raises(DataError, match=complaint):
        part_of(keyboard(shelf / "fortunes"), spec, seed=0)


def test_images_have_no_topics():
    with pytest.raises(DataError, match="has no topics: use shard= or dirichlet="):
        part_of(datasets.digits(None), "topic=love", seed=0)


def test_missing_or_foreign_files_say_what_to_do(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "KEYBOARD_INSTALLED", tmp_path / "installed")
    task = load_task("keyboard")
    with pytest.raises(DataError, match="apt-get install fortunes fortunes-min, or set GOSSAMER_DATA"):
        task.load(None, {})
    assert len(task.load(None, {DATA_VARIABLE: str(shelf)}).topics) == 3
    with pytest.raises(DataError, match="holds 0 topic files"):
        keyboard(shelf)
    (shelf / "fortunes" / "noise").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="noise cannot be read as text"):
        keyboard(shelf / "fortunes")
    monkeypatch.setattr(datasets, "TOPIC_BYTES_MAX", 2)
    with pytest.raises(DataError, match="longer than 2 bytes"):
        keyboard(shelf / "fortunes")


def test_quotes_without_a_test_part_are_refused(tmp_path):
    (tmp_path / "love").write_text("one\n%\n")
    with pytest.raises(DataError, match="needs both examples to train on"):
        keyboard(tmp_path)


@pytest.fixture(scope="module")
def real() -> Dataset:
    try:
        return load_task("keyboard").load(None, os.environ)
    except DataError as missing:
        pytest.skip(str(missing))


def test_the_real_quotes_give_every_device_a_topic(real):
    assert 20_000 < real.held_out.sum() < 0.15 * len(real.labels)
    count = len(np.unique(real.owners[~real.held_out]))
    parts = parts_of(real, [f"topic={number}/{count}" for number in range(1, count + 1)], 0)
    assert [len(np.unique(real.owners[part])) for part in parts] == [1] * count
    assert (real.inputs == UNKNOWN).mean() < 0.2
