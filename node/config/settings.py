"""One device's settings: TOML on disk, strict frozen structs in memory, and one clear line when they disagree.

Nothing is guessed. An unknown key, a missing one, a value of another type or outside its bounds is refused with
the file, the line, the key, what was expected there and the nearest right key. The bounds stand in the types, so
that the error, the check and the reader share one source. `[swarm]` is also read by scenario files; its bounds and
contradictions are the manifest's own, so what is accepted here can be founded.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomlkit
from msgspec import Meta
from tomlkit.items import Table

from crypto.identity import public_key_of
from gossip.errors import ManifestError
from gossip.manifest import (
    AHEAD_MAX,
    COHORT_MAX,
    DEPTH_MAX,
    FORESIGHT_MAX,
    GRAIN_MAX,
    INVITES_MAX,
    MEMBERS_MAX,
    RANK_MAX,
    SCHEDULE_MAX,
    STEPS_MAX,
    Cohorts,
    Compression,
    Invitations,
    Manifest,
    Model,
    Step,
    Tensor,
    Training,
    refuse_contradictions,
)
from models.messages import THREADS_MAX, Seed
from node.config.addresses import bootstrap_peer, listen_address
from node.config.errors import Unfit
from node.config.toml import located_error, parse_toml, read_text

ADDRESSES_MAX = 64
SPEC_CHARACTERS_MAX = 256


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table: immutable, and no key that it does not know."""


DEFAULT_DATA = {"watch": "subjects=1", "digits": "shard=1/10"}  # of the tasks that come with Gossamer

Name = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]*$",
        description="1 to 64 letters, digits, spaces or . _ : -, beginning with a letter or a digit",
    ),
]
TaskName = Annotated[
    str,
    Meta(
        max_length=128,
        pattern=r"^([A-Za-z][\w-]*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*)$",
        description='a task\'s name such as "watch", or your own as "package.module:attribute"',
    ),
]
Steps = Annotated[int, Meta(ge=1, le=1 << 20)]
Seconds = Annotated[float, Meta(ge=0.01, le=3600)]  # no NaN either: every comparison with it is false
Members = Annotated[int, Meta(ge=3, le=COHORT_MAX)]


class TaskSettings(Section, frozen=True):
    name: TaskName
    data: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=SPEC_CHARACTERS_MAX,
            description='which part of the data this device holds, such as "subjects=3"',
        ),
    ]
    folder: str | None = None
    seed: Seed = 0


class NetworkSettings(Section, frozen=True):
    listen: Annotated[tuple[str, ...], Meta(min_length=1, max_length=ADDRESSES_MAX)] = (
        "/ip4/127.0.0.1/tcp/0",
    )
    bootstrap: Annotated[tuple[str, ...], Meta(max_length=ADDRESSES_MAX)] = ()
    neighbours: Annotated[int, Meta(ge=2, le=32)] = 8
    hub: bool = False
    relay: bool = True  # carry connections to members that nobody can dial, if they can dial this device
    nearby: bool = True  # says nothing while listening is on loopback alone, as it is by default
    public: bool = False

    def __post_init__(self) -> None:
        for key, addresses, parse in (
            ("listen", self.listen, listen_address),
            ("bootstrap", self.bootstrap, bootstrap_peer),
        ):
            for position, address in enumerate(addresses):
                try:
                    parse(address)
                except ValueError as error:
                    raise Unfit((key, position), str(error)) from error


class TrainerSettings(Section, frozen=True):
    threads: Annotated[int, Meta(ge=1, le=THREADS_MAX)] = 1


class ScheduleStep(Section, frozen=True):
    from_round: Annotated[int, Meta(ge=1)]
    size: Annotated[int, Meta(ge=1, le=256)]
    momentum: Annotated[int, Meta(ge=0, le=255)] = 0


class TrainingSettings(Section, frozen=True):
    min_steps: Steps = 20
    max_steps: Steps = 80
    schedule: Annotated[tuple[ScheduleStep, ...], Meta(min_length=1, max_length=SCHEDULE_MAX)] = (
        ScheduleStep(from_round=1, size=256),
    )
    cap: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 24
    phase_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    rounds_ahead: Annotated[int, Meta(ge=1, le=AHEAD_MAX)] = 3
    foresight: Annotated[int, Meta(ge=0, le=FORESIGHT_MAX)] = 0


class CompressionSettings(Section, frozen=True):
    codec: Literal["dense", "lowrank"] = "dense"
    block_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    levels: Annotated[int, Meta(ge=1, le=32767)] = 7
    lane_bits: Literal[8, 16, 32] = 8
    first_exponent: Annotated[int, Meta(ge=-24, le=0)] = -5
    rank: Annotated[int, Meta(ge=1, le=RANK_MAX)] = 8
    feedback: Annotated[int, Meta(ge=0, le=256)] = 256
    grain: Annotated[int, Meta(ge=0, le=GRAIN_MAX)] = 0
    newton_schulz: Annotated[int, Meta(ge=0, le=STEPS_MAX)] = 0


