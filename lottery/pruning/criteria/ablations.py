"""Criteria made from another criterion, to find out whether its scores matter."""

from __future__ import annotations

import re

from lottery.pruning.contracts import Criterion, Evidence, Scores


def inverted(evidence: Evidence, of: Criterion) -> Scores:
    """Keeps the lowest scores of another criterion, which ought to do worse than the highest (Frankle et al. 2021).

    Raises what `of` raises.
    """
    try:
        return {name: -values for name, values in of(evidence).items()}
    except ValueError as error:
        if re.match(r"\w+=", str(error)):  # about an argument of `of`, whose key is one level deeper
            raise type(error)(f"of.{error}") from error
        raise
