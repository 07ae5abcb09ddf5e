"""A scenario on real processes: one daemon a device, over libp2p on loopback, from nothing to a report.

    found -> first device up -> all up -> (rounds, faults) -> settled and of one history -> compare -> stop

The runner is no part of the swarm: it sees what each device tells its own user, and the swarm would go on without it.
It founds the swarm in the name of the first device and lists the members, because on one machine nothing else could
keep a stranger's daemon out. Every wait has an end and an error that names the device and shows its last words.
"""

import contextlib
import math
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TypeVar

import msgspec
import trio  # noqa: TID251 - scenarios run real processes

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.manifest import Swarm
from models import messages
from node.config.settings import Config, NetworkSettings, TaskSettings, config_text
from node.daemon.metrics import STEPS
from node.daemon.trainer import TaskRefused, Trainer
from node.founding import found_swarm
from node.home import Home, init_home
from node.join.bootstrap import keep_credential, keep_manifest
from node.telemetry import logging_to
from scenarios.adversary.casting import refuse_untrained
from scenarios.adversary.daemon import part_of
from scenarios.adversary.effects import AdversaryReport, Effects, logged
from scenarios.certificates import certify, identity_of
from scenarios.partitions import Parting, sides_of
from scenarios.plan import Plan
from scenarios.processes.daemon import Daemon, Status, SwarmFailed, end_all
from scenarios.processes.faults import Course, meet
from scenarios.processes.joins import Newcomer, invitation_of
from scenarios.processes.namespaces import Network, built
from scenarios.reports.eta import left_s
from scenarios.reports.processes import (
    AggregateReport,
    Bytes,
    Moment,
    NodeReport,
    Parts,
    SideReport,
    SwarmReport,
    problems,
)
from scenarios.reports.progress import Display, Snapshot
from scenarios.spec.scenario import DEVICES_MAX, OptionError

TICK_S = 0.1
START_S = 90.0  # for a daemon to start: all of them share the machine's cores
SILENCE_S = 60.0  # of a daemon that is up
SETTLE_S = 60.0  # for all to know the same history, once the last round is done
COMPARE_S = 600.0  # for a device to train alone as long as it did in the swarm
DOWN_S = 10.0  # for a daemon to stop when asked to
LOOK_S = 0.5  # between two looks whether all replicas are equal
STEPS_OF_A_SUM = 8  # design, section 4
BOOTSTRAP_MAX = 4  # devices that one which starts again is told of

T = TypeVar("T")


def run(plan: Plan, keep: Path | None, display: Display, *, namespaces: bool = False) -> SwarmReport:
    """Run a swarm to its end and leave no process behind; with `namespaces`, each device in a network of its own.

    The homes go to `keep`, which is made or must be empty, and stay there; or to a temporary folder, which stays if
    the run fails. Raises SwarmFailed, NamespaceError, OptionError, TaskRefused, and KeyboardInterrupt on SIGINT,
    SIGTERM and SIGHUP. For the main thread.
    """
    refuse_untrained(plan.adversaries)
    if plan.by_invitation and not namespaces:
        raise OptionError(f"scenario {plan.name}: its devices find each other on a network: add --namespaces")
    folder = Path(tempfile.mkdtemp(prefix="gossamer-")) if keep is None else _made(keep)
    stays = keep is not None
    try:
        with built(plan.network) if namespaces else contextlib.nullcontext() as network:
            report = _trio_run(partial(_until_a_signal, partial(_run, plan, folder, display, network)))
        stays = stays or bool(problems(report))
    except (TaskRefused, OptionError, KeyboardInterrupt):
        raise
    except BaseException as error:
        stays = True
        error.add_note(f"The devices' homes are kept in {folder}")
        raise
    else:
        told: SwarmReport = msgspec.structs.replace(report, homes=str(folder) if stays else None)
        return told
    finally:
        if not stays:
            shutil.rmtree(folder)


def _made(keep: Path) -> Path:
    """Raises OptionError for a folder that cannot be made or holds anything."""
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        occupied = any(keep.iterdir())
    except OSError as error:
        raise OptionError(f"--keep {keep}: cannot be used: {error.strerror}") from error
    if occupied:
        raise OptionError(f"--keep {keep}: not empty; name a new folder, as no run overwrites another")
    return keep.absolute()


