"""Tickets as files: masks, start weights, and all that is needed to train them again and to check their claims.

    mask.<name>     which weights are kept, eight a byte
    start.<name>    weights and buffers of the network that the ticket begins with, pruned ones too;
                    none of them if `draw` says how they are drawn
    rates           factors on the learning rate by step, where the round was not as long as its recipe
    metadata        one JSON text, see `ticket_checks.PARTS`, and a digest over everything

Reading a file runs no code that it names. It is no pickle, and the functions that its `config` names are called by
`verify` and `run` only, after `trusted` has checked them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.foundations.files import Damaged, read_tensors, write_tensors
from lottery.pruning.masks import Masks, pack, unpack
from lottery.store.ticket_checks import PARTS, complete, consistent
from lottery.training.states import State

FORMAT, VERSION = "lottery ticket", 1
HEADER = 100_000_000  # bytes; what safetensors allows


@dataclass(frozen=True)
class Saved:
    """The content of a ticket's file, which agrees with itself; whether its claims hold is for `verify` to find out."""

    path: Path
    info: Mapping[str, Any]
    masks: Masks
    start: State
    """Weights and buffers by name; empty if they are to be drawn."""
    rates: Tensor | None = None

    def write(self) -> None:
        """Writes the file, atomically."""
        tensors = {f"mask.{name}": pack(mask) for name, mask in self.masks.items()}
        tensors |= {f"start.{name}": tensor.contiguous() for name, tensor in self.start.items()}
        if self.rates is not None:
            tensors["rates"] = self.rates
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, tensors, self.info)


def read(path: Path | str) -> Saved:
    """Reads a ticket's file. Raises Refused if it is no ticket, is damaged, or contradicts itself."""
    path = Path(path)
    info = _info(path)
    try:
        tensors, _ = read_tensors(path)
    except Damaged as error:
        raise Refused(f"{error}; ask for the ticket again") from error
    try:
        complete("it", info, PARTS)
        masks = {name: _mask(name, shape, tensors) for name, shape in info["shapes"].items()}
        start = {name.removeprefix("start."): tensors.pop(name) for name in sorted(tensors) if name[:6] == "start."}
        rates = tensors.pop("rates", None)
        if tensors:
            raise ValueError(f"it holds {', '.join(sorted(tensors))}, which is no part of a ticket")
        consistent(info, masks, start, rates)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from error
    return Saved(path, info, masks, start, rates)


def _info(path: Path) -> dict[str, Any]:
    """The metadata, read before the tensors, so that another kind of file is told from a damaged ticket."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER:
            raise Refused(f"{path}: is no ticket: its first bytes announce a header of {length:,} bytes")
        if size < 8 + length:
            raise Refused(f"{path}: is cut off: {size:,} bytes, of which its header alone takes {8 + length:,}")
        text = file.read(length)
    try:
        metadata = json.loads(text).get("__metadata__", {})
        info = json.loads(json.loads(metadata["lottery"])["info"])
        known, version = info["format"] == FORMAT, info["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise Refused(f"{path}: is no ticket; `lottery ticket export` writes one")
    if version != VERSION:
        raise Refused(f"{path}: is in version {str(version)[:20]} of the format; this lottery reads version {VERSION}")
    return info


def _mask(name: str, shape: Any, tensors: dict[str, Tensor]) -> Tensor:
    """A mask, unpacked. Raises ValueError if its bits don't fit its shape."""
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"shapes.{name} must be a list of sizes, not {str(shape)[:40]}")
    if f"mask.{name}" not in tensors:
        raise ValueError(f"it has no mask of {name}")
    packed, count = tensors.pop(f"mask.{name}"), prod(shape)
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != -(-count // 8):
        kind = f"{list(packed.shape)} {str(packed.dtype)[6:]}"
        raise ValueError(f"the mask of {name} is {kind}; {shape} takes {-(-count // 8):,} bytes")
    if count % 8 and int(packed[-1]) >> count % 8:
        raise ValueError(f"the mask of {name} has bits beyond the {count:,} weights of {shape}")
    return unpack(packed, shape)
