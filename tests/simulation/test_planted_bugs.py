"""Each bug that the invariants exist for, planted: the harness must see it. Without the plant, the same runs pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.identity import Identity
from crypto.masking import Mask, apply_masks
from crypto.sharing import combine
from gossip import frames
from gossip.codec.codec import Encoded
from gossip.cohort.roster import Secrets
from gossip.errors import PeerViolation
from gossip.frames import open_frame, sign_frame
from gossip.history import aggregate
from gossip.history.fold import Replica
from gossip.quorum import pack_members, unpack_members
from gossip.secure_sum import member as member_module
from gossip.secure_sum import shares
from gossip.secure_sum.aggregator import Aggregator
from gossip.secure_sum.harm import UNKNOWN
from gossip.secure_sum.member import Member, Outcome, State
from gossip.secure_sum.messages import AbortVote, KeysSet
from tests.simulation.harness import Faults, InvariantBroken, World

ROUGH = Faults(
    until=40,
    drop=0.1,
    duplicate=0.2,
    latency=(0.01, 1.5),
    crashes={"MASKED": 0.1, "SEAL": 0.1, "UNMASK": 0.1},
)


def run_until_caught(
    match: str, *, seeds: range = range(40), faults: Faults = ROUGH, seconds: float = 60
) -> None:
    def try_seeds() -> None:
        for seed in seeds:
            World(seed, 5 + seed % 4, faults=faults).run(seconds)

    with pytest.raises(InvariantBroken, match=match):
        try_seeds()


def test_without_a_plant_nothing_is_caught():
    for seed in range(3):
        World(seed, 5 + seed % 4, faults=ROUGH).run(60)


def test_a_reused_mask(monkeypatch):
    def run(job):
        encoded = job.codec.encode(
            job.plan,
            job.contribution,
            job.rounding,
            layout=job.layout,
            compression=job.cohort.swarm.manifest.compression,
        )
        apply_masks(encoded.vector, job.plan.lanes, [Mask(bytes(32), 1)])
        return encoded

    monkeypatch.setattr(member_module.MaskJob, "run", run)
    run_until_caught("rule 6: a mask was used twice")


def test_debit_after_masked(monkeypatch):
    honest = Member._on_encoded

    def hasty(self, encoded: Encoded):
        spend = honest(self, encoded)
        self._left = True
        return [*self._send_masked(), *spend] if spend else []

    monkeypatch.setattr(Member, "_on_encoded", hasty)
    run_until_caught("rule 3: a vector left before its debit was durable")


def test_both_share_kinds_revealed(monkeypatch):
    honest = Member._open_shares

    def chatty(self, seal, contributors):
        return [*honest(self, seal, contributors), *honest(self, seal, [])]

    monkeypatch.setattr(Member, "_open_shares", chatty)
    run_until_caught("rule 1: both shares of one owner were opened")


def test_keys_not_agreed(monkeypatch):
    """An aggregator tells one half of the members a smaller U1 than the other half."""
    honest = Aggregator._offer_keys

    def equivocate(self):
        told = honest(self)
        for place, action in enumerate(told):
            message = open_frame(self.cohort.swarm.id, action.data)
            keys = message.body
            if self.rank == 0 and place % 2 and len(keys.committed) > self.cohort.least:
                owners = unpack_members(keys.owners, self.cohort.size)[1:]
                lie = KeysSet(pack_members(owners, self.cohort.size), keys.committed[1:], keys.envelopes[1:])
                told[place] = self._send(action.peer, lie)
        return told

    monkeypatch.setattr(Aggregator, "_offer_keys", equivocate)
    world = World(7, 8)
    world.run(30)
    assert any(r.name == "settled" and r.fields["outcome"] != "included" for _, _, r in world.reports)
    monkeypatch.setattr(member_module, "keys_context", lambda commitments: bytes(32))
    monkeypatch.setattr(Member, "_refuse_unsignable", lambda self, proposal: None)
    with pytest.raises(InvariantBroken, match="U1: "):
        World(3, 8).run(30)


def test_a_share_byte_flipped(monkeypatch):
    """Whoever takes the first t shares for true unmasks with a wrong seed, and the sum is not the true one."""
    faults = Faults(until=1e9, flip_share=3)
    assert World(2, 8, faults=faults).run(60, until=None) is False

    def gullible(shares, t, is_right, doubted=()):
        return combine(shares, t), []

    monkeypatch.setattr(shares, "recover", gullible)
    monkeypatch.setattr(Member, "refuse_invalid", lambda self, body: None)
    monkeypatch.setattr(aggregate, "_check_sum", lambda *_: None)
    monkeypatch.setattr(member_module, "strange_ranges", lambda *_: False)  # which all would refuse
    monkeypatch.setattr("node.core.part_in", lambda *_: UNKNOWN)  # the same
    with pytest.raises(InvariantBroken, match="I4: a wrong"):
        World(2, 8, faults=faults).run(60)


def test_a_sum_lost_to_one_flipped_share(monkeypatch):
    """Without looking for other shares that fit, one liar stops the sums that count on it."""

    def incurious(shares, t, is_right, doubted=()):
        secret = combine(shares, t)
        return (secret, []) if is_right(secret) else None

    monkeypatch.setattr(shares, "recover", incurious)
    world = World(2, 8, faults=Faults(until=1e9, flip_share=3))
    world.run(60)
    assert any(r.fields.get("phase") == "SUM_LOST" for _, _, r in world.reports)


def test_a_replay_into_another_cohort(monkeypatch):
    identity, swarm = Identity(bytes(32)), bytes(32)
    frame = frames.unpack(
        sign_frame(identity, swarm, AbortVote(), cohort=b"a" * 32), frames.Frame, limit_bytes=999
    )
    elsewhere = frames.pack(frames.Frame(1, frame.kind, b"b" * 32, frame.sender, frame.body, frame.signature))
    with pytest.raises(PeerViolation):
        open_frame(swarm, elsewhere)
    honest = frames.statement
    monkeypatch.setattr(frames, "statement", lambda swarm, kind, cohort, body: honest(swarm, kind, b"", body))
    frame = frames.unpack(
        sign_frame(identity, swarm, AbortVote(), cohort=b"a" * 32), frames.Frame, limit_bytes=999
    )
    elsewhere = frames.pack(frames.Frame(1, frame.kind, b"b" * 32, frame.sender, frame.body, frame.signature))
    assert open_frame(swarm, elsewhere).cohort == b"b" * 32, "the plant must make the replay acceptable"


def test_an_aggregate_folded_twice(monkeypatch):
    honest = Replica.apply

    def twice(self, changes, round_):
        before = self.x
        honest(self, changes, round_)
        change = self.x - before
        self._state = self._state._replace(x=self._state.x + change)
        return change

    monkeypatch.setattr(Replica, "apply", twice)
    run_until_caught("I3: the replica is not the fold of its history")


def test_the_keys_of_one_ready_in_two_rosters(monkeypatch):
    """A device that said its READY again, and not a fresh one, would have its keys in two cohorts."""
    honest, kept = Secrets.fresh, {}
    monkeypatch.setattr(
        Secrets, "fresh", lambda owner, entropy: kept.setdefault(owner, honest(owner, entropy))
    )
    run_until_caught("a READY was used in two rosters")


def test_seal_and_abort_both_signed(monkeypatch):
    def fickle(self):
        if self.ballot.certificate is not None or self.state is State.OVER:
            return []
        return self._vote(b"")

    monkeypatch.setattr(Member, "_on_abort_due", fickle)
    run_until_caught(
        "rule 2: two votes in one cohort", faults=Faults(until=60, drop=0.3, latency=(0.01, 0.5))
    )


def test_a_refund_by_timeout(monkeypatch):
    """A member is cut off with its vector out: the others sum it, and it must not take it back.

    Whether they have it by then depends on the seed, and on each byte of the manifest.
    """

    def run(seed: int) -> World:
        world = World(seed, 8)

        def masked() -> bool:
            return bool(world.reports) and world.reports[-1][2].fields.get("phase") == "MASKED"

        assert world.run(60, until=masked)
        lonely = world.reports[-1][1]
        world.run(0.06)
        world.partition({lonely}, set(range(8)) - {lonely})
        world.run(40)
        return world

    unknown = [r.fields["outcome"] for _, _, r in run(7).reports if r.name == "settled"]
    assert "unknown" in unknown
    monkeypatch.setattr(
        Member,
        "_end",
        lambda self, reason: [
            *self._settle(Outcome.REFUNDED if self._spent else Outcome.UNTOUCHED, reason),
            *self._close(),
        ],
    )
    with pytest.raises(InvariantBroken, match="I1: refunded, and in a sum"):
        list(map(run, range(7, 13)))


TRACE = """
import random
from tests.simulation.harness import World, random_faults
{plant}
world = World(5, 6, faults=random_faults(random.Random(5), 6))
world.run(20)
print(world.trace.hexdigest())
"""
ITERATES_A_SET = """
from gossip.membership.view import Membership
from gossip.membership.messages import Alive
honest = Membership._on_beat
def unordered(self, now):
    actions = honest(self, now)
    return [a for a in set(map(str, actions)) for a in [b for b in actions if str(b) == a]]
Membership._on_beat = unordered
"""


def traces(plant: str) -> set[str]:
    root = Path(__file__).parents[2]
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    runs = [
        subprocess.run(
            [sys.executable, "-c", TRACE.format(plant=plant)],
            env=env,
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        for env in environments
    ]
    return {run.stdout for run in runs}


def test_a_set_iterated():
    assert len(traces("")) == 1
    assert len(traces(ITERATES_A_SET)) == 2
