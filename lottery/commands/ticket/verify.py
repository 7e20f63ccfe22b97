"""Verification: trains a ticket again, on this machine or another, and checks whether its claims hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lottery.commands.ticket.placing import DECISIVE, here, local
from lottery.config.build import build_recipe, identity
from lottery.config.check import fitting
from lottery.config.given import drawn
from lottery.config.groups import TRAINING_GROUPS, chosen
from lottery.config.trust import trusted
from lottery.config.user_code import user_code
from lottery.foundations.digests import digest, digest_of
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.rounds.round import Ticket
from lottery.store.line import early_stop
from lottery.store.phases import specification
from lottery.store.ticket_checks import CLAIMS, unfit
from lottery.store.tickets import Saved
from lottery.training.fit import fit
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Budget, Recipe

TOLERANCE = 0.01  # one point of a share: how much other hardware or another PyTorch may change it


@dataclass(frozen=True)
class Verification:
    """What a ticket claims, and what training it again gave."""

    differs: list[str]
    """How this machine differs from the one that trained the ticket; if it does, bits may differ."""
    exact: bool
    """Whether results were compared bit for bit, or only the score, within a tolerance."""
    tolerance: float | None
    compared: list[tuple[str, Any, Any, bool]]
    """Name, recorded value, value found now, and whether they agree."""

    @property
    def holds(self) -> bool:
        return all(agrees for *_, agrees in self.compared)


def verified(
    saved: Saved,
    overrides: Sequence[str] = (),
    trust: tuple[str, ...] = (),
    tolerance: float | None = None,
) -> Verification:
    """Trains a ticket as it was trained and compares bit for bit or, on another machine, within `tolerance`.

    The tolerance is one point unless stated. Raises Refused if the ticket can't be trained as it was: the data or the
    network differ, or its code is not trusted; or if a score needs a tolerance on whose scale a point means nothing.
    """
    info = saved.info
    trusted(saved.path, info["config"], trust)
    config = local(info["config"], overrides)
    recipe = build_recipe(config)
    if recipe.data.digest != info["digests"]["data"]:
        raise Refused(f"{saved.path}: was trained on other data than this; say where that lies with data.root=DIR")
    start = drawn(saved, trust)
    fitting(saved.path, unfit(start, saved.masks, recipe.net, recipe.prunable))
    ticket = Ticket.of(start, saved.masks)
    if digest(ticket.state) != info["digests"]["ticket"]:
        raise Refused(f"{saved.path}: its start weights under its masks are not the ticket of its digest")
    if info["headline"] != recipe.headline.name:
        raise Refused(f"{saved.path}: headline={info['headline']!s:.40}: its module shows {recipe.headline.name}")
    now = {**here(recipe), "devices": 1}
    differs = [f"{key} {info['made'][key]} there, {now[key]} here" for key in DECISIVE if info["made"][key] != now[key]]
    if (code := user_code(list(chosen(TRAINING_GROUPS, info["config"]).values()))) != info["digests"]["code"]:
        differs.append(f"code of {', '.join(code)}")
    if tolerance is None and recipe.headline.share:
        tolerance = TOLERANCE
    if differs and tolerance is None:
        raise Refused(f"--tolerance: {info['headline']} is no share in [0, 1], so no default fits it; give one")
    phase = _phase(saved, ticket, recipe)
    trained = fit(recipe, phase)
    exact = not differs or digest(trained.state) == info["digests"]["trained"]
    compared = compare(info, trained, recipe.headline, None if exact else tolerance)
    if not differs:  # what is recorded is all that the phase was found by, down to settings that change no bit
        key = digest_of(specification(recipe, identity(config, recipe), phase))
        compared.insert(0, ("phase", info["line"]["phase"], key, key == info["line"]["phase"]))
    return Verification(differs, exact, tolerance, compared)


def compare(
    info: Mapping[str, Any], trained: Trained, judged: Headline, tolerance: float | None
) -> list[tuple[str, Any, Any, bool]]:
    """Compares every claim; given a tolerance, only the test score of the headline metric."""
    line, headline = info["line"], f"test_{info['headline']}"
    last, best = trained.rows[-1], early_stop(trained.rows, judged)
    found = {**last, "early_stop_step": best["step"], f"early_stop_{headline}": best[headline]}
    if tolerance is not None:
        recorded, score = line.get(headline), found[headline]
        numbers = isinstance(recorded, float) and isinstance(score, float)
        agree = abs(recorded - score) <= tolerance if numbers else headline in line and recorded == score
        return [(headline, recorded, score, agree)]
    claims = {name: value for name, value in line.items() if name.startswith(CLAIMS)}
    rows = [(name, value, found.get(name), value == found.get(name)) for name, value in claims.items()]
    state = digest(trained.state)
    return [("trained state", info["digests"]["trained"], state, state == info["digests"]["trained"]), *rows]


def _phase(saved: Saved, ticket: Ticket, recipe: Recipe) -> Phase:
    """The phase as it was specified; on another kind of device, with the sparse weights that are usual there."""
    how, budget = saved.info["phase"], None
    if saved.rates is not None:
        listed = partial(_listed, saved.rates.tolist(), how["first"])
        budget = Budget(how["last"], how["last"], how["evaluate"], listed)
    same = recipe.hardware.device == saved.info["made"]["device"]
    structure = recipe.structure(saved.masks)
    sparse = tuple(how["sparse"]) if same or structure else recipe.sparse_weights(saved.masks)
    seeds = {key: how[key] for key in ("order", "noise", "build")}
    return Phase(
        ticket.state,
        ticket.masks,
        how["first"],
        how["last"],
        **seeds,
        sparse=sparse,
        structure=structure,
        budget=budget,
    )


def _listed(factors: Sequence[float], first: int, step: float, steps: int) -> float:
    return factors[round(step) - first]
