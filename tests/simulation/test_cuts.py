"""Random cuts between virtual devices: each side goes on, and once they end there is one history and one model.

Count, sides, beginnings and lengths come from the seed; cuts overlap, and some are over before anybody gives up a connection.
All the while the harness's observer reads the wire, checks every sum against its members' plain vectors and every replica
against the fold of its history.

pytest tests/simulation/test_cuts.py                                 # a share of the seeds
GOSSAMER_SEEDS=200 pytest tests/simulation/test_cuts.py              # all of them
GOSSAMER_SEED=123 pytest tests/simulation/test_cuts.py               # one again
"""

import os
import random
from dataclasses import dataclass

import numpy as np
import pytest

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.events import Compute, Persist, Put, Received, Report
from gossip.history.aggregate import Verified
from gossip.history.dag import Added, History
from gossip.history.fold import Replica
from gossip.membership.view import BEAT_S, Membership
from node.core import NodeCore
from node.net.libp2p.terms import UNACKED_S
from node.virtual.device import Hardware
from node.virtual.links import RETRANSMIT_S, Link, Pipe
from node.virtual.swarm import VirtualSwarm
from tests.simulation.harness import InvariantBroken, Observer, tiny_initial, tiny_swarm

SEEDS = int(os.environ.get("GOSSAMER_SEEDS", "8"))
pytestmark = pytest.mark.timeout(300)
ONE_SEED = os.environ.get("GOSSAMER_SEED")
CHUNK = 4
CHUNKS = (
    [[int(ONE_SEED)]] if ONE_SEED else [range(at, min(at + CHUNK, SEEDS)) for at in range(0, SEEDS, CHUNK)]
)
N_MIN = 3
PHASE_S = 2.0
NOTICED_S = UNACKED_S + 1.5 * BEAT_S  # as half a beat after the last word says nothing
LIVELY_S = NOTICED_S + 20.0  # in which a side of n_min notices the cut, and then makes a round
EQUAL_ROUNDS = 5
EQUAL_S = 60.0
ORDERS = 3


class Steps:
    """`Phases` whose updates are drawn from the seed."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def examples(self, device):
        return 20 + 3 * device

    def begin(self, device, base): ...

    def advance(self, device, steps): ...

    def rebase(self, device, change): ...

    def drop(self, device): ...

    def look(self, device, model):
        return 1.0

    def freeze(self, device):
        return self._rng.normal(0, 0.2, 16).astype(np.float32), 1, 0.5

    def evaluate(self, model):
        return 0.5, 1.0


class Watched(VirtualSwarm):
    """With the harness's observer on every wire."""

    def __init__(self, seed, count, **more):
        identities = [Identity(digest("device", bytes([index]))) for index in range(count)]
        link = Link(jitter_s=0.02, latency_s=0.02)
        self.seed = seed
        self.swarm = tiny_swarm(identities[0], [identity.public_key for identity in identities], n_min=N_MIN)
        self.reports = []
        self.observer = Observer(self)
        super().__init__(
            seed=seed,
            swarm=self.swarm,
            initial=tiny_initial(),
            devices=[
                (identity, Hardware(link=link, step_s=PHASE_S, on_at_s=0.1 * index, **more))
                for index, identity in enumerate(identities)
            ],
            phases=Steps(seed),
            report=self._hear,
        )

    def _hear(self, now, device, report: Report):
        self.reports.append((now, device, report))
        if report.name == "settled":
            self.observer.settled(self.devices[device], report.fields["cohort"], report.fields["outcome"])

    def _perform(self, device, actions):
        for action in actions:
            if isinstance(action, Compute):
                self.observer.computing(device, action.job)
        super()._perform(device, actions)
        self.observer.after(device)

    def _commit(self, device, life, persist):
        """What is said may wait for a dial until its cohort is over and its records are dropped: the observer still looks for
        them, and nobody restarts here.
        """
        kept = [each for each in persist.records if isinstance(each, Put)]
        self.observer.committed(device, persist)
        super()._commit(device, life, Persist(persist.tag, tuple(kept)))

    def _send(self, device, peer, data):
        self.observer.on_wire(device, self._by_key[peer], data)
        super()._send(device, peer, data)

    def alive(self):
        return [device for device in self.devices if device.core is not None]

    def round_of(self, some) -> int:
        return max(self.devices[index].core._history.round for index in some)

    def rounds_made(self, some, until_s) -> int:
        """The highest round that one of these had folded by then."""
        told = (
            report.fields["round"]
            for at, index, report in self.reports
            if report.name == "folded" and index in some and at < until_s
        )
        return max(told, default=0)

    def is_one(self) -> bool:
        return len({device.core._history.digest() for device in self.alive()}) == 1


