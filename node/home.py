"""A device's folder: its key, its settings, its state, and the one daemon that may use them.

The folder is the device. Whoever reads `identity.key` can sign as the device, so a home that anyone else can read
is refused rather than repaired: what has been read already cannot be taken back.

One daemon a home: two would spend one ledger twice. The lock is the operating system's and dies with its holder,
so a kill -9 leaves nothing to clean up; `daemon.pid` only says who holds it, and where its control socket is.
"""

import contextlib
import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import filelock
import platformdirs
import psutil

from crypto.identity import SEED_BYTES, Identity
from gossip.errors import GossamerError, MisuseError
from node.config.settings import parse_config
from node.store import sync_folder

HOME_VARIABLE = "GOSSAMER_HOME"
# sockaddr_un holds 104 bytes on BSD and macOS, 108 on Linux, the closing NUL included.
SOCKET_PATH_BYTES_MAX = 103
_PID_BYTES_MAX = 8192
DYING_S = 5.0  # for a killed daemon's process to let go of its lock


class HomeError(GossamerError):
    """A home that cannot be used as it is: do what the line says. Exit code 4."""

    exit_code: ClassVar[int] = 4


class NotRunning(GossamerError):
    """No daemon runs on this home: start one with `gossamer up`. Exit code 3."""

    exit_code: ClassVar[int] = 3


class AlreadyRunning(GossamerError):
    """A daemon runs on this home: talk to it, or stop it with `gossamer down`. Exit code 5."""

    exit_code: ClassVar[int] = 5

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path}: a daemon runs here already (process {pid or 'not known yet'})")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Home:
    """A folder that `open_home` or `init_home` has found fit."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def key(self) -> Path:
        return self.path / "identity.key"

    @property
    def state(self) -> Path:
        return self.path / "state.db"

    @property
    def log(self) -> Path:
        return self.path / "daemon.log"

    @property
    def pid(self) -> Path:
        return self.path / "daemon.pid"

    @property
    def lock(self) -> Path:
        return self.path / "daemon.lock"


@dataclass(frozen=True, slots=True)
class Running:
    """The daemon of a home: its process, and the unix socket on which it takes orders."""

    pid: int
    socket: Path


def home_path(option: Path | None, environ: Mapping[str, str]) -> Path:
    """Where the home is: the option, else GOSSAMER_HOME, else the user's data folder. Absolute."""
    named = option or (Path(environ[HOME_VARIABLE]) if environ.get(HOME_VARIABLE) else None)
    return (named or platformdirs.user_data_path("gossamer", appauthor=False)).expanduser().absolute()


def init_home(path: Path, config_text: str, seed: bytes) -> Home:
    """Make a home of 0700 with these settings and the identity of this fresh 32-byte secret.

    Raises ConfigError for settings that would be refused, HomeError where a home or any part of one is; an
    initialised home is never overwritten, and a refusal leaves the disk as it was.
    """
    if len(seed) != SEED_BYTES:
        raise MisuseError(f"an identity is made from {SEED_BYTES} bytes, not {len(seed)}")
    home = Home(path.absolute())
    parse_config(config_text, home.config)
    made_folder = not os.path.lexists(home.path)
    if not made_folder:
        _refuse_unsafe_folder(home.path)
    for file in (home.key, home.config, home.state):
        if os.path.lexists(file):
            raise HomeError(f"{file} is there already and is never overwritten; choose another home")
    written: list[Path] = []
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key comes last: it is what makes the folder a home.
        for file, data in ((home.config, config_text.encode()), (home.key, seed)):
            _create(file, data, written)
        sync_folder(home.path)
    except OSError as error:
        for file in written:
            file.unlink()
        if made_folder:
            with contextlib.suppress(OSError):
                home.path.rmdir()
        raise HomeError(f"{home.path}: cannot be made a home: {error.strerror}") from error
    return home


def open_home(path: Path) -> Home:
    """An initialised home of our own that nobody else can read; HomeError otherwise."""
    home = Home(path.absolute())
    if not os.path.lexists(home.path / home.key.name):
        command = f"gossamer init --home {shlex.quote(str(home.path))}"
        raise HomeError(f"{home.path}: no home of a device yet; make one with: {command}")
    _refuse_unsafe_folder(home.path)
    return home


