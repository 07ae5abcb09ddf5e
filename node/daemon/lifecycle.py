"""The life of a daemon from its start to its end: everything is opened here, in this order, and closed the other way.

    lock -> settings -> log -> control API -> state file -> manifest, trainer -> transport -> core -> running

The control API comes before the slow parts, so `gossamer status` always has an answer. The manifest is the one in the home;
else that of the swarm nearby that was asked for; else that of the first device in the bootstrap list that answers; else, where there is nobody to join, that of a new swarm. It
is kept only once this device's model is found to fit it.

Stopping is cancelling: whatever is under way is safe to lose at any moment, because the core asks for every fact to be
durable before it acts on it. STOP_S after the wish to stop, the kernel ends what is left of the process.
"""

import importlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import psutil
import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from crypto.identity import Identity
from gossip.errors import GossamerError, MisuseError
from gossip.events import Clock, Kept, Put, Readdressed
from gossip.frames import FRAME_BYTES
from gossip.history.fold import UNIT
from gossip.manifest import Swarm
from gossip.membership.admission import TABLE as STATEMENTS_TABLE
from gossip.membership.messages import ADDRESSES_MAX
from gossip.membership.view import Settings
from models import messages
from node.clock import unix_time
from node.config.addresses import bootstrap_peer
from node.config.errors import ConfigError
from node.config.settings import Config, load_config
from node.control_client import PARENT_VARIABLE
from node.core import NodeCore
from node.daemon import control_http
from node.daemon.control_service import Account, Running
from node.daemon.faults import Faults, read_faults
from node.daemon.loop import Daemon
from node.daemon.mailbox import Mailbox
from node.daemon.trainer import Trainer
from node.founding import check_trainer_fits, found_swarm, refuse_unmasked
from node.home import Home, hold, read_identity
from node.join.bootstrap import (
    check_admission,
    check_wanted,
    fetch_swarm,
    find_swarm,
    keep_manifest,
    kept_credential,
    kept_manifest,
)
from node.join.serve import Inviting
from node.net.libp2p.terms import GuestLimits, Limits
from node.ports import BOOT_SHIFT, CLOCK_S
from node.store import SqliteStore
from node.telemetry import logging_to

if TYPE_CHECKING:
    from node.lan.discovery import Nearby
    from node.net.libp2p.transport import Libp2pTransport

PARENT_LOOK_S = 1.0
HUB_CONNECTIONS = 256
HUB_INBOUND_CONNECTIONS = 240
ADDRESSES_LOOK_S = 3.0
STOP_S = 4  # whole seconds, as alarm(2) has them
PUBLIC = "network.public is on: anybody who can connect may watch which sums this device learns of, and when"
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

Announce = Callable[[Sequence[str], bool], None]


class NodeBug(GossamerError):
    """Our own mistake: please report it, with the traceback that is in the log."""


def run_node(
    home: Home,
    bootstrap: Sequence[str],
    *,
    nearby: str | None,
    foreground: bool,
    announce: Announce,
    environ: Mapping[str, str],
    make_core: Callable[..., NodeCore] = NodeCore,
) -> bool:
    """Be the daemon of a home until told to stop; whether it was by SIGINT. For the main thread.

    `bootstrap` adds to the settings' own; `nearby` names the swarm on this network that a new device joins; `announce` hears where this node listens, and whether
    others need an invitation; `make_core` is given what NodeCore is. Raises GossamerError: whatever is
    wrong, in one line, which is in the log as well.
    """
    with hold(home) as held:
        config = load_config(home.config)
        identity = read_identity(home)
        faults = read_faults(environ, config.name, home.path)
        parent = _read_parent(environ)
        try:
            with logging_to(home.log, config.log.level, foreground=foreground) as log:
                life = Life(home, config, identity, faults, log, nearby, make_core)
                trio.run(life.run, held.socket, bootstrap, announce, parent)
        except BaseException as error:  # noqa: BLE001 - the process's edge
            _explain(error, home, config.log.level)
        finally:
            signal.alarm(0)
        return life.interrupted