@dataclass(frozen=True)
class Cut:
    begins_s: float
    ends_s: float
    side: frozenset[int]


def random_cuts(rng: random.Random, count: int) -> list[Cut]:
    cuts = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        begins_s = rng.uniform(4, 40)
        length_s = rng.choice([rng.uniform(0.5, 8), rng.uniform(8, 45), rng.uniform(LIVELY_S, 2 * LIVELY_S)])
        side = rng.sample(range(count), rng.randint(1, count - 1))
        cuts.append(Cut(begins_s, begins_s + length_s, frozenset(side)))
    return cuts


def sides_of(world) -> list[frozenset[int]]:
    """Who reaches each other now."""
    sides: dict[tuple[bool, ...], list[int]] = {}
    for device in world.devices:
        sides.setdefault(tuple(device.index in cut for cut in world._cuts), []).append(device.index)
    return [frozenset(side) for side in sides.values()]


def survive(seed: int, count: int | None = None, cuts: list[Cut] | None = None) -> Watched:
    rng = random.Random(f"cuts/{seed}")
    count = count or rng.randint(5, 9)
    world = Watched(seed, count)
    cuts = cuts or random_cuts(rng, count)
    began: dict[frozenset[int], float] = {}  # by side
    turns = [(cut.begins_s, 0, cut) for cut in cuts] + [(cut.ends_s, 1, cut) for cut in cuts]
    for at, ends, cut in sorted(turns, key=lambda turn: turn[:2]):
        world.run(at)
        for side, since in began.items():
            if len(side) >= N_MIN and at - since >= LIVELY_S:
                world.observer.require(
                    world.rounds_made(side, at) > world.rounds_made(side, since + NOTICED_S),
                    f"a side of {len(side)} made no round from {NOTICED_S:.0f} to {at - since:.0f} s",
                )
        (world.heal if ends else world.cut)(cut.side)
        began = {side: began.get(side, at) for side in sides_of(world)}
    healed_in = world.round_of(range(count))
    world.run(world.now + EQUAL_S, stop=lambda: world.events % 8 == 0 and world.is_one())
    world.observer.require(world.is_one(), f"not one history {EQUAL_S:.0f} s after the last cut ended")
    rounds = world.round_of(range(count)) - healed_in
    world.observer.require(rounds <= EQUAL_ROUNDS, f"one history only {rounds} rounds after the last cut")
    world.equal_after = world.now - max(cut.ends_s for cut in cuts), rounds
    models = {device.core.status(world.now)["replica_sha256"] for device in world.alive()}
    world.observer.require(len(models) == 1, "I3: one history, several models")
    arrive_in_any_order(world, rng)
    before = world.round_of(range(count))
    world.run(
        world.now + LIVELY_S, stop=lambda: world.events % 64 == 0 and world.round_of(range(count)) > before
    )
    world.observer.require(world.round_of(range(count)) > before, "I8: no round after the last cut")
    return world


def arrive_in_any_order(world: Watched, rng: random.Random) -> None:
    """What the cut sides made together, told to newcomers in orders of their own."""
    core = world.devices[0].core
    held: list[Verified] = [
        core._history.get(identity)
        for round_ in range(1, core._history.round + 1)
        for identity in core._history.ids(round_)
    ]
    manifest = world.swarm.manifest
    for _ in range(ORDERS):
        history, replica = History(manifest, world.swarm.id), Replica(manifest, core._layout, tiny_initial())
        untold = []
        for each in rng.sample(held, len(held)):
            outcome = history.add(each)
            untold += outcome.changes if isinstance(outcome, Added) else ()
            if rng.random() < 0.5:
                replica.apply(untold, history.round)
                untold = []
        replica.apply(untold, history.round)
        world.observer.require(history.digest() == core._history.digest(), "another order, another history")
        same = np.array_equal(replica.x, core._replica.x) and np.array_equal(replica.v, core._replica.v)
        world.observer.require(same, "I3: another order, other bits")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_sides_go_on_and_become_one(seeds):
    for seed in seeds:
        try:
            world = survive(seed)
        except BaseException as error:
            error.add_note(f"again: GOSSAMER_SEED={seed} pytest tests/simulation/test_cuts.py")
            raise
        assert world.observer.exact > 0


def test_the_same_seed_makes_the_same_trace():
    assert survive(3).trace_sha256 == survive(3).trace_sha256


