"""The phase store: each phase is trained once, keyed by its inputs, and never silently different."""

from __future__ import annotations

import copy
import gzip
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest, digest_of
from lottery.foundations.errors import Lost
from lottery.foundations.files import write_tensors
from lottery.rounds.round import Round, dense_ticket
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store import leases, phases
from lottery.store.collection import DAY, TWO_WEEKS, collect, size
from lottery.store.entries import Entry, Store
from lottery.store.folder import NAME
from lottery.store.keeper import FolderKeeper
from lottery.store.ledger import Ledger
from lottery.store.phases import phase_of, specification
from lottery.training.hardware import Hardware
from lottery.training.phase import Phase, Trained
from tests.conftest import TINY

SPEC = {"what": "a phase", "steps": [0, 10]}
KEY = digest_of(SPEC)
INFO = {"step": 3, "rows": [{"step": 3, "val_loss": 0.1}], "losses": [0.1], "optimizer": {"optimizer.0.k": None}}
ROWS = [{"step": 10, "val_loss": 0.1, "val_accuracy": 2 / 3}]


def state() -> dict[str, Tensor]:
    return {
        "fc.weight": torch.tensor([[0.0, -0.0, 1e-40], [torch.pi, -3.5e38, 2.0]]),
        "bn.num_batches_tracked": torch.tensor(7),
        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
    }


def masks() -> dict[str, Tensor]:
    return {"fc.weight": torch.tensor([[True, False, True], [True, True, False]])}


def filled(root: Path) -> Store:
    store = Store(root)
    store.put(SPEC, Trained(state(), masks(), ROWS), executed=12)
    return store


def content(entry: Entry) -> tuple[object, ...]:
    return digest(entry.state), digest(entry.masks), entry.rows, entry.executed


def executed(store: Store) -> int:
    """Optimizer steps of all phases together."""
    return sum(meta["executed"] for meta in store.entries().values())


# what is written is what is read


