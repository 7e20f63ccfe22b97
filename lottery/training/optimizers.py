"""Optimizers: PyTorch's, with a choice of what decays and a limit to the gradient's norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer


def sgd(
    parameters: Iterable[nn.Parameter],
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay: str = "all",
    clip_norm: float | None = None,
    fused: bool = True,
) -> Optimizer:
    """SGD with momentum.

    `weight_decay` is for `all` parameters or for `weights` alone, which leaves out biases and BatchNorm.
    `clip_norm` bounds the L2 norm of all gradients together before each step.
    """
    groups, lr = _groups(parameters, decay), _rate(lr)
    fused = fused and clip_norm is None
    optimizer = torch.optim.SGD(groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)
    return _clipped(optimizer, clip_norm)


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: str = "all",
    clip_norm: float | None = None,
    fused: bool = True,
) -> Optimizer:
    """Adam (Kingma & Ba 2015); its `weight_decay` is an L2 penalty. Further arguments as in `sgd`."""
    groups, lr, pair = _groups(parameters, decay), _rate(lr), _pair(betas)
    fused = fused and clip_norm is None
    optimizer = torch.optim.Adam(groups, lr, pair, eps, weight_decay, fused=fused)
    return _clipped(optimizer, clip_norm)


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decay: str = "all",
    clip_norm: float | None = None,
    fused: bool = True,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019). Further arguments as in `sgd`."""
    groups, lr, pair = _groups(parameters, decay), _rate(lr), _pair(betas)
    fused = fused and clip_norm is None
    optimizer = torch.optim.AdamW(groups, lr, pair, eps, weight_decay, fused=fused)
    return _clipped(optimizer, clip_norm)


def _groups(parameters: Iterable[nn.Parameter], decay: str) -> list[dict[str, Any]]:
    """All parameters in one group, or biases and normalisation in a second one that does not decay."""
    everything = list(parameters)
    if decay == "all":
        return [{"params": everything}]
    if decay != "weights":
        raise ValueError(f"decay={decay}: must be all or weights")
    weights = {"params": [parameter for parameter in everything if parameter.ndim > 1]}
    others = {"params": [parameter for parameter in everything if parameter.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (weights, others) if group["params"]]


def _rate(lr: float) -> float:
    if not lr >= 0:
        raise ValueError(f"lr={lr:g}: must be a number, 0 or more")
    return lr


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ValueError(f"betas={list(betas)}: must be two numbers")
    return betas[0], betas[1]


def _clipped(optimizer: Optimizer, clip_norm: float | None) -> Optimizer:
    """The optimizer with clipping before each of its steps.

    Clipped optimizers are never fused: under 16-mixed a fused one undoes the scaling of gradients inside its
    step, after they have been clipped.
    """
    if clip_norm is None:
        return optimizer
    if not clip_norm > 0:
        raise ValueError(f"clip_norm={clip_norm:g}: must be above 0")

    def clip(optimizer: Optimizer, arguments: Any, settings: Any) -> None:
        # read at each step, because the groups may change in order and number
        clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], clip_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer
