"""Each row of the tables in `gossip.secure_sum.member` and `gossip.secure_sum.aggregator`, and each refusal, with the machines driven by hand."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from crypto.certificates import certify
from crypto.half_aggregation import HalfAggregate
from crypto.hashing import digest
from crypto.identity import Identity
from gossip.body import Body, aggregate_id
from gossip.codec.blocks import Layout
from gossip.codec.codec import DENSE, Contribution, encode_payload
from gossip.codec.entropy_coding import PLAIN
from gossip.codec.ranges import RANGE_SLACK
from gossip.cohort.messages import Ready, Roster
from gossip.cohort.roster import Secrets, open_roster, ready_frames, write_roster
from gossip.errors import PeerViolation
from gossip.events import (
    CancelTimer,
    Compute,
    Computed,
    Persist,
    Persisted,
    PersistFailed,
    Put,
    Report,
    Send,
    SetTimer,
    TimerFired,
)
from gossip.frames import Frame, Kind, Message, open_frame, sign_frame, statement
from gossip.history.aggregate import Aggregate, body_statement, check
from gossip.quorum import pack_members, unpack_members
from gossip.secure_sum.aggregator import Aggregator
from gossip.secure_sum.harm import HARM_MAX, UNKNOWN, Impression
from gossip.secure_sum.member import (
    ABORT_STEPS,
    END_STEPS,
    KEYS_STEPS,
    REJECT_STEPS,
    SECOND_AGGREGATOR_STEPS,
    Certified,
    Closed,
    Contribute,
    Contributed,
    Disputed,
    Failed,
    Inspect,
    Inspected,
    Member,
    Outcome,
    Refused,
    Rejected,
    Settled,
    Spend,
    State,
    Terms,
)
from gossip.secure_sum.messages import (
    AbortCertificate,
    AbortVote,
    BodyProposal,
    BodyVote,
    Commitment,
    Decline,
    KeysSet,
    Masked,
    RejectCertificate,
    RejectVote,
    Result,
    SealCertificate,
    SealProposal,
    SealVote,
    Shares,
    Unmask,
)
from gossip.wire import pack
from tests.simulation.harness import STEP_S, tiny_swarm
from tests.unit.crypto.test_half_aggregation import without_nonce

BOTH_SEGMENTS = 0b11


@dataclass(frozen=True)
class Delivery:
    sender: int
    receiver: int
    message: Message


def seen(tag, harm: float) -> Inspected:
    """What a node answers to Inspect, where a sum does so much harm and is as large as usual."""
    return Inspected(tag, Impression(harm, UNKNOWN).reason)


class Table:
    """A cohort round a table: what one says lies there until the test deals it out. Disk and jobs answer at once,
    unless a type of action is named in `held`."""

    def __init__(self, n: int = 4, *, n_min: int = 3, trained: tuple[int, ...] = ()) -> None:
        rng = random.Random(f"table/{n}/{n_min}")
        self.entropy = rng.randbytes
        self.people = sorted(
            (Identity(digest("seat", bytes([i]))) for i in range(n)), key=lambda p: p.public_key
        )
        keys = [person.public_key for person in self.people]
        self.swarm = tiny_swarm(self.people[0], keys, n_min=n_min)
        secrets = [Secrets.fresh(key, self.entropy) for key in keys]
        readies = tuple(
            self.ready_of(person, secrets[i], trained[i] if trained else BOTH_SEGMENTS)
            for i, person in enumerate(self.people)
        )
        roster = sign_frame(self.people[0], self.swarm.id, write_roster(self.swarm, 1, (), b"", readies))
        self.cohort = open_roster(self.swarm, open_frame(self.swarm.id, roster))
        self.layout = Layout.of(self.swarm.manifest.model, self.swarm.manifest.compression.block_size)
        self.terms = Terms(DENSE, self.layout, ())
        self.members = [
            Member(self.cohort, person, secrets[i], self.terms, self.entropy)
            for i, person in enumerate(self.people)
        ]
        self.first, self.second = (keys.index(key) for key in self.cohort.aggregators)
        self.aggregators = {i: Aggregator(self.members[i], self.people[i]) for i in (self.first, self.second)}
        self.plain = [i for i in range(n) if i not in self.aggregators]
        self.now = 0.0
        self.mail: deque[Delivery] = deque()
        self.done: dict[int, list[object]] = {i: [] for i in range(n)}  # all actions, by who wanted them
        self.disk: dict[int, dict[tuple[str, bytes], bytes]] = {i: {} for i in range(n)}
        self.held: tuple[type, ...] = ()
        self.waiting: list[tuple[int, object]] = []
        self.silent: set[Kind] = set()  # kinds of message that are lost
        self.absent: set[int] = set()  # members who neither hear nor speak
        self.timers: dict[tuple[int, tuple[object, ...]], float] = {}
        self.rise: Callable[[int, Body], float] = lambda _i, _body: 0.0  # what a member sees, in nats

    def ready_of(self, person: Identity, secrets: Secrets, trained: int) -> Message:
        ready = Ready(1, (), trained, secrets.channel.public, secrets.mask.public)
        return open_frame(self.swarm.id, sign_frame(person, self.swarm.id, ready))

    # --- driving ---------------------------------------------------------------------------------------------

    def start(self) -> "Table":
        for i, member in enumerate(self.members):
            if i not in self.absent:
                self.take(i, member.start(self.now))
        for i, aggregator in self.aggregators.items():
            if i not in self.absent:
                self.take(i, aggregator.start(self.now))
        return self

    def give(self, i: int, event: object) -> list[object]:
        """One event to a member, and to the aggregator beside it, as a node does it; what they wanted."""
        before = len(self.done[i])
        if isinstance(event, Message) and isinstance(event.body, Result):
            self.learn(i, self.members[i].completed(event.body))
        self.take(i, self.members[i].handle(event, self.now))
        if i in self.aggregators:
            self.take(i, self.aggregators[i].handle(event, self.now))
        return self.done[i][before:]

    def learn(self, i: int, aggregate: Aggregate | None) -> None:
        """What a node's history does with a certified sum, and tells its member."""
        if aggregate is not None:
            part = aggregate.body.parts[0]
            self.take(i, self.members[i].learned(unpack_members(part.contributors, self.cohort.size)))

    def take(self, i: int, actions: list[object]) -> None:
        self.done[i] += actions
        for action in actions:
            if isinstance(action, self.held):
                self.waiting.append((i, action))
            else:
                self.answer(i, action)

    def answer(self, i: int, action: object) -> None:
        match action:
            case Send(peer, data):
                message = open_frame(self.swarm.id, data)
                if message.kind not in self.silent and i not in self.absent:
                    self.mail.append(Delivery(i, self.cohort.members.index(peer), message))
            case Persist(tag, records):
                for record in records:
                    assert isinstance(record, Put)
                    self.disk[i][record.table, record.key] = record.value
                self.give(i, Persisted(tag))
            case Compute(tag, job):
                self.give(i, Computed(tag, job.run()))
            case Contribute():
                values = np.linspace(-0.1, 0.1, self.layout.parameters, dtype=np.float32) * (i + 1)
                self.give(i, Contributed(Contribution(values, 0)))
            case Inspect(body, tag):
                self.give(i, seen(tag, self.rise(i, body)))
            case Spend(_, _, tag):
                self.disk[i]["debit", self.cohort.id] = b""
                self.give(i, Persisted(tag))
            case Certified(aggregate):
                self.learn(i, aggregate)
            case SetTimer(tag, at):
                self.timers[i, tag] = at
            case CancelTimer(tag):
                self.timers.pop((i, tag), None)

    def deal(self, *kinds: Kind) -> "Table":
        """Deliver all mail, or that of these kinds, until none is left."""
        kept: deque[Delivery] = deque()
        while self.mail:
            letter = self.mail.popleft()
            if kinds and letter.message.kind not in kinds:
                kept.append(letter)
            elif letter.receiver not in self.absent:
                self.give(letter.receiver, letter.message)
        self.mail = kept
        return self

    def release(self) -> None:
        """Answer all that was held."""
        self.held = ()
        waiting, self.waiting = self.waiting, []
        for i, action in waiting:
            self.answer(i, action)

    def at(self, steps: float) -> "Table":
        """Time goes on to so many steps from the start; timers fire in order."""
        until = steps * STEP_S
        while due := sorted((at, i, tag) for (i, tag), at in self.timers.items() if at <= until):
            self.now, i, tag = due[0]
            del self.timers[i, tag]
            self.give(i, TimerFired(tag))
            self.deal()
        self.now = until
        return self

    # --- looking ---------------------------------------------------------------------------------------------

    def said(self, i: int, kind: Kind) -> list[Message]:
        frames = [action.data for action in self.done[i] if isinstance(action, Send)]
        return [m for m in (open_frame(self.swarm.id, frame) for frame in frames) if m.kind is kind]

    def of(self, i: int, kind: type) -> list[object]:
        return [action for action in self.done[i] if isinstance(action, kind)]

    def outcome(self, i: int) -> Outcome | None:
        return self.members[i].outcome

    def message(self, sender: int, body: object) -> Message:
        frame = sign_frame(self.people[sender], self.swarm.id, body, cohort=self.cohort.id)
        return open_frame(self.swarm.id, frame)

    def masked(self) -> "Table":
        """All have masked; the vectors lie on the table."""
        self.start().deal(Kind.SHARES, Kind.KEYS_SET)
        assert {member.state for member in self.members} == {State.AWAIT_SEAL}
        return self

    def proposed(self) -> tuple["Table", Message]:
        """The first aggregator's proposal lies on the table, seen by nobody yet."""
        self.masked().deal(Kind.MASKED)
        return self, next(d.message for d in self.mail if d.message.kind is Kind.SEAL_PROPOSAL)

    def proposal(self, **changed: object) -> SealProposal:
        """What the first aggregator proposes when all have masked; changed as the test says."""
        member = self.members[0]
        hashes = tuple(hash_of_vector(member) for member in self.members)
        everybody = pack_members(range(self.cohort.size), self.cohort.size)
        return replace_fields(SealProposal(member.context, everybody, hashes), **changed)


