"""Audits: an honest sum clears its aggregator, a forged one is found by everybody who adds up again, and nobody is believed."""

import pytest
from msgspec import structs

from gossip.body import aggregate_id
from gossip.codec.codec import DENSE, encode_payload
from gossip.codec.entropy_coding import PLAIN
from gossip.errors import PeerViolation
from gossip.events import Compute, Computed, Send, TimerFired
from gossip.frames import Kind, Message, open_frame
from gossip.history.aggregate import Verified, body_statement
from gossip.history.strikes import Strikes
from gossip.secure_sum.audit import ALARMED, AUDIT_STEPS, AUDITS, OUTVOTED, AuditJob
from gossip.secure_sum.auditor import Auditor, Cleared, Forged, TakenBack, Unanswered
from gossip.secure_sum.auditor import State as AuditState
from gossip.secure_sum.member import Certified, SignedBody
from gossip.secure_sum.member import State as MemberState
from gossip.secure_sum.messages import Accusation, AuditAnswer, BodyProposal
from tests.simulation.harness import STEP_S
from tests.unit.gossip.secure_sum.test_masks_off import bare  # noqa: F401  (a fixture)
from tests.unit.gossip.secure_sum.test_member import Table

ALWAYS, NEVER = bytes(4), b"\xff" * 4
ZEROS = bytes(16)


class Court:
    """A table whose sum is over, with an auditor beside each member; what the first aggregator showed may be forged."""

    def __init__(self, table: Table, *, draw: bytes = ALWAYS) -> None:
        self.table = table
        self.auditors = [
            Auditor(table.members[i], table.people[i], lambda _count: draw) for i in range(table.cohort.size)
        ]
        self.first = table.first
        self.accused: dict[int, list[Message]] = {}
        self.verdicts: dict[int, list[object]] = {i: [] for i in range(table.cohort.size)}
        self.lost: set[Kind] = set()
        self.taken_back: dict[int, bytes] = {}

    def hold(self, *, members: list[int] | None = None, alarmed: bool = False) -> "Court":
        """The sum holds, as everybody learns; all mail is delivered."""
        for i in range(self.table.cohort.size) if members is None else members:
            member = self.table.members[i]
            [aggregate] = {body.id for body in member._offered.values()}
            self.take(i, self.auditors[i].held(aggregate, self.table.now, alarmed=alarmed))
        return self

    def take(self, i: int, actions: list[object]) -> list[object]:
        for action in actions:
            match action:
                case Send(peer, data):
                    message = open_frame(self.table.swarm.id, data)
                    if message.kind not in self.lost:
                        self.hear(self.table.cohort.members.index(peer), message)
                case Compute(tag, job):
                    self.take(i, self.auditors[i].handle(Computed(tag, job.run()), self.table.now))
                case Unanswered() | Forged() | Cleared():
                    self.verdicts[i].append(action)
                case TakenBack():
                    self.taken_back[i] = action.statement
        return actions

    def accusation(self, accuser: int, aggregate: bytes | None = None) -> Message:
        """Signed by this member."""
        table = self.table
        named = aggregate or next(iter(table.members[accuser]._offered.values())).id
        stated = body_statement(table.swarm.id, table.cohort.id, named)
        return table.message(accuser, Accusation(named, table.people[accuser].sign("retract", stated)))

    def hear(self, i: int, message: Message) -> None:
        if message.kind is Kind.AUDIT_REQUEST and i in self.table.aggregators:
            self.take(i, self.table.aggregators[i].handle(message, self.table.now))
        self.take(i, self.auditors[i].handle(message, self.table.now))

    def give_up(self, i: int) -> list[object]:
        fired = TimerFired(("sum", self.table.cohort.id, "audit"))
        return self.take(i, self.auditors[i].handle(fired, self.table.now))


def forging(table: Table, sums: bytes = ZEROS) -> Table:
    """The first aggregator publishes something else than it added up; nobody sees any harm in it."""
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal()
    honest = table.said(table.first, Kind.BODY_PROPOSAL)[0].body
    assert honest.sums != PLAIN + sums
    lie = table.message(table.first, BodyProposal(PLAIN + sums, honest.ranges))
    table.silent = set()
    table.aggregators[table.first]._offered = None  # what it has added up itself is in its way
    for i in range(table.cohort.size):
        table.give(i, lie)
    return table.deal()


TRUE = bytes([7]) * 32


def forged(table: Table) -> Forged:
    """By the first aggregator, and what it should have published."""
    member = table.members[table.first]
    audited = AuditJob(
        member.sealed,
        {i: table.aggregators[table.first]._gathered.masked[i].vector for i in member.sealed.contributors},
        table.aggregators[table.first]._secrets,
    ).run()
    true = aggregate_id(member.compose_body(audited.sums, audited.ranges))
    return Forged(table.cohort.id, table.cohort.aggregators[0], true)


