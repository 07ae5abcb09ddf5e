"""The life of a daemon from its start to its end: everything is opened here, in this order, and closed the other way.

    lock -> settings -> log -> control API -> state file -> trainer, manifest -> transport -> core -> running

The control API comes before the slow parts, so `gossamer status` always has an answer. A swarm's manifest is the one in the
state file; else that of the first device in the bootstrap list that answers, taken on first use and kept for ever; else,
where there is nobody to join, a new one. It is kept only after this device's model is found to fit it.

Stopping is cancelling: whatever is under way is safe to lose at any moment, because the core asks for every fact to be
durable before it acts on it. STOP_S after the wish to stop the kernel ends what is left of the process.
"""

import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import NoReturn

import numpy as np
import psutil
import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from crypto.identity import Identity, peer_id
from gossip.errors import GossamerError, ManifestError, MisuseError, PeerViolation
from gossip.events import Put
from gossip.manifest import Swarm, open_manifest
from gossip.membership import Settings
from gossip.messages import ADDRESSES_MAX, FRAME_BYTES
from models import messages
from node.config import Config, bootstrap_peer, load_config
from node.core import NodeCore
from node.drivers import api
from node.drivers.daemon import Daemon
from node.drivers.faults import Faults, read_faults
from node.drivers.mailbox import Mailbox
from node.drivers.trainer import Trainer
from node.founding import check_trainer_fits, found_swarm
from node.home import Home, Running, hold, read_identity
from node.store import SqliteStore
from node.telemetry import logging_to, process_figures

PARENT_VARIABLE = "GOSSAMER_PARENT"  # a process without which this daemon shall not live on
PARENT_LOOK_S = 1.0
FETCH_S = 10.0  # for one device in the bootstrap list to hand over the manifest
FETCH_PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between two rounds through the list; the last one repeats
STOP_S = 4  # whole seconds, as alarm(2) has them
BOOT_SHIFT = 32  # a boot's presences are numbered from boot << 32: none can be mistaken for an earlier boot's

Announce = Callable[[Sequence[str]], None]


class NotAdmitted(GossamerError):
    """This swarm admits only devices that its founder listed: ask to be listed in a new one."""


class NodeBug(GossamerError):
    """Our own mistake: please report it with the traceback that is in the log."""


class StillStarting(api.NotYet):
    """The node is not that far yet: ask again."""


def run_node(
    home: Home, bootstrap: Sequence[str], *, foreground: bool, announce: Announce, environ: Mapping[str, str]
) -> bool:
    """Be the daemon of a home until told to stop; whether it was by SIGINT.

    `bootstrap` adds to the settings' own; `announce` hears where this node listens. Raises GossamerError: whatever is wrong,
    in one line, which is in the log as well.
    """
    with hold(home) as running:
        config = load_config(home.config)
        identity = read_identity(home)
        faults = read_faults(environ, config.name, home.path)
        try:
            with logging_to(home.log, config.log.level, foreground=foreground) as log:
                life = Life(home, running, config, identity, bootstrap, announce, faults, log)
                trio.run(life.run, _pid(environ))
        except BaseException as error:
            _explain(error, home, config.log.level)
        finally:
            signal.alarm(0)
        return life.interrupted


