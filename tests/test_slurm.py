"""On a real Slurm: whatever happens to a job, its cell ends as an undisturbed one, in the same folder and W&B run.

Most cases are stories that run concurrently, because each spends most of its time waiting for Slurm.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lottery.foundations.digests import digest_of
from lottery.running.wandb_runs import run_id
from lottery.store.folder import ERROR
from tests import tiny_sets
from tests.server import Server
from tests.slurm_cluster import Cluster
from tests.test_kill import begun, ended, executed, ledgers, same
from tests.test_tracking import records

pytestmark = pytest.mark.slurm

# A user's own code, which jobs must find as the command does. Its steps take a while without needing a processor, so
# that the stories don't disturb each other: so many seconds in each start of a job, by PATIENCE in the environment.
GUEST = """
import os, signal, time
from lottery.pruning.criteria import magnitude
from lottery.models.lenet import lenet_300_100
from lottery.foundations.seeds import Streams

def patient(shape, classes):
    net = lenet_300_100(shape, classes)
    pauses = [float(pause) for pause in os.environ["PATIENCE"].split()]
    pause = pauses[min(int(os.environ.get("SLURM_RESTART_COUNT", 0)), len(pauses) - 1)]
    net.register_forward_pre_hook(lambda *_: time.sleep(pause))
    return net

def doomed(shape, classes):
    net = lenet_300_100(shape, classes)
    if "SLURM_JOB_ID" in os.environ:
        net.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    return net

def picky(evidence):
    if evidence.rng.initial_seed() == Streams(1).score(1):
        raise RuntimeError("seed 1 is not to my taste")
    return magnitude(evidence)
"""

PATIENCE, SECONDS, CHUNK = 0.005, 0.2, 100
"""minimum seconds of a step; seconds between checkpoints; maximum steps between two chances for a checkpoint"""
LATE = 300
"""steps before a disturbance: starting over would cost more than an interruption is allowed to"""
CELL = (
    "model._target_=guest.patient",
    "data=digits",
    "schedule.rounds=1",
    "budget.steps=800",
    f"budget.evaluate={CHUNK}",
    f"hardware.checkpoint_seconds={SECONDS}",
)
SWEEP = (*CELL, "budget.steps=600", "arm=imp,random_reinit", "seed=0,1", "-m")
TWO = (*CELL, "hardware=ddp", "hardware.accelerator=cpu")


class Login:
    """A login node, which starts commands in separate folders and makes undisturbed runs."""

    def __init__(self, server: Server, cluster: Cluster, folder: Path) -> None:
        self.server, self.cluster, self.folder = server, cluster, folder
        self._asking, self._making = threading.Lock(), dict[tuple[str, ...], threading.Lock]()
        self._made: dict[tuple[str, ...], Path] = {}

    def start(self, name: str, *overrides: str, launcher: str = "slurm", **env: str) -> Command:
        """Begins `lottery run` in a folder of this name."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "guest.py").write_text(GUEST)
        words, env = ("run", f"hydra/launcher={launcher}", *overrides), {"PATIENCE": str(PATIENCE), **env}
        with self._asking:
            return Command(self, folder, self.server.start(folder, *words, **env))

    def code(self, pid: int) -> int:
        """The exit code of a command that has ended."""
        with self._asking:
            return self.server.wait(pid)

    def undisturbed(self, *overrides: str) -> Path:
        """The folder of an undisturbed run, made once, here and without Slurm."""
        with self._making.setdefault(overrides, threading.Lock()):
            if overrides not in self._made:
                plain = (*overrides, "tracking.mode=disabled")
                command = self.start(f"undisturbed-{digest_of(overrides)[:8]}", *plain, launcher="local", PATIENCE="0")
                assert command.ends() == 0, command.said
                self._made[overrides] = command.runs
            return self._made[overrides]


class Command:
    """A command on the login node, and the job of its only cell."""

    def __init__(self, login: Login, folder: Path, pid: int) -> None:
        self.login, self.cluster, self.folder, self.pid = login, login.cluster, folder, pid
        self.runs = folder / "runs"

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    @property
    def cell(self) -> Path:
        [file] = self.runs.glob("*/*/*/slurm.json")
        return file.parent

    def job(self, last: str = "") -> str:
        """The cell's job, as soon as there is a new one."""
        wait_for(lambda: self.jobs() not in ([], [last]) or ended(self.pid))
        [job] = self.jobs()
        assert job != last, self.said
        return job

    def jobs(self) -> list[str]:
        """The jobs of all cells."""
        return sorted(json.loads(path.read_text())["job"] for path in self.runs.glob("*/*/*/slurm.json"))

    def reaches(self, steps: int) -> None:
        """Waits until so many steps were begun."""
        wait_for(lambda: begun(self.runs) >= steps or ended(self.pid))
        assert not ended(self.pid), self.said

    def ends(self) -> int:
        """Its exit code."""
        wait_for(lambda: ended(self.pid), seconds=900)
        return self.login.code(self.pid)


