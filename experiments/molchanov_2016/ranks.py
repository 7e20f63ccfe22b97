"""How well criteria rank channels, by an oracle: `python -m experiments.molchanov_2016.ranks RUNS --into FILE`.

RUNS are folders of runs, whose dense networks (round 0 of one arm each seed) are looked at. The oracle is the absolute
change of the loss when one channel is removed, with all that is coupled to it. Criteria and the oracle see the same
training batches. A channel's score is what `structure=channels` takes for it: the mean over the weights that make it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import lottery
from experiments.compensation.curves import dense, network
from experiments.gathering import written
from lottery.compress.smaller import Trained
from lottery.foundations.seeds import Streams, drawing
from lottery.pruning import criteria
from lottery.pruning.channels.carried import CONSUMES
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channelwise import pooled
from lottery.pruning.contracts import Criterion, Evidence, score
from lottery.training.module_recipe import ModuleRecipe

BATCHES = 5
CRITERIA: Mapping[str, Criterion] = {
    "taylor_features": partial(criteria.taylor_features, batches=BATCHES, normalised=False),
    "magnitude": criteria.magnitude,
    "mean_activation": partial(criteria.activation_statistics, batches=BATCHES, mean=1.0, deviation=1e9),
    "variance": partial(criteria.variance, batches=BATCHES),
    "apoz": partial(criteria.apoz, batches=BATCHES),
    "batch_norm_scale": partial(criteria.batch_norm_scale, batches=BATCHES),
    "random": criteria.random,
}
"""by name, as they are; each is looked at divided by its 2-norm in each layer, too"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.molchanov_2016.ranks")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with dense networks")
    parser.add_argument("--into", required=True, type=Path, help="the results file to write")
    asked = parser.parse_args()
    frames = []
    for cell in dense(asked.runs):
        first = lottery.read(cell).iloc[[0]]
        for name, found in correlations(network(cell)):
            columns = {f"spearman/{what}": value for what, value in found.items()}
            frames.append(first.assign(arm=name, rounds=0, setting="", **columns))
        print(f"ranked the channels of {cell}", flush=True)
    frame = pd.concat(frames).assign(study=f"molchanov_2016_{asked.into.stem}").sort_values(["arm", "seed"])
    written(frame[[column for column in frame if not str(column).startswith("density/")]], asked.into)


def correlations(trained: Trained) -> Iterator[tuple[str, dict[str, float]]]:
    """The rank correlations of each criterion with the oracle, on a dense network."""
    recipe, streams = trained.recipe, Streams(trained.seed)
    assert isinstance(recipe, ModuleRecipe)
    coupling = recipe.coupling
    with recipe.numerics.entered(), drawing(streams.score(1, 0)) as rng:
        evidence = recipe.evidence(trained.state, trained.start, trained.masks, streams.init, streams.scoring(1), rng)
        batches = list(evidence.first(BATCHES))

        def loss() -> float:
            return float(torch.stack([evidence.loss(batch) for batch in batches]).double().mean())

        changes = oracle(evidence.net, coupling, loss)
        for name, criterion in CRITERIA.items():
            yield f"{name}_raw", compared(channels_of(criterion, evidence, coupling), changes)
            yield name, compared(channels_of(partial(criteria.normalised, of=criterion), evidence, coupling), changes)


def channels_of(criterion: Criterion, evidence: Evidence, coupling: Coupling) -> dict[str, Tensor]:
    """A criterion's score of each channel, by group."""
    scores = score(criterion, evidence)
    return {group.name: pooled(group, scores, evidence.masks, "mean") for group in coupling.groups}


@torch.no_grad()
def oracle(net: nn.Module, coupling: Coupling, loss: Callable[[], float]) -> dict[str, Tensor]:
    """|Change of the loss| when a channel is removed, for each channel of each group; the network is left as it was.

    A channel is removed by what reads it: columns of zeros, whatever it computes.
    """
    whole, tensors = loss(), dict(net.named_parameters())
    found = {}
    for group in coupling.groups:
        readers = [(tensors[member.name], member) for member in group.of(CONSUMES)]
        before = [tensor.clone() for tensor, _ in readers]
        changes = []
        for channel in range(group.size):
            for tensor, member in readers:
                tensor.index_fill_(member.axis, member.positions[channel].flatten().to(tensor.device), 0)
            changes.append(abs(loss() - whole))
            for (tensor, _), own in zip(readers, before, strict=True):
                tensor.copy_(own)
        found[group.name] = torch.tensor(changes, dtype=torch.float64)
    return found


def compared(scores: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, float]:
    """Spearman's correlation with the oracle: the mean of those in each group, and over all channels together."""
    within = [spearman(scores[name], each) for name, each in changes.items()]
    return {"each_layer": sum(within) / len(within), "all_layers": spearman(_together(scores), _together(changes))}


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks. 0 if all values of one are equal.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 40.0, 20.0, 80.0]))
    0.8
    """
    ranks = [torch.tensor(pd.Series(values.numpy()).rank().to_numpy()) for values in (first, second)]
    one, other = (each - each.mean() for each in ranks)
    lengths = float(one.norm() * other.norm())
    return round(float(one @ other) / lengths, 12) if lengths else 0.0


def _together(found: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([found[name] for name in sorted(found)])


if __name__ == "__main__":
    main()
