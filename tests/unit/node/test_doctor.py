"""Each finding of the doctor, from what was measured."""

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from node.doctor.judge import (
    CLOCK_S,
    Finding,
    Multicast,
    Port,
    Visit,
    judge_clock,
    judge_devices,
    judge_home,
    judge_identity,
    judge_interfaces,
    judge_multicast,
    judge_port,
    judge_relaying,
    judge_versions,
)
from node.lan.notice import Interface, Notice

HOME = Path("/home/ada/gossamer")
NOTICE = Notice("ab" * 8, "home", "kitchen", "12D3KooWme", "open", ("/ip4/10.0.0.2/tcp/4001",))
SEEN = Visit(NOTICE, NOTICE.addresses, 0.0)
RELEASES = {"gossamer": "0.1.0", "libp2p": "0.8.1", "zeroconf": "0.150.5"}
HOUR_S, NOW, LONG_AGO = 3600.0, 1e9, 0.0


def fails(finding, *words):
    assert not finding.ok
    assert finding.next
    assert finding.line.startswith(f"FAIL  {finding.check}")
    assert finding.line.endswith(f"; next: {finding.next}")
    for word in words:
        assert word in finding.line, finding.line
    return True


def holds(finding, *words):
    assert finding.ok, finding.line
    assert finding.line.startswith("ok    ")
    assert all(word in finding.text for word in words), finding.text
    return True


def test_versions():
    assert holds(judge_versions((3, 13), RELEASES), "libp2p 0.8.1")
    assert fails(judge_versions((3, 10), RELEASES), "Python 3.11 or later")
    assert fails(judge_versions((3, 11), RELEASES | {"libp2p": "0.9.0"}), "libp2p is 0.9.0, not 0.8.1")
    assert fails(judge_versions((3, 11), RELEASES | {"zeroconf": None}), "zeroconf is missing")


def test_a_home():
    assert holds(judge_home(HOME, made=False, problem=""), "gossamer init")
    assert holds(judge_home(HOME, made=True, problem=""))
    open_to_others = f"{HOME}: open to other users (mode 0755); close it with: chmod 700 {HOME}"
    assert judge_home(HOME, made=True, problem=open_to_others).next == f"chmod 700 {HOME}"
    assert fails(judge_home(HOME, made=True, problem=f"{HOME}: belongs to user 7, not to you"), "ls -la")


def test_interfaces():
    wifi = Interface("wlan0", (ipaddress.ip_interface("10.0.0.1/24"),))
    assert holds(judge_interfaces([wifi], [wifi]), "wlan0 10.0.0.1/24")
    assert fails(judge_interfaces([replace(wifi, name="docker0")], []), "(up: docker0)")
    assert fails(judge_interfaces([], []), "(up: none)")
    deaf = replace(wifi, multicast=False)
    assert fails(judge_interfaces([deaf], []), "switched off", "ip link set wlan0 multicast on")


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Port("/ip4/0.0.0.0/tcp/4001", "in use"), ("port 4001 is in use", "ss -ltnp")),
        (Port("/ip4/10.9.9.9/tcp/1", "not ours"), ("10.9.9.9 is no address of this device", "network.listen")),
        (Port("/ip4/0.0.0.0/tcp/80", "refused", "Permission denied"), ("Permission denied",)),
        (Port("/ip4/10.0.0.1/tcp/4001", None, "timed out", ("10.0.0.1:4001",)), ("timed out", "ufw allow 4001")),
    ],
)  # fmt: skip
def test_a_port_that_does_not_open(port, words):
    assert fails(judge_port(port, HOME / "config.toml"), *words)


def test_a_port_that_opens():
    assert holds(judge_port(Port("/ip4/0.0.0.0/tcp/4001"), None), "reached")
    assert holds(judge_port(Port("/ip4/127.0.0.1/tcp/0"), None), "this machine alone", "--listen")


def test_relaying():
    status = {"relays": [], "reached": False, "asked": 0, "circuits": 0}
    assert judge_relaying(None) == []
    for changes, words in (
        ({}, "needs none"),
        ({"relays": ["12D3KooWRosa"], "asked": 1}, "reached through 12D3KooWRosa"),
        ({"reached": True, "circuits": 3}, "carries 3 circuits"),
    ):
        [finding] = judge_relaying(status | changes)
        assert holds(finding, words)
    [finding] = judge_relaying(status | {"asked": 2})
    assert fails(finding, "none of its neighbours relays for it", "gossamer peers")


def test_multicast():
    assert holds(judge_multicast(Multicast("wlan0", own=True, others=("10.0.0.2",))), "10.0.0.2")
    assert holds(judge_multicast(Multicast("wlan0", own=True)), "not known")
    assert fails(
        judge_multicast(Multicast("wlan0", own=True, directly=("10.0.0.2",))),
        "carries no multicast",
        "--bootstrap",
    )
    assert fails(judge_multicast(Multicast("wlan0")), "firewall", "5353")
    assert fails(judge_multicast(Multicast("wlan0", "No such device")), "wlan0: No such device")


def test_a_clock_that_is_off_by_an_hour():
    one = judge_clock({"kitchen": HOUR_S}, NOW, LONG_AGO)
    assert fails(one, "1 h ahead on kitchen", "one of two is off")
    ours = judge_clock({"kitchen": -HOUR_S, "hall": -HOUR_S - 2}, NOW, LONG_AGO)
    assert fails(ours, "this device's is off", "1 h behind on kitchen", "1 h behind on hall")
    theirs = judge_clock({"kitchen": HOUR_S, "hall": 1.0, "attic": 0.0}, NOW, LONG_AGO)
    assert fails(theirs, "theirs may be off", "1 h ahead on kitchen")
    assert "hall" not in theirs.text
    assert fails(judge_clock({}, NOW, NOW + 90 * 60), "1 h 30 min before its own files")


def test_a_clock_that_is_right():
    assert holds(judge_clock({"kitchen": CLOCK_S - 1, "hall": -3.0}, NOW, NOW - 1), "5 min")
    assert holds(judge_clock({}, NOW, LONG_AGO), "no other device")


def test_a_second_device_with_the_same_key():
    mine = NOTICE.peer_id
    assert holds(judge_identity(None, []))
    assert holds(judge_identity(mine, []), mine)
    assert fails(judge_identity(mine, [SEEN]), "duplicate identity", "has the key", "/ip4/10.0.0.2/tcp/4001")
    unproven = replace(SEEN, clock_ahead_s=None, problem="no answer")
    assert fails(judge_identity(mine, [unproven]), "duplicate identity", "announces")
    # Anyone can announce any peer id; who then cannot prove it is nobody's double.
    assert holds(judge_identity(mine, [replace(unproven, impostor=True)]), "has not its key")


def test_devices_nearby():
    assert [each.text for each in judge_devices([])] == ["no device was found"]
    [well] = judge_devices([SEEN])
    assert holds(well, "kitchen answers")
    [silent] = judge_devices([SEEN, replace(SEEN, clock_ahead_s=None, problem="Connection refused")])
    assert fails(silent, "kitchen announces /ip4/10.0.0.2/tcp/4001", "Connection refused")
    many = [replace(SEEN, clock_ahead_s=None, problem="no answer")] * 100
    assert len(list(judge_devices(many))) < 10


def test_a_finding_is_one_line():
    assert Finding("port", True, "fine").line == "ok    port       fine"
