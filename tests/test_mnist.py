"""MNIST and Fashion-MNIST: wherever the files lie and however they are packed, the same tensors; or one sentence."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, ToTensor

from lottery.data.examples import Data, DataError, Examples, split
from lottery.data.mnist import fashion_mnist, mnist, read_idx
from tests.tiny_sets import idx

SETS = [("MNIST", mnist), ("FashionMNIST", fashion_mnist)]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
MEAN, STD = 0.2860, 0.3530


def contents() -> dict[str, bytes]:
    """40 training and 12 test images of 28x28 pixels."""
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 40), ("t10k", 12)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, count))
    return files


def lay(folder: Path, zipped: Callable[[str], bool] = lambda name: False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents().items():
        if zipped(name):
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def load(dataset: Callable[..., Data], root: Path) -> Data:
    return dataset(str(root), batch_size=5, val_size=10, shape=(1, 28, 28), classes=10, mean=MEAN, std=STD)


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torchvision tried to download: each attempt fails like one without a network."""
    tried: list[str] = []

    def unreachable(url: str, *args: Any, **kwargs: Any) -> None:
        tried.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    return tried


@pytest.mark.parametrize(("name", "dataset"), SETS)
def test_tensors_are_torchvisions(tmp_path: Path, name: str, dataset: Callable[..., Data]) -> None:
    lay(tmp_path / name / "raw")
    transform = Compose([ToTensor(), Normalize((MEAN,), (STD,))])
    parts = []
    for train in (True, False):
        images, labels = zip(*getattr(datasets, name)(tmp_path, train, transform=transform), strict=True)
        parts.append(Examples(torch.stack(images), torch.tensor(labels)))
    val, train_part = split(parts[0], (10,))
    data = load(dataset, tmp_path)
    for found, expected in ((data.train, train_part), (data.val, val), (data.test, parts[1])):
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)
        assert found.inputs.dtype == torch.float32
        assert found.targets.dtype == torch.int64
    assert [len(data.train), len(data.val), len(data.test)] == [30, 10, 12]


def test_padding_is_a_black_frame(tmp_path: Path) -> None:
    lay(tmp_path)
    plain: Any = load(mnist, tmp_path)
    given = {"batch_size": 5, "val_size": 10, "classes": 10, "mean": MEAN, "std": STD}
    padded: Any = mnist(str(tmp_path), shape=(1, 32, 32), pad=2, **given)
    for part in ("train", "val", "test"):
        inputs = getattr(padded, part).inputs
        assert torch.equal(inputs[:, :, 2:-2, 2:-2], getattr(plain, part).inputs)
        frame = torch.ones(32, 32, dtype=torch.bool)
        frame[2:-2, 2:-2] = False
        assert (inputs[:, :, frame] == (torch.tensor(0.0) - MEAN) / STD).all()
    with pytest.raises(DataError, match=r"data\.shape=\[1, 28, 28\]: the inputs have shape \[1, 32, 32\]"):
        mnist(str(tmp_path), shape=(1, 28, 28), pad=2, **given)
    with pytest.raises(DataError, match=r"data\.pad=-1: must be at least 0 pixels"):
        fashion_mnist(str(tmp_path), shape=(1, 26, 26), pad=-1, **given)


@pytest.mark.parametrize(("name", "dataset"), SETS)
def test_files_give_the_same_tensors_wherever_and_however_they_lie(
    tmp_path: Path, downloads: list[str], name: str, dataset: Callable[..., Data]
) -> None:
    digests = set()
    packings = [lambda file: False, lambda file: True, lambda file: "images" in file]
    for index, zipped in enumerate(packings):
        for inside in (".", f"{name}/raw"):
            root = tmp_path / f"{index}{len(inside)}"
            lay(root / inside, zipped)
            digests.add(load(dataset, root).digest)
    assert len(digests) == 1
    assert not downloads


def test_a_set_that_is_complete_in_raw_is_found_beside_stray_files(tmp_path: Path, downloads: list[str]) -> None:
    lay(tmp_path / "FashionMNIST" / "raw")
    expected = load(fashion_mnist, tmp_path).digest
    (tmp_path / IMAGES).write_bytes(b"stray")
    assert load(fashion_mnist, tmp_path).digest == expected
    assert not downloads


def test_root_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load(mnist, Path("~/sets")).test) == 12


@pytest.mark.parametrize(("name", "dataset"), SETS)
def test_torchvisions_downloader_ends_in_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dataset: Callable[..., Data]
) -> None:
    urls = []

    def arrive(url: str, download_root: str, filename: str, md5: str) -> None:
        urls.append(url)
        content = contents()[filename.removesuffix(".gz")]
        Path(download_root, filename).write_bytes(gzip.compress(content))
        Path(download_root, filename.removesuffix(".gz")).write_bytes(content)

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", arrive)
    fetched = load(dataset, tmp_path / "new").digest
    assert len(urls) == 4
    assert all(("fashion" in url) == (name == "FashionMNIST") for url in urls)
    assert load(dataset, tmp_path / "new").digest == fetched
    assert len(urls) == 4, "what has been downloaded is downloaded again"
    assert load(dataset, lay(tmp_path / "old", lambda file: True)).digest == fetched


