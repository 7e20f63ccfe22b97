"""Small versions of the studies, on 8x8 digits that need no download: `make reproduce-quick`.

They show that every study runs from command to verdicts; verdicts of reduced studies may differ from those of the full
ones. Trained phases stay in the store, so that a second run takes seconds.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lottery.config.compose import cell_configs
from lottery.reports.verdicts import table, verdicts

OUT = Path("runs/quick")
DIGITS = ("data=digits", "seed=0,1,2", "tracking.mode=disabled")
PICTURES = ("~data.pad", "data.shape=[1,8,8]", "data.batch_size=32", "numerics.channels_last=false")
LENET = ("~data.pad", "data.shape=[1,8,8]")

STUDIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("frankle_carbin_2019", "digits"): (
        "experiment=fc2019_lenet", "budget.steps=1000", "budget.evaluate=25it", "schedule.rounds=15",
        "arm=imp,random_reinit,random_mask,one_shot",
    ),
    ("liu_2019", "lenet_high"): ("experiment=liu2019_lenet", *LENET, "budget.steps=600", "optimizer.lr=0.1"),
    ("liu_2019", "lenet_low"): ("experiment=liu2019_lenet", *LENET, "budget.steps=600", "optimizer.lr=0.01"),
    ("liu_2019", "resnet8_high"): ("experiment=liu2019_resnet8", *PICTURES, "budget.steps=300", "optimizer.lr=0.1"),
    ("liu_2019", "resnet8_low"): ("experiment=liu2019_resnet8", *PICTURES, "budget.steps=300", "optimizer.lr=0.01"),
    ("renda_2020", "resnet8"): ("experiment=renda2020_resnet8", *PICTURES, "budget.steps=600"),
    ("linear_connectivity", "lenet"): ("experiment=frankle2020_lmc_lenet", "budget.steps=1000"),
    ("linear_connectivity", "resnet8"): ("experiment=frankle2020_lmc_resnet8", *PICTURES, "budget.steps=800"),
}  # fmt: skip
"""Overrides of `lottery run`, by (folder beside this file, name of the results)."""


def main() -> None:
    for (folder, name), overrides in STUDIES.items():
        print(f"\n{folder}, {name}: lottery run {' '.join([*overrides, *DIGITS])}", flush=True)
        out = OUT / folder / name
        line = [sys.executable, "-m", "lottery", "run", *overrides, *DIGITS, f"out={out}", f"store={OUT / 'store'}"]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout}\n{folder}, {name}: it failed; the same command goes on")
        print("done", flush=True)
    text = "\n".join(pages())
    (OUT / "verdicts.md").write_text(text)
    print(f"\n{text}\ntable   {OUT / 'verdicts.md'}")


def pages() -> Iterator[str]:
    """One Markdown section with verdicts per folder."""
    for folder in dict.fromkeys(folder for folder, _ in STUDIES):
        runs = {name: studies(of, name) for of, name in STUDIES if of == folder}
        frame: pd.DataFrame = verdicts(Path(__file__).parent / folder, runs)
        yield f"## {folder}, reduced: on digits\n\n{table(frame)}"


def studies(folder: str, name: str) -> list[Path]:
    """The result folders of a study's current configuration; those of an older recipe may lie beside them."""
    line = [*STUDIES[folder, name], *DIGITS, f"out={OUT / folder / name}"]
    return sorted({job.folder.parent.parent for job in cell_configs(line)})


if __name__ == "__main__":
    main()
