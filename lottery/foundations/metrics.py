"""The headline metric that a module is judged by: its direction, its scale and its margin.

It imports no PyTorch, so that reports start fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LOSS = "loss"
MARGIN = 0.005  # half a point: the default margin of "matches dense" for a share
BETTER, SCALE = "headline_better", "headline_scale"
"""Columns of a ledger line for direction and scale, if they are not what `Headline.named` assumes."""

_BETTER = {"higher": True, "lower": False}
_SCALE = {"share": True, "other": False}


@dataclass(frozen=True)
class Headline:
    """The metric that a module is judged by.

    >>> Headline.named("accuracy").gain(0.01), Headline.named("loss").gain(0.01)
    (0.01, -0.01)
    """

    name: str
    higher_is_better: bool
    share: bool
    """Whether it lies in [0, 1], as accuracy does: then 0.01 is one point, and half a point is the margin."""

    @classmethod
    def named(cls, name: str) -> Headline:
        """What a name alone implies: every metric except the loss is a share, and higher is better."""
        return cls(name, higher_is_better=name != LOSS, share=name != LOSS)

    @property
    def margin(self) -> float | None:
        """The default margin of "matches dense"; None on a scale where half a point has no meaning."""
        return MARGIN if self.share else None

    def gain(self, difference: float) -> float:
        """A difference or a value, signed so that higher is better."""
        return difference if self.higher_is_better else -difference

    def columns(self) -> dict[str, str]:
        """What a ledger line records besides the name: nothing for accuracy, so that older lines stay equal."""
        usual = Headline.named(self.name)
        better = {BETTER: "higher" if self.higher_is_better else "lower"}
        scale = {SCALE: "share" if self.share else "other"}
        return (better if self.higher_is_better != usual.higher_is_better else {}) | (
            scale if self.share != usual.share else {}
        )


def headline(frame: pd.DataFrame) -> Headline:
    """The headline of a study's results. It counts as no share if a test value lies outside [0, 1]."""
    name = next(c.removeprefix("early_stop_test_") for c in map(str, frame) if c.startswith("early_stop_test_"))
    usual = Headline.named(name)
    better = _BETTER.get(_said(frame, BETTER), usual.higher_is_better)
    share = _SCALE.get(_said(frame, SCALE), usual.share)
    values = frame[f"test_{name}"].to_numpy(dtype=float)
    return Headline(name, better, share and not bool(((values < 0) | (values > 1)).any()))


def _said(frame: pd.DataFrame, column: str) -> str:
    """The value of a column that is constant over a study; empty for lines older than the column."""
    values = frame[column].dropna() if column in frame else ()
    return str(next(iter(values), ""))
