"""Half of the channels of well-known networks: the masked network and the smaller one are the same function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from torch import nn

from lottery.models.conv import conv
from lottery.models.lenet import lenet_5, lenet_300_100
from lottery.models.resnet import resnet
from lottery.models.vgg import vgg
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.channels.masking import alive, masks
from lottery.pruning.channels.removal import structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.masks import apply_
from tests.channels import UNet, drawn, forward, halves, masks_of, parameters

CIFAR = (3, 32, 32)


def vision(name: str, **more: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=10, **more)


# parameters before and after as two libraries for this also count them
NETWORKS = [
    pytest.param(lambda: lenet_300_100((1, 28, 28), 10), (1, 28, 28), 266_610, 125_810, 2, id="lenet_300_100"),
    pytest.param(lambda: lenet_5((1, 28, 28), 10), (1, 28, 28), 61_706, 15_738, 4, id="lenet_5"),
    pytest.param(lambda: conv(6, CIFAR, 10), CIFAR, 2_262_602, 567_082, 8, id="conv_6"),
    pytest.param(lambda: resnet(8, 1, CIFAR, 10), CIFAR, 78_042, 19_954, 6, id="resnet_8"),
    pytest.param(lambda: resnet(20, 1, CIFAR, 10), CIFAR, 272_474, 68_786, 12, id="resnet_20"),
    pytest.param(lambda: vgg(16, CIFAR, 10), CIFAR, 14_724_042, 3_684_842, 13, id="vgg_16", marks=pytest.mark.slow),
    pytest.param(vision("mobilenet_v2"), CIFAR, 2_236_682, 587_178, 25, id="mobilenet_v2"),
    # by hand: 12 convolutions of 3x3 and two of 2x2, all of which halve both sides but the first and the last
    pytest.param(UNet, (1, 16, 16), 117_107, 29_499, 12, id="unet"),
    pytest.param(lambda: resnet(56, 1, CIFAR, 10), CIFAR, 855_770, 215_282, 30, id="resnet_56", marks=pytest.mark.slow),
    pytest.param(vision("densenet121"), (3, 64, 64), 6_964_106, 1_766_858, 120, id="densenet", marks=pytest.mark.slow),
    # 12 blocks, each with 6 of 12 heads, 4 x 768 x 384 weights less, and half of 3,072 units
    pytest.param(
        vision("vit_b_16", image_size=32), CIFAR, 85_658_890, 43_159_306, 24, id="vit_b_16", marks=pytest.mark.slow
    ),
    pytest.param(vision("resnet18"), (3, 64, 64), 11_181_642, 2_801_450, 12, id="resnet18", marks=pytest.mark.slow),
    pytest.param(
        vision("efficientnet_b0"), (3, 64, 64), 4_020_358, 1_066_856, 40, id="efficientnet", marks=pytest.mark.slow
    ),
    pytest.param(
        vision("convnext_tiny"), (3, 64, 64), 27_827_818, 14_875_306, 18, id="convnext", marks=pytest.mark.slow
    ),
    pytest.param(vision("swin_t"), (3, 64, 64), 27_527_044, 18_892_036, 12, id="swin_t", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "shape", "before", "after", "groups"), NETWORKS)
def test_half_of_the_channels(
    make: Callable[[], nn.Module], shape: Sequence[int], before: int, after: int, groups: int
) -> None:
    torch.manual_seed(0)
    net, inputs = drawn(make()), torch.randn(3, *shape)
    run = forward(inputs)
    coupling = coupled(net, forward(inputs[:1]))
    kept, dense = halves(net, coupling), masks_of(net)
    small = without(net, coupling, kept, dense, run)  # compares in float64, in training mode too
    assert (len(coupling.groups), parameters(net), parameters(small)) == (groups, before, after)

    by = masks(coupling, kept, dense)
    assert alive(coupling, by) == kept
    apply_(dict(net.named_parameters()), by)
    with torch.no_grad():
        expected, found = net.eval()(inputs), small.eval()(inputs)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))

    again = shrunk(make(), json.loads(json.dumps(structure(coupling, kept))))
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), found)
