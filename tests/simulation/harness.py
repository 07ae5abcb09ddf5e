"""A small in-memory world for NodeCores: bytes between them, a heap of virtual time, faults, and invariants.

Every message crosses as encoded bytes and may be dropped, duplicated or reordered (latencies are random, so order is
too). A crash forgets all but what was committed to the node's disk; a commit in flight at that moment is lost or durable,
and its acknowledgement never comes. After every event the invariants of the design are checked, mostly by reading what
crosses the wire, as an observer who happens to know every member's plain vector. The same seed gives the same trace.
"""

import hashlib
import heapq
import random
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.body import Body
from gossip.errors import PeerViolation
from gossip.events import (
    Abandon,
    Answered,
    CancelTimer,
    Clock,
    Compute,
    Computed,
    Dial,
    Disconnect,
    Eligible,
    Evaluate,
    Evaluated,
    Freeze,
    Frozen,
    Look,
    Looked,
    Pause,
    PeerDown,
    PeerUp,
    Persist,
    Persisted,
    Put,
    Rebase,
    Received,
    Report,
    Resume,
    Send,
    SendFailed,
    SetTimer,
    TimerFired,
    Train,
    TrainerReady,
    result_of,
)
from gossip.frames import Kind, open_frame, sign_frame
from gossip.history.aggregate import Verified
from gossip.history.fold import fold_all
from gossip.manifest import (
    Cohorts,
    Compression,
    Invitations,
    Manifest,
    Model,
    Step,
    Swarm,
    Tensor,
    Training,
    found,
)
from gossip.membership.statements import issue
from gossip.membership.view import Settings
from gossip.quorum import read_members, unpack_members
from gossip.secure_sum.derived import seal_hash
from gossip.secure_sum.member import MaskJob
from gossip.secure_sum.messages import Masked, SealCertificate, SealProposal, Shares, Unmask
from gossip.wire import pack
from node import core as node_core

INVITATIONS = Invitations()
FACTORED = (Tensor(9, 0, 3), Tensor(6, 1, 2), Tensor(1, 1))  # the second takes the first one's outputs
EPOCH_S = 1_800_000_000  # unix time at the start of virtual time
CLOCK_S = 60.0
STEP_S = 1.0
GATHER_S = 0.5
TRAIN_S = (0.5, 3.0)
ROUND_TIME_S = TRAIN_S[1] + 14 * STEP_S + 4 * GATHER_S  # the longest phase plus all step timeouts


class InvariantBroken(AssertionError):
    """Says what broke, and the seed that replays it."""


@dataclass
class Faults:
    """What may go wrong until `until`; afterwards the world is kind."""

    until: float = 60.0
    drop: float = 0.0
    duplicate: float = 0.0
    latency: tuple[float, float] = (0.005, 0.05)
    crashes: dict[str, float] = field(default_factory=dict)  # phase -> chance that a node dies right after it
    restart_after: tuple[float, float] = (1.0, 20.0)
    flip_share: int | None = None  # this node's index: it corrupts every share it opens
    replay: float = 0.0  # chance that an old frame is sent once more, to anybody


def random_faults(rng: random.Random, n: int) -> Faults:
    phases = ["READY", "ROSTER", "SHARES", "KEYS_SET", "MASKED", "SEAL", "UNMASK", "RESULT"]
    crashes = {phase: rng.choice([0.0, 0.0, 0.03, 0.15]) for phase in phases}
    return Faults(
        until=rng.uniform(5, 40),
        drop=rng.choice([0.0, 0.0, 0.02, 0.1, 0.3]),
        duplicate=rng.choice([0.0, 0.05, 0.3]),
        latency=rng.choice([(0.005, 0.05), (0.01, 0.8), (0.001, 2.5)]),
        crashes=crashes if rng.random() < 0.7 else {},
        flip_share=rng.randrange(n) if rng.random() < 0.15 else None,
        replay=rng.choice([0.0, 0.05]),
    )


