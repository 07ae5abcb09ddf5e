"""Canonical, bounded, typed msgpack: the only way bytes become objects and objects become bytes.

`unpack` decodes into the declared type at once. The type's own bounds stop the decoder, so nothing is built that the
type does not allow: a header that promises 2^32 items, or eight million empty arrays where a name belongs, cost nothing.
(A decoder that makes plain lists first makes 634 MiB of 8 MiB of 0x90.) So a kind that travels bounds each collection.
"""

from typing import TypeVar

import msgspec
from msgspec import inspect

from gossip.errors import PeerViolation

T = TypeVar("T")

HEADER_BYTES = 5  # the longest of an array, of bytes and of a text
INTEGER_BYTES = 9
CHARACTER_BYTES = 4  # of UTF-8


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of all that travels: an array of fields in order, no names, no unknown ones."""


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def unpack(data: bytes, kind: type[T], *, limit_bytes: int) -> T:
    """Decode strictly; raises PeerViolation for anything that is not the one canonical encoding of a `kind`."""
    if len(data) > limit_bytes:
        raise PeerViolation(f"{kind.__name__}: {len(data)} bytes, at most {limit_bytes} allowed")
    try:
        value = msgspec.msgpack.decode(data, type=kind, strict=True)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise PeerViolation(f"{kind.__name__}: {error}") from error
    if pack(value) != data:
        raise PeerViolation(f"{kind.__name__}: not in canonical encoding")
    return value


def longest(kind: type, otherwise: int) -> int:
    """No encoding of a `kind` is longer, in bytes, by the bounds that it declares; `otherwise` where one has no bound.

    TypeError for a type that nothing that travels has.
    """
    most = _longest(inspect.type_info(kind))
    return otherwise if most is None else min(most, otherwise)


def _longest(kind: inspect.Type) -> int | None:
    match kind:
        case inspect.NoneType() | inspect.BoolType():
            return 1
        case inspect.IntType():
            return INTEGER_BYTES
        case inspect.LiteralType(values=values):
            return max(len(pack(value)) for value in values)
        case inspect.BytesType(max_length=most):
            return None if most is None else HEADER_BYTES + most
        case inspect.StrType(max_length=most):
            return None if most is None else HEADER_BYTES + CHARACTER_BYTES * most
        case inspect.VarTupleType(item_type=item, max_length=count):
            each = _longest(item)
            return None if each is None or count is None else HEADER_BYTES + count * each
        case inspect.StructType(fields=fields):
            sizes = [_longest(field.type) for field in fields]
            known = [size for size in sizes if size is not None]
            return HEADER_BYTES + sum(known) if len(known) == len(sizes) else None
        case inspect.UnionType(types=types):
            sizes = [_longest(each) for each in types]
            known = [size for size in sizes if size is not None]
            return max(known) if len(known) == len(sizes) else None
    raise TypeError(f"{kind} does not travel")
