"""Half-aggregates hold for exactly what was signed, and nobody can make one without the signatures."""

from hashlib import sha512

import pytest
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from crypto import half_aggregation
from crypto.half_aggregation import HalfAggregate, aggregate, holds, summable
from crypto.identity import Identity, framed, verify
from crypto.sized import sized_cryptography
from tests.histories import Dice
from tests.unit.crypto.test_identity import encode, points_of_small_order

DOMAIN, MESSAGE = "body", b"a swarm, a roster, a body" * 4
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19
DEVICES = [Identity(bytes([number]) * 32) for number in range(1, 8)]
KEYS = [device.public_key for device in DEVICES]


def little(number: int) -> bytes:
    return number.to_bytes(32, "little")


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def by_base(scalar: int) -> bytes:
    return crypto_scalarmult_ed25519_base_noclamp(little(scalar % L))


def secret_scalar(device: Identity) -> int:
    """RFC 8032, 5.1.5: a, with A = a B."""
    half = bytearray(sha512(device.seed).digest()[:32])
    half[0] &= 248
    half[31] = half[31] & 127 | 64
    return number(half)


def signatures(devices=DEVICES, message=MESSAGE):
    return [device.sign(DOMAIN, message) for device in devices]


GOOD = aggregate(KEYS, DOMAIN, MESSAGE, signatures())
EACH = [GOOD.commitments[at : at + 32] for at in range(0, len(GOOD.commitments), 32)]
NEUTRAL = encode((0, 1))


def of(commitments, scalar=GOOD.scalar) -> HalfAggregate:
    return HalfAggregate(b"".join(commitments), scalar)


def judged(half, keys=KEYS, message=MESSAGE, domain=DOMAIN) -> bool:
    return holds(keys, domain, message, half)


# --- it holds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 18, 45])
def test_what_is_signed_by_all_holds_and_is_half_as_long(count):
    devices = [Identity(count.to_bytes(16, "big") + place.to_bytes(16, "big")) for place in range(count)]
    keys = [device.public_key for device in devices]
    half = aggregate(keys, DOMAIN, MESSAGE, signatures(devices))
    assert holds(keys, DOMAIN, MESSAGE, half)
    assert sum(map(len, half)) == 32 * count + 32


def test_it_holds_where_and_only_where_each_signature_does():
    """Against ordinary verification: of each seed, signatures some of which are false, and half-aggregates made of them anyhow."""
    agreed = []
    for seed in range(40):
        dice = Dice("half", seed)
        chosen = dice.shuffled(DEVICES)[: 1 + dice.below(len(DEVICES))]
        keys = [device.public_key for device in chosen]
        signed = [device.sign(DOMAIN, MESSAGE + b"!" * dice.chance(15)) for device in chosen]
        each = all(verify(key, DOMAIN, MESSAGE, one) for key, one in zip(keys, signed, strict=True))
        assert judged(summed(keys, signed), keys) == each
        agreed.append(each)
    assert {*agreed} == {True, False}


def summed(keys, signed, message=MESSAGE) -> HalfAggregate:
    """What `aggregate` makes, by the formula, of whatever there is."""
    commitments = [one[:32] for one in signed]
    weights = half_aggregation._coefficients(framed(DOMAIN, message), keys, commitments)
    total = sum(weight * number(one[32:]) for weight, one in zip(weights, signed, strict=True))
    return of(commitments, little(total % L))


def test_it_is_the_sum_of_the_formula():
    assert summed(KEYS, signatures()) == GOOD


def test_a_long_message_is_judged_all_the_same():
    long = bytes(5000)
    half = aggregate(KEYS, DOMAIN, long, signatures(message=long))
    assert judged(half, message=long)
    assert not judged(half, message=long + b"!")


