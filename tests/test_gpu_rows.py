"""The rows that need a GPU, with the CPU in its place: what they measure, check, and say where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.speed import gpu
from experiments.speed.gpu import Case, Size, attempted, difference, lenets, measure, resnets, together
from experiments.speed.rows import Row
from lottery.rounds.study import Cell

TINY = Size(steps=20, pairs=3, checked=3)


@pytest.fixture
def lenet(cell: Callable[..., Cell]) -> list[Case]:
    return lenets(cell("schedule.rounds=16"))


@pytest.fixture
def resnet(cell: Callable[..., Cell]) -> list[Case]:
    return resnets(cell("model=resnet_8", "optimizer=sgd"))


def test_rows_of_a_small_network(lenet: list[Case]) -> None:
    rows = list(measure(lenet, "cpu", TINY))
    assert [row.what for row in rows] == [
        "LeNet, dense: off the CPU's",
        "LeNet, dense: microseconds a step",
        "LeNet, masks at 3.6 %: off the CPU's",
        "LeNet, masks at 3.6 %: steps/s over LeNet, dense",
        "LeNet, masks at 3.6 %: microseconds a step",
        "LeNet, sparse at 3.6 %: off the CPU's",
        "LeNet, sparse at 3.6 %: steps/s over LeNet, masks at 3.6 %",
        "LeNet, sparse at 3.6 %: microseconds a step",
    ]
    assert [row.verdict for row in rows if row.goal] == ["met"] * 3
    assert all(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\], [13]", row.measured) for row in rows)


def test_the_same_training_is_not_off_and_others_are(lenet: list[Case], resnet: list[Case]) -> None:
    dense, masked, sparse = lenet
    assert difference(dense, "cpu", 3) == difference(masked, "cpu", 3) == 0
    assert 0 < difference(sparse, "cpu", 3) < sparse.tolerance
    eager, last, mixed = (each for each in resnet if each.name.partition(", ")[2] in ("eager", "channels_last", "bf16"))
    assert difference(eager, "cpu", 3) == 0
    assert 0 < difference(last, "cpu", 3) < last.tolerance
    assert last.tolerance / 100 < difference(mixed, "cpu", 3) < mixed.tolerance


def test_a_wrong_training_is_far_off(lenet: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the device had trained with another order of the data."""
    whole, calls = gpu._phase, list[int]()

    def phase(*given: object) -> object:
        calls.append(0)
        return replace(whole(*given), order=len(calls))

    monkeypatch.setattr(gpu, "_phase", phase)
    assert difference(lenet[1], "cpu", 3) > 10 * lenet[1].tolerance


def test_the_whole_page_covers_every_setting(resnet: list[Case]) -> None:
    numerics = {case.name: case.recipe.numerics for case in resnet}
    assert [(n.precision, n.channels_last, n.compile) for n in numerics.values()] == [
        ("32", False, False),
        ("32", True, False),
        ("bf16-mixed", False, False),
        ("bf16-mixed", True, False),
        ("32", False, True),
    ]


def test_what_fails_is_a_row_and_the_others_are_taken(lenet: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "checked", lambda *_: (1 / 0 for _ in range(1)))
    rows = list(measure(lenet[:1], "cpu", TINY))
    assert rows[0] == Row("LeNet, dense", "ZeroDivisionError: division by zero", verdict="failed")
    assert rows[1].what == "LeNet, dense: microseconds a step"
    assert list(attempted("it", iter([rows[1]]))) == [rows[1]]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^no GPU: PyTorch finds none on this machine, and every row here needs one$"):
        gpu.main()


@pytest.mark.parametrize(("verdict", "code"), [("met", 0), ("missed", 1), ("failed", 1)])
def test_the_page_is_written_whatever_the_rows_say(
    verdict: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU of 2026")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "measure_lenet", lambda: iter([Row("first", "1.000", "<= 2", "met")]))
    monkeypatch.setattr(gpu, "measure_resnet", lambda: iter([Row("second", "3.000", "<= 2", verdict)]))
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == code
    page = (tmp_path / "gpu.md").read_text()
    assert "Machine: a GPU of 2026; " in page
    assert "| first | 1.000 | <= 2 | met |" in page
    assert f"| second | 3.000 | <= 2 | {verdict} |" in page


@pytest.mark.slow
def test_workers_together(lenet: list[Case]) -> None:
    assert together(lenet[0], "cpu", TINY, 2) > 0
