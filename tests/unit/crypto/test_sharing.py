import itertools
import math
import random

import numpy as np
import pytest

from crypto.hashing import digest
from crypto.sharing import _PRODUCTS, ATTEMPTS_MAX, _choices, _weights_at_zero, combine, recover, split
from gossip.manifest import COHORT_MAX


def entropy_of(data):
    return lambda size: data[:size]


def product(one, other):
    """Multiplication as FIPS 197, 4.2, defines it: shift and add, reduced by x^8 + x^4 + x^3 + x + 1."""
    result = 0
    while other:
        if other & 1:
            result ^= one
        one = one << 1 ^ (0x11B if one & 0x80 else 0)
        other >>= 1
    return result


def test_known_products_of_the_aes_field():
    assert _PRODUCTS[0x57, 0x83] == 0xC1  # FIPS 197, 4.2
    assert _PRODUCTS[0x57, 0x13] == 0xFE  # FIPS 197, 4.2.1
    assert _PRODUCTS[0x53, 0xCA] == 0x01


def test_every_product_is_the_polynomial_one():
    assert _PRODUCTS.tolist() == [[product(one, other) for other in range(256)] for one in range(256)]


def test_shares_are_the_values_of_the_polynomial():
    # f(x) = 2a + 01 x + 80 x^2, at x = 1, 2, 3.
    shares = split(b"\x2a", 3, 3, entropy_of(b"\x01\x80"))
    assert [share[0] for share in shares] == [
        0x2A ^ product(0x01, x) ^ product(0x80, product(x, x)) for x in (1, 2, 3)
    ]
    assert combine(dict(enumerate(shares)), 3) == b"\x2a"


def test_exactly_the_lowest_indices_count():
    shares = dict(enumerate(split(b"secret", 5, 3, entropy_of(bytes(range(100, 200))))))
    unused = {**shares, 3: b"broken", 4: b"broken"}
    assert combine(unused, 3) == b"secret"
    reordered = {index: unused[index] for index in (4, 2, 3, 0, 1)}
    assert combine(reordered, 3) == b"secret"
    assert combine({**shares, 2: b"broken"}, 3) != b"secret"


def test_a_threshold_of_one_gives_the_secret_to_everybody():
    assert split(b"secret", 3, 1, entropy_of(b"")) == [b"secret"] * 3


def test_255_shares_are_the_most():
    secret = bytes(range(32))
    shares = split(secret, 255, 255, entropy_of(b"\xa5\x3c\x01" * 4000))
    assert combine(dict(enumerate(shares)), 255) == secret


def test_entropy_is_asked_once_for_all_coefficients():
    asked = []

    def entropy(size):
        asked.append(size)
        return bytes(size)

    split(bytes(32), 8, 6, entropy)
    assert asked == [5 * 32]


def test_splitting_is_refused_outside_its_range():
    for n, t in ((3, 0), (3, 4), (0, 0), (256, 2)):
        with pytest.raises(ValueError, match="1 <= t <= n <= 255"):
            split(b"secret", n, t, bytes)
    with pytest.raises(ValueError, match="entropy gave 3 bytes"):
        split(b"secret", 3, 2, entropy_of(b"abc"))


def test_combining_is_refused_without_enough_fitting_shares():
    shares = dict(enumerate(split(b"secret", 4, 3, bytes)))
    with pytest.raises(ValueError, match="2 of 3 shares"):
        combine({0: shares[0], 1: shares[1]}, 3)
    with pytest.raises(ValueError, match="one length"):
        combine({**shares, 3: b"short"}, 3)
    for index in (-1, 255):
        with pytest.raises(ValueError, match="index"):
            combine({**shares, index: shares[0]}, 3)
    for t in (0, 256):
        with pytest.raises(ValueError, match="threshold"):
            combine(shares, t)


# --- shares of which some are lies ----------------------------------------------------------------------------

SECRET = bytes(range(16))