def hash_of_vector(member: Member) -> bytes:
    return member.vector_hash(member.index, member._vector)


def replace_fields(struct: object, **changed: object) -> object:
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return type(struct)(**fields | changed)


def kinds(actions: list[object], swarm: bytes) -> list[Kind]:
    return [open_frame(swarm, action.data).kind for action in actions if isinstance(action, Send)]


# --- the whole way --------------------------------------------------------------------------------------------


def test_all_the_way_to_a_certified_sum():
    table = Table(4).start().deal()
    certified = table.of(table.first, Certified)
    assert len(certified) == 1
    body = certified[0].aggregate.body
    assert unpack_members(body.parts[0].contributors, 4) == [0, 1, 2, 3]
    assert body.weights == (4,) * 2
    for i, member in enumerate(table.members):
        settled = Settled(table.cohort.id, Outcome.INCLUDED, "the aggregate arrived")
        assert table.of(i, Settled) == [settled]
        assert member.state is State.OVER
        assert (member._secrets, member._vector, member.keys) == (None, None, None)
        assert table.disk[i]["vote", table.cohort.id]


# --- the member's rows ----------------------------------------------------------------------------------------


def test_start_sends_shares_to_the_first_aggregator_and_ends_without_keys():
    table = Table()
    i = table.plain[0]
    actions = table.members[i].start(0.0)
    assert [a.peer for a in actions if isinstance(a, Send)] == [table.cohort.aggregators[0]]
    assert kinds(actions, table.swarm.id) == [Kind.SHARES]
    assert SetTimer(("sum", table.cohort.id, "turn"), SECOND_AGGREGATOR_STEPS * STEP_S) in actions
    assert SetTimer(("sum", table.cohort.id, "end"), KEYS_STEPS * STEP_S) in actions
    assert Contribute(table.cohort.id) in actions
    over = table.members[i].handle(TimerFired(("sum", table.cohort.id, "end")), KEYS_STEPS)
    settled = Settled(table.cohort.id, Outcome.UNTOUCHED, "the cohort ran out of time")
    assert over[:2] == [Failed(table.cohort.id), settled]
    assert table.members[i].state is State.OVER


def test_keys_do_not_wait_for_the_contribution_and_nothing_leaves_before_the_debit_is_durable():
    table = Table()
    table.held = (Contribute, Compute, Spend)
    table.start().deal()
    i = table.plain[0]
    member = table.members[i]
    assert member.state is State.PREPARING
    assert {("abort",), ("end",)} <= {tag[2:] for j, tag in table.timers if j == i}
    (compute,) = table.give(i, Contributed(Contribution(np.zeros(16, np.float32), 0)))
    assert compute.tag[2:] == ("mask",)
    (spend,) = table.give(i, Computed(compute.tag, compute.job.run()))
    assert isinstance(spend, Spend)
    assert not table.said(i, Kind.MASKED)


def test_keys_and_contribution_may_come_in_any_order_and_the_vector_is_the_same():
    told = []
    for contribution_first in (True, False):
        table = Table(4)
        for i, member in enumerate(table.members):
            member._entropy = random.Random(i).randbytes
        table.held = () if contribution_first else (Contribute,)
        table.start()
        assert all((member._contribution is not None) == contribution_first for member in table.members)
        assert not any(table.of(i, Compute) for i in range(4)), "nothing is masked without keys"
        table.deal(Kind.SHARES, Kind.KEYS_SET)
        assert all(bool(table.of(i, Compute)) == contribution_first for i in range(4))
        table.release()
        table.deal()
        assert {table.outcome(i) for i in range(4)} == {Outcome.INCLUDED}
        told.append([[message.body for message in table.said(i, Kind.MASKED)] for i in range(4)])
    assert told[0] == told[1]
    assert all(told[0])


def test_a_contribution_that_no_keys_follow_is_not_spent():
    table = Table()
    table.silent = {Kind.KEYS_SET}
    table.start().deal()
    assert all(member._contribution is not None for member in table.members)
    table.at(KEYS_STEPS + 2)
    assert {table.outcome(i) for i in range(4)} == {Outcome.UNTOUCHED}
    assert not any(table.of(i, Spend) or table.of(i, Compute) for i in range(4))


def test_masked_goes_to_the_first_aggregator_once_the_debit_is_durable():
    table = Table()
    table.held = (Spend,)
    table.start().deal()
    i = table.plain[0]
    assert len(table.of(i, Spend)) == 1
    assert not any(table.said(j, Kind.MASKED) for j in range(4))
    table.release()
    assert len(table.said(i, Kind.MASKED)) == 1
    assert len(table.said(table.first, Kind.MASKED)) == 2, (
        "its own vector is in its seals, and must outlive it"
    )
    assert table.members[i].state is State.AWAIT_SEAL


def test_a_vote_leaves_only_when_it_is_durable():
    table, proposal = Table().proposed()
    table.held = (Persist,)
    i = table.plain[0]
    [persist] = [a for a in table.give(i, proposal) if isinstance(a, Persist)]
    assert persist.records[0].table == "vote"
    assert not table.said(i, Kind.SEAL_VOTE)
    table.release()
    assert len(table.said(i, Kind.SEAL_VOTE)) == 1


def test_a_certified_seal_opens_one_secret_of_each_owner():
    table = Table(5)
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal(Kind.SHARES, Kind.KEYS_SET)
    lost = table.plain[0]
    table.mail = deque(d for d in table.mail if d.sender != lost)
    table.at(1.0)
    i = table.plain[1]
    assert table.members[i].state is State.AWAIT_SUM
    (shares,) = {m.body.shares for m in table.said(i, Kind.UNMASK)}
    holdings = table.members[i].keys.holdings
    assert shares == tuple(holdings[owner].shares[owner == lost] for owner in range(5))


def test_t_abort_votes_refund_and_tell_those_who_did_not_vote():
    table = Table(5)
    table.silent = {Kind.MASKED}
    table.start().deal()
    i = next(j for j in table.plain if table.cohort.members[j] not in table.cohort.hubs)
    others = [j for j in range(5) if j != i]
    for j in others[:3]:
        assert not table.give(i, table.message(j, AbortVote()))
    told = table.give(i, table.message(others[3], AbortVote()))
    assert [(a.peer, k) for a, k in zip(told, kinds(told, table.swarm.id), strict=False)] == [
        (table.cohort.members[i], Kind.ABORT_CERTIFICATE)
    ]
    assert table.outcome(i) is Outcome.REFUNDED
    assert Closed(table.cohort.id) in told
    j = table.plain[1]
    table.give(j, table.said(i, Kind.ABORT_CERTIFICATE)[0])
    assert table.outcome(j) is Outcome.REFUNDED
    (answer,) = table.give(i, table.message(j, AbortVote()))
    assert kinds([answer], table.swarm.id) == [Kind.ABORT_CERTIFICATE], "who asks how it ended is told"


def test_a_hub_tells_everybody_of_an_abort_as_votes_may_have_reached_nobody_else():
    table = Table(5)
    table.silent = {Kind.MASKED}
    table.start().deal()
    i = next(j for j in table.plain if table.cohort.members[j] in table.cohort.hubs)
    told = [table.give(i, table.message(j, AbortVote())) for j in range(5) if j != i][-1]
    sent = [action.peer for action in told if isinstance(action, Send)]
    assert sorted(sent) == sorted(table.cohort.members)


def test_the_leader_is_the_first_aggregator_and_leads_a_cohort_of_its_own():
    table = Table(5)
    assert table.cohort.leader == table.cohort.aggregators[0]
    roster = table.cohort.roster
    for leader in (1, 2):
        frame = sign_frame(table.people[leader], table.swarm.id, roster)
        other = open_roster(table.swarm, open_frame(table.swarm.id, frame))
        assert other.id != table.cohort.id
        assert other.aggregators[0] == table.people[leader].public_key
        assert len({*other.hubs}) == 3


def test_without_a_seal_all_abort_in_time_and_are_refunded():
    table = Table()
    table.silent = {Kind.SEAL_PROPOSAL}
    table.start().deal().at(ABORT_STEPS - 0.01)
    assert not any(table.said(i, Kind.ABORT_VOTE) for i in range(4))
    table.at(ABORT_STEPS)
    voters = [i for i in range(4) if table.said(i, Kind.ABORT_VOTE)]
    assert len(voters) >= table.cohort.threshold
    assert {table.outcome(i) for i in range(4)} == {Outcome.REFUNDED}


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [
        ({Kind.KEYS_SET}, Outcome.UNTOUCHED),
        ({Kind.SEAL_PROPOSAL, Kind.ABORT_VOTE}, Outcome.UNKNOWN),
        ({Kind.SEAL_CERTIFICATE}, Outcome.UNKNOWN),
        ({Kind.UNMASK}, Outcome.UNKNOWN),
        ({Kind.BODY_PROPOSAL}, Outcome.UNKNOWN),
    ],
    ids=lambda value: "+".join(sorted(k.name for k in value)) if isinstance(value, set) else value.value,
)
def test_every_wait_ends_and_what_left_without_a_certificate_counts_as_included(lost, outcome):
    table = Table()
    table.silent = lost
    table.start().deal().at(END_STEPS + KEYS_STEPS)
    assert {member.state for member in table.members} == {State.OVER}
    assert {table.outcome(i) for i in range(4)} == {outcome}
    assert not [tag for _, tag in table.timers if tag[2] in {"end", "abort"}]


def test_a_contribution_that_never_comes_leaves_the_others_to_it():
    table = Table()
    i = table.plain[0]
    table.held = (Contribute,)
    table.start().deal()
    table.held = ()
    for j, action in table.waiting:
        if j != i:
            table.answer(j, action)
    table.at(1.0)
    assert table.of(table.first, Certified)
    assert table.outcome(i) is Outcome.UNTOUCHED
    contribute = next(action for j, action in table.waiting if j == i)
    table.answer(i, contribute)
    assert not table.of(i, Compute), "too late: sealed without it"


