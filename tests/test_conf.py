"""Contract tests for every yaml in `conf/`, discovered automatically, so that new options are covered at once."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from lottery.commands import plan
from lottery.commands.main import main
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check
from lottery.config.compose import cell_configs, composed
from lottery.config.groups import CONF, GROUPS, options
from lottery.config.nodes import make
from lottery.pruning import masks
from lottery.pruning.contracts import Evidence, KeepsNothing, Target, score
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.training.modules import Classifier
from tests import tiny_sets
from tests.conftest import TINY
from tests.evidence import UNTRAINED
from tests.few import few

NEEDS_MORE = {"arm/ticket", "model/lightning", "data/lightning"}
"""options that need a file or code of one's own; see tests/test_tickets.py and test_lightning_commands.py"""
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))
OPTIONS = [name for name in FILES if name.partition("/")[0] in GROUPS and not name.startswith("experiment/")]
EXPERIMENTS = [name.partition("/")[2] for name in FILES if name.startswith("experiment/")]
ARMS = [name.partition("/")[2] for name in FILES if name.startswith("arm/") and name not in NEEDS_MORE]
CRITERIA = [name.partition("/")[2] for name in FILES if name.startswith("criterion/")]
LAUNCHERS = [name.rpartition("/")[2] for name in FILES if name.startswith("hydra/launcher/")]
SCOPES = [name.partition("/")[2] for name in FILES if name.startswith("scope/")]
TOY = ("budget.steps=4", "budget.evaluate=2", "tracking.mode=disabled", "hardware.accelerator=cpu")

PUBLIC: dict[str, Any] = {
    "out": "elsewhere", "store": "shared", "seed": 12, "data.root": "/some/where", "data.batch_size": 32,
    "data.val_size": 1000, "model._target_": "guest.net", "optimizer.lr": 0.25, "budget.steps": "3ep",
    "schedule.rounds": 2, "arm.rewind": "100it", "arm.parent": "imp", "numerics.precision": "bf16-mixed",
    "tracking.mode": "online",
}  # fmt: skip


def test_all_were_found() -> None:
    """The number of options; a new one raises it, so that losing one is noticed."""
    assert {name.partition("/")[0] for name in OPTIONS} | {"experiment"} == set(GROUPS)
    found = (len(OPTIONS), len(EXPERIMENTS), len(ARMS), len(CRITERIA), len(SCOPES), len(LAUNCHERS))
    assert all(number >= before for number, before in zip(found, (105, 20, 16, 18, 10, 3), strict=True)), found
    others = {f"experiment/{name}" for name in EXPERIMENTS} | {f"hydra/launcher/{name}" for name in LAUNCHERS}
    assert set(FILES) - set(OPTIONS) == others | {"config"}


def comment(path: Path) -> str:
    lines = path.read_text().splitlines()
    return lines[lines[0].startswith("# @package ")]


@pytest.mark.parametrize("name", FILES)
def test_begins_with_a_comment_of_one_line(name: str) -> None:
    found = comment(CONF / f"{name}.yaml")
    assert found.startswith("# ")
    assert len(found) <= 120
    group, _, option = name.rpartition("/")
    if group in GROUPS:
        assert options(group)[option] == found[2:].strip() != ""


COLOUR = {"vgg_11", "vgg_13", "vgg_16", "vgg_19", "resnet18", "resnet50", "vgg16", "mobilenet_v2", "vit_b_16"}
"""models that need colours or more than 8x8 pixels, here on tiny CIFAR-10"""

SIGNALS = {"mnist1d"}
"""data that are no images"""


LOOKS = ("arm.early.every=1", "arm.early.window=1")
"""settings of early-bird checks that fit into a toy run"""


MORE = {
    "arm/early_bird": LOOKS,
    **dict.fromkeys(("arm/gradual", "arm/set", "arm/rigl"), ("arm.during.every=1",)),
    **{name: ("arm=finetune",) for name in OPTIONS if name.startswith("compensation/")},
    "criterion/batch_norm_scale": ("model=resnet_8",),
    "criterion/obs": ("prune.exclude=[fc1.weight,fc2.weight]",),
    "structure/blocks": ("structure.shape=[2,4]",),
    "structure/n_of_m": ("schedule=one_shot", "schedule.density=0.5"),
}
"""settings that an option needs in a toy run; a whole Hessian is one of few weights"""


def paired(group: str, option: str) -> list[str]:
    """An option together with data or a network that fits it."""
    chosen = [f"{group}={option}"]
    if group == "data":
        return [*chosen, f"model={'mlp_mnist1d' if option in SIGNALS else 'resnet_8'}"]
    if group == "model":
        return [*chosen, "data=cifar10" if option in COLOUR else "data=fashion_mnist"]
    return [*chosen, *MORE.get(f"{group}/{option}", ())]


