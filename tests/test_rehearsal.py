"""The check before training: which user networks and modules are accepted, and the messages for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torchmetrics import Metric

from lottery.algorithm import play
from lottery.config.check import EXAMPLES, Misfit, note, rehearse
from lottery.models.vision import torchvision_model
from lottery.pruning import masks
from lottery.pruning.contracts import Evidence, Scores, Unscorable
from lottery.pruning.criteria import magnitude
from lottery.pruning.schedules import geometric
from lottery.rounds.study import Cell
from lottery.training.modules import INSTEAD, Classifier, Module

Build = Callable[..., Cell]


def of(made: Cell, **changes: Any) -> Cell:
    """The cell with another network, module or data set."""
    return replace(made, study=replace(made.study, recipe=replace(made.study.recipe, **changes)))


def refused(made: Cell) -> str:
    with pytest.raises(Misfit) as misfit:
        rehearse(made)
    return str(misfit.value)


class Flat(nn.Module):
    """Takes digits; `head` is defined before the layers that it follows."""

    def __init__(self, hidden: int = 40) -> None:
        super().__init__()
        self.head = nn.Linear(hidden, 10)
        self.first, self.second = nn.Linear(64, hidden), nn.Linear(hidden, hidden)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.second(self.first(inputs.flatten(1)).relu()).relu())


# outputs that are no tensor


class Two(Flat):
    def forward(self, inputs: Tensor) -> Any:
        return {"logits": super().forward(inputs), "none": None}


class OfTwo(Classifier):
    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return super().loss(outputs["logits"], targets)

    def metrics(self) -> Mapping[str, Metric]:
        accuracy = super().metrics()["accuracy"]
        update = accuracy.update
        accuracy.update = lambda outputs, targets: update(outputs["logits"], targets)
        return {"accuracy": accuracy}


def test_a_module_may_take_outputs_that_are_no_tensor(cell: Build) -> None:
    rehearse(of(cell(), network=Two, module=partial(OfTwo, classes=10)))


def test_outputs_that_a_module_does_not_take_are_named_by_their_type(cell: Build) -> None:
    said = refused(of(cell(), network=Two))
    assert said.startswith("module: does not take outputs of type dict with targets from 1 to 9: "), said


def test_what_fails_in_evaluation_alone_fails_before_training(cell: Build) -> None:
    class Halved(Flat):
        def forward(self, inputs: Tensor) -> Any:
            outputs = super().forward(inputs)
            return outputs if self.training else outputs[:, :5]

    said = refused(of(cell(), network=Halved))
    assert said.startswith("module: does not take outputs of shape [8, 5] with targets from 1 to 9 in evaluation: ")


@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 75)])
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")  # of torchvision's own code
def test_networks_with_auxiliary_outputs_give_logits_in_training(name: str, side: int) -> None:
    net = torchvision_model(name, (3, side, side), 4).train()
    assert net(torch.randn(2, 3, side, side)).shape == (2, 4)
    assert not any("aux" in key.lower() for key in net.state_dict())


# raw errors


def test_errors_of_a_user_s_parts_name_the_part(cell: Build) -> None:
    class Extra(Flat):
        def get_extra_state(self) -> Any:
            return {"calls": 3}

    assert refused(of(cell(), network=Extra)).startswith("model: ")

    class Number(Classifier):
        def loss(self, outputs: Tensor, targets: Tensor) -> Any:
            return super().loss(outputs, targets).item()

    said = refused(of(cell(), network=Flat, module=partial(Number, classes=10)))
    assert said == "module: does not take outputs of shape [8, 10] with targets from 1 to 9: its loss is a float"[
        :0
    ] + ("module: its loss must be a tensor, not a float")

    made = cell()
    bare = replace(made, study=replace(made.study, pruning=replace(made.study.pruning, schedule=(0.5, 0.25))))
    assert refused(bare).startswith("schedule: ")


def test_a_buffer_outside_the_network_is_told_how_to_be_one(cell: Build) -> None:
    class Weighted(Classifier):
        def __init__(self, net: nn.Module, classes: int) -> None:
            super().__init__(net, classes)
            self.register_buffer("costs", torch.ones(classes))

    assert refused(of(cell(), network=Flat, module=partial(Weighted, classes=10))) == (
        "module: costs is not part of `net`, so checkpoints would not save it; register a buffer that never changes "
        "with persistent=False"
    )


# Lightning's methods


@pytest.mark.parametrize("method", [
    "training_step", "batch_loss", "batch_outputs", "configure_optimizers", "validation_step", "test_step",
    "on_before_optimizer_step",
    "train_dataloader", "lr_scheduler_step", "on_train_batch_end", "on_validation_epoch_end",
])  # fmt: skip
def test_methods_of_lightning_that_are_never_called_are_refused(cell: Build, method: str) -> None:
    own = type("Own", (Classifier,), {method: lambda self, *_: None})
    said = refused(of(cell(), module=partial(own, classes=10)))
    assert said == f"module: Own.{method} must not be overridden; {INSTEAD[method]}"


def test_every_refused_method_is_one_of_lightning_s() -> None:
    assert all(callable(getattr(Module, name)) for name in INSTEAD)


# frozen weights


def test_several_processes_ask_no_gradient_of_frozen_weights(cell: Build) -> None:
    def frozen() -> nn.Module:
        net = Flat()
        net.first.requires_grad_(False)
        return net

    rehearse(of(cell("hardware=cpu", "hardware.devices=2"), network=frozen))


# the output layer


def test_the_output_layer_is_the_last_that_is_called(cell: Build) -> None:
    assert cell().study.recipe.output == "output.weight"
    made = of(cell(), network=Flat)
    assert made.study.recipe.output == "head.weight"
    recipe, pruning = made.study.recipe, replace(made.study.pruning, schedule=geometric(1, keep=0.8))

    def untrained(current: Any) -> Any:
        return type("Entry", (), {"state": current.ticket.state, "masks": current.ticket.masks, "rows": []})()

    *_, last = play(recipe, pruning, made.arm, 0, untrained)
    pruned = {name: int((~mask).sum()) for name, mask in last.ticket.masks.items()}
    assert pruned == {"head.weight": 40, "first.weight": 512, "second.weight": 320}


def test_an_output_layer_that_no_hook_sees_is_the_last_defined(cell: Build) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(64, 40), nn.Linear(40, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            return functional.linear(self.first(inputs.flatten(1)).relu(), self.head.weight, self.head.bias)

    assert of(cell(), network=Functional).study.recipe.output == "head.weight"


# sparse rounds


class Reads(Flat):
    """Reads a layer's weight directly, which a sparse layer lacks."""

    def forward(self, inputs: Tensor) -> Any:
        hidden = functional.linear(self.first(inputs.flatten(1)).relu(), self.second.weight)
        return self.head(hidden.relu())


