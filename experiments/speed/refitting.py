"""How long survivors take to be refitted: least squares on a VGG-16 without half of its channels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.speed.paired import cpu_seconds
from experiments.speed.rows import Row, at_most
from lottery.foundations.seeds import seeded
from lottery.models.vgg import vgg
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.masking import masks
from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.compensation.regression import least_squares
from lottery.pruning.masks import dense, prunable

BATCHES, SIZE = 16, 128


def measure() -> Iterator[Row]:
    """On one thread; the goal is 60 seconds of two cores, if both are kept busy, as the large products do."""
    pruned = halved(drawn())
    took = [cpu_seconds(lambda: least_squares(pruned, BATCHES)) for _ in range(1)]
    what = f"VGG-16 at 32x32 without half of its channels, {BATCHES * SIZE:,} images: `least_squares`, CPU seconds"
    yield at_most(what, took, 120, ".0f")


def drawn() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A network at initialisation, and batches of noise: time does not depend on values."""
    with seeded(0):
        net = vgg(16, [3, 32, 32], 10).eval()
        return net, [(torch.randn(SIZE, 3, 32, 32), torch.zeros(SIZE).long()) for _ in range(BATCHES)]


def halved(given: tuple[nn.Module, list[tuple[Tensor, Tensor]]]) -> Pruned:
    """Every second channel is to go."""
    net, batches = given
    found = coupled(net, lambda net: net(batches[0][0][:2]))
    kept = {group.name: list(range(0, group.size, 2)) for group in found.groups}
    return Pruned(net, masks(found, kept, dense(prunable(net))), batches, lambda net, batch: net(batch[0]))
