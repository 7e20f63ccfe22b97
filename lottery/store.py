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
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lottery import leases
from lottery.desk import CHECKPOINT, Desk
from lottery.digests import canonical, digest, digest_of
from lottery.files import Damaged, read_tensors, write_tensors, write_whole
from lottery.masks import Masks, pack, unpack
from lottery.recipes import Row, Trained
from lottery.rewinding import State

_log = logging.getLogger(__name__)

TWO_WEEKS = 14 * 86400.0  # seconds
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
        train: Callable[[Desk], Trained],
        waypoints: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Entry:
        """The phase of this specification: from the store, or trained here, or by another process meanwhile.

        `waypoints` says under which specification the state at a step is kept in passing.
        """
        key = digest_of(spec)
        folder = self.root / key
        watch = leases.Watch(folder)

        def look() -> Entry | leases.Lease | None:
            if entry := self.find(key):
                return entry
            folder.mkdir(parents=True, exist_ok=True)
            return watch.take()

        def keep(step: int, state: State) -> None:
            self.publish((waypoints or {})[step], state, masks, [], executed=0)

        while True:
            seen: Entry | leases.Lease | None = look()
            if seen is None:
                _log.warning(f"waiting for {watch.holder()}, which trains the same phase")
                with self.waiting():
                    seen = watch.until(look)
            if isinstance(seen, Entry):
                return seen
            assert seen
            with seen as lease:
                for torn in folder.glob(f".{CHECKPOINT}.*"):  # a kill while it was being written
                    torn.unlink(missing_ok=True)
                if (entry := self.find(key)) is None:  # not finished between the look and the lease
                    try:
                        trained = train(Desk(folder, lease, keep))
                        lease.check()
                    except leases.Lost as lost:
                        if lost.folder != folder:  # the whole cell
                            raise
                        _log.warning(f"{lost}; waiting for its result")
                        continue
                    self.publish(spec, trained.state, masks, trained.rows, lease.note)
                    entry = Entry(trained.state, trained.rows, key, masks, lease.note, reused=False)
                (folder / CHECKPOINT).unlink(missing_ok=True)
                leases.clear(folder)
                return entry

    def publish(self, spec: Mapping[str, Any], state: State, masks: Masks, rows: list[Row], executed: int) -> None:
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
                    _log.warning(f"{damage}; it will be trained anew")
        return found

    def size(self) -> int:
        """Bytes in the store."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())

    def gc(self, needed: set[str]) -> tuple[int, int]:
        """Removes finished phases that are not needed, damaged ones, and progress untouched for two weeks.

        A state kept in passing stays with the phase it belongs to. Returns entries removed and bytes freed.
        """
        metas = self.entries()
        needed = needed | {key for key, meta in metas.items() if meta["spec"].get("of") in needed}
        removed = freed = 0
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            fresh = time.time() - max(p.stat().st_mtime for p in [folder, *folder.iterdir()]) < TWO_WEEKS
            finished = folder.name in metas or ".damaged." in folder.name
            if leases.held(folder) or (fresh and not finished):
                continue
            if folder.name in needed:  # what a kill left beside a finished phase
                for path in folder.iterdir():
                    if path.name not in (_RESULT, _META):
                        freed += path.stat().st_size
                        path.unlink()
                continue
            removed, freed = removed + 1, freed + sum(p.stat().st_size for p in folder.iterdir())
            shutil.rmtree(folder)
        return removed, freed


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
