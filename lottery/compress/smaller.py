"""Smaller networks of a trained one: channels go, survivors make up for them and, if asked, train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from lottery.foundations.seeds import Streams, seeded
from lottery.pruning import masks as _masks
from lottery.pruning.channels.equality import without
from lottery.pruning.channels.masking import alive, left
from lottery.pruning.channels.removal import Kept, Structure, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.contracts import Target
from lottery.pruning.masks import Masks
from lottery.rounds.prune import Pruning, prune
from lottery.rounds.rewinding import as_one
from lottery.rounds.round import Ticket
from lottery.rounds.survivors import survivors
from lottery.training.fit import fit
from lottery.training.phase import Phase
from lottery.training.recipes import Budget, Recipe
from lottery.training.states import State, weights


@dataclass(frozen=True)
class Smaller:
    """A network without some channels, and the masked one that computes the same."""

    net: nn.Module
    masked: nn.Module
    structure: Structure
    """the positions kept of each parameter and buffer: what `shrunk` makes the network's definition into"""


@dataclass(frozen=True)
class Trained:
    """A trained network of a recipe, to be made smaller."""

    recipe: Recipe
    state: State
    masks: Masks
    """what it keeps of its weights already"""
    start: Mapping[str, Tensor]
    """the rewinding point of its training, for criteria that compare; `Later` where it has to be looked for"""
    seed: int

    @cached_property
    def dense(self) -> Masks:
        return _masks.dense(self.recipe.prunable(self.recipe.net))

    def part(self, net: nn.Module) -> nn.Module:
        """What runs on the example: a network of ours itself, what a LightningModule's steps call of it."""
        return net.get_submodule(self.recipe.part)

    def written(self, small: Smaller) -> dict[str, Any]:
        """The structure of that part of a smaller network, by its own names, as plain data."""
        net, part = small.net, self.part(small.net)
        whole = {id(tensor): name for name, tensor in (*net.named_parameters(), *net.named_buffers())}
        names = {name: whole[id(tensor)] for name, tensor in (*part.named_parameters(), *part.named_buffers())}
        return {
            name: {str(axis): list(kept) for axis, kept in small.structure[first].items()}
            for name, first in names.items()
            if first in small.structure
        }

    def network(self, state: State, masks: Masks) -> nn.Module:
        net = self.recipe.loaded(as_one(state, self.recipe.net), Streams(self.seed).init)
        _masks.apply_(dict(net.named_parameters()), masks)
        return net.eval()

    def untrained(self, kept: Kept) -> nn.Module:
        """The network without other channels, as it was built: of the same size and speed as a trained one."""
        with self.recipe.numerics.entered(), seeded(Streams(self.seed).init):
            return shrunk(self.recipe.net, structure(self.recipe.coupling, kept)).eval()

    def cut(self, masks: Masks) -> nn.Module:
        """The trained network without the channels that masks leave dead, its survivors as they are; unproven."""
        coupling = self.recipe.coupling
        return shrunk(self.network(self.state, masks), structure(coupling, left(coupling, masks)))

    def chosen(self, pruning: Pruning, density: float) -> Masks:
        """Masks at a density of the prunable weights, never more than are kept already.

        Raises Refused if the density can't be reached.
        """
        target = Target(density, min(1.0, density / _masks.density(self.masks)))
        return prune(self.recipe, pruning, self.state, self.masks, self.start, target, self.seed, (1, 0))

    def smaller(self, pruning: Pruning, masks: Masks, tune: Budget | None = None) -> Smaller:
        """The network without the channels that masks leave dead, trained on for the budget `tune`.

        Raises Refused if they can't be removed.
        """
        recipe, streams = self.recipe, Streams(self.seed)
        kept = left(recipe.coupling, masks)
        sizes = structure(recipe.coupling, kept)
        state = weights(Ticket.of(survivors(recipe, pruning, self.state, masks, self.seed, 1), masks).state)
        if tune:
            phase = Phase(
                as_one(state, recipe.net), masks, 0, tune.steps, order=streams.order(1, 0), noise=streams.noise(1, 0),
                build=streams.init, budget=tune, structure=sizes if recipe.trains_smaller else {},
            )  # fmt: skip
            state = fit(recipe, phase, evaluate=False).state
        masked = self.network(state, masks)
        with recipe.numerics.entered(), seeded(streams.init):
            small = without(masked, recipe.coupling, kept, self.dense, recipe.run)
        return Smaller(small.eval(), masked, sizes)

    def scores(self, net: nn.Module) -> Mapping[str, float | None]:
        """Loss and metrics of a network on validation and test data, by name after `val_` and `test_`."""
        return self.recipe.scores(net, Streams(self.seed).init)


def going(trained: Trained, masks: Masks) -> list[list[str]]:
    """Under a header, the groups of channels: how many of how many each keeps, and all that goes with one."""
    rows = [["channels of", "kept", "of", "what goes with one: a position of parameter[dimension]"]]
    lives = alive(trained.recipe.coupling, masks)
    for group in trained.recipe.coupling.groups:
        members = ", ".join(dict.fromkeys(f"{member.name}[{member.axis}]" for member in group.members))
        rows.append([group.name, str(len(lives[group.name])), str(group.size), members])
    return rows
