"""What a decoder makes of hostile bytes: never much more than they are, whatever kind they claim to be."""

import struct
import tracemalloc
from collections.abc import Iterator

import msgpack
import pytest
from msgspec import inspect

from gossip.errors import PeerViolation
from gossip.fields import PRESENCE_FRAME_BYTES
from gossip.frames import BODY_BYTES, BODY_LIMITS, BODY_TYPES, Frame, Kind, open_frame
from gossip.history.aggregate import Aggregate
from gossip.history.checkpoint import Checkpoint
from gossip.manifest import Manifest, SignedManifest
from gossip.membership.messages import Presence
from gossip.membership.statements import Certificate, Revocation, Statement
from gossip.wire import longest, pack, unpack

SIZE = 1 << 17
TYPES = {
    each.__name__: each
    for each in (
        *BODY_TYPES.values(), Frame, Statement, Certificate, Revocation, Aggregate, Checkpoint, Manifest, SignedManifest
    )
}  # fmt: skip
HOSTILE = {
    "empty arrays": b"\x90" * SIZE,
    "nothings": b"\xc0" * SIZE,
    "zeros": b"\0" * SIZE,
    "nested arrays": b"\x91" * SIZE,
    "a tall array": b"\xdd\xff\xff\xff\xff" + b"\xc4\0" * (SIZE // 2),
    "an array of empty bytes": b"\xdd" + struct.pack(">I", SIZE // 2) + b"\xc4\0" * (SIZE // 2),
    "an array of zeros": b"\xdd" + struct.pack(">I", SIZE) + b"\0" * SIZE,
    "an array of empty arrays": b"\xdd" + struct.pack(">I", SIZE) + b"\x90" * SIZE,
    "a tall map": b"\xdf\xff\xff\xff\xff" + b"\0" * SIZE,
    "a map": b"\xdf" + struct.pack(">I", SIZE // 2) + b"\0" * SIZE,
    "an extension": b"\xc9" + struct.pack(">I", SIZE) + b"\1" + b"\0" * SIZE,
    "bytes": b"\xc6" + struct.pack(">I", SIZE) + b"\0" * SIZE,
    "tall bytes": b"\xc6\xff\xff\xff\xff" + b"\0" * SIZE,
    "a text": b"\xdb" + struct.pack(">I", SIZE) + b"a" * SIZE,
    "a text that is none": b"\xdb" + struct.pack(">I", SIZE) + b"\xff" * SIZE,
}


def least(kind: inspect.Type) -> object:
    """The smallest value, with one item at least in each collection."""
    match kind:
        case inspect.BytesType(min_length=low):
            return bytes(low or 0)
        case inspect.IntType(ge=low):
            return low or 0
        case inspect.StrType():
            return "a"
        case inspect.BoolType():
            return False
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.VarTupleType(item_type=item, min_length=low):
            return [least(item)] * max(1, low or 0)
        case inspect.StructType(fields=fields):
            return [least(field.type) for field in fields]
        case inspect.UnionType(types=types):
            return least(types[-1] if isinstance(types[0], inspect.NoneType) else types[0])
    raise TypeError(kind)


def with_each_place_replaced(plain: object, hostile: bytes) -> Iterator[bytes]:
    """The encoding of a value, once for each place in it, with the hostile bytes instead of what belongs there."""
    yield hostile
    if isinstance(plain, list):
        for place, item in enumerate(plain):
            before = b"".join(map(msgpack.packb, plain[:place]))
            after = b"".join(map(msgpack.packb, plain[place + 1 :]))
            head = msgpack.Packer().pack_array_header(len(plain))
            for inner in with_each_place_replaced(item, hostile):
                yield head + before + inner + after
            if place == 1 and all(each == plain[0] for each in plain):
                return


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_no_bytes_become_much_more_than_they_are(kind: type):
    plain = least(inspect.type_info(kind))
    assert pack(unpack(msgpack.packb(plain), kind, limit_bytes=BODY_BYTES))
    for name, hostile in HOSTILE.items():
        for data in with_each_place_replaced(plain, hostile):
            tracemalloc.start()
            try:
                unpack(data, kind, limit_bytes=BODY_BYTES)
            except PeerViolation:
                pass
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            # Itself, its decoding and its encoding again; a text is looked at once more.
            assert peak < 4 * len(data), f"{name}: {peak} bytes of {len(data)}"


def test_eight_million_empty_arrays_cost_nothing():
    data = b"\x90" * BODY_BYTES
    tracemalloc.start()
    for body in (
        data,
        pack(Frame(1, Kind.GREETING, b"", b"", b"\x91" + data[1:], b""))[: BODY_BYTES + 400],
    ):
        with pytest.raises(PeerViolation):
            open_frame(bytes(32), body, bytes(32))
    assert (
        tracemalloc.get_traced_memory()[1] < 5 * BODY_BYTES
    )  # of the second frame, and what is made here to send it
    tracemalloc.stop()


def test_each_kind_has_a_limit_of_its_own():
    unbounded = {kind.name for kind, most in BODY_LIMITS.items() if most == BODY_BYTES}
    assert unbounded == {"MASKED", "AUDIT_ANSWER", "BODY_PROPOSAL", "AGGREGATES", "CHECKPOINT_OFFER"}
    assert max(most for most in BODY_LIMITS.values() if most < BODY_BYTES) <= 1_400_000
    for kind, most in BODY_LIMITS.items():
        frame = Frame(1, kind, b"", b"", bytes(most + 1), b"")
        with pytest.raises(PeerViolation, match=r"at most|length"):
            open_frame(bytes(32), pack(frame), bytes(32))


def test_the_longest_body_is_within_its_limit():
    addresses = ("\U0001f310" * 256,) * 8
    presence = Presence((1 << 62) - 1, addresses, hub=True)
    assert len(pack(presence)) <= BODY_LIMITS[Kind.PRESENCE]
    frame = Frame(1, Kind.PRESENCE, b"", bytes(32), pack(presence), bytes(64))
    assert len(pack(frame)) <= PRESENCE_FRAME_BYTES
    with pytest.raises(TypeError, match="does not travel"):
        longest(float, 9)
