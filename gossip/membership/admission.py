"""Who belongs to a swarm, where certificates say so: an invitation is a signed statement, and so is taking it back.

A **certificate** names a device and the *inviter* that answers for it. The founder, whose key the manifest holds, needs none;
whoever has one may sign others for as many generations (`depth`) as its own leaves it. A device belongs while a **chain** of
certificates leads from the founder to it of which none has expired and nobody was **revoked** by somebody above it in that same
chain: who vouched can take back what it vouched for, and nobody else's (SPKI: Ellison et al., RFC 2693; revocation lists are
signed by who issued, RFC 5280). Whoever is invited twice belongs by either chain.

Inviters number their invitations, and the manifest bounds the numbers: a thousand names cost their owner a thousand invitations
(Douceur, "The Sybil attack", IPTPS 2002). Two devices under one number of one inviter are proof that it cheated: by that
number neither of them belongs. A renewal repeats the number and the device.

What is known is a grow-only set of statements. A statement is taken in if its signature holds and its signer is, by what is held or
comes along, somebody who could sign it; so who was never invited can fill nothing, and a device and those that it
brought (its *line*, by the founder's invitee) fill at most LINE_MAX. Below the bounds, sets that were told the same are the
same in whatever order: of two renewals the one that lasts longer is kept. At a bound what came first stays.

Two questions are asked of the set, and they differ on purpose:

    certified   was it ever admitted?     monotone, no clock: may its part in an aggregate be taken in
    belongs     is it a member now?       by this device's clock: may it speak, and be counted into a cohort

An aggregate is for ever (`gossip.history.aggregate`): a later revocation bars a device from what is to come, and never from what was.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from crypto.hashing import digest
from gossip.events import Put
from gossip.fields import SHORT_BYTES
from gossip.manifest import INVITES_MAX, Swarm
from gossip.membership.statements import (
    SECONDS_MAX,
    STATEMENTS_MAX,
    Certificate,
    Held,
    Refusal,
    Revocation,
    Why,
    open_statement,
    statement_id,
)
from gossip.quorum import threshold

LINE_MAX = 512  # of them about one line; a line that cheats leaves room for the others
RIVALS_MAX = 2  # devices kept under one number of one inviter: that is the proof
LINES_MIN = 3  # of a cohort, where there is a choice
CLOCK_SLACK_S = 600  # by which clocks of honest devices may differ
TABLE = "statement"  # of the store


@dataclass(frozen=True, order=True, slots=True)
class Way:
    """A certificate over which a chain may come to its device."""

    lasts: int  # at most
    id: bytes
    held: Held = field(compare=False)


class Admission:
    """The statements that one device knows."""

    def __init__(self, swarm: Swarm, me: bytes) -> None:
        self._swarm = swarm
        self._founder = swarm.manifest.founder
        self._invitations = swarm.manifest.invitations
        self.me = me
        self._held: dict[bytes, Held] = {}  # by id, at most STATEMENTS_MAX
        self._of: dict[bytes, dict[bytes, Held]] = {}  # certificates by device and slot
        self._rivals: dict[tuple[bytes, int], dict[bytes, None]] = {}  # devices by inviter and serial
        self._revoked: dict[tuple[bytes, bytes], None] = {}  # (by, device)
        self._line: dict[bytes, bytes] = {}  # whose line a device counts for: that by which it came first
        self._of_line: dict[bytes, int] = {}  # statements
        self._digest: bytes | None = None
        self._best_of: dict[bytes, tuple[Held, ...]] = {}  # by certified peer, until the set changes
        self._reach: dict[tuple[bytes, int], int] = {}  # see `_lasts_above`, until the set changes
        self._ancestors: dict[
            bytes, frozenset[bytes]
        ] = {}  # by certified peer, until a certificate is taken in
        self._ways: dict[
            tuple[bytes, int, int | None, bool], list[Way]
        ] = {}  # see `_ways_up`, until the set changes
        self._judged: dict[bytes, Refusal | None] = {}  # by peer, at `_judged_at`, until the set changes
        self._judged_at = 0

    # --- taking in --------------------------------------------------------------------------------------------

    def add(self, statements: Iterable[bytes]) -> tuple[bytes, ...]:
        """Take in what holds, in whatever order it comes; the statements that were news.

        PeerViolation, and nothing is taken in, if one of them is no statement of this swarm or forged. What somebody signed who
        may not is passed over: its own certificate may be on its way.
        """
        todo = [
            open_statement(self._swarm.id, raw)
            for raw in dict.fromkeys(statements)
            if statement_id(raw) not in self._held
        ]
        news: list[bytes] = []
        while todo:
            rest = [held for held in todo if not self._take(held)]
            if len(rest) == len(todo):
                break
            kept = {id(held) for held in rest}
            news += [held.raw for held in todo if id(held) not in kept]
            todo = rest
        if news:
            self._digest = None
            self._best_of.clear()
            self._reach.clear()
            self._ways.clear()
            self._judged.clear()
        return tuple(news)

    def records(self, news: Iterable[bytes]) -> tuple[Put, ...]:
        """What makes them durable; a renewal replaces what it renews."""
        return tuple(Put(TABLE, open_statement(self._swarm.id, raw).slot, raw) for raw in news)

    def _take(self, held: Held) -> bool:
        said = held.said
        if isinstance(said, Revocation):
            if not self.may_revoke(said.by, said.device) or not self._count(self._line[said.device]):
                return False
            self._revoked[said.by, said.device] = None
            self._held[held.id] = held
            return True
        if said.device == self._founder or self._depth(said.inviter) <= said.depth:
            return False
        limit = INVITES_MAX if said.inviter == self._founder else self._invitations.invites_max
        rivals = self._rivals.get((said.inviter, said.serial), {})
        if said.serial >= limit or (said.device not in rivals and len(rivals) >= RIVALS_MAX):
            return False
        of_device = self._of.get(said.device, {})
        before = of_device.get(held.slot)
        if before is not None:
            # Two of one worth can differ in nothing, but for the signature.
            if held.worth <= before.worth:
                return False
            del self._held[before.id]
        elif not self._count(self._line.get(said.inviter, said.device)):
            return False
        self._held[held.id] = held
        self._ancestors.clear()
        self._of.setdefault(said.device, {})[held.slot] = held
        self._rivals.setdefault((said.inviter, said.serial), {})[said.device] = None
        self._line.setdefault(said.device, self._line.get(said.inviter, said.device))
        return True

    def _count(self, line: bytes) -> bool:
        if len(self._held) >= STATEMENTS_MAX or self._of_line.get(line, 0) >= LINE_MAX:
            return False
        self._of_line[line] = self._of_line.get(line, 0) + 1
        return True

    def _depth(self, peer: bytes) -> int:
        """How many generations this device was ever allowed; -1 for a stranger."""
        if peer == self._founder:
            return self._invitations.depth_max
        # All that are held were signed by somebody who had more, so each of them ends a chain.
        certificates = (held.said for held in self._of.get(peer, {}).values())
        return max((said.depth for said in certificates if isinstance(said, Certificate)), default=-1)

    # --- what is asked ----------------------------------------------------------------------------------------

    def certified(self, peer: bytes) -> bool:
        """Whether it was ever admitted: once true, always true."""
        return peer == self._founder or peer in self._of

    def invites_for_founder(self, peer: bytes) -> bool:
        """Whether the founder itself has ever invited it as one that may invite others: once true, always true."""
        said = (held.said for held in self._of.get(peer, {}).values())
        return any(
            isinstance(each, Certificate) and each.inviter == self._founder and each.depth > 0
            for each in said
        )

    def belongs(self, peer: bytes, unix_s: int) -> bool:
        return self.judge(peer, unix_s) is None

    def refusal(self, peer: bytes, unix_s: int) -> str:
        """Why a device does not belong, in one sentence; nothing for one that does."""
        refused = self.judge(peer, unix_s)
        return refused.of("its") if refused else ""

    def judge(self, peer: bytes, unix_s: int) -> Refusal | None:
        """Why a device does not belong, by its best chain; None for one that does."""
        if unix_s != self._judged_at:
            self._judged.clear()
            self._judged_at = unix_s
        if peer not in self._judged:
            if not self.certified(peer):
                return Refusal(Why.UNKNOWN)
            path = self._best(peer)
            self._judged[peer] = self._fault(path, unix_s)
        return self._judged[peer]

    def chain(self, peer: bytes) -> tuple[bytes, ...]:
        """The certificates that lead to this device, the founder's first: none for the founder and for strangers."""
        return tuple(held.raw for held in self._best(peer))

    def line(self, peer: bytes) -> bytes:
        """The founder's direct invitee from whom this device's chain comes; the founder and a stranger are their own."""
        best = self._best(peer)
        return best[0].said.device if best else peer

    def may_revoke(self, by: bytes, device: bytes) -> bool:
        """Whether it ever was above the device."""
        if device not in self._of or by == device:
            return False
        return by == self._founder or (by in self._of and by in self._above(device))

    def all(self) -> list[bytes]:
        """Everybody who was ever admitted, ascending."""
        return sorted({self._founder, *self._of})

    def depth_left(self, peer: bytes, unix_s: int) -> int:
        """How many generations it may admit now; -1 for a device that does not belong."""
        if peer == self._founder:
            return self._invitations.depth_max
        depths = {said.depth for said in self._certificates(peer)}
        for depth in sorted(depths, reverse=True):
            path = self._longest(peer, depth)
            if path and self._fault(path, unix_s) is None:
                return depth
        return -1

    def serial_for(self, device: bytes, taken: Iterable[int] = ()) -> int | None:
        """The number under which this device admits another: its own again, else the lowest that is free; None: all used."""
        limit = INVITES_MAX if self.me == self._founder else self._invitations.invites_max
        own = {serial: rivals for (inviter, serial), rivals in self._rivals.items() if inviter == self.me}
        again = min((serial for serial, rivals in own.items() if device in rivals), default=None)
        if again is not None:
            return again
        used = {*own, *taken}
        return next((serial for serial in range(limit) if serial not in used), None)

    # --- two sets ---------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """8 bytes, the same for the same statements."""
        if self._digest is None:
            self._digest = digest("statements", *sorted(self._held))[:8]
        return self._digest

    def ids(self) -> tuple[bytes, ...]:
        """How the ids of all that is held begin, ascending."""
        return tuple(identity[:SHORT_BYTES] for identity in sorted(self._held))

    def without(self, shorts: Iterable[bytes]) -> tuple[bytes, ...]:
        """All statements but those whose ids begin so: certificates before what they carry.

        Only who signed two statements whose ids begin alike (2^32 tries) could hide one of them behind the other: its own.
        """
        known = set(shorts)
        return tuple(held.raw for identity, held in self._held.items() if identity[:SHORT_BYTES] not in known)

    # --- chains -----------------------------------------------------------------------------------------------

    def _certificates(self, peer: bytes) -> list[Certificate]:
        return [held.said for held in self._of.get(peer, {}).values() if isinstance(held.said, Certificate)]

    def _above(self, peer: bytes) -> frozenset[bytes]:
        """All in any chain to a device but the founder and itself."""
        if peer not in self._ancestors:
            above: set[bytes] = set()
            seen = {(peer, -1)}
            todo = [(peer, -1)]
            while todo:
                device, depth = todo.pop()
                for said in self._certificates(device):
                    place = (said.inviter, said.depth)
                    if said.depth > depth and said.inviter != self._founder and place not in seen:
                        seen.add(place)
                        above.add(said.inviter)
                        todo.append(place)
            self._ancestors[peer] = frozenset(above)
        return self._ancestors[peer]

    def _best(self, peer: bytes) -> tuple[Held, ...]:
        """Of its chains one that nobody has revoked, and that lasts longest; the same for whoever holds the same set."""
        if peer not in self._of:
            return ()
        if peer not in self._best_of:
            self._best_of[peer] = self._longest(peer) or self._longest(peer, sound=False)
        return self._best_of[peer]

    def _longest(self, peer: bytes, depth: int | None = None, *, sound: bool = True) -> tuple[Held, ...]:
        """Of a device's chains, if need be of those that end with this depth, the one that lasts longest: none of none.

        `sound`: of those that nobody has revoked and that rest on no number given twice. Depth falls along each chain, so all of
        them end, after at most DEPTH_MAX.

        There may be millions of chains: n inviters a generation, each with a certificate by each one above it, make n^4. So
        it is searched from the device upwards, what may last longest first, and no chain that cannot last longer than the best so
        far is followed. How long a chain over some inviter may last is known beforehand (`_lasts_above`), but for who
        revoked whom within one chain; so the first chain that is found is the best one, unless such revocations are in the way. At
        worst, with as many of these as of certificates, each pair of two generations is looked at once for each
        device of the third: that is below (STATEMENTS_MAX / 3)^1.5 certificates.
        """
        best: list[tuple[Held, ...]] = []
        self._search(peer, -1, depth, (), sound=sound, best=best)
        return best[0] if best else ()

    def _search(
        self,
        peer: bytes,
        above: int,
        depth: int | None,
        below: tuple[Held, ...],
        *,
        sound: bool,
        best: list[tuple[Held, ...]],
    ) -> None:
        """Put into `best` what lasts longer than what is there. `below` leads from `peer`, whose depth is more than `above`."""
        bound = _lasts(below) if below else SECONDS_MAX
        for way in self._ways_up(peer, above, depth, sound=sound):
            held, said = way.held, way.held.said
            assert isinstance(said, Certificate)
            if best and min(way.lasts, bound) <= _lasts(best[0]):
                return
            path = (held, *below)
            if sound and any((said.inviter, each.said.device) in self._revoked for each in path):
                continue
            if said.inviter == self._founder:
                best[:] = [path]
            else:
                self._search(said.inviter, said.depth, None, path, sound=sound, best=best)

    def _ways_up(self, peer: bytes, above: int, depth: int | None, *, sound: bool) -> "list[Way]":
        """The certificates over which a chain may come, each with how long it may last: the longest first, then by id.

        Of an inviter's certificates that leave the same depth, one: the others lead over the same devices.
        """
        asked = (peer, above, depth, sound)
        if asked not in self._ways:
            best: dict[tuple[bytes, int], Way] = {}
            for held in self._of.get(peer, {}).values():
                said = held.said
                if (
                    not isinstance(said, Certificate)
                    or said.depth <= above
                    or depth not in {None, said.depth}
                ):
                    continue
                lasts = min(said.expires_s, self._lasts_above(said.inviter, said.depth, sound=sound))
                way, place = Way(lasts, held.id, held), (said.inviter, said.depth)
                if (
                    lasts >= 0
                    and (not sound or self._may_stand(said))
                    and (place not in best or best[place] < way)
                ):
                    best[place] = way
            self._ways[asked] = sorted(best.values(), reverse=True)
        return self._ways[asked]

    def _may_stand(self, said: Certificate) -> bool:
        """Whether no number given twice, and no word of its inviter or of the founder, stands against it."""
        revoked = (said.inviter, said.device) in self._revoked or (
            self._founder,
            said.device,
        ) in self._revoked
        return not revoked and len(self._rivals[said.inviter, said.serial]) == 1

    def _lasts_above(self, peer: bytes, above: int, *, sound: bool) -> int:
        """No chain to a device, in which it has more than this depth, lasts longer: -1 if there is none."""
        if peer == self._founder:
            return SECONDS_MAX
        place = (peer, 2 * above + sound)
        if place not in self._reach:
            lasts = -1
            for said in self._certificates(peer):
                if said.depth > above and (not sound or self._may_stand(said)):
                    over = self._lasts_above(said.inviter, said.depth, sound=sound)
                    lasts = max(lasts, min(said.expires_s, over))
            self._reach[place] = lasts
        return self._reach[place]

    def _fault(self, path: Sequence[Held], unix_s: int) -> Refusal | None:
        """Why a chain does not hold (any more)."""
        above = [self._founder]
        for held in path:
            said = held.said
            assert isinstance(said, Certificate)
            if any((one, said.device) in self._revoked for one in above):
                return Refusal(Why.REVOKED)
            if len(self._rivals[said.inviter, said.serial]) > 1:
                return Refusal(Why.TWICE)
            above.append(said.device)
        expired_s = _lasts(path) if path else unix_s
        return Refusal(Why.EXPIRED, expired_s) if expired_s + CLOCK_SLACK_S <= unix_s else None


