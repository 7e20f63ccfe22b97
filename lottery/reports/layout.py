"""How numbers and tables are written: a mean with its interval, and rows as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

Rows = Sequence[Sequence[str]]

_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {sign: f"\\{sign}" for sign in "&%$#_{}"}
)


def plus_minus(mean: float, half: float, n: float, digits: int, seeds: float = 0, sign: bool = False) -> str:
    """A mean with half its interval; n where it is one, a few that are equal, or fewer than the seeds that there are.

    >>> plus_minus(0.95, 0.0123, 3, 4), plus_minus(0.95, math.inf, 1, 2), plus_minus(0.95, 0.01, 2, 2, seeds=3)
    ('0.9500 ± 0.0123', '0.95 (n = 1)', '0.95 ± 0.01 (n = 2)')
    >>> plus_minus(0.95, math.inf, 2, 4)
    '0.9500 (n = 2, equal)'
    """
    if np.isnan(mean):
        return "no number"
    text = f"{mean:{'+' if sign else ''},.{digits}f}"
    if not np.isfinite(half):
        return f"{text} (n = {n:.0f}, equal)" if n > 1 else f"{text} (n = 1)"
    return f"{text} ± {half:,.{digits}f}" + (f" (n = {n:.0f})" if n < seeds else "")


def digits_of(means: pd.Series) -> int:
    """Four decimals; where the largest mean is below 0.001, as many as show four digits of it."""
    largest = means.abs().max()
    return 3 - math.floor(math.log10(largest)) if 0 < largest < 1e-3 else 4


def percent(share: float) -> str:
    """A share as per cent, with three digits that count.

    >>> percent(0.02861), percent(0.5), percent(0.00012)
    ('2.86 %', '50 %', '0.012 %')
    """
    return f"{100 * share:.3g} %"


def table(rows: Rows) -> list[str]:
    """Rows as a right-aligned Markdown table; the first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *lines[1:]]


def comma_separated(rows: Rows) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def latex(rows: Rows) -> str:
    """Rows as a LaTeX tabular that needs no package.

    >>> print(latex([["density", "imp"], ["50 %", "0.95 ± 0.01"]]), end="")
    \\begin{tabular}{rr}
    \\hline
    density & imp \\\\
    \\hline
    50 \\% & $0.95 \\pm 0.01$ \\\\
    \\hline
    \\end{tabular}
    """

    def cell(text: str) -> str:
        text = text.translate(_LATEX)
        return re.sub(r"([+-]?[\d.,]+) ± ([\d.,]+)", r"$\1 \\pm \2$", text) if "±" in text else text

    lines = [" & ".join(map(cell, row)) + r" \\" for row in rows]
    body = [r"\hline", lines[0], r"\hline", *lines[1:], r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{'r' * len(rows[0])}}}", *body, r"\end{tabular}"]) + "\n"
