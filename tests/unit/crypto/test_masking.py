import itertools

import numpy as np
import pytest

from crypto.masking import (
    MAX_STREAM_BYTES,
    Lanes,
    Mask,
    Suite,
    _stream,
    add_vectors,
    apply_masks,
    keystream,
)

KEY = bytes(range(32))
SUITES = list(Suite)


def test_nist_sp_800_38a_f_5_5_ctr_aes_256():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    stream = _stream(key, bytes(range(0xF0, 0x100)), Suite.AES_256_CTR).update(bytes(64))
    assert bytes(p ^ s for p, s in zip(plaintext, stream, strict=True)).hex() == ciphertext


def test_rfc_8439_chacha20_block_with_its_nonce():
    # Section 2.3.2: counter 1, nonce 000000090000004a00000000.
    first_block = (1).to_bytes(4, "little") + bytes.fromhex("000000090000004a00000000")
    assert _stream(KEY, first_block, Suite.CHACHA20).update(bytes(64)).hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_rfc_8439_chacha20_keystream_without_a_nonce():
    # Appendix A.1, test vectors 1 and 2: key and nonce zero, blocks 0 and 1.
    assert keystream(bytes(32), 0, 128, Suite.CHACHA20).hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_the_aes_stream_is_the_cipher_over_a_counter_from_zero():
    # FIPS 197, C.3, encrypts 00112233..ff under KEY: with that as counter it is what CTR gives.
    counter = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert (
        _stream(KEY, counter, Suite.AES_256_CTR).update(bytes(16)).hex() == "8ea2b7ca516745bfeafc49904b496089"
    )
    assert keystream(KEY, 0, 16) == _stream(KEY, bytes(16), Suite.AES_256_CTR).update(bytes(16))
    # Zero block under the zero key: NIST AESAVS, KAT, AES-256.
    assert keystream(bytes(32), 0, 16).hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("suite", SUITES)
def test_the_counter_carries_beyond_32_bits_of_bytes(suite):
    far = 2**37 - 8
    assert keystream(KEY, far, 100, suite)[8:] == keystream(KEY, far + 8, 92, suite)
    assert keystream(KEY, 2**37, 64, suite) != keystream(KEY, 0, 64, suite)


