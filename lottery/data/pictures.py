"""Pictures: labelled image files that are decoded while they are read, for sets that do not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lottery.data.examples import Batches, DataError
from lottery.foundations.seeds import Order

Key = tuple[str, int, int | None]
"""a file, its class, and the seed of its transformation in training"""


@dataclass(frozen=True)
class Views:
    """What networks see of a picture, as bytes of `size` = (height, width), in three colours.

    In training a part of it, `scale` of its area and 3/4 to 4/3 as wide as high, resized, and mirrored with
    probability 1/2; in evaluation its centre, after its shorter side was resized to `resize` pixels.
    """

    size: tuple[int, int]
    resize: int
    scale: tuple[float, float] = (0.08, 1.0)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor] | str:
        """A batch, as a DataLoader asks for it; a complaint travels as text, or it would arrive as a traceback."""
        try:
            pixels = torch.stack([self.view(path, seed) for path, _, seed in keys])
        except DataError as error:
            return str(error)
        return pixels, torch.tensor([target for _, target, _ in keys])

    def view(self, path: str, seed: int | None) -> Tensor:
        """One picture, for training if there is a seed."""
        crop: list[Any] = [v2.Resize(self.resize), v2.CenterCrop(self.size)]
        if seed is not None:
            crop = [v2.RandomResizedCrop(self.size, self.scale), v2.RandomHorizontalFlip()]
        try:
            with Image.open(path) as file:
                mode, picture = file.mode, file.convert("RGB")
        except Exception as error:  # each format's decoder has its own
            raise DataError(f"{path} is damaged or no picture: {error}; remove it or fetch it again") from error
        if mode.startswith(("I", "F")):  # Pillow cuts their values off at 255, which leaves a white picture
            raise DataError(f"{path}: pictures of mode {mode} are not supported; convert them to 8 bits a channel")
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed or 0)
            return v2.Compose([*crop, v2.PILToTensor()])(picture)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Image files and their classes; `workers` processes decode them, or this one if there are none."""

    root: Path
    names: Sequence[str]
    """paths below the root"""
    targets: Tensor
    views: Views
    workers: int = 0
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: Tensor) -> Pictures:
        return replace(self, names=[self.names[index] for index in chosen.tolist()], targets=self.targets[chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return (3, *self.views.size)

    def to(self, device: torch.device | str) -> Pictures:
        """The same pictures, giving batches on a device; `targets` stay."""
        return replace(self, device=device)

    def training(self, seed: int, steps: Iterable[tuple[int, Tensor]]) -> Batches:
        """What is seen of a picture depends on the seed, the step and the picture alone, whoever decodes it."""
        return self._read(
            [self._key(index, Order(seed).view(step, index)) for index in chosen.tolist()] for step, chosen in steps
        )

    def evaluation(self, first: int, last: int, size: int) -> Batches:
        starts = range(first, last, size)
        return self._read([self._key(index) for index in range(start, min(start + size, last))] for start in starts)

    def content(self) -> Mapping[str, Tensor]:
        """Names, sizes and classes of the files, since reading them all would take an hour, and who decodes them."""
        names = torch.frombuffer(bytearray(os.fsencode("\n".join(self.names))), dtype=torch.uint8)
        sizes = torch.tensor([os.stat(self.root / name).st_size for name in self.names])
        decoders = torch.frombuffer(
            bytearray(f"{PIL.__version__} {torchvision.__version__}".encode()), dtype=torch.uint8
        )
        return {"names": names, "sizes": sizes, "targets": self.targets, "decoders": decoders}

    def _key(self, index: int, seed: int | None = None) -> Key:
        return os.path.join(self.root, self.names[index]), int(self.targets[index]), seed

    def _read(self, batches: Iterator[list[Key]]) -> Batches:
        device = torch.device(self.device)
        # keys name the files, so that no worker needs the list of them
        loader: DataLoader[Any] = DataLoader(
            self.views,  # type: ignore[arg-type]  # asked by key, where a Dataset is asked by index
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            multiprocessing_context=_context() if self.workers else None,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # or it would draw from the global one
            pin_memory=device.type == "cuda",
        )
        for found in loader:
            if isinstance(found, str):
                raise DataError(found)
            pixels, targets = found
            yield pixels.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _as_it_is(batch: Any) -> Any:
    return batch


def _context() -> Any:
    """Workers come from a server without threads: a fork of a process with threads may hang."""
    context = get_context("forkserver")
    # the processes of a sweep come from loky, and a child of theirs must know that name
    context.set_forkserver_preload([__name__, "joblib.externals.loky.backend"])
    return context


def _end_with_parent(worker: int) -> None:
    """PyTorch's workers watch the process that forked them, which here is the server."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
