"""Durations as configurations write them: `500it` and a bare 500 are optimizer steps, `2ep` are epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

DURATION = "a duration"

Steps = Annotated[int, DURATION]
"""Optimizer steps. A yaml may write an argument with this annotation as a duration."""

NAMED = ("rewind", "first", "every")
"""Settings of arms and analyses in which a bare number is a duration too."""


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


def uniform(value: Any, key: str = "") -> Any:
    """Plain data with every duration in one spelling, so that equal settings compare equal.

    >>> uniform({"rewind": 500, "early": {"every": "1ep"}, "length": {"steps": "10it"}})
    {'rewind': '500it', 'early': {'every': '1ep'}, 'length': {'steps': 10}}
    """
    if isinstance(value, Mapping):
        return {name: uniform(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [uniform(item, key) for item in value]
    if key not in NAMED:
        return bare(value)
    try:
        text = canonical(value)
    except ValueError:  # building the arm raises the error, with the key
        return value
    return 0 if text == "0it" else text  # the spelling of shipped yamls, of which ledgers hold digests


def bare(value: Any) -> Any:
    """Plain data with every duration in steps as a bare number.

    >>> bare({"rewind": "500it", "every": "1ep"})
    {'rewind': 500, 'every': '1ep'}
    """
    if isinstance(value, Mapping):
        return {name: bare(item) for name, item in value.items()}
    if isinstance(value, list):
        return [bare(item) for item in value]
    return int(value[:-2]) if isinstance(value, str) and re.fullmatch(r"[0-9][0-9_]*it", value) else value
