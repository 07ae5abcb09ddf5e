"""A join makes a home of a folder, or leaves it as it was; and the commands say what they were told."""

import json

import msgspec
import pytest

from crypto.identity import Identity
from gossip.membership.statements import issue
from node.cli import invite as invite_commands
from node.config.errors import ConfigError
from node.config.settings import load_config
from node.home import Home, HomeError, init_home, open_home, read_identity
from node.join import new_home as newcomer_module
from node.join.bootstrap import kept_credential, kept_manifest
from node.join.new_home import EVERYWHERE, Newcomer, Wishes
from node.join.search import Joined
from tests.simulation.harness import tiny_swarm
from tests.unit.node.test_cli import gossamer  # noqa: F401 - a fixture

ADA = Identity(bytes([1]) * 32)
WATCH = tiny_swarm(ADA, [], admit="invite")
LAN = f"/ip4/192.168.1.5/tcp/4001/p2p/{ADA.peer_id}"


def swarm_of(task):
    manifest = WATCH.manifest
    told = msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, task=task))
    return type(WATCH)(WATCH.id, told, WATCH.signed)


def joined(newcomer, address=LAN):
    statement = issue(ADA, WATCH.id, newcomer.identity.public_key, 0, 1_800_000_000, 1_900_000_000, 0)
    return Joined(swarm_of("watch"), (statement,), address)


def test_the_key_makes_it_a_home_and_all_else_is_there_by_then(tmp_path):
    newcomer = Newcomer(tmp_path / "home", Wishes(name="bob"), None)
    assert not newcomer.path.exists()
    newcomer._check(swarm_of("watch"))
    assert not newcomer.path.exists()
    told = joined(newcomer)
    newcomer._keep(told)
    home = open_home(newcomer.path)
    assert read_identity(home).public_key == newcomer.identity.public_key
    assert kept_manifest(home).id == WATCH.id
    assert kept_credential(home) == told.statements
    config = load_config(home.config)
    assert (config.name, config.task.name, config.network.bootstrap) == ("bob", "watch", (LAN,))
    assert config.network.listen == (EVERYWHERE,)


def test_who_joins_on_one_machine_opens_no_port_to_others(tmp_path):
    newcomer = Newcomer(tmp_path / "home", Wishes(), None)
    newcomer._keep(joined(newcomer, LAN.replace("192.168.1.5", "127.0.0.1")))
    assert load_config(Home(newcomer.path).config).network.listen == ("/ip4/127.0.0.1/tcp/0",)


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("fails", ["keep_manifest", "keep_credential", "init_home"])
def test_whatever_fails_nothing_is_left(tmp_path, monkeypatch, fails, there_before):
    path = tmp_path / "home"
    if there_before:
        path.mkdir(mode=0o700)
    newcomer = Newcomer(path, Wishes(), None)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(newcomer_module, fails, full)
    with pytest.raises(HomeError, match="No space left"):
        newcomer._keep(joined(newcomer))
    assert path.exists() == there_before
    assert list(tmp_path.rglob("*")) == [path] * there_before


def test_a_manifest_never_chooses_what_is_imported(tmp_path):
    newcomer = Newcomer(tmp_path / "home", Wishes(), None)
    for task in ("os:system", "package.module:task", "nothing-of-ours"):
        with pytest.raises(ConfigError, match="--task"):
            newcomer._check(swarm_of(task))
    own = Newcomer(tmp_path / "home", Wishes(task="mine.tasks:walk", data="all"), None)
    own._check(swarm_of("os:system"))
    assert own._settings(swarm_of("os:system"), LAN).task.name == "mine.tasks:walk"
    with pytest.raises(ConfigError, match="--data"):
        Newcomer(tmp_path / "home", Wishes(task="mine.tasks:walk"), None)._check(swarm_of("os:system"))


def test_where_no_home_can_be_made_nobody_is_asked(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "state.db").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "home", tmp_path / "half"):
        with pytest.raises(HomeError, match="--home"):
            Newcomer(path, Wishes(), None)


