"""Canonical, bounded, typed msgpack: the only way bytes become objects and objects become bytes."""

from typing import TypeVar

import msgpack
import msgspec

from gossip.errors import PeerViolation

T = TypeVar("T")


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of all that travels: an array of fields in order, no names, no unknown ones."""


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def unpack(data: bytes, kind: type[T], *, limit_bytes: int) -> T:
    """Decode strictly; raises PeerViolation for anything that is not the one canonical encoding of a `kind`."""
    if len(data) > limit_bytes:
        raise PeerViolation(f"{kind.__name__}: {len(data)} bytes, at most {limit_bytes} allowed")
    try:
        plain = msgpack.unpackb(data, use_list=True, strict_map_key=True, max_map_len=0, max_ext_len=0)
        value = msgspec.convert(plain, kind, strict=True)
    except (ValueError, msgpack.UnpackException, msgspec.ValidationError, RecursionError) as error:
        raise PeerViolation(f"{kind.__name__}: {error}") from error
    if pack(value) != data:
        raise PeerViolation(f"{kind.__name__}: not in canonical encoding")
    return value
