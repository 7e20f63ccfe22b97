"""`lottery wandb sync`: sends what cells' runs hold, then a run for each study as a whole, made from its ledgers."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.commands.wandb.cells import found, place, told
from lottery.foundations.digests import digest_of
from lottery.foundations.errors import Refused, Said, describe
from lottery.foundations.files import plain, write_whole
from lottery.reports.folder import pictures
from lottery.reports.intervals import sparsest_match, summary
from lottery.reports.results import missing, read
from lottery.running.segments import segments, unsent
from lottery.running.sending import Unreachable, Unsent, confirmed, send
from lottery.running.view import chain
from lottery.running.wandb_runs import STUDY, Place, Told, picture, run_id, table
from lottery.store import leases

if TYPE_CHECKING:
    import pandas as pd

SENT = "wandb.json"
"""The file in a study's folder that says which results its run shows, by the place that it was sent to."""


def sync(paths: Sequence[Path], project: str | None, entity: str | None, seconds: float) -> int:
    """Sends everything that is not known to be sent; returns the exit code: 1 if some of it is not.

    Raises Refused if no run is there at all, Unreachable without a key or a server.
    """
    every = found(paths)
    tracked = [cell for cell in every if segments(cell)]
    if not tracked:
        untracked = "; `lottery wandb backfill` makes those of cells that were not tracked" if every else ""
        raise Refused(f"{', '.join(map(str, paths))}: there is no W&B run to send{untracked}")
    if project:
        place(Told("", "", 0, {}), project, entity)  # refused at once, and not for each cell
    counts = Counter[str]()
    for study in dict.fromkeys(cell.parent.parent for cell in tracked):
        cells = [cell for cell in tracked if cell.parent.parent == study]
        counts.update(_send_study(study, cells, project, entity, seconds))
    if not counts:
        print("nothing to send: the server has all of it")
    return int(counts["failed"] > 0)


def _send_study(
    study: Path, cells: Sequence[Path], project: str | None, entity: str | None, seconds: float
) -> Counter[str]:
    """Sends what is to be sent of one study; returns how many runs were sent, failed, or are still running.

    What can't be read or sent is said, and the rest is sent. Raises Unreachable without a key or a server.
    """
    counts = Counter[str]()
    frame, matching, there, whole, changed = None, dict[str, float](), None, False, False
    shown, now = _shown(study), ""
    with _said(f"{study}: its own run", counts):
        frame, matching, whole = _judged(study)
        there = place(told(cells[0]), project, entity)
        now = digest_of(frame.to_csv(index=False) if frame is not None else "")
        changed = shown.get(there.named) != now
    for cell in cells:
        with _said(str(cell), counts):
            if leases.held(cell):
                print(f"{cell}: is running, and left for later")
                counts["running"] += 1
            elif unsent(cell, place(told(cell), project, entity)) or (changed and whole):
                rows = _send(cell, project, entity, seconds, matching if whole else {})
                counts["sent"] += 1
                print(f"{cell}: {rows} rows sent", flush=True)
    if changed and whole and not counts["failed"] and not counts["running"] and frame is not None and there:
        with _said(f"{study}: its own run", counts):
            _study(study, frame, matching, there, seconds)
            write_whole(study / SENT, json.dumps({"results": {**shown, there.named: now}}).encode())
            print(f"{study}: its run sent", flush=True)
            counts["sent"] += 1
    return counts


@contextmanager
def _said(what: str, counts: Counter[str]) -> Iterator[None]:
    """Within the context, what fails of one run is said and counted, unless it would fail of every run."""
    try:
        yield
    except Unreachable:
        raise
    except (Said, OSError) as error:
        print(f"{what}: not sent: {describe(error)}")
        counts["failed"] += 1


def _shown(study: Path) -> dict[str, str]:
    """What a study's run was last made of, by place."""
    shown = plain(study / SENT).get("results")
    return shown if isinstance(shown, dict) else {}  # earlier versions noted no place


def _send(cell: Path, project: str | None, entity: str | None, seconds: float, matching: dict[str, float]) -> int:
    of = told(cell)
    more = {"final/matching_density": matching[of.label]} if of.label in matching else {}
    rows, all_of = send(of, cell, place(of, project, entity), seconds, more)
    every = {line["round"] for line in chain(cell)}
    if lost := every - all_of.rounds:
        made = "`lottery wandb backfill` makes them from the ledger"
        print(f"{cell}: its run lacks {len(lost)} of {len(every)} rounds; {made}")
    return rows


def _judged(study: Path) -> tuple[pd.DataFrame | None, dict[str, float], bool]:
    """A study's results, where each arm that matches dense does so at the sparsest, and whether it is whole."""
    try:
        frame = read(study)
        whole = not missing(frame)
        frame = frame[[column for column in frame if not str(column).startswith("run/")]]
        found = {arm: sparsest_match(frame, arm) for arm in map(str, frame["arm"].unique())}
    except FileNotFoundError:
        return None, {}, False
    except ValueError:  # a metric for which no margin is defined
        return frame, {}, whole
    return frame, {arm: match[0] for arm, match in found.items() if match}, whole


def _study(study: Path, frame: pd.DataFrame, matching: dict[str, float], place: Place, seconds: float) -> None:
    """Sends the run that shows a study as a whole: figures, all means with their intervals, and what matches dense."""
    name = str(frame["study"].iloc[0])
    means: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in summary(frame).to_dict("records")]
    arms = [{"arm": str(arm), "sparsest density that matches dense": matching.get(str(arm), "none shown")}
            for arm in frame["arm"].unique()]  # fmt: skip
    with tempfile.TemporaryDirectory() as own:
        files = {Path(own) / file: draw for file, draw in pictures(frame).items()}
        for file, draw in files.items():
            draw(frame, file)

        def log(run: Any, before: int) -> None:
            drawn = {f"figures/{file.stem}": picture(file) for file in files}
            run.log({**drawn, "arms": table(arms), "means": table(means)})
            run.summary.update({f"final/matching_density/{arm}": density for arm, density in matching.items()})

        before, there = confirmed(Told(name, STUDY, 0, {}), place, seconds, log)
    if there <= before:
        raise Unsent(f"its run {run_id(name, STUDY, 0)} has not arrived; the same command sends it again")
