r"""Each device of a run in a network namespace of its own, as a scenario's [network] says. Linux, root, iproute2.

                      street
              uplink0 /    \ uplink1
                  home0    home1             bridges, all in the namespace RUN-net
         port0 / port1 |     | port2
            eth0    eth0    eth0             one a device, each in its own namespace: RUN-0, RUN-1, RUN-2

`layout` says all of it as data: names, addresses and commands. `built` carries it out, and has a process beside it that
removes everything when this one is gone (`scenarios.processes.sweeper`). Nothing is ever made in the machine's own namespace, so nothing
there can clash, and whatever is made goes with the run's namespaces.

A home that is cut off has its uplink down: no device sees its own link go, as in a real outage behind the next box.

Where a home has `nat`, a router stands on that way, in the namespace RUN-routerN, with a process that translates addresses
(`scenarios.processes.nat`):

    home0 - uplink0 = lan  RUN-router0  wan = street0 - street

Such a home has addresses of its own, the same as any other such home, as real ones do. The router's kernel hands to the process, by
its interface nat0, what comes from the home (by a rule) and what comes for its outer address (by a route), answers for that
address on the street, and forwards what the process writes.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from gossip.errors import GossamerError
from scenarios.processes import sweeper
from scenarios.spec.scenario import HomeTable, Line, NetworkTable, OptionError

SUBNET = IPv4Network("10.213.0.0/16")  # seen by the run's devices alone
HOME = IPv4Network("192.168.1.0/24")  # behind every router that translates
TUN = Path("/dev/net/tun")
TABLE = "100"  # of a router: what comes from its home
PORT = 4001  # of each device: nobody else has its address
INTERFACE = "eth0"
READY_S = 10.0  # for the sweeper to be there
SWEEP_S = 30.0  # for it to have removed everything
BURST_BYTES_MIN = 16 * 1024  # several packets
BURST_S = 0.01  # of a full line: the kernel's clock may tick as rarely as that
QUEUE_MS = 200  # that a full line may hold a packet

Command = tuple[str, ...]

# What tells whether the kernel has a queueing discipline: to ask for it, on an interface that carries nothing.
TRIALS: dict[str, Command] = {
    "tbf": ("tbf", "rate", "1mbit", "burst", "16384", "latency", "50ms"),
    "netem": ("netem", "loss", "1%"),
}
ASKS_FOR = {"tbf": "up_mbit or down_mbit", "netem": "loss"}


class NamespaceError(GossamerError):
    """A network namespace could not be made, changed or removed: the system's own words say why. Exit code 1."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is."""

    namespace: str
    address: str

    @property
    def listen(self) -> str:
        return f"/ip4/{self.address}/tcp/{PORT}"

    @property
    def inside(self) -> Command:
        """What a command begins with that is to run there."""
        return ("ip", "netns", "exec", self.namespace)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, addresses and commands of a run, for whoever has the power to carry them out."""

    run: str
    homes: tuple[str, ...]
    home_of: tuple[int, ...]  # by device
    places: tuple[Place, ...]  # by device
    kinds: tuple[str, ...]  # queueing disciplines that the kernel must have
    commands: tuple[Command, ...]
    routers: tuple[Command, ...] = ()  # what runs for as long as the network stands

    @property
    def switches(self) -> str:
        """The namespace of the bridges."""
        return f"{self.run}-net"

    def uplink(self, home: str, state: str) -> Command:
        """The command that takes a home off the street (`state` "down"), or back to it ("up")."""
        return ("ip", "-n", self.switches, "link", "set", f"uplink{self.homes.index(home)}", state)

    def trial(self, kind: str) -> Command:
        return ("tc", "-n", self.switches, "qdisc", "replace", "dev", "lo", "root", *TRIALS[kind])


def layout(network: NetworkTable, run: str) -> Layout:
    """The plan of a network whose homes hold all devices, in order (`scenarios.spec.scenario` sees to that)."""
    switches = f"{run}-net"
    places: list[Place] = []
    home_of: list[int] = []
    kinds: set[str] = set()
    commands: list[Command] = [("ip", "netns", "add", switches), *_bridge(switches, "street")]
    routers: list[Command] = []
    # Behind a router is the world, which is no network of anybody's own.
    street_prefix = 24 if any(home.nat is not None for home in network.home) else SUBNET.prefixlen
    for number, home in enumerate(network.home):
        commands += _bridge(switches, f"home{number}")
        if home.nat is None:
            commands += _uplink(switches, number)
            subnet, first, prefix = SUBNET, 256 * (number + 1) + 1, street_prefix
        else:
            router = f"{run}-router{number}"
            outer = str(SUBNET[256 * (number + 1) + 1])
            commands += _router(switches, router, number, outer)
            routers.append(_nat(router, outer, home))
            subnet, first, prefix = HOME, 2, HOME.prefixlen
        line = network.line_of(home)
        for position in range(home.devices):
            place = Place(f"{run}-{len(places)}", str(subnet[first + position]))
            port = f"port{len(places)}"
            commands += _device(switches, place, port, f"home{number}", prefix)
            route = ("ip", "-n", place.namespace, "route", "add")
            if home.nat is not None:
                commands.append((*route, "default", "via", str(HOME[1])))
            elif prefix != SUBNET.prefixlen:
                commands.append((*route, str(SUBNET), "dev", INTERFACE))
            if line is not None:
                commands += _queues(place.namespace, INTERFACE, line.up_mbit, line.loss)
                commands += _queues(switches, port, line.down_mbit, line.loss)
                kinds |= _kinds(line)
            places.append(place)
            home_of.append(number)
    return Layout(
        run=run,
        homes=tuple(home.name for home in network.home),
        home_of=tuple(home_of),
        places=tuple(places),
        kinds=tuple(sorted(kinds)),
        commands=tuple(commands),
        routers=tuple(routers),
    )


def _bridge(switches: str, name: str) -> list[Command]:
    return [
        ("ip", "-n", switches, "link", "add", name, "type", "bridge"),
        ("ip", "-n", switches, "link", "set", name, "up"),
    ]


def _uplink(switches: str, number: int) -> list[Command]:
    """A home's way to the street, up."""
    here, there = f"uplink{number}", f"street{number}"
    return [
        ("ip", "-n", switches, "link", "add", here, "type", "veth", "peer", "name", there),
        ("ip", "-n", switches, "link", "set", here, "master", f"home{number}", "up"),
        ("ip", "-n", switches, "link", "set", there, "master", "street", "up"),
    ]


