"""Networks without half of their channels: how much faster they run, and what rounds that train them save."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.speed.cells import quietly, resnet20
from experiments.speed.paired import cpu_seconds, median, turns
from experiments.speed.rows import Row, at_least, at_most
from lottery.compress.sizes import sizes
from lottery.models.resnet import resnet
from lottery.models.vision import torchvision_model
from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.channels.masking import left
from lottery.pruning.channels.removal import Kept, half, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.channelwise import channels
from lottery.pruning.contracts import Target
from lottery.pruning.masks import dense, prunable
from lottery.pruning.scopes import layerwise
from lottery.training.costs import Costs

ROUNDS, STEPS, KEEP, TURNS = 10, 10, 0.25 ** (1 / 10), 3


def measure() -> Iterator[Row]:
    net = torchvision_model("resnet18", [3, 224, 224], 1000).eval()
    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found: list[nn.Module] = []
    took = [cpu_seconds(lambda: found.append(halved(net, example))) for _ in range(3)]
    yield at_most("ResNet-18 at 224: finding, removing and proving half of the channels, seconds", took, 2, ".1f")
    took = [cpu_seconds(lambda: halved(net, example, of="flops")) for _ in range(3)]
    yield at_most("the same where half of the multiply-adds are asked for, and the channels searched", took, 2, ".1f")
    small, batch = found[-1], example.repeat(4, 1, 1, 1)
    ratios = turns(partial(forward, net, batch), partial(forward, small, batch), 10)
    yield at_least("ResNet-18 at 224, batch 8: dense over half of the channels", ratios, 2.67, ".2f")
    theory = sizes(small, example).speedup(sizes(net, example))
    what = f"the same over its theoretical speedup, {theory:.2f}"
    yield at_least(what, [ratio / theory for ratio in ratios], 0.8, ".2f")


def halved(net: nn.Module, example: Tensor, of: str = "") -> nn.Module:
    """The network without every second channel, or with those that magnitudes leave at half of a budget."""
    groups = coupled(net, lambda net: net(example))
    kept = chosen(net, example, groups, of) if of else half(groups.groups)
    return without(net, groups, kept, dense(prunable(net)), lambda net: net(example)).eval()


def chosen(net: nn.Module, example: Tensor, groups: Coupling, budget: str) -> Kept:
    scores, masks = {name: weight.detach().abs() for name, weight in prunable(net).items()}, dense(prunable(net))
    costs = Costs(net, groups, [(lambda net: net(example), len(example))])
    target = Target(0.5, 0.5, channels=lambda: groups, cost=costs.of)
    return left(groups, channels(layerwise, scores, masks, target, budget=budget))


def forward(net: nn.Module, batch: Tensor) -> float:
    """CPU seconds of a pass."""
    with torch.inference_mode():
        return cpu_seconds(lambda: net(batch))


def measure_steps() -> Iterator[Row]:
    """What rounds to a quarter of the weights can save at the most: their steps alone, over those of dense rounds."""
    inputs, targets = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(128).long()
    for multiple in (1, 8):
        nets = [net.train() for net in smaller_and_smaller(multiple)]
        ratios = []
        for _ in range(TURNS):
            dense, took = 0.0, 0.0
            for net in nets:  # a dense step beside each
                dense += step(nets[0], inputs, targets)
                took += step(net, inputs, targets)
            ratios.append(took / dense)
        numbers = "" if multiple == 1 else f", structure.multiple={multiple}"
        share = sum(map(Tensor.numel, nets[-1].parameters())) / sum(map(Tensor.numel, nets[0].parameters()))
        what = f"ResNet-20: a step in each of {ROUNDS + 1} such rounds{numbers}, without channels over dense"
        yield Row(f"{what}; the last one has {share:.0%} of the parameters", median(ratios, ".2f"))


def smaller_and_smaller(multiple: int) -> list[nn.Module]:
    """The networks that rounds of magnitude pruning train, as they are made: training does not change their sizes."""
    net = resnet(20, 1, [3, 32, 32], 10)
    groups = coupled(net, lambda net: net(torch.zeros(2, 3, 32, 32)))
    scores, masks = {name: weight.detach().abs() for name, weight in prunable(net).items()}, dense(prunable(net))
    nets = [net]
    for index in range(1, ROUNDS + 1):
        target = Target(KEEP**index, KEEP, channels=lambda: groups)
        masks = channels(layerwise, scores, masks, target, multiple=multiple)
        nets.append(shrunk(net, structure(groups, left(groups, masks))))
    return nets


def step(net: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """CPU seconds of a forward and a backward pass."""
    return cpu_seconds(lambda: cross_entropy(net(inputs), targets).backward())


def measure_chains() -> Iterator[Row]:
    """Rounds of channels to a quarter of the weights, smaller in training or masked."""
    with TemporaryDirectory() as name:
        numbers = count()
        more = [
            "structure=channels",
            "scope=layerwise",
            f"schedule.rounds={ROUNDS}",
            f"schedule.keep={KEEP}",
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
