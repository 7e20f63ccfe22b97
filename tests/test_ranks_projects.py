"""Two real processes train a user's Lightning project together: one process's result, through a kill too."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import distributed
from torch.utils import _pytree
from torch.utils.data import DataLoader, DistributedSampler

from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.data.examples import DataError
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all, seeded
from lottery.pruning.masks import Masks
from lottery.store.phases import specification
from lottery.training import ranks
from lottery.training.fit import assist, fit
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.data.samplers import shared
from lottery.training.lightning.loop.masked import Masked
from lottery.training.lightning.loop.together import Losses
from lottery.training.lightning.project import Project
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Row
from lottery.training.states import State, weights
from tests.few import few
from tests.lightning import ADVICE, Kept, differing, every, phase_of, some_masks, words
from tests.server import Server

pytestmark = ADVICE
TWO = ("hardware.devices=2", "hardware.accelerator=cpu")
SHARED = "shared_of_mine"
"""tests/projects/shared.py, copied to where tests are not part of its code, whose digest would take seconds"""
Two = Callable[..., Trained]


@pytest.fixture(scope="module", autouse=True)
def _mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mine")
    shutil.copy(Path(__file__).parent / "projects" / "shared.py", folder / f"{SHARED}.py")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def line(kind: str, *more: str) -> tuple[str, ...]:
    """The command line of a project for two processes; a later word replaces an earlier one."""
    of = "tests.projects.still" if kind.startswith("Still") else SHARED
    ours = [f"model._target_={of}.{kind}", f"data._target_={SHARED}.Rows", "headline=loss", "budget.steps=2ep"]
    given = words(kind) if kind.islower() else [*ours, "tracking.mode=disabled"]
    return tuple({word.partition("=")[0]: word for word in (*given, *TWO, *more)}.values())


@cache
def recipe_from(words: tuple[str, ...]) -> Project:
    recipe = build(cell_configs(list(words))[0]).study.recipe
    assert isinstance(recipe, Project)
    return recipe


def serve() -> None:
    while (words := ranks.agree(None)) is not None:
        assist(recipe_from(words))


@pytest.fixture(scope="module")
def two(_mine: None) -> Iterator[Two]:
    """Trains by two processes, the second of which lasts for the whole module."""

    def train(words: tuple[str, ...], recipe: Project, phase: Phase, *more: Any, **named: Any) -> Trained:
        ranks.agree(words)
        try:
            return fit(recipe, phase, *more, **named)
        finally:
            ranks.agree(None)

    with ranks.gathered(2, serve):
        yield train


def begun(recipe: Project, masks: Masks) -> Phase:
    phase = phase_of(recipe, masks)
    return phase_of(recipe, masks, state={n: t * masks[n] if n in masks else t for n, t in phase.state.items()})


@ranks.alone()
def alone(recipe: Project, phase: Phase) -> Trained:
    """The same by one process."""
    return fit(recipe, phase)


@ranks.alone()
def by_hand(recipe: Project, phase: Phase) -> State:
    """Two shares of each batch in one process, by plain Lightning: losses are averaged, the first's buffers stay."""
    with seeded(phase.build):
        module = recipe.network()
    module.load_state_dict(weights(phase.state))
    loaders, own = [recipe.data.training(phase.order, (rank, 2)) for rank in (0, 1)], module.training_step

    def training_step(batches: list[Any], batch_idx: int) -> torch.Tensor:
        number = module.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        sizes = [len(_pytree.tree_leaves(batch)[0]) for batch in batches]
        parts = [part._buffers for part in module.modules()]
        owned = [(of, name) for of in parts for name, value in of.items() if value is not None]
        before, total = [buffers[name].clone() for buffers, name in owned], torch.zeros(())
        for rank in (1, 0):
            for (buffers, name), value in zip(owned, before, strict=True):
                buffers[name] = value.clone()
            seed_all(derive(phase.noise, "batch", number, *(("rank", 1) if rank else ())))
            total = total + own(batches[rank], batch_idx) * sizes[rank] / sum(sizes)
        return total

    class Epochs(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for loader in loaders:
                loader.set_epoch(trainer.current_epoch)
            seed_all(derive(phase.noise, "epoch", trainer.current_epoch))

    module.training_step = training_step
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", num_sanity_val_steps=0, callbacks=[Masked(phase, recipe, None), Epochs()],
        **recipe.arguments,
    )  # fmt: skip
    with seeded(phase.noise):
        trainer.fit(module, CombinedLoader(loaders, "max_size"), recipe.data.module.val_dataloader())
    return module.state_dict()


def assert_close(one: State, other: State, masks: Masks, within: float = 1e-5) -> None:
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=within, msg=lambda text, n=name: f"{n}: {text}")
    assert not any(one[name][~mask].any() for name, mask in masks.items())


def assert_alike(rows: list[Row], others: list[Row]) -> None:
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        close = {name: value and pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in other.items()}
        assert row == close


# what two processes train


