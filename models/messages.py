"""What the daemon and its trainer say to each other over a pipe; free of torch, for the daemon's sake.

A frame is four bytes of length, little-endian, and one msgpack message: an array that starts with its kind.
Vectors travel as the raw little-endian bytes of float32, except x_0, which is int64 in units of 2^-24.

The daemon commands and the trainer answers. `Open` comes first and once. Then phases follow one another:

    Begin -> (training; Eligible once min_steps are done) -> at max_steps it idles -> Freeze -> Frozen -> idle
                                                                              -> Abandon -> idle

Freeze and Abandon may come at any time of a phase and Rebase too; outside one they are answered by Failed. Evaluate, Look, Alone,
Pause and Resume may come at any time after Open and disturb no phase. A command that is refused changes
nothing and is answered by Failed with its name and number; Failed with `fatal` is the trainer's last word.
"""

import struct
from typing import Annotated, TypeVar

import msgspec

FRAME_MAX = 1 << 30  # bytes of a message: a model of 2^28 parameters as float32
THREADS_MAX = 64
STEPS_MAX = 1 << 20
NUMBER_MAX = 1 << 48  # phases and ids

T = TypeVar("T")

_LENGTH = struct.Struct("<I")

Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=STEPS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]


class PipeError(ValueError):
    """The other end wrote something that is not a message. The pipe cannot be used any further."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=str.lower):
    """Base of all messages; the kind on the wire is the class's name in lower case."""


class Open(Message, frozen=True):
    """Load the task and this device's part of its data."""

    task: str
    data_spec: str  # see models.partition
    data_folder: str | None  # None: the packaged data
    seed: Seed  # of this device's minibatch order
    model_seed: Seed  # of x_0 and of how the data set is cut: the swarm's, the same on all devices
    threads: Annotated[int, msgspec.Meta(ge=1, le=THREADS_MAX)] = 1


class Begin(Message, frozen=True):
    phase: Number
    base: bytes
    min_steps: Steps
    max_steps: Steps


class Rebase(Message, frozen=True):
    """The shared model has moved by `change`."""

    change: bytes


class Freeze(Message, frozen=True):
    phase: Number


class Abandon(Message, frozen=True):
    """End a phase whose delta nobody will ask for. No answer."""

    phase: Number


class Evaluate(Message, frozen=True):
    id: Number
    model: bytes


class Look(Message, frozen=True):
    """Compare two models on a few of this device's own examples (`models.training.LocalTrainer.look`)."""

    id: Number
    before: bytes
    after: bytes


class Alone(Message, frozen=True):
    """Train from `base` on this device's own data only, then evaluate: what the device could reach by itself."""

    id: Number
    base: bytes
    steps: Steps


class Pause(Message, frozen=True):
    """Take no local steps until Resume, as a Look is about to come. Questions are still answered."""

    before: bytes  # the model that the Look will compare with


class Resume(Message, frozen=True):
    pass


class Close(Message, frozen=True):
    pass


class Opened(Message, frozen=True):
    schema_hash: bytes
    tensors: tuple[tuple[str, int, int], ...]  # (name, parameters, segment) in order
    initial: bytes  # x_0
    examples: int  # in this device's part
    classes: int
    rows: tuple[int, ...]  # of each tensor: the first of several dimensions, 0 where there is one


class Eligible(Message, frozen=True):
    phase: int
    steps: int


class Frozen(Message, frozen=True):
    phase: int
    delta: bytes
    steps: int
    examples: int  # distinct ones that the steps can have seen
    loss: float  # mean over the steps; 0 after none


class Evaluated(Message, frozen=True):
    id: int
    accuracy: float
    loss: float
    count: int


class Looked(Message, frozen=True):
    id: int
    before: float  # mean losses, nats
    after: float


class AloneDone(Message, frozen=True):
    id: int
    accuracy: float


class Failed(Message, frozen=True):
    reason: str
    fatal: bool
    command: str  # the kind of the command that failed; a phase that diverges fails its `begin`
    number: int | None  # the phase or id in it, if it has one


Command = Open | Begin | Rebase | Freeze | Abandon | Evaluate | Look | Alone | Pause | Resume | Close
Answer = Opened | Eligible | Frozen | Evaluated | Looked | AloneDone | Failed

_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytearray:
    """A message's bytes on the pipe. Raises PipeError beyond FRAME_MAX."""
    data = bytearray(_LENGTH.size)
    _encoder.encode_into(message, data, _LENGTH.size)
    size = len(data) - _LENGTH.size
    if size > FRAME_MAX:
        raise PipeError(f"a message of {size} bytes, at most {FRAME_MAX} allowed")
    _LENGTH.pack_into(data, 0, size)
    return data


def read_command(payload: bytes) -> Command:
    """Raises PipeError."""
    return _read(_commands, payload)


def read_answer(payload: bytes) -> Answer:
    """Raises PipeError."""
    return _read(_answers, payload)


class FrameReader:
    """Cuts what arrives, in pieces of any size, into payloads."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. Raises PipeError at a length beyond FRAME_MAX."""
        self._pending += data
        payloads, start = [], 0
        while len(self._pending) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._pending, start)
            if size > FRAME_MAX:
                raise PipeError(f"a frame of {size} bytes, at most {FRAME_MAX} allowed")
            end = start + _LENGTH.size + size
            if len(self._pending) < end:
                break
            payloads.append(bytes(self._pending[start + _LENGTH.size : end]))
            start = end
        del self._pending[:start]
        return payloads


def _read(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PipeError(f"not a message of this pipe: {error}") from error
