"""Forks of the server, which most tests use, behave like the command that users start."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server, environment
from tests.test_kill import CELL, same

# a network of a user's own, found in the folder where the command is started, that notes what its process is like
GUEST = """
import json, os, signal, sys, threading
from pathlib import Path
import torch
from lottery.models.lenet import lenet_300_100

def told():
    main = sys.modules["__main__"]
    return {
        "folder": os.getcwd(),
        "leads its session and group": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "environment": {k: v for k, v in os.environ.items() if k not in ("TOLD", "LOTTERY_MAIN_PID")},
        "knows itself": os.environ.get("LOTTERY_MAIN_PID") == str(os.getpid()),
        "signals": {number.name: str(signal.getsignal(number)).split(" at ")[0] for number in signal.Signals},
        "arguments": sys.argv,
        "entry": (main.__spec__.name, main.__file__),
        "path": sys.path,
        "flags": str(sys.flags),
        "files": {name: os.readlink(f"/proc/self/fd/{name}").split("[")[0] for name in "012"},
        "Python's threads": [thread.name for thread in threading.enumerate()],
        "threads of an operation": torch.get_num_threads(),
        "drawn": (torch.initial_seed(), torch.get_rng_state().sum().item()),
    }

def net(shape, classes):
    Path(os.environ["TOLD"]).write_text(json.dumps(told()))
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return lenet_300_100(shape, classes)
"""
COMMAND = (*CELL, "model._target_=guest.net", "model.shape=[1,8,8]")


def cold(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command as users start it, except that a script's folder is first on the path instead of the current one."""
    return subprocess.run(
        [sys.executable, "-m", "lottery", *arguments],
        cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=120, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell's background tests
    )  # fmt: skip


def timeless(said: str) -> str:
    return re.sub(r"[0-9.]+ steps/s(, about .* left)?", "so fast", said)


@pytest.mark.slow
def test_a_fork_is_like_a_cold_command_and_does_the_same(server: Server, tmp_path: Path) -> None:
    """The cold process has another hash seed, so nothing that is stored may depend on the order of a set."""
    seen: list[dict[str, Any]] = []
    for name in ("cold", "fork"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "guest.py").write_text(GUEST)
    done = cold(tmp_path / "cold", *COMMAND, TOLD=str(tmp_path / "cold.json"), COLUMNS="90")
    fork = server.begin(tmp_path / "fork", *COMMAND, TOLD=str(tmp_path / "fork.json"), COLUMNS="90")
    out, err = fork.communicate(120)
    assert (fork.wait(), timeless(out), err) == (done.returncode, timeless(done.stdout), done.stderr)
    assert done.returncode == 0
    assert ("to stdout" in done.stdout, "to stderr" in done.stdout) == (True, False)
    assert same(tmp_path / "fork" / "runs", tmp_path / "cold" / "runs")

    for name in ("cold", "fork"):
        told = json.loads((tmp_path / f"{name}.json").read_text().replace(f"{tmp_path / name}", "HERE"))
        seen.append(told)
    first, second = seen
    assert first["leads its session and group"]
    assert first["knows itself"]
    assert first["path"][0] == "HERE"
    # importing setuptools, as one of the server's packages does, appends a folder of its own
    path = [folder for folder in second["path"] if not folder.endswith("setuptools/_vendor")]
    assert path == [str(Path(sys.executable).parent), *first["path"][1:], "HERE"]  # as a script has it
    for told in seen:
        del told["path"]
    assert first == second
