"""Pretrained weights instead of a fresh initialisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def pretrained(net: nn.Module, weights: str) -> nn.Module:
    """Any network with the weights and buffers of a file of its names and shapes: .safetensors, or .pt of a state_dict.

    The last layer keeps its fresh draw if the file has it for another number of classes.

    A new draw of the initialisation is the same file again: only such a last layer differs.
    Raises ValueError for a file that is missing, damaged or of another network.
    """
    return load_(net, read(weights), weights)


PICKLED = (".pt", ".pth")
"""Endings of files of `torch.save`."""


def read(weights: str) -> Mapping[str, Tensor]:
    """The tensors of a file by name. Raises ValueError for a file that is missing or damaged."""
    if not Path(weights).is_file():
        raise ValueError(f"weights={weights}: there is no such file")
    if Path(weights).suffix in PICKLED:
        return _plain(weights)
    try:
        return safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"weights={weights}: can't be read as a safetensors file ({error})") from error


def _plain(weights: str) -> Mapping[str, Tensor]:
    """What `torch.save` made of a state_dict. `weights_only` executes nothing that a pickle asks for."""
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's own advice is to execute it
        raise ValueError(
            f"weights={weights}: is no torch.save of a state_dict(); nothing else in it is read"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"weights={weights}: holds something else than tensors by name, as a state_dict() has them")
    return found


def load_(net: nn.Module, tensors: Mapping[str, Tensor], weights: str, new_head: bool = True) -> nn.Module:
    """Gives a network tensors by name as `pretrained` does; messages call them `weights`.

    Unless `new_head`, a last layer for another number of classes does not fit.
    """
    own = net.state_dict()
    # the layer that is defined last, because only a forward pass could tell which one runs last
    output = [f"{name}." for name, layer in net.named_modules() if isinstance(layer, nn.Linear | _ConvNd)][-1]
    output = output.removeprefix(".")  # for a network that is a single layer
    head = {name: own[name] for name in (f"{output}weight", f"{output}bias") if name in own}
    other = new_head and all(_of_other_classes(tensors.get(name), tensor) for name, tensor in head.items())
    filled = {**tensors, **head} if other else tensors
    faults = [
        *_listed("it lacks", (f"{n} {_size(t)}" for n, t in own.items() if n not in filled)),
        *_listed("it also has", (f"{n} {_size(t)}" for n, t in filled.items() if n not in own)),
        *_listed(
            "other shapes have",
            (f"{n} {_size(t)}, not {_size(own[n])}" for n, t in filled.items() if n in own and t.shape != own[n].shape),
        ),
    ]
    if faults:
        raise ValueError(f"weights={weights}: does not fit this network; {'; '.join(faults)}")
    net.load_state_dict(filled)
    return net


def _of_other_classes(given: Tensor | None, own: Tensor) -> bool:
    """Whether a tensor differs from the last layer's only in the number of rows."""
    return given is not None and given.shape[1:] == own.shape[1:] and given.shape != own.shape


def _listed(what: str, items: Iterable[str]) -> list[str]:
    """One part of a sentence about some tensors, or none if there are none."""
    found = list(items)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{what} {', '.join(found[:3])}{more}"] if found else []


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
