"""Networks: their sizes by arithmetic of our own, what of them is pruned, how they begin, what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from scipy.stats import kstest
from torch import Tensor, nn

from lottery.config.compose import cell_configs
from lottery.config.groups import CONF
from lottery.config.nodes import network
from lottery.models import lenet, resnet
from lottery.models.conv import conv
from lottery.models.initialisations import gaussian_glorot_, kaiming_normal_, kaiming_uniform_
from lottery.models.lenet import lenet_5, lenet_300_100
from lottery.models.mlp import mlp, residual_mlp
from lottery.models.pretrained import pretrained
from lottery.models.resnet import wide_resnet
from lottery.models.vgg import vgg
from lottery.models.vision import torchvision_model
from lottery.pruning.masks import prunable
from tests.few import few

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
YAMLS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {"lightning"})
TORCHVISION = [name for name in YAMLS if "vision" in (CONF / "model" / f"{name}.yaml").read_text()]

Network = Callable[..., nn.Module]
SMALL: dict[str, Network] = {
    "lenet_300_100": lenet_300_100, "lenet_5": lenet_5, "conv_2": partial(conv, 2), "conv_6": partial(conv, 6),
    "resnet_8": partial(resnet.resnet, 8, 1), "wrn_10_2": partial(wide_resnet, 10, 2), "vgg_11": partial(vgg, 11),
}  # fmt: skip


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def weights(net: nn.Module) -> int:
    return sum(weight.numel() for weight in prunable(net).values())


@pytest.fixture
def meta() -> Any:
    """Big networks exist in shape only."""
    with torch.device("meta"):
        yield


# --- LeNet


def test_parameters_are_the_papers_266_610() -> None:
    net = lenet_300_100(GREY, 10)
    assert size(net) == 266_610
    assert [(n, tuple(w.shape)) for n, w in prunable(net).items()] == [
        ("fc1.weight", (300, 784)),
        ("fc2.weight", (100, 300)),
        ("output.weight", (10, 100)),
    ]


@pytest.mark.parametrize(("shape", "classes"), [(GREY, 10), ((1, 8, 8), 10), ((3, 32, 32), 100), ((5,), 2)])
def test_any_shape_of_image_gives_a_logit_a_class(shape: tuple[int, ...], classes: int) -> None:
    assert lenet_300_100(shape, classes)(torch.zeros(7, *shape)).shape == (7, classes)


def test_logits_are_three_affine_maps_with_two_rectifiers_between() -> None:
    torch.manual_seed(0)
    net, inputs = lenet_300_100(GREY, 10), torch.randn(4, *GREY)
    layers = [(layer.weight, layer.bias.data.normal_()) for layer in net if isinstance(layer, nn.Linear)]
    values = inputs.reshape(4, 784)
    for index, (weight, bias) in enumerate(layers):
        values = values @ weight.T + bias
        values = values.clamp(min=0) if index < 2 else values
    torch.testing.assert_close(net(inputs), values)
    assert (values < 0).any()


def test_lenet_5_has_the_61_706_parameters_of_padded_digits() -> None:
    assert size(lenet_5(GREY, 10)) == (25 + 1) * 6 + (6 * 25 + 1) * 16 + 401 * 120 + 121 * 84 + 85 * 10 == 61_706


# --- MLPs


def test_an_mlp_of_three_layers_has_the_sizes_of_set_s_and_dropout_only_where_asked_for() -> None:
    net = mlp(GREY, 10, widths=[1000, 1000, 1000], dropout=0.2)
    assert sum(weight.numel() for weight in prunable(net).values()) == 784_000 + 2_000_000 + 10_000
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout"] * 3, "Linear"]
    assert [type(layer).__name__ for layer in mlp(GREY, 10, widths=[3])] == ["Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("widths", [[], [300, 0]])
def test_an_mlp_without_layers_or_units_is_refused(widths: list[int]) -> None:
    with pytest.raises(
        ValueError, match=r"^widths=\[.*\]: must name at least one hidden layer, each of at least 1 unit$"
    ):
        mlp(GREY, 10, widths=widths)


def test_the_mlp_adds_its_second_layer_to_what_that_reads() -> None:
    torch.manual_seed(0)
    net, inputs = residual_mlp([2, 3], 4, width=5), torch.randn(7, 2, 3)
    (w1, b1), (w2, b2), (w3, b3) = (
        (layer.weight, layer.bias) for layer in net.modules() if isinstance(layer, nn.Linear)
    )
    hidden = (inputs.reshape(7, 6) @ w1.T + b1).clamp(min=0)
    added = (hidden @ w2.T + b2).clamp(min=0)
    assert (added > 0).any()
    torch.testing.assert_close(net(inputs), (hidden + added) @ w3.T + b3)


def test_the_mlp_has_the_notebook_s_276_010_parameters_and_pytorch_s_own_initialisation() -> None:
    torch.manual_seed(42)
    net = residual_mlp([40], 10)
    assert size(net) == 41 * 500 + 501 * 500 + 501 * 10 == 276_010
    torch.manual_seed(42)
    layers = nn.Linear(40, 500), nn.Linear(500, 500), nn.Linear(500, 10)
    drawn = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), drawn, strict=True))


def test_an_mlp_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^width=0: must be at least 1 unit$"):
        residual_mlp([40], 10, width=0)


# --- sizes of the other families


CONV = {
    2: 27 * 64 + 576 * 64 + 64 * 16 * 16 * 256,
    4: 27 * 64 + 576 * 64 + 576 * 128 + 1152 * 128 + 128 * 8 * 8 * 256,
    6: 27 * 64 + 576 * 64 + 576 * 128 + 1152 * 128 + 1152 * 256 + 2304 * 256 + 256 * 4 * 4 * 256,
}


@pytest.mark.parametrize(("depth", "published"), [(2, 4_300_992), (4, 2_425_024), (6, 2_261_184)])
def test_conv_nets_have_the_weights_of_their_layers(depth: int, published: int, meta: None) -> None:
    net, channels = conv(depth, COLOUR, 10), 2 * (64 + 128 + 256)
    assert weights(net) == CONV[depth] + 256 * 256 + 256 * 10 == published
    assert size(net) == published + {2: 128, 4: 384, 6: channels}[depth] + 256 + 256 + 10


def test_conv_nets_prune_to_the_densities_that_their_paper_prints() -> None:
    def density(depth: int, convolutions: int, rounds: int) -> float:
        linear = CONV[depth] - convolutions + 256 * 256
        left = 0.9**rounds * (convolutions + 2560) + 0.8**rounds * linear
        return round(100 * left / (convolutions + linear + 2560), 1)

    assert [density(2, 38_592, 11), density(2, 38_592, 14)] == [8.8, 4.6]
    assert [density(4, 259_776, 12), density(4, 259_776, 11)] == [9.2, 11.1]


def resnet_size(depth: int, width: int) -> tuple[int, int, int]:
    """Weights in the way, weights of shortcuts, other parameters; for 10 classes, by the table of He et al."""
    n, (a, b, c) = (depth - 2) // 6, (16 * width, 32 * width, 64 * width)
    way = 9 * (3 * a + 2 * n * a * a + a * b + (2 * n - 1) * b * b + b * c + (2 * n - 1) * c * c) + 10 * c
    shortcuts = a * b + b * c
    others = 2 * (a + 2 * n * (a + b + c)) + 2 * (b + c) + 10
    return way, shortcuts, others


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_resnets_have_the_parameters_of_their_table(depth: int, width: int, meta: None) -> None:
    net = resnet.resnet(depth, width, COLOUR, 10)
    assert size(net) == sum(resnet_size(depth, width))
    assert weights(net) == sum(resnet_size(depth, width)[:2])


def test_resnet_20_is_the_272k_of_option_b_and_nearly_the_270k_of_option_a(meta: None) -> None:
    net = resnet.resnet(20, 1, COLOUR, 10)
    shortcuts = sum(p.numel() for name, p in net.named_parameters() if "shortcut" in name)
    statistics = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert size(net) == 272_474
    assert size(net) - shortcuts == 269_722
    assert size(net) + statistics == 274_042
    assert [size(resnet.resnet(d, 1, COLOUR, 10)) for d in (56, 110)] == [855_770, 1_730_714]


def test_resnet_20_prunes_to_the_densities_that_frankle_and_carbin_print(meta: None) -> None:
    found = prunable(resnet.resnet(20, 1, COLOUR, 10))
    spared = sum(w.numel() for name, w in found.items() if "shortcut" in name or name == "output.weight")
    total = sum(w.numel() for w in found.values())
    assert (spared, total) == (2_560 + 640, 270_896)
    densities = [(0.8**rounds * (total - spared) + spared) / total for rounds in (6, 7, 10)]
    assert [round(100 * density, 1) for density in densities] == [27.1, 21.9, 11.8]


@pytest.mark.parametrize(("depth", "width", "published"), [(28, 10, 36_479_194), (40, 4, 8_949_210), (22, 2, None)])
def test_wide_resnets_have_the_parameters_of_their_table(
    depth: int, width: int, published: int | None, meta: None
) -> None:
    n, (a, b, c) = (depth - 4) // 6, (16 * width, 32 * width, 64 * width)
    way = 9 * (3 * 16 + 16 * a + (2 * n - 1) * a * a + a * b + (2 * n - 1) * b * b + b * c + (2 * n - 1) * c * c)
    shortcuts = 16 * a + a * b + b * c
    norms = 2 * (16 + (2 * n - 1) * a + a + (2 * n - 1) * b + b + (2 * n - 1) * c + c)
    net = wide_resnet(depth, width, COLOUR, 10)
    assert weights(net) == way + shortcuts + 10 * c
    assert size(net) == way + shortcuts + norms + 10 * c + 10
    assert published in (None, size(net))


PLANS = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}


@pytest.mark.parametrize("depth", PLANS)
def test_vggs_follow_their_plan(depth: int, meta: None) -> None:
    net, expected, channels = vgg(depth, COLOUR, 10), 512 * 10 + 10, 3
    kinds = {nn.Conv2d: lambda layer: str(layer.out_channels), nn.MaxPool2d: lambda layer: "M"}
    assert " ".join(kinds[type(layer)](layer) for layer in net if type(layer) in kinds) == PLANS[depth]
    for width in [int(word) for word in PLANS[depth].split() if word != "M"]:
        expected += 9 * channels * width + 2 * width
        channels = width
    assert size(net) == expected
    assert weights(net) == sum(w.numel() for n, w in net.named_parameters() if w.ndim > 1)
    assert len(prunable(net)) == depth - 2, "two of three linear layers are gone"


def test_a_narrow_vgg_has_a_share_of_the_channels(meta: None) -> None:
    narrow = vgg(11, COLOUR, 10, width=0.125)
    found = [layer.out_channels for layer in narrow.modules() if isinstance(layer, nn.Conv2d)]
    assert found == [8, 16, 32, 32, 64, 64, 64, 64]
    assert narrow.output.in_features == 64
    assert size(vgg(11, COLOUR, 10, width=1)) == size(vgg(11, COLOUR, 10))


def test_vgg_19_is_the_papers_20_million(meta: None) -> None:
    assert size(vgg(19, COLOUR, 10)) == 20_035_018
    assert size(vgg(16, COLOUR, 10)) == 14_724_042


# --- every yaml


@pytest.mark.parametrize("name", few(YAMLS, 10))
def test_yaml_names_its_size_and_its_last_prunable_layer_is_the_output(name: str, meta: None) -> None:
    shapes = {"lenet_300_100": GREY, "lenet_5": GREY, "mlp": GREY, "mlp_mnist1d": (40,)}
    shape = [3, 224, 224] if name in TORCHVISION else [*shapes.get(name, COLOUR)]
    classes = 1000 if name in TORCHVISION else 10
    for count in (classes, 7):
        [job] = cell_configs([f"model={name}", f"data.shape={shape}", f"data.classes={count}"])
        net = network(job.config["model"])
        last, weight = list(prunable(net).items())[-1]
        assert len(weight) == count
        assert last == "output.weight" or name in TORCHVISION
        if count == classes:
            comment = (CONF / "model" / f"{name}.yaml").read_text().splitlines()[0]
            assert re.search(r"([\d,]+) parameters", comment)[1] == f"{size(net):,}"
        own = {"lenet", "conv", "mlp", "resnet", "vgg"} & set(job.config["model"]["_target_"].split("."))
        spared = {n for n, p in net.named_parameters() if p.ndim > 1} - prunable(net).keys()
        assert not (own and spared), "all matrices and kernels of our own networks are prunable"


def test_attention_of_torchvision_keeps_its_input_weights_out_of_pruning(meta: None) -> None:
    net = torchvision_model("vit_b_16", (3, 224, 224), 10)
    missed = {name for name, p in net.named_parameters() if p.ndim == 2} - prunable(net).keys()
    assert {name.rpartition(".")[2] for name in missed} == {"in_proj_weight"}
    assert len(missed) == 12


# --- what networks do


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 21, 17)])
@pytest.mark.parametrize("name", SMALL)
def test_gives_a_logit_a_class_and_learns_in_every_parameter(name: str, shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    net = SMALL[name](shape, 7)
    outputs = net(torch.randn(4, *shape))
    assert outputs.shape == (4, 7)
    outputs.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("name", "smallest"), [("lenet_5", 12), ("conv_2", 2), ("conv_6", 8), ("vgg_11", 16), ("resnet_8", 1)]
)
def test_the_smallest_image_is_taken(name: str, smallest: int) -> None:
    assert SMALL[name]((1, smallest, smallest), 3)(torch.randn(2, 1, smallest, smallest)).shape == (2, 3)


def traced(net: nn.Module, shape: Sequence[int], kind: type[nn.Module] = nn.Conv2d) -> list[tuple[int, ...]]:
    """Shapes (C, H, W) that layers of a kind give."""
    found: list[tuple[int, ...]] = []
    for layer in net.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(lambda layer, inputs, output: found.append(tuple(output.shape[1:])))
    net.eval()(torch.zeros(1, *shape))
    return found


def test_images_shrink_where_the_papers_say() -> None:
    assert traced(lenet_5(GREY, 10), GREY) == [(6, 28, 28), (16, 10, 10)]
    assert traced(conv(4, COLOUR, 10), COLOUR) == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2
    stages = [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    assert traced(resnet.resnet(8, 1, COLOUR, 10), COLOUR) == stages
    wide = [(16, 32, 32), *[(32, 32, 32)] * 3, *[(64, 16, 16)] * 3, *[(128, 8, 8)] * 3]
    assert traced(wide_resnet(10, 2, COLOUR, 10), COLOUR) == wide
    assert traced(vgg(11, COLOUR, 10), COLOUR, nn.AdaptiveAvgPool2d) == [(512, 1, 1)]
    assert traced(vgg(11, COLOUR, 10), COLOUR)[-1] == (512, 2, 2)


def statistics_(net: nn.Module) -> nn.Module:
    """Normalisation layers that change what they get, in evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.normal_()
    return net.eval()


