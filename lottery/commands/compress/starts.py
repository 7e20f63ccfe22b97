"""What training began with, for criteria that compare trained weights with it: as a cell's rounds have it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from lottery.config.cell_config import content
from lottery.config.given import given
from lottery.config.nodes import as_yaml, in_steps
from lottery.config.recorded import recorded
from lottery.foundations.digests import digest_of
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams
from lottery.rounds.round import initial
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.lookup import holding
from lottery.store.phases import passing
from lottery.store.tickets import read
from lottery.training.recipes import Recipe
from lottery.training.states import Later, State

COMPARES = "criterion: compares weights with those that training began with"


def start_of_weights() -> Later:
    """Of weights from a file nobody knows it: whatever criterion reads it, a user's own too, raises Refused."""
    return Later(_unknown)


def start_of_cell(cell: Path, index: int, recipe: Recipe, seed: int) -> Mapping[str, Tensor]:
    """The rewinding point of a cell's rounds; of a ticket's own training, round 1, the weights in the ticket's file.

    What lies in a store or a file is looked for when a criterion reads it, and Refused is raised if it is not there.
    """
    config = recorded(cell)
    arm = config["arm"]
    if index and arm.get("file"):
        return Later(partial(_of_ticket, arm, str(config["model"].get("_target_"))))
    if rewind := in_steps("arm.rewind", arm.get("rewind") or 0, recipe.data.steps_per_epoch):
        return Later(partial(_rewound, cell, config, rewind))
    return initial(recipe, Streams(seed).init)


def _unknown() -> NoReturn:
    raise Refused(f"{COMPARES}, and --weights has none")


def _rewound(cell: Path, config: Mapping[str, Any], step: int) -> State:
    """The state that the dense training passed by, under the key that follows from what the ledger has of it."""
    key = digest_of(passing({"of": Ledger(cell / NAME).lines()[0]["phase"]}, step))
    try:
        return holding(cell, Path(config["store"]), {"phase": key, "round": 0})[1].state
    except FileNotFoundError as error:
        rewind = as_yaml(config["arm"]["rewind"])
        raise Refused(f"{COMPARES}, which is the state at arm.rewind={rewind}, and {error}") from error


def _of_ticket(arm: Mapping[str, Any], model: str) -> State:
    try:
        if content(arm["file"]) != arm.get("content"):
            raise Refused(f"arm.file={arm['file']}: is another file than the run's")
        return given(read(arm["file"]), trust=(model,)).start
    except Refused as refusal:
        raise Refused(f"{COMPARES}, which is in the ticket's file, and {refusal}") from refusal
