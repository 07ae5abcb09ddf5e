"""What each command of the command line does, for one device."""

import contextlib
import functools
import json as json_text
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, ParamSpec

import psutil
from cyclopts import Parameter, validators

from crypto.identity import SEED_BYTES, Identity
from gossip.errors import GossamerError
from node.codes import KNOCK, TTL_S, read_secret
from node.config import (
    DEFAULT_DATA,
    Config,
    NetworkSettings,
    SwarmSettings,
    TaskSettings,
    bootstrap_peer,
    config_text,
    listen_address,
    load_config,
)
from node.control import NotAnswering, Refused, call
from node.home import AlreadyRunning, Home, NotRunning, hold, home_path, init_home, open_home, running

UP_S = 120  # for a node in the background to listen; several may share a slow machine
LOOK_S = 0.5
PING_S = 20.0
WATCH_S = 20.0  # for the node to tell what is new of an invitation
WISH_S = 15.0
PEER_CHARACTERS_MIN, PEER_CHARACTERS_MAX = 4, 64
DOWN_S = 10.0
LINES_SHOWN = 10
INTERRUPTED = 130

P = ParamSpec("P")
HomeOption = Annotated[
    Path | None, Parameter(help="The device's home; else GOSSAMER_HOME, else the user's data folder.")
]
NameOption = Annotated[str | None, Parameter(help="How the device is called in its own logs and tables.")]
JoinTaskOption = Annotated[
    str | None,
    Parameter(
        help="For a new home: what it trains, where the swarm's is a task of your own (package.module:attribute)."
    ),
]
TaskOption = Annotated[
    str, Parameter(help="What it trains: watch, digits, or your own as package.module:attribute.")
]
DataOption = Annotated[
    str | None, Parameter(help="Which part of the data it holds, such as subjects=3 or shard=2/10.")
]
ListenOption = Annotated[
    tuple[str, ...],
    Parameter(
        help="Where it listens, as /ip4/ADDRESS/tcp/PORT; may be repeated. By default on loopback, on any port.",
        negative="",
    ),
]
BootstrapOption = Annotated[
    tuple[str, ...],
    Parameter(
        help="A device to join through, as /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID; may be repeated.", negative=""
    ),
]
NearbyOption = Annotated[
    str | None,
    Parameter(
        help="The swarm on this network to join, by its name or id: see gossamer nearby. For a new home."
    ),
]
CodeArgument = Annotated[
    str | None, Parameter(help="What gossamer invite shows on the other device: its code, or its link.")
]
AskOption = Annotated[
    str | None,
    Parameter(help="Instead of a code: the swarm nearby at whose members to knock, by its name or id."),
]
UpOption = Annotated[
    bool, Parameter(name="--up", help="Start the node once it has joined.", negative="--no-up")
]
TtlOption = Annotated[str, Parameter(help="How long the invitation is open: 90s, 10m, 2h.")]
UsesOption = Annotated[
    int, Parameter(help="How many devices it lets in.", validator=validators.Number(gte=1, lte=64))
]
QrOption = Annotated[bool, Parameter(help="Show the link for a camera, too.", negative="")]
LetInOption = Annotated[
    bool, Parameter(name="--yes", help="Let in whoever knows the code, without asking.", negative="")
]
SwarmOption = Annotated[str | None, Parameter(help="The name of a swarm that this device founds.")]
AdmitOption = Annotated[
    Literal["open", "members", "invite", "ask"] | None,
    Parameter(
        help='Who may join a swarm that this device founds: "open": anybody; "invite": whom a member invites (gossamer invite); '
        '"ask": who knocks, too, once a member allows it.'
    ),
]
PeerArgument = Annotated[str, Parameter(help="A neighbour's peer id, or how it ends.")]
StrikeOption = Annotated[
    int | None,
    Parameter(
        help="The round from which on nothing counts that the device has given.",
        validator=validators.Number(gte=1),
    ),
]
AnyPeerArgument = Annotated[str, Parameter(help="A device's peer id, or how it ends.")]
YesOption = Annotated[bool, Parameter(alias="-y", help="Do not ask.", negative="")]
CountOption = Annotated[int, Parameter(help="Round trips.", validator=validators.Number(gte=1, lte=16))]
SecondsOption = Annotated[
    float, Parameter(help="How long to look.", validator=validators.Number(gte=1, lte=60))
]
DetachOption = Annotated[
    bool, Parameter(alias="-d", help="Start it in the background, and return when it is up.", negative="")
]
BackgroundOption = Annotated[bool, Parameter(negative="", show=False)]  # what --detach starts: it only logs
FileArgument = Annotated[Path | None, Parameter(help="A settings file, instead of the home's.")]
JsonOption = Annotated[bool, Parameter(help="Print JSON.", negative="")]


