"""Changing: applies a phase's rule to its masks, network and optimizer while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lottery.foundations.seeds import derive, drawing
from lottery.pruning.masks import Masks, layer_densities, pack, unpack
from lottery.training.changes import Moment
from lottery.training.holding import Holding
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Module
from lottery.training.recipes import Changed, Phase


class Changing:
    """Changes the masks of a phase in training, at the steps of its rule."""

    def __init__(
        self, phase: Phase, recipe: ModuleRecipe, module: Module, optimizer: Optimizer, holding: Holding
    ) -> None:
        self.phase, self.recipe, self.module = phase, recipe, module
        self.optimizer, self.holding = optimizer, holding
        self.changed: list[Changed] = []
        self.of = (phase.budget or recipe.budget).steps
        rule = phase.changes.rule if phase.changes else None
        steps = frozenset(rule.steps(self.of)) if rule else frozenset[int]()
        in_place = rule is not None and rule.in_place_of_a_step
        self.before_steps, self.in_place = (frozenset[int](), steps) if in_place else (steps, frozenset[int]())

    def before(self, step: int) -> None:
        """Changes the masks before a step, if it is time."""
        if step in self.before_steps:
            self._change(step, {})

    def takes(self, step: int) -> bool:
        """Changes the masks in place of a step's update, if it is time and the rule asks for gradients."""
        if step not in self.in_place:
            return False
        weights = {name: self.holding.weights[name] for name in self.phase.masks}
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
            self.holding.hold({n: unpack(tensors[f"mask.{n}"], mask.shape) for n, mask in self.phase.masks.items()})

    def due(self, step: int) -> bool:
        """Whether masks change at a step."""
        return step in self.before_steps or step in self.in_place

    def _change(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        assert self.phase.changes
        before, rule, module = self.holding.masks, self.phase.changes.rule, self.module
        compiled, module.net._compiled_call_impl = module.net._compiled_call_impl, None  # it has no second derivatives
        module.eval()
        # in 32 bits and from a generator of its own, as between rounds
        plain = torch.autocast(module.device.type, enabled=False)
        with plain, drawing(derive(self.phase.noise, "change", step)) as rng:
            order = derive(self.phase.order, "change", step)
            evidence = self.recipe.evidence_of(module, self.phase.state, before, order, str(module.device), rng)
            density, output = self.phase.changes.density, self.recipe.output
            masks = rule.masks(Moment(step, self.of, density, before, evidence, gradients, output))
        module.train()
        module.net._compiled_call_impl = compiled
        self.holding.hold(masks)
        self._forget({name: mask != before[name] for name, mask in masks.items()})
        self.changed.append(
            {"step": step, "densities": layer_densities(masks), "dense_gradients": rule.in_place_of_a_step}
        )

    def _forget(self, changed: Masks) -> None:
        """Deletes what an optimizer has gathered for grown weights, which begin without momentum, and for dropped ones.

        An optimizer that reads across weights must see nothing of those that are pruned.
        """
        for name, mask in changed.items():
            weight = self.holding.weights[name]
            if mask.any():
                stays = (~mask).to(weight.device)
                for state in self.optimizer.state.get(weight, {}).values():
                    if isinstance(state, Tensor) and state.shape == weight.shape:
                        state.mul_(stays)
