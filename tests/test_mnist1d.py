"""MNIST-1D drawn here is the authors' own, array for array, and their orders of positions are as in their notebook."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.mnist1d.adjacency import adjacent, main
from lottery.config.compose import cell_configs
from lottery.data import mnist1d as module
from lottery.data.examples import Data, DataError
from lottery.data.mnist1d import Arrays, generate, mnist1d, order, signal, templates
from lottery.foundations.seeds import noise, seeded
from lottery.reports.results import read
from lottery.running.launch import run_cell

PUBLISHED = {
    42: "56802e64dad12bbb5a7d0ced606041e9754aad9603cb1dc40816d6c208e83900",
    43: "55da52d2f4afc0b2aafaa073994b9a3886b3d5ac0affb5e1584fbd76911388e2",
}
"""SHA-256 of the arrays x, y, x_test and y_test of the package mnist1d 0.0.2.post1 by seed, in millionths: the last bit
differs among processors, and does in the file that the authors offer for download, which rounded is the same."""


def in_millionths(arrays: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.round(array * 1e6).astype("<i8").tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def drawn() -> dict[int, Arrays]:
    return {draw: generate(draw=draw) for draw in PUBLISHED}


def test_arrays_are_the_published_ones(drawn: dict[int, Arrays]) -> None:
    assert {draw: in_millionths(arrays) for draw, arrays in drawn.items()} == PUBLISHED


def test_arrays_are_those_of_the_package_bit_for_bit(drawn: dict[int, Arrays]) -> None:
    package = import_module("mnist1d.data")
    asked = package.get_dataset_args()
    with seeded(0):  # the package seeds the global generators
        theirs = package.make_dataset(asked)
    for key, array in zip(("x", "y", "x_test", "y_test"), drawn[asked.seed], strict=True):
        assert array.dtype == theirs[key].dtype
        assert np.array_equal(array, theirs[key]), key


def test_sizes_digits_and_scale(drawn: dict[int, Arrays]) -> None:
    train, train_digits, test, test_digits = drawn[42]
    assert (train.shape, test.shape) == ((4000, 40), (1000, 40))
    assert np.bincount(np.concatenate([train_digits, test_digits])).tolist() == [500] * 10
    whole = np.concatenate([train, test])
    assert abs(whole.mean()) < 1e-12
    assert abs(whole.std() - 1) < 1e-12


def test_global_generators_are_neither_read_nor_seeded() -> None:
    with seeded(3):
        before, first = noise(), generate(samples=10)
        order("shuffled")
        assert all(torch.equal(state, before[name]) for name, state in noise().items())
    with seeded(4):
        assert all(np.array_equal(a, b) for a, b in zip(first, generate(samples=10), strict=True))


class Still:
    """Draws the middle of everything and no noise, and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def rand(self) -> float:
        self.asked.append("rand")
        return 0.5

    def choice(self, count: int) -> int:
        self.asked.append(f"choice {count}")
        return 3

    def randn(self, count: int) -> np.ndarray:
        self.asked.append(f"randn {count}")
        return np.zeros(count)


def test_a_signal_without_noise_is_the_digit_moved_and_silence() -> None:
    still: Any = Still()
    line = signal(np.ones(12), still)
    assert still.asked == ["rand", "rand", "choice 48", "randn 72", "randn 72", "rand"]
    # 12 ones and 48 zeros fill 72 places as 13.2 and 57.8 of 71 steps, 3 places on; read off at 71/39 of a place
    expected = []
    for place in np.arange(40) * 71 / 39:
        low, share = int(place), place - int(place)
        values = [np.clip(12 - 59 / 71 * ((at - 3) % 72), 0, 1) for at in (low, min(low + 1, 71))]
        expected.append(values[0] * (1 - share) + values[1] * share)
    np.testing.assert_allclose(line, expected, atol=2e-8)
    assert 0 < np.count_nonzero(line > 0.5) < 10


def test_templates_begin_at_zero_and_have_a_sixth_of_deviation() -> None:
    found = templates()
    assert found.shape == (10, 12)
    np.testing.assert_allclose(found[:, 0], 0, atol=0)
    np.testing.assert_allclose(found.std(1), 1 / 6, rtol=1e-12)
    # one, by hand: heights 5 3 3 3.4 3.8 4.2 4.6 5 5.4 5.8 5 5, mean 53.2 / 12, mean of squares 245.6 / 12
    deviation = (245.6 / 12 - (53.2 / 12) ** 2) ** 0.5
    np.testing.assert_allclose(found[1, [1, 9]], [-2 / deviation / 6, 0.8 / deviation / 6], rtol=1e-12)


