"""Batches of a data set: augmented and prepared as a function of seed and step, and shared out among processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional

from lottery.data.augmentations import flip, pad_crop_flip
from lottery.data.examples import Data, DataError, Examples
from lottery.data.pixels import Normalise
from lottery.foundations.seeds import Order, generator

exact = settings(deadline=None, derandomize=True, database=None, max_examples=40)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def pictures(count: int, seed: int, *shape: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    return Examples(
        torch.randint(256, (count, *(shape or (3, 6, 6))), dtype=torch.uint8, generator=draw), torch.arange(count) % 10
    )


def data_of(train: int = 26, val: int = 7, test: int = 5, batch_size: int = 6, **more: Any) -> Data:
    parts = (pictures(count, seed) for seed, count in enumerate((train, val, test)))
    return Data(*parts, batch_size, (3, 6, 6), 10, **more)


def side_by_side(shares: list[list[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.cat([inputs for inputs, _ in batch]), torch.cat([targets for _, targets in batch]))
        for batch in zip(*shares, strict=True)
    ]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_batches_are_augmented_then_prepared() -> None:
    plain, data = data_of(), data_of(augment=pad_crop_flip, prepare=Normalise(MEAN, STD))
    stored = list(plain.batches(5, 2, 9))
    for step, (inputs, targets), (pixels, labels) in zip(range(2, 9), data.batches(5, 2, 9), stored, strict=True):
        expected = Normalise(MEAN, STD)(pad_crop_flip(pixels, generator(Order(5).augment(step))))
        assert torch.equal(inputs, expected)
        assert torch.equal(targets, labels)


@pytest.mark.parametrize("augment", [None, flip])
def test_batches_from_step_k_are_the_tail_of_all(augment: Any) -> None:
    data = data_of(augment=augment)
    torch.manual_seed(1)
    whole = list(data.batches(3, 0, 12))
    torch.manual_seed(2)
    assert all(same(list(data.batches(3, first, 12)), whole[first:]) for first in range(13))


def test_seeds_and_steps_have_augmentations_of_their_own() -> None:
    draws: list[int] = []

    def note(images: Tensor, rng: torch.Generator) -> Tensor:
        draws.append(int(torch.randint(2**62, (), generator=rng)))
        return images

    for seed in range(4):
        list(data_of(augment=note).batches(seed, 0, 9))
    assert len(set(draws)) == len(draws) == 36


@given(st.integers(1, 6), st.integers(0, 99), st.integers(0, 8), st.booleans())
@exact
def test_shares_of_a_training_batch_side_by_side_are_the_batch(of: int, seed: int, first: int, augmented: bool) -> None:
    data = data_of(61, batch_size=2 * of, augment=pad_crop_flip if augmented else None)
    shares = [list(data.batches(seed, first, 9, (rank, of))) for rank in range(of)]
    assert {len(targets) for share in shares for _, targets in share} <= {data.batch_size // of}
    assert same(side_by_side(shares), list(data.batches(seed, first, 9)))


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(DataError, match=r"^data\.batch_size=6: must be a multiple of the 4 processes"):
        next(data_of().batches(0, 0, 1, (0, 4)))


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["train", "val", "test"]))
@exact
def test_evaluation_sees_each_example_once_in_order(of: int, size: int, part: str) -> None:
    data = data_of(augment=pad_crop_flip, prepare=Normalise(MEAN, STD))
    examples: Any = getattr(data, part)
    shares = [list(data.evaluation(part, size, (rank, of))) for rank in range(of)]
    assert all(1 <= len(targets) <= size for share in shares for _, targets in share)
    found = [batch for share in shares for batch in share]
    assert torch.equal(torch.cat([targets for _, targets in found]), examples.targets)
    expected = Normalise(MEAN, STD)(examples.inputs)
    assert torch.equal(torch.cat([inputs for inputs, _ in found]), expected)
    sizes = [sum(len(targets) for _, targets in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("prepare", [None, Normalise(MEAN, STD), lambda inputs: inputs])
def test_what_is_done_to_a_batch_in_place_stays_in_it(prepare: Any) -> None:
    """A network may normalise its inputs in place, a loss may rename classes: the stored examples stay as they are."""
    data = data_of(prepare=prepare)
    before = data_of(prepare=prepare)
    for batches in (data.batches(0, 0, 4), *(data.evaluation(part, 3) for part in ("train", "val", "test"))):
        for inputs, targets in batches:
            inputs.zero_()
            targets.fill_(9)
    for part in ("train", "val", "test"):
        now, then = getattr(data, part).content(), getattr(before, part).content()
        assert all(torch.equal(now[name], then[name]) for name in ("inputs", "targets")), part


def test_closing_the_batches_closes_what_reads_them() -> None:
    closed = []

    class Watched(Examples):
        def training(self, seed: int, steps: Any) -> Any:
            try:
                yield from super().training(seed, steps)
            finally:
                closed.append("training")

        def evaluation(self, first: int, last: int, size: int) -> Any:
            try:
                yield from super().evaluation(first, last, size)
            finally:
                closed.append("evaluation")

    part = Watched(pictures(9, 0).inputs, torch.arange(9))
    data = Data(part, part, part, 3, (3, 6, 6), 10)
    for batches in (data.batches(0, 0, 9), data.evaluation("val", 2)):
        next(batches)
        batches.close()
    assert closed == ["training", "evaluation"]


def test_normalised_bytes_are_torchvisions() -> None:
    pixels = pictures(20, 0).inputs
    expected = torch.stack([functional.normalize(image.float().div(255), MEAN, STD) for image in pixels])
    before = pixels.clone()
    assert torch.equal(Normalise(MEAN, STD)(pixels), expected)
    assert torch.equal(pixels, before)
    assert Normalise(MEAN, STD)(pixels).dtype == torch.float32


@pytest.mark.parametrize(("mean", "std", "said"), [
    (MEAN, STD[:2], r"data\.mean=\[.*\], data\.std=\[0\.247, 0\.2435\]: must be of one length"),
    (MEAN, (0.2, 0, 0.2), r"data\.std=\[0\.2, 0, 0\.2\]: must be above 0"),
])  # fmt: skip
def test_what_cannot_normalise_is_refused(mean: Any, std: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Normalise(mean, std)


@pytest.mark.parametrize("count", [1, 4])
def test_numbers_for_other_channels_are_refused(count: int) -> None:
    data = data_of(prepare=Normalise([0.5] * count, [0.5] * count))
    with pytest.raises(DataError, match=rf"^data\.mean: {count} numbers do not go with 3 channels"):
        next(data.batches(0, 0, 1))


def test_parts_of_differing_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.shape=\[3, 6, 6\]: the inputs of the test split have shape"):
        Data(pictures(9, 0), pictures(9, 0), pictures(9, 0, 3, 6, 7), 3, (3, 6, 6))


def test_training_examples_of_one_class_are_refused() -> None:
    part = Examples(pictures(9, 0).inputs, torch.full((9,), 4))
    with pytest.raises(DataError, match=r"^data\.classes=5: all 9 training examples are of one class, 4;"):
        Data(part, part, part, 3, (3, 6, 6), classes=5)


def test_data_on_another_device_keeps_everything() -> None:
    data = data_of(augment=flip, prepare=Normalise(MEAN, STD))
    moved = data.to("cpu")
    assert (moved.augment, moved.prepare, moved.digest) == (data.augment, data.prepare, data.digest)
