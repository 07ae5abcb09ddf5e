"""A running daemon's invitations: strangers' streams and the owner's wishes meet in one `node.join.inviter.Inviter`.

A stranger's stream is served for as long as its conversation lasts; what it says goes to the machine, what the machine says goes out, and
between the two nothing is decided. The owner asks over the control API: who shows an invitation watches it by asking again and
again, and one that nobody watches any more ends by itself.
"""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from crypto.identity import peer_id
from gossip.errors import PeerViolation
from gossip.manifest import Swarm
from node.errors import Unanswered
from node.join.conversation import (
    Answered,
    Certified,
    Certify,
    Closed,
    End,
    Event,
    Heard,
    Opened,
    Passed,
    Say,
    Tell,
    Watched,
    Withdrawn,
)
from node.join.inviter import Inviter, TooManyInvitations
from node.net.libp2p.terms import Unreachable
from node.ports import Entropy

if TYPE_CHECKING:
    from node.net.libp2p.visits import Talk  # takes seconds to import: see node.daemon.lifecycle

TICK_S = 1.0
SIGN_S = 10.0  # between two signs of life to somebody who waits
SILENCE_S = 900.0  # of a joiner; the machine's own deadlines are shorter
WATCH_S = 4.0  # that the owner's question waits for news
TOLD_MAX = 256  # pieces of news kept
NOT_THERE = "this device waits no longer: it left, or was answered already; see: gossamer peers"

Issue = Callable[[bytes], Awaitable[tuple[tuple[bytes, ...], str]]]


class CannotInvite(Unanswered):
    """This swarm knows no invitations: the line says how devices join it."""


@dataclass
class _Line:
    """What waits to be said to one stranger. The protocol bounds it: a handful of messages."""

    waiting: deque[bytes] = field(default_factory=deque)
    over: bool = False
    wake: trio.Event = field(default_factory=trio.Event)


