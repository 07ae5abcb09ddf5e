"""A scenario: a swarm on purpose, as one TOML file that says who takes part, what they train and what goes wrong.

    name = "storm"
    summary = "What it shows, in a line."
    task = "watch"
    test = "what the accuracy is measured on, in words"
    rounds = 40
    target_accuracy = 0.8      # ends a simulation; the mean over the devices
    judged = 2000              # a simulation judges by so many test examples, from the first on
    limit_s = 40000.0          # of virtual time, in which what Gossamer is compared with must be there
    by_invitation = true       # `gossamer swarm`: they come one by one, each let in by `gossamer invite` on the first

    [swarm.cohorts]            # [swarm.training], [swarm.compression] and [swarm.cohorts] are those of a
    n_min = 4                  # device's config.toml; what is left out has the same default

    [swarm]
    admit = "invite"           # by certificates that the first device has signed; else "members": the manifest lists all

    [[size]]                   # none, or several: from so many devices on, this instead of [swarm], with nothing taken from it
    devices = 250
    [size.swarm.cohorts]
    n_max = 60
    [size.baselines.fedavg]    # likewise, instead of [baselines]
    local_steps = 16

    [[device]]                 # one table a device, by name ...
    name = "Ada"
    data = "subjects=1"

    [devices]                  # ... or, instead of them, as many as `count`, with names made up
    count = 10
    data = "shard={index}/{count}"

    [hardware]                 # what `gossamer simulate` makes of a device, in virtual time; `gossamer swarm` has real ones
    step_s = 0.01              # of a local step
    up_mbit = 20.0             # of its link; and down_mbit, latency_s, jitter_s, loss (of segments, from 0 to 0.5)
    away = 0.2                 # off for a fifth of the time, for away_s = 30.0 at a time

    [[class]]                  # none, or several: a share of the devices, drawn by the seed, that differ in what is said here
    name = "straggler"
    share = 0.9
    step_s = 0.1
    step_s_spread = 0.5        # each one's own step_s is drawn from 0.05 to 0.15
    up_mbit = 1.0

    [baselines.fedavg]         # and [baselines.fedbuff] ...: settings of what `gossamer simulate --algorithm` compares with
    local_steps = 48           # (`scenarios.baselines.settings`)
    learning_rate = 0.04

    [[fault]]                  # none, or several; each happens once
    action = "restart"         # SIGKILL, and started again `after_rounds` rounds or `after_s` seconds later
    round = 5                  # "kill": SIGKILL for good; "pause": SIGSTOP for `for_s` seconds
    phase = "MASKED"           # as soon as one has done this step, in a sum of that round or of a later one
    role = "aggregator"        # or node = "Ada"

    [[adversary]]              # none, or several: so many devices that do not follow the protocol (docs/adversary.md)
    behaviour = "forge"
    share = 0.2                # or count = 4; and hub, step, tolerance_nats, target (`scenarios.adversary.wanted`)

    [[network.home]]           # none, or several, for `gossamer swarm --namespaces`: a bridge, and as many devices on it,
    name = "north"             # in the order in which the file has them
    devices = 3
    line = "dsl"
    nat = "independent"        # behind a router that translates addresses, and for each device spoken to alike ("dependent":
    delay_ms = 15.0            # differently); the router holds each packet for so long, in either direction

    [[network.line]]           # what the link of each device in such a home carries; what is left out has no bound
    name = "dsl"
    up_mbit = 1.0              # and down_mbit, loss (of packets, in either direction)

    [[network.cut]]            # the home is cut off from all others, and each side goes on by itself; in virtual time, too
    home = "north"
    round = 4                  # as soon as a device is in this round, or at_s seconds after all were up
    for_rounds = 40            # or for_s = 60.0

Nothing is guessed: what cannot work is refused before the first process starts, with the key to change.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import GossamerError
from models.datasets import DataError
from models.messages import Seed
from models.partition import parse
from node.config import (
    SPEC_CHARACTERS_MAX,
    CohortSettings,
    CompressionSettings,
    ConfigError,
    InvitationSettings,
    Name,
    Seconds,
    Section,
    SwarmSettings,
    TaskName,
    TrainingSettings,
    load_toml,
)
from scenarios.adversary import NAMES, drawn
from scenarios.adversary.wanted import AdversaryTable
from scenarios.baselines.settings import BaselineTables

FOLDER = Path(__file__).parent
DEVICES_MAX = 256  # processes that one machine is asked to run, and as many trainers
VIRTUAL_DEVICES_MAX = 10_000
CLASSES_MAX = 16
SIZES_MAX = 8
ADVERSARIES_MAX = 16
SHARES_SLACK = 1e-9  # decimal shares are floats
FAULTS_MAX = 64
HOMES_MAX = 64
HOME_DEVICES_MAX = 250  # the last number of an address is a device's
ROUNDS_MAX = 1_000_000
TEXT_MAX = 500
SEED_END = 1 << 32

# Of the devices that a scenario only counts. Further ones are called "Ada 2" and so on.
FIRST_NAMES = (
    *("Ada", "Bruno", "Chidi", "Dalia", "Emre", "Freya", "Goran", "Hana", "Ines", "Jonas", "Kaya", "Luca"),
    *("Mina", "Noor", "Oskar", "Priya", "Quinn", "Rosa", "Sami", "Tuva", "Uma", "Victor", "Wanda", "Ximena"),
    *("Yusuf", "Zoe"),
)

Phase = Literal["READY", "ROSTER", "SHARES", "KEYS_SET", "MASKED", "SEAL", "UNMASK", "RESULT"]
Role = Literal["leader", "aggregator", "second aggregator", "member"]
Rounds = Annotated[int, Meta(ge=1, le=ROUNDS_MAX)]
Accuracy = Annotated[float, Meta(gt=0, le=1)]
Text = Annotated[str, Meta(min_length=1, max_length=TEXT_MAX)]
Data = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=SPEC_CHARACTERS_MAX,
        description='which part of the data a device holds, such as "subjects=3"',
    ),
]


class OptionError(GossamerError):
    """The command line asks for what this scenario cannot be: choose as the line says. Exit code 2."""

    exit_code: ClassVar[int] = 2


class Unworkable(ValueError):
    """Settings that fit one by one and not together; the message begins with the key to change."""


class Device(Section, frozen=True):
    name: Name
    data: Data


class Devices(Section, frozen=True):
    """Devices that differ in nothing but their number."""

    count: Annotated[int, Meta(ge=3, le=VIRTUAL_DEVICES_MAX)]
    data: Data  # {index}, from 1, and {count} stand for the numbers


UNCOUNTED = Devices(count=0, data="")  # what a file without [devices] has


class Fault(Section, frozen=True):
    """Something that goes wrong with one device's daemon. It happens once, to the first that comes there."""

    action: Literal["kill", "restart", "pause"]
    round: Rounds
    phase: Phase
    role: Role | None = None
    node: Name | None = None
    for_s: Seconds | None = None
    after_rounds: Rounds | None = None
    after_s: Seconds | None = None

    def __str__(self) -> str:
        whom = self.node or f"the {self.role}"
        return f"{self.action} {whom} after {self.phase} in round {self.round} or later"


