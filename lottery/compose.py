"""Composition: from a command line to the cells it asks for, as Hydra composes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lottery.catalogue import CONF, GROUPS, OPTIONAL, options
from lottery.digests import leaves
from lottery.errors import Refused, nearby
from lottery.names import Job, content, files_of

TOP = sorted({*GROUPS, "out", "store", "seed", "stop"})
"""keys at the top of a configuration"""


def jobs(arguments: list[str]) -> list[Job]:
    """Every cell that a command line asks for, composed as Hydra will compose it. Raises Refused."""
    return composed(arguments)[0]


def composed(arguments: list[str]) -> tuple[list[Job], dict[str, Any]]:
    """Every cell that a command line asks for, and the launcher that is to start them. Raises Refused."""
    parser = get_args_parser()
    parser.error = _misused  # type: ignore[method-assign]  # it is Hydra's, and would print and exit
    args = parser.parse_args(arguments)
    search_path = create_config_search_path(str(CONF))
    if args.config_name or args.config_path:
        raise Refused("--config-name and --config-path: the configuration is ours; --config-dir adds a folder of yours")
    if args.config_dir:
        if not Path(args.config_dir).is_dir():
            raise Refused(f"--config-dir {args.config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{Path(args.config_dir).resolve()}")
    loader: Any = ConfigLoaderImpl(search_path)
    try:
        master = loader.load_configuration("config", args.overrides, RunMode.MULTIRUN)
        if not args.multirun and master.hydra.mode != RunMode.MULTIRUN:
            given = OverridesParser.create(loader).parse_overrides(args.overrides)
            loader.validate_sweep_overrides_legal(given, RunMode.RUN, from_shell=True)
            return [job_of(master)], _launcher(master)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        task = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)  # each cell has its own ${seed}
        parsed = OverridesParser.create(loader).parse_overrides([*params, *cast(list[str], task)])
        sweep = [cell for batch in BasicSweeper.split_arguments(parsed, None) for cell in batch]
        return [job_of(loader.load_sweep_config(master, cell)) for cell in sweep], _launcher(master)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(_explain(error, loader, args.overrides)) from error


def _misused(message: str) -> NoReturn:
    raise Refused(f"{message}; `lottery run --help` shows what can be given")


def _launcher(master: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(master.hydra.launcher, resolve=True))


def job_of(config: DictConfig, hydra_config: Any = None) -> Job:
    hydra_config = hydra_config or config.hydra
    folders = [source.path for source in hydra_config.runtime.config_sources if source.schema == "file"]
    choices = hydra_config.runtime.choices
    if hydra_config.job.chdir:
        raise Refused("hydra.job.chdir=true: cells share the folder that out= is relative to; leave it false")
    for group in (group for group in GROUPS if group not in OPTIONAL):
        if not isinstance(config.get(group), DictConfig) or choices.get(group) is None:
            raise Refused(f"{group}: is missing; must be one of {', '.join(options(group, tuple(folders)))}")
    if not isinstance(config.get("stop"), DictConfig):
        raise Refused("stop: must hold density and below_dense, each null where it is no condition")
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        resolved = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise Refused(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict)
    for override in hydra_config.overrides.task:
        key = override.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0].partition("/")[0]
        if key not in (*TOP, *choices):  # added with +, where it would be read by nobody
            raise Refused(f"{override.lstrip('+~')}: there is no such key; {nearby(key, TOP)}")
    for key in ("out", "store"):
        if resolved[key] in (None, ""):
            raise Refused(f"{key}={'null' if resolved[key] is None else ''}: must be a folder")
        resolved[key] = str(resolved[key])
    if isinstance(file := resolved["arm"].get("file"), str):
        resolved["arm"]["content"] = content(file)  # a file is what is in it, not where it lies
    if named := files_of(cast(dict[str, Any], resolved)):
        resolved["files"] = named  # recorded beside the ledger, so that other content is no finished cell
    for key, value in leaves(resolved):
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{'.'.join(key)}={value}: must be a finite number")
    return Job(
        config=cast(dict[str, Any], resolved),
        arm=cast(dict[str, Any], OmegaConf.to_container(plain.arm, resolve=False)),
        choices={k: str(v) for k, v in choices.items() if v is not None},
        sources=tuple(path for path in folders if path != str(CONF)),
        command=_command(hydra_config),
    )


def _command(hydra_config: Any) -> tuple[str, ...]:
    """What asks for one cell alone: its overrides, without those that say how cells are started."""
    how = ("hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.", "hydra.mode=")
    kept = [given for given in hydra_config.overrides.hydra if not given.lstrip("+~").startswith(how)]
    folders = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    more = [word for folder in folders for word in ("--config-dir", folder)]
    return (*hydra_config.overrides.task, *kept, "hydra.mode=RUN", *more)


def _explain(error: Exception, loader: ConfigLoaderImpl, overrides: Iterable[str]) -> str:
    """A composition error as one sentence with the names nearby."""
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
            return f"{given}: there is no such key; {nearby(key, TOP)}"
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