SHUFFLED = [
    22, 20, 25, 4, 10, 15, 28, 11, 18, 29, 27, 35, 37, 2, 39, 30, 34, 16, 36, 8,
    13, 5, 17, 14, 33, 7, 32, 1, 26, 12, 31, 24, 6, 23, 21, 19, 9, 38, 3, 0,
]  # fmt: skip
"""numpy's permutation of 40 under seed 0, of the notebook"""


@pytest.mark.parametrize(
    ("positions", "places"),
    [
        ("plain", [*range(40)]),
        ("shuffled", SHUFFLED),
        ("flipped", [*range(39, -1, -1)]),
        ("chunks", [*range(20, 30), *range(30, 40), *range(10), *range(10, 20)]),
    ],
)
def test_positions_are_read_in_the_notebook_s_order(positions: str, places: list[int]) -> None:
    assert order(positions).tolist() == places
    data, plain = small(positions=positions), small()
    for part in ("train", "val", "test"):
        changed, before = getattr(data, part), getattr(plain, part)
        assert torch.equal(changed.inputs, before.inputs[:, places])
        assert torch.equal(changed.targets, before.targets)


def small(**more: Any) -> Data:
    return mnist1d(**{"batch_size": 5, "val_size": 10, "shape": [40], "classes": 10, "samples": 50, **more})


def test_validation_is_split_off_the_training_part_or_is_the_test_part() -> None:
    watched, held_out = small(val_size=0), small()
    arrays = generate(samples=50)
    assert torch.equal(watched.train.inputs, torch.tensor(arrays.train, dtype=torch.float32))
    assert watched.val is watched.test
    for data in (watched, held_out):
        assert torch.equal(data.test.inputs, torch.tensor(arrays.test, dtype=torch.float32))
        assert data.test.targets.tolist() == arrays.test_digits.tolist()
    assert (len(held_out.train), len(held_out.val), len(held_out.test)) == (30, 10, 10)
    both = torch.cat([held_out.train.inputs, held_out.val.inputs])
    assert sorted(both.tolist()) == sorted(watched.train.inputs.tolist())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"samples": 55}, r"data\.samples=55: must be a multiple of 10"),
        ({"samples": 0}, r"data\.samples=0: must be a multiple of 10"),
        ({"train_split": 1.0}, r"data\.train_split=1\.0: must leave some of the 50 samples on both sides"),
        ({"train_split": 0.01}, r"data\.train_split=0\.01: must leave some of the 50 samples"),
        ({"draw": -1}, r"data\.draw=-1: must be a seed of numpy's, from 0 to 4294967295"),
        ({"positions": "rolled"}, r"data\.positions=rolled: must be plain, shuffled, flipped or chunks"),
        ({"val_size": 40}, r"data\.val_size=40: must be at least 1 and leave some of the 40"),
        ({"val_size": -1}, r"data\.val_size=-1: must be at least 1"),
        ({"shape": [1, 40]}, r"data\.shape=\[1, 40\]: the inputs have shape \[40\]"),
    ],
)
def test_what_can_not_be_is_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"^{said}"):
        small(**setting)


def test_another_draw_is_another_set(drawn: dict[int, Arrays]) -> None:
    assert not np.isin(drawn[42].train[:, 0], drawn[43].train[:, 0]).any()


# --- neighbours


def test_neighbours_are_counted_as_one_would_with_a_pencil() -> None:
    mask = torch.rand(30, 40, generator=torch.Generator().manual_seed(1)) < 0.6
    for length in (2, 3, 4):
        starts = product(range(30), range(40 - length + 1))
        count = sum(all(mask[unit, at + further] for further in range(length)) for unit, at in starts)
        assert count > 0
        assert adjacent(mask, length) == count / 1200


def test_a_study_gets_columns_of_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "generate", lambda *asked: generate(samples=100))
    words = [
        "data=mnist1d", "model=mlp_mnist1d", "scope=layerwise", "schedule=explicit", "schedule.densities=[0.25]",
        "data.val_size=20", "data.batch_size=10", "budget.steps=2", "tracking.mode=disabled", f"out={tmp_path}",
    ]  # fmt: skip
    [job] = cell_configs(words)
    run_cell(job)
    main(job.folder.parent.parent, tmp_path / "found.csv")
    dense, ticket = read(tmp_path / "found.csv").to_dict("records")
    assert [dense[f"adjacent_{length}"] for length in (2, 3, 4)] == [39 / 40, 38 / 40, 37 / 40]
    assert 0.5 * 0.25**2 < ticket["adjacent_2"] < 1.5 * 0.25**2
    assert ticket["adjacent_4"] < ticket["adjacent_3"] < ticket["adjacent_2"]
    assert not [column for column in dense if column.startswith("run/") and column != "run/ledger"]