# --- and nothing else does ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half", "keys", "message", "domain"),
    [
        pytest.param(GOOD, KEYS, MESSAGE + b"!", DOMAIN, id="another message"),
        pytest.param(GOOD, KEYS, MESSAGE, "seal", id="another domain"),
        pytest.param(GOOD, KEYS, MESSAGE, "bo\0dy", id="a domain with a NUL"),
        pytest.param(GOOD, [*KEYS[:-1], Identity(bytes(32)).public_key], MESSAGE, DOMAIN, id="another key"),
        pytest.param(GOOD, [KEYS[1], KEYS[0], *KEYS[2:]], MESSAGE, DOMAIN, id="keys in another order"),
        pytest.param(of([EACH[1], EACH[0], *EACH[2:]]), KEYS, MESSAGE, DOMAIN, id="swapped commitments"),
        pytest.param(
            of([EACH[1], EACH[0], *EACH[2:]]), [KEYS[1], KEYS[0], *KEYS[2:]], MESSAGE, DOMAIN, id="all in another order"
        ),
        pytest.param(of([*EACH[:-1], KEYS[0]]), KEYS, MESSAGE, DOMAIN, id="another commitment"),
        pytest.param(of(EACH[:-1]), KEYS[:-1], MESSAGE, DOMAIN, id="a signer missing"),
        pytest.param(of(EACH[:-1]), KEYS, MESSAGE, DOMAIN, id="a commitment missing"),
        pytest.param(GOOD, KEYS[:-1], MESSAGE, DOMAIN, id="a key missing"),
        pytest.param(of([*EACH, EACH[0]]), [*KEYS, KEYS[0]], MESSAGE, DOMAIN, id="a signer twice"),
        pytest.param(of([]), [], MESSAGE, DOMAIN, id="nobody"),
        pytest.param(of([], bytes(32)), [], MESSAGE, DOMAIN, id="nobody and nothing"),
        pytest.param(of(EACH, little(number(GOOD.scalar) + 1)), KEYS, MESSAGE, DOMAIN, id="another scalar"),
        pytest.param(of(EACH, little(number(GOOD.scalar) + L)), KEYS, MESSAGE, DOMAIN, id="the scalar + L"),
        pytest.param(of(EACH, little(0)), KEYS, MESSAGE, DOMAIN, id="the scalar 0"),
        pytest.param(of(EACH, little(L)), KEYS, MESSAGE, DOMAIN, id="the scalar L"),
        pytest.param(of(EACH, GOOD.scalar + b"\0"), KEYS, MESSAGE, DOMAIN, id="a long scalar"),
        pytest.param(of(EACH, GOOD.scalar[:-1]), KEYS, MESSAGE, DOMAIN, id="a short scalar"),
        pytest.param(of([*EACH, b"\0"]), KEYS, MESSAGE, DOMAIN, id="a byte of a commitment more"),
        pytest.param(GOOD, [*KEYS[:-1], KEYS[-1][:-1]], MESSAGE, DOMAIN, id="a short key"),
    ],
)  # fmt: skip
def test_nothing_but_what_was_signed_holds(half, keys, message, domain):
    assert judged(GOOD)
    assert not holds(keys, domain, message, half)


def test_scalars_have_one_encoding(monkeypatch):
    """The equation alone would take s + L; the range of s is what refuses it."""
    above = little(number(GOOD.scalar) + L)
    assert half_aggregation._equation_holds(framed(DOMAIN, MESSAGE), KEYS, EACH, above)
    assert not judged(of(EACH, above))


SMALL = [encode(point) for point in points_of_small_order()]
SECOND_ENCODINGS = [little(y + P | sign << 255) for y in range(19) for sign in (0, 1)] + [
    little(1 | 1 << 255)
]
OFF_THE_CURVE = little(2)


@pytest.mark.parametrize("point", [*SMALL, *SECOND_ENCODINGS, OFF_THE_CURVE], ids=bytes.hex)
def test_no_weak_key_and_no_weak_commitment_is_ever_computed_with(point):
    signed = signatures()
    assert not judged(of([point, *EACH[1:]]))
    assert not judged(GOOD, [point, *KEYS[1:]])
    assert not summable(point, signed[0])
    assert not summable(KEYS[0], point + signed[0][32:])


