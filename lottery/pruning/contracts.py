"""The contracts of criteria, scopes, structures and schedules: their inputs, and checks of what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from lottery.pruning.calls import Call, watched
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channels.removal import Kept
from lottery.pruning.derivatives import NO_GRADIENT, Times, averaged, gradient, hessian
from lottery.pruning.features import by_unit, followed, gated
from lottery.pruning.masks import Masks
from lottery.pruning.score_checks import checked_scores

Scores = dict[str, Tensor]
"""Finite float tensors with the names and shapes of the masks; the highest scores are kept."""


Batch = Any
"""The argument of a module's loss; for lottery's own modules a pair (inputs, targets)."""


@dataclass(frozen=True)
class Evidence:
    """The input of a criterion; fields may be added without breaking existing criteria."""

    net: nn.Module
    """the trained and masked network in evaluation mode; a criterion must not change its weights"""
    start: Mapping[str, Tensor]
    """weights and buffers at the rewinding point, by name"""
    masks: Masks
    """marks the weights not pruned yet, from which the scope chooses"""
    batches: Iterable[Batch]
    """training batches, drawn lazily; every iteration yields the same ones"""
    outputs: Callable[[Batch], Any]
    """computes the network's outputs; called by `run`"""
    objective: Callable[[Batch], Tensor]
    """computes the mean loss; called by `loss`"""
    rng: torch.Generator
    """the only source of random numbers that a criterion may use"""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights that have a mask, by name."""
        return {name: weight for name, weight in self.net.named_parameters() if name in self.masks}

    def run(self, batch: Batch) -> Any:
        """The network's outputs for a batch."""
        return self.outputs(batch)

    def loss(self, batch: Batch, *old: object) -> Tensor:
        """The mean loss of a batch, a differentiable scalar. Raises TypeError for more arguments than a batch."""
        if old:
            raise TypeError("evidence.loss takes a batch: write evidence.loss(batch), not loss(outputs, targets)")
        return self.objective(batch)

    def first(self, batches: int) -> Iterator[Batch]:
        """The first `batches` training batches, or all if there are fewer. Raises ValueError for fewer than one."""
        if batches < 1:
            raise ValueError(f"batches={batches}: must be at least 1")
        return islice(self.batches, batches)

    def gradients(self, batches: int = 1) -> dict[str, Tensor]:
        """Gradient of the mean loss over the first `batches` batches, by weight, frozen weights included.

        A weight without influence on the loss gets a gradient of zeros. Raises ValueError for fewer than one batch, and
        for a loss that can't be differentiated.
        """
        chosen = self.first(batches)
        return gradient(lambda: torch.stack([self.loss(batch) for batch in chosen]).mean(), self.weights)

    def hessians(self, batches: int = 1) -> Iterator[Times]:
        """For each of the first `batches` batches, the product of its loss's Hessian with a vector, a function.

        The Hessian is that in all weights that have a mask, and a vector has a tensor for each. Only the batch at hand
        has its graph in memory. Raises ValueError as `gradients` does, and for a loss that can't be differentiated
        twice.
        """
        weights = self.weights
        return (hessian(partial(self.loss, batch), weights) for batch in self.first(batches))

    def hessian_times(self, vector: Mapping[str, Tensor], batches: int = 1) -> dict[str, Tensor]:
        """The Hessian of the mean loss over the first `batches` batches, times a vector. Raises as `hessians` does."""

        def product(times: Times) -> dict[str, Tensor]:
            return times(vector)

        return averaged(map(product, self.hessians(batches)))  # map lets go of one graph before it asks for the next

    def watch(self, batch: Batch, see: Callable[[Call], Any]) -> dict[str, list[Any]]:
        """What `see` makes of every call of every layer with a masked weight, by the weight's name, in order."""
        with watched(self.net, self.masks, see) as found, torch.no_grad():
            self.run(batch)
        return found

    def activations(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Outputs of every layer with a masked weight, by the weight's name: one tensor per call, in order."""
        return self.watch(batch, lambda call: call.output)

    def features(self, batch: Batch, see: Callable[[Tensor], Any]) -> dict[str, list[Any]]:
        """What `see` makes of the feature map of each call of linear and convolutional layers, by weight, in order.

        A map is (examples, units, positions): what the layer hands on after its BatchNorm and activation function.
        """
        with (
            followed(self.net, self.masks, lambda found, axis: (see(by_unit(found.detach(), axis)), found)) as chains,
            torch.no_grad(),
        ):
            self.run(batch)
        return {name: [chain.last for chain in calls] for name, calls in chains.items()}

    def feature_changes(self, batch: Batch) -> dict[str, list[tuple[Tensor, int]]]:
        """Activation x gradient of the mean loss, summed over positions: (examples, units), and how many positions.

        One of each call of linear and convolutional layers, by weight, in order, of the maps of `features`. Zero where
        a map has no influence on the loss. Raises ValueError for a loss that can't be differentiated.
        """
        with followed(self.net, self.masks, gated) as chains, torch.enable_grad():
            loss = self.loss(batch)
        gates = {name: [chain.last for chain in calls] for name, calls in chains.items()}
        if not loss.requires_grad:
            raise ValueError(NO_GRADIENT)
        tensors = [gate.tensor for calls in gates.values() for gate in calls]
        slopes = iter(torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True) if tensors else ())
        return {
            name: [(next(slopes).reshape(-1, gate.units), gate.positions) for gate in calls]
            for name, calls in gates.items()
        }


