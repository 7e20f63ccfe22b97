"""Shared by the tests of channels: networks with other parameters than initial ones, and half of their channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.masks import Masks, apply_, dense, prunable


def mlp() -> nn.Module:
    """4 -> 4 -> 3 -> 2, whose rows have lengths that can be read."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for layer, lengths in ((net[0], [1.0, 4.0, 3.0, 2.0]), (net[2], [9.0, 7.0, 8.0])):
            layer.weight.copy_(torch.tensor(lengths)[:, None].expand_as(layer.weight))
    return net


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with other biases and parameters of normalisation; initial zeros would prove nothing."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if tensor.is_floating_point() and (tensor.numel() == max(tensor.shape, default=1) or not tensor.any()):
                values = torch.rand(tensor.shape, generator=rng).to(tensor)
                tensor.copy_(values + 0.5 if "var" in name or tensor.mean() == 1 else values - 0.5)
    return net


def halves(net: nn.Module, coupling: Coupling) -> dict[str, list[int]]:
    """Of each group the half of the channels whose weights have the larger absolute values."""
    weights = {name: weight.detach().abs() for name, weight in net.named_parameters() if weight.ndim > 1}
    kept = {}
    for group in coupling.groups:
        scores = torch.zeros(group.size)
        for member in group.members:
            if member.name in weights:
                sums = weights[member.name].movedim(member.axis, 0).flatten(1).sum(1)
                scores += sums[member.positions].sum(1)
        kept[group.name] = sorted(scores.argsort(descending=True)[: max(1, group.size // 2)].tolist())
    return kept


def masks_of(net: nn.Module) -> Masks:
    return dense(prunable(net))


def forward(inputs: Tensor) -> Callable[[nn.Module], Any]:
    """A run of the network on inputs that does not depend on it."""
    return lambda net: net(inputs)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def halved(net: nn.Module, run: Callable[[nn.Module], Any]) -> nn.Module:
    """The network with half of the channels, after the check that it is the masked one."""
    coupling = coupled(net, run)
    return without(net, coupling, halves(net, coupling), masks_of(net), run)


class UNet(nn.Module):
    """Two levels, transposed convolutions and concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = _double(1, width), _double(width, 2 * width)
        self.middle = _double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = _double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1, self.output = _double(2 * width, width), nn.Conv2d(width, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        one = self.down1(images)
        two = self.down2(functional.max_pool2d(one, 2))
        up = self.join2(torch.cat([self.up2(self.middle(functional.max_pool2d(two, 2))), two], 1))
        return self.output(self.join1(torch.cat([self.up1(up), one], 1)))


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def masked(net: nn.Module, masks: Masks) -> nn.Module:
    """A copy in evaluation mode whose pruned weights are zero."""
    twin = copy.deepcopy(net).eval()
    apply_(dict(twin.named_parameters()), masks)
    return twin