@torch.no_grad()
def test_blocks_are_those_of_their_papers() -> None:
    torch.manual_seed(0)
    images, rectified = torch.randn(2, 4, 8, 8), torch.relu
    for outputs, stride in ((4, 1), (6, 2), (6, 1)):
        block: Any = statistics_(resnet._Block(4, outputs, stride))
        inner = block.bn2(block.conv2(rectified(block.bn1(block.conv1(images)))))
        way = block.shortcut[1](block.shortcut[0](images)) if outputs == 6 else images
        torch.testing.assert_close(block(images), rectified(inner + way))
        block = statistics_(resnet._PreActivation(4, outputs, stride))
        active = rectified(block.bn1(images))
        inner = block.conv2(rectified(block.bn2(block.conv1(active))))
        torch.testing.assert_close(block(images), inner + (block.shortcut(active) if outputs == 6 else images))
    assert isinstance(resnet.resnet(8, 1, COLOUR, 10).stage1[0].shortcut, nn.Identity)


@torch.no_grad()
def test_vggs_last_stage_is_averaged() -> None:
    torch.manual_seed(0)
    net: Any = vgg(11, COLOUR, 10).eval()
    images = torch.randn(2, *COLOUR)
    torch.testing.assert_close(net(images), net.output(net[: list(net._modules).index("pool5")](images).mean((2, 3))))