def test_an_honest_sum_is_cleared_by_all_who_add_it_up_again():
    table = Table(5).start().deal()
    court = Court(table).hold()
    for i in range(5):
        expected = [] if i == table.first else [Cleared(table.cohort.id, ())]
        assert court.verdicts[i] == expected, "nobody audits itself"


def test_an_honest_sum_with_somebody_who_dropped_out_is_cleared():
    table = Table(5)
    gone = table.plain[-1]
    table.start().deal(Kind.SHARES, Kind.KEYS_SET)
    table.absent = {gone}
    table.mail = type(table.mail)(d for d in table.mail if d.sender != gone)
    table.deal().at(1.5)
    assert table.of(table.first, Certified)
    there = [i for i in range(5) if i not in {gone, table.first}]
    court = Court(table).hold(members=there)
    assert all(court.verdicts[i] == [Cleared(table.cohort.id, ())] for i in there)


def test_a_forged_sum_is_found_by_every_honest_member_even_if_only_one_draws():
    """Zeros, in which nobody sees any harm: the one who audits tells all, and each adds up for itself."""
    table = forging(Table(5))
    assert table.of(table.first, Certified), "all have signed it"
    court = Court(table, draw=NEVER)
    auditor = table.plain[0]
    court.auditors[auditor]._entropy = lambda _count: ALWAYS
    court.hold(members=[i for i in range(5) if i != auditor]).hold(members=[auditor])
    for i in range(5):
        assert court.verdicts[i] == ([] if i == table.first else [forged(table)])


def test_an_accusation_of_a_sum_that_this_member_has_not_signed_waits_until_it_holds():
    table = forging(Table(5))
    court = Court(table, draw=NEVER)
    i, j = table.plain[:2]
    table.members[i].body = None
    court.hear(i, court.accusation(j))
    assert court.auditors[i]._state is AuditState.IDLE
    court.hold(members=[i])
    court.give_up(i)
    assert court.verdicts[i] == [forged(table)]


def test_an_accusation_of_a_sum_that_this_member_has_signed_is_looked_into_at_once():
    table = forging(Table(5))
    court = Court(table, draw=NEVER)
    i, j = table.plain[:2]
    court.hear(i, court.accusation(j))
    court.give_up(i)  # it was asked, and has nothing to show
    assert court.verdicts[i] == [forged(table)]
    assert not court.taken_back, "it does not hold yet"


def disputed(table: Table) -> Court:
    """All have signed the first aggregator's forgery, and see what the second one has added up."""
    for i in range(table.cohort.size):
        table.members[i].state = MemberState.AWAIT_SUM
        table.members[i]._offered[table.cohort.aggregators[1]] = SignedBody(TRUE, table.members[i].body.body)
    return Court(table, draw=NEVER)


@pytest.mark.parametrize("is_forged", [True, False])
def test_of_two_sums_a_member_adds_up_which_is_true_and_names_the_author_of_the_other(is_forged):
    table = forging(Table(5)) if is_forged else Table(5).start().deal()
    court = disputed(table)
    second = table.cohort.aggregators[1]
    has, shows = table.aggregators[table.first], table.aggregators[table.second]
    shows._gathered, shows._secrets = has._gathered, has._secrets
    i = table.plain[0]
    court.take(i, court.auditors[i].disputed(second, 0.0))
    assert court.verdicts[i] == [forged(table) if is_forged else Cleared(table.cohort.id, (second,))]
    assert not court.auditors[i].disputed(second, 0.0), "once"


def test_an_aggregator_that_is_shown_another_sum_than_its_own_need_not_add_up_again():
    court = disputed(forging(Table(5)))
    table, (first, second) = court.table, court.table.cohort.aggregators
    court.lost = {Kind.ACCUSATION}
    court.take(table.second, court.auditors[table.second].disputed(second, 0.0))
    assert court.verdicts[table.second] == [Forged(table.cohort.id, first, TRUE)]
    court.take(table.first, court.auditors[table.first].disputed(second, 0.0))
    assert court.verdicts[table.first] == [Cleared(table.cohort.id, (second,))]


def test_of_two_sums_where_the_others_author_shows_nothing_the_signed_one_is_added_up():
    table = Table(5).start().deal()
    court = disputed(table)
    second = table.cohort.aggregators[1]
    i = table.plain[0]
    court.take(i, court.auditors[i].disputed(second, 0.0))
    court.give_up(i)
    assert court.verdicts[i] == [Cleared(table.cohort.id, (second,))]


