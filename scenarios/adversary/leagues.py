"""Leagues of n_min devices and more, who need nobody else to sign: they write history, and hand out checkpoints of it.

The first of them that is on acts for all, with all their keys.
"""

from collections.abc import Iterable

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.errors import PeerViolation
from gossip.events import Action, Event, Received, Send
from gossip.fields import PARENTS_MAX
from gossip.frames import Kind, channel_frame, open_frame
from gossip.history import checkpoint
from gossip.history.aggregate import STATE_EVERY, Verified, write
from gossip.history.fold import has_momentum
from gossip.history.messages import PART_BYTES, CheckpointOffer, CheckpointPart, CheckpointRequest
from gossip.membership.messages import Alive
from gossip.secure_sum.member import Certified
from gossip.wire import pack
from scenarios.adversary.behaviour import Behaviour, chance
from scenarios.adversary.bodies import league_aggregate
from scenarios.adversary.silent import kind_of

BACKDATED_AT_ONCE = 4
AHEAD_AT_ONCE = 4
CLAIMED_ROUNDS = 64  # ahead of the true ones
MODEL_SIZE = 1 << 24  # of a parameter of a checkpoint's model, in 2^-24


class LeagueHistory(Behaviour):
    summary = (
        "n_min and more sign backdated sums and chains of new rounds among themselves, as fast as they can"
    )
    every_s = 1.0

    def wake(self, now: float) -> Iterable[Action]:
        if not _acts(self):
            return ()
        actions: list[Action] = []
        history = self.core.history
        for back in range(BACKDATED_AT_ONCE):
            round_ = max(1, history.round - back)
            known = [each.id for each in history.counted(round_ - 1)] if round_ > 1 else []
            parents = tuple(sorted(known[:PARENTS_MAX]))
            actions += self._write(round_, parents, back, now)
        for number in range(AHEAD_AT_ONCE):
            actions += self._write(history.round + 1, history.parents_for_next(), 100 + number, now)
        return actions

    def _write(self, round_: int, parents: tuple[bytes, ...], number: int, now: float) -> Iterable[Action]:
        state = self.core.state_due(round_, parents)
        if state is None:
            return ()
        made = league_aggregate(
            self.core.swarm,
            self.core.terms,
            _signers(self),
            parents=parents,
            round_=round_,
            state=state,
            roster=digest("league", repr((now, number)).encode()),
        )
        try:
            return self.core.carry_out([Certified(made)], now)
        except PeerViolation:  # this protocol does not take such a one, from nobody
            return ()


class LeagueCheckpoint(Behaviour):
    summary = "n_min and more claim to be 64 rounds ahead, and offer a checkpoint of their own making whose state they signed"
    every_s = 2.0

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._signed: Verified | None = None
        self._encoded = b""
        self._asked: list[tuple[bytes, CheckpointRequest]] = []

    def wake(self, now: float) -> Iterable[Action]:
        del now
        if not _can_sign(self):
            return ()
        if self._signed is None or self._signed.body.round < self.core.history.round + CLAIMED_ROUNDS // 2:
            self._make()
        alive = channel_frame(Alive(self._round, digest("league history", self._encoded)[:8]))
        return [Send(peer, alive) for peer in self.core.neighbours]

    @property
    def _round(self) -> int:
        assert self._signed is not None
        return self._signed.body.round

    def say(self, send: Send) -> Iterable[Send]:
        """No word of its true age."""
        return () if self._signed is not None and kind_of(send.data) is Kind.ALIVE else (send,)

    def hear(self, event: Event, now: float) -> Iterable[Event]:
        """Whoever asks for a checkpoint is answered by the league."""
        del now
        is_question = (
            self._signed is not None
            and isinstance(event, Received)
            and len(event.data) > 2
            and kind_of(event.data) is Kind.CHECKPOINT_REQUEST
        )
        if is_question and isinstance(event, Received):
            request = open_frame(self.core.swarm.id, event.data, event.peer).body
            if isinstance(request, CheckpointRequest):
                self._asked.append((event.peer, request))
            return ()
        return (event,)

    def after(self, now: float) -> Iterable[Action]:
        del now
        asked, self._asked = self._asked, []
        return [answer for peer, request in asked for answer in self._answered(peer, request)]

    def _answered(self, peer: bytes, request: CheckpointRequest) -> Iterable[Send]:
        assert self._signed is not None
        if not request.aggregate:
            encoded = write(self._signed.aggregate, self.core.swarm.manifest)
            return (Send(peer, channel_frame(CheckpointOffer(encoded, len(self._encoded)))),)
        data = self._encoded[request.part * PART_BYTES : (request.part + 1) * PART_BYTES]
        if request.aggregate != self._signed.id or not data:
            return ()
        return (Send(peer, channel_frame(CheckpointPart(request.aggregate, request.part, data))),)

    def _make(self) -> None:
        """True rounds as far as they are held, made-up ones from there, and numbers drawn by the league's seed."""
        history, manifest = self.core.history, self.core.swarm.manifest
        round_ = -(-(history.round + CLAIMED_ROUNDS + 1) // STATE_EVERY) * STATE_EVERY
        held = [tuple(sorted(each.id for each in history.counted(r))) for r in range(1, history.round + 1)]
        made_up = [
            (digest("league round", bytes([r % 256, r // 256])),) for r in range(len(held) + 1, round_)
        ]
        rounds = tuple(ids for ids in (*held, *made_up) if ids)
        numbers = chance(self.league.seed, "checkpoint").integers(
            -MODEL_SIZE, MODEL_SIZE, self.core.layout.parameters
        )
        x = numbers.astype("<i8").tobytes()
        taken = checkpoint.Checkpoint(
            1, self.core.swarm.id, rounds, x, bytes(len(x)) if has_momentum(manifest) else b"", (), ()
        )
        self._encoded = pack(taken)
        made = league_aggregate(
            self.core.swarm,
            self.core.terms,
            _signers(self),
            parents=rounds[-1][:PARENTS_MAX],
            round_=len(rounds) + 1,
            state=checkpoint.state_root(taken),
            roster=digest("league checkpoint", taken.x),
        )
        self._signed = Verified.of(made, manifest)


def _signers(behaviour: Behaviour) -> list[Identity]:
    """As many of the league as a cohort may have, by key."""
    most = behaviour.core.swarm.manifest.cohorts.n_max
    return [each for _, each in sorted(behaviour.league.identities.items())][:most]


def _can_sign(behaviour: Behaviour) -> bool:
    return len(behaviour.league.identities) >= behaviour.core.swarm.manifest.cohorts.n_min


def _acts(behaviour: Behaviour) -> bool:
    return _can_sign(behaviour) and behaviour.core.me == min(behaviour.league.identities)
