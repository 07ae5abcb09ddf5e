"""Hostile messages of every kind, signed as its members would: of the right type, of nearly the right one, and of none.

Whoever is in a league has all keys but the victim's; so it signs statements, READYs and whole aggregates that hold.
"""

from collections.abc import Callable

import msgpack
from msgspec import convert, inspect, structs

from crypto.certificates import certify
from crypto.hashing import digest
from crypto.identity import Identity
from gossip.body import ROUND_MAX, Body, aggregate_id
from gossip.cohort.messages import Ready
from gossip.cohort.roster import write_roster
from gossip.errors import GossamerError
from gossip.events import Received
from gossip.frames import (
    BODY_TYPES,
    CHANNEL_KINDS,
    COHORT_KINDS,
    Kind,
    channel_frame,
    open_frame,
    sign_frame,
    statement,
)
from gossip.history.aggregate import STATE_EVERY, Aggregate, Signatures, body_statement, write
from gossip.history.checkpoint import Checkpoint, state_root
from gossip.history.messages import CheckpointOffer, CheckpointPart
from gossip.history.strikes import retract, strike
from gossip.membership.messages import Alive, Presence
from gossip.membership.statements import SECONDS_MAX, issue, revoke
from gossip.quorum import pack_members, read_members, threshold
from gossip.wire import pack
from tests.fuzz.arena import Arena
from tests.fuzz.choices import Choices, one_in, pick

STRANGER = Identity(bytes([9] * 32))
STRANGERS = [
    None, True, False, -1, 0, 1, 1.5, float("nan"), float("inf"), (1 << 64) - 1, -(1 << 63), "", "text", "\0", b"", b"\0" * 5000,
    {}, {"a": 1}, [], [[]], [[[[]]]], [None] * 70, msgpack.ExtType(5, b"x"),
]  # fmt: skip
HEADERS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
]
TEXTS = [
    "a",
    "/ip4/127.0.0.1/tcp/1",
    "\0" * 8,
    "\U0001f310" * 256,
    "/" * 256,
    "/ip4/999.1.1.1/tcp/99999",
    "%s{0}\n\r",
]
TYPES = {kind: inspect.type_info(body) for kind, body in BODY_TYPES.items()}
BODY_TYPE = inspect.type_info(Body)
CHECKPOINT_TYPE = inspect.type_info(Checkpoint)
SAID_BY_AGGREGATORS = {
    Kind.KEYS_SET, Kind.SEAL_PROPOSAL, Kind.SEAL_CERTIFICATE, Kind.ABORT_CERTIFICATE, Kind.REJECT_CERTIFICATE, Kind.BODY_PROPOSAL, Kind.RESULT
}  # fmt: skip
FULL_MAX = 80  # items at which a long collection ends here

Plain = object


