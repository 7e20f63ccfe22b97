"""Ticket files: reading back what was written, refusing tampered files, and verifying claims by training again."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lottery.commands.ticket.actions import add_to, main
from lottery.commands.ticket.export import exported
from lottery.commands.ticket.transfer import arguments
from lottery.commands.ticket.verify import verified
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.config.given import drawn
from lottery.config.groups import CONF, SCIENCE_GROUPS
from lottery.foundations.digests import digest, digest_of
from lottery.foundations.errors import Refused
from lottery.foundations.files import write_tensors
from lottery.foundations.metrics import Headline
from lottery.pruning import masks as _masks
from lottery.reports.results import read as read_ledgers
from lottery.rounds.round import Round, Ticket
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.phases import phase_of, specification
from lottery.store.tickets import Saved, read
from lottery.training.phase import Trained
from tests import tiny_sets
from tests.conftest import TINY, environment
from tests.few import few

ROOT = Path(__file__).parent.parent
CELL = [*TINY, "hardware.accelerator=cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tickets") / "runs"


@pytest.fixture(scope="module")
def found(runs: Path) -> Callable[..., Saved]:
    """The ticket of a cell's last round, the cell played once."""

    @cache
    def played(*overrides: str) -> CellConfig:
        [job] = cell_configs([*CELL, f"out={runs}", *overrides])
        run_cell(job)
        return job

    @cache
    def ticket(overrides: tuple[str, ...], round: int, seed_only: bool) -> Saved:
        return exported(played(*overrides).folder, round, None, seed_only)

    def placed(*overrides: str, round: int = 2, seed_only: bool = False, path: Path | None = None) -> Saved:
        return replace(ticket(overrides, round, seed_only), path=path or runs / "t.safetensors")

    return placed


@pytest.fixture
def file(found: Callable[..., Saved], tmp_path: Path) -> Path:
    """imp's ticket of round 2."""
    path = tmp_path / "t.safetensors"
    found(path=path).write()
    return path