def test_nobody_believes_an_accusation_and_who_accuses_falsely_is_named():
    table = Table(5).start().deal()
    court = Court(table, draw=NEVER).hold()
    i, liar = table.plain[:2]
    court.hear(i, court.accusation(liar))
    court.give_up(i)  # the liar has nothing to show, so the aggregator is asked
    assert court.verdicts[i] == [Cleared(table.cohort.id, (table.cohort.members[liar],))]


def test_an_aggregator_that_does_not_answer_is_unanswered_and_not_a_forger():
    table = Table(5).start().deal()
    court = Court(table)
    court.lost = {Kind.AUDIT_REQUEST}
    i = table.plain[0]
    aggregate = table.of(table.first, Certified)[0].aggregate
    asked, timer = court.auditors[i].held(aggregate_id(aggregate.body), 3.0, alarmed=False)
    assert (asked.peer, timer.at) == (table.cohort.aggregators[0], 3.0 + AUDIT_STEPS * STEP_S)
    assert Unanswered(table.cohort.id, table.cohort.aggregators[0]) in court.give_up(i)
    assert not court.give_up(i), "once"


def answers(table: Table, i: int) -> list[AuditAnswer]:
    request = Auditor(table.members[i], table.people[i], lambda _count: ALWAYS)
    aggregate = table.of(table.first, Certified)[0].aggregate
    asked, _ = request.held(aggregate_id(aggregate.body), 0.0, alarmed=False)
    told = table.aggregators[table.first].handle(open_frame(table.swarm.id, asked.data), 0.0)
    return [open_frame(table.swarm.id, action.data).body for action in told]


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("lie", ["vector", "secret", "stranger", "size"])
def test_what_was_not_sealed_is_no_answer(lie):
    table = Table(5).start().deal()
    i = table.plain[0]
    good, *_ = answers(table, i)
    bad = {
        "vector": AuditAnswer(good.owner, flipped(good.vector), good.secret),
        "secret": AuditAnswer(good.owner, good.vector, flipped(good.secret)),
        "stranger": AuditAnswer(60, good.vector, good.secret),
        "size": AuditAnswer(good.owner, good.vector + b"\0", good.secret),
    }[lie]
    court = Court(table)
    court.lost = {Kind.AUDIT_REQUEST}
    court.hold(members=[i])
    court.hear(i, table.message(table.plain[1], bad))
    assert court.verdicts[i] == [], "nobody else was asked"
    court.hear(i, table.message(table.first, bad))
    assert court.verdicts[i] == [Unanswered(table.cohort.id, table.cohort.aggregators[0])]
    assert (court.auditors[i]._vectors, court.auditors[i]._secrets) == ({}, {})


def test_what_was_added_up_is_shown_once_to_each_member_and_not_when_it_is_forgotten():
    table = Table(5).start().deal()
    i, j = table.plain[:2]
    assert len(answers(table, i)) == 5
    assert answers(table, i) == []
    table.aggregators[table.first].forget()
    assert answers(table, j) == []


def test_a_member_beyond_its_bounds_does_not_look_like_a_forgery(monkeypatch):
    """Its vector is sealed as it is, and what an honest aggregator cuts off, an auditor cuts off as well."""

    def loud(self, plan, contribution, rounding, *, layout, compression):
        encoded = encode_payload(plan, contribution, rounding, layout, compression)
        if contribution.values[-1] > 0.45:  # the last of five
            plan.lanes.narrow_view(encoded.vector)[:] = 100
        return encoded

    monkeypatch.setattr(type(DENSE), "encode", loud)
    table = Table(5).start().deal()
    [certified, *_] = table.of(table.first, Certified)
    assert max(certified.aggregate.body.sums[:16]) == 5 * 7, "cut at n S"
    court = Court(table).hold()
    assert court.verdicts[table.plain[0]] == [Cleared(table.cohort.id, ())]


def test_an_audit_is_drawn_with_its_share_and_more_often_when_alarmed():
    table = Table(5).start().deal()
    i = table.plain[0]
    share = int(AUDITS / 5 * (1 << 32))
    for alarmed in (False, True):
        for drawn, asks in (
            (share * (ALARMED if alarmed else 1) - 64, True),
            (share * (ALARMED if alarmed else 1) + 64, False),
        ):
            court = Court(table, draw=min(drawn, (1 << 32) - 1).to_bytes(4, "big"))
            court.lost = {Kind.AUDIT_REQUEST}
            court.hold(members=[i], alarmed=alarmed)
            assert (court.auditors[i]._state is AuditState.ASKING) == asks


