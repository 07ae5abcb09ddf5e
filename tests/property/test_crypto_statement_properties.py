"""Hashes, signatures, Merkle paths and t-of-n certificates: what nobody may be able to bend."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.agreement import KeyPair, pair_info
from crypto.certificates import certify, statement_holds
from crypto.half_aggregation import HalfAggregate, holds, summable
from crypto.hashing import digest
from crypto.identity import Identity, peer_id, public_key_of, verify
from crypto.merkle import path, root, root_from

KEYS = st.binary(min_size=32, max_size=32)
PARTS = st.lists(st.binary(max_size=20), max_size=5)


@functools.cache
def device(number):
    return Identity(bytes([number]) * 32)


@given(one=PARTS, other=PARTS)
def test_two_lists_of_parts_never_share_a_digest(one, other):
    assert (digest("x", *one) == digest("x", *other)) == (one == other)


@given(key=KEYS)
def test_a_peer_id_spells_out_its_key(key):
    name = peer_id(key)
    assert name.startswith("12D3KooW")
    assert public_key_of(name) == key


@given(text=st.text(max_size=60))
def test_any_other_text_is_refused_as_a_peer_id(text):
    with pytest.raises(ValueError, match="peer id"):
        public_key_of(text)


@given(
    key=st.binary(max_size=40),
    domain=st.text(max_size=10),
    message=st.binary(),
    signature=st.binary(max_size=70),
)
def test_verifying_rubbish_is_false_and_never_raises(key, domain, message, signature):
    assert not verify(key, domain, message, signature)


@given(one=KEYS, other=KEYS, salt=st.binary(max_size=32))
def test_two_members_reach_one_secret(one, other, salt):
    a, b = KeyPair(one), KeyPair(other)
    info, same_info = pair_info(a.public, b.public), pair_info(b.public, a.public)
    assert a.derive(b.public, salt=salt, info=info) == b.derive(a.public, salt=salt, info=same_info)


@given(leaves=st.lists(st.binary(max_size=10), min_size=1, max_size=40), data=st.data())
def test_a_path_proves_one_leaf_at_one_place(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, trusted = path(leaves, index), root(leaves)
    assert root_from(leaves[index], index, len(leaves), proof) == trusted
    assert root_from(leaves[index] + b"!", index, len(leaves), proof) != trusted

    other = data.draw(st.integers(0, len(leaves) - 1))
    if other != index:
        try:
            assert (
                root_from(leaves[index], other, len(leaves), proof) != trusted
                or leaves[other] == leaves[index]
            )
        except ValueError:
            assert len(path(leaves, other)) != len(proof)

    if proof:
        level, byte = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 31))
        changed = bytearray(proof[level])
        changed[byte] ^= 1
        bent = (*proof[:level], bytes(changed), *proof[level + 1 :])
        assert root_from(leaves[index], index, len(leaves), bent) != trusted


@given(leaves=st.lists(st.binary(max_size=4), min_size=1, max_size=20), data=st.data())
def test_a_root_changes_with_any_leaf_and_with_the_count(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves[:index], leaves[index] + b"!", *leaves[index + 1 :]]
    assert root(changed) != root(leaves)
    assert root([*leaves, leaves[-1]]) != root(leaves)


@given(n=st.integers(1, 9), data=st.data())
@settings(deadline=None)
def test_a_statement_holds_with_t_members_and_only_their_own_signatures(n, data):
    threshold = data.draw(st.integers(1, n))
    signers = sorted(data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True)))
    members = [device(number).public_key for number in range(n)]
    signatures = {signer: device(signer).sign("seal", b"this") for signer in signers}
    half = certify("seal", b"this", members, signatures)
    assert (len(half.commitments), len(half.scalar)) == (32 * len(signers), 32)
    assert statement_holds("seal", b"this", members, signers, half, threshold) == (len(signers) >= threshold)

    foreign = device(200).sign("seal", b"this")
    with pytest.raises(ValueError, match="does not hold"):
        certify("seal", b"this", members, {**signatures, data.draw(st.sampled_from(signers)): foreign})

    everything = half.commitments + half.scalar
    bit = data.draw(st.integers(0, 8 * len(everything) - 1))
    bent = (int.from_bytes(everything, "big") ^ 1 << bit).to_bytes(len(everything), "big")
    other = HalfAggregate(bent[:-32], bent[-32:])
    assert not statement_holds("seal", b"this", members, signers, other, 1)


@given(
    keys=st.lists(st.binary(max_size=33), max_size=3),
    domain=st.text(max_size=10),
    message=st.binary(max_size=20),
    commitments=st.binary(max_size=100),
    scalar=st.binary(max_size=33),
)
def test_a_half_aggregate_of_rubbish_is_false_and_never_raises(keys, domain, message, commitments, scalar):
    assert not holds(keys, domain, message, HalfAggregate(commitments, scalar))


@given(
    points=st.lists(st.binary(min_size=32, max_size=32), min_size=6, max_size=6),
    scalar=st.integers(1, 2**252),
)
def test_nor_does_rubbish_of_the_right_size(points, scalar):
    half = HalfAggregate(b"".join(points[:3]), scalar.to_bytes(32, "little"))
    assert not holds(points[3:], "seal", b"this", half)
    summable(points[0], points[1] + bytes(32))
