"""What a sum's proposal and body hold beside the values: the one place here that knows their present form."""

from crypto.masking import Lanes
from gossip.aggregate import Aggregate, Body, Verified
from gossip.coding import squeeze
from gossip.messages import BodyProposal
from gossip.secure_sum import Member
from scenarios.adversary.behaviour import Integers, put


def proposal(examples: int, member: Member, values: Integers, contributors: int) -> BodyProposal:
    """Weights and ranges are as plausible as they can be without the true ones."""
    lanes, layout = _lanes(member), member.terms.layout
    weight = min(examples, member.cohort.swarm.manifest.compression.weight_max)
    return BodyProposal(
        squeeze(_encoded(member, values), lanes),
        (weight * contributors,) * layout.segments,
        tuple(int(code) * contributors for code in member.plan().ranges),
    )


def body(examples: int, member: Member, values: Integers, contributors: int) -> Verified:
    """As if a cohort had signed it: for the fold alone."""
    told = proposal(examples, member, values, contributors)
    made: Body = member.compose_body(_encoded(member, values), told.weights, told.ranges)
    return Verified.of(Aggregate(made, ()), member.cohort.swarm.manifest)


def _lanes(member: Member) -> Lanes:
    lanes = member.plan().lanes
    return Lanes(0, lanes.narrow, lanes.narrow_bits)


def _encoded(member: Member, values: Integers) -> bytes:
    lanes = _lanes(member)
    vector = lanes.zeros()
    put(vector, lanes, values)
    return vector.tobytes()
