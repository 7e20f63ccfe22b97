"""Names: what a configured cell is called and where it lives. Needs no PyTorch, so that looking costs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lottery.config.groups import OPTIONAL, PLACES, SCIENCE_GROUPS, chosen, foreign
from lottery.config.patterns import patterns
from lottery.config.user_code import user_code
from lottery.foundations.digests import digest_of, file_digest, files
from lottery.foundations.durations import NAMED, bare, canonical, uniform
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import named
from lottery.store.folder import CONFIG, ERROR, NAME
from lottery.store.ledger import Ledger, LedgerError


@dataclass(frozen=True)
class Parent:
    """The arm whose masks a cell uses, as plain data."""

    label: str
    """what it is called where it is an arm of its own"""
    shipped: Mapping[str, Any]
    """as its own yaml has it, interpolations left as they are"""
    node: Mapping[str, Any]
    """with the cell's rewinding point, interpolations resolved"""


@dataclass(frozen=True)
class Job:
    """One configured cell as plain data."""

    config: Mapping[str, Any]
    """the whole configuration, interpolations resolved"""
    arm: Mapping[str, Any]
    """the arm as configured, interpolations left as they are"""
    shipped: Mapping[str, Any]
    """the arm as its own yaml has it, interpolations left as they are"""
    parent: Parent | None
    """None: it finds its own masks"""
    choices: Mapping[str, str]
    """option chosen in each group"""
    command: tuple[str, ...]
    """arguments of `lottery run` that ask for this cell alone"""

    def __post_init__(self) -> None:
        for name in ("config", "arm"):  # no name or digest depends on the rooms that our modules lie in
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
    def setting(self) -> str:
        """Digest of all that pruning and the arm are made of, its parent and a user's own code among it."""
        # a ticket is named by the label, and each seed may have its own
        arm = {key: value for key, value in self.config["arm"].items() if key not in ("file", "content")}
        nodes = [*(self.config[group] for group in ("criterion", "scope", "schedule")), arm]
        if self.parent:
            nodes.append({"rewind": 0, **self.parent.shipped})
        return steady(nodes, "setting", self.folder.parent.glob(f"seed*/{NAME}"))

    def finished(self) -> bool:
        """Whether the cell's ledger is complete, for what is configured now.

        If a setting that the names don't show has changed, such as `data.root` or a yaml of the user's own, the cell is
        played again: from the store if its content is the same, else its ledger says what differs. So is a cell whose
        ledger is damaged: playing it says so, and other cells of a sweep are not kept from being played.
        """
        ledgers = [NAME, *(f"{name}.jsonl" for name in self.config.get("analysis") or {})]
        try:
            if (self.folder / ERROR).exists() or not all(Ledger(self.folder / name).finished() for name in ledgers):
                return False
            if Ledger(self.folder / NAME).lines()[-1].get("setting") != self.setting:
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
        return all(then.get(group) == self.config.get(group) for group in (*SCIENCE_GROUPS, "stop"))

    def __str__(self) -> str:
        return f"{self.study} {self.label} seed {self.seed}"


def label(name: str, arm: Mapping[str, Any], shipped: Mapping[str, Any], content: str = "") -> str:
    """What an arm is called: its name and every setting that differs from its yaml, sorted.

    >>> label("imp", {"rewind": "500", "iterative": False}, {"rewind": 0})
    'imp,iterative=false,rewind=500it'
    """
    before = dict(settings(shipped))
    given = dict.fromkeys(before) | dict(settings(arm))  # what is taken out counts as null
    texts = {key: _text(key, value) for key, value in sorted(given.items())}
    if file := arm.get("file"):
        texts["file"] = _ticket(file, content)
    differs = [f"{key}={text}" for key, text in texts.items() if text != _text(key, before.get(key))]
    whole = ",".join([name, *differs]).replace("/", "_")  # it is the name of a folder
    return whole if len(whole) <= 150 else f"{whole[:140]}~{digest_of(whole)[:8]}"


def steady(node: Any, key: str, ledgers: Iterable[Path]) -> str:
    """Digest of plain data and of a user's own code that it names, the same for every spelling of a duration.

    It used to tell 10 from 10it. Where a ledger's `key` is the digest of another spelling, that one is kept, so that
    its cell can go on and its seeds are one arm with those to come.
    """
    told = [user_code(node), *filter(None, [files(node)])]
    digest, *others = dict.fromkeys(digest_of([of, *told])[:16] for of in (uniform(node), node, bare(node)))
    for path in ledgers if others else ():
        with suppress(LedgerError):  # whoever reads that cell says what is wrong with it
            if (lines := Ledger(path).lines()) and lines[-1].get(key) in others:
                return str(lines[-1][key])
    return digest


def settings(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a node, those of nodes within it by `key.key`; a list is one setting."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a configuration that can change a number, except arm and seed."""
    found = chosen(SCIENCE_GROUPS, config)
    found["data"] = {key: value for key, value in found["data"].items() if key not in PLACES}
    devices = config["hardware"].get("devices", 1)
    if devices != 1:  # sums in another order, and more with BatchNorm
        found["devices"] = devices
    if stop := {key: value for key, value in config["stop"].items() if key[0] != "_" and value is not None}:
        found["stop"] = stop
    if rule := patterns(config):
        found["prune"] = rule
    if foreign("stop", config):
        found["stop"] = config["stop"]
    if foreign("hardware", config):
        found["hardware"] = {k: v for k, v in config["hardware"].items() if k not in ("accelerator", "devices")}
    return found


def files_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that a configuration names besides data and ticket, whose content is told otherwise."""
    nodes = {group: config.get(group) or {} for group in (*SCIENCE_GROUPS, "arm", "stop", "analysis")}
    for group, told in (("data", PLACES), ("arm", ("file", "content"))):
        nodes[group] = {key: value for key, value in nodes[group].items() if key not in told}
    try:
        return files(nodes)
    except OSError as error:
        raise Refused(f"{error.filename}: is named as a setting and can't be read ({error.strerror})") from error


def recorded(folder: Path) -> dict[str, Any]:
    """The configuration of a cell that was run, from beside its ledger. Raises LedgerError for a damaged one."""
    path, again = folder / CONFIG, "the command that ran the cell writes it anew"
    try:
        config = yaml.safe_load(path.read_text())
        needed = {*SCIENCE_GROUPS, "arm", "hardware", "stop"} - {*OPTIONAL}
        groups = {g for g in needed if not isinstance(config.get(g), Mapping)}
        lacking = sorted(groups | ({"seed", "store"} - config.keys()))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise LedgerError(f"{path} is damaged: it is no configuration; {again}") from error
    if lacking:
        raise LedgerError(f"{path} is damaged: it lacks {', '.join(lacking)}; {again}")
    return named(config)


def content(file: str) -> str:
    """Digest of a ticket's file. Raises Refused if it can't be read."""
    try:
        return file_digest(file)
    except OSError as error:
        raise Refused(
            f"arm.file={file}: can't be read ({error.strerror}); `lottery ticket export` writes one"
        ) from error


def _ticket(file: str, content: str) -> str:
    """What a ticket is called: by its content, or by its pattern where each seed has its own.

    >>> _ticket("found/imp_r7.safetensors", "c0ffee0123")
    'imp_r7~c0ffee01'
    >>> _ticket("found/imp_${seed}.safetensors", "c0ffee0123")
    'imp_seed~7d649750'
    """
    of = digest_of(file) if "${" in file else content
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '', Path(file).stem)}~{of[:8]}"


def _text(key: str, value: Any) -> str:
    if key.rpartition(".")[2] in NAMED:
        with suppress(ValueError):
            return canonical(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
