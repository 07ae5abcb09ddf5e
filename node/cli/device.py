"""What each command of the command line does, for one device."""

import contextlib
import json as json_text
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import psutil

from crypto.identity import SEED_BYTES, Identity
from gossip.errors import GossamerError
from node.cli.invite import LOOK_S
from node.cli.options import (
    AdmitOption,
    AskOption,
    BackgroundOption,
    BootstrapOption,
    CodeArgument,
    CountOption,
    DataOption,
    DetachOption,
    FileArgument,
    HomeOption,
    JoinTaskOption,
    JsonOption,
    ListenOption,
    NameOption,
    NearbyOption,
    PeerArgument,
    SecondsOption,
    SwarmOption,
    TaskOption,
    UpOption,
    YesOption,
)
from node.cli.output import (
    INTERRUPTED,
    CommandFailed,
    UsageError,
    check_each,
    check_peer,
    confirmed,
    home_option,
    in_words,
    megabytes,
    printable,
    say_line,
    tell_line,
)
from node.cli.peers import do_or_does, sums_in_words
from node.config.addresses import bootstrap_peer, listen_address
from node.config.settings import (
    DEFAULT_DATA,
    Config,
    NetworkSettings,
    SwarmSettings,
    TaskSettings,
    config_text,
    load_config,
)
from node.control_client import NotAnswering, call
from node.home import AlreadyRunning, Home, NotRunning, hold, home_path, init_home, open_home, running
from node.join.codes import KNOCK, read_secret

UP_S = 120  # for a node in the background to listen; several may share a slow machine
PING_S = 20.0
DOWN_S = 10.0
LINES_SHOWN = 10


@in_words
def init(
    *,
    home: HomeOption = None,
    name: NameOption = None,
    task: TaskOption = "watch",
    data: DataOption = None,
    listen: ListenOption = (),
    bootstrap: BootstrapOption = (),
    admit: AdmitOption = None,
    swarm: SwarmOption = None,
) -> None:
    """Make this device a home: its key and its settings."""
    part = data or DEFAULT_DATA.get(task)
    if part is None:
        raise UsageError(f"--data is missing: which part of {task}'s data does this device hold?")
    check_each("--listen", listen, listen_address)
    check_each("--bootstrap", bootstrap, bootstrap_peer)
    seed = os.urandom(SEED_BYTES)
    peer_id = Identity(seed).peer_id
    network = NetworkSettings(bootstrap=bootstrap)
    if listen:
        network = NetworkSettings(listen=listen, bootstrap=bootstrap)
    founds = SwarmSettings(name=swarm or SwarmSettings().name, admit=admit or SwarmSettings().admit)
    settings = Config(
        name=name or f"device-{peer_id[-6:]}",
        task=TaskSettings(name=task, data=part),
        network=network,
        swarm=founds,
    )
    made = init_home(home_path(home, os.environ), config_text(settings), seed)
    tell_line(peer_id)
    say_line(f"{settings.name} lives in {made.path}; its settings are in {made.config.name}")
    say_line(f"next: gossamer up{home_option(home)}")
    if founds.admit in {"invite", "ask"}:
        say_line(f"then, to let another device join: gossamer invite{home_option(home)}")


@in_words
def up(
    *,
    home: HomeOption = None,
    bootstrap: BootstrapOption = (),
    nearby: NearbyOption = None,
    detach: DetachOption = False,
    background: BackgroundOption = False,
) -> int:
    """Start the device's node. Ctrl-C stops it."""
    check_each("--bootstrap", bootstrap, bootstrap_peer)
    opened = open_home(home_path(home, os.environ))
    return _run(opened, bootstrap, nearby=nearby, detach=detach, background=background)


def _run(
    opened: Home, bootstrap: tuple[str, ...], *, nearby: str | None, detach: bool, background: bool
) -> int:
    if detach:
        _detach(opened, bootstrap, nearby)
        return 0
    from node.daemon.lifecycle import run_node  # noqa: PLC0415 - loads what only a daemon needs

    interrupted = run_node(
        opened,
        bootstrap,
        nearby=nearby,
        foreground=not background,
        announce=lambda addresses, invites: None if background else _announce(addresses, invites=invites),
        environ=os.environ,
    )
    return INTERRUPTED if interrupted else 0


