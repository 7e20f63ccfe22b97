"""Sending: what a cell's W&B run holds here and the server lacks, row by row, so that nothing is sent twice.

The server says how many rows of a run it has; what comes after these is sent, and counted there again before any of it
is noted as sent. So an upload that broke off goes on, and segments that several starts have left become one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Said
from lottery.running.segments import Logged, logged, mark, segments
from lottery.running.view import chain, of_chain
from lottery.running.wandb_runs import Place, Told, arrived, cause, forget, open_run
from lottery.store import leases


class Unsent(Said):
    """A run did not arrive whole; what arrived stays, and the same command sends the rest."""


class Unreachable(Unsent):
    """No run can be sent now: there is no key, or no server that answers."""


def send(told: Told, folder: Path, place: Place, seconds: float, more: Mapping[str, Any]) -> tuple[int, Logged]:
    """Sends the rows of a cell's run that the server lacks, and its summary with `more`; returns how many, and all.

    `seconds` is the longest that sending them may take. Raises Unsent, and notes nothing as sent, where the server does
    not confirm all of it.
    """
    with leases.hold(folder):  # the cell does not start meanwhile, and another process does not send it too
        known, every = segments(folder), logged(folder)
        lines = chain(folder)
        ended = bool(lines) and lines[-1].is_last
        code = 0 if ended else every.exit_code
        summary = {**(of_chain(lines[-1]) if ended else {}), **more}

        def log(run: Any, before: int) -> None:
            for values in every.after(before, folder):
                run.log(values)
            run.summary.update(summary)

        before, there = confirmed(told, place, seconds, log, code)
        if there < len(every.rows):
            raise Unsent(
                f"{told.study} {told.label} seed {told.seed}: {there} of {len(every.rows)} rows have arrived within "
                f"{seconds:g} s; the same command sends the rest"
            )
        for segment in known:
            mark(segment, place)
    leases.clear(folder)
    return max(len(every.rows) - before, 0), every


def confirmed(
    told: Told, place: Place, seconds: float, log: Callable[[Any, int], None], code: int = 0
) -> tuple[int, int]:
    """How many rows of a run the server had before `log(run, before)`, and how many it has now.

    Raises Unsent where W&B fails, and Unreachable.
    """
    with tempfile.TemporaryDirectory() as own:  # in the cell's folder it would look like one more start
        run = opened(told, Path(own), place, seconds)
        try:
            before = arrived(run)
            log(run, before)
        except (Said, OSError):
            raise
        except Exception as error:
            raise Unsent(f"W&B failed ({cause(error)}); the same command sends the rest") from error
        finally:
            _finish(run, code)
        again = opened(told, Path(own), place, seconds)
        there = arrived(again)
        _finish(again, code)
    return before, there


def opened(told: Told, own: Path, place: Place, seconds: float) -> Any:
    """A run that is online. Raises Unreachable, in one sentence."""
    try:
        return open_run(told, own, "online", place, seconds)
    except Exception as error:
        with suppress(Exception):  # its own process may be gone already; the error before is what counts
            forget()
        said = cause(error)
        if said.startswith("WANDB_API_KEY invalid: "):
            form = said.partition(": ")[2].removesuffix(".")
            raise Unreachable(f"WANDB_API_KEY has the wrong form: {form}; nothing was sent") from error
        if "API key" in said:
            raise Unreachable("no W&B key: set WANDB_API_KEY, or call `wandb login` once; nothing was sent") from error
        raise Unreachable(f"the W&B server does not answer ({said}); nothing is lost, try again later") from error


def _finish(run: Any, code: int) -> None:
    with suppress(Exception):  # what has arrived is asked for afterwards
        run.finish(exit_code=code)