def test_auto_leaves_dense_what_cannot_be_sparse(cell: Build) -> None:
    reads = partial(Reads, hidden=300)
    made = of(
        cell(
            "hardware=cpu",
        ),
        network=reads,
    )
    rehearse(made)
    thin = {name: torch.rand(weight.shape) < 0.05 for name, weight in reads().named_parameters() if weight.ndim > 1}
    assert made.study.recipe.sparse_weights(thin) == ()
    plain = of(cell("hardware=cpu"), network=partial(Flat, hidden=300))
    assert plain.study.recipe.sparse_weights(thin) == ("first.weight", "second.weight")


def test_on_refuses_what_cannot_be_sparse_and_names_the_cure(cell: Build) -> None:
    said = refused(of(cell("hardware=cpu", "numerics.sparse=on"), network=partial(Reads, hidden=300)))
    assert said == (
        "model: can't train with sparse layers (numerics.sparse=auto or off leaves them dense): its network reads the "
        "weight itself: use numerics.sparse=off"
    )


# weights that are never pruned


def test_weights_that_are_never_pruned_are_named_once(cell: Build, capsys: pytest.CaptureFixture[str]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.cells(inputs[:, 0])[0][:, -1])

    made = of(cell(), network=Recurrent)
    rehearse(made)
    noted = note(made, set())
    assert note(made, noted) == {made.study.name}
    assert capsys.readouterr().out == (
        f"{made.study.name}: never pruned, and not in its density: cells.weight_ih_l0, cells.weight_hh_l0, "
        "74 % of all parameters (prune.include would)\n"  # 336 of 454
    )
    note(cell(), set())
    assert not capsys.readouterr().out


def test_why_there_is_nothing_to_prune(cell: Build) -> None:
    def parametrized() -> nn.Module:
        return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 10)))

    assert refused(of(cell(), network=parametrized)) == (
        "model: there is nothing to prune: only weights that are parameters of linear and convolutional layers "
        "themselves can be pruned, and its own are 1.parametrizations.weight.original0, "
        "1.parametrizations.weight.original1; prune.include names further weights"
    )


# what training can no longer change

SMALL = ("model=mlp", "model.widths=[4]", "criterion=obs", "criterion.damping=1e-4")  # of 296 weights


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("arm=at_init",), "arm.prune_at=0: at_init prunes the network before it is trained"),
        (("arm=at_init_stepwise",), "arm.prune_at=0: at_init_stepwise prunes the network before it is trained"),
        (("arm=rigl", "arm.during.every=5"), "arm.prune_at=0: rigl,during.every=5it prunes the network before it is"),
        (("arm=random_reinit", "arm.parent=at_init"), "arm.prune_at=0: at_init prunes the network before it is"),
        (("arm=gradual", "arm.during.every=5"), "arm.during: gradual,during.every=5it changes masks at step 0, before"),
    ],
)
def test_an_untrained_network_without_scores_is_refused_before_training(
    settings: tuple[str, ...], said: str, cell: Build
) -> None:
    sentence = refused(cell(*SMALL, *settings))
    assert sentence.startswith("criterion.damping=0.0001: must be above about ")
    assert f"; {said}" in sentence


