"""Names of configured cells, and users' own parts, which need no change to our files."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lottery
from lottery.commands.plan import show
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.groups import CONF, SCIENCE_GROUPS, SETTINGS
from lottery.foundations.digests import digest_of
from lottery.running.launch import run_cell
from lottery.store import ledger, phases
from lottery.store.folder import CONFIG, NAME
from lottery.training.phase import Phase
from tests.conftest import TINY, environment


@pytest.fixture(scope="module")
def job() -> CellConfig:
    return cell_configs(["hardware=cpu"])[0]


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["arm=imp"], "imp"),
        (["arm=imp", "arm.rewind=0"], "imp"),
        (["arm=imp", "arm.rewind=500"], "imp,rewind=500it"),
        (["arm=imp", "arm.rewind=500it"], "imp,rewind=500it"),
        (["arm=imp", "arm.rewind=2ep"], "imp,rewind=2ep"),
        (["arm=imp", "arm.rewind=500", "arm.first=7"], "imp,first=7it,rewind=500it"),
        (["arm=random_reinit", "arm.rewind=500"], "random_reinit,rewind=500it"),
        (["arm=imp", "arm.rewind=0it"], "imp"),
        (["arm=random_mask", "arm.weights._target_=lottery.rounds.rewinding.to_fresh"],
         'random_mask,weights._target_=lottery.rewinding.to_fresh'),
    ],
)  # fmt: skip
def test_label_is_the_name_and_what_differs_sorted(overrides: list[str], label: str) -> None:
    assert cell_configs(overrides)[0].label == label


def leaves(node: Any, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, *path, key)
    else:
        yield path


def changed(job: CellConfig, path: tuple[str, ...]) -> CellConfig:
    config = copy.deepcopy(dict(job.config))
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = ["was"] if path[0] == "prune" else {"was": node[path[-1]]}
    return replace(job, config=config)


def test_study_changes_with_each_science_value_and_nothing_else(job: CellConfig) -> None:
    paths, single = list(leaves(job.config)), {("stop", key) for key in (*SETTINGS["stop"], "_target_")}
    single |= {("hardware", "devices"), ("hardware", "_target_"), ("prune", "include"), ("prune", "exclude")}
    single |= {("trainer",), ("headline",), ("better",)}
    science = [path for path in paths if path in single or (path[0] in SCIENCE_GROUPS and path != ("data", "root"))]
    others = [path for path in paths if path[0] not in SCIENCE_GROUPS and path not in single]
    names = [changed(job, path).study for path in science]
    assert len(set(names) | {job.study}) == len(science) + 1 > 25
    assert {changed(job, path).study for path in others} == {job.study}
    groups = {"arm", "hardware", "tracking", "out", "store", "seed"}
    assert {path[0] for path in others} - {"experiment"} == groups


def test_study_does_not_change_with_the_place_of_the_data() -> None:
    here, there = (cell_configs(["data=mnist", f"data.root={root}"])[0] for root in ("here", "there"))
    assert here.config["data"]["root"] != there.config["data"]["root"]
    assert here.study == there.study


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "lenet_300_100-digits-f4003c6b"),
        (["data=fashion_mnist", "criterion=snip"], "lenet_300_100-fashion_mnist-a7b04f81"),
        (["experiment=demo", "arm=imp,random_mask", "seed=7"], "demo-digits-c50a07ad"),
        (["experiment=fc2019_lenet", "data=fashion_mnist", "seed=3"], "fc2019_lenet-fashion_mnist-5b182bfe"),
    ],
)
def test_published_study_names(overrides: list[str], name: str) -> None:
    """Results lie in folders with these names: a change separates new results from old ones."""
    assert {job.study for job in cell_configs(overrides)} == {name}


def test_published_phase_key(job: CellConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store finds phases by such keys: a change would retrain everything.

    The data's digest is left out, because its normalisation is computed on this machine.
    """
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    cell = build(job)
    identity = {**cell.study.identity, "data": {**cell.study.identity["data"], "content": "of the data"}}
    cell = replace(cell, study=replace(cell.study, identity=identity))
    weights, masks = {"w": torch.arange(3.0)}, {"w": torch.tensor([True, False, True])}
    phase = Phase(weights, masks, first=0, last=2000, order=1, noise=2)
    specification = phases.specification(cell.study.recipe, cell.study.identity, phase)
    assert digest_of(specification) == "fdef97b6bbd469dd7079c6598ecd882226833b3335506303bc1b0d9f7ad5f543"
    assert specification["science"] == phases.SCIENCE


