"""Where Lightning stood at a step: loops, schedulers and what callbacks keep, as entries of the state beside weights.

Rewinding to step k goes back to all of it, whatever the weights are set to; only the optimizers begin fresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from lottery.foundations.digests import canonical
from lottery.training.lightning.loop.checkpoints import joined, parted
from lottery.training.states import BESIDE, State


def step_of(trainer: pl.Trainer) -> int:
    """Optimizer steps so far; with manual optimization, which may take several in a batch, batches so far."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]  # as its base


def position_of(checkpoint: Mapping[str, Any]) -> State:
    """What a checkpoint of Lightning holds besides weights and what optimizers have gathered."""
    optimizers = [{**optimizer, "state": {}} for optimizer in checkpoint["optimizer_states"]]
    kept = {key: value for key, value in checkpoint.items() if key != "state_dict"} | {"optimizer_states": optimizers}
    tensors, rest = parted(kept)
    text = torch.frombuffer(bytearray(canonical(rest).encode()), dtype=torch.uint8)
    return {BESIDE: text} | {f"{BESIDE}{name}": tensor for name, tensor in tensors.items()}


def checkpoint_at(state: State) -> dict[str, Any] | None:
    """The checkpoint from which Lightning begins with a state; None if the state is of no step but the first."""
    if BESIDE not in state:
        return None
    tensors = {name.removeprefix(BESIDE): tensor for name, tensor in state.items() if name.startswith(BESIDE)}
    checkpoint = joined(tensors, json.loads(bytes(tensors.pop("").tolist())))
    return checkpoint | {"state_dict": {n: tensor for n, tensor in state.items() if not n.startswith(BESIDE)}}


def begin_epoch(loop: Any) -> None:
    """Sets Lightning's counts as at an epoch's beginning, if training is resumed there: they are in keys."""
    if not loop.epoch_loop.batch_progress.current.processed:
        loop.epoch_progress.current.ready = loop.epoch_progress.current.started
        loop.epoch_loop._batches_that_stepped -= 1
        loop.epoch_loop.automatic_optimization.optim_progress.reset_on_run()
        loop.epoch_loop.val_loop.batch_progress.total.reset()


def put_place(checkpoint: dict[str, Any], trainer: pl.Trainer, loaders: int, between: bool, late: bool) -> None:
    """Sets where a checkpoint's counts and each of its loaders stand.

    `between` two epochs the counts are still those of the last one: Lightning would pass over the next. `late` in a
    batch, which Lightning has counted already, they are those of a checkpoint at its end.
    """
    if between:
        for name in ("batch", "scheduler"):
            state = checkpoint["loops"]["fit_loop"][f"epoch_loop.{name}_progress"]
            state["current"] = dict.fromkeys(state["current"], 0)
            if "is_last_batch" in state:
                state["is_last_batch"] = False
    if late:
        state = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in ("current", "total"):
            state[counts] = {**state[counts], "completed": state[counts]["completed"] - 1}
    # Lightning may have read a batch ahead, and asks only loaders with a length where they are.
    trained = trainer.fit_loop.epoch_loop.batch_progress.current
    done = 0 if between else trained.processed  # type: ignore[attr-defined]  # typed as its base
    places = [{"epoch": trainer.current_epoch, "done": done} for _ in range(loaders)]
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = places
