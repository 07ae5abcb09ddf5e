"""The pipe between daemon and trainer: every message survives it, in any pieces, and nothing else passes."""

import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import messages
from models.messages import FrameReader, PipeError, frame, read_answer, read_command

COMMANDS = [
    messages.Open("watch", "subjects=3", None, 1, 2),
    messages.Open("own.task:mine", "shard=1/2", "/data", 0, (1 << 32) - 1, 4),
    messages.Begin(3, b"base", 1, 20),
    messages.Rebase(b"change"),
    messages.Freeze(3),
    messages.Abandon(3),
    messages.Evaluate(4, b"model"),
    messages.Alone(5, b"base", 800),
    messages.Pause(bytes(8)),
    messages.Resume(),
    messages.Close(),
]
ANSWERS = [
    messages.Opened(b"h" * 32, (("a.weight", 6, 0), ("a.bias", 2, 1)), b"x0", 200, 7, (3, 0)),
    messages.Eligible(3, 20),
    messages.Frozen(3, b"delta", 25, 200, 0.5),
    messages.Evaluated(4, 0.75, 0.5, 478),
    messages.AloneDone(5, 0.6),
    messages.Failed("no phase is open", fatal=False, command="freeze", number=3),
    messages.Failed("out of memory", fatal=True, command="", number=None),
]


@given(st.lists(st.sampled_from(COMMANDS), max_size=8), st.lists(st.integers(1, 30), min_size=1))
@settings(deadline=None)
def test_commands_arrive_whole_however_the_bytes_are_cut(sent, cuts):
    stream = b"".join(frame(command) for command in sent)
    reader, got, start = FrameReader(), [], 0
    while start < len(stream):
        end = start + cuts[len(got) % len(cuts)]
        got += [read_command(payload) for payload in reader.feed(stream[start:end])]
        start = end
    assert got == sent


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_arrive(answer):
    (payload,) = FrameReader().feed(bytes(frame(answer)))
    assert read_answer(payload) == answer


def test_a_frame_is_a_length_and_an_array_that_starts_with_its_kind():
    assert frame(messages.Freeze(3)) == b"\x09\x00\x00\x00\x92\xa6freeze\x03"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_no_answer(command):
    (payload,) = FrameReader().feed(bytes(frame(command)))
    with pytest.raises(PipeError, match="not a message of this pipe"):
        read_answer(payload)


@pytest.mark.parametrize(
    "plain",
    [
        ["freeze"],
        ["freeze", -1],
        ["freeze", 3, 4],
        ["freeze", "3"],
        ["begin", 3, b"", 0, 20],
        ["begin", 3, b"", 1, messages.STEPS_MAX + 1],
        ["open", "watch", "subjects=3", None, 1 << 32, 0],
        ["open", "watch", "subjects=3", None, 0, 0, 0],
        ["dance"],
        [],
        {"freeze": 3},
        None,
    ],
)
def test_what_is_out_of_bounds_is_no_command(plain):
    with pytest.raises(PipeError, match="not a message of this pipe"):
        read_command(msgspec.msgpack.encode(plain))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_command_or_a_pipe_error(data):
    try:
        assert read_command(data) is not None
    except PipeError:
        return


def test_a_length_beyond_the_bound_is_refused_before_anything_is_stored():
    assert FrameReader().feed((1 << 30).to_bytes(4, "little")) == []
    with pytest.raises(PipeError, match="at most 1073741824"):
        FrameReader().feed(((1 << 30) + 1).to_bytes(4, "little"))


def test_a_message_beyond_the_bound_is_not_written(monkeypatch):
    monkeypatch.setattr(messages, "FRAME_MAX", 40)
    frame(messages.Rebase(b"x" * 20))
    with pytest.raises(PipeError, match="at most 40"):
        frame(messages.Rebase(b"x" * 40))


def test_the_daemons_side_needs_no_torch():
    code = "import sys, models.messages; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