def read_identity(home: Home) -> Identity:
    """The device's key. HomeError when it is not a plain file of 32 bytes that only we can read."""
    try:
        descriptor = os.open(home.key, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise HomeError(f"{home.key}: cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise HomeError(f"{home.key}: not a plain file")
        _refuse_shared(home.key, status, "600")
        seed = os.read(descriptor, SEED_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(seed) != SEED_BYTES:
        raise HomeError(
            f"{home.key}: {status.st_size} bytes instead of {SEED_BYTES}; restore it from a copy, "
            "or make a new device in another home"
        )
    return Identity(seed)


@contextlib.contextmanager
def hold(home: Home) -> Iterator[Running]:
    """Be the home's one daemon for as long as the context lasts; its socket's path is free to bind.

    Raises AlreadyRunning when another process is, HomeError when the folder cannot be used.
    """
    lock = filelock.FileLock(home.lock, timeout=0, mode=0o600)
    try:
        recorded = _read_pid(home)
        lock.acquire(timeout=DYING_S if recorded and _is_dying(recorded.pid) else 0)
    except filelock.Timeout as error:
        raise AlreadyRunning(home.path, recorded.pid if recorded else None) from error
    except OSError as error:
        raise HomeError(f"{home.lock}: cannot be locked: {error.strerror}") from error
    try:
        running = Running(os.getpid(), _socket_path(home))
        try:
            running.socket.unlink(missing_ok=True)  # a killed daemon's
            _replace(home.pid, b"%d\n%b" % (running.pid, os.fsencode(running.socket)))
        except OSError as error:
            raise HomeError(f"{home.path}: cannot be written: {error.strerror}") from error
        try:
            yield running
        finally:
            running.socket.unlink(missing_ok=True)
            home.pid.unlink(missing_ok=True)
            if running.socket.parent != home.path:
                with contextlib.suppress(OSError):
                    running.socket.parent.rmdir()
    finally:
        lock.release()


def running(home: Home) -> Running:
    """The daemon that was last seen to hold the home; NotRunning when there is none, or its process is gone.

    Process numbers are used again: that the socket answers is the proof.
    """
    recorded = _read_pid(home)
    if recorded is None or _is_dying(recorded.pid):
        raise NotRunning(f"{home.path}: no daemon runs here; start it with: gossamer up")
    return recorded


def _is_dying(pid: int) -> bool:
    """Killed, and still in the kernel's hands with all that it held."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _refuse_unsafe_folder(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise HomeError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise HomeError(f"{path}: not a folder")
    _refuse_shared(path, status, "700")


def _refuse_shared(path: Path, status: os.stat_result, mode: str) -> None:
    if status.st_uid != os.geteuid():
        raise HomeError(f"{path}: belongs to user {status.st_uid}, not to you")
    if status.st_mode & 0o077:
        raise HomeError(
            f"{path}: open to other users (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"close it with: chmod {mode} {shlex.quote(str(path))}"
        )


def _create(path: Path, data: bytes, written: list[Path]) -> None:
    """Write a file of 0600 that must not exist yet, durably; `written` names it as soon as it does exist."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        written.append(path)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Old or new, never torn. Only the lock's holder writes here, so one name for the draft is enough."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    _create(draft, data, [])
    draft.replace(path)


def _read_pid(home: Home) -> Running | None:
    """What `hold` wrote last; None when there is nothing, or nothing that it could have written."""
    try:
        with home.pid.open("rb") as file:
            pid, _, socket = file.read(_PID_BYTES_MAX).partition(b"\n")
    except OSError:
        return None
    if not pid.isdigit() or not socket:
        return None
    return Running(int(pid), Path(os.fsdecode(socket)))


def _socket_path(home: Home) -> Path:
    """In the home, or, where that makes too long a path for a socket, in a private folder with a short one."""
    path = home.path / "gossamer.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(home.path.resolve())).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"gossamer-{name}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Anyone may have been first in a shared folder: what is there must be ours, and no link.
    if folder.is_symlink():
        raise HomeError(f"{folder}: a link, where the daemon's socket should go; remove it")
    _refuse_unsafe_folder(folder)
    path = folder / "gossamer.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise HomeError(f"{path}: too long for a socket; set TMPDIR to a shorter folder")
    return path
