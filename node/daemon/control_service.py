"""What a daemon tells of itself, from the first moment of its life to the last (`node.daemon.control_http.Node`)."""

import contextlib
import os
import resource
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Literal

import trio  # noqa: TID251 - the drivers are trio's room

from crypto.identity import Identity, peer_id, public_key_of
from gossip.errors import PeerViolation
from gossip.events import Admit, Block, Floats, Revoke, Strike
from gossip.manifest import Swarm
from node.clock import unix_time
from node.config.settings import Config
from node.core import NodeCore
from node.daemon.control_http import NotDone, NotYet, Wish
from node.daemon.loop import Daemon
from node.daemon.mailbox import Mailbox
from node.daemon.trainer import Trainer
from node.errors import Unanswered
from node.join.serve import NOT_THERE, Inviting
from node.lan.interfaces import interfaces
from node.lan.notice import route_of
from node.net.libp2p.terms import Unreachable
from node.telemetry import process_figures

if TYPE_CHECKING:
    from node.lan.discovery import Nearby
    from node.net.libp2p.transport import Libp2pTransport  # takes seconds to import: see boot

CERTIFICATE_S = 365 * 86_400  # that an invited device belongs; a new invitation renews it
GENERATIONS = 1  # that an invited device may admit in turn

# What a core says of itself, and what is null before there is one.
CORE_FIELDS = (
    "doing", "waits_for", "round", "rounds", "replica_sha256", "history_digest", "heads", "aggregates", "live",
    "neighbours", "contributions", "cohorts_aborted", "sums_refused", "checkpoints_refuted", "struck", "sums_taken_back", "accuracy", "accuracy_round", "steps", "settled", "warning",
)  # fmt: skip


class Running:
    """The parts of a node that is up."""

    def __init__(
        self,
        *,
        core: NodeCore,
        daemon: Daemon,
        transport: "Libp2pTransport",
        first_model: Floats,
        nearby: "Nearby | None",
        inviting: Inviting,
    ) -> None:
        self.core = core
        self.daemon = daemon
        self.transport = transport
        self.first_model = first_model  # x_0
        self.nearby = nearby  # None: the settings say no
        self.inviting = inviting


