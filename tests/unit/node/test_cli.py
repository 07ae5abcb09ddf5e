"""The command line without a daemon: what it prints where, and with which exit code it ends."""

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.identity import Identity
from node.cli import app
from node.cli import device as device_commands
from node.cli import peers as peers_commands
from node.config.settings import load_config
from node.doctor.judge import Finding
from node.lan.notice import Interface, Notice

PEER = Identity(bytes(range(32))).peer_id
JOIN = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"


class Told:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def is_one_line(self) -> bool:
        return self.err.count("\n") == 1 and not self.out and "Traceback" not in self.err


@pytest.fixture
def gossamer(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "home"))

    def run(*words: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["gossamer", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        said = capsys.readouterr()
        return Told(ended.value.code, said.out, said.err)

    return run


def test_a_device_gets_a_home_and_is_told_what_comes_next(gossamer, tmp_path):
    told = gossamer("init", "--name", "kitchen", "--data", "subjects=3", "--bootstrap", JOIN)
    assert told.code == 0
    home = tmp_path / "home"
    assert told.out.strip() == Identity((home / "identity.key").read_bytes()).peer_id
    assert "gossamer up" in told.err
    made = load_config(home / "config.toml")
    assert (made.name, made.task.data, made.network.bootstrap) == ("kitchen", "subjects=3", (JOIN,))
    assert made.network.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert gossamer("config", "check").code == 0


def test_a_home_is_never_made_twice(gossamer, tmp_path):
    gossamer("init")
    before = (tmp_path / "home" / "identity.key").read_bytes()
    again = gossamer("init")
    assert (again.code, again.is_one_line()) == (4, True)
    assert (tmp_path / "home" / "identity.key").read_bytes() == before


def test_an_option_goes_before_the_environment(gossamer, tmp_path):
    assert gossamer("init", "--home", str(tmp_path / "other")).code == 0
    assert not (tmp_path / "home").exists()
    assert gossamer("config", "check", "--home", str(tmp_path / "other")).code == 0


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["config"], ["config", "--help"]])
def test_help_is_data(gossamer, words):
    told = gossamer(*words)
    assert (told.code, told.err) == (0, "")
    assert "Usage: gossamer" in told.out


@pytest.mark.parametrize(
    "command",
    [
        *("init", "up", "down", "status", "peers", "ping", "nearby", "doctor", "config check", "swarm"),
        *("peers block", "peers allow", "peers remove", "leave"),
    ],
)
def test_every_command_explains_itself(gossamer, command):
    told = gossamer(*command.split(), "--help")
    assert (told.code, told.err) == (0, "")
    assert f"Usage: gossamer {command}" in told.out
    assert "--background" not in told.out


def test_the_version_is_told(gossamer):
    told = gossamer("--version")
    assert (told.code, told.err) == (0, "")
    assert told.out.strip().count(".") == 2


@pytest.mark.parametrize(
    "words",
    [
        "unknown",
        "config unknown",
        "up --unknown",
        "up --bootstrap",
        "up --bootstrap /ip4/127.0.0.1/tcp/4001",
        f"up --bootstrap /ip4/127.0.0.1/tcp/70000/p2p/{PEER}",
        "init --listen 127.0.0.1:4001",
        "init --task my.module:task",
        "status --json=maybe",
        "peers block",
        "peers block abc",
    ],
)
def test_what_makes_no_sense_is_a_usage_error(gossamer, words, tmp_path):
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (2, True), told.err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("words", ["up", "up --detach", "down", "status", "peers", "config check"])
def test_without_a_home_the_way_to_one_is_told(gossamer, words, tmp_path):
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (4, True)
    assert f"gossamer init --home {tmp_path / 'home'}" in told.err


def test_who_belongs_to_no_swarm_leaves_none(gossamer):
    gossamer("init")
    told = gossamer("leave", "--yes")
    assert (told.code, told.is_one_line(), "belongs to no swarm" in told.err) == (1, True, True)


@pytest.mark.parametrize(
    "words",
    ["down", "status", "status --json", "peers", "peers --json", "peers block abcd", "peers remove abcd"],
)
def test_without_a_daemon_nothing_can_be_asked(gossamer, words):
    gossamer("init")
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (3, True)
    assert "gossamer up" in told.err


@pytest.mark.parametrize("words", ["up", "up --detach", "config check"])
def test_settings_that_cannot_be_used_are_refused_by_name(gossamer, words, tmp_path):
    gossamer("init")
    settings = tmp_path / "home" / "config.toml"
    settings.write_text(settings.read_text().replace("rounds = 0", "rounds = -1"))
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (4, True)
    assert "swarm.rounds" in told.err
    assert not (tmp_path / "home" / "state.db").exists()


