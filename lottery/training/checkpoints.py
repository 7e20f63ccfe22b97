"""Checkpoints: everything that the remaining steps of a phase depend on, as tensors and plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lottery.foundations.seeds import noise, restore_noise
from lottery.training import ranks
from lottery.training.modules import Module
from lottery.training.sparse import SparseLinear

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, on the CPU, and plain data for JSON."""


def taken(module: Module, optimizer: Optimizer, scaler: Any, device: torch.device) -> Snapshot:
    """A checkpoint of module, optimizer, loss scaler (if there is one) and the random states of all ranks."""
    tensors = {f"net.{name}": tensor for name, tensor in module.net.state_dict().items()}
    buffers = {key: getattr(owner, name) for key, owner, name in _unsaved(module)}
    tensors |= {key: buffer for key, buffer in buffers.items() if buffer is not None}
    plain: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"optimizer.{index}.{name}"] = value
    states = noise() | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})
    for library, own in states.items():
        for rank, state in enumerate(ranks.everyone(own)):
            tensors[_noise(library, rank)] = state
    # schedule-free optimizers keep their progress in the groups
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    return copies, {"optimizer": plain, "groups": groups, "scaler": scaler.state_dict() if scaler else None}


def restore(
    tensors: Mapping[str, Tensor],
    info: Mapping[str, Any],
    module: Module,
    optimizer: Optimizer,
    scaler: Any,
    device: torch.device,
) -> None:
    """Restores module, optimizer, loss scaler and random states from a checkpoint.

    Whatever a checkpoint of an earlier version lacks stays as it is.
    """
    module.net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    for key, owner, name in _unsaved(module):
        if (saved := tensors.get(key)) is None:
            continue
        buffer = getattr(owner, name)
        if buffer is not None and (buffer.shape, buffer.dtype) == (saved.shape, saved.dtype):
            buffer.copy_(saved)  # in place, because other modules may share it
        else:  # training created it, or changed its size
            setattr(owner, name, saved.to(device))
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **info["optimizer"]}.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    indices = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = [{**group, "params": own} for group, own in zip(info["groups"], indices, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, tensor in values.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:  # fused steps walk through memory
                values[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    if scaler:
        scaler.load_state_dict(info["scaler"])
    rank, _ = ranks.share()
    names = {library: _noise(library, rank) for library in ("torch", "numpy", "python", "cuda")}
    states = {library: tensors[name] for library, name in names.items() if name in tensors}
    restore_noise(states)
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _unsaved(module: Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Key, owner and name of the buffers kept out of state_dict (persistent=False): training may change them too.

    Sparse layers are skipped: theirs are indices that follow from the mask.
    """
    for path, owner in module.named_modules():
        if not isinstance(owner, SparseLinear):
            for name in sorted(owner._non_persistent_buffers_set):
                yield f"buffer.{path}.{name}", owner, name


def _noise(library: str, rank: int) -> str:
    """The key of a random state in a checkpoint; torch's is the one that checkpoints of earlier versions have."""
    return f"noise.{rank}" if library == "torch" else f"noise.{library}.{rank}"
