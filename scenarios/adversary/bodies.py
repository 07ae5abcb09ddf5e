"""What a sum's proposal and body hold beside the values: the one place here that knows their present form."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from crypto.certificates import certify
from crypto.identity import Identity
from crypto.masking import Lanes
from gossip.body import Body, Part, aggregate_id
from gossip.codec.codec import EVERY_SEGMENT
from gossip.codec.entropy_coding import squeeze
from gossip.codec.lowrank import basis_after, values_in
from gossip.codec.ranges import grain_of
from gossip.history.aggregate import MEMBERSHIP_OF_MANIFEST, Aggregate, Signatures, Verified, body_statement
from gossip.manifest import Manifest, Swarm
from gossip.quorum import pack_members, spell_members
from gossip.secure_sum.member import Member, Terms
from gossip.secure_sum.messages import BodyProposal
from scenarios.adversary.behaviour import Integers, chance, put


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
    origin = next((each for each in member.terms.parents if aggregate_id(each) == made.basis), None)
    return replace(Verified.of(Aggregate(made, ()), member.cohort.swarm.manifest), origin=origin)


def league_aggregate(
    swarm: Swarm,
    terms: Terms,
    signers: Sequence[Identity],
    *,
    parents: tuple[bytes, ...],
    round_: int,
    state: bytes,
    roster: bytes,
) -> Aggregate:
    """An aggregate of the largest values that there are, signed by a cohort that never met: `signers`, by key."""
    manifest, layout = swarm.manifest, terms.layout
    keys = [signer.public_key for signer in signers]
    plan = terms.codec.plan(
        layout=layout,
        compression=manifest.compression,
        cohort=roster,
        parents=terms.parents,
        travelling=EVERY_SEGMENT,
    )
    narrow = (
        values_in(layout, manifest.compression.rank, round_) if is_factored(manifest) else plan.lanes.narrow
    )
    lanes = Lanes(0, narrow, plan.lanes.narrow_bits)
    vector, grain = lanes.zeros(), grain_of(len(keys), manifest.compression)
    most = len(keys) * manifest.compression.levels // grain * grain
    put(vector, lanes, most * chance(roster).choice([-1, 1], narrow))
    everybody = pack_members(list(range(len(keys))), len(keys))
    made = Body(
        version=1,
        swarm=swarm.id,
        parts=(Part(roster, spell_members(keys, manifest), MEMBERSHIP_OF_MANIFEST, everybody),),
        parents=tuple(sorted(parents)),
        round=round_,
        codec=terms.codec.id,
        basis=basis_after(((round_ - 1, each) for each in parents), roster) if is_factored(manifest) else b"",
        blocks=layout.pack_blocks(plan.support),
        exponents=plan.exponent_bytes,
        sums=vector.tobytes(),
        weights=(len(keys),) * layout.segments,
        ranges=tuple(int(code) * len(keys) for code in plan.ranges),
        state=state,
    )
    stated = body_statement(swarm.id, roster, aggregate_id(made))
    votes = {place: signer.sign("body", stated) for place, signer in enumerate(signers)}
    return Aggregate(made, (Signatures(everybody, *certify("body", stated, keys, votes)),))


def is_factored(manifest: Manifest) -> bool:
    return manifest.compression.codec == "lowrank"


def _lanes(member: Member) -> Lanes:
    lanes = member.plan().lanes
    return Lanes(0, lanes.narrow, lanes.narrow_bits)


def encoded(member: Member, values: Integers) -> bytes:
    lanes = _lanes(member)
    vector = lanes.zeros()
    put(vector, lanes, values)
    return vector.tobytes()
