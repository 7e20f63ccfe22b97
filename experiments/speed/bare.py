"""The baseline: a hand-written loop with the same network, data and batch size, fused optimizer, masks applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from lottery.data.examples import Examples
from lottery.pruning.masks import Masks
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.recipes import Recipe


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=1.2e-3, fused=True)


def sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)


class Bare:
    """Training and evaluation without a framework."""

    def __init__(self, recipe: Recipe, masks: Masks, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> None:
        assert isinstance(recipe, ModuleRecipe)
        self.data, self.net = recipe.data, recipe.network()
        self.optimizer = optimizer(self.net.parameters())
        named = dict(self.net.named_parameters())
        self.weights: list[Tensor] = [named[name] for name, mask in masks.items() if not mask.all()]
        # Any, because the type stub of _foreach_mul_ expects numbers
        self.masks: Any = [mask.float() for mask in masks.values() if not mask.all()]
        self.batches, self.rng = self.draw(), torch.Generator().manual_seed(0)
        self.forward: Callable[[Tensor], Tensor] = self.net

    def draw(self) -> Iterator[tuple[Tensor, Tensor]]:
        train, size = self.data.train, self.data.batch_size
        assert isinstance(train, Examples)
        while True:
            for chosen in torch.randperm(len(train)).split(size)[: len(train) // size]:
                inputs = train.inputs.index_select(0, chosen)
                if self.data.augment:
                    inputs = self.data.augment(inputs, self.rng)
                yield self.prepared(inputs), train.targets.index_select(0, chosen)

    def prepared(self, inputs: Tensor) -> Tensor:
        return self.data.prepare(inputs) if self.data.prepare else inputs

    def train(self, steps: int) -> None:
        self.net.train()
        for _ in range(steps):
            inputs, targets = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(self.forward(inputs), targets).backward()
            self.optimizer.step()
            if self.weights:
                with torch.no_grad():
                    torch._foreach_mul_(self.weights, self.masks)

    @torch.inference_mode()
    def evaluate(self) -> None:
        self.net.eval()
        for part in (self.data.val, self.data.test):
            assert isinstance(part, Examples)
            loss = right = 0.0
            for inputs, targets in zip(part.inputs.split(2000), part.targets.split(2000), strict=True):
                outputs = self.net(self.prepared(inputs))
                loss += float(functional.cross_entropy(outputs, targets, reduction="sum"))
                right += int((outputs.argmax(1) == targets).sum())
