"""`gossamer peers`: who is there, and who shall not be."""

import json as json_text
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from node.cli.invite import WISH_S
from node.cli.options import AnyPeerArgument, HomeOption, JsonOption, StrikeOption
from node.cli.output import check_peer, in_words, printable, say_line, tell_line
from node.control_client import call
from node.home import home_path, open_home


@in_words
def peers(*, home: HomeOption = None, json: JsonOption = False) -> None:
    """The other devices of the swarm that are believed to be up."""
    told = call(open_home(home_path(home, os.environ)), "GET", "/peers")
    if json:
        tell_line(json_text.dumps(told, indent=2))
        return
    if not told["peers"]:
        say_line("no other device is here")
    for knock in told.get("knocks", ()):
        tell_line(
            printable(
                f"{knock['peer_id']}  knocks     {knock['name']}, check word: {knock['word']}; answer with: "
                f"gossamer peers allow {knock['peer_id'][-6:]}, or refuse"
            )
        )
    for peer in told["peers"]:
        where = peer["address"] or "known through others"
        struck = "" if peer["struck_since"] is None else f"  struck since round {peer['struck_since']}"
        tell_line(
            printable(f"{peer['peer_id']}  {peer['state']:<9}  {peer['route'] or '-':<6}  {where}{struck}")
        )


@in_words
def block(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Never connect this device to another, nor sum with it. For this device alone."""
    told = _wish(home, "block", peer)
    say_line(
        f"{told['peer_id']} is blocked on this device; undo it with: gossamer peers allow {told['peer_id']}"
    )


@in_words
def allow(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Let in a device that knocks, or undo a block."""
    told = _wish(home, "allow", peer)
    say_line(f"{told['peer_id']} {'is let in' if told['knocked'] else 'is not blocked on this device'}")


@in_words
def refuse(peer: AnyPeerArgument, /, *, home: HomeOption = None) -> None:
    """Send a device away that knocks."""
    told = _wish(home, "refuse", peer)
    say_line(f"{told['peer_id']} was refused; to hear no more of it: gossamer peers block {told['peer_id']}")


@in_words
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
        tell_line(json_text.dumps(told, indent=2))
        return
    if strike_since is not None:
        for line in _strike_lines(told):
            say_line(line)
        return
    say_line(
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
            f"{sums_in_words(struck['sums'])} to which {who} has given since round {struck['since']} {do_or_does(struck['sums'])} count any more, "
            "here; every other device folds its model again without them as it hears of that, and nobody sums with it any more"
        )
    if told["revoked"]:
        yield f"{who} no longer belongs to the swarm, nor do those that it invited"
    else:
        yield f"{who} may still connect: its admission is not taken back, as {told['not_revoked']}"


def sums_in_words(count: int) -> str:
    return "1 sum" if count == 1 else f"{count} sums"


def do_or_does(count: int) -> str:
    return "does not" if count == 1 else "do not"


def _wish(home: Path | None, wish: str, peer: str, strike_since: int | None = None) -> dict[str, Any]:
    check_peer(peer)
    asked: dict[str, Any] = {"peer": peer, "wish": wish}
    if strike_since is not None:
        asked["strike_since"] = strike_since
    told: dict[str, Any] = call(
        open_home(home_path(home, os.environ)), "POST", "/peers", json=asked, timeout_s=WISH_S
    )
    return told