@in_words
def join(
    code: CodeArgument = None,
    /,
    *,
    home: HomeOption = None,
    ask: AskOption = None,
    name: NameOption = None,
    task: JoinTaskOption = None,
    data: DataOption = None,
    listen: ListenOption = (),
    start: UpOption = True,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> int:
    """Join a swarm by a code or a link, or ask to be let in; then start the node. Makes the home, if there is none."""
    if (code is None) == (ask is None):
        raise UsageError(
            "what to join: a code or a link (gossamer join CODE), or --ask and the name of a swarm nearby"
        )
    check_each("--listen", listen, listen_address)
    secret = KNOCK if code is None else read_secret(code)
    path = home_path(home, os.environ)
    from node.join.new_home import Newcomer, Wishes  # noqa: PLC0415 - loads what only this command needs

    try:
        newcomer = Newcomer(
            path, Wishes(name=name, task=task, data=data, listen=listen), _Follower(json=json)
        )
        joined = newcomer.join(secret, ask or "")
    except GossamerError as error:
        if json:
            told = {
                "why": getattr(error, "why", None),
                "error": str(error),
                "exit_code": getattr(error, "exit_code", 1),
            }
            tell_line(json_text.dumps({"event": "failed", **told}))
        raise
    bootstrap = () if newcomer.is_new else (joined.address,)
    if json:
        told = {"swarm": joined.swarm.manifest.name, "swarm_id": joined.swarm.id.hex(), "home": str(path)}
        tell_line(json_text.dumps({"event": "joined", **told, "peer_id": newcomer.identity.peer_id}))
    say_line(f'{newcomer.name} belongs to the swarm "{joined.swarm.manifest.name}" now; its home is {path}')
    opened = open_home(path)
    if not start:
        more = "".join(f" --bootstrap {address}" for address in bootstrap)
        say_line(f"next: gossamer up{home_option(home)}{more}")
        return 0
    return _run(opened, bootstrap, nearby=None, detach=detach, background=False)


class _Follower:
    """Says how a join goes on, to a person or a program."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def looks(self, text: str) -> None:
        if self._json:
            tell_line(json_text.dumps({"event": "looking", "for": text}))
        else:
            say_line(printable(f"looking for {text} ..."))

    def agreed(self, who: str, word: str) -> None:
        if self._json:
            tell_line(json_text.dumps({"event": "agreed", "peer_id": who, "word": word}))
        else:
            say_line(printable(f"check word: {word}; waiting for them to allow it ({who})"))


@in_words
def down(*, home: HomeOption = None) -> None:
    """Stop the node, and wait until it is gone."""
    opened = open_home(home_path(home, os.environ))
    pid = running(opened).pid
    call(opened, "POST", "/down")
    if not _gone(pid):
        raise CommandFailed(f"{opened.path}: process {pid} is still there after {DOWN_S:.0f} s")
    say_line("stopped")


@in_words
def status(*, home: HomeOption = None, json: JsonOption = False) -> None:
    """What the node is doing, and what it waits for."""
    told = call(open_home(home_path(home, os.environ)), "GET", "/status")
    if json:
        tell_line(json_text.dumps(told, indent=2))
    else:
        for line in _status_lines(told):
            tell_line(printable(line))


@in_words
def leave(*, home: HomeOption = None, yes: YesOption = False) -> None:
    """Take this device out of its swarm: its node stops, and what it knows of the swarm is deleted. Key and settings stay."""
    from node.join.bootstrap import forget_swarm, kept_manifest  # noqa: PLC0415 - loads what only a few commands need

    opened = open_home(home_path(home, os.environ))
    swarm = kept_manifest(opened)
    if swarm is None:
        raise CommandFailed(f"{opened.path}: this device belongs to no swarm")
    name = swarm.manifest.name
    if not yes:
        say_line(
            f'This deletes the model, the history and the membership of the swarm "{name}" from {opened.path}. '
            "What this device contributed stays in the others' model."
        )
        if not confirmed(f'Leave "{name}"? [y/N] '):
            raise CommandFailed("nothing was changed")
    with contextlib.suppress(NotRunning):
        pid = running(opened).pid
        call(opened, "POST", "/down")
        if not _gone(pid):
            raise CommandFailed(f"{opened.path}: process {pid} is still there after {DOWN_S:.0f} s")
    with hold(opened):
        forget_swarm(opened)
    say_line(
        f'this device has left "{name}"; to join a swarm: gossamer up{home_option(home)} --bootstrap ADDRESS'
    )


@in_words
def ping(
    peer: PeerArgument, /, *, home: HomeOption = None, count: CountOption = 5, json: JsonOption = False
) -> None:
    """How far away a neighbour is: round trips, and the route to it."""
    check_peer(peer)
    asked = {"peer": peer, "count": count}
    told = call(open_home(home_path(home, os.environ)), "POST", "/ping", json=asked, timeout_s=PING_S)
    if json:
        tell_line(json_text.dumps(told, indent=2))
        return
    tell_line(
        f"{told['peer_id']}  {told['min_ms']:.1f} ms at best, {told['median_ms']:.1f} ms median of {told['count']}  "
        f"{told['route']}  {told['address']}"
    )


@in_words
def nearby(*, seconds: SecondsOption = 5.0, json: JsonOption = False) -> None:
    """The swarms and devices on this device's networks. Needs no home and no node."""
    from node.lan.interfaces import usable_interfaces  # noqa: PLC0415 - loads what only a few commands need
    from node.lan.mdns import look_around  # noqa: PLC0415

    interfaces = usable_interfaces()
    names = ", ".join(f"{each.name} {each.networks[0].ip}" for each in interfaces)
    found = look_around(interfaces, seconds) if interfaces else {}
    devices = [each.told(interfaces) for each in sorted(found.values(), key=lambda each: each.order)]
    if json:
        tell_line(
            json_text.dumps({"interfaces": [each.name for each in interfaces], "devices": devices}, indent=2)
        )
    for device in [] if json else devices:
        where = " ".join(device["addresses"]) or "at no address on a network of this device"
        tell_line(
            f'"{device["swarm"]}"  {device["swarm_id"]}  {device["device"]}  admits {device["admits"]}  {where}'
        )
    if devices:
        say_line('join one of them: gossamer up --nearby "NAME", with a home that belongs to no swarm yet')
    elif not interfaces:
        say_line("no interface is up behind which other devices can be; next: gossamer doctor")
    else:
        say_line(
            f"nothing was found within {seconds:g} s on {names}. Either no device is up there that listens on this "
            "network (gossamer init --listen), or its network.nearby is false, or the network carries no multicast, "
            "as guest Wi-Fis do; next: gossamer doctor"
        )


@in_words
def doctor(*, home: HomeOption = None, json: JsonOption = False) -> int:
    """What is wrong with this device, its network or its neighbours, and what to do about it."""
    from node.doctor.measure import examine  # noqa: PLC0415 - loads what only this command needs

    findings = examine(home_path(home, os.environ))
    ok = all(finding.ok for finding in findings)
    if json:
        told = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
        tell_line(json_text.dumps(told, indent=2))
    for finding in [] if json else findings:
        tell_line(printable(finding.line))
    return 0 if ok else 1


@in_words
def check(file: FileArgument = None, /, *, home: HomeOption = None) -> None:
    """Whether the settings can be used; if not, why."""
    path = file if file is not None else open_home(home_path(home, os.environ)).config
    load_config(path)
    tell_line(f"{path}: ok")


def _announce(addresses: Iterable[str], *, invites: bool) -> None:
    for address in addresses:
        tell_line(address)
        if not invites:
            say_line(f"others join with: gossamer up --bootstrap {address}")
    if invites:
        say_line("to let another device join: gossamer invite")


def _detach(home: Home, bootstrap: Iterable[str], nearby: str | None) -> None:
    """Start the node in the background and wait until it is up, or looks for its swarm."""
    load_config(home.config)
    with contextlib.suppress(NotRunning):
        raise AlreadyRunning(home.path, running(home).pid)
    more = [part for address in bootstrap for part in ("--bootstrap", address)]
    more += [] if nearby is None else ["--nearby", nearby]
    words = (
        home.path / "daemon.err"
    )  # what is no log: one line of error, or what an interpreter says that dies
    with words.open("wb") as stderr:
        # -P: a folder of the user's that happens to be called "node" is not ours.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node", "up", "--background", "--home", str(home.path), *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    told = _until_up(home, process)
    if told is None:
        said = words.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        reason = "\n".join(printable(line).removeprefix("gossamer: ") for line in said)
        raise CommandFailed(reason or f"the node is not up; see {home.log}", process.poll() or 1)
    invites = (told["swarm"] or {}).get("admit") in {"invite", "ask"}
    _announce(told["addresses"], invites=invites)
    say_line(f"{told['name']} runs in the background: it {told['doing']} and waits for {told['waits_for']}")


def _until_up(home: Home, process: "subprocess.Popen[bytes]") -> dict[str, Any] | None:
    """The node's status once it listens or looks for its swarm; None if it ended, or is not there within UP_S."""
    for _ in range(round(UP_S / LOOK_S)):
        with contextlib.suppress(NotRunning, NotAnswering):
            told: dict[str, Any] = call(home, "GET", "/status", timeout_s=LOOK_S)
            if told["state"] in {"running", "joining"}:
                return told
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
            return None
    return None


def _gone(pid: int) -> bool:
    """Whether a process ends within DOWN_S; the dead whom nobody has collected have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for _ in range(round(DOWN_S / LOOK_S)):
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(LOOK_S)
                return True
        return False
    return True


def _status_lines(told: Mapping[str, Any]) -> Iterable[str]:
    swarm = f'swarm "{told["swarm"]["name"]}"' if told["swarm"] else "no swarm yet"
    yield f"{told['name']}  {told['peer_id']}  {swarm}, task {told['task']}"
    if told.get("warning"):
        yield f"WARNING: {told['warning']}"
    if (told.get("nearby") or {}).get("doubles"):
        yield "WARNING: another device on this network announces this one's key; next: gossamer doctor"
    yield f"It {told['doing']}, and waits for {told['waits_for']}."
    if told["round"] is None:
        return
    rounds = f" of {told['rounds']}" if told["rounds"] else ""
    accuracy = (
        "no accuracy yet"
        if told["accuracy"] is None
        else f"accuracy {told['accuracy']:.3f} at round {told['accuracy_round']}"
    )
    yield f"round {told['round']}{rounds}, {accuracy}, {told['steps']} local steps"
    yield (
        f"{len(told['live'])} devices here, {len(told['neighbours'])} neighbours; "
        f"{told['contributions']} contributions, {told['cohorts_aborted']} cohorts aborted"
    )
    if told["sums_refused"]:
        yield f"{told['sums_refused']} sums were refused by their members, as they did harm or were not what others are"
    if told["checkpoints_refuted"]:
        yield "a checkpoint was false: this device has folded everything again by itself"
    for struck in told["struck"] or ():
        if struck["since"] is None:
            signed = f"{struck['signed']} of {struck['needed']} inviters have signed that it be struck"
            yield f"{struck['peer_id']}: {signed}; until enough have, its sums count"
        else:
            taken = f"{sums_in_words(struck['sums'])} {do_or_does(struck['sums'])} count"
            yield f"{struck['peer_id']} is struck since round {struck['since']}: {taken}"
    if told["sums_taken_back"]:
        yield f"{sums_in_words(told['sums_taken_back'])} taken back in all"
    traffic, memory = told["traffic"], told["pss_mb"]
    yield (
        f"{traffic['sent'] / 1e6:.2f} MB sent, {traffic['received'] / 1e6:.2f} MB received; memory of the node "
        f"{megabytes(memory['daemon'])}, of its trainer {megabytes(memory['trainer'])}"
    )
    yield from told["addresses"]
