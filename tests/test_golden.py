"""Numbers of a tiny study, pinned for each SCIENCE of lottery/store/phases.py.

If they change, so did our numerics: raise SCIENCE and add its numbers here. Numbers of an earlier SCIENCE must stay,
because results measured under it exist in users' stores and in experiments/.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.foundations.digests import digest_of
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.phases import SCIENCE

# Wide enough for other processors and library versions, far too narrow for another algorithm.
GOLDEN = {
    1: {
        "imp": [0.316331, 0.286725, 0.274579],
        "random_reinit": [0.316331, 0.402694, 0.551548],
    },
}
SEALED = {1: "18dea7dcde710b0d"}
"""digests of the numbers above, as a guard against accidental edits; a new SCIENCE adds one"""


def test_numbers_of_every_science_stay() -> None:
    assert {science: digest_of(numbers)[:16] for science, numbers in GOLDEN.items()} == SEALED
    assert SCIENCE in GOLDEN


@pytest.mark.parametrize("arm", GOLDEN[1])
def test_numbers_are_those_of_this_science(arm: str, cell: Callable[..., Cell], tmp_path: Path) -> None:
    record_cell(cell(f"arm={arm}"), tmp_path, Store(tmp_path / "store"))
    losses = [line["test_loss"] for line in Ledger(tmp_path / NAME).lines()]
    assert losses == pytest.approx(GOLDEN[SCIENCE][arm], rel=1e-3)
