"""Bad devices that are not there when it matters, and ones that stop what others do."""

from collections.abc import Iterable

from gossip.body import Body
from gossip.cohort.roster import Cohort
from gossip.events import Event, Received, Send
from gossip.frames import Kind
from gossip.secure_sum.member import Member
from scenarios.adversary.behaviour import Behaviour

# What a member or an aggregator says from a step on, in the order of a sum.
STEPS = {
    "SHARES": ("SHARES", "DECLINE", "KEYS_SET"),
    "MASKED": ("MASKED", "SEAL_PROPOSAL"),
    "SEAL": ("SEAL_VOTE", "SEAL_CERTIFICATE", "ABORT_VOTE", "ABORT_CERTIFICATE"),
    "UNMASK": ("UNMASK", "BODY_PROPOSAL"),
    "BODY_VOTE": ("BODY_VOTE", "REJECT_VOTE", "REJECT_CERTIFICATE", "RESULT", "AUDIT_ANSWER", "ACCUSATION"),
}


def kind_of(frame: bytes) -> Kind | None:
    """Of one of our own frames, by its third byte."""
    return Kind(frame[2]) if frame[2] in Kind._value2member_map_ else None


def said_from(step: str) -> frozenset[Kind]:
    """Of the kinds that there are: this protocol may have fewer words than this list."""
    steps = list(STEPS)
    names = [name for each in steps[steps.index(step) :] for name in STEPS[each]]
    return frozenset(Kind[name] for name in names if name in Kind.__members__)


class Silence(Behaviour):
    summary = "takes part, and from one step of a sum on says nothing, as member or as aggregator"

    def say(self, send: Send) -> Iterable[Send]:
        return () if kind_of(send.data) in said_from(self.table.step) else (send,)


class LeaveOut(Behaviour):
    summary = "as first aggregator leaves as many honest members out of its sums as it may, always the same, hubs first"

    def hear(self, event: Event, now: float) -> Iterable[Event]:
        del now
        running = self.core.running
        if not isinstance(event, Received) or running is None or running.aggregator is None:
            return (event,)
        cohort = running.member.cohort
        leads = cohort.aggregators[0] == self.core.me
        is_given = kind_of(event.data) in {Kind.SHARES, Kind.MASKED}
        return () if leads and is_given and event.peer in self._unwanted(cohort) else (event,)

    def _unwanted(self, cohort: Cohort) -> list[bytes]:
        hub = dict(zip(cohort.members, cohort.readies, strict=True))
        honest = [peer for peer in cohort.members if peer not in self.league.identities]
        return sorted(honest, key=lambda peer: (not hub[peer].hub, peer))[: cohort.size - cohort.least]


class RefuseAll(Behaviour):
    summary = "rejects every sum"

    def spoils(self, member: Member, body: Body) -> bool:
        del member, body
        return False
