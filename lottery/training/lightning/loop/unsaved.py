"""What no state_dict holds of a module and its data, and hooks may have changed.

That is: which layers train and which parameters take gradients, buffers that are not persistent, gradients between
batches, and what data sets were set to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

GRADIENTS = "lottery_gradients"
"""Their place in a checkpoint. A state to rewind to has none: as optimizers do, gradients begin anew there."""


def left_out(module: nn.Module, begun: Mapping[str, Tensor], loaders: Iterable[Any]) -> dict[str, Any]:
    """All but gradients: the modes of layers, what takes gradients, buffers, what was set on the data sets.

    Of buffers only those that training has changed since it had `begun`: constants, such as a causal mask, would make
    states and keys larger. The order of the entries is in keys.
    """
    for loader in loaders:
        loader.curriculum.note()
    changed = {name: now for name, now in buffers(module).items() if not _same(now, begun.get(name))}
    switches = {
        "modes": {path: part.training for path, part in module.named_modules()},
        "trains": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
    }
    found = {"buffers": changed, "set": [loader.curriculum.set for loader in loaders]}
    return switches | {name: value for name, value in found.items() if any(value)}


def put_back(module: nn.Module, loaders: Iterable[Any], saved: Mapping[str, Any]) -> None:
    """Puts it back, buffers in place where they have their size: other modules may share them."""
    for path, part in module.named_modules():
        part.training = saved["modes"].get(path, part.training)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(saved["trains"].get(name, parameter.requires_grad))
    for loader, values in zip(loaders, saved.get("set", ()), strict=False):
        loader.curriculum.restore(values)
    for name, owner, own in list(_unsaved(module)):
        if (value := saved.get("buffers", {}).get(name)) is None:
            continue
        buffer = getattr(owner, own)
        if _alike(buffer, value):
            buffer.copy_(value)
        else:  # training has changed its size
            setattr(owner, own, value.to(buffer.device))


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that are not persistent, by name."""
    return {name: getattr(owner, own).detach().clone() for name, owner, own in _unsaved(module)}


def gradients(module: pl.LightningModule) -> dict[str, Any]:
    """Gradients that the next step may add to, by parameter name; None for one of zeros.

    With automatic optimization there are none between two steps, unless the module zeroes them itself.
    """
    if module.automatic_optimization and not is_overridden("optimizer_zero_grad", module):
        return {}
    return {name: _taken(weight.grad) for name, weight in module.named_parameters() if weight.grad is not None}


def put_gradients_back(module: nn.Module, saved: Mapping[str, Any]) -> None:
    """Puts gradients back where they were."""
    for name, weight in module.named_parameters():
        if name in saved:
            weight.grad = _given(saved[name], weight)


def _unsaved(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, owner in module.named_modules():
        for name in sorted(owner._non_persistent_buffers_set):
            if getattr(owner, name, None) is not None:
                yield f"{path}.{name}", owner, name


def _alike(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and (one.shape, one.dtype) == (other.shape, other.dtype)


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and _alike(one, other) and torch.equal(one, other)


def _taken(gradient: Tensor) -> Any:
    if gradient.is_sparse:
        return {"indices": gradient._indices(), "values": gradient._values(), "sums": gradient.is_coalesced()}
    return gradient if gradient.any() else None


def _given(saved: Any, weight: Tensor) -> Tensor:
    if saved is None:  # not the same as no gradient: a momentum still moves the weight
        return torch.zeros_like(weight)
    if isinstance(saved, Tensor):
        return saved.to(weight.device)
    indices, values = (saved[name].to(weight.device) for name in ("indices", "values"))
    return torch.sparse_coo_tensor(indices, values, weight.shape, is_coalesced=saved["sums"])
