import hashlib

import pytest

from crypto.merkle import path, root, root_from

# The leaves and roots with which Certificate Transparency's own implementations test RFC 6962.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(1, 9))
def test_known_roots(count):
    assert root(LEAVES[:count]).hex() == ROOTS[count - 1]


def test_a_known_path():
    assert [sibling.hex() for sibling in path(LEAVES, 0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_the_last_of_an_odd_number_has_a_shorter_path():
    leaves = LEAVES[:5]
    assert path(leaves, 4) == (root(leaves[:4]),)
    assert root_from(leaves[4], 4, 5, path(leaves, 4)) == root(leaves)


def test_a_single_leaf_is_its_own_proof():
    assert path([b"leaf"], 0) == ()
    assert root_from(b"leaf", 0, 1, ()) == root([b"leaf"]) == hashlib.sha256(b"\0leaf").digest()


def test_a_node_cannot_be_passed_off_as_a_leaf():
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    assert root([b"a", b"b"]) != root([left + right])
    assert root([b"a", b"b", b"c"]) != root([left + right, b"c"])


def test_no_leaf_and_no_place_outside_the_tree():
    with pytest.raises(ValueError, match="at least one"):
        root([])
    for index in (-1, 3):
        with pytest.raises(ValueError, match="no leaf"):
            path(LEAVES[:3], index)
        with pytest.raises(ValueError, match="no leaf"):
            root_from(LEAVES[0], index, 3, ())
    with pytest.raises(ValueError, match="no leaf"):
        root_from(LEAVES[0], 0, 0, ())


def test_a_path_of_the_wrong_length_is_refused():
    proof = path(LEAVES, 3)
    for wrong in (proof[:-1], (*proof, bytes(32)), ()):
        with pytest.raises(ValueError, match="has 3 hashes"):
            root_from(LEAVES[3], 3, 8, wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        root_from(LEAVES[3], 3, 8, (proof[0], proof[1], proof[2][:-1]))
    with pytest.raises(ValueError, match="hashes"):
        root_from(LEAVES[0], 0, 2**4000, proof)