StepSeconds = Annotated[float, Meta(ge=1e-6, le=3600)]
Mbit = Annotated[float, Meta(ge=1e-3, le=1e6)]
Delay = Annotated[float, Meta(ge=0, le=60)]
Loss = Annotated[float, Meta(ge=0, le=0.5)]
DelayMs = Annotated[float, Meta(ge=0, le=1000)]
Limit = Annotated[float, Meta(ge=1, le=1e7)]
Spread = Annotated[float, Meta(ge=0, le=0.9)]
Away = Annotated[float, Meta(ge=0, le=0.9)]


class HardwareTable(Section, frozen=True):
    """A virtual device: how fast it trains, its link, and how much of the time it is off.

    Mbit are 10^6 bits a second; the latency of two devices is the sum of theirs. What stands here is what processes on one
    busy machine see, where a message waits for its receiver's turn.
    """

    step_s: StepSeconds = 0.01
    step_s_spread: Spread = (
        0.0  # each device's own step_s is drawn evenly from so much below to so much above
    )
    up_mbit: Mbit = 1000.0
    down_mbit: Mbit = 1000.0
    latency_s: Delay = 0.0005
    jitter_s: Delay = 0.02  # up to so much more
    loss: Loss = 0.0  # of segments, each of which costs a retransmission
    away: Away = 0.0  # share of the time
    away_s: Seconds = 30.0  # at a time, on average
    hub: bool = False  # as network.hub in a device's settings


