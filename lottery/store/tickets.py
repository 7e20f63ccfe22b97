"""Tickets as files: masks, start weights, and all it takes to train them again and to check what is claimed of them.

    mask.<name>     which weights are kept, eight a byte
    start.<name>    weights and buffers of the network that the ticket begins with, pruned ones too;
                    none of them if `draw` says how they are drawn
    rates           factors on the learning rate by step, where the round was not as long as its recipe
    metadata        one JSON text, see `PARTS`, and a digest over everything

Reading runs no code that a file names: it is no pickle, and what `config` would call is called by `verify` and `run`
only, after `trusted` has looked at it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lottery.foundations.digests import digest, leaves
from lottery.foundations.errors import Refused
from lottery.foundations.files import Damaged, read_tensors, write_tensors
from lottery.foundations.seeds import Streams
from lottery.pruning import masks as _masks
from lottery.pruning.masks import Masks
from lottery.pruning.prunable import Prunable
from lottery.training.states import State

FORMAT, VERSION = "lottery ticket", 1
HEADER = 100_000_000  # bytes; what safetensors allows
NUMBER = (int, float)
CLAIMS = ("test_", "val_", "early_stop_")
"""what a ledger line measures begins with these"""
PARTS: dict[str, Any] = {
    "line": {
        "study": str, "arm": str, "seed": int, "round": int, "density": NUMBER, "layer_densities": dict, "phase": str,
        "train_steps": int, "total_flops": NUMBER, "total_flops_dense": NUMBER, "train_flops": NUMBER,
        "train_flops_dense": NUMBER,
    },
    "headline": str,
    "config": {"model": dict, "data": dict, "module": dict, "optimizer": dict, "budget": dict, "numerics": dict,
               "hardware": dict, "arm": dict, "seed": int},
    "phase": {"first": int, "last": int, "order": int, "noise": int, "build": int, "evaluate": int, "sparse": list},
    "shapes": dict,
    "draw": (list, type(None)),
    "digests": {"start": str, "ticket": str, "masks": str, "data": str, "trained": str, "code": dict},
    "made": {"lottery": str, "torch": str, "python": str, "science": int, "device": str, "devices": int,
             "cpu": (str, type(None))},
}  # fmt: skip
"""What the metadata holds: the round's ledger line, the cell's configuration without where things lay, the phase,
shapes of the masks, the purpose of the seed that draws the start, digests, and what it was made with."""


@dataclass(frozen=True)
class Saved:
    """A ticket's file, checked in itself; whether its claims hold is for `verify` to say."""

    path: Path
    info: Mapping[str, Any]
    masks: Masks
    start: State
    """empty if it is to be drawn"""
    rates: Tensor | None = None

    def write(self) -> None:
        """Writes the file, which appears whole or not at all."""
        tensors = {f"mask.{name}": _masks.pack(mask) for name, mask in self.masks.items()}
        tensors |= {f"start.{name}": tensor.contiguous() for name, tensor in self.start.items()}
        if self.rates is not None:
            tensors["rates"] = self.rates
        write_tensors(self.path, tensors, self.info)


def read(path: Path | str) -> Saved:
    """A ticket from its file. Raises Refused in one sentence if it is none, or not what was written."""
    path = Path(path)
    info = _info(path)
    try:
        tensors, _ = read_tensors(path)
    except Damaged as error:
        raise Refused(f"{error}; ask for the ticket again") from error
    try:
        _complete("it", info, PARTS)
        masks = {name: _mask(name, shape, tensors) for name, shape in info["shapes"].items()}
        start = {name.removeprefix("start."): tensors.pop(name) for name in sorted(tensors) if name[:6] == "start."}
        rates = tensors.pop("rates", None)
        if tensors:
            raise ValueError(f"it holds {', '.join(sorted(tensors))}, which is no part of a ticket")
        saved = Saved(path, info, masks, start, rates)
        _consistent(saved)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from error
    return saved


def seed_of(draw: Sequence[Any], seed: int) -> int:
    """Seed of the draw that a file names: `["init"]` or `["reinit", round]`. Raises ValueError for any other."""
    match draw:
        case ["init"]:
            return Streams(seed).init
        case ["reinit", int(round)] if round > 0 and not isinstance(round, bool):
            return Streams(seed).reinit(round)
    raise ValueError(f"draw={draw!s:.40} is no draw of a network's weights; known are ['init'] and ['reinit', round]")


def unfit(start: Mapping[str, Tensor], masks: Masks, net: nn.Module, prunable: Prunable) -> list[str]:
    """Where a ticket doesn't fit a network: names, shapes and types of its tensors and masks."""
    weights = prunable(net)
    shapes, places = ({name: str(list(t.shape)) for name, t in of.items()} for of in (masks, weights))
    pairs = [("", _kinds(start), _kinds(net.state_dict())), ("the mask of ", shapes, places)]
    return [
        f"{what}{name} is {there.get(name, 'missing')} in the ticket, {here.get(name, 'missing')} in the network"
        for what, there, here in pairs
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]


