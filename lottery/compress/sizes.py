"""Sizes of a network: parameters and multiply-adds as Blalock et al. 2020 count them, bytes on disk and in memory."""

from __future__ import annotations

import copy
import gzip
from dataclasses import dataclass

from torch import nn

from lottery.compress.contents import Example, batch_of, eight_bits, kept_values, shape_of
from lottery.compress.memory import peak_bytes
from lottery.pruning.prunable import Prunable
from lottery.training.flops import at_densities, by_weight
from lottery.training.state_files import content, state_once


@dataclass(frozen=True)
class Sizes:
    """What a network costs where it is stored and run."""

    parameters: int
    """all of them, biases and normalisation too, zero or not; a shared one once"""
    nonzeros: int
    """parameters that are not zero, counted in the tensors: a kept weight or a bias that is zero is not one"""
    multiply_adds: int
    """of a forward pass of one example, zeros included: convolutions and matrix products, without biases"""
    kept_multiply_adds: int
    """the same with each linear and convolutional layer times the share of its weights that are not zero"""
    bytes: int
    """of a safetensors file with weights and buffers, zeros included: what a mask alone saves is nothing"""
    masked_bytes: int
    """of one with the values alone of prunable weights that are not zero, and where they are at one bit a weight"""
    gzip_bytes: int
    """of that file after gzip"""
    int8_bytes: int
    """of one with each linear and convolutional weight in a byte, zeros included, and a 32-bit scale for each output"""
    batch: int
    """examples in the forward pass whose memory is given"""
    peak_bytes: int | None
    """the most that weights, buffers, inputs, activations and kernels' workspace take at once; None if not on a CPU"""

    def compression(self, dense: Sizes | None = None) -> float:
        """Parameters of the dense network over nonzeros of this one (Blalock et al. 2020).

        `dense` is the network that this one was made of; without it, this one with all its weights.
        """
        return _ratio((dense or self).parameters, self.nonzeros, "nonzero parameter")

    def speedup(self, dense: Sizes | None = None) -> float:
        """Multiply-adds of the dense network over those kept in this one: theoretical (Blalock et al. 2020)."""
        return _ratio((dense or self).multiply_adds, self.kept_multiply_adds, "multiply-add")


def sizes(net: nn.Module, example: Example) -> Sizes:
    """Counts a network, in evaluation mode, as it runs on a batch; the network stays as it is.

    What is pruned is what is zero, counted in the tensors. Multiply-adds are those of `lottery.training.flops`: linear
    and convolutional layers, and other matrix products, such as those of attention, which cost the same at every
    density; as do weights of recurrent layers and of classes of one's own. A convolution that is called as a function
    is not counted. Normalisation, activations and pooling are small beside them.
    Raises ValueError for a batch that the network can't take.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 2, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2))
    >>> half = sizes(net, torch.zeros(1, 4))
    >>> half.parameters, half.nonzeros, half.multiply_adds, half.kept_multiply_adds, half.speedup()
    (8, 4, 8, 4, 2.0)
    """
    batch = batch_of(example)
    twin = copy.deepcopy(net).eval().requires_grad_(False)  # so that a forward pass alone is counted
    tensors = state_once(twin)
    try:
        counted = by_weight(twin, lambda: twin(*batch), Prunable(), len(batch[0]))
        peak = peak_bytes(twin, *batch)
    except Exception as error:
        raise ValueError(f"example: the network fails on a batch of shape {shape_of(batch)}: {error}") from error
    nonzeros = {name: int(weight.count_nonzero()) for name, weight in twin.named_parameters()}
    prunable = Prunable()(twin)
    densities = {name: nonzeros[name] / max(1, weight.numel()) for name, weight in prunable.items()}
    flops = at_densities(counted, densities)
    pruned = {name: weight != 0 for name, weight in prunable.items() if nonzeros[name] < weight.numel()}
    compact = content(kept_values(tensors, pruned))
    return Sizes(
        parameters=sum(weight.numel() for weight in twin.parameters()),
        nonzeros=sum(nonzeros.values()),
        multiply_adds=round(flops.dense / 2),
        kept_multiply_adds=round(flops.scaled / 2),
        bytes=len(content(tensors)),
        masked_bytes=len(compact),
        gzip_bytes=len(gzip.compress(compact, mtime=0)),
        int8_bytes=len(content(eight_bits(twin))),
        batch=len(batch[0]),
        peak_bytes=peak,
    )


def _ratio(dense: int, kept: int, what: str) -> float:
    if not kept:
        raise ValueError(f"there is no {what} left, so that nothing can be divided by it")
    return dense / kept
