"""Faults: carried out once, on whoever stops there first; everybody else goes on at once."""

from dataclasses import dataclass, field

import pytest

from node.home import Home
from scenarios.processes.faults import Course, meet
from scenarios.spec.scenario import Device, Fault


@dataclass(eq=False)
class Stopping:
    """A daemon, as far as faults go, that notes what happened to it."""

    device: Device
    home: Home
    stopped: bool = False
    met: list[str] = field(default_factory=list)

    def reach(self, *positions: int) -> None:
        for position in positions:
            (self.home.path / f"fault.{position}").touch()
        self.stopped = True

    def stands_still(self) -> bool:
        return self.stopped

    def go_on(self) -> None:
        self.stopped = False
        self.met.append("went on")

    async def crash(self) -> None:
        self.stopped = False
        self.met.append("crashed")


def fault(action="kill", **more):
    return Fault(action=action, round=3, phase="MASKED", role="aggregator", **more)


@pytest.fixture
def three(tmp_path):
    names = ("Ada", "Bruno", "Chidi")
    for name in names:
        (tmp_path / name).mkdir()
    return [Stopping(Device(name, "shard=1/3"), Home(tmp_path / name)) for name in names]


async def test_the_first_who_stops_is_killed_and_the_others_go_on(three):
    ada, bruno, chidi = three
    courses = [Course(fault())]
    ada.reach(0)
    bruno.reach(0)
    assert await meet(courses, three, 7.0, 4) == courses
    chidi.reach(0)
    assert await meet(courses, three, 8.0, 5) == []
    assert [each.met for each in three] == [["crashed"], ["went on"], ["went on"]]
    assert (courses[0].daemon, courses[0].at_s, courses[0].at_round) == (ada, 7.0, 4)
    assert not [file for each in three for file in each.home.path.glob("fault.*")]


async def test_nobody_is_told_to_go_on_before_it_stands_still(three):
    """Said in between, it would be lost, and the daemon would stand still for ever."""
    ada, bruno, _ = three
    courses = [Course(fault())]
    ada.reach(0)
    await meet(courses, three, 1.0, 3)
    bruno.reach(0)
    bruno.stopped = False
    await meet(courses, three, 1.1, 3)
    assert bruno.met == []
    bruno.stopped = True
    await meet(courses, three, 1.2, 3)
    assert bruno.met == ["went on"]


async def test_a_pause_leaves_the_device_standing_until_its_time_is_over(three):
    courses = [Course(fault("pause", for_s=2.0))]
    three[0].reach(0)
    await meet(courses, three, 10.0, 3)
    assert three[0].stopped
    assert not courses[0].due(11.9, 9, idle=True)
    assert courses[0].due(12.0, 3, idle=False)
    courses[0].over_s = 12.0
    assert not courses[0].due(13.0, 9, idle=True)


async def test_two_faults_at_one_point_take_one_device_each(three):
    ada, bruno, _ = three
    courses = [Course(fault()), Course(fault())]
    ada.reach(0, 1)
    bruno.reach(0, 1)
    await meet(courses, three, 1.0, 3)
    assert [course.daemon for course in courses] == [ada, bruno]


def test_a_restart_counts_rounds_from_the_crash_and_waits_for_none_that_cannot_come():
    course = Course(fault("restart", after_rounds=4))
    assert not course.due(0.0, 100, idle=True)
    course.daemon, course.at_round = object(), 5
    assert course.unfinished
    assert not course.due(99.0, 8, idle=False)
    assert course.due(99.0, 9, idle=False)
    assert course.due(99.0, 6, idle=True)


def test_a_restart_after_seconds_waits_them_out_even_if_nothing_moves():
    course = Course(fault("restart", after_s=5.0), daemon=object(), at_s=1.0)
    assert not course.due(5.9, 100, idle=True)
    assert course.due(6.0, 0, idle=False)


def test_the_killed_are_not_unfinished_and_the_report_says_what_never_happened():
    course = Course(fault(), daemon=object())
    assert not course.unfinished
    assert Course(fault()).report().device is None
