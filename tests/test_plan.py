"""The plan: exactly the phases that it announces are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.commands import plan
from lottery.commands.plan import to_train
from lottery.config.compose import cell_configs
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from tests.conftest import TINY
from tests.few import few

LOOKS = ("arm.early.every=10", "arm.early.window=1")


def executed(store: Store) -> int:
    return sum(meta["executed"] for meta in store.entries().values())


@pytest.mark.parametrize("before", [[], ["arm=imp"], ["arm=imp", "schedule.rounds=1"]], ids=" ".join)
@pytest.mark.parametrize(
    "asked",
    few(
        [
            ["arm=imp"],
            ["arm=imp", "arm.rewind=13"],
            ["arm=imp", "stop.below_dense=1"],
            ["arm=one_shot"],
            ["arm=early_bird", *LOOKS],
            ["arm=random_reinit"],
            ["arm=random_reinit", "arm.rewind=13"],
            ["arm=scratch_e", "arm.parent=one_shot"],
            ["arm=scratch_e", "arm.parent=one_shot", "stop.below_dense=1"],
            ["arm=scratch_e", "arm.parent=early_bird"],
            ["arm=finetune_parent", "stop.below_dense=1"],
            ["arm=finetune_parent", "stop.density=0.01"],
            ["arm=scratch_e", "arm.parent=one_shot", "stop.density=0.01"],
        ],
        4,
    ),
    ids=" ".join,
)
def test_it_counts_the_steps_that_are_taken(
    cell: Callable[..., Cell], tmp_path: Path, before: list[str], asked: list[str]
) -> None:
    store = Store(tmp_path / "store")
    if before:
        record_cell(cell(*before), tmp_path / "before", store)
    had, planned = executed(store), to_train(cell(*asked), store)
    record_cell(cell(*asked), tmp_path / "asked", store)
    assert sum(planned.values()) == executed(store) - had
    assert to_train(cell(*asked), store) == {}


def test_a_damaged_ledger_is_said_of_its_own_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "probe", lambda cell: (0.0, 0.0))
    damaged, whole = cell_configs([*TINY, f"out={tmp_path}", "seed=0,1", "-m"])
    damaged.folder.mkdir(parents=True)
    (damaged.folder / NAME).write_text("{}\n")
    plan.show([damaged, whole])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{damaged}: {damaged.folder / NAME}, line 1 is damaged: 'round'; move the file away"
    assert f"{whole}: 3 rounds, 3 phases to train (90 steps)" in said
    assert said[-1].startswith("2 cells, 3 phases to train, 90 steps, ")


def test_a_cell_of_each_arm_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `lottery run` does: seeds change nothing that is checked."""
    checked: list[tuple[str, int]] = []
    monkeypatch.setattr(plan, "probe", lambda cell: (0.0, 0.0))
    monkeypatch.setattr(plan, "check", lambda cell: checked.append((cell.arm.name, cell.seed)))
    plan.show(cell_configs([*TINY, f"out={tmp_path}", "arm=imp,one_shot", "seed=0,1,2", "-m"]))
    assert sorted(checked) == [("imp", 0), ("one_shot", 0)]
