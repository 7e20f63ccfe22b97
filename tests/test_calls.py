"""Nodes are built according to the annotation of the argument that receives them, not by a key's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lottery.config import build as config
from lottery.config.build import build, build_recipe
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.nodes import make, with_steps
from lottery.foundations import files
from lottery.foundations.digests import file_digest
from lottery.foundations.errors import Refused
from lottery.pruning.contracts import Target
from lottery.store import ledger
from lottery.store.folder import CONFIG, NAME
from tests.conftest import TINY

MINE = """
from collections.abc import Callable, Mapping, Sequence
import torch
from torch import nn
from lottery.foundations.durations import Steps
from lottery.training.modules import Classifier
from lottery.pruning.contracts import Target
from lottery.rounds.stopping import Stop as Ours

def whole(teacher, length=None): return (teacher, length)
def teacher(model: nn.Module, init: int = 0): return model
def several(parts: Sequence[nn.Module], by: Mapping[str, nn.Module]): return parts, by
def later(rate: Callable[[float, int], float], free: Callable[..., float] | None = None): return rate, free
def rate(step, of, high: float = 1.0): return high
def warm(step, of, begin: Steps = 0, at: Sequence[Steps] = (), end: Steps | None = None): return begin
def plain(step, of, begin: int = 0): return begin
def schedule(targets):
    return targets if isinstance(targets, int) else [Target(*t) if isinstance(t, list) else t for t in targets]
class Stop(Ours): ...
class Weighted(Classifier):
    def __init__(self, net, classes: int, table: str = "") -> None: super().__init__(net, classes)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name, **arguments}


LINEAR = node("torch.nn.Linear", in_features=2, out_features=1)


@pytest.mark.usefixtures("mine")
def test_nested_nodes_are_called_whatever_their_key() -> None:
    made, length = make("module", node("mine.whole", teacher=node("mine.teacher", model=LINEAR), length=LINEAR))
    assert isinstance(made, torch.nn.Linear)
    assert isinstance(length, torch.nn.Linear)
    parts, by = make("module", node("mine.several", parts=[LINEAR, LINEAR], by={"a": LINEAR}))
    assert [type(part) for part in (*parts, *by.values())] == [torch.nn.Linear] * 3


@pytest.mark.usefixtures("mine")
def test_a_function_that_is_asked_for_is_prepared_and_checked() -> None:
    rate, free = make("budget", node("mine.later", rate=node("mine.rate", high=0.5), free=node("mine.rate")))
    assert rate(3.0, 10) == 0.5
    assert isinstance(free, partial)
    assert make("a", node("mine.rate", step=1, of=2), Callable[[], float])() == 1.0
    with pytest.raises(Refused, match=r"budget\.rate\.of=2: mine\.rate has no such argument; allowed: high"):
        make("budget", node("mine.later", rate=node("mine.rate", of=2)))
    assert (
        make("budget", node("mine.later", rate=node("mine.rate", high=0.5, of_another_option=None)))[0](3.0, 10) == 0.5
    )
    with pytest.raises(Refused, match=r"^budget\.rate=0\.5: must be a node with a _target_$"):
        make("budget", node("mine.later", rate=0.5))


@pytest.mark.usefixtures("mine")
def test_a_node_may_say_that_it_is_prepared_or_called() -> None:
    made, _ = make("module", node("mine.whole", teacher=node("mine.rate", _partial_=True)))
    assert made(1, 2) == 1.0
    with pytest.raises(Refused, match=r"^budget\.rate=1\.0: must be a node"):
        make("budget", node("mine.later", rate=node("mine.rate", _partial_=False, step=1, of=2)))


@pytest.mark.usefixtures("mine")
def test_durations_are_steps_where_the_signature_says_so() -> None:
    given = node("mine.warm", begin="2ep", at=["500it", "3ep", 7], end=None, _partial_=True)
    assert with_steps("rate", given, 10) == {**given, "begin": 20, "at": [500, 30, 7]}
    assert with_steps("rate", node("mine.plain", begin="2ep"), 10)["begin"] == "2ep"
    assert with_steps("a", node("mine.whole", teacher=[{"b": given}]), 10)["teacher"][0]["b"]["at"] == [500, 30, 7]
    with pytest.raises(Refused, match=r"^rate\.begin=null: must be a duration such as 500, 500it or 2ep$"):
        with_steps("rate", node("mine.warm", begin=None), 10)
    with pytest.raises(Refused, match=r"^rate\.at=2\.5ep: must be a duration such as 500, 500it or 2ep$"):
        with_steps("rate", node("mine.warm", at=["2.5ep"]), 10)


