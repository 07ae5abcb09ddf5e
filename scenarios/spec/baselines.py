"""What a scenario may set of each baseline, in tables such as [baselines.fedavg]; the values here are the defaults.

Shares of devices are used where a number of them would have to change with --nodes.
"""

from typing import Annotated, Final

from msgspec import Meta

from node.config.settings import Section, Steps

NAMES: Final = ("local", "fedavg", "fedbuff", "ftte", "dpsgd", "epidemic", "divshare", "topk")

Rate = Annotated[float, Meta(gt=0, le=100)]
Share = Annotated[float, Meta(gt=0, le=1)]
Few = Annotated[int, Meta(ge=1, le=64)]


class LocalPhase(Section, frozen=True):
    """What all have in common, and the grid of `scenarios.baselines.tuning` varies."""

    local_steps: Steps = 48
    learning_rate: Rate | None = None  # the task's


class LocalSettings(LocalPhase, frozen=True):
    steps_max: Steps = 1000  # of each device, which then has learned from its few examples what it can


class FedAvgSettings(LocalPhase, frozen=True):
    participants: Share = 0.1  # of the devices, a round; McMahan et al.'s C
    participants_min: Few = 10


class TopKSettings(FedAvgSettings, frozen=True):
    kept: Share = 0.05  # of the parameters of an upload


class FedBuffSettings(LocalPhase, frozen=True):
    concurrency: Share = 0.3  # of the devices, at any time
    buffer: Few = 10


class FtteSettings(FedBuffSettings, frozen=True):
    trainable: Share = 0.31  # of the parameters: with FTTE's abstract, 69 % less payload


class DpsgdSettings(LocalPhase, frozen=True):
    degree: Few = 4


class EpidemicSettings(LocalPhase, frozen=True):
    receivers: Few = 4  # of each model, a round


class DivShareSettings(LocalPhase, frozen=True):
    fragments: Few = 10  # that a model is cut into
    receivers: Few = 4  # of each fragment


class BaselineTables(Section, frozen=True):
    local: LocalSettings = LocalSettings()
    fedavg: FedAvgSettings = FedAvgSettings()
    fedbuff: FedBuffSettings = FedBuffSettings()
    ftte: FtteSettings = FtteSettings()
    dpsgd: DpsgdSettings = DpsgdSettings()
    epidemic: EpidemicSettings = EpidemicSettings()
    divshare: DivShareSettings = DivShareSettings()
    topk: TopKSettings = TopKSettings()

    def of(self, algorithm: str) -> LocalPhase:
        settings: LocalPhase = getattr(self, algorithm)
        return settings