def toy(*chosen: str, data: str = "digits", folder: Path) -> list[str]:
    """Overrides that select an option at toy size, on tiny files if its data reads files."""
    data = next((choice.removeprefix("data=") for choice in chosen if choice.startswith("data=")), data)
    reads = "root" in yaml.safe_load((CONF / "data" / f"{data}.yaml").read_text())
    files = tiny_sets.write(data, folder) if reads else []
    batch = ["data.batch_size=2"] if any(choice.startswith("model=") for choice in chosen) else []
    return [*chosen, *TOY, *files, *batch]


@cache
def sweep(name: str) -> tuple[Sequence[CellConfig], Mapping[str, Any]]:
    """An experiment's cells and launcher (Slurm), cached because composing takes up to ten seconds."""
    return composed([f"experiment={name}", "hydra/launcher=slurm"])


def parameters(comment: str) -> int:
    """The number of parameters in the comment of a network's yaml."""
    found = re.search(r"([0-9,]+) parameters", comment)
    assert found, comment
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("name", few(LAUNCHERS, 1))
def test_every_launcher_starts_a_cell_and_a_sweep(name: str) -> None:
    [cell] = cell_configs([f"hydra/launcher={name}"])
    assert cell.choices["hydra/launcher"] == name
    goes_with(*composed(["experiment=demo", f"hydra/launcher={name}"]), name)


@pytest.mark.parametrize("name", few(EXPERIMENTS, 2))
def test_every_experiment_goes_with_a_launcher(name: str) -> None:
    """They interact only by the overrides that a launcher passes on."""
    goes_with(*sweep(name), "slurm")


def goes_with(asked: Sequence[CellConfig], node: Mapping[str, Any], launcher: str) -> None:
    assert "_target_" in node
    for job in (asked[0], asked[-1]):  # what a job of Slurm's is told asks for that cell alone
        assert job.choices["hydra/launcher"] == launcher
        [alone] = cell_configs(list(job.command))
        assert (str(alone), alone.config) == (str(job), job.config)


def test_replicates_of_a_sweep_are_what_each_is_alone() -> None:
    """They are composed once for all seeds."""
    found = cell_configs(["arm=random_mask,imp", "seed=1,0,7", "out=of_${seed}", "optimizer.lr=0.1", "-m"])
    assert [(job.label, job.seed, job.config["out"]) for job in found] == [
        (arm, seed, f"of_{seed}") for arm in ("random_mask", "imp") for seed in (1, 0, 7)
    ]
    for job in found:
        [alone] = cell_configs(list(job.command))
        assert (str(alone), alone.config, alone.command) == (str(job), job.config, job.command)


def test_a_study_for_slurm_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("experiment=demo", "hydra.mode=RUN", *TOY, "hydra/launcher=slurm", f"out={tmp_path / 'runs'}")
    monkeypatch.setattr(sys, "argv", ["lottery", "run", *asked, "--plan"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    assert "\n1 cells, 11 phases to train, 44 steps, " in said.out


def heavy(name: str) -> bool:
    """Whether an option takes seconds: networks of more than a million parameters."""
    return name.startswith("model/") and parameters(comment(CONF / f"{name}.yaml")) > 1_000_000


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if heavy(n) else ()) for n in OPTIONS if n not in NEEDS_MORE]
)
def test_every_option_composes_builds_and_fits(name: str, tmp_path: Path) -> None:
    group, _, option = name.partition("/")
    job = cell_configs(toy(*paired(group, option), folder=tmp_path))[0]
    assert job.choices[group] == option
    cell = build(job)
    check(cell)
    label = {"arm": option, "compensation": "finetune"}.get(group, "imp")
    assert (cell.label.split(",")[0], cell.seed) == (label, 0)
    assert cell.label == label or f"{group}/{option}" in MORE
    if group == "data" and "root" in job.config["data"]:
        read = cell.study.recipe.data
        assert [len(part) for part in (read.train, read.val, read.test)] == [30, 10, 10]


SMALL = ["model/conv_6", "model/lenet_5", "model/mobilenet_v2", "model/resnet_110", "model/vgg_11", "model/wrn_22_2"]
"""a network of each family; all others go through one step above"""


@pytest.mark.parametrize(
    "name", few([*(name for name in OPTIONS if name.startswith("data/") and name not in NEEDS_MORE), *SMALL], 6)
)
def test_every_data_set_and_family_of_networks_plays(name: str, tmp_path: Path) -> None:
    chosen = toy(*paired(*name.split("/")), folder=tmp_path / "set")
    [job] = cell_configs([*chosen, "budget.steps=2", "schedule.rounds=1", f"out={tmp_path / 'runs'}"])
    run_cell(job)
    assert [line["round"] for line in Ledger(job.folder / NAME).lines()] == [0, 1]


SMALLER = {
    "fc2019_vgg19": ["model=vgg_11", "data.batch_size=2"],
    "frankle2020_vgg16": ["model=vgg_11", "data.batch_size=2"],
    "renda2020_vgg16": ["model=vgg_11", "data.batch_size=2"],
    "renda2020_resnet50": ["model=resnet18", "data.batch_size=2"],
    "renda2020_resnet56": ["model=resnet_8"],
    "liu2019_slimming": ["data.train_size=null"],
    "molchanov2016_resnet8": ["data.train_size=null", "arm.length.of_recipe=1"],
    "molchanov2016_vgg": ["data.train_size=null", "arm.length.of_recipe=1"],
}
"""replaces networks that are too large for a toy run, and lengths that are too short"""


