"""The command line: which commands there are, and what a process says and returns when one of them fails.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not running, 4 bad config, 5 already running, 130 interrupted. An error that knows its
code carries it (`exit_code`). Data goes to stdout, all else to stderr; no user's error shows a traceback.

Commands are imported when they are called, because libp2p, torch and the like take seconds to load. Other rooms add theirs
through the entry-point group `gossamer.commands`.
"""

import gc
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter

FAILED, USAGE, INTERRUPTED = 1, 2, 130
GROUP = "gossamer.commands"
# An entry point carries no help, and importing its room for a line would cost a second.
GUEST_HELP = {
    "swarm": "Run a whole swarm on this machine, one real daemon a device.",
    "simulate": "Run a scenario's swarm in virtual time, in this process.",
}


def build_app() -> App:
    app = App(
        name="gossamer",
        help="Devices train one model together, peer to peer, and nobody sees what one of them learned.",
        version=lambda: version("gossamer"),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command("node.cli.device:init", help="Make this device a home: its key and its settings.")
    app.command("node.cli.device:up", help="Start the device's node.")
    app.command(
        "node.cli.invite:invite",
        help="Let another device join: a code to read out, a link, a picture for a camera.",
    )
    app.command("node.cli.device:join", help="Join a swarm by a code or a link, or ask to be let in.")
    app.command("node.cli.device:down", help="Stop the node, and wait until it is gone.")
    app.command("node.cli.device:status", help="What the node is doing, and what it waits for.")
    app.command(_peers())
    app.command("node.cli.device:leave", help="Take this device out of its swarm.")
    app.command("node.cli.device:ping", help="How far away a neighbour is, and by which route.")
    app.command("node.cli.device:nearby", help="The swarms and devices on this device's networks.")
    app.command("node.cli.device:doctor", help="What is wrong, and what to do about it.")
    config = App(name="config", help="The device's settings.")
    config.command("node.cli.device:check", help="Whether the settings can be used; if not, why.")
    app.command(config)
    for command in entry_points(group=GROUP):
        app.command(command.value, name=command.name, help=GUEST_HELP.get(command.name))
    return app


def _peers() -> App:
    peers = App(
        name="peers", help="The other devices of the swarm, and which of them to have nothing to do with."
    )

    # A default command cannot be named in words and imported later, as the others are.
    @peers.default
    def listed(
        *,
        home: Annotated[Path | None, Parameter(help="The device's home.")] = None,
        json: Annotated[bool, Parameter(help="Print JSON.", negative="")] = False,
    ) -> int:
        """The other devices of the swarm that are believed to be up."""
        from node.cli.peers import peers as command  # noqa: PLC0415 - it loads what it needs

        return command(home=home, json=json)

    peers.command("node.cli.peers:block", help="Never connect this device to another.")
    peers.command("node.cli.peers:allow", help="Let in a device that knocks, or undo a block.")
    peers.command("node.cli.peers:refuse", help="Send a device away that knocks.")
    peers.command("node.cli.peers:remove", help="Take another device's admission back, for the whole swarm.")
    return peers


def main() -> NoReturn:
    try:
        code = build_app()(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _say(f"{error} See: gossamer --help")
        sys.exit(USAGE)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        sys.exit(FAILED)
    gc.freeze()  # the process ends: a last look for cycles would go through all that a simulation leaves
    sys.exit(code or 0)


def _say(line: str) -> None:
    print(f"gossamer: {line}", file=sys.stderr)  # noqa: T201
