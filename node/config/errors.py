"""Why settings cannot be used: the file, the line, the key, and what would fit."""

from typing import ClassVar, TypeAlias

from gossip.errors import GossamerError

SHOWN_CHARACTERS_MAX = 60

Place: TypeAlias = tuple[str | int, ...]  # where a value stands: ("swarm", "training", "schedule", 0, "size")


class ConfigError(GossamerError):
    """A settings file that cannot be used: change the key that is named. Exit code 4."""

    exit_code: ClassVar[int] = 4


class Unfit(ConfigError, ValueError):
    """A value that its type alone cannot refuse. As a ValueError, msgspec carries it to `parse_toml` as a cause."""

    def __init__(self, place: Place, problem: str) -> None:
        super().__init__(f"{spelt_place(place)}{problem}")
        self.place = place
        self.problem = problem


def shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return shown if len(shown) <= SHOWN_CHARACTERS_MAX else f"{shown[:SHOWN_CHARACTERS_MAX]}..."


def spelt_place(place: Place) -> str:
    spelling = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{spelling.removeprefix('.')}: " if place else ""
