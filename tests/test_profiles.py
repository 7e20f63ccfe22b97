"""The profile of a step: its parts are counted in loops as they are, and shown as they were stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.speed import parts, profiles
from experiments.speed.cells import pruned
from experiments.speed.parts import Clock
from lottery.pruning.masks import dense
from lottery.rounds.study import Cell
from lottery.training.module_recipe import ModuleRecipe


@pytest.mark.parametrize("loop", [parts.bare, parts.ours])
def test_parts_of_a_loop(loop: Callable[..., dict[str, float]], cell: Callable[..., Cell]) -> None:
    built, before = cell("schedule.rounds=16"), (torch.Tensor.backward, torch._foreach_mul_)
    recipe, thin = built.study.recipe, pruned(built, 0.036)
    assert isinstance(recipe, ModuleRecipe)
    off = replace(recipe, numerics=replace(recipe.numerics, sparse="off"))
    masked, whole = loop(off, thin, 20), loop(off, dense(thin), 20)
    assert masked.keys() == {*profiles.PARTS, profiles.STEP}
    assert masked["step"] == pytest.approx(sum(masked[part] for part in profiles.PARTS))
    assert all(masked[part] > 0 for part in profiles.PARTS)
    assert whole["masks"] == 0 < whole["optimizer"]
    assert (torch.Tensor.backward, torch._foreach_mul_) == before


def test_the_rest_is_what_no_part_has() -> None:
    before = {"gathering": 1.0, "forward": 2.0, "backward": 0.0, "optimizer": 0.0, "masks": 0.0, "step": 10.0}
    after = {"gathering": 3.0, "forward": 6.0, "backward": 2.0, "optimizer": 1.0, "masks": 0.5, "step": 21.0}
    found = parts.each(before, after, 2)
    assert found == {
        "gathering": 1, "forward": 2, "backward": 1, "optimizer": 0.5, "masks": 0.25, "step": 5.5, "rest": 0.75
    }  # fmt: skip


def test_what_is_counted_is_handed_on() -> None:
    clock = Clock()
    assert clock.timed("forward", divmod)(7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        clock.timed("forward", divmod)(7, 0)
    assert list(clock.reading(each for each in [(1, 2), (3, 4)])) == [(1, 2), (3, 4)]
    assert all(clock.seconds[part] > 0 for part in ("forward", "gathering"))


def test_the_table_is_of_the_medians(tmp_path: Path) -> None:
    seconds = {"gathering": 1, "forward": 2, "backward": 3, "optimizer": 4, "masks": 0, "rest": 5, "step": 15}
    runs = [{part: factor * number / 1e3 for part, number in seconds.items()} for factor in (1, 3, 2)]
    parts.write(tmp_path / "profile.csv", {"theirs": runs, "ours": runs[:1]})
    rows = [line.split() for line in profiles.table(tmp_path / "profile.csv").replace("|", "").splitlines()]
    assert rows[0] == [*profiles.PARTS, "step"]
    assert rows[2:] == [
        ["theirs", "2,000", "4,000", "6,000", "8,000", "0", "10,000", "30,000"],
        ["ours", "1,000", "2,000", "3,000", "4,000", "0", "5,000", "15,000"],
    ]
    assert (tmp_path / "profile.csv").read_text().splitlines()[2] == "theirs,forward,4000.0,2000.0,6000.0,3"
