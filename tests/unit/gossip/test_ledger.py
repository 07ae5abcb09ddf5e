"""What a node writes it reads back alike, and a crash between any two writes loses nothing and counts nothing twice."""

import random

import numpy as np
import pytest

from crypto.hashing import digest
from gossip import ledger
from gossip.codec.blocks import Layout
from gossip.codec.error_feedback import Books, Sent
from gossip.errors import PeerViolation
from gossip.events import Drop, Persist, Persisted, Put
from gossip.frames import open_frame
from gossip.history.aggregate import Verified
from gossip.history.fold import fold_all
from gossip.membership.view import Settings
from gossip.secure_sum.member import Outcome
from gossip.secure_sum.messages import AbortVote
from node.core import NodeCore
from tests.histories import body, setting, signed
from tests.simulation.harness import Faults, World, tiny_initial

SETTING = setting()
LAYOUT: Layout = SETTING.layout
COHORT = digest("cohort", b"of this test")


class Disk:
    """Transactions, all or nothing; what is on it after so many of them."""

    def __init__(self) -> None:
        self.transactions: list[tuple[Put | Drop, ...]] = []

    def commit(self, *records: Put | Drop) -> None:
        self.transactions.append(records)

    def after(self, count: int) -> dict[str, dict[bytes, bytes]]:
        tables: dict[str, dict[bytes, bytes]] = {}
        for record in (record for records in self.transactions[:count] for record in records):
            table = tables.setdefault(record.table, {})
            if isinstance(record, Put):
                table[record.key] = record.value
            else:
                table.pop(record.key, None)
        return tables

    def read(self, count: int | None = None):
        tables = self.after(len(self.transactions) if count is None else count)
        return lambda table: sorted(tables.get(table, {}).items())


def frozen_books() -> Books:
    values = np.linspace(-1, 1, LAYOUT.parameters, dtype=np.float32)
    return Books(LAYOUT, values / 8).freeze(values)


def sent(blocks: list[int]) -> Sent:
    support = np.array(blocks, np.int64)
    return Sent(support, np.linspace(0.25, 0.5, LAYOUT.values_in(support), dtype=np.float32))


# --- every record ---------------------------------------------------------------------------------------------


def test_an_empty_disk_is_a_new_device():
    remembered = ledger.remember(Disk().read(), LAYOUT)
    assert not remembered.books.residual.any()
    assert remembered.books.frozen is None
    assert (remembered.books.outstanding, remembered.rosters, remembered.votes) == ({}, {}, {})
    assert (remembered.aggregates, remembered.presences) == ((), ())


@pytest.mark.parametrize("blocks", [[0], [1, 3], list(range(LAYOUT.blocks))])
def test_a_debit_comes_back_with_the_residual_that_it_left(blocks):
    disk, books = Disk(), frozen_books().debit(COHORT, sent(blocks))
    disk.commit(*ledger.debited(COHORT, b"roster", books))
    remembered = ledger.remember(disk.read(), LAYOUT)
    assert np.array_equal(remembered.books.residual, books.residual)
    assert remembered.books.residual.dtype == np.float32
    (out,) = remembered.books.outstanding.values()
    assert np.array_equal(out.support, blocks)
    assert np.array_equal(out.values, sent(blocks).values)
    assert remembered.rosters == {COHORT: b"roster"}
    refunded = remembered.books.refund(COHORT)
    assert np.array_equal(refunded.residual, books.refund(COHORT).residual)


def test_votes_aggregates_and_presences_come_back():
    disk = Disk()
    one = Verified.of(signed(body(SETTING, [])), SETTING.manifest)
    other = digest("cohort", b"another")
    disk.commit(Put("vote", COHORT, b"\x01" * 32), Put("vote", other, b""))
    disk.commit(*ledger.held([one]))
    disk.commit(Put("presence", b"p" * 32, b"frame"))
    remembered = ledger.remember(disk.read(), LAYOUT)
    assert remembered.votes == {COHORT: b"\x01" * 32, other: b""}
    assert remembered.aggregates == (one.aggregate,)
    assert remembered.presences == (b"frame",)


