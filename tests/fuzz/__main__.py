"""Hostile messages to a real core, a million a kind: nothing escapes it, and it tells of no fault.

    python -m tests.fuzz --inputs 1000000                            all kinds, from seeds
    python -m tests.fuzz --inputs 1000000 --kind ROSTER --engine atheris
    python -m tests.fuzz --kind ROSTER --episode 17 --inputs 203     what a failure told, once more
    python -m tests.fuzz --kind ROSTER --episode 17 --replay HEX     that one message, in the same fresh world

With seeds, an episode is a fresh world and INPUTS messages, and its number makes all of it again. atheris
(`pip install gossamer[fuzz]`) makes the choices from bytes that it mutates towards code that none has reached before; what
fails it is saved as a file `crash-...`, and replayed with `--spelled FILE`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gossip.events import Received
from gossip.frames import Kind
from tests.fuzz.choices import Spelled
from tests.fuzz.episodes import INPUTS, FailedError, arena_of, episode, one_input

SHOW_S = 5.0
FRESH = 300  # inputs to one world under atheris
SPELLED_BYTES = 4096


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each kind")
    parser.add_argument("--kind", choices=[kind.name for kind in Kind], help="one kind only")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first episode: other numbers, other messages"
    )
    parser.add_argument("--episode", type=int, help="this one only")
    parser.add_argument("--replay", metavar="HEX", help="a frame")
    parser.add_argument("--spelled", metavar="FILE", type=Path, help="choices that atheris has saved")
    given = parser.parse_args(arguments)
    kinds = [Kind[given.kind]] if given.kind else list(Kind)
    if (given.replay or given.spelled) and not given.kind:
        parser.error("a replay needs its --kind")
    if given.replay:
        arena = arena_of(kinds[0], given.episode or 0)
        speaker = next(device for device in arena.devices if device is not arena.victim)
        arena.feed([Received(speaker.key, bytes.fromhex(given.replay))])
        arena.go_on(3.0)
        print("no fault")
        return 0
    if given.spelled:
        one_input(arena_of(kinds[0], given.episode or 0), kinds[0], Spelled(given.spelled.read_bytes()))
        print("no fault")
        return 0
    if given.engine == "atheris":
        return max(_under_atheris(kind, given) for kind in kinds)
    return _from_seeds(kinds, given)


def _from_seeds(kinds: list[Kind], given: argparse.Namespace) -> int:
    failed = 0
    for kind in kinds:
        began, shown, done, faults = time.monotonic(), time.monotonic(), 0, 0
        number = given.first if given.episode is None else given.episode
        while done < given.inputs:
            count = min(INPUTS, given.inputs - done) if given.episode is None else given.inputs
            try:
                episode(kind, number, count)
            except FailedError as error:
                faults += 1
                print(error, flush=True)
            done, number = done + count, number + 1
            if time.monotonic() - shown > SHOW_S:
                shown = time.monotonic()
                print(
                    f"{kind.name}: {done} of {given.inputs}, {faults} episodes at fault",
                    file=sys.stderr,
                    flush=True,
                )
        took = time.monotonic() - began
        print(
            f"{kind.name:20} {done:>9} inputs {faults:>4} episodes at fault {done / took:>7.0f} a second",
            flush=True,
        )
        failed += faults
    return 1 if failed else 0


def _under_atheris(kind: Kind, given: argparse.Namespace) -> int:
    """A process a kind: atheris leaves with the process."""
    if os.environ.get("GOSSAMER_FUZZED") != kind.name:
        command = [sys.executable, "-m", "tests.fuzz", "--engine", "atheris", "--kind", kind.name]
        command += ["--inputs", str(given.inputs)]
        return subprocess.run(
            command, env={**os.environ, "GOSSAMER_FUZZED": kind.name}, check=False
        ).returncode
    import atheris

    for module in ("gossip", "node.core"):
        for name, each in list(sys.modules.items()):
            if name == module or name.startswith(module + "."):
                _instrument(atheris, each)
    worlds = {"arena": arena_of(kind, 0), "inputs": 0, "number": 0}

    def one(data: bytes) -> None:
        if worlds["inputs"] == FRESH:
            worlds["number"] += 1
            worlds["arena"], worlds["inputs"] = arena_of(kind, worlds["number"]), 0
        worlds["inputs"] += 1
        try:
            one_input(worlds["arena"], kind, Spelled(data))
        except AssertionError:
            frames = " ".join(event.data.hex() for event in worlds["arena"].last)
            print(
                f"{kind.name}: input {worlds['inputs']} of world {worlds['number']}: {frames}",
                file=sys.stderr,
            )
            print(
                f"python -m tests.fuzz --kind {kind.name} --episode {worlds['number']} --replay HEX",
                file=sys.stderr,
            )
            raise

    options = [f"-runs={given.inputs}", f"-max_len={SPELLED_BYTES}", "-len_control=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()
    return 0


def _instrument(atheris: object, module: object) -> None:
    """The functions and methods of a module that has been imported."""
    for owner in [module, *(each for each in vars(module).values() if isinstance(each, type))]:
        if getattr(owner, "__module__", getattr(owner, "__name__", "")) != module.__name__:
            continue
        for name, each in list(vars(owner).items()):
            if hasattr(each, "__code__") and getattr(each, "__module__", "") == module.__name__:
                try:
                    setattr(owner, name, atheris.instrument_func(each))
                except (AttributeError, TypeError, ValueError):
                    continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