def _kinds(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{list(tensor.shape)} {str(tensor.dtype)[6:]}" for name, tensor in state.items()}


def _info(path: Path) -> dict[str, Any]:
    """The metadata, read by itself: what is no ticket is told from what was one."""
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


def _complete(where: str, value: Any, wanted: Any) -> None:
    """Raises ValueError naming the first part that is missing or of another kind."""
    kinds = (dict,) if isinstance(wanted, dict) else wanted if isinstance(wanted, tuple) else (wanted,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        known = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{where} must be {known}, not {str(value)[:40]}")
    for key, inner in wanted.items() if isinstance(wanted, dict) else ():
        if key not in value:
            raise ValueError(f"{where} has no {key!r}")
        _complete(f"{where}.{key}".removeprefix("it."), value[key], inner)


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
    return _masks.unpack(packed, shape)


def _consistent(saved: Saved) -> None:
    """Raises ValueError naming the first thing that the file says of itself and that is not so."""
    info, masks, start = saved.info, saved.masks, saved.start
    line, phase, digests = info["line"], info["phase"], info["digests"]
    for key, value in leaves(info):
        if not all(str(part).isprintable() for part in (*key, value)):  # a terminal may obey them
            raise ValueError(f"{'.'.join(key)!r} holds signs that can't be printed")
        if key[-1].startswith(CLAIMS) and key[0] == "line" and type(value) not in NUMBER:
            raise ValueError(f"{'.'.join(key)} must be a number, not {str(value)[:40]}")
    for key, value in line.items():
        if key.startswith(CLAIMS) and type(value) not in NUMBER:
            raise ValueError(f"line.{key} must be a number, not {str(value)[:40]}")
    costs = [line.get(f"{part}_flops{how}", 0) for part in ("train", "total") for how in ("", "_dense")]
    if not all(type(cost) in NUMBER and 0 <= cost < math.inf for cost in costs) or (
        costs[0] > costs[2] or costs[1] > costs[3] or costs[0] > costs[1] or costs[2] > costs[3]
    ):
        raise ValueError(f"its FLOPs contradict each other: {', '.join(str(cost)[:20] for cost in costs)}")
    if not all(type(name) is str for name in phase["sparse"]):
        raise ValueError("phase.sparse must be a list of names")
    if not masks or not _masks.kept(masks):
        raise ValueError("its masks keep no weight")
    if bool(start) is bool(info["draw"]):
        raise ValueError("it must hold either start weights or how to draw them (draw)")
    if not start:
        seed_of(info["draw"], line["seed"])
    for name, tensor in start.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"start.{name} holds NaN or infinite numbers")
    for name, mask in masks.items() if start else ():
        if name not in start or start[name].shape != mask.shape:
            raise ValueError(f"the mask of {name} is {list(mask.shape)}, its weights are {_kinds(start).get(name)}")
    for name in ("order", "noise", "build"):
        if not 0 <= phase[name] < 2**64:
            raise ValueError(f"phase.{name}={phase[name]} is no seed")
    if not 0 <= phase["first"] < phase["last"] or phase["evaluate"] < 1:
        raise ValueError(f"phase: no training goes from step {phase['first']} to {phase['last']}")
    if unknown := [name for name in phase["sparse"] if name not in masks]:
        raise ValueError(f"phase.sparse names {unknown[0]}, which has no mask")
    steps, rates = phase["last"] - phase["first"], saved.rates
    if rates is not None and (rates.dtype, rates.shape) != (torch.float64, (steps,)):
        raise ValueError(f"rates must be one number for each of the {steps} steps")
    if rates is not None and not rates.isfinite().all():
        raise ValueError("rates holds NaN or infinite numbers")
    said: list[tuple[str, Any, Any]] = [
        ("line.density", line["density"], _masks.density(masks)),
        ("line.layer_densities", line["layer_densities"], _masks.layer_densities(masks)),
        ("line.train_steps", line["train_steps"], steps),
        ("line.seed", line["seed"], info["config"]["seed"]),
        ("line.data", line.get("data"), digests["data"][:16]),
        ("digests.masks", digests["masks"], digest(masks)),
    ]
    if start:
        ticket = {name: tensor.clone() for name, tensor in start.items()}
        _masks.apply_(ticket, masks)
        said += [("digests.start", digests["start"], digest(start))]
        said += [("digests.ticket", digests["ticket"], digest(ticket))]
    for what, recorded, found in said:
        if recorded != found:
            raise ValueError(f"{what} says {str(recorded)[:60]}, but it is {str(found)[:60]}")