def _read_parent(environ: Mapping[str, str]) -> int | None:
    told = environ.get(PARENT_VARIABLE)
    if told is not None and not told.isdecimal():
        raise ConfigError(f'{PARENT_VARIABLE}: "{told}" is no process number')
    return None if told is None else int(told)


def _explain(error: BaseException, home: Home, level: str) -> NoReturn:
    """Log why the daemon ended, and raise it as one line."""
    cause = _first_cause(error)
    if not isinstance(cause, Exception):
        raise cause
    with logging_to(home.log, level, foreground=False) as log:
        if isinstance(cause, GossamerError) and not isinstance(cause, MisuseError):
            log.error("ended", reason=str(cause))
            raise cause
        log.critical("bug", exc_info=error)
    raise NodeBug(f"a bug ended the node: {type(cause).__name__}: {cause}; see {home.log}") from error


def _first_cause(error: BaseException) -> BaseException:
    """Of several tasks' errors one that says in words what is wrong, if there is any; the others follow from it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_first_cause(each) for each in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, GossamerError)), causes[0])


class Life:
    def __init__(
        self,
        home: Home,
        config: Config,
        identity: Identity,
        faults: Faults | None,
        log: BoundLogger,
        nearby: str | None,
        make_core: Callable[..., NodeCore],
    ) -> None:
        self.interrupted = False
        self._make_core = make_core
        self._wanted = nearby
        self._credential: tuple[bytes, ...] = ()
        self._home = home
        self._config = config
        self._identity = identity
        self._faults = faults
        self._log = log
        self._stop = trio.Event()
        self._mailbox = Mailbox()
        self._trainer = Trainer(self._mailbox.put, log)
        self._account = Account(config, identity, self._mailbox, self._trainer, self._stop.set)

    async def run(
        self, socket: Path, bootstrap: Sequence[str], announce: Announce, parent: int | None
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            if parent is not None:
                nursery.start_soon(self._watch_parent, parent)
            await nursery.start(control_http.serve, self._account, socket, self._log)
            nursery.start_soon(self._live, bootstrap, announce)
            await self._stop.wait()
            signal.alarm(STOP_S)
            self._account.stopping()
            self._log.info("stopping")
            nursery.cancel_scope.cancel()

    # --- when to stop -----------------------------------------------------------------------------------------

    async def _watch_signals(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined] # old stubs
    ) -> None:
        # Closing the receiver brings back what held before it. A second signal shall not cut the stop short, and
        # thousands of them shall not call Python's handler from within itself until the stack is full.
        for wish in (signal.SIGINT, signal.SIGTERM):
            signal.signal(wish, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self.interrupted = number == signal.SIGINT
                break
        self._stop.set()

    async def _watch_parent(self, pid: int) -> None:
        """Process numbers are used again; psutil compares the time of birth as well."""
        try:
            parent = psutil.Process(pid)
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - not our child
                await trio.sleep(PARENT_LOOK_S)
        except psutil.NoSuchProcess:
            pass
        self._log.warning("parent_gone", pid=pid)
        self._stop.set()

    # --- from the start to a running core ---------------------------------------------------------------------

    async def _live(self, bootstrap: Sequence[str], announce: Announce) -> None:
        store = await trio.to_thread.run_sync(SqliteStore, self._home.state)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._trainer.run)
                try:
                    await self._start_and_run(store, bootstrap, announce, nursery)
                finally:
                    signal.alarm(STOP_S)  # also where a part has failed, and the others are being closed
        finally:
            store.close()

    async def _start_and_run(
        self, store: SqliteStore, bootstrap: Sequence[str], announce: Announce, nursery: trio.Nursery
    ) -> None:
        self._account.starting("its libraries")
        # Seconds of importing, in which the control API shall answer.
        for driver in ("node.net.libp2p.transport", "node.lan.discovery"):
            await trio.to_thread.run_sync(importlib.import_module, driver)
        boot = await trio.to_thread.run_sync(_count_boot, store)
        self._log.info("started", name=self._config.name, peer=self._identity.peer_id, boot=boot)
        known = self._known((*self._config.network.bootstrap, *bootstrap))
        nursery.start_soon(self._tell_time)
        swarm, opened = await self._belong(known, store)
        inviting = self._inviting(swarm)
        transport = await nursery.start(self._connect, swarm, inviting)
        running = await self._compose(swarm, opened, boot, known, store, transport, inviting)
        nursery.start_soon(inviting.run)
        if running.nearby is not None:
            nursery.start_soon(running.nearby.run)
        if any(host in WILDCARDS for host, _ in transport.bound):
            nursery.start_soon(self._watch_addresses, transport)
        self._account.running = running
        self._log.info("listening", addresses=transport.addresses)
        announce(transport.addresses, swarm.manifest.certifies)
        await running.daemon.run()

    def _known(self, bootstrap: Sequence[str]) -> dict[bytes, tuple[str, ...]]:
        """Whom to join through, and at which addresses."""
        known: dict[bytes, tuple[str, ...]] = {}
        for address in bootstrap:
            peer = bootstrap_peer(address)
            if peer != self._identity.public_key and address not in known.get(peer, ()):
                known[peer] = (*known.get(peer, ()), address)
        return known

    async def _tell_time(self) -> None:
        while True:
            self._mailbox.put(Clock(int(unix_time())))
            await trio.sleep(CLOCK_S)

    async def _belong(
        self, known: dict[bytes, tuple[str, ...]], store: SqliteStore
    ) -> tuple[Swarm, messages.Opened]:
        """The swarm that this device belongs to from now on, and its model as the trainer has it.

        `known` gains those who were found nearby.
        """
        kept = swarm = kept_manifest(self._home)
        if kept is not None and self._wanted is not None:
            check_wanted(kept, self._wanted)
        if swarm is None and self._wanted is not None:
            swarm, found = await find_swarm(
                self._wanted, self._home, self._config.name, self._identity, self._log, self._account.joining
            )
            known.update(self._known(found))
        elif swarm is None and known:
            addresses = [address for addresses in known.values() for address in addresses]
            swarm = await fetch_swarm(addresses, self._identity, self._log, self._account.joining)
        self._account.starting("its trainer to load the task")
        task, model_seed = self._config.task, swarm.manifest.model.seed if swarm else self._config.swarm.seed
        opened = await self._trainer.open(
            messages.Open(
                task.name, task.data, task.folder, task.seed, model_seed, self._config.trainer.threads
            )
        )
        if swarm is None:
            swarm = found_swarm(self._config.swarm, task.name, opened, self._identity)
            self._log.info("founded", swarm=swarm.manifest.name, id=swarm.id)
        refuse_unmasked(swarm, self._config.swarm)
        check_trainer_fits(swarm, opened)
        self._credential = kept_credential(self._home)
        statements = (*self._credential, *(raw for _, raw in store.read(STATEMENTS_TABLE)))
        check_admission(swarm, self._identity, self._log, statements)
        if kept is None:
            keep_manifest(self._home, swarm)
        self._account.swarm = swarm
        return swarm, opened

    def _inviting(self, swarm: Swarm) -> Inviting:
        return Inviting(
            me=self._identity.public_key,
            swarm=swarm,
            addresses=self._account.addresses,
            issue=self._account.issue,
            entropy=os.urandom,
            log=self._log,
        )

    async def _connect(
        self,
        swarm: Swarm,
        inviting: Inviting,
        *,
        task_status: "trio.TaskStatus[Libp2pTransport]" = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined] # old stubs
    ) -> None:
        from node.net.libp2p.circuits import Relaying  # noqa: PLC0415 - see _start_and_run
        from node.net.libp2p.transport import Libp2pTransport  # noqa: PLC0415 - the same

        limits = Limits(message_bytes=FRAME_BYTES)
        if self._config.network.hub:
            limits = replace(limits, connections=HUB_CONNECTIONS, inbound_connections=HUB_INBOUND_CONNECTIONS)
        if self._config.network.public:
            self._log.warning("public", warning=PUBLIC)
        self._account.starting("its port")
        transport = Libp2pTransport(
            identity_seed=self._identity.seed,
            swarm=swarm.id,
            listen=self._config.network.listen,
            limits=limits,
            inbox=self._mailbox,
            # A swarm that invites tells strangers no more than `nearby` announces: its members bring the manifest along.
            manifest=lambda: b"" if swarm.manifest.certifies else swarm.signed,
            log=self._log_transport,
            relaying=Relaying(
                belongs=self._belongs,
                reachable=lambda addresses: self._mailbox.put(Readdressed(tuple(addresses))),
                kept=lambda peer: self._mailbox.put(Kept(peer)),
                serves=self._config.network.relay,
            ),
            guests=GuestLimits() if self._config.network.public else None,
            newcomers=inviting.serve if swarm.manifest.certifies else None,
            agent=f"gossamer/{version('gossamer')}",
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            task_status.started(transport)

    def _belongs(self, peer: bytes) -> bool:
        """Nobody does while this device has no core to ask."""
        return self._account.running is not None and self._account.running.core.belongs(peer)

    async def _watch_addresses(self, transport: "Libp2pTransport") -> None:
        """A device that changes networks says where it is now; what it had from where it was is of no use."""
        known = transport.own_addresses
        while True:
            await trio.sleep(ADDRESSES_LOOK_S)
            now = await trio.to_thread.run_sync(transport.addresses_now)
            if set(now) == set(known):
                continue
            transport.leave({_host(each) for each in known} - {_host(each) for each in now})
            known = now
            if now:
                transport.own_addresses = now
                self._log.info("moved", addresses=transport.addresses)
                self._mailbox.put(Readdressed(tuple(transport.addresses[:ADDRESSES_MAX]), moved=True))

    def _log_transport(self, name: str, fields: Mapping[str, object]) -> None:
        # The core reports the first two as well; guests come and go as they like.
        quiet = name in {"peer_up", "peer_down", "guest_up", "guest_down"}
        usual = name in {"relays", "route_changed", "not_punched"}
        (self._log.debug if quiet else self._log.info if usual else self._log.warning)(name, **fields)

    async def _compose(
        self,
        swarm: Swarm,
        opened: messages.Opened,
        boot: int,
        known: Mapping[bytes, tuple[str, ...]],
        store: SqliteStore,
        transport: "Libp2pTransport",
        inviting: Inviting,
    ) -> Running:
        self._account.starting("its history")
        initial = np.frombuffer(opened.initial, "<i8").astype(np.int64)
        settings = Settings(
            addresses=tuple(transport.addresses[:ADDRESSES_MAX]),
            bootstrap=tuple(known.items()),
            neighbours=self._config.network.neighbours,
            sequence=boot << BOOT_SHIFT,
            hub=self._config.network.hub,
            public=self._config.network.public,
        )
        compose = partial(
            self._make_core,
            identity=self._identity,
            swarm=swarm,
            initial=initial,
            settings=settings,
            entropy=os.urandom,
            read=store.read,
            credential=self._credential,
        )
        # In a thread: a long history is verified again, and neighbours shall not wait for that.
        core = await trio.to_thread.run_sync(compose)
        daemon = Daemon(
            core=core,
            transport=transport,
            trainer=self._trainer,
            store=store,
            mailbox=self._mailbox,
            log=self._log,
            faults=self._faults,
        )
        if self._faults is not None:
            self._log.warning("this node stops itself where its environment says", faults=str(self._faults))
        return Running(
            core=core,
            daemon=daemon,
            transport=transport,
            first_model=(initial * UNIT).astype(np.float32),
            nearby=self._nearby(swarm, transport),
            inviting=inviting,
        )

    def _nearby(self, swarm: Swarm, transport: "Libp2pTransport") -> "Nearby | None":
        if not self._config.network.nearby:
            return None
        from node.lan.discovery import Nearby  # noqa: PLC0415 - see _start_and_run

        return Nearby(
            name=self._config.name,
            identity=self._identity,
            swarm=swarm,
            enough=self._config.network.neighbours,
            transport=transport,
            log=self._log,
        )


def _host(address: str) -> str:
    """Of a multiaddr of the transport's own."""
    return address.split("/")[2]


def _count_boot(store: SqliteStore) -> int:
    """How many times a daemon has started on this state, this one included."""
    before = dict(store.read("boot")).get(b"", b"")
    boot = int.from_bytes(before, "big") + 1
    store.commit([Put("boot", b"", boot.to_bytes(8, "big"))])
    return boot
