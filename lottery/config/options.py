"""The options of each group, each composed by Hydra from its own yaml alone.

An arm's label shows what differs from its yaml, and a parent is exactly what its yaml says. A yaml may include others
through a defaults list, so that Hydra must compose it; parsing the file would not be enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lottery.config.cell_config import Parent
from lottery.config.explain import explain
from lottery.config.groups import CONF
from lottery.config.labels import label
from lottery.foundations.errors import Refused, nearby
from lottery.foundations.rooms import named


class Options:
    """The options of each group, composed by Hydra on first use and cached."""

    def __init__(self, sources: Iterable[str]) -> None:
        """`sources` are Hydra search paths, `file:///...`; the first that has an option wins."""
        path = ConfigSearchPathImpl()
        for source in sources:
            path.append("lottery", source)
        path.append("schema", "structured://")  # Hydra wants it last
        Plugins.instance()  # registers what reads folders of yamls, for commands that don't start Hydra itself
        self._loader: Any = ConfigLoaderImpl(path)
        self._yamls = CachingConfigRepository(self._loader.repository)
        self._composed: dict[tuple[str, str], dict[str, Any]] = {}

    def names(self, group: str) -> list[str]:
        return cast(list[str], self._loader.get_group_options(group))

    def __call__(self, group: str, name: str) -> dict[str, Any]:
        """The node of an option by itself, interpolations left as they are. Raises Refused."""
        if (group, name) not in self._composed:
            try:
                chosen = OverridesParser.create().parse_overrides([f"+{group}={name}"])
                defaults = create_defaults_list(self._yamls, None, chosen, prepend_hydra=False, skip_missing=False)
                whole = self._loader._compose_config_from_defaults_list(defaults.defaults, self._yamls)
                node = cast(dict[str, Any], OmegaConf.to_container(whole, resolve=False)).get(group) or {}
            except (HydraException, OmegaConfBaseException) as error:
                said = explain(error, self._loader, [])
                raise Refused(f"{group}={name}: its yaml can't be composed by itself: {said}") from error
            self._composed[group, name] = named(node)
        return self._composed[group, name]


def options_of(folders: Sequence[str]) -> Options:
    """The options of a user's folders, which take precedence, and of ours."""
    return Options(f"file://{Path(folder).resolve()}" for folder in (*folders, str(CONF)))


def parent_of(config: Mapping[str, Any], options: Options) -> Parent | None:
    """The parent of a resolved configuration's arm, with the same rewinding point; None without one. Raises Refused."""
    if (name := config["arm"].get("parent")) is None:
        return None
    asked = f"arm.parent={name}"

    def prunes(arm: str) -> bool:
        try:
            node = options("arm", arm)
        except Refused:
            return False
        return not node.get("parent") and "file" not in node

    if name not in (known := options.names("arm")):
        raise Refused(f"{asked}: there is no such arm; {nearby(str(name), list(filter(prunes, known)))}")
    shipped = options("arm", name)
    if not prunes(name):
        raise Refused(f"{asked}: it has no masks of its own; allowed: {', '.join(filter(prunes, known))}")
    rewind = config["arm"].get("rewind", 0)
    arm = {**shipped, "rewind": rewind}
    called = label(name, arm, {"rewind": 0, **shipped})
    try:
        whole = OmegaConf.create({**config, "arm": arm})
        node = cast(dict[str, Any], OmegaConf.to_container(whole.arm, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise Refused(f"{asked}: {error.full_key}: {str(error).splitlines()[0]}") from error
    return Parent(called, shipped, node)
