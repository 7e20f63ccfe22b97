"""The catalogue: what can be chosen in each group of `conf/`, and which groups can change what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lottery.errors import Refused, nearby
from lottery.rooms import named, roomless

CONF = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if path.is_dir())
GROUPS = (
    "model", "data", "module", "optimizer", "criterion", "scope", "schedule",
    "arm", "budget", "numerics", "hardware", "tracking", "analysis", "experiment",
)  # fmt: skip
OPTIONAL = ("analysis", "experiment")
"""groups of which nothing need be chosen"""
SCIENCE_GROUPS = tuple(g for g in GROUPS if g not in ("arm", "hardware", "tracking", *OPTIONAL))
"""groups that can change a number, except arm"""
TRAINING_GROUPS = ("model", "data", "module", "optimizer", "budget", "numerics")
"""groups that the training of a given ticket depends on"""
PLACES = ("root", "workers")
"""settings of data that say where it lies and who reads it, not what it is"""

UNNAMED = {"hardware": "lottery.hardware.Hardware", "stop": "lottery.stopping.Stop"}
"""what changes no number by being called, so that no name says it; someone's own in its place might"""


def foreign(group: str, config: Mapping[str, Any]) -> bool:
    """Whether a configuration calls someone's own code where ours would not be named."""
    own = UNNAMED[group]
    return roomless(str(config.get(group, {}).get("_target_", own))) != own


def find(group: str, name: str, sources: tuple[str, ...] = ()) -> Path:
    """The yaml of an option. Raises Refused, naming those nearby, if there is none."""
    folders = [Path(source) / group for source in (*sources, str(CONF))]
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})
    raise Refused(f"{group}={name}: there is no such {group}; {nearby(name, known)}")


def shipped_arm(name: str, sources: tuple[str, ...] = ()) -> dict[str, Any]:
    """An arm as its yaml has it."""
    return named({"rewind": 0, **yaml.safe_load(find("arm", name, sources).read_text())})


def options(group: str, sources: tuple[str, ...] = ()) -> dict[str, str]:
    """Every option of a group with the first sentence of its yaml's comment."""
    found: dict[str, str] = {}
    for folder in (*sources, str(CONF)):
        for path in sorted((Path(folder) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("# ")]
            found.setdefault(path.stem, next((line for line in comments if not line.startswith("@")), ""))
    return found