def _trio_run(work: Callable[[], Awaitable[T]]) -> T:
    """trio.run, with the first error of a group in place of the group: the others follow from it."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _until_a_signal(work: Callable[[], Awaitable[T]]) -> T:
    """Raises KeyboardInterrupt, after `work` has cleaned up, if a signal to end came before it was done."""
    done: list[T] = []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        signal.signal(again, signal.SIG_IGN)  # nobody's impatience cuts the cleaning up short

            nursery.start_soon(wait)
            done.append(await work())
            nursery.cancel_scope.cancel()
    if not done:
        raise KeyboardInterrupt
    return done[0]


async def _run(plan: Plan, folder: Path, display: Display, network: Network | None) -> SwarmReport:
    swarm = Run(plan, display, trio.current_time(), network)
    try:
        async with trio.open_nursery() as nursery:
            await swarm.found(folder)
            for daemon in swarm.daemons:
                nursery.start_soon(daemon.follow)
            await swarm.start()
            await swarm.train()
            results = await swarm.compare()
            nursery.cancel_scope.cancel()
        await swarm.stop()
    finally:
        left = await end_all(swarm.daemons)
    if left:
        raise SwarmFailed(f"these processes of the run could not be ended: {left}")
    return swarm.report(results)


@dataclass(frozen=True, slots=True)
class Evaluation:
    accuracy: float


@dataclass(frozen=True, slots=True)
class Aggregates:
    aggregates: list[AggregateReport]


@dataclass(frozen=True, slots=True)
class Peer:
    peer_id: str
    route: str | None


@dataclass(frozen=True, slots=True)
class Peers:
    peers: list[Peer]


@dataclass(frozen=True, slots=True)
class Results:
    """By device, in the order of those that are up."""

    daemons: list[Daemon]
    in_swarm: list[float]
    alone: list[float]
    routes: list[dict[str, str]]  # by neighbour
    aggregates: list[AggregateReport]


@dataclass(slots=True)
class Run:
    plan: Plan
    display: Display
    began: float
    network: Network | None = None  # None: all devices are on this machine's loopback
    daemons: list[Daemon] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)
    partings: list[Parting] = field(default_factory=list)
    up_s: float = math.inf  # when all were up
    looked_s: float = -math.inf  # whether all replicas are equal
    identities: list[Identity] = field(default_factory=list)
    swarm: Swarm | None = None
    credentials: list[tuple[bytes, ...]] = field(default_factory=list)
    newcomers: list[Newcomer] = field(default_factory=list)
    stage: str = "founding"

    # --- the beginning ---------------------------------------------------------------------------------------

    async def found(self, folder: Path) -> None:
        """Identities, and the one manifest that all of them hold."""
        plan = self.plan
        self._show()
        self.identities = [identity_of(plan.seed, index) for index in range(len(plan.devices))]
        settings = plan.swarm.settings(
            name=plan.name,
            rounds=plan.rounds,
            **plan.swarm.admitting(self.identities),
            seed=plan.seed,
        )
        opened = await _open_model(plan, folder)
        self.swarm = found_swarm(settings, plan.task, opened, self.identities[0])
        self.credentials = certify(self.swarm, self.identities, int(datetime.now(UTC).timestamp()))
        if plan.by_invitation:
            self.credentials = [()] * len(plan.devices)
        self.courses = [Course(fault) for fault in plan.faults]
        self.daemons = [
            Daemon(
                device,
                Home(folder / device.name),
                identity.peer_id,
                hostile=None if plan.hostile[index] is None else part_of(plan.seed, index, plan.hostile),
                inside=self._inside(index),
            )
            for index, (device, identity) in enumerate(zip(plan.devices, self.identities, strict=True))
        ]
        if self.network is not None:
            self.partings = [Parting(cut) for cut in plan.network.cut]

    def _inside(self, index: int) -> tuple[str, ...]:
        return () if self.network is None else self.network.layout.places[index].inside

    async def start(self) -> None:
        """The first device, and then, through it, all others at once."""
        self.stage = "starting"
        first, *others = self.daemons
        self._make_home(first, ())
        await first.start(self.plan.faults)
        await self._until(lambda: bool(first.heard and first.heard.addresses))
        assert first.heard is not None
        for daemon in others:
            if self.plan.by_invitation:
                await self._bring(daemon, first)
                continue
            self._make_home(daemon, tuple(first.heard.addresses))
            await daemon.start(self.plan.faults)
        # Rounds begin as soon as enough devices are up, and with them the faults.
        await self._until(lambda: all(daemon.heard for daemon in self._up))
        self.up_s = self._now_s

    async def _bring(self, daemon: Daemon, first: Daemon) -> None:
        """A newcomer with a fresh home, let in by the first device; returns once it has a neighbour."""
        self._make_home(daemon, (), belongs=False)
        invite, code = await invitation_of(first)
        self.newcomers.append(newcomer := Newcomer(daemon, trio.current_time(), invite))
        await daemon.start(self.plan.faults, ("join", code))
        await self._until(lambda: newcomer.joined_s is not None)
        self.display.say(
            f"{self._now_s:5.0f} s  {daemon.device.name} joined within {newcomer.joined_s:.1f} s"
        )

    def _make_home(self, daemon: Daemon, bootstrap: tuple[str, ...], *, belongs: bool = True) -> None:
        place = self.daemons.index(daemon)
        identity = self.identities[place]
        init_home(daemon.home.path, self._config(daemon, bootstrap), identity.seed)
        if not belongs:
            return
        assert self.swarm is not None
        keep_manifest(daemon.home, self.swarm)
        if self.credentials[place]:
            keep_credential(daemon.home, self.credentials[place])

    def _config(self, daemon: Daemon, bootstrap: tuple[str, ...]) -> str:
        order = digest("scenario order", _number(self.plan.seed), daemon.peer_id.encode())
        return config_text(
            Config(
                name=daemon.device.name,
                task=TaskSettings(
                    name=self.plan.task, data=daemon.device.data, seed=int.from_bytes(order[:4], "big")
                ),
                network=self._network(daemon, bootstrap),
                swarm=self.plan.swarm.settings(),  # without masks, each device has to say so
            )
        )

    def _network(self, daemon: Daemon, bootstrap: tuple[str, ...]) -> NetworkSettings:
        number = self.daemons.index(daemon)
        table = self.plan.hostile[number]
        hub = table is not None and table.hub
        if self.network is None:
            return NetworkSettings(bootstrap=bootstrap, hub=hub)
        place = self.network.layout.places[number]
        return NetworkSettings(bootstrap=bootstrap, listen=(place.listen,), hub=hub)

    # --- the rounds ------------------------------------------------------------------------------------------

    async def train(self) -> None:
        """Until all that shall be up have done the last round and know the same history."""
        self.stage = "training"
        cohorts = self.plan.swarm.cohorts
        faults_s = max((fault.for_s or fault.after_s or 0 for fault in self.plan.faults), default=0)
        cuts_s = max((each.cut.for_s or 0 for each in self.partings), default=0)
        patience_s = SILENCE_S + faults_s + cuts_s + 2 * (cohorts.gather_s + STEPS_OF_A_SUM * cohorts.step_s)
        before, moved_at = None, trio.current_time()
        done_at: float | None = None
        while True:
            await self._tick()
            now = trio.current_time()
            heard = [daemon.heard for daemon in self._honest]
            rounds = [status and status.round for status in heard]
            if rounds != before:
                before, moved_at = rounds, now
            settled = all(status is not None and status.settled for status in heard)
            awaited: list[Course | Parting] = [*self.courses, *self.partings]
            if settled and not any(each.unfinished for each in awaited):
                done_at = now if done_at is None else done_at
                same = len({status.history_digest for status in heard if status}) == 1
                if same and not any(each.waits_for_equality for each in self.partings):
                    return
                if now > done_at + SETTLE_S:
                    return  # the report says that they differ, and of whom
            elif now > moved_at + patience_s:
                raise SwarmFailed(f"no device has come any further for {patience_s:.0f} s:{self._laments()}")

    def _laments(self) -> str:
        """What the devices that are behind are doing."""
        behind = min(self._honest, key=lambda daemon: daemon.heard.round if daemon.heard else -1)
        lines = [
            f"\n    {daemon.device.name} {daemon.heard.doing} and waits for {daemon.heard.waits_for}"
            for daemon in self._honest
            if daemon.heard and not daemon.heard.settled
        ]
        return "".join(lines) + behind.last_words()

    @property
    def _up(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons if daemon.process is not None]

    @property
    def _honest(self) -> list[Daemon]:
        """Those that are up, without the bad ones: what these say of themselves is nothing."""
        return [daemon for daemon in self._up if daemon.hostile is None]

    @property
    def _round(self) -> int:
        """The highest that any honest device has told of."""
        return max((daemon.heard.round for daemon in self._honest if daemon.heard), default=0)

    @property
    def _now_s(self) -> float:
        return trio.current_time() - self.began

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Each daemon's own deadlines are the end of this wait."""
        while not reached():
            await self._tick()

    async def _tick(self) -> None:
        """Look after the processes and the faults, and tell how things stand."""
        await trio.sleep(TICK_S)
        round_ = self._round
        for course in await meet(self.courses, self._up, self._now_s, round_):
            assert course.daemon is not None
            self.display.say(f"{self._now_s:5.0f} s  {course.daemon.device.name}: {course.fault}")
        idle = all(daemon.heard is not None and daemon.heard.settled for daemon in self._honest)
        for course in self.courses:
            if course.due(self._now_s, round_, idle=idle):
                await self._go_on(course)
        if self.network is not None and self.stage == "training":
            await self._part(self.network, idle=idle)
        paused = [
            course.daemon for course in self.courses if course.fault.action == "pause" and course.unfinished
        ]
        for newcomer in self.newcomers:
            newcomer.look()
        for daemon in self._up:
            _refuse_death(daemon)
            if daemon not in paused:
                _refuse_silence(daemon)
        self._show()

    async def _go_on(self, course: Course) -> None:
        daemon = course.daemon
        assert daemon is not None
        if course.fault.action == "pause":
            daemon.go_on()
        else:
            # Devices listen on any free port, and the one they had may be another's by now.
            known = [other.heard.addresses[0] for other in self._up if other.heard and other.heard.addresses]
            daemon.home.config.write_text(self._config(daemon, tuple(known[:BOOTSTRAP_MAX])))
            await daemon.start(self.plan.faults)
        course.over_s = self._now_s
        self.display.say(f"{self._now_s:5.0f} s  {daemon.device.name}: goes on")

    # --- cuts ------------------------------------------------------------------------------------------------

    async def _part(self, network: Network, *, idle: bool) -> None:
        """Take links down and bring them back when it is time, and note when all replicas are equal again."""
        for parting in self.partings:
            home, down = parting.cut.home, self._down
            if parting.begins(self._now_s - self.up_s, self._round, down):
                await trio.to_thread.run_sync(network.cut, home)
                parting.cut_at = self._moment(f"{home} is cut off")
            elif parting.ends(self._now_s, self._round, idle=idle):
                for homes in sides_of(network.layout.homes, down):
                    if there := self._at(network, homes):
                        parting.sides.append(await self._side(homes, there))
                await trio.to_thread.run_sync(network.heal, home)
                parting.healed_at = self._moment(f"{home} is back")
        waiting = [each for each in self.partings if each.waits_for_equality]
        if waiting and not self._down and self._now_s >= self.looked_s + LOOK_S:
            await self._look(waiting)

    @property
    def _down(self) -> list[str]:
        """The homes that are cut off."""
        return [each.cut.home for each in self.partings if each.unfinished]

    def _moment(self, what: str) -> Moment:
        """Now; `what` happened."""
        moment = Moment(self._now_s, self._round)
        self.display.say(f"{moment.at_s:5.0f} s  round {moment.round}: {what}")
        return moment

    def _at(self, network: Network, homes: Sequence[str]) -> list[Daemon]:
        """Who is up in these homes, and does not stand still by a fault."""
        return [
            daemon
            for daemon, home in zip(self.daemons, network.layout.home_of, strict=True)
            if network.layout.homes[home] in homes
            and daemon.process is not None
            and not daemon.stands_still()
        ]

    async def _side(self, homes: Sequence[str], there: Sequence[Daemon]) -> SideReport:
        accuracies = await _of_each(there, partial(_evaluation, path="/evaluate"), _cores())
        return SideReport(
            homes=list(homes),
            devices=[daemon.device.name for daemon in there],
            round=max((daemon.heard.round for daemon in there if daemon.heard), default=0),
            accuracy=mean(accuracies),
        )

    async def _look(self, waiting: Sequence[Parting]) -> None:
        """Ask all devices at once, as their replicas go on changing."""
        up = self._up
        if any(daemon.stands_still() for daemon in up):
            return
        await _of_each(up, _refreshed)
        self.looked_s = self._now_s
        heard = [daemon.heard for daemon in up if daemon.heard]
        if len(heard) < len(up) or len({(each.history_digest, each.replica_sha256) for each in heard}) > 1:
            return
        moment = self._moment("all replicas are equal")
        accuracy = mean(await _of_each(up, partial(_evaluation, path="/evaluate"), _cores()))
        for parting in waiting:
            parting.equal_at, parting.accuracy_equal = moment, accuracy

    def _show(self) -> None:
        heard = [daemon.heard for daemon in self._up if daemon.heard]
        known = [status.accuracy for status in heard if status.accuracy is not None]
        round_, rounds = max((status.round for status in heard), default=0), self.plan.rounds
        self.display.show(
            Snapshot(
                stage=self.stage,
                at_s=self._now_s,
                up=len(heard),
                devices=len(self.plan.devices),
                round=round_,
                rounds=rounds,
                accuracy=mean(known) if known else None,
                sent_bytes=sum(
                    status.traffic.sent for daemon in self.daemons for status in daemon.all_heard()
                ),
                # Afterwards replicas are compared, and there is no telling for how long.
                left_s=left_s(self._now_s, round_, rounds) if round_ < rounds else None,
            )
        )

    # --- the end ---------------------------------------------------------------------------------------------

    async def compare(self) -> Results:
        """What each device's replica is worth, and what the device could have come to by itself."""
        self.stage = "comparing"
        up = self._honest
        async with self._watched():
            in_swarm = await _of_each(up, partial(_evaluation, path="/evaluate"), _cores())
            alone = await _of_each(up, _alone, _cores())
            listed = await up[0].ask("GET", "/aggregates", Aggregates)
            routes = await _of_each(up, self._routes)
            await _of_each(up, Daemon.refresh)
        return Results(up, in_swarm, alone, routes, listed.aggregates)

    async def _routes(self, daemon: Daemon) -> dict[str, str]:
        told = await daemon.ask("GET", "/peers", Peers)
        names = {each.peer_id: each.device.name for each in self.daemons}
        return {names[peer.peer_id]: peer.route for peer in told.peers if peer.route is not None}

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Go on looking after the processes meanwhile."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self._until(lambda: False)

            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()

    async def stop(self) -> None:
        """Ask all to stop. Raises SwarmFailed for one that does not, or ends in another way than well."""
        self.stage = "stopping"
        self._show()

        async def down(daemon: Daemon) -> None:
            assert daemon.process is not None
            await daemon.ask("POST", "/down", dict)
            with trio.move_on_after(DOWN_S):
                await daemon.process.wait()
            if daemon.process.returncode is None:
                raise SwarmFailed(
                    f"{daemon.device.name} did not stop within {DOWN_S:.0f} s{daemon.last_words()}"
                )
            # SIGALRM is a daemon's own deadline for its end, which a busy machine may well reach.
            if daemon.process.returncode not in {0, -signal.SIGALRM}:
                raise SwarmFailed(f"{_obituary(daemon)}{daemon.last_words()}")

        await _of_each(self._up, down)

    def report(self, results: Results) -> SwarmReport:
        plan = self.plan
        every = [status for daemon in self.daemons for status in daemon.all_heard()]
        last = [daemon.heard for daemon in results.daemons if daemon.heard]
        return SwarmReport(
            scenario=plan.name,
            task=plan.task,
            test=plan.test,
            seed=plan.seed,
            wall_s=round(self._now_s, 2),
            rounds=max(status.round for status in last),
            n_min=plan.swarm.cohorts.n_min,
            masks=plan.swarm.cohorts.masks,
            nodes=[
                _node_report(daemon, alone, in_swarm, routes, self.newcomers)
                for daemon, alone, in_swarm, routes in zip(
                    results.daemons, results.alone, results.in_swarm, results.routes, strict=True
                )
            ],
            aggregates=results.aggregates,
            bytes_by_kind=_bytes_by_kind(every),
            phases_s=_phases_s(last),
            homes=None,
            faults=[course.report() for course in self.courses],
            cuts=tuple(parting.report() for parting in self.partings),
            adversary=self._adversary(max(status.round for status in last)),
        )

    def _adversary(self, rounds: int) -> AdversaryReport | None:
        """Of what honest daemons have logged."""
        hostile = self.plan.hostile
        if not any(hostile):
            return None
        effects = Effects([identity.public_key for identity in self.identities], hostile)
        for index, daemon in enumerate(self.daemons):
            if daemon.hostile is None:
                for report in logged(daemon.home.log):
                    effects.hear(index, report)
        return effects.report(self.plan.adversaries, rounds, self._now_s - self.up_s, None)