def test_dropout_stands_behind_the_hidden_layers_and_is_off_by_default() -> None:
    kinds = [type(layer).__name__ for layer in conv(2, (3, 8, 8), 10, dropout=0.5)][-7:]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    images = torch.randn(2, 3, 8, 8)
    for rate in (0.0, 0.5):
        net = conv(2, (3, 8, 8), 10, dropout=rate)
        assert torch.equal(net(images), net(images)) == (rate == 0)


# --- how networks begin


def test_weights_are_gaussian_with_glorots_variance_and_biases_zero() -> None:
    torch.manual_seed(0)
    net = lenet_300_100(GREY, 10)
    for name, fans in (("fc1", 784 + 300), ("fc2", 300 + 100), ("output", 100 + 10)):
        layer: Any = net.get_submodule(name)
        found = layer.weight.detach().flatten().double()
        five_errors = 5 * (2 / found.numel()) ** 0.5
        assert float(found.var()) == pytest.approx(2 / fans, rel=five_errors)
        assert kstest(found / (2 / fans) ** 0.5, "norm").pvalue > 1e-3
        assert not layer.bias.any()


def test_glorot_counts_a_convolutions_receptive_field() -> None:
    torch.manual_seed(0)
    net: Any = gaussian_glorot_(
        nn.Sequential(nn.Conv2d(16, 32, 5, bias=False), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 3))
    )
    assert float(net[0].weight.detach().var()) == pytest.approx(2 / (25 * (16 + 32)), rel=5 * (2 / 12_800) ** 0.5)
    assert float(net[2].weight.detach().var()) == pytest.approx(2 / (9 * (32 + 8)), rel=5 * (2 / 2_304) ** 0.5)
    assert not net[2].bias.any()
    assert net[1].weight.tolist() == [1.0] * 32


