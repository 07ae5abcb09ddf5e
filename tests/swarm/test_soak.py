"""A share of `python -m tests.soak`: a real daemon takes hostile messages of certified members over libp2p, and goes on."""

import pytest

from tests.soak import MIB, soak

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

MESSAGES = 20_000
GROWS_BYTES = 64 * MIB


async def test_a_daemon_takes_hostile_messages_and_neither_grows_nor_ends(tmp_path):
    told = await soak(tmp_path, messages=MESSAGES, quiet_s=5.0, at_least_s=25.0)  # it is shunned for 10 s
    assert sum(told.sent.values()) >= MESSAGES
    assert min(told.sent.values()) > 0
    assert told.faults == 0
    assert told.rss_most - told.rss_before <= GROWS_BYTES, str(told)
    assert told.connections > 2, "whoever says garbage was cut off, and came back"
