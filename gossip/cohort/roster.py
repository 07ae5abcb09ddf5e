"""A cohort: the facts that every member derives alike from one ROSTER, and the keys that belong to it.

The roster carries its members' own signed READY messages (without what is implied or was said already: each frame is put
together again, and then opened as if its author had sent it), so a leader can leave a device out but can neither
invent one nor change what it said. The cohort's id is the roster's hash; every key, mask and signature below is bound
to it, and keys serve one cohort only (design, rule 6).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from crypto.agreement import KEY_BYTES, SEED_BYTES, KeyPair, is_weak
from crypto.hashing import digest
from gossip.cohort.messages import Entry, Ready, Roster
from gossip.errors import MisuseError, PeerViolation
from gossip.frames import Kind, Message, open_frame, reframe
from gossip.manifest import Swarm
from gossip.quorum import ascend, read_members, spell_members, threshold
from gossip.wire import pack

AGGREGATORS = 2
HUBS = 3  # the aggregators, and one more to whom all can bring an ABORT vote when both are gone


@dataclass(frozen=True)
class Cohort:
    swarm: Swarm
    id: bytes
    roster: Roster
    leader: bytes
    members: tuple[bytes, ...]  # ascending; a member's index is its place here
    readies: tuple[Ready, ...]  # by index
    frame: bytes  # the ROSTER as its leader signed it

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def names(self) -> tuple[bytes, ...]:
        """The members as an aggregate's body spells them."""
        return spell_members(self.members, self.swarm.manifest)

    @property
    def masked(self) -> bool:
        """Whether the swarm has masks: without them a vector is its owner's update, for both aggregators to read."""
        return self.swarm.manifest.cohorts.masks

    @property
    def threshold(self) -> int:
        return threshold(self.size)

    @property
    def least(self) -> int:
        """The fewest members that a set of keys or a seal may leave."""
        return max(self.threshold, self.swarm.manifest.cohorts.n_min)

    @cached_property
    def aggregators(self) -> tuple[bytes, ...]:
        """The leader, to whom all members are connected, if it is one of them; then hubs, and by hash, so that nobody picks them.

        An aggregator is trusted for availability alone, which a leader can deny in any case.
        """
        return self.hubs[:AGGREGATORS]

    @cached_property
    def hubs(self) -> tuple[bytes, ...]:
        """Members that every other one can find, even in a swarm that nobody knows whole."""
        ranked = sorted(
            range(self.size),
            key=lambda i: (
                self.members[i] != self.leader,
                not self.readies[i].hub,
                digest("aggregator", self.id, self.members[i]),
            ),
        )
        return tuple(self.members[i] for i in ranked[:HUBS])

    @cached_property
    def travelling(self) -> int:
        """Bit s: segment s travels, because n_min of its trainers are left whoever may still drop out (design, rule 5)."""
        needed = self.swarm.manifest.cohorts.n_min + self.size - self.least
        return self._trained_by_at_least(needed, range(self.size))

    def index(self, peer: bytes) -> int:
        """Raises PeerViolation for a stranger."""
        try:
            return self.members.index(peer)
        except ValueError:
            raise PeerViolation("not a member of this cohort") from None

    def hides(self, contributors: list[int]) -> bool:
        """Whether a sum over these members hides each of them, in every segment that travels."""
        if len(contributors) < self.least:
            return False
        n_min = self.swarm.manifest.cohorts.n_min
        return not self.travelling & ~self._trained_by_at_least(n_min, contributors)

    def weights(self, contributors: list[int]) -> tuple[int, ...]:
        """By segment: how many of these members trained it, 0 where it does not travel."""
        segments = 1 + max(tensor.segment for tensor in self.swarm.manifest.model.tensors)
        return tuple(
            sum(self.readies[i].trained >> segment & 1 for i in contributors)
            if self.travelling >> segment & 1
            else 0
            for segment in range(segments)
        )

    def _trained_by_at_least(self, count: int, members: range | list[int]) -> int:
        bits = 0
        for segment in {tensor.segment: None for tensor in self.swarm.manifest.model.tensors}:
            if sum(self.readies[i].trained >> segment & 1 for i in members) >= count:
                bits |= 1 << segment
        return bits