class UsageError(GossamerError):
    """An option asks for what there is not. Exit code 2."""

    exit_code: ClassVar[int] = 2


class CommandFailed(GossamerError):
    """What was asked for did not happen: read why, and more in daemon.log."""

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def _in_words(command: Callable[P, int | None]) -> Callable[P, int]:
    """An error becomes one line and its exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs) or 0
        except GossamerError as error:
            _say(f"gossamer: {error}")
            return int(getattr(error, "exit_code", 1))

    return run


@_in_words
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
    _check_each("--listen", listen, listen_address)
    _check_each("--bootstrap", bootstrap, bootstrap_peer)
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
    _tell(peer_id)
    _say(f"{settings.name} lives in {made.path}; its settings are in {made.config.name}")
    _say(f"next: gossamer up{_option(home)}")
    if founds.admit in {"invite", "ask"}:
        _say(f"then, to let another device join: gossamer invite{_option(home)}")


@_in_words
def up(
    *,
    home: HomeOption = None,
    bootstrap: BootstrapOption = (),
    nearby: NearbyOption = None,
    detach: DetachOption = False,
    background: BackgroundOption = False,
) -> int:
    """Start the device's node. Ctrl-C stops it."""
    _check_each("--bootstrap", bootstrap, bootstrap_peer)
    opened = open_home(home_path(home, os.environ))
    return _run(opened, bootstrap, nearby=nearby, detach=detach, background=background)


def _run(
    opened: Home, bootstrap: tuple[str, ...], *, nearby: str | None, detach: bool, background: bool
) -> int:
    if detach:
        _detach(opened, bootstrap, nearby)
        return 0
    from node.drivers.boot import run_node  # noqa: PLC0415 - loads what only a daemon needs

    interrupted = run_node(
        opened,
        bootstrap,
        nearby=nearby,
        foreground=not background,
        announce=lambda addresses, invites: None if background else _announce(addresses, invites=invites),
        environ=os.environ,
    )
    return INTERRUPTED if interrupted else 0


@_in_words
def invite(
    *,
    home: HomeOption = None,
    ttl: TtlOption = "10m",
    uses: UsesOption = 1,
    qr: QrOption = False,
    yes: LetInOption = False,
    json: JsonOption = False,
) -> int:
    """Let another device join: shows a code and waits, here, for who comes. Ctrl-C withdraws it."""
    asked = {"ttl_s": _seconds(ttl), "uses": uses}
    opened = open_home(home_path(home, os.environ))
    made = call(opened, "POST", "/invite", json=asked)
    if json:
        _tell(json_text.dumps({"event": "invitation", **made}))
    else:
        _show_invitation(made, ttl, uses, qr=qr)
    if yes:
        _say("WARNING: whoever knows the code or the link is let in without a question")
    try:
        return _wait_for_guests(opened, made, yes=yes, json=json)
    finally:
        with contextlib.suppress(GossamerError):
            call(opened, "POST", "/invite/withdraw", json={"number": made["number"]})


