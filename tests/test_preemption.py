"""Handling of Slurm's signals, with a fake Slurm; `tests/test_slurm.py` uses a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lottery.config.compose import cell_configs, composed
from lottery.foundations.errors import Refused
from lottery.foundations.job import Task, here
from lottery.running.launch import attempt
from lottery.running.slurm import attempts, preemption
from lottery.running.slurm import queue as slurm
from lottery.running.slurm.attempts import MOST, Attempts, Stuck
from lottery.running.slurm.submission import start, submit, tried_here
from lottery.store.folder import ERROR, JOB
from tests.conftest import environment

SIGNALS = ("TERM", "USR1", "USR2")
AGAIN = "job 12 is queued again and will go on from its last checkpoint"


def pretend(folder: Path, state: str, refusals: int = 0, restarts: int = 0) -> dict[str, str]:
    """The environment of a job in some state, with a fake Slurm that logs calls and refuses the first few."""
    tools = folder / "tools"
    tools.mkdir()
    tool(tools / "squeue", f"echo {state and f'{state} {restarts}'}")
    no = f"[ $(wc -l < {folder}/asked) -gt {refusals} ] || {{ echo scontrol: error: no >&2; exit 1; }}"
    tool(tools / "scontrol", f'echo "$@" >> {folder}/asked; {no}')
    return {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}


def tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


GUARDED = """
import os, signal, sys, time
from lottery.foundations.job import here
from lottery.running.slurm import preemption, queue as slurm
preemption._PAUSE_SECONDS = 0.01
preemption.guard(here())
if sys.argv[2:] == ["done"]:
    preemption.disregard()
if sys.argv[2:] == ["worker"] and os.fork():  # the parent only looks after it
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]) % 256)
try:
    os.kill(os.getpid(), getattr(signal, "SIG" + sys.argv[1]))
    time.sleep(0.1)
except BaseException as error:  # as a user's code may, and then train on
    print("caught", error)
