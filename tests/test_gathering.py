"""Cells of several studies in one results file: names of methods, learning rates chosen, what can't be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments import gathering
from experiments.large_sparse.gather import widths
from experiments.liu_2019.gather import method as slimming
from experiments.molchanov_2016.gather import by_flops
from experiments.molchanov_2016.gather import criterion as ranking
from experiments.pruning_at_init.gather import method as mask
from experiments.sparse_training.gather import chosen, of_lenet, of_mlp
from experiments.warmup.gather import method as rate


def called(name: str, **more: Any) -> dict[str, Any]:
    return {"_target_": f"somewhere.{name}", **more}


@pytest.mark.parametrize(
    ("criterion", "label", "name"),
    [
        (called("snip"), "at_init", "snip"),
        (called("synflow"), "at_init_stepwise", "synflow"),
        (called("magnitude"), "one_shot", "magnitude_after"),
        (called("magnitude"), "random_mask,parent=one_shot", "magnitude_after,shuffled"),
        (called("synflow"), "random_reinit,parent=at_init_stepwise", "synflow,reinit"),
        (called("corrupted", of=called("grasp"), data="half"), "at_init", "grasp,half"),
    ],
)
def test_masks_are_named_by_criterion_and_by_what_was_done_to_them(criterion: dict, label: str, name: str) -> None:
    assert mask({"criterion": criterion}, label) == name


def test_arms_of_the_two_networks_of_sparse_training_are_told_apart() -> None:
    lenet, mlp = ({"model": called(name), "arm": {}, "optimizer": {"lr": 0.03}} for name in ("lenet_300_100", "mlp"))
    assert (of_lenet(lenet, "at_init"), of_lenet(mlp, "at_init")) == ("static", None)
    assert (
        of_lenet({**lenet, "arm": {"length": called("same_flops")}}, "set,length._partial_=true") == "set,equal_flops"
    )
    assert (of_mlp(lenet, "set"), of_mlp(mlp, "set,during.end=1999it")) == (None, "set@0.03")


def test_each_arm_has_the_rate_that_is_best_on_validation_data_not_on_the_test() -> None:
    cells = [("static@0.1", 1, 0.8, 0.7), ("static@0.01", 1, 0.6, 0.9), ("static@0.1", 0, 0.5, 0.5),
             ("static@0.01", 0, 0.9, 0.8), ("set@0.01", 0, 0.9, 0.8), ("set@0.01", 1, 0.7, 0.6)]  # fmt: skip
    frame = pd.DataFrame(cells, columns=["arm", "round", "val_accuracy", "test_accuracy"]).assign(seed=0)
    best, rates = chosen(frame)
    assert best[["arm", "rate", "test_accuracy"]].to_numpy().tolist() == [
        ["dense", 0.01, 0.8],
        ["set", 0.01, 0.6],
        ["static", 0.1, 0.7],
    ]
    assert len(rates) == 5
    assert rates[rates["chosen"]][["arm", "rate"]].to_numpy().tolist() == [
        ["dense", 0.01],
        ["set", 0.01],
        ["static", 0.1],
    ]


def test_a_rate_at_which_a_seed_diverged_is_no_choice() -> None:
    cells = [("set@0.1", 0, 0.9), ("set@0.01", 0, 0.7), ("set@0.01", 1, 0.7)]
    frame = pd.DataFrame(cells, columns=["arm", "seed", "val_accuracy"]).assign(round=1, test_accuracy=0.5)
    best, rates = chosen(frame)
    assert best["rate"].tolist() == [0.01, 0.01]
    assert rates["n"].tolist() == [2, 1]


def test_networks_are_named_by_their_widths() -> None:
    models = {"widths": [300, 100]}, {"width": 500}
    assert [widths({"model": model}, "gradual") for model in models] == ["300-100", "500"]


@pytest.mark.parametrize(
    ("lr", "warmup", "arm", "file", "name"),
    [
        (0.1, 0, "imp", None, "high_masks,high"),
        (0.1, 100, "imp", None, "warm_masks,warm"),
        (0.01, 0, "random_reinit", None, "reinit,low"),
        (0.01, 0, "ticket,file=high_seed~7d649750", "found/warmup/high_0.safetensors", "high_masks,low"),
        (0.1, 0, "ticket,file=high_seed~7d649750", "found/warmup/high_0.safetensors", None),
    ],
)
def test_masks_and_rates(lr: float, warmup: int, arm: str, file: str | None, name: str | None) -> None:
    config = {"optimizer": {"lr": lr}, "budget": {"warmup": warmup}, "arm": {"file": file} if file else {}}
    assert rate(config, arm) == name


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cells with ledgers that stand for the ones of a run."""
    for name in ("one", "two"):
        folder = tmp_path / name / "imp" / "seed0"
        folder.mkdir(parents=True)
        (folder / "ledger.jsonl").write_text("")
    (tmp_path / "diverged" / "imp" / "seed0").mkdir(parents=True)
    monkeypatch.setattr(gathering, "recorded", lambda cell: {"study": cell.parent.parent.name})
    row = {"study": "x", "arm": "imp", "seed": 0, "round": 0, "run/ledger": "there"}
    monkeypatch.setattr(gathering, "read", lambda cell: pd.DataFrame([row]))
    return tmp_path


