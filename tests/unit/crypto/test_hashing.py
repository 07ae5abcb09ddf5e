import hashlib

from crypto.hashing import digest


def test_a_digest_is_sha_256_over_length_prefixed_parts():
    encoding = (
        (17).to_bytes(8, "big")
        + b"gossamer/1/roster"
        + (2).to_bytes(8, "big")
        + b"ab"
        + (0).to_bytes(8, "big")
    )
    assert digest("roster", b"ab", b"") == hashlib.sha256(encoding).digest()


def test_moving_a_boundary_between_parts_is_another_digest():
    spellings = [
        digest("roster", b"ab", b"c"),
        digest("roster", b"a", b"bc"),
        digest("roster", b"abc"),
        digest("roster", b"abc", b""),
        digest("roster", b"", b"abc"),
        digest("rostera", b"bc"),
        digest("roster"),
    ]
    assert len(set(spellings)) == len(spellings)
