"""Invalid configurations are refused before training, in one sentence with key, value and what is allowed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import pytorch_lightning as pl
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from lottery.commands import main as cli
from lottery.config import build as config
from lottery.config import groups as catalogue
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check
from lottery.config.compose import cell_config, cell_configs
from lottery.config.groups import CONF
from lottery.foundations.errors import Refused
from tests.conftest import TINY

TOP = ", ".join(catalogue.TOP)
ARMS = sorted(catalogue.options("arm"))
NODES = {name: yaml.safe_load((CONF / "arm" / f"{name}.yaml").read_text()) for name in ARMS}
PRUNING = ", ".join(name for name, node in NODES.items() if node["parent"] is None and "file" not in node)
RESNET = "model._target_=torchvision.models.resnet18"

# ends in "...": what follows is a list that another library's version decides
COMPOSITION = {
    "model=lenet": "there is no such model; did you mean lenet_300_100 or lenet_5?",
    "arm=imq": f"there is no such arm; did you mean imp? allowed: {', '.join(ARMS)}",
    "arm=null": f"must be one of {', '.join(ARMS)}",
    "experiment=demoo": "there is no such experiment; did you mean demo?",
    "modl=lenet_300_100": "there is no such key; did you mean model or module?",
    "seeed=1": "there is no such key; did you mean seed?",
    "+width=1": f"there is no such key; allowed: {TOP}",
    "+model@teacher=lenet_5": "there is no such key as teacher; did you mean trainer?",
    "hydra.sweep.dir=x": "must stay ${out}; out= chooses the folder of runs",
    "hydra.run.dir=x": "must stay ${out}; out= chooses the folder of runs",
    "hydra.job.chdir=true": "must stay false; out= chooses the folder of runs",
    "out=runs/${now:%H}": "changes with time, so that no command could resume the run",
    "out=[1]": "must be a folder",
    "optimizer.lrr=1": "optimizer has no such key; did you mean lr? allowed: clip_norm, decay, fused, lr, "
    "weight_decay; to add one, write +optimizer.lrr=1",
    "schedule.rouns=3": "schedule has no such key; did you mean rounds? allowed: keep, rounds; "
    "to add one, write +schedule.rouns=3",
    "schedule.rounds=[1": "can't be read (no viable alternative at input '[1'); a list is [1,2], text with signs '...'",
    "seed": "can't be read; a setting is written key=value",
    "seed=1,2": "several values are a sweep; add -m for one cell of each, or write a list as [1,2]",
}
VALUES = {
    "seed=-1": "must be a whole number, 0 or more",
    "seed=abc": "must be a whole number, 0 or more",
    "seed=1.5": "must be a whole number, 0 or more",
    "out=": "must be a folder",
    "store=null": "must be a folder",
    "data.batch_size=0": "must lie between 1 and the 1097 training examples",
    "data.batch_size=100000": "must lie between 1 and the 1097 training examples",
    "data.batch_size=abc": "must be a whole number",
    "data.val_size=0": "must be at least 1 and leave some of the 1797 examples for training",
    "data.val_size=99999": "must be at least 1 and leave some of the 1797 examples for training",
    "data.val_size=true": "must be a whole number",
    "data.classes=5": "the labels run from 0 to 9; data.classes=null if they are no classes",
    "data.shape=[1, 4, 4]": "the inputs have shape [1, 8, 8]",
    "model.shape=8": "must be a list of whole numbers",
    "model._target_=null": "must be the import path of a function",
    "model._target_=nosuch.net": "can't be imported; ModuleNotFoundError: No module named 'nosuch'",
    "model._target_=torchvision.models.resnet19": "can't be imported; did you mean resnet18 or ...",
    "model._target_=builtins.dict": "must give a torch.nn.Module, not a dict",
    "module._target_=lottery.training.modules.Clasifier": "can't be imported; did you mean Classifier? "
    "allowed: Classifier, Driver, Module, headline_of",
    "optimizer.lr=-1": "must be a number, 0 or more",
    "optimizer.lr=abc": "must be a number",
    "optimizer.lr=nan": "must be a finite number",
    "optimizer.fused=maybe": "must be true or false",
    "budget.steps=0": "must be at least 1 step",
    "budget.steps=-5": "must be at least 1 step",
    "budget.steps=10xx": "must be a duration such as 500, 500it or 2ep",
    "budget.steps=2.5ep": "must be a duration such as 500, 500it or 2ep",
    "budget.evaluate=0": "must be at least 1 step",
    "budget.warmup=-1": "must be 0 or more steps",
    "schedule.rounds=-1": "must be 0 or more",
    "schedule.rounds=abc": "must be a whole number",
    "schedule.keep=0": "must lie in (0, 1]",
    "schedule.keep=1.5": "must lie in (0, 1]",
    "arm.rewind=999999": "must be a step from 0 to 29, before the last (budget.steps=30)",
    "arm.rewind=-1": "must be a step from 0 to 29, before the last (budget.steps=30)",
    "arm.rewind=30": "must be a step from 0 to 29, before the last (budget.steps=30)",
    "arm.rewind=abc": "must be a duration such as 500, 500it or 2ep",
    "arm.parent=imq": f"there is no such arm; did you mean imp? allowed: {PRUNING}",
    "arm.parent=random_mask": f"it has no masks of its own; allowed: {PRUNING}",
    "arm.weights=abc": "must be a node with a _target_",
    "numerics.precision=8": "must be one of 32, bf16-mixed, 16-mixed",
    "numerics.threads=0": "must be at least 1",
    "numerics.deterministic=abc": "must be true or false",
    "tracking.mode=onlin": "must be one of offline, online, disabled",
    "hardware.accelerator=tpu": "must be auto, cpu or gpu",
    "hardware.checkpoint_seconds=0": "must be above 0",
    "+hardware.trainer.max_epochs=3": "does not apply here; use budget.steps, e.g. budget.steps=10ep",
    "+hardware.trainer.max_epocs=3": "Trainer has no such argument; allowed: ...",
    "+criterion.batchs=1": "lottery.criteria.magnitude has no such argument; it takes none; "
    "~criterion.batchs takes it out",
    "+optimizer.momentm=0.9": "lottery.optimizers.adam has no such argument; allowed: lr, betas, eps, ...",
}


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("it trained")

    monkeypatch.setattr(pl.Trainer, "fit", fit)


@pytest.fixture(scope="module")
def base() -> DictConfig:
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    return loader.load_configuration("config", list(TINY), RunMode.RUN)


@pytest.fixture
def configured(base: DictConfig) -> Callable[..., CellConfig]:
    """A job with overridden settings, made without composing again, which would take most of the time."""

    def job(*overrides: str) -> CellConfig:
        changed = base.copy()
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(overrides)), changed)
        return cell_config(changed)

    return job


def sentence(make: Callable[..., CellConfig | list[CellConfig]], *overrides: str) -> str:
    """The message with which a job is refused when it is made, built or checked."""

    def attempt() -> None:
        made = make(*overrides)
        for job in made if isinstance(made, list) else [made]:
            check(config.build(job))
            config.make("tracking", job.config["tracking"])

    with pytest.raises(Refused) as refused:
        attempt()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def same(said: str, expected: str) -> bool:
    return said.startswith(expected[:-3]) if expected.endswith("...") else said == expected


def test_the_base_is_accepted(configured: Callable[..., CellConfig]) -> None:
    job = configured()
    check(config.build(job))
    assert job.config == cell_configs(list(TINY))[0].config


@pytest.mark.parametrize(("override", "why"), COMPOSITION.items())
def test_what_can_not_be_composed(override: str, why: str) -> None:
    said = sentence(lambda text: cell_configs([text]), override)
    assert same(said, f"{override.lstrip('+')}: {why}"), said


@pytest.mark.parametrize(("override", "why"), VALUES.items())
def test_values(configured: Callable[..., CellConfig], override: str, why: str) -> None:
    said = sentence(configured, override)
    assert same(said, f"{override.lstrip('+')}: {why}"), said


def test_half_precision_needs_a_gpu(configured: Callable[..., CellConfig]) -> None:
    said = sentence(configured, "numerics.precision=16-mixed", "hardware.accelerator=cpu")
    assert said == "numerics.precision=16-mixed needs a GPU; on a CPU use 32 or bf16-mixed"


def test_arguments_that_a_function_hands_on(configured: Callable[..., CellConfig]) -> None:
    """torchvision's factories take any keyword: only building tells."""
    said = sentence(configured, RESNET, "~model.shape", "~model.classes", "+model.num_clases=10")
    known = "torchvision.models.resnet.resnet18 has no such argument; did you mean num_classes"
    assert said.startswith(f"model.num_clases=10: {known}"), said
    said = sentence(configured, RESNET)
    assert said.startswith("model.shape=[1, 8, 8]: torchvision.models.resnet.resnet18 has no such argument; "), said
    assert said.endswith("; ~model.shape takes it out")


