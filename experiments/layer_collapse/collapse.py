"""At which compression a layer of VGG-16 dies (Tanaka et al. 2020): `python -m experiments.layer_collapse.collapse`.

Nothing is trained: the network at initialisation is scored, pruned with one ranking of all weights, and looked at. With
`--steps` above 1 it is scored again after each of as many exponential steps, as SynFlow is. Criteria that look at data
get a batch of `--data`: `noise`, which are no pictures, or a data set of 32x32 pictures with up to 100 classes, whose
gray becomes three equal colours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.config.build import build_recipe
from lottery.config.compose import cell_configs
from lottery.config.nodes import make
from lottery.config.options import options_of
from lottery.foundations.seeds import seeded
from lottery.models.vgg import vgg
from lottery.pruning.batchnorm import norms
from lottery.pruning.contracts import Criterion, Evidence, Scope, Scores, Target, choose, score
from lottery.pruning.masks import Masks, apply_, dense, kept, prunable
from lottery.pruning.paths import connected_paths, layer_death
from lottery.pruning.scopes import everywhere
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.states import copied, state_of

SHAPE, CLASSES, BATCH = (3, 32, 32), 100, 256
GRID = tuple(quarter / 4 for quarter in range(26))
"""log10 of the compressions that are looked at"""
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """What a network is after pruning at one compression."""

    criterion: str
    steps: int
    draw: int
    compression: float
    """log10 of all prunable weights over those kept"""
    kept: int
    dead: int
    """layers that keep no weight"""
    paths: float
    """paths from input to output"""


def main(words: Sequence[str]) -> None:
    """Prints the last compressions with all layers alive and with a path, and writes every row to `--out`."""
    parser = argparse.ArgumentParser(prog="python -m experiments.layer_collapse.collapse")
    parser.add_argument("criteria", nargs="*", default=["magnitude", "random"], help="names as in `lottery list`")
    parser.add_argument("--steps", type=int, default=1, help="exponential steps, each with scores of its own")
    parser.add_argument("--draws", type=int, default=3, help="initialisations")
    parser.add_argument("--first", type=float, default=0.0, help="the log10 compression to begin with")
    parser.add_argument(
        "--data",
        nargs="+",
        default=["noise"],
        metavar="NAME",
        help="a data set and its settings; noise are no pictures",
    )
    parser.add_argument("--out", type=Path, help="a CSV file of all rows")
    args = parser.parse_args(words)
    batches = batches_of(args.data)
    rows = [
        row
        for name in args.criteria
        for draw in range(args.draws)
        for row in collapse(name, args.steps, draw, batches, [each for each in GRID if each >= args.first])
    ]
    frame = pd.DataFrame(rows)
    if args.out:
        frame.to_csv(args.out, index=False)
    print(f"data: {' '.join(args.data)}\n")
    print("| criterion | steps | draws | all layers keep a weight up to | a path is left up to |")
    print("|---|---|---|---|---|")
    for (name, steps), of in frame.groupby(["criterion", "steps"], sort=False):
        layers, paths = last(of[of["dead"] == 0]), last(of[of["paths"] > 0])
        print(f"| {name} | {steps} | {of['draw'].nunique()} | {layers} | {paths} |")


def last(rows: pd.DataFrame) -> str:
    """The highest compression of each draw, as their mean."""
    if rows.empty:
        return "none looked at"
    highest = rows.groupby("draw")["compression"].max()
    return f"{highest.mean():.2f} ({', '.join(f'{each:g}' for each in highest)})"


def collapse(
    name: str, steps: int, draw: int, batches: list[Batch], grid: Sequence[float], scope: Scope = everywhere
) -> Iterator[Row]:
    """Rises in compression until a layer is dead and no path is left."""
    criterion: Criterion = make("criterion", options_of(())("criterion", name))
    with seeded(draw):
        net = vgg(16, SHAPE, CLASSES).eval()
        for norm in norms(net):  # as if trained, since the authors score all criteria in evaluation mode
            norm.num_batches_tracked = torch.tensor(1)
    start = copied(state_of(net))
    every = dense(prunable(net))
    rng = torch.Generator().manual_seed(draw)  # goes on from step to step, or random scores would stay the same
    first = scored(criterion, net, start, every, batches, rng)
    for compression in grid:
        masks, density = every, 10**-compression
        for step in range(1, steps + 1):
            net.load_state_dict(start)
            apply_(prunable(net), masks)
            scores = first if step == 1 else scored(criterion, net, start, masks, batches, rng)
            masks = choose(scope, scores, masks, Target(density ** (step / steps), density ** (1 / steps)))
        row = Row(name, steps, draw, compression, kept(masks), len(layer_death(masks)), paths(net, masks))
        yield row
        if row.dead and not row.paths:
            return


def scored(
    criterion: Criterion,
    net: nn.Module,
    start: dict[str, Tensor],
    masks: Masks,
    batches: list[Batch],
    rng: torch.Generator,
) -> Scores:

    def outputs(batch: Batch) -> Tensor:
        found: Tensor = net(batch[0])
        return found

    return score(
        criterion,
        Evidence(
            net, start, masks, batches, outputs, lambda batch: functional.cross_entropy(net(batch[0]), batch[1]), rng
        ),
    )


def paths(net: nn.Module, masks: Masks) -> float:
    return connected_paths(net, masks, torch.zeros(1, *SHAPE))


def batches_of(data: Sequence[str]) -> list[Batch]:
    """One batch of a data set in three colours, or of noise with labels at random, which has nothing to learn."""
    if list(data) == ["noise"]:
        rng = torch.Generator().manual_seed(0)
        return [(torch.randn(BATCH, *SHAPE, generator=rng), torch.randint(CLASSES, (BATCH,), generator=rng))]
    [job] = cell_configs(["model=vgg_16", f"data={data[0]}", *data[1:], f"data.batch_size={BATCH}"])
    recipe = build_recipe(job.config)
    assert isinstance(recipe, ModuleRecipe)
    pictures, labels = next(recipe.data.batches(0, 0, 1, (0, 1)))
    return [(pictures.expand(-1, *SHAPE), labels)]


if __name__ == "__main__":
    main(sys.argv[1:])