@pytest.mark.parametrize(
    ("kind", "more"),
    few(
        [
            ("forecast", ()),
            ("forecast", ("data.n=310", "data.batch_size=37")),  # neither batches nor the last one halve
            ("StillFineTuner", ("data._target_=tests.projects.finetune.StripesModule", "headline=acc")),
            ("StillGAN", ("data._target_=tests.projects.gan.RingModule", "headline=score", "better=lower")),
            ("Lit", ("data.batch_size=11", "trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=3")),
            ("Thawing", ("data.batch_size=11",)),
            ("ThawingAmid", ("data.batch_size=11",)),
            ("Lit", (f"data._target_={SHARED}.Two",)),
        ],
        1,
    ),
)
def test_without_noise_it_is_one_process_s_up_to_rounding(
    two: Two, kind: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    given = line(kind, *more, *([f"data.root={tmp_path}"] if kind == "forecast" else []))
    recipe = recipe_from(given)
    phase = begun(recipe, masks := some_masks(recipe))
    found, whole = two(given, recipe, phase), alone(recipe, phase)
    assert_close(found.state, whole.state, masks)
    assert_alike(found.rows, whole.rows)
    if "unused.weight" in phase.state:
        assert torch.equal(found.state["unused.weight"], phase.state["unused.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("classifier", ()),
        ("classifier", ("data.batch_size=23", "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5")),
        ("segmenter", ()),
        ("finetune", ("data.batch_size=5",)),
    ],
)
def test_each_process_has_its_share_and_noise_of_its_own(two: Two, kind: str, more: tuple[str, ...]) -> None:
    """Dropout, mixup, BatchNorm, augmentation and a loss of whole batches: as two shares in one process have them."""
    given = line(kind, *more)
    recipe = recipe_from(given)
    phase = begun(recipe, masks := some_masks(recipe))
    assert_close(two(given, recipe, phase).state, by_hand(recipe, phase), masks)


@pytest.mark.parametrize("monitor", few(["side", "train_loss", "val_loss", "seen", "val_first"], 1))
def test_what_is_logged_is_of_all_the_data_and_schedulers_see_one_value(two: Two, monitor: str) -> None:
    given = line("Synced", f"model.monitor={monitor}", "budget.steps=4ep")
    recipe = recipe_from(given)
    phase = begun(recipe, masks := some_masks(recipe))
    found, whole = two(given, recipe, phase), alone(recipe, phase)
    assert_close(found.state, whole.state, masks)  # at the same learning rates
    assert_alike(found.rows, whole.rows)
    assert found.rows[-1]["val_sum"] == 33
    assert found.rows[-1]["val_gathered"] == 1


# killed and resumed


@pytest.mark.parametrize(
    ("kind", "more"),
    few(
        [
            ("Synced", ()),
            ("gan", ()),
            ("Manual", ()),
            ("classifier", ("trainer.accumulate_grad_batches=3",)),
            ("segmenter", ()),
            ("finetune", ()),
            ("Thawing", ("data.batch_size=11",)),
            ("ThawingAmid", ("data.batch_size=11",)),
        ],
        1,
    ),
)
def test_every_checkpoint_goes_on_to_the_same_end(two: Two, kind: str, more: tuple[str, ...]) -> None:
    given = line(kind, *more, "hardware.checkpoint_seconds=1e-9")
    recipe = recipe_from(given)
    phase, keeper = begun(recipe, some_masks(recipe)), Kept()
    whole = two(given, recipe, phase, keeper, waypoints=[phase_of(recipe).last // 3])
    between = [begin for begin in keeper.saved if begin[1]["step"] == phase.last // 2]
    for begin in [*between, *every(keeper.saved, 4)]:
        again = two(given, recipe, phase, Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"
        assert again.rows == whole.rows, f"from step {begin[1]['step']}"
    [(step, start)] = keeper.passed.items()  # a rewound round begins where all of its processes stood
    assert not differing(two(given, recipe, phase_of(recipe, phase.masks, state=phase.state, last=step)).state, start)
    rest = two(given, recipe, phase_of(recipe, phase.masks, state=start, first=step))
    assert rest.rows[-1]["step"] == phase.last
    assert alone(recipe, phase_of(recipe, phase.masks, state=start, first=step)).rows  # as a ticket is verified


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "segmenter", "finetune", "gan"])
def test_killed_for_real_it_ends_with_the_same_ledger(server: Server, tmp_path: Path, kind: str) -> None:
    shutil.copy(Path(__file__).parent / "projects" / f"{kind}.py", tmp_path / f"{kind}_of_mine.py")
    command = [word.replace(f"tests.projects.{kind}.", f"{kind}_of_mine.") for word in line(kind, "schedule.rounds=1")]
    often = [*command, "hardware.checkpoint_seconds=1e-9"]
    code, said = server.run(tmp_path, "run", *often, "out=whole")
    assert code == 0, said
    code, said = server.run(tmp_path, "run", *often, "out=killed", dies=3)
    assert code == -signal.SIGKILL, said
    code, said = server.run(tmp_path, "run", *often, "out=killed")
    assert code == 0, said
    assert "goes on from the checkpoint at step" in said
    assert "Warning" not in said
    lines = []
    for out in ("whole", "killed"):
        [path] = (tmp_path / out).glob("*/*/*/ledger.jsonl")
        rounds = map(json.loads, path.read_text().splitlines())
        lines.append([{key: value for key, value in each.items() if key != "run"} for each in rounds])
    assert lines[0] == lines[1]


# a whole command


@pytest.mark.slow
def test_a_whole_study_of_two_rounds(lottery: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    """SNIP asks the first process alone, whose metrics would else wait for the others."""
    shutil.copy(Path(__file__).parent / "projects" / "classifier.py", tmp_path / "mine.py")
    given = [word.replace("tests.projects.classifier.", "mine.") for word in line("classifier", "schedule.rounds=2")]
    given += ["criterion=snip", "arm=imp", "arm.rewind=3it"]
    done = lottery("run", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    [path] = tmp_path.glob("runs/*/*/*/ledger.jsonl")
    rounds = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["train_steps"] for row in rounds] == [20, 17, 17]
    assert rounds[-1]["density"] == pytest.approx(0.69, abs=0.01)
    planned = lottery("run", *given, "seed=1", "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "timed in one process; 2 will share each batch" in planned.stdout


ODD = "model: Dies.training_step fails: ValueError: this batch is odd"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("Dies", (), f"2 processes of this cell ended, and training with it: {ODD}"),
        ("Dies", ("model.rank=0",), f"training with 2 processes broke off: {ODD}"),
        ("Dies", ("model.how=dies",), "another of the 2 processes of this cell ended, and training with it"),
        ("Dies", ("model.how=skips",), "Skipping the `training_step` by returning None"),
        ("Apart", (), "after its first step its processes hold different weights"),
    ],
)
def test_a_process_that_fails_ends_the_cell_with_one_sentence(
    lottery: Callable[..., CompletedProcess[str]], kind: str, more: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).parent / "projects" / "shared.py", tmp_path / f"{SHARED}.py")
    done = lottery("run", *line(kind, *more, "schedule.rounds=1"))
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# before training


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("Lit", ("data.batch_size=9",), "hardware.devices=2: a training batch has 1 examples, fewer than processes"),
        ("Lit", (f"data._target_={SHARED}.Streamed", "trainer.limit_train_batches=8"), "Streamed trains on a stream"),
        (
            "Lit",
            (f"data._target_={SHARED}.Two", "data.sizes=[8,5]"),
            "each batch of several training loaders must be a",
        ),
        ("Lit", (f"data._target_={SHARED}.Sampled",), "the training data have a DistributedSampler"),
        ("ByHand", (), "hardware.devices=2: self.manual_backward(loss) averages gradients over processes"),
        ("Lit", ("trainer.sync_batchnorm=true",), "trainer.sync_batchnorm=true: needs GPUs"),
    ],
)
def test_what_can_not_be_shared_is_refused_before_training(kind: str, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused) as refused, ranks.alone():
        check(build(cell_configs(list(line(kind, *more)))[0]))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_validation_on_a_share_is_refused_and_on_all_the_data_is_not() -> None:
    shared = import_module(SHARED)
    for count in (1, 2):
        data = shared.Rows()
        rows = shared.rows(8)
        data.val_dataloader = lambda count=count, rows=rows: DataLoader(
            rows, 4, sampler=DistributedSampler(rows, num_replicas=count, rank=0)
        )
        project = ProjectData(data)
        with project.trained_by(project.training(0)):
            if count == 1:
                assert len(data.val_dataloader()) == 2
            else:
                with pytest.raises(DataError, match=r"^data: Rows\.val_dataloader gives a DistributedSampler"):
                    data.val_dataloader()
        assert len(data.val_dataloader()) == 2 // count


