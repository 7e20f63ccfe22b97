"""Units, the outputs of a layer (neurons, filters): their weights as rows, and a score for each as one of its weights.

A unit's score stands at each of its unpruned weights, and 0 where one is pruned. Pools that are a mean or a maximum
over unpruned weights (`structure.pool=mean` and `max`) give it back; `sum`, `norm` and `first` also count how many
there are. Outputs are the first dimension of a weight; of a transposed convolution the second, group by group.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lottery.pruning.calls import holders
from lottery.pruning.contracts import Evidence, Scores


def rows(tensors: Mapping[str, Tensor], evidence: Evidence) -> dict[str, Tensor]:
    """Weights or masks as matrices, (units, weights of a unit)."""
    groups = _groups(evidence)
    return {name: _rows(tensor.detach(), groups[name]) for name, tensor in tensors.items()}


def spread(units: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """Scores of units, by weight, as those of their unpruned weights."""
    groups, found = _groups(evidence), {}
    for name, weight in evidence.weights.items():
        scores, mask = units[name].to(weight.dtype), evidence.masks[name]
        if count := groups[name]:
            each = scores.view(count, 1, -1).expand(-1, len(mask) // count, -1).reshape(len(mask), -1)
        else:
            each = scores
        found[name] = each.view(*each.shape, *[1] * (mask.ndim - each.ndim)) * mask
    return found


def _rows(weight: Tensor, groups: int) -> Tensor:
    if not groups:
        return weight.reshape(len(weight), -1)
    inputs, outputs = len(weight) // groups, weight.shape[1]
    return weight.reshape(groups, inputs, outputs, -1).transpose(1, 2).reshape(groups * outputs, -1)


def _groups(evidence: Evidence) -> dict[str, int]:
    """The groups of a weight that is a transposed convolution's; 0 for all others."""
    return {
        name: layer.groups if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        for name, layer in holders(evidence.net, evidence.masks)
    }
