"""How a loader reads a map-style data set, for whoever reads it in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset


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
