"""The plan: what it says would be trained is what is trained then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.cells import Cell
from lottery.plan import to_train
from lottery.store import Store
from lottery.study import run

LOOKS = ("arm.early.every=10", "arm.early.window=1")


def executed(store: Store) -> int:
    return sum(meta["executed"] for meta in store.entries().values())


@pytest.mark.parametrize("before", [[], ["arm=imp"], ["arm=imp", "schedule.rounds=1"]], ids=" ".join)
@pytest.mark.parametrize(
    "asked",
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
    ],
    ids=" ".join,
)
def test_it_counts_the_steps_that_are_taken(
    cell: Callable[..., Cell], tmp_path: Path, before: list[str], asked: list[str]
) -> None:
    store = Store(tmp_path / "store")
    if before:
        run(cell(*before), tmp_path / "before", store)
    had, planned = executed(store), to_train(cell(*asked), store)
    run(cell(*asked), tmp_path / "asked", store)
    assert sum(planned.values()) == executed(store) - had
    assert to_train(cell(*asked), store) == {}