@pytest.mark.parametrize("init", [kaiming_normal_, kaiming_uniform_])
def test_kaiming_has_variance_two_by_fan_in_and_leaves_nothing_as_it_was(init: Network) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Conv2d(16, 32, 5), nn.BatchNorm2d(32), nn.Linear(200, 100))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7)
    assert init(net) is net
    for layer, fan_in in ((net[0], 25 * 16), (net[2], 200)):
        found = layer.weight.detach().flatten().double() / (2 / fan_in) ** 0.5
        assert float(found.var()) == pytest.approx(1, rel=5 * (2 / found.numel()) ** 0.5)
        law = ("norm",) if init is kaiming_normal_ else ("uniform", (-(3**0.5), 2 * 3**0.5))
        assert kstest(found, *law).pvalue > 1e-3
        assert not layer.bias.any()
    assert net[1].weight.tolist() == [1.0] * 32
    assert net[1].bias.tolist() == [0.0] * 32


@pytest.mark.parametrize("family", [partial(resnet.resnet, 8, 1), partial(wide_resnet, 10, 1), partial(vgg, 11)])
def test_kaiming_normal_unless_another_initialisation_is_asked_for(family: Network) -> None:
    def spread(name: str, **init: Any) -> float:
        torch.manual_seed(0)
        return float(family(COLOUR, 10, **init).get_parameter(name).detach().var())

    for name in ("conv.weight",) if "resnet" in family.func.__name__ else ("conv1_1.weight",):
        outputs = 16 if name == "conv.weight" else 64
        assert spread(name) == pytest.approx(2 / 27, rel=0.35)
        ratio = spread(name, init=gaussian_glorot_) / spread(name)
        assert ratio == pytest.approx(27 / (27 + 9 * outputs), rel=1e-5), "the same draws in another scale"


