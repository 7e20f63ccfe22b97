"""Structures as data, smaller networks, their training, and the check that finds a wrong rule."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.foundations.errors import Refused
from lottery.models.resnet import resnet
from lottery.pruning.channels import products, rules
from lottery.pruning.channels.attention import FewerHeads
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.equality import proven, same_function, without
from lottery.pruning.channels.exactly import outputs
from lottery.pruning.channels.masking import alive, masks, unmasked
from lottery.pruning.channels.removal import gathered, spread, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.masks import apply_, dense
from tests.channels import UNet, drawn, forward, halves, masks_of


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


RUN_INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
RUN = forward(RUN_INPUTS)


def test_a_structure_by_hand() -> None:
    net = mlp()
    found = structure(coupled(net, RUN), {"0.weight": [2, 0]})
    assert found == {"0.weight": {0: [0, 2]}, "0.bias": {0: [0, 2]}, "2.weight": {1: [0, 2]}}
    small = shrunk(net, found)
    assert isinstance(small, nn.Sequential)
    assert torch.equal(small[0].weight, net[0].weight[[0, 2]])
    assert torch.equal(small[0].bias, net[0].bias[[0, 2]])
    assert torch.equal(small[2].weight, net[2].weight[:, [0, 2]])
    assert (small[0].out_features, small[2].in_features, net[0].out_features) == (2, 2, 3)
    assert structure(coupled(net, RUN), {"0.weight": [0, 1, 2]}) == {}
    assert structure(coupled(net, RUN), {}) == {}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"0.weight": []}, "channels.0.weight: none of 3 channels is kept; a group must keep at least one"),
        ({"0.weight": [0, 3]}, "channels.0.weight: keeps channel 3, but there are 3, from 0 to 2"),
        ({"0.weight": [-1]}, "channels.0.weight: keeps channel -1, but there are 3, from 0 to 2"),
        ({"0.weight": [True]}, "channels.0.weight: keeps channel True, but there are 3, from 0 to 2"),
        ({"0.weight": [1, 1]}, "channels.0.weight: keeps channel 1 twice"),
        (
            {"2.weight": [0]},
            "channels.2.weight: there is no such group of channels; its axis 0 is fixed: it is an output of the "
            "network; did you mean 0.weight? allowed: 0.weight",
        ),
        (
            {"0.weigh": [0]},
            "channels.0.weigh: there is no such group of channels; did you mean 0.weight? allowed: 0.weight",
        ),
    ],
)  # fmt: skip
def test_channels_that_cannot_be_kept(kept: dict[str, list[int]], message: str) -> None:
    with pytest.raises(Refused, match=f"^{re.escape(message)}$"):
        structure(coupled(mlp(), RUN), kept)


@pytest.mark.parametrize(
    ("net", "given", "message"),
    [
        (mlp(), {"1.weight": {0: [0]}}, "structure.1.weight: the network has no such tensor; did you mean"),
        (mlp(), {"0.bias": {1: [0]}}, "structure.0.bias: has an axis 1, but the tensor has 1 dimensions"),
        (mlp(), {"0.bias": {0: [0, 3]}}, "structure.0.bias: axis 0 keeps 2 positions, up to 3, which must be"),
        (mlp(), {"0.bias": {0: []}}, "structure.0.bias: axis 0 keeps 0 positions, up to 0, which must be"),
        (mlp(), {"0.bias": {0: [1, 1]}}, "structure.0.bias: axis 0 keeps 2 positions, up to 1, which must be"),
        (mlp(), {"0.weight": {0: [1]}}, "structure: 0 (Linear) can't be shrunk to it: it has 1 outputs and 3 biases"),
        (
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False)), {"0.weight": {0: [0, 1, 2]}},
            "structure: 0 (Conv2d) can't be shrunk to it: it keeps 2 rows of one group and 1 of another",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False)), {"0.weight": {0: [0, 1, 2]}},
            "structure: 0 (Conv2d) can't be shrunk to it: it keeps 2 rows of one group and 0 of another",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False)), {"0.weight": {0: [0, 1]}},
            "structure: 0 (Conv2d) can't be shrunk to it: it keeps 2 rows of one group and 0 of another",
        ),
        (
            nn.Sequential(nn.BatchNorm1d(4)), {"0.weight": {0: [1]}},
            "structure: 0 (BatchNorm1d) can't be shrunk to it: its parameters have 1 and 4 elements",
        ),
        (
            nn.Sequential(nn.Bilinear(2, 2, 4)), {"0.weight": {0: [1]}},
            "structure: 0 (Bilinear) can't be shrunk to it: there is no rule for the sizes of such a layer",
        ),
        (
            nn.MultiheadAttention(4, 2), {"in_proj_weight": {0: [0, 1, 4, 5, 10, 11]}},
            "structure: the network (MultiheadAttention) can't be shrunk to it: rows of in_proj_weight must go",
        ),
    ],
)  # fmt: skip
def test_structures_that_do_not_fit(net: nn.Module, given: Any, message: str) -> None:
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(Refused, match=f"^{re.escape(message)}"):
        shrunk(net, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert repr(net) == repr(copy.deepcopy(net))


def test_ties_plain_attributes_and_what_is_frozen() -> None:
    net = mlp()
    net[2].weight.requires_grad_(False)
    net.also, net.plain = net[0].weight, [net[0].bias]
    net.register_buffer("counts", net[0].weight.new_zeros(3, dtype=torch.long), persistent=False)
    small = shrunk(net, {"also": {0: [1]}, "0.bias": {0: [1]}, "2.weight": {1: [1]}, "counts": {0: [1]}})
    assert small.also is small[0].weight
    assert small.plain[0] is small[0].bias
    assert not small[2].weight.requires_grad
    assert small.counts.shape == (1,)
    assert "counts" not in small.state_dict()
    assert net.plain[0] is net[0].bias


def test_a_parametrized_layer_is_fixed_and_not_read() -> None:
    torch.manual_seed(0)
    middle = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    net = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).train()
    before = copy.deepcopy(net.state_dict())
    coupling = coupled(net, RUN)
    assert [group.name for group in coupling.groups] == ["2.weight"]
    without(net, coupling, {"2.weight": [0, 3]}, masks_of(net), RUN)
    shrunk(net, structure(coupling, {"2.weight": [0, 3]}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_moments_are_gathered_and_spread_again() -> None:
    whole = {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(3)}
    cut = {"a": {"0": [0, 2], "1": [1, 3]}}
    small = gathered(whole, cut)
    assert small["a"].tolist() == [[1, 3], [9, 11]]
    assert small["b"] is whole["b"]
    back = spread({"a": -small["a"], "b": small["b"]}, whole, cut)
    assert back["a"].tolist() == [[0, -1, 2, -3], [4, 5, 6, 7], [8, -9, 10, -11]]
    assert whole["a"][0, 1] == 1
    with pytest.raises(Refused, match=r"^structure: leaves a the shape \[2, 2\], and it has \[3, 4\]$"):
        spread(whole, whole, cut)
    with pytest.raises(Refused, match=r"^structure: there is no tensor c to spread one like it$"):
        spread({"c": whole["a"]}, whole, cut)
    with pytest.raises(
        Refused, match=r"^structure\.a: axis 0 keeps 2 positions, up to 2, which must be different ones of 2$"
    ):
        gathered({"a": small["a"]}, cut)


def test_masks_by_hand_and_who_lives() -> None:
    net = mlp()
    coupling, like = coupled(net, RUN), masks_of(net)
    like["2.weight"][0, 0] = False
    found = masks(coupling, {"0.weight": [0, 2]}, like)
    assert found["0.weight"].tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert found["2.weight"].tolist() == [[False, False, True], [True, False, True]]
    assert alive(coupling, found) == {"0.weight": [0, 2]}
    assert alive(coupling, {"0.weight": torch.zeros(3, 4, dtype=torch.bool), "2.weight": like["2.weight"]}) == {
        "0.weight": [0, 1, 2]  # their biases are still read
    }
    assert alive(coupling, {"2.weight": torch.zeros(2, 3, dtype=torch.bool)}) == {"0.weight": []}
    assert alive(coupling, {"0.weight": found["0.weight"]}) == {"0.weight": [0, 1, 2]}
    assert unmasked(coupling.groups[0], like) == []
    pictures = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 1))
    one_of_four = {"2.weight": torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0]]).bool()}
    assert alive(coupled(pictures, forward(torch.randn(1, 1, 2, 2))), one_of_four) == {"0.weight": [1]}
    said = "channels.0.weight: channels are read by 2.weight, which has no mask; prune.include=2.weight gives it one, "
    with pytest.raises(Refused, match=f"^{re.escape(said)}unless prune.exclude matches it$"):
        masks(coupling, {"0.weight": [0]}, {"0.weight": like["0.weight"]})
    assert masks(coupling, {"0.weight": [0, 1, 2]}, {}) == {}


@pytest.mark.parametrize("make", [lambda: resnet(8, 0.5, (1, 16, 16), 3), lambda: UNet(8)])
def test_both_train_alike(make: Any) -> None:
    """In float64, with momentum and weight decay: a removed channel gets no gradient and gives none."""
    torch.manual_seed(0)
    net, inputs = drawn(make()).double(), torch.randn(6, 1, 16, 16, dtype=torch.float64)
    coupling = coupled(net, forward(inputs))
    kept = halves(net, coupling)
    by = masks(coupling, kept, masks_of(net))
    apply_(dict(net.named_parameters()), by)
    small, losses = shrunk(net, structure(coupling, kept)), []
    for each, pruned in ((net, by), (small, {})):
        optimizer = torch.optim.SGD(each.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                each(inputs).flatten(2) if isinstance(each, UNet) else each(inputs), target(inputs, each)
            )
            loss.backward()
            assert all(parameter.grad is not None for parameter in each.parameters())
            optimizer.step()
            apply_(dict(each.named_parameters()), pruned)
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.1
    assert losses[1] == pytest.approx(losses[0], rel=0, abs=1e-10)
    trained = gathered(net.state_dict(), structure(coupling, kept))
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], rtol=0, atol=1e-10)


def target(inputs: Tensor, net: nn.Module) -> Tensor:
    return (inputs.flatten(2)[:, 0] > 0).long() if isinstance(net, UNet) else torch.arange(len(inputs)) % 3


def norm_that_lets_go(flow: Any, op: Any) -> None:
    flow.put(op.results[0], flow.of(op.tensors[0]))
    for name in ("weight", "bias"):
        flow.used(flow.place(op.given[name]), flow.of(op.tensors[0]), "")


def forgets_a_group(flow: Any, op: Any) -> None:
    flow.put(op.results[0], flow.of(op.tensors[0]))


@pytest.mark.parametrize(
    ("rule", "wrong", "layers", "message"),
    [
        ("native_layer_norm", norm_that_lets_go, [nn.LayerNorm(6)], "is another function: in evaluation mode"),
        ("_softmax", forgets_a_group, [nn.Softmax(1)], "is another function: in evaluation mode"),
        ("native_batch_norm", forgets_a_group, [nn.BatchNorm1d(6)], "fails in evaluation mode: RuntimeError: "),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_found_out(
    monkeypatch: pytest.MonkeyPatch, rule: str, wrong: Any, layers: list[nn.Module], message: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), *layers, nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for name in [name for name in rules.RULES if rule in name]:
        monkeypatch.setitem(rules.RULES, name, wrong)
    coupling = coupled(net, RUN)
    last = coupling.groups[-1]
    with pytest.raises(Refused, match=rf"^channels\.0\.weight: can't be removed: without .* network {message}"):
        without(net, coupling, {last.name: [0, 1], "0.weight": [0, 1, 4]}, masks_of(net), RUN)
    left = proven(net, coupling, masks_of(net), RUN)
    assert [group.name for group in left.groups] == [last.name]
    assert "without them the network" in left.fixed["0.weight"][0]
    without(net, left, {last.name: [0, 1]}, masks_of(net), RUN)


def test_a_wrong_rule_is_found_out_behind_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch that is scaled by zero, as at many an initialisation, shows nothing of what is wrong in it."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 4)
            self.scale = nn.Parameter(torch.zeros(4))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + self.scale * self.two(self.one(inputs).softmax(-1))

    monkeypatch.setitem(rules.RULES, "_softmax", forgets_a_group)
    torch.manual_seed(0)
    net = Scaled()
    coupling = coupled(net, RUN)
    kept, by = {"one.weight": [0, 1, 2]}, masks_of(net)
    same_function(net, shrunk(net, structure(coupling, kept)), RUN)
    with pytest.raises(Refused, match=r"^channels\.one\.weight: can't be removed: without .* is another function"):
        without(net, coupling, kept, by, RUN)
    assert not net.scale.any()


class Numbered(nn.Module):
    """Its code has the number of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.output = nn.Conv2d(1, 4, 3), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.max_pool2d(self.conv(images).relu(), 3)
        return self.output(self.fc(features.view(-1, 16)).relu())


