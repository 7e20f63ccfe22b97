"""Networks without half of their channels: how much faster they run, and what rounds that train them save."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from experiments.speed.cells import quietly, resnet20
from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row, at_least, at_most
from lottery.compress.sizes import sizes
from lottery.models.vision import torchvision_model
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.masks import dense, prunable

ROUNDS, STEPS = 10, 10


def measure() -> Iterator[Row]:
    net = torchvision_model("resnet18", [3, 224, 224], 1000).eval()
    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found: list[nn.Module] = []
    took = [cpu_seconds(lambda: found.append(halved(net, example))) for _ in range(3)]
    yield at_most("ResNet-18 at 224: finding, removing and proving half of the channels, seconds", took, 2, ".1f")
    small, batch = found[-1], example.repeat(4, 1, 1, 1)
    ratios = turns(partial(forward, net, batch), partial(forward, small, batch), 10)
    yield at_least("ResNet-18 at 224, batch 8: dense over half of the channels", ratios, 2.67, ".2f")
    theory = sizes(small, example).speedup(sizes(net, example))
    what = f"the same over its theoretical speedup, {theory:.2f}"
    yield at_least(what, [ratio / theory for ratio in ratios], 0.8, ".2f")
    yield from chains()


def halved(net: nn.Module, example: Tensor) -> nn.Module:
    """The network without every second channel."""
    groups = coupled(net, lambda net: net(example))
    kept = {group.name: list(range(0, group.size, 2)) for group in groups.groups}
    return without(net, groups, kept, dense(prunable(net)), lambda net: net(example)).eval()


def forward(net: nn.Module, batch: Tensor) -> float:
    """CPU seconds of a pass."""
    with torch.inference_mode():
        return cpu_seconds(lambda: net(batch))


def chains() -> Iterator[Row]:
    """Rounds of channels to a quarter of the weights, smaller in training or masked."""
    with TemporaryDirectory() as name:
        numbers = count()
        more = [
            "structure=channels",
            "scope=layerwise",
            f"schedule.rounds={ROUNDS}",
            f"schedule.keep={0.25 ** (1 / ROUNDS)}",
            f"budget.steps={STEPS}",
            f"budget.evaluate={STEPS}it",
            "tracking.mode=disabled",
        ]

        def chain(shrink: str) -> float:
            job = resnet20(Path(name) / str(next(numbers)), *more, f"numerics.shrink={shrink}")
            return cpu_seconds(lambda: quietly(job))

        ratios = turns(lambda: chain("auto"), lambda: chain("off"), 3, warmups=0)
        what = f"ResNet-20: {ROUNDS} rounds of {STEPS} steps to a quarter of the weights, numerics.shrink=auto over off"
        yield at_most(what, ratios, 0.6, ".2f")
