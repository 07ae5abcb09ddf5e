"""Who of a plan's devices runs which core."""

from collections.abc import Callable, Sequence
from typing import Any

from crypto.identity import Identity
from gossip.errors import GossamerError
from gossip.events import Floats
from node.core import NodeCore
from scenarios.adversary import BEHAVIOURS, RANDOM
from scenarios.adversary.behaviour import League
from scenarios.adversary.core import HostileCore
from scenarios.spec.adversary import AdversaryTable


class Untrainable(GossamerError):
    """A behaviour needs what real daemons do not have: use `gossamer simulate` for it. Exit code 2."""

    exit_code = 2


def refuse_untrained(tables: Sequence[AdversaryTable]) -> None:
    """Raises Untrainable for what is done with the training of all devices at hand."""
    for table in tables:
        if table.behaviour == RANDOM or BEHAVIOURS[table.behaviour].needs_training:
            raise Untrainable(
                f"{table.behaviour}: real daemons do not do this, as it takes a look at their training: "
                "use `gossamer simulate`"
            )


def cast_of(
    identities: Sequence[Identity],
    hostile: Sequence[AdversaryTable | None],
    seed: int,
    loss: Callable[[int, Floats], float] | None = None,
) -> Callable[..., NodeCore]:
    """(device, **what NodeCore is given): the core of each device; all bad ones are in one league.

    `loss`: of a model on a device's own examples, by its number.
    """
    numbers = {
        identity.public_key: index for index, identity in enumerate(identities) if hostile[index] is not None
    }
    league = League({key: identities[index] for key, index in numbers.items()}, seed=seed)
    if loss is not None:
        league.loss = lambda member, model: loss(numbers[member], model)

    def make(device: int, **given: Any) -> NodeCore:
        table = hostile[device]
        if table is None:
            return NodeCore(**given)
        return HostileCore(BEHAVIOURS[table.behaviour], table, league, **given)

    return make