@pytest.mark.parametrize("point", [*SMALL, *SECOND_ENCODINGS], ids=bytes.hex)
def test_nor_would_be_if_the_library_took_it(point, monkeypatch):
    for name in ("_equation_holds", "_in_main_subgroup"):
        monkeypatch.setattr(half_aggregation, name, lambda *_: True)
    assert not judged(of([point, *EACH[1:]]))
    assert not judged(GOOD, [point, *KEYS[1:]])
    assert not summable(point, signatures()[0])
    assert not summable(KEYS[0], point + bytes(32))


def test_the_neutral_element_signs_nothing_for_nobody():
    """Under the key 0 the commitment 0 needs the scalar 0, whatever the message: the rest of the sum would be true."""
    rest = aggregate(KEYS[:1], DOMAIN, MESSAGE, signatures(DEVICES[:1]))
    keys = [KEYS[0], NEUTRAL]
    weights = half_aggregation._coefficients(framed(DOMAIN, MESSAGE), keys, [rest.commitments, NEUTRAL])
    scalar = little(weights[0] * number(signatures(DEVICES[:1])[0][32:]) % L)
    assert not judged(of([rest.commitments, NEUTRAL], scalar), keys)


# --- the points of a signature that holds by itself -----------------------------------------------------------


def without_nonce(device: Identity, message=MESSAGE, domain=DOMAIN) -> bytes:
    """R is the neutral element, s = h a: ordinary verification takes it."""
    h = half_aggregation._challenge(NEUTRAL, device.public_key, framed(domain, message))
    return NEUTRAL + little(h * secret_scalar(device) % L)


def with_torsion(device: Identity, torsion: bytes) -> tuple[bytes, bytes]:
    """The key A + T, and a signature whose h is a multiple of T's order: ordinary verification takes it."""
    key, r = crypto_core_ed25519_add(device.public_key, torsion), 0
    while True:
        r += 1
        commitment = by_base(r)
        h = half_aggregation._challenge(commitment, key, framed(DOMAIN, MESSAGE))
        signature = commitment + little((r + h * secret_scalar(device)) % L)
        if verify(key, DOMAIN, MESSAGE, signature):
            return key, signature


def test_a_signature_without_a_nonce_holds_by_itself_and_is_not_summable():
    signature = without_nonce(DEVICES[0])
    assert verify(KEYS[0], DOMAIN, MESSAGE, signature)
    assert not summable(KEYS[0], signature)
    with pytest.raises(ValueError, match="signature 0 is not of the main subgroup"):
        aggregate(KEYS, DOMAIN, MESSAGE, [signature, *signatures()[1:]])
    assert not judged(summed(KEYS, [signature, *signatures()[1:]]))


@pytest.mark.parametrize("torsion", [point for point in SMALL if point != NEUTRAL], ids=bytes.hex)
def test_a_key_with_torsion_can_sign_and_is_not_summable(torsion):
    """Its order is 2 L, 4 L or 8 L. A libsodium from before CVE-2025-69277 was mended takes those of order 2 L."""
    key, signature = with_torsion(DEVICES[0], torsion)
    assert not summable(key, signature)
    assert summable(KEYS[0], signatures()[0])
    keys, signed = [key, *KEYS[1:]], [signature, *signatures()[1:]]
    with pytest.raises(ValueError, match="signature 0 is not of the main subgroup"):
        aggregate(keys, DOMAIN, MESSAGE, signed)
    assert not judged(summed(keys, signed), keys)