class Account:
    def __init__(
        self, config: Config, identity: Identity, mailbox: Mailbox, trainer: Trainer, stop: Callable[[], None]
    ) -> None:
        self.swarm: Swarm | None = None
        self.running: Running | None = None
        self.stop = stop
        self._config = config
        self._identity = identity
        self._mailbox = mailbox
        self._trainer = trainer
        self.starting("its state file")

    # --- how far the daemon is --------------------------------------------------------------------------------

    def starting(self, waits_for: str) -> None:
        self._stand("starting", "starts", waits_for)

    def joining(self, waits_for: str) -> None:
        self._stand("joining", "looks for its swarm", waits_for)

    def stopping(self) -> None:
        self._stand("stopping", "stops", "nothing")

    def _stand(self, state: Literal["starting", "joining", "stopping"], doing: str, waits_for: str) -> None:
        self._state, self._doing, self._waits_for = state, doing, waits_for

    # --- what can be asked ------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Bytes are counted at the sockets; megabytes are 10^6 bytes; null is what is not known (yet)."""
        running = self.running
        trainer = process_figures(self._trainer.pid) if self._trainer.pid is not None else None
        daemon = process_figures(os.getpid())
        of_core = dict.fromkeys(CORE_FIELDS) if running is None else running.core.status(trio.current_time())
        if running is None or self._state == "stopping":
            of_core |= {"doing": self._doing, "waits_for": self._waits_for}
        return {
            "name": self._config.name,
            "peer_id": self._identity.peer_id,
            "swarm": self.swarm
            and {
                "id": self.swarm.id.hex(),
                "name": self.swarm.manifest.name,
                "admit": self.swarm.manifest.admit,
            },
            "task": self._config.task.name,
            "pid": os.getpid(),
            "trainer_pid": self._trainer.pid,
            "state": "running" if running is not None and self._state != "stopping" else self._state,
            **of_core,
            "addresses": [] if running is None else running.transport.addresses,
            "relaying": running.transport.circuits.status()
            if running is not None and running.transport.circuits is not None
            else None,
            "nearby": running.nearby.status() if running is not None and running.nearby is not None else None,
            "traffic": self._traffic(),
            "cpu_s": {
                "daemon": daemon["cpu_s"],
                "trainer": _ended_children_cpu_s() + ((trainer and trainer["cpu_s"]) or 0.0),
            },
            "pss_mb": {"daemon": daemon["pss_mb"], "trainer": trainer and trainer["pss_mb"]},
            "times_s": {} if running is None else running.daemon.times.medians_s(),
        }

    def _traffic(self) -> dict[str, object]:
        """At the sockets, and of that: direct messages, announcements (every copy), and either by kind (once)."""
        told: dict[str, object] = {"sent": 0, "received": 0}
        if self.running is not None:
            counted = asdict(self.running.transport.traffic())
            told = {"sent": counted.pop("socket_sent"), "received": counted.pop("socket_received"), **counted}
        told["by_kind"] = {kind: asdict(counts) for kind, counts in sorted(self._mailbox.by_kind.items())}
        return told

    def peers(self) -> dict[str, object]:
        """The other members that are believed to be up; `address` is the other end of a neighbour's connection.

        `route`: to a neighbour, "lan", "direct", or "relay" through another member. `state`: "neighbour", or "member", of whom others told.
        `struck_since`: the round from which on what it has given does not count, or null. `knocks`: strangers that ask to be let in.
        """
        running = self._up()
        ends = {peer_id(peer): address for peer, address in running.transport.peers}
        live = running.core.status(trio.current_time())["live"]
        assert isinstance(live, list)
        others = [peer for peer in live if peer != self._identity.peer_id]
        struck = {each["peer_id"]: each["since"] for each in running.core.struck()}
        here = interfaces()
        return {
            "peers": [
                {
                    "peer_id": peer,
                    "neighbour": peer in ends,
                    "state": "neighbour" if peer in ends else "member",
                    "route": route_of(ends[peer], here) if peer in ends else None,
                    "address": ends.get(peer),
                    "struck_since": struck.get(peer),
                }
                for peer in others
            ],
            "knocks": running.inviting.knocks(),
        }

    async def ping(self, peer: str, count: int) -> dict[str, object]:
        """A neighbour, by its peer id or how that ends. Raises Unanswered."""
        transport = self._up().transport
        meant = [(key, address) for key, address in transport.peers if peer_id(key).endswith(peer)]
        if len(meant) != 1:
            which = "several neighbours' ids end" if meant else "no neighbour's id ends"
            raise Unanswered(f"{which} in {peer}; see: gossamer peers")
        [(key, address)] = meant
        try:
            pinged = await transport.ping(key, count)
        except (Unreachable, PeerViolation) as error:
            raise Unanswered(str(error)) from error
        return {
            "peer_id": peer_id(key),
            "address": address,
            "route": route_of(address, interfaces()),
            "count": len(pinged.round_trips_s),
            "min_ms": round(1000 * min(pinged.round_trips_s), 3),
            "median_ms": round(1000 * median(pinged.round_trips_s), 3),
            "clock_ahead_s": round(pinged.clock_ahead_s, 3),
        }

    def addresses(self) -> list[str]:
        """Where others reach this node."""
        return self._up().transport.addresses

    async def issue(self, device: bytes) -> tuple[tuple[bytes, ...], str]:
        """A device's chain of certificates, durable; or nothing, and why not."""
        if self.running is None:
            return (), "the node is still starting"
        expires_s = int(unix_time()) + CERTIFICATE_S
        answered = await self.running.daemon.ask(Admit(device, expires_s, GENERATIONS))
        return answered.statements, answered.refusal

    def invite(self, ttl_s: float, uses: int) -> dict[str, object]:
        return self._up().inviting.invite(ttl_s, uses)

    async def watch(self, number: int, after: int) -> dict[str, object]:
        return await self._up().inviting.watch(number, after)

    def answer(self, talk: int, allow: bool) -> dict[str, object]:
        return self._up().inviting.answer(talk, allow)

    def withdraw(self, number: int) -> dict[str, object]:
        return self._up().inviting.withdraw(number)

    async def wish(self, wish: Wish, peer: str, strike_since: int | None = None) -> dict[str, object]:
        """Of a device, by its peer id or how that ends. Raises NotDone, Unanswered."""
        running = self._up()
        if strike_since is not None and wish != "remove":
            raise NotDone(f'nothing is struck by "{wish}"; see: gossamer peers remove')
        if wish in {"allow", "refuse"}:
            knocked = running.inviting.answer_knock(peer, allow=wish == "allow")
            if knocked is not None:
                return {"peer_id": knocked, "wish": wish, "knocked": True}
            if wish == "refuse":
                raise Unanswered(NOT_THERE)
        device = self._device(running.core, peer)
        told: dict[str, object] = {"peer_id": peer_id(device), "wish": wish, "knocked": False}
        if wish == "remove" and strike_since is not None:
            return {**told, **await self._strike(running, device, strike_since)}
        question = Revoke(device) if wish == "remove" else Block(device, blocked=wish == "block")
        answered = await running.daemon.ask(question)
        if answered.refusal:
            raise NotDone(answered.refusal)
        return told

    async def _strike(self, running: Running, device: bytes, since: int) -> dict[str, object]:
        """Strike, and revoke where there are certificates: who may do the one may not always do the other."""
        answered = await running.daemon.ask(Strike(device, since))
        if answered.refusal:
            raise NotDone(answered.refusal)
        [of_device] = [each for each in running.core.struck() if each["peer_id"] == peer_id(device)]
        refusal = "it does not admit by certificate"
        if running.core.certifies:
            refusal = (await running.daemon.ask(Revoke(device))).refusal
        return {"strike": of_device, "revoked": not refusal, "not_revoked": refusal}

    def _device(self, core: NodeCore, peer: str) -> bytes:
        with contextlib.suppress(ValueError):
            return public_key_of(peer)
        meant = [device for device in core.devices() if peer_id(device).endswith(peer)]
        if len(meant) != 1:
            which = "several devices' ids end" if meant else "no known device's id ends"
            raise NotDone(f"{which} in {peer}; see: gossamer peers")
        return meant[0]

    def aggregates(self) -> dict[str, object]:
        return {"aggregates": self._up().core.aggregates()}

    async def evaluate(self) -> dict[str, object]:
        """The replica as it is now, judged on the task's test set. Raises TrainerDown."""
        core = self._up().core
        round_ = core.status(trio.current_time())["round"]
        judged = await self._trainer.evaluate(core.model())
        return {
            "round": round_,
            "accuracy": judged.accuracy,
            "loss": judged.loss,
            "examples": judged.count,
        }

    async def alone(self, steps: int) -> dict[str, object]:
        """What the first model is worth after local steps on this device's own data only. Raises TrainerDown."""
        accuracy = await self._trainer.alone(self._up().first_model, steps)
        return {"accuracy": accuracy, "steps": steps}

    def _up(self) -> Running:
        if self.running is None:
            raise NotYet(f"the node {self._doing} and waits for {self._waits_for}")
        return self.running


def _ended_children_cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
