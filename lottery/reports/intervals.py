"""Statistics of a study over its seeds: means with intervals, paired differences, what matches dense, arms compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lottery.foundations.metrics import headline
from lottery.reports.results import one_study
from lottery.reports.statistics import Floats, Match, compare, holm, match, mean_interval, spread

NEAR = 0.03  # relative difference up to which two densities count as the same, since papers round
COSTS = ["train_steps", "train_flops", "train_flops_dense", "total_flops", "total_flops_dense"]


def by_seed(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of one study with a row per arm and round, and a column per seed; NaN where there is none."""
    return all_by_seed(frame, [column])[column]


def all_by_seed(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """`by_seed` of several columns."""
    one_study(frame)
    row, index = _points(frame)
    seeds, at = np.unique(frame["seed"].to_numpy(), return_inverse=True)
    found = {}
    for column in columns:
        cells = np.full((len(index), len(seeds)), np.nan)
        cells[row, at] = frame[column].to_numpy(dtype=float)
        found[column] = pd.DataFrame(cells, index=index, columns=pd.Index(seeds, name="seed"))
    return found


def densities(frame: pd.DataFrame) -> pd.Series:
    """The mean density of each arm and round of one study."""
    row, index = _points(frame)
    return frame["density"].groupby(row).mean().set_axis(index)


def _points(frame: pd.DataFrame) -> tuple[NDArray[np.int64], pd.MultiIndex]:
    """Arms and rounds, sorted, and the place of each row among them; several times as fast as to group by both."""
    arm_of, arms = pd.factorize(frame["arm"], sort=True)
    round_of, rounds = pd.factorize(frame["round"], sort=True)
    points, row = np.unique(arm_of * len(rounds) + round_of, return_inverse=True)
    places = [points // len(rounds), points % len(rounds)]
    return row, pd.MultiIndex([list(arms), list(rounds)], places, names=["arm", "round"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: n, density, and mean and half-width of the test headline and of the early-stopping step.

    The headline is averaged over the n seeds where it is a finite number, the early-stopping step over all.
    """
    score = f"test_{headline(frame).name}"
    cells = all_by_seed(frame, [score, "early_stop_step"])
    scores, stops = spread(cells[score]), spread(cells["early_stop_step"])
    columns = {
        "n": scores.n,
        "density": densities(frame).to_numpy(),
        score: scores.mean,
        f"{score}_half": scores.half,
        "early_stop_step": stops.mean,
        "early_stop_step_half": stops.half,
    }
    return pd.DataFrame(columns, index=cells[score].index).reset_index()


def analysed(frame: pd.DataFrame) -> pd.DataFrame:
    """What analyses found: one row per arm, round and `<analysis>/<what>`, with n, density, mean and half-width."""
    one_study(frame)
    columns = [column for column in map(str, frame) if "/" in column and not column.startswith(("density/", "run/"))]
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True) if columns else ():
        for column in columns:
            if len(values := cells[column].dropna()):
                mean, half = mean_interval(values)
                found = {"what": column, "n": len(values), "mean": mean, "half": half}
                rows.append({"arm": arm, "round": index, "density": cells["density"].mean(), **found})
    return pd.DataFrame(rows)


def cost(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: density and the mean over seeds of `COSTS`; empty if the ledgers did not count FLOPs."""
    one_study(frame)
    if not set(COSTS) <= set(frame):
        return pd.DataFrame()
    return frame.groupby(["arm", "round"], sort=True)[["density", *COSTS]].mean().dropna().reset_index()


def matching(frame: pd.DataFrame, margin: float | None = None) -> pd.DataFrame:
    """Per arm and round of one study: density, the paired gain over dense with its interval, and whether it matches.

    A gain is signed so that higher is better. A round is *undecided*, too, if a seed lacks it or its score, for the
    chains that ended early may be the worst.
    Raises ValueError without a margin for a metric that is no share in [0, 1], where half a point has no meaning.
    """
    metric = headline(frame)
    if (margin := metric.margin if margin is None else margin) is None:
        raise ValueError(f"{metric.name} is no share in [0, 1], so no margin is defined for it: give one")
    scores = by_seed(frame, f"test_{metric.name}")
    arms, rounds = (scores.index.get_level_values(level) for level in ("arm", "round"))
    dense = scores[rounds == 0].droplevel("round").reindex(arms)
    found = spread(scores.to_numpy() - dense.to_numpy())
    seeds = frame[frame["round"] == 0].groupby("arm")["seed"].size().reindex(arms, fill_value=0)
    gains = np.array([metric.gain(float(mean)) for mean in found.mean])
    whole = found.n >= seeds.to_numpy()
    verdicts: list[Match] = [
        "yes" if index == 0 else match(gain, half, margin) if all_there else "undecided"
        for index, gain, half, all_there in zip(rounds, gains, found.half, whole, strict=True)
    ]
    columns = {"gain": gains, "half": found.half, "n": found.n, "match": verdicts}
    return pd.DataFrame({"density": densities(frame).to_numpy(), **columns}, index=scores.index).reset_index()


def sparsest_match(frame: pd.DataFrame, arm: str, margin: float | None = None) -> tuple[float, int, int] | None:
    """The lowest density at which an arm matches dense, and how many of the rounds down to it do; None if none does.

    Each round is tested by itself, so that a single match among many rounds may be chance.
    """
    one_study(frame)
    found = sparsest(matching(frame[frame["arm"] == arm], margin))
    if not len(found) or np.isnan(found["density"].iloc[0]):
        return None
    return float(found["density"].iloc[0]), int(found["matching"].iloc[0]), int(found["rounds"].iloc[0])


def sparsest(found: pd.DataFrame) -> pd.DataFrame:
    """Per arm of `matching`: the sparsest density that matches dense, with what the other rounds leave open.

    `density`, or NaN; `matching` of the `rounds` down to it; `surely`, the end of the unbroken run of matches from
    dense on; `possibly`, the sparsest density that is not shown to be worse.
    """
    rows = []
    pruned = found[found["round"] > 0]
    for arm in pruned["arm"].unique():
        mine = (pruned["arm"] == arm).to_numpy()
        densities, verdicts = pruned["density"].to_numpy()[mine], pruned["match"].to_numpy()[mine]
        order = np.argsort(-densities, kind="stable")
        densities, verdicts = densities[order], verdicts[order]
        yes = verdicts == "yes"
        density = _least(densities[yes])
        row = {"arm": arm, "density": density, "matching": int(yes.sum()), "rounds": int((densities >= density).sum())}
        row |= {"surely": _least(densities[np.logical_and.accumulate(yes)])}
        rows.append({**row, "possibly": _least(densities[verdicts != "no"])})
    columns = ["arm", "density", "matching", "rounds", "surely", "possibly"]
    return pd.DataFrame(rows, columns=columns)


def _least(densities: Floats) -> float:
    return float(densities.min()) if len(densities) else float("nan")


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """Every two arms of one study at every pruned density that both have: the paired t-test of the test headline.

    One row each: first, second, round, density, mean difference, half, n, p, `holm` (p corrected for all rows) and
    effect. A difference is first minus second.
    """
    scores, arms = by_seed(frame, f"test_{headline(frame).name}"), list(frame["arm"].unique())
    index = np.unique(frame["round"])
    every = pd.MultiIndex.from_product([arms, index])
    cells = scores.reindex(every).to_numpy().reshape(len(arms), len(index), -1)
    at = densities(frame).reindex(every).to_numpy().reshape(len(arms), len(index))
    rows, apart = list[tuple[str, str, int, float]](), list[Floats]()
    for first, second in combinations(range(len(arms)), 2):
        near = (index > 0) & (np.abs(at[first] - at[second]) <= NEAR * at[second])  # not where one has no such round
        pairs = zip(index[near].tolist(), at[first][near].tolist(), strict=True)
        rows += [(arms[first], arms[second], number, density) for number, density in pairs]
        apart.append(cells[first][near] - cells[second][near])
    table = pd.DataFrame(rows, columns=["first", "second", "round", "density"])
    found = compare(np.concatenate([*apart, np.empty((0, scores.shape[1]))]))
    numbers = {"mean": found.spread.mean, "half": found.spread.half, "n": found.spread.n}
    return table.assign(**numbers, p=found.p, holm=holm(found.p), effect=found.effect)
