"""Swarms and aggregates written by hand: the history and the fold are tested without any cohort that meets."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from msgspec.structs import replace

from crypto.certificates import certify
from crypto.hashing import digest
from crypto.identity import Identity
from gossip.body import CODECS, Body, Part, aggregate_id
from gossip.codec.blocks import Layout
from gossip.codec.codec import exponents_after
from gossip.codec.lowrank import basis_after, values_in
from gossip.codec.ranges import CODE_OF_ONE
from gossip.history.aggregate import (
    MEMBERSHIP_OF_MANIFEST,
    STATE_EVERY,
    Aggregate,
    Signatures,
    Verified,
    body_statement,
)
from gossip.history.dag import History
from gossip.history.fold import Replica
from gossip.manifest import Cohorts, Compression, Manifest, Model, Step, Tensor, Training
from gossip.quorum import pack_members, threshold, unpack_members

PEOPLE = sorted((Identity(bytes([number]) * 32) for number in range(1, 41)), key=lambda who: who.public_key)
WITHOUT_MOMENTUM = (Step(1, 256, 0),)
WITH_MOMENTUM = (Step(1, 256, 179), Step(5, 128, 230), Step(9, 200, 0), Step(12, 31, 64))


TRAINED = np.array([0, 3, 4])  # how many of a cohort of four may have trained a segment


class Dice:
    """Numbers from a seed: the same under any version of any library, so that a seed and a golden hash stay good."""

    def __init__(self, *seed: object) -> None:
        self._key = repr(seed).encode()
        self._rolls = 0

    def integers(self, low: int, high: int, count: int) -> np.ndarray:
        """int64[count] in [low, high)."""
        self._rolls += 1
        stream = hashlib.shake_128(self._key + self._rolls.to_bytes(8, "big")).digest(4 * count)
        return low + np.frombuffer(stream, "<u4").astype(np.int64) % (high - low)

    def trained(self, count: int) -> np.ndarray:
        """Of a cohort of four, by segment."""
        return TRAINED[self.integers(0, len(TRAINED), count)]

    def ranges(self, count: int) -> np.ndarray:
        """Votes of four, by tensor, after which exponents lie between -10 and 0."""
        return 4 * self.integers(CODE_OF_ONE - 212, CODE_OF_ONE, count)

    def below(self, high: int) -> int:
        return int(self.integers(0, high, 1)[0])

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def shuffled(self, items: Sequence) -> list:
        order = np.argsort(self.integers(0, 1 << 32, len(items)), kind="stable")
        return [items[place] for place in order]


@dataclass(frozen=True)
class Setting:
    """A swarm's manifest and what follows from it."""

    manifest: Manifest
    initial: np.ndarray
    swarm: bytes = digest("swarm", b"of the tests")

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.manifest.model, self.manifest.compression.block_size)

    def history(self) -> History:
        return History(self.manifest, self.swarm)

    def replica(self) -> Replica:
        return Replica(self.manifest, self.layout, self.initial)


def setting(
    *,
    tensors: Sequence[tuple[int, ...]] = ((10, 0), (7, 1), (3, 0)),
    schedule: tuple[Step, ...] = WITHOUT_MOMENTUM,
    cap: int = 1 << 30,
    lane_bits: int = 8,
    levels: int = 7,
    block_size: int = 4,
    n_max: int = 8,
    admit: str = "open",
    members: tuple[bytes, ...] = (),
    codec: str = "dense",
    rank: int = 2,
    grain: int = 0,
) -> Setting:
    """`tensors`: (size, segment), or (size, segment, rows[, rank]) of a matrix that codec `lowrank` factors."""
    parameters = sum(size for size, *_ in tensors)
    initial = np.arange(parameters, dtype=np.int64) * 1_000_003 - 5_000_000
    manifest = Manifest(
        version=1,
        name="a swarm of the tests",
        model=Model(
            task="tests",
            schema=bytes(32),
            tensors=tuple(Tensor(*tensor) for tensor in tensors),
            seed=0,
            initial=hashlib.sha256(initial.astype("<i8").tobytes()).digest(),
        ),
        training=Training(1, 2, 0, schedule, cap),
        compression=Compression(codec, block_size, levels, lane_bits, 0, rank=rank, grain=grain),
        cohorts=Cohorts(3, n_max, 1000, 1000),
        admit=admit,
        members=members,
        founder=bytes(32),
    )
    return Setting(manifest, initial)


