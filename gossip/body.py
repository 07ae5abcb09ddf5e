"""What a sum is, before anybody has signed it: the *body* of an aggregate, and its name.

The body says which cohorts met, who of them is in the sum, and what the sum is. Its id is the hash of the
body alone, so that an aggregate is the same under whichever t members signed it (`gossip.history.aggregate`).
"""

from typing import Annotated, Literal

from msgspec import Meta

from crypto.hashing import digest
from gossip.fields import PARENTS_MAX, Bitmap, HashOrNone, MemberName
from gossip.manifest import COHORT_MAX, PARAMETERS_MAX, SEGMENTS_MAX, TENSORS_MAX, Hash
from gossip.wire import Wire, pack

PARTS_MAX = 8
ROUND_MAX = (1 << 24) - 1  # the fold's integers cannot overflow before it
CONTRIBUTORS_MAX = PARTS_MAX * COHORT_MAX
EXPONENT_MAX = 24  # C = 2^-exponent
RANGE_MAX = 1023  # one contributor's range code
CODECS = ("dense", "lowrank")  # by their numbers on the wire
LaneBytes = Annotated[bytes, Meta(min_length=1, max_length=4 * PARAMETERS_MAX)]
Weight = Annotated[int, Meta(ge=0, le=CONTRIBUTORS_MAX)]
Range = Annotated[int, Meta(ge=0, le=CONTRIBUTORS_MAX * RANGE_MAX)]


class Part(Wire, frozen=True):
    """One cohort of the sum."""

    roster: Hash
    members: Annotated[tuple[MemberName, ...], Meta(min_length=3, max_length=COHORT_MAX)]  # ascending
    membership: Hash
    contributors: Bitmap  # U2, over `members`


class Body(Wire, frozen=True):
    version: Literal[1]
    swarm: Hash
    parts: Annotated[tuple[Part, ...], Meta(min_length=1, max_length=PARTS_MAX)]  # ascending by roster
    parents: Annotated[tuple[Hash, ...], Meta(max_length=PARENTS_MAX)]  # ascending
    round: Annotated[int, Meta(ge=1, le=ROUND_MAX)]
    codec: Annotated[int, Meta(ge=0, lt=len(CODECS))]
    basis: HashOrNone  # codec lowrank: the parent whose factors give the basis, see gossip.codec.lowrank
    blocks: Annotated[bytes, Meta(max_length=PARAMETERS_MAX // 8)]  # the support, see gossip.codec.blocks
    exponents: Annotated[
        bytes, Meta(min_length=1, max_length=PARAMETERS_MAX)
    ]  # -e of each carried block; codec lowrank: of each tensor
    sums: LaneBytes  # Q, little-endian signed lanes of the manifest's lane_bits, block after block
    weights: Annotated[
        tuple[Weight, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)
    ]  # W, by segment: how many of the contributors trained it, 0 where it does not travel
    ranges: Annotated[tuple[Range, ...], Meta(min_length=1, max_length=TENSORS_MAX)]  # range codes by tensor
    state: HashOrNone  # every STATE_EVERY rounds: the root of the ancestors' checkpoint


def aggregate_id(body: Body) -> bytes:
    return digest("aggregate", pack(body))


def is_lowrank(body: Body) -> bool:
    return CODECS[body.codec] == "lowrank"


def count_contributors(body: Body) -> int:
    return sum(byte.bit_count() for part in body.parts for byte in part.contributors)
