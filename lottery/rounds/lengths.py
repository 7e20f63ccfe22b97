"""Lengths: how long and at which learning rates a pruned round trains, relative to the recipe's budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lottery.training.learning_rates import constant
from lottery.training.recipes import Budget

Length = Callable[[Budget, float], Budget]
"""(the recipe's budget, FLOPs of a pruned step / FLOPs of a dense step) -> the budget of a pruned round"""


def as_recipe(budget: Budget, share: float) -> Budget:
    """The recipe's budget: for tickets, and for Scratch-E of Liu et al. (2019)."""
    return budget


def last_rate(budget: Budget, share: float, of_recipe: float = 1.0) -> Budget:
    """Fine-tuning (Han et al. 2015): `of_recipe` times the recipe's steps, all at its last learning rate.

    Raises ValueError if that is less than one step.
    """
    steps = round(of_recipe * budget.steps)
    if steps < 1:
        raise ValueError(f"length.of_recipe={of_recipe:g}: leaves no step of the {budget.steps} of the recipe")
    held = partial(constant, factor=budget.factor(budget.steps - 1))
    return replace(budget, steps=steps, recipe_steps=steps, learning_rate=held, warmup=0)


def same_flops(budget: Budget, share: float, cap: float = 10.0) -> Budget:
    """Scratch-B of Liu et al. (2019): as many training FLOPs as the dense network, up to `cap` times its steps.

    Milestones and warm-up are stretched accordingly. Raises ValueError for a cap under 1.
    """
    if cap < 1:
        raise ValueError(f"length.cap={cap:g}: must be at least 1")
    longer = min(cap, 1 / share) if share else cap  # 0 if only embeddings are pruned: they count no FLOPs
    return replace(budget, steps=round(budget.steps * longer))
