"""Asking a project for the loss of a batch: through its own training_step, in a Trainer that takes no step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all
from lottery.training import ranks
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.data.reading import each_of
from lottery.training.lightning.failures import explained
from lottery.training.lightning.trainers import quiet


@dataclass(frozen=True)
class Asking:
    """Runs training_step on single batches; optimizers, schedulers and weights stay as they are.

    Called by hand, most training steps fail: they look at their trainer, their optimizers or their schedulers.
    """

    module: pl.LightningModule
    data: ProjectData
    trainer: Callable[..., pl.Trainer]
    """gives a Trainer with these further arguments"""

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch with its graph; of several backward passes (manual optimization) the sum."""
        if not (losses := self._watched(batch).losses):
            raise Refused("model: its training_step gives no loss, so that no criterion can ask for one")
        return torch.stack(losses).sum()

    def outputs(self, batch: Any) -> Any:
        """What training_step returned for a batch."""
        return self._watched(batch).returned

    def gradients(self, batch: Any) -> dict[str, Tensor]:
        """The gradient of each parameter as its optimizer's step would have found it."""
        return self._watched(batch).gradients

    def pass_through(self, batches: Iterable[Any], count: int, seed: int) -> None:
        """Runs training_step on the first `count` batches, each seeded, for what layers see meanwhile."""
        self._run(batches, count, _Seeds(seed))

    def _watched(self, batch: Any) -> _Watch:
        self._run([batch], 1, watch := _Watch())
        return watch

    @cached_property
    def _loader(self) -> Any:
        """The project's own loader, or loaders, for hooks that look at them."""
        return self.data.training(0)

    @ranks.alone()  # the others wait for the next training
    def _run(self, batches: Iterable[Any], count: int, watch: _NoStep) -> None:
        first = _First(batches, count, lambda: self._loader)
        own, modes = self.data.module.trainer, [(part, part.training) for part in self.module.modules()]
        trainer = self.trainer(
            max_epochs=1, limit_train_batches=count, limit_val_batches=0, accumulate_grad_batches=1,
            callbacks=[watch],
        )  # fmt: skip
        try:
            with explained(), quiet(EVALUATES), self.data.trained_by(first), watch.around(self.module):
                trainer.fit(self.module, datamodule=self.data.module)
        finally:
            self.data.module.trainer = own
            for part, training in modes:
                part.training = training
            for loader in each_of(vars(self).get("_loader", [])):
                loader.curriculum.undo()
            self.module.zero_grad()


EVALUATES = r".*module\(s\) in eval mode at the start of training.*"
"""A warning of Lightning, which holds here by intent: what is asked is the network as it evaluates."""


class _NoStep(pl.Callback):
    """Lets no optimizer and no scheduler step."""

    @contextmanager
    def around(self, module: pl.LightningModule) -> Iterator[None]:
        """What else of the module is as it must be while Lightning runs it."""
        module.lr_scheduler_step = lambda *_: None  # type: ignore[method-assign]  # a module may log their rates
        module.cpu = lambda: module  # type: ignore[method-assign]  # at its end, Lightning would take the graph's weights away
        try:
            yield
        finally:
            del module.lr_scheduler_step, module.cpu

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        for config in trainer.lr_scheduler_configs:
            config.strict = False  # a plateau's metric is not there without validation
        for optimizer in trainer.optimizers:
            own = (p for group in optimizer.param_groups for p in group["params"])
            held = {names[id(p)]: p for p in own if id(p) in names}

            def step(closure: Callable[[], Any] | None = None, held: dict[str, Any] = held) -> Any:
                found = closure() if closure else None
                self.stepped(held)
                return found

            # or a scheduler that the module steps itself warns that it is not the step that it has wrapped
            step._wrapped_by_lr_sched = optimizer._opt_called = True  # type: ignore[attr-defined]  # as schedulers note
            optimizer.step = step  # type: ignore[method-assign]  # of this optimizer alone

    def stepped(self, held: dict[str, Tensor]) -> None:
        """Is called where an optimizer of these parameters would have stepped."""


class _Watch(_NoStep):
    """Collects losses with their graphs, and gradients where an optimizer would have stepped."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}
        self.returned: Any = None

    @contextmanager
    def around(self, module: pl.LightningModule) -> Iterator[None]:
        """The module's own backward, whose graph is kept."""
        own = module.backward

        def keeping(loss: Tensor, *rest: Any, **more: Any) -> None:
            self.losses.append(loss)
            own(loss, *rest, **{**more, "retain_graph": True})

        module.backward = keeping  # type: ignore[method-assign]  # of this module, for a while
        try:
            with super().around(module):
                yield
        finally:
            del module.backward

    def stepped(self, held: dict[str, Tensor]) -> None:
        self.gradients |= {name: p.grad.clone() for name, p in held.items() if p.grad is not None}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.returned = outputs


class _Seeds(_NoStep):
    """Seeds each batch, so that what is drawn for it does not depend on who has read it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        seed_all(derive(self.seed, "batch", index))


class _First:
    """The first `count` batches, as a loader that answers a hook as the project's own, `like()`, would."""

    def __init__(self, batches: Iterable[Any], count: int, like: Callable[[], Any]) -> None:
        self.batches, self.count, self.like = batches, count, like

    def __getattr__(self, name: str) -> Any:
        if name in ("batches", "count", "like", "state_dict", "load_state_dict"):
            raise AttributeError(name)
        return getattr(self.like(), name)

    def __getitem__(self, key: Any) -> Any:
        return self.like()[key]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, self.count)
