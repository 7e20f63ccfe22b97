"""The plan: exactly the phases that it announces are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.commands import plan
from lottery.commands.plan import to_train
from lottery.config.compose import cell_configs
from lottery.pruning.contracts import Criterion, Evidence, Scores, score
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.training.flops import of_call
from tests.conftest import TINY
from tests.few import few

SNIP = 2 * 60 * (2 * (64 * 300 + 300 * 100 + 100 * 10) + 300 * 100 + 100 * 10)
"""FLOPs of a scoring: forward and backward of a batch of 60, where the inputs of the first layer need no gradient."""
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


RULE = "arm.during.every=10it"


@pytest.mark.parametrize(
    ("asked", "times"),
    [
        (["arm=imp"], 2),
        (["arm=random_reinit"], 2),
        (["arm=early_bird", *LOOKS], 2 * 3),
        (["arm=at_init", "arm.descent={_target_: lottery.pruning.schedules.linear, rounds: 4}"], 2 * 4),
        (["arm=gradual", RULE], 2 * 4),
        (["arm=random_mask", "arm.parent=set"], 2),  # magnitude drops, and takes no FLOPs
        (
            ["arm=set", RULE, "arm.during.criterion={_target_: lottery.pruning.criteria.snip, _partial_: true}"],
            2 + 2 * 2,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_it_counts_how_often_weights_are_scored(
    cell: Callable[..., Cell], tmp_path: Path, asked: list[str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store, scored = cell("criterion=snip", *asked), Store(tmp_path / "store"), list[float]()
    needed = to_train(made, store)
    assert plan.scoring(made, needed, needed, {}) == (times, times * SNIP)

    def noting(criterion: Criterion, evidence: Evidence) -> Scores:
        found = list[Scores]()
        if flops := of_call(lambda: found.append(score(criterion, evidence))):
            scored.append(flops)
        return found[0]

    for module in ("lottery.rounds.prune", "lottery.training.changes"):
        monkeypatch.setattr(f"{module}.score", noting)
    record_cell(made, tmp_path / "asked", store)
    assert scored == [SNIP] * times
    assert plan.scoring(made, to_train(made, store), {}, {}) == (0, 0.0)


def test_what_scoring_takes_is_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "probe", lambda cell: (60.0, 0.0))
    jobs = cell_configs([*TINY, f"out={tmp_path}", "arm=gradual", RULE, "criterion=snip", "seed=0,1", "-m"])
    plan.show(jobs)
    first, second, last = capsys.readouterr().out.splitlines()
    for line in (first, second):  # a scoring takes what a step does
        assert line.endswith("to train (90 steps), 8 scorings (1.3e+08 FLOPs, 0.27 of a dense training's)")
    assert last.startswith(
        "2 cells, 6 phases to train, 180 steps, 18 evaluations, 16 scorings: about 3.3 h on one core"
    )


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
