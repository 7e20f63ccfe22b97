"""The groups of `conf/`: which there are, their options, and which of them can change a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lottery.foundations.rooms import roomless

CONF = next(path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())
_MAIN: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text())
DEFAULTS = {
    group: option
    for entry in _MAIN["defaults"]
    if isinstance(entry, dict)
    for group, option in entry.items()
    if not group.startswith("override ")
}
"""The option of each group that is chosen unless another is; None for a group that may be left out."""
GROUPS = tuple(DEFAULTS)
"""All groups, from the defaults list of config.yaml: a new group is added there and nowhere else."""
OPTIONAL = tuple(group for group, option in DEFAULTS.items() if option is None)
"""The groups that may be left out."""
TOP = tuple(sorted({*GROUPS, *_MAIN} - {"defaults", "hydra"}))
"""The keys at the top level of a configuration."""
FIXED: dict[str, Any] = _MAIN["hydra"]
"""The settings of Hydra that all runs share."""
SETTINGS = {part: tuple(key for key in _MAIN[part] if key[0] != "_") for part in ("stop", "prune")}
"""The settings of the parts that are no group."""
SCIENCE_GROUPS = tuple(g for g in GROUPS if g not in ("arm", "hardware", "tracking", "analysis", "experiment"))
"""The groups that can change a number, except arm. New groups count as such, the safe default."""
PRUNING_GROUPS = ("criterion", "scope", "structure", "compensation", "schedule")
"""The groups that say which weights are pruned, on which training a given ticket does not depend."""
TRAINING_GROUPS = tuple(g for g in SCIENCE_GROUPS if g not in PRUNING_GROUPS)
"""The groups that training a given ticket depends on. New groups count as such, the safe default."""
SILENT = ("detect_anomaly", "log_every_n_steps", "profiler")
"""Arguments of Lightning's Trainer that change no number."""
PLACES = ("root", "workers", "num_workers", "pin_memory", "persistent_workers")
"""The settings of data that change only where and how it is read, not what is read."""

UNNAMED = {"hardware": "lottery.hardware.Hardware", "stop": "lottery.stopping.Stop"}
"""The parts that study names and phase keys leave out where their function is ours, with that function as it was first
called. Ours changes no number by itself; a user's own in its place might, and counts."""


def foreign(group: str, config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a user's own code in a group whose default names leave out."""
    own = UNNAMED[group]
    return roomless(str(config.get(group, {}).get("_target_", own))) != own


def channelwise(config: Mapping[str, Any]) -> bool:
    """Whether a configuration prunes whole channels by our structure of that name."""
    return roomless(str((config.get("structure") or {}).get("_target_"))) == "lottery.channelwise.channels"


def chosen(groups: Iterable[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of the given groups, without optional ones that are not set.

    A new optional group therefore changes no name or digest of a configuration that does not use it.
    """
    return {group: config[group] for group in groups if group not in OPTIONAL or config.get(group) is not None}


def own_options(group: str, folder: str) -> list[str]:
    """The options of a group that a user's folder has."""
    return sorted(path.stem for path in (Path(folder) / group).glob("*.yaml"))


def options(group: str, sources: tuple[str, ...] = ()) -> dict[str, str]:
    """Every option of a group with the first line of its yaml's comment."""
    found: dict[str, str] = {}
    for folder in (*sources, str(CONF)):
        for path in sorted((Path(folder) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("# ")]
            found.setdefault(path.stem, next((line for line in comments if not line.startswith("@")), ""))
    return found
