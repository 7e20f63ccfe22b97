"""Criteria that ask for gradients of the loss."""

from __future__ import annotations

from itertools import islice

import torch

from lottery.pruning.contracts import Evidence, Scores


def snip(evidence: Evidence, batches: int = 1) -> Scores:
    """|gradient x weight|, the first-order change of the loss if the weight goes (SNIP, Lee et al. 2019).

    The gradient is that of the mean loss over the first `batches` batches of training data; frozen weights are scored
    like all others. Raises ValueError for fewer than one batch.
    """
    if batches < 1:
        raise ValueError(f"batches={batches}: SNIP reads at least 1 batch")
    weights = evidence.weights
    used = list(islice(evidence.batches, batches))
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    loss = torch.stack([evidence.loss(evidence.net(inputs), targets) for inputs, targets in used]).mean()
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    for weight in frozen:
        weight.requires_grad_(False)
    return {name: (w * g).detach().abs() for (name, w), g in zip(weights.items(), gradients, strict=True)}