def _router(switches: str, own: str, number: int, outer: str) -> list[Command]:
    """The way of a home behind one address. What the process writes comes from nat0, so the rule does not send it back."""
    set_up = ("ip", "-n", own, "link", "set")
    commands: list[Command] = [("ip", "netns", "add", own)]
    for leg, bridge, port in (("lan", f"home{number}", "uplink"), ("wan", "street", "street")):
        peer = ("type", "veth", "peer", "name", leg, "netns", own)
        commands += [
            ("ip", "-n", switches, "link", "add", f"{port}{number}", *peer),
            ("ip", "-n", switches, "link", "set", f"{port}{number}", "master", bridge, "up"),
        ]
    street = f"{SUBNET[256 * (number + 1) + 254]}/{SUBNET.prefixlen}"
    return [
        *commands,
        ("ip", "-n", own, "address", "add", f"{HOME[1]}/{HOME.prefixlen}", "dev", "lan"),
        ("ip", "-n", own, "address", "add", street, "dev", "wan"),
        ("ip", "-n", own, "tuntap", "add", "nat0", "mode", "tun"),
        *((*set_up, name, "up") for name in ("lo", "lan", "wan", "nat0")),
        ("ip", "-n", own, "route", "add", f"{outer}/32", "dev", "nat0"),
        ("ip", "-n", own, "neighbour", "add", "proxy", outer, "dev", "wan"),
        ("ip", "-n", own, "route", "add", "default", "dev", "nat0", "table", TABLE),
        ("ip", "-n", own, "rule", "add", "iif", "lan", "table", TABLE),
    ]


def _nat(router: str, outer: str, home: HomeTable) -> Command:
    assert home.nat is not None
    program = (sys.executable, "-P", "-m", "scenarios.processes.nat")
    return (
        *("ip", "netns", "exec", router, *program),
        *("nat0", str(HOME), outer, home.nat, f"{home.delay_ms:g}"),
    )


def _device(switches: str, place: Place, port: str, bridge: str, prefix: int) -> list[Command]:
    own = place.namespace
    address = f"{place.address}/{prefix}"
    peer = ("peer", "name", INTERFACE, "netns", own)
    return [
        ("ip", "netns", "add", own),
        ("ip", "-n", switches, "link", "add", port, "type", "veth", *peer),
        ("ip", "-n", switches, "link", "set", port, "master", bridge, "up"),
        ("ip", "-n", own, "address", "add", address, "dev", INTERFACE),
        ("ip", "-n", own, "link", "set", "lo", "up"),
        ("ip", "-n", own, "link", "set", INTERFACE, "up"),
    ]


def _kinds(line: Line) -> set[str]:
    capped = line.up_mbit is not None or line.down_mbit is not None
    return {kind for kind, asked in (("tbf", capped), ("netem", line.loss > 0)) if asked}


