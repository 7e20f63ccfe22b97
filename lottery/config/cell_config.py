"""The configuration of one cell, with its names, folder and digest. It imports no PyTorch, to be fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lottery.config.groups import OPTIONAL, PLACES, PRUNING_GROUPS, SCIENCE_GROUPS, SILENT, chosen, foreign
from lottery.config.labels import label
from lottery.config.patterns import patterns
from lottery.config.user_code import user_code
from lottery.foundations.digests import digest_of, file_digest, files
from lottery.foundations.durations import bare, uniform
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import named
from lottery.store.folder import CONFIG, ERROR, NAME
from lottery.store.ledger import Ledger, LedgerError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, ten times as fast, where PyYAML was built with it."""


@dataclass(frozen=True)
class Parent:
    """The arm whose masks a cell uses, as plain data."""

    label: str
    """The label that it has when it is run as an arm itself."""
    shipped: Mapping[str, Any]
    """The arm as its own yaml has it, interpolations unresolved."""
    node: Mapping[str, Any]
    """The arm with the cell's rewinding point, interpolations resolved."""


@dataclass(frozen=True)
class CellConfig:
    """The configuration of one cell as plain data."""

    config: Mapping[str, Any]
    """The whole configuration, interpolations resolved."""
    arm: Mapping[str, Any]
    """The arm as configured, interpolations unresolved."""
    shipped: Mapping[str, Any]
    """The arm as its own yaml has it, interpolations unresolved."""
    parent: Parent | None
    """The arm whose masks are used; None if the arm finds its own."""
    choices: Mapping[str, str]
    """The option chosen in each group."""
    command: tuple[str, ...]
    """The arguments of `lottery run` that ask for this cell alone."""

    def __post_init__(self) -> None:
        for name in ("config", "arm"):  # names and digests must not depend on our module layout
            object.__setattr__(self, name, named(getattr(self, name)))

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def study(self) -> str:
        """Experiment or model, data, and a digest of everything that can change a number."""
        of = science(self.config)
        if code := user_code(list(of.values())):
            of["code"] = code
        stem = self.choices.get("experiment") or self.choices["model"]
        return f"{stem}-{self.choices['data']}-{digest_of(of)[:8]}".replace("/", "_")

    @cached_property
    def label(self) -> str:
        """The arm's name and every setting that differs from its yaml, sorted."""
        return label(self.choices["arm"], self.arm, self.shipped, self.config["arm"].get("content", ""))

    @property
    def folder(self) -> Path:
        """Where the cell's ledger lives."""
        return Path(self.config["out"]) / self.study / self.label / f"seed{self.seed}"

    @cached_property
    def digest(self) -> str:
        """Digest of pruning and arm, including the parent and a user's own code; the ledger's column `setting`."""
        # a ticket is named by the label, and each seed may have its own
        arm = {key: value for key, value in self.config["arm"].items() if key not in ("file", "content")}
        nodes = [*chosen(PRUNING_GROUPS, self.config).values(), arm]
        if self.parent:
            nodes.append({"rewind": 0, **self.parent.shipped})
        return steady(nodes, "setting", self.folder.parent.glob(f"seed*/{NAME}"))

    def finished(self) -> bool:
        """Whether the cell's ledger is complete for the current configuration.

        False if a setting that the names don't show has changed, such as `data.root` or a user's yaml: the cell is then
        played again, from the store if the content is the same, else it is refused with what differs. False for a
        damaged ledger too: playing the cell raises the error, and the other cells of a sweep still run.
        """
        ledgers = [NAME, *(f"{name}.jsonl" for name in self.config.get("analysis") or {})]
        try:
            if (self.folder / ERROR).exists() or not all(Ledger(self.folder / name).finished() for name in ledgers):
                return False
            if Ledger(self.folder / NAME).lines()[-1].get("setting") != self.digest:
                return False
            then = recorded(self.folder)
        except (OSError, LedgerError):
            return False
        if then.get("files", self.config.get("files")) != self.config.get("files"):
            return False
        analyses, analysed = uniform(self.config.get("analysis") or {}), uniform(then.get("analysis") or {})
        if any(analysed.get(name) != node for name, node in analyses.items()):
            return False
        if uniform(then.get("arm")) != uniform(self.config["arm"]):
            return False
        groups = (*SCIENCE_GROUPS, "stop")
        return all(_as_before(group, then.get(group)) == _as_before(group, self.config.get(group)) for group in groups)

    def __str__(self) -> str:
        return f"{self.study} {self.label} seed {self.seed}"