def tiny_swarm(
    founder: Identity,
    members: list[bytes],
    *,
    n_min: int = 3,
    n_max: int = 16,
    codec: str = "dense",
    sums: int = 8,
    admit: str = "members",
    invitations: Invitations = INVITATIONS,
) -> Swarm:
    initial = tiny_initial()
    return found(
        Manifest(
            version=1,
            name="tiny",
            model=Model(
                "tiny",
                bytes(32),
                FACTORED if codec == "lowrank" else (Tensor(9, 0), Tensor(7, 1)),
                0,
                hashlib.sha256(initial.tobytes()).digest(),
            ),
            training=Training(1, 10, 0, (Step(1, 256, 64),), 1 << 24),
            compression=Compression(codec, 4, 7, 8, -2, rank=2),
            cohorts=Cohorts(n_min, n_max, int(GATHER_S * 1000), int(STEP_S * 1000), sums),
            admit=admit,
            members=tuple(sorted(members)) if admit == "members" else (),
            founder=founder.public_key,
            invitations=invitations,
        ),
        founder,
    )


def certificate(
    swarm: Swarm, inviter: Identity, device: bytes, serial: int, *, depth: int = 0, days: float = 365
) -> bytes:
    return issue(inviter, swarm.id, device, serial, EPOCH_S, EPOCH_S + round(days * 86_400), depth)


def tiny_initial() -> np.ndarray:
    return np.arange(16, dtype=np.int64) << 18


class Device:
    """One node's body: its disk, its core while it lives, and its incarnation."""

    def __init__(self, index: int, identity: Identity) -> None:
        self.index = index
        self.identity = identity
        self.key = identity.public_key
        self.disk: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.core: node_core.NodeCore | None = None
        self.incarnation = 0
        self.timers: dict[object, int] = {}
        self.phase = 0
        self.pending_commits: list[Persist] = []
        self.credential: tuple[bytes, ...] = ()

    @property
    def alive(self) -> bool:
        return self.core is not None


