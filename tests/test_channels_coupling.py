"""Which channels go together, by hand; what is fixed, and why; what tracing leaves as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lottery.foundations.errors import Refused
from lottery.models.resnet import resnet
from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.channels.labels import Labels
from lottery.pruning.channels.tracing import unused
from lottery.pruning.masks import dense
from tests.channels import drawn, forward, halved, halves, masks_of, parameters


class Net(nn.Module):
    """Layers, and what to do with them."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs: Tensor) -> Any:
        return self.compute(self, inputs)


def c(inputs: int, outputs: int, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **more)


def pooled(images: Tensor) -> Tensor:
    return images.mean((2, 3))


def shape_of(coupling: Coupling) -> dict[str, tuple[int, list[tuple[str, int, str, int]]]]:
    """Sizes, and members with the number of positions of each channel."""
    return {
        group.name: (group.size, [(m.name, m.axis, m.role[0], m.positions.shape[1]) for m in group.members])
        for group in coupling.groups
    }


def test_a_stream_of_a_residual_network_is_one_group() -> None:
    net = resnet(8, 0.25, (1, 8, 8), 3)
    found = coupled(net, forward(torch.randn(1, 1, 8, 8)))
    groups = shape_of(found)
    assert list(groups) == [
        "conv.weight", "stage1.0.conv1.weight", "stage2.0.conv1.weight", "stage2.0.conv2.weight",
        "stage3.0.conv1.weight", "stage3.0.conv2.weight",
    ]  # fmt: skip
    assert groups["conv.weight"][0] == 4
    assert [(name, axis, role) for name, axis, role, _ in groups["conv.weight"][1] if role != "n"] == [
        ("conv.weight", 0, "p"), ("stage1.0.conv1.weight", 1, "c"), ("stage1.0.conv2.weight", 0, "p"),
        ("stage2.0.conv1.weight", 1, "c"), ("stage2.0.shortcut.0.weight", 1, "c"),
    ]  # fmt: skip
    assert [name for name, _, role, _ in groups["conv.weight"][1] if role == "n"] == [
        "bn.weight", "bn.bias", "stage1.0.bn2.weight", "stage1.0.bn2.bias",
        "bn.running_mean", "bn.running_var", "stage1.0.bn2.running_mean", "stage1.0.bn2.running_var",
    ]  # fmt: skip
    assert found.fixed == {
        "output.weight": {0: "it is an output of the network"}, "output.bias": {0: "it is an output of the network"},
    }  # fmt: skip
    again = coupled(net, forward(torch.randn(1, 1, 8, 8)))
    assert (shape_of(again), again.fixed) == (groups, found.fixed)


