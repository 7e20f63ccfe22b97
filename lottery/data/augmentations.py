"""Augmentations: functions of a batch of images and a generator, ready for `data.augment`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirrors each image left to right with probability 1/2."""
    chosen = torch.randint(2, (len(images),), generator=rng).nonzero()[:, 0].to(images.device)
    return images.index_copy(0, chosen, images.index_select(0, chosen).flip(-1))


def pad_crop(images: Tensor, rng: torch.Generator, padding: int = 4, fill: float = 0) -> Tensor:
    """Pads each image by `padding` pixels of value `fill`, and crops a random window of the image's own size.

    All (2 * padding + 1)**2 windows are equally likely.
    """
    if not isinstance(padding, int) or padding < 0:
        raise ValueError(f"padding={padding}: must be 0 or more pixels")
    if images.dtype == torch.uint8 and fill not in range(256):  # it would wrap around or be rounded
        raise ValueError(f"fill={fill}: must be a whole number from 0 to 255 for images of bytes")
    count, *size = images.shape
    down, right = torch.randint(2 * padding + 1, (2, count), generator=rng)
    framed = functional.pad(images, [padding] * 4, value=fill)
    # a view of all overlapping windows: selecting from it copies whole rows of pixels, and not one by one
    image, channel, row, column = framed.stride()
    first = torch.arange(count) * image + down * row + right * column
    windows = (count - 1) * image + 2 * padding * (row + column) + 1
    return framed.as_strided((windows, *size), (1, channel, row, column)).index_select(0, first.to(images.device))


def pad_crop_flip(images: Tensor, rng: torch.Generator, padding: int = 4, fill: float = 0) -> Tensor:
    """The usual augmentation of CIFAR: `pad_crop`, then `flip`."""
    return flip(pad_crop(images, rng, padding, fill), rng)
