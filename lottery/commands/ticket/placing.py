"""Placing: adapts a recorded configuration to this machine, and says what of a machine can change bits of a result."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import environ
from typing import Any

import torch
import yaml

from lottery.config.groups import PLACES, TRAINING_GROUPS, chosen
from lottery.foundations.errors import Refused
from lottery.foundations.machine import processor
from lottery.store.phases import SCIENCE
from lottery.training.recipes import Recipe

WHERE = {"data": PLACES, "hardware": ("accelerator",)}
"""Settings that say where a training runs and do not change what is trained."""
DECISIVE = ("device", "devices", "torch", "cpu", "science")
"""Facts of a machine that, with the recipe, determine a result bit for bit."""


def local(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recorded configuration adapted to this machine: one process, and the same kind of device if there is one.

    `overrides` may change settings in WHERE only. Raises Refused for one that would change what is trained.
    """
    changed = {group: dict(node) for group, node in chosen((*TRAINING_GROUPS, "hardware"), config).items()}
    kind = changed["hardware"].get("accelerator")
    changed["hardware"] |= {"devices": 1, "accelerator": "cpu" if kind == "cpu" else "auto", "trainer": {}}
    if "root" in changed["data"]:
        changed["data"]["root"] = environ.get("LOTTERY_DATA", "data")
    return {**config, **placed(changed, overrides)}


def placed(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration with overrides of settings in WHERE. Raises Refused for any other override."""
    changed = {**config, **{group: dict(config[group]) for group in WHERE}}
    for word in overrides:
        key, equals, value = word.partition("=")
        group, _, name = key.partition(".")
        known = [f"{place}.{setting}" for place in WHERE for setting in WHERE[place] if setting in changed[place]]
        if not equals or key not in known:
            raise Refused(
                f"{word}: would change what is trained; allowed here: {', '.join(known)}; "
                "`lottery ticket run` takes any setting"
            )
        changed[group][name] = yaml.safe_load(value)
    return changed


def here(recipe: Recipe) -> dict[str, Any]:
    """The facts of this machine that a ticket records."""
    return {
        "lottery": version("lottery"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "science": SCIENCE,
        "device": recipe.hardware.device,
        "cpu": processor(),
    }
