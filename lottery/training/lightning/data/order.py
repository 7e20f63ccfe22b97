"""The order of a project's training data and what is drawn for it: functions of a seed, the epoch and the batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all
from lottery.training import ranks
from lottery.training.lightning.data.curricula import Curriculum
from lottery.training.lightning.data.reading import Wrapped, enters_anywhere, examples_at, settings_of
from lottery.training.lightning.data.samplers import EpochBatches


def ordered(loader: Any, seed: int, share: tuple[int, int] = (0, 1)) -> Ordered | FromStart:
    """The loader with its order and augmentations as functions of `seed`.

    `share` = (rank, number of ranks) selects one of nearly equal parts of each batch, which `check_shares` has found to
    be possible.
    """
    if enters_anywhere(loader):
        return Ordered(loader, seed, share)
    return FromStart(loader, seed)


class Augmented(Wrapped):
    """A data set that is seeded once a batch, in whichever worker draws it, so that no number depends on workers."""

    def __init__(self, inner: Any, seed: int, rank: int) -> None:
        super().__init__(inner)
        self.seed, self.rank = seed, rank

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        (epoch, number), *indices = keys
        seed_all(derive(self.seed, "batch", epoch, number, *ranks.stream(self.rank)))
        return examples_at(self.inner, indices)


class Ordered(DataLoader):
    """A loader that Lightning can resume in the middle of an epoch: it asks for `state_dict` and `load_state_dict`.

    A hook that looks at it finds what the user's own loader has.
    """

    def __init__(self, loader: DataLoader, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self._batches = EpochBatches(loader.batch_sampler, loader.generator, seed, share)
        self._augmented = Augmented(loader.dataset, seed, share[0])
        self.curriculum = Curriculum(loader.dataset)
        # Workers begin with each epoch: they know what was set on the data set before, as a single process does.
        settings = settings_of(loader) | {"persistent_workers": False}
        super().__init__(loader.dataset, batch_sampler=self._batches, **settings)
        own = ("batch_size", "batch_sampler", "sampler", "drop_last")
        vars(self).update({name: getattr(loader, name) for name in own})

    @property
    def _index_sampler(self) -> EpochBatches:
        return self._batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # only ever iterated over
        """Begins once a batch is asked for, which is after the hooks of an epoch's beginning."""
        self.curriculum.note()
        for batch in super().__iter__():
            self.curriculum.read()
            yield batch
            if self.curriculum.note():
                _check_seen(self.num_workers)

    def _get_iterator(self) -> Any:
        read = copy.copy(self)
        vars(read)["dataset"] = self._augmented
        return DataLoader._get_iterator(read)

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)

    def part(self, number: int) -> float:
        """This rank's part of a batch of the epoch; of loaders that take turns, all batches are shared equally."""
        parts = self._batches.parts
        return parts[number] if number < len(parts) else 1 / self._batches.share[1]

    def state_dict(self) -> dict[str, int]:
        return {}  # Lightning asks for one; `Guide` knows how many batches were trained

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.set_epoch(state["epoch"])
        self._batches.begin = state["done"] % max(1, len(self))


class FromStart:
    """Any other iterable, such as one over a stream: seeded at each batch, and entered by reading what comes before."""

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed, self.epoch, self.begin = loader, seed, 0, 0
        self.curriculum, self.workers_last = Curriculum(getattr(loader, "dataset", None)), False

    def __getattr__(self, name: str) -> Any:  # a hook may look at the loader
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.curriculum.note()
        if (dataset := getattr(self.loader, "dataset", None)) is not None and hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        self.curriculum.read()

    def part(self, number: int) -> float:
        return 1.0  # see `check_shares`

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        begin, self.begin = self.begin, 0
        while True:
            number = -1
            for number, batch in enumerate(self._epoch()):
                if number >= begin:
                    yield batch
            if number >= begin or number < 0:
                return
            begin -= number + 1  # it has ended before, beside a longer loader, and was begun again

    def _epoch(self) -> Iterator[Any]:
        workers = getattr(self.loader, "num_workers", 0)
        if self.curriculum.note() and self.workers_last:
            _check_seen(workers)
        self.workers_last = getattr(self.loader, "persistent_workers", False)
        seed_all(derive(self.seed, "epoch", self.epoch))
        if isinstance(generator := getattr(self.loader, "generator", None), torch.Generator):
            generator.manual_seed(derive(self.seed, "epoch", self.epoch))
        batches = iter(self.loader)
        self.curriculum.read()
        for number in count():
            if self.curriculum.note():
                _check_seen(workers)
            seed_all(derive(self.seed, "batch", self.epoch, number))  # a stream may draw as it is read
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.curriculum.read()
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {}  # see `Ordered`

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.set_epoch(state["epoch"])
        self.begin = state["done"]


def _check_seen(workers: int) -> None:
    """Raises Refused if there are workers, which have begun and know the data set as it was."""
    if workers:
        raise Refused(
            "model: a hook changes the training data set while its workers read it, which they would not see; it may "
            "at an epoch's beginning, without persistent_workers, or with num_workers=0"
        )
