"""How loaders read: what is known of them, and what another needs that reads in place of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset


def each_of(loader: Any) -> list[Any]:
    """The loaders of a list, a tuple or a dict, or the one that is there."""
    return _pytree.tree_leaves(loader) if isinstance(loader, list | tuple | dict) else [loader]


def enters_anywhere(loader: Any) -> bool:
    """Whether a training on this loader can go on in the middle of an epoch without reading what came before.

    It can for every batch sampler over a map-style data set.
    """
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )


def examples_at(dataset: Any, indices: Sequence[Any]) -> list[Any]:
    """The examples of a batch, at once where the data set can."""
    if hasattr(dataset, "__getitems__"):
        return list(dataset.__getitems__(indices))
    return [dataset[index] for index in indices]


def settings_of(loader: DataLoader) -> dict[str, Any]:
    """What another loader must be given to collate, to start workers and to wait as this one does."""
    names = (
        "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
        "prefetch_factor", "persistent_workers",
    )  # fmt: skip
    return {name: getattr(loader, name) for name in names}


class Wrapped(Dataset):
    """A data set in place of another, which answers as that one: what initialises a worker may look at it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def examples_in(batch: Any) -> int:
    """How many examples a batch has: the length of its first tensor; 1 if it has none."""
    return next((len(leaf) for leaf in leaves_of(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)


def leaves_of(batch: Any) -> list[Any]:
    """What a batch is made of, in order; a mapping of any kind counts as a dict."""
    return _pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