async def _open_model(plan: Plan, folder: Path) -> messages.Opened:
    """x_0 and the model's schema, which only a trainer knows. Raises TaskRefused, TrainerDown."""
    with logging_to(folder / "first-model.log", "info", foreground=False) as log:
        trainer = Trainer(lambda _event: None, log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trainer.run)
            opened = await trainer.open(
                messages.Open(plan.task, plan.devices[0].data, None, seed=0, model_seed=plan.seed)
            )
            nursery.cancel_scope.cancel()
    return opened


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _refuse_death(daemon: Daemon) -> None:
    if daemon.process is not None and daemon.process.poll() is not None:
        raise SwarmFailed(f"{_obituary(daemon)}{daemon.last_words()}")


def _obituary(daemon: Daemon) -> str:
    code = daemon.process.returncode if daemon.process is not None else None
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return f"{daemon.device.name}'s daemon ended {how}, which nobody asked it to"


def _refuse_silence(daemon: Daemon) -> None:
    limit_s = START_S if daemon.heard is None else SILENCE_S
    if trio.current_time() > daemon.heard_at + limit_s:
        what = "was not up within" if daemon.heard is None else "has not answered for"
        raise SwarmFailed(f"{daemon.device.name} {what} {limit_s:.0f} s{daemon.last_words()}")