def before_a_body(n: int = 4) -> tuple[Table, int, Message]:
    """A member that is shown no sum yet, and the first aggregator's."""
    table = Table(n)
    table.silent = {Kind.BODY_PROPOSAL, Kind.BODY_VOTE}
    table.start().deal()
    return table, table.plain[0], table.said(table.first, Kind.BODY_PROPOSAL)[0]


def another(body: Body) -> BodyProposal:
    return BodyProposal(PLAIN + body.sums, (body.ranges[0] - 1, body.ranges[1]))


def test_only_one_body_is_signed_and_durably():
    table, i, proposal = before_a_body()
    table.held = (Persist,)
    [persist] = [a for a in table.give(i, proposal) if isinstance(a, Persist)]
    assert persist.records[0].table == "body"
    assert not table.said(i, Kind.BODY_VOTE)
    table.release()
    assert len(table.said(i, Kind.BODY_VOTE)) == 1
    other = another(table.members[i].body.body)
    again = table.give(i, table.message(table.second, proposal.body))
    assert kinds(again, table.swarm.id) == [Kind.BODY_VOTE], "a lost vote is repeated to whom asks"
    assert again[0].peer == table.cohort.aggregators[1]
    noted, disputed = table.give(i, table.message(table.second, other))
    assert noted.fields["phase"] == "TWO_SUMS"
    assert disputed == Disputed(table.cohort.id, table.cohort.aggregators[1])
    assert not table.give(i, table.message(table.second, other)), "once"


def test_a_member_signs_the_true_sum_too_once_it_has_added_up_that_it_signed_a_forged_one():
    table, i, proposal = before_a_body()
    table.give(i, proposal)
    member = table.members[i]
    table.give(i, table.message(table.second, another(member.body.body)))
    signed, shown = member.body.id, member.offered[table.cohort.aggregators[1]].id
    assert not member.disproved(signed, table.now), "the one that it has signed is true"
    assert not member.disproved(bytes(32), table.now), "nobody has shown the true one"
    assert member.body.id == signed
    before = table.disk[i][("body", table.cohort.id)]
    table.take(i, member.disproved(shown, table.now))
    assert member.body.id == shown
    assert (before, table.disk[i][("body", table.cohort.id)]) == (signed, shown)
    votes = {message.body.aggregate for message in table.said(i, Kind.BODY_VOTE)}
    assert votes == {signed, shown}
    [*_, last] = [a for a in table.done[i] if isinstance(a, Send) and a.peer == table.cohort.aggregators[1]]
    assert open_frame(table.swarm.id, last.data).body.aggregate == shown, "the second hears it"


def test_whoever_has_signed_a_forgery_rejects_a_harmful_true_sum_only_with_half_of_the_cohort():
    """The forgery may have t signatures by now, and a refund of its contributors would count them twice."""
    table, i, proposal = before_a_body(8)
    table.give(i, proposal)
    member = table.members[i]
    true = member.body.id
    table.give(i, table.message(table.second, another(member.body.body)))
    table.rise = lambda _i, body: 0.0 if aggregate_id(body) == true else 1.0
    table.take(i, member.disproved(member.offered[table.cohort.aggregators[1]].id, table.now))
    assert member.body is None
    table.give(i, TimerFired(("sum", table.cohort.id, "reject")))
    assert not table.said(i, Kind.REJECT_VOTE)
    rejecting = [j for j in range(8) if j != i][:4]
    for j in rejecting:
        assert not table.said(i, Kind.REJECT_VOTE)
        table.give(i, table.message(j, RejectVote()))
    assert table.said(i, Kind.REJECT_VOTE), "four of eight: no body will have six signatures"


@pytest.mark.parametrize("refuses_itself", [True, False])
def test_a_second_aggregator_asks_those_who_have_not_turned_to_it_for_their_vectors(refuses_itself):
    """Seen: where it refused the sum itself it asked nobody, so a loud member that signs cost each REJECT a step."""
    table = Table(6)
    content = {table.plain[0]} if refuses_itself else {table.plain[0], table.second}
    table.rise = lambda i, body: 0.0 if i in content else 1.0
    table.start().deal()
    assert table.said(table.second, Kind.BODY_PROPOSAL), "it has all vectors"
    assert all(table.outcome(i) is Outcome.REFUNDED for i in range(6)), "at once, and not after a step"


def test_an_aggregator_counts_the_last_vote_of_a_member():
    """Which may have signed a forgery first."""
    table = Table()
    table.silent = {Kind.BODY_VOTE}
    table.start().deal()
    aggregator = table.aggregators[table.first]
    true = aggregator._offered.id
    for aggregate in (bytes(32), true):
        stated = body_statement(table.swarm.id, table.cohort.id, aggregate)
        for i in range(table.cohort.size):
            assert not table.of(table.first, Certified)
            vote = BodyVote(aggregate, table.people[i].sign("body", stated))
            table.take(table.first, aggregator.handle(table.message(i, vote), table.now))
            if table.of(table.first, Certified):
                break
    assert i == table.cohort.threshold - 1


# --- refusals: keys -------------------------------------------------------------------------------------------


def keys_for(table: Table, i: int) -> KeysSet:
    table.silent = {Kind.KEYS_SET}
    table.start().deal()
    return next(
        open_frame(table.swarm.id, a.data).body
        for a in table.done[table.first]
        if isinstance(a, Send)
        and a.peer == table.cohort.members[i]
        and open_frame(table.swarm.id, a.data).kind is Kind.KEYS_SET
    )


def without(keys: KeysSet, *places: int) -> KeysSet:
    owners = [i for i in range(5) if i not in places]
    return KeysSet(
        pack_members(owners, 5),
        tuple(keys.committed[i] for i in owners),
        tuple(keys.envelopes[i] for i in owners),
    )


def test_keys_from_somebody_who_does_not_aggregate():
    table = Table()
    keys = keys_for(table, 0)
    with pytest.raises(PeerViolation, match="is none"):
        table.give(table.plain[0], table.message(table.plain[1], keys))


def test_keys_that_are_not_fit_to_mask_under():
    table = Table(5)
    i = table.plain[0]
    keys = keys_for(table, i)
    others = [j for j in range(5) if j != i]
    swapped = replace_fields(keys, committed=tuple(reversed(keys.committed)))
    of_all = replace_fields(without(keys, others[0]), owners=keys.owners)
    other = replace_fields(keys.committed[0], commitment=Commitment(bytes(16)))
    for bad, why in [
        (without(keys, i), "leaves this member out"),
        (without(keys, *others[:2]), "3 of at least 4"),
        (swapped, "does not hold in this cohort"),
        (replace_fields(keys, envelopes=keys.envelopes[:-1]), "differ in number"),
        (of_all, "differ in number"),
        (replace_fields(keys, owners=b"\xff"), "does not fit"),
        (replace_fields(keys, committed=(other, *keys.committed[1:])), "does not hold in this cohort"),
    ]:
        with pytest.raises(PeerViolation, match=why):
            table.give(i, table.message(table.first, bad))
        assert table.members[i].state is State.AWAIT_KEYS
    table.give(i, table.message(table.first, keys))
    assert table.members[i].state is State.AWAIT_SEAL


def test_another_commitment_under_my_name():
    table, other = Table(), Table()
    other.entropy = random.Random(1).randbytes
    i = table.plain[0]
    keys = keys_for(table, i)
    forged = Member(
        table.cohort,
        table.people[i],
        Secrets.fresh(table.people[i].public_key, other.entropy),
        table.terms,
        other.entropy,
    )
    forged.start(0.0)
    lie = replace_fields(keys, committed=(*keys.committed[:i], forged._committed, *keys.committed[i + 1 :]))
    with pytest.raises(PeerViolation, match="under this member's name"):
        table.give(i, table.message(table.first, lie))


def test_a_second_set_of_keys_is_ignored():
    table = Table(5)
    i = table.plain[0]
    keys = keys_for(table, i)
    table.give(i, table.message(table.first, keys))
    context = table.members[i].context
    assert not table.give(i, table.message(table.second, without(keys, table.plain[1])))
    assert not table.give(i, table.message(table.second, KeysSet(b"", (), ())))
    assert table.members[i].context == context
    assert len(table.of(i, Contribute)) == 1


def test_no_keys_at_all_end_the_cohort_at_once():
    table = Table()
    i = table.plain[0]
    keys_for(table, i)
    table.give(i, table.message(table.first, KeysSet(b"", (), ())))
    assert table.outcome(i) is Outcome.UNTOUCHED
    assert table.members[i].state is State.OVER


def test_a_liar_about_one_share_only_loses_it():
    table = Table()
    i = table.plain[0]
    keys = keys_for(table, i)
    liar = table.plain[1]
    box = keys.envelopes[liar]
    lie = replace_fields(
        keys,
        envelopes=tuple(
            box[:-1] + bytes([box[-1] ^ 1]) if j == liar else e for j, e in enumerate(keys.envelopes)
        ),
    )
    actions = table.give(i, table.message(table.first, lie))
    assert [a.fields["owner"] for a in actions if isinstance(a, Report) and "owner" in a.fields] == [liar]
    assert liar not in table.members[i].keys.holdings
    assert table.members[i].state is State.AWAIT_SEAL


# --- refusals: the seal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"context": bytes(32)}, "of other keys"),
        (
            {"contributors": pack_members([0, 1, 2], 5), "vectors": (bytes(16),) * 3},
            "hide nobody well enough",
        ),
        ({"contributors": pack_members(range(4), 5)}, "no keys"),
        ({"vectors": (bytes(16),) * 5}, "never sent"),
        ({"contributors": b"\xff"}, "does not fit"),
    ],
)
def test_an_unsignable_proposal_gets_no_vote(changed, why):
    table = Table(5).masked()
    i = table.plain[0]
    with pytest.raises(PeerViolation, match=why):
        table.give(i, table.message(table.first, table.proposal(**changed)))
    assert table.members[i].ballot.vote is None
    assert not table.of(i, Persist)


def test_a_proposal_by_somebody_who_does_not_aggregate():
    table = Table().masked()
    with pytest.raises(PeerViolation, match="is none"):
        table.give(table.plain[0], table.message(table.plain[1], table.proposal()))


