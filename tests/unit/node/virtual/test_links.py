"""What a virtual network does to bytes: it takes time, keeps their order, and counts them as a socket does."""

from itertools import pairwise
from statistics import mean

import pytest

from node.virtual.links import (
    RETRANSMIT_S,
    SEGMENT_BYTES,
    WRITE_BYTES,
    Link,
    Pipe,
    Port,
    retransmission_s,
)
from node.virtual.randomness import Stream

SLOW = Link(up_bit_s=1e6, down_bit_s=4e6, latency_s=0.03)
FAST = Link(up_bit_s=2e7, down_bit_s=1e8, latency_s=0.01)
MEGABIT = 125_000  # bytes


def test_an_uplink_sends_one_message_after_the_other():
    port = Port(SLOW)
    assert port.leaves(MEGABIT, 5.0) == pytest.approx(6.0)
    assert port.leaves(MEGABIT, 5.5) == pytest.approx(7.0)
    assert port.leaves(MEGABIT, 9.0) == pytest.approx(10.0)


def test_a_downlink_slower_than_the_senders_uplink_takes_longer():
    port = Port(SLOW)
    sent_within_s = 8 * MEGABIT / FAST.up_bit_s
    assert port.takes(MEGABIT, FAST, 5.0) == pytest.approx(5.0 - sent_within_s + 0.25)


def test_a_downlink_faster_than_the_senders_uplink_takes_no_time_of_its_own():
    assert Port(FAST).takes(MEGABIT, SLOW, 5.0) == 5.0


def test_many_senders_share_a_downlink():
    port = Port(SLOW)
    ends = [port.takes(MEGABIT, FAST, 5.0) for _ in range(4)]
    assert [after - before for before, after in pairwise(ends)] == pytest.approx([0.25] * 3)


def test_the_latency_of_two_devices_is_the_sum_of_theirs():
    pipe = Pipe(0, 1, (SLOW, FAST))
    assert pipe.arrives(2.0, 100, Stream("test")) == pytest.approx(2.04)


def test_jitter_and_loss_never_change_the_order():
    rough = Link(jitter_s=0.5, loss=0.2)
    pipe, chance = Pipe(0, 1, (rough, rough)), Stream("test", 1)
    arrivals = [pipe.arrives(0.01 * number, 2000, chance) for number in range(300)]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] > 3.0


def test_a_lost_segment_costs_a_time_out_that_doubles():
    always = Stream("test", 2)
    always.uniform = lambda low, high: 0.0 if always.left() else high
    left = iter([True, True, False])
    always.left = lambda: next(left)
    assert retransmission_s(100, 0.1, always) == pytest.approx(RETRANSMIT_S + 2 * RETRANSMIT_S)


def test_the_delay_grows_with_loss_and_with_the_number_of_segments():
    def delay_s(size, loss):
        chance = Stream("test", 3)
        return mean(retransmission_s(size, loss, chance) for _ in range(2000))

    assert delay_s(100, 0.05) == pytest.approx(0.05 * RETRANSMIT_S, rel=0.4)
    assert delay_s(10 * SEGMENT_BYTES, 0.05) > 5 * delay_s(100, 0.05)
    assert delay_s(100, 0.2) > 2 * delay_s(100, 0.05)


def test_messages_of_one_moment_leave_in_one_write():
    pipe = Pipe(0, 1, (FAST, FAST))
    assert pipe.size_of(100, 1.0) == 100 + 4 + WRITE_BYTES
    assert pipe.size_of(100, 1.0) == 100 + 4
    assert pipe.size_of(100, 1.1) == 100 + 4 + WRITE_BYTES
    assert pipe.size_of(200_000, 1.2) == 200_000 + 4 + 4 * WRITE_BYTES


def test_chance_is_the_same_for_the_same_end_and_no_other():
    assert Stream("device", 1, 2)(40) == Stream("device", 1, 2)(40)
    assert Stream("device", 1, 2)(40) != Stream("device", 12)(40)
    stream = Stream("device", 1)
    assert stream(32) != stream(32)
    assert mean(stream.uniform(2.0, 4.0) for _ in range(2000)) == pytest.approx(3.0, abs=0.05)
