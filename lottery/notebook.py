"""For notebooks: a round's network and masks, from the store."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import nn

from lottery.calls import make
from lottery.ledger import CONFIG, NAME, Ledger
from lottery.masks import Masks
from lottery.seeds import derive
from lottery.store import Entry, Store


def load(cell: Path | str, round: int) -> tuple[nn.Module, Masks]:
    """The trained network of a round, in evaluation mode, and its masks; `cell` is the folder that holds the ledger.

    Raises FileNotFoundError if that round is not in the ledger or its phase no longer in the store.
    """
    folder = Path(cell)
    entry = phase(folder, round)
    config = yaml.safe_load((folder / CONFIG).read_text())
    with torch.random.fork_rng():
        torch.manual_seed(derive(config["seed"], "init"))
        net = make("model", {**config["model"], "_partial_": False})
    net.load_state_dict(entry.state)
    return net.eval(), entry.masks


def phase(cell: Path, round: int) -> Entry:
    """A round's phase, from the store; raises FileNotFoundError as `load` does."""
    folder = cell.resolve()
    lines = Ledger(folder / NAME).lines()
    if not 0 <= round < len(lines):
        had = f"rounds 0 to {len(lines) - 1}" if lines else "no round"
        raise FileNotFoundError(f"{folder / NAME} has {had}, not {round}")
    store = Path(yaml.safe_load((folder / CONFIG).read_text())["store"])
    beside = folder.parents[2] / "store"  # where it is after the whole `out` has moved
    key = lines[round]["phase"]
    entry = next((e for root in (store, beside) if root.is_dir() and (e := Store(root).find(key))), None)
    if entry is None:
        raise FileNotFoundError(f"the phase {key} of round {round} is in neither {store} nor {beside}")
    return entry
