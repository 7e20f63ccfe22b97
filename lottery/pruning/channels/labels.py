"""Labels that go together: sets that are united, and may be fixed for a reason (union-find, Tarjan 1975)."""

from __future__ import annotations

import torch
from torch import Tensor

NONE = 0
"""The label of what no parameter made; it is fixed from the beginning."""

_FREE = torch.iinfo(torch.long).max


class Labels:
    """Whole numbers in sets, many at a time. A set that is fixed stays so, and so does whatever is united with it.

    >>> labels = Labels()
    >>> first, second = labels.fresh(3), labels.fresh(3)
    >>> labels.unite(first, second, "they are added")
    >>> labels.fix(second[:1], "it is an output")
    >>> labels.roots(second).tolist(), labels.reason(int(first[0]))
    ([0, 2, 3], 'it is an output')
    """

    def __init__(self) -> None:
        self._parent, self._cause = torch.arange(1024), torch.full((1024,), _FREE)
        self._reasons = ["no parameter made it"]
        self._cause[NONE], self._count = 0, 1

    def fresh(self, count: int) -> Tensor:
        """New labels, each a set of its own."""
        start = self._count
        self._count += count
        while self._count > len(self._parent):
            size = len(self._parent)
            self._parent = torch.cat([self._parent, torch.arange(size, 2 * size)])
            self._cause = torch.cat([self._cause, torch.full((size,), _FREE)])
        return torch.arange(start, self._count)

    def unite(self, first: Tensor, second: Tensor, why: str) -> None:
        """Unites the sets of two tensors of labels, element by element; what meets `NONE` is fixed, and this is why."""
        one, other = (self.sets(labels).flatten() for labels in torch.broadcast_tensors(first, second))
        self.fix(torch.cat([one[other == NONE], other[one == NONE]]), why)
        apart = (one != other) & (one != NONE) & (other != NONE)
        one, other = one[apart], other[apart]
        met = torch.cat([one, other])
        while len(one):
            # of several smaller ones that a set meets it takes the smallest, and meets the others in the next turn
            self._parent.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
            one, other = self.sets(one), self.sets(other)
            apart = one != other
            one, other = one[apart], other[apart]
        self._cause.scatter_reduce_(0, self.sets(met), self._cause[met], "amin")  # the earliest reason is kept

    def fix(self, labels: Tensor, why: str) -> None:
        """Fixes the sets of these labels, for this reason unless they are fixed already."""
        sets = self.sets(labels)
        sets = sets[self._cause[sets] == _FREE]
        if len(sets):
            self._cause[sets] = len(self._reasons)
            self._reasons.append(why)

    def sets(self, labels: Tensor) -> Tensor:
        """The smallest label of each one's set."""
        found = self._parent[labels]
        while not torch.equal(above := self._parent[found], found):
            found = above
        self._parent[labels] = found
        return found

    def roots(self, labels: Tensor) -> Tensor:
        """As `sets`, but `NONE` for those that are fixed."""
        sets = self.sets(labels)
        return torch.where(self._cause[sets] == _FREE, sets, NONE)

    def reason(self, label: int) -> str | None:
        """Why the set of a label is fixed; None if it is free."""
        cause = int(self._cause[self.sets(torch.tensor([label]))])
        return None if cause == _FREE else self._reasons[cause]
