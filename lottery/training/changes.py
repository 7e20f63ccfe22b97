"""Changes: masks that change while a phase trains, by gradual pruning or by dropping and growing weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

from torch import Tensor

from lottery.foundations.durations import Steps
from lottery.pruning.contracts import Criterion, Evidence, Scope, Target, checked, choose, score
from lottery.pruning.criteria import magnitude
from lottery.pruning.growth import Fraction, Ground, Growth, at_random, constant, regrow
from lottery.pruning.masks import Masks, density, kept
from lottery.pruning.scopes import rates
from lottery.pruning.score_checks import called, checked_scores

LAST = 0.75
"""Share of a training after which masks no longer change, where no step is given (Evci et al. 2020)."""
ROUNDING = 1e-9
"""By how much a curve may miss its bounds."""


@dataclass(frozen=True)
class Moment:
    """The input of a rule; fields may be added without breaking existing ones."""

    step: int
    of: int
    """steps of the whole training"""
    density: float
    """the density that the round is to have"""
    masks: Masks
    """the masks before it, on the CPU as scopes have them; those of `evidence` are on the network's device"""
    evidence: Evidence
    gradients: Mapping[str, Tensor]
    """of every prunable weight in this training step, pruned ones included; empty if the rule does not ask for them"""
    output: str | None = None
    """name of the output layer's weight"""
    before: int | None = None
    """the step of the change before it; None: it is the first of its training"""


class Rule(Protocol):
    """How masks change while a phase trains."""

    begins_dense: ClassVar[bool]
    """whether training begins with all weights; if not, with those of the round's masks"""

    @property
    def in_place_of_a_step(self) -> bool:
        """Whether a change takes the gradients of a training step and the place of its update."""

    def steps(self, of: int) -> list[int]:
        """The steps of a training at whose beginning masks change, ascending."""

    def masks(self, moment: Moment) -> Masks:
        """The masks from this step on."""


@dataclass(frozen=True)
class Changes:
    """A rule and what it aims at in one phase."""

    rule: Rule
    density: float
    identity: Mapping[str, Any]
    """the rule's settings and user code as plain data"""


Curve = Callable[[float], float]
"""Share of a gradual pruning that has passed, in [0, 1] -> share of the weights to prune that is pruned, in [0, 1]"""


def cubic(passed: float) -> float:
    """1 - (1 - passed)^3: fast at first, while the network is redundant (Zhu & Gupta 2017).

    >>> cubic(0.5)
    0.875
    """
    return 1 - (1 - passed) ** 3


def straight(passed: float) -> float:
    """The same number of weights at each change."""
    return passed


def at_the_end(passed: float) -> float:
    """All weights at the last change."""
    return float(passed >= 1)


@dataclass(frozen=True)
class Gradual:
    """Prunes while training, from the dense network to the round's density (Zhu & Gupta 2017)."""

    begins_dense: ClassVar[bool] = True
    in_place_of_a_step: ClassVar[bool] = False

    every: Steps
    """steps between two changes; the paper's 100 to 1,000"""
    begin: Steps = 0
    """the step of the first change, to `initial`"""
    end: Steps | None = None
    """the step of the last change, to the round's density; null: three quarters of the training"""
    initial: float = 1.0
    """density at `begin`"""
    curve: Curve = cubic
    criterion: Criterion | None = None
    """null: the study's"""
    scope: Scope | None = None
    """null: the study's, with its structure"""

    def __post_init__(self) -> None:
        _check_dates(self.every, self.begin, self.end)
        if not 0 < self.initial <= 1:
            raise ValueError(f"initial={self.initial:g}: must lie in (0, 1]")

    def steps(self, of: int) -> list[int]:
        """Every `every` steps from `begin`, and `end`. Raises ValueError if that is not before the training's last."""
        return _dates(self.every, self.begin, self.end, of)

    def density(self, step: int, of: int, final: float) -> float:
        """The density from a step on, in a training of `of` steps that ends with the density `final`.

        Raises ValueError for a curve that leaves [0, 1] or does not end at 1.
        """
        last = _last(self.end, of)
        passed = min(1.0, (step - self.begin) / (last - self.begin)) if last > self.begin else 1.0
        pruned = self.curve(passed)
        if not -ROUNDING <= pruned <= 1 + ROUNDING:
            raise ValueError(f"curve={pruned:g} at step {step}: must lie in [0, 1]")
        if passed == 1 and pruned < 1 - ROUNDING:
            raise ValueError(f"curve={pruned:g} at step {step}: must be 1 there, at the last change")
        return final + (self.initial - final) * (1 - pruned)

    def masks(self, moment: Moment) -> Masks:
        """The scope's; `keep` is by what was planned, as between rounds, whatever the layers came to have."""
        living, evidence = moment.masks, moment.evidence
        wanted = self.density(moment.step, moment.of, moment.density)
        before = 1.0 if moment.before is None else self.density(moment.before, moment.of, moment.density)
        target = Target(min(density(living), wanted), min(1.0, wanted / before), moment.output)
        assert self.criterion
        assert self.scope
        return choose(self.scope, score(self.criterion, evidence), living, target)


