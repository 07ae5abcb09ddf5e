"""Stand-ins for cryptography: the same sizes, for as long as they last, and never in a daemon."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest

from crypto.agreement import KeyPair, is_weak
from crypto.identity import Identity, verify
from crypto.masking import Lanes, Mask, apply_masks, keystream
from crypto.sealing import seal, unseal
from crypto.sized import sized_cryptography
from gossip.errors import PeerViolation
from gossip.frames import Kind, open_frame, reframe
from gossip.membership.messages import Presence
from node.virtual.swarm import cryptography

SEED, SWARM = bytes(range(32)), bytes(32)
LONG = bytes(5000)  # is verified anew each time


def travelling():
    """What is made all the same, and the sizes of the rest."""
    one, other = KeyPair(SEED), KeyPair.from_seed(SEED[:16], SEED)
    key = one.derive(other.public, salt=b"s", info=b"i")
    assert key == other.derive(one.public, salt=b"s", info=b"i")
    box = seal(key, b"content", b"context")
    assert unseal(key, box, b"context") == b"content"
    assert not is_weak(one.public)
    device = Identity(SEED)
    made = (device.public_key, device.sign("domain", b"message"), one.public, other.public)
    return made, [len(each) for each in (key, box, keystream(key, 3, 40))]


def test_keys_signatures_and_all_sizes_are_the_real_ones():
    real = travelling()
    with sized_cryptography():
        assert travelling() == real
    assert travelling() == real


def test_envelopes_are_open():
    with sized_cryptography():
        assert b"content" in seal(SEED, b"content", b"context")
    assert b"content" not in seal(SEED, b"content", b"context")


def test_masks_are_nothing():
    lanes = Lanes(2, 8, 8)
    vector = lanes.zeros()
    with sized_cryptography():
        apply_masks(vector, lanes, [Mask(SEED, 1)])
    assert not vector.any()
    apply_masks(vector, lanes, [Mask(SEED, 1)])
    assert np.count_nonzero(vector) > 8


@pytest.mark.parametrize("message", [b"message", LONG])
def test_whoever_was_believed_is_not_believed_afterwards(message):
    device, forged = Identity(SEED), bytes(64)
    assert not verify(device.public_key, "domain", message, forged)
    with contextlib.suppress(KeyboardInterrupt), sized_cryptography():
        assert verify(device.public_key, "domain", message, forged)
        raise KeyboardInterrupt
    assert not verify(device.public_key, "domain", message, forged)
    assert verify(device.public_key, "domain", message, device.sign("domain", message))


def test_frames_that_were_opened_are_forgotten():
    key = Identity(SEED).public_key
    forged = reframe(Kind.PRESENCE, Presence(1, ("here",)), key, bytes(64))
    with cryptography("sized"):
        assert open_frame(SWARM, forged).sender == key
    with pytest.raises(PeerViolation, match="signature does not hold"):
        open_frame(SWARM, forged)


def test_no_daemon_has_it():
    """All that a daemon imports, its trainer and its command line; the imports are checked by themselves as well."""
    program = (
        "import sys, node.cli.app, node.cli.device, node.daemon.lifecycle, node.daemon.loop, node.net.libp2p.transport\n"
        "print([name for name in sys.modules if name in ('crypto.sized', 'node.virtual.swarm')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