def test_an_old_home_keeps_its_settings_and_its_key(tmp_path):
    seed = bytes([7]) * 32
    home = init_home(tmp_path / "home", 'name = "old"\n[task]\nname = "watch"\ndata = "subjects=3"\n', seed)
    before = home.config.read_bytes()
    newcomer = Newcomer(home.path, Wishes(), None)
    assert (newcomer.name, newcomer.is_new, newcomer.identity.public_key) == (
        "old",
        False,
        Identity(seed).public_key,
    )
    newcomer._keep(joined(newcomer))
    assert home.config.read_bytes() == before
    again = Newcomer(home.path, Wishes(), None)
    assert again._kept.id == WATCH.id
    again._keep(joined(again))  # a renewal


# --- what is typed, and said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("join", 2),
        ("join 4170-maple-otter --ask home", 2),
        ("join 4170-mapel-otter", 2),
        ("join gossamer:join?v=1", 2),
        ("join 4170-maple-otter --listen nowhere", 2),
        ("invite --ttl soon", 2),
        ("invite --uses 65", 2),
        ("invite", 4),
    ],
)
def test_what_makes_no_sense_is_said_at_once(gossamer, tmp_path, words, code):  # noqa: F811
    told = gossamer(*words.split())
    assert (told.code, told.is_one_line()) == (code, True), told.err
    assert not (tmp_path / "home").exists()


def test_a_failed_join_is_told_to_programs_too(gossamer, tmp_path):  # noqa: F811
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("")
    told = gossamer("join", "4170-maple-otter", "--json")
    assert told.code == 4
    assert json.loads(told.out)["exit_code"] == 4
    assert told.err.count("\n") == 1


MADE = {
    "number": 4170, "code": "4170-maple-otter", "link": "gossamer:join?v=1&n=4170&s=x&p=y&a=/ip4/127.0.0.1/tcp/1",
    "addresses": [f"/ip4/127.0.0.1/tcp/1/p2p/{ADA.peer_id}"], "swarm": "home", "left_s": 600, "uses": 1, "after": 0,
}  # fmt: skip


def news(what, **more):
    return {"what": what, "talk": 3, "peer_id": ADA.peer_id, "name": "bob", "word": "maple", "why": ""} | more


@pytest.fixture
def daemon(monkeypatch):
    """A daemon that tells of one newcomer, and what it is asked."""
    asked = []

    def call(_home, _method, path, *, json=None, **_):
        asked.append((path, json))
        if path == "/invite":
            return MADE
        if path == "/invite/watch":
            if json["after"] == 0:
                return {"news": [news("asks")], "after": 1}
            return {"news": [news("joined"), news("ended", why="used", name="", peer_id=None)], "after": 3}
        return {}

    monkeypatch.setattr(invite_commands, "call", call)
    return asked


@pytest.mark.parametrize(
    ("typed", "allow"), [("y\n", True), ("Yes\n", True), ("\n", False), ("", False), ("nein\n", False)]
)
def test_a_person_is_asked_and_silence_is_a_no(gossamer, daemon, monkeypatch, typed, allow):  # noqa: F811
    gossamer("init")
    monkeypatch.setattr("sys.stdin.readline", lambda: typed, raising=False)
    told = gossamer("invite", "--qr")
    assert told.code == 0
    assert ("/invite/answer", {"talk": 3, "allow": allow}) in daemon
    assert daemon[-1] == ("/invite/withdraw", {"number": 4170})
    assert told.out.splitlines()[:2] == [MADE["code"], MADE["link"]]
    assert "wants to join; check word: maple" in told.err
    assert "on this machine alone" in told.err


def test_a_program_is_told_line_by_line(gossamer, daemon):  # noqa: F811
    gossamer("init")
    told = gossamer("invite", "--yes", "--json", "--ttl", "2h", "--uses", "3")
    assert daemon[0] == ("/invite", {"ttl_s": 7200.0, "uses": 3})
    assert [json.loads(line)["event"] for line in told.out.splitlines()] == [
        "invitation",
        "asks",
        "joined",
        "ended",
    ]
    assert ("/invite/answer", {"talk": 3, "allow": True}) in daemon
    assert "WARNING" in told.err