class CohortSettings(Section, frozen=True):
    n_min: Members = 3
    n_max: Members = 16
    gather_s: Seconds = 2.0
    step_s: Seconds = 5.0
    sums: Annotated[int, Meta(ge=1, le=1024)] = 8
    masks: bool = True


class InvitationSettings(Section, frozen=True):
    invites_max: Annotated[int, Meta(ge=1, le=INVITES_MAX)] = 16
    depth_max: Annotated[int, Meta(ge=1, le=DEPTH_MAX)] = 3


# Settings contradict each other, or not, whatever the model and the founder are.
_ANY_MODEL = Model(task="any", schema=bytes(32), tensors=(Tensor(1, 0),), seed=0, initial=bytes(32))
_ANY_FOUNDER = bytes(32)


class SwarmSettings(Section, frozen=True):
    """What a founder decides: everything of a manifest but the model. ConfigError where settings contradict."""

    name: Name = "gossamer"
    rounds: Annotated[int, Meta(ge=0)] = 0
    admit: Literal["open", "members", "invite", "ask"] = "open"
    members: Annotated[tuple[str, ...], Meta(max_length=MEMBERS_MAX)] = ()
    invitations: InvitationSettings = InvitationSettings()
    seed: Seed = 0
    training: TrainingSettings = TrainingSettings()
    compression: CompressionSettings = CompressionSettings()
    cohorts: CohortSettings = CohortSettings()

    def __post_init__(self) -> None:
        for position, member in enumerate(self.members):
            try:
                public_key_of(member)
            except ValueError as error:
                raise Unfit(("members", position), f"{error}; expected a peer id") from error
        if (self.admit == "members") != bool(self.members):
            raise Unfit(("admit",), 'members are listed if and only if admit is "members"')
        try:
            refuse_contradictions(self.manifest(_ANY_MODEL, _ANY_FOUNDER))
        except ManifestError as error:
            raise Unfit((), str(error)) from error

    def manifest(self, model: Model, founder: bytes) -> Manifest:
        """The manifest of these settings; the founder is a member even where the list leaves it out."""
        training, compression, cohorts = self.training, self.compression, self.cohorts
        listed = {public_key_of(member) for member in self.members}
        return Manifest(
            version=1,
            name=self.name,
            model=model,
            training=Training(
                min_steps=training.min_steps,
                max_steps=training.max_steps,
                rounds=self.rounds,
                schedule=tuple(Step(step.from_round, step.size, step.momentum) for step in training.schedule),
                cap=training.cap,
                phase_ms=round(training.phase_s * 1000),
                rounds_ahead=training.rounds_ahead,
                foresight=training.foresight,
            ),
            compression=Compression(
                codec=compression.codec,
                block_size=compression.block_size,
                levels=compression.levels,
                lane_bits=compression.lane_bits,
                first_exponent=compression.first_exponent,
                rank=compression.rank,
                feedback=compression.feedback,
                grain=compression.grain,
                newton_schulz=compression.newton_schulz,
            ),
            cohorts=Cohorts(
                n_min=cohorts.n_min,
                n_max=cohorts.n_max,
                gather_ms=round(cohorts.gather_s * 1000),
                step_ms=round(cohorts.step_s * 1000),
                sums=cohorts.sums,
                masks=cohorts.masks,
            ),
            admit=self.admit,
            members=tuple(sorted(listed | {founder})) if self.admit == "members" else (),
            founder=founder,
            invitations=Invitations(self.invitations.invites_max, self.invitations.depth_max),
        )


class LogSettings(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True):
    name: Name
    task: TaskSettings
    network: NetworkSettings = NetworkSettings()
    trainer: TrainerSettings = TrainerSettings()
    swarm: SwarmSettings = SwarmSettings()
    log: LogSettings = LogSettings()


def load_config(path: Path) -> Config:
    """Read a device's settings; a relative `task.folder` is taken from the file's folder. Raises ConfigError."""
    return parse_config(read_text(path), path)


def parse_config(text: str, path: Path) -> Config:
    """`load_config` for a text that is, or will be, at `path`."""
    config = parse_toml(text, Config, path)
    if config.task.folder is None:
        return config
    folder = path.parent.absolute() / Path(config.task.folder).expanduser()
    if not folder.is_dir():
        place = ("task", "folder")
        raise located_error(
            path, text, place, f"{folder} is missing, or no folder; expected your data's folder"
        )
    return msgspec.structs.replace(config, task=msgspec.structs.replace(config.task, folder=str(folder)))


def config_text(config: Config) -> str:
    """The file of these settings, with a comment on every key; what `parse_config` reads back as the same."""
    document = tomlkit.document()
    _fill(document, msgspec.to_builtins(config), "")
    return tomlkit.dumps(document)


