"""One phase of training, against plain PyTorch loops that share only the batches with it."""

from __future__ import annotations

import inspect
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from lottery.data.examples import Data, Examples
from lottery.pruning.masks import Masks, prunable
from lottery.training import fit as training
from lottery.training import learning_rates, loop
from lottery.training.fit import fit
from lottery.training.hardware import INSTEAD, Hardware, Numerics, trainer_for
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Classifier
from lottery.training.optimizers import sgd
from lottery.training.phase import Diverged, Phase
from lottery.training.recipes import Budget
from lottery.training.states import State, state_of

STEPS, EVALUATE = 12, 5
EVERY_CHUNK = Hardware(accelerator="cpu", checkpoint_seconds=1e-9)
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "adam": partial(Adam, lr=0.01, fused=True),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.5),
    "nesterov": partial(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def data() -> Data:
    inputs = torch.randn(84, 6, generator=torch.Generator().manual_seed(1))
    whole = Examples(inputs, inputs[:, :3].argmax(1))
    return Data(whole[:43], whole[43:60], whole[60:], batch_size=8, shape=(6,), classes=3)


def recipe(**changes: Any) -> ModuleRecipe:
    budget = Budget(STEPS, STEPS, EVALUATE, learning_rates.cosine)
    settings = {
        "data": data(),
        "network": network,
        "module": partial(Classifier, classes=3),
        "optimizer": OPTIMIZERS["adam"],
        "budget": budget,
        "hardware": EVERY_CHUNK,
    }
    return ModuleRecipe(**{**settings, **changes})


def phase(first: int = 0, last: int = STEPS, keep: float = 0.5) -> Phase:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = network()
        masks = {name: torch.rand(weight.shape) < keep for name, weight in prunable(net).items()}
    return Phase(state_of(net), masks, first, last, order=3, noise=4)


def plain(recipe: ModuleRecipe, phase: Phase, mask_gradients: bool = False, bf16: bool = False) -> State:
    """The phase in a plain PyTorch loop."""
    net = recipe.network()
    net.load_state_dict(phase.state)
    weights = {name: weight for name, weight in net.named_parameters() if name in phase.masks}
    optimizer = recipe.optimizer(net.parameters())
    rate = optimizer.param_groups[0]["lr"]
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(phase.noise)
        for name, weight in weights.items():
            weight.data[~phase.masks[name]] = 0
        batches = recipe.data.batches(phase.order, phase.first, phase.last)
        for step, (inputs, targets) in enumerate(batches, start=phase.first):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(net(inputs), targets)
            loss.backward()
            for name, weight in weights.items():
                if mask_gradients:
                    weight.grad[~phase.masks[name]] = 0
            optimizer.step()
            for name, weight in weights.items():
                weight.data[~phase.masks[name]] = 0
    return state_of(net)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Killed(Exception):
    """Stands for a kill between two chunks."""


class Memory:
    """Keeps progress in memory, in the form in which a file would; kills training after a number of saves."""

    def __init__(self, kill_after: int = 0) -> None:
        self.kill_after = kill_after
        self.saved: list[tuple[dict[str, Tensor], str]] = []
        self.reached: list[tuple[int, int]] = []
        self.passed: dict[int, State] = {}
        self.masks: dict[int, Masks] = {}

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if not self.saved:
            return None
        tensors, text = self.saved[-1]
        return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(text)

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        self.saved.append(({name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(info)))
        if len(self.saved) == self.kill_after:
            raise Killed

    def reach(self, first: int, last: int) -> None:
        self.reached.append((first, last))

    def pass_by(self, step: int, state: State, masks: Masks) -> None:
        self.passed[step], self.masks[step] = state, masks


# masked weights


class Watched(Classifier):
    """Inspects the weights whenever the loop is about to use or measure them."""

    def __init__(self, net: nn.Module, masks: Masks, seen: list[tuple[int, bool]]) -> None:
        super().__init__(net, classes=3)
        self.masks, self.seen = masks, seen

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            weights = prunable(self.net)
            pruned = torch.cat([weights[name][~mask] for name, mask in self.masks.items()])
            alive = torch.cat([weights[name][mask] for name, mask in self.masks.items()])
            self.seen.append((int(pruned.count_nonzero()), bool(alive.all())))
        return super().forward(inputs)


@every_optimizer
def test_pruned_weights_are_zero_at_every_step(optimizer: Callable[..., Optimizer]) -> None:
    work, seen = phase(), list[tuple[int, bool]]()
    trained = fit(recipe(optimizer=optimizer, module=partial(Watched, masks=work.masks, seen=seen)), work)
    assert seen == [(0, True)] * STEPS
    assert all(not trained.state[name][~mask].any() for name, mask in work.masks.items())


# the same bits as a plain loop


@pytest.mark.parametrize("first", [0, 7])
@every_optimizer
def test_bits_are_those_of_a_plain_loop(optimizer: Callable[..., Optimizer], first: int) -> None:
    same, work = recipe(optimizer=optimizer), phase(first)
    assert equal(fit(same, work).state, plain(same, work))


def test_dense_training_is_a_plain_loop_too() -> None:
    work = phase(keep=1.0)
    assert all(mask.all() for mask in work.masks.values())
    assert equal(fit(recipe(), work).state, plain(recipe(), work))


class NormalisedSGD(SGD):
    """Divides by the norm of all gradients: no weight moves by its own gradient alone."""

    def step(self, closure: None = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.div_(norm)
        super().step()


def test_an_optimizer_that_reads_across_weights_sees_no_pruned_gradient() -> None:
    same, work = recipe(optimizer=partial(NormalisedSGD, lr=0.1)), phase()
    state = fit(same, work).state
    assert equal(state, plain(same, work, mask_gradients=True))
    assert not equal(state, plain(same, work, mask_gradients=False))


def test_bf16_trains_as_a_plain_loop_with_autocast_at_each_step() -> None:
    work, full = phase(), recipe()
    mixed = replace(full, numerics=Numerics(precision="bf16-mixed"))
    trained = fit(mixed, work)
    assert equal(trained.state, plain(mixed, work, bf16=True))
    assert not equal(trained.state, fit(full, work).state)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_loss_falls(precision: str) -> None:
    long = replace(Budget(200, 200, 50), learning_rate=learning_rates.constant)
    trained = fit(recipe(budget=long, numerics=Numerics(precision=precision)), phase(last=200))
    assert trained.rows[-1]["train_loss"] < 0.7 * trained.rows[0]["train_loss"]


# going on in the middle


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_going_on_from_any_checkpoint_changes_no_bit(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 3)
    chosen = {**OPTIMIZERS, "momentum": partial(SGD, lr=0.05, momentum=0.9)}[optimizer]
    same, work, undisturbed = recipe(optimizer=chosen), phase(), Memory()
    whole = fit(same, work, undisturbed)
    ends = [json.loads(info)["step"] for _, info in undisturbed.saved]
    assert ends == [3, 5, 6, 9, 10, 12]
    for kill_after in range(1, len(ends) + 1):
        disturbed = Memory(kill_after)
        with pytest.raises(Killed):
            fit(same, work, disturbed)
        disturbed.kill_after = 0
        resumed = fit(same, work, disturbed)
        assert equal(resumed.state, whole.state)
        assert resumed.rows == whole.rows
        assert disturbed.reached == undisturbed.reached
        assert [info for _, info in disturbed.saved] == [info for _, info in undisturbed.saved]
        # the last snapshot holds the optimizer and the noise stream besides the weights
        assert equal(disturbed.saved[-1][0], undisturbed.saved[-1][0])


class Noisy(nn.Sequential):
    """Draws from other libraries than PyTorch, and counts its steps in a buffer outside its state."""

    def __init__(self) -> None:
        super().__init__(*network())
        self.register_buffer("steps", torch.tensor(0.0), persistent=False)
        self.register_buffer("seen", None, persistent=False)
        with torch.no_grad():
            self[0].bias.add_(torch.tensor(np.random.randn(16) + random.gauss(0, 1), dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.seen = inputs[:1] if self.seen is None else torch.cat([self.seen, inputs[:1]])
            inputs = inputs + 0.1 * (np.random.randn() + random.gauss(0, 1)) + self.seen.mean()
        return super().forward(inputs) / (1 + self.steps)


def test_noise_of_other_libraries_and_buffers_outside_the_state_go_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 3)
    same, work, undisturbed = recipe(network=Noisy), phase(), Memory()
    np.random.seed(1)
    whole = fit(same, work, undisturbed)
    np.random.seed(2)
    random.seed(2)
    assert equal(fit(same, work).state, whole.state)
    for stop in range(1, len(undisturbed.saved)):
        keeper = Memory()
        keeper.saved = undisturbed.saved[:stop]
        resumed = fit(same, work, keeper)
        assert equal(resumed.state, whole.state)
        assert resumed.rows == whole.rows


def test_a_checkpoint_of_an_earlier_version_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 3)
    whole, keeper = Memory(), Memory()
    state = fit(recipe(), phase(), whole).state
    tensors, info = whole.saved[1]
    assert {"noise.0", "noise.numpy.0", "noise.python.0"} <= tensors.keys()
    old = {name: tensor for name, tensor in tensors.items() if name not in ("noise.numpy.0", "noise.python.0")}
    keeper.saved = [(old, info)]
    assert equal(fit(recipe(), phase(), keeper).state, state)


def test_sparse_layers_leave_their_places_out_of_checkpoints() -> None:
    keeper = Memory()
    fit(recipe(), replace(phase(keep=0.1), sparse=("0.weight",)), keeper)
    assert not [name for name in keeper.saved[0][0] if name.startswith("buffer.")]


def test_a_finished_checkpoint_trains_nothing_more() -> None:
    finished = Memory()
    whole = fit(recipe(), phase(), finished)
    finished.reached.clear()
    again = fit(recipe(), phase(), finished)
    assert finished.reached == []
    assert equal(again.state, whole.state)
    assert again.rows == whole.rows


class Uneven(Classifier):
    """Losses of very different size, whose sum rounds differently in another order."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs, targets) * 2.0 ** (int(targets.sum()) * 7 % 60 - 30)


@pytest.mark.parametrize(("chunk", "waypoints"), [(1, []), (2, []), (5, [3]), (7, []), (100, []), (100, [1, 4, 90])])
def test_where_chunks_end_changes_nothing(chunk: int, waypoints: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    work = phase(last=100)
    same = recipe(
        module=partial(Uneven, classes=3), optimizer=partial(SGD, lr=1e-12), budget=Budget(100, 100, evaluate=10)
    )
    monkeypatch.setattr(loop, "CHUNK", 4)
    reference = fit(same, work)
    monkeypatch.setattr(loop, "CHUNK", chunk)
    keeper = Memory()
    trained = fit(same, work, keeper, waypoints)
    assert equal(trained.state, reference.state)
    assert trained.rows == reference.rows
    assert sorted(keeper.passed) == waypoints


def test_a_waypoint_is_the_state_of_a_training_that_ends_there() -> None:
    keeper = Memory()
    fit(recipe(), phase(), keeper, waypoints=[4, 9])
    for step, state in keeper.passed.items():
        assert equal(state, fit(recipe(), phase(last=step), evaluate=False).state)


def test_masks_that_no_training_changes_are_given_back() -> None:
    keeper, given = Memory(), phase()
    trained = fit(recipe(), given, keeper, waypoints=[4])
    assert equal(trained.masks, given.masks)
    assert equal(keeper.masks[4], given.masks)


# evaluation


@pytest.mark.parametrize(
    ("first", "last", "steps"), [(0, 12, [5, 10, 12]), (7, 12, [10, 12]), (5, 10, [10]), (0, 3, [3])]
)
def test_evaluates_at_the_asked_steps_and_at_the_last(first: int, last: int, steps: list[int]) -> None:
    heard: list[tuple[int, bool]] = []
    keeper = Memory()
    trained = fit(recipe(), phase(first, last), keeper, steps, lambda step, row: heard.append((step, row is not None)))
    assert [row["step"] for row in trained.rows] == steps
    assert [step for step, measured in heard if measured] == steps
    examples, net = data(), network()
    for row in trained.rows:
        net.load_state_dict(keeper.passed[int(row["step"])])
        with torch.no_grad():
            outputs = net.eval()(examples.val.inputs)
        loss = functional.cross_entropy(outputs, examples.val.targets)
        assert row["val_loss"] == pytest.approx(float(loss), rel=1e-6)
        share = (outputs.argmax(1) == examples.val.targets).double().mean()
        assert row["val_accuracy"] == pytest.approx(float(share), abs=1e-7)


def test_train_loss_is_the_mean_since_the_last_row() -> None:
    losses: list[float] = []

    class Noting(Classifier):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().loss(outputs, targets)
            if self.training:
                losses.append(float(loss.detach()))
            return loss

    rows = fit(recipe(module=partial(Noting, classes=3)), phase()).rows
    parts = (losses[:5], losses[5:10], losses[10:])
    assert [row["train_loss"] for row in rows] == [math.fsum(part) / len(part) for part in parts]


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_rows_hold_learning_rate_and_gradient_norm_of_the_last_step(clip_norm: float | None) -> None:
    """Of kept weights alone: plain SGD moves these by the product of the two."""
    work, keeper = phase(), Memory()
    given = recipe(optimizer=partial(sgd, lr=0.5, momentum=0, clip_norm=clip_norm))
    trained = fit(given, work, keeper, range(1, STEPS))
    states = {**keeper.passed, STEPS: trained.state}
    for row in trained.rows:
        step, weights = row["step"], dict(network().named_parameters())
        assert row["learning_rate"] == pytest.approx(0.25 * (1 + math.cos(math.pi * (step - 1) / STEPS)), rel=1e-12)
        moved = [(states[step][name].double() - states[step - 1][name]).square().sum() for name in weights]
        assert row["gradient_norm"] == pytest.approx(float(sum(moved)) ** 0.5 / row["learning_rate"], rel=1e-3)
        assert clip_norm is None or row["gradient_norm"] == pytest.approx(clip_norm, rel=1e-3)


def test_without_evaluation_there_are_no_rows_and_the_same_weights() -> None:
    trained = fit(recipe(), phase(), evaluate=False)
    assert trained.rows == []
    assert equal(trained.state, fit(recipe(), phase()).state)


# learning rate and divergence


@pytest.mark.parametrize("first", [0, 1, 6])
def test_each_step_takes_the_budget_s_learning_rate_in_every_group(first: int) -> None:
    taken: list[list[float]] = []

    class Noting(SGD):
        def step(self, closure: None = None) -> None:
            taken.append([group["lr"] for group in self.param_groups])
            super().step()

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        first, *rest = parameters
        return Noting([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    curve = partial(learning_rates.multistep, milestones=(40, 80))
    budget = Budget(steps=12, recipe_steps=120, evaluate=5, learning_rate=curve, warmup=20)
    fit(recipe(optimizer=optimizer, budget=budget), phase(first))
    # by hand: a tenth of the recipe's steps, so two of warm-up, and the rate falls at steps 4 and 8
    factors = [0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
    assert [rates[0] for rates in taken] == pytest.approx([0.5 * factor for factor in factors[first:]], rel=1e-12)
    assert [rates[1] for rates in taken] == pytest.approx([0.1 * factor for factor in factors[first:]], rel=1e-12)
    assert [rates[0] for rates in taken] == [0.5 * budget.factor(step) for step in range(first, 12)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 7, 11])
def test_a_loss_that_is_not_finite_stops_training(value: float, step: int) -> None:
    class Breaking(Classifier):
        steps = 0

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().loss(outputs, targets)
            if self.training:
                self.steps += 1
            return loss * value if self.steps == step + 1 else loss

    rate = 0.01 * (1 + math.cos(math.pi * step / STEPS)) / 2
    sentence = f"the loss became {value} at step {step}, learning rate {rate:g}"
    with pytest.raises(Diverged, match=re.escape(sentence)):
        fit(recipe(module=partial(Breaking, classes=3)), phase())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_in_evaluation_stops_training(value: float) -> None:
    class Breaking(Classifier):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(outputs, targets) * (1 if self.training else value)

    rate = 0.01 * (1 + math.cos(math.pi * 4 / STEPS)) / 2
    with pytest.raises(Diverged, match=re.escape(f"the val loss is {value} after step 4, learning rate {rate:g}")):
        fit(recipe(module=partial(Breaking, classes=3)), phase())


# Lightning's Trainer

ARGUMENTS = {
    name: argument.default
    for name, argument in inspect.signature(pl.Trainer.__init__).parameters.items()
    if name != "self"
}


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_a_trainer_argument_without_meaning_is_refused_with_its_replacement(name: str) -> None:
    assert name in ARGUMENTS
    with pytest.raises(ValueError, match=rf"trainer\.{name}\b.*; use {re.escape(INSTEAD[name])}$"):
        Hardware(trainer={name: ARGUMENTS[name]})


def test_every_other_trainer_argument_reaches_the_trainer() -> None:
    for name in ARGUMENTS.keys() - INSTEAD.keys():
        trainer_for(Hardware(accelerator="cpu", trainer={name: ARGUMENTS[name]}), Numerics())


def test_an_argument_that_trainer_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.no_such_argument"):
        Hardware(trainer={"no_such_argument": 1})


# memory formats, compilers, loss scaling


def pictures() -> Data:
    inputs = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    whole = Examples(inputs, inputs[:, :, 0, 0].argmax(1))
    return Data(whole[:30], whole[30:45], whole[45:], batch_size=10, shape=(3, 6, 6), classes=3)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.05, momentum=0.9, fused=True), OPTIMIZERS["adam"]])
@pytest.mark.parametrize("numerics", [Numerics(channels_last=True), Numerics()])
def test_images_channel_by_channel_go_on_from_any_checkpoint(
    optimizer: Callable[..., Optimizer], numerics: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHUNK", 3)
    torch.manual_seed(2)
    net = convolutional()
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(net).items()}
    work = Phase(state_of(net), masks, 0, STEPS, order=3, noise=4)
    same = recipe(data=pictures(), network=convolutional, optimizer=optimizer, numerics=numerics)
    undisturbed = Memory()
    whole = fit(same, work, undisturbed)
    assert all(tensor.is_contiguous() for tensor in whole.state.values())
    plainly = fit(replace(same, numerics=Numerics()), work)
    assert all(torch.allclose(tensor, plainly.state[name], atol=1e-5) for name, tensor in whole.state.items())
    for stop in range(1, len(undisturbed.saved)):
        keeper = Memory()
        keeper.saved = undisturbed.saved[:stop]
        resumed = fit(same, work, keeper)
        assert equal(resumed.state, whole.state)


def test_the_loss_scaler_is_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 3)

    def scaled(*arguments: Any) -> pl.Trainer:
        trainer = trainer_for(*arguments)
        # what Lightning gives for 16-mixed on a GPU, here with the CPU's autocast and scaler
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
        plugin = pl.plugins.precision.MixedPrecision("16-mixed", "cpu", scaler=scaler)
        trainer.strategy.precision_plugin = plugin
        return trainer

    monkeypatch.setattr(training, "trainer_for", scaled)
    same, work, undisturbed = recipe(optimizer=partial(SGD, lr=0.05, momentum=0.9)), phase(), Memory()
    whole = fit(same, work, undisturbed)
    scales = [json.loads(info)["scaler"]["scale"] for _, info in undisturbed.saved]
    assert min(scales) < 2.0**20  # it overflowed, so that steps were left out and the scale came down
    assert len(set(scales)) > 1
    assert not equal(whole.state, fit(same, replace(work, last=1)).state)
    for stop in range(1, len(undisturbed.saved)):
        keeper = Memory()
        keeper.saved = undisturbed.saved[:stop]
        assert equal(fit(same, work, keeper).state, whole.state)
