"""`lottery check` and the contracts behind it: ours all pass, and each way to break one is named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lottery.config.check_contracts import arm_faults, data_faults, faults, rule_faults
from lottery.config.compose import cell_configs
from lottery.config.groups import CONF, options
from lottery.config.nodes import make
from lottery.data.examples import Data, Examples
from lottery.pruning.contract_checks import criterion_faults, schedule_faults, scope_faults
from lottery.pruning.contracts import Evidence, Scope, Scores, Target
from lottery.pruning.criteria import magnitude
from lottery.pruning.masks import Masks
from lottery.pruning.schedules import geometric
from lottery.pruning.scopes import everywhere
from lottery.rounds.study import Cell
from tests.conftest import TINY
from tests.test_criteria import evidence as evidence  # a fixture

SHAPES = {"conv.weight": (4, 4, 3, 3), "fc.weight": (32, 16), "output.weight": (12, 8)}
TRIED = (
    {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()},
    (Target(0.5, 0.5, "output.weight"), Target(0.25, 0.5, "output.weight")),
)
OTHERWISE = {"obs": {"damping": 10.0}}
"""settings that an option needs on a network that is not trained"""


def shipped(group: str) -> list[Any]:
    nodes = {name: yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) for name in sorted(options(group))}
    return [pytest.param(partial(make, group, node | OTHERWISE.get(name, {})), id=name) for name, node in nodes.items()]


@pytest.mark.parametrize("criterion", shipped("criterion"))
def test_every_criterion_of_ours_keeps_its_contract(criterion: Callable[[], Any], evidence: Evidence) -> None:
    assert list(criterion_faults(criterion(), evidence)) == []


@pytest.mark.parametrize("scope", shipped("scope"))
def test_every_scope_of_ours_keeps_its_contract(scope: Callable[[], Scope]) -> None:
    assert list(scope_faults(scope(), *TRIED)) == []


@pytest.mark.parametrize("schedule", shipped("schedule"))
def test_every_schedule_of_ours_keeps_its_contract(schedule: Callable[[], Any]) -> None:
    assert list(schedule_faults(schedule)) == []


@pytest.mark.parametrize("arm", sorted(set(options("arm")) - {"ticket"}))
def test_every_arm_of_ours_keeps_its_contract(arm: str, cell: Callable[..., Cell]) -> None:
    every = ["arm.during.every=10it"] if arm in ("gradual", "set", "rigl") else []
    assert [*arm_faults(made := cell(f"arm={arm}", *every)), *rule_faults(made)] == []


def test_digits_keep_their_contract(cell: Callable[..., Cell]) -> None:
    [config] = cell_configs(["data=digits"])
    assert list(faults("data", config, cell())) == []


def scores(evidence: Evidence) -> Scores:
    return {name: weight.detach().abs() for name, weight in evidence.weights.items()}


def changing_weights(evidence: Evidence) -> Scores:
    with torch.no_grad():
        evidence.net[0].weight.mul_(0.5)
    return scores(evidence)


def changing_masks(evidence: Evidence) -> Scores:
    evidence.masks["5.weight"][0] = False
    return scores(evidence)


def leaving_gradients(evidence: Evidence) -> Scores:
    evidence.loss(next(iter(evidence.batches))).backward()
    return scores(evidence)


def leaving_training_mode(evidence: Evidence) -> Scores:
    evidence.net.train()
    return scores(evidence)


def leaving_a_hook(evidence: Evidence) -> Scores:
    evidence.net[0].register_forward_hook(lambda *_: None)
    return scores(evidence)


def drawing_from_torch(evidence: Evidence) -> Scores:
    return {name: torch.rand(mask.shape) for name, mask in evidence.masks.items()}


def drawing_from_numpy(evidence: Evidence) -> Scores:
    return {name: values + np.random.rand() for name, values in scores(evidence).items()}


def not_finite(evidence: Evidence) -> Scores:
    return {name: values / 0 for name, values in scores(evidence).items()}


class Counting:
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, evidence: Evidence) -> Scores:
        self.asked += 1
        return {name: values * self.asked for name, values in scores(evidence).items()}


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (changing_weights, "changes what it is given: 0.weight of the network"),
        (changing_masks, "changes what it is given: the mask of 5.weight"),
        (leaving_gradients, "changes what it is given: the gradient of 0.weight"),
        (leaving_training_mode, "changes what it is given: whether the network is in training mode"),
        (leaving_a_hook, "changes what it is given: the hooks of 0"),
        (drawing_from_torch, "draws from the global generator of torch; evidence.rng is the one to draw from"),
        (drawing_from_numpy, "draws from the global generator of numpy; evidence.rng is the one to draw from"),
        (Counting(), "scores 0.weight otherwise when it is asked again"),
        (not_finite, "criterion not_finite: "),
        (lambda evidence: {}, "criterion <lambda>: scores and masks differ in 0.weight, 5.weight"),
        (lambda evidence: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_each_way_to_break_a_criterion_s_contract_is_named(
    criterion: Callable[[Evidence], Any], said: str, evidence: Evidence
) -> None:
    found = list(criterion_faults(criterion, evidence))
    assert found
    assert found[0].startswith(said)
    assert list(criterion_faults(magnitude, replace(evidence))) == []


def reviving(scores: Scores, masks: Masks, target: Target) -> Masks:
    dense = {name: torch.ones_like(mask) for name, mask in masks.items()}
    return everywhere({name: values.flip(0) for name, values in scores.items()}, dense, target)


def sorting_in_place(scores: Scores, masks: Masks, target: Target) -> Masks:
    for values in scores.values():
        values.sub_(values.max())
    return everywhere(scores, masks, target)


def rolling_dice(scores: Scores, masks: Masks, target: Target) -> Masks:
    return everywhere({name: values + torch.rand(values.shape) for name, values in scores.items()}, masks, target)


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (reviving, "a pruned weight of conv.weight comes back"),
        (sorting_in_place, "changes the scores that it is given: conv.weight"),
        (rolling_dice, "draws random numbers, which a scope must not"),
        (lambda scores, masks, target: scores, "the mask of conv.weight is torch.float32"),
    ],
)
def test_each_way_to_break_a_scope_s_contract_is_named(scope: Scope, said: str) -> None:
    assert any(fault.startswith(said) for fault in scope_faults(scope, *TRIED))


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda: [Target(0.5, 0.5), Target(0.7, 1.0)], "round 2 has density=0.7, more than 0.5 of the round before"),
        (lambda: [Target(0.5, 0.5), Target(0.25, 0.25)], "round 2 has density=0.25 and keep=0.25, but 0.5 x 0.25 is"),
        (lambda: geometric(2, 0.5 + 0.1 * np.random.rand()), "gives other targets when it is asked again"),
        (lambda: 3, "must be a sequence of targets"),
    ],
)
def test_each_way_to_break_a_schedule_s_contract_is_named(schedule: Callable[[], Any], said: str) -> None:
    assert any(fault.startswith(said) for fault in schedule_faults(schedule))


def test_an_arm_that_draws_masks_for_itself_is_named(cell: Callable[..., Cell]) -> None:
    def masks(found: Masks, rng: torch.Generator) -> Masks:
        return {name: torch.rand(mask.shape) < 0.5 for name, mask in found.items()}

    drawn = cell()
    drawn = replace(drawn, arm=replace(drawn.arm, masks=masks))
    assert next(arm_faults(drawn)).startswith("gives fc1.weight other masks when it is asked again")


class Falling:
    """Gives less whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *_: float) -> float:
        self.asked += 1
        return 1 / self.asked