def edited(saved: Saved, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The ticket with its metadata changed, and signed anew."""
    info = copy.deepcopy(dict(saved.info))
    change(info)
    replace(saved, path=path, info=info).write()
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        read(path)
    said = str(refused.value)
    assert said.startswith(f"{path}")
    assert "\n" not in said
    return said


def consistent(saved: Saved, masks: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> Saved:
    """A ticket of any masks and weights, with metadata that matches them."""
    info = copy.deepcopy(dict(saved.info))
    info["shapes"] = {name: list(mask.shape) for name, mask in masks.items()}
    info["line"] |= {"density": _masks.density(masks), "layer_densities": _masks.layer_densities(masks)}
    info["phase"]["sparse"] = []
    ticket = {name: tensor.clone() for name, tensor in start.items()}
    _masks.apply_(ticket, masks)
    info["digests"] |= {"start": digest(start), "ticket": digest(ticket), "masks": digest(masks)}
    return replace(saved, info=info, masks=masks, start=start)


SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3)


@given(shapes=SHAPES, seed=st.integers(0, 2**31), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(
    found: Callable[..., Saved], tmp_path: Path, shapes: list[list[int]], seed: int, share: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    masks = {f"layer{i}.weight": torch.rand(*shape, generator=rng) < share for i, shape in enumerate(shapes)}
    masks["layer0.weight"].view(-1)[0] = True
    start = {name: torch.randn(mask.shape, generator=rng) for name, mask in masks.items()}
    start["norm.num_batches_tracked"] = torch.tensor(7)
    written = consistent(replace(found(), path=tmp_path / "any.safetensors"), masks, start)
    written.write()
    back = read(written.path)
    assert back.info == written.info
    for one, other in ((back.masks, masks), (back.start, start)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_ticket_is_the_rounds(found: Callable[..., Saved], file: Path, runs: Path) -> None:
    saved = read(file)
    line = Ledger(runs / saved.info["line"]["study"] / "imp" / "seed0" / NAME).lines()[2]
    assert saved.info["line"] == {key: value for key, value in line.items() if key != "run"}
    assert saved.info["phase"]["last"] == 30
    assert str(runs) not in json.dumps(saved.info)
    # pruned weights are there too, for masks other than these
    assert all(saved.start[name][~mask].count_nonzero() for name, mask in saved.masks.items())
    again = exported(
        runs / saved.info["line"]["study"] / "imp" / "seed0", 2, file.with_name("again.safetensors"), False
    )
    again.write()
    assert again.path.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_another_process_and_another_checkout_come_to_the_same_bits(file: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "elsewhere"
    for part in ("lottery", "conf"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    moved = file.rename(checkout / "moved.safetensors")

    command = [sys.executable, "-m", "lottery", "ticket", "verify", str(moved)]
    done = subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compared bit for bit:" in done.stdout
    assert done.stdout.endswith("it holds\n")


def command(*arguments: str) -> int:
    """`lottery ticket` in this process."""
    parser = argparse.ArgumentParser()
    add_to(parser.add_subparsers(dest="command"))
    return main(parser.parse_args(["ticket", *arguments]), lambda words: print(words) or 7)


def test_the_command_says_what_was_compared(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    false = edited(read(file), tmp_path / "f.safetensors", lambda info: info["line"].update(test_accuracy=0.999))
    assert command("verify", str(false), "--tolerance", "0.5") == 1
    said = capsys.readouterr().out
    assert "test_accuracy                    0.999 recorded, 0.93 here: NOT THE SAME\n" in said
    assert said.endswith("it does not hold\n")
    edited(read(false), false, lambda info: info["made"].update(cpu="Z80"))
    edited(read(false), false, lambda info: info["digests"].update(trained="0"))
    assert command("verify", str(false), "--tolerance", "0.5") == 0
    said = capsys.readouterr().out
    assert "not trained as here: cpu Z80 there, " in said
    assert "compared within 0.5:\n" in said
    assert command("run", str(file), "--trust", "mine", "seed=1,2", "-m") == 7
    printed, words = capsys.readouterr().out.splitlines()
    assert printed.startswith(f"lottery run arm=ticket arm.file={file} model=lenet_300_100 ")
    assert words.endswith("'seed=1,2', '-m']")


def test_the_command_shows_a_ticket_and_calls_nothing(
    file: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lottery.config.nodes._locate", None)  # what every call begins with
    assert command("show", str(file)) == 0
    said = capsys.readouterr().out
    for part in ("imp seed 0 round 2, 32,298 weights kept, density 0.6434", "test_accuracy    0.93\n", "12,288 of"):
        assert part in said
    node = {"_target_": "os.system", "command": "touch planted"}
    edited(read(file), file, lambda info: info["config"].update(model=node))
    assert command("show", str(file)) == 0
    assert "not to be trained as it is: " in capsys.readouterr().out


def test_the_command_exports(
    found: Callable[..., Saved], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(runs / found().info["line"]["study"] / "imp" / "seed0")
    assert command("export", folder, "--round", "1", "--seed-only") == 0
    assert command("export", folder, "--round", "1", "-o", "t.safetensors") == 0
    assert command("export", folder, "--round", "1", "-o", "found/of_seeds/t.safetensors") == 0
    files = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    assert files == ["imp_seed0_r1.safetensors", "t.safetensors", "t.safetensors"]
    assert read("t.safetensors").info["digests"] == read("imp_seed0_r1.safetensors").info["digests"]


@pytest.mark.parametrize(
    "overrides",
    [("arm=imp", "arm.rewind=10"), ("arm=scratch_b", "seed=3"), ("arm=finetune",), ("arm=random_mask",)],
    ids=" ".join,
)
def test_every_kind_of_round_is_verified(found: Callable[..., Saved], tmp_path: Path, overrides: tuple[str]) -> None:
    path = tmp_path / "t.safetensors"
    for index in (0, 2):
        found(*overrides, path=path, round=index).write()
        verdict = verified(read(path))
        assert (verdict.exact, verdict.holds, verdict.differs) == (True, True, [])
        assert {"trained state", "test_accuracy", "val_loss"} <= {what for what, *_ in verdict.compared}


FALSE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another accuracy": lambda info: info["line"].update(test_accuracy=info["line"]["test_accuracy"] + 1e-9),
    "another early stop": lambda info: info["line"].update(early_stop_step=1),
    "another trained state": lambda info: info["digests"].update(trained="0" * 64),
    "another learning rate": lambda info: info["config"]["optimizer"].update(lr=0.0013),
    "another order": lambda info: info["phase"].update(order=1),
    "a setting that changes no bit": lambda info: info["config"]["budget"].update(evaluate=15),
    "a longer recipe": lambda info: info["config"]["budget"].update(steps=31),
    "a claim of its own": lambda info: info["line"].update(test_f1=1.0),
}


@pytest.mark.parametrize("claim", FALSE)
def test_a_false_claim_does_not_hold(file: Path, claim: str) -> None:
    assert not verified(read(edited(read(file), file, FALSE[claim]))).holds


def test_other_machines_are_compared_within_a_tolerance(file: Path) -> None:
    saved = read(file)

    def elsewhere(accuracy: float, **made: Any) -> Saved:
        def change(info: dict[str, Any]) -> None:
            info["made"] |= made
            info["line"]["test_accuracy"] += accuracy
            info["digests"]["trained"] = "0" * 64

        return read(edited(saved, file, change))

    for made in ({"cpu": None}, {"torch": "9.9.9"}, {"device": "cuda"}, {"devices": 2}, {"science": 0}):
        verdict = verified(elsewhere(0.009, **made))
        assert (verdict.holds, verdict.exact, [what for what, *_ in verdict.compared]) == (
            True,
            False,
            ["test_accuracy"],
        )
        assert [text.split()[0] for text in verdict.differs] == list(made)
    assert not verified(elsewhere(-0.011, cpu="Z80")).holds
    assert verified(elsewhere(-0.011, cpu="Z80"), tolerance=0.012).holds


def test_a_score_that_is_no_share_needs_a_tolerance(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another scale, one point may be less than differences between GPUs, or more than any real difference."""
    shown = Headline("accuracy", higher_is_better=True, share=False)
    monkeypatch.setattr("lottery.training.module_recipe.headline_of", lambda _: shown)

    def change(info: dict[str, Any]) -> None:
        info["made"]["cpu"] = "Z80"
        info["line"]["test_accuracy"] += 0.009
        info["digests"]["trained"] = "0" * 64

    elsewhere = read(edited(read(file), file, change))
    with monkeypatch.context() as patch:
        patch.setattr("lottery.commands.ticket.verify.fit", lambda *_: pytest.fail("trained"))
        with pytest.raises(
            Refused, match=r"^--tolerance: accuracy is no share in \[0, 1\], so no default fits it; give one$"
        ):
            verified(elsewhere)
    assert (verified(elsewhere, tolerance=0.01).holds, verified(elsewhere, tolerance=0.008).holds) == (True, False)


def test_the_same_bits_on_another_machine_are_held_to_their_numbers(file: Path) -> None:
    def change(info: dict[str, Any]) -> None:
        info["made"]["cpu"] = "Z80"
        info["line"]["test_accuracy"] += 0.002

    assert not verified(read(edited(read(file), file, change))).holds


def test_seed_only_is_the_same_ticket(found: Callable[..., Saved], tmp_path: Path) -> None:
    for overrides in ((), ("arm=scratch_b", "seed=3")):
        full, small = (
            found(*overrides, seed_only=only, path=tmp_path / f"{only}.safetensors") for only in (False, True)
        )
        for saved in (full, small):
            saved.write()
        assert small.path.stat().st_size < full.path.stat().st_size / 10
        again = drawn(read(small.path))
        assert again.keys() == full.start.keys()
        assert all(torch.equal(again[name], full.start[name]) for name in again)
        assert verified(read(small.path)).holds
    wrong = edited(read(small.path), small.path, lambda info: info["config"]["model"].update(shape=[1, 8, 9]))
    with pytest.raises(Refused, match=r"holds a seed and no start weights, and what it draws .* export it again"):
        verified(read(wrong))
    with pytest.raises(Refused, match="--seed-only: imp,rewind=10it begins with weights that no seed draws"):
        found("arm=imp", "arm.rewind=10", seed_only=True)


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_refused(found: Callable[..., Saved], tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.safetensors"
    found(path=path, seed_only=data.draw(st.booleans())).write()
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) * 8 - 1))
    content[where // 8] ^= 1 << where % 8
    path.write_bytes(content)
    refusal(path)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_of_a_file_is_refused(found: Callable[..., Saved], tmp_path: Path, share: float) -> None:
    path = tmp_path / "t.safetensors"
    found(path=path).write()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


class Planted:
    """Pickled, it would create a file when read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch planted",)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def metadata(info: str) -> bytes:
    return header(json.dumps({"__metadata__": {"lottery": json.dumps({"info": info, "sha256": ""})}}).encode())


FOREIGN = {
    "empty": (b"", "is cut off: 0 bytes"),
    "a pickle": (pickle.dumps(Planted()), "is no ticket: its first bytes announce a header of "),
    "an endless header": ((2**63).to_bytes(8, "little"), "announce a header of 9,223,372,036,854,775,808 bytes"),
    "a header of 200 MB": ((2 * 10**8).to_bytes(8, "little") + b"{}", "announce a header of 200,000,000 bytes"),
    "a header beyond the end": ((10**6).to_bytes(8, "little") + b"{}", "is cut off: 10 bytes"),
    "no JSON": (header(b"{{"), "is no ticket; `lottery ticket export` writes one"),
    "a list": (header(b"[]"), "is no ticket; "),
    "deep JSON": (header(b"[" * 100_000), "is no ticket; "),
    "deep JSON inside": (metadata("[" * 100_000), "is no ticket; "),
    "other tensors": (header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4), "is no ticket; "),
    "text": (b"once upon a time\n", "announce a header of "),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.safetensors"
    content, said = FOREIGN[name]
    path.write_bytes(content)
    assert said in refusal(path)
    assert [child.name for child in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_result_of_the_store_is_no_ticket(found: Callable[..., Saved], runs: Path) -> None:
    found()
    assert "is no ticket" in refusal(next(runs.rglob("result.safetensors")))


UNTRUE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda info: info.update(version=2), "is in version 2 of the format; this lottery reads version 1"),
    "missing part": (lambda info: info.pop("phase"), "it has no 'phase'"),
    "missing key": (lambda info: info["phase"].pop("order"), "phase has no 'order'"),
    "wrong kind": (lambda info: info["phase"].update(first="0"), "phase.first must be int, not 0"),
    "truth for a number": (lambda info: info["phase"].update(first=False), "phase.first must be int, not False"),
    "density": (lambda info: info["line"].update(density=0.5), "line.density says 0.5, but it is 0.6"),
    "a layer's density": (lambda info: info["line"]["layer_densities"].update({"fc1.weight": 1.0}), "line.layer_den"),
    "a layer too many": (lambda info: info["line"]["layer_densities"].update(fc9=1.0), "line.layer_densities says"),
    "steps": (lambda info: info["line"].update(train_steps=31), "line.train_steps says 31, but it is 30"),
    "seed": (lambda info: info["line"].update(seed=1), "line.seed says 1, but it is 0"),
    "no training": (lambda info: info["phase"].update(first=30), "no training goes from step 30 to 30"),
    "no seed": (lambda info: info["phase"].update(order=-1), "phase.order=-1 is no seed"),
    "sparse": (lambda info: info["phase"].update(sparse=["fc9"]), "phase.sparse names fc9, which has no mask"),
    "start": (lambda info: info["digests"].update(start="0"), "digests.start says 0, but it is "),
    "ticket": (lambda info: info["digests"].update(ticket="0"), "digests.ticket says 0, but it is "),
    "masks": (lambda info: info["digests"].update(masks="0"), "digests.masks says 0, but it is "),
    "data": (lambda info: info["digests"].update(data="0"), "line.data says 9bbfccf5848771b9, but it is 0"),
    "signs for a terminal": (
        lambda info: info["line"].update(arm="imp\x1b[2J"),
        "'line.arm' holds signs that can't be",
    ),
    "no number": (lambda info: info["line"].update(test_accuracy="best"), "line.test_accuracy must be a number, not b"),
    "no bottom": (lambda info: info.update(deep=json.loads("[" * 300 + "]" * 300)), "goes deeper than any setting"),
    "both starts": (lambda info: info.update(draw=["init"]), "either start weights or how to draw them"),
}


@pytest.mark.parametrize("name", UNTRUE)
def test_what_contradicts_itself_is_refused(file: Path, name: str) -> None:
    change, said = UNTRUE[name]
    assert said in refusal(edited(read(file), file, change))


def test_a_metric_that_was_not_finite_is_no_damage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger line has null for it, and so has a ticket."""
    path = edited(read(file), file, lambda info: info["line"].update(test_top5=None))
    assert read(path).info["line"]["test_top5"] is None
    assert command("show", str(path)) == 0
    assert "test_top5        not finite" in capsys.readouterr().out


def _nan(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors["start.fc1.weight"][0, 0] = float("nan")


def _beyond(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors["mask.fc1.weight"], info["shapes"]["fc1.weight"] = tensors["mask.fc1.weight"][:1], [5]
    tensors["mask.fc1.weight"][0] = 0xFF


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor], dict[str, Any]], object], str]] = {
    "NaN": (_nan, "start.fc1.weight holds NaN or infinite numbers"),
    "bits beyond": (_beyond, "the mask of fc1.weight has bits beyond the 5 weights of [5]"),
    "another shape": (lambda t, i: i["shapes"].update({"fc1.weight": [300, 65]}), "[300, 65] takes 2,438 bytes"),
    "an endless shape": (lambda t, i: i["shapes"].update({"fc1.weight": [10**15]}), "takes 125,000,000,000,000 bytes"),
    "a turned shape": (lambda t, i: i["shapes"].update({"fc1.weight": [64, 300]}), "is [64, 300], its weights are "),
    "no shape": (lambda t, i: i["shapes"].update({"fc1.weight": [-1]}), "must be a list of sizes, not [-1]"),
    "another type": (lambda t, i: t.update({"mask.fc1.weight": t["mask.fc1.weight"].float()}), "[2400] float32; "),
    "no mask": (lambda t, i: t.pop("mask.fc1.weight"), "it has no mask of fc1.weight"),
    "a tensor too many": (lambda t, i: t.update(spare=torch.zeros(1)), "it holds spare, which is no part of a ticket"),
    "no start": (lambda t, i: [t.pop(n) for n in list(t) if n[0] == "s"], "either start weights or how to draw them"),
    "short rates": (lambda t, i: t.update(rates=torch.ones(9, dtype=torch.float64)), "rates must be one number for "),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_ticket_are_refused(file: Path, name: str) -> None:
    saved, (change, said) = read(file), TENSORS[name]
    tensors = {f"mask.{n}": _masks.pack(mask) for n, mask in saved.masks.items()}
    tensors |= {f"start.{n}": tensor for n, tensor in saved.start.items()}
    info = copy.deepcopy(dict(saved.info))
    change(tensors, info)
    write_tensors(file, tensors, info)
    assert said in refusal(file)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "os.system": (
        lambda config: config.update(model={"_target_": "os.system", "command": "touch planted"}),
        "config.model._target_=os.system is no model of lottery's own, and would run code of 'os'; if you know that "
        "code and trust it, say --trust os",
    ),
    "within": (
        lambda config: config["budget"].update(learning_rate={"_target_": "os.system"}), "would run code of 'os'"),
    "in a list": (lambda config: config["module"].update(more=[{"_target_": "os.system"}]), "would run code of 'os'"),
    "as an arm": (lambda config: config["arm"].update(weights={"_target_": "planted.now"}), "code of 'planted'"),
    "a private function of ours": (
        lambda config: config["model"].update(_target_="lottery.files.replace"), "is no model of lottery's own"),
    "in another's place": (
        lambda config: config.update(model={"_target_": "lottery.data.mnist.mnist", "root": "planted"}),
        "config.model._target_=lottery.data.mnist.mnist is no model of lottery's own"),
    "no text": (lambda config: config["model"].update(_target_=1), "config.model._target_=1 is no model of"),
    "from the environment": (lambda config: config["module"].update(note="${oc.env:HOME}"), "is no plain value"),
    "another setting in a name": (
        lambda config: config["data"].update({"a=1,hydra": 1}), "is not the name of a setting"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_code_is_refused_before_it_is_imported(
    file: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "planted.py").write_text("open('planted', 'w')\n")
    change, said = HOSTILE[name]
    hostile = read(edited(read(file), file, lambda info: change(info["config"])))
    for action in (verified, lambda saved: arguments(saved, [])):
        with pytest.raises(Refused) as refused:
            action(hostile)
        assert said in str(refused.value)
    assert not (tmp_path / "planted").exists()


def test_a_hostile_seed_draws_nothing(
    found: Callable[..., Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.safetensors"
    node = {"_target_": "os.system", "command": "touch planted"}
    edited(found(seed_only=True), path, lambda info: info["config"].update(model=node))
    [job] = cell_configs([*CELL, "arm=ticket", f"arm.file={path}"])
    with pytest.raises(Refused, match="would run code of 'os'"):
        build(job)
    assert not (tmp_path / "planted").exists()


OWN = """
from torch import nn

def net(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""


def test_own_code_is_trusted_by_its_package(
    found: Callable[..., Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "ownnets.py").write_text(OWN)
    node = ("model._target_=ownnets.net", "+model.width=20", "~model.shape", "~model.classes")
    saved = found(*node, seed_only=True, path=tmp_path / "t.safetensors")
    saved.write()
    saved = read(saved.path)
    for action in (verified, lambda saved: arguments(saved, [])):
        with pytest.raises(Refused, match="code of 'ownnets'; if you know that code and trust it, say --trust ownnets"):
            action(saved)
    assert verified(saved, trust=("ownnets",)).holds
    words = arguments(saved, [f"out={tmp_path}"], trust=("ownnets",))
    assert set(words) >= {"++model._target_=ownnets.net", "++model.width=20", "~model.shape", "~model.classes"}
    cell = build(cell_configs(words)[0])
    check(cell)
    assert cell.arm.given
    (tmp_path / "ownnets.py").write_text(f"{OWN}\n# another version\n")
    assert verified(saved, trust=("ownnets",)).differs == ["code of ownnets"]


def key_of(cell: Cell, ticket: Ticket, index: int) -> str:
    """The key of the phase that trains a ticket in a round."""
    study = cell.study
    current = Round(index, ticket, 0, study.recipe.budget, lambda current: Trained({}, {}, []))
    return digest_of(specification(study.recipe, study.identity, phase_of(study.recipe, cell.seed, current)))


@pytest.mark.slow
def test_a_ticket_trains_on_other_data(found: Callable[..., Saved], tmp_path: Path) -> None:
    """Morcos et al. 2019, with forty pictures."""
    mnist, fashion = (tiny_sets.write(name, tmp_path / name) for name in ("mnist", "fashion_mnist"))
    other = tiny_sets.idx(tiny_sets.pixels(tiny_sets.TRAIN, 28, 28, seed=99))
    (tmp_path / "fashion_mnist" / "train-images-idx3-ubyte").write_bytes(other)
    saved = found("data=mnist", *mnist, path=tmp_path / "t.safetensors")
    saved.write()
    assert str(tmp_path) not in json.dumps(saved.info)
    assert verified(saved, [f"data.root={tmp_path / 'mnist'}"]).holds
    with pytest.raises(Refused, match=r"was trained on other data than this; say where that lies with data\.root=DIR"):
        verified(saved, [f"data.root={tmp_path / 'fashion_mnist'}"])
    more = ["optimizer=sgd", "optimizer.lr=0.05", "seed=4", f"out={tmp_path}", "tracking.mode=disabled"]
    [job] = cell_configs(arguments(read(saved.path), ["data=fashion_mnist", *fashion, *more]))
    assert (job.choices["data"], job.choices["optimizer"], job.seed) == ("fashion_mnist", "sgd", 4)
    run_cell(job)
    lines = Ledger(job.folder / NAME).lines()
    assert [(line["round"], line["rounds"], line["train_steps"]) for line in lines] == [(0, 1, 30), (1, 1, 30)]
    assert [line["density"] for line in lines] == [1, saved.info["line"]["density"]]
    assert lines[1]["layer_densities"] == saved.info["line"]["layer_densities"]
    line = saved.info["line"]
    assert lines[1]["total_flops"] == pytest.approx(line["total_flops"] - line["train_flops"] + lines[1]["train_flops"])
    assert lines[1]["data"] != line["data"]
    assert lines[1]["phase"] == key_of(build(job), Ticket.of(saved.start, saved.masks), 1)
    assert job.finished()


def test_a_ticket_under_its_own_seed_and_round_is_the_rounds_training(file: Path, runs: Path) -> None:
    """Training it again differs from its round only in the data order, which is that of round 1 by default."""
    saved = read(file)
    cell = build(cell_configs(arguments(saved, []))[0])
    assert cell.arm.given is not None
    ticket = Ticket.of(cell.arm.given.start, cell.arm.given.masks)
    assert key_of(cell, ticket, saved.info["line"]["round"]) == saved.info["line"]["phase"]


def test_a_label_is_of_the_content(found: Callable[..., Saved], tmp_path: Path) -> None:
    found(path=tmp_path / "t.safetensors").write()

    def label(name: str, *more: str) -> str:
        return cell_configs([*CELL, "arm=ticket", f"arm.file={tmp_path / name}", *more])[0].label

    first = label("t.safetensors")
    assert first.startswith("ticket,file=t~")
    (tmp_path / "sub").mkdir()
    shutil.copy(tmp_path / "t.safetensors", tmp_path / "sub")
    assert label("sub/t.safetensors") == first
    found(path=tmp_path / "t.safetensors", round=1).write()
    assert label("t.safetensors") != first
    assert label("t.safetensors", "arm.first=3").endswith(",first=3it")


@pytest.mark.slow
def test_each_seed_may_have_its_own_ticket(found: Callable[..., Saved], tmp_path: Path) -> None:
    for seed in (0, 3):
        found(f"seed={seed}", path=tmp_path / f"found_{seed}.safetensors").write()
    pattern = f"arm.file={tmp_path}/found_${{seed}}.safetensors"
    words = [*CELL, "arm=ticket", pattern, "seed=0,3", f"out={tmp_path}", "-m"]
    swept = cell_configs(words)
    assert len({job.label for job in swept}) == 1
    for job in swept:
        run_cell(job)
        assert job.finished()
    assert read_ledgers(tmp_path)["arm"].nunique() == 1
    found(path=tmp_path / "found_3.safetensors").write()
    assert [job.finished() for job in cell_configs(words)] == [True, False]


def test_controls_of_a_ticket(file: Path, tmp_path: Path) -> None:
    fresh = "arm.weights._target_=lottery.rounds.rewinding.to_fresh"
    shuffled = "arm.masks._target_=lottery.pruning.masks.shuffled"
    keys = set()
    for more in ([], [fresh], [shuffled], [fresh, shuffled]):
        [job] = cell_configs([*CELL, "arm=ticket", f"arm.file={file}", f"out={tmp_path}", *more])
        run_cell(job)
        line = Ledger(job.folder / NAME).lines()[1]
        assert line["density"] == read(file).info["line"]["density"]
        keys.add(line["phase"])
    assert len(keys) == 4


def test_a_ticket_that_does_not_fit(file: Path, tmp_path: Path) -> None:
    [job] = cell_configs(
        [*CELL, "arm=ticket", f"arm.file={file}", "model=lenet_5", "model.shape=[1,16,16]", "data.shape=[1,8,8]"]
    )
    with pytest.raises(Refused):
        check(build(job))
    mnist = tiny_sets.write("mnist", tmp_path / "mnist")
    [job] = cell_configs([*CELL, "arm=ticket", f"arm.file={file}", "data=mnist", *mnist])
    with pytest.raises(Refused) as refused:
        check(build(job))
    assert str(refused.value) == (
        f"{job.label}: does not fit the network: fc1.weight is [300, 64] float32 in the ticket, [300, 784] float32 in "
        "the network; the mask of fc1.weight is [300, 64] in the ticket, [300, 784] in the network"
    )
    [job] = cell_configs([*CELL, "arm=ticket", f"arm.file={file}", "data=mnist", *mnist, "model=lenet_5"])
    with pytest.raises(Refused, match=r"conv1.*is missing in the ticket, .* in the network; .*; and \d+ more$"):
        check(build(job))


def test_what_an_arm_is_refused(file: Path) -> None:
    for value, said in (
        ("null", "arm.file=null: must be a file that `lottery ticket export` wrote"),
        ("3", "arm.file=3: must be a file that `lottery ticket export` wrote"),
        ("nowhere.safetensors", "arm.file=nowhere.safetensors: can't be read (No such file or directory); "),
    ):
        with pytest.raises(Refused) as refused:
            build(cell_configs([*CELL, "arm=ticket", f"arm.file={value}"])[0])
        assert str(refused.value).startswith(said)
    with pytest.raises(Refused, match=r"arm\.parent=ticket: it has no masks of its own"):
        build(cell_configs([*CELL, "arm=random_reinit", "arm.parent=ticket"])[0])


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OTHERWISE = [
    ["+scope.layers={conv*:0.5,b?:2}", "scope.output=1"],
    ["optimizer=sgd", "optimizer.clip_norm=1e-5", "stop.density=0.1", "seed=7"],
    ["model._target_=torchvision.models.resnet18", "~model.shape", "~model.classes", "+model.num_classes=10"],
    ["data=cifar10", "data.augment=null", "model=resnet_20", "model.width=0.5", "+module.a=[b,'1']"],
    ["+module.note='it\\'s a, \\\\ \"name\" = {x}'", "+module.number='0.1'", "+module.none='null'"],
]  # fmt: skip


@pytest.mark.parametrize(
    "given", few([*OTHERWISE, *([f"experiment={name}"] for name in EXPERIMENTS)], len(OTHERWISE)), ids=" ".join
)
def test_a_recorded_recipe_is_composed_again(found: Callable[..., Saved], given: list[str]) -> None:
    [job] = cell_configs([*given, "hydra.mode=RUN"])
    saved = found()
    recorded = json.loads(json.dumps({**saved.info["config"], **job.config}))
    saved = replace(saved, info={**saved.info, "config": recorded})
    saved.write()
    words = arguments(saved, ["arm=imp"], trust=("torchvision",))
    [again] = cell_configs([word for word in words if not word.startswith("arm.")])
    assert {g: again.config.get(g) for g in (*SCIENCE_GROUPS, "stop", "seed")} == {
        g: job.config.get(g) for g in (*SCIENCE_GROUPS, "stop", "seed")
    }


@pytest.mark.slow
def test_what_is_given_overrules_the_recipe(found: Callable[..., Saved], tmp_path: Path) -> None:
    found("arm=imp", "arm.rewind=10", path=tmp_path / "t.safetensors").write()
    saved = read(tmp_path / "t.safetensors")
    words = arguments(saved, ["optimizer=sgd", "budget.steps=40", "seed=1,2", "-m"])
    assert [job.config["arm"]["first"] for job in cell_configs(words)] == [10, 10]
    assert {job.seed for job in cell_configs(words)} == {1, 2}
    assert {(job.choices["optimizer"], job.config["budget"]["steps"]) for job in cell_configs(words)} == {("sgd", 40)}
    config = {**saved.info["config"], "optimizer": {**saved.info["config"]["optimizer"], "lr": 0.005}}
    saved = replace(saved, info={**saved.info, "config": config})
    for words, rate in (([], 0.005), (["optimizer=sgd"], 0.1), (["optimizer=adam"], 0.0012), (["optimizer.lr=1"], 1)):
        assert cell_configs(arguments(saved, words))[0].config["optimizer"]["lr"] == rate
    [job] = cell_configs(arguments(saved, ["data=mnist", "arm.first=0"]))
    assert (job.config["model"]["shape"], job.config["arm"]["first"]) == ([1, 28, 28], 0)
    assert arguments(saved, ["experiment=demo"])[:2] == ["arm=ticket", f"arm.file={saved.path}"]
    assert len(arguments(saved, ["experiment=demo"])) == 4


def test_what_can_not_be_exported(found: Callable[..., Saved], runs: Path, tmp_path: Path) -> None:
    found()
    folder = runs / found().info["line"]["study"] / "imp" / "seed0"

    def refused(index: int = 2, *overrides: str, of: Path = folder) -> str:
        with pytest.raises((Refused, FileNotFoundError)) as refused:
            exported(of, index, tmp_path / "t.safetensors", False, overrides)
        assert not list(tmp_path.glob("*.safetensors"))
        return str(refused.value)

    assert refused(3) == f"--round 3: {folder / NAME} has rounds 0 to 2"
    assert refused(0, of=tmp_path) == f"--round 0: {tmp_path / NAME} has no finished round"
    assert refused(2, "optimizer.lr=1").startswith(
        "optimizer.lr=1: would change what is trained; allowed here: hardware."
    )
    copied = tmp_path / "runs" / folder.parent.parent.name / "imp" / "seed0"
    shutil.copytree(folder, copied)
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(config.replace(str(runs / "store"), str(tmp_path / "store")))
    assert "of round 2 is in neither" in refused(of=copied)
    (copied / "config.yaml").write_text(config.replace("lr: 0.0012", "lr: 0.0013"))
    assert f"{runs / 'store'}: has no phase of round 0 of imp, seed 0, as it would be trained now" in refused(of=copied)


def test_nothing_is_left_half_written(
    found: Callable[..., Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = found(path=tmp_path / "t.safetensors")
    saved.write()
    before = saved.path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        found(path=saved.path, round=1).write()
    assert saved.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
