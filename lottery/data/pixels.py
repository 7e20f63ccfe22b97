"""Pixels: from bytes to the inputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lottery.data.examples import DataError


@dataclass(frozen=True)
class Normalise:
    """Turns bytes (N, C, H, W) into floats: divides by 255, then normalises each channel by its mean and deviation."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise DataError(f"data.mean={list(self.mean)}, data.std={list(self.std)}: must be of one length")
        if not all(std > 0 for std in self.std):
            raise DataError(f"data.std={list(self.std)}: must be above 0")

    def __call__(self, pixels: Tensor) -> Tensor:
        if len(self.mean) != pixels.shape[1]:
            raise DataError(f"data.mean: {len(self.mean)} numbers do not go with {pixels.shape[1]} channels")
        inputs = pixels / 255
        # numbers, because tensors would have to be on the device
        for channel, mean, std in zip(inputs.unbind(1), self.mean, self.std, strict=True):
            channel.sub_(mean).div_(std)
        return inputs