class Rising(Falling):
    """A curve from 0 to 1 that is another whenever it is asked."""

    def __call__(self, passed: float) -> float:
        return passed ** super().__call__()


@pytest.mark.parametrize(
    ("arm", "wrong", "said"),
    [
        ("set", {"criterion": drawing_from_torch}, "during.criterion: draws from the global generator of torch"),
        (
            "gradual",
            {"criterion": leaving_gradients},
            "during.criterion: changes what it is given: the gradient of fc1",
        ),
        ("set", {"scope": sorting_in_place}, "during.scope: changes the scores that it is given: fc1.weight"),
        ("gradual", {"scope": rolling_dice}, "during.scope: draws random numbers, which a scope must not"),
        ("rigl", {"fraction": Falling()}, "during.fraction: gives other values when it is asked again"),
        ("gradual", {"curve": Rising()}, "during.curve: gives other values when it"),
    ],
)
def test_each_part_of_an_arm_s_rule_is_held_to_its_contract(
    arm: str, wrong: dict[str, Any], said: str, cell: Callable[..., Cell]
) -> None:
    made = cell(f"arm={arm}", "arm.during.every=10it")
    rule: Any = made.arm.during
    made = replace(made, arm=replace(made.arm, during=replace(rule, **wrong)))
    [config] = cell_configs([*TINY, f"arm={arm}", "arm.during.every=10it"])
    assert next(faults("arm", config, made)).startswith(said)


