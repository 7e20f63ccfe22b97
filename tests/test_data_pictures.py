"""Images in folders: the same batches whichever process decodes them, and no process left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lottery.data.examples import Data, DataError
from lottery.data.folders import folder
from lottery.data.pictures import Pictures, Views
from tests import tiny_sets
from tests.conftest import environment
from tests.few import few
from tests.tiny_sets import WNIDS, write_classes

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def load(root: Path, **more: Any) -> Data:
    given = {"batch_size": 10, "val_size": 10, "shape": [3, 32, 32], "classes": 5, "resize": 36}
    return folder(str(root), mean=MEAN, std=STD, **given | more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ImageNet: 40 training and 10 validation pictures."""
    path = tmp_path_factory.mktemp("imagenet")
    tiny_sets.write("imagenet", path)
    return path


def files(part: Any) -> list[str]:
    assert isinstance(part, Pictures)
    return list(part.names)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


# what is seen


def test_evaluation_sees_the_centre_as_torchvision_does(root: Path) -> None:
    data = load(root)
    transform = v2.Compose([v2.Resize(36), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    paths = sorted((root / "val").glob("*/*.JPEG"), key=lambda path: (path.parent.name, path.name))
    images = torch.stack([v2.Normalize(MEAN, STD)(transform(Image.open(path).convert("RGB"))) for path in paths])
    found = list(data.evaluation("test", 3))
    assert [len(targets) for _, targets in found] == [3, 3, 3, 1]
    torch.testing.assert_close(torch.cat([inputs for inputs, _ in found]), images, rtol=0, atol=1e-6)
    expected = [WNIDS.index(path.parent.name) for path in paths]
    assert torch.cat([targets for _, targets in found]).tolist() == expected == data.test.targets.tolist()


def test_training_sees_what_torchvision_makes_of_its_seed(root: Path) -> None:
    views, path = Views((24, 32), 36, (0.2, 0.9)), next((root / "train").glob("*/*.JPEG"))
    transform = v2.Compose([v2.RandomResizedCrop((24, 32), (0.2, 0.9)), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    for seed in range(20):
        torch.manual_seed(seed)
        expected = transform(Image.open(path).convert("RGB"))
        assert torch.equal(views.view(str(path), seed), expected)
        assert (expected.shape, expected.dtype) == ((3, 24, 32), torch.uint8)


def test_stored_pixels_are_bytes_and_prepared_ones_are_normalised(root: Path) -> None:
    data = load(root)
    stored, _ = next(data.train.training(1, [(0, torch.arange(4))]))
    assert (stored.dtype, stored.shape) == (torch.uint8, (4, 3, 32, 32))
    inputs, _ = next(data.batches(1, 0, 1))
    assert (inputs.dtype, inputs.shape) == (torch.float32, (10, 3, 32, 32))


def test_every_view_is_drawn_anew(tmp_path: Path) -> None:
    """Views at another step, with another seed, and of a copy of the image at the same step."""
    for name in ("one", "twin"):
        tiny_sets.save(tmp_path / name, (50, 50), 0)
    pictures = Pictures(tmp_path, ["one", "twin"], torch.arange(2), Views((8, 8), 8))
    chosen = torch.tensor([0, 0, 1])
    views = [next(pictures.training(seed, [(step, chosen)]))[0] for seed in range(3) for step in range(3)]
    assert all(torch.equal(first, again) for first, again, _ in views)  # the picture counts, not its place
    assert len({tuple(view[number].flatten().tolist()) for view in views for number in (0, 2)}) == 18


# whoever decodes


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_shares_or_interruption(root: Path, workers: int) -> None:
    alone, many = load(root), load(root, workers=workers)
    whole = list(alone.batches(7, 0, 7))
    assert same(list(many.batches(7, 0, 7)), whole)
    assert same(list(many.batches(7, 5, 7)), whole[5:])
    halves = [list(alone.batches(7, 2, 4, (rank, 2))) for rank in (0, 1)]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*halves, strict=True)]
    assert same(joined, whole[2:4])
    assert same(list(many.evaluation("test", 4)), list(alone.evaluation("test", 4)))
    assert (alone.digest, many.digest) == (many.digest, alone.digest)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_is_left_alone(root: Path, workers: int) -> None:
    data = load(root, workers=workers)
    torch.manual_seed(4711)
    before = torch.get_rng_state()
    list(data.batches(7, 0, 2))
    list(data.evaluation("val", 10))
    assert torch.equal(before, torch.get_rng_state())


def targets_of(root: Path, workers: int) -> list[int]:
    return [target for _, targets in load(root, workers=workers).batches(0, 0, 3) for target in targets.tolist()]


@pytest.mark.slow
def test_a_process_of_a_sweep_may_have_workers(root: Path) -> None:
    try:
        [found] = joblib.Parallel(2, backend="loky")([joblib.delayed(targets_of)(root, 1)])
    finally:
        get_reusable_executor().shutdown()
    assert found == targets_of(root, 0)


def test_shares_of_an_evaluation_are_the_part(root: Path) -> None:
    data = load(root)
    found = [targets for rank in range(3) for _, targets in data.evaluation("test", 2, (rank, 3))]
    assert torch.cat(found).tolist() == data.test.targets.tolist()


def children() -> set[int]:
    """Child processes of this one, without multiprocessing's own helpers."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {os.getpid()}
    for _ in range(4):
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    server = {int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and "multiprocessing" in args}
    return below - server - {os.getpid()} - {int(pid) for pid, _, args in rows if args.startswith("ps ")}


def within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


needs_ps = pytest.mark.skipif(not shutil.which("ps"), reason="no ps to list processes with")


@needs_ps
def test_closed_batches_leave_no_worker(root: Path) -> None:
    data, before = load(root, workers=2), children()
    for batches in (data.batches(0, 0, 1000), data.evaluation("train", 2)):
        next(batches)
        assert len(children() - before) >= 2
        batches.close()
        assert within(10, lambda: not children() - before)


SCRIPT = """
import signal, sys
from lottery.data.folders import folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
if __name__ == "__main__":
    data = folder(sys.argv[1], 10, 10, [3, 32, 32], 5, [0.5] * 3, [0.2] * 3, resize=36, workers=2)
    batches = data.batches(0, 0, 10**6)
    next(batches)
    print("reading", flush=True)
    for _ in batches:
        pass
"""


@needs_ps
@pytest.mark.parametrize("with_signal", few([signal.SIGKILL, signal.SIGINT], 1))
def test_a_killed_process_leaves_no_worker_behind(root: Path, tmp_path: Path, with_signal: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "script.py", str(root)], cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(PYTHONPATH=str(Path.cwd())),
    )  # fmt: skip

    def left() -> list[str]:
        listed = subprocess.run(["ps", "-eo", "sess,stat,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
        return [args for session, stat, args in rows if int(session) == process.pid and not stat.startswith("Z")]

    try:
        assert process.stdout
        assert process.stdout.readline() == "reading\n"
        assert len(left()) >= 4  # itself, the server, two workers
        process.send_signal(with_signal)
        process.wait(timeout=30)
        assert within(10, lambda: not left()), left()
    finally:
        if left():
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no picture", b"half"])
def test_a_damaged_picture_is_named(tmp_path: Path, workers: int, content: bytes) -> None:
    write_classes(tmp_path, 60, 0)
    path = tmp_path / WNIDS[3] / f"{WNIDS[3]}_8.JPEG"
    path.write_bytes(path.read_bytes()[:700] if content == b"half" else content)
    data = load(tmp_path, test_size=10, workers=workers)
    with pytest.raises(DataError) as refused:
        [list(data.evaluation(part, 10)) for part in ("train", "val", "test")]
    said = str(refused.value)
    assert said.startswith(f"{path} is damaged or no picture: ")
    assert said.endswith("; remove it or fetch it again")
    assert "\n" not in said


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_more_than_bytes_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    Image.new(mode, (40, 40), 1000).save(path)
    said = f"{path}: pictures of mode {mode} are not supported; convert them to 8 bits a channel"
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        Views((32, 32), 36).view(str(path), None)


# what is found


def test_imagenet_is_tested_on_its_validation_part(root: Path) -> None:
    data = load(root)
    assert [len(data.train), len(data.val), len(data.test)] == [30, 10, 10]
    assert all(name.startswith("val/") for name in files(data.test))
    found = files(data.train) + files(data.val)
    assert sorted(found) == sorted(str(path.relative_to(root)) for path in (root / "train").glob("*/*"))
    for part in (data.train, data.val, data.test):
        assert [WNIDS[target] for target in part.targets.tolist()] == [name.split("/")[1] for name in files(part)]
    assert files(load(root).val) == files(data.val)
    assert files(data.val) != sorted(files(data.val))


@pytest.mark.parametrize("second", ["val", "test"])
def test_either_other_part_is_the_test_part(tmp_path: Path, second: str) -> None:
    write_classes(tmp_path / "train", 20, 0)
    write_classes(tmp_path / second, 5, 50)
    data = load(tmp_path, val_size=4)
    assert [len(data.train), len(data.val), len(data.test)] == [16, 4, 5]
    assert {name.split("/")[0] for name in files(data.test)} == {second}


def test_three_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, (20, 6, 7)[number], number * 100)
    data = load(tmp_path)
    assert [len(data.train), len(data.val), len(data.test)] == [20, 6, 7]
    for part in ("train", "val", "test"):
        assert {name.split("/")[0] for name in files(getattr(data, part))} == {part}


def test_one_folder_of_classes_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path, 50, 0)
    data = load(tmp_path, test_size=12)
    parts = [set(files(part)) for part in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [28, 10, 12]
    assert len(set.union(*parts)) == 50


def test_pictures_lie_below_their_class_and_nothing_else_counts(tmp_path: Path) -> None:
    write_classes(tmp_path, 50, 0)
    deep = tmp_path / WNIDS[0] / "b" / "a" / "x.Png"
    deep.parent.mkdir(parents=True)
    Image.new("L", (50, 50)).save(deep, "PNG")
    (tmp_path / WNIDS[0] / "notes.txt").write_text("no picture")
    (tmp_path / WNIDS[0] / "._copy.jpg").write_text("no picture")
    (tmp_path / "readme.jpg").write_text("no class")
    (tmp_path / ".hidden").mkdir()
    data = load(tmp_path, test_size=10)
    found = files(data.train) + files(data.val) + files(data.test)
    assert len(found) == 51
    assert f"{WNIDS[0]}/b/a/x.Png" in found


def test_classes_may_be_links(tmp_path: Path) -> None:
    write_classes(tmp_path / "real", 50, 0)
    (tmp_path / "linked").mkdir()
    for wnid in WNIDS:
        (tmp_path / "linked" / wnid).symlink_to(tmp_path / "real" / wnid)
    assert files(load(tmp_path / "linked", test_size=10).train) == files(load(tmp_path / "real", test_size=10).train)


@pytest.mark.parametrize("target", [".", WNIDS[0], WNIDS[1]])
def test_a_folder_is_not_read_twice(tmp_path: Path, target: str) -> None:
    write_classes(tmp_path, 50, 0)
    (tmp_path / WNIDS[0] / "link").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r": is the same folder as .*, whose pictures count once; remove the link$"):
        load(tmp_path, test_size=10)


@pytest.mark.parametrize("names", [
    "train validation", "Train Val", "test val", "train valid", "dev train", "EVAL train", "train",
    "test train validation", "Train Val extra",
])  # fmt: skip
def test_parts_of_other_names_are_not_taken_for_classes(tmp_path: Path, names: str) -> None:
    for name in names.split():
        write_classes(tmp_path / name, 20, 0)
    there = ", ".join(f"{name}/" for name in names.split() if name != "extra")
    said = f"data.root={tmp_path}: the parts of a set must be named train/, val/ and test/, the first"
    with pytest.raises(DataError, match=f"^{re.escape(said)}.* there are {there}; rename or remove them$"):
        load(tmp_path, test_size=10, classes=len(names.split()))


def test_one_class_may_be_named_like_a_part(tmp_path: Path) -> None:
    write_classes(tmp_path, 50, 0, ("bus", "car", "plane", "ship", "train"))
    assert len(load(tmp_path, test_size=10).train) == 30


def test_digest_is_of_names_sizes_and_classes(tmp_path: Path) -> None:
    def digest() -> str:
        return load(tmp_path / "set", test_size=10).digest

    write_classes(tmp_path / "set", 60, 0)
    seen = [digest()]
    path = tmp_path / "set" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    path.write_bytes(path.read_bytes() + b" ")
    seen.append(digest())
    path.rename(path.with_name("renamed.JPEG"))
    seen.append(digest())
    path.with_name("renamed.JPEG").rename(tmp_path / "set" / WNIDS[1] / "renamed.JPEG")
    seen.append(digest())
    assert len(set(seen)) == 4
    (tmp_path / "set").rename(tmp_path / "moved")
    assert load(tmp_path / "moved", test_size=10).digest == seen[-1]
    assert all(first != second for first, second in pairwise(seen))


@pytest.mark.parametrize(("changes", "said"), [
    ({"classes": 4}, r"data\.classes=4: .* has 5 folders of classes, n01443537 to n01698640"),
    ({"shape": [1, 32, 32]}, r"data\.shape=\[1, 32, 32\]: must be \[3, height, width\] for pictures"),
    ({"shape": [32]}, r"data\.shape=\[32\]: must be \[3, height, width\]"),
    ({"resize": 31}, r"data\.resize=31: must be at least the 32 pixels of data\.shape"),
    ({"scale": [0.5, 0.1]}, r"data\.scale=\[0\.5, 0\.1\]: must be two shares"),
    ({"scale": [0, 1]}, r"data\.scale=\[0, 1\]: must be two shares"),
    ({"workers": -1}, r"data\.workers=-1: must be at least 0"),
    ({"val_size": 40}, r"data\.val_size=40: must be at least 1 and leave some of the 40 examples"),
    ({"mean": [0.5]}, r"data\.mean=\[0\.5\], data\.std=.*: must be of one length"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(root: Path, changes: dict[str, Any], said: str) -> None:
    given = {"batch_size": 10, "val_size": 10, "shape": [3, 32, 32], "classes": 5, "resize": 36, "mean": MEAN}
    with pytest.raises(DataError, match=f"^{said}"):
        folder(str(root), std=STD, **given | changes)


@pytest.mark.parametrize("inside", ["", "train", "val"])
def test_missing_folders_say_what_must_be_there(tmp_path: Path, inside: str) -> None:
    if inside == "train":
        (tmp_path / "train").mkdir()
        (tmp_path / "val").mkdir()
    if inside == "val":  # as ImageNet is unpacked: nobody has sorted it
        write_classes(tmp_path / "train", 20, 0)
        tiny_sets.save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", (40, 40), 0)
    place = tmp_path / inside
    with pytest.raises(DataError, match=rf"^data\.root={re.escape(str(tmp_path))}: no folders of pictures in") as said:
        load(tmp_path)
    assert f" in {place}; there must be train/, val/ and maybe test/ with one folder for each class" in str(said.value)


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 4, 0)
    (tmp_path / "train" / WNIDS[4]).mkdir()
    write_classes(tmp_path / "val", 4, 0)
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path / 'train' / WNIDS[4]))}: holds no picture"):
        load(tmp_path)


def test_a_class_that_is_not_trained_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 20, 0)
    write_classes(tmp_path / "val", 6, 0, (*WNIDS, "n09999999"))
    with pytest.raises(DataError, match=r"val/n09999999: no such class among those that are trained"):
        load(tmp_path)
