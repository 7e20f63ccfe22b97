"""Checks of scores, whoever gives them, and what a function of the user's is called in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lottery.pruning.masks import Masks


def checked_scores(
    kind: str, function: Callable[..., object], found: Mapping[str, Tensor], masks: Masks
) -> dict[str, Tensor]:
    """Scores that a criterion or a growth gave, on the CPU, checked as `score` says; both names are for its errors."""
    own = called(function, kind)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{own}: must give scores by the weights' names, not a {type(found).__name__}")
    for name, values in found.items():
        if not isinstance(values, Tensor) or values.layout is not torch.strided:
            raise ValueError(f"{own}: scores of {name} must be a dense tensor, not a {type(values).__name__}")
    scores = {name: values.detach().to("cpu") for name, values in found.items()}
    if missing := sorted(masks.keys() ^ scores.keys()):
        raise ValueError(f"{own}: scores and masks differ in {', '.join(missing)}")
    for name, values in scores.items():
        which = f"{own}: scores of {name}"
        if values.shape != masks[name].shape:
            raise ValueError(f"{which} have shape {tuple(values.shape)}, its mask {tuple(masks[name].shape)}")
        if not values.is_floating_point():
            raise ValueError(f"{which} are {values.dtype}, not floats")
        if lost := values.numel() - int(values.isfinite().sum()):
            raise ValueError(f"{own}: {lost:,} of {values.numel():,} scores of {name} are not finite")
    return scores


def called(function: Callable[..., object], kind: str) -> str:
    """What a function of the user's is called in a sentence, by a partial's own function; `kind` if it has no name."""
    own = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", kind)
    return f"{kind} {own}"
