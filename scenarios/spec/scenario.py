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
    local_steps = 48           # (`scenarios.spec.baselines`)
    learning_rate = 0.04

    [[fault]]                  # none, or several; each happens once
    action = "restart"         # SIGKILL, and started again `after_rounds` rounds or `after_s` seconds later
    round = 5                  # "kill": SIGKILL for good; "pause": SIGSTOP for `for_s` seconds
    phase = "MASKED"           # as soon as one has done this step, in a sum of that round or of a later one
    role = "aggregator"        # or node = "Ada"

    [[adversary]]              # none, or several: so many devices that do not follow the protocol (docs/adversary.md)
    behaviour = "forge"
    share = 0.2                # or count = 4; and hub, step, tolerance_nats, target (`scenarios.spec.adversary`)

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
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from crypto.identity import Identity
from gossip.errors import GossamerError
from models.messages import Seed
from node.config.settings import (
    SPEC_CHARACTERS_MAX,
    CohortSettings,
    CompressionSettings,
    InvitationSettings,
    Name,
    Seconds,
    Section,
    SwarmSettings,
    TaskName,
    TrainingSettings,
)
from scenarios.spec.adversary import AdversaryTable
from scenarios.spec.baselines import BaselineTables

FOLDER = Path(__file__).parents[1] / "packaged"
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
        None  # the mapping of its router's ports, see scenarios.processes.nat
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
