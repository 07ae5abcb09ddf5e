"""The simulator is true: the same scenario on real daemons and in virtual time costs the same bytes and takes the same rounds.

`scenarios/packaged/truth.toml` is the same comparison with sixteen devices; docs/decisions/0011 has its figures.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

DEVICES = 6
ROUNDS = 6
# Of the bytes of a device. A short run is mostly its beginning, where who greets whom depends on how fast processes start:
# four pairs, one of them beside three processes that kept both cores busy, differed by 0 to 1.0 %.
BYTES_WITHIN = 0.03
# Of what is no message, so that no error hides behind another one: a dial that crosses another's costs up to 7 % more.
BESIDE_WITHIN = 0.15
A_SUM_WITHIN = 0.005  # of what the steps of the sums cost, which depends on nothing but their number
CODED_WITHIN = 0.05  # of what is coded by its values: two runs learn in different orders

# All are in every sum: phases take as long as others need to be there, and a round waits for all of them.
SCENARIO = f"""
name = "pair"
summary = "A few devices, as daemons and in virtual time."
task = "digits"
test = "every fifth image"
rounds = {ROUNDS}

[swarm.training]
min_steps = 10
max_steps = 40
phase_s = 2.0

[swarm.cohorts]
n_min = {DEVICES}
gather_s = 2.0
step_s = 5.0

[devices]
count = {DEVICES}
data = "shard={{index}}/{{count}}"
"""
OF_A_SUM = ("SHARES", "KEYS_SET", "MASKED", "SEAL_CERTIFICATE", "UNMASK", "BODY_PROPOSAL", "RESULT")
CODED = {"BODY_PROPOSAL"}
# Each member draws by chance which sums it audits: of six sums none or one, and one is 5 % of all bytes.
DRAWN = ("AUDIT_REQUEST", "AUDIT_ANSWER")


def ran(folder: Path, command: str) -> dict[str, object]:
    (folder / "pair.toml").write_text(SCENARIO)
    subprocess.run(
        [sys.executable, "-m", "node", command, "pair.toml", "--json", f"{command}.json"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=150,
    )
    return json.loads((folder / f"{command}.json").read_text())


def test_daemons_and_the_simulator_agree_on_bytes_and_rounds():
    # Not tmp_path: a unix socket's path has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        real = ran(Path(folder), "swarm")
        [virtual] = ran(Path(folder), "simulate")["runs"]
    nodes = real["nodes"]
    assert real["rounds"] == virtual["rounds"] == ROUNDS
    audited = sum(real["bytes_by_kind"].get(kind, {"sent": 0})["sent"] for kind in DRAWN) / len(nodes)
    moved = sum(node["bytes_sent"] + node["bytes_received"] for node in nodes) / len(nodes) - 2 * audited
    virtual_audited = sum(virtual["sent_by_kind"].get(kind, 0) for kind in DRAWN)
    assert virtual["bytes_per_device"] - 2 * virtual_audited == pytest.approx(moved, rel=BYTES_WITHIN)
    messages = sum(kind["sent"] for kind in real["bytes_by_kind"].values()) / len(nodes)
    beside = sum(node["bytes_sent"] for node in nodes) / len(nodes) - messages
    virtual_beside = virtual["sent_per_device"] - sum(virtual["sent_by_kind"].values())
    assert virtual_beside == pytest.approx(beside, rel=BESIDE_WITHIN)
    for kind in OF_A_SUM:
        told = real["bytes_by_kind"][kind]["sent"] / len(nodes)
        within = CODED_WITHIN if kind in CODED else A_SUM_WITHIN
        assert virtual["sent_by_kind"][kind] == pytest.approx(told, rel=within), kind
