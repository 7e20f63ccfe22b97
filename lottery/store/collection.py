"""The size of a store, and its garbage collection. Both work while other processes write to the store."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from lottery.store import leases
from lottery.store.entries import RESULT, Store
from lottery.store.evaluations import META

DAY, TWO_WEEKS = 86400.0, 14 * 86400.0  # seconds


def size(root: Path) -> int:
    """Bytes in a store."""
    return sum(size for folder, _, _ in os.walk(root) for _, size in _contents(Path(folder)).values())


def collect(store: Store, needed: set[str]) -> tuple[int, int, int]:
    """Removes finished phases that are not needed, damaged ones, and unfinished ones untouched for two weeks.

    A phase that was trained within a day stays: it may belong to a cell that is running, or was killed, and whose
    ledger does not name it yet. A waypoint's state stays with the phase that it belongs to, finished or not.
    Returns entries removed, bytes freed, and the number of entries that are left only because they are young.
    """
    metas, now = store.entries(), time.time()
    all_of = {path: _contents(path) for path in sorted(store.root.iterdir()) if not path.is_symlink()}
    age = {path: now - max((changed for changed, _ in files.values()), default=now) for path, files in all_of.items()}
    unfinished = {folder.name for folder in all_of if folder.name not in metas and age[folder] < TWO_WEEKS}
    needed = needed | {key for key, meta in metas.items() if meta["spec"].get("of") in needed | unfinished}
    removed = freed = young = 0
    for folder, files in all_of.items():
        damaged = ".damaged." in folder.name
        patience = 0.0 if damaged else DAY if folder.name in metas else TWO_WEEKS
        if not files or leases.held(folder):
            continue
        if age[folder] < patience:
            young += folder.name in metas and folder.name not in needed
        elif folder.name in needed:  # only what a killed process left beside a finished phase is removed
            for path in files.keys() - {folder, folder / RESULT, folder / META}:
                freed += files[path][1]
                path.unlink(missing_ok=True)
        else:
            removed, freed = removed + 1, freed + sum(size for _, size in files.values())
            with suppress(FileNotFoundError):  # another process removes it too
                shutil.rmtree(folder)
    return removed, freed, young


def _contents(folder: Path) -> dict[Path, tuple[float, int]]:
    """Modification time and size of a folder and its files, except those that a running job renames or removes."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder, *folder.iterdir()):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found[path] = (stat.st_mtime, stat.st_size if path.is_file() else 0)
    return found
