"""The wheel works without the checkout: configuration travels inside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_runs_the_demo_in_a_clean_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lottery-*.whl")

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies are those of this environment: a second PyTorch would be 5 GB. A folder named in a .pth
    # file has its own .pth files ignored, so the editable install of the checkout is not seen.
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(python, "-c", "import lottery; print(lottery.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    command = tmp_path / "env" / "bin" / "lottery"
    assert "demo" in run(command, "list", "experiment")
    output = run(command, "run", "experiment=demo", "schedule.rounds=1", "budget.steps=20")
    assert "65.35%" in output
    assert len(list(tmp_path.glob("runs/demo-digits-*/*/seed*/ledger.jsonl"))) == 10
    assert (next(tmp_path.glob("runs/demo-digits-*/curve.png"))).stat().st_size > 10_000
