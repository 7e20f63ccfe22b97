"""The command line: help at once, lists, reports from ledgers alone, the store, and the two calls for notebooks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import lottery as package
from lottery.commands import main as cli
from lottery.config.compose import cell_configs
from lottery.config.groups import CONF, GROUPS
from lottery.pruning import masks
from lottery.reports.page import files
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from tests.conftest import TINY, environment
from tests.test_results import ACCURACY, REPORT, STUDY, ledgers


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """The command in this process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lottery", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return Said(stop.value.code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (("run", "experiment=demo"), "nothing is lost: the same command goes on from the last checkpoint"),
        (("run", "experiment=demo", "--plan"), "the same command can be given again"),
        (("compress", "runs/some"), "the same command can be given again"),
    ],
)
def test_only_what_trains_goes_on_after_an_interrupt(
    words: tuple[str, ...], after: str, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert command(*words) == (130, "", f"\ninterrupted; {after}\n")


LIGHT = """
import sys
from lottery.commands.main import main
for arguments in (["--help"], ["run", "--help"], ["run", "experiment=demo", "-h"], ["report", "--help"], ["list"]):
    sys.argv = ["lottery", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 0, arguments
    heavy = {"torch", "pandas", "matplotlib", "hydra", "wandb", "scipy"} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""


def test_help_and_lists_import_nothing_heavy(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")


TYPOS = """
import sys
from lottery.commands.main import main
for arguments in (["experiment=dmo"], ["experiment=demo", "optimzer.lr=0.1"], ["optimizer.lrr=0.1"], ["--cfgs"]):
    sys.argv = ["lottery", "run", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 1, arguments
    heavy = {"torch", "numpy", "pandas", "matplotlib", "pytorch_lightning"} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""


def test_a_typo_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TYPOS], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert [line.split(":")[0] for line in ended.stderr.splitlines()] == ["lottery"] * 4


def test_help_of_run_names_every_stable_key(command: Callable[..., Said]) -> None:
    said = command("run", "--help")
    keys = (
        "out store seed data.root data.batch_size data.val_size model._target_ optimizer.lr budget.steps "
        "schedule.rounds arm.rewind arm.parent numerics.precision tracking.mode"
    )
    assert set(keys.split()) <= set(said.out.split())
    assert {"--plan", "-m", "--config-dir"} <= set(said.out.split())
    assert max(map(len, said.out.splitlines())) <= 120


def test_list_names_everything(command: Callable[..., Said]) -> None:
    said = command("list")
    lines = said.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(GROUPS)
    shipped = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
    named = [line.split(maxsplit=1) for line in lines if line.startswith(" ")]
    assert [name for name, _ in named] == [path.stem for path in shipped]
    assert all(f"# {sentence}\n" in path.read_text() for path, (_, sentence) in zip(shipped, named, strict=True))
    of_arms = command("list", "arm").out.splitlines()
    first = lines.index("arm")
    assert of_arms == lines[first : first + len(of_arms)]
    assert not lines[first + len(of_arms)].startswith(" ")


def test_list_shows_a_folder_of_one_s_own(command: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "criterion").mkdir()
    (tmp_path / "criterion" / "mine.yaml").write_text("# As I like it\n_target_: mine.criterion\n")
    said = command("list", "criterion", "--config-dir", tmp_path)
    assert any(line.split(maxsplit=1) == ["mine", "As I like it"] for line in said.out.splitlines())
    assert "magnitude" in said.out


def test_report_from_ledgers_alone(command: Callable[..., Said], tmp_path: Path) -> None:
    study = ledgers(tmp_path / "runs", ACCURACY)
    before = sorted(study.rglob("*"))
    said = command("report", study, "--out", tmp_path / "report")
    assert (said.code, said.err) == (0, "")
    assert "imp is nowhere shown to match dense, random_reinit is nowhere shown to match dense; n = 3" in said.out
    assert "\nimp is better than random_reinit at 2 of 2 densities, between" in said.out
    assert "| 0.8600 ± 0.0896 |" in said.out
    assert len(said.out.splitlines()) < 24
    assert max(map(len, said.out.splitlines())) < 200  # paths are as long as they are
    for name in ("report.html", "report.md", "curve.png", "results.csv"):
        assert str(tmp_path / "report" / name) in said.out
        assert (tmp_path / "report" / name).stat().st_size > 0
    assert sorted(study.rglob("*")) == before
    command("report", study)
    assert (study / "report.md").read_text() == REPORT


def test_report_of_an_unfinished_study_names_what_is_missing(command: Callable[..., Said], tmp_path: Path) -> None:
    study = ledgers(tmp_path / "runs", {"imp": {0: (0.9, 0.9, 0.8)}, "random_reinit": {0: (0.9,), 1: (0.9, 0.8)}})
    with open(study / "imp" / "seed0" / "ledger.jsonl", "a") as file:
        file.write('{"torn')
    said = command("report", study)
    assert (said.code, said.err) == (0, "")
    unfinished = said.out[said.out.index("Unfinished; missing:") :].splitlines()
    assert unfinished[2:5] == [
        f"- {STUDY} imp seed 1: not begun",
        f"- {STUDY} random_reinit seed 0: 0 of 2 pruned rounds",
        f"- {STUDY} random_reinit seed 1: 1 of 2 pruned rounds",
    ]


def test_report_of_several_studies(command: Callable[..., Said], tmp_path: Path) -> None:
    for study in ("a", "b"):
        ledgers(tmp_path / "runs", ACCURACY, study)
    said = command("report", tmp_path / "runs", "--out", tmp_path / "report")
    assert said.code == 0
    for study in ("a", "b"):
        assert (tmp_path / "report" / study / "report.md").read_text() == REPORT.replace(STUDY, study)
    command("report", tmp_path / "runs")
    assert (tmp_path / "runs" / "b" / "report.md").read_text() == REPORT.replace(STUDY, "b")


def test_report_of_nothing(command: Callable[..., Said], tmp_path: Path) -> None:
    said = command("report", tmp_path / "nowhere")
    assert said == (1, "", f"lottery: {tmp_path / 'nowhere'}: no such folder or results file\n")
    (tmp_path / "empty").mkdir()
    said = command("report", tmp_path / "empty")
    assert said == (1, "", f"lottery: no finished round under {tmp_path / 'empty'}\n")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one cell with two pruned rounds."""
    folder = tmp_path_factory.mktemp("runs")
    run_cell(cell_configs([*TINY, "budget.steps=4", "budget.evaluate=2", f"out={folder}", "hardware=cpu"])[0])
    return folder


def phases(store: Path) -> int:
    return len(list(store.glob("*/phase.json")))


def test_store_size(command: Callable[..., Said], out: Path) -> None:
    size = sum(path.stat().st_size for path in (out / "store").rglob("*") if path.is_file())
    expected = f"{out / 'store'}: 3 phases, {size / 1e6:,.1f} MB\n"
    assert command("store", "size", "--out", out) == (0, expected, "")
    assert command("store", "size", "--store", out / "store") == (0, expected, "")


def test_store_gc_removes_what_no_ledger_needs(command: Callable[..., Said], out: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(out, runs)
    said = command("store", "gc", "--out", runs)
    assert (said.code, phases(runs / "store")) == (0, 3)
    assert said.out.startswith("removed 0 entries, 0.0 MB\n")
    [path] = runs.rglob(NAME)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    said = command("store", "gc", "--out", runs)
    assert (said.code, phases(runs / "store")) == (0, 3)
    assert said.out.splitlines()[:2] == [
        "removed 0 entries, 0.0 MB",
        "2 more are in no ledger, but younger than a day: a cell may be about to need them",
    ]
    for old in (runs / "store").rglob("*"):
        os.utime(old, (time.time() - 86500,) * 2)
    said = command("store", "gc", "--out", runs)
    assert (said.code, phases(runs / "store")) == (0, 1)
    assert said.out.startswith("removed 2 entries, ")
    assert Ledger(path).lines()[0]["phase"] == next((runs / "store").glob("*/phase.json")).parent.name


def test_read_and_load_in_a_notebook(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "moved")  # as to another machine, where the old store is not
    frame = package.read(tmp_path / "moved")
    assert frame["round"].tolist() == [0, 1, 2]
    [path] = (tmp_path / "moved").rglob(NAME)
    config = path.with_name("config.yaml")
    config.write_text(config.read_text().replace(str(out), str(tmp_path / "gone")))
    shutil.rmtree(tmp_path / "moved" / "store" / frame["phase"][1])
    with pytest.raises(
        FileNotFoundError, match=rf"{frame['phase'][1]} of round 1 is in neither .*gone/store nor .*moved"
    ):
        package.load(path.parent, round=1)
    for index in (0, 2):
        net, found = package.load(path.parent, round=index)
        assert masks.density(found) == frame["density"][index]
        weights = masks.prunable(net)
        assert weights.keys() == found.keys()
        for name, mask in found.items():
            assert torch.equal(weights[name].detach() != 0, mask)
        assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_load_says_what_there_is(out: Path) -> None:
    [path] = out.rglob(NAME)
    with pytest.raises(FileNotFoundError, match=r"ledger.jsonl has rounds 0 to 2, not 3"):
        package.load(path.parent, round=3)
    with pytest.raises(AttributeError, match="has no attribute 'loat'"):
        _ = package.loat


@pytest.mark.parametrize("output", ["nobody", "ascii", "full"])
def test_a_report_is_written_whatever_becomes_of_its_output(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `| head -3`, PYTHONIOENCODING=ascii and `> /dev/full`."""
    monkeypatch.setattr(files, "library", lambda: "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    study = ledgers(tmp_path, ACCURACY)
    if output == "nobody":
        read, write = os.pipe()
        os.close(read)
        stdout = os.fdopen(write, "w", encoding="utf-8")
    else:
        path = tmp_path / "said" if output == "ascii" else "/dev/full"
        stdout = open(path, "w", encoding="ascii")  # noqa: SIM115  # closed below, as the pipe's end is
    monkeypatch.setattr(sys, "argv", ["lottery", "report", str(study)])
    before = signal.getsignal(signal.SIGTERM)
    with stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 0
    assert {"curve.png", "report.html", "report.md", "results.csv"} < {path.name for path in study.iterdir()}
    assert capsys.readouterr().err.count("No space left on device") == (output == "full")
    if output == "ascii":
        assert "0.9400 ? 0.0994" in (tmp_path / "said").read_text()