def test_whose_turn_it_is():
    table = Table().masked()
    i, j = table.plain
    (refused,) = table.give(i, table.message(table.second, table.proposal()))
    assert refused.fields["phase"] == "SEAL_REFUSED"
    table.now = SECOND_AGGREGATOR_STEPS * STEP_S
    (refused,) = table.give(i, table.message(table.first, table.proposal()))
    assert refused.fields["phase"] == "SEAL_REFUSED"
    table.give(i, table.message(table.second, table.proposal()))
    assert table.said(i, Kind.SEAL_VOTE)
    table.now = 0.0
    table.members[j].lost(table.cohort.members[table.first])
    table.give(j, table.message(table.second, table.proposal()))
    assert table.said(j, Kind.SEAL_VOTE), "the first is known to be gone"


def test_one_content_and_never_abort_after_a_seal():
    table = Table(5).masked()
    i = table.plain[0]
    table.give(i, table.message(table.first, table.proposal()))
    (vote,) = {m.body.seal for m in table.said(i, Kind.SEAL_VOTE)}
    fewer = [j for j in range(5) if j != table.plain[1]]
    other = table.proposal(
        contributors=pack_members(fewer, 5), vectors=tuple(hash_of_vector(table.members[j]) for j in fewer)
    )
    assert not table.give(i, table.message(table.first, other))
    table.now = ABORT_STEPS
    told = table.give(i, TimerFired(("sum", table.cohort.id, "abort")))
    assert kinds(told, table.swarm.id) == [Kind.SEAL_VOTE] * 5, "all hear what it voted for"
    assert not table.said(i, Kind.ABORT_VOTE)
    table.give(i, table.message(table.first, table.proposal()))
    assert {m.body.seal for m in table.said(i, Kind.SEAL_VOTE)} == {vote}


@pytest.mark.parametrize(
    ("mine", "theirs", "ends"), [(4, 4, True), (5, 3, True), (6, 2, False), (4, 2, False)]
)
def test_where_no_seal_will_have_a_threshold_a_member_waits_one_step_and_not_to_the_end(mine, theirs, ends):
    """Of eight, six have to vote alike; whoever was not heard may have."""
    table = Table(8).masked()
    i = table.plain[0]
    table.give(i, table.message(table.first, table.proposal()))
    (vote,) = {m.body.seal for m in table.said(i, Kind.SEAL_VOTE)}
    table.now = ABORT_STEPS
    others = [j for j in range(8) if j != i]
    said = [vote] * (mine - 1) + [b"\x07" * 32] * theirs
    table.give(i, table.message(i, SealVote(vote)))
    for j, seal in zip(others, said, strict=False):
        table.give(i, table.message(j, SealVote(seal)))
    assert (table.timers[(i, ("sum", table.cohort.id, "end"))] == table.now + STEP_S) == ends
    assert not table.said(i, Kind.ABORT_VOTE), "one content, and never ABORT after it"


def test_never_a_seal_after_an_abort():
    table = Table().masked()
    i = table.plain[0]
    table.give(i, TimerFired(("sum", table.cohort.id, "abort")))
    assert len(table.said(i, Kind.ABORT_VOTE)) == 4
    assert not table.give(i, table.message(table.first, table.proposal()))
    assert not table.said(i, Kind.SEAL_VOTE)
    assert table.disk[i]["vote", table.cohort.id] == b""


def test_a_vector_that_was_voted_away_does_not_leave_any_more():
    """The seal excludes this member while its debit is on the way to the disk: the vector stays, the debit is taken back."""
    table = Table(5)
    i = table.plain[0]
    table.held = (Spend,)
    table.start().deal(Kind.SHARES, Kind.KEYS_SET)
    table.held = ()
    for j, action in table.waiting:
        if j != i:
            table.answer(j, action)
    table.at(1.0)
    assert table.of(table.first, Certified)
    assert table.outcome(i) is Outcome.REFUNDED
    table.answer(i, table.of(i, Spend)[0])
    assert not table.said(i, Kind.MASKED)


def test_a_vector_does_not_leave_after_its_owner_has_voted_to_abort():
    """The debit is on the way to the disk for so long that the member gives the cohort up: ABORT is no less binding for that."""
    table = Table(5)
    i = table.plain[0]
    table.held = (Spend,)
    table.start().deal(Kind.SHARES, Kind.KEYS_SET)
    table.held = ()
    table.give(i, TimerFired(("sum", table.cohort.id, "abort")))
    assert table.said(i, Kind.ABORT_VOTE)
    table.answer(i, table.of(i, Spend)[0])
    assert not table.said(i, Kind.MASKED)


def certificate(table: Table, proposal: SealProposal, signers: list[int]) -> SealCertificate:
    vote = SealVote(digest("seal", pack(proposal)))
    half = certified(table, vote, signers)
    return SealCertificate(vote.seal, pack_members(signers, table.cohort.size), *half, proposal)


def aborted(table: Table, signers: list[int]) -> AbortCertificate:
    return AbortCertificate(pack_members(signers, table.cohort.size), *certified(table, AbortVote(), signers))


def certified(table: Table, vote: SealVote | AbortVote | RejectVote, signers: list[int]) -> HalfAggregate:
    messages = {signer: table.message(signer, vote) for signer in signers}
    stated = statement(table.swarm.id, messages[signers[0]].kind, table.cohort.id, pack(vote))
    single = {signer: message.signature for signer, message in messages.items()}
    return certify(*stated, table.cohort.members, single)


def test_a_certificate_needs_t_signatures_that_hold():
    table = Table(5).masked()
    i = table.plain[0]
    proposal = table.proposal()
    good = certificate(table, proposal, [0, 1, 2, 3])
    other = certificate(table, proposal, [1, 2, 3, 4])
    for bad, why in [
        (certificate(table, proposal, [0, 1, 2]), "without 4 valid signatures"),
        (replace_fields(good, scalar=other.scalar), "without 4 valid"),
        (replace_fields(good, commitments=good.commitments[32:] + good.commitments[:32]), "without 4 valid"),
        (replace_fields(good, signers=pack_members([0, 1, 2, 4], 5)), "without 4 valid"),
        (replace_fields(good, commitments=good.commitments[32:]), "differ in number"),
        (replace_fields(good, proposal=table.proposal(context=bytes(32))), "not the one that was signed"),
    ]:
        with pytest.raises(PeerViolation, match=why):
            table.give(i, table.message(table.first, bad))
    assert table.members[i].state is State.AWAIT_SEAL
    table.give(i, table.message(table.plain[1], good))
    assert table.members[i].state is State.AWAIT_SUM, "a certificate proves itself, whoever brings it"
    assert not table.give(i, table.message(table.first, good)), "and once"


def test_an_abort_needs_t_signatures_that_hold():
    table = Table(5).masked()
    i = table.plain[0]
    good = aborted(table, [0, 1, 2, 3])
    for bad in [
        aborted(table, [0, 1, 2]),
        replace_fields(good, scalar=aborted(table, [1, 2, 3, 4]).scalar),
        replace_fields(good, signers=pack_members([1, 2, 3, 4], 5)),
    ]:
        with pytest.raises(PeerViolation, match="without 4 valid"):
            table.give(i, table.message(table.first, bad))
    assert table.outcome(i) is None
    table.give(i, table.message(table.first, good))
    assert table.outcome(i) is Outcome.REFUNDED


def test_after_a_certified_seal_no_abort_counts_and_the_seal_is_the_answer():
    table = Table(5).masked()
    i = table.plain[0]
    table.give(i, table.message(table.first, certificate(table, table.proposal(), [0, 1, 2, 3])))
    table.give(i, table.message(table.first, aborted(table, [0, 1, 2, 3])))
    assert table.outcome(i) is None
    (answer,) = table.give(i, table.message(table.plain[1], AbortVote()))
    assert kinds([answer], table.swarm.id) == [Kind.SEAL_CERTIFICATE]


def test_a_body_of_other_sizes_or_out_of_bounds():
    table = Table()
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal()
    i = table.plain[0]
    member = table.members[i]
    honest = table.said(table.first, Kind.BODY_PROPOSAL)[0].body
    for bad, why in [
        (replace_fields(honest, sums=honest.sums[:-1]), "lanes: 15 bytes, not 16"),
        (replace_fields(honest, sums=PLAIN + b"\x7f" * (len(honest.sums) - 1)), "a sum outside"),
        (replace_fields(honest, ranges=(10**5, 0)), "a range above"),
        (replace_fields(honest, ranges=(0,)), "1 ranges"),
    ]:
        with pytest.raises(PeerViolation, match=why):
            table.give(i, table.message(table.first, bad))
        assert member.body is None
    with pytest.raises(PeerViolation, match="is none"):
        table.give(i, table.message(table.plain[1], honest))


# --- rule 5: segments that not all have trained ---------------------------------------------------------------


def test_a_segment_travels_only_if_enough_have_trained_it():
    # n = 5, t = 4, n_min = 3: one may drop out, so four must have trained a segment.
    assert Table(5, trained=(3, 3, 3, 3, 1)).cohort.travelling == 0b11
    assert Table(5, trained=(3, 3, 3, 1, 1)).cohort.travelling == 0b01
    assert Table(4, trained=(3, 3, 3, 3)).cohort.travelling == 0b11
    assert Table(4, trained=(3, 3, 3, 1)).cohort.travelling == 0b01
    with pytest.raises(PeerViolation, match="no segment was trained by enough"):
        Table(5, trained=(1, 1, 2, 2, 2))


def test_a_seal_that_leaves_a_segment_too_few_trainers_cannot_be_signed():
    table = Table(8, trained=(3, 3, 3, 3, 3, 1, 1, 1))  # t = 6: five trainers, of whom three must stay
    assert table.cohort.travelling == 0b11
    assert table.cohort.hides([2, 3, 4, 5, 6, 7])
    assert not table.cohort.hides([3, 4, 5, 6, 7]), "fewer than t"
    table = Table(8, n_min=4, trained=(3, 3, 3, 3, 3, 3, 1, 1))
    assert table.cohort.hides([0, 1, 2, 3, 6, 7])
    for contributors in ([2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]):
        assert table.cohort.hides(contributors)


