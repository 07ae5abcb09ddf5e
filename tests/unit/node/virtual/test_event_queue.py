"""The agenda of virtual time is a heap, whatever is added when."""

import heapq

from node.virtual.event_queue import SLOTS, Agenda
from node.virtual.randomness import Stream


def entry(at: float, number: int):
    return (at, number, print, ())


def test_it_gives_what_one_heap_would_give_also_of_what_comes_while_a_slot_is_under_way():
    chance, agenda, heap = Stream("agenda"), Agenda(), []
    now, number = 0.0, 0
    for each in (agenda.add, lambda first: heapq.heappush(heap, first)):
        each(entry(0.0, number))
    for until_s in (0.1, 0.5, 0.5, 1.7, 3.0, 40.0):
        for taken in agenda.take(until_s):
            assert taken == heapq.heappop(heap)
            assert taken[0] <= until_s
            now = taken[0]
            for _ in range(int(chance.uniform(0, 4)) if number < 4000 else 0):
                number += 1
                delay_s = chance.uniform(0, 3) ** 4 / SLOTS if chance.uniform(0, 1) < 0.8 else 0.0
                agenda.add(entry(now + delay_s, number))
                heapq.heappush(heap, entry(now + delay_s, number))
        assert not heap or heap[0][0] > until_s
        now = until_s
    assert number >= 4000
    assert heap == []


def test_what_is_not_due_stays():
    agenda = Agenda()
    agenda.add(entry(7.0, 1))
    assert list(agenda.take(6.9)) == []
    agenda.add(entry(6.95, 2))
    agenda.add(entry(7.0, 0))
    assert [number for _, number, *_ in agenda.take(7.0)] == [2, 0, 1]
    assert list(agenda.take(99.0)) == []


def test_who_stops_in_the_middle_may_go_on_later():
    agenda = Agenda()
    for number in range(4):
        agenda.add(entry(number / 100, number))
    assert next(agenda.take(9.0))[1] == 0
    agenda.add(entry(0.005, 9))
    assert [number for _, number, *_ in agenda.take(9.0)] == [9, 1, 2, 3]
