"""A settings file is read exactly as written, or refused in one line that says what to change."""

import re

import pytest
from msgspec import inspect, structs

from crypto.identity import Identity
from gossip import manifest
from node.config import settings, toml
from node.config.errors import ConfigError
from node.config.settings import Config, SwarmSettings, TaskSettings, config_text, load_config
from node.config.toml import load_toml

ANA = Config(name="ana", task=TaskSettings(name="watch", data="subjects=3"))
BEA = Identity(bytes(31) + b"b")
BOOTSTRAP = f"/ip4/127.0.0.1/tcp/4001/p2p/{BEA.peer_id}"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(config_text(ANA))
    return path


def refusal(path):
    """The one line with which the file is refused; reading it has changed nothing."""
    before = [(each.name, each.stat().st_mtime_ns, each.read_bytes()) for each in path.parent.iterdir()]
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [
        (each.name, each.stat().st_mtime_ns, each.read_bytes()) for each in path.parent.iterdir()
    ] == before
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(str(path))
    assert caught.value.exit_code == 4
    return line.removeprefix(str(path))


def test_the_file_that_is_written_reads_back_as_the_same_settings(path):
    assert load_config(path) == ANA


def test_settings_that_are_not_the_default_survive_the_file_too(tmp_path):
    swarm = SwarmSettings(
        name="evening walk",
        rounds=12,
        admit="members",
        members=(BEA.peer_id,),
        seed=7,
        training=settings.TrainingSettings(
            schedule=(
                settings.ScheduleStep(1, 256),
                settings.ScheduleStep(from_round=30, size=128, momentum=64),
            ),
            rounds_ahead=7,
            foresight=manifest.FORESIGHT_MAX,
        ),
        compression=settings.CompressionSettings(codec="lowrank", lane_bits=16, newton_schulz=3),
        cohorts=settings.CohortSettings(n_min=4, n_max=manifest.COHORT_MAX, gather_s=0.25),
    )
    odd = structs.replace(
        ANA,
        task=TaskSettings(
            name="my.module:task", data='a "quoted" \\ part', folder=str(tmp_path), seed=2**32 - 1
        ),
        network=settings.NetworkSettings(listen=("/ip6/::1/tcp/4001",), bootstrap=(BOOTSTRAP,)),
        swarm=swarm,
    )
    (tmp_path / "config.toml").write_text(config_text(odd))
    assert load_config(tmp_path / "config.toml") == odd


def test_a_file_may_say_no_more_than_it_must(tmp_path):
    (tmp_path / "config.toml").write_text('name = "ana"\n[task]\nname = "watch"\ndata = "subjects=3"\n')
    assert load_config(tmp_path / "config.toml") == ANA


def test_every_key_is_explained_once():
    kind = inspect.type_info(Config)
    assert isinstance(kind, inspect.StructType)
    told_apart = {key for key in toml.dotted_keys(kind) if "schedule." not in key}
    assert set(settings.COMMENTS) == told_apart
    for comment in settings.COMMENTS.values():
        assert config_text(ANA).count(f"# {comment}\n") == 1


def test_a_scenario_reads_the_swarm_tables_on_their_own(tmp_path):
    class Scenario(settings.Section, frozen=True):
        swarm: SwarmSettings

    path = tmp_path / "quickstart.toml"
    path.write_text("[swarm]\nrounds = 5\n[swarm.cohorts]\nn_min = 4\n")
    read = load_toml(path, Scenario).swarm
    assert (read.rounds, read.cohorts.n_min, read.cohorts.n_max) == (5, 4, 16)
    path.write_text("[swarm]\nrounds = 5\n[swarm.cohorts]\nn_mim = 4\n")
    with pytest.raises(ConfigError, match=r"quickstart.toml, line 4: swarm.cohorts.n_mim: .* n_min\?"):
        load_toml(path, Scenario)


def test_what_the_settings_accept_is_what_the_manifest_accepts():
    def bounds(kind, renamed=()):
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        return {dict(renamed).get(field.name, field.name): field.type for field in info.fields}

    training = bounds(settings.TrainingSettings)
    founded = bounds(manifest.Training)
    for shared in ("min_steps", "max_steps", "cap", "rounds_ahead", "foresight"):
        assert training[shared] == founded[shared]
    assert (training["schedule"].min_length, training["schedule"].max_length) == (
        founded["schedule"].min_length,
        founded["schedule"].max_length,
    )
    assert bounds(settings.ScheduleStep) == bounds(manifest.Step)
    assert bounds(settings.CompressionSettings) == bounds(manifest.Compression)
    cohorts = bounds(settings.CohortSettings)
    assert {key: cohorts[key] for key in ("n_min", "n_max")} == {
        key: bounds(manifest.Cohorts)[key] for key in ("n_min", "n_max")
    }
    for seconds, milliseconds in (("gather_s", "gather_ms"), ("step_s", "step_ms")):
        limit = bounds(manifest.Cohorts)[milliseconds]
        assert (cohorts[seconds].ge * 1000, cohorts[seconds].le * 1000) == (limit.ge, limit.le)
    assert bounds(SwarmSettings)["admit"] == bounds(manifest.Manifest)["admit"]
    assert bounds(SwarmSettings)["rounds"] == bounds(manifest.Training)["rounds"]
    ours, theirs = bounds(SwarmSettings)["name"].type, bounds(manifest.Manifest)["name"]
    assert (ours.max_length, ours.pattern) == (theirs.max_length, theirs.pattern)