def part(cohort: int, size: int = 4, contributors: int | None = None) -> Part:
    """The cohort of this number: four people, by default, and the next number's cohort has none of them in common."""
    first = cohort % (len(PEOPLE) // size) * size
    keys = tuple(who.public_key for who in PEOPLE[first : first + size])
    present = range(size if contributors is None else contributors)
    return Part(roster(cohort), keys, MEMBERSHIP_OF_MANIFEST, pack_members(list(present), size))


def roster(cohort: int) -> bytes:
    """Ascends with the cohort's number."""
    return cohort.to_bytes(4, "big") + bytes(28)


def body(
    swarm: Setting,
    parents: Sequence[Verified],
    *,
    cohorts: Sequence[int] = (0,),
    sums: Sequence[int] | int = 1,
    blocks: Sequence[int] | None = None,
    exponents: Sequence[int] | int | None = None,
    weights: Sequence[int] | int | None = None,
    ranges: Sequence[int] | int | None = None,
    round_: int | None = None,
    state: bytes | None = None,
) -> Body:
    """A valid body, unless the arguments make it invalid; a single number stands for each of its kind.

    By default all contributors have trained everything, the exponents follow from the parents, and the ranges lead the
    children's exponents to 0, as the manifest leads the first round's.
    """
    layout, compression = swarm.layout, swarm.manifest.compression
    carried = np.arange(layout.blocks) if blocks is None else np.array(blocks)
    place = 1 + max((parent.body.round for parent in parents), default=0) if round_ is None else round_
    exponent_count, value_count, basis = len(carried), layout.values_in(carried), b""
    if compression.codec == "lowrank":
        exponent_count, value_count = len(layout.tensor_ends), values_in(layout, compression.rank, place)
        basis = basis_after(
            ((parent.body.round, parent.id) for parent in parents),
            min(part(cohort).roster for cohort in cohorts),
        )
    values = np.broadcast_to(np.array(sums), value_count)
    lowered = np.broadcast_to(-np.array(0 if exponents is None else exponents), exponent_count)
    parts = tuple(part(cohort) for cohort in sorted(cohorts))
    contributors = sum(each.contributors[0].bit_count() for each in parts)
    weighed = contributors if weights is None else weights
    measured = CODE_OF_ONE * contributors if ranges is None else ranges
    made = Body(
        version=1,
        swarm=swarm.swarm,
        parts=parts,
        parents=tuple(sorted(parent.id for parent in parents)),
        round=place,
        codec=CODECS.index(compression.codec),
        basis=basis,
        blocks=layout.pack_blocks(carried),
        exponents=lowered.astype(np.uint8).tobytes(),
        sums=values.astype(f"<i{compression.lane_bits // 8}").tobytes(),
        weights=tuple(int(each) for each in np.broadcast_to(np.array(weighed), layout.segments)),
        ranges=tuple(int(each) for each in np.broadcast_to(np.array(measured), len(layout.tensor_ends))),
        state=(b"" if place % STATE_EVERY else bytes(32)) if state is None else state,
    )
    if exponents is not None:
        return made
    followed = exponents_after(made, [parent.body for parent in parents], layout, compression)
    return replace(made, exponents=followed)


def unsigned(body_: Body, origin: Body | None = None) -> Verified:
    """As if it had been checked: whoever tests the history alone needs no signatures."""
    named = (
        each.members[index]
        for each in body_.parts
        for index in unpack_members(each.contributors, len(each.members))
    )
    return Verified(aggregate_id(body_), Aggregate(body_, ()), tuple(named), origin)


def signed(body_: Body, *, first: int = 0) -> Aggregate:
    """By the fewest members that will do, from the `first` of each roster on."""
    by_key = {who.public_key: who for who in PEOPLE}
    identity = aggregate_id(body_)
    signatures = []
    for each in body_.parts:
        size = len(each.members)
        signers = [(first + place) % size for place in range(threshold(size))]
        statement = body_statement(body_.swarm, each.roster, identity)
        signatures.append(certificate(statement, [by_key[key] for key in each.members], signers))
    return Aggregate(body_, tuple(signatures))


def certificate(statement: bytes, members: Sequence[Identity], signers: Iterable[int]) -> Signatures:
    """What these of a cohort's members have signed as its body's statement."""
    single = {signer: members[signer].sign("body", statement) for signer in signers}
    half = certify("body", statement, [member.public_key for member in members], single)
    return Signatures(pack_members(sorted(single), len(members)), *half)


def unsound(signers: Sequence[int], size: int) -> Signatures:
    """As long as theirs would be, and signed by nobody."""
    return Signatures(pack_members(signers, size), bytes(32 * len(signers)), bytes(32))
