"""Criteria that read what a layer is given; and criteria on embeddings, attention and Lightning projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lottery.config.groups import options
from lottery.pruning.contracts import Call, Evidence, score
from lottery.pruning.criteria import wanda
from lottery.pruning.masks import dense
from lottery.pruning.prunable import Prunable
from tests.evidence import condition, evidence_of, linear, scores_of, shipped, trained


def every(net: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in net.named_parameters() if weight.ndim > 1}


def asked(net: nn.Module, *batches: Any, run: Callable | None = None, names: tuple[str, ...] = ()) -> Evidence:
    """Evidence of a network that is given whole batches, with masks of all weights or of the named ones."""
    masks = {name: mask for name, mask in dense(every(net)).items() if not names or name in names}
    return replace(evidence_of(net.eval(), batches), masks=masks, outputs=run or net)


def test_wanda_of_four_weights_by_hand() -> None:
    net = linear([1.0, -2.0], [3.0, 4.0])
    first, second = torch.tensor([[3.0, 0.0], [4.0, 2.0]]), torch.tensor([[0.0, -1.0], [12.0, 2.0]])
    assert scores_of(wanda, asked(net, first, second)) == {"weight": [[5, 4], [15, 8]]}
    assert scores_of(partial(wanda, batches=2), asked(net, first, second)) == {"weight": [[13, 6], [39, 12]]}
    places = torch.stack([first, second])  # the norm is over all that comes before the feature
    assert scores_of(wanda, asked(net, places)) == {"weight": [[13, 6], [39, 12]]}


def test_wanda_adds_up_the_calls_of_a_layer() -> None:
    net = linear([1.0, -2.0], [3.0, 4.0])
    first, second = torch.tensor([[3.0, 0.0], [4.0, 2.0]]), torch.tensor([[0.0, -1.0], [12.0, 2.0]])
    evidence = asked(net, first, run=lambda batch: (net(batch), net(input=second)))
    assert scores_of(wanda, evidence) == {"weight": [[13, 6], [39, 12]]}


def test_wanda_of_a_single_vector_is_that_of_a_batch_of_one() -> None:
    net, vector = linear([1.0, -2.0], [3.0, 4.0]), torch.tensor([3.0, -5.0])
    assert scores_of(wanda, asked(net, vector)) == {"weight": [[3, 10], [9, 20]]}


class InPlace(nn.Module):
    """Overwrites what it has given to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear([1.0, -2.0])

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.clone()
        found = self.layer(inputs)
        inputs.zero_()
        return found


def test_wanda_sees_inputs_before_they_are_changed_in_place() -> None:
    assert scores_of(wanda, asked(InPlace(), torch.tensor([[3.0, 5.0]]))) == {"layer.weight": [[3, 10]]}


def test_wanda_has_a_channel_of_a_convolution_in_its_norm() -> None:
    """Channels of four places: (2, 2, 2, 2) has the norm 4 in one example, and (0, 0, 0, 3) the norm 3."""
    net = nn.Conv2d(2, 2, 1, bias=False)
    net.weight.data = torch.tensor([1.0, -2.0, 3.0, 4.0]).view(2, 2, 1, 1)
    inputs = torch.stack([torch.full((2, 2), 2.0), torch.tensor([[0.0, 0.0], [0.0, 3.0]])])
    expected = [[[[4]], [[6]]], [[[12]], [[12]]]]
    assert scores_of(wanda, asked(net, inputs[None])) == {"weight": expected}
    assert scores_of(wanda, asked(net, inputs)) == {"weight": expected}  # a single example, without its dimension
    twice = [[[[value * 2]] for [[value]] in row] for row in expected]
    assert scores_of(wanda, asked(net, inputs[None].expand(4, -1, -1, -1))) == {"weight": twice}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kind", "places"),
    [
        (nn.Conv1d, (7,)),
        (nn.Conv2d, (5, 6)),
        (nn.Conv3d, (3, 4, 3)),
        (nn.ConvTranspose1d, (7,)),
        (nn.ConvTranspose2d, (5, 6)),
        (nn.ConvTranspose3d, (2, 3, 2)),
    ],
)
def test_wanda_scores_what_a_weight_of_a_convolution_multiplies(
    kind: type[nn.modules.conv._ConvNd], places: tuple[int, ...], groups: int
) -> None:
    """An input of a single channel comes through exactly the weights that have that channel's norm in their score."""
    torch.manual_seed(0)
    net = kind(4, 6, 2, groups=groups, bias=False)
    for channel in range(4):
        inputs = torch.zeros(3, 4, *places)
        inputs[:, channel] = torch.randn(3, *places)
        [scores] = score(wanda, asked(net, inputs)).values()
        weight = net.weight.detach().clone().requires_grad_(True)
        output = torch.func.functional_call(net, {"weight": weight}, (inputs,))
        [gradient] = torch.autograd.grad(output.square().sum(), weight)
        expected = net.weight.detach().abs() * inputs.norm() * (gradient != 0)
        torch.testing.assert_close(scores, expected)
        assert (scores > 0).sum() == 6 // groups * 2 ** len(places)