class Hostile:
    def __init__(self, arena: Arena, choices: Choices) -> None:
        self.arena = arena
        self.choices = choices

    def one_in(self, n: int) -> bool:
        return one_in(self.choices, n)

    def pick(self, items):
        return pick(self.choices, items)

    def altered(self, kind: Kind, speaker: Identity, data: bytes) -> bytes:
        """What a member says at the right moment, but with some of it changed, and signed by itself again."""
        plain = msgpack.unpackb(data)
        body = self._packed(self.mutated(msgpack.unpackb(plain[4]), TYPES[kind]))
        return self._framed(kind, speaker, plain[2], body)

    # --- one message -----------------------------------------------------------------------------------------

    def events(self, kind: Kind) -> list[Received]:
        """One message as a rule, with another before it where that makes the victim listen."""
        before = []
        if kind in {Kind.CHECKPOINT_OFFER, Kind.CHECKPOINT_PART} and not self.one_in(3):
            before = self._far_ahead(kind)
        others = [d for d in self.arena.devices if d is not self.arena.victim]
        cohort, speaker = b"", self.pick(others)
        if kind in COHORT_KINDS:
            cohort = self.choices.blob(32)
            running = list(self.arena.victim.core._cohorts.values())
            if running and not self.one_in(12):
                of = self.pick(running[-2:]).member.cohort
                cohort = of.id
                keys = of.aggregators if kind in SAID_BY_AGGREGATORS and not self.one_in(6) else of.members
                fit = [d for d in others if d.key in keys]
                speaker = self.pick(fit or others)
        data = self.frame(kind, speaker.identity, cohort)
        if self.one_in(12):  # handed on by another
            speaker = self.pick(others)
        return [*before, Received(speaker.key, data)]

    def frame(self, kind: Kind, speaker: Identity, cohort: bytes) -> bytes:
        if self.one_in(25):
            return self._broken(self.pick(list(self.arena._old_frames[-100:]) or [b"\x97\x01"]))
        body = self.body(kind)
        if self.one_in(30):
            speaker = STRANGER
        return self._framed(kind, speaker, cohort, body)

    def _framed(self, kind: Kind, speaker: Identity, cohort: bytes, body: bytes) -> bytes:
        if kind in CHANNEL_KINDS:
            frame = [1, int(kind), cohort, b"", body, b""]
        else:
            domain, said = statement(self.arena.swarm.id, kind, cohort, body)
            frame = [1, int(kind), cohort, speaker.public_key, body, speaker.sign(domain, said)]
        if self.one_in(40):
            frame[self.choices.below(6)] = self.pick(STRANGERS)
        packed = msgpack.packb(frame)
        return self._broken(packed) if self.one_in(40) else packed

    def body(self, kind: Kind) -> bytes:
        special = self._special.get(kind)
        if special is not None and not self.one_in(3):
            try:
                return special(self)
            except (GossamerError, ValueError, TypeError, IndexError, KeyError, OverflowError):
                pass  # no such thing can be made of what was chosen
        said = self.arena.said(kind)
        if said and not self.one_in(4):
            own = [frame for frame in said if frame[2] in self.arena.victim.core._cohorts]
            encoded = self.pick(own or said)[4]
            plain = self.mutated(msgpack.unpackb(encoded), TYPES[kind]) if not self.one_in(10) else None
            body = encoded if plain is None else self._packed(plain)
        else:
            body = self._packed(self.value(TYPES[kind]))
        return self._broken(body) if self.one_in(12) else body

    def _packed(self, plain: Plain) -> bytes:
        try:
            return msgpack.packb(plain)
        except (ValueError, OverflowError, TypeError):
            return self.choices.blob(9)

    def _broken(self, data: bytes) -> bytes:
        at = self.choices.below(len(data) + 1)
        match self.choices.below(6):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + self.choices.blob(1 + self.choices.below(8)) + data[at:]
            case 2:
                return data[:at] + self.pick(HEADERS) + data[at:]
            case 3:
                return data + data[:at]
            case 4:
                return data[:at] + self.pick([b"\x90", b"\xc0", b"\0", b"\xc4\0"]) * 2000 + data[at:]
        flipped = bytearray(data or b"\0")
        flipped[at % len(flipped)] ^= 1 << self.choices.below(8)
        return bytes(flipped)

    # --- values ----------------------------------------------------------------------------------------------

    def value(self, kind: inspect.Type, *, odd: bool = True) -> Plain:
        """What the declared type allows, at its bounds more often than not; now and then something else."""
        if odd and self.one_in(60):
            return self.pick(STRANGERS)
        match kind:
            case inspect.BytesType(min_length=low, max_length=high):
                return self._bytes(low or 0, 200 if high is None else high)
            case inspect.IntType(ge=low, le=most, lt=below):
                low = 0 if low is None else low
                high = most if most is not None else below - 1 if below is not None else (1 << 63) - 1
                near = low + self.choices.below(min(high - low, 40) + 1)
                return self.pick([low, high, near, near, low + self.choices.below(high - low + 1)])
            case inspect.StrType():
                return self.pick(TEXTS)
            case inspect.BoolType():
                return self.one_in(2)
            case inspect.NoneType():
                return None
            case inspect.LiteralType(values=values):
                return self.pick(values)
            case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
                low, high = low or 0, FULL_MAX if high is None else min(high, FULL_MAX)
                count = self.pick([low, min(low + 1, high), min(high, low + self.choices.below(6)), high])
                if count > 8:
                    return [self.value(item)] * count
                return [self.value(item) for _ in range(count)]
            case inspect.StructType(fields=fields):
                return [self.value(field.type) for field in fields]
            case inspect.UnionType(types=types):
                return self.value(self.pick(types))
        raise TypeError(kind)

    def _bytes(self, low: int, high: int) -> bytes:
        sizes = [size for size in self.arena.leaves if low <= size <= high]
        if sizes and not self.one_in(3):
            return self.pick(self.arena.leaves[self.pick(sizes)])
        size = self.pick([low, min(high, 600), min(high, low + self.choices.below(40))])
        return self.pick([bytes(size), b"\xff" * size, self.choices.blob(size)])

    def mutated(self, plain: Plain, kind: inspect.Type) -> Plain:
        for _ in range(1 + self.choices.below(2)):
            plain = self._mutated(plain, kind)
        return plain

    def _mutated(self, plain: Plain, kind: inspect.Type) -> Plain:
        if isinstance(kind, inspect.UnionType):
            for each in kind.types:
                if isinstance(each, inspect.StructType) and isinstance(plain, list):
                    return self._mutated(plain, each)
            return self.value(kind)
        if not isinstance(plain, list) or not plain:
            if isinstance(plain, int) and not isinstance(plain, bool) and self.one_in(2):
                return max(0, plain + self.pick([-1, 1, 1 << 16]))
            if isinstance(plain, bytes) and plain and self.one_in(2):
                return (
                    plain[:-1] + bytes([plain[-1] ^ 1])
                    if self.one_in(2)
                    else self.pick([plain[:-1], plain + b"\0"])
                )
            return self.value(kind)
        at = self.choices.below(len(plain))
        if isinstance(kind, inspect.VarTupleType):
            match self.choices.below(7):
                case 0:
                    return plain[:at] + plain[at + 1 :]
                case 1:
                    return [*plain, plain[at]]
                case 2:
                    return plain[::-1]
                case 3:
                    return plain[: 1 + at]
            return [*plain[:at], self._mutated(plain[at], kind.item_type), *plain[at + 1 :]]
        if isinstance(kind, inspect.StructType) and at < len(kind.fields):
            if self.one_in(40):
                return plain[:-1]
            return [*plain[:at], self._mutated(plain[at], kind.fields[at].type), *plain[at + 1 :]]
        return self.value(kind)

    # --- what a league can sign ------------------------------------------------------------------------------

    def aggregate(self, **fixed: object) -> bytes:
        """A whole aggregate that is signed as it should be, whatever is in it."""
        world = self.arena
        history = world.victim.core._history
        held = history.held()
        if not held:
            raise ValueError("nothing to begin from")
        known = self.pick(held)
        if self.one_in(10):
            return self._broken(write(known.aggregate, world.swarm.manifest))
        changes = dict(fixed)
        if not fixed and self.one_in(2):
            parents = history.parents_for_next()
            changes = {"parents": parents, "round": history.round + 1}
            if known.body.basis:
                changes["basis"] = self.pick(parents)
        body = structs.replace(known.body, **changes)
        if not self.one_in(3):
            plain = self.mutated(msgpack.unpackb(pack(body)), BODY_TYPE)
            body = structs.replace(convert(plain, Body), **fixed)
        return self._signed(body)

    def _signed(self, body: Body) -> bytes:
        world = self.arena
        identity, signatures = aggregate_id(body), []
        for part in body.parts:
            members = read_members(part.members, world.swarm.manifest)
            said = body_statement(body.swarm, part.roster, identity)
            single = {
                place: world.by_key[key].identity.sign("body", said)
                for place, key in enumerate(members[: threshold(len(members))])
            }
            half = certify("body", said, list(members), single)
            signatures.append(Signatures(pack_members(sorted(single), len(members)), *half))
        aggregate = Aggregate(body, tuple(signatures))
        return pack(aggregate) if self.one_in(8) else write(aggregate, world.swarm.manifest)

    def _aggregates(self) -> bytes:
        count = self.pick([1, 1, 2, 3])
        guides = [self._presence() for _ in range(self.pick([0, 0, 1, 3]))]
        return msgpack.packb([[self.aggregate() for _ in range(count)], guides])

    def _presence(self) -> bytes:
        if self.one_in(6):
            return self.pick(self.arena._old_frames[-50:])
        speaker = self.pick([*(d.identity for d in self.arena.devices), STRANGER])
        sequence = self.pick([0, (1 << 62) - 1, self.choices.below(1 << 40)])
        addresses = tuple(self.pick(TEXTS) for _ in range(self.pick([0, 1, 8])))
        return sign_frame(speaker, self.arena.swarm.id, Presence(sequence, addresses, self.one_in(2)))

    def _greeting(self) -> bytes:
        presences = [self._presence() for _ in range(self.pick([0, 1, 2, 64]))]
        return msgpack.packb(
            [presences, self.choices.blob(self.pick([0, 4, 64, 63])), self.choices.below(17)]
        )

    def _announced(self) -> bytes:
        presence = self._presence()
        return msgpack.unpackb(presence)[4]

    def _ready(self) -> bytes:
        said = self.arena.said(Kind.READY)
        plain = msgpack.unpackb(self.pick(said)[4])
        return msgpack.packb(self.mutated(plain, TYPES[Kind.READY]))

    def _roster(self) -> bytes:
        """Of READYs that are all signed: the victim's own latest ones, and others'."""
        world, core = self.arena, self.arena.victim.core
        asked = core._rendezvous.asked
        readies = {}
        if asked is not None:
            readies[world.victim.key] = asked.frame
        base = None
        for frame in reversed(world._old_frames[-2000:]):
            if frame[2] == Kind.READY:
                base = open_frame(world.swarm.id, frame)
                break
        if base is None:
            raise ValueError("no READY yet")
        for device in world.devices:
            if device.key not in readies and device is not world.victim:
                body = base.body
                if self.one_in(2):
                    body = convert(self.mutated(msgpack.unpackb(pack(body)), TYPES[Kind.READY]), Ready)
                readies[device.key] = sign_frame(device.identity, world.swarm.id, body)
        messages = [open_frame(world.swarm.id, readies[key]) for key in sorted(readies)]
        parents, round_ = core._history.parents_for_next(), core._history.round + 1
        if self.one_in(4):
            parents = tuple(sorted(self.choices.blob(32) for _ in range(self.choices.below(9))))
        if self.one_in(4):
            round_ = self.pick([0, 1, round_ + 1, (1 << 48) - 1, STATE_EVERY])
        roster = write_roster(world.swarm, round_, parents, self.pick([b"", b"", bytes(32)]), messages)
        if self.one_in(3):
            return msgpack.packb(self.mutated(msgpack.unpackb(pack(roster)), TYPES[Kind.ROSTER]))
        return pack(roster)

    def _statement(self) -> bytes:
        world = self.arena
        people = [
            *(d.identity for d in world.devices),
            STRANGER,
            *(Identity(digest("more", bytes([i]))) for i in range(4)),
        ]
        inviter, device = self.pick(people), self.pick(people)
        if self.one_in(4):
            return revoke(inviter, world.swarm.id, device.public_key)
        serial, depth = self.pick([0, 1, 2, 15, 16, 4095]), self.choices.below(4)
        issued, expires = (
            self.pick([0, 1_800_000_000, SECONDS_MAX - 1]),
            self.pick([1, 1_800_000_100, SECONDS_MAX]),
        )
        raw = issue(inviter, world.swarm.id, device.public_key, serial, issued, expires, depth)
        return self._broken(raw) if self.one_in(12) else raw

    def _statements(self) -> bytes:
        return msgpack.packb([[self._statement() for _ in range(self.pick([0, 1, 3, 12]))]])

    def _credential(self) -> bytes:
        return msgpack.packb(
            [[self._statement() for _ in range(self.choices.below(5))], self.choices.blob(8)]
        )

    def _strikes(self) -> bytes:
        return msgpack.packb([[self._strike() for _ in range(self.pick([1, 1, 3, 12]))]])

    def _strike(self) -> bytes:
        """By anybody but the victim, the founder among them; or a retraction, as its own cohort would sign it."""
        world, core = self.arena, self.arena.victim.core
        people = {d.key: d.identity for d in world.devices if d is not world.victim}
        held = core._history.held()
        if held and self.one_in(2):
            known = self.pick(held)
            [part] = known.body.parts
            members = read_members(part.members, world.swarm.manifest)
            fit = [place for place, member in enumerate(members) if member in people]
            places = sorted({self.pick(fit) for _ in range(self.choices.below(len(members)) + 1)})
            stated = body_statement(world.swarm.id, part.roster, known.id)
            votes = {place: people[members[place]].sign("retract", stated) for place in places}
            signers = pack_members(places, len(members)) if not self.one_in(6) else self.choices.blob(3)
            raw = retract(world.swarm.id, known.id, signers, certify("retract", stated, members, votes))
        else:
            signer = self.pick([*people.values(), STRANGER])
            device = self.pick([*(d.key for d in world.devices), STRANGER.public_key, self.choices.blob(32)])
            raw = strike(
                signer, world.swarm.id, device, self.pick([1, 2, core._history.round + 1, ROUND_MAX])
            )
        return self._broken(raw) if self.one_in(6) else raw

    # --- checkpoints -----------------------------------------------------------------------------------------

    def _far_ahead(self, kind: Kind) -> list[Received]:
        """Neighbours say that they are far ahead, and then offer what the league has signed."""
        peers = [d.key for d in self.arena.devices if d is not self.arena.victim]
        # Whoever was asked for a checkpoint and failed would not be asked again for minutes.
        self.arena.victim.core._sync._catch_up._since = None
        ahead = [
            Received(peer, channel_frame(Alive((1 << 40) + self.choices.below(9), bytes(8))))
            for peer in peers
        ]
        if kind is Kind.CHECKPOINT_OFFER:
            return ahead
        try:
            signed, encoded = self._checkpoint()
        except (GossamerError, ValueError, TypeError, IndexError, KeyError, OverflowError):
            return ahead
        size = len(encoded) if not self.one_in(6) else self.choices.below(1 << 20)
        offers = [Received(peer, channel_frame(CheckpointOffer(signed, size))) for peer in peers]
        part = CheckpointPart(self._offered, 0, encoded)
        return [*ahead, *offers, Received(self.pick(peers[:2]), channel_frame(part))]

    def _offer(self) -> bytes:
        signed, encoded = self._checkpoint()
        return msgpack.packb([signed, self.pick([0, 1, len(encoded), 1 << 20])])

    def _checkpoint(self) -> tuple[bytes, bytes]:
        """An aggregate and the checkpoint whose root it has, hostile in its ids and numbers, but for what is checked first."""
        world, core = self.arena, self.arena.victim.core
        rounds = tuple(
            (digest("made up", bytes([at, self.choices.below(256)])),)
            for at in range(self.pick([2, 3]) * STATE_EVERY - 1)
        )
        parameters = core._layout.parameters
        edge = self.pick([b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80", bytes(8), b"\xff" * 8])
        checkpoint = Checkpoint(1, world.swarm.id, rounds, edge * parameters, edge * parameters)
        if self.one_in(2):
            plain = self.mutated(msgpack.unpackb(pack(checkpoint)), CHECKPOINT_TYPE)
            checkpoint = convert(plain, Checkpoint)
        parents = tuple(sorted(checkpoint.rounds[-1]))[:8]
        fixed = {"round": len(checkpoint.rounds) + 1, "parents": parents, "state": state_root(checkpoint)}
        if core._history.held()[0].body.basis or world.swarm.manifest.compression.codec == "lowrank":
            fixed["basis"] = parents[0]
        body = structs.replace(self.pick(core._history.held()).body, **fixed)
        self._offered = aggregate_id(body)
        return self._signed(body), pack(checkpoint)

    _special: dict[Kind, Callable[["Hostile"], bytes]] = {
        Kind.AGGREGATES: _aggregates,
        Kind.GREETING: _greeting,
        Kind.PRESENCE: _announced,
        Kind.READY: _ready,
        Kind.ROSTER: _roster,
        Kind.STATEMENTS: _statements,
        Kind.STRIKES: _strikes,
        Kind.CREDENTIAL: _credential,
        Kind.CHECKPOINT_OFFER: _offer,
    }
