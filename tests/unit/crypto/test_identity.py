import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from crypto import identity as identity_module
from crypto.identity import PARSED_KEYS_KEPT, Identity, _parsed, peer_id, public_key_of, verify

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
L = 2**252 + 27742317777372353535851937790883648493

# RFC 8032, 7.1: seed, public key, message, signature of TEST 1, 2 and 3.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_rfc_8032_vectors_hold_for_the_key_we_sign_with(seed, public_key, message, signature):
    identity = Identity(bytes.fromhex(seed))
    assert identity.public_key.hex() == public_key
    assert identity._key.sign(bytes.fromhex(message)).hex() == signature
    _parsed(identity.public_key).verify(bytes.fromhex(signature), bytes.fromhex(message))


def test_what_is_signed_is_prefix_domain_nul_message():
    alice = Identity(bytes(32))
    assert alice.sign("ready", b"hello") == alice._key.sign(b"gossamer/1/ready\0hello")


def test_a_signature_holds_for_one_key_one_domain_and_one_message():
    alice, bob = Identity(b"a" * 32), Identity(b"b" * 32)
    signature = alice.sign("ready", b"hello")
    assert verify(alice.public_key, "ready", b"hello", signature)
    assert not verify(bob.public_key, "ready", b"hello", signature)
    assert not verify(alice.public_key, "seal", b"hello", signature)
    assert not verify(alice.public_key, "ready", b"hello!", signature)
    assert not verify(alice.public_key, "ready", b"hello", signature[:-1] + bytes([signature[-1] ^ 1]))


def test_a_domain_cannot_reach_into_the_message():
    alice = Identity(bytes(32))
    with pytest.raises(ValueError, match="NUL"):
        alice.sign("ready\0x", b"hello")
    assert not verify(alice.public_key, "ready\0x", b"hello", alice.sign("ready", b"x\0hello"))


def test_whatever_is_malformed_is_no_signature():
    alice = Identity(bytes(32))
    signature = alice.sign("ready", b"")
    for public_key in (b"", alice.public_key[:-1], alice.public_key + b"\0", b"\2" + bytes(31)):
        assert not verify(public_key, "ready", b"", signature)
    for wrong in (b"", signature[:-1], signature + b"\0"):
        assert not verify(alice.public_key, "ready", b"", wrong)


def test_nobody_can_turn_a_signature_into_a_second_one():
    alice = Identity(bytes(32))
    signature = alice.sign("ready", b"hello")
    s_plus_order = int.from_bytes(signature[32:], "little") + L
    assert not verify(
        alice.public_key, "ready", b"hello", signature[:32] + s_plus_order.to_bytes(32, "little")
    )


def edwards_sum(one, other):
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P,
    )


def square_root(square):
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    assert root * root % P == square
    return root


def points_of_small_order():
    """All eight, as the multiples of a point of order 8.

    Its double has order 4, so its y is zero: x^2 + y^2 = 0. With the curve's -x^2 + y^2 = 1 + d x^2 y^2 that leaves
    d y^4 + 2 y^2 = 1, of whose two solutions for y^2 one is a square.
    """
    root = square_root((1 + D) % P)
    solutions = [(sign * root - 1) * pow(D, -1, P) % P for sign in (1, -1)]
    [y] = [square_root(solution) for solution in solutions if pow(solution, (P - 1) // 2, P) == 1]
    generator = (square_root(P - 1) * y % P, y)
    points = [(0, 1)]
    while (point := edwards_sum(points[-1], generator)) != (0, 1):
        points.append(point)
    return points


def encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def test_no_key_of_small_order_can_sign_anything():
    points = points_of_small_order()
    assert len(points) == 8
    for point in points:
        with pytest.raises(ValueError, match="small order"):
            _parsed(encode(point))
    neutral = encode((0, 1))
    assert not verify(neutral, "ready", b"anything", neutral + bytes(32))


def test_a_point_has_only_one_encoding():
    above_p = [y.to_bytes(32, "little") for y in (P, P + 1, P + 18)]
    minus_zero = (1 | 1 << 255).to_bytes(32, "little")
    for public_key in (*above_p, b"\xff" * 32, minus_zero):
        with pytest.raises(ValueError, match="public key is"):
            _parsed(public_key)


def test_strangers_cannot_grow_the_cache_of_parsed_keys():
    _parsed.cache_clear()
    for number in range(2, PARSED_KEYS_KEPT + 50):
        verify(number.to_bytes(32, "little"), "ready", b"", bytes(64))
    assert _parsed.cache_info().currsize == PARSED_KEYS_KEPT


def test_a_seed_is_32_bytes_and_is_never_printed():
    seed = bytes(range(32))
    alice = Identity(seed)
    assert alice.seed == seed
    assert repr(alice) == f"Identity({alice.peer_id})"
    with pytest.raises(ValueError, match="32 bytes"):
        Identity(seed[:-1])


def test_the_ed25519_key_of_the_libp2p_specification_has_its_known_name():
    identity = Identity(bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"))
    # libp2p specs, peer-ids.md, test vectors.
    assert identity.public_key.hex() == "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    assert identity.peer_id == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def test_libp2p_gives_every_key_the_same_name():
    for number in range(20):
        seed = bytes([number]) * 32
        pair = create_new_key_pair(seed)
        identity = Identity(seed)
        assert identity.public_key == pair.public_key.to_bytes()
        assert identity.peer_id == ID.from_pubkey(pair.public_key).to_base58()
        assert public_key_of(identity.peer_id) == identity.public_key


@pytest.mark.parametrize("public_key", [bytes(32), b"\xff" * 32])
def test_the_lowest_and_the_highest_key_can_be_read_back(public_key):
    assert public_key_of(peer_id(public_key)) == public_key


def test_a_name_that_is_no_ed25519_peer_id_is_refused():
    name = Identity(bytes(32)).peer_id
    rsa = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
    for text in ("", name[:-1], name + "1", "1" + name, "z" * 52, rsa):
        with pytest.raises(ValueError, match="52 characters"):
            public_key_of(text)
    for character in "0OIl \u00e9":
        with pytest.raises(ValueError, match="base58"):
            public_key_of(name[:-1] + character)
    for text in ("1" * 52, "1" + "z" * 51, "12D3KooX" + name[8:]):
        with pytest.raises(ValueError, match="does not hold"):
            public_key_of(text)
    with pytest.raises(ValueError, match="32 bytes"):
        peer_id(bytes(31))


def test_a_verification_that_held_is_remembered_for_exactly_what_was_verified():
    """The memo is a pure function's: another key, domain, message or signature is another question."""
    alice, bob = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))
    signature = alice.sign("seal", b"message")
    for _ in range(2):
        assert verify(alice.public_key, "seal", b"message", signature)
        assert not verify(bob.public_key, "seal", b"message", signature)
        assert not verify(alice.public_key, "vote", b"message", signature)
        assert not verify(alice.public_key, "seal", b"messages", signature)
        assert not verify(alice.public_key, "seal", b"message", bytes(64))
        assert not verify(alice.public_key + signature[:1], "seal", b"message", signature[1:])
    before = identity_module._held.cache_info().currsize
    for number in range(50):
        assert not verify(alice.public_key, "seal", bytes([number]), signature)
    assert identity_module._held.cache_info().currsize == before, "what fails takes no place"
    assert identity_module._held.cache_info().maxsize == identity_module.HELD_KEPT
