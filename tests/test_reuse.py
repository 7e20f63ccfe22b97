"""Nothing is reused if anything it was made from has changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from lottery.config.build import build, build_analyses
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.user_code import user_code
from lottery.foundations.digests import digest_of
from lottery.reports.results import read
from lottery.rounds.round import dense_round
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, LedgerError
from lottery.store.phases import phase_of, specification
from tests import tiny_sets
from tests.conftest import TINY


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CellConfig]:
    """One cell of a folder with modules and yamls of the user's own, run from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "c" / "arm").mkdir(parents=True)

    def job(*overrides: str) -> CellConfig:
        return cell_configs(["--config-dir", "c", *TINY, "schedule.rounds=0", *overrides])[0]

    return job


def test_code_imported_by_own_code_counts(own: Callable[..., CellConfig], tmp_path: Path) -> None:
    (tmp_path / "deepest.py").write_text("WIDTH = 20\n")
    (tmp_path / "between.py").write_text("import numpy\nfrom deepest import WIDTH\n")
    (tmp_path / "outermost.py").write_text("from between import WIDTH\n\ndef net(shape, classes): ...\n")
    before = user_code({"_target_": "outermost.net"}), own("model._target_=outermost.net").study
    (tmp_path / "deepest.py").write_text("WIDTH = 21\n")
    after = user_code({"_target_": "outermost.net"}), own("model._target_=outermost.net").study
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_code_in_a_linked_folder_counts(own: Callable[..., CellConfig], tmp_path: Path) -> None:
    """Linked modules are imported like others. A link into the package itself, or a circular one, adds nothing."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "wide.py").write_text("WIDTH = 20\n")
    (tmp_path / "mine" / "plain").mkdir(parents=True)
    (tmp_path / "mine" / "plain" / "net.py").write_text("def net(shape, classes): ...\n")
    alone = user_code({"_target_": "mine.plain.net.net"})
    assert alone == {"mine": sha256(b"net.py\0def net(shape, classes): ...\n\0").hexdigest()}
    (tmp_path / "mine" / "again").symlink_to(tmp_path / "mine" / "plain")
    (tmp_path / "mine" / "plain" / "circle").symlink_to(tmp_path / "mine")
    assert user_code({"_target_": "mine.plain.net.net"}) == alone
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
    before = user_code({"_target_": "mine.plain.net.net"}), own("model._target_=mine.plain.net.net").study
    (tmp_path / "elsewhere" / "wide.py").write_text("WIDTH = 21\n")
    after = user_code({"_target_": "mine.plain.net.net"}), own("model._target_=mine.plain.net.net").study
    assert before[0] not in (alone, after[0])
    assert before[1] != after[1]


def test_shipped_names_hold_no_code() -> None:
    (job,) = cell_configs(list(TINY))
    assert user_code(job.config) == {}


def test_another_data_root_is_not_taken_for_finished(own: Callable[..., CellConfig]) -> None:
    first = own("data.root=a", "data=mnist", "data.val_size=10")
    first.folder.mkdir(parents=True)
    (first.folder / NAME).write_text(f'{{"round": 0, "rounds": 0, "setting": "{first.digest}"}}\n')
    (first.folder / "config.yaml").write_text(__import__("yaml").safe_dump(dict(first.config)))
    assert first.finished()
    second = own("data.root=b", "data=mnist", "data.val_size=10")
    assert second.folder == first.folder
    assert not second.finished()


def test_an_edited_arm_is_played_again_and_refused(own: Callable[..., CellConfig], tmp_path: Path) -> None:
    yaml = tmp_path / "c" / "arm" / "mine.yaml"
    shipped = "_target_: lottery.rounds.arms.Arm\nweights: {_target_: lottery.rounds.rewinding.%s}\nparent: null\n"
    yaml.write_text(shipped % "to_start")
    run_cell(own("arm=mine", "schedule.rounds=1"))
    yaml.write_text(shipped % "to_fresh")
    job = own("arm=mine", "schedule.rounds=1")
    assert not job.finished()
    with pytest.raises(LedgerError, match="measured under other code"):
        run_cell(job)
    run_cell(own("arm=mine", "schedule.rounds=1", "seed=1"))
    with pytest.raises(LedgerError, match="was measured with another setting"):
        read("runs")


def test_an_edited_parent_is_not_taken_for_finished(own: Callable[..., CellConfig], tmp_path: Path) -> None:
    yaml = tmp_path / "c" / "arm" / "mine.yaml"
    shipped = (
        "_target_: lottery.rounds.arms.Arm\nweights: {_target_: lottery.rounds.rewinding.to_start}\nparent: null\n"
    )
    yaml.write_text(shipped)
    twin = own("arm=random_mask", "arm.parent=mine", "schedule.rounds=1")
    run_cell(twin)
    assert twin.finished()
    yaml.write_text(f"{shipped}iterative: false\n")
    assert not own("arm=random_mask", "arm.parent=mine", "schedule.rounds=1").finished()


def test_a_kill_before_it_is_known_what_differs_leaves_the_old_configuration(
    own: Callable[..., CellConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("schedule.rounds=1", "analysis=early_bird", "analysis.early_bird.when.window=1")
    run_cell(own(*small, "analysis.early_bird.when.every=10"))
    other = own(*small, "analysis.early_bird.when.every=5")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lottery.running.launch.record_cell", killed)
        with pytest.raises(KeyboardInterrupt):
            run_cell(other)
    assert not other.finished()
    with pytest.raises(LedgerError, match=r"early_bird\.jsonl: round 0 was measured under other code.* \(analysis "):
        run_cell(other)
    assert not other.finished()


class Permuted(nn.Sequential):
    """Draws a value that is not in its state."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.order = torch.randperm(64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.flatten(1)[:, self.order])


