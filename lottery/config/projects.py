"""A user's Lightning project on the command line: its classes begin an empty node, and its keys need no `+`.

PyTorch is imported for a target that is not ours only, so that a mistake on the command line is said at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lottery.foundations.errors import Refused
from lottery.foundations.rooms import named

REPLACED = ("model", "data")
"""The groups whose place a project's classes take."""
OURS = ("lottery.", "torchvision.")
"""Packages that give no LightningModule, known without importing PyTorch."""
NOT_READ = {
    "module": "training_step, validation_step and test_step of your LightningModule say it",
    "optimizer": "configure_optimizers of your LightningModule says it",
    "budget": "its own schedulers and the Trainer say it; allowed: budget.steps, trainer.check_val_every_n_epoch, ...",
}
"""The groups that a LightningModule takes the place of, of budget all but the steps."""


def added(words: Sequence[str]) -> list[str]:
    """The command line with `++` before keys that a yaml of ours can't know: Trainer's, and those of an own target.

    >>> added(["model._target_=mine.Lit", "model.lr=0.1", "trainer.gradient_clip_val=1.0", "seed=0,1"])
    ['model._target_=mine.Lit', '++model.lr=0.1', '++trainer.gradient_clip_val=1.0', 'seed=0,1']
    """
    own = [group for group in REPLACED if any(re.match(rf"\+*{group}\._target_=", word) for word in words)]
    keys = re.compile(rf"({'|'.join(['trainer', *own])})\.(?!_target_=)[\w.]+=")
    return [f"++{word}" if keys.match(word) else word for word in words]


def is_lightning(where: str, node: Mapping[str, Any]) -> bool:
    """Whether a node's target is a class of a Lightning project: a LightningModule not of ours, or a data module."""
    if str(node.get("_target_")).startswith(OURS):
        return False
    from lottery.config.nodes import target_of

    try:
        target, _ = target_of(where, node)
    except Refused:  # building it says why
        return False
    from lottery.training.lightning.module.requirements import of_lightning

    return isinstance(target, type) and of_lightning(target)


def gives_lightning(model: Mapping[str, Any]) -> bool:
    """Whether a `model` node gives a LightningModule, if need be by calling its function."""
    if str(model.get("_target_")).startswith(OURS):
        return False
    from lottery.config.nodes import network, target_of
    from lottery.foundations.seeds import seeded
    from lottery.training.lightning.module.requirements import of_lightning

    target, _ = target_of("model", model)
    if isinstance(target, type):
        return of_lightning(target)
    with seeded(0):
        return of_lightning(type(network(model)))


def alone(group: str, node: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A project's node without what the option in whose place it came has set: only what is asked for counts."""
    given = {
        found[1] for word in words if (found := re.match(rf"\+*{group}\.(\w+)", word)) and not word.startswith("~")
    }
    return {key: value for key, value in node.items() if key in given}


def refuse_unread(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises Refused for a setting that a LightningModule takes the place of, and that is not the default."""
    for group, instead in NOT_READ.items():
        for key, value in named(config[group]).items():
            usual = defaults[group].get(key)
            if value != usual and not (group == "budget" and key == "steps"):
                raise Refused(f"{group}.{key}={value}: is not read with a LightningModule; {instead}")