def test_flattened_channels_have_a_column_for_each_place() -> None:
    net = nn.Sequential(c(2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    (group,) = coupled(net, forward(torch.randn(2, 2, 4, 4))).groups
    assert [member.positions.tolist() for member in group.members] == [
        [[0], [1], [2]],
        [[0], [1], [2]],
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
    ]


def head(width: int) -> nn.Linear:
    return nn.Linear(width, 5)


def tied() -> nn.Module:
    one, other = nn.Linear(8, 8), nn.Linear(8, 8)
    other.weight = one.weight
    net = Net(lambda n, x: n.out(n.b(n.a(n.i(x).relu()).relu()).relu()), i=nn.Linear(6, 8), a=one, b=other)
    net.out = head(8)
    return net


def attention(weights: bool) -> nn.Module:
    def compute(n: Any, x: Tensor) -> Tensor:
        hidden = n.norm(n.i(x))
        return n.out((hidden + n.a(hidden, hidden, hidden, need_weights=weights)[0]).mean(1))

    attend = nn.MultiheadAttention(8, 4, batch_first=True)
    return Net(compute, i=nn.Linear(6, 8), norm=nn.LayerNorm(8), a=attend, out=head(8))


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=batch_first, norm_first=True)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Net(lambda n, x: n.out(n.e(n.i(x))), i=nn.Linear(6, 8), e=stack, out=head(8))


def convnext() -> nn.Module:
    def compute(n: Any, x: Tensor) -> Tensor:
        stem = n.stem(x)
        inner = n.norm(n.depthwise(stem).permute(0, 2, 3, 1))
        return n.out(pooled(stem + (n.scale * n.narrow(functional.gelu(n.wide(inner)))).permute(0, 3, 1, 2)))

    return Net(
        compute, stem=c(3, 8), depthwise=c(8, 8, groups=8), norm=nn.LayerNorm(8), wide=nn.Linear(8, 32),
        narrow=nn.Linear(32, 8), scale=nn.Parameter(torch.full((8,), 1e-6)), out=head(8),
    )  # fmt: skip


def shuffled(x: Tensor) -> Tensor:
    n, channels, h, w = x.shape
    return x.view(n, 2, channels // 2, h, w).transpose(1, 2).reshape(n, channels, h, w)


def gate(n: Any, x: Tensor) -> Tensor:
    a = n.a(x)
    return n.out(pooled(a * n.two(n.one(pooled(a)).relu()).sigmoid()[:, :, None, None] * n.spatial(a).sigmoid()))


IMAGE, ROW, WORDS = (3, 8, 8), (6,), (7, 6)
ENCODER = {
    "e.layers.0.self_attn.in_proj_weight": (4, "662"),
    "e.layers.0.linear1.weight": (16, "111"),
    "e.layers.1.self_attn.in_proj_weight": (4, "662"),
    "e.layers.1.linear1.weight": (16, "111"),
}
# the network, its inputs, and of each group its size and how many positions its channels have in each member
CASES = {
    "residual concat": (
        Net(
            lambda n, x: n.out(pooled(n.b(n.a(x)) + torch.cat([n.c(x), n.d(x)], 1))),
            a=c(3, 8),
            b=c(8, 8),
            c=c(3, 3),
            d=c(3, 5),
            out=head(8),
        ),
        IMAGE,
        {"a.weight": (8, "111"), "b.weight": (3, "11111"), "b.weight:2": (5, "11111")},
    ),
    "grouped": (
        Net(lambda n, x: n.out(pooled(n.b(n.a(x).relu()))), a=c(3, 8), b=c(8, 12, groups=4), out=head(12)),
        IMAGE,
        {"a.weight": (2, "441"), "b.weight": (3, "444")},
    ),
    "depthwise, two each": (
        Net(lambda n, x: n.out(pooled(n.b(n.a(x).relu()))), a=c(3, 8), b=c(8, 16, groups=8), out=head(16)),
        IMAGE,
        {"a.weight": (8, "11222")},
    ),
    "transposed": (
        Net(lambda n, x: n.out(pooled(n.b(n.a(x).relu()))), a=c(3, 8), b=nn.ConvTranspose2d(8, 4, 2), out=head(4)),
        IMAGE,
        {"a.weight": (8, "111"), "b.weight": (4, "111")},
    ),
    "transposed grouped": (
        Net(
            lambda n, x: n.out(pooled(n.b(n.a(x).relu()))),
            a=c(3, 8),
            b=nn.ConvTranspose2d(8, 12, 2, groups=4),
            out=head(12),
        ),
        IMAGE,
        {"b.weight": (3, "144")},
    ),
    "transposed depthwise": (
        Net(
            lambda n, x: n.out(pooled(n.b(n.a(x).relu()))),
            a=c(3, 8),
            b=nn.ConvTranspose2d(8, 8, 2, groups=8),
            out=head(8),
        ),
        IMAGE,
        {"a.weight": (8, "11111")},
    ),
    "gates": (
        Net(gate, a=c(3, 8), one=nn.Linear(8, 4), two=nn.Linear(4, 8), spatial=c(8, 1), out=head(8)),
        IMAGE,
        {"a.weight": (8, "1111111"), "one.weight": (4, "111")},
    ),
    "glu": (
        Net(lambda n, x: n.out(functional.glu(n.a(x))), a=nn.Linear(6, 16), out=head(8)),
        ROW,
        {"a.weight": (8, "221")},
    ),
    "chunk": (
        Net(lambda n, x: n.out(torch.mul(*n.a(x).chunk(2, 1))), a=nn.Linear(6, 16), out=head(8)),
        ROW,
        {"a.weight": (8, "221")},
    ),
    "prelu and scale": (
        Net(
            lambda n, x: n.out(n.p(n.a(x)) * n.s),
            a=nn.Linear(6, 8),
            p=nn.PReLU(8),
            s=nn.Parameter(torch.ones(8)),
            out=head(8),
        ),
        ROW,
        {"a.weight": (8, "11111")},
    ),
    "embedding": (
        Net(
            lambda n, x: n.out(n.b(n.e((3 * x).long().clamp(0, 9))).relu()),
            e=nn.Embedding(10, 8),
            b=nn.Linear(8, 4),
            out=head(4),
        ),
        ROW,
        {"e.weight": (8, "11"), "b.weight": (4, "111")},
    ),
    "tied layers": (tied(), ROW, {"i.weight": (8, "1111111")}),
    "tied and turned": (
        Net(lambda n, x: n.out(functional.linear(n.a(x).relu(), n.a.weight.t())), a=nn.Linear(6, 8), out=head(6)),
        ROW,
        {"a.weight": (8, "111")},
    ),
    "heads": (attention(False), WORDS, {"a.in_proj_weight": (4, "662")}),
    "heads whose weights are asked for": (attention(True), WORDS, {}),
    "encoder": (encoder(True), WORDS, ENCODER),
    "encoder, words first": (encoder(False), WORDS, ENCODER),
    "convnext": (convnext(), IMAGE, {"wide.weight": (32, "111")}),
    "instance norm": (
        Net(
            lambda n, x: n.out(pooled(n.n(n.a(x)).relu())), a=c(3, 8), n=nn.InstanceNorm2d(8, affine=True), out=head(8)
        ),
        IMAGE,
        {"a.weight": (8, "11111")},
    ),
    "pixel shuffle": (
        Net(lambda n, x: n.out(pooled(functional.pixel_shuffle(n.a(x), 2))), a=c(3, 16), out=head(4)),
        IMAGE,
        {"a.weight": (4, "441")},
    ),
    "mixer": (
        Net(lambda n, x: n.out(n.t(n.a(x).flatten(2)).relu().mean(2)), a=c(3, 8), t=nn.Linear(64, 10), out=head(8)),
        IMAGE,
        {"a.weight": (8, "111")},
    ),
    "a product with a parameter": (
        Net(
            lambda n, x: n.out((n.w @ n.a(x).relu().t()).t()),
            a=nn.Linear(6, 8),
            w=nn.Parameter(torch.randn(4, 8)),
            out=head(4),
        ),
        ROW,
        {"a.weight": (8, "111"), "w": (4, "11")},
    ),
    "an output behind nothing": (
        Net(
            lambda n, x: {"a": n.a(x).relu(), "b": [n.out(n.b(n.a(x)))]},
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
            out=head(4),
        ),
        ROW,
        {"b.weight": (4, "111")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_together_and_that_it_can_go(case: str) -> None:
    net, shape, expected = CASES[case]
    net, run = drawn(copy.deepcopy(net)), forward(torch.randn(3, *shape))
    coupling = coupled(net, run)
    sizes = {g.name: (g.size, "".join(str(m.positions.shape[1]) for m in g.members)) for g in coupling.groups}
    assert sizes == expected
    masks = dense({name: weight for name, weight in net.named_parameters() if weight.ndim > 1})
    small = without(net, coupling, halves(net, coupling), masks, run)
    assert parameters(small) < parameters(net) or not expected


FIXED = {
    "mean over channels": (
        Net(lambda n, x: n.out(pooled(n.a(x) * n.a(x).mean(1, keepdim=True))), a=c(3, 8), out=head(8)),
        IMAGE, "a.weight", "it is over channels (mean)",
    ),
    "softmax": (
        Net(lambda n, x: n.out(n.a(x).softmax(1)), a=nn.Linear(6, 8), out=head(8)),
        ROW, "a.weight", "it is over channels (_softmax)",
    ),
    "layer norm": (
        nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)),
        ROW, "0.weight", "its mean is over channels (native_layer_norm in 1)",
    ),
    "group norm": (
        Net(lambda n, x: n.out(pooled(n.n(n.a(x)))), a=c(3, 8), n=nn.GroupNorm(2, 8), out=head(8)),
        IMAGE, "a.weight", "GroupNorm keeps its channels (native_group_norm in n)",
    ),
    "group norm, a function": (
        Net(lambda n, x: n.out(pooled(functional.group_norm(n.a(x), 2))), a=c(3, 8), out=head(8)),
        IMAGE,
        "a.weight",
        "its mean is over channels (native_group_norm)",
    ),
    "lstm": (
        Net(lambda n, x: n.out(n.r(n.a(x))[0]), a=nn.Linear(6, 8), r=nn.LSTM(8, 8), out=head(8)),
        WORDS, "r.weight_ih_l0", None,
    ),
    "gru": (
        Net(lambda n, x: n.out(n.r(n.a(x))[0]), a=nn.Linear(6, 8), r=nn.GRU(8, 8), out=head(8)),
        WORDS, "a.weight", None,
    ),
    "positions, and not channels": (
        Net(lambda n, x: n.out(n.t(n.a(x).flatten(2)).relu().mean(2)), a=c(3, 8), t=nn.Linear(64, 10), out=head(8)),
        IMAGE,
        "t.weight",
        "it mixes positions, and not channels (addmm in t)",
    ),
    "computed weight": (
        Net(
            lambda n, x: n.out(pooled(n.b(n.a(x)))), a=c(3, 8), out=head(8),
            b=nn.utils.parametrizations.weight_norm(c(8, 8)),
        ),
        IMAGE, "b.parametrizations.weight.original1", None,
    ),
    "split": (
        Net(lambda n, x: n.out(torch.mul(*n.a(x).split(8, 1))), a=nn.Linear(6, 16), out=head(8)),
        ROW, "a.weight", "it is cut at fixed places (split)",
    ),
    "rolled": (  # of an odd number, whose half is told from the whole by nothing that is measured
        Net(lambda n, x: n.out(n.a(x).roll(1, 1)), a=nn.Linear(6, 5), out=head(5)),
        ROW, "a.weight", "it is cut at fixed places (roll)",
    ),
    "in another order": (
        Net(lambda n, x: n.out(n.a(x)[:, [1, 0, 2, 4, 3]]), a=nn.Linear(6, 5), out=head(5)),
        ROW, "a.weight", "it is cut at fixed places (index)",
    ),
    "zeros around channels": (
        Net(lambda n, x: n.out(functional.pad(n.a(x), (2, 2))), a=nn.Linear(6, 4), out=head(8)),
        ROW, "a.weight", "its channels are padded (constant_pad_nd)",
    ),
    "shuffle": (
        Net(lambda n, x: n.out(pooled(n.b(shuffled(n.a(x))))), a=c(3, 8), b=c(8, 8, groups=2), out=head(8)),
        IMAGE, "a.weight", "its channels are divided into two dimensions (view)",
    ),
    "a branch": (
        Net(lambda n, x: n.out(n.a(x)) if n.a(x).mean() > 0 else n.out(-n.a(x)), a=nn.Linear(6, 8), out=head(8)),
        ROW, "a.weight", "it is over channels (mean)",
    ),
    "an operation that nobody knows": (
        Net(lambda n, x: n.out(n.a(x).sort(1)[0]), a=nn.Linear(6, 8), out=head(8)),
        ROW, "a.weight", "there is no rule for this operation (sort)",
    ),
    "written in place": (
        Net(lambda n, x: n.out(torch.zeros(3, 8).copy_(n.a(x))), a=nn.Linear(6, 8), out=head(8)),
        ROW, "a.weight", "its channels meet what has none, or what is fixed (copy_)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIXED)
def test_what_is_fixed_and_why(case: str) -> None:
    net, shape, name, why = FIXED[case]
    net, inputs = drawn(copy.deepcopy(net)), torch.randn(3, *shape)
    coupling = coupled(net, forward(inputs))
    assert not coupling.groups or case in ("shuffle", "positions, and not channels")
    assert why is None or coupling.fixed[name][0] == why
    assert 0 in coupling.fixed[name]
    halved(net, forward(inputs))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TorchScript is deprecated, and networks have it
def test_what_torchscript_touches_stays_whole() -> None:
    script = torch.jit.script(nn.Sequential(c(8, 8), nn.ReLU()))
    net = Net(lambda n, x: n.out(pooled(n.b(n.s(n.a(x).relu())).relu())), a=c(3, 8), s=script, b=c(8, 6), out=head(6))
    coupling = coupled(net, forward(torch.randn(2, 3, 8, 8)))
    assert coupling.fixed["a.weight"][0] == coupling.fixed["b.weight"][1] == "it is in s, which is TorchScript"
    assert [group.name for group in coupling.groups] == ["b.weight"]
    halved(net, forward(torch.randn(2, 3, 8, 8)))


def test_rolling_places_leaves_channels_free() -> None:
    net = Net(lambda n, x: n.out(pooled(n.a(x).roll((1, 2), (2, 3)).relu())), a=c(3, 8), out=head(8))
    assert [group.name for group in coupled(net, forward(torch.randn(2, 3, 8, 8))).groups] == ["a.weight"]
    halved(net, forward(torch.randn(2, 3, 8, 8)))


def test_experts_without_examples_leave_the_rest_to_be_cut() -> None:
    def mixed(n: Any, x: Tensor) -> Tensor:
        hidden = n.a(x)
        found = torch.cat([n.one(hidden), n.two(hidden[:0])])  # the first expert has them all
        return n.out(n.b(found).relu())

    net = Net(mixed, a=nn.Linear(6, 8), one=nn.Linear(8, 8), two=nn.Linear(8, 8), b=nn.Linear(8, 6), out=head(6))
    coupling = coupled(net, forward(torch.randn(3, 6)))
    assert coupling.fixed["a.weight"][0] == "it is given nothing or gives nothing (slice)"
    assert "two" in coupling.fixed["two.weight"][0]
    assert "b.weight" in [group.name for group in coupling.groups]
    halved(net, forward(torch.randn(3, 6)))


def test_what_no_operation_of_a_run_uses() -> None:
    net = Net(
        lambda n, x: n.out(n.a(x)) if x.sum() < 1e9 else n.b(n.e(n.a(x))),
        a=nn.Linear(6, 8), b=nn.Linear(8, 3), e=nn.BatchNorm1d(8), out=head(8),
    )  # fmt: skip
    assert unused(net, forward(torch.randn(2, 6))) == ["b.weight", "b.bias", "e.weight", "e.bias"]
    net.compute = lambda n, x: n.b(n.a(x)) if n.training else n.out(n.e(n.a(x)))
    assert unused(net, forward(torch.randn(2, 6))) == []
    net.compute = lambda n, x: functional.linear(n.a(x), n.b.weight.t().t()) + n.e.weight[:3] + n.e.bias[:3]
    assert unused(net, forward(torch.randn(2, 6))) == ["b.bias", "out.weight", "out.bias"]
    net.compute = lambda n, x: n.out(x)  # fails, of which tracing says how
    assert unused(net, forward(torch.randn(2, 6))) == []
    net.compute = lambda n, x: n.out(n.e(n.a(x[:1])))  # fails in training, where BatchNorm asks for a second value
    assert unused(net, forward(torch.randn(2, 6))) == ["b.weight", "b.bias"]


def test_what_is_united_with_something_fixed_is_fixed_for_the_first_reason() -> None:
    labels = Labels()
    one, two, three = labels.fresh(2), labels.fresh(2), labels.fresh(2)
    labels.fix(three, "first")
    labels.fix(two[:1], "second")
    labels.unite(three, two, "they are added")
    labels.unite(two, one, "they are added")
    assert labels.roots(torch.cat([one, two, three])).tolist() == [0] * 6
    assert [labels.reason(int(label)) for label in (*one, *two)] == ["first"] * 4
    chain = labels.fresh(2000)  # more than there is room for at first, united at once
    labels.unite(chain[:-1], chain[1:], "")
    labels.unite(chain[-1:], torch.tensor([0]), "it meets what has none")
    assert not labels.roots(chain).any()
    assert labels.reason(int(chain[0])) == "it meets what has none"


def test_any_run_will_do_such_as_a_loss() -> None:
    net, x, y = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6), torch.arange(4) % 3

    def run(net: nn.Module) -> Tensor:
        return functional.cross_entropy(net(x), y)

    found = coupled(net, run)
    assert shape_of(found) == shape_of(coupled(net, forward(x)))
    assert found.fixed["2.bias"] == {0: "it is over channels (_log_softmax)"}


def test_tracing_leaves_everything_as_it_was() -> None:
    seen = []
    net = nn.Sequential(c(1, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    net[0].register_forward_hook(lambda *_: seen.append(net[0]))
    net[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def run(net: nn.Module) -> Tensor:
        torch.rand(1), np.random.rand(), random.random()
        return net(torch.randn(2, 1, 4, 4))

    inside = torch.backends.mha.get_fastpath_enabled()
    coupling = coupled(net, run)
    without(net, coupling, {coupling.groups[0].name: [1]}, masks_of(net), run)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == inside
    assert seen


def test_networks_that_cannot_be_traced() -> None:
    net = nn.Linear(3, 2)
    net.cache = net(torch.randn(1, 3))
    with pytest.raises(Refused, match=r"^channels: the network can't be copied, and so not traced: RuntimeError"):
        coupled(net, forward(torch.randn(1, 3)))
    with pytest.raises(ZeroDivisionError):  # what the network raises is its own matter
        coupled(nn.Linear(3, 2), lambda net: 1 / 0)


@st.composite
def topologies(draw: st.DrawFn) -> nn.Module:
    """Small networks of convolutions, each block of a kind."""
    torch.manual_seed(draw(st.integers(0, 999)))
    kinds = draw(st.lists(st.sampled_from(["plain", "residual", "concat", "depthwise", "grouped", "gate"]), max_size=4))
    width, layers, kinds_of = 4, nn.ModuleList([nn.Sequential(c(1, 4), nn.BatchNorm2d(4))]), list(kinds)
    for kind in kinds_of:
        if kind == "plain":
            new = draw(st.sampled_from([2, 4, 6]))
            layers.append(nn.Sequential(nn.ReLU(), c(width, new), nn.BatchNorm2d(new)))
            width = new
        elif kind == "concat":
            layers.append(nn.Sequential(nn.ReLU(), c(width, 2, bias=False)))
            width += 2
        elif kind == "gate":
            layers.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid()))
        else:
            groups = {"residual": 1, "depthwise": width, "grouped": 2}[kind]
            layers.append(nn.Sequential(nn.ReLU(), c(width, width, groups=groups), nn.BatchNorm2d(width)))

    def compute(n: Any, x: Tensor) -> Tensor:
        x = n.layers[0](x)
        for kind, layer in zip(kinds_of, n.layers[1:], strict=True):
            y = layer(x)
            x = (
                torch.cat([x, y], 1)
                if kind == "concat"
                else x * y
                if kind == "gate"
                else x + y
                if kind == "residual"
                else y
            )
        return n.out(x.flatten(1))

    return drawn(Net(compute, layers=layers, out=nn.Linear(16 * width, 3)))


@settings(max_examples=12, deadline=None)
@given(topologies(), st.data())
def test_any_network_of_such_blocks(net: nn.Module, data: st.DataObject) -> None:
    run = forward(torch.randn(3, 1, 4, 4))
    coupling = coupled(net, run)
    assert coupling.groups
    kept = {
        group.name: sorted(data.draw(st.sets(st.sampled_from(range(group.size)), min_size=1), group.name))
        for group in coupling.groups
    }
    small = without(net, coupling, kept, masks_of(net), run)
    assert all(parameter.numel() for parameter in small.parameters())