Criterion = Callable[[Evidence], Scores]


class Unscorable(ValueError):
    """The weights, as they are, have no scores, though they may have some once they are trained further."""


def score(criterion: Criterion, evidence: Evidence) -> Scores:
    """The criterion's scores on the CPU, checked against its contract.

    Raises ValueError if a layer is missing, or its scores have the wrong shape or are not finite floats.
    """
    return checked_scores("criterion", criterion, criterion(evidence), evidence.masks)


@dataclass(frozen=True)
class Target:
    """How much one round keeps, as input of a scope; fields may be added without breaking existing scopes."""

    density: float
    """share of all prunable weights kept after this round, in [0, 1]"""
    keep: float
    """share of the currently unpruned weights to keep, in [0, 1]: 1 - p in the papers"""
    output: str | None = None
    """name of the output layer's weight, which has no mask if `prune.exclude` matches it; None if no network was
    available, in which case scopes take the last mask"""
    channels: Callable[[], Coupling] | None = field(default=None, repr=False)
    """finds the network's coupled channels, by running it; None if no network was available"""
    cost: Callable[[str, Kept], int] | None = field(default=None, repr=False)
    """what the network that keeps these channels costs: its `parameters`, `flops` (multiply-adds of an example) or
    `bytes` (of its file); None if no network was available"""

    def of_dense(self) -> Target:
        """The same density for a network in which nothing is pruned yet."""
        return replace(self, keep=self.density)


Scope = Callable[[Scores, Masks, Target], Masks]
"""Keeps the weights that score highest, by a ranking of its own; all that live if more are asked for."""


class KeepsNothing(ValueError):
    """A scope that judges scores by their size keeps none of these; others may be kept after training."""


Structure = Callable[[Scope, Scores, Masks, Target], Masks]
"""Decides which weights are pruned together, and lets a scope choose among such groups."""


def choose(scope: Scope, scores: Scores, masks: Masks, target: Target) -> Masks:
    """The scope's masks, checked against its contract. Raises ValueError if a pruned weight would come back."""
    # scopes get copies because they may work in place; the old masks are compared below and used by later rounds
    chosen = checked(scope(scores, {name: mask.clone() for name, mask in masks.items()}, target), like=masks)
    for name, mask in chosen.items():
        if (mask > masks[name]).any():  # True > False; `mask & ~masks[name]` would take twice the memory
            raise ValueError(f"a pruned weight of {name} comes back")
    return chosen


def checked(masks: Masks, like: Masks) -> Masks:
    """The masks, checked to be boolean with the layers and shapes of `like`. Raises ValueError if they are not."""
    if not isinstance(masks, Mapping) or not all(isinstance(mask, Tensor) for mask in masks.values()):
        raise ValueError(f"must give masks, boolean tensors by the weights' names, not a {type(masks).__name__}")
    if missing := sorted(masks.keys() ^ like.keys()):
        raise ValueError(f"masks before and after differ in {', '.join(missing)}")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != like[name].shape:
            found, wanted = f"{mask.dtype} of shape {tuple(mask.shape)}", tuple(like[name].shape)
            raise ValueError(f"the mask of {name} is {found}, not boolean of {wanted}")
    return masks


Schedule = tuple[Target, ...]
"""One target for each pruned round; round 0 is dense and has none."""


def checked_schedule(schedule: object) -> Schedule:
    """A schedule, checked to be a sequence of targets whose density never rises. Raises ValueError if it is not.

    >>> len(checked_schedule([Target(0.5, 0.5), Target(0.25, 0.5)]))
    2
    """
    if not isinstance(schedule, Iterable):
        raise ValueError(f"must be a sequence of targets, one a round, not a {type(schedule).__name__}")
    targets, before = tuple(schedule), 1.0
    for number, target in enumerate(targets, start=1):
        if not isinstance(target, Target):
            raise ValueError(f"round {number} is {target!r}, no lottery.pruning.contracts.Target")
        for name, share in (("density", target.density), ("keep", target.keep)):
            if not isinstance(share, Real) or not 0 < share <= 1:
                raise ValueError(f"round {number} has {name}={share!r}; must lie in (0, 1]")
        if target.density > before:
            raise ValueError(f"round {number} has density={target.density:g}, more than {before:g} of the round before")
        before = target.density
    return targets
