"""What `lottery compress` is asked for: a finished cell, or weights from elsewhere, and what may be chosen for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lottery.commands.compress.starts import start_of_cell, start_of_weights
from lottery.compress.smaller import Trained
from lottery.config.build import build_pruning, build_recipe
from lottery.config.check import check_loss
from lottery.config.compose import cell_configs
from lottery.config.groups import PRUNING_GROUPS, channelwise
from lottery.config.recorded import phase, recorded
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, seeded
from lottery.models.pretrained import load_, read
from lottery.pruning.masks import some
from lottery.rounds.lengths import last_rate
from lottery.rounds.prune import Pruning
from lottery.rounds.round import dense_ticket
from lottery.store.folder import CONFIG, NAME
from lottery.store.ledger import Ledger
from lottery.training.recipes import Budget, Recipe

GROUPS = tuple(group for group in PRUNING_GROUPS if group != "schedule")
"""what may be chosen for a finished run, whose other settings are its own"""


DEFAULTS = ("structure=channels", "scope=layerwise", "compensation=least_squares")
"""what settings change, besides the budget, which is of parameters; `~compensation` leaves survivors as they are"""


def asked(
    words: Sequence[str], index: int, weights: Path | None, steps: int, folder: str | None = None
) -> tuple[Trained, Pruning, Budget | None]:
    """The trained network, how channels are chosen, and how long smaller networks train on.

    `words` are a finished cell's folder, of which round `index` counts, and settings; or settings alone, with a file of
    `weights`. `folder` is one of the user's, with configuration. Raises Refused.
    """
    # an arm's label, and so a cell's folder, may hold settings
    assigned = [word for word in words if "=" in word and "/" not in word.partition("=")[0] and not _cell(word)]
    settings = [word for word in words if word in assigned or word.startswith(("+", "~"))]
    folders = [Path(word) for word in words if word not in settings]
    if (weights is None) is not bool(folders) or len(folders) > 1:
        raise Refused("compress: needs one finished cell's folder, or --weights with settings of its model and data")
    moved = [word for word in settings if folders and word.lstrip("+").startswith("data.root=")]
    settings = [word for word in settings if word not in moved]
    configs = cell_configs([*DEFAULTS, *settings, *(["--config-dir", folder] if folder else [])])
    if len(configs) > 1:
        raise Refused(f"compress: makes networks of one configuration, and the settings ask for {len(configs)}")
    config = dict(configs[0].config)
    if folders:
        config = _of_run(folders[0], settings, config, moved)
    if not channelwise(config):
        raise Refused("compress: needs structure=channels, since what is left by others is no smaller network")
    typed = any(word.lstrip("+").startswith("structure.budget=") for word in settings)
    if not typed and config["structure"].get("budget", "weights") == "weights":  # a recipe may count something else
        config["structure"] = {**config["structure"], "budget": "parameters"}
    recipe, seed = build_recipe(config), config["seed"]
    if folders:
        _check_data(folders[0], recipe)
    _ = recipe.example  # raises Refused for a LightningModule that is no function of tensors
    schedule = {"_target_": "lottery.pruning.schedules.explicit", "densities": [0.5]}
    pruning = build_pruning({**config, "schedule": schedule}, recipe)
    start: Mapping[str, Tensor]
    if weights:
        check_loss(recipe)
        state, masks, start = _of_file(weights, recipe, seed), dense_ticket(recipe, seed).masks, start_of_weights()
    else:
        entry = phase(folders[0], index)
        state, masks, start = entry.state, entry.masks, start_of_cell(folders[0], index, recipe, seed)
    tune = last_rate(recipe.budget, 1.0, steps / recipe.budget.steps) if steps else None
    return Trained(recipe, state, masks, start, seed), pruning, tune


def _cell(word: str) -> bool:
    return any((Path(word) / name).is_file() for name in (NAME, CONFIG))


def _of_run(cell: Path, settings: Iterable[str], asked: Mapping[str, Any], moved: Sequence[str]) -> dict[str, Any]:
    """A run's configuration, pruned as asked, on the hardware and with the folder of data asked for, if any."""
    groups = {word: word.lstrip("+~").partition("=")[0].partition(".")[0] for word in settings}
    if wrong := [word for word, group in groups.items() if group not in (*GROUPS, "hardware")]:
        raise Refused(
            f"{wrong[0]}: is the run's own; of a finished run {', '.join(GROUPS)}, hardware and data.root may be chosen"
        )
    ran = recorded(cell)
    plain = [word.lstrip("+~").partition("=")[0] for word in settings]
    keys = {word.split(".")[1] for word in plain if word.startswith("hardware.")} & asked["hardware"].keys()
    hardware = asked["hardware"] if "hardware" in plain else ran["hardware"] | {k: asked["hardware"][k] for k in keys}
    root = moved[-1].partition("=")[2].strip("'\"") if moved else None
    if root == "":
        raise Refused("data.root=: is empty; it is the folder that holds the data")
    return {
        **ran,
        **{group: asked.get(group) for group in GROUPS},
        "hardware": hardware,
        "data": ran["data"] | ({"root": root} if root else {}),
    }


def _check_data(cell: Path, recipe: Recipe) -> None:
    """Raises Refused for other data than those that a cell was trained on."""
    ran = next((line.get("data") for line in Ledger(cell / NAME).lines()), None)
    if ran and ran != (found := recipe.data.digest[:16]):
        raise Refused(f"data: are others than those that {cell} was trained on, of digest {found} and not {ran}")


def _of_file(weights: Path, recipe: Recipe, seed: int) -> dict[str, Tensor]:
    with recipe.numerics.entered(), seeded(Streams(seed).init):
        try:
            state = load_(recipe.network(), read(str(weights)), str(weights), new_head=False).state_dict()
        except ValueError as error:
            raise Refused(f"--{error}") from error
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise Refused(f"--weights={weights}: {some(broken)} holds numbers that are not finite")
    return state