def write_roster(
    swarm: Swarm, round_: int, parents: tuple[bytes, ...], state: bytes, readies: Sequence[Message]
) -> Roster:
    """The one roster of these READY messages, which ascend by sender."""
    heads: dict[tuple[bytes, ...], int] = {parents: 0}
    entries = []
    names = spell_members([message.sender for message in readies], swarm.manifest)
    for name, message in zip(names, readies, strict=True):
        ready = message.body
        if not isinstance(ready, Ready):
            raise MisuseError(f"{message.kind.name} where a READY belongs")
        place = heads.setdefault(ready.heads, len(heads))
        entries.append(
            Entry(
                name,
                ready.round,
                place,
                ready.trained,
                ready.channel,
                ready.mask,
                ready.hub,
                message.signature,
            )
        )
    return Roster(round_, parents, state, tuple(heads)[1:], tuple(entries))


def ready_frames(swarm: Swarm, roster: Roster) -> tuple[bytes, ...]:
    """The members' READYs as they framed them; PeerViolation for a roster that cannot be read."""
    # A name is a place in the manifest's list, where there is one: a leader cannot count in devices of its own making,
    # with which it could surround one member and read its update.
    keys = read_members([entry.member for entry in roster.readies], swarm.manifest)
    heads = (roster.parents, *roster.heads)
    if any(entry.heads >= len(heads) for entry in roster.readies):
        raise PeerViolation("ROSTER: heads that it does not tell")
    return tuple(
        reframe(
            Kind.READY,
            Ready(entry.round, heads[entry.heads], entry.trained, entry.channel, entry.mask, entry.hub),
            key,
            entry.signature,
        )
        for key, entry in zip(keys, roster.readies, strict=True)
    )


def open_roster(swarm: Swarm, message: Message) -> Cohort:
    """The cohort that a leader's ROSTER proposes; raises PeerViolation if any part of it does not hold."""
    roster = message.body
    if not isinstance(roster, Roster):
        raise PeerViolation(f"{message.kind.name} where a ROSTER belongs")
    if not swarm.manifest.cohorts.n_min <= len(roster.readies) <= swarm.manifest.cohorts.n_max:
        raise PeerViolation(f"ROSTER: {len(roster.readies)} members")
    if not ascend(roster.parents):
        raise PeerViolation("ROSTER: parents must ascend without repetition")
    said = [open_frame(swarm.id, frame) for frame in ready_frames(swarm, roster)]
    members = [message.sender for message in said]
    readies = [message.body for message in said if isinstance(message.body, Ready)]
    for each in readies:
        refuse_unfit_keys(each, masks=swarm.manifest.cohorts.masks)
    if members != sorted(set(members)):
        raise PeerViolation("ROSTER: members must ascend without repetition")
    if write_roster(swarm, roster.round, roster.parents, roster.state, said) != roster:
        raise PeerViolation("ROSTER: tells heads otherwise than once, in order")
    # With its leader: two leaders of the same READYs lead two cohorts, with aggregators of their own.
    cohort_id = digest("cohort", swarm.id, message.sender, pack(roster))
    cohort = Cohort(swarm, cohort_id, roster, message.sender, tuple(members), tuple(readies), message.raw)
    if not cohort.travelling:
        raise PeerViolation("ROSTER: no segment was trained by enough members to travel")
    return cohort


def refuse_unfit_keys(ready: Ready, *, masks: bool) -> None:
    """Raises PeerViolation for a READY with a key that would agree on a secret known to everybody.

    And for one without keys where there are masks, or with some where there are none.
    """
    if not masks:
        if ready.channel or ready.mask:
            raise PeerViolation("READY: keys, of which a swarm without masks makes nothing")
        return
    if len(ready.channel) != KEY_BYTES or len(ready.mask) != KEY_BYTES:
        raise PeerViolation("READY: without the keys for its masks")
    if is_weak(ready.channel) or is_weak(ready.mask):
        raise PeerViolation("READY: a key of low order")


@dataclass(frozen=True)
class Secrets:
    """One member's fresh secrets for one cohort. They never touch a disk."""

    channel: KeyPair
    mask: KeyPair  # from the seed that follows
    mask_seed: bytes  # what is dealt of M, SEED_BYTES
    seed: bytes  # b, SEED_BYTES

    @classmethod
    def fresh(cls, owner: bytes, entropy: Callable[[int], bytes]) -> "Secrets":
        """128 bits each for what is dealt: as much as X25519 gives, and half the bytes in every share."""
        dealt = entropy(SEED_BYTES)
        return cls(KeyPair(entropy(32)), KeyPair.from_seed(dealt, owner), dealt, entropy(SEED_BYTES))
