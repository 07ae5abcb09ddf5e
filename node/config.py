"""One device's settings: TOML on disk, strict frozen structs in memory, and one clear line when they disagree.

Nothing is guessed. An unknown key, a missing one, a value of another type or outside its bounds is refused with
the file, the line, the key, what was expected there and the nearest right key. The bounds stand in the types, so
that the error, the check and the reader share one source. `[swarm]` is also read by scenario files; its bounds and
contradictions are the manifest's own, so what is accepted here can be founded.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import msgspec
import tomlkit
from msgspec import Meta, inspect
from tomlkit.items import Table

from crypto.identity import public_key_of
from gossip.errors import GossamerError, ManifestError
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

CONFIG_BYTES_MAX = 1 << 16
ADDRESSES_MAX = 64
SPEC_CHARACTERS_MAX = 256
SHOWN_CHARACTERS_MAX = 60

Place: TypeAlias = tuple[str | int, ...]  # where a value stands: ("swarm", "training", "schedule", 0, "size")
T = TypeVar("T")


class ConfigError(GossamerError):
    """A settings file that cannot be used: change the key that is named. Exit code 4."""

    exit_code: ClassVar[int] = 4


class _Unfit(ConfigError, ValueError):
    """A value that its type alone cannot refuse. As a ValueError, msgspec carries it to `parse_toml` as a cause."""

    def __init__(self, place: Place, problem: str) -> None:
        super().__init__(f"{_spelt(place)}{problem}")
        self.place = place
        self.problem = problem


_LISTEN_FORM = "/ip4/ADDRESS/tcp/PORT"
_BOOTSTRAP_FORM = "/ip4/ADDRESS/tcp/PORT/p2p/12D3KooW..."
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_PORT = re.compile(r"[0-9]{1,5}")


def listen_address(address: str) -> tuple[str, int]:
    """The IP address and TCP port of `/ip4/ADDRESS/tcp/PORT` or its ip6 form; ValueError for anything else."""
    host, port, rest = _tcp(address, ("ip4", "ip6"), port_min=0)
    if rest:
        raise ValueError(f"{_shown(address)} has more than an address and a port; expected {_LISTEN_FORM}")
    return host, port


def bootstrap_peer(address: str) -> bytes:
    """The public key of whom `/ip4/ADDRESS/tcp/PORT/p2p/PEER_ID` leads to; ValueError for anything else.

    Without the peer id, whoever answers at the address could pass for the device that was meant.
    """
    _, _, rest = _tcp(address, ("ip4", "ip6", "dns", "dns4", "dns6"), port_min=1)
    if len(rest) != 2 or rest[0] != "p2p":
        raise ValueError(f"{_shown(address)} does not name the peer; expected {_BOOTSTRAP_FORM}")
    try:
        return public_key_of(rest[1])
    except ValueError as error:
        raise ValueError(f"{_shown(address)}: {error}; expected {_BOOTSTRAP_FORM}") from error


def bootstrap_host(address: str) -> str | None:
    """The IP address to which a bootstrap address leads; None where it is a name."""
    parts = address.split("/")
    return parts[2] if parts[1] in {"ip4", "ip6"} else None


def _tcp(address: str, families: tuple[str, ...], *, port_min: int) -> tuple[str, int, list[str]]:
    """Host, port and what follows them in a multiaddr of TCP; ValueError in words."""
    parts = address.split("/")
    if len(parts) < 5 or parts[0] or parts[1] not in families or parts[3] != "tcp":
        raise ValueError(f"{_shown(address)} is no TCP multiaddr; expected {_LISTEN_FORM} and the like")
    family, host, port = parts[1], parts[2], parts[4]
    if family in {"ip4", "ip6"}:
        try:
            (ipaddress.IPv4Address if family == "ip4" else ipaddress.IPv6Address)(host)
        except ValueError as error:
            raise ValueError(f"{_shown(address)}: {host} is no {family} address") from error
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{_shown(address)}: {host} is no host name")
    if not _PORT.fullmatch(port) or not port_min <= int(port) <= 65535:
        raise ValueError(f"{_shown(address)}: {port} is no port from {port_min} to 65535")
    return host, int(port), parts[5:]


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return shown if len(shown) <= SHOWN_CHARACTERS_MAX else f"{shown[:SHOWN_CHARACTERS_MAX]}..."


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
                    raise _Unfit((key, position), str(error)) from error


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
                raise _Unfit(("members", position), f"{error}; expected a peer id") from error
        if (self.admit == "members") != bool(self.members):
            raise _Unfit(("admit",), 'members are listed if and only if admit is "members"')
        try:
            refuse_contradictions(self.manifest(_ANY_MODEL, _ANY_FOUNDER))
        except ManifestError as error:
            raise _Unfit((), str(error)) from error

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
    return parse_config(_read(path), path)


def parse_config(text: str, path: Path) -> Config:
    """`load_config` for a text that is, or will be, at `path`."""
    config = parse_toml(text, Config, path)
    if config.task.folder is None:
        return config
    folder = path.parent.absolute() / Path(config.task.folder).expanduser()
    if not folder.is_dir():
        place = ("task", "folder")
        raise _error(path, text, place, f"{folder} is missing, or no folder; expected your data's folder")
    return msgspec.structs.replace(config, task=msgspec.structs.replace(config.task, folder=str(folder)))


def load_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file as the struct `kind`, strictly; any struct built from Section. Raises ConfigError."""
    return parse_toml(_read(path), kind, path)