def _lasts(path: Sequence[Held]) -> int:
    return min(held.said.expires_s for held in path if isinstance(held.said, Certificate))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Too many members of one cohort from one line."""

    line: bytes
    reason: str


def crowd(members: Sequence[bytes], live: Iterable[bytes], line: Callable[[bytes], bytes]) -> Crowd | None:
    """Whether one inviter may stand behind so many members that masks do not hide the others' updates from it.

    A passive break takes a threshold of the members (`gossip.secure_sum.member`), and who invites can invite itself under many
    names. So a cohort wants LINES_MIN lines, and none of them as many members as the threshold. It does where others could
    have been chosen: at least as many live devices of two other lines as it has members. In a smaller swarm, or one that
    is nearly all one line, there is no choice, and nobody waits for one; where the founder invited everybody, each
    device is a line.
    """
    count = Counter(map(line, members))
    largest, most = max(count.items(), key=lambda item: (item[1], item[0]))
    others = [of for of in map(line, live) if of != largest]
    if len(others) < len(members) or len(set(others)) < LINES_MIN - 1:
        return None
    if len(count) < LINES_MIN:
        return Crowd(largest, f"lines of invitations: {len(count)}, of at least {LINES_MIN}")
    if most >= threshold(len(members)):
        return Crowd(largest, f"{most} of {len(members)} members come by one line of invitations")
    return None
