"""Error feedback: nothing is lost on the way, nothing is given twice, and the residual stays small for ever."""

import numpy as np
import pytest

from crypto.masking import add_vectors
from gossip.body import Body, Part
from gossip.codec.blocks import Layout
from gossip.codec.codec import Contribution, decode_sum, encode_payload, payload_plan
from gossip.codec.error_feedback import OUTSTANDING_MAX, Books, Sent
from gossip.errors import MisuseError
from gossip.manifest import Compression, Model, Tensor
from gossip.quorum import pack_members

A, B = b"A" * 32, b"B" * 32
LAYOUT = Layout.of(Model("t", bytes(32), (Tensor(12, 0),), 0, bytes(32)), 4)


def ramp(scale: float = 1.0) -> np.ndarray:
    return (np.arange(12) * scale).astype(np.float32)


def middle(value: float) -> Sent:
    """The second block of the three, one value throughout."""
    return Sent(np.array([1]), np.full(4, value, np.float32))


# --- the table ------------------------------------------------------------------------------------------------


def test_what_is_not_sent_stays():
    books = Books.empty(LAYOUT).freeze(ramp()).debit(A, middle(3.0))
    assert books.residual.tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 8, 9, 10, 11]
    assert list(books.outstanding) == [A]
    assert books.frozen is None
    assert books.freeze(ramp()).to_give.tolist() == [0, 2, 4, 6, 5, 7, 9, 11, 16, 18, 20, 22]


def test_an_included_payload_is_gone_for_good():
    settled = Books.empty(LAYOUT).freeze(ramp()).debit(A, middle(3.0)).settle(A)
    assert not settled.outstanding
    assert settled.residual.tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 8, 9, 10, 11]
    assert settled.refund(A) is settled, "a refund after that would be a second time"


def test_a_payload_in_no_sum_comes_back_once():
    refunded = Books.empty(LAYOUT).freeze(ramp()).debit(A, middle(3.0)).refund(A)
    assert refunded.residual.tolist() == ramp().tolist()
    assert not refunded.outstanding
    assert refunded.refund(A).residual.tolist() == ramp().tolist()


def test_of_what_a_sum_did_not_carry_the_swarms_share_stays_and_all_of_a_payload_that_comes_back():
    frozen = Books.empty(LAYOUT).freeze(ramp())
    whole, half, none = (frozen.debit(A, middle(3.0), share) for share in (1.0, 0.5, 0.0))
    assert half.residual.tolist() == [each / 2 for each in whole.residual.tolist()]
    assert not none.residual.any()
    assert none.refund(A).residual.tolist() == [0, 0, 0, 0, 3, 3, 3, 3, 0, 0, 0, 0]
    assert frozen.to_give.tolist() == ramp().tolist()


def test_a_cohort_that_ends_before_anything_left_costs_nothing():
    frozen = Books.empty(LAYOUT).freeze(ramp())
    assert frozen.residual.tolist() == [0] * 12
    thawed = frozen.thaw()
    assert thawed.residual.tolist() == ramp().tolist()
    assert thawed.frozen is None
    assert not thawed.outstanding


@pytest.mark.parametrize("then", [lambda books: books.thaw(), lambda books: books.debit(B, middle(0.0))])
def test_a_refund_while_another_phase_is_frozen_is_not_lost(then):
    books = Books.empty(LAYOUT).freeze(ramp()).debit(A, middle(3.0)).freeze(ramp(10.0))
    assert then(books.refund(A)).residual.tolist() == ramp(11.0).tolist()


def test_the_oldest_of_too_many_open_cohorts_counts_as_included():
    books = Books.empty(LAYOUT)
    for cohort in range(OUTSTANDING_MAX + 1):
        books = books.freeze(ramp(0.0)).debit(bytes([cohort]) * 32, middle(1.0))
    assert [cohort[0] for cohort in books.outstanding] == list(range(1, OUTSTANDING_MAX + 1))
    assert books.refund(bytes(32)) is books


def test_books_are_not_changed_in_place():
    empty = Books.empty(LAYOUT)
    frozen = empty.freeze(ramp())
    debited = frozen.debit(A, middle(3.0))
    debited.refund(A)
    assert not empty.residual.any()
    assert frozen.to_give.tolist() == ramp().tolist()
    assert not frozen.outstanding
    assert list(debited.outstanding) == [A]
    assert debited.residual[4] == 1.0


