"""Rewinding: the weights from which a pruned network trains again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lottery.pruning.masks import Masks, density
from lottery.training.states import State, position


@dataclass(frozen=True)
class Origin:
    """The input of a rewinding; fields may be added without breaking existing ones."""

    start: State
    """the dense network at the rewinding point"""
    trained: Callable[[], State]
    """returns the trained network on which the masks were found"""
    fresh: Callable[[], State]
    """draws a new initialisation"""
    masks: Masks
    """the masks of the round that begins"""


Rewinding = Callable[[Origin], State]


def to_start(origin: Origin) -> State:
    """The weights at the rewinding point: a lottery ticket (Frankle & Carbin 2019; at step k: Frankle et al. 2020)."""
    return origin.start


def to_fresh(origin: Origin) -> State:
    """A new initialisation: the random-reinitialisation control of Frankle & Carbin (2019)."""
    return origin.fresh()


def to_scaled(origin: Origin) -> State:
    """The start weights, each layer's over the square root of its density, as if drawn for the inputs that are left.

    Signals then keep their size through layers that lost most of their weights (Evci et al. 2022 draw them so, unit by
    unit). A layer without weights stays as it is.
    """
    shares = {name: density({name: mask}) for name, mask in origin.masks.items()}
    return origin.start | {name: origin.start[name] / share**0.5 for name, share in shares.items() if share}


def to_trained(origin: Origin) -> State:
    """The trained weights: fine-tuning (Han et al. 2015), learning-rate rewinding (Renda et al. 2020)."""
    return origin.trained()


def keeps_trained(rewinding: Rewinding) -> bool:
    """Whether a rewinding may keep trained weights; all but ours may.

    >>> keeps_trained(to_trained), keeps_trained(to_start)
    (True, False)
    """
    function = getattr(rewinding, "func", rewinding)
    return function is to_trained or getattr(function, "__module__", "") != __name__


def to_fresh_same_sign(origin: Origin) -> State:
    """A new initialisation with the signs of the start weights (Zhou et al. 2019)."""
    fresh = origin.fresh()
    return fresh | {name: fresh[name].abs() * origin.start[name].sign() for name in origin.masks}


def to_constant(origin: Origin, same_sign: bool = True) -> State:
    """Plus or minus one constant per layer, the standard deviation of its start weights (Zhou et al. 2019).

    The signs are those of the start weights, or of a new initialisation if not `same_sign`. A layer with a single
    weight has no standard deviation: its constant is the weight's absolute value.
    """
    signs = origin.start if same_sign else origin.fresh()
    return origin.start | {name: signs[name].sign() * _deviation(origin.start[name]) for name in origin.masks}


def _deviation(weight: Tensor) -> Tensor:
    return weight.std() if weight.numel() > 1 else weight.abs()


def as_one(state: State, net: nn.Module) -> State:
    """The state with the value of each shared weight's first name, which is also its mask's, under all its names.

    A rewinding changes weights by the names of the masks. A state lists a shared weight under further names too, and
    when it is loaded, the last of them would win.
    """
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in net.state_dict(keep_vars=True).items()}
    return state | {name: state[shared] for name, shared in names.items() if name != shared}


def begun(weights: Rewinding, origin: Origin, net: nn.Module) -> State:
    """What a round begins with, before masking: its weights, and where training stood at the rewinding point."""
    return as_one(weights(origin), net) | position(origin.start)
