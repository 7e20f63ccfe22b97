"""Loads a recorded round's network and masks from the store, for notebooks and analyses after the fact."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lottery.config.cell_config import recorded
from lottery.config.nodes import make, network
from lottery.foundations.seeds import Streams, seeded
from lottery.pruning.masks import Masks
from lottery.store.entries import Entry
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.lookup import holding
from lottery.training.states import weights


def load(cell: Path | str, round: int) -> tuple[nn.Module, Masks]:
    """The trained network of a round, in evaluation mode, and its masks; `cell` is the folder that holds the ledger.

    Raises FileNotFoundError if that round is not in the ledger or its phase no longer in the store.
    """
    folder = Path(cell)
    entry = phase(folder, round)
    config = recorded(folder)
    with make("numerics", config["numerics"]).entered(), seeded(Streams(config["seed"]).init):
        net = network(config["model"])
    net.load_state_dict(weights(entry.state))
    return net.eval(), entry.masks


def phase(cell: Path, round: int) -> Entry:
    """The store's entry of a round's phase. Raises FileNotFoundError as `load` does."""
    folder = cell.resolve()
    lines = Ledger(folder / NAME).lines()
    if not 0 <= round < len(lines):
        had = f"rounds 0 to {len(lines) - 1}" if lines else "no round"
        raise FileNotFoundError(f"{folder / NAME} has {had}, not {round}")
    return holding(folder, Path(recorded(folder)["store"]), lines[round])[1]
