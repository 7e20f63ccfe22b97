"""Claims of a paper, read from the lines of an `expected.csv`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lottery.foundations.errors import Refused

EXPECTED = "expected.csv"
COLUMNS = ["id", "claim", "results", "quantity", "value", "bound", "where", "not_run"]

Bound = float | Literal[">=", "<="]
Operator = Literal["", "-", "/"]

_SIDES: dict[str, Bound] = {">=": ">=", "<=": "<="}
_OPERATORS: dict[str | None, Operator] = {None: "", "-": "-", "/": "/"}
_POINT = r"(\S+)@([^\s@]+)"
_QUANTITY = re.compile(rf"([^\s:]+): {_POINT}(?: ([-/]) {_POINT})?")


@dataclass(frozen=True)
class Point:
    """An arm at a density in [0, 1]; 1 is round 0, before anything is pruned."""

    arm: str
    density: float

    def __str__(self) -> str:
        return f"{self.arm}@{self.density:g}"


@dataclass(frozen=True)
class Claim:
    """One line of `expected.csv`: a column of the results at one point, or two points' difference or ratio."""

    id: str
    claim: str
    results: str
    """The stem of a results file."""
    column: str
    points: tuple[Point, ...]
    operator: Operator
    value: float
    bound: Bound
    """A side of the value, or a number: the tolerance around it."""
    where: str
    not_run: str

    @property
    def quantity(self) -> str:
        """The column at its points."""
        return f"{self.column}: " + f" {self.operator} ".join(map(str, self.points))

    @property
    def claimed(self) -> str:
        """The value with its bound, as tables show it."""
        return f"{self.value:g} ± {self.bound:g}" if isinstance(self.bound, float) else f"{self.bound} {self.value:g}"


def read_claims(path: Path) -> list[Claim]:
    """The claims of an `expected.csv`.

    Raises Refused, naming file, line and field, for one that can't be read.
    """
    claims: dict[str, Claim] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != COLUMNS:
                raise Refused(f"{path}, line 1: the columns are to be {','.join(COLUMNS)}")
            for line in reader:
                at = f"{path}, line {reader.line_num}"
                if None in line or None in line.values():
                    raise Refused(f"{at} has not the {len(COLUMNS)} fields of line 1")
                claim = _claim(at, {column: text.strip() for column, text in line.items()})
                if claim.id in claims:
                    raise Refused(f"{at}, id: {claim.id} stands there twice")
                claims[claim.id] = claim
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refused(f"{path} is no CSV file in UTF-8: {error}") from error
    if not claims:
        raise Refused(f"{path}, line 2: there is no claim")
    return list(claims.values())


def _claim(at: str, line: Mapping[str, str]) -> Claim:
    for column in COLUMNS[:-1]:
        if not line[column]:
            raise Refused(f"{at}, {column}: it is empty")
    if Path(line["results"]).name != line["results"] or line["results"].endswith((".csv", ".")):
        raise Refused(f"{at}, results: {line['results']} is not the bare name of a results file, like fashion_mnist")
    found = _QUANTITY.fullmatch(line["quantity"])
    if not found:
        raise Refused(f"{at}, quantity: {line['quantity']} is not like `test_accuracy: imp@0.2 - imp@1`")
    column, *sides = found.groups()
    points = [Point(arm, _number(f"{at}, quantity", text)) for arm, text in (sides[:2], sides[3:]) if arm]
    for point in points:
        if not 0 <= point.density <= 1:
            raise Refused(f"{at}, quantity: the density of {point} is not within 0 and 1")
    bound = _SIDES.get(line["bound"])
    if bound is None:
        bound = _number(f"{at}, bound", line["bound"], ", nor >= or <=")
    if isinstance(bound, float) and bound < 0:
        raise Refused(f"{at}, bound: a tolerance is not negative, as {bound:g} is")
    return Claim(
        line["id"], line["claim"], line["results"], column, tuple(points), _OPERATORS[sides[2]],
        _number(f"{at}, value", line["value"]), bound, line["where"], line["not_run"],
    )  # fmt: skip


def _number(at: str, text: str, nor: str = "") -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Refused(f"{at}: {text} is no finite number{nor}")
    return number