def wait_for(condition: Callable[[], object], seconds: float = 480) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited for {seconds:.0f} s"
        time.sleep(0.05)


def intact(command: Command, undisturbed: Path, interruptions: int) -> bool:
    """Whether results equal those of an undisturbed run, and few steps were trained twice."""
    assert same(command.runs, undisturbed)
    for cell in cells(command.runs):
        assert {path.name.rpartition("-")[2] for path in shown(cell)} == {run_id(*identity(cell))}
    lost = executed(command.runs) - executed(undisturbed)
    assert 0 <= lost <= interruptions * (SECONDS / PATIENCE + CHUNK)
    assert {path.relative_to(command.runs) for path in cells(command.runs)} == {
        path.relative_to(undisturbed) for path in cells(undisturbed)
    }
    return True


def cells(runs: Path) -> list[Path]:
    return sorted(runs.glob("*/*/seed*"))


def shown(cell: Path) -> list[Path]:
    """Its W&B record: an offline run for each start."""
    return list(cell.glob("wandb/offline-run-*"))


def identity(cell: Path) -> tuple[str, str, int]:
    return cell.parent.parent.name, cell.parent.name, int(cell.name.removeprefix("seed"))


# stories


def disturbed(
    login: Login,
    name: str,
    disturb: Callable[[Cluster, str], object],
    *more: str,
    cell: Sequence[str] = CELL,
    **env: str,
) -> Command:
    """A cell whose job is disturbed once, in the middle of training, and which finishes all the same."""
    command = login.start(name, *cell, *more, **env)
    job = command.job()
    command.reaches(LATE)
    disturb(login.cluster, job)
    assert command.ends() == 0, command.said
    assert login.cluster.state(job) == "COMPLETED"
    assert login.cluster.restarts(job) == 1
    assert len(shown(command.cell)) == 2
    assert intact(command, login.undisturbed(*cell), interruptions=1)
    return command


def with_signal(name: str) -> Callable[[Cluster, str], object]:
    return lambda cluster, job: cluster.run("scancel", f"--signal={name}", job)


def kill(cluster: Cluster, job: str) -> None:
    [task] = cluster.tasks(job)
    os.kill(task, signal.SIGKILL)


def requeue(cluster: Cluster, job: str) -> None:
    cluster.run("scontrol", "requeue", job)


def a_job_that_dies_without_progress_is_not_started_for_ever(login: Login) -> None:
    command = login.start("doomed", *CELL, "model._target_=guest.doomed", "tracking.mode=disabled")
    job = command.job()
    assert command.ends() == 1
    reason = (command.cell / ERROR).read_text().splitlines()[0]
    assert f"job {job} was started 5 times about round 0, step 0" in reason
    assert reason in command.said
    assert login.cluster.restarts(job) == 5
    assert job not in login.cluster.squeue()


def a_time_limit(login: Login) -> None:
    # 60 s are the shortest limit, and Slurm looks each 30 s: it tells the job between 25 and 55 s after its start
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5")
    command = login.start("limit", *CELL, *limit, PATIENCE=f"0.05 {PATIENCE}")
    job = command.job()
    assert command.ends() == 0, command.said
    assert login.cluster.state(job) == "COMPLETED"
    assert login.cluster.restarts(job) >= 1
    assert intact(command, login.undisturbed(*CELL), login.cluster.restarts(job))


def an_array_with_the_same_command_meanwhile(login: Login) -> None:
    command = login.start("array", *SWEEP)
    wait_for(lambda: len(command.jobs()) == 4 or ended(command.pid))
    jobs = command.jobs()
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{element}" for element in range(4)], command.said
    again = login.start("array", *SWEEP)
    command.reaches(LATE)
    # its plain number is that of the whole array, which must not be queued again
    login.cluster.run("scancel", "--signal=USR1", jobs[-1])
    assert again.ends() == 0, again.said
    assert command.ends() == 0, command.said
    assert [login.cluster.restarts(job) for job in jobs] == [0, 0, 0, 1]
    assert "4 cells in the queue already" in again.said
    assert command.jobs() == jobs
    assert command.said.count("submitted as job") == 1
    assert intact(command, login.undisturbed(*SWEEP), interruptions=1)  # by far fewer steps than a phase has

    over = login.start("array", *SWEEP)
    assert over.ends() == 0
    assert "4 of 4 cells are finished already" in over.said
    assert command.jobs() == jobs


