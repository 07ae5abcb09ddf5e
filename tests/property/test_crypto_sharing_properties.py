import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.hashing import digest
from crypto.masking import keystream
from crypto.sharing import combine, split

SEEDS = st.binary(min_size=32, max_size=32)
ALL_BYTES = bytes(range(256))


def entropy_from(seed):
    return lambda size: keystream(digest("entropy", seed), 0, size)


@st.composite
def thresholds(draw):
    n = draw(st.integers(1, 40))
    return n, draw(st.integers(1, n))


@given(secret=st.binary(max_size=40), seed=SEEDS, n_t=thresholds(), data=st.data())
def test_any_t_shares_recover_the_secret(secret, seed, n_t, data):
    n, t = n_t
    shares = split(secret, n, t, entropy_from(seed))
    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(t, n))]
    assert combine({index: shares[index] for index in chosen}, t) == secret


@given(
    secret=st.integers(0, 255), seed=SEEDS, n_t=thresholds().filter(lambda n_t: n_t[1] > 1), data=st.data()
)
def test_one_share_short_every_secret_is_possible(secret, seed, n_t, data):
    n, t = n_t
    shares = split(bytes([secret]), n, t, entropy_from(seed))
    chosen = data.draw(st.permutations(range(n)))[:t]
    # All 256 values of the missing share at once: each byte of these strings is a sharing of its own.
    candidates = {index: shares[index] * 256 for index in chosen[1:]} | {chosen[0]: ALL_BYTES}
    assert sorted(combine(candidates, t)) == list(range(256))


@settings(max_examples=10)
@given(secret=st.integers(0, 255), pair=st.lists(st.integers(0, 9), min_size=2, max_size=2, unique=True))
def test_t_minus_1_shares_are_uniform_whatever_the_secret_is(secret, pair):
    # t = 3, one secret byte under each of the 65536 choices of its two coefficients.
    coefficients = list(itertools.product(range(256), repeat=2))
    first, second = (bytes(column) for column in zip(*coefficients, strict=True))
    shares = split(bytes([secret]) * 65536, 10, 3, lambda _: first + second)
    seen = set(zip(shares[pair[0]], shares[pair[1]], strict=True))
    assert len(seen) == 65536
