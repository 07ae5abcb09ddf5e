"""How long a run will go on: a guess that learns, and that says nothing where there is no telling."""

import pytest

from scenarios.reports.eta import POINTS_MIN, left_s, span, time_at


def curve(until_s: float, power: float = 0.5, plateau_s: float = 1e9) -> list[tuple[float, float]]:
    """An error that falls as a power of time, and not after `plateau_s`."""
    return [(float(t), 1 - 0.9 * min(t, plateau_s) ** -power) for t in range(1, int(until_s) + 1)]


@pytest.mark.parametrize(("power", "target"), [(0.5, 0.9), (0.5, 0.95), (0.3, 0.8), (1.0, 0.99)])
def test_where_the_error_falls_as_a_power_of_time_the_end_is_known(power, target):
    end_s = (0.9 / (1 - target)) ** (1 / power)
    assert time_at(curve(20, power), target) == pytest.approx(end_s)


MEASURED = """1 9.1 2 9.1 5 9.1 7 29.0 10 30.0 12 57.1 14 63.8 17 70.8 19 68.4 22 68.8 24 72.5 25 72.5 27 75.0 29 74.7 30 74.7
32 76.5 34 78.2 37 77.8 39 78.5 41 78.9 43 78.6 45 79.6 46 79.6 48 80.2 50 80.4 51 80.4 53 80.3 55 80.2 57 80.7 58 80.7 60 81.7
62 82.8 63 82.8 65 83.9 67 83.8 68 83.8 70 83.7 72 83.8 73 83.8 75 83.9"""  # everyday-devices, 500 devices: 84 % after 76 s


@pytest.mark.parametrize("seen_s", [32, 37, 48, 60, 70])
def test_a_measured_run_was_known_from_half_of_it_on(seen_s):
    numbers = [float(word) for word in MEASURED.split()]
    measured = [(t, percent / 100) for t, percent in zip(numbers[::2], numbers[1::2], strict=True)]
    assert time_at([point for point in measured if point[0] <= seen_s], 0.84) == pytest.approx(76, rel=0.16)


def test_there_is_no_telling_from_nothing_nor_on_a_plateau_nor_for_what_cannot_be():
    assert time_at([], 0.9) is None
    assert time_at(curve(POINTS_MIN - 1), 0.99) is None
    assert time_at(curve(200, plateau_s=20), 0.9) is None
    assert time_at([(float(t), 0.5 - t / 1000) for t in range(1, 50)], 0.9) is None
    assert time_at(curve(50), 1.0) is None
    assert time_at([(0.0, 0.1)] * 20, 0.9) is None
    assert time_at([(5.0, 0.1)] * 20, 0.9) is None, "one moment"


def test_what_is_reached_is_reached_now():
    assert time_at(curve(200), 0.9) == 200.0
    assert left_s(33.0, 1, 2000, curve(200), 0.9) == 0.0


def test_time_goes_on_passing_as_it_has():
    assert left_s(10.0, 3, 40) == pytest.approx(10.0 * 37 / 3)
    assert left_s(10.0, 0, 40) is None
    assert left_s(10.0, 41, 40) == 0.0
    assert left_s(60.0, 3, 2000, curve(20), 0.9) == pytest.approx(60 * (81 - 20) / 20)


def test_a_run_is_over_when_its_rounds_are_whatever_the_target():
    assert left_s(60.0, 3, 4, curve(20), 0.9) == pytest.approx(20)
    assert left_s(60.0, 3, 4, curve(200, plateau_s=20), 0.9) is None


def test_a_guess_is_told_as_exactly_as_it_deserves():
    assert [span(s) for s in (0.4, 99, 100, 3600, 9000)] == ["0 s", "99 s", "2 min", "60 min", "2 h"]
