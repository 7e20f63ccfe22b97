"""Training of one phase: from a state, under masks, from one step to another, with Lightning.

A Lightning batch is a *chunk* of optimizer steps, because Lightning's own work of half a millisecond a
batch is as long as a small network's step. Between chunks come evaluations at exact steps and checkpoints.
Nothing depends on where chunks end: every random draw is a function of seed and step, or saved.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from lottery import masks as _masks
from lottery.data.examples import Examples
from lottery.hardware import trainer_for
from lottery.modules import Module
from lottery.recipes import Phase, Recipe, Row, Trained
from lottery.rewinding import State, state_of

CHUNK = 100  # optimizer steps in a Lightning batch at the most: its overhead is then below 1 % of a LeNet's step
CHUNK_SECONDS = 1.0  # and no more than fit into this time, so that checkpoints and progress come often enough
EVALUATION_BATCH = 2000

ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
"""Optimizers that move each weight by its own gradient alone: for all others the gradients of pruned weights are
set to zero before they are read, so that no norm or sum counts weights that are not there."""


class Diverged(Exception):
    """The loss became NaN or infinite."""


class Keeper(Protocol):
    """Where a phase's progress is kept, so that a killed training goes on in the middle."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None: ...

    def reach(self, first: int, last: int) -> None:
        """Notes durably that the steps from `first` to `last` are being executed."""

    def pass_by(self, step: int, state: State) -> None:
        """Takes the state at a step that was asked for."""


def fit(
    recipe: Recipe,
    phase: Phase,
    keeper: Keeper | None = None,
    waypoints: Iterable[int] = (),
    watch: Callable[[int, Row | None], None] = lambda step, row: None,
    evaluate: bool = True,
) -> Trained:
    """Trains a phase, from its last checkpoint if the keeper has one.

    `waypoints` are steps whose state the keeper is given in passing; `watch` hears of each chunk's end,
    with the row measured there if there is one. Raises Diverged when the loss is no longer finite.
    """
    with torch.random.fork_rng():
        torch.manual_seed(phase.build)
        module = recipe.module(recipe.network())
        module.net.load_state_dict(phase.state)
        torch.manual_seed(phase.noise)
        loop = module.loop = Loop(module, recipe, phase, keeper, waypoints, watch, evaluate)
        trainer = trainer_for(recipe.hardware, recipe.numerics)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 under PyTorch 2.14
            try:
                trainer.fit(module, train_dataloaders=Chunks(loop))
            except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM: exit codes 1 and 0, no word
                raise (
                    stop.__context__ if isinstance(stop.__context__, KeyboardInterrupt) else KeyboardInterrupt
                ) from None
        if trainer.interrupted or loop.step < phase.last:
            raise KeyboardInterrupt
    return Trained(state_of(module.net), loop.rows)