NETS = """
from torch import nn
def small(shape, classes, width: int = 7):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Linear(width, classes))
"""
DATA = """
import torch
from lottery.data.examples import Data, Examples
def noise(batch_size: int, shape, classes: int):
    draw = torch.Generator().manual_seed(0)
    make = lambda n: Examples(torch.randn(n, *shape, generator=draw), torch.randint(classes, (n,), generator=draw))
    return Data(make(20), make(10), make(10), batch_size=batch_size, shape=shape, classes=classes)
"""
CRITERIA = """
def first(evidence, sign: float = 1.0):
    return {name: -sign * mask.float().flatten().cumsum(0).view_as(mask) for name, mask in evidence.masks.items()}
"""
ARM = """# Mine: one step of the dense training is kept
_target_: lottery.rounds.arms.Arm
weights: {_target_: lottery.rounds.rewinding.to_start, _partial_: true}
rewind: 1
first: ${.rewind}
parent: null
"""
MODEL = """# Mine
_target_: guest.nets.small
_partial_: true
shape: ${data.shape}
classes: ${data.classes}
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own package and `conf/` folder."""
    files = {
        "guest/__init__.py": "", "guest/nets.py": NETS, "guest/data.py": DATA, "guest/criteria.py": CRITERIA,
        "conf/arm/mine.yaml": ARM, "conf/model/small.yaml": MODEL,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "guest"]:
        del sys.modules[name]


def toy(folder: Path, *overrides: str) -> CellConfig:
    short = ("budget.steps=4", "budget.evaluate=2", "schedule.rounds=1", f"out={folder / 'runs'}", "hardware=cpu")
    return cell_configs([*TINY, *short, *overrides])[0]


def played(job: CellConfig) -> list[dict[str, Any]]:
    run_cell(job)
    return ledger.Ledger(job.folder / NAME).lines()


def test_a_folder_of_ones_own(guest: Path) -> None:
    own = ("model=small", "scope=everywhere", "schedule.keep=0.5", "--config-dir", str(guest / "conf"))
    job = toy(guest, "arm=mine", *own)
    assert job.label == "mine"
    assert job.study.startswith("small-digits-")
    lines = played(job)
    assert [line["train_steps"] for line in lines] == [4, 3]
    assert lines[1]["layer_densities"].keys() == {"1.weight", "2.weight"}
    control = toy(guest, "arm=random_reinit", "arm.parent=mine", *own)
    assert control.label == "random_reinit,parent=mine"
    assert played(control)[1]["layer_densities"] == lines[1]["layer_densities"]