def test_arguments_of_other_options() -> None:
    said = sentence(lambda *o: cell_configs([*TINY, *o]), "optimizer=sgd", "+optimizer.momentm=0.9")
    assert said.startswith(
        "optimizer.momentm=0.9: lottery.optimizers.sgd has no such argument; did you mean momentum? "
    )
    said = sentence(lambda *o: cell_configs([*TINY, *o]), "criterion=snip", "criterion.batches=0")
    assert said == "criterion.batches=0: must be at least 1"
    said = sentence(lambda *o: cell_configs(list(o)), "schedule=one_shot", "schedule.density=2")
    assert said == "schedule.density=2: must lie inside (0, 1)"


def test_a_rate_that_only_a_later_round_breaks() -> None:
    """Round 1 prunes 10 % twice, round 2 would prune 78 % twice."""
    said = sentence(
        lambda *o: cell_configs(list(o)), "schedule=explicit", "schedule.densities=[0.9,0.2]", "scope.output=2"
    )
    assert said == "scope: 2 x the rate 0.777778 of output.weight lies outside [0, 1]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# @package _global_\noptimiser: {lr: 0.5}\n",
         "optimiser: there is no such key; did you mean optimizer or trainer?"),
        ("# @package _global_\nlr: 0.5\n", f"lr: there is no such key; allowed: {TOP}"),
        ("optimizer: {lr: 0.5}\nseed: 3\n", "experiment=mine: experiment.optimizer, experiment.seed would be ignored; "
         "the yaml's first line must be `# @package _global_`"),
    ],
)  # fmt: skip
def test_a_yaml_says_nothing_that_nobody_reads(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert sentence(lambda *o: cell_configs(list(o)), "experiment=mine", "--config-dir", str(tmp_path)) == said


@pytest.mark.parametrize("batch", [60, 1])
def test_parts_that_do_not_go_together(configured: Callable[..., CellConfig], batch: int) -> None:
    said = sentence(configured, "model.shape=[1,4,4]", f"data.batch_size={batch}")
    assert said.startswith(f"model: does not take inputs of shape [{min(batch, 8)}, 1, 8, 8]: mat1 and mat2 "), said
    assert said.endswith("(with model.shape=[1, 4, 4], model.classes=10)"), said
    said = sentence(configured, "model.classes=9", f"data.batch_size={batch}")
    assert said.startswith(f"module: does not take outputs of shape [{min(batch, 8)}, 9] with targets from "), said
    # the highest class is tried, whatever the first batch holds
    assert said.endswith(
        " to 9: Target 9 is out of bounds. (with model.shape=[1, 8, 8], model.classes=9, module.classes=10)"
    ), said


def test_missing_data_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    said = sentence(lambda *o: cell_configs(list(o)), "data=mnist", f"data.root={tmp_path}")
    assert said.startswith(f"data.root={tmp_path}: no MNIST there (train-images-idx3-ubyte[.gz] and three more"), said
    assert said.endswith("give the folder that holds the files")


@pytest.mark.parametrize("group", ["data", "optimizer"])
def test_a_group_left_out(group: str) -> None:
    said = sentence(lambda *o: cell_configs(list(o)), f"~{group}")
    assert said.startswith(f"{group}: is missing; must be one of "), said


def test_each_cell_of_a_sweep_is_checked() -> None:
    assert sentence(lambda *o: cell_configs(list(o)), "experiment=demo", "seed=0,-1").startswith("seed=-1: ")
    assert sentence(lambda *o: cell_configs(list(o)), "experiment=demo", "arm=imp,imq").startswith("arm=imq: ")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """The command in this process; gives what it says on stderr after exit code 1."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lottery", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code, said.out) == (1, "")
        return said.err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "arm=imq"], f"arm=imq: {COMPOSITION['arm=imq']}"),
        (["run", "experiment=demo", "seed=0,-1"], "seed=-1: must be a whole number, 0 or more"),
        (["run", "--plam"], "unrecognized arguments: --plam; `lottery run --help` lists the arguments"),
        (["run", "--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
        (["report", "nowhere"], "nowhere: no such folder or results file"),
        (["store", "size", "--out", "nowhere"], "nowhere/store: no such store"),
        (["run", "--config-dir", ".", "--config-dir", ".."], "--config-dir: is given twice, as . and ..; only one can "
         "be taken; `lottery run --help` lists the arguments"),
        (["run", "--experimental-rerun", "x"], "--experimental-rerun: is not supported, as it unpickles a file; "
         "the same command resumes a run"),
        (["list", "armm"], f"armm: there is no such group; did you mean arm? allowed: {', '.join(catalogue.GROUPS)}; "
         "`lottery list experiment` has warmup"),
        (["list", "layers"], f"layers: there is no such group; allowed: {', '.join(catalogue.GROUPS)}; "
         "`lottery list scope` has layerwise"),
    ],
)  # fmt: skip
def test_the_command_says_it_on_one_line(
    command: Callable[..., str], arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == f"lottery: {said}\n"
    assert not list(tmp_path.iterdir())


def test_the_real_command(lottery: Callable[..., object], tmp_path: Path) -> None:
    ended = lottery("run", *TINY, "model._target_=torchvision.models.resnet19")
    assert ended.returncode == 1
    said = ended.stderr
    assert said.startswith("lottery: model._target_=torchvision.models.resnet19: can't be imported; did you mean ")
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=vgg_19"], "model.shape=[1, 8, 8]: VGG-19 halves the image four times and needs at least 16x16"),
        (["model=resnet18"], "model.shape=[1, 8, 8]: resnet18 takes images of 3 channels, not 1"),
        (["model=resnet_8", "data.classes=5"],
         "data.classes=5: the labels run from 0 to 9; data.classes=null if they are no classes"),
        (["model=resnet_8", "model.depth=9"], "model.depth=9: must be 6n + 2, such as 8, 14, 20, 32, 44, 56, 110"),
        (["model=resnet_8", "model.width=0"], "model.width=0: leaves no channel of 16; must be at least 0.05"),
        (["numerics.sparse=maybe"], "numerics.sparse=maybe: must be one of auto, on, off"),
        (["optimizer.clip_norm=-1"], "optimizer.clip_norm=-1: must be above 0"),
        (["optimizer.decay=some"], "optimizer.decay=some: must be all or weights"),
        (["module.label_smoothing=2"], "module.label_smoothing=2: must lie in [0, 1)"),
        (["+module.scale_penalty=0.1"], "module.scale_penalty=0.1: the network has no BatchNorm with scales"),
        (["model=vgg_11", "model.shape=[1,32,32]", "+model.width=0.001"],
         "model.width=0.001: leaves no channel of 64; must be at least 0.01"),
        (["scope=everywhere", "scope.spare=[fc9]"], "scope.spare: no layer matches 'fc9'; the layers are "
         "fc1.weight, fc2.weight, output.weight"),
        (["hardware.devices=7"], "data.batch_size=60: must be a multiple of the 7 processes"),
    ],
)  # fmt: skip
def test_networks_data_and_settings_that_do_not_go_together(overrides: list[str], said: str) -> None:
    def checked(*more: str) -> None:
        check(build(cell_configs([*TINY, "hardware.accelerator=cpu", *more])[0]))

    assert sentence(checked, *overrides) == said


def test_a_network_that_begins_with_the_same_weights_has_no_fresh_draw(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    cell = build(cell_configs([*TINY, "model=resnet_8"])[0])
    save_file(cell.study.recipe.network().state_dict(), tmp_path / "found.safetensors")
    (tmp_path / "loads.py").write_text(LOADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        node = ["model._target_=loads.resnet_", f"+model.path={tmp_path / 'found.safetensors'}"]
        node += ["~model.shape", "~model.classes"]
        for arm in ("imp", "random_mask"):
            check(build(cell_configs([*TINY, *node, f"arm={arm}"])[0]))
        said = sentence(lambda *o: check(build(cell_configs([*TINY, *o])[0])), *node, "arm=random_reinit")
    assert said.startswith(
        "arm: random_reinit needs a new initialisation, but the model draws the same weights for every seed"
    )


LOADS = """
from lottery.models.pretrained import pretrained
from lottery.models.resnet import resnet

def resnet_(path):
    return pretrained(resnet(8, 1, (1, 8, 8), 10), path)
"""