def test_a_member_that_was_outvoted_audits_the_sum_one_time_of_four():
    table = Table(5).start().deal()
    aggregate = aggregate_id(table.of(table.first, Certified)[0].aggregate.body)
    for drawn, asks in ((int(OUTVOTED * (1 << 32)) - 64, True), (int(OUTVOTED * (1 << 32)) + 64, False)):
        court = Court(table, draw=drawn.to_bytes(4, "big"))
        asked = court.auditors[table.plain[0]].held(aggregate, 0.0, alarmed=False, outvoted=True)
        assert bool(asked) == asks


def test_without_masks_audits_are_the_same_also_of_who_dropped_out(bare):  # noqa: F811
    for gone in (None, 0):
        table = bare(4)
        late = None if gone is None else table.plain[0]
        table.absent = set() if late is None else {late}
        table.start().deal()
        if late is not None:
            table.at(1.5)
        assert table.of(table.first, Certified)
        i = next(j for j in table.plain if j != late)
        court = Court(table).hold(members=[i])
        assert court.verdicts[i] == [Cleared(table.cohort.id, ())]


def test_a_stranger_cannot_accuse():
    table = Table(5).start().deal()
    court = Court(table, draw=NEVER).hold()
    accusation = structs.replace(court.accusation(0), sender=bytes(32))
    with pytest.raises(PeerViolation, match="not a member of this cohort"):
        court.auditors[table.plain[0]].handle(accusation, 0.0)


def test_a_threshold_that_has_found_it_takes_a_forged_sum_back():
    table = forging(Table(5))
    court = Court(table, draw=ALWAYS).hold()
    finders = [i for i in range(5) if i != table.first]
    assert set(court.taken_back) <= set(finders)
    assert court.taken_back, "four of five are a threshold"
    [aggregate] = {action.aggregate for i in table.aggregators for action in table.of(i, Certified)}
    known = Verified.of(aggregate, table.swarm.manifest)
    for raw in court.taken_back.values():
        strikes = Strikes(table.swarm, lambda _: False)
        assert strikes.add(raw, {known.id: known}.get)
        assert strikes.effective().takes_out(known)


def test_fewer_than_a_threshold_take_nothing_back():
    table = forging(Table(5))
    court = Court(table, draw=ALWAYS)
    court.lost = {Kind.ACCUSATION}
    court.hold()
    i, *others = [j for j in range(5) if j != table.first]
    for j in others:
        assert not court.taken_back
        court.hear(i, court.accusation(j))
    assert set(court.taken_back) == {i}


def silent_forger(table: Table) -> Court:
    """Of a sum that holds and that nobody has drawn to audit; its aggregator shows nothing."""
    court = Court(table, draw=NEVER).hold()
    court.lost.add(Kind.AUDIT_REQUEST)
    return court


def suspected(court: Court, members: list[int]) -> None:
    """These have found in another cohort that the first aggregator forges, and hear nothing of this one."""
    forger = court.table.cohort.members[court.first]
    for i in members:
        court.take(i, court.auditors[i].suspected(forger, court.table.now))
    for _ in range(2):  # an accuser is asked before the aggregator
        for i in range(court.table.cohort.size):
            court.give_up(i)


def test_what_a_known_forger_does_not_show_is_taken_back():
    table = forging(Table(5))
    court = silent_forger(table)
    stranger = table.cohort.members[next(i for i in range(table.cohort.size) if i != table.first)]
    assert not any(each.suspected(stranger, table.now) for each in court.auditors), (
        "another one forges elsewhere"
    )
    others = [i for i in range(table.cohort.size) if i != table.first]
    suspected(court, others)
    assert set(court.taken_back) == set(others)
    assert not any(isinstance(each, Forged) for told in court.verdicts.values() for each in told)


def test_it_is_taken_back_by_nobody_as_long_as_fewer_than_a_threshold_know_the_forger():
    table = forging(Table(5))
    court = silent_forger(table)
    few = [i for i in range(table.cohort.size) if i != table.first][: table.cohort.threshold - 1]
    suspected(court, few)
    assert not court.taken_back
    left = next(i for i in range(table.cohort.size) if i not in few and i != table.first)
    court.take(left, court.auditors[left].suspected(table.cohort.members[table.first], table.now))
    assert court.taken_back, "who has waited in vain before takes it back at once"


def test_a_true_sum_of_a_forger_stays_if_it_is_shown():
    table = Table(5).start().deal()
    court = Court(table, draw=NEVER).hold()
    suspected(court, [i for i in range(table.cohort.size) if i != table.first])
    assert not court.taken_back
    assert any(isinstance(each, Cleared) for told in court.verdicts.values() for each in told)
