"""Holding: pruned weights stay exactly zero while a phase trains."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from lottery.pruning import masks as _masks
from lottery.pruning.masks import Masks


class Holding:
    """The masks in force during a phase, and the weights of its network that they hold at zero.

    The network must be on its device already. `across` says that whatever steps reads across weights, to clip a norm
    for one, and must not see gradients of pruned weights. `elsewhere` names weights that sparse layers hold, which have
    no pruned values at all.
    """

    def __init__(self, net: nn.Module, masks: Masks, across: bool, elsewhere: Collection[str] = ()) -> None:
        self.weights: dict[str, Tensor] = dict(net.named_parameters())
        self._elsewhere, self._across = frozenset(elsewhere), across
        self.hold(masks)

    def hold(self, masks: Masks) -> None:
        """Replaces the masks in force: weights that these prune become zero and stay so, all others train.

        Checkpoints hold no masks: whoever changes them during a phase must save them too, or derive them from the step.
        """
        self.masks = masks
        own = {name: mask for name, mask in masks.items() if name not in self._elsewhere}
        _masks.apply_(self.weights, own)
        pruned = {name: mask for name, mask in own.items() if not mask.all()}
        self._pruned = [self.weights[name] for name in pruned]
        # The masks are floats, because multiplying by booleans takes five times as long.
        self._factors = [mask.to(self.weights[name].device, self.weights[name].dtype) for name, mask in pruned.items()]

    def mask_gradients(self) -> None:
        """Before an optimizer step: sets gradients of pruned weights to zero, if anything reads across weights."""
        if not self._across:
            return
        pairs = zip(self._pruned, self._factors, strict=True)
        if found := [(weight.grad, factor) for weight, factor in pairs if weight.grad is not None]:
            torch._foreach_mul_([gradient for gradient, _ in found], [factor for _, factor in found])

    def kept_gradients(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """The gradients of some parameters, with zeros for pruned weights; left out where there is none."""
        factors = {id(weight): factor for weight, factor in zip(self._pruned, self._factors, strict=True)}
        found = ((id(parameter), parameter.grad) for parameter in parameters)
        return [grad * factors[key] if key in factors else grad for key, grad in found if grad is not None]

    def mask_weights(self) -> None:
        """After an optimizer step: sets pruned weights to zero again, all layers in one call."""
        if self._pruned:
            with torch.no_grad():
                torch._foreach_mul_(self._pruned, self._factors)