@pytest.mark.parametrize("name", SMALL)
def test_the_draw_is_that_of_the_global_generator(name: str) -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in SMALL[name]((3, 16, 16), 10).parameters()])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# --- what networks refuse


@pytest.mark.parametrize(
    ("network", "shape", "sentence"),
    [
        (lenet_5, [1, 11, 28], "shape=[1, 11, 28]: LeNet-5 halves the image twice and needs at least 12x12"),
        (lenet_5, [784], "shape=[784]: LeNet-5 takes images of a shape [channels, height, width]"),
        (partial(conv, 2), [3, 1, 1], "shape=[3, 1, 1]: Conv-2 halves the image once and needs at least 2x2"),
        (partial(conv, 6), [3, 7, 7], "shape=[3, 7, 7]: Conv-6 halves the image three times and needs at least 8x8"),
        (partial(conv, 3), COLOUR, "depth=3: must be 2, 4 or 6 convolutions"),
        (partial(vgg, 19), [1, 8, 8], "shape=[1, 8, 8]: VGG-19 halves the image four times and needs at least 16x16"),
        (partial(vgg, 18), COLOUR, "depth=18: must be one of 11, 13, 16, 19"),
        (partial(resnet.resnet, 20, 1), [3, 32], "shape=[3, 32]: ResNet-20 takes images of a shape [channels,"),
        (partial(resnet.resnet, 18, 1), COLOUR, "depth=18: must be 6n + 2, such as 8, 14, 20, 32, 44, 56, 110"),
        (partial(resnet.resnet, 2, 1), COLOUR, "depth=2: must be 6n + 2"),
        (partial(resnet.resnet, 20, 0), COLOUR, "width=0: leaves no channel of 16; must be at least 0.05"),
        (partial(wide_resnet, 20, 2), COLOUR, "depth=20: must be 6n + 4, such as 10, 16, 22, 28, 40"),
        (partial(torchvision_model, "resnet19"), COLOUR, "name=resnet19: torchvision has no such classifier; did you"),
        (partial(torchvision_model, "xyzzy"), COLOUR, "name=xyzzy: torchvision has no such classifier; its list_"),
        (partial(torchvision_model, "resnet18"), GREY, "shape=[1, 28, 28]: resnet18 takes images of 3 channels, not 1"),
        (partial(torchvision_model, "vit_b_16"), COLOUR, "shape=[3, 32, 32]: vit_b_16 is built for 224x224 images;"),
        (partial(torchvision_model, "vit_b_16", image_size=40), (3, 40, 40), "vit_b_16 can't be built: Input shape"),
        (partial(torchvision_model, "resnet18", weights="V9"), COLOUR, "weights=V9: must be IMAGENET1K_V1, DEFAULT or"),
    ],
)
def test_refuses_in_one_sentence(network: Network, shape: Sequence[int], sentence: str, meta: None) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        network(shape=shape, classes=10)
    assert "\n" not in str(error.value)