def a_killed_command_leaves_its_job(login: Login) -> None:
    held = (*CELL, "+hydra.launcher.additional_parameters.hold=true")
    command = login.start("left", *held)
    job = command.job()
    wait_for(lambda: "submitted as job" in command.said)
    os.kill(command.pid, signal.SIGTERM)
    assert command.ends() == 143
    assert login.cluster.state(job) == "PENDING"
    again = login.start("left", *held)
    wait_for(lambda: "in the queue already" in again.said or ended(again.pid))
    assert again.job() == job
    login.cluster.run("scontrol", "release", job)
    assert again.ends() == 0, again.said
    assert again.jobs() == [job]
    assert intact(again, login.undisturbed(*CELL), interruptions=0)


def signal_usr1(login: Login) -> None:
    command = disturbed(login, "usr1", with_signal("USR1"))
    told = [record for segment in shown(command.cell) for record in records(segment) if record["type"] == "run"]
    assert {record["run"]["run_id"] for record in told} == {run_id(*identity(command.cell))}


def signal_usr2_with_workers(login: Login) -> None:
    # Slurm tells every process of the job, those that decode pictures too
    files = tiny_sets.write("folder", login.folder / "pictures")
    small = ("data.shape=[3,8,8]", "data.resize=9", "budget.steps=600", "budget.evaluate=300")
    disturbed(login, "workers", with_signal("USR2"), "data.workers=2", cell=(*CELL, "data=folder", *files, *small))


def requeued(login: Login) -> None:
    disturbed(login, "requeued", requeue)


def requeued_with_two_tasks(login: Login) -> None:
    def with_two(cluster: Cluster, job: str) -> None:
        assert len(cluster.tasks(job)) == 2
        requeue(cluster, job)

    disturbed(login, "two", with_two, cell=TWO)


def killed(login: Login) -> None:
    disturbed(login, "killed", kill)


def cancelled(login: Login) -> None:
    command = login.start("cancelled", *CELL)
    job = command.job()
    command.reaches(LATE)
    login.cluster.run("scancel", job)
    assert command.ends() == 1
    assert "imp seed 0: did not finish; what job " in command.said
    assert "1 of 1 cells are unfinished; " in command.said
    assert (login.cluster.state(job), login.cluster.restarts(job)) == ("CANCELLED", 0)
    again = login.start("cancelled", *CELL)
    assert again.job(last=job)
    assert again.ends() == 0, again.said
    assert intact(again, login.undisturbed(*CELL), interruptions=1)
    assert (login.cluster.state(job), login.cluster.restarts(job)) == ("CANCELLED", 0)


def a_failing_cell_among_good_ones(login: Login) -> None:
    cell = (*CELL, "budget.steps=200", "criterion._target_=guest.picky")
    command = login.start("failing", *cell, "seed=1,0", "-m")
    assert command.ends() == 1
    assert "imp seed 1: RuntimeError: seed 1 is not to my taste" in command.said
    assert "1 of 2 cells are unfinished" in command.said
    assert "imp seed 0: " not in command.said
    undisturbed = ledgers(login.undisturbed(*cell))
    assert len(undisturbed) == 1
    assert {name: ledgers(command.runs)[name] for name in undisturbed} == undisturbed
    assert [login.cluster.restarts(job) for job in command.jobs()] == [0, 0]


