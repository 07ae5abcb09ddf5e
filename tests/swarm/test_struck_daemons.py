"""Real daemons whose founder takes back what one of them has given."""

import json

import pytest

from tests.swarm.test_daemon_life import device, ends  # noqa: F401 - a fixture

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]


def test_the_founder_takes_back_what_a_device_has_given_and_all_are_equal_again(device):  # noqa: F811
    founder, *others = devices = [device(name) for name in ("one", "two", "three", "four")]
    first, address = founder.listening()
    processes = [first, *(each.listening("--bootstrap", address)[0] for each in others)]
    bad = others[1]
    peer = bad.until(lambda status: status["contributions"] >= 1)["peer_id"]

    refused = others[0].run("peers", "remove", peer, "--strike-since", "1")
    assert (refused.returncode, "only the founder" in refused.stderr) == (1, True)
    assert founder.status()["peer_id"] in refused.stderr, "whom to ask"
    assert founder.status()["struck"] == []
    assert founder.run("peers", "remove", peer, "--strike-since", "0").returncode == 2

    struck = founder.run("peers", "remove", peer[-8:], "--strike-since", "1", "--json")
    assert struck.returncode == 0, struck.stderr
    told = json.loads(struck.stdout)
    assert told["peer_id"] == told["strike"]["peer_id"] == peer
    assert told["strike"]["since"] == 1
    assert told["strike"]["sums"] >= 1
    assert (told["revoked"], "certificate" in told["not_revoked"]) == (False, True)
    for each in devices:
        each.until(lambda status: [one["since"] for one in status["struck"]] == [1])
    bad.until(lambda status: "does not count" in status["warning"])
    again = founder.run("peers", "remove", peer, "--strike-since", "3")
    assert (again.returncode, "since round 1" in again.stderr) == (0, True), "the earliest counts"
    assert f"{peer} is struck since round 1" in others[0].run("status").stdout
    assert "struck since round 1" in others[0].run("peers").stdout

    rounds = founder.status()["round"]
    rest = [each for each in devices if each is not bad]
    founder.until(lambda status: status["round"] >= rounds + 2)  # without it
    for each in rest:
        each.until(lambda status: status["round"] >= rounds + 2)

    bits = {}
    for _ in range(200):
        bits = {
            each.home.path.name: (each.status()["history_digest"], each.status()["replica_sha256"])
            for each in rest
        }
        if len(set(bits.values())) == 1:
            break
    assert len(set(bits.values())) == 1, bits

    processes[0].terminate()
    ends(first, 0)
    founder.listening("--bootstrap", address)
    founder.until(lambda status: [one["since"] for one in status["struck"] or ()] == [1])
