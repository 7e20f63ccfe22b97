"""ResNets for small images: CIFAR ResNets (He et al. 2016) and wide ResNets (Zagoruyko & Komodakis 2016).

Shortcuts between stages are 1x1 convolutions, *option B* of He et al., as in OpenLTH. Theirs on CIFAR pad with zeros
(option A). For 10 classes ResNet-20 has 269,722 parameters with A and 272,474 with B, the 272K that some papers give;
BatchNorm's running means and variances make it 274,042, which may be the 274K of others. Frankle & Carbin 2019 count
the 270,896 weights of B (their "ResNet-18", 271K) and prune neither its 2,560 of shortcuts nor its 640 of the output.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from lottery.models.images import image
from lottery.models.initialisations import Initialisation, kaiming_normal_


def resnet(
    depth: int, width: float, shape: Sequence[int], classes: int, init: Initialisation = kaiming_normal_
) -> nn.Module:
    """CIFAR ResNet of 6n + 2 layers: three stages of n blocks with 16, 32, 64 times `width` channels."""
    name, count = f"ResNet-{depth}", _blocks(depth, 2, "8, 14, 20, 32, 44, 56, 110")
    channels, widths = image(shape, name)[0], _widths(width)
    layers = [
        ("conv", _conv3x3(channels, widths[0])),
        ("bn", nn.BatchNorm2d(widths[0])),
        ("relu", nn.ReLU()),
        *_stages(_Block, widths[0], widths, count),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(widths[-1], classes)),
    ]
    return init(nn.Sequential(OrderedDict(layers)))


def wide_resnet(
    depth: int, width: float, shape: Sequence[int], classes: int, init: Initialisation = kaiming_normal_
) -> nn.Module:
    """WRN-depth-width of 6n + 4 layers: three stages of n pre-activation blocks, 16, 32, 64 times `width` wide."""
    name, count = f"WRN-{depth}-{width:g}", _blocks(depth, 4, "10, 16, 22, 28, 40")
    channels, widths = image(shape, name)[0], _widths(width)
    layers = [
        ("conv", _conv3x3(channels, 16)),
        *_stages(_PreActivation, 16, widths, count),
        ("bn", nn.BatchNorm2d(widths[-1])),
        ("relu", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(widths[-1], classes)),
    ]
    return init(nn.Sequential(OrderedDict(layers)))


class _Block(nn.Module):
    """Two convolutions and a shortcut around them, with a ReLU after their sum (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class _PreActivation(nn.Module):
    """BatchNorm and ReLU before each convolution; a convolutional shortcut begins after the first of these."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv3x3(outputs, outputs)
        self.relu = nn.ReLU()
        self.shortcut = _conv1x1(inputs, outputs, stride) if stride > 1 or inputs != outputs else None

    def forward(self, images: Tensor) -> Tensor:
        active = self.relu(self.bn1(images))
        inner = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return inner + (self.shortcut(active) if self.shortcut else images)


def _stages(
    block: Callable[[int, int, int], nn.Module], inputs: int, widths: Sequence[int], count: int
) -> Iterator[tuple[str, nn.Module]]:
    """Stages of `count` blocks; all but the first halve the image."""
    for index, outputs in enumerate(widths):
        first = block(inputs, outputs, 1 if index == 0 else 2)
        yield f"stage{index + 1}", nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))
        inputs = outputs


def _blocks(depth: int, outside: int, examples: str) -> int:
    """Number of blocks in a stage, of two layers each; `outside` layers lie outside the stages."""
    count, rest = divmod(depth - outside, 6)
    if rest or count < 1:
        raise ValueError(f"depth={depth}: must be 6n + {outside}, such as {examples}")
    return count


def _widths(width: float) -> list[int]:
    """Channels of the stages, rounded to whole numbers."""
    if round(16 * width) < 1:
        raise ValueError(f"width={width}: leaves no channel of 16; must be at least 0.05")
    return [round(channels * width) for channels in (16, 32, 64)]


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)