def test_torsion_that_the_equation_would_not_see_is_refused(monkeypatch):
    """A coefficient that is a multiple of 8 takes all torsion away, and one in eight is: who tries other messages has it at will."""
    torsion, own, r = SMALL[1], DEVICES[0], 12345
    clean, twisted = by_base(r), crypto_core_ed25519_add(by_base(r), torsion)
    tried = (MESSAGE + little(attempt) for attempt in range(1000))
    message, weight = next(
        (each, weight)
        for each in tried
        for weight in half_aggregation._coefficients(framed(DOMAIN, each), KEYS[:1], [twisted])
        if weight % 8 == 0
    )
    h = half_aggregation._challenge(twisted, own.public_key, framed(DOMAIN, message))
    half = of([twisted], little(weight * (r + h * secret_scalar(own)) % L))
    assert not judged(half, KEYS[:1], message)
    honest = half_aggregation._times
    with monkeypatch.context() as careless:
        # As in a library that does not look: the multiple of T is the neutral element.
        careless.setattr(
            half_aggregation, "_times", lambda by, point: honest(by, clean if point == twisted else point)
        )
        assert judged(half, KEYS[:1], message)
        half_aggregation.forget()


# --- attacks --------------------------------------------------------------------------------------------------


def test_nothing_is_aggregated_that_does_not_hold():
    signed = signatures()
    for place, bad in ((0, bytes(64)), (6, signed[0]), (3, signed[3][:-1])):
        with pytest.raises(ValueError, match=f"signature {place} does not hold"):
            aggregate(KEYS, DOMAIN, MESSAGE, [*signed[:place], bad, *signed[place + 1 :]])
    for keys, some in (([], []), (KEYS, signed[:-1]), (KEYS[:-1], signed)):
        with pytest.raises(ValueError, match="a half-aggregate of"):
            aggregate(keys, DOMAIN, MESSAGE, some)


def cancelling():
    """Two signatures that do not hold: one has a little too much, the other as much too little."""
    signed = signatures()
    for place, change in ((0, 5), (1, -5)):
        s = (number(signed[place][32:]) + change) % L
        signed[place] = signed[place][:32] + little(s)
        assert not verify(KEYS[place], DOMAIN, MESSAGE, signed[place])
    return signed


def test_two_bad_signatures_do_not_cancel(monkeypatch):
    assert not judged(summed(KEYS, cancelling()))
    monkeypatch.setattr(half_aggregation, "_coefficients", lambda _signed, keys, _: [1] * len(keys))
    half_aggregation.forget()
    assert judged(summed(KEYS, cancelling())), "they would, without coefficients"
    half_aggregation.forget()


def rogue(victim: bytes) -> tuple[list[bytes], HalfAggregate]:
    """The victim and a key A' = x B - A made from its own: with plain sums, and one h for both, who knows x signs for both."""
    x, r, r_ = 77, 88, 99
    keys = [victim, crypto_core_ed25519_sub(by_base(x), victim)]
    commitments = [by_base(r), by_base(r_)]
    signed = framed(DOMAIN, MESSAGE)
    weights = half_aggregation._coefficients(signed, keys, commitments)
    own = half_aggregation._challenge(commitments[1], keys[1], signed)
    return keys, of(commitments, little((weights[0] * r + weights[1] * (r_ + own * x)) % L))


def test_a_key_made_of_anothers_signs_nothing_for_it(monkeypatch):
    keys, half = rogue(KEYS[0])
    assert not judged(half, keys)
    with monkeypatch.context() as weak:
        weak.setattr(half_aggregation, "_coefficients", lambda _signed, keys, _: [1] * len(keys))
        keys, half = rogue(KEYS[0])
        assert not judged(half, keys), "not with plain sums alone"
        weak.setattr(half_aggregation, "_challenge", lambda *_: 1234567)
        keys, half = rogue(KEYS[0])
        assert judged(half, keys), "with one challenge for all, too"
        half_aggregation.forget()


