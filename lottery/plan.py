"""The plan of a command line: what it would train, what it would reuse, and for how long."""

from __future__ import annotations

import time

from lottery.config import build, check
from lottery.launch import jobs
from lottery.ledger import NAME, Ledger
from lottery.names import Job
from lottery.study import Cell, Phases
from lottery.training import Budget, fit

PROBE = 200  # optimizer steps measured for the estimate


def show(arguments: list[str]) -> None:
    print("TODO", arguments, time, build, check, jobs, NAME, Ledger, Job, Cell, Phases, Budget, fit, PROBE)
