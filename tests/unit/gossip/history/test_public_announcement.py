"""A device says in public what it learns of, if its settings say so, and nothing else."""

import pytest

from crypto.hashing import digest
from gossip.errors import PeerViolation
from gossip.events import TellGuests
from gossip.history.public_announcement import NAMED_MAX, PublicAnnouncement, announcements, topic_of
from gossip.membership.view import Settings
from gossip.wire import unpack
from tests.simulation import harness

BYTES_MAX = 4096


def opened(data: bytes) -> PublicAnnouncement:
    return unpack(data, PublicAnnouncement, limit_bytes=BYTES_MAX)


@pytest.mark.parametrize("count", [0, 1, NAMED_MAX, NAMED_MAX + 1, 3 * NAMED_MAX])
def test_announcements_name_everything_once_and_in_order(count):
    ids = [digest("id", bytes([number])) for number in range(count)]
    told = [opened(data) for data in announcements(7, ids)]
    assert [each for one in told for each in one.aggregates] == ids
    assert len(told) == -(-count // NAMED_MAX)
    assert {one.round for one in told} <= {7}


def test_an_announcement_is_these_bytes():
    [data] = announcements(300, [b"\x07" * 32])
    assert data == b"\x93\x01\xcd\x01\x2c\x91\xc4\x20" + b"\x07" * 32
    with pytest.raises(PeerViolation):
        opened(data.replace(b"\x93\x01", b"\x93\x02"))


def test_the_topic_is_the_swarms():
    assert topic_of(b"\xab" * 32) == f"gossamer/1/{'ab' * 32}/public"


def test_only_who_is_told_to_speaks_and_it_names_what_it_holds(monkeypatch):
    def settings(addresses, *others, **more):
        return Settings(addresses, *others, **more, public=addresses == ("sim/0",))

    monkeypatch.setattr(harness, "Settings", settings)
    told: dict[int, list[PublicAnnouncement]] = {}

    class Listening(harness.World):
        def _do(self, device, action):
            if isinstance(action, TellGuests):
                told.setdefault(device.index, []).append(opened(action.data))
            else:
                super()._do(device, action)

    world = Listening(3, 5)
    assert world.run(120, until=lambda: min(world.rounds()) >= 4)
    assert list(told) == [0]
    named = [identity for each in told[0] for identity in each.aggregates]
    assert len(named) == len(set(named))
    counting = {known["id"] for known in world.devices[0].core.aggregates()}
    assert len(counting) >= 4
    assert counting <= {identity.hex() for identity in named}
    assert all(world.devices[0].core._history.get(identity) for identity in named)
    rounds = [each.round for each in told[0]]
    assert rounds == sorted(rounds)
    assert rounds[-1] == world.devices[0].core.status(world.now)["round"]
