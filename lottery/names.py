"""Names: what a configured cell is called and where it lives. Needs no PyTorch, so that looking costs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from lottery.catalogue import PLACES, SCIENCE_GROUPS, find, shipped_arm
from lottery.digests import digest_of
from lottery.durations import canonical
from lottery.errors import Refused
from lottery.ledger import CONFIG, ERROR, NAME, Ledger, LedgerError
from lottery.user_code import user_code


@dataclass(frozen=True)
class Job:
    """One configured cell as plain data."""

    config: Mapping[str, Any]
    """the whole configuration, interpolations resolved"""
    arm: Mapping[str, Any]
    """the arm as configured, interpolations left as they are"""
    choices: Mapping[str, str]
    """option chosen in each group"""
    sources: tuple[str, ...]
    """folders of configuration, the first to win"""
    command: tuple[str, ...]
    """arguments of `lottery run` that ask for this cell alone"""

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
        name = self.choices["arm"]
        shipped = yaml.safe_load(find("arm", name, self.sources).read_text())
        shipped = dict(settings(shipped))
        given = dict.fromkeys(shipped) | dict(settings(self.arm))  # what is taken out counts as null
        texts = {key: _text(key, value) for key, value in sorted(given.items())}
        if file := self.arm.get("file"):
            texts["file"] = _ticket(file, self.config["arm"]["content"])
        differs = [f"{key}={text}" for key, text in texts.items() if text != _text(key, shipped.get(key))]
        label = ",".join([name, *differs]).replace("/", "_")  # it is the name of a folder
        return label if len(label) <= 150 else f"{label[:140]}~{digest_of(label)[:8]}"

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
        if parent := self.config["arm"].get("parent"):
            nodes.append(shipped_arm(parent, self.sources))
        return digest_of([nodes, user_code(nodes)])[:16]

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
        analyses, analysed = self.config.get("analysis") or {}, then.get("analysis") or {}
        if any(analysed.get(name) != node for name, node in analyses.items()):
            return False
        return all(then.get(group) == self.config[group] for group in (*SCIENCE_GROUPS, "arm", "stop"))

    def __str__(self) -> str:
        return f"{self.study} {self.label} seed {self.seed}"


def settings(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a node, those of nodes within it by `key.key`; a list is one setting."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a configuration that can change a number, except arm and seed."""
    found = {group: config[group] for group in SCIENCE_GROUPS}
    found["data"] = {key: value for key, value in found["data"].items() if key not in PLACES}
    devices = config["hardware"].get("devices", 1)
    if devices != 1:  # sums in another order, and more with BatchNorm
        found["devices"] = devices
    if stop := {key: value for key, value in config["stop"].items() if key[0] != "_" and value is not None}:
        found["stop"] = stop
    return found


def recorded(folder: Path) -> dict[str, Any]:
    """The configuration of a cell that was run, from beside its ledger. Raises LedgerError for a damaged one."""
    path, again = folder / CONFIG, "the command that ran the cell writes it anew"
    try:
        config = yaml.safe_load(path.read_text())
        groups = {g for g in (*SCIENCE_GROUPS, "arm", "hardware", "stop") if not isinstance(config.get(g), Mapping)}
        lacking = sorted(groups | ({"seed", "store"} - config.keys()))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise LedgerError(f"{path} is damaged: it is no configuration; {again}") from error
    if lacking:
        raise LedgerError(f"{path} is damaged: it lacks {', '.join(lacking)}; {again}")
    return config


def content(file: str) -> str:
    """Digest of a ticket's file. Raises Refused if it can't be read."""
    try:
        return sha256(Path(file).read_bytes()).hexdigest()
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
    if key.rpartition(".")[2] in ("rewind", "first", "every") and str(value)[:1].isdigit():
        return canonical(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
