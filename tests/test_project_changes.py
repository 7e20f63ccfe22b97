"""Masks that change while a Lightning project trains: as a plain loop does it, resumed anywhere, and asked in peace."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.config.check import check
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all
from lottery.pruning import growth
from lottery.pruning.criteria import magnitude, snip
from lottery.pruning.masks import Masks, dense, density, kept
from lottery.pruning.schedules import one_shot
from lottery.pruning.scopes import layerwise
from lottery.training.changes import Changes, Gradual, Moment, Rewiring, Rule
from lottery.training.changing import Changing
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.loop import masked
from lottery.training.lightning.module.evidence import EvidenceBatches
from lottery.training.lightning.project import Project
from lottery.training.phase import Diverged, Phase
from lottery.training.recipes import Budget
from tests.few import few
from tests.lightning import ADVICE, Kept, cell_of, differing, every, phase_of, some_masks
from tests.rows import LitRows, Rows
from tests.server import Server
from tests.test_project_analyses import line_of, rows

pytestmark = ADVICE

STEPS = 16
RULES: dict[str, Rule] = {
    "gradual": Gradual(every=3, begin=1, end=13, criterion=magnitude, scope=layerwise),
    "gradual by snip": Gradual(every=5, begin=0, end=10, criterion=snip, scope=layerwise),
    "set": Rewiring(every=3, end=13),
    "rigl": Rewiring(
        every=3, end=15, fraction=growth.cosine, growth=growth.by_gradient, in_place_of_a_step=True
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe_of(epochs: int = 2, adam: bool = False, lr: float = 0.05, **arguments: Any) -> Project:
    """The project of tests/rows.py, not composed, which takes longer than training; a checkpoint after each step."""
    data = ProjectData(Rows(), arguments.get("accumulate_grad_batches", 1))
    steps = epochs * data.steps_per_epoch
    hardware = Hardware(accelerator="cpu", checkpoint_seconds=1e-9)
    network = partial(LitRows, adam=adam, lr=lr)
    return Project(data, network, Budget(steps, steps, steps), hardware=hardware, arguments=arguments, asked="error")


def working(recipe: Project, rule: Rule, final: float = 0.2) -> Phase:
    masks = some_masks(recipe, 0.4)
    if rule.begins_dense:
        masks = dense(masks)
    phase = phase_of(recipe, masks)
    state = {name: tensor * masks[name] if name in masks else tensor for name, tensor in phase.state.items()}
    return replace(phase, state=state, changes=Changes(rule, final, {"of": "a test"}))


# against a plain loop


def top(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """The `count` highest of some, the first of equal ones."""
    chosen = torch.zeros_like(among)
    order = scores.masked_fill(~among, -1).flatten().argsort(descending=True, stable=True)
    chosen.view(-1)[order[:count]] = True
    return chosen


def by_hand(recipe: Project, phase: Phase, adam: bool, accumulate: int, clip: float | None) -> tuple[Any, Masks]:
    """RigL of RULES in a loop without Lightning, over the same order and with the same seeds before each batch."""
    module = LitRows()
    module.load_state_dict(phase.state)
    masks = {name: mask.clone() for name, mask in phase.masks.items()}
    weights = {name: weight for name, weight in module.named_parameters() if name in masks}
    kinds: dict[bool, Callable[..., Any]] = {True: torch.optim.Adam, False: partial(torch.optim.SGD, momentum=0.9)}
    optimizer = kinds[adam](module.parameters(), lr=0.05)
    per_epoch, batches, step = 8 // accumulate, 0, 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * per_epoch)
    loader = recipe.data.training(phase.order)
    rule = phase.changes.rule if phase.changes else None
    assert isinstance(rule, Rewiring)
    due = rule.steps(2 * per_epoch)
    module.train()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for number, (x, y) in enumerate(loader):
            batches += 1
            seed_all(derive(phase.noise, "batch", batches))
            noisy = x + 0.1 * torch.randn_like(x)
            loss = functional.cross_entropy(module(noisy), y) / accumulate
            if number % accumulate == 0:
                optimizer.zero_grad()
            loss.backward()
            if (number + 1) % accumulate:
                continue
            if step in due:
                assert rule.end is not None
                share = growth.cosine(step, rule.end, 0.3)
                for name, weight in weights.items():
                    old = masks[name]
                    count = round(share * int(old.sum()))
                    left = top(weight.detach().abs(), old, int(old.sum()) - count)
                    new = left | top(weight.grad.abs(), ~left, count)
                    with torch.no_grad():
                        weight.mul_(new)
                        for values in optimizer.state[weight].values():
                            if values.shape == weight.shape:
                                values[new != old] = 0
                    masks[name] = new
                optimizer._opt_called = True
            else:
                for name, weight in weights.items():
                    weight.grad.mul_(masks[name])
                if clip:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
                for name, weight in weights.items():
                    weight.data.mul_(masks[name])
            schedule.step()
            step += 1
    return module.state_dict(), masks


@pytest.mark.parametrize(
    ("adam", "accumulate", "clip"), few([(False, 1, None), (True, 1, 0.1), (False, 2, 0.1), (True, 2, None)], 2)
)
def test_rigl_of_a_project_is_that_of_a_plain_loop(adam: bool, accumulate: int, clip: float | None) -> None:
    recipe = recipe_of(adam=adam, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    rule = replace(RULES["rigl"], every=2, end=7) if accumulate == 2 else RULES["rigl"]
    phase = working(recipe, rule)
    trained = fit(recipe, phase)
    state, masks = by_hand(recipe, phase, adam, accumulate, clip)
    assert [change["step"] for change in trained.changed] == rule.steps(recipe.budget.steps)
    assert not differing(trained.masks, masks)
    assert differing(masks, phase.masks)
    assert not differing(trained.state, state)


# rules


@pytest.mark.parametrize("kind", RULES)
def test_pruned_weights_are_zero_and_the_counts_are_those_of_the_rule(kind: str) -> None:
    recipe, rule = recipe_of(), RULES[kind]
    phase = working(recipe, rule)
    trained = fit(recipe, phase)
    assert not any(trained.state[name][~mask].any() for name, mask in trained.masks.items())
    assert [change["step"] for change in trained.changed] == rule.steps(STEPS)
    assert all(change["dense_gradients"] == (kind == "rigl") for change in trained.changed)
    sizes = {name: mask.numel() for name, mask in phase.masks.items()}
    for change in trained.changed:
        found = {name: round(share * sizes[name]) for name, share in change["densities"].items()}
        if isinstance(rule, Gradual):
            assert rule.end is not None
            passed = (change["step"] - rule.begin) / (rule.end - rule.begin)
            whole = 0.2 + 0.8 * (1 - passed) ** 3
            assert sum(found.values()) == pytest.approx(whole * sum(sizes.values()), abs=len(sizes))
        else:
            assert found == {name: int(mask.sum()) for name, mask in phase.masks.items()}
    assert trained.changed[-1]["densities"] == {name: density({name: mask}) for name, mask in trained.masks.items()}
    if isinstance(rule, Gradual):
        assert kept(trained.masks) == pytest.approx(0.2 * sum(sizes.values()), abs=len(sizes))


@pytest.mark.parametrize(("kind", "adam"), [("set", False), ("rigl", True)])
def test_what_a_change_grows_begins_at_zero_and_without_momentum(
    kind: str, adam: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, seen, any_changed = recipe_of(adam=adam), list[tuple[bool, bool, bool]](), [False]

    class Watched(Changing):
        def _change(self, step: int, gradients: Mapping[str, Tensor]) -> None:
            before = self.holding.masks
            super()._change(step, gradients)
            for name, mask in self.holding.masks.items():
                weight = self.holding.weights[name]
                moments = [v for v in self.optimizers[0].state[weight].values() if v.shape == weight.shape]
                assert len(moments) == 1 + adam
                changed, stayed = mask != before[name], mask & before[name]
                any_changed[0] |= bool(changed.any())
                kept_ones = all(bool(each[stayed].any()) for each in moments)
                grown = bool(weight.detach()[mask & ~before[name]].any())
                seen.append((grown, any(bool(each[changed].any()) for each in moments), kept_ones))

    monkeypatch.setattr(masked, "Changing", Watched)
    fit(recipe, working(recipe, RULES[kind]))
    assert set(seen) == {(False, False, True)}
    assert any_changed[0]


@pytest.mark.parametrize("kind", ["set", "rigl"])
def test_layers_that_are_frozen_at_a_change_keep_their_masks(kind: str) -> None:
    """As hooks freeze them while it trains: the module that a criterion sees is another."""

    class Freezing(LitRows):
        def on_train_start(self) -> None:
            self.net[0].weight.requires_grad_(False)

    recipe = replace(recipe_of(), network=Freezing)
    phase = working(recipe, RULES[kind])
    trained = fit(recipe, phase)
    assert [n for n, mask in trained.masks.items() if torch.equal(mask, phase.masks[n])] == ["net.0.weight"]
    assert torch.equal(trained.state["net.0.weight"], phase.state["net.0.weight"])


@pytest.mark.parametrize(
    ("kind", "more"),
    few(
        [
            ("gradual", {}), ("rigl", {"accumulate_grad_batches": 2, "epochs": 4}), ("set", {}), ("rigl", {}),
            ("set", {"accumulate_grad_batches": 3, "epochs": 6, "val_check_interval": 0.5}), ("gradual by snip", {}),
        ],
        3,
    ),
)  # fmt: skip
def test_a_training_goes_on_from_every_step_to_the_same_end(kind: str, more: dict[str, Any]) -> None:
    recipe = recipe_of(**more)
    phase, keeper = working(recipe, RULES[kind]), Kept()
    whole = fit(recipe, phase, keeper)
    assert [change["step"] for change in whole.changed] == RULES[kind].steps(recipe.budget.steps)
    steps = {info["step"] for _, info in keeper.saved}
    assert steps > {change["step"] for change in whole.changed} - {0}
    assert any(step - 1 in {change["step"] for change in whole.changed} for step in steps)
    for begin in every(keeper.saved, 7):
        again = fit(recipe, phase, Kept(begin))
        at = f"from step {begin[1]['step']}"
        assert not differing(again.state, whole.state), at
        assert not differing(again.masks, whole.masks), at
        assert again.changed == whole.changed, at
        assert again.rows == whole.rows, at


def test_a_waypoint_has_the_masks_of_its_step_and_a_phase_is_part_of_a_longer_one() -> None:
    recipe = recipe_of()
    phase = working(recipe, RULES["gradual"])
    passed = list[tuple[int, Any, Masks]]()

    class Passing(Kept):
        def pass_by(self, step: int, state: Any, masks: Masks) -> None:
            passed.append((step, state, masks))

    fit(recipe, phase, Passing(), waypoints=[4, 8])
    for step, state, masks in passed:
        cut = fit(recipe, replace(phase, last=step))
        assert not differing(cut.masks, masks)
        assert not differing(cut.state, state)
        assert [change["step"] for change in cut.changed] == [s for s in RULES["gradual"].steps(STEPS) if s < step]
    assert len(passed) == 2


# in peace


@dataclass(frozen=True)
class Curious:
    """Looks at all that it can, and changes nothing."""

    begins_dense: ClassVar[bool] = False
    in_place_of_a_step: ClassVar[bool] = False

    def steps(self, of: int) -> list[int]:
        return list(range(0, of, 3))

    def masks(self, moment: Moment) -> Masks:
        evidence = moment.evidence
        assert any(gradient.any() for gradient in evidence.gradients(2).values())
        evidence.activations(next(iter(evidence.batches)))
        torch.rand(3)
        return moment.masks


@pytest.mark.parametrize("kind", few(["rows", "classifier", "segmenter", "forecast"], 1))
def test_a_rule_that_changes_nothing_is_no_rule(kind: str) -> None:
    """Bit for bit, whatever it asks while the Trainer is at work: weights, what is logged, schedules, checkpoints."""
    recipe = recipe_of() if kind == "rows" else cell_of(kind).study.recipe
    assert isinstance(recipe, Project)
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    masks = some_masks(recipe)
    phase = phase_of(recipe, masks)
    found, keepers = [], [Kept(), Kept()]
    for changes, keeper in zip((None, Changes(Curious(), 0.3, {})), keepers, strict=True):
        found.append(fit(recipe, replace(phase, changes=changes), keeper))
    plain, asked = found
    assert not differing(plain.state, asked.state)
    assert not differing(plain.masks, asked.masks)
    assert plain.rows == asked.rows
    assert len(asked.changed) == len(Curious().steps(recipe.budget.steps))
    for (one, about), (other, also) in zip(*(keeper.saved for keeper in keepers), strict=True):
        assert not differing(one, {name: tensor for name, tensor in other.items() if not name.startswith("mask.")})
        assert about == {key: value for key, value in also.items() if key != "changed"}


def test_a_rule_sees_the_network_as_it_is_and_batches_of_its_own() -> None:
    recipe, seen = recipe_of(), list[Any]()

    class Looking(Curious):
        def masks(self, moment: Moment) -> Masks:
            batches = list(moment.evidence.batches)
            seen.append((moment.step, {n: t.clone() for n, t in moment.evidence.net.state_dict().items()}, batches))
            return moment.masks

    phase = replace(phase_of(recipe, some_masks(recipe)), changes=Changes(Looking(), 0.3, {}))
    fit(recipe, phase)
    for step, state, batches in seen:
        if step:
            cut = fit(recipe, replace(phase, changes=None, last=step)).state
            assert not differing(state, {name: tensor for name, tensor in cut.items() if not name.startswith("@")})
        expected = list(EvidenceBatches(recipe.data, derive(phase.order, "change", step)))
        assert len(batches) == len(expected) == 8
        assert all(torch.equal(one[0], other[0]) for one, other in zip(batches, expected, strict=True))


# bad input, whole arms


def test_masks_of_a_module_with_manual_optimization_do_not_change() -> None:
    with pytest.raises(Refused, match=r"^arm\.during: masks change at optimizer steps, which a module with manual opt"):
        cell_of("gan", "arm=set", "schedule.rounds=1")


@pytest.mark.parametrize("kind", ["gradual", "rigl"])
def test_a_training_that_diverges_is_named_so_before_masks_change(kind: str) -> None:
    recipe = recipe_of(lr=1e30)
    with pytest.raises(Diverged, match=r"became NaN or infinite (before|at) step \d+"):
        fit(recipe, working(recipe, RULES[kind]))


def test_an_optimizer_step_that_takes_none_is_named() -> None:
    recipe = recipe_of()
    own = recipe.network

    def network() -> nn.Module:
        module = own()

        def optimizer_step(epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
            optimizer_closure() if batch_idx == 3 else optimizer.step(closure=optimizer_closure)

        module.optimizer_step = optimizer_step
        return module

    with pytest.raises(Refused, match=r"^model: its optimizer_step takes no step at step 3, whose gradients arm\.dur"):
        fit(replace(recipe, network=network), working(recipe, RULES["rigl"]))


@pytest.mark.slow
def test_a_rule_that_fits_no_project_is_found_before_training() -> None:
    with pytest.raises(Refused, match=r"^arm\.during\.end=40: must be before the last of the 16 steps"):
        check(rows("arm=set", "arm.during.end=40it"))
    cell = rows("arm=at_init", "schedule.rounds=1")
    with pytest.raises(Refused, match=r"^arm\.descent: its last density is 0\.5; it must be 0\.8, that of the round$"):
        check(replace(cell, arm=replace(cell.arm, descent=lambda density: one_shot(0.5))))


class LitRprop(LitRows):
    def configure_optimizers(self) -> Any:
        return torch.optim.Rprop(self.parameters(), lr=0.01)


def test_an_optimizer_of_a_project_that_does_not_begin_at_zero_is_refused_before_training() -> None:
    cell = rows("arm=set", "arm.during.every=4it")
    cell = replace(cell, study=replace(cell.study, recipe=replace(cell.study.recipe, network=LitRprop)))
    with pytest.raises(Refused, match=r"^arm\.during: goes without Rprop, which begins with its step sizes at lr"):
        check(cell)


@pytest.mark.parametrize("arm", few(["rigl", "set", "gradual"], 1))
def test_a_whole_run(arm: str, lottery: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "rows.py", tmp_path / "rows_of_mine.py")
    command = of_mine(f"arm={arm}", "arm.during.every=4it", "schedule.keep=0.4", "scope=everywhere", "criterion=random")
    done = lottery("run", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = tmp_path.glob("runs/*/*/*/ledger.jsonl")
    _, line = [json.loads(text) for text in path.read_text().splitlines()]
    sizes = {"net.0.weight": 96, "net.4.weight": 192, "net.7.weight": 24}
    assert line["density"] == pytest.approx(0.4, abs=0.01)
    # forward and both gradients for every layer but the first, whose inputs need none
    costs = {name: 2 * size * 8 * (2 if name == "net.0.weight" else 3) for name, size in sizes.items()}
    assert line["train_flops_dense"] == STEPS * sum(costs.values())
    at = sum(cost * line["layer_densities"][name] for name, cost in costs.items())
    if arm == "set":
        assert line["train_flops"] == pytest.approx(STEPS * at)
    if arm == "rigl":  # steps 4 and 8 compute the gradients of all weights: a third of a step is dense
        assert line["train_flops"] == pytest.approx((STEPS - 2) * at + 2 * (2 * at + sum(costs.values())) / 3)
    again = lottery("run", *command)
    assert "1 of 1 cells are finished already" in again.stdout


def of_mine(*more: str) -> list[str]:
    """The command line of the project of tests/rows.py, copied into the working folder."""
    return [word.replace("tests.rows.", "rows_of_mine.") for word in line_of(*more)]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["rigl", "set", "gradual"])
@pytest.mark.parametrize("dies", [20, 21, 27])
def test_killed_for_real_it_ends_with_the_same_ledger(server: Server, tmp_path: Path, arm: str, dies: int) -> None:
    """At an update of masks, just after one, and in the second epoch."""
    shutil.copy(Path(__file__).parent / "rows.py", tmp_path / "rows_of_mine.py")
    command = of_mine(f"arm={arm}", "arm.during.every=4it", "criterion=random", "hardware.checkpoint_seconds=1e-9")
    assert server.run(tmp_path, "run", *command, "out=whole")[0] == 0
    code, said = server.run(tmp_path, "run", *command, "out=killed", dies=dies)
    assert code == -signal.SIGKILL, said
    code, said = server.run(tmp_path, "run", *command, "out=killed")
    assert code == 0, said
    assert "goes on from the checkpoint at step" in said
    ledgers = []
    for out in ("whole", "killed"):
        [path] = (tmp_path / out).glob("*/*/*/ledger.jsonl")
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        ledgers.append([{key: value for key, value in line.items() if key != "run"} for line in lines])
    assert ledgers[0] == ledgers[1]
