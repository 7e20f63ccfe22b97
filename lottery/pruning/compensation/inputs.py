"""What the weights of linear layers and convolutions multiply: their inputs as rows of a matrix.

With its weight as a matrix W (outputs by inputs and positions of the kernel) such a layer computes W x for each row x,
so that its pruning is a regression on x (He et al. 2017; Hubara et al. 2021; Frantar & Alistarh 2023).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.pruning.calls import Call, holders, watched
from lottery.pruning.compensation.contracts import Pruned

PLACES = 16
"""the most positions of a convolution's output that an example contributes, evenly spaced over it"""


def layers(pruned: Pruned) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers with pruned weights that can be compensated, by their weight's name.

    A weight that several layers share is left out, since no change of it serves them all.
    """
    found: dict[str, list[nn.Module]] = {}
    for name, layer in holders(pruned.net, pruned.weights):
        found.setdefault(name, []).append(layer)
    return {
        name: layer
        for name, (layer, *others) in found.items()
        if not others and isinstance(layer, nn.Linear | nn.Conv2d) and pruned.weights[name].ndim > 1
    }


def matrix(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Tensor:
    """A weight, or its mask, as (groups, outputs of a group, inputs of a group x positions of the kernel)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def rows(pruned: Pruned, batches: int, places: int = PLACES) -> Iterator[dict[str, Tensor]]:
    """For each of the first batches, what each layer's weight multiplies, by its name: (groups, rows, columns).

    The columns are those of `matrix`. A row is an example at a position of the output; borders that are padded are
    zeros, as the convolution sees them.
    """
    chosen = layers(pruned)
    for batch in pruned.first(batches):
        with watched(pruned.net, chosen, lambda call: _rows(call, places)) as seen, torch.no_grad():
            pruned.outputs(pruned.net, batch)
        yield {name: torch.cat(calls, 1) for name, calls in seen.items() if calls}


def _rows(call: Call, places: int) -> Tensor:
    layer, given = call.layer, call.given.detach()
    if isinstance(layer, nn.Linear):
        return given.reshape(1, -1, given.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # Conv2d itself pads by this list, whatever form its argument `padding` had
    padded = functional.pad(given if given.ndim == 4 else given[None], layer._reversed_padding_repeated_twice, mode)
    taken = _patches(padded, layer, places)
    grouped = taken.reshape(len(taken), layer.groups, -1, taken.shape[-1])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def _patches(padded: Tensor, layer: nn.Conv2d, places: int) -> Tensor:
    """What the kernel covers at some positions of the output: (examples, channels, kernel, positions).

    They are what `functional.unfold` takes at these positions; at all of them that would be most of the work.
    """
    (across, along), (down, right), (high, wide) = layer.dilation, layer.stride, layer.kernel_size
    rows = (padded.shape[-2] - across * (high - 1) - 1) // down + 1
    columns = (padded.shape[-1] - along * (wide - 1) - 1) // right + 1
    at = torch.arange(rows * columns)
    if len(at) > places:
        # without both ends, which are corners: among few positions they would weigh too much
        at = torch.linspace(0, len(at) - 1, places + 2)[1:-1].round().long()
    row = at // columns * down + torch.arange(high).repeat_interleave(wide)[:, None] * across
    column = at % columns * right + torch.arange(wide).repeat(high)[:, None] * along
    return padded[..., row.to(padded.device), column.to(padded.device)]
