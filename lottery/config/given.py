"""Turns a ticket file into what an arm begins with; start weights saved as a seed are drawn again by their network."""

from __future__ import annotations

import torch

from lottery.config.nodes import make, network
from lottery.config.trust import trusted
from lottery.foundations.digests import digest
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seeded
from lottery.rounds.arms import Given
from lottery.store.ticket_checks import seed_of
from lottery.store.tickets import Saved
from lottery.training.flops import Flops
from lottery.training.states import State, state_of


def given(saved: Saved, trust: tuple[str, ...] = ()) -> Given:
    """The start weights and masks of a ticket file, and what finding them cost. Raises Refused as `drawn` does."""
    line = saved.info["line"]
    scaled, dense = (line[f"total_{of}"] - line[f"train_{of}"] for of in ("flops", "flops_dense"))
    return Given(drawn(saved, trust), saved.masks, Flops(dense, scaled))


def drawn(saved: Saved, trust: tuple[str, ...] = ()) -> State:
    """The start weights. Raises Refused if they can't be drawn again, or the network's code is not trusted."""
    if saved.start:
        return saved.start
    config, draw = saved.info["config"], saved.info["draw"]
    trusted(saved.path, {"model": config["model"], "numerics": config["numerics"]}, trust)
    numerics = make("numerics", config["numerics"])
    with numerics.entered(), seeded(seed_of(draw, saved.info["line"]["seed"])):
        state = state_of(network(config["model"]))
    if digest(state) != saved.info["digests"]["start"]:
        raise Refused(
            f"{saved.path}: holds a seed and no start weights, and what it draws under torch {torch.__version__} is "
            f"not what it drew under {saved.info['made']['torch']}; export it again without --seed-only"
        )
    return state