def test_wanda_of_an_embedding_counts_tokens_and_of_a_shared_weight_adds_both_uses() -> None:
    net = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    net[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]])
    ids = torch.tensor([[0, 0], [1, 0], [0, 1]])  # four, two and no times
    found = scores_of(wanda, asked(net, ids, names=("0.weight",)))["0.weight"]
    assert [*found[0], *found[1], *found[2]] == pytest.approx([2, 4, 3 * 2**0.5, 4 * 2**0.5, 0, 0])
    net[1].weight = net[0].weight
    # what the linear layer is given: four times (1, -2), two times (3, 4), so squares 4 + 18 and 16 + 32
    found = scores_of(wanda, asked(net, ids))["0.weight"]
    for row, (first, second), count in zip(found, net[0].weight.tolist(), (4, 2, 0), strict=True):
        assert row == pytest.approx([abs(first) * (22 + count) ** 0.5, abs(second) * (48 + count) ** 0.5])


@pytest.mark.parametrize("width", [None, 3])
def test_wanda_of_attention_has_queries_keys_and_values_apart(width: int | None) -> None:
    net = nn.MultiheadAttention(2, 1, kdim=width, vdim=width, bias=False, batch_first=True)
    query, key, value = (torch.randn(1, 4, size) for size in (2, width or 2, width or 2))
    names = ("in_proj_weight",) if width is None else ("q_proj_weight", "k_proj_weight", "v_proj_weight")

    def run(batch: object) -> object:
        return net(query, value=value, key=key)

    found = torch.cat([v.flatten() for v in score(wanda, asked(net, None, run=run, names=names)).values()])
    expected = []
    for each, weight in zip(
        (query, key, value),
        torch.cat([v.flatten() for n, v in every(net).items() if n in names]).split(
            [2 * query.shape[-1], 2 * key.shape[-1], 2 * value.shape[-1]]
        ),
        strict=True,
    ):
        expected.append((weight.view(2, -1).abs() * each[0].norm(dim=0)).flatten())
    torch.testing.assert_close(found, torch.cat(expected).detach())


