"""Rewinding: what the kept weights are set to before a pruned network trains again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lottery.pruning.masks import Masks
from lottery.training.states import State


@dataclass(frozen=True)
class Origin:
    """All that a round's first weights may be made of; new fields never break old rules."""

    start: State
    """the dense network at the rewinding point"""
    trained: Callable[[], State]
    """gives the trained network on which the masks were found"""
    fresh: Callable[[], State]
    """gives a new draw of the initialisation"""
    masks: Masks
    """of the round that begins"""


Rewinding = Callable[[Origin], State]


def to_start(origin: Origin) -> State:
    """Back to the rewinding point: the lottery ticket (Frankle & Carbin 2019; to step k: Frankle et al. 2020)."""
    return origin.start


def to_fresh(origin: Origin) -> State:
    """A new draw of the initialisation: the control of Frankle & Carbin 2019."""
    return origin.fresh()


def to_trained(origin: Origin) -> State:
    """The weights as training left them: fine-tuning (Han et al. 2015), learning-rate rewinding (Renda et al. 2020)."""
    return origin.trained()


def to_fresh_same_sign(origin: Origin) -> State:
    """A new draw whose kept weights have the signs that they began with (Zhou et al. 2019)."""
    fresh = origin.fresh()
    return fresh | {name: fresh[name].abs() * origin.start[name].sign() for name in origin.masks}


def to_constant(origin: Origin, same_sign: bool = True) -> State:
    """Plus or minus one number in each layer, the deviation of its start weights (Zhou et al. 2019).

    The signs are those that the weights began with, or those of a new draw if not `same_sign`. A layer of a single
    weight has no deviation: its number is the weight's absolute value.
    """
    signs = origin.start if same_sign else origin.fresh()
    return origin.start | {name: signs[name].sign() * _deviation(origin.start[name]) for name in origin.masks}


def _deviation(weight: Tensor) -> Tensor:
    return weight.std() if weight.numel() > 1 else weight.abs()


def as_one(state: State, net: nn.Module) -> State:
    """The state with every shared weight under all its names as it is under its first, which is the masks' name.

    A rewinding rewrites weights by the names of the masks. A state has a shared weight under further names, and loading
    it would end with the value that the last of them has.
    """
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in net.state_dict(keep_vars=True).items()}
    return state | {name: state[shared] for name, shared in names.items() if name != shared}
