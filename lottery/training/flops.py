"""FLOPs of training, counted: dense, and in proportion to what each layer keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lottery.pruning.calls import given
from lottery.pruning.masks import LAYERS, Masks, layer_densities
from lottery.pruning.prunable import Prunable


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, a multiplication and an addition counting as two."""

    dense: float = 0.0
    """operations of the network as it is computed, zeros included"""
    scaled: float = 0.0
    """the same with each prunable layer times its density: what hardware that skips zeros would need"""

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.dense + other.dense, self.scaled + other.scaled)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.dense * times, self.scaled * times)


def by_weight(net: nn.Module, step: Callable[[], object], prunable: Prunable, examples: int = 1) -> dict[str, float]:
    """FLOPs per example of a forward and a backward pass, `step`, by name of a prunable weight; "" is all of them.

    Layers are in the order in which the forward pass last calls them, after those that it does not call.

    Matrix products and convolutions are counted; everything else is small beside them. PyTorch's counter is used for
    products only: it counts the backward pass of grouped convolutions as if they were not grouped, and attributes the
    FLOPs of parallel branches, such as a shortcut's, to both. A layer that is called through a function, as the output
    of attention is, counts for the network but under no name, so it costs the same at every density; a convolution
    called that way is not counted. Weights of a recurrent layer, or of a user's own class, count for the network only
    as well. Looking up an embedding costs nothing.
    """
    names = {id(weight): name for name, weight in prunable(net).items()}
    counts: dict[str, float] = {}
    convolutions = 0.0

    def count(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        nonlocal convolutions
        weight, inputs = cast(Tensor, layer.weight), given(args, kwargs)
        places = inputs if getattr(layer, "transposed", False) else output
        passes = 1 + weight.requires_grad + inputs.requires_grad  # forward, and one for each gradient that is needed
        flops = 2 * places.numel() * weight[0].numel() * passes / examples
        if (name := names.get(id(weight))) is not None:  # a parametrized layer computes its weight anew
            counts[name] = counts.pop(name, 0.0) + flops
        convolutions += flops if isinstance(layer, nn.modules.conv._ConvNd) else 0.0

    layers = [layer for layer in net.modules() if isinstance(layer, LAYERS)]
    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in layers]
    with FlopCounterMode(display=False) as counter:
        step()
    for hook in hooks:
        hook.remove()
    products = {str(name): count for name, count in counter.get_flop_counts().get("Global", {}).items()}
    others = sum(count for name, count in products.items() if "convolution" not in name)
    uncalled = dict.fromkeys((name for name in names.values() if name not in counts), 0.0)
    return {**uncalled, **counts, "": others / examples + convolutions}


def of_example(counted: Mapping[str, float], masks: Masks) -> Flops:
    """FLOPs of one training example under masks, from the counts of `by_weight`."""
    return at_densities(counted, layer_densities(masks))


def at_densities(counted: Mapping[str, float], densities: Mapping[str, float]) -> Flops:
    """The same with layers at these densities, all others dense."""
    whole = counted[""]
    saved = sum(counted.get(name, 0.0) * (1 - kept) for name, kept in densities.items())
    return Flops(whole, whole - saved)


def of_call(call: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def with_dense_gradients(step: Flops) -> Flops:
    """A step that also computes the gradients of pruned weights: one of its three products is then dense (RigL).

    A first layer has two products only, for which this is a little low.
    """
    return Flops(step.dense, (2 * step.scaled + step.dense) / 3)
