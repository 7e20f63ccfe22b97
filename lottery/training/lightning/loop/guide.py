"""The callback that guides Lightning's own loop through a phase: noise, rows, waypoints, checkpoints, its end.

Lightning's loop has no notion of a resumed step that equals the step that it stands for. What is done here about that
was found by comparing killed runs, and undisturbed ones with plain Lightning; each comment says what goes wrong else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.loop import _Loop
from torch import Tensor

from lottery.foundations.seeds import derive, seed_all
from lottery.training import ranks
from lottery.training.lightning.loop import accumulators, unsaved
from lottery.training.lightning.loop.checkpoints import InMemory, joined, parted
from lottery.training.lightning.loop.masked import Masked
from lottery.training.lightning.loop.plateaus import Plateaus
from lottery.training.lightning.loop.position import begin_epoch, position_of, put_place, step_of
from lottery.training.lightning.loop.together import Losses, Timely
from lottery.training.lightning.module.measuring import number
from lottery.training.loop import CHUNK_SECONDS, Keeper
from lottery.training.phase import Diverged, Phase
from lottery.training.recipes import Row
from lottery.training.states import State, state_of


class Guide(pl.Callback):
    """Guides one phase; `measure(state, parts, step)` gives what validation and test log then, by a row's names."""

    def __init__(
        self,
        phase: Phase,
        horizon: int,
        loaders: Any,
        memory: InMemory,
        masked: Masked,
        measure: Callable[[State, Iterable[str], int], Row],
        keeper: Keeper | None = None,
        waypoints: Iterable[int] = (),
        watch: Callable[[int, Row | None], None] = lambda step, row: None,
        seconds: float = 10.0,
        val_names: Mapping[str, str] | None = None,
    ) -> None:
        self.phase, self.loaders, self.memory, self.masked, self.measure = phase, loaders, memory, masked, measure
        self.keeper, self.watch, self.seconds, self.val_names = keeper, watch, seconds, val_names or {}
        # a phase that ends early is part of a longer one: its result is the state at a waypoint of that
        self.waypoints = {step for step in (*waypoints, phase.last) if phase.first < step < horizon}
        self.ends_early = phase.last < horizon
        self.rows, self.losses, self.timely = list[Row](), Losses(), Timely(seconds)
        self.result: State | None = None
        self.reached, self.stride, self.reached_at = phase.first, 1, time.monotonic()
        self.epoch, self.means = -1, dict[str, Any]()
        self.between_epochs = False

    # beginning

    def resume(self, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes back to a checkpoint that the keeper has kept."""
        self.rows, self.losses = list(info["rows"]), Losses(info["losses"])
        self.reached = info["step"]
        self.memory.checkpoint = joined(tensors, info["lightning"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.buffers = unsaved.buffers(pl_module)
        self.saved_at = self.seen_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        own = pl_module.on_train_batch_end

        def on_train_batch_end(outputs: Any, batch: Any, batch_idx: int) -> None:
            own(outputs, batch, batch_idx)
            self._after_batch(trainer)

        pl_module.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]  # of this module alone
        self.plateaus = Plateaus(trainer)
        if begun := self.memory.checkpoint:
            here = _own(begun[_ACCUMULATED])
            self.means = accumulators.restore(trainer, here)
            unsaved.put_back(pl_module, self.loaders, here)
            unsaved.put_gradients_back(pl_module, _own(begun.get(unsaved.GRADIENTS, {})))
            self.memory.checkpoint = None
            loop = trainer.fit_loop
            if loop._combined_loader_states_to_load and loop._data_fetcher:
                # `estimated_stepping_batches` in configure_optimizers begins to read before the place is known
                loop._load_combined_loader_states()
                iter(loop._data_fetcher)

    # steps

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self.epoch:
            self.epoch, self.means = trainer.current_epoch, {}
        for loader in self.loaders:  # Lightning calls it on samplers only, so that every epoch would have one order
            loader.set_epoch(trainer.current_epoch)
        seed_all(derive(self.phase.noise, "epoch", trainer.current_epoch))
        # The end of an epoch is kept here: only now have validation and schedulers had their turn.
        self.between_epochs = True
        self._between(trainer)
        self.between_epochs = False
        if self.result is not None and self.ends_early:
            raise StopIteration  # ends Lightning's loop over epochs

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if trainer.fit_loop.restarting:
            # Else Lightning passes over ReduceLROnPlateau at this epoch's end. Its own setter turns False into True.
            _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]  # a property
            begin_epoch(trainer.fit_loop)
        if (step := step_of(trainer)) >= self.phase.last:  # a hook of the module's has cleared `should_stop`
            trainer.should_stop = True
            raise StopIteration
        if self.keeper and step >= self.reached:
            self._reach(step, self.keeper)
        if self.masked.due(step):  # or else masks would be chosen by what is no number
            self._sound_losses(step)
        number = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        seed_all(derive(self.phase.noise, "batch", number, *ranks.stream(ranks.share()[0])))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if isinstance(loss := outputs.get("loss") if isinstance(outputs, Mapping) else outputs, Tensor):
            # with automatic optimization, Lightning has divided it by the batches of a step
            shared = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            loss = loss.detach() if shared == 1 and not loss.ndim else loss.detach().mean() * shared
            self.losses.note(loss, self.loaders[0].part(index))

    def _after_batch(self, trainer: pl.Trainer) -> None:
        """What follows a batch, once all callbacks and the module's own hook are done, which may change its state."""
        self.masked.after_batch()
        if self.means:
            accumulators.add(trainer, self.means)
        step, loop = step_of(trainer), trainer.fit_loop.epoch_loop
        last, fetcher = loop.batch_progress.is_last_batch, trainer.fit_loop._data_fetcher
        # whether a longer training would validate now: one that stops here does, once `should_stop` is set
        validates = self.plateaus.any and fetcher is not None and loop._should_check_val_fx(fetcher)
        if step >= self.phase.last and not (self.ends_early and last):
            trainer.should_stop = True
        # Between batches of a step Lightning would begin another, an epoch's last batch is followed by validation and
        # schedulers, and so is one where validation is due: a training resumed there would pass over them.
        if not last and not loop._should_accumulate() and fetcher:
            due = partial(loop._should_check_val_fx, fetcher)
            self.plateaus.settle(validates, lambda: self._between(trainer, due))

    def _between(self, trainer: pl.Trainer, due: Callable[[], bool] = lambda: False) -> None:
        """Between two optimizer steps: a waypoint, a checkpoint if the last one is old enough, progress."""
        step, now = step_of(trainer), time.monotonic()
        if step in self.waypoints:
            self.waypoints.remove(step)
            kept = {key: value for key, value in self._checkpoint(trainer).items() if key != unsaved.GRADIENTS}
            found = position_of(kept) | state_of(trainer.lightning_module)
            if step == self.phase.last:
                self.result = found
            elif self.keeper:
                self.keeper.pass_by(step, found, self.masked.holding.masks)
        if self.timely(step, bool(self.keeper) and now - self.saved_at >= self.seconds) and not due():
            losses, checkpoint = self._sound_losses(step), self._checkpoint(trainer)
            if self.keeper:
                tensors, rest = parted(checkpoint)
                masks, changed = self.masked.changing.taken()
                info = {"lightning": rest, "step": step, "rows": self.rows, "losses": losses}
                self.keeper.save({**tensors, **masks}, {**changed, **info})
            self.saved_at = time.monotonic()
        if now - self.seen_at >= CHUNK_SECONDS:
            self.seen_at = now
            self.watch(step, None)

    def _checkpoint(self, trainer: pl.Trainer) -> dict[str, Any]:
        begun = {} if self.between_epochs else self.means
        own, module = accumulators.taken(trainer, begun, self.between_epochs), trainer.lightning_module
        own |= unsaved.left_out(module, self.buffers, self.loaders)
        found = {_ACCUMULATED: own, unsaved.GRADIENTS: unsaved.gradients(module)}
        alone = ranks.share()[1] == 1
        return self.memory.taken(trainer) | {k: v if alone else ranks.everyone_says(v) for k, v in found.items()}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        put_place(checkpoint, trainer, len(self.loaders), self.between_epochs, self.plateaus.late)

    def _reach(self, step: int, keeper: Keeper) -> None:
        """Notes the steps of about a second ahead: noting each by itself durably would take longer than the step."""
        now = time.monotonic()
        if step > self.phase.first:
            self.stride = max(1, min(10 * self.stride, round(self.stride * CHUNK_SECONDS / (now - self.reached_at))))
        self.reached, self.reached_at = min(self.phase.last, step + self.stride), now
        keeper.reach(step, self.reached)

    # measurements

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seed_all(validation_seed(self.phase, step_of(trainer)))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = step_of(trainer)
        if self.phase.first < step <= self.phase.last and not any(row["step"] == step for row in self.rows):
            logged = {ours: number(trainer.callback_metrics[name]) for name, ours in self.val_names.items()}
            self._row(step, lambda: logged | self.measure(state_of(pl_module), ["test"], step))

    def finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Measures the last step, if validation did not fall on it."""
        if not self.ends_early and (not self.rows or self.rows[-1]["step"] != self.phase.last):
            last = self.phase.last
            self._row(last, lambda: self.measure(state_of(module), ["val", "test"], last))

    def _row(self, step: int, measured: Callable[[], Row]) -> None:
        losses = self._sound_losses(step)
        row: Row = {"step": step, "train_loss": math.fsum(losses) / len(losses) if losses else None}
        self.rows.append(row | (measured() if ranks.share()[0] == 0 else {}))
        self.losses = Losses()
        self.watch(step, self.rows[-1])

    def _sound_losses(self, step: int) -> list[float]:
        losses = self.losses.whole()
        if not all(map(math.isfinite, losses)):
            raise Diverged(f"the loss of training_step became NaN or infinite before step {step}")
        return losses


_ACCUMULATED = "lottery_accumulated"


def _own(accumulated: Any) -> Any:
    """What this rank had accumulated, of a checkpoint that one rank or several have made.

    Of another number of ranks, as where a ticket is verified within a tolerance, it is what one of them had.
    """
    made = accumulated if isinstance(accumulated, list) else [accumulated]
    return made[ranks.share()[0] % len(made)]


def validation_seed(phase: Phase, step: int) -> int:
    """Seed of what a validation draws after `step`."""
    return derive(phase.noise, "validation", step)
