"""Durations: `500it` and a bare 500 are optimizer steps, `2ep` are epochs."""

from __future__ import annotations

import re
from typing import Annotated

DURATION = "a duration"

Steps = Annotated[int, DURATION]
"""Optimizer steps: an argument that is annotated so may be written as a duration wherever a yaml names its function."""


def canonical(duration: int | str) -> str:
    """A duration as it is written in names.

    >>> canonical(500), canonical("500it"), canonical("2ep")
    ('500it', '500it', '2ep')

    Raises ValueError for anything else.
    """
    found = re.fullmatch(r"([0-9]+)(it|ep)?", str(duration).strip().replace("_", ""))
    if not found:
        raise ValueError(f"{duration!r} is no duration: write steps as 500 or 500it, epochs as 2ep")
    return found[1].lstrip("0").zfill(1) + (found[2] or "it")


def in_steps(duration: int | str, steps_per_epoch: int) -> int:
    """A duration in optimizer steps, 0 or more.

    >>> in_steps("2ep", steps_per_epoch=916), in_steps("500it", 916)
    (1832, 500)
    """
    text = canonical(duration)
    return int(text[:-2]) * (steps_per_epoch if text.endswith("ep") else 1)
