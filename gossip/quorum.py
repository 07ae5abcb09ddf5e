"""t of a cohort's n members: how many must sign, and how members are named and counted in bytes."""

import itertools
from collections.abc import Sequence

from gossip.errors import PeerViolation
from gossip.fields import INDEX_BYTES
from gossip.manifest import Manifest, PeerKey


def threshold(members: int) -> int:
    """How many of a cohort's members must sign; above half of them for every n >= 3."""
    return -(-3 * members // 4)


def spell_members(keys: Sequence[bytes], manifest: Manifest) -> tuple[bytes, ...]:
    """The names of members under which they stand in a body and in a roster; they ascend as their keys do.

    ValueError for a key that a swarm which lists its members does not list.
    """
    if manifest.admit != "members":
        return tuple(keys)
    return tuple(manifest.members.index(key).to_bytes(INDEX_BYTES, "big") for key in keys)


def read_members(names: Sequence[bytes], manifest: Manifest) -> tuple[PeerKey, ...]:
    """The keys that these names stand for; PeerViolation for names of the other kind and for places beyond the list."""
    size = INDEX_BYTES if manifest.admit == "members" else 32
    if {*map(len, names)} - {size}:
        raise PeerViolation(f"a member's name in this swarm is {size} bytes")
    if manifest.admit != "members":
        return tuple(names)
    places = [int.from_bytes(name, "big") for name in names]
    if any(place >= len(manifest.members) for place in places):
        raise PeerViolation("a member whom the manifest does not list")
    return tuple(manifest.members[place] for place in places)


def pack_members(indices: Sequence[int], size: int) -> bytes:
    """A bitmap over a roster: bit i % 8 of byte i // 8 is member i."""
    bits = bytearray(-(-size // 8))
    for index in indices:
        bits[index // 8] |= 1 << index % 8
    return bytes(bits)


def unpack_members(bitmap: bytes, size: int) -> list[int]:
    """Ascending indices; PeerViolation for a bitmap that is not exactly one over `size` members."""
    if len(bitmap) != -(-size // 8) or bitmap[-1] >> (size - 1) % 8 > 1:
        raise PeerViolation(f"a bitmap that does not fit {size} members")
    return [index for index in range(size) if bitmap[index // 8] >> index % 8 & 1]


def ascend(items: Sequence[bytes]) -> bool:
    """Whether each is above the one before it: sorted, and none twice."""
    return all(before < after for before, after in itertools.pairwise(items))
