"""Export: one operating point as a folder, which needs neither pickle nor, to be run, this framework.

structure.json       plain data from which `build` makes the network; {} if there is nothing to say
model.safetensors    weights and buffers, with digests of both
model.pt2            the program of `torch.export`
model.onnx           the same in ONNX
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lottery.compress.contents import Example, batch_of, restore_
from lottery.compress.programs import OPSET, PROGRAMS, Program, check_programs, programs_of
from lottery.foundations.digests import canonical, digest_of
from lottery.foundations.errors import Refused
from lottery.foundations.files import Damaged, read_tensors, staged, write_whole
from lottery.training.state_files import content, state_once

STRUCTURE, STATE = "structure.json", "model.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    files: Mapping[str, int]
    """bytes by name"""
    differences: Mapping[str, float]
    """of each program's outputs to the network's own, see `programs.Program`"""
    opset: int | None
    """ONNX's version of operators, if there is such a file"""


def export_point(
    folder: Path | str,
    net: nn.Module,
    example: Example,
    structure: Mapping[str, Any] | None = None,
    programs: Sequence[str] = PROGRAMS,
) -> Exported:
    """Writes a network, as it evaluates, to a new folder: all of its files or, whatever happens, none.

    Programs take batches of any size, and are compared with the network on two others than they were traced with. A
    process that is killed may leave a hidden folder beside this one, which nothing reads. Raises Refused, before
    anything is written, if the folder exists, a package is missing, or a program can't express the network or gives
    other outputs; ValueError if the example is no batch or the network holds more than dense tensors.
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise Refused(f"{folder}: exists already; name a new folder")
    check_programs(programs)
    try:
        text = canonical(structure or {})
    except (TypeError, ValueError) as error:
        raise Refused(f"structure: must be plain data, which JSON can hold: {error}") from error
    state, made = _made(net, example, text, programs)
    files = {STRUCTURE: text.encode(), STATE: state} | {f"model.{name}": made[name].content for name in programs}
    with staged(folder) as staging:
        for name, held in files.items():
            write_whole(staging / name, held)
    return Exported(
        folder,
        files={name: len(held) for name, held in files.items()},
        differences={name: made[name].difference for name in programs},
        opset=OPSET if "onnx" in programs else None,
    )


def check_point(net: nn.Module, example: Example, programs: Sequence[str] = PROGRAMS) -> None:
    """Raises what `export_point` would for this network and its example; writes nothing.

    It is for the network as it is before long work on its weights, which changes nothing that a program has to express.
    """
    check_programs(programs)
    _made(net, example, "{}", programs)


def _made(net: nn.Module, example: Example, text: str, programs: Sequence[str]) -> tuple[bytes, dict[str, Program]]:
    """The content of the state's file, and the programs."""
    twin = copy.deepcopy(net).cpu().eval()
    made = programs_of(twin, tuple(each.detach().cpu() for each in batch_of(example)), programs)
    return content(state_once(twin), json.loads(text)), made  # the structure as it will be read


def read_point(folder: Path | str, build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module:
    """The network of an exported folder, in evaluation mode: `build` makes it of its structure, then it gets its state.

    Programs are not read, and nothing is a pickle. Raises Refused if a file is missing or damaged, or if `build` makes
    another network.
    """
    folder = Path(folder)
    try:
        structure = json.loads((folder / STRUCTURE).read_bytes())
        (folder / STATE).stat()
        tensors, info = read_tensors(folder / STATE)
    except FileNotFoundError as error:
        raise Refused(f"{error.filename}: is missing, so that this is no exported point") from error
    except ValueError as error:
        raise Refused(f"{folder / STRUCTURE}: is damaged: {error}") from error
    except Damaged as error:
        raise Refused(str(error)) from error
    if info.get("structure") != digest_of(structure):
        raise Refused(f"{folder / STRUCTURE}: is not the structure of the network in {STATE}")
    try:
        return restore_(build(structure), tensors, str(folder / STATE)).eval()
    except ValueError as error:
        raise Refused(str(error)) from error