def test_a_segment_that_the_model_does_not_have_never_travels():
    with pytest.raises(PeerViolation, match="no segment"):
        Table(4, trained=(1 << 61,) * 4)
    assert Table(4, trained=(3 | 1 << 61,) * 4).cohort.travelling == 0b11


# --- a roster's spelling --------------------------------------------------------------------------------------


def spoken(
    table: Table, heads: list[tuple[bytes, ...]], parents: tuple[bytes, ...], hubs: tuple[int, ...] = ()
) -> tuple[list[Message], Roster]:
    rng = random.Random(3)
    said = []
    for place, (person, each) in enumerate(zip(table.people, heads, strict=True)):
        secrets = Secrets.fresh(person.public_key, rng.randbytes)
        ready = Ready(2, each, 3, secrets.channel.public, secrets.mask.public, place in hubs)
        said.append(open_frame(table.swarm.id, sign_frame(person, table.swarm.id, ready)))
    return said, write_roster(table.swarm, 2, parents, b"", said)


def opened(table: Table, roster: Roster) -> object:
    return open_roster(
        table.swarm, open_frame(table.swarm.id, sign_frame(table.people[0], table.swarm.id, roster))
    )


def test_a_roster_puts_the_frames_together_again_and_tells_heads_once():
    table = Table(5)
    one, two = (b"\1" * 32,), (b"\1" * 32, b"\2" * 32)
    said, roster = spoken(table, [one, two, one, (), two], one)
    assert roster.heads == (two, ())
    assert [entry.heads for entry in roster.readies] == [0, 1, 0, 2, 1]
    assert ready_frames(table.swarm, roster) == tuple(message.raw for message in said)
    cohort = opened(table, roster)
    assert [ready.heads for ready in cohort.readies] == [one, two, one, (), two]
    assert cohort.members == tuple(person.public_key for person in table.people)


def test_a_roster_tells_who_is_a_hub_and_those_add_up_after_the_leader():
    table = Table(5)
    keys = [person.public_key for person in table.people]
    for leads in range(5):
        for hubs in ((1, 3), (0, 1, 2, 3), ()):
            said, roster = spoken(table, [()] * 5, (), hubs)
            assert [entry.hub for entry in roster.readies] == [i in hubs for i in range(5)]
            assert ready_frames(table.swarm, roster) == tuple(message.raw for message in said)
            frame = sign_frame(table.people[leads], table.swarm.id, roster)
            cohort = open_roster(table.swarm, open_frame(table.swarm.id, frame))
            first, *others = [keys.index(key) for key in cohort.hubs]
            assert cohort.aggregators == cohort.hubs[:2]
            assert first == leads, "to whom all are connected"
            assert set(others) >= {i for i in hubs if i != leads} or set(others) < set(hubs)


def test_without_the_leader_a_hub_is_the_first_aggregator():
    table = Table(6)
    _, roster = spoken(table, [()] * 6, (), hubs=(2, 4))
    roster = replace_fields(roster, readies=roster.readies[:5])
    frame = sign_frame(table.people[5], table.swarm.id, roster)
    cohort = open_roster(table.swarm, open_frame(table.swarm.id, frame))
    assert cohort.leader not in cohort.members
    assert set(cohort.aggregators) == {table.people[i].public_key for i in (2, 4)}


def test_a_roster_has_one_spelling_and_changes_nobodys_words():
    table = Table(5)
    one, two, three = (b"\1" * 32,), (b"\2" * 32,), (b"\3" * 32,)
    _, roster = spoken(table, [two, three, one, one, one], one, hubs=(4,))
    opened(table, roster)

    def entry(i: int, **changed: object) -> tuple[object, ...]:
        changed_ = replace_fields(roster.readies[i], **changed)
        return (*roster.readies[:i], changed_, *roster.readies[i + 1 :])

    swapped = tuple(replace_fields(each, heads=(0, 2, 1)[each.heads]) for each in roster.readies)
    for bad, why in [
        ({"heads": (three, two), "readies": swapped}, "otherwise than once, in order"),
        ({"heads": (two, three, one)}, "otherwise than once"),
        ({"heads": (two,)}, "heads that it does not tell"),
        ({"readies": entry(0, heads=2)}, "does not hold"),
        ({"readies": entry(0, trained=1)}, "does not hold"),
        ({"readies": entry(0, hub=True)}, "does not hold"),
        ({"readies": entry(4, hub=False)}, "does not hold"),
        ({"readies": entry(1, member=b"\0\2")}, "does not hold"),
        ({"readies": roster.readies[::-1]}, "ascend"),
        ({"readies": (roster.readies[0], *roster.readies)}, "ascend"),
        ({"readies": entry(0, member=table.people[0].public_key)}, "2 bytes"),
        ({"parents": two}, "does not hold"),
    ]:
        with pytest.raises(PeerViolation, match=why):
            opened(table, replace_fields(roster, **bad))


# --- restart --------------------------------------------------------------------------------------------------


def restarted(table: Table, i: int) -> Member:
    return Member(table.cohort, table.people[i], None, table.terms, table.entropy)


@pytest.mark.parametrize("vote", [None, b""])
def test_a_restarted_member_without_a_seal_aborts(vote):
    table = Table()
    member = restarted(table, 1)
    settled, persist = member.resume(vote)
    assert settled.outcome is Outcome.UNKNOWN
    assert persist.records == (Put("vote", table.cohort.id, b""),)
    asked = member.handle(Persisted(persist.tag), 0.0)
    assert kinds(asked, table.swarm.id) == [Kind.ABORT_VOTE] * 4
    assert (
        member.handle(table.message(table.first, SealProposal(bytes(32), b"\x0f", (bytes(16),) * 4)), 0.0)
        == []
    )


def test_a_restarted_member_that_signed_a_seal_keeps_silent_and_waits_for_the_aggregate():
    table = Table()
    member = restarted(table, 1)
    (settled,) = member.resume(b"\x07" * 32)
    assert settled.outcome is Outcome.UNKNOWN
    assert member.remind(table.cohort.members[0]) == []
    assert [a.outcome for a in member.learned([0, 1, 2])] == [Outcome.INCLUDED]


@pytest.mark.parametrize(
    ("contributors", "outcome"), [([0, 1, 2], Outcome.INCLUDED), ([0, 2, 3], Outcome.REFUNDED)]
)
def test_a_restarted_member_is_told_how_it_ended(contributors, outcome):
    table = Table(4).masked()
    vectors = tuple(hash_of_vector(table.members[i]) for i in contributors)
    proposal = table.proposal(contributors=pack_members(contributors, 4), vectors=vectors)
    seal = table.message(0, certificate(table, proposal, [0, 2, 3]))
    member = restarted(table, 1)
    member.resume(None)
    assert [a.outcome for a in member.handle(seal, 0.0) if isinstance(a, Settled)] == (
        [] if outcome is Outcome.INCLUDED else [outcome]
    )
    assert not kinds(member.handle(seal, 0.0), table.swarm.id), "it has no shares to open"
    assert [a.outcome for a in member.learned(contributors)] == (
        [outcome] if outcome is Outcome.INCLUDED else []
    )


def test_whoever_comes_back_into_reach_is_asked_again_while_the_outcome_is_open():
    table = Table()
    member = restarted(table, 1)
    _, persist = member.resume(None)
    assert member.remind(table.cohort.members[0]) == [], "not before the vote is durable"
    member.handle(Persisted(persist.tag), 0.0)
    (asked,) = member.remind(table.cohort.members[0])
    assert (asked.peer, kinds([asked], table.swarm.id)) == (table.cohort.members[0], [Kind.ABORT_VOTE])
    assert member.remind(bytes(32)) == [], "a stranger to this cohort"
    member.handle(table.message(0, aborted(table, [0, 1, 2])), 0.0)
    assert member.outcome is Outcome.REFUNDED
    assert member.remind(table.cohort.members[0]) == []


# --- a disk that fails ----------------------------------------------------------------------------------------


def test_a_debit_that_cannot_be_stored_lets_no_vector_out():
    table = Table()
    i = table.plain[0]
    table.held = (Spend,)
    table.start().deal()
    spend = table.of(i, Spend)[0]
    table.give(i, PersistFailed(spend.tag, "full"))
    assert table.outcome(i) is Outcome.REFUNDED
    table.give(i, Persisted(spend.tag))
    assert not table.said(i, Kind.MASKED)


@pytest.mark.parametrize("event", ["seal", "abort"])
def test_a_vote_that_cannot_be_stored_is_not_cast(event):
    table, proposal = Table().proposed()
    i = table.plain[0]
    table.held = (Persist,)
    abort = TimerFired(("sum", table.cohort.id, "abort"))
    (persist,) = table.give(i, proposal if event == "seal" else abort)
    table.give(i, PersistFailed(persist.tag, "full"))
    assert table.outcome(i) is Outcome.UNKNOWN, "its vector is out, and others may sum it"
    assert not table.said(i, Kind.SEAL_VOTE)
    assert not table.said(i, Kind.ABORT_VOTE)
    assert table.members[i].remind(table.cohort.members[table.first]) == []


def test_a_body_that_cannot_be_stored_is_not_signed():
    table = Table()
    i = table.plain[0]
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal()
    table.held = (Persist,)
    told = table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    [persist] = [action for action in told if isinstance(action, Persist)]
    table.give(i, PersistFailed(persist.tag, "full"))
    assert table.outcome(i) is Outcome.UNKNOWN
    assert not table.said(i, Kind.BODY_VOTE)


# --- the aggregator's rows ------------------------------------------------------------------------------------


def test_keys_go_out_when_all_have_dealt_and_only_from_the_first():
    table = Table()
    table.start().deal(Kind.SHARES)
    assert len(table.said(table.first, Kind.KEYS_SET)) == 4
    assert not table.said(table.second, Kind.KEYS_SET)


