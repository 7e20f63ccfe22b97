"""The data of validation and test: what is drawn as they are read is a function of a seed and the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils import _pytree
from torch.utils.data import DataLoader, get_worker_info

from lottery.foundations.seeds import derive, seed_reading, unmoved
from lottery.training.lightning.data.reading import Wrapped, enters_anywhere, examples_at, settings_of


def evaluated(loaders: Any) -> Any:
    """The loader, or loaders, of validation or test, without a number that depends on workers; streams stay as are."""
    numbers = count()
    return _pytree.tree_map(lambda each: Evaluated(each, next(numbers)) if enters_anywhere(each) else each, loaders)


@contextmanager
def measured_on(module: pl.LightningDataModule, part: str) -> Iterator[None]:
    """Within the context, Lightning gets the data of `val` or `test` with draws that do not depend on workers."""
    own = getattr(module, f"{part}_dataloader")
    with standing_in(module, **{f"{part}_dataloader": lambda: evaluated(own())}):
        yield


@contextmanager
def standing_in(module: pl.LightningDataModule, **methods: Callable[[], Any]) -> Iterator[None]:
    """Within the context, these methods stand in for a data module's own, whose other hooks apply."""
    of = vars(module)
    before = {name: of[name] for name in methods if name in of}  # as `from_datasets` sets them
    of |= methods
    try:
        yield
    finally:
        for name in methods:
            del of[name]
        of |= before


class Evaluated(DataLoader):
    """A loader that is seeded once a batch, in whichever worker reads it, from the seed that an evaluation begins with.

    Steps draw from the same stream as if their data drew nothing. `number` is its place among several loaders.
    """

    def __init__(self, loader: DataLoader, number: int) -> None:
        super().__init__(
            loader.dataset, batch_sampler=loader.batch_sampler, generator=loader.generator, **settings_of(loader)
        )
        own = ("batch_size", "sampler", "drop_last")  # Lightning looks whether it shuffles
        vars(self).update({name: getattr(loader, name) for name in own})
        self._number = number
        self._keys = list[Any]()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # only ever iterated over
        """Begins once a batch is asked for: Lightning makes iterators before an evaluation is seeded."""
        seed = torch.initial_seed()
        if isinstance(self.generator, torch.Generator):
            self.generator.manual_seed(seed)
        # in one piece, for workers would have it drawn ahead of what the first steps draw
        batches = [list(batch) for batch in self.batch_sampler or ()]
        self._keys[:] = [[derive(seed, "batch", self._number, at), *batch] for at, batch in enumerate(batches)]
        with unmoved():  # a seed for workers is drawn
            found = super().__iter__()
        yield from found

    def _get_iterator(self) -> Any:
        read = copy.copy(self)
        vars(read).update(dataset=_Drawn(self.dataset, self.collate_fn), collate_fn=_as_is, batch_sampler=self._keys)
        return DataLoader._get_iterator(read)


class _Drawn(Wrapped):
    """Reads and collates the examples of a batch under its seed, and leaves the generators as they were."""

    def __init__(self, inner: Any, collate: Callable[[list[Any]], Any]) -> None:
        super().__init__(inner)
        self.collate = collate

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        seed, *indices = keys
        with nullcontext() if get_worker_info() else unmoved():
            seed_reading(seed)
            return self.collate(examples_at(self.inner, indices))


def _as_is(batch: Any) -> Any:
    return batch
