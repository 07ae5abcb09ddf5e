"""Any bytes at all are one message or a PeerViolation, for every kind of message there is."""

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from crypto.identity import Identity
from gossip.errors import MisuseError, PeerViolation
from gossip.frames import (
    BODY_TYPES,
    CHANNEL_KINDS,
    COHORT_KINDS,
    FRAME_BYTES,
    Frame,
    Kind,
    channel_frame,
    open_frame,
    sign_frame,
)
from gossip.wire import Wire, pack, unpack

ALICE = Identity(bytes([1] * 32))
SWARM = bytes([7] * 32)
KINDS = sorted(BODY_TYPES)


def values(kind: inspect.Type) -> st.SearchStrategy:
    """Values that the declared bounds allow, from the declaration itself."""
    match kind:
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high if high is not None else 80, 80))
        case inspect.IntType(ge=ge, gt=_, le=le, lt=lt):
            high = le if le is not None else (lt - 1 if lt is not None else 1 << 40)
            return st.integers(ge if ge is not None else 0, high)
        case inspect.StrType(min_length=low, max_length=high):
            return st.text(min_size=low or 0, max_size=min(high or 20, 20))
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return st.lists(values(item), min_size=low or 0, max_size=min(high or 4, (low or 0) + 2)).map(
                tuple
            )
        case inspect.StructType(cls=cls, fields=fields):
            return st.tuples(*(values(field.type) for field in fields)).map(lambda each: cls(*each))
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.LiteralType(values=allowed):
            return st.sampled_from(list(allowed))
    raise TypeError(kind)


def bodies(kind: Kind) -> st.SearchStrategy[Wire]:
    return values(inspect.type_info(BODY_TYPES[kind]))


def framed(kind: Kind, body: Wire, swarm: bytes = SWARM) -> bytes:
    if kind in CHANNEL_KINDS:
        return channel_frame(body)
    return sign_frame(ALICE, swarm, body, cohort=bytes(32) if kind in COHORT_KINDS else b"")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_message_survives_the_wire_and_nothing_near_it_does(kind, data):
    body = data.draw(bodies(kind))
    frame = framed(kind, body)
    message = open_frame(SWARM, frame, ALICE.public_key)
    assert (message.kind, message.body, message.sender) == (kind, body, ALICE.public_key)

    cut = data.draw(st.integers(0, len(frame) - 1))
    spot, bit = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(frame)
    flipped[spot] ^= 1 << bit
    elsewhere = framed(kind, body, swarm=bytes(32))
    near = [frame[:cut], frame + b"\0"]
    if (
        kind not in CHANNEL_KINDS
    ):  # there, the channel itself lets nobody flip a bit, and belongs to one swarm
        near += [bytes(flipped), elsewhere]
    for wrong in near:
        with pytest.raises(PeerViolation):
            open_frame(SWARM, wrong, ALICE.public_key)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_only_what_the_channel_proves_goes_without_a_signature(kind, data):
    frame = unpack(framed(kind, data.draw(bodies(kind))), Frame, limit_bytes=FRAME_BYTES)
    named = pack(Frame(1, kind, frame.cohort, ALICE.public_key, frame.body, frame.signature))
    bare = pack(Frame(1, kind, frame.cohort, b"", frame.body, b""))
    signed = pack(Frame(1, kind, frame.cohort, ALICE.public_key, frame.body, bytes(64)))
    wrong = [named, signed] if kind in CHANNEL_KINDS else [bare, signed]
    for each in wrong:
        with pytest.raises(PeerViolation):
            open_frame(SWARM, each, ALICE.public_key)
    if kind in CHANNEL_KINDS:
        with pytest.raises(PeerViolation, match="own channel"):
            open_frame(SWARM, bare)
        with pytest.raises(MisuseError):
            sign_frame(ALICE, SWARM, open_frame(SWARM, bare, ALICE.public_key).body)
    else:
        with pytest.raises(MisuseError):
            channel_frame(open_frame(SWARM, pack(frame)).body)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_body_of_another_shape_is_refused_even_when_it_is_signed(kind, data):
    """The author itself sends it: the signature holds, and the types do not."""
    body = data.draw(bodies(kind))
    plain = msgpack.unpackb(pack(body))
    stranger = data.draw(
        st.sampled_from([None, float("nan"), 1.5, -1, True, {}, "text", [[]], b"\0" * 5000, 1 << 63])
    )
    wrong = [[*plain, stranger], plain[:-1] if plain else [stranger], {"a": 1}, stranger]
    if plain:
        place = data.draw(st.integers(0, len(plain) - 1))
        wrong.append([*plain[:place], stranger, *plain[place + 1 :]])
    for each in wrong:
        encoded = msgpack.packb(each)
        try:
            accepted = unpack(encoded, BODY_TYPES[kind], limit_bytes=FRAME_BYTES)
        except PeerViolation:
            continue
        assert pack(accepted) == encoded, "only what is exactly a message may pass"
        assert msgspec.convert(each, BODY_TYPES[kind], strict=True) == accepted


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(data):
    with pytest.raises(PeerViolation):
        open_frame(SWARM, data)


def test_an_oversized_frame_is_refused_before_it_is_decoded():
    with pytest.raises(PeerViolation, match="at most"):
        open_frame(SWARM, bytes(FRAME_BYTES + 1))


def test_a_tall_array_header_allocates_nothing():
    with pytest.raises(PeerViolation):
        open_frame(SWARM, b"\xdd\xff\xff\xff\xff")


def test_a_longer_spelling_of_the_same_number_is_refused():
    frame = unpack(framed(Kind.ABORT_VOTE, BODY_TYPES[Kind.ABORT_VOTE]()), Frame, limit_bytes=FRAME_BYTES)
    spelt = pack(frame).replace(b"\x96\x01", b"\x96\xcc\x01", 1)
    with pytest.raises(PeerViolation, match="canonical"):
        open_frame(SWARM, spelt)


def test_a_kind_cannot_be_relabelled():
    frame = unpack(framed(Kind.ABORT_VOTE, BODY_TYPES[Kind.ABORT_VOTE]()), Frame, limit_bytes=FRAME_BYTES)
    for kind in KINDS:
        if kind is not Kind.ABORT_VOTE:
            relabelled = Frame(1, kind, frame.cohort, frame.sender, frame.body, frame.signature)
            with pytest.raises(PeerViolation):
                open_frame(SWARM, pack(relabelled))