def test_a_published_phase_is_found_whole(tmp_path: Path) -> None:
    entry = filled(tmp_path).find(KEY)
    assert entry
    assert (entry.key, entry.reused, entry.executed, entry.rows) == (KEY, True, 12, ROWS)
    assert entry.state.keys() == state().keys()
    for name, tensor in state().items():
        found = entry.state[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()
    assert torch.equal(entry.masks["fc.weight"], masks()["fc.weight"])


def test_what_was_not_published_is_not_found(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.find(digest_of({**SPEC, "steps": [0, 11]})) is None
    assert Store(tmp_path / "none").find(KEY) is None


def test_a_phase_without_metadata_is_not_finished(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / KEY / "phase.json").unlink()
    assert store.find(KEY) is None
    assert store.entries() == {}


def damaged(original: bytes, place: int, flip: int) -> bytes:
    """Flips one byte or, without a flip, truncates the file there."""
    place %= len(original)
    return original[:place] + (bytes([original[place] ^ flip]) + original[place + 1 :] if flip else b"")


@pytest.fixture(scope="module")
def flips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one phase and its checkpoint, and a place for copies of it."""
    root = tmp_path_factory.mktemp("flips")
    filled(root / "whole")
    write_tensors(root / "whole" / KEY / "checkpoint.safetensors", state(), INFO)
    return root


def broken_copy(flips: Path, name: str, place: int, flip: int) -> tuple[Path, bytes]:
    root = flips / "copy"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(flips / "whole", root)
    broken = damaged((root / KEY / name).read_bytes(), place, flip)
    (root / KEY / name).write_bytes(broken)
    return root, broken


@pytest.mark.parametrize("name", ["result.safetensors", "phase.json"])
@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10_000), flip=st.integers(0, 255))
def test_a_damaged_entry_is_set_aside_or_reads_the_same(name: str, place: int, flip: int, flips: Path) -> None:
    root, broken = broken_copy(flips, name, place, flip)
    store, whole = Store(root), Store(flips / "whole").find(KEY)
    assert whole
    entry = store.find(KEY)
    if entry is not None:
        assert content(entry) == content(whole)
    else:
        assert not (root / KEY).exists()
        assert (root / f"{KEY}.damaged.1" / name).read_bytes() == broken
        assert store.entries() == {}


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10_000), flip=st.integers(0, 255))
def test_a_damaged_checkpoint_is_dropped_or_reads_the_same(place: int, flip: int, flips: Path) -> None:
    root, _ = broken_copy(flips, "checkpoint.safetensors", place, flip)
    found = keeper(root / KEY).load()
    if found is not None:
        assert (digest(found[0]), found[1]) == (digest(state()), INFO)
    else:
        assert not (root / KEY / "checkpoint.safetensors").exists()


def keeper(folder: Path) -> FolderKeeper:
    lease = leases.Watch(folder).take()
    assert lease
    with lease:
        return FolderKeeper(folder, lease, lambda step, state, masks: None)


def test_damage_is_named_and_the_phase_trained_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = filled(tmp_path)
    for number in (1, 2):
        path = tmp_path / KEY / "result.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        entry = store.obtain(SPEC, lambda keeper: Trained(state(), masks(), ROWS))
        assert not entry.reused
        assert str(path) in caplog.messages[-1]
        assert f"set aside as {tmp_path / KEY}.damaged.{number}" in caplog.messages[-1]
        found = store.find(KEY)
        assert found
        assert content(found) == content(entry)


def test_a_phase_that_is_there_stays_when_it_is_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / KEY).iterdir()}
    # as a GPU might: last bits differ
    entry = store.put(SPEC, Trained({**state(), "half": torch.zeros(2, dtype=torch.bfloat16)}, masks(), []), executed=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / KEY).iterdir()} == before
    assert content(entry) == content(filled(tmp_path / "another").obtain(SPEC, lambda keeper: pytest.fail("trained")))


def test_a_damaged_phase_is_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / KEY / "result.safetensors").write_bytes(b"")
    assert not store.put(SPEC, Trained(state(), masks(), ROWS), executed=12).reused
    found = store.find(KEY)
    assert found
    assert content(found) == (digest(state()), digest(masks()), ROWS, 12)
    assert (tmp_path / f"{KEY}.damaged.1").exists()


def test_what_is_set_aside_takes_a_name_that_is_free(tmp_path: Path) -> None:
    taken = tmp_path / f"{KEY}.damaged.2"  # the first was deleted
    taken.mkdir()
    (taken / "phase.json").write_text("to be examined")
    for number in (1, 3):
        store = filled(tmp_path)
        (tmp_path / KEY / "result.safetensors").write_bytes(b"")
        assert store.find(KEY) is None
        assert not (tmp_path / KEY).exists()
        assert (tmp_path / f"{KEY}.damaged.{number}" / "result.safetensors").read_bytes() == b""
    assert (taken / "phase.json").read_text() == "to be examined"


def test_a_result_of_another_phase_is_not_taken(tmp_path: Path) -> None:
    store = filled(tmp_path)
    other = {**SPEC, "steps": [0, 20]}
    store.put(other, Trained({**state(), "half": torch.zeros(2)}, masks(), ROWS), executed=1)
    os.replace(tmp_path / digest_of(other) / "result.safetensors", tmp_path / KEY / "result.safetensors")
    assert store.find(KEY) is None


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["result.safetensors", "phase.json", "checkpoint.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_no_pickle_is_read(name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, sprung = tmp_path / "store", tmp_path / "sprung"
    store = filled(root)
    path = root / KEY / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"net.fc.weight": Trap(sprung)}, path)
    if name.startswith("checkpoint"):
        (root / KEY / "phase.json").unlink()
        assert keeper(root / KEY).load() is None
    else:
        assert store.find(KEY) is None
    assert str(path) in caplog.messages[-1]
    assert not sprung.exists()
    # the trap does work
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


# one trains, and a dead one's progress is inherited


def test_a_second_start_goes_on_from_the_checkpoint_and_counts_all_steps(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def killed(keeper: FolderKeeper) -> Trained:
        assert keeper.load() is None
        keeper.reach(0, 5)
        keeper.save(state(), {"step": 5})
        keeper.reach(5, 8)
        raise KeyboardInterrupt

    def resumed(keeper: FolderKeeper) -> Trained:
        found = keeper.load()
        assert found
        assert (digest(found[0]), found[1]) == (digest(state()), {"step": 5})
        keeper.reach(5, 10)
        return Trained(found[0], masks(), ROWS)

    with pytest.raises(KeyboardInterrupt):
        store.obtain(SPEC, killed)
    entry = store.obtain(SPEC, resumed)
    assert (entry.executed, entry.reused) == (5 + 3 + 5, False)
    assert executed(store) == 13
    assert sorted(path.name for path in (tmp_path / KEY).iterdir()) == ["phase.json", "result.safetensors"]
    again = store.obtain(SPEC, killed)
    assert (again.executed, again.reused) == (13, True)


def test_of_many_who_want_a_phase_one_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_POLL_SECONDS", 0.001)
    trainings: list[int] = []
    entries: list[Entry] = []
    barrier = threading.Barrier(6)

    def train(keeper: FolderKeeper) -> Trained:
        trainings.append(threading.get_ident())
        keeper.reach(0, 10)
        time.sleep(0.05)
        return Trained(state(), masks(), ROWS)

    def want() -> None:
        barrier.wait()
        entries.append(Store(tmp_path).obtain(SPEC, train))

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert {digest(entry.state) for entry in entries} == {digest(state())}
    assert sorted(entry.reused for entry in entries) == [False] + [True] * 5
    assert executed(Store(tmp_path)) == 10


def test_who_waits_says_so_while_it_lasts(tmp_path: Path) -> None:
    said: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        said.append("waits")
        filled(tmp_path)  # the other has trained it
        yield
        said.append("goes on")

    (tmp_path / KEY).mkdir()
    with leases.hold(tmp_path / KEY):
        assert Store(tmp_path, waiting).obtain(SPEC, lambda keeper: pytest.fail("trained twice")).reused
    assert said == ["waits", "goes on"]
    lease = leases.hold(tmp_path / "cell")
    threading.Timer(0.1, lambda: lease.__exit__(None, None, None)).start()
    with leases.hold(tmp_path / "cell", waiting):
        pass
    assert said == ["waits", "goes on"] * 2


def test_who_was_thought_dead_takes_the_other_s_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)

    def overtaken(keeper: FolderKeeper) -> Trained:
        other = leases.Lease(keeper.folder, 2, inherited=keeper.lease.note)
        assert other.create()
        with other:
            filled(tmp_path)
            keeper.save(state(), {"step": 1})
        raise AssertionError("went on training")

    entry = store.obtain(SPEC, overtaken)
    assert (entry.reused, entry.executed) == (True, 12)
    assert "another process took this work over" in caplog.text
    assert not (tmp_path / KEY / "checkpoint.safetensors").exists()


def test_who_lost_the_whole_cell_stops(cell: Callable[..., Cell], tmp_path: Path) -> None:
    class Taken:
        """Somebody takes the cell over in the middle of its second round."""

        def advanced(self, current: Any, step: int, row: Any) -> None:
            if current.index == 1:
                assert leases.Lease(tmp_path / "cell", 2, inherited=0).create()

        def finished(self, line: Any, rows: Any) -> None:
            pass

    store = Store(tmp_path / "store")
    with pytest.raises(Lost) as lost:
        record_cell(cell(), tmp_path / "cell", store, [Taken()])
    assert lost.value.folder == tmp_path / "cell"
    assert [line["round"] for line in Ledger(tmp_path / "cell" / NAME).lines()] == [0]
    assert len(store.entries()) == 1
    assert not any(leases.held(folder) for folder in store.root.iterdir())  # the other goes on at once


def test_what_breaks_when_the_cell_is_another_s_is_no_failure(cell: Callable[..., Cell], tmp_path: Path) -> None:
    class Broken:
        def advanced(self, current: Any, step: int, row: Any) -> None:
            assert leases.Lease(tmp_path / "cell", 2, inherited=0).create()
            raise FileNotFoundError("the other has cleared it away")

        def finished(self, line: Any, rows: Any) -> None:
            pass

    with pytest.raises(Lost):
        record_cell(cell(), tmp_path / "cell", Store(tmp_path / "store"), [Broken()])


def test_gc_removes_what_a_machine_that_is_gone_has_left(tmp_path: Path) -> None:
    owner = {"host": "elsewhere", "place": ["another boot", "pid:[1]"], "pid": 1, "started": "1"}
    for name, days in (("old", 15), ("young", 13)):
        folder = tmp_path / name
        folder.mkdir()
        lease = folder / "lease.1"
        lease.write_text(json.dumps({"owner": owner, "note": 0, "beat": 3, "released": False}))
        for path in (lease, folder):
            os.utime(path, (time.time() - days * 86400,) * 2)
    assert collect(Store(tmp_path), set())[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


# what a phase is found by


@pytest.fixture(scope="module")
def job() -> CellConfig:
    return cell_configs([*TINY])[0]


def key(job: CellConfig, phase: Phase | None = None) -> str:
    cell = build(job)
    return digest_of(specification(cell.study.recipe, cell.study.identity, phase or PHASE))


PHASE = Phase({"w": torch.ones(3), "b": torch.zeros(1)}, {"w": torch.tensor([True, False, True])}, 0, 30, 5, 6)


def changed(job: CellConfig, path: str, value: object) -> CellConfig:
    config: Any = copy.deepcopy(job.config)
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return replace(job, config=config)


def leaves(value: object, path: str) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [leaf for name, item in value.items() for leaf in leaves(item, f"{path}.{name}")]
    return [(path, value)]


OTHERWISE = {
    "model._target_": "lottery.models.mlp.math.prod",
    "module._target_": "lottery.training.modules.Module",
    "optimizer._target_": "lottery.training.optimizers.adamw",
    "optimizer.decay": "weights",
    "optimizer.clip_norm": 1.0,
    "budget._target_": None,  # only a Budget fits
    "budget.learning_rate._target_": "lottery.training.learning_rates.cosine",
    "numerics._target_": None,  # only Numerics fits
    "numerics.precision": "bf16-mixed",
    "numerics.shrink": None,  # each phase says what is left of its network
    "numerics.sparse": None,  # each phase says which of its layers are sparse
    "data._target_": None,  # its content counts, besides
    "data.shape": None,  # no other fits the inputs
    "model.shape": [1, 4, 16],
}


def test_every_setting_of_the_recipe_is_in_the_key(job: CellConfig) -> None:
    keys = {"as it is": key(job)}
    for group in ("model", "data", "module", "optimizer", "budget", "numerics"):
        for path, value in leaves(job.config[group], group):
            if path.endswith("_partial_") or (path in OTHERWISE and OTHERWISE[path] is None):
                continue
            if path in OTHERWISE:
                other = OTHERWISE[path]
            elif isinstance(value, bool):
                other = not value
            elif isinstance(value, str):
                other = f"{int(value.removesuffix('it')) + 1}it"
            else:
                assert isinstance(value, int | float)
                other = value + 1
            # `budget.steps` is in the phase's own range too, which is not what is asked for here
            steps = other if path == "budget.steps" else 30
            new = changed(job, path, other)
            if path in ("model._target_", "module._target_"):
                new = changed(new, path.split(".")[0], {"_target_": other, "_partial_": True})
            keys[path] = key(new, replace(PHASE, last=int(str(steps))))
    assert len(keys) > 15
    assert len(set(keys.values())) == len(keys)


def test_every_ingredient_of_a_phase_is_in_the_key(job: CellConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    next_up = {"w": torch.nextafter(torch.ones(3), torch.tensor(2.0)), "b": torch.zeros(1)}
    variants = [
        PHASE,
        replace(PHASE, state=next_up),
        replace(PHASE, state={**PHASE.state, "b": torch.tensor([-0.0])}),
        replace(PHASE, state={"w": PHASE.state["w"], "c": PHASE.state["b"]}),
        replace(PHASE, state={**PHASE.state, "w": torch.ones(3, 1)}),
        replace(PHASE, masks={"w": torch.tensor([True, True, False])}),
        replace(PHASE, masks={}),
        replace(PHASE, first=1),
        replace(PHASE, last=29),
        replace(PHASE, last=28),
        replace(PHASE, order=6),
        replace(PHASE, noise=5),
        replace(PHASE, order=6, noise=5),
        replace(PHASE, sparse=("w",)),
        replace(PHASE, structure={"w": {0: [0, 2]}}),
    ]
    keys = [key(job, variant) for variant in variants]
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "0.0.1")
        keys.append(key(job))
    with monkeypatch.context() as other:
        other.setattr(phases, "SCIENCE", phases.SCIENCE + 1)
        keys.append(key(job))
    with monkeypatch.context() as other:
        other.setattr(Hardware, "device", "cuda")
        keys.append(key(job))
    keys.append(key(changed(job, "hardware.devices", 2)))
    assert len(set(keys)) == len(keys)
    assert key(job) == keys[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hardware.checkpoint_seconds", 0.5),
        ("tracking.mode", "offline"),
        ("tracking.project", "another"),
        ("out", "elsewhere"),
        ("store", "elsewhere"),
        ("seed", 9),  # its streams are in the phase
        ("schedule.rounds", 9),
        ("schedule.keep", 0.5),
        ("criterion._target_", "lottery.pruning.criteria.random"),
        ("numerics.sparse", "off"),
        ("optimizer.eps", 1e-8),
        ("optimizer.betas", [0.9, 0.999]),
    ],
)
def test_what_changes_no_number_is_not_in_the_key(job: CellConfig, path: str, value: object) -> None:
    assert key(changed(job, path, value)) == key(job)


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_where_the_data_lies_is_not_in_the_key_but_what_they_are(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    files = {
        f"{part}-{kind}": stream.integers(0, 10, (40, 28, 28) if "images" in kind else (40,), dtype=np.uint8)
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    for root, zipped in (("one", False), ("other", True), ("changed", False)):
        (tmp_path / root).mkdir()
        for name, values in files.items():
            if root == "changed" and name == "t10k-labels-idx1-ubyte":
                values = np.roll(values, 1)
            raw = idx(values)
            (tmp_path / root / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
    mnist = cell_configs(
        [*TINY, "data=mnist", "data.val_size=10", "data.batch_size=6", f"data.root={tmp_path / 'one'}"]
    )[0]
    assert key(changed(mnist, "data.root", str(tmp_path / "other"))) == key(mnist)
    assert key(changed(mnist, "data.root", str(tmp_path / "changed"))) != key(mnist)


def test_a_user_s_code_is_in_the_key(job: CellConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_networks"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from torch import nn\n\ndef one(): return nn.Linear(64, 10)\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = changed(job, "model", {"_target_": "my_networks.nets.one", "_partial_": True})
    keys = [key(own)]
    for name in ("nets.py", "parts/new.py", "__init__.py"):
        with open(package / name, "a") as file:
            file.write("# changed\n")
        keys.append(key(own))
    (package / "parts/new.py").rename(package / "parts/newer.py")
    keys.append(key(own))
    assert len(set(keys)) == len(keys)
    (package / "notes.txt").write_text("no code")
    assert key(own) == keys[-1]
    assert key(job) not in keys
    for name in [name for name in sys.modules if name.split(".")[0] == "my_networks"]:
        monkeypatch.delitem(sys.modules, name)


# whole cells


def ledger(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "run"} for line in lines]


def test_three_arms_train_each_phase_once(cell: Callable[..., Cell], tmp_path: Path) -> None:
    store, total, rounds = Store(tmp_path / "store"), 30, 2
    for count, arm in enumerate(("random_mask", "imp", "random_reinit"), start=1):
        record_cell(cell(f"arm={arm}"), tmp_path / arm, store)
        alone = (rounds - 1) * total if arm == "random_mask" else 0  # of imp, for the masks of the next round
        assert executed(store) == {1: (1 + rounds) * total + alone, 2: (1 + 2 * rounds) * total}.get(
            count, (1 + 3 * rounds) * total
        )
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    record_cell(cell("arm=imp"), tmp_path / "again", store)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    assert ledger(tmp_path / "again") == ledger(tmp_path / "imp")
    again = [json.loads(line)["run"]["reused"] for line in (tmp_path / "again" / NAME).read_text().splitlines()]
    assert again == [True] * 3
    # a longer schedule goes on where the shorter one ended
    record_cell(cell("arm=imp", "schedule.rounds=3"), tmp_path / "longer", store)
    assert executed(store) == (1 + 3 * rounds) * total + total
    phases = [[line["phase"] for line in ledger(tmp_path / name)] for name in ("imp", "longer")]
    assert phases[1][:3] == phases[0]
    # another seed shares nothing
    record_cell(cell("seed=1", "schedule.rounds=0"), tmp_path / "other", store)
    assert executed(store) == (2 + 3 * rounds) * total + total


def test_arms_with_other_rewinding_points_share_the_dense_training(cell: Callable[..., Cell], tmp_path: Path) -> None:
    imp, rewound = cell("arm=imp"), cell("arm=imp", "arm.rewind=13")
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    record_cell(rewound, tmp_path / "a", one)
    assert executed(one) == 30 + 2 * (30 - 13)
    record_cell(imp, tmp_path / "b", one)
    assert executed(one) == 30 + 2 * (30 - 13) + 2 * 30
    # the other way round the state at step 13 was not kept in passing
    record_cell(imp, tmp_path / "c", other)
    assert executed(other) == 3 * 30
    record_cell(rewound, tmp_path / "d", other)
    assert executed(other) == 3 * 30 + 13 + 2 * (30 - 13)
    assert (ledger(tmp_path / "a"), ledger(tmp_path / "b")) == (ledger(tmp_path / "d"), ledger(tmp_path / "c"))
    assert ledger(tmp_path / "a")[0]["phase"] == ledger(tmp_path / "b")[0]["phase"]
    assert {k: m["digest"] for k, m in one.entries().items()} == {k: m["digest"] for k, m in other.entries().items()}


def test_every_arm_of_a_seed_has_the_same_streams(cell: Callable[..., Cell]) -> None:
    trained = []
    for recipe in (cell(f"arm={arm}").study.recipe for arm in ("imp", "random_mask")):
        ticket = dense_ticket(recipe, 0)
        rounds = [Round(index, ticket, 0, recipe.budget, lambda current: Trained({}, {}, [])) for index in range(5)]
        trained.append([phase_of(recipe, 0, current) for current in rounds])
    orders, noises = ([[getattr(p, seed) for p in phases] for phases in trained] for seed in ("order", "noise"))
    assert orders[0] == orders[1]
    assert noises[0] == noises[1]
    assert len({*orders[0], *noises[0]}) == 10


def test_a_file_system_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    for name in ("result.safetensors", "phase.json"):
        path, moved = tmp_path / KEY / name, tmp_path / name
        path.rename(moved)
        path.mkdir()  # as unreadable as one on a server that does not answer
        with pytest.raises(OSError, match="Is a directory"):
            store.find(KEY)
        path.rmdir()
        moved.rename(path)
    assert store.find(KEY)


@pytest.mark.slow
def test_gc_keeps_what_a_control_drew_on(tmp_path: Path, lottery: Callable[..., Any]) -> None:
    command = ("run", *TINY, "arm=random_reinit", "schedule.rounds=2")
    assert lottery(*command).returncode == 0
    assert "removed 0 entries" in lottery("store", "gc").stdout  # the rounds of imp stand in no ledger of their own
    executed_so_far = executed(Store(tmp_path / "runs" / "store"))
    assert lottery("run", *TINY, "arm=imp", "schedule.rounds=1").returncode == 0
    assert executed(Store(tmp_path / "runs" / "store")) == executed_so_far


@pytest.mark.slow
@pytest.mark.parametrize("later", [False, True])
def test_gc_keeps_what_an_analysis_trained(tmp_path: Path, lottery: Callable[..., Any], later: bool) -> None:
    command = ("run", *TINY, "arm=imp", "schedule.rounds=1")
    if later:
        assert lottery(*command).returncode == 0
    assert lottery(*command, "analysis=connectivity", "analysis.connectivity.points=3").returncode == 0
    assert len(Store(tmp_path / "runs" / "store").entries()) == 2 + 2  # one of the two copies is the round itself
    assert "removed 0 entries" in lottery("store", "gc").stdout


def aged(path: Path, seconds: float) -> None:
    """Sets all file times in a folder back."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - seconds,) * 2)


def test_gc_keeps_what_ledgers_need_and_what_lives(cell: Callable[..., Cell], tmp_path: Path) -> None:
    store, rewound = Store(tmp_path / "store"), cell("arm=imp", "arm.rewind=10", "schedule.rounds=1")
    record_cell(rewound, tmp_path / "a", store)
    needed = {line["phase"] for line in ledger(tmp_path / "a")}
    kept = set(store.entries())
    assert len(kept) == len(needed) + 1  # the state at step 10 is in no ledger
    filled(store.root)
    store.put({"of": KEY, "step": 1}, Trained(state(), masks(), []), executed=0)
    (store.root / next(iter(needed)) / "checkpoint.safetensors").write_bytes(bytes(1000))
    aged(store.root, DAY + 60)
    (store.root / f"{KEY}.damaged.1").mkdir()
    for name in ("fresh", "stale", "working"):
        (store.root / name).mkdir()
        (store.root / name / "checkpoint.safetensors").write_bytes(bytes(1000))
    with leases.hold(store.root / "working"):
        aged(store.root / "stale", TWO_WEEKS + 60)
        aged(store.root / "working", TWO_WEEKS + 60)
        before = size(store.root)
        removed, freed, young = collect(store, needed)
        assert (removed, young) == (4, 0)
        assert freed == before - size(store.root) > 2000
        assert {path.name for path in store.root.iterdir()} == kept | {"fresh", "working"}
    steps = executed(store)
    record_cell(rewound, tmp_path / "b", store)
    assert executed(store) == steps
    assert ledger(tmp_path / "b") == ledger(tmp_path / "a")
    for key in kept:
        aged(store.root / key, DAY + 60)
    assert collect(store, set())[0] == len(kept)
    assert {path.name for path in store.root.iterdir()} == {"fresh", "working"}


def test_gc_leaves_what_is_younger_than_a_day_and_what_an_unfinished_phase_has_passed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for seconds, found in ((DAY - 60, (0, 0, 1)), (DAY + 60, (1, 3, 0))):
        aged(tmp_path / KEY, seconds)
        removed, freed, young = collect(store, set())
        assert (removed, bool(freed), young) == (found[0], bool(found[1]), found[2])
    # the state that a phase passed two days ago, while a job waits in a queue to go on with the phase
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "checkpoint.safetensors").write_bytes(bytes(10))
    passed = {"of": KEY, "step": 1}
    store.put(passed, Trained(state(), masks(), []), executed=0)
    for path in tmp_path.iterdir():
        aged(path, 2 * DAY)
    assert collect(store, set()) == (0, 0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {KEY, digest_of(passed)}
    aged(tmp_path / KEY, TWO_WEEKS + 60)
    assert collect(store, set())[0] == 2
    assert list(tmp_path.iterdir()) == []


BUSY = """
import shutil, sys
from pathlib import Path
root = Path(sys.argv[1])
while True:
    for number in range(5):
        folder = root / (f"{number}" * 64)
        folder.mkdir(exist_ok=True)
        for name in ("lease.1", ".checkpoint.safetensors.host.1", "result.safetensors", "phase.json"):
            (folder / name).write_text("")
        (folder / ".checkpoint.safetensors.host.1").rename(folder / "checkpoint.safetensors")
        (folder / "checkpoint.safetensors").unlink()
        (folder / "lease.1").unlink()
        shutil.rmtree(folder, ignore_errors=True)
"""


def test_a_store_is_measured_and_cleaned_beside_processes_that_change_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path)
    busy = subprocess.Popen([sys.executable, "-c", BUSY, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ("4" * 64)).exists():
            assert time.monotonic() < deadline
        for _ in range(100):
            assert size(store.root) >= 1
            assert store.entries().keys() == {KEY}
            assert collect(store, {KEY})[0] == 0
    finally:
        busy.kill()
        busy.wait()
    assert store.find(KEY)


def test_a_phase_s_folder_that_is_gone_is_a_lost_lease(tmp_path: Path) -> None:
    with leases.hold(tmp_path / "phase") as lease:
        (tmp_path / "phase").rename(tmp_path / "phase.damaged.1")  # as another process sets it aside
        with pytest.raises(Lost):
            lease.check()
        assert not leases.held(tmp_path / "phase")
