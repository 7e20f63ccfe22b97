"""Time and memory of `lottery.pruning.scopes.everywhere` on 138 million weights."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row, at_most
from lottery.pruning.contracts import Scores, Target
from lottery.pruning.masks import Masks
from lottery.pruning.scopes import everywhere

PAIRS, PEAKS, TARGET = 5, 3, Target(density=0.2, keep=0.2)
VGG16 = [
    *((outputs, inputs, 3, 3) for inputs, outputs in [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)]),
    *((outputs, inputs, 3, 3) for inputs, outputs in [(256, 256), (256, 256), (256, 512)] + 5 * [(512, 512)]),
    *[(4096, 25088), (4096, 4096), (1000, 4096)],
]
"""Shapes of the 138 million weights of VGG-16 for ImageNet (Simonyan & Zisserman 2015)."""


def measure() -> Iterator[Row]:
    scores, masks = weights()
    ratios = turns(
        lambda: cpu_seconds(lambda: everywhere(scores, masks, TARGET)),
        lambda: cpu_seconds(lambda: straightforward(list(scores.values()), list(masks.values()))),
        PAIRS,
    )
    yield at_most("VGG-16's 138M weights, one mask: CPU time over `torch.cat` + `kthvalue`", ratios, 0.4)
    shares = []
    for _ in range(PEAKS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            shares.append(fresh.submit(peak).result())
    yield at_most("its memory at the peak, the masks themselves included, over the weights'", shares, 0.5)


def weights() -> tuple[Scores, Masks]:
    """Magnitudes of normally distributed weights, of which 30 % are already pruned."""
    rng = torch.Generator().manual_seed(0)
    scores = {f"{index}.weight": torch.randn(shape, generator=rng).abs_() for index, shape in enumerate(VGG16)}
    return scores, {name: values > 0.385 for name, values in scores.items()}


def straightforward(scores: list[Tensor], alive: list[Tensor]) -> list[Tensor]:
    """The straightforward way: one tensor of all scores, pruned ones at -inf, and a threshold."""
    flat = torch.cat([part.flatten() for part in scores])
    flat.masked_fill_(~torch.cat([part.flatten() for part in alive]), -torch.inf)
    threshold = flat.kthvalue(flat.numel() - round(TARGET.density * flat.numel()) + 1).values
    return [part >= threshold for part in scores]


def peak() -> float:
    """Peak memory of `everywhere` beyond its inputs, relative to that of the weights; needs a fresh process."""
    torch.set_num_threads(1)
    scores, masks = weights()
    everywhere({"w": torch.ones(10)}, {"w": torch.ones(10, dtype=torch.bool)}, TARGET)  # lazy imports must not count
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    everywhere(scores, masks, TARGET)
    return (_memory("VmHWM") - before) / sum(4 * values.numel() for values in scores.values())


def _memory(what: str) -> int:
    """A memory counter of the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
