"""What the members of one cohort say to each other. Every message is signed, under its cohort."""

from typing import Annotated

from msgspec import Meta

from crypto.sealing import OVERHEAD_BYTES
from gossip.fields import Bitmap, BitmapOrNone, Commitments, Scalar, ShortHash, Signature
from gossip.frames import Kind, Scope, message
from gossip.manifest import COHORT_MAX, TENSORS_MAX, Hash
from gossip.wire import Wire

SHARE_BYTES = 16
ENVELOPE_BYTES = 2 * SHARE_BYTES + OVERHEAD_BYTES  # a share of each of two secrets, sealed

Share = Annotated[bytes, Meta(max_length=SHARE_BYTES)]  # or nothing
Envelope = Annotated[bytes, Meta(max_length=ENVELOPE_BYTES)]  # or nothing


@message(Kind.COMMITMENT, Scope.COHORT)
class Commitment(Wire, frozen=True):
    """Binds a member to its seed; as a statement in its cohort, it is also the signature under the roster.

    It travels without a frame, in SHARES and KEYS_SET: receivers know all of its statement but the hash.
    """

    seed: ShortHash  # H(b)


class Committed(Wire, frozen=True):
    """A COMMITMENT and its author's signature, as a frame's would be."""

    commitment: Commitment
    signature: Signature


@message(Kind.SHARES, Scope.COHORT)
class Shares(Wire, frozen=True):
    committed: Committed
    envelopes: Annotated[
        tuple[Envelope, ...], Meta(min_length=3, max_length=COHORT_MAX)
    ]  # by member; own: empty


@message(Kind.DECLINE, Scope.COHORT)
class Decline(Wire, frozen=True):
    """My READY has gone into another roster, or has lapsed: do not wait for my shares."""


@message(Kind.KEYS_SET, Scope.COHORT)
class KeysSet(Wire, frozen=True):
    """U1: whose keys take part, with this receiver's envelope from each of them. Empty: too few dealt, it is over."""

    owners: BitmapOrNone
    committed: Annotated[tuple[Committed, ...], Meta(max_length=COHORT_MAX)]
    envelopes: Annotated[tuple[Envelope, ...], Meta(max_length=COHORT_MAX)]


@message(Kind.MASKED, Scope.COHORT)
class Masked(Wire, frozen=True):
    context: Hash  # of U1
    vector: bytes


@message(Kind.SEAL_PROPOSAL, Scope.COHORT)
class SealProposal(Wire, frozen=True):
    """U2: whose masked vectors are summed, each by its hash."""

    context: Hash
    contributors: Bitmap
    vectors: Annotated[tuple[ShortHash, ...], Meta(min_length=3, max_length=COHORT_MAX)]


@message(Kind.SEAL_VOTE, Scope.COHORT)
class SealVote(Wire, frozen=True):
    seal: Hash  # of the proposal's encoding


@message(Kind.ABORT_VOTE, Scope.COHORT)
class AbortVote(Wire, frozen=True):
    """I will never sign a seal in this cohort."""


@message(Kind.SEAL_CERTIFICATE, Scope.COHORT)
class SealCertificate(Wire, frozen=True):
    """t signatures under one proposal, which is in it unless the receiver has voted for it.

    Here and below they are one half-aggregate, as in an aggregate's `Signatures`.
    """

    seal: Hash
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar
    proposal: SealProposal | None


@message(Kind.ABORT_CERTIFICATE, Scope.COHORT)
class AbortCertificate(Wire, frozen=True):
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar


@message(Kind.UNMASK, Scope.COHORT)
class Unmask(Wire, frozen=True):
    """Of each owner exactly one secret: the self mask's seed inside U2, the key of the pairwise masks outside."""

    seal: Hash
    shares: Annotated[
        tuple[Share, ...], Meta(max_length=COHORT_MAX)
    ]  # of U1's owners in order; empty: got none


@message(Kind.BODY_PROPOSAL, Scope.COHORT)
class BodyProposal(Wire, frozen=True):
    """The two sums: the rest of the aggregate's body follows from the roster, the seal and the plan."""

    sums: bytes  # coded, as all unmasked sums on the wire (gossip.codec.entropy_coding)
    ranges: Annotated[tuple[Annotated[int, Meta(ge=0, lt=1 << 32)], ...], Meta(max_length=TENSORS_MAX)]


@message(Kind.BODY_VOTE, Scope.COHORT)
class BodyVote(Wire, frozen=True):
    aggregate: Hash
    signature: Signature  # over gossip.history.aggregate.body_statement: it outlives the cohort


@message(Kind.REJECT_VOTE, Scope.COHORT)
class RejectVote(Wire, frozen=True):
    """I will never sign a sum of this cohort: what I was shown does harm, or there is none."""


@message(Kind.REJECT_CERTIFICATE, Scope.COHORT)
class RejectCertificate(Wire, frozen=True):
    """No sum of this cohort will ever have t signatures."""

    signers: Bitmap
    commitments: Commitments
    scalar: Scalar


@message(Kind.AUDIT_REQUEST, Scope.COHORT)
class AuditRequest(Wire, frozen=True):
    """Show me what you have added up (`gossip.secure_sum.audit`)."""


@message(Kind.AUDIT_ANSWER, Scope.COHORT)
class AuditAnswer(Wire, frozen=True):
    """One of as many as U1 has owners."""

    owner: Annotated[int, Meta(ge=0, lt=COHORT_MAX)]
    vector: bytes  # its masked vector, as sealed; empty if it dropped out
    secret: Share  # the seed of its mask, or of its key if it dropped out; empty without masks


@message(Kind.ACCUSATION, Scope.COHORT)
class Accusation(Wire, frozen=True):
    """I have added up what was sealed, and it is not what the aggregator published. See for yourself: ask me, too.

    The signature is of the domain "retract": t of them take the sum back (`gossip.history.strikes`).
    """

    aggregate: Hash
    signature: Signature


@message(Kind.RESULT, Scope.COHORT)
class Result(Wire, frozen=True):
    """The signatures under the body that the receiver has from its BODY_PROPOSAL; who has not pulls the aggregate."""

    aggregate: Hash
    signers: Bitmap
    commitments: Commitments
    scalar: Scalar
