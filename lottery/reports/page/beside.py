"""What lies beside ledgers and is shown on the page: configuration, training curves, failures, a paper's claims."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lottery.config.cell_config import recorded, science
from lottery.config.labels import settings
from lottery.foundations.errors import Refused
from lottery.reports.claims import EXPECTED, Claim, read_claims
from lottery.reports.page.data import numbers
from lottery.reports.verdicts import judged
from lottery.store.evaluations import evaluations
from lottery.store.folder import CONFIG, cells, error_left, stores
from lottery.store.ledger import LedgerError

MOST_PHASES, MOST_POINTS, MOST_PAIRS = 2500, 40, 2000
"""The most trainings whose curves one page holds, points of each curve, and pairs of overlapping masks."""


def beside(frame: pd.DataFrame, room: int = MOST_PHASES) -> dict[str, Any]:
    """All of it for one study; what is not there is left out. `room` is how many trainings there is room for."""
    ledger = Path(frame["run/ledger"].iloc[0])
    found: dict[str, Any] = {"claims": list(claims(frame, ledger)), "failed": [], "settings": {}, "config": ""}
    if ledger.suffix == ".csv":
        return found | {"lacks": "These numbers are of a results file (CSV); training curves are in reports of runs."}
    cell, study = ledger.parent, ledger.parent.parent.parent
    with suppress(OSError):  # folders that can't be read or vanish meanwhile; what was measured is shown all the same
        found["failed"] = [
            f"{folder.parent.name} {folder.name}: {said}" for folder in cells(study) if (said := error_left(folder))
        ]
    try:
        config = recorded(cell)
    except FileNotFoundError:
        return found | {"lacks": "No configuration lies beside the ledgers, so that training curves are not found."}
    except (OSError, LedgerError) as error:
        return found | {"lacks": f"The configuration can't be read ({error}), so that training curves are not found."}
    text = (cell / CONFIG).read_text()
    command = command_of(cell)
    found |= {"config": text, "command": command, "about": trained(config)}
    with suppress(ValueError):  # someone has changed a command, and a quote is left open
        if again := study_command(command_of(Path(ledger).parent) for ledger in frame["run/ledger"].unique()):
            found["again"] = again
    found["settings"] = {
        key: yaml.safe_dump(value).split("\n...")[0].strip() for key, value in settings(science(config))
    }
    with suppress(OSError, ValueError):  # most studies have none; one that is damaged is made again by `overlap`
        pairs = pd.read_csv(study / "overlap.csv")
        means = pairs.groupby(["round", "between"])[["density", "shared", "chance"]].mean().reset_index()
        found["overlap"] = means.head(MOST_PAIRS).values.tolist()
    found["hosts"] = hosts(frame)
    if len(frame) > room:
        at_most = f"for at most {MOST_PHASES} trainings in one page"
        return found | {"lacks": f"Training curves are shown {at_most}: report this study alone, or fewer with it."}
    found["curves"], found["versions"] = curves(frame, stores(cell, config["store"]))
    return found if found["curves"] else found | {"lacks": "The store that held the training curves is not there."}


def command_of(cell: Path) -> str:
    """The command that makes a cell alone, as its configuration says it; empty where it does not."""
    try:
        with open(cell / CONFIG) as file:
            return next((line[2:].strip() for line in file if line.startswith("# lottery run ")), "")
    except (OSError, ValueError):
        return ""


def study_command(commands: Iterable[str]) -> str:
    """One command for several cells; empty unless they are all cells of some arms and seeds, alike in all else.

    >>> study_command(f"lottery run arm={arm} seed={seed} data=mnist hydra.mode=RUN" for arm in "ab" for seed in (0, 1))
    'lottery run data=mnist arm=a,b seed=0,1 -m'
    """
    cells, common = list[tuple[str, str]](), set[tuple[str, ...]]()
    for command in commands:
        words = [word.partition("=") for word in shlex.split(command)]
        own = {key: value for key, _, value in words if key in ("arm", "seed")}
        cells.append((own.get("arm", ""), own.get("seed", "")))
        common.add(tuple("".join(word) for word in words if word[0] not in ("arm", "seed", "hydra.mode")))
    arms, seeds = (list(dict.fromkeys(values)) for values in zip(*cells, strict=True))
    if len(common) > 1 or "" in arms or not all(map(str.isdecimal, seeds)) or len(arms) * len(seeds) != len(set(cells)):
        return ""
    return shlex.join([*common.pop(), f"arm={','.join(arms)}", f"seed={','.join(sorted(seeds, key=int))}", "-m"])


def trained(config: Mapping[str, Any]) -> str:
    """What a cell trains and prunes, in a sentence, as far as its configuration says so.

    >>> net, adam = {"_target_": "models.lenet_300_100"}, {"_target_": "optimizers.adam", "lr": 0.0012}
    >>> magnitude, rates = {"_target_": "criteria.magnitude"}, {"_target_": "scopes.rates"}
    >>> data = {"_target_": "data.digits", "batch_size": 60}
    >>> config = {"model": net, "data": data, "optimizer": adam, "criterion": magnitude, "scope": rates}
    >>> trained(config | {"budget": {"recipe_steps": 600, "steps": 1500}})
    'lenet_300_100 on digits: adam, learning rate 0.0012, batches of 60, 1,500 steps; pruned by magnitude, scope rates.'
    """
    of = {group: config.get(group) or {} for group in ("model", "data", "optimizer", "budget", "criterion", "scope")}
    name = {group: str(node["_target_"]).rpartition(".")[2] for group, node in of.items() if "_target_" in node}
    steps = of["budget"].get("steps") or of["budget"].get("recipe_steps")
    how = [
        name.get("optimizer"),
        f"learning rate {of['optimizer']['lr']:g}" if "lr" in of["optimizer"] else None,
        f"batches of {of['data']['batch_size']}" if "batch_size" in of["data"] else None,
        f"{steps:,} steps" if isinstance(steps, int) else steps,
    ]
    told = f"{name.get('model', 'a network')} on {name.get('data', 'data')}: {', '.join(filter(None, how))}"
    return f"{told}; pruned by {name.get('criterion', 'a criterion')}, scope {name.get('scope', 'none')}."


def hosts(frame: pd.DataFrame, most: int = 8) -> list[str]:
    """Where rounds were run, most of them first, and how many only took what was trained already."""
    if "run/host" not in frame:
        return []
    told = frame.reindex(columns=["run/host", "run/hardware", "run/reused"])
    found = []
    for place, reused in told.groupby(["run/host", "run/hardware"], dropna=False)["run/reused"]:
        where = ", ".join(each for each in place if isinstance(each, str)) or "unknown"  # not in older ledgers
        from_store = f", {int(reused.sum())} of them from a store" if reused.any() else ""
        found.append((len(reused), f"{where} ({len(reused)} rounds{from_store})"))
    return [said for _, said in sorted(found, key=lambda each: -each[0])[:most]]


def curves(frame: pd.DataFrame, roots: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Mean over seeds of each evaluated number by step: arm -> round -> column; and the versions that trained."""
    found, versions = dict[str, Any](), Counter[str]()
    if not roots or "phase" not in frame:
        return {}, []
    for (arm, index), part in frame.groupby(["arm", "round"], sort=False):
        told = []
        for key in part["phase"].dropna():
            rows, spec = evaluations(roots, key)
            told += rows
            if "torch" in spec:
                versions[f"torch {spec['torch']} on {spec.get('device', 'cpu')}"] += 1
        if not told:
            continue
        by_step = pd.DataFrame(told).groupby("step").mean(numeric_only=True)
        thin = by_step.iloc[np.linspace(0, len(by_step) - 1, min(len(by_step), MOST_POINTS)).round().astype(int)]
        columns = {str(column): numbers(thin[column], 4) for column in thin}
        found.setdefault(str(arm), {})[str(index)] = {"step": numbers(thin.index), **columns}
    return found, [f"{what} ({n} trainings)" for what, n in versions.most_common()]