@pytest.mark.parametrize(("name", "dataset"), SETS)
def test_fewer_training_images_leave_validation_and_test_as_they_are(
    tmp_path: Path, name: str, dataset: Callable[..., Data]
) -> None:
    lay(tmp_path)
    whole, few = load(dataset, tmp_path), load(partial(dataset, train_size=7), tmp_path)
    assert torch.equal(few.train.inputs, whole.train.inputs[:7])
    assert all(torch.equal(getattr(few, part).inputs, getattr(whole, part).inputs) for part in ("val", "test"))
    with pytest.raises(DataError, match=r"^data\.train_size=40: must be at least 1 and leave some of the 40 examples"):
        load(partial(dataset, train_size=40), tmp_path)


@pytest.mark.parametrize(("name", "dataset"), SETS)
@pytest.mark.parametrize("missing", [None, "t10k-labels-idx1-ubyte"])
def test_missing_files_without_a_network_say_what_to_do(
    tmp_path: Path, downloads: list[str], name: str, dataset: Callable[..., Data], missing: str | None
) -> None:
    if missing:
        (lay(tmp_path) / missing).unlink()
    with pytest.raises(DataError) as refused:
        load(dataset, tmp_path)
    said = str(refused.value)
    assert said.startswith(f"data.root={tmp_path}: no {name} there ({IMAGES}[.gz] and three more")
    assert f"in {name}/raw" in said
    assert "no route to host" in said
    assert "give the folder that holds the files" in said
    assert "\n" not in said
    assert ("dataset-fashion-mnist" in said) == (name == "FashionMNIST")
    assert downloads


def test_a_root_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.root=.*file.*: no MNIST there .*Not a directory"):
        load(mnist, tmp_path / "file")


def damaged(path: Path, content: bytes) -> str:
    """What is said about a file of this content."""
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_idx(path)
    said = str(refused.value)
    assert said.startswith(f"{path} is damaged or unreadable: ")
    assert said.endswith("; remove it and fetch it again")
    return said


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    content = idx(np.arange(24).reshape(2, 3, 4))
    zipped = gzip.compress(content)
    assert read_idx_of(tmp_path / "whole", content) == read_idx_of(tmp_path / "whole.gz", zipped) == list(range(24))
    for length in range(len(content)):
        damaged(tmp_path / "file", content[:length])
    for length in range(len(zipped)):
        damaged(tmp_path / "file.gz", zipped[:length])
    damaged(tmp_path / "file", content + b"\0")


def read_idx_of(path: Path, content: bytes) -> list[int]:
    path.write_bytes(content)
    return read_idx(path).flatten().tolist()


def test_every_flipped_bit_of_a_gzipped_file_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4))
    zipped, path, noticed = gzip.compress(idx(values)), tmp_path / "file.gz", 0
    for place in range(8 * len(zipped)):
        flipped = bytearray(zipped)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_idx(path)
        except DataError:
            noticed += 1
        else:
            assert found.tolist() == values.tolist()
    # a date, a name of a system, and bits that fill a byte mean nothing
    assert noticed >= 8 * (len(zipped) - 10)


@pytest.mark.parametrize("magic", ["00000d03", "01000803", "00080300", "1f8b0803", "3c21444f"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, magic: str) -> None:
    content = bytes.fromhex(magic) + idx(np.zeros((2, 2, 2)))[4:]
    assert f"it does not begin like an IDX file of bytes ({magic})" in damaged(tmp_path / IMAGES, content)


def test_a_damaged_set_is_refused_by_the_name_of_its_file(tmp_path: Path, downloads: list[str]) -> None:
    path = lay(tmp_path, lambda name: True) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is damaged"):
        load(fashion_mnist, tmp_path)
    assert not downloads, "a damaged file is not covered up by a download"


@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize("labels", [np.zeros(11), np.zeros(41), np.zeros((40, 1)), np.zeros((12, 28, 28))])
def test_labels_that_do_not_go_with_the_images_are_refused(tmp_path: Path, part: str, labels: np.ndarray) -> None:
    lay(tmp_path)
    (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    shape = re.escape(str(list(labels.shape)))
    images = re.escape(str(tmp_path / f"{part}-images-idx3-ubyte"))
    with pytest.raises(DataError, match=rf"^{images}: images of shape .* do not go with labels of {shape}"):
        load(mnist, tmp_path)


def test_labels_in_the_place_of_images_are_refused(tmp_path: Path) -> None:
    lay(tmp_path)
    (tmp_path / IMAGES).write_bytes((tmp_path / LABELS).read_bytes())
    with pytest.raises(DataError, match=r"images of shape \[40\] do not go with labels of \[40\]"):
        load(mnist, tmp_path)
