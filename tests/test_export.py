"""Exported points: what is written comes back and runs elsewhere, and whatever fails leaves nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lottery.compress import export, programs
from lottery.compress.export import Exported, export_point, read_point
from lottery.foundations.errors import Refused

EXAMPLE = torch.linspace(-1, 1, 3 * 8).view(3, 8)
STRUCTURE = {"hidden": 5, "kept": {"0.weight": [0, 2, 3]}}


def built(structure: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, structure["hidden"]), nn.BatchNorm1d(structure["hidden"]), nn.ReLU())


def trained() -> nn.Module:
    """A network in training mode, whose running statistics are no longer those of a fresh one."""
    net = built(STRUCTURE).train()
    net(EXAMPLE)
    return net


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Exported]:
    net = trained()
    return net, export_point(tmp_path_factory.mktemp("out") / "deep" / "point", net, EXAMPLE, STRUCTURE, ("pt2",))


def test_a_point_comes_back_bit_for_bit(point: tuple[nn.Module, Exported]) -> None:
    net, exported = point
    given: list[Any] = []
    found = read_point(exported.folder, lambda structure: given.append(structure) or built(structure))
    assert given == [STRUCTURE]
    assert net.training
    assert not found.training
    assert torch.equal(found(EXAMPLE), net.eval()(EXAMPLE))
    net.train()


def test_what_is_said_of_the_files(point: tuple[nn.Module, Exported]) -> None:
    _, exported = point
    assert exported.files == {path.name: path.stat().st_size for path in exported.folder.iterdir()}
    assert list(exported.files) == ["structure.json", "model.safetensors", "model.pt2"]
    assert written(exported.folder.parent) == ["point"]
    assert exported.differences.keys() == {"pt2"}
    assert 0 <= exported.differences["pt2"] <= 1e-6
    assert exported.opset is None


def test_the_program_runs_batches_of_any_size_without_the_network_s_code(point: tuple[nn.Module, Exported]) -> None:
    _, exported = point
    program = torch.export.load(exported.folder / "model.pt2").module()
    for size in (1, 2, 7):
        inputs = torch.randn(size, 8, generator=torch.Generator().manual_seed(size))
        torch.testing.assert_close(program(inputs), read_point(exported.folder, built)(inputs))


def test_the_program_holds_no_example(point: tuple[nn.Module, Exported]) -> None:
    _, exported = point
    content = (exported.folder / "model.pt2").read_bytes()
    assert EXAMPLE[0].numpy().tobytes() not in content
    assert EXAMPLE[1].numpy().tobytes() not in content
    assert torch.export.load(exported.folder / "model.pt2").example_inputs is None


def test_keys_that_json_turns_into_text(tmp_path: Path) -> None:
    export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, {"kept": {10: (1, 2), 9: [3]}}, programs=())
    given: list[Any] = []
    read_point(tmp_path / "point", lambda structure: given.append(structure) or nn.Linear(8, 2))
    assert given == [{"kept": {"9": [3], "10": [1, 2]}}]
    assert written(tmp_path / "point") == ["model.safetensors", "structure.json"]


class Fixed(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(2, -1) if len(inputs) == 2 else inputs


class Random(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.rand_like(inputs)


class Faint(Random):
    """Random as that is, at a scale at which an absolute difference would show nothing."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 1e-9 * super().forward(inputs)


class Two(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


class Endless(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / 0


@pytest.mark.parametrize(
    ("net", "given", "said"),
    [
        (Fixed(), {}, "torch.export can't express this network for batches of any size: .*batch"),
        (Random(), {}, "model.pt2: its outputs differ from the network's by .*, more than 0.0001"),
        (Faint(), {}, "model.pt2: its outputs differ from the network's by .*, more than 0.0001"),
        (Two(), {}, "the network gives a tuple; one that gives a single tensor can be exported"),
        (Endless(), {}, "outputs for the example are not finite"),
        (nn.Linear(7, 2), {}, r"example: the network fails on a batch of shape \(1, 8\): mat1"),
        (nn.Linear(8, 2), {"structure": {"kept": torch.ones(2)}}, "structure: must be plain data, .* Tensor"),
        (nn.Linear(8, 2), {"structure": {"share": float("nan")}}, "structure: must be plain data, .*JSON"),
        (nn.Linear(8, 2), {"programs": ("pt2", "tflite")}, "programs=tflite: must be among pt2, onnx"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, net: nn.Module, given: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        export_point(tmp_path / "point", net, EXAMPLE, **{"programs": ("pt2",)} | given)
    assert written(tmp_path) == []


@pytest.mark.parametrize("name", programs.EXTRA)
def test_a_missing_extra_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda wanted: None if wanted == name else object())
    monkeypatch.setattr(export, "programs_of", lambda *given: pytest.fail("the network was traced"))
    said = f"^model.onnx needs {name}: run pip install 'lottery\\[onnx\\]', or leave it out$"
    with pytest.raises(Refused, match=said):
        export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE)
    assert written(tmp_path) == []


def test_a_folder_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "point").mkdir()
    with pytest.raises(Refused, match=r"point: exists already; name a new folder$"):
        export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, programs=())
    assert written(tmp_path / "point") == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "write_whole", after_one(lambda: (_ for _ in ()).throw(OSError(28, "No space left"))))
    with pytest.raises(OSError, match="No space left"):
        export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, programs=())
    assert written(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of processes with threads; the child dies at once
def test_a_killed_export_leaves_no_point_and_the_next_one_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(export, "write_whole", after_one(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        if not (child := os.fork()):
            export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, programs=())
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".point.")
    assert written(left) == ["structure.json"]  # it was half-way
    export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, programs=())
    assert read_point(tmp_path / "point", lambda structure: nn.Linear(8, 2)).weight.shape == (2, 8)