@pytest.mark.parametrize(
    "name", few((name for name in sorted(EXPERIMENTS, key=lambda name: (name in SMALLER, name != "demo"))), 2)
)
def test_experiment_is_planned_and_plays_at_toy_size(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = sweep(name)[0][0].choices["data"]
    chosen = toy(f"experiment={name}", "hydra.mode=RUN", data=data, folder=tmp_path / "set")
    rewinding = ["arm.rewind=1"] if name.startswith(("renda", "frankle2020")) else []
    explicit = "override /schedule: explicit" in (CONF / "experiment" / f"{name}.yaml").read_text()
    once = "schedule.densities=[0.5]" if explicit else "schedule.rounds=1"
    [job] = cell_configs([*chosen, *SMALLER.get(name, []), *rewinding, once, f"out={tmp_path / 'runs'}"])
    plan.show([job])
    assert f"\n1 cells, 2 phases to train, {7 if rewinding else 8} steps, " in capsys.readouterr().out
    run_cell(job)
    lines = Ledger(job.folder / NAME).lines()
    assert [line["round"] for line in lines] == [0, 1]
    assert [line["train_steps"] for line in lines] == ([4, 3] if rewinding else [4, 4])
    assert 0 < lines[1]["density"] < lines[0]["density"] == 1
    assert job.study.startswith(f"{name}-")


@pytest.mark.parametrize("name", few(EXPERIMENTS, 6))
def test_experiment_declares_a_sweep_and_leaves_the_launcher_alone(name: str) -> None:
    node = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    assert node["hydra"].keys() <= {"mode", "sweeper"}
    assert not [key for key in node if key.startswith("hydra.")]
    found = sweep(name)[0]
    params = node["hydra"]["sweeper"]["params"]
    count = 1
    for values in params.values():
        count *= len(str(values).split(","))
    assert len({(job.study, job.label, job.seed) for job in found}) == len(found) == count > 1
    of_study = [values for key, values in params.items() if key != "seed" and not key.startswith("arm")]
    assert len({job.study for job in found}) == math.prod(len(str(values).split(",")) for values in of_study)


@pytest.mark.slow
def test_every_arm_runs(tmp_path: Path) -> None:
    for arm in ARMS:
        more = MORE.get(f"arm/{arm}", ())
        [job] = cell_configs([*TINY, *TOY, "schedule.rounds=1", f"out={tmp_path}", f"arm={arm}", "arm.rewind=1", *more])
        run_cell(job)
        lines = Ledger(job.folder / NAME).lines()
        assert [line["arm"] for line in lines] == [job.label] * 2
        assert job.label.startswith(arm)
        assert job.label.endswith("rewind=1it")
        assert all(0 < line["density"] < 1 for line in lines[1:])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_in_every_scope_gives_valid_masks(criterion: str, scope: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 4)
    ).eval()
    rank, choose = (
        make(group, yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) | UNTRAINED.get(name, {}))
        for group, name in (("criterion", criterion), ("scope", scope))
    )
    module = Classifier(net, 4)
    batches = [(torch.randn(8, 6), torch.randint(4, (8,))) for _ in range(3)]
    before = masks.dense(masks.prunable(net))
    rng = torch.Generator().manual_seed(1)  # goes on from round to round, or random scores could revive nothing
    for target in (Target(0.7, 0.7), Target(0.35, 0.5)):
        masks.apply_(masks.prunable(net), before)
        start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        asked = batches, module.batch_outputs, module.batch_loss
        try:
            after = choose(score(rank, Evidence(net, start, before, *asked, rng)), before, target)
        except KeepsNothing:
            assert scope == "threshold"  # all of these scores are negative or zero
            return
        assert after.keys() == before.keys()
        for name, mask in after.items():
            assert (mask.dtype, mask.shape) == (torch.bool, before[name].shape)
            assert not (mask & ~before[name]).any()
        assert 0 < masks.kept(after) <= masks.kept(before)
        assert masks.kept(after) < masks.kept(before) or scope == "threshold"  # it asks for no density
        before = after


def test_every_public_key_exists_and_can_be_overridden() -> None:
    settings = [f"{key}={value}" for key, value in PUBLIC.items()]
    [job] = cell_configs(["data=fashion_mnist", "arm=random_reinit", *settings])
    composed = OmegaConf.create(dict(job.config))
    assert {key: OmegaConf.select(composed, key) for key in PUBLIC} == PUBLIC


def test_store_lies_in_out_unless_it_is_said() -> None:
    [job] = cell_configs(["out=elsewhere"])
    assert job.config["store"] == "elsewhere/store"
    assert job.folder.parts[0] == "elsewhere"