def _show_invitation(made: Mapping[str, Any], ttl: str, uses: int, *, qr: bool) -> None:
    _tell(made["code"])
    _tell(made["link"])
    if qr:
        import segno  # noqa: PLC0415 - only here

        segno.make(made["link"], error="l").terminal(sys.stdout, border=2, compact=True)
    how_many = "one device" if uses == 1 else f"{uses} devices"
    _say(f'Lets {how_many} into the swarm "{made["swarm"]}" for {ttl}. On the other one, on this network:')
    _say(f"    gossamer join {made['code']}")
    _say(
        f"or from anywhere that reaches this device: gossamer join '{made['link'][:24]}...' (the whole line above)"
    )
    hosts = {address.split("/")[2] for address in made["addresses"]}
    if hosts <= {"127.0.0.1", "::1"}:
        _say(
            "WARNING: this node listens on this machine alone, and no other device reaches it; set network.listen, for example to "
            '["/ip4/0.0.0.0/tcp/0"], and start it again'
        )
    _say("Waiting. Ctrl-C withdraws the invitation.")


def _wait_for_guests(home: Home, made: Mapping[str, Any], *, yes: bool, json: bool) -> int:
    """Until the invitation ends; 0 if somebody has joined by it."""
    after, joined = made["after"], 0
    while True:
        asked = {"number": made["number"], "after": after}
        told = call(home, "POST", "/invite/watch", json=asked, timeout_s=WATCH_S)
        after = told["after"]
        for news in told["news"]:
            if json:
                _tell(json_text.dumps({"event": news["what"], **news}))
            else:
                _say(_printable(_news_line(news)))
            what = news["what"]
            joined += what == "joined"
            if what == "asks":
                allow = yes or _answered("Allow? [y/N] ")
                with contextlib.suppress(Refused):
                    call(home, "POST", "/invite/answer", json={"talk": news["talk"], "allow": allow})
            if what == "ended":
                return 0 if joined else 1


def _news_line(news: Mapping[str, Any]) -> str:
    who = f"{news['name'] or 'a device'} ({(news['peer_id'] or '')[:8]}...{(news['peer_id'] or '')[-6:]})"
    match news["what"]:
        case "asks":
            return f"{who} wants to join; check word: {news['word']}"
        case "allowed":
            return f"{who} is let in, and stores its certificate"
        case "joined":
            return f"{who} has joined"
        case "refused":
            return f"{who} was refused{': ' + news['why'] if news['why'] else ''}"
        case "left":
            return f"{who} has left before it was done"
        case "wrong":
            return f"{who} showed a wrong code"
    return {
        "burnt": "The invitation has ended: a wrong guess burnt its code. Next, for a new one: gossamer invite",
        "used": "The invitation has been used.",
        "expired": "The invitation has expired. Next, for a new one: gossamer invite",
    }.get(news["why"], "The invitation was withdrawn.")


