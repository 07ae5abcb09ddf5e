"""TOML to strict structs and back: each error names its file, its line, its key and what would fit."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import inspect

from node.config.errors import ConfigError, Place, Unfit, shown, spelt_place

CONFIG_BYTES_MAX = 1 << 16
T = TypeVar("T")


def load_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file as the struct `kind`, strictly; any struct built from Section. Raises ConfigError."""
    return parse_toml(read_text(path), kind, path)


def parse_toml(text: str, kind: type[T], path: Path) -> T:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _refuse_keys(tree, inspect.type_info(kind), (), path, text)
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        place = _place_in(str(error))
        if isinstance(unfit := error.__cause__, Unfit):
            raise located_error(path, text, (*place, *unfit.place), unfit.problem) from error
        raise located_error(path, text, place, _expectation(tree, inspect.type_info(kind), place)) from error


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {CONFIG_BYTES_MAX} bytes; this is no settings file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8 text") from error


def _refuse_keys(tree: object, kind: inspect.Type, place: Place, path: Path, text: str) -> None:
    """Refuse the first key that is unknown, and any required one that is missing."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(tree, list):
        for position, item in enumerate(tree):
            _refuse_keys(item, kind.item_type, (*place, position), path, text)
    if not isinstance(kind, inspect.StructType) or not isinstance(tree, dict):
        return
    fields = {field.encode_name: field for field in kind.fields}
    for key, value in tree.items():
        if key not in fields:
            raise located_error(path, text, (*place, key), f"no such key; {_nearest(key, kind)}")
        _refuse_keys(value, fields[key].type, (*place, key), path, text)
    for key, field in fields.items():
        if field.required and key not in tree:
            problem = f"missing; expected {_described(field.type)}"
            raise located_error(path, text, (*place, key), problem, line_of=place)


def _nearest(key: str, table: inspect.StructType) -> str:
    """The key of this table, or of one below it, that was probably meant; else all keys of the table."""
    names = [field.encode_name for field in table.fields]
    elsewhere = [dotted for dotted in dotted_keys(table) if dotted.rpartition(".")[2] == key]
    meant = difflib.get_close_matches(key, names, n=1) or elsewhere
    return f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(names)}"


def dotted_keys(table: inspect.StructType) -> Iterable[str]:
    for field in table.fields:
        yield field.encode_name
        if isinstance(field.type, inspect.StructType):
            yield from (f"{field.encode_name}.{below}" for below in dotted_keys(field.type))


def _expectation(tree: object, kind: inspect.Type, place: Place) -> str:
    """What is at `place`, and what its type wants there."""
    for part in place:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        if isinstance(kind, inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == part)
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
        tree = _below(tree, part)
    hint = ""
    if isinstance(kind, inspect.LiteralType) and isinstance(tree, str):
        near = difflib.get_close_matches(tree, [str(value) for value in kind.values], n=1)
        hint = f"; did you mean {shown(near[0])}?" if near else ""
    return f"{shown(tree)} does not fit; expected {_described(kind)}{hint}"


def _described(kind: inspect.Type) -> str:
    """A type in words, bounds included."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.Metadata():
            return _described(kind.type)
        case inspect.UnionType():
            return _described(next(each for each in kind.types if not isinstance(each, inspect.NoneType)))
        case inspect.LiteralType():
            return "one of " + ", ".join(shown(value) for value in kind.values)
        case inspect.IntType() | inspect.FloatType():
            low, high = kind.ge, kind.le if kind.lt is None else kind.lt - 1
            bounds = (
                f" from {low} to {high}"
                if high is not None
                else f", {low} or more"
                if low is not None
                else ""
            )
            return ("a whole number" if isinstance(kind, inspect.IntType) else "a number") + bounds
        case inspect.StrType():
            return "a text in quotes"
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType() | inspect.ListType():
            least = kind.min_length or 0
            most = "" if kind.max_length is None else f", {least} to {kind.max_length} of them"
            return f"a list of {_described(kind.item_type)}{most}"
        case inspect.StructType():
            return f"a table with {', '.join(field.encode_name for field in kind.fields)}"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _place_in(message: str) -> Place:
    """Where a ValidationError stands: its text ends in `$.swarm.training.schedule[0].size`, say."""
    _, _, where = message.rpartition(" - at `$")
    return tuple(
        int(index) if index else key for key, index in re.findall(r"\.([^.\[\]`]+)|\[([0-9]+)\]", where)
    )


def located_error(
    path: Path, text: str, place: Place, problem: str, *, line_of: Place | None = None
) -> ConfigError:
    line = _line(text, place if line_of is None else line_of)
    message = f"{path}{f', line {line}' if line else ''}: {spelt_place(place)}{problem}"
    # What is quoted may hold newlines and a terminal's control characters.
    printable = (each if each.isprintable() else ascii(each)[1:-1] for each in message)
    return ConfigError("".join(printable))


def _line(text: str, place: Place) -> int | None:
    """The line, from 1, on which the value at `place` begins: the first prefix of the file that holds it."""
    if not place:
        return None
    lines = text.split("\n")
    begin = 1
    for count in range(1, len(lines) + 1):
        try:
            tree: object = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        for part in place:
            tree = _below(tree, part)
        if tree is not None:
            return begin
        begin = count + 1
    return None


def _below(tree: object, part: str | int) -> object:
    """One step down a TOML tree; None where there is nothing, as TOML has no null."""
    if isinstance(tree, Mapping) and isinstance(part, str):
        return tree.get(part)
    if (
        isinstance(tree, Sequence)
        and not isinstance(tree, str)
        and isinstance(part, int)
        and part < len(tree)
    ):
        return tree[part]
    return None
