"""Channels of users' Lightning projects: how their networks run, what goes together, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.pruning.channels.masking import left
from lottery.pruning.channels.masking import masks as without
from lottery.pruning.channels.removal import structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.contracts import Target
from lottery.pruning.masks import Masks, apply_, dense
from lottery.pruning.prunable import Prunable
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.lookup import holding
from lottery.training.costs import COSTS
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.module.calls import Call, few
from lottery.training.lightning.project import Project
from lottery.training.recipes import Budget
from lottery.training.states import weights
from tests.channels import drawn, halves
from tests.few import few as some
from tests.lightning import ADVICE, cell_of, phase_of
from tests.projects.classifier import LitClassifier, PicturesModule
from tests.test_projects import PROJECTS

pytestmark = ADVICE
SLOW = [pytest.param("finetune", marks=pytest.mark.slow)]  # a ResNet-18


def half(recipe: Project, net: nn.Module) -> tuple[nn.Module, nn.Module, Masks]:
    """The module with half of its channels masked, and without them."""
    kept = halves(net, recipe.coupling)
    masks = without(recipe.coupling, kept, dense(recipe.prunable(net)))
    apply_(dict(net.named_parameters()), masks)
    return net.eval(), shrunk(net, structure(recipe.coupling, kept)).eval(), masks


def made(module: Callable[[], nn.Module], data: pl.LightningDataModule, steps: int = 20, **more: Any) -> Project:
    """A project without its command line, which takes longer than most of what is looked at here."""
    budget, hardware = Budget(steps, steps, steps), Hardware(accelerator="cpu")
    return Project(data=ProjectData(data), network=module, budget=budget, hardware=hardware, **more)


@cache
def project(kind: str) -> Project:
    code = import_module(f"tests.projects.{kind}")
    module, data, *_ = PROJECTS[kind]
    return made(getattr(code, module), getattr(code, data)())


INPUTS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "classifier": lambda: (torch.randn(5, 3, 12, 12),),
    "segmenter": lambda: (torch.randn(5, 1, 16, 16),),
    "siamese": lambda: (torch.randn(5, 24), torch.randn(5, 24)),
    "finetune": lambda: (torch.randn(5, 3, 32, 32),),
}


@pytest.mark.parametrize("kind", ["classifier", "segmenter", "siamese", *SLOW])
def test_the_smaller_module_computes_what_the_masked_one_does(kind: str) -> None:
    recipe = project(kind)
    whole = drawn(recipe.build(3)).eval()  # zeros of an initialisation would hide what they do
    masked, small, _ = half(recipe, copy.deepcopy(whole))
    inputs = INPUTS[kind]()
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs), masked(*inputs), rtol=1e-5, atol=1e-5)
        assert (whole(*inputs) - masked(*inputs)).abs().max() > 1e-3
    count = sum(weight.numel() for weight in small.parameters())
    assert recipe.cost("parameters", {}) == sum(weight.numel() for weight in whole.parameters()) > count


def test_what_a_concatenation_puts_together_is_read_at_both_places() -> None:
    recipe = project("segmenter")
    groups = {group.name: {(m.name, m.axis): m for m in group.members} for group in recipe.coupling.groups}
    # GroupNorm of two groups joins the channels at one place in each; the last layer's are outputs
    assert groups.keys() == {"up.weight"}
    assert recipe.coupling.fixed["head.1.weight"][0] == "it is an output of the network"
    assert groups["up.weight"]["head.0.0.weight", 1].positions.flatten().tolist() == list(range(8, 16))


def test_masks_hold_channels_through_a_training_with_its_norms_and_biases() -> None:
    recipe = made(LitClassifier, PicturesModule(n=64), steps=4)
    _, _, masks = half(recipe, recipe.build(3))
    trained = recipe.loaded(fit(recipe, phase_of(recipe, masks=masks)).state, 5).eval()
    for name, weight in trained.named_parameters():
        assert name not in masks or not weight[~masks[name]].any()
    kept = left(recipe.coupling, masks)
    assert all(len(kept[group.name]) < group.size for group in recipe.coupling.groups)
    small = shrunk(trained, structure(recipe.coupling, kept)).eval()
    (inputs,) = INPUTS["classifier"]()
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), trained(inputs), rtol=1e-5, atol=1e-5)
    assert all(
        len(channels) < group.size for group, channels in zip(recipe.coupling.groups, kept.values(), strict=True)
    )


def test_each_part_of_a_gan_is_a_network_of_its_own() -> None:
    recipe = project("gan")
    assert [call.path for call in recipe.calls.evaluated] == [""]
    assert [call.path for call in recipe.calls.trained] == ["discriminator"]
    assert [group.name for group in recipe.coupling.groups] == [
        f"{part}.{layer}.weight" for part in ("generator", "discriminator") for layer in (0, 2)
    ]
    # the discriminator reads what the generator gives, and no channel is followed from one call to the next
    assert recipe.coupling.fixed["generator.4.weight"][0] == "it is an output of the network"


@pytest.mark.parametrize("kind", some(["siamese", "gan", "classifier"], 1))
def test_looking_at_calls_changes_nothing(kind: str) -> None:
    recipe = replace(project(kind))  # with nothing found yet
    before = {name: tensor.clone() for name, tensor in recipe.net.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = recipe.calls.evaluated[0].tensors[0]
    assert torch.equal(torch.rand(3), expected)
    assert not again.requires_grad
    assert recipe.data.module.trainer is None
    assert "forward" not in vars(recipe.net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in recipe.net.state_dict().items())


# how a module may run


def sets(n: int) -> TensorDataset:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, (x[:, 0] > 0).long())


class Rows(pl.LightningDataModule):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size = size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(sets(64), self.size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(sets(32), self.size)

    test_dataloader = val_dataloader


class Lit(pl.LightningModule):
    """Calls a part of it that is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.logits(batch[0]), batch[1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Centred(nn.Module):
    """Gives for an example what depends on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class Parts(Lit):
    """Calls a part that runs on two examples alike, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.centred = Centred()

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x) + self.centred(x)