@pytest.mark.slow
def test_what_a_network_draws_outside_its_state_is_the_same_each_time(
    cell: Callable[..., Cell], tmp_path: Path
) -> None:
    lines = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        overrides = ("model._target_=tests.test_reuse.Permuted", "~model.shape", "~model.classes", "scope=everywhere")
        record_cell(cell(*overrides, "criterion=snip"), folder, Store(folder / "store"))
        lines.append([{**line, "run": None} for line in Ledger(folder / NAME).lines()])
    assert lines[0] == lines[1]


def test_tied_weights_and_optimizer_groups_survive_a_checkpoint(tmp_path: Path) -> None:
    from dataclasses import replace

    from lottery.foundations.files import read_tensors, write_tensors
    from lottery.rounds.round import dense_ticket
    from lottery.training.fit import fit

    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["taken"] = group.get("taken", 0) + 1
                group["lr"] /= group["taken"]  # a rate that depends on it
            return super().step(closure)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Linear(64, 64), nn.Linear(64, 10)
            self.two = nn.Linear(64, 64)
            self.two.weight = self.one.weight

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.out(self.two(self.one(inputs.flatten(1)).relu()).relu())

    class Stops(Exception):
        pass

    class Keeper:
        def __init__(self, stops: bool) -> None:
            self.stops = stops

        def load(self):
            return read_tensors(tmp_path / "c") if (tmp_path / "c").exists() and not self.stops else None

        def save(self, tensors, info):
            if self.stops:
                write_tensors(tmp_path / "c", tensors, info)
                raise Stops

        def reach(self, first: int, last: int) -> None: ...

        def pass_by(self, step: int, state: object, masks: object) -> None: ...

    base = build(cell_configs([*TINY, "hardware.checkpoint_seconds=1e-9"])[0])
    recipe = replace(base.study.recipe, network=Tied, optimizer=lambda weights: Counting(weights, lr=0.1))
    from lottery.training.phase import Phase

    ticket = dense_ticket(recipe, 0)
    phase = Phase(ticket.state, ticket.masks, 0, 30, order=0, noise=0)
    whole = fit(recipe, phase)
    with pytest.raises(Stops):
        fit(recipe, phase, Keeper(stops=True))
    resumed = fit(recipe, phase, Keeper(stops=False))
    assert resumed.rows == whole.rows


