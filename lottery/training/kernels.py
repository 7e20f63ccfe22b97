"""PyTorch's fused optimizer kernels, called on lists that are prepared once.

`Optimizer.step` builds its lists of tensors anew at each step, which takes as long as a small network's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as _torch

_UNPREPARED = ("foreach", "capturable", "differentiable")
"""settings of a group with which PyTorch's own step is taken"""


class _Group(NamedTuple):
    """A group of parameters with the kernel that moves them, given their gradients and the learning rate."""

    parameters: list[nn.Parameter]
    kernel: Callable[[list[Tensor], float], object]
    settings: Mapping[str, Any]


def prepared(optimizer: Optimizer) -> Callable[[], object]:
    """A step of the optimizer as it is now, bit for bit that of `optimizer.step()`; learning rates are read each time.

    It is faster for SGD, Adam and AdamW with fused=True that have taken a step, and `optimizer.step` for all others:
    subclasses, optimizers with hooks, other settings, parameters of several kinds in a group. Where other parameters
    have gradients than when it was prepared, it takes `optimizer.step()` too. It must be prepared anew when groups,
    hooks or the optimizer's state are replaced.
    """
    if not _is_plain(optimizer):
        return optimizer.step
    groups = [_group(type(optimizer), group, optimizer.state) for group in optimizer.param_groups]
    moved = {id(parameter) for group in groups for parameter in group.parameters}
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in moved]
    if not moved or any(len({(p.device, p.dtype) for p in group.parameters}) > 1 for group in groups):
        return optimizer.step

    def step() -> None:
        gradients = [[p.grad for p in group.parameters if p.grad is not None] for group in groups]
        if any(len(own) < len(group.parameters) for own, group in zip(gradients, groups, strict=True)) or any(
            p.grad is not None for p in others
        ):
            optimizer.step()
            return
        with torch.no_grad():
            for group, own in zip(groups, gradients, strict=True):
                if own:
                    group.kernel(own, group.settings["lr"])

    return step


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether a step is nothing but a fused kernel for each group."""
    hooks = (
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
        _torch._global_optimizer_pre_hooks, _torch._global_optimizer_post_hooks,
    )  # fmt: skip
    # an attribute `step` is a scheduler's or a user's; the others are those of a loss scaler
    wrapped = vars(optimizer).keys() & {"step", "grad_scale", "found_inf"}
    return (
        type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        and not any(hooks)
        and not wrapped
        and all(
            group["fused"] and not any(group.get(name) for name in _UNPREPARED) and not _holds_tensors(group)
            for group in optimizer.param_groups
        )
    )


def _holds_tensors(group: Mapping[str, Any]) -> bool:
    """Whether a setting is a tensor, as learning rates may be."""
    values = [value for name, value in group.items() if name != "params"]
    return any(isinstance(each, Tensor) for value in values for each in (value if type(value) is tuple else (value,)))


def _group(kind: type[Optimizer], group: Mapping[str, Any], state: Mapping[Tensor, Mapping[str, Any]]) -> _Group:
    if kind is torch.optim.SGD:
        return _sgd(group, state)
    parameters = [p for p in group["params"] if state.get(p)]
    names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))
    moments = [[state[p][name] for p in parameters] for name in names]
    moments += [[]] * (3 - len(moments))
    steps = [state[p]["step"] for p in parameters]
    fused: Any = torch._fused_adamw_ if _decoupled(kind, group) else torch._fused_adam_
    beta1, beta2 = group["betas"]
    settings = {name: group[name] for name in ("amsgrad", "weight_decay", "eps", "maximize")}
    fused = partial(fused, parameters, beta1=beta1, beta2=beta2, **settings)

    def kernel(gradients: list[Tensor], lr: float) -> None:
        torch._foreach_add_(steps, 1)
        fused(gradients, *moments, steps, lr=lr)

    return _Group(parameters, kernel, group)


def _decoupled(kind: type[Optimizer], group: Mapping[str, Any]) -> bool:
    # older versions of PyTorch have no such setting, and an AdamW that is no Adam
    return kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))


def _sgd(group: Mapping[str, Any], state: Mapping[Tensor, Mapping[str, Any]]) -> _Group:
    # without momentum there is no state that would tell which parameters train
    parameters = [
        p
        for p in group["params"]
        if (state.get(p, {}).get("momentum_buffer") is not None if group["momentum"] else p.requires_grad)
    ]
    buffers = [state[p]["momentum_buffer"] for p in parameters] if group["momentum"] else []
    settings = {name: group[name] for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")}

    def kernel(gradients: list[Tensor], lr: float) -> None:
        torch._fused_sgd_(parameters, gradients, buffers, lr=lr, is_first_step=False, **settings)

    return _Group(parameters, kernel, group)
