"""The order in which arms are shown, in reports and on terminals."""

from __future__ import annotations

import re


def shown_first(arm: str) -> tuple[bool, str]:
    """The sort key of an arm: those that find tickets come first, and numbers in names sort by value.

    >>> sorted(["finetune", "imp,rewind=10it", "imp", "imp,rewind=2it"], key=shown_first)
    ['imp', 'imp,rewind=2it', 'imp,rewind=10it', 'finetune']
    """
    return not arm.startswith("imp"), re.sub(r"\d+", lambda number: number[0].zfill(9), arm)
