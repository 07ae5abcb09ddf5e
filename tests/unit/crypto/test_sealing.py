import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305

from crypto.masking import Suite, keystream
from crypto.sealing import OVERHEAD_BYTES, envelope_info, seal, unseal

KEY = bytes(range(0x80, 0xA0))


def test_rfc_8439_aead_vector_holds_for_the_primitive():
    # Section 2.8.2.
    box = ChaCha20Poly1305(KEY).encrypt(
        bytes.fromhex("070000004041424344454647"),
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it.",
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert box.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )


def test_an_envelope_is_the_rfc_8439_construction_under_nonce_zero():
    plaintext, context = b"a share of a secret", b"cohort"
    pad = keystream(KEY, 64, len(plaintext), Suite.CHACHA20)
    ciphertext = bytes(p ^ s for p, s in zip(plaintext, pad, strict=True))
    padded = context.ljust(16, b"\0") + ciphertext.ljust(32, b"\0")
    lengths = len(context).to_bytes(8, "little") + len(ciphertext).to_bytes(8, "little")
    tag = Poly1305.generate_tag(keystream(KEY, 0, 32, Suite.CHACHA20), padded + lengths)
    assert seal(KEY, plaintext, context) == ciphertext + tag


def test_only_the_same_key_and_context_open_an_envelope():
    box = seal(KEY, b"share", b"cohort")
    assert len(box) == len(b"share") + OVERHEAD_BYTES
    assert unseal(KEY, box, b"cohort") == b"share"
    for key, wrong, context in (
        (bytes(32), box, b"cohort"),
        (KEY, box, b"cohorts"),
        (KEY, box[:-1], b"cohort"),
        (KEY, box + b"\0", b"cohort"),
        (KEY, b"", b"cohort"),
    ):
        with pytest.raises(ValueError, match="envelope"):
            unseal(key, wrong, context)


def test_a_key_is_32_bytes():
    with pytest.raises(ValueError, match="32 bytes"):
        seal(KEY[:-1], b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        unseal(KEY[:-1], bytes(16), b"")


def test_each_direction_has_its_own_info():
    alice, bob = b"\1" * 32, b"\2" * 32
    assert envelope_info(alice, bob) == b"gossamer/1/envelope" + alice + bob
    assert envelope_info(alice, bob) != envelope_info(bob, alice)
    for sender, receiver in ((alice[:-1], bob), (alice, bob + b"\0")):
        with pytest.raises(ValueError, match="32 bytes"):
            envelope_info(sender, receiver)
