"""Predefined channel pruning (Liu et al. 2019): `python -m experiments.liu_2019.channels`.

The pruned architecture is ResNet-8 with a part of its channels. Fine-tuning begins with the filters of the trained wide
network that have the largest L1 norms (Li et al. 2017), Scratch-E and Scratch-B with fresh weights. If several
convolutions write to the same residual stream, their norms are added, since a channel must be removed from all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

import lottery
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.pruning import masks
from lottery.running.launch import run_cell

WIDE, PARTS, SEEDS = 0.5, {"channels_70": 0.7, "channels_50": 0.5}, (0, 1, 2)
NETWORK = ("depth", "width", "shape", "classes")
RECIPE = ("experiment=liu2019_resnet8", "hydra.mode=RUN", "arm=imp", "optimizer.lr=0.1", "tracking.mode=disabled")


def main(*more: str) -> None:
    """Writes channels_*.csv into `out`, training what the store lacks; `more` are overrides such as out=DIR."""
    out = Path(job(*RECIPE, *more).config["out"])
    for name, part in PARTS.items():
        frames = [frame for seed in SEEDS for frame in arms(seed, part, more)]
        together = pd.concat(frames).assign(study=f"liu2019_{name}", setting="")
        together = together.drop(columns=[column for column in together if str(column).startswith("run/")])
        together.to_csv(out / f"{name}.csv", index=False)
        print(f"wrote {out / f'{name}.csv'}", flush=True)


def arms(seed: int, part: float, more: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    """The results of each arm with one seed, one row each."""
    common = (*RECIPE, f"seed={seed}", *more)
    wide = job(*common, "schedule.densities=[]")
    run_cell(wide)
    before = lottery.read(wide.folder).iloc[0]
    thin = f"model.width={WIDE * part:g}"
    scratch = job(*common, thin, "schedule.densities=[]")
    share = cost(scratch) / cost(wide)
    steps = scratch.config["budget"]["steps"]
    longer = job(*common, thin, "schedule.densities=[]", f"budget.steps={round(steps / share)}")
    found = wide.folder / f"filters_{part:g}.safetensors"
    start = narrowed(lottery.load(wide.folder, 0)[0], build(scratch).study.recipe.network())
    safetensors.torch.save_file(start, found)
    tuned = job(
        *common, "schedule.densities=[]", f"budget.steps={max(1, steps // 4)}", "optimizer.lr=0.001",
        "budget.learning_rate._target_=lottery.training.learning_rates.constant", "~budget.learning_rate.milestones",
        "model._target_=lottery.models.pretrained.pretrained", *(f"~model.{key}" for key in NETWORK),
        f"+model.net={{_target_:lottery.models.resnet.resnet,depth:8,width:{WIDE * part:g},"
        "shape:${data.shape},classes:${data.classes}}", f"+model.weights='{found}'",
    )  # fmt: skip
    for arm, one in {"scratch_e": scratch, "scratch_b": longer, "finetune": tuned}.items():
        run_cell(one)
        frame = lottery.read(one.folder).assign(arm=arm)
        if one is tuned:  # it needs the training of the wide network first
            for column in ("total_flops", "total_flops_dense"):
                frame[column] += before[column]
        yield frame


def job(*overrides: str) -> CellConfig:
    [one] = cell_configs(list(overrides))
    return one


def cost(one: CellConfig) -> float:
    recipe = build(one).study.recipe
    return recipe.flops(masks.dense(masks.prunable(recipe.net))).dense


def narrowed(wide: nn.Module, thin: nn.Module) -> dict[str, Tensor]:
    """The state of a narrow CIFAR ResNet: the wide one's channels with the largest L1 norms, order kept."""
    full, like = wide.state_dict(), thin.state_dict()
    streams = streams_of(full)
    state = {}
    for name, tensor in full.items():
        for axis, channels in enumerate(streams[name]):
            if channels and tensor.ndim > axis:
                count = like[name].shape[axis]
                tensor = tensor.index_select(axis, strongest(full, channels, count))
        state[name] = tensor.contiguous()
    return state


def streams_of(state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The convolutions that write each tensor's output channels, and those that write its input channels."""
    stages: dict[str, list[str]] = {"stage1": ["conv.weight"]}
    for name in state:
        stage = name.partition(".")[0]
        if stage.startswith("stage") and name.endswith(("conv2.weight", "shortcut.0.weight")):
            stages.setdefault(stage, []).append(name)
    order, found = sorted(stages), {}
    for name in state:
        stage, _, rest = name.partition(".")
        if stage in stages:
            block = int(rest.partition(".")[0])
            own, inner = tuple(stages[stage]), (f"{stage}.{block}.conv1.weight",)
            first = block == 0 and stage != "stage1"
            before = tuple(stages[order[order.index(stage) - 1]]) if first else own
            part = rest.split(".")[1]
            out = inner if part in ("conv1", "bn1") else own
            found[name] = (out, inner if part == "conv2" else before)
        elif stage == "output":
            found[name] = ((), tuple(stages[order[-1]]))
        else:  # the first convolution and its BatchNorm
            found[name] = (tuple(stages["stage1"]), ())
    return found


def strongest(state: Mapping[str, Tensor], writers: tuple[str, ...], count: int) -> Tensor:
    """Indices of the channels whose filters have the largest L1 norms, in ascending order."""
    norms = torch.stack([state[name].abs().flatten(1).sum(1) for name in writers]).sum(0)
    return norms.topk(count).indices.sort().values


if __name__ == "__main__":
    main(*sys.argv[1:])
