"""LeNet-300-100 of Frankle & Carbin 2019: its size and its Gaussian Glorot initialisation."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from lottery.masks import prunable
from lottery.models.initialisations import gaussian_glorot_
from lottery.models.lenet import lenet_300_100

GREY = (1, 28, 28)


def test_parameters_are_the_papers_266_610() -> None:
    net = lenet_300_100(GREY, 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 266_610
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
    weights = [(layer.weight, layer.bias.data.normal_()) for layer in net if isinstance(layer, nn.Linear)]
    values = inputs.reshape(4, 784)
    for index, (weight, bias) in enumerate(weights):
        values = values @ weight.T + bias
        values = values.clamp(min=0) if index < 2 else values
    torch.testing.assert_close(net(inputs), values)
    assert (values < 0).any()


def test_weights_are_gaussian_with_glorots_variance_and_biases_zero() -> None:
    torch.manual_seed(0)
    net = lenet_300_100(GREY, 10)
    for name, fans in (("fc1", 784 + 300), ("fc2", 300 + 100), ("output", 100 + 10)):
        layer = net.get_submodule(name)
        weights = layer.weight.detach().flatten().double()
        five_errors = 5 * (2 / weights.numel()) ** 0.5
        assert float(weights.var()) == pytest.approx(2 / fans, rel=five_errors)
        assert kstest(weights / (2 / fans) ** 0.5, "norm").pvalue > 1e-3
        assert not layer.bias.any()


def test_glorot_counts_a_convolutions_receptive_field() -> None:
    torch.manual_seed(0)
    net = gaussian_glorot_(nn.Sequential(nn.Conv2d(16, 32, 5, bias=False), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 3)))
    assert float(net[0].weight.detach().var()) == pytest.approx(2 / (25 * (16 + 32)), rel=5 * (2 / 12_800) ** 0.5)
    assert float(net[2].weight.detach().var()) == pytest.approx(2 / (9 * (32 + 8)), rel=5 * (2 / 2_304) ** 0.5)
    assert not net[2].bias.any()
    assert net[1].weight.tolist() == [1.0] * 32, "normalisation keeps its own initialisation"


def test_the_draw_is_that_of_the_global_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return lenet_300_100(GREY, 10).fc1.weight

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