def _queues(namespace: str, interface: str, mbit: float | None, loss: float) -> list[Command]:
    """What an interface sends goes through these: first the chance of a loss, then the cap."""
    add = ("tc", "-n", namespace, "qdisc", "add", "dev", interface)
    commands: list[Command] = []
    parent: Command = ("root",)
    if loss:
        commands.append((*add, *parent, "handle", "1:", "netem", "loss", f"{100 * loss:g}%"))
        parent = ("parent", "1:1")
    if mbit is not None:
        rate = round(mbit * 1e6)
        burst = max(BURST_BYTES_MIN, round(rate / 8 * BURST_S))
        cap = ("tbf", "rate", f"{rate}bit", "burst", str(burst), "latency", f"{QUEUE_MS}ms")
        commands.append((*add, *parent, "handle", "2:", *cap))
    return commands


# --- with a real kernel --------------------------------------------------------------------------------------


class Network:
    """A layout that stands."""

    def __init__(self, plan: Layout) -> None:
        self.layout = plan

    def cut(self, home: str) -> None:
        """Raises NamespaceError."""
        _carry_out(self.layout.uplink(home, "down"))

    def heal(self, home: str) -> None:
        """Raises NamespaceError."""
        _carry_out(self.layout.uplink(home, "up"))


def refuse_unable(network: NetworkTable, scenario: str) -> None:
    """Raises OptionError where namespaces cannot be, before anything is made."""
    if sys.platform != "linux":
        raise OptionError("--namespaces: only Linux has network namespaces; leave it out on this system")
    if os.geteuid() != 0:
        raise OptionError("--namespaces: only root may make network namespaces; run it with sudo")
    if not network.home:
        raise OptionError(f"--namespaces: scenario {scenario} has no [network]; try `split`, or add one")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise OptionError(f"--namespaces: there is no `{tool}`; install iproute2")
    if any(home.nat is not None for home in network.home) and not TUN.exists():
        raise OptionError(
            f"--namespaces: scenario {scenario} has a home with nat, for which {TUN} is missing; run `modprobe tun`"
        )


@contextlib.contextmanager
def built(network: NetworkTable) -> Iterator[Network]:
    """The network, for as long as the context lasts; nothing of it afterwards, however it ends.

    Raises NamespaceError, and OptionError for what this kernel cannot do.
    """
    sweeper.sweep_leftovers()
    plan = layout(network, sweeper.run_of(os.getpid()))
    with _swept(plan.run), contextlib.ExitStack() as routers:
        _carry_out(plan.commands[0])
        for kind in plan.kinds:
            _refuse_lacking(plan, kind)
        for command in plan.commands[1:]:
            _carry_out(command)
        for router in plan.routers:
            routers.enter_context(_routing(router))
        yield Network(plan)


@contextlib.contextmanager
def _routing(command: Command) -> Iterator[None]:
    """With a router's process; the sweeper ends it, too, as it runs in a namespace of the run. Raises NamespaceError."""
    process = _beside(command)
    try:
        _await_ready(process, "a router's process did not start: is there /dev/net/tun?")
        yield
    finally:
        process.kill()
        process.wait()
        _close(process)


def _beside(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await_ready(process: subprocess.Popen[bytes], otherwise: str) -> None:
    """Until it has said that it is. Raises NamespaceError with these words."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    if not ready or os.read(process.stdout.fileno(), len(sweeper.READY)) != sweeper.READY:
        raise NamespaceError(otherwise)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def _swept(run: str) -> Iterator[None]:
    """With a process beside this one that removes the run's namespaces at the end. Raises NamespaceError."""
    beside = _beside([sys.executable, "-P", "-m", "scenarios.processes.sweeper", run])
    assert beside.stdin is not None
    try:
        _await_ready(beside, "the process that removes a run's namespaces did not start; nothing was made")
        yield
    finally:
        beside.stdin.close()
        try:
            beside.wait(SWEEP_S)
        except subprocess.TimeoutExpired:
            beside.kill()
            beside.wait()
        _close(beside)
        sweeper.sweep(run)  # if that process was killed
        left = [name for name in sweeper.namespaces() if name.startswith(f"{run}-")]
        if left:
            raise NamespaceError(f"these namespaces could not be removed: {', '.join(left)}; see `ip netns`")


def _refuse_lacking(plan: Layout, kind: str) -> None:
    """Raises OptionError if the kernel lacks a queueing discipline."""
    try:
        _carry_out(plan.trial(kind))
    except NamespaceError as error:
        raise OptionError(
            f"--namespaces: a network.line of the scenario has {ASKS_FOR[kind]}, for which this kernel lacks {kind}: "
            f"leave that out, or use another kernel ({error})"
        ) from error


def _carry_out(command: Sequence[str]) -> None:
    """Raises NamespaceError."""
    spelt = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=sweeper.COMMAND_S,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NamespaceError(f"`{spelt}` took longer than {sweeper.COMMAND_S:.0f} s") from error
    except OSError as error:
        raise NamespaceError(f"`{spelt}`: {error.strerror}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise NamespaceError(f"`{spelt}`: {said}")
