"""CIFAR, SVHN and Tiny-ImageNet: exactly what lies in their files, or one sentence that names the file."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from lottery.data import digits
from lottery.data.cifar import cifar10, cifar100
from lottery.data.examples import Data, DataError, Examples, split
from lottery.data.svhn import svhn
from lottery.data.tiny_imagenet import tiny_imagenet
from tests import tiny_sets
from tests.tiny_sets import TEST, TRAIN, WNIDS, labels, pixels, python2_pickle

READERS: dict[str, Any] = {"cifar10": cifar10, "cifar100": cifar100, "svhn": svhn, "tiny_imagenet": tiny_imagenet}
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "tiny_imagenet": 5}
FILES = {
    "cifar10": ["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"],
    "cifar100": ["cifar-100-python/train", "cifar-100-python/test"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "tiny_imagenet": [
        f"tiny-imagenet-200/train/{WNIDS[2]}/images/{WNIDS[2]}_3.JPEG", "tiny-imagenet-200/val/images/val_4.JPEG",
        "tiny-imagenet-200/val/val_annotations.txt",
    ],
}  # fmt: skip


def load(name: str, root: Path, **more: Any) -> Data:
    side = 64 if name == "tiny_imagenet" else 32
    given = {"batch_size": 5, "val_size": 10, "shape": [3, side, side], "classes": CLASSES[name]}
    return READERS[name](str(root), **given, mean=[0.5] * 3, std=[0.2] * 3, **more)


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torchvision tried to download: each attempt fails like one without a network."""
    tried: list[str] = []

    def unreachable(url: str, *args: Any, **kwargs: Any) -> None:
        tried.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", unreachable)
    monkeypatch.setattr(datasets.svhn, "download_url", unreachable)
    return tried


