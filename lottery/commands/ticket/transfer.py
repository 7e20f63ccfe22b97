"""Transfer: the `lottery run` command that trains a ticket under its own recipe, with changes that a user asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lottery.config.compose import cell_configs, parsed
from lottery.config.groups import PLACES, SCIENCE_GROUPS, chosen
from lottery.config.options import Options, options_of
from lottery.config.trust import trusted
from lottery.foundations.digests import leaves
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import named
from lottery.store.tickets import Saved

_PLAIN = r"[A-Za-z0-9_.*?-]+"  # what Hydra reads as a name within braces


def arguments(saved: Saved, given: Sequence[str], trust: tuple[str, ...] = ()) -> list[str]:
    """Arguments of `lottery run`: the recorded recipe as options and settings, then those that are `given`.

    A given group replaces the recorded one as a whole, and a given experiment all groups. Raises Refused for a
    configuration that may not be trusted.
    """
    trusted(saved.path, saved.info["config"], trust)
    config = named(saved.info["config"])
    said = {word.lstrip("+~").partition("=")[0] for word in given if not word.startswith("-")}
    first = saved.info["phase"]["first"]
    own = ["arm=ticket", f"arm.file={literal(str(saved.path))}"]
    own += [f"arm.first={first}"] * (first > 0 and "arm.first" not in said)
    if "arm.length" not in said and (length := config["arm"].get("length")):
        own.append(f"+arm.length={literal(length)}")
    if "experiment" in said:
        return [*own, *given]
    own += [f"seed={config['seed']}"] * ("seed" not in said)
    folder = parsed(given).config_dir
    flags, options = (["--config-dir", folder], options_of([folder])) if folder else ([], options_of([]))
    recipe = chosen(SCIENCE_GROUPS, config)
    choices = [f"{group}={_nearest(group, node, options)}" for group, node in recipe.items()]
    settings: list[str] = []
    whole = [*recipe, "stop", *(["prune"] if "prune" in config else [])]
    for groups in (["data"], [g for g in whole if g != "data"]):  # other groups may depend on data
        [job] = cell_configs([*flags, *choices, *settings])
        for group in groups:
            settings += changes(group, job.config[group], config[group])
    [job] = cell_configs([*flags, *choices, *settings])
    if left := [word for group in whole for word in changes(group, job.config[group], config[group])]:
        raise Refused(f"{saved.path}: its recipe can't be written as a command: {left[0]} does not say it")
    kept = [word for word in [*choices, *settings] if not _overruled(word.lstrip("+~").partition("=")[0], said)]
    return [*own, *kept, *given]


def changes(key: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Overrides that turn the composed node `ours` into `theirs`.

    >>> list(changes("optimizer", {"lr": 0.1, "fused": True}, {"lr": 0.2, "betas": [0.9, 0.99]}))
    ['++optimizer.lr=0.2', '++optimizer.betas=[0.9,0.99]', '~optimizer.fused']
    """
    nested = isinstance(ours, Mapping) and isinstance(theirs, Mapping)
    if nested and all(re.fullmatch(r"\w+", str(name)) for name in {*ours, *theirs}):
        where = PLACES if key == "data" else ()
        for name in (name for name in theirs if name not in where):
            yield from changes(f"{key}.{name}", ours.get(name, ...), theirs[name])
        yield from (f"~{key}.{name}" for name in ours if name not in theirs)
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"++{key}={literal(theirs)}"


def literal(value: Any) -> str:
    """A value in the syntax of Hydra's command line.

    >>> literal({"a*": [None, True, 1e-05, "it's, ok"]})
    "{a*:[null,true,1e-05,'it\\\\'s, ok']}"

    Raises Refused for a key that this syntax can't express.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        if bad := [name for name in value if not re.fullmatch(_PLAIN, str(name))]:
            raise Refused(f"{str(bad[0])[:60]!r}: is no name that a setting can have")
        return f"{{{','.join(f'{name}:{literal(item)}' for name, item in value.items())}}}"
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), value)
    return value if re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and not _reserved(value) else f"'{text}'"


def _reserved(text: str) -> bool:
    return not isinstance(yaml.safe_load(text), str) or text.lower() in ("nan", "inf", "infinity")


def _overruled(key: str, said: set[str]) -> bool:
    """Whether the user gave this setting, or one that contains it."""
    return any(key == other or key.startswith(f"{other}.") for other in said)


def _nearest(group: str, node: Mapping[str, Any], options: Options) -> str:
    """The option whose yaml is nearest to a node, so that few settings remain to be given."""

    def distance(name: str) -> tuple[bool, int]:
        shipped = options(group, name)
        same = set(map(str, leaves(shipped))) ^ set(map(str, leaves(node)))
        return shipped.get("_target_") != node.get("_target_"), len(same)

    complete = [name for name in options.names(group) if "???" not in dict(leaves(options(group, name))).values()]
    return min(complete, key=distance)
