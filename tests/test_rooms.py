"""Results depend on our functions, and not on the sub-package that a function's module lies in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lottery.config.compose import cell_configs
from lottery.config.nodes import target_of
from lottery.config.trust import callable_in, trusted
from lottery.foundations import rooms
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import defined, homes, modules, named, roomed, roomless
from tests.conftest import environment

ROOMS = {
    "pruning.criteria": "", "pruning.criteria.weights": "def magnitude(): ...\ndef random(): ...\n",
    "pruning.criteria.gradients": "import random\ndef snip(): ...\n", "pruning.scopes": "def rates(): ...\n",
    "training.modules": "class Classifier: ...\n", "rounds.early_bird": "class Settled: ...\n",
    "analyses.early_bird": "class EarlyBird: ...\n", "models.lenet": "def lenet_5(): ...\n",
    "stopping": "class Stop: ...\n",
    "training.twice": "def one(): ...\n", "rounds.twice": "def one(): ...\n",
}  # fmt: skip


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What is remembered of our modules, forgotten before and after, because a test gives others in their place."""
    caches = rooms.roomless, rooms.homes, rooms.defined, callable_in
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    """A package of ours whose modules lie in rooms."""
    (tmp_path / "lottery.py").touch()
    found = {"lottery": tmp_path / "lottery.py"}
    for module, text in ROOMS.items():
        path = tmp_path / f"{module}.py"
        path.write_text(text)
        found[f"lottery.{module}"] = path
        found.setdefault(f"lottery.{module.partition('.')[0]}", found["lottery"])
    monkeypatch.setattr(rooms, "modules", lambda: found)


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize(
    ("lies", "name"),
    [
        ("lottery.pruning.criteria.weights.magnitude", "lottery.criteria.magnitude"),
        ("lottery.pruning.criteria.weights.random", "lottery.criteria.random"),
        ("lottery.pruning.criteria.gradients.snip", "lottery.criteria.snip"),
        ("lottery.pruning.scopes.rates", "lottery.scopes.rates"),
        ("lottery.training.modules.Classifier.load", "lottery.modules.Classifier.load"),
        ("lottery.rounds.early_bird.Settled", "lottery.early_bird.Settled"),
        ("lottery.analyses.early_bird.EarlyBird", "lottery.analyses.early_bird.EarlyBird"),
        ("lottery.models.lenet.lenet_5", "lottery.models.lenet.lenet_5"),
        ("lottery.stopping.Stop", "lottery.stopping.Stop"),
        ("guest.training.modules.Classifier", "guest.training.modules.Classifier"),
    ],
)
def test_a_function_and_its_name_without_the_room(lies: str, name: str) -> None:
    assert (roomless(lies), roomless(name)) == (name, name)
    assert (roomed(lies), roomed(name)) == (lies, lies)


@pytest.mark.usefixtures("house")
def test_what_two_modules_might_mean_and_what_none_does() -> None:
    for own in ("lottery.training.twice.one", "lottery.rounds.twice.one"):
        assert roomed(own) == own
    said = "lottery.twice.one: lottery.training.twice.one or lottery.rounds.twice.one may be meant; write one of them"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        roomed("lottery.twice.one")
    with pytest.raises(Refused, match=f"^{re.escape(f'scope._target_={said}')}$"):
        target_of("scope", {"_target_": "lottery.twice.one"})
    with pytest.raises(Refused, match=r"^a\.ticket: config\.scope\._target_=lottery\.twice\.one is no scope of "):
        trusted("a.ticket", {"scope": {"_target_": "lottery.twice.one"}})
    assert roomless("lottery.pruning.criteria.magnitude") == "lottery.criteria.magnitude"
    assert homes("lottery.nosuch.one") == ()
    assert roomed("lottery.nosuch.one") == "lottery.nosuch.one"


def test_no_two_functions_of_ours_have_one_name() -> None:
    """Otherwise two modules would have equal digests, and a name in a ledger or ticket would be ambiguous."""
    names = [roomless(f"{module}.{name}") for module in modules() for name in defined(module)]
    assert len(names) > 300
    assert sorted(names) == sorted(set(names))


