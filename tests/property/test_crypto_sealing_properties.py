import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.sealing import OVERHEAD_BYTES, seal, unseal

KEYS = st.binary(min_size=32, max_size=32)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(key=KEYS, plaintext=st.binary(max_size=200), context=st.binary(max_size=40))
def test_what_was_sealed_comes_out(key, plaintext, context):
    box = seal(key, plaintext, context)
    assert len(box) == len(plaintext) + OVERHEAD_BYTES
    assert unseal(key, box, context) == plaintext


@given(key=KEYS, plaintext=st.binary(max_size=40), context=st.binary(max_size=20), data=st.data())
def test_any_flipped_bit_is_refused(key, plaintext, context, data):
    box = seal(key, plaintext, context)
    parts = [key, box, context]
    which = data.draw(st.sampled_from([i for i, part in enumerate(parts) if part]))
    parts[which] = flipped(parts[which], data.draw(st.integers(0, 8 * len(parts[which]) - 1)))
    with pytest.raises(ValueError, match="envelope"):
        unseal(*parts)
