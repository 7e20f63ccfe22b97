"""Puts masks and rates into one file: `python -m experiments.warmup.gather runs/warmup`.

A method says at which rate masks were found and at which they were trained: `low_masks,high`. `reinit,high` is the mask
found at the high rate over a new initialisation, trained at the high rate. Dense networks are round 0 of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.gathering import arguments, gathered, written


def main() -> None:
    asked = arguments(__file__)
    written(gathered(asked.runs, method, "warmup"), asked.into / "results.csv")


def method(config: Mapping[str, Any], label: str) -> str | None:
    """Where the masks come from, and the rate of training; tickets at the rate of their masks are `imp` itself.

    >>> low = {"optimizer": {"lr": 0.01}, "budget": {"warmup": 0}, "arm": {"file": "found/warmup/high_0.safetensors"}}
    >>> method(low, "ticket,file=high_seed~7d649750"), method(low, "imp")
    ('high_masks,low', 'low_masks,low')
    """
    trained = "warm" if config["budget"]["warmup"] else "high" if config["optimizer"]["lr"] > 0.05 else "low"
    arm = label.partition(",")[0]
    if arm == "random_reinit":
        return f"reinit,{trained}"
    found = Path(config["arm"]["file"]).stem.partition("_")[0] if arm == "ticket" else trained
    return f"{found}_masks,{trained}" if (arm == "imp") == (found == trained) else None


if __name__ == "__main__":
    main()
