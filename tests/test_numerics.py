"""Results depend on the configured numerics, not on a process's earlier settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from lottery.commands.ticket.export import exported
from lottery.config.compose import cell_configs
from lottery.config.given import drawn
from lottery.foundations.digests import digest
from lottery.pruning.contracts import Target
from lottery.pruning.masks import Masks
from lottery.rounds.prune import prune
from lottery.rounds.round import dense_round
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.training.hardware import Hardware, Numerics, trainer_for
from lottery.training.numerics import side_by_side_
from lottery.training.phase import Trained
from tests.conftest import TINY

Settings = tuple[int, bool, bool, bool, str, bool]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def settings() -> Settings:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )


def another_s() -> Settings:
    """Settings that other code left in this process."""
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False
    return settings()


def test_settings_hold_inside_and_are_put_back() -> None:
    before = another_s()
    with Numerics(threads=2).entered():
        assert settings() == (2, True, False, False, "highest", True)
        with Numerics(threads=1, deterministic=False).entered():
            assert settings() == (1, False, False, False, "highest", True)
        assert settings() == (2, True, False, False, "highest", True)
    assert settings() == before == (3, True, True, True, "medium", False)


def test_rounding_is_ours_where_pytorch_does_not_say_what_it_was() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # cuDNN's other kernels stay at TF32
    with pytest.raises(RuntimeError):
        settings()
    with Numerics().entered():
        assert settings()[-2:] == ("highest", True)


def test_settings_are_put_back_after_an_error() -> None:
    before = another_s()
    with pytest.raises(KeyError), Numerics().entered():
        raise KeyError
    assert settings() == before


def test_a_trainer_changes_no_setting() -> None:
    before = another_s()
    trainer_for(Hardware(accelerator="cpu"), Numerics())
    assert settings() == before


class Watching(nn.Sequential):
    """Records the settings under which it is built and called."""

    seen: ClassVar[set[Settings]] = set()

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.seen.add(settings())

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.add(settings())
        return super().forward(inputs)


def test_every_number_of_a_cell_and_its_export_is_computed_under_its_own_settings(tmp_path: Path) -> None:
    watching = ("model._target_=tests.test_numerics.Watching", "~model.shape", "~model.classes", "scope=everywhere")
    more = ("criterion=snip", "arm=random_reinit", "analysis=connectivity", "schedule.rounds=1")
    [job] = cell_configs([*TINY, "hardware.accelerator=cpu", f"out={tmp_path}", *watching, *more])
    before = another_s()
    Watching.seen.clear()
    run_cell(job)
    saved = exported(job.folder, 1, None, seed_only=True)
    drawn(saved, trust=("tests",))
    assert Watching.seen == {(1, True, False, False, "highest", True)}
    assert settings() == before


def test_scores_are_the_same_whatever_threads_others_left(cell: Callable[..., Cell]) -> None:
    # so many products that PyTorch shares them out among its threads, in another order of summation
    layers = (nn.Flatten(), nn.Linear(64, 600), nn.Linear(600, 600), nn.Linear(600, 10))
    wide = cell("criterion=snip", "data.batch_size=1000").study
    recipe = replace(wide.recipe, network=lambda: nn.Sequential(*copy.deepcopy(layers)))
    dense = dense_round(recipe, 0, lambda current: Trained(current.ticket.state, current.ticket.masks, []))
    seen: list[dict[str, Tensor]] = []

    def keep_all(scores: dict[str, Tensor], masks: Masks, target: Target) -> Masks:
        seen.append(scores)
        return masks

    pruning = replace(wide.pruning, scope=keep_all)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        prune(
            recipe, pruning, dense.ticket.state, dense.ticket.masks, dense.ticket.state, pruning.schedule[0], 0, (1, 0)
        )
    assert digest(seen[0]) == digest(seen[1])


@pytest.mark.parametrize(
    ("layer", "turned"),
    [
        (nn.Conv2d(7, 8, 1, stride=2), False),  # its gradients end the process in that layout
        (nn.Conv2d(8, 8, 1, stride=2), True),
        (nn.Conv2d(7, 8, 1), True),
        (nn.Conv2d(7, 8, 3, stride=2), True),
    ],
)
def test_networks_that_can_t_be_trained_channel_by_channel_stay_as_they_are(layer: nn.Module, turned: bool) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), layer)
    side_by_side_(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last) is turned
