"""A device that trains pauses for its look at a sum, and never for longer than its cohort lasts."""

from gossip.events import Look, Pause, Resume
from tests.simulation.harness import World


class Busy(World):
    """The first device's trainer is too busy to look before the sum has come without it."""

    def __init__(self, *given):
        self.told = []
        super().__init__(*given)

    def _do(self, device, action):
        if device.index == 0:
            self.told.append(type(action))
            if isinstance(action, Look):
                return
        super()._do(device, action)


def test_who_hears_of_the_sum_before_it_has_looked_trains_on():
    """Seen: such a device never trained again."""
    world = Busy(51, 8)
    world.run(60)
    pauses = [kind for kind in world.told if kind in {Pause, Resume}]
    assert len(pauses) >= 6
    assert pauses[::2] == [Pause] * len(pauses[::2])
    assert pauses[1::2] == [Resume] * len(pauses[1::2]), "each pause has an end"