@pytest.mark.parametrize("size", [4, 16])
def test_operations_are_those_of_one_example_whatever_each_part_is_given(size: int) -> None:
    recipe = made(Parts, Rows(size))
    assert [length for _, length in recipe.forward_passes] == [2, size]
    assert COSTS["flops"](recipe.net, recipe.forward_passes) == 6 * 16 + 16 * 8 + 8 * 2 + 6 * 2


class Forwards(Lit):
    """Calls its forward by name, which no hook sees."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def logits(self, x: Tensor) -> Tensor:
        return self.forward(x)


class LayerByLayer(Lit):
    def logits(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Functions(Lit):
    def logits(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else x.relu()
        return x


class Features(Lit):
    """Its training reads what lies within what validation calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rest = self.net[:2], self.net[2:]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        features = self.stem(batch[0])
        return F.cross_entropy(self.rest(features), batch[1]) + features.square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


class Slices(Features):
    """Its training calls layers one by one, of which any may be read by others."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net[2:](self.net[:2](batch[0])), batch[1])


@cache
def own(model: type[pl.LightningModule], *exclude: str) -> Project:
    return made(model, Rows(), prunable=Prunable(exclude=exclude))


@pytest.mark.parametrize(("model", "path"), [(Lit, "net"), (Forwards, "")])
def test_the_network_is_what_the_steps_call(model: type[pl.LightningModule], path: str) -> None:
    recipe = own(model)
    assert [(call.path, call.examples) for call in recipe.calls.evaluated] == [(path, 2)]
    assert not recipe.calls.trained
    assert [(group.name, group.size) for group in recipe.coupling.groups] == [("net.0.weight", 16), ("net.2.weight", 8)]
    assert recipe.cost("flops", {}) == 6 * 16 + 16 * 8 + 8 * 2


def test_what_training_reads_within_the_network_stays_whole() -> None:
    recipe = own(Features)
    assert [call.path for call in recipe.calls.every] == ["", "stem", "rest"]
    assert [group.name for group in recipe.coupling.groups] == ["net.2.weight"]


CANT = (
    "model: how the network of {} runs can't be told: {}; give it a forward(inputs) that is all of the network, and "
    "call self(inputs) in training_step and validation_step"
)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (LayerByLayer, "no channel lies between two layers of one of the parts that its steps call"),
        (Slices, "no channel lies between two layers of one of the parts that its steps call"),
        (Functions, "its steps call no part of it that holds a prunable weight"),
    ],
)
def test_a_module_whose_network_can_not_be_found_is_refused(model: type[pl.LightningModule], said: str) -> None:
    with pytest.raises(Refused) as refused:
        _ = own(model).coupling
    assert str(refused.value) == CANT.format(model.__name__, said)


def test_it_is_refused_before_training() -> None:
    here = "tests.test_channels_projects"
    line = [f"model._target_={here}.LayerByLayer", f"data._target_={here}.Rows", "budget.steps=2ep"]
    (job,) = cell_configs([*line, "tracking.mode=disabled", "structure=channels", "schedule.rounds=1"])
    with pytest.raises(Refused, match="how the network of LayerByLayer runs can't be told: no channel lies between"):
        check(build(job))


def test_an_excluded_layer_keeps_the_channels_that_it_reads() -> None:
    recipe = own(Lit, "net.4.weight")
    assert [group.name for group in recipe.coupling.groups] == ["net.0.weight"]
    assert recipe.coupling.fixed["net.2.weight"][0] == "its consumer net.4.weight has no mask"


# examples


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(len(x), 1)


class OverAll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(5, -1)


@pytest.mark.parametrize(
    ("net", "length", "examples", "left"),
    [
        (nn.Linear(3, 2), 5, 2, 2),
        (nn.Linear(3, 2), 1, 2, 2),  # a BatchNorm needs two in training mode
        (OverAll(), 5, None, 5),
        (Noisy(), 5, 2, 2),  # under the same seed
        (InPlace(), 5, 2, 2),
        (Fixed(), 5, None, 5),
    ],
)
def test_a_call_is_cut_to_two_examples_where_they_are_apart(
    net: nn.Module, length: int, examples: int | None, left: int
) -> None:
    call = few(Call("", (torch.randn(length, 3),), {}), net)
    assert (call.examples, len(call.tensors[0])) == (examples, left)
    first = call(net).clone()
    assert torch.equal(call(net), first) or isinstance(net, Noisy)


def test_what_has_different_lengths_is_not_cut() -> None:
    call = Call("", (torch.randn(5, 3),), {"mask": torch.ones(3)})
    assert few(call, nn.Identity()).examples is None


# studies


@pytest.mark.parametrize("budget", ["parameters", "flops", "bytes"])
def test_budgets_are_those_of_the_smaller_module(budget: str) -> None:
    recipe = project("classifier")
    kept = {group.name: list(range(0, group.size, 2)) for group in recipe.coupling.groups}
    small = shrunk(recipe.net, structure(recipe.coupling, kept))
    # 3 -> 8 -> 16 channels at 12x12 and 6x6, then 144 to 4
    products = {1: 27 * 8 * 144 + 72 * 16 * 36 + 144 * 4, 2: 27 * 4 * 144 + 36 * 8 * 36 + 72 * 4}
    target = recipe.aimed(Target(0.5, 0.5))
    assert target.cost
    whole, half = target.cost(budget, {}), target.cost(budget, kept)
    if budget == "flops":
        assert (whole, half) == (products[1], products[2])
    elif budget == "parameters":
        assert half == sum(weight.numel() for weight in small.parameters()) < whole
    else:
        assert 4 * sum(weight.numel() for weight in small.parameters()) < half < whole


@pytest.mark.parametrize("more", some(["criterion=apoz", "criterion=fpgm", "criterion=batch_norm_scale"], 1))
def test_two_rounds_prune_channels_by_what_units_do(more: str, tmp_path: Path) -> None:
    line = ["structure=channels", "structure.budget=flops", "scope=layerwise", "schedule.rounds=2", more]
    cell = cell_of("classifier", "arm=lr_rewind", "data.n=96", *line, f"out={tmp_path}")
    check(cell)
    folder = tmp_path / "study" / "lr_rewind" / "seed0"
    record_cell(cell, folder, Store(tmp_path / "store"))
    recipe = cell.study.recipe
    assert isinstance(recipe, Project)
    rounds = Ledger(folder / NAME).lines()
    assert [line["round"] for line in rounds] == [0, 1, 2]
    whole = recipe.cost("flops", {})
    for line, share in zip(rounds, (1.0, 0.8, 0.64), strict=True):
        entry = holding(folder, tmp_path / "store", line)[1]
        kept = left(recipe.coupling, entry.masks)
        assert share - 0.2 < recipe.cost("flops", kept) / whole <= share
        module = recipe.loaded(weights(entry.state), 0).eval()
        small = shrunk(module, structure(recipe.coupling, kept)).eval()
        (inputs,) = INPUTS["classifier"]()
        with torch.no_grad():
            torch.testing.assert_close(small(inputs), module(inputs), rtol=1e-5, atol=1e-5)
