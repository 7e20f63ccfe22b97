"""Metrics: which one a module is judged by, which way it gets better, and where points and a margin mean something.

Needs no PyTorch, so that reports do without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LOSS = "loss"
MARGIN = 0.005  # half a point: what "matches dense" allows of a share, unless stated
BETTER, SCALE = "headline_better", "headline_scale"
"""columns of a ledger line that say what `Headline.named` does not take for granted"""

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
    """whether it lies within 0 and 1, as accuracy does: then 0.01 is one point, and half a point a margin"""

    @classmethod
    def named(cls, name: str) -> Headline:
        """What is assumed of a name alone: every metric but the loss is a share, and more of it is better."""
        return cls(name, higher_is_better=name != LOSS, share=name != LOSS)

    @property
    def margin(self) -> float | None:
        """What "matches dense" allows unless stated; None on a scale where half a point means nothing."""
        return MARGIN if self.share else None

    def gain(self, difference: float) -> float:
        """A difference or a value, signed so that more is better."""
        return difference if self.higher_is_better else -difference

    def columns(self) -> dict[str, str]:
        """What a ledger line says of it besides its name: nothing for accuracy, so that older lines need no change."""
        usual = Headline.named(self.name)
        better = {BETTER: "higher" if self.higher_is_better else "lower"}
        scale = {SCALE: "share" if self.share else "other"}
        return (better if self.higher_is_better != usual.higher_is_better else {}) | (
            scale if self.share != usual.share else {}
        )


def headline(frame: pd.DataFrame) -> Headline:
    """The metric that a study's module is judged by; it is no share if its test values leave [0, 1]."""
    name = next(c.removeprefix("early_stop_test_") for c in map(str, frame) if c.startswith("early_stop_test_"))
    usual = Headline.named(name)
    better = _BETTER.get(_said(frame, BETTER), usual.higher_is_better)
    share = _SCALE.get(_said(frame, SCALE), usual.share)
    return Headline(name, better, share and bool(frame[f"test_{name}"].dropna().between(0, 1).all()))


def _said(frame: pd.DataFrame, column: str) -> str:
    """What the lines say in a column; those that were written before there was one say nothing."""
    values = frame[column].dropna() if column in frame else ()
    return str(next(iter(values), ""))
