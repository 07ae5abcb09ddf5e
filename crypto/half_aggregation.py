"""Half the bytes of many Ed25519 signatures over one statement: half-aggregation.

Chalkias, Garillot, Kondi and Nikolaenko, "Non-interactive half-aggregation of EdDSA and variants of Schnorr signatures",
CT-RSA 2021. A signature is (R, s) with s B = R + h A, h = SHA-512(R || A || what is signed) mod L (RFC 8032). Anybody who has
n of them makes one *half-aggregate* (R_1 .. R_n, s): all commitments R_i, and one scalar for all, s = sum z_i s_i mod L. It holds iff

    s B = sum z_i (R_i + h_i A_i),    z_i = H(H(what is signed, R_1, A_1, .. R_n, A_n), i), 128 bits.

That takes 32 n + 32 bytes where n signatures take 64 n. Nobody has to be asked for it, and no signer does anything else than before.

**What it proves.** That each of the n keys signed. In the random oracle model (for z; SHA-256 here, while h is SHA-512) whoever makes
a half-aggregate that holds can be run again from its question for one z_i on, with another answer (the forking lemma). The
two equations differ in nothing but z_i and s, so (s - s') / (z_i - z_i') is s_i: a signature under A_i that holds by itself. So a
forger of half-aggregates, with probability e after q questions, forges Ed25519 with about e^2 / q: the usual loss of
Schnorr's kind, beside what Ed25519's own unforgeability rests on. No assumption is new, but the bound is not tight.

**Why z_i binds every key, every commitment and what is signed.** Without z (z_i = 1) two signatures that do not hold can cancel each other:
s_1 + d and s_2 - d have the sum of good ones. Worse, it can be forged: with keys A_j = a_j B + c_j A_1 of their own, those who find
h_1 + sum c_j h_j = 0 mod L need no signature of A_1, and finding it is a generalised birthday problem (Wagner, CRYPTO 2002), the
easier the more keys they have. Each candidate for any R_j or A_j changes all h and all z at once, so there are no lists to search.

**What is refused before anything is computed.** Other lengths; s >= L, which would be a second name of one half-aggregate; second
encodings of a point, and points of small order (`crypto.identity`). Then libsodium refuses whatever is not on the curve, or not in the
main subgroup, of order L. So there is no torsion left on either side: the equation with the cofactor and the one without
are the same, and no choice of z decides what holds. The binding is PyNaCl 1.6.2 or later, since earlier ones take points of order
2 L for such of the main subgroup (CVE-2025-69277), and nodes would differ. A scalar that is 0 is refused, too; it comes by chance, once in 2^252.

**A signature that does not hold must not be aggregated**: the whole would not hold, and would not say whose fault it is. `aggregate` refuses.
A single signature can hold whose points are refused here (a key with a torsion component, R the neutral element; only its own owner
can make one). Who collects signatures asks `summable` of each as it comes, or one member could spoil the certificates of all.

**What is lost.** No single signature can be got out again: a half-aggregate is evidence against all of its signers, and only with all
of them. Who has other signatures under the same statement can make another one; nobody can change one that is there.

All values are public, so nothing here is constant-time but what libsodium does.
"""

import functools
from collections.abc import Sequence
from hashlib import sha512
from typing import Final, NamedTuple

from nacl.bindings import (  # noqa: TID251 - the group of Ed25519 is used here alone
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
    has_crypto_core_ed25519,
    has_crypto_scalarmult_ed25519,
)
from nacl.exceptions import RuntimeError as SodiumRefused  # noqa: TID251 - the same

from crypto.hashing import digest
from crypto.identity import HELD_BYTES, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, framed, refuse_weak, verify

COMMITMENT_BYTES: Final = 32
SCALAR_BYTES: Final = 32
COEFFICIENT_BYTES: Final = 16  # z; all here is meant to resist 2^128
SIGNERS_MAX: Final = 1 << 16  # i is two bytes
# Verdicts: in a simulation thousands of nodes ask for the same. At most 9 MiB, with 64 signers each.
HELD_KEPT: Final = 1024
SUMMABLE_KEPT: Final = 8192

_L: Final = 2**252 + 27742317777372353535851937790883648493  # the order of B

if not (has_crypto_core_ed25519 and has_crypto_scalarmult_ed25519):
    # Or every half-aggregate would look false.
    raise ImportError(
        "PyNaCl is bound to a minimal libsodium, without the group of Ed25519; install its wheel"
    )


class HalfAggregate(NamedTuple):
    commitments: bytes  # R of each signer, 32 bytes each, in the order of their keys
    scalar: bytes  # 32 bytes, little-endian