@pytest.mark.usefixtures("house")
def test_plain_data_is_named_however_deep() -> None:
    node = {"_target_": "lottery.training.modules.Classifier", "of": [{"_target_": "lottery.pruning.scopes.rates"}]}
    assert named(node) == {"_target_": "lottery.modules.Classifier", "of": [{"_target_": "lottery.scopes.rates"}]}


def test_no_two_functions_that_a_yaml_may_name_have_one_name() -> None:
    """Otherwise names and digests would not tell which of the two made a result."""
    ours = [f"{module}.{name}" for module in modules() if module != "lottery" for name in rooms.defined(module)]
    assert len({roomless(path) for path in ours}) == len(ours)


@pytest.mark.parametrize("path", ["lottery.optimizers.sgd", "lottery.criteria.snip", "lottery.hardware.Numerics"])
def test_paths_of_old_records_are_found(path: str) -> None:
    target, _ = target_of("optimizer", {"_target_": path, "lr": 0.1})
    assert target.__name__ == path.rpartition(".")[2]


MOVED = """
import sys
from pathlib import Path
from lottery.config.compose import cell_configs
from lottery.config.build import build, build_analyses
from lottery.foundations.digests import digest_of
from lottery.foundations.rooms import roomed

room = sys.argv[1]
arguments = ["hardware=cpu", "optimizer=sgd", "analysis=early_bird", "arm=random_mask"]
for path in (roomed("lottery.optimizers.sgd"), "lottery.optimizers.sgd"):
    assert path.startswith(f"lottery.{room}.") or room == "none" or path == "lottery.optimizers.sgd"
    job, = cell_configs([*arguments, f"optimizer._target_={path}"])
    cell = build(job)
    recipe = digest_of(cell.study.identity)
    print(job.study, job.digest, job.label, recipe, build_analyses(job, cell.study.recipe.data)["early_bird"].digest)
"""


@pytest.mark.slow
def test_a_move_changes_no_name_key_or_digest(tmp_path: Path) -> None:
    """The optimizers are moved into another room, in a copy of the package."""
    source = modules()["lottery"].parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, tmp_path / "lottery", ignore=ignored)
    conf = source / "conf" if (source / "conf").is_dir() else source.parent / "conf"
    shutil.copytree(conf, tmp_path / "conf", ignore=ignored)
    said = [digests(tmp_path, "none")]
    (tmp_path / "lottery" / "attic").mkdir()
    (tmp_path / "lottery" / "attic" / "__init__.py").touch()
    now = modules()[roomed("lottery.optimizers.sgd").rpartition(".")[0]].relative_to(source)
    (tmp_path / "lottery" / now).rename(tmp_path / "lottery" / "attic" / "optimizers.py")
    said.append(digests(tmp_path, "attic"))
    assert said[0] == said[1]
    assert len(set(said[0])) == 1  # with and without its room


def digests(folder: Path, room: str) -> list[str]:
    environ = environment(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    ended: Any = subprocess.run(
        [sys.executable, "-c", MOVED, room], cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.usefixtures("forgotten")
def test_a_roomed_override_is_no_other_study_and_no_other_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    base = cell_configs(["arm=random_mask"])[0]
    found = {**modules(), "lottery.attic.rewinding": Path(), "lottery.attic.optimizers": Path()}
    monkeypatch.setattr(rooms, "modules", lambda: found)
    optimizer, weights = "lottery.attic.optimizers.adam", "lottery.attic.rewinding.to_start"
    job = cell_configs(["arm=random_mask", f"optimizer._target_={optimizer}", f"arm.weights._target_={weights}"])[0]
    assert (job.study, job.label, job.digest) == (base.study, base.label, base.digest)


def test_functions_of_ours_that_no_yaml_names_are_trusted_where_they_belong() -> None:
    trusted("ticket", {"budget": {"learning_rate": {"_target_": "lottery.learning_rates.cosine"}}})
    trusted("ticket", {"budget": {"learning_rate": {"_target_": "lottery.learning_rates.linear"}}})
    for path in (
        "lottery.files.write_whole", "lottery.optimizers.sgd", "lottery.learning_rates.math.exp",
        "lottery.learning_rates._private", "lottery.recipes.Budget.factor", "lottery.learning_rates",
    ):  # fmt: skip
        with pytest.raises(Refused, match="is no budget of lottery's own"):
            trusted("ticket", {"budget": {"_target_": path}})