COMMENTS = {
    "name": "How this device is called in its logs and tables. Peers know it by its key alone.",
    "task": "What this device trains, and on what.",
    "task.name": 'A task that comes with Gossamer ("watch", "digits"), or your own: "package.module:attribute".',
    "task.data": "Which part of the data this device holds.",
    "task.folder": "Where your own data is; without it, the data that comes with the task.",
    "task.seed": "Draws the order of this device's examples.",
    "network": "Where this device listens, and whom it calls first.",
    "network.listen": "Port 0 takes any free port.",
    "network.bootstrap": "Devices to join through, each as /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID. None: found a swarm.",
    "network.neighbours": "Connections to keep.",
    "network.relay": "false for a device that shall carry nothing between members that cannot dial each other.",
    "network.hub": "true for a device that is always on and well connected: others let it lead and add up.",
    "network.nearby": "Announce this device on its networks, if it listens there, and find others. false: by address alone.",
    "network.public": "true: ANYBODY who can connect may watch which sums this device learns of, and when. It costs bytes.",
    "trainer": "The process that trains.",
    "trainer.threads": "Processor cores that training may take.",
    "swarm": "What this device founds when it has nobody to join. A swarm that it joins brings its own.",
    "swarm.name": "The swarm's name.",
    "swarm.rounds": "Rounds to train for; 0: without end.",
    "swarm.admit": '"open": any device, and many of one person. "members": those listed. "invite", "ask": by certificate.',
    "swarm.members": 'The peer ids that admit = "members" admits, besides the founder.',
    "swarm.invitations": 'Who may invite, where admit is "invite" or "ask".',
    "swarm.invitations.invites_max": "Devices that each device may invite; the founder's own have no such limit.",
    "swarm.invitations.depth_max": "Generations: 1 where the founder alone invites, 2 where those whom it invited do, too.",
    "swarm.seed": "Draws the first model, and how a data set is cut into shares.",
    "swarm.training": "What a device does between two sums.",
    "swarm.training.min_steps": "Local steps before a device offers what it has learned.",
    "swarm.training.max_steps": "Local steps after which it waits for its cohort.",
    "swarm.training.schedule": "From each round on: the step size in 1/256, and the momentum in 1/256.",
    "swarm.training.cap": "The largest change of one parameter in one round, in 2^-24.",
    "swarm.training.phase_s": "Seconds that a device trains before it offers something, beside min_steps; 0: steps alone decide.",
    "swarm.training.rounds_ahead": "Rounds before the lottery draws a device in which it trains already; until then it rests.",
    "swarm.training.foresight": "256ths of a round that training stands ahead of the model, where the momentum will have led it.",
    "swarm.compression": "How a delta travels.",
    "swarm.compression.codec": '"dense": every block. "lowrank": factors.',
    "swarm.compression.block_size": "Parameters that share one exponent.",
    "swarm.compression.levels": "A parameter travels as a whole number from -levels to levels.",
    "swarm.compression.lane_bits": "Bits of a sum: 8, 16 or 32; 2 * n_max * levels + 1 must fit.",
    "swarm.compression.first_exponent": "The first sum carries changes up to 2^first_exponent.",
    "swarm.compression.feedback": "How much of what a sum did not carry its member keeps for the next one, in 256ths.",
    "swarm.compression.grain": "Sums are published in steps of a power of two g, g^2 at most this times their contributors; 0: exact.",
    "swarm.compression.newton_schulz": "Steps that bring a factor's singular values nearer to one another, for the lowrank codec.",
    "swarm.compression.rank": "Columns in which the lowrank codec says a matrix; other codecs say all of it.",
    "swarm.cohorts": "How many devices are summed, and how long they wait for each other.",
    "swarm.cohorts.n_min": "Contributors that a sum must have: each is hidden among the others. At least 3.",
    "swarm.cohorts.n_max": "Members that a cohort can have.",
    "swarm.cohorts.gather_s": "How long a leader waits for more devices.",
    "swarm.cohorts.step_s": "How long each step of a secure sum may take.",
    "swarm.cohorts.sums": "Sums a round, about; in a larger swarm a lottery decides who takes part in it.",
    "swarm.cohorts.masks": "false: NOTHING HIDES the members' updates from their aggregator. For measuring what masks cost.",
    "log": "What is written to daemon.log.",
    "log.level": '"debug", "info", "warning" or "error".',
}


def _fill(table: tomlkit.TOMLDocument | Table, values: dict[str, Any], prefix: str) -> None:
    for key, value in values.items():
        comment = COMMENTS[prefix + key]
        if isinstance(value, dict):
            section = tomlkit.table()
            section.comment(comment)
            _fill(section, value, f"{prefix}{key}.")
            table.add(key, section)
            continue
        table.add(tomlkit.comment(comment))
        if value is None:
            table.add(tomlkit.comment(f'{key} = "..."'))
        elif value and isinstance(value, tuple) and isinstance(value[0], dict):
            rows = tomlkit.array()
            for row in value:
                inline = tomlkit.inline_table()
                inline.update(row)
                rows.append(inline)
            table.add(key, rows)
        else:
            table.add(key, value)