@pytest.mark.parametrize("suite", SUITES)
def test_a_stream_has_an_end_and_no_byte_before_its_start(suite):
    assert len(keystream(KEY, MAX_STREAM_BYTES - 7, 7, suite)) == 7
    assert keystream(KEY, 5, 0, suite) == b""
    for offset, size in ((-1, 4), (0, -1), (MAX_STREAM_BYTES - 7, 8)):
        with pytest.raises(ValueError, match="a stream has bytes"):
            keystream(KEY, offset, size, suite)
    with pytest.raises(ValueError, match="32 bytes"):
        keystream(KEY[:16], 0, 4, suite)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_mask_is_the_stream_read_as_little_endian_lanes(suite, bits):
    lanes = Lanes(wide=3, narrow=40, narrow_bits=bits)
    vector = np.frombuffer(keystream(b"v" * 32, 0, lanes.size_bytes), np.uint8).copy()
    before, stream = vector.tobytes(), keystream(KEY, 0, lanes.size_bytes, suite)
    apply_masks(vector, lanes, [Mask(KEY, +1)], suite=suite)

    sizes = [4] * lanes.wide + [bits // 8] * lanes.narrow
    ends = list(itertools.accumulate(sizes))
    for start, end in zip([0, *ends], ends, strict=False):
        lane, pad = (int.from_bytes(data[start:end], "little") for data in (before, stream))
        assert int.from_bytes(vector.tobytes()[start:end], "little") == (lane + pad) % 2 ** (
            8 * (end - start)
        )

    apply_masks(vector, lanes, [Mask(KEY, -1)], suite=suite)
    assert vector.tobytes() == before


def test_a_cohort_of_three_hides_its_members_and_reveals_their_sum():
    lanes = Lanes(wide=1, narrow=4, narrow_bits=8)
    pairs = {(i, j): bytes([i, j]) * 16 for i, j in itertools.combinations(range(3), 2)}
    total, plain = lanes.zeros(), [np.array([i, -i, 7, -7], np.int8) for i in range(3)]
    for i, values in enumerate(plain):
        vector = lanes.zeros()
        lanes.wide_view(vector)[:] = 100 + i
        lanes.narrow_view(vector)[:] = values.view(np.uint8)
        bare = vector.tobytes()
        signs = {pair: +1 if i == pair[0] else -1 for pair in pairs if i in pair}
        apply_masks(vector, lanes, [Mask(pairs[pair], sign) for pair, sign in signs.items()])
        assert vector.tobytes() != bare
        add_vectors(total, vector, lanes)
    assert lanes.wide_view(total)[0] == 303
    assert lanes.narrow_view(total).view(np.int8).tolist() == [3, -3, 21, -21]


def test_sums_wrap_in_their_own_lane_and_leave_the_next_alone():
    lanes = Lanes(wide=1, narrow=2, narrow_bits=16)
    one = np.frombuffer(b"\xff\xff\xff\xff\xff\xff\x00\x00", np.uint8)
    total = np.frombuffer(b"\x02\x00\x00\x00\x01\x00\x05\x00", np.uint8).copy()
    add_vectors(total, one, lanes)
    assert total.tobytes() == b"\x01\x00\x00\x00\x00\x00\x05\x00"


def test_views_share_the_vectors_memory():
    lanes = Lanes(wide=2, narrow=3, narrow_bits=16)
    vector = lanes.zeros()
    assert vector.size == lanes.size_bytes == 14
    lanes.wide_view(vector)[1] = 0x01020304
    lanes.narrow_view(vector)[0] = 0x0506
    assert vector.tobytes() == bytes(4) + b"\x04\x03\x02\x01" + b"\x06\x05" + bytes(4)


def test_a_vector_need_not_lie_at_a_multiple_of_its_lanes():
    lanes = Lanes(wide=5, narrow=9, narrow_bits=32)
    aligned, shifted = lanes.zeros(), np.zeros(lanes.size_bytes + 1, np.uint8)[1:]
    for vector in (aligned, shifted):
        apply_masks(vector, lanes, [Mask(KEY, -1)], chunk_bytes=12)
    assert aligned.tobytes() == shifted.tobytes()


def test_nothing_to_mask_is_no_mistake():
    nothing = Lanes(wide=0, narrow=0, narrow_bits=8)
    apply_masks(nothing.zeros(), nothing, [Mask(KEY, +1)])
    lanes = Lanes(wide=1, narrow=1, narrow_bits=8)
    vector = lanes.zeros()
    apply_masks(vector, lanes, [])
    assert not vector.any()


@pytest.mark.parametrize(
    "unfit",
    [
        np.zeros(7, np.uint8),
        np.zeros(9, np.uint8),
        np.zeros(8, np.int8),
        np.zeros(2, np.uint32),
        np.zeros((1, 8), np.uint8),
        np.zeros(16, np.uint8)[::2],
    ],
    ids=["short", "long", "int8", "uint32", "two-dimensional", "strided"],
)
def test_an_unfit_vector_is_refused_and_nothing_changes(unfit):
    lanes = Lanes(wide=1, narrow=4, narrow_bits=8)
    total = lanes.zeros()
    for attempt in (
        lambda: apply_masks(unfit, lanes, [Mask(KEY, +1)]),
        lambda: add_vectors(total, unfit, lanes),
        lambda: add_vectors(unfit, total, lanes),
        lambda: lanes.wide_view(unfit),
        lambda: lanes.narrow_view(unfit),
    ):
        with pytest.raises(ValueError, match="vector"):
            attempt()
    assert not unfit.any()
    assert not total.any()


def test_a_vector_that_may_not_be_written_is_refused():
    lanes = Lanes(wide=1, narrow=4, narrow_bits=8)
    received = np.frombuffer(bytes(8), np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        apply_masks(received, lanes, [Mask(KEY, +1)])
    with pytest.raises(ValueError, match="read-only"):
        add_vectors(received, lanes.zeros(), lanes)


def test_lanes_and_masks_out_of_range_are_refused():
    for wide, narrow, bits in ((-1, 0, 8), (0, -1, 8), (0, 1, 24), (0, 1, 0), (0, 2**38 + 1, 8)):
        with pytest.raises(ValueError, match=r"lane|bytes"):
            Lanes(wide, narrow, bits)
    for key, sign in ((bytes(16), 1), (KEY, 0), (KEY, 2)):
        with pytest.raises(ValueError, match="mask's"):
            Mask(key, sign)
    lanes = Lanes(wide=1, narrow=0, narrow_bits=8)
    with pytest.raises(ValueError, match="chunk"):
        apply_masks(lanes.zeros(), lanes, [], chunk_bytes=3)


def test_a_masks_key_is_never_printed():
    assert repr(Mask(KEY, -1)) == "Mask(sign=-1)"