def jpeg(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def written(name: str, root: Path) -> tuple[Examples, Examples]:
    """Training and test part as they were written."""
    if name == "cifar10":
        train = np.concatenate([pixels(TRAIN // 5, 3072, seed=number) for number in range(5)])
        of_train, test = labels(TRAIN // 5) * 5, pixels(TEST, 3072, seed=5)
    elif name == "cifar100":
        train, of_train, test = pixels(TRAIN, 3072, seed=TRAIN), labels(TRAIN, 100), pixels(TEST, 3072, seed=TEST)
    elif name == "svhn":
        train, test = (pixels(count, 32, 32, 3, seed=count).transpose(0, 3, 1, 2) for count in (TRAIN, TEST))
        of_train = labels(TRAIN)
    else:
        top = root / "tiny-imagenet-200"
        paths = [top / "train" / w / "images" / f"{w}_{n}.JPEG" for w in WNIDS for n in range(TRAIN // 5)]
        of_test = torch.tensor([4 - index % 5 for index in range(TEST)])
        tested = torch.stack([jpeg(top / "val" / "images" / f"val_{index}.JPEG") for index in range(TEST)])
        of_train = [number for number in range(5) for _ in range(TRAIN // 5)]
        return Examples(torch.stack(list(map(jpeg, paths))), torch.tensor(of_train)), Examples(tested, of_test)
    parts = ((train, of_train), (test, labels(TEST)))
    first, second = (
        Examples(torch.from_numpy(np.ascontiguousarray(images)).view(-1, 3, 32, 32), torch.tensor(of))
        for images, of in parts
    )
    return first, second


@pytest.mark.parametrize("name", READERS)
def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path, downloads: list[str], name: str) -> None:
    tiny_sets.write(name, tmp_path)
    train, test = written(name, tmp_path)
    val, rest = split(train, (10,))
    data: Any = load(name, tmp_path)
    for found, expected in ((data.train, rest), (data.val, val), (data.test, test)):
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)
        assert (found.inputs.dtype, found.targets.dtype) == (torch.uint8, torch.int64)
        assert found.inputs.is_contiguous()
    assert [len(data.train), len(data.val), len(data.test)] == [30, 10, 10]
    assert data.augment is None
    inputs, _ = next(data.evaluation("test", 10))
    assert torch.equal(inputs, ((test.inputs / 255) - 0.5) / 0.2)
    assert not downloads


@pytest.mark.parametrize("name", READERS)
def test_splits_are_disjoint_and_the_same_each_time(tmp_path: Path, name: str) -> None:
    tiny_sets.write(name, tmp_path)
    data: Any = load(name, tmp_path)
    seen = [{image.numpy().tobytes() for image in part.inputs} for part in (data.train, data.val, data.test)]
    assert [len(part) for part in seen] == [30, 10, 10]
    assert len(set.union(*seen)) == 50
    assert load(name, tmp_path).digest == data.digest


@pytest.mark.parametrize(("name", "reader"), [("CIFAR10", "cifar10"), ("CIFAR100", "cifar100"), ("SVHN", "svhn")])
def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reader: str) -> None:
    tiny_sets.write(reader, tmp_path)
    monkeypatch.setattr(getattr(datasets, name), "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *args: True)
    monkeypatch.setattr(datasets.svhn, "check_integrity", lambda *args: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's complaint about such pickles, which our reader gives no reason for
        theirs = getattr(datasets, name)(tmp_path, **({"split": "test"} if name == "SVHN" else {"train": False}))
    data: Any = load(reader, tmp_path)
    assert [int(theirs[index][1]) for index in range(TEST)] == data.test.targets.tolist()
    for index in range(TEST):
        assert torch.equal(torch.from_numpy(np.array(theirs[index][0])).permute(2, 0, 1), data.test.inputs[index])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_root_may_be_the_folder_itself(tmp_path: Path, name: str) -> None:
    tiny_sets.write(name, tmp_path)
    [inside] = tmp_path.iterdir()
    assert load(name, inside).digest == load(name, tmp_path).digest


@pytest.mark.parametrize(("name", "said"), [
    ("cifar10", "no CIFAR10 there (data_batch_1 and five more, in it or in cifar-10-batches-py), and the download"),
    ("cifar100", "no CIFAR100 there (train and one more, in it or in cifar-100-python), and the download failed"),
    ("svhn", "no SVHN there (train_32x32.mat and one more), and the download failed (<urlopen error no route"),
    ("tiny_imagenet", "no Tiny-ImageNet there, in it or in tiny-imagenet-200; no download is built in: unpack"),
])  # fmt: skip
def test_a_missing_set_says_what_to_do(tmp_path: Path, downloads: list[str], name: str, said: str) -> None:
    with pytest.raises(DataError) as refused:
        load(name, tmp_path)
    assert str(refused.value).startswith(f"data.root={tmp_path}: {said}")
    assert "\n" not in str(refused.value)
    assert bool(downloads) == (name != "tiny_imagenet")


@pytest.mark.parametrize(("name", "file"), [(n, f) for n in ("cifar10", "cifar100", "svhn") for f in FILES[n]])
def test_a_missing_file_is_downloaded_with_its_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    tiny_sets.write(name, tmp_path)
    expected, content = load(name, tmp_path).digest, (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    calls = []

    class Downloader:
        def __init__(self, root: Path, download: bool, **more: str) -> None:
            assert (root, download) == (tmp_path, True)
            calls.append(more)
            (tmp_path / file).write_bytes(content)

    monkeypatch.setattr(datasets, name.upper(), Downloader)
    assert load(name, tmp_path).digest == expected
    assert calls == ([{"split": "train"}, {"split": "test"}] if name == "svhn" else [{}])


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in FILES.items() for file in files])
@pytest.mark.parametrize("damage", ["half", "empty", "text", "directory"])
def test_a_damaged_file_is_named(tmp_path: Path, downloads: list[str], name: str, file: str, damage: str) -> None:
    tiny_sets.write(name, tmp_path)
    path, content = tmp_path / file, (tmp_path / file).read_bytes()
    if damage == "directory":
        if name != "tiny_imagenet":
            return  # as good as missing
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {"half": content[: len(content) // 2 - 3], "empty": b"", "text": b"<html>Not found</html>\n"}[damage]
        )
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}") as refused:
        load(name, tmp_path)
    assert str(refused.value).startswith(f"{path} is damaged or unreadable: ")
    assert str(refused.value).endswith("; remove it and fetch it again")
    assert "\n" not in str(refused.value)
    assert not downloads, "a damaged file is not covered up by a download"


# what a pickle may not do


class Hostile:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


def hostile(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}"
    return {
        "os.system": pickle.dumps(Hostile(os.system, command), 2),
        "subprocess.call": pickle.dumps({"data": Hostile(subprocess.call, command, None)}, 4),
        "builtins.eval": pickle.dumps([Hostile(eval, f"open({str(marker)!r}, 'w')")], 4),
        "numpy.load": b"\x80\x02cnumpy\nload\n" + pickle.dumps((str(marker),), 2)[2:-1] + b"R.",
        "numpy.dtype.__class__": b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "copyreg._reconstructor": pickle.dumps(Path("x"), 2)[:2] + b"ccopyreg\n_reconstructor\n.",
    }


@pytest.mark.parametrize("name", sorted(hostile(Path())))
def test_a_pickle_that_asks_for_anything_else_is_refused_and_not_obeyed(
    tmp_path: Path, downloads: list[str], name: str
) -> None:
    tiny_sets.write("cifar10", tmp_path)
    marker, path = tmp_path / "executed", tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = hostile(marker)[name]
    if name == "os.system":
        pickle.loads(content)
        assert marker.exists(), "the attack works on a reader without defence"
        marker.unlink()
    path.write_bytes(content)
    asked = name.replace("os.", "posix.") if name.startswith("os.") else name
    said = re.escape(f"{path} is damaged or unreadable: it asks for {asked}")
    with pytest.raises(DataError, match=f"^{said}"):
        load("cifar10", tmp_path)
    assert not marker.exists()
    assert not downloads


@pytest.mark.parametrize("content", [
    pickle.dumps(7), pickle.dumps({"data": 1, "labels": [1]}), pickle.dumps({"labels": [1]}),
    python2_pickle({"fine_labels": [1]}, pixels(1, 3072)), python2_pickle({"labels": [1, 2]}, pixels(1, 3072)),
    python2_pickle({"labels": [1]}, pixels(1, 3071)), python2_pickle({"labels": [1]}, pixels(3072)),
])  # fmt: skip
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    tiny_sets.write("cifar10", tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is damaged or unreadable: "):
        load("cifar10", tmp_path)


# each set's own


@pytest.mark.parametrize(("name", "changes", "said"), [
    ("cifar10", {"classes": 9}, r"data\.classes=9: the labels run from 0 to 9"),
    ("cifar10", {"val_size": 0}, r"data\.val_size=0: must be at least 1"),
    ("svhn", {"val_size": 40}, r"data\.val_size=40: must be at least 1 and leave some of the 40"),
    ("svhn", {"shape": [1, 32, 32]}, r"data\.shape=\[1, 32, 32\]: the inputs have shape \[3, 32, 32\]"),
    ("tiny_imagenet", {"shape": [3, 32, 32]}, r"_0\.JPEG: has shape \[3, 64, 64\], and data\.shape is \[3, 32, 32\]"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, name: str, changes: dict[str, Any], said: str) -> None:
    tiny_sets.write(name, tmp_path)
    given = {"batch_size": 5, "val_size": 10, "shape": [3, 32, 32], "classes": CLASSES[name], **changes}
    with pytest.raises(DataError, match=said):
        READERS[name](str(tmp_path), **given, mean=[0.5] * 3, std=[0.2] * 3)


@pytest.mark.parametrize("content", [
    {"X": pixels(32, 32, 3, 9), "y": np.ones((8, 1))}, {"X": pixels(32, 32, 9), "y": np.ones((9, 1))},
    {"X": pixels(32, 32, 3, 9).astype(float), "y": np.ones((9, 1))}, {"X": pixels(32, 32, 3, 9)},
    {"X": pixels(32, 32, 3, 9), "y": "labels"},
])  # fmt: skip
def test_a_matlab_file_of_something_else_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    tiny_sets.write("svhn", tmp_path)
    savemat(tmp_path / "test_32x32.mat", content)
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'test_32x32.mat'))} is damaged or unreadable: "):
        load("svhn", tmp_path)


@pytest.mark.parametrize("label", [1.5, float("nan"), float("inf")])
def test_labels_are_whole_numbers(tmp_path: Path, label: float) -> None:
    tiny_sets.write("svhn", tmp_path)
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": pixels(32, 32, 3, 9), "y": np.array([[1.0]] * 8 + [[label]])})
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is damaged .*: its labels are not whole numbers"):
        load("svhn", tmp_path)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    tiny_sets.write("tiny_imagenet", tmp_path)
    path = tmp_path / FILES["tiny_imagenet"][1]
    tiny_sets.save(path, (64, 63), 0)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: has shape \[3, 63, 64\], and data\.shape is"):
        load("tiny_imagenet", tmp_path)


def test_an_image_that_is_listed_must_be_there(tmp_path: Path) -> None:
    tiny_sets.write("tiny_imagenet", tmp_path)
    path = tmp_path / FILES["tiny_imagenet"][1]
    path.rename(path.with_name("other.JPEG"))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is damaged or unreadable: .*No such file"):
        load("tiny_imagenet", tmp_path)


def test_a_label_that_was_never_trained_is_named(tmp_path: Path) -> None:
    tiny_sets.write("tiny_imagenet", tmp_path)
    path = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace(WNIDS[1], "n00000000"))
    missing = path.parents[1] / "train" / "n00000000"
    with pytest.raises(DataError, match=f"^{re.escape(f'{missing}: no such folder, and {path} names this class')}"):
        load("tiny_imagenet", tmp_path)


@pytest.mark.parametrize(("old", "new", "said"), [
    ("val_3.JPEG", "val_4.JPEG", "it lists val_4.JPEG 2 times"),
    (f"val_9.JPEG\t{WNIDS[0]}\t0\t32\t44\t62\n", "", "it does not list val_9.JPEG, one of 10 images"),
])  # fmt: skip
def test_a_list_of_other_images_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    tiny_sets.write("tiny_imagenet", tmp_path)
    path = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=f"^{re.escape(f'{path} is damaged or unreadable: {said}')}"):
        load("tiny_imagenet", tmp_path)


def test_classes_that_are_missing_or_empty_are_said(tmp_path: Path) -> None:
    tiny_sets.write("tiny_imagenet", tmp_path)
    train = tmp_path / "tiny-imagenet-200" / "train"
    for image in (train / WNIDS[2] / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=rf"^{re.escape(str(train / WNIDS[2] / 'images'))}: no \*\.JPEG in it"):
        load("tiny_imagenet", tmp_path)
    (train / WNIDS[2]).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"^data\.classes=5: {re.escape(str(train))} has 4 folders of classes"):
        load("tiny_imagenet", tmp_path)


def test_folders_without_images_are_said(tmp_path: Path) -> None:
    (tmp_path / "train" / WNIDS[0]).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path / 'train'))}: no <wnid>/images/\*\.JPEG in it"):
        load("tiny_imagenet", tmp_path)


def test_digits_are_those_that_scikit_learn_gives() -> None:
    pixels, labels = digits.read()
    theirs = load_digits()
    assert pixels.tolist() == theirs.data.tolist()
    assert labels.tolist() == theirs.target.tolist()
    assert labels.dtype == torch.int64
