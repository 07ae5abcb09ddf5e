"""Merkle trees as in RFC 6962, section 2.1: one hash that stands for a list, and short proofs of its entries.

    MTH({d})  = SHA-256(0x00 || d)
    MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))     k the largest power of two below n

The two prefixes keep leaves and nodes apart, so that no node can be passed off as an entry (second preimages between
levels), and no entry is repeated to fill the tree, so that two lists never share a root. A root together with a count
commits to every entry and its place, as far as SHA-256 resists collisions. The count is not in the root: it has to come
from where the root came from, or be known.

A root hides its entries only if they cannot be guessed.
"""

import hashlib
from collections.abc import Sequence

NODE_BYTES = 32


def root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root over one or more leaves of any size. ValueError for none."""
    if not leaves:
        raise ValueError("a Merkle tree has at least one leaf")
    if len(leaves) == 1:
        return _leaf(leaves[0])
    split = _split(len(leaves))
    return _node(root(leaves[:split]), root(leaves[split:]))


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The sibling hashes from the leaf up to the root (the RFC's audit path). ValueError for a bad index."""
    siblings = []
    for is_right in _turns(index, len(leaves)):
        split = _split(len(leaves))
        left, right = leaves[:split], leaves[split:]
        siblings.append(root(left if is_right else right))
        leaves = right if is_right else left
    return tuple(reversed(siblings))


def root_from(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """The root of the only tree of `count` leaves with this leaf, at this index, under this path.

    It proves the leaf's place if it equals a root that is trusted. ValueError for an index outside the count and for a
    path of the wrong length or with a hash that is not 32 bytes.
    """
    turns = _turns(index, count)
    if len(path) != len(turns):
        raise ValueError(f"the path of leaf {index} of {count} has {len(turns)} hashes, not {len(path)}")
    if any(len(sibling) != NODE_BYTES for sibling in path):
        raise ValueError(f"a hash of a Merkle path is {NODE_BYTES} bytes")
    node = _leaf(leaf)
    for is_right, sibling in zip(reversed(turns), path, strict=True):
        node = _node(sibling, node) if is_right else _node(node, sibling)
    return node


def _turns(index: int, count: int) -> list[bool]:
    """From the root down to the leaf: whether it lies on the right."""
    if not 0 <= index < count:
        raise ValueError(f"a Merkle tree of {count} leaves has no leaf {index}")
    turns = []
    while count > 1:
        split = _split(count)
        is_right = index >= split
        turns.append(is_right)
        index, count = (index - split, count - split) if is_right else (index, split)
    return turns


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
