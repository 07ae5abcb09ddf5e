"""The home of a device that joins: an old one, or one that is made at the moment when the device is let in.

A join that fails leaves nothing behind. A new device's key is drawn in memory, and its folder becomes a home by the key, which is written
last: after the manifest, the certificates and the settings. "Stored" is said to the inviter only then.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import trio  # noqa: TID251 - the drivers are trio's room

from crypto.identity import SEED_BYTES, Identity
from gossip.errors import GossamerError
from gossip.manifest import Swarm
from node.clock import unix_time
from node.config.addresses import bootstrap_host
from node.config.errors import ConfigError
from node.config.settings import DEFAULT_DATA, Config, NetworkSettings, TaskSettings, config_text, load_config
from node.founding import refuse_unmasked
from node.home import AlreadyRunning, Home, HomeError, hold, init_home, open_home, read_identity
from node.join.bootstrap import keep_credential, keep_manifest, kept_manifest
from node.join.codes import Secret
from node.join.search import Eyes, Joined, Wish, join_by_link, join_nearby

KEPT = ("swarm.manifest", "swarm.credential")  # the files of a membership
EVERYWHERE = "/ip4/0.0.0.0/tcp/0"


class StopFirst(GossamerError):
    """The node of this home runs: stop it, then join. Exit code 5."""

    exit_code: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says of a new home; nothing where the default will do."""

    name: str | None = None
    task: str | None = None
    data: str | None = None
    listen: tuple[str, ...] = ()


class Newcomer:
    def __init__(self, path: Path, wishes: Wishes, eyes: Eyes) -> None:
        """Raises HomeError, ConfigError."""
        self.path = path
        self._wishes = wishes
        self._eyes = eyes
        self._home = open_home(path) if os.path.lexists(Home(path).key) else None
        self._kept: Swarm | None = None
        if self._home is None:
            _refuse_unfit(path)
            self.identity = Identity(os.urandom(SEED_BYTES))
            self.name = wishes.name or f"device-{self.identity.peer_id[-6:]}"
            self._config: Config | None = None
        else:
            self.identity = read_identity(self._home)
            self._config = load_config(self._home.config)
            self._kept = kept_manifest(self._home)
            self.name = wishes.name or self._config.name

    @property
    def is_new(self) -> bool:
        return self._home is None

    def join(self, secret: Secret, swarm: str) -> Joined:
        """By the code or the link; or, with `swarm`, by a knock. Raises GossamerError: whatever is wrong, in one line."""
        wish = Wish(
            identity=self.identity,
            name=self.name,
            secret=secret,
            only=None if self._kept is None else self._kept.id,
            check=self._check,
            keep=self._keep,
            entropy=os.urandom,
            unix_s=unix_time,
            eyes=self._eyes,
        )
        way = join_by_link if secret.addresses else partial(join_nearby, swarm=swarm)
        with self._held():
            try:
                return trio.run(way, wish)
            except BaseExceptionGroup as errors:
                raise _first_cause(errors) from errors

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody else uses an old home meanwhile. AlreadyRunning."""
        if self._home is None:
            yield
        else:
            try:
                with hold(self._home):
                    yield
            except AlreadyRunning as error:
                raise StopFirst(f"{error}; stop it first: gossamer down") from error

    # --- what speaks against a swarm, before a person is asked --------------------------------------------------

    def _check(self, swarm: Swarm) -> None:
        """ConfigError."""
        config = self._config or self._settings(swarm, address="")
        refuse_unmasked(swarm, config.swarm)

    def _settings(self, swarm: Swarm, address: str) -> Config:
        told, wishes = swarm.manifest.model.task, self._wishes
        # A manifest is somebody else's: it chooses among our own tasks, and never what is imported here.
        task = wishes.task or (told if told in DEFAULT_DATA else None)
        if task is None:
            raise ConfigError(
                f'the swarm "{swarm.manifest.name}" trains a task of its own; get it from whoever invites, and say where it is: '
                "gossamer join CODE --task PACKAGE.MODULE:ATTRIBUTE --data PART"
            )
        data = wishes.data or DEFAULT_DATA.get(task)
        if data is None:
            raise ConfigError(
                f"which part of {task}'s data does this device hold? gossamer join CODE --data PART"
            )
        # Who joins over a network listens there; who joins on one machine, on loopback.
        listen = wishes.listen or (NetworkSettings().listen if _is_loopback(address) else (EVERYWHERE,))
        network = NetworkSettings(listen=listen, bootstrap=(address,) if address else ())
        return Config(name=self.name, task=TaskSettings(name=task, data=data), network=network)

    # --- once it is let in --------------------------------------------------------------------------------------

    def _keep(self, joined: Joined) -> None:
        home = Home(self.path)
        made_folder = not os.path.lexists(home.path)
        new = [file for file in (home.path / name for name in KEPT) if not os.path.lexists(file)]
        try:
            home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._kept is None:
                keep_manifest(home, joined.swarm)
            keep_credential(home, joined.statements)
            if self._home is None:
                settings = self._settings(joined.swarm, joined.address)
                init_home(home.path, config_text(settings), self.identity.seed)
        except BaseException as error:
            for path in new:
                path.unlink(missing_ok=True)
            if made_folder:
                with contextlib.suppress(OSError):
                    home.path.rmdir()
            if isinstance(error, OSError):
                raise HomeError(f"{home.path}: cannot be written: {error.strerror}") from error
            raise


def _refuse_unfit(path: Path) -> None:
    """HomeError where no home can be made: better now than after a code was used."""
    home = Home(path)
    for file in (home.config, home.state):
        if os.path.lexists(file):
            raise HomeError(
                f"{file} is there already, without a device's key; choose another home: --home FOLDER"
            )
    folder = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise HomeError(
            f"{folder}: no folder that this user can write in; choose another home: --home FOLDER"
        )


def _is_loopback(address: str) -> bool:
    return not address or bootstrap_host(address) in {"127.0.0.1", "::1"}


def _first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    causes = [
        _first_cause(each) if isinstance(each, BaseExceptionGroup) else each for each in errors.exceptions
    ]
    return next((cause for cause in causes if isinstance(cause, GossamerError)), causes[0])
