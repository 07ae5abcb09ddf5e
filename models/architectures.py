"""The packaged models. None has buffers: batch statistics would tell one device's data and not average well."""

from torch import nn  # noqa: TID251 - models is torch's room


def watch_net() -> nn.Module:
    """Motion windows (N, 6, 200) to 7 logits; 3,703 parameters. Strides keep a step near a millisecond.

    Each window's channels are centred and scaled by their own deviation, with a floor for channels at rest: how
    the watch sits on the wrist and how briskly its wearer moves differ more between people than exercises do.
    """
    return nn.Sequential(
        nn.InstanceNorm1d(6, eps=0.01),  # no parameters and no running statistics
        nn.Conv1d(6, 16, kernel_size=9, stride=4),  # 0.2 s of motion
        nn.ReLU(),
        nn.Conv1d(16, 32, kernel_size=5, stride=2),  # 0.5 s
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),  # an exercise is the same wherever in the window it begins
        nn.Flatten(),
        nn.Linear(32, 7),
    )


def digits_net() -> nn.Module:
    """Images (N, 8, 8) to 10 logits; 2,410 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
