"""`lottery wandb ticket`: a ticket file as an artifact of the run that it comes from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lottery.commands.wandb.cells import place
from lottery.foundations.digests import file_digest
from lottery.running.sending import Unsent, opened
from lottery.running.wandb_runs import Told, attach, cause, run_id
from lottery.store.tickets import read

LINEAGE = ("study", "arm", "seed", "round", "density", "phase", "data", "setting")


def send(file: Path, project: str | None, entity: str | None, seconds: float) -> str:
    """Sends a ticket and says where it is. Raises Unsent unless the server has all of it, Refused for no ticket.

    Where it comes from is told in the artifact's metadata and in the run's summary: study, arm, seed, round, the phase
    that it was trained in, the digests of start, masks and file.
    """
    saved = read(file)
    line, info = saved.info["line"], saved.info
    lineage = {key: line[key] for key in LINEAGE if key in line}
    digests = {key: value for key, value in info["digests"].items() if isinstance(value, str)}
    about = {**lineage, "run": run_id(line["study"], line["arm"], line["seed"]), "digests": digests,
             "file_sha256": file_digest(str(file)), "made": info["made"]}  # fmt: skip
    of = Told(line["study"], line["arm"], line["seed"], info["config"])
    name = f"{about['run']}_r{line['round']}"
    with tempfile.TemporaryDirectory() as own:
        run = opened(of, Path(own), place(of, project, entity), seconds)
        try:
            attach(run, file, name, about, seconds)
            run.summary.update({f"ticket/round_{line['round']}": about["file_sha256"]})
        except Exception as error:
            raise Unsent(f"{file}: has not arrived within {seconds:g} s ({cause(error)}); send it again") from error
        finally:
            run.finish(exit_code=0)
    return f"artifact {name} of run {about['run']}"
