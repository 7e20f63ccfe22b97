"""What a ticket's file must hold: its parts, that they agree with each other, and whether they fit a network.

A file may come from anyone. These checks run no code that it names, and raise ValueError at the first fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lottery.foundations.digests import digest, leaves
from lottery.foundations.seeds import Streams
from lottery.pruning.masks import Masks, apply_, density, kept, layer_densities
from lottery.pruning.prunable import Prunable
from lottery.training.states import State
from lottery.training.states import weights as weights_of

NUMBER = (int, float)
CLAIMS = ("test_", "val_", "early_stop_")
"""Keys of a ledger line that are measurements begin with one of these."""
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
"""The metadata and their types: the round's ledger line; the cell's configuration without its folders; the phase; the
shapes of the masks; for what the seed draws the start weights (null if they are in the file); digests; and the versions
and the device that the ticket was made with."""


def complete(where: str, value: Any, wanted: Any) -> None:
    """Raises ValueError naming the first part that is missing or has another type than `wanted`, such as PARTS."""
    kinds = (dict,) if isinstance(wanted, dict) else wanted if isinstance(wanted, tuple) else (wanted,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        known = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{where} must be {known}, not {str(value)[:40]}")
    for key, inner in wanted.items() if isinstance(wanted, dict) else ():
        if key not in value:
            raise ValueError(f"{where} has no {key!r}")
        complete(f"{where}.{key}".removeprefix("it."), value[key], inner)


def consistent(info: Mapping[str, Any], masks: Masks, start: State, rates: Tensor | None) -> None:
    """Raises ValueError at the first thing that the metadata say and that is not so."""
    _check_line(info)
    _check_weights(info, masks, start)
    _check_phase(info["phase"], masks, rates)
    for what, recorded, found in _facts(info, masks, start):
        if recorded != found:
            raise ValueError(f"{what} says {str(recorded)[:60]}, but it is {str(found)[:60]}")


def _check_line(info: Mapping[str, Any]) -> None:
    for key, value in leaves(info):
        if not all(str(part).isprintable() for part in (*key, value)):  # a terminal may obey control characters
            raise ValueError(f"{'.'.join(key)!r} holds signs that can't be printed")
    line = info["line"]
    for key, value in line.items():
        # None: a metric that was not finite
        if key.startswith(CLAIMS) and value is not None and type(value) not in NUMBER:
            raise ValueError(f"line.{key} must be a number, not {str(value)[:40]}")
    costs = [line.get(f"{part}_flops{how}", 0) for part in ("train", "total") for how in ("", "_dense")]
    if not all(type(cost) in NUMBER and 0 <= cost < math.inf for cost in costs) or (
        costs[0] > costs[2] or costs[1] > costs[3] or costs[0] > costs[1] or costs[2] > costs[3]
    ):
        raise ValueError(f"its FLOPs contradict each other: {', '.join(str(cost)[:20] for cost in costs)}")


def _check_weights(info: Mapping[str, Any], masks: Masks, start: State) -> None:
    if not masks or not kept(masks):
        raise ValueError("its masks keep no weight")
    if bool(start) is bool(info["draw"]):
        raise ValueError("it must hold either start weights or how to draw them (draw)")
    if not start:
        seed_of(info["draw"], info["line"]["seed"])
    for name, tensor in start.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"start.{name} holds NaN or infinite numbers")
    for name, mask in masks.items() if start else ():
        if name not in start or start[name].shape != mask.shape:
            raise ValueError(f"the mask of {name} is {list(mask.shape)}, its weights are {_kinds(start).get(name)}")


def _check_phase(phase: Mapping[str, Any], masks: Masks, rates: Tensor | None) -> None:
    for name in ("order", "noise", "build"):
        if not 0 <= phase[name] < 2**64:
            raise ValueError(f"phase.{name}={phase[name]} is no seed")
    if not 0 <= phase["first"] < phase["last"] or phase["evaluate"] < 1:
        raise ValueError(f"phase: no training goes from step {phase['first']} to {phase['last']}")
    if not all(type(name) is str for name in phase["sparse"]):
        raise ValueError("phase.sparse must be a list of names")
    if unknown := [name for name in phase["sparse"] if name not in masks]:
        raise ValueError(f"phase.sparse names {unknown[0]}, which has no mask")
    steps = phase["last"] - phase["first"]
    if rates is not None and (rates.dtype, rates.shape) != (torch.float64, (steps,)):
        raise ValueError(f"rates must be one number for each of the {steps} steps")
    if rates is not None and not rates.isfinite().all():
        raise ValueError("rates holds NaN or infinite numbers")


def _facts(info: Mapping[str, Any], masks: Masks, start: State) -> Iterator[tuple[str, Any, Any]]:
    """What the metadata say of tensors and of each other: the key, its value, and what it should be."""
    line, phase, digests = info["line"], info["phase"], info["digests"]
    yield "line.density", line["density"], density(masks)
    yield "line.layer_densities", line["layer_densities"], layer_densities(masks)
    yield "line.train_steps", line["train_steps"], phase["last"] - phase["first"]
    yield "line.seed", line["seed"], info["config"]["seed"]
    yield "line.data", line.get("data"), digests["data"][:16]
    yield "digests.masks", digests["masks"], digest(masks)
    if start:
        ticket = {name: tensor.clone() for name, tensor in start.items()}
        apply_(ticket, masks)
        yield "digests.start", digests["start"], digest(start)
        yield "digests.ticket", digests["ticket"], digest(ticket)


def seed_of(draw: Sequence[Any], seed: int) -> int:
    """The seed that draws the start weights, by what a file calls the draw: `["init"]` or `["reinit", round]`.

    Raises ValueError for any other.
    """
    match draw:
        case ["init"]:
            return Streams(seed).init
        case ["reinit", int(round)] if round > 0 and not isinstance(round, bool):
            return Streams(seed).reinit(round)
    raise ValueError(f"draw={draw!s:.40} is no draw of a network's weights; known are ['init'] and ['reinit', round]")


def unfit(start: Mapping[str, Tensor], masks: Masks, net: nn.Module, prunable: Prunable) -> list[str]:
    """How a ticket and a network differ in names, shapes and types of tensors; empty if the ticket fits."""
    weights = prunable(net)
    shapes, places = ({name: str(list(t.shape)) for name, t in of.items()} for of in (masks, weights))
    pairs = [("", _kinds(weights_of(start)), _kinds(net.state_dict())), ("the mask of ", shapes, places)]
    return [
        f"{what}{name} is {there.get(name, 'missing')} in the ticket, {here.get(name, 'missing')} in the network"
        for what, there, here in pairs
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]


def _kinds(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{list(tensor.shape)} {str(tensor.dtype)[6:]}" for name, tensor in state.items()}
