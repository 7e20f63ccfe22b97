"""Composes a command line with Hydra into the configurations of its cells."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from lottery.config.cell_config import CellConfig, content, files_of
from lottery.config.explain import explain
from lottery.config.groups import CONF, DEFAULTS, FIXED, GROUPS, OPTIONAL, SETTINGS, TOP
from lottery.config.options import Options, parent_of
from lottery.config.patterns import patterns
from lottery.config.projects import NOT_READ, REPLACED, added, alone, is_lightning, refuse_unread
from lottery.foundations.digests import leaves
from lottery.foundations.errors import Once, Refused, nearby

VERSION = "1.3"
"""Hydra's `version_base`, for composing and launching."""
SEED = r"seed=(0|[1-9]\d*)"
"""A word that says a replicate's seed and no more."""


def cell_configs(arguments: list[str]) -> list[CellConfig]:
    """The configurations of all cells of a command line. Raises Refused."""
    return composed(arguments)[0]


def composed(arguments: list[str]) -> tuple[list[CellConfig], dict[str, Any]]:
    """The configurations of all cells of a command line, and that of their launcher. Raises Refused."""
    parts = [_composed(parsed(part)) for part in by_experiment(arguments)]
    launchers = [launcher for _, launcher in parts]
    if any(launcher != launchers[0] for launcher in launchers):
        raise Refused("experiment: these have different launchers; choose one with hydra/launcher=, or run each alone")
    return [job for found, _ in parts for job in found], launchers[0]


def by_experiment(arguments: list[str]) -> list[list[str]]:
    """Splits a command line into one for each experiment that it sweeps over.

    Experiments define their own sweeps, but Hydra reads the sweep before it chooses among several experiments.
    """
    args = parsed(arguments)
    loader = _loader(args)
    for word in args.overrides if args.multirun or "hydra.mode=MULTIRUN" in args.overrides else ():
        if word.lstrip("+").startswith("experiment="):
            try:
                [given] = OverridesParser.create(loader).parse_overrides([word])
            except HydraException as error:
                raise Refused(explain(error, loader, args.overrides)) from error
            if given.is_discrete_sweep():
                chosen = [f"{given.get_key_element()}={name}" for name in given.sweep_string_iterator()]
                return [[one if other == word else other for other in arguments] for one in chosen]
    return [arguments]


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """A command line, parsed as Hydra does into overrides and flags. Raises Refused for unsupported flags."""
    parser = argparse.ArgumentParser(parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.error = _misused  # type: ignore[method-assign]  # argparse would print and exit
    parser.add_argument("--config-dir", "-cd", action=Once)
    args = parser.parse_intermixed_args(arguments)
    args.overrides = added(args.overrides)
    if args.config_name or args.config_path:
        raise Refused("--config-name and --config-path: are not supported; --config-dir adds a folder of configuration")
    if args.experimental_rerun:
        raise Refused("--experimental-rerun: is not supported, as it unpickles a file; the same command resumes a run")
    if args.config_dir and not Path(args.config_dir).is_dir():
        raise Refused(f"--config-dir {args.config_dir}: there is no such folder")
    return args


def _misused(message: str) -> NoReturn:
    raise Refused(f"{message}; `lottery run --help` lists the arguments")


def _loader(args: argparse.Namespace) -> Any:
    version.setbase(VERSION)
    search_path = create_config_search_path(str(CONF))
    if args.config_dir:
        search_path.prepend("command-line", f"file://{Path(args.config_dir).resolve()}")
    return ConfigLoaderImpl(search_path)


def _composed(args: argparse.Namespace) -> tuple[list[CellConfig], dict[str, Any]]:
    loader = _loader(args)
    try:
        master = loader.load_configuration("config", args.overrides, RunMode.MULTIRUN)
        _as_we_launch(master.hydra)
        options = _options(master.hydra)
        if not args.multirun and master.hydra.mode != RunMode.MULTIRUN:
            given = OverridesParser.create(loader).parse_overrides(args.overrides)
            loader.validate_sweep_overrides_legal(given, RunMode.RUN, from_shell=True)
            return [cell_config(master, master.hydra, options)], _launcher(master)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        task = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)  # each cell has its own ${seed}
        parsed = OverridesParser.create(loader).parse_overrides([*params, *cast(list[str], task)])
        sweep = [cell for batch in BasicSweeper.split_arguments(parsed, None) for cell in batch]
        return _cells(sweep, lambda words: loader.load_sweep_config(master, words), options), _launcher(master)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(explain(error, loader, args.overrides)) from error


