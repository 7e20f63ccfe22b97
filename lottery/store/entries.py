"""The phase store: each phase of training is kept under the digest of what it depends on.

    store/<key>/phase.json            of a finished phase: metrics by step, steps executed, host; written last
    store/<key>/result.safetensors    weights, buffers and packed masks
    store/<key>/checkpoint.safetensors, lease.<n>      while it trains

Files are written atomically (by rename) and carry a digest of their content. An entry that does not match its digest
is renamed to `<key>.damaged.<n>` and trained again. No file is a pickle.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lottery.foundations.digests import canonical, digest, digest_of
from lottery.foundations.errors import Lost
from lottery.foundations.files import Damaged, read_tensors, write_tensors, write_whole
from lottery.pruning.masks import Masks, pack, unpack
from lottery.store import leases
from lottery.store.evaluations import META
from lottery.store.keeper import CHECKPOINT, FolderKeeper
from lottery.training.phase import Trained
from lottery.training.states import State

_log = logging.getLogger(__name__)

RESULT = "result.safetensors"


@dataclass(frozen=True)
class Entry(Trained):
    """A finished phase in a store."""

    key: str
    by: str
    """The host that trained it; empty where a very old phase does not say."""
    executed: int
    """Optimizer steps that all processes together executed for it, including those lost when one was killed."""
    reused: bool
    """Whether the phase was in the store already."""


class Store:
    """Finished phases by key, in a folder; `waiting` is a context entered while another process is waited for."""

    def __init__(self, root: Path | str, waiting: leases.Waiting = nullcontext) -> None:
        self.root, self.waiting = Path(root), waiting

    def obtain(
        self,
        spec: Mapping[str, Any],
        train: Callable[[FolderKeeper], Trained],
        waypoints: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Entry:
        """The phase of this specification: from the store, or trained by this process or by another meanwhile.

        `waypoints` maps a step to the specification under which the state at that step is stored, too. Its entry is
        written without holding its lease, if there is none yet. That is safe: files are written by atomic renames, and
        readers check the digest and train again what does not match, as where two processes wrote at the same moment.
        """

        def keep(step: int, state: State, masks: Masks) -> None:
            self.put((waypoints or {})[step], Trained(state, masks, []), executed=0)

        key, entry = digest_of(spec), None
        while entry is None:  # repeated if another process took the phase over: then its result is waited for
            turn = self._turn(key)
            if isinstance(turn, Entry):
                entry = turn
            else:
                with turn as lease:
                    keeper = FolderKeeper(self.root / key, lease, keep)
                    entry = self.find(key) or self._trained(spec, train, keeper)
                    if entry:
                        (self.root / key / CHECKPOINT).unlink(missing_ok=True)
                        leases.clear(self.root / key)
        return entry

    def _turn(self, key: str) -> Entry | leases.Lease:
        """A finished phase, or the lease to train it; waits while another process holds that."""
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
        self, spec: Mapping[str, Any], train: Callable[[FolderKeeper], Trained], keeper: FolderKeeper
    ) -> Entry | None:
        """Trains and stores a phase under its lease; None if the lease was lost meanwhile."""
        for torn in keeper.folder.glob(f".{CHECKPOINT}.*"):  # a process was killed while it wrote one
            torn.unlink(missing_ok=True)
        try:
            trained = train(keeper)
            keeper.lease.check()
        except Lost as lost:
            if lost.folder != keeper.folder:  # not this phase but the whole cell was taken over
                raise
            _log.warning(f"{lost}; waiting for its result")
            return None
        return self.put(spec, trained, keeper.lease.note)

    def put(self, spec: Mapping[str, Any], trained: Trained, executed: int) -> Entry:
        """The finished phase, written; its metadata last, because they make it count as finished.

        One that is there already stays: later phases may go on from its bits, which not all hardware gives twice.
        """
        key = digest_of(spec)
        if first := self.find(key):
            return first
        folder = self.root / key
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"net.{name}": tensor for name, tensor in trained.state.items()}
        tensors |= {f"mask.{name}": pack(mask) for name, mask in trained.masks.items()}
        write_tensors(folder / RESULT, tensors, {})
        meta: dict[str, Any] = {
            "spec": spec,
            "rows": trained.rows,
            "executed": executed,
            "by": socket.gethostname(),
            "masks": {name: list(mask.shape) for name, mask in trained.masks.items()},
            "digest": digest(tensors),
        } | ({"changed": trained.changed} if trained.changed else {})
        write_whole(folder / META, canonical({"phase": meta, "sha256": digest_of(meta)}).encode())
        return Entry(
            trained.state, trained.masks, trained.rows, key, meta["by"], executed, reused=False, changed=trained.changed
        )

    def find(self, key: str) -> Entry | None:
        """A finished phase, checked against its digest; None if there is none. A damaged one is set aside."""
        folder = self.root / key
        if not (folder / META).exists():
            return None
        try:
            meta = _read_meta(folder / META)
            tensors, _ = read_tensors(folder / RESULT)
            if digest(tensors) != meta["digest"]:
                raise Damaged(f"{folder / RESULT} is not the result that {META} describes")
        except Damaged as damage:
            self.set_aside(folder, damage)
            return None
        masks = {n: unpack(tensors.pop(f"mask.{n}"), shape) for n, shape in meta["masks"].items()}
        state = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
        told = meta["rows"], key, meta.get("by", ""), meta["executed"]
        return Entry(state, masks, *told, reused=True, changed=meta.get("changed", []))

    def specification(self, key: str) -> dict[str, Any] | None:
        """The specification that a finished phase was trained from; None if the phase is missing or damaged."""
        try:
            return _read_meta(self.root / key / META)["spec"]
        except (Damaged, OSError):
            return None

    def set_aside(self, folder: Path, damage: Exception) -> None:
        """Renames a damaged entry, so that it is trained again and can still be examined."""
        for number in count(1):
            target = self.root / f"{folder.name}.damaged.{number}"
            try:
                folder.rename(target)
            except FileNotFoundError:  # another process has renamed it
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else the name is taken
                    raise
            else:
                _log.warning(f"{damage}; set aside as {target}, trained anew")
                return

    def entries(self) -> dict[str, dict[str, Any]]:
        """The metadata of every finished phase, by key."""
        found = {}
        for path in sorted(self.root.glob(f"*/{META}")):
            if "." not in path.parent.name:
                try:
                    found[path.parent.name] = _read_meta(path)
                except Damaged as damage:
                    if path.exists():  # else another process has just removed it
                        _log.warning(f"{damage}; it will be trained anew")
        return found


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if digest_of(content["phase"]) != content["sha256"]:
            raise ValueError("its content does not match its digest")
        return content["phase"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
