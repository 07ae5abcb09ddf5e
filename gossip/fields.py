"""Bounded field types that messages of several protocols share."""

from typing import Annotated

from msgspec import Meta

from crypto.half_aggregation import COMMITMENT_BYTES, SCALAR_BYTES
from gossip.manifest import COHORT_MAX, Hash

SHORT_HASH_BYTES = 16  # where only a second preimage could do harm; each place says why
SHORT_BYTES = 8  # of an id, where whoever answers may answer with all that begin so
PRESENCE_FRAME_BYTES = 9000  # a PRESENCE of the longest addresses, framed
INDEX_BYTES = 2  # of a place in the manifest's list of members, big-endian
PARENTS_MAX = 8

# In a swarm that lists its members, a member's place in the list; in any other, its key. Only that one spelling is valid.
MemberName = Annotated[bytes, Meta(min_length=INDEX_BYTES, max_length=32)]
Bitmap = Annotated[bytes, Meta(min_length=1, max_length=COHORT_MAX // 8)]
BitmapOrNone = Annotated[bytes, Meta(max_length=COHORT_MAX // 8)]
HashOrNone = Annotated[bytes, Meta(max_length=32)]
ShortHash = Annotated[bytes, Meta(min_length=SHORT_HASH_BYTES, max_length=SHORT_HASH_BYTES)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Commitments = Annotated[
    bytes, Meta(min_length=2 * COMMITMENT_BYTES, max_length=COHORT_MAX * COMMITMENT_BYTES)
]
Scalar = Annotated[bytes, Meta(min_length=SCALAR_BYTES, max_length=SCALAR_BYTES)]
Heads = Annotated[tuple[Hash, ...], Meta(max_length=PARENTS_MAX)]
Round = Annotated[int, Meta(ge=0, lt=1 << 48)]
Short = Annotated[bytes, Meta(min_length=SHORT_BYTES, max_length=SHORT_BYTES)]
PresenceFrame = Annotated[bytes, Meta(max_length=PRESENCE_FRAME_BYTES)]