def _cells(
    sweep: Sequence[list[str]], compose: Callable[[list[str]], DictConfig], options: Options
) -> list[CellConfig]:
    """The cells of a sweep. Replicates share a composition, which takes a third of a second: a seed chooses no yaml."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    found = []
    for words in sweep:
        plain = tuple("seed" if re.fullmatch(SEED, word) else word for word in words)
        config = composed.get(plain) or composed.setdefault(plain, compose(words))
        for word in words:
            if re.fullmatch(SEED, word):
                config.seed = int(word.removeprefix("seed="))
        with read_write(config.hydra):
            config.hydra.overrides.task = words
        found.append(cell_config(config, config.hydra, options))
    return found


def _as_we_launch(hydra_config: DictConfig) -> None:
    """Raises Refused for settings of Hydra that would move cells to folders where they would not be found."""
    given: Any = OmegaConf.to_container(hydra_config, resolve=False)
    for path, ours in leaves(FIXED):
        value = reduce(getitem, path, given)
        if value != ours:
            said, kept = (json.dumps(each).strip('"') for each in (value, ours))
            raise Refused(f"hydra.{'.'.join(path)}={said}: must stay {kept}; out= chooses the folder of runs")


def _launcher(master: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(master.hydra.launcher, resolve=True))


def _options(hydra_config: Any) -> Options:
    sources = hydra_config.runtime.config_sources
    return Options(f"{source.schema}://{source.path}" for source in sources if source.provider != "schema")


def cell_config(config: DictConfig, hydra_config: Any = None, options: Options | None = None) -> CellConfig:
    """The configuration of one cell that Hydra composed. Raises Refused for missing, unknown or invalid keys."""
    hydra_config = hydra_config or config.hydra
    options = options or _options(hydra_config)
    choices = hydra_config.runtime.choices
    for group in (group for group in GROUPS if group not in OPTIONAL):
        if not isinstance(config.get(group), DictConfig) or choices.get(group) is None:
            raise Refused(f"{group}: is missing; must be one of {', '.join(options.names(group))}")
    if not isinstance(config.get("stop"), DictConfig):
        raise Refused(f"stop: must hold {', '.join(SETTINGS['stop'])}, each null where it is no condition")
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    words = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    _all_known(plain, words, choices.get("experiment"))
    shown = cast(dict[str, Any], OmegaConf.to_container(plain, resolve=False))
    if project := is_lightning("model", shown["model"]):
        refuse_unread(shown, {group: options(group, str(DEFAULTS[group])) for group in NOT_READ})
        plain.module, plain.optimizer = {}, {}
    for path, text in leaves(shown):
        if isinstance(text, str) and re.search(r"\$\{\s*now:", text):
            raise Refused(f"{'.'.join(path)}={text}: changes with time, so that no command could resume the run")
    try:
        resolved = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise Refused(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict)
    for key in ("out", "store"):
        if not isinstance(resolved[key], str | int) or isinstance(resolved[key], bool) or resolved[key] == "":
            raise Refused(f"{key}={'null' if resolved[key] is None else resolved[key]}: must be a folder")
        resolved[key] = str(resolved[key])
    patterns(cast(dict[str, Any], resolved))  # raises Refused for invalid patterns
    if isinstance(file := resolved["arm"].get("file"), str):
        resolved["arm"]["content"] = content(file)  # identified by content, not by path
    chosen = {k: str(v) for k, v in choices.items() if v is not None}
    for group in REPLACED:
        node, asked = resolved[group], any(re.match(rf"\+*{group}\._target_=", word) for word in words)
        if project or is_lightning(group, node):
            resolved[group] = alone(group, node, words) if asked else node
            chosen[group] = node["_target_"].rpartition(".")[2]
    if files := files_of(cast(dict[str, Any], resolved)):
        resolved["files"] = files  # recorded beside the ledger: a cell whose files changed is not finished
    for path, value in leaves(resolved):
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{'.'.join(path)}={value}: must be a finite number")
    return CellConfig(
        config=cast(dict[str, Any], resolved),
        arm=cast(dict[str, Any], OmegaConf.to_container(plain.arm, resolve=False)),
        shipped=options("arm", str(choices.arm)),
        parent=parent_of(cast(dict[str, Any], resolved), options),
        choices=chosen,
        command=_command(hydra_config),
    )


def _all_known(config: DictConfig, overrides: Sequence[str], experiment: str | None) -> None:
    """Raises Refused for unknown keys at the top level, whether from a yaml or from the command line."""
    if isinstance(misplaced := config.get("experiment"), DictConfig):
        keys = ", ".join(f"experiment.{key!s}" for key in misplaced)
        raise Refused(
            f"experiment={experiment}: {keys} would be ignored; the yaml's first line must be `# @package _global_`"
        )
    for key in (str(key) for key in config if key not in TOP):
        words = [override.lstrip("+~") for override in overrides]
        given = next((word for word in words if re.match(rf"([^=]*@)?{re.escape(key)}[=./@]", word)), key)
        where = "" if given.startswith(key) else f" as {key}"
        raise Refused(f"{given}: there is no such key{where}; {nearby(key, list(TOP))}")


def _command(hydra_config: Any) -> tuple[str, ...]:
    """The arguments that run this cell alone: its overrides without those of launcher and sweeper."""
    how = ("hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.", "hydra.mode=")
    kept = [given for given in hydra_config.overrides.hydra if not given.lstrip("+~").startswith(how)]
    folders = [s.path for s in hydra_config.runtime.config_sources if s.schema == "file" and s.path != str(CONF)]
    more = [word for folder in folders for word in ("--config-dir", folder)]
    return (*hydra_config.overrides.task, *kept, "hydra.mode=RUN", *more)