def wandb_out_of_reach(login: Login) -> None:
    with socket.socket() as closed:  # bound, and not listened to
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        online = ("tracking.mode=online", "budget.steps=200")
        command = login.start("unreachable", *CELL, *online, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
        assert command.ends() == 0, command.said
    said = "".join(path.read_text() for path in command.runs.glob("slurm/*/*.err"))
    assert "this cell is kept offline, `lottery wandb sync` sends it later" in said
    assert intact(command, login.undisturbed(*CELL, "budget.steps=200"), interruptions=0)


def preempted(login: Login) -> None:
    def preempt(cluster: Cluster, job: str) -> None:
        assert cluster.show(job)["NodeList"] == "n2"
        alone = ("--nodelist=n2", "--exclusive", "--output=/dev/null")
        cluster.run("sbatch", "--partition=high", *alone, "--wrap=sleep 2")

    disturbed(login, "preempted", preempt, "hydra.launcher.partition=spare")


def with_an_sbatch_file(login: Login, name: str, options: Sequence[str], words: Sequence[str]) -> None:
    """A script of slurm/ instead of the launcher; its task is killed once."""
    folder, tools = login.folder / name, Path(sys.executable).parent
    folder.mkdir()
    (folder / "guest.py").write_text(GUEST)
    (folder / "lottery").write_text(f'#!/bin/sh\nexec {sys.executable} -m lottery "$@"\n')
    (folder / "lottery").chmod(0o755)
    script = Path(__file__).parents[1] / "slurm" / f"{name}.sbatch"
    exported = f"--export=ALL,PATIENCE={PATIENCE},PATH={folder}:{tools}:{os.environ['PATH']}"
    tracked = ("tracking.mode=disabled", *words)
    job = login.cluster.run(
        "sbatch", "--parsable", f"--chdir={folder}", exported, *options, str(script), *CELL, *tracked
    ).strip()
    job += "_0" * (name == "cell")
    wait_for(lambda: begun(folder / "runs") >= LATE)
    kill(login.cluster, job)
    wait_for(lambda: login.cluster.state(job) == "COMPLETED")
    assert login.cluster.restarts(job) == 1
    undisturbed = login.undisturbed(*CELL)
    assert same(folder / "runs", undisturbed)
    assert executed(folder / "runs") - executed(undisturbed) <= SECONDS / PATIENCE + CHUNK


def an_array_without_the_launcher(login: Login) -> None:
    with_an_sbatch_file(login, "cell", ["--array=0"], [])


def a_node_without_the_launcher(login: Login) -> None:
    with_an_sbatch_file(login, "node", [], ["seed=0", "-m"])


BESIDE = [
    a_time_limit,
    signal_usr2_with_workers,
    an_array_without_the_launcher,
    a_node_without_the_launcher,
    a_job_that_dies_without_progress_is_not_started_for_ever,
    an_array_with_the_same_command_meanwhile,
    requeued_with_two_tasks,
    cancelled,
    killed,
    signal_usr1,
    requeued,
    wandb_out_of_reach,
    a_killed_command_leaves_its_job,
    preempted,
    a_failing_cell_among_good_ones,
]
"""stories that do not affect other jobs, the longest first"""

# Stories at a time. More would only wait for each other's imports, ten seconds of a core each, and a job with a time
# limit would come to it before it has loaded PyTorch.
WORKERS = 3
Story = Callable[[Login], None]
Told = dict[Story, Future[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Slurm; without an installation its tests are skipped, unless they are required."""
    if shutil.which("slurmctld", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None:
        reason = "slurmctld is not installed (Debian: slurm-wlm)"
        if os.environ.get("LOTTERY_SLURM_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def login(server: Server, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - cluster.env.keys():
            patch.delenv(name)
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, cluster.env[name])
        yield Login(server, cluster, tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def beside(request: pytest.FixtureRequest, login: Login) -> Iterator[Told]:
    """Those stories that this session has tests for."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [story for story in BESIDE if any(each.get("story") is story for each in params)]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {story: pool.submit(story, login) for story in wanted}


@pytest.mark.parametrize("story", BESIDE, ids=lambda story: story.__name__)
def test_story(story: Story, beside: Told) -> None:
    beside[story].result()


def test_a_lost_node_whose_process_lives_on(login: Login) -> None:
    # after the stories, because all other jobs would be lost with the node
    left: list[int] = []

    def lose(cluster: Cluster, job: str) -> None:
        assert cluster.show(job)["NodeList"] == "n1"
        left.extend(cluster.tasks(job))
        cluster.lose("n1")

    # the old process would still train for a minute when the new one begins
    command = disturbed(login, "lost", lose, "hydra.launcher.partition=wide", PATIENCE=f"0.05 {PATIENCE}")
    login.cluster.bring_back("n1")
    [old] = left
    assert ended(old)
    said = "".join(path.read_text() for path in command.runs.glob("slurm/*/*.err"))
    assert "another process took this work over" in said


# what can't be submitted


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["hydra.launcher.partition=nowhere"],
            "hydra.launcher.partition=nowhere: Slurm refuses: invalid partition specified: nowhere; "
            "Batch job submission failed: Invalid partition name specified; allowed: high, main, paid, spare, wide",
        ),
        (
            ["hydra.launcher.partition=paid", "hydra.launcher.account=beggars"],
            "hydra.launcher.account=beggars: Slurm refuses: Batch job submission failed: Invalid account",
        ),
        (["hydra/launcher=slurm_gpu"], "hydra.launcher.gpus_per_node=1: Slurm refuses: Invalid generic resource"),
        (["out=guest.py/runs"], "guest.py"),
    ],
    ids=["partition", "account", "gpus", "no folder"],
)
def test_what_slurm_refuses_is_one_sentence(
    login: Login, cluster: Cluster, request: pytest.FixtureRequest, overrides: list[str], sentence: str
) -> None:
    before = cluster.squeue("--states=all")
    refused(login.start(request.node.callspec.id, *CELL, *overrides), sentence)
    assert cluster.squeue("--states=all") == before


def test_without_slurm_on_the_path_it_is_one_sentence(login: Login) -> None:
    refused(login.start("pathless", *CELL, PATH=str(login.folder)), "there is no Slurm on this machine")


def refused(command: Command, sentence: str) -> None:
    assert command.ends() == 1
    [said] = [line for line in command.said.splitlines() if line.startswith("lottery: ")]
    assert sentence in said
    assert "Traceback" not in command.said
    assert not command.jobs()