class DeviceClass(Section, frozen=True):
    """Devices whose hardware differs from the others' in what is given."""

    name: Name
    share: Annotated[float, Meta(gt=0, le=1)]
    step_s: StepSeconds | None = None
    step_s_spread: Spread | None = None
    up_mbit: Mbit | None = None
    down_mbit: Mbit | None = None
    latency_s: Delay | None = None
    jitter_s: Delay | None = None
    loss: Loss | None = None
    away: Away | None = None
    away_s: Seconds | None = None
    hub: bool | None = None

    def applied_to(self, hardware: HardwareTable) -> HardwareTable:
        given = {key: getattr(self, key) for key in HardwareTable.__struct_fields__}
        return msgspec.structs.replace(
            hardware, **{key: value for key, value in given.items() if value is not None}
        )


class Line(Section, frozen=True):
    """What the link between a device and its home carries, where the device has a network of its own."""

    name: Name
    up_mbit: Mbit | None = None
    down_mbit: Mbit | None = None
    loss: Loss = 0.0  # of packets, in either direction


class HomeTable(Section, frozen=True):
    """A bridge with so many devices. Every home has one link to the street, by which it reaches all others."""

    name: Name
    devices: Annotated[int, Meta(ge=1, le=HOME_DEVICES_MAX)]
    line: Name | None = None
    nat: Literal["independent", "dependent"] | None = (
        None  # the mapping of its router's ports, see scenarios.nat
    )
    delay_ms: DelayMs = 0.0  # each way; needs a router


class Cut(Section, frozen=True):
    """The link between a home and the street goes down, and comes back."""

    home: Name
    round: Rounds | None = None
    at_s: Seconds | None = None
    for_rounds: Rounds | None = None
    for_s: Seconds | None = None

    def __str__(self) -> str:
        begin = f"in round {self.round}" if self.round is not None else f"after {self.at_s:g} s"
        length = f"{self.for_rounds} rounds" if self.for_rounds is not None else f"{self.for_s:g} s"
        return f"cut {self.home} off {begin} for {length}"


class NetworkTable(Section, frozen=True):
    """Which devices share a bridge, what their links carry, and which links go down."""

    home: Annotated[tuple[HomeTable, ...], Meta(max_length=HOMES_MAX)] = ()
    line: Annotated[tuple[Line, ...], Meta(max_length=CLASSES_MAX)] = ()
    cut: Annotated[tuple[Cut, ...], Meta(max_length=FAULTS_MAX)] = ()

    def line_of(self, home: HomeTable) -> Line | None:
        return next((line for line in self.line if line.name == home.line), None)


class SwarmTables(Section, frozen=True):
    """The part of a founder's settings that a scenario decides."""

    training: TrainingSettings = TrainingSettings()
    compression: CompressionSettings = CompressionSettings()
    cohorts: CohortSettings = CohortSettings()
    admit: Literal["members", "invite"] = "members"
    invitations: InvitationSettings = InvitationSettings()

    def __post_init__(self) -> None:
        self.settings()  # refuses what contradicts itself

    def admitting(self, devices: Sequence[Identity]) -> dict[str, object]:
        """How a swarm of exactly these devices admits them; of none that are named, it is open."""
        if not devices:
            return {"admit": "open"}
        if self.admit == "invite":
            return {"admit": "invite", "invitations": self.invitations}
        return {"admit": "members", "members": tuple(device.peer_id for device in devices)}

    def settings(self, **decided: object) -> SwarmSettings:
        """The founder's settings, with what the scenario's run has `decided`: a name, rounds, members, a seed."""
        return SwarmSettings(
            training=self.training,
            compression=self.compression,
            cohorts=self.cohorts,
            **decided,  # type: ignore[arg-type]
        )


class SizeTable(Section, frozen=True):
    """What a swarm of many devices does instead: all of it, so that nothing is merged and one place says what is so.

    And what it is compared with, if that is to be tuned for so many, too.
    """

    devices: Annotated[int, Meta(ge=1, le=VIRTUAL_DEVICES_MAX)]  # from so many on
    swarm: SwarmTables
    baselines: BaselineTables | None = None


