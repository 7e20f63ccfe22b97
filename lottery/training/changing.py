"""Changing: applies a phase's rule to its masks, network and optimizer while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lottery.foundations.seeds import derive, drawing
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks, layer_densities, pack, unpack
from lottery.training.changes import Moment
from lottery.training.holding import Holding
from lottery.training.module_recipe import ModuleRecipe, ScoringBatches
from lottery.training.modules import Module
from lottery.training.recipes import Changed, Phase


class Changing:
    """Changes the masks of a phase in training, at the steps of its rule; all ranks come to the same ones."""

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

    def _change(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        assert self.phase.changes
        before, rule = self.holding.masks, self.phase.changes.rule
        with drawing(derive(self.phase.noise, "change", step)) as rng:
            evidence = self._evidence(step, before, rng)
            self.module.eval()
            masks = rule.masks(
                Moment(step, self.of, self.phase.changes.density, evidence, gradients, self.recipe.output)
            )
            self.module.train()
        self.holding.hold(masks)
        self._forget({name: mask & ~before[name] for name, mask in masks.items()})
        self.changed.append(
            {"step": step, "densities": layer_densities(masks), "dense_gradients": rule.in_place_of_a_step}
        )

    def _evidence(self, step: int, masks: Masks, rng: torch.Generator) -> Evidence:
        """The network as it is; it is not built anew, because that would take longer than some steps."""
        return Evidence(
            self.module.net,
            self.phase.state,
            masks,
            ScoringBatches(self.recipe.data, derive(self.phase.order, "change", step), str(self.module.device)),
            self.module.batch_outputs,
            self.module.batch_loss,
            rng,
        )

    def _forget(self, grown: Masks) -> None:
        """Grown weights begin without momentum: what their pruned places have gathered is deleted."""
        for name, mask in grown.items():
            weight = self.holding.weights[name]
            if mask.any():
                stays = (~mask).to(weight.device)
                for state in self.optimizer.state.get(weight, {}).values():
                    if isinstance(state, Tensor) and state.shape == weight.shape:
                        state.mul_(stays)
