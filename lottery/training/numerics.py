"""Numerics: the settings that change the bits of a result, and so belong to a study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

PRECISIONS = ("32", "bf16-mixed", "16-mixed")
SPARSE = ("auto", "on", "off")
SHRINK = ("auto", "off")
ROUNDING = "highest", True
"""PyTorch's defaults: products of 32-bit floats are exact to 32 bits, cuDNN's convolutions may be rounded to TF32."""


@dataclass(frozen=True)
class Numerics:
    """Settings that change the bits of a result."""

    precision: str = "32"
    """precision of training and evaluation; criteria always get gradients in 32 bits"""
    threads: int = 1
    """CPU threads; results with 1 and with 2 differ in the last bits"""
    deterministic: bool = True
    sparse: str = "auto"
    """whether thin linear layers train on their kept values alone: `auto` where that is faster, `on`, `off`"""
    shrink: str = "off"
    """`auto`: a round trains the network without its dead channels, and has the dense shapes again at its end"""
    compile: bool = False
    """whether the network goes through `torch.compile`"""
    channels_last: bool = False
    """whether images lie in memory with the channels of a pixel side by side (NHWC), see `side_by_side_`"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", str(self.precision))
        if isinstance(self.sparse, bool):  # yaml reads on and off as booleans
            object.__setattr__(self, "sparse", "on" if self.sparse else "off")
        if self.shrink is False:
            object.__setattr__(self, "shrink", "off")
        if self.shrink not in SHRINK:
            raise ValueError(f"shrink={self.shrink}: must be one of {', '.join(SHRINK)}")
        if self.sparse not in SPARSE:
            raise ValueError(f"sparse={self.sparse}: must be one of {', '.join(SPARSE)}")
        if self.sparse == "on" and self.precision != "32":
            raise ValueError(f"sparse=on: goes with precision=32 only, not with {self.precision}")
        if self.sparse == "on" and self.shrink != "off":
            raise ValueError("sparse=on: goes with shrink=off only, since a smaller network trains dense layers")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision}: must be one of {', '.join(PRECISIONS)}")
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: must be at least 1")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sets threads, deterministic kernels and rounding, which are global in PyTorch, and restores them at the end.

        All code that computes a result enters it, so that no result depends on settings that other code left behind.
        """
        threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
        rounding = _rounding()
        strict = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.set_num_threads(self.threads)
        _round(*ROUNDING)
        torch.use_deterministic_algorithms(self.deterministic)
        if self.deterministic:
            torch.backends.cudnn.benchmark = False  # its choice of kernels depends on timings
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # not restored, since cuBLAS reads it once
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _round(*rounding)
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark


def side_by_side_(net: nn.Module) -> None:
    """Lays the weights of a network out for `channels_last`, unless it has a layer that PyTorch can't train so.

    On a CPU, PyTorch 2.14's gradients of a 1x1 convolution with a stride and fewer than 8 input channels write beyond
    their memory in this layout: the process dies, or worse. Networks without most of their channels have such layers.
    """
    pointwise = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    if not any(layer.stride != (1, 1) and layer.in_channels < 8 for layer in pointwise):
        net.to(memory_format=torch.channels_last)


def _rounding() -> tuple[str, bool]:
    """What is set in place of ROUNDING; ROUNDING itself where each backend was set alone, so that PyTorch won't say."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return ROUNDING


def _round(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