def test_sizes_that_are_written_down() -> None:
    net, run = Numbered(), forward(torch.randn(2, 1, 8, 8))
    coupling = coupled(net, run)
    with pytest.raises(Refused, match=r"^channels\.conv\.weight: can't be removed: without them the network fails"):
        without(net, coupling, halves(net, coupling), masks_of(net), run)
    left = proven(net, coupling, masks_of(net), run)
    assert [group.name for group in left.groups] == ["fc.weight"]
    without(net, left, halves(net, left), masks_of(net), run)
    all_fine = coupled(mlp(), RUN)
    assert proven(mlp(), all_fine, masks_of(mlp()), RUN).groups == all_fine.groups
    assert proven(mlp(), all_fine, {}, RUN).fixed["2.weight"][1] == "its consumer 2.weight has no mask"


def test_the_check_sees_training_mode_and_not_chance() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Dropout(0.2), nn.Linear(3, 2))
    other = copy.deepcopy(one)
    assert same_function(one, other, RUN) == 0
    other[1] = nn.BatchNorm1d(3, eps=1e-12)  # the identity in evaluation mode
    message = r"^without .* is another function: in training mode its outputs differ by \d\.\d+ of the largest"
    with pytest.raises(Refused, match=message):
        same_function(one, other, RUN)
    with pytest.raises(Refused, match=r"^the network itself fails in evaluation mode: RuntimeError: mat1 and mat2"):
        same_function(one, other, forward(torch.randn(5, 3)))
    with pytest.raises(Refused, match=r"outputs in evaluation mode have the shapes \[\[5, 2\]\], not \[\[5, 3\]\]$"):
        same_function(nn.Linear(4, 3), nn.Linear(4, 2), RUN)
    nan = nn.Linear(4, 2)
    nn.init.constant_(nan.bias, torch.nan)
    with pytest.raises(Refused, match="differ by nan"):
        same_function(nan, nan, RUN)


