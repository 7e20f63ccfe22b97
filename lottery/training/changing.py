"""Changing: applies a phase's rule to its masks, network and optimizer while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, Rprop

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, drawing
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks, layer_densities, pack, unpack
from lottery.training.changes import Moment
from lottery.training.holding import Holding
from lottery.training.phase import Changed, Diverged, Phase
from lottery.training.recipes import Recipe

Look = Callable[[Masks, int, torch.Generator], AbstractContextManager[Evidence]]
"""(masks, seed of the order of batches, generator) -> what a rule may look at of the network in training"""


class Changing:
    """Changes the masks of a phase in training, at the steps of its rule."""

    def __init__(
        self, phase: Phase, recipe: Recipe, optimizers: Sequence[Optimizer], holding: Holding, look: Look
    ) -> None:
        self.phase, self.recipe, self.look = phase, recipe, look
        self.optimizers, self.holding = optimizers, holding
        self.changed: list[Changed] = []
        self.of = (phase.budget or recipe.budget).steps
        rule = phase.changes.rule if phase.changes else None
        if rule:
            check_optimizers(optimizers)
        steps = frozenset(rule.steps(self.of)) if rule else frozenset[int]()
        in_place = rule is not None and rule.in_place_of_a_step
        self.before_steps, self.in_place = (frozenset[int](), steps) if in_place else (steps, frozenset[int]())

    def before(self, step: int) -> None:
        """Changes the masks before a step, if it is time."""
        if step in self.before_steps:
            self._change(step, {})

    def takes(self, step: int) -> bool:
        """Changes the masks in place of a step's update, if it is time and the rule asks for gradients.

        Raises Diverged if these are not finite, as they may be where the loss is.
        """
        if step not in self.in_place:
            return False
        weights = {name: self.holding.weights[name] for name in self.phase.masks}
        if not all(weight.grad.isfinite().all() for weight in weights.values() if weight.grad is not None):
            raise Diverged(f"the gradients became NaN or infinite at step {step}")
        self._change(step, {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in weights.items()})
        return True

    def taken(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the changes so far; nothing without a rule."""
        if not self.phase.changes:
            return {}, {}
        return {f"mask.{name}": pack(mask) for name, mask in self.holding.masks.items()}, {"changed": self.changed}

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Goes back to the masks of a checkpoint."""
        if self.phase.changes:
            self.changed = list(info["changed"])
            self.holding.hold(masks_in(tensors, self.phase))

    def due(self, step: int) -> bool:
        """Whether masks change at a step."""
        return step in self.before_steps or step in self.in_place

    def _change(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        assert self.phase.changes
        before, rule = self.holding.masks, self.phase.changes.rule
        # from a generator of its own, as between rounds
        order, noise = (derive(seed, "change", step) for seed in (self.phase.order, self.phase.noise))
        with drawing(noise) as rng, self.look(before, order, rng) as evidence:
            density, output = self.phase.changes.density, self.recipe.output
            last = self.changed[-1]["step"] if self.changed else None
            masks = rule.masks(Moment(step, self.of, density, before, evidence, gradients, output, last))
        self.holding.hold(masks)
        self._forget({name: mask != before[name] for name, mask in masks.items()})
        self.changed.append(
            {"step": step, "densities": layer_densities(masks), "dense_gradients": rule.in_place_of_a_step}
        )

    def _forget(self, changed: Masks) -> None:
        """Deletes what optimizers have gathered for grown weights, which begin without momentum, and for dropped ones.

        An optimizer that reads across weights must see nothing of those that are pruned.
        """
        for name, mask in changed.items():
            weight = self.holding.weights[name]
            if mask.any():
                stays = (~mask).to(weight.device)
                for state in [kept for each in self.optimizers for kept in each.state.get(weight, {}).values()]:
                    if isinstance(state, Tensor) and state.shape == weight.shape:
                        state.mul_(stays)


def check_optimizers(optimizers: Iterable[Optimizer]) -> None:
    """Raises Refused for what begins otherwise than at zero in a weight, which is what `Changing` puts it back to."""
    for optimizer in optimizers:
        started = max(group.get("initial_accumulator_value", 0.0) for group in optimizer.param_groups)
        if isinstance(optimizer, Rprop) or started > 0:
            begins = f"initial_accumulator_value={started:g}" if started > 0 else "its step sizes at lr"
            raise Refused(
                f"arm.during: goes without {type(optimizer).__name__}, which begins with {begins}, where a weight that "
                "grows begins with zeros; use an optimizer that begins with zeros itself, such as SGD or Adam"
            )


def masks_in(tensors: Mapping[str, Tensor], phase: Phase) -> Masks:
    """The masks in a checkpoint of a phase whose masks change; otherwise the phase's own."""
    if not phase.changes:
        return phase.masks
    return {name: unpack(tensors[f"mask.{name}"], mask.shape) for name, mask in phase.masks.items()}
