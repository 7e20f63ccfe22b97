"""Contracts: what a criterion, a scope and a schedule are given, and what they must give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lottery.pruning.masks import Masks

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

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that have a mask, as the network holds them."""
        return {name: weight for name, weight in self.net.named_parameters() if name in self.masks}


Criterion = Callable[[Evidence], Scores]


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


@dataclass(frozen=True)
class Target:
    """What one round is asked to keep; new fields never break old scopes."""

    density: float
    """kept share of all prunable weights after this round, in [0, 1]"""
    keep: float
    """kept share of the weights alive now, in [0, 1]: a paper's 1 - p"""
    output: str | None = None
    """name of the output layer's weight, which has no mask where `prune.exclude` leaves it whole; None where no network
    has been asked: the last of the masks then"""

    def of_dense(self) -> Target:
        """The same density, of a network in which all weights are alive."""
        return replace(self, keep=self.density)


Scope = Callable[[Scores, Masks, Target], Masks]


def choose(scope: Scope, scores: Scores, masks: Masks, target: Target) -> Masks:
    """The scope's masks, checked against its contract. Raises ValueError if a pruned weight would come back."""
    # a scope may work in place on its copy: the masks before are still needed, to compare with and by later rounds
    chosen = checked(scope(scores, {name: mask.clone() for name, mask in masks.items()}, target), like=masks)
    for name, mask in chosen.items():
        if (mask > masks[name]).any():  # True > False; `mask & ~masks[name]` would take twice the memory
            raise ValueError(f"a pruned weight of {name} comes back")
    return chosen


def checked(masks: Masks, like: Masks) -> Masks:
    """The masks, if they are boolean and have the layers and shapes of others. Raises ValueError if not."""
    if missing := sorted(masks.keys() ^ like.keys()):
        raise ValueError(f"masks before and after differ in {', '.join(missing)}")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != like[name].shape:
            found, wanted = f"{mask.dtype} of shape {tuple(mask.shape)}", tuple(like[name].shape)
            raise ValueError(f"the mask of {name} is {found}, not boolean of {wanted}")
    return masks


Schedule = tuple[Target, ...]
"""One target a pruned round; round 0, the dense one, has none."""


def checked_schedule(schedule: object) -> Schedule:
    """A schedule, if it is one target a round and no round asks for more than the one before. Raises ValueError if not.

    >>> checked_schedule([Target(0.5, 0.5), Target(0.25, 0.5)])
    (Target(density=0.5, keep=0.5), Target(density=0.25, keep=0.5))
    """
    if not isinstance(schedule, Iterable):
        raise ValueError(f"must be a sequence of targets, one a round, not a {type(schedule).__name__}")
    targets, before = tuple(schedule), 1.0
    for number, target in enumerate(targets, start=1):
        if not isinstance(target, Target):
            raise ValueError(f"round {number} is {target!r}, no lottery.pruning.contracts.Target")
        for name, share in (("density", target.density), ("keep", target.keep)):
            if not isinstance(share, int | float) or not 0 < share <= 1:
                raise ValueError(f"round {number} has {name}={share!r}; must lie in (0, 1]")
        if target.density > before:
            raise ValueError(f"round {number} has density={target.density:g}, more than {before:g} of the round before")
        before = target.density
    return targets
