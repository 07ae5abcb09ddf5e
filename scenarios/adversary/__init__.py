"""An adversary: a share of a scenario's devices that do not follow the protocol, each behaviour by its name.

Nothing of it is in the product: a bad device runs the honest core with its behaviour in between (`scenarios.adversary.core`).
"""

from collections.abc import Mapping

import msgspec

from crypto.hashing import digest
from scenarios.adversary import contributing, forging, leagues, poisoning, silent, talking
from scenarios.adversary.behaviour import Behaviour
from scenarios.spec.adversary import AdversaryTable

RANDOM = "random"  # any of the others, drawn for each device by the scenario's seed

BEHAVIOURS: Mapping[str, type[Behaviour]] = {
    "forge": forging.Forge,
    "forge-zero": forging.ForgeZero,
    "forge-below": forging.ForgeBelow,
    "louder": contributing.Louder,
    "louder-below": contributing.LouderBelow,
    "amplify": contributing.Amplify,
    "hijack": contributing.Hijack,
    "within": contributing.Within,
    "ones": contributing.Ones,
    "sign-flip": contributing.SignFlip,
    "label-flip": poisoning.LabelFlip,
    "backdoor": poisoning.Backdoor,
    "free-ride": contributing.FreeRide,
    "free-ride-noise": contributing.FreeRideNoise,
    "ranges-low": contributing.RangesLow,
    "ranges-high": contributing.RangesHigh,
    "silence": silent.Silence,
    "leave-out": silent.LeaveOut,
    "refuse-all": silent.RefuseAll,
    "equivocate": talking.Equivocate,
    "replay": talking.Replay,
    "old-round": talking.OldRound,
    "disjoint": talking.Disjoint,
    "crash-frames": talking.CrashFrames,
    "bombs": talking.Bombs,
    "league-history": leagues.LeagueHistory,
    "league-checkpoint": leagues.LeagueCheckpoint,
}
NAMES = (*BEHAVIOURS, RANDOM)


def drawn(table: AdversaryTable, seed: int, device: int) -> AdversaryTable:
    """A device's own table: the same, but where it says `random`."""
    if table.behaviour != RANDOM:
        return table
    lot = digest("random behaviour", seed.to_bytes(8, "big"), device.to_bytes(8, "big"))
    names = sorted(BEHAVIOURS)
    return msgspec.structs.replace(table, behaviour=names[int.from_bytes(lot[:8], "big") % len(names)])