@pytest.mark.parametrize("arm", ["at_init", "at_init_stepwise", "rigl"])
@pytest.mark.parametrize("criterion", ["movement", "magnitude_increase", "opposite_sign"])
def test_scores_that_are_all_alike_are_refused_before_training(arm: str, criterion: str, cell: Build) -> None:
    more = ["arm.during.every=5"] if arm == "rigl" else []
    sentence = refused(cell(f"arm={arm}", f"criterion={criterion}", *more))
    assert sentence.startswith("criterion: all weights score alike, so that their order would decide")


def test_what_a_trained_weight_scores_tells_nothing_of_an_untrained_one(cell: Build) -> None:
    settings = ["criterion=movement", "scope=threshold", "scope.above=0.0"]
    assert refused(cell("arm=at_init", *settings)).startswith("criterion: all weights score alike")
    rehearse(cell(*settings))


def test_a_density_that_leaves_nothing_of_a_structure_is_refused(cell: Build) -> None:
    asked = ["structure=rows", "scope=everywhere", "schedule.keep=0.03"]
    assert "scope: keeps nothing at density" in refused(cell(*asked))


def test_the_line_of_a_user_s_code_that_fails_is_named(cell: Build) -> None:
    def faulty(evidence: Evidence) -> Scores:
        return {"net.1.weight": [torch.zeros(1)][len(evidence.masks)]}

    whole = cell()
    study = replace(whole.study, pruning=replace(whole.study.pruning, criterion=faulty))
    line = faulty.__code__.co_firstlineno + 1
    said = f"criterion: IndexError: list index out of range (test_rehearsal.py, line {line})"
    assert refused(replace(whole, study=study)) == said


class Centred(Flat):
    """Takes the mean away by no layer, so that ones that go through it come out as zeros."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found - found.mean(-1, keepdim=True)


def test_a_network_whose_paths_are_hidden_is_not_called_collapsed(cell: Build) -> None:
    recipe = of(cell(), network=Centred).study.recipe
    every = masks.dense(recipe.prunable(recipe.net))
    assert recipe.paths(every) is None
    plain = of(cell(), network=Flat).study.recipe
    assert plain.paths(every) > 0
    assert plain.paths({name: torch.zeros_like(mask) for name, mask in every.items()}) == 0


@pytest.mark.parametrize("arm", ["at_init", "gradual"])
def test_an_untrained_network_of_which_nothing_is_kept_is_refused_before_training(arm: str, cell: Build) -> None:
    more = ["arm.during.every=5"] if arm == "gradual" else []
    sentence = refused(cell(f"arm={arm}", *more, "scope=threshold", "scope.above=1e9"))
    assert sentence.startswith("scope.above=1e+09: no weight scores more")


@pytest.mark.parametrize(
    "settings",
    [
        ("arm=imp",),
        ("arm=at_init", "arm.prune_at=8"),
        ("arm=early_bird", "arm.early.every=2"),
        ("arm=gradual", "arm.during.every=5", "arm.during.begin=1"),
        ("arm=gradual", "arm.during.every=5", "arm.rewind=5", "arm.first=5"),
    ],
)
def test_what_training_may_change_is_not_refused_before_it(settings: tuple[str, ...], cell: Build) -> None:
    rehearse(cell(*SMALL, *settings))
    rehearse(cell(*settings, "scope=threshold", "scope.above=1e9"))


def test_what_a_few_examples_lack_is_judged_by_the_batches_that_are_scored(cell: Build) -> None:
    """A criterion that has no scores for the eight examples of the check, and has some for a whole batch."""

    def picky(evidence: Evidence) -> Scores:
        if len(next(iter(evidence.batches))[0]) <= EXAMPLES:
            raise Unscorable("batches=1: too few examples")
        return magnitude(evidence)

    made = cell("arm=at_init")
    rehearse(replace(made, study=replace(made.study, pruning=replace(made.study.pruning, criterion=picky))))


# what survivors make up


def test_a_compensation_is_tried_before_training(cell: Build) -> None:
    made = cell("arm=finetune")
    study = made.study
    wrong = replace(study.pruning, compensation=lambda pruned: {"fc1.bias": torch.zeros(7)})
    assert refused(replace(made, study=replace(study, pruning=wrong))) == (
        "compensation gives fc1.bias of shape (7,); it has shape (300,)"
    )