# --- pretrained weights


def test_an_own_network_takes_a_file_and_a_new_last_layer_for_other_classes(tmp_path: Path) -> None:
    source, file = lenet.lenet_5(GREY, 10), str(tmp_path / "digits.safetensors")
    safetensors.torch.save_file(source.state_dict(), file)
    same = pretrained(lenet_5(GREY, 10), file).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in source.state_dict().items())

    torch.manual_seed(3)
    fresh = lenet_5(GREY, 26).state_dict()
    torch.manual_seed(3)
    other = pretrained(lenet_5(GREY, 26), file).state_dict()
    for name, tensor in other.items():
        assert torch.equal(tensor, (fresh if name.startswith("output") else source.state_dict())[name]), name


def test_a_file_that_does_not_fit_is_refused_with_names_and_shapes(tmp_path: Path) -> None:
    file = str(tmp_path / "a.safetensors")

    def refused(tensors: dict[str, Tensor]) -> str:
        safetensors.torch.save_file(tensors, file)
        net = lenet_300_100(GREY, 10)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        with pytest.raises(ValueError) as error:
            pretrained(net, file)
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        return str(error.value).removeprefix(f"weights={file}: does not fit this network; ")

    whole = lenet_300_100(GREY, 10).state_dict()
    assert refused({n: t for n, t in whole.items() if n != "fc1.bias"}) == "it lacks fc1.bias 300"
    assert refused(whole | {"fc3.weight": torch.zeros(2, 3)}) == "it also has fc3.weight 2x3"
    misfit = refused(whole | {"fc2.weight": torch.zeros(100, 200)})
    assert misfit == "other shapes have fc2.weight 100x200, not 100x300"
    assert refused(whole | {"output.weight": torch.zeros(5, 100)}) == (
        "other shapes have output.weight 5x100, not 10x100"
    ), "a weight without its bias"
    assert refused(whole | {"output.weight": torch.zeros(5, 9), "output.bias": torch.zeros(5)}) == (
        "other shapes have output.bias 5, not 10, output.weight 5x9, not 10x100"
    )
    assert refused({"a": torch.zeros(())}) == (
        "it lacks fc1.weight 300x784, fc1.bias 300, fc2.weight 100x300 and 3 more; it also has a scalar"
    )


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=re.escape(f"weights={file}: there is no such file")):
        pretrained(lenet_5(GREY, 10), str(file))
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=re.escape(f"weights={file}: can't be read as a safetensors file (")):
        torchvision_model("resnet18", COLOUR, 10, weights=str(file))


