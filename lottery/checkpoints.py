"""Checkpoints: everything that the remaining steps of a phase depend on, as tensors and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lottery import ranks

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, on the CPU, and what goes into JSON."""


def taken(net: nn.Module, optimizer: Optimizer, scaler: Any, device: torch.device) -> Snapshot:
    """The state of network, optimizer, loss scaler (or None) and noise, of every rank's noise."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    plain: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"optimizer.{index}.{name}"] = value
    for rank, noise in enumerate(ranks.everyone(torch.get_rng_state())):
        tensors[f"noise.{rank}"] = noise
    if device.type == "cuda":
        for rank, noise in enumerate(ranks.everyone(torch.cuda.get_rng_state(device))):
            tensors[f"noise.cuda.{rank}"] = noise
    # schedule-free optimizers keep their progress in the groups
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    return copies, {"optimizer": plain, "groups": groups, "scaler": scaler.state_dict() if scaler else None}


def restore(
    tensors: Mapping[str, Tensor],
    info: Mapping[str, Any],
    net: nn.Module,
    optimizer: Optimizer,
    scaler: Any,
    device: torch.device,
) -> None:
    """Puts network, optimizer, loss scaler and noise back into the state that was taken."""
    net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
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
    torch.set_rng_state(tensors[f"noise.{rank}"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"noise.cuda.{rank}"], device)