def parse_toml(text: str, kind: type[T], path: Path) -> T:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _refuse_keys(tree, inspect.type_info(kind), (), path, text)
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        place = _place_in(str(error))
        if isinstance(unfit := error.__cause__, _Unfit):
            raise _error(path, text, (*place, *unfit.place), unfit.problem) from error
        raise _error(path, text, place, _expectation(tree, inspect.type_info(kind), place)) from error


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


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {CONFIG_BYTES_MAX} bytes; this is no settings file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8 text") from error


def _refuse_keys(tree: object, kind: inspect.Type, place: Place, path: Path, text: str) -> None:
    """Refuse the first key that is unknown, and any required one that is missing."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(tree, list):
        for position, item in enumerate(tree):
            _refuse_keys(item, kind.item_type, (*place, position), path, text)
    if not isinstance(kind, inspect.StructType) or not isinstance(tree, dict):
        return
    fields = {field.encode_name: field for field in kind.fields}
    for key, value in tree.items():
        if key not in fields:
            raise _error(path, text, (*place, key), f"no such key; {_nearest(key, kind)}")
        _refuse_keys(value, fields[key].type, (*place, key), path, text)
    for key, field in fields.items():
        if field.required and key not in tree:
            problem = f"missing; expected {_described(field.type)}"
            raise _error(path, text, (*place, key), problem, line_of=place)


def _nearest(key: str, table: inspect.StructType) -> str:
    """The key of this table, or of one below it, that was probably meant; else all keys of the table."""
    names = [field.encode_name for field in table.fields]
    elsewhere = [dotted for dotted in _dotted_keys(table) if dotted.rpartition(".")[2] == key]
    meant = difflib.get_close_matches(key, names, n=1) or elsewhere
    return f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(names)}"


def _dotted_keys(table: inspect.StructType) -> Iterable[str]:
    for field in table.fields:
        yield field.encode_name
        if isinstance(field.type, inspect.StructType):
            yield from (f"{field.encode_name}.{below}" for below in _dotted_keys(field.type))


def _expectation(tree: object, kind: inspect.Type, place: Place) -> str:
    """What is at `place`, and what its type wants there."""
    for part in place:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        if isinstance(kind, inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == part)
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
        tree = _below(tree, part)
    hint = ""
    if isinstance(kind, inspect.LiteralType) and isinstance(tree, str):
        near = difflib.get_close_matches(tree, [str(value) for value in kind.values], n=1)
        hint = f"; did you mean {_shown(near[0])}?" if near else ""
    return f"{_shown(tree)} does not fit; expected {_described(kind)}{hint}"


def _described(kind: inspect.Type) -> str:
    """A type in words, bounds included."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.Metadata():
            return _described(kind.type)
        case inspect.UnionType():
            return _described(next(each for each in kind.types if not isinstance(each, inspect.NoneType)))
        case inspect.LiteralType():
            return "one of " + ", ".join(_shown(value) for value in kind.values)
        case inspect.IntType() | inspect.FloatType():
            low, high = kind.ge, kind.le if kind.lt is None else kind.lt - 1
            bounds = (
                f" from {low} to {high}"
                if high is not None
                else f", {low} or more"
                if low is not None
                else ""
            )
            return ("a whole number" if isinstance(kind, inspect.IntType) else "a number") + bounds
        case inspect.StrType():
            return "a text in quotes"
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType() | inspect.ListType():
            least = kind.min_length or 0
            most = "" if kind.max_length is None else f", {least} to {kind.max_length} of them"
            return f"a list of {_described(kind.item_type)}{most}"
        case inspect.StructType():
            return f"a table with {', '.join(field.encode_name for field in kind.fields)}"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _place_in(message: str) -> Place:
    """Where a ValidationError stands: its text ends in `$.swarm.training.schedule[0].size`, say."""
    _, _, where = message.rpartition(" - at `$")
    return tuple(
        int(index) if index else key for key, index in re.findall(r"\.([^.\[\]`]+)|\[([0-9]+)\]", where)
    )


def _error(path: Path, text: str, place: Place, problem: str, *, line_of: Place | None = None) -> ConfigError:
    line = _line(text, place if line_of is None else line_of)
    message = f"{path}{f', line {line}' if line else ''}: {_spelt(place)}{problem}"
    # What is quoted may hold newlines and a terminal's control characters.
    printable = (each if each.isprintable() else ascii(each)[1:-1] for each in message)
    return ConfigError("".join(printable))


def _spelt(place: Place) -> str:
    spelling = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{spelling.removeprefix('.')}: " if place else ""


def _line(text: str, place: Place) -> int | None:
    """The line, from 1, on which the value at `place` begins: the first prefix of the file that holds it."""
    if not place:
        return None
    lines = text.split("\n")
    begin = 1
    for count in range(1, len(lines) + 1):
        try:
            tree: object = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        for part in place:
            tree = _below(tree, part)
        if tree is not None:
            return begin
        begin = count + 1
    return None


def _below(tree: object, part: str | int) -> object:
    """One step down a TOML tree; None where there is nothing, as TOML has no null."""
    if isinstance(tree, Mapping) and isinstance(part, str):
        return tree.get(part)
    if (
        isinstance(tree, Sequence)
        and not isinstance(tree, str)
        and isinstance(part, int)
        and part < len(tree)
    ):
        return tree[part]
    return None


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
