"""The swarm's constitution: what is trained, how sums are formed, and who may take part.

A manifest is written once by the founder, signed with the founder's device key, and never changes; the swarm's
id is its hash, so that two devices that disagree on any setting are simply not in the same swarm.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from crypto.hashing import digest
from crypto.identity import SIGNATURE_BYTES, Identity, verify
from gossip.errors import ManifestError, PeerViolation
from gossip.wire import Wire, pack, unpack

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
PeerKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]*$")]

TENSORS_MAX = 4096
SEGMENTS_MAX = 62
MEMBERS_MAX = 4096
SCHEDULE_MAX = 16
PARAMETERS_MAX = 1 << 28
COHORT_MAX = 64  # members
RANK_MAX = 64
GRAIN_MAX = 64
MASKS_OFF = "masks are off: members' updates are visible to their aggregator"
INVITES_MAX = 1 << 12  # of one inviter, whatever the manifest says, and of the founder
DEPTH_MAX = 4  # generations
AHEAD_MAX = 64  # rounds
FORESIGHT_MAX = 1 << 10
STEPS_MAX = 8  # of Newton and Schulz, for the integers of what they make
SIDE_MAX = 1 << 16  # rows or columns of a matrix, for the integers of its basis


class Tensor(Wire, frozen=True):
    """One parameter tensor of the flat vector, in order."""

    size: Annotated[int, Meta(ge=1, le=1 << 28)]  # parameters
    segment: Annotated[int, Meta(ge=0, lt=SEGMENTS_MAX)]  # trained or frozen together
    rows: Annotated[int, Meta(ge=0, le=SIDE_MAX)] = (
        0  # codec lowrank: of a matrix that travels as factors, else 0
    )
    rank: Annotated[int, Meta(ge=0, le=RANK_MAX)] = 0  # of its factors, where it is not the swarm's


class Step(Wire, frozen=True):
    """The fold's step size E/256 and momentum B/256 from `from_round` on."""

    from_round: Annotated[int, Meta(ge=1)]
    size: Annotated[int, Meta(ge=1, le=256)]
    momentum: Annotated[int, Meta(ge=0, le=255)]


class Model(Wire, frozen=True):
    task: Annotated[str, Meta(min_length=1, max_length=128)]
    schema: Hash  # of the tensors' names and shapes
    tensors: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=TENSORS_MAX)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]  # of x_0
    initial: Hash  # SHA-256 of x_0 as little-endian int64


class Training(Wire, frozen=True):
    min_steps: Annotated[int, Meta(ge=1, le=1 << 20)]  # local steps that make a phase eligible
    max_steps: Annotated[int, Meta(ge=1, le=1 << 20)]  # a phase pauses there until its cohort closes
    rounds: Annotated[int, Meta(ge=0)]  # 0: without end
    schedule: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=SCHEDULE_MAX)]
    cap: Annotated[int, Meta(ge=1, le=1 << 30)]  # largest change of a parameter in one round, in 2^-24
    phase_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 0  # that a phase lasts at least, beside its steps
    rounds_ahead: Annotated[int, Meta(ge=1, le=AHEAD_MAX)] = (
        3  # before it is drawn in which a device trains already
    )
    # 256ths of a round that a phase stands ahead of the model, along the fold's momentum (`gossip.history.fold`).
    foresight: Annotated[int, Meta(ge=0, le=FORESIGHT_MAX)] = 0


class Compression(Wire, frozen=True):
    codec: Literal["dense", "lowrank"]
    block_size: Annotated[int, Meta(ge=1, le=4096)]  # parameters
    levels: Annotated[int, Meta(ge=1, le=32767)]  # S: a contribution's integers lie in [-S, S]
    lane_bits: Literal[8, 16, 32]  # b: sums live in Z_2^b
    first_exponent: Annotated[int, Meta(ge=-24, le=0)]  # C = 2^e before any aggregate has told the range
    rank: Annotated[int, Meta(ge=1, le=RANK_MAX)] = 8  # codec lowrank: columns of a factor
    feedback: Annotated[int, Meta(ge=0, le=256)] = (
        256  # 256ths that a member keeps of what a sum did not carry
    )
    grain: Annotated[int, Meta(ge=0, le=GRAIN_MAX)] = 0  # how coarsely sums are published; 0: as they are
    newton_schulz: Annotated[int, Meta(ge=0, le=STEPS_MAX)] = (
        0  # codec lowrank: steps that even out a factor (`gossip.codec.lowrank`)
    )


class Cohorts(Wire, frozen=True):
    n_min: Annotated[int, Meta(ge=3, le=COHORT_MAX)]  # contributors that a sum must hide one among
    n_max: Annotated[int, Meta(ge=3, le=COHORT_MAX)]
    gather_ms: Annotated[int, Meta(ge=10, le=3_600_000)]  # a leader waits this long for more READYs
    step_ms: Annotated[int, Meta(ge=10, le=3_600_000)]  # each step of the secure sum
    sums: Annotated[int, Meta(ge=1, le=1024)] = 8  # a round aims at; a lottery where more could come of it
    masks: bool = True  # without, each update is in the clear for its cohort's aggregators: MASKS_OFF


