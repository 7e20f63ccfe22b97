"""A project's data: a data module that is set up once, its loaders, their length and what identifies them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import CombinedLoader
from torch.utils import _pytree
from torch.utils.data import DistributedSampler

from lottery.data.examples import DataError
from lottery.foundations.digests import digest_of
from lottery.foundations.errors import describe
from lottery.foundations.seeds import seeded
from lottery.training import ranks
from lottery.training.lightning.data.contents import content_of
from lottery.training.lightning.data.evaluating import evaluated, standing_in
from lottery.training.lightning.data.loaders import PARTS
from lottery.training.lightning.data.order import ordered
from lottery.training.lightning.data.reading import each_of, enters_anywhere
from lottery.training.lightning.data.remembering import check_draws_anew


@dataclass(frozen=True)
class ProjectData:
    """A project's data module, set up once for all phases, and what Lightning's arguments make of its lengths.

    `setup` may leave other data for a test than for training. As Lightning has it, the training and the validation in
    it see what "fit" has left, and the test what "test" has left after that.
    """

    module: pl.LightningDataModule
    """set up for training and for the validation in it"""
    accumulate: int = 1
    """batches for each optimizer step"""
    limit: int | float | None = None
    """the Trainer's `limit_train_batches`"""
    trainer: InitVar[pl.Trainer | None] = None
    """what `setup` finds as its `self.trainer`; it knows nothing of the training"""
    tested: pl.LightningDataModule = field(init=False)
    """set up for the test"""

    def __post_init__(self, trainer: pl.Trainer | None) -> None:
        """Raises DataError for a part that is missing or can't be read."""
        name, was = type(self.module).__name__, self.module.trainer
        try:
            self.module.trainer = trainer
            with seeded(0):  # a split may be drawn; it is the same for every replicate
                if ranks.share()[0] == 0:  # as Lightning has it: the others find what the first has prepared
                    self.module.prepare_data()
                with ranks.alone():  # or it might share out what is shared out here
                    self.module.setup("fit")
                    object.__setattr__(self, "tested", copy.copy(self.module))
                    self.tested.setup("test")
        except Exception as error:  # a user's module may raise anything, such as for want of a network
            raise DataError(f"data: {name} can't be set up: {describe(error)}") from error
        # Trainer.fit would do it again; a split that is drawn would then be another, and none is there after `teardown`
        for module in (self.module, self.tested):
            module.trainer = was
            for done in ("prepare_data", "setup", "teardown"):
                setattr(module, done, lambda *_, **__: None)
        for part in PARTS:
            self.loader(part)
        _ = self.batches_per_epoch

    @cached_property
    def _own(self) -> Mapping[str, Callable[[], Any]]:
        """The user's methods by part; while a training runs, another stands in for that of its loader: `trained_by`."""
        return {part: getattr(self.at(part), f"{part}_dataloader") for part in PARTS}

    def at(self, part: str) -> pl.LightningDataModule:
        """The data module, set up for `train`, `val` or `test`."""
        return self.tested if part == "test" else self.module

    def loader(self, part: str) -> Any:
        """The user's loader of `train`, `val` or `test`. Raises DataError without one."""
        name, method = type(self.module).__name__, f"{part}_dataloader"
        own = getattr(type(self.module), method) is not getattr(pl.LightningDataModule, method)
        if not own and method not in vars(self.at(part)):
            remedy = "; what it returns may be that of val_dataloader" if part == "test" else ""
            raise DataError(f"data: {name} has no {method}, which a curve needs{remedy}")
        try:
            with ranks.alone(), seeded(0):
                found = self._own[part]()
        except Exception as error:  # a user's module may raise anything
            raise DataError(f"data: {name}.{method} failed: {describe(error)}") from error
        if isinstance(found, CombinedLoader):
            raise DataError(f"data: {name}.{method} gives a CombinedLoader; give its loaders as a list or a dict")
        if found is None or (isinstance(found, list | tuple | dict) and not found):
            raise DataError(f"data: {name}.{method} gives no loader")
        return found

    def training(self, seed: int, share: tuple[int, int] = (0, 1)) -> Any:
        """The training loader, or loaders, in the order and with the augmentations of `seed`, for a rank of several."""
        found = self.loader("train")
        if isinstance(found, list | tuple | dict):
            return _pytree.tree_map(lambda loader: ordered(loader, seed, share), found)
        return ordered(found, seed, share)

    @contextmanager
    def trained_by(self, loader: Any) -> Iterator[None]:
        """Within the context, Lightning gets this training loader from the data module, whose other hooks apply."""
        whole = self._whole(self.module.val_dataloader)
        with standing_in(self.module, train_dataloader=lambda: loader, val_dataloader=whole):
            yield

    def _whole(self, own: Callable[[], Any]) -> Callable[[], Any]:
        """A validation loader's method, for each rank to validate on all the data. It raises DataError for a share."""

        def found() -> Any:
            with ranks.alone():
                loader = own()
            samplers = (getattr(each, "sampler", None) for each in each_of(loader))
            if any(isinstance(each, DistributedSampler) and each.num_replicas > 1 for each in samplers):
                raise DataError(
                    f"data: {type(self.module).__name__}.val_dataloader gives a DistributedSampler; every process "
                    "validates on all the data, and needs none"
                )
            return evaluated(loader)

        return found

    @cached_property
    def free_of_workers(self) -> bool:
        """Whether no order and nothing that is drawn as data are read depends on the number of workers."""
        return all(enters_anywhere(each) for part in PARTS for each in each_of(self.loader(part)))

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch. Raises DataError if the data do not say."""
        limit = self.limit
        try:
            length = max(len(each) for each in each_of(self.loader("train")))
        except TypeError as error:
            if isinstance(limit, int) and not isinstance(limit, bool):
                return limit
            raise DataError(
                f"data: the training data of {type(self.module).__name__} have no length; "
                "trainer.limit_train_batches=100 says how many batches are an epoch"
            ) from error
        if isinstance(limit, int):
            length = min(length, limit)
        elif limit is not None:
            length = int(length * limit)
        if not length:
            raise DataError(f"data: {type(self.module).__name__} has no training batches")
        return length

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last may have fewer batches than the others."""
        return -(-self.batches_per_epoch // self.accumulate)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the number of batches and of the first batches of each part: what was read at all costs little."""
        try:
            return digest_of(self._read())
        except DataError:
            raise
        except Exception as error:  # a user's data set may raise anything
            raise DataError(
                f"data: {type(self.module).__name__}: its batches can't be read: {describe(error)}"
            ) from error

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in PARTS:
            check_draws_anew(type(self.module).__name__, part, each_of(self.loader(part)))
            loader = self.training(0) if part == "train" else self.loader(part)
            with seeded(0):
                for each in each_of(loader):
                    found[f"{part}.{len(found)}"] = content_of(each)
        return found