@pytest.mark.usefixtures("mine")
def test_a_rate_of_ones_own_reads_durations() -> None:
    rate = ["budget.learning_rate._target_=mine.warm", "+budget.learning_rate.begin=2ep"]
    cell = build(cell_configs([*TINY, *rate])[0])
    assert cell.study.recipe.budget.learning_rate.keywords == {"begin": 36}
    assert cell.study.identity["budget"]["learning_rate"]["begin"] == 36


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[0.5,0.25]", "schedule: round 1 is 0.5, no lottery.pruning.contracts.Target"),
        ("[[0.5,0.5],[0.6,0.5]]", "schedule: round 2 has density=0.6, more than 0.5 of the round before"),
        ("[[1.5,0.5]]", "schedule: round 1 has density=1.5; must lie in (0, 1]"),
        ("[[0.5,0]]", "schedule: round 1 has keep=0; must lie in (0, 1]"),
        ("[[a,0.5]]", "schedule: round 1 has density='a'; must lie in (0, 1]"),
        ("3", "schedule: must be a sequence of targets, one a round, not a int"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_schedule_of_ones_own_is_checked(targets: str, said: str) -> None:
    short = [word for word in TINY if not word.startswith("schedule")]
    own = ["~schedule.rounds", "~schedule.keep", "schedule._target_=mine.schedule"]
    with pytest.raises(Refused) as refused:
        build(cell_configs([*short, *own, f"+schedule.targets={targets}"])[0])
    assert str(refused.value) == said
    cell = build(cell_configs([*short, *own, "+schedule.targets=[[0.5,0.5],[0.5,1]]"])[0])
    assert cell.study.pruning.schedule == (Target(0.5, 0.5), Target(0.5, 1))


@pytest.mark.usefixtures("mine")
def test_a_stop_of_ones_own_is_named_with_its_code() -> None:
    ours, own = (cell_configs([*TINY, *more])[0] for more in ([], ["stop._target_=mine.Stop"]))
    assert own.study != ours.study
    Path("mine.py").write_text(f"{MINE}\n# changed\n")
    assert cell_configs([*TINY, "stop._target_=mine.Stop"])[0].study not in (own.study, ours.study)
    assert cell_configs([*TINY, "stop._target_=lottery.rounds.stopping.Stop"])[0].study == ours.study


def weighted() -> CellConfig:
    return cell_configs([*TINY, "module._target_=mine.Weighted", "~module.label_smoothing", "+module.table=table.npy"])[
        0
    ]


@pytest.mark.usefixtures("mine")
def test_a_file_that_is_named_is_what_is_in_it() -> None:
    Path("table.npy").write_bytes(b"one")
    job = weighted()
    assert job.config["files"] == {"module.table": file_digest("table.npy")}
    before = build(job).study.identity["module"]
    assert before["table"] == {"content": file_digest("table.npy")}
    job.folder.mkdir(parents=True)
    line = {"round": 0, "rounds": 0, "setting": job.digest}
    ledger.Ledger(job.folder / NAME).record(line)
    save(job)
    assert weighted().finished()
    Path("table.npy").write_bytes(b"other")
    assert weighted().study == job.study
    assert not weighted().finished()
    assert build(weighted()).study.identity["module"] != before


def save(job: CellConfig) -> None:
    files.write_whole(job.folder / CONFIG, yaml.safe_dump(dict(job.config)).encode())


@pytest.mark.usefixtures("mine")
def test_an_older_record_without_files_stays_finished() -> None:
    Path("table.npy").write_bytes(b"one")
    job = weighted()
    job.folder.mkdir(parents=True)
    ledger.Ledger(job.folder / NAME).record({"round": 0, "rounds": 0, "setting": job.digest})
    save(replace(job, config={k: v for k, v in job.config.items() if k != "files"}))
    assert job.finished()


def test_shipped_configurations_name_no_file() -> None:
    assert "files" not in cell_configs(list(TINY))[0].config


def test_the_data_of_a_sweep_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(where: str, node: Any, wanted: Any = None) -> Any:
        made.append(where)
        return make(where, node, wanted)

    monkeypatch.setattr(config, "make", counted)
    monkeypatch.setattr(config, "_read", {})
    cells = [build(job) for job in cell_configs([*TINY, "arm=imp,random_mask", "seed=0,1", "-m"])]
    assert (len(cells), made.count("data")) == (4, 1)
    assert build_recipe(cell_configs([*TINY, "data.batch_size=30"])[0].config).data.batch_size == 30
    assert made.count("data") == 2