def test_gc_with_a_misspelt_folder_removes_nothing(
    own: Callable[..., CellConfig], tmp_path: Path, lottery: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_cell(own())
    before = set((tmp_path / "runs" / "store").iterdir())
    done = lottery("store", "gc", "--store", "runs/store", "--out", "rums")
    assert done.returncode == 1
    assert "rums" in done.stderr
    assert "Traceback" not in done.stderr
    assert set((tmp_path / "runs" / "store").iterdir()) == before


# what a ledger refuses is refused before anything is trained


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Callable[[CellConfig], str]:
    """Runs a cell whose ledger has other results, and fails if anything trains before it is refused."""

    def refusal(job: CellConfig) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("lottery.running.cell.fit", lambda *_, **__: pytest.fail("trained"))
            with pytest.raises(LedgerError) as refused:
                run_cell(job)
        return str(refused.value)

    return refusal


def half_finished(job: CellConfig) -> Path:
    """The ledger of a cell that still has rounds to play."""
    run_cell(job)
    path = job.folder / NAME
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    return path


def said(path: Path, differs: str) -> str:
    return (
        f"{path}: round 0 was measured under other code, data or library versions ({differs}); "
        "move it away or choose another out="
    )


def test_other_data_under_the_same_name(own: Callable[..., CellConfig], untrained: Callable[[CellConfig], str]) -> None:
    where = {root: tiny_sets.write("mnist", Path(root)) for root in ("cats", "dogs")}
    labels = Path("dogs/train-labels-idx1-ubyte")
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    first, second = (own("data=mnist", *more, "budget.steps=4", "budget.evaluate=4") for more in where.values())
    path = half_finished(first)
    assert second.folder == first.folder
    digests = [build(job).study.recipe.data.digest[:16] for job in (first, second)]
    assert untrained(second) == said(path, f"data {digests[0]} there, {digests[1]} now")


@pytest.mark.parametrize("kept", [True, False], ids=["in the store", "not in the store"])
def test_another_version_of_pytorch(
    own: Callable[..., CellConfig], untrained: Callable[[CellConfig], str], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    job = own("schedule.rounds=1")
    path, version = half_finished(job), torch.__version__
    [line] = Ledger(path).lines()
    if not kept:  # then it is not known of what the recorded phase was made
        shutil.rmtree("runs/store")
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    refused = untrained(job)
    if kept:
        assert refused == said(path, f"torch {version} there, 0.0.1 now")
    else:
        cell = build(job)
        current = dense_round(cell.study.recipe, 0, lambda _: pytest.fail("trained"))
        phase = phase_of(cell.study.recipe, 0, current)
        now = digest_of(specification(cell.study.recipe, cell.study.identity, phase))
        assert refused == said(path, f"phase {line['phase']} there, {now} now")


def test_an_edited_arm_of_a_half_finished_cell(
    own: Callable[..., CellConfig], untrained: Callable[[CellConfig], str], tmp_path: Path
) -> None:
    yaml = tmp_path / "c" / "arm" / "mine.yaml"
    shipped = "_target_: lottery.rounds.arms.Arm\nweights: {_target_: lottery.rounds.rewinding.%s}\nparent: null\n"
    yaml.write_text(shipped % "to_start")
    was = own("arm=mine", "schedule.rounds=1")
    path = half_finished(was)
    shutil.rmtree("runs/store")
    yaml.write_text(shipped % "to_fresh")
    job = own("arm=mine", "schedule.rounds=1")
    began = "arm.weights._target_ lottery.rewinding.to_start there, lottery.rewinding.to_fresh now"
    assert untrained(job) == said(path, began)
    (job.folder / "config.yaml").write_text((job.folder / "config.yaml").read_text().replace("to_start", "to_fresh"))
    assert untrained(job) == said(path, f"setting {was.digest} there, {job.digest} now")


def test_another_setting_of_an_analysis_or_its_damaged_ledger(
    own: Callable[..., CellConfig], untrained: Callable[[CellConfig], str]
) -> None:
    small = ("schedule.rounds=1", "analysis=early_bird", "analysis.early_bird.when.window=1")
    first, other = (own(*small, f"analysis.early_bird.when.every={every}") for every in (10, 5))
    run_cell(first)
    path = first.folder / "early_bird.jsonl"
    shutil.rmtree("runs/store")
    was, now = (build_analyses(job, build(job).study.recipe.data)["early_bird"].digest for job in (first, other))
    assert untrained(other) == said(path, f"analysis {was} there, {now} now")
    path.write_text("{}\n" + path.read_text())
    assert untrained(first) == f"{path}, line 1 is damaged: 'round'; move the file away"


def test_a_recorded_round_whose_phase_is_gone_is_trained_again(own: Callable[..., CellConfig]) -> None:
    job = own("schedule.rounds=1", "analysis=connectivity", "analysis.connectivity.points=3")
    path = half_finished(job)
    shutil.rmtree("runs/store")
    before = path.read_bytes()
    run_cell(job)
    assert path.read_bytes()[: len(before)] == before
    assert [line["round"] for line in Ledger(path).lines()] == [0, 1]
    assert len(Store("runs/store").entries()) == 2  # an analysis's copies are not asked for
