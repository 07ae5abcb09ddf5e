"""Codes and links: what a person reads out, types or shows to a camera, so that a device can join.

A code is an invitation's number and two words of `node.join.words`, `4170-maple-otter`: 18 bits, for one guess (`node.join.inviter` says
why that is enough). A link holds the number, the inviter's peer id and addresses, and a secret of 128 bits, in the characters that
are safe in a URL:

    gossamer:join?v=1&n=4170&s=SECRET&p=PEER_ID&a=/ip4/192.168.1.5/tcp/4001&a=...

What is typed is the user's, and may have been a stranger's: nothing of it is repeated unless it is a plain word.
"""

import difflib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias
from urllib.parse import quote, unquote

from crypto.identity import public_key_of
from gossip.errors import GossamerError
from node.config.addresses import bootstrap_peer
from node.join.words import WORDS

VERSION = 1  # of the conversation, and of links
NUMBERS = (1000, 9999)
CODE_WORDS = 2
TTL_S = (10.0, 86_400.0)  # shortest and longest life of an invitation
SECRET_BYTES = 16
LINK_SCHEME = "gossamer:join?"
LINK_CHARACTERS_MAX = 1024
LINK_ADDRESSES_MAX = 4

Way: TypeAlias = Literal["code", "link", "knock"]


class CodeError(GossamerError):
    """What was typed is no code and no link: read it again. Exit code 2."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Secret:
    """What a joiner was told: which invitation, and the password of the PAKE. `addresses`: of a link, with /p2p/."""

    way: Way
    number: int
    password: bytes
    addresses: tuple[str, ...] = ()


KNOCK = Secret("knock", 0, b"")


def code_text(number: int, words: Sequence[str]) -> str:
    return "-".join((str(number), *words))


def link_text(number: int, secret: bytes, addresses: Iterable[str]) -> str:
    """`addresses` end in /p2p/ and the same peer id, which stands once in the link. The first few that fit."""
    head, peer = "", ""
    for address in list(addresses)[:LINK_ADDRESSES_MAX]:
        place, _, peer = address.rpartition("/p2p/")
        more = f"{head}&a={quote(place)}"
        head = more if len(more) < LINK_CHARACTERS_MAX - 128 else head
    shown = urlsafe_b64encode(secret).decode().rstrip("=")
    return f"{LINK_SCHEME}v={VERSION}&n={number}&s={shown}&p={peer}{head}"


def read_secret(text: str) -> Secret:
    """A code, however it is spaced and spelt in capitals or not, or a link. CodeError."""
    text = text.strip()
    if text[:9].casefold() == "gossamer:":
        return _read_link(text)
    if len(text) > LINK_CHARACTERS_MAX:
        raise CodeError("this is no code: a code is a number and two words, like 4170-maple-otter")
    number, *words = [part for part in re.split(r"[\s\-_.,]+", text.casefold()) if part] or [""]
    if not re.fullmatch(r"[0-9]{4}", number) or len(words) != CODE_WORDS:
        raise CodeError("this is no code: a code is a number and two words, like 4170-maple-otter")
    for word in words:
        if word not in WORDS:
            like = difflib.get_close_matches(word[:64], WORDS, 1)
            hint = f'; did they say "{like[0]}"?' if like else ""
            shown = word if word.isascii() and word.isalpha() and len(word) <= 16 else "one of them"
            raise CodeError(f"{shown}: no word of a code{hint} Nothing was sent yet: read the code again")
    return Secret("code", int(number), "-".join(words).encode())


def _read_link(text: str) -> Secret:
    if len(text) > LINK_CHARACTERS_MAX or not text.isascii():
        raise CodeError(f"this link is longer than {LINK_CHARACTERS_MAX} characters, or not of plain letters")
    if not text.startswith(LINK_SCHEME):
        raise CodeError(f"this is no link to join with: those begin with {LINK_SCHEME}")
    pairs = [tuple(part.split("=", 1)) for part in text.removeprefix(LINK_SCHEME).split("&") if "=" in part]
    fields = {key: unquote(value) for key, value in pairs}
    if fields.get("v") != str(VERSION):
        raise CodeError(
            "this link is of another release; install the same on both devices: gossamer --version"
        )
    try:
        secret = urlsafe_b64decode(fields["s"] + "==")
        number = int(fields["n"])
        peer = public_key_of(fields["p"])
        addresses = tuple(f"{unquote(value)}/p2p/{fields['p']}" for key, value in pairs if key == "a")
        fits = len(secret) == SECRET_BYTES and NUMBERS[0] <= number <= NUMBERS[1]
        if not fits or not 1 <= len(addresses) <= LINK_ADDRESSES_MAX:
            raise ValueError("a field is out of its bounds")
        if any(bootstrap_peer(address) != peer for address in addresses):
            raise ValueError("an address names another device")
    except (KeyError, ValueError) as error:
        raise CodeError("this link is cut off or was changed: copy the whole line again") from error
    return Secret("link", number, secret, addresses)