def dealt(n, t):
    return dict(enumerate(split(SECRET, n, t, random.Random(n).randbytes)))


def with_lies(shares, liars):
    return {i: digest("lie", bytes([i]))[:16] if i in liars else share for i, share in shares.items()}


@pytest.mark.parametrize("n", [4, 5, 8, 11, 16])
def test_the_secret_is_found_whoever_lies_as_long_as_t_do_not(n):
    t = -(-3 * n // 4)
    shares, rng = dealt(n, t), random.Random(n)
    worst = [list(range(n - t)), list(range(t, n)), [0], []]
    for liars in [*worst, *(sorted(rng.sample(range(n), n - t)) for _ in range(10))]:
        assert recover(with_lies(shares, liars), t, SECRET.__eq__) == (SECRET, liars)
    assert recover(with_lies(shares, range(n - t + 1)), t, SECRET.__eq__) is None


def choices_of(came, t):
    """As many as are tried, as the bits of their members."""
    choices = list(itertools.islice(_choices(range(came), t), ATTEMPTS_MAX))
    assert all(len(set(choice)) == t for choice in choices)
    return np.array([sum(1 << i for i in choice) for choice in choices], np.uint64)


def are_left_out(lying, choices):
    return (choices & np.uint64(sum(1 << i for i in lying)) == 0).any()


@pytest.mark.parametrize(("n", "liars"), [(16, 4), (18, 4), (24, 3), (28, 3), (32, 4), (33, 3), (64, 3)])
def test_every_set_of_so_many_liars_is_left_out_before_the_attempts_end(n, liars):
    choices = choices_of(n, -(-3 * n // 4))
    assert all(are_left_out(lying, choices) for lying in itertools.combinations(range(n), liars))


def test_with_few_spare_shares_of_the_largest_cohort_two_liars_are_left_out_and_not_all_sets_of_three():
    choices = choices_of(51, 48)
    assert all(are_left_out(lying, choices) for lying in itertools.combinations(range(51), 2))
    assert not all(are_left_out(lying, choices) for lying in itertools.combinations(range(40, 51), 3))


def test_how_many_liars_are_left_out_whatever_shares_have_come():
    """Whoever lies, all ways to leave out as many groups as there are liars have been tried by then: so they are counted."""

    def tried(came, t, liars):
        groups = (-(-came // ((came - t) // leave)) for leave in range(1, liars + 1))
        return 1 + sum(math.comb(count, leave) for leave, count in enumerate(groups, 1)) <= ATTEMPTS_MAX

    for n in range(3, COHORT_MAX + 1):
        t = -(-3 * n // 4)
        for came in range(t + 1, n + 1):
            most = 2 if n > 32 and came - t < 6 else came - t if n <= 18 else 3
            assert tried(came, t, min(most, came - t)), (n, came)


def test_one_liar_costs_a_handful_of_tries_and_a_doubted_one_none():
    shares = with_lies(dealt(16, 12), [3])
    tries = []

    def is_right(secret):
        tries.append(secret)
        return secret == SECRET

    assert recover(shares, 12, is_right) == (SECRET, [3])
    assert len(tries) <= 5
    tries.clear()
    assert recover(shares, 12, is_right, doubted=[3]) == (SECRET, [3])
    assert len(tries) == 1


def test_two_in_league_can_make_honest_shares_look_wrong_and_the_secret_is_right_all_the_same():
    shares = dealt(8, 6)
    weights = _weights_at_zero(np.arange(1, 7))
    cancelling = int(np.nonzero(_PRODUCTS[weights[1]] == weights[0])[0][0])  # w_1 c = w_0 1
    lies = {
        0: bytes([shares[0][0] ^ 1]) + shares[0][1:],
        1: bytes([shares[1][0] ^ cancelling]) + shares[1][1:],
    }
    secret, unfit = recover(shares | lies, 6, SECRET.__eq__)
    assert secret == SECRET
    assert unfit == [6, 7], "who are honest: a hint is no proof"
