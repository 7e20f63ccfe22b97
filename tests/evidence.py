"""For tests of criteria: evidence of little networks, what must not change, and slow ways to the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from lottery.config.groups import CONF
from lottery.pruning.contracts import Criterion, Evidence, score
from lottery.pruning.masks import apply_, dense, prunable
from lottery.training.states import state_of

Batch = tuple[Tensor, Tensor]

UNTRAINED = {"obs": {"damping": 10.0}}
"""settings with which a criterion scores weights that are in no minimum of the loss"""


class Counted:
    """Batches that count how many of them were drawn."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.drawn = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.drawn += 1
            yield batch


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(48, 4))


def evidence_of(
    net: nn.Module, batches: Sequence[Batch], loss: Callable = functional.cross_entropy, seed: int = 0, **more: Any
) -> Evidence:
    rng = torch.Generator().manual_seed(seed)
    run, objective = (lambda batch: net(batch[0])), (lambda batch: loss(net(batch[0]), batch[1]))
    fields = {"start": state_of(net), "masks": dense(prunable(net)), "batches": Counted(batches), **more}
    return Evidence(net=net, outputs=run, objective=objective, rng=rng, **fields)


def trained() -> Evidence:
    """A small trained network with convolution, normalisation, dropout and some weights pruned."""
    torch.manual_seed(0)
    net = convolutional()
    start = state_of(net)
    for _ in range(3):
        net(torch.randn(8, 1, 6, 6))  # statistics of the normalisation
    for weight in net.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    net.eval()
    batches = [(torch.randn(8, 1, 6, 6), torch.randint(4, (8,))) for _ in range(3)]
    found = evidence_of(net, batches, start=start)
    for mask in found.masks.values():
        mask.view(-1)[::3] = False
    apply_(prunable(net), found.masks)
    return found


def linear(*rows: Sequence[float]) -> nn.Linear:
    """A linear layer without bias, with these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def smooth(batches: int = 2) -> Evidence:
    """A network in float64 with two layers of four and six weights, for derivatives by finite differences."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    return evidence_of(net, [(torch.randn(5, 2, dtype=torch.float64), torch.randint(3, (5,))) for _ in range(batches)])


def scores_of(criterion: Criterion, evidence: Evidence) -> dict[str, list]:
    return {name: values.tolist() for name, values in score(criterion, evidence).items()}


def entries(evidence: Evidence) -> Iterator[tuple[str, int, Tensor]]:
    """Every weight by name and place, with a view of it that can be set."""
    for name, weight in evidence.weights.items():
        for place in range(weight.numel()):
            yield name, place, weight.data.view(-1)[place]


def slopes(evidence: Evidence, value: Callable[[], Tensor], step: float = 1e-6) -> dict[str, Tensor]:
    """Weight x the slope of a value in it, for each weight, by central differences."""
    found = {name: torch.zeros_like(weight.data) for name, weight in evidence.weights.items()}
    for name, place, entry in entries(evidence):
        own = entry.item()
        entry.fill_(own * (1 + step))
        above = value()
        entry.fill_(own * (1 - step))
        found[name].view(-1)[place] = float(above - value()) / (2 * step)
        entry.fill_(own)
    return found


def curvature(evidence: Evidence, batch: Batch) -> Tensor:
    """The whole Hessian of the loss of a batch, layer after layer, the slow way."""
    own = {name: weight.detach() for name, weight in evidence.weights.items()}
    net, sizes = evidence.net, [weight.numel() for weight in own.values()]

    def loss(values: Tensor) -> Tensor:
        parts = {n: p.view_as(own[n]) for n, p in zip(own, values.split(sizes), strict=True)}
        return functional.cross_entropy(torch.func.functional_call(net, parts, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(loss, flat(own))


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def condition(evidence: Evidence) -> dict[str, Any]:
    """All that a criterion must leave alone, for comparison by ==: where tensors lie, their bits, flags, hooks."""
    net = evidence.net
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        "tensors": {n: (t.data_ptr(), t.dtype, t.detach().numpy().tobytes()) for n, t in tensors.items()},
        "parameters": {n: (id(p), p.requires_grad, p.grad) for n, p in net.named_parameters()},
        "modules": {n: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in net.named_modules()},
        "given": {n: t.numpy().tobytes() for part in (evidence.start, evidence.masks) for n, t in part.items()},
        "elsewhere": (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().numpy().tobytes()),
        "attention": torch.backends.cuda.flash_sdp_enabled(),
    }


def shipped(name: str) -> Any:
    """A criterion as its yaml has it, but for few probes, and with what lets weights be scored that are not trained."""
    small = {**UNTRAINED, "obd": {"probes": 2}, "fisher": {"examples": 3}, "taylor": {"batches": 2}}
    return instantiate(OmegaConf.load(CONF / "criterion" / f"{name}.yaml"), **small.get(name, {}))