print("goes on")
"""


def guarded(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARDED, *arguments],
        env=environment(PYTHONPATH=str(Path(__file__).parents[1]), **env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_running_job_is_queued_again(name: str, state: str, tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    done = guarded(tmp_path, name, **pretend(tmp_path, state), **array)
    assert done.returncode == 128 + getattr(signal, f"SIG{name}")
    assert done.stdout == ""
    assert done.stderr == f"SIG{name}: job 12_3 is queued again and will go on from its last checkpoint\n"
    assert (tmp_path / "asked").read_text() == "requeue 12_3\n"


def test_an_old_start_leaves_a_new_one_alone(tmp_path: Path) -> None:
    done = guarded(tmp_path, "TERM", **pretend(tmp_path, "RUNNING", restarts=1))  # this one is start 0
    assert (done.returncode, done.stderr) == (
        143,
        "SIGTERM: Slurm itself has ended this start of job 12; nothing is lost\n",
    )
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", ""])
def test_a_cancelled_job_is_not(state: str, tmp_path: Path) -> None:
    done = guarded(tmp_path, "TERM", **pretend(tmp_path, state))
    assert done.returncode == 143
    assert done.stderr == "SIGTERM: Slurm itself has ended this start of job 12; nothing is lost\n"
    assert not (tmp_path / "asked").exists()


def test_a_job_that_can_not_be_queued_again_says_so(tmp_path: Path) -> None:
    done = guarded(tmp_path, "USR1", **pretend(tmp_path, "RUNNING", refusals=99))
    assert done.returncode == 128 + signal.SIGUSR1
    assert done.stderr.startswith("SIGUSR1: job 12 can't be queued again (Slurm refuses: no); nothing is lost")


def test_a_busy_controller_is_asked_again(tmp_path: Path) -> None:
    done = guarded(tmp_path, "USR1", **pretend(tmp_path, "RUNNING", refusals=2))
    assert done.stderr == "SIGUSR1: job 12 is queued again and will go on from its last checkpoint\n"
    assert (tmp_path / "asked").read_text() == "requeue 12\n" * 3


@pytest.mark.parametrize(
    ("code", "restarts", "state", "said", "asked"),
    [
        (0, 0, "RUNNING", "", False),
        (1, 0, "RUNNING", "", False),
        (
            137,
            0,
            "RUNNING",
            f"ended with code 137: {AGAIN}",
            True,
        ),
        (
            138,
            0,
            "COMPLETING",
            "ended with code 138: Slurm itself has ended this start of job 12; nothing is lost",
            False,
        ),
        (
            137,
            98,
            "RUNNING",
            f"ended with code 137: {AGAIN}",
            True,
        ),
        (137, 99, "RUNNING", "job 12 was started 100 times; it is not queued again", False),
    ],
)
def test_a_batch_script_queues_a_killed_job_again(
    code: int, restarts: int, state: str, said: str, asked: bool, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lottery.running.slurm.preemption", str(code)],
        env=environment(**pretend(tmp_path, state, restarts=restarts), SLURM_RESTART_COUNT=str(restarts)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "", said)
    assert (tmp_path / "asked").exists() == asked


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_forked_worker_leaves_it_to_its_parent(name: str, tmp_path: Path) -> None:
    done = guarded(tmp_path, name, "worker", **pretend(tmp_path, "RUNNING"))
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("name", SIGNALS)
def test_other_ranks_end_with_the_first(name: str, tmp_path: Path) -> None:
    done = guarded(tmp_path, name, **pretend(tmp_path, "RUNNING"), SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1")
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("name", SIGNALS)
def test_finished_work_is_not_begun_again(name: str, tmp_path: Path) -> None:
    done = guarded(tmp_path, name, "done", **pretend(tmp_path, "RUNNING"))
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("env", "task"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, Task("7", 0, 0, 1, step=False)),
        # a batch script
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Task("7", 0, 0, 1, step=False)),
        (
            {
                "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3",
                "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1",
            },
            Task("7_2", 3, 1, 4),
        ),
    ],
)  # fmt: skip
def test_what_slurm_says_of_a_process(env: dict[str, str], task: Task | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert here() == task


def position(index: int, step: int) -> Any:
    return SimpleNamespace(index=index, copy=0), step


def started(folder: Path, restarts: int, *positions: tuple[int, int], job: str = "12") -> None:
    counted = Attempts(folder, Task(job, restarts, 0, 1))
    counted.begin()
    for index, step in positions:
        counted.advanced(*position(index, step), None)


def test_starts_that_lead_nowhere_come_to_an_end(tmp_path: Path) -> None:
    for restarts in range(MOST):
        started(tmp_path, restarts, (3, 110), (3, 200))
    with pytest.raises(Stuck, match=f"^job 12 was started {MOST} times about round 3, step 110 without coming to its"):
        started(tmp_path, MOST)


def test_a_start_that_never_trained_counts(tmp_path: Path) -> None:
    for restarts in range(MOST):
        started(tmp_path, restarts)
    with pytest.raises(Stuck, match="round 0, step 0"):
        started(tmp_path, MOST)


def test_a_start_counts_once(tmp_path: Path) -> None:
    for restarts in range(MOST):
        for _ in range(3):  # by the job, and by the cell that it plays
            started(tmp_path, restarts)
    assert attempts.read(tmp_path)["starts"] == MOST


@pytest.mark.slow
def test_a_batch_script_s_own_command_leaves_its_job_alone(tmp_path: Path) -> None:
    """A notebook may run as a job: a sweep that ends must not requeue the notebook."""
    env = environment(PYTHONPATH=str(Path(__file__).parents[1]), **pretend(tmp_path, "RUNNING"))
    command = [sys.executable, "-m", "lottery", "run", "budget.steps=1000000", f"out={tmp_path / 'runs'}"]
    process = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert "1 cells to run" in process.stdout.readline()
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "queued again" not in said
    assert not (tmp_path / "asked").exists()


def test_a_job_says_beside_the_ledger_why_it_can_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(preemption, "guard", lambda task: None)
    [job] = cell_configs([f"out={tmp_path}"])
    with pytest.raises(SystemExit, match="but the configuration or the code now makes that"):
        start([f"out={tmp_path}"], "another cell", job.folder)
    assert (job.folder / ERROR).read_text().startswith("the job was submitted for another cell, but the configuration")


DYING = """
import os, sys
from pathlib import Path
from lottery.running.slurm.submission import start

class Importing:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), 9)

