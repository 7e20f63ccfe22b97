"""What Lightning projects keep outside their state_dict, and where their data stand: the same after every resume."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lottery.config import build as building
from lottery.config import identity
from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seed_all
from lottery.rounds.study import Cell
from lottery.training.fit import fit
from lottery.training.lightning.data.curricula import Curriculum
from lottery.training.lightning.data.evaluating import evaluated
from lottery.training.lightning.data.order import FromStart, Ordered
from lottery.training.lightning.data.samplers import twin_of
from lottery.training.lightning.project import Project
from tests.few import few
from tests.lightning import ADVICE, Kept, differing, phase_of
from tests.projects.keeping import CountingSampler, Leveled, Noisy, RandomsSampler, rows

pytestmark = ADVICE


@pytest.fixture(autouse=True)
def _without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (building, identity):  # all of our tests would be read for each recipe
        monkeypatch.setattr(module, "user_code", lambda nodes: {})


def cell_of(module: str, data: str, *more: str) -> Cell:
    """As a process of its own would build it."""
    building._projects.clear()
    here = "tests.projects.keeping.{}".format
    return build(
        cell_configs(
            [
                f"model._target_={here(module)}", f"data._target_={here(data)}", "budget.steps=3ep", "hardware=cpu",
                "tracking.mode=disabled", "schedule.rounds=1", *more,
            ]
        )[0]
    )  # fmt: skip


def recipe_of(module: str, data: str, *more: str) -> Project:
    recipe = cell_of(module, data, *more).study.recipe
    assert isinstance(recipe, Project)
    return recipe


def often(recipe: Project) -> Project:
    return replace(recipe, hardware=replace(recipe.hardware, checkpoint_seconds=1e-9))


@pytest.mark.parametrize(
    ("module", "data", "more"),
    few([
        ("Plateau", "Rows", []),
        ("Lit", "Randoms", []),
        ("PlateauOfValidation", "Rows", ["trainer.val_check_interval=0.4"]),
        ("Gathers", "Rows", []),
        ("Forgets", "Rows", []),
        ("Lit", "Counts", []),
        ("Both", "Streams", ["trainer.limit_train_batches=5"]),
        ("Teaches", "Levels", []),
    ], 2),
)  # fmt: skip
def test_nothing_is_lost_by_a_resume(module: str, data: str, more: list[str]) -> None:
    recipe = recipe_of(module, data, *more)
    phase, keeper = phase_of(recipe), Kept()
    whole = fit(often(recipe), phase, keeper)
    saved = {info["step"]: (tensors, info) for tensors, info in keeper.saved}
    steps = [step for step in (0, 5, 8, 11) if step in saved]
    assert len(steps) >= 3
    for step in steps:
        again = fit(recipe_of(module, data, *more), phase, Kept(saved[step]))
        assert not differing(again.state, whole.state), f"from step {step}"
        assert again.rows == whole.rows, f"from step {step}"


@pytest.mark.parametrize(
    ("module", "more"), [("Plateau", []), ("PlateauOfValidation", ["trainer.val_check_interval=0.4"])]
)
def test_a_state_to_rewind_to_has_the_step_of_a_plateau(module: str, more: list[str]) -> None:
    recipe = recipe_of(module, "Rows", *more)
    keeper = Kept()
    fit(
        often(recipe), phase_of(recipe), keeper, waypoints=[4, 6]
    )  # the first after a validation, if that is by batches
    saved = {info["step"]: (tensors, info) for tensors, info in keeper.saved}
    for k, step in ((4, 1), (6, 5)):
        assert not differing(fit(recipe, phase_of(recipe, last=k)).state, keeper.passed[k])
        again = Kept(saved[step])
        fit(recipe, phase_of(recipe), again, waypoints=[k])
        assert not differing(again.passed[k], keeper.passed[k])
    later, kept = phase_of(recipe, state=keeper.passed[4], first=4), Kept()
    rest = fit(often(recipe), later, kept)
    assert not differing(fit(recipe, later, Kept(kept.saved[1])).state, rest.state)


def test_a_plateau_by_steps_is_stepped_as_by_lightning() -> None:
    """The rates of a training are those of a scheduler of its own that is shown every second loss."""
    recipe = recipe_of("Plateau", "Rows")
    rates, losses, own = list[float](), list[float](), recipe.network

    def network() -> torch.nn.Module:
        module = own()
        step = module.training_step

        def training_step(batch: Any, batch_idx: int) -> Tensor:
            rates.append(module.optimizers().param_groups[0]["lr"])
            loss = step(batch, batch_idx)
            losses.append(float(loss.detach()))
            return loss

        module.training_step = training_step
        return module

    fit(often(replace(recipe, network=network)), phase_of(recipe), Kept())
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.8)
    expected = []
    for number, loss in enumerate(losses):
        expected.append(optimizer.param_groups[0]["lr"])
        if (number % 5 + 1) % 2 == 0:
            plateau.step(loss)
    assert rates == expected
    assert len(set(rates)) > 2


def test_a_plateau_by_steps_sees_the_validation_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("PlateauOfValidation", "Rows", "trainer.val_check_interval=0.4")
    kind = torch.optim.lr_scheduler.ReduceLROnPlateau
    seen, validated, own, step = list[float](), list[float](), recipe.network, kind.step

    def shown(plateau: Any, metrics: Tensor) -> None:
        seen.append(float(metrics))
        step(plateau, metrics)

    def network() -> torch.nn.Module:
        module = own()
        module.on_validation_end = lambda: validated.append(float(module.trainer.callback_metrics["val_loss"]))
        return module

    monkeypatch.setattr(kind, "step", shown)
    fit(often(replace(recipe, network=network)), phase_of(recipe), Kept())
    assert len(seen) == 6
    assert seen == validated[1:-1]  # there is one before training and one at its end


def test_a_state_to_rewind_to_has_no_gradients_and_no_constants() -> None:
    for module, kept in (("Gathers", 0), ("Forgets", 1)):
        recipe, keeper = recipe_of(module, "Rows"), Kept()
        fit(recipe, phase_of(recipe), keeper, waypoints=[4])
        names = keeper.passed[4]
        assert not [name for name in names if "gradients" in name or "constant" in name]
        assert len([name for name in names if ".buffers." in name]) == kept


def test_an_epoch_is_what_the_sampler_draws_in_its_turn() -> None:
    sampler = CountingSampler()
    loader = DataLoader(rows(40), 8, sampler=sampler)
    drawn = {}
    for epochs in ((0, 1, 2), (2,), (1, 1, 0)):
        batches = Ordered(loader, 5)._batches
        for epoch in epochs:
            batches.set_epoch(epoch)
            drawn[epochs, epoch] = [index for _, *indices in batches for index in indices]
    for (_, epoch), indices in drawn.items():
        assert indices == torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).tolist()
    assert sampler.epoch == 0


def test_a_twin_draws_the_same_and_moves_nothing() -> None:
    one = RandomsSampler()
    expected = random.Random(0)
    twin = twin_of(one)
    assert [list(twin), list(twin)] == [expected.sample(range(40), 40) for _ in range(2)]
    assert list(one) == random.Random(0).sample(range(40), 40)


def test_a_stream_goes_on_in_its_own_turn_beside_a_longer_loader() -> None:
    for done, first in ((0, 0), (2, 2), (3, 0), (7, 1)):
        loader = FromStart([10, 11, 12], 5)
        loader.load_state_dict({"epoch": 0, "done": done})
        assert list(loader) == [10, 11, 12][first:]


def test_what_validation_data_draw_does_not_depend_on_workers() -> None:
    found = []
    for workers in (0, 2):
        loaders = evaluated([DataLoader(Noisy(), 4, shuffle=True, num_workers=workers) for _ in range(2)])
        made = [iter(loader) for loader in loaders]  # Lightning makes them before it seeds
        seed_all(7)
        batches = [torch.cat([batch[0] for batch in each]) for each in made]
        found.append([*batches, torch.rand(3)])  # as a step would draw
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][1])
    seed_all(8)
    assert not torch.equal(torch.cat([batch[0] for batch in loaders[0]]), found[0][0])


def test_steps_of_validation_draw_as_if_their_data_drew_nothing() -> None:
    found = []
    for data in (Noisy(), rows(16)):
        loader = evaluated(DataLoader(data, 4))
        seed_all(7)
        found.append([torch.rand(()) + random.random() for _ in loader])
    seed_all(7)
    assert found[0] == found[1] == [torch.rand(()) + random.random() for _ in range(4)]


def test_a_level_by_epoch_is_seen_by_every_reader_and_undone() -> None:
    ends = []
    for workers in (0, 2):
        recipe = recipe_of("Teaches", "Levels", f"data.workers={workers}")
        sizes, own = list[float](), recipe.network

        def network(own: Any = own, sizes: list[float] = sizes) -> torch.nn.Module:
            module = own()

            def on_train_batch_start(batch: Any, batch_idx: int) -> None:
                sizes.append(float(batch[0].abs().sum()))
                assert module.trainer.train_dataloader.batch_size == 8

            module.on_train_batch_start = on_train_batch_start
            return module

        ends.append(fit(replace(recipe, network=network), phase_of(recipe)))
        assert recipe.data.module.rows.level == 5.0
        by_epoch = torch.tensor(sizes).view(3, 5).sum(1) / rows(40).tensors[0].abs().sum()
        torch.testing.assert_close(by_epoch, torch.tensor([1.0, 2.0, 3.0]))
    assert not differing(ends[0].state, ends[1].state)


def test_asking_for_a_loss_answers_hooks_as_the_loader_does() -> None:
    recipe = recipe_of("Teaches", "Levels")
    asking = recipe.asking(recipe.build(0))
    asking.loss(next(iter(recipe.data.training(0))))
    assert recipe.data.module.rows.level == 5.0


@pytest.mark.slow
def test_a_curriculum_passes_the_check_before_training() -> None:
    check(cell_of("Teaches", "Levels"))


def test_what_no_checkpoint_holds_is_refused() -> None:
    data = Leveled()
    curriculum = Curriculum(torch.utils.data.Subset(data, [0, 1]))
    data.rows = rows(8)
    with pytest.raises(Refused, match="a hook sets rows of the training data set Leveled to a TensorDataset"):
        curriculum.note()
    curriculum.undo()
    assert len(data.rows) == 40


def test_a_level_that_workers_would_not_see_is_refused() -> None:
    data = Leveled()
    batches = iter(Ordered(DataLoader(data, 8, num_workers=1), 0))
    data.level = 2.0
    assert next(batches)[0].abs().sum() == 2 * rows(40).tensors[0][:8].abs().sum()
    data.level = 3.0
    with pytest.raises(Refused, match="a hook changes the training data set while its workers read it"):
        next(batches)


def test_a_sampler_that_a_hook_changes_is_refused() -> None:
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * 40, 40)
    ordered = Ordered(DataLoader(rows(40), 8, sampler=sampler), 0)
    ordered.set_epoch(0)
    assert len(list(ordered)) == 5
    ordered.sampler.weights[3] = 0.0
    with pytest.raises(Refused, match="a hook changes weights of the training data's BatchSampler"):
        ordered.set_epoch(1)


def test_data_that_remember_what_they_drew_are_refused() -> None:
    with pytest.raises(Refused, match="the train data of Remembers keep what Noisy has drawn"):
        recipe_of("Lit", "Remembers")