def test_who_declines_or_breaks_off_is_not_waited_for():
    for leave in ("decline", "lost"):
        table = Table(5)
        gone = table.plain[0]
        table.absent = {gone}
        table.start().deal(Kind.SHARES)
        assert not table.said(table.first, Kind.KEYS_SET)
        if leave == "decline":
            table.give(table.first, table.message(gone, Decline()))
        else:
            table.take(table.first, table.aggregators[table.first].lost(table.cohort.members[gone]))
        keys = table.said(table.first, Kind.KEYS_SET)
        assert [len(m.body.committed) for m in keys] == [4] * 4


def test_with_enough_the_time_closes_the_keys_and_with_too_few_all_is_over():
    table = Table(5)
    table.absent = {table.plain[0]}
    table.start().deal().at(1.0)
    assert table.of(table.first, Certified)
    table = Table(5)
    table.absent = set(table.plain[:2])
    table.start().deal().at(1.0)
    assert {m.body for m in table.said(table.first, Kind.KEYS_SET)} == {KeysSet(b"", (), ())}
    assert all(table.outcome(i) is Outcome.UNTOUCHED for i in range(5) if i not in table.absent)


def test_shares_that_are_not_the_senders_own_or_of_another_size():
    table = Table()
    table.held = ()
    table.start()
    shares = [table.said(i, Kind.SHARES)[0].body for i in range(4)]
    i, j = table.plain
    sizes = replace_fields(
        shares[i], envelopes=tuple(b"x" * 100_000 if e else e for e in shares[i].envelopes)
    )
    for bad in (replace_fields(shares[i], envelopes=shares[i].envelopes[:-1]), sizes):
        with pytest.raises(PeerViolation, match="SHARES"):
            table.give(table.first, table.message(i, bad))
    with pytest.raises(PeerViolation, match="does not hold in this cohort"):
        table.give(table.first, table.message(i, shares[j]))
    assert not table.aggregators[table.first]._shares


def test_a_seal_is_proposed_when_all_have_masked_or_time_is_up_with_enough():
    table = Table(5).masked()
    late = table.plain[0]
    table.mail = deque(d for d in table.mail if d.sender != late)
    table.deal(Kind.MASKED)
    assert not table.said(table.first, Kind.SEAL_PROPOSAL)
    table.at(1.0)
    proposal = table.said(table.first, Kind.SEAL_PROPOSAL)[0].body
    assert unpack_members(proposal.contributors, 5) == [i for i in range(5) if i != late]


def test_a_vector_of_other_keys_or_of_another_size_is_not_summed():
    table = Table(5).masked()
    odd, short = table.plain[:2]
    table.mail = deque(d for d in table.mail if d.sender not in {odd, short})
    vector = table.members[odd]._vector
    table.give(table.first, table.message(odd, Masked(bytes(32), vector)))
    with pytest.raises(PeerViolation, match="a vector of"):
        table.give(table.first, table.message(short, Masked(table.members[short].context, vector[:-1])))
    table.give(
        table.first, table.message(short, Masked(table.members[short].context, table.members[short]._vector))
    )
    table.deal().at(1.0)
    proposal = table.said(table.first, Kind.SEAL_PROPOSAL)[0].body
    assert odd not in unpack_members(proposal.contributors, 5)
    assert short in unpack_members(proposal.contributors, 5)


def test_too_few_vectors_are_not_proposed():
    table = Table(5).masked()
    table.mail = deque(d for d in table.mail if d.sender not in table.plain[:2])
    table.absent = set(table.plain[:2])
    table.deal().at(3.0)
    assert not any(table.said(i, Kind.SEAL_PROPOSAL) for i in range(5))


def test_two_votes_of_one_member_are_a_violation_and_t_of_one_content_a_certificate():
    table, proposal = Table(5).proposed()
    i = table.plain[0]
    table.silent = {Kind.SEAL_VOTE}
    table.deal(Kind.SEAL_PROPOSAL)
    seal = table.said(i, Kind.SEAL_VOTE)[0].body.seal
    table.give(table.first, table.message(i, SealVote(seal)))
    with pytest.raises(PeerViolation, match="two contents"):
        table.give(table.first, table.message(i, SealVote(bytes(32))))
    others = [j for j in range(5) if j != i]
    for j in others[:2]:
        assert not table.give(table.first, table.message(j, SealVote(seal)))
    assert not table.give(table.first, table.message(i, SealVote(seal)))
    told = table.give(table.first, table.message(others[2], SealVote(seal)))
    assert kinds(told, table.swarm.id) == [Kind.SEAL_CERTIFICATE] * 5
    whole = {action.peer: open_frame(table.swarm.id, action.data).body for action in told}
    voters = {table.cohort.members[j] for j in [i, *others[:3]]}
    assert {peer for peer, body in whole.items() if body.proposal is None} == voters, (
        "who voted knows the proposal"
    )
    assert [body.proposal for peer, body in whole.items() if peer not in voters] == [proposal.body]


def test_the_second_aggregator_takes_over_and_arrives_at_the_same_body():
    table, _ = Table(5).proposed()
    table.mail.clear()
    table.absent = {table.first}
    table.at(5.0)
    certified = table.of(table.second, Certified)
    assert len(certified) == 1
    assert len(table.said(table.second, Kind.RESULT)) == 4, "to all but itself"
    assert len(unpack_members(certified[0].aggregate.body.parts[0].contributors, 5)) == 5


STEPS = [
    Kind.SHARES,
    Kind.KEYS_SET,
    Kind.MASKED,
    Kind.SEAL_PROPOSAL,
    Kind.SEAL_VOTE,
    Kind.SEAL_CERTIFICATE,
    Kind.UNMASK,
    Kind.BODY_PROPOSAL,
    Kind.BODY_VOTE,
    Kind.RESULT,
]


def first_dies(step: Kind, reached: int) -> Table:
    """The first aggregator dies over this step: of what it says then, so many hear, the second before others."""
    table = Table(5).start()
    while not any(d.message.kind is step for d in table.mail):
        letter = table.mail.popleft()
        table.give(letter.receiver, letter.message)
    mine = [d for d in table.mail if d.sender == table.first and d.receiver != table.first]
    heard = mine[:reached]
    others = [d for d in table.mail if table.first not in {d.sender, d.receiver}]
    table.mail = deque([*heard, *others])
    table.absent = {table.first}
    return table.deal()


