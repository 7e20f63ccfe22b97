"""The contract of compensations: what they look at, and checks of what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from torch import Tensor, nn

from lottery.pruning.contracts import Batch
from lottery.pruning.masks import Masks, apply_


@dataclass(frozen=True)
class Pruned:
    """The input of a compensation: a trained network, and the masks that it is about to be put under."""

    net: nn.Module
    """in evaluation mode, with its weights as they were before pruning; a compensation must not change them"""
    masks: Masks
    """what is kept of each prunable weight"""
    batches: Iterable[Batch]
    """training batches to calibrate on; every iteration yields the same ones"""
    outputs: Callable[[nn.Module, Batch], Any]
    """runs a network on a batch"""

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights of which something is pruned, by name, as they were before."""
        named = dict(self.net.named_parameters())
        return {name: named[name].detach() for name, mask in self.masks.items() if not mask.all()}

    @cached_property
    def frozen(self) -> set[str]:
        """Names of the parameters that are not trained, all names of a shared one: they keep their values."""
        named = self.net.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def first(self, batches: int) -> Iterator[Batch]:
        """The first `batches` batches, or all if there are fewer. Raises ValueError for fewer than one."""
        if batches < 1:
            raise ValueError(f"compensation.batches={batches}: must be at least 1")
        return islice(self.batches, batches)

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and buffers under the masks, without compensation; the names of a shared weight share it here too."""
        tensors = self.net.state_dict(keep_vars=True)
        copies = {id(tensor): tensor.detach().clone() for tensor in tensors.values()}
        state = {name: copies[id(tensor)] for name, tensor in tensors.items()}
        apply_(state, self.masks)
        return state


Compensation = Callable[[Pruned], Mapping[str, Tensor]]
"""New values of parameters and buffers by name; what is not named stays as it is under the masks."""


def compensated(compensation: Compensation, pruned: Pruned) -> dict[str, Tensor]:
    """The state of the pruned network with survivors that make up for what is gone.

    Pruned weights are exactly zero, and frozen ones keep their values. Raises ValueError for names or shapes that the
    network does not have, and for values that are not finite.
    """
    state = pruned.state
    for name, value in compensation(pruned).items():
        if name not in state or value.shape != state[name].shape:
            known = f"it has shape {tuple(state[name].shape)}" if name in state else "the network has no such tensor"
            raise ValueError(f"compensation gives {name} of shape {tuple(value.shape)}; {known}")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"compensation gives {name} values that are not finite")
        if name not in pruned.frozen:
            state[name].copy_(value.detach())
    apply_(state, pruned.masks)
    return {name: tensor.clone() for name, tensor in state.items()}
