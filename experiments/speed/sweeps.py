"""A sweep of twenty studies and 2,000 cells: seconds and memory of reading its ledgers, and of its report.

The ledgers are made up, since training them would take weeks; all else about them is as `lottery run` leaves it.
`python -m experiments.speed.sweeps FOLDER` writes them, for a profiler. Seconds are those of the processor, imports
included for the report, so that other processes matter less.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from experiments.speed.paired import median
from experiments.speed.rows import Row, at_most
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest_of
from lottery.store.folder import CONFIG, NAME

STUDIES, SEEDS, ROUNDS = 20, 20, 20
ARMS = ("imp", "random_reinit", "random_mask", "same_sign", "constant")
LAYERS, WEIGHTS, STEPS = {"1.weight": 235_200, "3.weight": 30_000, "5.weight": 1_000}, 266_200, 50_000
PARSE = """
import json, pathlib, sys, time
texts = [path.read_bytes() for path in pathlib.Path(sys.argv[1]).glob("*/*/*/ledger.jsonl")]
before = time.process_time()
found = [json.loads(line) for text in texts for line in text.splitlines()]
took = time.process_time() - before"""
READ = """
import sys, time, lottery
lottery.read
before = time.process_time()
lottery.read(sys.argv[1])
took = time.process_time() - before"""
REPORT = """
import contextlib, io, sys, time
from lottery.commands import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main.dispatch(["report", sys.argv[1]]) == 0
took = time.process_time()"""
TOLD = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(took, int(peak.split()[1]) / 1024)"""


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        write(out := Path(name))
        what = f"{STUDIES * len(ARMS) * SEEDS:,} ledgers of {ROUNDS + 1} rounds, {STUDIES} studies"
        reads = [timed(READ, out)[0] for _ in range(5)]
        yield at_most(f"{what}: `lottery.read`, CPU seconds", reads, 2, ".2f")
        parses = [timed(PARSE, out)[0] for _ in range(5)]
        yield Row("`json.loads` alone of the same lines: what this machine makes of it", median(parses, ".2f"))
        reports = [timed(REPORT, out) for _ in range(3)]
        yield at_most("their `lottery report`, all files and the page, CPU seconds", [s for s, _ in reports], 10, ".1f")
        yield at_most("its memory at the peak, MiB", [memory for _, memory in reports], 1024, ".0f")
        yield at_most("the page, MiB", [(out / "report.html").stat().st_size / 2**20], 10, ".1f")


def timed(code: str, out: Path) -> tuple[float, float]:
    """CPU seconds, and MiB at the peak, of some code in a process of its own, whose argument is the folder."""
    done = subprocess.run([sys.executable, "-c", code + TOLD, str(out)], check=True, capture_output=True, text=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def write(out: Path, studies: int = STUDIES, seeds: int = SEEDS, rounds: int = ROUNDS) -> None:
    """Writes ledgers and configurations of a sweep over learning rates into a folder."""
    rng = np.random.default_rng(0)
    for number in range(studies):
        for arm in ARMS:
            asked = ["experiment=fc2019_lenet", "data=fashion_mnist", "hydra.mode=RUN", f"arm={arm}", f"out={out}"]
            (job,) = cell_configs([*asked, f"optimizer.lr={1e-4 * (number + 1):g}", f"schedule.rounds={rounds}"])
            text = f"# lottery run {shlex.join(job.command)}\n"
            text += yaml.safe_dump({**job.config, "store": str(out / "store")})
            for seed in range(seeds):
                folder = job.folder.with_name(f"seed{seed}")
                folder.mkdir(parents=True)
                (folder / CONFIG).write_text(text)
                lines = [line(rng, job.study, job.label, seed, index, rounds) for index in range(rounds + 1)]
                (folder / NAME).write_text("".join(json.dumps(each) + "\n" for each in lines))


def line(rng: np.random.Generator, study: str, arm: str, seed: int, index: int, rounds: int) -> dict[str, Any]:
    """A ledger line of a round, as sparse as the recipe makes it and as accurate as the arm might be."""
    kept = {name: round(0.8**index * size) / size for name, size in LAYERS.items()}
    density = sum(kept[name] * size for name, size in LAYERS.items()) / WEIGHTS
    right = 0.9 - 0.002 * ARMS.index(arm) * index + rng.normal(0, 0.002)
    accuracy, early = (round(10_000 * value) / 10_000 for value in (right, right - 0.001))
    validated, seconds = round(5_000 * (right + 0.002)) / 5_000, round(float(rng.uniform(60, 90)), 3)
    flops, dense = STEPS * 6 * 60 * WEIGHTS * density, STEPS * 6.0 * 60 * WEIGHTS
    return {
        "study": study, "arm": arm, "seed": seed, "round": index, "rounds": rounds, "density": density,
        "train_steps": STEPS, "train_flops": flops, "train_flops_dense": dense,
        "total_flops": dense + index * flops, "total_flops_dense": (index + 1) * dense,
        "test_accuracy": accuracy, "test_loss": float(rng.uniform(0.3, 0.4)), "test_top5": 0.997,
        "val_accuracy": validated, "val_loss": float(rng.uniform(0.3, 0.4)), "val_top5": 0.998,
        "early_stop_step": 100 * int(rng.integers(50, 400)), "early_stop_test_accuracy": early,
        "compression_ratio": 266_610 / (410 + WEIGHTS * density), "layer_densities": kept,
        "phase": digest_of([study, arm, seed, index]), "data": "b2c4f0a1d3e59687", "setting": digest_of(arm)[:16],
        "run": {
            "seconds": seconds, "reused": False, "host": f"node{seed % 8}", "started": "2026-11-29T09:23:02+00:00",
            "finished": "2026-11-29T09:24:17+00:00", "drew": [],
        },
    }  # fmt: skip


if __name__ == "__main__":
    write(Path(sys.argv[1]))
