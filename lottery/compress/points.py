"""Operating points of a network side by side: what each costs, and how much of the theoretical saving arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lottery.compress.latency import Interval, Latency, realised
from lottery.compress.sizes import Sizes

UNKNOWN = "not measured"
COUNTED = ("parameters", "nonzeros", "multiply_adds", "kept_multiply_adds")
BYTES = ("bytes", "masked_bytes", "gzip_bytes", "int8_bytes", "peak_bytes")
TIMED = ("ms", "ms_low", "ms_high", "realised", "realised_low", "realised_high", "share")
"""What is known of each batch size, whose number follows in the column's name."""

MJ = ("mj", "mj_low", "mj_high")
"""Columns of energy, in millijoules an example."""


def rows(
    points: Mapping[str, Sizes],
    dense: str,
    timed: Iterable[Latency] = (),
    scores: Mapping[str, Mapping[str, float]] | None = None,
    energy: Mapping[str, Interval | None] | None = None,
) -> list[dict[str, Any]]:
    """One row for each operating point, all with the same columns; None is what was not measured.

    Ratios are to the point called `dense`. Latencies belong to the point of their network's name; one that has no
    sizes of its own, such as a copy with CSR weights, has a row of time alone. `scores` are further numbers by point,
    such as accuracies. For each batch size, `share_<n>` is the realised over the theoretical speedup. `energy` is in
    joules an example, by point.
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
        if energy is not None:
            joules = energy.get(name)
            values = (joules.middle, joules.low, joules.high) if joules else (None,) * 3
            row |= {column: None if value is None else 1e3 * value for column, value in zip(MJ, values, strict=True)}
        table.append(row)
    return table


SAID = {
    "nonzeros": "nonzero weights",
    "multiply_adds": "multiply-adds",
    "kept_multiply_adds": "multiply-adds of nonzeros",
    "compression": "compression ratio",
    "speedup": "theoretical speedup",
    "masked_bytes": "bytes, masked",
    "gzip_bytes": "bytes, gzip",
    "int8_bytes": "bytes, int8",
    "peak_bytes": "peak memory, bytes",
}
"""columns in the words of the field; others are said as they are"""


def shown(table: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The rows as text, a point a column, with intervals beside their medians.

    >>> table = [{"point": "small", "nonzeros": 1234, "ms_1": 0.25, "ms_low_1": 0.2, "ms_high_1": 0.3, "share_1": 0.5}]
    >>> shown(table)[1:]
    [['nonzero weights', '1,234'], ['ms, batch 1', '0.25 [0.2, 0.3]'], ['share of theory, batch 1', '50 %']]
    >>> shown([{"point": "small", "ms_1": None, "ms_low_1": None, "ms_high_1": None}])
    [['', 'small'], ['ms, batch 1', 'not measured']]
    """
    listed = list(table)
    lines = [["", *(str(row["point"]) for row in listed)]]
    for column in [column for column in listed[0] if column != "point"]:
        what, _, batch = column.rpartition("_")
        if column == MJ[0]:
            lines.append(["mJ an example", *(_triple([row[name] for name in MJ]) for row in listed)])
        if column in MJ:
            continue
        if what in ("ms", "realised"):
            said = f"{'ms' if what == 'ms' else 'measured speedup'}, batch {batch}"
            lines.append([said, *(_interval(row, what, batch) for row in listed)])
        elif what == "share":
            shares = (UNKNOWN if row[column] is None else f"{row[column]:.0%}".replace("%", " %") for row in listed)
            lines.append([f"share of theory, batch {batch}", *shares])
        elif what not in TIMED:
            lines.append([SAID.get(column, column.replace("_", " ")), *(_text(row[column]) for row in listed)])
    return lines


def _interval(row: Mapping[str, Any], what: str, batch: str) -> str:
    return _triple([row[f"{name}_{batch}"] for name in (what, f"{what}_low", f"{what}_high")])


def _triple(found: Sequence[float | None]) -> str:
    known = [value for value in found if value is not None]
    return "{:.3g} [{:.3g}, {:.3g}]".format(*known) if len(known) == len(found) else UNKNOWN


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
