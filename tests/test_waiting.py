"""A cell that waits for another process in its folder changes none of that process's files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from lottery.config.compose import cell_configs
from lottery.running.launch import attempt
from lottery.store import leases
from lottery.store.folder import CONFIG, leave_error
from tests.conftest import TINY


def test_a_cell_that_waits_writes_nothing_until_it_is_its_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [job] = cell_configs([*TINY, f"out={tmp_path}"])
    lease, seen = leases.hold(job.folder), list[str]()
    (job.folder / CONFIG).write_text("of the process that works here")

    def work() -> None:
        with lease:
            end = time.monotonic() + 120
            while "waiting for" not in caplog.text and time.monotonic() < end:
                time.sleep(0.02)
            seen.append((job.folder / CONFIG).read_text())
            leave_error(job.folder, "it failed while the other waited")

    other = threading.Thread(target=work)
    other.start()
    attempt(job, None)
    other.join()
    assert seen == ["of the process that works here"]
    assert job.finished()
