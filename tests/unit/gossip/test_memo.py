"""What a pure function remembers, and that a process of many devices makes it remember more."""

import pytest

from gossip.frames import OPENED_KEPT, opened_again
from gossip.membership.census import HASHES_KEPT, census_hash
from gossip.memo import Remembered
from node.virtual.shared_cache import FRAMES_KEPT, Commons


def test_what_was_called_is_not_called_again_until_it_is_forgotten():
    called = []
    double = Remembered(lambda number: called.append(number) or 2 * number, 2)
    assert [double.call(number) for number in (1, 1, 2, 1, 3, 2)] == [2, 2, 4, 2, 6, 4]
    assert called == [1, 2, 3, 2]


def test_it_is_widened_and_never_narrowed():
    called = []
    double = Remembered(lambda number: called.append(number) or 2 * number, 1)
    double.widen(3)
    assert [double.call(number) for number in (1, 2, 3, 1, 2, 3)] == [2, 4, 6, 2, 4, 6]
    assert called == [1, 2, 3]
    double.widen(2)
    assert double.call(1) == 2
    assert called == [1, 2, 3]


def test_what_raises_is_not_remembered():
    def refuse(number):
        called.append(number)
        raise ValueError

    called = []
    refused = Remembered(refuse, 8)
    for _ in range(2):
        with pytest.raises(ValueError):
            refused.call(1)
    assert called == [1, 1]


def test_a_device_remembers_little_and_many_devices_more():
    assert (opened_again.kept, census_hash.kept) >= (OPENED_KEPT, HASHES_KEPT)
    Commons(OPENED_KEPT)
    assert opened_again.kept == FRAMES_KEPT * OPENED_KEPT
    assert census_hash.kept >= 2 * OPENED_KEPT