def aggregate(
    public_keys: Sequence[bytes], domain: str, message: bytes, signatures: Sequence[bytes]
) -> HalfAggregate:
    """One of all signatures, each by the key in its place. ValueError unless each of them holds and is `summable`, and for none."""
    if len(public_keys) != len(signatures) or not 0 < len(signatures) <= SIGNERS_MAX:
        raise ValueError(f"a half-aggregate of {len(signatures)} signatures and {len(public_keys)} keys")
    for place, (public_key, signature) in enumerate(zip(public_keys, signatures, strict=True)):
        if not verify(public_key, domain, message, signature):
            raise ValueError(f"signature {place} does not hold")
        if not summable(public_key, signature):
            raise ValueError(f"signature {place} is not of the main subgroup")
    commitments = [signature[:COMMITMENT_BYTES] for signature in signatures]
    weights = _coefficients(framed(domain, message), public_keys, commitments)
    scalars = [int.from_bytes(signature[COMMITMENT_BYTES:], "little") for signature in signatures]
    total = sum(weight * scalar for weight, scalar in zip(weights, scalars, strict=True)) % _L
    return HalfAggregate(b"".join(commitments), total.to_bytes(SCALAR_BYTES, "little"))


def holds(public_keys: Sequence[bytes], domain: str, message: bytes, half: HalfAggregate) -> bool:
    """Whether all of these keys' owners signed the message in this domain. False for whatever is malformed, and for no keys.

    A key may be there twice, with two commitments: who counts signers counts keys.
    """
    try:
        signed = framed(domain, message)
        judge = _held if len(signed) <= HELD_BYTES else _held.__wrapped__
        judge(signed, tuple(public_keys), half.commitments, half.scalar)
    except ValueError:
        return False
    return True


def summable(public_key: bytes, signature: bytes) -> bool:
    """Whether a signature that holds may be aggregated: its two points are in the main subgroup."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        _summable(public_key, signature[:COMMITMENT_BYTES])
    except ValueError:
        return False
    return True


def forget() -> None:
    """Every verdict."""
    _held.cache_clear()
    _summable.cache_clear()


@functools.lru_cache(maxsize=HELD_KEPT)
def _held(signed: bytes, public_keys: tuple[bytes, ...], commitments: bytes, scalar: bytes) -> None:
    """ValueError for what does not hold. Only what returns is kept: nobody can fill this with what is false."""
    count = len(public_keys)
    if not 0 < count <= SIGNERS_MAX:
        raise ValueError(f"a half-aggregate of {count} signers")
    if len(commitments) != count * COMMITMENT_BYTES or len(scalar) != SCALAR_BYTES:
        raise ValueError(f"{len(commitments)} and {len(scalar)} bytes for {count} signers")
    if any(len(public_key) != PUBLIC_KEY_BYTES for public_key in public_keys):
        raise ValueError(f"a public key is {PUBLIC_KEY_BYTES} bytes")
    if not 0 < int.from_bytes(scalar, "little") < _L:
        raise ValueError("a scalar is above 0 and below L")
    each = [commitments[at : at + COMMITMENT_BYTES] for at in range(0, len(commitments), COMMITMENT_BYTES)]
    for public_key, commitment in zip(public_keys, each, strict=True):
        refuse_weak(public_key, "a public key")
        refuse_weak(commitment, "a commitment")
    if not _equation_holds(signed, public_keys, each, scalar):
        raise ValueError("the half-aggregate does not hold")


@functools.lru_cache(maxsize=SUMMABLE_KEPT)
def _summable(public_key: bytes, commitment: bytes) -> None:
    """ValueError where it is not, so that only what is is kept."""
    for point in (public_key, commitment):
        refuse_weak(point, "a point of a signature")
        if not _in_main_subgroup(point):
            raise ValueError("a point that is not of the main subgroup")


def _in_main_subgroup(point: bytes) -> bool:
    return bool(crypto_core_ed25519_is_valid_point(point))


def _coefficients(signed: bytes, public_keys: Sequence[bytes], commitments: Sequence[bytes]) -> list[int]:
    pairs = [point for pair in zip(commitments, public_keys, strict=True) for point in pair]
    everything = digest("half-aggregate", signed, *pairs)
    return [
        int.from_bytes(digest("coefficient", everything, place.to_bytes(2, "big"))[:COEFFICIENT_BYTES], "big")
        for place in range(len(public_keys))
    ]


def _challenge(commitment: bytes, public_key: bytes, signed: bytes) -> int:
    """RFC 8032, 5.1.7: h."""
    return int.from_bytes(sha512(commitment + public_key + signed).digest(), "little") % _L


def _equation_holds(
    signed: bytes, public_keys: Sequence[bytes], commitments: Sequence[bytes], scalar: bytes
) -> bool:
    """All points have 32 bytes, and 0 < s < L."""
    weights = _coefficients(signed, public_keys, commitments)
    terms: list[bytes] = []
    try:
        for public_key, commitment, weight in zip(public_keys, commitments, weights, strict=True):
            both = weight * _challenge(commitment, public_key, signed) % _L
            terms += (_times(weight, commitment), _times(both, public_key))
        total = functools.reduce(crypto_core_ed25519_add, terms)
    except SodiumRefused:
        # A point that is none, or not of the main subgroup; or a product 0, once in 2^128.
        return False
    return total == crypto_scalarmult_ed25519_base_noclamp(scalar)


def _times(scalar: int, point: bytes) -> bytes:
    return crypto_scalarmult_ed25519_noclamp(scalar.to_bytes(SCALAR_BYTES, "little"), point)