def test_a_project_that_can_be_shared_is_not_refused() -> None:
    for kind, more in (("Lit", ("data.batch_size=11",)), ("gan", ())):
        with ranks.alone():
            check(build(cell_configs(list(line(kind, *more)))[0]))


def test_the_number_of_devices_is_part_of_study_and_phase() -> None:
    recipes, names = [], []
    for count in (1, 2):
        [job] = cell_configs(list(line("Lit", f"hardware.devices={count}")))
        names.append(job.study)
        recipes.append(build(job).study.recipe)
    assert names[0] != names[1]
    one, other = (specification(recipe, {}, phase_of(recipe)) for recipe in recipes)
    assert other.pop("devices") == 2
    assert one == other


# parts


def test_shares_are_the_batch() -> None:
    for size in range(3, 12):
        assert [each for rank in range(3) for each in shared(range(size), (rank, 3))] == list(range(size))
        lengths = [len(shared(range(size), (rank, 3))) for rank in range(3)]
        assert max(lengths) - min(lengths) <= 1


def test_losses_count_by_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Losses([3.0])
    losses.note(torch.tensor(2.0), 0.25)
    monkeypatch.setattr(ranks, "everyone", lambda own: [own, torch.tensor([0.75 * 6.0])])
    assert losses.whole() == losses.whole() == [3.0, 5.0]


def test_alone_nobody_else_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    with ranks.alone():
        with ranks.alone():
            assert ranks.share() == (0, 1)
        assert not distributed.is_initialized()
    assert distributed.is_initialized()
