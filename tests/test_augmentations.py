"""Augmentations: pixel for pixel and draw for draw what torchvision does to one image at a time."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import chi2, chi2_contingency
from torch import Tensor
from torchvision.transforms import functional, v2

from lottery.data.augmentations import flip, pad_crop, pad_crop_flip

MANY = 20_000
TINY_P = 1e-6
"""probability that a correct sampler fails; seeds are fixed, so results do not vary between runs"""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, *shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8, generator=rng(1)).to(dtype)


def drawn(count: int, padding: int, stream: torch.Generator) -> list[tuple[int, int, int]]:
    """Rows down, columns right, mirrored or not: in the order in which `pad_crop_flip` draws them."""
    down, right = torch.randint(2 * padding + 1, (2, count), generator=stream).tolist()
    return list(zip(down, right, torch.randint(2, (count,), generator=stream).tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize(("shape", "padding", "fill"), [
    ((3, 32, 32), 4, 0), ((3, 32, 32), 4, 7), ((1, 28, 28), 2, 0), ((3, 5, 9), 3, 255), ((2, 4, 4), 0, 0),
])  # fmt: skip
def test_every_image_is_torchvisions_pad_crop_and_flip(
    shape: tuple[int, int, int], padding: int, fill: int, dtype: torch.dtype
) -> None:
    batch = images(300, *shape, dtype=dtype)
    before = batch.clone()
    found = pad_crop_flip(batch, rng(5), padding, fill)
    assert (found.dtype, found.shape) == (batch.dtype, batch.shape)
    assert torch.equal(batch, before), "the stored images were changed"
    for image, got, (down, right, mirrored) in zip(batch, found, drawn(300, padding, rng(5)), strict=True):
        expected = functional.crop(functional.pad(image, padding, fill), down, right, *shape[1:])
        assert torch.equal(got, functional.hflip(expected) if mirrored else expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_images_on_a_gpu_give_the_same() -> None:
    batch = images(40, 3, 8, 8)
    assert torch.equal(pad_crop_flip(batch.cuda(), rng()).cpu(), pad_crop_flip(batch, rng()))


def test_images_of_any_layout_in_memory_give_the_same() -> None:
    batch = images(40, 3, 8, 8)
    expected = pad_crop_flip(batch, rng())
    assert torch.equal(pad_crop_flip(batch.contiguous(memory_format=torch.channels_last), rng()), expected)
    assert torch.equal(pad_crop_flip(torch.cat([batch, batch])[40:], rng()), expected)
    assert torch.equal(pad_crop_flip(batch.transpose(2, 3), rng()), pad_crop_flip(batch.mT.contiguous(), rng()))


def test_one_image_is_a_batch_too() -> None:
    assert pad_crop_flip(images(1, 3, 8, 8), rng()).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("given", "said"), [
    ({"padding": -1}, "padding=-1: must be 0 or more pixels"),
    ({"padding": 1.5}, "padding=1.5: must be 0 or more pixels"),
    ({"fill": 256}, "fill=256: must be a whole number from 0 to 255 for images of bytes"),
    ({"fill": -1}, "fill=-1: must be a whole number from 0 to 255 for images of bytes"),
    ({"fill": 0.5}, "fill=0.5: must be a whole number from 0 to 255 for images of bytes"),
])  # fmt: skip
def test_frames_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pad_crop_flip(images(2, 3, 8, 8), rng(), **given)


def test_floats_may_have_any_frame() -> None:
    assert pad_crop(images(20, 1, 4, 4, dtype=torch.float32), rng(), 2, -0.5).min() == -0.5


def test_the_generator_alone_decides() -> None:
    batch = images(64, 3, 8, 8)
    torch.manual_seed(0)
    first = pad_crop_flip(batch, rng(3))
    state = torch.get_rng_state()
    assert torch.equal(pad_crop_flip(batch, rng(3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(pad_crop_flip(batch, rng(4)), first)


def test_flip_mirrors_whole_images_or_leaves_them() -> None:
    batch = images(200, 3, 4, 6)
    found = flip(batch, rng())
    same = (found == batch).flatten(1).all(1)
    mirrored = (found == batch.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 60 < mirrored.sum() < 140


PADDING, SIZE = 4, 32


def coordinates() -> Tensor:
    """An image whose pixels encode their row and column and differ from the padding."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.stack([rows + 1, columns + 1, torch.full_like(rows, 9)]).to(torch.uint8)


