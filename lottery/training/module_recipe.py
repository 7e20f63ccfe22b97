"""The recipe of a study of our modules, which our own loop trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lottery.data.examples import Data
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.foundations.seeds import seeded
from lottery.pruning.batchnorm import measure_statistics, norms
from lottery.pruning.channels.masking import left
from lottery.pruning.channels.removal import Structure, structure
from lottery.pruning.channels.tracing import Run
from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks, dense
from lottery.pruning.paths import connected_paths
from lottery.training import flops, sparse
from lottery.training.evaluation import batch, evaluate
from lottery.training.hardware import trainer_for
from lottery.training.modules import Module, headline_of
from lottery.training.recipes import Recipe, Row
from lottery.training.states import State, placed, state_of


@dataclass(frozen=True)
class ModuleRecipe(Recipe):
    """What every phase of a study of our modules has in common: our loop trains them."""

    trains_smaller = True
    part = ""

    data: Data
    module: Callable[[nn.Module], Module] = field(kw_only=True)
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = field(kw_only=True)

    @cached_property
    def sample(self) -> Module:
        """A module that is not trained, for what it is made of."""
        return self.build(0)

    @property
    def net(self) -> nn.Module:
        return self.sample.net

    @cached_property
    def headline(self) -> Headline:
        return headline_of(self.sample)

    def build(self, seed: int) -> Module:
        """Builds the module; the same seed gives the same draws, those that a network keeps outside its state too."""
        with self.numerics.entered(), seeded(seed):
            return self.module(self.network())

    def loaded(self, state: State, seed: int) -> nn.Module:
        return self._module(state, seed).net

    def _module(self, state: State, seed: int) -> Module:
        module = self.build(seed)
        module.net.load_state_dict(state)
        return module

    def evidence(
        self, state: State, start: Mapping[str, Tensor], masks: Masks, init: int, order: int, rng: torch.Generator
    ) -> Evidence:
        module = self._module(state, init).eval().to(self.hardware.device)
        return self.evidence_of(module, start, masks, order, self.hardware.device, rng)

    def evidence_of(
        self, module: Module, start: Mapping[str, Tensor], masks: Masks, order: int, device: str, rng: torch.Generator
    ) -> Evidence:
        """What a criterion may look at of a module, which must be on its device and in evaluation mode."""
        return Evidence(
            net=module.net,
            # copies, because a criterion's changes in place must not reach the next round
            start=placed(start, device),
            masks={name: mask.to(device, copy=True) for name, mask in masks.items()},
            batches=ScoringBatches(self.data, order, device),
            outputs=module.batch_outputs,
            objective=module.batch_loss,
            rng=rng,
        )

    def measured(self, state: State, parts: Iterable[str], seed: int, build: int) -> Row:
        with self.numerics.entered(), seeded(seed):
            return self._evaluated(self._module(state, build), parts)

    def _evaluated(self, module: Module, parts: Iterable[str]) -> Row:
        module.to(self.hardware.device)
        module.trainer = trainer_for(self.hardware, self.numerics)
        measured = {part: evaluate(module, self._placed(part), part) for part in parts}
        found = {f"{part}_{name}": value for part, row in measured.items() for name, value in row.items()}
        return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}

    def with_statistics(self, state: State, examples: int, seed: int, build: int) -> State:
        """On examples as evaluation sees them, in order, in as few batches of equal size as evaluation would take."""
        if not norms(self.net):
            return state
        with self.numerics.entered(), seeded(seed):
            module, data = self._module(state, build).to(self.hardware.device), self._placed("train")
            wanted = min(examples, len(data.train))
            parts = -(-wanted // batch(data.shape))  # of equal size, since every batch has the same weight
            with closing(data.evaluation("train", wanted // parts)) as batches:
                measure_statistics(module.net, (inputs for inputs, _ in islice(batches, parts)))
            return state_of(module.net)

    def _placed(self, part: str) -> Data:
        """The data with one part on the device: all of it would be copied there for each state that is measured."""
        return replace(self.data, **{part: getattr(self.data, part).to(self.hardware.device)})

    def calibration(self, state: State, masks: Masks, init: int, order: int) -> Pruned:
        self._calls_its_network("compensation")
        net, device = self.loaded(state, init).eval().to(self.hardware.device), self.hardware.device
        return Pruned(net, masks, ScoringBatches(self.data, order, device), lambda net, batch: net(batch[0]))

    def _calls_its_network(self, what: str) -> None:
        if type(self.sample).forward is not Module.forward:
            raise Refused(f"{what}: runs the network itself, and {type(self.sample).__name__} has a forward of its own")

    def paths(self, masks: Masks) -> float | None:
        with closing(self.data.evaluation("train", 1)) as batches:
            inputs, _ = next(batches)
        try:
            with self.numerics.entered():
                count = connected_paths(self.net, masks, inputs)
                # a network that takes a mean away by a function, say, hides the paths of all its weights
                hidden = not count and not connected_paths(self.net, dense(masks), inputs)
                return None if hidden else count
        except Exception:  # a user's network may take no inputs of ones, or compute in 32 bits only
            return None

    @cached_property
    def example(self) -> tuple[torch.Tensor, ...]:
        with closing(self.data.evaluation("train", 2)) as batches:
            return (next(batches)[0],)

    @property
    def run(self) -> Run:
        self._calls_its_network("structure=channels")
        inputs = self.example
        return lambda net: net(*inputs)

    @property
    def forward_passes(self) -> list[tuple[Run, int]]:
        return [(self.run, len(self.example[0]))]

    def scores(self, net: nn.Module, seed: int) -> Row:
        with self.numerics.entered(), seeded(seed):
            module = self.build(seed)
            module.net = net
            found = self._evaluated(module, ("val", "test"))
        net.eval().to("cpu")
        return found

    def structure(self, masks: Masks) -> Structure:
        """With `numerics.shrink=auto`, what is left without the channels that nothing reads any more."""
        if self.numerics.shrink == "off" or all(mask.all() for mask in masks.values()):
            return {}
        return structure(self.coupling, left(self.coupling, masks))

    def sparse_weights(self, masks: Masks) -> tuple[str, ...]:
        """With `numerics.sparse=auto` none on GPUs and in mixed precision, where no gain has been measured."""
        how, measured = self.numerics.sparse, (self.numerics.precision, self.hardware.device) == ("32", "cpu")
        if how == "off" or (how == "auto" and not measured):
            return ()
        names = sparse.layers(self.net, masks, self.optimizer(self.net.parameters()), everywhere=how == "on")
        return names if how == "on" or (names and self.takes_sparse) else ()

    @cached_property
    def takes_sparse(self) -> bool:
        """Whether the network runs with sparse linear layers; one that reads their weights itself does not."""
        with self.numerics.entered(), seeded(0), closing(self.data.evaluation("train", 2)) as batches:
            module = self.build(0)
            optimizer = self.optimizer(module.net.parameters())
            try:
                sparse.try_out(module, optimizer, *next(batches), self.prunable)
            except Exception:  # a user's network may raise anything
                return False
        return True

    @cached_property
    def counted(self) -> Mapping[str, float]:
        with self.numerics.entered(), seeded(0), closing(self.data.evaluation("train", 2)) as batches:
            module, (inputs, targets) = self.build(0), next(batches)
            module.train()

            def step() -> None:
                module.loss(module(inputs), targets).backward()

            return flops.by_weight(module.net, step, self.prunable.all, len(inputs))

    @property
    def examples(self) -> int:
        return self.data.batch_size


@dataclass(frozen=True)
class ScoringBatches:
    """One epoch of training batches for criteria; every iteration yields the same ones."""

    data: Data
    order: int
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.data.to(self.device).batches(self.order, 0, self.data.steps_per_epoch)
