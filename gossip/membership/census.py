"""How many members there are, by a few hashes that every device hands on."""

from crypto.hashing import digest
from gossip.membership.messages import CENSUS_BYTES
from gossip.memo import Remembered

CENSUS = 16  # hashes
HASHES_KEPT = 1024  # of members, each of whom many neighbours tell of
SIZE_MAX = 1 << 20  # of a swarm, as far as anybody's word goes


def _census_hash(swarm: bytes, peer: bytes) -> bytes:
    return digest("census", swarm, peer)[:CENSUS_BYTES]


census_hash = Remembered(_census_hash, HASHES_KEPT)


class Census:
    """About how many members there are, from the smallest of their hashes alone (k minimum values: Bar-Yossef et al.,
    "Counting distinct elements in a data stream", RANDOM 2002): off by a quarter, and the same size for any number.

    Whoever lies makes a swarm look larger than it is, at most SIZE_MAX, and nobody can make it look smaller.
    """

    def __init__(self) -> None:
        self.least: list[bytes] = []  # ascending, at most CENSUS of them
        self.told = b""  # the same, as a neighbour is told

    def count(self, swarm: bytes, peer: bytes) -> None:
        counted = census_hash.call(swarm, peer)
        if (len(self.least) < CENSUS or counted < self.least[-1]) and counted not in self.least:
            self.merge(counted)

    def merge(self, told: bytes) -> bool:
        """Take in what a neighbour counted; whether that was news."""
        if told == self.told:
            return False
        each = {told[at : at + CENSUS_BYTES] for at in range(0, len(told), CENSUS_BYTES)}
        news = each.difference(self.least)
        if not news or (len(self.least) == CENSUS and min(news) > self.least[-1]):
            return False
        self.least = sorted({*self.least, *each})[:CENSUS]
        self.told = b"".join(self.least)
        return True

    def estimate(self) -> int:
        if len(self.least) < CENSUS:
            return len(self.least)
        largest = int.from_bytes(self.least[-1], "big") + 1
        return min(SIZE_MAX, ((CENSUS - 1) << 8 * CENSUS_BYTES) // largest)
