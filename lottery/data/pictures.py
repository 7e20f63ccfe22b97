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
"""Path of a file, its class, and the seed of its augmentation, None in evaluation."""


@dataclass(frozen=True)
class Views:
    """Decodes pictures into bytes of three colours and `size` = (height, width).

    In training, a random crop of `scale` of a picture's area and an aspect ratio of 3/4 to 4/3 is resized, and mirrored
    with probability 1/2. In evaluation, the shorter side is resized to `resize` pixels, and the centre is cropped.
    """

    size: tuple[int, int]
    resize: int
    scale: tuple[float, float] = (0.08, 1.0)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor] | str:
        """A batch for a DataLoader, or an error as text: raised in a worker, it would arrive as a traceback."""
        try:
            pixels = torch.stack([self.view(path, seed) for path, _, seed in keys])
        except DataError as error:
            return str(error)
        return pixels, torch.tensor([target for _, target, _ in keys])

    def view(self, path: str, seed: int | None) -> Tensor:
        """Pixels of one picture, augmented if there is a seed."""
        crop: list[Any] = [v2.Resize(self.resize), v2.CenterCrop(self.size)]
        if seed is not None:
            crop = [v2.RandomResizedCrop(self.size, self.scale), v2.RandomHorizontalFlip()]
        try:
            with Image.open(path) as file:
                mode, picture = file.mode, file.convert("RGB")
        except Exception as error:  # each format's decoder raises its own
            raise DataError(f"{path} is damaged or no picture: {error}; remove it or fetch it again") from error
        if mode.startswith(("I", "F")):  # Pillow clips their values at 255, which gives a white picture
            raise DataError(f"{path}: pictures of mode {mode} are not supported; convert them to 8 bits a channel")
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed or 0)
            return v2.Compose([*crop, v2.PILToTensor()])(picture)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Image files and their classes; `workers` processes decode them, or this process if there are none."""

    root: Path
    names: Sequence[str]
    """paths of the files, relative to `root`"""
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
        """Shape of one input."""
        return (3, *self.views.size)

    def to(self, device: torch.device | str) -> Pictures:
        """The same pictures, with their batches on a device; `targets` stay where they are."""
        return replace(self, device=device)

    def training(self, seed: int, steps: Iterable[tuple[int, Tensor]]) -> Batches:
        """Augmentation depends on the seed, the step and the picture alone, whichever process decodes it."""
        return self._read(
            [self._key(index, Order(seed).view(step, index)) for index in chosen.tolist()] for step, chosen in steps
        )

    def evaluation(self, first: int, last: int, size: int) -> Batches:
        starts = range(first, last, size)
        return self._read([self._key(index) for index in range(start, min(start + size, last))] for start in starts)

    def content(self) -> Mapping[str, Tensor]:
        """Names, sizes and classes of the files, since reading them all would take an hour; the decoders' versions."""
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
        # keys hold the paths, so that workers need no copy of the list
        loader: DataLoader[Any] = DataLoader(
            self.views,  # type: ignore[arg-type]  # indexed by keys, where a Dataset is indexed by numbers
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            multiprocessing_context=_context() if self.workers else None,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # otherwise it would draw from the global one
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
    """Workers are forks of a server without threads, because a fork of a process with threads may deadlock."""
    context = get_context("forkserver")
    # the workers of a sweep are loky's, and their children must know that name
    context.set_forkserver_preload([__name__, "joblib.externals.loky.backend"])
    return context


def _end_with_parent(worker: int) -> None:
    """Ends a worker with the process that reads: by itself it watches only its parent, which is the fork server."""
    parent = parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