class Own(nn.Module):
    """A linear layer as someone wrote it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T


def test_wanda_of_other_layers_that_multiply_their_input() -> None:
    inputs, own, recurrent = torch.randn(5, 4, 3), Own(3, 2), nn.LSTM(3, 2, bidirectional=True, batch_first=True)
    norms = inputs.flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(score(wanda, asked(own, inputs))["weight"], own.weight.detach().abs() * norms)
    names = ("weight_ih_l0", "weight_ih_l0_reverse")
    for name, values in score(wanda, asked(recurrent, inputs, names=names)).items():
        torch.testing.assert_close(values, getattr(recurrent, name).detach().abs() * norms)


def test_wanda_reads_the_input_of_a_recurrent_layer_in_whatever_order_it_is_named() -> None:
    net = nn.RNN(2, 3, batch_first=True)
    inputs, hidden = torch.tensor([[[3.0, 0.0], [4.0, 2.0]]]), torch.full((1, 1, 3), 7.0)
    evidence = asked(net, inputs, run=lambda batch: net(hx=hidden, input=batch), names=("weight_ih_l0",))
    expected = net.weight_ih_l0.detach().abs() * torch.tensor([5.0, 2.0])
    torch.testing.assert_close(score(wanda, evidence)["weight_ih_l0"], expected)


@pytest.mark.parametrize(
    ("net", "inputs", "name"),
    [
        (nn.MultiheadAttention(2, 1), torch.randn(3, 2), "out_proj.weight"),  # its layer is never called
        (nn.LSTM(2, 2), torch.randn(3, 2), "weight_hh_l0"),
        (nn.LSTM(2, 2, 2), torch.randn(3, 2), "weight_ih_l1"),
        (Own(3, 3), torch.randn(2, 3), "weight"),  # either side of it fits
        (Own(3, 2), torch.randn(2, 3).to(torch.int64), "weight"),
        (nn.Bilinear(2, 2, 2), torch.randn(3, 2), "weight"),
        (nn.EmbeddingBag(3, 2), torch.tensor([[1, 2]]), "weight"),
    ],
)
def test_wanda_names_a_weight_whose_inputs_can_not_be_seen(net: nn.Module, inputs: Tensor, name: str) -> None:
    calls = 3 if isinstance(net, nn.MultiheadAttention) else 2 if isinstance(net, nn.Bilinear) else 1

    def run(batch: Tensor) -> Any:
        return batch if batch.dtype == torch.int64 and isinstance(net, Own) else net(*[batch] * calls)

    said = rf"^the inputs that {name} multiplies can't be seen; prune.exclude leaves it out, and another criterion nee"
    with pytest.raises(ValueError, match=said):
        wanda(asked(net, inputs, run=run, names=(name,)))


def test_wanda_refuses_to_read_nothing() -> None:
    with pytest.raises(ValueError, match=r"^batches=0: must be at least 1$"):
        wanda(trained(), batches=0)
    with pytest.raises(ValueError, match=r"^there is no training batch to score with$"):
        wanda(replace(trained(), batches=[]))


def test_watching_shows_every_call_of_every_layer_that_holds_a_weight() -> None:
    net = nn.Sequential(linear([1.0, 2.0]), nn.ReLU(), linear([3.0]))
    before = condition(evidence := asked(net, None, run=lambda _: (net(torch.eye(2)), net[2](input=torch.ones(1, 1)))))

    def see(call: Call) -> tuple:
        return type(call.layer).__name__, [a.tolist() for a in call.args], sorted(call.kwargs), call.output.tolist()

    assert evidence.watch(None, see) == {
        "0.weight": [("Linear", [[[1, 0], [0, 1]]], [], [[1], [2]])],
        "2.weight": [("Linear", [[[1], [2]]], [], [[3], [6]]), ("Linear", [], ["input"], [[3]])],
    }
    assert condition(evidence) == before


# Embeddings and attention with every criterion


class Transformer(nn.Module):
    """What a language model is made of; its first input are token ids, or signals."""

    def __init__(self, ids: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4) if ids else nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        return self.out((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


UNSEEN = {
    **dict.fromkeys(
        ("activation_statistics", "apoz", "oracle", "taylor_features", "variance"),
        r"^the outputs that \S+ makes can't be seen",
    ),
    "batch_norm_scale": "^no BatchNorm with a scale reads a layer's output as it is",
}


@pytest.mark.parametrize("name", sorted(options("criterion")))
@pytest.mark.parametrize("ids", [True, False])
def test_every_criterion_scores_embeddings_and_attention_or_says_why_not(name: str, ids: bool) -> None:
    torch.manual_seed(0)
    net = Transformer(ids).eval()
    prunable = Prunable(include=("Embedding", "*.in_proj_weight") if ids else ("*.in_proj_weight",))
    batch = torch.randint(6, (5, 4)) if ids else torch.randn(5, 4, 3), torch.randint(3, (5,))
    start = {n: t + 0.1 * torch.randn_like(t) for n, t in net.state_dict().items()}
    evidence = evidence_of(net, [batch], masks=dense(prunable(net)), start=start)
    assert {"embedding.weight", "attention.in_proj_weight"} <= evidence.masks.keys()
    before = condition(evidence)
    if name == "wanda":
        with pytest.raises(ValueError, match=r"^the inputs that attention.out_proj.weight multiplies can't be seen; "):
            score(shipped(name), evidence)
        del evidence.masks["attention.out_proj.weight"]
    if why := UNSEEN.get(name):
        with pytest.raises(ValueError, match=why):
            score(shipped(name), evidence)
    elif name == "synflow" and ids:
        with pytest.raises(ValueError, match=r"^the network's inputs have no floating-point tensor to put ones into"):
            score(shipped(name), evidence)
    else:
        before["given"] = condition(evidence)["given"]
        for scored, values in score(shipped(name), evidence).items():
            assert values.abs().max() > 0 or name == "opposite_sign", scored
    assert condition(evidence) == before
