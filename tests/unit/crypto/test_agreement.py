import pytest

from crypto.agreement import KeyPair, _hkdf, is_weak, pair_info

# RFC 7748, 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_rfc_7748_diffie_hellman():
    alice, bob = KeyPair(ALICE), KeyPair(BOB)
    assert (alice.public, bob.public) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice._shared_point(bob.public) == bob._shared_point(alice.public) == SHARED
    assert KeyPair(ALICE).public == ALICE_PUBLIC


# RFC 7748, 5.2: scalar, u-coordinate, result.
@pytest.mark.parametrize(
    ("scalar", "u", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_rfc_7748_scalar_multiplication(scalar, u, result):
    assert KeyPair(bytes.fromhex(scalar))._shared_point(bytes.fromhex(u)).hex() == result


def test_rfc_7748_iterated():
    k = u = (9).to_bytes(32, "little")
    results = []
    for _ in range(1000):
        k, u = KeyPair(k)._shared_point(u), k
        results.append(k.hex())
    assert results[0] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert results[999] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


# RFC 5869, A.1 to A.3: secret, salt, info, output.
@pytest.mark.parametrize(
    ("secret", "salt", "info", "output"),
    [
        (
            b"\x0b" * 22,
            bytes(range(0x0D)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_rfc_5869_hkdf_sha_256(secret, salt, info, output):
    assert _hkdf(secret, salt, info, len(output) // 2).hex() == output


def test_both_sides_derive_the_hkdf_of_the_shared_point():
    for_alice = KeyPair(ALICE).derive(BOB_PUBLIC, salt=b"cohort", info=b"i", size=48)
    for_bob = KeyPair(BOB).derive(ALICE_PUBLIC, salt=b"cohort", info=b"i", size=48)
    assert for_alice == for_bob == _hkdf(SHARED, b"cohort", b"i", 48)


def test_salt_info_and_partner_each_make_another_key():
    alice, carol = KeyPair(ALICE), KeyPair(b"c" * 32)
    keys = [
        alice.derive(BOB_PUBLIC, salt=b"cohort", info=b"i"),
        alice.derive(BOB_PUBLIC, salt=b"cohorts", info=b"i"),
        alice.derive(BOB_PUBLIC, salt=b"cohort", info=b"j"),
        alice.derive(carol.public, salt=b"cohort", info=b"i"),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


# The points of order 1, 2, 4 and 8 on the curve and its twist (Bernstein, "Curve25519", the list for those who
# want contributory behaviour).
@pytest.mark.parametrize(
    "u",
    [
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
    ],
)
def test_a_low_order_public_key_is_refused(u):
    with pytest.raises(ValueError, match="low order"):
        KeyPair(ALICE).derive(u.to_bytes(32, "little"), salt=b"", info=b"")


def test_keys_of_a_wrong_size_are_refused():
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        KeyPair(bytes(31))
    with pytest.raises(ValueError, match="32 bytes, not 33"):
        KeyPair(ALICE).derive(bytes(33), salt=b"", info=b"")


def test_a_private_key_is_never_printed():
    assert repr(KeyPair(ALICE)) == f"KeyPair(public={ALICE_PUBLIC.hex()})"


def test_a_pair_has_one_info_from_both_sides():
    low, high = b"\1" * 32, b"\2" * 32
    assert pair_info(low, high) == pair_info(high, low) == b"gossamer/1/pair" + low + high
    for one, other in ((low[:-1], high), (low, high + b"\0")):
        with pytest.raises(ValueError, match="32 bytes"):
            pair_info(one, other)


@pytest.mark.parametrize("weak", [bytes(32), bytes([1]) + bytes(31), b"short", b"\x00" * 33])
def test_weak_public_keys_are_recognised(weak):
    assert is_weak(weak)
    assert not is_weak(KeyPair(bytes([5] * 32)).public)


# --- a pair from what is dealt --------------------------------------------------------------------------------


def test_a_mask_key_is_another_for_each_seed_and_owner():
    seeds, owners = (bytes(16), b"\1" * 16), (bytes(32), b"\1" * 32)
    pairs = [KeyPair.from_seed(seed, owner) for seed in seeds for owner in owners]
    assert len({pair.public for pair in pairs}) == 4
    assert KeyPair.from_seed(bytes(16), bytes(32)).private == _hkdf(
        bytes(16), b"", b"gossamer/1/mask key" + bytes(32), 32
    )


@pytest.mark.parametrize(
    ("seed", "owner"),
    [(bytes(15), bytes(32)), (bytes(17), bytes(32)), (bytes(16), bytes(31))],
)
def test_a_seed_of_another_shape_makes_no_key(seed, owner):
    with pytest.raises(ValueError, match="is"):
        KeyPair.from_seed(seed, owner)