@pytest.mark.parametrize("how", ["broken connections", "silence"])
@pytest.mark.parametrize("reached", [0, 2], ids=["nobody heard", "two heard"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_when_the_first_aggregator_dies_the_second_takes_over(step, reached, how):
    table = first_dies(step, reached)
    rest = [i for i in range(5) if i != table.first]
    if how == "broken connections":
        for i in rest:
            table.take(i, table.members[i].lost(table.cohort.members[table.first]))
            if i == table.second:
                table.take(i, table.aggregators[i].lost(table.cohort.members[table.first]))
            table.deal()
    told = [i for i in rest if table.outcome(i) is not None]
    table.at(3 * END_STEPS)
    if told:
        assert {table.outcome(i) for i in told} == {Outcome.INCLUDED}, "the others hear of it from these"
    else:
        assert {table.outcome(i) for i in rest} == {Outcome.INCLUDED}
        assert len({table.members[i].body.id for i in rest}) == 1
        assert table.of(table.second, Certified)
    for i in range(5):
        assert len({m.body.vector for m in table.said(i, Kind.MASKED)}) <= 1, "never a second masked vector"


def test_what_is_said_again_is_the_same_frame_and_goes_to_the_second_alone():
    table = Table(5)
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal()
    i = table.plain[0]
    sent = [a for a in table.done[i] if isinstance(a, Send)]
    assert {a.peer for a in sent} == {table.cohort.aggregators[0]}
    again = table.members[i].lost(table.cohort.aggregators[0])
    assert [a.data for a in again] == [a.data for a in sent]
    assert {a.peer for a in again} == {table.cohort.aggregators[1]}
    assert table.members[i].lost(table.cohort.aggregators[0]) == [], "once"


def test_a_vector_that_is_sealed_out_is_not_said_again():
    """Its debit has been taken back: design, rule 3, holds for every byte of it."""
    table = Table(5).masked()
    i = table.plain[0]
    others = [j for j in range(5) if j != i]
    vectors = tuple(hash_of_vector(table.members[j]) for j in others)
    seal = table.proposal(contributors=pack_members(others, 5), vectors=vectors)
    table.give(i, table.message(table.first, certificate(table, seal, others)))
    assert table.outcome(i) is Outcome.REFUNDED
    assert kinds(table.members[i].lost(table.cohort.aggregators[0]), table.swarm.id) == [
        Kind.SHARES,
        Kind.UNMASK,
    ]


def test_a_result_is_nothing_to_a_member_without_the_body():
    table = Table(5)
    i = table.plain[0]
    table.start()
    while table.mail:
        letter = table.mail.popleft()
        if letter.receiver != i or letter.message.kind is not Kind.BODY_PROPOSAL:
            table.give(letter.receiver, letter.message)
    result = table.said(table.first, Kind.RESULT)[0].body
    assert table.members[i].completed(result) is None
    assert table.outcome(i) is None
    other = replace_fields(result, aggregate=bytes(32))
    assert table.members[table.plain[1]].completed(other) is None
    assert table.members[table.plain[1]].completed(result) == table.of(table.first, Certified)[0].aggregate


def test_the_second_aggregator_is_silent_while_the_first_speaks():
    table = Table().start().deal()
    assert len(table.of(table.first, Certified)) == 1
    for kind in (Kind.KEYS_SET, Kind.SEAL_PROPOSAL, Kind.BODY_PROPOSAL, Kind.RESULT):
        assert not table.said(table.second, kind)
    table.at(6.0)
    assert not table.said(table.second, Kind.BODY_PROPOSAL)
    assert len(table.said(table.first, Kind.RESULT)) == 3, "to all but itself"


def unmasked_by(table: Table, lies: dict[int, tuple[int, ...]], order: list[int]) -> list[object]:
    """UNMASKs come in this order, and each liar's are wrong about some owners; what the first aggregator reports."""
    for i in order:
        unmask = table.said(i, Kind.UNMASK)[0].body
        shares = tuple(
            bytes(a ^ b for a, b in zip(share, digest("lie", bytes([i, owner])), strict=False))
            if owner in lies.get(i, ())
            else share
            for owner, share in enumerate(unmask.shares)
        )
        table.give(table.first, table.message(i, Unmask(unmask.seal, shares)))
    return [a for a in table.of(table.first, Report) if a.fields["phase"] in {"SHARE_REFUSED", "SUM_LOST"}]


@pytest.mark.parametrize("place", range(5))
def test_a_lying_holder_is_outvoted_wherever_it_stands(place):
    """t honest shares among those opened are found, and the one that does not fit is named."""
    table = Table(5)
    table.silent = {Kind.UNMASK}
    table.start().deal()
    order = [i for i in range(5) if i != place]
    order.insert(place % 3, place)
    (refused,) = unmasked_by(table, {place: (0, 3)}, order)
    assert (refused.fields["phase"], refused.fields["holder"]) == ("SHARE_REFUSED", place)
    table.deal()
    (certified,) = table.of(table.first, Certified)
    votes = sum(member._ranges for member in table.members)
    assert certified.aggregate.body.ranges == tuple(votes.tolist()), "the sum is the true one"


def test_as_many_liars_as_may_be_missing_are_outvoted_and_one_more_stops_the_sum_without_falsifying_it():
    for liars in (4, 5):
        table = Table(16)
        table.silent = {Kind.UNMASK}
        table.start().deal()
        lies = {i: tuple(range(i, 16)) for i in range(liars)}
        reports = unmasked_by(table, lies, list(range(16)))
        if liars == 4:
            assert [r.fields["holder"] for r in reports] == [0, 1, 2, 3]
            assert table.said(table.first, Kind.BODY_PROPOSAL)
        else:
            assert {r.fields["phase"] for r in reports} == {"SUM_LOST"}
            assert not table.said(table.first, Kind.BODY_PROPOSAL)


def test_who_got_no_share_of_an_owner_opens_none_and_the_others_suffice():
    table = Table(5)
    table.silent = {Kind.UNMASK}
    table.start().deal()
    i = table.plain[0]
    unmask = table.said(i, Kind.UNMASK)[0].body
    table.give(table.first, table.message(i, Unmask(unmask.seal, (b"", *unmask.shares[1:]))))
    assert unmasked_by(table, {}, [j for j in range(5) if j != i]) == []
    assert table.said(table.first, Kind.BODY_PROPOSAL)


def test_an_opening_under_another_seal_or_of_other_owners_opens_nothing():
    table = Table(5)
    table.silent = {Kind.UNMASK}
    table.start().deal()
    i, j = table.plain[:2]
    unmask = table.said(i, Kind.UNMASK)[0].body
    assert not table.give(table.first, table.message(i, Unmask(bytes(32), unmask.shares)))
    assert not table.give(table.first, table.message(j, Unmask(unmask.seal, unmask.shares[:-1])))
    assert table.aggregators[table.first]._opened(unmask.seal, [0, 1, 2, 3, 4]) == {}


def test_a_secret_that_was_dealt_falsely_loses_the_sum_and_ends_nothing_else():
    table = Table()
    table.held = (Compute,)
    table.start().deal()
    table.release()
    table.held = (Compute,)
    table.deal()
    job = next(action for i, action in table.waiting if i == table.first)
    lie = Commitment(bytes(16))
    broken = replace(job.job, commitments={**job.job.commitments, 0: lie})
    result = broken.run()
    assert isinstance(result, PeerViolation)
    table.give(table.first, Computed(job.tag, result))
    reports = [a for a in table.of(table.first, Report) if a.fields["phase"] == "SUM_LOST"]
    assert [r.fields["reason"] for r in reports] == ["UNMASK: no 3 of 3 shares give member 0's seed"]


def test_a_seal_over_a_vector_of_another_size_is_not_summed():
    """The first aggregator and a member in league: the honest second one must not stumble over their vector."""
    table = Table(5).masked()
    liar = table.first
    short = table.members[liar]._vector[:-1]
    table.members[liar]._vector = short
    table.mail = deque(d for d in table.mail if d.sender != liar)
    with pytest.raises(PeerViolation, match="a vector of"):
        table.give(table.second, table.message(liar, Masked(table.members[liar].context, short)))
    table.deal(Kind.MASKED)
    seal = certificate(table, table.proposal(), [0, 1, 2, 3])
    for i in range(5):
        table.give(i, table.message(liar, seal))
    table.absent = {liar}
    table.deal().at(3.0)
    assert not table.of(table.second, Compute)[1:], "nothing but its own masking was computed"


def boasting(monkeypatch, boaster: int, vote: int, table: Table) -> None:
    """This member's vector has a range that nobody measures."""

    def boast(self, plan, contribution, rounding, *, layout, compression):
        encoded = encode_payload(plan, contribution, rounding, layout, compression)
        if contribution.values[-1] == np.float32(0.1) * (boaster + 1):
            plan.lanes.wide_view(encoded.vector)[0] = vote
        return encoded

    monkeypatch.setattr(type(DENSE), "encode", boast)


def test_a_vote_beyond_its_bounds_is_cut_and_refused_and_everybody_is_refunded(monkeypatch):
    """One member's 2^31 made the body invalid after everybody had paid, and nobody was told that their update was in no sum."""
    table = Table()
    boasting(monkeypatch, table.plain[0], 1 << 31, table)
    table.start().deal().at(END_STEPS)
    for i in range(4):
        assert table.outcome(i) is Outcome.REFUNDED
        [refused, *_] = table.of(i, Refused)
        assert refused.reason == "its ranges are far from what this device has measured"
        assert [told.contributors for told in table.of(i, Rejected)] == [[0, 1, 2, 3]]
    assert not table.of(table.first, Certified)


def test_a_vote_that_is_loud_but_moves_the_mean_little_stops_nothing(monkeypatch):
    table = Table(8)
    boasting(monkeypatch, table.plain[0], 560, table)
    table.start().deal()
    assert table.of(table.first, Certified)


def test_t_signatures_make_the_result_and_a_false_one_is_a_violation():
    table = Table(5)
    table.silent = {Kind.BODY_VOTE}
    table.start().deal()
    votes = [table.said(i, Kind.BODY_VOTE)[0].body for i in range(5)]
    with pytest.raises(PeerViolation, match="does not hold"):
        table.give(table.first, table.message(0, votes[1]))
    with pytest.raises(PeerViolation, match="does not hold"):
        table.give(table.first, table.message(0, BodyVote(bytes(32), votes[0].signature)))
    for i in range(3):
        assert not table.give(table.first, table.message(i, votes[i]))
    told = table.give(table.first, table.message(3, votes[3]))
    assert kinds(told, table.swarm.id) == [Kind.RESULT] * 4
    assert any(isinstance(action, Certified) for action in told)
    result = open_frame(table.swarm.id, told[0].data).body
    assert isinstance(result, Result)
    assert result.aggregate == votes[0].aggregate
    assert not table.give(table.first, table.message(4, votes[4])), "it is done"


def unsummable(table: Table, sender: int, vote: SealVote | AbortVote | RejectVote) -> Message:
    """Signed without a nonce: the signature holds, and would spoil every certificate that it is put into."""
    person = table.people[sender]
    kind, body = table.message(sender, vote).kind, pack(vote)
    domain, stated = statement(table.swarm.id, kind, table.cohort.id, body)
    signature = without_nonce(person, stated, domain)
    frame = Frame(1, kind, table.cohort.id, person.public_key, body, signature)
    return open_frame(table.swarm.id, pack(frame))


def test_who_votes_so_that_no_certificate_could_hold_is_refused_and_the_others_make_one():
    table = Table(5)
    table.silent = {Kind.SEAL_VOTE, Kind.BODY_VOTE}
    table.start().deal()
    votes = [table.said(i, Kind.SEAL_VOTE)[0] for i in range(5)]
    with pytest.raises(PeerViolation, match="SEAL_VOTE: a signature that no certificate can hold"):
        table.give(table.first, unsummable(table, 0, votes[0].body))
    told = [action for vote in votes[1:] for action in table.give(table.first, vote)]
    assert kinds(told, table.swarm.id) == [Kind.SEAL_CERTIFICATE] * 5
    for action in told:
        table.give(table.cohort.members.index(action.peer), open_frame(table.swarm.id, action.data))
    table.deal()

    votes = [table.said(i, Kind.BODY_VOTE)[0].body for i in range(5)]
    stated = body_statement(table.swarm.id, table.cohort.id, votes[0].aggregate)
    spoiling = BodyVote(votes[0].aggregate, without_nonce(table.people[0], stated, "body"))
    with pytest.raises(PeerViolation, match="BODY_VOTE: a signature that no certificate can hold"):
        table.give(table.first, table.message(0, spoiling))
    told = [action for i in range(1, 5) for action in table.give(table.first, table.message(i, votes[i]))]
    (done,) = [action for action in told if isinstance(action, Certified)]
    swarm = table.swarm
    assert check(done.aggregate, swarm.manifest, table.members[0].terms.layout, swarm.id)


@pytest.mark.parametrize(("vote", "sealed"), [(AbortVote(), False), (RejectVote(), True)])
def test_nor_can_a_vote_spoil_a_refund(vote, sealed):
    table = before_the_sum() if sealed else Table(5).masked()
    i, *others = (table.plain[0], *(j for j in range(5) if j != table.plain[0]))
    with pytest.raises(PeerViolation, match=r"(ABORT|REJECT)_VOTE: a signature that no certificate can hold"):
        table.give(i, unsummable(table, others[0], vote))
    for j in others:
        table.give(i, table.message(j, vote))
    assert table.outcome(i) is Outcome.REFUNDED


def test_a_stranger_is_no_member():
    table = Table().masked()
    stranger = Identity(bytes(32))
    frame = sign_frame(stranger, table.swarm.id, AbortVote(), cohort=table.cohort.id)
    with pytest.raises(PeerViolation, match="not a member of this cohort"):
        table.give(0, open_frame(table.swarm.id, frame))


def test_shares_are_taken_once_and_not_after_the_keys():
    table = Table()
    table.silent = {Kind.KEYS_SET}
    table.start().deal()
    i = table.plain[0]
    shares = table.said(i, Kind.SHARES)[0]
    assert isinstance(shares.body, Shares)
    assert table.give(table.first, shares) == []
    assert len(table.said(table.first, Kind.KEYS_SET)) == 4


# --- look before you sign -------------------------------------------------------------------------------------


def harmful(*bodies_of: int):
    """All members see harm in sums whose first lane is one of these; in no other."""
    return lambda _i, body: 2 * HARM_MAX if body.sums[0] in bodies_of else 0.0


def forged(table: Table, by: int) -> Message:
    """Another sum than was added up, as this aggregator shows it."""
    honest = next(
        message.body for i in (table.first, table.second) for message in table.said(i, Kind.BODY_PROPOSAL)
    )
    return table.message(by, BodyProposal(PLAIN + bytes([5]) * table.layout.parameters, honest.ranges))


def before_the_sum(n: int = 5) -> Table:
    """Everybody waits for the sum, and the first aggregator's proposal is lost."""
    table = Table(n)
    table.silent = {Kind.BODY_PROPOSAL}
    table.start().deal()
    assert {member.state for member in table.members} == {State.AWAIT_SUM}
    return table


def test_nothing_is_signed_before_the_device_has_looked():
    table = before_the_sum()
    i = table.plain[0]
    table.held = (Inspect,)
    (inspect,) = table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    assert inspect.body.sums
    assert not table.of(i, Persist)[1:]
    table.give(i, seen(inspect.tag, HARM_MAX))
    assert table.said(i, Kind.BODY_VOTE), "as much as honest sums may"


@pytest.mark.parametrize("rise", [HARM_MAX * 1.01, 5.0, float("inf"), float("nan")])
def test_a_sum_that_does_harm_is_not_signed_and_the_second_aggregator_has_its_turn(rise):
    table = before_the_sum()
    i = table.plain[0]
    table.rise = lambda *_: rise
    table.give(i, forged(table, table.first))
    [refused] = table.of(i, Refused)
    assert (refused.aggregator, refused.certain) == (table.cohort.aggregators[0], False)
    assert "raises the loss" in refused.reason
    assert not table.said(i, Kind.BODY_VOTE)
    assert table.members[i].second_is_due
    second = table.cohort.aggregators[1]
    told = [a for a in table.done[i] if isinstance(a, Send) and a.peer == second]
    assert Kind.UNMASK in kinds(told, table.swarm.id), "it is told all that it needs to add up"


def test_what_the_first_aggregator_forges_the_second_puts_right():
    """Seen: a forged body of the first was accepted 3 of 3 times."""
    table = before_the_sum()
    table.rise = harmful(5)
    table.silent = set()
    lie = forged(table, table.first)
    for i in range(5):
        if i != table.first:
            table.give(i, lie)
    table.deal()
    certified_ = [action for i in table.aggregators for action in table.of(i, Certified)]
    assert certified_
    assert {action.aggregate.body.sums[0] for action in certified_} != {5}
    for i in table.plain:
        assert table.outcome(i) is Outcome.INCLUDED
        certain = [refused for refused in table.of(i, Refused) if refused.certain]
        assert [refused.aggregator for refused in certain] == [table.cohort.aggregators[0]]


def test_a_member_looks_at_two_sums_of_a_cohort_at_most_and_at_the_same_one_once():
    table = before_the_sum()
    i = table.plain[0]
    table.rise = lambda *_: 1.0
    lie = forged(table, table.first)
    for _ in range(3):
        table.give(i, lie)
    again = BodyProposal(PLAIN + bytes([6]) * table.layout.parameters, lie.body.ranges)
    table.give(i, table.message(table.first, again))
    assert len(table.of(i, Inspect)) == 1, "one of each aggregator"
    table.give(i, table.message(table.second, lie.body))
    assert len(table.of(i, Inspect)) == 1, "the same sum is not looked at again"
    assert [
        put.value for action in table.of(i, Persist) for put in action.records if put.table == "body"
    ] == [b""]


def test_two_harmful_sums_are_the_members_and_are_rejected_durably():
    table = before_the_sum()
    i = table.plain[0]
    table.rise = lambda *_: 1.0
    table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    table.held = (Persist,)
    told = table.give(i, forged(table, table.second))
    [persist] = [action for action in told if isinstance(action, Persist)]
    assert persist.records == (Put("body", table.cohort.id, b""),)
    assert not table.said(i, Kind.REJECT_VOTE)
    table.release()
    assert len(table.said(i, Kind.REJECT_VOTE)) == 5
    table.rise = lambda *_: 0.0
    assert not kinds(table.give(i, forged(table, table.second)), table.swarm.id), "no body after REJECT"
    assert table.disk[i]["body", table.cohort.id] == b""


def test_never_reject_after_a_body():
    table = before_the_sum()
    i = table.plain[0]
    table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    assert table.said(i, Kind.BODY_VOTE)
    table.rise = lambda *_: 1.0
    table.give(i, forged(table, table.second))
    assert not table.give(i, TimerFired(("sum", table.cohort.id, "reject")))
    assert not table.said(i, Kind.REJECT_VOTE)


def test_where_no_other_sum_comes_the_first_is_rejected_in_time():
    table = before_the_sum()
    table.rise = lambda *_: 1.0
    i = table.plain[0]
    table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    assert table.timers[i, ("sum", table.cohort.id, "reject")] == table.now + REJECT_STEPS * STEP_S
    table.give(i, TimerFired(("sum", table.cohort.id, "reject")))
    assert table.said(i, Kind.REJECT_VOTE)


def test_t_rejections_refund_everybody_and_tell_who_contributed():
    """A sum that a member has spoilt: seen, 52 sums settled "unknown" and their updates lost."""
    table = Table(5)
    table.rise = lambda *_: 1.0
    table.start().deal().at(END_STEPS)
    for i in range(5):
        assert table.outcome(i) is Outcome.REFUNDED
        assert [told.contributors for told in table.of(i, Rejected)] == [[0, 1, 2, 3, 4]]
        assert table.members[i].state is State.OVER
    assert not any(table.of(i, Certified) for i in table.aggregators)


def test_fewer_than_t_rejections_stop_no_sum():
    table = Table(5)
    table.rise = lambda i, _: 1.0 if i == table.plain[0] else 0.0
    table.start().deal().at(END_STEPS)
    [done, *_] = [*table.of(table.first, Certified), *table.of(table.second, Certified)]
    refuser = table.plain[0]
    assert {table.outcome(i) for i in range(5) if i != refuser} == {Outcome.INCLUDED}
    assert table.said(refuser, Kind.REJECT_VOTE)
    table.learn(refuser, done.aggregate)
    assert table.outcome(refuser) is Outcome.INCLUDED, "it has voted, and counts all the same"


def rejected(table: Table, signers: list[int]) -> RejectCertificate:
    half = certified(table, RejectVote(), signers)
    return RejectCertificate(pack_members(signers, table.cohort.size), *half)


def test_a_rejection_needs_t_signatures_that_hold():
    table = before_the_sum()
    i = table.plain[0]
    good = rejected(table, [0, 1, 2, 3])
    for bad in [
        rejected(table, [0, 1, 2]),
        replace_fields(good, scalar=rejected(table, [1, 2, 3, 4]).scalar),
        replace_fields(good, signers=pack_members([1, 2, 3, 4], 5)),
        RejectCertificate(pack_members([0, 1, 2, 3], 5), *certified(table, AbortVote(), [0, 1, 2, 3])),
    ]:
        with pytest.raises(PeerViolation, match="without 4 valid"):
            table.give(i, table.message(table.first, bad))
    assert table.outcome(i) is None
    told = table.give(i, table.message(table.plain[1], good))
    assert table.outcome(i) is Outcome.REFUNDED
    assert [action.contributors for action in told if isinstance(action, Rejected)] == [[0, 1, 2, 3, 4]]
    assert not table.give(i, table.message(table.first, good)), "and once"


def test_after_a_restart_a_rejection_is_the_answer_and_refunds():
    """Rule 3: only a certificate refunds; a member that was away when t rejected the sum asks with its ABORT."""
    table = before_the_sum()
    i, other = table.plain[:2]
    table.give(other, table.message(table.first, rejected(table, [0, 1, 2, 3])))
    member = restarted(table, i)
    _, persist = member.resume(None)
    (asked, *_) = member.handle(Persisted(persist.tag), 0.0)
    vote = open_frame(table.swarm.id, asked.data)
    (answer,) = table.give(other, vote)
    assert kinds([answer], table.swarm.id) == [Kind.REJECT_CERTIFICATE]
    told = member.handle(open_frame(table.swarm.id, answer.data), 0.0)
    assert [action.outcome for action in told if isinstance(action, Settled)] == [Outcome.REFUNDED]


def test_ranges_far_from_what_a_member_measures_itself_are_refused():
    table = before_the_sum()
    i = table.plain[0]
    honest = table.said(table.first, Kind.BODY_PROPOSAL)[0].body
    own = table.members[i]._ranges
    for shift, refuses in ((RANGE_SLACK, False), (RANGE_SLACK + 1, True)):
        table = before_the_sum()
        ranges = tuple(5 * (int(each) + shift) for each in own)
        table.give(i, table.message(table.first, BodyProposal(honest.sums, ranges)))
        assert bool(table.of(i, Refused)) == refuses
        assert bool(table.said(i, Kind.BODY_VOTE)) == (not refuses)


def test_a_look_that_comes_when_all_is_over_changes_nothing():
    table = before_the_sum()
    i = table.plain[0]
    table.held = (Inspect,)
    (inspect,) = table.give(i, table.said(table.first, Kind.BODY_PROPOSAL)[0])
    table.give(i, table.message(table.first, rejected(table, [0, 1, 2, 3])))
    assert not table.give(i, seen(inspect.tag, 0.0))
    assert not table.said(i, Kind.BODY_VOTE)