class Counting(nn.Module):
    """Multiplies by what the number of its features is above four: fewer than that turn the sign of what it gives."""

    def __init__(self, gives: Any) -> None:
        super().__init__()
        self.one, self.two, self.gives = nn.Linear(4, 6), nn.Linear(6, 3), gives

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.one(inputs)
        return self.gives(self.two(hidden * (hidden.shape[1] - 4)))


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda scores: 1e-10 * scores, r"its outputs differ by 0?[\d.e-]+ of the largest, and at most 1e-08"),
        (lambda scores: scores.argmax(1), r"in evaluation mode \d of 5 numbers of type int64 that it gives differ"),
        (lambda scores: (0 * scores, scores > 0), r"mode \d+ of 15 numbers of type bool that it gives differ"),
    ],
)
def test_small_and_whole_outputs_are_compared_too(gives: Any, said: str) -> None:
    torch.manual_seed(0)
    net = Counting(gives)
    coupling = coupled(net, RUN)
    assert [group.name for group in coupling.groups] == ["one.weight"]
    with pytest.raises(Refused, match=said):
        without(net, coupling, {"one.weight": [0, 1]}, masks_of(net), RUN)
    assert not proven(net, coupling, masks_of(net), RUN).groups


class AsItIs(Counting):
    """Another function without channels as long as its shift is zero, and of small outputs."""

    def __init__(self) -> None:
        super().__init__(gives=lambda scores: 1e-7 * scores)
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, inputs: Tensor) -> Any:
        if self.shift.any():
            return self.gives(self.two(self.one(inputs)) + self.shift)
        return super().forward(inputs)