def steady(node: Any, key: str, ledgers: Iterable[Path]) -> str:
    """Digest of plain data and of the user code that it names, the same for every spelling of a duration.

    Older versions had another digest for 10 than for 10it. If one of the ledgers has such a digest under `key`, it is
    kept, so that the cell can resume and its seeds stay one arm with later ones.
    """
    told = [user_code(node), *filter(None, [files(node)])]
    digest, *others = dict.fromkeys(digest_of([of, *told])[:16] for of in (uniform(node), node, bare(node)))
    for path in ledgers if others else ():
        with suppress(LedgerError):  # reported when that cell itself is read
            if (lines := Ledger(path).lines()) and lines[-1].get(key) in others:
                return str(lines[-1][key])
    return digest


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that can change a number, except arm and seed."""
    found = chosen(SCIENCE_GROUPS, config)
    found["data"] = {key: value for key, value in found["data"].items() if key not in PLACES}
    found["numerics"] = _as_before("numerics", found["numerics"])
    devices = config["hardware"].get("devices", 1)
    if devices != 1:  # sums in another order, and more with BatchNorm
        found["devices"] = devices
    if stop := {key: value for key, value in config["stop"].items() if key[0] != "_" and value is not None}:
        found["stop"] = stop
    if rule := patterns(config):
        found["prune"] = rule
    if arguments := {k: v for k, v in (config.get("trainer") or {}).items() if k not in SILENT}:
        found["trainer"] = arguments
    found |= {key: config[key] for key in ("headline", "better") if config.get(key) is not None}
    if foreign("stop", config):
        found["stop"] = config["stop"]
    if foreign("hardware", config):
        found["hardware"] = {k: v for k, v in config["hardware"].items() if k not in ("accelerator", "devices")}
    return found


def _as_before(group: str, node: Any) -> Any:
    """A group's node without settings that earlier versions lacked, where they are what those did."""
    if not isinstance(node, Mapping):
        return node
    if group == "stop":
        return {key: value for key, value in node.items() if value is not None}
    if group != "numerics":
        return node
    return {key: value for key, value in node.items() if key != "shrink" or value not in ("off", False)}


def files_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that a configuration names, except data and ticket, which have digests of their own."""
    nodes = {group: config.get(group) or {} for group in (*SCIENCE_GROUPS, "arm", "stop", "analysis")}
    for group, told in (("data", PLACES), ("arm", ("file", "content"))):
        nodes[group] = {key: value for key, value in nodes[group].items() if key not in told}
    try:
        return files(nodes)
    except OSError as error:
        raise Refused(f"{error.filename}: is named as a setting and can't be read ({error.strerror})") from error


def recorded(folder: Path) -> dict[str, Any]:
    """The configuration recorded beside a cell's ledger. Raises LedgerError if it is damaged."""
    path, again = folder / CONFIG, "the command that ran the cell writes it anew"
    try:
        config = yaml.load(path.read_text(), _LOADER)
        needed = {*SCIENCE_GROUPS, "arm", "hardware", "stop"} - {*OPTIONAL}
        groups = {g for g in needed if not isinstance(config.get(g), Mapping)}
        lacking = sorted(groups | ({"seed", "store"} - config.keys()))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise LedgerError(f"{path} is damaged: it is no configuration; {again}") from error
    if lacking:
        raise LedgerError(f"{path} is damaged: it lacks {', '.join(lacking)}; {again}")
    return named(config)


def content(file: str) -> str:
    """Digest of a ticket file. Raises Refused if it can't be read."""
    try:
        return file_digest(file)
    except OSError as error:
        raise Refused(
            f"arm.file={file}: can't be read ({error.strerror}); `lottery ticket export` writes one"
        ) from error
