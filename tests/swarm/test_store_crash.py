"""A process that commits is killed with SIGKILL at any moment, and a disk that takes no more: nothing is lost or torn.

The child commits transactions 1, 2, 3, ... of several records each and says so after each acknowledgement. Each
transaction also replaces what the one before it left, so that half of one could not go unnoticed.
"""

import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.store import SqliteStore

pytestmark = pytest.mark.swarm
ROOT = Path(__file__).parents[2]

COMMITTING = """
import sys
from pathlib import Path
from gossip.events import Drop, Put
from node.store import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
number = len(store.read("number"))
print("open", number, flush=True)
while True:
    number += 1
    name = number.to_bytes(4, "big")
    size = 1 + number * 7919 % 20_000
    store.commit([
        Put("number", name, b""),
        *(Put("body", name + bytes([part]), bytes([number % 256]) * size) for part in range(8)),
        Drop("last", (number - 1).to_bytes(4, "big")),
        Put("last", name, b""),
    ])
    print(number, flush=True)
"""

FILLING = """
import resource, sys
from pathlib import Path
from gossip.events import Put
from node.store import SqliteStore, StoreFull

store = SqliteStore(Path(sys.argv[1]))
store.commit([Put("kept", b"k", bytes(5000))])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
number = 0
try:
    while True:
        store.commit([Put("filling", bytes([number, part]), bytes(9000)) for part in range(4)])
        number += 1
except StoreFull as error:
    print(error)
assert [len(value) for _, value in store.read("kept")] == [5000]
assert len(store.read("filling")) == 4 * number
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store.commit([Put("kept", b"l", b"room again")])
print(number)
"""


def whole_transactions(path):
    """How many transactions the store holds, each of them whole."""
    store = SqliteStore(path)
    try:
        numbers = [int.from_bytes(key, "big") for key, _ in store.read("number")]
        count = len(numbers)
        assert numbers == list(range(1, count + 1))
        bodies = dict(store.read("body"))
        assert list(bodies) == [
            number.to_bytes(4, "big") + bytes([part]) for number in numbers for part in range(8)
        ]
        for key, value in bodies.items():
            number = int.from_bytes(key[:4], "big")
            assert value == bytes([number % 256]) * (1 + number * 7919 % 20_000)
        assert [int.from_bytes(key, "big") for key, _ in store.read("last")] == ([count] if count else [])
        return count
    finally:
        store.close()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_was_acknowledged_before_a_kill_is_there_whole(tmp_path, seed):
    moments = random.Random(seed)
    path = tmp_path / "state.db"
    held = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", COMMITTING, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout.readline() == f"open {held}\n"
            acknowledged = held
            for _ in range(moments.randrange(12)):
                acknowledged = int(child.stdout.readline())
            for _ in range(moments.randrange(40_000)):
                pass  # a moment within the next transactions
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:  # what it could still say before it died
                acknowledged = int(line)
        assert child.returncode == -signal.SIGKILL
        held = whole_transactions(path)
        assert held in {acknowledged, acknowledged + 1}
    assert held > 0


def test_a_file_that_may_not_grow_is_a_full_disk_and_keeps_its_state(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "state.db"
    child = subprocess.run(
        [sys.executable, "-c", FILLING, path], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stderr
    reason, number = child.stdout.splitlines()
    assert reason.startswith(f"{path}: the disk takes no more")
    store = SqliteStore(path)
    assert [len(value) for _, value in store.read("kept")] == [5000, len(b"room again")]
    assert len(store.read("filling")) == 4 * int(number) > 0
    store.close()
