"""What a scenario says of its bad devices: one [[adversary]] table a behaviour, or a word on the command line.

[[adversary]]              # none, or several
behaviour = "forge"        # `scenarios.adversary` has them all
share = 0.2                # of the devices, drawn by the seed; never the first one, which founds the swarm
count = 4                  # or, instead of a share, so many
hub = true                 # they say that they are well connected, and so lead and add up first
step = "MASKED"            # "silence": from this step on
tolerance_nats = 0.5       # "...-below": by how much the loss on own examples may rise
target = 0                 # "backdoor": what stamped examples are to be read as
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gossip.secure_sum.harm import HARM_MAX
from node.config.settings import Section

Step = Literal["SHARES", "MASKED", "SEAL", "UNMASK", "BODY_VOTE"]
TEXT_FORM = "BEHAVIOUR[:hub]=SHARE, such as forge=0.2, or BEHAVIOUR=COUNT, such as forge:hub=1"


class AdversaryTable(Section, frozen=True):
    behaviour: Annotated[str, Meta(min_length=1, max_length=40)]
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    count: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    hub: bool = False
    step: Step = "MASKED"
    tolerance_nats: Annotated[float, Meta(gt=0, le=100)] = HARM_MAX
    target: Annotated[int, Meta(ge=0, lt=1 << 20)] = 0

    def of(self, devices: int) -> int:
        """How many of so many devices; a share of more than none is one at least."""
        if self.count is not None:
            return self.count
        share = self.share or 0.0
        return max(1, round(share * devices)) if share else 0

    def __str__(self) -> str:
        many = f"{self.count}" if self.count is not None else f"{self.share:g}"
        return f"{self.behaviour}{':hub' if self.hub else ''}={many}"


def read(said: str) -> AdversaryTable:
    """One word of the command line. Raises ValueError, which says what it should be."""
    name, is_, many = said.partition("=")
    name, *options = name.split(":")
    if not is_ or any(option != "hub" for option in options):
        raise ValueError(f'"{said}" is not {TEXT_FORM}')
    key = "count" if many.isdecimal() else "share"
    try:
        told = {"behaviour": name, key: int(many) if key == "count" else float(many), "hub": bool(options)}
        return msgspec.convert(told, AdversaryTable)
    except (ValueError, msgspec.ValidationError) as error:
        raise ValueError(f'"{said}" is not {TEXT_FORM}: {error}') from error