sys.meta_path.insert(0, Importing)
start([], "a cell", Path("cell"))
"""


def test_starts_that_die_while_they_import_come_to_an_end(tmp_path: Path) -> None:
    path = str(Path(__file__).parents[1])
    for restarts in range(MOST + 1):
        env = environment(PYTHONPATH=path, SLURM_JOB_ID="12", SLURM_RESTART_COUNT=str(restarts))
        done = subprocess.run(
            [sys.executable, "-c", DYING], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == (-signal.SIGKILL if restarts < MOST else 1), done.stderr
    assert done.stderr.startswith(f"job 12 was started {MOST} times about round 0, step 0 without coming to its next")
    assert (tmp_path / "cell" / ERROR).read_text().startswith(done.stderr.strip())


def test_starts_that_lead_on_never_come_to_an_end(tmp_path: Path) -> None:
    for restarts in range(4 * MOST):
        started(tmp_path, restarts, (restarts // 3, 10 + restarts % 3))


def test_a_new_job_counts_anew(tmp_path: Path) -> None:
    for restarts in range(MOST):
        started(tmp_path, restarts, (0, 10))
    started(tmp_path, 0, (0, 10), job="13")
    for restarts in range(1, MOST):
        started(tmp_path, restarts, (0, 10), job="13")


def test_waiting_for_another_process_is_no_failure(tmp_path: Path) -> None:
    for restarts in range(3 * MOST):
        counted = Attempts(tmp_path, Task("12", restarts, 0, 1))
        counted.begin()
        with counted.waiting():
            assert Attempts(tmp_path, Task("12", restarts + 1, 0, 1)).note["starts"] == 1, "if it were killed now"
        with suppress(InterruptedError), counted.waiting():
            raise InterruptedError  # as a kill would, that writes nothing any more


def test_jobs_that_die_in_turn_come_to_an_end(tmp_path: Path) -> None:
    for restarts in range(MOST):
        counted = Attempts(tmp_path, Task("12", restarts, 0, 1))
        counted.begin()
        with counted.waiting():  # until the other died
            pass
    with pytest.raises(Stuck):
        Attempts(tmp_path, Task("12", MOST, 0, 1)).begin()


def test_submitting_forgets_nothing_that_has_begun(tmp_path: Path) -> None:
    started(tmp_path, 0, (0, 10))
    attempts.submitted(tmp_path, "12")
    assert json.loads((tmp_path / JOB).read_text()) == {
        "job": "12",
        "start": 0,
        "starts": 1,
        "position": [0, 10, 0],
    }
    attempts.submitted(tmp_path, "13")
    assert attempts.read(tmp_path) == {"job": "13"}


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"^hydra/launcher: there is no Slurm on this machine: squeue is not on the"):
        submit(cell_configs([f"out={tmp_path}"]), PRESET)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nodes": 2}, "hydra.launcher.nodes=2: a cell trains on one node"),
        ({"signal_delay_s": -1}, "hydra.launcher.signal_delay_s=-1: must be 0 or more"),
        ({"array_parallelism": 0}, "hydra.launcher.array_parallelism=0: must be 1 or more"),
        ({"tasks_per_node": 3}, "hydra.launcher.tasks_per_node=3: must be as many as hardware.devices=1"),
        ({"timeout_min": 2}, "hydra.launcher.timeout_min=2: leaves no time to train before the signal that comes"),
        ({}, "numerics.threads: must be the same for all cells of an array of jobs"),
    ],
)
def test_what_no_cell_could_use_is_refused(given: dict[str, int], sentence: str, tmp_path: Path) -> None:
    cells = cell_configs([f"out={tmp_path}", "numerics.threads=1,2", "-m"])
    with pytest.raises(Refused, match="^" + re.escape(sentence)):
        submit(cells, PRESET | given)


PRESET = composed(["hydra/launcher=slurm"])[1]


def test_a_login_node_tries_a_cell_without_the_gpu_that_its_job_will_have() -> None:
    [job] = cell_configs(["hardware.accelerator=gpu", "numerics.precision=16-mixed"])
    tried = tried_here(job)
    assert (tried.config["hardware"]["accelerator"], tried.config["numerics"]["precision"]) == ("cpu", "bf16-mixed")
    assert (job.config["hardware"]["accelerator"], job.config["numerics"]["precision"]) == ("gpu", "16-mixed")


def test_what_a_user_set_for_squeue_hides_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path / "squeue", 'echo "a warning"; echo "12|${SQUEUE_STATES:-PENDING}|None|n1"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    assert slurm.queue() == {"12": slurm.Queued("PENDING", "None", "n1")}


def test_a_per_cent_sign_in_a_log_s_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^out=.*%u: Slurm reads a % in the path of a log"):
        submit(cell_configs([f"out={tmp_path}/%u"]), PRESET | {"submitit_folder": f"{tmp_path}/%u/slurm/%j"})


def test_code_that_ends_the_program_fails_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text("import sys\ndef now(shape, classes):\n    sys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    [job] = cell_configs([f"out={tmp_path / 'runs'}", "model._target_=leaving.now"])
    attempt(job, None)
    assert (job.folder / ERROR).read_text().startswith("the code that was called ended the program with sys.exit(0)\n")
    assert not job.finished()
