"""How commands talk to a person: lines, questions, and errors with the next command."""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, ParamSpec

from gossip.errors import GossamerError
from node.control_client import PEER_CHARACTERS_MAX, PEER_CHARACTERS_MIN
from node.join.codes import TTL_S

INTERRUPTED = 130
P = ParamSpec("P")


class UsageError(GossamerError):
    """An option asks for what there is not. Exit code 2."""

    exit_code: ClassVar[int] = 2


class CommandFailed(GossamerError):
    """What was asked for did not happen: read why, and more in daemon.log."""

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def in_words(command: Callable[P, int | None]) -> Callable[P, int]:
    """An error becomes one line and its exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs) or 0
        except GossamerError as error:
            say_line(f"gossamer: {error}")
            return int(getattr(error, "exit_code", 1))

    return run


def answered(question: str) -> bool:
    """A person's yes; anything else, an end of input too, is a no."""
    print(question, end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}


def seconds_in(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0
    if not TTL_S[0] <= seconds <= TTL_S[1]:
        raise UsageError(f"--ttl: a time from 10s to 24h, such as 10m; not {printable(text)[:32]}")
    return float(seconds)


def confirmed(question: str) -> bool:
    """Whether a person says yes; where nobody can be asked, nobody does."""
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def check_peer(peer: str) -> None:
    if not PEER_CHARACTERS_MIN <= len(peer) <= PEER_CHARACTERS_MAX:
        raise UsageError(
            f"{printable(peer)}: a peer id, or how it ends: {PEER_CHARACTERS_MIN} characters or more"
        )


def megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MB"


def check_each(option: str, addresses: Iterable[str], parse: Callable[[str], object]) -> None:
    for address in addresses:
        try:
            parse(address)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error


def home_option(home: Path | None) -> str:
    return "" if home is None else f" --home {shlex.quote(str(home))}"


def printable(line: str) -> str:
    """A line that may hold what a library or a peer said: no escape sequence reaches the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def tell_line(line: str) -> None:
    """Data, for a reader or another program."""
    print(line, flush=True)  # noqa: T201


def say_line(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
