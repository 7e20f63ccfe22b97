"""Sensitivity: what the network is worth when one layer alone is pruned, layer by layer (Li et al. 2017, figure 2).

Layers are pruned by the study's own criterion and structure, and nothing is trained. With structures a layer's units
are its groups of weights; with `structure=channels`, its channels with all that goes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, cast

from lottery.foundations.seeds import Streams
from lottery.pruning.channelwise import channels
from lottery.pruning.contracts import Scope, Scores, Structure, Target, choose
from lottery.pruning.masks import Masks, kept
from lottery.pruning.selection import best
from lottery.rounds.prune import scored
from lottery.rounds.rewinding import as_one
from lottery.rounds.round import Round, Ticket
from lottery.rounds.search import rewinding_point
from lottery.rounds.study import Cell


@dataclass(frozen=True)
class Sensitivity:
    """The headline metric on validation data with one layer at a time pruned to each share, for the dense round.

    Other rounds have no layers here.
    """

    shares: Sequence[float] = (0.8, 0.6, 0.4, 0.2, 0.1)
    """of a layer, in falling order; a structure may keep more, as where its channels come in multiples"""
    drop: float = 0.01
    """the loss in the metric that is tolerated, 0.01 of an accuracy being one point"""

    def __post_init__(self) -> None:
        if not self.shares or any(not 0 < low < high for high, low in pairwise((1.0, *self.shares))):
            raise ValueError(f"shares={list(self.shares)}: must fall strictly, inside (0, 1)")
        if not self.drop >= 0:
            raise ValueError(f"drop={self.drop:g}: must be 0 or more")

    def __call__(self, cell: Cell, current: Round) -> dict[str, Any]:
        recipe, pruning = cell.study.recipe, cell.study.pruning
        if current.index:
            return {f"val_{recipe.headline.name}": None, "tolerated": None, "layers": [], "rates": {}}
        on = current.trained
        start = rewinding_point(cell.arm, current)
        scores = scored(recipe, pruning, on.state, on.masks, start, cell.seed, (1, 0))
        target, structure = recipe.aimed(Target(1.0, 1.0)), of_units(pruning.structure)
        metric = recipe.headline
        name, gain = f"val_{metric.name}", metric.gain
        draw = Streams(cell.seed).init

        def worth(masks: Masks) -> float | None:
            pruned = as_one(Ticket.of(on.state, masks).state, recipe.net)
            return recipe.measured(pruned, ["val"], draw, draw)[name]

        whole, sizes = worth(on.masks), units(structure, scores, on.masks, target)
        layers, least = [], {}
        for layer, size in sizes.items():
            pruned = [alone(structure, layer, share, scores, on.masks, target) for share in self.shares]
            left = [round(units(structure, scores, each, target).get(layer, 0) / size, 9) for each in pruned]
            values = [worth(each) for each in pruned]
            losses = [None if whole is None or value is None else gain(whole) - gain(value) for value in values]
            least[layer] = tolerated(left, losses, self.drop)
            points = [
                {"share": share, "kept": each, name: value}
                for share, each, value in zip(self.shares, left, values, strict=True)
            ]
            layers.append({"layer": layer, "size": size, "shares": points, "tolerated": least[layer]})
        return {
            name: whole,
            "tolerated": round(sum(sizes[each] * share for each, share in least.items()) / sum(sizes.values()), 9),
            "layers": layers,
            "rates": rates(least, sizes),
        }


def units(structure: Structure, scores: Scores, masks: Masks, target: Target) -> dict[str, int]:
    """The layers among whose units a structure lets a scope choose, with how many units live in each."""
    seen: dict[str, int] = {}

    def look(_: Scores, living: Masks, __: Target) -> Masks:
        seen.update({layer: kept({layer: mask}) for layer, mask in living.items()})
        return living

    choose(partial(structure, look), scores, masks, target)
    return {layer: size for layer, size in seen.items() if size}


def alone(structure: Structure, layer: str, share: float, scores: Scores, masks: Masks, target: Target) -> Masks:
    """The masks with the best `share` of the units that live in one layer, at least one; all others as they are."""

    def only(found: Scores, living: Masks, _: Target) -> Masks:
        count = max(1, round(share * kept({layer: living[layer]})))
        return {**living, layer: best([found[layer]], [living[layer]], count)[0]}

    scope: Scope = only
    return choose(partial(structure, scope), scores, masks, target)


def tolerated(shares: Sequence[float], losses: Sequence[float | None], drop: float) -> float:
    """The lowest share that loses no more than `drop`, as do all above it; 1 if none does. None is a lost metric.

    >>> tolerated([0.8, 0.4, 0.2, 0.1], [0.0, 0.01, 0.05, 0.01], drop=0.01)
    0.4
    """
    within = takewhile(lambda of: of[1] is not None and of[1] <= drop + 1e-9, zip(shares, losses, strict=True))
    return min((share for share, _ in within), default=1.0)


def rates(least: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """`scope.layers` of the scope `rates`: multiples of the rate, in proportion to what each layer can lose.

    Their mean over all units is 1, so that the first round keeps what the schedule asks for. Later ones keep more,
    since layers that lose nothing are more of what is left. Empty if no layer can lose anything.

    >>> rates({"first": 0.8, "second": 0.4, "out": 1.0}, {"first": 20, "second": 10, "out": 10})
    {'first': 0.8, 'second': 2.4, 'out': 0.0}
    """
    mean = sum(sizes[layer] * (1 - share) for layer, share in least.items()) / sum(sizes.values())
    return {layer: round((1 - share) / mean, 6) for layer, share in least.items()} if mean else {}


def of_units(structure: Structure) -> Structure:
    """The structure without the search for a budget, which would ask the scope twenty times for the same units."""
    return (
        partial(cast(Any, structure), budget="channels") if getattr(structure, "func", None) is channels else structure
    )
