"""Runs commands as forks of a server process with all imports done, which saves eight seconds each.

Each is a process of its own, in a session and a process group of its own, that does what `lottery ...` does from its
first line to its exit handlers, and is signalled and killed for real. `tests/test_server.py` compares it with one that
was started cold. This file is both the client and, run as a script, the server.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST = 1 << 17
"""bytes of a request: an environment and a command line"""


class Process:
    """A running command, with the part of `subprocess.Popen` that tests use; it is not a child of this process."""

    def __init__(self, told: socket.socket, arguments: tuple[str, ...], *pipes: int) -> None:
        self.args, self.returncode = arguments, None
        self._told, self._readers = told, [Reader(pipe) for pipe in pipes]
        self.pid = int(told.recv(20))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = int(self._told.recv(20))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._told.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Output of it and its children, once all have ended; stderr is empty if both are merged."""
        for reader in self._readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        out, err, *_ = (*(reader.text for reader in self._readers), "")
        return out, err

    def kill(self) -> None:
        """Kills its whole process group, if that still exists."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Reader(threading.Thread):
    """Reads a pipe to its end, so that its writer never blocks."""

    def __init__(self, pipe: int) -> None:
        super().__init__(daemon=True)
        self.text, self._stream = "", open(pipe)  # noqa: SIM115  # `run` closes it
        self.start()

    def run(self) -> None:
        with self._stream:
            self.text = self._stream.read()


class Server:
    """Starts commands as forks of the server process."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._started: dict[int, Process] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest
            )

    def begin(self, folder: Path, *arguments: str, merged: bool = False, dies: int = 0, **env: str) -> Process:
        """Starts `lottery` with these arguments in a folder; `merged` puts stderr into stdout.

        With `dies` it kills itself while it writes the checkpoint of that number, counted from 1.
        """
        pipes = [os.pipe() for _ in range(1 if merged else 2)]
        ends = [end for _, end in pipes]
        told = self._ask(folder, arguments, dies, env, ends[0], ends[-1])
        for end in ends:
            os.close(end)
        return Process(told, arguments, *(begin for begin, _ in pipes))

    def start(self, folder: Path, *arguments: str, dies: int = 0, **env: str) -> int:
        """Like `begin`, with output in `said.txt`; returns its pid, which is also that of its group."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "said.txt", "ab") as said:
            process = Process(self._ask(folder, arguments, dies, env, said.fileno(), said.fileno()), arguments)
        self._started[process.pid] = process
        return process.pid

    def wait(self, pid: int) -> int:
        """Its exit code, negative for a signal."""
        return self._started[pid].wait()

    def run(self, folder: Path, *arguments: str, dies: int = 0) -> tuple[int, str]:
        """Exit code and output of a whole command."""
        (folder / "said.txt").unlink(missing_ok=True)
        return self.wait(self.start(folder, *arguments, dies=dies)), (folder / "said.txt").read_text()

    def close(self) -> None:
        self._requests.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, folder: Path, arguments: tuple[str, ...], dies: int, env: dict[str, str], *to: int) -> socket.socket:
        assert not [name for name in env if name.startswith(("PYTHON", "OMP_"))], "is read when Python starts"
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"folder": str(folder), "arguments": arguments, "dies": dies, "env": environment(**env)}
        with theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [*to, theirs.fileno()])
        return told


def environment(**more: str) -> dict[str, str]:
    """This environment without variables that would change a command's behaviour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_", "LOTTERY_"))}
    return {**kept, **more}


# the server


def warm() -> dict[str, str]:
    """Imports everything that a command may import, except its entry point; returns the environment afterwards.

    It must not compute anything, because threads of PyTorch do not survive a fork.
    """
    before = set(os.environ)
    import pkgutil
    from importlib import import_module

    from hydra.core.plugins import Plugins

    import lottery
    from lottery.config import user_code

    for module in pkgutil.walk_packages(lottery.__path__, "lottery."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in LATE:
        import_module(name)
    Plugins.instance()  # Hydra imports its plugins, launchers among them
    user_code.user_code({"_target_": "numpy.any"})  # reads the list of installed packages
    assert threading.active_count() == 1
    return {name: value for name, value in os.environ.items() if name not in before}


LATE = ("wandb", "sklearn.datasets", "matplotlib.pyplot", "matplotlib.backends.backend_agg")
"""modules that commands import lazily"""


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request and returns the request in the fork; None in the server once the client is gone."""
    while True:
        message, handles, *_ = socket.recv_fds(requests, LONGEST, 3)
        if not message:
            return None
        if not os.fork():
            requests.close()
            out, err, told = handles
            if not (pid := os.fork()):
                os.close(told)
                return {**json.loads(message), "out": out, "err": err}
            os.close(out)
            os.close(err)
            os.write(told, str(pid).encode())
            os.write(told, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
            os._exit(0)
        for handle in handles:
            os.close(handle)
        with suppress(ChildProcessError):  # none is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def become(folder: str, arguments: list[str], env: dict[str, str], out: int, err: int, dies: int) -> None:
    """Turns this fork into a freshly started command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for handle, number in ((out, 1), (err, 2)):
        os.dup2(handle, number)
    for handle in {out, err}:
        os.close(handle)
    sys.path[0] = str(Path(sys.executable).parent)  # where the command's script lies
    sys.argv = ["lottery", *arguments]
    if dies:
        _dies(dies)


def _dies(left: int) -> None:
    from lottery.foundations import files

    write = files.write_whole

    def dying(path: Path, content: bytes) -> None:
        nonlocal left
        if path.name == "checkpoint.safetensors":
            left -= 1
            if not left:
                path.with_name(f".{path.name}.{os.getpid()}").write_bytes(content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    files.write_whole = dying


if __name__ == "__main__":
    left = warm()
    if request := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(**request)
        os.environ.update(left)
        runpy.run_module("lottery", run_name="__main__", alter_sys=True)