class Inviting:
    def __init__(
        self,
        *,
        me: bytes,
        swarm: Swarm,
        addresses: Callable[[], Sequence[str]],
        issue: Issue,
        entropy: Entropy,
        log: BoundLogger,
    ) -> None:
        """`issue`: a device's chain of certificates, durable, or nothing and why not."""
        self._swarm = swarm
        self._addresses = addresses
        self._issue = issue
        self._log = log
        self._inviter = Inviter(
            me=me,
            swarm=swarm.id,
            manifest=swarm.signed,
            knocks=swarm.manifest.admit == "ask",
            entropy=entropy,
        )
        self._lines: dict[int, _Line] = {}  # as many as connections have streams
        self._count = 0
        self._told: deque[tuple[int, Tell]] = deque(maxlen=TOLD_MAX)  # numbered
        self._news = 0
        self._news_came = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                await trio.sleep(TICK_S)
                if self._inviter.busy:
                    self._tell(Passed())

    # --- strangers ----------------------------------------------------------------------------------------------

    async def serve(self, talk: "Talk") -> None:
        """One stranger's conversation, to its end."""
        self._count += 1
        number = self._count
        line = self._lines[number] = _Line()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, number, talk, nursery.cancel_scope)
                self._tell(Opened(number, talk.peer, talk.host))
                with contextlib.suppress(Unreachable):
                    await self._say(line, talk)
                nursery.cancel_scope.cancel()
        finally:
            del self._lines[number]
            self._tell(Closed(number))
        await talk.finish()

    async def _hear(self, number: int, talk: "Talk", scope: trio.CancelScope) -> None:
        try:
            while True:
                self._tell(Heard(number, await talk.hear(SILENCE_S)))
        except (Unreachable, PeerViolation):
            scope.cancel()

    async def _say(self, line: _Line, talk: "Talk") -> None:
        while True:
            while line.waiting:
                await talk.say(line.waiting.popleft())
            if line.over:
                return
            line.wake = trio.Event()
            with trio.move_on_after(SIGN_S) as waited:
                await line.wake.wait()
            if waited.cancelled_caught:
                await talk.sign()

    async def _certify(self, wish: Certify) -> None:
        statements, refusal = await self._issue(wish.peer)
        if refusal:
            self._log.warning("not_certified", peer=wish.peer.hex()[:16], reason=refusal)
        self._tell(Certified(wish.talk, statements, refusal))

    def _tell(self, event: Event) -> None:
        for action in self._inviter.handle(event, trio.current_time()):
            match action:
                case Say(talk, data):
                    if (line := self._lines.get(talk)) is not None:
                        line.waiting.append(data)
                        line.wake.set()
                case End(talk):
                    if (line := self._lines.get(talk)) is not None:
                        line.over = True
                        line.wake.set()
                case Certify():
                    assert self._nursery is not None
                    self._nursery.start_soon(self._certify, action)
                case Tell():
                    self._note(action)

    def _note(self, told: Tell) -> None:
        self._log.info(
            f"invitation_{told.what}" if told.number else f"knock_{told.what}",
            peer=told.peer.hex()[:16],
            device=told.name,
            why=told.why,
        )
        self._news += 1
        self._told.append((self._news, told))
        self._news_came.set()
        self._news_came = trio.Event()

    # --- the owner ----------------------------------------------------------------------------------------------

    def invite(self, ttl_s: float, uses: int) -> dict[str, object]:
        """Raises CannotInvite."""
        manifest = self._swarm.manifest
        if not manifest.certifies:
            how = (
                f'anybody joins it with: gossamer up --nearby "{manifest.name}", or --bootstrap {self._addresses()[0]}'
                if manifest.admit == "open"
                else "its founder has listed its members for good"
            )
            raise CannotInvite(f'the swarm "{manifest.name}" admits {manifest.admit}: {how}')
        try:
            made = self._inviter.invite(ttl_s, uses, trio.current_time())
        except TooManyInvitations as error:
            raise CannotInvite(str(error)) from error
        return {
            "number": made.number,
            "code": made.code,
            "link": made.link(self._addresses()),
            "addresses": list(self._addresses()),
            "swarm": manifest.name,
            "left_s": ttl_s,
            "uses": uses,
            "after": self._news,
        }

    async def watch(self, number: int, after: int) -> dict[str, object]:
        """News of an invitation since `after`, once there is some, or WATCH_S have passed."""
        self._tell(Watched(number))
        with trio.move_on_after(WATCH_S):
            while not self._since(number, after):
                await self._news_came.wait()
        return {"news": self._since(number, after), "after": self._news}

    def _since(self, number: int, after: int) -> list[dict[str, object]]:
        return [_shown(told) for count, told in self._told if count > after and told.number == number]

    def withdraw(self, number: int) -> dict[str, object]:
        self._tell(Withdrawn(number))
        return {"withdrawn": number}

    def answer(self, talk: int, allow: bool) -> dict[str, object]:
        """Raises Unanswered where nobody waits any more."""
        if talk not in {each.talk for each in self._inviter.waiting}:
            raise Unanswered(NOT_THERE)
        self._tell(Answered(talk, allow))
        return {"answered": talk}

    def knocks(self) -> list[dict[str, object]]:
        """Who asks to be let in without a code."""
        return [_shown(told) for told in self._inviter.waiting if told.number is None]

    def answer_knock(self, peer: str, *, allow: bool) -> str | None:
        """The device whose id ends so; None if no such device knocks. Raises Unanswered if several do."""
        knocks = [told for told in self._inviter.waiting if told.number is None]
        meant = {peer_id(told.peer): told.talk for told in knocks if peer_id(told.peer).endswith(peer)}
        if len(meant) > 1:
            raise Unanswered(f"several devices that knock have ids that end in {peer}; see: gossamer peers")
        for name, talk in meant.items():
            assert talk is not None
            self._tell(Answered(talk, allow))
            return name
        return None


def _shown(told: Tell) -> dict[str, object]:
    return {
        "what": told.what,
        "talk": told.talk,
        "peer_id": peer_id(told.peer) if told.peer else None,
        "name": told.name,
        "word": told.word,
        "why": told.why,
    }
