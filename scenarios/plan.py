"""What a scenario comes to: its devices by name, with what each has, and everything that cannot be refused early."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from crypto.hashing import digest
from models.datasets import DataError
from models.partition import parse
from node.config.errors import ConfigError
from node.config.toml import load_toml
from scenarios.adversary import NAMES, drawn
from scenarios.certificates import in_bytes
from scenarios.spec.adversary import AdversaryTable
from scenarios.spec.baselines import BaselineTables
from scenarios.spec.scenario import (
    DEVICES_MAX,
    ROUNDS_MAX,
    SEED_END,
    SHARES_SLACK,
    UNCOUNTED,
    Cut,
    Device,
    Devices,
    Fault,
    HardwareTable,
    NetworkTable,
    OptionError,
    Role,
    Scenario,
    SizeTable,
    SwarmTables,
    Unworkable,
)

# Of the devices that a scenario only counts. Further ones are called "Ada 2" and so on.
FIRST_NAMES = (
    *("Ada", "Bruno", "Chidi", "Dalia", "Emre", "Freya", "Goran", "Hana", "Ines", "Jonas", "Kaya", "Luca"),
    *("Mina", "Noor", "Oskar", "Priya", "Quinn", "Rosa", "Sami", "Tuva", "Uma", "Victor", "Wanda", "Ximena"),
    *("Yusuf", "Zoe"),
)


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
    seed = in_bytes(scenario.seed)
    left = sorted(range(1, count), key=lambda index: digest("scenario adversary", seed, in_bytes(index)))
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
    seed = in_bytes(scenario.seed)
    drawn = sorted(range(count), key=lambda index: digest("scenario hardware", seed, in_bytes(index)))
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
    draw = int.from_bytes(digest("scenario step", seed, in_bytes(index))[:8], "big") / 2**64
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