# What is written instead of what, and what the refusal says.
WRONG = {
    "misspelt key": ("neighbours = 8", "neighbors = 8", "network.neighbors: no such key; did you mean neighbours?"),
    "misspelt table": ("[trainer]", "[trainers]", "trainers: no such key; did you mean trainer?"),
    "key of another table": ("seed = 0", "threads = 2", "task.threads: no such key; known here: name, data, folder"),
    "key under no table": ('name = "ana"', 'name = "ana"\nthreads = 2', "threads: no such key; did you mean trainer.th"),
    "missing key": ('data = "subjects=3"', "", "task.data: missing; expected which part of the data"),
    "text for a number": ("threads = 1", 'threads = "1"', 'threads: "1" does not fit; expected a whole number from 1 t'),
    "true for a number": ("threads = 1", "threads = true", "trainer.threads: true does not fit; expected a whole"),
    "too few": ("threads = 1", "threads = 0", "trainer.threads: 0 does not fit; expected a whole number from 1 to 64"),
    "below a floor": ("rounds = 0", "rounds = -1", "swarm.rounds: -1 does not fit; expected a whole number, 0 or more"),
    "fraction": ("n_min = 3", "n_min = 3.5", "swarm.cohorts.n_min: 3.5 does not fit; expected a whole number from 3"),
    "a sum over two": ("n_min = 3", "n_min = 2", "swarm.cohorts.n_min: 2 does not fit; expected a whole number from 3"),
    "too large a cohort": ("n_max = 16", "n_max = 65", "n_max: 65 does not fit; expected a whole number from 3 to 64"),
    "no round ahead": ("rounds_ahead = 3", "rounds_ahead = 0", "rounds_ahead: 0 does not fit; expected a whole number from 1 to 64"),
    "too far ahead": ("foresight = 0", "foresight = 1025", "foresight: 1025 does not fit; expected a whole number from 0 to 1024"),
    "back in time": ("foresight = 0", "foresight = -1", "swarm.training.foresight: -1 does not fit; expected a whole number from 0"),
    "a share of one": ("foresight = 0", "foresight = 0.5", "swarm.training.foresight: 0.5 does not fit; expected a whole number from 0"),
    "far too evenly": ("newton_schulz = 0", "newton_schulz = 9", "newton_schulz: 9 does not fit; expected a whole number from 0 to 8"),
    "not a number": ("gather_s = 2.0", "gather_s = nan", "gather_s: nan does not fit; expected a number from 0.01 to"),
    "endless": ("step_s = 5.0", "step_s = inf", "swarm.cohorts.step_s: inf does not fit; expected a number from"),
    "a date": ("step_s = 5.0", "step_s = 2024-01-01", "swarm.cohorts.step_s: 2024-01-01 does not fit"),
    "unknown choice": ('"dense"\n', '"denes"\n', 'codec: "denes" does not fit; expected one of "dense", "lowrank"; did you'),
    "unknown width": ("lane_bits = 8", "lane_bits = 9", "lane_bits: 9 does not fit; expected one of 8, 16, 32"),
    "table for a list": ("bootstrap = []", "bootstrap = {}", "network.bootstrap: a table does not fit; expected a list of"),
    "bad item": ("bootstrap = []", "bootstrap = [3]", "network.bootstrap[0]: 3 does not fit; expected a text in quotes"),
    "no listening": ('listen = ["/ip4/127.0.0.1/tcp/0"]', "listen = []", "network.listen: a list does not fit; expected a"),
    "unsigned name": ('name = "ana"', 'name = "\\u001b[31m"', "does not fit; expected 1 to 64 letters"),
    "key of several lines": ("seed = 0", '"se\\ned" = 0', "task.se\\ned: no such key; did you mean seed?"),
    "host of several lines": ("/ip4/127.0.0.1", "/ip4/127\\n\\u001b[2J", "is no ip4 address"),
    "unnamed": ('name = "ana"', 'name = ""', 'name: "" does not fit; expected 1 to 64 letters'),
    "path as a task": ('"watch"\n', '"../watch"\n', 'task.name: "../watch" does not fit; expected a task\'s name'),
    "endless part": ('"subjects=3"', f'"{"3" * 257}"', "task.data: "),
    "step of a schedule": ("size = 256", "size = 257", "swarm.training.schedule[0].size: 257 does not fit"),
    "key of a schedule": ("size = 256", "sizes = 256", "swarm.training.schedule[0].sizes: no such key; did you mean size?"),
    "late schedule": ("from_round = 1", "from_round = 2", "swarm: training: the schedule starts at round 1"),
    "contradiction": ("max_steps = 80", "max_steps = 8", "swarm: training: min_steps 20 is above max_steps 8"),
    "sums that overflow": ("levels = 7", "levels = 8", "swarm: compression: 16 members of 8 levels overflow 8 bits"),
    "members of an open swarm": ("members = []", f'members = ["{BEA.peer_id}"]', "swarm.admit: members are listed if"),
    "nobody": ('"open"\n', '"members"\n', "swarm.admit: members are listed if and only if"),
    "no peer id": ("members = []", 'members = ["bea"]', "swarm.members[0]: an Ed25519 peer id has 52 characters"),
    "no folder": ('# folder = "..."', 'folder = "missing"', "missing is missing, or no folder; expected your data's"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_by_file_line_key_and_expectation(path, case):
    right, wrong, problem = WRONG[case]
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    assert problem in refusal(path)


def test_the_line_is_where_the_value_begins(path):
    text = path.read_text().replace("bootstrap = []", 'bootstrap = [\n  "x",\n  3,\n]')
    path.write_text(text)
    number = text.split("\n").index("bootstrap = [") + 1
    assert refusal(path).startswith(f", line {number}: network.bootstrap")
    path.write_text("\n\n[task]\nfolder = 3\n")
    assert refusal(path).startswith(", line 3: task.name: missing")
    path.write_text('name = "ana"\n\n[task]\nname = "watch"\ndata = 3\n')
    assert refusal(path).startswith(", line 5: task.data: 3 does not fit")
    path.write_text('name = "ana"\ntask = 3\n')
    assert refusal(path).startswith(", line 2: task: 3 does not fit; expected a table with name, data")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:4001", "no TCP multiaddr"),
        ("/ip4/127.0.0.1/udp/4001", "no TCP multiaddr"),
        ("/ip4/127.0.0.256/tcp/4001", "127.0.0.256 is no ip4 address"),
        ("/ip4/::1/tcp/4001", "::1 is no ip4 address"),
        ("/ip4/127.0.0.1/tcp/65536", "65536 is no port from 0 to 65535"),
        ("/ip4/127.0.0.1/tcp/-1", "-1 is no port"),
        ("/ip4/127.0.0.1/tcp/٣", "is no port"),
        ("/dns4/example.org/tcp/4001", "no TCP multiaddr"),
        (BOOTSTRAP, "more than an address and a port"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(path, address, problem):
    path.write_text(path.read_text().replace("/ip4/127.0.0.1/tcp/0", address))
    assert re.search(rf", line \d+: network\.listen\[0\]: .*{problem}", refusal(path))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "does not name the peer"),
        ("/ip4/127.0.0.1/tcp/0/p2p/" + BEA.peer_id, "0 is no port from 1 to 65535"),
        ("/dns4/exam ple/tcp/4001/p2p/" + BEA.peer_id, "exam ple is no host name"),
        (BOOTSTRAP[:-1], "an Ed25519 peer id has 52 characters"),
        (BOOTSTRAP + "/p2p-circuit", "does not name the peer"),
        (BOOTSTRAP.replace("p2p/1", "p2p/Q"), "an Ed25519 peer id has 52 characters"),
    ],
)
def test_whom_nobody_can_be_sure_to_reach_is_refused(path, address, problem):
    text = path.read_text().replace("bootstrap = []", f'bootstrap = ["{BOOTSTRAP}", "{address}"]')
    path.write_text(text)
    assert re.search(rf", line \d+: network\.bootstrap\[1\]: .*{problem}", refusal(path))


@pytest.mark.parametrize("host", ["/ip4/192.0.2.7", "/ip6/2001:db8::7", "/dns/bea.example.org", "/dns4/bea"])
def test_a_bootstrap_address_tells_whose_key_to_expect(host):
    assert settings.bootstrap_peer(f"{host}/tcp/4001/p2p/{BEA.peer_id}") == BEA.public_key


def test_a_data_folder_is_found_beside_the_file(path, tmp_path):
    (tmp_path / "mine").mkdir()
    path.write_text(path.read_text().replace('# folder = "..."', 'folder = "mine"'))
    assert load_config(path).task.folder == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"name = ana", "not valid TOML: .*line 1"),
        (b'name = "ana"\nname = "bea"\n', "not valid TOML: .*line 2"),
        (b'name = "\xff"', "byte 8 is not UTF-8 text"),
        (b"#" * (toml.CONFIG_BYTES_MAX + 1), "longer than 65536 bytes"),
    ],
)
def test_what_is_no_settings_file_is_refused(path, data, problem):
    path.write_bytes(data)
    assert re.match(f": {problem}", refusal(path))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "config.toml")
    assert not list(tmp_path.iterdir())