def test_an_arm_that_builds_on_ours(guest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One yaml with a defaults list is enough for a new arm."""
    (guest / "conf/arm/mine.yaml").write_text("# Mine\ndefaults: [imp]\niterative: false\nfirst: ${budget.warmup}\n")
    job = toy(guest, "arm=mine", "--config-dir", str(guest / "conf"))
    assert job.label == "mine"
    assert (job.shipped["iterative"], job.shipped["first"]) == (False, "${budget.warmup}")
    assert not {"defaults"} & job.shipped.keys()
    show([job])
    assert "mine seed 0: 2 rounds, 2 phases to train (8 steps)" in capsys.readouterr().out
    lines = played(job)
    assert [line["arm"] for line in lines] == ["mine", "mine"]
    assert job.finished()
    control = toy(guest, "arm=random_reinit", "arm.parent=mine", "arm.rewind=2", "--config-dir", str(guest / "conf"))
    parent = build(control).arm.parent
    assert parent
    assert (control.label, parent.name) == ("random_reinit,parent=mine,rewind=2it", "mine,rewind=2it")
    assert (parent.iterative, parent.first, parent.rewind) == (False, 0, 2)
    again = toy(guest, "arm=mine", "arm.iterative=true", "--config-dir", str(guest / "conf"))
    assert again.label == "mine,iterative=true"


@pytest.mark.parametrize(("rewind", "name"), [("0it", "imp"), ("0", "imp"), ("7", "imp,rewind=7it"), ("7it", None)])
def test_a_parent_is_called_as_the_arm_itself_is(rewind: str, name: str | None) -> None:
    [control], [arm] = (cell_configs([f"arm={of}", f"arm.rewind={rewind}"]) for of in ("random_mask", "imp"))
    assert control.parent
    assert control.parent.label == arm.label == (name or "imp,rewind=7it")


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        ([], "2c11551c036a993f"),
        (["experiment=demo", "arm=random_reinit"], "5108f88dde9b511d"),
        (["arm.rewind=100it"], "7df9de30d27f80f4"),
        (["arm.rewind=100"], "7df9de30d27f80f4"),
    ],
)
def test_published_settings(overrides: list[str], setting: str) -> None:
    """Ledgers hold these digests: a change separates new seeds from old ones."""
    assert {job.digest for job in cell_configs(overrides)} == {setting}


def test_spelling_of_a_duration_is_no_other_setting(tmp_path: Path) -> None:
    def job(rewind: str, seed: int = 0) -> CellConfig:
        return cell_configs([f"arm.rewind={rewind}", f"seed={seed}", f"out={tmp_path}"])[0]

    first = job("100")
    first.folder.mkdir(parents=True)
    old = "d44dcc255c326aef"  # what a ledger says that was written when 100 and 100it were told apart
    (first.folder / NAME).write_text(f'{{"round": 0, "rounds": 0, "setting": "{old}"}}\n')
    (first.folder / CONFIG).write_text(yaml.safe_dump(dict(first.config)))
    for again in (job("100"), job("100it"), job("100it", seed=1)):
        assert again.digest == old
    assert job("100").finished()
    assert job("100it").finished()
    assert not job("100it", seed=1).finished()
    assert job("101").digest != old


@pytest.mark.slow
def test_a_sweep_over_experiments_is_each_one_s_own_sweep() -> None:
    together = cell_configs(["experiment=demo,fc2019_lenet", "schedule.rounds=1", "-m"])
    alone = [
        job for name in ("demo", "fc2019_lenet") for job in cell_configs([f"experiment={name}", "schedule.rounds=1"])
    ]
    assert [str(job) for job in together] == [str(job) for job in alone]
    assert len(together) == 10 + 10


NEW_GROUP = """
import json
from lottery.config.groups import GROUPS, OPTIONAL, SCIENCE_GROUPS, TRAINING_GROUPS, options
from lottery.config.compose import cell_configs
[plain], [grown] = cell_configs([]), cell_configs(["growth=regrow"])
print(json.dumps([GROUPS[-1], OPTIONAL, SCIENCE_GROUPS[-1], TRAINING_GROUPS[-1], options("growth"), plain.study,
                  grown.study != plain.study, grown.config["growth"]]))
"""


def test_a_new_group_is_named_in_one_place(tmp_path: Path) -> None:
    """The defaults list of conf/config.yaml; as nothing of it is chosen, no name moves."""
    shutil.copytree(Path(lottery.__file__).parent, tmp_path / "lottery")
    shutil.copytree(CONF, tmp_path / "conf")
    main = tmp_path / "conf" / "config.yaml"
    main.write_text(main.read_text().replace("  - experiment: null\n", "  - experiment: null\n  - growth: null\n"))
    (tmp_path / "conf" / "growth").mkdir()
    (tmp_path / "conf" / "growth" / "regrow.yaml").write_text("# Grows\n_target_: mine.regrow\n")
    ended = subprocess.run(
        [sys.executable, "-c", NEW_GROUP], cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    name = "lenet_300_100-digits-f4003c6b"
    expected = [
        "growth",
        ["structure", "compensation", "analysis", "experiment", "growth"],
        "growth",
        "growth",
        {"regrow": "Grows"},
        name,
        True,
    ]
    assert json.loads(ended.stdout) == [*expected, {"_target_": "mine.regrow"}]


BY_PATH = (
    "model._target_=guest.nets.small", "+model.width=5", "criterion._target_=guest.criteria.first",
    "+criterion.sign=-1", "data._target_=guest.data.noise", "~data.val_size", "~data.test_size",
    "data.batch_size=10", "data.shape=[2,3,3]", "data.classes=3", "module.classes=3", "scope=layerwise",
)  # fmt: skip


def test_network_data_and_criterion_by_import_path(guest: Path) -> None:
    lines = played(toy(guest, *BY_PATH))
    assert lines[1]["layer_densities"] == {"1.weight": 72 / 90, "2.weight": 12 / 15}
    cell = build(toy(guest, *BY_PATH))
    criterion = cell.study.pruning.criterion
    assert (criterion.func.__name__, criterion.keywords) == ("first", {"sign": -1})
    assert cell.study.recipe.data.train.inputs.shape == (20, 2, 3, 3)


def test_code_of_ones_own_belongs_to_what_a_result_depends_on(guest: Path) -> None:
    def code() -> Any:
        return build(toy(guest, *BY_PATH)).study.identity["code"]

    before = code()
    assert before.keys() == {"guest"}
    (guest / "guest" / "helper.py").write_text("pass\n")
    assert code()["guest"] != before["guest"]


def test_an_argument_left_at_its_default_is_no_other_result(guest: Path) -> None:
    same, other = ((*BY_PATH, "model.width=7"), (*BY_PATH, "model.width=6"))
    without = tuple(override for override in BY_PATH if "width" not in override)
    model = [build(toy(guest, *overrides)).study.identity["model"] for overrides in (without, same, other)]
    assert model[0] == model[1] != model[2]


def test_options_are_read_in_a_process_that_has_not_started_hydra() -> None:
    asks = "from lottery.config.options import options_of; print(options_of([])('arm', 'imp')['_target_'])"
    said = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout
    assert said == "lottery.arms.Arm\n"