def after_one(fails: Callable[[], object]) -> Callable[[Path, bytes], None]:
    """`write_whole`, which writes one file and then fails."""
    usual, count = export.write_whole, iter(range(9))
    return lambda path, content: usual(path, content) if next(count) < 1 else fails()


def wider(structure: dict[str, Any]) -> nn.Module:
    return built({"hidden": 6})


def double(structure: dict[str, Any]) -> nn.Module:
    return built(structure).double()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (wider, r"model.safetensors: does not fit this network; 0.bias is \[5\] float32 in the file and \[6\] float32"),
        (
            double,
            r"model.safetensors: does not fit this network; 0.bias is \[5\] float32 in the file and \[5\] float64",
        ),
        (
            lambda _: nn.Linear(8, 5),
            "does not fit this network; only one of the two has 0.bias, 0.weight, 1.bias and 6",
        ),
    ],
)
def test_another_network_is_refused(
    point: tuple[nn.Module, Exported], build: Callable[..., nn.Module], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        read_point(point[1].folder, build)


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", flipped, "model.safetensors is damaged: its content does not match its digest"),
        ("model.safetensors", lambda content: content[:50], "model.safetensors is damaged"),
        ("structure.json", lambda content: content[:-1], "structure.json: is damaged"),
        ("structure.json", lambda content: b"{}", "structure.json: is not the structure of the network in model.saf"),
        ("structure.json", None, "structure.json: is missing, so that this is no exported point"),
        ("model.safetensors", None, "model.safetensors: is missing, so that this is no exported point"),
    ],
)
def test_damage_is_seen(tmp_path: Path, name: str, change: Callable[[bytes], bytes] | None, said: str) -> None:
    folder = export_point(tmp_path / "point", trained(), EXAMPLE, STRUCTURE, programs=()).folder
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if change:
        (folder / name).write_bytes(change(content))
    with pytest.raises(Refused, match=said):
        read_point(folder, built)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.bn(self.conv(images)).relu().mean((2, 3)))


def test_onnx_gives_what_the_network_gives(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    net = Convolutional().train()
    images = torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net(images)
    exported = export_point(tmp_path / "point", net, images)
    assert written(exported.folder) == ["model.onnx", "model.pt2", "model.safetensors", "structure.json"]
    assert exported.files == {path.name: path.stat().st_size for path in exported.folder.iterdir()}
    assert json.loads((exported.folder / "structure.json").read_bytes()) == {}
    held = onnx.load(exported.folder / "model.onnx")
    onnx.checker.check_model(held)
    assert {each.domain: each.version for each in held.opset_import}[""] == exported.opset == 20
    assert all(value <= 1e-5 for value in exported.differences.values())
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 4, 9):
        (found,) = session.run(None, {"inputs": images[:size].numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), net.eval()(images[:size]), atol=1e-4, rtol=0)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Bessel(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.special.bessel_j0(inputs)

    said = r"^model.onnx: ONNX has no prims.bessel_j0, which this network uses; leave ONNX out$"
    with pytest.raises(Refused, match=said):
        export_point(tmp_path / "point", Bessel(), EXAMPLE)
    assert written(tmp_path) == []


def test_weights_that_one_onnx_file_can_t_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LARGEST", 4 * (8 * 2 + 2))
    with pytest.raises(Refused, match=r"model.onnx: the weights take more than the 72 bytes of one file"):
        export_point(tmp_path / "point", nn.Linear(8, 2), EXAMPLE, programs=("onnx",))
    assert written(tmp_path) == []