class Invitations(Wire, frozen=True):
    """Where certificates admit (`gossip.membership.admission`)."""

    invites_max: Annotated[int, Meta(ge=1, le=INVITES_MAX)] = 16  # of each device but the founder
    depth_max: Annotated[int, Meta(ge=1, le=DEPTH_MAX)] = 3  # generations: 1 where only the founder invites


class Manifest(Wire, frozen=True):
    version: Literal[1]
    name: Name
    model: Model
    training: Training
    compression: Compression
    cohorts: Cohorts
    admit: Literal[
        "open", "members", "invite", "ask"
    ]  # the last two: by certificate, see gossip.membership.admission
    members: Annotated[tuple[PeerKey, ...], Meta(max_length=MEMBERS_MAX)]  # admit = "members": exactly these
    founder: PeerKey
    invitations: Invitations = Invitations()

    @property
    def certifies(self) -> bool:
        """Whether certificates say who belongs."""
        return self.admit in {"invite", "ask"}


MANIFEST_BYTES = 1 << 18


class SignedManifest(Wire, frozen=True):
    manifest: bytes
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True)
class Swarm:
    """An opened manifest: `id` is its hash, `signed` the bytes to hand to a newcomer."""

    id: bytes
    manifest: Manifest
    signed: bytes
    listed: frozenset[bytes] = field(init=False, repr=False, compare=False)  # asked, and never iterated

    def __post_init__(self) -> None:
        object.__setattr__(self, "listed", frozenset(self.manifest.members))

    def may_admit(self, peer: bytes) -> bool:
        """Whether the manifest alone leaves room for this device; where certificates admit, they have the last word."""
        return self.manifest.admit != "members" or peer in self.listed


def found(manifest: Manifest, founder: Identity) -> Swarm:
    """Sign a new swarm into being; raises ManifestError when its settings contradict each other."""
    if manifest.founder != founder.public_key:
        raise ManifestError("a manifest is signed by the founder that it names")
    body = pack(manifest)
    return open_manifest(pack(SignedManifest(body, founder.sign("manifest", body))))


def open_manifest(signed: bytes) -> Swarm:
    """Verify a signed manifest; raises PeerViolation for bytes that are none, ManifestError for bad settings."""
    envelope = unpack(signed, SignedManifest, limit_bytes=MANIFEST_BYTES)
    manifest = unpack(envelope.manifest, Manifest, limit_bytes=MANIFEST_BYTES)
    if not verify(manifest.founder, "manifest", envelope.manifest, envelope.signature):
        raise PeerViolation("manifest: the founder's signature does not hold")
    refuse_contradictions(manifest)
    return Swarm(digest("swarm", envelope.manifest), manifest, signed)


def refuse_contradictions(manifest: Manifest) -> None:
    """Bounds that span several fields; raises ManifestError that names the settings to change."""
    cohorts, compression, training = manifest.cohorts, manifest.compression, manifest.training
    if cohorts.n_min > cohorts.n_max:
        raise ManifestError(f"cohorts: n_min {cohorts.n_min} is above n_max {cohorts.n_max}")
    if training.min_steps > training.max_steps:
        raise ManifestError(
            f"training: min_steps {training.min_steps} is above max_steps {training.max_steps}"
        )
    starts = [step.from_round for step in training.schedule]
    if starts[0] != 1 or starts != sorted(set(starts)):
        raise ManifestError("training: the schedule starts at round 1 and its rounds ascend")
    if 2 * cohorts.n_max * compression.levels + 1 > 1 << compression.lane_bits:
        raise ManifestError(
            f"compression: {cohorts.n_max} members of {compression.levels} levels overflow "
            f"{compression.lane_bits} bits; 2 * n_max * levels + 1 must fit"
        )
    if cohorts.n_max * compression.levels > 1 << 9:
        raise ManifestError("compression: n_max * levels is above 512, beyond which the fold could overflow")
    if compression.grain > cohorts.n_min * compression.levels**2:
        raise ManifestError(
            f"compression: a grain of {compression.grain} rounds the sums of {cohorts.n_min} members of "
            f"{compression.levels} levels to zero; at most n_min * levels^2"
        )
    for place, tensor in enumerate(manifest.model.tensors):
        _refuse_unfit_matrix(place, tensor, compression)
    if (manifest.admit == "members") != bool(manifest.members):
        raise ManifestError('members are listed if and only if admit is "members"')
    if list(manifest.members) != sorted(set(manifest.members)):
        raise ManifestError("members: must ascend without repetition")


def _refuse_unfit_matrix(place: int, tensor: Tensor, compression: Compression) -> None:
    if not tensor.rows:
        if tensor.rank:
            raise ManifestError(f"model: tensor {place} has a rank and no rows")
        return
    rank = tensor.rank or compression.rank
    cols, rest = divmod(tensor.size, tensor.rows)
    if compression.codec != "lowrank":
        raise ManifestError(f"model: tensor {place} has rows, which only the lowrank codec knows")
    if rest or cols > SIDE_MAX or rank > min(tensor.rows, cols):
        raise ManifestError(
            f"model: tensor {place} of {tensor.size} parameters is no matrix of {tensor.rows} rows, at most "
            f"{SIDE_MAX} columns and a rank of {rank}"
        )
