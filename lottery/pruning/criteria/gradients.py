"""Criteria that use gradients of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from torch import Tensor
from torch.utils import _pytree as pytree

from lottery.pruning.batchnorm import as_training_begins
from lottery.pruning.contracts import Batch, Evidence, Scores
from lottery.pruning.derivatives import averaged


def snip(evidence: Evidence, batches: int = 1) -> Scores:
    """|gradient x weight|, the first-order change of the loss when the weight is removed (SNIP, Lee et al. 2019).

    The gradient is that of the mean loss over the first `batches` training batches; frozen weights are scored like
    all others. BatchNorm that has seen no batch yet normalises by the one at hand, as in the authors' code. Raises
    ValueError for fewer than one batch.
    """
    weights = evidence.weights
    with as_training_begins(evidence.net):
        slopes = evidence.gradients(batches)
    return {name: (weights[name] * slope).detach().abs() for name, slope in slopes.items()}


def taylor(evidence: Evidence, batches: int = 10) -> Scores:
    """(gradient x weight)^2, averaged over the first `batches` training batches (Molchanov et al. 2019).

    With one batch it ranks as `snip` does. Raises ValueError for fewer than one batch.
    """
    return averaged({name: change.square() for name, change in each.items()} for each in _changes(evidence, batches))


def taylor_magnitude(evidence: Evidence, batches: int = 10) -> Scores:
    """|gradient x weight|, averaged over the first `batches` training batches, after Molchanov et al. (2019).

    The mean is of magnitudes, while `snip` has the magnitude of the mean, in which batches that disagree cancel out.
    Raises ValueError for fewer than one batch.
    """
    return averaged({name: change.abs() for name, change in each.items()} for each in _changes(evidence, batches))


def fisher(evidence: Evidence, examples: int = 100) -> Scores:
    """Weight^2 x mean squared gradient of single examples, the empirical Fisher information (Theis et al. 2018).

    Batches are split along the first dimension of every tensor in them, until `examples` are found or none is left.
    Raises ValueError for fewer than one example and for a batch that can't be split.
    """
    if examples < 1:
        raise ValueError(f"examples={examples}: must be at least 1")
    chosen = islice((example for batch in evidence.batches for example in _split(batch)), examples)
    information = averaged(
        {name: gradient.square() for name, gradient in each.items()} for each in _gradients(evidence, chosen)
    )
    return {name: weight.detach().square() * information[name] for name, weight in evidence.weights.items()}


def _gradients(evidence: Evidence, batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
    """The gradients of each batch by itself."""
    for batch in batches:
        yield replace(evidence, batches=[batch]).gradients()


def _changes(evidence: Evidence, batches: int) -> Iterator[dict[str, Tensor]]:
    """Gradient x weight of each batch by itself: how the loss changes to first order as the weight is removed."""
    weights = evidence.weights
    for gradients in _gradients(evidence, evidence.first(batches)):
        yield {name: gradient * weights[name].detach() for name, gradient in gradients.items()}


def _split(batch: Batch) -> Iterator[Batch]:
    """A batch's examples, each a batch of one."""
    sizes = {leaf.shape[:1] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)}
    if len(sizes) != 1 or not (size := sizes.pop()):
        raise ValueError(
            "a batch can't be split into its examples: it must have tensors, whose first dimensions are all alike"
        )
    for index in range(size[0]):
        yield pytree.tree_map_only(Tensor, partial(_one, index=index), batch)


def _one(tensor: Tensor, index: int) -> Tensor:
    return tensor[index : index + 1]
