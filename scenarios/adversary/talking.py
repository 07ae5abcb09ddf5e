"""Bad talkers: what they say is signed and sometimes even true, and meant to stop, split or end others."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from gossip.cohort.messages import Ready, Roster
from gossip.cohort.roster import ready_frames
from gossip.errors import PeerViolation
from gossip.events import Action, Event, Received, Send
from gossip.frames import Frame, Kind, channel_frame, open_frame
from gossip.history.dag import History
from gossip.membership.messages import Denied
from gossip.membership.statements import Why
from gossip.secure_sum.messages import BodyProposal, KeysSet, SealProposal
from gossip.wire import pack
from scenarios.adversary.behaviour import Behaviour, chance
from scenarios.adversary.silent import kind_of

REPLAYED_MAX = 256
REPLAYED_AT_ONCE = 32
LEADERS = 3
FAR_FUTURE_S = (1 << 39) + 7
GARBAGE = (b"", b"\x90", b"\xc1" * 64, b"\x96\x01\x08" + bytes(61), b"\xdd\xff\xff\xff\xff", b"\x9f" * 512)
BOMB_BYTES = 8 << 20


class Replay(Behaviour):
    summary = "hands old READYs of others, which every roster carries, to leaders again and again"
    every_s = 0.5

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._old: OrderedDict[bytes, None] = OrderedDict()

    def hear(self, event: Event, now: float) -> Iterable[Event]:
        if isinstance(event, Received) and len(event.data) > 2 and kind_of(event.data) is Kind.ROSTER:
            try:
                roster = open_frame(self.core.swarm.id, event.data, event.peer).body
                frames = ready_frames(self.core.swarm, roster) if isinstance(roster, Roster) else ()
            except PeerViolation:
                frames = ()
            self._old.update(dict.fromkeys(frames))
            while len(self._old) > REPLAYED_MAX:
                self._old.popitem(last=False)
        return super().hear(event, now)

    def wake(self, now: float) -> Iterable[Action]:
        """The oldest one first, each in its turn."""
        leaders = [peer for peer in self.core.leaders if peer != self.core.me][:LEADERS]
        chosen = list(self._old)[:REPLAYED_AT_ONCE]
        for frame in chosen:
            self._old.move_to_end(frame)
        return self.core.carry_out((Send(peer, frame) for peer in leaders for frame in chosen), now)


class OldRound(Behaviour):
    summary = "as leader puts members who are ready for the next round into a cohort of the first"

    @contextmanager
    def forming(self) -> Iterator[None]:
        known, self.core.history = (
            self.core.history,
            History(self.core.swarm.manifest, self.core.swarm.id),
        )
        try:
            yield
        finally:
            self.core.history = known


class Disjoint(Behaviour):
    summary = "says READY with the bit of one segment alone, each device of the league with another"

    def say(self, send: Send) -> Iterable[Send]:
        if kind_of(send.data) is not Kind.READY:
            return (send,)
        ready = open_frame(self.core.swarm.id, send.data).body
        if not isinstance(ready, Ready):
            return (send,)
        mine = sorted(self.league.identities).index(self.core.me)
        bit = 1 << mine % self.core.layout.segments
        return (Send(send.peer, self.core.frame(msgspec.structs.replace(ready, trained=bit))),)


class CrashFrames(Behaviour):
    summary = "sends its neighbours a date beyond all calendars (DENIED), and bytes that are no message"
    every_s = 1.0

    def wake(self, now: float) -> Iterable[Action]:
        denied = channel_frame(Denied(int(Why.EXPIRED), FAR_FUTURE_S))
        garbage = chance(self.league.seed, self.core.me, round(now)).bytes(64)
        return [Send(peer, data) for peer in self.core.neighbours for data in (denied, *GARBAGE[1:], garbage)]


class Bombs(Behaviour):
    summary = "sends its neighbours, one after the other, 8 MiB that decode to 70 times as much"
    every_s = 5.0

    def wake(self, now: float) -> Iterable[Action]:
        neighbours = self.core.neighbours
        if not neighbours:
            return ()
        body = b"\xdd" + (BOMB_BYTES - 1024).to_bytes(4, "big") + b"\x90" * (BOMB_BYTES - 1024)
        frame = pack(Frame(1, Kind.ALIVE, b"", b"", body, b""))
        return (Send(neighbours[int(now / self.every_s) % len(neighbours)], frame),)


class Equivocate(Behaviour):
    summary = "as aggregator tells every second member another KEYS_SET, SEAL_PROPOSAL or BODY_PROPOSAL"

    def say(self, send: Send) -> Iterable[Send]:
        """The other one is as well formed as it can be: its last word is another."""
        running = self.core.running
        if (
            kind_of(send.data) not in {Kind.KEYS_SET, Kind.SEAL_PROPOSAL, Kind.BODY_PROPOSAL}
            or running is None
        ):
            return (send,)
        members = running.member.cohort.members
        if send.peer not in members or members.index(send.peer) % 2:
            return (send,)
        message = open_frame(self.core.swarm.id, send.data)
        other = _another(message.body)
        return (Send(send.peer, self.core.frame(other, message.cohort)),)


def _another(body: object) -> KeysSet | SealProposal | BodyProposal:
    match body:
        case KeysSet() if body.committed:
            boxes = (*body.envelopes[:-1], bytes(len(body.envelopes[-1])))
            return msgspec.structs.replace(body, envelopes=boxes)
        case SealProposal():
            return msgspec.structs.replace(body, vectors=(*body.vectors[:-1], bytes(len(body.vectors[-1]))))
        case BodyProposal():
            return msgspec.structs.replace(body, ranges=(*body.ranges[:-1], body.ranges[-1] + 1))
    assert isinstance(body, KeysSet)
    return body
