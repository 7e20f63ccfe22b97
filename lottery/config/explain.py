"""Turns an error of Hydra's composition into one sentence with key, value and what is allowed.

Hydra has no error classes for these cases, so that its messages are matched by text. If a release of Hydra changes
them, sentences get less helpful and tests/test_refusals.py fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lottery.config.groups import GROUPS, TOP
from lottery.foundations.errors import nearby


def explain(error: Exception, loader: ConfigLoaderImpl, overrides: Iterable[str]) -> str:
    """A composition error as one sentence, with similar names that exist."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        if "missing EQUAL" in text:
            return f"{error.override}: can't be read; a setting is written key=value"
        reason = text.splitlines()[0].removeprefix(f"Error parsing override '{error.override}'")
        return (
            f"{error.override}: can't be read{f' ({reason})' if reason else ''}; a list is [1,2], text with signs '...'"
        )
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: several values are a sweep; add -m for one cell of each, or write a list as [1,2]"
    if "Config group override must be" in text:
        for group in GROUPS:
            for given in (override for override in overrides if override.startswith(f"{group}=")):
                try:
                    loader.load_configuration("config", [given], RunMode.RUN)
                except ValueError:
                    return f"{given}: must be one of {', '.join(loader.get_group_options(group))}"
    if "Could not load 'hydra/launcher/submitit_slurm'" in text:
        return "hydra/launcher=slurm: needs hydra-submitit-launcher; in a checkout, `pip install -e '.[slurm]'` gets it"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '([^']+)'", text)):
        group, _, name = found[1].rpartition("/")
        return f"{group}={name}: there is no such {group}; {nearby(name, loader.get_group_options(group))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        given = next((o for o in overrides if o.lstrip("+~").startswith(f"{key}=")), key)
        if key in TOP:
            return f"{given}: {' '.join(str(error.__cause__ or text).split())}"
        if "." not in key:
            return f"{given}: there is no such key; {nearby(key, list(TOP))}"
        parent, _, last = key.rpartition(".")
        kept = [o for o in overrides if not o.lstrip("+~").startswith(key)]
        try:
            node = OmegaConf.select(loader.load_configuration("config", kept, RunMode.MULTIRUN), parent)
        except (HydraException, OmegaConfBaseException):
            node = None
        if isinstance(node, DictConfig):
            names = sorted(str(k) for k in node if not str(k).startswith("_"))
            return f"{given}: {parent} has no such key; {nearby(last, names)}; to add one, write +{given}"
        return f"{given}: there is no such key"
    cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) not in text else ""
    return " ".join(f"{text}{cause}".split())
