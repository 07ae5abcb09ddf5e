"""A device's folder: private, never overwritten, and one daemon's at a time."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from crypto.identity import Identity
from gossip.errors import MisuseError
from node import home as homes
from node.config.errors import ConfigError
from node.config.settings import Config, TaskSettings, config_text, load_config
from node.home import (
    AlreadyRunning,
    HomeError,
    NotRunning,
    hold,
    home_path,
    init_home,
    open_home,
    read_identity,
)

SEED = bytes(range(32))
CONFIG = config_text(Config(name="ana", task=TaskSettings(name="watch", data="subjects=3")))
ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path):
    return init_home(tmp_path / "ana", CONFIG, SEED)


def tree(folder):
    """Everything about a folder that a refusal could have changed."""
    return {
        path.relative_to(folder): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


def refused(folder, error, match, act, *arguments):
    before = tree(folder)
    with pytest.raises(error, match=match) as caught:
        act(*arguments)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before
    return caught.value


def test_a_new_home_holds_a_key_and_settings_that_only_we_can_read(home):
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {
        "identity.key": 0o600,
        "config.toml": 0o600,
    }
    assert load_config(home.config).name == "ana"
    assert read_identity(open_home(home.path)).public_key == Identity(SEED).public_key


def test_a_home_can_be_made_in_a_private_folder_that_is_there(tmp_path):
    (tmp_path / "data.csv").write_text("mine")
    tmp_path.chmod(0o700)
    init_home(tmp_path, CONFIG, SEED)
    assert (tmp_path / "data.csv").read_text() == "mine"


def test_a_home_is_never_overwritten(home):
    refused(
        home.path,
        HomeError,
        "config.toml is there already|identity.key is there",
        init_home,
        home.path,
        CONFIG,
        SEED,
    )


@pytest.mark.parametrize("name", ["identity.key", "config.toml", "state.db"])
def test_nor_is_any_part_of_one(tmp_path, name):
    tmp_path.chmod(0o700)
    (tmp_path / name).symlink_to("nowhere")
    refused(tmp_path, HomeError, f"{name} is there already", init_home, tmp_path, CONFIG, SEED)


def test_no_home_is_made_with_settings_that_would_be_refused(tmp_path):
    wrong = CONFIG.replace("threads = 1", "threads = 0")
    refused(
        tmp_path, ConfigError, "config.toml, line .*trainer.threads", init_home, tmp_path / "a/b", wrong, SEED
    )
    refused(tmp_path, MisuseError, "32 bytes", init_home, tmp_path / "a", CONFIG, SEED[1:])


def test_no_home_is_made_in_a_folder_that_others_can_read(tmp_path):
    tmp_path.chmod(0o750)
    refused(tmp_path, HomeError, f"mode 0750.*chmod 700 {tmp_path}", init_home, tmp_path, CONFIG, SEED)


def test_no_home_is_made_of_a_file(tmp_path):
    (tmp_path / "ana").write_text("")
    refused(tmp_path, HomeError, "not a folder", init_home, tmp_path / "ana", CONFIG, SEED)
    refused(tmp_path, HomeError, "cannot be made a home", init_home, tmp_path / "ana" / "home", CONFIG, SEED)


def test_a_disk_that_fills_up_leaves_no_half_of_a_home(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def second_fails(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(HomeError, match="cannot be made a home: No space left"):
        init_home(tmp_path / "ana", CONFIG, SEED)
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o755, 0o740, 0o701])
def test_a_home_open_to_others_is_refused_with_the_line_that_closes_it(home, mode):
    home.path.chmod(mode)
    error = refused(home.path.parent, HomeError, f"{mode:04o}.*chmod 700 {home.path}", open_home, home.path)
    assert error.exit_code == 4


def test_somebody_elses_home_is_refused(home, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused(home.path.parent, HomeError, "belongs to user", open_home, home.path)


def test_a_folder_without_a_key_is_no_home_yet(tmp_path):
    for path in (tmp_path, tmp_path / "not there"):
        refused(tmp_path, HomeError, "gossamer init --home", open_home, path)


def test_a_key_open_to_others_is_refused(home):
    home.key.chmod(0o640)
    refused(home.path, HomeError, f"0640.*chmod 600 {home.key}", read_identity, home)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_refused_and_kept(home, size):
    home.key.write_bytes(bytes(size))
    refused(home.path, HomeError, f"{size} bytes instead of 32", read_identity, home)


def test_a_key_that_is_no_plain_file_is_refused(home):
    home.key.rename(home.path / "real")
    home.key.symlink_to("real")
    refused(home.path, HomeError, "identity.key: cannot be read", read_identity, home)
    home.key.unlink()
    home.key.mkdir()
    refused(home.path, HomeError, "not a plain file", read_identity, home)


def test_the_option_comes_before_the_variable_and_both_before_the_default(tmp_path, monkeypatch):
    environ = {"GOSSAMER_HOME": str(tmp_path / "b")}
    assert home_path(tmp_path / "a", environ) == tmp_path / "a"
    assert home_path(None, environ) == tmp_path / "b"
    assert home_path(None, {"GOSSAMER_HOME": ""}).name == "gossamer"
    monkeypatch.chdir(tmp_path)
    assert home_path(Path("c"), {}) == tmp_path / "c"


def test_a_daemon_is_found_while_it_runs_and_not_afterwards(home):
    refused(home.path, NotRunning, "no daemon runs here", homes.running, home)
    with hold(home) as held:
        assert homes.running(home) == held
        assert held.pid == os.getpid()
        held.socket.write_text("")
    assert not held.socket.exists()
    assert refused(home.path, NotRunning, "gossamer up", homes.running, home).exit_code == 3


@pytest.mark.parametrize("content", [b"", b"12", b"\n/tmp/s", b"x\n/tmp/s", b"-4\n/tmp/s", b"\xff" * 9000])
def test_a_spoilt_pid_file_is_nobody(home, content):
    home.pid.write_bytes(content)
    refused(home.path, NotRunning, "no daemon runs here", homes.running, home)


def other_daemon(home):
    """Another process that holds the home until it is told to stop, or killed."""
    code = (
        "import sys; from pathlib import Path; from node.home import hold, open_home\n"
        "with hold(open_home(Path(sys.argv[1]))) as held: print(held.socket, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, home.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout.readline()
    return process


def test_a_second_daemon_is_told_who_the_first_is_until_that_one_ends(home):
    with other_daemon(home) as first:
        assert homes.running(home).pid == first.pid
        error = refused(home.path, AlreadyRunning, f"process {first.pid}", hold(home).__enter__)
        assert (error.exit_code, error.pid) == (5, first.pid)
        first.stdin.close()
        assert first.wait(10) == 0
    assert {path.name for path in home.path.iterdir()} <= {"identity.key", "config.toml", "daemon.lock"}
    with hold(home) as held:
        assert homes.running(home) == held


def test_a_killed_daemon_keeps_nobody_out(home):
    with other_daemon(home) as first:
        homes.running(home).socket.write_text("left behind")
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    refused(home.path, NotRunning, "no daemon runs here", homes.running, home)
    with hold(home) as held:
        assert not held.socket.exists()
        assert homes.running(home) == held


@pytest.fixture
def deep(tmp_path, monkeypatch):
    """A home whose path is too long for a socket, and a short place for the sockets of such homes."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield init_home(tmp_path / ("d" * 100), CONFIG, SEED), Path(short)