def test_a_file_can_be_checked_before_it_is_anybodys(gossamer, tmp_path):
    file = tmp_path / "draft.toml"
    file.write_text('name = "x"\n[task]\nname = "watch"\ndata = "subjects=1"\nfolder = "nowhere"\n')
    told = gossamer("config", "check", str(file))
    assert (told.code, told.is_one_line()) == (4, True)
    assert "nowhere" in told.err


@pytest.mark.parametrize("words", ["up", "status", "config check"])
def test_a_home_that_others_can_read_is_refused(gossamer, words, tmp_path):
    gossamer("init")
    (tmp_path / "home").chmod(0o755)
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (4, True)
    assert "chmod 700" in told.err


def test_an_interrupt_ends_a_command_in_one_line_and_with_its_code(gossamer, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    gossamer("init")
    monkeypatch.setattr(device_commands, "call", interrupted)
    told = gossamer("status")
    assert (told.code, told.is_one_line()) == (130, True)


STATUS = {
    "name": "kitchen", "peer_id": PEER, "swarm": {"id": "00", "name": "home"}, "task": "watch", "pid": 1,
    "trainer_pid": 2, "state": "running", "doing": "trains on its own data",
    "waits_for": "1 more device", "round": 3, "rounds": 40, "live": [PEER, PEER], "neighbours": [PEER],
    "contributions": 2, "cohorts_aborted": 0, "sums_refused": 0, "checkpoints_refuted": 0, "struck": [], "sums_taken_back": 0, "accuracy": 0.5, "accuracy_round": 2, "steps": 60,
    "addresses": [JOIN], "traffic": {"sent": 1_000_000, "received": 2_000_000},
    "pss_mb": {"daemon": 90.0, "trainer": None},
}  # fmt: skip


def test_a_status_is_for_people_or_for_programs(gossamer, monkeypatch):
    gossamer("init")
    monkeypatch.setattr(device_commands, "call", lambda *_, **__: STATUS)
    people, program = gossamer("status"), gossamer("status", "--json")
    assert "It trains on its own data, and waits for 1 more device." in people.out
    assert "round 3 of 40, accuracy 0.500" in people.out
    assert JOIN in people.out
    assert json.loads(program.out) == STATUS


def test_a_double_is_in_the_status(gossamer, monkeypatch):
    doubled = STATUS | {"nearby": {"doubles": ["gossamer-0"]}}
    gossamer("init")
    monkeypatch.setattr(device_commands, "call", lambda *_, **__: doubled)
    assert "WARNING: another device on this network announces this one's key" in gossamer("status").out


@pytest.mark.parametrize(("findings", "code"), [([True, True], 0), ([True, False], 1)])
def test_the_doctor_says_what_is_wrong_and_fails_with_it(gossamer, monkeypatch, findings, code):
    found = [Finding("port", ok, "seen", "" if ok else "ss -ltnp") for ok in findings]
    monkeypatch.setattr("node.doctor.measure.examine", lambda _: found)
    people, program = gossamer("doctor"), gossamer("doctor", "--json")
    assert (people.code, program.code) == (code, code)
    assert people.out.splitlines() == [each.line for each in found]
    told = json.loads(program.out)
    assert (told["ok"], [each["ok"] for each in told["findings"]]) == (code == 0, findings)


def test_a_starting_node_has_a_status_too(gossamer, monkeypatch):
    starting = dict.fromkeys(STATUS) | {"name": "kitchen", "doing": "starts", "waits_for": "its libraries"}
    gossamer("init")
    monkeypatch.setattr(device_commands, "call", lambda *_, **__: starting)
    told = gossamer("status")
    assert told.code == 0
    assert "It starts, and waits for its libraries." in told.out


def test_what_others_said_cannot_drive_the_terminal(gossamer, monkeypatch):
    hostile = STATUS | {"waits_for": "a device; so far: \x1b[2Jall is well\n0 problems"}
    gossamer("init")
    monkeypatch.setattr(device_commands, "call", lambda *_, **__: hostile)
    told = gossamer("status")
    assert "\x1b" not in told.out
    assert "\n0 problems" not in told.out


def struck(**how):
    return {"peer_id": PEER, "since": 3, "sums": 4, "by_founder": True, "signed": 1, "needed": 3} | how


def removed(**how):
    told = {"peer_id": PEER, "wish": "remove", "knocked": False, "strike": struck(), "revoked": False}
    return told | {"not_revoked": "it does not admit by certificate"} | how


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            removed(),
            ["4 sums to which", "since round 3 do not count any more", "does not admit by certificate"],
        ),
        (removed(strike=struck(sums=1)), ["1 sum to which", "does not count any more"]),
        (removed(revoked=True, not_revoked=""), ["4 sums", "no longer belongs to the swarm"]),
        (
            removed(strike=struck(since=None, sums=0, by_founder=False, signed=2)),
            ["takes 3 of the founder's inviters, and 2 have signed: until then every sum counts"],
        ),
    ],
    ids=["struck", "one sum", "revoked", "too few yet"],
)
def test_what_a_strike_did_is_said_in_words_or_for_programs(gossamer, monkeypatch, answer, words):
    asked = []
    monkeypatch.setattr(peers_commands, "call", lambda *_, json, **__: asked.append(json) or answer)
    gossamer("init")
    told = gossamer("peers", "remove", PEER[-6:], "--strike-since", "3")
    assert (told.code, asked) == (0, [{"peer": PEER[-6:], "wish": "remove", "strike_since": 3}])
    assert all(word in told.err for word in words), told.err
    assert json.loads(gossamer("peers", "remove", PEER, "--strike-since", "3", "--json").out) == answer
    assert gossamer("peers", "remove", PEER, "--strike-since", "0").code == 2