class World:
    def __init__(
        self,
        seed: int,
        n: int,
        *,
        faults: Faults | None = None,
        n_min: int = 3,
        codec: str = "dense",
        core_codec: object = None,
        n_max: int = 16,
        sums: int = 8,
        hubs: int = 0,
        admit: str = "members",
        hostile: dict[int, object] | None = None,
        attacked: bool = False,
    ) -> None:
        """`admit` = "invite": the first device has certified the others, each of whom knows its own certificate alone.

        `hostile`: what the cores of bad devices are made by, by index (`scenarios.adversary.casting`). `attacked`: somebody
        else tries to break the cores; in no other world may one of them tell of a fault.
        """
        self.attacked = attacked
        self.seed = seed
        self.rng = random.Random(seed)
        self.faults = faults or Faults(until=0.0)
        self.now = 0.0
        self.devices = [Device(i, Identity(digest("device", bytes([i])))) for i in range(n)]
        self.by_key = {device.key: device for device in self.devices}
        self.swarm = tiny_swarm(
            self.devices[0].identity,
            list(self.by_key),
            n_min=n_min,
            n_max=n_max,
            codec=codec,
            sums=sums,
            admit=admit,
        )
        if admit == "invite":
            founder = self.devices[0].identity
            for serial, device in enumerate(self.devices[1:]):
                device.credential = (certificate(self.swarm, founder, device.key, serial),)
                # It knows the numbers that it has given.
                self.devices[0].credential += device.credential
        self.hostile = hostile or {}
        self.answers: list[Answered] = []
        self.hubs = hubs  # the first so many
        self.core_codec = core_codec
        self.trace = hashlib.sha256()
        self.cut: list[set[bytes]] = []  # groups that cannot reach each other
        self.reports: list[tuple[float, int, Report]] = []
        self.events = 0
        self.observer = Observer(self)
        self._heap: list[tuple[float, int, object, tuple[object, ...]]] = []
        self._sequence = 0
        self._old_frames: list[bytes] = []
        for device in self.devices:
            self.boot(device)

    # --- what a test says ------------------------------------------------------------------------------------

    def run(self, seconds: float, *, until: object = None) -> bool:
        """Run virtual time on; true as soon as `until()` holds."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            at, _, action, arguments = heapq.heappop(self._heap)
            self.now = at
            action(*arguments)
            self.events += 1
            if until is not None and until():
                return True
        self.now = end
        return False

    def crash(self, device: Device) -> None:
        """What is not on the disk is gone. A commit in flight is durable or not, and nobody will ever know."""
        if not device.alive:
            return
        for persist in device.pending_commits:
            if self.rng.random() < 0.5:
                self._commit(device, persist)
            else:
                break
        device.pending_commits = []
        device.core = None
        device.incarnation += 1
        device.timers.clear()
        self.observer.crashed(device)
        for other in self.devices:
            if other.alive:
                self._later(0.05, self._deliver, other, other.incarnation, PeerDown(device.key, "gone"))

    def boot(self, device: Device) -> None:
        if device.alive:
            return
        device.incarnation += 1
        others = tuple((d.key, (f"sim/{d.index}",)) for d in self.devices if d is not device)
        settings = Settings(
            (f"sim/{device.index}",),
            others,
            neighbours=len(self.devices),
            sequence=device.incarnation << 20,
            hub=device.index < self.hubs,
        )
        stream = random.Random(f"{self.seed}/{device.index}/{device.incarnation}")
        device.core = self.hostile.get(device.index, node_core.NodeCore)(
            identity=device.identity,
            swarm=self.swarm,
            initial=tiny_initial(),
            settings=settings,
            entropy=stream.randbytes,
            read=lambda table: sorted(device.disk[table].items()),
            credential=device.credential,
        )
        self._perform(device, device.core.start(self.now))
        if self.swarm.manifest.certifies:
            self._tell_time(device, device.incarnation)
        for other in self.devices:
            if other is not device and other.alive and self._linked(device, other):
                self._later(0.01, self._deliver, other, other.incarnation, PeerUp(device.key))
                self._later(0.01, self._deliver, device, device.incarnation, PeerUp(other.key))
        self._later(0.02, self._deliver, device, device.incarnation, TrainerReady(20 + 3 * device.index))

    def join(self, identity: Identity, credential: tuple[bytes, ...]) -> Device:
        """A new device, which knows where all the others are."""
        device = Device(len(self.devices), identity)
        device.credential = credential
        self.devices.append(device)
        self.by_key[device.key] = device
        self.boot(device)
        return device

    def ask(self, device: Device, question: object) -> None:
        self._tell(device, 0.0, question)

    def _tell_time(self, device: Device, incarnation: int) -> None:
        if device.incarnation == incarnation and device.alive:
            self._deliver(device, incarnation, Clock(EPOCH_S + int(self.now)))
            self._later(CLOCK_S, self._tell_time, device, incarnation)

    def partition(self, *groups: set[int]) -> None:
        self.cut = [{self.devices[i].key for i in group} for group in groups]
        for device in self.devices:
            for other in self.devices:
                if other is not device and not self._linked(device, other):
                    self._later(0.05, self._deliver, device, device.incarnation, PeerDown(other.key, "cut"))

    def heal(self) -> None:
        self.cut = []
        for device in self.devices:
            for other in self.devices:
                if other is not device and device.alive and other.alive:
                    self._later(0.05, self._deliver, device, device.incarnation, PeerUp(other.key))

    def mend(self) -> None:
        """Faults stop: everybody is up, every message arrives."""
        self.faults = Faults(until=0.0)
        self.heal()
        for device in self.devices:
            self.boot(device)

    def alive(self) -> list[Device]:
        return [device for device in self.devices if device.alive]

    def rounds(self) -> list[int]:
        return [int(device.core.status(self.now)["round"]) for device in self.alive()]

    def one_history(self) -> bool:
        return len({device.core.status(self.now)["history_digest"] for device in self.alive()}) == 1

    # --- the driver ------------------------------------------------------------------------------------------

    def _later(self, delay: float, action: object, *arguments: object) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay, self._sequence, action, arguments))

    def _deliver(self, device: Device, incarnation: int, event: object) -> None:
        if device.core is None or device.incarnation != incarnation:
            return
        if isinstance(event, Persisted | Computed | TimerFired | Received):
            self.trace.update(repr((round(self.now, 9), device.index, type(event).__name__)).encode())
        self._perform(device, device.core.handle(event, self.now))

    def _perform(self, device: Device, actions: list[object]) -> None:
        """Actions in order. A crash in the middle leaves the rest undone, as it would be."""
        incarnation = device.incarnation
        for action in actions:
            if device.incarnation != incarnation:
                return
            self.trace.update(repr((device.index, type(action).__name__)).encode())
            self._do(device, action)
        self.observer.after(device)

    def _do(self, device: Device, action: object) -> None:
        match action:
            case Send(peer, data):
                self._send(device, peer, data)
            case Dial(peer, addresses):
                other = self.by_key[peer]
                if not addresses or not other.alive or not self._linked(device, other):
                    self._tell(device, 0.05, PeerDown(peer, "could not connect"))
                else:
                    self._tell(device, 0.02, PeerUp(peer))
                    self._tell(other, 0.02, PeerUp(device.key))
            case Disconnect(peer, reason):
                self._tell(device, 0.0, PeerDown(peer, reason))
                self._tell(self.by_key[peer], 0.01, PeerDown(device.key, "closed"))
            case SetTimer(tag, at):
                number = device.timers[tag] = device.timers.get(tag, 0) + 1
                self._later(max(0.0, at - self.now), self._fire, device, device.incarnation, tag, number)
            case CancelTimer(tag):
                device.timers[tag] = device.timers.get(tag, 0) + 1
            case Persist():
                device.pending_commits.append(action)
                self._later(self.rng.uniform(0.001, 0.02), self._commit_next, device, device.incarnation)
            case Compute(tag, job):
                self.observer.computing(device, job)
                self._tell(device, self.rng.uniform(0.001, 0.01), Computed(tag, result_of(job)))
            case Train(phase, _, _, _):
                device.phase = phase
                self._tell(device, self.rng.uniform(*TRAIN_S), Eligible(phase, 5))
            case Freeze(phase):
                delta = np.array([self.rng.gauss(0, 0.2) for _ in range(16)], np.float32)
                self._tell(device, 0.01, Frozen(phase, delta, 7, 0.5))
            case Abandon(phase):
                assert phase == device.phase, "what it trains is what it gives up"
            case Pause() | Resume():
                pass
            case Look(tag):
                self._tell(device, self.rng.uniform(0.001, 0.01), Looked(tag, 1.0, 1.0))
            case Evaluate(round_, _):
                self._tell(device, 0.01, Evaluated(round_, 0.5, 1.0))
            case Report():
                self.reports.append((self.now, device.index, action))
                self.observer.require(
                    action.name != "fault" or self.attacked or self.hostile, f"a fault: {action.fields}"
                )
                if action.name == "settled":
                    self.observer.settled(device, action.fields["cohort"], action.fields["outcome"])
                self._maybe_crash(device, action)
            case Rebase():
                pass
            case Answered():
                self.answers.append(action)
            case _:
                raise InvariantBroken(f"no driver for {action}")

    def _send(self, device: Device, peer: bytes, data: bytes) -> None:
        self.trace.update(data)
        other = self.by_key[peer]
        if device.index not in self.hostile:
            self.observer.on_wire(device, other, data)
        self._old_frames.append(data)
        if self.now < self.faults.until:
            data = self._tamper(device, data)
            if self.faults.replay and self.rng.random() < self.faults.replay:
                victim, old = self.rng.choice(self.devices), self.rng.choice(self._old_frames)
                self._later(self._latency(), self._arrive, device.key, victim, old)
        if not other.alive or not self._linked(device, other):
            self._tell(device, 0.02, SendFailed(peer, data, "no connection"))
            return
        if self._lost():
            return
        self._later(self._latency(), self._arrive, device.key, other, data)
        if self.now < self.faults.until and self.rng.random() < self.faults.duplicate:
            self._later(self._latency(), self._arrive, device.key, other, data)

    def _arrive(self, sender: bytes, other: Device, data: bytes) -> None:
        if other.alive and self._linked(self.by_key[sender], other):
            self._deliver(other, other.incarnation, Received(sender, data))

    def _tamper(self, device: Device, data: bytes) -> bytes:
        if device.index != self.faults.flip_share or device.index in self.hostile:  # which lies by itself
            return data
        message = open_frame(self.swarm.id, data, device.key)
        if not isinstance(message.body, Unmask):
            return data
        shares = tuple(bytes([share[0] ^ 1]) + share[1:] if share else share for share in message.body.shares)
        lie = Unmask(message.body.seal, shares)
        return sign_frame(device.identity, self.swarm.id, lie, cohort=message.cohort)

    def _tell(self, device: Device, delay: float, event: object) -> None:
        self._later(delay, self._deliver, device, device.incarnation, event)

    def _fire(self, device: Device, incarnation: int, tag: object, number: int) -> None:
        if device.incarnation == incarnation and device.timers.get(tag) == number:
            self._deliver(device, incarnation, TimerFired(tag))

    def _commit_next(self, device: Device, incarnation: int) -> None:
        if device.incarnation != incarnation or not device.pending_commits:
            return
        persist = device.pending_commits.pop(0)
        self._commit(device, persist)
        if persist.tag is not None:
            self._deliver(device, incarnation, Persisted(persist.tag))

    def _commit(self, device: Device, persist: Persist) -> None:
        self.observer.committed(device, persist)
        for record in persist.records:
            if isinstance(record, Put):
                device.disk[record.table][record.key] = record.value
            else:
                device.disk[record.table].pop(record.key, None)

    def _maybe_crash(self, device: Device, report: Report) -> None:
        if report.name != "phase" or self.now >= self.faults.until:
            return
        if self.rng.random() < self.faults.crashes.get(str(report.fields["phase"]), 0.0):
            self.crash(device)
            self._later(self.rng.uniform(*self.faults.restart_after), self.boot, device)

    def _lost(self) -> bool:
        return self.now < self.faults.until and self.rng.random() < self.faults.drop

    def _latency(self) -> float:
        low, high = self.faults.latency if self.now < self.faults.until else (0.005, 0.05)
        return self.rng.uniform(low, high)

    def _linked(self, one: Device, other: Device) -> bool:
        return not self.cut or any(one.key in group and other.key in group for group in self.cut)


class Observer:
    """Knows every plain vector and reads the whole wire; raises InvariantBroken at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plain: dict[tuple[bytes, int], np.ndarray] = {}  # (cohort, index) -> lanes unmasked
        self.trained: dict[tuple[bytes, int], int] = {}  # the same -> the segments that may be counted
        self.masked: dict[tuple[bytes, bytes], bytes] = {}
        self.masks: dict[bytes, tuple[bytes, bytes]] = {}
        self.keys: dict[tuple[bytes, bytes], tuple[int, ...]] = {}  # U1 as a vector's sender masked under it
        self.proposals: dict[tuple[bytes, bytes], SealProposal] = {}
        self.votes: dict[tuple[bytes, bytes], bytes] = {}
        # The same, from the disk: a vote may leave after its record is gone, to a peer that was dialled for it.
        self.durable: dict[tuple[bytes, bytes], bytes] = {}
        self.openings: dict[tuple[bytes, bytes, int], bytes] = {}
        self.used_ready: dict[bytes, bytes] = {}
        self.rosters: dict[bytes, tuple[bytes, ...]] = {}
        self.refunded: set[tuple[bytes, bytes]] = set()
        self.included: dict[bytes, set[bytes]] = defaultdict(set)  # cohort -> members in a valid aggregate
        self.checked: set[bytes] = set()
        self.exact = 0
        self.folds: dict[str, str] = {}
        self.last: dict[int, str] = {}

    def broken(self, what: str) -> None:
        raise InvariantBroken(
            f"{what} [seed {self.world.seed}, {len(self.world.devices)} nodes, t={self.world.now:.3f}]"
        )

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken(what)

    def crashed(self, device: Device) -> None:
        self.last.pop(device.index, None)

    def committed(self, device: Device, persist: Persist) -> None:
        for record in persist.records:
            if isinstance(record, Put) and record.table == "vote":
                self.durable[record.key, device.key] = record.value

    def computing(self, device: Device, job: object) -> None:
        if isinstance(job, MaskJob):
            folds = device.core._replica._layout
            self.require(job.layout.prior == folds.prior, "a sum on another first basis than its fold's")
            encoded = job.codec.encode(
                job.plan,
                job.contribution,
                job.rounding,
                layout=job.layout,
                compression=job.cohort.swarm.manifest.compression,
            )
            self.plain[job.cohort.id, job.owner] = encoded.vector
            self.trained[job.cohort.id, job.owner] = job.contribution.trained & job.cohort.travelling
            self.rosters[job.cohort.id] = job.cohort.members
            self.keys[job.cohort.id, device.key] = tuple(job.members)

    # --- the wire --------------------------------------------------------------------------------------------

    def on_wire(self, sender: Device, receiver: Device, data: bytes) -> None:
        try:
            message = open_frame(self.world.swarm.id, data, sender.key)
        except PeerViolation:
            self.require(sender.index in self.world.hostile, "an honest device sends what nobody can read")
            return
        place = (message.cohort, sender.key)
        match message.body:
            case Masked(_, vector):
                self._on_masked(sender, message, vector)
            case Shares():
                self._on_shares(sender, message)
            case Unmask(_, shares):
                for owner, share in enumerate(
                    shares
                ):  # an owner's place in U1, the same in all that a member says
                    known = self.openings.setdefault((*place, owner), share)
                    self.require(known == share, "rule 1: both shares of one owner were opened")
            case SealProposal() as proposal:
                self.proposals[message.cohort, seal_hash(pack(proposal))] = proposal
            case SealCertificate(seal):
                members = self.rosters.get(message.cohort)
                proposal = self.proposals.get((message.cohort, seal))
                if members and proposal is not None:
                    contributors = unpack_members(proposal.contributors, len(members))
                    keys = {self.keys.get((message.cohort, members[i])) for i in contributors}
                    self.require(len(keys) == 1, "U1: sealed over vectors of different keys")
        if message.kind in {Kind.SEAL_VOTE, Kind.ABORT_VOTE}:
            content = message.body.seal if message.kind is Kind.SEAL_VOTE else b""
            known = self.votes.setdefault(place, content)
            self.require(known == content, "rule 2: two votes in one cohort")
            self.require(self.durable.get(place) == content, "rule 2: a vote was sent before it was durable")

    def _on_masked(self, sender: Device, message: object, vector: bytes) -> None:
        place = (message.cohort, sender.key)
        known = self.masked.setdefault(place, vector)
        self.require(known == vector, "I1: two masked vectors in one cohort")
        members = self.rosters[message.cohort]
        plain = self.plain[message.cohort, members.index(sender.key)]
        self.require(
            message.cohort in sender.disk["debit"], "rule 3: a vector left before its debit was durable"
        )
        mask = hashlib.sha256((np.frombuffer(vector, np.uint8) - plain).tobytes()).digest()
        self.require(self.masks.setdefault(mask, place) == place, "rule 6: a mask was used twice")
        self.require(vector != plain.tobytes(), "a vector left without a mask")

    def _on_shares(self, sender: Device, message: object) -> None:
        ready = sender.core._cohorts[message.cohort].member.cohort.readies
        member = sender.core._cohorts[message.cohort].member
        keys = ready[member.index].channel
        known = self.used_ready.setdefault(keys, message.cohort)
        self.require(known == message.cohort, "a READY was used in two rosters")

    # --- the state -------------------------------------------------------------------------------------------

    def after(self, device: Device) -> None:
        core = device.core
        if core is None:
            return
        if core._history.digest().hex() == self.last.get(device.index):
            self._check_bounds(core)
            return
        self.last[device.index] = core._history.digest().hex()
        rounds = [core._history.counting(r) for r in range(1, core._history.round + 1)]
        for known in (each for counted in rounds for each in counted):
            self._check_aggregate(known)
        expected, *_ = fold_all(tiny_initial(), rounds, core._layout, self.world.swarm.manifest)
        self.require(
            np.array_equal(expected, core._replica.x), "I3: the replica is not the fold of its history"
        )
        bits = hashlib.sha256(core._replica.x.tobytes()).hexdigest()
        history = core._history.digest().hex()
        self.require(self.folds.setdefault(history, bits) == bits, "I3: one history, different bits")
        self._check_bounds(core)

    def _check_aggregate(self, known: Verified) -> None:
        if known.id in self.checked:
            return
        self.checked.add(known.id)
        body: Body = known.body
        for part in body.parts:
            contributors = unpack_members(part.contributors, len(part.members))
            self.require(len(contributors) >= self.world.swarm.manifest.cohorts.n_min, "n_min contributors")
            members = read_members(part.members, self.world.swarm.manifest)
            self.included[part.roster] |= {members[i] for i in contributors}
        self._check_sum(body)
        self.exact += 1
        self._check_refunds()

    def _check_sum(self, body: Body) -> None:
        core = self.world.alive()[0].core if self.world.alive() else None
        layout = core._layout
        wide_total = np.zeros(len(layout.tensor_ends), np.int64)
        trained = [0] * layout.segments
        narrow_total: np.ndarray | None = None
        for part in body.parts:
            for index in unpack_members(part.contributors, len(part.members)):
                vector = self.plain[part.roster, index]
                for segment in range(layout.segments):
                    trained[segment] += self.trained[part.roster, index] >> segment & 1
                wide_bytes = 4 * len(wide_total)
                wide_total += vector[:wide_bytes].view("<u4")
                narrow = vector[wide_bytes:].view("<i1").astype(np.int64)
                narrow_total = narrow if narrow_total is None else narrow_total + narrow
        sums = np.frombuffer(body.sums, "<i1").astype(np.int64)
        self.require(np.array_equal(sums, narrow_total), "I4: a wrong sum")
        self.require(body.ranges == tuple(int(w) for w in wide_total), "I4: wrong ranges")
        self.require(body.weights == tuple(trained), "I4: wrong counts of contributors")

    def settled(self, device: Device, cohort_prefix: str, outcome: str) -> None:
        if outcome == "refunded":
            for cohort in [c for c in self.rosters if c.hex().startswith(cohort_prefix)]:
                self.refunded.add((cohort, device.key))
            self._check_refunds()

    def _check_refunds(self) -> None:
        for cohort, member in self.refunded:
            self.require(member not in self.included.get(cohort, set()), "I1: refunded, and in a sum")

    def _check_bounds(self, core: node_core.NodeCore) -> None:
        self.require(len(core._cohorts) <= node_core.COHORTS_MAX, "I5: cohorts")
        self.require(len(core._books.outstanding) <= 8, "I5: outstanding")
        self.require(len(core._offences) <= node_core.OFFENDERS_MAX, "I5: offenders")
        self.require(len(core._shunned) <= node_core.OFFENDERS_MAX, "I5: shunned")
