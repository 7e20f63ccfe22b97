"""Programs: a network as `torch.export` and ONNX express it, for batches of any size, compared with the network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lottery.compress.contents import rows_of, shape_of
from lottery.foundations.errors import Refused

PROGRAMS = ("pt2", "onnx")
OPSET = 20
"""ONNX's version of operators."""
EXTRA = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `lottery[onnx]` installs."""
LARGEST = 2**31
"""Bytes that one ONNX file can hold."""
TOLERANCE = 1e-4
"""The largest difference that outputs may have, as a share of the network's largest output; absolute if that is 0."""
BATCHES = (1, 5)
"""Sizes of the batches that outputs are compared on; a network is traced with another."""


@dataclass(frozen=True)
class Program:
    """A network as a file that runs without its code."""

    content: bytes
    difference: float
    """the largest difference to the network's own outputs, relative as `TOLERANCE` is"""


def check_programs(names: Sequence[str]) -> None:
    """Raises Refused for a program that is unknown or needs packages that are not installed."""
    if unknown := [name for name in names if name not in PROGRAMS]:
        raise Refused(f"programs={','.join(unknown)}: must be among {', '.join(PROGRAMS)}")
    if "onnx" in names and (missing := [name for name in EXTRA if find_spec(name) is None]):
        raise Refused(f"model.onnx needs {', '.join(missing)}: run pip install 'lottery[onnx]', or leave it out")


def programs_of(net: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> dict[str, Program]:
    """The programs of these names. Raises Refused if one can't express the network or gives other outputs."""
    expected = {size: _outputs(net, rows_of(inputs, size)) for size in BATCHES}
    if not names:
        return {}
    program = _traced(net, rows_of(inputs, 2))  # a dimension of one is never dynamic
    made = {}
    for name in sorted(names):  # onnx first: pt2 lets go of the inputs
        content, run = (_onnx if name == "onnx" else _pt2)(program)
        found = max(_difference(name, expected[size], run(*rows_of(inputs, size))) for size in BATCHES)
        made[name] = Program(content, found)
    return made


Run = Callable[..., Tensor]


def _traced(net: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        return torch.export.export(net, inputs, dynamic_shapes=tuple({0: Dim("batch")} for _ in inputs))
    except Exception as error:
        raise Refused(f"torch.export can't express this network for batches of any size: {_first(error)}") from error


def _pt2(program: ExportedProgram) -> tuple[bytes, Run]:
    program.example_inputs = None  # a file that is handed on should hold nobody's data
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue(), torch.export.load(io.BytesIO(file.getvalue())).module()


def _onnx(program: ExportedProgram) -> tuple[bytes, Run]:
    if sum(tensor.nbytes for tensor in program.state_dict.values()) >= LARGEST:
        raise Refused(f"model.onnx: the weights take more than the {LARGEST:,} bytes of one file; leave ONNX out")
    count = len(program.graph_signature.user_inputs)
    names = ["inputs"] if count == 1 else [f"inputs_{number}" for number in range(count)]
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
            input_names=names,
            output_names=["outputs"],
        )
    except Exception as error:
        lacking = _operator(error)
        what = f"ONNX has no {lacking}, which this network uses" if lacking else f"can't be made: {_first(error)}"
        raise Refused(f"model.onnx: {what}; leave ONNX out") from error
    assert made
    content = made.model_proto.SerializeToString()
    import onnxruntime  # of an extra

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda *inputs: torch.from_numpy(
        session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})[0]
    )


def _operator(error: BaseException | None) -> str | None:
    """The operator that a translation lacks, which the innermost of several chained errors names."""
    while error:
        if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error)):
            return found[1]
        error = error.__cause__
    return None


def _outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    try:
        with torch.inference_mode():
            outputs = net(*inputs)
    except Exception as error:
        raise Refused(f"example: the network fails on a batch of shape {shape_of(inputs)}: {error}") from error
    if not isinstance(outputs, Tensor):
        raise Refused(f"the network gives a {type(outputs).__name__}; one that gives a single tensor can be exported")
    if not outputs.isfinite().all():
        raise Refused("the network's outputs for the example are not finite, so that nothing can be compared with them")
    return outputs


def _difference(name: str, ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise Refused(f"model.{name}: gives outputs of shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    ours, theirs = ours.double(), theirs.detach().double()  # classes and truth values are compared alike
    found = float((ours - theirs).abs().max()) / (float(ours.abs().max()) or 1.0)
    if not found <= TOLERANCE:  # NaN too
        raise Refused(f"model.{name}: its outputs differ from the network's by {found:.1e}, more than {TOLERANCE:g}")
    return found


def _first(error: BaseException) -> str:
    """An error's first line, since those of PyTorch go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