def test_cells_are_put_together_under_their_methods_names(cells: Path) -> None:
    frame = gathering.gathered([cells], lambda config, label: f"{config['study']},{label}", "both")
    assert frame[["study", "arm"]].to_numpy().tolist() == [["both", "one,imp"], ["both", "two,imp"]]
    gathering.written(frame, cells / "into" / "both.csv")
    assert (cells / "into" / "both.csv").read_text().splitlines()[0] == "study,arm,seed,round"


@pytest.mark.parametrize(
    ("named", "said"), [(lambda *_: "imp", "are both imp; give"), (lambda *_: None, "no cell of both under")]
)
def test_two_cells_of_one_name_are_refused_and_none_at_all(cells: Path, named: gathering.Named, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        gathering.gathered([cells], named, "both")


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        (called("taylor_features", flops=0), "taylor_features"),
        (called("taylor_features", flops=2), "taylor_features_flops"),
        (called("normalised", of=called("magnitude")), "magnitude"),
        (called("normalised", of=called("activation_statistics", mean=1)), "mean_activation"),
        (called("oracle"), "oracle"),
    ],
)
def test_rankings_of_maps_are_named_by_the_criterion_that_is_normalised(criterion: dict, name: str) -> None:
    cell = {"model": called("vgg"), "criterion": criterion}
    assert (ranking("vgg", cell, "finetune"), ranking("resnet", cell, "finetune")) == (name, None)


def test_maps_are_compared_at_the_flops_that_were_asked_for() -> None:
    frame = pd.DataFrame(
        {"round": [0, 1, 4], "density": [1, 0.7, 0.1], "train_flops": [8, 6, 1.5], "train_flops_dense": 8.0}
    ).assign(**{"density/conv.weight": 1.0})
    found = by_flops(frame)
    assert found["density"].tolist() == [1, 0.8, 0.2]
    assert found["flops"].tolist() == [1, 0.75, 0.1875]
    assert found["weights"].tolist() == [1, 0.7, 0.1]
    assert "density/conv.weight" not in found


def test_slimming_and_l1_norms_of_a_vgg_have_the_name_of_the_arm_behind_theirs() -> None:
    cell = {"model": called("vgg"), "criterion": called("batch_norm_scale")}
    assert slimming(cell, "scratch_b") == "slimming_scratch_b"
    assert slimming({**cell, "criterion": called("magnitude")}, "finetune_parent,x=1") == "l1_finetune_parent"
    assert slimming({**cell, "model": called("resnet")}, "imp") is None
    assert slimming({**cell, "criterion": called("snip")}, "imp") is None


def test_files_of_studies_that_were_not_run_are_named_and_others_written(capsys: pytest.CaptureFixture[str]) -> None:
    written = []

    def lacks() -> None:
        raise gathering.NoCells("no cell of it")

    gathering.whichever({"one": lacks, "two": lambda: written.append("two")})
    assert written == ["two"]
    assert capsys.readouterr().out == "not written: one; no cell of it\n"
    with pytest.raises(SystemExit, match="no cell of it"):
        gathering.whichever({"one": lacks, "two": lacks})
