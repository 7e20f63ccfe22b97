"""Criteria: how much each weight matters. A criterion is a function of the evidence; higher scores are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from lottery import masks as _masks
from lottery.masks import Masks

Scores = dict[str, Tensor]
"""Float tensors with the names and shapes of the masks; finite, higher is kept."""


@dataclass(frozen=True)
class Evidence:
    """All that a criterion may look at; new fields never break old criteria."""

    net: nn.Module
    """trained and masked, in evaluation mode; a criterion leaves its weights as they are"""
    start: Mapping[str, Tensor]
    """weights and buffers at the rewinding point"""
    masks: Masks
    batches: Iterable[tuple[Tensor, Tensor]]
    """training data as (inputs, targets), drawn lazily; each iteration gives the same batches again"""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs of net, targets) -> mean loss"""
    rng: torch.Generator


Criterion = Callable[[Evidence], Scores]


def magnitude(evidence: Evidence) -> Scores:
    """Absolute value of the trained weight (Han et al. 2015; Frankle & Carbin 2019)."""
    return {name: weight.detach().abs() for name, weight in _weights(evidence).items()}


def random(evidence: Evidence) -> Scores:
    """Uniform noise: the baseline that every criterion must beat (Blalock et al. 2020)."""
    return {name: torch.rand(mask.shape, generator=evidence.rng) for name, mask in evidence.masks.items()}


def snip(evidence: Evidence, batches: int = 1) -> Scores:
    """|gradient x weight|, the first-order change of the loss if the weight goes (SNIP, Lee et al. 2019).

    The gradient is that of the mean loss over the first `batches` batches of training data; frozen weights are scored
    like all others. Raises ValueError for fewer than one batch.
    """
    if batches < 1:
        raise ValueError(f"batches={batches}: SNIP reads at least 1 batch")
    weights = _weights(evidence)
    used = list(islice(evidence.batches, batches))
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    loss = torch.stack([evidence.loss(evidence.net(inputs), targets) for inputs, targets in used]).mean()
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    for weight in frozen:
        weight.requires_grad_(False)
    return {name: (w * g).detach().abs() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def score(criterion: Criterion, evidence: Evidence) -> Scores:
    """The criterion's scores on the CPU, checked against its contract.

    Raises ValueError if a layer is missing, has another shape or holds a score that is no finite float.
    """
    scores = {name: values.to("cpu") for name, values in criterion(evidence).items()}
    who = getattr(criterion, "__name__", None) or getattr(getattr(criterion, "func", None), "__name__", "criterion")
    if missing := sorted(evidence.masks.keys() ^ scores.keys()):
        raise ValueError(f"criterion {who}: scores and masks differ in {', '.join(missing)}")
    for name, values in scores.items():
        if values.shape != evidence.masks[name].shape:
            raise ValueError(
                f"criterion {who}: scores of {name} have shape {tuple(values.shape)}, "
                f"its mask {tuple(evidence.masks[name].shape)}"
            )
        if not values.is_floating_point():
            raise ValueError(f"criterion {who}: scores of {name} are {values.dtype}, not floats")
        if not values.isfinite().all():
            raise ValueError(f"criterion {who}: a score of {name} is not finite")
    return scores


def _weights(evidence: Evidence) -> dict[str, Tensor]:
    return {name: weight for name, weight in _masks.prunable(evidence.net).items() if name in evidence.masks}
