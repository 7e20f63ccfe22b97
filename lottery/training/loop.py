"""The optimizer steps of one phase, and what happens between chunks of them.

A Lightning batch is a *chunk* of optimizer steps, because Lightning's overhead of half a millisecond a
batch is as long as a small network's step. Between chunks come evaluations at exact steps and checkpoints.
Nothing depends on where chunks end: every random draw is a function of seed and step, or saved.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from lottery.pruning.channels.removal import gathered, spread
from lottery.pruning.channels.shrinking import aliased
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks, apply_
from lottery.pruning.untouched import untouched
from lottery.training import checkpoints, kernels, ranks, sparse
from lottery.training.changes import named
from lottery.training.changing import Changing
from lottery.training.evaluation import evaluate
from lottery.training.holding import Holding
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Module
from lottery.training.phase import Diverged, Phase
from lottery.training.recipes import Row
from lottery.training.states import State, state_of

CHUNK = 100
"""The most optimizer steps in a Lightning batch: its overhead is then below 1 % of a LeNet's step."""
CHUNK_SECONDS = 1.0
"""The longest that a chunk should take, so that checkpoints and progress come often enough."""


class Keeper(Protocol):
    """Where a phase's progress is kept, so that a killed training resumes in the middle."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None: ...

    def reach(self, first: int, last: int) -> None:
        """Notes durably that the steps from `first` to `last` are being executed."""

    def pass_by(self, step: int, state: State, masks: Masks) -> None:
        """Takes the state and the masks at a step that was asked for."""


class Loop:
    """A phase in training: its optimizer, batches and rows; Lightning asks it for one chunk at a time."""

    def __init__(
        self,
        module: Module,
        recipe: ModuleRecipe,
        phase: Phase,
        keeper: Keeper | None,
        waypoints: Iterable[int],
        watch: Callable[[int, Row | None], None],
        evaluate: bool,
    ) -> None:
        self.module, self.recipe, self.phase = module, recipe, phase
        self.budget = phase.budget or recipe.budget
        self.keeper, self.waypoints, self.watch, self.evaluating = keeper, set(waypoints), watch, evaluate
        self.optimizer = recipe.optimizer(module.net.parameters())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.rows = phase.first, list[Row]()
        self.losses: list[float] = []  # one for each step since the last row
        self.seconds = CHUNK_SECONDS / 10  # of a step: a guess, until it is measured
        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def prepare(self) -> None:
        """Puts everything on the device and goes back to the last checkpoint, if there is one."""
        self._take_signals_back()
        self.scaler = getattr(self.module.trainer.precision_plugin, "scaler", None)
        across = sparse.reads_across(self.optimizer)
        masks = gathered(self.phase.masks, self.phase.structure)
        self.holding = Holding(self.module.net, masks, across, elsewhere=self.phase.sparse)
        self.changing = Changing(self.phase, self.recipe, [self.optimizer], self.holding, self._look)
        self._resume()
        self._begin_reading()
        self.saved_at = time.monotonic()
        self.module.train()

    def _take_signals_back(self) -> None:
        if ranks.share()[1] > 1:  # Lightning's handler asks the other ranks, which may wait for this one
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def _resume(self) -> None:
        """Goes back to the last checkpoint, the same on every rank."""
        if found := ranks.agree(self.keeper.load() if self.keeper else None):
            tensors, info = found
            self.step, self.rows, self.losses = info["step"], list(info["rows"]), list(info["losses"])
            self.changing.restore(tensors, info)
            checkpoints.restore(tensors, info, self.module, self.optimizer, self.scaler, self.module.device)

    @contextmanager
    def _look(self, masks: Masks, order: int, rng: torch.Generator) -> Iterator[Evidence]:
        """What a rule may look at of the network as it trains: in evaluation mode and in 32 bits, as between rounds.

        It is the network itself, since a copy would take longer. Raises ValueError if the rule changes it.
        """
        assert self.phase.changes
        module, device, whose = self.module, self.module.device, named(self.phase.changes.rule)
        compiled, module.net._compiled_call_impl = module.net._compiled_call_impl, None  # it has no second derivatives
        module.eval()
        try:
            with torch.autocast(device.type, enabled=False), untouched(module.net, whose):
                yield self.recipe.evidence_of(module, self.phase.state, masks, order, str(device), rng)
        finally:
            module.train()
            module.net._compiled_call_impl = compiled

    def _begin_reading(self) -> None:
        """Puts the data on the device, and begins with the batch of the step that comes next."""
        self.data = self.recipe.data.to(self.module.device)
        self.batches = self.data.batches(self.phase.order, self.step, self.phase.last, ranks.share())

    def close(self) -> None:
        """Closes the batches, which ends whatever reads ahead."""
        if batches := getattr(self, "batches", None):
            batches.close()
        self.module.loop = None  # a reference cycle would keep data and optimizer on the device

    def chunk_end(self, first: int) -> int:
        """Where the chunk from `first` ends: at a multiple of CHUNK, an evaluation, a waypoint or the last step."""
        chunk = min(CHUNK, max(1, round(CHUNK_SECONDS / self.seconds)))
        every = [chunk, self.budget.evaluate] if self.evaluating else [chunk]
        ends = [first - first % each + each for each in every]
        return min(*ends, self.phase.last, *(point for point in self.waypoints if point > first))

    def advance(self, first: int, last: int) -> None:
        """Takes the optimizer steps of one chunk; pruned weights stay exactly zero at each of them."""
        module, optimizer, budget = self.module, self.optimizer, self.budget
        if self.keeper:
            self.keeper.reach(first, last)
        # Lightning's own backward costs 70 us more, and is needed for several ranks and for loss scaling only
        plain = self.scaler is None and ranks.share()[1] == 1
        backward = Tensor.backward if plain else module.manual_backward
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        update = kernels.prepared(optimizer)
        losses, started = list[Tensor](), time.monotonic()
        for step in range(first, last):
            if self.changing.due(step) and losses:  # or else masks would be chosen by what is no number
                self._check(torch.stack(losses), first)
            self.changing.before(step)
            inputs, targets = next(self.batches)
            factor = budget.factor(step)
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
            for parameter in parameters:  # as optimizer.zero_grad does, in a tenth of its 30 us
                parameter.grad = None
            loss = module.loss(module(inputs), targets)
            backward(loss)
            losses.append(loss.detach())
            if self.changing.due(step):  # whose gradients a change may look at
                self._check(loss.detach()[None], step)
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)  # before anything reads gradients
            if self.changing.takes(step):
                continue
            self.holding.mask_gradients()
            if self.scaler is None:
                update()
            else:
                self.scaler.step(optimizer)
                self.scaler.update()
            self.holding.mask_weights()
        _, count = ranks.share()
        self._note((ranks.sum_(torch.stack(losses).double()) / count).cpu(), first)
        self.seconds = ranks.agree(max(1e-9, (time.monotonic() - started) / (last - first)))
        self.step = last

    def pause(self) -> None:
        """Does what is due between chunks: an evaluation, a waypoint, a checkpoint if the last one is old enough."""
        row = None
        ranks.copy_first_(self.module.net.buffers())
        due = self.step % self.budget.evaluate == 0 or self.step == self.phase.last
        if self.evaluating and due:
            row = self._measure()
            self.rows.append(row)
        if self.keeper and self.step in self.waypoints:
            self.keeper.pass_by(self.step, *self.result())
        if ranks.agree(time.monotonic() - self.saved_at >= self.recipe.hardware.checkpoint_seconds):
            tensors, info = checkpoints.taken(self.module, self.optimizer, self.scaler, self.module.device)
            masks, changed = self.changing.taken()
            if self.keeper:
                info |= {**changed, "step": self.step, "rows": self.rows, "losses": self.losses}
                self.keeper.save({**tensors, **masks}, info)
            self.saved_at = time.monotonic()
        self.watch(self.step, row)

    def result(self) -> tuple[State, Masks]:
        """State and masks at this step, in the dense shapes: removed channels are as they began."""
        phase, state = self.phase, state_of(self.module.net)
        if not phase.structure:
            return state, self.holding.masks
        state = spread(state, phase.state, aliased(phase.structure, self.module.net))
        apply_(state, phase.masks)
        return state, phase.masks

    def _note(self, losses: Tensor, first: int) -> None:
        self._check(losses, first)
        if self.evaluating:
            self.losses += losses.tolist()

    def _check(self, losses: Tensor, first: int) -> None:
        if not losses.isfinite().all():
            step = first + int(losses.isfinite().logical_not().nonzero()[0, 0])
            rate = self.rates[0] * self.budget.factor(step)
            raise Diverged(f"the loss became {float(losses[step - first])} at step {step}, learning rate {rate:g}")

    def _measure(self) -> Row:
        row: Row = {"step": self.step, "train_loss": math.fsum(self.losses) / len(self.losses)}
        row |= {"learning_rate": self.rates[0] * self.budget.factor(self.step - 1), "gradient_norm": self._gradient()}
        self.losses.clear()
        for part in ("val", "test"):
            measured = evaluate(self.module, self.data, part)
            if not math.isfinite(measured["loss"]):
                rate = self.rates[0] * self.budget.factor(self.step - 1)
                raise Diverged(
                    f"the {part} loss is {measured['loss']} after step {self.step - 1}, learning rate {rate:g}"
                )
            row |= {f"{part}_{name}": value for name, value in measured.items()}
        return row

    def _gradient(self) -> float | None:
        """The L2 norm of the kept weights' gradients in the last step, as clipped; None if it is not finite."""
        gradients = self.holding.kept_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
        norm = float(get_total_norm(gradients))
        return norm if math.isfinite(norm) else None