async def _of_each(
    daemons: Sequence[Daemon], ask: Callable[[Daemon], Awaitable[T]], at_once: int = DEVICES_MAX
) -> list[T]:
    """The answers, in order."""
    limit = trio.CapacityLimiter(at_once)
    answers: dict[str, T] = {}

    async def one(daemon: Daemon) -> None:
        async with limit:
            answers[daemon.peer_id] = await ask(daemon)

    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            nursery.start_soon(one, daemon)
    return [answers[daemon.peer_id] for daemon in daemons]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def _refreshed(daemon: Daemon) -> None:
    """As `Daemon.follow` does it: who reads `heard_at` decides when silence is too long."""
    with contextlib.suppress(SwarmFailed):
        await daemon.refresh()


async def _evaluation(daemon: Daemon, path: str, json: Mapping[str, object] | None = None) -> float:
    return (await daemon.ask("POST", path, Evaluation, json=json, timeout_s=COMPARE_S)).accuracy


async def _alone(daemon: Daemon) -> float:
    steps = max(1, sum(status.steps for status in daemon.all_heard()))
    return await _evaluation(daemon, "/alone", {"steps": steps})


def _node_report(
    daemon: Daemon, alone: float, in_swarm: float, routes: dict[str, str], newcomers: Sequence[Newcomer]
) -> NodeReport:
    newcomer = next((newcomer for newcomer in newcomers if newcomer.daemon is daemon), None)
    every = daemon.all_heard()
    last = every[-1]
    return NodeReport(
        name=daemon.device.name,
        peer_id=daemon.peer_id,
        accuracy_alone=alone,
        accuracy_swarm=in_swarm,
        replica_sha256=last.replica_sha256,
        history_digest=last.history_digest,
        steps=sum(status.steps for status in every),
        bytes_sent=sum(status.traffic.sent for status in every),
        bytes_received=sum(status.traffic.received for status in every),
        contributions=sum(status.contributions for status in every),
        cohorts_aborted=sum(status.cohorts_aborted for status in every),
        cpu_s=Parts(
            _total([status.cpu_s.daemon for status in every]),
            _total([status.cpu_s.trainer for status in every]),
        ),
        pss_mb=last.pss_mb,
        routes=routes,
        relayed_bytes=sum(status.relaying.relayed_bytes for status in every if status.relaying),
        joined_s=None if newcomer is None else newcomer.joined_s,
        first_contribution_s=None if newcomer is None else newcomer.first_contribution_s,
    )


def _total(figures: Sequence[float | None]) -> float | None:
    """None if any of them is not known."""
    known = [figure for figure in figures if figure is not None]
    return round(sum(known), 2) if len(known) == len(figures) else None


def _phases_s(last: Sequence[Status]) -> dict[str, float]:
    """Medians over the devices, in the order of a sum's steps."""
    names = dict.fromkeys(name for status in last for name in status.times_s)
    order = sorted(names, key=lambda name: [STEPS.index(step) for step in name.split(" to ")])
    return {
        name: round(median(status.times_s[name] for status in last if name in status.times_s), 4)
        for name in order
    }


def _bytes_by_kind(every: Sequence[Status]) -> dict[str, Bytes]:
    kinds = sorted(dict.fromkeys(kind for status in every for kind in status.traffic.by_kind))
    none = Bytes(0, 0)
    return {
        kind: Bytes(
            sum(status.traffic.by_kind.get(kind, none).sent for status in every),
            sum(status.traffic.by_kind.get(kind, none).received for status in every),
        )
        for kind in kinds
    }
