"""An adversary: a share of a scenario's devices that do not follow the protocol, each behaviour by its name.

Nothing of it is in the product: a bad device runs the honest core with its behaviour in between (`scenarios.adversary.core`).
"""

from collections.abc import Mapping

from scenarios.adversary import contributing, forging, poisoning
from scenarios.adversary.behaviour import Behaviour

BEHAVIOURS: Mapping[str, type[Behaviour]] = {
    "forge": forging.Forge,
    "forge-zero": forging.ForgeZero,
    "forge-below": forging.ForgeBelow,
    "louder": contributing.Louder,
    "louder-below": contributing.LouderBelow,
    "within": contributing.Within,
    "ones": contributing.Ones,
    "sign-flip": contributing.SignFlip,
    "label-flip": poisoning.LabelFlip,
    "backdoor": poisoning.Backdoor,
    "free-ride": contributing.FreeRide,
    "free-ride-noise": contributing.FreeRideNoise,
    "ranges-low": contributing.RangesLow,
    "ranges-high": contributing.RangesHigh,
}