def test_what_is_settled_and_closed_is_gone_and_nothing_else_is():
    disk, other = Disk(), digest("cohort", b"another")
    books = frozen_books().debit(COHORT, sent([0]))
    disk.commit(*ledger.debited(COHORT, b"roster", books))
    for cohort in (COHORT, other):
        disk.commit(Put("vote", cohort, b"v"))
        disk.commit(Put("body", cohort, b"b"))
    disk.commit(*ledger.settled(COHORT))
    assert set(disk.after(99)["vote"]) == {COHORT, other}
    disk.commit(*ledger.closed(COHORT))
    left = disk.after(99)
    assert set(left["vote"]) == {other}
    assert set(left["body"]) == {other}
    assert left["debit"] == {}
    assert set(left["residual"]) == {b""}


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("residual", b"\0" * 4),
        ("debit", b"rubbish"),
        ("debit", b""),
        ("aggregate", b"\xc0"),
    ],
)
def test_a_record_that_is_none_is_told_apart(table, value):
    disk = Disk()
    disk.commit(Put(table, COHORT, value))
    with pytest.raises(PeerViolation):
        ledger.remember(disk.read(), LAYOUT)


# --- a crash between any two ----------------------------------------------------------------------------------


def test_at_every_crash_point_of_one_cohort_a_delta_is_here_or_out_and_never_both():
    whole = frozen_books()
    disk = Disk()
    books = whole.debit(COHORT, sent([0, 2]))
    disk.commit(*ledger.residual(whole.thaw()))
    disk.commit(*ledger.debited(COHORT, b"roster", books))
    disk.commit(Put("vote", COHORT, b"seal"))
    disk.commit(*ledger.settled(COHORT), *ledger.residual(books.refund(COHORT)))
    disk.commit(*ledger.closed(COHORT))
    for count in range(1, len(disk.transactions) + 1):
        here = ledger.remember(disk.read(count), LAYOUT).books
        everything = here.residual.copy()
        for out in here.outstanding.values():
            everything[LAYOUT.indices(out.support)] += out.values
        np.testing.assert_allclose(everything, whole.to_give, atol=1e-6)
        assert len(here.outstanding) == (count in {2, 3})


@pytest.fixture(scope="module")
def lives():
    """Every transaction of every device of a rough run, in order."""
    world = World(31, 5, faults=Faults(until=40, drop=0.05, duplicate=0.2, latency=(0.01, 0.4)))
    disks = {device.index: Disk() for device in world.devices}
    commit = world._commit

    def spy(device, persist: Persist) -> None:
        disks[device.index].commit(*persist.records)
        commit(device, persist)

    world._commit = spy
    world.run(45)
    assert min(len(disk.transactions) for disk in disks.values()) > 20
    return world, disks


def booted(world: World, index: int, read) -> NodeCore:
    return NodeCore(
        identity=world.devices[index].identity,
        swarm=world.swarm,
        initial=tiny_initial(),
        settings=Settings(("here",), tuple((d.key, ("there",)) for d in world.devices)),
        entropy=random.Random(index).randbytes,
        read=read,
    )


def test_a_node_starts_at_every_crash_point_and_knows_what_is_open(lives):
    world, disks = lives
    asked = 0
    for index, disk in disks.items():
        for count in range(0, len(disk.transactions) + 1, 2):
            tables = disk.after(count)
            core = booted(world, index, disk.read(count))
            actions = core.start(0.0)
            persisted = [a for a in actions if isinstance(a, Persist) and a.tag and a.tag[0] == "sum"]
            rounds = [core._history.counting(r) for r in range(1, core._history.round + 1)]
            expected, *_ = fold_all(tiny_initial(), rounds, core._layout, world.swarm.manifest)
            assert np.array_equal(expected, core._replica.x)
            assert set(tables.get("debit", {})) == set(core._cohorts)
            for cohort, running in core._cohorts.items():
                assert running.member.outcome is not None, "unknown, unless an aggregate has told it"
                told = [a for a in persisted if a.tag[1] == cohort]
                if tables.get("vote", {}).get(cohort):
                    assert not told, "who signed a seal never signs ABORT"
                    continue
                assert told[0].records == (Put("vote", cohort, b""),)
                core.handle(Persisted(told[0].tag), 0.0)
                waiting = [frame for queue in core._waiting.values() for frame in queue]
                opened = [open_frame(world.swarm.id, frame) for frame in waiting]
                asked += any(isinstance(m.body, AbortVote) and m.cohort == cohort for m in opened)
    assert asked, "some crash fell between a debit and its vote, and the node asked how it ended"


def test_a_debit_and_its_residual_are_one_transaction_and_votes_go_with_their_cohort(lives):
    world, disks = lives
    for disk in disks.values():
        for records in disk.transactions:
            puts = {record.table for record in records if isinstance(record, Put)}
            assert "debit" not in puts or "residual" in puts
    for device in world.devices:
        remembered = {key[:32] for key in device.disk["vote"]} | set(device.disk["body"])
        in_doubt = {c for c, r in device.core._cohorts.items() if r.member.outcome in {None, Outcome.UNKNOWN}}
        assert remembered <= in_doubt