def test_the_socket_of_a_home_with_a_long_path_is_in_a_short_private_folder(deep, tmp_path):
    home, short = deep
    other = init_home(tmp_path / ("e" * 100), CONFIG, SEED)
    with hold(home) as held, hold(other) as others:
        assert held.socket.parent.parent == short
        assert held.socket.parent != others.socket.parent
        assert len(os.fsencode(held.socket)) <= homes.SOCKET_PATH_BYTES_MAX
        assert stat.S_IMODE(held.socket.parent.stat().st_mode) == 0o700
        # The environment that finds a daemon need not be the one that started it.
        tempfile.tempdir = "/elsewhere"
        assert homes.running(home) == held
    assert not list(short.iterdir())


def test_a_socket_folder_that_somebody_else_laid_out_is_refused(deep):
    home, short = deep
    with hold(home) as held:
        folder = held.socket.parent
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    refused(short, HomeError, "open to other users", hold(home).__enter__)
    folder.rmdir()
    (short / "theirs").mkdir(mode=0o700)
    folder.symlink_to("theirs")
    refused(short, HomeError, "a link", hold(home).__enter__)
    folder.unlink()
    with hold(home):
        pass


def test_no_socket_is_made_where_even_the_short_folder_is_too_long(deep, monkeypatch):
    home, short = deep
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / ("r" * 80)))
    (short / ("r" * 80)).mkdir(mode=0o700)
    with pytest.raises(HomeError, match="too long for a socket"):
        hold(home).__enter__()