class Chunks:
    """The loader that Lightning sees: (first, last) of each chunk still to run."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.loop.prepare()
        first = self.loop.step
        while first < self.loop.phase.last:  # Lightning asks for a chunk while the one before still runs
            last = self.loop.chunk_end(first)
            yield first, last
            first = last


class Loop:
    """The optimizer steps of one phase, and what happens between chunks of them."""

    def __init__(
        self,
        module: Module,
        recipe: Recipe,
        phase: Phase,
        keeper: Keeper | None,
        waypoints: Iterable[int],
        watch: Callable[[int, Row | None], None],
        evaluate: bool,
    ) -> None:
        self.module, self.recipe, self.phase = module, recipe, phase
        self.keeper, self.waypoints, self.watch, self.evaluating = keeper, set(waypoints), watch, evaluate
        self.optimizer = recipe.optimizer(module.net.parameters())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.rows = phase.first, list[Row]()
        self.losses: list[float] = []  # of each step since the last row
        self.seconds = CHUNK_SECONDS / 10  # that a step takes, until it is measured

    def prepare(self) -> None:
        """Puts everything on the device and goes back to the last checkpoint, if there is one."""
        device = self.module.device
        self.data = self.recipe.data.to(device)
        pruned = {name: mask for name, mask in self.phase.masks.items() if not mask.all()}
        weights = _masks.prunable(self.module.net)
        self.pruned = [weights[name] for name in pruned]
        self.mask_gradients = bool(self.pruned) and type(self.optimizer) not in ELEMENTWISE
        # float masks: multiplying by booleans takes five times as long
        self.masks = [mask.to(device, weights[name].dtype) for name, mask in pruned.items()]
        _masks.apply_(weights, self.phase.masks)
        if self.keeper and (found := self.keeper.load()):
            self._restore(*found)
        self.batches = self.data.batches(self.phase.order, self.step, self.phase.last)
        self.saved_at = time.monotonic()
        self.module.train()

    def chunk_end(self, first: int) -> int:
        """Where the chunk from `first` ends: at a multiple of CHUNK, an evaluation, a waypoint or the last step."""
        chunk = min(CHUNK, max(1, round(CHUNK_SECONDS / self.seconds)))
        every = [chunk, self.recipe.budget.evaluate] if self.evaluating else [chunk]
        ends = [first - first % each + each for each in every]
        return min(*ends, self.phase.last, *(point for point in self.waypoints if point > first))

    def advance(self, first: int, last: int) -> None:
        """Takes the optimizer steps of one chunk; pruned weights stay exactly zero at each of them."""
        module, optimizer, budget = self.module, self.optimizer, self.recipe.budget
        if self.keeper:
            self.keeper.reach(first, last)
        # Lightning's own backward and step cost 70 us more, and are needed for loss scaling only
        scaled = self.recipe.numerics.precision == "16-mixed"
        backward = module.manual_backward if scaled else torch.Tensor.backward
        stepper = cast(Optimizer, module.optimizers()) if scaled else optimizer
        losses, started = [], time.monotonic()
        for step in range(first, last):
            inputs, targets = next(self.batches)
            factor = budget.factor(step)
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
            torch.clear_autocast_cache()  # one autocast spans the chunk: kept casts would be of weights before the step
            loss = module.loss(module(inputs), targets)
            backward(loss)
            if self.mask_gradients:
                for weight, mask in zip(self.pruned, self.masks, strict=True):
                    if weight.grad is not None:
                        weight.grad.mul_(mask)
            stepper.step()
            if self.pruned:
                with torch.no_grad():
                    torch._foreach_mul_(self.pruned, self.masks)
            losses.append(loss.detach())
        self._note(torch.stack(losses).double().cpu(), first)
        self.seconds = max(1e-9, (time.monotonic() - started) / (last - first))
        self.step = last

    def pause(self) -> None:
        """Between chunks: the evaluation that is due, a waypoint, a checkpoint when the last one is old."""
        row = None
        due = self.step % self.recipe.budget.evaluate == 0 or self.step == self.phase.last
        if self.evaluating and due:
            row = self._measure()
            self.rows.append(row)
        if self.keeper and self.step in self.waypoints:
            self.keeper.pass_by(self.step, state_of(self.module.net))
        if self.keeper and time.monotonic() - self.saved_at >= self.recipe.hardware.checkpoint_seconds:
            self.keeper.save(*self._snapshot())
            self.saved_at = time.monotonic()
        self.watch(self.step, row)

    def _note(self, losses: Tensor, first: int) -> None:
        if not losses.isfinite().all():
            step = first + int(losses.isfinite().logical_not().nonzero()[0, 0])
            rate = self.rates[0] * self.recipe.budget.factor(step)
            raise Diverged(f"the loss became {float(losses[step - first])} at step {step}, learning rate {rate:g}")
        if self.evaluating:
            self.losses += losses.tolist()

    def _measure(self) -> Row:
        row: Row = {"step": self.step, "train_loss": math.fsum(self.losses) / len(self.losses)}
        self.losses.clear()
        for part in ("val", "test"):
            measured = measure(self.module, getattr(self.data, part))
            if not math.isfinite(measured["loss"]):
                rate = self.rates[0] * self.recipe.budget.factor(self.step - 1)
                raise Diverged(
                    f"the {part} loss is {measured['loss']} after step {self.step - 1}, learning rate {rate:g}"
                )
            row |= {f"{part}_{name}": value for name, value in measured.items()}
        return row

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the remaining steps depend on, as tensors and plain data."""
        tensors = {f"net.{name}": tensor for name, tensor in self.module.net.state_dict().items()}
        plain: dict[str, Any] = {}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                (tensors if isinstance(value, Tensor) else plain)[f"optimizer.{index}.{name}"] = value
        tensors["noise"] = torch.get_rng_state()
        if self.module.device.type == "cuda":
            tensors["noise.cuda"] = torch.cuda.get_rng_state(self.module.device)
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        # schedule-free optimizers keep their progress in the groups
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        info = {"step": self.step, "rows": self.rows, "losses": self.losses, "optimizer": plain, "groups": groups}
        return tensors, info

    def _restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        self.step, self.rows, self.losses = info["step"], list(info["rows"]), list(info["losses"])
        self.module.net.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **info["optimizer"]}.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        indices = [group["params"] for group in self.optimizer.state_dict()["param_groups"]]
        groups = [{**group, "params": own} for group, own in zip(info["groups"], indices, strict=True)]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["noise"])
        if "noise.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["noise.cuda"], self.module.device)


def measure(module: Module, examples: Examples) -> dict[str, float]:
    """Mean loss and every metric over some examples, in evaluation mode; leaves the module training."""
    metrics = {name: metric.to(module.device) for name, metric in module.metrics().items()}
    total = torch.zeros((), dtype=torch.float64, device=module.device)
    module.eval()
    with torch.inference_mode(), module.trainer.precision_plugin.val_step_context():
        for inputs, targets in zip(
            examples.inputs.split(EVALUATION_BATCH), examples.targets.split(EVALUATION_BATCH), strict=True
        ):
            outputs = module(inputs)
            total += module.loss(outputs, targets).double() * len(inputs)
            for metric in metrics.values():
                metric.update(outputs, targets)
    module.train()
    # torchmetrics computes in float32: seven digits are all it knows
    values = {name: float(f"{float(metric.compute()):.7g}") for name, metric in metrics.items()}
    return {"loss": float(total) / len(examples)} | values
