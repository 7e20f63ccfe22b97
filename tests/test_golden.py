"""Numbers of a tiny study, pinned. When they move, our numerics have changed: raise SCIENCE in lottery/study.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.cells import Cell
from lottery.ledger import NAME, Ledger
from lottery.phases import SCIENCE
from lottery.store import Store
from lottery.study import run

# Wide enough for other processors and library versions, far too narrow for another algorithm.
GOLDEN = {
    "imp": [0.316331, 0.286725, 0.274579],
    "random_reinit": [0.316331, 0.402694, 0.551548],
}


@pytest.mark.parametrize("arm", GOLDEN)
def test_numbers_are_those_of_this_science(arm: str, cell: Callable[..., Cell], tmp_path: Path) -> None:
    run(cell(f"arm={arm}"), tmp_path, Store(tmp_path / "store"))
    losses = [line["test_loss"] for line in Ledger(tmp_path / NAME).lines()]
    assert SCIENCE == 1
    assert losses == pytest.approx(GOLDEN[arm], rel=1e-3)
