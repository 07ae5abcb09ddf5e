"""`gossamer invite`: a code, and who comes with it."""

import contextlib
import json as json_text
import os
import sys
from collections.abc import Mapping
from typing import Any

from gossip.errors import GossamerError
from node.cli.options import HomeOption, JsonOption, LetInOption, QrOption, TtlOption, UsesOption
from node.cli.output import answered, in_words, printable, say_line, seconds_in, tell_line
from node.control_client import Refused, call
from node.home import Home, home_path, open_home

LOOK_S = 0.5
WATCH_S = 20.0  # for the node to tell what is new of an invitation
WISH_S = 15.0


@in_words
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
    asked = {"ttl_s": seconds_in(ttl), "uses": uses}
    opened = open_home(home_path(home, os.environ))
    made = call(opened, "POST", "/invite", json=asked)
    if json:
        tell_line(json_text.dumps({"event": "invitation", **made}))
    else:
        _show_invitation(made, ttl, uses, qr=qr)
    if yes:
        say_line("WARNING: whoever knows the code or the link is let in without a question")
    try:
        return _wait_for_guests(opened, made, yes=yes, json=json)
    finally:
        with contextlib.suppress(GossamerError):
            call(opened, "POST", "/invite/withdraw", json={"number": made["number"]})


def _show_invitation(made: Mapping[str, Any], ttl: str, uses: int, *, qr: bool) -> None:
    tell_line(made["code"])
    tell_line(made["link"])
    if qr:
        import segno  # noqa: PLC0415 - only here

        segno.make(made["link"], error="l").terminal(sys.stdout, border=2, compact=True)
    how_many = "one device" if uses == 1 else f"{uses} devices"
    say_line(
        f'Lets {how_many} into the swarm "{made["swarm"]}" for {ttl}. On the other one, on this network:'
    )
    say_line(f"    gossamer join {made['code']}")
    say_line(
        f"or from anywhere that reaches this device: gossamer join '{made['link'][:24]}...' (the whole line above)"
    )
    hosts = {address.split("/")[2] for address in made["addresses"]}
    if hosts <= {"127.0.0.1", "::1"}:
        say_line(
            "WARNING: this node listens on this machine alone, and no other device reaches it; set network.listen, for example to "
            '["/ip4/0.0.0.0/tcp/0"], and start it again'
        )
    say_line("Waiting. Ctrl-C withdraws the invitation.")


def _wait_for_guests(home: Home, made: Mapping[str, Any], *, yes: bool, json: bool) -> int:
    """Until the invitation ends; 0 if somebody has joined by it."""
    after, joined = made["after"], 0
    while True:
        asked = {"number": made["number"], "after": after}
        told = call(home, "POST", "/invite/watch", json=asked, timeout_s=WATCH_S)
        after = told["after"]
        for news in told["news"]:
            if json:
                tell_line(json_text.dumps({"event": news["what"], **news}))
            else:
                say_line(printable(_news_line(news)))
            what = news["what"]
            joined += what == "joined"
            if what == "asks":
                allow = yes or answered("Allow? [y/N] ")
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