@dataclass(frozen=True)
class Rewiring:
    """Drops weights and grows as many of each layer: dynamic sparse training (SET, RigL).

    Layers that are frozen at a change keep their masks: what grew there would be zero for ever.
    """

    begins_dense: ClassVar[bool] = False

    every: Steps
    """steps between two changes; an epoch in SET, 100 in RigL"""
    begin: Steps | None = None
    """the step of the first change; null: `every`"""
    end: Steps | None = None
    """no change from this step on; null: three quarters of the training"""
    fraction: Fraction = constant
    growth: Growth = at_random
    criterion: Criterion = magnitude
    """scores the weights of which the lowest are dropped"""
    scope: Scope = field(default=partial(rates, output=1.0))
    in_place_of_a_step: bool = False
    """whether growth sees the gradients of a step, whose place the change then takes (RigL)"""

    def __post_init__(self) -> None:
        _check_dates(self.every, self.every if self.begin is None else self.begin, self.end)

    def steps(self, of: int) -> list[int]:
        """Every `every` steps from `begin`, before `end`. Raises ValueError if that is after the training's last."""
        last = _last(self.end, of)
        if self.begin is None and last < self.every:
            raise ValueError(f"every={self.every}: must not be after the last change at step {last}")
        begin = self.every if self.begin is None else self.begin
        return [step for step in _dates(self.every, begin, self.end, of) if step < last]

    def share(self, step: int, of: int) -> float:
        """The share of each layer's weights to replace. Raises ValueError for a fraction that gives none in [0, 1]."""
        share = self.fraction(step, _last(self.end, of))
        if not 0 <= share <= 1:
            raise ValueError(f"fraction={share:g} at step {step}: must lie in [0, 1]")
        return share

    def masks(self, moment: Moment) -> Masks:
        living, evidence = moment.masks, moment.evidence
        share = self.share(moment.step, moment.of)
        target = Target(density(living) * (1 - share), 1 - share, moment.output)
        frozen = {name: living[name] for name, weight in evidence.weights.items() if not weight.requires_grad}
        left = choose(self.scope, score(self.criterion, evidence), living, target) | frozen
        for name, mask in ((name, mask) for name, mask in living.items() if name not in frozen):
            found, due = kept({name: left[name]}), (1 - share) * kept({name: mask})
            if abs(found - due) > 1:  # rounding, whatever its kind
                raise ValueError(
                    f"scope: keeps {found:,} of the {kept({name: mask}):,} weights of {name} where a share of "
                    f"{1 - share:.3g} is due; it must prune the same share of what lives in each layer, as `rates` "
                    "with output=1.0 does, and spare none"
                )
        grown = self.growth(Ground(left, moment.gradients, evidence.rng))
        scores = checked_scores("growth", self.growth, grown, left)
        counts = {name: kept({name: mask}) - kept({name: left[name]}) for name, mask in living.items()}
        return checked(regrow(left, scores, counts), like=living)


def planned(rule: Rule, steps: Iterable[int], of: int, final: float) -> list[float]:
    """What curve or fraction give at some steps: densities of `Gradual`, shares of `Rewiring`, nothing of other rules.

    Raises ValueError for one that gives what it must not.
    """
    if isinstance(rule, Gradual):
        return [rule.density(step, of, final) for step in steps]
    return [rule.share(step, of) for step in steps] if isinstance(rule, Rewiring) else []


def named(rule: Rule) -> str:
    """What of a rule sees the network, for a sentence: its criterion and growth, or else the rule."""
    parts = {kind: getattr(rule, kind, None) for kind in ("criterion", "growth")}
    return " or ".join(called(part, kind) for kind, part in parts.items() if part) or type(rule).__name__


def _check_dates(every: int, begin: int, end: int | None) -> None:
    if every < 1:
        raise ValueError(f"every={every}: must be at least 1 step")
    if begin < 0:
        raise ValueError(f"begin={begin}: must be 0 or more steps")
    if end is not None and end < begin:
        raise ValueError(f"end={end}: must not be before begin, step {begin}")


def _last(end: int | None, of: int) -> int:
    return math.floor(LAST * of) if end is None else end


def _dates(every: int, begin: int, end: int | None, of: int) -> list[int]:
    last = _last(end, of)
    if last >= of:
        raise ValueError(f"end={last}: must be before the last of the {of} steps of a round")
    if begin > last:
        raise ValueError(f"begin={begin}: must not be after the last change at step {last}")
    return sorted({*range(begin, last, every), last})