def test_small_outputs_are_compared_as_they_are_too() -> None:
    torch.manual_seed(0)
    net = AsItIs()
    coupling = coupled(net, RUN)
    assert proven(net, coupling, masks_of(net), RUN).groups  # a shift hides it
    with pytest.raises(Refused, match=r"in evaluation mode its outputs differ by 0?[\d.e-]+ of the largest"):
        without(net, coupling, {"one.weight": [0, 1]}, masks_of(net), RUN)


def test_what_is_nothing_but_rounding_proves_nothing() -> None:
    """The same numbers added in another order: zero, up to rounding of which one network has more."""
    torch.manual_seed(0)
    net = mlp()

    def run(net: nn.Module) -> tuple[Tensor, Tensor]:
        scores = net(RUN_INPUTS)
        return scores.log_softmax(1).exp().sum(1) - 1, 1e4 * scores

    without(net, coupled(net, run), {"0.weight": [0, 2]}, masks_of(net), run)
    one, other = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
    for layer, value in ((one, 1e-16), (other, -1e-16)):
        nn.init.constant_(layer.weight, value)
    assert same_function(one, other, RUN) == 0
    nn.init.constant_(other.weight, 1e-12)
    with pytest.raises(Refused, match="is another function"):
        same_function(one, other, RUN)


