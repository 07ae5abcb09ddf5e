"""Envelopes between two members: ChaCha20-Poly1305 (RFC 8439).

Shares travel through aggregators that must neither read nor change them. An envelope hides all but the length of
its content, and any change to it, to its context or to its direction is noticed (IND-CCA2 as long as the rule below
holds). The context is authenticated and not sent: cohort, kind, sender, whatever the receiver already knows.

**Why the nonce is zero.** The key is derived for one cohort and one direction (`envelope_info`) from X25519 pairs
that live for one cohort, and it seals one message. A nonce distinguishes messages under one key; here there is one.
The rule is strict: two *different* plaintexts under one key would show their difference and let anybody forge. Who
has to send again, sends the same box again.

The AEAD does not commit to its key: somebody who chooses two keys can make one box that opens under both. No rule of
the protocol rests on that, since what was said is settled by the sender's signature and the commitments to the
shares.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.agreement import MEMBER_BYTES
from crypto.hashing import PREFIX

# What a box is longer than its plaintext: Poly1305's tag.
OVERHEAD_BYTES = 16

_NONCE = bytes(12)


def envelope_info(sender: bytes, receiver: bytes) -> bytes:
    """HKDF info of the single-use key from one member to another; different for the way back.

    `"gossamer/1/envelope" || sender || receiver`. ValueError for a member's key that is not 32 bytes.
    """
    if len(sender) != MEMBER_BYTES or len(receiver) != MEMBER_BYTES:
        raise ValueError(f"a member's key is {MEMBER_BYTES} bytes")
    return PREFIX + b"envelope" + sender + receiver


def seal(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Ciphertext and tag, 16 bytes longer than the plaintext. ValueError for a key that is not 32 bytes."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, context)


def unseal(key: bytes, box: bytes, context: bytes) -> bytes:
    """The plaintext of a box. ValueError when key, box or context is not the one it was sealed with."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, box, context)
    except InvalidTag as error:
        raise ValueError("this envelope was not sealed with this key and context, or was changed") from error