# --- what a connection does over a cut ------------------------------------------------------------------------


def downs(world) -> list[tuple[int, str]]:
    return [
        (device, report.fields["reason"]) for _, device, report in world.reports if report.name == "peer_down"
    ]


def told(world, one, other):
    """The messages from one device that have come to the other, by when."""
    heard = []
    deliver = world._deliver

    def listen(device, life, event, data=b""):
        if isinstance(event, Received) and (device.index, event.peer) == (other, world.devices[one].key):
            heard.append(world.now)
        deliver(device, life, event, data)

    world._deliver = listen
    return heard


def test_nothing_crosses_a_cut_and_a_short_one_ends_no_connection():
    world = Watched(1, 6)
    world.run(10)
    heard = told(world, 0, 5)
    world.cut({5})
    world.run(14)
    assert heard == []
    assert not world.devices[5].pipes[world.devices[0].key].closed
    world.heal({5})
    world.run(14.01)
    assert heard == [], "TCP has not tried again yet"
    world.run(25)
    assert heard
    assert downs(world) == []


def test_each_side_of_a_long_cut_hears_of_it_when_nothing_is_acknowledged():
    world = Watched(1, 6)
    world.run(12)  # by when all have met
    world.cut({3, 4, 5})
    world.run(12 + UNACKED_S - 0.1)
    assert downs(world) == []
    world.run(12 + NOTICED_S)
    assert sorted(downs(world)) == [(device, "connection lost") for device in range(6) for _ in range(3)]


def test_an_end_without_a_partner_lasts_until_it_hears_so_or_is_replaced():
    world = Watched(1, 6)
    world.run(10)
    here, there = world.devices[0], world.devices[5]
    world.cut({5})
    world._break(here, there.key, "given up")
    assert here.key in there.pipes
    world.run(12)
    assert here.key in there.pipes
    world.heal({5})
    world.run(12 + 2 * BEAT_S)
    assert (5, "connection lost") in downs(world) or (5, "replaced by a newer connection") in downs(world)
    assert not there.pipes[here.key].closed
    assert not here.pipes[there.key].closed


def test_a_time_out_doubles_from_the_first_loss():
    pipe = Pipe(0, 1, (Link(), Link()))
    pipe.hold((1, b"", None), 100.0)
    assert pipe.sends_again_at(100.0) == pytest.approx(100 + RETRANSMIT_S)
    assert pipe.sends_again_at(101.5) == pytest.approx(100 + 15 * RETRANSMIT_S)
    pipe.hold((1, b"", None), 101.0)
    assert pipe.lost_at == 100.0


def test_two_cuts_may_overlap_and_each_ends_by_itself():
    world = Watched(1, 5)
    world.cut({0, 1})
    world.cut({1, 2})
    assert sides_of(world) == [{0}, {1}, {2}, {3, 4}]
    world.heal({0, 1})
    assert sides_of(world) == [{0, 3, 4}, {1, 2}]
    world.heal({1, 2})
    with pytest.raises(ValueError, match="not in list"):
        world.heal({1, 2})


# --- that it would be seen ------------------------------------------------------------------------------------


def test_a_side_that_waits_for_everybody_is_seen(monkeypatch):
    honest = NodeCore._consider

    def patient(core, now):
        return honest(core, now) if len(core._membership.live(now)) == 6 else []

    monkeypatch.setattr(NodeCore, "_consider", patient)
    with pytest.raises(InvariantBroken, match="a side of 3 made no round"):
        survive(1, 6, [Cut(5, 5 + LIVELY_S, frozenset({0, 1, 2}))])


def test_sides_that_look_for_each_other_too_late_are_seen(monkeypatch):
    monkeypatch.setattr(Membership, "_seek_beyond_a_cut", lambda *_: [])
    monkeypatch.setattr(Membership, "_seek", lambda *_: [])
    with pytest.raises(InvariantBroken, match="one history"):
        survive(1, 6, [Cut(5, 5 + 2 * LIVELY_S, frozenset({0, 1, 2}))])


def test_a_fold_that_forgets_what_comes_late_is_seen(monkeypatch):
    honest = Replica.apply

    def forgetful(replica, changes, round_):
        honest(replica, [change for change in changes if change.round > replica.round], round_)

    monkeypatch.setattr(Replica, "apply", forgetful)
    with pytest.raises(InvariantBroken, match="I3"):
        survive(1, 6, [Cut(5, 5 + 2 * LIVELY_S, frozenset({0, 1, 2}))])
