"""Whether two networks hold the same weights, by the sum of each parameter: it takes no memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def sums(module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Tensor:
    """The sum of each parameter, without what is masked: another network has others.

    In double precision, so that the last bit of a weight counts.
    """
    found = []
    for name, parameter in module.named_parameters():
        weight = parameter.detach()
        if masks and name in masks:
            weight = weight * masks[name].to(weight.device)
        found.append((torch.view_as_real(weight) if weight.is_complex() else weight).sum(dtype=torch.float64))
    return torch.stack(found).cpu()


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether sums are the same to the last bit; those that are not numbers are."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
