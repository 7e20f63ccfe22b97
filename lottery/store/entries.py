"""The phase store: each phase of training is kept under the digest of what it depends on.

    store/<key>/phase.json            finished: metrics by step, steps executed, by whom; written last
    store/<key>/result.safetensors    weights, buffers and packed masks
    store/<key>/checkpoint.safetensors, lease.<n>      while it trains

Every file appears by rename and carries a digest of its content. What does not match is set aside under
`<key>.damaged.<n>` and trained anew. Nothing here is a pickle.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lottery.foundations.digests import canonical, digest, digest_of
from lottery.foundations.errors import Lost
from lottery.foundations.files import Damaged, read_tensors, write_tensors, write_whole
from lottery.pruning.masks import Masks, pack, unpack
from lottery.store import leases
from lottery.store.keeper import CHECKPOINT, FolderKeeper
from lottery.training.recipes import Row, Trained
from lottery.training.states import State

_log = logging.getLogger(__name__)

DAY, TWO_WEEKS = 86400.0, 14 * 86400.0  # seconds
_RESULT, _META = "result.safetensors", "phase.json"


@dataclass(frozen=True)
class Entry(Trained):
    """A finished phase."""

    key: str
    masks: Masks
    executed: int
    """optimizer steps executed for it by all processes together, those lost in kills included"""
    reused: bool
    """whether it was there already"""


class Store:
    """Finished phases by key, in a folder; `waiting` is entered while another process has to be waited for."""

    def __init__(self, root: Path | str, waiting: leases.Waiting = nullcontext) -> None:
        self.root, self.waiting = Path(root), waiting

    def obtain(
        self,
        spec: Mapping[str, Any],
        masks: Masks,
        train: Callable[[FolderKeeper], Trained],
        waypoints: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Entry:
        """The phase of this specification: from the store, or trained here, or by another process meanwhile.

        `waypoints` says under which specification the state at a step is kept in passing. It is published into a
        folder whose lease is not held. That is safe: its key says all that it depends on, so whoever else publishes
        there writes the same content, by atomic renames; and readers compare the digest and train again what is torn.
        """

        def keep(step: int, state: State) -> None:
            self.put((waypoints or {})[step], state, masks, [], executed=0)

        key, entry = digest_of(spec), None
        while entry is None:  # again if the phase was lost to another process: that one's result is then waited for
            turn = self._turn(key)
            if isinstance(turn, Entry):
                entry = turn
            else:
                with turn as lease:
                    entry = self.find(key) or self._trained(
                        spec, masks, train, FolderKeeper(self.root / key, lease, keep)
                    )
                    if entry:
                        (self.root / key / CHECKPOINT).unlink(missing_ok=True)
                        leases.clear(self.root / key)
        return entry

    def _turn(self, key: str) -> Entry | leases.Lease:
        """A finished phase, or the right to train it; waits while another process has that."""
        folder = self.root / key
        watch = leases.Watch(folder)

        def look() -> Entry | leases.Lease | None:
            if entry := self.find(key):
                return entry
            folder.mkdir(parents=True, exist_ok=True)
            return watch.take()

        if turn := look():
            return turn
        _log.warning(f"waiting for {watch.holder()}, which trains the same phase")
        with self.waiting():
            return watch.until(look)

    def _trained(
        self, spec: Mapping[str, Any], masks: Masks, train: Callable[[FolderKeeper], Trained], keeper: FolderKeeper
    ) -> Entry | None:
        """Trains and publishes a phase under its lease; None if that was lost meanwhile."""
        for torn in keeper.folder.glob(f".{CHECKPOINT}.*"):  # a kill while it was being written
            torn.unlink(missing_ok=True)
        try:
            trained = train(keeper)
            keeper.lease.check()
        except Lost as lost:
            if lost.folder != keeper.folder:  # the whole cell
                raise
            _log.warning(f"{lost}; waiting for its result")
            return None
        executed = keeper.lease.note
        self.put(spec, trained.state, masks, trained.rows, executed)
        return Entry(trained.state, trained.rows, keeper.folder.name, masks, executed, reused=False)

    def put(self, spec: Mapping[str, Any], state: State, masks: Masks, rows: list[Row], executed: int) -> None:
        """Writes a finished phase; its metadata last, since that is what makes it finished."""
        folder = self.root / digest_of(spec)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"net.{name}": tensor for name, tensor in state.items()}
        tensors |= {f"mask.{name}": pack(mask) for name, mask in masks.items()}
        write_tensors(folder / _RESULT, tensors, {})
        meta = {
            "spec": spec,
            "rows": rows,
            "executed": executed,
            "by": socket.gethostname(),
            "masks": {name: list(mask.shape) for name, mask in masks.items()},
            "digest": digest(tensors),
        }
        write_whole(folder / _META, canonical({"phase": meta, "sha256": digest_of(meta)}).encode())

    def find(self, key: str) -> Entry | None:
        """A finished phase, verified; None if there is none. A damaged one is set aside with a word."""
        folder = self.root / key
        if not (folder / _META).exists():
            return None
        try:
            meta = _read_meta(folder / _META)
            tensors, _ = read_tensors(folder / _RESULT)
            if digest(tensors) != meta["digest"]:
                raise Damaged(f"{folder / _RESULT} is not the result that {_META} describes")
        except Damaged as damage:
            self.set_aside(folder, damage)
            return None
        masks = {n: unpack(tensors.pop(f"mask.{n}"), shape) for n, shape in meta["masks"].items()}
        state = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
        return Entry(state, meta["rows"], key, masks, meta["executed"], reused=True)

    def specification(self, key: str) -> dict[str, Any] | None:
        """What a finished phase was trained from; None if it is not there, or damaged."""
        try:
            return _read_meta(self.root / key / _META)["spec"]
        except (Damaged, OSError):
            return None

    def set_aside(self, folder: Path, damage: Exception) -> None:
        """Moves a damaged entry out of the way, keeping it for whoever wants to know."""
        number = sum(1 for _ in self.root.glob(f"{folder.name}.damaged.*")) + 1
        target = self.root / f"{folder.name}.damaged.{number}"
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):  # another process did
                raise
            return
        _log.warning(f"{damage}; set aside as {target}, trained anew")

    def entries(self) -> dict[str, dict[str, Any]]:
        """The metadata of every finished phase, by key."""
        found = {}
        for path in sorted(self.root.glob(f"*/{_META}")):
            if "." not in path.parent.name:
                try:
                    found[path.parent.name] = _read_meta(path)
                except Damaged as damage:
                    if path.exists():  # else another process has just removed it
                        _log.warning(f"{damage}; it will be trained anew")
        return found

    def size(self) -> int:
        """Bytes in the store."""
        return sum(size for folder, _, _ in os.walk(self.root) for _, size in _contents(Path(folder)).values())

    def gc(self, needed: set[str]) -> tuple[int, int, int]:
        """Removes finished phases that are not needed, damaged ones, and progress untouched for two weeks.

        What was trained within a day stays: it may belong to a cell that is being played, or was killed, and whose
        ledger does not name it yet. A state kept in passing stays with the phase it belongs to, finished or not.
        Returns entries removed, bytes freed, and the number of entries that are left only because they are young.
        """
        metas, now = self.entries(), time.time()
        all_of = {path: _contents(path) for path in sorted(self.root.iterdir()) if not path.is_symlink()}
        age = {
            path: now - max((changed for changed, _ in files.values()), default=now) for path, files in all_of.items()
        }
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
            elif folder.name in needed:  # what a kill left beside a finished phase
                for path in files.keys() - {folder, folder / _RESULT, folder / _META}:
                    freed += files[path][1]
                    path.unlink(missing_ok=True)
            else:
                removed, freed = removed + 1, freed + sum(size for _, size in files.values())
                with suppress(FileNotFoundError):  # another process removes it too
                    shutil.rmtree(folder)
        return removed, freed, young


def holding(cell: Path, recorded: Path, line: Mapping[str, Any]) -> tuple[Store, Entry]:
    """The store that has the phase of a ledger line: the one it was recorded with, or that of an `out` that moved.

    Raises FileNotFoundError, naming both.
    """
    beside = cell.resolve().parents[2] / "store"
    for store in (Store(root) for root in (recorded, beside) if root.is_dir()):
        if entry := store.find(line["phase"]):
            return store, entry
    raise FileNotFoundError(f"the phase {line['phase']} of round {line['round']} is in neither {recorded} nor {beside}")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if digest_of(content["phase"]) != content["sha256"]:
            raise ValueError("its content does not match its digest")
        return content["phase"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def _contents(folder: Path) -> dict[Path, tuple[float, int]]:
    """Time of the last change and size of a folder and its files; without what a running job renames or removes."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder, *folder.iterdir()):
            with suppress(FileNotFoundError):
                there = path.stat()
                found[path] = (there.st_mtime, there.st_size if path.is_file() else 0)
    return found