def outcomes(views: Tensor) -> Tensor:
    """How often each (down, right, mirrored) came, read from the views themselves: (9, 9, 2)."""
    middle = views[:, :2, SIZE // 2, SIZE // 2 - 1 : SIZE // 2 + 1].long()
    mirrored = (middle[:, 1, 1] < middle[:, 1, 0]).long()
    left = torch.where(mirrored.bool(), middle[:, 1, 1], middle[:, 1, 0])
    down = middle[:, 0, 0] - 1 - SIZE // 2 + PADDING
    right = left - SIZE // 2 + PADDING
    counts = torch.zeros(9, 9, 2)
    return counts.index_put((down, right, mirrored), torch.ones(len(views)), accumulate=True)


def test_outcomes_are_read_correctly() -> None:
    image = coordinates()
    for down, right, mirrored in product(range(9), range(9), range(2)):
        view = functional.crop(functional.pad(image, PADDING), down, right, SIZE, SIZE)
        counts = outcomes((functional.hflip(view) if mirrored else view)[None])
        assert counts.nonzero().tolist() == [[down, right, mirrored]]


@pytest.fixture(scope="module")
def counts() -> Tensor:
    """Outcomes of MANY images in batches with streams of their own, as training draws them."""
    batch = coordinates().expand(100, 3, SIZE, SIZE)
    views = [pad_crop_flip(batch, rng(1000 + step), PADDING)[:, :, 16:17, 15:17] for step in range(MANY // 100)]
    frame = torch.zeros(MANY, 3, SIZE, SIZE, dtype=torch.uint8)
    frame[:, :, 16:17, 15:17] = torch.cat(views)
    return outcomes(frame)


def p_of_uniform(counts: Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.numel() - 1))


def test_all_windows_are_equally_likely(counts: Tensor) -> None:
    assert p_of_uniform(counts.sum(2).flatten()) > TINY_P
    assert p_of_uniform(counts.sum((1, 2))) > TINY_P
    assert p_of_uniform(counts.sum((0, 2))) > TINY_P
    assert (counts.sum(2) > 0).all()


def test_half_of_all_images_are_mirrored(counts: Tensor) -> None:
    assert p_of_uniform(counts.sum((0, 1))) > TINY_P


def test_rows_columns_and_mirroring_are_independent(counts: Tensor) -> None:
    assert chi2_contingency(counts.sum(2).numpy()).pvalue > TINY_P
    assert chi2_contingency(counts.sum(0).numpy()).pvalue > TINY_P
    assert chi2_contingency(counts.sum(1).numpy()).pvalue > TINY_P
    assert p_of_uniform(counts.flatten()) > TINY_P


def test_neighbours_in_a_batch_are_independent() -> None:
    pairs = torch.zeros(9, 9)
    for step in range(3000):
        (first, *_), (second, *_) = drawn(2, PADDING, rng(step))
        pairs[first, second] += 1
    assert chi2_contingency(pairs.numpy()).pvalue > TINY_P


def test_the_distribution_is_torchvisions(counts: Tensor) -> None:
    torch.manual_seed(0)
    one_by_one = v2.Compose([v2.RandomCrop(SIZE, padding=PADDING), v2.RandomHorizontalFlip()])
    image = coordinates()
    theirs = outcomes(torch.stack([one_by_one(image) for _ in range(MANY // 4)]))
    table = torch.stack([counts.flatten(), theirs.flatten()])
    assert chi2_contingency(table.numpy()).pvalue > TINY_P


def test_crop_without_flip_draws_the_same_windows() -> None:
    batch = images(50, 3, 8, 8)
    cropped, both = pad_crop(batch, rng(2), 2), pad_crop_flip(batch, rng(2), 2)
    same = (cropped == both).flatten(1).all(1)
    assert ((cropped.flip(-1) == both).flatten(1).all(1) | same).all()
    assert 0 < same.sum() < 50
