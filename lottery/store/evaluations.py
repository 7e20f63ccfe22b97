"""What the store tells of a phase besides its tensors: evaluations by step, and how it was trained. No PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

META = "phase.json"


def evaluations(roots: Iterable[Path], key: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The evaluations of a finished phase, by step, and its specification, from the first store that has it.

    Both are empty if none has it, or if it can't be read: whoever needs the phase itself will be told why.
    """
    for root in roots:
        try:
            phase = json.loads((root / key / META).read_text())["phase"]
            return list(phase["rows"]), dict(phase["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [], {}
