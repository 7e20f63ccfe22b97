"""Phases: one stretch of training, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from lottery.foundations.errors import Said
from lottery.pruning.channels.removal import Structure
from lottery.pruning.masks import Masks
from lottery.training.changes import Changes
from lottery.training.recipes import Budget, Row
from lottery.training.states import State


@dataclass(frozen=True)
class Phase:
    """One stretch of training."""

    state: State
    masks: Masks
    first: int
    """the first step; learning rate and data order go on from there"""
    last: int
    """the step at which it ends"""
    order: int
    """seed of the data order"""
    noise: int
    """seed of everything drawn while training, such as dropout"""
    build: int = 0
    """seed that the network is built with: what it draws and keeps outside its state is then always the same"""
    sparse: tuple[str, ...] = ()
    """names of the weights that train on their kept values alone"""
    structure: Structure = field(default_factory=dict)
    """what is left of the network without its dead channels; empty: all of it"""
    budget: Budget | None = None
    """the budget, if it is not the recipe's"""
    changes: Changes | None = None
    """how masks change while it trains; None: they do not"""


class Diverged(Said):
    """The loss of a phase, or the gradients that its masks depend on, became NaN or infinite."""


class Changed(TypedDict):
    """A change of masks in the middle of a training."""

    step: int
    densities: dict[str, float]
    """kept share of each layer's weights from then on"""
    dense_gradients: bool
    """whether gradients of all weights were computed for it, in place of a step"""


@dataclass(frozen=True)
class Trained:
    """The result of a phase."""

    state: State
    masks: Masks
    """the masks that training ended with; a training may give others than it was given"""
    rows: list[Row]
    changed: list[Changed] = field(default_factory=list, kw_only=True)
    """the changes of masks while it trained, in order"""