def _answered(question: str) -> bool:
    """A person's yes; anything else, an end of input too, is a no."""
    print(question, end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0
    if not TTL_S[0] <= seconds <= TTL_S[1]:
        raise UsageError(f"--ttl: a time from 10s to 24h, such as 10m; not {_printable(text)[:32]}")
    return float(seconds)


@_in_words
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
    _check_each("--listen", listen, listen_address)
    secret = KNOCK if code is None else read_secret(code)
    path = home_path(home, os.environ)
    from node.drivers.newcomer import Newcomer, Wishes  # noqa: PLC0415 - loads what only this command needs

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
            _tell(json_text.dumps({"event": "failed", **told}))
        raise
    bootstrap = () if newcomer.is_new else (joined.address,)
    if json:
        told = {"swarm": joined.swarm.manifest.name, "swarm_id": joined.swarm.id.hex(), "home": str(path)}
        _tell(json_text.dumps({"event": "joined", **told, "peer_id": newcomer.identity.peer_id}))
    _say(f'{newcomer.name} belongs to the swarm "{joined.swarm.manifest.name}" now; its home is {path}')
    opened = open_home(path)
    if not start:
        more = "".join(f" --bootstrap {address}" for address in bootstrap)
        _say(f"next: gossamer up{_option(home)}{more}")
        return 0
    return _run(opened, bootstrap, nearby=None, detach=detach, background=False)


class _Follower:
    """Says how a join goes on, to a person or a program."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def looks(self, text: str) -> None:
        if self._json:
            _tell(json_text.dumps({"event": "looking", "for": text}))
        else:
            _say(_printable(f"looking for {text} ..."))

    def agreed(self, who: str, word: str) -> None:
        if self._json:
            _tell(json_text.dumps({"event": "agreed", "peer_id": who, "word": word}))
        else:
            _say(_printable(f"check word: {word}; waiting for them to allow it ({who})"))


@_in_words
def down(*, home: HomeOption = None) -> None:
    """Stop the node, and wait until it is gone."""
    opened = open_home(home_path(home, os.environ))
    pid = running(opened).pid
    call(opened, "POST", "/down")
    if not _gone(pid):
        raise CommandFailed(f"{opened.path}: process {pid} is still there after {DOWN_S:.0f} s")
    _say("stopped")


@_in_words
def status(*, home: HomeOption = None, json: JsonOption = False) -> None:
    """What the node is doing, and what it waits for."""
    told = call(open_home(home_path(home, os.environ)), "GET", "/status")
    if json:
        _tell(json_text.dumps(told, indent=2))
    else:
        for line in _status_lines(told):
            _tell(_printable(line))


@_in_words
def peers(*, home: HomeOption = None, json: JsonOption = False) -> None:
    """The other devices of the swarm that are believed to be up."""
    told = call(open_home(home_path(home, os.environ)), "GET", "/peers")
    if json:
        _tell(json_text.dumps(told, indent=2))
        return
    if not told["peers"]:
        _say("no other device is here")
    for knock in told.get("knocks", ()):
        _tell(
            _printable(
                f"{knock['peer_id']}  knocks     {knock['name']}, check word: {knock['word']}; answer with: "
                f"gossamer peers allow {knock['peer_id'][-6:]}, or refuse"
            )
        )
    for peer in told["peers"]:
        where = peer["address"] or "known through others"
        struck = "" if peer["struck_since"] is None else f"  struck since round {peer['struck_since']}"
        _tell(
            _printable(f"{peer['peer_id']}  {peer['state']:<9}  {peer['route'] or '-':<6}  {where}{struck}")
        )


@_in_words
def block(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Never connect this device to another, nor sum with it. For this device alone."""
    told = _wish(home, "block", peer)
    _say(f"{told['peer_id']} is blocked on this device; undo it with: gossamer peers allow {told['peer_id']}")


@_in_words
def allow(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Let in a device that knocks, or undo a block."""
    told = _wish(home, "allow", peer)
    _say(f"{told['peer_id']} {'is let in' if told['knocked'] else 'is not blocked on this device'}")


@_in_words
def refuse(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Send a device away that knocks."""
    told = _wish(home, "refuse", peer)
    _say(f"{told['peer_id']} was refused; to hear no more of it: gossamer peers block {told['peer_id']}")


@_in_words
def remove(
    peer: AnyPeerArgument,
    /,
    *,
    strike_since: StrikeOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Take another device's admission back, for the whole swarm: for its founder, and for who invited it.

    With --strike-since, what it has given from that round on is taken out of everybody's model as well. That is for the
    founder, or for three of those whom the founder has invited as inviters; in any swarm.
    """
    told = _wish(home, "remove", peer, strike_since)
    if json:
        _tell(json_text.dumps(told, indent=2))
        return
    if strike_since is not None:
        for line in _strike_lines(told):
            _say(line)
        return
    _say(
        f"{told['peer_id']} no longer belongs to the swarm, nor do those that it invited; each device lets go of it "
        "as it hears of that. What it contributed stays in the model"
    )


def _strike_lines(told: Mapping[str, Any]) -> Iterable[str]:
    who, struck = told["peer_id"], told["strike"]
    if struck["since"] is None:
        yield (
            f"{who}: this device's strike is kept and told to all. It takes {struck['needed']} of the founder's inviters, and "
            f"{struck['signed']} have signed: until then every sum counts; see: gossamer status"
        )
    else:
        yield (
            f"{_sums(struck['sums'])} to which {who} has given since round {struck['since']} {_do(struck['sums'])} count any more, "
            "here; every other device folds its model again without them as it hears of that, and nobody sums with it any more"
        )
    if told["revoked"]:
        yield f"{who} no longer belongs to the swarm, nor do those that it invited"
    else:
        yield f"{who} may still connect: its admission is not taken back, as {told['not_revoked']}"


def _sums(count: int) -> str:
    return "1 sum" if count == 1 else f"{count} sums"


def _do(count: int) -> str:
    return "does not" if count == 1 else "do not"


def _wish(home: Path | None, wish: str, peer: str, strike_since: int | None = None) -> dict[str, Any]:
    _check_peer(peer)
    asked: dict[str, Any] = {"peer": peer, "wish": wish}
    if strike_since is not None:
        asked["strike_since"] = strike_since
    told: dict[str, Any] = call(
        open_home(home_path(home, os.environ)), "POST", "/peers", json=asked, timeout_s=WISH_S
    )
    return told


@_in_words
def leave(*, home: HomeOption = None, yes: YesOption = False) -> None:
    """Take this device out of its swarm: its node stops, and what it knows of the swarm is deleted. Key and settings stay."""
    from node.drivers.joining import forget_swarm, kept_manifest  # noqa: PLC0415 - loads what only a few commands need

    opened = open_home(home_path(home, os.environ))
    swarm = kept_manifest(opened)
    if swarm is None:
        raise CommandFailed(f"{opened.path}: this device belongs to no swarm")
    name = swarm.manifest.name
    if not yes:
        _say(
            f'This deletes the model, the history and the membership of the swarm "{name}" from {opened.path}. '
            "What this device contributed stays in the others' model."
        )
        if not _confirmed(f'Leave "{name}"? [y/N] '):
            raise CommandFailed("nothing was changed")
    with contextlib.suppress(NotRunning):
        pid = running(opened).pid
        call(opened, "POST", "/down")
        if not _gone(pid):
            raise CommandFailed(f"{opened.path}: process {pid} is still there after {DOWN_S:.0f} s")
    with hold(opened):
        forget_swarm(opened)
    _say(f'this device has left "{name}"; to join a swarm: gossamer up{_option(home)} --bootstrap ADDRESS')


def _confirmed(question: str) -> bool:
    """Whether a person says yes; where nobody can be asked, nobody does."""
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _check_peer(peer: str) -> None:
    if not PEER_CHARACTERS_MIN <= len(peer) <= PEER_CHARACTERS_MAX:
        raise UsageError(
            f"{_printable(peer)}: a peer id, or how it ends: {PEER_CHARACTERS_MIN} characters or more"
        )


@_in_words
def ping(
    peer: PeerArgument, /, *, home: HomeOption = None, count: CountOption = 5, json: JsonOption = False
) -> None:
    """How far away a neighbour is: round trips, and the route to it."""
    _check_peer(peer)
    asked = {"peer": peer, "count": count}
    told = call(open_home(home_path(home, os.environ)), "POST", "/ping", json=asked, timeout_s=PING_S)
    if json:
        _tell(json_text.dumps(told, indent=2))
        return
    _tell(
        f"{told['peer_id']}  {told['min_ms']:.1f} ms at best, {told['median_ms']:.1f} ms median of {told['count']}  "
        f"{told['route']}  {told['address']}"
    )


@_in_words
def nearby(*, seconds: SecondsOption = 5.0, json: JsonOption = False) -> None:
    """The swarms and devices on this device's networks. Needs no home and no node."""
    from node.drivers.interfaces import usable_interfaces  # noqa: PLC0415 - loads what only a few commands need
    from node.drivers.mdns import look_around  # noqa: PLC0415

    interfaces = usable_interfaces()
    names = ", ".join(f"{each.name} {each.networks[0].ip}" for each in interfaces)
    found = look_around(interfaces, seconds) if interfaces else {}
    devices = [each.told(interfaces) for each in sorted(found.values(), key=lambda each: each.order)]
    if json:
        _tell(
            json_text.dumps({"interfaces": [each.name for each in interfaces], "devices": devices}, indent=2)
        )
    for device in [] if json else devices:
        where = " ".join(device["addresses"]) or "at no address on a network of this device"
        _tell(
            f'"{device["swarm"]}"  {device["swarm_id"]}  {device["device"]}  admits {device["admits"]}  {where}'
        )
    if devices:
        _say('join one of them: gossamer up --nearby "NAME", with a home that belongs to no swarm yet')
    elif not interfaces:
        _say("no interface is up behind which other devices can be; next: gossamer doctor")
    else:
        _say(
            f"nothing was found within {seconds:g} s on {names}. Either no device is up there that listens on this "
            "network (gossamer init --listen), or its network.nearby is false, or the network carries no multicast, "
            "as guest Wi-Fis do; next: gossamer doctor"
        )


@_in_words
def doctor(*, home: HomeOption = None, json: JsonOption = False) -> int:
    """What is wrong with this device, its network or its neighbours, and what to do about it."""
    from node.drivers.checkup import examine  # noqa: PLC0415 - loads what only this command needs

    findings = examine(home_path(home, os.environ))
    ok = all(finding.ok for finding in findings)
    if json:
        told = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
        _tell(json_text.dumps(told, indent=2))
    for finding in [] if json else findings:
        _tell(_printable(finding.line))
    return 0 if ok else 1


@_in_words
def check(file: FileArgument = None, /, *, home: HomeOption = None) -> None:
    """Whether the settings can be used; if not, why."""
    path = file if file is not None else open_home(home_path(home, os.environ)).config
    load_config(path)
    _tell(f"{path}: ok")


def _announce(addresses: Iterable[str], *, invites: bool) -> None:
    for address in addresses:
        _tell(address)
        if not invites:
            _say(f"others join with: gossamer up --bootstrap {address}")
    if invites:
        _say("to let another device join: gossamer invite")


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
        reason = "\n".join(_printable(line).removeprefix("gossamer: ") for line in said)
        raise CommandFailed(reason or f"the node is not up; see {home.log}", process.poll() or 1)
    invites = (told["swarm"] or {}).get("admit") in {"invite", "ask"}
    _announce(told["addresses"], invites=invites)
    _say(f"{told['name']} runs in the background: it {told['doing']} and waits for {told['waits_for']}")


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
            taken = f"{_sums(struck['sums'])} {_do(struck['sums'])} count"
            yield f"{struck['peer_id']} is struck since round {struck['since']}: {taken}"
    if told["sums_taken_back"]:
        yield f"{_sums(told['sums_taken_back'])} taken back in all"
    traffic, memory = told["traffic"], told["pss_mb"]
    yield (
        f"{traffic['sent'] / 1e6:.2f} MB sent, {traffic['received'] / 1e6:.2f} MB received; memory of the node "
        f"{_megabytes(memory['daemon'])}, of its trainer {_megabytes(memory['trainer'])}"
    )
    yield from told["addresses"]


def _megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MB"


def _check_each(option: str, addresses: Iterable[str], parse: Callable[[str], object]) -> None:
    for address in addresses:
        try:
            parse(address)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error


def _option(home: Path | None) -> str:
    return "" if home is None else f" --home {shlex.quote(str(home))}"


def _printable(line: str) -> str:
    """A line that may hold what a library or a peer said: no escape sequence reaches the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _tell(line: str) -> None:
    """Data, for a reader or another program."""
    print(line, flush=True)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