@pytest.mark.parametrize(("name", "head"), [("squeezenet1_1", "classifier.1."), ("shufflenet_v2_x0_5", "fc.")])
def test_torchvisions_weights_are_taken_by_name(
    name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torchvision.models.get_model(name, weights=None)
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for classes in (1000, 10):
        net = torchvision_model(name, (3, 64, 64), classes, weights="IMAGENET1K_V1").eval()
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, classes)
        for key, tensor in net.state_dict().items():
            taken = tensor.shape == source.state_dict()[key].shape and torch.equal(tensor, source.state_dict()[key])
            assert taken == (classes == 1000 or not key.startswith(head)), key


def test_no_network_is_said_and_a_download_is_asked_for_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, file: str, digest: str | None, progress: bool = True) -> None:
        asked.append(digest)
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ValueError, match=r"weights=IMAGENET1K_V1: can't be downloaded \(.*no route"):
        torchvision_model("squeezenet1_1", (3, 64, 64), 10, weights="IMAGENET1K_V1")
    assert asked == ["b8a52dc0"]


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = torchvision.models.get_model_weights("squeezenet1_1")["IMAGENET1K_V1"].url
    (tmp_path / "checkpoints").mkdir()
    torch.save({"features.0.weight": partial(print, "ran")}, tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(Exception, match="Weights only load failed"):
        torchvision_model("squeezenet1_1", (3, 64, 64), 10, weights="IMAGENET1K_V1")
