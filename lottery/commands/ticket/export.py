"""Exporting: makes a ticket of a finished round, from ledger and store."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lottery.algorithm import play
from lottery.commands.ticket.placing import here, placed
from lottery.config.build import build
from lottery.config.cell_config import CellConfig, recorded
from lottery.config.groups import SCIENCE_GROUPS, TRAINING_GROUPS, chosen
from lottery.config.options import options_of, parent_of
from lottery.config.patterns import patterns
from lottery.config.user_code import user_code
from lottery.foundations.digests import digest
from lottery.foundations.errors import Refused
from lottery.pruning.masks import density, layer_densities
from lottery.rounds.rewinding import Origin, begun
from lottery.rounds.round import Round, initial
from lottery.rounds.stopping import Stop
from lottery.rounds.study import Cell
from lottery.store.entries import Entry, Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.lookup import NotYet, holding, lookup
from lottery.store.phases import phase_of
from lottery.store.ticket_checks import seed_of
from lottery.store.tickets import FORMAT, VERSION, Saved
from lottery.training.phase import Phase
from lottery.training.states import State


@dataclass(frozen=True)
class Recorded(CellConfig):
    """A cell that was run; study and label are those in its ledger."""

    line: Mapping[str, Any]

    @property
    def study(self) -> str:
        return self.line["study"]

    @property
    def label(self) -> str:
        return self.line["arm"]


def exported(
    folder: Path,
    index: int,
    path: Path | None,
    seed_only: bool,
    overrides: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> Saved:
    """The ticket of a cell's finished round. The chain is replayed from the store; nothing is trained.

    Raises Refused if the ledger lacks the round, or if today's code and data would give another; FileNotFoundError if
    no store has its phase.
    """
    lines = Ledger(folder / NAME).lines()
    if not 0 <= index < len(lines):
        had = f"rounds 0 to {len(lines) - 1}" if lines else "no finished round"
        raise Refused(f"--round {index}: {folder / NAME} has {had}")
    line = {key: value for key, value in lines[index].items() if key != "run"}
    config = placed(recorded(folder), overrides)
    parent = parent_of(config, options_of(sources))
    job = Recorded(config, config["arm"], config["arm"], parent, choices={}, command=(), line=line)
    cell = build(job)
    store, _ = holding(folder, Path(config["store"]), line)
    current, entry, start = _replayed(cell, store, index)
    if entry.key != line["phase"]:
        raise Refused(
            f"{folder}: round {index} was measured under other code, data or library versions (phase "
            f"{line['phase'][:16]} in its ledger, {entry.key[:16]} now)"
        )
    if current.changes:
        raise Refused(
            f"{folder}: masks of round {index} changed while it trained (arm.during), so that no ticket begins with "
            "them; a control of this arm does: export one of its rounds, as of arm=random_reinit or arm=random_mask"
        )
    draws = [draw for draw in (["init"], ["reinit", index]) if seed_only]
    draw = next((d for d in draws if digest(initial(cell.study.recipe, seed_of(d, cell.seed))) == digest(start)), None)
    if seed_only and draw is None:
        raise Refused(f"--seed-only: {line['arm']} begins with weights that no seed draws; leave it out")
    seeds = phase_of(cell.study.recipe, cell.seed, current)
    info = _info(job, cell, current, seeds) | {"draw": draw}
    info["digests"] |= {"start": digest(start), "trained": digest(entry.state)}
    if entry.by != socket.gethostname():  # another machine trained it, whose CPU is not recorded
        info["made"]["cpu"] = None
    own = current.budget != cell.study.recipe.budget
    factors = [current.budget.factor(step) for step in range(current.first, current.last)] if own else None
    rates = torch.tensor(factors, dtype=torch.float64) if factors else None
    path = path or Path(f"{line['arm']}_seed{line['seed']}_r{index}.safetensors")
    return Saved(path, info, current.ticket.masks, {} if draw else start, rates)


def _replayed(cell: Cell, store: Store, index: int) -> tuple[Round, Entry, State]:
    """A round, its phase, and the start weights before masking, replayed with every phase from the store."""
    starts: list[State] = []

    def remembered(origin: Origin) -> State:
        starts.append(begun(cell.arm.weights, origin, cell.study.recipe.net))
        return starts[-1]

    study, arm = cell.study, replace(cell.arm, weights=remembered)
    pruning = replace(study.pruning, stop=Stop())  # that the chain came so far is in its ledger
    try:
        rounds = play(study.recipe, pruning, arm, cell.seed, lookup(cell, store))
        current = next(islice(rounds, index, None))
        entry = current.trained
    except NotYet as missing:
        raise Refused(
            f"{store.root}: has no phase of round {missing.round.index} of {cell.label}, seed {cell.seed}, as it would "
            "be trained now; if nothing has changed since, the command that trained it will do so again"
        ) from missing
    assert isinstance(entry, Entry)
    return current, entry, starts[-1] if starts else current.ticket.state


def _info(job: Recorded, cell: Cell, current: Round, phase: Phase) -> dict[str, Any]:
    """The metadata of the file, except those that depend on the trained weights and on the start weights."""
    config, recipe = job.config, cell.study.recipe
    kept = chosen((*SCIENCE_GROUPS, "arm", "hardware", "stop", "seed"), config)
    kept |= {"prune": config["prune"]} if patterns(config) else {}
    kept |= {key: config[key] for key in ("trainer", "headline", "better") if config.get(key)}
    if "root" in config["data"]:  # a private path, which does not change the data
        kept["data"] = {**config["data"], "root": None}
    return {
        "format": FORMAT,
        "version": VERSION,
        # of the masks that are in the file; a training may have ended with others
        "line": {**job.line, "density": density(phase.masks), "layer_densities": layer_densities(phase.masks)},
        "headline": recipe.headline.name,
        "config": kept,
        "phase": {
            **{key: getattr(phase, key) for key in ("first", "last", "order", "noise", "build")},
            "evaluate": current.budget.evaluate,
            "sparse": list(phase.sparse),
        },
        "shapes": {name: list(mask.shape) for name, mask in phase.masks.items()},
        "digests": {
            "ticket": digest(phase.state),
            "masks": digest(phase.masks),
            "data": recipe.data.digest,
            "code": user_code(list(chosen(TRAINING_GROUPS, config).values())),
        },
        "made": {**here(recipe), "devices": recipe.hardware.devices},
    }
