"""FLOPs of training, counted: dense, and in proportion to what each layer keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lottery.masks import Masks, layer_densities
from lottery.modules import Module


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, a multiplication and an addition counting as two."""

    dense: float = 0.0
    """of the network as it is computed, zeros included"""
    scaled: float = 0.0
    """those of each prunable layer times its density: what hardware that skips zeros would need"""

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.dense + other.dense, self.scaled + other.scaled)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.dense * times, self.scaled * times)


def by_weight(module: Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """FLOPs an example of forward and backward pass, by the name of a layer's weight; "" is the whole network.

    Counted are products and convolutions, as PyTorch's counter does; everything else is little beside them.
    """
    module.train()
    with FlopCounterMode(display=False) as counter:
        module.loss(module(inputs), targets).backward()
    root = f"{type(module).__name__}.net"
    counts = {name: sum(of.values()) / len(inputs) for name, of in counter.get_flop_counts().items()}
    layers = {f"{name.removeprefix(root + '.')}.weight": count for name, count in counts.items() if name != root}
    return {**layers, "": counts["Global"]}


def of_example(counted: Mapping[str, float], masks: Masks) -> Flops:
    """What one training example costs under masks, from the counts of `by_weight`."""
    whole = counted[""]
    saved = sum(counted.get(name, 0.0) * (1 - kept) for name, kept in layer_densities(masks).items())
    return Flops(whole, whole - saved)