class Scenario(Section, frozen=True):
    """A scenario's file."""

    name: Name
    summary: Text
    task: TaskName
    test: Text  # what the accuracy is measured on, in words
    rounds: Rounds
    seed: Seed = 0
    target_accuracy: Accuracy | None = None  # mean over the devices, at which a simulation ends
    judged: Annotated[int, Meta(ge=1, le=1 << 20)] | None = (
        None  # test examples to simulate with, from the first on
    )
    limit_s: Limit | None = None  # virtual seconds, after which a baseline is given up
    by_invitation: bool = False
    baselines: BaselineTables = BaselineTables()
    swarm: SwarmTables = SwarmTables()
    size: Annotated[tuple[SizeTable, ...], Meta(max_length=SIZES_MAX)] = ()  # ascending
    hardware: HardwareTable = HardwareTable()
    classes: Annotated[tuple[DeviceClass, ...], Meta(max_length=CLASSES_MAX)] = msgspec.field(
        default=(), name="class"
    )
    device: Annotated[tuple[Device, ...], Meta(max_length=DEVICES_MAX)] = ()
    devices: Devices = UNCOUNTED
    fault: Annotated[tuple[Fault, ...], Meta(max_length=FAULTS_MAX)] = ()
    network: NetworkTable = NetworkTable()
    adversary: Annotated[tuple[AdversaryTable, ...], Meta(max_length=ADVERSARIES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: a scenario with the command line's choices, found to fit together."""

    name: str
    summary: str
    task: str
    test: str
    rounds: int
    seed: int
    swarm: SwarmTables
    devices: tuple[Device, ...]
    faults: tuple[Fault, ...]
    target_accuracy: float | None
    hardware: tuple[HardwareTable, ...]  # by device
    has_hardware: bool  # the file says something about it
    judged: int | None  # test examples
    limit_s: float | None
    baselines: BaselineTables
    network: NetworkTable
    by_invitation: bool
    adversaries: tuple[AdversaryTable, ...]
    hostile: tuple[AdversaryTable | None, ...]  # by device
    data: str | None = None  # instead of what the file says of each device


def without_masks(plan: Plan) -> Plan:
    """The same run, but that nothing hides an update from its aggregator."""
    cohorts = msgspec.structs.replace(plan.swarm.cohorts, masks=False)
    return replace(plan, swarm=msgspec.structs.replace(plan.swarm, cohorts=cohorts))


def honest(plan: Plan) -> Plan:
    """The same devices, all of whom follow the protocol."""
    return replace(plan, adversaries=(), hostile=(None,) * len(plan.devices))


@lru_cache(maxsize=VIRTUAL_DEVICES_MAX)
def identity_of(seed: int, index: int) -> Identity:
    """The same devices in every run of one seed: who leads and who adds up follows from the keys."""
    return Identity(digest("scenario identity", _number(seed), _number(index)))


def order_of(seed: int, identity: Identity) -> int:
    """What draws the order of a device's examples, below 2^32."""
    return int.from_bytes(digest("scenario order", _number(seed), identity.peer_id.encode())[:4], "big")


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def known_scenarios() -> list[str]:
    """The names of the scenarios that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_scenario(name_or_path: str) -> Path:
    """The file of a scenario by its name, or by its path if it ends in .toml or has a folder in it.

    Raises OptionError that lists the known names, the nearest one first.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise OptionError(f"{path}: no such file; expected a scenario's TOML file or one of its names")
        return path
    known = known_scenarios()
    if name_or_path in known:
        return FOLDER / f"{name_or_path}.toml"
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise OptionError(f'no scenario "{name_or_path}"; {hint}known: {", ".join(known)}, or the path of a file')


def plan(
    path: Path,
    *,
    nodes: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    devices_max: int = DEVICES_MAX,
    data: str | None = None,
    adversaries: Sequence[AdversaryTable] | None = None,
) -> Plan:
    """Read a scenario and apply the command line's choices, with at most `devices_max` devices.

    `data`: which part of the data each device holds, with {index}, from 1, and {count}. `adversaries`: instead of the file's.

    Raises ConfigError for a file that could not be run as it stands, OptionError for choices that do not fit it.
    """
    scenario = load_toml(path, Scenario)
    try:
        chosen = _plan(scenario)
    except Unworkable as error:
        raise ConfigError(f"{path}: {error}") from error
    if (nodes, rounds, seed, data, adversaries) != (None, None, None, None, None):
        try:
            fitted = _tempted(_chosen(scenario, nodes, rounds, seed, devices_max), data, adversaries)
            chosen = replace(_plan(fitted), data=data)
        except Unworkable as error:
            raise OptionError(f"this does not fit scenario {scenario.name}: {error}") from error
    if len(chosen.devices) > devices_max:
        raise OptionError(
            f"scenario {scenario.name} has {len(chosen.devices)} devices, more than {devices_max} processes on one "
            "machine: choose fewer with --nodes, or `gossamer simulate` it"
        )
    return chosen


def _chosen(
    scenario: Scenario, nodes: int | None, rounds: int | None, seed: int | None, devices_max: int
) -> Scenario:
    changes: dict[str, object] = {}
    if rounds is not None:
        if not 1 <= rounds <= ROUNDS_MAX:
            raise OptionError(f"--rounds {rounds}: expected 1 to {ROUNDS_MAX}")
        changes["rounds"] = rounds
    if seed is not None:
        if not 0 <= seed < SEED_END:
            raise OptionError(f"--seed {seed}: expected 0 to {SEED_END - 1}")
        changes["seed"] = seed
    if nodes is not None:
        counted = scenario.devices is not UNCOUNTED
        most = devices_max if counted else len(scenario.device)
        if not 1 <= nodes <= most:
            listed = "" if counted else f", the devices that scenario {scenario.name} lists"
            raise OptionError(f"--nodes {nodes}: expected 1 to {most}{listed}")
        if counted:
            changes["devices"] = msgspec.structs.replace(scenario.devices, count=nodes)
        changes["device"] = scenario.device[:nodes]
    return msgspec.structs.replace(scenario, **changes)


def _tempted(scenario: Scenario, data: str | None, adversaries: Sequence[AdversaryTable] | None) -> Scenario:
    """With other data, and other bad devices."""
    changes: dict[str, object] = {}
    if data is not None:
        count = len(scenario.device) or scenario.devices.count
        if scenario.device:
            changes["device"] = tuple(
                msgspec.structs.replace(each, data=_data(Devices(count, data), index))
                for index, each in enumerate(scenario.device)
            )
        else:
            changes["devices"] = msgspec.structs.replace(scenario.devices, data=data)
    if adversaries is not None:
        changes["adversary"] = tuple(adversaries)
    return msgspec.structs.replace(scenario, **changes)


def _plan(scenario: Scenario) -> Plan:
    """Raises Unworkable."""
    devices = _devices(scenario)
    size = _size(scenario, len(devices))
    swarm = scenario.swarm if size is None else size.swarm
    baselines = None if size is None else size.baselines
    n_min = swarm.cohorts.n_min
    if len(devices) < n_min:
        raise Unworkable(f"devices: {len(devices)} are too few for swarm.cohorts.n_min = {n_min}")
    for position, fault in enumerate(scenario.fault):
        try:
            _refuse_fault(fault, scenario.rounds, [device.name for device in devices])
        except Unworkable as error:
            raise Unworkable(f"fault[{position}].{error}") from error
    for position, fault in enumerate(scenario.fault):
        up = len(devices) - _down(scenario.fault, fault.round)
        if up < n_min:
            raise Unworkable(
                f"fault[{position}].round: with this one {up} of {len(devices)} devices are left in round "
                f"{fault.round}, too few for swarm.cohorts.n_min = {n_min}"
            )
    _refuse_network(scenario.network, len(devices), scenario.rounds)
    if scenario.by_invitation and (swarm.admit != "invite" or len(scenario.network.home) != 1):
        raise Unworkable(
            'by_invitation: needs swarm.admit = "invite", and one network.home, where all find each other'
        )
    hostile = _hostile(scenario, len(devices))
    return Plan(
        name=scenario.name,
        summary=scenario.summary,
        task=scenario.task,
        test=scenario.test,
        rounds=scenario.rounds,
        seed=scenario.seed,
        swarm=swarm,
        devices=devices,
        faults=scenario.fault,
        target_accuracy=scenario.target_accuracy,
        hardware=tuple(
            table if bad is None or not bad.hub else msgspec.structs.replace(table, hub=True)
            for table, bad in zip(_hardware(scenario, len(devices)), hostile, strict=True)
        ),
        has_hardware=scenario.hardware != HardwareTable() or bool(scenario.classes),
        judged=scenario.judged,
        limit_s=scenario.limit_s,
        baselines=baselines or scenario.baselines,
        network=scenario.network,
        by_invitation=scenario.by_invitation,
        adversaries=scenario.adversary,
        hostile=hostile,
    )


def _hostile(scenario: Scenario, count: int) -> tuple[AdversaryTable | None, ...]:
    """Who is bad, drawn by the seed; never the first device, which founds the swarm and is trusted. Raises Unworkable."""
    hostile: list[AdversaryTable | None] = [None] * count
    seed = _number(scenario.seed)
    left = sorted(range(1, count), key=lambda index: digest("scenario adversary", seed, _number(index)))
    for position, table in enumerate(scenario.adversary):
        try:
            _refuse_unknown("behaviour", "behaviour", table.behaviour, NAMES)
        except Unworkable as error:
            raise Unworkable(f"adversary[{position}].{error}") from error
        if (table.share is None) == (table.count is None):
            raise Unworkable(f"adversary[{position}].share: say how many, by share or count, and not both")
        wanted = table.of(count)
        if wanted > len(left):
            raise Unworkable(
                f"adversary[{position}]: {table} is more devices than there are besides the founder"
            )
        for index in left[:wanted]:
            hostile[index] = drawn(table, scenario.seed, index)
        del left[:wanted]
    return tuple(hostile)


def _size(scenario: Scenario, count: int) -> SizeTable | None:
    """What is said for so many devices, if anything is. Raises Unworkable."""
    sizes = [size.devices for size in scenario.size]
    if sizes != sorted(set(sizes)):
        raise Unworkable(f"size: the numbers of devices must ascend, not {sizes}")
    return next((size for size in reversed(scenario.size) if size.devices <= count), None)


def _hardware(scenario: Scenario, count: int) -> tuple[HardwareTable, ...]:
    """Each class gets its share, of devices that the seed draws; the rest is as [hardware] says. Raises Unworkable."""
    shares = sum(each.share for each in scenario.classes)
    if shares > 1 + SHARES_SLACK:
        raise Unworkable(f"class: the shares add up to {shares:g}, more than all devices")
    seed = _number(scenario.seed)
    drawn = sorted(range(count), key=lambda index: digest("scenario hardware", seed, _number(index)))
    hardware = [scenario.hardware] * count
    begin, until = 0, 0.0
    for each in scenario.classes:
        until += each.share
        end = min(count, round(until * count))
        for index in drawn[begin:end]:
            hardware[index] = each.applied_to(scenario.hardware)
        begin = end
    return tuple(_drawn(table, seed, index) for index, table in enumerate(hardware))


def _drawn(table: HardwareTable, seed: bytes, index: int) -> HardwareTable:
    """With a step_s of its own."""
    if not table.step_s_spread:
        return table
    draw = int.from_bytes(digest("scenario step", seed, _number(index))[:8], "big") / 2**64
    return msgspec.structs.replace(table, step_s=table.step_s * (1 + table.step_s_spread * (2 * draw - 1)))


def _devices(scenario: Scenario) -> tuple[Device, ...]:
    group = scenario.devices
    if bool(scenario.device) == (group is not UNCOUNTED):
        raise Unworkable("device: name them one by one as [[device]], or count them in [devices]")
    devices = scenario.device or tuple(
        Device(_first_name(index), _data(group, index)) for index in range(group.count)
    )
    names: dict[str, str] = {}
    for device in devices:
        # Each name is a folder's too, and some disks do not tell upper case from lower.
        if names.setdefault(device.name.casefold(), device.name) is not device.name:
            raise Unworkable(f'device: two are called "{device.name}"')
        if device.name in Role.__args__:  # type: ignore[attr-defined]
            raise Unworkable(f'device: "{device.name}" is a role in a cohort; choose another name')
        try:
            parse(device.data)
        except DataError as error:
            raise Unworkable(f'device: "{device.name}": {error}') from error
    return devices


def _first_name(index: int) -> str:
    again, which = divmod(index, len(FIRST_NAMES))
    return FIRST_NAMES[which] if not again else f"{FIRST_NAMES[which]} {again + 1}"


def _data(group: Devices, index: int) -> str:
    return group.data.replace("{index}", str(index + 1)).replace("{count}", str(group.count))


def _refuse_fault(fault: Fault, rounds: int, names: Sequence[str]) -> None:
    """Raises Unworkable for a fault that could not happen, or means two things."""
    if (fault.role is None) == (fault.node is None):
        raise Unworkable("role: say whom it befalls, by a role or as a node, and not both")
    if fault.node is not None:
        _refuse_unknown("node", "device", fault.node, names)
    if fault.phase == "READY" and fault.role is not None:
        raise Unworkable("role: nobody has one yet when a READY is said; name a node")
    if fault.phase == "ROSTER" and fault.role not in {None, "leader"}:
        raise Unworkable(f"role: the leader says ROSTER, not the {fault.role}")
    if fault.round > rounds:
        raise Unworkable(f"round: {fault.round} is beyond the {rounds} rounds of the run")
    if (fault.for_s is not None) != (fault.action == "pause"):
        raise Unworkable('for_s: how long a pause lasts; action = "pause" takes it, and no other does')
    after = (fault.after_rounds is not None) + (fault.after_s is not None)
    if after != (fault.action == "restart"):
        raise Unworkable('after_rounds: action = "restart" takes this or after_s, and no other does')
    if fault.after_rounds is not None and fault.round + fault.after_rounds > rounds:
        raise Unworkable(
            f"after_rounds: {fault.after_rounds} rounds after round {fault.round} is beyond the {rounds} of the run"
        )


def _refuse_unknown(key: str, kind: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known) or 'none'}"
    raise Unworkable(f'{key}: there is no {kind} "{name}"; {hint}')


def _refuse_network(network: NetworkTable, devices: int, rounds: int) -> None:
    """Raises Unworkable for homes that are not those of the devices, and for a cut that could not be."""
    homes, lines = [each.name for each in network.home], [each.name for each in network.line]
    if network == NetworkTable():
        return
    for key, names in (("home", homes), ("line", lines)):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise Unworkable(f'network.{key}: two are called "{twice}"')
    room = sum(each.devices for each in network.home)
    if room != devices:
        raise Unworkable(
            f"network.home: there are {room} devices in the homes, and {devices} in the scenario"
        )
    for position, home in enumerate(network.home):
        if home.line is not None:
            _refuse_unknown(f"network.home[{position}].line", "line", home.line, lines)
        if home.delay_ms and home.nat is None:
            raise Unworkable(f"network.home[{position}].delay_ms: it is the router's; give the home a nat")
    for position, cut in enumerate(network.cut):
        try:
            _refuse_cut(cut, homes, rounds)
        except Unworkable as error:
            raise Unworkable(f"network.cut[{position}].{error}") from error


def _refuse_cut(cut: Cut, homes: Sequence[str], rounds: int) -> None:
    """Raises Unworkable for a cut that could not happen, or means two things."""
    _refuse_unknown("home", "home", cut.home, homes)
    if len(homes) < 2:
        raise Unworkable("home: there is no other home that it could be cut off from")
    if (cut.round is None) == (cut.at_s is None):
        raise Unworkable("round: say when the link goes down, by round or at_s, and not both")
    if (cut.for_rounds is None) == (cut.for_s is None):
        raise Unworkable(
            "for_rounds: say for how long the link is down, by for_rounds or for_s, and not both"
        )
    last = (cut.round or 1) + (cut.for_rounds or 0)
    if last > rounds:
        raise Unworkable(f"round: the link comes back in round {last}, beyond the {rounds} of the run")


def _down(faults: Sequence[Fault], round_: int) -> int:
    """How many devices are down in that round, if every fault comes when it may come first."""
    return sum(
        fault.round <= round_
        and (
            fault.action == "kill"
            or (fault.after_rounds is not None and round_ < fault.round + fault.after_rounds)
        )
        for fault in faults
    )