def _explain(error: BaseException, home: Home, level: str) -> NoReturn:
    """Log why the daemon ended, and raise it as one line."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = next((each for each in cause.exceptions if isinstance(each, GossamerError)), cause.exceptions[0])
    if not isinstance(cause, Exception):
        raise cause  # SystemExit, KeyboardInterrupt
    with logging_to(home.log, level, foreground=False) as log:
        if isinstance(cause, GossamerError) and not isinstance(cause, MisuseError):
            log.error("ended", reason=str(cause))
            raise cause
        log.critical("bug", exc_info=error)
    raise NodeBug(f"a bug ended the node: {type(cause).__name__}: {cause}; see {home.log}") from error


def _pid(environ: Mapping[str, str]) -> int | None:
    return int(environ[PARENT_VARIABLE]) if PARENT_VARIABLE in environ else None


class Life:
    """One daemon's life, and what can be asked of it meanwhile (`node.drivers.api.Node`)."""

    def __init__(
        self,
        home: Home,
        running: Running,
        config: Config,
        identity: Identity,
        bootstrap: Sequence[str],
        announce: Announce,
        faults: Faults | None,
        log: BoundLogger,
    ) -> None:
        self.interrupted = False
        self._home = home
        self._running = running
        self._config = config
        self._identity = identity
        self._announce = announce
        self._faults = faults
        self._log = log
        self._bootstrap = _by_peer((*config.network.bootstrap, *bootstrap), identity.public_key)
        self._stop = trio.Event()
        self._mailbox = Mailbox()
        self._trainer = Trainer(self._mailbox.put, log)
        self._swarm: Swarm | None = None
        self._initial: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        self._transport: "Libp2pTransport | None" = None
        self._core: NodeCore | None = None
        self._daemon: Daemon | None = None
        self._state, self._doing, self._waits_for = "starting", "starts", "its state file"

    async def run(self, parent: int | None) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            if parent is not None:
                nursery.start_soon(self._watch_parent, parent)
            await nursery.start(api.serve, self, self._running.socket, self._log)
            nursery.start_soon(self._live)
            await self._stop.wait()
            signal.alarm(STOP_S)
            self._state, self._doing, self._waits_for = "stopping", "stops", "nothing"
            self._log.info("stopping")
            nursery.cancel_scope.cancel()

    # --- when to stop -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stop.set()

    async def _watch_signals(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined] # old stubs
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self.interrupted = self.interrupted or number == signal.SIGINT
                self.stop()

    async def _watch_parent(self, pid: int) -> None:
        """Psutil compares the time of birth too: process numbers are used again."""
        try:
            parent = psutil.Process(pid)
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                await trio.sleep(PARENT_LOOK_S)
        except psutil.NoSuchProcess:
            pass
        self._log.warning("parent_gone", pid=pid)
        self.stop()

    # --- from the start to a running core ---------------------------------------------------------------------

    async def _live(self) -> None:
        store = await trio.to_thread.run_sync(SqliteStore, self._home.state)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._trainer.run)
                libp2p = await trio.to_thread.run_sync(_libp2p)
                boot = await trio.to_thread.run_sync(_count_boot, store)
                self._log.info("started", name=self._config.name, peer=self._identity.peer_id, boot=boot)
                swarm, opened = await self._belong(store, libp2p)
                await self._connect(swarm, opened, boot, store, libp2p, nursery)
                assert self._daemon is not None
                await self._daemon.run()
        finally:
            store.close()

    async def _belong(self, store: SqliteStore, libp2p: ModuleType) -> tuple[Swarm, messages.Opened]:
        """The swarm that this device belongs to from now on, and its model as the trainer has it."""
        swarm = await trio.to_thread.run_sync(_stored_swarm, store)
        known = swarm is not None
        if swarm is None and self._bootstrap:
            swarm = await self._fetch(libp2p)
        task = self._config.task
        self._waits_for = "its trainer to load the task"
        opened = await self._trainer.open(
            messages.Open(
                task.name,
                task.data,
                task.folder,
                task.seed,
                swarm.manifest.model.seed if swarm else self._config.swarm.seed,
                self._config.trainer.threads,
            )
        )
        if swarm is None:
            swarm = found_swarm(self._config.swarm, task.name, opened, self._identity)
            self._log.info("founded", swarm=swarm.manifest.name, id=swarm.id)
        check_trainer_fits(swarm, opened)
        manifest = swarm.manifest
        if manifest.admit == "open":
            self._log.warning("this swarm is open: anyone who can reach it may join, with many devices too")
        elif self._identity.public_key not in manifest.members:
            raise NotAdmitted(
                f'the swarm "{manifest.name}" admits only listed members; this device is {self._identity.peer_id}'
            )
        if not known:
            await trio.to_thread.run_sync(store.commit, [Put("swarm", b"", swarm.signed)])
        self._swarm = swarm
        return swarm, opened

    async def _fetch(self, libp2p: ModuleType) -> Swarm:
        """The manifest of the first device in the list that hands over one, however long that takes."""
        self._state, self._doing = "joining", "looks for its swarm"
        self._waits_for = "a device of the bootstrap list to answer"
        pauses = iter(FETCH_PAUSES_S)
        while True:
            for address in (each for addresses in self._bootstrap.values() for each in addresses):
                try:
                    peer, signed = await libp2p.fetch_manifest(
                        address, identity_seed=self._identity.seed, timeout_s=FETCH_S
                    )
                    swarm = open_manifest(signed)
                except (libp2p.Unreachable, PeerViolation, ManifestError) as error:
                    self._log.warning("no_manifest", reason=str(error))
                    self._waits_for = f"a device of the bootstrap list to answer; the last one: {error}"
                    continue
                self._log.warning(
                    "the manifest of this swarm is taken on first use: whoever gave the address is trusted for it",
                    swarm=swarm.manifest.name,
                    id=swarm.id,
                    founder=peer_id(swarm.manifest.founder),
                    source=peer_id(peer),
                )
                return swarm
            await trio.sleep(next(pauses, FETCH_PAUSES_S[-1]))

    async def _connect(
        self,
        swarm: Swarm,
        opened: messages.Opened,
        boot: int,
        store: SqliteStore,
        libp2p: ModuleType,
        nursery: trio.Nursery,
    ) -> None:
        self._state, self._doing, self._waits_for = "starting", "starts", "its history"
        transport = self._transport = libp2p.Libp2pTransport(
            identity_seed=self._identity.seed,
            swarm=swarm.id,
            listen=self._config.network.listen,
            limits=libp2p.Limits(message_bytes=FRAME_BYTES),
            inbox=self._mailbox,
            manifest=lambda: swarm.signed,
            log=self._log_transport,
        )
        addresses = await nursery.start(transport.run)
        self._initial = np.frombuffer(opened.initial, "<i8").astype(np.int64)
        settings = Settings(
            addresses=tuple(addresses[:ADDRESSES_MAX]),
            bootstrap=tuple(self._bootstrap.items()),
            neighbours=self._config.network.neighbours,
            sequence=boot << BOOT_SHIFT,
        )
        make = partial(
            NodeCore,
            identity=self._identity,
            swarm=swarm,
            initial=self._initial,
            settings=settings,
            entropy=os.urandom,
            read=store.read,
        )
        # In a thread: a long history is verified again, and neighbours must not wait for that.
        self._core = await trio.to_thread.run_sync(make)
        self._daemon = Daemon(
            core=self._core,
            transport=transport,
            trainer=self._trainer,
            store=store,
            mailbox=self._mailbox,
            log=self._log,
            faults=self._faults,
        )
        if self._faults is not None:
            self._log.warning("this node stops itself at the fault points that its environment names")
        self._state = "running"
        self._log.info("listening", addresses=addresses)
        self._announce(addresses)

    def _log_transport(self, name: str, fields: Mapping[str, object]) -> None:
        quiet = name in {"peer_up", "peer_down"}  # the core reports those too
        (self._log.debug if quiet else self._log.warning)(name, **fields)

    # --- what can be asked ------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        core, daemon, transport = self._core, self._daemon, self._transport
        traffic = transport.traffic() if transport is not None else None
        daemon_costs = process_figures(os.getpid())
        trainer_costs = process_figures(self._trainer.pid) if self._trainer.pid is not None else None
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        trainer_cpu_s = gone.ru_utime + gone.ru_stime
        if trainer_costs is not None:
            trainer_cpu_s += trainer_costs["cpu_s"] or 0.0
        running = core.status(trio.current_time()) if core is not None else dict.fromkeys(CORE_FIELDS)
        if self._state != "running":
            running |= {"doing": self._doing, "waits_for": self._waits_for}
        return {
            "name": self._config.name,
            "peer_id": self._identity.peer_id,
            "swarm": None
            if self._swarm is None
            else {"id": self._swarm.id.hex(), "name": self._swarm.manifest.name},
            "task": self._config.task.name,
            "pid": os.getpid(),
            "trainer_pid": self._trainer.pid,
            "state": self._state,
            **running,
            "addresses": transport.addresses if transport is not None else [],
            "traffic": {
                "sent": traffic.socket_sent if traffic else 0,
                "received": traffic.socket_received if traffic else 0,
                "by_kind": {
                    kind: {"sent": bytes_.sent, "received": bytes_.received}
                    for kind, bytes_ in sorted(self._mailbox.by_kind.items())
                },
            },
            "cpu_s": {"daemon": daemon_costs["cpu_s"], "trainer": trainer_cpu_s},
            "pss_mb": {
                "daemon": daemon_costs["pss_mb"],
                "trainer": trainer_costs["pss_mb"] if trainer_costs else None,
            },
            "times_s": dict(daemon.times.medians_s()) if daemon is not None else {},
        }