def test_data_that_are_drawn_anew_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng()

    def drawn(*_: Any) -> Data:
        part = Examples(torch.tensor(numbers.random((20, 3)), dtype=torch.float32), torch.arange(20) % 2)
        return Data(part, part, part, batch_size=5, shape=(3,), classes=2)

    monkeypatch.setattr("lottery.config.check_contracts.build_data", drawn)
    [config] = cell_configs(["data=digits"])
    assert list(data_faults(drawn(), config)) == [
        "holds other data when it is built again; it must draw from a generator of its own"
    ]


CODE = '''
import sys

import torch


def good(evidence):
    """The weight's size."""
    return {name: weight.detach().abs() for name, weight in evidence.weights.items()}


def leaves(evidence):
    sys.exit(3)


def bad(evidence):
    return {name: torch.rand(mask.shape) for name, mask in evidence.masks.items()}
'''


@pytest.mark.slow
def test_the_command_says_of_every_option_whether_it_keeps_its_contract(
    lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "criteria.py").write_text(CODE)
    (tmp_path / "mine" / "gone.py").write_text("import sys\nsys.exit(4)\n")
    for group, name, text in (
        ("criterion", "good", "_target_: mine.criteria.good"),
        ("criterion", "bad", "_target_: mine.criteria.bad"),
        ("criterion", "leaves", "_target_: mine.criteria.leaves"),
        ("criterion", "torn", "_target_: [mine"),
        ("scope", "gone", "_target_: mine.gone.scope"),
        ("schedule", "wrong", "_target_: lottery.pruning.schedules.one_shot\ndensity: 2.0"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"# Of mine\n{text}\n")
    done = lottery("check", "--config-dir", "conf", "data=digits")
    assert done.returncode == 1, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert lines[0][:2] == ["criterion", "bad"]
    assert lines[0][2].startswith("draws from the global generator of torch")
    assert lines[-3][1] == "torn"
    assert lines[-3][2].startswith("ParserError: ")
    del lines[-3]
    assert lines.pop(-2) == ["scope", "gone", "the code that was called ended the program with sys.exit(4)"]
    assert lines[-3:] == [
        ["criterion", "good", "ok"],
        ["criterion", "leaves", "criterion: the code that was called ended the program with sys.exit(3)"],
        ["schedule", "wrong", "schedule.density=2.0: must lie inside (0, 1)"],
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    done = lottery("check", "--config-dir", "empty")
    assert done.returncode == 1
    assert done.stderr.startswith("lottery: --config-dir empty: has no yaml in a folder named like a group")