def test_a_status_tells_who_is_struck_since_when_and_what_that_took_out(gossamer, monkeypatch):
    waiting = struck(since=None, sums=0, signed=2)
    known = STATUS | {"struck": [struck(), waiting], "sums_taken_back": 5}
    gossamer("init")
    monkeypatch.setattr(device_commands, "call", lambda *_, **__: known)
    told = gossamer("status").out
    assert f"{PEER} is struck since round 3: 4 sums do not count" in told
    assert f"{PEER}: 2 of 3 inviters have signed that it be struck" in told
    assert "5 sums taken back in all" in told


PINGED = {
    "peer_id": PEER, "address": "/ip4/10.0.0.2/tcp/4001", "route": "lan", "count": 5, "min_ms": 0.71, "median_ms": 1.3,
    "clock_ahead_s": 0.0,
}  # fmt: skip


def test_a_neighbour_is_pinged_by_the_end_of_its_id(gossamer, monkeypatch):
    asked = []
    monkeypatch.setattr(device_commands, "call", lambda *_, json, **__: asked.append(json) or PINGED)
    gossamer("init")
    told = gossamer("ping", PEER[-6:])
    assert (told.code, asked) == (0, [{"peer": PEER[-6:], "count": 5}])
    assert "0.7 ms at best, 1.3 ms median of 5  lan  /ip4/10.0.0.2/tcp/4001" in told.out
    assert json.loads(gossamer("ping", PEER, "--json").out) == PINGED
    assert gossamer("ping", "abc").code == 2
    assert gossamer("ping", PEER, "--count", "17").code == 2


WIFI = Interface("wlan0", (ipaddress.ip_interface("10.0.0.1/24"),))
AROUND = Notice("ab" * 8, "home", "kitchen", PEER, "open", ("/ip4/10.0.0.2/tcp/4001", "/ip4/8.8.8.8/tcp/1"))


@pytest.fixture
def around(monkeypatch):
    found = {"x": AROUND}
    monkeypatch.setattr("node.lan.interfaces.usable_interfaces", lambda: [WIFI])
    monkeypatch.setattr("node.lan.mdns.look_around", lambda *_: found)
    return found


def test_what_is_around_is_seen_without_a_home(gossamer, around, tmp_path):
    told = gossamer("nearby")
    assert told.out.split() == [
        '"home"', "ab" * 8, "kitchen", "admits", "open", f"/ip4/10.0.0.2/tcp/4001/p2p/{PEER}",
    ]  # fmt: skip
    assert "gossamer up --nearby" in told.err
    assert json.loads(gossamer("nearby", "--json").out)["devices"][0]["peer_id"] == PEER
    assert not (tmp_path / "home").exists()


def test_where_nothing_is_around_it_says_why_that_may_be(gossamer, around):
    around.clear()
    told = gossamer("nearby", "--seconds", "2")
    assert (told.code, told.out) == (0, "")
    for word in ("wlan0 10.0.0.1", "within 2 s", "network.nearby", "multicast", "gossamer doctor"):
        assert word in told.err


def test_the_command_line_loads_nothing_heavy(tmp_path):
    heavy = ["torch", "libp2p", "zeroconf", "trio", "numpy", "starlette", "hypercorn", "sqlite3"]
    script = (
        "import sys; from node.cli import app; sys.argv = ['gossamer', '--help']\n"
        "try: app.main()\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    environ = os.environ | {"GOSSAMER_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, check=True)
    assert told.stderr.decode().strip() == "[]"


@pytest.mark.parametrize(
    ("loaded", "heavy"),
    [
        ("node.cli.device", ["torch", "libp2p", "trio", "starlette"]),
        # libp2p takes seconds, in which a daemon answers already: it is loaded later, by a thread.
        ("node.daemon.lifecycle, node.doctor.measure, node.join.new_home", ["libp2p", "multiaddr"]),
    ],
)
def test_who_only_asks_or_starts_does_not_load_what_takes_seconds(loaded, heavy):
    script = f"import sys; import {loaded}\nprint([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert told.stdout.decode().strip() == "[]"


def test_the_module_is_the_command(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "node", "status", "--home", str(tmp_path / "none")],
        capture_output=True,
        check=False,
    )
    assert told.returncode == 4
    assert Path(tmp_path / "none").exists() is False
