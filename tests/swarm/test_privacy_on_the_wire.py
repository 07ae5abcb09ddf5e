"""Everything that crosses the sockets of a real swarm, recorded: no contribution can be read from it.

A recorder is loaded into every process of `gossamer swarm` before anything else. It writes down the bytes at the TCP sockets (what
somebody on the network sees), the messages inside the encryption (what neighbours see), and, as the referee, the vectors before they
are masked.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gossip.frames import Frame, Kind
from gossip.secure_sum.messages import Masked
from gossip.wire import unpack

CHI_SQUARE_255_AT_1E_6 = 378.0  # a fair byte stream exceeds this once in a million tests
NODES, ROUNDS = 5, 3

RECORDER = """
import importlib.abc, importlib.util, os, socket, sys

FOLDER = os.environ["GOSSAMER_TEST_RECORDS"]

def note(kind, data):
    with open(f"{FOLDER}/{os.getpid()}.{kind}", "ab") as file:
        file.write(len(data).to_bytes(4, "big") + bytes(data))

def recorded(name):
    honest = getattr(socket.socket, name)
    def method(self, data, *rest):
        result = honest(self, data, *rest)
        if self.family == socket.AF_INET:
            note("tcp", result if name == "recv" else bytes(data)[:result])
        return result
    return method

socket.socket.send = recorded("send")
socket.socket.recv = recorded("recv")

def watch_transport(module):
    honest = module.Libp2pTransport.send
    def send(self, peer, data):
        note("frames", data)
        return honest(self, peer, data)
    module.Libp2pTransport.send = send

def watch_masks(module):
    honest = module.apply_masks
    def apply_masks(vector, lanes, masks, **more):
        note("plain", vector)
        return honest(vector, lanes, masks, **more)
    module.apply_masks = apply_masks

WATCHED = {"node.net.libp2p.transport": watch_transport, "gossip.secure_sum.member": watch_masks}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WATCHED:
            return None
        watch = WATCHED.pop(name)
        spec = importlib.util.find_spec(name)
        honest = spec.loader.exec_module
        def exec_module(module):
            honest(module)
            watch(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def records(folder: Path, kind: str) -> list[bytes]:
    found = []
    for file in sorted(folder.glob(f"*.{kind}")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            found.append(data[at + 4 : at + 4 + size])
            at += 4 + size
    return found


def chi_square(data: bytes) -> float:
    """Pearson's statistic of a byte histogram against the uniform one; 255 degrees of freedom."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder, hook = tmp_path_factory.mktemp("records"), tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(RECORDER)
    environment = {**os.environ, "PYTHONPATH": str(hook), "GOSSAMER_TEST_RECORDS": str(folder)}
    command = [
        sys.executable,
        "-m",
        "node",
        "swarm",
        "quickstart",
        "--nodes",
        str(NODES),
        "--rounds",
        str(ROUNDS),
    ]
    run = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder


def test_the_network_sees_only_ciphertext(recording):
    chunks = records(recording, "tcp")
    raw = b"".join(chunks)
    assert b"/noise" in raw, "the recorder sees the handshake's plain words, so it would see any others"
    frames = records(recording, "frames")
    assert len(frames) > 100
    for frame in frames:
        for piece in (frame[-64:], frame[len(frame) // 2 :][:64]):
            assert piece not in raw
    large = b"".join(chunk for chunk in chunks if len(chunk) > 2000)
    assert len(large) > 50_000
    # Noise's ciphertexts, with their two bytes of length each.
    assert chi_square(large) < 3 * CHI_SQUARE_255_AT_1E_6


def test_neighbours_see_only_masked_vectors(recording):
    masked = {}
    for raw in records(recording, "frames"):
        frame = unpack(raw, Frame, limit_bytes=1 << 24)
        if frame.kind == Kind.MASKED:
            vector = unpack(frame.body, Masked, limit_bytes=1 << 24).vector
            assert masked.setdefault((frame.cohort, frame.sender), vector) == vector
    plain = {bytes(vector) for vector in records(recording, "plain")}
    assert len(masked) >= ROUNDS * 4
    assert len(plain) >= len(masked)
    everything = b"".join(records(recording, "frames"))
    assert not any(vector[:64] in everything for vector in plain), (
        "no plain vector, nor its beginning, ever left"
    )
    assert not plain & {bytes(vector) for vector in masked.values()}
    assert chi_square(b"".join(masked.values())) < CHI_SQUARE_255_AT_1E_6
    assert chi_square(b"".join(plain)) > 10 * CHI_SQUARE_255_AT_1E_6, "the test must be able to fail"