def claims(frame: pd.DataFrame, ledger: Path) -> Iterator[dict[str, Any]]:
    """The claims of an `expected.csv` beside the results, their verdicts, and the points that a figure can show."""
    near = [ledger.parent, *list(ledger.parents)[2:4]]
    for path in dict.fromkeys(folder / EXPECTED for folder in near):
        if path.is_file():
            try:
                told = read_claims(path)
            except Refused as error:
                yield {"id": "-", "claim": str(error), "verdict": "not read"}
                return
            about = [claim for claim in told if ledger.suffix != ".csv" or claim.results == ledger.stem]
            yield from (_said(claim, frame) for claim in about)
            return


def _said(claim: Claim, frame: pd.DataFrame) -> dict[str, Any]:
    (row,) = judged([claim], {claim.results: frame}).to_dict("records")
    told = ("id", "claim", "quantity", "claimed", "measured", "n", "verdict", "reason", "where")
    said = {key: row[key] for key in told}
    if claim.operator == "":
        (point,) = claim.points
        tolerance = claim.bound if isinstance(claim.bound, float) else None
        at = {"arm": point.arm, "density": point.density, "column": claim.column}
        said["point"] = {**at, "value": claim.value, "tolerance": tolerance}
    return {str(key): value for key, value in said.items()}