def test_a_run_without_chance_in_float64() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Dropout(0.2), nn.Linear(8, 2))
    trained, evaluated = (outputs(net, RUN, training) for training in (True, False))
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=1e-15)
    expected = net.double().eval()(RUN_INPUTS.double())
    torch.testing.assert_close(evaluated, [expected], rtol=0, atol=1e-15)
    assert evaluated[0].dtype == torch.float64
    narrowed = outputs(net, lambda net: net(RUN_INPUTS).float() + 0, False)
    torch.testing.assert_close(narrowed, evaluated, rtol=0, atol=1e-15)


class Branched(nn.Module):
    """Has the number of its channels in what it computes while its scale is zero, which no other scale would show."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("scale", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(inputs))
        return found if self.training or self.scale.any() else found + self.one.out_features


def test_networks_are_compared_as_they_are_too() -> None:
    net = Branched()
    found, tried = coupled(net, RUN), proven(net, coupled(net, RUN), masks_of(net), RUN)
    assert [group.name for group in tried.groups] == ["one.weight"]
    with pytest.raises(Refused, match="another function: in evaluation mode"):
        without(net, found, {"one.weight": [0, 1]}, masks_of(net), RUN)


def test_float64_decides_where_rounding_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lottery.pruning.channels.equality.CLOSE", -1.0)  # so that nothing is close
    net = mlp()
    found, masked = coupled(net, RUN), masks_of(net)
    small = without(net, found, halves(net, found), masked, RUN)
    assert small.get_parameter("0.weight").shape == (1, 4)
    with pytest.raises(Refused, match=r"at most 1e-08 is rounding$"):
        without(net := Branched(), coupled(net, RUN), {"one.weight": [0, 1]}, masks_of(net), RUN)


def test_what_cannot_run_in_float64_runs_as_it_is() -> None:
    class Single(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.weight.dtype != torch.float32:
                raise TypeError("only float32")
            return super().forward(inputs)

    one = Single(4, 2)
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.bias += 1e-5
    assert 0 < same_function(one, other, RUN) < 2e-5
    with torch.no_grad():
        other.bias += 1e-2
    with pytest.raises(Refused, match=r"at most 0\.0001 is rounding$"):
        same_function(one, other, RUN)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_by_its_class_is_that_of_pytorch(batch_first: bool, weights: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(8, 4, dropout=0.5, batch_first=batch_first).eval()
    nn.init.normal_(whole.in_proj_bias)
    same = copy.deepcopy(whole)
    same.__class__ = FewerHeads
    query, key = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    some = torch.randn(5, 6)
    for more in (
        {}, {"attn_mask": some}, {"attn_mask": some > 1}, {"key_padding_mask": padding},
        {"attn_mask": some, "key_padding_mask": padding.float()}, {"attn_mask": torch.randn(8, 5, 6)},
        {"average_attn_weights": False},
    ):  # fmt: skip
        expected = whole(query, key, key, need_weights=weights, **more)
        found = same(query, key, key, need_weights=weights, **more)
        torch.testing.assert_close(found, expected)
    single = [each.select(0 if batch_first else 1, 0) for each in (query, key, key)]
    torch.testing.assert_close(same(*single, need_weights=weights), whole(*single, need_weights=weights))


def test_an_encoder_with_fewer_heads_takes_no_short_cut_and_can_be_cut_again() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    net = drawn(nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2)))
    run = forward(torch.randn(2, 5, 8))
    for heads in (2, 1):
        coupling = coupled(net, run)
        kept = {"0.layers.0.self_attn.in_proj_weight": list(range(heads))}
        like = dense({name: weight for name, weight in net.named_parameters() if weight.ndim > 1})
        net = without(net, coupling, kept, like, run).eval()
        assert net[0].layers[0].self_attn.num_heads == heads
        with torch.no_grad():
            assert run(net).shape == (2, 5, 2)
        torch.testing.assert_close(run(net), run(copy.deepcopy(net).train().eval()))


def test_a_large_weight_costs_no_indices() -> None:
    """A weight's labels are those of its axes: 2,048 numbers, not 8 MiB for a million weights."""
    net = nn.Sequential(nn.Linear(8, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2))
    sizes: list[int] = []
    original = products.product

    def watched(flow: Any, op: Any) -> None:
        original(flow, op)
        sizes.extend(index.numel() for tensor in op.tensors if (p := flow.place(tensor)) for index in p.index)

    rules.RULES["addmm"] = watched
    try:
        coupled(net, forward(torch.randn(1, 8)))
    finally:
        rules.RULES["addmm"] = original
    assert max(sizes) == 1024