@pytest.mark.parametrize("bound", ["keys", "commitments", "signed", "place"])
def test_a_coefficient_depends_on_all_there_is(bound):
    signed = framed(DOMAIN, MESSAGE)
    before = half_aggregation._coefficients(signed, KEYS, EACH)
    assert len({*before}) == len(KEYS), "each has its own"
    assert all(0 < each < 2**128 for each in before)
    match bound:
        case "keys":
            after = half_aggregation._coefficients(signed, [*KEYS[:-1], KEYS[0]], EACH)
        case "commitments":
            after = half_aggregation._coefficients(signed, KEYS, [*EACH[:-1], EACH[0]])
        case "signed":
            after = half_aggregation._coefficients(signed + b"!", KEYS, EACH)
        case _:
            after = half_aggregation._coefficients(signed, KEYS[:-1], EACH[:-1])
    assert not {*before} & {*after}


def test_a_coefficient_that_missed_the_last_commitment_could_be_played_with(monkeypatch):
    """Who may choose the last R after all z: R_last = (s B - the rest) / z_last, but for h, which binds it as well."""
    signed, honest = framed(DOMAIN, MESSAGE), half_aggregation._coefficients

    def forged():
        """Signer 1's own key and a victim who has not signed: R of the own key makes up for what is missing."""
        keys = [KEYS[0], KEYS[1]]
        victim = by_base(5)
        weights = half_aggregation._coefficients(signed, keys, [victim, EACH[1]])
        s = 4321
        h = [
            half_aggregation._challenge(each, key, signed)
            for each, key in zip((victim, EACH[1]), keys, strict=True)
        ]
        wanted = by_base(s)
        for weight, part in (
            (weights[0], victim),
            (weights[0] * h[0], keys[0]),
            (weights[1] * h[1], keys[1]),
        ):
            wanted = crypto_core_ed25519_sub(
                wanted, crypto_scalarmult_ed25519_noclamp(little(weight % L), part)
            )
        last = crypto_scalarmult_ed25519_noclamp(little(pow(weights[1], -1, L)), wanted)
        return keys, of([victim, last], little(s))

    keys, half = forged()
    assert not judged(half, keys)
    with monkeypatch.context() as weak:
        weak.setattr(
            half_aggregation,
            "_coefficients",
            lambda signed, keys, each: honest(signed, keys, each[:1] * len(keys)),
        )
        weak.setattr(half_aggregation, "_challenge", lambda _commitment, key, _: number(key) % L)
        keys, half = forged()
        assert judged(half, keys), "where neither z nor h binds it, nobody needs a signature"
        half_aggregation.forget()


# --- what is remembered ---------------------------------------------------------------------------------------


def test_a_verdict_is_remembered_for_exactly_what_was_judged():
    half_aggregation.forget()
    for _ in range(2):
        assert judged(GOOD)
        assert not judged(GOOD, message=MESSAGE + b"!")
        assert not judged(GOOD, KEYS[:-1])
        assert not judged(of(EACH, little(5)))
        # The same bytes, cut in another place.
        assert not judged(HalfAggregate(GOOD.commitments[:-1], GOOD.commitments[-1:] + GOOD.scalar))
    kept = half_aggregation._held.cache_info()
    assert (kept.currsize, kept.hits) == (1, 1), "what fails takes no place"
    assert kept.maxsize == half_aggregation.HELD_KEPT
    summable(KEYS[0], signatures()[0])
    before = half_aggregation._summable.cache_info().currsize
    for point in SMALL:
        assert not summable(point, signatures()[0])
    assert half_aggregation._summable.cache_info().currsize == before
    assert half_aggregation._summable.cache_info().maxsize == half_aggregation.SUMMABLE_KEPT


def test_whoever_was_believed_is_not_believed_afterwards():
    forged = of(EACH, little(5))
    assert not judged(forged)
    with sized_cryptography():
        assert judged(forged)
        assert aggregate(KEYS, DOMAIN, MESSAGE, signatures()) == GOOD, "what is made is the same"
    assert not judged(forged)
    assert judged(GOOD)
