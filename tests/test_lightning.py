"""A user's LightningModule and DataModule, unchanged: trained as plain Lightning does, masked, resumable anywhere."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seed_all
from lottery.pruning.contracts import Evidence
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.lightning.loop.position import checkpoint_at
from lottery.training.lightning.project import Project
from lottery.training.states import State, position, weights
from tests.few import few
from tests.lightning import ADVICE, EACH, Kept, differing, every, phase_of, plainly, recipe_of, some_masks, words
from tests.server import Server

pytestmark = ADVICE


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of the projects writes a file


@pytest.mark.parametrize("kind", EACH)
def test_an_unpruned_training_is_that_of_plain_lightning(kind: str) -> None:
    recipe = recipe_of(kind)
    phase = phase_of(recipe)
    ours = fit(recipe, phase)
    theirs, logged = plainly(kind, recipe, phase, recipe.arguments)
    assert not differing(weights(ours.state), theirs)
    for name, called in recipe.logged["val"].names.items():
        assert ours.rows[-1][called] == pytest.approx(logged[name], rel=1e-6)
    assert len(ours.rows) == 2
    assert ours.rows[-1]["step"] == phase.last
    assert all(f"test_{recipe.headline.name}" in row for row in ours.rows)


@pytest.mark.parametrize("kind", EACH)
def test_pruned_weights_are_zero_and_every_checkpoint_goes_on_to_the_same_end(kind: str) -> None:
    recipe = recipe_of(kind)
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    masks = some_masks(recipe)
    phase = phase_of(recipe, masks)
    state = {n: t * masks[n] if n in masks else t for n, t in phase.state.items()}
    phase = replace(phase, state=state)
    keeper = Kept()
    whole = fit(recipe, phase, keeper)
    for name, mask in masks.items():
        assert not whole.state[name][~mask].any()
        assert differing({name: whole.state[name]}, {name: state[name]}) or not mask.any() or "1." in name
    steps = [info["step"] for _, info in keeper.saved]
    assert {1, phase.last // 2} <= set(steps)  # in the middle of an epoch, and between two
    between = [begin for begin in keeper.saved if begin[1]["step"] == phase.last // 2]
    for begin in [*between, *every(keeper.saved, 5)]:
        again = fit(recipe, phase, Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"
        assert again.rows == whole.rows, f"from step {begin[1]['step']}"


@pytest.mark.parametrize(
    "arguments",
    few(
        [
            ["trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"],
            ["trainer.val_check_interval=0.5"],
            ["trainer.check_val_every_n_epoch=2", "trainer.limit_val_batches=1"],
            ["budget.steps=13"],  # ends in the middle of an epoch
        ],
        1,
    ),
)
def test_the_trainer_s_own_arguments_hold_and_every_checkpoint_goes_on(arguments: list[str]) -> None:
    recipe = recipe_of("classifier", *arguments)
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    phase, keeper = phase_of(recipe), Kept()
    whole = fit(recipe, phase, keeper)
    if not arguments[0].startswith("budget"):
        assert not differing(weights(whole.state), plainly("classifier", recipe, phase, recipe.arguments)[0])
    assert whole.rows[-1]["step"] == phase.last
    for begin in every(keeper.saved, 7):
        again = fit(recipe, phase, Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"
        assert again.rows == whole.rows, f"from step {begin[1]['step']}"


@pytest.mark.parametrize("kind", few(["gan", "classifier", "segmenter"], 1))
def test_a_phase_is_part_of_a_longer_one(kind: str) -> None:
    recipe = recipe_of(kind)
    half = recipe.budget.steps // 2
    for k in (half // 2, half):  # in the middle of an epoch, and between two
        keeper = Kept()
        whole = fit(recipe, phase_of(recipe), keeper, waypoints=[k])
        start = keeper.passed[k]
        assert position(start)
        assert not differing(fit(recipe, phase_of(recipe, last=k)).state, start)
        rest = fit(recipe, phase_of(recipe, state=start, first=k))
        assert [row["step"] for row in rest.rows] == [row["step"] for row in whole.rows if row["step"] > k]
        assert differing(rest.state, whole.state)  # the optimizer begins fresh


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_workers_change_no_number(workers: int) -> None:
    recipe = recipe_of("classifier")
    keeper = Kept()
    alone = fit(
        replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9)), phase_of(recipe), keeper
    )
    [middle] = [begin for begin in keeper.saved if begin[1]["step"] == phase_of(recipe).last - 4]
    recipe = recipe_of("classifier", f"data.workers={workers}")
    for begin in (None, middle):  # workers read ahead, before a resumed training knows its place
        found = fit(recipe, phase_of(recipe), Kept(begin))
        assert not differing(found.state, alone.state)
        assert found.rows == alone.rows


def test_gradients_of_pruned_weights_count_in_no_clipping() -> None:
    clipped = recipe_of("classifier", "trainer.gradient_clip_val=0.1")
    masks = some_masks(clipped, 0.1)
    phase = phase_of(clipped, masks)
    state = {n: t * masks[n] if n in masks else t for n, t in phase.state.items()}
    seen = []
    own = clipped.network

    def network() -> torch.nn.Module:
        module = own()

        def on_before_optimizer_step(optimizer: torch.optim.Optimizer) -> None:
            named = dict(module.named_parameters())
            seen.append(any(named[name].grad[~mask].any() for name, mask in masks.items()))

        module.on_before_optimizer_step = on_before_optimizer_step
        return module

    fit(replace(clipped, network=network), replace(phase, state=state))
    assert seen
    assert not any(seen)


def evidence_of(recipe: Project, state: State) -> Evidence:
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in recipe.prunable(recipe.net).items()}
    return recipe.evidence(state, state, masks, init=5, order=11, rng=torch.Generator())


def test_gradients_for_criteria_are_those_of_the_training_step() -> None:
    recipe = recipe_of("segmenter")
    state = phase_of(recipe).state
    evidence = evidence_of(recipe, state)
    found = evidence.gradients(2)
    module = recipe.build(5)
    module.load_state_dict(state)
    module.eval()
    module.log = lambda *_, **__: None
    module.trainer = SimpleNamespace(is_global_zero=False)
    weights_ = {name: weight for name, weight in module.named_parameters() if name in found}
    losses = [module.training_step(batch, 0) for _, batch in zip(range(2), evidence.batches, strict=False)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(weights_.values()))
    for (name, gradient), by_hand in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, by_hand, msg=name)
    assert not differing(evidence.net.state_dict(), state)  # no step, no statistic of BatchNorm
    assert all(weight.grad is None for weight in evidence.net.parameters())
    assert len(evidence.activations(next(iter(evidence.batches)))) == len(found)


def test_what_an_optimizer_does_by_itself_is_undone_where_it_is_pruned() -> None:
    """Masked gradients keep zeros for the usual optimizers; one that moves every weight needs its weights masked."""

    class Drift(torch.optim.SGD):
        def step(self, closure: Callable[[], float]) -> float:
            loss = closure()
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.add_(1e-4)
            return loss

    recipe = recipe_of("siamese")
    own, masks = recipe.network, some_masks(recipe)

    def network() -> torch.nn.Module:
        module = own()
        module.configure_optimizers = lambda: Drift(module.parameters(), 0.01)
        return module

    trained = fit(replace(recipe, network=network), phase_of(recipe, masks))
    assert masks
    assert not any(trained.state[name][~mask].any() for name, mask in masks.items())


def test_criteria_see_a_network_in_evaluation_mode() -> None:
    recipe = recipe_of("classifier")  # with dropout and BatchNorm
    state = phase_of(recipe).state
    evidence = evidence_of(recipe, state)
    evidence.gradients(2)
    assert not evidence.net.training
    assert not differing(evidence.net.state_dict(), state)


def test_a_step_without_where_training_stood_is_refused() -> None:
    recipe = recipe_of("siamese")
    with pytest.raises(Refused, match=r"arm\.first=3: its weights come without where training stood"):
        fit(recipe, phase_of(recipe, first=3))


def test_gradients_of_two_optimizers_are_what_each_would_have_seen() -> None:
    """Not those of the sum of both losses, whether or not the module keeps them apart by toggling."""
    recipe = recipe_of("gan")
    state, own, found = phase_of(recipe).state, recipe.network, []

    def network() -> torch.nn.Module:
        module = own()
        module.toggle_optimizer = module.untoggle_optimizer = lambda *_: None
        return module

    for each in (recipe, replace(recipe, network=network)):
        evidence = evidence_of(each, state)
        seed_all(3)
        found.append(evidence.gradients(2))
    assert not differing(found[0], found[1])
    assert all(gradient.any() for gradient in found[0].values())
    module = recipe.build(5)
    module.load_state_dict(state)
    seed_all(3)
    expected = torch.zeros(())
    generator = list(module.generator.parameters())
    for real in [batch[0] for _, batch in zip(range(2), recipe.data.training(11), strict=False)]:
        judged = module.discriminator(module.generator(torch.randn(len(real), 4)))
        loss = functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        expected = expected + torch.autograd.grad(loss, generator)[0] / 2
    by_hand = functional.cosine_similarity(found[0]["generator.0.weight"].flatten(), expected.flatten(), dim=0)
    assert float(by_hand) > 0.5  # of other noise


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("dies", [2, 5])
def test_killed_for_real_it_ends_with_the_same_ledger(server: Server, tmp_path: Path, kind: str, dies: int) -> None:
    _killed(server, tmp_path, kind, dies)


@pytest.mark.slow
def test_a_killed_command_ends_with_the_same_ledger(server: Server, tmp_path: Path) -> None:
    _killed(server, tmp_path, "classifier", 5)


def _killed(server: Server, tmp_path: Path, kind: str, dies: int) -> None:
    """Compares an undisturbed command with one that kills itself while it writes its checkpoint number `dies`."""
    shutil.copy(Path(__file__).parent / "projects" / f"{kind}.py", tmp_path / f"{kind}_of_mine.py")
    command = [word.replace(f"tests.projects.{kind}.", f"{kind}_of_mine.") for word in words(kind, "schedule.rounds=1")]
    often = [*command, "hardware.checkpoint_seconds=1e-9"]
    assert server.run(tmp_path, "run", *often, "out=whole")[0] == 0
    code, said = server.run(tmp_path, "run", *often, "out=killed", dies=dies)
    assert code == -signal.SIGKILL, said
    code, said = server.run(tmp_path, "run", *often, "out=killed")
    assert code == 0, said
    if dies > 2:
        assert "goes on from the checkpoint at step" in said
    lines = []
    for out in ("whole", "killed"):
        [path] = (tmp_path / out).glob("*/*/*/ledger.jsonl")
        lines.append(
            [{k: v for k, v in json.loads(line).items() if k != "run"} for line in path.read_text().splitlines()]
        )
    assert lines[0] == lines[1]


def test_without_evaluation_nothing_is_tested_and_training_is_the_same() -> None:
    recipe = recipe_of("classifier")
    phase = phase_of(recipe)
    whole, untested = (fit(recipe, phase, evaluate=evaluate) for evaluate in (True, False))
    assert not differing(whole.state, untested.state)
    assert "test_acc" in whole.rows[-1]
    assert not any(name.startswith("test_") for row in untested.rows for name in row)


@pytest.mark.parametrize("kind", few(["classifier", "gan", "forecast"], 1))
def test_a_waypoint_is_the_same_from_every_checkpoint(kind: str) -> None:
    """All of it is part of the keys of later rounds, what Lightning counts and has logged too."""
    recipe = recipe_of(kind)
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    k, keeper = recipe.budget.steps // 2 + 2, Kept()
    fit(recipe, phase_of(recipe), keeper, waypoints=[k])
    steps = [info["step"] for _, info in keeper.saved]
    for at in (0, k // 2, k - 2, k - 1):  # the training's first step, amid an epoch, between two, the one before
        again = Kept(keeper.saved[steps.index(at)])
        fit(recipe, phase_of(recipe), again, waypoints=[k])
        assert not differing(again.passed[k], keeper.passed[k]), f"from step {at}"


def test_what_lies_beside_the_weights_of_a_waypoint_keeps_its_order() -> None:
    """Its text is digested into the keys of later rounds, entry after entry."""
    recipe = recipe_of("forecast")
    own = recipe.network

    def network() -> torch.nn.Module:
        module = own()
        module.register_buffer("seen", torch.zeros(()), persistent=False)
        module.on_train_batch_end = lambda *_: module.seen.add_(1)
        return module

    keeper = Kept()
    fit(recipe := replace(recipe, network=network), phase_of(recipe), keeper, waypoints=[3])
    begun = checkpoint_at(keeper.passed[3])
    assert begun is not None
    assert list(begun)[-2:] == ["lottery_accumulated", "state_dict"]
    assert list(begun["lottery_accumulated"]) == ["metrics", "means", "logged", "modes", "trains", "buffers"]


def test_the_module_s_own_hooks_are_part_of_what_a_checkpoint_holds() -> None:
    """A teacher that follows after each batch, and layers that a hook freezes, as after every resume."""
    recipe = recipe_of("siamese")
    own = recipe.network

    def network() -> torch.nn.Module:
        module = own()
        module.register_buffer("teacher", torch.zeros(()))

        def on_train_batch_end(outputs: object, batch: object, batch_idx: int) -> None:
            module.teacher.add_(list(module.parameters())[-1].detach().abs().mean())

        def on_train_epoch_start() -> None:
            next(module.parameters()).requires_grad_(module.trainer.current_epoch == 0)

        module.on_train_batch_end, module.on_train_epoch_start = on_train_batch_end, on_train_epoch_start
        return module

    recipe = replace(recipe, network=network, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    keeper = Kept()
    whole = fit(recipe, phase_of(recipe), keeper)
    for begin in every(keeper.saved, 7):
        again = fit(recipe, phase_of(recipe), Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"


@pytest.mark.slow
def test_the_training_loss_of_a_row_is_that_of_whole_steps() -> None:
    rows = {}
    for batches in (1, 2):
        recipe = recipe_of("siamese", f"trainer.accumulate_grad_batches={batches}", "model.lr=1e-9")
        rows[batches] = fit(recipe, phase_of(recipe)).rows[0]["train_loss"]
    assert rows[1] == pytest.approx(rows[2], rel=1e-3)
