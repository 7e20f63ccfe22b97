"""One frame of the view: studies as lines of text, from what the files of their cells say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from lottery.commands.status import STATES, Facts, Queue, row, span, state
from lottery.commands.watch.curve import MARKS, curve
from lottery.foundations.ordering import shown_first

ALIVE = ("running", "waiting")
"""States of a cell that something will still be heard of without a new command."""
_HEIGHT, _ARMS, _CELLS = 9, 6, 4
"""Lines of a curve, and the most arms and cells that stand below it."""


@dataclass(frozen=True)
class Point:
    """What an arm has reached at a round: its mean over the seeds that have it."""

    round: int
    density: float
    mean: float
    n: int


def frame(cells: Sequence[Facts], queue: Queue, note: str = "", width: int = 80, height: int = 24) -> list[str]:
    """At most `height` lines of at most `width` columns: two for each study, and below what there is room for.

    Studies that run come first, and the first has room in any case.
    """
    studies = [list(part) for _, part in groupby(sorted(cells, key=lambda cell: cell.study), lambda cell: cell.study)]
    studies.sort(key=lambda part: -sum(state(cell, queue) == "running" for cell in part))
    room = height - bool(note) - 1  # one line says what is hidden
    first = details(studies[0], queue, width)
    shown = studies[: max(1, (room - len(first)) // 2)]
    room -= 2 * len(shown)
    lines = [note] if note else []
    for part in shown:
        below = first if part is studies[0] else details(part, queue, width)
        below = below if len(below) <= room else []
        room -= len(below)
        lines += [*head(part, queue), *below]
    lines += [f"and {len(studies) - len(shown)} more studies"] if len(shown) < len(studies) else []
    return [line[:width] for line in lines[:height]]


def head(cells: Sequence[Facts], queue: Queue) -> list[str]:
    """A study's name, how many of its rounds are done, its cells by state, and the time that is left."""
    done, planned = sum(len(cell.lines) for cell in cells), sum(map(_planned, cells))
    counts = Counter(state(cell, queue) for cell in cells)
    said = [f"{done} of {planned} rounds" if planned else "no round yet"]
    said += [f"{counts[each]} {each}" for each in STATES if counts[each]]
    left = seconds_left(cells, queue)
    return [cells[0].study, "  " + ", ".join([*said, *([f"about {span(left)} left"] if left is not None else [])])]


def seconds_left(cells: Sequence[Facts], queue: Queue) -> float | None:
    """Until the cells that run, and those that wait for their turn, are done; None if nothing runs or tells.

    What waits takes as long for a round as rounds took so far, and is shared among as many cells as run now.
    """
    running = [cell for cell in cells if state(cell, queue) == "running"]
    told = [left for cell in running if isinstance(left := cell.beat.get("seconds_left"), int | float)]
    if not told:
        return None
    waiting = [cell for cell in cells if state(cell, queue) in ("waiting", "not started")]
    rounds = sum(max(0, _planned(cell) or _planned(running[0])) - len(cell.lines) for cell in waiting)
    took = [seconds for cell in cells for line in cell.lines if (seconds := _seconds(line)) is not None]
    return max(told) + (rounds * fmean(took) / len(running) if rounds and took else 0)


def details(cells: Sequence[Facts], queue: Queue, width: int = 80) -> list[str]:
    """The curve of a study, its arms with the newest round of each, and the cells that are not finished."""
    metric, points = reached(cells)
    drawn = curve({arm: [(p.density, p.mean) for p in found] for arm, found in points.items()}, width, _HEIGHT)
    lines = [f"  test {metric}, mean over seeds, against density", *drawn] if drawn else []
    for mark, (arm, found) in zip(MARKS, list(points.items())[:_ARMS], strict=False):
        last, dense = found[-1], next((f", dense {p.mean:.4g}" for p in found if p.round == 0), "")
        at = f"{last.mean:.4g} at {100 * last.density:.3g} % (round {last.round}, n = {last.n}){dense}"
        lines.append(f"{mark} {arm[: max(8, width - len(at) - 4)]}  {at}")
    lines += [f"  and {len(points) - _ARMS} more arms"] if len(points) > _ARMS else []
    order = sorted(cells, key=lambda cell: (STATES.index(state(cell, queue)), shown_first(cell.arm), cell.seed))
    open_ = [cell for cell in order if state(cell, queue) not in ("finished", "not started")]
    for cell in open_[:_CELLS]:
        _, name, now, rounds, _, _, left, what = row(cell, queue)
        lines.append(f"  {name}: {now}, " + ", ".join(filter(None, [rounds, what, left and f"{left} left"])))
    return lines + ([f"  and {len(open_) - _CELLS} more cells that are not finished"] if len(open_) > _CELLS else [])


def reached(cells: Sequence[Facts]) -> tuple[str, dict[str, list[Point]]]:
    """The name of the headline, and for each arm its points by round; arms that find tickets come first."""
    measured: dict[str, dict[int, list[tuple[float, float]]]] = {}
    metric = ""
    for cell in cells:
        for line in cell.lines:
            metric = metric or next((key[16:] for key in line if key.startswith("early_stop_test_")), "")
            density, value = line.get("density"), line.get(f"test_{metric}")
            if isinstance(density, int | float) and isinstance(value, int | float):
                measured.setdefault(cell.arm, {}).setdefault(line["round"], []).append((density, value))
    points = {
        arm: [
            Point(index, fmean(x for x, _ in found), fmean(y for _, y in found), len(found))
            for index, found in sorted(by_round.items())
        ]
        for arm, by_round in sorted(measured.items(), key=lambda one: shown_first(one[0]))
    }
    return metric, points


def _planned(cell: Facts) -> int:
    """How many rounds a cell will have, the dense one counted; those that it has once it is finished; 0 if unknown."""
    if cell.complete:
        return len(cell.lines)  # it may have ended early
    rounds = (cell.lines[-1] if cell.lines else cell.beat).get("rounds")
    return rounds + 1 if isinstance(rounds, int) else 0


def _seconds(line: Any) -> float | None:
    """How long a round took; None if it came from the store, or does not say."""
    run = line.get("run")
    seconds = run.get("seconds") if isinstance(run, dict) and not run.get("reused") else None
    return seconds if isinstance(seconds, int | float) else None