def test_what_does_not_follow_is_a_bug_of_ours():
    empty = Books.empty(LAYOUT)
    frozen = empty.freeze(ramp())
    for misuse in (
        lambda: frozen.freeze(ramp()),
        empty.thaw,
        lambda: empty.debit(A, middle(1.0)),
        lambda: empty.to_give,
        lambda: frozen.debit(A, middle(1.0)).freeze(ramp()).debit(A, middle(1.0)),
        lambda: empty.freeze(ramp()[1:]),
        lambda: empty.freeze(ramp().astype(np.float64)),
    ):
        with pytest.raises(MisuseError):
            misuse()


def test_a_diverged_delta_is_refused_by_name_and_changes_nothing():
    books = Books.empty(LAYOUT).freeze(np.full(12, 3e38, np.float32)).thaw()
    for poison in (np.nan, np.inf, 3e38):
        delta = ramp(0.0)
        delta[7] = poison
        with pytest.raises(ValueError, match="parameter 7 is not finite"):
            books.freeze(delta)
    assert books.freeze(ramp(0.0)).to_give[7] == np.float32(3e38)


# --- a long run -----------------------------------------------------------------------------------------------

PARAMETERS, MEMBERS, ROUNDS = 1600, 4, 1500
COARSE = Compression("dense", 8, 1, 8, -2)  # one level: +1, 0 or -1
CARRIED = 10  # of 200 blocks
MODEL = Layout.of(Model("q", bytes(32), (Tensor(PARAMETERS, 0),), 0, bytes(32)), 8)


def descend(*, forget: bool = False, twice: bool = False) -> tuple[list[float], list[float]]:
    """Each member pulls towards an optimum of its own: by round, the distance to their mean and the largest residual.

    Two planted bugs: `forget` throws the residual away, `twice` takes back what is in a sum.
    """
    generator, lots = np.random.default_rng(5), np.random.default_rng(6)
    optima = generator.normal(0.2, 0.1, (MEMBERS, PARAMETERS))
    x, books, parents = np.zeros(PARAMETERS), [Books.empty(MODEL)] * MEMBERS, []
    distances, norms = [], []
    for round_ in range(1, ROUNDS + 1):
        cohort = round_.to_bytes(32)
        support = np.sort(lots.choice(MODEL.blocks, CARRIED, replace=False))
        plan = payload_plan(support, MODEL, COARSE, parents)
        total = plan.lanes.zeros()
        for member in range(MEMBERS):
            frozen = books[member].freeze((0.01 * (optima[member] - x)).astype(np.float32))
            encoded = encode_payload(
                plan, Contribution(frozen.to_give, 0), generator.bytes(32), MODEL, COARSE
            )
            add_vectors(total, encoded.vector, plan.lanes)
            debited = frozen.debit(cohort, encoded.sent)
            books[member] = debited.refund(cohort) if twice else debited.settle(cohort)
            if forget:
                books[member] = Books.empty(MODEL)
        ranges, sums = decode_sum(total, plan.lanes, MEMBERS)
        scale = 1 / (COARSE.levels * MEMBERS)
        unit = MODEL.expand(2.0 ** plan.exponents.astype(float), plan.support)
        x[MODEL.indices(plan.support)] += np.frombuffer(sums, np.int8) * unit * scale
        part = Part(bytes(32), (), bytes(32), pack_members(range(MEMBERS), MEMBERS))
        parents = [Body(1, bytes(32), (part,), (), round_, 0, b"", b"", b"", b"", (MEMBERS,), ranges, b"")]
        distances.append(float(np.linalg.norm(x - optima.mean(axis=0))))
        norms.append(max(float(np.linalg.norm(each.residual)) for each in books))
    return distances, norms


def test_one_level_and_a_twentieth_of_the_blocks_still_find_the_optimum():
    distances, norms = descend()
    # Not nearer: the members' optima differ, so their deltas, and with them the rounding, never vanish.
    assert max(distances[-100:]) < 0.1 * distances[0]
    assert max(norms[-500:]) < 1.1 * max(norms[500:1000]), "the residual has stopped growing"


def test_without_the_residual_the_way_is_long_and_with_a_double_count_it_leads_astray():
    assert min(forgetful := descend(forget=True)[0]) > 0.5 * forgetful[0]
    distances, norms = descend(twice=True)
    assert distances[-1] > 5 * distances[0]
    assert norms[-1] > 5 * norms[100]
