"""Criteria on users' Lightning projects: scores, or a sentence why not."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from lottery.config.groups import options
from lottery.foundations.seeds import seed_all
from lottery.pruning.contracts import Evidence, score
from lottery.pruning.masks import dense
from lottery.training.lightning.project import Project
from lottery.training.states import State
from tests.evidence import shipped
from tests.lightning import ADVICE, phase_of, recipe_of

pytestmark = ADVICE


@cache
def project(kind: str) -> tuple[Project, State]:
    recipe = recipe_of(kind)
    return recipe, phase_of(recipe).state


def evidence_of(kind: str) -> Evidence:
    recipe, state = project(kind)
    masks = dense(recipe.prunable(recipe.net))
    return recipe.evidence(state, state, masks, init=5, order=11, rng=torch.Generator().manual_seed(1))


PAIRS = r"^only pairs \(inputs, targets\) of tensors can be corrupted, not a "
UNSEEN = r"^the outputs that attention\.out_proj\.weight makes can't be seen"
REFUSED = {
    ("language", "corrupted"): PAIRS,
    ("gan", "corrupted"): PAIRS,
    ("language", "synflow"): "^the network's inputs have no floating-point tensor to put ones into",
    ("language", "wanda"): r"^the inputs that attention\.out_proj\.weight multiplies can't be seen",
    **{
        ("language", name): UNSEEN
        for name in ("apoz", "variance", "activation_statistics", "taylor_features", "oracle")
    },
    **{(kind, "batch_norm_scale"): "^no BatchNorm with a scale reads a layer's output" for kind in ("language", "gan")},
    (
        "language",
        "obs",
    ): "^the whole Hessian of 9,216 unpruned weights is too large, over 5,000; prune.exclude leaves",
    ("gan", "taylor_features"): "^the module optimizes by hand, so that no single loss has a gradient in activations",
    ("gan", "grasp"): "^the module optimizes by hand, so that no single loss has a Hessian",
    ("gan", "obd"): "^the module optimizes by hand, so that no single loss has a Hessian",
    ("gan", "obs"): "^the module optimizes by hand, so that no single loss has a Hessian",
}


@pytest.mark.parametrize("name", sorted(options("criterion")))
@pytest.mark.parametrize("kind", ["language", "gan"])
def test_every_criterion_scores_a_project_or_says_why_not(kind: str, name: str) -> None:
    evidence = evidence_of(kind)
    before = {n: (t.data_ptr(), t.clone()) for n, t in evidence.net.state_dict().items()}
    if said := REFUSED.get((kind, name)):
        with pytest.raises(ValueError, match=said):
            score(shipped(name), evidence)
    else:
        useful = {each: bool(values.any()) for each, values in score(shipped(name), evidence).items()}
        if name in ("movement", "magnitude_increase", "opposite_sign"):  # nothing has moved
            assert not any(useful.values())
        elif (kind, name) == ("gan", "synflow"):  # calls the generator alone as the network
            assert useful == {each: each.startswith("generator") for each in useful}
        elif (kind, name) == ("gan", "fpgm"):  # the last has one output, and so no other to be far from
            assert useful == {each: each != list(useful)[-1] for each in useful}
        else:
            assert all(useful.values())
    after = evidence.net.state_dict()
    assert all(after[n].data_ptr() == place and torch.equal(after[n], own) for n, (place, own) in before.items())
    assert not evidence.net.training


def test_curvature_of_a_project_is_that_of_its_training_step() -> None:
    """Attention's too, which Lightning would have PyTorch fuse."""
    (recipe, state), evidence = project("language"), evidence_of("language")
    vector = {name: torch.randn_like(weight) for name, weight in evidence.weights.items()}
    seed_all(1)
    found = evidence.hessian_times(vector)
    module = recipe.build(5).eval()
    module.load_state_dict(state)
    module.log = lambda *_, **__: None
    weights = {name: weight for name, weight in module.named_parameters() if name in found}
    seed_all(1)
    first = torch.autograd.grad(
        module.training_step(next(iter(evidence.batches)), 0), list(weights.values()), create_graph=True
    )
    inner = sum((slope * vector[name]).sum() for slope, name in zip(first, weights, strict=True))
    for (name, product), expected in zip(
        found.items(), torch.autograd.grad(inner, list(weights.values())), strict=True
    ):
        torch.testing.assert_close(product, expected, msg=name)
        assert expected.any()
