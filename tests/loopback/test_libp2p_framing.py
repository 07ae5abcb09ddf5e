"""Messages on a byte stream, however the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import PeerViolation
from node.net.framing import PIECE_BYTES, SIGN_OF_LIFE, FrameDecoder, Outbox, framed, pieces

LIMIT = 1000


@given(
    messages=st.lists(st.binary(max_size=300)),
    cuts=st.lists(st.integers(min_value=1, max_value=50), min_size=1),
    lively=st.booleans(),
)
def test_what_was_framed_comes_out_again_wherever_the_stream_is_cut(messages, cuts, lively):
    sent = b"".join((SIGN_OF_LIFE if lively else b"") + framed([message]) for message in messages)
    decoder = FrameDecoder(LIMIT)
    arrived: list[bytes] = []
    step = 0
    while sent:
        size = cuts[step % len(cuts)]
        arrived += decoder.feed(sent[:size])
        sent, step = sent[size:], step + 1
    assert arrived == messages
    assert decoder.unfinished_bytes == 0


def test_the_largest_message_passes_and_a_larger_one_is_refused_by_its_length_alone():
    assert FrameDecoder(LIMIT).feed(framed([bytes(LIMIT)])) == [bytes(LIMIT)]
    with pytest.raises(PeerViolation, match="1001 bytes; 1000 are allowed"):
        FrameDecoder(LIMIT).feed((LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(PeerViolation, match="4294967294 bytes"):
        FrameDecoder(LIMIT).feed(b"\xff\xff\xff\xfe")


def test_an_unfinished_message_is_known_by_its_size():
    decoder = FrameDecoder(LIMIT)
    for chunk, unfinished in (
        (b"", 0),
        (b"\x00\x00", 4),
        (b"\x00\x03", 7),
        (b"ab", 7),
        (b"c", 0),
        (b"\xff" * 3, 4),
    ):
        decoder.feed(chunk)
        assert decoder.unfinished_bytes == unfinished


def test_pieces_are_all_of_the_data_and_none_is_too_long():
    data = bytes(range(256)) * 1000
    assert b"".join(pieces(data)) == data
    assert max(len(piece) for piece in pieces(data)) == PIECE_BYTES
    assert list(pieces(b"")) == []


def test_an_outbox_is_bounded_in_messages_and_in_bytes():
    outbox = Outbox(limit_messages=3, limit_bytes=10)
    assert [outbox.put(b"1234"), outbox.put(b"1234")] == ["", ""]
    assert outbox.put(b"123") == "8 bytes are already waiting"
    assert outbox.put(b"12") == ""
    assert outbox.put(b"") == "3 messages are already waiting"


def test_small_messages_travel_together_and_large_ones_alone():
    outbox = Outbox(limit_messages=10, limit_bytes=1 << 20)
    batch = [b"a", b"", bytes(PIECE_BYTES - 13), b"b", bytes(PIECE_BYTES), b"c"]
    for message in batch:
        outbox.put(message)
    taken = [outbox.take()[:]]
    assert len(framed(taken[0])) == PIECE_BYTES
    while outbox:
        outbox.written()
        taken.append(outbox.take())
    assert taken == [batch[:3], batch[3:4], batch[4:5], batch[5:]]


def test_an_outbox_gives_back_what_was_not_written_in_order():
    outbox = Outbox(limit_messages=10, limit_bytes=1 << 20)
    for message in (b"written", bytes(PIECE_BYTES), b"waiting"):
        outbox.put(message)
    outbox.take()
    outbox.written()
    outbox.take()
    assert outbox.empty() == [bytes(PIECE_BYTES), b"waiting"]
    assert outbox.empty() == []
    assert outbox.put(bytes(1 << 20)) == ""
