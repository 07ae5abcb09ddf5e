"""The attack that the masks must withstand: colluders pool all they hold, and try to read an honest member's vector."""

import itertools

import numpy as np
import pytest

from crypto.agreement import KeyPair
from crypto.masking import Mask, add_vectors, apply_masks
from crypto.sharing import combine
from gossip.codec.codec import payload_plan
from gossip.cohort.roster import Secrets
from gossip.secure_sum.derived import pair_mask, self_mask
from gossip.secure_sum.member import Keys, Member
from tests.simulation.harness import World

CHI_SQUARE_255_AT_1E_6 = 378.0  # a fair byte stream exceeds this once in a million tests


class Loot:
    """Everything that any member of any cohort ever held; an attacker takes what its colluders had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets: dict[tuple[bytes, int], Secrets] = {}
        self.keys: dict[tuple[bytes, int], Keys] = {}
        self.vectors: dict[tuple[bytes, int], bytes] = {}
        self.cohorts: dict[bytes, object] = {}
        start, open_keys, send_masked = Member.start, Member._open_keys, Member._send_masked

        def spied_start(member: Member, now: float):
            self.secrets[member.cohort.id, member.index] = member._open_secrets
            self.cohorts[member.cohort.id] = member.cohort
            return start(member, now)

        def spied_open_keys(member: Member, keys_set):
            keys, faults = open_keys(member, keys_set)
            self.keys[member.cohort.id, member.index] = keys
            return keys, faults

        def spied_send_masked(member: Member):
            self.vectors[member.cohort.id, member.index] = member._vector
            return send_masked(member)

        monkeypatch.setattr(Member, "start", spied_start)
        monkeypatch.setattr(Member, "_open_keys", spied_open_keys)
        monkeypatch.setattr(Member, "_send_masked", spied_send_masked)


@pytest.fixture
def loot(monkeypatch):
    return Loot(monkeypatch)


def complete_cohorts(world: World, loot: Loot, least: int):
    """Cohorts without dropouts: every member's vector is in the sum, and every seed was opened to the aggregators."""
    for cohort in loot.cohorts.values():
        if cohort.size >= least and len(world.observer.included.get(cohort.id, ())) == cohort.size:
            yield cohort


def strip(world: World, loot: Loot, cohort, victim: int, colluders: list[int]) -> np.ndarray:
    """The victim's vector without its self mask (opened under the seal) and without all masks that colluders know."""
    vector = np.frombuffer(loot.vectors[cohort.id, victim], np.uint8).copy()
    known = [self_mask(cohort, victim, loot.secrets[cohort.id, victim].seed)]
    for colluder in colluders:
        theirs = pair_mask(cohort, colluder, loot.secrets[cohort.id, colluder].mask, victim)
        known.append(Mask(theirs.key, -theirs.sign))
    apply_masks(vector, lanes_of(world), [Mask(mask.key, -mask.sign) for mask in known])
    return vector


def lanes_of(world: World):
    core = world.alive()[0].core
    return payload_plan(
        np.arange(core._layout.blocks), core._layout, world.swarm.manifest.compression, []
    ).lanes


def lane_sum(world: World, vectors: list[np.ndarray]) -> bytes:
    lanes = lanes_of(world)
    total = lanes.zeros()
    for vector in vectors:
        add_vectors(total, vector, lanes)
    return total.tobytes()


def test_colluders_below_the_threshold_learn_only_the_sum_of_the_others(loot):
    world = World(11, 8)
    world.run(90)
    tried = 0
    left_over: list[bytes] = []
    for cohort in complete_cohorts(world, loot, 5):
        colluders = list(range(min(cohort.threshold - 1, cohort.size - 2)))
        honest = [i for i in range(cohort.size) if i not in colluders]
        stripped = [strip(world, loot, cohort, i, colluders) for i in honest]
        plain = [world.observer.plain[cohort.id, i] for i in honest]
        assert lane_sum(world, stripped) == lane_sum(world, plain), "together they are the sum of the others"
        for one, truth in zip(stripped, plain, strict=True):
            assert one.tobytes() != truth.tobytes()
        for some in itertools.combinations(range(len(honest)), len(honest) - 1):
            assert lane_sum(world, [stripped[i] for i in some]) != lane_sum(world, [plain[i] for i in some])
        left_over += [one.tobytes() for one in stripped]
        tried += 1
    assert tried >= 5
    assert chi_square(b"".join(left_over)) < CHI_SQUARE_255_AT_1E_6


def test_fewer_than_t_shares_of_a_key_are_worth_nothing_and_t_are_the_key(loot):
    """The bound is tight: t colluders do read a member, which is why t is three quarters of the cohort."""
    world = World(12, 8)
    world.run(60)
    for cohort in complete_cohorts(world, loot, 5):
        victim, t = cohort.size - 1, cohort.threshold
        shares = {i: loot.keys[cohort.id, i].holdings[victim].shares[1] for i in range(cohort.size - 1)}
        too_few = dict(list(shares.items())[: t - 1])
        with pytest.raises(ValueError):
            combine(too_few, t)
        name, public = cohort.members[victim], cohort.readies[victim].mask
        assert KeyPair.from_seed(combine(too_few, t - 1), name).public != public
        if len(shares) >= t:
            assert KeyPair.from_seed(combine(shares, t), name).public == public


def test_if_all_but_one_collude_the_last_one_is_read():
    """What n - 1 Sybils can do; the reason that n - 2 is in the bound, and that open swarms warn."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        loot = Loot(monkeypatch)
        world = World(13, 6)
        world.run(40)
        cohort = next(complete_cohorts(world, loot, 4))
        stripped = strip(world, loot, cohort, 0, list(range(1, cohort.size)))
        assert stripped.tobytes() == world.observer.plain[cohort.id, 0].tobytes()


def test_masked_vectors_are_uniform_and_plain_ones_are_not(loot):
    world = World(14, 10)
    world.run(120)
    masked = b"".join(loot.vectors.values())
    plain = b"".join(vector.tobytes() for vector in world.observer.plain.values())
    assert len(masked) > 10_000
    assert chi_square(masked) < CHI_SQUARE_255_AT_1E_6
    assert chi_square(plain) > 10 * CHI_SQUARE_255_AT_1E_6, "the test must be able to fail"


def chi_square(data: bytes) -> float:
    """Pearson's statistic of a byte histogram against the uniform one; 255 degrees of freedom."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())
