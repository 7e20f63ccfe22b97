"""Selection: exactly the result of a stable sort of everything, in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lottery.pruning import selection
from lottery.pruning.selection import best

exact = settings(deadline=None, derandomize=True, database=None, max_examples=150)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# few values, so that ties are the rule; of the others some differ in the last bit only, or are subnormal
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    st.sampled_from([1e-45, -1e-45, 1 + 2**-23, 1 + 2**-52, 3e38, -3e38]),
    st.floats(-3, 3),
)
Parts = tuple[list[Tensor], list[Tensor]]


@st.composite
def parts(draw: Callable) -> Parts:
    scores, alive = [], []
    usual, lives = draw(st.sampled_from(DTYPES)), st.booleans() if draw(st.booleans()) else st.just(True)
    for size in draw(st.lists(st.integers(0, 40), min_size=1, max_size=4)):
        dtype = draw(st.sampled_from([usual, usual, *DTYPES]))
        values = draw(arrays(np.float64, size, elements=VALUES))
        scores.append(torch.from_numpy(values).clamp(-6e4, 6e4).to(dtype))
        alive.append(torch.from_numpy(draw(arrays(bool, size, elements=lives))))
    return scores, alive


def sorted_best(scores: list[Tensor], alive: list[Tensor], count: int) -> list[bool]:
    values = np.concatenate([part.double().numpy() for part in scores])
    living = np.flatnonzero(np.concatenate([part.numpy() for part in alive]))
    chosen = np.zeros(values.size, dtype=bool)
    chosen[living[np.argsort(-values[living], kind="stable")][:count]] = True
    return chosen.tolist()


def flat(marks: list[Tensor]) -> list[bool]:
    return [value for part in marks for value in part.flatten().tolist()]


@given(parts(), st.integers(0, 170), st.sampled_from([1, 3, 16, 2**18]))
@exact
def test_it_is_a_stable_sort_of_everything(drawn: Parts, count: int, chunk: int) -> None:
    scores, alive = drawn
    before = [part.clone() for part in alive]
    with patch.object(selection, "_CHUNK", chunk):
        found = best(scores, alive, count)
    assert flat(found) == sorted_best(scores, alive, count)
    assert [(m.shape, m.dtype) for m in found] == [(m.shape, torch.bool) for m in alive]
    assert flat(alive) == flat(before)


@given(parts(), st.integers(0, 170), st.lists(VALUES, max_size=12))
@exact
def test_it_is_exact_whatever_the_sample_says(drawn: Parts, count: int, sample: list[float]) -> None:
    scores, alive = drawn
    with (
        patch.object(selection, "_sample", lambda *_: torch.tensor(sample, dtype=torch.float64)),
        patch.object(selection, "_SLACK", 0),
    ):
        assert flat(best(scores, alive, count)) == sorted_best(scores, alive, count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("living", [1.0, 0.3, 0.0005])
@pytest.mark.parametrize("steps", [None, 2, 1000])
def test_many_scores(dtype: torch.dtype, living: float, steps: int | None) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = [torch.randn(shape, generator=rng) for shape in ((400, 300), (70_000,), (64, 10, 3, 3))]
    scores = [((part * steps).round() / steps if steps else part).to(dtype) for part in scores]
    alive = [torch.rand(part.shape, generator=rng) < living for part in scores]
    total = sum(int(part.sum()) for part in alive)
    for count in (0, 1, total // 5, total // 2, total - 1, total, total + 1):
        found = best(scores, alive, count)
        assert flat(found) == sorted_best([p.flatten() for p in scores], [p.flatten() for p in alive], count)


def test_scores_of_several_types_are_compared_as_the_widest() -> None:
    values = [1.0, 1 + 2**-10, 1 + 2**-23, 1 + 2**-52]
    scores = [torch.tensor([v], dtype=d) for v, d in zip(values, [*DTYPES[2:], *DTYPES[:2]], strict=True)]
    assert [int(m) for m in best(scores, [torch.ones(1, dtype=torch.bool)] * 4, 1)] == [0, 0, 1, 0]
    assert [int(m) for m in best(scores, [torch.ones(1, dtype=torch.bool)] * 4, 2)] == [0, 0, 1, 1]


def test_scores_and_masks_may_lie_in_any_order_in_memory() -> None:
    scores = torch.arange(60.0).view(5, 12).t()
    alive = torch.ones(5, 12, dtype=torch.bool).t()
    found = best([scores, scores.contiguous()], [alive, alive], 51)
    assert torch.equal(found[0], scores >= 34)
    assert torch.equal(found[1], scores >= 35)


def test_nobody_elses_random_numbers_are_drawn() -> None:
    scores, alive = [torch.randn(1000)], [torch.ones(1000, dtype=torch.bool)]
    before = torch.get_rng_state()
    best(scores, alive, 200)
    assert torch.equal(torch.get_rng_state(), before)


def uniform(kind: str) -> tuple[list[Tensor], list[Tensor]]:
    rng = torch.Generator().manual_seed(0)
    scores = [torch.rand(shape, generator=rng) for shape in ((2048, 2048), (1000, 1000))]
    alive = [torch.ones_like(part, dtype=torch.bool) for part in scores]
    if kind == "rounded":
        scores = [(part * 20).floor() for part in scores]
    if kind == "mostly dead":  # and what is dead has the highest scores
        alive = [part < 0.3 for part in scores]
    return [part.clamp(*{"zeros": (0.51, 1.0), "tops": (0.0, 0.49)}.get(kind, (0.0, 20.0))) for part in scores], alive


KINDS = ["distinct", "rounded", "mostly dead", "zeros", "tops"]


class Allocated(TorchDispatchMode):
    """Peak bytes of live tensors."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.known = {part.untyped_storage().data_ptr() for part in given}
        self.held: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor) and (storage := made.untyped_storage()).data_ptr() not in self.known:
                self.held[storage.data_ptr()] = (
                    torch.multiprocessing.reductions.StorageWeakRef(storage),
                    storage.nbytes(),
                )
        self.held = {place: entry for place, entry in self.held.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.001, 0.2, 0.4905, 0.5095, 0.9])
def test_memory_beyond_the_marks_is_small(kind: str, share: float) -> None:
    scores, alive = uniform(kind)
    total, living = (sum(int(part.sum()) for part in parts) for parts in ([part >= 0 for part in scores], alive))
    with Allocated([*scores, *alive]) as allocated:
        best(scores, alive, int(share * living))
    assert allocated.peak < 2 * total  # half of what the scores take; the marks take a quarter


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_two_bounds_hold_the_threshold(kind: str) -> None:
    scores, alive = uniform(kind)
    living = sum(int(part.sum()) for part in alive)
    with patch.object(selection, "_count", wraps=selection._count) as count:
        for share in (0.001, 0.2, 0.51, 0.9):
            best(scores, alive, int(share * living))
    assert count.call_count <= 4 * 2  # two if the threshold is one of the bounds
