"""The catalogue: what can be chosen in each group of `conf/`, and which groups can change what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lottery.foundations.rooms import roomless

CONF = next(path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if path.is_dir())
_MAIN: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text())
_CHOSEN = {
    group: option
    for entry in _MAIN["defaults"]
    if isinstance(entry, dict)
    for group, option in entry.items()
    if not group.startswith("override ")
}
GROUPS = tuple(_CHOSEN)
"""the groups of `conf/`, as the defaults list of config.yaml names them: a new one is added there alone"""
OPTIONAL = tuple(group for group, option in _CHOSEN.items() if option is None)
"""groups of which nothing need be chosen"""
TOP = tuple(sorted({*GROUPS, *_MAIN} - {"defaults", "hydra"}))
"""keys at the top of a configuration"""
FIXED: dict[str, Any] = _MAIN["hydra"]
"""settings of Hydra's that all runs share"""
SCIENCE_GROUPS = tuple(g for g in GROUPS if g not in ("arm", "hardware", "tracking", "analysis", "experiment"))
"""groups that can change a number, except arm: all that are not said to be none, since forgetting must be safe"""
TRAINING_GROUPS = tuple(g for g in SCIENCE_GROUPS if g not in ("criterion", "scope", "schedule"))
"""groups that the training of a given ticket depends on: all of science that are not said to be none"""
PLACES = ("root", "workers")
"""settings of data that say where it lies and who reads it, not what it is"""

UNNAMED = {"hardware": "lottery.hardware.Hardware", "stop": "lottery.stopping.Stop"}
"""what changes no number by being called, so that no name says it; someone's own in its place might"""


def foreign(group: str, config: Mapping[str, Any]) -> bool:
    """Whether a configuration calls someone's own code where ours would not be named."""
    own = UNNAMED[group]
    return roomless(str(config.get(group, {}).get("_target_", own))) != own


def chosen(groups: Iterable[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of those groups of which something is chosen.

    So an optional group that is new takes no part in the names and digests of whatever does not choose from it.
    """
    return {group: config[group] for group in groups if group not in OPTIONAL or config.get(group) is not None}


def options(group: str, sources: tuple[str, ...] = ()) -> dict[str, str]:
    """Every option of a group with the first sentence of its yaml's comment."""
    found: dict[str, str] = {}
    for folder in (*sources, str(CONF)):
        for path in sorted((Path(folder) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("# ")]
            found.setdefault(path.stem, next((line for line in comments if not line.startswith("@")), ""))
    return found
