"""Batched crops and flips, compared with torchvision's transforms of single pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision import transforms

from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row, at_least
from lottery.data.augmentations import pad_crop_flip

PAIRS, BATCH = 30, 128


def measure() -> Iterator[Row]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=rng)
    pictures = [transforms.functional.to_pil_image(image) for image in images]
    one = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )

    def each() -> Tensor:
        return torch.stack([one(picture) for picture in pictures])

    def batched() -> None:
        for _ in range(20):
            pad_crop_flip(images, rng, padding=4)

    ratios = turns(lambda: 20 * cpu_seconds(each), lambda: cpu_seconds(batched), PAIRS)
    what = f"crops and flips of {BATCH} images of 3x32x32: PIL's one by one over ours, time"
    yield at_least(what, ratios, 20, ".1f")
