"""The packaged models. None has buffers: batch statistics would tell one device's data and not average well."""

import torch  # noqa: TID251 - models is torch's room
from torch import Tensor, nn  # noqa: TID251 - models is torch's room
from torch.nn import functional  # noqa: TID251 - models is torch's room

from models.datasets import KEYBOARD_CONTEXT, KEYBOARD_WORDS


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


class Standardize(nn.Module):
    """What the pictures' mean and deviation are all over the world, so that no device has to tell its own."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean, self._deviation = mean, deviation

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self._mean) / self._deviation


def fashion_net() -> nn.Module:
    """Images (N, 1, 28, 28) to 10 logits; 804,746 parameters, most of them in one matrix of 768 x 1,024.

    Group normalisation needs no batch statistics (Wu and He 2018, arXiv:1803.08494) and is what a swarm of slow devices wants most:
    with minibatches of 1,200, steps 25 / 50 / 100 are at .78 / .83 / .86 with it, and at .21 / .29 / .75 without (SGD .1,
    momentum .9, centrally). Pooling before the second convolution halves a step's cost, and costs no accuracy.
    """
    return nn.Sequential(
        Standardize(0.286, 0.353),
        nn.Conv2d(1, 16, kernel_size=5, stride=2),
        nn.MaxPool2d(2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 64, kernel_size=3),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 768),
        nn.ReLU(),
        nn.Linear(768, 10),
    )


class KeyboardNet(nn.Module):
    """Four words before, (N, 4) ids as floats, to logits over all words; 219,184 parameters.

    What a word means as context and how it is proposed share one matrix (Press and Wolf 2017, arXiv:1608.05859).
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(KEYBOARD_WORDS, 48)
        self.hidden = nn.Linear(48 * KEYBOARD_CONTEXT, 96)
        self.proposal = nn.Linear(96, 48)
        self.frequency = nn.Parameter(torch.zeros(KEYBOARD_WORDS))

    def forward(self, words: Tensor) -> Tensor:
        context = self.embedding(words.long()).flatten(1)
        proposal = self.proposal(functional.relu(self.hidden(context)))
        return functional.linear(proposal, self.embedding.weight, self.frequency)
