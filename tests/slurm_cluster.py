"""A real two-node Slurm on this machine, for any user: slurmctld and two slurmd on loopback, removed afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

NODES = ("n1", "n2")
CPUS = 32  # of each node, whatever this machine has

# A requeued job waits until its credential has expired, by default two minutes; Slurm accepts no less than 5 s. To let
# it start earlier (StartTime=now) is no help: the end of the old start then counts as the end of the new one.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,sched_interval=2,bf_interval=1,batch_sched_delay=0
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=n1 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=spare Nodes=n2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=wide Nodes=n1,n2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=paid Nodes=n1,n2 PriorityTier=1 PreemptMode=REQUEUE AllowAccounts=payers
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """The cluster, as a context manager. `env` is the environment for its users."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short, for the sake of the sockets in it
        self.config, self.user = self.folder / "slurm.conf", pwd.getpwuid(os.getuid()).pw_name
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_"))}
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
        self.env = {**kept, "PATH": path, "SLURM_CONF": str(self.config)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        text = CONFIG.format(folder=self.folder, host=host, user=self.user, cpus=CPUS, ports=ports)
        self.config.write_text(text)
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        try:
            self._start("slurmctld", "slurmctld", "-c")
            for node in NODES:
                self._start(node, "slurmd", "-N", node)
            self._until(lambda: self._idle(*NODES))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str) -> str:
        """The output of a command, which must succeed."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def squeue(self, *options: str) -> list[str]:
        """The unfinished jobs in the queue, array elements listed one by one."""
        return self.run("squeue", "--noheader", "--array", "--format=%i", *options).split()

    def show(self, job: str) -> dict[str, str]:
        """Slurm's record of a job or array element."""
        return dict(word.partition("=")[::2] for word in self.run("scontrol", "--oneliner", "show", "job", job).split())

    def state(self, job: str) -> str:
        return self.show(job)["JobState"]

    def restarts(self, job: str) -> int:
        return int(self.show(job)["Restarts"])

    def tasks(self, job: str) -> list[int]:
        """The processes that srun started for a job, without their children."""
        number = f"SLURM_JOB_ID={self.show(job)['JobId']}"
        return [
            pid
            for pid, env in self._users()
            if {number, f"SLURM_TASK_PID={pid}"} <= env and any(word.startswith("SLURM_STEP_ID=") for word in env)
        ]

    def lose(self, node: str) -> None:
        """Kills Slurm's daemons on a node, while tasks live on, as if the network broke.

        Slurm is told at once, because it would notice only after half a minute.
        """
        for pid, env in self._users():
            if _MARK + node in env:
                _kill(pid)
        self._daemons.pop(node).wait()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def bring_back(self, node: str) -> None:
        """Starts a lost node again."""
        self._start(node, "slurmd", "-N", node)
        self._until(lambda: self._idle(node))

    def _idle(self, *nodes: str) -> bool:
        states = [self.run("sinfo", "--noheader", "--nodes", node, "--partition=wide", "--format=%T") for node in nodes]
        return all(state.strip() in ("idle", "mixed", "allocated") for state in states)

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as said:
            self._daemons[name] = subprocess.Popen(
                [command[0], "-D", "-f", str(self.config), *command[1:]],
                env={**self.env, _MARK[:-1]: name},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def _until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with suppress(AssertionError):  # not there yet
                if condition():
                    return
            said = "".join(path.read_text()[-2000:] for path in self.folder.glob("slurm*.log"))
            waiting = time.monotonic() < deadline and all(daemon.poll() is None for daemon in self._daemons.values())
            assert waiting, f"Slurm does not come up:\n{said}"
            time.sleep(0.05)

    def _stop(self) -> None:
        """Ends the jobs, then Slurm, then remaining processes of the jobs."""
        with suppress(AssertionError, subprocess.TimeoutExpired):  # what goes on is killed below
            self.run("scancel", "--user", self.user)
            self._until(lambda: not self.squeue(), seconds=15)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            with suppress(subprocess.TimeoutExpired):  # killed below
                daemon.wait(10)
        for pid, _ in self._users():
            _kill(pid)
        for daemon in self._daemons.values():
            daemon.wait()

    def _users(self) -> Iterator[tuple[int, set[str]]]:
        """Every process of this cluster's daemons and jobs, with its environment."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # gone, or another user's
                env = set(path.read_bytes().decode(errors="replace").split("\0"))
                if f"SLURM_CONF={self.config}" in env:
                    yield int(path.parent.name), env


_MARK = "LOTTERY_TEST_NODE="
"""set in the environment of a node's daemons, but not of its jobs"""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":  # python -m tests.slurm_cluster bash
    if not (command := sys.argv[1:]) or shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        sys.exit("usage: python -m tests.slurm_cluster COMMAND ...; needs slurmctld (Debian: slurm-wlm)")
    with Cluster() as cluster:
        code = subprocess.run(command, env=cluster.env, check=False).returncode
    sys.exit(code)
