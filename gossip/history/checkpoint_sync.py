"""Catching up by checkpoint: who is far behind takes the fold of what it missed, instead of all that was folded.

    ALIVE of one who is BEHIND_ROUNDS ahead -> CHECKPOINT_REQUEST (which?) -> CHECKPOINT_OFFER (signed aggregate, size)
        -> CHECKPOINT_REQUEST (a part) -> CHECKPOINT_PART ... -> verified -> Adopted; what came since is pulled as ever

Every STATE_EVERY rounds a cohort signs the root of the model folded from its parents' ancestors (`gossip.history.checkpoint`). Whoever
brings such a checkpoint is trusted for nothing: the aggregate that it offers must be signed by its cohort, and the ids, x and v
must have the root that stands in it, or the sender is blamed and asked for no other one.

**What a league gains.** n_min devices can be a cohort, and sign any state. So a checkpoint is taken only

- from a majority: of all neighbours that have said where they are, more than half offer the same (in an open swarm two at
  least), and all who met for its aggregate have been admitted;
- if it contains all that this device's own history knows, so that nothing is forgotten for it;
- until a later cohort says otherwise: `Doubt` holds every later `state` against the fold from this one, and at the first that
  differs, whoever lied, the device gives the checkpoint up and folds everything from the first round by itself.

Whatever is missing of it for DOUBT_BEATS heartbeats, while other aggregates wait for it, was made up, and ends it as well.
A league that is a newcomer's majority and keeps everybody else from it shows it a world of its own, as it does without checkpoints.

An offer is the newest such aggregate that holds for whoever offers it: each computes the root anew from its own history, and a
`state` that is false is not handed on, whoever signed it. Neighbours that know the same offer the same.

Nothing here waits for long. While a checkpoint is on its way nothing else is pulled, for PART_S for each part; offers are
waited for WAIT_S, and all else goes on meanwhile; a neighbour that offers nothing, or fails, is passed over; once no neighbour is left to ask,
or that time is over, everything is pulled. What others can fill: one checkpoint under way, as large as this model's can be,
OFFERS_MAX offers, and as many names. Who offers keeps the last MADE_MAX that it made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gossip.codec.blocks import Integers, Layout
from gossip.errors import PeerViolation
from gossip.events import Report, Send
from gossip.frames import Message, channel_frame
from gossip.history import checkpoint
from gossip.history.aggregate import STATE_EVERY, Verified, check, members_of, parse, write
from gossip.history.checkpoint import Checkpoint
from gossip.history.dag import History, Waiting
from gossip.history.fold import Replica
from gossip.history.messages import PART_BYTES, CheckpointOffer, CheckpointPart, CheckpointRequest
from gossip.manifest import Manifest, Swarm
from gossip.wire import pack

BEHIND_ROUNDS = 4 * STATE_EVERY  # from which on a checkpoint is worth its bytes
WAIT_S = 25.0  # for offers; the neighbours say ALIVE within ten
AGAIN_S = 600.0  # after which all are asked again
PART_S = 5.0
OFFERS_NEEDED = 2  # of the same checkpoint at least, in an open swarm
OFFERS_MAX = 64  # neighbours that were asked, that offered, that are passed over
MADE_MAX = 2
DOUBT_BEATS = 6
TRIED_MAX = 4  # of the newest rounds with a state, for one that holds


@dataclass(frozen=True, slots=True)
class Adopted:
    """A checkpoint that holds: the history and the model go on from it."""

    history: History
    replica: Replica
    signed: Verified
    encoded: bytes  # the checkpoint
    giver: bytes


@dataclass(slots=True)
class Fetch:
    """The checkpoint under way."""

    giver: bytes
    signed: Verified
    size: int
    until: float
    data: bytearray = field(default_factory=bytearray)


class Doubt:
    """Whether a checkpoint that was adopted holds: what later cohorts signed as state is compared with what is folded from it."""

    def __init__(self, signed: Verified, manifest: Manifest) -> None:
        self._signed = signed
        self._manifest = manifest
        self._met = set(members_of(signed.body, manifest))  # asked, and never iterated
        self._beats = 0  # that something was wanted in vain

    def beat(self, wanted: Sequence[bytes]) -> bool:
        """At each heartbeat: whether others have waited too long for what the checkpoint names, and nobody has."""
        self._beats = self._beats + 1 if wanted else 0
        return self._beats >= DOUBT_BEATS

    def judge(self, known: Verified, state: bytes) -> bool | None:
        """True: it holds; False: it does not; None: this aggregate tells nothing.

        `state` is the root of this device's own fold of the aggregate's ancestors. Whoever signed the checkpoint alone does not
        confirm it, but may well refute it: folding everything is never wrong.
        """
        if not known.body.state or known.id == self._signed.id:
            return None
        if known.body.state != state:
            return False
        return True if any(peer not in self._met for peer in known.contributors) else None


Action: TypeAlias = Send | Report | Adopted


class CatchUp:
    def __init__(
        self,
        swarm: Swarm,
        layout: Layout,
        initial: Integers,
        take: Callable[[Sequence[bytes]], Checkpoint | Waiting],
        certified: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """`take` folds the ancestors of these valid aggregates. `certified` says whether a device was ever admitted."""
        self._swarm = swarm
        self._layout = layout
        self._initial = initial
        self._take = take
        self._certified = certified
        self._since: float | None = None  # this device knows that it is far behind
        self._asked: dict[bytes, None] = {}
        self._near: dict[
            bytes, None
        ] = {}  # neighbours that know little more than this device: they speak against
        self._offers: dict[bytes, tuple[Verified, int]] = {}  # by neighbour, with the size
        self._passed: dict[bytes, None] = {}  # neighbours that had none, or a false one, or were too slow
        self._fetch: Fetch | None = None
        self._made: dict[bytes, bytes] = {}  # by the signed aggregate's id, encoded
        self._refused_until = 0.0  # until then everything is pulled

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is coming, so that nothing else need be pulled."""
        return self._fetch is not None

    # --- who is behind ----------------------------------------------------------------------------------------

    def consider(self, peer: bytes, round_: int, history: History, now: float) -> list[Action] | None:
        """What to say to a neighbour whose history differs; None: compare and pull."""
        if self._fetch is not None and self._fetch.until <= now:
            self._pass_over(self._fetch.giver)
        if round_ - history.round < BEHIND_ROUNDS:
            _note(self._near, peer)
        else:
            self._near.pop(peer, None)
        if now < self._refused_until or (peer in self._near and not self.under_way):
            return None
        if self._since is None or now - self._since > AGAIN_S:
            self._since = now
            self._asked.clear()
            self._passed.clear()
        if self._fetch is None and now - self._since > WAIT_S:
            self._offers.clear()
            return None
        if peer in self._passed:
            return [] if self.under_way or any(each not in self._passed for each in self._asked) else None
        if self._fetch is not None:
            return []
        if peer in self._offers:
            return None  # until others offer the same, all else goes on: a few liars stop nobody
        _note(self._asked, peer)
        return [_send(peer, CheckpointRequest(b"", 0))]

    def agrees(self, peer: bytes) -> None:
        """This neighbour knows exactly what this device knows."""
        _note(self._near, peer)

    def refuse(self, now: float) -> None:
        """Take no checkpoint for a while: the last one was false, or lacked what this device knows."""
        self._refused_until = now + AGAIN_S
        self._fetch, self._since = None, None
        self._offers.clear()
        self._asked.clear()

    def gone(self, peer: bytes) -> None:
        self._asked.pop(peer, None)
        self._near.pop(peer, None)
        self._passed.pop(peer, None)
        self._offers.pop(peer, None)
        if self._fetch is not None and self._fetch.giver == peer:
            self._fetch = None

    def handle(self, message: Message, peer: bytes, history: History, now: float) -> list[Action]:
        match message.body:
            case CheckpointRequest(identity, part):
                return self._on_request(peer, identity, part, history)
            case CheckpointOffer() as offer:
                return self._judged(peer, lambda: self._on_offer(peer, offer, history, now))
            case CheckpointPart() as part:
                return self._judged(peer, lambda: self._on_part(peer, part, history, now))
        return []

    def _judged(self, peer: bytes, act: Callable[[], list[Action]]) -> list[Action]:
        """Whoever breaks a rule is not asked again."""
        try:
            return act()
        except PeerViolation:
            self._pass_over(peer)
            raise

    def _pass_over(self, peer: bytes) -> None:
        _note(self._passed, peer)
        self._offers.pop(peer, None)
        if self._fetch is not None and self._fetch.giver == peer:
            self._fetch = None

    def _on_offer(self, peer: bytes, offer: CheckpointOffer, history: History, now: float) -> list[Action]:
        if peer not in self._asked or peer in self._passed:
            return []
        if not offer.signed:
            self._pass_over(peer)
            return []
        manifest = self._swarm.manifest
        signed = check(parse(offer.signed, manifest, self._layout), manifest, self._layout, self._swarm.id)
        if not signed.body.state:
            raise PeerViolation("CHECKPOINT_OFFER: an aggregate that says nothing about a state")
        if offer.size > checkpoint.size_limit(self._layout):
            raise PeerViolation(f"CHECKPOINT_OFFER: {offer.size} bytes are more than any checkpoint has")
        if signed.body.round < history.round + STATE_EVERY or not self._is_of_members(signed):
            self._pass_over(peer)  # it leads no further than pulling does, or nobody known here has signed it
            return []
        if self._fetch is not None and self._fetch.giver != peer:
            return []
        self._fetch = None
        self._offers[peer] = signed, offer.size
        same = [each for each, (other, _) in self._offers.items() if other.id == signed.id]
        least = OFFERS_NEEDED if manifest.admit == "open" else 1
        if len(same) < max(least, len({**self._asked, **self._near}) // 2 + 1):
            return []
        self._fetch = Fetch(same[0], signed, self._offers[same[0]][1], now + PART_S)
        return [self._ask(self._fetch)]

    def _is_of_members(self, known: Verified) -> bool:
        return all(map(self._certified, members_of(known.body, self._swarm.manifest)))

    @staticmethod
    def _ask(fetch: Fetch) -> Send:
        return _send(fetch.giver, CheckpointRequest(fetch.signed.id, len(fetch.data) // PART_BYTES))

    def _on_part(self, peer: bytes, part: CheckpointPart, history: History, now: float) -> list[Action]:
        fetch = self._fetch
        if fetch is None or peer != fetch.giver or part.aggregate != fetch.signed.id:
            return []  # an answer to no question that stands
        if part.number != len(fetch.data) // PART_BYTES:
            return []  # to an earlier one
        if len(part.data) != min(PART_BYTES, fetch.size - len(fetch.data)):
            raise PeerViolation("CHECKPOINT_PART: not of the size that was offered")
        fetch.data += part.data
        fetch.until = now + PART_S
        if len(fetch.data) < fetch.size:
            return [self._ask(fetch)]
        encoded = bytes(fetch.data)
        manifest = self._swarm.manifest
        restored = checkpoint.restore(
            checkpoint.parse(encoded, manifest, self._layout),
            fetch.signed,
            manifest,
            self._layout,
            self._initial,
        )
        if any(each not in restored[0] and each != fetch.signed.id for each in history):
            self.refuse(now)
            reason = "it lacks aggregates that this device knows"
            return [Report("checkpoint_refused", {"peer": peer.hex()[:16], "reason": reason})]
        self._fetch, self._since = None, None
        self._offers.clear()
        self._asked.clear()
        return [Adopted(*restored, fetch.signed, encoded, peer)]

    # --- who is asked -----------------------------------------------------------------------------------------

    def _on_request(self, peer: bytes, identity: bytes, part: int, history: History) -> list[Action]:
        made = self._made.get(identity)
        if made is not None:
            data = made[part * PART_BYTES : (part + 1) * PART_BYTES]
            return [_send(peer, CheckpointPart(identity, part, data))] if data else []
        signed = self._newest(history)
        if signed is None:
            return [_send(peer, CheckpointOffer(b"", 0))]
        encoded = write(signed.aggregate, self._swarm.manifest)
        return [_send(peer, CheckpointOffer(encoded, len(self._made[signed.id])))]

    def _newest(self, history: History) -> Verified | None:
        """The newest aggregate whose state is what this device's own history folds to, with its checkpoint made."""
        newest = history.round - history.round % STATE_EVERY
        for round_ in range(newest, max(0, newest - TRIED_MAX * STATE_EVERY), -STATE_EVERY):
            for identity in history.ids(round_):
                signed = history.get(identity)
                if signed is not None and (identity in self._made or self._make(signed)):
                    return signed
        return None

    def _make(self, signed: Verified) -> bool:
        taken = self._take(signed.body.parents)
        if isinstance(taken, Waiting) or checkpoint.state_root(taken) != signed.body.state:
            return False
        self._made[signed.id] = pack(taken)
        while len(self._made) > MADE_MAX:
            del self._made[next(iter(self._made))]
        return True


def _note(names: dict[bytes, None], peer: bytes) -> None:
    names[peer] = None
    while len(names) > OFFERS_MAX:
        del names[next(iter(names))]


def _send(peer: bytes, body: CheckpointRequest | CheckpointOffer | CheckpointPart) -> Send:
    return Send(peer, channel_frame(body))
