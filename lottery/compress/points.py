"""Operating points of a network side by side: what each costs, and how much of the theoretical saving arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lottery.compress.latency import Latency, realised
from lottery.compress.sizes import Sizes

UNKNOWN = "not measured"
COUNTED = ("parameters", "nonzeros", "multiply_adds", "kept_multiply_adds")
BYTES = ("bytes", "masked_bytes", "gzip_bytes", "int8_bytes", "peak_bytes")
TIMED = ("ms", "ms_low", "ms_high", "realised", "realised_low", "realised_high", "share")
"""What is known of each batch size, whose number follows in the column's name."""


def rows(
    points: Mapping[str, Sizes],
    dense: str,
    timed: Iterable[Latency] = (),
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """One row for each operating point, all with the same columns; None is what was not measured.

    Ratios are to the point called `dense`. Latencies belong to the point of their network's name; one that has no
    sizes of its own, such as a copy with CSR weights, has a row of time alone. `scores` are further numbers by point,
    such as accuracies. For each batch size, `share_<n>` is the realised over the theoretical speedup.
    Raises ValueError if `dense` or a scored point is unknown.
    """
    if dense not in points:
        raise ValueError(f"dense={dense}: must be one of {', '.join(points) or 'the points, of which there are none'}")
    times = {(latency.network, latency.batch): latency for latency in timed}
    names = list(dict.fromkeys([*points, *(network for network, _ in times)]))
    scores = scores or {}
    if unknown := [name for name in scores if name not in names]:
        raise ValueError(f"scores of {unknown[0]}: must be of one of {', '.join(names)}")
    columns = list(dict.fromkeys(column for found in scores.values() for column in found))
    table = []
    for name in names:
        own, whole = points.get(name), points[dense]
        row = {"point": name, **{column: scores.get(name, {}).get(column) for column in columns}, **_sizes(own, whole)}
        for batch in sorted({batch for _, batch in times}):
            theory = own.speedup(whole) if own else None
            row |= _time(batch, times.get((name, batch)), times.get((dense, batch)), theory)
        table.append(row)
    return table


def cells(table: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The rows as text under a header, as Markdown tables are made of.

    >>> cells([{"point": "dense", "nonzeros": 266610, "speedup": 1.0, "ms_1": None}])
    [['point', 'nonzeros', 'speedup', 'ms_1'], ['dense', '266,610', '1', 'not measured']]
    """
    listed = list(table)
    return [list(listed[0]), *([_text(value) for value in row.values()] for row in listed)] if listed else []


def _sizes(own: Sizes | None, dense: Sizes) -> dict[str, Any]:
    found = {name: getattr(own, name, None) for name in (*COUNTED, *BYTES)}
    return {
        **{name: found[name] for name in COUNTED},
        "compression": own.compression(dense) if own else None,
        "speedup": own.speedup(dense) if own else None,
        **{name: found[name] for name in BYTES},
    }


def _time(batch: int, own: Latency | None, dense: Latency | None, theory: float | None) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(TIMED)
    if own:
        found = own.interval
        values |= {"ms": found.middle * 1e3, "ms_low": found.low * 1e3, "ms_high": found.high * 1e3}
    if own and dense:
        faster = realised(dense, own)
        values |= {"realised": faster.middle, "realised_low": faster.low, "realised_high": faster.high}
        values["share"] = faster.middle / theory if theory else None
    return {f"{name}_{batch}": value for name, value in values.items()}


def _text(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
