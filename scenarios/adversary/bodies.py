"""What a sum's proposal and body hold beside the values: the one place here that knows their present form."""

from msgspec import structs

from crypto.masking import Lanes
from gossip.aggregate import Aggregate, Body, Verified
from gossip.coding import squeeze
from gossip.messages import BodyProposal
from gossip.secure_sum import Member
from scenarios.adversary.behaviour import Integers, put


def proposal(member: Member, values: Integers, contributors: int) -> BodyProposal:
    """The ranges are as plausible as they can be without the true ones."""
    return BodyProposal(
        squeeze(encoded(member, values), _lanes(member)),
        tuple(int(code) * contributors for code in member.plan().ranges),
    )


def body(member: Member, values: Integers, contributors: int) -> Verified:
    """As if a cohort had signed it: for the fold alone."""
    told = proposal(member, values, contributors)
    made: Body = member.compose_body(encoded(member, values), told.ranges)
    weights = (contributors,) * member.terms.layout.segments  # before a seal, nobody is a contributor yet
    made = structs.replace(made, weights=weights)
    return Verified.of(Aggregate(made, ()), member.cohort.swarm.manifest)


def _lanes(member: Member) -> Lanes:
    lanes = member.plan().lanes
    return Lanes(0, lanes.narrow, lanes.narrow_bits)


def encoded(member: Member, values: Integers) -> bytes:
    lanes = _lanes(member)
    vector = lanes.zeros()
    put(vector, lanes, values)
    return vector.tobytes()
